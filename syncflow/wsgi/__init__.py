"""syncflow inside a WSGI server (PEP 3333): one session for all its threads, and handlers that pass requests on.

>>> from syncflow import Session, wsgi
>>> def application(environ, start_response):
...     return wsgi.proxy(environ, start_response, "http://backend:8080")
>>> application = wsgi.ClientMiddleware(application, Session())

Knows environ, `start_response` and what servers put beside them. What is sent, and how, is the session's.
"""

from __future__ import annotations

from .closing import closing
from .events import sse_proxy
from .middleware import ClientMiddleware, client
from .passing import ProxiedResponse
from .proxying import Transform, proxy

__all__ = ["ClientMiddleware", "ProxiedResponse", "Transform", "client", "closing", "proxy", "sse_proxy"]

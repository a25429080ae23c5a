"""The clients under test, one file each. A client's library is imported only in that client's own process."""

from __future__ import annotations

import importlib

from .protocol import Client

CLIENTS = {
    "syncflow": "syncflow:Syncflow",
    "socket": "bare:BareSocket",
    "sendfile": "bare:BareSendfile",
    "curl": "curl:Curl",
    "pycurl": "pycurl:PyCurl",
    "http.client": "http_client:HttpClient",
    "urllib3": "urllib3:Urllib3",
    "requests": "requests:Requests",
    "httpx": "httpx:Httpx",
    "aiohttp": "aiohttp:Aiohttp",
}
"""By the name in the tables: the module here, and its class."""


def load(name: str) -> type[Client]:
    """The class of that client. ImportError when its library is missing."""
    module, _, attribute = CLIENTS[name].partition(":")
    found: type[Client] = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    return found

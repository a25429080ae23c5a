"""syncflow: a synchronous HTTP client with bounded memory, deadlines and backpressure.

>>> import syncflow
>>> with syncflow.Session() as session, open("disk.img", "rb") as file:  # doctest: +SKIP
...     session.put("https://example.org/disk.img", data=file)
<Response [201]>
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .api import delete, get, head, options, patch, post, put, request
from .breakers import CircuitBreaker
from .engine.timings import Timings
from .exceptions import (
    BodyLengthError,
    BodyTooLarge,
    Cancelled,
    ChunkedEncodingError,
    CircuitOpen,
    ConnectionError,
    ConnectTimeout,
    ContentDecodingError,
    ContentTypeError,
    DecompressionError,
    EarlyResponse,
    EventTimeout,
    EventTooLarge,
    FileModeWarning,
    HTTPError,
    InvalidHeader,
    InvalidJSONError,
    InvalidSchema,
    InvalidURL,
    JSONDecodeError,
    MissingSchema,
    PoolTimeout,
    ProtocolError,
    ProxyError,
    ReadTimeout,
    RequestException,
    RetryError,
    SessionClosed,
    SSLError,
    StreamConsumedError,
    Timeout,
    TooManyRedirects,
    TotalTimeout,
    UnrewindableBodyError,
    URLRequired,
    WriteTimeout,
)
from .models import PreparedRequest, Request, Response
from .retries import Retry, Try
from .sessions import Session, session
from .settings import PoolLimits, Timeouts, Watermarks
from .status_codes import codes
from .structures import CaseInsensitiveDict
from .uploads import Upload
from .version import __version__

if TYPE_CHECKING:
    from . import sse as sse
    from . import streams as streams
    from . import wsgi as wsgi
    from .engine.stats import PoolStats

__all__ = [
    "BodyLengthError",
    "BodyTooLarge",
    "Cancelled",
    "CaseInsensitiveDict",
    "ChunkedEncodingError",
    "CircuitBreaker",
    "CircuitOpen",
    "ConnectTimeout",
    "ConnectionError",
    "ContentDecodingError",
    "ContentTypeError",
    "DecompressionError",
    "EarlyResponse",
    "EventTimeout",
    "EventTooLarge",
    "FileModeWarning",
    "HTTPError",
    "InvalidHeader",
    "InvalidJSONError",
    "InvalidSchema",
    "InvalidURL",
    "JSONDecodeError",
    "MissingSchema",
    "PoolLimits",
    "PoolStats",
    "PoolTimeout",
    "PreparedRequest",
    "ProtocolError",
    "ProxyError",
    "ReadTimeout",
    "Request",
    "RequestException",
    "Response",
    "Retry",
    "RetryError",
    "SSLError",
    "Session",
    "SessionClosed",
    "StreamConsumedError",
    "Timeout",
    "Timeouts",
    "Timings",
    "TooManyRedirects",
    "TotalTimeout",
    "Try",
    "URLRequired",
    "UnrewindableBodyError",
    "Upload",
    "Watermarks",
    "WriteTimeout",
    "__version__",
    "codes",
    "delete",
    "get",
    "head",
    "options",
    "patch",
    "post",
    "put",
    "request",
    "session",
]


if not TYPE_CHECKING:  # or any name would pass for one of this package's

    def __getattr__(name: str) -> object:
        """Late: few programs need it."""
        if name in ("sse", "streams", "wsgi"):
            return importlib.import_module(f"{__name__}.{name}")
        if name == "PoolStats":
            return importlib.import_module(f"{__name__}.engine.stats").PoolStats
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Everything that syncflow raises, by the names and the inheritance of `requests.exceptions`, and its own.

Knows how an error tells where it happened: the request, the phase, the bytes that had moved. Knows nothing of
how errors come about; each is made next to the system call or the rule that failed.
"""

from __future__ import annotations

from json import JSONDecodeError as _JSONDecodeError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models import PreparedRequest, Response
    from .retries import Try

__all__ = [
    "BodyLengthError",
    "BodyTooLarge",
    "Cancelled",
    "ChunkedEncodingError",
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
    "InvalidProxyURL",
    "InvalidSchema",
    "InvalidURL",
    "JSONDecodeError",
    "MissingSchema",
    "PoolTimeout",
    "ProtocolError",
    "ProxyError",
    "ReadTimeout",
    "RequestException",
    "RequestsDependencyWarning",
    "RequestsWarning",
    "RetryError",
    "SSLError",
    "SessionClosed",
    "StreamConsumedError",
    "Timeout",
    "TooManyRedirects",
    "TotalTimeout",
    "URLRequired",
    "UnrewindableBodyError",
    "WriteTimeout",
]


class RequestException(IOError):
    """Whatever goes wrong with a request is one of these.

    Attributes:
        request: the `PreparedRequest`, once there is one.
        response: the `Response`, where there is one.
        phase: what was being done: "pool", "dns", "connect", "proxy", "tls", "send", "head" (waiting for the answer) or
            "body" (reading it); "retry" (waiting to send it again); of a stream of events also "reconnect" (waiting to
            connect again); None if it failed before anything was begun.
        bytes_sent: bytes of the request's body that were handed to the system.
        bytes_received: bytes of the response's body that had arrived.
        earlier_tries: what came of those before the one that failed with this: see `Try`.
    """

    request: PreparedRequest | None
    response: Response | None
    earlier_tries: tuple[Try, ...] = ()

    def __init__(
        self,
        *args: object,
        request: PreparedRequest | None = None,
        response: Response | None = None,
        phase: str | None = None,
        bytes_sent: int = 0,
        bytes_received: int = 0,
    ) -> None:
        super().__init__(*args)
        self.request = request if request is not None else getattr(response, "request", None)
        self.response = response
        self.phase = phase
        # What is found in an answer, as its status, is found when so much had moved for it.
        exchange = getattr(response, "_exchange", None)
        self.bytes_sent: int = bytes_sent or getattr(exchange, "bytes_sent", 0)
        self.bytes_received: int = bytes_received or getattr(exchange, "bytes_received", 0)


class InvalidJSONError(RequestException):
    """What was to be sent, or was received, is not JSON."""


class JSONDecodeError(InvalidJSONError, _JSONDecodeError):
    """The response's text is not JSON; `msg`, `doc` and `pos` as in `json.JSONDecodeError`."""

    def __init__(self, msg: str, doc: str, pos: int, **where: Any) -> None:
        _JSONDecodeError.__init__(self, msg, doc, pos)
        InvalidJSONError.__init__(self, *self.args, **where)

    def __reduce__(self) -> tuple[Any, ...]:
        where = {"phase": self.phase, "bytes_sent": self.bytes_sent, "bytes_received": self.bytes_received}
        return (type(self), (self.msg, self.doc, self.pos), where)


class HTTPError(RequestException):
    """`Response.raise_for_status()` found a status of 400 or above."""


class ConnectionError(RequestException):
    """No connection could be made, or the one in use was lost."""


class ProxyError(ConnectionError):
    """The proxy could not be reached or refused."""


class SSLError(ConnectionError):
    """The TLS handshake failed, or the server's certificate is not trusted for this host."""


class ProtocolError(ConnectionError):
    """The server's bytes are not HTTP, or could be read in two ways (RFC 9112)."""


class CircuitOpen(ConnectionError):
    """The origin failed too often lately; nothing was sent.

    Attributes:
        retry_after: seconds until a request is let through to try it; 0 while one is doing that.
    """

    retry_after = 0.0


class Timeout(RequestException):
    """A limit of `Timeouts` ran out; each limit has its own subclass."""


class ConnectTimeout(ConnectionError, Timeout):
    """`Timeouts.connect`: DNS, connecting and the TLS handshake took longer. Nothing was sent: safe to retry."""


class ReadTimeout(Timeout):
    """`Timeouts.read`: the server sent nothing for so long."""


class WriteTimeout(Timeout):
    """`Timeouts.write`: the server took nothing of the request for so long."""


class PoolTimeout(Timeout):
    """`Timeouts.pool`: no connection became free. Nothing was sent."""


class TotalTimeout(Timeout):
    """`Timeouts.total`: the whole request, from the pool to the last byte of the answer, took longer."""


class EventTimeout(Timeout):
    """`event_timeout`: no event came for so long, whatever else the server may have sent."""


class URLRequired(RequestException):
    """A URL is needed to make a request."""


class TooManyRedirects(RequestException):
    """More redirects than `Session.max_redirects`."""


class MissingSchema(RequestException, ValueError):
    """The URL has no scheme (http:// or https://)."""


class InvalidSchema(RequestException, ValueError):
    """The URL's scheme is not one that this session can send to."""


class InvalidURL(RequestException, ValueError):
    """The URL cannot be understood, or could be understood in two ways."""


class InvalidHeader(RequestException, ValueError):
    """A header's name or value may not be sent (RFC 9110, section 5)."""


class InvalidProxyURL(InvalidURL):
    """The proxy's URL cannot be understood."""


class ChunkedEncodingError(RequestException):
    """The connection ended before the response's body did, whichever its framing; the name is `requests`'."""


class ContentDecodingError(RequestException):
    """The response's content coding could not be decoded."""


class DecompressionError(ContentDecodingError):
    """Corrupt or truncated compressed data."""


class ContentTypeError(RequestException):
    """The response is not what was asked for, as its Content-Type says: a web page in place of an event stream."""


class EventTooLarge(RequestException, ValueError):
    """One event of a stream is larger than `max_event_size`."""


class BodyTooLarge(RequestException, ValueError):
    """The response's body is larger than `max_body`: as it came, or decoded. The connection is closed."""


class StreamConsumedError(RequestException, TypeError):
    """The body of this response was read before."""


class RetryError(RequestException):
    """It was sent again as often as `Retry` allows, and the answer is still one not to be content with; see
    `response`."""


class UnrewindableBodyError(RequestException):
    """The request's body was to be sent again, but cannot be rewound."""


class Cancelled(RequestException):
    """Another thread closed the response or aborted the upload."""


class SessionClosed(RequestException):
    """The session was closed, before the call or during it."""


class EarlyResponse(RequestException):
    """The server answered before the body was complete; `response` has its answer."""


class BodyLengthError(RequestException, ValueError):
    """The body turned out shorter or longer than its declared Content-Length."""


class RequestsWarning(Warning):
    """Base of the warnings."""


class FileModeWarning(RequestsWarning, DeprecationWarning):
    """A file was opened in text mode, so its length in bytes is not known."""


class RequestsDependencyWarning(RequestsWarning):
    """An optional dependency does not fit."""

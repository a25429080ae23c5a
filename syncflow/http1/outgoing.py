"""Frames the body of a request: what goes before and after each piece, and what ends it (RFC 9112 6 and 7).

Knows sizes and trailers, never the data: that goes from the caller to the socket untouched, also by
`sendfile`. Whoever sends asks `frame(size)` for each piece and `finish()` once at the end.
"""

from collections.abc import Iterable

from .errors import BodyTooLong, BodyTooShort, InvalidRequest, InvalidState
from .serializer import field_lines

# RFC 9110 6.5.1: nothing about framing, routing, authentication, request control, or how to read the content.
_NOT_IN_TRAILERS = frozenset[str]().union(
    ("transfer-encoding", "content-length", "connection", "keep-alive", "proxy-connection", "upgrade", "te"),
    ("trailer", "host", "cache-control", "expect", "max-forwards", "pragma", "range"),
    (
        "authorization",
        "proxy-authorization",
        "www-authenticate",
        "proxy-authenticate",
        "cookie",
        "set-cookie",
    ),
    ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"),
    ("content-encoding", "content-type", "content-range"),
)


class LengthFraming:
    """A body of a known length, announced by Content-Length.

    >>> framing = LengthFraming(5)
    >>> framing.frame(5), framing.remaining, framing.finish()
    ((b'', b''), 0, b'')
    """

    __slots__ = ("length", "sent")

    def __init__(self, length: int) -> None:
        if length < 0:
            raise ValueError("a length is not negative")
        self.length = length
        self.sent = 0  # bytes framed so far

    @property
    def remaining(self) -> int:
        """Bytes that must still come before finish()."""
        return self.length - self.sent

    def frame(self, size: int) -> tuple[bytes, bytes]:
        """What goes before and after such a piece: nothing. Raises BodyTooLong, having counted nothing."""
        _check_size(size)
        offered = self.sent + size
        if offered > self.length:
            message = f"{offered} bytes of body where {self.length} were announced"
            raise BodyTooLong(message, self.length, offered)
        self.sent = offered
        return b"", b""

    def finish(self, trailers: Iterable[tuple[str, str]] = ()) -> bytes:
        """What ends the body: nothing. Raises BodyTooShort."""
        _refuse_trailers(trailers)
        if self.sent < self.length:
            message = f"{self.sent} bytes of body where {self.length} were announced"
            raise BodyTooShort(message, self.length, self.sent)
        return b""


class ChunkedFraming:
    """A body of unknown length, in chunks.

    >>> framing = ChunkedFraming()
    >>> framing.frame(26), framing.finish()
    ((b'1a\\r\\n', b'\\r\\n'), b'0\\r\\n\\r\\n')
    """

    __slots__ = ("finished", "sent")

    length = None
    remaining = None

    def __init__(self) -> None:
        self.sent = 0  # bytes of body data framed so far
        self.finished = False

    def frame(self, size: int) -> tuple[bytes, bytes]:
        """What goes before and after such a piece: nothing if it is empty, for size 0 is the last chunk's."""
        _check_size(size)
        if self.finished:
            raise InvalidState("frame() after finish()")
        if not size:
            return b"", b""
        self.sent += size
        return b"%x\r\n" % size, b"\r\n"

    def finish(self, trailers: Iterable[tuple[str, str]] = ()) -> bytes:
        """The last chunk and the trailer section. Raises InvalidRequest for a trailer that is not allowed."""
        if self.finished:
            raise InvalidState("finish() after finish()")
        pairs = [(name, value) for name, value in trailers]
        lines = field_lines(pairs)
        for name, _ in pairs:
            if not may_be_trailer(name):
                raise InvalidRequest(f"field {name} is not allowed in trailers (RFC 9110 6.5.1)")
        self.finished = True
        return f"0\r\n{lines}\r\n".encode("latin-1")


def may_be_trailer(name: str) -> bool:
    """Whether a field of that name may stand behind a body (RFC 9110, section 6.5.1)."""
    return name.lower() not in _NOT_IN_TRAILERS


class NoBody:
    """A request without a body."""

    __slots__ = ()

    length = 0
    sent = 0
    remaining = 0

    def frame(self, size: int) -> tuple[bytes, bytes]:
        """Nothing around nothing. Raises BodyTooLong for a piece that is not empty."""
        _check_size(size)
        if size:
            raise BodyTooLong(f"{size} bytes of body where none was announced", 0, size)
        return b"", b""

    def finish(self, trailers: Iterable[tuple[str, str]] = ()) -> bytes:
        """What ends no body: nothing."""
        _refuse_trailers(trailers)
        return b""


BodyFraming = LengthFraming | ChunkedFraming | NoBody


def _check_size(size: int) -> None:
    if size < 0:
        raise ValueError("a size is not negative")


def _refuse_trailers(trailers: Iterable[tuple[str, str]]) -> None:
    for name, _ in trailers:
        raise InvalidRequest(f"field {name} cannot be a trailer: only chunked has any (RFC 9112 7.1.2)")

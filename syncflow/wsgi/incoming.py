"""The body of a server's request as the body of a client's: read from `wsgi.input` piece by piece, as it is sent on.

Knows how long a body is by its environ, how servers hand it out, and that one which breaks off must never look whole.
Everything here is done by the thread that handles the request.
"""

from __future__ import annotations

import errno
import fcntl
import sys
import termios
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..exceptions import UnrewindableBodyError
from ..http1 import may_be_trailer
from .departures import client_descriptor
from .forwarding import without_hop_by_hop

if TYPE_CHECKING:
    from ..bodies import BodyWriter

__all__ = ["LengthRequired", "RequestBody", "UnknownCoding", "gone", "incoming_body"]

# The most that is asked for at once, in bytes.
PIECE = 65536

# Servers mostly wait until they have as many bytes as were asked for. So, unless the system is known to have more, no
# more than these are: as many may lie there while the client makes a pause. gunicorn waits for 1,024 in any case.
LITTLE = 1024


# What comes may be so many times as long as what is in it: a chunk of one byte takes six; a record of TLS that holds
# twenty bytes, some forty.
MOST_FRAMING = 8
MOST_TLS = 2


class LengthRequired(Exception):
    """The server does not say where the body ends (RFC 9110, section 15.5.12)."""


class UnknownCoding(Exception):
    """The body has a transfer coding that nobody undoes here (RFC 9112, section 6.1)."""


def incoming_body(environ: Mapping[str, Any]) -> RequestBody | None:
    """The body of the request; None if it has none.

    Raises:
        LengthRequired: it is chunked, by a server that does not undo that.
        UnknownCoding: it has another coding than that.
        ValueError: its Content-Length is none.
    """
    coding = environ.get("HTTP_TRANSFER_ENCODING", "").strip().lower()
    if coding:  # then a length does not count (RFC 9112, section 6.3)
        if coding != "chunked":
            raise UnknownCoding
        if not environ.get("wsgi.input_terminated"):
            raise LengthRequired
        return RequestBody(environ["wsgi.input"], None, client_descriptor(environ))
    announced = environ.get("CONTENT_LENGTH") or "0"
    if not (announced.isascii() and announced.isdecimal()):  # `int` takes "+1" and "1_0" as well
        raise ValueError(f"a Content-Length of {announced!r}")
    length = int(announced)
    return RequestBody(environ["wsgi.input"], length, client_descriptor(environ)) if length else None


class RequestBody:
    """A `Body` that is read once, as it is sent.

    Args:
        file: `wsgi.input`.
        length: of the body in bytes; None if the file ends where the body does.
        descriptor: of the socket behind it, if that is known.
    """

    def __init__(self, file: Any, length: int | None, descriptor: int | None = None) -> None:
        self.length = length
        self._file = file
        self._descriptor = descriptor
        self._is_begun = False

    @property
    def can_rewind(self) -> bool:
        """As long as nothing was read: for a connection that was lost before."""
        return not self._is_begun

    def rewind(self) -> None:
        """Raises UnrewindableBodyError."""
        if self._is_begun:
            raise UnrewindableBodyError("the body cannot be sent again: it has come from a client, and is not kept")

    def send(self, writer: BodyWriter) -> bool:
        """Pass it all on; False if the upstream has stopped the sending. Raises as iterating."""
        return all(map(writer.write, self))

    def __iter__(self) -> Iterator[bytes]:
        """The pieces as they come, once.

        Raises:
            ConnectionResetError: the client has left before its body was complete. The request must not be completed.
            What the server's file raises.
        """
        self._is_begun = True
        read = getattr(self._file, "read1", None)
        left = self.length
        while left is None or left > 0:
            most = PIECE if left is None else min(PIECE, left)
            piece = self._file.read(min(most, self._at_hand())) if read is None else read(most)
            if not piece:
                break
            if left is not None:
                left -= len(piece)
            yield piece
        if left:
            raise gone(f"{left} bytes before the end of its request")

    def _at_hand(self) -> int:
        """Bytes that can be asked for without waiting for more than these, or little enough to be waited for. Not all
        that the system has is of the body, and the server may have some as well."""
        if self._descriptor is None:
            return LITTLE
        pending = int.from_bytes(fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
        return max(LITTLE, pending // (MOST_FRAMING if self.length is None else MOST_TLS))

    @property
    def trailers(self) -> list[tuple[str, str]]:
        """Those behind the last chunk that may go on (RFC 9110, section 6.5.1), where the server tells of them: cheroot
        and gunicorn do, each in its way. Once the body was sent."""
        if self.length is not None:
            return []
        read_lines = getattr(self._file, "read_trailer_lines", None)  # cheroot
        if read_lines is not None:
            lines = (line.decode("latin-1").partition(":") for line in read_lines())
            found = [(name.strip(), value.strip()) for name, _, value in lines if name.strip()]
        else:
            request = getattr(getattr(self._file, "reader", None), "req", None)  # gunicorn
            found = [(name.title(), value) for name, value in getattr(request, "trailers", ())]
        return [pair for pair in without_hop_by_hop(found) if may_be_trailer(pair[0])]


def gone(when: str) -> ConnectionResetError:
    """The client has left: servers make no noise about this one."""
    return ConnectionResetError(errno.ECONNRESET, f"the client has left, {when}")

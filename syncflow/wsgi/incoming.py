"""The body of a server's request as the body of a client's: read from `wsgi.input` piece by piece, as it is sent on.

Knows how long a body is by its environ, how servers hand it out, and that one which breaks off must never look whole.
Everything here is done by the thread that handles the request.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import termios
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..exceptions import UnrewindableBodyError
from ..http1 import may_be_trailer
from .departures import client_descriptor
from .forwarding import without_hop_by_hop

if TYPE_CHECKING:
    from ..bodies import BodyWriter

__all__ = ["LengthRequired", "RequestBody", "UnknownCoding", "drop_body", "gone", "incoming_body"]

# The most that is asked for at once, in bytes. With more, an upload costs more than it gains: cheroot, whose reader
# copies each piece several times, holds 370 KB for one of 65,536, 220 KB for one of 32,768.
PIECE = 32768

# Servers mostly wait until they have as many bytes as were asked for. So, unless the system is known to have more, no
# more than these are: as many may lie there while the client makes a pause. gunicorn waits for 1,024 in any case.
LITTLE = 1024


# What comes may be so many times as long as what is in it: a chunk of one byte takes six; a record of TLS that holds
# twenty bytes, some forty.
MOST_FRAMING = 8
MOST_TLS = 2


# Seconds: a thread of the server is busy meanwhile. nginx waits for 30, and needs no thread for it.
LINGER = 5.0


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


def drop_body(environ: Mapping[str, Any]) -> None:
    """The request was answered without a look at its body. Raises as `RequestBody.drop_rest`."""
    try:
        body = incoming_body(environ)
    except (LengthRequired, UnknownCoding, ValueError):
        return  # nobody knows where it ends: neither does the server, which has refused it or closes
    if body is not None:
        body.drop_rest()


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
        self._left = length
        self._has_ended = False  # whole, broken off, or not to be read any more

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
        while piece := self._read(PIECE):
            yield piece
        if self._left:
            raise gone(f"{self._left} bytes before the end of its request")

    def _read(self, most: int) -> bytes:
        """Some bytes, of those at hand if the file waits for as many as it is asked for; none at the end."""
        if not self._has_rest():
            return b""
        if self._left is not None:
            most = min(most, self._left)
        read = getattr(self._file, "read1", None)
        try:
            piece: bytes = (read or self._file.read)(most if read else min(most, self._at_hand()))
        except BaseException:
            self._has_ended = True
            raise
        self._has_ended = not piece
        if self._left is not None:
            self._left -= len(piece)
        return piece

    def _has_rest(self) -> bool:
        return not self._has_ended and self._left != 0

    def drop_rest(self) -> None:
        """The client has its answer, and still sends: a server that closed now would reset the connection, which may
        take the answer away before it was read (RFC 9112, section 9.6). So read on, no longer than `LINGER`; where the
        server shows its socket. Nothing tells whether more is to come, or was read ahead by the server, but reading.

        Raises:
            ConnectionResetError: the end of the body was not found. Where the next request begins nobody knows, so the
                server is not to look for one: cheroot would, in the rest of a chunked body (CWE-444).
        """
        if self._descriptor is None or not self._has_rest():
            return
        try:
            with Cut(self._descriptor, LINGER) as cut:
                while not cut.was_made and self._read(PIECE):
                    pass
        except Exception as error:  # what comes is no body; or there are no descriptors left, or threads
            raise gone("or sends what is no body, behind its answer") from error
        if cut.was_made or self._has_rest():
            raise gone("or did not end its request in time, behind its answer")

    def _at_hand(self) -> int:
        """Bytes that can be asked for without waiting for more than these, or little enough to be waited for. Not all
        that the system has is of the body, and the server may have some as well."""
        if self._descriptor is None:
            return LITTLE
        return max(LITTLE, self._pending() // (MOST_FRAMING if self.length is None else MOST_TLS))

    def _pending(self) -> int:
        """Bytes that the system has."""
        assert self._descriptor is not None
        return int.from_bytes(fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)

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


class Cut:
    """Ends the reading from a socket after so many seconds, wherever it waits. Servers mostly read until they have as
    much as they want to have, and some for as long as that takes: gunicorn always wants 1,024 bytes; cheroot, a chunk.

    A thread for each: there is no other way into the server's read, and few requests are answered before they end.
    """

    def __init__(self, descriptor: int, seconds: float) -> None:
        self.was_made = False
        # One of its own: the server's would be closed with it. Whether they block they have in common, and Python
        # changes that where the program has set a default timeout.
        blocks = os.get_blocking(descriptor)
        self._socket = socket.socket(fileno=os.dup(descriptor))
        os.set_blocking(descriptor, blocks)
        self._timer = threading.Timer(seconds, self._make)
        self._timer.daemon = True
        try:
            self._timer.start()
        except BaseException:
            self._socket.close()
            raise

    def _make(self) -> None:
        """The timer's thread. The read comes to an end as at the end of the connection."""
        self.was_made = True
        with contextlib.suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_RD)

    def __enter__(self) -> Cut:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Afterwards it was made, or never will be."""
        self._timer.cancel()
        self._timer.join()
        self._socket.close()


def gone(when: str) -> ConnectionResetError:
    """The client has left: servers make no noise about this one."""
    return ConnectionResetError(errno.ECONNRESET, f"the client has left, {when}")

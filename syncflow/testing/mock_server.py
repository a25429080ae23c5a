"""The other end of mocked connections: a thread for each reads requests and sends what was booked for them.

Knows connections without a listener, and one booking for each request. Knows nothing of how requests are matched.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncflow.testing.application import send_response
from syncflow.testing.server import Connection, Server
from syncflow.testing.wire import CONTINUE, Reader, Request, pairs, parse_request, read_body

if TYPE_CHECKING:
    from syncflow.testing.mock import MockAnswer, MockedRequest

__all__ = ["Booking", "MockServer"]


@dataclass(frozen=True)
class Booking:
    """What the next request on a connection gets.

    Attributes:
        request: where its body is recorded.
        answer: what is sent.
        fail: called on the connection's own thread with an error in place of an answer; whether that was expected.
    """

    request: MockedRequest
    answer: MockAnswer
    fail: Callable[[Exception], bool]


# Of one connection: the requesting thread appends one before it sends anything, the server's takes it.
Bookings = deque[Booking]


class MockServer(Server):
    """Serves the sockets that it is given."""

    def __init__(self) -> None:
        super().__init__()
        # Guarded by `_changed`.
        self._bookings: dict[socket.socket, Bookings] = {}

    def _start_listening(self) -> None:
        """It does not."""

    def take(self, sock: socket.socket, bookings: Bookings) -> None:
        """Any thread, before `stop`. Serve `sock` until the client closes it."""
        with self._changed:
            self._bookings[sock] = bookings
        self._start(sock)

    def serve(self, connection: Connection) -> None:
        with self._changed:
            bookings = self._bookings.pop(connection.sock)
        reader = Reader(connection.sock.recv_into)
        while reader.more():
            request = parse_request(reader.through(b"\r\n\r\n"))
            booking = bookings.popleft()
            if not booking.answer.early:
                _read_body(connection, reader, request, booking.request)
            if not self._answer(connection, request, booking):
                return
            if booking.answer.early or not request.keeps_alive:
                return  # closing takes nothing away of what was sent over a socket pair

    def _answer(self, connection: Connection, request: Request, booking: Booking) -> bool:
        """Whether it could. What a function raises that answers is told to the test and to the program: left to the
        server, a ConnectionError would be the end of a connection, and no fault."""
        try:
            response = booking.answer.response(booking.request)
        except Exception as error:
            self._tell(booking, error)
            return False
        if booking.answer.early and request.keeps_alive:
            response.headers = [*pairs(response.headers), ("Connection", "close")]
        try:
            send_response(connection.sock.sendall, request, response)
        except ConnectionError:
            raise  # the client has left
        except Exception as error:  # out of an iterator
            self._tell(booking, error)
            return False
        return True

    def _tell(self, booking: Booking, error: Exception) -> None:
        if not booking.fail(error):
            self._record(error)


def _read_body(connection: Connection, reader: Reader, request: Request, record: MockedRequest) -> None:
    """All of it; of one that breaks off, what has come."""
    if request.expects_continue:
        connection.sock.sendall(CONTINUE)
    pieces: list[bytes] = []
    try:
        pieces += map(bytes, read_body(reader, request))
    finally:
        record.body = b"".join(pieces)
        record.trailers.update(request.trailers)

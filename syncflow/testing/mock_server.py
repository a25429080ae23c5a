"""The other end of mocked connections: a thread for each reads requests and sends what was booked for them.

Knows connections without a listener, and one booking for each request. Knows nothing of how requests are matched.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncflow.testing.application import Response, send_response
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
            try:
                if booking.answer.early:
                    _refuse_body(connection, request, booking)
                    return
                _read_body(connection, reader, request, booking.request)
                send_response(connection.sock.sendall, request, booking.answer.response(booking.request))
            except Exception as error:
                if not booking.fail(error):
                    raise
                return
            if not request.keeps_alive:
                return


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


def _refuse_body(connection: Connection, request: Request, booking: Booking) -> None:
    """Answer at once. The connection is closed then: on a socket pair that takes nothing of an answer away."""
    made = booking.answer.response(booking.request)
    fields = [*pairs(made.headers), *([("Connection", "close")] if request.keeps_alive else [])]
    send_response(connection.sock.sendall, request, Response(made.status, fields, made.body, made.reason))

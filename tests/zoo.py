"""A server of many manners, good and bad: which one, the request's path says (`/kind/size`).

Knows the request's token (`X-Token`): it comes back in the answer and its body, so that a caller sees at once whether
an answer is another's. Keeps count of the tokens of requests that came whole. Knows nothing of syncflow's client.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

from syncflow.testing.server import Connection, Server
from syncflow.testing.wire import (
    CONTINUE,
    Reader,
    Request,
    chunk,
    last_chunk,
    parse_request,
    read_body,
    reply,
    reply_head,
)

__all__ = ["EVENTS", "Zoo", "body_of"]

# Events of a stream that ends.
EVENTS = 5
PIECE = 4096
# Seconds between two pieces of what comes slowly.
PAUSE = 0.002


def body_of(token: str, size: int) -> bytes:
    """What is answered: the token, again and again."""
    return (f"{token}.".encode() * (size // (len(token) + 1) + 1))[:size]


class Zoo(Server):
    """Each method that begins with `on_` serves one kind of request, and returns whether the connection goes on."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Guarded by `_changed`.
        self._whole: Counter[tuple[str, str]] = Counter()

    @property
    def whole(self) -> Counter[tuple[str, str]]:
        """By method and token, how often a request has come, to its last byte."""
        with self._changed:
            return self._whole.copy()

    def serve(self, connection: Connection) -> None:
        reader = Reader(connection.sock.recv_into)
        while reader.more():
            request = parse_request(reader.through(b"\r\n\r\n"))
            kind, size = request.path.strip("/").split("/")
            if not getattr(self, f"on_{kind}")(connection, reader, request, int(size)):
                return

    def _read(self, connection: Connection, reader: Reader, request: Request) -> str:
        """All of the request; its token."""
        if request.expects_continue:
            connection.sock.sendall(CONTINUE)
        request.body = b"".join(map(bytes, read_body(reader, request)))
        token = request.headers["x-token"]
        with self._changed:
            self._whole[request.method, token] += 1
        return token

    def _pause(self, seconds: float = PAUSE) -> None:
        self.stopping.wait(seconds)

    # ---------------------------------------------------------------- good manners

    def on_ok(self, connection: Connection, reader: Reader, request: Request, size: int) -> bool:
        token = self._read(connection, reader, request)
        body = b"" if request.method == "HEAD" else body_of(token, size)
        head = reply_head(200, {"X-Token": token, "X-Length": str(len(request.body)), "Content-Length": str(size)})
        connection.sock.sendall(head + body)
        return True

    def on_last(self, connection: Connection, reader: Reader, request: Request, size: int) -> bool:
        """The last answer on this connection."""
        token = self._read(connection, reader, request)
        connection.sock.sendall(reply(200, body_of(token, size), {"X-Token": token, "Connection": "close"}))
        return False

    def on_late(self, connection: Connection, reader: Reader, request: Request, size: int) -> bool:
        """After so many ms."""
        token = self._read(connection, reader, request)
        self._pause(size / 1000)
        connection.sock.sendall(reply(200, body_of(token, 100), {"X-Token": token}))
        return True

    def on_chunks(self, connection: Connection, reader: Reader, request: Request, size: int) -> bool:
        """Slowly."""
        token = self._read(connection, reader, request)
        connection.sock.sendall(reply_head(200, {"X-Token": token, "Transfer-Encoding": "chunked"}))
        body = body_of(token, size)
        for start in range(0, size, PIECE):
            connection.sock.sendall(chunk(body[start : start + PIECE]))
            self._pause()
        connection.sock.sendall(last_chunk())
        return True

    def on_events(self, connection: Connection, reader: Reader, request: Request, size: int) -> bool:
        """A stream of so many; the client comes again for the next."""
        token = self._read(connection, reader, request)
        head = {"X-Token": token, "Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        connection.sock.sendall(reply_head(200, head))
        for number in islice(range(10_000), size):
            connection.sock.sendall(chunk(f"retry: 1\nid: {number}\ndata: {token}\n\n".encode()))
            self._pause()
        connection.sock.sendall(last_chunk())
        return True

    # ---------------------------------------------------------------- bad manners

    def on_never(self, connection: Connection, reader: Reader, request: Request, size: int) -> bool:
        """No answer, until the client has left."""
        self._read(connection, reader, request)
        reader.more()
        return False

    def on_closes(self, connection: Connection, reader: Reader, request: Request, size: int) -> bool:
        self._read(connection, reader, request)
        return False

    def on_resets(self, connection: Connection, reader: Reader, request: Request, size: int) -> bool:
        self._read(connection, reader, request)
        connection.reset()
        return False

    def on_half(self, connection: Connection, reader: Reader, request: Request, size: int) -> bool:
        """Half of the answer, and the end."""
        token = self._read(connection, reader, request)
        connection.sock.sendall(reply(200, body_of(token, size), {"X-Token": token})[: -size // 2])
        return False

    def on_halfreset(self, connection: Connection, reader: Reader, request: Request, size: int) -> bool:
        self.on_half(connection, reader, request, size)
        connection.reset()
        return False

    def on_early(self, connection: Connection, reader: Reader, request: Request, size: int) -> bool:
        """The answer comes before the body, which is read as nginx reads it: to drop it."""
        connection.sock.sendall(reply(413, b"", {"X-Token": request.headers["x-token"], "Connection": "close"}))
        connection.half_close()
        while reader.more():
            reader.some()
        return False

    def on_deaf(self, connection: Connection, reader: Reader, request: Request, size: int) -> bool:
        """Takes nothing for so many ms, and leaves."""
        self._pause(size / 1000)
        connection.reset()
        return False

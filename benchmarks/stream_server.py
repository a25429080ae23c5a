"""Keeps event streams open: a server for `open_streams`, one thread on a selector, and a process of its own.

    python -m benchmarks.stream_server    # prints its port as a line of JSON, and ends when its stdin does

- `/stream`: an event stream, chunked, that begins with the event `0` and stays open;
- `/say`: sends the next event, `1`, then `2` and so on, to all streams. Answers its number, how many streams there are,
  when it `began`, by `time.monotonic()`, which is one clock for all processes, and the `seconds` until all was sent;
- `/beat/SECONDS`: from now on a comment to each stream, once in so many seconds, evenly spread; 0 ends that;
- `/count`: how many streams are open;
- `/end`: ends them.

Answers but for the streams are JSON, each the last one on its connection.
"""

from __future__ import annotations

import contextlib
import json
import resource
import selectors
import socket
import sys
import threading
import time
from collections import deque
from typing import Any, NoReturn

from .server import HEAD_END, HOST
from .worker import say

BACKLOG = 4096
COMMENT = b":\n\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(number: int) -> bytes:
    """What a client looks for."""
    return b"data: %d of a price, as long as one is: 0123456789\n\n" % number


class Server:
    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0), backlog=BACKLOG)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._streams: dict[int, socket.socket] = {}
        self._said = 0
        # Whose turn it is to get a comment, and when the next one is due.
        self._order: deque[int] = deque()
        self._period = 0.0
        self._due = 0.0

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def run(self) -> NoReturn:
        while True:
            for key, _ in self._selector.select(self._until_due()):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._receive(key.fileobj)  # type: ignore[arg-type]  # nothing else is registered
            self._beat()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(connection, selectors.EVENT_READ)

    def _receive(self, connection: socket.socket) -> None:
        """A request comes in one piece here, and is the only one of its connection."""
        try:
            request = connection.recv(65536)
        except OSError:
            request = b""
        if not request:
            self._drop(connection)
            return
        assert request.endswith(HEAD_END), request
        self._answer(connection, request.split(b" ", 2)[1].decode("ascii"))

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        if self._streams.pop(connection.fileno(), None) is not None:
            self._order.remove(connection.fileno())
        connection.close()

    def _answer(self, connection: socket.socket, path: str) -> None:
        _, name, *rest = path.split("/")
        if name == "stream":
            self._send(connection, STREAM_HEAD + chunk(event(0)))
            self._streams[connection.fileno()] = connection
            self._order.append(connection.fileno())
            return
        if name == "say":
            reply = self._say()
        elif name == "beat":
            self._period, self._due = float(rest[0]), time.monotonic()
            reply = {}
        else:
            if name == "end":
                self._end()
            reply = {"streams": len(self._streams)}
        body = json.dumps(reply).encode()
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._send(connection, head + body)

    def _say(self) -> dict[str, Any]:
        self._said += 1
        data = chunk(event(self._said))
        began = time.monotonic()
        for connection in self._streams.values():
            self._send(connection, data)
        seconds = time.monotonic() - began
        return {"number": self._said, "began": began, "seconds": seconds, "streams": len(self._streams)}

    def _end(self) -> None:
        for ended in list(self._streams.values()):
            self._send(ended, LAST_CHUNK)
            self._drop(ended)

    def _send(self, connection: socket.socket, data: bytes) -> None:
        """The kernel takes it at once: that nobody reads so many small events is not what is measured. Whoever has left
        is dropped when the selector says so."""
        with contextlib.suppress(ConnectionError):
            assert connection.send(data) == len(data)

    def _until_due(self) -> float | None:
        return max(0.0, self._due - time.monotonic()) if self._period and self._order else None

    def _beat(self) -> None:
        """The comments that are due by now: usually one."""
        comment = chunk(COMMENT)
        while self._period and self._order and self._due <= time.monotonic():
            self._due += self._period / len(self._order)
            self._send(self._streams[self._order[0]], comment)
            self._order.rotate(-1)


def allow_descriptors() -> None:
    """As many as this process may have: each stream is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    allow_descriptors()
    server = Server()
    threading.Thread(target=server.run, daemon=True).start()
    say(sys.stdout, port=server.port)
    sys.stdin.read()


if __name__ == "__main__":
    main()

"""Bytes between two sockets, both ways at once, as a proxy carries them; and what all proxies for tests share.

Knows plain and TLS sockets, and how an end on one side is told to the other. Knows no protocol. One thread serves both
directions, because an object of OpenSSL's is one thread's.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from collections.abc import Mapping

from syncflow.testing.server import Server

PIECE = 65536
CONNECT_TIMEOUT = 10.0


class Direction:
    """From one socket to another, both non-blocking; holds one piece at most."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.waiting = memoryview(b"")
        self.ended = False

    def move(self) -> bool:
        """Receive and send, as far as it goes; whether anything moved."""
        moved = False
        try:
            if not self.waiting and not self.ended:
                self.waiting = memoryview(self.source.recv(PIECE))
                self.ended = not self.waiting
                moved = True
                if self.ended and not isinstance(self.sink, ssl.SSLSocket):
                    with contextlib.suppress(OSError):  # it has left as well
                        self.sink.shutdown(socket.SHUT_WR)
            while self.waiting:
                self.waiting = self.waiting[self.sink.send(self.waiting) :]
                moved = True
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass  # nothing there, or no room: the selector says when there is
        return moved


def relay(client: socket.socket, server: socket.socket, stopping: threading.Event) -> None:
    """Carry bytes until both sides have ended, or one of them where TLS cannot end one side only, or `stopping` is set
    and `client` was shut down."""
    client.setblocking(False)
    server.setblocking(False)
    up, down = Direction(client, server), Direction(server, client)
    any_ends = isinstance(client, ssl.SSLSocket)
    while True:
        if up.move() | down.move():
            continue
        ended = [direction.ended and not direction.waiting for direction in (up, down)]
        if all(ended) or (any(ended) and any_ends) or (up.ended and stopping.is_set()):
            return
        _wait(up, down)


def _wait(*directions: Direction) -> None:
    wanted: dict[socket.socket, int] = {}
    for direction in directions:
        if direction.waiting:
            wanted[direction.sink] = wanted.get(direction.sink, 0) | selectors.EVENT_WRITE
        elif not direction.ended:
            wanted[direction.source] = wanted.get(direction.source, 0) | selectors.EVENT_READ
    with selectors.DefaultSelector() as selector:
        for sock, events in wanted.items():
            selector.register(sock, events)
        selector.select()


class ProxyServer(Server):
    """A server that connects its clients to others.

    Args:
        hosts: names that it resolves, to addresses; others are looked up as usual.
        ssl_context: of a proxy that is spoken to over TLS.
    """

    def __init__(self, *, hosts: Mapping[str, str] | None = None, ssl_context: ssl.SSLContext | None = None) -> None:
        super().__init__(ssl_context=ssl_context)
        self._hosts = dict(hosts or {})
        # Guarded by `_changed`.
        self._targets: list[tuple[str, int]] = []

    @property
    def targets(self) -> list[tuple[str, int]]:
        """Every host and port that was asked for."""
        with self._changed:
            return list(self._targets)

    def note(self, host: str, port: int) -> None:
        """Remember what was asked for, before it is judged."""
        with self._changed:
            self._targets.append((host, port))
            self._changed.notify_all()

    def connect(self, host: str, port: int) -> socket.socket:
        """Raises OSError."""
        upstream = socket.create_connection((self._hosts.get(host, host), port), timeout=CONNECT_TIMEOUT)
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return upstream

"""Bytes between two sockets, both ways at once, as a proxy carries them; and what all proxies for tests share.

Knows plain and TLS sockets, and how an end on one side is told to the other. Knows no protocol, and of a bad link only
that a direction may want to wait. One thread serves both directions, because an object of OpenSSL's is one thread's.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import Protocol

from syncflow.testing.server import Server

PIECE = 65536
CONNECT_TIMEOUT = 10.0


class Carrier(Protocol):
    """One direction of a connection, as `carry` drives it: on one thread, and nothing in it blocks."""

    @property
    def is_over(self) -> bool:
        """Whether its source has ended, and its sink has all of it."""

    def move(self) -> bool:
        """Receive and send, as far as it goes; whether anything moved."""

    def wanted(self) -> Iterator[tuple[socket.socket, int]]:
        """What it waits for, as a selector takes it."""

    def pause(self) -> float | None:
        """Seconds after which it can go on by itself; None if only a socket can make it go on."""


class Direction:
    """A `Carrier` from one socket to another, both non-blocking, plain or TLS; holds one piece at most."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.waiting = memoryview(b"")
        self.ended = False

    @property
    def is_over(self) -> bool:
        return self.ended and not self.waiting

    def move(self) -> bool:
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

    def wanted(self) -> Iterator[tuple[socket.socket, int]]:
        if self.waiting:
            yield self.sink, selectors.EVENT_WRITE
        elif not self.ended:
            yield self.source, selectors.EVENT_READ

    def pause(self) -> float | None:
        return None


def relay(client: socket.socket, server: socket.socket, stopping: threading.Event) -> None:
    """Carry bytes until both sides have ended, or one of them where TLS cannot end one side only, or `stopping` is set
    and `client` was shut down."""
    client.setblocking(False)
    server.setblocking(False)
    up, down = Direction(client, server), Direction(server, client)
    carry(up, down, stopping, any_ends=isinstance(client, ssl.SSLSocket))


def carry(
    up: Carrier, down: Carrier, stopping: threading.Event, *, any_ends: bool = False, woken: socket.socket | None = None
) -> None:
    """Have both directions move until both are over, or one of them if `any_ends`, or `stopping` is set.

    Args:
        woken: readable when another thread wants both to look again, and when it has set `stopping`; else the shutdown
            of a source is what ends the wait.
    """
    while not stopping.is_set():
        if up.move() | down.move():
            continue
        over = [up.is_over, down.is_over]
        if all(over) or (any_ends and any(over)):
            return
        pauses = [pause for pause in (up.pause(), down.pause()) if pause is not None]
        wait_for([*up.wanted(), *down.wanted()], min(pauses, default=None), woken)


def wait_for(
    wanted: list[tuple[socket.socket, int]], pause: float | None = None, woken: socket.socket | None = None
) -> None:
    """Wait until one of the sockets is ready, for `pause` seconds at most, or until `woken` has bytes, which are
    received."""
    events: dict[socket.socket, int] = {}
    for sock, event in wanted:
        events[sock] = events.get(sock, 0) | event
    with selectors.DefaultSelector() as selector:
        for sock, event in events.items():
            selector.register(sock, event)
        if woken is not None:
            selector.register(woken, selectors.EVENT_READ)
        if any(key.fileobj is woken for key, _ in selector.select(pause)):
            assert woken is not None
            woken.recv(PIECE)


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

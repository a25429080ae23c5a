"""A server whose every connection follows a script: expect these bytes, send those, stall, half-close, reset.

Knows bytes, waiting and the ways to end a connection. Knows no policy: what a server would do is for the
script to say. Scripts and the test meet by events (`step`, `release`, `wait_for`), never by sleeping, and
every wait is bounded.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from syncflow.testing.server import WAIT_TIMEOUT, Connection, Server, Stopped
from syncflow.testing.wire import Reader, Request, parse_request, read_body

Script = Callable[["Peer"], object]

# How long a wait for an event that belongs to the test goes before it looks whether the server has stopped.
GLANCE = 0.02


class Peer:
    """The server's end of one connection, in the hands of a script.

    A wait that takes longer than the server's `timeout`, or that the client ends by closing, is an
    AssertionError: it comes out of the server's `with` block. A client that is gone while the script sends
    just ends the script. So does the end of the server, whatever the script waits for (a test that wants its
    scripts finished calls `wait_until_idle` first).
    """

    def __init__(self, connection: Connection, server: ScriptedServer) -> None:
        self._connection = connection
        self._server = server
        self._reader = Reader(self._receive_into)
        self._deadline = math.inf

    @property
    def index(self) -> int:
        """0 for the first connection that the server accepted."""
        return self._connection.index

    @property
    def closed(self) -> bool:
        """Whether the script has closed or reset the connection."""
        return self._connection.closed

    def expect(self, wanted: bytes) -> None:
        """Reads exactly these bytes; fails at the first that differs."""
        with self._waiting_for(f"{wanted!r}"):
            while (got := self._reader.buffered[: len(wanted)]) != wanted:
                if not wanted.startswith(got):
                    at = next(i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b)
                    raise AssertionError(f"{self}: differs at byte {at}: expected {wanted!r}, got {got!r}")
                self._reader.fetch()
            self._reader.exactly(len(wanted))

    def read_exactly(self, count: int) -> bytes:
        with self._waiting_for(f"{count} bytes"):
            while self._reader.available < count:
                self._reader.fetch()
            return self._reader.exactly(count)

    def read_head(self) -> bytes:
        """A request's head, blank line included."""
        with self._waiting_for("a request's head"):
            return self._reader.through(b"\r\n\r\n")

    def read_request(self, *, body: bool = True) -> Request:
        """A request; without `body` the body is left to `read_body`."""
        request = parse_request(self.read_head())
        if body:
            self.read_body(request)
        return request

    def read_body(self, request: Request) -> bytes:
        """The body of a request whose head was read; also kept in `request.body`."""
        with self._waiting_for("a request's body"):
            request.body = b"".join(map(bytes, read_body(self._reader, request)))
        return request.body

    def requests(self) -> Iterator[Request]:
        """Requests until the client closes between two of them, or the server ends."""
        while True:
            self._deadline = math.inf
            if not self._reader.more():
                return
            yield self.read_request()

    def read_until_close(self) -> bytes:
        """What comes until the client has closed, or half-closed, its side."""
        with self._waiting_for("the client to close"):
            parts = []
            while self._reader.more():
                parts.append(bytes(self._reader.some()))
            return b"".join(parts)

    def wait_closed(self, timeout: float | None = None) -> Literal["fin", "reset"]:
        """Waits until the client has closed its side, drops what comes, and tells in which way it closed."""
        with self._waiting_for("the client to close", timeout):
            try:
                with contextlib.suppress(ssl.SSLError):
                    while self._reader.more():
                        self._reader.some()
                # TLS is over with an alert, or with our own close_notify. What still comes must be read all the same,
                # or the kernel makes a reset of our closing, which destroys what we had sent.
                self._drop_ciphertext()
            except ConnectionResetError:
                return "reset"
            if self._server.stopping.is_set():
                raise Stopped  # it was the server that shut the socket down
            return "fin"

    def _drop_ciphertext(self) -> None:
        sock = self._connection.sock
        while isinstance(sock, ssl.SSLSocket) and socket.socket.recv(sock, 65536):
            left = self._deadline - time.monotonic()
            sock.settimeout(None if left == math.inf else max(0.001, left))

    def send(self, data: bytes) -> None:
        """Sends all; fails if the client does not read for so long."""
        sock = self._connection.sock
        sock.settimeout(self._server.timeout)
        try:
            sock.sendall(data)
        except TimeoutError:
            raise AssertionError(f"{self}: the client did not read {len(data)} bytes in time") from None

    def send_slowly(self, pieces: Iterable[bytes], *, period: float | None = None) -> None:
        """Sends a piece whenever the test calls `server.step()`, or one every `period` seconds."""
        for piece in pieces:
            if period is None:
                self.wait_step()
            else:
                self.pause(period)
            self.send(piece)

    def wait_step(self) -> None:
        """Takes one of the steps that the test allows with `server.step()`."""
        self._server.take_step(str(self))

    def wait_for(self, event: threading.Event) -> None:
        """Waits for an event of the test."""
        deadline = time.monotonic() + self._server.timeout
        while not event.wait(GLANCE):
            if self._server.stopping.is_set():
                raise Stopped
            assert time.monotonic() < deadline, f"{self}: the event was not set within {self._server.timeout:g} s"

    def pause(self, seconds: float) -> None:
        """Does nothing for so long, or until the server ends."""
        if self._server.stopping.wait(seconds):
            raise Stopped

    def stall(self) -> None:
        """Does nothing until `server.release()`: neither reads nor sends nor closes."""
        self._server.wait_released()

    def half_close(self, *, close_notify: bool = True) -> None:
        """Sends a FIN, and over TLS the closing alert before it unless told otherwise; reading goes on."""
        self._connection.half_close(close_notify=close_notify)

    def close(self, *, close_notify: bool = True) -> None:
        """Closes both directions; the kernel makes it a reset if the client sent what was not read."""
        self._connection.close(close_notify=close_notify)

    def reset(self) -> None:
        """Closes with a RST."""
        self._connection.reset()

    def __str__(self) -> str:
        return f"connection {self.index}"

    def _receive_into(self, view: memoryview) -> int:
        sock = self._connection.sock
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(None if left == math.inf else left)
        return sock.recv_into(view)

    @contextmanager
    def _waiting_for(self, what: str, timeout: float | None = None) -> Iterator[None]:
        """Bounds the reads in the block, and says what was waited for when they fail."""
        seconds = self._server.timeout if timeout is None else timeout
        self._deadline = time.monotonic() + seconds
        try:
            yield
        except TimeoutError:
            raise AssertionError(f"{self}: no sign of {what} within {seconds:g} s{self._so_far()}") from None
        except (EOFError, ConnectionError, ssl.SSLError) as error:
            if self._server.stopping.is_set():
                raise Stopped from None
            raise AssertionError(f"{self}: waited for {what}, but {error}{self._so_far()}") from None

    def _so_far(self) -> str:
        waiting = self._reader.buffered
        return f"; so far came {len(waiting)} bytes: {waiting[:200]!r}" if waiting else ""


class ScriptedServer(Server):
    """The i-th connection runs the i-th script; the last script goes on for all that follow.

    With `repeat=False` a connection without a script of its own is an AssertionError. When a script returns,
    its connection is closed.
    """

    def __init__(
        self,
        *scripts: Script,
        repeat: bool = True,
        timeout: float = WAIT_TIMEOUT,
        ssl_context: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
        bind_to: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        super().__init__(ssl_context=ssl_context, receive_buffer=receive_buffer, bind_to=bind_to)
        self.timeout = timeout
        self._scripts = scripts
        self._repeat = repeat
        # Guarded by `_changed`.
        self._steps = 0
        self._released = False

    def step(self, count: int = 1) -> None:
        """Lets the scripts take `count` more steps (`Peer.send_slowly`, `Peer.wait_step`)."""
        with self._changed:
            self._steps += count
            self._changed.notify_all()

    def release(self) -> None:
        """Ends every stall, also those to come."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

    def take_step(self, who: str) -> None:
        """A script's side of `step`."""
        with self._changed:
            ready = self._changed.wait_for(lambda: self._steps or self.stopping.is_set(), self.timeout)
            if self.stopping.is_set():
                raise Stopped
            assert ready, f"{who}: the test did not call step() within {self.timeout:g} s"
            self._steps -= 1

    def wait_released(self) -> None:
        """A script's side of `release`."""
        with self._changed:
            self._changed.wait_for(lambda: self._released or self.stopping.is_set())
            if not self._released:
                raise Stopped

    def serve(self, connection: Connection) -> None:
        scripts = self._scripts
        if connection.index >= len(scripts) and not (self._repeat and scripts):
            raise AssertionError(f"connection {connection.index} was not expected: there are {len(scripts)} scripts")
        scripts[min(connection.index, len(scripts) - 1)](Peer(connection, self))

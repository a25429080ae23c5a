"""A bad network between a client and a server: a TCP proxy that is slow, stalls, cuts, resets or falls silent.

Knows connections: which link each goes over, how it is ended, and that new ones are refused. Knows nothing of how a
link carries bytes, and no protocol: TLS passes through it like everything else.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from syncflow.testing.link import PERFECT, Broken, Ending, Link, LinkDirection
from syncflow.testing.relay import CONNECT_TIMEOUT, PIECE, carry, wait_for
from syncflow.testing.server import STOP_TIMEOUT, Connection, Server, Stopped

RESET = struct.pack("ii", 1, 0)

# One for all connections, or one for each.
Links = Link | Sequence[Link]


class FaultProxy(Server):
    """Carries every connection to `target` and back, over a link that can be made bad, now and while it runs.

    A context manager; everything is closed at its end. Connect to its `address`, `port` or `url` in place of the
    target's. Where nothing else is asked for it passes everything on: bytes, the end of one direction, a reset. Any
    thread may call it.

    What is random is decided by `seed`, the number of the connection, the direction and the position of the bytes: the
    same bytes stall at the same places, whatever the timing.

    Args:
        target: host and port.
        up: the way to the target: of all connections; or a sequence with one for each, in their order, and those that
            come after them have a perfect one.
        down: the way back, likewise.
        seed: of what is random.
        receive_buffer: bytes, about, that the system receives ahead for the proxy on either side. None is what it
            likes, which may be megabytes that a slow link seems to swallow at once.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        up: Links = PERFECT,
        down: Links = PERFECT,
        seed: int = 0,
        receive_buffer: int | None = None,
    ) -> None:
        super().__init__(receive_buffer=receive_buffer)
        # Never changes.
        self._target = target
        self._seed = seed
        # Held while listening begins or ends, which is waited for; comes before `_changed`. Guards these two.
        self._listening = threading.Lock()
        self._refuses = False
        self._reservation: socket.socket | None = None
        # Guarded by `_changed`.
        self._links: tuple[Links, Links] = (up, down)
        self._first = 0  # the connection with which sequences in it begin
        self._lines: dict[int, _Line] = {}  # by the number of the connection
        self._passed = [0, 0]  # in connections that are over
        self._struck = 0

    # ---------------------------------------------------------------- what it has done

    @property
    def bytes_up(self) -> int:
        """Bytes that were passed on to the target, over all connections."""
        with self._changed:
            return self._passed[0] + sum(line.up.passed for line in self._lines.values())

    @property
    def bytes_down(self) -> int:
        """Bytes that were passed back."""
        with self._changed:
            return self._passed[1] + sum(line.down.passed for line in self._lines.values())

    @property
    def struck(self) -> int:
        """How often the fault of a `Link` has come, or `cut` or `reset` has ended a connection. What is counted has
        happened; the other way round it may take a moment."""
        with self._changed:
            return self._struck

    # ---------------------------------------------------------------- what it does from now on

    def change(self, *, up: Links = PERFECT, down: Links = PERFECT) -> None:
        """Be this link from now on, also for connections that are open: a fault whose bytes have passed comes at once.
        A sequence is for new connections, and those that are open go on over a perfect link."""
        with self._changed:
            self._links, self._first = (up, down), self._accepted
            for line in self._lines.values():
                line.up.link, line.down.link = self._links_of(line.index)
                line.wake()

    def heal(self) -> None:
        """Be perfect from now on, and accept again. A direction that was silent passes on what was held back."""
        self.change()
        with self._listening:
            if self._refuses and not self.stopping.is_set():
                self._refuses = False
                self._start_listening()

    def refuse(self) -> None:
        """Refuse new connections until `heal`. Those that are open go on."""
        with self._listening:
            self._refuses = self._acceptor is not None
            self._stop_listening(time.monotonic() + STOP_TIMEOUT)

    def cut(self) -> None:
        """End every connection there is, with a FIN to both sides."""
        self._end_all("cut")

    def reset(self) -> None:
        """Reset every connection there is, on both sides."""
        self._end_all("reset")

    def _end_all(self, how: Ending) -> None:
        with self._changed:
            for line in self._lines.values():
                line.up.ordered = how
                line.wake()

    # ---------------------------------------------------------------- its own beginning and end

    def bind(self, listener: socket.socket) -> None:
        """Always to the same port: a socket that never listens keeps it while connections are refused."""
        if self._reservation is None:
            self._reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._reservation.bind(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self._reservation.getsockname())

    def stop(self) -> None:
        """As `Server.stop`. Afterwards its port may be another's."""
        self.stopping.set()
        with self._changed:
            for line in self._lines.values():
                line.wake()
        with self._listening:
            try:
                super().stop()
            finally:
                if self._reservation is not None:
                    self._reservation.close()

    # ---------------------------------------------------------------- one connection, on its own thread

    def serve(self, connection: Connection) -> None:
        with self._changed:
            links = self._links_of(connection.index)
        for link in links:
            if link.fault in (("cut", 0), ("reset", 0)):
                if link.reset_after == 0:
                    connection.reset()
                    self._count_fault()
                else:
                    connection.half_close()
                    self._count_fault()
                    _drop_what_comes({connection.sock}, self.stopping)
                return
        try:
            target = self._connect()
        except OSError:
            connection.reset()  # it has been accepted, and can be refused no more
            return
        with target, _Line(self, connection, target) as line:
            try:
                self._begin(line)
                carry(line.up, line.down, self.stopping, woken=line.woken)
            except Broken as broken:
                left = line.end(broken.how)
                if broken.by_fault:
                    self._count_fault()
                _drop_what_comes(left, self.stopping, line.woken)
            finally:
                self._forget(line)

    def _connect(self) -> socket.socket:
        target = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if self._receive_buffer is not None:
                target.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            target.settimeout(CONNECT_TIMEOUT)
            target.connect(self._target)
            target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            target.close()
            raise
        return target

    def _begin(self, line: _Line) -> None:
        """From now on others can change it. Raises Stopped."""
        with self._changed:
            if self.stopping.is_set():
                raise Stopped
            line.up.link, line.down.link = self._links_of(line.index)
            self._lines[line.index] = line

    def _forget(self, line: _Line) -> None:
        with self._changed:
            if self._lines.pop(line.index, None) is not None:
                self._passed[0] += line.up.passed
                self._passed[1] += line.down.passed

    def _links_of(self, index: int) -> tuple[Link, Link]:
        """With `_changed` held."""
        up, down = self._links
        return self._link_of(up, index), self._link_of(down, index)

    def _link_of(self, links: Links, index: int) -> Link:
        if isinstance(links, Link):
            return links
        place = index - self._first
        return links[place] if 0 <= place < len(links) else PERFECT

    def _count_fault(self) -> None:
        with self._changed:
            self._struck += 1

    def direction(self, source: socket.socket, sink: socket.socket, name: str) -> LinkDirection:
        """One of the two of a connection; `name` tells it from all others."""
        return LinkDirection(source, sink, PERFECT, random.Random(f"{self._seed} {name}"), self._count_fault)


class _Line:
    """One connection through the proxy. Its own thread carries. Others, with the proxy's `_changed` held, change
    a direction, and then `wake` it."""

    def __init__(self, proxy: FaultProxy, connection: Connection, target: socket.socket) -> None:
        client = connection.sock
        for sock in (client, target):
            sock.setblocking(False)
        self.index = connection.index
        self.up = proxy.direction(client, target, f"{self.index} up")
        self.down = proxy.direction(target, client, f"{self.index} down")
        self.woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._connection = connection
        self._client, self._target = client, target

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full of others, that will wake it
            self._waker.send(b"!")

    def end(self, how: Ending) -> set[socket.socket]:
        """Its own thread. Both sides get a FIN or a RST; returns what is still open."""
        if how == "cut":
            for sock in (self._client, self._target):
                with contextlib.suppress(OSError):  # it has left
                    sock.shutdown(socket.SHUT_WR)
            return {self._client, self._target}
        self._target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._target.close()
        self._connection.reset()
        return set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.woken.close()
        self._waker.close()


def _drop_what_comes(left: set[socket.socket], stopping: threading.Event, woken: socket.socket | None = None) -> None:
    """Until these have ended, behind a FIN: closing would reset whoever goes on sending, and that is another fault.
    Woken by that, by `woken`, and by the shutdown of a client's socket."""
    for sock in left:
        sock.setblocking(False)
    while left and not stopping.is_set():
        for sock in list(left):
            if _has_ended(sock):
                left.remove(sock)
        if left:
            wait_for([(sock, selectors.EVENT_READ) for sock in left], woken=woken)


def _has_ended(sock: socket.socket) -> bool:
    """Receives, and drops what is there."""
    try:
        return not sock.recv(PIECE)
    except BlockingIOError:
        return False
    except OSError:
        return True

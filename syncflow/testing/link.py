"""One direction of a bad link: what is wrong with it, and how bytes are carried over it.

Knows bytes, their number and the clock. Knows nothing of connections as a whole: a fault that ends one is raised, as
`Broken`, for who carries both directions.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from syncflow.testing.relay import PIECE

# Bytes that one direction holds at most, because they are under way. Over it the link takes no more, so that its sender
# is pushed back; so a link with latency carries no more than this in each such time.
UNDER_WAY = 1 << 18

# Seconds of its bandwidth that a slow link takes ahead, as the queue of a router does.
QUEUE = 0.05

# Seconds: a limited bandwidth is kept to by so much of it at once.
TICK = 0.005

# What one packet carries on most networks: the longest fragment of a link that loses some.
FRAGMENT = 1460

Ending = Literal["cut", "reset"]


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a link, for each connection by itself. As it is without arguments it is perfect.

    Bytes are counted from the beginning of the connection, and a fault comes as soon as so many have been passed on:
    with 0 at once, before the target is connected to. A link has one fault at most.

    Args:
        latency: seconds that every piece is under way. What follows it does not wait for it.
        bandwidth: bytes a second; None is no limit. What the link cannot carry soon stays with its sender.
        loss: what a TCP connection sees of lost packets is bursts and pauses: the bytes come in fragments of random
            length, and this is the chance, from 0 to 1, that the link stalls between two of them.
        stall: the longest of these pauses, in seconds.
        cut_after: bytes after which the connection ends, in both directions, with a FIN each.
        reset_after: bytes after which it is reset, with a RST to both sides. What one of them had no room for yet is
            lost.
        silent_after: bytes after which nothing more is passed on in this direction, not even an end, and the connection
            stays: whoever writes into it fills the buffers of the system, and then waits. Whoever leaves it is not
            noticed either.
    """

    latency: float = 0.0
    bandwidth: float | None = None
    loss: float = 0.0
    stall: float = 0.02
    cut_after: int | None = None
    reset_after: int | None = None
    silent_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("latency", "stall"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is a number of seconds from 0, not {getattr(self, name)!r}")
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise ValueError(f"bandwidth is a number of bytes a second over 0 or None, not {self.bandwidth!r}")
        if not 0 <= self.loss <= 1:
            raise ValueError(f"loss is a chance from 0 to 1, not {self.loss!r}")
        faults = [after for after in (self.cut_after, self.reset_after, self.silent_after) if after is not None]
        if len(faults) > 1:
            raise ValueError("a link is cut, reset or silent, and only one of them")
        if faults and faults[0] < 0:
            raise ValueError(f"a fault comes after a number of bytes from 0, not {faults[0]!r}")

    @property
    def fault(self) -> tuple[Ending | Literal["silent"], int] | None:
        """What happens, and after how many bytes."""
        if self.cut_after is not None:
            return "cut", self.cut_after
        if self.reset_after is not None:
            return "reset", self.reset_after
        if self.silent_after is not None:
            return "silent", self.silent_after
        return None


PERFECT = Link()


class Broken(Exception):
    """The connection ends here, in both directions.

    Attributes:
        how: with a FIN or with a RST.
        by_fault: whether the link was told to; else one of the two sides has reset it.
    """

    def __init__(self, how: Ending, *, by_fault: bool) -> None:
        super().__init__(how)
        self.how = how
        self.by_fault = by_fault


class LinkDirection:
    """A `Carrier` that keeps to a `Link`, between plain sockets that do not block. One thread moves it; any may set
    `link` or `ordered`, and then sees to it that the other looks.

    Args:
        chance: decides what is random. It is asked at positions of the bytes, and not at moments.
        fell_silent: called when it does, by the thread that moves.

    Attributes:
        link: what it keeps to now.
        ordered: how its connection is to end now, whatever the link says; never taken back.
        passed: bytes that the sink's system has taken.
    """

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        link: Link,
        chance: random.Random,
        fell_silent: Callable[[], object],
    ) -> None:
        self.link = link
        self.ordered: Ending | None = None
        self.passed = 0
        # Never changes.
        self._source = source
        self._sink = sink
        self._chance = chance
        self._fell_silent = fell_silent
        # The moving thread's.
        self._current = link  # the link by which it last moved
        self._under_way: deque[tuple[float, memoryview]] = deque()  # each with the moment at which it arrives
        self._size = 0  # bytes of them
        self._source_end: tuple[float, Ending] | None = None  # likewise
        self._sink_ended = False
        self._free_at = 0.0  # the moment from which more may be sent
        self._fragment_end = 0  # a position
        self._is_silent = False

    @property
    def is_over(self) -> bool:
        return self._sink_ended

    def move(self) -> bool:
        """Raises Broken."""
        if self.link is not self._current:
            self._current, self._free_at, self._is_silent = self.link, 0.0, False
        self._strike()
        if self._is_silent:
            return False
        moved = self._receive() | self._send()
        self._strike()  # at once: nothing more may pass in the other direction either
        return moved

    def wanted(self) -> Iterator[tuple[socket.socket, int]]:
        if self._room() > 0:
            yield self._source, selectors.EVENT_READ
        if self._under_way and not self._is_silent and self._due() <= time.monotonic():
            yield self._sink, selectors.EVENT_WRITE

    def pause(self) -> float | None:
        if self._is_silent or self._sink_ended:
            return None
        now = time.monotonic()
        if self._under_way:
            left = self._due() - now
            return left if left > 0 else None  # if it is the sink that has no room
        return None if self._source_end is None else max(0.0, self._source_end[0] - now)

    def _strike(self) -> None:
        """Do what was ordered, or is due after the bytes that have passed."""
        if self.ordered is not None:
            raise Broken(self.ordered, by_fault=True)
        fault = self._current.fault
        if fault is None or self.passed < fault[1] or self._is_silent:
            return
        if fault[0] != "silent":
            raise Broken(fault[0], by_fault=True)
        self._is_silent = True
        self._fell_silent()

    def _room(self) -> int:
        """Bytes that may be received now: never one that the fault will not let pass, which stays with its sender."""
        if self._source_end is not None:
            return 0
        link, most = self._current, UNDER_WAY
        if link.bandwidth is not None:
            most = min(most, max(1, int(link.bandwidth * (link.latency + QUEUE))))
        room, fault = min(PIECE, most - self._size), link.fault
        return room if fault is None else min(room, fault[1] - self.passed - self._size)

    def _receive(self) -> bool:
        room = self._room()
        if room <= 0:
            return False
        arrives = time.monotonic() + self._current.latency
        try:
            piece = self._source.recv(room)
        except BlockingIOError:
            return False
        except OSError:
            self._source_end = arrives, "reset"
            return True
        if piece:
            self._under_way.append((arrives, memoryview(piece)))
            self._size += len(piece)
        else:
            self._source_end = arrives, "cut"
        return True

    def _due(self) -> float:
        """The moment at which the next bytes may be sent."""
        return max(self._under_way[0][0], self._free_at)

    def _send(self) -> bool:
        moved = False
        while self._under_way and self._due() <= time.monotonic():
            arrived, piece = self._under_way[0]
            size = self._sendable(len(piece))
            if not size:
                continue  # it stalls: not due any more
            try:
                sent = self._sink.send(piece[:size])
            except BlockingIOError:
                return moved
            except OSError:
                raise Broken("reset", by_fault=False) from None
            moved = True
            self._size -= sent
            self.passed += sent
            if sent == len(piece):
                self._under_way.popleft()
            else:
                self._under_way[0] = arrived, piece[sent:]
            if self._current.bandwidth is not None:
                # What a late wake-up has cost is made up for, within bounds.
                self._free_at = max(self._free_at, time.monotonic() - TICK) + sent / self._current.bandwidth
        return self._end_sink() or moved

    def _sendable(self, size: int) -> int:
        """How much of a piece that has arrived goes out in one call; 0 if a pause comes first."""
        link = self._current
        if link.bandwidth is not None:
            size = min(size, max(1, int(link.bandwidth * TICK)))
        if not link.loss:
            return size
        if self.passed >= self._fragment_end:
            is_first = self.passed == 0
            self._fragment_end = self.passed + self._chance.randint(1, FRAGMENT)
            stalls, pause = self._chance.random() < link.loss, self._chance.uniform(0, link.stall)
            if stalls and not is_first:
                self._free_at = max(self._free_at, time.monotonic() + pause)
                return 0
        return min(size, self._fragment_end - self.passed)

    def _end_sink(self) -> bool:
        """Pass the end of the source on, once everything before it has been."""
        if self._sink_ended or self._under_way or self._source_end is None:
            return False
        arrives, how = self._source_end
        if arrives > time.monotonic():
            return False
        if how == "reset":
            raise Broken("reset", by_fault=False)
        self._sink_ended = True
        with contextlib.suppress(OSError):  # it has left as well
            self._sink.shutdown(socket.SHUT_WR)
        return True

"""When a peer is called stuck: the limit, the deadline, and what the kernel's queue tells."""

from __future__ import annotations

import socket
import sys

import pytest

from syncflow import ReadTimeout, Timeouts, TotalTimeout, WriteTimeout
from syncflow.engine.deadline import Deadline
from syncflow.engine.kernel import unacknowledged
from syncflow.engine.stall import Stall
from syncflow.testing import eventually

from .rig import read_exactly, tcp_pair
from .test_deadline import Clock


class Queue:
    """The kernel's."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self) -> int:
        return self.size


def stall_with(clock: Clock, queue: Queue | None = None, total: float | None = None) -> Stall:
    return Stall(Deadline(Timeouts(total=total), clock), "host:1", queue)


def test_silence_for_the_whole_limit_is_a_stall() -> None:
    clock = Clock()
    stall = stall_with(clock)
    assert stall.time_left(10.0, 0.0) == 10.0
    clock.now += 9
    assert stall.time_left(10.0, 0.0) == 1.0
    clock.now += 1
    assert stall.time_left(10.0, 0.0) == 0.0
    error = stall.timeout(ReadTimeout, "read", "head", "the server sent nothing")
    assert isinstance(error, ReadTimeout)
    assert str(error).startswith("host:1: the server sent nothing for 10 s (Timeouts.read)")
    assert error.phase == "head"


def test_whatever_moves_begins_it_anew() -> None:
    clock = Clock()
    stall = stall_with(clock)
    clock.now += 9
    moved = clock.now
    clock.now += 5
    assert stall.time_left(10.0, moved) == 5.0
    assert stall.time_left(10.0, moved - 100) == 5.0, "an older movement changes nothing"


def test_a_movement_before_the_wait_does_not_shorten_it() -> None:
    assert stall_with(Clock()).time_left(10.0, 1.0) == 10.0


def test_no_limit() -> None:
    clock = Clock()
    stall = stall_with(clock)
    clock.now += 1e6
    assert stall.time_left(None, 0.0) is None
    assert stall_with(clock, total=3.0).time_left(None, 0.0) == 3.0


def test_the_total_ends_it_whatever_moves() -> None:
    clock = Clock()
    stall = stall_with(clock, Queue(1000), total=5.0)
    clock.now += 5
    assert stall.time_left(10.0, clock.now) == 0.0
    assert isinstance(stall.timeout(WriteTimeout, "write", "send", "nothing"), TotalTimeout)


def test_a_queue_that_shrinks_is_a_peer_that_takes() -> None:
    """To a slow reader the socket may become writable more seldom than the limit."""
    clock, queue = Clock(), Queue(1 << 20)
    stall = stall_with(clock, queue)
    for _ in range(100):
        left = stall.time_left(10.0, 0.0)
        assert left is not None
        assert 0.0 < left <= 2.5, "it looks again before the limit, or it cannot know when the queue last moved"
        clock.now += left
        queue.size -= 1000
    # Now it stands still.
    last = clock.now
    stall.time_left(10.0, 0.0)
    while (left := stall.time_left(10.0, 0.0)) != 0.0:
        assert left is not None
        clock.now += left
    assert clock.now == pytest.approx(last + 10.0)


def test_a_queue_that_has_run_empty_is_not_asked_again() -> None:
    clock, queue = Clock(), Queue(1000)
    stall = stall_with(clock, queue)
    clock.now += 5
    queue.size = 0
    assert stall.time_left(10.0, 0.0) is not None
    assert stall.time_left(10.0, 0.0) == 10.0
    clock.now += 10
    assert stall.time_left(10.0, 0.0) == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="SIOCOUTQ")
def test_the_kernel_tells_what_is_not_acknowledged() -> None:
    near, far = tcp_pair()
    with near, far:
        assert unacknowledged(near.fileno()) == 0
        near.setblocking(False)
        sent = 0
        while True:
            try:
                sent += near.send(bytes(1 << 16))
            except BlockingIOError:
                break
        waiting = unacknowledged(near.fileno())
        assert 0 < waiting <= sent
        read_exactly(far, sent)
        eventually(lambda: unacknowledged(near.fileno()) == 0)  # the peer may take its time to acknowledge


def test_a_descriptor_that_knows_no_queue_tells_nothing() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert unacknowledged(near.fileno()) == 0
    with open("/dev/null") as null:
        assert unacknowledged(null.fileno()) == 0

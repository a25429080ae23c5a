"""EventBuffer where threads meet: two things at the same moment, hundreds of times; a fork and Ctrl-C at any moment."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections import deque
from typing import Any

import pytest

from syncflow.sse.buffer import BufferFull, EventBuffer, Overflow
from syncflow.testing import eventually

from ..concurrency import PATIENCE, Call, at_once, forked
from .calls import Sink, blocked_enqueue, entries, figures, fill, is_blocked, sending

ROUNDS = 300
POLICIES: tuple[Overflow, ...] = ("drop_oldest", "drop_newest", "block", "raise")


def test_enqueue_against_flush(switching: None) -> None:
    """All arrive, once, in order; what comes while a flush ends is left for the next and not forgotten."""
    for _ in range(ROUNDS):
        received: list[int] = []
        buffer = EventBuffer()
        at_once(
            lambda: fill(buffer, received.append, range(20)),  # noqa: B023
            lambda: [buffer.flush() for _ in range(4)],  # type: ignore[func-returns-value]  # noqa: B023
            lambda: [buffer.flush() for _ in range(4)],  # type: ignore[func-returns-value]  # noqa: B023
        )
        buffer.flush()
        assert received == list(range(20))


def test_flushes_by_size_leave_nothing_behind(switching: None) -> None:
    """Whoever leaves it to the flush under way can rely on it."""
    for _ in range(ROUNDS):
        received: list[int] = []
        buffer = EventBuffer(flush_size=1)
        threads = [lambda: fill(buffer, received.append, range(10))] * 3  # noqa: B023
        at_once(*threads)
        assert buffer.size == 0
        assert sorted(received) == sorted([*range(10)] * 3)


def test_enqueue_against_reset(switching: None) -> None:
    for _ in range(ROUNDS):
        received: list[int] = []
        buffer = EventBuffer(5)
        at_once(
            lambda: fill(buffer, received.append, range(20)),  # noqa: B023
            buffer.flush,
            buffer.reset,
        )
        buffer.flush()
        assert received == sorted(set(received))
        enqueued, sent, dropped, size = figures(buffer)
        assert enqueued <= 20
        assert size == 0
        assert sent <= len(received)
        assert sent + dropped == enqueued


def test_blocked_enqueues_against_reset(switching: None) -> None:
    for _ in range(ROUNDS):
        buffer = EventBuffer(1, overflow="block")
        fill(buffer, print, "a")
        assert at_once(lambda: buffer.enqueue("b", print), lambda: buffer.reset()) == [True, None]  # noqa: B023
        assert buffer.size == 1


def test_enqueue_against_close(switching: None) -> None:
    """Each event was taken or refused, and what was taken is there."""
    for _ in range(ROUNDS):
        buffer = EventBuffer(2, overflow="block")
        taken: list[int] = []

        def enqueue() -> None:
            for event in range(9):
                try:
                    buffer.enqueue(event, print)  # noqa: B023
                except ValueError:
                    return
                taken.append(event)  # noqa: B023

        def take() -> list[int]:
            return list(itertools.chain.from_iterable(iter(lambda: buffer.take(2), [])))  # noqa: B023

        outcomes = at_once(enqueue, take, buffer.close)
        assert outcomes[1] == taken


def test_take_against_enqueue(switching: None) -> None:
    for _ in range(ROUNDS // 3):
        buffer = EventBuffer(3, overflow="block")

        def take() -> list[int]:
            return list(itertools.chain.from_iterable(iter(lambda: buffer.take(2), [])))  # noqa: B023

        calls = [Call(take), Call(take)]
        at_once(
            lambda: fill(buffer, print, range(20)),  # noqa: B023
            lambda: fill(buffer, print, range(20, 40)),  # noqa: B023
        )
        buffer.close()
        outcomes = [call.result() for call in calls]
        assert sorted(outcomes[0] + outcomes[1]) == list(range(40))
        for outcome in outcomes:  # each taker sees each producer's in order
            for half in (0, 20):
                of_one = [event for event in outcome if half <= event < half + 20]
                assert of_one == sorted(of_one)


def test_one_call_a_crossing_whoever_crosses(switching: None) -> None:
    told: list[int] = []
    buffer = EventBuffer(8, 0.5, on_backpressure=lambda metrics: told.append(metrics.size))
    for _ in range(ROUNDS // 3):
        at_once(*[lambda: buffer.enqueue("event", print)] * 8)
        assert told == [4]
        told.clear()
        assert len(buffer.take(8)) == 8


@pytest.mark.parametrize("overflow", POLICIES)
def test_the_figures_add_up_at_every_moment(overflow: Overflow, switching: None) -> None:
    """Eight threads; each knows what it was told, and the sum of that is what the buffer says."""
    buffer = EventBuffer(7, overflow=overflow)
    over = threading.Event()
    failures = itertools.cycle([False] * 5 + [True])

    def send(event: Any) -> None:
        if next(failures):
            raise OSError("sometimes")

    def produce() -> tuple[int, int, int]:
        given = dropped = 0
        for number in range(300):
            try:
                if number % 5:
                    dropped += not buffer.enqueue(number, send, timeout=0.001)
                    given += 1
                else:
                    batch = entries(range(3), send)
                    dropped += 3 - buffer.enqueue_entries(batch)
                    given += 3
            except BufferFull:
                if not number % 5:  # the first of a batch may have been taken
                    return_of.append(number)
        return given, dropped, 0

    return_of: deque[int] = deque()

    def flush() -> tuple[int, int, int]:
        while not over.is_set():
            try:
                buffer.flush()
            except OSError:
                continue
        return 0, 0, 0

    def take() -> tuple[int, int, int]:
        taken = 0
        while not over.is_set():
            taken += len(buffer.take(2, 0.001))
        return 0, 0, taken

    def watch() -> tuple[int, int, int]:
        last = buffer.metrics()
        while not over.is_set():
            metrics = buffer.metrics()
            assert metrics.enqueued == metrics.sent + metrics.dropped + metrics.size
            assert 0 <= metrics.size <= metrics.high_water <= 7
            assert metrics.enqueued >= last.enqueued
            assert metrics.sent >= last.sent
            assert metrics.dropped >= last.dropped
            last = metrics
        return 0, 0, 0

    others = [Call(function) for function in (flush, flush, take, watch)]
    producers = [Call(produce) for _ in range(4)]
    told = [call.result() for call in producers]
    over.set()
    told += [call.result() for call in others]
    enqueued, sent, dropped, size = figures(buffer)
    surely = sum(given for given, _, _ in told)
    assert surely <= enqueued <= surely + 2 * len(return_of)
    if overflow == "drop_newest":
        assert dropped == sum(lost for _, lost, _ in told)
    elif overflow != "drop_oldest":
        assert dropped == 0
    assert sent >= sum(taken for _, _, taken in told)
    assert sent + dropped + size == enqueued


# ------------------------------------------------------------------------------------------------------------ fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_child_inherits_no_lock_and_no_turn() -> None:
    """At the moment of the fork one thread flushes, one waits for its turn, one for room, and one holds the lock."""
    sink, buffer = Sink(), EventBuffer(2, overflow="block")
    fill(buffer, sink, "ab")
    first = sending(buffer, sink, None)
    second = Call(buffer.flush)
    eventually(is_blocked(buffer._turn))
    third = blocked_enqueue(buffer, sink, "c")
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with buffer._lock:
            held.set()
            assert let_go.wait(PATIENCE)

    holder = Call(hold)
    assert held.wait(PATIENCE)

    def child() -> Any:
        received: list[str] = []
        assert buffer._turn.sleepers == buffer._room.sleepers == 0
        events = buffer.take(2)
        buffer.enqueue("d", received.append)
        return [events, buffer.flush(), received]

    try:
        assert forked(child)() == [["a", "b"], 1, ["d"]]
    finally:
        let_go.set()
        sink.go_on.set()
    holder.result()
    assert third.result() is True
    assert first.result() + second.result() in (2, 3)
    buffer.flush()
    assert sink.received == ["a", "b", "c"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_fork_in_a_send() -> None:
    """The flush goes on on both sides."""
    buffer = EventBuffer()
    received: list[str] = []

    def send(event: str) -> None:
        received.append(event)
        if event == "a":
            children.append(forked(lambda: buffer.flush())())

    children: list[int] = []
    fill(buffer, send, "ab")
    assert buffer.flush() == 2
    assert received == ["a", "b"]
    assert children == [0]


# ------------------------------------------------------------------------------------------------------ interrupts

PROGRAM = """
import _thread, itertools, random, signal, sys, threading
from syncflow.sse.buffer import EventBuffer
sys.setswitchinterval(1e-5)
buffer = EventBuffer(50, overflow="block")
received, stop = [], threading.Event()
struck = 0

def strike(number, frame):
    # Once a round: what cleans up after the first Ctrl-C is not promised to survive a second.
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

def interrupt():
    pause = threading.Event()
    while not stop.is_set():
        pause.wait(random.random() * 0.001)
        _thread.interrupt_main()

def other():
    while not stop.is_set():
        buffer.flush()
        taken = buffer.take(1, 0.0001)
        received.extend(taken)

armed = False
signal.signal(signal.SIGINT, strike)
threads = [threading.Thread(target=interrupt, daemon=True), threading.Thread(target=other, daemon=True)]
for thread in threads:
    thread.start()
given = []
numbers = itertools.count()
for _ in range(600):
    try:
        armed = True
        for _ in range(10):
            for _ in range(20):
                number = next(numbers)
                buffer.enqueue(number, received.append)
                given.append(number)
            buffer.flush()
        armed = False
    except KeyboardInterrupt:
        struck += 1
armed = False
stop.set()
for thread in threads:
    thread.join()
buffer.flush()
assert struck > 50, struck
metrics = buffer.metrics()
assert metrics.size == 0 and buffer._flusher is None, metrics
# Nothing that was given is missing; what was interrupted may have been given too, or sent twice.
missing = set(given) - set(received)
assert not missing, missing
assert len(received) - len(set(received)) <= struck
buffer.close()
print("whole", flush=True)
"""


def test_an_interrupt_loses_nothing_wherever_it_strikes() -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)  # noqa: PLW1510  # asserted below
    assert (ended.returncode, ended.stdout) == (0, "whole\n"), ended.stderr

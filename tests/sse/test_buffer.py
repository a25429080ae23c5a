"""EventBuffer: who is dropped, who waits, what a failing `send` leaves, and that the figures always add up.

Where threads meet: test_buffer_races. Periodic flushes: test_flushing.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncflow.sse.buffer import BufferFull, BufferMetrics, EventBuffer, Overflow
from syncflow.testing import eventually

from ..concurrency import Call
from .calls import Sink, blocked_enqueue, entries, figures, fill, finish, is_blocked, sending

POLICIES: tuple[Overflow, ...] = ("drop_oldest", "drop_newest", "block", "raise")


@pytest.fixture
def sink() -> Sink:
    return Sink()


# ------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"max_size": 0}, ValueError, "max_size must be at least 1, not 0"),
        ({"max_size": True}, TypeError, "max_size is a whole number of events, not True"),
        ({"max_size": 10.0}, TypeError, "max_size is a whole number"),
        ({"max_size": None}, TypeError, "max_size is a whole number"),
        ({"backpressure_threshold": 0}, ValueError, "backpressure_threshold must be more than 0 and at most 1"),
        ({"backpressure_threshold": 1.01}, ValueError, "backpressure_threshold must be"),
        ({"backpressure_threshold": float("nan")}, ValueError, "backpressure_threshold must be"),
        ({"backpressure_threshold": "0.8"}, TypeError, "backpressure_threshold is a part of max_size"),
        ({"backpressure_threshold": True}, TypeError, "backpressure_threshold is a part of max_size"),
        ({"overflow": "drop"}, ValueError, "'drop_oldest', 'drop_newest', 'block', 'raise', not 'drop'"),
        ({"overflow": None}, ValueError, "overflow is one of"),
        ({"overflow": ["raise"]}, ValueError, "overflow is one of"),
        ({"on_backpressure": 5}, TypeError, "on_backpressure is called with a BufferMetrics, 5 cannot be"),
        ({"flush_interval": 0}, ValueError, "flush_interval must be more than 0 seconds"),
        ({"flush_interval": float("inf")}, ValueError, "None is no periodic flush"),
        ({"flush_interval": float("nan")}, ValueError, "flush_interval must be"),
        ({"flush_interval": "1"}, TypeError, "flush_interval is a number of seconds or None"),
        ({"flush_interval": True}, TypeError, "flush_interval is a number of seconds or None"),
        ({"flush_size": 0}, ValueError, "flush_size must be at least 1"),
        ({"flush_size": True}, TypeError, "flush_size is a whole number"),
        ({"flush_size": 2.0}, TypeError, "flush_size is a whole number"),
        ({"flush_size": 1001}, ValueError, "so many events never wait: flush_size is 1001, and max_size 1000"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        EventBuffer(**arguments)


def test_what_cannot_send_is_refused() -> None:
    buffer = EventBuffer()
    with pytest.raises(TypeError, match="send is called with the event, None cannot be"):
        buffer.enqueue("event", None)  # type: ignore[arg-type]
    assert figures(buffer) == (0, 0, 0, 0)


def test_the_defaults(sink: Sink) -> None:
    buffer = EventBuffer()
    assert buffer.max_size == 1000
    fill(buffer, sink, range(799))
    assert buffer.is_healthy()
    fill(buffer, sink, range(799, 800))
    assert not buffer.is_healthy()
    fill(buffer, sink, range(800, 1001))
    assert figures(buffer) == (1001, 0, 1, 1000)


# ------------------------------------------------------------------------------------------- one thread, each policy


def test_events_are_sent_in_order_each_by_its_own_send() -> None:
    received: list[Any] = []
    buffer = EventBuffer()
    assert buffer.enqueue("a", lambda event: received.append(("first", event)))
    assert buffer.enqueue("b", lambda event: received.append(("second", event)))
    assert received == []
    assert buffer.flush() == 2
    assert received == [("first", "a"), ("second", "b")]
    assert buffer.flush() == 0
    assert figures(buffer) == (2, 2, 0, 0)


@pytest.mark.parametrize("in_a_batch", [False, True])
def test_drop_oldest_keeps_the_newest(sink: Sink, in_a_batch: bool) -> None:
    buffer = EventBuffer(3)
    if in_a_batch:
        assert buffer.enqueue_entries(entries(range(2), sink)) == 2
        assert buffer.enqueue_entries(entries(range(2, 5), sink)) == 3
    else:
        assert all(buffer.enqueue(event, sink) for event in range(5))
    assert figures(buffer) == (5, 0, 2, 3)
    assert buffer.flush() == 3
    assert sink.received == [2, 3, 4]
    assert figures(buffer) == (5, 3, 2, 0)


def test_a_batch_that_is_larger_than_the_buffer(sink: Sink) -> None:
    buffer = EventBuffer(3)
    fill(buffer, sink, "ab")
    assert buffer.enqueue_entries(entries(range(10), sink)) == 10
    assert figures(buffer) == (12, 0, 9, 3)
    buffer.flush()
    assert sink.received == [7, 8, 9]


@pytest.mark.parametrize("in_a_batch", [False, True])
def test_drop_newest_keeps_the_oldest(sink: Sink, in_a_batch: bool) -> None:
    buffer = EventBuffer(3, overflow="drop_newest")
    if in_a_batch:
        assert buffer.enqueue_entries(entries(range(5), sink)) == 3
        assert buffer.enqueue_entries(entries(range(1), sink)) == 0
        assert figures(buffer) == (6, 0, 3, 3)
    else:
        assert [buffer.enqueue(event, sink) for event in range(5)] == [True, True, True, False, False]
        assert figures(buffer) == (5, 0, 2, 3)
    buffer.flush()
    assert sink.received == [0, 1, 2]


@pytest.mark.parametrize("overflow", ["raise", "block"])
def test_a_batch_that_does_not_fit_is_taken_as_far_as_it_does(sink: Sink, overflow: Overflow) -> None:
    buffer = EventBuffer(3, overflow=overflow)
    with pytest.raises(BufferFull, match="3 events wait in the buffer"):
        buffer.enqueue_entries(entries(range(5), sink))
    assert figures(buffer) == (3, 0, 0, 3)
    with pytest.raises(BufferFull):
        buffer.enqueue_entries(entries(range(1), sink))
    buffer.flush()
    assert sink.received == [0, 1, 2]


def test_raise_refuses_and_does_not_count(sink: Sink) -> None:
    buffer = EventBuffer(2, overflow="raise")
    fill(buffer, sink, "ab")
    with pytest.raises(BufferFull, match="2 events wait in the buffer, which is all it takes"):
        buffer.enqueue("c", sink)
    assert figures(buffer) == (2, 0, 0, 2)
    buffer.flush()
    assert buffer.enqueue("c", sink)
    buffer.flush()
    assert sink.received == ["a", "b", "c"]


def test_an_empty_batch_is_nothing(sink: Sink) -> None:
    for overflow in POLICIES:
        buffer = EventBuffer(1, overflow=overflow)
        fill(buffer, sink, "a")
        assert buffer.enqueue_entries([]) == 0
        assert figures(buffer) == (1, 0, 0, 1)


def test_a_batch_is_shared_and_not_changed(sink: Sink) -> None:
    batch = entries(range(4), sink)
    buffers = [EventBuffer(size) for size in (2, 4, 8)]
    for buffer in buffers:
        buffer.enqueue_entries(batch)
    assert batch == entries(range(4), sink)
    assert [buffer.take(9) for buffer in buffers] == [[2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]


# -------------------------------------------------------------------------------------------------- failing sends


class Interrupt(BaseException):
    """What is no Exception, as a KeyboardInterrupt."""


@pytest.mark.parametrize("error", [OSError("gone"), Interrupt("now")], ids=repr)
def test_what_a_failing_send_did_not_take_stays_in_order(sink: Sink, error: BaseException) -> None:
    buffer = EventBuffer()

    def send(event: int) -> None:
        if event == 2:
            raise error
        sink(event)

    fill(buffer, send, range(5))
    with pytest.raises(type(error)) as caught:
        buffer.flush()
    assert caught.value is error
    assert sink.received == [0, 1]
    assert figures(buffer) == (5, 2, 0, 3)
    with pytest.raises(type(error)):
        buffer.flush()
    assert figures(buffer) == (5, 2, 0, 3)
    assert buffer.take(9) == [2, 3, 4]


def test_after_a_failure_it_goes_on_where_it_was(sink: Sink) -> None:
    buffer = EventBuffer()
    fill(buffer, sink, range(3))
    sink.error = OSError("for a moment")
    with pytest.raises(OSError):
        buffer.flush()
    fill(buffer, sink, range(3, 5))
    sink.error = None
    assert buffer.flush() == 5
    assert sink.received == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("overflow", ["raise", "drop_newest"])
def test_what_is_being_sent_takes_room(sink: Sink, overflow: Overflow) -> None:
    buffer = EventBuffer(2, overflow=overflow)
    fill(buffer, sink, "ab")
    call = sending(buffer, sink, None)
    assert figures(buffer) == (2, 0, 0, 2)
    if overflow == "raise":
        with pytest.raises(BufferFull):
            buffer.enqueue("c", sink)
    else:
        assert not buffer.enqueue("c", sink)
    finish(call, sink, 2)
    assert sink.received == ["a", "b"]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("in_a_batch", [False, True])
def test_what_is_being_sent_is_not_dropped(sink: Sink, fails: bool, in_a_batch: bool) -> None:
    buffer = EventBuffer(3)
    fill(buffer, sink, "abc")
    call = sending(buffer, sink, OSError("gone") if fails else None)
    if in_a_batch:
        buffer.enqueue_entries(entries("d", sink))
        assert figures(buffer) == (4, 0, 1, 3)
        buffer.enqueue_entries(entries("efgh", sink))
    else:
        fill(buffer, sink, "defgh")
    assert figures(buffer) == (8, 0, 5, 3)
    finish(call, sink, 3)
    buffer.flush()
    assert sink.received == ["a", "g", "h"]
    assert figures(buffer) == (8, 3, 5, 0)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("in_a_batch", [False, True])
def test_with_room_for_one_what_is_being_sent_is_not_put_back(sink: Sink, fails: bool, in_a_batch: bool) -> None:
    buffer = EventBuffer(1)
    fill(buffer, sink, "a")
    call = sending(buffer, sink, OSError("gone") if fails else None)
    if in_a_batch:
        buffer.enqueue_entries(entries("bcd", sink))
    else:
        fill(buffer, sink, "bcd")
    assert buffer.size == 1
    assert buffer.dropped_count == 2
    finish(call, sink, 2)
    if fails:
        assert figures(buffer) == (4, 0, 3, 1)
        buffer.flush()
        assert sink.received == ["d"]
    else:
        assert figures(buffer) == (4, 2, 2, 0)
        assert sink.received == ["a", "d"]
        fill(buffer, sink, "e")
        finish(sending(buffer, sink, OSError("gone")), sink, 0)
        assert figures(buffer) == (5, 2, 2, 1)


def test_with_room_for_one_nothing_is_lost_that_had_no_successor(sink: Sink) -> None:
    buffer = EventBuffer(1)
    fill(buffer, sink, "a")
    for _ in range(3):
        finish(sending(buffer, sink, OSError("gone")), sink, 0)
        assert figures(buffer) == (1, 0, 0, 1)
    call = sending(buffer, sink, OSError("gone"))
    fill(buffer, sink, "b")
    finish(call, sink, 0)
    finish(sending(buffer, sink, OSError("gone")), sink, 0)
    assert figures(buffer) == (2, 0, 1, 1)
    assert buffer.flush() == 1
    assert sink.received == ["b"]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("max_size", [1, 3])
def test_reset_in_the_middle_of_a_send(sink: Sink, fails: bool, max_size: int) -> None:
    """What is being sent is not put back and counts no more; what comes after the reset does."""
    buffer = EventBuffer(max_size)
    fill(buffer, sink, "abc"[:max_size])
    call = sending(buffer, sink, OSError("gone") if fails else None)
    if max_size == 1:
        fill(buffer, sink, "b")
    buffer.reset()
    assert figures(buffer) == (0, 0, 0, 0)
    fill(buffer, sink, "x")
    finish(call, sink, 2)
    if fails:
        assert figures(buffer) == (1, 0, 0, 1)
        buffer.flush()
        assert sink.received == ["x"]
    else:
        assert sink.received == ["a", "x"]
    assert figures(buffer) == (1, 1, 0, 0)


# --------------------------------------------------------------------------------------------------- one at a time


def test_a_second_flush_waits_and_goes_on_with_what_is_left(sink: Sink) -> None:
    buffer = EventBuffer()
    fill(buffer, sink, "ab")
    first = sending(buffer, sink, None)
    second = Call(buffer.flush)
    eventually(is_blocked(buffer._turn))
    fill(buffer, sink, "c")
    sink.go_on.set()
    assert first.result() + second.result() == 3
    assert sink.received == ["a", "b", "c"]


def test_a_flush_that_waits_takes_over_after_a_failure(sink: Sink) -> None:
    buffer = EventBuffer()
    fails = [OSError("once")]

    def send(event: Any) -> None:
        sink(event)
        if fails:
            raise fails.pop()

    fill(buffer, send, "ab")
    first = sending(buffer, sink, None)
    second = Call(buffer.flush)
    eventually(is_blocked(buffer._turn))
    sink.go_on.set()
    with pytest.raises(OSError, match="once"):
        first.result()
    assert second.result() == 2
    assert sink.received == ["a", "a", "b"]


def test_a_flush_in_a_send_leaves_it_to_the_outer_one(sink: Sink) -> None:
    buffer = EventBuffer()
    inner: list[int] = []

    def send(event: Any) -> None:
        inner.append(buffer.flush())
        sink(event)

    fill(buffer, send, "abc")
    assert buffer.flush() == 3
    assert inner == [0, 0, 0]
    assert sink.received == ["a", "b", "c"]


def test_what_a_send_enqueues_is_sent_by_the_same_flush(sink: Sink) -> None:
    buffer = EventBuffer()

    def send(event: int) -> None:
        sink(event)
        if event < 3:
            buffer.enqueue(event + 1, send)

    buffer.enqueue(0, send)
    assert buffer.flush() == 4
    assert sink.received == [0, 1, 2, 3]


def test_a_send_may_flush_another_buffer(sink: Sink) -> None:
    outer, inner = EventBuffer(), EventBuffer()
    fill(inner, sink, "ab")
    outer.enqueue("c", lambda event: sink((event, inner.flush())))
    assert outer.flush() == 1
    assert sink.received == ["a", "b", ("c", 2)]


@pytest.mark.parametrize("overflow", POLICIES)
def test_no_lock_is_held_while_a_send_runs(sink: Sink, overflow: Overflow) -> None:
    """Another thread can do everything meanwhile."""
    buffer = EventBuffer(4, overflow=overflow)
    fill(buffer, sink, "ab")
    call = sending(buffer, sink, None)

    def everything() -> list[Any]:
        buffer.enqueue("c", sink)
        buffer.enqueue_entries(entries("d", sink))
        taken = buffer.take(1)
        assert not buffer.metrics().enqueued < 4
        assert buffer.size == 3
        buffer.is_healthy()
        buffer.reset()
        buffer.close()
        return taken

    assert Call(everything).result() == ["b"]
    finish(call, sink, 1)
    assert sink.received == ["a"]


# ------------------------------------------------------------------------------------------------------- blocking


MAKES_ROOM: dict[str, Callable[[EventBuffer], object]] = {
    "flush": EventBuffer.flush,
    "take": lambda buffer: buffer.take(1),
    "reset": EventBuffer.reset,
}


@pytest.mark.parametrize("how", MAKES_ROOM)
@pytest.mark.parametrize("timeout", [None, 60, float("inf")])
def test_a_blocked_enqueue_is_woken_by_room(sink: Sink, how: str, timeout: float | None) -> None:
    buffer = EventBuffer(2, overflow="block")
    fill(buffer, sink, "ab")
    call = blocked_enqueue(buffer, sink, "c", timeout)
    assert figures(buffer) == (2, 0, 0, 2)
    MAKES_ROOM[how](buffer)
    assert call.result() is True
    buffer.flush()
    assert sink.received[-1] == "c"


def test_it_takes_the_place_of_the_first_that_was_sent(sink: Sink) -> None:
    """It need not wait for the end of the flush."""
    buffer = EventBuffer(2, overflow="block")
    second = Sink()
    second.hold()
    buffer.enqueue("a", sink)
    buffer.enqueue("b", second)
    call = blocked_enqueue(buffer, sink, "c")
    flush = Call(buffer.flush)
    assert call.result() is True
    second.go_on.set()
    assert flush.result() == 3


def test_as_many_as_were_taken_are_woken(sink: Sink) -> None:
    buffer = EventBuffer(3, overflow="block")
    fill(buffer, sink, range(3))
    calls = [Call(buffer.enqueue, event, sink) for event in range(3, 6)]
    eventually(lambda: buffer._room.sleepers == 3)
    assert buffer.take(3) == [0, 1, 2]
    assert [call.result() for call in calls] == [True] * 3
    assert sorted(buffer.take(3)) == [3, 4, 5]


def test_a_blocked_enqueue_ends_with_the_buffer(sink: Sink) -> None:
    buffer = EventBuffer(1, overflow="block")
    fill(buffer, sink, "a")
    calls = [Call(buffer.enqueue, event, sink) for event in "bc"]
    eventually(lambda: buffer._room.sleepers == 2)
    buffer.close()
    for call in calls:
        with pytest.raises(ValueError, match="closed"):
            call.result()
    assert figures(buffer) == (1, 0, 0, 1)


@pytest.mark.parametrize("timeout", [-1, 0, 0.01])
def test_a_blocked_enqueue_gives_up(sink: Sink, timeout: float) -> None:
    buffer = EventBuffer(1, overflow="block")
    fill(buffer, sink, "a")
    with pytest.raises(BufferFull):
        buffer.enqueue("b", sink, timeout=timeout)
    with pytest.raises(BufferFull):
        Call(buffer.enqueue, "b", sink, timeout=timeout).result()
    assert figures(buffer) == (1, 0, 0, 1)
    assert buffer._room.sleepers == 0


def test_other_policies_do_not_wait(sink: Sink) -> None:
    for overflow, outcome in (("drop_newest", False), ("drop_oldest", True)):
        buffer = EventBuffer(1, overflow=overflow)  # type: ignore[arg-type]
        fill(buffer, sink, "a")
        assert buffer.enqueue("b", sink, timeout=60) is outcome
    buffer = EventBuffer(1, overflow="raise")
    fill(buffer, sink, "a")
    with pytest.raises(BufferFull):
        buffer.enqueue("b", sink, timeout=60)


@pytest.mark.parametrize("flush_size", [None, 2])
def test_a_send_does_not_wait_for_itself(sink: Sink, flush_size: int | None) -> None:
    buffer = EventBuffer(2, overflow="block", flush_size=flush_size)
    refused: list[str] = []

    def send(event: Any) -> None:
        sink(event)
        with pytest.raises(BufferFull):
            for number in range(3):
                buffer.enqueue(f"{event}{number}", sink)
        refused.append(event)

    buffer.enqueue("a", send)
    assert buffer.flush() == 2
    assert refused == ["a"]
    assert sink.received == ["a", "a0"]


# ----------------------------------------------------------------------------------------------------------- take


def test_take_gives_the_oldest_at_once_and_counts_them_as_sent(sink: Sink) -> None:
    buffer = EventBuffer()
    fill(buffer, sink, range(5))
    assert buffer.take(2) == [0, 1]
    assert figures(buffer) == (5, 2, 0, 3)
    assert buffer.take(100) == [2, 3, 4]
    assert figures(buffer) == (5, 5, 0, 0)
    assert sink.received == []


@pytest.mark.parametrize("timeout", [-1, 0, 0.01])
def test_take_gives_up(timeout: float) -> None:
    buffer = EventBuffer()
    assert buffer.take(1, timeout) == []
    assert Call(buffer.take, 1, timeout).result() == []
    assert buffer._filled.sleepers == 0


@pytest.mark.parametrize("most", [0, -1])
def test_take_nothing_makes_no_sense(most: int) -> None:
    with pytest.raises(ValueError, match="take at least 1 event"):
        EventBuffer().take(most)


@pytest.mark.parametrize("timeout", [None, 60, float("inf")])
@pytest.mark.parametrize("in_a_batch", [False, True])
def test_take_is_woken_by_an_event(sink: Sink, timeout: float | None, in_a_batch: bool) -> None:
    buffer = EventBuffer()
    call = Call(buffer.take, 10, timeout)
    eventually(is_blocked(buffer._filled))
    if in_a_batch:
        buffer.enqueue_entries(entries("ab", sink))
        assert call.result() == ["a", "b"]
    else:
        buffer.enqueue("a", sink)
        assert call.result() == ["a"]


def test_a_batch_wakes_as_many_as_it_feeds(sink: Sink) -> None:
    buffer = EventBuffer()
    calls = [Call(buffer.take, 1) for _ in range(3)]
    eventually(lambda: buffer._filled.sleepers == 3)
    buffer.enqueue_entries(entries(range(3), sink))
    assert sorted(event for call in calls for event in call.result()) == [0, 1, 2]


def test_take_ends_with_the_buffer(sink: Sink) -> None:
    buffer = EventBuffer()
    calls = [Call(buffer.take, 1) for _ in range(2)]
    eventually(lambda: buffer._filled.sleepers == 2)
    buffer.close()
    assert [call.result() for call in calls] == [[], []]


@pytest.mark.parametrize("fails", [False, True])
def test_take_leaves_what_is_being_sent(sink: Sink, fails: bool) -> None:
    buffer = EventBuffer(4)
    fill(buffer, sink, "abcd")
    call = sending(buffer, sink, OSError("gone") if fails else None)
    assert buffer.take(2) == ["b", "c"]
    assert buffer.take(9) == ["d"]
    assert buffer.take(1, 0) == []
    assert figures(buffer) == (4, 3, 0, 1)
    waiting = Call(buffer.take, 1)
    eventually(is_blocked(buffer._filled))
    finish(call, sink, 1)
    if not fails:
        fill(buffer, sink, "a")
    assert waiting.result() == ["a"]
    assert figures(buffer)[1:] == (4 if fails else 5, 0, 0)


def test_take_tells_what_is_missing_before_the_batch(sink: Sink) -> None:
    buffer = EventBuffer(3)
    seen: list[Any] = []
    dropped = 0

    def read(most: int) -> None:
        nonlocal dropped
        events, total = buffer.take_with_drops(most)
        seen.append(total - dropped)
        seen.extend(events)
        dropped = total

    fill(buffer, sink, "abcde")
    read(2)
    fill(buffer, sink, "fgh")
    read(1)
    read(9)
    assert seen == [2, "c", "d", 1, "f", 0, "g", "h"]
    assert buffer.take_with_drops(1, 0) == ([], 3)


# --------------------------------------------------------------------------------------------------- close, reset


@pytest.mark.parametrize("overflow", POLICIES)
def test_a_closed_buffer_takes_nothing_and_loses_nothing(sink: Sink, overflow: Overflow) -> None:
    buffer = EventBuffer(4, overflow=overflow)
    fill(buffer, sink, "abcd")
    buffer.close()
    buffer.close()
    with pytest.raises(ValueError, match="the buffer is closed"):
        buffer.enqueue("e", sink)
    with pytest.raises(ValueError, match="the buffer is closed"):
        buffer.enqueue_entries(entries("e", sink))
    assert figures(buffer) == (4, 0, 0, 4)
    assert buffer.take(2) == ["a", "b"]
    assert buffer.flush() == 2
    assert sink.received == ["c", "d"]
    assert buffer.take(1) == []
    assert buffer.flush() == 0
    buffer.reset()
    with pytest.raises(ValueError):
        buffer.enqueue("e", sink)
    assert figures(buffer) == (0, 0, 0, 0)


def test_a_send_may_close_its_buffer(sink: Sink) -> None:
    buffer = EventBuffer()

    def send(event: Any) -> None:
        sink(event)
        buffer.close()

    fill(buffer, send, "ab")
    assert buffer.flush() == 2


def test_reset_forgets_everything(sink: Sink) -> None:
    buffer = EventBuffer(2)
    fill(buffer, sink, "abc")
    buffer.take(1)
    buffer.reset()
    assert buffer.metrics() == BufferMetrics(
        size=0, max_size=2, enqueued=0, sent=0, dropped=0, high_water=0, oldest_age=None
    )
    assert buffer.is_healthy()
    assert buffer.take(1, 0) == []
    assert buffer.flush() == 0
    fill(buffer, sink, "d")
    assert buffer.take(9) == ["d"]


def test_reset_drops_events_without_the_lock(sink: Sink) -> None:
    """An event's finalizer may need another thread that needs the buffer."""
    buffer = EventBuffer()
    sizes: list[int] = []

    class Event:
        def __del__(self) -> None:
            sizes.append(Call(lambda: buffer.metrics().size).result())

    buffer.enqueue(Event(), sink)
    buffer.reset()
    gc.collect()
    assert sizes == [0]


def test_events_are_not_kept(sink: Sink) -> None:
    class Event:
        pass

    buffer = EventBuffer(2)
    events = [Event() for _ in range(4)]
    alive = [weakref.ref(event) for event in events]
    for event in events:
        buffer.enqueue(event, lambda event: None)
    del event, events
    assert [reference() is None for reference in alive] == [True, True, False, False]
    buffer.take(1)
    assert alive[2]() is None
    buffer.flush()
    assert alive[3]() is None


# -------------------------------------------------------------------------------------------------------- figures


def test_metrics_are_frozen() -> None:
    metrics = EventBuffer().metrics()
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.size = 5  # type: ignore[misc]
    assert [field.name for field in dataclasses.fields(metrics)] == [
        "size",
        "max_size",
        "enqueued",
        "sent",
        "dropped",
        "high_water",
        "oldest_age",
    ]


def test_the_oldest_age_is_that_of_the_first(sink: Sink) -> None:
    buffer = EventBuffer(2)
    now = 100.0
    buffer._clock = lambda: now
    assert buffer.metrics().oldest_age is None
    buffer.enqueue("a", sink)
    assert buffer.metrics().oldest_age == 0.0
    now = 103.0
    buffer.enqueue("b", sink)
    now = 104.5
    assert buffer.metrics().oldest_age == 4.5
    buffer.enqueue("c", sink)
    assert buffer.metrics().oldest_age == 1.5
    buffer.take(1)
    assert buffer.metrics().oldest_age == 0.0
    buffer.reset()
    buffer.enqueue_entries([("d", sink, 100.0)])
    assert buffer.metrics().oldest_age == 4.5
    now = 99.0
    assert buffer.metrics().oldest_age == 0.0


def test_an_event_that_had_to_wait_for_room_is_as_old_as_its_place(sink: Sink) -> None:
    buffer = EventBuffer(1, overflow="block")
    now = 100.0
    buffer._clock = lambda: now
    fill(buffer, sink, "a")
    call = blocked_enqueue(buffer, sink, "b")
    now = 107.0
    buffer.take(1)
    call.result()
    assert buffer.metrics().oldest_age == 0.0


def test_what_is_being_sent_still_ages(sink: Sink) -> None:
    buffer = EventBuffer()
    now = 100.0
    buffer._clock = lambda: now
    fill(buffer, sink, "a")
    call = sending(buffer, sink, None)
    now = 102.0
    assert buffer.metrics().oldest_age == 2.0
    finish(call, sink, 1)


def test_high_water(sink: Sink) -> None:
    buffer = EventBuffer(5)
    fill(buffer, sink, range(3))
    buffer.take(2)
    fill(buffer, sink, range(1))
    assert buffer.metrics().high_water == 3
    buffer.enqueue_entries(entries(range(2), sink))
    assert buffer.metrics().high_water == 4
    buffer.enqueue_entries(entries(range(20), sink))
    assert buffer.metrics().high_water == 5
    buffer.flush()
    assert buffer.metrics().high_water == 5


@pytest.mark.parametrize(
    ("max_size", "threshold", "healthy"),
    [(10, 0.8, 7), (1, 0.01, 0), (1, 1, 0), (3, 0.5, 1), (100, 0.07, 7), (4, 1.0, 3)],
)
def test_healthy_is_below_the_threshold(sink: Sink, max_size: int, threshold: float, healthy: int) -> None:
    buffer = EventBuffer(max_size, threshold)
    for size in range(max_size + 1):
        assert buffer.is_healthy() is (buffer.size < threshold * max_size)
        assert buffer.is_healthy() is (size <= healthy)
        fill(buffer, sink, [size])


# ---------------------------------------------------------------------------------------------------- backpressure


def test_one_call_a_crossing(sink: Sink) -> None:
    told: list[BufferMetrics] = []
    buffer = EventBuffer(5, 0.6, on_backpressure=told.append)
    fill(buffer, sink, range(2))
    assert told == []
    fill(buffer, sink, range(10))
    assert [(metrics.size, metrics.enqueued, metrics.dropped) for metrics in told] == [(3, 3, 0)]
    buffer.take(2)  # just at the threshold, not below
    fill(buffer, sink, range(2))
    assert len(told) == 1
    buffer.take(3)
    fill(buffer, sink, range(1))
    assert len(told) == 2
    buffer.flush()
    fill(buffer, sink, range(5))
    assert len(told) == 3
    buffer.reset()
    fill(buffer, sink, range(5))
    assert len(told) == 4


def test_a_batch_that_crosses(sink: Sink) -> None:
    told: list[int] = []
    buffer = EventBuffer(5, 0.6, on_backpressure=lambda metrics: told.append(metrics.size))
    for _ in range(3):
        buffer.enqueue_entries(entries(range(20), sink))
    assert told == [5]
    buffer.take(3)
    buffer.enqueue_entries(entries(range(1), sink))
    assert told == [5, 3]


@pytest.mark.parametrize("overflow", POLICIES)
def test_a_full_buffer_crosses_no_more(sink: Sink, overflow: Overflow) -> None:
    told: list[int] = []
    buffer = EventBuffer(2, 1, overflow, lambda metrics: told.append(metrics.size))
    for _ in range(5):
        try:
            buffer.enqueue("event", sink, timeout=0)
        except BufferFull:
            continue
    assert told == [2]


def test_with_room_for_one_every_event_that_finds_it_empty_crosses(sink: Sink) -> None:
    told: list[int] = []
    buffer = EventBuffer(1, on_backpressure=lambda metrics: told.append(metrics.size))
    fill(buffer, sink, "a")
    call = sending(buffer, sink, None)
    fill(buffer, sink, "bc")
    assert told == [1]
    finish(call, sink, 2)
    fill(buffer, sink, "d")
    assert told == [1, 1]


def test_a_send_that_fails_crosses_nothing(sink: Sink) -> None:
    """What it leaves was in the buffer all the time."""
    told: list[int] = []
    buffer = EventBuffer(3, 0.6, on_backpressure=lambda metrics: told.append(metrics.size))
    fill(buffer, sink, range(2))
    for _ in range(3):
        finish(sending(buffer, sink, OSError("gone")), sink, 0)
    fill(buffer, sink, range(5))
    assert told == [2]


def test_it_is_called_in_the_thread_of_the_enqueue_after_a_wait_too(sink: Sink) -> None:
    threads: list[threading.Thread] = []
    buffer = EventBuffer(1, 1, "block", lambda metrics: threads.append(threading.current_thread()))
    fill(buffer, sink, "a")
    call = blocked_enqueue(buffer, sink, "b")
    buffer.take(1)
    call.result()
    assert threads == [threading.current_thread(), call.thread]


@pytest.mark.parametrize("in_a_batch", [False, True])
def test_what_it_raises_comes_out_and_the_event_is_taken(sink: Sink, in_a_batch: bool) -> None:
    error = RuntimeError("mine")

    def on_backpressure(metrics: BufferMetrics) -> None:
        raise error

    buffer = EventBuffer(2, 0.5, on_backpressure=on_backpressure)
    with pytest.raises(RuntimeError) as caught:
        if in_a_batch:
            buffer.enqueue_entries(entries("a", sink))
        else:
            buffer.enqueue("a", sink)
    assert caught.value is error
    assert figures(buffer) == (1, 0, 0, 1)
    buffer.enqueue("b", sink)
    assert buffer.take(2) == ["a", "b"]


def test_it_may_call_the_buffer_and_so_may_other_threads(sink: Sink) -> None:
    told: list[Any] = []

    def on_backpressure(metrics: BufferMetrics) -> None:
        told.append(metrics.size)
        told.append(buffer.metrics().size)
        told.append(Call(buffer.metrics).result().size)
        buffer.enqueue("of the callback", sink)
        told.append(Call(buffer.flush).result())
        buffer.enqueue("c", sink)
        told.append(buffer.flush())
        buffer.enqueue("forgotten", sink)
        buffer.reset()

    buffer = EventBuffer(4, 0.5, on_backpressure=on_backpressure, flush_size=4)
    fill(buffer, sink, "ab")
    assert told == [2, 2, 2, 3, 1]
    assert sink.received == ["a", "b", "of the callback", "c"]
    assert figures(buffer) == (0, 0, 0, 0)


# ------------------------------------------------------------------------------------------------- flushes by size


def test_the_enqueue_that_makes_it_so_many_flushes(sink: Sink) -> None:
    buffer = EventBuffer(10, flush_size=3)
    threads: list[threading.Thread] = []

    def send(event: Any) -> None:
        sink(event)
        threads.append(threading.current_thread())

    fill(buffer, send, "ab")
    assert sink.received == []
    call = Call(buffer.enqueue, "c", send)
    assert call.result() is True
    assert sink.received == ["a", "b", "c"]
    assert threads == [call.thread] * 3
    fill(buffer, send, "de")
    assert len(sink.received) == 3
    buffer.enqueue_entries(entries("fgh", sink))
    assert sink.received == list("abcdefgh")


def test_every_event_at_once(sink: Sink) -> None:
    buffer = EventBuffer(1, flush_size=1, overflow="raise")
    for event in range(3):
        buffer.enqueue(event, sink)
        assert sink.received == list(range(event + 1))


def test_a_flush_under_way_takes_what_comes(sink: Sink) -> None:
    """Nobody waits for it, and nothing is left behind."""
    buffer = EventBuffer(10, flush_size=2)
    fill(buffer, sink, "a")
    call = sending(buffer, sink, None)
    fill(buffer, sink, "bcd")
    assert sink.received == []
    finish(call, sink, 4)
    assert sink.received == list("abcd")


def test_what_the_send_raises_comes_out_of_the_enqueue_whose_event_is_taken(sink: Sink) -> None:
    buffer = EventBuffer(10, flush_size=2)
    fill(buffer, sink, "a")
    sink.error = OSError("gone")
    for event in "bc":
        with pytest.raises(OSError):
            buffer.enqueue(event, sink)
    assert figures(buffer) == (3, 0, 0, 3)
    sink.error = None
    buffer.enqueue("d", sink)
    assert sink.received == list("abcd")


@pytest.mark.parametrize("overflow", ["block", "raise", "drop_newest"])
def test_when_it_is_full_of_what_failed_it_tries_again_first(sink: Sink, overflow: Overflow) -> None:
    buffer = EventBuffer(2, overflow=overflow, flush_size=2)
    fill(buffer, sink, "a")
    sink.error = OSError("gone")
    for event in "bcd":
        with pytest.raises(OSError):
            buffer.enqueue(event, sink)
    assert figures(buffer) == (2, 0, 0, 2)
    sink.error = None
    assert buffer.enqueue("e", sink)
    assert sink.received == ["a", "b"]
    assert buffer.take(1) == ["e"]


def test_when_it_drops_the_oldest_it_tries_again_afterwards(sink: Sink) -> None:
    buffer = EventBuffer(2, flush_size=2)
    fill(buffer, sink, "a")
    sink.error = OSError("gone")
    for event in "bc":
        with pytest.raises(OSError):
            buffer.enqueue(event, sink)
    sink.error = None
    assert buffer.enqueue("d", sink)
    assert sink.received == ["c", "d"]
    assert figures(buffer) == (4, 2, 2, 0)


@pytest.mark.parametrize("overflow", ["raise", "drop_newest"])
def test_while_another_flushes_a_full_buffer_does_as_its_policy_says(sink: Sink, overflow: Overflow) -> None:
    buffer = EventBuffer(2, overflow=overflow, flush_size=2)
    fill(buffer, sink, "a")
    call = sending(buffer, sink, None)
    fill(buffer, sink, "b")
    if overflow == "raise":
        with pytest.raises(BufferFull):
            buffer.enqueue("c", sink)
    else:
        assert not buffer.enqueue("c", sink)
    finish(call, sink, 2)


def test_a_blocked_enqueue_takes_over_when_anothers_flush_fails(sink: Sink) -> None:
    buffer = EventBuffer(2, overflow="block", flush_size=2)
    fails = [OSError("once")]

    def send(event: Any) -> None:
        sink(event)
        if fails:
            raise fails.pop()

    fill(buffer, send, "a")
    flush = sending(buffer, sink, None)
    fill(buffer, send, "b")
    call = blocked_enqueue(buffer, sink, "c")
    sink.go_on.set()
    with pytest.raises(OSError, match="once"):
        flush.result()
    assert call.result() is True
    assert sink.received == ["a", "a", "b"]
    assert buffer.take(9) == ["c"]


# ------------------------------------------------------------------------------------------------- against a model


class Model:
    """What a buffer with one thread should do, in so many words."""

    def __init__(self, max_size: int, overflow: Overflow) -> None:
        self.max_size = max_size
        self.overflow = overflow
        self.waiting: list[int] = []
        self.received: list[int] = []
        self.enqueued = self.sent = self.dropped = self.high_water = 0
        self.in_flight = False

    def enqueue(self, event: int) -> bool | None:
        """None: refused."""
        if len(self.waiting) >= self.max_size:
            if self.overflow in ("raise", "block"):
                return None
            self.dropped += 1
            self.enqueued += 1
            if self.overflow == "drop_newest":
                return False
            del self.waiting[1 if self.in_flight else 0]
        else:
            self.enqueued += 1
        self.waiting.append(event)
        self.high_water = max(self.high_water, len(self.waiting))
        return True

    def flush(self, fails: bool, meanwhile: list[int]) -> None:
        """`meanwhile` is enqueued by the first send, which may fail afterwards."""
        first = True
        while self.waiting:
            self.in_flight = True
            if first:
                for event in meanwhile:
                    self.enqueue(event)
            self.in_flight = False
            if first and fails:
                return
            first = False
            self.received.append(self.waiting.pop(0))
            self.sent += 1

    def take(self, most: int) -> list[int]:
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        self.sent += len(taken)
        return taken


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enqueue")),
        st.tuples(st.just("batch"), st.integers(0, 8)),
        st.tuples(st.just("flush"), st.booleans(), st.integers(0, 6)),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("reset")),
    ),
    max_size=30,
)


@settings(max_examples=200)
@given(st.integers(2, 4), st.sampled_from(POLICIES), STEPS)
def test_it_does_as_the_model_says(max_size: int, overflow: Overflow, steps: list[Any]) -> None:
    numbers = itertools.count()
    buffer, model = EventBuffer(max_size, overflow=overflow), Model(max_size, overflow)
    received: list[int] = []
    script: list[Any] = []  # what the next send does: enqueue these, fail

    def enqueue(event: int) -> bool | None:
        try:
            return buffer.enqueue(event, send, timeout=0)
        except BufferFull:
            return None

    def send(event: int) -> None:
        if script:
            fails, meanwhile = script.pop()
            for new in meanwhile:
                enqueue(new)
            if fails:
                raise OSError("of the script")
        received.append(event)

    for step, *how in steps:
        if step == "enqueue":
            event = next(numbers)
            assert enqueue(event) == model.enqueue(event)
        elif step == "batch":
            events = [next(numbers) for _ in range(how[0])]
            outcomes = [model.enqueue(event) for event in events]
            try:
                assert buffer.enqueue_entries(entries(events, send)) == outcomes.count(True)
            except BufferFull:
                assert None in outcomes
        elif step == "flush":
            meanwhile = [next(numbers) for _ in range(how[1])]
            script[:] = [(how[0], meanwhile)]
            try:
                buffer.flush()
            except OSError:
                assert how[0]
            model.flush(how[0], meanwhile)
        elif step == "take" and model.waiting:
            assert buffer.take(how[0]) == model.take(how[0])
        elif step == "reset":
            buffer.reset()
            model.waiting = []
            model.enqueued = model.sent = model.dropped = model.high_water = 0
        assert received == model.received
        assert figures(buffer) == (model.enqueued, model.sent, model.dropped, len(model.waiting))
        assert buffer.metrics().high_water == model.high_water
        assert [entry[0] for entry in buffer._ring.waiting] == model.waiting

"""A ring of events between whoever has them and a consumer that may be slow.

Knows who waits for what, who sends, and whom to tell. The events are in a `Ring`, which knows their order and the
figures; when to flush periodically is `flushing`'s to know. What an event is, and what `send` does with it, nobody.

There is one lock, held for a moment only, and never while anything of the user's runs.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from ..engine.deadline import Clock
from ..engine.locks import Bell, new_lock
from .flushing import Client, shared_flusher
from .ring import BufferMetrics, Entry, Ring, Send

__all__ = ["BufferFull", "BufferMetrics", "Entry", "EventBuffer", "Overflow", "Send"]

logger = logging.getLogger("syncflow.sse")

Overflow = Literal["drop_oldest", "drop_newest", "block", "raise"]


class BufferFull(Exception):
    """There was no room in an EventBuffer, and its `overflow` says to raise, or the time to wait for room is over. The
    event was not taken."""


class EventBuffer:
    """A bounded queue of events of any kind, for any number of threads.

    Events leave it in order, by `flush`, which sends each in the caller's thread, or by `take`, for a consumer with a
    thread of its own. Who flushes: the program, if it says nothing else; with `flush_size` the thread whose event makes
    it so many; with `flush_interval` a thread of syncflow's, `syncflow-flusher`.

    Args:
        max_size: events that may wait.
        backpressure_threshold: the part of `max_size`, more than 0 and at most 1, from which on the buffer is not
            healthy.
        overflow: what `enqueue` does when `max_size` events wait: "drop_oldest" drops the one that has waited longest,
            "drop_newest" the new one, "block" waits for room, "raise" raises `BufferFull`.
        on_backpressure: called with the `BufferMetrics` when the size comes to the threshold, once, and again only
            after it has been below; in the thread of the `enqueue` that did it, without a lock: it may call the buffer.
            What it raises comes out of that `enqueue`, which has taken the event.
        flush_interval: seconds, the longest that an event waits before all that wait are sent. One thread does this for
            all buffers of the process, so a `send` that blocks holds up the others' flushes. When one fails, what was
            not sent stays, and is tried again at the next interval; see `last_error`. `close()` ends it.
        flush_size: the `enqueue` with which so many events wait flushes, unless another thread is doing it already.
            What a `send` raises comes out of it; its event was taken. If the buffer is full, because sends have failed
            before, an `enqueue` that would not drop the oldest flushes first, and if that fails its event is not taken.

    Raises:
        TypeError, ValueError: for any of them.

    >>> buffer = EventBuffer(max_size=2)
    >>> received = []
    >>> [buffer.enqueue(event, received.append) for event in ("a", "b", "c")]
    [True, True, True]
    >>> buffer.flush(), received, buffer.dropped_count
    (2, ['b', 'c'], 1)
    """

    def __init__(
        self,
        max_size: int = 1000,
        backpressure_threshold: float = 0.8,
        overflow: Overflow = "drop_oldest",
        on_backpressure: Callable[[BufferMetrics], object] | None = None,
        *,
        flush_interval: float | None = None,
        flush_size: int | None = None,
    ) -> None:
        _check_sizes(max_size, backpressure_threshold, flush_size)
        if overflow not in get_args(Overflow):
            raise ValueError(f"overflow is one of {', '.join(map(repr, get_args(Overflow)))}, not {overflow!r}")
        if on_backpressure is not None and not callable(on_backpressure):
            raise TypeError(f"on_backpressure is called with a BufferMetrics, {on_backpressure!r} cannot be")
        _check_interval(flush_interval)
        # Never changes; the clock but by a test.
        self._max_size = max_size
        self._overflow = overflow
        self._drops_oldest = overflow == "drop_oldest"
        self._on_backpressure = on_backpressure
        self._alarm_size = math.ceil(backpressure_threshold * max_size)
        self._flush_interval = flush_interval
        self._flushes_by_size = flush_size is not None
        self._flush_size = flush_size or max_size + 1  # which it never has
        self._clock: Clock = time.monotonic
        self._reference: weakref.ref[Client] = weakref.ref(self, shared_flusher().retire)
        # Guards what follows; held for a moment only.
        self._lock = new_lock()
        self._room = Bell(self._lock)  # for whoever waits in `enqueue`
        self._filled = Bell(self._lock)  # in `take`
        self._turn = Bell(self._lock)  # in `flush`, for another's end
        self._ring = Ring(max_size)
        self._is_closed = False
        self._flusher: int | None = None  # the thread that flushes
        self._is_timed = False  # shared_flusher() will call
        self._last_error: BaseException | None = None
        _all.add(self)

    # ---------------------------------------------------------------- figures

    @property
    def overflow(self) -> Overflow:
        """What it does when it is full."""
        return self._overflow

    @property
    def flushes_itself(self) -> bool:
        """Whether it calls `send` by itself: it has a `flush_interval` or a `flush_size`."""
        return self._flushes_by_size or self._flush_interval is not None

    @property
    def max_size(self) -> int:
        """How many events may wait."""
        return self._max_size

    @property
    def size(self) -> int:
        """How many events wait, the one that is being sent included."""
        return len(self._ring.waiting)

    @property
    def dropped_count(self) -> int:
        """How many events were lost because there was no room."""
        return self._ring.dropped

    @property
    def last_error(self) -> BaseException | None:
        """What a `send` has raised in the last periodic flush, without its traceback, which is in the log (logger
        `syncflow.sse`, a warning for the first of several failures). None again when one has succeeded."""
        return self._last_error

    def is_healthy(self) -> bool:
        """Whether fewer than `backpressure_threshold * max_size` events wait."""
        return len(self._ring.waiting) < self._alarm_size

    def metrics(self) -> BufferMetrics:
        """All figures, of one moment."""
        with self._lock:
            return self._ring.metrics(self._clock())

    # ---------------------------------------------------------------- events come

    def enqueue(self, event: Any, send: Send, *, timeout: float | None = None) -> bool:
        """Any thread. Let `event` wait until a flush calls `send(event)`, or somebody takes it.

        Args:
            timeout: seconds to wait for room, if `overflow` is "block"; None is for ever. It ends with room, which
                `flush`, `take` and `reset` make, and with `close`.

        Returns:
            False if the event was dropped ("drop_newest").

        Raises:
            BufferFull: there is no room ("raise"), or was none for so long ("block"); or only this thread could make
                some, because it is in a `send` of this buffer.
            ValueError: the buffer is closed.
            Whatever `on_backpressure` raises, and `send`, if this call flushes.
        """
        if not callable(send):
            raise TypeError(f"send is called with the event, {send!r} cannot be")
        with self._lock:
            if self._is_closed:
                raise _closed()
            may_put = self._drops_oldest or len(self._ring.waiting) < self._max_size
            if may_put:
                follow_up = self._put(((event, send, self._clock()),))
        if not may_put:
            return self._enqueue_to_full(event, send, timeout)
        if follow_up is not None:
            self._follow_up(*follow_up)
        return True

    def enqueue_entries(self, entries: Sequence[Entry]) -> int:
        """Any thread. As `enqueue`, one after the other and at once, for the EventHub, which puts the same entries into
        all its buffers. Does not wait: "block" is as "raise" here.

        Returns:
            How many were taken, for a moment at least; "drop_newest" has dropped the others.

        Raises:
            BufferFull: the last ones do not fit ("raise"); those before them were taken.
            As `enqueue`.
        """
        with self._lock:
            if self._is_closed:
                raise _closed()
            surplus = 0
            if not self._drops_oldest:
                room = self._max_size - len(self._ring.waiting)
                surplus = max(0, len(entries) - room)
                entries = entries[:room]
                if self._overflow == "drop_newest":
                    self._ring.dropped += surplus
            follow_up = self._put(entries)
        if follow_up is not None:
            self._follow_up(*follow_up)
        if surplus and self._overflow != "drop_newest":
            raise self._full()
        return len(entries)

    def _enqueue_to_full(self, event: Any, send: Send, timeout: float | None) -> bool:
        """Without a lock. There was no room, and the oldest is not to be dropped."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._flushes_by_size:
                self._flush(waits=False)  # nobody else might
            with self._lock:
                if self._overflow == "block":
                    self._wait_for_room(until)
                if self._is_closed:
                    raise _closed()
                if len(self._ring.waiting) < self._max_size:
                    follow_up = self._put(((event, send, self._clock()),))
                    break
                if self._overflow == "drop_newest":
                    self._ring.dropped += 1
                    return False
                if not self._should_flush():
                    raise self._full()
        if follow_up is not None:
            self._follow_up(*follow_up)
        return True

    def _wait_for_room(self, until: float | None) -> None:
        """With _lock held. Until there is room, nothing to wait for, this thread should flush, or the time is over.
        Woken by whatever makes room, by `close`, and by a flush that fails."""
        while len(self._ring.waiting) == self._max_size and not self._is_closed and not self._should_flush():
            if self._flusher == threading.get_ident() or not self._room.sleep(until):
                return

    def _should_flush(self) -> bool:
        """With _lock held and the buffer full. A flush by size is due, and nobody is at it."""
        return self._flushes_by_size and self._flusher is None

    def _put(self, entries: Sequence[Entry]) -> tuple[BufferMetrics | None, bool] | None:
        """With _lock held. There is room, or the oldest are dropped. Returns what is to be done without the lock."""
        ring = self._ring
        before = len(ring.waiting)
        ring.put(entries)
        size = len(ring.waiting)
        if self._filled.sleepers:
            self._filled.notify(len(entries))
        if self._flush_interval is not None and not self._is_timed:
            self._ask_for_flush(self._flush_interval)
        crosses = before < self._alarm_size <= size and self._on_backpressure is not None
        is_due = size >= self._flush_size
        return (ring.metrics(self._clock()) if crosses else None, is_due) if crosses or is_due else None

    def _ask_for_flush(self, interval: float) -> None:
        """With _lock held, so that nobody asks twice."""
        shared_flusher().call_at(time.monotonic() + interval, self._reference)
        self._is_timed = True  # not before: an interrupt may have come first

    def _follow_up(self, crossing: BufferMetrics | None, is_due: bool) -> None:
        """Without a lock, in the thread whose event came to wait."""
        if crossing is not None and self._on_backpressure is not None:
            self._on_backpressure(crossing)
        if is_due:
            self._flush(waits=False)

    def _full(self) -> BufferFull:
        return BufferFull(
            f"{self._max_size} events wait in the buffer, which is all it takes: flush it, take from it, give it a "
            'larger max_size, or let it drop events (overflow="drop_oldest")'
        )

    # ---------------------------------------------------------------- events go

    def flush(self) -> int:
        """Any thread. Send what waits, in order, until nothing is left; return how many events were sent.

        An event leaves the buffer when its `send` has returned. When one raises, that event and all behind it stay, in
        order, and the exception comes out. (But if `max_size` is 1 and another event has come meanwhile under
        "drop_oldest", it is dropped.)

        One flush at a time: a second thread waits for the first, as long as that one's `send` takes, and goes on with
        what is left. In a `send` of this buffer it returns 0 at once: the outer one is at it.
        """
        return self._flush(waits=True)

    def _flush(self, *, waits: bool, on_time: bool = False) -> int:
        """`waits` for another's flush, or leaves it to that one. `on_time`: ends with `close`."""
        if self._flusher == threading.get_ident():
            return 0
        try:
            # Not the loop itself: Python 3.13 leaves the jump at its end, where a signal's handler may run, out of the
            # `try` around it.
            return self._send_all(waits, on_time)
        except BaseException:
            self._break_off()
            raise

    def _send_all(self, waits: bool, on_time: bool) -> int:
        sent = 0
        entry = self._begin(waits, on_time)
        while entry is not None:
            event, send, _ = entry
            send(event)
            sent += 1
            entry = self._go_on(on_time)
        return sent

    def _begin(self, waits: bool, on_time: bool) -> Entry | None:
        """Take the turn, and the first entry; None if there is nothing to do. Woken by the end of the other's flush."""
        with self._lock:
            while self._flusher is not None:
                if not waits:
                    return None
                self._turn.sleep()
            self._flusher = threading.get_ident()
            return self._first(on_time)

    def _go_on(self, on_time: bool) -> Entry | None:
        """The first one was sent."""
        with self._lock:
            self._ring.first_was_sent()
            if self._room.sleepers:
                self._room.notify()
            self._last_error = None
            return self._first(on_time)

    def _first(self, on_time: bool) -> Entry | None:
        """With _lock held, in turn. The one to send next; None if there is none, and then the turn is over, in the same
        moment: whoever comes with an event later does not leave it to this thread."""
        if self._ring.waiting and not (on_time and self._is_closed):
            return self._ring.first()
        self._flusher = None
        if self._turn.sleepers:
            self._turn.notify()
        return None

    def _break_off(self) -> None:
        """The first one was not sent, and stays where it is; or this thread has not had the turn at all."""
        with self._lock:
            if self._flusher == threading.get_ident():
                self._ring.first_was_not_sent()
                self._flusher = None
            self._turn.notify()
            self._filled.notify()
            self._room.notify_all()  # to see whether they should flush

    def take(self, most: int, timeout: float | None = None) -> list[Any]:
        """Any thread. The oldest events, at least one and at most `most`; they count as sent.

        Waits until there is one. [] if there was none for `timeout` seconds (None: for ever), or the buffer is closed
        and empty. The one that a flush is sending at this moment is left to it.

        Raises:
            ValueError: `most` is less than 1.
        """
        return self.take_with_drops(most, timeout)[0]

    def take_with_drops(self, most: int, timeout: float | None = None) -> tuple[list[Any], int]:
        """As `take`, with the `dropped_count` of the same moment. Under "drop_oldest" all of these were older than the
        events that are returned, so what has been added since the last time is missing just before them."""
        if most < 1:
            raise ValueError(f"take at least 1 event, not {most!r}")
        with self._lock:
            if not self._ring.available:
                self._wait_for_events(timeout)
            entries = self._ring.take(most)
            if self._room.sleepers:
                self._room.notify(len(entries))
            dropped = self._ring.dropped
        return [entry[0] for entry in entries], dropped

    def _wait_for_events(self, timeout: float | None) -> None:
        """With _lock held. Until there is an event to take, the buffer is closed, or the time is over. Woken by
        `enqueue`, by `close`, and by a flush that leaves what it was sending."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._ring.available and not self._is_closed:
            if not self._filled.sleep(until):
                return

    # ---------------------------------------------------------------- periodic flushes

    def on_time(self) -> float | None:
        """The flusher's thread only. See `flushing.Client`."""
        try:
            self._flush(waits=False, on_time=True)
        except BaseException as error:  # of the user's, and nobody else would hear of it; the thread is everybody's
            self._note_failure(error)
        with self._lock:
            self._is_timed = bool(self._ring.waiting) and not self._is_closed
            if not self._is_timed or self._flush_interval is None:
                return None
        return time.monotonic() + self._flush_interval

    def _note_failure(self, error: BaseException) -> None:
        with self._lock:
            is_first = self._last_error is None
            self._last_error = error
        if is_first:
            logger.warning(
                "a periodic flush has failed; %d events wait, and it is tried again every %g s",
                self.size,
                self._flush_interval,
                exc_info=error,
            )
        error.with_traceback(None)  # it holds the frames, they hold the buffer, and that holds the error

    # ---------------------------------------------------------------- the end

    def reset(self) -> None:
        """Any thread. Empty it, forget all figures. The one that is being sent is not stopped, and does not count."""
        with self._lock:
            forgotten, self._ring = self._ring, Ring(self._max_size)
            self._last_error = None
            self._room.notify_all()
        del forgotten  # not before: an event may have a finalizer

    def close(self) -> None:
        """Any thread. Take no more events: whoever waits in `enqueue` gets a ValueError, whoever waits in `take` gets
        what is left, and then []. Periodic flushes end. What was not sent stays, and can be flushed or taken still."""
        with self._lock:
            self._is_closed = True
            self._room.notify_all()
            self._filled.notify_all()
        shared_flusher().retire(self._reference)

    def _after_fork_in_child(self) -> None:
        """The threads that held the lock, waited, or were to call did not come along."""
        for bell in (self._room, self._filled, self._turn):
            bell.forget()
        if self._flusher != threading.get_ident():  # else the `send` that forked goes on
            self._flusher = None
            self._ring.first_was_not_sent()
        self._is_timed = False


def _check_sizes(max_size: object, threshold: object, flush_size: object) -> None:
    for name, value in (("max_size", max_size), ("flush_size", flush_size)):
        if value is None and name == "flush_size":
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} is a whole number of events, not {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value!r}")
    if isinstance(flush_size, int) and isinstance(max_size, int) and flush_size > max_size:
        raise ValueError(f"so many events never wait: flush_size is {flush_size!r}, and max_size {max_size!r}")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise TypeError(f"backpressure_threshold is a part of max_size, as 0.8, not {threshold!r}")
    if not 0 < threshold <= 1:
        raise ValueError(f"backpressure_threshold must be more than 0 and at most 1, not {threshold!r}")


def _check_interval(interval: object) -> None:
    if interval is None:
        return
    if isinstance(interval, bool) or not isinstance(interval, int | float):
        raise TypeError(f"flush_interval is a number of seconds or None, not {interval!r}")
    if not interval > 0 or math.isinf(interval):
        raise ValueError(f"flush_interval must be more than 0 seconds, not {interval!r}; None is no periodic flush")


def _closed() -> ValueError:
    return ValueError("the buffer is closed: it takes no more events")


_all: weakref.WeakSet[EventBuffer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for buffer in list(_all):
        buffer._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

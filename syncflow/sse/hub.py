"""One upstream, any number of subscribers, each with a buffer and a pace of its own.

Knows who subscribes, what a late one missed, and when one is given up. Knows neither where the events come from nor
what is done with them. What is lost to a slow subscriber is its buffer's to decide.

A thread of the hub reads the upstream and puts each batch into all buffers; it never waits for a subscriber. A
subscriber waits in its buffer (`EventBuffer.take`), woken by that thread and by `close`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .buffer import BufferFull, BufferMetrics, Entry, EventBuffer

__all__ = ["EventHub", "EventSubscription", "HubHealth", "SubscriberHealth", "UpstreamError"]

logger = logging.getLogger("syncflow.sse")

# The part of its buffer that a subscriber takes at once, because a lock for each event would cost more than all the
# rest: so little that one that is behind does not look healthy for it; and how many events at the most.
TAKEN_PART = 10
MOST_TAKEN = 256

# Seconds between two looks at subscribers that are behind, while no event comes.
GLANCE = 1.0

# Seconds that `close` waits for the thread to see that its upstream was closed.
JOIN_TIMEOUT = 5.0


class UpstreamError(Exception):
    """An EventHub has no more events because its upstream has failed, with the error that is the cause. Raised in every
    subscriber, after its last event, and by `subscribe`."""


@dataclass(frozen=True, slots=True)
class SubscriberHealth:
    """How one subscriber keeps up, at one moment.

    Args:
        number: of the subscription: the first of the hub has 1.
        metrics: of its buffer.
        is_healthy: whether its buffer is below the threshold of backpressure.
        unhealthy_for: seconds that it has not been, as far as the hub has seen; 0.0 if it is.
    """

    number: int
    metrics: BufferMetrics
    is_healthy: bool
    unhealthy_for: float


@dataclass(frozen=True, slots=True)
class HubHealth:
    """How a hub does, at one moment; `dataclasses.asdict` makes it ready for JSON.

    Args:
        is_running: whether the upstream is read.
        error: what the upstream has failed with, as text; None if it has not.
        events: how many have come from the upstream.
        last_event_age: seconds since the last one; None before the first.
        healthy: subscribers that keep up.
        unhealthy: those that do not.
        dropped: events that subscribers have lost, those who have left included.
        disconnected: subscribers that the hub has given up.
        subscribers: each of those that are there.
    """

    is_running: bool
    error: str | None
    events: int
    last_event_age: float | None
    healthy: int
    unhealthy: int
    dropped: int
    disconnected: int
    subscribers: tuple[SubscriberHealth, ...]


class EventSubscription:
    """The events of a hub, for one consumer: see `EventHub.subscribe`. A context manager and iterator.

    One thread at a time may iterate, any may `close`. Iterating ends when the upstream has ended, when `close` is
    called, or when the hub has given this subscription up: `ended_because` says which.

    Attributes:
        dropped: events that were lost because this consumer was too slow. Those that have come to it since the last
            batch it took are missing just before the event it is given next.
        resumed: True if it goes on just behind the `last_event_id` that it came with; False if the hub does not know
            that id any more, so that events may be missing in front; None if it came with none.
        ended_because: why there are no more events; None as long as there may be.
    """

    def __init__(self, hub: EventHub, number: int, buffer: EventBuffer) -> None:
        # Never changes.
        self.number = number
        self.buffer = buffer
        self._hub = hub
        self._most = max(1, min(buffer.max_size // TAKEN_PART, MOST_TAKEN))
        # Written once, by the hub before anybody has this object.
        self.resumed: bool | None = None
        # The consumer's.
        self._ready: deque[Any] = deque()
        self._is_over = False  # and everything was handed out
        self.dropped = 0
        # Written by any thread, once; the buffer is closed afterwards.
        self.ended_because: str | None = None
        self._is_closed = False
        # Since when it has not been healthy; the hub's thread's.
        self.unhealthy_since: float | None = None

    def __iter__(self) -> Iterator[Any]:
        """Faster by half than `next`, for a `for` loop; the two may be mixed."""
        ready = self._ready
        while self._fill(None):
            while ready and not self._is_closed:
                yield ready.popleft()

    def __next__(self) -> Any:
        """The next event.

        Raises:
            UpstreamError: the upstream has failed.
        """
        if not self._fill(None):
            raise StopIteration
        return self._ready.popleft()

    def batch(self, patience: float | None = None) -> list[Any] | None:
        """All events that this consumer may have at once, as soon as there is one; an empty list if there was none for
        `patience` seconds; None at the end. Raises as iterating does."""
        if not self._fill(patience):
            return None if self._is_over else []
        events = list(self._ready)
        self._ready.clear()
        return events

    def _fill(self, patience: float | None) -> bool:
        """Whether there is an event now. Waits in the buffer, which the end closes."""
        while not self._is_closed:
            if self._ready:
                return True
            has_ended = self.ended_because is not None  # asked first: then nothing comes into the buffer any more
            events = self._take(patience)
            if has_ended and not events:
                self._is_over = True
                self._hub.check()
                return False
            if not events and self.ended_because is None:
                return False  # its patience is over
        self._is_over = True
        return False

    def _take(self, patience: float | None) -> list[Any]:
        events, dropped = self.buffer.take_with_drops(self._most, patience)
        if not self._is_closed:  # else the figures of the buffer are gone
            self.dropped = dropped
            self._ready.extend(events)
        return events

    def close(self) -> None:
        """Any thread, any number of times. Leave the hub; an iteration that waits ends."""
        self._is_closed = True
        self._hub.remove(self, "it was closed")
        self.buffer.reset()

    def end(self, why: str) -> None:
        """The hub only. What is in the buffer can still be taken."""
        if self.ended_because is None:
            self.ended_because = why
        self.buffer.close()

    def __enter__(self) -> EventSubscription:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EventSubscription {self.number}>"


class EventHub:
    """One upstream to many consumers. A context manager, which starts it.

    Args:
        events: the upstream: an `EventStream`, or any iterable. It is read as fast as it comes, whatever the
            subscribers do, by one thread, and closed with the hub if it has a `close`.
        buffer: called for the `EventBuffer` of each subscriber, as `functools.partial(EventBuffer, max_size=100)`. Its
            `overflow` cannot be "block", as the hub waits for nobody; with "raise" a subscriber whose buffer is full is
            given up.
        replay: how many of the last events are kept for subscribers that come back with a last event ID.
        disconnect_when: asked for each subscriber that is not healthy, with its `SubscriberHealth`, whenever events
            have come, and every second if `events` is an `EventStream`; True gives it up. In the hub's thread: it must
            not wait.

    Raises:
        TypeError, ValueError: one of them will not do.
    """

    def __init__(
        self,
        events: Iterable[Any],
        buffer: Callable[[], EventBuffer] = EventBuffer,
        *,
        replay: int = 100,
        disconnect_when: Callable[[SubscriberHealth], bool] | None = None,
    ) -> None:
        kept: object = replay
        if isinstance(kept, bool) or not isinstance(kept, int):
            raise TypeError(f"replay is a number of events, not {replay!r}")
        if replay < 0:
            raise ValueError(f"replay must be at least 0, not {replay}")
        # Never changes.
        self._upstream = events
        self._new_buffer = buffer
        self._disconnect_when = disconnect_when
        self._checked_buffer()
        # Guards what follows; held for a moment only, and while nothing of the user's runs.
        self._lock = threading.Lock()
        self._subscriptions: tuple[EventSubscription, ...] = ()  # replaced, never changed
        self._history: deque[Any] = deque(maxlen=replay)
        self._count = 0  # subscriptions so far
        self._disconnected = 0
        self._dropped = 0  # by those who have left
        self._thread: threading.Thread | None = None
        self._ended_because: str | None = None
        self._error: BaseException | None = None
        # Written by the hub's thread.
        self._events = 0
        self._last_event_at: float | None = None
        _all.add(self)

    # ---------------------------------------------------------------- subscribers: any thread

    def subscribe(self, last_event_id: str | None = None) -> EventSubscription:
        """Any thread. Everything that comes from now on; and before that, if the consumer says which event it had last,
        those that came behind it, as far as the hub has kept them.

        Raises:
            UpstreamError: the upstream has failed.
            ValueError: the hub has ended, and the consumer has missed nothing; or `buffer` has made something that will
                not do.
        """
        buffer = self._checked_buffer()
        self.check()
        with self._lock:
            self._count += 1
            subscription = EventSubscription(self, self._count, buffer)
            if last_event_id:
                missed, subscription.resumed = _behind(self._history, last_event_id)
                subscription._ready.extend(missed)  # not into the buffer: that may call the user
            has_ended = self._ended_because
            if has_ended is None:
                self._subscriptions = (*self._subscriptions, subscription)
        if has_ended is not None:
            if not subscription._ready:
                raise ValueError(f"the hub has ended: {has_ended}")
            subscription.end(has_ended)
        return subscription

    def remove(self, subscription: EventSubscription, why: str) -> bool:
        """Any thread. Forget a subscription, and end it; whether it was there."""
        with self._lock:
            left = tuple(other for other in self._subscriptions if other is not subscription)
            was_there = len(left) < len(self._subscriptions)
            self._subscriptions = left
            if was_there:
                self._dropped += subscription.buffer.dropped_count
        subscription.end(why)
        return was_there

    def health(self) -> HubHealth:
        """Any thread. For a monitoring endpoint."""
        now = time.monotonic()
        with self._lock:
            subscriptions, dropped, disconnected = self._subscriptions, self._dropped, self._disconnected
            is_running = self._thread is not None and self._ended_because is None
            error = self._error
        subscribers = tuple(_health_of(subscription, now) for subscription in subscriptions)
        healthy = sum(subscriber.is_healthy for subscriber in subscribers)
        last = self._last_event_at
        return HubHealth(
            is_running=is_running,
            error=None if error is None else f"{type(error).__name__}: {error}",
            events=self._events,
            last_event_age=None if last is None else max(0.0, now - last),
            healthy=healthy,
            unhealthy=len(subscribers) - healthy,
            dropped=dropped + sum(subscriber.metrics.dropped for subscriber in subscribers),
            disconnected=disconnected,
            subscribers=subscribers,
        )

    def check(self) -> None:
        """Any thread. Raise `UpstreamError` if the upstream has failed."""
        if self._error is not None:
            raise UpstreamError(f"the hub's upstream has failed: {self._error}") from self._error

    def _checked_buffer(self) -> EventBuffer:
        make: object = self._new_buffer
        buffer = make() if callable(make) else None
        if not isinstance(buffer, EventBuffer):
            raise TypeError(f"buffer= is called for a new EventBuffer for each subscriber, {make!r} makes none")
        if buffer.overflow == "block":
            raise ValueError('a hub waits for no subscriber: its buffers cannot have overflow="block"')
        if buffer.flushes_itself:
            raise ValueError("what is in a hub's buffer is taken by its subscriber: it cannot have flush_interval=")
        return buffer

    # ---------------------------------------------------------------- the hub's thread

    def start(self) -> None:
        """Any thread, once. Begin to read the upstream, on a thread of its own.

        Raises:
            RuntimeError: it was started before.
        """
        with self._lock:
            if self._thread is not None or self._ended_because is not None:
                raise RuntimeError("a hub can be started once")
            self._thread = threading.Thread(target=self._run, name="syncflow-hub", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for events in _batches(self._upstream, self._patience):
                if self._ended_because is not None:
                    return
                self._publish(events)
        except BaseException as error:
            self._end("the upstream has failed", error)
        else:
            self._end("the upstream has ended")

    def _patience(self) -> float | None:
        """How long to wait for events before there is something to look at."""
        if self._disconnect_when is None or all(each.unhealthy_since is None for each in self._subscriptions):
            return None
        return GLANCE

    def _publish(self, events: list[Any]) -> None:
        """To everybody who is there; whoever comes meanwhile has them from the history."""
        now = time.monotonic()
        with self._lock:
            self._history.extend(events)
            subscriptions = self._subscriptions
        if events:
            self._events += len(events)
            self._last_event_at = now
        entries: list[Entry] = [(event, _never_sent, now) for event in events]
        for subscription in subscriptions:
            self._give(subscription, entries, now)

    def _give(self, subscription: EventSubscription, entries: list[Entry], now: float) -> None:
        buffer = subscription.buffer
        try:
            if entries:
                buffer.enqueue_entries(entries)
        except BufferFull:
            self._disconnect(subscription, f"its buffer was full ({buffer.max_size} events)")
            return
        except ValueError:
            return  # closed since
        except Exception as error:  # of the program's own `on_backpressure`; the others are to have their events
            logger.warning("a subscriber's on_backpressure has failed; the subscriber is given up", exc_info=error)
            self._disconnect(subscription, f"its on_backpressure has raised {error!r}")
            return
        if buffer.is_healthy():
            subscription.unhealthy_since = None
            return
        if subscription.unhealthy_since is None:
            subscription.unhealthy_since = now
        if self._disconnect_when is not None and self._disconnect_when(_health_of(subscription, now)):
            behind = now - subscription.unhealthy_since
            self._disconnect(subscription, f"it was behind for {behind:.1f} s, with {buffer.size} events waiting")

    def _disconnect(self, subscription: EventSubscription, why: str) -> None:
        if self.remove(subscription, why):
            with self._lock:
                self._disconnected += 1

    def _end(self, why: str, error: BaseException | None = None) -> None:
        """Any thread, any number of times. Nothing more comes."""
        with self._lock:
            if self._ended_because is None:
                self._ended_because, self._error = why, error
            why = self._ended_because
            subscriptions = self._subscriptions
        for subscription in subscriptions:
            subscription.end(why)

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Any thread, any number of times. Close the upstream, end all subscriptions: what is in their buffers can
        still be taken. An upstream without a `close` that can be called meanwhile is left to its thread."""
        self._end("the hub was closed")
        close = getattr(self._upstream, "close", None)
        try:
            if close is not None:
                close()
        except ValueError:
            return  # a generator that is being iterated: it ends with its next event
        thread = self._thread
        if close is not None and thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_TIMEOUT)

    def __enter__(self) -> EventHub:
        if self._thread is None:
            self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _after_fork_in_child(self) -> None:
        """The thread that reads did not come along."""
        self._lock = threading.Lock()
        if self._thread is not None:
            self._end("it belongs to the parent process; make another one after fork()")


def _batches(events: Iterable[Any], patience: Callable[[], float | None]) -> Iterator[list[Any]]:
    """What comes at once, where the upstream can tell; else one by one."""
    batch = getattr(events, "batch", None)
    if batch is None:
        for event in events:
            yield [event]
        return
    while (together := batch(patience())) is not None:
        yield together


def _behind(history: deque[Any], last_event_id: str) -> tuple[list[Any], bool]:
    """What came after the last event with this id, and True; all there is, and False, if there is none with it."""
    behind: list[Any] = []
    for event in reversed(history):
        if getattr(event, "id", None) == last_event_id:
            return behind[::-1], True
        behind.append(event)
    return behind[::-1], False


def _health_of(subscription: EventSubscription, now: float) -> SubscriberHealth:
    metrics = subscription.buffer.metrics()
    since = subscription.unhealthy_since
    is_healthy = subscription.buffer.is_healthy()
    behind = 0.0 if is_healthy or since is None else max(0.0, now - since)
    return SubscriberHealth(subscription.number, metrics, is_healthy, behind)


def _never_sent(event: Any) -> None:
    """A hub's buffers are not flushed, but taken from."""
    raise RuntimeError(f"a hub's buffer is not to be flushed: {event!r} is for its subscriber")


_all: weakref.WeakSet[EventHub] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for hub in list(_all):
        hub._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

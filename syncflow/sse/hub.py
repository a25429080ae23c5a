"""One upstream, any number of subscribers, each with a buffer and a pace of its own.

Knows who subscribes, what a late one missed, and when one is given up. Knows neither where the events come from nor
what is done with them. What is lost to a slow subscriber is its buffer's to decide.

A thread of the hub reads the upstream, where it waits, woken by what comes and by the upstream's end, which `close`
brings about. It puts each batch into all buffers, and never waits for a subscriber.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .buffer import BufferFull, BufferMetrics, Entry, EventBuffer
from .subscription import EventSubscription
from .upstream import batches_of
from .upstream import close as close_upstream

__all__ = ["EventHub", "HubHealth", "SubscriberHealth", "UpstreamError"]

logger = logging.getLogger("syncflow.sse")

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


class EventHub:
    """One upstream to many consumers. A context manager, which starts it.

    Args:
        events: the upstream: an `EventStream`, a `Response` whose body is one, or any iterable. It is read as fast as
            it comes, whatever the subscribers do, by one thread, and closed with the hub if it can be.
        buffer: called for the `EventBuffer` of each subscriber, as `functools.partial(EventBuffer, max_size=100)`. Its
            `overflow` cannot be "block", as the hub waits for nobody; with "raise" a subscriber whose buffer is full is
            given up.
        replay: how many of the last events are kept for subscribers that come back with a last event ID.
        disconnect_when: asked for each subscriber that is not healthy, with its `SubscriberHealth`, whenever events
            have come, and every second if `events` is an `EventStream`; True gives it up. In the hub's thread: it must
            not wait.

    Raises:
        TypeError, ValueError: one of them will not do.
        ContentTypeError: the `Response` is no stream of events.
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
        self._batches = batches_of(events, self._patience)
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
        # Set by any thread, never back.
        self._is_closed = False
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
            history = list(self._history) if last_event_id else []
            has_ended = self._ended_because
            if has_ended is None:
                self._subscriptions = (*self._subscriptions, subscription)
        if last_event_id:
            # Not into the buffer, where newer ones may be by now.
            missed, subscription.resumed = _behind(history, last_event_id)
            subscription._ready.extend(missed)
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
            raise ValueError(
                "what is in a hub's buffer is taken by its subscriber: it cannot have flush_interval= or flush_size="
            )
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
            thread = threading.Thread(target=self._run, name="syncflow-hub", daemon=True)
            thread.start()  # in here, so that nobody waits for one that has not been started, or cannot be
            self._thread = thread

    def _run(self) -> None:
        try:
            for events in self._batches:
                if self._ended_because is not None:
                    break
                self._publish(events)
        except BaseException as error:
            if self._end("the upstream has failed", error):  # else it is what woke this thread
                logger.warning("the upstream of a hub has failed", exc_info=error)
        else:
            self._end("the upstream has ended")
        if self._is_closed:
            close_upstream(self._upstream)  # again: a generator can be closed now

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
        """What goes wrong with one subscriber is its own; the others are to have their events."""
        try:
            if entries:
                subscription.buffer.enqueue_entries(entries)
        except BufferFull:
            self._disconnect(subscription, f"its buffer was full ({subscription.buffer.max_size} events)")
        except Exception as error:
            if subscription.ended_because is None:  # else it was closed meanwhile, and takes no more
                self._give_up(subscription, "its on_backpressure", error)
        else:
            self._judge(subscription, now)

    def _judge(self, subscription: EventSubscription, now: float) -> None:
        """Notice since when it is behind, and give it up if the program says so."""
        if subscription.buffer.is_healthy():
            subscription.unhealthy_since = None
            return
        if subscription.unhealthy_since is None:
            subscription.unhealthy_since = now
        if self._disconnect_when is None:
            return
        health = _health_of(subscription, now)
        try:
            is_over = self._disconnect_when(health)
        except Exception as error:
            self._give_up(subscription, "disconnect_when", error)
            return
        if is_over:
            why = f"it was behind for {health.unhealthy_for:.1f} s, with {health.metrics.size} events waiting"
            self._disconnect(subscription, why)

    def _give_up(self, subscription: EventSubscription, what: str, error: Exception) -> None:
        """A function of the program's has failed for this one."""
        logger.warning("a subscriber of a hub is given up, because %s has failed", what, exc_info=error)
        self._disconnect(subscription, f"{what} has raised {error!r}")

    def _disconnect(self, subscription: EventSubscription, why: str) -> None:
        if self.remove(subscription, why):
            with self._lock:
                self._disconnected += 1

    def _end(self, why: str, error: BaseException | None = None) -> bool:
        """Any thread, any number of times. Nothing more comes. Whether something might have until now."""
        with self._lock:
            is_first = self._ended_because is None
            if is_first:
                self._ended_because, self._error = why, error
            subscriptions = self._subscriptions
        for subscription in subscriptions:
            subscription.end(str(self._ended_because))
        return is_first

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Any thread, any number of times. Close the upstream, end all subscriptions: what is in their buffers can
        still be taken. One that cannot be closed from here, as a generator that waits, is closed by the hub's thread
        when its next event comes, which is not waited for."""
        self._is_closed = True
        self._end("the hub was closed")
        has_ended = close_upstream(self._upstream)
        thread = self._thread
        if has_ended and thread is not None and thread is not threading.current_thread():
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


def _behind(history: list[Any], last_event_id: str) -> tuple[list[Any], bool]:
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

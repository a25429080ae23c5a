"""What one consumer of a hub has: its events, one by one or together, and what it has lost.

Knows the consumer's side of its buffer, and how its events end. Who else subscribes, and what is put into the buffer,
is the hub's to know.

A consumer waits in its buffer (`EventBuffer.take`), woken by the hub's thread, and by whoever closes the subscription
or the hub.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .buffer import EventBuffer

if TYPE_CHECKING:
    from .hub import EventHub

__all__ = ["EventSubscription"]

# The part of its buffer that a subscriber takes at once, because a lock for each event would cost more than all the
# rest: so little that one that is behind does not look healthy for it; and how many events at the most.
TAKEN_PART = 10
MOST_TAKEN = 256


class EventSubscription:
    """The events of a hub, for one consumer: see `EventHub.subscribe`. A context manager and iterator.

    It is the hub's, with its buffer, until it is closed. One thread at a time may iterate, any may `close`. Iterating
    ends when the upstream has ended, when `close` is called, or when the hub has given this subscription up:
    `ended_because` says which.

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

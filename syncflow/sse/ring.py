"""Events in their order, at most so many, and what became of the others.

Knows who leaves when there is no room, and the figures. Knows nothing of threads, of waiting, or of what an event is.

Every method is called with the lock of the `EventBuffer` held, which guards every field.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["BufferMetrics", "Entry", "Ring", "Send"]

Send = Callable[[Any], object]

# An event, what sends it, and the moment of `time.monotonic()` since which it waits. Never changes, so that any number
# of buffers may share it.
Entry = tuple[Any, Send, float]


@dataclass(frozen=True, slots=True)
class BufferMetrics:
    """The figures of an EventBuffer at one moment. Always `enqueued == sent + dropped + size`.

    Args:
        size: events that wait, the one that is being sent included.
        max_size: how many may.
        enqueued: events that were given to the buffer and not refused by an exception, since it was made or reset.
        sent: those whose `send` has returned, or that were taken.
        dropped: those that were lost because there was no room.
        high_water: the largest `size` so far.
        oldest_age: seconds that the oldest event has waited; None if there is none.
    """

    size: int
    max_size: int
    enqueued: int
    sent: int
    dropped: int
    high_water: int
    oldest_age: float | None


class Ring:
    """What waits. The one that is being sent is the first, and stays there until it was."""

    __slots__ = ("_is_forfeited", "_max_size", "dropped", "high_water", "is_sending", "sent", "waiting")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        # When more come than there is room for, the first ones go by themselves.
        self.waiting: deque[Entry] = deque(maxlen=max_size)
        self.is_sending = False  # the first of them
        self._is_forfeited = False  # what is being sent had to leave, and counts as sent unless that fails
        # What was enqueued is the sum of what became of it, so that no interrupt makes the figures differ.
        self.sent = 0
        self.dropped = 0
        self.high_water = 0

    @property
    def available(self) -> int:
        """How many can be taken."""
        return len(self.waiting) - self.is_sending

    def put(self, entries: Sequence[Entry]) -> None:
        """At the end. Where there is no room the oldest are dropped."""
        waiting = self.waiting
        surplus = len(waiting) + len(entries) - self._max_size
        if surplus > 0:
            entries = self._make_room(surplus, entries)
        waiting.extend(entries)
        if len(waiting) > self.high_water:
            self.high_water = len(waiting)

    def _make_room(self, surplus: int, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Count the oldest as dropped, of `entries` too if they are so many; but the one that is being sent is not."""
        self.dropped += surplus
        if not self.is_sending:
            return entries
        if self._max_size == 1:
            # It alone can make room. Whether it is lost is not known yet.
            self.is_sending, self._is_forfeited = False, True
            self.dropped -= 1
            self.sent += 1
            return entries
        for _ in range(min(surplus, len(self.waiting) - 1)):
            del self.waiting[1]
        return entries[1 - self._max_size :]

    def first(self) -> Entry:
        """The one to be sent now."""
        self.is_sending = True
        return self.waiting[0]

    def first_was_sent(self) -> None:
        """What `first` gave leaves."""
        if self.is_sending:
            self.waiting.popleft()
            self.sent += 1
        self.is_sending = self._is_forfeited = False

    def first_was_not_sent(self) -> None:
        """What `first` gave stays."""
        if self._is_forfeited:
            self.sent -= 1
            self.dropped += 1
        self.is_sending = self._is_forfeited = False

    def take(self, most: int) -> list[Entry]:
        """The oldest, without the one that is being sent. They count as sent."""
        waiting = self.waiting
        count = min(most, self.available)
        if count == len(waiting):
            entries = list(waiting)
            waiting.clear()
        elif self.is_sending:
            entries = [waiting[place] for place in range(1, count + 1)]
            for _ in entries:
                del waiting[1]
        else:
            entries = [waiting.popleft() for _ in range(count)]
        self.sent += count
        return entries

    def metrics(self, now: float) -> BufferMetrics:
        """The figures at the moment `now`."""
        size = len(self.waiting)
        return BufferMetrics(
            size=size,
            max_size=self._max_size,
            enqueued=self.sent + self.dropped + size,
            sent=self.sent,
            dropped=self.dropped,
            high_water=self.high_water,
            oldest_age=max(0.0, now - self.waiting[0][2]) if size else None,
        )

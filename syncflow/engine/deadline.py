"""The one clock of a request: made at the edge of the API, handed down, never made anew.

Knows when the whole request must end, and whether another thread may end it. Knows nothing of phases: their own limits
are passed beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..exceptions import TotalTimeout
from ..settings import Timeouts

if TYPE_CHECKING:
    from .calling_off import Cancellation

__all__ = ["Clock", "Deadline"]

Clock = Callable[[], float]


class Deadline:
    """The limits of one request and the moment at which all of it must be over.

    Any thread may read it; nothing in it changes but the count.

    Attributes:
        sent: tries of requests that were begun under it, counted if somebody watches. The requesting thread's.
    """

    __slots__ = ("at", "clock", "sent", "started", "timeouts")

    # Whoever waits for the request attends it. Most requests have none: what they return is closed instead.
    cancellation: Cancellation | None = None

    def __init__(self, timeouts: Timeouts, clock: Clock = time.monotonic) -> None:
        self.timeouts = timeouts
        self.clock = clock
        self.started = clock()
        self.sent = 0
        self.at = None if timeouts.total is None else self.started + timeouts.total

    def check(self, where: str, phase: str) -> None:
        """Raise TotalTimeout if the time is over."""
        if self.at is not None and self.clock() >= self.at:
            raise self.exceeded(where, phase)

    def wait_time(self, until: float | None) -> float | None:
        """Seconds to wait for an event whose own limit is the moment `until`; None is for ever."""
        if until is None:
            if self.at is None:
                return None
            until = self.at
        elif self.at is not None and self.at < until:
            until = self.at
        return max(0.0, until - self.clock())

    def exceeded(self, where: str, phase: str) -> TotalTimeout:
        """The error for a request that took too long while `phase` was under way with `where`."""
        return TotalTimeout(
            f"{where}: the whole request took longer than {self.timeouts.total:g} s (Timeouts.total) "
            f"and was in phase {phase!r}; allow more time or ask for less",
            phase=phase,
        )

"""How long a stream of events waits, beside the waits of its requests: for an event, and before it connects again.

Knows limits and delays. Knows nothing of what comes.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ..engine.calling_off import Cancellation
from ..engine.deadline import Clock, Deadline
from ..exceptions import EventTimeout, TotalTimeout

if TYPE_CHECKING:
    from ..settings import Timeouts

__all__ = ["EventDeadline", "delay_before"]

# Seconds from and up to which the delay grows while every try fails; a server may have asked for none at all.
SHORTEST_BACKOFF = 0.001
LONGEST_BACKOFF = 60.0

# By so much of itself a delay is longer, at random, so that the clients of a server that restarts do not all come back
# at once. Never shorter: the server has asked for it.
JITTER = 0.25


class EventDeadline(Deadline):
    """Of one connection: the deadline of the whole stream, and beside it a limit for each wait. The iterating thread's;
    what is in `cancellation` is any thread's."""

    __slots__ = ("_limit", "_stream_ends_at", "cancellation")

    def __init__(self, timeouts: Timeouts, cancellation: Cancellation, ends_at: float | None, clock: Clock) -> None:
        super().__init__(timeouts, clock)
        self.cancellation: Cancellation | None = cancellation
        self._stream_ends_at = ends_at
        self._limit = ""
        self.at = ends_at

    def end_wait_at(self, moment: float | None, limit: str) -> None:
        """What is waited for from now on is to come before `moment`; `limit` says whose word that is."""
        ends_at = self._stream_ends_at
        if moment is None or (ends_at is not None and ends_at <= moment):
            self.at, self._limit = ends_at, ""
        else:
            self.at, self._limit = moment, limit

    def exceeded(self, where: str, phase: str) -> TotalTimeout | EventTimeout:  # type: ignore[override]  # both end a wait
        """The error for the limit that has run out."""
        if not self._limit:
            return super().exceeded(where, phase)
        stays = phase in ("body", "reconnect")
        advice = "iterate again to go on waiting" if stays else "the connection that was being made is given up"
        return EventTimeout(f"{where}: no event came for {self._limit}, in phase {phase!r}; {advice}", phase=phase)


def delay_before(failures: int, reconnection_time: float) -> float:
    """Seconds before the next connection: what the server has asked for, doubled with every failure in a row up to a
    minute, and somewhat more at random (WHATWG HTML, section 9.2.3: "reestablish the connection")."""
    delay = reconnection_time
    if failures:
        backoff = max(reconnection_time, SHORTEST_BACKOFF) * 2.0 ** min(failures, 16)
        delay = max(reconnection_time, min(backoff, LONGEST_BACKOFF))
    return delay * random.uniform(1.0, 1.0 + JITTER)

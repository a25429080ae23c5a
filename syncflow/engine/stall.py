"""When is a peer to be called stuck? The judgement of one wait that has a limit of its own.

Knows the phase's limit, the deadline over everything, and the kernel's queue. Knows nothing of what is waited for.

The kernel's queue matters because it may hold megabytes: to a peer that reads 100 KiB/s, a socket becomes writable
only every eight seconds though bytes leave all the time, and the last byte leaves half a minute after it was handed
over. So a wait during which unacknowledged bytes become fewer is a wait in which something moved.
"""

from __future__ import annotations

from collections.abc import Callable

from ..exceptions import Timeout
from .deadline import Deadline

__all__ = ["Stall"]


class Stall:
    """One wait of one caller, from now.

    Args:
        deadline: of the whole request.
        where: "host:port", for the message.
        queue: tells how many bytes are on their way (`unacknowledged`), asked in the waiting thread with the lock
            held under which it waits; None if none can be.
    """

    __slots__ = ("_deadline", "_limit", "_mark", "_moved", "_queue", "_where")

    def __init__(self, deadline: Deadline, where: str, queue: Callable[[], int] | None) -> None:
        self._deadline = deadline
        self._where = where
        self._queue = queue
        self._limit: float | None = None
        self._moved = deadline.clock()
        self._mark = 0 if queue is None else queue()

    def time_left(self, limit: float | None, last_moved: float) -> float | None:
        """Seconds to wait before asking again; 0.0 when the time is over, None for ever.

        Args:
            limit: seconds in which something must move, None is for ever.
            last_moved: the moment at which this side saw something move.
        """
        self._limit = limit
        if limit is None:
            return self._deadline.wait_time(None)
        if last_moved > self._moved:
            self._moved = last_moved
        if not self._mark or self._queue is None:
            return self._deadline.wait_time(self._moved + limit)
        now = self._deadline.clock()
        mark = self._queue()
        if mark != self._mark:
            self._mark = mark
            self._moved = now
        until = self._moved + limit
        # Look at the queue now and then, to know when it moved last.
        return self._deadline.wait_time(min(until, now + limit / 4) if until > now else until)

    def timeout(self, kind: type[Timeout], name: str, phase: str, what: str) -> Timeout:
        """The error for a wait whose time is over: the total's, if that ran out, else the phase's own."""
        at = self._deadline.at
        if at is not None and self._deadline.clock() >= at:
            return self._deadline.exceeded(self._where, phase)
        return kind(
            f"{self._where}: {what} for {self._limit:g} s (Timeouts.{name}); "
            "raise that limit if the server may be this slow",
            phase=phase,
        )

"""When a pool is to look for what has expired: its timer on the worker.

Knows a moment, and a pool that it holds weakly. Knows nothing of what expires.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from .worker import Timer

if TYPE_CHECKING:
    from .pool import Pool

__all__ = ["Expiry"]


class Expiry:
    """The pool's timer: the worker's client, which holds the pool only weakly."""

    def __init__(self, pool: Pool) -> None:
        self._pool = weakref.ref(pool)
        self._worker = pool.worker
        # Worker only.
        self._timer: Timer | None = None
        self._when = 0.0  # it strikes

    def look_at(self, when: float) -> None:
        """Worker only. Look for what has expired at that moment, or earlier if that was asked for.

        Not now: the connection that was given back a moment ago is mostly in use again, and there would be nothing to
        wait for, and everything to begin anew with the next one.
        """
        if self._timer is None or when < self._when:
            self.cancel()
            self._when = when
            self._timer = self._worker.call_at(when, self, self._look)

    def _look(self) -> None:
        """Worker only. See to what has expired, and come back when it will be time again."""
        self._timer = None
        pool = self._pool()
        again = pool.expire() if pool is not None else None
        if again is not None:
            self.look_at(again)

    def cancel(self) -> None:
        """Worker only."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def fileno(self) -> int:
        """It is never watched, only timed."""
        return -1

    def on_ready(self, events: int) -> None:
        """It is never watched, only timed."""

    def on_failure(self, error: BaseException) -> None:
        """Timers are gone with the worker."""
        self._timer = None
        pool = self._pool()
        if pool is not None:
            pool.forget_timer()

    def on_fork(self) -> None:
        """Timers stayed with the parent."""
        self._timer = None

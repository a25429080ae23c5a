"""A wait of one caller between two exchanges, in which nothing is under way that could wake it.

Knows whom it is woken by and what limits it. Knows nothing of what it is waited for.
"""

from __future__ import annotations

from collections.abc import Callable

from ..exceptions import RequestException
from .deadline import Deadline
from .locks import Condition, new_lock

__all__ = ["Pause"]


class Pause:
    """One wait.

    Args:
        where: "host:port", for messages.
        phase: what its errors are to say.
    """

    def __init__(self, where: str, phase: str) -> None:
        # Never changes.
        self.where = where
        self._phase = phase
        # Guards what follows; `_called_off` is the Condition on it.
        self._lock = new_lock()
        self._called_off = Condition(self._lock)
        self._failure: RequestException | None = None

    def fail(self, error: RequestException) -> None:
        """Any thread. End it now."""
        with self._lock:
            self._failure = error
            self._called_off.notify_all()

    def wait(self, until: float, deadline: Deadline, is_closed: Callable[[], bool]) -> None:
        """Return at `until`, or if it `is_closed`, of which whoever closes tells by `fail`. Woken by `fail`; raises its
        error, or that of the deadline."""
        with self._lock:
            while self._failure is None and not is_closed():
                deadline.check(self.where, self._phase)
                left = deadline.wait_time(until)
                if left == 0.0 and deadline.clock() >= until:
                    return
                self._called_off.wait(left)
            if self._failure is not None:
                self._failure.phase = self._phase
                raise self._failure

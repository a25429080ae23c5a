"""Taking turns: one thread at a time does what must not be mixed, as a write of many pieces.

Knows who has the turn and who waits for it. Knows nothing of what is done in it.

A lock would do, but for two things: whoever waits must be told when there is nothing left to wait for, though the one
who has the turn may be waiting for a server; and a thread that has the turn may be struck by a signal whose handler
wants it too.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

from .locks import Condition, new_lock

__all__ = ["Turns"]


class Turns:
    """Args:
    is_lost: asked without a lock: whether it is over for a reason that `end` was not called for, as in a forked child,
        where the thread that had the turn does not exist.
    """

    def __init__(self, is_lost: Callable[[], bool]) -> None:
        # Never changes.
        self._is_lost = is_lost
        # Guards what follows; held for a moment only. `changed` is the Condition on it, for its owner's waits as well.
        self.lock = new_lock()
        self.changed = Condition(self.lock)
        self._holder: int | None = None
        self._waiting = 0  # how many, or more, if an interrupt has struck one of them
        self._is_over = False
        _all.add(self)

    def take(self) -> bool:
        """Wait for the turn; False if there are none any more. Woken by `give_back` and `end`. Whoever may have it
        already, as a signal's handler, asks `is_mine` first."""
        if self._is_lost():
            return False
        with self.lock:
            while self._holder is not None and not self._is_over:
                self._waiting += 1
                self.changed.wait()
                self._waiting -= 1
            if self._is_over:
                return False
            self._holder = threading.get_ident()
            return True

    def try_take(self) -> bool:
        """As `take`, without waiting; False also if another thread has it."""
        if self._is_lost():
            return False
        with self.lock:
            if self._holder is not None or self._is_over:
                return False
            self._holder = threading.get_ident()
            return True

    def give_back(self) -> None:
        """Whoever took it. The next one goes on."""
        with self.lock:
            self._holder = None
            if self._waiting:
                self.changed.notify()

    def end(self) -> None:
        """Any thread. No more turns: whoever waits is woken, and comes back with nothing."""
        with self.lock:
            self._is_over = True
            self._holder = None
            self.changed.notify_all()

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the turn."""
        return self._holder == threading.get_ident()

    @property
    def is_over(self) -> bool:
        """Any thread. Whether there are no more turns."""
        return self._is_over or self._is_lost()


_all: weakref.WeakSet[Turns] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """A thread that held one of the locks, or waited, did not come along."""
    for turns in list(_all):
        turns.changed.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

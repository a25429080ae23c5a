"""Locks and waits that an interrupt cannot leave in doubt.

A signal's handler (Ctrl-C) runs on the main thread between two byte codes and in an `acquire()` that blocks, and may
raise there. A `threading.Condition` on a plain Lock can then come back from `wait` without the lock, and the `with`
around it releases what another thread holds: two threads are where one may be. An RLock knows its owner, and a
Condition on it takes it back in C, where no handler runs. What is left is the moment between the release and the `try`.

And a signal that comes in the moment before the main thread falls asleep in the kernel does not wake it: Python has
looked for signals just before. So the main thread sleeps for `LONGEST_NAP` at a time, and looks again.

Plain Locks are right wherever they are only ever used by `with`, which is safe by itself.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol, cast

__all__ = ["Bell", "Condition", "OwnedLock", "nap", "new_lock", "ownership"]

# Seconds; Ctrl-C takes no longer than this.
LONGEST_NAP = 0.1
# Seconds that a Bell's wait sleeps at a time: a user may set any timeout, infinity included, and what the system takes
# is limited.
LONGEST_SLEEP = 3600.0
# Seconds after which a wait whose end may go untold looks for itself.
GLANCE = 1.0


class OwnedLock(Protocol):
    """An RLock, with the methods that `threading.Condition` uses of it."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...

    def release(self) -> None: ...

    def __enter__(self) -> bool: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def _is_owned(self) -> bool: ...

    def _at_fork_reinit(self) -> None: ...

    def _acquire_restore(self, ownership: tuple[int, int]) -> None:
        """Take it back, whatever signals come; written in C."""


def new_lock() -> OwnedLock:
    """For a Condition, and for what releases a lock in the middle of a `with`."""
    return cast(OwnedLock, threading.RLock())


def ownership() -> tuple[int, int]:
    """What `_acquire_restore` needs to know: held once, by this thread."""
    return (1, threading.get_ident())


def nap(timeout: float | None) -> float | None:
    """How long a wait for `timeout` seconds, None for ever, may be before this thread has to look for signals. Whoever
    waits looks again in any case."""
    if (timeout is None or timeout > LONGEST_NAP) and threading.get_ident() == threading.main_thread().ident:
        return LONGEST_NAP
    return timeout


class Condition(threading.Condition):
    """As the standard one, and whoever leaves `wait`, by an interrupt too, holds the lock.

    Take the lock itself: `with condition` enters a method written in Python, and an interrupt in there keeps the lock
    for ever.
    """

    def __init__(self, lock: OwnedLock) -> None:
        super().__init__(cast(Any, lock))
        # Never changes.
        self._owned = lock

    def forget(self) -> None:
        """In a forked child: nobody holds the lock, nobody waits. In place, because others know these objects."""
        self._at_fork_reinit()  # type: ignore[attr-defined]  # as `threading` does with its own

    def wait(self, timeout: float | None = None) -> bool:
        """With the lock held, once. See `threading.Condition.wait`; may come back early."""
        try:
            return super().wait(nap(timeout))
        except BaseException:
            if not self._owned._is_owned():
                self._owned._acquire_restore(ownership())
            raise


class Bell(Condition):
    """A Condition that knows whether anybody waits, for whoever would have to ring it often: to notify nobody costs
    more than many a thing that is worth telling."""

    def __init__(self, lock: OwnedLock) -> None:
        super().__init__(lock)
        # Guarded by the lock. How many, or more, if an interrupt has struck one of them.
        self.sleepers = 0

    def sleep(self, until: float | None = None) -> bool:
        """With the lock held, once. Until it rings, or for no reason at all: look what has become true, and sleep
        again. False, without sleeping, if the moment `until` of `time.monotonic()` has come."""
        left = LONGEST_SLEEP if until is None else min(until - time.monotonic(), LONGEST_SLEEP)
        if left <= 0:
            return False
        self.sleepers += 1
        try:
            self.wait(left)
        except BaseException:
            self.notify()  # it may have rung for this thread, which does not answer
            raise
        finally:
            self.sleepers -= 1
        return True

    def sleep_a_while(self, until: float | None) -> bool:
        """As `sleep`, for who may be rung for by the main thread: an interrupt may strike that one after it has changed
        something and before it could ring. So this one looks again every second."""
        soon = time.monotonic() + GLANCE
        if until is None or soon < until:
            self.sleep(soon)
            return True
        return self.sleep(until)

    def forget(self) -> None:
        super().forget()
        self.sleepers = 0

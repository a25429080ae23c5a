"""The calls that are under way in a session, and whether it takes new ones.

Knows when a call is new and when it is part of another: a redirect, a retry, a round of authentication, what a hook or
the generator of a body sends meanwhile. Knows nothing of connections: what a call leaves behind, as a response that is
still to be read, has one, and is the pool's to know.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Protocol

from .engine.deadline import Deadline
from .engine.locks import Bell, new_lock
from .exceptions import SessionClosed
from .models import PreparedRequest
from .urls import masked

__all__ = ["Calls"]


class Endless(Protocol):
    """What never ends by itself, and has to be told that it is time."""

    def wind_up(self) -> None:
        """Any thread. Begin nothing new, and end as soon as nothing is lost by it."""


class Calls:
    """Of one session. A call is known by its `Deadline`: there is one for all that it leads to.

    Whoever calls writes itself down in `under_way` and then looks at `is_draining` (if so, `check`); whoever drains
    says so and then looks who is written down. So one of the two sees the other, and a call takes no lock. Each is one
    step for everybody: the interpreter's lock sees to that, or, where there is none, the dict's own.

    And whoever calls takes itself out again, whatever has happened, and then looks at `is_draining` (if so, `tell`).
    All of this is done in place, and by no method: it is a step of one call into C, which an interrupt (Ctrl-C) does
    not leave half done; and it costs less.
    """

    def __init__(self) -> None:
        # Any thread, its own entry only: whose call it is.
        self.under_way: dict[Deadline, int] = {}
        # Set by any thread, never back.
        self.is_draining = False
        # By `Session.close`: what was under way has been ended, and whether there was anything.
        self.is_closed = False
        self.was_cut = False
        # Set by any thread, never back; guarded by _lock, and so is the set.
        self._ends_streams = False
        self._endless: weakref.WeakSet[Any] = weakref.WeakSet()
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        # Taken with nothing else held.
        self._lock = new_lock()
        self._changed = Bell(self._lock)

    # ---------------------------------------------------------------- a call: its thread

    def check(self, call: Deadline, request: PreparedRequest) -> None:
        """The session is draining: may this call begin, which is written down?

        Raises:
            SessionClosed: it may not, as it is no part of a call that is under way on this thread.
        """
        me = threading.get_ident()
        if not any(thread == me and other is not call for other, thread in list(self.under_way.items())):
            target = request.known_target
            where = masked(request.url) if target is None else target.authority
            state = "has been drained, and is closed" if self.is_closed else "is draining, and takes no new requests"
            raise SessionClosed(
                f"{where}: the session {state}; nothing was sent; make a new session, or drain this one after the last "
                "request",
                request=request,
            )

    def tell(self) -> None:
        """Any thread, holding nothing. One was taken out, or all are to look anew."""
        with self._lock:
            self._changed.notify_all()

    def follow(self, stream: Endless) -> None:
        """Any thread. It is to be told when the session drains, or wants no more streams."""
        with self._lock:
            self._endless.add(stream)
            ends_streams = self._ends_streams
        if ends_streams:
            stream.wind_up()

    def end_streams(self) -> None:
        """Any thread. What never ends by itself is to end, also what is begun later."""
        with self._lock:
            self._ends_streams = True
        self._wind_up()

    # ---------------------------------------------------------------- the end: any thread

    def retire(self) -> None:
        """Take no new ones.

        Raises:
            RuntimeError: this thread is in a call, by a hook, a generator or a signal's handler. Nothing has changed.
        """
        if threading.get_ident() in list(self.under_way.values()):
            raise RuntimeError(
                "drain() would wait for the very call that it is called from; a signal's handler should only set an "
                "Event, for a thread that drains"
            )
        # Before and after: whoever is refused a new connection has been told why, or has only just come.
        self._wind_up()
        self.is_draining = True
        self._wind_up()

    def _wind_up(self) -> None:
        with self._lock:
            endless = list(self._endless)
        for each in endless:
            each.wind_up()

    def wait_until_none(self, until: float | None) -> bool:
        """Return when none is under way; False when the moment `until` comes first, or they have been cut.

        Woken by whoever takes the last one out, and by `close`.
        """
        with self._lock:
            while self.under_way:
                if self.is_closed or not self._changed.sleep_a_while(until):
                    return False
        return True

    def close(self, *, was_cut: bool) -> None:
        """They are being ended."""
        self.was_cut |= was_cut
        self.is_closed = True
        self.tell()

    # ---------------------------------------------------------------- copies, fork

    def __reduce__(self) -> tuple[type[Calls], tuple[()]]:
        """A copy of a session is another one, with calls of its own."""
        return Calls, ()

    def after_fork(self) -> None:
        """In a forked child, which has one thread: the parent's calls, and what they were about, are the parent's."""
        self.under_way.clear()
        self.was_cut = False
        self._begin()


_all: weakref.WeakSet[Calls] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for calls in list(_all):
        calls.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

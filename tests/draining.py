"""What the tests of `Session.drain` share: a drain on a thread of its own, that is known to wait.

Knows the private parts of a session as far as it has to, so that no test sleeps until something has probably happened.
"""

from __future__ import annotations

from syncflow import Session
from syncflow.testing import eventually

from .concurrency import Call


def is_waiting(session: Session) -> bool:
    """Whether a drain waits for something that is under way."""
    pools = [adapter._pool for adapter in session._own_adapters()]
    return any(each._changed.sleepers for each in (session._calls, *pools))


def draining(session: Session, timeout: float | None = None) -> Call[bool]:
    """A drain that has begun, and waits."""
    call = Call(session.drain, timeout)
    eventually(lambda: is_waiting(session) or call.ended)
    assert not call.ended, f"nothing was under way: {call.error()!r}"
    return call

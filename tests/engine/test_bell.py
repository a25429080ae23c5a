"""A Bell: whoever sleeps is woken, or gives up, and the ring that an interrupt wasted wakes another."""

from __future__ import annotations

import time
from typing import Any

import pytest

from syncflow.engine.locks import Bell, new_lock
from syncflow.testing import eventually

from ..concurrency import Call
from .rig import PATIENCE


class Interrupt(BaseException):
    """As a KeyboardInterrupt, in any thread."""


def sleep(bell: Bell, until: float | None = None) -> bool:
    with bell._owned:
        return bell.sleep(until)


def ring(bell: Bell) -> None:
    with bell._owned:
        bell.notify()


def test_it_knows_who_sleeps_and_wakes_one() -> None:
    bell = Bell(new_lock())
    calls = [Call(sleep, bell), Call(sleep, bell, time.monotonic() + 4 * PATIENCE), Call(sleep, bell, float("inf"))]
    for left in (3, 2, 1):
        eventually(lambda left=left: bell.sleepers == left)  # type: ignore[misc]
        ring(bell)
    assert [call.result() for call in calls] == [True, True, True]
    assert bell.sleepers == 0


@pytest.mark.parametrize("when", [0.0, -1.0, float("-inf")])
def test_a_moment_that_has_come_is_not_slept_for(when: float) -> None:
    bell = Bell(new_lock())
    assert sleep(bell, time.monotonic() + when) is False
    assert bell.sleepers == 0


def test_it_wakes_by_itself_and_then_the_moment_has_come() -> None:
    bell = Bell(new_lock())
    until = time.monotonic() + 0.01
    assert sleep(bell, until) is True
    eventually(lambda: sleep(bell, until) is False)


def test_a_ring_that_an_interrupt_wasted_wakes_another() -> None:
    class Struck(Bell):
        """The first one who sleeps is interrupted as it wakes."""

        strikes = True

        def wait(self, timeout: float | None = None) -> bool:
            is_first, self.strikes = self.strikes, False
            woken = super().wait(timeout)
            if is_first:
                raise Interrupt
            return woken

    bell: Any = Struck(new_lock())
    first = Call(sleep, bell)
    eventually(lambda: bell.sleepers == 1)
    second = Call(sleep, bell)
    eventually(lambda: bell.sleepers == 2)
    ring(bell)
    with pytest.raises(Interrupt):
        first.result()
    assert second.result() is True
    assert bell.sleepers == 0

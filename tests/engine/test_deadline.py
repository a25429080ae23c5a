"""The one clock of a request, with a clock that only moves when it is told to."""

from __future__ import annotations

import pytest

from syncflow import Timeouts, TotalTimeout
from syncflow.engine.deadline import Deadline


class Clock:
    """Stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_without_a_total_nothing_ends() -> None:
    clock = Clock()
    deadline = Deadline(Timeouts(), clock)
    clock.now += 1e9
    deadline.check("host", "pool")
    assert deadline.at is None
    assert deadline.wait_time(None) is None


def test_the_total_counts_from_the_beginning() -> None:
    clock = Clock()
    deadline = Deadline(Timeouts(total=5), clock)
    clock.now += 4.5
    deadline.check("host", "pool")
    assert deadline.wait_time(None) == pytest.approx(0.5)
    clock.now += 0.5
    with pytest.raises(TotalTimeout, match=r"^host:1: .*5 s \(Timeouts.total\).*'pool'") as caught:
        deadline.check("host:1", "pool")
    assert caught.value.phase == "pool"
    clock.now += 1000
    assert deadline.wait_time(None) == 0.0


@pytest.mark.parametrize(("until", "expected"), [(1003.0, 3.0), (1008.0, 5.0), (999.0, 0.0), (None, 5.0)])
def test_the_earlier_of_two_limits_holds(until: float | None, expected: float) -> None:
    assert Deadline(Timeouts(total=5), Clock()).wait_time(until) == expected


def test_a_phase_alone() -> None:
    assert Deadline(Timeouts(), Clock()).wait_time(1003.0) == 3.0
    assert Deadline(Timeouts(), Clock()).wait_time(900.0) == 0.0

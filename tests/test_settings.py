"""Timeouts, PoolLimits, Watermarks: defaults, what `timeout=` takes, and what makes no sense."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from syncflow import PoolLimits, Session, Timeouts, Watermarks


def test_the_defaults() -> None:
    assert Timeouts() == Timeouts(connect=10, read=60, write=60, pool=60, total=None)
    assert PoolLimits() == PoolLimits(per_host=10, total=100, connecting=None, idle=60.0, max_age=None)
    assert Watermarks() == Watermarks(high=65536, low=16384, receive_high=65536, receive_low=16384)


def test_a_session_has_limits_by_default() -> None:
    with Session() as session:
        assert session.timeout == Timeouts()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (Timeouts(total=3), Timeouts(total=3)),
        (5, Timeouts(connect=5, read=5, write=5)),
        (0.5, Timeouts(connect=0.5, read=0.5, write=0.5)),
        ((1, 2), Timeouts(connect=1, read=2, write=2)),
        ((None, 2), Timeouts(connect=None, read=2, write=2)),
        ((1, None), Timeouts(connect=1, read=None, write=None)),
        (None, Timeouts(connect=None, read=None, write=None, pool=None, total=None)),
    ],
)
def test_what_timeout_takes(given: Any, meant: Timeouts) -> None:
    assert Timeouts.of(given) == meant
    with Session(timeout=given) as session:
        assert session.timeout == meant


@pytest.mark.parametrize("name", ["connect", "read", "write", "pool", "total"])
@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, math.inf])
def test_a_limit_is_a_number_of_seconds(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"Timeouts\.{name} must be more than 0 seconds"):
        Timeouts(**{name: value})


@pytest.mark.parametrize("value", ["1", True, object(), [1, 2]])
def test_what_is_no_number_is_no_limit(value: Any) -> None:
    with pytest.raises(TypeError, match="number of seconds"):
        Timeouts.of(value)


@pytest.mark.parametrize("pair", [(), (1,), (1, 2, 3)])
def test_a_tuple_has_two_values(pair: Any) -> None:
    with pytest.raises(ValueError, match=r"\(connect, read\)"):
        Timeouts.of(pair)


@pytest.mark.parametrize("name", ["per_host", "total", "connecting"])
def test_counts_of_connections(name: str) -> None:
    with pytest.raises(ValueError, match=rf"PoolLimits\.{name} must be at least 1"):
        PoolLimits(**{name: 0})
    for value in ("1", 1.0, True):
        with pytest.raises(TypeError, match=rf"PoolLimits\.{name} is a whole number"):
            PoolLimits(**{name: value})  # type: ignore[arg-type]


def test_only_connecting_may_be_none() -> None:
    assert PoolLimits(connecting=None).connecting is None
    with pytest.raises(TypeError, match="per_host"):
        PoolLimits(per_host=None)  # type: ignore[arg-type]


def test_ages() -> None:
    assert PoolLimits(idle=0).idle == 0
    for idle in (-1.0, math.nan):
        with pytest.raises(ValueError, match=r"PoolLimits\.idle"):
            PoolLimits(idle=idle)
    with pytest.raises(ValueError, match=r"PoolLimits\.max_age"):
        PoolLimits(max_age=0)


@pytest.mark.parametrize(("low", "high"), [(10, 10), (11, 10), (-1, 10)])
def test_low_is_under_high(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="0 <= low < high"):
        Watermarks(low=low, high=high)
    with pytest.raises(ValueError, match="0 <= receive_low < receive_high"):
        Watermarks(receive_low=low, receive_high=high)


@pytest.mark.parametrize("name", ["pool", "watermarks"])
def test_a_session_takes_nothing_else_for_them(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}= .*, not 5"):
        Session(**{name: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [Timeouts(), PoolLimits(), Watermarks()])
def test_they_are_frozen(settings: Any) -> None:
    name = dataclasses.fields(settings)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, name, 1)

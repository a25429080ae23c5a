"""Sizes, rates and durations, there and back."""

from __future__ import annotations

import doctest

import pytest

from syncflow.cli import units
from syncflow.cli.units import format_duration, format_rate, format_size, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512b", 512),
        ("256M", 256 << 20),
        ("256MiB", 256 << 20),
        ("256 mib", 256 << 20),
        ("1MB", 1_000_000),
        ("1.5G", 3 << 29),
        (".5k", 512),
        ("2TiB", 2 << 40),
        (" 7 ", 7),
    ],
)
def test_a_size_is_understood(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "M", "-1", "1X", "1 M M", "1e3", "inf", ".5", "1M/s", "9" * 400])
def test_what_is_no_size_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "rate"), [("100k/s", 102_400), ("32MiB/s", 32 << 20), ("1M", 1 << 20)])
def test_a_rate_is_a_size_with_or_without_its_second(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("size", [1, 1023, 1024, 65536, 1_000_000, (1 << 20) - 1, 1 << 20, 10**12, 5 << 50])
def test_a_size_is_told_within_its_decimal(size: int) -> None:
    told = format_size(size)
    assert abs(parse_size(told) - size) <= size * 0.05 + 1
    assert "1024" not in told


def test_rates_and_durations() -> None:
    assert format_rate(1536) == "1.5 KiB/s"
    assert format_size(0) == "0 B"
    assert [format_duration(s) for s in (0, 0.999, 59.96, 3599.6, 90_000)] == [
        "0.00 s",
        "1.00 s",
        "1 min 0 s",
        "1 h 0 min",
        "25 h 0 min",
    ]


def test_the_examples_hold() -> None:
    assert doctest.testmod(units).failed == 0

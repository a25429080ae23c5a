"""Shares of one budget: their sum, who gets how much, and what an interrupt leaves behind."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncflow.engine.budget import FLOOR, PARTS, Budget
from syncflow.engine.buffers import IncomingBuffer, OutgoingBuffer

MIB = 1 << 20
HIGH, LOW = 65536, 16384


def outgoing(budget: Budget, high: int = HIGH, low: int = LOW) -> OutgoingBuffer:
    return OutgoingBuffer(high, low, budget)


def fill(buffer: OutgoingBuffer) -> int:
    """As a sender does whose peer takes nothing."""
    buffer.borrow()
    buffer.append(memoryview(bytes(buffer.room)), 0)
    return buffer.size


# What is done to which buffer: how much it gets, or loses.
STEPS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["fill", "add", "take", "clear"]), st.integers(1, 70000)),
    max_size=80,
)


@given(st.integers(65536, 4 * MIB), STEPS)
def test_the_sum_is_never_more_than_the_budget_and_a_floor_each(limit: int, steps: list[tuple[int, str, int]]) -> None:
    budget = Budget(limit)
    buffers = [outgoing(budget) for _ in range(10)]
    for which, what, count in steps:
        buffer = buffers[which]
        if what == "fill":
            fill(buffer)
        elif what == "add":
            buffer.borrow()
            buffer.append(memoryview(bytes(max(0, min(count, buffer.room)))), 0)
        elif what == "take":
            buffer.consume(min(count, buffer.size))
            buffer.settle()
        else:
            buffer.clear()
        granted, holders = budget.standing()
        shares = [buffer.high for buffer in buffers if buffer.has_share]
        assert (granted, holders) == (sum(shares), len(shares))
        assert granted <= limit + FLOOR * holders
        assert all(buffer.size <= buffer.high for buffer in buffers)
        assert all(0 <= buffer.low < buffer.high <= HIGH for buffer in buffers)
    for buffer in buffers:
        buffer.clear()
    assert budget.standing() == (0, 0)


def test_a_single_connection_has_its_own_watermarks() -> None:
    buffer = outgoing(Budget(PARTS * HIGH))
    buffer.borrow()
    assert (buffer.high, buffer.low) == (HIGH, LOW)


def test_who_is_stuck_does_not_have_it_all() -> None:
    budget = Budget(HIGH * 4)
    stuck = [fill(outgoing(budget)) for _ in range(5)]
    assert sum(stuck) < budget.limit / 2
    assert fill(outgoing(budget)) > budget.limit / 20


def test_when_nothing_is_left_there_is_the_floor() -> None:
    budget = Budget(65536)
    filled = [fill(outgoing(budget)) for _ in range(100)]
    assert filled[-1] == FLOOR
    assert budget.standing()[0] <= budget.limit + FLOOR * len(filled)


def test_who_moves_comes_to_an_equal_share() -> None:
    budget = Budget(MIB)
    early = [outgoing(budget) for _ in range(20)]
    late = [outgoing(budget) for _ in range(20)]
    for buffer in early + late:
        fill(buffer)
    assert early[0].size > 2 * late[-1].size
    for _, buffer in itertools.product(range(20), early + late):
        buffer.consume(buffer.size - 1)  # never empty: a steady upload
        buffer.settle()
        fill(buffer)
    assert max(b.size for b in early + late) < 1.2 * min(b.size for b in early + late)


def test_what_is_low_stays_low_when_the_share_shrinks() -> None:
    budget = Budget(65536)
    first = outgoing(budget)
    first.borrow()
    first.append(memoryview(bytes(first.low)), 0)
    others = [outgoing(budget) for _ in range(30)]
    for buffer in others:
        fill(buffer)
    first.settle()
    assert first.is_low
    assert first.room > 0


def test_what_must_be_kept_whole_is() -> None:
    budget = Budget(65536)
    for _ in range(30):
        fill(outgoing(budget))
    buffer = outgoing(budget)
    buffer.borrow(50000)
    assert buffer.room >= 50000


def test_own_watermarks_under_the_floor_are_kept() -> None:
    buffer = outgoing(Budget(65536), 100, 10)
    buffer.borrow()
    assert (buffer.high, buffer.low, buffer.at_once) == (100, 10, 100)


def test_what_is_received_is_within_the_share() -> None:
    budget = Budget(65536)
    buffer = IncomingBuffer(HIGH, LOW, budget)
    most = buffer.admit(1 << 20)
    assert most == budget.limit // PARTS
    buffer.append(bytes(most - 10))
    assert buffer.admit(1 << 20) == 10
    buffer.take(most)
    assert budget.standing() == (0, 0)
    assert buffer.high == HIGH


def test_without_a_budget_nothing_is_shared() -> None:
    buffer = IncomingBuffer(HIGH, LOW)
    buffer.append(bytes(100))
    buffer.take(10)
    buffer.clear()
    buffer.give_back()
    assert (buffer.high, buffer.low, buffer.has_share) == (HIGH, LOW, False)
    assert OutgoingBuffer(HIGH, LOW).at_once == HIGH


class Struck(dict[Any, int]):
    """An interrupt comes right behind the fact."""

    def __setitem__(self, key: Any, value: int) -> None:
        super().__setitem__(key, value)
        raise KeyboardInterrupt

    def pop(self, *args: Any) -> Any:
        super().pop(*args)
        raise KeyboardInterrupt


def test_an_interrupt_loses_nothing_of_it() -> None:
    budget = Budget(65536)
    first, second = outgoing(budget), outgoing(budget)
    fill(second)
    budget._shares = Struck(budget._shares)
    with pytest.raises(KeyboardInterrupt):
        first.borrow()
    shares = budget._shares
    assert budget.standing() == (sum(shares.values()), 2)
    with pytest.raises(KeyboardInterrupt):
        second.clear()
    assert budget.standing() == (sum(shares.values()), 1)
    budget._shares = dict(shares)
    first.give_back()  # whoever was interrupted does, though it never came to know its share
    assert budget.standing() == (0, 0)

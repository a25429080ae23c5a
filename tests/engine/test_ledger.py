"""What the ledger decides: who is next, what gives way, what the limits allow. No socket, no thread, no time.

The last part lets hypothesis play a pool against the ledger and compares its books with what really is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from syncflow import PoolLimits
from syncflow.engine import ledger as module
from syncflow.engine.ledger import WATCH_AFTER, Ledger, Ticket, Verdict
from syncflow.engine.origin import Origin

from ..concurrency import Call

A, B, C = (Origin("http", name, 80) for name in "abc")


class Clock:
    """Stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeConnection:
    """All that the ledger looks at."""

    def __init__(self, origin: Origin, *, watched: bool = False) -> None:
        self.origin = origin
        self.idle_since: float | None = None
        self.opened_at = 0.0
        self.taken_by = 0
        self.is_busy = False
        self.transport = SimpleNamespace(is_watched=watched)

    def __repr__(self) -> str:
        return f"<to {self.origin.host}>"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def ledger_of(**limits: Any) -> Ledger:
    return Ledger(PoolLimits(**limits))


def opened(ledger: Ledger, origin: Origin, *, watched: bool = False) -> Any:
    """A connection in use, for one who came and was granted a place at once."""
    ticket, verdict = ledger.queue(origin)
    assert verdict.woken == [ticket]
    assert ticket.served
    assert ticket.connection is None
    ledger.collect(ticket)
    connection: Any = FakeConnection(origin, watched=watched)
    ledger.opened(connection)
    return connection


def idle(ledger: Ledger, origin: Origin, *, watched: bool = False) -> Any:
    connection = opened(ledger, origin, watched=watched)
    ledger.release(connection)
    return connection


def waiter(ledger: Ledger, origin: Origin) -> Ticket:
    ticket, verdict = ledger.queue(origin)
    assert verdict == Verdict()
    assert not ticket.served
    return ticket


def waiting(ledger: Ledger) -> int:
    return sum(len(host.waiting) for host in ledger._hosts.values())


# ---------------------------------------------------------------------- who is next


def test_first_come_first_served_within_a_host() -> None:
    ledger = ledger_of(per_host=1)
    connection = opened(ledger, A)
    tickets = [waiter(ledger, A) for _ in range(4)]
    for ticket in tickets:
        assert ledger.release(connection).woken == [ticket]
        assert ticket.connection is connection
        assert ticket.served


def test_a_place_goes_to_the_first_of_its_host() -> None:
    ledger = ledger_of(per_host=1)
    connection = opened(ledger, A)
    first, second = waiter(ledger, A), waiter(ledger, A)
    assert ledger.discard(connection).woken == [first]
    assert first.connection is None, "it is to open one"
    assert not second.served


def test_first_come_first_served_across_hosts_under_the_total() -> None:
    ledger = ledger_of(per_host=2, total=2)
    in_use = [opened(ledger, A), opened(ledger, A)]
    tickets = [waiter(ledger, origin) for origin in (B, C, B, C)]
    for ticket in tickets:
        assert ledger.discard(in_use.pop(0)).woken == [ticket]
        connection: Any = FakeConnection(ticket.host.origin)
        ledger.opened(connection)
        in_use.append(connection)


def test_a_host_that_is_full_does_not_hold_up_those_behind_it() -> None:
    ledger = ledger_of(per_host=1, total=2)
    of_a, of_b = opened(ledger, A), opened(ledger, B)
    late_a, first_c = waiter(ledger, A), waiter(ledger, C)
    assert ledger.discard(of_b).woken == [first_c], "the first in line is at its own limit"
    assert ledger.discard(of_a).woken == [late_a]


def test_a_host_that_has_a_place_again_keeps_its_turn() -> None:
    """It left the queue while it was full; its number brings it back before those who came later."""
    ledger = ledger_of(per_host=1, total=2, connecting=1)
    of_a = opened(ledger, A)
    ticket, _ = ledger.queue(B)
    assert ticket.served
    early, late = waiter(ledger, A), waiter(ledger, C)
    assert ledger.discard(of_a).woken == [], "somebody is connecting"
    assert ledger.not_opened(B).woken == [early]
    assert not late.served


def test_no_more_than_per_host() -> None:
    ledger = ledger_of(per_host=3, total=10)
    for _ in range(3):
        opened(ledger, A)
    waiter(ledger, A)
    opened(ledger, B)
    assert (ledger.open, ledger._hosts[A].open) == (4, 3)


def test_no_more_than_the_total() -> None:
    ledger = ledger_of(per_host=3, total=4)
    for origin in (A, A, B, B):
        opened(ledger, origin)
    waiter(ledger, A)
    waiter(ledger, C)
    assert ledger.open == 4


def test_those_who_are_connecting_count() -> None:
    ledger = ledger_of(per_host=1, total=1)
    ticket, _ = ledger.queue(A)
    assert ticket.served
    waiter(ledger, A)
    waiter(ledger, B)
    assert (ledger.open, ledger.connecting) == (1, 1)


def test_no_more_than_so_many_are_connecting() -> None:
    ledger = ledger_of(connecting=2)
    granted = [ledger.queue(origin)[0] for origin in (A, B)]
    assert all(ticket.served for ticket in granted)
    third, fourth, fifth = waiter(ledger, A), waiter(ledger, C), waiter(ledger, B)
    connection: Any = FakeConnection(A)
    assert ledger.opened(connection).woken == [third], "one has connected, so the next may begin"
    assert ledger.not_opened(B).woken == [fourth], "one could not"
    assert ledger.release(connection).woken == [], "nobody else waits for its host"
    assert not fifth.served
    assert ledger.connecting == 2


def test_the_next_of_a_host_stands_in_the_queue_once_its_first_is_served() -> None:
    ledger = ledger_of(per_host=3, total=2)
    in_use = [opened(ledger, B), opened(ledger, C)]
    for ticket in [waiter(ledger, A), waiter(ledger, A)]:
        assert ledger.discard(in_use.pop()).woken == [ticket]


def test_the_next_of_a_host_stands_in_the_queue_once_its_first_has_a_connection() -> None:
    ledger = ledger_of(per_host=2, total=2)
    of_a, of_b = opened(ledger, A), opened(ledger, B)
    first, second = waiter(ledger, A), waiter(ledger, A)
    assert ledger.release(of_a).woken == [first]
    assert ledger.discard(of_b).woken == [second]


def test_the_next_of_a_host_stands_in_the_queue_once_its_first_has_given_up() -> None:
    ledger = ledger_of(per_host=2, total=1)
    of_b = opened(ledger, B)
    first, second = waiter(ledger, A), waiter(ledger, A)
    ledger.withdraw(first)
    assert ledger.discard(of_b).woken == [second]


def test_several_are_served_when_several_may_be() -> None:
    """A waiter of another host is not forgotten when the one who gives the place back is served himself."""
    ledger = ledger_of(per_host=1, total=3, connecting=1)
    ticket, _ = ledger.queue(A)
    others = [waiter(ledger, B), waiter(ledger, C)]
    for origin, other in zip((A, B), others, strict=True):
        connection: Any = FakeConnection(origin)
        assert ledger.opened(connection).woken == [other]
    assert ticket.served


# ---------------------------------------------------------------------- idle connections


def test_the_one_that_was_used_last_is_taken_first() -> None:
    ledger = ledger_of()
    first, second = opened(ledger, A), opened(ledger, A)
    ledger.release(second)
    ledger.release(first)
    assert ledger.take(A) is first
    assert first.idle_since is None
    assert ledger.take(A) is second
    assert ledger.take(A) is None
    assert ledger.take(B) is None


def test_one_that_is_taken_is_in_use() -> None:
    ledger = ledger_of(per_host=1, total=1)
    connection = idle(ledger, A)
    assert ledger.take(A) is connection
    waiter(ledger, B)  # it is not idle any more, so it does not give way
    assert ledger.connections == {connection}


def test_the_longest_idle_gives_way() -> None:
    ledger = ledger_of(per_host=2, total=3)
    in_use = [opened(ledger, origin) for origin in (A, B, A)]
    for connection in in_use:
        ledger.release(connection)
    ticket, verdict = ledger.queue(C)
    assert verdict.unwanted == [in_use[0]]
    assert verdict.woken == [ticket]
    _, verdict = ledger.queue(C)
    assert verdict.unwanted == [in_use[1]], "of whichever host"
    assert ledger.open == 3
    assert ledger.discard(in_use[0]) == Verdict(), "its place is gone already"
    assert ledger.open == 3


def test_one_that_becomes_idle_gives_way_to_who_waits_for_another_host() -> None:
    ledger = ledger_of(per_host=1, total=1)
    connection = opened(ledger, A)
    ticket = waiter(ledger, B)
    verdict = ledger.release(connection)
    assert verdict.unwanted == [connection]
    assert verdict.woken == [ticket]
    assert ledger.due(connection) is None, "it is not idle: it is to be closed"


def test_one_that_is_promised_does_not_give_way() -> None:
    """httpcore#1110: a connection that was given to a waiter was closed to make room for another."""
    ledger = ledger_of(per_host=1, total=1)
    connection = opened(ledger, A)
    first = waiter(ledger, A)
    other = waiter(ledger, B)
    verdict = ledger.release(connection)
    assert verdict.woken == [first]
    assert verdict.unwanted == []
    assert not other.served


def test_none_is_kept_where_none_is_wanted() -> None:
    ledger = ledger_of(idle=0)
    connection = opened(ledger, A)
    assert ledger.release(connection).unwanted == [connection]
    assert ledger.open == 1, "until it is closed"
    ledger.discard(connection)
    assert ledger.open == 0


def test_none_is_kept_at_the_end() -> None:
    ledger = ledger_of()
    connection = opened(ledger, A)
    assert ledger.release(connection, keep=False).unwanted == [connection]


def test_what_the_books_do_not_know_is_not_taken_back() -> None:
    """It was discarded while its last exchange was settled."""
    ledger = ledger_of()
    connection = opened(ledger, A)
    ledger.discard(connection)
    assert ledger.release(connection) == Verdict()
    assert ledger.take(A) is None


def test_discarded_twice_is_discarded_once() -> None:
    ledger = ledger_of(per_host=2, total=2)
    first, second = opened(ledger, A), opened(ledger, A)
    tickets = [waiter(ledger, A), waiter(ledger, A)]
    assert ledger.discard(first).woken == tickets[:1]
    assert ledger.discard(first) == Verdict()
    assert ledger.open == 2
    assert ledger.discard(second).woken == tickets[1:]


def test_an_idle_one_that_is_discarded_is_not_given_away() -> None:
    ledger = ledger_of()
    connection = idle(ledger, A)
    ledger.discard(connection)
    assert ledger.take(A) is None
    assert ledger.expire(2e9) == ([], [], None)
    assert ledger._hosts == {}


# ---------------------------------------------------------------------- a caller gives up


def test_one_who_gives_up_is_not_served() -> None:
    ledger = ledger_of(per_host=1)
    connection = opened(ledger, A)
    first, second = waiter(ledger, A), waiter(ledger, A)
    assert ledger.withdraw(first) == Verdict()
    assert ledger.release(connection).woken == [second]
    assert not first.served


def test_one_who_gives_up_with_a_place_hands_it_on() -> None:
    ledger = ledger_of(per_host=1)
    connection = opened(ledger, A)
    first, second = waiter(ledger, A), waiter(ledger, A)
    assert ledger.discard(connection).woken == [first]
    assert ledger.withdraw(first).woken == [second]
    assert (ledger.open, ledger.connecting) == (1, 1)


def test_one_who_gives_up_with_a_connection_has_it_still() -> None:
    """It is in use; to give it back is another step."""
    ledger = ledger_of(per_host=1)
    connection = opened(ledger, A)
    first, second = waiter(ledger, A), waiter(ledger, A)
    ledger.release(connection)
    assert ledger.withdraw(first) == Verdict()
    assert first.connection is connection
    assert ledger.connecting == 0
    assert ledger.release(connection).woken == [second]


def test_one_who_was_turned_away_has_nothing_to_hand_on() -> None:
    ledger = ledger_of(per_host=1)
    opened(ledger, A)
    tickets = [waiter(ledger, A), waiter(ledger, A)]
    assert ledger.turn_away() == tickets
    for ticket in tickets:
        ticket.error, ticket.served = RuntimeError(), True  # type: ignore[assignment]  # as the pool does
        assert ledger.withdraw(ticket) == Verdict()
    assert (ledger.open, ledger.connecting, waiting(ledger)) == (1, 0, 0)


def test_all_are_turned_away_in_their_order() -> None:
    ledger = ledger_of(per_host=1, total=1)
    connection = opened(ledger, A)
    tickets = [waiter(ledger, origin) for origin in (B, A, C, B)]
    assert ledger.turn_away() == tickets
    assert ledger.discard(connection) == Verdict(), "nobody waits any more"
    assert ledger._hosts == {}


# ---------------------------------------------------------------------- a connection that is of no use


def test_who_was_given_a_dead_one_opens_another_in_its_place() -> None:
    ledger = ledger_of(per_host=1, total=1)
    dead = opened(ledger, A)
    first, second = waiter(ledger, A), waiter(ledger, A)
    assert ledger.release(dead).woken == [first]
    assert ledger.trade(dead)
    assert (ledger.open, ledger.connecting) == (1, 1)
    assert ledger.discard(dead) == Verdict(), "its place is the caller's"
    fresh: Any = FakeConnection(A)
    assert ledger.opened(fresh).woken == []
    assert ledger.release(fresh).woken == [second]


def test_no_trade_beyond_the_limit_of_connecting() -> None:
    ledger = ledger_of(connecting=1)
    connection = opened(ledger, A)
    ledger.queue(B)
    assert not ledger.trade(connection)
    assert connection in ledger.connections, "it is the caller's to discard"


def test_no_trade_for_one_whose_place_is_gone() -> None:
    ledger = ledger_of(per_host=1)
    connection = opened(ledger, A)
    next_one = waiter(ledger, A)
    assert ledger.discard(connection).woken == [next_one]
    assert not ledger.trade(connection)
    assert (ledger.open, ledger.connecting) == (1, 1)


# ---------------------------------------------------------------------- time passes


def test_idle_ones_expire_the_longest_idle_first(clock: Clock) -> None:
    ledger = ledger_of(idle=60)
    first, second = idle(ledger, A, watched=True), None
    clock.now += 10
    second = idle(ledger, B, watched=True)
    assert ledger.expire(clock.now) == ([], [], 1060.0)
    clock.now = 1060.0
    assert ledger.expire(clock.now) == ([first], [], 1070.0)
    assert ledger.connections == {second}
    clock.now = 1070.0
    assert ledger.expire(clock.now) == ([second], [], None)
    assert (ledger.open, ledger._hosts) == (0, {})


def test_one_that_is_used_again_begins_anew(clock: Clock) -> None:
    ledger = ledger_of(idle=60)
    connection = idle(ledger, A, watched=True)
    clock.now += 59
    ledger.take(A)
    clock.now += 10
    assert ledger.expire(clock.now) == ([], [], None), "it is in use"
    ledger.release(connection)
    assert ledger.due(connection) == clock.now + 60


def test_old_ones_expire_whoever_is_idle_longest(clock: Clock) -> None:
    ledger = ledger_of(idle=60, max_age=30, per_host=2)
    old = opened(ledger, A, watched=True)
    clock.now += 10
    young = idle(ledger, A, watched=True)
    clock.now += 10
    ledger.release(old)
    assert ledger.due(old) == 1030.0
    assert ledger.due(young) == 1040.0
    clock.now = 1029.0
    assert not ledger.is_too_old(old)
    assert ledger.expire(clock.now) == ([], [], 1030.0)
    clock.now = 1030.0
    assert ledger.is_too_old(old)
    assert ledger.expire(clock.now) == ([old], [], 1040.0)


def test_one_that_is_too_old_is_not_kept(clock: Clock) -> None:
    ledger = ledger_of(max_age=30)
    connection = opened(ledger, A)
    clock.now += 30
    assert ledger.release(connection).unwanted == [connection]


def test_without_an_age_none_is_too_old(clock: Clock) -> None:
    ledger = ledger_of()
    connection = opened(ledger, A)
    clock.now += 1e9
    assert not ledger.is_too_old(connection)


def test_one_that_stays_idle_is_to_be_watched(clock: Clock) -> None:
    ledger = ledger_of(idle=60)
    first = idle(ledger, A)
    assert ledger.due(first) == 1000.0 + WATCH_AFTER
    clock.now += WATCH_AFTER / 2
    second = idle(ledger, B)
    assert ledger.expire(clock.now) == ([], [], 1000.0 + WATCH_AFTER)
    clock.now = 1000.0 + WATCH_AFTER
    assert ledger.expire(clock.now) == ([], [first], second.idle_since + WATCH_AFTER)
    assert ledger.due(first) == 1060.0, "once"
    clock.now += WATCH_AFTER
    assert ledger.expire(clock.now) == ([], [second], 1060.0)


def test_one_that_is_watched_already_is_not_to_be_watched(clock: Clock) -> None:
    ledger = ledger_of(idle=60)
    connection = idle(ledger, A, watched=True)
    assert ledger.due(connection) == 1060.0


def test_one_that_has_expired_is_not_to_be_watched(clock: Clock) -> None:
    ledger = ledger_of(idle=WATCH_AFTER / 2)
    connection = idle(ledger, A)
    clock.now += 1
    assert ledger.expire(clock.now) == ([connection], [], None)


def test_what_is_in_use_is_never_due() -> None:
    ledger = ledger_of()
    assert ledger.due(opened(ledger, A)) is None


def test_all_that_are_idle_are_dismissed() -> None:
    ledger = ledger_of(per_host=2)
    in_use = opened(ledger, A)
    unused = [idle(ledger, B), idle(ledger, C)]
    assert ledger.dismiss_idle() == unused
    assert ledger.connections == {in_use}
    assert ledger.open == 1


# ---------------------------------------------------------------------- nothing is left behind


def test_hosts_are_forgotten() -> None:
    ledger = ledger_of(per_host=1, total=1)
    for number in range(100):
        origin = Origin("http", f"host-{number}", 80)
        ledger.discard(opened(ledger, origin))
        ticket, _ = ledger.queue(origin)
        ledger.withdraw(ticket)
    assert ledger._hosts == {}
    assert ledger.open == ledger.connecting == 0


def test_a_host_whose_last_waiter_gives_up_is_forgotten() -> None:
    ledger = ledger_of(per_host=1, total=1)
    opened(ledger, A)
    ledger.withdraw(waiter(ledger, B))
    assert list(ledger._hosts) == [A]


def test_a_host_that_gives_way_is_forgotten() -> None:
    ledger = ledger_of(per_host=1, total=1)
    idle(ledger, A)
    ledger.queue(B)
    assert list(ledger._hosts) == [B]


@pytest.mark.parametrize("known", [False, True], ids=["unknown host", "known host"])
def test_the_queue_does_not_grow(known: bool) -> None:
    """Behind one who waits for long, any number may come and give up."""
    ledger = ledger_of(per_host=2, total=2)
    opened(ledger, A)
    opened(ledger, C if not known else B)
    patient = waiter(ledger, A)
    for _ in range(1000):
        ledger.withdraw(waiter(ledger, B))
    assert len(ledger._queue) < 100
    assert not patient.served
    assert waiting(ledger) == 1


def test_the_queue_keeps_all_who_wait_when_it_is_cleaned() -> None:
    ledger = ledger_of(per_host=1, total=1)
    connection = opened(ledger, A)
    hosts = [Origin("http", f"host-{number}", 80) for number in range(50)]
    tickets = []
    for origin in hosts:
        tickets.append(waiter(ledger, origin))
        for _ in range(20):
            ledger.withdraw(waiter(ledger, B))
    for ticket in tickets:
        assert ledger.discard(connection).woken == [ticket]
        connection = FakeConnection(ticket.host.origin)
        ledger.opened(connection)


# ---------------------------------------------------------------------- an interrupt


def by_another_thread(function: Callable[[], Any]) -> Any:
    return Call(function).result()


def scramble(ledger: Ledger) -> None:
    """What an interrupt may leave behind: everything that is counted is wrong."""
    ledger.open = ledger.connecting = 77
    ledger._hosts.clear()
    ledger._queue.clear()
    ledger._idle.clear()
    ledger._unwatched.clear()


def test_what_the_interrupted_thread_was_about_to_use_is_given_up() -> None:
    ledger = ledger_of()
    mine, busy, at_rest = opened(ledger, A), opened(ledger, A), idle(ledger, B)
    busy.is_busy = True
    others = by_another_thread(lambda: opened(ledger, A))
    scramble(ledger)
    verdict = ledger.recover(threading.get_ident())
    assert verdict.unwanted == [mine]
    assert ledger.connections == {busy, at_rest, others}
    assert (ledger.open, ledger.connecting) == (3, 0)
    assert ledger.take(B) is at_rest
    assert ledger.take(A) is None


def test_its_place_goes_to_the_next_and_that_of_another_stays() -> None:
    ledger = ledger_of(per_host=2)
    ledger.queue(A)
    by_another_thread(lambda: ledger.queue(A))
    late = by_another_thread(lambda: waiter(ledger, A))
    scramble(ledger)
    verdict = ledger.recover(threading.get_ident())
    assert late in verdict.woken
    assert late.served
    assert (ledger.open, ledger.connecting) == (2, 2)


def test_its_ticket_is_dropped_and_the_others_keep_their_order() -> None:
    ledger = ledger_of(per_host=1)
    connection = by_another_thread(lambda: opened(ledger, A))
    first = by_another_thread(lambda: waiter(ledger, A))
    mine = waiter(ledger, A)
    second = by_another_thread(lambda: waiter(ledger, A))
    scramble(ledger)
    assert ledger.recover(threading.get_ident()) == Verdict()
    assert ledger.release(connection).woken == [first]
    assert ledger.release(connection).woken == [second]
    assert not mine.served


def test_who_was_served_and_not_told_yet_is_told() -> None:
    """The interrupt came before the one who served him could."""
    ledger = ledger_of(per_host=1)
    connection = opened(ledger, A)
    ticket = by_another_thread(lambda: waiter(ledger, A))
    ledger.release(connection)
    assert ledger.recover(threading.get_ident()).woken == [ticket]
    ledger.collect(ticket)
    assert ledger.recover(threading.get_ident()) == Verdict()
    assert ledger.connections == {connection}


# ---------------------------------------------------------------------- all of it, in any order

ORIGINS = st.sampled_from([A, B, C])


class Books(RuleBasedStateMachine):
    """Plays the pool: does what it would do, and writes down who has what."""

    tickets: Bundle[Ticket] = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Ticket] = []  # in the order of arrival
        self.granted: list[Any] = []  # each may open one
        self.in_use: list[Any] = []
        self.idle: list[Any] = []  # the longest idle first

    @initialize(
        per_host=st.sampled_from([3, 2, 1]),
        total=st.sampled_from([4, 3, 2, 1]),
        connecting=st.sampled_from([None, 1, 2]),
        idle=st.sampled_from([10.0, 10.0, 10.0, 0.0]),
        max_age=st.sampled_from([None, 25.0]),
    )
    def begin(self, **limits: Any) -> None:
        self.limits = PoolLimits(**limits)
        self.clock = Clock()
        self.patch = mock.patch.object(module, "monotonic", self.clock)
        self.patch.start()
        self.ledger = Ledger(self.limits)

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.stop()

    # -- what the pool does with a verdict

    def act(self, verdict: Verdict) -> None:
        for ticket in verdict.woken:
            assert ticket.served
            of_its_host = [other for other in self.waiting if other.host is ticket.host]
            assert of_its_host[0] is ticket, "served before one who came earlier"
            self.waiting.remove(ticket)
            if ticket.connection is not None:
                continue  # who released it writes it down
            self.granted.append(ticket)
        places = [ticket for ticket in verdict.woken if ticket.connection is None]
        for ticket in places:
            passed = [other for other in self.waiting if other.number < ticket.number]
            assert all(self.is_full(other.host.origin) for other in passed), "an earlier one was passed over"
        for connection in verdict.unwanted:
            if connection in self.idle:
                assert connection is self.idle[0], "another was idle for longer"
                self.idle.remove(connection)
            assert self.ledger.due(connection) is None
            self.act(self.ledger.discard(connection))

    def is_full(self, origin: Origin) -> bool:
        return self.open_at(origin) >= self.limits.per_host

    def open_at(self, origin: Origin) -> int:
        connections = [c for c in (*self.in_use, *self.idle) if c.origin == origin]
        return len(connections) + sum(ticket.host.origin == origin for ticket in self.granted)

    # -- what happens

    @precondition(lambda self: len(self.waiting) < 5)
    @rule(target=tickets, origins=st.lists(ORIGINS, min_size=1, max_size=4))
    def arrive(self, origins: list[Origin]) -> Any:
        tickets = [ticket for origin in origins if (ticket := self.one_comes(origin)) is not None]
        return multiple(*tickets)

    def one_comes(self, origin: Origin) -> Ticket | None:
        connection = self.ledger.take(origin)
        usable = [c for c in self.idle if c.origin == origin]
        if connection is not None:
            assert connection is usable[-1], "the last used one comes first"
            self.idle.remove(connection)
            self.in_use.append(connection)
            return None
        assert not usable
        ticket, verdict = self.ledger.queue(origin)
        self.waiting.append(ticket)
        self.act(verdict)
        return ticket

    @rule(ticket=consumes(tickets))
    def withdraw(self, ticket: Ticket) -> None:
        """Also of one that was served in the last moment."""
        if ticket in self.waiting:
            self.waiting.remove(ticket)
            self.act(self.ledger.withdraw(ticket))
        elif ticket in self.granted:
            self.granted.remove(ticket)
            self.act(self.ledger.withdraw(ticket))
        elif ticket.connection is not None:
            assert self.ledger.withdraw(ticket) == Verdict()

    @precondition(lambda self: self.granted)
    @rule(watched=st.booleans(), count=st.integers(1, 4))
    def connected(self, watched: bool, count: int) -> None:
        for ticket in self.granted[:count]:
            self.granted.remove(ticket)
            connection: Any = FakeConnection(ticket.host.origin, watched=watched)
            self.in_use.append(connection)
            self.act(self.ledger.opened(connection))

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def not_connected(self, data: st.DataObject) -> None:
        ticket = self.one_of(data, self.granted)
        self.act(self.ledger.not_opened(ticket.host.origin))

    @precondition(lambda self: self.in_use)
    @rule(data=st.data(), keep=st.sampled_from([True, True, True, False]), count=st.integers(1, 4))
    def release(self, data: st.DataObject, keep: bool, count: int) -> None:
        for _ in range(min(count, len(self.in_use))):
            self.give_back(self.one_of(data, self.in_use), keep)

    def give_back(self, connection: Any, keep: bool) -> None:
        verdict = self.ledger.release(connection, keep=keep)
        if any(ticket.connection is connection for ticket in verdict.woken):
            self.in_use.append(connection)
        elif connection.idle_since is not None:
            self.idle.append(connection)
        self.act(verdict)

    @precondition(lambda self: self.granted or self.in_use)
    @rule(seconds=st.sampled_from([0.0, 1.0]))
    def calm(self, seconds: float) -> None:
        """All get what they want and give it back: without that, in all the crowd nothing is ever idle."""
        while self.granted or self.in_use:
            if self.granted:
                self.connected(watched=False, count=1)
            else:
                self.give_back(self.in_use.pop(0), keep=True)
            self.clock.now += seconds

    @precondition(lambda self: self.in_use or self.idle)
    @rule(data=st.data(), idle=st.booleans(), twice=st.booleans())
    def discard(self, data: st.DataObject, idle: bool, twice: bool) -> None:
        connection = self.one_of(data, self.idle if self.idle and (idle or not self.in_use) else self.in_use)
        self.act(self.ledger.discard(connection))
        if twice:
            assert self.ledger.discard(connection) == Verdict()
        assert self.ledger.release(connection) == Verdict()

    @precondition(lambda self: self.in_use)
    @rule(data=st.data())
    def trade(self, data: st.DataObject) -> None:
        connection = self.one_of(data, self.in_use)
        if self.ledger.trade(connection):
            self.granted.append(SimpleNamespace(host=SimpleNamespace(origin=connection.origin)))
            assert self.ledger.discard(connection) == Verdict()
        else:
            assert len(self.granted) == self.limits.connecting
            self.act(self.ledger.discard(connection))

    @precondition(lambda self: self.idle)
    @rule(seconds=st.sampled_from([0.01, 1.0, 9.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        now = self.clock.now
        expired, unwatched, again = self.ledger.expire(now)
        for connection in expired:
            self.idle.remove(connection)
        assert set(unwatched) <= set(self.idle)
        assert again is None or again > now, "what is due was done"
        assert (again is None) == (not self.idle)
        age = self.limits.max_age
        for connection in self.idle:
            assert now < connection.idle_since + self.limits.idle
            assert age is None or now < connection.opened_at + age
            due = self.ledger.due(connection)
            assert due is not None
            assert again is not None
            assert again <= due, "it would be looked at too late"

    @precondition(lambda self: len(self.idle) > 1)
    @rule()
    def dismiss_idle(self) -> None:
        assert self.ledger.dismiss_idle() == self.idle
        self.idle.clear()

    @precondition(lambda self: len(self.waiting) > 3)
    @rule()
    def turn_away(self) -> None:
        assert self.ledger.turn_away() == self.waiting
        for ticket in self.waiting:
            ticket.error, ticket.served = RuntimeError(), True  # type: ignore[assignment]
        self.waiting.clear()

    def one_of(self, data: st.DataObject, pool: list[Any]) -> Any:
        return pool.pop(data.draw(st.integers(0, len(pool) - 1)))

    # -- what must be true at any time

    @invariant()
    def the_books_say_what_is(self) -> None:
        ledger = self.ledger
        assert ledger.open == len(self.granted) + len(self.in_use) + len(self.idle)
        assert ledger.connecting == len(self.granted)
        assert ledger.connections == {*self.in_use, *self.idle}
        assert list(ledger._idle) == self.idle
        assert set(ledger._unwatched) <= set(self.idle)
        for origin, host in ledger._hosts.items():
            assert host.open == self.open_at(origin)
            assert host.idle == [connection for connection in self.idle if connection.origin == origin]

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        assert self.ledger.open <= self.limits.total
        assert self.limits.connecting is None or self.ledger.connecting <= self.limits.connecting
        assert all(host.open <= self.limits.per_host for host in self.ledger._hosts.values())

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        if self.limits.connecting is not None and self.ledger.connecting >= self.limits.connecting:
            return
        for ticket in self.waiting:
            full = self.ledger.open >= self.limits.total and not self.idle
            assert full or self.is_full(ticket.host.origin), "it could be served"

    @invariant()
    def nobody_is_lost(self) -> None:
        known = [ticket for host in self.ledger._hosts.values() for ticket in host.waiting.values()]
        assert sorted(known, key=lambda ticket: ticket.number) == self.waiting
        assert not any(ticket.served for ticket in self.waiting)

    @invariant()
    def nothing_is_kept_for_hosts_that_are_gone(self) -> None:
        assert all(host.open or host.waiting for host in self.ledger._hosts.values())


Books.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestBooks: Callable[..., Any] = pytest.mark.long(Books.TestCase)

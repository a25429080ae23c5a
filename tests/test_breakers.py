"""Origins that have failed too often: left alone, tried again by one, and what does not count."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from syncflow import (
    CircuitBreaker,
    CircuitOpen,
    ConnectionError,
    PoolLimits,
    PoolTimeout,
    ReadTimeout,
    RequestException,
    Session,
    Timeouts,
    TotalTimeout,
)
from syncflow.adapters import HTTPAdapter
from syncflow.breakers import CIRCUITS_KEPT, Circuits, is_failure
from syncflow.testing import (
    AppServer,
    Peer,
    ScriptedServer,
    closes_idle,
    eventually,
    never_answers,
    refused_port,
    reply,
    truncated,
)
from syncflow.testing import Response as Answer
from syncflow.testing.wire import Request

from .concurrency import Call, at_once, forked

NewSession = Callable[..., Session]


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def circuits(clock: Clock, **settings: Any) -> Circuits:
    return Circuits(CircuitBreaker(**settings), clock)


NAME, WHERE = "http://a:80", "a:80"
LOST = ConnectionError("lost", phase="head")


def caused_by(cause: OSError) -> ConnectionError:
    error = ConnectionError("no connection", phase="connect")
    error.__cause__ = cause
    return error


def fail(circuits: Circuits, times: int = 1, name: str = NAME) -> None:
    for _ in range(times):
        circuits.enter(name, WHERE).outcome(503)


# ------------------------------------------------------------------------------------------- the states


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"failures": 0}, ValueError),
        ({"failures": 2.0}, TypeError),
        ({"failures": True}, TypeError),
        ({"reset_after": 0}, ValueError),
        ({"reset_after": float("inf")}, ValueError),
        ({"reset_after": "30"}, TypeError),
        ({"is_failure": 500}, TypeError),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"CircuitBreaker.{next(iter(values))}"):
        CircuitBreaker(**values)


def test_what_is_no_breaker_is_refused() -> None:
    with pytest.raises(TypeError, match="breaker="):
        Session(breaker=5)  # type: ignore[arg-type]


def test_so_many_failures_in_a_row_open_it(clock: Clock) -> None:
    books = circuits(clock, failures=3, reset_after=30)
    fail(books, 2)
    assert books.enter(NAME, WHERE).outcome(200) is None  # in a row, that is
    fail(books, 2)
    assert books.states() == {}
    assert books.enter(NAME, WHERE).outcome(LOST) == "open"
    assert books.states() == {NAME: "open"}
    clock.now += 10
    with pytest.raises(CircuitOpen, match=r"a:80: the last 3 requests .* tried again in 20 s") as caught:
        books.enter(NAME, WHERE)
    assert caught.value.retry_after == 20


def test_other_origins_are_not_concerned(clock: Clock) -> None:
    books = circuits(clock, failures=1)
    fail(books)
    assert books.enter("http://b:80", "b:80").outcome(200) is None


def test_one_tries_whether_it_works_again(clock: Clock) -> None:
    books = circuits(clock, failures=1, reset_after=30)
    fail(books)
    clock.now += 30
    probe = books.enter(NAME, WHERE)
    assert books.states() == {NAME: "half-open"}
    with pytest.raises(CircuitOpen, match="one request is just trying") as caught:
        books.enter(NAME, WHERE)
    assert caught.value.retry_after == 0
    assert probe.outcome(200) == "closed"
    assert books.states() == {}
    books.enter(NAME, WHERE).outcome(200)


def test_if_it_fails_the_time_begins_anew(clock: Clock) -> None:
    books = circuits(clock, failures=3, reset_after=30)
    fail(books, 3)
    clock.now += 31
    assert books.enter(NAME, WHERE).outcome(LOST) == "open"  # one is enough
    clock.now += 29
    with pytest.raises(CircuitOpen):
        books.enter(NAME, WHERE)
    clock.now += 1
    assert books.enter(NAME, WHERE).outcome(200) == "closed"


def test_one_that_takes_long_is_not_waited_for_for_ever(clock: Clock) -> None:
    books = circuits(clock, failures=1, reset_after=30)
    fail(books)
    clock.now += 30
    slow = books.enter(NAME, WHERE)
    clock.now += 29
    with pytest.raises(CircuitOpen):
        books.enter(NAME, WHERE)
    clock.now += 1
    second = books.enter(NAME, WHERE)
    assert slow.outcome(503) is None  # it is the second that counts now
    assert second.outcome(200) == "closed"


@pytest.mark.parametrize("how", ["given back", "dropped", "cancelled"])
def test_one_that_tells_nothing_makes_room_for_the_next(clock: Clock, how: str) -> None:
    books = circuits(clock, failures=1, reset_after=30)
    fail(books)
    clock.now += 30
    probe = books.enter(NAME, WHERE)
    if how == "given back":
        probe.give_back()
    elif how == "cancelled":
        probe.outcome(RequestException("cancelled", phase="head"))
    del probe
    assert books.states() == {NAME: "open"}
    assert books.enter(NAME, WHERE).outcome(200) == "closed"


def test_what_was_begun_before_it_opened_changes_nothing(clock: Clock) -> None:
    books = circuits(clock, failures=1, reset_after=30)
    early = [books.enter(NAME, WHERE) for _ in range(3)]
    fail(books)
    clock.now += 20
    assert early[0].outcome(200) is None
    assert early[1].outcome(503) is None
    clock.now += 10
    probe = books.enter(NAME, WHERE)  # thirty seconds after it opened, not after the last word
    assert early[2].outcome(503) is None
    assert books.states() == {NAME: "half-open"}
    assert probe.outcome(200) == "closed"


def test_the_outcome_is_told_once(clock: Clock) -> None:
    books = circuits(clock, failures=2)
    permit = books.enter(NAME, WHERE)
    permit.outcome(503)
    permit.outcome(503)
    permit.give_back()
    assert books.states() == {}


def test_many_failing_origins_are_forgotten(clock: Clock) -> None:
    books = circuits(clock, failures=1)
    for number in range(CIRCUITS_KEPT + 10):
        fail(books, name=f"http://host{number}:80")
    assert len(books.states()) == len(books._troubled) == CIRCUITS_KEPT
    assert "http://host9:80" not in books.states()


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [
        (200, False),
        (404, False),
        (429, False),
        (500, True),
        (503, True),
        (LOST, True),
        (ReadTimeout("late", phase="head"), True),
        (TotalTimeout("late", phase="pool"), False),
        (PoolTimeout("full", phase="pool"), False),
        (caused_by(OSError(errno.EMFILE, "out of them")), False),
        (caused_by(OSError(errno.ECONNREFUSED, "refused")), True),
        (CircuitOpen("open"), False),
        (RequestException("other"), False),
    ],
)
def test_what_counts_as_a_failure(outcome: Any, failed: bool) -> None:
    assert is_failure(outcome) is failed


def test_only_one_of_many_threads_tries(frantic: None, clock: Clock) -> None:
    books = circuits(clock, failures=1, reset_after=30)
    for _ in range(50):
        fail(books)
        clock.now += 30
        permits: list[Any] = []

        def enter(permits: list[Any] = permits) -> bool:
            try:
                permits.append(books.enter(NAME, WHERE))
            except CircuitOpen:
                return False
            return True

        assert sum(at_once(*[enter] * 8)) == 1
        assert permits[0].outcome(200) == "closed"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork()")
def test_who_was_trying_does_not_come_along_into_a_child(clock: Clock) -> None:
    books = circuits(clock, failures=1, reset_after=30)
    fail(books)
    clock.now += 30
    probe = books.enter(NAME, WHERE)

    def child() -> str | None:
        return books.enter(NAME, WHERE).outcome(200)

    assert forked(child)() == "closed"
    assert books.states() == {NAME: "half-open"}
    probe.give_back()


# ------------------------------------------------------------------------------------------- in a session


def with_clock(session: Session, clock: Clock) -> Session:
    session._adapter._circuits._clock = clock  # type: ignore[union-attr]
    return session


def circuit(session: Session) -> str:
    (origin,) = session.stats().by_origin.values()
    return origin.circuit


def test_a_server_that_fails_is_left_alone_and_found_again(new_session: NewSession, clock: Clock) -> None:
    works = threading.Event()

    def app(request: Request) -> Answer:
        return Answer(200 if works.is_set() else 500)

    session = with_clock(new_session(breaker=CircuitBreaker(failures=2, reset_after=30)), clock)
    with AppServer(app) as server:
        assert [session.get(server.url).status_code for _ in range(2)] == [500, 500]
        assert circuit(session) == "open"
        with pytest.raises(CircuitOpen, match=f"127.0.0.1:{server.port}.*nothing was sent") as caught:
            session.get(server.url)
        assert caught.value.request is not None
        assert caught.value.phase is None
        assert server.requests == 2
        works.set()
        clock.now += 30
        assert session.get(server.url).ok
        assert circuit(session) == "closed"
        assert session.get(server.url).ok
        assert server.requests == 4


def test_a_server_that_is_not_there(new_session: NewSession) -> None:
    session = new_session(breaker=CircuitBreaker(failures=2))
    with refused_port() as nobody:
        kinds = []
        for _ in range(3):
            with pytest.raises(ConnectionError) as caught:
                session.get(nobody.url)
            kinds.append(caught.type)
        assert kinds == [ConnectionError, ConnectionError, CircuitOpen]
        assert session.stats().failed == 2


@pytest.mark.parametrize("how", ["stream", "upload", "sse", "whole"])
@pytest.mark.parametrize("fault", ["silent", "500"])
def test_every_kind_of_request_counts(new_session: NewSession, how: str, fault: str) -> None:
    session = new_session(breaker=CircuitBreaker(failures=1), timeout=Timeouts(read=0.2))
    server: Any = never_answers() if fault == "silent" else AppServer(lambda request: Answer(500))
    with server:
        with_errors(session, how, server.url)
        assert circuit(session) == "open"
        with pytest.raises(CircuitOpen):
            session.upload("PUT", server.url)


def with_errors(session: Session, how: str, url: str) -> None:
    try:
        if how == "stream":
            session.get(url, stream=True).close()
        elif how == "upload":
            with session.upload("PUT", url) as up:
                up.write(b"x")
        elif how == "sse":
            with session.sse(url, max_reconnects=0) as stream:
                list(stream)
        else:
            session.get(url)
    except RequestException:
        return  # what is raised is not looked at here


def test_half_an_answer_is_a_failure(new_session: NewSession) -> None:
    session = new_session(breaker=CircuitBreaker(failures=1))
    with truncated() as server:
        with pytest.raises(RequestException):
            session.get(server.url)
        assert circuit(session) == "open"


def test_a_connection_that_was_idle_for_too_long_is_none(new_session: NewSession) -> None:
    session = new_session(breaker=CircuitBreaker(failures=1))
    with closes_idle(stepped=True) as server:
        for _ in range(3):
            session.get(server.url)
            server.step()
            assert server.closed_idle.wait(10)
            server.closed_idle.clear()
        assert circuit(session) == "closed"


def test_a_queue_is_none(new_session: NewSession) -> None:
    limits = PoolLimits(per_host=1)
    session = new_session(breaker=CircuitBreaker(failures=1), pool=limits, timeout=Timeouts(pool=0.05))
    with AppServer() as server, session.upload("PUT", server.url, timeout=10) as holder:
        with pytest.raises(PoolTimeout):
            session.get(server.url)
        assert circuit(session) == "closed"
        holder.write(b"x")


@pytest.mark.parametrize("how", ["cancelled", "dropped", "raised"])
def test_a_probe_that_the_program_gives_up_tells_nothing(new_session: NewSession, clock: Clock, how: str) -> None:
    session = with_clock(new_session(breaker=CircuitBreaker(failures=1, reset_after=30)), clock)

    def script(peer: Peer) -> None:
        if peer.index == 0:
            peer.read_head()
            peer.send(reply(500))
        peer.wait_closed()

    with ScriptedServer(script) as server:
        assert session.get(server.url).status_code == 500
        session._adapter._pool._ledger.dismiss_idle()[0].close()
        clock.now += 30
        up = session.upload("PUT", server.url)
        assert circuit(session) == "half-open"
        if how == "cancelled":
            up.abort()
        elif how == "raised":
            with pytest.raises(ZeroDivisionError), up:
                _ = 1 / 0
        else:
            with pytest.warns(ResourceWarning):
                del up
        eventually(lambda: circuit(session) == "open")


def test_what_counts_can_be_chosen(new_session: NewSession) -> None:
    asked = []

    def is_failure(outcome: object) -> bool:
        asked.append(outcome)
        return outcome == 429

    session = new_session(breaker=CircuitBreaker(failures=1, is_failure=is_failure))
    statuses = iter([500, 429])
    with AppServer(lambda request: Answer(next(statuses))) as server:
        session.get(server.url)
        assert circuit(session) == "closed"
        session.get(server.url)
        assert circuit(session) == "open"
    assert asked == [500, 429]


def test_what_it_raises_comes_through_and_leaves_the_session_usable(new_session: NewSession) -> None:
    def is_failure(outcome: object) -> bool:
        raise KeyError(outcome)

    session = new_session(breaker=CircuitBreaker(is_failure=is_failure))
    with AppServer() as server:
        for _ in range(3):
            with pytest.raises(KeyError):
                session.get(server.url)
        assert session.stats().in_use == 0


def test_and_makes_room_for_the_next_probe(new_session: NewSession, clock: Clock) -> None:
    """Also while somebody keeps the error."""

    def is_failure(outcome: object) -> bool:
        if outcome == 418:
            raise KeyError(outcome)
        return outcome == 503

    session = with_clock(new_session(breaker=CircuitBreaker(1, 30, is_failure)), clock)
    statuses = iter([503, 418, 200])
    with AppServer(lambda request: Answer(next(statuses))) as server:
        session.get(server.url)
        clock.now += 30
        with pytest.raises(KeyError) as kept:
            session.get(server.url)
        assert circuit(session) == "open"
        assert session.get(server.url).ok
        assert circuit(session) == "closed"
        assert kept.value.args == (418,)


def test_a_copy_begins_with_closed_circuits(new_session: NewSession) -> None:
    adapter = HTTPAdapter(breaker=CircuitBreaker(failures=1))
    other = HTTPAdapter.__new__(HTTPAdapter)
    other.__setstate__(adapter.__getstate__())
    assert other._circuits is not None
    assert other._circuits is not adapter._circuits
    assert other._circuits.breaker == CircuitBreaker(failures=1)


def test_threads_share_it(new_session: NewSession) -> None:
    session = new_session(breaker=CircuitBreaker(failures=5), pool=PoolLimits(per_host=8))
    with AppServer(lambda request: Answer(500)) as server:

        def many() -> int:
            refused = 0
            for _ in range(25):
                try:
                    session.get(server.url)
                except CircuitOpen:
                    refused += 1
            return refused

        calls = [Call(many) for _ in range(8)]
        refused = sum(call.result() for call in calls)
        assert refused + server.requests == 200
        assert 5 <= server.requests <= 12  # those that were under way when it opened

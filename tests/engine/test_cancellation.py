"""How another thread ends a request: `Cancellation` alone, and with the pool's queue, the dial and the exchange."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from syncflow import Cancelled, PoolLimits, RequestException, SessionClosed, Timeouts, Watermarks
from syncflow.engine.calling_off import Cancellation
from syncflow.engine.deadline import Deadline
from syncflow.engine.exchange import Exchange
from syncflow.engine.origin import Origin
from syncflow.engine.pool import Pool
from syncflow.engine.worker import Worker
from syncflow.http1 import request_head
from syncflow.testing import AppServer, ScriptedServer, eventually, full_backlog, never_answers

from ..concurrency import Call, at_once
from .rig import PATIENCE, counts, has_waiters, is_receiver_blocked

ROUNDS = 300


class CancellableDeadline(Deadline):
    """As a stream's."""

    __slots__ = ("cancellation",)

    def __init__(self, cancellation: Cancellation, timeouts: Timeouts = Timeouts()) -> None:  # noqa: B008  # frozen
        super().__init__(timeouts)
        self.cancellation: Cancellation | None = cancellation


@pytest.fixture
def pool(worker: Worker) -> Iterator[Pool]:
    """With a place for one connection."""
    pool = Pool(worker, PoolLimits(per_host=1), Watermarks())
    yield pool
    pool.close()
    eventually(lambda: counts(pool) == (0, 0, 0, 0))


def origin_of(server: object) -> Origin:
    return Origin("http", "127.0.0.1", server.port)  # type: ignore[attr-defined]


def error_of(call: Call[object], cancellation: Cancellation) -> None:
    """It ended with the error by which it was called off, and with no other."""
    assert call.error() is cancellation.error


# ---------------------------------------------------------------------- alone


def test_whoever_attends_is_told() -> None:
    cancellation, told, error = Cancellation(), list[RequestException](), Cancelled("it")
    cancellation.cancel(Cancelled("before anybody"))
    cancellation = Cancellation()
    cancellation.attend(told.append)
    assert told == []
    cancellation.cancel(error)
    assert told == [error]


def test_who_comes_too_late_is_told_at_once() -> None:
    cancellation, told, error = Cancellation(), list[RequestException](), Cancelled("it")
    cancellation.cancel(error)
    for _ in range(2):
        cancellation.attend(told.append)
    assert told == [error, error]


def test_only_the_last_one_is_told() -> None:
    """What was waited for before is over, and may be another's by now."""
    cancellation, first, second = Cancellation(), list[RequestException](), list[RequestException]()
    cancellation.attend(first.append)
    cancellation.attend(second.append)
    cancellation.cancel(Cancelled("it"))
    assert (len(first), len(second)) == (0, 1)


def test_the_first_error_stays() -> None:
    cancellation, told, error = Cancellation(), list[RequestException](), Cancelled("it")
    cancellation.attend(told.append)
    cancellation.cancel(error)
    cancellation.cancel(Cancelled("later"))
    assert cancellation.error is error
    assert told == [error, error]


def test_attending_and_cancelling_at_the_same_moment(frantic: None) -> None:
    """Whoever comes second: it is told, once or twice, never not at all."""
    for _ in range(ROUNDS):
        cancellation, told, error = Cancellation(), list[RequestException](), Cancelled("it")
        at_once(
            lambda cancellation=cancellation, told=told: cancellation.attend(told.append),  # type: ignore[misc]
            lambda cancellation=cancellation, error=error: cancellation.cancel(error),  # type: ignore[misc]
        )
        assert told in ([error], [error, error])


def test_most_requests_have_none() -> None:
    assert Deadline(Timeouts()).cancellation is None
    assert "cancellation" not in Deadline.__slots__


# ---------------------------------------------------------------------- the pool's queue


def test_it_ends_a_wait_in_the_queue(pool: Pool) -> None:
    with never_answers() as server:
        origin = origin_of(server)
        taken = pool.connection(origin, Deadline(Timeouts()))
        cancellations = [Cancellation() for _ in range(3)]
        calls: list[Call[object]] = []
        for cancellation in cancellations:
            calls.append(Call(pool.connection, origin, CancellableDeadline(cancellation)))
            eventually(lambda: counts(pool)[3] == len(calls))
        cancellations[1].cancel(Cancelled("it"))
        error_of(calls[1], cancellations[1])
        assert counts(pool) == (1, 0, 0, 2)  # the others wait on, in their order
        pool.release(taken)
        assert calls[0].result() is taken
        cancellations[2].cancel(Cancelled("it"))
        error_of(calls[2], cancellations[2])
        pool.release(taken)
        assert counts(pool) == (1, 1, 0, 0)


def test_it_ends_what_is_begun_afterwards(pool: Pool) -> None:
    cancellation = Cancellation()
    cancellation.cancel(Cancelled("it"))
    with never_answers() as server:
        origin = origin_of(server)
        taken = pool.connection(origin, Deadline(Timeouts()))
        error_of(Call(pool.connection, origin, CancellableDeadline(cancellation)), cancellation)
        assert counts(pool) == (1, 0, 0, 0)
        pool.release(taken)
    with full_backlog() as port:
        error_of(Call(pool.connection, origin_of(port), CancellableDeadline(cancellation)), cancellation)


def test_a_place_that_is_granted_in_the_last_moment_is_not_lost(pool: Pool, frantic: None) -> None:
    with never_answers() as server:
        origin = origin_of(server)
        taken = pool.connection(origin, Deadline(Timeouts()))
        for _ in range(ROUNDS):
            cancellation = Cancellation()
            call: Call[object] = Call(pool.connection, origin, CancellableDeadline(cancellation))
            eventually(lambda: counts(pool)[3] == 1)
            at_once(
                lambda: pool.release(taken),
                lambda cancellation=cancellation: cancellation.cancel(Cancelled("it")),  # type: ignore[misc]
            )
            if call.error() is None:
                assert call.result() is taken
            else:
                error_of(call, cancellation)
                assert pool.connection(origin, Deadline(Timeouts())) is taken  # nobody else has it
        pool.release(taken)
        assert counts(pool) == (1, 1, 0, 0)


# ---------------------------------------------------------------------- the dial


def test_it_ends_a_dial_and_gives_the_place_back(pool: Pool) -> None:
    cancellation = Cancellation()
    with full_backlog() as port:
        call: Call[object] = Call(pool.connection, origin_of(port), CancellableDeadline(cancellation))
        eventually(lambda: any(has_waiters(dial.cond) for dial in list(pool._dials)))
        cancellation.cancel(Cancelled("it"))
        error_of(call, cancellation)
        assert counts(pool) == (0, 0, 0, 0)
        assert not pool._dials
        stats = pool.stats()
        assert (stats.failed, stats.connecting) == (0, 0)  # it is no fault of the server's


def test_a_dial_that_is_done_is_not_ended(pool: Pool) -> None:
    """What is attended still is the dial; the connection is its caller's."""
    cancellation = Cancellation()
    with never_answers() as server:
        connection = pool.connection(origin_of(server), CancellableDeadline(cancellation))
        cancellation.cancel(Cancelled("it"))
        pool.release(connection)
        assert pool.connection(origin_of(server), Deadline(Timeouts())) is connection
        pool.release(connection)


def test_dialing_and_cancelling_at_the_same_moment(worker: Worker, frantic: None) -> None:
    pool = Pool(worker, PoolLimits(per_host=1, idle=0), Watermarks())
    with never_answers() as server:
        for _ in range(ROUNDS // 2):
            cancellation = Cancellation()
            call, _ = at_once(
                lambda cancellation=cancellation: Call(  # type: ignore[misc]
                    pool.connection, origin_of(server), CancellableDeadline(cancellation)
                ),
                lambda cancellation=cancellation: cancellation.cancel(Cancelled("it")),  # type: ignore[misc]
            )
            if call.error() is None:
                pool.release(call.result())
            else:
                error_of(call, cancellation)
        pool.close()
        eventually(lambda: counts(pool) == (0, 0, 0, 0))


# ---------------------------------------------------------------------- the exchange


def ask(pool: Pool, server: ScriptedServer | AppServer, deadline: Deadline, begun: Callable[[Exchange], None]) -> bytes:
    """A small GET, as `HTTPAdapter` sends it."""
    connection = pool.connection(origin_of(server), deadline)
    exchange = Exchange(connection, "GET", deadline, 0.0)
    assert connection.begin(exchange)
    if deadline.cancellation is not None:
        deadline.cancellation.attend(exchange.fail)
    try:
        begun(exchange)
        exchange.start(request_head("GET", "/", [("Host", "x")]), [], has_body=False, last=True)
        exchange.wait_answered(whole=True)
        return exchange.read_all()
    except BaseException as error:
        exchange.abandon(error)
        raise


def test_it_ends_an_exchange_and_closes_the_connection(pool: Pool) -> None:
    cancellation = Cancellation()
    with never_answers() as server:
        call = Call(ask, pool, server, CancellableDeadline(cancellation), lambda exchange: None)
        eventually(lambda: any(map(is_receiver_blocked, (c.transport for c in list(pool._ledger.connections)))))
        cancellation.cancel(Cancelled("it"))
        assert call.error() is cancellation.error
        server.wait_until_idle()
        eventually(lambda: counts(pool) == (0, 0, 0, 0))


def test_it_ends_an_exchange_that_is_about_to_begin(pool: Pool) -> None:
    """Between the connection and the first byte: none is sent, and no other connection is tried."""
    cancellation = Cancellation()
    with AppServer() as server:
        ask(pool, server, Deadline(Timeouts()), lambda exchange: None)  # so that it is one that may be stale
        with pytest.raises(Cancelled):
            ask(pool, server, CancellableDeadline(cancellation), lambda exchange: cancellation.cancel(Cancelled("it")))
        server.wait_until_idle()
        assert (server.requests, server.connections) == (1, 1)


def test_an_exchange_that_is_over_is_left_alone(pool: Pool) -> None:
    """Its connection is in the pool, or another's."""
    cancellation = Cancellation()
    with AppServer() as server:
        ask(pool, server, CancellableDeadline(cancellation), lambda exchange: None)
        cancellation.cancel(SessionClosed("it"))
        ask(pool, server, Deadline(Timeouts()), lambda exchange: None)
        assert (server.requests, server.connections) == (2, 1)


def test_asking_and_cancelling_at_the_same_moment(pool: Pool, frantic: None) -> None:
    with AppServer() as server:
        for _ in range(ROUNDS):
            cancellation = Cancellation()
            started = threading.Event()
            call = Call(
                ask,
                pool,
                server,
                CancellableDeadline(cancellation),
                lambda exchange, started=started: started.set(),
            )
            assert started.wait(PATIENCE)
            cancellation.cancel(Cancelled("it"))
            error = call.error()
            assert error is None or error is cancellation.error
        assert ask(pool, server, Deadline(Timeouts()), lambda exchange: None)

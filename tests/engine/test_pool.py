"""The pool over real sockets: its limits, its queue, what is idle, and its end.

What the ledger decides is test_ledger's; here is whether it happens.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from syncflow import ConnectionError as Failure
from syncflow import PoolLimits, PoolTimeout, Session, SessionClosed, Timeouts, TotalTimeout, Watermarks
from syncflow.engine import ledger as ledger_module
from syncflow.engine.connection import Connection
from syncflow.engine.deadline import Deadline
from syncflow.engine.dialer import Dial
from syncflow.engine.ledger import Ticket
from syncflow.engine.origin import Origin
from syncflow.engine.pool import Pool
from syncflow.engine.worker import Worker
from syncflow.testing import (
    AppServer,
    Peer,
    Request,
    Response,
    ScriptedServer,
    eventually,
    full_backlog,
    never_answers,
    refused_port,
)

from ..concurrency import Call, at_once
from .conftest import Wire
from .rig import PATIENCE, Crash, has_waiters, kill, run_on

PoolMaker = Callable[..., Pool]

# What ends a test that would otherwise hang.
BOUNDED = Timeouts(connect=PATIENCE, read=PATIENCE, pool=PATIENCE)
SOON = 0.05
NEVER = 3600.0


@pytest.fixture
def new_pool(worker: Worker) -> Iterator[PoolMaker]:
    """Makes pools; closes them at the end, and nothing may be left in their books."""
    made: list[Pool] = []

    def make(**limits: Any) -> Pool:
        made.append(Pool(worker, PoolLimits(**limits), Watermarks()))
        return made[-1]

    yield make
    for pool in made:
        pool.close()
        check_empty(pool)


def books(pool: Pool) -> tuple[int, int, int, int]:
    """How many the pool believes to be open, idle, connecting and waiting."""
    with pool._lock:
        ledger = pool._ledger
        return ledger.open, len(ledger._idle), ledger.connecting, sum(len(h.waiting) for h in ledger._hosts.values())


def is_empty(pool: Pool) -> bool:
    ledger = pool._ledger
    return books(pool) == (0, 0, 0, 0) and not (ledger.connections or ledger._hosts or ledger._unwatched or pool._dials)


def check_empty(pool: Pool) -> None:
    eventually(lambda: is_empty(pool), message=f"left in the books: {books(pool)}")


def check_gone(server: Any, count: int = 1) -> None:
    """So many connections came, and all of them have ended."""
    server.wait_for_connections(count)
    server.wait_until_idle()
    assert server.connections == count


def waiting(pool: Pool) -> int:
    return books(pool)[3]


def origin_of(server: Any, wire: Wire | None = None) -> Origin:
    context = wire.client if wire is not None else None
    return Origin("http" if context is None else "https", "127.0.0.1", server.port, context)


def take(pool: Pool, server: Any, timeouts: Timeouts = BOUNDED, wire: Wire | None = None) -> Connection:
    return pool.connection(origin_of(server, wire), Deadline(timeouts))


def queue_up(pool: Pool, server: Any, count: int = 1, timeouts: Timeouts = BOUNDED) -> list[Call[Connection]]:
    """Callers that wait, in this order."""
    calls = []
    before = waiting(pool)
    for _ in range(count):
        calls.append(Call(take, pool, server, timeouts))
        eventually(lambda: waiting(pool) == before + len(calls))
    return calls


@contextmanager
def session_with(worker: Worker, **limits: Any) -> Iterator[tuple[Session, Pool]]:
    with Session(worker=worker, pool=PoolLimits(**limits), timeout=BOUNDED) as session:
        pool = session._adapter._pool
        yield session, pool
    check_empty(pool)


# ---------------------------------------------------------------------- the limits


class Gate:
    """An app that lets nobody go before it is opened, and counts who is inside."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self._lock = threading.Lock()
        self.inside = self.most = 0

    def __call__(self, request: Request) -> Response:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.opened.wait(PATIENCE)
        with self._lock:
            self.inside -= 1
        return Response(200, (), b"ok")


def test_no_more_than_per_host(worker: Worker) -> None:
    gate = Gate()
    with AppServer(gate) as server, session_with(worker, per_host=3) as (session, pool):
        calls = [Call(session.get, server.url) for _ in range(10)]
        eventually(lambda: gate.inside == 3 and waiting(pool) == 7)
        gate.opened.set()
        assert [call.result().content for call in calls] == [b"ok"] * 10
        assert gate.most == 3
        assert server.connections == 3


def test_no_more_than_the_total(worker: Worker) -> None:
    gate = Gate()
    with ExitStack() as stack:
        servers = [stack.enter_context(AppServer(gate)) for _ in range(3)]
        session, pool = stack.enter_context(session_with(worker, per_host=3, total=4))
        calls = [Call(session.get, servers[number % 3].url) for number in range(12)]
        eventually(lambda: gate.inside == 4 and waiting(pool) == 8)
        assert sum(server.connections for server in servers) == 4
        gate.opened.set()
        assert [call.result().content for call in calls] == [b"ok"] * 12
        assert gate.most <= 4


def test_no_more_than_so_many_are_connecting(new_pool: PoolMaker) -> None:
    pool = new_pool(connecting=2)
    with full_backlog() as endpoint:
        calls = [Call(take, pool, endpoint) for _ in range(5)]
        eventually(lambda: len(pool._dials) == 2 and waiting(pool) == 3)
        assert books(pool) == (2, 0, 2, 3)
        pool.close()
        assert all(isinstance(call.error(), SessionClosed) for call in calls)


def test_what_is_idle_gives_way_to_another_host(new_pool: PoolMaker) -> None:
    pool = new_pool(total=1)
    with never_answers() as first, never_answers() as second:
        pool.release(take(pool, first))
        connection = take(pool, second)
        assert connection.origin == origin_of(second)
        check_gone(first)
        assert books(pool) == (1, 0, 0, 0)


def test_one_that_is_released_serves_who_waits_for_another_host(new_pool: PoolMaker) -> None:
    pool = new_pool(total=1)
    with never_answers() as first, never_answers() as second:
        connection = take(pool, first)
        (call,) = queue_up(pool, second)
        pool.release(connection)
        assert call.result().origin == origin_of(second)
        check_gone(first)


def test_the_last_used_is_used_again(new_pool: PoolMaker) -> None:
    pool = new_pool()
    with never_answers() as server:
        connections = [take(pool, server) for _ in range(3)]
        for connection in connections:
            pool.release(connection)
        assert take(pool, server) is connections[2]
        server.wait_for_connections(3)


def test_others_trust_is_not_shared(new_pool: PoolMaker, client_tls: Any, server_tls: Any) -> None:
    pool = new_pool()
    with never_answers(ssl_context=server_tls) as server:
        pool.release(take(pool, server, wire=Wire(server_tls, client_tls)))
        plain = take(pool, server)
        assert plain.origin.context is None
        server.wait_for_connections(2)


@pytest.mark.parametrize("name", ["per_host", "total", "connecting"])
def test_a_limit_is_a_whole_number_from_1(name: str) -> None:
    for value in (0, -1):
        with pytest.raises(ValueError, match=rf"PoolLimits\.{name} must be at least 1, not {value}"):
            PoolLimits(**{name: value})
    for wrong in (1.5, "3", True, math.inf):
        with pytest.raises(TypeError, match=rf"PoolLimits\.{name} is a whole number, not "):
            PoolLimits(**{name: wrong})  # type: ignore[arg-type]


def test_only_connecting_may_be_without_a_limit() -> None:
    assert PoolLimits(connecting=None).connecting is None
    for name in ("per_host", "total"):
        with pytest.raises(TypeError, match=name):
            PoolLimits(**{name: None})  # type: ignore[arg-type]


def test_times_are_seconds() -> None:
    assert PoolLimits(idle=0).idle == 0
    assert PoolLimits(idle=math.inf).idle == math.inf
    for idle in (-1, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"PoolLimits\.idle is a number of seconds from 0"):
            PoolLimits(idle=idle)
    for age in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"PoolLimits\.max_age must be more than 0 seconds"):
            PoolLimits(max_age=age)


# ---------------------------------------------------------------------- waiting for one


def test_first_come_first_served(new_pool: PoolMaker) -> None:
    pool = new_pool(per_host=1)
    with never_answers() as server:
        connection = take(pool, server)
        calls = queue_up(pool, server, 4)
        while calls:
            pool.release(connection)
            assert calls.pop(0).result() is connection
            assert not any(call.ended for call in calls)


def test_a_place_that_becomes_free_is_taken(new_pool: PoolMaker) -> None:
    pool = new_pool(per_host=1)
    with never_answers() as server:
        connection = take(pool, server)
        (call,) = queue_up(pool, server)
        connection.close()
        assert call.result() is not connection
        assert books(pool) == (1, 0, 0, 0)


def test_the_wait_ends_in_time(new_pool: PoolMaker) -> None:
    pool = new_pool(per_host=2, total=7)
    with never_answers() as server, never_answers() as other:
        connection, *_ = take(pool, server), take(pool, server), take(pool, other)
        with pytest.raises(PoolTimeout) as caught:
            take(pool, server, Timeouts(pool=SOON))
        assert caught.value.phase == "pool"
        assert str(caught.value).startswith(
            f"127.0.0.1:{server.port}: no connection became free in 0.05 s (Timeouts.pool), "
            "with 2 of 2 for this host and 3 of 7 in all; "
        )
        assert books(pool) == (3, 0, 0, 0)
        pool.release(connection)
        assert take(pool, server) is connection


def test_the_total_ends_the_wait_too(new_pool: PoolMaker) -> None:
    pool = new_pool(per_host=1)
    with never_answers() as server:
        take(pool, server)
        with pytest.raises(TotalTimeout, match=r"Timeouts\.total.*'pool'") as caught:
            take(pool, server, Timeouts(pool=PATIENCE, total=SOON))
        assert caught.value.phase == "pool"
        assert waiting(pool) == 0


def test_who_timed_out_is_passed_over(new_pool: PoolMaker) -> None:
    pool = new_pool(per_host=1)
    with never_answers() as server:
        connection = take(pool, server)
        (impatient,) = queue_up(pool, server, timeouts=Timeouts(pool=SOON))
        (patient,) = queue_up(pool, server)
        assert isinstance(impatient.error(), PoolTimeout)
        pool.release(connection)
        assert patient.result() is connection


def granted_too_late(pool: Pool, monkeypatch: pytest.MonkeyPatch, grant: Callable[[], None], error: Exception) -> None:
    """The next who waits is served in the very moment in which `error` ends his wait; there is one behind him."""
    wait = pool._wait
    first: list[Ticket] = []

    def interrupted(ticket: Ticket, deadline: Deadline) -> None:
        first.append(ticket)
        if first[0] is not ticket:
            return wait(ticket, deadline)
        eventually(lambda: waiting(pool) == 2)
        grant()
        assert ticket.served
        raise error

    monkeypatch.setattr(pool, "_wait", interrupted)


@pytest.mark.parametrize("error", [PoolTimeout("late"), KeyboardInterrupt()], ids=["timeout", "interrupt"])
@pytest.mark.parametrize("what", ["connection", "place"])
def test_what_came_too_late_goes_to_the_next(
    new_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch, what: str, error: Exception
) -> None:
    pool = new_pool(per_host=1)
    with never_answers() as server:
        connection = take(pool, server)
        grant = (lambda: pool.release(connection)) if what == "connection" else connection.close
        granted_too_late(pool, monkeypatch, grant, error)
        first, second = queue_up(pool, server), Call(take, pool, server)
        assert first[0].error() is error
        # After an interrupt it is not known how far the first had come: its connection is closed, its place goes on.
        handed_on = what == "connection" and isinstance(error, PoolTimeout)
        assert (second.result() is connection) == handed_on
        assert books(pool) == (1, 0, 0, 0)


def test_one_that_could_not_be_set_up_gives_its_place_back(new_pool: PoolMaker) -> None:
    pool = new_pool(per_host=1, total=1)
    with refused_port() as nobody, never_answers() as server:
        with pytest.raises(Failure, match="Connection refused"):
            take(pool, nobody)
        assert is_empty(pool)
        assert take(pool, server).origin == origin_of(server)


def test_a_failure_lets_the_next_one_try(new_pool: PoolMaker) -> None:
    pool = new_pool(per_host=1)
    with refused_port() as nobody:
        calls = [Call(take, pool, nobody) for _ in range(8)]
        assert all(isinstance(call.error(), Failure) for call in calls)
    assert is_empty(pool)


def test_an_overload_leaves_nothing_behind(new_pool: PoolMaker) -> None:
    pool = new_pool(per_host=2, total=3, connecting=1)
    with never_answers() as server, never_answers() as other, full_backlog() as endpoint:
        held = [take(pool, server), take(pool, server), take(pool, other)]
        impatient = Timeouts(pool=SOON, connect=SOON)
        calls = [Call(take, pool, where, impatient) for where in (server, other, endpoint) for _ in range(10)]
        assert all(isinstance(call.error(), PoolTimeout) for call in calls)
        assert books(pool) == (3, 0, 0, 0)
        held.pop().close()
        calls = [Call(take, pool, endpoint, impatient) for _ in range(10)]
        assert all(isinstance(call.error(), PoolTimeout | Failure) for call in calls)
        assert books(pool) == (2, 0, 0, 0)
        assert len(pool._ledger._queue) < 100

        def use() -> None:
            pool.release(take(pool, server))
            pool.release(take(pool, other))

        for connection in held:
            pool.release(connection)
        at_once(*[use] * 10)
        assert waiting(pool) == 0


# ---------------------------------------------------------------------- connections that are of no use


def says(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    peer.wait_closed(math.inf)


def ends(peer: Peer) -> None:
    peer.half_close()
    peer.wait_closed(math.inf)


def resets(peer: Peer) -> None:
    peer.reset()


OUT_OF_TURN = pytest.mark.parametrize("act", [says, ends, resets])


def misbehaves(act: Callable[[Peer], None], wire: Wire | None = None) -> ScriptedServer:
    """Does so on its first connection, at `step()`."""

    def script(peer: Peer) -> None:
        peer.wait_step()
        act(peer)

    def well(peer: Peer) -> None:
        peer.wait_closed(math.inf)

    return ScriptedServer(script, well, ssl_context=None if wire is None else wire.server)


@OUT_OF_TURN
def test_one_that_is_not_quiet_is_not_used_again(
    new_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch, wire: Wire, act: Callable[[Peer], None]
) -> None:
    """In the first moments nobody watches it: whoever takes it looks."""
    monkeypatch.setattr(ledger_module, "WATCH_AFTER", NEVER)
    pool = new_pool()
    with misbehaves(act, wire) as server:
        connection = take(pool, server, wire=wire)
        assert connection.is_reusable()
        pool.release(connection)
        server.step()
        eventually(lambda: not connection.is_reusable())
        assert books(pool) == (1, 1, 0, 0), "nobody has seen it yet"
        other = take(pool, server, wire=wire)
        assert other is not connection
        assert connection.transport.closed
        server.wait_for_connections(2)
        assert books(pool) == (1, 0, 0, 0)


@OUT_OF_TURN
def test_the_worker_closes_one_that_is_not_quiet(
    new_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch, wire: Wire, act: Callable[[Peer], None]
) -> None:
    """Nobody asks for it: after a while the worker watches it."""
    pool = new_pool()
    with misbehaves(act, wire) as server:
        connection = take(pool, server, wire=wire)
        pool.release(connection)
        eventually(lambda: connection.transport.is_watched)
        server.step()
        eventually(lambda: is_empty(pool))
        assert connection.transport.closed
        check_gone(server)
        assert take(pool, server, wire=wire) is not connection


def test_one_that_is_watched_is_used_again(new_pool: PoolMaker, wire: Wire) -> None:
    """Over TLS the server's session tickets have arrived in the meantime; they are no answer."""
    pool = new_pool()
    with never_answers(ssl_context=wire.server) as server:
        connection = take(pool, server, wire=wire)
        pool.release(connection)
        eventually(lambda: connection.transport.is_watched)
        run_on(pool.worker, lambda: None)
        assert take(pool, server, wire=wire) is connection


def test_who_was_given_a_dead_one_keeps_his_place(new_pool: PoolMaker) -> None:
    pool = new_pool(per_host=1)
    with misbehaves(ends) as server:
        dead = take(pool, server)
        first, second = queue_up(pool, server, 2)
        server.step()
        eventually(lambda: not dead.is_reusable())
        pool.release(dead)
        connection = first.result()
        assert connection is not dead
        assert dead.transport.closed
        assert not second.ended
        assert books(pool) == (1, 0, 0, 1)
        pool.release(connection)
        assert second.result() is connection
        server.wait_for_connections(2)


def test_who_may_not_connect_in_its_place_waits_again(new_pool: PoolMaker) -> None:
    pool = new_pool(per_host=1, connecting=1)
    with misbehaves(ends) as server, full_backlog() as endpoint:
        dead = take(pool, server)
        hanging = Call(take, pool, endpoint)
        eventually(lambda: pool._dials)
        (call,) = queue_up(pool, server)
        server.step()
        eventually(lambda: not dead.is_reusable())
        pool.release(dead)
        eventually(lambda: dead.transport.closed and waiting(pool) == 1)
        error = Failure("called off")
        for dial in list(pool._dials):
            dial.cancel(error)
        assert hanging.error() is error
        assert call.result().is_reusable()


def test_one_that_is_too_old_is_replaced(new_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = new_pool()
    with never_answers() as server:
        old = take(pool, server)
        pool.release(old)
        monkeypatch.setattr(pool._ledger, "is_too_old", lambda connection: connection is old)
        assert take(pool, server) is not old
        assert old.transport.closed


# ---------------------------------------------------------------------- time passes, and nobody asks


@pytest.mark.parametrize("limits", [{"idle": SOON}, {"max_age": SOON}, {"idle": 2 * SOON, "max_age": SOON}])
def test_what_is_idle_expires(new_pool: PoolMaker, wire: Wire, limits: dict[str, float]) -> None:
    pool = new_pool(**limits)
    with never_answers(ssl_context=wire.server) as server:
        connections = [take(pool, server, wire=wire) for _ in range(2)]
        pool.release(connections[0])
        server.wait_for_connections(2)
        eventually(lambda: server.open_connections == 1, message="the server sees no end")
        pool.release(connections[1])
        check_gone(server, 2)
        assert all(connection.transport.closed for connection in connections)
        eventually(lambda: is_empty(pool))


def test_what_is_in_use_does_not_expire(new_pool: PoolMaker) -> None:
    pool = new_pool(idle=SOON)
    with never_answers() as server:
        used, unused = take(pool, server), take(pool, server)
        pool.release(used)
        assert take(pool, server) is used
        pool.release(unused)
        eventually(lambda: unused.transport.closed)
        assert not used.transport.closed
        assert books(pool) == (1, 0, 0, 0)


def test_none_is_kept_where_none_is_wanted(new_pool: PoolMaker) -> None:
    pool = new_pool(idle=0)
    with never_answers() as server:
        connection = take(pool, server)
        pool.release(connection)
        assert connection.transport.closed
        assert is_empty(pool)


def test_a_far_expiry_does_not_put_off_a_near_one(new_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer stands at the end of an hour; what is due earlier moves it."""
    monkeypatch.setattr(ledger_module, "WATCH_AFTER", NEVER)
    pool = new_pool(idle=NEVER)
    with never_answers() as server:
        first, second = take(pool, server), take(pool, server)
        pool.release(first)
        eventually(lambda: pool.worker._timers)
        monkeypatch.setattr(ledger_module, "WATCH_AFTER", SOON)
        pool.release(second)
        eventually(lambda: second.transport.is_watched)


def test_the_timer_is_set_again_by_the_next_worker(new_pool: PoolMaker) -> None:
    pool = new_pool()
    with never_answers() as server:
        pool.release(take(pool, server))
        eventually(lambda: pool.worker._timers)
        kill(pool.worker, Crash())
        eventually(lambda: is_empty(pool) and pool._timer_at is None)
        connection = take(pool, server)
        pool.release(connection)
        eventually(lambda: connection.transport.is_watched)


# ---------------------------------------------------------------------- the end


def check_closed(error: BaseException | None, server: Any, message: str) -> None:
    assert isinstance(error, SessionClosed)
    assert str(error).startswith(f"127.0.0.1:{server.port}: {message}")


DURING = "the session was closed during the request"
BEFORE = "the session is closed"


def test_close_wakes_who_waits(new_pool: PoolMaker) -> None:
    pool = new_pool(per_host=1)
    with never_answers() as server:
        take(pool, server)
        calls = queue_up(pool, server, 3)
        pool.close()
        for call in calls:
            check_closed(call.error(), server, DURING)
        assert len({id(call.error()) for call in calls}) == 3, "each has its own"
        check_gone(server)


def test_close_wakes_who_connects(new_pool: PoolMaker) -> None:
    pool = new_pool()
    with full_backlog() as endpoint:
        call = Call(take, pool, endpoint)
        eventually(lambda: any(has_waiters(dial.cond) for dial in list(pool._dials)))
        pool.close()
        check_closed(call.error(), endpoint, DURING)


def test_close_wakes_who_shakes_hands(new_pool: PoolMaker, client_tls: Any, server_tls: Any) -> None:
    pool = new_pool()
    with never_answers() as server:
        call = Call(take, pool, server, BOUNDED, Wire(server_tls, client_tls))
        server.wait_for_connections(1)
        eventually(lambda: any(has_waiters(dial.cond) for dial in list(pool._dials)))
        pool.close()
        check_closed(call.error(), server, DURING)


def test_close_wakes_who_reads(worker: Worker) -> None:
    with never_answers() as server, session_with(worker) as (session, pool):
        calls = [Call(session.get, server.url) for _ in range(2)]
        eventually(lambda: sum(c.transport._in_wait for c in list(pool._ledger.connections)) == 2)
        session.close()
        for call in calls:
            check_closed(call.error(), server, DURING)
        check_gone(server, 2)


def test_close_closes_what_is_idle(new_pool: PoolMaker) -> None:
    pool = new_pool()
    with never_answers() as server:
        for connection in [take(pool, server) for _ in range(3)]:
            pool.release(connection)
        pool.close()
        check_gone(server, 3)
        assert is_empty(pool)
        assert not pool.has_connections


@pytest.mark.parametrize("end", ["close", "retire"])
def test_nothing_begins_after_the_end(new_pool: PoolMaker, end: str) -> None:
    pool = new_pool()
    with never_answers() as server:
        pool.release(take(pool, server))
        server.wait_for_connections(1)
        for _ in range(2):
            getattr(pool, end)()
            with pytest.raises(SessionClosed) as caught:
                take(pool, server)
            check_closed(caught.value, server, BEFORE)
        assert server.connections == 1


def test_one_that_connects_while_the_pool_is_closed_is_closed(
    new_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither in the books yet nor any more to be called off."""
    pool = new_pool()
    run = Dial.run

    def close_then_return(self: Dial) -> Any:
        result = run(self)
        pool.close()
        return result

    monkeypatch.setattr(Dial, "run", close_then_return)
    with never_answers() as server:
        with pytest.raises(SessionClosed):
            take(pool, server)
        check_gone(server)
        assert is_empty(pool)


def test_one_that_is_released_after_the_end_is_closed(new_pool: PoolMaker) -> None:
    pool = new_pool()
    with never_answers() as server:
        connection = take(pool, server)
        pool.retire()
        assert not connection.transport.closed, "it is in use"
        pool.release(connection)
        assert connection.transport.closed
        check_gone(server)


def test_retire_closes_what_is_idle(new_pool: PoolMaker) -> None:
    pool = new_pool()
    with never_answers() as server:
        used, unused = take(pool, server), take(pool, server)
        pool.release(unused)
        pool.retire()
        server.wait_for_connections(2)
        eventually(lambda: server.open_connections == 1)
        assert not used.transport.closed
        assert pool.has_connections


def test_who_waits_when_the_pool_retires_is_served(new_pool: PoolMaker) -> None:
    pool = new_pool(per_host=1)
    with never_answers() as server:
        connection = take(pool, server)
        (call,) = queue_up(pool, server)
        pool.retire()
        pool.release(connection)
        assert call.result() is connection


def test_who_would_have_to_connect_then_may(new_pool: PoolMaker) -> None:
    """Each gets a connection of its own, because the one before is closed and not handed on."""
    pool = new_pool(per_host=1)
    with never_answers() as server:
        connection = take(pool, server)
        calls = queue_up(pool, server, 3)
        pool.retire()
        for call in calls:
            connection.close()
            connection = call.result()
        server.wait_for_connections(4)
        connection.close()
        assert is_empty(pool)


def test_retired_by_a_finalizer(new_pool: PoolMaker) -> None:
    pool = new_pool()
    pool.retire_from_finalizer()  # nothing is open, so there is nothing to do
    with never_answers() as server:
        pool.release(take(pool, server))
        pool.retire_from_finalizer()
        check_gone(server)
        eventually(lambda: is_empty(pool))


def test_a_closed_pool_needs_no_worker(worker: Worker) -> None:
    with never_answers() as server, closing(Pool(worker, PoolLimits(), Watermarks())) as pool:
        pool.release(take(pool, server))
        eventually(lambda: worker._timers)
    eventually(lambda: worker._thread is None, message="a timer keeps the worker alive")


class Striking(set[Any]):
    """Ctrl-C comes, once, as soon as something was taken out of it."""

    is_armed = True

    def discard(self, item: Any) -> None:
        super().discard(item)
        if self.is_armed:
            self.is_armed = False
            raise KeyboardInterrupt


def test_an_interrupt_behind_the_dial_loses_no_socket(new_pool: PoolMaker) -> None:
    pool = new_pool()
    pool._starved = Striking()
    with AppServer() as server:
        with pytest.raises(KeyboardInterrupt):
            take(pool, server)
        check_empty(pool)
        check_gone(server)


def test_an_interrupt_does_not_cost_the_timer(new_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes when it is decided to set it, and before it is set."""
    pool = new_pool(idle=0.1)
    submit = pool.worker.submit

    def struck(client: Any, action: Any) -> None:
        if client is pool._expiry:
            raise KeyboardInterrupt
        submit(client, action)

    with AppServer() as server:
        connection = take(pool, server)
        monkeypatch.setattr(pool.worker, "submit", struck)
        with pytest.raises(KeyboardInterrupt):
            pool.release(connection)
        monkeypatch.setattr(pool.worker, "submit", submit)
        pool.release(take(pool, server))
        check_gone(server)

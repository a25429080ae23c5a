"""The accounts of a pool: what is added up, once, and what is forgotten; and what a forked child has of them."""

from __future__ import annotations

import os
from typing import Any

import pytest

from syncflow import PoolLimits, Session
from syncflow.engine import accounts as module
from syncflow.engine.accounts import Accounts, Sums, Usage
from syncflow.engine.ledger import Ledger
from syncflow.engine.origin import Origin, Proxy
from syncflow.engine.stats import OriginStats, PoolStats, combined, stats_of
from syncflow.engine.worker import Worker
from syncflow.testing import AppServer, Receiver, eventually

from ..concurrency import forked
from .conftest import SessionMaker, Wire
from .rig import Crash, connection_of, kill, pool_of

A, B = (Origin("http", name, 80) for name in "ab")


class FakeConnection:
    """All that accounts and figures look at."""

    def __init__(self, origin: Origin, usage: Usage) -> None:
        self.origin = origin
        self.said = usage

    def usage(self) -> Usage:
        return self.said


def opened(accounts: Accounts, origin: Origin, usage: Usage = Usage(2, 30, 400, 5, 6)) -> Any:  # noqa: B008  # frozen
    connection: Any = FakeConnection(origin, usage)
    accounts.opened(connection)
    return connection


def stats(accounts: Accounts) -> PoolStats:
    return stats_of(Ledger(PoolLimits()).standing(), accounts.statement())


def test_it_is_asked_while_it_is_open_and_added_up_once() -> None:
    accounts = Accounts()
    connection = opened(accounts, A)
    before = stats(accounts)
    assert (before.bytes_sent, before.bytes_received, before.reused, before.opened) == (30, 400, 2, 1)
    assert (before.bytes_buffered, before.buffered_outgoing, before.buffered_incoming) == (11, 5, 6)
    statement = accounts.statement()
    for _ in range(2):
        accounts.closed(connection, Usage(3, 31, 401))
    after = stats(accounts)
    assert (after.bytes_sent, after.bytes_received, after.reused, after.opened) == (31, 401, 3, 1)
    assert after.bytes_buffered == 0
    assert accounts.statement()[2] == []
    connection.said = Usage(3, 31, 401)
    late = stats_of(Ledger(PoolLimits()).standing(), statement)
    assert late == after, "a statement from before it was closed says the same"


def test_one_that_was_never_opened_changes_nothing() -> None:
    accounts = Accounts()
    stranger: Any = FakeConnection(A, Usage(0, 0, 0))
    accounts.closed(stranger, Usage(1, 2, 3))
    assert accounts.statement() == (Sums(), {}, [])


def test_only_who_has_no_connection_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ORIGINS_KEPT", 3)
    accounts = Accounts()
    kept = opened(accounts, Origin("http", "kept", 80))
    for number in range(10):
        accounts.failed(Origin("http", f"failed{number}", 80))
    accounts.failed(Origin("http", "failed7", 80))  # it is the last one again
    accounts.failed(Origin("http", "new", 80))
    total, by_origin, _ = accounts.statement()
    assert set(by_origin) == {f"http://{name}:80" for name in ("kept", "failed9", "failed7", "new")}
    assert by_origin["http://failed7:80"].failed == 2
    assert (total.failed, total.opened) == (12, 1)
    accounts.closed(kept, Usage(0, 0, 0))
    assert set(accounts.statement()[1]) == {f"http://{name}:80" for name in ("failed7", "new", "kept")}


def test_several_pools_are_added_up() -> None:
    first, second = Accounts(), Accounts()
    opened(first, A)
    opened(second, A)
    opened(second, B)
    whole = combined([stats(first), stats(second)])
    assert whole.opened == 3
    assert {name: figures.opened for name, figures in whole.by_origin.items()} == {"http://a:80": 2, "http://b:80": 1}
    assert isinstance(whole.by_origin["http://a:80"], OriginStats)
    assert combined([]) == PoolStats()


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        (Origin("https", "example.org", 443), "https://example.org:443"),
        (Origin("http", "::1", 8080), "http://[::1]:8080"),
        (Origin("http", "localhost", 80, path="/run/x y.sock"), "http+unix://%2Frun%2Fx%20y.sock"),
        (Origin("https", "a", 443, proxy=Proxy("http", "proxy", 3128, password="secret")), "https://a:443"),
    ],
)
def test_what_an_origin_is_called(origin: Origin, name: str) -> None:
    assert origin.name == name


def test_who_was_served_waits_no_more_and_connects() -> None:
    ledger, accounts = Ledger(PoolLimits(per_host=1)), Accounts()
    for origin in (A, A, B):
        ledger.queue(origin)  # and nobody has collected the ticket yet
    figures = stats_of(ledger.standing(), accounts.statement())
    assert (figures.connecting, figures.waiting, figures.open) == (2, 1, 0)
    first, second = figures.by_origin["http://a:80"], figures.by_origin["http://b:80"]
    assert (first.connecting, first.waiting) == (1, 1)
    assert (second.connecting, second.waiting) == (1, 0)


# ---------------------------------------------------------------------- connections that end in other ways


def test_the_worker_dies(session: Session, worker: Worker, wire: Wire) -> None:
    with AppServer(ssl_context=wire.server) as server:
        session.get(server.url)
        connection = next(iter(pool_of(session)._ledger.connections))
        eventually(lambda: connection.transport.is_watched)
        before = session.stats()
        kill(worker, Crash())
        after = session.stats()
        assert (after.open, after.opened) == (0, 1)
        assert (after.bytes_sent, after.bytes_received) == (before.bytes_sent, before.bytes_received)
        assert pool_of(session)._accounts.statement()[2] == [], "it is not kept for its figures"


def test_what_is_closed_is_not_kept_for_its_figures(session: Session, wire: Wire) -> None:
    with Receiver(ssl_context=wire.server) as server:
        for _ in range(5):
            with session.get(server.url + "/bytes/5000000", stream=True) as response:
                assert connection_of(response) in dict(pool_of(session)._accounts.statement()[2])
        eventually(lambda: pool_of(session)._accounts.statement()[2] == [])
        assert session.stats().opened == 5


# ---------------------------------------------------------------------- fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_child_counts_for_itself(new_session: SessionMaker, wire: Wire) -> None:
    session = new_session()
    with Receiver(ssl_context=wire.server) as server:
        response = session.get(server.url + "/bytes/5000000", stream=True)
        before = session.stats()

        def child() -> Any:
            at_first = session.stats()
            response.close()  # the parent's: it goes into no account of the child's
            session.get(server.url + "/stats")
            stats = session.stats()
            return [at_first == PoolStats(), stats.opened, stats.open, stats.idle, stats.reused]

        assert forked(child)() == [True, 1, 1, 1, 0]
        after = session.stats()
        assert (after.opened, after.in_use, after.bytes_sent) == (1, 1, before.bytes_sent)
        response.close()

"""A process that goes to thousands of origins is left with what it had: nothing is kept for an origin but a few figures
of the last ones.

Knows every table of the engine and the adapter that could grow.
"""

from __future__ import annotations

import gc
import ssl
import sys
import threading
from collections.abc import Callable

import pytest
import trustme

import syncflow
from syncflow import PoolLimits, Session
from syncflow.engine import resolver, tls
from syncflow.engine.accounts import ORIGINS_KEPT
from syncflow.engine.worker import shared_worker
from syncflow.testing import AppServer, eventually, refused_port

from .crowds import CrowdServer
from .engine.rig import pool_of

pytestmark = pytest.mark.once

NewSession = Callable[..., Session]

# More than any of the caches holds.
FIRST = 1100
ORIGINS = 5000
# Blocks of Python's allocator that an origin may leave behind. Whatever was kept for each would be one at the least.
MOST_PER_ORIGIN = 0.5

TOTAL = 20
FEW = 300


def tables(session: Session) -> dict[str, int]:
    """How much is in each, of what is to be empty once nothing is open."""
    pool, adapter, worker = pool_of(session), session._adapter, shared_worker()
    ledger, accounts = pool._ledger, pool._accounts
    return {
        "hosts": len(ledger._hosts),
        "connections": len(ledger.connections) + ledger.open + ledger.connecting,
        "places": len(ledger._places),
        "tickets": len(ledger._tickets),
        "idle": len(ledger._idle) + len(ledger._unwatched),
        "queue": len(ledger._queue),
        "accounts": len(accounts._used) + len(accounts._unsettled),
        "dials": len(pool._dials),
        "paused": len(adapter.paused),
        "clients": len(worker._clients) + len(worker._watched),
        "commands": len(worker._commands),
        "timers": sum(timer.action is not None for *_, timer in list(worker._timers)),  # not those that were cancelled
        "questions": len(resolver._under_way),
        "entrances": len(tls._entrances),
    }


def more_than(before: dict[str, int], session: Session) -> dict[str, int]:
    """What has grown. What other tests had left with the worker may have become less meanwhile."""
    return {name: size for name, size in tables(session).items() if size > before[name]}


def is_bounded(session: Session) -> bool:
    """What is kept of the last ones."""
    pool, adapter = pool_of(session), session._adapter
    kept = (len(adapter._heads), len(adapter._routes), len(pool._accounts._unused), len(session.stats().by_origin))
    return max(kept) <= ORIGINS_KEPT + TOTAL


def visit(session: Session, server: CrowdServer, numbers: range) -> None:
    for number in numbers:
        assert session.get(f"http://host{number}.test:{server.port}/").ok


def anywhere(server: CrowdServer, count: int) -> dict[str, str]:
    """Where the origins are: without a resolver, whose threads would take most of the time."""
    return {f"host{number}.test:{server.port}": "127.0.0.1" for number in range(count)}


def test_an_origin_leaves_nothing_behind(new_session: NewSession) -> None:
    """Each new one takes the place of the one that has been idle for the longest time."""
    with CrowdServer() as server:
        session = new_session(resolve=anywhere(server, ORIGINS), pool=PoolLimits(total=TOTAL))
        before = tables(session)
        visit(session, server, range(FIRST))
        gc.collect()
        blocks = sys.getallocatedblocks()
        visit(session, server, range(FIRST, ORIGINS))
        eventually(lambda: is_bounded(session))  # what gave way is closed by the worker
        assert (session.stats().open, server.accepted) == (TOTAL, ORIGINS)
        gc.collect()
        grown = sys.getallocatedblocks() - blocks
        assert grown < MOST_PER_ORIGIN * (ORIGINS - FIRST), f"{grown / (ORIGINS - FIRST):.2f} blocks an origin"
        session.close()
        eventually(lambda: not more_than(before, session), message=f"{more_than(before, session)}")
        eventually(lambda: server.open == 0)


def test_one_that_has_expired_leaves_nothing_behind(new_session: NewSession) -> None:
    """Nobody asks for another."""
    with CrowdServer() as server:
        session = new_session(resolve=anywhere(server, FEW), pool=PoolLimits(total=FEW, idle=0.05))
        before = tables(session)
        visit(session, server, range(FEW))
        eventually(lambda: not more_than(before, session), message=f"{more_than(before, session)}")
        eventually(lambda: is_bounded(session))  # what gave way is closed by the worker
        eventually(lambda: server.open == 0)


def test_one_that_cannot_be_reached_leaves_nothing_behind(new_session: NewSession) -> None:
    """Neither a name that nobody knows nor a port where nobody listens; and no thread of the resolver's."""

    def resolve(host: str, port: int) -> list[str]:
        return [] if host.startswith("unknown") else ["127.0.0.1"]

    session = new_session(resolver=resolve)
    before = tables(session)
    with refused_port() as endpoint:
        for number in range(ORIGINS_KEPT + 50):
            with pytest.raises(syncflow.ConnectionError):
                session.get(f"http://{'unknown' if number % 2 else 'refused'}{number}.test:{endpoint.port}/")
    assert session.stats().failed == ORIGINS_KEPT + 50
    eventually(lambda: is_bounded(session))  # what gave way is closed by the worker
    eventually(lambda: not more_than(before, session), message=f"{more_than(before, session)}")
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("syncflow-resolver")])


def test_one_over_tls_leaves_nothing_behind(new_session: NewSession, ca: trustme.CA) -> None:
    """One context serves them all, and none of the locks that a fork takes is kept."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*(f"host{number}.test" for number in range(60))).configure_cert(context)
    session = new_session(resolver=lambda host, port: ["127.0.0.1"], pool=PoolLimits(total=5))
    before, contexts = tables(session), tls._context.cache_info().currsize
    with AppServer(ssl_context=context) as server:
        for number in range(60):
            assert session.get(f"https://host{number}.test:{server.port}/").ok
        assert tls._context.cache_info().currsize <= contexts + 1
        session.close()
        server.wait_until_idle()
    gc.collect()
    eventually(lambda: not more_than(before, session), message=f"{more_than(before, session)}")

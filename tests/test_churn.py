"""Two thousand connections, opened and left behind in every way there is, leave the process as it was.

Knows the tables of worker and pool, the descriptors and threads of the process, and tracemalloc.
"""

from __future__ import annotations

import gc
import os
import ssl
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import syncflow
from syncflow import PoolLimits, Session, Timeouts
from syncflow.engine import resolver, tls
from syncflow.engine.worker import Worker
from syncflow.testing import eventually, refused_port

from .engine.rig import pool_of
from .zoo import Zoo

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are counted in /proc"),
]

CONNECTIONS = 2000
# What is made once, and kept: caches, late imports, the allocator's own.
FIRST = 200
# Bytes that a connection may leave behind. One whose objects stayed would leave some 10,000.
MOST_PER_CONNECTION = 50

NOT_LONG = Timeouts(read=0.005, connect=10, write=10, pool=10)


class Waster:
    """Opens connections and leaves them behind."""

    def __init__(self, worker: Worker, plain: Zoo, secure: Zoo, nowhere: str, ca_file: str) -> None:
        self._worker = worker
        self._plain = plain.url
        self._secure = secure.url
        self._nowhere = nowhere
        self._ca_file = ca_file
        self.session = self._new_session(pool=PoolLimits(per_host=20))
        self.ways = [
            self.leaves_an_answer,
            self.leaves_half_an_answer,
            self.leaves_an_answer_over_tls,
            self.leaves_a_session,
            self.leaves_a_session_over_tls,
            self.leaves_a_session_with_an_answer,
            self.leaves_an_upload,
            self.leaves_events,
            self.closes_an_answer,
            self.aborts_an_upload,
            self.closes_a_session,
            self.has_its_last_answer,
            self.is_left_without_an_answer,
            self.is_reset,
            self.gets_half_an_answer,
            self.runs_out_of_time,
            self.finds_nobody,
        ]

    def _new_session(self, **settings: Any) -> Session:
        session = Session(worker=self._worker, timeout=10, **settings)
        session.headers["X-Token"] = "token"
        session.verify, session.trust_env = self._ca_file, False
        return session

    def waste(self, number: int) -> None:
        self.ways[number % len(self.ways)]()

    def leaves_an_answer(self) -> None:
        self.session.get(f"{self._plain}/ok/300000", stream=True)

    def leaves_half_an_answer(self) -> None:
        self.session.get(f"{self._plain}/ok/300000", stream=True).raw.read(10)

    def leaves_an_answer_over_tls(self) -> None:
        self.session.get(f"{self._secure}/ok/300000", stream=True).raw.read(10)

    def leaves_a_session(self) -> None:
        self._new_session().get(f"{self._plain}/ok/10")

    def leaves_a_session_over_tls(self) -> None:
        self._new_session().get(f"{self._secure}/ok/10")

    def leaves_a_session_with_an_answer(self) -> None:
        self._new_session().get(f"{self._plain}/ok/300000", stream=True).raw.read(10)

    def leaves_an_upload(self) -> None:
        self.session.upload("POST", f"{self._plain}/ok/10").write(b"x" * 1000)

    def leaves_events(self) -> None:
        next(self.session.sse(f"{self._plain}/events/1000"))

    def closes_an_answer(self) -> None:
        self.session.get(f"{self._plain}/ok/300000", stream=True).close()

    def aborts_an_upload(self) -> None:
        self.session.upload("POST", f"{self._plain}/ok/10").abort()

    def closes_a_session(self) -> None:
        with self._new_session() as session:
            session.get(f"{self._plain}/ok/10")

    def has_its_last_answer(self) -> None:
        self.session.get(f"{self._plain}/last/10")

    def is_left_without_an_answer(self) -> None:
        self._fails(f"{self._plain}/closes/10")

    def is_reset(self) -> None:
        self._fails(f"{self._plain}/resets/10")

    def gets_half_an_answer(self) -> None:
        self._fails(f"{self._plain}/half/10")

    def runs_out_of_time(self) -> None:
        self._fails(f"{self._plain}/never/10", timeout=NOT_LONG)

    def finds_nobody(self) -> None:
        self._fails(self._nowhere)

    def _fails(self, url: str, **settings: Any) -> None:
        with pytest.raises(syncflow.RequestException):
            self.session.post(url, **settings)


def tables(worker: Worker, session: Session) -> dict[str, int]:
    """What is to be empty once all is over."""
    pool = pool_of(session)
    ledger = pool._ledger
    return {
        "clients": len(worker._clients) + len(worker._watched),
        "commands": len(worker._commands) + len(worker._last_wishes) + len(worker._to_notify),
        "timers": sum(timer.action is not None for *_, timer in list(worker._timers)),  # not those that were cancelled
        "connections": len(ledger.connections) + len(ledger._hosts) + ledger.open + ledger.connecting,
        "waiting": len(ledger._places) + len(ledger._tickets) + len(ledger._queue) + len(ledger._idle),
        "dials": len(pool._dials),
        "unsettled": len(pool._accounts._unsettled),
        "paused": len(session._adapter.paused),
        "questions": len(resolver._under_way),
    }


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(linger=0.01)
    yield worker
    eventually(lambda: worker._thread is None)


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """Tells how many bytes Python has allocated."""

    def size() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    yield size
    tracemalloc.stop()


def test_two_thousand_connections_leave_nothing(
    worker: Worker, traced: Callable[[], int], server_tls: ssl.SSLContext, ca_file: Any
) -> None:
    with Zoo() as plain, Zoo(ssl_context=server_tls) as secure, refused_port() as nowhere:
        waster = Waster(worker, plain, secure, nowhere.url, str(ca_file))
        session = waster.session

        def come_to_rest() -> tuple[int, int, int]:
            """What the process has, once nothing is open on either side: descriptors, threads, TLS locks to fork by."""
            gc.collect()
            eventually(lambda: not any(tables(worker, session).values()), message=f"{tables(worker, session)}")
            plain.wait_until_idle()
            secure.wait_until_idle()
            return len(os.listdir("/proc/self/fd")), threading.active_count(), len(tls._entrances)

        for number in range(FIRST):
            waster.waste(number)
        before, size = come_to_rest(), traced()
        for number in range(CONNECTIONS):
            waster.waste(number)
        # The worker's thread may have ended meanwhile, with its selector, or be about to.
        eventually(
            lambda: all(now <= then for now, then in zip(come_to_rest(), before, strict=True)),
            message=f"{come_to_rest()}, before: {before}",
        )
        grown = traced() - size
        assert grown < MOST_PER_CONNECTION * CONNECTIONS, f"{grown / CONNECTIONS:.0f} bytes a connection"
        assert session.get(f"{plain.url}/ok/10").ok
        session.close()

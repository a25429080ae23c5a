"""What the engine's tests get: a worker and a session of their own, plain and TLS, usual and frantic switching.

Knows what must be true of them once a test is over: the worker's thread has ended, the pool is empty.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from syncflow import PoolLimits, Session, Timeouts, Watermarks
from syncflow.engine.worker import Worker
from syncflow.testing import eventually

from .rig import counts, pool_of


@pytest.fixture
def worker(no_leaks: None) -> Iterator[Worker]:
    """A worker that does not linger; its thread must end when the test has."""
    worker = Worker(linger=0.01)
    yield worker
    eventually(lambda: worker._thread is None, message="the worker's thread goes on, though nobody needs it")


SessionMaker = Callable[..., Session]


@pytest.fixture
def new_session(worker: Worker, ca_file: Path) -> Iterator[SessionMaker]:
    """Makes sessions on `worker` that trust our authority; closes them at the end and looks whether that was all."""
    made: list[Session] = []

    def make(
        *, pool: PoolLimits | None = None, timeout: Timeouts | None = None, watermarks: Watermarks | None = None
    ) -> Session:
        session = Session(
            worker=worker,
            pool=pool or PoolLimits(),
            timeout=timeout or Timeouts(),
            watermarks=watermarks or Watermarks(),
        )
        session.verify = str(ca_file)
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()
        pool = pool_of(session)
        eventually(lambda pool=pool: counts(pool) == (0, 0, 0, 0), message=f"{counts(pool)}")  # type: ignore[misc]


@pytest.fixture
def session(new_session: SessionMaker) -> Session:
    return new_session()


@dataclass(frozen=True)
class Wire:
    """How a test's connections go: `server` is what its server needs for that."""

    server: ssl.SSLContext | None
    client: ssl.SSLContext | None


@pytest.fixture(params=["plain", "tls"])
def wire(request: pytest.FixtureRequest, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> Wire:
    """Plain and TLS, one after the other."""
    return Wire(server_tls, client_tls) if request.param == "tls" else Wire(None, None)

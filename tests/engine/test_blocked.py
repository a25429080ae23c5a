"""Whoever waits is woken: by the end of the session, of the response, of the upload, of the worker."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from syncflow import Cancelled, ConnectionError, PoolLimits, Session, SessionClosed, Timeouts
from syncflow.engine.worker import Worker
from syncflow.testing import AppServer, eventually

from ..concurrency import Call
from .conftest import SessionMaker, Wire
from .rig import (
    EVERYWHERE,
    ON_A_CONNECTION,
    SETTING_UP,
    Blocked,
    counts,
    in_body,
    in_head,
    in_pool,
    in_stream,
    in_write,
    is_receiver_blocked,
    kill,
    pool_of,
    queued,
    transports,
)

pytestmark = pytest.mark.usefixtures("switching")

NO_LIMIT = Timeouts(connect=None, read=None, write=None, pool=None)

everywhere = pytest.mark.parametrize("blocked", EVERYWHERE, ids=lambda f: f.__name__)


@pytest.fixture
def narrow(new_session: SessionMaker) -> Session:
    """One connection for each host, and no limit that would end a wait."""
    return new_session(pool=PoolLimits(per_host=1), timeout=NO_LIMIT)


@everywhere
def test_by_the_end_of_the_session(narrow: Session, wire: Wire, blocked: Blocked) -> None:
    with ExitStack() as stack:
        call = blocked(narrow, stack, wire.server)
        narrow.close()
        error = call.error()
        assert isinstance(error, SessionClosed), error
        assert str(error).startswith("127.0.0.1:")
        with pytest.raises(SessionClosed):
            narrow.get("http://127.0.0.1:1")


def test_by_the_end_of_the_session_all_of_them(new_session: SessionMaker, wire: Wire) -> None:
    session = new_session(pool=PoolLimits(per_host=1), timeout=NO_LIMIT)
    with ExitStack() as stack:
        calls: list[Call[Any]] = [blocked(session, stack, wire.server) for blocked in EVERYWHERE for _ in range(3)]
        session.close()
        assert [type(call.error()) for call in calls] == [SessionClosed] * len(calls)


@pytest.mark.parametrize("blocked", [in_stream, in_write], ids=lambda f: f.__name__)
def test_by_closing_what_he_waits_for(narrow: Session, wire: Wire, blocked: Blocked) -> None:
    """`Response.close` and `Upload.abort`, which the stack calls at its end."""
    with ExitStack() as stack:
        call = blocked(narrow, stack, wire.server)
        server_goes_last = stack.pop_all()
        callbacks = server_goes_last._exit_callbacks  # type: ignore[attr-defined]
        _, close = callbacks.pop()
        close(None, None, None)
        with server_goes_last:
            assert isinstance(call.error(), Cancelled)
    eventually(lambda: counts(pool_of(narrow)) == (0, 0, 0, 0))


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(9, "Bad file descriptor")], ids=repr)
@pytest.mark.parametrize("blocked", [*ON_A_CONNECTION, *SETTING_UP], ids=lambda f: f.__name__)
def test_by_the_death_of_the_worker(
    narrow: Session, worker: Worker, wire: Wire, blocked: Blocked, error: Exception
) -> None:
    with ExitStack() as stack, AppServer(ssl_context=wire.server) as other:
        call = blocked(narrow, stack, wire.server)
        kill(worker, error)
        failure = call.error()
        assert isinstance(failure, ConnectionError), failure
        assert "worker thread failed" in str(failure)
        assert repr(error) in str(failure)
        assert failure.__cause__ is error
        eventually(lambda: counts(pool_of(narrow)) == (0, 0, 0, 0))
        assert narrow.get(other.url).ok, "and the next request works"


def test_the_death_of_the_worker_gives_a_place_to_who_waits_for_one(
    narrow: Session, worker: Worker, wire: Wire
) -> None:
    with ExitStack() as stack:
        call = in_pool(narrow, stack, wire.server)
        kill(worker, RuntimeError("a bug"))
        eventually(lambda: not queued(narrow))
        eventually(lambda: any(map(is_receiver_blocked, transports(narrow))))
        narrow.close()
        assert isinstance(call.error(), SessionClosed)


def test_the_death_of_the_worker_wakes_all_of_them(new_session: SessionMaker, worker: Worker, wire: Wire) -> None:
    session = new_session(timeout=NO_LIMIT)
    with ExitStack() as stack:
        several = [in_head, in_body, in_stream, in_write, *SETTING_UP]
        calls: list[Call[Any]] = [blocked(session, stack, wire.server) for blocked in several for _ in range(3)]
        kill(worker, RuntimeError("a bug"))
        for call in calls:
            assert isinstance(call.error(), ConnectionError)
            assert "worker thread failed" in str(call.error())

"""Session.drain at the same moment as something else: whichever wins, no request is cut, and none begins in vain."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from syncflow import PoolLimits, Session, SessionClosed
from syncflow.engine import locks
from syncflow.testing import AppServer, Receiver, Request, eventually
from syncflow.testing import Response as Answer

from .concurrency import PATIENCE, Call, at_once, forked
from .draining import draining

NewSession = Callable[..., Session]

ROUNDS = 60
CALLERS = 8

pytestmark = pytest.mark.usefixtures("frantic")


@pytest.fixture(autouse=True)
def no_glances(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain that is not woken does not look by itself either."""
    monkeypatch.setattr(locks, "GLANCE", 1000.0)


def chain(request: Request) -> Answer:
    """`/n` leads to `/n-1`, and `/0` is the end."""
    number = int(request.path[1:] or 0)
    return Answer(302, {"Location": f"/{number - 1}"}) if number else Answer(200, {}, b"whole")


def get(session: Session, url: str) -> bytes | None:
    return session.get(url).content


def redirected(session: Session, url: str) -> bytes | None:
    return session.get(f"{url}/2").content


def streamed(session: Session, url: str) -> bytes | None:
    return session.get(url, stream=True).content


def put(session: Session, url: str) -> bytes | None:
    with session.upload("PUT", url) as up:
        up.write(b"something")
    return up.response.content


# How each begins, and how many requests of it come to the server.
KINDS: dict[str, tuple[Callable[[Session, str], bytes | None], int]] = {
    "get": (get, 1),
    "redirected": (redirected, 3),
    "streamed": (streamed, 1),
    "put": (put, 1),
}


def outcome(begin: Callable[[Session, str], bytes | None], session: Session, url: str) -> bool:
    """Whether it was taken; then it is whole."""
    try:
        assert begin(session, url) == b"whole"
    except SessionClosed as error:
        assert "draining" in str(error) or "drained" in str(error) or "the session is closed; make" in str(error), error
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
def test_against_new_requests(new_session: NewSession, kind: str, is_warm: bool) -> None:
    """Each is answered in full, or was refused before anything of it was sent."""
    begin, requests = KINDS[kind]
    taken = refused = 0
    with AppServer(chain) as server:
        for round_ in range(ROUNDS // 2):
            session = new_session(pool=PoolLimits(per_host=1 + round_ % CALLERS))
            if is_warm:
                session.get(server.url)
            before = server.requests
            calls = [partial(outcome, begin, session, server.url)] * CALLERS
            late = [partial(session.drain, PATIENCE)]
            half = round_ % (CALLERS + 1)
            results = at_once(*calls[:half], *late, *calls[half:])
            assert results.pop(half), "something was cut"
            assert server.requests - before == requests * sum(results)
            assert not session.stats().open
            taken += sum(results)
            refused += CALLERS - sum(results)
    assert taken, "no request was ever fast enough: this test shows nothing"
    assert refused, "none was ever too late: this test shows nothing"


def test_against_close(new_session: NewSession) -> None:
    """Both come back, and the callers too; the answer to "was nothing cut?" is right."""
    opened = threading.Event()

    def app(request: Request) -> Answer:
        assert opened.wait(PATIENCE)
        return Answer(200, {}, b"whole")

    with AppServer(app) as server:
        for round_ in range(ROUNDS):
            opened.clear()
            session = new_session()
            calls = [Call(session.get, server.url) for _ in range(2)]
            eventually(lambda session=session: session.stats().in_use == 2)  # type: ignore[misc]
            functions: list[Callable[[], Any]] = [session.drain, session.close, session.drain]
            if round_ % 2:
                functions.append(opened.set)
            first, _, second, *_ = at_once(*functions)
            opened.set()
            errors = [call.error() for call in calls]
            assert all(error is None or isinstance(error, SessionClosed) for error in errors), errors
            if first or second:
                assert errors == [None, None]
            assert not session.stats().open


def test_against_the_limit(new_session: NewSession) -> None:
    """True only if all of them were whole."""
    outcomes = set()
    with AppServer(chain) as server:
        for round_ in range(ROUNDS):
            session = new_session()
            calls = [Call(redirected, session, server.url) for _ in range(2)]
            in_time = session.drain(PATIENCE if round_ % 20 == 19 else 0.0002 * (round_ % 20))
            errors = [call.error() for call in calls]
            assert all(error is None or isinstance(error, SessionClosed) for error in errors), errors
            if in_time:
                # One that came too late was never taken.
                assert all(error is None or "nothing was sent" in str(error) for error in errors), errors
            outcomes.add(in_time)
    assert True in outcomes


def test_against_the_end_of_what_is_read(new_session: NewSession) -> None:
    """By its last byte, by closing, by dropping."""
    ends: list[Callable[[list[Any]], object]] = [
        lambda held: held[0].content,
        lambda held: held[0].close(),
        lambda held: list(held[0].iter_content(1000)),
    ]
    with AppServer(lambda request: Answer(200, {}, [b"x" * 10_000] * 30)) as server:
        for round_ in range(ROUNDS):
            session = new_session()
            held = [session.get(server.url, stream=True)]
            end = ends[round_ % len(ends)]
            _, drained = at_once(partial(end, held), partial(session.drain, PATIENCE))
            assert drained
            held.clear()


def test_against_uploads_that_end(new_session: NewSession) -> None:
    with Receiver() as server:
        for round_ in range(ROUNDS):
            session = new_session()
            up = session.upload("PUT", server.url)
            up.write(b"x" * 1000)
            _, drained = at_once(up.abort if round_ % 2 else up.finish, partial(session.drain, PATIENCE))
            assert drained


def test_many_drains(new_session: NewSession) -> None:
    with AppServer(chain) as server:
        for _ in range(ROUNDS // 2):
            session = new_session()
            calls = [Call(redirected, session, server.url) for _ in range(2)]
            drains = [partial(session.drain, PATIENCE)] * 4
            assert at_once(*drains) == [True] * 4
            for call in calls:
                error = call.error()
                assert error is None or "nothing was sent" in str(error)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_against_fork(new_session: NewSession) -> None:
    """In the child nothing is under way, whatever the parent was doing, and no lock is held."""
    with AppServer(chain) as server:
        for _ in range(10):
            session = new_session()
            goes_on = threading.Event()

            def work(session: Session = session, goes_on: threading.Event = goes_on) -> int:
                done = 0
                while not goes_on.is_set():
                    try:
                        done += get(session, server.url) == b"whole"
                    except SessionClosed:
                        break
                return done

            calls = [Call(work) for _ in range(3)]
            drain = Call(session.drain, PATIENCE)
            join = forked(lambda session=session: session.drain(5) and not session._calls.under_way)  # type: ignore[misc]
            goes_on.set()
            assert join()
            assert drain.result()
            for call in calls:
                call.result()


def test_requests_go_on_while_another_session_drains(new_session: NewSession) -> None:
    """They share a worker, and nothing else."""
    busy, other = new_session(), new_session()
    is_over = threading.Event()

    def work() -> int:
        done = 0
        while not is_over.is_set():
            done += busy.get(server.url).ok
        return done

    with AppServer(chain) as server, AppServer(lambda request: Answer(200, {}, [b"x" * 100_000] * 10)) as large:
        call = Call(work)
        held = other.get(large.url, stream=True)
        drain = draining(other)
        assert len(held.content or b"") == 1_000_000
        assert drain.result()
        is_over.set()
        assert call.result()

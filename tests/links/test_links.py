"""Every kind of request over every kind of link: the documented result, and a session that is none the worse for it.

The table is `docs/reliability.md`. Each fault comes on one kind of slow link, chosen by a seed; with
SYNCFLOW_LINKS=all in the environment on every kind, which takes minutes.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from syncflow import RequestException, Session, Timeouts
from syncflow.testing import FaultProxy, eventually

from ..concurrency import Call
from .conftest import GENEROUS
from .faults import ENDINGS, KINDS, REFUSED, Fault, Outcome, Sizes, expected, faults, kinds_for
from .tasks import BY_NAME, TASKS, Place, Task

pytestmark = pytest.mark.once

# For links that fall silent. Long enough for all that is not to be silent, on a machine that has much else to do.
SHORT = Timeouts(connect=0.7, read=0.7, write=0.7, pool=10)

SessionHere = Callable[[Timeouts], Session]
Measure = Callable[[Task], tuple[Sizes, Sizes]]


def sizes_of(measured: tuple[Sizes, Sizes], fault: Fault) -> Sizes:
    return measured[0 if fault.direction == "up" else 1]


def check(error: RequestException | None, outcome: Outcome, task: Task, proxy: FaultProxy, fault: Fault) -> None:
    """That it is what may come of it, and says where and how far."""
    if error is None:
        assert not outcome.errors or outcome.or_right, f"no error, and expected {outcome}"
        return
    assert isinstance(error, outcome.errors), f"{error!r}, and expected {outcome}"
    assert f"127.0.0.1:{proxy.port}" in str(error)
    assert error.phase in outcome.phases, f"{error!r} in phase {error.phase!r}, and expected {outcome}"
    assert error.request is not None
    sent, received = error.bytes_sent, error.bytes_received
    assert 0 <= sent <= task.up_body
    assert 0 <= received <= task.down_body
    if fault.direction == "up" and fault.place in ("body", "last") and task.name != "early":
        assert sent >= task.up_body // 3, "so much had passed"
    if error.phase != "body":
        assert received == 0
    elif task.is_sized and fault.what != "reset":
        # To the byte. What had come before a reset may be lost with it.
        missing = {"seam": task.down_body, "body": task.down_body // 2, "last": 1}[fault.place]
        assert received == task.down_body - missing


def attempt(task: Task, place: Place) -> RequestException | None:
    try:
        task.do(place)
    except RequestException as error:
        return error
    return None


def is_free(session: Session) -> bool:
    """Nothing is under way, and nobody has a place that another could have."""
    stats = session.stats()
    return not (stats.in_use or stats.connecting or stats.waiting or stats.bytes_buffered)


def goes_on(task: Task, session: Session, proxy: FaultProxy, folder: Path) -> None:
    """Whatever has happened: once the link is well again, the same session does the same with the right result."""
    eventually(lambda: is_free(session), message=f"{session.stats()}")
    proxy.heal()
    session.timeout = GENEROUS
    task.do(task.place(session, proxy, folder))
    eventually(lambda: is_free(session), message=f"{session.stats()}")


# ------------------------------------------------------------------------------------------- slow links


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_slow_link(
    task: Task, kind: str, session_here: SessionHere, server_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    link = KINDS[kind]
    with task.server(server_tls) as server, FaultProxy(server.address, up=link, down=link, seed=6) as proxy:
        session = session_here(GENEROUS)
        task.do(task.place(session, proxy, tmp_path))
        assert proxy.connections == 1, "a link that is only slow breaks no connection"
        goes_on(task, session, proxy, tmp_path)


# ------------------------------------------------------------------------------------------- cuts and resets


CASES = [
    pytest.param(task.name, fault, kind, id=f"{task.name}-{fault}-{kind}")
    for task in TASKS
    for fault in faults(task, *ENDINGS)
    for kind in kinds_for(task, fault)
]


@pytest.mark.parametrize(("name", "fault", "kind"), CASES)
def test_a_link_that_breaks(
    name: str,
    fault: Fault,
    kind: str,
    sizes: Measure,
    session_here: SessionHere,
    server_tls: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    task = BY_NAME[name]
    links = fault.links(KINDS[kind], task, sizes_of(sizes(task), fault))
    with task.server(server_tls) as server, FaultProxy(server.address, seed=6, **links) as proxy:
        session = session_here(GENEROUS)
        outcome = expected(task, fault)
        check(attempt(task, task.place(session, proxy, tmp_path)), outcome, task, proxy, fault)
        if not outcome.or_right:
            eventually(lambda: proxy.struck, message="the fault never came")
        goes_on(task, session, proxy, tmp_path)
        # What was broken was closed, and not kept.
        eventually(lambda: session.stats().open == proxy.open_connections)


# ------------------------------------------------------------------------------------------- silence


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_link_that_falls_silent(
    task: Task,
    direction: str,
    sizes: Measure,
    session_here: SessionHere,
    server_tls: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    """At each place; all at once, because each waits for its time to run out."""
    measured = sizes(task)

    def run(fault: Fault, kind: str, folder: Path) -> None:
        folder.mkdir()
        links = fault.links(KINDS[kind], task, sizes_of(measured, fault))
        with task.server(server_tls) as server, FaultProxy(server.address, seed=6, **links) as proxy:
            session = session_here(SHORT)
            error = attempt(task, task.place(session, proxy, folder))
            check(error, expected(task, fault), task, proxy, fault)
            eventually(lambda: proxy.struck, message="the fault never came")
            goes_on(task, session, proxy, folder)

    calls: dict[str, Call[None]] = {}
    for fault in faults(task, "silent"):
        if fault.direction == direction:
            for kind in kinds_for(task, fault):
                name = f"{fault}-{kind}"
                calls[name] = Call(run, fault, kind, tmp_path / name)
    failures = {name: error for name, call in calls.items() if (error := call.error()) is not None}
    if failures:
        raise ExceptionGroup("silent links", [_named(name, error) for name, error in failures.items()])


def _named(name: str, error: BaseException) -> Exception:
    assert isinstance(error, Exception)
    error.add_note(name)
    return error


# ------------------------------------------------------------------------------------------- no link at all


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_link_that_refuses(task: Task, session_here: SessionHere, server_tls: ssl.SSLContext, tmp_path: Path) -> None:
    with task.server(server_tls) as server, FaultProxy(server.address) as proxy:
        session = session_here(GENEROUS)
        proxy.refuse()
        error = attempt(task, task.place(session, proxy, tmp_path))
        check(error, REFUSED, task, proxy, Fault("refused", "up", "start"))
        assert (server.connections, session.stats().failed >= 1) == (0, True)
        goes_on(task, session, proxy, tmp_path)

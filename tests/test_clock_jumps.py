"""The wall clock may jump, by a day and back: nothing is measured by it, and nobody waits by it.

Knows which calls read the wall clock, and the few places where that is meant: moments that others write as dates.
"""

from __future__ import annotations

import ast
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import syncflow
from syncflow import PoolLimits, Session, Timeouts
from syncflow.testing import AppServer, Peer, ScriptedServer, eventually, never_answers, reply, reply_head

from .engine.rig import pool_of

NewSession = Callable[..., Session]

ROOT = Path(syncflow.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

DAY = 86400.0
# Seconds: of a limit that is to be reached.
SOON = 0.1

# ---------------------------------------------------------------------------------------------- who reads it

# By its name: what it is called on. Also those that take a moment: given none, they take this one.
READS = {
    "time": {"time"},
    "time_ns": {"time"},
    "clock_gettime": {"time"},
    "clock_gettime_ns": {"time"},
    "localtime": {"time", "utils"},
    "gmtime": {"time"},
    "ctime": {"time"},
    "asctime": {"time"},
    "strftime": {"time"},
    "now": {"datetime"},
    "utcnow": {"datetime"},
    "today": {"datetime", "date"},
    "formatdate": {"utils", "email"},
}

# File and function: why it may.
MEANT = {
    # RFC 6265, sections 5.2.2 and 5.3: the end of a cookie is a date, and outlives the process in a file.
    ("cookie_rules.py", "_expiry"),
    ("cookie_rules.py", "morsel_to_cookie"),
    ("cookies.py", "_for"),
    ("cookies.py", "set_policy"),
    # Which of two cookies is the older one; never before the last one, whatever the clock does.
    ("cookies.py", "set_cookie"),
    # RFC 9110, section 10.2.3: Retry-After may be a date.
    ("retries.py", "retry_after"),
    # A span begins at a date.
    ("ext/opentelemetry.py", "request_started"),
}


def wall_clock_readings(source: str) -> Iterator[tuple[str, str]]:
    """The function in which each stands, and how it is written; also where such a name is imported or passed on."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Attribute) and node.attr in READS:
            owner = node.value
            last = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            if last in READS[node.attr]:
                yield function, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and node.module in ("time", "email.utils"):
            for alias in node.names:
                if alias.name in READS:
                    yield function, f"from {node.module} import {alias.name}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    yield from visit(ast.parse(source), "")


def test_nothing_reads_the_wall_clock_but_what_deals_in_dates() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), function): how
        for path in FILES
        for function, how in wall_clock_readings(path.read_text())
    }
    assert {key: how for key, how in found.items() if key not in MEANT} == {}
    assert set(found) == MEANT, "a reason for what is not there any more"


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef f(): return time.time() + 5",
        "from time import time\ndef f(): pass",
        "def f(clock=time.time): pass",
        "from datetime import datetime\ndef f(): datetime.now(UTC)",
        "import datetime\ndef f(): datetime.datetime.utcnow()",
        "def f(): time.clock_gettime(time.CLOCK_REALTIME)",
        "def f(): email.utils.localtime()",
    ],
)
def test_a_reading_is_found(source: str) -> None:
    assert list(wall_clock_readings(source))


def test_other_clocks_are_not_meant() -> None:
    source = (
        "import time\nfrom time import monotonic\ntime.monotonic(); time.perf_counter(); self.time(); message.now()"
    )
    assert list(wall_clock_readings(source)) == []


# ---------------------------------------------------------------------------------------------- what a jump does


@pytest.fixture(params=["forth", "back", "to and fro"])
def jumping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock jumps between any two readings: by a day each time, or forth and back."""
    steps = {"forth": itertools.count(1), "back": itertools.count(-1, -1), "to and fro": itertools.cycle([1, -1])}
    days = steps[request.param]
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + next(days) * DAY)
    monkeypatch.setattr(time, "time_ns", lambda: int((true() + next(days) * DAY) * 1e9))


def test_requests_go_on(jumping: None, new_session: NewSession) -> None:
    """One connection for all of them, no limit that is reached, and times that make sense."""
    with AppServer() as server:
        session = new_session(timeout=Timeouts(connect=20, read=20, write=20, pool=20, total=20))
        for _ in range(5):
            response = session.get(server.url)
            assert 0 <= response.elapsed.total_seconds() < 20
            assert 0 <= response.timings.total < 20
            assert session.post(server.url, data=iter([b"a", b"b"])).json()["body"] == "ab"
            with session.upload("PUT", server.url) as upload:
                upload.write(b"abc")
            assert upload.response.json()["body"] == "abc"
        assert server.connections == 1


@pytest.mark.parametrize("limit", ["read", "total"])
def test_a_limit_is_reached_in_its_time(jumping: None, new_session: NewSession, limit: str) -> None:
    with never_answers() as server:
        session = new_session(timeout=Timeouts(**{limit: SOON}))
        begun = time.monotonic()
        with pytest.raises(syncflow.Timeout):
            session.get(server.url)
        assert time.monotonic() - begun >= SOON


def test_the_wait_for_a_connection_ends_in_its_time(jumping: None, new_session: NewSession) -> None:
    with AppServer() as server:
        session = new_session(pool=PoolLimits(per_host=1), timeout=Timeouts(pool=SOON))
        session.get(server.url)
        taken = pool_of(session)._ledger.take(next(iter(pool_of(session)._ledger._hosts)))
        assert taken is not None
        begun = time.monotonic()
        with pytest.raises(syncflow.PoolTimeout):
            session.get(server.url)
        assert time.monotonic() - begun >= SOON
        taken.close()


@pytest.mark.parametrize("limits", [{"idle": SOON}, {"max_age": SOON}])
def test_a_connection_expires_in_its_time(jumping: None, new_session: NewSession, limits: dict[str, float]) -> None:
    with AppServer() as server:
        session, lasting = new_session(pool=PoolLimits(**limits)), new_session()
        lasting.get(server.url)
        session.get(server.url)
        server.wait_for_connections(2)
        eventually(lambda: session.stats().open == 0)
        eventually(lambda: server.open_connections == 1)
        assert lasting.stats().open == 1
        lasting.get(server.url)
        assert server.connections == 2


def test_a_stream_of_events_reconnects_in_its_time(jumping: None, new_session: NewSession) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Type": "text/event-stream", "Connection": "close"}))
        peer.send(b"retry: 20\ndata: %d\n\n" % peer.index)

    def last(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(204))

    with ScriptedServer(script, script, script, last) as server:
        session = new_session()
        begun = time.monotonic()
        with session.sse(server.url, event_timeout=20) as events:
            assert [event.data for event in events] == ["0", "1", "2"]
        assert time.monotonic() - begun >= 3 * 0.02


def test_an_event_that_does_not_come_is_missed_in_its_time(jumping: None, new_session: NewSession) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Type": "text/event-stream"}))
        peer.stall()

    with ScriptedServer(script) as server:
        session = new_session()
        begun = time.monotonic()
        with session.sse(server.url, event_timeout=SOON, max_reconnects=0) as events:
            with pytest.raises(syncflow.Timeout):
                next(iter(events))
        assert time.monotonic() - begun >= SOON


def test_a_buffer_of_events_flushes_in_its_time(jumping: None) -> None:
    sent: list[str] = []
    buffer = syncflow.sse.EventBuffer(flush_interval=SOON)
    begun = time.monotonic()
    buffer.enqueue(syncflow.sse.ServerSentEvent(data="1"), lambda event: sent.append(event.data))
    assert 0 <= buffer.metrics().oldest_age < 20
    eventually(lambda: sent == ["1"])
    assert time.monotonic() - begun >= SOON
    buffer.close()

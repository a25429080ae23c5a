"""`ClientMiddleware`: one session for a whole server, each process its own, and how it ends with the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncflow import Session, wsgi
from syncflow.testing import AppServer, Request, Response, eventually
from syncflow.wsgi import middleware

from ..concurrency import PATIENCE, at_once, forked
from . import servers
from .calling import environ_of
from .servers import Running

NewSession = Callable[..., Session]


def ignore(*_: Any) -> None:
    """A `start_response` that nobody looks at."""


def test_handlers_find_the_session(new_session: NewSession) -> None:
    session = new_session()
    found: list[Session] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        found.append(wsgi.client(environ))
        return [b"whatever the application returns"]

    wrapped = wsgi.ClientMiddleware(app, session)
    environ = environ_of(session)
    del environ["syncflow.client"]
    assert wrapped(environ, ignore) == [b"whatever the application returns"]
    assert found == [session]


def test_the_innermost_one_is_found(new_session: NewSession) -> None:
    outer, inner = new_session(), new_session()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert wsgi.client(environ) is inner
        return []

    wsgi.ClientMiddleware(wsgi.ClientMiddleware(app, inner), outer)({}, ignore)


@pytest.mark.parametrize("handler", [wsgi.proxy, wsgi.sse_proxy])
def test_without_it_handlers_say_what_is_missing(handler: Any) -> None:
    with pytest.raises(RuntimeError, match="ClientMiddleware"):
        wsgi.client({})
    with pytest.raises(RuntimeError, match="ClientMiddleware"):
        handler({}, ignore, "http://127.0.0.1/")


@pytest.mark.parametrize("session", [None, "http://127.0.0.1/", object()])
def test_only_a_session_will_do(session: Any) -> None:
    with pytest.raises(TypeError, match="Session"):
        wsgi.ClientMiddleware(lambda *_: [], session)


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_a_limit_that_makes_no_sense_is_refused_at_once(seconds: float) -> None:
    with Session() as session, pytest.raises(ValueError, match="drain_timeout"):
        wsgi.ClientMiddleware(lambda *_: [], session, drain_timeout=seconds)


def test_all_threads_find_the_same(server: Running) -> None:
    found = at_once(*[server.report] * 8)
    assert len({report["session"] for report in found}) == 1


def test_workers_that_are_forked_before_or_after_have_each_their_own(tmp_path: Path) -> None:
    """Loaded before the fork."""
    with (
        servers.gunicorn(tmp_path, "--preload", "--workers", "2") as server,
        AppServer(lambda request: Response(200, [("Content-Type", "a/b")], request.body)) as upstream,
    ):
        pids: set[int] = set()

        def look() -> bool:
            pids.add(server.report()["pid"])
            return len(pids) == 2

        eventually(look)
        bodies = [b"body %d" % number for number in range(20)]

        def post(body: bytes) -> bytes:
            fields = {"Content-Length": str(len(body)), "Connection": "close"}
            return server.ask({"url": upstream.url}, method="POST", fields=fields, body=body)[1]

        assert at_once(*[lambda body=body: post(body) for body in bodies]) == bodies  # type: ignore[misc]


def test_a_session_that_was_used_before_the_fork(new_session: NewSession) -> None:
    with AppServer(lambda _: Response(200, [], b"text")) as upstream:
        session = new_session()
        app = wsgi.ClientMiddleware(lambda e, s: wsgi.proxy(e, s, upstream.url), session)

        def ask() -> str:
            return b"".join(app(environ_of(session), lambda *_: None)).decode()

        assert ask() == "text"
        assert session.stats().open == 1
        joins = [forked(ask) for _ in range(2)]
        assert [join() for join in joins] == ["text"] * 2
        assert ask() == "text"
        assert upstream.connections == 3  # the parent's went on


# ---------------------------------------------------------------- the end of the process

END = """
import sys, threading, concurrent.futures
from syncflow import Session, wsgi, SessionClosed
from syncflow.wsgi.departures import watched

session = Session(timeout=30)
session.trust_env = False
{before}
app = wsgi.ClientMiddleware(lambda *_: [], session, drain_timeout={timeout})

def work():
    try:
        print(session.get({url!r}).text, flush=True)
    except SessionClosed as error:
        print("closed", flush=True)

{start}
sys.stdin.readline()
{after}
"""
THREAD = "threading.Thread(target=work).start()"
POOL = "concurrent.futures.ThreadPoolExecutor(2).submit(work)"


class Program:
    """A process that ends once it is told to."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"NO_PROXY": "127.0.0.1"},
            process_group=0,
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.__exit__(None, None, None)

    def finish(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def output(self) -> str:
        output, errors = self.process.communicate(timeout=2 * PATIENCE)
        assert errors == ""
        return str(output)


class Slow:
    """An upstream that answers when it is told to."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self.answers = threading.Event()

    def __call__(self, _: Request) -> Response:
        self.came.release()
        self.answers.wait(2 * PATIENCE)
        return Response(200, [], b"answered")


@pytest.fixture
def slow() -> Iterator[tuple[Slow, AppServer]]:
    app = Slow()
    with AppServer(app) as server:
        yield app, server
        app.answers.set()


@pytest.mark.parametrize("start", [THREAD, POOL], ids=["thread", "pool"])
@pytest.mark.parametrize("after", ["", "raise SystemExit(0)"], ids=["", "exit"])
def test_what_is_under_way_at_the_end_is_finished(slow: tuple[Slow, AppServer], start: str, after: str) -> None:
    app, upstream = slow
    code = END.format(before="", timeout=15, url=upstream.url, start=start, after=after + "\nprint('end', flush=True)")
    with Program(code) as program:
        assert app.came.acquire(timeout=2 * PATIENCE)
        program.finish()
        if not after:
            assert program.process.stdout is not None
            assert program.process.stdout.readline() == "end\n"
        app.answers.set()
        assert program.output() == "answered\n"
        assert program.process.returncode == 0


@pytest.mark.parametrize("start", [THREAD, POOL], ids=["thread", "pool"])
def test_what_takes_longer_is_ended(slow: tuple[Slow, AppServer], start: str) -> None:
    app, upstream = slow
    code = END.format(before="", timeout=0.2, url=upstream.url, start=start, after="")
    with Program(code) as program:
        assert app.came.acquire(timeout=2 * PATIENCE)
        program.finish()
        assert program.output() == "closed\n"
        assert program.process.returncode == 0


LATE = """
def late():
    while not session._calls.is_draining:
        time.sleep(0.005)
    work()

threading.Thread(target=late).start()
"""


def test_what_begins_at_the_end_is_refused(slow: tuple[Slow, AppServer]) -> None:
    app, upstream = slow
    code = END.format(before="import time", timeout=15, url=upstream.url, start=THREAD + LATE, after="")
    with Program(code) as program:
        assert app.came.acquire(timeout=2 * PATIENCE)
        program.finish()
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == "closed\n"
        app.answers.set()
        assert program.output() == "answered\n"


# ---------------------------------------------------------------- signals

SIGNALLED = """
import sys, threading, signal, time
from syncflow import Session, SessionClosed, wsgi

{before}
session = Session(timeout=30)
session.trust_env = False
app = wsgi.ClientMiddleware(lambda *_: [], session, drain_timeout={timeout})
app.drain_on(signal.SIGTERM)
{twice}

def get():
    try:
        print(session.get({url!r} + "/slow").text, flush=True)
    except SessionClosed:
        print("closed", flush=True)

def follow():
    for event in session.sse({url!r} + "/events"):
        print("event", event.data, flush=True)
    print("the stream has ended", flush=True)

threads = [threading.Thread(target=each, daemon=True) for each in (get, follow)]
for thread in threads:
    thread.start()
try:
    while True:
        time.sleep(0.01)
        if {stop}:
            break
except SystemExit as error:
    print("exit", error.code, flush=True)
for thread in threads:
    thread.join(20)
print("end", flush=True)
"""


class Feed(Slow):
    """And a stream of events without end."""

    def __call__(self, request: Request) -> Response:
        if request.target == "/events":
            return Response(200, [("Content-Type", "text/event-stream")], self.events())
        return super().__call__(request)

    def events(self) -> Iterator[bytes]:
        yield b"data: first\n\ndata: half of the ne"
        self.came.release()
        self.answers.wait(2 * PATIENCE)


@pytest.fixture
def feed() -> Iterator[tuple[Feed, AppServer]]:
    app = Feed()
    with AppServer(app) as server:
        yield app, server
        app.answers.set()


def terminated(feed: tuple[Feed, AppServer], *, timeout: float, answers: bool, signals: int = 1, **code: str) -> Any:
    app, upstream = feed
    text = SIGNALLED.format(**{"before": "", "twice": "", "stop": "False", **code}, timeout=timeout, url=upstream.url)
    with Program(text) as program:
        assert program.process.stdout is not None
        first = program.process.stdout.readline()
        assert first == "event first\n", first + program.process.communicate()[1]
        for _ in range(2):
            assert app.came.acquire(timeout=2 * PATIENCE)
        lines: list[str] = []
        for _ in range(signals):
            program.process.send_signal(signal.SIGTERM)
        while True:
            line = program.process.stdout.readline()
            lines.append(line.strip())
            if line == "the stream has ended\n" and answers:
                app.answers.set()
            if line in ("end\n", ""):
                break
        errors = program.process.communicate(timeout=2 * PATIENCE)[1]
        assert errors == ""
        return lines, program.process.returncode


def test_a_signal_ends_streams_at_once_and_lets_requests_finish(feed: tuple[Feed, AppServer]) -> None:
    lines, code = terminated(feed, timeout=15, answers=True)
    assert sorted(lines) == ["answered", "end", "exit 0", "the stream has ended"]
    assert lines.index("the stream has ended") < lines.index("answered")
    assert code == 0


def test_what_takes_longer_than_the_signal_allows_is_ended(feed: tuple[Feed, AppServer]) -> None:
    lines, code = terminated(feed, timeout=0.2, answers=False)
    assert sorted(lines) == ["closed", "end", "exit 0", "the stream has ended"]
    assert code == 0


def test_the_handler_before_is_called(feed: tuple[Feed, AppServer]) -> None:
    before = "calls = []\nsignal.signal(signal.SIGTERM, lambda *a: (calls.append(a[0]), print('handler', flush=True)))"
    lines, code = terminated(feed, timeout=15, answers=True, before=before, stop="calls")
    assert sorted(lines) == ["answered", "end", "handler", "the stream has ended"]
    assert code == 0


def test_a_signal_that_was_ignored_is_the_programs(feed: tuple[Feed, AppServer]) -> None:
    """It ends streams and no more than that is asked for."""
    before = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    lines, code = terminated(
        feed, timeout=15, answers=True, before=before, stop="not any(t.is_alive() for t in threads)"
    )
    assert sorted(lines) == ["answered", "end", "the stream has ended"]
    assert code == 0


def test_set_twice_and_sent_twice(feed: tuple[Feed, AppServer]) -> None:
    before = "signal.signal(signal.SIGTERM, lambda *a: None)"
    lines, code = terminated(
        feed,
        timeout=15,
        answers=True,
        signals=2,
        before=before,
        twice="app.drain_on(signal.SIGTERM)",
        stop="not any(t.is_alive() for t in threads)",
    )
    assert sorted(lines) == ["answered", "end", "the stream has ended"]
    assert code == 0


def test_not_from_another_thread(new_session: NewSession) -> None:
    app = wsgi.ClientMiddleware(lambda *_: [], new_session())
    before = signal.getsignal(signal.SIGTERM)

    def elsewhere() -> str:
        with pytest.raises(ValueError, match="main thread"):
            app.drain_on(signal.SIGTERM)
        return "refused"

    assert at_once(elsewhere) == ["refused"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_drain_has_the_time_that_the_signal_has_left(new_session: NewSession) -> None:
    session = new_session()
    app = wsgi.ClientMiddleware(lambda *_: [], session, drain_timeout=30)
    app._stops_at = 0.0  # long ago
    with AppServer(lambda _: Response(200, [], b"x" * 1_000_000)) as upstream:
        response = session.get(upstream.url, stream=True)
        assert app.drain() is False
        response.close()


def test_the_time_of_several_runs_together(new_session: NewSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a supervisor that allows for one of them would kill the process."""
    waited: list[float] = []

    class Waiting(Session):
        def drain(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waited.append(timeout)
            threading.Event().wait(0.05)
            return True

    sessions = [Waiting(), Waiting()]
    middlewares = [wsgi.ClientMiddleware(lambda *_: [], session, drain_timeout=5) for session in sessions]
    monkeypatch.setattr(middleware, "_all", set(middlewares))
    middleware._at_end()
    assert waited[0] <= 5
    assert waited[1] <= 4.95
    for session in sessions:
        session.close()


def test_drain(new_session: NewSession) -> None:
    session = new_session()
    app = wsgi.ClientMiddleware(lambda *_: [], session, drain_timeout=None)
    assert app.drain() is True
    assert app.drain() is True

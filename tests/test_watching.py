"""What observers are told: each step of each kind of request, once, in its order, in the program's own threads."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from syncflow import (
    Cancelled,
    ChunkedEncodingError,
    CircuitBreaker,
    ConnectionError,
    DecompressionError,
    PoolLimits,
    ReadTimeout,
    RequestException,
    Retry,
    Session,
    SessionClosed,
    Timeouts,
    Watermarks,
)
from syncflow.adapters import HTTPAdapter
from syncflow.engine.exchange import Exchange
from syncflow.engine.watched import WatchedExchange
from syncflow.testing import (
    AppServer,
    Fault,
    FaultInjector,
    Peer,
    ScriptedServer,
    early_response,
    eventually,
    never_answers,
    refused_port,
    reply,
    reply_head,
    truncated,
)
from syncflow.testing import Response as Answer
from syncflow.testing.wire import Request
from syncflow.watching import EVENTS, Record, RequestFailed, ResponseEnded, tell_late

from .concurrency import Call, forked

NewSession = Callable[..., Session]

WHOLE = ["request_started", "connection_opened", "request_sent", "response_started", "response_ended"]
AGAIN = ["request_started", "connection_reused", "request_sent", "response_started", "response_ended"]
PRESSURE = ("backpressure_started", "backpressure_ended")


class Observer:
    """Keeps what it is told, and in which thread. Checks what holds for every record."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.threads: set[str] = set()

    def __getattr__(self, name: str) -> Callable[[Any], None]:
        if name not in EVENTS:
            raise AttributeError(name)

        def tell(record: Any) -> None:
            assert type(record) is EVENTS[name]
            self.threads.add(threading.current_thread().name)
            self.told.append((name, record))

        return tell

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.told]

    def of(self, name: str) -> list[Any]:
        return [record for told, record in self.told if told == name]

    def by_id(self) -> dict[int, list[str]]:
        """The names of each try's records but for those of backpressure, which come any number of times."""
        tries: dict[int, list[str]] = {}
        for name, record in self.told:
            if isinstance(record, Record) and name not in PRESSURE:
                tries.setdefault(record.id, []).append(name)
        return tries


@pytest.fixture
def observer() -> Observer:
    return Observer()


@pytest.fixture
def session(new_session: NewSession, observer: Observer) -> Session:
    return new_session(events=observer)


# ------------------------------------------------------------------------------------------- what is told


def test_times_are_counted_from_the_beginning_of_the_try(session: Session, observer: Observer) -> None:
    with AppServer() as server, FaultInjector() as faults:
        faults.plan("connect", fault=Fault.delay(0.3))
        session.get(server.url)
    opened, sent, answered, ended = (record for _, record in observer.told[1:5])
    assert opened.connect >= 0.3
    for later in (sent, answered, ended):
        assert later.elapsed >= opened.connect
    assert ended.elapsed >= answered.elapsed


@pytest.mark.parametrize("tls", [False, True])
def test_the_steps_of_a_request(session: Session, observer: Observer, server_tls: ssl.SSLContext, tls: bool) -> None:
    with AppServer(ssl_context=server_tls if tls else None) as server:
        first = session.post(server.url, data=b"12345")
        session.get(server.url)
        assert list(observer.by_id().values()) == [WHOLE, AGAIN]
        started, opened, sent, answered, ended = (record for _, record in observer.told[:5])
        assert started.request is first.request
        assert started.number == 1
        assert {record.origin for _, record in observer.told} == {f"http{'s' * tls}://127.0.0.1:{server.port}"}
        assert opened.peer == ("127.0.0.1", server.port)
        assert (opened.tls > 0) is tls
        assert opened.connect > 0
        assert 0 < sent.elapsed <= ended.elapsed
        assert (answered.status, dict(answered.headers)["Content-Type"]) == (200, "application/json")
        assert 0 < answered.elapsed <= ended.elapsed
        assert (ended.status, ended.bytes_sent, ended.bytes_received, ended.is_complete) == (
            200,
            5,
            len(first.content),
            True,
        )
        assert observer.of("connection_reused")[0].uses == 1
        assert observer.threads == {"MainThread"}


def test_the_headers_may_be_changed_at_the_beginning(new_session: NewSession) -> None:
    class Tracer:
        def request_started(self, record: Any) -> None:
            record.request.headers["Traceparent"] = f"00-{record.id}"

    with AppServer() as server:
        session = new_session(events=Tracer())
        seen = [session.get(server.url).json()["headers"]["traceparent"] for _ in range(2)]
        with session.upload("PUT", server.url) as up:
            up.write(b"x")
        seen.append(up.response.json()["headers"]["traceparent"])
        assert len(set(seen)) == 3


def test_a_redirect_is_a_request_of_its_own(session: Session, observer: Observer) -> None:
    def app(request: Request) -> Answer:
        return Answer(302, {"Location": "/new"}, b"moved") if request.path == "/old" else Answer(200, (), b"new")

    with AppServer(app) as server:
        session.get(server.url + "/old")
        assert list(observer.by_id().values()) == [WHOLE, AGAIN]
        assert [record.status for record in observer.of("response_ended")] == [302, 200]


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_a_body(session: Session, observer: Observer, method: str, stream: bool) -> None:
    with AppServer(lambda request: Answer(204)) as server:
        response = session.request(method, server.url, stream=stream)
        assert response.content == b""
        assert observer.names == WHOLE


def test_a_stream_ends_when_it_is_read(session: Session, observer: Observer) -> None:
    with AppServer(lambda request: Answer(200, (), [b"a" * 1000] * 300)) as server:
        response = session.get(server.url, stream=True)
        assert observer.names == WHOLE[:-1]
        assert sum(map(len, response.iter_content(None))) == 300_000
        assert observer.names == WHOLE
        assert observer.told[-1][1].bytes_received == 300_000


def test_or_is_let_go(session: Session, observer: Observer) -> None:
    with AppServer(lambda request: Answer(200, (), [b"a" * 1000] * 3000)) as server:
        with session.get(server.url, stream=True) as response:
            next(response.iter_content(10))
        assert observer.names == WHOLE
        assert not observer.told[-1][1].is_complete


def test_what_was_dropped_is_told_later(session: Session, observer: Observer) -> None:
    """No code of the program's runs in a finalizer, nor on the worker."""
    with AppServer(lambda request: Answer(200, (), [b"a" * 1000] * 3000)) as server:
        with pytest.warns(ResourceWarning):
            session.get(server.url, stream=True)
        eventually(lambda: session.stats().open == 0)
        assert observer.names == WHOLE[:-1]
        session.get(server.url)
        assert observer.names == [*WHOLE[:-1], "response_ended", *WHOLE]
        assert [record.is_complete for record in observer.of("response_ended")] == [False, True]
        assert observer.threads == {"MainThread"}


def test_or_when_the_session_is_closed(session: Session, observer: Observer) -> None:
    with AppServer() as server:
        with session.upload("PUT", server.url) as up:
            up.write(b"x")
        del up  # nobody has read the answer, of which all is there
        gc.collect()
        eventually(lambda: session.stats().idle == 1)
        assert observer.names == WHOLE[:-1]
        session.close()
        assert observer.names == WHOLE
        assert observer.told[-1][1].is_complete


@pytest.mark.parametrize("body", ["file", "generator", "bytes", "upload"])
@pytest.mark.parametrize("tls", [False, True])
def test_backpressure(
    new_session: NewSession, observer: Observer, server_tls: ssl.SSLContext, tmp_path: Path, body: str, tls: bool
) -> None:
    """Between `started` and `ended` the program waits; both as often, one after the other."""
    size = 8 << 20
    path = tmp_path / "body"
    path.write_bytes(bytes(size))
    session = new_session(events=observer, watermarks=Watermarks(high=8192, low=1024))

    def script(peer: Peer) -> None:
        request = peer.read_request(body=False)
        eventually(lambda: observer.of("backpressure_started"))
        peer.read_body(request)
        peer.send(reply(200))

    with ScriptedServer(script, ssl_context=server_tls if tls else None, receive_buffer=8192) as server:
        if body == "upload":
            with session.upload("PUT", server.url, content_length=size) as up:
                up.write(bytes(size))
        elif body == "file":
            with path.open("rb") as file:
                session.put(server.url, data=file)
        else:
            session.put(server.url, data=bytes(size) if body == "bytes" else iter([bytes(65536)] * (size // 65536)))
        waits = [name for name in observer.names if name in PRESSURE]
        assert waits == [*PRESSURE] * (len(waits) // 2)
        assert all(record.waited > 0 for record in observer.of("backpressure_ended"))
        assert observer.threads == {"MainThread"}
        if body == "upload":
            assert up.response.ok


def test_who_waits_for_room_is_told_too(session: Session, observer: Observer) -> None:
    def script(peer: Peer) -> None:
        request = peer.read_request(body=False)
        eventually(lambda: observer.of("backpressure_started"))
        peer.read_body(request)
        peer.send(reply(200))

    with ScriptedServer(script, receive_buffer=8192) as server, session.upload("PUT", server.url) as up:
        while up.try_write(bytes(16384)):
            pass
        assert "backpressure_started" not in observer.names
        assert up.wait_writable(10)
    assert [name for name in observer.names if name in PRESSURE] == [*PRESSURE]


def test_an_early_answer(session: Session, observer: Observer) -> None:
    """The request was never sent whole, and nobody says so."""
    with early_response(413, after_bytes=10) as server:
        assert session.post(server.url, data=iter([bytes(65536)] * 1000)).status_code == 413
        assert list(observer.by_id().values()) == [[name for name in WHOLE if name != "request_sent"]]


def test_tries(new_session: NewSession, observer: Observer) -> None:
    statuses = iter([503, 503, 200])
    session = new_session(events=observer, retries=Retry(backoff_factor=0))
    with AppServer(lambda request: Answer(next(statuses))) as server:
        session.get(server.url)
        assert list(observer.by_id().values()) == [[*WHOLE, "retrying"], [*AGAIN, "retrying"], AGAIN]
        assert [record.number for record in observer.of("request_started")] == [1, 2, 3]
        assert [(record.number, record.status) for record in observer.of("retrying")] == [(1, 503), (2, 503)]


def test_circuits(new_session: NewSession, observer: Observer) -> None:
    session = new_session(events=observer, breaker=CircuitBreaker(failures=1, reset_after=7))
    with AppServer(lambda request: Answer(500)) as server:
        session.get(server.url)
        (changed,) = observer.of("circuit_changed")
        assert (changed.origin, changed.state, changed.reset_after) == (
            f"http://127.0.0.1:{server.port}",
            "open",
            7,
        )
        with pytest.raises(ConnectionError):
            session.get(server.url)
        assert list(observer.by_id().values())[1] == ["request_started", "request_failed"]


def test_events_of_a_stream_of_events(session: Session, observer: Observer) -> None:
    app: Callable[[Request], Answer] = lambda request: Answer(  # noqa: E731
        200, {"Content-Type": "text/event-stream"}, [b"data: 1\n\n", b"data: 2\n\n"]
    )
    with AppServer(app) as server, session.sse(server.url) as stream:
        assert [next(stream).data, next(stream).data] == ["1", "2"]
    assert observer.names == WHOLE


def test_a_connection_that_becomes_a_stream(session: Session, observer: Observer) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply_head(101, {"Connection": "upgrade", "Upgrade": "echo"}))
        peer.wait_closed()

    with ScriptedServer(script) as server:
        response = session.get(server.url, headers={"Connection": "upgrade", "Upgrade": "echo"}, stream=True)
        with response.upgraded:
            assert observer.names == WHOLE
    assert observer.names == WHOLE


def test_a_resumed_download(session: Session, observer: Observer, tmp_path: Path) -> None:
    from syncflow.testing import RangeServer

    with RangeServer(bytes(100_000), [1000]) as server:
        session.get(server.url, stream=True).save(tmp_path / "file", resume=True)
    first, second = observer.by_id().values()
    assert (first[-1], second[-1]) == ("request_failed", "response_ended")


# ------------------------------------------------------------------------------------------- what goes wrong


def failing(session: Session, fault: str) -> RequestException:
    servers: dict[str, Any] = {"refused": refused_port, "silent": never_answers, "cut": truncated}
    if fault == "coding":
        server: Any = AppServer(lambda request: Answer(200, {"Content-Encoding": "gzip"}, b"no gzip"))
    else:
        server = servers[fault]()
    with server as running, pytest.raises(RequestException) as caught:
        session.get(running.url, timeout=Timeouts(read=0.2 if fault == "silent" else 10))
    return caught.value


@pytest.mark.parametrize(
    ("fault", "kind", "names"),
    [
        ("refused", ConnectionError, WHOLE[:1]),
        ("silent", ReadTimeout, WHOLE[:3]),
        ("cut", ChunkedEncodingError, WHOLE[:3]),
        ("coding", DecompressionError, WHOLE[:4]),
    ],
)
def test_a_failure_is_told_once(
    session: Session, observer: Observer, fault: str, kind: type[Exception], names: list[str]
) -> None:
    error = failing(session, fault)
    assert type(error) is kind
    told = [name for name in observer.names if name != "response_ended"]
    assert told[: len(names)] == names
    ends = [record for record in (r for _, r in observer.told) if isinstance(record, RequestFailed | ResponseEnded)]
    assert len(ends) == 1
    if fault != "coding":  # there the bytes had come, and are no fault of the request
        assert ends[0].error is error
        assert ends[0].elapsed > 0


def test_an_error_of_the_body_is_the_programs_own(session: Session, observer: Observer) -> None:
    def body() -> Any:
        yield b"x"
        raise KeyError("mine")

    with AppServer() as server, pytest.raises(KeyError):
        session.put(server.url, data=body())
    assert observer.names == ["request_started", "connection_opened", "request_failed"]
    assert type(observer.told[-1][1].error) is KeyError


def test_a_head_that_may_not_be_sent(session: Session, observer: Observer) -> None:
    with AppServer() as server, pytest.raises(RequestException):
        session.upload("PUT", server.url, content_length=-1)
    assert observer.names == ["request_started", "request_failed"]


@pytest.mark.parametrize("how", ["session", "response", "abort"])
def test_what_another_thread_ends(session: Session, observer: Observer, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        if how == "response":
            peer.send(reply_head(200, {"Content-Length": "10"}))
        peer.wait_closed()

    with ScriptedServer(script) as server:
        if how == "response":
            response = session.get(server.url, stream=True)
            call: Call[Any] = Call(lambda: response.content)
            response.close()
        elif how == "abort":
            up = session.upload("PUT", server.url)
            call = Call(up.finish)
            eventually(lambda: up._is_awaited)
            up.abort()
        else:
            call = Call(session.get, server.url)
            eventually(lambda: session.stats().bytes_sent > 0)  # or the server may wait for a head in vain
            session.close()
        error = call.error()
        assert isinstance(error, Cancelled | SessionClosed)
        ends = [record for _, record in observer.told if isinstance(record, RequestFailed | ResponseEnded)]
        assert len(ends) == 1


def test_what_an_observer_raises_is_logged_and_the_request_goes_on(
    new_session: NewSession, caplog: pytest.LogCaptureFixture, observer: Observer
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Callable[[Any], None]:
            if name not in EVENTS:
                raise AttributeError(name)

            def tell(record: Any) -> None:
                raise ZeroDivisionError(name)

            return tell

    with AppServer() as server:
        assert new_session(events=[Broken(), observer]).get(server.url).ok
    assert observer.names == WHOLE
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage().split()[0] for record in errors] == WHOLE
    assert all(record.exc_info is not None for record in errors)


# ------------------------------------------------------------------------------------------- who is told


@pytest.mark.parametrize("events", [object(), [object()], "request_started", 5])
def test_who_has_no_method_is_refused(events: Any) -> None:
    with pytest.raises(TypeError, match=r"events= takes objects .* has none"):
        Session(events=events)


def test_several_are_told_in_their_order(new_session: NewSession) -> None:
    told: list[str] = []

    class One:
        def __init__(self, name: str) -> None:
            self.name = name

        def request_started(self, record: Any) -> None:
            told.append(self.name)

    with AppServer() as server:
        new_session(events=[One("a"), One("b")]).get(server.url)
    assert told == ["a", "b"]


def test_copies_have_the_same(session: Session, observer: Observer) -> None:
    import copy

    with copy.copy(session) as other, AppServer() as server:
        other.get(server.url)
    assert observer.names == WHOLE


def test_an_adapter_can_be_watched_alone(new_session: NewSession, observer: Observer) -> None:
    with AppServer() as server, new_session() as session:
        session.mount(server.url, HTTPAdapter(events=observer))
        session.get(server.url)
    assert observer.names == WHOLE


def test_threads_are_told_apart(frantic: None, new_session: NewSession, observer: Observer) -> None:
    session = new_session(events=observer, pool=PoolLimits(per_host=4))
    with AppServer() as server, ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(session.post, server.url, data=bytes(n)) for n in range(200)]:
            assert done.result().ok
    tries = observer.by_id()
    assert len(tries) == 200
    assert all(names in (WHOLE, AGAIN) for names in tries.values())
    assert sorted(record.bytes_sent for record in observer.of("response_ended")) == list(range(200))


def test_nobody_is_watched_unasked(new_session: NewSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """What watching takes is not even made."""
    made = []
    for kind in (Exchange, WatchedExchange):
        init = kind.__init__

        def note(self: Any, *args: Any, init: Any = init, **kwargs: Any) -> None:
            made.append(type(self))
            init(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", note)
    with AppServer() as server:
        new_session().get(server.url)
        assert made == [Exchange]
        made.clear()
        new_session(events=Observer()).get(server.url)
        assert set(made) == {WatchedExchange}


def test_records_are_frozen() -> None:
    for kind in EVENTS.values():
        assert kind.__dataclass_params__.frozen  # type: ignore[union-attr]
        assert dataclasses.is_dataclass(kind)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork()")
def test_what_was_dropped_is_told_by_the_parent_alone(session: Session, observer: Observer) -> None:
    def half(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply_head(200, {"Content-Length": "10"}) + b"half")
        peer.wait_closed()

    with ScriptedServer(half) as server:
        response = session.get(server.url, stream=True)
        with pytest.warns(ResourceWarning, match="dropped before its body"):
            del response

        def child() -> int:
            tell_late()
            return len(observer.of("response_ended"))

        assert forked(child)() == 0
        tell_late()
        assert observer.names == WHOLE


# ------------------------------------------------------------------------------------------- the log


def test_the_log(new_session: NewSession, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "syncflow")
    with AppServer() as server:
        url = server.url.replace("//", "//user:secret1@") + "/a?b=c&token=secret2"
        new_session().get(url, headers={"Cookie": "secret3"}, auth=("user", "secret4"))
        text = caplog.text
        assert "secret" not in text
        assert "dXNlcj" not in text  # "user:", in Base64
        by_logger = {}
        for record in caplog.records:
            by_logger.setdefault(record.name, []).append(record)
        assert set(by_logger) == {"syncflow", "syncflow.pool", "syncflow.wire"}
        ended = by_logger["syncflow"][-1]
        assert ended.http_status == 200  # type: ignore[attr-defined]
        assert ended.http_method == "GET"  # type: ignore[attr-defined]
        assert ended.http_url == f"{server.url}/a?b=c&token=***"  # type: ignore[attr-defined]
        assert ended.http_origin == server.url  # type: ignore[attr-defined]
        assert ended.http_elapsed > 0  # type: ignore[attr-defined]
        assert ("Authorization", "***") in by_logger["syncflow.wire"][0].http_headers  # type: ignore[attr-defined]


@pytest.mark.parametrize("logger", ["syncflow", "syncflow.pool", "syncflow.wire"])
def test_one_logger_at_a_time(new_session: NewSession, caplog: pytest.LogCaptureFixture, logger: str) -> None:
    caplog.set_level(logging.WARNING, "syncflow")
    for name in ("syncflow.pool", "syncflow.wire"):
        caplog.set_level(logging.WARNING, name)
    caplog.set_level(logging.DEBUG, logger)
    with AppServer() as server:
        new_session().get(server.url)
    assert {record.name for record in caplog.records} == {logger}


def test_what_a_server_sets_is_not_logged(new_session: NewSession, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "syncflow")
    with AppServer(lambda request: Answer(200, {"Set-Cookie": "id=secret"})) as server:
        new_session().get(server.url)
    assert "secret" not in caplog.text
    assert "Set-Cookie" in caplog.text


def test_nor_what_is_secret_in_a_url_of_a_header(new_session: NewSession, caplog: pytest.LogCaptureFixture) -> None:
    """As the signed one that a store of objects redirects to."""
    caplog.set_level(logging.DEBUG, "syncflow")

    def app(request: Request) -> Answer:
        return Answer(200) if "sig" in request.target else Answer(302, {"Location": "/stored?sig=secret1&part=2"})

    with AppServer(app) as server:
        new_session().get(server.url, headers={"Referer": "http://me:secret2@there/?token=secret3"})
    assert "secret" not in caplog.text
    assert "('Location', '/stored?sig=***&part=2')" in caplog.text


def test_tries_and_circuits_are_warned_of_unasked(new_session: NewSession, caplog: pytest.LogCaptureFixture) -> None:
    with refused_port() as nobody:
        session = new_session(retries=Retry(total=1, backoff_factor=0), breaker=CircuitBreaker(failures=2))
        with pytest.raises(ConnectionError):
            session.get(nobody.url)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "try 1 failed" in messages[0]
    assert "failed too often" in messages[1]


def test_nothing_is_written_unless_the_program_says_where() -> None:
    code = """
import syncflow
from syncflow import CircuitBreaker, Retry
with syncflow.Session(retries=Retry(total=1, backoff_factor=0), breaker=CircuitBreaker(failures=1)) as session:
    try:
        session.get("http://127.0.0.1:1/")
    except syncflow.ConnectionError:
        print("done")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert (ended.stdout, ended.stderr) == ("done\n", "")

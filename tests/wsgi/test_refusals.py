"""What a client is answered when its request cannot be passed on, or the upstream has no answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from syncflow import CircuitBreaker, PoolLimits, Session, Timeouts, wsgi
from syncflow.testing import (
    AppServer,
    Peer,
    Receiver,
    Response,
    ScriptedServer,
    full_backlog,
    never_answers,
    refused_port,
)

from ..concurrency import Call
from .calling import Answer, Started, call, environ_of
from .servers import Running

NewSession = Callable[..., Session]


def answers_with(raw: bytes, *, reset: bool = False) -> ScriptedServer:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(raw)
        if reset:
            peer.reset()

    return ScriptedServer(script)


TROUBLES: dict[str, tuple[Callable[[], AbstractContextManager[Any]], dict[str, float], int]] = {
    "refused": (refused_port, {}, 502),
    "closed": (lambda: answers_with(b""), {}, 502),
    "reset": (lambda: answers_with(b"", reset=True), {}, 502),
    "breaks off in its head": (lambda: answers_with(b"HTTP/1.1 200 OK\r\nX-Y: "), {}, 502),
    "no HTTP": (lambda: answers_with(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), {}, 502),
    "a status that is none": (lambda: answers_with(b"HTTP/1.1 20 OK\r\n\r\n"), {}, 502),
    "no connection in time": (full_backlog, {"connect": 0.05}, 504),
    "no answer in time": (never_answers, {"read": 0.05}, 504),
    "too long in all": (never_answers, {"total": 0.05}, 504),
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("handler", [wsgi.proxy, wsgi.sse_proxy])
def test_an_upstream_without_an_answer(
    new_session: NewSession, caplog: pytest.LogCaptureFixture, trouble: str, method: str, handler: Any
) -> None:
    start, limits, status = TROUBLES[trouble]
    with start() as upstream, new_session() as session:
        answer = call(
            session,
            upstream.url,
            handler=handler,
            method=method,
            path="/what",
            settings={"timeout": Timeouts(**limits)},
        )
        assert answer.code == status, answer
        _check_text(answer, method, upstream.port)
        [record] = [record for record in caplog.records if record.name == "syncflow.wsgi"]
        assert record.levelno == logging.WARNING
        assert f"{method} /what: answered {status}: " in record.getMessage()
        assert f"127.0.0.1:{upstream.port}" in record.getMessage()


def _check_text(answer: Answer, method: str, port: int) -> None:
    """Which upstream it was is no business of the client's."""
    text = f"{answer.status}\n".encode()
    assert answer.body == (b"" if method == "HEAD" else text)
    assert answer.get("Content-Length") == str(len(text))
    assert answer.get("Content-Type") == "text/plain; charset=utf-8"
    assert str(port) not in str(answer)


def test_an_upstream_that_takes_nothing(new_session: NewSession) -> None:
    with Receiver(pause_after=1) as upstream, new_session() as session:
        settings = {"timeout": Timeouts(write=0.1)}
        answer = call(session, upstream.url, method="PUT", body=bytes(64 << 20), settings=settings)
        upstream.resume()
    assert answer.code == 504


def test_no_room(new_session: NewSession) -> None:
    with never_answers() as upstream, new_session(pool=PoolLimits(per_host=1)) as session:
        first = Call(call, session, upstream.url)
        upstream.wait_for_connections(1)
        answer = call(session, upstream.url, settings={"timeout": Timeouts(pool=0.05)})
        assert answer.code == 503
        session.close()
        assert first.result().code == 503


def test_a_circuit_that_is_open(new_session: NewSession) -> None:
    with refused_port() as upstream, new_session(breaker=CircuitBreaker(failures=1, reset_after=20.0)) as session:
        assert call(session, upstream.url).code == 502
        answer = call(session, upstream.url)
    assert answer.code == 503
    assert 15 <= int(answer.get("Retry-After") or 0) <= 20


@pytest.mark.parametrize("handler", [wsgi.proxy, wsgi.sse_proxy])
def test_a_session_that_is_closed_or_drained(new_session: NewSession, handler: Any) -> None:
    with AppServer() as upstream:
        closed, drained = new_session(), new_session()
        closed.close()
        drained.drain()
        assert call(closed, upstream.url, handler=handler).code == 503
        assert call(drained, upstream.url, handler=handler).code == 503
        assert upstream.connections == 0


def test_a_path_cannot_add_a_line_to_the_log(new_session: NewSession, caplog: pytest.LogCaptureFixture) -> None:
    """CWE-117: servers undo the quoting of a path."""
    with refused_port() as upstream, new_session() as session:
        call(session, upstream.url, path="/a\nERROR all is lost\r\x1b[31m\xe9")
    [record] = [record for record in caplog.records if record.name == "syncflow.wsgi"]
    assert "GET /a%0AERROR%20all%20is%20lost%0D%1B%5B31m%E9: answered 502" in record.getMessage()


def test_a_body_that_is_too_large(new_session: NewSession) -> None:
    """Said before: 502. Found out later: broken off."""
    with new_session(max_body=1000) as session:
        with AppServer(lambda _: Response(200, [], b"x" * 1001)) as upstream:
            assert call(session, upstream.url).code == 502
        with AppServer(lambda _: Response(200, [], [b"x" * 600, b"x" * 600])) as upstream:
            started = Started()
            body = iter(wsgi.proxy(environ_of(session), started, upstream.url))
            with pytest.raises(OSError, match="max_body"):
                list(body)
    assert started.status == "200 OK"


def test_every_server_passes_it_on(server: Running) -> None:
    with refused_port() as upstream:
        head, body = server.ask({"url": upstream.url})
        assert (head.status, body) == (502, b"502 Bad Gateway\n")
        assert server.ask({"url": upstream.url}, method="HEAD")[0].status == 502
        fields = {"Content-Length": "4", "Connection": "close"}
        assert server.ask({"url": upstream.url}, method="PUT", fields=fields, body=b"text")[0].status == 502


def test_bytes_that_are_answered_and_then_closed_are_whole(new_session: NewSession) -> None:
    """An answer without a length, of which the end is that of its connection."""
    with answers_with(b"HTTP/1.0 200 OK\r\n\r\ntext") as upstream, new_session() as session:
        assert call(session, upstream.url).body == b"text"

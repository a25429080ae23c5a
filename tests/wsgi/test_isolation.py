"""Nothing of the session goes to the upstream with a client's request, and nothing of its answer stays; but its limits
and its policies hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncflow import BodyTooLarge, Retry, Session, wsgi
from syncflow.testing import AppServer, Peer, Request, Response, ScriptedServer, eventually, reply

from .calling import Started, call, environ_of

NewSession = Callable[..., Session]
HANDLERS = pytest.mark.parametrize("handler", [wsgi.proxy, wsgi.sse_proxy])


def plenty(session: Session) -> None:
    """All that a session could add."""
    session.headers["X-Session"] = "secret"
    session.headers["Authorization"] = "secret"
    session.cookies.set("secret", "1", domain="127.0.0.1")
    session.params = {"secret": "1"}
    session.auth = ("secret", "secret")


@HANDLERS
def test_nothing_of_the_session_is_sent(new_session: NewSession, handler: Any) -> None:
    session = new_session()
    plenty(session)
    with AppServer(lambda _: Response(204)) as upstream:
        assert call(session, upstream.url, handler=handler, query="a=b", HTTP_COOKIE="own=1").code == 204
        [request] = upstream.seen
    assert "secret" not in str(request)
    assert request.target == "/?a=b"
    assert request.headers["cookie"] == "own=1"
    assert "user-agent" not in request.headers
    assert "authorization" not in request.headers


@HANDLERS
def test_netrc_is_not_used(
    new_session: NewSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handler: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login secret password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    session = new_session()
    session.trust_env = True
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def app(request: Request) -> Response:
        if request.target == "/":
            return Response(302, [("Location", "/there")])
        return Response(204)

    with AppServer(app) as upstream:
        assert session.get(upstream.url).status_code == 204
        assert "authorization" in upstream.seen[-1].headers  # it would be
        count = upstream.requests
        assert call(session, upstream.url, handler=handler).code == 302
        assert upstream.requests == count + 1
        assert "authorization" not in upstream.seen[-1].headers


@HANDLERS
@pytest.mark.parametrize("status", [200, 302, 404])
def test_no_cookie_is_kept(new_session: NewSession, handler: Any, status: int) -> None:
    """One client's would go to the next."""
    session = new_session()
    fields = [("Set-Cookie", "a=1"), ("Location", "/there"), ("Content-Type", "text/event-stream")]
    with AppServer(lambda _: Response(status, fields, b"data: x\n\n")) as upstream:
        settings = {"timeout": 5}
        if handler is wsgi.proxy or status != 200:
            assert call(session, upstream.url, handler=handler, settings=settings).get("Set-Cookie") == "a=1"
        else:
            body = iter(handler(environ_of(session), Started(), upstream.url, **settings))
            next(body)
            body.close()
    assert not list(session.cookies)


def test_hooks_of_the_session_are_not_called(new_session: NewSession) -> None:
    """They would read a body that is the client's, or send what it has not asked for. A `transform` is for that."""
    called: list[Any] = []
    session = new_session(hooks={"response": lambda *a, **k: called.append(a)})
    with AppServer(lambda _: Response(204)) as upstream:
        assert call(session, upstream.url).code == 204
        assert call(session, upstream.url, handler=wsgi.sse_proxy).code == 204
        assert not called
        session.get(upstream.url)
    assert len(called) == 1


def test_who_watches_the_session_sees_it(new_session: NewSession) -> None:
    class Watch:
        ended = 0

        def response_ended(self, _: Any) -> None:
            self.ended += 1

    watch = Watch()
    with AppServer(lambda _: Response(200, [], b"text")) as upstream:
        call(new_session(events=watch), upstream.url)
        eventually(lambda: watch.ended == 1)


# ---------------------------------------------------------------- retries

AT_ONCE = Retry(total=2, backoff_factor=0.0)


def busy(times: int) -> tuple[Callable[[Request], Response], list[Request]]:
    """An upstream that is not there yet."""
    seen: list[Request] = []

    def app(request: Request) -> Response:
        seen.append(request)
        return Response(503, [("X-Try", str(len(seen)))], b"busy") if len(seen) <= times else Response(200, [], b"text")

    return app, seen


def test_what_may_be_repeated_is_tried_again(new_session: NewSession) -> None:
    app, seen = busy(2)
    with AppServer(app) as upstream:
        assert call(new_session(retries=AT_ONCE), upstream.url).body == b"text"
    assert len(seen) == 3
    assert seen[0].fields == seen[2].fields


def test_the_last_answer_is_passed_on_as_it_is(new_session: NewSession) -> None:
    app, seen = busy(99)
    with AppServer(app) as upstream:
        answer = call(new_session(retries=AT_ONCE), upstream.url)
    assert (answer.code, answer.body, answer.get("X-Try")) == (503, b"busy", "3")
    assert len(seen) == 3


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_body_that_was_begun_is_not_sent_again(new_session: NewSession, method: str) -> None:
    app, seen = busy(99)
    with AppServer(app) as upstream:
        answer = call(new_session(retries=AT_ONCE), upstream.url, method=method, body=b"text")
    assert (answer.code, answer.get("X-Try")) == (503, "1")
    assert len(seen) == 1


def test_a_connection_that_was_not_made_is_tried_again_with_a_body(new_session: NewSession) -> None:
    """Nothing of it was read yet."""
    asked: list[str] = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        if len(asked) == 1:
            raise OSError("not just now")
        return ["127.0.0.1"]

    with AppServer(lambda request: Response(200, [], request.body)) as upstream:
        session = new_session(retries=AT_ONCE, resolver=resolver)
        answer = call(session, f"http://upstream.example:{upstream.port}", method="POST", body=b"text")
    assert answer.body == b"text"
    assert len(asked) == 2


def test_a_connection_that_was_idle_and_is_gone(new_session: NewSession) -> None:
    """A GET goes out again, unseen; a body that was begun does not, and is not lost in silence."""

    def script(peer: Peer) -> None:
        request = peer.read_request()
        peer.send(reply(200, request.method.encode()))
        if peer.index % 2 == 0:
            peer.read_head()
            peer.reset()
        else:
            for request in peer.requests():
                peer.send(reply(200, request.method.encode()))

    session = new_session()
    with ScriptedServer(script) as upstream:
        assert call(session, upstream.url).body == b"GET"
        assert call(session, upstream.url).body == b"GET"
        assert upstream.connections == 2
        session.close()
    session = new_session()
    with ScriptedServer(script) as upstream:
        assert call(session, upstream.url).body == b"GET"
        assert call(session, upstream.url, method="POST", body=b"text").code == 502
        assert upstream.connections == 1


def test_max_body_holds_but_for_a_stream_of_events(new_session: NewSession) -> None:
    session = new_session(max_body=100)
    event = b"data: " + b"x" * 80 + b"\n\n"

    def app(_: Request) -> Response:
        return Response(200, [("Content-Type", "text/event-stream")], iter([event] * 5))

    with AppServer(app) as upstream:
        body = iter(wsgi.sse_proxy(environ_of(session), Started(), upstream.url))
        pieces = b""
        while pieces.count(b"data") < 5:
            pieces += next(body)
        body.close()  # type: ignore[attr-defined]
        with pytest.raises(BodyTooLarge):
            list(wsgi.proxy(environ_of(session), Started(), upstream.url))

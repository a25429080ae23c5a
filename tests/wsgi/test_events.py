"""`wsgi.sse_proxy`: events as they come, over as many connections as the upstream takes, for as long as the client is
there."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from syncflow import Session, Timeouts, wsgi
from syncflow.sse import Decoder, ServerSentEvent
from syncflow.testing import (
    AppServer,
    Peer,
    Request,
    Response,
    ScriptedServer,
    chunk,
    eventually,
    last_chunk,
    reply,
    reply_head,
)

from ..concurrency import Call
from .calling import Started, call, environ_of
from .servers import Running

NewSession = Callable[..., Session]
SSE = ("Content-Type", "text/event-stream")
HEAD = reply_head(200, [SSE, ("Transfer-Encoding", "chunked")])
NOW = b"retry: 1\n\n"  # connect again at once


class Stream:
    """A handler's body, read as a server's client would."""

    def __init__(self, session: Session, url: str, environ: dict[str, Any] | None = None, **settings: Any) -> None:
        self.started = Started()
        settings.setdefault("timeout", Timeouts(read=10))
        self.body = wsgi.sse_proxy(environ_of(session, **(environ or {})), self.started, url, **settings)
        self.pieces = iter(self.body)
        self.decoder = Decoder()
        self.raw = b""

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.body.close()  # type: ignore[attr-defined]

    def events(self, count: int) -> list[ServerSentEvent]:
        """The next so many; fewer at the end."""
        found: list[ServerSentEvent] = []
        while len(found) < count:
            piece = next(self.pieces, None)
            if piece is None:
                break
            self.raw += piece
            found += self.decoder.feed(piece)
        assert len(found) <= count
        return found


def sends(*pieces: bytes, then: Callable[[Peer], Any] | None = None) -> Callable[[Peer], None]:
    """An upstream's answer in chunks; it breaks off behind them, unless `then` does otherwise."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + b"".join(map(chunk, pieces)))
        if then is not None:
            then(peer)

    return script


def stays(peer: Peer) -> None:
    peer.wait_closed()


# ---------------------------------------------------------------- behind servers


def test_events_come_as_they_are_sent(server: Running) -> None:
    def script(peer: Peer) -> None:
        request = peer.read_request()
        assert request.headers["accept"] == "text/event-stream"
        peer.send(HEAD)
        for number in range(3):
            peer.wait_step()
            peer.send(chunk(b"id: %d\ndata: text\n\n" % number))
        peer.wait_closed()

    with ScriptedServer(script) as upstream, server.connect() as client:
        client.ask({"url": upstream.url, "kind": "sse", "keep_alive": 0.2})
        head = client.head()
        assert (head.status, head.get("Content-Type")) == (200, "text/event-stream")
        assert (head.get("Cache-Control"), head.get("X-Accel-Buffering")) == ("no-cache", "no")
        assert head.get("Content-Length") is None
        decoder = Decoder()

        def events() -> list[ServerSentEvent]:
            while True:
                piece = client.chunk() if head.get("Transfer-Encoding") else client.piece()
                assert piece
                if found := list(decoder.feed(piece)):
                    return found

        for number in range(3):
            upstream.step()
            assert [event.id for event in events()] == [str(number)]
        client.leave()
        upstream.wait_until_idle()


@pytest.mark.parametrize("server", ["gunicorn", "cheroot", "werkzeug", "wsgiref"], indirect=True)
def test_a_client_that_leaves_ends_it_at_once(server: Running) -> None:
    with ScriptedServer(sends(b"data: x\n\n", then=stays)) as upstream, server.connect() as client:
        client.ask({"url": upstream.url, "kind": "sse", "keep_alive": None})
        client.head()
        client.leave()
        upstream.wait_until_idle()
    eventually(lambda: server.report()["watched"] == 0)


@pytest.mark.parametrize("server", ["gunicorn", "cheroot", "werkzeug", "wsgiref"], indirect=True)
def test_a_client_that_leaves_before_there_is_an_answer(server: Running) -> None:
    with ScriptedServer(stays) as upstream, server.connect() as client:
        client.ask({"url": upstream.url, "kind": "sse", "keep_alive": None})
        upstream.wait_for_connections(1)
        client.leave()
        upstream.wait_until_idle()
    eventually(lambda: server.report()["watched"] == 0)


def test_a_client_that_does_not_read_holds_the_upstream_up(running: dict[str, Running]) -> None:
    sent = 0

    def script(peer: Peer) -> None:
        nonlocal sent
        peer.read_request()
        peer.send(HEAD)
        piece = chunk(b"data: " + b"x" * 8000 + b"\n\n")
        while True:
            peer.send(piece)
            sent += len(piece)

    server = running["cheroot"]
    with ScriptedServer(script, timeout=30) as upstream, server.connect(receive_buffer=65536) as client:
        client.ask({"url": upstream.url, "kind": "sse"})
        client.head()
        before = still = 0

        def stands() -> bool:
            nonlocal before, still
            still = still + 1 if sent == before else 0
            before = sent
            return still > 8

        eventually(stands)
        assert 0 < sent < 32 << 20
        client.reset()
        upstream.wait_until_idle()


# ---------------------------------------------------------------- what it makes of an upstream


def test_a_comment_comes_first(new_session: NewSession) -> None:
    """So that a server sends the head."""
    with ScriptedServer(sends(then=stays)) as upstream, Stream(new_session(), upstream.url) as stream:
        assert next(stream.pieces) == b":\n\n"


def test_a_silence_is_filled_with_comments(new_session: NewSession) -> None:
    with ScriptedServer(sends(then=stays)) as upstream:
        with Stream(new_session(), upstream.url, keep_alive=0.01) as stream:
            assert [next(stream.pieces) for _ in range(3)] == [b":\n\n"] * 3


def test_it_goes_on_behind_the_last_event(new_session: NewSession) -> None:
    """From the client's Last-Event-ID, over an upstream that ends, breaks and refuses."""
    asked: list[str | None] = []

    def noting(script: Callable[[Peer], None]) -> Callable[[Peer], None]:
        def run(peer: Peer) -> None:
            head = peer.read_head()
            lines = head.decode().lower().split("\r\n")
            asked.append(next((line for line in lines if line.startswith("last-event-id")), None))
            script(peer)

        return run

    def answer(*pieces: bytes, reset: bool = False, end: bool = False) -> Callable[[Peer], None]:
        def script(peer: Peer) -> None:
            peer.send(HEAD + b"".join(map(chunk, pieces)) + (last_chunk() if end else b""))
            if reset:
                peer.wait_step()
                peer.reset()

        return script

    scripts = [
        answer(NOW, b"id: 1\ndata: a\n\n", b"id: 2\ndata: half", end=True),
        answer(b"id: 2\ndata: b\n\n", b"data: of the same id\n\n"),
        lambda peer: peer.reset(),
        answer(b"id: 3\ndata: c\n\n", reset=True),
        lambda peer: peer.send(reply(204)),
    ]
    with ScriptedServer(*map(noting, scripts), repeat=False) as upstream:
        with Stream(new_session(), upstream.url, {"HTTP_LAST_EVENT_ID": "0"}) as stream:
            events = stream.events(4)
            upstream.step()
            assert stream.events(1) == []
    assert [(event.id, event.data) for event in events] == [
        ("1", "a"),
        ("2", "b"),
        ("2", "of the same id"),
        ("3", "c"),
    ]
    assert asked == [f"last-event-id: {id}" for id in ("0", "1", "2", "2", "3")]


@pytest.mark.parametrize("sent", ["caf\u00e9", "\u2713", "a b", "%"])
def test_an_id_that_is_not_ascii(new_session: NewSession, sent: str) -> None:
    """In UTF-8, as browsers send it; a header is shown as Latin-1."""
    raw = sent.encode()

    def app(request: Request) -> Response:
        ids.append(request.headers["last-event-id"])
        return Response(200, [SSE], NOW + b"id: " + raw + b"\ndata: x\n\n")

    ids: list[str] = []
    with AppServer(app) as upstream:
        with Stream(new_session(), upstream.url, {"HTTP_LAST_EVENT_ID": raw.decode("latin-1")}) as stream:
            assert [event.id for event in stream.events(2)] == [sent, sent]
    assert ids[:2] == [raw.decode("latin-1")] * 2


def shout(event: ServerSentEvent) -> ServerSentEvent:
    return event._replace(data=event.data.upper())


class Doubles:
    def request(self, request: Any) -> None:
        request.headers["X-New"] = "1"

    def event(self, event: ServerSentEvent) -> Iterable[ServerSentEvent]:
        yield event
        yield event._replace(id=event.id + "b")


class OnlyAsks:
    def request(self, request: Any) -> None:
        request.headers["X-New"] = "1"


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (shout, ["1 A", "2 B"]),
        (lambda event: None if event.id == "1" else event, ["2 b"]),
        (lambda event: [], []),
        (Doubles(), ["1 a", "1b a", "2 b", "2b b"]),
        (OnlyAsks(), ["1 a", "2 b"]),
        (None, ["1 a", "2 b"]),
    ],
)
def test_transforms(new_session: NewSession, transform: Any, expected: list[str]) -> None:
    def app(request: Request) -> Response:
        if "last-event-id" in request.headers:
            return Response(204)
        return Response(200, [SSE], NOW + b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n")

    with AppServer(app) as upstream, Stream(new_session(), upstream.url, transform=transform) as stream:
        assert [f"{event.id} {event.data}" for event in stream.events(len(expected))] == expected
        assert stream.events(1) == []
        assert all(("x-new" in request.headers) == hasattr(transform, "request") for request in upstream.seen)


def test_a_transform_that_fails(new_session: NewSession) -> None:
    def fail(event: ServerSentEvent) -> None:
        raise ValueError("of the program")

    session = new_session()
    with ScriptedServer(sends(b"data: x\n\n", then=stays)) as upstream:
        with Stream(session, upstream.url, transform=fail) as stream:
            with pytest.raises(ValueError, match="of the program"):
                stream.events(1)
            upstream.wait_until_idle()

    class FailsToAsk:
        def request(self, request: Any) -> None:
            raise ValueError("of the program")

    with pytest.raises(ValueError, match="of the program"):
        Stream(session, "http://127.0.0.1:1/", transform=FailsToAsk())


@pytest.mark.parametrize("transform", [object(), 1, "upper"])
def test_what_is_no_transform(new_session: NewSession, transform: Any) -> None:
    with pytest.raises(TypeError, match="transform="):
        Stream(new_session(), "http://127.0.0.1:1/", transform=transform)


@pytest.mark.parametrize("size", [0, 1000, 3 << 20])
@pytest.mark.parametrize("status", [204, 301, 401, 404, 500])
def test_what_is_no_stream_is_passed_on(new_session: NewSession, status: int, size: int) -> None:
    body = b"" if status == 204 else b"x" * size
    fields = [
        ("WWW-Authenticate", "Basic realm=x"),
        ("Location", "http://elsewhere.example/"),
        ("Content-Type", "text/plain"),
        ("Set-Cookie", "a=1"),
        ("Connection", "X-Hop"),
        ("X-Hop", "1"),
    ]
    with AppServer(lambda _: Response(status, fields, body)) as upstream:
        answer = call(new_session(), upstream.url, handler=wsgi.sse_proxy)
        assert upstream.requests == 1
    assert (answer.code, answer.body) == (status, body)
    assert answer.get("WWW-Authenticate") == "Basic realm=x"
    assert answer.get("Location") == "http://elsewhere.example/"
    assert answer.get("X-Hop") is None


def test_an_error_that_is_packed(new_session: NewSession) -> None:
    """Though nobody has asked for it."""
    packed = gzip.compress(b"what is wrong")
    fields = [("Content-Encoding", "gzip"), ("Content-Type", "text/plain")]
    with AppServer(lambda _: Response(500, fields, packed)) as upstream:
        answer = call(new_session(), upstream.url, handler=wsgi.sse_proxy)
    assert (answer.code, answer.body, answer.get("Content-Encoding")) == (500, packed, "gzip")


def test_a_large_error_comes_as_it_is_sent(new_session: NewSession) -> None:
    """And is not held."""
    session = new_session()
    started = Started()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(500, {"Content-Length": "8"}))
        for _ in range(2):
            peer.wait_step()
            peer.send(b"what")

    with ScriptedServer(script) as upstream:
        body = iter(wsgi.sse_proxy(environ_of(session), started, upstream.url))
        assert started.status.startswith("500")
        pieces = []
        for _ in range(2):
            upstream.step()
            while not pieces or not pieces[-1]:
                pieces.append(next(body))
            pieces.append(b"")
        assert list(body) == []
    assert b"".join(pieces) == b"whatwhat"


@pytest.mark.parametrize("kind", ["text/html", "application/json", None])
def test_what_is_something_else_is_a_bad_gateway(new_session: NewSession, kind: str | None) -> None:
    fields = [] if kind is None else [("Content-Type", kind)]
    with AppServer(lambda _: Response(200, fields, b"<html>secret")) as upstream:
        answer = call(new_session(), upstream.url, handler=wsgi.sse_proxy)
    assert (answer.code, answer.body) == (502, b"502 Bad Gateway\n")


def test_a_stream_that_is_packed(new_session: NewSession) -> None:
    packed = gzip.compress(NOW + b"data: x\n\n")

    def app(request: Request) -> Response:
        assert "gzip" not in request.headers.get("accept-encoding", "")
        return Response(200, [SSE, ("Content-Encoding", "gzip")], packed)

    with AppServer(app) as upstream:
        with Stream(new_session(), upstream.url, {"HTTP_ACCEPT_ENCODING": "gzip"}) as stream:
            assert [event.data for event in stream.events(1)] == ["x"]
            assert "Content-Encoding" not in dict(stream.started.fields)


def test_what_would_bring_no_stream_is_not_asked(new_session: NewSession) -> None:
    asked = {
        "HTTP_RANGE": "bytes=0-1",
        "HTTP_IF_RANGE": "x",
        "HTTP_IF_NONE_MATCH": "x",
        "HTTP_IF_MODIFIED_SINCE": "x",
        "HTTP_IF_MATCH": "x",
        "HTTP_ACCEPT": "text/html",
        "HTTP_CACHE_CONTROL": "max-stale",
        "HTTP_X_OWN": "1",
    }
    with AppServer(lambda _: Response(204)) as upstream:
        call(new_session(), upstream.url, handler=wsgi.sse_proxy, **asked)
        [request] = upstream.seen
    assert not {"range", "if-range", "if-none-match", "if-modified-since", "if-match"} & request.headers.keys()
    assert (request.headers["accept"], request.headers["cache-control"]) == ("text/event-stream", "no-cache")
    assert request.headers["x-own"] == "1"


@pytest.mark.parametrize("breaks", [False, True])
def test_a_post_is_not_asked_again(new_session: NewSession, breaks: bool) -> None:
    """It may have done something; its body is gone in any case."""

    def script(peer: Peer) -> None:
        assert peer.read_request().body == b"question"
        peer.send(HEAD + chunk(NOW + b"data: x\n\n") + (b"" if breaks else last_chunk()))

    environ = {"method": "POST", "body": b"question"}
    with ScriptedServer(script, repeat=False) as upstream, Stream(new_session(), upstream.url, environ) as stream:
        assert [event.data for event in stream.events(1)] == ["x"]
        if breaks:
            with pytest.raises(OSError):
                stream.events(1)
        else:
            assert stream.events(1) == []


def test_head_is_answered_and_over(new_session: NewSession) -> None:
    """There is no stream to it that could be asked for again."""
    with AppServer(lambda _: Response(200, [SSE], b"")) as upstream:
        call_ = Call(call, new_session(), upstream.url, handler=wsgi.sse_proxy, method="HEAD")
        answer = call_.result()
        assert upstream.requests == 1
    assert (answer.code, answer.body, answer.get("Content-Type")) == (200, b"", "text/event-stream")


def test_an_event_that_is_too_large(new_session: NewSession) -> None:
    with ScriptedServer(sends(b"data: " + b"x" * 5000, then=stays)) as upstream:
        with Stream(new_session(), upstream.url, max_event_size=1000) as stream:
            with pytest.raises(OSError, match="1,000"):
                stream.events(1)
            upstream.wait_until_idle()


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("end", [Session.end_streams, Session.drain])
def test_it_ends_between_two_events(new_session: NewSession, end: Callable[[Session], Any]) -> None:
    session = new_session()
    with ScriptedServer(sends(b"id: 1\ndata: a\n\nid: 2\ndata: ha", then=stays)) as upstream:
        with Stream(session, upstream.url) as stream:
            assert [event.id for event in stream.events(1)] == ["1"]
            rest = Call(stream.events, 1)
            end(session)
            assert rest.result() == []
            assert stream.raw.endswith(b"\n\n")
            upstream.wait_until_idle()
        assert call(session, upstream.url, handler=wsgi.sse_proxy).code == 503
        assert upstream.connections == 1


@pytest.mark.parametrize("end", [Session.end_streams, Session.drain])
def test_one_that_has_not_begun_is_answered_that_the_server_stops(
    new_session: NewSession, end: Callable[[Session], Any]
) -> None:
    session = new_session()
    with ScriptedServer(stays) as upstream:
        waiting = Call(call, session, upstream.url, handler=wsgi.sse_proxy)
        upstream.wait_for_connections(1)
        end(session)
        assert waiting.result().code == 503


def test_what_is_no_stream_goes_on_after_end_streams(new_session: NewSession) -> None:
    session = new_session()
    session.end_streams()
    with AppServer(lambda _: Response(200, [], b"text")) as upstream:
        assert call(session, upstream.url).body == b"text"


def test_closing_ends_it_from_any_thread(new_session: NewSession) -> None:
    session = new_session()
    with ScriptedServer(sends(then=stays)) as upstream, Stream(session, upstream.url) as stream:
        waiting = Call(stream.events, 1)
        upstream.wait_for_connections(1)
        for _ in range(2):
            stream.body.close()  # type: ignore[attr-defined]
        assert waiting.result() == []
        upstream.wait_until_idle()


def test_a_closed_session_breaks_it_off(new_session: NewSession) -> None:
    """So that the client comes again, and does not take it for the end."""
    session = new_session()
    with ScriptedServer(sends(b"data: x\n\n", then=stays)) as upstream, Stream(session, upstream.url) as stream:
        stream.events(1)
        session.close()
        with pytest.raises(OSError):
            stream.events(1)

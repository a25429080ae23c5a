"""What a `transform` of `wsgi.proxy` may change, and what becomes of one that fails."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from syncflow import PreparedRequest, Session, streams, wsgi
from syncflow.testing import AppServer, Request, Response, eventually, pattern
from syncflow.wsgi import ProxiedResponse

from .calling import Answer, Started, call, environ_of

NewSession = Callable[..., Session]
Change = Callable[[Any], None]


class Changes:
    """A transform of functions."""

    def __init__(self, request: Change | None = None, response: Change | None = None) -> None:
        if request is not None:
            self.request = request
        if response is not None:
            self.response = response


def proxied(
    session: Session, app: Callable[[Request], Response], changes: Any, **request: Any
) -> tuple[Answer, list[Request]]:
    with AppServer(app) as upstream:
        answer = call(session, upstream.url, settings={"transform": changes}, **request)
        return answer, upstream.seen


def text(_: Request) -> Response:
    return Response(200, [("Content-Type", "text/plain"), ("X-Old", "1")], b"text")


def test_the_request(new_session: NewSession) -> None:
    def change(request: PreparedRequest) -> None:
        assert request.headers["x-some"] == "1"
        assert "Host" not in request.headers
        request.headers["X-New"] = "2"
        del request.headers["X-Some"]
        request.url += "/more"
        request.method = "PATCH"
        request.headers["Host"] = "other.example"

    _, [seen] = proxied(new_session(), text, Changes(change), path="/p", HTTP_X_SOME="1")
    assert (seen.method, seen.target, seen.headers["x-new"]) == ("PATCH", "/p/more", "2")
    assert seen.headers["host"] == "other.example"
    assert "x-some" not in seen.headers


NEW: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"another one",
    "text": lambda: "another one",
    "a file": lambda: io.BytesIO(b"another one"),
    "pieces": lambda: iter([b"another", b" one"]),
}


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("old", [b"", b"text"])
def test_the_body_of_the_request(new_session: NewSession, old: bytes, kind: str) -> None:
    """It is framed anew."""

    def change(request: PreparedRequest) -> None:
        request.body = NEW[kind]()

    answer, [seen] = proxied(new_session(), text, Changes(change), method="POST", body=old)
    assert answer.code == 200
    assert seen.body == b"another one"


def test_no_body_in_place_of_one(new_session: NewSession) -> None:
    def change(request: PreparedRequest) -> None:
        request.body = None

    answer, [seen] = proxied(new_session(), text, Changes(change), method="POST", body=b"text")
    assert answer.code == 200
    assert seen.body == b""


def test_a_body_that_is_wrapped(new_session: NewSession) -> None:
    """As it comes, and not held."""

    def change(request: PreparedRequest) -> None:
        incoming = request.body
        assert incoming.length == 12
        request.body = (piece.upper() for piece in incoming)

    _, [seen] = proxied(new_session(), text, Changes(change), method="POST", body=b"small caps..")
    assert seen.body == b"SMALL CAPS.."


def test_a_body_that_the_hook_announces(new_session: NewSession) -> None:
    def change(request: PreparedRequest) -> None:
        request.body = iter([b"another", b" one"])
        request.headers["Content-Length"] = "11"

    _, [seen] = proxied(new_session(), text, Changes(change), method="POST", body=b"text")
    assert (seen.body, seen.headers["content-length"]) == (b"another one", "11")


def test_the_response(new_session: NewSession) -> None:
    def change(response: ProxiedResponse) -> None:
        assert (response.status_code, response.reason) == (200, "OK")
        assert response.response.status_code == 200
        response.status_code, response.reason = 418, ""
        response.headers["X-New"] = "2"
        del response.headers["X-Old"]
        response.headers.add_header("Set-Cookie", "a=1")
        response.headers.add_header("Set-Cookie", "b=2")

    answer, _ = proxied(new_session(), text, Changes(response=change))
    assert answer.status == "418 I'm a Teapot"
    assert answer.all("Set-Cookie") == ["a=1", "b=2"]
    assert (answer.get("X-New"), answer.get("X-Old")) == ("2", None)
    assert (answer.body, answer.get("Content-Length")) == (b"text", "4")


def test_a_status_without_words(new_session: NewSession) -> None:
    def change(response: ProxiedResponse) -> None:
        response.status_code, response.reason = 299, ""

    assert proxied(new_session(), text, Changes(response=change))[0].status == "299 Unknown"


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_the_body_of_the_response(new_session: NewSession, kind: Callable[[Any], Iterable[bytes]]) -> None:
    def change(response: ProxiedResponse) -> None:
        response.body = kind([b"another", b" one"])

    answer, _ = proxied(new_session(), text, Changes(response=change))
    assert answer.body == b"another one"
    assert answer.get("Content-Length") is None


def test_a_body_that_is_unpacked_as_it_comes(new_session: NewSession) -> None:
    content = pattern(1 << 20)

    def packed(_: Request) -> Response:
        return Response(200, [("Content-Encoding", "gzip")], gzip.compress(content))

    def change(response: ProxiedResponse) -> None:
        unpack = streams.gunzip()
        pieces = response.body

        def unpacked() -> Iterator[bytes]:
            for piece in pieces:
                yield unpack.process(piece)
            yield unpack.finish()

        response.body = unpacked()
        del response.headers["Content-Encoding"]

    answer, _ = proxied(new_session(), packed, Changes(response=change))
    assert answer.body == content
    assert answer.get("Content-Encoding") is answer.get("Content-Length") is None


def test_a_body_that_was_read_by_the_hook(new_session: NewSession) -> None:
    def change(response: ProxiedResponse) -> None:
        response.body = [response.response.content.upper()]

    assert proxied(new_session(), text, Changes(response=change))[0].body == b"TEXT"


class Closable:
    """A body that notes that it was closed."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)
        self.closed = 0

    def __iter__(self) -> Closable:
        return self

    def __next__(self) -> bytes:
        return next(self.pieces)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("reads", [0, 1, 99])
def test_a_body_is_closed_once(new_session: NewSession, reads: int) -> None:
    bodies: list[Closable] = []

    def change(response: ProxiedResponse) -> None:
        response.body = Closable(response.body)
        bodies.append(response.body)

    with AppServer(text) as upstream, new_session() as session:
        body = iter(wsgi.proxy(environ_of(session), Started(), upstream.url, transform=Changes(response=change)))
        for _ in range(reads):
            if next(body, None) is None:
                break
        body.close()  # type: ignore[attr-defined]
        body.close()  # type: ignore[attr-defined]
        eventually(lambda: session.stats().in_use == 0)
    assert [each.closed for each in bodies] == [1]


@pytest.mark.parametrize(("method", "status"), [("HEAD", None), ("GET", 204), ("GET", 304)])
def test_a_body_where_there_is_none(new_session: NewSession, method: str, status: int | None) -> None:
    """By the method of the client, or the status that it gets. It is closed all the same, and the upstream ended."""
    bodies: list[Closable] = []

    def ask_for_one(request: PreparedRequest) -> None:
        request.method = "GET"

    def change(response: ProxiedResponse) -> None:
        response.status_code = status or response.status_code
        response.body = Closable(response.body)
        bodies.append(response.body)

    session = new_session()
    answer, _ = proxied(session, text, Changes(ask_for_one, change), method=method)
    assert (answer.code, answer.body) == (status or 200, b"")
    assert [each.closed for each in bodies] == [1]
    eventually(lambda: session.stats().in_use == 0)


def test_no_content_has_no_length(new_session: NewSession) -> None:
    def change(response: ProxiedResponse) -> None:
        response.status_code = 204

    answer, _ = proxied(new_session(), text, Changes(response=change))
    assert (answer.code, answer.body, answer.get("Content-Length")) == (204, b"", None)


@pytest.mark.parametrize("had", ["HEAD", 304])
def test_the_length_of_a_body_that_did_not_come(new_session: NewSession, had: str | int) -> None:
    """The client would wait for it, or take it from the next answer."""

    def app(_: Request) -> Response:
        return Response(304 if had == 304 else 200, [("Content-Length", "4")], b"text")

    def ask(request: PreparedRequest) -> None:
        request.method = had if isinstance(had, str) else request.method

    def change(response: ProxiedResponse) -> None:
        response.status_code = 200

    def change_body(response: ProxiedResponse) -> None:
        response.status_code = 200
        response.body = [b"another"]
        response.headers["Content-Length"] = "7"

    answer, _ = proxied(new_session(), app, Changes(ask, change))
    assert (answer.code, answer.body, answer.get("Content-Length")) == (200, b"", None)
    answer, _ = proxied(new_session(), app, Changes(ask, change_body))
    assert (answer.code, answer.body, answer.get("Content-Length")) == (200, b"another", "7")


class Failed(Exception):
    pass


def fail(_: Any) -> None:
    raise Failed


def test_a_hook_that_fails(new_session: NewSession) -> None:
    """It is the program's error, and the server's to deal with; `new_session` looks that nothing stays open."""
    session = new_session()
    with AppServer(lambda _: Response(200, [], b"x" * 1_000_000)) as upstream:
        for changes in (Changes(fail), Changes(response=fail)):
            with pytest.raises(Failed):
                call(session, upstream.url, settings={"transform": changes})
        assert upstream.connections == 1
        eventually(lambda: session.stats().open == 0)


def test_a_body_that_fails(new_session: NewSession) -> None:
    def change(response: ProxiedResponse) -> None:
        def failing() -> Iterator[bytes]:
            yield b"x"
            raise Failed

        response.body = failing()

    session = new_session()
    with AppServer(lambda _: Response(200, [], b"x" * 1_000_000)) as upstream:
        with pytest.raises(Failed):
            call(session, upstream.url, settings={"transform": Changes(response=change)})
        eventually(lambda: session.stats().open == 0)


def test_a_server_that_will_not_start(new_session: NewSession) -> None:
    """As when the hook has made a header of what is none."""

    def refusing(*_: Any) -> None:
        raise Failed

    session = new_session()
    with AppServer(lambda _: Response(200, [], b"x" * 1_000_000)) as upstream:
        with pytest.raises(Failed):
            wsgi.proxy(environ_of(session), refusing, upstream.url)
        eventually(lambda: session.stats().open == 0)


def test_a_body_is_closed_too_where_the_server_will_not_start(new_session: NewSession) -> None:
    bodies: list[Closable] = []

    def change(response: ProxiedResponse) -> None:
        response.body = Closable(response.body)
        bodies.append(response.body)

    def refusing(*_: Any) -> None:
        raise Failed

    session = new_session()
    with AppServer(text) as upstream, pytest.raises(Failed):
        wsgi.proxy(environ_of(session), refusing, upstream.url, transform=Changes(response=change))
    assert [each.closed for each in bodies] == [1]


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00"])
def test_a_hook_cannot_add_a_line(new_session: NewSession, value: str) -> None:
    def change(request: PreparedRequest) -> None:
        request.headers["X-New"] = value

    with AppServer(text) as upstream:
        answer = call(new_session(), upstream.url, settings={"transform": Changes(change)})
        assert upstream.connections == 0
    assert answer.code == 400


@pytest.mark.parametrize("transform", [object(), 1, lambda request: None, "request"])
def test_what_is_no_transform(new_session: NewSession, transform: Any) -> None:
    with pytest.raises(TypeError, match="transform="):
        call(new_session(), "http://127.0.0.1:1/", settings={"transform": transform})


def test_trailers_go_where_the_server_takes_them(new_session: NewSession) -> None:
    """As gunicorn does for a client with HTTP/2."""
    from syncflow.testing import Peer, ScriptedServer, chunk, last_chunk, reply_head

    def script(peer: Peer) -> None:
        request = peer.read_request()
        assert request.headers["te"] == "trailers"
        assert "te" in request.headers["connection"].lower()
        peer.send(reply_head(200, {"Transfer-Encoding": "chunked"}) + chunk(b"text") + last_chunk({"X-Sum": "1"}))

    sent: list[Any] = []
    with ScriptedServer(script) as upstream:
        answer = call(new_session(), upstream.url, **{"gunicorn.http2.send_trailers": sent.append})
    assert answer.body == b"text"
    assert sent == [[("X-Sum", "1")]]

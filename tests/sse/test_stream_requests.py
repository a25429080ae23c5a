"""What a stream sends: headers, cookies, authentication, bodies; through proxies and other adapters too. And what its
log and its errors show of that."""

from __future__ import annotations

import io
import logging
import ssl
from collections.abc import Callable
from typing import Any

import pytest

import syncflow
from syncflow import (
    ChunkedEncodingError,
    HTTPError,
    InvalidHeader,
    InvalidSchema,
    InvalidURL,
    MissingSchema,
    RequestException,
    Session,
    UnrewindableBodyError,
)
from syncflow.adapters import BaseAdapter
from syncflow.auth import HTTPDigestAuth
from syncflow.testing import HTTPProxy, Peer, Request, chunk, last_chunk, refused_port, reply_head

from .rig import EVENTS, Source, begin, data_of, drops, follow, no_more, numbered, says, whole

SessionMaker = Callable[..., Session]


@pytest.fixture
def session(new_session: SessionMaker) -> Session:
    return new_session()


# ---------------------------------------------------------------------- headers, cookies, authentication


def test_its_headers(session: Session) -> None:
    with Source(whole(), no_more) as server:
        assert list(follow(session, server.url, params={"a": "b"})) == []
        for request in server.seen:
            assert (request.method, request.target) == ("GET", "/?a=b")
            assert request.headers["accept"] == "text/event-stream"
            assert request.headers["cache-control"] == "no-cache"
            assert "content-length" not in request.headers


@pytest.mark.parametrize("name", ["Accept", "accept", b"ACCEPT"])
def test_the_programs_headers_win(session: Session, name: str | bytes) -> None:
    with Source(whole(), no_more) as server:
        assert list(follow(session, server.url, headers={name: "a/b", "Cache-Control": None})) == []
        for request in server.seen:
            assert [value for key, value in request.fields if key.lower() == "accept"] == ["a/b"]
            assert "cache-control" not in request.headers


def test_headers_of_the_session_may_change(session: Session) -> None:
    with Source(whole(numbered(1)), no_more) as server:
        session.headers["X-Token"] = "old"
        stream = follow(session, server.url)
        next(stream)
        session.headers["X-Token"] = "new"
        assert list(stream) == []
        assert [request.headers["x-token"] for request in server.seen] == ["old", "new"]


def test_cookies_come_back(session: Session) -> None:
    def sets(peer: Peer, request: Request) -> None:
        fields = {**EVENTS, "Transfer-Encoding": "chunked", "Set-Cookie": f"n={len(server.seen)}"}
        peer.send(reply_head(200, fields) + last_chunk())

    with Source(sets, sets, no_more) as server:
        assert list(follow(session, server.url, cookies={"own": "1"})) == []
        assert [request.headers["cookie"] for request in server.seen] == ["own=1", "n=1; own=1", "n=2; own=1"]


def test_basic_authentication(session: Session) -> None:
    with Source(whole(), no_more) as server:
        for arguments in ({"auth": ("user", "word")}, {}):
            address = "127.0.0.1" if arguments else "user:word@127.0.0.1"
            assert list(follow(session, f"http://{address}:{server.port}/", **arguments)) == []
        assert [request.headers["authorization"] for request in server.seen] == ["Basic dXNlcjp3b3Jk"] * 3


def test_digest_authentication(session: Session) -> None:
    """Asked for once; the connections that follow carry the answer at once, with the next count."""

    def guarded(peer: Peer, request: Request) -> None:
        if "authorization" in request.headers:
            whole(numbered(len(server.seen)))(peer, request)
        else:
            challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256'
            says(401, b"who?", {"WWW-Authenticate": challenge})(peer, request)

    with Source(guarded) as server:
        with follow(session, server.url, auth=HTTPDigestAuth("user", "word")) as stream:
            assert [next(stream).data for _ in range(3)] == ["2", "3", "4"]
        counts = [request.headers.get("authorization", "").partition("nc=")[2][:8] for request in server.seen]
        assert counts == ["", "00000001", "00000002", "00000003"]
        assert server.ids == [None, None, "2", "3"]


# ---------------------------------------------------------------------- bodies


class Position:
    """A file that is not at its beginning."""

    def __new__(cls) -> Any:
        file = io.BytesIO(b"before" + b"x" * 1000)
        file.seek(6)
        return file


BODIES: dict[str, Callable[[], dict[str, Any]]] = {
    "bytes": lambda: {"data": b"x" * 1000},
    "json": lambda: {"json": {"stream": True}},
    "form": lambda: {"data": {"a": "b"}},
    "file": lambda: {"data": Position()},
    "multipart": lambda: {"files": {"f": ("name", Position())}},
    "list": lambda: {"data": [b"x" * 10] * 10},
    "none": dict,
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_is_sent_again_whole(session: Session, kind: str) -> None:
    with Source(drops(), whole(numbered(1)), no_more) as server:
        assert data_of(follow(session, server.url, method="post", max_reconnects=1, **BODIES[kind]())) == ["1"]
        first, *others = server.seen
        described = {name: first.headers.get(name) for name in ("content-type", "content-length", "transfer-encoding")}
        assert first.method == "POST"
        assert first.body or kind == "none"
        assert len(others) == 2
        for request in others:
            assert (request.method, request.body) == ("POST", first.body)
            assert {name: request.headers.get(name) for name in described} == described


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_what_is_not_safe_is_sent_once(session: Session, method: str) -> None:
    """Unless the program says so; not even if it iterates again after an error."""
    with Source(whole(numbered(1))) as server:
        stream = follow(session, server.url, method=method, data=b"x")
        assert data_of(stream) == ["1"]
        assert list(stream) == []
        assert len(server.seen) == 1
    for limits in ({}, {"max_reconnects": 0}):
        with Source(drops(numbered(1))) as server:
            stream = follow(session, server.url, method=method, data=b"x", **limits)
            assert next(stream).data == "1"
            with pytest.raises(ChunkedEncodingError):
                next(stream)
            assert list(stream) == []
            assert len(server.seen) == 1
        with Source(says(503)) as server:
            stream = follow(session, server.url, method=method, data=b"x", **limits)
            with pytest.raises(HTTPError):
                next(stream)
            assert list(stream) == []
            assert len(server.seen) == 1


def test_a_generator_runs_once(session: Session) -> None:
    with Source(drops(), no_more) as server:
        stream = follow(session, server.url, method="POST", data=(b"x" for _ in range(3)), max_reconnects=5)
        with pytest.raises(UnrewindableBodyError) as caught:
            next(stream)
        assert str(caught.value) == (
            f"127.0.0.1:{server.port}: connecting again, the body cannot be sent again: a generator runs only once; "
            "give bytes or a file, or max_reconnects=0"
        )
        assert caught.value.request is not None
        assert [request.body for request in server.seen] == [b"xxx"]


def test_a_generator_of_a_post_that_is_sent_once(session: Session) -> None:
    with Source(whole(numbered(1)), no_more) as server:
        assert data_of(follow(session, server.url, method="POST", data=iter([b"a", b"b"]))) == ["1"]
        assert [request.body for request in server.seen] == [b"ab"]


# ---------------------------------------------------------------------- what is refused before anything is sent


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_reconnects": -1}, ValueError),
        ({"max_reconnects": True}, ValueError),
        ({"max_reconnects": 1.5}, ValueError),
        ({"event_timeout": 0}, ValueError),
        ({"event_timeout": -1.0}, ValueError),
        ({"event_timeout": float("nan")}, ValueError),
        ({"event_timeout": float("inf")}, ValueError),
        ({"event_timeout": "1"}, TypeError),
        ({"event_timeout": True}, ValueError),
        ({"max_event_size": 0}, ValueError),
        ({"max_event_size": "1"}, TypeError),
        ({"last_event_id": 7}, TypeError),
        ({"last_event_id": b"7"}, TypeError),
        ({"timeout": "1"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"stream": True}, TypeError),
        ({"retries": 3}, TypeError),
        ({"headers": {"A": 1}}, InvalidHeader),
        ({"json": {1: object()}}, TypeError),
        ({"url": "nowhere"}, MissingSchema),
        ({"url": "http://"}, InvalidURL),
        ({"url": "gopher://host/"}, InvalidSchema),
    ],
)
def test_bad_arguments(session: Session, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        session.sse(**{"url": "http://127.0.0.1:9/", **arguments})


def test_a_header_that_may_not_be_sent(session: Session) -> None:
    with Source(no_more) as server:
        with pytest.raises(InvalidHeader, match=f"^127.0.0.1:{server.port}: .*nothing was sent"):
            next(session.sse(server.url, headers={"A": "b\r\nC: d"}))
        assert server.connections == 0


# ---------------------------------------------------------------------- proxies and adapters


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_through_a_proxy(session: Session, server_tls: ssl.SSLContext, secure: bool) -> None:
    with Source(whole(numbered(1)), drops(numbered(2)), no_more, ssl_context=server_tls if secure else None) as server:
        with HTTPProxy() as proxy:
            stream = follow(session, server.url, proxies={"all": proxy.url})
            assert data_of(stream) == ["1", "2"]
            assert server.ids == [None, "1", "2"]
            assert {request.method for request in proxy.seen} == {"CONNECT" if secure else "GET"}


def test_an_adapter_of_requests_mock(session: Session) -> None:
    requests_mock = pytest.importorskip("requests_mock")
    adapter = requests_mock.Adapter()
    answers = [
        {"content": numbered(1, 2).encode(), "headers": EVENTS},
        {"content": b"data: 3\n\ndata: in pa", "headers": EVENTS},
        {"status_code": 204},
    ]
    adapter.register_uri("GET", "mock://host/events", answers)
    session.mount("mock://", adapter)
    stream = follow(session, "mock://host/events")
    assert data_of(stream) == ["1", "2", "3"]
    assert [request.headers.get("Last-Event-ID") for request in adapter.request_history] == [None, "2", "2"]
    assert repr(stream) == "<EventStream mock://host/events>"


def test_an_adapter_of_requests_itself(session: Session) -> None:
    """Events come when they are sent, and not when 64 KiB of them are there."""
    requests = pytest.importorskip("requests")

    def slowly(peer: Peer, request: Request) -> None:
        begin(peer)
        for number in (1, 2, 3):
            peer.wait_step()
            peer.send(chunk(numbered(number).encode()))
        peer.send(last_chunk())

    session.mount("http://", requests.adapters.HTTPAdapter())
    with Source(slowly, no_more) as server:
        stream = follow(session, server.url)
        for number in ("1", "2", "3"):
            server.step()
            assert next(stream).data == number
        assert list(stream) == []
        assert server.ids == [None, "3"]
    session.close()


class Small(BaseAdapter):
    """The least that an adapter can be: no `closed`, no `paused`, a `raw` that is a file."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.answers = list(answers)
        self.seen: list[Any] = []

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        requests = pytest.importorskip("requests")
        self.seen.append(request)
        response = requests.Response()
        response.status_code, content = self.answers.pop(0)
        response.headers = requests.structures.CaseInsensitiveDict(EVENTS)
        response.raw = io.BytesIO(content)
        response.url = request.url
        if response.status_code == 999:
            raise requests.exceptions.ConnectionError("no way")
        return response

    def close(self) -> None:
        pass


def test_a_small_adapter(session: Session) -> None:
    adapter = Small((200, b"id: 1\ndata: a\n\n"), (999, b""), (200, b"data: b\n\n"), (204, b""), (500, b"oh"))
    session.mount("http://host.invalid", adapter)
    stream = follow(session, "http://host.invalid/")
    assert data_of(stream) == ["a", "b"]
    assert [request.headers.get("Last-Event-ID") for request in adapter.seen] == [None, "1", "1", "1"]
    with pytest.raises(HTTPError):
        next(follow(session, "http://host.invalid/"))


def test_an_event_timeout_with_an_adapter_that_knows_none(session: Session) -> None:
    """It cannot end a wait of such an adapter, but what comes and is no event does not hide it."""
    requests = pytest.importorskip("requests")

    def chatters(peer: Peer, request: Request) -> None:
        begin(peer)
        while not peer._server.stopping.wait(0.005):
            peer.send(chunk(b": still here\n\n"))

    session.mount("http://", requests.adapters.HTTPAdapter())
    with Source(chatters) as server:
        with follow(session, server.url, event_timeout=0.05) as stream:
            with pytest.raises(syncflow.EventTimeout) as caught:
                next(stream)
            assert caught.value.request is not None
    session.close()


# ---------------------------------------------------------------------- the log


def test_each_reconnection_is_logged_once(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with Source(whole("retry: 100\n\n"), drops("retry: 1\n\n"), no_more) as server:
        with caplog.at_level(logging.DEBUG, "syncflow"):
            assert list(session.sse(server.url)) == []
    ended, lost = (record for record in caplog.records if record.name == "syncflow.sse")
    where = f"127.0.0.1:{server.port}"
    assert (ended.levelname, lost.levelname) == ("INFO", "WARNING")
    assert ended.getMessage() == f"{where}: the event stream has ended; connecting again in 0.1 s"
    assert lost.getMessage().startswith(f"{where}: the event stream was lost ({where}: ")
    assert lost.getMessage().endswith("); connecting again in 0.0 s")


SECRETS = ("hunter2", "aHVudGVy", "dXNlcjpo", "s3cret")


def test_no_secrets_are_shown(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """User and password of the URL, Authorization, cookies: neither in the log nor in any error."""
    shown: list[str] = []

    def note(stream: Any) -> None:
        shown.append(repr(stream))
        try:
            list(stream)
        except RequestException as error:
            shown.append(f"{error} {error!r}")

    hidden = {"headers": {"X-Key": "s3cret"}, "cookies": {"c": "s3cret"}, "max_reconnects": 1}
    answers = [drops(), says(503), says(200, b"", {"Content-Type": "text/html"}), says(302), drops()]
    with caplog.at_level(logging.DEBUG), refused_port() as port, Source(*answers) as server:
        for number in (server.port, server.port, server.port, port.port, server.port):
            note(follow(session, f"http://user:hunter2@127.0.0.1:{number}/", **hidden))
        for last_event_id in ("a\nb", "a"):
            try:
                note(session.sse("http://user:hunter2@127.0.0.1:9/", last_event_id=last_event_id, max_reconnects=0))
            except InvalidHeader as error:
                shown.append(str(error))
        adapter = Small((200, b""), (500, b""), (999, b""), (999, b""), (204, b""))
        session.mount("other://", adapter)
        for _ in range(3):
            note(follow(session, "other://user:hunter2@host/", **hidden))
    text = "\n".join(shown + [record.getMessage() for record in caplog.records])
    assert len(shown) > 10
    for secret in SECRETS:
        assert secret not in text, text

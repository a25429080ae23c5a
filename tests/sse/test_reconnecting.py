"""A stream whose connection ends, breaks, is silent or never comes about; and answers that are no stream of events.

WHATWG HTML, section 9.2.3, "process the response" and "reestablish the connection".
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import Any

import pytest

import syncflow
from syncflow import (
    ChunkedEncodingError,
    ConnectionError,
    ConnectTimeout,
    ContentTypeError,
    EventTooLarge,
    HTTPError,
    PoolLimits,
    ProtocolError,
    ReadTimeout,
    Response,
    Session,
    SSLError,
    Timeouts,
    TooManyRedirects,
)
from syncflow.testing import (
    Peer,
    Request,
    ScriptedServer,
    chunk,
    eventually,
    full_backlog,
    last_chunk,
    refused_port,
    reply_head,
)

from .rig import (
    EVENTS,
    PATIENCE,
    Answer,
    Clock,
    Source,
    begin,
    data_of,
    drops,
    follow,
    holds,
    moved,
    no_more,
    numbered,
    says,
    silence,
    whole,
    wrong,
)

SessionMaker = Callable[..., Session]

SOON = 0.05


@pytest.fixture
def session(new_session: SessionMaker) -> Session:
    return new_session()


# ---------------------------------------------------------------------- the connection ends


def cuts_a_chunk(peer: Peer, request: Request) -> None:
    begin(peer)
    peer.send(b"1f\r\nid: 1\ndata: one\n\nid: 2\nda")
    peer.close()


def ends_with_the_connection(peer: Peer, request: Request) -> None:
    peer.send(reply_head(200, EVENTS) + b"id: 1\ndata: one\n\nid: 2\ndata: tw")
    peer.close()


def ends_too_early(peer: Peer, request: Request) -> None:
    peer.send(reply_head(200, {**EVENTS, "Content-Length": "1000"}) + b"id: 1\ndata: one\n\nid: 2\ndata: two\n")
    peer.close()


def ends_in_mid_event(peer: Peer, request: Request) -> None:
    whole("id: 1\ndata: one\n\nid: 2\ndata: two\n")(peer, request)


def resets_in_mid_event(peer: Peer, request: Request) -> None:
    begin(peer, "id: 1\ndata: one\n\nid: 2\ndata: tw")
    peer.wait_step()  # the client has read all of it: a reset destroys what it has not
    peer.reset()


@pytest.mark.parametrize(
    "breaks", [cuts_a_chunk, ends_with_the_connection, ends_too_early, ends_in_mid_event, resets_in_mid_event]
)
def test_it_goes_on_behind_the_last_whole_event(session: Session, breaks: Answer) -> None:
    with Source(breaks, whole("id: 2\ndata: whole\n\n"), no_more) as server:
        with follow(session, server.url) as stream:
            assert next(stream).data == "one"
            server.step()
            assert data_of(stream) == ["whole"]
        assert server.ids == [None, "1", "2"]


def test_a_connection_that_is_left_is_used_again(session: Session) -> None:
    with Source(whole("data: a\n\n"), whole("data: b\n\n"), no_more) as server:
        assert data_of(follow(session, server.url)) == ["a", "b"]
        assert server.connections == 1


def test_nothing_follows_a_204(session: Session) -> None:
    with Source(no_more, whole("data: a\n\n")) as server:
        stream = follow(session, server.url)
        assert list(stream) == []
        assert list(stream) == []
        assert stream.response is not None
        assert stream.response.status_code == 204
        assert session.get(server.url).text == "data: a\n\n"  # over the same connection
        assert (len(server.seen), server.connections) == (2, 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_asked_for_again(session: Session, status: int) -> None:
    with Source(
        moved(status, "/elsewhere"), whole(numbered(1)), moved(status, "/there"), whole(numbered(2)), no_more
    ) as server:
        stream = follow(session, f"{server.url}/here")
        assert next(stream).data == "1"
        assert stream.response is not None
        assert stream.response.url == f"{server.url}/elsewhere"
        assert data_of(stream) == ["2"]
        assert [request.path for request in server.seen] == ["/here", "/elsewhere", "/here", "/there", "/here"]
        assert server.ids == [None, None, "1", "1", "2"]  # it goes along
        assert all(request.headers["accept"] == "text/event-stream" for request in server.seen)


def test_a_redirect_to_nowhere(session: Session) -> None:
    with Source(moved(302, "/")) as server:
        assert isinstance(wrong(follow(session, server.url)), TooManyRedirects)
    with Source(moved(302, "/")) as server:
        error = wrong(follow(session, server.url, allow_redirects=False))
        assert isinstance(error, HTTPError)
        assert error.response is not None
        assert error.response.status_code == 302
        assert "the server answered 302 Found, and an event stream is a 200" in str(error)


@pytest.mark.parametrize("status", [201, 404, 500, 503])
def test_another_status_is_an_error(session: Session, status: int) -> None:
    with Source(whole(numbered(1)), says(status, b"try later", {"Content-Type": "text/plain"}), no_more) as server:
        stream = follow(session, server.url)
        assert next(stream).data == "1"
        error = wrong(stream)
        assert type(error) is HTTPError
        assert error.response is stream.response
        assert error.request is not None
        assert error.request.headers["Last-Event-ID"] == "1"
        assert error.response is not None
        assert (error.response.status_code, error.response.text) == (status, "try later")
        assert f"127.0.0.1:{server.port}" in str(error)
        assert status < 400 or error.__notes__ == ["try later"]
        assert list(stream) == []  # iterating again asks again
        assert server.ids == [None, "1", "1"]


@pytest.mark.parametrize("kind", ["text/html", "application/json", "text/plain", "text/event-stream-x", ""])
def test_another_content_type_is_an_error(session: Session, kind: str) -> None:
    with Source(says(200, b"<html>", {"Content-Type": kind} if kind else {})) as server:
        error = wrong(follow(session, server.url))
        assert type(error) is ContentTypeError
        assert error.response is not None
        assert error.response.text == "<html>"
        assert error.request is error.response.request
        shown = kind or "of no Content-Type"
        assert str(error) == f"127.0.0.1:{server.port}: the answer is {shown}, not text/event-stream; see its response"


@pytest.mark.parametrize("kind", ["text/event-stream; charset=utf-8", "Text/Event-STREAM", "text/event-stream ;a=b"])
def test_parameters_and_case_of_the_content_type(session: Session, kind: str) -> None:
    with Source(says(200, b"data: a\n\n", {"Content-Type": kind}), no_more) as server:
        assert data_of(follow(session, server.url)) == ["a"]


def test_an_answer_that_was_refused_keeps_no_place(new_session: SessionMaker) -> None:
    """Its body does not end, and its reader may still look at it: the next try must not wait for it."""

    def web_page(peer: Peer, request: Request) -> None:
        peer.send(reply_head(200, {"Content-Type": "text/html", "Transfer-Encoding": "chunked"}) + chunk(b"<html>"))
        peer.wait_closed()

    session = new_session(pool=PoolLimits(per_host=1), timeout=Timeouts(pool=1))
    with Source(web_page, whole("data: a\n\n"), no_more) as server:
        stream = follow(session, server.url)
        kept = wrong(stream)
        assert isinstance(kept, ContentTypeError)
        assert data_of(stream) == ["a"]


@pytest.mark.parametrize("by", ["read", "event_timeout"])
def test_an_error_whose_body_does_not_come_is_told_all_the_same(session: Session, by: str) -> None:
    def stalls(peer: Peer, request: Request) -> None:
        peer.send(reply_head(500, {"Content-Length": "1000"}) + b"abc")
        peer.wait_closed()

    def let_it_be_late(response: Response, **kwargs: object) -> None:
        clock.ahead += 2 * PATIENCE

    clock = Clock()
    limits = {"timeout": SOON} if by == "read" else {"event_timeout": PATIENCE, "hooks": {"response": let_it_be_late}}
    with Source(stalls) as server:
        stream = follow(session, server.url, **limits)
        stream._clock = clock
        error = wrong(stream)
        assert type(error) is HTTPError, repr(error)
        assert error.response is not None
        assert error.response.status_code == 500
        server.wait_until_idle()


# ---------------------------------------------------------------------- no connection, no word


def test_a_server_that_is_down_for_a_while(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with refused_port() as port:
        with follow(session, port.url, max_reconnects=2) as stream:
            error = wrong(stream)
            assert type(error) is ConnectionError
            assert error.phase == "connect"
            assert error.request is not None
            assert f"127.0.0.1:{port.port}" in str(error)
            assert len(caplog.records) == 2
    with Source(whole("data: a\n\n"), no_more) as server:
        tries: list[tuple[str, int]] = []

        def resolver(host: str, port: int) -> list[str]:
            tries.append((host, port))
            return ["127.0.0.2"] if len(tries) < 3 else ["127.0.0.1"]  # nobody listens at the former

        with syncflow.Session(resolver=resolver) as other:
            assert data_of(follow(other, f"http://name.invalid:{server.port}")) == ["a"]
        assert len(tries) == 3


@pytest.mark.parametrize("first", [silence, holds("id: 1\ndata: a\n\n")], ids=["head", "body"])
def test_silence_is_a_loss(new_session: SessionMaker, first: Answer) -> None:
    def then(peer: Peer, request: Request) -> None:
        """More than once, if this machine was silent meanwhile."""
        answer = no_more if request.headers.get("last-event-id") == "2" else whole("id: 2\ndata: b\n\n")
        answer(peer, request)

    session = new_session(timeout=Timeouts(read=SOON))
    with Source(first, then) as server:
        events = list(follow(session, server.url))
        assert events[-1].data == "b"
        assert server.ids[1] == ("1" if len(events) == 2 else None)
    with Source(silence) as server:
        error = wrong(follow(session, server.url, max_reconnects=1))
        assert type(error) is ReadTimeout
        assert error.phase == "head"
        assert error.request is not None
        eventually(lambda: len(server.seen) == 2)


def test_a_backlog_that_is_full(new_session: SessionMaker) -> None:
    session = new_session(timeout=Timeouts(connect=SOON))
    with full_backlog() as port:
        error = wrong(follow(session, port.url, max_reconnects=1))
        assert type(error) is ConnectTimeout
        assert error.phase == "connect"


def test_no_place_in_the_pool_is_a_loss(new_session: SessionMaker) -> None:
    session = new_session(pool=PoolLimits(per_host=1), timeout=Timeouts(pool=SOON))
    with Source(holds(), whole("data: a\n\n"), no_more) as server:
        other = session.get(server.url, stream=True)

        def free(*args: Any) -> None:
            other.close()

        with syncflow_log(free):  # at the first reconnection
            assert data_of(follow(session, server.url)) == ["a"]


class syncflow_log:
    """Calls a function with each record of the stream's logger meanwhile."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._logger = logging.getLogger("syncflow.sse")
        self._handler = logging.Handler()
        self._handler.emit = function  # type: ignore[method-assign]

    def __enter__(self) -> None:
        self._logger.addHandler(self._handler)

    def __exit__(self, *exc_info: object) -> None:
        self._logger.removeHandler(self._handler)


# ---------------------------------------------------------------------- what is futile


def test_a_certificate_that_is_not_trusted_is_not_tried_again(session: Session, server_tls: ssl.SSLContext) -> None:
    with Source(whole("data: a\n\n"), no_more, ssl_context=server_tls) as server:
        error = wrong(follow(session, server.url, verify=True))
        assert type(error) is SSLError
        assert server.connections == 1
        assert data_of(follow(session, server.url)) == ["a"]


@pytest.mark.parametrize("way", ["fin", "reset"])
def test_a_handshake_that_is_cut_off_is_a_loss(session: Session, server_tls: ssl.SSLContext, way: str) -> None:
    """As by a load balancer whose servers restart: it says nothing of anybody's trust."""

    def cut(peer: Peer) -> None:
        peer.read_exactly(20)
        (peer.reset if way == "reset" else peer.close)()

    def secured(peer: Peer) -> None:
        peer._connection.secure(server_tls)
        for request in peer.requests():
            whole("data: a\n\n")(peer, request)

    with ScriptedServer(cut, cut, secured) as server:
        stream = follow(session, f"https://127.0.0.1:{server.port}")
        assert next(stream).data == "a"
        stream.close()
    with ScriptedServer(cut) as server:
        error = wrong(follow(session, f"https://127.0.0.1:{server.port}", max_reconnects=1))
        assert type(error) is SSLError
        assert (error.phase, server.connections) == ("tls", 2)


def test_what_is_no_http_is_an_error(session: Session) -> None:
    def nonsense(peer: Peer, request: Request) -> None:
        peer.send(b"SSH-2.0-OpenSSH\r\n")

    with Source(nonsense) as server:
        assert isinstance(wrong(follow(session, server.url)), ProtocolError)
        assert len(server.seen) == 1


def test_an_event_that_is_too_large_is_an_error(session: Session) -> None:
    with Source(holds(numbered(1) + "data: " + "x" * 1000)) as server:
        stream = follow(session, server.url, max_event_size=100)
        assert next(stream).data == "1"
        error = wrong(stream)
        assert type(error) is EventTooLarge
        assert (error.phase, error.response) == ("body", stream.response)
        assert error.request is not None
        server.wait_until_idle()  # it is not read any more


# ---------------------------------------------------------------------- how often


def test_a_limit_of_reconnections_in_a_row(session: Session) -> None:
    """The end, if the last connection ended; the error, if it broke. Each event begins the count anew."""
    with Source(*[whole()] * 2, whole("data: a\n\n"), *[whole()] * 2, no_more) as server:
        assert data_of(follow(session, server.url, max_reconnects=2)) == ["a"]
        assert len(server.seen) == 5
    with Source(*[drops()] * 2, drops("data: a\n\n"), *[drops()] * 2, no_more) as server:
        stream = follow(session, server.url, max_reconnects=2)
        assert next(stream).data == "a"
        assert isinstance(wrong(stream), ChunkedEncodingError)
        assert len(server.seen) == 5
        assert list(stream) == []  # iterating again asks again
        assert len(server.seen) == 6


@pytest.mark.parametrize("limit", [0, 1])
def test_few_reconnections(session: Session, limit: int) -> None:
    with Source(whole()) as server:
        stream = follow(session, server.url, max_reconnects=limit)
        assert list(stream) == list(stream) == []
        assert len(server.seen) == 1 + limit
    with Source(drops(": a comment is no event\n\n")) as server:
        error = wrong(follow(session, server.url, max_reconnects=limit))
        assert isinstance(error, ChunkedEncodingError)
        assert error.phase == "body"
        assert error.request is not None
        assert error.response is not None
        assert len(server.seen) == 1 + limit


def test_iterating_slowly_pushes_back(session: Session) -> None:
    """What the reader does not take, the server cannot send; and none of it is lost."""
    sent = 0

    def pours(peer: Peer, request: Request) -> None:
        nonlocal sent
        begin(peer)
        sock = peer._connection.sock
        sock.setblocking(False)
        left = b""
        while not left and sent < 20_000:  # 200 MB
            sent += 1
            event = chunk(b"data: " + b"x" * 10_000 + b"\n\n")
            try:
                left = event[sock.send(event) :]
            except BlockingIOError:
                left = event
        peer.wait_step()
        peer.send(left + last_chunk())

    with Source(pours, no_more) as server:
        stream = follow(session, server.url)
        assert len(next(stream).data) == 10_000
        server.step()  # the client may read on when the server stands still
        assert len(list(stream)) == sent - 1
        assert sent < 20_000

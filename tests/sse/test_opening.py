"""`EventStream.open`: one try, before anybody waits for an event; and `Session.end_streams`, which ends what is
followed and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from syncflow import ConnectionError, ContentTypeError, HTTPError, Session, SessionClosed
from syncflow.testing import AppServer, Request, Response, ScriptedServer, eventually, refused_port

from ..concurrency import PATIENCE, Call
from .rig import EVENTS, Source, drops, holds, numbered

SessionMaker = Callable[..., Session]


@pytest.fixture
def session(new_session: SessionMaker) -> Session:
    return new_session()


def test_it_connects_and_is_then_iterated(session: Session) -> None:
    with Source(holds(numbered(1, 2))) as server:
        with session.sse(server.url, last_event_id="0") as stream:
            response = stream.open()
            assert response is stream.response
            assert response.status_code == 200
            assert stream.open() is response
            assert [next(stream).id, next(stream).id] == ["1", "2"]
        assert server.ids == ["0"]


def test_it_connects_again_as_ever(session: Session) -> None:
    with Source(drops("retry: 1\n\n" + numbered(1)), holds(numbered(2))) as server:
        with session.sse(server.url) as stream:
            stream.open()
            assert [next(stream).id, next(stream).id] == ["1", "2"]
        assert server.ids == [None, "1"]


def test_204_is_the_end(session: Session) -> None:
    with AppServer(lambda _: Response(204)) as server:
        stream = session.sse(server.url)
        assert stream.open().status_code == 204
        assert list(stream) == []
        with pytest.raises(SessionClosed):
            stream.open()
        assert server.requests == 1


@pytest.mark.parametrize("size", [100, 3 << 20])
def test_the_body_of_what_is_no_stream_is_left_to_be_read(session: Session, size: int) -> None:
    with AppServer(lambda _: Response(404, EVENTS, b"x" * size)) as server:
        stream = session.sse(server.url)
        with pytest.raises(HTTPError) as raised:
            stream.open()
        assert raised.value.response is not None
        assert raised.value.response.content == b"x" * size


def test_one_that_is_not_read_is_closed_with_the_stream(session: Session) -> None:
    with AppServer(lambda _: Response(200, {"Content-Type": "text/html"}, b"x" * 1_000_000)) as server:
        with session.sse(server.url) as stream:
            with pytest.raises(ContentTypeError):
                stream.open()
            assert session.stats().in_use == 1
        eventually(lambda: session.stats().in_use == 0)


def test_it_is_one_try(session: Session) -> None:
    with refused_port() as nobody:
        with pytest.raises(ConnectionError):
            session.sse(nobody.url, max_reconnects=None).open()


def test_after_a_failure_it_is_tried_again(session: Session) -> None:
    with Source(lambda peer, _: peer.reset(), holds(numbered(1))) as server:
        with session.sse(server.url) as stream:
            with pytest.raises(ConnectionError):
                stream.open()
            assert stream.open().status_code == 200
            assert next(stream).id == "1"


def test_a_post_that_failed_is_not(session: Session) -> None:
    with Source(lambda peer, _: peer.reset()) as server:
        stream = session.sse(server.url, method="POST", data=b"question")
        with pytest.raises(ConnectionError):
            stream.open()
        with pytest.raises(SessionClosed):
            stream.open()
        assert len(server.seen) == 1


def test_one_that_was_closed(session: Session) -> None:
    stream = session.sse("http://127.0.0.1:1/")
    stream.close()
    with pytest.raises(SessionClosed, match="nothing was sent"):
        stream.open()


def test_closing_wakes_it(session: Session) -> None:
    with ScriptedServer(lambda peer: peer.wait_closed()) as server:
        stream = session.sse(server.url)
        opening = Call(stream.open)
        server.wait_for_connections(1)
        stream.close()
        assert opening.error() is not None
        server.wait_until_idle()


# ---------------------------------------------------------------- end_streams


def test_streams_end_and_requests_go_on(session: Session) -> None:
    def app(request: Request) -> Response:
        return Response(200, [], b"text")

    with Source(holds(numbered(1) + "data: half of one")) as events, AppServer(app) as server:
        stream = session.sse(events.url)
        assert next(stream).id == "1"
        rest = Call(list, stream)
        for _ in range(2):
            session.end_streams()
        assert rest.result() == []
        assert session.get(server.url).text == "text"
        events.wait_until_idle()


def test_what_is_begun_later_ends_before_it_connects(session: Session) -> None:
    session.end_streams()
    with Source(holds(numbered(1))) as server:
        assert list(session.sse(server.url)) == []
        with pytest.raises(SessionClosed):
            session.sse(server.url).open()
        assert server.connections == 0


def test_one_that_connects_only_once_goes_on(session: Session) -> None:
    """It ends by itself."""
    with Source(holds(numbered(1))) as server:
        with session.sse(server.url, max_reconnects=0) as stream:
            assert next(stream).id == "1"
            session.end_streams()
            waiting = Call(next, stream, None)
            server.stop()
            with pytest.raises(Exception, match="127"):
                waiting.result()
    with AppServer(lambda _: Response(200, EVENTS, numbered(1).encode())) as server:
        assert [event.id for event in session.sse(server.url, max_reconnects=0)] == ["1"]


def test_a_copy_of_the_session_has_streams_of_its_own(session: Session) -> None:
    session.end_streams()
    with AppServer(lambda _: Response(200, EVENTS, numbered(1).encode())) as server:
        other = copy.copy(session)
        with other, other.sse(server.url) as stream:
            assert next(stream).id == "1"


def test_streams_that_begin_while_they_are_ended(new_session: SessionMaker, frantic: None) -> None:
    """Each sees it, or is seen."""
    with Source(holds(numbered(1))) as server:
        for _ in range(20):
            session = new_session()
            calls = [Call(lambda session=session: list(session.sse(server.url))) for _ in range(4)]  # type: ignore[misc]
            session.end_streams()
            for call in calls:
                call.thread.join(PATIENCE)
                assert call.ended
                assert [event.id for event in call.result()] in ([], ["1"])

"""Session.drain and streams of events: one that would connect again ends between two events, one that would not is an
answer like any other."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from syncflow import Session, SessionClosed
from syncflow.engine import locks
from syncflow.sse import EventHub, EventStream
from syncflow.testing import Peer, Request, chunk, eventually, last_chunk

from ..concurrency import at_once
from ..draining import draining
from .rig import PATIENCE, Following, Source, begin, data_of, drops, follow, holds, numbered, whole
from .test_closing import PLACES, Place, queue, sending, waiting

SessionMaker = Callable[..., Session]


@pytest.fixture(autouse=True)
def no_glances(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain that is not woken does not look by itself either."""
    monkeypatch.setattr(locks, "GLANCE", 1000.0)


@pytest.fixture
def session(new_session: SessionMaker) -> Session:
    return new_session(timeout=None)


@pytest.mark.parametrize(
    "place", [place for place in PLACES if place not in (sending, queue)], ids=lambda f: f.__name__
)
def test_it_ends_wherever_it_waits(new_session: SessionMaker, server_tls: ssl.SSLContext, place: Place) -> None:
    """As at the end of a list; and nothing is left to wait for."""
    with waiting(place, new_session, server_tls) as (session, stream, following):
        assert session.drain(PATIENCE)
        assert following.end() is None
        assert list(stream) == []


def test_it_ends_in_the_queue_behind_what_is_waited_for(new_session: SessionMaker, server_tls: ssl.SSLContext) -> None:
    with waiting(queue, new_session, server_tls) as (session, stream, following):
        drain = draining(session)
        assert following.end() is None
        assert not drain.ended
        session.close()
        assert not drain.result()
        assert list(stream) == []


def test_what_was_decoded_is_handed_out(session: Session) -> None:
    with Source(holds(numbered(1, 2, 3) + "data: half of one")) as server:
        stream = session.sse(server.url)
        assert next(stream).id == "1"
        assert session.drain()
        assert [event.id for event in stream] == ["2", "3"]
        assert stream.last_event_id == "3"
        assert list(stream) == []


def test_a_batch_too(session: Session) -> None:
    with Source(holds(numbered(1, 2, 3))) as server:
        stream = session.sse(server.url)
        next(stream)
        assert session.drain()
        assert data_of(stream.batch()) == ["2", "3"]
        assert stream.batch() is None


def one_more_after_a_step(peer: Peer, request: Request) -> None:
    begin(peer, numbered(1))
    peer.wait_step()
    peer.send(chunk(numbered(2).encode()))
    peer.send(last_chunk())


@pytest.mark.parametrize("arguments", [{"max_reconnects": 0}, {"method": "POST"}], ids=["no reconnects", "post"])
def test_one_that_does_not_connect_again_is_waited_for(session: Session, arguments: dict[str, Any]) -> None:
    """As the words of a language model."""
    with Source(one_more_after_a_step) as server:
        following = Following(session.sse(server.url, **arguments))
        eventually(lambda: following.events)
        drain = draining(session)
        server.step()
        assert drain.result()
        assert following.end() is None
        assert data_of(following.events) == ["1", "2"]


def test_the_events_of_a_response_are_waited_for(session: Session) -> None:
    with Source(one_more_after_a_step) as server:
        events = session.get(server.url, stream=True).iter_sse()
        assert next(events).data == "1"
        drain = draining(session)
        server.step()
        assert data_of(events) == ["2"]
        assert drain.result()


@pytest.mark.parametrize("arguments", [{}, {"max_reconnects": 0}], ids=["reconnects", "does not"])
def test_one_that_begins_afterwards_is_refused(session: Session, arguments: dict[str, Any]) -> None:
    with Source(holds(numbered(1))) as server:
        assert session.drain()
        stream = session.sse(server.url, **arguments)
        for _ in range(2):
            with pytest.raises(SessionClosed, match="has been drained"):
                next(stream)
        assert server.connections == 0


def test_a_hub_ends_as_with_its_upstream(session: Session) -> None:
    with Source(holds(numbered(1, 2))) as server, closing(EventHub(session.sse(server.url))) as hub:
        subscription = hub.subscribe()
        hub.start()
        eventually(lambda: hub.health().events == 2)
        assert session.drain()
        assert data_of(subscription) == ["1", "2"]
        assert hub.health().error is None


def test_a_stream_that_comes_back_all_the_time(session: Session, frantic: None) -> None:
    """Whatever it is doing when the session drains: each event once and in order, no error, nothing of it left."""

    with Source(whole(numbered(1)), drops(numbered(2)), whole(numbered(3))) as server:
        for lag in range(30):
            with Session(timeout=10) as another:
                another.trust_env = False
                stream = follow(another, server.url)
                following = Following(stream)
                come = lag % 5
                eventually(lambda following=following, come=come: len(following.events) >= come)  # type: ignore[misc]
                assert another.drain(5)
                assert following.end() is None
                assert not another.stats().open


def test_one_that_begins_at_the_same_moment(session: Session, frantic: None) -> None:
    """It is refused, or ends at once, or with the events that had come."""
    with Source(holds(numbered(1))) as server:
        for _ in range(40):
            with Session(timeout=10) as another:
                another.trust_env = False

                def iterate(another: Session = another) -> str:
                    try:
                        return "".join(data_of(another.sse(server.url)))
                    except SessionClosed as error:
                        return "refused" if "nothing was sent" in str(error) else str(error)

                drained, *outcomes = at_once(lambda another=another: another.drain(5), iterate, iterate)  # type: ignore[misc]
                assert drained
                assert set(outcomes) <= {"", "1", "refused"}, outcomes


def test_a_stream_that_is_gone_is_not_told(session: Session) -> None:
    with Source(holds(numbered(1))) as server:
        streams = [session.sse(server.url) for _ in range(100)]
        assert len(session._calls._endless) == 100
        del streams
        assert not session._calls._endless


def test_one_that_begins_in_the_middle(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the others were told, and before new requests are refused."""
    calls, streams = session._calls, []
    wind_up = calls._wind_up

    def begin_one() -> None:
        wind_up()
        if not streams:
            streams.append(session.sse(server.url))
            assert next(streams[0]).id == "1"

    monkeypatch.setattr(calls, "_wind_up", begin_one)
    with Source(holds(numbered(1))) as server:
        assert session.drain(PATIENCE)
        assert list(streams[0]) == []


def test_one_that_would_connect_again_in_the_middle(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """When new requests are refused already, it knows why."""
    calls = session._calls
    wind_up = calls._wind_up

    def wait_first() -> None:
        if calls.is_draining:
            eventually(lambda: not following._thread.is_alive())
        wind_up()

    monkeypatch.setattr(calls, "_wind_up", wait_first)
    with Source(whole(numbered(1))) as server:
        following = Following(follow(session, server.url))
        eventually(lambda: following.events)
        assert session.drain(PATIENCE)
        assert following.end() is None


@pytest.mark.parametrize("way", [next, lambda stream: stream.batch()[0]], ids=["next", "batch"])
def test_what_comes_at_the_same_moment_is_handed_out(session: Session, way: Callable[[EventStream], Any]) -> None:
    with Source(holds(numbered(1))) as server:
        stream = session.sse(server.url)
        connect = stream._connect

        def wind_up_after_reading() -> None:
            connect()
            read = stream._reader.read  # type: ignore[union-attr]

            def read_then_wind_up() -> Any:
                events = read()
                stream.wind_up()
                return events

            stream._reader.read = read_then_wind_up  # type: ignore[union-attr, method-assign]

        stream._connect = wind_up_after_reading  # type: ignore[method-assign]
        assert way(stream).id == "1"
        assert list(stream) == []

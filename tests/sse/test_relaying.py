"""relay: what passes, what is made of it, what an error becomes, and how fast the upstream ends with its client."""

from __future__ import annotations

import gzip
import socket
import socketserver
import threading
import wsgiref.simple_server
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import syncflow
from syncflow import Session
from syncflow.sse import Decoder, EventBuffer, EventHub, ServerSentEvent, encode, relay, relaying
from syncflow.testing import Peer, ScriptedServer, chunk, eventually, last_chunk, reply, reply_head

BOUND = 10.0
HEAD = reply_head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
ONE, TWO = ServerSentEvent(data="one", id="1"), ServerSentEvent(data="two", id="2")


@pytest.fixture
def session(new_session: Callable[..., Session]) -> Session:
    return new_session()


def serving(*pieces: bytes, end: bool = True) -> Callable[[Peer], object]:
    """A script: the pieces, each when the test says `step`, and the end, or a reset."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD)
        for piece in pieces:
            peer.wait_step()
            peer.send(chunk(piece))
        peer.wait_step()
        if end:
            peer.send(last_chunk())
        else:
            peer.reset()

    return script


def whole(*pieces: bytes, end: bool = True) -> Callable[[Peer], object]:
    """As `serving`, without waiting."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + b"".join(map(chunk, pieces)))
        if end:
            peer.send(last_chunk())
        peer.half_close()
        peer.read_until_close()

    return script


def decoded(pieces: Iterable[bytes]) -> list[ServerSentEvent]:
    decoder = Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


# ---------------------------------------------------------------- a response, as it is


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_body_passes_unparsed(session: Session, end: bytes) -> None:
    """Comments, unknown fields, bytes that are no UTF-8, and an event that has not ended, too."""
    lines = [b"\xef\xbb\xbfdata: one", b"", b": a comment", b"what: ever", b"data: \xff", b"", b"", b"data: no", b"end"]
    body = end.join(lines)
    pieces = [body[n : n + 3] for n in range(0, len(body), 3)]
    with ScriptedServer(whole(*pieces)) as server, session.get(server.url, stream=True) as response:
        assert b"".join(relay(response)) == body


def test_each_event_and_each_comment_passes_at_once(session: Session) -> None:
    pieces = [b"data: one\n\n", b": ping\n", b"data: tw", b"o\n\ndata: three\r\n\r\n", b":\n\n"]
    pieces += [b"data: four\n", b"\n", b"data: five\r\n", b"\r\n"]
    with ScriptedServer(serving(*pieces)) as server, session.get(server.url, stream=True) as response:
        relayed = relay(response)
        server.step()
        assert next(relayed) == b"data: one\n\n"
        server.step()
        assert next(relayed) == b": ping\n"
        server.step(2)  # what has begun waits for its end
        assert b"".join([next(relayed)]) == b"data: two\n\ndata: three\r\n\r\n"
        server.step()
        assert next(relayed) == b":\n\n"
        server.step(2)
        assert next(relayed) == b"data: four\n\n"
        server.step(2)
        assert next(relayed) == b"data: five\r\n\r\n"
        server.step()
        assert list(relayed) == []


def test_a_coding_is_undone(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        fields = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}
        peer.send(reply(200, gzip.compress(encode(ONE)), fields))

    with ScriptedServer(script) as server, session.get(server.url, stream=True) as response:
        assert list(relay(response)) == [encode(ONE)]


def test_an_event_that_breaks_off_does_not_pass(session: Session) -> None:
    with ScriptedServer(whole(b"data: one\n\ndata: tw", end=False)) as server:
        with session.get(server.url, stream=True) as response:
            relayed = relay(response)
            assert next(relayed) == b"data: one\n\n"
            with pytest.raises(syncflow.ChunkedEncodingError):
                next(relayed)
            with pytest.raises(StopIteration):
                next(relayed)


def test_the_end_of_one_line_is_no_empty_line(session: Session) -> None:
    with ScriptedServer(whole(b"data: one\r\n\r\nevent: x\r\n", b"data: two\r\n", end=False)) as server:
        with session.get(server.url, stream=True) as response:
            relayed = relay(response)
            assert next(relayed) == b"data: one\r\n\r\n"
            with pytest.raises(syncflow.ChunkedEncodingError):
                next(relayed)


def test_what_never_ends_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncflow.sse.relaying.MAX_EVENT_SIZE", 1000)
    with ScriptedServer(whole(b"data: " + b"x" * 1000)) as server:
        with session.get(server.url, stream=True) as response:
            with pytest.raises(syncflow.EventTooLarge, match="larger than 1,000 bytes"):
                list(relay(response))


def test_a_web_page_is_refused_before_anything_is_read(session: Session) -> None:
    with ScriptedServer(lambda peer: peer.send(reply(200, b"<p>", {"Content-Type": "text/html"}))) as server:
        with session.get(server.url, stream=True) as response:
            with pytest.raises(syncflow.ContentTypeError):
                relay(response)
            assert response.text == "<p>"


# ---------------------------------------------------------------- transforms


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (lambda event: event._replace(data=event.data.upper()), ["ONE", "TWO"]),
        (lambda event: None if event.id == "1" else event, ["two"]),
        (lambda event: [event, event], ["one", "one", "two", "two"]),
        (lambda event: (event for _ in range(int(event.id) - 1)), ["two"]),
        (lambda event: [], []),
    ],
    ids=["change", "drop", "multiply", "a generator", "none"],
)
@pytest.mark.parametrize("source", ["response", "stream", "list"])
def test_events_are_changed_dropped_and_multiplied(
    session: Session, transform: Callable[[ServerSentEvent], Any], expected: list[str], source: str
) -> None:
    with ScriptedServer(whole(encode(ONE) + encode(TWO))) as server:
        sources: dict[str, Callable[[], Any]] = {
            "response": lambda: session.get(server.url, stream=True),
            "stream": lambda: session.sse(server.url, max_reconnects=0),
            "list": lambda: [ONE, TWO],
        }
        assert [event.data for event in decoded(relay(sources[source](), transform))] == expected


def test_a_comment_upstream_is_a_comment_downstream(session: Session) -> None:
    with ScriptedServer(serving(b": ping\n\n")) as server, session.get(server.url, stream=True) as response:
        relayed = relay(response, lambda event: event)
        server.step()
        assert next(relayed) == b":\n\n"
        server.step()
        assert list(relayed) == []


def test_events_that_are_dropped_are_no_comments_unless_it_is_silent_for_long() -> None:
    assert list(relay([ONE, TWO], lambda event: None)) == []
    assert list(relay([ONE, TWO], lambda event: None, keep_alive=1e-9)) == [b":\n\n", b":\n\n"]


def test_it_is_silent_since_it_has_sent_something(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(relaying, "time", SimpleNamespace(monotonic=lambda: now))

    def every_second(event: ServerSentEvent) -> ServerSentEvent | None:
        nonlocal now
        now += 10.0
        return event if now == 10.0 else None

    assert list(relay([ONE, ONE, ONE], every_second, keep_alive=15.0)) == [encode(ONE), b":\n\n"]


def test_a_transform_that_fails_ends_the_upstream(session: Session) -> None:
    def fail(event: ServerSentEvent) -> ServerSentEvent:
        raise LookupError(event.data)

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + chunk(encode(ONE)))
        peer.wait_closed()

    with ScriptedServer(script) as server, session.get(server.url, stream=True) as response:
        with pytest.raises(LookupError, match="one"):
            next(relay(response, fail, on_error=lambda error: ONE))  # it is no error of the upstream
        server.wait_until_idle()


@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="\r", codec="utf-8")), st.sampled_from(["", "1"]))))
def test_whatever_events_come_the_same_come_out(given_events: list[tuple[str, str]]) -> None:
    events = [ServerSentEvent(data=data, id=id_) for data, id_ in given_events]
    assert decoded(relay(events)) == events


def test_the_iterable_is_closed_where_it_can_be() -> None:
    class Source(list[ServerSentEvent]):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    source = Source([ONE])
    assert list(relay(source)) == [encode(ONE)]
    assert source.closed
    assert list(relay([ONE])) == [encode(ONE)]


# ---------------------------------------------------------------- errors upstream


def broken() -> Iterator[ServerSentEvent]:
    yield ONE
    raise syncflow.ConnectionError("it is gone")


def test_an_error_is_raised_unless_the_program_says_otherwise() -> None:
    relayed = relay(broken())
    assert next(relayed) == encode(ONE)
    with pytest.raises(syncflow.ConnectionError, match="it is gone"):
        next(relayed)
    assert list(relayed) == []


def test_an_error_becomes_a_last_event() -> None:
    relayed = relay(broken(), on_error=lambda error: ServerSentEvent("failed", str(error)))
    assert list(relayed) == [encode(ONE), b"event: failed\ndata: it is gone\n\n"]


def test_the_upstream_is_ended_before_the_last_event_is_made() -> None:
    closed: list[bool] = []

    class Source:
        def __iter__(self) -> Iterator[ServerSentEvent]:
            return broken()

        def close(self) -> None:
            closed.append(True)

    def last(error: Exception) -> ServerSentEvent:
        return ServerSentEvent("failed", f"closed: {closed[0]}")

    assert list(relay(Source(), on_error=last))[1:] == [b"event: failed\ndata: closed: True\n\n"]


def test_an_error_becomes_a_quiet_end() -> None:
    assert list(relay(broken(), on_error=lambda error: None)) == [encode(ONE)]


def test_behind_half_an_event_a_last_event_is_whole(session: Session) -> None:
    with ScriptedServer(whole(b"data: one\n\ndata: tw", end=False)) as server:
        with session.get(server.url, stream=True) as response:
            pieces = list(relay(response, on_error=lambda error: ServerSentEvent("failed", type(error).__name__)))
    assert [(event.event, event.data) for event in decoded(pieces)] == [
        ("message", "one"),
        ("failed", "ChunkedEncodingError"),
    ]


# ---------------------------------------------------------------- silence, losses


def test_a_silence_is_a_comment_and_costs_no_connection(session: Session) -> None:
    with ScriptedServer(serving(encode(ONE), encode(TWO))) as server:
        relayed = relay(session.sse(server.url, max_reconnects=0), keep_alive=0.01)
        silence = [next(relayed) for _ in range(3)]
        assert set(silence) == {b":\n\n"}
        server.step()
        while (piece := next(relayed)) == b":\n\n":
            pass
        assert piece == encode(ONE)
        server.step(2)
        assert [piece for piece in relayed if piece != b":\n\n"] == [encode(TWO)]
        assert server.connections == 1


def test_a_subscriber_is_told_what_it_has_lost() -> None:
    hub = EventHub(iter([ServerSentEvent(data=str(n)) for n in range(5)]), lambda: EventBuffer(2))
    subscription = hub.subscribe()
    with hub:
        eventually(lambda: subscription.ended_because is not None)
        assert b"".join(relay(subscription)) == b":\n\n: 3 events were lost\n\ndata: 3\n\ndata: 4\n\n"


# ---------------------------------------------------------------- the client leaves


@pytest.mark.parametrize("transform", [None, lambda event: event])
@pytest.mark.parametrize("source", ["response", "stream"])
def test_closing_ends_the_upstream_and_a_thread_that_waits(session: Session, source: str, transform: Any) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + chunk(encode(ONE)))
        peer.wait_closed()

    with ScriptedServer(script) as server:
        upstream: Any = session.get(server.url, stream=True) if source == "response" else session.sse(server.url)
        relayed = relay(upstream, transform)
        if source == "stream":
            assert next(relayed) == b":\n\n"  # the head of a response goes with its first bytes
        assert next(relayed) == encode(ONE)
        rest: list[bytes] = []
        thread = threading.Thread(target=lambda: rest.extend(relayed))
        thread.start()
        relayed.close()
        server.wait_until_idle()
        thread.join(BOUND)
        assert not thread.is_alive()
        assert rest == []
        relayed.close()


def test_a_generator_ends_with_its_next_event() -> None:
    """It cannot be closed by another thread than the one that is in it."""
    is_in, tomorrow, ended = threading.Event(), threading.Event(), threading.Event()

    def events() -> Iterator[ServerSentEvent]:
        try:
            is_in.set()
            assert tomorrow.wait(BOUND)
            yield ONE
        finally:
            ended.set()

    relayed = relay(events())
    rest: list[bytes] = []
    thread = threading.Thread(target=lambda: rest.extend(relayed))
    thread.start()
    assert is_in.wait(BOUND)
    relayed.close()
    assert not ended.is_set()
    tomorrow.set()
    thread.join(BOUND)
    assert not thread.is_alive()
    assert rest == []
    assert ended.is_set()


def test_nothing_more_comes_after_close() -> None:
    relayed = relay([ONE, TWO])
    assert next(relayed) == encode(ONE)
    relayed.close()
    assert list(relayed) == []


class ThreadedServer(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True
    address_family = socket.AF_INET


class QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Not to the test's output."""


@contextmanager
def wsgi_server(app: Any) -> Iterator[str]:
    server = ThreadedServer(("127.0.0.1", 0), QuietHandler)
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(BOUND)
        server.server_close()


def test_through_a_real_server_the_upstream_ends_when_the_client_leaves(session: Session) -> None:
    """The upstream is silent when that happens: it is the comment of a silence that finds out."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEAD + chunk(encode(ONE)))
        peer.wait_closed()

    with ScriptedServer(script) as upstream:

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return relay(session.sse(upstream.url), keep_alive=0.02)

        with wsgi_server(app) as url, session.sse(url) as stream:
            assert next(stream) == ONE
            stream.close()
            upstream.wait_until_idle()

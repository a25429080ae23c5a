"""response.iter_sse: the events of one response, over sockets, as they arrive; what is refused, and how it ends.

What an event is: test_decoder. What comes after the end of a response is `Session.sse`'s.
"""

from __future__ import annotations

import pickle
import socket
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from syncflow import (
    Cancelled,
    ChunkedEncodingError,
    ContentTypeError,
    DecompressionError,
    EventTooLarge,
    ReadTimeout,
    Response,
    Session,
    StreamConsumedError,
    Timeouts,
    Watermarks,
)
from syncflow.decoders import accepted_codings
from syncflow.sse import ServerSentEvent, encode
from syncflow.testing import AppServer, Peer, ScriptedServer, chunk, last_chunk, reply_head
from syncflow.testing import Response as Answer

STREAM = {"Content-Type": "text/event-stream"}
EVENTS = [ServerSentEvent(data=data, id=str(number)) for number, data in enumerate(["a", "b\nc", "", "€" * 100], 1)]
WRITTEN = [encode(event) for event in EVENTS]

FRAMINGS = ["chunked", "length", "close"]
METHODS = ["GET", "POST"]


@pytest.fixture
def session(new_session: Callable[..., Session]) -> Session:
    return new_session()


def framed(pieces: Iterable[bytes], framing: str, headers: dict[str, str] = STREAM) -> list[bytes]:
    """The head of an answer, its body piece by piece, and what ends it, if that is more than the end of all."""
    pieces = list(pieces)
    if framing == "chunked":
        return [reply_head(200, {**headers, "Transfer-Encoding": "chunked"}), *map(chunk, pieces), last_chunk()]
    length = {"Content-Length": str(sum(map(len, pieces)))} if framing == "length" else {}
    return [reply_head(200, {**headers, **length}), *pieces]


def in_steps(head: bytes, *pieces: bytes, then: Callable[[Peer], object] = Peer.close) -> ScriptedServer:
    """Answers the first request with the head, sends a piece at each `server.step()`, and does `then` at a last one."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(head)
        peer.send_slowly(pieces)
        peer.wait_step()
        then(peer)

    return ScriptedServer(script)


def serve(body: bytes, content_type: str = "text/event-stream", status: int = 200, **headers: str) -> AppServer:
    fields = {**headers, **({"Content-Type": content_type} if content_type else {})}
    return AppServer(lambda request: Answer(status, fields, body))


def ask(session: Session, server: Any, method: str = "GET") -> Response:
    return session.request(method, server.url, data=b"ask" if method == "POST" else None, stream=True)


def taken(server: ScriptedServer, events: Iterator[ServerSentEvent], count: int) -> list[ServerSentEvent]:
    """Each event is sent only when the one before has come."""
    got = []
    for _ in range(count):
        server.step()
        got.append(next(events))
    return got


# ------------------------------------------------------------------------------------------------- as they arrive


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("method", METHODS)
def test_each_comes_before_the_next_is_sent(session: Session, method: str, framing: str) -> None:
    with in_steps(*framed(WRITTEN, framing)) as server, ask(session, server, method) as response:
        events = response.iter_sse()
        assert taken(server, events, len(EVENTS)) == EVENTS
        server.step(2)
        assert list(events) == []


def compressed(coding: str) -> list[bytes]:
    """The events, each as something that a decoder can give before there is more."""
    if coding in ("gzip", "deflate"):
        stream = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
        return [*(stream.compress(event) + stream.flush(zlib.Z_SYNC_FLUSH) for event in WRITTEN), stream.flush()]
    if coding == "br":
        brotli = pytest.importorskip("brotli").Compressor()
        return [*(brotli.process(event) + brotli.flush() for event in WRITTEN), brotli.finish()]
    zstandard = pytest.importorskip("zstandard")
    zstd = zstandard.ZstdCompressor().compressobj()
    flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK
    return [*(zstd.compress(event) + zstd.flush(flush) for event in WRITTEN), zstd.flush()]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_each_comes_before_the_next_is_sent_though_compressed(session: Session, coding: str, framing: str) -> None:
    if coding not in accepted_codings():
        pytest.skip(f"{coding} is not installed")
    pieces = framed(compressed(coding), framing, {**STREAM, "Content-Encoding": coding})
    with in_steps(*pieces) as server, ask(session, server) as response:
        events = response.iter_sse()
        assert taken(server, events, len(EVENTS)) == EVENTS
        server.step(3)
        assert list(events) == []


def test_an_event_that_comes_in_many_pieces(session: Session) -> None:
    pieces = [b"\xef\xbb", b"\xbfid: 7\r", b"\nda", b"ta: \xe2\x82", b"\xac\n\r", b"\ndata: b\n\n"]
    with in_steps(*framed(pieces, "chunked")) as server, ask(session, server) as response:
        events = response.iter_sse()
        server.step(5)
        assert next(events) == ServerSentEvent(data="€", id="7")  # by the CR
        server.step(3)
        assert list(events) == [ServerSentEvent(data="b", id="7")]


def test_comments_between_them(session: Session) -> None:
    pieces = [b": hello\n\n", WRITTEN[0], b": ping\n", b": ping\n\n", WRITTEN[1]]
    with in_steps(*framed(pieces, "chunked")) as server, ask(session, server) as response:
        events = response.iter_sse()
        server.step(2)
        assert next(events) == EVENTS[0]
        server.step(3)
        assert next(events) == EVENTS[1]
        server.step(2)
        assert list(events) == []


def test_many_at_once(session: Session) -> None:
    many = [ServerSentEvent(data=f"{number} " + "a" * 60, id=str(number)) for number in range(20_000)]
    with serve(b"".join(map(encode, many))) as server, ask(session, server) as response:
        assert list(response.iter_sse()) == many


@pytest.mark.parametrize("framing", FRAMINGS)
def test_one_that_is_not_finished_at_the_end_is_none(session: Session, framing: str) -> None:
    with in_steps(*framed([WRITTEN[0], b"data: b\n"], framing)) as server, ask(session, server) as response:
        server.step(4)
        assert list(response.iter_sse()) == EVENTS[:1]


def test_a_connection_is_used_again_after_the_end(session: Session) -> None:
    with serve(b"".join(WRITTEN)) as server:
        for _ in range(3):
            assert list(ask(session, server).iter_sse()) == EVENTS
        assert server.connections == 1


def test_a_request_for_them_is_like_any_other(session: Session) -> None:
    with serve(b"".join(WRITTEN)) as server:
        assert list(ask(session, server, "POST").iter_sse()) == EVENTS
        (request,) = server.seen
    assert (request.method, request.body) == ("POST", b"ask")


# ------------------------------------------------------------------------------------------------- what is refused

ACCEPTED = [
    *["text/event-stream", "TEXT/Event-Stream", "text/event-stream; charset=utf-8", "text/event-stream;"],
    *["text/event-stream ;charset=windows-1252", "text/plain", "text/plain; charset=utf-8"],
    *["application/octet-stream", ""],
]
REFUSED = [
    *["text/html", "application/json", "text/html; a=text/event-stream", "text/event-streams", "text/event"],
    *["text/x-bogus", "x bogus", "event-stream", "text/event-stream, text/html"],
]


@pytest.mark.parametrize("content_type", ACCEPTED)
@pytest.mark.parametrize("status", [200, 404])
def test_content_types_that_are_accepted(session: Session, content_type: str, status: int) -> None:
    """Whatever the status. It is UTF-8 (format-utf-8, format-mime-trailing-semicolon of the web-platform-tests)."""
    with serve(b"".join(WRITTEN), content_type, status) as server:
        assert list(ask(session, server).iter_sse()) == EVENTS


@pytest.mark.parametrize("content_type", REFUSED)
def test_content_types_that_are_refused(session: Session, content_type: str) -> None:
    """At once, and before anything is read (format-mime-bogus, format-mime-valid-bogus of the web-platform-tests)."""
    headers = {"Content-Type": content_type}
    with in_steps(*framed([b"Not here, ", b"but there."], "length", headers)) as server:
        with ask(session, server) as response:
            with pytest.raises(ContentTypeError) as caught:
                response.iter_sse()  # nothing of the body has been sent
            server.step(3)
            assert response.text == "Not here, but there."
            where = f"127.0.0.1:{server.port}"
    error = caught.value
    assert (error.request, error.response) == (response.request, response)
    kind = content_type.partition(";")[0]
    assert str(error) == (
        f"{where}: the response is {kind}, with the status 200, and no text/event-stream; see its text"
    )


@pytest.mark.parametrize(("size", "kind"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (None, TypeError)])
def test_a_limit_that_is_none_is_refused_before_anything_is_read(
    session: Session, size: Any, kind: type[Exception]
) -> None:
    with serve(b"".join(WRITTEN)) as server:
        response = ask(session, server)
        with pytest.raises(kind, match="max_event_size"):
            response.iter_sse(max_event_size=size)
        assert list(response.iter_sse()) == EVENTS


# ------------------------------------------------------------------------------------------------- read once

BEFORE: dict[str, Callable[[Response], object]] = {
    "iter_sse": lambda response: next(response.iter_sse()),
    "iter_sse, unused": lambda response: response.iter_sse(),
    "iter_content": lambda response: next(response.iter_content(1)),
    "iter_lines": lambda response: next(response.iter_lines()),
}


@pytest.mark.parametrize("first", BEFORE)
def test_a_stream_is_read_once(session: Session, first: str) -> None:
    with serve(b"".join(WRITTEN)) as server, ask(session, server) as response:
        BEFORE[first](response)
        with pytest.raises(StreamConsumedError) as caught:
            response.iter_sse()
        assert caught.value.response is response
        with pytest.raises(StreamConsumedError):
            _ = response.content


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_was_read_already(session: Session, stream: bool) -> None:
    with serve(b"".join(WRITTEN) + b"data: not finished") as server:
        response = session.get(server.url, stream=stream)
        _ = response.content
    for _ in range(2):
        assert list(response.iter_sse()) == EVENTS
    assert list(pickle.loads(pickle.dumps(response)).iter_sse()) == EVENTS
    response._content = b""
    assert list(response.iter_sse()) == []


def test_what_was_begun_as_a_file_goes_on(session: Session) -> None:
    with serve(b"this is no line of it\n" + b"".join(WRITTEN)) as server, ask(session, server) as response:
        assert response.raw.readline() == b"this is no line of it\n"
        assert list(response.iter_sse()) == EVENTS


# ------------------------------------------------------------------------------------------------- one too large


@pytest.mark.parametrize("framing", FRAMINGS)
def test_one_that_is_too_large_ends_it(session: Session, framing: str) -> None:
    """What was whole before it is handed out, also of the same piece. The connection is closed: the server sees it."""
    closings: list[str] = []
    pieces = [WRITTEN[0] + b"data: b\n\ndata: " + b"c" * 200, b"c", b"c" * 1000]

    def then(peer: Peer) -> None:
        closings.append(peer.wait_closed())

    with in_steps(*framed([*pieces, b"d" * 100_000], framing)[:2], then=then) as server:
        response = ask(session, server, "POST")
        events = response.iter_sse(max_event_size=100)
        server.step(2)
        assert next(events) == EVENTS[0]
        assert next(events) == ServerSentEvent(data="b", id="1")
        with pytest.raises(EventTooLarge) as caught:
            next(events)
        server.wait_until_idle()
        assert len(closings) == 1
        assert next(events, None) is None
        where = f"127.0.0.1:{server.port}"
    error = caught.value
    assert str(error) == (
        f"{where}: an event of the stream is larger than 100 bytes (max_event_size); allow more if the server can be "
        "trusted"
    )
    assert (error.request, error.response, error.phase) == (response.request, response, "body")
    assert (error.bytes_sent, error.bytes_received) == (3, len(pieces[0]))
    assert isinstance(error, ValueError)
    assert error.__suppress_context__


def test_a_limit_holds_while_an_event_comes(session: Session) -> None:
    pieces = [b"data: ", *[b"a" * 10] * 9, b"a" * 4, b"a"]
    with in_steps(*framed(pieces, "chunked"), then=Peer.wait_closed) as server, ask(session, server) as response:
        events = response.iter_sse(max_event_size=100)
        server.step(20)
        with pytest.raises(EventTooLarge):
            next(events)


def test_one_that_is_too_large_in_a_response_that_was_read(session: Session) -> None:
    with serve(b"data: a\n\ndata: 12345678\n\n") as server:
        response = session.get(server.url)
        for _ in range(2):
            events = response.iter_sse(max_event_size=10)
            assert next(events) == ServerSentEvent(data="a")
            with pytest.raises(EventTooLarge, match=f"127.0.0.1:{server.port}: an event") as caught:
                next(events)
            assert (caught.value.response, caught.value.phase) == (response, "body")
        assert session.get(server.url).ok
        assert server.connections == 1  # there was nothing to close


# ------------------------------------------------------------------------------------------------- how it breaks


def reset(peer: Peer) -> None:
    peer.reset()


@pytest.mark.parametrize(
    ("framing", "end"), [("chunked", Peer.close), ("length", Peer.close), ("chunked", reset), ("close", reset)]
)
def test_a_connection_that_is_cut(session: Session, framing: str, end: Callable[[Peer], object]) -> None:
    """In the middle of an event: those before it are handed out, though they came in the same piece."""
    whole = framed([WRITTEN[0] + WRITTEN[1] + b"data: c", b"d\n\n"], framing)
    with in_steps(*whole[:2], then=end) as server, ask(session, server) as response:
        events = response.iter_sse()
        server.step()
        assert [next(events), next(events)] == EVENTS[:2]
        server.step()
        with pytest.raises(ChunkedEncodingError, match=f"127.0.0.1:{server.port}") as caught:
            next(events)
        assert caught.value.response is response
        assert caught.value.bytes_received == len(WRITTEN[0] + WRITTEN[1] + b"data: c")
        assert next(events, None) is None


def test_compressed_data_that_breaks(session: Session) -> None:
    first, second, *_ = compressed("gzip")
    pieces = framed([first, second[:-6], b"\xff" * 50], "chunked", {**STREAM, "Content-Encoding": "gzip"})
    with in_steps(*pieces, then=Peer.wait_closed) as server, ask(session, server) as response:
        events = response.iter_sse()
        assert taken(server, events, 1) == EVENTS[:1]
        server.step(4)
        with pytest.raises(DecompressionError) as caught:
            list(events)
        assert caught.value.response is response


def test_a_silence_is_a_read_timeout(session: Session) -> None:
    with in_steps(*framed(WRITTEN, "chunked")[:2], then=Peer.wait_closed) as server:
        server.step(2)
        response = session.get(server.url, stream=True, timeout=Timeouts(read=0.5))
        events = response.iter_sse()
        assert next(events) == EVENTS[0]
        with pytest.raises(ReadTimeout):
            next(events)
        assert next(events, None) is None


@pytest.mark.parametrize("framing", FRAMINGS)
def test_close_wakes_it(session: Session, framing: str) -> None:
    """From another thread, while it waits for an event."""
    waits = threading.Event()

    def iterate(response: Response) -> None:
        events = response.iter_sse()
        assert next(events) == EVENTS[0]
        waits.set()
        next(events)

    with in_steps(*framed(WRITTEN, framing)[:2], then=Peer.wait_closed) as server, ThreadPoolExecutor(1) as threads:
        response = ask(session, server)
        server.step(2)
        iterating = threads.submit(iterate, response)
        assert waits.wait(10)
        response.close()
        error = iterating.exception(10)
        assert isinstance(error, Cancelled), error
        assert error.response is response


def test_leaving_the_response_closes_the_connection(session: Session) -> None:
    closings: list[str] = []

    def then(peer: Peer) -> None:
        closings.append(peer.wait_closed())

    with in_steps(*framed(WRITTEN, "chunked")[:2], then=then) as server:
        with ask(session, server) as response:
            server.step(2)
            for event in response.iter_sse():
                assert event == EVENTS[0]
                break
        server.wait_until_idle()
        assert len(closings) == 1


# ------------------------------------------------------------------------------------------------- pushing back


def test_a_slow_consumer_holds_up_the_server(new_session: Callable[..., Session]) -> None:
    """What waits is one piece for the decoder, what the watermark allows, and what the kernel has taken."""
    count, data = 400, "a" * 10_000
    sent = 0

    def script(peer: Peer) -> None:
        nonlocal sent
        peer._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        peer.read_request()
        peer.send(reply_head(200, {**STREAM, "Transfer-Encoding": "chunked"}))
        for number in range(count):
            peer.send(chunk(encode(ServerSentEvent(data=data, id=str(number)))))
            sent += 1
        peer.send(last_chunk())

    marks = Watermarks(receive_high=20_000, receive_low=10_000)
    options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)]
    session = new_session(watermarks=marks, socket_options=options)
    with ScriptedServer(script) as server, ask(session, server) as response:
        numbers = (int(event.id) for event in response.iter_sse())
        for number in range(4):
            assert next(numbers) == number
            for _ in range(50):  # moments in which the others have their turn
                threading.Event().wait(0.001)
            # Of 4 MB a tenth: what the decoder has, what waits for it, and the buffers of the kernel.
            assert sent < count / 10
        assert list(numbers) == list(range(4, count))

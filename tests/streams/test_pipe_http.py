"""pipe with responses and uploads, over real sockets, plain and TLS: from server to server, and what each end and each
limit does to the other end. After an error neither server is left with an open connection."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from syncflow import (
    Cancelled,
    ChunkedEncodingError,
    ConnectionError,
    DecompressionError,
    EarlyResponse,
    ReadTimeout,
    Response,
    Session,
    SessionClosed,
    StreamConsumedError,
    Timeouts,
    TotalTimeout,
    Upload,
    WriteTimeout,
    streams,
)
from syncflow.testing import (
    AppServer,
    Peer,
    Receiver,
    ScriptedServer,
    early_response,
    never_answers,
    pattern,
    pattern_sha256,
    reply_head,
    truncated,
)
from syncflow.testing import Response as Answer

SIZE = 3_000_000
MIXED = pattern(1_000_000) + bytes(2_000_000)  # can be packed, which a pattern cannot
ENDLESS = 1 << 40  # so much that no kernel holds it


@pytest.fixture
def session(ca_file: Path) -> Iterator[Session]:
    with Session(timeout=10) as session:
        session.verify = str(ca_file)
        yield session


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


# ------------------------------------------------------------------------------------------------ nothing is wrong


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("query", ["", "?chunked=1"])
def test_from_server_to_server(session: Session, tls: ssl.SSLContext | None, query: str, declared: bool) -> None:
    checksum, told = streams.digest(), []
    with Receiver(ssl_context=tls) as source, Receiver(ssl_context=tls) as target:
        with (
            session.get(f"{source.url}/bytes/{SIZE}{query}", stream=True) as response,
            session.upload("PUT", target.url, content_length=SIZE if declared else None) as up,
        ):
            moved = streams.pipe(response, checksum, sink=up, on_progress=lambda *what: told.append(what))
            assert up.tell() == moved == SIZE
        assert up.response.json() == {"bytes": SIZE, "sha256": pattern_sha256(SIZE), "trailers": {}}
        assert checksum.hexdigest() == pattern_sha256(SIZE)
        assert told[-1] == (SIZE, None if query else SIZE)
        # Both connections can be used again.
        assert session.get(f"{source.url}/bytes/5").content == pattern(5)
        assert session.put(target.url, data=b"more").json()["bytes"] == 4
        assert (source.connections, target.connections) == (1, 1)


def packed_answer(request: Any) -> Answer:
    return Answer(200, {"Content-Encoding": "gzip", "Content-Type": "text/plain"}, gzip.compress(MIXED))


def test_a_response_is_decoded_and_its_raw_is_not(session: Session) -> None:
    decoded, encoded = io.BytesIO(), io.BytesIO()
    with AppServer(packed_answer) as server:
        with session.get(server.url, stream=True) as response:
            assert streams.pipe(response, sink=decoded) == SIZE
        with session.get(server.url, stream=True) as response:
            assert streams.pipe(response.raw, sink=encoded) == len(encoded.getvalue()) < SIZE
        with session.get(server.url, stream=True) as response:
            assert streams.pipe(response.raw, streams.gunzip(), sink=io.BytesIO()) == SIZE
        assert server.connections == 1
    assert decoded.getvalue() == gzip.decompress(encoded.getvalue()) == MIXED


def test_files_gzipped_into_an_upload(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(MIXED)
    with AppServer() as server:
        with path.open("rb") as file, session.upload("PUT", server.url) as up:
            packed = streams.pipe(file, streams.gzip(1), sink=up)
        body = server.seen[0].body
    assert len(body) == packed < SIZE
    assert gzip.decompress(body) == MIXED


def test_several_pipes_into_one_upload(session: Session) -> None:
    with Receiver() as receiver, session.upload("PUT", receiver.url) as up:
        for source in ([b"one, "], b"two, ", io.BytesIO(b"three")):
            streams.pipe(source, sink=up)
        up.write(b".")
    assert up.response.json()["sha256"] == hashlib.sha256(b"one, two, three.").hexdigest()


def test_an_upload_pushes_back(session: Session) -> None:
    """While its server does not read, the source is not asked."""
    asked = 0

    def pieces() -> Iterator[bytes]:
        nonlocal asked
        for _ in range(1000):
            asked += 1
            yield bytes(65_536)

    with Receiver(pause_after=100_000) as receiver, ThreadPoolExecutor(1) as pool:
        with session.upload("PUT", receiver.url) as up:
            piping = pool.submit(streams.pipe, pieces(), sink=up)
            assert receiver.paused.wait(10)
            while up.wait_writable(0.2):  # until the kernel takes no more
                assert asked < 1000
            assert asked < 300
            receiver.resume()
            assert piping.result(10) == 1000 * 65_536
    assert up.response.json()["bytes"] == 1000 * 65_536


def test_a_slow_server_is_handed_on_as_it_speaks(session: Session) -> None:
    """By a response and by its raw file, though neither a chunk's size nor the end has come."""

    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(reply_head(200, {"Content-Length": "6"}))
            for piece in (b"abc", b"def"):
                peer.send(piece)
                peer.wait_step()

    with ScriptedServer(script) as server:
        for source in (lambda response: response, lambda response: response.raw):
            received = bytearray()

            def take(piece: bytes, received: bytearray = received) -> None:
                received.extend(piece)
                server.step(len(received) // 3 - (len(received) - len(piece)) // 3)

            with session.get(server.url, stream=True) as response:
                assert streams.pipe(source(response), sink=take) == 6
            assert received == b"abcdef"


# ------------------------------------------------------------------------------------------------ one end fails


def assert_given_up(target: Receiver) -> None:
    """The server of an upload has seen that the body is not whole, and has no connection left."""
    (receipt,) = target.wait_for_receipts(1)
    assert not receipt.complete
    target.wait_until_idle()


def error_of(function: Callable[[], object], expected: type[BaseException]) -> Any:
    """The error that comes out, which has no notes: nothing else went wrong."""
    with pytest.raises(expected) as caught:
        function()
    assert type(caught.value) is expected
    assert not hasattr(caught.value, "__notes__")
    return caught.value


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(65_536)


def pushed(session: Session, source: Any, url: str, *transforms: Any, **how: Any) -> None:
    """Pipes into an upload in the way that the documentation shows."""
    with session.upload("PUT", url, **how) as up:
        streams.pipe(source, *transforms, sink=up)


@pytest.mark.parametrize("raw", [False, True])
def test_a_sink_that_raises_ends_the_response(session: Session, tls: ssl.SSLContext | None, raw: bool) -> None:
    error = OSError("the disk is full")

    def take(data: bytes) -> None:
        raise error

    with Receiver(ssl_context=tls) as server:
        response = session.get(f"{server.url}/bytes/{ENDLESS}", stream=True)
        source = response.raw if raw else response
        assert error_of(lambda: streams.pipe(source, sink=take), OSError) is error
        server.wait_until_idle()
        with pytest.raises((Cancelled, StreamConsumedError, ValueError)):
            response.raw.read(1) if raw else response.content


@pytest.mark.parametrize("declared", [False, True])
def test_a_source_that_raises_ends_the_upload(session: Session, tls: ssl.SSLContext | None, declared: bool) -> None:
    """The server sees that the body is not whole, also where nobody had the upload in a block."""
    error = OSError("the disk cannot be read")

    def pieces() -> Iterator[bytes]:
        yield bytes(100_000)
        raise error

    with Receiver(ssl_context=tls) as receiver:
        for in_block in (True, False):
            up = session.upload("PUT", receiver.url, content_length=200_000 if declared else None)
            with up if in_block else contextlib.nullcontext():
                assert error_of(lambda: streams.pipe(pieces(), sink=up), OSError) is error  # noqa: B023
                # Inside the block: it was the pipe that has aborted.
                receiver.wait_for_receipts(2 - in_block)
                receiver.wait_until_idle()
                with pytest.raises((Cancelled, ValueError)):
                    up.finish()
        assert [receipt.complete for receipt in receiver.receipts] == [False, False]


@pytest.mark.parametrize("who", ["transform", "callback", "end of a transform"])
def test_an_error_between_two_servers_ends_both(session: Session, tls: ssl.SSLContext | None, who: str) -> None:
    error = ZeroDivisionError("a bug")

    class Buggy(streams.count):
        def process(self, data: bytes, /) -> bytes:
            if who == "transform" and self.bytes:
                raise error
            return super().process(data)

        def finish(self) -> bytes:
            raise error

    def on_progress(done: int, total: int | None) -> None:
        if who == "callback":
            raise error

    size = SIZE if who == "end of a transform" else ENDLESS
    with Receiver(ssl_context=tls) as source, Receiver(ssl_context=tls) as target:

        def run() -> None:
            response = session.get(f"{source.url}/bytes/{size}", stream=True)
            with session.upload("PUT", target.url) as up:
                streams.pipe(response, Buggy(), sink=up, on_progress=on_progress)

        assert error_of(run, ZeroDivisionError) is error
        assert_given_up(target)
        if size == ENDLESS:
            source.wait_until_idle()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_download_that_breaks_is_no_whole_upload(session: Session, tls: ssl.SSLContext | None, framing: Any) -> None:
    broken = truncated(bytes(500_000), missing=100_000, framing=framing, ssl_context=tls)
    with broken as source, Receiver(ssl_context=tls) as target:
        response = session.get(source.url, stream=True)
        error = error_of(lambda: pushed(session, response, target.url), ChunkedEncodingError)
        assert error.response is response
        assert_given_up(target)
        source.wait_until_idle()


def test_a_download_that_does_not_decode_is_no_whole_upload(session: Session) -> None:
    def answer(request: Any) -> Answer:
        return Answer(200, {}, gzip.compress(MIXED)[:-5])

    with AppServer(answer) as source, Receiver() as target:
        response = session.get(source.url, stream=True)
        error = error_of(lambda: pushed(session, response, target.url, streams.gunzip()), DecompressionError)
        assert "before its gzip data did" in str(error)
        assert_given_up(target)


def test_an_upload_whose_connection_is_lost_ends_the_download(session: Session, tls: ssl.SSLContext | None) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.read_exactly(10)
        peer.reset()

    with Receiver(ssl_context=tls) as source, ScriptedServer(script, ssl_context=tls) as target:
        response = session.get(f"{source.url}/bytes/{ENDLESS}", stream=True)
        error = error_of(lambda: pushed(session, response, target.url), ConnectionError)
        assert error.request.method == "PUT"
        source.wait_until_idle()


def test_both_ends_fail_at_once(session: Session) -> None:
    """The first error is raised; the second, which comes when the source is closed, is a note of it."""

    def pieces() -> Iterator[bytes]:
        try:
            yield from endless()
        finally:
            raise ValueError("a second one")

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.reset()

    with ScriptedServer(script) as target, pytest.raises(ConnectionError) as caught:
        pushed(session, pieces(), target.url)
    (note,) = caught.value.__notes__
    assert "while the pipe closed" in note
    assert "ValueError('a second one')" in note


def test_a_response_that_was_read_is_no_source(session: Session) -> None:
    with Receiver() as source, Receiver() as target:
        with session.get(f"{source.url}/bytes/{SIZE}", stream=True) as response:
            next(response.iter_content(10))
            error_of(lambda: pushed(session, response, target.url), StreamConsumedError)
        source.wait_until_idle()
        assert_given_up(target)


# ---------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("timeouts", "expected"),
    [(Timeouts(total=0.5), TotalTimeout), (Timeouts(write=0.3), WriteTimeout)],
)
def test_an_upload_that_stalls_ends_by_its_limits(
    session: Session, tls: ssl.SSLContext | None, timeouts: Timeouts, expected: type[BaseException]
) -> None:
    stalled = never_answers(reads=False, ssl_context=tls, receive_buffer=16_384)
    with Receiver(ssl_context=tls) as source, stalled as target:
        response = session.get(f"{source.url}/bytes/{ENDLESS}", stream=True)
        started = time.monotonic()
        error = error_of(lambda: pushed(session, response, target.url, timeout=timeouts), expected)
        assert time.monotonic() - started < 5
        assert error.request.method == "PUT"
        source.wait_until_idle()


@pytest.mark.parametrize(
    ("timeouts", "expected"),
    [(Timeouts(total=0.5), TotalTimeout), (Timeouts(read=0.3), ReadTimeout)],
)
def test_a_download_that_stalls_ends_by_its_limits(
    session: Session, tls: ssl.SSLContext | None, timeouts: Timeouts, expected: type[BaseException]
) -> None:
    with stalling(tls) as source, Receiver(ssl_context=tls) as target:
        response = session.get(source.url, stream=True, timeout=timeouts)
        started = time.monotonic()
        error = error_of(lambda: pushed(session, response, target.url), expected)
        assert time.monotonic() - started < 5
        assert error.request.method == "GET"
        assert_given_up(target)


def stalling(tls: ssl.SSLContext | None) -> ScriptedServer:
    """Sends a part of its answer, and nothing more."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "1000000"}) + bytes(1000))
        peer.wait_closed(60)

    return ScriptedServer(script, ssl_context=tls)


# ------------------------------------------------------------------------------------------------- other threads


class Piping:
    """A pipe that waits: for a server that stalls, or for one that does not read. Tells once it has begun to."""

    def __init__(self, session: Session, waits_for: str, tls: ssl.SSLContext | None) -> None:
        self._stack = contextlib.ExitStack()
        enter = self._stack.enter_context
        self.source: Any
        self.target: Any = enter(Receiver(ssl_context=tls, pause_after=100 if waits_for == "sink" else None))
        if waits_for == "sink":
            self.source = enter(Receiver(ssl_context=tls))
            self.response = session.get(f"{self.source.url}/bytes/{ENDLESS}", stream=True)
        else:
            self.source = enter(stalling(tls))
            self.response = session.get(self.source.url, stream=True)
        self.up: Upload = session.upload("PUT", self.target.url)
        self._moving = threading.Event()
        self._pool = enter(ThreadPoolExecutor(1))
        self._future = self._pool.submit(self._run)

    def _run(self) -> None:
        with self.up as up:
            streams.pipe(self.response, sink=up, on_progress=lambda done, total: self._moving.set())

    def ends_with(self, expected: type[BaseException], who: Callable[[], object]) -> None:
        """Once it moves, calls `who`, and asserts how it ends and that nothing is left."""
        with self._stack:
            assert self._moving.wait(10)
            if isinstance(self.source, Receiver):
                assert self.target.paused.wait(10)
                while self.up.wait_writable(0.1):
                    pass  # until it waits there
            who()
            error_of(lambda: self._future.result(10), expected)
            self.target.resume()
            self.source.wait_until_idle()
            assert_given_up(self.target)


@pytest.mark.parametrize("waits_for", ["source", "sink"])
def test_closing_the_session_ends_both(session: Session, tls: ssl.SSLContext | None, waits_for: str) -> None:
    Piping(session, waits_for, tls).ends_with(SessionClosed, session.close)


@pytest.mark.parametrize("waits_for", ["source", "sink"])
def test_closing_the_response_or_aborting_the_upload_ends_both(
    session: Session, tls: ssl.SSLContext | None, waits_for: str
) -> None:
    piping = Piping(session, waits_for, tls)
    piping.ends_with(Cancelled, piping.response.close if waits_for == "source" else piping.up.abort)


# ---------------------------------------------------------------------------------------------- an early answer


@pytest.mark.parametrize("then", ["close", "reset", "linger", "stall"])
def test_an_early_answer_is_kept_and_ends_the_source(session: Session, tls: ssl.SSLContext | None, then: Any) -> None:
    text = b"too large " * 2000
    early = early_response(413, then=then, after_bytes=100, body=text, ssl_context=tls)
    with Receiver(ssl_context=tls) as source, early as target:
        response = session.get(f"{source.url}/bytes/{ENDLESS}", stream=True)
        with session.upload("PUT", target.url) as up:
            error = error_of(lambda: streams.pipe(response, sink=up), EarlyResponse)
            source.wait_until_idle()
            raise error
        assert error.response is up.response
        assert up.response.status_code == 413
        assert up.response.content == text
        target.release()
        target.wait_until_idle()


@pytest.mark.parametrize("way", ["itself", "packed", "through a file"])
def test_the_block_swallows_an_early_answer(session: Session, way: str) -> None:
    with early_response(413, then="linger", after_bytes=100, body=b"too large") as target:
        with session.upload("PUT", target.url) as up:
            if way == "itself":
                streams.pipe(endless(), sink=up)
            elif way == "packed":
                streams.pipe(endless(), streams.gzip(0), sink=up)
            else:
                streams.pipe(endless(), sink=gzip.GzipFile(fileobj=up, mode="wb", compresslevel=0))
        assert (up.response.status_code, up.response.content) == (413, b"too large")


def test_a_later_error_does_not_spoil_an_early_answer(session: Session) -> None:
    """The program goes on after the answer, and something else goes wrong."""

    def pieces() -> Iterator[bytes]:
        raise ZeroDivisionError
        yield b""

    with early_response(413, then="linger", after_bytes=100, body=b"too large") as target:
        with pytest.raises(ZeroDivisionError), session.upload("PUT", target.url) as up:
            with pytest.raises(EarlyResponse):
                streams.pipe(endless(), sink=up)
            streams.pipe(pieces(), sink=up)
        assert (up.response.status_code, up.response.content) == (413, b"too large")


# --------------------------------------------------------------------------------------------- another's response


def test_a_response_of_requests_is_a_source(session: Session) -> None:
    requests = pytest.importorskip("requests")
    with Receiver() as source, Receiver() as target:
        with (
            requests.get(f"{source.url}/bytes/{SIZE}", stream=True) as response,
            session.upload("PUT", target.url) as up,
        ):
            told: list[Any] = []
            assert streams.pipe(response, sink=up, on_progress=lambda *what: told.append(what)) == SIZE
        assert up.response.json()["sha256"] == pattern_sha256(SIZE)
        assert told[-1] == (SIZE, SIZE)
    assert not isinstance(response, Response)

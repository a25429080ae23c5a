"""A connection without a protocol: both directions at once, each one's end, every failure, and who is woken by what.

Plain, over TLS whose directions end each on its own, and over an `SSLSocket`, as a response's connection is.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import itertools
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from syncflow import (
    Cancelled,
    ConnectionError,
    ReadTimeout,
    RequestException,
    SessionClosed,
    Timeouts,
    TotalTimeout,
    Watermarks,
    WriteTimeout,
)
from syncflow.engine import stream_life
from syncflow.engine.bytestream import ByteStream
from syncflow.engine.deadline import Deadline
from syncflow.engine.dialer import Dial
from syncflow.engine.origin import Origin
from syncflow.engine.worker import Worker
from syncflow.testing import Fault, FaultInjector, Peer, ScriptedServer, eventually, pattern
from syncflow.testing.scripted import Script

from ..concurrency import Call, at_once, forked
from .rig import PATIENCE, TOO_MUCH, has_waiters, is_receiver_blocked, is_sender_blocked, kill
from .test_faults import SLOW, slow

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("switching")]

NO_LIMIT = Timeouts(read=None, write=None)
USUAL = Watermarks()
SOON = 0.05
SMALL = Watermarks(high=5000, low=1000, receive_high=4000, receive_low=1000)


@dataclass(frozen=True)
class Line:
    """How the connections of a test go."""

    worker: Worker
    server: ssl.SSLContext | None
    client: ssl.SSLContext | None
    ends_each_way: bool = True

    def serve(self, script: Script, *, receive_buffer: int | None = None) -> ScriptedServer:
        return ScriptedServer(script, ssl_context=self.server, receive_buffer=receive_buffer)

    @contextmanager
    def to(
        self, server: ScriptedServer, timeouts: Timeouts = NO_LIMIT, watermarks: Watermarks = USUAL
    ) -> Iterator[ByteStream]:
        stream = self.open(server, timeouts, watermarks)
        try:
            yield stream
        finally:
            stream.fail(Cancelled("the test is over"))

    def open(self, server: ScriptedServer, timeouts: Timeouts = NO_LIMIT, watermarks: Watermarks = USUAL) -> ByteStream:
        """The limits hold for the stream only: under load, connecting may take longer than they allow."""
        origin = Origin("https" if self.client else "http", "127.0.0.1", server.port, self.client)
        dial = Dial(self.worker, origin, Deadline(NO_LIMIT), watermarks, ends_each_way=self.ends_each_way)
        transport, _ = dial.run()
        stream = ByteStream(transport, watermarks, Deadline(timeouts))
        transport.attach(stream)
        stream.start()
        return stream


@pytest.fixture(params=["plain", "tls", "sslsocket"])
def line(
    request: pytest.FixtureRequest, worker: Worker, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> Line:
    if request.param == "plain":
        return Line(worker, None, None)
    return Line(worker, server_tls, client_tls, request.param == "tls")


@pytest.fixture(params=["plain", "TLSv1.2", "TLSv1.3"])
def each_way(request: pytest.FixtureRequest, worker: Worker, server_tls: ssl.SSLContext, ca: Any) -> Line:
    """One whose directions end each on its own."""
    if request.param == "plain":
        return Line(worker, None, None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    context.maximum_version = ssl.TLSVersion[request.param.replace(".", "_")]
    return Line(worker, server_tls, context)


def pieces(peer: Peer) -> Iterator[bytes]:
    """What comes, as it comes, until the client ends."""
    while peer._reader.more():
        yield bytes(peer._reader.some())


def echo(peer: Peer) -> None:
    for piece in pieces(peer):
        peer.send(piece)


def ending(peer: Peer) -> str:
    """How the client has ended, as the kernel saw it: OpenSSL takes one for the other (before CPython 3.13, always)."""
    sock = peer._connection.sock
    sock.settimeout(PATIENCE)
    try:
        while socket.socket.recv(sock, 65536):
            pass
    except ConnectionResetError:
        return "reset"
    return "fin"


def stalls(peer: Peer) -> None:
    peer.stall()


def write(stream: ByteStream, data: bytes) -> None:
    stream.write(memoryview(data))


def read_exactly(stream: ByteStream, count: int, most: int = 1 << 16) -> bytes:
    parts = []
    while count:
        part = stream.read(min(count, most))
        assert part, f"the end came {count} bytes too early"
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


# ---------------------------------------------------------------------- bytes


@pytest.mark.parametrize("watermarks", [USUAL, SMALL], ids=["usual", "small"])
@pytest.mark.parametrize("block", [100_001, 999])
def test_both_directions_at_once(line: Line, watermarks: Watermarks, block: int) -> None:
    """All buffers are full most of the time, and the echo stops reading while we do not read."""
    size = 4_000_000 if block > 1000 else 200_000
    data = pattern(size)
    with line.serve(echo, receive_buffer=8192) as server, line.to(server, watermarks=watermarks) as stream:
        writer = Call(lambda: [write(stream, data[at : at + block]) for at in range(0, size, block)])
        assert read_exactly(stream, size, block) == data
        writer.result()
        assert stream.transport.payload_sent == stream.bytes_received == size
        stream.close()


def test_question_and_answer(line: Line) -> None:
    with line.serve(echo) as server, line.to(server) as stream:
        for size in (1, 10, 1000, 70_000):
            write(stream, pattern(size))
            assert read_exactly(stream, size) == pattern(size)
            assert stream.buffered == 0


def test_a_little_at_a_time(line: Line) -> None:
    """A buffer that is low is filled again by the worker, in the reader's absence."""
    size = 20_000

    def script(peer: Peer) -> None:
        peer.send(pattern(size))
        peer.stall()

    with line.serve(script) as server, line.to(server, watermarks=SMALL) as stream:
        got = b""
        while len(got) < size:
            eventually(lambda: stream.incoming.size > 0 or stream.transport.pending or not stream.transport.is_watched)
            got += stream.read(77)
            assert stream.incoming.size <= SMALL.receive_high
        assert got == pattern(size)


def test_several_writers_do_not_interleave(line: Line) -> None:
    size, count, rounds = 30_000, 4, 5

    def script(peer: Peer) -> None:
        seen = b"".join(pieces(peer)) if line.ends_each_way else peer.read_exactly(size * count * rounds)
        peer.send(bytes(len(list(group)) // size for _, group in itertools.groupby(seen)))
        peer.stall()

    with line.serve(script, receive_buffer=4096) as server, line.to(server, watermarks=SMALL) as stream:
        letters = [bytes([65 + index]) * size for index in range(count)]
        at_once(*(lambda letter=letter: [write(stream, letter) for _ in range(rounds)] for letter in letters))
        if line.ends_each_way:
            stream.shut_down_writing()
        runs = b""
        while sum(runs) < count * rounds:  # the same letter may have had two turns
            runs += stream.read(100)
        assert sum(runs) == count * rounds


def test_two_readers_get_everything_once(line: Line) -> None:
    size = 1_000_000

    def script(peer: Peer) -> None:
        peer.send(bytes(size))
        peer.half_close()
        peer.stall()

    def drain() -> int:
        return sum(map(len, iter(lambda: stream.read(1000), b"")))

    with line.serve(script) as server, line.to(server) as stream:
        assert sum(at_once(drain, drain, drain)) == size


# ---------------------------------------------------------------------- limits of the buffers


def test_a_writer_is_held_back(line: Line) -> None:
    size = 2_000_000

    def script(peer: Peer) -> None:
        peer.wait_step()
        peer.read_exactly(size + 3)
        peer.send(b"!")
        peer.stall()

    with line.serve(script, receive_buffer=4096) as server, line.to(server) as stream:
        stream.transport._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # less to write: a second less
        writer = Call(write, stream, bytes(size))
        eventually(lambda: is_sender_blocked(stream.transport))
        assert 0 < stream.buffered <= USUAL.high
        assert not stream.try_write(memoryview(b"x")), "another thread writes"
        assert not stream.wait_writable(0, SOON)
        assert not stream.flush(SOON)
        server.step()
        writer.result()
        assert stream.wait_writable(3, PATIENCE)
        assert stream.try_write(memoryview(b"end"))
        assert stream.flush(PATIENCE)
        assert stream.read(10) == b"!"


def test_a_writer_that_does_not_wait(line: Line) -> None:
    def script(peer: Peer) -> None:
        peer.wait_step()
        peer.send(hashlib.sha256(peer.read_exactly(written + 1000)).digest())
        peer.stall()

    written = 0
    digest = hashlib.sha256()
    with line.serve(script, receive_buffer=4096) as server, line.to(server, watermarks=SMALL) as stream:
        while stream.try_write(memoryview(pattern(1000, written))):
            digest.update(pattern(1000, written))
            written += 1000
            assert stream.buffered <= SMALL.high
        server.step()
        assert stream.wait_writable(1000, PATIENCE)
        assert stream.try_write(memoryview(bytes(1000)))
        digest.update(bytes(1000))
        assert read_exactly(stream, 32) == digest.digest()


def test_a_peer_is_held_back(line: Line) -> None:
    """What nobody reads is received up to the watermark; the rest stays where it is."""
    size = 8_000_000
    sent = threading.Event()

    def script(peer: Peer) -> None:
        peer._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        peer.send(pattern(size))
        sent.set()
        peer.stall()

    watermarks = replace(USUAL, receive_high=100_000)
    with line.serve(script) as server, line.to(server, watermarks=watermarks) as stream:
        eventually(lambda: not stream.transport.is_watched)
        assert stream.incoming.size == 100_000
        assert not sent.is_set()
        assert hashlib.sha256(read_exactly(stream, size)).digest() == hashlib.sha256(pattern(size)).digest()


# ---------------------------------------------------------------------- each direction's end


def test_we_end_and_the_peer_answers(each_way: Line) -> None:
    size = 3_000_000

    def script(peer: Peer) -> None:
        got = b"".join(pieces(peer))
        peer.send(hashlib.sha256(got).digest() + pattern(size))

    with each_way.serve(script) as server, each_way.to(server) as stream:
        write(stream, pattern(size))
        stream.shut_down_writing()
        stream.shut_down_writing()
        with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+: write after shutdown_write"):
            write(stream, b"x")
        assert stream.read_all() == hashlib.sha256(pattern(size)).digest() + pattern(size)
        assert stream.read(1) == b""
        assert not stream.is_over


@pytest.mark.parametrize("size", [100, 16_384, 3_000_000])
@pytest.mark.parametrize("taken", [0, 50])
def test_we_end_while_the_peer_sends(each_way: Line, size: int, taken: int) -> None:
    """Its bytes are in every place where bytes can be: decrypted, received, in the kernel, on their way."""

    def script(peer: Peer) -> None:
        peer.send(pattern(size))
        assert b"".join(pieces(peer)) == b"all there is"
        peer.send(b"behind it")

    with each_way.serve(script) as server, each_way.to(server, watermarks=SMALL) as stream:
        eventually(lambda: stream.incoming.size > taken)
        start = read_exactly(stream, taken)
        write(stream, b"all there is")
        stream.shut_down_writing()
        assert start + stream.read_all() == pattern(size) + b"behind it"


def test_the_end_itself_finds_no_room(each_way: Line) -> None:
    """The kernel is full: close_notify waits like any other byte, and reading goes on meanwhile."""

    def script(peer: Peer) -> None:
        peer.send(pattern(200_000))
        peer.wait_step()
        peer.send(hashlib.sha256(b"".join(pieces(peer))).digest())

    with each_way.serve(script, receive_buffer=4096) as server, each_way.to(server, watermarks=SMALL) as stream:
        digest = hashlib.sha256()
        while stream.try_write(memoryview(bytes(1000))):
            digest.update(bytes(1000))
        ending = Call(stream.shut_down_writing)
        eventually(lambda: is_sender_blocked(stream.transport))
        assert read_exactly(stream, 200_000) == pattern(200_000)
        assert not ending.ended
        server.step()
        ending.result()
        assert stream.read_all() == digest.digest()


def test_the_peer_ends_and_we_go_on(line: Line) -> None:
    size = 2_000_000

    has_ended = threading.Event()

    def script(peer: Peer) -> None:
        peer.half_close()
        has_ended.set()
        assert peer.read_exactly(size) == pattern(size)
        peer.wait_closed()

    with line.serve(script) as server, line.to(server) as stream:
        for _ in range(3):
            assert stream.read(100) == b""
        assert has_ended.wait(PATIENCE)  # OpenSSL's own socket on that side must not see bytes before
        write(stream, pattern(size))
        assert stream.read_all() == b""
        stream.close()
        server.wait_until_idle()


@pytest.mark.parametrize("sent", [0, 10, 100_000])
def test_an_end_in_the_middle(line: Line, sent: int) -> None:
    def script(peer: Peer) -> None:
        peer.send(pattern(sent))
        peer.close()

    with line.serve(script) as server, line.to(server) as stream:
        assert stream.read_all() == pattern(sent)
        assert stream.read(1) == b""


# ---------------------------------------------------------------------- failures of the peer's


def test_a_reset(line: Line) -> None:
    """What had been received is handed out first."""

    def script(peer: Peer) -> None:
        peer.send(pattern(1000))
        peer.wait_step()
        peer.reset()

    with line.serve(script) as server, line.to(server) as stream:
        assert stream.read(10) == pattern(10)
        server.step()
        server.wait_until_idle()
        assert read_exactly(stream, 990) == pattern(990, 10)
        errors = [fails(lambda: stream.read(1)), fails(lambda: stream.read(1)), fails(lambda: write(stream, b"x"))]
        assert {type(error) for error in errors} == {ConnectionError}
        assert len({id(error) for error in errors}) == 3
        for error in errors:
            assert str(error).startswith("127.0.0.1:")
            assert (error.phase, error.bytes_sent, error.bytes_received) == ("body", 0, 1000)
            assert isinstance(error.__cause__, OSError)
        eventually(lambda: stream.transport._sock.fileno() == -1)


def test_a_reset_that_a_writer_finds(line: Line) -> None:
    """What the peer had sent is in the kernel, and nobody has asked for it yet: it is not lost with the socket."""
    size = 20_000

    def script(peer: Peer) -> None:
        peer.send(b"x")
        peer.wait_step()
        peer.send(pattern(size))
        peer.reset()

    with line.serve(script) as server, line.to(server, watermarks=SMALL) as stream:
        assert stream.read(1) == b"x"
        with stream.transport.receiving:
            stream.transport.set_reading(False)  # as where a reader has come before
        server.step()
        server.wait_until_idle()
        error = fails(lambda: [write(stream, bytes(1000)) for _ in range(1000)])
        assert (type(error), error.phase) == (ConnectionError, "send")
        assert read_exactly(stream, size) == pattern(size)
        assert type(fails(lambda: stream.read(1))) is ConnectionError


def test_a_reset_of_one_who_only_writes(line: Line) -> None:
    """The worker has seen it."""

    def script(peer: Peer) -> None:
        peer.wait_step()
        peer.reset()

    with line.serve(script) as server, line.to(server) as stream:
        write(stream, b"x")
        server.step()
        eventually(lambda: stream.is_over)
        assert fails(lambda: write(stream, b"x")).bytes_sent == 1
        assert isinstance(fails(lambda: stream.flush(None)), ConnectionError)
        assert isinstance(fails(stream.shut_down_writing), ConnectionError)
        assert isinstance(fails(lambda: stream.try_write(memoryview(b"x"))), ConnectionError)
        assert stream.wait_writable(1, 0.0), "the next write says why"


def test_a_reset_wakes_reader_and_writer(line: Line) -> None:
    def script(peer: Peer) -> None:
        peer.wait_step()
        peer.reset()

    with line.serve(script, receive_buffer=4096) as server, line.to(server) as stream:
        calls = [*blocked(stream, "reader"), *blocked(stream, "writer")]
        server.step()
        for call in calls:
            assert isinstance(call.error(), ConnectionError), call.error()


def test_a_reset_that_a_sender_was_told_of_is_no_end(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells once, and then shows an end. Here a sender is held between the call and its note of it."""
    line = Line(worker, None, None)
    shown = threading.Event()
    told = OSError("a reset")

    def script(peer: Peer) -> None:
        peer.wait_step()
        peer.reset()

    with line.serve(script) as server, line.to(server) as stream:
        receive = stream.transport.receive

        def receiving(most: int) -> bytes | None:
            data = b"" if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) else receive(most)
            if data == b"":
                shown.set()
            return data

        sock = stream.transport._sock
        monkeypatch.setattr(stream.transport, "receive", receiving)
        with stream.transport.sending:
            server.step()
            assert shown.wait(PATIENCE)
            reader = Call(stream.read, 1)
            stream.transport._sending_failed(told)
        error = reader.error()
        assert isinstance(error, ConnectionError)
        assert error.__cause__ is told


def test_what_came_before_a_failed_write_is_read(line: Line) -> None:
    """The peer answers, ends, and is gone before we have sent all."""

    def script(peer: Peer) -> None:
        peer.send(pattern(3000))
        peer.wait_step()
        peer.reset()

    with line.serve(script) as server, line.to(server) as stream:
        eventually(lambda: stream.incoming.size == 3000)
        server.step()
        server.wait_until_idle()
        with pytest.raises(ConnectionError):
            while True:
                write(stream, bytes(1000))
        assert read_exactly(stream, 3000) == pattern(3000)
        assert isinstance(fails(lambda: stream.read(1)), ConnectionError)


def test_tls_that_is_cut(line: Line) -> None:
    """An attacker can end a connection; only the peer can say that this was all."""

    def script(peer: Peer) -> None:
        peer.send(b"part")
        peer.half_close(close_notify=False)
        peer.stall()

    with line.serve(script) as server, line.to(server) as stream:
        if line.server is None:
            assert stream.read_all() == b"part"
            return
        assert read_exactly(stream, 4) == b"part"
        error = fails(lambda: stream.read(1))
        assert isinstance(error, ConnectionError)
        assert "the stream was cut" in str(error)
        assert isinstance(error.__cause__, ssl.SSLEOFError)


def fails(step: Callable[[], object]) -> RequestException:
    with pytest.raises(RequestException) as caught:
        step()
    return caught.value


# ---------------------------------------------------------------------- who is woken by what


def blocked(stream: ByteStream, who: str) -> list[Call[Any]]:
    """Two calls: one waits for the peer, and one for its turn."""
    call: Callable[[], object]
    if who == "reader":
        call, turns = lambda: stream.read(1), stream._readers
        first = Call(call)
        eventually(lambda: is_receiver_blocked(stream.transport))
    else:
        call, turns = lambda: write(stream, TOO_MUCH), stream._writers
        first = Call(call)
        eventually(lambda: is_sender_blocked(stream.transport))
    second = Call(call)
    eventually(lambda: has_waiters(turns.changed))
    return [first, second]


@pytest.mark.parametrize("who", ["reader", "writer", "both"])
@pytest.mark.parametrize("how", ["close", "fail", "session", "worker"])
def test_who_is_blocked_is_woken(line: Line, who: str, how: str) -> None:
    with line.serve(stalls, receive_buffer=4096) as server, line.to(server) as stream:
        calls = [call for kind in ("reader", "writer") if who in (kind, "both") for call in blocked(stream, kind)]
        expected: type[Exception] = Cancelled
        if how == "close":
            stream.close()
        elif how == "fail":
            stream.fail(Cancelled("127.0.0.1:0: aborted"))
        elif how == "session":
            stream.fail(SessionClosed("127.0.0.1:0: the session was closed"))
            expected = SessionClosed
        else:
            kill(line.worker, RuntimeError("a bug"))
            expected = ConnectionError
        errors = [call.error() for call in calls]
        assert {type(error) for error in errors} == {expected}, errors
        assert all(str(error).startswith("127.0.0.1:") for error in errors)
        assert type(fails(lambda: stream.read(1))) is expected
        assert type(fails(lambda: write(stream, b"x"))) is expected
        eventually(lambda: stream.transport._sock.fileno() == -1)


def test_after_the_worker_has_died_a_new_one_serves(line: Line) -> None:
    with line.serve(echo) as server:
        with line.to(server) as stream:
            kill(line.worker, RuntimeError("a bug"))
            assert "a bug" in str(fails(lambda: stream.read(1)))
        with line.to(server) as stream:
            write(stream, b"abc")
            assert read_exactly(stream, 3) == b"abc"


def test_an_interrupt_ends_the_stream(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    with line.serve(stalls) as server, line.to(server) as stream:

        def interrupted(timeout: float | None) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(stream.transport, "wait_here", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stream.read(1)
        assert "interrupted by KeyboardInterrupt" in str(fails(lambda: stream.read(1)))


def test_a_signals_handler_must_not_do_the_same_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    with line.serve(echo) as server, line.to(server) as stream:
        inner = stream.transport.write

        def interrupted(*args: Any, **kwargs: Any) -> bool:
            with pytest.raises(RuntimeError, match="signal's handler"):
                write(stream, b"inner")
            return inner(*args, **kwargs)

        monkeypatch.setattr(stream.transport, "write", interrupted)
        write(stream, b"outer")
        assert read_exactly(stream, 5) == b"outer"


# ---------------------------------------------------------------------- limits of time


@pytest.mark.parametrize(
    ("timeouts", "kind"),
    [
        (Timeouts(read=SOON), ReadTimeout),
        (Timeouts(read=None, total=0.3), TotalTimeout),
        (Timeouts(read=PATIENCE, total=0.3), TotalTimeout),
    ],
    ids=["read", "total", "both"],
)
def test_a_silent_peer(line: Line, timeouts: Timeouts, kind: type[Exception]) -> None:
    with line.serve(stalls) as server, line.to(server, timeouts) as stream:
        calls = [Call(stream.read, 1), Call(stream.read, 1)]
        assert [type(call.error()) for call in calls] == [kind, kind]
        error = fails(lambda: write(stream, b"x"))
        assert type(error) is kind
        assert error.phase == "body"


@pytest.mark.parametrize(
    ("timeouts", "kind"),
    [(Timeouts(write=SOON), WriteTimeout), (Timeouts(write=None, total=0.3), TotalTimeout)],
    ids=["write", "total"],
)
@pytest.mark.parametrize("how", ["write", "flush", "wait_writable", "close"])
def test_a_peer_that_takes_nothing(line: Line, timeouts: Timeouts, kind: type[Exception], how: str) -> None:
    with line.serve(stalls, receive_buffer=4096) as server, line.to(server) as stream:
        if how != "write":
            while stream.try_write(memoryview(bytes(20_000))):
                pass
        stream._deadline = Deadline(timeouts)  # not before: to fill the kernel takes its time
        steps: dict[str, Callable[[], object]] = {
            "write": lambda: write(stream, TOO_MUCH),
            "flush": lambda: stream.flush(None),
            "wait_writable": lambda: stream.wait_writable(USUAL.high, None),
            "close": stream.close,
        }
        error = fails(steps[how])
        assert type(error) is kind
        assert error.phase == "send"
        assert error.bytes_sent == stream.transport.payload_sent > 0
        assert type(fails(lambda: stream.read(1))) is kind
        stream.close()  # it has been said


def test_the_whole_life_is_limited_though_everything_moves(line: Line) -> None:
    with line.serve(echo) as server, line.to(server, Timeouts(total=0.3)) as stream:

        def converse() -> None:
            while True:
                write(stream, b"x" * 100)
                read_exactly(stream, 100)

        assert isinstance(fails(converse), TotalTimeout)


# ---------------------------------------------------------------------- the end


def test_close_sends_what_was_written(line: Line) -> None:
    size = 300_000
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.wait_step()
        got.append(peer.read_until_close())

    with line.serve(script, receive_buffer=4096) as server, line.to(server) as stream:
        written = 0
        while stream.try_write(memoryview(pattern(5000, written))):
            written += 5000
        assert stream.buffered
        closing = Call(stream.close)
        eventually(lambda: is_sender_blocked(stream.transport))
        another = Call(stream.close)
        another.result()  # it does not spoil the first one's work
        assert not closing.ended
        server.step()
        closing.result()
        stream.close()
        server.wait_until_idle()
    assert got == [pattern(written)]
    assert written > size


def test_close_wakes_the_reader_once_all_is_sent(line: Line) -> None:
    with line.serve(lambda peer: peer.wait_closed()) as server, line.to(server) as stream:
        reader = Call(stream.read, 1)
        eventually(lambda: is_receiver_blocked(stream.transport))
        write(stream, b"x")
        stream.close()
        assert "the stream was closed" in str(reader.error())
        assert isinstance(reader.error(), Cancelled)


@pytest.mark.parametrize("how", ["close", "fail"])
@pytest.mark.parametrize("reader", [False, True], ids=["alone", "read"])
def test_what_the_peer_sees(line: Line, how: str, reader: bool) -> None:
    """An end, or a reset: what was called off must not look complete."""
    seen: list[str] = []

    def script(peer: Peer) -> None:
        peer.send(b"x")  # behind TLS's session tickets, which would be unread, and make a reset of any end
        peer.read_exactly(4)
        seen.append(ending(peer))

    with line.serve(script) as server, line.to(server) as stream:
        assert stream.read(1) == b"x"
        write(stream, b"part")
        call = Call(stream.read, 1) if reader else None
        if call is not None:
            eventually(lambda: is_receiver_blocked(stream.transport))
        server.wait_for_connections(1)
        stream.flush(None)
        if how == "close":
            stream.close()
        else:
            stream.fail(Cancelled("127.0.0.1:0: aborted"))
        if call is not None:
            assert isinstance(call.error(), Cancelled)
        server.wait_until_idle()
    assert seen == ["fin" if how == "close" else "reset"]


def test_close_is_a_proper_end_for_tls(line: Line) -> None:
    """The peer is told by close_notify; without, it would see a cut."""
    ended: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.read_exactly(4)
        sock = peer._connection.sock
        if isinstance(sock, ssl.SSLSocket):
            assert not sock.suppress_ragged_eofs
        ended.append(sock.recv(1))

    def strict(peer: Peer) -> None:
        sock = peer._connection.sock
        if isinstance(sock, ssl.SSLSocket):
            sock.suppress_ragged_eofs = False
        script(peer)

    with line.serve(strict) as server, line.to(server) as stream:
        write(stream, b"part")
        stream.close()
        server.wait_until_idle()
    assert ended == [b""]


@pytest.mark.parametrize("how", ["close", "fail"])
def test_whoever_finds_the_end_first(line: Line, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """A reader comes between the decision and what follows from it. It neither makes a proper end of what was called
    off, nor a cut of what was closed."""
    seen: list[str] = []
    fail = stream_life.StreamLife._fail

    def intruded(self: ByteStream, *args: Any, **kwargs: Any) -> bool:
        was_alive = fail(self, *args, **kwargs)
        if was_alive:
            assert type(fails(lambda: self.read(1))) is Cancelled
        return was_alive

    def script(peer: Peer) -> None:
        sock = peer._connection.sock
        if isinstance(sock, ssl.SSLSocket):
            sock.suppress_ragged_eofs = False
        peer.send(b"x")  # see `test_what_the_peer_sees`
        peer.read_exactly(4)
        if how == "fail":
            seen.append(ending(peer))
        else:
            seen.append("end" if sock.recv(1) == b"" else "more")

    with line.serve(script) as server, line.to(server) as stream:
        assert stream.read(1) == b"x"
        write(stream, b"part")
        server.wait_for_connections(1)
        monkeypatch.setattr(stream_life.StreamLife, "_fail", intruded)
        if how == "close":
            stream.close()
        else:
            stream.fail(Cancelled("127.0.0.1:0: aborted"))
        server.wait_until_idle()
        eventually(lambda: stream.transport._sock.fileno() == -1)
    assert seen == ["end" if how == "close" else "reset"]


def test_two_that_close_at_once(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one comes when the first has its turn, and has done nothing yet."""
    got: list[bytes] = []

    def finishing() -> bool:
        Call(stream.close).result()
        return finish()

    with line.serve(lambda peer: got.append(peer.read_until_close())) as server, line.to(server) as stream:
        write(stream, b"all")
        finish = stream._finish
        monkeypatch.setattr(stream, "_finish", finishing)
        stream.close()
        server.wait_until_idle()
    assert got == [b"all"]


def test_nobody_receives_for_one_that_is_over(line: Line) -> None:
    """While its last word waits for room, the worker would find the peer's bytes again and again."""
    with line.serve(stalls) as server, line.to(server) as stream:
        assert stream.transport.is_watched
        assert stream._fail(Cancelled("127.0.0.1:0: aborted"))
        assert not stream.transport.is_watched


@pytest.mark.parametrize("where", ["fail", "settle", "left"])
def test_an_interrupt_while_it_ends(line: Line, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """What was not done then is done by the next call at the latest: socket and place are free."""
    left: list[str] = []
    struck: list[str] = []

    def strike(name: str) -> None:
        if where == name and not struck:
            struck.append(name)
            raise KeyboardInterrupt

    def leave() -> None:
        strike("left")
        left.append("left")

    def failing(self: ByteStream, *args: Any, **kwargs: Any) -> bool:
        was_alive = fail(self, *args, **kwargs)
        strike("fail")
        return was_alive

    def settling(self: ByteStream) -> None:
        strike("settle")
        settle(self)

    fail, settle = stream_life.StreamLife._fail, stream_life.StreamLife._settle
    monkeypatch.setattr(stream_life.StreamLife, "_fail", failing)
    monkeypatch.setattr(stream_life.StreamLife, "_settle", settling)
    with line.serve(stalls) as server, line.to(server) as stream:
        stream._left = leave
        with pytest.raises(KeyboardInterrupt):
            stream.fail(Cancelled("127.0.0.1:0: aborted"))
        assert left == ["left"]
        eventually(lambda: stream.transport._sock.fileno() == -1)


def test_close_says_what_could_not_be_sent(line: Line) -> None:
    """A write took it, the peer never did, and no other call has said so."""

    def script(peer: Peer) -> None:
        peer.wait_step()
        peer.reset()

    with line.serve(script, receive_buffer=4096) as server, line.to(server) as stream:
        while stream.try_write(memoryview(bytes(10_000))):
            pass
        assert stream.buffered
        server.step()
        eventually(lambda: stream.is_over)
        assert isinstance(fails(stream.close), ConnectionError)
        stream.close()


def test_what_fails_after_all_was_sent_is_not_closes_business(line: Line) -> None:
    def script(peer: Peer) -> None:
        peer.read_exactly(4)
        peer.reset()

    with line.serve(script) as server, line.to(server) as stream:
        write(stream, b"last")
        eventually(lambda: stream.is_over)
        stream.close()


def test_one_that_is_dropped(line: Line) -> None:
    seen: list[str] = []

    def script(peer: Peer) -> None:
        peer.send(b"x")  # see above
        seen.append(ending(peer))

    with line.serve(script) as server:
        stream = line.open(server)
        assert stream.read(1) == b"x"
        transport = stream.transport
        stream.fail_from_finalizer()
        eventually(lambda: transport._sock.fileno() == -1)
        assert "was dropped before it was closed" in str(fails(lambda: stream.read(1)))
        server.wait_until_idle()
    assert seen == ["reset"]


def test_a_stream_that_is_over_is_garbage(line: Line) -> None:
    with line.serve(echo) as server:
        stream = line.open(server)
        gone = weakref.ref(stream)
        stream.close()
        del stream
        eventually(lambda: gc.collect() >= 0 and gone() is None)  # the worker may be in its last step for it still


# ---------------------------------------------------------------------- fork


def test_a_fork_leaves_it_to_the_parent(line: Line) -> None:
    with line.serve(echo) as server, line.to(server) as stream:
        write(stream, b"before")
        reader = Call(read_exactly, stream, 20)
        eventually(lambda: is_receiver_blocked(stream.transport))

        def child() -> list[Any]:
            told = [str(fails(step)) for step in (lambda: stream.read(1), lambda: write(stream, b"x"))]
            assert all("belongs to the parent" in text for text in told), told
            stream.close()
            return [stream.transport._sock.fileno(), len(line.worker._clients), line.worker._thread is None]

        assert forked(child)() == [-1, 0, True]
        write(stream, b" and after")
        write(stream, b"1234")
        assert reader.result() == b"before and after1234"


def test_forks_while_it_is_at_work(line: Line) -> None:
    size = 20_000
    stop = threading.Event()

    def converse() -> int:
        count = 0
        while not stop.is_set():
            write(stream, pattern(size))
            count += len(read_exactly(stream, size))
        return count

    with line.serve(echo) as server, line.to(server) as stream:
        call = Call(converse)
        for _ in range(5):
            eventually(lambda: stream.bytes_received > 0)
            assert "belongs to the parent" in forked(lambda: str(fails(lambda: stream.read(1))))()
        stop.set()
        assert call.result() > 0


# ---------------------------------------------------------------------- races


@pytest.mark.usefixtures("frantic")
@pytest.mark.parametrize("how", ["close", "fail"])
def test_an_end_in_the_middle_of_everything(line: Line, how: str) -> None:
    """Each ends, in what it was doing or with the word that it is over; and the descriptor with it."""

    def reads() -> str:
        try:
            while True:
                stream.read(5000)
        except RequestException as error:
            return type(error).__name__

    def writes() -> str:
        try:
            while True:
                write(stream, bytes(5000))
        except RequestException as error:
            return type(error).__name__

    def ends() -> str:
        eventually(lambda: stream.bytes_received > 10_000)
        if how == "close":
            stream.close()
        else:
            stream.fail(Cancelled("127.0.0.1:0: aborted"))
        return "Cancelled"

    with line.serve(echo) as server:
        for _ in range(15):
            with line.to(server, watermarks=SMALL) as stream:
                assert at_once(reads, writes, ends, reads, writes) == ["Cancelled"] * 5
                eventually(lambda: stream.transport._sock.fileno() == -1)


# ---------------------------------------------------------------------- system calls at their worst


@pytest.mark.parametrize("how", SLOW)
def test_whatever_the_kernel_takes_and_gives_at_once(each_way: Line, how: str) -> None:
    size = 3000
    with each_way.serve(echo) as server, FaultInjector() as faults:
        slow(faults, how)
        with each_way.to(server) as stream:
            writer = Call(lambda: [write(stream, pattern(size)), stream.shut_down_writing()])
            assert stream.read_all() == pattern(size)
            writer.result()
            stream.close()
        assert faults.calls["send"] > 1


def test_an_error_at_each_call_ends_in_the_end_or_an_exception(each_way: Line) -> None:
    outcomes = set()
    with each_way.serve(echo) as server, FaultInjector() as faults:
        for index in range(100):
            plan = faults.plan("send", "recv", fault=Fault.error(errno.ECONNRESET), at=index)
            try:
                with each_way.to(server, Timeouts(read=15, write=15)) as stream:
                    write(stream, pattern(20_000))
                    stream.shut_down_writing()
                    assert stream.read_all() == pattern(20_000)
                    stream.close()
                outcomes.add("end")
            except ConnectionError as error:
                assert str(error).startswith("127.0.0.1:")
                outcomes.add("exception")
            if not plan.struck.is_set():
                break
        else:
            raise AssertionError("the fault was always reached: the calls grow in number")
    assert outcomes == {"end", "exception"}

"""Duplex as a program uses it: a file of both kinds, made by `connect`. Where threads meet: engine/test_bytestream."""

from __future__ import annotations

import array
import gc
import hashlib
import io
import pickle
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from syncflow import (
    Cancelled,
    ConnectionError,
    ConnectTimeout,
    InvalidURL,
    ReadTimeout,
    SSLError,
    Timeouts,
    TotalTimeout,
    Watermarks,
    WriteTimeout,
)
from syncflow.engine.worker import Worker
from syncflow.streams.duplex import Duplex, connect
from syncflow.testing import Peer, ScriptedServer, eventually, full_backlog, never_answers, pattern, refused_port
from syncflow.testing.scripted import Script

HIGH = Watermarks().high
TOO_MUCH = bytes(24 << 20)
SOON = 0.05

To = Callable[..., Duplex]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


@pytest.fixture
def to(tls: ssl.SSLContext | None, client_tls: ssl.SSLContext) -> To:
    """Connects to a server of ours; `timeout` bounds a test that hangs."""

    def connected(server: ScriptedServer, **how: Any) -> Duplex:
        how.setdefault("timeout", 10)
        return connect("localhost", server.port, tls=False if tls is None else client_tls, **how)

    return connected


def serving(script: Script, tls: ssl.SSLContext | None, **how: Any) -> ScriptedServer:
    return ScriptedServer(script, ssl_context=tls, **how)


def echo(peer: Peer) -> None:
    while peer._reader.more():
        peer.send(bytes(peer._reader.some()))


def ending(peer: Peer) -> str:
    """How the client has ended, as the kernel saw it: OpenSSL takes one for the other (before CPython 3.13, always)."""
    sock = peer._connection.sock
    sock.settimeout(10)
    try:
        while socket.socket.recv(sock, 65536):
            pass
    except ConnectionResetError:
        return "reset"
    return "fin"


def stalls(peer: Peer) -> None:
    peer.stall()


# ---------------------------------------------------------------------- a file


def test_read_and_write(to: To, tls: ssl.SSLContext | None) -> None:
    with serving(echo, tls) as server, to(server) as stream:
        assert stream.write(b"question") == 8
        stream.flush()
        assert stream.read(3) == b"que"
        buffer = bytearray(10)
        assert stream.readinto(buffer) == 5
        assert bytes(buffer[:5]) == b"stion"
        assert stream.read(0) == b""
        assert stream.readinto(bytearray()) == 0
        assert stream.write(b"") == 0
        assert stream.buffered == 0
        assert stream.peer == ("127.0.0.1", server.port)
        assert (stream.readable(), stream.writable(), stream.seekable(), stream.closed) == (True, True, False, False)
        assert repr(stream) == f"<Duplex localhost:{server.port}>"
        stream.shutdown_write()
        assert stream.read() == b""
    assert stream.closed
    assert repr(stream) == f"<closed Duplex localhost:{server.port}>"


@pytest.mark.parametrize(
    "data", [b"abcd", bytearray(b"abcd"), memoryview(b"xabcdx")[1:5], array.array("H", [0x6261, 0x6463])]
)
def test_anything_with_a_buffer_is_written(to: To, tls: ssl.SSLContext | None, data: Any) -> None:
    with serving(echo, tls) as server, to(server) as stream:
        assert stream.write(data) == 4
        assert stream.try_write(data)
        stream.shutdown_write()
        assert stream.read() == b"abcdabcd"


@pytest.mark.parametrize("data", ["text", 5, None, memoryview(b"abcd")[::2]])
def test_anything_else_is_not(data: Any) -> None:
    with serving(echo, None) as server, connect("localhost", server.port) as stream:
        for write in (stream.write, stream.try_write):
            with pytest.raises(TypeError):
                write(data)
        stream.write(b"goes on")
        stream.shutdown_write()
        assert stream.read() == b"goes on"


def test_the_callers_buffer_is_its_own_again(to: To, tls: ssl.SSLContext | None) -> None:
    size, block = 2_000_000, 20_000
    buffer = bytearray(block)

    def script(peer: Peer) -> None:
        peer.send(hashlib.sha256(peer.read_until_close()).digest())

    with serving(script, tls, receive_buffer=4096) as server, to(server) as stream:
        for start in range(0, size, block):
            buffer[:] = pattern(block, start)
            stream.write(buffer)
            buffer[:] = bytes(block)
        stream.shutdown_write()
        assert stream.read() == hashlib.sha256(pattern(size)).digest()


def test_without_waiting(to: To, tls: ssl.SSLContext | None) -> None:
    def script(peer: Peer) -> None:
        peer.wait_step()
        peer.send(peer.read_until_close()[-3:])

    with serving(script, tls, receive_buffer=4096) as server, to(server) as stream:
        with pytest.raises(ValueError, match=rf"at most {HIGH} bytes at once \(Watermarks.high\), not {HIGH + 1}"):
            stream.try_write(bytes(HIGH + 1))
        while stream.try_write(bytes(10_000)):
            assert stream.buffered <= HIGH
        assert not stream.wait_writable(0.0)
        with pytest.raises(WriteTimeout, match=r"bytes were not handed to the system after 0\.05 s; the stream can go"):
            stream.flush(SOON)
        server.step()
        assert stream.wait_writable(10)
        assert stream.try_write(b"end")
        stream.flush()
        stream.shutdown_write()
        assert stream.read() == b"end"


def test_half_close(to: To, tls: ssl.SSLContext | None) -> None:
    def script(peer: Peer) -> None:
        peer.send(b"got " + peer.read_until_close())
        peer.half_close()
        peer.wait_step()

    with serving(script, tls) as server, to(server) as stream:
        stream.write(b"all")
        stream.shutdown_write()
        stream.shutdown_write()
        for write in (stream.write, stream.try_write):
            with pytest.raises(ValueError, match="write after shutdown_write"):
                write(b"x")
        assert stream.read() == b"got all"
        server.step()


def test_the_peers_half_close(to: To, tls: ssl.SSLContext | None) -> None:
    got: list[bytes] = []
    has_ended = threading.Event()

    def script(peer: Peer) -> None:
        peer.half_close()
        has_ended.set()
        got.append(peer.read_exactly(1_000_000))

    with serving(script, tls) as server:
        with to(server) as stream:
            assert stream.read() == b""
            assert has_ended.wait(10)  # OpenSSL's own socket on that side must not see bytes before
            stream.write(pattern(1_000_000))
        server.wait_until_idle()
    assert got == [pattern(1_000_000)]


def test_buffered_files_on_top(to: To, tls: ssl.SSLContext | None) -> None:
    def script(peer: Peer) -> None:
        for _ in range(3):
            peer.send(b"> " + bytes(peer._reader.through(b"\n")))
        peer.wait_closed()

    with serving(script, tls) as server, to(server) as stream:
        pair = io.BufferedRWPair(stream, stream)
        pair.write(b"first\nsecond\n")
        pair.flush()
        assert [pair.readline(), pair.readline()] == [b"> first\n", b"> second\n"]
        text = io.TextIOWrapper(pair, "utf-8", newline="\n", write_through=True)
        text.write("drítte\n")
        text.flush()
        assert text.readline() == "> drítte\n"
        text.close()
        assert stream.closed


def test_pickles_both_ways(to: To, tls: ssl.SSLContext | None) -> None:
    things = [{"a": list(range(20_000))}, "text", None]
    with serving(echo, tls) as server, to(server) as stream:
        reader, writer = io.BufferedReader(stream), io.BufferedWriter(stream)
        for thing in things:
            pickle.dump(thing, writer)
            writer.flush()
            assert pickle.load(reader) == thing
        writer.close()
        reader.close()


def test_copied_as_a_file(to: To, tls: ssl.SSLContext | None, pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    size = 3_000_000
    with serving(echo, tls) as server, to(server) as stream, (tmp_path / "copy").open("wb") as copy:
        copying = pool.submit(shutil.copyfileobj, stream, copy)
        shutil.copyfileobj(io.BytesIO(pattern(size)), stream)
        stream.shutdown_write()
        copying.result(10)
    assert (tmp_path / "copy").read_bytes() == pattern(size)


# ---------------------------------------------------------------------- the end


def test_a_closed_one_is_closed(to: To, tls: ssl.SSLContext | None) -> None:
    with serving(stalls, tls) as server:
        stream = to(server)
        stream.close()
        stream.close()
        stream.abort()
        stream.flush()
        calls: list[Callable[[], object]] = [
            lambda: stream.read(1),
            lambda: stream.readinto(bytearray(1)),
            lambda: stream.write(b"x"),
            lambda: stream.try_write(b"x"),
            stream.wait_writable,
            stream.shutdown_write,
            stream.__enter__,
        ]
        for call in calls:
            with pytest.raises(ValueError, match="I/O operation on a closed stream"):
                call()


def test_leaving_the_block(to: To, tls: ssl.SSLContext | None) -> None:
    """Closes; with an exception it aborts, and the peer can tell one from the other."""
    seen: list[str] = []

    def script(peer: Peer) -> None:
        peer.send(b"x")
        peer.read_exactly(4)
        seen.append(ending(peer))

    with serving(script, tls) as server:
        with to(server) as stream:
            assert stream.read(1) == b"x"
            stream.write(b"part")
        server.wait_until_idle()
        with pytest.raises(KeyError), to(server) as stream:
            assert stream.read(1) == b"x"
            stream.write(b"part")
            stream.flush()
            raise KeyError
        assert stream.closed
        server.wait_until_idle()
    assert seen == ["fin", "reset"]


def test_an_interrupt_before_it_has_begun_to_close(to: To, monkeypatch: pytest.MonkeyPatch, tls: Any) -> None:
    """It counts as closed, and so nobody would close it again."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    with serving(lambda peer: peer.wait_closed(), tls) as server:
        stream = to(server)
        monkeypatch.setattr(stream._stream, "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stream.close()
        assert stream.closed
        server.wait_until_idle()


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("who", ["reader", "writer"])
def test_another_thread_ends_it(
    to: To, tls: ssl.SSLContext | None, pool: ThreadPoolExecutor, who: str, how: str
) -> None:
    with serving(stalls, tls, receive_buffer=4096) as server, to(server) as stream:
        call = pool.submit(stream.read, 1) if who == "reader" else pool.submit(stream.write, TOO_MUCH)
        transport = stream._stream.transport
        eventually(lambda: transport._in_wait if who == "reader" else transport._writers)
        stream.close() if how == "close" else stream.abort()
        error = call.exception(10)
        assert isinstance(error, Cancelled)
        assert str(error) == f"localhost:{server.port}: the stream was {'closed' if how == 'close' else 'aborted'}"
        if how == "abort":
            with pytest.raises(Cancelled, match="aborted"):
                stream.read(1)


def test_a_buffered_reader_is_woken_too(to: To, tls: ssl.SSLContext | None, pool: ThreadPoolExecutor) -> None:
    with serving(stalls, tls) as server, to(server) as stream:
        reader = io.BufferedReader(stream)
        call = pool.submit(reader.readline)
        eventually(lambda: stream._stream.transport._in_wait)
        stream.close()
        assert isinstance(call.exception(10), Cancelled)
        reader.close()


def test_one_that_is_dropped_says_so(to: To, tls: ssl.SSLContext | None) -> None:
    with serving(lambda peer: peer.wait_closed(), tls) as server:
        with pytest.warns(ResourceWarning, match=rf"<Duplex localhost:{server.port}> was dropped before it was closed"):
            to(server)
        server.wait_until_idle()


@pytest.mark.parametrize("kind", [io.BufferedReader, io.BufferedWriter])
def test_one_below_a_file_that_is_dropped_says_so(to: To, tls: ssl.SSLContext | None, kind: Any) -> None:
    """And does not wait in a finalizer for a peer that takes nothing."""
    with serving(stalls, tls, receive_buffer=4096) as server:
        stream = to(server, timeout=None)
        while stream.try_write(bytes(10_000)):
            pass
        file = kind(stream)
        del stream
        with pytest.warns(ResourceWarning, match="was dropped before it was closed"):
            del file


def test_one_that_is_closed_or_has_failed_says_nothing(to: To, tls: ssl.SSLContext | None) -> None:
    with serving(stalls, tls) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        to(server).close()
        to(server).abort()
        with pytest.raises(ReadTimeout):
            to(server, timeout=Timeouts(read=SOON)).read(1)
        gc.collect()


def test_a_program_may_end_with_one_open() -> None:
    script = """
import sys
from syncflow.streams.duplex import connect
stream = connect("127.0.0.1", int(sys.argv[1]))
stream.write(b"x")
print(stream.read(1))
"""
    with serving(echo, None) as server:
        command = [sys.executable, "-c", script, str(server.port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert (ended.stdout, ended.stderr) == ("b'x'\n", "")


# ---------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("timeout", "kind"),
    [(Timeouts(read=SOON), ReadTimeout), ((10, SOON), ReadTimeout), (Timeouts(total=60), TotalTimeout)],
)
def test_a_silent_peer(to: To, tls: ssl.SSLContext | None, timeout: Any, kind: type[Exception]) -> None:
    with serving(stalls, tls) as server, to(server, timeout=timeout) as stream:
        deadline = stream._stream._deadline
        if deadline.at is not None:
            deadline.at = deadline.clock() + SOON  # most of it has passed
        with pytest.raises(kind, match=rf"localhost:{server.port}: "):
            stream.read(1)
        with pytest.raises(kind):
            stream.write(b"x")


def test_a_peer_that_takes_nothing(to: To, tls: ssl.SSLContext | None) -> None:
    with serving(stalls, tls, receive_buffer=4096) as server:
        with to(server, timeout=Timeouts(write=SOON)) as stream, pytest.raises(WriteTimeout, match=r"Timeouts\.write"):
            stream.write(TOO_MUCH)
        with pytest.raises(WriteTimeout), to(server, timeout=Timeouts(write=SOON)) as stream:
            while stream.try_write(bytes(10_000)):
                pass
        assert stream.closed


def test_setting_up_is_limited() -> None:
    with full_backlog() as endpoint, pytest.raises(ConnectTimeout, match=r"Timeouts\.connect"):
        connect("127.0.0.1", endpoint.port, timeout=Timeouts(connect=SOON))
    with never_answers() as server, pytest.raises(ConnectTimeout, match="TLS handshake"):
        connect("127.0.0.1", server.port, tls=True, timeout=Timeouts(connect=0.3))  # it must get so far


def test_memory_is_bounded_by_the_watermarks(to: To, tls: ssl.SSLContext | None) -> None:
    watermarks = Watermarks(high=3000, low=500, receive_high=2000, receive_low=500)

    def script(peer: Peer) -> None:
        peer.send(pattern(1_000_000))
        peer.wait_closed()

    with serving(script, tls) as server, to(server, watermarks=watermarks) as stream:
        eventually(lambda: stream._stream.incoming.size == 2000)
        got = hashlib.sha256()
        for _ in range(10_000):
            got.update(stream.read(100))
            assert stream._stream.incoming.size <= 2000
        with pytest.raises(ValueError, match="at most 3000"):
            stream.try_write(bytes(3001))


# ---------------------------------------------------------------------- connect


@pytest.mark.parametrize(
    ("host", "port", "how", "kind", "words"),
    [
        (None, 80, {}, TypeError, "host is a name"),
        (b"localhost", 80, {}, TypeError, "host is a name"),
        ("", 80, {}, InvalidURL, "has no host"),
        ("a/b", 80, {}, ValueError, "no name and no address"),
        ("user@host", 80, {}, ValueError, "no name and no address"),
        ("[::1]", 80, {}, ValueError, "one without brackets"),
        ("a b", 80, {}, InvalidURL, "no host may have"),
        ("a\r\nb", 80, {}, InvalidURL, "control character"),
        ("x..y", 80, {}, InvalidURL, "no host name"),
        ("localhost", "80", {}, TypeError, "port is a number"),
        ("localhost", True, {}, TypeError, "port is a number"),
        ("localhost", 0, {}, ValueError, "from 1 to 65535"),
        ("localhost", 65536, {}, ValueError, "from 1 to 65535"),
        ("localhost", 80, {"tls": 1}, TypeError, "tls= is True, False or"),
        ("localhost", 80, {"tls": None}, TypeError, "tls= is True, False or"),
        ("localhost", 80, {"tls": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, ValueError, "a client's context"),
        ("localhost", 80, {"timeout": -1}, ValueError, "more than 0 seconds"),
        ("localhost", 80, {"watermarks": 65536}, TypeError, "watermarks="),
    ],
)
def test_what_makes_no_sense_is_refused(host: Any, port: Any, how: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        connect(host, port, **how)


def test_nobody_is_there() -> None:
    with refused_port() as endpoint, pytest.raises(ConnectionError, match=f"127.0.0.1:{endpoint.port}"):
        connect("127.0.0.1", endpoint.port)


def test_a_server_is_verified(server_tls: ssl.SSLContext) -> None:
    """By certifi's authorities, of which ours is none."""
    with serving(stalls, server_tls) as server, pytest.raises(SSLError, match="certificate"):
        connect("localhost", server.port, tls=True)
    with serving(stalls, None) as server, pytest.raises((SSLError, ConnectTimeout)):
        connect("localhost", server.port, tls=True, timeout=Timeouts(connect=0.3))


def test_the_name_must_fit(ca: Any, client_tls: ssl.SSLContext) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("other.test").configure_cert(context)
    with serving(stalls, context) as server, pytest.raises(SSLError, match="(?i)mismatch"):
        connect("localhost", server.port, tls=client_tls)


@pytest.mark.parametrize("own_context", [True, False])
def test_no_protocol_is_announced(
    server_certificate: Any, ca: Any, monkeypatch: pytest.MonkeyPatch, own_context: bool, ca_file: Path
) -> None:
    """ALPN would promise HTTP (RFC 7301). The name is sent."""
    seen: list[tuple[str | None, str | None]] = []
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_certificate.configure_cert(server_context)
    server_context.set_alpn_protocols(["http/1.1", "mine"])
    names: list[str | None] = []
    server_context.sni_callback = lambda sock, name, context: names.append(name)

    def script(peer: Peer) -> None:
        sock = peer._connection.sock
        assert isinstance(sock, ssl.SSLSocket)
        seen.append((sock.selected_alpn_protocol(), names[-1]))

    context: Any = True
    if own_context:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ca.configure_trust(context)
        context.set_alpn_protocols(["mine"])
    else:
        monkeypatch.setattr("certifi.where", lambda: str(ca_file))
        from syncflow.engine import tls

        tls._context.cache_clear()
    try:
        with serving(script, server_context) as server, connect("localhost", server.port, tls=context) as stream:
            assert stream.read() == b""
    finally:
        if not own_context:
            tls._context.cache_clear()
    assert seen == [("mine" if own_context else None, "localhost")]


def test_a_worker_of_its_own(to: To, tls: ssl.SSLContext | None) -> None:
    worker = Worker("mine", linger=0.01)
    with serving(echo, tls) as server, to(server, worker=worker) as stream:
        assert stream._stream.transport.worker is worker
        stream.write(b"x")
        assert stream.read(1) == b"x"
    eventually(lambda: worker._thread is None)

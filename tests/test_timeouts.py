"""The limits of `Timeouts`: each has its own exception, that says how long; and what a slow server may do.

What is asserted of time is that a test ends at all, and that nothing ends sooner than it may.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from syncflow import (
    ConnectTimeout,
    PoolLimits,
    PoolTimeout,
    ReadTimeout,
    Response,
    Session,
    Timeout,
    Timeouts,
    TotalTimeout,
    WriteTimeout,
)
from syncflow.engine.deadline import Deadline
from syncflow.testing import (
    AppServer,
    Peer,
    Receiver,
    ScriptedServer,
    eventually,
    full_backlog,
    never_answers,
    reply,
    reply_head,
    trickle,
)

BIG = 32 << 20  # more than the kernel takes on both sides
SHORT = 0.15


@pytest.fixture
def session(ca_file: Path) -> Iterator[Session]:
    with Session(timeout=20) as session:
        session.verify = str(ca_file)
        yield session


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "file"
    with path.open("wb") as file:
        file.truncate(BIG)
    return path


def pieces(size: int = 50_000, total: int = BIG) -> Iterator[bytes]:
    for _ in range(0, total, size):
        yield bytes(size)


class At:
    """Measures that something took no less than it may."""

    def __init__(self, least: float) -> None:
        self._least = least

    def __enter__(self) -> At:
        self._begun = time.monotonic()
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert time.monotonic() - self._begun >= self._least


# ------------------------------------------------------------------------------------------- connect, pool


def test_connect(session: Session) -> None:
    with full_backlog() as port, At(SHORT):
        with pytest.raises(ConnectTimeout, match=r"connecting was not done after 0\.15 s \(Timeouts\.connect\)"):
            session.get(port.url, timeout=Timeouts(connect=SHORT))


def test_connect_holds_for_the_handshake_too(session: Session) -> None:
    with never_answers() as server, At(SHORT):
        with pytest.raises(ConnectTimeout, match=r"TLS handshake was not done after 0\.15 s") as caught:
            session.get(server.url.replace("http:", "https:"), timeout=Timeouts(connect=SHORT))
        assert caught.value.phase == "tls"


def test_connect_holds_for_names_too(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kw: asked.wait(10) and [])
    try:
        with pytest.raises(ConnectTimeout, match=r"nobody\.invalid:80: resolving the name was not done") as caught:
            session.get("http://nobody.invalid/", timeout=Timeouts(connect=SHORT))
        assert caught.value.phase == "dns"
    finally:
        asked.set()


def test_a_pair_gives_connect_and_read(session: Session) -> None:
    with full_backlog() as port:
        with pytest.raises(ConnectTimeout, match=r"0\.1 s"):
            session.get(port.url, timeout=(0.1, 20))
    with never_answers() as server:
        with pytest.raises(ReadTimeout, match=r"0\.1 s"):
            session.get(server.url, timeout=(20, 0.1))


def test_pool(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "1"}))
        peer.wait_step()
        peer.send(b"x")

    with ScriptedServer(script) as server, Session(timeout=20, pool=PoolLimits(per_host=1)) as session:
        with session.get(server.url, stream=True) as response:
            with At(SHORT), pytest.raises(PoolTimeout, match=r"in 0\.15 s \(Timeouts\.pool\), with 1 of 1 for this"):
                session.get(server.url, timeout=Timeouts(pool=SHORT))
            with pytest.raises(PoolTimeout):
                session.upload("PUT", server.url, timeout=Timeouts(pool=SHORT))
            server.step()
            assert response.content == b"x"


def test_an_overload_is_over_when_it_is_over() -> None:
    """Callers that gave up leave no trace in the queue."""
    busy = threading.Event()

    def app(request: Any) -> Any:
        assert busy.wait(10)
        from syncflow.testing import Response

        return Response()

    with AppServer(app) as server, Session(timeout=20, pool=PoolLimits(per_host=1)) as session:
        first = threading.Thread(target=lambda: session.get(server.url))
        first.start()
        server.wait_for_connections(1)
        for _ in range(5):
            with pytest.raises(PoolTimeout):
                session.get(server.url, timeout=Timeouts(pool=0.01))
        busy.set()
        first.join(10)
        for _ in range(5):
            assert session.get(server.url).ok
        assert server.connections == 1


# ------------------------------------------------------------------------------------------- read


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("stream", [False, True])
def test_read_while_the_head_is_awaited(
    session: Session, tls: ssl.SSLContext | None, method: str, stream: bool
) -> None:
    with never_answers(ssl_context=tls) as server, At(SHORT):
        with pytest.raises(ReadTimeout, match=r"sent nothing for 0\.15 s \(Timeouts\.read\)"):
            data = b"x" if method == "POST" else None
            session.request(method, server.url, data=data, stream=stream, timeout=Timeouts(read=SHORT))
        server.wait_until_idle()  # the connection was closed


@pytest.mark.parametrize("how", ["content", "iter_content", "iter_lines", "raw", "not a stream"])
def test_read_in_the_body(session: Session, tls: ssl.SSLContext | None, how: str) -> None:
    ways: dict[str, Callable[[Any], object]] = {
        "content": lambda response: response.content,
        "iter_content": lambda response: list(response.iter_content(10)),
        "iter_lines": lambda response: list(response.iter_lines(10)),
        "raw": lambda response: response.raw.read(),
    }

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "10"}) + b"abc")
        peer.stall()

    limits = Timeouts(read=SHORT)
    with ScriptedServer(script, ssl_context=tls) as server, At(SHORT):
        with pytest.raises(ReadTimeout, match=r"0\.15 s") as caught:
            if how == "not a stream":
                session.get(server.url, timeout=limits)
            else:
                with session.get(server.url, timeout=limits, stream=True) as response:
                    ways[how](response)
        assert caught.value.phase == "body"
        assert caught.value.bytes_received == 3
        assert caught.value.response is not None
        assert caught.value.response.status_code == 200
        assert not isinstance(caught.value, ConnectionError)


def test_read_is_for_silence_and_not_for_all(session: Session) -> None:
    """A server that sends a byte now and then is never silent for so long; together it takes longer."""
    with trickle(b"x" * 20, period=0.05) as server, At(1.0):
        assert session.get(server.url, timeout=Timeouts(read=0.9)).content == b"x" * 20


def test_informational_responses_are_no_silence(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send_slowly([reply_head(102)] * 20, period=0.05)
        peer.send(reply(200))

    with ScriptedServer(script) as server, At(1.0):
        assert session.get(server.url, timeout=Timeouts(read=0.9)).ok


def test_read_does_not_run_while_the_body_still_moves(
    session: Session, tls: ssl.SSLContext | None, tmp_path: Path
) -> None:
    """The kernel takes megabytes at once, and drains them for longer than the read timeout: neither the server's
    silence nor the full socket is a reason to give up, for bytes leave all the time."""
    rate, size = 1_000_000, 2_500_000
    limits = Timeouts(read=0.8, write=0.8)
    path = tmp_path / "file"
    path.write_bytes(bytes(size))

    def of_bytes() -> Response:
        return session.put(receiver.url, data=bytes(size), timeout=limits)

    def of_a_generator() -> Response:
        return session.put(receiver.url, data=pieces(total=size), timeout=limits)

    def of_a_file() -> Response:
        with path.open("rb") as file:
            return session.put(receiver.url, data=file, timeout=limits)

    def by_an_upload() -> Response:
        with session.upload("PUT", receiver.url, timeout=limits) as upload:
            upload.write(bytes(size))
        return upload.response

    ways = [of_bytes, of_a_generator, of_a_file, by_an_upload]
    with Receiver(rate=rate, hash=False, ssl_context=tls) as receiver, At(2 * 0.8), ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(way) for way in ways]:
            assert future.result().json()["bytes"] == size


def test_read_runs_once_the_body_has_left(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.stall()

    with ScriptedServer(script) as server, At(SHORT):
        with pytest.raises(ReadTimeout):
            session.put(server.url, data=pieces(total=1_000_000), timeout=Timeouts(read=SHORT, write=20))


# ------------------------------------------------------------------------------------------- write


def sending(how: str, session: Session, url: str, path: Path, limits: Timeouts) -> object:
    if how == "file":
        with path.open("rb") as file:
            return session.put(url, data=file, timeout=limits)
    if how == "upload":
        with session.upload("PUT", url, timeout=limits) as upload:
            return upload.write(bytes(BIG))
    if how == "pieces":
        with session.upload("PUT", url, timeout=limits) as upload:
            while True:
                upload.write(bytes(1000))
    if how == "head":  # all is written, and waits in the buffer while the head of the answer is awaited
        with session.upload("PUT", url, timeout=limits) as upload:
            while upload.try_write(bytes(10_000)):
                pass
            return upload.finish()
    if how == "wait_writable":
        with session.upload("PUT", url, timeout=limits) as upload:
            while upload.try_write(bytes(10_000)):
                pass
            return upload.wait_writable()
    return session.put(url, data=bytes(BIG) if how == "bytes" else pieces(), timeout=limits)


WAYS = ["bytes", "file", "generator", "upload", "pieces", "head", "wait_writable"]


@pytest.mark.parametrize("how", WAYS)
def test_write_that_moves_nothing(session: Session, tls: ssl.SSLContext | None, big_file: Path, how: str) -> None:
    limits = Timeouts(write=SHORT, read=20)
    with never_answers(reads=False, receive_buffer=4096, ssl_context=tls) as server, At(SHORT):
        with pytest.raises(
            WriteTimeout, match=r"took nothing of the request for 0\.15 s \(Timeouts\.write\)"
        ) as caught:
            sending(how, session, server.url, big_file, limits)
        assert caught.value.phase == "send"
        assert 0 < caught.value.bytes_sent < BIG
        assert caught.value.request is not None
        server.release()
        server.wait_until_idle()


@pytest.mark.parametrize("how", WAYS)
def test_without_a_limit_it_is_the_total_that_ends_it(session: Session, big_file: Path, how: str) -> None:
    limits = Timeouts(write=None, read=None, total=0.3)
    with never_answers(reads=False, receive_buffer=4096) as server, At(0.3):
        with pytest.raises(TotalTimeout, match=r"0\.3 s \(Timeouts\.total\)"):
            sending(how, session, server.url, big_file, limits)
        server.release()


def test_write_is_for_a_standstill_and_not_for_all(session: Session) -> None:
    """The server reads a little, and then a little more: together longer than the limit."""

    def script(peer: Peer) -> None:
        peer.read_head()
        for _ in range(30):
            peer.pause(0.05)
            peer.read_exactly(100_000)
        peer.send(reply(413, b"", {"Connection": "close"}))

    with ScriptedServer(script, receive_buffer=16384) as server, At(1.5):
        assert session.put(server.url, data=bytes(BIG), timeout=Timeouts(write=1.0, read=20)).status_code == 413


# ------------------------------------------------------------------------------------------- total


@pytest.mark.parametrize("stream", [False, True])
def test_total_cuts_a_trickle(session: Session, tls: ssl.SSLContext | None, stream: bool) -> None:
    """A byte a moment would satisfy every other limit for ever."""
    limits = Timeouts(read=20, total=0.4)
    with trickle(b"x" * 10_000, period=0.02, ssl_context=tls) as server, At(0.4):
        with pytest.raises(TotalTimeout) as caught:
            with session.get(server.url, stream=stream, timeout=limits) as response:
                for _ in response.iter_content(1):
                    pass
        assert caught.value.phase == "body"
        assert 0 < caught.value.bytes_received < 10_000


def test_total_cuts_a_head_that_trickles(session: Session) -> None:
    with trickle(b"x" * 10_000, period=0.02, head_too=True) as server, At(0.4):
        with pytest.raises(TotalTimeout) as caught:
            session.get(server.url, timeout=Timeouts(read=20, total=0.4))
        assert caught.value.phase == "head"


def test_total_cuts_an_upload_that_trickles(session: Session) -> None:
    with Receiver(rate=500_000, hash=False) as receiver, At(0.4):
        with pytest.raises(TotalTimeout):
            session.put(receiver.url, data=pieces(), timeout=Timeouts(total=0.4))


def endless(peer: Peer) -> None:
    peer.read_request()
    peer.send(reply_head(200))
    while True:
        peer.send(bytes(100_000))


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_total_cuts_a_server_that_never_stops_even_if_the_reader_is_the_slower(session: Session, size: int) -> None:
    """There is always something in the buffer, so that nobody ever has to wait."""
    with ScriptedServer(endless) as server, At(0.3):
        with session.get(server.url, stream=True, timeout=Timeouts(total=0.3)) as response:
            with pytest.raises(TotalTimeout):
                for _ in response.iter_content(size):
                    pass


def test_total_holds_over_all_of_it(session: Session) -> None:
    """Each phase stays under its own limit, and under the total; together they do not."""

    def script(peer: Peer) -> None:
        peer.pause(0.2)
        peer.read_request()
        peer.pause(0.2)
        peer.send(reply_head(200, {"Content-Length": "3"}))
        peer.send_slowly([b"a", b"b", b"c"], period=0.2)

    with ScriptedServer(script) as server, At(0.5):
        with pytest.raises(TotalTimeout):
            session.get(server.url, timeout=Timeouts(total=0.5))


def test_what_has_arrived_in_time_can_be_read_later(session: Session) -> None:
    with AppServer() as server:
        response = session.get(server.url, stream=True, timeout=Timeouts(total=20))
        eventually(lambda: response.timings.total is not None)  # the last byte is here
        response._exchange._deadline.at = 0.0  # and the time is over
        assert response.json()["method"] == "GET"


def test_total_holds_for_an_upload_until_the_body_of_its_answer(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "9"}))
        peer.stall()

    with ScriptedServer(script) as server, At(0.3):
        with session.upload("PUT", server.url, timeout=Timeouts(total=0.3)) as upload:
            upload.write(b"x")
        with pytest.raises(TotalTimeout):
            _ = upload.response.content


@pytest.mark.parametrize("way", ["write", "try_write", "pull"])
@pytest.mark.parametrize("before", [0, 1, 2], ids=["first", "second", "third"])
@pytest.mark.parametrize("size", [100, 5000, 100_000], ids=["gathered", "at once", "by turn"])
def test_total_ends_a_producer_who_never_has_to_wait(session: Session, way: str, before: int, size: int) -> None:
    """The server takes everything as it comes: no wait ever notices that the time is over."""
    if way == "try_write":
        size = min(size, 60_000)

    def produce(deadline: Deadline) -> Iterator[bytes]:
        for number in range(before + 1000):
            if number == before:
                deadline.at = 0.0
            yield b"x" * size
        pytest.fail("it went on and on")

    deadlines: list[Deadline] = []
    made = Deadline.__init__

    def keep(self: Deadline, *args: Any) -> None:
        made(self, *args)
        deadlines.append(self)

    with Receiver() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Deadline, "__init__", keep)
        limits = Timeouts(total=60)
        with pytest.raises(TotalTimeout) as caught:
            if way == "pull":
                pieces = (piece for _ in "x" for piece in produce(deadlines[-1]))
                session.put(server.url, data=pieces, timeout=limits)
            else:
                with session.upload("PUT", server.url, timeout=limits) as upload:
                    for piece in produce(deadlines[-1]):
                        getattr(upload, way)(piece)
        assert caught.value.phase == "send"
        assert not server.wait_for_receipts(1)[0].complete


# ------------------------------------------------------------------------------------------- none, and all at once


def test_no_limit_is_no_limit(session: Session) -> None:
    with trickle(b"x" * 10, period=0.05) as server:
        assert session.get(server.url, timeout=None).content == b"x" * 10


def test_whatever_it_was_is_a_timeout(session: Session) -> None:
    for limits in (Timeouts(read=SHORT), Timeouts(total=SHORT)):
        with never_answers() as server:
            with pytest.raises(Timeout):
                session.get(server.url, timeout=limits)


def test_after_a_timeout_the_next_request_is_answered(session: Session) -> None:
    """On another connection: the answer that comes too late must not be taken for that of the next request."""

    def script(peer: Peer) -> None:
        if peer.index == 0:
            peer.read_request()
            peer.wait_step()
            peer.send(reply(200, b"late"))
            return
        for _ in peer.requests():
            peer.send(reply(200, b"right"))

    with ScriptedServer(script) as server:
        with pytest.raises(ReadTimeout):
            session.get(server.url, timeout=Timeouts(read=SHORT))
        server.step()
        for _ in range(3):
            assert session.get(server.url).content == b"right"
        assert server.connections == 2

"""Bodies that go wrong on the way: they raise, they end too soon, they do not end. Nothing half-sent is used again."""

from __future__ import annotations

import io
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncflow import BodyLengthError, Session
from syncflow.testing import AppServer, Peer, Receiver, ScriptedServer, pattern


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=10) as session:
        yield session


class Broken(Exception):
    """What a body raises; syncflow does not know it."""


def breaking_generator(after: int) -> Iterator[bytes]:
    for start in range(0, after, 10_000):
        yield pattern(min(10_000, after - start), start)
    raise Broken


class BreakingFile(io.RawIOBase):
    def __init__(self, after: int, size: int) -> None:
        self._after, self._size, self._at = after, size, 0

    def tell(self) -> int:
        return self._at

    def seek(self, position: int, whence: int = 0) -> int:
        self._at = position + (self._size if whence == io.SEEK_END else 0)
        return self._at

    def read(self, size: int = -1) -> bytes:
        if self._at >= self._after:
            raise Broken
        block = pattern(min(size, self._after - self._at), self._at)
        self._at += len(block)
        return block


class BreakingIterable:
    def __iter__(self) -> Iterator[bytes]:
        raise Broken


SOURCES: dict[str, Callable[[int], Any]] = {
    "generator": breaking_generator,
    "file": lambda after: BreakingFile(after, after + 10),
    "iterable": lambda after: BreakingIterable(),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("after", [0, 5, 500_000])
@pytest.mark.parametrize("tls", [False, True])
def test_what_a_body_raises_reaches_the_caller_as_it_is(
    session: Session, server_tls: ssl.SSLContext, ca_file: Path, source: str, after: int, tls: bool
) -> None:
    with AppServer(ssl_context=server_tls if tls else None) as server:
        assert session.get(server.url, verify=ca_file).ok
        with pytest.raises(Broken) as caught:
            session.put(server.url, data=SOURCES[source](after), verify=ca_file)
        assert type(caught.value) is Broken
        assert caught.value.__cause__ is None
        assert not hasattr(caught.value, "request")
        server.wait_until_idle()  # the connection was dropped
        assert session.get(server.url, verify=ca_file).ok
        assert (server.connections, server.requests) == (2, 2)


def test_the_server_sees_no_end_of_the_body() -> None:
    """Neither the last chunk nor anything else that would make half a body look whole."""
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.read_head()
        got.append(peer.read_until_close())

    with ScriptedServer(script) as server, Session(timeout=10) as session:
        with pytest.raises(Broken):
            session.put(server.url, data=breaking_generator(5))
        server.wait_until_idle()
    assert got == [b"5\r\n" + pattern(5) + b"\r\n"]


def test_an_interrupt_in_a_body_is_no_exception_to_this(session: Session) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"abc"
        raise KeyboardInterrupt

    with AppServer() as server:
        with pytest.raises(KeyboardInterrupt):
            session.put(server.url, data=pieces())
        server.wait_until_idle()
        assert server.requests == 0


@pytest.mark.parametrize("piece", [5, None, object(), ["a"]])
def test_a_piece_that_is_no_bytes(session: Session, piece: Any) -> None:
    with AppServer() as server:
        with pytest.raises(TypeError):
            session.put(server.url, data=iter([b"abc", piece]))
        server.wait_until_idle()
        assert server.requests == 0


def test_a_generator_that_is_stopped_early_is_closed_with_the_request() -> None:
    closed = threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(65_536)
        finally:
            closed.set()

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with ScriptedServer(script) as server, Session(timeout=10) as session:
        response = session.put(server.url, data=pieces())
        assert response.status_code == 413
        del response
        assert closed.wait(10)


# ------------------------------------------------------------------------------------------- wrong lengths


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("pieces", "declared"), [([], 5), ([b"abc"], 5), ([b"abc", b"def"], 5), ([b"abcdef"], 5), ([b"a"], 0)]
)
def test_an_iterable_that_is_not_as_long_as_announced(
    session: Session, server_tls: ssl.SSLContext, ca_file: Path, pieces: list[bytes], declared: int, tls: bool
) -> None:
    with AppServer(ssl_context=server_tls if tls else None) as server:
        with pytest.raises(BodyLengthError, match=f"127.0.0.1:{server.port}.*{declared} were announced") as caught:
            session.put(server.url, data=iter(pieces), headers={"Content-Length": str(declared)}, verify=ca_file)
        assert isinstance(caught.value, ValueError)
        assert caught.value.phase == "send"
        assert caught.value.request is not None
        server.wait_until_idle()
        assert session.get(server.url, verify=ca_file).ok
        # A server that was announced nothing has got a whole request, of nothing.
        assert [request.body for request in server.seen] == ([b"", b""] if declared == 0 else [b""])
        assert server.connections == 2


class Resized:
    """A regular file that is cut or grows once the server has read a part of it."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        path.write_bytes(pattern(size))

    def on(self, receiver: Receiver, size: int) -> threading.Thread:
        def resize() -> None:
            receiver.paused.wait(10)
            os.truncate(self.path, size)
            receiver.resume()

        thread = threading.Thread(target=resize)
        thread.start()
        return thread


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("to", [9_000_000, 11_999_999, 12_000_001, 13_000_000])
def test_a_file_that_is_cut_or_grows_while_it_is_sent(
    session: Session,
    server_tls: ssl.SSLContext,
    ca_file: Path,
    tmp_path: Path,
    to: int,
    buffering: int,
    tls: bool,
) -> None:
    size = 12_000_000  # more than the buffers of the kernel on both sides, so that the end is not read yet
    file = Resized(tmp_path / "file", size)
    with Receiver(pause_after=1, ssl_context=server_tls if tls else None) as receiver:
        resizer = file.on(receiver, to)
        with file.path.open("rb", buffering=buffering) as opened:
            with pytest.raises(BodyLengthError) as caught:
                session.put(receiver.url, data=opened, verify=ca_file)
        resizer.join(10)
        error = caught.value
        assert f"127.0.0.1:{receiver.port}: the file" in str(error)
        assert ("before the 12000000" if to < size else "more than the 12000000") in str(error)
        assert error.phase == "send"
        assert error.request is not None
        assert error.bytes_sent < size
        (receipt,) = receiver.wait_for_receipts(1)
        assert not receipt.complete
        assert receipt.bytes < size


class Lying(io.BytesIO):
    """Says another length than it has."""

    def __init__(self, body: bytes, says: int) -> None:
        super().__init__(body)
        self._says = says

    def seek(self, position: int, whence: int = 0) -> int:
        return super().seek(self._says if whence == io.SEEK_END else position)


@pytest.mark.parametrize(("has", "says"), [(5, 6), (5, 4), (200_000, 200_001), (200_000, 100_000), (0, 1), (1, 0)])
def test_a_file_that_does_not_have_what_it_says(session: Session, has: int, says: int) -> None:
    with AppServer() as server:
        with pytest.raises(BodyLengthError):
            session.put(server.url, data=Lying(pattern(has), says))
        server.wait_until_idle()
        if says:
            assert server.requests == 0

"""Small pieces go together: in their order, soon, within the watermarks, and never as the unseen end of a body."""

from __future__ import annotations

import io
import random
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from syncflow import Cancelled, Session, Upload, Watermarks
from syncflow.bodies import writer as writer_module
from syncflow.bodies.writer import GATHERED, SMALL
from syncflow.testing import (
    AppServer,
    Peer,
    Receiver,
    ScriptedServer,
    chunk,
    eventually,
    never_answers,
    pattern,
    pattern_sha256,
)


@pytest.fixture
def session(ca_file: Path) -> Iterator[Session]:
    with Session(timeout=10) as session:
        session.verify = str(ca_file)
        yield session


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker does not come by itself."""
    monkeypatch.setattr(writer_module, "PATIENCE", 60.0)


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("way", ["write", "try_write", "mixed"])
def test_pieces_of_any_size_in_any_order(
    session: Session, tls: ssl.SSLContext | None, declared: bool, way: str
) -> None:
    dice = random.Random(7)
    sizes = [dice.choice([1, 10, 1000, SMALL, SMALL + 1, 20_000, 60_000]) for _ in range(600)]
    total = sum(sizes)
    with Receiver(ssl_context=tls) as receiver:
        with session.upload("PUT", receiver.url, content_length=total if declared else None) as up:
            for size in sizes:
                piece: Any = pattern(size, up.tell())
                if dice.random() < 0.3:
                    piece = bytearray(piece)
                if way == "write" or (way == "mixed" and dice.random() < 0.5):
                    up.write(piece)
                else:
                    while not up.try_write(piece):
                        assert up.wait_writable(10)
                if dice.random() < 0.02:
                    up.flush()
                    assert up.buffered == 0
                assert up.offset + up.buffered <= up.tell()
        assert up.response.json() == {"bytes": total, "sha256": pattern_sha256(total), "trailers": {}}


def test_those_of_a_generator_too(session: Session, tls: ssl.SSLContext | None) -> None:
    with Receiver(ssl_context=tls) as receiver:
        response = session.put(receiver.url, data=(pattern(100, 100 * n) for n in range(5000)))
        assert response.json()["sha256"] == pattern_sha256(500_000)


@pytest.mark.usefixtures("patient")
def test_the_first_goes_at_once_and_the_others_as_one_chunk(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.expect(chunk(b"first"))
        peer.expect(chunk(b"abc" * 100) + b"0\r\n\r\n")
        peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        peer.wait_closed()

    with ScriptedServer(script) as server:
        with session.upload("PUT", server.url) as up:
            up.write(b"first")
            assert (up.offset, up.buffered) == (5, 0)
            for _ in range(100):
                up.write(b"abc")
            assert (up.offset, up.buffered, up.tell()) == (5, 300, 305)
        assert up.response.status_code == 204


def test_the_worker_sends_what_nobody_follows(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.expect(chunk(b"first") + chunk(b"second"))
        peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        peer.wait_closed()

    with ScriptedServer(script) as server:
        with session.upload("PUT", server.url) as up:
            up.write(b"first")
            up.write(b"second")
            server.wait_until_idle()  # the script ends only when it has seen both, and the client has closed
        assert up.response.status_code == 403


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("end", ["flush", "wait_writable", "large", "finish", "close"])
def test_what_comes_behind_takes_it_along(session: Session, end: str) -> None:
    with AppServer() as server:
        with session.upload("PUT", server.url) as up:
            up.write(b"a")
            up.write(b"b")
            assert up.buffered == 1
            up.write(bytes(GATHERED + 1)) if end == "large" else getattr(up, end)()
            assert up.buffered == 0
        assert up.response.ok
        assert server.seen[-1].body[:2] == b"ab"


@pytest.mark.usefixtures("patient")
def test_the_last_piece_of_a_known_length_is_not_gathered(session: Session) -> None:
    """It ends the body, so it has to be sent as the end: the answer to it is not early."""
    with AppServer() as server:
        with session.upload("PUT", server.url, content_length=30) as up:
            for _ in range(3):
                up.write(b"0123456789")
            assert (up.offset, up.buffered) == (30, 0)
        assert up.response.request_complete
        assert server.seen[-1].body == b"0123456789" * 3


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("high", [100, 1000, 65_536, 1 << 20])
def test_it_counts_as_buffered(high: int) -> None:
    """A server that reads nothing: what is gathered and what waits are together never more than the high watermark."""
    most = 0

    def write_on(up: Upload) -> None:
        nonlocal most
        while True:
            up.write(b"x" * min(SMALL, max(30, high // 100)))
            most = max(most, up.buffered)

    with Session(timeout=None, watermarks=Watermarks(high=high, low=high // 4)) as session:
        with never_answers(reads=False, receive_buffer=4096) as server, ThreadPoolExecutor(1) as threads:
            up = session.upload("PUT", server.url)
            writing = threads.submit(write_on, up)
            transport = up._exchange._connection.transport
            eventually(lambda: transport._writers)
            assert transport.outgoing.size <= high + writer_module.FRAMING_SLACK
            up.abort()
            assert isinstance(writing.exception(10), Cancelled)
    assert high / 4 < most <= high


def test_no_more_is_gathered_than_said(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PATIENCE", 60.0)
    with Receiver() as receiver:
        with session.upload("PUT", receiver.url) as up:
            waiting = []
            for _ in range(3000):
                up.write(bytes(100))
                waiting.append(up._writer._waiting)
        assert up.response.json()["bytes"] == 300_000
    assert 30_000 < max(waiting) <= GATHERED


def test_a_buffered_writer_on_top_does_not_double_it(session: Session) -> None:
    with never_answers(reads=False, receive_buffer=4096) as server:
        up = session.upload("PUT", server.url, timeout=0.2)
        file = io.BufferedWriter(up, 8192)
        try:
            with pytest.raises(OSError, match="took nothing"):
                for _ in range(1_000_000):
                    file.write(bytes(1000))
            assert up.tell() - up.offset <= Watermarks().high + 8192
        finally:
            with pytest.raises(ValueError, match="finished"):
                file.close()

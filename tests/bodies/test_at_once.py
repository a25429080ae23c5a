"""Larger pieces are sent at once, without a turn, as long as the kernel takes them: what must still hold then."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from syncflow import BodyLengthError, ConnectionError, Session, Upload, Watermarks
from syncflow.bodies import BodyWriter
from syncflow.bodies import writer as writer_module
from syncflow.engine.transport import Transport
from syncflow.engine.turns import Turns
from syncflow.testing import AppServer, Receiver, eventually, never_answers, pattern, pattern_sha256

PIECE = bytes(10_000)


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=10) as session:
        yield session


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[Turns]:
    """Every turn that is taken."""
    taken: list[Turns] = []
    take = Turns.take

    def recording(self: Turns) -> bool:
        taken.append(self)
        return take(self)

    monkeypatch.setattr(Turns, "take", recording)
    return taken


def transport_of(up: Upload) -> Transport:
    return up._exchange._connection.transport


def is_idle(up: Upload) -> bool:
    with transport_of(up).sending:
        return transport_of(up).is_idle


@pytest.mark.parametrize("declared", [None, 1_000_000])
def test_it_takes_no_turn(session: Session, turns: list[Turns], declared: int | None) -> None:
    with AppServer() as server:
        with session.upload("PUT", server.url, content_length=declared) as up:
            up.write(PIECE)
            eventually(lambda: is_idle(up))
            turns.clear()
            up.write(PIECE)
            assert (turns, up.tell(), up.offset + up.buffered) == ([], 20_000, 20_000)
            for _ in range(98):
                up.write(PIECE)
        assert server.seen[-1].body == bytes(1_000_000)


def test_the_last_one_of_a_known_length_is_the_end(session: Session, turns: list[Turns]) -> None:
    """The answer to it is not early."""
    with AppServer() as server:
        with session.upload("PUT", server.url, content_length=30_000) as up:
            for _ in range(2):
                up.write(PIECE)
                eventually(lambda: is_idle(up))
            turns.clear()
            up.write(PIECE)
            assert turns
        assert up.response.request_complete
        assert server.seen[-1].body == bytes(30_000)


def test_too_much_is_refused(session: Session) -> None:
    with (
        AppServer() as server,
        pytest.raises(BodyLengthError),
        session.upload("PUT", server.url, content_length=15_000) as up,
    ):
        up.write(PIECE)
        up.write(PIECE)


def test_one_that_is_too_large_for_the_buffer_waits_for_its_turn(turns: list[Turns]) -> None:
    with Session(timeout=10, watermarks=Watermarks(high=8192, low=1024)) as session, AppServer() as server:
        with session.upload("PUT", server.url) as up:
            up.write(PIECE)
            eventually(lambda: is_idle(up))
            turns.clear()
            up.write(PIECE)
            assert turns
        assert server.seen[-1].body == bytes(20_000)


def test_nothing_waits_over_the_high_watermark(session: Session) -> None:
    most = 0
    with never_answers(reads=False, receive_buffer=4096) as server, ThreadPoolExecutor(1) as threads:
        up = session.upload("PUT", server.url, timeout=None)

        def write_on() -> None:
            nonlocal most
            while True:
                up.write(bytes(60_000))
                most = max(most, up.buffered)

        writing = threads.submit(write_on)
        eventually(lambda: transport_of(up)._writers)
        up.abort()
        assert writing.exception(10)
    assert most <= Watermarks().high


def test_what_is_gathered_behind_it_does_not_either(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PATIENCE", 60.0)
    most: list[int] = []
    with never_answers(reads=False, receive_buffer=4096) as server, ThreadPoolExecutor(1) as threads:
        up = session.upload("PUT", server.url, timeout=None)

        def write_on() -> None:
            while up.buffered < 10_000:
                up.flush()  # nothing is gathered
                up.write(b"room is made for others")
                up.write(bytes(50_000))
            while True:
                up.write(bytes(100))
                most.append(up.buffered)

        writing = threads.submit(write_on)
        eventually(lambda: transport_of(up)._writers)
        up.abort()
        assert writing.exception(10)
    assert most
    assert max(most) <= Watermarks().high


def test_what_was_refused_before_is_not_waited_for_any_more(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    wait_writable = BodyWriter.wait_writable

    def recording(self: BodyWriter, size: int, timeout: float | None) -> bool:
        asked.append(size)
        return wait_writable(self, size, timeout)

    monkeypatch.setattr(BodyWriter, "wait_writable", recording)
    with Receiver(pause_after=1) as receiver:
        with session.upload("PUT", receiver.url) as up:
            while up.try_write(bytes(60_000)):
                pass
            receiver.resume()
            assert up.wait_writable(10)
            up.write(PIECE)
            eventually(lambda: is_idle(up))
            assert up.try_write(PIECE)
            assert up.wait_writable(10)
    assert asked == [60_000, 0]


def test_a_connection_that_is_lost_under_it_is_told_at_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    with never_answers() as server:
        up = session.upload("PUT", server.url)
        up.write(PIECE)
        eventually(lambda: is_idle(up))

        def lost(self: Transport, pieces: list[memoryview]) -> int:
            raise ConnectionResetError("here")

        monkeypatch.setattr(Transport, "_send_some", lost)
        with pytest.raises(ConnectionError):
            up.write(PIECE)
        with pytest.raises(ValueError, match="finished"):
            up.write(PIECE)


@pytest.mark.parametrize("piece", [b"small", PIECE], ids=["small", "large"])
@pytest.mark.parametrize("way", ["write", "try_write", "finish"])
def test_a_signals_handler_does_not_write_into_it(
    session: Session, monkeypatch: pytest.MonkeyPatch, piece: bytes, way: str
) -> None:
    """It runs in the same thread, which has the lock; and the upload goes on."""
    send_some, refused = Transport._send_some, []

    def struck(self: Transport, pieces: list[memoryview]) -> int:
        monkeypatch.setattr(Transport, "_send_some", send_some)
        with pytest.raises(RuntimeError, match="handler"):
            up.finish() if way == "finish" else getattr(up, way)(piece)
        refused.append(way)
        up.flush(0)  # harmless
        return send_some(self, pieces)

    with AppServer() as server:
        with session.upload("PUT", server.url) as up:
            up.write(PIECE)
            eventually(lambda: is_idle(up))
            monkeypatch.setattr(Transport, "_send_some", struck)
            up.write(b"x" * 10_000)
            up.write(b"the end")
        assert refused == [way]
        assert server.seen[-1].body == PIECE + b"x" * 10_000 + b"the end"


def test_threads_that_send_at_once_and_wait_for_turns(session: Session) -> None:
    """Pieces of all kinds: gathered, sent at once, larger than the buffer. Each carries its length and its bytes."""

    def marked(number: int, size: int) -> bytes:
        return b"%08d" % size + bytes([number]) * (size - 8)

    def produce(number: int, up: Upload) -> None:
        for count in range(60):
            up.write(marked(number, [20, 5000, 60_000, 100_000][(number + count) % 4]))

    with AppServer() as server, ThreadPoolExecutor(4) as threads:
        with session.upload("PUT", server.url) as up:
            for call in [threads.submit(produce, number, up) for number in range(4)]:
                call.result(30)
        body = server.seen[-1].body
    seen: dict[int, int] = {}
    at = 0
    while at < len(body):
        size = int(body[at : at + 8])
        piece = body[at : at + size]
        assert piece == marked(piece[-1], size)
        seen[piece[-1]] = seen.get(piece[-1], 0) + 1
        at += size
    assert seen == dict.fromkeys(range(4), 60)


def test_callbacks_are_told(session: Session) -> None:
    offsets: list[Any] = []
    with Receiver() as receiver:
        with session.upload("PUT", receiver.url, on_progress=lambda offset, total: offsets.append(offset)) as up:
            for number in range(20):
                up.write(pattern(10_000, 10_000 * number))
        assert up.response.json()["sha256"] == pattern_sha256(200_000)
    assert offsets[-1] == 200_000
    assert len(offsets) > 10

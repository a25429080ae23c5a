"""An upload that its callbacks drive: what they are told, in which order, on which thread, and how it ends."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from syncflow import (
    BodyLengthError,
    Cancelled,
    EarlyResponse,
    RequestException,
    Session,
    SessionClosed,
    Timeouts,
    TotalTimeout,
    Upload,
    Watermarks,
    WriteTimeout,
)
from syncflow import ConnectionError as SyncflowConnectionError
from syncflow.testing import (
    AppServer,
    Receiver,
    ScriptedServer,
    early_response,
    eventually,
    never_answers,
    pattern,
    pattern_sha256,
    refused_port,
)

PIECE = 20_000


@pytest.fixture
def session(ca_file: Path) -> Iterator[Session]:
    with Session(timeout=10) as session:
        session.verify = str(ca_file)
        yield session


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


class Program:
    """Writes `pieces` pieces of a pattern when asked to, and notes what it is told, and where."""

    def __init__(self, pieces: int, piece: int = PIECE) -> None:
        self.size = pieces * piece
        self._piece = piece
        self.told: list[str] = []
        self.offsets: list[int] = []
        self.progress: list[tuple[int, int | None]] = []
        self.errors: list[BaseException] = []
        self.threads: set[int] = set()
        self.depth = 0

    def callbacks(self) -> dict[str, Any]:
        return {
            name: self._noting(name, getattr(self, name))
            for name in ("on_ready", "on_writable", "on_drain", "on_error", "on_progress")
        }

    def _noting(self, name: str, callback: Any) -> Any:
        def called(*args: Any) -> Any:
            assert not self.depth or name == "on_error", f"{name} inside {self.told[-1]}"
            self.depth += 1
            self.threads.add(threading.get_ident())
            self.told.append(name)
            try:
                return callback(*args)
            finally:
                self.depth -= 1

        return called

    def on_ready(self, up: Upload) -> None:
        assert up.offset == up.tell() == 0

    def on_writable(self, up: Upload, offset: int) -> bool:
        self.offsets.append(offset)
        written = up.tell()
        if written < self.size:
            assert up.write(pattern(min(self._piece, self.size - written), written))
        return up.tell() < self.size

    def on_drain(self, up: Upload) -> None:
        assert up.buffered <= Watermarks().low

    def on_error(self, error: BaseException) -> None:
        self.errors.append(error)

    def on_progress(self, offset: int, total: int | None) -> None:
        self.progress.append((offset, total))


# -------------------------------------------------------------------------------------------- all goes well


@pytest.mark.parametrize("declared", [False, True])
def test_a_body_is_driven_to_its_end(session: Session, tls: ssl.SSLContext | None, declared: bool) -> None:
    program = Program(200)
    length = program.size if declared else None
    with Receiver(ssl_context=tls) as receiver:
        up = session.upload("PUT", receiver.url, content_length=length, **program.callbacks())
        response = up.run()
        assert response is up.response
        assert response.json()["sha256"] == pattern_sha256(program.size)
    assert program.told[0] == "on_ready"
    assert program.told.count("on_ready") == 1
    assert program.told.count("on_writable") == 200
    assert program.offsets == sorted(program.offsets)
    assert program.progress == sorted(set(program.progress))
    assert program.progress[-1] == (program.size, length)
    assert program.errors == []
    assert program.threads == {threading.get_ident()}


def test_in_a_block(session: Session) -> None:
    program = Program(3)
    with Receiver() as receiver:
        with session.upload("PUT", receiver.url, **program.callbacks()) as up:
            assert up.run().ok
            assert up.run().ok, "the response again"
        assert up.response.json()["bytes"] == program.size
    assert program.told.count("on_ready") == 1


def test_they_are_called_in_the_thread_that_runs_it(session: Session) -> None:
    program = Program(10)
    with Receiver() as receiver, ThreadPoolExecutor(1) as threads:
        up = session.upload("PUT", receiver.url, **program.callbacks())
        assert program.told == [], "nobody has driven it yet"
        assert threads.submit(up.run).result(30).ok
        assert program.threads == {threads.submit(threading.get_ident).result(30)}


def test_writable_means_under_the_low_watermark(session: Session, tls: ssl.SSLContext | None) -> None:
    """Of a server that reads slowly, every piece has to wait."""
    buffered: list[int] = []

    def on_writable(up: Upload, offset: int) -> bool:
        assert offset == up.offset
        buffered.append(up.buffered)
        return up.try_write(bytes(30_000)) and up.tell() < 3_000_000

    with Receiver(rate=10_000_000, ssl_context=tls) as receiver:
        up = session.upload("PUT", receiver.url, on_writable=on_writable)
        assert up.run().json()["bytes"] == 3_000_000
    assert max(buffered) <= Watermarks().low


def test_drained(session: Session, tls: ssl.SSLContext | None) -> None:
    """The server begins to read once the buffer is full."""
    drains: list[int] = []
    with Receiver(pause_after=1, ssl_context=tls) as receiver:

        def on_writable(up: Upload, offset: int) -> bool:
            while up.tell() < 30_000_000 and up.try_write(bytes(30_000)):
                pass
            if not drains:
                receiver.resume()
            return up.tell() < 30_000_000

        up = session.upload(
            "PUT", receiver.url, on_writable=on_writable, on_drain=lambda up: drains.append(up.buffered)
        )
        assert up.run().json()["bytes"] == 30_000_000
    assert drains
    assert max(drains) <= Watermarks().low


def test_what_never_fills_is_never_drained(session: Session) -> None:
    program = Program(5, 100)
    with Receiver() as receiver:
        session.upload("PUT", receiver.url, **program.callbacks()).run()
    assert "on_drain" not in program.told


def test_the_last_bytes_are_progress_too(session: Session) -> None:
    """They are told when they have left, though nothing is written any more, and nothing is told twice."""
    program = Program(1, 100)
    with Receiver() as receiver:
        session.upload("PUT", receiver.url, content_length=100, **program.callbacks()).run()
    assert program.progress == [(100, 100)]


def test_a_program_that_has_nothing_to_write_yet_is_asked_again(session: Session) -> None:
    asked = 0

    def on_writable(up: Upload, offset: int) -> bool:
        nonlocal asked
        asked += 1
        if asked == 5:
            up.write(b"late")
        return asked < 6

    with Receiver() as receiver:
        up = session.upload("PUT", receiver.url, on_writable=on_writable)
        assert up.run().json()["bytes"] == 4
    assert asked == 6


def test_a_program_that_finishes_by_itself(session: Session) -> None:
    def on_writable(up: Upload, offset: int) -> bool:
        up.write(b"all")
        up.finish(trailers={"X-Sum": "3"})
        return True

    with AppServer() as server:
        up = session.upload("PUT", server.url, headers={"Trailer": "X-Sum"}, on_writable=on_writable)
        assert up.run().json()["body"] == "all"
        assert server.seen[-1].trailers == {"x-sum": "3"}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_shorthands(session: Session, method: str) -> None:
    shorthand = getattr(session, f"{method.lower()}_stream")
    with AppServer() as server:
        with shorthand(server.url, headers={"X-Mine": "x"}, content_length=3) as up:
            up.write(b"abc")
        assert up.response.json()["method"] == method
        up = shorthand(server.url, on_writable=lambda up, offset: not up.write(b"abc"))
        assert up.run().json()["body"] == "abc"
        assert server.seen[0].headers["x-mine"] == "x"


# -------------------------------------------------------------------------------------------- driven by calls


def test_who_writes_is_told_as_well(session: Session, tls: ssl.SSLContext | None) -> None:
    program = Program(0)
    with Receiver(ssl_context=tls) as receiver:
        with session.upload("PUT", receiver.url, content_length=3_000_000, **program.callbacks()) as up:
            for _ in range(100):
                up.write(bytes(30_000))
    assert program.told[0] == "on_ready"
    assert "on_writable" not in program.told
    assert program.progress == sorted(set(program.progress))
    assert program.progress[-1] == (3_000_000, 3_000_000)
    assert program.threads == {threading.get_ident()}


# -------------------------------------------------------------------------------------------- what goes wrong


def test_run_needs_somebody_who_writes(session: Session) -> None:
    with Receiver() as receiver:
        with session.upload("PUT", receiver.url, on_progress=lambda *_: None) as up:
            with pytest.raises(TypeError, match="on_writable"):
                up.run()
        assert up.response.ok
        with session.upload("PUT", receiver.url) as up, pytest.raises(TypeError, match="on_writable"):
            up.run()


@pytest.mark.parametrize("callback", ["on_ready", "on_writable", "on_drain", "on_progress"])
def test_what_a_callback_raises_aborts(session: Session, callback: str) -> None:
    program = Program(1000, 100_000)
    callbacks = program.callbacks()
    callbacks[callback] = lambda *_: 1 / 0
    with AppServer() as server:
        up = session.upload("PUT", server.url, **callbacks)
        with pytest.raises(ZeroDivisionError) as caught:
            up.run()
        assert program.errors == [caught.value]
        server.wait_until_idle()
        assert server.requests == 0, "what looks whole is not"
        assert session.get(server.url).ok


def test_the_error_is_told_once_and_raised(session: Session) -> None:
    program = Program(1000, 100_000)
    with ScriptedServer(lambda peer: peer.read_exactly(1_000_000) and peer.reset()) as server:
        with pytest.raises(SyncflowConnectionError) as caught:
            with session.upload("PUT", server.url, **program.callbacks()) as up:
                up.run()
    assert program.errors == [caught.value]
    assert caught.value.request is up.request
    assert caught.value.bytes_sent > 0


def test_what_on_error_raises_is_not_lost(session: Session) -> None:
    def on_error(error: BaseException) -> None:
        raise KeyError("mine")

    with ScriptedServer(lambda peer: peer.read_head() and peer.reset()) as server:
        up = session.upload(
            "PUT", server.url, on_writable=lambda up, _: bool(up.write(bytes(100_000))), on_error=on_error
        )
        with pytest.raises(KeyError) as caught:
            up.run()
    assert isinstance(caught.value.__context__, SyncflowConnectionError)


def test_an_upload_that_cannot_begin(session: Session) -> None:
    program = Program(1)
    with refused_port() as nobody, pytest.raises(SyncflowConnectionError) as caught:
        session.upload("PUT", nobody.url, **program.callbacks())
    assert program.told == ["on_error"]
    assert program.errors == [caught.value]


@pytest.mark.parametrize("then", ["close", "reset", "linger"])
def test_an_early_answer_is_an_answer(session: Session, tls: ssl.SSLContext | None, then: Any) -> None:
    program = Program(10_000, 100_000)
    with early_response(413, then=then, after_bytes=50_000, ssl_context=tls) as server:
        response = session.upload("PUT", server.url, **program.callbacks()).run()
        assert response.status_code == 413
        assert not response.request_complete
        response.close()
    assert program.errors == []
    assert program.told.count("on_writable") < 1000


def test_an_early_answer_to_who_waits_to_write(session: Session) -> None:
    """It has nothing to write at all: it is told by nobody but the pause."""
    with early_response(403, after_bytes=0) as server:
        up = session.upload("PUT", server.url, on_writable=lambda up, offset: True)
        response = up.run()
        assert response.status_code == 403
        response.close()


def test_early_answer_of_another_upload_is_an_error(session: Session) -> None:
    with early_response(413) as refusing, AppServer() as server:

        def on_writable(up: Upload, offset: int) -> bool:
            with session.upload("PUT", refusing.url) as other:
                while True:
                    try:
                        other.write(bytes(100_000))
                    except EarlyResponse as error:
                        error.response.close()  # type: ignore[union-attr]
                        raise KeyError from error

        up = session.upload("PUT", server.url, on_writable=on_writable)
        with pytest.raises(KeyError):
            up.run()


def test_standing_still(session: Session, tls: ssl.SSLContext | None) -> None:
    program = Program(1000, 100_000)
    with never_answers(reads=False, receive_buffer=4096, ssl_context=tls) as server:
        up = session.upload("PUT", server.url, timeout=Timeouts(write=0.2), **program.callbacks())
        with pytest.raises(WriteTimeout, match=r"Timeouts\.write"):
            up.run()
    assert [type(error) for error in program.errors] == [WriteTimeout]


def test_progress_renews_the_write_timeout(session: Session) -> None:
    """All of it takes several times the limit, and never stands still for as long."""
    program = Program(20, 20_000)
    with Receiver(rate=400_000) as receiver:
        up = session.upload("PUT", receiver.url, timeout=Timeouts(write=0.4, read=10), **program.callbacks())
        assert up.run().json()["bytes"] == 400_000


def test_a_pause_is_not_the_servers_fault(session: Session) -> None:
    """It is longer than the write timeout, which is for a server that takes nothing of what there is."""
    asked = 0

    def on_writable(up: Upload, offset: int) -> bool:
        nonlocal asked
        asked += 1
        return asked < 8

    with Receiver() as receiver:
        up = session.upload("PUT", receiver.url, timeout=Timeouts(write=0.01, read=10), on_writable=on_writable)
        assert up.run().ok


def test_the_deadline_passes(session: Session) -> None:
    with never_answers(reads=False, receive_buffer=4096) as server:
        up = session.upload(
            "PUT",
            server.url,
            timeout=Timeouts(total=0.3),
            on_writable=lambda up, offset: bool(up.write(bytes(100_000))),
        )
        with pytest.raises(TotalTimeout):
            up.run()


def test_the_deadline_passes_while_there_is_nothing_to_write(session: Session) -> None:
    with never_answers() as server:
        up = session.upload("PUT", server.url, timeout=Timeouts(total=0.3), on_writable=lambda up, offset: True)
        with pytest.raises(TotalTimeout):
            up.run()


@pytest.mark.parametrize("how", ["abort", "close"])
@pytest.mark.parametrize("writes", [True, False])
def test_called_off_by_another_thread(session: Session, how: str, writes: bool) -> None:
    running = threading.Event()

    def on_writable(up: Upload, offset: int) -> bool:
        running.set()
        return bool(up.write(bytes(100_000))) if writes else True

    with never_answers(reads=False, receive_buffer=4096) as server, ThreadPoolExecutor(1) as threads:
        errors: list[BaseException] = []
        up = session.upload("PUT", server.url, timeout=None, on_writable=on_writable, on_error=errors.append)
        run = threads.submit(up.run)
        assert running.wait(10)
        up.abort() if how == "abort" else session.close()
        error = run.exception(10)
    assert isinstance(error, Cancelled if how == "abort" else SessionClosed)
    assert errors == [error]


def test_a_body_that_is_too_short(session: Session) -> None:
    program = Program(2, 100)
    with AppServer() as server:
        up = session.upload("PUT", server.url, content_length=300, **program.callbacks())
        with pytest.raises(BodyLengthError):
            up.run()
    assert [type(error) for error in program.errors] == [BodyLengthError]


def test_other_threads_may_produce(session: Session) -> None:
    """`run` waits, others write; `on_writable` only says when it is enough."""
    written = threading.Event()

    def produce(up: Upload) -> None:
        for _ in range(100):
            up.write(bytes(10_000))
        written.set()

    with Receiver() as receiver, ThreadPoolExecutor(1) as threads:
        up = session.upload("PUT", receiver.url, on_writable=lambda up, offset: not written.is_set())
        producer = threads.submit(produce, up)
        assert up.run().json()["bytes"] == 1_000_000
        producer.result(10)


def test_a_failure_between_two_turns_reaches_run(session: Session) -> None:
    """The connection is lost while the program computes: the next turn raises, nothing is lost in silence."""
    with ScriptedServer(lambda peer: peer.read_exactly(100) and peer.reset()) as server:

        def on_writable(up: Upload, offset: int) -> bool:
            up.write(bytes(1000))
            eventually(lambda: not up._exchange.may_send)
            return True

        up = session.upload("PUT", server.url, on_writable=on_writable)
        with pytest.raises(RequestException):
            up.run()

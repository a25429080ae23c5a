"""Several threads at one upload: what one call writes stays together, and what ends the upload reaches all of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from syncflow import Cancelled, EarlyResponse, Session, SessionClosed, Timeouts, Upload, WriteTimeout
from syncflow import ConnectionError as SyncflowConnectionError
from syncflow.bodies import writer as writer_module
from syncflow.engine.exchange import Exchange
from syncflow.testing import AppServer, Peer, ScriptedServer, early_response, eventually, never_answers, reply

BIG = 32 << 20


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=10) as session:
        yield session


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def blocked_writers(up: Upload, threads: ThreadPoolExecutor, count: int = 3) -> list[Future[int]]:
    """One that waits for the server, and others that wait for their turn."""
    first = threads.submit(up.write, bytes(BIG))
    eventually(lambda: up._exchange._connection.transport._writers)
    others = [threads.submit(up.write, bytes(BIG)) for _ in range(count - 1)]
    eventually(lambda: len(up._turns.changed._waiters) == count - 1)  # type: ignore[attr-defined]
    return [first, *others]


@pytest.mark.parametrize("size", [10, 5000, 200_000])
def test_what_one_call_writes_stays_together(session: Session, threads: ThreadPoolExecutor, size: int) -> None:
    with AppServer() as server:
        with session.upload("PUT", server.url) as up:
            calls = [threads.submit(up.write, b"%02d" % n * (size // 2)) for n in range(60)]
            assert [call.result(30) for call in calls] == [size] * 60
        assert up.response.ok
        body = server.seen[-1].body
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert sorted(pieces) == [b"%02d" % n * (size // 2) for n in range(60)]


def test_a_flush_of_another_thread_does_not_change_the_order(
    session: Session, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still between taking what was gathered and sending it, while the writer goes on."""
    monkeypatch.setattr(writer_module, "PATIENCE", 60.0)
    inside, go_on = threading.Event(), threading.Event()
    try_write = Exchange.try_write

    def slow(self: Exchange, *args: Any, **kwargs: Any) -> bool:
        inside.set()
        go_on.wait(0.3)
        return try_write(self, *args, **kwargs)

    with AppServer() as server:
        with session.upload("PUT", server.url) as up:
            up.write(b"first")
            up.write(b"gathered")
            assert up.buffered == len(b"gathered")
            monkeypatch.setattr(Exchange, "try_write", slow)
            flush = threads.submit(up.flush)
            assert inside.wait(10)
            up.write(bytes(10_000))
            go_on.set()
            flush.result(10)
        assert server.seen[-1].body == b"first" + b"gathered" + bytes(10_000)


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        (lambda up, session: up.abort(), Cancelled),
        (lambda up, session: session.close(), SessionClosed),
        (lambda up, session: None, WriteTimeout),
    ],
    ids=["abort", "session", "timeout"],
)
def test_what_ends_it_reaches_all(
    session: Session, threads: ThreadPoolExecutor, how: Callable[[Upload, Session], None], kind: type[Exception]
) -> None:
    limit = Timeouts(write=0.3 if kind is WriteTimeout else None, read=None)
    with never_answers(reads=False, receive_buffer=4096) as server:
        up = session.upload("PUT", server.url, timeout=limit)
        calls = blocked_writers(up, threads)
        how(up, session)
        errors = [call.exception(10) for call in calls]
        assert [type(error) for error in errors] == [kind] * 3
        assert len({id(error) for error in errors}) == 3, "each has one of its own"
        with pytest.raises(kind):  # this thread does not know yet
            up.finish()
        with pytest.raises(ValueError, match="finished"):
            up.write(b"x")


def test_a_reset_reaches_all(session: Session, threads: ThreadPoolExecutor) -> None:
    def script(peer: Peer) -> None:
        peer.read_exactly(1000)
        peer.wait_step()
        peer.reset()

    with ScriptedServer(script, receive_buffer=4096) as server:
        up = session.upload("PUT", server.url)
        calls = blocked_writers(up, threads)
        server.step()
        assert all(isinstance(call.exception(10), SyncflowConnectionError) for call in calls)


def test_an_early_answer_reaches_all(session: Session, threads: ThreadPoolExecutor) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.wait_step()
        peer.send(reply(413, b"no", {"Connection": "close"}))
        peer.wait_closed()

    with ScriptedServer(script, receive_buffer=4096) as server:
        with session.upload("PUT", server.url) as up:
            calls = blocked_writers(up, threads)
            server.step()
            errors = [call.exception(10) for call in calls]
            assert all(isinstance(error, EarlyResponse) and error.response is up.response for error in errors)
            up.write(b"x")  # the block swallows it
        assert up.response.content == b"no"


def test_finish_wakes_who_wants_to_write(session: Session, threads: ThreadPoolExecutor) -> None:
    """It waits for the answer meanwhile; a second `finish` waits with it, and gets the same response."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.wait_step()
        peer.send(reply(200, b"ok"))
        peer.wait_closed()

    with ScriptedServer(script) as server:
        up = session.upload("PUT", server.url)
        up.write(b"abc")
        finishes = [threads.submit(up.finish) for _ in range(3)]
        eventually(lambda: up._is_awaited)
        with pytest.raises(ValueError, match="finished"):
            threads.submit(up.write, b"x").result(10)
        assert not any(finish.done() for finish in finishes)
        server.step()
        assert all(finish.result(10) is up.response for finish in finishes)
        assert up.response.content == b"ok"


def test_a_finish_that_fails_reaches_the_others(session: Session, threads: ThreadPoolExecutor) -> None:
    with never_answers() as server:
        up = session.upload("PUT", server.url, timeout=None)
        finishes = [threads.submit(up.finish) for _ in range(3)]
        eventually(lambda: up._is_awaited)
        up.abort()
        assert all(isinstance(finish.exception(10), Cancelled) for finish in finishes)


def test_leaving_the_block_tells_of_a_failure_in_another_thread(session: Session, threads: ThreadPoolExecutor) -> None:
    """Or a program would take half a body for the whole."""
    with never_answers(reads=False, receive_buffer=4096) as server:
        with pytest.raises(WriteTimeout):
            with session.upload("PUT", server.url, timeout=Timeouts(write=0.2)) as up:
                assert isinstance(threads.submit(up.write, bytes(BIG)).exception(10), WriteTimeout)


def test_try_write_does_not_wait_for_another_writer(session: Session, threads: ThreadPoolExecutor) -> None:
    with never_answers(reads=False, receive_buffer=4096) as server:
        up = session.upload("PUT", server.url, timeout=None)
        (call,) = blocked_writers(up, threads, 1)
        assert up.try_write(bytes(5000)) is False
        assert up.try_write(b"small") is False
        assert up.wait_writable(0.01) is False
        up.abort()
        assert isinstance(call.exception(10), Cancelled)
        with pytest.raises(Cancelled):
            up.try_write(bytes(5000))


def test_a_signals_handler_does_not_write_into_a_write(session: Session) -> None:
    refused: list[BaseException] = []

    def handler(*_: object) -> None:
        try:
            up.write(bytes(5000))
        except RuntimeError as error:
            refused.append(error)
        up.abort()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with never_answers(reads=False, receive_buffer=4096) as server, ThreadPoolExecutor(1) as threads:
            up = session.upload("PUT", server.url, timeout=None)

            def strike() -> None:
                eventually(lambda: up._exchange._connection.transport._writers)
                os.kill(os.getpid(), signal.SIGUSR1)

            struck = threads.submit(strike)
            with pytest.raises(Cancelled):
                up.write(bytes(BIG))
            struck.result(10)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(refused) == 1


@pytest.mark.parametrize("call", ["write", "finish"])
def test_a_forked_child_does_not_wait_for_threads_that_did_not_come_along(
    session: Session, threads: ThreadPoolExecutor, call: str
) -> None:
    def in_child(up: Upload) -> int:
        try:
            up.write(bytes(5000)) if call == "write" else up.finish()
        except SyncflowConnectionError as error:
            return 0 if "fork" in str(error) else 2
        return 1

    with never_answers(reads=call == "finish", receive_buffer=4096) as server:
        up = session.upload("PUT", server.url, timeout=None)
        if call == "write":
            (other,) = blocked_writers(up, threads, 1)
        else:
            other = threads.submit(up.finish)  # type: ignore[arg-type]
            eventually(lambda: up._is_awaited)
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # a hang ends with this
            os._exit(in_child(up))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        up.abort()
        assert isinstance(other.exception(10), Cancelled)


def test_early_answer_without_a_write_in_flight(session: Session) -> None:
    """The next write raises, however small it is: what is gathered is not taken for sent."""
    with early_response(403, after_bytes=1) as server:
        with session.upload("PUT", server.url) as up:
            up.write(b"a")
            up.write(b"b")
            eventually(lambda: not up._exchange.may_send)
            with pytest.raises(EarlyResponse):
                up.write(b"c")
            up.response.close()

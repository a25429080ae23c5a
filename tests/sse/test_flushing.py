"""Periodic flushes: one thread for all buffers, that starts when it is needed and ends when it is not.

Everything else about the buffers: test_buffer.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncflow.sse import flushing
from syncflow.sse.buffer import EventBuffer
from syncflow.sse.flushing import Flusher, shared_flusher
from syncflow.testing import eventually

from ..concurrency import PATIENCE, forked

SOON = 0.005
NEVER = 3600.0
NAME = "syncflow-flusher"

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")


def flushers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


@pytest.fixture(autouse=True)
def no_flusher(no_leaks: None) -> Iterator[None]:
    """None when a test begins; none needed when it is over, but for those buffers that it drops as it ends."""
    assert not flushers()
    yield
    gc.collect()
    eventually(lambda: not flushers(), message="the thread goes on, though nobody needs it")


class Sink:
    """A `send` that remembers events and threads, tells when some have come, and fails as long as it has an error."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.threads: set[threading.Thread] = set()
        self.error: BaseException | None = None
        self.attempts = threading.Semaphore(0)

    def __call__(self, event: Any) -> None:
        try:
            if self.error is not None:
                raise self.error
            self.received.append(event)
            self.threads.add(threading.current_thread())
        finally:
            self.attempts.release()

    def wait(self, attempts: int) -> None:
        for _ in range(attempts):
            assert self.attempts.acquire(timeout=PATIENCE), "nothing was sent"


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def new_buffer() -> Iterator[Callable[..., EventBuffer]]:
    made: list[weakref.ref[EventBuffer]] = []

    def make(flush_interval: float = SOON, **options: Any) -> EventBuffer:
        buffer = EventBuffer(flush_interval=flush_interval, **options)
        made.append(weakref.ref(buffer))
        return buffer

    yield make
    for reference in made:
        if (buffer := reference()) is not None:
            buffer.close()


NewBuffer = Callable[..., EventBuffer]


def is_settled(buffer: EventBuffer) -> bool:
    """Nothing waits, and nobody will come to look: the thread is done with it for now."""
    return not buffer.size and not buffer._is_timed


# ------------------------------------------------------------------------------------------------------------ flushes


def test_what_waits_is_sent_by_the_thread(new_buffer: NewBuffer, sink: Sink) -> None:
    buffer = new_buffer()
    assert not flushers(), "nothing waits yet"
    for event in "abc":
        buffer.enqueue(event, sink)
    sink.wait(3)
    assert sink.received == ["a", "b", "c"]
    (thread,) = flushers()
    assert sink.threads == {thread}
    assert thread.daemon
    eventually(lambda: buffer.metrics().sent == 3)
    assert buffer.last_error is None


def test_again_and_again_by_the_same_thread(new_buffer: NewBuffer, sink: Sink) -> None:
    """It stays for an open buffer, though nothing waits in it."""
    buffer = new_buffer()
    for number in range(5):
        buffer.enqueue(number, sink)
        sink.wait(1)
        eventually(lambda: is_settled(buffer))
    assert sink.received == [0, 1, 2, 3, 4]
    assert len(sink.threads) == 1


def test_a_batch_too(new_buffer: NewBuffer, sink: Sink) -> None:
    buffer = new_buffer()
    buffer.enqueue_entries([(event, sink, 0.0) for event in "ab"])
    sink.wait(2)
    assert sink.received == ["a", "b"]


def test_an_event_that_waited_for_room_too(new_buffer: NewBuffer, sink: Sink) -> None:
    buffer = new_buffer(max_size=1, overflow="block")
    for event in range(5):
        buffer.enqueue(event, sink, timeout=PATIENCE)
    sink.wait(5)
    assert sink.received == [0, 1, 2, 3, 4]


def test_one_thread_for_all(new_buffer: NewBuffer, sink: Sink) -> None:
    buffers = [new_buffer(SOON * (1 + number % 3)) for number in range(30)]
    for buffer in buffers:
        buffer.enqueue("event", sink)
    sink.wait(30)
    assert len(sink.threads) == 1
    assert flushers() == [*sink.threads]


def test_each_in_its_own_time(new_buffer: NewBuffer, sink: Sink) -> None:
    """A long interval does not hold up a short one that comes later."""
    slow, quick = new_buffer(NEVER), new_buffer(SOON)
    slow.enqueue("slow", sink)
    eventually(lambda: len(shared_flusher()._moments) == 1)  # it sleeps for an hour
    quick.enqueue("quick", sink)
    sink.wait(1)
    assert sink.received == ["quick"]
    assert slow.size == 1
    assert slow.flush() == 1


def test_by_size_as_well(new_buffer: NewBuffer, sink: Sink) -> None:
    buffer = new_buffer(NEVER, flush_size=2)
    buffer.enqueue("a", sink)
    buffer.enqueue("b", sink)
    assert sink.received == ["a", "b"]
    assert sink.threads == {threading.current_thread()}


@pytest.mark.parametrize("interval", [1e300, 1e-300])
def test_any_interval(new_buffer: NewBuffer, sink: Sink, interval: float) -> None:
    buffer = new_buffer(interval)
    buffer.enqueue("event", sink)
    eventually(lambda: shared_flusher()._clients)
    if interval < 1:
        sink.wait(1)
        assert sink.received == ["event"]


def test_a_send_may_enqueue_and_close(new_buffer: NewBuffer, sink: Sink) -> None:
    buffer = new_buffer()

    def send(event: int) -> None:
        if event < 3:
            buffer.enqueue(event + 1, send)
        else:
            buffer.close()
        sink(event)

    buffer.enqueue(0, send)
    sink.wait(4)
    assert sink.received == [0, 1, 2, 3]


def test_a_flush_under_way_is_not_waited_for(new_buffer: NewBuffer, sink: Sink) -> None:
    """The other buffers' time comes, and the flush takes what would have been due."""
    busy, other = new_buffer(), new_buffer()
    begun, go_on = threading.Event(), threading.Event()

    def send(event: Any) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    with busy._lock:  # so that the thread does not come first
        busy.enqueue("a", send)
        busy._flusher = -1
    eventually(lambda: shared_flusher()._moments)
    busy._flusher = None
    flush = threading.Thread(target=busy.flush, daemon=True)
    flush.start()
    assert begun.wait(PATIENCE)
    for _ in range(3):
        other.enqueue("event", sink)
        sink.wait(1)
        eventually(lambda: is_settled(other))
    assert busy.size == 1
    go_on.set()
    flush.join(PATIENCE)
    eventually(lambda: is_settled(busy))


# ----------------------------------------------------------------------------------------------------------- failures


def test_a_failure_is_logged_once_a_streak(new_buffer: NewBuffer, sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    buffer = new_buffer()
    for streak in (1, 2):
        sink.error = OSError("the peer has gone")
        buffer.enqueue("a", sink)
        sink.wait(4)
        assert buffer.last_error is sink.error
        assert buffer.size == 1
        assert len(caplog.records) == streak
        sink.error = None
        eventually(lambda: is_settled(buffer))
        assert buffer.last_error is None
        assert sink.received == ["a"] * streak
        sink.wait(1)
        while sink.attempts.acquire(blocking=False):
            pass  # it may have tried more than four times
    record = caplog.records[0]
    assert (record.name, record.levelname) == ("syncflow.sse", "WARNING")
    assert record.getMessage() == "a periodic flush has failed; 1 events wait, and it is tried again every 0.005 s"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OSError)
    assert "the peer has gone" in caplog.text
    assert "Traceback" in caplog.text


def test_what_failed_stays_in_order(new_buffer: NewBuffer, sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    buffer = new_buffer()
    sink.error = OSError("gone")
    for event in "abc":
        buffer.enqueue(event, sink)
    sink.wait(3)
    assert buffer.metrics().dropped == 0
    assert buffer.size == 3
    sink.error = None
    eventually(lambda: buffer.size == 0)
    assert sink.received == ["a", "b", "c"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_nothing_that_a_send_raises_ends_the_thread(
    new_buffer: NewBuffer, sink: Sink, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    failing, other = new_buffer(), new_buffer()
    sink.error = error
    failing.enqueue("a", sink)
    sink.wait(2)
    good = Sink()
    other.enqueue("b", good)
    good.wait(1)
    assert good.threads == {*flushers()}
    assert failing.last_error is error
    assert len(caplog.records) == 1


@pytest.mark.parametrize("how", [EventBuffer.flush, EventBuffer.reset])
def test_a_success_of_anybody_ends_the_streak(
    new_buffer: NewBuffer, sink: Sink, how: Callable[[EventBuffer], object], caplog: pytest.LogCaptureFixture
) -> None:
    buffer = new_buffer()
    sink.error = OSError("gone")
    buffer.enqueue("a", sink)
    eventually(lambda: buffer.last_error is not None)
    sink.error = None
    how(buffer)
    assert buffer.last_error is None


def test_a_failure_of_the_callers_flush_is_the_callers(new_buffer: NewBuffer, sink: Sink) -> None:
    buffer = new_buffer(NEVER)
    sink.error = OSError("gone")
    buffer.enqueue("a", sink)
    with pytest.raises(OSError):
        buffer.flush()
    assert buffer.last_error is None


def test_the_error_does_not_keep_the_buffer(sink: Sink) -> None:
    """No wait for the garbage collector, though frames of its traceback held the buffer."""
    logger = logging.getLogger("syncflow.sse")
    logger.disabled = True  # pytest's handler keeps the record
    gc.disable()
    try:
        buffer = EventBuffer(flush_interval=SOON)
        sink.error = OSError("gone")
        buffer.enqueue("a", sink)
        alive = weakref.ref(buffer)
        eventually(lambda: alive().last_error is not None)  # type: ignore[union-attr]
        del buffer
        eventually(lambda: alive() is None)
    finally:
        gc.enable()
        logger.disabled = False


# ------------------------------------------------------------------------------------------------ who needs the thread


def test_close_ends_it_and_what_waits_stays(new_buffer: NewBuffer, sink: Sink) -> None:
    buffer = new_buffer(NEVER)
    buffer.enqueue("a", sink)
    assert len(flushers()) == 1
    buffer.close()
    eventually(lambda: not flushers())
    assert (sink.received, buffer.size) == ([], 1)
    assert buffer.flush() == 1
    assert not shared_flusher()._moments


def test_close_stops_a_periodic_flush_after_the_event_that_is_being_sent(new_buffer: NewBuffer) -> None:
    buffer = new_buffer()
    begun, go_on = threading.Event(), threading.Event()
    received: list[str] = []

    def send(event: str) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        received.append(event)

    buffer.enqueue_entries([("a", send, 0.0), ("b", send, 0.0)])
    assert begun.wait(PATIENCE)
    buffer.close()
    go_on.set()
    eventually(lambda: not flushers())
    assert (received, buffer.size) == (["a"], 1)
    assert buffer.flush() == 1
    assert received == ["a", "b"]


def test_a_buffer_is_held_weakly(sink: Sink) -> None:
    buffer = EventBuffer(flush_interval=NEVER)
    buffer.enqueue("a", sink)
    eventually(lambda: shared_flusher()._moments)
    alive = weakref.ref(buffer)
    del buffer
    gc.collect()
    assert alive() is None
    eventually(lambda: not flushers())


def test_a_buffer_dropped_after_its_flushes_is_not_missed(sink: Sink) -> None:
    buffer = EventBuffer(flush_interval=SOON)
    buffer.enqueue("a", sink)
    sink.wait(1)
    alive = weakref.ref(buffer)
    eventually(lambda: is_settled(alive()))  # type: ignore[arg-type]
    assert len(flushers()) == 1
    del buffer
    gc.collect()
    eventually(lambda: not flushers())


def test_it_ends_with_the_last_and_starts_again(new_buffer: NewBuffer, sink: Sink) -> None:
    for _ in range(3):
        first, second = new_buffer(), new_buffer()
        first.enqueue("a", sink)
        second.enqueue("b", sink)
        sink.wait(2)
        first.close()
        eventually(lambda: len(shared_flusher()._clients) == 1)
        (thread,) = flushers()
        second.enqueue("c", sink)
        sink.wait(1)
        assert flushers() == [thread]
        second.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_buffers_without_an_interval_need_no_thread(sink: Sink) -> None:
    buffer = EventBuffer()
    buffer.enqueue("a", sink)
    buffer.close()
    del buffer
    assert not flushers()
    assert shared_flusher()._news.empty()


def test_a_thread_that_cannot_start_is_told_and_tried_again(
    new_buffer: NewBuffer, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = new_buffer()
    with monkeypatch.context() as patch:

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"):
            buffer.enqueue("a", sink)
    assert buffer.size == 1
    buffer.enqueue("b", sink)
    sink.wait(2)
    assert sink.received == ["a", "b"]


def test_nothing_is_lost_while_it_ends_and_starts(sink: Sink) -> None:
    """Buffers that come and go from several threads, each at the moment when the thread may be ending."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def come_and_go() -> None:
        for number in range(60):
            buffer = EventBuffer(flush_interval=1e-9)
            sent = threading.Event()
            buffer.enqueue(number, lambda event: sent.set())  # noqa: B023
            if not sent.wait(PATIENCE):
                failed.append(number)
            if number % 2:
                buffer.close()

    failed: list[int] = []
    try:
        threads = [threading.Thread(target=come_and_go, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(before)
    assert failed == []
    gc.collect()


class Counter:
    """A client that is called once, and remembers it."""

    def __init__(self) -> None:
        self.called = threading.Event()

    def on_time(self) -> float | None:
        self.called.set()
        return None


def test_whoever_is_retired_is_not_called() -> None:
    flusher = Flusher()
    flusher._thread = threading.current_thread()  # so that no other begins before all news is there
    clients = Counter(), Counter()
    first, second = (weakref.ref(client, flusher.retire) for client in clients)
    flusher.call_at(0.0, first)
    flusher.call_at(0.0, second)
    flusher.retire(first)
    for _ in range(3):
        flusher._hear()
    flusher._call_who_is_due()
    assert [client.called.is_set() for client in clients] == [False, True]
    assert flusher._is_needed()
    flusher.retire(second)
    flusher._hear()
    assert not flusher._is_needed()


def test_a_thread_that_was_given_up_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt while it started: it runs, and another has taken its place."""
    flusher = Flusher("syncflow-flusher-of-a-test")
    client = Counter()
    reference: weakref.ref[Any] = weakref.ref(client, flusher.retire)
    with flusher._lock:  # both threads wait for it
        with monkeypatch.context() as patch:
            start = threading.Thread.start

            def interrupted(thread: threading.Thread) -> None:
                start(thread)
                raise KeyboardInterrupt

            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                flusher.call_at(time.monotonic() + NEVER, reference)
        flusher.call_at(time.monotonic() + NEVER, reference)
        threads = [thread for thread in threading.enumerate() if thread.name == "syncflow-flusher-of-a-test"]
        assert len(threads) == 2
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()
    assert threads[1] is flusher._thread
    flusher.retire(reference)
    threads[1].join(PATIENCE)
    assert not threads[1].is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_ends_the_thread_aloud_and_the_next_one_goes_on() -> None:
    class Broken:
        def on_time(self) -> float | None:
            raise AssertionError("a bug")

    flusher = Flusher("syncflow-flusher-of-a-test")
    clients = [Broken(), Counter(), last := Counter()]
    references: list[weakref.ref[Any]] = [weakref.ref(client, flusher.retire) for client in clients]
    raised: list[Any] = []
    hook, threading.excepthook = threading.excepthook, raised.append
    try:
        flusher.call_at(time.monotonic() + NEVER, references[1])
        flusher.call_at(time.monotonic(), references[0])
        eventually(lambda: flusher._thread is None)
        assert str(raised[0].exc_value) == "a bug"
    finally:
        threading.excepthook = hook
    flusher.call_at(time.monotonic(), references[2])
    assert last.called.wait(PATIENCE)
    assert len(flusher._moments) == 1
    for reference in references:
        flusher.retire(reference)
    eventually(lambda: flusher._thread is None)


# --------------------------------------------------------------------------------------------------------------- fork


@needs_fork
def test_a_child_gets_a_thread_of_its_own(new_buffer: NewBuffer, sink: Sink) -> None:
    """What waited before is sent with the next event: the parent's thread did not come along."""
    buffer = new_buffer(NEVER)
    buffer.enqueue("a", sink)

    def child() -> Any:
        assert not flushers()
        buffer._flush_interval = SOON
        buffer.enqueue("b", sink)
        sink.wait(2)
        assert len(flushers()) == 1
        buffer.close()
        eventually(lambda: not flushers())
        return sink.received

    assert forked(child)() == ["a", "b"]
    assert len(flushers()) == 1
    assert (sink.received, buffer.size) == ([], 1)


@needs_fork
def test_a_child_inherits_none_of_the_threads_locks(new_buffer: NewBuffer, sink: Sink) -> None:
    """Forked while another thread holds the flusher's lock, and the thread its queue's, as it waits."""
    buffer = new_buffer(NEVER)
    buffer.enqueue("a", sink)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with shared_flusher()._lock:
            held.set()
            assert let_go.wait(PATIENCE)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert held.wait(PATIENCE)

    def child() -> Any:
        new = EventBuffer(flush_interval=SOON)
        new.enqueue("b", sink)
        sink.wait(1)
        return sink.received

    try:
        assert forked(child)() == ["b"]
    finally:
        let_go.set()
        holder.join(PATIENCE)


@needs_fork
def test_a_fork_in_a_periodic_send(new_buffer: NewBuffer, sink: Sink) -> None:
    """The thread that forks is the child's only one, and no flusher any more."""
    buffer = new_buffer()
    told: list[Any] = []

    def child() -> Any:
        new = EventBuffer(flush_interval=SOON)
        received = Sink()
        new.enqueue("of the child", received)
        received.wait(1)
        return [received.received, shared_flusher()._thread is not threading.current_thread()]

    def send(event: Any) -> None:
        told.append(forked(child)())
        sink(event)

    buffer.enqueue("a", send)
    sink.wait(1)
    assert told == [[["of the child"], True]]


# ---------------------------------------------------------------------------------------------------------- the end


def test_the_interpreter_does_not_wait_for_it() -> None:
    code = """
from syncflow.sse.buffer import EventBuffer
buffer = EventBuffer(flush_interval=3600)
buffer.enqueue("a", print)
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)  # noqa: PLW1510  # asserted below
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_the_longest_sleep_is_no_moment(new_buffer: NewBuffer, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wakes in between, and sleeps again."""
    monkeypatch.setattr(flushing, "LONGEST_SLEEP", 0.001)
    slow, quick = new_buffer(NEVER), new_buffer(10 * SOON)
    slow.enqueue("slow", sink)
    quick.enqueue("quick", sink)
    sink.wait(1)
    assert sink.received == ["quick"]

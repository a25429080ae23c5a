"""The worker thread: when it lives, whom it serves, what a bug in it does to whom."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from syncflow.engine.worker import COMMANDS_A_TURN, READ, WRITE, Client, Worker, shared_worker
from syncflow.testing import eventually

from ..concurrency import Call, at_once
from .rig import PATIENCE, Bystander, Crash, Line, has_waiters, kill, run_on, silent_hook

pytestmark = pytest.mark.usefixtures("switching")


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


@pytest.fixture
def other_line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


# ---------------------------------------------------------------------- its life


def test_it_starts_with_the_first_command(worker: Worker) -> None:
    assert worker._thread is None
    thread = run_on(worker, threading.current_thread)
    assert thread.name.startswith("syncflow-worker")
    assert thread.daemon
    assert run_on(worker, worker.is_current)
    assert not worker.is_current()


def test_it_ends_when_nobody_needs_it_and_starts_again(worker: Worker) -> None:
    first = run_on(worker, threading.current_thread)
    first.join(PATIENCE)
    assert not first.is_alive()
    assert run_on(worker, threading.current_thread) is not first


def test_it_stays_for_a_client_that_it_has_adopted(worker: Worker, line: Line) -> None:
    worker.adopt(line)
    thread = run_on(worker, threading.current_thread)
    run_on(worker, lambda: worker.watch(line, READ))
    thread.join(20 * worker._linger)
    assert thread.is_alive()
    line.far.send(b"x")
    assert line.served.wait(PATIENCE)
    run_on(worker, lambda: worker.dismiss(line))
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_it_ends_when_its_last_client_is_disowned(worker: Worker) -> None:
    client = Bystander()
    worker.adopt(client)
    eventually(lambda: worker._asleep)
    worker.disown(client)
    eventually(lambda: worker._thread is None, message="it sleeps for ever, for nobody")


def test_it_stays_for_a_timer(worker: Worker) -> None:
    fired = threading.Event()
    thread = run_on(worker, threading.current_thread)
    run_on(worker, lambda: worker.call_at(time.monotonic() + 10 * worker._linger, Bystander(), fired.set))
    assert fired.wait(PATIENCE)
    assert worker._thread in (thread, None)


def test_a_worker_that_is_dropped_closes_its_wake_up_pair() -> None:
    worker = Worker(linger=0.0)
    thread = run_on(worker, threading.current_thread)
    bell, ear = worker._bell, worker._ear
    reference = weakref.ref(worker)
    thread.join(PATIENCE)
    del worker, thread
    gc.collect()
    assert reference() is None
    assert bell is not None
    assert ear is not None
    assert bell.fileno() == ear.fileno() == -1


def test_a_thread_that_cannot_start_is_an_error_for_its_caller_and_nobody_else(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            worker.submit(Bystander(), lambda: None)
    assert run_on(worker, lambda: 1) == 1


def test_one_worker_is_shared() -> None:
    assert len(set(at_once(*[shared_worker] * 8))) == 1


# ---------------------------------------------------------------------- commands


def test_every_command_of_every_thread_runs_once_and_in_its_order() -> None:
    # It does not linger at all, so that ending and starting meet the commands as often as possible.
    worker = Worker(linger=0.0)
    running = threading.Lock()
    ran: list[tuple[int, int]] = []

    def command(who: int, number: int) -> None:
        assert running.acquire(blocking=False), "two worker threads at once"
        ran.append((who, number))
        running.release()

    def submit_all(who: int) -> None:
        for number in range(300):
            worker.submit(client, lambda number=number: command(who, number))

    client = Bystander()
    at_once(*[lambda who=who: submit_all(who) for who in range(8)])
    eventually(lambda: len(ran) == 8 * 300)
    assert not client.failures
    for who in range(8):
        assert [number for at, number in ran if at == who] == list(range(300))
    eventually(lambda: worker._thread is None)


def test_a_flood_of_commands_does_not_keep_a_socket_waiting(worker: Worker, line: Line) -> None:
    ran: list[int] = []

    def flood() -> None:
        worker.watch(line, READ)
        for _ in range(10 * COMMANDS_A_TURN):
            worker.submit(line, lambda: ran.append(len(line.events)))

    line.far.send(b"x")
    run_on(worker, flood)
    eventually(lambda: len(ran) == 10 * COMMANDS_A_TURN)
    assert ran.count(0) <= 2 * COMMANDS_A_TURN
    run_on(worker, lambda: worker.dismiss(line))


def test_a_wake_up_that_an_interrupt_prevents_is_not_lost_to_others(worker: Worker) -> None:
    """Ctrl-C in the main thread, between the queueing of a command and the byte that wakes the worker."""
    client = Bystander()
    worker.adopt(client)
    eventually(lambda: worker._asleep)
    before, worker._ring = worker._ring, _interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        worker.submit(client, lambda: None)
    worker._ring = before  # type: ignore[method-assign]
    assert run_on(worker, lambda: 1) == 1
    worker.disown(client)


def _interrupted() -> None:
    raise KeyboardInterrupt


def test_a_finalizer_may_submit_while_its_thread_holds_the_lock(worker: Worker, line: Line) -> None:
    worker.adopt(line)
    ran = threading.Event()
    with worker._lock:
        worker.submit_from_finalizer(line, ran.set)
    assert ran.wait(PATIENCE)
    with worker._lock:
        worker.submit_from_finalizer(line, lambda: 1 // 0)
    assert line.failed.wait(PATIENCE)
    run_on(worker, lambda: worker.dismiss(line))


def test_more_wake_ups_than_fit_into_the_pair(worker: Worker) -> None:
    client = Bystander()
    worker.adopt(client)
    count = 0

    def action() -> None:
        nonlocal count
        count += 1

    def flood() -> None:
        # On the worker, so that nobody empties the pair meanwhile.
        for _ in range(5000):
            worker.submit_from_finalizer(client, action)

    run_on(worker, flood)
    eventually(lambda: count == 5000)
    worker.disown(client)


# ---------------------------------------------------------------------- sockets


def test_it_tells_what_is_ready_and_nothing_else(worker: Worker, line: Line) -> None:
    worker.adopt(line)
    line._on_ready = lambda line, events: worker.watch(line, 0)
    run_on(worker, lambda: worker.watch(line, WRITE))
    assert line.served.wait(PATIENCE)
    assert line.events == [WRITE]
    line.served.clear()
    run_on(worker, lambda: worker.watch(line, READ))
    run_on(worker, lambda: worker.watch(line, READ | WRITE))
    assert line.served.wait(PATIENCE)
    assert line.events == [WRITE, WRITE]
    line.far.send(b"x")
    run_on(worker, lambda: None)
    assert line.events == [WRITE, WRITE], "it is not watched any more"
    run_on(worker, lambda: worker.dismiss(line))


def test_who_was_dismissed_in_this_turn_is_not_served(worker: Worker, line: Line, other_line: Line) -> None:
    lines = [line, other_line]

    def dismiss_both(served: Line, events: int) -> None:
        for each in lines:
            worker.dismiss(each)

    def watch_both() -> None:
        for each in lines:
            each._on_ready = dismiss_both
            worker.watch(each, READ)

    for each in lines:
        worker.adopt(each)
        each.far.send(b"x")
    run_on(worker, watch_both)
    eventually(lambda: line.events or other_line.events)
    run_on(worker, lambda: None)
    assert len(line.events) + len(other_line.events) == 1


def test_a_descriptor_that_cannot_be_watched_fails_its_client_only(worker: Worker) -> None:
    class Unwatchable(Bystander):
        """A descriptor that is not open."""

        def fileno(self) -> int:
            return 1 << 20

    client = Unwatchable()
    worker.submit(client, lambda: worker.watch(client, READ))
    assert client.failed.wait(PATIENCE)
    assert isinstance(client.failures[0], OSError)
    assert run_on(worker, lambda: 1) == 1


# ---------------------------------------------------------------------- timers


def test_timers_run_in_their_order(worker: Worker) -> None:
    ran: list[int] = []
    client = Bystander()

    def set_up() -> None:
        now = time.monotonic()
        for number in (3, 1, 2, 0):
            worker.call_at(now + number * 0.005, client, lambda number=number: ran.append(number))
        worker.call_at(now + 0.01, client, lambda: ran.append(-1)).cancel()

    run_on(worker, set_up)
    eventually(lambda: len(ran) == 4)
    assert ran == [0, 1, 2, 3]


def test_a_timer_may_set_another_and_cancel_a_third(worker: Worker) -> None:
    ran: list[str] = []
    client = Bystander()

    def set_up() -> None:
        now = time.monotonic()

        def first() -> None:
            third.cancel()
            worker.call_at(now - 1.0, client, lambda: ran.append("second"))

        worker.call_at(now, client, first)
        third = worker.call_at(now, client, lambda: ran.append("third"))

    run_on(worker, set_up)
    eventually(lambda: ran)
    eventually(lambda: worker._thread is None)
    assert ran == ["second"]


def test_timers_that_were_cancelled_do_not_pile_up(worker: Worker) -> None:
    """Behind one that strikes before them, which keeps them from being found out."""
    client = Bystander()
    far = time.monotonic() + 3600
    ran: list[int] = []

    def set_and_cancel() -> int:
        lasting = [worker.call_at(far, client, lambda: None)]
        for number in range(5000):
            worker.call_at(far + number, client, lambda: None).cancel()
            if number % 100 == 0:
                lasting.append(worker.call_at(far + number, client, lambda: None))
        kept = len(worker._timers)
        assert all(any(timer is entry[2] for entry in worker._timers) for timer in lasting)
        for timer in lasting:
            timer.cancel()
        for number in range(3):
            worker.call_at(number, client, lambda number=number: ran.append(number))  # type: ignore[misc]
        return kept

    assert run_on(worker, set_and_cancel) < 200
    eventually(lambda: ran == [0, 1, 2])
    eventually(lambda: not worker._timers)


@pytest.mark.parametrize("delay", [1e8, float("inf")])
def test_a_timer_may_be_further_away_than_select_can_count(worker: Worker, delay: float) -> None:
    """PoolLimits(idle=...) may be any number of seconds; poll(2) counts milliseconds in 32 bits."""
    client = Bystander()
    timer = run_on(worker, lambda: worker.call_at(time.monotonic() + delay, client, lambda: None))
    eventually(lambda: worker._asleep)
    assert run_on(worker, lambda: 1) == 1
    run_on(worker, timer.cancel)
    assert not client.failures


# ---------------------------------------------------------------------- bugs


def test_a_bug_in_a_step_fails_that_client_only(worker: Worker, line: Line, other_line: Line) -> None:
    bug = ZeroDivisionError("a bug")

    def fail(served: Line, events: int) -> None:
        raise bug

    line._on_ready = fail
    for each in (line, other_line):
        worker.adopt(each)
        run_on(worker, lambda each=each: worker.watch(each, READ))
    thread = worker._thread
    line.far.send(b"x")
    assert line.failed.wait(PATIENCE)
    other_line.far.send(b"x")
    assert other_line.served.wait(PATIENCE)
    assert worker._thread is thread
    assert line.failures == [bug]
    assert not other_line.failures
    assert line not in worker._watched
    run_on(worker, lambda: worker.dismiss(other_line))


def test_a_bug_in_a_command_or_a_timer_fails_that_client_only(worker: Worker) -> None:
    commander, timed = Bystander(), Bystander()
    worker.submit(commander, lambda: 1 // 0)
    assert commander.failed.wait(PATIENCE)
    run_on(worker, lambda: worker.call_at(0.0, timed, lambda: 1 // 0))
    assert timed.failed.wait(PATIENCE)
    assert len(commander.failures) == len(timed.failures) == 1
    assert run_on(worker, lambda: 1) == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), OSError(9, "Bad file descriptor"), Crash("worse"), SystemExit(1)], ids=repr
)
def test_when_it_dies_everybody_is_told_and_the_next_command_works(
    worker: Worker, line: Line, error: BaseException
) -> None:
    adopted, timed = Bystander(), Bystander()
    worker.adopt(adopted)
    worker.adopt(line)
    run_on(worker, lambda: worker.watch(line, READ))
    run_on(worker, lambda: worker.call_at(time.monotonic() + 1000, timed, lambda: None))
    dead = worker._thread
    kill(worker, error)
    for client in (adopted, line, timed):
        assert client.failed.wait(PATIENCE)
        assert client.failures == [error]
    assert run_on(worker, threading.current_thread) is not dead


def test_commands_that_a_dying_worker_did_not_come_to_are_told(worker: Worker) -> None:
    clients = [Bystander() for _ in range(3)]
    ran: list[int] = []

    def crash() -> None:
        for number, client in enumerate(clients):
            worker.submit(client, lambda number=number: ran.append(number))
        raise Crash

    crashing = Bystander()
    with silent_hook() as seen:
        worker.submit(crashing, crash)
        for client in [*clients, crashing]:
            assert client.failed.wait(PATIENCE)
        eventually(lambda: seen)  # the last of it, after all are told
    assert not ran
    assert all(len(client.failures) == 1 for client in clients)


def test_who_fails_to_be_told_does_not_keep_it_from_the_others(worker: Worker) -> None:
    class Deaf(Bystander):
        """Has a bug of its own."""

        def on_failure(self, error: BaseException) -> None:
            raise ZeroDivisionError

    others = [Bystander() for _ in range(8)]
    clients: list[Client] = [Deaf(), *others[:4], Deaf(), *others[4:]]
    for client in clients:
        worker.adopt(client)
    run_on(worker, lambda: None)
    kill(worker, RuntimeError("a bug"))
    for other in others:
        assert other.failed.wait(PATIENCE)


def test_a_notification_that_was_promised_is_kept_by_a_dying_worker(worker: Worker) -> None:
    condition = threading.Condition(threading.Lock())

    def wait() -> bool:
        with condition:
            return condition.wait(PATIENCE)

    def crash() -> None:
        worker.notify_last(condition)
        raise Crash

    call = Call(wait)
    eventually(lambda: has_waiters(condition))
    with silent_hook() as seen:
        worker.submit(Bystander(), crash)
        assert call.result()
        # Not `worker._thread is None`: what the hook is to see comes after that, and would be the next test's.
        eventually(lambda: bool(seen))
    assert worker._thread is None


def test_submitting_while_it_dies_is_never_lost(worker: Worker) -> None:
    """Each command is either run or its client told."""
    clients: list[Bystander] = []
    ran: set[int] = set()

    def submit_many() -> None:
        for _ in range(200):
            client = Bystander()
            clients.append(client)
            worker.submit(client, lambda client=client: ran.add(id(client)))

    def crash() -> None:
        raise Crash

    others = set(threading.enumerate())
    with silent_hook():
        calls = [Call(submit_many) for _ in range(4)]
        for _ in range(20):
            worker.submit(Bystander(), crash)
        for call in calls:
            call.result()
        eventually(lambda: all(client.failures or id(client) in ran for client in clients))
        eventually(lambda: worker._thread is None)
        # One that dies is forgotten before its error comes to the hook.
        eventually(lambda: not [t for t in threading.enumerate() if t not in others and t.name == worker._name])
    assert not any(client.failures and id(client) in ran for client in clients)


def test_the_module_forgets_workers_that_are_gone() -> None:
    reference = weakref.ref(Worker())
    gc.collect()
    assert reference() is None

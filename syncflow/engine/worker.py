"""The thread: a selector, timers, and commands from other threads.

Knows which descriptor waits for what, and whom to tell. Knows nothing of bytes, HTTP or limits: its clients do the
work in short, non-blocking steps, and it never runs anything that a user wrote.

Lives from the first `submit` until nobody has needed it for `linger` seconds; the next `submit` starts it again. It
is a daemon thread: the interpreter does not wait for it. After `fork()` the child starts with none of its clients.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..exceptions import ConnectionError

__all__ = ["READ", "WRITE", "Client", "Timer", "Worker", "shared_worker", "worker_failed"]

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

# Commands run in one turn of the loop, so that a flood of them does not keep sockets waiting.
COMMANDS_A_TURN = 256

# Timers that are kept without a look whether they were cancelled.
FEW_TIMERS = 64

# Seconds that the worker sleeps at most while it waits for a timer: the kernel counts milliseconds in 32 bits, and a
# user may set any limit, infinity included.
LONGEST_SLEEP = 3600.0


class Client(Protocol):
    """What the worker serves: a socket, or a set of timers."""

    def fileno(self) -> int:
        """The descriptor to watch; the same for as long as the client is watched."""

    def on_ready(self, events: int) -> None:
        """Worker only. The descriptor is readable, writable or both."""

    def on_failure(self, error: BaseException) -> None:
        """Worker only. A bug ended the worker, or this client's own step; wake who waits, close what is open.

        Must not call the worker: another thread may already have taken its place.
        """

    def on_fork(self) -> None:
        """In a forked child. Make new locks, close the copy of the descriptor without a word to the peer."""


class Timer:
    """One call at one moment; made and cancelled by the worker only."""

    __slots__ = ("action", "client")

    def __init__(self, client: Client, action: Callable[[], None]) -> None:
        self.client = client
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Worker only. Forget the call; nothing happens if it was made."""
        self.action = None


class Worker:
    """One thread that watches descriptors for its clients.

    Args:
        name: of the thread.
        linger: seconds that the thread stays after the last client has gone.
    """

    def __init__(self, name: str = "syncflow-worker", linger: float = 1.0) -> None:
        # Never changes.
        self._name = name
        self._linger = linger
        # Guarded by _lock. It is a leaf: nothing else is locked, and nothing blocks, while it is held.
        self._lock = threading.Lock()
        self._commands: deque[tuple[Client, Callable[[], None]]] = deque()
        self._clients: set[Client] = set()
        self._thread: threading.Thread | None = None
        # True from before the worker waits until it is awake: who submits meanwhile sends a byte.
        self._asleep = False
        # Appended to by finalizers, which may run while this very thread holds any lock: so it needs none.
        self._last_wishes: deque[tuple[Client, Callable[[], None]]] = deque()
        # Made at the first start and kept: a sender of a wake-up byte holds no lock.
        self._bell: socket.socket | None = None
        self._ear: socket.socket | None = None
        # Owned by the worker thread, of which there is at most one.
        self._selector: selectors.BaseSelector | None = None
        self._watched: dict[Client, int] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._most_timers = FEW_TIMERS  # until those that were cancelled are looked for
        self._to_notify: list[threading.Condition] = []
        self._tickets = itertools.count()
        with _workers_lock:
            _workers.add(self)

    # ---------------------------------------------------------------- any thread

    def submit(self, client: Client, action: Callable[[], None]) -> None:
        """Any thread. Run `action` on the worker soon; if the worker dies first, `client` is told."""
        with self._lock:
            self._commands.append((client, action))
            if self._thread is None:
                self._start()
            wake = self._asleep
        # Only the worker says that it is awake: if an interrupt (Ctrl-C) comes here, the next command rings for it.
        if wake:
            self._ring()

    def submit_from_finalizer(self, client: Client, action: Callable[[], None]) -> None:
        """Any thread, at any moment, takes no lock. `client` is adopted, therefore the worker is alive."""
        self._last_wishes.append((client, action))
        self._ring()

    def adopt(self, client: Client) -> None:
        """Any thread. From now on the worker stays alive for this client and tells it of a fork or its death. Raises
        OSError if it cannot start, for want of file descriptors; then it does not know the client."""
        with self._lock:
            self._clients.add(client)
            if self._thread is None:
                try:
                    self._start()
                except BaseException:
                    self._clients.discard(client)
                    raise

    def disown(self, client: Client) -> None:
        """Any thread. The opposite of `adopt`, for a client that nothing was submitted for: it was never watched."""
        with self._lock:
            self._clients.discard(client)
            wake = self._asleep and not self._clients
        if wake:
            self._ring()  # it sleeps until something happens, and nothing may

    def is_current(self) -> bool:
        """Whether this is the worker's thread."""
        thread = self._thread
        return thread is not None and thread.ident == threading.get_ident()

    def _ring(self) -> None:
        bell = self._bell
        if bell is not None:
            # A full socket buffer means that wake-ups are waiting already.
            with contextlib.suppress(BlockingIOError):
                bell.send(b"\0")

    def _start(self) -> None:
        """With _lock held and no thread alive, so what the worker owns may be touched."""
        if self._ear is None:
            self._bell, self._ear = (_End(fileno=end.detach()) for end in socket.socketpair())
            self._bell.setblocking(False)
            self._ear.setblocking(False)
        selector = selectors.DefaultSelector()
        selector.register(self._ear, READ, None)
        self._selector = selector
        self._asleep = False
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            self._thread.start()
        except BaseException:
            # Out of threads, or an interrupt, after which it may run all the same: it finds that it was given up.
            self._thread = None
            raise

    # ---------------------------------------------------------------- worker only

    def watch(self, client: Client, events: int) -> None:
        """Worker only. From now on tell `client` of these events; 0 is none."""
        assert self.is_current()
        assert self._selector is not None
        current = self._watched.get(client, 0)
        if events == current:
            return
        if not current:
            self._selector.register(client.fileno(), events, client)
        elif not events:
            self._selector.unregister(client.fileno())
        else:
            self._selector.modify(client.fileno(), events, client)
        if events:
            self._watched[client] = events
        else:
            del self._watched[client]

    def dismiss(self, client: Client) -> None:
        """Worker only. Forget the client; it may close its descriptor now."""
        self.watch(client, 0)
        with self._lock:
            self._clients.discard(client)

    def call_at(self, when: float, client: Client, action: Callable[[], None]) -> Timer:
        """Worker only. Run `action` at the moment `when` of `time.monotonic()`."""
        assert self.is_current()
        timer = Timer(client, action)
        if len(self._timers) >= self._most_timers:
            self._drop_cancelled()
        heapq.heappush(self._timers, (when, next(self._tickets), timer))
        return timer

    def _drop_cancelled(self) -> None:
        """Behind one that strikes soon, any number may be set for later, and cancelled. Half of them at least are gone
        when this comes again, or were set meanwhile: so it costs each timer a constant share."""
        self._timers = [entry for entry in self._timers if entry[2].action is not None]
        heapq.heapify(self._timers)
        self._most_timers = max(FEW_TIMERS, 2 * len(self._timers))

    def notify_last(self, condition: threading.Condition) -> None:
        """Worker only. Wake who waits on `condition`, at the end of this turn: a thread that is woken while this one
        still has things to do only gets as far as the interpreter's lock, and falls asleep again."""
        self._to_notify.append(condition)

    def _run(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return
        try:
            while self._turn():
                pass
        except BaseException as error:
            self._die(error)
            raise  # to threading.excepthook: a bug of ours is never silent

    def _turn(self) -> bool:
        """Wait, serve what is ready, run commands, then timers; False when nobody needs the worker any more."""
        assert self._selector is not None
        with self._lock:
            timeout = 0.0 if self._commands else self._sleep_time()
            needed = bool(self._clients or self._timers)  # asked last: what was cancelled is gone now
            self._asleep = not self._commands
        if self._to_notify:
            _notify_all(self._to_notify)
            self._to_notify.clear()
        ready = self._selector.select(timeout)
        with self._lock:
            self._asleep = False
            if not (ready or needed or self._clients or self._commands or self._last_wishes):
                self._end()
                return False
            commands = len(self._commands)  # only this thread takes any away
        for key, events in ready:
            if key.data is None:
                self._hear()
            else:
                self._serve(key.data, events)
        for _ in range(min(commands, COMMANDS_A_TURN)):
            self._perform(*self._commands.popleft())
        while self._last_wishes:
            self._perform(*self._last_wishes.popleft())
        if self._timers and self._timers[0][0] <= time.monotonic():
            self._run_timers()
        return True

    def _sleep_time(self) -> float | None:
        while self._timers:
            if self._timers[0][2].action is not None:
                return min(max(0.0, self._timers[0][0] - time.monotonic()), LONGEST_SLEEP)
            heapq.heappop(self._timers)
        return None if self._clients else self._linger

    def _end(self) -> None:
        """With _lock held: whoever submits next finds no thread and starts one."""
        assert self._selector is not None
        self._selector.close()
        self._selector = None
        self._thread = None

    def _hear(self) -> None:
        assert self._ear is not None
        with contextlib.suppress(BlockingIOError):
            self._ear.recv(4096)

    def _serve(self, client: Client, events: int) -> None:
        if client not in self._watched:
            return  # dismissed by an earlier step of this turn
        try:
            client.on_ready(events)
        except Exception as error:
            self._give_up(client, error)

    def _perform(self, client: Client, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._give_up(client, error)
        except BaseException:
            with self._lock:
                self._clients.add(client)  # its command is gone from the queue: `_die` is to tell it too
            raise

    def _give_up(self, client: Client, error: Exception) -> None:
        """A bug in one client's step fails that client and nobody else."""
        self.dismiss(client)
        client.on_failure(error)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.action is not None:
                self._perform(timer.client, timer.action)

    def _die(self, error: BaseException) -> None:
        """The loop itself failed: make room for a new thread, then tell everybody who relied on this one."""
        selector, to_notify = self._selector, self._to_notify
        with self._lock:
            clients = self._clients | {client for client, _ in self._commands}
            clients.update(client for client, _ in self._last_wishes)
            clients.update(timer.client for _, _, timer in self._timers)
            self._forget_everything()
        if selector is not None:
            selector.close()
        _notify_all(to_notify)
        for client in clients:
            try:
                client.on_failure(error)
            except Exception as another:  # the others are to be told all the same; it goes to the hook with `error`
                error.add_note(f"{client!r} could not be told: {another!r}")

    def _forget_everything(self) -> None:
        self._clients = set()
        self._commands.clear()
        self._last_wishes.clear()
        self._watched = {}
        self._timers = []
        self._to_notify = []
        self._selector = None
        self._thread = None
        self._asleep = False

    # ---------------------------------------------------------------- fork, end

    def _before_fork(self) -> None:
        self._lock.acquire()

    def _after_fork_in_parent(self) -> None:
        self._lock.release()

    def _after_fork_in_child(self) -> None:
        """The thread did not come along. Its epoll descriptor did, and may only be closed: it is the parent's too."""
        clients = self._clients
        selector, bell, ear = self._selector, self._bell, self._ear
        self._lock = threading.Lock()
        self._forget_everything()
        self._bell = self._ear = None
        for inherited in (selector, bell, ear):
            if inherited is not None:
                inherited.close()
        for client in clients:
            client.on_fork()

    def __del__(self) -> None:
        for end in (self._bell, self._ear):
            if end is not None:
                end.close()


class _End(socket.socket):
    """Of a worker's wake-up line. Closes itself without a warning, because of what is garbage together it may be
    finalized before the worker."""

    def __del__(self) -> None:
        self.close()


def worker_failed(where: str, error: BaseException) -> ConnectionError:
    """What a caller gets whose worker has died, or failed in a step for it."""
    failure = ConnectionError(
        f"{where}: syncflow's worker thread failed with {error!r}; this is a bug in syncflow, please report it with "
        "the traceback; the next request starts a new worker"
    )
    failure.__cause__ = error
    return failure


def _notify_all(conditions: list[threading.Condition]) -> None:
    for condition in conditions:
        with condition:
            condition.notify_all()


_shared: Worker | None = None
_shared_lock = threading.Lock()
# Guards `_workers`; taken after `_shared_lock`, and before any worker's own.
_workers_lock = threading.Lock()
_workers: weakref.WeakSet[Worker] = weakref.WeakSet()
# Those whose locks are held during a fork: the same ones are to be released, whoever is made or dropped meanwhile.
_held: list[Worker] = []


def shared_worker() -> Worker:
    """The worker of this process, which serves every session that was not given one of its own."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Worker()
        return _shared


def _before_fork() -> None:
    _shared_lock.acquire()
    _workers_lock.acquire()
    _held.extend(_workers)
    for worker in _held:
        worker._before_fork()


def _after_fork_in_parent() -> None:
    for worker in _held:
        worker._after_fork_in_parent()
    _end_fork()


def _after_fork_in_child() -> None:
    for worker in _held:
        worker._after_fork_in_child()
    _end_fork()


def _end_fork() -> None:
    _held.clear()
    _workers_lock.release()
    _shared_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

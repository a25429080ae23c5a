"""The thread that flushes buffers on time: one for the whole process.

Knows whom to call, and when. Knows nothing of events, nor of what its clients do when they are called.

It holds its clients weakly. It starts with the first call that is asked for, and ends when every client it has had was
retired or dropped; the next one starts it again. It is a daemon thread: the interpreter does not wait for it. After
`fork()` the child starts without clients: they ask again.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
import weakref
from queue import Empty, SimpleQueue
from typing import Protocol

from ..engine.locks import new_lock

__all__ = ["Client", "Flusher", "shared_flusher"]

# Seconds that the thread sleeps at most while it waits for a client's moment: a user may set any interval, and what
# the system takes is limited.
LONGEST_SLEEP = 3600.0


class Client(Protocol):
    """What is called on time."""

    def on_time(self) -> float | None:
        """The flusher's thread only. Do what is due, and raise nothing. Returns the moment of `time.monotonic()` at
        which to be called again, or None: not before it is asked for."""


class Flusher:
    """One thread that calls its clients, each at its own moments, one after the other: whoever blocks holds up all."""

    def __init__(self, name: str = "syncflow-flusher") -> None:
        # Never changes.
        self._name = name
        # Guards _thread, and that no moment is put where no thread will read it. A leaf: nothing else is locked while
        # it is held. Re-entrant, for a signal's handler.
        self._lock = new_lock()
        self._thread: threading.Thread | None = None
        # A client and its moment; None: it is over. Takes no lock of ours, so that finalizers may put something in.
        self._news: SimpleQueue[tuple[weakref.ref[Client], float | None]] = SimpleQueue()
        # Owned by the thread, of which there is at most one. By id, because a reference that is dead has no hash.
        self._clients: dict[int, weakref.ref[Client]] = {}
        self._moments: list[tuple[float, int, weakref.ref[Client]]] = []
        self._tickets = itertools.count()

    # ---------------------------------------------------------------- any thread

    def call_at(self, when: float, client: weakref.ref[Client]) -> None:
        """Any thread. Call the client at the moment `when` of `time.monotonic()`. It is needed from now on, until it is
        retired: whoever makes the reference makes `retire` its callback."""
        with self._lock:
            if self._thread is None:
                self._start()
            self._news.put((client, when))

    def retire(self, client: weakref.ref[Client]) -> None:
        """Any thread, at any moment, takes no lock. The client is closed, or dropped: it is not called again once the
        thread has heard of it."""
        if self._thread is not None:  # it does not end while there is a client
            self._news.put((client, None))

    def _start(self) -> None:
        """With _lock held."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            self._thread.start()
        except BaseException:
            # Out of threads, or an interrupt, after which it may run all the same: it finds that it was given up.
            self._thread = None
            raise

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            while self._is_needed():
                self._hear()
                self._call_who_is_due()
        except BaseException:
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None  # the next one goes on with the moments of the others
            raise  # to threading.excepthook: a bug of ours is never silent

    def _is_needed(self) -> bool:
        """False: this thread is not the one, or no more. Whoever asks for a call from now on starts another."""
        with self._lock:
            if self._thread is not threading.current_thread():
                return False
            if self._clients or not self._news.empty():
                return True
            self._moments.clear()  # of clients that have gone
            self._thread = None
            return False

    def _hear(self) -> None:
        """Sleep until the next moment, or until there is news."""
        timeout = None
        if self._moments:
            timeout = min(max(0.0, self._moments[0][0] - time.monotonic()), LONGEST_SLEEP)
        try:
            client, when = self._news.get(timeout=timeout)
        except Empty:
            return
        if when is None:
            self._clients.pop(id(client), None)
        else:
            self._clients[id(client)] = client
            self._remember(when, client)

    def _remember(self, when: float, client: weakref.ref[Client]) -> None:
        heapq.heappush(self._moments, (when, next(self._tickets), client))

    def _call_who_is_due(self) -> None:
        now = time.monotonic()
        while self._moments and self._moments[0][0] <= now:
            self._call(heapq.heappop(self._moments)[2])

    def _call(self, reference: weakref.ref[Client]) -> None:
        """In here only is a client held."""
        client = reference()
        if client is None or id(reference) not in self._clients:
            return
        when = client.on_time()
        if when is not None:
            self._remember(when, reference)

    # ---------------------------------------------------------------- fork

    def _after_fork_in_child(self) -> None:
        """The thread did not come along, unless it was itself that forked: it ends. The queue may be locked."""
        self._lock = new_lock()
        self._thread = None
        self._news = SimpleQueue()
        self._clients = {}
        self._moments = []


_shared = Flusher()


def shared_flusher() -> Flusher:
    """The one that serves every buffer of this process."""
    return _shared


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared._after_fork_in_child)

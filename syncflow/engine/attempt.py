"""One socket on its way to become a transport: it connects, shakes hands, is spoken on.

Knows how a step that would block is waited for: the worker watches the socket, the caller waits. Knows nothing of what
the steps are.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import ClassVar, TypeVar

from .setting_up import SettingUp
from .worker import READ, WRITE, worker_failed

__all__ = ["Attempt"]

T = TypeVar("T")


class Attempt:
    """One socket: the worker's client until it becomes a transport or is closed.

    Args:
        owner: whose it is, and with whose lock and waits.
        sock: non-blocking.
        name: of what it connects to, for messages.
    """

    # Called with each socket ahead of its first use, plain and once more as TLS: so that `syncflow.testing.faults` can
    # make its calls fail. Nobody else sets it.
    tamper: ClassVar[Callable[[socket.socket], None] | None] = None

    def __init__(self, owner: SettingUp, sock: socket.socket, name: str) -> None:
        # Never changes, but for `sock`, which becomes a TLS socket over the same descriptor.
        self.name = name
        self.use(sock)
        self._owner = owner
        self._fd = sock.fileno()
        # The dialing thread's.
        self._was_watched = False
        # Guarded by the owner's lock.
        self.ready = False
        self.failure: OSError | None = None  # the address's
        self._bug: BaseException | None = None  # the worker's
        self._handed_over = False
        owner.attempts.append(self)
        try:
            owner.worker.adopt(self)
        except OSError:  # it could not start: there is nobody who would close this
            owner.attempts.remove(self)
            raise

    def use(self, sock: socket.socket) -> None:
        """Caller. From now on it is this socket."""
        self.sock = sock
        if Attempt.tamper is not None:
            Attempt.tamper(sock)

    def fileno(self) -> int:
        """The descriptor that the worker watches."""
        return self._fd

    def on_ready(self, events: int) -> None:
        """Worker only. Once for each `watch`."""
        self._owner.worker.watch(self, 0)
        with self._owner.lock:
            self.ready = True
            self._owner.cond.notify_all()

    def watch(self, events: int) -> None:
        """Caller, with the owner's lock held. `ready` will be set when the socket is."""
        self.ready = False
        self._was_watched = True
        worker = self._owner.worker
        worker.submit(self, lambda: worker.watch(self, events))

    def perform(self, step: Callable[[], T], blocked_on: int, phase: str) -> T:
        """Caller. Do `step`, again and again while it says that it would block, and wait in between.

        The owner's lock is held in each: where it is one of OpenSSL's, a fork waits for it (see `tls.wrap`).

        Args:
            step: never blocks.
            blocked_on: what a plain socket waits for in it; a TLS socket tells.
            phase: for the errors of the wait.
        """
        owner = self._owner
        while True:
            with owner.lock:
                try:
                    return step()
                except BlockingIOError:
                    events = blocked_on
                except ssl.SSLWantReadError:
                    events = READ
                except ssl.SSLWantWriteError:
                    events = WRITE
                self.watch(events)
                owner.wait_until(lambda: self.ready, phase)
            self.check()

    def check(self) -> None:
        """Caller. Raise if the worker has failed, and the socket with it."""
        if self._bug is not None:
            raise worker_failed(self._owner.origin.where, self._bug)

    def hand_over(self) -> None:
        """Caller. The socket goes to a transport, which the worker will watch instead."""
        with self._owner.lock:
            self.check()
            self._handed_over = True
        worker = self._owner.worker
        if self._was_watched:
            worker.submit(self, lambda: worker.dismiss(self))
        else:
            worker.disown(self)

    def close(self) -> None:
        """Any thread, any number of times."""
        self._owner.worker.submit(self, self._close)

    def _close(self) -> None:
        """Worker only."""
        self._owner.worker.dismiss(self)
        self.sock.close()

    def on_failure(self, error: BaseException) -> None:
        """Worker only. See `Client.on_failure`."""
        with self._owner.lock:
            if self._handed_over:
                return
            self._bug = error
            self.ready = True
            self._owner.cond.notify_all()
        self.sock.close()

    def on_fork(self) -> None:
        """In a forked child: the thread that was dialing did not come along."""
        self.sock.close()

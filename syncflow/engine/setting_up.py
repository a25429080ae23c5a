"""What everybody needs who sets up a connection: one lock, one wait, two limits, and a word from others to give up.

Knows the phases' names, the errors in which a wait can end, and that there may be no file descriptor. Knows nothing of
what else is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..exceptions import ConnectionError, ConnectTimeout, ProxyError, RequestException, Timeout
from .deadline import Deadline
from .descriptors import LOOK_AGAIN, Reserve, Superseded, shortage
from .locks import Condition, new_lock
from .origin import Origin
from .worker import Worker

if TYPE_CHECKING:
    from .attempt import Attempt

__all__ = ["SettingUp"]

T = TypeVar("T")

DOING = {
    "dns": "resolving the name",
    "connect": "connecting",
    "proxy": "being let through",
    "tls": "the TLS handshake",
}


class SettingUp:
    """The setting up of one connection, by one caller.

    Waits are on `cond` and woken by: a socket that is ready or failed (`Attempt`), the resolver, `cancel`; they end by
    `Timeouts.connect`, `Timeouts.total`, or a moment of the waiter's own.
    """

    def __init__(self, worker: Worker, origin: Origin, deadline: Deadline, reserve: Reserve | None = None) -> None:
        # Never changes.
        self.worker = worker
        self.origin = origin
        self.deadline = deadline
        self.clock = deadline.clock
        self._reserve = reserve
        self._begun = deadline.clock()
        limit = deadline.timeouts.connect
        self._until = None if limit is None else deadline.clock() + limit
        # The dialing thread's: all its attempts, and whether what it does now is done with the proxy.
        self.attempts: list[Attempt] = []
        self.is_proxys_turn = False
        # Guards what follows, and the state of every attempt; `cond` is the Condition on it.
        self.lock = new_lock()
        self.cond = Condition(self.lock)
        self._cancelled: RequestException | None = None
        self._may_be_one = False  # a file descriptor, or a connection that makes it unnecessary

    def cancel(self, error: RequestException) -> None:
        """Any thread. End it now, with `error`."""
        with self.lock:
            self._cancelled = error
            self.cond.notify_all()

    def wake(self) -> None:
        """Any thread. Whoever waits is to look again."""
        with self.lock:
            self.cond.notify_all()

    def look_again(self) -> None:
        """Any thread, holding nothing. There may be a file descriptor."""
        with self.lock:
            self._may_be_one = True
            self.cond.notify_all()

    def with_descriptor(self, step: Callable[[], T], phase: str) -> T:
        """Caller. Do `step`, which needs a file descriptor. If there is none, one of our own idle connections gives
        way, and it is done again: once that, or any other of them, is closed or free (`look_again`), and every so often
        in between.

        Raises:
            ConnectionError: there was none before `Timeouts.connect` or `Timeouts.total` ran out.
            Superseded: none is needed any more.
            OSError: what else the step has raised.
        """
        lack: OSError | None = None
        while True:
            self._may_be_one = False  # of two who write it at once the other one loses a twentieth of a second
            try:
                return step()
            except Timeout:
                if lack is None:
                    raise
                raise self._out_of_descriptors(lack, phase) from lack
            except OSError as error:
                lack = shortage(error)
                if lack is None:
                    raise
            found = None if self._reserve is None else self._reserve.relieve(self)
            if found is not None:
                raise Superseded(found)
            try:
                with self.lock:
                    self.wait_until(lambda: self._may_be_one, phase, self.clock() + LOOK_AGAIN)
            except Timeout:
                raise self._out_of_descriptors(lack, phase) from lack

    def _out_of_descriptors(self, lack: OSError, phase: str) -> ConnectionError:
        held = "" if self._reserve is None else f", of which this session holds {self._reserve.held}"
        return ConnectionError(
            f"{self._who}: out of file descriptors{held}: {lack.strerror} for {self.clock() - self._begun:.1f} s "
            "(Timeouts.connect, total); nothing was sent; raise the limit (ulimit -n), lower PoolLimits, or close "
            "responses and files that are not needed",
            phase=phase,
        )

    def wait_until(self, arrived: Callable[[], bool], phase: str, moment: float | None = None) -> None:
        """Caller, with the lock held. Return when `arrived` or at `moment`; raise when called off or at a limit."""
        while True:
            if self._cancelled is not None:
                self._cancelled.phase = phase
                raise self._cancelled
            if arrived() or (moment is not None and self.clock() >= moment):
                return
            left = self.deadline.wait_time(self._until)
            if left == 0.0:
                raise self._timeout(phase)
            if moment is not None:
                patience = max(0.0, moment - self.clock())
                left = patience if left is None else min(left, patience)
            self.cond.wait(left)

    def failure(self, what: str, phase: str) -> ConnectionError:
        """Caller. The error for what went wrong with whoever's turn it is."""
        kind = ProxyError if self.is_proxys_turn else ConnectionError
        return kind(f"{self._who}: {what}", phase=phase)

    @property
    def _who(self) -> str:
        proxy = self.origin.proxy
        if self.is_proxys_turn and proxy is not None:
            return f"{self.origin.where}: proxy {proxy.where}"
        return self.origin.where

    def _timeout(self, phase: str) -> RequestException:
        at = self.deadline.at
        if at is not None and self.clock() >= at:
            return self.deadline.exceeded(self._who, phase)
        return ConnectTimeout(
            f"{self._who}: {DOING[phase]} was not done after {self.deadline.timeouts.connect:g} s "
            "(Timeouts.connect); nothing was sent, so trying again is safe",
            phase=phase,
        )

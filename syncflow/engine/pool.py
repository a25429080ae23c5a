"""The connections of one session: who asks waits here, who is done gives back.

Knows when a connection may be used, set up, awaited and closed. What the limits allow and who is next is the ledger's
to decide, under the pool's lock; what it decided is acted upon outside that lock. Knows nothing of HTTP.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Collection
from time import monotonic
from typing import TYPE_CHECKING

from ..exceptions import Cancelled, PoolTimeout, RequestException, SessionClosed
from ..settings import PoolLimits, Watermarks
from .accounts import Accounts, Usage
from .budget import Budget
from .connection import Connection, SharingConnection
from .deadline import Deadline
from .descriptors import Superseded
from .dialer import Dial
from .expiry import Expiry
from .ledger import Ledger, Ticket, Verdict
from .locks import Bell, new_lock
from .network import DEFAULT_NETWORK, Network
from .origin import Origin
from .setting_up import SettingUp
from .worker import Worker

if TYPE_CHECKING:
    from .stats import PoolStats

__all__ = ["Pool"]

# Seconds that the end of the interpreter waits for a worker to close what is idle; it takes less than a millisecond.
LAST_WAIT = 1.0


class Pool:
    """Connections by origin.

    Args:
        worker: the thread that watches them.
        limits: how many, and how long they are kept.
        watermarks: of their buffers.
        network: how they are made.
        max_buffered: bytes that all buffers may hold together; None is no limit.
    """

    def __init__(
        self,
        worker: Worker,
        limits: PoolLimits,
        watermarks: Watermarks,
        network: Network = DEFAULT_NETWORK,
        max_buffered: int | None = None,
    ) -> None:
        # Never changes.
        self.worker = worker
        self.limits = limits
        self.watermarks = watermarks
        self.network = network
        self._max_buffered = max_buffered
        # Set under _lock, never back.
        self._retired = False  # nothing new begins
        self._closed = False  # and what was under way has been ended
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        # Never changes, but in a forked child.
        self.budget = None if self._max_buffered is None else Budget(self._max_buffered)
        # Guarded by _lock, which comes before any lock of a connection and is never held while one is taken.
        self._lock = threading.Lock()
        self._ledger = Ledger(self.limits)
        self._accounts = Accounts()
        self._dials: set[Dial] = set()
        self._starved: set[SettingUp] = set()  # those that wait for a file descriptor
        self._expiry = Expiry(self)
        self._timer_at: float | None = None  # the moment for which `_expiry` was set
        # Taken with nothing else held; the pool's may be taken inside. The Condition is for who waits until nothing is
        # under way any more.
        self._watch = new_lock()
        self._changed = Bell(self._watch)

    # ---------------------------------------------------------------- getting a connection: the caller

    def connection(self, origin: Origin, deadline: Deadline, *, continues: bool = False) -> Connection:
        """A connection that nobody else uses: an idle one, or a new one when there is a place for it.

        Waits for `Timeouts.pool`; first come, first served.

        Args:
            continues: whether it is for something that is under way, and so may have one of a pool that has retired.

        Raises:
            PoolTimeout, TotalTimeout: nothing became free in time.
            SessionClosed: it was closed before or meanwhile, or retired before.
            ConnectionError, SSLError, ConnectTimeout: a new one could not be set up.
        """
        if self._retired and not continues:
            raise _closed_before(origin)
        try:
            connection = self._take_or_wait(origin, deadline)
            while True:
                if connection is None:
                    try:
                        return self._open_connection(origin, deadline)
                    except Superseded as other:
                        connection = other.connection
                if connection.is_reusable() and not self._ledger.is_too_old(connection):
                    return connection
                with self._lock:
                    may_open = self._ledger.trade(connection)
                connection.close()
                connection = None if may_open else self._take_or_wait(origin, deadline)
        except RequestException:
            raise
        except BaseException:
            self._recover()
            raise

    def _recover(self) -> None:
        """The caller, struck by an interrupt somewhere: nobody would give back what it was about to have."""
        with self._lock:
            verdict = self._ledger.recover(threading.get_ident())
        self._act(verdict)

    def _take_or_wait(self, origin: Origin, deadline: Deadline) -> Connection | None:
        """A connection, which may have died since; None for the permission to open one."""
        with self._lock:
            self._check_open(origin)
            connection = self._ledger.take(origin)
            if connection is not None:
                return connection
            ticket, verdict = self._ledger.queue(origin)
        self._act(verdict)
        try:
            if not ticket.served:
                self._wait(ticket, deadline)
        except RequestException as error:
            self._withdraw(ticket)
            error.phase = "pool"
            raise
        with self._lock:
            self._ledger.collect(ticket)
        if ticket.error is not None:
            ticket.error.phase = "pool"
            raise ticket.error
        return ticket.connection

    def _withdraw(self, ticket: Ticket) -> None:
        """The caller waits no longer: what it was granted in the last moment goes to the next."""
        with self._lock:
            verdict = self._ledger.withdraw(ticket)
        self._act(verdict)
        if ticket.connection is not None:
            self.release(ticket.connection)

    def _wait(self, ticket: Ticket, deadline: Deadline) -> None:
        """Woken by `_act` of whoever served the ticket, or of `close`, and by being called off; ends by the limits."""
        limit = deadline.timeouts.pool
        until = None if limit is None else deadline.clock() + limit
        if deadline.cancellation is not None:
            deadline.cancellation.attend(ticket.fail)
        with ticket.lock:
            while not ticket.served:
                if ticket.failure is not None:
                    raise ticket.failure
                left = deadline.wait_time(until)
                if left == 0.0:
                    raise self._timeout(ticket, deadline)
                ticket.cond.wait(left)

    def _timeout(self, ticket: Ticket, deadline: Deadline) -> RequestException:
        where = ticket.host.origin.where
        if deadline.at is not None and deadline.clock() >= deadline.at:
            return deadline.exceeded(where, "pool")
        return PoolTimeout(
            f"{where}: no connection became free in {deadline.timeouts.pool:g} s (Timeouts.pool), with "
            f"{ticket.host.open} of {self.limits.per_host} for this host and {self._ledger.open} of "
            f"{self.limits.total} in all; close responses that are not read to the end, or raise PoolLimits",
            phase="pool",
        )

    def _open_connection(self, origin: Origin, deadline: Deadline) -> Connection:
        """The caller was granted a place: set the connection up, or give the place back."""
        dial = Dial(self.worker, origin, deadline, self.watermarks, self.network, self.budget, reserve=self)
        try:
            with self._lock:
                self._check_open(origin)
                self._dials.add(dial)
            if deadline.cancellation is not None:
                deadline.cancellation.attend(dial.cancel)
            transport, setup = dial.run()
        except BaseException as error:
            self._forget(dial)
            if isinstance(error, RequestException | Superseded):
                called_off = isinstance(error, SessionClosed | Cancelled | Superseded)
                self._give_place_back(origin, failed=not called_off)
            raise
        connection: Connection | None = None
        try:
            self._starved.discard(dial)
            kind = Connection if self.budget is None else SharingConnection
            connection = kind(self, origin, transport, setup, self.watermarks, self.budget)
            connection.open()
            with self._lock:
                self._dials.discard(dial)
                self._accounts.opened(connection)
                verdict = self._ledger.opened(connection)
            self._act(verdict)
            self._check_open(origin)
        except BaseException:
            self._forget(dial)
            if connection is None:
                transport.close()
            else:
                connection.close()
            raise
        return connection

    def _forget(self, dial: Dial) -> None:
        self._dials.discard(dial)
        self._starved.discard(dial)

    def _give_place_back(self, origin: Origin, *, failed: bool) -> None:
        with self._lock:
            if failed:
                self._accounts.failed(origin)
            verdict = self._ledger.not_opened(origin)
        self._act(verdict)

    def _check_open(self, origin: Origin) -> None:
        """Not whether it has retired: whoever has come this far was there before."""
        if self._closed:
            raise _closed_before(origin)

    # ---------------------------------------------------------------- giving it back: any thread

    def release(self, connection: Connection) -> None:
        """Any thread. It is free for another exchange: the next in the queue gets it, or it waits for one."""
        try:
            with self._lock:
                verdict = self._ledger.release(connection, keep=not self._retired)
                due = self._ledger.due(connection)
                timer_is_late = due is not None and (self._timer_at is None or due < self._timer_at)
                if timer_is_late:
                    self._timer_at = due
            self._act(verdict)
            if self._starved:
                self._look_again()
            if timer_is_late:
                assert due is not None
                when = due
                self.worker.submit(self._expiry, lambda: self._expiry.look_at(when))
        except BaseException:
            self._timer_at = None  # an interrupt: it may not have been set, and the next one has it set again
            self._recover()
            raise

    def discard(self, connection: Connection) -> None:
        """Any thread. It is closed, or about to be; nothing happens the second time."""
        try:
            with self._lock:
                verdict = self._ledger.discard(connection)
            self._act(verdict)
        except BaseException:
            self._recover()
            raise

    def account(self, connection: Connection, usage: Usage) -> None:
        """Any thread. Its socket is closed, and these figures are its last; nothing happens the second time."""
        with self._lock:
            self._accounts.closed(connection, usage)
        self._look_again()

    # ---------------------------------------------------------------- when there is no file descriptor

    def relieve(self, dial: SettingUp) -> Connection | None:
        """The dialing thread: see `Reserve`."""
        with self._lock:
            self._starved.add(dial)
            connection = self._ledger.take(dial.origin)
            verdict = Verdict() if connection is not None else self._ledger.evict()
        self._act(verdict)
        return connection

    @property
    def held(self) -> int:
        """Any thread, no lock. How many connections there are."""
        return len(self._ledger.connections)

    def _look_again(self) -> None:
        """Any thread, without a lock: one of ours is closed, or free."""
        for dial in list(self._starved):
            dial.look_again()

    def _act(self, verdict: Verdict) -> None:
        """Without the lock."""
        try:
            for ticket in verdict.woken:
                with ticket.lock:
                    ticket.cond.notify()
            for connection in verdict.unwanted:
                connection.part()
            if self._retired:
                self.tell_change()
        except BaseException:
            # An interrupt of this thread: others must not wait for ever for what they were granted already.
            self.worker.submit(self._expiry, lambda: self._act(verdict))
            raise

    def expire(self) -> float | None:
        """Worker only. Close what has been idle or alive for too long, watch what is idle; when to look again, None
        for never."""
        with self._lock:
            expired, unwatched, again = self._ledger.expire(monotonic())
            self._timer_at = again
        for connection in unwatched:
            connection.watch()
        for connection in expired:
            connection.part()
        return again

    def stats(self) -> PoolStats:
        """Any thread. Copies what it needs under the lock, and asks the connections without it."""
        from .stats import stats_of  # late: few programs need it

        with self._lock:
            standing = self._ledger.standing()
            statement = self._accounts.statement()
        return stats_of(standing, statement)

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Any thread. Everything ends at once: whoever waits for or through a connection gets `SessionClosed`."""
        with self._lock:
            self._retired = self._closed = True
            tickets = self._ledger.turn_away()
            for ticket in tickets:
                ticket.error = _closed_during(ticket.host.origin)
                ticket.served = True
            dials = list(self._dials)
            connections = list(self._ledger.connections)
        self._act(Verdict(woken=tickets))
        for dial in dials:
            dial.cancel(_closed_during(dial.origin))
        for connection in connections:
            connection.fail(_closed_during(connection.origin))
        self._stop_timer()

    def retire(self) -> None:
        """Any thread. Nothing new begins; what is under way ends in its own time, and its connection with it. Whoever
        waits for a connection is under way and gets one."""
        with self._lock:
            self._retired = True
        self.dismiss_idle()
        self._stop_timer()

    def dismiss_idle(self) -> bool:
        """Any thread. Close what nobody uses; whether there was anything."""
        with self._lock:
            unwanted = self._ledger.dismiss_idle()
        self._act(Verdict(unwanted=unwanted))
        return bool(unwanted)

    @property
    def is_used(self) -> bool:
        """Any thread. Whether anybody has a connection, sets one up, or waits for one."""
        with self._lock:
            return self._ledger.is_used

    def wait_until_unused(self, until: float | None, others: Collection[object] = ()) -> bool:
        """Any thread, once it has retired. Return when nothing is under way any more, nor in `others`; False when the
        moment `until` of `time.monotonic()` comes first.

        Woken by `tell_change`, of whoever gives back or gives up the last, and of whoever takes the last out of
        `others`.
        """
        with self._watch:
            while self.is_used or others:
                if not self._changed.sleep_a_while(until):
                    return False
        return True

    def tell_change(self) -> None:
        """Any thread, holding nothing. Something may have been the last that was under way."""
        with self._watch:
            self._changed.notify_all()

    def retire_from_finalizer(self) -> None:
        """Any thread, at any moment, holding anything: as `retire`, by the worker."""
        if self.has_connections:
            self.worker.submit_from_finalizer(self._expiry, self.retire)

    def _stop_timer(self) -> None:
        if self._timer_at is not None:
            self.worker.submit(self._expiry, self._expiry.cancel)

    @property
    def has_connections(self) -> bool:
        """Any thread, no lock. Whether anything is open."""
        return bool(self._ledger.connections)

    def forget_timer(self) -> None:
        """The worker that ran it is gone, and so is every connection."""
        with self._lock:
            self._timer_at = None

    def after_fork(self) -> None:
        """In a forked child, which has one thread: everything open belongs to the parent."""
        self._begin()


def _closed_before(origin: Origin) -> SessionClosed:
    return SessionClosed(
        f"{origin.where}: the session is closed; make a new one, or keep this one open until the last request"
    )


def _closed_during(origin: Origin) -> SessionClosed:
    """Made anew for each caller: an exception says where it was raised."""
    return SessionClosed(f"{origin.where}: the session was closed during the request")


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@atexit.register
def _at_exit() -> None:
    """Nobody's request is under way any more but those of daemon threads, which are cut as daemons are. What is idle is
    closed as it should be: over TLS that is more than the system does. The pools go on: what was registered earlier,
    and so runs after this, may have something to send."""
    pools = list(_pools)
    workers = {pool.worker: pool for pool in pools if pool.dismiss_idle()}
    for worker, pool in workers.items():
        done = threading.Event()
        worker.submit(pool._expiry, done.set)  # behind what it was asked to close
        done.wait(LAST_WAIT)

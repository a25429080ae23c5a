"""Connections by origin: how many there may be, who gets the next one, when an idle one goes.

Knows limits, queues, expiry. Knows nothing of HTTP: what is in use is the business of whom it was given to.

Everything here is decided under one lock and acted upon outside it: what is to be woken or closed is returned by the
method that decided it. Nothing under the lock takes longer with the number of connections or callers than their
logarithm.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import weakref
from collections import OrderedDict
from time import monotonic

from ..exceptions import PoolTimeout, RequestException, SessionClosed
from ..settings import PoolLimits, Watermarks
from .connection import Connection
from .deadline import Deadline
from .dialer import Dial, Origin
from .worker import Timer, Worker

__all__ = ["Pool"]

# Seconds after which an idle connection is given to the worker to watch. One that is used again before does without:
# whoever takes it looks whether it is quiet.
WATCH_AFTER = 0.05


class Ticket:
    """One caller in the queue. Woken by `Pool._wake` once it was granted something or the pool was closed."""

    __slots__ = ("cond", "connection", "error", "host", "number", "served")

    def __init__(self, host: Host, number: int) -> None:
        # Never changes.
        self.host = host
        self.number = number
        self.cond = threading.Condition(threading.Lock())
        # Written under the pool's lock, once; `served` last.
        self.connection: Connection | None = None  # None when served: it may open one
        self.error: RequestException | None = None
        self.served = False


class Host:
    """What the pool knows of one origin. Guarded by the pool's lock."""

    __slots__ = ("idle", "open", "origin", "waiting")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.open = 0  # connections, those being set up included
        self.idle: list[Connection] = []  # the last used one is taken first: the others may expire
        self.waiting: OrderedDict[int, Ticket] = OrderedDict()  # by number, so in the order of arrival

    def first(self) -> Ticket | None:
        """Who is served next."""
        return next(iter(self.waiting.values()), None)


class Pool:
    """The connections of one session.

    Args:
        worker: the thread that watches them.
        limits: how many, and how long they are kept.
        watermarks: of their buffers.
    """

    def __init__(self, worker: Worker, limits: PoolLimits, watermarks: Watermarks) -> None:
        # Never changes.
        self.worker = worker
        self.limits = limits
        self.watermarks = watermarks
        self._expiry = Expiry(self)
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        # Guarded by _lock, which comes before any lock of a connection and is never held while one is taken.
        self._lock = threading.Lock()
        self._hosts: dict[Origin, Host] = {}
        self._open = 0
        self._connecting = 0
        self._connections: set[Connection] = set()
        self._idle: OrderedDict[Connection, None] = OrderedDict()  # the longest idle first
        self._unwatched: OrderedDict[Connection, None] = OrderedDict()  # those of them that the worker does not watch
        self._dials: set[Dial] = set()
        self._numbers = itertools.count()
        # Hosts whose first ticket waits for a place under the limits of the whole pool, by that ticket's number. An
        # entry may be outdated; that is found out when it is its turn.
        self._hungry: list[tuple[int, Origin]] = []
        self._closed = False  # to new requests
        self._timer_at: float | None = None

    # ---------------------------------------------------------------- getting a connection: the caller

    def connection(self, origin: Origin, deadline: Deadline) -> Connection:
        """A connection that nobody else uses: an idle one, or a new one when there is a place for it.

        Waits for `Timeouts.pool`; first come, first served.

        Raises:
            PoolTimeout, TotalTimeout: nothing became free in time.
            SessionClosed: before or meanwhile.
            ConnectionError, SSLError, ConnectTimeout: a new one could not be set up.
        """
        while True:
            connection, ticket = self._try(origin)
            if ticket is not None:
                connection = self._wait(ticket, deadline)
            if connection is None:
                return self._open_connection(origin, deadline)
            if connection.is_reusable() and not self._is_too_old(connection):
                return connection
            connection.close()

    def _try(self, origin: Origin) -> tuple[Connection | None, Ticket | None]:
        """An idle connection, or a ticket; a ticket that was served at once means that a new one may be opened."""
        with self._lock:
            self._check_open(origin)
            host = self._hosts.get(origin)
            if host is None:
                host = self._hosts[origin] = Host(origin)
            if host.idle:
                connection = host.idle.pop()
                del self._idle[connection]
                self._unwatched.pop(connection, None)
                connection.idle_since = None
                return connection, None
            ticket = Ticket(host, next(self._numbers))
            host.waiting[ticket.number] = ticket
            woken, unwanted = self._serve(host)
        self._act(woken, unwanted)
        return None, ticket

    def _wait(self, ticket: Ticket, deadline: Deadline) -> Connection | None:
        if not ticket.served:
            limit = deadline.timeouts.pool
            until = None if limit is None else deadline.clock() + limit
            try:
                with ticket.cond:
                    while not ticket.served:
                        left = deadline.wait_time(until)
                        if left == 0.0:
                            raise self._timeout(ticket, deadline)
                        ticket.cond.wait(left)
            except BaseException:
                self._withdraw(ticket)
                raise
        if ticket.error is not None:
            raise ticket.error
        return ticket.connection

    def _timeout(self, ticket: Ticket, deadline: Deadline) -> RequestException:
        where = ticket.host.origin.where
        if deadline.at is not None and deadline.clock() >= deadline.at:
            return deadline.exceeded(where, "pool")
        limits = self.limits
        return PoolTimeout(
            f"{where}: no connection became free in {deadline.timeouts.pool:g} s (Timeouts.pool), "
            f"with {ticket.host.open} of {limits.per_host} for this host and {self._open} of {limits.total} in all; "
            "close responses that are not read to the end, or raise PoolLimits",
            phase="pool",
        )

    def _withdraw(self, ticket: Ticket) -> None:
        """The caller has given up; what it was granted in the last moment goes to the next."""
        host = ticket.host
        with self._lock:
            if not ticket.served:
                del host.waiting[ticket.number]
                woken, unwanted = self._serve(host)
            elif ticket.error is not None:
                return
            elif ticket.connection is not None:
                woken, unwanted = self._put_back(ticket.connection, host)
            else:
                self._connecting -= 1
                woken, unwanted = self._free_place(host)
        self._act(woken, unwanted)

    def _open_connection(self, origin: Origin, deadline: Deadline) -> Connection:
        """The caller was granted a place: set the connection up, or give the place back."""
        dial = Dial(self.worker, origin, deadline, self.watermarks)
        connection = None
        try:
            with self._lock:
                self._check_open(origin)
                self._dials.add(dial)
            transport, setup = dial.run()
            connection = Connection(self, origin, transport, setup, self.watermarks)
            connection.open()
        finally:
            with self._lock:
                self._dials.discard(dial)
                self._connecting -= 1
                host = self._hosts[origin]
                if connection is None:
                    woken, unwanted = self._free_place(host)
                else:
                    connection.opened_at = monotonic()
                    self._connections.add(connection)
                    woken, unwanted = self._serve(host)
            self._act(woken, unwanted)
        if self._closed:
            connection.close()
            self._check_open(origin)
        return connection

    def _check_open(self, origin: Origin) -> None:
        if self._closed:
            raise SessionClosed(
                f"{origin.where}: the session is closed; make a new one, or keep this one open until the last request"
            )

    def _is_too_old(self, connection: Connection) -> bool:
        age = self.limits.max_age
        return age is not None and monotonic() - connection.opened_at >= age

    # ---------------------------------------------------------------- giving it back: any thread

    def release(self, connection: Connection) -> None:
        """Any thread. It is free for another exchange: the next in the queue gets it, or it waits for one."""
        with self._lock:
            if connection not in self._connections:
                return
            woken, unwanted = self._put_back(connection, self._hosts[connection.origin])
            start_timer = connection in self._idle and self._timer_is_late(connection)
            if start_timer:
                self._timer_at = self._due(connection)
        if woken or unwanted:
            self._act(woken, unwanted)
        if start_timer:
            self.worker.submit(self._expiry, self._expiry.schedule)

    def discard(self, connection: Connection) -> None:
        """Any thread. It is closed, or about to be; nothing happens the second time."""
        with self._lock:
            if connection not in self._connections:
                return
            host = self._hosts[connection.origin]
            if connection in self._idle:
                del self._idle[connection]
                self._unwatched.pop(connection, None)
                host.idle.remove(connection)
            self._connections.discard(connection)
            woken, unwanted = self._free_place(host)
        self._act(woken, unwanted)

    def _act(self, woken: list[Ticket], unwanted: list[Connection]) -> None:
        """Without the lock."""
        for ticket in woken:
            with ticket.cond:
                ticket.cond.notify()
        for connection in unwanted:
            connection.close()

    # ---------------------------------------------------------------- deciding: with the lock held

    def _put_back(self, connection: Connection, host: Host) -> tuple[list[Ticket], list[Connection]]:
        """A connection that was in use is free."""
        ticket = host.first()
        if ticket is not None:
            del host.waiting[ticket.number]
            ticket.connection = connection
            ticket.served = True
            self._queue_host(host)
            return [ticket], []
        if self._closed or self.limits.idle == 0 or self._is_too_old(connection):
            return [], [connection]  # `discard` gives its place away
        connection.idle_since = monotonic()
        host.idle.append(connection)
        self._idle[connection] = None
        if not connection.transport.is_watched:
            self._unwatched[connection] = None
        return self._serve(host) if self._hungry else ([], [])

    def _free_place(self, host: Host) -> tuple[list[Ticket], list[Connection]]:
        """A connection is gone, or was never set up."""
        host.open -= 1
        self._open -= 1
        woken, unwanted = self._serve(host)
        if not host.open and not host.waiting:
            self._hosts.pop(host.origin, None)
        return woken, unwanted

    def _serve(self, host: Host) -> tuple[list[Ticket], list[Connection]]:
        """Grant places to those who came first, as far as the limits allow; something has changed at `host`."""
        self._queue_host(host)
        woken: list[Ticket] = []
        unwanted: list[Connection] = []
        limits = self.limits
        while self._hungry:
            if limits.connecting is not None and self._connecting >= limits.connecting:
                break
            number, origin = self._hungry[0]
            hungry = self._hosts.get(origin)
            ticket = hungry.waiting.get(number) if hungry is not None else None
            if hungry is None or ticket is None or hungry.open >= limits.per_host:
                heapq.heappop(self._hungry)  # outdated: it is queued again when that host has a place
                continue
            if self._open >= limits.total:
                if not self._idle:
                    break
                # Connections that nobody uses give way: the longest idle one is closed.
                oldest = next(iter(self._idle))
                self._remove_idle(oldest)
                unwanted.append(oldest)
            heapq.heappop(self._hungry)
            del hungry.waiting[number]
            hungry.open += 1
            self._open += 1
            self._connecting += 1
            ticket.served = True
            woken.append(ticket)
            self._queue_host(hungry)
        return woken, unwanted

    def _queue_host(self, host: Host) -> None:
        """If its first ticket could be served by opening a connection, it stands in the queue of the pool."""
        ticket = host.first()
        if ticket is not None and host.open < self.limits.per_host:
            heapq.heappush(self._hungry, (ticket.number, host.origin))

    def _remove_idle(self, connection: Connection) -> None:
        """It is not the pool's any more; whoever calls closes it."""
        host = self._hosts[connection.origin]
        self._connections.discard(connection)
        del self._idle[connection]
        self._unwatched.pop(connection, None)
        host.idle.remove(connection)
        host.open -= 1
        self._open -= 1
        if not host.open and not host.waiting:
            del self._hosts[connection.origin]

    # ---------------------------------------------------------------- expiry

    def _timer_is_late(self, connection: Connection) -> bool:
        """With the lock held."""
        return self._timer_at is None or self._due(connection) < self._timer_at

    def _due(self, connection: Connection) -> float:
        """With the lock held. When something is to be done about an idle connection."""
        expires = self._expires_at(connection)
        if connection not in self._unwatched:
            return expires
        assert connection.idle_since is not None
        return min(expires, connection.idle_since + WATCH_AFTER)

    def _expires_at(self, connection: Connection) -> float:
        assert connection.idle_since is not None
        until = connection.idle_since + self.limits.idle
        age = self.limits.max_age
        return until if age is None else min(until, connection.opened_at + age)

    def expire(self) -> float | None:
        """Worker only. Close what has been idle or alive for too long, watch what is idle; when to look again, None
        for never."""
        now = monotonic()
        unwatched: list[Connection] = []
        with self._lock:
            if self.limits.max_age is None:
                unwanted = list(itertools.takewhile(lambda c: self._expires_at(c) <= now, self._idle))
            else:
                # By age the order is another one. There are at most `total` of them.
                unwanted = [c for c in self._idle if self._expires_at(c) <= now]
            for connection in unwanted:
                self._remove_idle(connection)
            while self._unwatched and self._due(next(iter(self._unwatched))) <= now:
                unwatched.append(self._unwatched.popitem(last=False)[0])
            candidates = list(itertools.islice(self._idle, 1 if self.limits.max_age is None else None))
            candidates += itertools.islice(self._unwatched, 1)
            again = self._timer_at = min(map(self._due, candidates), default=None)
        for connection in unwatched:
            connection.watch()
        for connection in unwanted:
            connection.close()
        return again

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Any thread. Everything ends at once: whoever waits for or through a connection gets `SessionClosed`."""
        with self._lock:
            self._closed = True
            tickets = [ticket for host in self._hosts.values() for ticket in host.waiting.values()]
            for ticket in tickets:
                ticket.error = SessionClosed(f"{ticket.host.origin.where}: the session was closed during the request")
                ticket.served = True
                ticket.host.waiting.clear()
            dials = list(self._dials)
            connections = list(self._connections)
        self._act(tickets, [])
        for dial in dials:
            dial.cancel(SessionClosed(f"{dial.origin.where}: the session was closed during the request"))
        for connection in connections:
            connection.fail(SessionClosed(f"{connection.origin.where}: the session was closed during the request"))
        self._stop_timer()

    def retire(self) -> None:
        """Any thread. Nothing new begins; what is under way ends in its own time, and its connection with it."""
        with self._lock:
            self._closed = True
            unwanted = list(self._idle)
            for connection in unwanted:
                self._remove_idle(connection)
        for connection in unwanted:
            connection.close()
        self._stop_timer()

    def retire_from_finalizer(self) -> None:
        """Any thread, at any moment, holding anything: as `retire`, by the worker."""
        if self._connections:
            self.worker.submit_from_finalizer(self._expiry, self.retire)

    def _stop_timer(self) -> None:
        if self._timer_at is not None:
            self.worker.submit(self._expiry, self._expiry.cancel)

    @property
    def has_connections(self) -> bool:
        """Any thread, no lock. Whether anything is open."""
        return bool(self._connections)

    def forget_timer(self) -> None:
        """The worker that ran it is gone, and so is every connection."""
        with self._lock:
            self._timer_at = None

    def after_fork(self) -> None:
        """In a forked child, which has one thread: everything open belongs to the parent."""
        closed = self._closed
        self._reset()
        self._closed = closed


class Expiry:
    """The pool's timer: the worker's client, which holds the pool only weakly."""

    def __init__(self, pool: Pool) -> None:
        self._pool = weakref.ref(pool)
        self._worker = pool.worker
        # Worker only.
        self._timer: Timer | None = None

    def schedule(self) -> None:
        """Worker only. Look for what has expired, now and when it will be time again."""
        self.cancel()
        pool = self._pool()
        again = pool.expire() if pool is not None else None
        if again is not None:
            self._timer = self._worker.call_at(again, self, self.schedule)

    def cancel(self) -> None:
        """Worker only."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def fileno(self) -> int:
        """It is never watched, only timed."""
        return -1

    def on_ready(self, events: int) -> None:
        """It is never watched, only timed."""

    def on_failure(self, error: BaseException) -> None:
        """Timers are gone with the worker."""
        self._timer = None
        pool = self._pool()
        if pool is not None:
            pool.forget_timer()

    def on_fork(self) -> None:
        """Timers stayed with the parent."""
        self._timer = None


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

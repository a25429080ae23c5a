"""Who has which connection, who waits for one, and what the limits allow.

Decides, and acts upon nothing: what is to be woken, opened or closed is returned. Knows no lock: the pool holds its own
around every call. Nothing takes longer with the number of connections or callers than their logarithm, but for what
nobody needs at work: `recover`, `standing`, the end.

An interrupt (Ctrl-C) may end any of these methods in the middle, at a call or at the end of a loop. So there are a few
facts, each changed by a statement without a call, or by a single call; the rest is counted, and `recover` counts anew.
The facts: which connections there are, since when each is idle and else who took it; who has a place and opens one; who
waits, and what was granted.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import get_ident
from time import monotonic
from typing import NamedTuple

from ..exceptions import RequestException
from ..settings import PoolLimits
from .connection import Connection
from .locks import Condition, new_lock
from .origin import Origin

__all__ = ["Ledger", "Standing", "Ticket", "Verdict"]

# Seconds after which an idle connection is given to the worker to watch. One that is used again before does without:
# whoever takes it looks whether it is quiet.
WATCH_AFTER = 0.05

# Outdated entries that the queue may hold, whatever the number of hosts.
OUTDATED = 16


class Ticket:
    """One caller in the queue, who waits on `cond` until `served`."""

    __slots__ = ("caller", "cond", "connection", "error", "failure", "host", "lock", "number", "served")

    def __init__(self, host: Host, number: int) -> None:
        # Never changes.
        self.number = number
        self.caller = get_ident()
        self.lock = new_lock()
        self.cond = Condition(self.lock)
        # Guarded by the pool's lock.
        self.host = host
        # Written once; `served` last.
        self.connection: Connection | None = None  # None when served: it may open one
        self.error: RequestException | None = None
        self.served = False
        # Guarded by `lock`: set if the caller is to wait no longer.
        self.failure: RequestException | None = None

    def fail(self, error: RequestException) -> None:
        """Any thread, holding nothing. End the caller's wait."""
        with self.lock:
            self.failure = error
            self.cond.notify()


class Host:
    """What is known of one origin."""

    __slots__ = ("idle", "open", "origin", "queued", "waiting")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.open = 0  # connections, those being set up included
        self.idle: list[Connection] = []  # the last used one is taken first: the others may expire
        self.waiting: OrderedDict[int, Ticket] = OrderedDict()  # by number, so in the order of arrival
        self.queued = -1  # the number by which it stands in the ledger's queue

    def first(self) -> Ticket | None:
        """Who is served next."""
        return next(iter(self.waiting.values()), None)


@dataclass(slots=True)
class Verdict:
    """What the pool is to do, once its lock is released."""

    woken: list[Ticket] = field(default_factory=list)
    unwanted: list[Connection] = field(default_factory=list)


class Standing(NamedTuple):
    """Who has what at one moment: an origin for each connection and each caller."""

    idle: list[Origin]
    in_use: list[Origin]
    waiting: list[Origin]
    connecting: list[tuple[Origin, int]]  # and how many


class Ledger:
    """The books of one pool."""

    def __init__(self, limits: PoolLimits) -> None:
        self._limits = limits
        self._hosts: dict[Origin, Host] = {}
        self.open = 0  # in all, those being set up included
        self.connecting = 0  # those being set up
        self.connections: set[Connection] = set()
        self._places: dict[tuple[int, Origin], int] = {}  # how many of those being set up are which thread's
        self._tickets: dict[int, Ticket] = {}  # of those who wait, or do not know yet that they were served
        self._idle: OrderedDict[Connection, None] = OrderedDict()  # the longest idle first
        self._unwatched: OrderedDict[Connection, None] = OrderedDict()  # those of them that the worker does not watch
        self._numbers = itertools.count()
        # Hosts whose first ticket waits for a place under the limits of the whole pool, by that ticket's number. An
        # entry may be outdated; that is found out when it is its turn.
        self._queue: list[tuple[int, Origin]] = []

    # ---------------------------------------------------------------- a caller comes

    def take(self, origin: Origin) -> Connection | None:
        """The idle connection that was used last."""
        host = self._hosts.get(origin)
        if host is None or not host.idle:
            return None
        connection = host.idle.pop()
        del self._idle[connection]
        self._unwatched.pop(connection, None)
        connection.taken_by = get_ident()
        connection.idle_since = None
        return connection

    def queue(self, origin: Origin) -> tuple[Ticket, Verdict]:
        """A ticket for one who found nothing idle. It may be served at once: then a connection may be opened."""
        host = self._host(origin)
        ticket = Ticket(host, next(self._numbers))
        self._tickets[ticket.number] = host.waiting[ticket.number] = ticket
        return ticket, self._serve(host)

    def collect(self, ticket: Ticket) -> None:
        """Its caller knows that it was served."""
        self._tickets.pop(ticket.number, None)

    def withdraw(self, ticket: Ticket) -> Verdict:
        """Its caller has given up; a place it was granted in the last moment goes to the next. (A connection it was
        granted is in use, and the caller's to release.)"""
        host = ticket.host
        self.collect(ticket)
        if not ticket.served:
            del host.waiting[ticket.number]
            verdict = self._serve(host)
            self._forget_if_empty(host)
            return verdict
        if ticket.error is not None or ticket.connection is not None:
            return Verdict()
        return self.not_opened(host.origin)

    # ---------------------------------------------------------------- a connection comes or goes

    def opened(self, connection: Connection) -> Verdict:
        """A place that was granted has become a connection, which is in use."""
        connection.opened_at = monotonic()
        connection.taken_by = get_ident()
        self.connections.add(connection)
        self._end_setting_up(connection.origin)
        return self._serve(self._hosts[connection.origin])

    def not_opened(self, origin: Origin) -> Verdict:
        """A place that was granted is given back."""
        self._end_setting_up(origin)
        return self._free_place(self._hosts[origin])

    def release(self, connection: Connection, *, keep: bool = True) -> Verdict:
        """One that was in use is free: it goes to the next in the queue, or is idle, or is unwanted."""
        if connection not in self.connections:
            return Verdict()
        host = self._hosts[connection.origin]
        ticket = host.first()
        if ticket is not None:
            connection.taken_by = ticket.caller
            ticket.connection = connection
            ticket.served = True
            del host.waiting[ticket.number]
            self._enqueue(host)
            return Verdict(woken=[ticket])
        if not keep or self._limits.idle == 0 or self.is_too_old(connection):
            return Verdict(unwanted=[connection])  # `discard` gives its place away
        connection.idle_since = monotonic()
        self._put_idle(connection, host)
        return self._serve(host) if self._queue else Verdict()

    def discard(self, connection: Connection) -> Verdict:
        """One is closed, or about to be; nothing happens the second time."""
        if connection not in self.connections:
            return Verdict()
        host = self._hosts[connection.origin]
        self._strike(connection, host)
        return self._free_place(host)

    def evict(self) -> Verdict:
        """The longest idle connection gives way, if there is one."""
        oldest = next(iter(self._idle), None)
        if oldest is None:
            return Verdict()
        verdict = self.discard(oldest)
        verdict.unwanted.append(oldest)
        return verdict

    def trade(self, connection: Connection) -> bool:
        """One that was given to a caller is of no use: whether the caller may open another in its place, without
        standing in the queue again."""
        limit = self._limits.connecting
        if connection not in self.connections or (limit is not None and self.connecting >= limit):
            return False
        self._begin_setting_up(get_ident(), connection.origin)
        self.connections.discard(connection)
        return True

    def is_too_old(self, connection: Connection) -> bool:
        """Whether it is not to be used again."""
        age = self._limits.max_age
        return age is not None and monotonic() - connection.opened_at >= age

    def standing(self) -> Standing:
        """For who watches. From the facts alone, so that it is right even while a `recover` is due."""
        return Standing(
            idle=[c.origin for c in self.connections if c.idle_since is not None],
            in_use=[c.origin for c in self.connections if c.idle_since is None],
            waiting=[ticket.host.origin for ticket in self._tickets.values() if not ticket.served],
            connecting=[(origin, count) for (_, origin), count in self._places.items()],
        )

    # ---------------------------------------------------------------- time passes

    def due(self, connection: Connection) -> float | None:
        """When something is to be done about an idle connection: it expires, or is to be watched. None: it is not
        idle."""
        if connection.idle_since is None or connection not in self._idle:
            return None
        due = connection.idle_since + self._limits.idle
        if self._limits.max_age is not None:
            due = min(due, connection.opened_at + self._limits.max_age)
        if connection in self._unwatched:
            due = min(due, connection.idle_since + WATCH_AFTER)
        return due

    def expire(self, now: float) -> tuple[list[Connection], list[Connection], float | None]:
        """What has been idle or alive for too long; what the worker is to watch; when to look again."""
        by_age = self._limits.max_age is not None
        expired: list[Connection] = []
        # By age the order is another one, and all have to be looked at: at most `PoolLimits.total`.
        for connection in list(self._idle) if by_age else self._idle:
            if not self._has_expired(connection, now):
                if by_age:
                    continue
                break
            expired.append(connection)
        for connection in expired:
            self._remove_idle(connection)
        watch: list[Connection] = []
        for connection in self._unwatched:
            if connection.idle_since is not None and connection.idle_since + WATCH_AFTER > now:
                break
            watch.append(connection)
        for connection in watch:
            del self._unwatched[connection]
        candidates = itertools.chain(
            itertools.islice(self._idle, None if by_age else 1), itertools.islice(self._unwatched, 1)
        )
        return expired, watch, min((due for c in candidates if (due := self.due(c)) is not None), default=None)

    def _has_expired(self, connection: Connection, now: float) -> bool:
        assert connection.idle_since is not None
        return connection.idle_since + self._limits.idle <= now or self.is_too_old(connection)

    # ---------------------------------------------------------------- the end

    def recover(self, thread: int) -> Verdict:
        """An interrupt has struck `thread` in one of these methods, or before it could keep what one of them gave it.
        What it was about to use or to open nobody has: it is given up."""
        lost = [c for c in self.connections if c.idle_since is None and c.taken_by == thread and not c.is_busy]
        self.connections.difference_update(lost)
        self._places = {key: count for key, count in self._places.items() if key[0] != thread}
        self._tickets = {number: ticket for number, ticket in self._tickets.items() if ticket.caller != thread}
        self._count_anew()
        verdict = Verdict(unwanted=lost, woken=[ticket for ticket in self._tickets.values() if ticket.served])
        for host in list(self._hosts.values()):
            granted = self._serve(host)
            verdict.woken += granted.woken
            verdict.unwanted += granted.unwanted
        return verdict

    def _count_anew(self) -> None:
        self._hosts = {}
        self._queue = []
        self._idle.clear()
        self._unwatched.clear()
        for connection in self.connections:
            self._host(connection.origin).open += 1
        for connection in sorted(self.connections, key=lambda connection: connection.idle_since or 0.0):
            if connection.idle_since is not None:
                self._put_idle(connection, self._hosts[connection.origin])
        for (_, origin), count in self._places.items():
            self._host(origin).open += count
        for number, ticket in sorted(self._tickets.items()):
            ticket.host = self._host(ticket.host.origin)
            if not ticket.served:
                ticket.host.waiting[number] = ticket
        self.connecting = sum(self._places.values())
        self.open = len(self.connections) + self.connecting

    def turn_away(self) -> list[Ticket]:
        """All who wait, in their order; they wait no more."""
        tickets = sorted((t for host in self._hosts.values() for t in host.waiting.values()), key=lambda t: t.number)
        for ticket in tickets:
            ticket.host.waiting.clear()
            self._forget_if_empty(ticket.host)
        return tickets

    @property
    def is_used(self) -> bool:
        """Whether anybody has a connection, sets one up, or waits for one: nobody waits while there is nothing to wait
        for."""
        return self.open > len(self._idle)

    def dismiss_idle(self) -> list[Connection]:
        """All that nobody uses; they are the caller's to close."""
        unwanted = list(self._idle)
        for connection in unwanted:
            self._remove_idle(connection)
        return unwanted

    # ---------------------------------------------------------------- who is next

    def _serve(self, host: Host) -> Verdict:
        """Grant places to those who came first, as far as the limits allow; something has changed at `host`."""
        verdict = Verdict()
        self._enqueue(host)
        while self._queue and (self._limits.connecting is None or self.connecting < self._limits.connecting):
            number, origin = self._queue[0]
            hungry = self._hosts.get(origin)
            ticket = None if hungry is None else hungry.waiting.get(number)
            if hungry is None or ticket is None or hungry.open >= self._limits.per_host:
                self._dequeue(hungry)  # outdated; it comes again when that host has a place
                continue
            if self.open >= self._limits.total:
                if not self._idle:
                    break
                # Connections that nobody uses give way: the longest idle one is closed.
                oldest = next(iter(self._idle))
                self._remove_idle(oldest)
                verdict.unwanted.append(oldest)
            self._dequeue(hungry)
            del hungry.waiting[number]
            hungry.open += 1
            self.open += 1
            self._begin_setting_up(ticket.caller, origin)
            ticket.served = True
            verdict.woken.append(ticket)
            self._enqueue(hungry)
        return verdict

    def _enqueue(self, host: Host) -> None:
        """If its first ticket could be served by opening a connection, it stands in the queue, once."""
        ticket = host.first()
        if ticket is not None and ticket.number != host.queued and host.open < self._limits.per_host:
            host.queued = ticket.number
            heapq.heappush(self._queue, (ticket.number, host.origin))
            if len(self._queue) > 2 * len(self._hosts) + OUTDATED:
                self._drop_outdated()

    def _drop_outdated(self) -> None:
        """Behind one who waits for long, any number may come and give up. A host has one entry that counts, so this
        costs each of those who came a constant share."""
        hosts = self._hosts
        self._queue = [(n, origin) for n, origin in self._queue if origin in hosts and hosts[origin].queued == n]
        heapq.heapify(self._queue)

    def _dequeue(self, host: Host | None) -> None:
        number, _ = heapq.heappop(self._queue)
        if host is not None and host.queued == number:
            host.queued = -1

    def _begin_setting_up(self, thread: int, origin: Origin) -> None:
        place = (thread, origin)
        self._places[place] = self._places.get(place, 0) + 1
        self.connecting += 1

    def _end_setting_up(self, origin: Origin) -> None:
        """By the thread that was granted the place."""
        place = (get_ident(), origin)
        count = self._places[place] - 1
        if count:
            self._places[place] = count
        else:
            del self._places[place]
        self.connecting -= 1

    def _host(self, origin: Origin) -> Host:
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts[origin] = Host(origin)
        return host

    def _put_idle(self, connection: Connection, host: Host) -> None:
        host.idle.append(connection)
        self._idle[connection] = None
        if not connection.transport.is_watched:
            self._unwatched[connection] = None

    def _free_place(self, host: Host) -> Verdict:
        """A connection is gone, or was never set up."""
        host.open -= 1
        self.open -= 1
        verdict = self._serve(host)
        self._forget_if_empty(host)
        return verdict

    def _remove_idle(self, connection: Connection) -> None:
        """It is the caller's to close."""
        host = self._hosts[connection.origin]
        self._strike(connection, host)
        host.open -= 1
        self.open -= 1
        self._forget_if_empty(host)

    def _strike(self, connection: Connection, host: Host) -> None:
        self.connections.discard(connection)
        if connection in self._idle:
            del self._idle[connection]
            self._unwatched.pop(connection, None)
            host.idle.remove(connection)

    def _forget_if_empty(self, host: Host) -> None:
        if not host.open and not host.waiting:
            self._hosts.pop(host.origin, None)

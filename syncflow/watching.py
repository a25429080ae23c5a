"""What a program may be told of its requests while they happen: the records, and who gets them.

Knows when each is due and what it holds. Knows nothing of how requests are sent, and costs nothing where nobody
watches: then none of this is made.

An observer is an object with any of the methods in `EVENTS`, each called with one frozen record. They run in the thread
that makes the request, with no lock held, so what they do takes its time from the request; what they raise is logged
and otherwise ignored. Each try of a request has an `id` of its own: it begins with `request_started` and ends with
either `response_ended` or `request_failed`, never both. The end of one that the program has dropped, as a response
unread, is told with the next record of any session that is watched, or by the next `Session.close()`: nobody's code
runs in a finalizer.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exceptions import RequestException
    from .models import PreparedRequest

__all__ = [
    "EVENTS",
    "BackpressureEnded",
    "BackpressureStarted",
    "CircuitChanged",
    "ConnectionOpened",
    "ConnectionReused",
    "Record",
    "RequestFailed",
    "RequestSent",
    "RequestStarted",
    "ResponseEnded",
    "ResponseStarted",
    "Retrying",
    "Watch",
    "tell_late",
    "watch_for",
]

_log = logging.getLogger("syncflow")


@dataclass(frozen=True, slots=True)
class Record:
    """What every record of a request has.

    Attributes:
        id: of the try; the same in all records of it.
        request: what is sent. In `request_started` its headers may still be changed.
        origin: "scheme://host:port", as in `PoolStats.by_origin`.
    """

    id: int
    request: PreparedRequest
    origin: str


@dataclass(frozen=True, slots=True)
class RequestStarted(Record):
    """A try begins: it asks for a connection next.

    Attributes:
        number: of this try of the request, from 1.
        resends: requests that the same call has sent before: earlier tries, redirects, answers to challenges.
    """

    number: int
    resends: int


@dataclass(frozen=True, slots=True)
class ConnectionOpened(Record):
    """A connection was made for it.

    Attributes:
        peer: address and port.
        waited: seconds in the queue of the pool.
        dns: seconds.
        connect: seconds, those of a proxy included.
        tls: seconds.
    """

    peer: tuple[str, int]
    waited: float
    dns: float
    connect: float
    tls: float


@dataclass(frozen=True, slots=True)
class ConnectionReused(Record):
    """It goes over a connection that has carried others before.

    Attributes:
        peer: address and port.
        waited: seconds in the queue of the pool.
        uses: requests that the connection has carried before.
    """

    peer: tuple[str, int]
    waited: float
    uses: int


@dataclass(frozen=True, slots=True)
class RequestSent(Record):
    """All of it was handed over; the last bytes may still wait in the connection's buffer. Not told if the server has
    answered before.

    Attributes:
        elapsed: seconds since the try began.
    """

    elapsed: float


@dataclass(frozen=True, slots=True)
class ResponseStarted(Record):
    """The head of the answer is there. Of a response that is not streamed, so is the rest.

    Attributes:
        status: e.g. 200.
        headers: names and values as they came.
        elapsed: seconds from the beginning of the try to the first byte of the answer.
    """

    status: int
    headers: list[tuple[str, str]]
    elapsed: float


@dataclass(frozen=True, slots=True)
class ResponseEnded(Record):
    """The answer is over.

    Attributes:
        status: e.g. 200.
        bytes_sent: of the request's body.
        bytes_received: of the answer's body, as it came.
        elapsed: seconds since the try began.
        is_complete: False if the program has let it go before its end.
    """

    status: int
    bytes_sent: int
    bytes_received: int
    elapsed: float
    is_complete: bool


@dataclass(frozen=True, slots=True)
class RequestFailed(Record):
    """The try has ended with an error, which goes to the program unless `retrying` follows.

    Attributes:
        error: a `RequestException`, or what else was raised in the course of it.
        elapsed: seconds since the try began.
    """

    error: BaseException
    elapsed: float


@dataclass(frozen=True, slots=True)
class Retrying(Record):
    """It will be sent again.

    Attributes:
        number: of the try that was made, from 1.
        delay: seconds until the next.
        status: of the answer that is the reason; None if it is an error.
        error: that error.
    """

    number: int
    delay: float
    status: int | None
    error: RequestException | None


@dataclass(frozen=True, slots=True)
class BackpressureStarted(Record):
    """The program writes faster than the server takes, and waits.

    Attributes:
        buffered: bytes of body that wait to be sent.
    """

    buffered: int


@dataclass(frozen=True, slots=True)
class BackpressureEnded(Record):
    """It goes on.

    Attributes:
        buffered: bytes of body that wait to be sent.
        waited: seconds.
    """

    buffered: int
    waited: float


@dataclass(frozen=True, slots=True)
class CircuitChanged:
    """An origin is left alone from now on, or no longer: see `CircuitBreaker`.

    Attributes:
        origin: "scheme://host:port".
        state: "open", or "closed".
        reset_after: seconds for which it stays open.
    """

    origin: str
    state: str
    reset_after: float


# What an observer may have methods for, and what each is called with.
EVENTS: dict[str, type[Record] | type[CircuitChanged]] = {
    "request_started": RequestStarted,
    "connection_opened": ConnectionOpened,
    "connection_reused": ConnectionReused,
    "request_sent": RequestSent,
    "response_started": ResponseStarted,
    "response_ended": ResponseEnded,
    "request_failed": RequestFailed,
    "retrying": Retrying,
    "backpressure_started": BackpressureStarted,
    "backpressure_ended": BackpressureEnded,
    "circuit_changed": CircuitChanged,
}

# One for all sessions, so that several of them can have the same observer.
next_id = itertools.count(1).__next__

# Of what was dropped, and who is to be told: of all sessions, because the one it was of may be closed, and have no next
# record. Appended to by finalizers, which may hold any lock; a deque needs none.
_late: deque[tuple[Watch, str, Record]] = deque()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_late.clear)  # the parent tells of what it has dropped


def tell_late() -> None:
    """A thread of the program's, holding nothing. What finalizers have left behind."""
    while _late:
        try:
            watch, event, record = _late.popleft()
        except IndexError:
            return  # another thread was quicker
        watch.tell_one(event, record)


class Watch:
    """Who is to be told of what. Any thread."""

    def __init__(self, observers: Iterable[object]) -> None:
        # Never changes.
        self._methods: dict[str, list[Callable[[Any], object]]] = {
            name: [getattr(observer, name) for observer in observers if callable(getattr(observer, name, None))]
            for name in EVENTS
        }

    def wants(self, event: str) -> bool:
        """Whether anybody has a method for it."""
        return bool(self._methods[event])

    def tell(self, event: str, record: Record | CircuitChanged) -> None:
        """In the thread that makes the request, holding nothing."""
        if _late:
            tell_late()
        self.tell_one(event, record)

    def tell_later(self, event: str, record: Record) -> None:
        """Any thread, at any moment, holding anything: with the next record."""
        _late.append((self, event, record))

    def tell_one(self, event: str, record: Record | CircuitChanged) -> None:
        """As `tell`, and nothing else first."""
        for method in self._methods[event]:
            try:
                method(record)
            except Exception:
                _log.exception("%s of an observer failed; the request goes on", event)


def watch_for(events: Any, log: object) -> Watch | None:
    """For `events=` of a session: an object, or several; None if there is none. `log` is told too.

    Raises:
        TypeError: one of them has none of the methods.
    """
    if events is None:
        return None
    observers = list(events) if isinstance(events, list | tuple) else [events]
    for observer in observers:
        if not any(callable(getattr(observer, name, None)) for name in EVENTS):
            raise TypeError(f"events= takes objects with any of the methods {', '.join(EVENTS)}; {observer!r} has none")
    return Watch([*observers, log])

"""Requests of syncflow caught on their way out, and given a socket pair in place of a connection.

Knows the three methods of the client that stand between a request and the network, and puts others in their place.
Knows nothing of answers.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from syncflow import exceptions
from syncflow.adapters import HTTPAdapter
from syncflow.engine.connection import Connection
from syncflow.engine.dialer import Dial
from syncflow.engine.exchange import Exchange
from syncflow.engine.origin import Origin
from syncflow.engine.timings import NO_SETUP, Setup
from syncflow.engine.transport import Transport
from syncflow.routes import Route
from syncflow.testing.mock_server import Booking, Bookings, MockServer

if TYPE_CHECKING:
    from syncflow.adapters.witness import TryWitness
    from syncflow.adapters.writing import WrittenHead
    from syncflow.engine.deadline import Deadline
    from syncflow.models import PreparedRequest
    from syncflow.testing.mock import MockAnswer, MockedRequest

__all__ = ["Interception"]

# What a request gets, whose head is this. Called on the requesting thread.
Book = Callable[["PreparedRequest", bytes], "tuple[MockedRequest, MockAnswer]"]

# Of errors that tell none; the first that fits.
PHASES: dict[type[exceptions.RequestException], str] = {
    exceptions.ProxyError: "proxy",
    exceptions.SSLError: "tls",
    exceptions.ProtocolError: "head",
    exceptions.ConnectionError: "connect",
    exceptions.ReadTimeout: "head",
    exceptions.WriteTimeout: "send",
    exceptions.PoolTimeout: "pool",
    exceptions.ChunkedEncodingError: "body",
}

# Held by the one that is active.
_is_used = threading.Lock()
_numbers = itertools.count(1)


class Interception:
    """From `start` to `stop` every request of this process goes to `book`, and over a socket pair to a server here."""

    def __init__(self, book: Book) -> None:
        # Never changes, once started.
        self._book = book
        # In the place of a certificate's fingerprint, by which origins differ: so no connection to a real server is
        # used by a mocked request, nor the other way round. And with one that is none nothing can be connected.
        self._mark = f"of SyncflowMock {next(_numbers)}"
        self._patches = contextlib.ExitStack()
        self._server = MockServer()
        # Guards what follows. Nothing is called while it is held but the server's `take`.
        self._lock = threading.Lock()
        self._is_over = False
        self._bookings: weakref.WeakKeyDictionary[Transport, Bookings] = weakref.WeakKeyDictionary()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()

    def start(self) -> None:
        """Raises RuntimeError if there is another."""
        if not _is_used.acquire(blocking=False):
            raise RuntimeError("there is another SyncflowMock in this process, and only one at a time")
        self._patches.callback(_is_used.release)
        self._server.__enter__()
        usual = HTTPAdapter._exchange

        def exchange(
            adapter: HTTPAdapter,
            request: PreparedRequest,
            head: WrittenHead,
            deadline: Deadline,
            route: Route,
            witness: TryWitness | None,
            *,
            continues: bool,
        ) -> Exchange:
            def begin(way: Route) -> Exchange:
                return usual(adapter, request, head, deadline, way, witness, continues=continues)

            return self._exchange(begin, request, head)

        def route(adapter: HTTPAdapter, request: PreparedRequest, verify: Any, cert: Any, proxies: Any) -> Route:
            return self._route_of(request)

        def run(dial: Dial) -> tuple[Transport, Setup]:
            return self._connect(dial)

        for owner, name, replacement in (
            (HTTPAdapter, "_exchange", exchange),
            (HTTPAdapter, "route", route),
            (Dial, "run", run),
        ):
            self._patches.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, replacement)

    def stop(self, error: BaseException | None) -> None:
        """The end of everything that was made. Raises the first error of the server's threads, if `error` is None."""
        with self._lock:
            self._is_over = True
            connections = list(self._connections)
        self._patches.close()
        for connection in connections:
            connection.fail(_ended(connection.origin))
        self._server.__exit__(None if error is None else type(error), error, None)

    # ---------------------------------------------------------------- in the client's place: the requesting thread

    def _route_of(self, request: PreparedRequest) -> Route:
        """Without proxy and TLS."""
        target = request.target
        scheme = "http" if target.socket_path is not None else target.scheme
        return Route(Origin(scheme, target.host, target.port, fingerprint=self._mark, path=target.socket_path))

    def _exchange(self, begin: Callable[[Route], Exchange], request: PreparedRequest, head: WrittenHead) -> Exchange:
        """A connection to us, whatever the way that was found before we were here.

        Args:
            begin: as usual, by a route.
        """
        try:
            asked, answer = self._book(request, head.content)
        except exceptions.RequestException as error:
            error.phase = error.phase or _phase_of(error)
            raise
        exchange = begin(self._route_of(request))
        connection, waits = exchange._connection, weakref.ref(exchange)
        booking = Booking(asked, answer, lambda error: _fail(waits(), error))
        with self._lock:
            if not self._is_over:
                self._connections.add(connection)
                self._bookings[connection.transport].append(booking)
                return exchange
        exchange.abandon(_ended(connection.origin))
        raise _ended(connection.origin)

    def _connect(self, dial: Dial) -> tuple[Transport, Setup]:
        """See `Dial.run`."""
        origin = dial.origin
        if origin.fingerprint != self._mark:
            raise exceptions.ConnectionError(
                f"{origin.where}: nothing connects while a SyncflowMock is active, and it answers requests only",
                phase="connect",
            )
        ours, theirs = dial.with_descriptor(socket.socketpair, "connect")
        try:
            ours.setblocking(False)
            transport = dial._wrapped(ours)
            transport.peer = (origin.path, 0) if origin.path is not None else (origin.host, origin.port)
            with self._lock:
                if self._is_over:
                    raise _ended(origin)
                bookings = self._bookings[transport] = Bookings()
                self._server.take(theirs, bookings)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return transport, NO_SETUP


def _ended(origin: Origin) -> exceptions.ConnectionError:
    return exceptions.ConnectionError(f"{origin.where}: the SyncflowMock that was to answer has ended")


def _fail(exchange: Exchange | None, error: Exception) -> bool:
    """The server's thread. Tell who waits; whether it was a wish of the test's, and no fault in it."""
    if isinstance(error, exceptions.RequestException):
        if exchange is not None:
            exchange.fail(error)
        return True
    if exchange is not None:
        failure = exceptions.ConnectionError(f"{exchange.where}: the function that was to answer has failed: {error!r}")
        failure.__cause__ = error
        exchange.fail(failure)
    return False


def _phase_of(error: exceptions.RequestException) -> str | None:
    """In which an error of this kind happens: whether a request is tried again depends on it."""
    for kind, phase in PHASES.items():
        if isinstance(error, kind):
            return phase
    return None

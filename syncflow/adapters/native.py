"""How a prepared request is sent: a route, a connection, the head, the body, the answer; and when it is sent again.

Knows the order of these steps and what an interruption of each means. Knows nothing of what persists across requests
(sessions) nor of how bytes travel (the engine).
"""

from __future__ import annotations

import abc
import os
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..breakers import CircuitBreaker, Circuits
from ..engine.deadline import Deadline
from ..engine.dialer import Network
from ..engine.exchange import Exchange
from ..engine.outcome import StaleConnection
from ..engine.pool import Pool
from ..engine.watched import WatchedExchange
from ..engine.worker import Worker, shared_worker
from ..exceptions import InvalidProxyURL, RequestException, SessionClosed
from ..logs import LOG, LOG_ONLY, is_logged
from ..models import PreparedRequest
from ..responses import Response
from ..retries import Retry
from ..routes import CertTypes, ProxyTypes, Route, Trust, VerifyTypes, route_of
from ..settings import LEAST_BUDGET, PoolLimits, Timeouts, TimeoutTypes, Watermarks, require_bytes
from ..watching import tell_late, watch_for
from .trying import Trying
from .witness import TryWitness
from .writing import WrittenHead, check_length, send_request, serialize

if TYPE_CHECKING:
    from ..engine.stats import PoolStats
    from ..resuming import ResumingSource

__all__ = ["BaseAdapter", "HTTPAdapter"]

# Serialized heads that an adapter remembers.
HEADS_KEPT = 256


class Paused(Protocol):
    """A download that goes on when its exchange breaks, or a stream of events between two of them."""

    @property
    def where(self) -> str:
        """ "host:port", for messages."""

    def fail(self, error: RequestException) -> None:
        """Any thread. End its wait."""


class BaseAdapter(abc.ABC):
    """What a session sends requests through; mounted for a prefix of URLs by `Session.mount`."""

    @abc.abstractmethod
    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Any:
        """Send `request` and return the response."""

    @abc.abstractmethod
    def close(self) -> None:
        """End everything."""


class HTTPAdapter(BaseAdapter):
    """Sends requests over a pool of connections. Any thread may use it.

    Args:
        pool_connections: as in `requests`, the number of hosts; with `pool_maxsize` it says how many connections there
            may be in all.
        pool_maxsize: connections at once for one host. Who needs one more waits, for `Timeouts.pool`.
        max_retries: how often and when a request is sent again: a `Retry`, or one of urllib3's; a number is for
            connections that could not be made, as in `requests`.
        pool_block: as in `requests`; callers wait for a connection in any case.
        limits: of the pool, in place of the first two.
        watermarks: of each connection's buffers.
        max_buffered: bytes that all connections' buffers may hold together: see `Session`.
        max_body: bytes that the body of a response may have, as it comes and decoded: see `Session`.
        network: how connections are made.
        trust: what is demanded of servers, beyond `verify=`.
        breaker: when an origin is left alone; None is never.
        events: who is told of what happens: see `syncflow.watching`.
        worker: the thread that watches the sockets; None is the one that all sessions share.
    """

    def __init__(
        self,
        pool_connections: int = 10,
        pool_maxsize: int = 10,
        max_retries: int | Retry | None = 0,
        pool_block: bool = False,
        *,
        limits: PoolLimits | None = None,
        watermarks: Watermarks = Watermarks(),  # noqa: B008  # frozen
        max_buffered: int | None = None,
        max_body: int | None = None,
        network: Network = Network(),  # noqa: B008  # frozen
        trust: Trust = Trust(),  # noqa: B008  # frozen
        breaker: CircuitBreaker | None = None,
        events: Any = None,
        worker: Worker | None = None,
    ) -> None:
        if limits is None:
            limits = PoolLimits(per_host=pool_maxsize, total=max(100, pool_connections * pool_maxsize))
        if not isinstance(limits, PoolLimits):
            raise TypeError(f"limits= of an adapter, pool= of a session, is a PoolLimits, not {limits!r}")
        if not isinstance(watermarks, Watermarks):
            raise TypeError(f"watermarks= is a Watermarks, not {watermarks!r}")
        if breaker is not None and not isinstance(breaker, CircuitBreaker):
            raise TypeError(f"breaker= is a CircuitBreaker or None, not {breaker!r}")
        self.max_retries = max_retries
        self.watch = watch_for(events, LOG)
        self._circuits = None if breaker is None else Circuits(breaker, time.monotonic)
        self._trust = trust
        require_bytes("max_buffered", max_buffered, LEAST_BUDGET)
        require_bytes("max_body", max_body, 1)
        self._max_body = max_body
        self._settings = {
            "limits": limits,
            "watermarks": watermarks,
            "max_buffered": max_buffered,
            "max_body": max_body,
            "network": network,
            "trust": trust,
            "breaker": breaker,
            "events": events,
        }
        self._pool = Pool(worker or shared_worker(), limits, watermarks, network, max_buffered)
        # Heads that were written before, by all that is in them. Any thread; the worst of a race is a head too many.
        self._heads: dict[tuple[object, ...], WrittenHead] = {}
        # Ways without a proxy that were found before, as the heads.
        self._routes: dict[tuple[object, ...], Route] = {}
        # Whether the user has said that the session is over; never becomes False again.
        self._retired = False
        # By `close`, before it does anything else; never becomes False again.
        self.closed = False
        # What may have no exchange just now, because one has broken, and waits for the next. Any thread.
        self.paused: set[Paused] = set()
        _all.add(self)

    @property
    def max_retries(self) -> int | Retry | None:
        """As it was given, here or, as programs for `requests` do, later."""
        return self._max_retries

    @max_retries.setter
    def max_retries(self, value: int | Retry | None) -> None:
        self.retry = Retry.of_connections(value) if type(value) is int else Retry.of(value)
        self._max_retries = value

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: TimeoutTypes | Deadline = None,
        verify: VerifyTypes = True,
        cert: CertTypes = None,
        proxies: ProxyTypes = None,
    ) -> Response:
        """Send the request with its body and wait for the answer; for all of it unless `stream`.

        A redirect is an answer like any other, and hooks are not called.
        """
        deadline = timeout if isinstance(timeout, Deadline) else Deadline(Timeouts.of(timeout))
        request.complete()
        route = self.route(request, verify, cert, proxies)
        retry, begun = self.retry, deadline.clock()
        trying: Trying | None = None
        while True:
            witness = self._witness(request, route, deadline, trying)
            try:
                response = self._send_once(
                    request, deadline, route, witness, stream=stream, continues=trying is not None
                )
            except RequestException as error:
                trying = trying or Trying(self, request, deadline, begun, route.origin.name)
                if not trying.after_error(error, witness):
                    raise
                continue
            if retry is not None and response.status_code in retry.status_forcelist:
                trying = trying or Trying(self, request, deadline, begun, route.origin.name)
                if trying.after_answer(response, witness):
                    continue
            if trying is not None:
                trying.note(response)
            return response

    def _send_once(
        self,
        request: PreparedRequest,
        deadline: Deadline,
        route: Route,
        witness: TryWitness | None,
        *,
        stream: bool,
        continues: bool,
    ) -> Response:
        head, exchange = self._begin(request, deadline, route, witness, continues=continues)
        is_begun = False
        try:
            is_begun = send_request(exchange, request, head.content)
            answer = exchange.wait_answered(whole=not stream)
            response = Response.received(request, exchange, answer.status, answer.reason, answer.fields, self)
        except BaseException as error:
            exchange.abandon(error)
            if is_begun and isinstance(error, StaleConnection):
                # Though nothing has left: what was taken of a generator is gone.
                error.is_untouched &= request.content is not None and request.content.can_rewind
            if isinstance(error, RequestException):
                error.request = error.request or request
                answered = exchange.head
                if error.request is request and answered is not None and error.response is None:
                    error.response = Response.received(
                        request, exchange, answered.status, answered.reason, answered.fields, self
                    )
            raise
        if stream:
            response._again = Again(self, route, deadline)
        else:
            response.fetch()
        return response

    def begin(
        self, request: PreparedRequest, deadline: Deadline, route: Route, *, continues: bool = False
    ) -> tuple[WrittenHead, Exchange]:
        """For a body that the program writes: a connection, on which nothing has been sent, and the head to send. Is
        tried again as the policy says, as long as there is none.

        Args:
            continues: whether it is part of something that is under way: see `Pool.connection`.
        """
        begun = deadline.clock()
        trying: Trying | None = None
        while True:
            witness = self._witness(request, route, deadline, trying)
            try:
                return self._begin(request, deadline, route, witness, continues=continues, is_pushed=True)
            except RequestException as error:
                continues = True
                trying = trying or Trying(self, request, deadline, begun, route.origin.name)
                if not trying.after_error(error, witness):
                    raise

    def _witness(
        self, request: PreparedRequest, route: Route, deadline: Deadline, trying: Trying | None
    ) -> TryWitness | None:
        """Of the try that begins. None, as mostly, if nobody wants to know of it."""
        watch, circuits = self.watch, self._circuits
        if watch is None and is_logged():
            watch = LOG_ONLY
        if watch is None and circuits is None:
            return None
        reset_after = 0.0 if circuits is None else circuits.breaker.reset_after
        resends, deadline.sent = deadline.sent, deadline.sent + 1
        number = 1 if trying is None else trying.number
        return TryWitness(watch, request, route.origin.name, number, resends, reset_after)

    def _begin(
        self,
        request: PreparedRequest,
        deadline: Deadline,
        route: Route,
        witness: TryWitness | None,
        *,
        continues: bool,
        is_pushed: bool = False,
    ) -> tuple[WrittenHead, Exchange]:
        try:
            head = self.head(request, route)
            if not is_pushed and (head.announces_body or request.content is not None):
                check_length(request)
            if witness is not None and self._circuits is not None:
                witness.admitted(self._circuits.enter(route.origin.name, route.origin.where))
            return head, self._exchange(request, head, deadline, route, witness, continues=continues)
        except BaseException as error:
            if isinstance(error, RequestException):
                error.request = request
            if witness is not None:
                witness.failed(error)
            raise

    def route(self, request: PreparedRequest, verify: VerifyTypes, cert: CertTypes, proxies: ProxyTypes) -> Route:
        """Which way the request goes. Raises what `route_of` raises."""
        if not proxies and cert is None and (verify is True or type(verify) is str):
            key = (request.url, verify)
            route = self._routes.get(key)
            if route is None:
                route = route_of(request.target, verify, cert, proxies, self._trust)
                if len(self._routes) >= HEADS_KEPT:
                    self._routes.clear()
                self._routes[key] = route
            return route
        try:
            route = route_of(request.target, verify, cert, proxies, self._trust)
        except InvalidProxyURL as error:
            error.request = request
            raise
        proxy = route.origin.proxy
        if proxy is not None and not proxy.authorization and "proxy-authorization" in request.headers:
            proxy = proxy._replace(authorization=request.headers["proxy-authorization"])
            route = route._replace(origin=route.origin._replace(proxy=proxy))
        return route

    def _exchange(
        self,
        request: PreparedRequest,
        head: WrittenHead,
        deadline: Deadline,
        route: Route,
        witness: TryWitness | None,
        *,
        continues: bool,
    ) -> Exchange:
        """A connection for the request, on which nothing has been sent yet."""
        begun = deadline.clock()
        while True:
            connection = self._pool.connection(route.origin, deadline, continues=continues)
            try:
                pooled = deadline.clock() - begun
                if connection.uses == 0:
                    setup = connection.setup
                    pooled = max(0.0, pooled - setup.dns - setup.connect - setup.tls)
                if witness is None:
                    exchange = Exchange(connection, request.method, deadline, pooled)
                else:
                    exchange = WatchedExchange(connection, request.method, deadline, pooled, witness)
                exchange.persists = not head.asks_to_close
                exchange.may_switch = head.asks_to_switch
                if not request._is_endless:
                    exchange.max_body = self._max_body
                if connection.begin(exchange):
                    if deadline.cancellation is not None:
                        deadline.cancellation.attend(exchange.fail)
                    if witness is not None:
                        witness.connected(exchange, connection, pooled)
                    return exchange
                connection.close()  # again, if that was before the pool knew of it
            except BaseException:  # an interrupt: nobody would give it back
                connection.close()
                raise

    def head(self, request: PreparedRequest, route: Route) -> WrittenHead:
        """The request's head as it goes out; what a session sends is mostly what it has sent before.

        Raises:
            InvalidHeader: it may not be sent.
        """
        authorization = route.origin.proxy.authorization if route.origin.proxy and route.is_forwarded else None
        key = (request.method, request.url, route.is_forwarded, authorization, *request.headers.pairs())
        try:
            head = self._heads.get(key)
        except TypeError:  # something that cannot even be hashed stands where a str should
            return serialize(request, route)
        if head is None:
            head = serialize(request, route)
            if len(self._heads) >= HEADS_KEPT:
                self._heads.clear()
            self._heads[key] = head
        return head

    def stats(self) -> PoolStats:
        """Any thread. What its connections are doing and have done."""
        stats = self._pool.stats()
        if self._circuits is None:
            return stats
        from ..engine.stats import with_circuits  # late: few programs need it

        return with_circuits(stats, self._circuits.states())

    def close(self) -> None:
        """Any thread. End everything at once; whoever waits gets `SessionClosed`."""
        self._retired = self.closed = True
        self._pool.close()
        for paused in list(self.paused):
            paused.fail(SessionClosed(f"{paused.where}: the session was closed during the request"))
        tell_late()  # last: observers may take their time, and nobody is to wait for them

    def retire(self) -> None:
        """Any thread. Begin nothing new; what is under way goes on to its end."""
        self._retired = True
        self._pool.retire()

    @property
    def is_used(self) -> bool:
        """Any thread. Whether anything is under way."""
        return self._pool.is_used or bool(self.paused)

    def wait_until_unused(self, until: float | None) -> bool:
        """Any thread, once it has retired. Return when nothing is under way any more; False when the moment `until` of
        `time.monotonic()` comes first."""
        return self._pool.wait_until_unused(until, self.paused)

    def leave(self, paused: Paused) -> None:
        """Any thread. It waits for nothing any more: it is over, or has an exchange."""
        self.paused.discard(paused)
        if self._retired:
            self._pool.tell_change()

    def retire_from_finalizer(self) -> bool:
        """Any thread, at any moment. As `retire`; whether anything was open that should have been closed."""
        was_open = self._pool.has_connections and not self._retired
        self._pool.retire_from_finalizer()
        return was_open

    def __getstate__(self) -> dict[str, Any]:
        """Without the connections: where it is unpickled it begins anew, on that process's worker."""
        return {"max_retries": self.max_retries, **self._settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # as if it were made there


class Again(NamedTuple):
    """What a request was sent with, to send others like it: a `Resender`, for `Response.save`."""

    adapter: HTTPAdapter
    route: Route
    deadline: Deadline

    @property
    def closed(self) -> bool:
        """Any thread. Whether the session was closed; not where it was only left behind."""
        return self.adapter.closed

    def attend(self, source: ResumingSource) -> None:
        """It is to be told when the session is closed. It looks at `closed` afterwards, which is set before."""
        self.adapter.paused.add(source)

    def leave(self, source: ResumingSource) -> None:
        """No longer: it is over."""
        self.adapter.leave(source)

    def send(self, request: PreparedRequest, begun: Callable[[Exchange], None]) -> Exchange:
        """Send `request`, which has no body, and wait for the head of the answer.

        Args:
            begun: called with each exchange, before anything is sent on it, so that it can be called off.
        """
        request.complete()
        while True:
            # Also of an adapter that has retired: its session was only left behind, as that of `syncflow.get`.
            head, exchange = self.adapter.begin(request, self.deadline, self.route, continues=True)
            try:
                begun(exchange)
                send_request(exchange, request, head.content)
                exchange.wait_answered(whole=False)
                return exchange
            except StaleConnection as error:
                exchange.abandon(error)
            except BaseException as error:
                exchange.abandon(error)
                raise


_all: weakref.WeakSet[HTTPAdapter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Who was waiting did not come along, and may have had a lock."""
    for adapter in list(_all):
        adapter.paused = set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

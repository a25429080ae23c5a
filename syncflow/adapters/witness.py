"""What became of one try of a request, for whoever watches it and for the circuit of its origin.

Knows what each step of an exchange means to either. Knows nothing of what they make of it.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from ..breakers import Outcome, Permit
from ..engine.exchange import Exchange
from ..engine.outcome import StaleConnection
from ..exceptions import Cancelled, RequestException
from ..http1 import Head
from ..logs import LOG_ONLY
from ..models import PreparedRequest
from ..watching import (
    BackpressureEnded,
    BackpressureStarted,
    CircuitChanged,
    ConnectionOpened,
    ConnectionReused,
    Record,
    RequestFailed,
    RequestSent,
    RequestStarted,
    ResponseEnded,
    ResponseStarted,
    Watch,
    next_id,
)

if TYPE_CHECKING:
    from ..engine.connection import Connection

__all__ = ["TryWitness"]

# Of a try that was dropped: nothing is told of it any more.
NO_REQUEST = PreparedRequest()


class TryWitness:
    """The `Witness` of one try.

    Args:
        watch: who wants to know; None if nobody does.
        request: what is sent.
        origin: "scheme://host:port".
        number: of the try, from 1.
        resends: requests that the same call has sent before.
        reset_after: of the circuit breaker, if there is one.
    """

    def __init__(
        self, watch: Watch | None, request: PreparedRequest, origin: str, number: int, resends: int, reset_after: float
    ) -> None:
        # Never changes.
        self._watch = watch
        self._origin = origin
        self._reset_after = reset_after
        self._begun = monotonic()
        self.id = next_id()
        # Until it is dropped.
        self._request = request
        # The requesting thread's.
        self._permit: Permit | None = None
        self._exchange_id = 0  # of the exchange that goes to the server; not the exchange, which has this
        self._status: int | None = None
        self._set_up = 0.0  # seconds until it had a connection
        # Popped by whoever tells of the end, which is told once: any thread's.
        self._to_end = [None]
        self._tell("request_started", lambda: RequestStarted(*self._head, number, resends))

    @property
    def _head(self) -> tuple[int, PreparedRequest, str]:
        return self.id, self._request, self._origin

    def admitted(self, permit: Permit) -> None:
        """The circuit lets it pass."""
        self._permit = permit

    def connected(self, exchange: Exchange, connection: Connection, pooled: float) -> None:
        """It has a connection, on which nothing was sent for it yet."""
        self._exchange_id = id(exchange)
        self._set_up = monotonic() - self._begun
        peer, setup = connection.transport.peer, connection.setup
        if connection.uses == 1:  # this one's
            self._tell(
                "connection_opened",
                lambda: ConnectionOpened(*self._head, peer, pooled, setup.dns, setup.connect, setup.tls),
            )
        else:
            self._tell("connection_reused", lambda: ConnectionReused(*self._head, peer, pooled, connection.uses - 1))

    def sent(self) -> None:
        """See `Witness`."""
        self._tell("request_sent", lambda: RequestSent(*self._head, monotonic() - self._begun))

    def answered(self, head: Head, elapsed: float) -> None:
        """See `Witness`."""
        if self._status is None:
            self._status = head.status
            # Since the try began, not the exchange; the two were not measured at quite the same moment.
            since = min(self._set_up + elapsed, monotonic() - self._begun)
            self._judge(head.status)
            self._tell("response_started", lambda: ResponseStarted(*self._head, head.status, head.fields, since))

    def waits(self, exchange: Exchange) -> None:
        """See `Witness`."""
        self._tell("backpressure_started", lambda: BackpressureStarted(*self._head, exchange.bytes_buffered))

    def goes_on(self, exchange: Exchange, waited: float) -> None:
        """See `Witness`."""
        self._tell("backpressure_ended", lambda: BackpressureEnded(*self._head, exchange.bytes_buffered, waited))

    def ended(self, exchange: Exchange) -> None:
        """See `Witness`."""
        if self._is_first_end():
            if self._status is None and exchange.head is not None:  # aborted, with an answer for which nobody waited
                self.answered(exchange.head, exchange.elapsed)
            self._tell("response_ended", lambda: self._ended(exchange, is_complete=True))

    def failed(self, error: BaseException, exchange: Exchange | None = None) -> None:
        """See `Witness`; without an exchange, there was none yet."""
        if not self._is_first_end():
            return
        # A connection that had been idle for too long tells nothing of the server.
        if isinstance(error, RequestException) and not isinstance(error, StaleConnection):
            self._judge(error)
        elif self._permit is not None:
            self._permit.give_back()
        if exchange is not None and self._status is not None and isinstance(error, Cancelled):
            self._tell("response_ended", lambda: self._ended(exchange, is_complete=False))
        else:
            if exchange is not None and exchange.head is not None:  # it broke while all of it was waited for
                self.answered(exchange.head, exchange.elapsed)
            self._tell("request_failed", lambda: RequestFailed(*self._head, error, monotonic() - self._begun))

    def dropped(self, exchange: Exchange) -> None:
        """See `Witness`."""
        if id(exchange) != self._exchange_id or not self._is_first_end():
            return  # the first: its connection was gone before it began, and another exchange has taken its place
        watch = self._watch
        if watch is not None and self._status is not None:
            watch.tell_later("response_ended", self._ended(exchange, is_complete=exchange.ended))
        elif watch is not None:  # as an upload that nobody has finished
            error = exchange.failure or Cancelled(f"{exchange.where}: the request was dropped before it was answered")
            watch.tell_later("request_failed", RequestFailed(*self._head, error, monotonic() - self._begun))
        # The worker has the exchange, and so this, for longer than anybody. The generator of a body, which runs code of
        # the program when it is freed, is not to be freed there.
        self._request = NO_REQUEST

    # ---------------------------------------------------------------- steps

    def _ended(self, exchange: Exchange, *, is_complete: bool) -> ResponseEnded:
        sent, received = exchange.bytes_sent, exchange.bytes_received
        elapsed = monotonic() - self._begun
        return ResponseEnded(*self._head, self._status or 0, sent, received, elapsed, is_complete)

    def _is_first_end(self) -> bool:
        try:
            self._to_end.pop()
        except IndexError:
            return False
        return True

    def _tell(self, event: str, record: Callable[[], Record]) -> None:
        watch = self._watch
        if watch is not None and watch.wants(event):
            watch.tell(event, record())

    def _judge(self, outcome: Outcome) -> None:
        permit, self._permit = self._permit, None
        state = None if permit is None else permit.outcome(outcome)
        if state is not None:
            watch = self._watch or LOG_ONLY
            watch.tell("circuit_changed", CircuitChanged(self._origin, state, self._reset_after))

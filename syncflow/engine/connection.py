"""One HTTP/1.1 connection: an exchange at a time over a transport.

Knows the parser and what an event means for the connection: whose answer it is, when the connection is free again,
when it is of no more use. Knows nothing of limits and queues, which are the pool's, nor of waits, which are the
exchange's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..exceptions import BodyTooLarge, ChunkedEncodingError, ConnectionError, ProtocolError, RequestException
from ..http1 import IncompleteMessage, MalformedMessage, ResponseParser
from ..settings import Watermarks
from .accounts import Usage
from .budget import Budget
from .exchange import Exchange
from .outcome import Outcome, StaleConnection
from .tls import TLSTransport
from .transport import Transport
from .worker import worker_failed

if TYPE_CHECKING:
    from .bytestream import ByteStream
    from .deadline import Deadline
    from .origin import Origin
    from .timings import Setup

__all__ = ["Connection", "Home", "SharingConnection"]

# What the worker asks the kernel for at once.
RECEIVE_SIZE = 65536


class Home(Protocol):
    """Where a connection belongs: the pool."""

    def release(self, connection: Connection) -> None:
        """Any thread. It is free for another exchange."""

    def discard(self, connection: Connection) -> None:
        """Any thread. It is of no more use; nothing happens the second time."""

    def account(self, connection: Connection, usage: Usage) -> None:
        """Any thread. Its socket is closed, and these figures are its last; nothing happens the second time."""


class Connection:
    """A connection to one origin.

    Args:
        home: the pool it returns to.
        origin: whom it goes to, and what made it trustworthy.
        transport: connected; TLS is set up.
        setup: how long each step of that took.
        watermarks: for what is received.
        budget: that the buffers for it share with others, if they do: see `SharingConnection`.
    """

    def __init__(
        self,
        home: Home,
        origin: Origin,
        transport: Transport,
        setup: Setup,
        watermarks: Watermarks,
        budget: Budget | None = None,
    ) -> None:
        # Never changes.
        self.home = home
        self.origin = origin
        self.transport = transport
        self.setup = setup
        self.watermarks = watermarks
        self.budget = budget
        self.sends_files = not isinstance(transport, TLSTransport)
        # Guarded by transport.receiving.
        self._parser = ResponseParser()
        self._exchange: Exchange | None = None
        self._is_failing = False  # nothing begins any more
        self._stream: ByteStream | None = None  # what it has become, when a program has taken it over
        self._sent_before = 0  # bytes that the system had taken when the exchange began
        self.uses = 0  # exchanges that were begun; changed by whoever the pool gave the connection to
        # Guarded by the pool's lock.
        self.idle_since: float | None = None
        self.opened_at = 0.0
        self.taken_by = 0  # the thread that the pool gave it to
        transport.when_closed = self._account

    def open(self) -> None:
        """Once: from now on the worker watches it."""
        self.transport.attach(self)

    def watch(self) -> None:
        """Worker only. It has been idle for a while: see it close, or speak out of turn."""
        with self.transport.receiving:
            if self._exchange is None:
                self.transport.set_reading(True)

    def is_reusable(self) -> bool:
        """Whoever the pool gave it to: still open, and nothing came that nobody had asked for."""
        return self.transport.is_quiet()

    @property
    def is_busy(self) -> bool:
        """Any thread, no lock. Whether it carries an exchange, or is the program's own."""
        return self._exchange is not None or self._stream is not None

    @property
    def is_untouched(self) -> bool:
        """Once it is closed, and nothing is sent any more: whether nothing of its last request has left."""
        # Not over TLS: of a block that would block, OpenSSL may have sent a part.
        return not isinstance(self.transport, TLSTransport) and self.transport.bytes_sent == self._sent_before

    def usage(self) -> Usage:
        """Any thread, without a lock. What it has carried so far, and what waits in its buffers."""
        transport = self.transport
        with transport.receiving:
            carried = self._stream or self._exchange
            reused, received = max(0, self.uses - 1), transport.bytes_received
            incoming = 0 if carried is None else carried.incoming.size
        with transport.sending:
            return Usage(reused, transport.bytes_sent, received, transport.outgoing.size, incoming)

    def _account(self) -> None:
        """Any thread, without a lock, once the socket is closed."""
        self.home.account(self, self.usage())

    def begin(self, exchange: Exchange) -> bool:
        """Whoever the pool gave it to. What comes from now on is the answer to `exchange`; False if it was closed."""
        with self.transport.receiving:
            if self.transport.closed or self._is_failing:
                return False
            self.uses += 1
            self._sent_before = self.transport.bytes_sent
            self._exchange = exchange
            self._parser.start(exchange.method)
            return True

    def take_over(self, exchange: Exchange, deadline: Deadline) -> ByteStream:
        """A caller of `exchange`, whose answer has switched protocols: 101, or 2xx to CONNECT. From now on the
        connection is a stream of bytes, those first that came with the head. It stays in the pool's books until the
        stream ends. To whoever asks again, as another thread, or after an interrupt, the same one.

        Raises:
            What has ended the exchange meanwhile; ConnectionError: the request had not left when the answer came, or
                had not asked for another protocol.
        """
        from .bytestream import ByteStream  # late: few programs need it

        stream = ByteStream(self.transport, self.watermarks, deadline, lambda: self.home.discard(self), self.budget)
        try:
            with self.transport.receiving:
                if self._stream is not None and not self._stream.is_over:
                    return self._stream
                if self._exchange is not exchange or exchange.is_over or self.transport.closed:
                    raise exchange.failure or ConnectionError(
                        f"{exchange.where}: the connection cannot be taken over: it was closed, by an interrupt, or "
                        "because the server switched protocols before the whole request had left, or unasked"
                    )
                self._stream, self._exchange = stream, None  # in this order: `is_busy` takes no lock
                exchange.upgrades = False
                stream.start(self._parser.leftover)
        except BaseException:  # an interrupt too: nobody would ever close it
            self.close()
            raise
        return stream

    # ---------------------------------------------------------------- receiving

    def on_readable(self) -> None:
        """Worker only."""
        stream = self._stream
        if stream is not None:
            stream.on_readable()
            return
        while True:
            with self.transport.receiving:
                if self._stream is not None:
                    return  # since a moment ago: the bytes are still there
                exchange = self._exchange
                size = RECEIVE_SIZE if exchange is None else min(RECEIVE_SIZE, exchange.incoming.room)
                if size <= 0:
                    self.transport.set_reading(False)
                if not self.transport.is_watched:
                    return
                outcome = self.receive(exchange, size)
                to_settle = outcome & Outcome.TO_SETTLE
                if outcome & Outcome.ENDED:
                    self.transport.hand_back()
                    if exchange is not None:
                        exchange.left_to_worker = True
                again = self.transport.pending and not outcome & (Outcome.ENDED | Outcome.LOST)
            if to_settle and self.settle(exchange, outcome):
                outcome |= Outcome.WAKE
            if outcome & Outcome.WAKE:
                self.transport.worker.notify_last(self.transport.arrived)
            if not again:
                return

    def receive(self, exchange: Exchange | None, most: int) -> int:
        """With `receiving` held, any thread. One step for `exchange`, None if there is none: receive, parse, hand
        over."""
        if exchange is not self._exchange:
            return Outcome.QUIET  # it ended in the meantime: what comes now is another's
        try:
            data = self.transport.receive(most)
        except OSError as error:
            return self._lost(error)
        if data is None:
            return Outcome.QUIET
        if exchange is None:
            # The end, or bytes that nobody asked for, on an idle connection (RFC 9112, section 9.2).
            return Outcome.LOST
        try:
            events = self._parser.feed(data) if data else self._parser.end_of_input()
        except IncompleteMessage as error:
            return self._lost(error)
        except MalformedMessage as error:
            # What came before the fault is the answer's all the same: its head may stop an upload.
            outcome = exchange.accept(error.events)
            if exchange.max_body is not None and self._is_too_large(exchange, exchange.max_body):
                return outcome | Outcome.LOST | Outcome.WAKE
            return outcome | self._fail(exchange, ProtocolError(f"{exchange.where}: {error}"), error)
        outcome = exchange.accept(events)
        if exchange.max_body is not None and self._is_too_large(exchange, exchange.max_body):
            return (outcome & ~Outcome.ENDED) | Outcome.LOST | Outcome.WAKE
        if exchange.ended:
            if self._parser.upgraded and exchange.may_switch and exchange.failure is None:
                exchange.upgrades = True
                return outcome
            self._exchange = None
            clean = bool(data) and self._parser.keep_alive and not self._parser.leftover
            # One that was called off does not own the connection any more: it is about to be closed.
            exchange.reusable = clean and exchange.persists and exchange.failure is None
        elif exchange.incoming.room <= 0:
            self.transport.set_reading(False)
        return outcome

    def _is_too_large(self, exchange: Exchange, most: int) -> bool:
        """With `receiving` held. Refuse a body that is larger than `max_body`, or will be: of one whose length is known
        nothing is handed out, of any other what is allowed."""
        length = self._parser.body_remaining
        size = exchange.bytes_received + (length or 0)
        if size <= most or exchange.failure is not None:
            return False
        if length is None:
            exchange.incoming.cut(size - most)
            what = f"the response has more than the {most} bytes that max_body allows: {size} came"
        else:
            exchange.incoming.clear()
            exchange.is_refused = True
            what = f"the response has {size} bytes (Content-Length), and max_body allows {most}: its body was not read"
        advice = "raise max_body, or ask for less of it, as with a Range header"
        exchange.ended = False
        exchange.lost(BodyTooLarge(f"{exchange.where}: {what}, and the connection is closed; {advice}"))
        self._exchange = None
        return True

    def _lost(self, error: Exception) -> int:
        """With `receiving` held. The peer ended or reset the connection before the answer was complete."""
        exchange = self._exchange
        if exchange is None:
            return Outcome.LOST
        sending = self.transport.send_error
        why = f"{sending or error}"
        failure: RequestException
        if exchange.head is not None:
            failure = ChunkedEncodingError(
                f"{exchange.where}: the connection ended in the middle of the response's body: {error}"
            )
        elif not self._parser.started and self.uses > 1:
            failure = StaleConnection(
                f"{exchange.where}: the server closed a connection that had been idle, as the request was sent on it; "
                f"it may or may not have been processed: {why}"
            )
        else:
            failure = ConnectionError(f"{exchange.where}: the server closed the connection without an answer: {why}")
        return self._fail(exchange, failure, sending or error)

    def _fail(self, exchange: Exchange, failure: RequestException, cause: Exception) -> int:
        failure.__cause__ = cause
        exchange.lost(failure)
        self._exchange = None
        return Outcome.LOST | Outcome.WAKE

    def settle(self, exchange: Exchange | None, outcome: int) -> bool:
        """The thread that received, without the lock. Act on what it found, and only then show it: a caller that sees
        its answer also finds the connection in the pool. Whether a caller has begun to wait for it meanwhile."""
        if exchange is None:
            self.close()
            return False
        try:
            if outcome & Outcome.ANSWERED:
                exchange.stopped_sending(complete=self.transport.stop_message())
            if outcome & Outcome.LOST:
                self.close()
            elif outcome & Outcome.ENDED:
                if exchange.reusable and exchange.request_complete:
                    self.home.release(self)
                elif not (exchange.upgrades and exchange.request_complete):
                    exchange.upgrades = False  # what is left of the request is no part of another protocol
                    if exchange.request_complete:
                        self.part()
                    else:
                        self.close()
        except BaseException as error:
            self._failed_to_settle(exchange, error)
            raise
        with self.transport.receiving:
            exchange.answered = exchange.head is not None
            exchange.settled = exchange.ended
            return exchange.eager

    def _failed_to_settle(self, exchange: Exchange, error: BaseException) -> None:
        """An interrupt, or a bug. The connection is closed in any case. A caller for whom the worker took the last step
        is told here: the connection has forgotten the exchange already."""
        with self.transport.receiving:
            if exchange.left_to_worker:
                exchange.failure = exchange.locate(worker_failed(exchange.where, error), "body")
                self.transport.arrived.notify_all()
        self.close()

    # ---------------------------------------------------------------- the end

    def part(self) -> None:
        """Any thread. As `close`, where nothing is under way: over TLS the peer is told (RFC 9112, section 9.8)."""
        self.transport.say_goodbye()
        self.close()

    def close(self) -> None:
        """Any thread. It leaves the pool at once; the worker closes the socket. Whoever might still wait for an answer
        on it is told."""
        self.home.discard(self)
        with self.transport.receiving:
            exchange, self._exchange = self._exchange, None
            stream = self._stream
            if exchange is not None:
                exchange.lost(
                    ConnectionError(f"{exchange.where}: the connection was closed before its answer was complete")
                )
                exchange.incoming.give_back()
                self.transport.arrived.notify_all()
        if stream is not None:
            stream.fail(ConnectionError(f"{stream.where}: the connection was closed"))
        self.transport.close()

    def fail(self, error: RequestException) -> None:
        """Any thread. As `close`, and the exchange under way ends with `error`. One that is about to begin does not: it
        would be lost for no reason that it could tell."""
        with self.transport.receiving:
            self._is_failing = True
            exchange = self._exchange
        if exchange is not None:
            exchange.fail(error)
        with self.transport.receiving:
            stream = self._stream  # what it may have become just now: then the exchange was over
        if stream is not None:
            stream.fail(error)
        if exchange is None and stream is None:
            self.part()
        else:
            self.close()

    def on_lost(self, error: BaseException) -> None:
        """Worker only: it, or a step of this connection on it, failed."""
        with self.transport.receiving:
            exchange, self._exchange = self._exchange, None
            stream = self._stream
            if exchange is not None:
                exchange.lost(worker_failed(exchange.where, error))
                exchange.incoming.give_back()
                self.transport.arrived.notify_all()
        if stream is not None:
            stream.on_lost(error)
        self.home.discard(self)

    def on_fork(self) -> None:
        """In a forked child, which has one thread: no lock is needed. The parent goes on with the connection."""
        exchange, self._exchange = self._exchange, None
        if self._stream is not None:
            self._stream.on_fork()
        if exchange is not None:
            exchange.incoming.detach()
        if exchange is not None and not exchange.is_over:
            exchange.failure = exchange.failure or ConnectionError(
                f"{exchange.where}: this response belongs to the parent process; make the request again after fork()"
            )


class SharingConnection(Connection):
    """One whose buffers share a budget. A class of its own, so that it costs the others nothing."""

    def receive(self, exchange: Exchange | None, most: int) -> int:
        if exchange is None or exchange is not self._exchange:
            return super().receive(exchange, most)
        try:
            return super().receive(exchange, exchange.incoming.admit(most))
        finally:
            # Of an answer that is over, what is left is its Response's, and its connection may be another's.
            if self._exchange is exchange:
                exchange.incoming.settle()
            else:
                exchange.incoming.give_back()

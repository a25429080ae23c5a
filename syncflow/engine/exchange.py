"""One request and its answer, as the caller sees them: what it may send, wait for, read and call off.

Knows every wait of a caller once it has a connection, and the errors in which a wait can end. Knows nothing of how
bytes travel: the connection feeds it what it parsed. What is above this file knows exchanges and no connections, so
that one connection may carry several.

A wait for the answer is one of two, both under the lock of the connection's receiving direction. Where the worker
watches, it is on `_arrived`, and woken by the worker that received. Otherwise it is for the socket itself
(`Transport.wait_here`), and woken by what comes. `fail` (cancel, session closed, engine failure) wakes both; both end
by a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..exceptions import (
    Cancelled,
    ReadTimeout,
    RequestException,
    WriteTimeout,
)
from ..http1 import END, Event, Head, Trailers
from .buffers import IncomingBuffer
from .deadline import Deadline
from .outcome import Outcome, StaleConnection
from .sending import Piece, SendingSide
from .stall import Stall
from .timings import NO_SETUP, Timings

if TYPE_CHECKING:
    from .bytestream import ByteStream
    from .connection import Connection

__all__ = ["Exchange"]

# What a reader on its own thread asks the kernel for at once: more than the watermark costs memory for every reader,
# less costs system calls.
RECEIVE_SIZE = 65536
MOST_RECEIVE_SIZE = 262144


class Exchange:
    """One request on one connection.

    Args:
        connection: free, and given to this exchange alone.
        method: of the request; it decides what the answer's framing means.
        deadline: of the whole request.
        pooled: seconds that the request waited in the pool.
    """

    __slots__ = (
        "__weakref__",
        "_arrived",
        "_begun_at",
        "_bytes_sent",
        "_connection",
        "_deadline",
        "_ended_at",
        "_first_byte_at",
        "_first_use",
        "_has_body",
        "_lock",
        "_may_continue",
        "_pooled",
        "_sent_at",
        "answered",
        "bytes_received",
        "eager",
        "ended",
        "failure",
        "head",
        "incoming",
        "is_refused",
        "left_to_worker",
        "max_body",
        "may_switch",
        "method",
        "persists",
        "request_complete",
        "reusable",
        "settled",
        "trailers",
        "upgrades",
    )

    def __init__(self, connection: Connection, method: str, deadline: Deadline, pooled: float) -> None:
        # Never changes.
        self._connection = connection
        self._deadline = deadline
        self._pooled = pooled
        self._begun_at = deadline.clock()
        self._first_use = connection.uses == 0
        self._has_body = False  # set by `start`, before anybody waits
        self.method = method
        self.persists = True  # whether the request leaves the connection open; set before it is sent
        self.may_switch = True  # whether it asks for another protocol; set before it is sent
        self.max_body: int | None = None  # bytes that the answer's body may have; set before it is sent
        self._lock = connection.transport.receiving
        self._arrived = connection.transport.arrived
        # Guarded by _lock.
        self.eager = False  # whether the caller wants to be woken for every step, not only for the whole answer
        self._may_continue = False  # 100 (Continue) has come
        self._sent_at: float | None = None
        self._first_byte_at: float | None = None
        self._ended_at: float | None = None
        marks = connection.watermarks
        self.incoming = IncomingBuffer(marks.receive_high, marks.receive_low, connection.budget)
        self.head: Head | None = None
        self.trailers: list[tuple[str, str]] = []
        self.bytes_received = 0
        self.failure: RequestException | None = None
        self.is_refused = False  # for what its head says of the body
        self.ended = False  # the last byte of the answer was parsed
        self.left_to_worker = False  # by the worker, who acts upon it: the connection is its to give back or to close
        self.reusable = False  # and the connection may carry another exchange
        self.upgrades = False  # and no HTTP comes after it: the connection waits for the program to take it over
        # Written by the thread that received the step in question, before it sets the flag below it.
        self._bytes_sent = 0
        self.request_complete = False
        # Set once the step that found it has been acted upon: sending has stopped, the connection is in the pool.
        self.answered = False
        self.settled = False

    # ---------------------------------------------------------------- sending: the caller, one at a time

    def start(self, head: bytes, body: list[Piece], *, has_body: bool, last: bool) -> bool:
        """Send the head, with what there is of the body in the same call; False if the peer stopped it."""
        self._has_body = has_body
        if not last:
            # The worker listens while this thread sends: an early answer, a 100 (Continue), a reset.
            with self._lock:
                self._connection.transport.set_reading(True)
        pieces: list[Piece] = [(memoryview(head), 0), *body]
        return self._connection.transport.start_message(pieces, self._deadline, last=last)

    def write(self, pieces: list[Piece], *, last: bool = False) -> bool:
        """Send or queue all of `pieces`, waiting for room; False if the peer stopped the sending."""
        return self._connection.transport.write(pieces, self._deadline, last=last)

    def check_deadline(self) -> None:
        """Raise TotalTimeout if the time is over: to a producer who is slow, there may never be a wait that notices."""
        self._deadline.check(self.where, "send")

    def takes(self, size: int) -> bool:
        """Whether `try_write` would take so many bytes now."""
        return self._connection.transport.takes(size)

    def try_write(self, pieces: list[Piece], *, last: bool = False) -> bool:
        """As `write`, without waiting, for a caller who has asked `takes`; False if the peer stopped the sending."""
        return self._connection.transport.try_write(pieces, last=last)

    def write_file(self, file: int, offset: int, count: int) -> int:
        """Let the kernel send part of a regular file: see `Transport.write_file`."""
        return self._connection.transport.write_file(file, offset, count, self._deadline)

    @property
    def sends_files(self) -> bool:
        """Whether `write_file` can be used: the kernel does not encrypt."""
        return self._connection.sends_files

    def wait_writable(self, size: int, timeout: float | None) -> bool:
        """Wait for room for `size` bytes; False when `timeout` seconds ran out first."""
        return self._connection.transport.wait_writable(size, self._deadline, timeout)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the system has taken all; False when `timeout` seconds ran out first."""
        return self._connection.transport.flush(self._deadline, timeout)

    def pause(self, seconds: float) -> None:
        """Wait so long without anything to write, or until the peer has stopped the sending."""
        self._connection.transport.pause(self._deadline, seconds)

    def call_later(self, delay: float, action: Callable[[], None]) -> None:
        """With the lock of `sending` held. Have `action` run by the worker in so many seconds."""
        self._connection.transport.call_later(delay, action)

    @property
    def sending(self) -> SendingSide:
        """The connection's sending direction, for who gathers ahead of it and wants to see its room. Whoever takes its
        lock may call `try_write`, and must not wait."""
        return self._connection.transport

    @property
    def may_send(self) -> bool:
        """Whether nobody has stopped the sending, as far as can be seen now."""
        return self._connection.transport.may_send

    @property
    def drained(self) -> int:
        """How often the outgoing buffer, having been full, has become low."""
        return self._connection.transport.drained

    @property
    def high_watermark(self) -> int:
        """Of the outgoing buffer, in bytes."""
        return self._connection.transport.outgoing.most

    @property
    def bytes_sent(self) -> int:
        """Bytes of the body that the system took."""
        return self._bytes_sent if self.answered else self._connection.transport.payload_sent

    @property
    def bytes_buffered(self) -> int:
        """Bytes of the body that wait to be sent."""
        transport = self._connection.transport
        with transport.sending:
            return 0 if self.answered else transport.outgoing.payload

    # ---------------------------------------------------------------- waiting for the answer: the caller

    def wait_for_continue(self, patience: float) -> None:
        """Wait for 100 (Continue), for the final answer, or for `patience` seconds (RFC 9110, section 10.1.1)."""
        with self._lock:
            self.eager = True
            until = self._deadline.clock() + patience
            while not (self._may_continue or self.answered or self.failure):
                left = self._deadline.wait_time(until)
                if left == 0.0:
                    break
                self._arrived.wait(left)

    def wait_answered(self, *, whole: bool) -> Head:
        """Wait for the final head; if `whole`, until all of the answer is here or the buffer is full.

        Raises:
            ReadTimeout, WriteTimeout, TotalTimeout: by the limits.
            StaleConnection, ConnectionError, ProtocolError, Cancelled, SessionClosed: as `failure` says.
        """
        arrived = self._is_here if whole else self._has_answered
        while True:
            with self._lock:
                self.eager = not whole
                outcome = self._wait_for(arrived)
                if not outcome:
                    assert self.head is not None
                    if self.is_refused and self.failure is not None:
                        raise self.failure
                    if not (whole or self.ended) and self.incoming.room > 0:
                        # Nobody may ever ask for the rest: the worker takes what is small, and frees the connection.
                        self._connection.transport.set_reading(True)
                    return self.head
            if outcome & Outcome.TO_SETTLE:
                self._connection.settle(self, outcome)

    def read(self, most: int) -> bytes:
        """The next bytes of the answer's body, at least one and at most `most`; b"" at its end.

        Receives on this thread as long as bytes are there, and parks with the worker when none are.
        """
        while True:
            with self._lock:
                piece, outcome = self._read_step(most)
            if outcome & Outcome.TO_SETTLE:
                self._connection.settle(self, outcome)
            if piece is not None:
                return piece

    def read_all(self) -> bytes:
        """All that is left of the answer's body."""
        pieces: list[bytes] = []
        while True:
            with self._lock:
                if self.incoming.size:
                    pieces += self.incoming.take_all()
                if self.settled and self.failure is None:
                    break
            pieces.append(self.read(MOST_RECEIVE_SIZE))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_step(self, most: int) -> tuple[bytes | None, int]:
        """With the lock held: bytes, or b"" for the end, or None to be called again once the outcome was acted upon."""
        self.eager = True
        if self._deadline.at is not None and not self.ended:
            # First of all: to a reader who is slow, the buffer may never be empty.
            self._deadline.check(self.where, "body")
        if self.incoming.size:
            return self._take(most), Outcome.QUIET
        if self.failure is not None:
            raise self.failure
        if self.settled:
            return b"", Outcome.QUIET
        # It has read all that the worker had for it, so it is the faster of the two: alone it is faster still.
        self._connection.transport.set_reading(False)
        # The watermark holds for what is received ahead, not for what the reader asks for at once.
        size = max(most, min(RECEIVE_SIZE, self.incoming.high))
        outcome = self._connection.receive(self, min(size, MOST_RECEIVE_SIZE))
        if outcome == Outcome.QUIET:
            outcome = self._wait_for(self._has_news)
        return None, outcome

    def _take(self, most: int) -> bytes:
        """With the lock held and something buffered. A reader that takes all goes on to receive by itself; for one that
        takes little at a time the worker fills the buffer again while it computes."""
        incoming = self.incoming
        piece = incoming.take(most)
        if 0 < incoming.size <= incoming.low and not self.ended and self.failure is None:
            self._connection.transport.set_reading(True)
        return piece

    def _has_answered(self) -> bool:
        return self.answered

    def _is_here(self) -> bool:
        return self.settled or (self.answered and self.incoming.room <= 0)

    def _has_news(self) -> bool:
        return self.incoming.size > 0 or self.settled

    def _wait_for(self, arrived: Callable[[], bool]) -> int:
        """With the lock held. Wait until `arrived`, and return QUIET; or, where this thread receives for itself, until
        something came, and return what is to be acted upon. See the head of this file for who wakes it."""
        if arrived():
            return Outcome.QUIET
        transport = self._connection.transport
        timeouts = self._deadline.timeouts
        # Without a body the kernel's queue tells nothing, and asking costs a system call a request.
        sending = self._has_body and not self.answered
        stall = Stall(self._deadline, self.where, transport.unacknowledged if sending else None)
        while True:
            if self.failure is not None:
                raise self.failure
            # The read timer runs once the body has left; until then it is the server's turn to take, not to answer.
            unsent = sending and not self.answered and transport.outgoing.size > 0
            limit = timeouts.write if unsent else timeouts.read
            left = stall.time_left(limit, max(transport.last_received, transport.last_sent))
            if left == 0.0:
                if unsent:
                    raise stall.timeout(WriteTimeout, "write", "send", "the server took nothing of the request")
                phase = "body" if self.head else "head"
                raise stall.timeout(ReadTimeout, "read", phase, "the server sent nothing")
            if transport.is_watched or self.ended:
                self._arrived.wait(left)
                if arrived():
                    return Outcome.QUIET
            else:
                if not transport.pending:
                    transport.wait_here(left)
                if self.failure is None:
                    outcome = self._connection.receive(self, min(RECEIVE_SIZE, self.incoming.room))
                    if outcome != Outcome.QUIET:
                        return outcome

    def take_over(self) -> ByteStream:
        """After an answer that has switched protocols: see `Connection.take_over`."""
        return self._connection.take_over(self, self._deadline)

    # ---------------------------------------------------------------- what the connection tells

    def accept(self, events: list[Event]) -> int:
        """With the lock held, on the thread that received. Take what was parsed. Once it was called off the end counts,
        but no byte: with what was dropped before it, it would look like the whole."""
        outcome: int = Outcome.MOVED
        for event in events:
            if type(event) is bytes:
                if self.failure is None:
                    self.incoming.append(event)
                    self.bytes_received += len(event)
            elif type(event) is Head:
                outcome |= self._accept_head(event)
            elif event is END:
                self.ended = True
                self._ended_at = self._connection.transport.last_received
                outcome |= Outcome.ENDED | Outcome.WAKE
            else:
                assert type(event) is Trailers
                self.trailers = event.fields
        if self.eager or self.incoming.room <= 0:
            outcome |= Outcome.WAKE
        return outcome

    def _accept_head(self, head: Head) -> int:
        if head.status < 200 and head.status != 101:
            self._may_continue |= head.status == 100
            return Outcome.MOVED
        self.head = head
        self._first_byte_at = self._connection.transport.last_received
        return Outcome.ANSWERED

    def lost(self, error: RequestException) -> None:
        """With the lock held, on the thread that received. The answer will never be complete."""
        if not self.is_over:
            self.failure = self.locate(error, "body" if self.head else "head")

    def stopped_sending(self, *, complete: bool) -> None:
        """On the thread that received the final head, once the sending has been stopped."""
        transport = self._connection.transport
        self._bytes_sent = transport.payload_sent
        self._sent_at = transport.last_sent if complete else None
        self.request_complete = complete

    # ---------------------------------------------------------------- calling off

    def fail(self, error: RequestException) -> None:
        """Any thread. End it now: whoever waits in it is woken with `error`; the connection is closed, never reused.
        Nothing happens if it was over."""
        with self._lock:
            if self.is_over:
                return
            self.failure = self.locate(error, "body" if self.head else "head")
            self.incoming.clear()
            self._arrived.notify_all()
        self._connection.close()

    def abandon(self, error: BaseException) -> None:
        """The caller, to whom `error` happened in a wait or between two. The connection is closed even where an
        interrupt came between a step and what was to be done about it."""
        with self._lock:
            if (self.settled or self.left_to_worker) and not self.upgrades:
                return  # the connection may be another's by now
            if self.failure is None:
                # One that knows its request came out of the body, and tells of another exchange.
                if not isinstance(error, RequestException) or error.request is not None:
                    error = Cancelled(f"{self.where}: interrupted by {type(error).__name__}")
                self.failure = self.locate(error, "body" if self.head else "head")
            self.incoming.give_back()  # an interrupt may have come before that
        self._connection.close()
        if isinstance(self.failure, StaleConnection):  # not earlier: until now its caller may have been about to send
            self.failure.is_untouched = self._connection.is_untouched

    def fail_from_finalizer(self) -> None:
        """Any thread, at any moment, holding anything. The response was dropped unread: the worker cleans up."""
        transport = self._connection.transport
        transport.worker.submit_from_finalizer(transport, self._fail_dropped)

    def _fail_dropped(self) -> None:
        # Not `self.fail`, by which a watched one tells its witness: that is no business of the worker's.
        Exchange.fail(self, Cancelled(f"{self.where}: the response was dropped before its body was read"))

    @property
    def is_over(self) -> bool:
        """Any thread, no lock. Whether the connection is of no more use to this exchange."""
        return (self.ended and not self.upgrades) or self.failure is not None

    def locate(self, error: RequestException, phase: str) -> RequestException:
        """Say in an error how far the exchange had come."""
        error.phase = error.phase or phase
        error.bytes_sent = self.bytes_sent
        error.bytes_received = self.bytes_received
        return error

    # ---------------------------------------------------------------- what it was like

    @property
    def where(self) -> str:
        """ "host:port", for messages."""
        return self._connection.transport.where

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port that the connection goes to."""
        return self._connection.transport.peer

    @property
    def elapsed(self) -> float:
        """Seconds from the beginning of the request on this connection to its answer's head."""
        return 0.0 if self._first_byte_at is None else self._first_byte_at - self._begun_at

    @property
    def timings(self) -> Timings:
        """See `Timings`."""
        setup = self._connection.setup if self._first_use else NO_SETUP
        started = self._deadline.started
        return Timings(
            pool=self._pooled,
            dns=setup.dns,
            connect=setup.connect,
            tls=setup.tls,
            sent=_since(started, self._sent_at),
            first_byte=_since(started, self._first_byte_at),
            total=_since(started, self._ended_at),
        )


def _since(started: float, moment: float | None) -> float | None:
    return None if moment is None else moment - started

"""A connection without a protocol: bytes in both directions, each between its own two watermarks.

Knows every wait of a caller on such a connection, and how a stream ends well: each direction on its own, or both. How
one fails is `StreamLife`'s. Knows nothing of what the bytes mean, nor of files.

A reader and a writer do not know of one another. The reader receives on its own thread, and waits for its own socket
(`Transport.wait_here`); what comes while nobody reads is received by the worker, up to the high watermark of the
incoming buffer. The writer sends on its own thread, and waits on the transport's `left`. Both are woken by what happens
to the connection, by `fail` (cancelled, session closed), by the worker's death, and end by a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..exceptions import Cancelled, ReadTimeout, RequestException
from ..settings import Watermarks
from .budget import Budget
from .deadline import Deadline
from .stall import Stall
from .stream_life import StreamLife, broken
from .transport import Transport

__all__ = ["ByteStream"]

# What a reader on its own thread asks the kernel for at once: see `exchange`.
RECEIVE_SIZE = 65536
MOST_RECEIVE_SIZE = 262144

# What one step of receiving led to.
NOTHING: Final = 0
MOVED: Final = 1  # bytes, or the end
LOST: Final = 2  # the stream has failed: see `_settle`


class ByteStream(StreamLife):
    """The `Owner` of a transport, or what such an owner hands everything on to.

    Args:
        transport: connected; nothing is under way on it.
        watermarks: for what is received.
        deadline: of the stream's whole life.
        left: any thread, without a lock: called when the stream ends, at least once.
        budget: that the buffer for what is received shares with others, if it does.
    """

    def __init__(
        self,
        transport: Transport,
        watermarks: Watermarks,
        deadline: Deadline,
        left: Callable[[], None] | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(transport, watermarks, deadline, left, budget)
        # Guarded by the writer's turn.
        self._accepted = 0  # bytes that a write was given
        self._is_shut_down = False  # for writing

    def start(self, received: bytes = b"") -> None:
        """Caller, once. From now on it can be used; `received` is what has come already."""
        self.transport.open_sending()
        with self._lock:
            if self._failure is not None:
                return
            if received:
                self._accept(received)
            if self.incoming.room > 0:
                self._receive_ahead()  # a program that only writes is to see the peer fail as well

    # ---------------------------------------------------------------- reading: any thread, one at a time

    def read(self, most: int) -> bytes:
        """The next bytes, at least one and at most `most`; b"" at the end.

        Raises:
            ReadTimeout, TotalTimeout: by the limits.
            ConnectionError, Cancelled, SessionClosed: what ended the stream.
            RuntimeError: by a signal's handler, within another read of its thread.
        """
        return self._reading(lambda: self._read(most))

    def read_all(self) -> bytes:
        """All there is up to the end. Raises as `read`: what came before is lost then."""
        return self._reading(lambda: b"".join(iter(lambda: self._read(MOST_RECEIVE_SIZE), b"")))

    def _reading(self, step: Callable[[], bytes]) -> bytes:
        data = self._in_turn(self._readers, step)
        # There are no turns any more, but perhaps bytes that came before the peer failed.
        return self._guarded(step) if data is None else data

    def _read(self, most: int) -> bytes:
        """With the reader's turn."""
        while True:
            with self._lock:
                piece, outcome = self._read_step(most)
            if outcome == LOST:
                self._settle()
            if piece is not None:
                return piece

    def _read_step(self, most: int) -> tuple[bytes | None, int]:
        """With the lock held: bytes, or b"" for the end, or None to be called again once the outcome was acted upon."""
        # First of all: to a reader who is slow, the buffer may never be empty.
        self._deadline.check(self.where, "body")
        if self.incoming.size:
            return self._take(most), NOTHING
        if self._has_ended:
            return b"", NOTHING
        if self._failure is not None:
            raise self._again()
        # It has read all that the worker had for it: alone it is faster.
        self.transport.set_reading(False)
        # The watermark holds for what is received ahead, not for what the reader asks for at once.
        size = min(max(most, min(RECEIVE_SIZE, self.incoming.high)), MOST_RECEIVE_SIZE)
        outcome = self._receive(size)
        if outcome == NOTHING:
            outcome = self._wait_for_bytes(size)
        return None, outcome

    def _take(self, most: int) -> bytes:
        """With the lock held and something buffered. For one that takes little at a time, the worker fills the buffer
        again while it computes."""
        incoming = self.incoming
        piece = incoming.take(most)
        if 0 < incoming.size <= incoming.low and not self._has_ended and self._failure is None:
            self._receive_ahead()
        return piece

    def _receive_ahead(self) -> None:
        """With the lock held. The worker fills the buffer, up to its high watermark."""
        transport = self.transport
        if not transport.is_watched:
            transport.set_reading(True)
            if transport.pending:  # TLS may have received it with the handshake: no selector tells of it
                transport.worker.submit(transport, self.on_readable)

    def _wait_for_bytes(self, size: int) -> int:
        """With the lock held, which is released meanwhile; the worker does not watch. What was found in the end."""
        transport = self.transport
        stall = Stall(self._deadline, self.where, None)
        while True:
            left = stall.time_left(self._deadline.timeouts.read, transport.last_received)
            if left == 0.0:
                raise stall.timeout(ReadTimeout, "read", "body", "the peer sent nothing")
            if not transport.pending:
                transport.wait_here(left)
            if self._failure is not None:
                return NOTHING
            outcome = self._receive(size)
            if outcome != NOTHING:
                return outcome

    # ---------------------------------------------------------------- writing: any thread, one at a time

    def write(self, data: memoryview) -> None:
        """Send or queue all of it, waiting for room.

        Raises:
            WriteTimeout, TotalTimeout: by the limits.
            ConnectionError, Cancelled, SessionClosed: what ended the stream.
            ValueError: this direction was shut down.
            RuntimeError: by a signal's handler, within another write of its thread.
        """
        if self._in_turn(self._writers, lambda: self._write(data)) is None:
            raise self._again()

    def _write(self, data: memoryview) -> bool:
        self._check_writing()
        self._accepted += len(data)
        if not self.transport.write([(data, len(data))], self._deadline):
            raise self._stopped()
        return True

    def try_write(self, data: memoryview) -> bool:
        """As `write`, but never waits: False, and nothing taken, if there is no room or another thread writes. At most
        as many bytes as the high watermark."""
        taken = self._in_turn(self._writers, lambda: self._try_write(data), wait=False)
        if taken is None and self.is_over:
            raise self._again()
        return bool(taken)

    def _try_write(self, data: memoryview) -> bool:
        self._check_writing()
        if not self.transport.takes(len(data)):
            return False
        self._accepted += len(data)
        if not self.transport.try_write([(data, len(data))]):
            raise self._stopped()
        return True

    def wait_writable(self, size: int, timeout: float | None) -> bool:
        """Wait until the buffer is low and has room for `size` bytes, or until the next write would raise; False when
        `timeout` seconds ran out first."""
        return self._guarded(lambda: self.transport.wait_writable(size, self._deadline, timeout))

    def flush(self, timeout: float | None) -> bool:
        """Wait until the system has taken all; False when `timeout` seconds ran out first. Raises as `write`."""

        def step() -> bool:
            flushed = self.transport.flush(self._deadline, timeout)
            if self._failure is not None or self.transport.send_error is not None:
                raise self._stopped()
            return flushed

        return self._guarded(step)

    def shut_down_writing(self) -> None:
        """Flush, then tell the peer that this is all; nothing happens the second time. Raises as `write`."""
        if self._in_turn(self._writers, self._shut_down_writing) is None:
            raise self._again()

    def _shut_down_writing(self) -> bool:
        if not self._is_shut_down:
            self._check_writing()
            self._is_shut_down = True
            if not self.transport.end_sending(self._deadline):
                raise self._stopped()
        return True

    def _check_writing(self) -> None:
        """With the writer's turn."""
        if self._is_shut_down:
            raise ValueError(f"{self.where}: write after shutdown_write()")
        self._deadline.check(self.where, "send")

    def _stopped(self) -> RequestException:
        """The sending side was stopped: say why."""
        with self._lock:
            if self._failure is None:
                failure = self._failure = broken(self.where, self.transport.send_error)
                # What the peer had sent would be gone with the socket. No more of it comes: see `_sending_failed`.
                while not self._has_ended and self._receive(RECEIVE_SIZE) == MOVED:
                    pass
                self._located(failure, "send")
        self._settle()
        return self._again()

    @property
    def high_watermark(self) -> int:
        """Of the outgoing buffer, in bytes."""
        return self.transport.outgoing.most

    @property
    def buffered(self) -> int:
        """Bytes that wait to be sent."""
        with self.transport.sending:
            return self.transport.outgoing.payload

    # ---------------------------------------------------------------- receiving: the reader, or the worker

    def on_readable(self) -> None:
        """Worker only."""
        while True:
            with self._lock:
                size = min(RECEIVE_SIZE, self.incoming.room)
                if size <= 0:
                    self.transport.set_reading(False)
                if not self.transport.is_watched or self._failure is not None:
                    return
                outcome = self._receive(size)
                again = outcome == MOVED and self.transport.pending
            if outcome == LOST:
                self._settle()
            if not again:
                return

    def _receive(self, most: int) -> int:
        """With the lock held and no failure yet."""
        is_shared = self.incoming.budget is not None
        if is_shared:
            most = self.incoming.admit(most)
        try:
            data = self.transport.receive(most)
        except OSError as error:
            return self._lost(error)
        if is_shared and not data:
            self.incoming.settle()
        if data is None:
            return NOTHING
        if data:
            self._accept(data)
            return MOVED
        # The kernel tells of a reset once. If it was a sender whom it told, it shows an end here; a sender has the lock
        # until it has noted what it was told.
        with self.transport.sending:
            told = self.transport.send_error
        if told is not None:
            return self._lost(told)
        self._has_ended = True
        self.transport.set_reading(False)
        return MOVED

    def _accept(self, data: bytes) -> None:
        if self.incoming.budget is not None:
            self.incoming.borrow(len(data))  # what had come with a head is here, whatever is left
        self.incoming.append(data)
        self.bytes_received += len(data)
        if self.incoming.room <= 0:
            self.transport.set_reading(False)

    def _lost(self, error: OSError) -> int:
        """With the lock held. What was received stays to be read."""
        if self._failure is None:
            self._failure = self._located(broken(self.where, self.transport.send_error or error), "body")
        self.transport.set_reading(False)
        self.incoming.give_back()  # no more comes
        return LOST

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Any thread. Send what was accepted and end both directions; a reader that waits gets `Cancelled`. So does a
        writer that waits: it is not waited for.

        Raises:
            As `write`: something that was accepted could not be sent.
        """
        self._guarded(self._close)

    def _close(self) -> None:
        with self._lock:
            if self._is_closing:
                return  # of two at once, the second must not take the first for a writer who is not waited for
            self._is_closing = True
        had_failed = self.is_over
        try:
            if not self._writers.is_mine:  # by a signal's handler: then the write is called off
                self._in_turn(self._writers, self._finish, wait=False)
        finally:
            self.fail(self._closed())
        if had_failed and not self._told and self._accepted > self.transport.payload_sent:
            raise self._again()

    def _finish(self) -> bool:
        """With the writer's turn."""
        transport = self.transport
        transport.flush(self._deadline, None)
        if self._accepted > transport.payload_sent:
            raise self._stopped()
        try:
            self._is_parting = True  # whoever finds a failure is not to close the connection before the last word
            # Ahead of that, because the peer may say its own to it: a reader is not to take that for its answer.
            if self._fail(self._closed(), resets=False):
                if not transport.ends_each_way:
                    transport.say_goodbye()
                elif not self._is_shut_down:
                    transport.end_sending(self._deadline)
        finally:
            self._is_parting = False
        self._settle()
        return True

    def _closed(self) -> Cancelled:
        return Cancelled(f"{self.where}: the stream was closed")

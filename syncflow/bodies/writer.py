"""A body on its way: framing around pieces, the pieces to the exchange.

Knows what a body's declared length asks for, how chunks are written (RFC 9112, sections 6.2 and 7.1), and that small
pieces go together. Knows nothing of where the pieces come from: a file object and a program that calls `Upload.write`
go the same way.

Small pieces that follow one another closely are gathered, and sent as one, because a system call and a chunk for each
of them is most of what they cost. The first goes at once; what comes behind it waits for its company for `PATIENCE` at
most, because then the worker sends it. What is gathered counts as buffered, so the high watermark holds for both
together.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from time import monotonic

from ..engine.exchange import Exchange
from ..engine.sending import FRAMING_SLACK, Piece
from ..exceptions import BodyLengthError, InvalidHeader
from ..http1 import BodyFraming, BodyTooLong, BodyTooShort, InvalidRequest, LengthFraming

__all__ = ["BodyWriter", "Buffer"]

Buffer = bytes | bytearray | memoryview

# What the kernel says where os.sendfile is not to be had for this file.
NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

# Behind a piece up to this size others are gathered; to copy a larger one costs more than to send it.
SMALL = 4096
# So much is gathered before it is sent, if the buffer has that much room.
GATHERED = 65536
# Seconds that a small piece waits for others: nobody notices, and the worker is not woken more often than that.
PATIENCE = 0.002


class BodyWriter:
    """One body, written by one thread at a time.

    Methods that send return False once the peer has stopped the sending: by a final answer, or by ending the
    connection.
    """

    def __init__(self, exchange: Exchange, framing: BodyFraming) -> None:
        # Never changes. The lock is that of the connection's sending direction.
        self._exchange = exchange
        self._sending = exchange.sending
        self._lock = self._sending.sending
        # The writer's; the worker's too, with the lock held, as long as something is gathered.
        self._framing = framing
        # Guarded by _lock.
        self._gathered: list[bytes] = []
        self._is_open = False  # no writer is at work, and the body has not ended: a piece may be sent at once
        self._room = 0  # bytes that may be gathered now; 0 while a writer is at work, who has taken what was
        self._is_in_call = False  # a piece is being sent; the lock is held all the while
        self._gathers_until = 0.0  # the moment from which a piece that finds nothing gathered goes at once
        self._late_at = 0.0  # the moment from which what is gathered is late
        self._is_worker_asked = False  # it will come and see

    @property
    def where(self) -> str:
        """ "host:port", for messages."""
        return self._exchange.where

    @property
    def accepted(self) -> int:
        """Any thread. Bytes of body taken so far, sent or not."""
        with self._lock:
            return self._framing.sent + self._waiting

    @property
    def buffered(self) -> int:
        """Any thread. Bytes of body that wait to be sent."""
        with self._lock:
            return self._exchange.bytes_buffered + (self._waiting if self._exchange.may_send else 0)

    @property
    def is_interrupted(self) -> bool:
        """Any thread. Whether this one is in `accept` already: it is a signal's handler, and must not write."""
        with self._lock:  # which only its owner finds with that flag
            return self._is_in_call

    @property
    def _waiting(self) -> int:
        return sum(map(len, self._gathered))

    # ---------------------------------------------------------------- the writer

    def write(self, data: Buffer) -> bool:
        """Send, queue or gather `data`, waiting for room. An empty piece is nothing: it does not end the body.

        Raises:
            BodyLengthError: the body would be longer than declared; nothing of `data` was sent.
            WriteTimeout, TotalTimeout: by the limits.
        """
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        if size <= SMALL:
            data = bytes(data)
            if self.accept(data) > 0:
                return True
        self._exchange.check_deadline()
        pieces = self._take()
        try:
            pieces += self._frame(data, size)
        except BodyLengthError:
            self._exchange.write(pieces)
            raise
        if not pieces:
            return self._exchange.may_send
        goes_on = self._exchange.write(pieces, last=self._is_last())
        with self._lock:
            self._is_open = True
            if size <= SMALL:
                self._begin_gathering()
        return goes_on

    def accept(self, piece: object) -> int:
        """Any thread, also while another writes. The quick way: gather a small piece of `bytes`, or send a larger one
        if the kernel and the buffer together take it, and return its size; 0 if it takes a turn to write it, -1 if the
        peer has stopped the sending under it.
        """
        if type(piece) is not bytes:
            return 0
        size = len(piece)
        with self._lock:
            if size > SMALL:
                return self._send_at_once(piece, size)
            if size > self._room or not size or not self._sending.may_send:
                return 0
            if not self._gathered:
                now = monotonic()
                if now > self._gathers_until:
                    return 0
                self._exchange.check_deadline()
                self._late_at = now + PATIENCE
                if not self._is_worker_asked:
                    self._ask_worker(PATIENCE)
            self._gathered.append(piece)
            self._room -= size
            return size

    def _send_at_once(self, piece: bytes, size: int) -> int:
        """With the lock held. As `accept`. Not behind gathered pieces, nor the end of the body."""
        sending, remaining = self._sending, self._framing.remaining
        if not self._is_open or self._gathered or not sending.is_idle or size > sending.outgoing.at_once:
            return 0
        if remaining is not None and remaining <= size:
            return 0
        self._exchange.check_deadline()
        self._room = 0
        self._is_open, self._is_in_call = False, True
        try:
            self._is_open = sending.try_write(self._frame(piece, size))
        finally:
            self._is_in_call = False
        return size if self._is_open else -1

    def takes(self, size: int) -> bool:
        """Whether `try_write` would take a piece of that size now."""
        self.send_gathered()
        return self._exchange.takes(size + FRAMING_SLACK)

    def try_write(self, data: Buffer) -> bool:
        """As `write`, without waiting, for one who has asked `takes`."""
        self._exchange.check_deadline()
        pieces = self._take() + self._frame(data, memoryview(data).nbytes)
        return self._exchange.try_write(pieces, last=self._is_last()) if pieces else self._exchange.may_send

    def wait_writable(self, size: int, timeout: float | None) -> bool:
        """Wait until the buffer is low and takes a piece of that size; False when `timeout` seconds ran out first."""
        self.send_gathered()
        return self._exchange.wait_writable(size + FRAMING_SLACK, timeout)

    def flush(self, timeout: float | None) -> bool:
        """Wait until the system has taken all; False when `timeout` seconds ran out first."""
        self.send_gathered()
        return self._exchange.flush(timeout)

    def write_file(self, file: int, offset: int, count: int) -> int | None:
        """Let the kernel send part of a regular file, never the last byte of the body; the bytes that it sent, or
        None where that cannot be done: encrypted, chunked, or a file system that does not serve it."""
        if not self._exchange.sends_files or not isinstance(self._framing, LengthFraming):
            return None
        self.send_gathered()
        try:
            sent = self._exchange.write_file(file, offset, count)
        except OSError as error:
            if error.errno in NO_SENDFILE:
                return None
            raise
        self._framing.frame(sent)
        return sent

    def finish(self, trailers: Iterable[tuple[str, str]] = ()) -> bool:
        """The body is complete.

        Raises:
            BodyLengthError: it is shorter than declared.
            InvalidHeader: a trailer that may not be sent, or a body that cannot have any.
        """
        pieces = self._take()
        try:
            end = self._framing.finish(trailers)
        except BodyTooShort as error:
            raise BodyLengthError(f"{self._exchange.where}: {error}", phase="send") from error
        except InvalidRequest as error:
            raise InvalidHeader(f"{self._exchange.where}: {error}; the body was not ended", phase="send") from error
        if end:
            pieces.append((memoryview(end), 0))
        return self._exchange.write(pieces, last=True) if pieces else self._exchange.may_send

    # ---------------------------------------------------------------- what is gathered

    def _begin_gathering(self) -> None:
        """With the lock held and nothing gathered. What is taken now must fit into the outgoing buffer later, whatever
        the budget has left by then, and must not be the end of the body: that one has to be sent as such."""
        outgoing = self._sending.outgoing
        room = min(GATHERED, outgoing.at_once - FRAMING_SLACK, outgoing.room - FRAMING_SLACK)
        remaining = self._framing.remaining
        self._room = room if remaining is None else min(room, remaining - 1)
        self._gathers_until = monotonic() + PATIENCE

    def _take(self) -> list[Piece]:
        """What was gathered, framed; nothing more is until `_begin_gathering`, and nothing sent at once."""
        with self._lock:
            self._is_open = False
            self._room = 0
            if not self._gathered:
                return []
            joined = b"".join(self._gathered)
            self._gathered.clear()
            return self._frame(joined, len(joined))

    def send_gathered(self) -> None:
        """Any thread. Send or queue what was gathered; there is room for it, so this never waits. The lock is held all
        the while: what somebody writes now comes behind."""
        with self._lock:
            pieces = self._take()
            if pieces:
                self._exchange.try_write(pieces)

    def _ask_worker(self, delay: float) -> None:
        """With the lock held."""
        self._exchange.call_later(delay, self._send_late)
        self._is_worker_asked = True  # not before: if that raises, the next piece asks again

    def _send_late(self) -> None:
        """Worker only. Send what has been gathered for too long. The lock is held all the while: whoever writes now
        comes behind."""
        with self._lock:
            self._is_worker_asked = False
            if not self._gathered:
                return
            left = self._late_at - monotonic()
            if left > 0.0:
                self._ask_worker(left)  # the first pieces have left, with those that the writer had then
                return
            pieces = self._take()
            if self._exchange.try_write(pieces):
                self._is_open = True
                self._begin_gathering()

    def _frame(self, data: Buffer, size: int) -> list[Piece]:
        if not size:
            return []
        try:
            before, after = self._framing.frame(size)
        except BodyTooLong as error:
            raise BodyLengthError(f"{self._exchange.where}: {error}", phase="send") from error
        view = memoryview(data)
        if view.ndim != 1 or view.itemsize != 1:
            view = view.cast("B")
        if not before:
            return [(view, size)]
        return [(memoryview(before), 0), (view, size), (memoryview(after), 0)]

    def _is_last(self) -> bool:
        return self._framing.remaining == 0

"""The sending direction of a socket: what the kernel takes at once, what waits, who waits.

Knows the outgoing buffer and its watermarks, the messages that go through it one after the other, and how long the peer
has been taking nothing. Knows nothing of HTTP, nor of what is received: it is told to stop.

A caller sends on its own thread as long as the kernel goes along; what is left over waits in the buffer, and the worker
sends it. All of it happens under one lock, `sending`, which is not held while a file is read.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from time import monotonic

from ..exceptions import WriteTimeout
from ..settings import Watermarks
from .budget import Budget
from .buffers import OutgoingBuffer
from .deadline import Deadline
from .kernel import unacknowledged
from .locks import Condition, OwnedLock
from .stall import Stall

__all__ = ["FRAMING_SLACK", "Piece", "SendingSide"]

# A view of memory that nobody changes while it is being sent, and how many of its bytes are body, not framing.
Piece = tuple[memoryview, int]

# iovec entries in one call; the kernel's limit is 1,024, and 64 KiB of buffer rarely holds more than these.
PIECES_A_CALL = 64
# Bytes in one os.sendfile call: enough to make the call cheap, little enough to look for an answer in between.
FILE_BYTES_A_CALL = 1 << 20

# The most that chunked framing adds around a piece.
FRAMING_SLACK = 32

# What os.sendfile raises for the socket; anything else is the file's.
SOCKET_ERRORS = frozenset(
    {errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.ETIMEDOUT}
    | {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENOBUFS}
)


class SendingSide(abc.ABC):
    """The half of a `Transport` that sends.

    Args:
        sock: connected and non-blocking.
        where: "host:port", for messages.
        watermarks: of the outgoing buffer.
        budget: that it shares with others, if it does.
        lock: of this direction.
    """

    def __init__(
        self, sock: socket.socket, where: str, watermarks: Watermarks, budget: Budget | None, lock: OwnedLock
    ) -> None:
        # Never changes.
        self.where = where
        self._sock = sock
        self._fd = sock.fileno()
        # Guards all that follows; `left` is the Condition on it.
        self.sending = lock
        self.left = Condition(lock)
        self._writers = 0  # how many wait on `left`
        self.outgoing = OutgoingBuffer(watermarks.high, watermarks.low, budget)
        self._blocked = False  # the kernel took no more; the worker watches for room
        self._in_file_call = False  # a caller is in os.sendfile, without the lock: do not close the socket
        self.may_send = False  # a message is under way and nobody has stopped it; read without the lock as a hint
        self._ended = False  # its last byte was sent or queued
        self.send_error: OSError | None = None
        self._was_full = False  # somebody found no room since the buffer was low
        self.drained = 0  # how often a full buffer has become low, or a full kernel has room with an empty buffer
        self.payload_sent = 0  # bytes of this message's body that the kernel took
        self.bytes_sent = 0  # of everything, since the connection began
        self.last_sent = 0.0  # when it last took any
        # Guarded by both directions' locks.
        self.closed = False

    @abc.abstractmethod
    def _ask_worker(self, action: Callable[[], None]) -> None:
        """With either direction's lock held. Have `action` run by the worker."""

    @abc.abstractmethod
    def _sync(self) -> None:
        """Worker only. Watch for what both directions ask."""

    @abc.abstractmethod
    def _close(self) -> None:
        """Worker only. Close the socket, unless a caller is in a call with it."""

    # ---------------------------------------------------------------- the caller

    def start_message(self, pieces: list[Piece], deadline: Deadline, *, last: bool) -> bool:
        """Caller. Begin a new message with `pieces`; otherwise as `write`."""
        with self.sending:
            self.may_send = not self.closed
            self._ended = False
            self.send_error = None
            self.payload_sent = 0
            if self.may_send and not self._blocked:
                self._send_now(pieces)  # most requests are gone with this
                if not pieces:
                    self._ended = last
                    return self.may_send
        return self.write(pieces, deadline, last=last)

    def write(self, pieces: list[Piece], deadline: Deadline, *, last: bool = False) -> bool:
        """Caller. Send or queue all of `pieces`; False if the message was stopped before.

        What does not fit waits, and whoever had to wait goes on when the buffer is under its low watermark (woken by
        the worker's `_drain`), the message is stopped (`stop_message`), or the peer took nothing for `Timeouts.write`
        (`WriteTimeout`). Only the last piece is not waited for: the answer is.
        """
        with self.sending:
            had_to_wait = False
            while self.may_send:
                self._offer(pieces)
                if not pieces:
                    self._ended = last
                    if had_to_wait and not last:
                        self._wait_while(self._is_full, deadline)
                    return self.may_send  # False if the connection failed under it
                self._wait_while(self._is_full, deadline)
                had_to_wait = True
            return False

    @property
    def is_idle(self) -> bool:
        """With the sending lock held. Whether a message is under way and everything so far was taken by the kernel."""
        return self.may_send and not self._blocked and not self.outgoing.size

    def takes(self, size: int) -> bool:
        """Caller. Whether `try_write` would take so many bytes now. False turns to True with time, never back, as
        long as the caller is the only one who writes."""
        with self.sending:
            takes = not self.may_send or not self._blocked or size <= self.outgoing.room
            self._was_full |= not takes
            return takes

    def try_write(self, pieces: list[Piece], *, last: bool = False) -> bool:
        """Caller, who has asked `takes`. As `write`, but never waits."""
        out = self.outgoing
        with self.sending:
            if not self.may_send:
                return False
            self._offer(pieces, whole=True)
            for view, payload in pieces:  # a few bytes of framing, when the kernel took next to nothing
                out.append(memoryview(bytes(view)), payload)
            self._ended = last
            assert out.size <= out.high + FRAMING_SLACK
            return self.may_send

    def offer(self, pieces: list[Piece], *, last: bool) -> bool | None:
        """Caller. As `write`, for one who wants to know before it waits: None if it would, and what `write` is then to
        be called with is left in `pieces`."""
        with self.sending:
            if self.may_send:
                self._offer(pieces)
                if pieces:
                    return None
                self._ended = last
            return self.may_send

    def write_file(self, file: int, offset: int, count: int, deadline: Deadline) -> int:
        """Caller. Let the kernel send `count` bytes of a regular file; returns how many it had, or what it sent
        before the message was stopped. Plain sockets only. Never sends the last byte of a message: that one must be
        sent under the lock, or an answer that follows it at once would look early."""
        start = offset
        while offset - start < count:
            sent = self.write_file_once(file, offset, count - (offset - start), deadline)
            if sent == 0:
                break  # the message was stopped, or the file is shorter than it was
            offset += max(sent, 0)
        return offset - start

    def write_file_once(self, file: int, offset: int, count: int, deadline: Deadline) -> int:
        """Caller. One call of `write_file`. Bytes sent, 0 at the end of the file or the message, -1 if the kernel is
        full or the connection failed."""
        sent = -1
        count = min(count, FILE_BYTES_A_CALL)
        failed: OSError | None = None
        try:
            with self.sending:
                self._wait_while(lambda: self.is_blocked, deadline)
                if not self.may_send:
                    return 0
                self._in_file_call = True
            # Without the lock: reading the file may block, and the worker must not.
            sent = os.sendfile(self._fd, file, offset, count)
        except BlockingIOError:
            sent = -1
        except OSError as error:
            if error.errno not in SOCKET_ERRORS:
                raise
            failed = error
        finally:
            with self.sending:
                if self._in_file_call:
                    self._after_file_call(sent, failed)
        return sent

    def _after_file_call(self, sent: int, failed: OSError | None) -> None:
        """With the sending lock held."""
        self._in_file_call = False
        self.bytes_sent += max(sent, 0)
        if self.closed:
            self._ask_worker(self._close)
        elif failed is not None:
            self._sending_failed(failed)
        elif sent < 0:
            self._block()
        else:
            self.payload_sent += sent
            self.last_sent = monotonic()

    @property
    def is_blocked(self) -> bool:
        """Any thread. Whether the kernel takes no more just now, as far as can be seen."""
        return self.may_send and self._blocked

    def wait_for_kernel(self, deadline: Deadline) -> None:
        """Caller, with nothing queued. Wait until the kernel takes more, or the message is stopped. Woken and ended as
        `write` is."""
        with self.sending:
            self._wait_while(lambda: self.is_blocked, deadline)

    def wait_writable(self, size: int, deadline: Deadline, timeout: float | None) -> bool:
        """Caller. Wait until the buffer is under its low watermark and takes `size` bytes, or the message is
        stopped; False when `timeout` seconds ran out first. Woken and ended as `write` is."""
        out = self.outgoing
        with self.sending:
            return self._wait_while(
                lambda: self.may_send and self._blocked and not (out.is_low and size <= out.room), deadline, timeout
            )

    def flush(self, deadline: Deadline, timeout: float | None) -> bool:
        """Caller. Wait until the kernel has taken all that is queued, or the message is stopped; False when
        `timeout` seconds ran out first."""
        with self.sending:
            return self._wait_while(lambda: self.may_send and bool(self.outgoing.size), deadline, timeout)

    def pause(self, deadline: Deadline, seconds: float) -> None:
        """Caller, who has nothing to write, so that the peer is not to blame. Wait so long, or until the message is
        stopped, by whom this is woken; raises TotalTimeout."""
        until = deadline.clock() + seconds
        with self.sending:
            while self.may_send and (left := deadline.wait_time(until)):
                self._writers += 1
                try:
                    self.left.wait(left)
                finally:
                    self._writers -= 1
        deadline.check(self.where, "send")

    # ---------------------------------------------------------------- the receiver, the worker

    @property
    def message_left(self) -> bool:
        """Any thread. Whether the last byte of the message was handed to the kernel, as far as can be seen now."""
        return self._ended and not self.outgoing.size

    def stop_message(self) -> bool:
        """Any thread. Send no more of this message and wake its writer; whether all of it had left already."""
        with self.sending:
            complete = self._ended and not self.outgoing.size and self.send_error is None
            if self.may_send:
                self.may_send = False
                self.outgoing.clear()
                if self._writers:
                    self.left.notify_all()
            return complete

    def _drain(self) -> None:
        """Worker only. Send what a caller left behind; wake a writer once the buffer is low."""
        out = self.outgoing
        with self.sending:
            if self.closed:
                return
            try:
                while out.size:
                    sent = self._send_some(out.first(PIECES_A_CALL))
                    if not sent:
                        break
                    self.payload_sent += out.consume(sent)
                    self.bytes_sent += sent
                    self.last_sent = monotonic()
                else:
                    self._blocked = False
                if out.has_share:
                    out.settle()  # before anybody is woken who looks at the watermarks
                if out.is_low and (self._was_full or not self._blocked):
                    self._was_full = False
                    self.drained += 1
            except OSError as error:
                self._sending_failed(error)
            if self._writers and out.is_low:
                self.left.notify_all()
        self._sync()

    # ---------------------------------------------------------------- steps, with the lock held

    def _send_some(self, pieces: list[memoryview]) -> int:
        """With the sending lock held. Bytes that the kernel took; 0 if it is full."""
        try:
            if len(pieces) == 1:
                return self._sock.send(pieces[0])
            return self._sock.sendmsg(pieces)
        except BlockingIOError:
            return 0

    def _is_full(self) -> bool:
        is_full = self.may_send and not self.outgoing.is_low
        self._was_full |= is_full
        return is_full

    def _offer(self, pieces: list[Piece], *, whole: bool = False) -> None:
        """With the sending lock held. Let the kernel take what it will, then queue what fits; drops both from
        `pieces`. If `whole`, all of them fit."""
        if not self._blocked and not self.outgoing.size:
            self._send_now(pieces)
        if pieces and self.outgoing.budget is not None:
            self.outgoing.borrow(sum(len(view) for view, _ in pieces) if whole else 0)
        while pieces and self.outgoing.room > 0:  # `try_write` may have gone a few bytes of framing over it
            view, payload = pieces[0]
            part = view[: self.outgoing.room]
            handed = min(payload, len(part))
            if len(part) == len(view):
                del pieces[0]
            else:
                pieces[0] = (view[len(part) :], payload - handed)
            # The caller may change its buffer once we return; bytes it cannot.
            self.outgoing.append(part if type(part.obj) is bytes else memoryview(bytes(part)), handed)

    def _send_now(self, pieces: list[Piece]) -> None:
        """With the sending lock held and nothing queued. Drops from `pieces` what the kernel took."""
        try:
            sent = self._send_some([view for view, _ in pieces[:PIECES_A_CALL]])
        except OSError as error:
            pieces.clear()
            self._sending_failed(error)
            return
        if sent:
            self.last_sent = monotonic()
            self.bytes_sent += sent
        for index, (view, payload) in enumerate(pieces):
            size = len(view)
            if sent < size:
                handed = min(sent, payload)
                self.payload_sent += handed
                pieces[index] = (view[sent:], payload - handed)
                del pieces[:index]
                self._block()
                return
            self.payload_sent += payload
            sent -= size
        pieces.clear()

    def _block(self) -> None:
        """With the sending lock held. The kernel is full: the worker is to watch for room."""
        self._blocked = True
        self._ask_worker(self._sync)

    def _sending_failed(self, error: OSError) -> None:
        """With the sending lock held. Nothing more can be sent; what the peer had answered can still be read, so
        this is not yet the failure of the exchange (RFC 9112, section 9.5)."""
        # Its traceback would keep the sender's frames alive, and the body that is in them.
        self.send_error = error.with_traceback(None)
        self.may_send = False
        self._blocked = False
        self.outgoing.clear()
        self.left.notify_all()
        # Whatever the error was: to a request that will never be complete there may never be an answer, so the receiver
        # finds the end behind what is here. After a reset it is there already.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RD)

    def _wait_while(self, stuck: Callable[[], bool], deadline: Deadline, timeout: float | None = None) -> bool:
        """With the sending lock held. False if `timeout` seconds ran out, which is the caller's own wish.

        Woken by `_drain`, `stop_message`, `_sending_failed`; ends by the deadline or `Timeouts.write`, with an error.
        """
        if not stuck():
            return True
        stall = Stall(deadline, self.where, self.unacknowledged)
        until = None if timeout is None else deadline.clock() + timeout
        while stuck():
            left = stall.time_left(deadline.timeouts.write, self.last_sent)
            if left == 0.0:
                raise stall.timeout(WriteTimeout, "write", "send", "the server took nothing of the request")
            if until is not None:
                patience = until - deadline.clock()
                if patience <= 0.0:
                    return False
                left = patience if left is None else min(left, patience)
            self._writers += 1
            try:
                self.left.wait(left)
            finally:
                self._writers -= 1
        return True

    def unacknowledged(self) -> int:
        """With either lock held. Bytes in the kernel that the peer has not acknowledged yet, as far as known."""
        return 0 if self.closed else unacknowledged(self._fd)

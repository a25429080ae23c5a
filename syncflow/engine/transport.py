"""A non-blocking socket between its two directions: who may receive, who watches, who closes.

Knows what the worker is to watch and in whose hands the socket is. Sending is `SendingSide`'s. Knows nothing of HTTP:
its owner receives through it and is told when it can.

A caller receives on its own thread as long as bytes are there. When none are, it waits for its own socket, unless the
worker watches it already: two threads that wake one another cost more than a small request. So a socket is in one of
two hands, its caller's or the worker's (`_reading`), and only the worker's selector ever holds more than one. Each
direction has one lock; a TLS connection has one for both.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from ..settings import Watermarks
from .budget import Budget
from .deadline import Deadline
from .kernel import received
from .locks import Condition, OwnedLock, nap, new_lock, ownership
from .sending import SendingSide
from .worker import READ, WRITE, Worker

__all__ = ["Owner", "Transport"]

# Seconds; whoever waits longer is asked again. (poll(2) counts milliseconds in an int.)
LONGEST_POLL = 3600.0

# For SO_LINGER: close() drops what was not sent, and resets (socket(7)).
AT_ONCE = struct.pack("ii", 1, 0)


class Owner(Protocol):
    """Whose socket it is."""

    def on_readable(self) -> None:
        """Worker only. Bytes, the end or an error are there to be received."""

    def on_lost(self, error: BaseException) -> None:
        """Worker only. The transport is closed, by a failure of the engine; wake who waits."""

    def on_fork(self) -> None:
        """In a forked child. The socket stayed with the parent."""


class Transport(SendingSide):
    """One connected socket, plain.

    Args:
        worker: the thread that watches it.
        sock: connected and non-blocking; the transport closes it.
        where: "host:port", for messages.
        watermarks: of the outgoing buffer.
        budget: that it shares with others, if it does.
    """

    def __init__(
        self, worker: Worker, sock: socket.socket, where: str, watermarks: Watermarks, budget: Budget | None = None
    ) -> None:
        # The receiving direction's lock, and the Condition on it. It guards all that follows, and the owner's parser
        # and incoming buffer. (The lock itself, because entering a Condition costs two calls.)
        self.receiving = new_lock()
        self.arrived = Condition(self.receiving)
        self._reading = False  # whether the worker is to watch for bytes; if not, its caller does
        self._close_asked = False  # `close` has done all that it does
        self._resets = False  # the peer is to see an error, not an end
        self._in_wait = False  # a caller waits for the socket, without the lock: do not close it
        self.last_received = 0.0  # when the peer last sent any
        self.bytes_received = 0  # since the connection began
        super().__init__(sock, where, watermarks, budget, self._sending_lock())
        self._is_ending = False  # nothing more will be written, and the peer is to be told; under the sending lock
        # Set under either direction's lock, before the worker is asked for anything.
        self._known_to_worker = False
        # Any thread's to call, without a lock, and perhaps more than once: the socket is closed, and no byte will go
        # either way any more. Set before the transport is shared; None if nobody wants to know.
        self.when_closed: Callable[[], None] | None = None
        # Never changes.
        self.worker = worker
        self.peer: tuple[str, int] = sock.getpeername()[:2]
        self._owner: Owner  # set by `attach`, before any other thread knows of this object
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def _sending_lock(self) -> OwnedLock:
        return new_lock()

    def attach(self, owner: Owner) -> None:
        """Once, before the transport is shared. It is in its caller's hands."""
        self._owner = owner
        self.worker.adopt(self)

    # ---------------------------------------------------------------- sending without messages: one without a protocol

    def open_sending(self) -> bool:
        """Caller, once. What `write` takes from now on belongs to a message without a head; False if it was closed."""
        with self.sending:
            self.may_send = not self.closed
            self._ended = False
            self.send_error = None
            self.payload_sent = 0
            return self.may_send

    @property
    def ends_each_way(self) -> bool:
        """Whether `end_sending` can be used."""
        return True

    def end_sending(self, deadline: Deadline) -> bool:
        """Caller, after its last `write`. Wait until the kernel has taken all that is queued, and then end this
        direction: the peer sees the end, and can be received from as before. False if the sending was stopped.

        Woken and ended as `write` is.
        """
        with self.sending:
            self._wait_while(lambda: self.may_send and bool(self.outgoing.size), deadline)
            if self.may_send:
                self._is_ending = True
                self._end_now()
                self._wait_while(lambda: self.may_send and self._is_ending, deadline)
            return self.may_send

    def _end_now(self) -> None:
        """With the sending lock held and nothing queued. The kernel may be full: the worker comes back for it."""
        try:
            if not self._say_end():
                self._block()
                return
        except OSError as error:
            self._sending_failed(error)
        self._is_ending = False
        self.left.notify_all()

    def _end_again(self) -> None:
        """Worker only."""
        with self.sending:
            # Asked once more: whoever ends it may have come through meanwhile, and the peer have closed.
            if self._is_ending and self.may_send and not self.outgoing.size:
                self._end_now()

    def _say_end(self) -> bool:
        """With the sending lock held. False if the kernel is full. Raises OSError."""
        socket.socket.shutdown(self._sock, socket.SHUT_WR)
        return True

    def say_goodbye(self) -> None:
        """Caller, about to close what `end_sending` cannot end. Tell the peer, as far as that needs no waiting."""

    # ---------------------------------------------------------------- receiving

    def receive(self, most: int) -> bytes | None:
        """With `receiving` held. Bytes; b"" for the end; None if nothing is there yet. Raises OSError."""
        try:
            data = self._sock.recv(most)
        except BlockingIOError:
            return None
        self.last_received = monotonic()
        self.bytes_received += len(data)
        return data

    @property
    def pending(self) -> bool:
        """With `receiving` held. Whether bytes wait in this process where the worker's selector cannot see them."""
        return False

    def wait_here(self, timeout: float | None) -> None:
        """Caller, with `receiving` held and the worker not watching. Wait for bytes, the end, `close`, or `timeout`
        seconds, and come back early at times; the lock is released meanwhile."""
        mine = ownership()
        timeout = nap(timeout)
        self._in_wait = True
        try:
            # In here, because an interrupt (Ctrl-C) that was waiting strikes as soon as this call returns.
            self.receiving.release()
            self._poll.poll(None if timeout is None else math.ceil(min(timeout, LONGEST_POLL) * 1000))
        finally:
            self.receiving._acquire_restore(mine)  # `acquire` could be interrupted, and come back without the lock
            self._in_wait = False
            if self.closed:
                self._ask_worker(self._close)

    def is_quiet(self) -> bool:
        """Any thread, while no message is under way: neither bytes nor the end have arrived."""
        with self.receiving:
            if self.closed:
                return False
            if received(self._sock) == self.bytes_received:
                return True
            # Something came, or the end, or this kernel does not count: the socket itself knows.
            try:
                self._sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return True
            except OSError:
                return False
            return False

    def set_reading(self, wanted: bool) -> None:
        """Any thread, with `receiving` held. Whether the worker is to watch for bytes."""
        if wanted != self._reading and not self.closed:
            self._reading = wanted
            self._ask_worker(self._sync)

    def hand_back(self) -> None:
        """Worker only, with `receiving` held. The answer is complete: whoever uses the connection next waits for its
        own, unless the pool gives the idle connection to the worker first (`set_reading`)."""
        if self._reading:
            self._reading = False
            self.worker.watch(self, WRITE if self._blocked else 0)

    @property
    def is_watched(self) -> bool:
        """With `receiving` held. Whether the worker watches for bytes."""
        return self._reading

    # ---------------------------------------------------------------- the worker's side

    def fileno(self) -> int:
        """The descriptor that the worker watches."""
        return self._fd

    def on_ready(self, events: int) -> None:
        """Worker only. Reading before writing: a reset may destroy an answer that is already here."""
        if events & READ:
            self._owner.on_readable()
        if events & WRITE:
            self._drain()
            if self._is_ending:
                self._end_again()
            if self.message_left:
                self.worker.notify_last(self.arrived)  # now it is the server's turn: who waits for it starts that timer

    def call_later(self, delay: float, action: Callable[[], None]) -> None:
        """Any thread, with either direction's lock held. Have `action` run by the worker in so many seconds."""
        when = monotonic() + delay
        self._ask_worker(lambda: self._call_at(when, action))

    def _call_at(self, when: float, action: Callable[[], None]) -> None:
        """Worker only."""
        if not self.closed:
            self.worker.call_at(when, self, action)

    def _ask_worker(self, action: Callable[[], None]) -> None:
        self._known_to_worker = True
        self.worker.submit(self, action)

    def _sync(self) -> None:
        """Worker only. Watch for what both directions ask. Reads the two flags without their locks: whoever
        changes one submits this call afterwards, so the last one sees the last values."""
        if not self.closed:
            self.worker.watch(self, (READ if self._reading else 0) | (WRITE if self._blocked else 0))

    def close(self) -> None:
        """Any thread. The end: nothing is sent or received any more. The worker closes the socket, if it knows it."""
        with self.receiving:
            if self._close_asked:  # not `closed`: an interrupt may have struck behind it, and this is the second call
                return
            self.closed = True
            self._wake_receiver()
        self.stop_message()
        self._ask_to_close()
        self._close_asked = True

    def abort(self) -> None:
        """Any thread. As `close`, and the peer gets a reset: it must not take what it has for all there was to be."""
        with self.receiving:
            self.will_reset()
        self.close()

    def will_reset(self) -> None:
        """With `receiving` held. Whoever comes to `close` first, it is an `abort`."""
        if not self.closed:
            self._resets = True
            with contextlib.suppress(OSError):  # not TCP
                socket.socket.setsockopt(self._sock, socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)

    def _wake_receiver(self) -> None:
        """With `receiving` held. A caller in `wait_here` sees the end of the connection."""
        if self._in_wait:
            # It may be gone already, which wakes as well. Not `self._sock.shutdown`: on a TLS socket that does more.
            with contextlib.suppress(OSError):
                # A FIN would be on its way ahead of the reset.
                socket.socket.shutdown(self._sock, socket.SHUT_RD if self._resets else socket.SHUT_RDWR)

    def _ask_to_close(self) -> None:
        """Any thread. What the worker was never asked to watch needs no worker to be closed."""
        if self._known_to_worker:
            self.worker.submit(self, self._close)
        else:
            self.worker.disown(self)
            self._close_socket()

    def _close(self) -> None:
        """Worker only."""
        self.worker.dismiss(self)
        self._close_socket()

    def _close_socket(self) -> None:
        """With nobody watching. A caller inside a system call, without a lock, comes back to `_close` afterwards."""
        with self.receiving, self.sending:  # which may be one lock: its owner may take it twice
            self.closed = True
            # Whoever comes first wakes the writer: `close` may not have got that far, and would find nothing to stop.
            self.stop_message()
            self._wake_receiver()
            is_done = not self._in_file_call and not self._in_wait
            if is_done:
                self._sock.close()
        if is_done and self.when_closed is not None:
            self.when_closed()

    def on_failure(self, error: BaseException) -> None:
        """Worker only. See `Client.on_failure`. The owner first: a receiver that wakes is to find the reason."""
        self._owner.on_lost(error)
        self.stop_message()
        self._close_socket()

    def on_fork(self) -> None:
        """In a forked child. Close our copy without a word; the locks may be held by threads that do not exist."""
        self.arrived.forget()
        self.left.forget()
        self.outgoing.detach()
        self.closed = True
        self.may_send = False
        self._in_file_call = self._in_wait = False
        self._sock.close()
        self._owner.on_fork()

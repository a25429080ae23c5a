"""How a raw stream of bytes fails: once, for everybody who uses it, whoever has found out.

Knows what ends a stream before its time (the peer, a limit, an interrupt, another thread, the worker's death, a fork),
who is to be woken then, and what each caller is told. Knows nothing of reading and writing.

A failure is kept, and whoever calls later gets another one like it. What the peer had sent before it failed is handed
out first; of what was called off here, nothing is.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TypeVar

from ..exceptions import Cancelled, ConnectionError, RequestException
from ..settings import Watermarks
from .budget import Budget
from .buffers import IncomingBuffer
from .deadline import Deadline
from .transport import Transport
from .turns import Turns
from .worker import worker_failed

__all__ = ["StreamLife", "broken"]

T = TypeVar("T")


class StreamLife:
    """What a `ByteStream` is built on; its arguments are described there."""

    def __init__(
        self,
        transport: Transport,
        watermarks: Watermarks,
        deadline: Deadline,
        left: Callable[[], None] | None,
        budget: Budget | None,
    ) -> None:
        # Never changes.
        self.transport = transport
        self._deadline = deadline
        self._left = left
        self._lock = transport.receiving
        # Guarded by _lock.
        self.incoming = IncomingBuffer(watermarks.receive_high, watermarks.receive_low, budget)
        self.bytes_received = 0
        self._has_ended = False  # the peer has said that it sends no more
        self._failure: RequestException | None = None
        self._is_closing = False  # somebody closes it; never back
        # One reader and one writer at a time.
        self._readers = Turns(lambda: self._failure is not None)
        self._writers = Turns(lambda: self._failure is not None)
        # Set without a lock, never back: some thread was told of the failure, by an exception; what the failure asks
        # for has been done, or is another's to do.
        self._told = False
        self._is_settled = False
        # Set by the thread that closes it, while it says its last word: to settle is left to it.
        self._is_parting = False

    def fail(self, error: RequestException) -> None:
        """Any thread. End it now: whoever waits in it is woken with `error`, nothing more is sent, and the peer sees a
        reset. Nothing happens if it was over."""
        self._guarded(lambda: self._call_off(error))

    def _call_off(self, error: RequestException) -> None:
        if not self._fail(error) and self._is_closing and not self._is_settled:
            self.transport.abort()  # whoever closes it may still be waiting to say its last word
        self._settle()  # somebody may have been interrupted before that

    def _fail(self, error: RequestException, *, resets: bool = True) -> bool:
        """Whether it was alive until now. What the peer is to see is settled here: the next one who finds a failure,
        a reader perhaps, closes."""
        with self._lock:
            if self._failure is not None:
                return False
            self._failure = self._located(error, "body")
            self._has_ended = False
            self.incoming.clear()
            self.transport.set_reading(False)  # nobody receives any more: the selector would tell of it for ever
            if resets:
                self.transport.will_reset()
            return True

    def fail_from_finalizer(self) -> None:
        """Any thread, at any moment, holding anything. It was dropped: the worker cleans up."""
        transport = self.transport
        transport.worker.submit_from_finalizer(transport, self._fail_dropped)

    def _fail_dropped(self) -> None:
        self.fail(Cancelled(f"{self.where}: the stream was dropped before it was closed"))

    def on_lost(self, error: BaseException) -> None:
        """Worker only: it, or a step of this stream on it, failed. The transport closes itself, and wakes who waits."""
        with self._lock:
            if self._failure is None:
                self._failure = self._located(worker_failed(self.where, error), "body")
            self.incoming.give_back()
        self._is_settled = True
        self._writers.end()
        self._readers.end()

    def on_fork(self) -> None:
        """In a forked child, which has one thread: no lock is needed. The parent goes on with the stream."""
        self.incoming.detach()
        if self._failure is None:
            self._failure = ConnectionError(
                f"{self.where}: this stream belongs to the parent process; connect again after fork()"
            )
            self._has_ended = False
            self._told = True  # whatever was not sent, the parent sends
            self.incoming.clear()
        self._is_settled = True

    def _settle(self) -> None:
        """Any thread, without a lock, once `_failure` is set; any number of times. Close, wake, tell."""
        if self._is_settled or self._is_parting:
            return
        self.transport.close()
        self._writers.end()
        self._readers.end()
        left = self._left
        if left is not None:
            left()
            self._left = None  # not before: an interrupt may have come first, and this is the second call
        self._is_settled = True

    # ---------------------------------------------------------------- callers

    def _in_turn(self, turns: Turns, step: Callable[[], T], *, wait: bool = True) -> T | None:
        """Do `step` when it is this thread's turn; None if there was none."""
        if turns.is_mine:
            raise RuntimeError(f"{self.where}: a signal's handler may not do again what it has interrupted")

        def in_turn() -> T | None:
            if not (turns.take() if wait else turns.try_take()):
                return None
            try:
                return step()
            finally:
                turns.give_back()

        return self._guarded(in_turn)

    def _guarded(self, step: Callable[[], T]) -> T:
        """Whatever goes wrong in a step, or interrupts it, ends the stream: where it stood is not known. But for a
        fault of the program's, which is found before anything is done."""
        try:
            return step()
        except ValueError:
            raise
        except RequestException as error:
            self._told |= self._end_at_once(error)
            raise
        except BaseException as error:
            self._end_at_once(Cancelled(f"{self.where}: interrupted by {type(error).__name__}"))
            raise

    def _end_at_once(self, error: RequestException) -> bool:
        """Whether it was alive until now."""
        was_alive = self._fail(error)
        self._settle()  # again, if that was interrupted
        return was_alive

    def _again(self) -> RequestException:
        """The failure, for one more caller: an exception says where it was raised, and is of one thread."""
        failure = self._failure
        assert failure is not None
        again = type(failure)(
            *failure.args,
            phase=failure.phase,
            bytes_sent=failure.bytes_sent,
            bytes_received=failure.bytes_received,
        )
        again.__cause__ = failure.__cause__
        self._told = True
        return again

    def _located(self, error: RequestException, phase: str) -> RequestException:
        error.phase = error.phase or phase
        error.bytes_sent = self.transport.payload_sent
        error.bytes_received = self.bytes_received
        return error

    @property
    def is_over(self) -> bool:
        """Any thread, no lock. Whether nothing can be sent any more, nor received."""
        return self._failure is not None

    @property
    def where(self) -> str:
        """ "host:port", for messages."""
        return self.transport.where

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port that the connection goes to."""
        return self.transport.peer


def broken(where: str, error: OSError | None) -> ConnectionError:
    """The peer, or the network, has ended the connection, and not as streams end."""
    if isinstance(error, ssl.SSLEOFError):
        what = (
            "the stream was cut: it ended without TLS's own word for the end (close_notify; RFC 8446, section 6.1), so "
            "there may have been more"
        )
    else:
        what = f"the connection was lost: {error}"
    failure = ConnectionError(f"{where}: {what}")
    failure.__cause__ = error
    return failure

"""An exchange that somebody watches: as any other, and each step is told to its witness.

Knows which step is which. What is told to whom is the witness's. Where nobody watches there is no such exchange, so
nothing of this costs anything.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Protocol

from ..exceptions import RequestException
from ..http1 import Head
from .deadline import Deadline
from .exchange import Exchange
from .sending import Piece

if TYPE_CHECKING:
    from .bytestream import ByteStream
    from .connection import Connection

__all__ = ["WatchedExchange", "Witness"]


class Witness(Protocol):
    """What is told of an exchange: in the thread that uses it, or ends it, with no lock held; never on the worker."""

    def sent(self) -> None:
        """The last byte of the request was handed over."""

    def answered(self, head: Head, elapsed: float) -> None:
        """The final head is there, whose first byte came `elapsed` seconds after the exchange began."""

    def waits(self, exchange: Exchange) -> None:
        """The server takes less than is written: the writer has to wait."""

    def goes_on(self, exchange: Exchange, waited: float) -> None:
        """It has waited so many seconds."""

    def ended(self, exchange: Exchange) -> None:
        """The answer was read to its end, or has become a stream of bytes."""

    def failed(self, error: BaseException, exchange: Exchange) -> None:
        """It has ended with an error, or by the program's will."""

    def dropped(self, exchange: Exchange) -> None:
        """Any thread, at any moment, holding anything. Nobody has it any more."""


class WatchedExchange(Exchange):
    """See `Exchange`, and `Witness` for what is told."""

    __slots__ = ("_witness",)

    def __init__(
        self, connection: Connection, method: str, deadline: Deadline, pooled: float, witness: Witness
    ) -> None:
        super().__init__(connection, method, deadline, pooled)
        self._witness = witness

    # ---------------------------------------------------------------- sending

    def start(self, head: bytes, body: list[Piece], *, has_body: bool, last: bool) -> bool:
        return self._tell_sent(super().start(head, body, has_body=has_body, last=last), last)

    def write(self, pieces: list[Piece], *, last: bool = False) -> bool:
        transport = self._connection.transport
        goes_on = transport.offer(pieces, last=last)
        if goes_on is None:
            with Waiting(self, self._witness):
                goes_on = transport.write(pieces, self._deadline, last=last)
        return self._tell_sent(goes_on, last)

    def try_write(self, pieces: list[Piece], *, last: bool = False) -> bool:
        return self._tell_sent(super().try_write(pieces, last=last), last)

    def write_file(self, file: int, offset: int, count: int) -> int:
        transport = self._connection.transport
        start = offset
        while offset - start < count:
            if transport.is_blocked:
                with Waiting(self, self._witness):
                    transport.wait_for_kernel(self._deadline)
            sent = transport.write_file_once(file, offset, count - (offset - start), self._deadline)
            if sent == 0:
                break
            offset += max(sent, 0)
        return offset - start

    def wait_writable(self, size: int, timeout: float | None) -> bool:
        if super().wait_writable(size, 0.0):
            return True
        if timeout is not None and timeout <= 0.0:
            return False
        with Waiting(self, self._witness):
            return super().wait_writable(size, timeout)

    def _tell_sent(self, goes_on: bool, last: bool) -> bool:
        if last and goes_on:
            self._witness.sent()
        return goes_on

    # ---------------------------------------------------------------- the answer

    def wait_answered(self, *, whole: bool) -> Head:
        head = super().wait_answered(whole=whole)
        self._witness.answered(head, self.elapsed)
        return head

    def read(self, most: int) -> bytes:
        piece = super().read(most)
        if not piece:
            self._witness.ended(self)
        return piece

    def take_over(self) -> ByteStream:
        stream = super().take_over()
        self._witness.ended(self)
        return stream

    def read_all(self) -> bytes:
        whole = super().read_all()
        self._witness.ended(self)
        return whole

    # ---------------------------------------------------------------- the end

    def fail(self, error: RequestException) -> None:
        was_whole = self.is_over and self.failure is None
        super().fail(error)
        if was_whole:
            self._witness.ended(self)  # nobody will read what has come
        else:
            self._witness.failed(error, self)

    def abandon(self, error: BaseException) -> None:
        super().abandon(error)
        self._witness.failed(error, self)

    def fail_from_finalizer(self) -> None:
        self._witness.dropped(self)  # here, because what it holds is not the worker's to free
        super().fail_from_finalizer()

    def __del__(self) -> None:
        witness = getattr(self, "_witness", None)
        if witness is not None:
            witness.dropped(self)


class Waiting:
    """Around a wait of the writer."""

    def __init__(self, exchange: Exchange, witness: Witness) -> None:
        self._exchange = exchange
        self._witness = witness
        self._since = 0.0

    def __enter__(self) -> None:
        self._since = monotonic()
        self._witness.waits(self._exchange)

    def __exit__(self, *exc_info: object) -> None:
        self._witness.goes_on(self._exchange, monotonic() - self._since)

"""A body on its way: framing around pieces, the pieces to the exchange.

Knows what a body's declared length asks for and how chunks are written (RFC 9112, sections 6.2 and 7.1). Knows
nothing of where the pieces come from: a file object and a program that calls `Upload.write` go the same way.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from ..engine.exchange import Exchange
from ..engine.sending import FRAMING_SLACK, Piece
from ..exceptions import BodyLengthError
from ..http1 import BodyFraming, BodyTooLong, BodyTooShort, LengthFraming

__all__ = ["BodyWriter", "Buffer"]

Buffer = bytes | bytearray | memoryview

# What the kernel says where os.sendfile is not to be had for this file.
NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class BodyWriter:
    """One body, written by one thread at a time.

    Every method returns False once the peer has stopped the sending: by a final answer, or by ending the connection.
    """

    def __init__(self, exchange: Exchange, framing: BodyFraming) -> None:
        self._exchange = exchange
        self._framing = framing

    @property
    def where(self) -> str:
        """ "host:port", for messages."""
        return self._exchange.where

    def write(self, data: Buffer) -> bool:
        """Send or queue `data`, waiting for room. An empty piece is nothing: it does not end the body.

        Raises:
            BodyLengthError: the body would be longer than declared; nothing of `data` was sent.
            WriteTimeout, TotalTimeout: by the limits.
        """
        pieces = self._frame(data)
        return self._exchange.write(pieces, last=self._is_last()) if pieces else True

    def takes(self, size: int) -> bool:
        """Whether `try_write` would take a piece of that size now."""
        return self._exchange.takes(size + FRAMING_SLACK)

    def try_write(self, data: Buffer) -> bool:
        """As `write`, without waiting, for one who has asked `takes`."""
        pieces = self._frame(data)
        return self._exchange.try_write(pieces, last=self._is_last()) if pieces else True

    def wait_writable(self, size: int, timeout: float | None) -> bool:
        """Wait until the buffer is low and takes a piece of that size; False when `timeout` seconds ran out first."""
        return self._exchange.wait_writable(size + FRAMING_SLACK, timeout)

    def write_file(self, file: int, offset: int, count: int) -> int | None:
        """Let the kernel send part of a regular file, never the last byte of the body; the bytes that it sent, or
        None where that cannot be done: encrypted, chunked, or a file system that does not serve it."""
        if not self._exchange.sends_files or not isinstance(self._framing, LengthFraming):
            return None
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
        """
        try:
            end = self._framing.finish(trailers)
        except BodyTooShort as error:
            raise BodyLengthError(f"{self._exchange.where}: {error}", phase="send") from error
        return self._exchange.write([(memoryview(end), 0)], last=True) if end else True

    def _frame(self, data: Buffer) -> list[Piece]:
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
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

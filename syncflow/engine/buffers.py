"""Bounded queues of bytes between a caller and a connection.

Knows pieces and watermarks. Knows nothing of sockets, HTTP or waiting: who fills a buffer, who empties it and who
waits for either is the business of the transport (outgoing) and of the exchange (incoming).

Every method is called with the lock of its direction held, which guards every field.
"""

from __future__ import annotations

import itertools
from collections import deque

__all__ = ["BoundedBuffer", "IncomingBuffer", "OutgoingBuffer"]


class BoundedBuffer:
    """What both directions share: a size between two watermarks."""

    __slots__ = ("high", "low", "size")

    def __init__(self, high: int, low: int) -> None:
        self.high = high
        self.low = low
        self.size = 0

    @property
    def room(self) -> int:
        """Bytes that still fit under the high watermark."""
        return self.high - self.size

    @property
    def is_low(self) -> bool:
        """Whether a writer that had to wait may go on."""
        return self.size <= self.low


class OutgoingBuffer(BoundedBuffer):
    """What waits to be sent: memoryviews, each with the count of its bytes that are body and not framing."""

    __slots__ = ("_payloads", "_pieces")

    def __init__(self, high: int, low: int) -> None:
        super().__init__(high, low)
        self._pieces: deque[memoryview] = deque()
        self._payloads: deque[int] = deque()

    def append(self, piece: memoryview, payload: int) -> None:
        """Queue a piece that nobody will change any more."""
        self._pieces.append(piece)
        self._payloads.append(payload)
        self.size += len(piece)

    def first(self, most: int) -> list[memoryview]:
        """The pieces to send next, up to `most` of them."""
        return list(itertools.islice(self._pieces, most))

    @property
    def payload(self) -> int:
        """Bytes of body that wait, framing not counted."""
        return sum(self._payloads)

    def consume(self, count: int) -> int:
        """Drop the first `count` bytes, which have been sent; return how many of them were body."""
        self.size -= count
        handed = 0
        while count:
            piece, payload = self._pieces[0], self._payloads[0]
            if count < len(piece):
                # A piece is all body or all framing here: only TLS mixes them, and it sends a piece whole.
                part = min(count, payload)
                # An offset on the same memory: the bytes are never sliced again and again.
                self._pieces[0] = piece[count:]
                self._payloads[0] = payload - part
                return handed + part
            self._pieces.popleft()
            self._payloads.popleft()
            handed += payload
            count -= len(piece)
        return handed

    def clear(self) -> None:
        """Forget all that was not sent."""
        self._pieces.clear()
        self._payloads.clear()
        self.size = 0


class IncomingBuffer(BoundedBuffer):
    """What was received and not read yet: bytes objects, handed on whole wherever possible."""

    __slots__ = ("_offset", "_pieces")

    def __init__(self, high: int, low: int) -> None:
        super().__init__(high, low)
        self._pieces: deque[bytes] = deque()
        # How much of the first piece has been read.
        self._offset = 0

    def append(self, piece: bytes) -> None:
        """Queue what the parser gave."""
        self._pieces.append(piece)
        self.size += len(piece)

    def take(self, most: int) -> bytes:
        """The next bytes, at most `most` of them and never more than one piece; the buffer is not empty."""
        piece = self._pieces[0]
        left = len(piece) - self._offset
        if left <= most:
            self._pieces.popleft()
            taken = piece[self._offset :] if self._offset else piece
            self._offset = 0
        else:
            taken = piece[self._offset : self._offset + most]
            self._offset += most
        self.size -= len(taken)
        return taken

    def take_all(self) -> list[bytes]:
        """Every piece that waits."""
        if self._offset:
            self._pieces[0] = self._pieces[0][self._offset :]
            self._offset = 0
        pieces = list(self._pieces)
        self._pieces.clear()
        self.size = 0
        return pieces

    def clear(self) -> None:
        """Forget all that was not read."""
        self._pieces.clear()
        self._offset = 0
        self.size = 0

"""Bounded queues of bytes between a caller and a connection.

Knows pieces and watermarks, and that a budget may lower the watermarks for as long as something is buffered. Knows
nothing of sockets, HTTP or waiting: who fills a buffer, who empties it and who waits for either is the business of the
transport (outgoing) and of the exchange (incoming).

Every method is called with the lock of its direction held, which guards every field.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING

from .budget import FLOOR

if TYPE_CHECKING:
    from .budget import Budget

__all__ = ["BoundedBuffer", "IncomingBuffer", "OutgoingBuffer"]


class BoundedBuffer:
    """What both directions share: a size between two watermarks.

    Args:
        high: bytes; its own high watermark.
        low: bytes; its own low watermark.
        budget: what the buffer shares with others, if it does: then it asks before it is filled (`borrow`), and says
            when it was emptied (`settle`). In between `high` and `low` are those of its share.
    """

    __slots__ = ("_low", "budget", "has_share", "high", "low", "most", "size")

    def __init__(self, high: int, low: int, budget: Budget | None = None) -> None:
        self.high = self.most = high
        self.low = self._low = low
        self.size = 0
        self.budget = budget
        self.has_share = False

    @property
    def room(self) -> int:
        """Bytes that still fit under the high watermark."""
        return self.high - self.size

    @property
    def is_low(self) -> bool:
        """Whether a writer that had to wait may go on."""
        return self.size <= self.low

    def borrow(self, more: int = 0) -> None:
        """Where there is a budget. Before bytes come in: have a share of it, which takes `more` bytes at once, whatever
        is left; nothing happens if it has one that does."""
        if not self.has_share or self.size + more > self.high:
            self._ask(self.size + more)

    def settle(self) -> None:
        """Where there is a budget. Bytes have gone out, or none came in."""
        if not self.size:
            self.give_back()
        elif self.has_share and self.size <= self.low:
            # Others may need some of it by now, or some has come back. Low it stays: nobody is told of a change.
            self._ask(4 * self.size)

    def give_back(self) -> None:
        """It holds nothing any more, or what it holds is nobody's connection's: no more comes in."""
        if self.has_share and self.budget is not None:
            self.budget.give_back(self)
            self.has_share = False
            self.high, self.low = self.most, self._low

    def detach(self) -> None:
        """In a forked child: the budget is the parent's, and so may its lock be."""
        self.budget, self.has_share = None, False

    def _ask(self, least: int) -> None:
        assert self.budget is not None
        self.has_share = True  # first: after an interrupt there may be one, and nobody would give it back
        self.high = self.budget.share(self, self.most, least)
        self.low = min(self._low, self.high // 4)


class OutgoingBuffer(BoundedBuffer):
    """What waits to be sent: memoryviews, each with the count of its bytes that are body and not framing."""

    __slots__ = ("_payloads", "_pieces", "at_once")

    def __init__(self, high: int, low: int, budget: Budget | None = None) -> None:
        super().__init__(high, low, budget)
        self._pieces: deque[memoryview] = deque()
        self._payloads: deque[int] = deque()
        # Bytes that it holds, when it is empty, without having asked the budget.
        self.at_once = high if budget is None else min(high, FLOOR)

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
        if self.has_share:
            self.give_back()


class IncomingBuffer(BoundedBuffer):
    """What was received and not read yet: bytes objects, handed on whole wherever possible."""

    __slots__ = ("_offset", "_pieces")

    def __init__(self, high: int, low: int, budget: Budget | None = None) -> None:
        super().__init__(high, low, budget)
        self._pieces: deque[bytes] = deque()
        # How much of the first piece has been read.
        self._offset = 0

    def admit(self, most: int) -> int:
        """Where there is a budget. Of `most` bytes, how many may be received now; there is room."""
        self.borrow()
        return min(most, self.room)

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
        if self.has_share:
            self.settle()
        return taken

    def cut(self, count: int) -> None:
        """Forget the last `count` bytes, which are there."""
        self.size -= count
        while count:
            piece = self._pieces.pop()
            if len(piece) > count:
                self._pieces.append(piece[:-count])
                return
            count -= len(piece)

    def take_all(self) -> list[bytes]:
        """Every piece that waits."""
        if self._offset:
            self._pieces[0] = self._pieces[0][self._offset :]
            self._offset = 0
        pieces = list(self._pieces)
        self._pieces.clear()
        self.size = 0
        if self.has_share:
            self.give_back()
        return pieces

    def clear(self) -> None:
        """Forget all that was not read."""
        self._pieces.clear()
        self._offset = 0
        self.size = 0
        if self.has_share:
            self.give_back()

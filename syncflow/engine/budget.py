"""One budget for what waits in many buffers: how high each of them may be filled.

Knows shares and their sum. Knows nothing of what is in a buffer, nor who waits for it.

A buffer that begins to fill asks for a share and gets an eighth of what is left, at most its own high watermark and at
least `FLOOR`. The share is its high watermark until it is empty, or low: then it gives the share back, or asks anew. So

- what all of them hold is never more than the budget, and `FLOOR` for each that came when nothing was left;
- a few that are stuck cannot have it all: each took an eighth of what the ones before it had left (five of them have
  49 %, the sixth gets 6 %), and those that move converge, asking anew each time they are low, on equal shares;
- nobody waits for the budget, so nobody has to be woken when some comes back. A writer that finds its share used up has
  bytes of its own ahead of it, and goes on when those have left, as it would without a budget. A connection that is not
  read because its share is used up has bytes for its reader, who receives by itself once it has taken them.

Shares and not a count of bytes: a share is asked for when a buffer begins to fill, and not for each piece, and what a
buffer may hold is known before bytes are received, or encrypted, that must then be kept. What is granted and not used
is the price. And shares by asking, not one level for all that is computed from how many there are: such a level falls
on buffers that are full above it already.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .buffers import BoundedBuffer

__all__ = ["FLOOR", "Budget"]

# Bytes that a buffer may hold whatever others do. Enough for a head or an event; a hundred connections have 800 KiB of
# it in their two directions.
FLOOR: Final = 4096

# A buffer gets one part in so many of what is left: the more, the less those get that came early; the fewer, the
# smaller a budget may be in which a single connection has its own watermark.
PARTS: Final = 8


class Budget:
    """Shared by the buffers of one pool. Its lock is a leaf: any buffer's is held around it.

    Args:
        limit: in bytes.
    """

    def __init__(self, limit: int) -> None:
        # Never changes.
        self.limit = limit
        # Guards what follows. Nothing else is done while it is held.
        self._lock = threading.Lock()
        self._shares: dict[BoundedBuffer, int] = {}
        self._granted = 0  # their sum, but for a moment

    def share(self, buffer: BoundedBuffer, most: int, least: int) -> int:
        """Any thread, with the buffer's lock held. What it may hold from now on, in place of what it had.

        Args:
            most: its own high watermark.
            least: what it must be able to hold, budget or not.
        """
        try:
            with self._lock:
                held = self._shares.get(buffer, 0)
                left = self.limit - self._granted + held
                share = max(min(most, max(FLOOR, left // PARTS)), least)
                self._shares[buffer] = share
                self._granted += share - held
                return share
        except BaseException:
            self._count_anew()
            raise

    def give_back(self, buffer: BoundedBuffer) -> None:
        """Any thread, with the buffer's lock held. It has no share any more; nothing happens the second time."""
        try:
            with self._lock:
                self._granted -= self._shares.pop(buffer, 0)
        except BaseException:
            self._count_anew()
            raise

    def _count_anew(self) -> None:
        """An interrupt has struck between the fact and the sum."""
        with self._lock:
            self._granted = sum(self._shares.values())

    def standing(self) -> tuple[int, int]:
        """Any thread. How many bytes are granted, and to how many buffers."""
        with self._lock:
            return self._granted, len(self._shares)

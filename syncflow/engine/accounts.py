"""What the connections of one pool have done so far, by origin and in all.

Knows sums, who still keeps figures of its own, and which origins are forgotten. Knows nothing of limits, queues and
places, which are the ledger's, nor of what a figure means, which is said in `stats`. Knows no lock: the pool holds its
own around every call, and a connection is never asked under it.

A connection counts for itself, under its own locks, what goes through it: so a request costs nothing here. When its
socket is closed, and nothing can be added any more, its figures go into the sums, once.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .connection import Connection
    from .origin import Origin

__all__ = ["Accounts", "Statement", "Usage"]

# Origins without a connection that are remembered: an entry is 200 bytes or so, and whoever goes to more hosts than
# this looks at the whole.
ORIGINS_KEPT = 256


class Usage(NamedTuple):
    """What one connection has carried, and what waits in its buffers; the names are those of `Figures`."""

    reused: int
    bytes_sent: int
    bytes_received: int
    buffered_outgoing: int = 0
    buffered_incoming: int = 0


class Sums(NamedTuple):
    """Of one origin, or of all. Never changed but replaced, so that a copy of a dictionary is a copy of them all."""

    unsettled: int = 0  # connections whose own figures are still to come
    opened: int = 0
    failed: int = 0
    reused: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    def plus(self, more: Sums) -> Sums:
        """Both together."""
        return Sums(*map(sum, zip(self, more, strict=True)))

    def figures(self) -> dict[str, int]:
        """By the names of `Figures`."""
        figures = self._asdict()
        del figures["unsettled"]
        return figures


# The accounts at one moment: of all; by origin; the connections that are still to be asked, and their origins' names.
Statement = tuple[Sums, dict[str, Sums], "list[tuple[Connection, str]]"]


class Accounts:
    """The accounts of one pool."""

    def __init__(self) -> None:
        self._total = Sums()
        # By the names of origins: an origin holds a TLS context, and is not to be kept for its figures.
        self._used: dict[str, Sums] = {}  # those with unsettled connections
        self._unused: OrderedDict[str, Sums] = OrderedDict()  # the longest unused first
        self._unsettled: dict[Connection, str] = {}

    def opened(self, connection: Connection) -> None:
        """From now on it is asked for its figures."""
        name = connection.origin.name
        self._unsettled[connection] = name
        self._add(name, Sums(unsettled=1, opened=1))

    def failed(self, origin: Origin) -> None:
        """A connection could not be set up."""
        self._add(origin.name, Sums(failed=1))

    def closed(self, connection: Connection, usage: Usage) -> None:
        """Its figures are final; nothing happens the second time."""
        name = self._unsettled.pop(connection, None)
        if name is not None:
            self._add(name, Sums(-1, 0, 0, usage.reused, usage.bytes_sent, usage.bytes_received))

    def _add(self, name: str, more: Sums) -> None:
        self._total = self._total.plus(more)
        sums = (self._used.get(name) or self._unused.get(name) or Sums()).plus(more)
        self._unused.pop(name, None)
        if sums.unsettled > 0:
            self._used[name] = sums
            return
        self._unused[name] = sums
        self._used.pop(name, None)
        if len(self._unused) > ORIGINS_KEPT:
            self._unused.popitem(last=False)

    def statement(self) -> Statement:
        """A copy, made by three calls that run no code of Python's for an entry."""
        return self._total, {**self._unused, **self._used}, list(self._unsettled.items())

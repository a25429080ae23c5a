"""What one step of receiving led to, and the one error by which an exchange may be begun anew.

Knows names only.
"""

from __future__ import annotations

from typing import Final

from ..exceptions import ConnectionError

__all__ = ["Outcome", "StaleConnection"]


class StaleConnection(ConnectionError):
    """A connection that had been idle was gone before the server answered anything. Whether the request may be sent
    again on another one is for who knows its method and its body, unless nothing of it has left."""

    is_untouched = False


class Outcome:
    """What one step of receiving led to, to be acted upon once its lock is released: bits of an int, because an
    IntFlag costs a microsecond an operation, and there are ten of them a response."""

    QUIET: Final = 0  # nothing was there
    MOVED: Final = 1  # bytes came
    WAKE: Final = 2  # a waiting caller has something to see
    ANSWERED: Final = 4  # the final head is there: stop sending
    ENDED: Final = 8  # the answer is complete: the connection is free, or to be closed
    LOST: Final = 16  # the connection is unusable: close it
    TO_SETTLE: Final = ANSWERED | ENDED | LOST

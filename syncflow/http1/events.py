"""What a response parser reports: a head, pieces of the body, trailers, the end.

Knows nothing but the shapes. A body piece is plain `bytes`: to wrap it would cost more than to find it.
"""

from enum import Enum
from typing import Final, NamedTuple


class Head(NamedTuple):
    """A status line and its fields, names as sent, latin-1 decoded (RFC 9112 4 and 5)."""

    status: int
    reason: str
    version: str  # "1.0" or "1.1"; a higher minor version is read as 1.1 (RFC 9110 2.5)
    fields: list[tuple[str, str]]


class Trailers(NamedTuple):
    """The fields after the last chunk (RFC 9112 7.1.2). Reported only if there are any."""

    fields: list[tuple[str, str]]


class End(Enum):
    """The class of END. An enum, because `event is END` then narrows the type of `event`."""

    END = "END"

    def __repr__(self) -> str:
        return "END"


END: Final = End.END

Event = Head | bytes | Trailers | End

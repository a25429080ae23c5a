"""What a caller may set, as frozen values: Timeouts, PoolLimits, Watermarks.

Knows the defaults and which values make sense. Knows nothing of who enforces them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["MAX_EVENT_SIZE", "PoolLimits", "TimeoutTypes", "Timeouts", "Watermarks"]

# Bytes of one event of a stream, unless the program allows more. Pictures, as image models send them, come to 3 MiB.
MAX_EVENT_SIZE = 8 << 20

# Bytes. Under this, `max_buffered` would leave nearly every connection with the least that it may hold.
LEAST_BUDGET = 65536


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each phase of a request may take, in seconds; None is no limit.

    Args:
        connect: DNS, connecting and the TLS handshake together. Raises `ConnectTimeout`.
        read: the longest silence of the server, while its answer is awaited or its body read; runs only once the
            request's body has left. Raises `ReadTimeout`.
        write: the longest time in which the server takes nothing of the request. Raises `WriteTimeout`.
        pool: the wait for a connection when all are in use. Raises `PoolTimeout`.
        total: everything, from the wait for a connection to the last byte of the body. Raises `TotalTimeout`.

    Raises:
        TypeError, ValueError: a value that makes no sense.
    """

    connect: float | None = 10.0
    read: float | None = 60.0
    write: float | None = 60.0
    pool: float | None = 60.0
    total: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            _require_seconds(f"Timeouts.{field.name}", getattr(self, field.name))

    @classmethod
    def of(cls, value: TimeoutTypes) -> Timeouts:
        """Read what `timeout=` takes: a Timeouts; a number for connect, read and write; (connect, read); None."""
        if isinstance(value, Timeouts):
            return value
        if value is None:
            return NO_LIMIT
        if isinstance(value, tuple):
            if len(value) != 2:
                raise ValueError(f"timeout= takes a pair (connect, read), not {len(value)} values; use Timeouts(...)")
            return cls(connect=value[0], read=value[1], write=value[1])
        return cls(connect=value, read=value, write=value)


# In place of a `timeout=`: the session's own is meant, because None means no limit.
OWN_TIMEOUT: Any = object()

TimeoutTypes = Timeouts | float | tuple[float | None, float | None] | None


def _require_seconds(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number of seconds or None, not {value!r}")
    if not value > 0 or math.isinf(value):
        raise ValueError(f"{name} must be more than 0 seconds, not {value!r}; None is no limit")


NO_LIMIT = Timeouts(connect=None, read=None, write=None, pool=None, total=None)


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How many connections a session keeps.

    Args:
        per_host: connections at once to one origin, those being set up included.
        total: connections at once overall.
        connecting: how many may be in set-up at once; None is as many as `total`.
        idle: seconds that an unused connection is kept; 0 keeps none.
        max_age: seconds after which a connection is not used again, and so a name is resolved anew; None is no limit.

    Raises:
        TypeError, ValueError: a value that makes no sense.
    """

    per_host: int = 10
    total: int = 100
    connecting: int | None = None
    idle: float = 60.0
    max_age: float | None = None

    def __post_init__(self) -> None:
        for name in ("per_host", "total", "connecting"):
            value = getattr(self, name)
            if value is None and name == "connecting":
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"PoolLimits.{name} is a whole number, not {value!r}")
            if value < 1:
                raise ValueError(f"PoolLimits.{name} must be at least 1, not {value!r}")
        if not self.idle >= 0:
            raise ValueError(f"PoolLimits.idle is a number of seconds from 0, not {self.idle!r}")
        _require_seconds("PoolLimits.max_age", self.max_age)


@dataclass(frozen=True, slots=True)
class Watermarks:
    """How many bytes may wait in the buffers between a caller and a connection.

    A writer waits once `high` bytes are buffered, until no more than `low` are. The same for what was received and
    not read yet: the connection is not read while `receive_high` bytes wait.

    Raises:
        ValueError: a low one that is not under its high one.
    """

    high: int = 65536
    low: int = 16384
    receive_high: int = 65536
    receive_low: int = 16384

    def __post_init__(self) -> None:
        for low, high in (("low", "high"), ("receive_low", "receive_high")):
            if not 0 <= getattr(self, low) < getattr(self, high):
                raise ValueError(
                    f"Watermarks need 0 <= {low} < {high}, not {getattr(self, low)!r} and {getattr(self, high)!r}"
                )


def require_bytes(name: str, value: object, least: int) -> None:
    """Raise TypeError or ValueError unless `value` is a number of bytes from `least`, or None for no limit."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number of bytes or None, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least} bytes, not {value!r}; None is no limit")

"""Where the time of a request went. Knows seconds; what they were spent on is measured by others."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NO_SETUP", "NO_TIMINGS", "Setup", "Timings"]


@dataclass(frozen=True, slots=True)
class Setup:
    """How long each step of setting up took, in seconds."""

    dns: float = 0.0
    connect: float = 0.0
    tls: float = 0.0


NO_SETUP = Setup()


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a request went, in seconds.

    `pool`, `dns`, `connect` and `tls` are durations (0.0 on a reused connection); `sent`, `first_byte` and `total`
    are counted from the beginning of the request; None for what has not happened.
    """

    pool: float
    dns: float
    connect: float
    tls: float
    sent: float | None
    first_byte: float | None
    total: float | None


NO_TIMINGS = Timings(0.0, 0.0, 0.0, 0.0, None, None, None)

"""Waiting in tests for what another thread or the kernel does, bounded.

Knows the clock. Whatever has an event or a Condition of its own should be waited for with that instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(predicate: Callable[[], object], timeout: float = 10.0, *, message: str = "") -> None:
    """Returns as soon as `predicate()` is true; an AssertionError when it is not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.0005
    while not predicate():
        if time.monotonic() >= deadline:
            raise AssertionError(message or f"{predicate} did not come true within {timeout:g} s")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)

"""What is shown while bytes flow: a live line on a terminal, plain lines elsewhere.

Knows a count that grows, how fast it does, and two ways to show it. Knows nothing of what is counted: it looks at it
from a thread of its own, so that the line moves on even while the transfer stands still.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TextIO

from .units import format_duration, format_rate, format_size

__all__ = ["Meter", "PlainView", "View", "terminal", "view_for"]

# Ten times a second is as fluent as an eye asks for.
PERIOD = 0.1
# The rate that is shown is that of the last second.
RATE_WINDOW = 1.0
# How often there is a plain line, in seconds.
LINE_PERIOD = 1.0

Clock = Callable[[], float]
# Bytes done so far, and what else is to be told about this moment.
Look = Callable[[], tuple[int, str]]


class View(Protocol):
    """Where progress is shown."""

    def show(self, done: int, rate: float, notes: str) -> None:
        """The state now; called many times a second, never by two threads at once."""

    def close(self) -> None:
        """The state shown last was the final one; nothing if it was closed before."""


class Meter:
    """Looks, and shows what it sees, for the time of a `with` block.

    Args:
        view: closed at the end.
        look: called by the meter's thread, and once more at the end of the block.
        period: seconds between two looks.
    """

    def __init__(self, view: View, look: Look, period: float = PERIOD) -> None:
        # Never changes.
        self._view = view
        self._look = look
        self._period = period
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="syncflow-meter", daemon=True)
        self._started = time.monotonic()
        # The meter's thread, and after its end whoever leaves the block.
        self._recent: deque[tuple[float, int]] = deque()
        # Written once by the meter's thread, as its last act.
        self._error: Exception | None = None

    def check(self) -> None:
        """Raise what showing has met with, as a pipe that nobody reads any more."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._recent.append((self._started, self._look()[0]))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        try:
            if self._error is None:
                done, notes = self._look()
                self._view.show(done, done / max(time.monotonic() - self._started, 1e-6), notes)
        finally:
            self._view.close()
        if error is None:
            self.check()

    def _run(self) -> None:
        try:
            while not self._over.wait(self._period):
                done, notes = self._look()
                self._view.show(done, self._rate(done), notes)
        except Exception as error:  # told to whoever calls `check` or leaves the block
            self._error = error

    def _rate(self, done: int) -> float:
        now = time.monotonic()
        recent = self._recent
        recent.append((now, done))
        while len(recent) > 2 and recent[1][0] <= now - RATE_WINDOW:
            recent.popleft()
        then, before = recent[0]
        return (done - before) / max(now - then, 1e-6)


class PlainView:
    """A line a second, for files, pipes and terminals without `rich`."""

    def __init__(self, stream: TextIO, total: int | None, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._total = total
        self._clock = clock
        self._started = self._next = clock()
        self._next += LINE_PERIOD
        self._untold: str | None = None

    def show(self, done: int, rate: float, notes: str) -> None:
        now = self._clock()
        line = f"{now - self._started:6.1f} s  {described(done, self._total, rate, notes)}"
        if now < self._next:
            self._untold = line
            return
        self._tell(line)
        self._next += LINE_PERIOD * max(1.0, (now - self._next) // LINE_PERIOD + 1)

    def close(self) -> None:
        if self._untold is not None:
            self._tell(self._untold)

    def _tell(self, line: str) -> None:
        self._untold = None
        print(line, file=self._stream, flush=True)


def described(done: int, total: int | None, rate: float, notes: str) -> str:
    """The state in words; without notes, with the time that is left."""
    parts = [f"{format_size(done):>9}"]
    if total is not None:
        parts[0] += f" of {format_size(total)} {100 * done / total if total else 100:3.0f} %"
    parts.append(f"{format_rate(rate):>11}")
    if notes:
        parts.append(notes)
    elif total is not None and rate > 0 and done < total:
        parts.append(f"{format_duration((total - done) / rate)} left")
    return "  ".join(parts)


def terminal(stream: TextIO) -> bool:
    """Whether somebody watches."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def view_for(stream: TextIO, total: int | None) -> View:
    """A live line if `stream` is a terminal that can show one and `rich` is installed, else plain lines."""
    if terminal(stream):
        try:
            from .live import LiveView
        except ImportError:
            pass  # rich comes with the extra `cli`
        else:
            if LiveView.suits(stream):
                return LiveView(stream, total)
    return PlainView(stream, total)

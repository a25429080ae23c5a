"""`syncflow demo`: a large upload to a slow receiver, watched.

Knows what is worth seeing of it and how to say so to somebody who has never heard of backpressure. Every number it
tells was measured in this run. The receiver is a process of its own, so that the memory told is the client's alone.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TextIO

from ..sessions import Session
from ..uploads import Upload
from .exits import OK, REFUSED, USAGE, Failure
from .memory import resident
from .plot import Line, chart
from .progress import Meter, view_for
from .units import format_duration, format_rate, format_size

__all__ = ["Made", "Outcome", "Sample", "demo", "run", "summary"]

PIECE = 65536
# Looks a second for the plot and the live line; the highest values also count a look after every write.
LOOKS = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one moment, `at` seconds after the beginning; the rest in bytes."""

    at: float
    sent: int
    buffered: int
    memory: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run has measured; times in seconds, all else in bytes.

    Attributes:
        waited: how long `write` held the program up.
        memory_before: resident, before the upload was begun.
        received, digest: what the receiver says came; `expected` is what was sent.
    """

    size: int
    received: int
    digest: str
    expected: str
    elapsed: float
    waited: float
    most_buffered: int
    memory_before: int
    most_memory: int
    samples: list[Sample]

    @property
    def identical(self) -> bool:
        """Whether the receiver got every byte as it was."""
        return self.received == self.size and self.digest == self.expected

    @property
    def growth(self) -> int:
        """How much more memory the upload took than there was before it."""
        return self.most_memory - self.memory_before


class Made(io.RawIOBase):
    """A readable file object of any size whose content is made as it is read; it holds one block."""

    def __init__(self, size: int) -> None:
        from ..testing.patterns import block

        self._block = memoryview(block())
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """True: this is a file to read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        start = self._position % len(self._block)
        count = min(len(buffer), self._size - self._position, len(self._block) - start)
        buffer[:count] = self._block[start : start + count]
        self._position += count
        return count


class _Watch:
    """What can be seen of an upload from outside, and the highest that was seen."""

    def __init__(self, up: Upload) -> None:
        # Never changes.
        self._up = up
        self.started = time.monotonic()
        # The meter's thread, and after its end whoever made this.
        self.samples: list[Sample] = []
        # The thread that writes.
        self._most_buffered = 0
        self._most_memory = 0
        self.waited = 0.0

    def look(self) -> tuple[int, str]:
        """For the meter: one more sample."""
        up = self._up
        seen = Sample(time.monotonic() - self.started, up.offset, up.buffered, resident())
        self.samples.append(seen)
        return seen.sent, _notes(seen.buffered, seen.memory)

    def write(self, piece: bytes) -> None:
        """As the upload's, with a look at the clock before and at everything after."""
        before = time.monotonic()
        self._up.write(piece)
        self.waited += time.monotonic() - before
        self._most_buffered = max(self._most_buffered, self._up.buffered)
        self._most_memory = max(self._most_memory, resident())

    @property
    def most_buffered(self) -> int:
        """Once the meter has ended."""
        return max(self._most_buffered, *(seen.buffered for seen in self.samples))

    @property
    def most_memory(self) -> int:
        """Once the meter has ended."""
        return max(self._most_memory, *(seen.memory for seen in self.samples))


def demo(chosen: argparse.Namespace) -> int:
    """Run it, tell it, draw it."""
    if chosen.plot is not None:
        _require_writable(chosen.plot)
    out = sys.stdout
    print(
        f"A file object of {format_size(chosen.size)} goes to a receiver that reads only "
        f"{format_rate(chosen.slow)}.\nThe program could write much faster: watch what waits, and where.\n",
        file=out,
        flush=True,
    )
    outcome = run(chosen.size, chosen.slow, out)
    print(f"\n{summary(outcome)}", file=out)
    if chosen.plot is not None:
        with open(chosen.plot, "w", encoding="utf-8") as file:
            file.write(plotted(outcome, chosen.slow))
        print(f"Plot       {chosen.plot}", file=out)
    return OK if outcome.identical else REFUSED


def run(size: int, rate: int, out: TextIO) -> Outcome:
    """The upload itself, with progress on `out`."""
    from ..testing import ReceiverProcess

    source, digest = Made(size), hashlib.sha256()
    with ReceiverProcess(rate=rate) as receiver, Session() as session, closing(view_for(out, size)) as view:
        # After the first time what drawing needs is there, and does not count as the upload's.
        view.show(0, 0.0, _notes(0, resident()))
        before = resident()
        with session.upload("PUT", f"{receiver.url}/demo", content_length=size) as up:
            watch = _Watch(up)
            with Meter(view, watch.look, 1 / LOOKS) as meter:
                while piece := source.read(PIECE):
                    digest.update(piece)
                    watch.write(piece)
                    meter.check()
                answer = up.finish().json()
            elapsed = time.monotonic() - watch.started
    return Outcome(
        size=size,
        received=answer["bytes"],
        digest=answer["sha256"],
        expected=digest.hexdigest(),
        elapsed=elapsed,
        waited=watch.waited,
        most_buffered=watch.most_buffered,
        memory_before=before,
        most_memory=max(before, watch.most_memory),
        samples=watch.samples,
    )


def _notes(buffered: int, memory: int) -> str:
    return f"buffered {format_size(buffered):>8}  memory {format_size(memory):>8}"


def _require_writable(name: str) -> None:
    """Now, and not after the upload."""
    folder = os.path.dirname(name) or "."
    if os.path.isdir(name) or not os.access(name if os.path.exists(name) else folder, os.W_OK):
        raise Failure(USAGE, f"{name}: cannot be written")


# ---------------------------------------------------------------- what is told


def summary(outcome: Outcome) -> str:
    """The run in plain words."""
    size = format_size(outcome.size)
    if outcome.identical:
        received = f"{outcome.received:,} bytes; identical: yes."
    else:
        received = f"{outcome.received:,} of {outcome.size:,} bytes; identical: NO."
    if outcome.most_buffered:
        buffer = (
            f"At most {format_size(outcome.most_buffered)} waited in it. Whenever it was full, write() made the\n"
            f"program wait for the receiver: {format_duration(outcome.waited)} in all."
        )
    else:
        buffer = "Nothing ever waited in it: the system took every byte at once."
    memory = (
        f"Grew by {format_size(outcome.growth)} at the most, from {format_size(outcome.memory_before)} to "
        f"{format_size(outcome.most_memory)}."
    )
    otherwise = (
        f"A client that reads the file into memory first would have needed\n{size} for it, so about "
        f"{format_size(outcome.memory_before + outcome.size)} instead of {format_size(outcome.most_memory)}."
    )
    rate = format_rate(outcome.size / outcome.elapsed)
    return "\n".join(
        [
            _paragraph("Sent", f"{size} in {format_duration(outcome.elapsed)}, at {rate}."),
            _paragraph("Received", received),
            _paragraph("Buffer", buffer),
            _paragraph("Memory", memory),
            _paragraph("Otherwise", otherwise),
        ]
    )


def _paragraph(name: str, text: str) -> str:
    return f"{name:<11}" + text.replace("\n", "\n" + " " * 11)


def plotted(outcome: Outcome, rate: int) -> str:
    """Memory and buffer over time, as SVG."""
    samples = outcome.samples
    growth = [(seen.at, max(0, seen.memory - outcome.memory_before)) for seen in samples]
    buffered = [(seen.at, seen.buffered) for seen in samples]
    return chart(
        title=f"{format_size(outcome.size)} sent in {format_duration(outcome.elapsed)} "
        f"to a receiver that reads {format_rate(rate)}",
        lines=[
            Line("memory grown since the start", growth),
            Line("waiting in the buffer", buffered),
        ],
        reference=("the whole file in memory", outcome.size),
    )

"""Draws how much memory an upload takes while it lasts, by each of syncflow's ways to push, beside one that buffers.

    python -m pip install matplotlib requests
    python -m benchmarks.memory_over_time docs/images/streaming-memory.svg

Every way runs in a process of its own, one after the other, towards a receiver that counts and takes so much a second.
The producer makes its pieces as fast as it can; how much faster that is than the receiver is measured and told.
"""

from __future__ import annotations

import argparse
import functools
import json
import queue
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import syncflow
from syncflow import streams
from syncflow.cli.memory import resident
from syncflow.testing import ReceiverProcess, pattern

MIB = 1 << 20
PIECE = 65536
PERIOD = 0.05
LIMITS = syncflow.Timeouts(connect=10, read=600, write=600)
PATIENCE = 900.0
"""Seconds for one transfer."""

# ---------------------------------------------------------------- the ways, each in a process of its own


@functools.cache
def source() -> bytes:
    """What pieces are cut from: before anything is measured, and once."""
    return pattern(MIB)


def pieces(size: int) -> Iterator[bytes]:
    """New objects, as a program makes them: what is kept of them counts."""
    block = source()
    for done in range(0, size, PIECE):
        start = done * 7 % (MIB - PIECE)
        yield block[start : start + min(PIECE, size - done)]


def by_write(url: str, size: int) -> int:
    with syncflow.Session(timeout=LIMITS) as session, session.upload("PUT", url) as upload:
        for piece in pieces(size):
            upload.write(piece)
    return received(upload.response)


def by_try_write(url: str, size: int) -> int:
    with syncflow.Session(timeout=LIMITS) as session, session.upload("PUT", url) as upload:
        for piece in pieces(size):
            while not upload.try_write(piece):
                upload.wait_writable()
    return received(upload.response)


def by_callbacks(url: str, size: int) -> int:
    left = pieces(size)

    def write(upload: syncflow.Upload, offset: int) -> bool:
        piece = next(left, b"")
        upload.write(piece)
        return bool(piece)

    with syncflow.Session(timeout=LIMITS) as session, session.put_stream(url, on_writable=write) as upload:
        upload.run()
    return received(upload.response)


def by_pipe(url: str, size: int) -> int:
    with syncflow.Session(timeout=LIMITS) as session, session.upload("PUT", url) as upload:
        streams.pipe(pieces(size), sink=upload)
    return received(upload.response)


def by_buffering(url: str, size: int) -> int:
    """What programs do that turn a producer into a generator: a thread, and a queue without a limit."""
    import requests

    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def produce() -> None:
        for piece in pieces(size):
            waiting.put(piece)
        waiting.put(None)

    threading.Thread(target=produce).start()
    return received(requests.put(url, data=iter(waiting.get, None), timeout=600))


def received(response: Any) -> int:
    """What the receiver says; of `requests`, too."""
    return int(response.json()["bytes"])


WAYS: dict[str, Callable[[str, int], int]] = {
    "write": by_write,
    "try_write, wait_writable": by_try_write,
    "callbacks": by_callbacks,
    "pipe": by_pipe,
    "requests, a queue": by_buffering,
}
BUFFERING = "requests, a queue"


def child(way: str, url: str, size: int) -> None:
    """Writes one JSON object: the samples, [seconds, bytes above the beginning]."""
    WAYS[way](url, 4 * MIB)  # imports, and what the allocator keeps
    before, began = resident(), time.perf_counter()
    times, sizes = array("d", [0.0]), array("q", [0])  # which take next to nothing themselves
    over = threading.Event()

    def look() -> None:
        while not over.wait(PERIOD):
            times.append(time.perf_counter() - began)
            sizes.append(resident() - before)

    looking = threading.Thread(target=look)
    looking.start()
    came = WAYS[way](url, size)
    over.set()
    looking.join()
    if came != size:
        raise SystemExit(f"{way}: the receiver has {came} bytes of {size}")
    json.dump(list(zip(times, sizes, strict=True)), sys.stdout)


# ---------------------------------------------------------------- the picture


@dataclass(frozen=True)
class Run:
    """What one way has shown; `samples` are seconds and bytes."""

    way: str
    samples: list[tuple[float, int]]

    @property
    def peak(self) -> int:
        """Bytes above the beginning, at the most."""
        return max(grown for _, grown in self.samples)


def measure(way: str, size: int, rate: int) -> Run:
    with ReceiverProcess(rate=rate, hash=False) as receiver:
        command = [sys.executable, "-m", "benchmarks.memory_over_time", "--child", way, receiver.url, str(size)]
        ended = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
    if ended.returncode:
        raise SystemExit(f"{way}: {ended.stderr.decode().strip()}")
    return Run(way, json.loads(ended.stdout))


def advantage(size: int, seconds: float) -> float:
    """How many times faster the producer is, alone, than a transfer that took so long."""
    began = time.perf_counter()
    for _ in pieces(size):
        pass
    return seconds / (time.perf_counter() - began)


def draw(runs: list[Run], size: int, target: str) -> None:
    """All of them above, and below without the one that buffers, as large as the difference asks for."""
    import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]  # a tool for the docs

    plt.rcParams["svg.hashsalt"] = "syncflow"  # the same picture for the same numbers
    figure, (whole, near) = plt.subplots(2, 1, figsize=(8.6, 7), sharex=True, layout="constrained")
    for axes, shown in ((whole, runs), (near, [run for run in runs if run.way != BUFFERING])):
        for run in shown:
            style = "--" if run.way == BUFFERING else "-"
            axes.plot(*zip(*((at, grown / MIB) for at, grown in run.samples), strict=True), style, label=run.way)
        axes.set_ylabel("MiB above the beginning")
        axes.grid(alpha=0.3)
        axes.legend()
    near.axhline(8, color="grey", linestyle=":")
    near.set_ylim(-0.5, 9)
    near.set_xlabel("seconds")
    whole.set_title(f"resident memory during an upload of {size / MIB:g} MiB, made faster than the network takes it")
    figure.savefig(target, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", help="the picture, as .svg or .png")
    parser.add_argument("--size", type=int, default=1024, help="MiB to send")
    parser.add_argument("--rate", type=int, default=32, help="MiB that the receiver takes a second")
    chosen = parser.parse_args()
    size, runs = chosen.size * MIB, []
    for way in WAYS:
        run = measure(way, size, chosen.rate * MIB)
        runs.append(run)
        faster = advantage(size, run.samples[-1][0])
        print(f"{way}: {run.peak / MIB:.2f} MiB at most; the producer is {faster:.0f} times faster", flush=True)
    draw(runs, size, chosen.target)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()

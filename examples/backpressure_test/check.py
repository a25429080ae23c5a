"""Regression checks of backpressure, made from app.py: memory, throughput and fairness, down and up, and under load.

    python examples/backpressure_test/check.py            # the default watermarks, about a minute; exit code 1 if red
    python examples/backpressure_test/check.py --all      # three pairs of watermarks, and a table of them in Markdown

Needs curl, hey and wrk, Linux for its /proc, and a machine that does nothing else meanwhile. Knows how the application
is started and what curl says; what is measured is the process of the application, not its upstream.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

APP = Path(__file__).with_name("app.py")
MIB = 1 << 20
SLOW = 100 << 10  # bytes a second
SLOW_SIZE = 50  # MiB, of which a slow client gets one in a minute
LIMITED_SIZE = 6  # MiB at 1 MiB/s
FAST_SIZE = 100  # MiB
# KiB; the last are none.
DEFAULT, COMPARED, WITHOUT = (64, 16), ((16, 4), (64, 16), (256, 64)), (1 << 20, 16)
PATIENCE = 120  # seconds for one command


# -------------------------------------------------------------------------------------- the application and its clients


class Application:
    """app.py as a process; a context manager."""

    def __init__(self, watermarks: tuple[int, int]) -> None:
        high, low = (str(kib << 10) for kib in watermarks)
        command = [
            sys.executable,
            str(APP),
            "--port",
            "0",
            "--write-high-watermark",
            high,
            "--write-low-watermark",
            low,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise SystemExit("app.py has not started")

    def __enter__(self) -> Application:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()  # it would wait for its clients; the upstream goes with it

    def resident(self) -> int:
        """Bytes of its resident memory."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Direction:
    """Downloads, or uploads: the arguments for curl.

    Args:
        paced: of so many MiB, with so many bytes a second at the end that is to be slow; 0 is no limit.
    """

    name: str
    paced: Callable[[str, int, int], list[str]]


def download(url: str, size: int, rate: int) -> list[str]:
    """The client is slow."""
    return [*(["--limit-rate", str(rate)] if rate else []), f"{url}/proxy/stream/{size}"]


def upload(url: str, size: int, rate: int) -> list[str]:
    """The upstream is slow; the client would be fast."""
    return ["-X", "POST", "-T", str(file_of(size)), f"{url}/proxy/upload?rate={rate}"]


def file_of(size: int) -> Path:
    """Of so many MiB, which take no room on the disk."""
    path = Path(directory.name, str(size))
    if not path.exists():  # somebody may be reading it
        with open(path, "wb") as file:
            file.truncate(size * MIB)
    return path


directory = tempfile.TemporaryDirectory(prefix="backpressure-")
DIRECTIONS = (Direction("download", download), Direction("upload", upload))


def curl(arguments: list[str]) -> subprocess.Popen[str]:
    said = "%{http_code} %{size_download} %{size_upload} %{time_total}"
    command = ["curl", "-q", "--noproxy", "*", "-sS", "-o", os.devnull, "-w", said, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def seconds_of(direction: Direction, app: Application, size: int, rate: int) -> float:
    """That curl takes. Exits if it was not answered rightly."""
    with curl(direction.paced(app.url, size, rate)) as process:
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise SystemExit(f"curl, {direction.name} of {size} MiB: not done after {PATIENCE} s") from None
    code, down, up, seconds = said.split()
    if (code, max(int(down), int(up))) != ("200", size * MIB):
        raise SystemExit(f"curl, {direction.name} of {size} MiB: {said}")
    return float(seconds)


def seconds_of_reading(url: str, size: int, rate: int) -> float:
    """No more bytes at any moment than `rate` allows so far."""
    began, received = time.monotonic(), 0
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=PATIENCE) as response:
        while piece := response.read(16384):
            received += len(piece)
            time.sleep(max(0.0, received / rate - (time.monotonic() - began)))
    if received != size:
        raise SystemExit(f"{url}: {received} bytes of {size}")
    return time.monotonic() - began


@contextlib.contextmanager
def slow_clients(direction: Direction, app: Application, count: int) -> Iterator[None]:
    """So many at once. Exits if one has ended meanwhile: then it was not what it should be."""
    clients = [curl(direction.paced(app.url, SLOW_SIZE, SLOW)) for _ in range(count)]
    try:
        yield
        ended = [client for client in clients if client.poll() is not None]
    finally:
        for client in clients:
            client.kill()
        said = {client: client.communicate()[0] for client in clients}
    if ended:
        raise SystemExit(f"of {count} slow clients some have ended too early: {[said[client] for client in ended]}")


# ----------------------------------------------------------------------------------------------------------- the checks


@dataclass(frozen=True)
class Result:
    """Of one check.

    Args:
        text: what was measured, and the bar.
        figures: the same for a table, by name.
        samples: of resident memory: seconds, bytes above the beginning.
    """

    name: str
    text: str
    is_green: bool
    figures: dict[str, float] = field(default_factory=dict)
    samples: list[tuple[float, int]] = field(default_factory=list)


def memory(direction: Direction, watermarks: tuple[int, int]) -> Result:
    """What 20 slow clients cost within 5 s."""
    grown, samples = growth(direction, watermarks)
    text = f"20 slow clients, 5 s: {grown:+.1f} MB (bar: under 5)"
    return Result(f"{direction.name}: memory", text, grown < 5, {"memory": grown}, samples)


def counter_check(direction: Direction) -> Result:
    """Whether `memory` would see it if nothing pushed back."""
    grown, samples = growth(direction, WITHOUT, most=400)
    text = f"the same without watermarks: {grown:+.1f} MB and more (bar: over 50)"
    return Result(f"{direction.name}: counter-check", text, grown > 50, {"memory": grown}, samples)


def growth(
    direction: Direction, watermarks: tuple[int, int], most: float = math.inf
) -> tuple[float, list[tuple[float, int]]]:
    """Megabytes that the resident memory of a fresh application has grown by since its first transfer, at the most;
    from `most` on they are enough. And the samples."""
    with Application(watermarks) as app:
        seconds_of(direction, app, 1, 0)  # what is imported for the first one is not the price of the others
        before, began = app.resident(), time.monotonic()
        samples = [(0.0, 0)]
        with slow_clients(direction, app, 20):
            while samples[-1][0] < 5.0 and samples[-1][1] < most * 1e6:
                time.sleep(0.1)
                samples.append((round(time.monotonic() - began, 3), app.resident() - before))
    return max(grown for _, grown in samples) / 1e6, samples


def throughput(direction: Direction, app: Application) -> Result:
    """Whether one that takes 1 MiB/s gets it. Down, by a reader that keeps to it: for curl a limit is an average over
    three seconds, which forgives a burst, and on a busy machine it has taken half the time that it should."""
    if direction.name == "download":
        seconds = seconds_of_reading(f"{app.url}/proxy/stream/{LIMITED_SIZE}", LIMITED_SIZE * MIB, MIB)
    else:
        seconds = seconds_of(direction, app, LIMITED_SIZE, MIB)
    ratio = seconds / LIMITED_SIZE
    text = f"{LIMITED_SIZE} MiB at 1 MiB/s: {seconds:.2f} s (bar: {LIMITED_SIZE} s, 20 % more or less)"
    return Result(f"{direction.name}: throughput", text, 0.8 <= ratio <= 1.2, {"rate": 1 / ratio})


def fairness(direction: Direction, app: Application) -> Result:
    """What ten slow ones leave of the speed of a fast one. In turns, because machines have moods; if it is red, more is
    measured, and all of it counts."""
    alone: list[float] = []
    beside: list[float] = []
    seconds_of(direction, app, FAST_SIZE, 0)
    while True:
        measure_in_turns(direction, app, alone, beside)
        ratio = statistics.median(beside) / statistics.median(alone)
        if ratio >= 0.8 or len(alone) >= 32:
            break
    figures = {"alone": statistics.median(alone), "beside": statistics.median(beside)}
    text = (
        f"{figures['alone']:.0f} MiB/s alone, {figures['beside']:.0f} beside ten slow ones: {ratio:.2f} of it "
        f"(bar: 0.80; medians of {len(alone)})"
    )
    return Result(f"{direction.name}: fairness", text, ratio >= 0.8, figures)


def measure_in_turns(direction: Direction, app: Application, alone: list[float], beside: list[float]) -> None:
    def measure(speeds: list[float]) -> None:
        speeds.append(FAST_SIZE / seconds_of(direction, app, FAST_SIZE, 0))

    for _ in range(2):
        measure(alone)
        with slow_clients(direction, app, 10):
            time.sleep(1.0)  # until the kernel's buffers are full
            measure(beside)
            measure(beside)
        measure(alone)


def load(app: Application, seconds: int = 3) -> Iterator[Result]:
    """hey and wrk on 1 MiB through the proxy: no error; and once each thread was used, memory is flat."""
    hey = ["hey", "-c", "50", "-z", f"{seconds}s", f"{app.url}/proxy/stream/1"]
    # A request that waits for others is no error; wrk takes it for one after 2 s by itself.
    wrk = ["wrk", "-c", "100", "-t", "2", "-d", f"{seconds}s", "--timeout", "30s", f"{app.url}/proxy/stream/1"]
    for command in (hey, wrk):
        said_by(command)
    before = app.resident()
    for command in (hey, wrk):
        yield errors_in(said_by(command), command[0])
    grown = (app.resident() - before) / 1e6
    text = f"the second round of both: {grown:+.1f} MB (bar: under 10)"
    yield Result("load: memory", text, grown < 10, {"memory": grown})


def said_by(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True).stdout


def errors_in(said: str, program: str) -> Result:
    """What hey or wrk has found wrong."""
    wrong = re.findall(r"Socket errors.*|Non-2xx.*|(?<=Error distribution:\n).*|\[(?!200)\d{3}\]\s+\d+ responses", said)
    answered = re.search(r"(?<=\[200\]\t)\d+|\d+(?= requests in)", said)
    count = int(answered[0]) if answered else 0
    text = "; ".join(line.strip() for line in wrong) or f"{count} answers of 1 MiB, no error"
    return Result(f"load: {program}", text, count > 0 and not wrong)


# ----------------------------------------------------------------------------------------------------------- the report


def all_checks() -> Iterator[Result]:
    """With the default watermarks, one after the other."""
    for direction in DIRECTIONS:
        yield memory(direction, DEFAULT)
        yield counter_check(direction)
    with Application(DEFAULT) as app:
        for direction in DIRECTIONS:
            yield throughput(direction, app)
            yield fairness(direction, app)
        yield from load(app)


def compare() -> dict[str, list[Result]]:
    """Memory, throughput and fairness with several watermarks. There is no bar: it is a measurement."""
    compared = {}
    for high, low in COMPARED:
        results = [memory(direction, (high, low)) for direction in DIRECTIONS]
        with Application((high, low)) as app:
            for direction in DIRECTIONS:
                results += [throughput(direction, app), fairness(direction, app)]
        compared[f"{high}/{low}"] = results
    compared["none"] = [counter_check(direction) for direction in DIRECTIONS]
    return compared


def table(compared: dict[str, list[Result]]) -> str:
    """In Markdown."""
    lines = [
        "| watermarks, KiB | | memory of 20 slow | 1 MiB/s asked for | full speed, alone | beside ten slow |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for marks, results in compared.items():
        for direction in DIRECTIONS:
            own = [result for result in results if result.name.startswith(direction.name)]
            figures = {name: figure for result in own for name, figure in result.figures.items()}
            cells = [f"{figures['memory']:+.1f} MB"]
            if "alone" in figures:
                part = figures["beside"] / figures["alone"]
                cells += [f"{figures['rate']:.2f} MiB/s", f"{figures['alone']:.0f} MiB/s", f"{part:.0%}"]
            else:
                cells = [f"over {figures['memory']:.0f} MB", "", "", ""]
            lines.append(f"| {marks} | {direction.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="compare three pairs of watermarks, without a bar")
    parser.add_argument("--json", type=Path, metavar="FILE", help="what was measured, samples included, for --all")
    chosen = parser.parse_args()
    if missing := [name for name in ("curl", "hey", "wrk") if shutil.which(name) is None]:
        print(f"missing: {', '.join(missing)}; Debian has packages of these names", file=sys.stderr)
        return 2
    if chosen.all:
        compared = compare()
        print(table(compared))
        if chosen.json:
            results = {marks: [asdict(result) for result in results] for marks, results in compared.items()}
            chosen.json.write_text(json.dumps(results))
        return 0
    red = []
    for result in all_checks():
        print(f"{'ok ' if result.is_green else 'RED'} {result.name}: {result.text}", flush=True)
        if not result.is_green:
            red.append(result.name)
    print(f"RED: {', '.join(red)}" if red else "all green")
    return 1 if red else 0


if __name__ == "__main__":
    with directory:
        sys.exit(main())

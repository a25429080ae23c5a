"""Full speed for a long time, over a link that keeps breaking: memory and descriptors have to stay flat.

    python -m benchmarks.soak                 # ten minutes
    python -m benchmarks.soak --seconds 60 --threads 8 --seed 1

A server in a process of its own, behind a `FaultProxy` in that process, whose link is changed five times a second at
random: good, slow, lossy, cut, reset or silent after some bytes, refusing. Threads share one session with retries, a
circuit breaker, a budget and an observer, and make requests of every kind at random: small, large, uploads from bytes,
files and generators, pushed ones, streams that are read, left in the middle, dropped or closed by another thread, and
Server-Sent Events. Every answer is checked to the byte, and every error has to be one of syncflow's.

Prints a line every ten seconds, and at the end whether it stayed flat: exit code 1 if it did not.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import os
import random
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import syncflow
from syncflow.cli.memory import resident
from syncflow.watching import tell_late

MIB = 1 << 20
PATTERN = bytes(range(251)) * 2048  # half a MiB, whose pieces differ
EVENTS = b"".join(b"id: %d\ndata: %d\n\n" % (n, n) for n in range(20))
CHANGES_A_SECOND = 5
LINES_EVERY = 10.0
WARM_UP = 60.0

# What may grow from the end of the warm-up to the end of the run; a leak of one connection in a thousand is more.
MOST_GROWTH = 8 * MIB
MOST_DESCRIPTORS = 16


# ------------------------------------------------------------------------------------------- the server's process


def serve(seed: int) -> None:
    """Prints the proxy's URL, and works until stdin ends."""
    from syncflow.testing import AppServer, FaultProxy, Link, Response
    from syncflow.testing.wire import Request

    def app(request: Request) -> Response:
        if request.path.startswith("/bytes/"):
            return Response(200, (), PATTERN[: int(request.path[7:])])
        if request.path == "/pieces":
            return Response(200, (), (PATTERN[at : at + 8192] for at in range(0, len(PATTERN), 8192)))
        if request.path == "/events":
            return Response(200, {"Content-Type": "text/event-stream"}, [EVENTS])
        if request.path == "/busy":
            return Response(503, {"Retry-After": "0"}, b"busy")
        return Response(200, (), hashlib.sha256(request.body).hexdigest().encode())

    chance = random.Random(seed)

    def some() -> int:
        return int(10 ** chance.uniform(0, 6))

    kinds: list[Callable[[], Link]] = [
        *([Link] * 12),
        lambda: Link(latency=chance.uniform(0, 0.02)),
        lambda: Link(bandwidth=chance.uniform(1e6, 1e8)),
        lambda: Link(loss=0.05, stall=0.01),
        lambda: Link(cut_after=some()),
        lambda: Link(reset_after=some()),
        lambda: Link(silent_after=some()),
    ]
    stopped = threading.Event()

    def trouble(proxy: FaultProxy) -> None:
        while not stopped.wait(1 / CHANGES_A_SECOND):
            proxy.heal()
            if chance.random() < 0.03:
                proxy.refuse()
            proxy.change(up=chance.choice(kinds)(), down=chance.choice(kinds)())

    with contextlib.suppress(Exception), AppServer(app) as server, FaultProxy(server.address, seed=seed) as proxy:
        thread = threading.Thread(target=trouble, args=(proxy,))
        thread.start()
        print(proxy.url, flush=True)
        sys.stdin.read()
        stopped.set()
        thread.join()


# ------------------------------------------------------------------------------------------- what the threads do


class Mistake(Exception):
    """A wrong answer, or an error that is not documented."""


def check(is_right: bool, what: str) -> None:
    if not is_right:
        raise Mistake(what)


class Work:
    """One thread's requests."""

    def __init__(self, session: syncflow.Session, url: str, file: Path, seed: int) -> None:
        self.session, self.url, self.file = session, url, file
        self.chance = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.kinds = [self.small, self.small, self.small, self.large, self.stream, self.leave, self.drop, self.cancel]
        self.kinds += [self.upload, self.pushed, self.from_file, self.chunked, self.events, self.busy]

    def once(self) -> None:
        kind = self.chance.choice(self.kinds)
        try:
            kind()
            self.outcomes["ok"] += 1
        except syncflow.RequestException as error:
            check(":" in str(error), f"{kind.__name__}: {error!r} names no host")
            self.outcomes[type(error).__name__] += 1

    def small(self) -> None:
        body = self.session.get(f"{self.url}/bytes/10").content
        check(body == PATTERN[:10], f"small: {body!r}")

    def large(self) -> None:
        size = self.chance.randrange(len(PATTERN))
        check(self.session.get(f"{self.url}/bytes/{size}").content == PATTERN[:size], "large: other bytes")

    def stream(self) -> None:
        with self.session.get(f"{self.url}/pieces", stream=True) as response:
            check(b"".join(response.iter_content(5000)) == PATTERN, "stream: other bytes")

    def leave(self) -> None:
        with self.session.get(f"{self.url}/pieces", stream=True) as response:
            next(response.iter_content(100))

    def drop(self) -> None:
        next(self.session.get(f"{self.url}/pieces", stream=True).iter_content(100))

    def cancel(self) -> None:
        response = self.session.get(f"{self.url}/pieces", stream=True)
        closing = threading.Timer(self.chance.uniform(0, 0.01), response.close)
        closing.start()
        try:
            check(b"".join(response.iter_content(1000)) == PATTERN, "cancel: other bytes")
        finally:
            closing.join()
            response.close()

    def _sent(self, answer: syncflow.Response, body: bytes, what: str) -> None:
        check(answer.content.decode() == hashlib.sha256(body).hexdigest(), f"{what}: the server had other bytes")

    def upload(self) -> None:
        body = PATTERN[: self.chance.randrange(len(PATTERN))]
        self._sent(self.session.put(f"{self.url}/hash", data=body), body, "upload")

    def from_file(self) -> None:
        with self.file.open("rb") as file:
            self._sent(self.session.put(f"{self.url}/hash", data=file), PATTERN, "file")

    def _pieces(self) -> Iterator[bytes]:
        at = 0
        while at < len(PATTERN):
            size = self.chance.randrange(1, 30_000)
            yield PATTERN[at : at + size]
            at += size

    def chunked(self) -> None:
        self._sent(self.session.post(f"{self.url}/hash", data=self._pieces()), PATTERN, "chunked")

    def pushed(self) -> None:
        with self.session.upload("PUT", f"{self.url}/hash") as up:
            for piece in self._pieces():
                up.write(piece)
        self._sent(up.response, PATTERN, "pushed")

    def events(self) -> None:
        with self.session.sse(
            f"{self.url}/events", max_reconnects=2, timeout=syncflow.Timeouts(read=1, total=3)
        ) as stream:
            for number, event in enumerate(stream):
                if number == 19:
                    break
                check(event.data.isdigit(), f"event {event!r}")

    def busy(self) -> None:
        try:
            self.session.get(f"{self.url}/busy")
        except syncflow.RetryError as error:
            check(len(error.earlier_tries) >= 1, "busy: no tries")


# ------------------------------------------------------------------------------------------- the run


class Ends:
    """An observer: how many tries were begun, and how many ends were told."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self._lock = threading.Lock()

    def request_started(self, record: object) -> None:
        with self._lock:
            self.begun += 1

    def response_ended(self, record: object) -> None:
        with self._lock:
            self.ended += 1

    request_failed = response_ended


def run(seconds: float, threads: int, seed: int) -> bool:
    command = [sys.executable, "-m", "benchmarks.soak", "--server", str(seed)]
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        file = Path(folder, "body")
        file.write_bytes(PATTERN)
        ends = Ends()
        session = syncflow.Session(
            timeout=syncflow.Timeouts(connect=1, read=1, write=1, pool=5, total=5),
            pool=syncflow.PoolLimits(per_host=threads, max_age=20),
            retries=syncflow.Retry(total=2, backoff_factor=0.01),
            breaker=syncflow.CircuitBreaker(failures=20, reset_after=0.2),
            max_buffered=4 * MIB,
            events=ends,
        )
        session.trust_env = False
        is_flat = _watch(session, url, file, seconds, threads, seed)
        session.close()
        gc.collect()
        tell_late()  # what was dropped last
        server.stdin.close()
    stats = session.stats()
    left = stats.open + stats.connecting + stats.waiting + stats.bytes_buffered
    print(f"left in the pool: {left}; tries begun {ends.begun}, ended {ends.ended}")
    return is_flat and left == 0 and ends.begun == ends.ended


def _watch(session: syncflow.Session, url: str, file: Path, seconds: float, count: int, seed: int) -> bool:
    until = time.monotonic() + seconds
    mistakes: list[str] = []
    work = [Work(session, url, file, seed * 1000 + number) for number in range(count)]

    def loop(own: Work) -> None:
        while time.monotonic() < until and not mistakes:
            try:
                own.once()
            except Exception as error:
                mistakes.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=loop, args=(own,)) for own in work]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    lines: list[tuple[float, int, int]] = []
    print("seconds  requests  failed  MiB resident  blocks  descriptors  threads  open  buffered")
    while any(thread.is_alive() for thread in threads):
        threads[0].join(LINES_EVERY)
        outcomes = sum((own.outcomes for own in work), Counter())
        passed, memory, descriptors = time.monotonic() - began, resident(), len(os.listdir("/proc/self/fd"))
        stats, failed = session.stats(), outcomes.total() - outcomes["ok"]
        gc.collect()
        blocks = sys.getallocatedblocks()  # what Python's allocator has given out: no fragments, no arenas of threads
        figures = f"{passed:7.0f} {outcomes.total():9,} {failed:7,} {memory / MIB:13.1f} {blocks:7,} {descriptors:12}"
        print(f"{figures} {threading.active_count():8} {stats.open:5} {stats.bytes_buffered:9,}", flush=True)
        lines.append((passed, memory, descriptors))
        if not threads[0].is_alive():
            for thread in threads:
                thread.join(30)
    print(dict(sum((own.outcomes for own in work), Counter()).most_common()))
    for mistake in mistakes:
        print("MISTAKE", mistake)
    settled = [line for line in lines if line[0] > min(WARM_UP, seconds / 3)]
    grown = max(m for _, m, _ in settled[-3:]) - max(m for _, m, _ in settled[:3])
    more = max(d for _, _, d in settled[-3:]) - max(d for _, _, d in settled[:3])
    print(f"after the warm-up: memory {grown / MIB:+.1f} MiB, descriptors {more:+}")
    return not mistakes and grown <= MOST_GROWTH and more <= MOST_DESCRIPTORS


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 20))
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)  # some responses are dropped on purpose
    print(f"seed {chosen.seed}, {chosen.threads} threads, {chosen.seconds:g} s; Python {sys.version.split()[0]}")
    sys.exit(0 if run(chosen.seconds, chosen.threads, chosen.seed) else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--server"]:
        serve(int(sys.argv[2]))
    else:
        main()

"""What a thousand open event streams cost in one process: memory for each, processor time while nothing happens, and
how long one event to all of them takes.

    python -m pip install urllib3 httpx httpx-sse
    python -m benchmarks.open_streams

Two ways to have them: *held*, by one thread that reads nothing until it is told to, and then from one after the other;
and *followed*, each by a thread of its own that waits in it for the next event. The server is a process of its own
(`stream_server.py`), and so is each sample, which checks that every stream has got every event.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import json
import os
import re
import socket
import sys
import threading
import time
import tracemalloc
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from syncflow.cli.memory import resident

from .driver import Child, installed, rotated
from .report import NOTHING, Heading, grid
from .server import HEAD_END, HOST
from .stream_server import allow_descriptors, event
from .worker import claim_stdout, say

EVENTS = 5
"""That each stream gets, one after the other."""
WARM_UP_STREAMS = 10
LIMIT = 600.0
"""Seconds of silence that a client allows: more than there are."""
PATIENCE = 30.0
"""Seconds for anything that is to happen at once, so that a client that hangs does not hang the others."""
PATIENCE_TO_END = 3.0
"""The same for streams that were closed: some never end."""

# ---------------------------------------------------------------- two ways to have many streams


class Streams(ABC):
    """Many streams of one client."""

    @abstractmethod
    def open(self, url: str, count: int) -> None:
        """Returns when the client has all of them."""

    @abstractmethod
    def collect(self, number: int) -> float:
        """Have this event from each stream, none before it left out; the moment at which the last one had it."""

    @abstractmethod
    def close(self) -> int:
        """End all at once; how many did not end, and wait for the server still."""


@dataclass(frozen=True)
class Holder:
    """A client whose responses can be left alone: how it opens one, what comes of its body, piece by piece, and how it
    closes all."""

    open: Callable[[str], Any]
    pieces: Callable[[Any], Iterator[bytes]]
    close: Callable[[list[Any]], None]


class Held(Streams):
    """One thread has them all."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._responses: list[Any] = []
        self._pieces: list[Iterator[bytes]] = []
        self._came: list[bytes] = []  # and was not looked at

    def open(self, url: str, count: int) -> None:
        self._responses = [self._holder.open(url) for _ in range(count)]

    def collect(self, number: int) -> float:
        if not self._pieces:
            self._pieces = [self._holder.pieces(response) for response in self._responses]
            self._came = [b""] * len(self._pieces)
        expected = event(number)
        for index, pieces in enumerate(self._pieces):
            came = self._came[index]
            while expected not in came:
                came += next(pieces)
            self._came[index] = came.partition(expected)[2]
        return time.monotonic()

    def close(self) -> int:
        self._holder.close(self._responses)
        return 0


class Followed(Streams):
    """A thread has each."""

    def __init__(self, follow: Callable[[str], Iterable[Any]], close: Callable[[], None]) -> None:
        self._follow = follow
        self._close = close
        self._threads: list[threading.Thread] = []
        # Appended to by the threads: when each event came, by its number, and what went wrong.
        self._moments: list[list[float]] = [[] for _ in range(EVENTS + 1)]
        self._failures: list[Exception] = []
        self._complete = [threading.Event() for _ in self._moments]

    def open(self, url: str, count: int) -> None:
        self._threads = [threading.Thread(target=self._run, args=(url,), daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        self.collect(0)

    def _run(self, url: str) -> None:
        try:
            for number, each in enumerate(self._follow(url)):
                moments = self._moments[number]
                moments.append(time.monotonic())
                if f"data: {each.data}\n\n".encode() != event(number):
                    raise AssertionError(f"{each.data!r} has come for event {number}")
                if len(moments) == len(self._threads):
                    self._complete[number].set()
        except Exception as exc:  # how it ends when all are closed, or what is wrong
            self._failures.append(exc)

    def collect(self, number: int) -> float:
        if not self._complete[number].wait(PATIENCE):
            came = len(self._moments[number])
            raise AssertionError(f"event {number} came to {came} of {len(self._threads)}: {self._failures[:3]}")
        return max(self._moments[number])

    def close(self) -> int:
        self._close()
        until = time.monotonic() + PATIENCE_TO_END
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return sum(thread.is_alive() for thread in self._threads)


# ---------------------------------------------------------------- the clients


def held_by_socket(count: int) -> Streams:
    """Bytes and no more: the limit."""

    def open_one(url: str) -> socket.socket:
        parts = urlsplit(url)
        connection = socket.create_connection((HOST, parts.port or 80), LIMIT)
        connection.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        head = b""
        while HEAD_END not in head:
            head += connection.recv(65536)
        return connection

    return Held(Holder(open_one, lambda connection: iter(lambda: connection.recv(65536), b""), close_each))


def held_by_syncflow(count: int) -> Streams:
    session = syncflow_session(count)
    return Held(
        Holder(
            lambda url: session.get(url, stream=True),
            lambda response: response.iter_content(None),
            lambda _: session.close(),
        )
    )


def held_by_http_client(count: int) -> Streams:
    """The response keeps the connection's socket alive."""

    def open_one(url: str) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=LIMIT)
        connection.request("GET", parts.path, headers={"Accept": "text/event-stream"})
        response = connection.getresponse()
        opened.append(connection)
        return response

    def close(responses: list[Any]) -> None:
        close_each(responses)
        close_each(opened)

    opened: list[Any] = []
    return Held(Holder(open_one, lambda response: iter(lambda: response.read1(65536), b""), close))


def held_by_urllib3(count: int) -> Streams:
    import urllib3

    pool = urllib3.PoolManager(maxsize=count, timeout=LIMIT)

    def close(responses: list[Any]) -> None:
        close_each(responses)
        pool.clear()

    return Held(
        Holder(
            lambda url: pool.request("GET", url, preload_content=False),
            lambda response: response.stream(),
            close,
        )
    )


def held_by_httpx(count: int) -> Streams:
    client = httpx_client(count)

    def close(responses: list[Any]) -> None:
        close_each(responses)
        client.close()

    return Held(
        Holder(
            lambda url: client.send(client.build_request("GET", url), stream=True),
            lambda response: response.iter_raw(),
            close,
        )
    )


def followed_by_syncflow(count: int) -> Streams:
    session = syncflow_session(count)
    return Followed(session.sse, session.close)


def followed_by_httpx_sse(count: int) -> Streams:
    from httpx_sse import connect_sse

    client = httpx_client(count)

    def follow(url: str) -> Iterator[Any]:
        with connect_sse(client, "GET", url) as source:
            yield from source.iter_sse()

    return Followed(follow, client.close)


def syncflow_session(count: int) -> Any:
    import syncflow

    return syncflow.Session(
        pool=syncflow.PoolLimits(per_host=count, total=count), timeout=syncflow.Timeouts(read=LIMIT)
    )


def httpx_client(count: int) -> Any:
    import httpx

    return httpx.Client(limits=httpx.Limits(max_connections=count), timeout=LIMIT)


def close_each(things: list[Any]) -> None:
    for thing in things:
        thing.close()


@dataclass(frozen=True)
class Way:
    make: Callable[[int], Streams]
    """For so many."""
    distributions: tuple[str, ...] = ()


WAYS = {
    "socket, held": Way(held_by_socket),
    "syncflow, held": Way(held_by_syncflow, ("syncflow",)),
    "http.client, held": Way(held_by_http_client),
    "urllib3, held": Way(held_by_urllib3, ("urllib3",)),
    "httpx, held": Way(held_by_httpx, ("httpx",)),
    "syncflow, followed": Way(followed_by_syncflow, ("syncflow",)),
    "httpx-sse, followed": Way(followed_by_httpx_sse, ("httpx-sse", "httpx")),
}

# ---------------------------------------------------------------- one sample, in a process of its own


@dataclass(frozen=True)
class Sample:
    memory: float
    """KiB of resident memory for each stream."""
    opening: float
    """Milliseconds for each."""
    idle: float
    """Percent of a core while nothing comes."""
    comments: float
    """The same while each stream gets a comment a second."""
    delays: list[float]
    """Milliseconds from the moment at which the server began to send an event to all until the last one had it."""
    sending: list[float]
    """Of them the server's own, until it had sent the last one."""
    closing: float
    """Milliseconds until all have ended."""
    left: int
    """How many have not; and, in `descriptors`, what is still open."""
    descriptors: int


def sample(way: str, base: str, count: int, seconds: float) -> Sample:
    warm_up(way, base)
    descriptors, before = open_descriptors(), resident_after_collection()
    streams = WAYS[way].make(count)
    began = time.perf_counter()
    streams.open(f"{base}/stream", count)
    opening = time.perf_counter() - began
    if (found := ask(base, "count")["streams"]) != count:
        raise AssertionError(f"the server has {found} streams of {count}")
    memory = resident_after_collection() - before
    idle = processor_time(seconds)
    ask(base, "beat/1")
    comments = processor_time(seconds)
    ask(base, "beat/0")
    delays, sending = [], []
    for number in range(1, EVENTS + 1):
        delay, own = say_to_all(streams, base, number, count)
        delays.append(delay * 1e3)
        sending.append(own * 1e3)
    began = time.perf_counter()
    left = streams.close()
    closing = time.perf_counter() - began
    if not left:
        wait_for(lambda: ask(base, "count")["streams"] == 0)
        del streams
        wait_for(lambda: open_descriptors() <= descriptors)
    return Sample(
        memory=memory / count / 1024,
        opening=opening / count * 1e3,
        idle=idle,
        comments=comments,
        delays=delays,
        sending=sending,
        closing=closing * 1e3,
        left=left,
        descriptors=max(0, open_descriptors() - descriptors),  # a worker's selector may have been there before
    )


def warm_up(way: str, base: str) -> None:
    """Imports, and what is made once."""
    streams = WAYS[way].make(WARM_UP_STREAMS)
    streams.open(f"{base}/stream", WARM_UP_STREAMS)
    ask(base, "end")
    streams.close()
    wait_for(lambda: ask(base, "count")["streams"] == 0)


def say_to_all(streams: Streams, base: str, number: int, count: int) -> tuple[float, float]:
    """Seconds until the last stream had the event, and until the server had sent it. It is collected meanwhile."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=PATIENCE)
    connection.request("GET", "/say")
    last = streams.collect(number)
    reply = json.loads(connection.getresponse().read())
    if (reply["number"], reply["streams"]) != (number, count):
        raise AssertionError(f"the server has said {reply} instead of event {number} to {count}")
    return last - reply["began"], reply["seconds"]


def ask(base: str, name: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=PATIENCE)
    connection.request("GET", f"/{name}")
    reply: dict[str, Any] = json.loads(connection.getresponse().read())
    return reply


def wait_for(is_so: Callable[[], bool]) -> None:
    """Until it is so, or patience is over."""
    until = time.monotonic() + PATIENCE_TO_END
    while not is_so() and time.monotonic() < until:
        time.sleep(0.01)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_after_collection() -> int:
    gc.collect()
    return resident()


def processor_time(seconds: float) -> float:
    """Of this process, all threads, while so many seconds pass: percent of one core."""
    began, used = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    return (time.process_time() - used) / (time.perf_counter() - began) * 100


def traced(way: str, base: str, count: int) -> float:
    """KiB for each stream that Python has asked for, by its own count, whether they were touched or not. It slows
    everything: for this number alone."""
    warm_up(way, base)
    tracemalloc.start()
    streams = WAYS[way].make(count)
    streams.open(f"{base}/stream", count)
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    return size / count / 1024


def child(way: str, base: str, count: int, seconds: float) -> None:
    """Writes one line of JSON: a `Sample`, or without seconds what `traced` says."""
    replies = claim_stdout()
    allow_descriptors()
    if seconds:
        say(replies, **asdict(sample(way, base, count, seconds)))
    else:
        say(replies, traced=traced(way, base, count))
    replies.flush()
    os._exit(0)  # without waiting for streams that have not ended


# ---------------------------------------------------------------- the rounds, and the table


def measure(way: str, count: int, seconds: float) -> dict[str, Any]:
    server = Child("stream_server")
    base = f"http://{HOST}:{server.read()['port']}"
    process = Child("open_streams", "--child", way, base, str(count), str(seconds))
    try:
        return process.read(2 * seconds + EVENTS * PATIENCE)
    finally:
        process.end()
        server.end()


def table(samples: dict[str, list[Sample]], allocated: dict[str, float]) -> str:
    header = ["streams", "KiB each", "lowest", "Python asked for", "opening, ms each", "idle, % of a core"]
    header += ["a comment a second", "event to all, ms", "lowest", "closing, ms", "left"]
    return grid(header, [row(way, found, allocated[way]) for way, found in samples.items()])


def row(way: str, found: list[Sample], allocated: float) -> list[str]:
    delays = [delay for each in found for delay in each.delays]
    left = max(each.left for each in found)
    cells = [
        median(each.memory for each in found),
        min(each.memory for each in found),
        allocated,
        median(each.opening for each in found),
        median(each.idle for each in found),
        median(each.comments for each in found),
        median(delays),
        min(delays),
    ]
    closing = NOTHING if left else f"{median(each.closing for each in found):.0f}"
    return [way, *(f"{cell:.2f}" for cell in cells), closing, str(left or max(each.descriptors for each in found))]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.open_streams", description="what a thousand open event streams cost in one process"
    )
    parser.add_argument("--streams", type=int, default=1000, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="samples for each client")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of doing nothing, twice a sample")
    parser.add_argument("--only", metavar="REGEX", help="those whose name it matches")
    parser.add_argument("--quick", action="store_true", help="100 streams, one round, a second")
    chosen = parser.parse_args()
    count, rounds, seconds = (100, 1, 1.0) if chosen.quick else (chosen.streams, chosen.rounds, chosen.seconds)
    names = [name for name in WAYS if re.search(chosen.only or "", name)]
    versions, missing = installed({name: WAYS[name].distributions for name in names})
    ways = [name for name in names if name not in missing]
    heading = Heading.now(versions)
    samples: dict[str, list[Sample]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way in rotated(ways, turn):
            print(f"round {turn + 1} of {rounds}: {way}", file=sys.stderr, flush=True)
            samples[way].append(Sample(**measure(way, count, seconds)))
    allocated = {way: measure(way, count, 0.0)["traced"] for way in ways}
    sending = median(value for found in samples.values() for each in found for value in each.sending)
    facts = [
        f"a sample: {count:,} streams in one process, idle for {seconds:g} s, twice; then {EVENTS} events to all",
        f"{rounds} rounds, interleaved, over loopback; medians",
        f"of an event to all, the server takes {sending:.1f} ms to send it",
    ]
    print(heading.markdown("Open streams", facts, missing), table(samples, allocated), sep="\n\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
    else:
        main()

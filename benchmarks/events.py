"""What an event of a stream costs, from the socket to the program: by syncflow, httpx-sse and sseclient-py.

    python -m pip install httpx-sse sseclient-py requests
    python -m benchmarks.events

The server is a process of its own, has the whole stream ready and sends it as fast as it is taken. Every sample is a
process of its own too: it opens a session, reads a short stream, and then the long one, with the clock running.
"""

from __future__ import annotations

import argparse
import gc
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, NoReturn
from urllib.parse import urlsplit

from .driver import Child, installed, rotated
from .report import Heading, grid, ratio
from .server import HEAD_END, HOST, listen
from .worker import claim_stdout, say

EVENT_SIZE = 80
WARM_UP_EVENTS = 2000
REFERENCE = "httpx-sse"
PATIENCE = 60.0
"""Seconds that a client waits for the server."""

# ---------------------------------------------------------------- the events

PLAIN, NAMED = "data", "event, id, data"
KINDS = (PLAIN, NAMED)


def fields_of(kind: str, index: int) -> str:
    """All of an event in front of its data."""
    return "data: " if kind == PLAIN else f"event: price\nid: {index:07d}\ndata: "


def data_of(kind: str, index: int) -> str:
    """One line, of the length that is left."""
    size = EVENT_SIZE - len(fields_of(kind, index)) - len("\n\n")
    return f'{{"n": {index:7d}, "text": "'.ljust(size - 2, ".") + '"}'


def stream_of(kind: str, count: int) -> bytes:
    text = "".join(f"{fields_of(kind, index)}{data_of(kind, index)}\n\n" for index in range(count))
    assert len(text) == count * EVENT_SIZE
    return text.encode("ascii")


# ---------------------------------------------------------------- the server


def serve(count: int) -> None:
    """`/KIND/COUNT`, by the number of the kind, one connection after the other. Prints its port as a line of JSON, and
    ends when its stdin does."""
    streams = [memoryview(stream_of(kind, count)) for kind in KINDS]
    listener = listen()
    threading.Thread(target=send_all, args=(listener, streams), daemon=True).start()
    say(sys.stdout, port=listener.getsockname()[1])
    sys.stdin.read()


def send_all(listener: socket.socket, streams: Sequence[memoryview]) -> NoReturn:
    while True:
        connection, _ = listener.accept()
        with connection:
            request = b""
            while HEAD_END not in request:
                request += connection.recv(65536)
            kind, wanted = map(int, request.split(b" ", 2)[1].split(b"/")[1:])
            # To its end without a length or chunks, as RFC 9112, section 6.3 allows: they would be counted as well.
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
                b"Connection: close\r\n\r\n"
            )
            connection.sendall(streams[kind][: wanted * EVENT_SIZE])
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)  # its end, so that no reset eats what is on the way


# ---------------------------------------------------------------- the clients, each in a process of its own

Read = Callable[[str], tuple[int, str]]
"""From a URL to how many events came and the data of the last one."""


def counted(events: Iterable[Any]) -> tuple[int, str]:
    """The program: it looks at the data of each event."""
    count, data = 0, ""
    for event in events:
        count += 1
        data = event.data
    return count, data


@contextmanager
def by_iter_sse() -> Iterator[Read]:
    import syncflow

    with syncflow.Session() as session:

        def read(url: str) -> tuple[int, str]:
            with session.get(url, stream=True) as response:
                return counted(response.iter_sse())

        yield read


@contextmanager
def by_sse() -> Iterator[Read]:
    import syncflow

    with syncflow.Session() as session:

        def read(url: str) -> tuple[int, str]:
            with session.sse(url, max_reconnects=0) as events:
                return counted(events)

        yield read


@contextmanager
def by_httpx_sse() -> Iterator[Read]:
    import httpx
    from httpx_sse import connect_sse

    with httpx.Client(timeout=PATIENCE) as client:

        def read(url: str) -> tuple[int, str]:
            with connect_sse(client, "GET", url) as source:
                return counted(source.iter_sse())

        yield read


@contextmanager
def by_sseclient() -> Iterator[Read]:
    """As its documentation has it: the response is iterated, which `requests` does by 128 bytes."""
    import requests
    from sseclient import SSEClient

    with requests.Session() as session:

        def read(url: str) -> tuple[int, str]:
            with session.get(url, stream=True, headers={"Accept": "text/event-stream"}) as response:
                return counted(SSEClient(iter(response)).events())

        yield read


@contextmanager
def by_socket() -> Iterator[Read]:
    """Receives the bytes and no more."""

    def read(url: str) -> tuple[int, str]:
        parts = urlsplit(url)
        with socket.create_connection((HOST, parts.port or 80), PATIENCE) as connection:
            connection.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            head = connection.recv(65536)
            while HEAD_END not in head:
                head += connection.recv(65536)
            tail = head.partition(HEAD_END)[2]
            size = len(tail)
            while data := connection.recv(65536):
                size += len(data)
                tail = data if len(data) >= EVENT_SIZE else tail + data
        last = tail.decode()[-EVENT_SIZE:]
        return size // EVENT_SIZE, last.rpartition("data: ")[2].removesuffix("\n\n")

    yield read


@dataclass(frozen=True)
class Way:
    """One client: what it needs, and how it reads."""

    open: Callable[[], AbstractContextManager[Read]]
    distributions: tuple[str, ...] = ()


WAYS = {
    "socket": Way(by_socket),
    "syncflow, iter_sse": Way(by_iter_sse, ("syncflow",)),
    "syncflow, sse": Way(by_sse, ("syncflow",)),
    REFERENCE: Way(by_httpx_sse, ("httpx-sse", "httpx")),
    "sseclient-py": Way(by_sseclient, ("sseclient-py", "requests")),
}


def child(way: str, base: str, kind: int, count: int) -> None:
    """Writes one line of JSON: the seconds that `count` events took."""
    replies = claim_stdout()
    with WAYS[way].open() as read:
        read(f"{base}/{kind}/{WARM_UP_EVENTS}")
        gc.collect()
        began = perf_counter()
        came = read(f"{base}/{kind}/{count}")
        seconds = perf_counter() - began
    if came != (expected := (count, data_of(KINDS[kind], count - 1))):
        raise SystemExit(f"{way}: {came} has come instead of {expected}")
    say(replies, seconds=seconds)


# ---------------------------------------------------------------- the rounds, and the table


def measure(way: str, base: str, kind: str, count: int) -> float:
    """Microseconds an event."""
    process = Child("events", "--child", way, base, str(KINDS.index(kind)), str(count))
    try:
        seconds: float = process.read()["seconds"]
    finally:
        process.end()
    return seconds / count * 1e6


def table(samples: dict[str, list[float]]) -> str:
    """The fastest first."""
    medians = {way: median(values) for way, values in samples.items()}
    reference = medians.get(REFERENCE)
    rows = []
    for way in sorted(medians, key=medians.__getitem__):
        values = [medians[way], min(samples[way]), max(samples[way])]
        speed = None if reference is None else reference / medians[way]
        rows.append([way, *(f"{value:.3f}" for value in values), ratio(speed)])
    return grid(["client", "median µs", "lowest", "highest", f"speed, {REFERENCE} = 1"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.events", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=200_000, metavar="N", help="in a stream")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="samples for each client and kind of event")
    parser.add_argument("--only", metavar="REGEX", help="clients whose name it matches")
    parser.add_argument("--quick", action="store_true", help="20,000 events, three rounds")
    chosen = parser.parse_args()
    count, rounds = (20_000, 3) if chosen.quick else (chosen.events, chosen.rounds)
    names = [name for name in WAYS if re.search(chosen.only or "", name)]
    versions, missing = installed({name: WAYS[name].distributions for name in names})
    ways = [name for name in names if name not in missing]
    heading = Heading.now(versions)
    samples: dict[str, dict[str, list[float]]] = {kind: {way: [] for way in ways} for kind in KINDS}
    server = Child("events", "--serve", str(max(count, WARM_UP_EVENTS)))
    try:
        base = f"http://{HOST}:{server.read()['port']}"
        for turn in range(rounds):
            print(f"round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
            for kind in KINDS:
                for way in rotated(ways, turn):
                    samples[kind][way].append(measure(way, base, kind, count))
    finally:
        server.end()
    facts = [
        f"a sample: {count:,} events of {EVENT_SIZE} bytes in one response; microseconds an event",
        f"{rounds} rounds, interleaved, over loopback; medians",
    ]
    parts = [heading.markdown("Events", facts, missing)]
    parts += [f"## {kind}\n\n{table(found)}" for kind, found in samples.items()]
    print("\n\n".join(parts))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]))
    elif sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()

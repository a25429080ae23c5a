"""One upstream to many subscribers through `sse.EventHub`, some of them stalled: who misses what, and what it costs.

    python -m benchmarks.fanout
    python -m benchmarks.fanout --subscribers 200 --stalled 20 --rate 10000 --seconds 10

The upstream is a process of its own, which sends events at a steady rate over HTTP whatever becomes of them; each holds
its number and the moment at which it was made. Every subscriber that is not stalled counts what it gets.
"""

from __future__ import annotations

import argparse
import functools
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from statistics import median

import syncflow
from syncflow import sse
from syncflow.cli.memory import resident

MIB = 1 << 20
TICK = 0.001
"""Seconds between two sends of the upstream."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def upstream(rate: int, seconds: float) -> None:
    """The process that sends. Prints its port, serves one client, and prints how far it was behind at the worst."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    client, _ = listener.accept()
    client.recv(65536)
    client.sendall(HEAD)
    sys.stdin.readline()  # all have subscribed
    began, number, worst = time.monotonic(), 0, 0.0
    while (now := time.monotonic()) < began + seconds:
        due = int((now - began) * rate)
        pieces = [b"id: %d\ndata: %.6f %b\n\n" % (n, now, b"x" * 50) for n in range(number, due)]
        number = due
        if pieces:
            client.sendall(b"".join(pieces))
            worst = max(worst, time.monotonic() - now)
        time.sleep(TICK)
    client.close()
    print(f"{number} {worst:.3f}", flush=True)


@dataclass
class Consumer:
    """One that is not stalled: counts, and keeps how late a few events were."""

    subscription: sse.EventSubscription
    count: int = 0
    last_id: str = ""
    latencies: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Little work for each event: it is the hub that is measured. Whatever is missing is missing in the count."""
        count = 0
        for event in self.subscription:
            count += 1
            if not count & 1023:
                self.latencies.append(time.monotonic() - float(event.data.partition(" ")[0]))
        self.count, self.last_id = count, event.id


def run(subscribers: int, stalled: int, rate: int, seconds: float, max_size: int) -> None:
    command = [sys.executable, "-m", "benchmarks.fanout", "--upstream", str(rate), str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    url = f"http://127.0.0.1:{process.stdout.readline().strip()}/"
    session = syncflow.Session()
    with (
        session,
        process,
        sse.EventHub(session.sse(url, max_reconnects=0), functools.partial(sse.EventBuffer, max_size)) as hub,
    ):
        idle = [hub.subscribe() for _ in range(stalled)]
        consumers = [Consumer(hub.subscribe()) for _ in range(subscribers - stalled)]
        threads = [threading.Thread(target=consumer.run) for consumer in consumers]
        before = resident()
        for thread in threads:
            thread.start()
        process.stdin.write("go\n")
        process.stdin.flush()
        began, cpu, peak = time.monotonic(), time.process_time(), 0
        while any(thread.is_alive() for thread in threads) and time.monotonic() < began + 6 * seconds:
            peak = max(peak, resident() - before)
            threads[0].join(0.1)
        cpu, took = time.process_time() - cpu, time.monotonic() - began
        sent, worst = process.stdout.readline().split()
        health = hub.health()
        missed = [int(sent) - consumer.count for consumer in consumers]
        assert {consumer.last_id for consumer in consumers} == {str(int(sent) - 1)}
        late = [latency for consumer in consumers for latency in consumer.latencies]
        print(f"{subscribers} subscribers, {stalled} of them stalled; {rate} events/s for {seconds:g} s: {sent} events")
        print(f"healthy ones that missed something: {sum(map(bool, missed))}, events missed: {sum(missed)}")
        print(f"stalled ones hold {idle[0].buffer.size} events each and have lost {idle[0].buffer.dropped_count}")
        print(f"handed out: {sum(consumer.count for consumer in consumers) / took:,.0f} events/s")
        print(f"memory at its peak: {peak / MIB:.1f} MiB above the beginning; CPU: {cpu / took:.2f} of a core")
        print(f"late by: median {median(late) * 1000:.0f} ms, worst {max(late) * 1000:.0f} ms")
        print(f"the upstream was held up for {worst} s at the worst")
        print(f"hub: {health.healthy} healthy, {health.unhealthy} unhealthy, {health.dropped} dropped")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--subscribers", type=int, default=200)
    parser.add_argument("--stalled", type=int, default=20)
    parser.add_argument("--rate", type=int, default=10_000, help="events a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--buffer", type=int, default=1000, help="max_size of each subscriber's buffer")
    chosen = parser.parse_args()
    run(chosen.subscribers, chosen.stalled, chosen.rate, chosen.seconds, chosen.buffer)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--upstream"]:
        upstream(int(sys.argv[2]), float(sys.argv[3]))
    else:
        main()

"""One feed for many clients, by SSE through a WSGI server and by WebSocket: a slow one loses events of its own, and
slows nobody. A demonstration of a few seconds; with `--serve PORT` (0: any free one) it goes on, for a browser."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import syncflow
from syncflow import PoolLimits, Watermarks, sse
from syncflow.testing import AppServer, Request, Response, eventually

try:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect
    from websockets.sync.server import ServerConnection, serve
except ImportError:
    sys.exit("This example needs websockets: python -m pip install websockets")

LAST = 1500  # the number of the last event
PATIENCE = 20.0  # seconds in which anything should have happened
SMALL = 4096  # bytes that the kernel may hold for a slow client: with its usual megabytes nobody would notice it
new_buffer = functools.partial(sse.EventBuffer, max_size=LAST // 2)


def feed(request: Request, *, last: int, burst: int, is_over: threading.Event) -> Response:
    """The upstream. It ends its response every 500 events; whoever comes back says which one it had. 204: no more."""
    first = int(request.headers.get("last-event-id", 0)) + 1
    if first > last:
        is_over.wait(PATIENCE)
        return Response(204)

    def events() -> Iterator[bytes]:
        for number in range(first, min(first + 500, last + 1)):
            price = round(100 + 5 * math.sin(number / 40), 2)
            quote = {"price": price, "bids": [round(price - step / 100, 2) for step in range(1, 60)]}
            yield sse.encode(sse.ServerSentEvent("quote", json.dumps(quote), str(number), retry=50))
            if number % burst == 0:
                time.sleep(0.02)

    return Response(200, {"Content-Type": "text/event-stream"}, events())


# ---------------------------------------------------------------- the servers


def application(hub: sse.EventHub, environ: dict[str, Any], start_response: Callable[..., object]) -> Any:
    """WSGI (PEP 3333): /events is the stream, /health how its clients keep up, / a page that shows both."""
    status, kind, path = "200 OK", "text/html; charset=utf-8", environ["PATH_INFO"]
    if path == "/events":
        try:
            subscription = hub.subscribe(environ.get("HTTP_LAST_EVENT_ID"))
        except ValueError:  # the hub has ended, and nobody need come back
            start_response("204 No Content", [])
            return []
        start_response(status, [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")])
        # The time after which to come back is ours to say: the upstream's own would be passed on.
        return sse.relay(subscription, lambda event: event._replace(retry=500))
    if path == "/health":
        kind, body = "application/json", json.dumps(dataclasses.asdict(hub.health())).encode()
    elif path == "/":
        body = Path(__file__).with_name("dashboard.html").read_bytes()
    else:
        status, body = "404 Not Found", b""
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")])
    return [body]


class WebServer(ThreadingMixIn, WSGIServer):
    """A thread for each response, which waits in the socket while its client is slow. That of the standard library,
    because waitress buffers instead, and cheroot prints a traceback for each client that leaves (Python 3.13)."""

    daemon_threads = True
    request_queue_size = 100  # clients that come at once


class WebHandler(WSGIRequestHandler):
    timeout = 30  # seconds after which a client that takes nothing is given up: it has a thread of ours
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Not a line for each request."""


def push(hub: sse.EventHub, websocket: ServerConnection) -> None:
    with hub.subscribe() as subscription, suppress(ConnectionClosed):
        for event in subscription:
            websocket.send(json.dumps({"id": event.id, "data": event.json(), "lost": subscription.dropped}))


@contextmanager
def serving(hub: sse.EventHub, port: int = 0) -> Iterator[tuple[str, str]]:
    """Both servers, for the time of the block. Gives their URLs; closes the hub at the end."""
    app = functools.partial(application, hub)
    with (
        make_server("127.0.0.1", port, app, WebServer, WebHandler) as web,
        serve(functools.partial(push, hub), "127.0.0.1", 0, compression=None) as sockets,
        ThreadPoolExecutor(2) as pool,
    ):
        for server in (web, sockets):
            server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * SMALL)
        running = [pool.submit(web.serve_forever, 0.05), pool.submit(sockets.serve_forever)]
        try:
            yield f"http://127.0.0.1:{web.server_port}", f"ws://127.0.0.1:{sockets.socket.getsockname()[1]}"
        finally:
            hub.close()  # first: so each response ends
            web.shutdown()
            sockets.shutdown()
        for each in running:
            each.result()


# ---------------------------------------------------------------- the clients

have_all = threading.Semaphore(0)  # as often as a client has seen the last event
wake_up = threading.Event()  # slow clients are slow no more


@dataclasses.dataclass
class Client:
    """Does something else for `pause` seconds after each event, until it is told to wake up."""

    pause: float = 0.0
    numbers: list[int] = dataclasses.field(default_factory=list)
    lost: int = 0

    def take(self, number: str | bytes) -> None:
        self.numbers.append(int(number))
        if self.numbers[-1] == LAST:
            have_all.release()
        if self.pause:
            wake_up.wait(self.pause)

    def follow(self, session: syncflow.Session, url: str) -> None:
        with session.sse(url) as stream:
            for event in stream:
                self.take(event.id)

    def follow_lines(self, session: syncflow.Session, url: str) -> None:
        """What was lost is told in a comment, and those no stream of events hands out."""
        with session.get(url, stream=True) as response:
            for line in response.iter_lines(None):
                if line.endswith(b" events were lost"):
                    self.lost += int(line.split()[1])
                elif line.startswith(b"id: "):
                    self.take(line[4:])

    def follow_websocket(self, url: str) -> None:
        sock = socket.socket()
        if self.pause:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        sock.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        with connect(url, sock=sock, compression=None, max_queue=4) as websocket:
            for message in websocket:
                event = json.loads(message)
                self.lost = event["lost"]
                self.take(event["id"])


# ---------------------------------------------------------------- all together


def demonstrate() -> None:
    threads, is_over = set(threading.enumerate()), threading.Event()
    fast = [Client() for _ in range(50)]
    slow = [Client(pause) for pause in [PATIENCE, 0.2] * 6]  # asleep, and only slow
    small, few = [(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)], Watermarks(receive_high=SMALL, receive_low=0)
    with (
        AppServer(functools.partial(feed, last=LAST, burst=15, is_over=is_over)) as upstream,
        syncflow.Session(pool=PoolLimits(per_host=50)) as session,
        syncflow.Session(socket_options=small, watermarks=few) as slow_session,
        closing(sse.EventHub(session.sse(upstream.url), new_buffer)) as hub,  # not started: first come all clients
        serving(hub) as (url, websocket_url),
        ThreadPoolExecutor(len(fast + slow)) as pool,
    ):
        done = [pool.submit(client.follow, session, f"{url}/events") for client in fast[:42]]
        done += [pool.submit(client.follow_lines, slow_session, f"{url}/events") for client in slow[:8]]
        done += [pool.submit(client.follow_websocket, websocket_url) for client in fast[42:] + slow[8:]]
        try:
            eventually(lambda: len(hub.health().subscribers) == len(done), PATIENCE)
            hub.start()
            in_time = all(have_all.acquire(timeout=PATIENCE) for _ in fast)
            print("the fast ones had all while the slow ones were still slow:", in_time)
            health = session.get(f"{url}/health").json()
            print("the health of one:", max(health.pop("subscribers"), key=lambda each: each["unhealthy_for"]))
            print("of all:", json.dumps(health))
        finally:
            wake_up.set()
            is_over.set()
        for each in done:
            each.result(PATIENCE)
    whole = list(range(1, LAST + 1))
    print(f"fast: {sum(client.numbers == whole for client in fast)} of {len(fast)} got all {LAST} events, in order")
    told = [client.lost for client in slow if 0 < client.lost == LAST - len(set(client.numbers))]
    print(f"slow: {len(told)} of {len(slow)} have lost some, and were told how many: {sorted(told)}")
    eventually(lambda: all(each in threads or each.name == "syncflow-worker" for each in threading.enumerate()))
    print("no thread is left but syncflow's worker, of which a process has one")


def keep_serving(port: int) -> None:
    with (
        AppServer(functools.partial(feed, last=sys.maxsize, burst=1, is_over=threading.Event())) as upstream,
        syncflow.Session() as session,
        sse.EventHub(
            session.sse(upstream.url), new_buffer, replay=1000, disconnect_when=lambda client: client.unhealthy_for > 60
        ) as hub,
        serving(hub, port) as (url, _),
    ):
        hub.subscribe()  # one that never takes anything, for the page to show what becomes of it
        with suppress(KeyboardInterrupt):
            print(f"{url}/ until Ctrl-C", flush=True)
            threading.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", metavar="PORT", type=int)
    port = parser.parse_args().serve
    demonstrate() if port is None else keep_serving(port)

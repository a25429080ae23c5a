"""The gateway on waitress, in one process: `python serve_waitress.py 127.0.0.1:8000`.

By itself waitress stops sending when SIGTERM or Ctrl-C comes, and what its threads write afterwards is lost. So its
loop is run here, and goes on until everything that was under way has been sent.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Any

from app import THREADS, app
from waitress import create_server, wasyncore
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer

# Seconds. More than the 8 that the gateway's client has for what is under way, and less than a supervisor's 10 or more.
GRACEFUL_TIMEOUT = 9.0


def main(address: str) -> None:
    sockets: dict[int, Any] = {}  # all that waitress has open: listeners, a pipe that wakes it, clients
    # Lookahead: it reads on while it answers, and so finds out that a client has left.
    server = create_server(app, sockets, listen=address, threads=THREADS, channel_request_lookahead=1)
    listeners = [each for each in sockets.values() if isinstance(each, BaseWSGIServer)]
    stopping = threading.Event()

    def stop(*_: object) -> None:
        stopping.set()
        listeners[0].pull_trigger()  # wakes the loop

    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, stop)
        app.wsgi_app.drain_on(asked)  # type: ignore[attr-defined]  # it is the middleware
    for listener in listeners:
        print(f"http://{listener.effective_host}:{listener.effective_port}", flush=True)
    while not stopping.is_set():
        turn(sockets)
    for listener in listeners:
        wasyncore.dispatcher.close(listener)  # new clients are refused at once, so that a balancer goes elsewhere
    until = time.monotonic() + GRACEFUL_TIMEOUT
    while any(map(is_busy, sockets.values())) and time.monotonic() < until:
        turn(sockets)
    for channel in [each for each in sockets.values() if isinstance(each, HTTPChannel)]:
        channel.handle_close()  # and wake the thread that waits for its client, if there still is one
    server.task_dispatcher.shutdown()
    wasyncore.close_all(sockets)


def turn(sockets: dict[int, Any]) -> None:
    wasyncore.loop(timeout=1.0, use_poll=True, map=sockets, count=1)


def is_busy(each: Any) -> bool:
    """A request that comes in or is worked on, or an answer that is not all sent. In this order: a thread of the server
    adds to what is to be sent, and then removes its request."""
    return isinstance(each, HTTPChannel) and bool(each.request or each.requests or each.total_outbufs_len)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000")

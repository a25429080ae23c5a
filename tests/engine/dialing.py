"""What the tests of setting up share: dials that end well or in an error, and whole exchanges over what they made.

Knows no session: the engine's own doors only.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from syncflow import PoolLimits, Timeouts, Watermarks
from syncflow.engine.deadline import Deadline
from syncflow.engine.dialer import Dial, Network
from syncflow.engine.exchange import Exchange
from syncflow.engine.network import DEFAULT_NETWORK
from syncflow.engine.origin import Origin, Proxy
from syncflow.engine.pool import Pool
from syncflow.engine.timings import Setup
from syncflow.engine.tls import client_context
from syncflow.engine.transport import Transport
from syncflow.engine.worker import Worker
from syncflow.exceptions import RequestException
from syncflow.http1 import request_head

from .rig import PATIENCE

# What ends a test that would otherwise hang.
BOUNDED = Timeouts(connect=PATIENCE)
SOON = 0.05


def dial(worker: Worker, origin: Origin, network: Network = DEFAULT_NETWORK, *, timeouts: Timeouts = BOUNDED) -> Dial:
    return Dial(worker, origin, Deadline(timeouts), Watermarks(), network)


@contextmanager
def run(made: Dial) -> Iterator[tuple[Transport, Setup]]:
    transport, setup = made.run()
    try:
        yield transport, setup
    finally:
        transport.close()


def refuse(made: Dial) -> RequestException:
    """The error in which it ends."""
    try:
        made.run()[0].close()
    except RequestException as error:
        return error
    raise AssertionError("it has connected")


class Client:
    """A pool and what is needed for an exchange; a context manager."""

    def __init__(self, worker: Worker, network: Network = DEFAULT_NETWORK) -> None:
        self.pool = Pool(worker, PoolLimits(), Watermarks(), network)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.pool.close()

    def begin(self, origin: Origin, method: str = "GET") -> Exchange:
        deadline = Deadline(Timeouts(connect=PATIENCE, read=PATIENCE, write=PATIENCE))
        connection = self.pool.connection(origin, deadline)
        exchange = Exchange(connection, method, deadline, 0.0)
        assert connection.begin(exchange)
        return exchange

    def get(self, origin: Origin, target: str = "/") -> tuple[int, bytes]:
        """Status and body."""
        exchange = self.begin(origin)
        exchange.start(request_head("GET", target, [("Host", origin.where)]), [], has_body=False, last=True)
        head = exchange.wait_answered(whole=True)
        return head.status, exchange.read_all()

    def put(self, origin: Origin, body: bytes, *, piece: int = 50_000) -> tuple[int, bytes]:
        exchange = self.begin(origin, "PUT")
        fields = [("Host", origin.where), ("Content-Length", str(len(body)))]
        goes_on = exchange.start(request_head("PUT", "/", fields), [], has_body=True, last=not body)
        for at in range(0, len(body), piece):
            part = memoryview(body)[at : at + piece]
            goes_on = goes_on and exchange.write([(part, len(part))], last=at + piece >= len(body))
        head = exchange.wait_answered(whole=True)
        return head.status, exchange.read_all()


def trust(ca_file: Path) -> ssl.SSLContext:
    return client_context(str(ca_file))


def proxied(scheme: str, port: int, **more: Any) -> Proxy:
    return Proxy(scheme, "127.0.0.1", port, **more)


class UnixListener:
    """A Unix socket; `serve` runs in a thread of its own for every connection."""

    def __init__(self, path: str, serve: Callable[[socket.socket], object], *, backlog: int = 8) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(backlog)
        self._serve = serve
        self._threads = [threading.Thread(target=self._accept, name="unix-accept")]

    def __enter__(self) -> UnixListener:
        self._threads[0].start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock = self.listener.accept()[0]
                thread = threading.Thread(target=self._run, args=(sock,), name="unix-serve")
                self._threads.append(thread)
                thread.start()

    def _run(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            self._serve(sock)

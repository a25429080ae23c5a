"""A server to measure backpressure with curl, hey and wrk: it streams and takes uploads, by itself and as a proxy.

    python examples/backpressure_test/app.py --port 5000

`/stream`, `/stream/MB` and `/upload` it answers itself; `/proxy/stream`, `/proxy/stream/MB` and `/proxy/upload` it
passes on to an upstream through `syncflow.wsgi.proxy`. Unless another one is named, the upstream is this program once
more, in a process of its own, whose threads and memory are not this one's. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar
from urllib.parse import parse_qs

from cheroot.makefile import MakeFile
from cheroot.server import HTTPConnection
from cheroot.wsgi import Server

import syncflow
from syncflow import wsgi

MB = 1 << 20
ENABLE = "SYNCFLOW_BACKPRESSURE_TEST"
RATE = MB
"""Bytes a second that an upload is read with, if `?rate=` does not say another."""
WITHOUT = 32 * MB
"""From this high watermark on there is to be no backpressure at all."""
PATIENCE = 300
"""Seconds in which a peer may take nothing, or send nothing: a slow one has megabytes of kernel buffers to empty."""
GRACE = 2
"""Seconds for what is under way when the server is to stop."""

Body = Iterable[bytes]
Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class BadRequest(Exception):
    """What the client asks for makes no sense."""


class BackpressureTest:
    """The application. The environment, when it is made, says how it behaves:

    SYNCFLOW_BACKPRESSURE_TEST: 1, or everything is answered with 404: what streams to anybody is not left open.
    SYNCFLOW_CHUNK_SIZE: bytes that are made, or read, at once.
    SYNCFLOW_STREAM_MB: size of `/stream`.

    Args:
        upstream: URL of the server behind `/proxy`; None if there is none.
        transform: as for `proxy`.

    Raises:
        ValueError: one of the variables makes no sense.
    """

    def __init__(self, upstream: str | None, transform: Any = None) -> None:
        self.is_enabled = os.environ.get(ENABLE) == "1"
        self.chunk_size = setting("SYNCFLOW_CHUNK_SIZE", 4096)
        self.stream_mb = setting("SYNCFLOW_STREAM_MB", 10)
        self.upstream = upstream
        self.transform = transform
        self.stops = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Body:
        path = environ["PATH_INFO"]
        if not self.is_enabled:
            return say(start_response, "404 Not Found", f"nothing is here: start the server with {ENABLE}=1")
        if path.startswith("/proxy/") and self.upstream is not None:
            url = self.upstream + path.removeprefix("/proxy")
            return wsgi.proxy(environ, start_response, url, transform=self.transform)
        if stream := re.fullmatch(r"/stream(?:/(\d{1,6}))?", path):
            return self.stream(environ, start_response, int(stream[1] or self.stream_mb) * MB)
        if path == "/upload":
            return self.upload(environ, start_response)
        return say(start_response, "404 Not Found", "there are /stream, /stream/MB, /upload, and each behind /proxy")

    def stream(self, environ: Environ, start_response: StartResponse, size: int) -> Body:
        """So many bytes, made while they are sent."""
        start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else pieces(size, self.chunk_size)

    def upload(self, environ: Environ, start_response: StartResponse) -> Body:
        """Read it, no faster than `?rate=` (bytes a second; 0 is as fast as it comes), and tell how much it was."""
        try:
            rate = rate_of(environ)
        except BadRequest as error:
            return say(start_response, "400 Bad Request", str(error))
        file, began, received = environ["wsgi.input"], time.monotonic(), 0
        while piece := file.read(self.chunk_size):
            received += len(piece)
            ahead = received / rate - (time.monotonic() - began) if rate else 0.0
            if ahead > 0 and self.stops.wait(ahead):
                break
        report = {"bytes": received, "seconds": round(time.monotonic() - began, 3)}
        return say(start_response, "200 OK", json.dumps(report), "application/json")


def setting(name: str, default: int) -> int:
    """Of the environment. Raises ValueError if it is not a whole number from 1."""
    value = os.environ.get(name) or str(default)
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{name} is a whole number from 1, not {value!r}")
    return int(value)


def pieces(size: int, chunk_size: int) -> Iterator[bytes]:
    """New objects, as a program makes them: whoever keeps them pays for them."""
    source = bytes(range(256)) * (chunk_size // 256 + 2)
    starts = itertools.cycle(range(256))
    for done in range(0, size, chunk_size):
        start = next(starts)
        yield source[start : start + min(chunk_size, size - done)]


def rate_of(environ: Environ) -> float:
    try:
        rate = float(parse_qs(environ["QUERY_STRING"]).get("rate", [RATE])[0])
    except ValueError:
        rate = -1.0
    if not 0 <= rate < float("inf"):
        raise BadRequest("?rate= is a number of bytes a second; 0 is no limit")
    return rate


def say(start_response: StartResponse, status: str, text: str, kind: str = "text/plain") -> Body:
    body = f"{text}\n".encode()
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


class ReadAhead:
    """A `Transform` that does what one must not: a thread reads the response, and a queue without a limit holds what
    the client does not take. A large watermark would not do: syncflow reads on the thread that passes on, and what that
    one does not ask for is left with the kernel."""

    def response(self, passed: wsgi.ProxiedResponse) -> None:
        passed.body = self.read(passed.body)

    def read(self, source: Body) -> Body:
        waiting: queue.SimpleQueue[bytes | syncflow.RequestException] = queue.SimpleQueue()

        def read() -> None:
            try:
                for piece in source:
                    waiting.put(piece)
                waiting.put(b"")
            except syncflow.RequestException as error:  # of the upstream; or the client has left
                waiting.put(error)

        threading.Thread(target=read, daemon=True).start()
        while piece := waiting.get():
            if isinstance(piece, syncflow.RequestException):
                raise piece
            yield piece


# ----------------------------------------------------------------------------------------------------------- the server


class Connection(HTTPConnection):
    """One that writes straight to its socket. cheroot's own writer copies each piece twice, which would be most of what
    is measured here, and complains of what it could not send to a client that has left."""

    all: ClassVar[weakref.WeakSet[Connection]] = weakref.WeakSet()

    def __init__(self, server: Server, sock: socket.socket, makefile: Any = MakeFile) -> None:
        super().__init__(server, sock, makefile)
        self.wfile = Writer(sock)
        self.all.add(self)

    @classmethod
    def cut_all(cls) -> None:
        """Any thread. Whoever waits for a client waits no longer."""
        for connection in list(cls.all):
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)


class Writer:
    def __init__(self, sock: socket.socket) -> None:
        self.write = sock.sendall


def serve(options: argparse.Namespace, upstream: str | None) -> None:
    """Until SIGTERM or Ctrl-C."""
    high, low = options.write_high_watermark, options.write_low_watermark
    session = syncflow.Session(
        pool=syncflow.PoolLimits(per_host=options.threads, total=options.threads),
        watermarks=syncflow.Watermarks(high=high, low=low, receive_high=high, receive_low=low),
        timeout=syncflow.Timeouts(read=PATIENCE, write=PATIENCE),
    )
    test = BackpressureTest(upstream, ReadAhead() if high >= WITHOUT else None)
    application = wsgi.ClientMiddleware(test, session, drain_timeout=GRACE)
    server = Server(
        (options.host, options.port),
        application,
        numthreads=options.threads,
        request_queue_size=2 * options.threads,  # of connections that were not accepted yet
        timeout=PATIENCE,
        shutdown_timeout=2 * GRACE,
    )
    server.ConnectionClass = Connection
    server.keep_alive_conn_limit = options.threads
    try:
        server.prepare()
    except OSError as error:
        raise SystemExit(f"{options.host}:{options.port}: cannot listen there, take another --port: {error}") from None
    cut = threading.Timer(GRACE, Connection.cut_all)
    try:
        application.drain_on(signal.SIGTERM)
        print(f"http://{options.host}:{server.bind_addr[1]}", flush=True)
        tell(test, high, low)
        server.serve()
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        test.stops.set()
        server.error_log = lambda *_, **__: None  # type: ignore[method-assign]  # that bodies are cut now is no news
        cut.start()
        server.stop()
        cut.cancel()


def tell(test: BackpressureTest, high: int, low: int) -> None:
    """What else there is to know, for whoever looks."""
    if not test.is_enabled:
        print(f"answers nothing but 404, because {ENABLE} is {os.environ[ENABLE]!r}, not '1'", flush=True)
    print(f"process {os.getpid()}, upstream {test.upstream}, watermarks {high}/{low} bytes", flush=True)


@contextlib.contextmanager
def own_upstream() -> Iterator[str]:
    """This program once more, without an upstream; its URL. It ends when its stdin does, so with this process, however
    that ends. A Ctrl-C in the terminal is not for it."""
    command = [sys.executable, __file__, "--port", "0", "--upstream", "none", "--until-stdin-ends"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit("the upstream has not started; it has said why")
            yield url
        finally:
            process.kill()  # it has nothing to lose


def end_with_stdin() -> None:
    while os.read(0, 1):  # not by the object, whose lock the interpreter wants when it ends
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 is any; the first line of the output tells")
    parser.add_argument("--threads", type=int, default=128, help="requests at once (128)")
    parser.add_argument("--upstream", metavar="URL", help="behind /proxy; by default one of its own; none for none")
    parser.add_argument("--write-high-watermark", type=int, default=65536, metavar="BYTES", help="65536; both ways")
    parser.add_argument("--write-low-watermark", type=int, default=16384, metavar="BYTES", help="16384; both ways")
    parser.add_argument("--until-stdin-ends", action="store_true", help="for whoever starts it, and may be killed")
    options = parser.parse_args()
    if not 0 <= options.write_low_watermark < options.write_high_watermark:
        parser.error("the low watermark is from 0, and under the high one")
    try:
        BackpressureTest(None)
    except ValueError as error:
        parser.error(str(error))
    os.environ.setdefault(ENABLE, "1")  # who starts it by hand wants it
    if options.until_stdin_ends:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    if options.upstream is None:
        with own_upstream() as upstream:
            serve(options, upstream)
    else:
        serve(options, None if options.upstream == "none" else options.upstream.rstrip("/"))


if __name__ == "__main__":
    main()

"""Servers with the tests' application: in this process on threads, or as gunicorn in one of its own.

Knows how each is started on a port of 127.0.0.1 and stopped again, and what it is known to be able to do. What an
application writes to a server's own log is kept, not shown.
"""

from __future__ import annotations

import contextlib
import io
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import wsgiref.simple_server
import wsgiref.validate
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any

from syncflow import wsgi
from syncflow.wsgi.middleware import WSGIApplication

from .application import application, new_session
from .client import Client, Head

HERE = Path(__file__).parent
START_TIMEOUT = 30.0
THREADS = 24

NAMES = ["gunicorn", "cheroot", "waitress", "werkzeug", "wsgiref", "wsgiref-validated"]


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        persists: its connections outlive a request.
    """

    name: str
    address: tuple[str, int]
    tls: ssl.SSLContext | None = None
    persists: bool = True

    def connect(self, **settings: Any) -> Client:
        return Client(self.address, self.tls, **settings)

    def report(self) -> dict[str, Any]:
        with self.connect() as client:
            return client.report()

    def ask(self, told: dict[str, Any] | None, **request: Any) -> tuple[Head, bytes]:
        """One request on a connection of its own."""
        with self.connect() as client:
            client.ask(told, **request)
            head = client.head()
            is_empty = request.get("method") == "HEAD" or head.status in (204, 304)
            return head, b"" if is_empty else client.body(head)


# ------------------------------------------------------------------------------------------------- in this process


@contextlib.contextmanager
def _served(app: WSGIApplication | None) -> Iterator[WSGIApplication]:
    if app is not None:
        yield app
        return
    with new_session() as session:
        yield wsgi.ClientMiddleware(application, session)


@contextlib.contextmanager
def _on_a_thread(serve: Callable[[], Any], stop: Callable[[], Any]) -> Iterator[None]:
    thread = threading.Thread(target=serve, name="server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(START_TIMEOUT)
        assert not thread.is_alive()


@contextlib.contextmanager
def cheroot(app: WSGIApplication | None = None) -> Iterator[Running]:
    from cheroot import wsgi as cheroot_wsgi
    from cheroot.server import HTTPConnection

    class Connection(HTTPConnection):
        def close(self) -> None:
            """What a client has not taken would be written by a finalizer, to a socket that is closed by then."""
            with contextlib.suppress(OSError, ValueError):
                self.wfile.close()
            super().close()

    with _served(app) as served:
        server = cheroot_wsgi.Server(
            ("127.0.0.1", 0), served, numthreads=THREADS, request_queue_size=512, shutdown_timeout=1
        )
        server.ConnectionClass = Connection
        server.error_log = lambda *_, **__: None
        server.prepare()
        with _on_a_thread(server.serve, server.stop):
            yield Running("cheroot", server.bind_addr)


@contextlib.contextmanager
def waitress(app: WSGIApplication | None = None) -> Iterator[Running]:
    import waitress as waitress_package

    with _served(app) as served:
        sockets: dict[Any, Any] = {}
        # expose_tracebacks off, and no ident: what comes of the application is looked at.
        server = waitress_package.create_server(
            served, map=sockets, host="127.0.0.1", port=0, threads=THREADS, asyncore_loop_timeout=0.05
        )

        def stop() -> None:
            server.trigger.pull_trigger(server.close)
            for channel in list(server.active_channels.values()):
                server.trigger.pull_trigger(channel.handle_close)

        with _on_a_thread(server.run, stop):
            yield Running("waitress", (server.effective_host, int(server.effective_port)))


@contextlib.contextmanager
def werkzeug(app: WSGIApplication | None = None) -> Iterator[Running]:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            pass

    with _served(app) as served:
        server = make_server("127.0.0.1", 0, served, threaded=True, request_handler=Quiet)
        server.log = lambda *_: None  # type: ignore[method-assign]
        with contextlib.closing(_Closing(server.server_close)):
            with _on_a_thread(lambda: server.serve_forever(0.02), server.shutdown):
                yield Running("werkzeug", ("127.0.0.1", server.server_port), persists=False)


@dataclass
class _Closing:
    close: Callable[[], Any]


class _ThreadingServer(ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    request_queue_size = 512
    daemon_threads = True

    def server_bind(self) -> None:
        self.server_name, self.server_port = "127.0.0.1", 0  # the usual way asks the resolver
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_port = self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def get_stderr(self) -> Any:
        return io.StringIO()


@contextlib.contextmanager
def wsgiref_server(app: WSGIApplication | None = None, *, validated: bool = False) -> Iterator[Running]:
    with _served(app) as served:
        server = _ThreadingServer(("127.0.0.1", 0), _QuietHandler)
        server.set_app(wsgiref.validate.validator(served) if validated else served)  # type: ignore[arg-type]
        with contextlib.closing(_Closing(server.server_close)):
            with _on_a_thread(lambda: server.serve_forever(0.02), server.shutdown):
                yield Running(
                    "wsgiref-validated" if validated else "wsgiref",
                    ("127.0.0.1", server.server_port),
                    persists=False,
                )


# ------------------------------------------------------------------------------------------------- in one of its own


@contextlib.contextmanager
def gunicorn(
    folder: Path, *options: str, tls: tuple[ssl.SSLContext, Path, Path] | None = None, name: str = "gunicorn"
) -> Iterator[Running]:
    command = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--threads", str(THREADS)]
    command += ["--keep-alive", "30", "--graceful-timeout", "5", "--chdir", str(HERE), *options]
    if tls is not None:
        command += [f"--certfile={tls[1]}", f"--keyfile={tls[2]}"]
    log = folder / "gunicorn.log"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(511)
        address = listener.getsockname()
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*command, "--bind", f"fd://{listener.fileno()}", "gunicorn_application:application"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
                process_group=0,
            )
    try:
        running = Running(name, address, None if tls is None else tls[0])
        _wait_until_it_answers(running, process, log)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(START_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(running: Running, process: subprocess.Popen[bytes], log: Path) -> None:
    """The socket accepts from the start, so only an answer shows that it is there."""
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            running.report()
        except (OSError, AssertionError):
            time.sleep(0.01)
        else:
            return
    raise AssertionError(f"gunicorn did not answer; its log:\n{log.read_text(errors='replace')}")

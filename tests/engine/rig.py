"""What the engine's tests share: callers that are blocked, a worker that is killed.

Knows the engine's private parts, so that no test has to sleep until something has probably happened.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

from syncflow import Session
from syncflow.engine.connection import Connection
from syncflow.engine.pool import Pool
from syncflow.engine.transport import Transport
from syncflow.engine.worker import Client, Worker
from syncflow.testing import ScriptedServer, eventually, full_backlog, never_answers, reply_head

from ..concurrency import Call

T = TypeVar("T")

# For what is to happen at once. Generous: it only bounds a test that hangs.
PATIENCE = 4.0

# More than the kernel's buffers and ours take without a reader.
TOO_MUCH = bytes(24 << 20)


def pool_of(session: Session) -> Pool:
    return session._adapter._pool


def connection_of(message: Any) -> Connection:
    """Of a Response or an Upload."""
    connection = message._exchange._connection
    assert isinstance(connection, Connection)
    return connection


def transports(session: Session) -> list[Transport]:
    return [connection.transport for connection in list(pool_of(session)._ledger.connections)]


def has_waiters(condition: threading.Condition) -> bool:
    return bool(condition._waiters)  # type: ignore[attr-defined]


def is_receiver_blocked(transport: Transport) -> bool:
    return transport._in_wait or has_waiters(transport.arrived)


def is_sender_blocked(transport: Transport) -> bool:
    return has_waiters(transport.left)


def queued(session: Session) -> int:
    """Callers that wait for a connection."""
    pool = pool_of(session)
    with pool._lock:
        return sum(len(host.waiting) for host in pool._ledger._hosts.values())


def counts(pool: Pool) -> tuple[int, int, int, int]:
    """What the pool believes to be open, idle, connecting and waiting."""
    with pool._lock:
        ledger = pool._ledger
        waiting = sum(len(host.waiting) for host in ledger._hosts.values())
        return ledger.open, len(ledger._idle), ledger.connecting, waiting


def run_on(worker: Worker, function: Callable[[], T]) -> T:
    """Run it on the worker's thread and wait for what it returns."""
    done = threading.Event()
    outcome: list[T] = []
    errors: list[BaseException] = []

    def action() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            errors.append(error)
        done.set()

    worker.submit(Bystander(), action)
    assert done.wait(PATIENCE), "the worker does not come to it"
    if errors:
        raise errors[0]
    return outcome[0]


class Bystander:
    """A client of the worker that only remembers what it was told."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.failed = threading.Event()
        self.forked = False

    def fileno(self) -> int:
        return -1

    def on_ready(self, events: int) -> None:
        raise AssertionError("it is never watched")

    def on_failure(self, error: BaseException) -> None:
        self.failures.append(error)
        self.failed.set()

    def on_fork(self) -> None:
        self.forked = True


class Line(Bystander):
    """A client with a socket of its own; `far` is the other end."""

    def __init__(self, on_ready: Callable[[Line, int], None] | None = None) -> None:
        super().__init__()
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.events: list[int] = []
        self.served = threading.Event()
        self._on_ready = on_ready

    def fileno(self) -> int:
        return self.near.fileno()

    def on_ready(self, events: int) -> None:
        self.events.append(events)
        self.served.set()
        if self._on_ready is not None:
            self._on_ready(self, events)
        else:
            self.near.recv(4096)

    def close(self) -> None:
        self.near.close()
        self.far.close()


class Crash(BaseException):
    """Something that no `except Exception` stops."""


@contextmanager
def silent_hook() -> Iterator[list[BaseException]]:
    """What reaches `threading.excepthook` meanwhile, instead of it."""
    seen: list[BaseException] = []
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        assert arguments.exc_value is not None
        seen.append(arguments.exc_value)

    threading.excepthook = hook
    try:
        yield seen
    finally:
        threading.excepthook = before


def kill(worker: Worker, error: BaseException) -> None:
    """The worker's next `select` raises; returns once its thread has ended."""
    thread = worker._thread
    assert thread is not None

    def broken(timeout: float | None = None) -> list[Any]:
        raise error

    def break_it() -> None:
        worker._selector.select = broken  # type: ignore[union-attr, method-assign]

    with silent_hook() as seen:
        client: Client = Bystander()
        worker.submit(client, break_it)
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert seen == [error], "a bug of ours must not be silent"


# ---------------------------------------------------------------------- callers that are blocked
#
# Each takes a session with one connection for each host, enters what it needs into `stack`, and returns once the call
# is blocked in the wait after which it is named.

Blocked = Callable[[Session, ExitStack, "ssl.SSLContext | None"], "Call[Any]"]


def in_head(session: Session, stack: ExitStack, tls: ssl.SSLContext | None) -> Call[Any]:
    """In the wait for the head, for its own socket."""
    server = stack.enter_context(never_answers(ssl_context=tls))
    before = _receivers(session)
    call = Call(session.get, server.url)
    eventually(lambda: _receivers(session) > before)
    return call


def in_body(session: Session, stack: ExitStack, tls: ssl.SSLContext | None) -> Call[Any]:
    """In the wait for the whole body, for its own socket."""
    server = stack.enter_context(_begins_only(tls))
    known = set(transports(session))
    call = Call(session.get, server.url)
    # Twice: for the head, and again for the body.
    eventually(lambda: any(_has_begun(t) for t in set(transports(session)) - known))
    eventually(lambda: any(is_receiver_blocked(t) for t in set(transports(session)) - known))
    return call


def in_stream(session: Session, stack: ExitStack, tls: ssl.SSLContext | None) -> Call[Any]:
    """In a read of a stream, which the worker watches."""
    server = stack.enter_context(_begins_only(tls))
    response = session.get(server.url, stream=True)
    stack.callback(response.close)
    call = Call(lambda: response.content)
    eventually(lambda: is_receiver_blocked(connection_of(response).transport))
    return call


def in_write(session: Session, stack: ExitStack, tls: ssl.SSLContext | None) -> Call[Any]:
    """In `Upload.write`."""
    server = stack.enter_context(never_answers(reads=False, receive_buffer=4096, ssl_context=tls))
    upload = session.upload("PUT", server.url)
    stack.callback(upload.abort)
    call = Call(upload.write, TOO_MUCH)
    eventually(lambda: is_sender_blocked(connection_of(upload).transport))
    return call


def in_pool(session: Session, stack: ExitStack, tls: ssl.SSLContext | None) -> Call[Any]:
    """In the queue of the pool."""
    server = stack.enter_context(_begins_only(tls))
    response = session.get(server.url, stream=True)
    stack.callback(response.close)
    before = queued(session)
    call = Call(session.get, server.url)
    eventually(lambda: queued(session) > before)
    return call


def in_connect(session: Session, stack: ExitStack, tls: ssl.SSLContext | None) -> Call[Any]:
    """While connecting."""
    endpoint = stack.enter_context(full_backlog())
    before = _dialers(session)
    call = Call(session.get, endpoint.url)
    eventually(lambda: _dialers(session) > before)
    return call


def in_handshake(session: Session, stack: ExitStack, tls: ssl.SSLContext | None) -> Call[Any]:
    """In the TLS handshake."""
    server = stack.enter_context(never_answers())
    before = _dialers(session)
    call = Call(session.get, f"https://127.0.0.1:{server.port}", verify=False)
    eventually(lambda: _dialers(session) > before)
    return call


def _receivers(session: Session) -> int:
    return sum(map(is_receiver_blocked, transports(session)))


def _dialers(session: Session) -> int:
    return sum(has_waiters(dial.cond) for dial in list(pool_of(session)._dials))


def _begins_only(tls: ssl.SSLContext | None) -> AbstractContextManager[ScriptedServer]:
    """Sends a head that announces ten bytes, and one of them."""

    def script(peer: Any) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "10"}) + b"x")
        peer.stall()

    return ScriptedServer(script, ssl_context=tls)


def _has_begun(transport: Transport) -> bool:
    exchange = transport._owner._exchange  # type: ignore[attr-defined]
    return exchange is not None and bool(exchange.bytes_received)


# Those in a wait that the worker, or its death, has to do with; and all of them.
ON_A_CONNECTION: list[Blocked] = [in_head, in_body, in_stream, in_write]
SETTING_UP: list[Blocked] = [in_connect, in_handshake]
EVERYWHERE: list[Blocked] = [*ON_A_CONNECTION, *SETTING_UP, in_pool]


def tcp_pair(*, small: bool = False) -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection over loopback, both blocking; `small` ones let the kernel keep little in between."""
    with socket.socket() as listener:
        if small:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near = socket.socket()
        if small:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        near.connect(listener.getsockname())
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far = listener.accept()[0]
    return near, far


def read_exactly(sock: socket.socket, count: int) -> bytes:
    sock.settimeout(PATIENCE)
    parts = []
    while count:
        part = sock.recv(min(count, 1 << 16))
        assert part, f"the end came {count} bytes too early"
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def ended(sock: socket.socket) -> bool:
    """Whether the other side has closed, one way or the other; waits for it, and drops what comes before."""
    sock.settimeout(PATIENCE)
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        while sock.recv(1 << 16):
            pass
    return True

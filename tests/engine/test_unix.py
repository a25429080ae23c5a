"""Unix sockets: connecting to one, and what of a TCP connection there is not."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncflow import ConnectionError as Failure
from syncflow import ConnectTimeout, Timeouts
from syncflow.engine.dialer import Network
from syncflow.engine.origin import Origin
from syncflow.engine.worker import Worker
from syncflow.exceptions import InvalidProxyURL, RequestException
from syncflow.testing import eventually, pattern

from ..concurrency import Call
from .conftest import Wire
from .dialing import SOON, Client, UnixListener, dial, proxied, refuse, run, trust
from .rig import PATIENCE, has_waiters, is_receiver_blocked

pytestmark = pytest.mark.usefixtures("switching")


@pytest.fixture
def path() -> Iterator[str]:
    """Short: the kernel takes 107 bytes."""
    folder = tempfile.mkdtemp(prefix="syncflow-")
    yield os.path.join(folder, "socket")
    shutil.rmtree(folder)


def at(path: str, scheme: str = "http", context: ssl.SSLContext | None = None) -> Origin:
    return Origin(scheme, "localhost", 80, context, path=path)


def answers(tls: ssl.SSLContext | None, sock: socket.socket) -> None:
    """Reads requests with a body of as many bytes as the first one says, and sends that many back."""
    if tls is not None:
        sock = tls.wrap_socket(sock, server_side=True)
    with sock, sock.makefile("rwb") as stream:
        while line := stream.readline():
            assert line.startswith((b"GET / ", b"PUT / "))
            length = 0
            while (field := stream.readline()) != b"\r\n":
                if field.lower().startswith(b"content-length:"):
                    length = int(field.split(b":")[1])
            body = stream.read(length)
            stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + body)
            stream.flush()


def test_exchanges_over_a_unix_socket(worker: Worker, path: str, wire: Wire, ca_file: Path) -> None:
    body = pattern(300_000)
    origin = at(path, "https", trust(ca_file)) if wire.server else at(path)
    count = []

    def serve(sock: socket.socket) -> None:
        count.append(sock)
        answers(wire.server, sock)

    with UnixListener(path, serve), Client(worker) as client:
        for _ in range(2):
            assert client.get(origin) == (200, b"")
            assert client.put(origin, body) == (200, body)
    assert len(count) == 1, "the connection is used again"


def test_where_it_goes(worker: Worker, path: str) -> None:
    with UnixListener(path, lambda sock: sock.recv(1)), run(dial(worker, at(path))) as (transport, setup):
        assert transport.peer == (path, 0)
        assert transport.where == "localhost:80"
        assert setup.dns < PATIENCE
        assert transport._sock.gettimeout() == 0.0


def test_an_idle_one_that_was_closed_is_noticed(worker: Worker, path: str) -> None:
    def once(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with UnixListener(path, once), Client(worker) as client:
        assert client.get(at(path)) == (200, b"")
        eventually(lambda: not any(c.is_reusable() for c in list(client.pool._ledger.connections)))
        assert client.get(at(path)) == (200, b"")


def test_a_reader_that_is_closed_is_woken(worker: Worker, path: str) -> None:
    with UnixListener(path, lambda sock: sock.recv(1)), Client(worker) as client:
        call = Call(client.begin(at(path)).wait_answered, whole=True)
        (connection,) = client.pool._ledger.connections
        eventually(lambda: is_receiver_blocked(connection.transport))
        client.pool.close()
        assert isinstance(call.error(), RequestException)


def test_neither_the_filter_nor_the_source_is_for_it(worker: Worker, path: str) -> None:
    """Nor are options of TCP; those of sockets are."""

    def judge(address: str) -> bool:
        raise AssertionError("there is no address")

    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0), (socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)]
    network = Network(address_filter=judge, source_address=("192.0.2.1", 0), socket_options=options)
    with UnixListener(path, lambda sock: sock.recv(1)), run(dial(worker, at(path), network)) as (transport, _):
        assert transport._sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 20_000  # socket(7): doubled


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path, "No such file or directory"),
        (lambda path: "/" + "x" * 200, "AF_UNIX path too long"),
        (lambda path: path + "\0x", "null"),
    ],
    ids=["missing", "long", "nul"],
)
def test_nobody_listens(worker: Worker, path: str, make: object, reason: str) -> None:
    assert callable(make)
    wrong = make(path)
    error = refuse(dial(worker, at(wrong)))
    assert type(error) is Failure
    assert error.phase == "connect"
    assert str(error).startswith(f"localhost:80: no connection to the Unix socket {wrong!r} (")
    assert reason in str(error) or isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError)


def test_a_file_without_a_listener(worker: Worker, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)
        error = refuse(dial(worker, at(path)))
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert "Connection refused" in str(error)


def fill(path: str) -> list[socket.socket]:
    """Connect until the queue is full."""
    waiting = []
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        waiting.append(sock)
        if sock.connect_ex(path):
            return waiting


def test_a_full_queue_is_waited_for(worker: Worker, path: str) -> None:
    """connect(2) says EAGAIN, and no selector ever says anything else."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        waiting = fill(path)
        error = refuse(dial(worker, at(path), timeouts=Timeouts(connect=SOON)))
        assert isinstance(error, ConnectTimeout)
        assert error.phase == "connect"
        made = dial(worker, at(path))
        call = Call(made.run)
        eventually(lambda: has_waiters(made.cond))
        listener.settimeout(PATIENCE)
        listener.accept()[0].close()
        call.result()[0].close()
        for sock in waiting:
            sock.close()


def test_a_full_queue_can_be_called_off(worker: Worker, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        waiting = fill(path)
        made = dial(worker, at(path))
        call = Call(made.run)
        eventually(lambda: has_waiters(made.cond))
        error = RequestException("called off")
        made.cancel(error)
        assert call.error() is error
        for sock in waiting:
            sock.close()


def test_no_proxy_leads_there(worker: Worker) -> None:
    error = refuse(dial(worker, Origin("http", "localhost", 80, proxy=proxied("http", 9), path="/run/x")))
    assert isinstance(error, InvalidProxyURL)
    assert "nothing was sent" in str(error)

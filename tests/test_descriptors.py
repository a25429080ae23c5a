"""Out of file descriptors: idle connections give way, then a request waits, then it fails and says so; and afterwards
everything is as before. In a forked child with a limit of its own, against servers of its parent."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest

from syncflow import CircuitBreaker, ConnectionError, PoolLimits, Session, SessionClosed, Timeout, Timeouts, streams
from syncflow.breakers import Circuits
from syncflow.engine import setting_up
from syncflow.engine.descriptors import shortage
from syncflow.engine.worker import Worker
from syncflow.testing import Peer, ScriptedServer, eventually, reply, reply_head

from .concurrency import Call, forked

PATIENCE = Timeouts(connect=10, read=10, write=10, pool=10)
SHORT = Timeouts(connect=0.3, read=10, write=10, pool=10)

# Of a worker: its selector, and two ends of its bell.
WORKERS = 3


def script(peer: Peer) -> None:
    """A body of two bytes, at once; or, where the path is /held, its end when somebody has asked for /release."""
    for request in peer.requests():
        if request.target == "/release":
            peer._server.release()
        if request.target == "/held":
            peer.send(reply_head(200, {"Content-Length": "2"}) + b"o")
            peer.stall()
            peer.send(b"k")
        else:
            peer.send(reply(200, b"ok"))


@pytest.fixture
def servers() -> Iterator[list[ScriptedServer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ScriptedServer(script)) for _ in range(3)]


class Releaser:
    """For a child: it has a copy of the server, and only a connection reaches the one that serves."""

    def __init__(self, server: ScriptedServer) -> None:
        self._control = socket.create_connection(server.address, 10)

    def __call__(self) -> None:
        self._control.sendall(b"GET /release HTTP/1.1\r\nHost: server\r\n\r\n")
        assert self._control.recv(1)

    def close(self) -> None:
        self._control.close()


def opened() -> set[int]:
    """Descriptors that are open."""
    numbers = set()
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            numbers.add(int(name))
    return numbers


def unlimited() -> int:
    """As many as there may be: to look which are open takes one, too."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def leave(count: int) -> None:
    """So many more can be opened. (The limit is one of numbers, and the lowest free one is taken.)"""
    most = unlimited()
    taken, limit = opened(), 0
    while count or limit in taken:
        count -= limit not in taken
        limit += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))


@contextlib.contextmanager
def hogged() -> Iterator[None]:
    """Somebody else in the process has all that are left."""
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)


def in_child(test: Callable[..., None]) -> Callable[..., None]:
    """Run it there, with a session of its own that has `left` descriptors beside its worker's. Afterwards nothing is
    open that was not before, no place is taken and nobody waits."""

    def child(*args: Any) -> None:
        os.open(os.devnull, os.O_RDONLY)  # the standard library opens and keeps one when it is asked for random bytes
        before = opened()
        worker = Worker(linger=0.0)
        session = Session(worker=worker, timeout=PATIENCE, pool=PoolLimits(per_host=4, idle=3600))
        session.trust_env = False
        session.stats()  # what is imported late cannot be imported then
        with session:
            test(session, *args)
            stats = session.stats()
            assert (stats.connecting, stats.waiting, stats.in_use) == (0, 0, 0)
            pool = session._adapter._pool
            assert not pool._starved
            assert not pool._dials
            assert pool._ledger.open == len(pool._ledger.connections) == stats.idle
        unlimited()
        kept = {end.fileno() for end in (worker._bell, worker._ear) if end}
        eventually(lambda: opened() - before <= kept)

    @wraps(test)
    def run(servers: list[ScriptedServer]) -> None:
        forked(lambda: child(servers))()

    del run.__wrapped__  # pytest would ask for its arguments
    return run


def start_worker(session: Session, server: ScriptedServer) -> None:
    """It runs, and one connection is idle."""
    assert session.get(server.url).content == b"ok"


def never_looks() -> None:
    """In the child: whoever waits is told, or does not know."""
    vars(setting_up)["LOOK_AGAIN"] = 3600.0


def starved(session: Session) -> int:
    return len(session._adapter._pool._starved)


def ports(session: Session) -> list[int]:
    """To which servers there are connections."""
    return sorted(connection.origin.port for connection in session._adapter._pool._ledger.connections)


@in_child
def test_the_longest_idle_connection_gives_way(session: Session, servers: list[ScriptedServer]) -> None:
    start_worker(session, servers[0])
    leave(1)
    assert session.get(servers[1].url).content == b"ok"
    assert session.get(servers[2].url).content == b"ok"
    assert ports(session) == sorted(server.port for server in servers[1:])
    assert session.get(servers[1].url).content == b"ok"  # so that the other one has been idle for longer
    assert session.get(servers[0].url).content == b"ok"
    assert ports(session) == sorted(server.port for server in servers[:2])
    assert session.stats().failed == 0


@in_child
def test_else_it_waits_for_one_that_is_closed(session: Session, servers: list[ScriptedServer]) -> None:
    never_looks()
    start_worker(session, servers[0])
    leave(0)
    held = session.get(servers[0].url + "/held", stream=True)
    call = Call(session.get, servers[1].url)
    eventually(lambda: starved(session) == 1)
    held.close()
    assert call.result().content == b"ok"


@in_child
def test_or_for_one_that_becomes_free(session: Session, servers: list[ScriptedServer]) -> None:
    """To another server it gives way; to the same, it is used."""
    never_looks()
    start_worker(session, servers[0])
    release = Releaser(servers[0])
    leave(0)
    held = session.get(servers[0].url + "/held", stream=True)
    same = Call(session.get, servers[0].url)
    eventually(lambda: starved(session) == 1)
    assert session.stats().connecting == 1
    release()
    assert held.content == b"ok"
    assert same.result().content == b"ok"
    assert session.stats().opened == 1
    assert session.stats().failed == 0
    release.close()


@in_child
def test_or_for_one_of_somebody_else(session: Session, servers: list[ScriptedServer]) -> None:
    """Nobody tells of that: it looks."""
    start_worker(session, servers[0])
    held = session.get(servers[0].url + "/held", stream=True)
    leave(5)
    with hogged():
        call = Call(session.get, servers[1].url)
        eventually(lambda: starved(session) == 1)
    assert call.result().content == b"ok"
    held.close()


def expect_failure(call: Callable[[], Any], *, held: str) -> ConnectionError:
    with pytest.raises(ConnectionError, match=rf"127\.0\.0\.1:\d+: out of file descriptors{held}: .*ulimit") as caught:
        call()
    assert not isinstance(caught.value, Timeout)
    assert caught.value.phase == "connect"
    assert shortage(caught.value.__cause__) is caught.value.__cause__
    return caught.value


@in_child
def test_then_it_fails_and_recovers(session: Session, servers: list[ScriptedServer]) -> None:
    start_worker(session, servers[0])
    held = session.get(servers[0].url + "/held", stream=True)
    leave(5)
    with hogged():
        error = expect_failure(
            lambda: session.get(servers[1].url, timeout=SHORT), held=", of which this session holds 1"
        )
        assert "lower PoolLimits" in str(error)
        total = Timeouts(connect=None, total=0.3)
        expect_failure(lambda: session.get(servers[1].url, timeout=total), held=", of which this session holds 1")
        assert session.stats().failed == 2
    assert session.get(servers[1].url).content == b"ok"
    held.close()


@in_child
def test_which_is_no_failure_of_the_server(session: Session, servers: list[ScriptedServer]) -> None:
    session._adapter._circuits = Circuits(CircuitBreaker(failures=1), time.monotonic)
    start_worker(session, servers[0])
    held = session.get(servers[0].url + "/held", stream=True)
    leave(5)
    with hogged():
        expect_failure(lambda: session.get(servers[1].url, timeout=SHORT), held=", of which this session holds 1")
    assert session.get(servers[1].url).content == b"ok"
    held.close()


@in_child
def test_others_go_on_meanwhile(session: Session, servers: list[ScriptedServer]) -> None:
    """Those that have a connection, and those that are served by one."""
    start_worker(session, servers[0])
    held = session.get(servers[0].url + "/held", stream=True)
    release = Releaser(servers[1])
    leave(1)
    assert session.get(servers[1].url).content == b"ok"
    with session.get(servers[1].url + "/held", stream=True) as other:
        starving = [Call(session.get, servers[2].url) for _ in range(3)]
        eventually(lambda: starved(session) == 3)
        release()
        assert other.content == b"ok"
        assert [call.result().content for call in starving] == [b"ok"] * 3
    held.close()
    release.close()


@in_child
def test_the_worker_may_be_what_cannot_start(session: Session, servers: list[ScriptedServer]) -> None:
    leave(WORKERS + 1)
    with hogged():
        expect_failure(lambda: session.get(servers[0].url, timeout=SHORT), held=", of which this session holds 0")
        call = Call(session.get, servers[0].url)
        eventually(lambda: starved(session) == 1)
    assert call.result().content == b"ok"


@in_child
def test_for_each_number_that_is_left_it_fails_or_works(session: Session, servers: list[ScriptedServer]) -> None:
    for count in range(WORKERS + 1):
        leave(count)
        expect_failure(lambda: session.get(servers[0].url, timeout=SHORT), held=".*")
    leave(WORKERS + 1 - 2)  # the worker's bell was made, and is kept
    assert session.get(servers[0].url).content == b"ok"


@in_child
def test_names_cannot_be_resolved_without(session: Session, servers: list[ScriptedServer]) -> None:
    start_worker(session, servers[0])
    url = f"http://localhost:{servers[1].port}"
    held = session.get(servers[0].url + "/held", stream=True)
    leave(5)
    with hogged():
        with pytest.raises(ConnectionError, match="out of file descriptors") as caught:
            session.get(url, timeout=SHORT)
        assert caught.value.phase == "dns"
        call = Call(session.get, url)
        eventually(lambda: starved(session) == 1)
    assert call.result().content == b"ok"
    held.close()


@in_child
def test_what_waits_can_be_called_off(session: Session, servers: list[ScriptedServer]) -> None:
    start_worker(session, servers[0])
    held = session.get(servers[0].url + "/held", stream=True)
    leave(0)
    call = Call(session.get, servers[1].url)
    eventually(lambda: starved(session) == 1)
    session.close()
    assert isinstance(call.error(), SessionClosed)
    held.close()


@in_child
def test_a_stream_without_a_session(session: Session, servers: list[ScriptedServer]) -> None:
    start_worker(session, servers[0])
    connect = partial(streams.connect, *servers[1].address, worker=session._adapter._pool.worker)
    leave(5)
    with hogged():
        expect_failure(lambda: connect(timeout=SHORT), held="")
    connect().close()


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    @in_child
    def test(session: Session, servers: list[ScriptedServer]) -> None:
        start_worker(session, servers[0])
        held = session.get(servers[0].url + "/held", stream=True)
        leave(5)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            with hogged(), pytest.raises(ConnectionError, match="out of file descriptors, of which .* holds 1"):
                session.get(f"http+unix://{path.replace('/', '%2F')}/", timeout=SHORT)
        held.close()

    with ScriptedServer(script) as server:
        test([server])


def test_what_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shortage(None) is None
    assert shortage(OSError(24, "Too many open files")) is not None
    assert shortage(OSError(111, "Connection refused")) is None
    # That it found no name is all that getaddrinfo says, and here it is true.
    assert shortage(socket.gaierror(socket.EAI_NONAME, "no such name")) is None

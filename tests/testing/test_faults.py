"""FaultInjector: what each fault does to which call, seen by a server; and whose calls it leaves alone."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from syncflow import ChunkedEncodingError, ConnectionError, Session, SSLError
from syncflow.streams import connect
from syncflow.testing import AppServer, Fault, FaultInjector, Peer, Response, ScriptedServer, eventually, pattern
from syncflow.testing.faults import CALLS

PATIENCE = 10.0

SessionMaker = Callable[..., Session]


@pytest.fixture
def faults() -> Iterator[FaultInjector]:
    with FaultInjector() as faults:
        yield faults


@pytest.fixture
def server() -> Iterator[AppServer]:
    with AppServer(lambda request: Response(body=request.body or b"hello")) as server:
        yield server


# ---------------------------------------------------------------------- which call


def test_every_call_is_counted(
    new_session: SessionMaker, faults: FaultInjector, server: AppServer, server_tls: ssl.SSLContext
) -> None:
    session = new_session()
    with tempfile.TemporaryFile() as file, AppServer(ssl_context=server_tls) as secure:
        file.write(bytes(70_000))
        file.seek(0)
        session.post(server.url, data=file)
        session.get(secure.url)
    assert set(faults.calls) == set(CALLS)
    faults.clear()
    assert not faults.calls


def test_a_fault_strikes_the_call_that_was_named_and_no_other(
    new_session: SessionMaker, faults: FaultInjector, server: AppServer
) -> None:
    plan = faults.plan("so_error", fault=Fault.error(errno.ENOBUFS), at=2)  # one a connection
    for _ in range(2):
        assert new_session().get(server.url).text == "hello"
    assert not plan.struck.is_set()
    session = new_session()
    with pytest.raises(ConnectionError, match="No buffer space") as info:
        session.get(server.url)
    assert isinstance(info.value.__cause__, OSError)
    assert info.value.__cause__.errno == errno.ENOBUFS
    assert plan.struck.is_set()
    assert session.get(server.url).text == "hello"
    assert faults.calls["so_error"] == 4


def test_plans_add_up_until_they_are_cleared(
    new_session: SessionMaker, faults: FaultInjector, server: AppServer
) -> None:
    session = new_session()
    plans = [faults.plan("recv", fault=fault, at=None) for fault in (Fault.short(), Fault.would_block())]
    assert session.get(server.url).text == "hello"
    assert all(plan.struck.is_set() for plan in plans)
    assert faults.calls["recv"] > 2 * len("hello")
    faults.clear()
    for plan in plans:
        plan.struck.clear()
    assert session.get(server.url).text == "hello"
    assert not any(plan.struck.is_set() for plan in plans)


@pytest.mark.parametrize(
    ("calls", "fault"),
    [
        ([], Fault.reset()),
        (["read"], Fault.reset()),
        (["send", "connect"], Fault.short()),
        (["tls_write"], Fault.short()),
        (["so_error"], Fault.would_block()),
    ],
)
def test_what_cannot_be_is_refused(calls: list[str], fault: Fault) -> None:
    with pytest.raises(ValueError, match="can happen to"):
        FaultInjector().plan(*calls, fault=fault)


# ---------------------------------------------------------------------- what happens to it


def test_a_reset_is_one_for_the_peer_too(new_session: SessionMaker, faults: FaultInjector) -> None:
    ends: list[str] = []

    def note_the_end(peer: Peer) -> None:
        peer.read_request()
        ends.append(peer.wait_closed())

    with ScriptedServer(note_the_end) as server:
        faults.plan("recv", fault=Fault.reset())
        with pytest.raises(ConnectionError) as info:
            new_session().get(server.url)
        server.wait_until_idle()
    assert isinstance(info.value.__cause__, ConnectionResetError)
    assert ends == ["reset"]


@pytest.mark.parametrize("call", ["connect", "so_error", "tls_handshake", "tls_write", "tls_read"])
def test_a_reset_can_come_in_every_call(
    new_session: SessionMaker, faults: FaultInjector, server_tls: ssl.SSLContext, call: str
) -> None:
    session = new_session()
    with AppServer(ssl_context=server_tls) as server:
        plan = faults.plan(call, fault=Fault.reset())
        with pytest.raises(ConnectionError, match=r"(?i)reset|EOF|no connection") as info:
            session.get(server.url)
        assert plan.struck.is_set()
        assert isinstance(info.value, SSLError) == (call == "tls_handshake")
        assert session.get(server.url).ok


def test_a_call_can_be_held(new_session: SessionMaker, faults: FaultInjector, server: AppServer) -> None:
    go_on = threading.Event()
    plan = faults.plan("recv", fault=Fault.delay(PATIENCE, go_on))
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.append(new_session().get(server.url).text))
    thread.start()
    assert plan.struck.wait(PATIENCE)
    assert not texts
    go_on.set()
    thread.join(PATIENCE)
    assert texts == ["hello"]


def test_any_exception_can_be_raised(
    new_session: SessionMaker, faults: FaultInjector, server_tls: ssl.SSLContext
) -> None:
    body = (pattern(100) for _ in range(2))
    with AppServer(lambda request: Response(body=body), ssl_context=server_tls) as server:
        response = new_session().get(server.url, stream=True)
        faults.plan("tls_read", fault=Fault.error(lambda: ssl.SSLError(1, "bad record mac")), at=None)
        with pytest.raises(ChunkedEncodingError, match="bad record mac"):
            for _ in range(2):
                response.raw.read()


def test_a_unix_socket_is_reset_as_far_as_it_can_be(
    new_session: SessionMaker, faults: FaultInjector, tmp_path: Path
) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        faults.plan("recv", fault=Fault.reset())
        with pytest.raises(ConnectionError, match="reset"):
            new_session().get(f"http+unix://{path.replace('/', '%2F')}/")


def test_upgraded_tls_is_disturbed_below(
    faults: FaultInjector, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    with ScriptedServer(lambda peer: peer.send(peer.read_exactly(5)), ssl_context=server_tls) as server:
        plans = [faults.plan("send", "recv", fault=fault, at=None) for fault in (Fault.short(), Fault.would_block())]
        with connect("127.0.0.1", server.port, tls=client_tls) as stream:
            stream.write(b"hello")
            assert stream.read(5) == b"hello"
        assert all(plan.struck.is_set() for plan in plans)
        assert not faults.calls["tls_read"]


# ---------------------------------------------------------------------- whose


def test_others_are_left_alone(faults: FaultInjector, server: AppServer) -> None:
    """A server, another client, and a sendfile to what is no connection of ours."""
    plan = faults.plan(*CALLS, fault=Fault.error(errno.EPIPE), at=None)
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
    near, far = socket.socketpair()
    with near, far, tempfile.TemporaryFile() as file:
        file.write(b"hello")
        file.flush()
        assert os.sendfile(near.fileno(), file.fileno(), 0, 5) == 5
        assert far.recv(5) == b"hello"
    assert not plan.struck.is_set()
    assert not faults.calls


def test_a_program_s_own_class_of_tls_sockets_stays_what_it_is(
    new_session: SessionMaker, faults: FaultInjector, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    class Own(ssl.SSLSocket):
        reads = 0

        def read(self, len: int = 1024, buffer: bytearray | None = None) -> bytes:
            Own.reads += 1
            return super().read(len, buffer)  # type: ignore[return-value]

    client_tls.sslsocket_class = Own
    try:
        session = new_session(ssl_context=client_tls)
        session.verify = True
        with AppServer(ssl_context=server_tls) as server:
            assert session.get(server.url).ok
    finally:
        client_tls.sslsocket_class = ssl.SSLSocket
    assert Own.reads == faults.calls["tls_read"] > 0


def test_one_at_a_time_and_nothing_stays(new_session: SessionMaker, server: AppServer) -> None:
    before = os.sendfile
    session = new_session()
    with FaultInjector() as faults:
        plan = faults.plan("recv", fault=Fault.reset(), at=1)
        assert session.get(server.url).text == "hello"
        with pytest.raises(RuntimeError, match="one at a time"), FaultInjector():
            pass
        assert faults.open_sockets == 1
    assert os.sendfile is before
    assert session.get(server.url).text == "hello"  # on the same connection
    assert server.connections == 1
    assert not plan.struck.is_set()
    session.close()
    eventually(lambda: faults.open_sockets == 0)
    with FaultInjector() as another:
        first = faults.calls
        assert new_session().get(server.url).text == "hello"
        assert another.calls["connect"]
        assert faults.calls == first

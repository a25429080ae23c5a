"""A connection that a program takes over: the moment before, when it is nobody's; forks, interrupts, a dead worker."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from syncflow import Cancelled, ConnectionError, PoolLimits, RequestException, Response, Session, SessionClosed
from syncflow.engine.bytestream import ByteStream
from syncflow.testing import Peer, ScriptedServer, eventually

from ..concurrency import Call, at_once, forked
from .conftest import SessionMaker, Wire
from .rig import PATIENCE, connection_of, counts, is_receiver_blocked, kill, pool_of, run_on
from .test_exchange import watched

pytestmark = pytest.mark.usefixtures("switching")

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"


def switches(peer: Peer) -> None:
    """And echoes."""
    for request in peer.requests():
        if request.path != "/switch":
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            continue
        peer.send(SWITCHING + b"hello")
        while peer._reader.more():
            peer.send(bytes(peer._reader.some()))
        return


def switch(session: Session, server: ScriptedServer) -> Response:
    return session.get(server.url + "/switch", headers={"Connection": "Upgrade", "Upgrade": "echo"}, stream=True)


def converse(response: Response) -> None:
    with response.upgraded as duplex:
        duplex.write(b", world")
        got = b""
        while len(got) < 12:
            got += duplex.read(100)
        assert got == b"hello, world"


@pytest.mark.parametrize("hands", ["own", "worker"])
def test_whoever_has_received_the_answer(session: Session, wire: Wire, hands: str) -> None:
    with ScriptedServer(switches, ssl_context=wire.server) as server:
        if hands == "worker":
            watched(session, server.url)
        converse(switch(session, server))
        eventually(lambda: counts(pool_of(session)) == (0, 0, 0, 0))


def test_nobody_watches_until_it_is_taken(session: Session, wire: Wire) -> None:
    """What the peer sends meanwhile is the stream's, and stays where it is."""
    with ScriptedServer(switches, ssl_context=wire.server) as server:
        connection = watched(session, server.url)
        response = switch(session, server)
        run_on(connection.transport.worker, lambda: None)
        assert connection.transport not in connection.transport.worker._watched
        assert connection.is_busy
        # As if the selector had seen something before.
        run_on(connection.transport.worker, connection.on_readable)
        converse(response)


def test_a_late_event_is_the_streams(session: Session, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is on its way into the connection when that becomes a stream: it must not take its bytes for unasked
    ones."""
    with ScriptedServer(switches, ssl_context=wire.server) as server:
        response = switch(session, server)
        connection = connection_of(response)
        transport = connection.transport
        started = threading.Event()
        start = ByteStream.start

        def starting(self: ByteStream, received: bytes = b"") -> None:
            start(self, received)
            started.set()

        monkeypatch.setattr(ByteStream, "start", starting)
        with transport.receiving:
            late = Call(connection.on_readable)
            # It has looked whether there is a stream, and waits for the lock; or comes later, and finds one.
            stream = connection.take_over(response._exchange, response._exchange._deadline)  # type: ignore[arg-type, attr-defined]
            assert started.is_set()
        late.result()
        assert not stream.is_over
        assert stream.read(5) == b"hello"
        stream.fail(Cancelled("the test is over"))


def test_the_worker_dies_before_it_is_taken(session: Session, wire: Wire) -> None:
    with ScriptedServer(switches, ssl_context=wire.server) as server:
        watched(session, server.url)
        response = switch(session, server)
        kill(connection_of(response).transport.worker, RuntimeError("a bug"))
        with pytest.raises(ConnectionError, match="a bug"):
            response.upgraded  # noqa: B018
        assert counts(pool_of(session)) == (0, 0, 0, 0)


def test_the_worker_dies_while_it_is_used(session: Session, wire: Wire) -> None:
    with ScriptedServer(switches, ssl_context=wire.server) as server:
        duplex = switch(session, server).upgraded
        assert duplex.read(5) == b"hello"
        call = Call(duplex.read, 1)
        eventually(lambda: is_receiver_blocked(duplex._stream.transport))
        kill(duplex._stream.transport.worker, RuntimeError("a bug"))
        error = call.error()
        assert isinstance(error, ConnectionError)
        assert "a bug" in str(error)
        assert counts(pool_of(session)) == (0, 0, 0, 0)
        converse(switch(session, server))


@pytest.mark.parametrize("taken", [False, True])
def test_a_fork_leaves_it_to_the_parent(session: Session, wire: Wire, taken: bool) -> None:
    with ScriptedServer(switches, ssl_context=wire.server) as server:
        response = switch(session, server)
        if taken:
            assert response.upgraded.peer == ("127.0.0.1", server.port)

        def child() -> list[Any]:
            with pytest.raises(ConnectionError, match="belongs to the parent"):
                response.upgraded.read(1)
            response.close()
            if taken:
                response.upgraded.close()
            converse(switch(session, server))
            return [counts(pool_of(session))[0], os.getpid() != parent]

        parent = os.getpid()
        assert forked(child)() == [0, True]
        converse(response)


def test_an_interrupt_while_it_is_taken_over(session: Session, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: ByteStream, received: bytes = b"") -> None:
        raise KeyboardInterrupt

    with ScriptedServer(switches, ssl_context=wire.server) as server:
        response = switch(session, server)
        with monkeypatch.context() as patched:
            patched.setattr(ByteStream, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                response.upgraded  # noqa: B018
        eventually(lambda: counts(pool_of(session)) == (0, 0, 0, 0))
        with pytest.raises(RequestException):
            response.upgraded  # noqa: B018


def test_an_interrupt_before_anybody_has_it(session: Session, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(stream: ByteStream) -> None:
        raise KeyboardInterrupt

    with ScriptedServer(switches, ssl_context=wire.server) as server:
        response = switch(session, server)
        with monkeypatch.context() as patched:
            patched.setattr("syncflow.streams.duplex.Duplex", interrupted)
            with pytest.raises(KeyboardInterrupt):
                response.upgraded  # noqa: B018
        assert counts(pool_of(session)) == (0, 0, 0, 0)


def test_two_threads_take_the_same(session: Session, wire: Wire) -> None:
    """As one that reads and one that writes."""
    with ScriptedServer(switches, ssl_context=wire.server) as server:
        for _ in range(20):
            response = switch(session, server)
            first, second = at_once(lambda r=response: r.upgraded, lambda r=response: r.upgraded)  # type: ignore[misc]
            assert first is second is response.upgraded
            converse(response)
            eventually(lambda: counts(pool_of(session)) == (0, 0, 0, 0))


@pytest.mark.parametrize("stream", [False, True])
def test_one_that_nobody_asked_for(session: Session, wire: Wire, stream: bool) -> None:
    """RFC 9110, section 7.8: a fault of the server's. A program that knows nothing of it, and keeps its responses, does
    not keep the place in the pool with them."""
    with ScriptedServer(switches, ssl_context=wire.server) as server:
        response = session.get(server.url + "/switch", stream=stream)
        assert (response.status_code, response.content) == (101, b"")
        assert counts(pool_of(session)) == (0, 0, 0, 0)
        with pytest.raises(ConnectionError, match="unasked"):
            response.upgraded  # noqa: B018


def test_an_interrupt_elsewhere_leaves_it_alone(new_session: SessionMaker, wire: Wire) -> None:
    """The pool gives up what the struck thread was about to use, but not what it uses."""
    session = new_session(pool=PoolLimits(per_host=3))
    with ScriptedServer(switches, ssl_context=wire.server) as server:
        waiting, taken = switch(session, server), switch(session, server)
        duplex = taken.upgraded
        pool_of(session)._recover()
        assert counts(pool_of(session))[0] == 2
        duplex.close()
        converse(waiting)


@pytest.mark.usefixtures("frantic")
def test_the_session_ends_in_that_moment(new_session: SessionMaker, wire: Wire) -> None:
    """Taken or not: whoever has it gets the word."""

    def takes(response: Response) -> str:
        try:
            duplex = response.upgraded
            while True:
                duplex.read(1)
        except RequestException as error:
            return type(error).__name__

    with ScriptedServer(switches, ssl_context=wire.server) as server:
        for _ in range(40):
            session = new_session()
            response = switch(session, server)
            connection = connection_of(response)
            ends = at_once(lambda r=response: takes(r), lambda s=session: s.close())  # type: ignore[misc]
            assert ends == [SessionClosed.__name__, None]
            eventually(lambda c=connection: c.transport._sock.fileno() == -1, timeout=PATIENCE)  # type: ignore[misc]
            assert counts(pool_of(session)) == (0, 0, 0, 0)


def test_a_response_that_is_closed_while_it_is_taken(session: Session, wire: Wire) -> None:
    """One of the two, and nothing in between: the stream lives, or the connection is gone."""
    with ScriptedServer(switches, ssl_context=wire.server) as server:
        for _ in range(20):
            response = switch(session, server)

            def take(response: Response = response) -> str:
                try:
                    converse(response)
                except Cancelled:
                    return "closed"
                return "taken"

            def close(response: Response = response) -> str:
                response.close()
                return ""

            assert at_once(take, close)[0] in ("taken", "closed")
            eventually(lambda: counts(pool_of(session)) == (0, 0, 0, 0))

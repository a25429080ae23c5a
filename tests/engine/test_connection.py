"""A connection between two exchanges: what may come on it, and what makes it useless."""

from __future__ import annotations

import threading

import pytest

from syncflow import Session, Timeouts
from syncflow.engine.connection import Connection
from syncflow.engine.deadline import Deadline
from syncflow.engine.exchange import Exchange
from syncflow.testing import Peer, ScriptedServer, closes_idle, eventually, reply, unasked_bytes

from ..concurrency import Call
from .conftest import Wire
from .rig import PATIENCE, Bystander, counts, pool_of, run_on
from .test_exchange import only_connection, watched

pytestmark = pytest.mark.usefixtures("switching")


def test_a_connection_is_used_again(session: Session, wire: Wire) -> None:
    def script(peer: Peer) -> None:
        for request in peer.requests():
            peer.send(reply(200, request.path.encode()))

    with ScriptedServer(script, ssl_context=wire.server) as server:
        for number in range(10):
            assert session.get(f"{server.url}/{number}").content == f"/{number}".encode()
        connection = only_connection(session)
        assert connection.uses == 10
        assert server.connections == 1


def test_unasked_bytes_behind_an_answer_end_it(session: Session, wire: Wire) -> None:
    with unasked_bytes(ssl_context=wire.server) as server:
        for _ in range(3):
            assert session.get(server.url).content == b"ok"
        assert server.connections == 3
        eventually(lambda: counts(pool_of(session)) == (0, 0, 0, 0))


@pytest.mark.parametrize("what", ["unasked bytes", "the end"])
def test_what_comes_on_an_idle_connection_ends_it_at_once(session: Session, wire: Wire, what: str) -> None:
    """Seen by the worker, while nobody asks."""
    make = unasked_bytes if what == "unasked bytes" else closes_idle
    with make(stepped=True, ssl_context=wire.server) as server:
        assert session.get(server.url).content == b"ok"
        eventually(lambda: only_connection(session).transport.is_watched)
        server.step()
        eventually(lambda: counts(pool_of(session)) == (0, 0, 0, 0))
        assert session.get(server.url).content == b"ok"
        assert server.connections == 2
        server.step()


@pytest.mark.parametrize("what", ["unasked bytes", "the end"])
@pytest.mark.parametrize("hands", ["nobody's", "worker"])
def test_what_came_on_an_idle_connection_is_seen_by_who_takes_it(
    session: Session, wire: Wire, what: str, hands: str
) -> None:
    """Also when the worker has not come to it, or was not asked to look yet. Not even a POST is at risk."""
    make = unasked_bytes if what == "unasked bytes" else closes_idle
    with make(stepped=True, ssl_context=wire.server) as server:
        if hands == "worker":
            watched(session, server.url)
        else:
            assert session.get(server.url).content == b"ok"
        connection = only_connection(session)
        busy, go_on = threading.Event(), threading.Event()

        def stall() -> None:
            busy.set()
            assert go_on.wait(PATIENCE)

        connection.transport.worker.submit(Bystander(), stall)
        assert busy.wait(PATIENCE)
        server.step()
        eventually(lambda: not connection.is_reusable())
        call = Call(session.post, server.url, data=b"x")
        eventually(lambda: connection not in pool_of(session)._ledger.connections)
        go_on.set()
        assert call.result().content == b"ok"
        server.step()
        assert server.connections == 2


@pytest.mark.parametrize("wire", ["tls"], indirect=True)
def test_session_tickets_are_not_unasked_bytes(session: Session, server_tls: object, wire: Wire) -> None:
    """TLS 1.3 sends them after the handshake; the worker sees the socket turn readable."""

    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(reply(200, b"ok"))

    with ScriptedServer(script, ssl_context=wire.server) as server:
        connection = watched(session, server.url)
        run_on(connection.transport.worker, lambda: None)
        assert session.get(server.url).ok
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["close", "1.0"],
)
def test_an_answer_that_ends_the_connection(session: Session, wire: Wire, answer: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)
        assert peer.wait_closed() == "fin", "it is for the client to close first"

    with ScriptedServer(script, ssl_context=wire.server) as server:
        for _ in range(2):
            assert session.get(server.url).content == b"ok"
        server.wait_until_idle()
        assert server.connections == 2
        eventually(lambda: counts(pool_of(session)) == (0, 0, 0, 0))


def test_an_early_answer_ends_the_connection(session: Session, wire: Wire) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply(413, b"too much"))
        peer.wait_closed()

    with ScriptedServer(script, ssl_context=wire.server) as server:
        response = session.put(server.url, data=iter([b"x" * 100_000] * 1000))
        assert response.status_code == 413
        assert not response.request_complete
        eventually(lambda: counts(pool_of(session)) == (0, 0, 0, 0))


def test_a_connection_that_was_closed_takes_no_exchange(session: Session, wire: Wire) -> None:
    """It was idle, was given to a caller, and closed before he began."""

    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(reply(200, b"ok"))

    with ScriptedServer(script, ssl_context=wire.server) as server:
        assert session.get(server.url).ok
        first = only_connection(session)
        begin = first.begin
        first.begin = lambda exchange: first.close() or begin(exchange)  # type: ignore[method-assign, func-returns-value]
        # Nothing was sent, so that it does not matter that this is a POST.
        assert session.post(server.url, data=b"x").content == b"ok"
        assert only_connection(session) is not first
        assert counts(pool_of(session)) == (1, 1, 0, 0)


def test_nothing_begins_between_the_end_of_the_session_and_the_closing(
    session: Session, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that was just given the connection is told that the session is closed, not that the connection is."""
    with closes_idle(stepped=True, ssl_context=wire.server) as server:
        assert session.get(server.url).content == b"ok"
        connection = only_connection(session)
        began: list[bool] = []

        def close() -> None:
            began.append(connection.begin(Exchange(connection, "GET", Deadline(Timeouts()), 0.0)))
            Connection.close(connection)

        monkeypatch.setattr(connection, "close", close)
        session.close()
        assert began == [False]
        server.release()

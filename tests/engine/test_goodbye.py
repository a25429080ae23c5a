"""A connection that carries nothing is closed as TLS wants it: with close_notify (RFC 8446, section 6.1; RFC 9112,
section 9.8). A server that sees none has to assume that somebody has cut it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest

from syncflow import PoolLimits, Session
from syncflow.testing import Peer, ScriptedServer, eventually, reply, reply_head

from ..concurrency import at_once
from .conftest import SessionMaker
from .rig import connection_of, counts, pool_of


class Farewells:
    """A server that remembers how each of its clients has left."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __call__(self, peer: Peer) -> None:
        sock: Any = peer._connection.sock
        sock.suppress_ragged_eofs = False
        try:
            for request in peer.requests():
                if request.path == "/half":
                    peer.send(reply_head(200, {"Content-Length": "10"}) + b"x")
                    peer.wait_step()
                else:
                    peer.send(reply(200, b"ok", {"Connection": "close"} if request.path == "/last" else {}))
            self.heard.append("goodbye")
        except OSError as error:
            self.heard.append(repr(error))

    def check(self, count: int = 1) -> None:
        eventually(lambda: len(self.heard) == count, message=f"{self.heard}")
        assert self.heard == ["goodbye"] * count


def closed(session: Session) -> None:
    session.close()


def drained(session: Session) -> None:
    assert session.drain()


def retired(session: Session) -> None:
    session.retire()


ENDS: list[Callable[[Session], None]] = [closed, drained, retired]


@pytest.mark.parametrize("end", ENDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("is_watched", [False, True], ids=["", "watched"])
def test_whoever_closes_it(
    session: Session, server_tls: ssl.SSLContext, end: Callable[[Session], None], is_watched: bool
) -> None:
    farewells = Farewells()
    with ScriptedServer(farewells, ssl_context=server_tls) as server:
        with session.get(server.url, stream=True) as response:
            connection = connection_of(response)
            assert response.content == b"ok"
        if is_watched:
            eventually(lambda: connection.transport.is_watched)
        end(session)
        farewells.check()


def test_after_its_last_answer(session: Session, server_tls: ssl.SSLContext) -> None:
    """The server has announced that it closes, and waits for the client to do so."""
    farewells = Farewells()
    with ScriptedServer(farewells, ssl_context=server_tls) as server:
        session.get(server.url + "/last")
        farewells.check()


def test_when_its_time_is_over(new_session: SessionMaker, server_tls: ssl.SSLContext) -> None:
    session = new_session(pool=PoolLimits(idle=0.01))
    farewells = Farewells()
    with ScriptedServer(farewells, ssl_context=server_tls) as server:
        session.get(server.url)
        farewells.check()


def test_when_it_makes_room_for_another(new_session: SessionMaker, server_tls: ssl.SSLContext) -> None:
    session = new_session(pool=PoolLimits(total=1))
    farewells = Farewells()
    with (
        ScriptedServer(farewells, ssl_context=server_tls) as server,
        ScriptedServer(Farewells(), ssl_context=server_tls) as other,
    ):
        session.get(server.url)
        session.get(other.url)
        farewells.check()


def test_one_that_is_given_up_in_the_middle_is_cut(session: Session, server_tls: ssl.SSLContext) -> None:
    """That is what has happened."""
    farewells = Farewells()
    with ScriptedServer(farewells, ssl_context=server_tls) as server:
        session.get(server.url + "/half", stream=True).close()
        server.step()
        eventually(lambda: farewells.heard)
        assert farewells.heard != ["goodbye"]


@pytest.mark.usefixtures("frantic")
def test_both_say_it_at_the_same_moment(session: Session, server_tls: ssl.SSLContext) -> None:
    """The worker reads the server's when this end has said its own, and OpenSSL's object is gone."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(200, b"ok"))
        peer.wait_step()
        peer.close()

    with ScriptedServer(script, ssl_context=server_tls) as server:
        for round_ in range(40):
            with session.get(server.url, stream=True) as response:
                connection = connection_of(response)
                assert response.content == b"ok"
            if round_ % 2:
                eventually(lambda transport=connection.transport: transport.is_watched)  # type: ignore[misc]
            at_once(server.step, pool_of(session).dismiss_idle)
            eventually(lambda: counts(pool_of(session)) == (0, 0, 0, 0))


def test_who_reads_after_both_have_said_it(session: Session, server_tls: ssl.SSLContext) -> None:
    """It is the end, and no misuse of an object that is gone."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(200, b"ok"))
        peer.close()

    with ScriptedServer(script, ssl_context=server_tls) as server:
        with session.get(server.url, stream=True) as response:
            transport = connection_of(response).transport
            assert response.content == b"ok"
        server.wait_until_idle()  # its farewell is here
        with transport.receiving:
            transport.say_goodbye()
            transport.say_goodbye()
            if not transport.closed:
                assert transport.receive(1) == b""
                assert not transport.is_quiet()

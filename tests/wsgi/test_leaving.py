"""A client that leaves: its request to the upstream is ended at once, wherever it is just now, and nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from syncflow.testing import (
    AppServer,
    Peer,
    Receiver,
    Response,
    ScriptedServer,
    chunk,
    eventually,
    full_backlog,
    never_answers,
    reply,
    reply_head,
)

from .client import Client
from .sending import sending
from .servers import Running

TEXT = ("Content-Type", "text/plain")
EVENTS = ("Content-Type", "text/event-stream")

# Those that show the socket of the client. One of gunicorn's is behind TLS.
SHOWING = ["gunicorn", "gunicorn over TLS", "cheroot", "werkzeug", "wsgiref"]
# Long enough for any test here: what ends a request is the client.
PATIENT = {"read": 60, "connect": 60, "write": 60, "pool": 60}


@pytest.fixture(params=SHOWING)
def server(request: pytest.FixtureRequest, running: dict[str, Running], gunicorn_tls: Running) -> Running:
    return {**running, "gunicorn over TLS": gunicorn_tls}[request.param]


@pytest.fixture(params=["leave", "reset"])
def leave(request: pytest.FixtureRequest) -> Callable[[Client], None]:
    return {"leave": Client.leave, "reset": Client.reset}[request.param]


def is_quiet(server: Running) -> bool:
    """Nothing is under way, and nobody is watched."""
    report = server.report()
    return (report["in_use"], report["waiting"], report["watched"]) == (0, 0, 0)


def expect_quiet(server: Running) -> None:
    eventually(lambda: is_quiet(server), message=f"{server.report()}")


def test_while_it_waits_for_the_head(server: Running, leave: Callable[[Client], None]) -> None:
    with never_answers() as upstream, server.connect() as client:
        client.ask({"url": upstream.url, "timeout": PATIENT})
        upstream.wait_for_connections(1)
        leave(client)
        upstream.wait_until_idle()
    expect_quiet(server)


def test_between_two_pieces(server: Running, leave: Callable[[Client], None]) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, [TEXT, ("Transfer-Encoding", "chunked")]) + chunk(b"piece"))
        peer.wait_closed()

    with ScriptedServer(script) as upstream, server.connect() as client:
        client.ask({"url": upstream.url, "timeout": PATIENT})
        client.head()
        client.read(1)
        leave(client)
        upstream.wait_until_idle()
    expect_quiet(server)


def test_while_a_handlers_own_body_waits(server: Running, leave: Callable[[Client], None]) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, [EVENTS, ("Transfer-Encoding", "chunked")]) + chunk(b"data: first\n\n"))
        peer.wait_closed()

    with ScriptedServer(script) as upstream, server.connect() as client:
        client.ask({"url": upstream.url, "timeout": PATIENT, "kind": "relay"})
        head = client.head()
        read = client.chunk if head.get("Transfer-Encoding") else lambda: client.read(1)
        got = b""
        while b"first" not in got:
            got += read()
        leave(client)
        upstream.wait_until_idle()
    expect_quiet(server)


def test_while_it_connects(server: Running) -> None:
    with full_backlog() as upstream, server.connect() as client:
        client.ask({"url": upstream.url, "timeout": PATIENT})
        eventually(lambda: server.report()["watched"] == 1)
        client.leave()
        expect_quiet(server)


def test_while_it_waits_for_a_connection(server: Running) -> None:
    """There are ten to an upstream."""
    with never_answers() as upstream:
        others = [server.connect() for _ in range(10)]
        for other in others:
            other.ask({"url": upstream.url, "timeout": PATIENT})
        upstream.wait_for_connections(10)
        with server.connect() as client:
            client.ask({"url": upstream.url, "timeout": PATIENT})
            eventually(lambda: server.report()["waiting"] == 1)
            client.leave()
            eventually(lambda: server.report()["waiting"] == 0)
        assert upstream.connections == upstream.open_connections == 10
        for other in others:
            other.leave()
        upstream.wait_until_idle()
    expect_quiet(server)


def test_while_the_upstream_takes_nothing(server: Running) -> None:
    """By a reset: a plain end stands in line behind what nobody takes, and the kernel of the server does not see it."""
    with Receiver(pause_after=1) as upstream, server.connect() as client:
        size = 64 << 20
        client.ask({"url": upstream.url, "timeout": PATIENT}, method="PUT", fields={"Content-Length": str(size)})
        with sending(client, bytes(size)) as sent:
            assert upstream.paused.wait(10)
            eventually(sent.stands_still)
        client.reset()
        expect_quiet(server)
        upstream.resume()
        [receipt] = upstream.wait_for_receipts(1)
    assert not receipt.complete


def test_not_when_its_next_request_is_there_already(running: dict[str, Running]) -> None:
    """Pipelining (RFC 9112, section 9.3.2)."""
    server = running["gunicorn"]

    def script(peer: Peer) -> None:
        for request in peer.requests():
            if request.target == "/slow":
                peer.wait_step()
            peer.send(reply(200, request.target.encode(), [TEXT]))

    with ScriptedServer(script) as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, target="/slow")
        upstream.wait_for_connections(1)
        client.ask({"url": upstream.url}, target="/next")
        eventually(lambda: server.report()["watched"] == 1)
        upstream.step()
        assert client.answer()[1] == b"/slow"
        assert client.answer()[1] == b"/next"
    expect_quiet(server)


def test_the_session_goes_on(server: Running) -> None:
    """With one connection: what was given up is not used again, and its place is free."""
    with never_answers() as silent, AppServer(lambda _: Response(200, [TEXT], b"text")) as upstream:
        for _ in range(12):  # more than there are places
            with server.connect() as client:
                client.ask({"url": silent.url, "timeout": PATIENT})
                silent.wait_for_connections(1)
        silent.wait_until_idle()
        assert server.ask({"url": upstream.url})[1] == b"text"
    expect_quiet(server)


def test_many_at_once(running: dict[str, Running]) -> None:
    """More than the server has threads: those that still waited for one find nobody."""
    server = running["wsgiref"]
    with never_answers() as upstream:
        clients = [server.connect() for _ in range(200)]
        for client in clients:
            client.ask({"url": upstream.url, "timeout": PATIENT})
        upstream.wait_for_connections(10)
        eventually(lambda: server.report()["waiting"] == 190)
        for client in clients:
            client.leave()
        upstream.wait_until_idle()
        expect_quiet(server)


def test_where_the_socket_is_not_shown_the_next_piece_finds_out(running: dict[str, Running]) -> None:
    """waitress: the server's end of the upstream's answer is closed with the first piece that cannot be sent."""
    server = running["waitress"]
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, [TEXT, ("Transfer-Encoding", "chunked")]) + chunk(b"piece"))
        peer.wait_for(gone)
        while True:  # until it is closed
            peer.send(chunk(bytes(65536)))

    with ScriptedServer(script) as upstream, server.connect() as client:
        client.ask({"url": upstream.url, "timeout": PATIENT})
        client.head()
        client.leave()
        gone.set()
        upstream.wait_until_idle()
    expect_quiet(server)

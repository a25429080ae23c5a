"""An upstream that answers before the client has sent its body: does the client get to see that answer?"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from syncflow.testing import Peer, ScriptedServer, chunk, last_chunk, refused_port, reply
from syncflow.wsgi import incoming

from .sending import sending
from .servers import Running

SIZE = 32 << 20

# Without the one that hides the socket: there the answer may be lost with a reset.
SHOWING = ["gunicorn", "cheroot", "waitress", "werkzeug", "wsgiref"]
BEHIND_EACH = pytest.mark.parametrize("server", SHOWING, indirect=True)


def refusing() -> ScriptedServer:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply(413, b"too large", {"Content-Type": "text/plain", "Connection": "close"}))
        peer.half_close()  # or the kernel makes a reset of it, which may take the answer away before it is passed on
        peer.wait_closed()

    return ScriptedServer(script)


@BEHIND_EACH
@pytest.mark.parametrize("expect", ["", "100-continue"])
def test_curl_gets_it(server: Running, curl_required: None, tmp_path: Path, expect: str) -> None:
    path = tmp_path / "body"
    with path.open("wb") as file:
        file.truncate(SIZE)
    with refusing() as upstream:
        command = ["curl", "-sS", "-m", "20", "-T", str(path), "-H", f'X-Test: {{"url": "{upstream.url}"}}']
        command += ["-H", f"Expect: {expect}" if expect else "Expect:", "-w", "%{http_code}"]
        command += ["--expect100-timeout", "0.1", f"http://127.0.0.1:{server.address[1]}/"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "too large413", done.stderr


@BEHIND_EACH
@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_a_client_that_sends_it_all_and_reads_then(server: Running, connection: str) -> None:
    """No reset takes the answer away, nor stops the sending."""
    fields = {"Content-Length": str(SIZE), "Connection": connection}
    with refusing() as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields=fields)
        with sending(client, bytes(SIZE)) as sent:
            sent.thread.join(15)
            assert not sent.thread.is_alive()
            head, body = client.answer()
    assert (head.status, body) == (413, b"too large")
    assert not sent.failed
    assert sent.count == SIZE


@BEHIND_EACH
@pytest.mark.parametrize("expects", [False, True])
def test_so_does_what_is_answered_here(server: Running, expects: bool) -> None:
    """wsgiref is asked whether to go on, and only answers; the others say so before the handler is called."""
    fields = {"Content-Length": str(SIZE), "Connection": "close"}
    if expects:
        fields["Expect"] = "100-continue"
    with refused_port() as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields=fields)
        if expects and server.name != "wsgiref":
            assert client.head(informational=True).status == 100
        with sending(client, bytes(SIZE)) as sent:
            sent.thread.join(15)
            assert not sent.thread.is_alive()
            head, body = client.answer()
    assert (head.status, body) == (502, b"502 Bad Gateway\n")
    assert not sent.failed


@pytest.mark.parametrize("server", ["gunicorn", "cheroot"], indirect=True)
@pytest.mark.parametrize("answers", [True, False])
def test_so_does_what_is_no_stream_of_events(server: Running, answers: bool) -> None:
    fields = {"Content-Length": str(SIZE), "Connection": "close"}
    with refusing() if answers else refused_port() as upstream, server.connect() as client:
        client.ask({"url": upstream.url, "kind": "sse"}, method="POST", fields=fields)
        with sending(client, bytes(SIZE)) as sent:
            sent.thread.join(15)
            assert not sent.thread.is_alive()
            head, _ = client.answer()
    assert head.status == (413 if answers else 502)
    assert not sent.failed


@pytest.mark.parametrize("server", ["cheroot", "wsgiref"], indirect=True)
def test_a_client_that_pauses_is_not_waited_for(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the next piece that it sends: until then the handler waits for that. Then its answer is whole, and the
    server's thread is free. waitress collects a body first; werkzeug reads on before it closes what it has got, for as
    long as the client stays. For gunicorn see below, because its process is its own."""
    monkeypatch.setattr(incoming, "LINGER", 0.3)
    fields = {"Content-Length": str(SIZE), "Connection": "close"}
    with refusing() as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields=fields)
        client.send(bytes(10_000))
        while not select.select([client.sock], [], [], 0.05)[0]:
            client.send(bytes(2048))
        head, body = client.answer()
        assert (head.status, body) == (413, b"too large")
        assert client.piece() == b""


def test_nor_one_that_trickles(running: dict[str, Running], monkeypatch: pytest.MonkeyPatch) -> None:
    """cheroot reads a chunk whole, however long that takes. It does not look for another request in what is left."""
    monkeypatch.setattr(incoming, "LINGER", 0.3)
    fields = {"Transfer-Encoding": "chunked", "Connection": "keep-alive"}
    with refusing() as upstream, running["cheroot"].connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields=fields)
        client.send(chunk(bytes(2048)))
        while not select.select([client.sock], [], [], 0.05)[0]:
            client.send(chunk(bytes(2048)))
        head, body = client.answer()
        assert (head.status, body) == (413, b"too large")
        client.send(b"8000\r\n")
        for _ in range(100):
            if select.select([client.sock], [], [], 0.05)[0]:
                break
            client.send(b"x")
        else:
            pytest.fail("it was waited for")
        assert client.piece() == b""


class Waiting:
    """As what gunicorn gives: it waits for 1,024 bytes, if the body has so many."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb")

    def read(self, size: int) -> bytes:
        return self._file.read(max(size, 1024))

    def close(self) -> None:
        self._file.close()


def test_a_pause_in_the_middle_of_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the next request would begin, the server cannot know; so it is to close the connection."""
    monkeypatch.setattr(incoming, "LINGER", 0.2)
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.closing(Waiting(ours)) as file:
        theirs.send(bytes(10))
        with pytest.raises(ConnectionResetError):
            incoming.RequestBody(file, 5000, ours.fileno()).drop_rest()
        assert ours.fileno() != -1
        ours.send(b"the answer can still be sent")
        assert theirs.recv(100) == b"the answer can still be sent"


def test_what_is_no_body_is_not_looked_through_for_a_request() -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise ValueError("no chunk")

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            incoming.RequestBody(Broken(), None, ours.fileno()).drop_rest()


def test_without_a_thread_for_it_nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of the interpreter."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as file:
        theirs.send(bytes(10))
        with monkeypatch.context() as patched, pytest.raises(ConnectionResetError):
            patched.setattr(threading.Thread, "start", fail)
            incoming.RequestBody(file, 5000, ours.fileno()).drop_rest()


def forbidding() -> ScriptedServer:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply(403, b"forbidden", {"Content-Type": "text/plain", "Connection": "close"}))
        peer.half_close()
        peer.wait_closed()

    return ScriptedServer(script)


HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: front\r\n\r\n"


@pytest.mark.parametrize(("server", "pauses"), [("gunicorn", 0), ("cheroot", 0), ("cheroot", 1)], indirect=["server"])
def test_what_comes_behind_is_no_request(server: Running, pauses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But the one behind the end of the body, if that comes in time (CWE-444). A size is the server's own to see to."""
    monkeypatch.setattr(incoming, "LINGER", 0.3 if pauses else incoming.LINGER)
    with forbidding() as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields={"Transfer-Encoding": "chunked"})
        client.send(chunk(bytes(2048)))
        while not select.select([client.sock], [], [], 0.05)[0]:
            client.send(chunk(bytes(2048)))
        head, _ = client.answer()
        assert (head.status, head.get("Connection")) in [(403, None), (403, "keep-alive")]
        if pauses:
            assert client.piece() == b""
        else:
            client.send(chunk(HIDDEN) + last_chunk())
            assert client.report()["in_use"] == 0


def ending() -> ScriptedServer:
    """A stream of events that is not asked for its body."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply(200, b"data: 1\n\n", {"Content-Type": "text/event-stream", "Connection": "close"}))
        peer.half_close()
        peer.wait_closed()

    return ScriptedServer(script)


@pytest.mark.parametrize("server", ["gunicorn", "cheroot"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "method", "fields"),
    [
        ("sse", "POST", {}),
        ("sse", "OPTIONS", {"Max-Forwards": "0"}),
        ("proxy", "OPTIONS", {"Max-Forwards": "0"}),
        ("proxy", "TRACE", {}),
    ],
)
def test_nor_behind_other_answers(server: Running, kind: str, method: str, fields: dict[str, str]) -> None:
    fields = {"Transfer-Encoding": "chunked", **fields}
    with ending() as upstream, server.connect() as client:
        client.ask({"url": upstream.url, "kind": kind}, method=method, fields=fields)
        client.send(chunk(bytes(2048)))
        if kind == "sse" and method == "POST":
            while not select.select([client.sock], [], [], 0.05)[0]:
                client.send(chunk(bytes(2048)))
        client.send(chunk(HIDDEN) + last_chunk())
        client.answer()
        assert client.report()["in_use"] == 0


def test_the_servers_socket_blocks_as_before_whatever_the_default_is() -> None:
    """With a default timeout Python makes what it is given non-blocking, for the server's socket as well."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        socket.setdefaulttimeout(30)
        try:
            with incoming.Cut(mine.fileno(), 30):
                assert os.get_blocking(mine.fileno())
        finally:
            socket.setdefaulttimeout(None)

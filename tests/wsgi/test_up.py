"""`wsgi.proxy`, from the client to the upstream: as it comes, byte for byte, and never complete if it was not."""

from __future__ import annotations

import contextlib
import threading

import pytest

from syncflow.testing import (
    AppServer,
    Peer,
    Receiver,
    Response,
    ScriptedServer,
    chunk,
    eventually,
    last_chunk,
    pattern,
    pattern_sha256,
    reply,
)

from .sending import sending
from .servers import Running

TEXT = ("Content-Type", "text/plain")

# wsgiref leaves chunks to the application; waitress collects a body before it hands it on.
LENGTH = ["gunicorn", "cheroot", "werkzeug", "wsgiref", "wsgiref-validated"]
CHUNKED = ["gunicorn", "cheroot", "werkzeug"]
AS_IT_COMES = [*[(name, "length") for name in LENGTH], *[(name, "chunked") for name in CHUNKED]]
ALL = [*AS_IT_COMES, ("waitress", "length"), ("waitress", "chunked")]
FRAMINGS = pytest.mark.parametrize(("server", "framing"), ALL, indirect=["server"])
STREAMED = pytest.mark.parametrize(("server", "framing"), AS_IT_COMES, indirect=["server"])


def only(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", names, indirect=True)


def fields_for(framing: str, size: int) -> dict[str, str]:
    return {"Content-Length": str(size)} if framing == "length" else {"Transfer-Encoding": "chunked"}


def framed(framing: str, data: bytes) -> bytes:
    return data if framing == "length" else chunk(data)


@FRAMINGS
def test_a_body_goes_up_byte_for_byte(server: Running, framing: str) -> None:
    size, step = 10 << 20, 300_000
    with Receiver() as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields=fields_for(framing, size))
        for at in range(0, size, step):
            client.send(framed(framing, pattern(min(step, size - at), at)))
        if framing == "chunked":
            client.send(last_chunk())
        head, _ = client.answer()
        [receipt] = upstream.receipts
    assert head.status == 200
    assert receipt.sha256 == pattern_sha256(size)


@STREAMED
def test_a_body_goes_up_as_it_comes(server: Running, framing: str) -> None:
    """gunicorn and cheroot wait for 1 KiB."""

    def script(peer: Peer) -> None:
        request = peer.read_request(body=False)
        if framing == "length":
            assert request.headers["content-length"] == "3072"
        for _ in range(3):
            if framing == "length":
                assert peer.read_exactly(1024) == b"x" * 1024
            else:
                peer.expect(b"400\r\n" + b"x" * 1024 + b"\r\n")
            pieces.release()
        if framing == "chunked":
            peer.expect(b"0\r\n\r\n")
        peer.send(reply(200, b"", [TEXT]))

    pieces = threading.Semaphore(0)
    with ScriptedServer(script) as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields=fields_for(framing, 3072))
        for _ in range(3):
            client.send(framed(framing, b"x" * 1024))
            assert pieces.acquire(timeout=10)
        if framing == "chunked":
            client.send(last_chunk())
        assert client.answer()[0].status == 200


@only(*CHUNKED)
def test_small_chunks_are_not_kept_waiting(server: Running) -> None:
    """Six bytes for one: what the system has is no measure of what can be read."""

    came = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request(body=False)
        came.set()
        got = 0
        while got < 2048:
            line = b""
            while not line.endswith(b"\r\n"):
                line += peer.read_exactly(1)
            got += len(peer.read_exactly(int(line, 16)))
            peer.expect(b"\r\n")
        half.set()
        peer.send(reply(200, b"", [TEXT]))

    half = threading.Event()
    with ScriptedServer(script) as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields={"Transfer-Encoding": "chunked"})
        assert came.wait(10)
        client.send(chunk(b"x") * 4096)  # and then it waits
        assert half.wait(10)
        client.send(last_chunk())
        assert client.head().status == 200


@STREAMED
@pytest.mark.parametrize("reset", [False, True])
def test_what_breaks_off_is_never_complete_for_the_upstream(server: Running, framing: str, reset: bool) -> None:
    with Receiver() as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields=fields_for(framing, 1 << 20))
        client.send(framed(framing, bytes(100_000)))
        if framing == "chunked":
            client.send(b"1000\r\nno more")
        eventually(lambda: upstream.bytes_received > 50_000)
        if reset:
            client.reset()
        else:
            client.leave()
        [receipt] = upstream.wait_for_receipts(1)
    assert not receipt.complete


@only("gunicorn", "cheroot", "waitress")
@pytest.mark.parametrize("end", [b"", b"0", b"0\r\n", b"0\r\nX-Sum: 1\r\n"], ids=repr)
def test_chunks_that_end_in_their_end(server: Running, end: bytes) -> None:
    """The last chunk is not the end: that is the empty line behind it (RFC 9112, section 7.1). werkzeug, which is for
    development, sees it in the last chunk."""
    with Receiver() as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields=fields_for("chunked", 0))
        client.send(chunk(b"x" * 2048) + end)
        if server.name != "waitress":
            eventually(lambda: upstream.bytes_received >= 1024)
        client.leave()
        if server.name != "waitress":
            upstream.wait_for_receipts(1)
        else:
            eventually(lambda: server.report()["in_use"] == 0)
        assert not [receipt for receipt in upstream.receipts if receipt.complete]


@only("gunicorn", "cheroot")
def test_trailers_go_up(server: Running) -> None:
    with AppServer(lambda _: Response(200, [TEXT])) as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields={"Transfer-Encoding": "chunked", "Trailer": "X-Sum"})
        client.send(chunk(b"text") + b"0\r\nX-Sum: 1\r\nX-Two: caf\xe9\r\n\r\n")
        assert client.answer()[0].status == 200
        [request] = upstream.seen
    assert request.body == b"text"
    assert request.trailers == {"x-sum": "1", "x-two": "caf\xe9"}


@only("cheroot")
def test_trailers_that_may_not_be_do_not_go_up(server: Running) -> None:
    """gunicorn refuses them itself."""
    trailers = b"Content-Length: 1\r\nHost: evil\r\nAuthorization: x\r\nTransfer-Encoding: gzip\r\nX-Sum: 1\r\n"
    with AppServer(lambda _: Response(200, [TEXT])) as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields={"Transfer-Encoding": "chunked"})
        client.send(chunk(b"text") + b"0\r\n" + trailers + b"Connection: X-Hop\r\nX-Hop: 1\r\n\r\n")
        assert client.answer()[0].status == 200
        [request] = upstream.seen
    assert request.trailers == {"x-sum": "1"}


@only(*LENGTH)
def test_a_slow_upstream_holds_the_client_up(server: Running) -> None:
    with Receiver(pause_after=1) as upstream, server.connect() as client:
        size = 64 << 20
        client.ask({"url": upstream.url}, method="PUT", fields={"Content-Length": str(size)})
        with sending(client, bytes(size)) as sent:
            assert upstream.paused.wait(10)
            eventually(sent.stands_still)
            assert sent.count < 32 << 20
        upstream.resume()
        [receipt] = upstream.wait_for_receipts(1)
    assert not receipt.complete


@only("gunicorn", "cheroot", "waitress", "werkzeug")
def test_the_client_is_told_to_go_on(server: Running) -> None:
    """Expect is answered by the server, and is no business of the upstream's. HTTP/1.0 has no 100, and wsgiref no
    other."""
    with AppServer(lambda _: Response(200, [TEXT])) as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields={"Content-Length": "4", "Expect": "100-continue"})
        head = client.head(informational=True)
        assert head.status == 100
        client.send(b"text")
        assert client.answer()[0].status == 200
        [request] = upstream.seen
    assert request.body == b"text"
    assert "expect" not in request.headers


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\r\n"
TRICKS = {
    "underscore": (b"Transfer_Encoding: chunked\r\nContent-Length: 4", b"text"),
    "underscored length": (b"Content_Length: 100\r\nContent-Length: 4", b"text"),
    "both, chunks": (b"Content-Length: 4\r\nTransfer-Encoding: chunked", b"4\r\ntext\r\n0\r\n\r\n"),
    "both, no chunks": (b"Transfer-Encoding: chunked\r\nContent-Length: 4", b"text"),
    "identity": (b"Transfer-Encoding: identity\r\nContent-Length: 4", b"text"),
    "twice": (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", b"4\r\ntext\r\n0\r\n\r\n"),
    "two lengths": (b"Content-Length: 4\r\nContent-Length: 100", b"text"),
    "a list": (b"Content-Length: 4, 4", b"text"),
    "a sign": (b"Content-Length: +4", b"text"),
    "a space": (b"Transfer-Encoding : chunked\r\nContent-Length: 4", b"text"),
    "a tab": (b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 4", b"text"),
    "folded": (b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 4", b"text"),
    "connection": (b"Connection: Content-Length\r\nContent-Length: 4", b"text"),
    "negative chunk": (b"Transfer-Encoding: chunked", b"-1\r\ntext\r\n0\r\n\r\n"),
    "huge chunk": (b"Transfer-Encoding: chunked", b"ffffffffffffffffff\r\ntext\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_no_request_hides_in_another(server: Running, trick: str) -> None:
    """Whatever the server makes of it: what is behind it is never a request to the upstream (CWE-444)."""
    fields, body = TRICKS[trick]
    with AppServer(lambda _: Response(200, [TEXT])) as upstream, server.connect() as client:
        told = f'X-Test: {{"url": "{upstream.url}"}}'.encode()
        client.send(b"POST / HTTP/1.1\r\nHost: front\r\n" + told + b"\r\n" + fields + b"\r\n\r\n" + body + SMUGGLED)
        client.sock.settimeout(0.3)
        with contextlib.suppress(TimeoutError):  # it waits for the rest of a body
            while client.piece():
                pass
        assert "/smuggled" not in [request.target for request in upstream.seen]
        assert {request.body for request in upstream.seen} <= {b"text", b""}
        if trick == "connection":
            assert upstream.seen

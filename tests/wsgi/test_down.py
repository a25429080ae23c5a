"""`wsgi.proxy`, from the upstream to the client: as it comes, whole or visibly not, and nothing that is for one hop."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
from collections.abc import Iterator

import pytest

from syncflow.testing import (
    AppServer,
    Peer,
    Request,
    Response,
    ScriptedServer,
    chunk,
    eventually,
    last_chunk,
    pattern,
    pattern_sha256,
    reply,
    reply_head,
)

from .client import NotWhole
from .servers import NAMES, Running

# wsgiref.validate will not have an answer without one.
TEXT = ("Content-Type", "text/plain")

# Where HTTP can say that an answer is not whole: without a length that of wsgiref, which speaks HTTP/1.0, ends with its
# connection, whole or not.
SHOWN = [*[(name, "length") for name in NAMES], *[(n, "chunked") for n in NAMES if not n.startswith("wsgiref")]]


def answering(raw: bytes, *, close: bool = False) -> ScriptedServer:
    """An upstream that answers whatever it is asked with these bytes."""

    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(raw)
            if close:
                return

    return ScriptedServer(script)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_comes_byte_for_byte(server: Running, framing: str) -> None:
    size = 10 << 20
    step = 200_000

    def app(request: Request) -> Response:
        fields = [TEXT, ("Content-Length", str(size))] if framing == "length" else [TEXT]
        return Response(200, fields, (pattern(min(step, size - at), at) for at in range(0, size, step)))

    with AppServer(app) as upstream:
        head, body = server.ask({"url": upstream.url})
    assert head.status == 200
    assert head.get("Content-Length") == (str(size) if framing == "length" else None)
    assert hashlib.sha256(body).hexdigest() == pattern_sha256(size)


def test_pieces_come_as_they_are_sent(server: Running) -> None:
    """And the head before any of them."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, [TEXT, ("Transfer-Encoding", "chunked")]))
        for number in range(3):
            peer.wait_step()
            peer.send(chunk(b"piece %d" % number))
        peer.wait_step()
        peer.send(last_chunk())

    with ScriptedServer(script) as upstream, server.connect() as client:
        client.ask({"url": upstream.url})
        head = client.head()
        is_chunked = head.get("Transfer-Encoding") is not None
        for number in range(3):
            upstream.step()
            expected = b"piece %d" % number
            assert (client.chunk() if is_chunked else client.read(len(expected))) == expected
        upstream.step()
        assert (client.chunk() if is_chunked else client.piece()) == b""


@pytest.mark.parametrize(("server", "framing"), SHOWN, indirect=["server"])
@pytest.mark.parametrize("reset", [False, True])
def test_what_breaks_off_is_seen_to_be_broken(server: Running, framing: str, reset: bool) -> None:

    def script(peer: Peer) -> None:
        peer.read_request()
        framed = ("Content-Length", "100000") if framing == "length" else ("Transfer-Encoding", "chunked")
        half = b"x" * 50_000
        peer.send(reply_head(200, [TEXT, framed]) + (half if framing == "length" else chunk(half)))
        peer.wait_step()  # or the reset takes away what was sent
        if reset:
            peer.reset()

    with ScriptedServer(script) as upstream, server.connect() as client:
        client.ask({"url": upstream.url})
        head = client.head()
        upstream.step()
        with pytest.raises(NotWhole):
            client.body(head)


@pytest.mark.parametrize(
    ("method", "raw", "status", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 1000\r\n\r\n", 200, "1000"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n", 200, None),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: x\r\n\r\n", 304, "1000"),
    ],
)
def test_an_answer_without_a_body(server: Running, method: str, raw: bytes, status: int, length: str | None) -> None:
    with answering(raw) as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method=method, fields={"Connection": "close"})
        head = client.head()
        assert head.status == status
        if status != 304:  # of which cheroot and waitress strike it out
            assert head.get("Content-Length") == length
        rest = client.piece()
        # waitress ends what is none with a last chunk.
        assert rest == b"" or (server.name == "waitress" and rest == b"0\r\n\r\n")


def test_what_comes_before_the_answer_stays_here(server: Running) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    with answering(early + reply(200, b"text", [TEXT])) as upstream, server.connect() as client:
        client.ask({"url": upstream.url})
        head = client.head(informational=True)
        assert head.status == 200
        assert head.get("Link") is None
        assert client.body(head) == b"text"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_where_there_is_no_body_a_hook_makes_none(server: Running, method: str, status: int) -> None:
    """The client would take it for its next answer."""
    kind = "Content-Type: text/plain\r\nContent-Length: 4\r\n" if method == "HEAD" else ""
    raw = f"HTTP/1.1 {status} \r\n{kind}\r\n".encode()
    with answering(raw) as upstream, server.connect() as client:
        client.ask({"url": upstream.url, "transform": "preface"}, method=method)
        head = client.head()
        assert head.status == status
        if server.persists and head.get("Connection") != "close":
            assert client.report()["in_use"] == 0
        else:  # waitress ends what is none with a last chunk, and its connection
            assert client.piece() in (b"", b"0\r\n\r\n" if server.name == "waitress" else b"")


def test_codings_are_not_undone(server: Running) -> None:
    packed = gzip.compress(b"text" * 1000)
    with answering(reply(200, packed, [TEXT, ("Content-Encoding", "gzip")])) as upstream:
        head, body = server.ask({"url": upstream.url})
    assert head.get("Content-Encoding") == "gzip"
    assert head.get("Content-Length") == str(len(packed))
    assert body == packed


def test_the_head_goes_on(server: Running) -> None:
    raw = (
        b"HTTP/1.1 299 \r\nContent-Type: text/plain\r\nSet-Cookie: a=1\r\nX-Latin: caf\xe9\r\nset-cookie: b=2\r\n"
        b"Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n"
        b"Proxy-Authenticate: Basic\r\nTrailer: X-Sum\r\nServer: upstream/1\r\n"
        b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nVary: *\r\nContent-Length: 4\r\n\r\ntext"
    )
    with answering(raw) as upstream:
        head, body = server.ask({"url": upstream.url})
    assert (head.status, body) == (299, b"text")
    assert head.all("Set-Cookie") == ["a=1", "b=2"]
    assert head.get("X-Latin") == "caf\xe9"
    assert head.get("Vary") == "*"
    assert head.all("Content-Length") == ["4"]
    for name in ("X-Hop", "Keep-Alive", "Upgrade", "Proxy-Authenticate", "Trailer"):
        assert head.get(name) is None, name
    [date] = head.all("Date")
    assert "1970" not in date
    [name] = head.all("Server")
    assert name != "upstream/1"


@pytest.mark.parametrize(
    ("fields", "body", "length"),
    [
        ("Content-Length: 4\r\nContent-Length: 4", b"text", "4"),
        ("Content-Length: 4, 4", b"text", "4"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1", b"4\r\ntext\r\n0\r\n\r\n", None),
    ],
)
def test_of_lengths_one_that_counts(server: Running, fields: str, body: bytes, length: str | None) -> None:
    """What two readers would read in two ways is not passed on (RFC 9112, section 6.3; CWE-444)."""
    with answering(f"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n{fields}\r\n\r\n".encode() + body) as upstream:
        head, got = server.ask({"url": upstream.url})
    assert got == b"text"
    assert head.all("Content-Length") == ([] if length is None else [length])


def test_two_lengths_are_no_answer(server: Running) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\ntext"
    with answering(raw) as upstream:
        assert server.ask({"url": upstream.url})[0].status == 502
        head, _ = server.ask({"url": upstream.url}, method="HEAD")  # there is no body to it
    assert head.status == 200
    assert head.all("Content-Length") in ([], ["0"])


def test_a_redirect_goes_on(server: Running) -> None:
    raw = reply(302, b"there", [TEXT, ("Location", "http://elsewhere.example/")])
    with answering(raw) as upstream:
        head, body = server.ask({"url": upstream.url})
        assert upstream.connections == 1
    assert (head.status, head.get("Location"), body) == (302, "http://elsewhere.example/", b"there")


def test_an_answer_that_ends_with_its_connection(server: Running) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\ntext", close=True) as upstream:
        head, body = server.ask({"url": upstream.url})
    assert (head.status, body) == (200, b"text")


def endless(sent: list[int]) -> Iterator[bytes]:
    piece = bytes(65536)
    while True:
        yield piece
        sent[0] += len(piece)


def test_a_client_that_does_not_read_holds_the_upstream_up(server: Running) -> None:
    """What is on its way is what sockets and buffers hold, and no more."""
    sent = [0]
    with AppServer(lambda _: Response(200, [TEXT], endless(sent))) as upstream:
        with server.connect(receive_buffer=65536) as client:
            client.ask({"url": upstream.url})
            client.head()
            before = -1

            def stands_still() -> bool:
                nonlocal before
                is_still = 0 < sent[0] == before
                before = sent[0]
                return is_still

            with contextlib.suppress(AssertionError):
                eventually(lambda: stands_still() and stands_still(), timeout=3)
            assert sent[0] < 32 << 20
            client.leave()
        upstream.wait_until_idle()

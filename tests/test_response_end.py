"""Where a response ends, and what it is when it does not: the rules of RFC 9112, section 6.3, over real sockets."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncflow import ChunkedEncodingError, ConnectionError, ProtocolError, Response, Session
from syncflow.testing import (
    AppServer,
    Peer,
    ScriptedServer,
    chunk,
    endless_head,
    last_chunk,
    reply,
    reply_head,
    truncated,
    unasked_bytes,
)

CHUNKED = {"Transfer-Encoding": "chunked"}
READERS: dict[str, Callable[[Response], bytes]] = {
    "content": lambda response: response.content,
    "iter_content": lambda response: b"".join(response.iter_content(7)),
    "raw": lambda response: response.raw.read(),
}


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=10) as session:
        yield session


def sends(*pieces: bytes, then: Callable[[Peer], object] | None = None, **options: Any) -> ScriptedServer:
    """Answers every request of a connection with the same bytes; or one request, and then does something."""

    def script(peer: Peer) -> None:
        for _ in peer.requests():
            for piece in pieces:
                peer.send(piece)
            if then is not None:
                then(peer)
                return

    return ScriptedServer(script, **options)


# ----------------------------------------------------------------------------------- complete responses


@pytest.mark.parametrize(
    ("method", "answer", "body", "reused"),
    [
        ("GET", reply(200, b"abc"), b"abc", True),
        ("GET", reply(200, b""), b"", True),
        ("GET", reply_head(200, CHUNKED) + chunk(b"ab") + chunk(b"c") + last_chunk(), b"abc", True),
        ("GET", reply_head(200, CHUNKED) + last_chunk([("X-Sum", "1")]), b"", True),
        ("GET", reply_head(204), b"", True),
        ("GET", reply_head(204, {"Content-Length": "5"}), b"", True),
        ("GET", reply_head(304, {"Content-Length": "5"}), b"", True),
        ("GET", reply_head(304, CHUNKED), b"", True),
        ("HEAD", reply_head(200, {"Content-Length": "5"}), b"", True),
        ("HEAD", reply_head(200, CHUNKED), b"", True),
        ("HEAD", reply_head(200), b"", True),
        ("HEAD", reply_head(404, {"Content-Length": "5"}), b"", True),
        ("GET", reply(200, b"abc", {"Connection": "close"}), b"abc", False),
        ("GET", reply(200, b"abc", {"connection": "x, CLOSE"}), b"abc", False),
        ("GET", reply(200, b"abc").replace(b"/1.1", b"/1.0"), b"abc", False),
        ("GET", reply(200, b"abc", {"Connection": "keep-alive"}).replace(b"/1.1", b"/1.0"), b"abc", True),
        ("GET", reply_head(200, {**CHUNKED, "Content-Length": "9"}) + chunk(b"abc") + last_chunk(), b"abc", False),
        ("GET", reply(200, b"abc").replace(b"\r\n", b"\n"), b"abc", True),
        ("GET", b"\r\n" + reply(200, b"abc"), b"abc", True),
        ("GET", reply_head(200, {"X-Folded": "a\r\n b", "Content-Length": "3"}) + b"abc", b"abc", True),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_response_ends_and_its_connection_is_used_again_or_not(
    session: Session, method: str, answer: bytes, body: bytes, reused: bool, stream: bool
) -> None:
    with sends(answer) as server:
        for _ in range(2):
            assert session.request(method, server.url, stream=stream).content == body
        assert server.connections == (1 if reused else 2)


@pytest.mark.parametrize("answer", [reply_head(200), b"HTTP/1.0 200 OK\r\n\r\n", reply_head(200, {"Connection": "x"})])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("tls", [False, True])
def test_a_body_that_ends_with_the_connection(
    session: Session, server_tls: ssl.SSLContext, ca_file: Path, answer: bytes, reader: str, tls: bool
) -> None:
    context = server_tls if tls else None
    with sends(answer, b"abc" * 100, then=lambda peer: peer.close(), ssl_context=context) as server:
        for _ in range(2):
            response = session.get(server.url, stream=True, verify=ca_file)
            assert READERS[reader](response) == b"abc" * 100
        assert server.connections == 2


@pytest.mark.parametrize("cut", range(1, len(reply(200, b"abc")) - 1, 7))
def test_a_response_may_come_in_two_pieces(session: Session, cut: int) -> None:
    answer = reply(200, b"abc")

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer[:cut])
        peer.wait_step()
        peer.send(answer[cut:])

    with ScriptedServer(script) as server:
        server.step()
        assert session.get(server.url).content == b"abc"


# ----------------------------------------------------------------------------------- before the final response


@pytest.mark.parametrize(
    "interim",
    [
        reply_head(100),
        reply_head(102),
        reply_head(103, [("Link", "</a.css>; rel=preload"), ("Link", "</b.css>")]),
        reply_head(199),
        reply_head(100) + reply_head(102) + reply_head(103),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_an_informational_response_is_not_the_answer(session: Session, interim: bytes, apart: bool) -> None:
    """RFC 9110, section 15.2: also one that was not asked for."""

    def script(peer: Peer) -> None:
        for _ in peer.requests():
            if apart:
                peer.send(interim)
                peer.wait_step()
                peer.send(reply(200, b"abc"))
            else:
                peer.send(interim + reply(200, b"abc"))

    with ScriptedServer(script) as server:
        for _ in range(2):
            server.step()
            response = session.post(server.url, data=b"body")
            assert (response.status_code, response.content) == (200, b"abc")
            assert "link" not in response.headers
        assert server.connections == 1


# ----------------------------------------------------------------------------------- incomplete responses


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("missing", [1, 500, 1000])
@pytest.mark.parametrize("tls", [False, True])
def test_a_body_that_is_cut_is_an_error(
    session: Session,
    server_tls: ssl.SSLContext,
    ca_file: Path,
    reader: str,
    framing: Any,
    missing: int,
    tls: bool,
) -> None:
    with truncated(missing=missing, framing=framing, ssl_context=server_tls if tls else None) as server:
        with session.get(server.url, stream=True, verify=ca_file) as response:
            with pytest.raises(ChunkedEncodingError) as caught:
                READERS[reader](response)
        assert caught.value.response is response
        assert caught.value.bytes_received == 1000 - missing
        with pytest.raises(ChunkedEncodingError):
            session.get(server.url, verify=ca_file)


def test_what_came_before_the_cut_is_given(session: Session) -> None:
    with truncated(b"abcdef", missing=2) as server, session.get(server.url, stream=True) as response:
        pieces = response.iter_content(3)
        assert next(pieces) + next(pieces) == b"abcd"
        with pytest.raises(ChunkedEncodingError, match="4 of 6 bytes"):
            next(pieces)


@pytest.mark.parametrize(
    "body",
    [
        chunk(b"abc"),  # no last chunk
        chunk(b"abc") + b"0\r\n",  # no end of the trailers
        chunk(b"abc") + b"0\r\nX-Sum: 6\r\n",
        chunk(b"abc")[:-1],
        b"",
    ],
)
def test_a_chunked_body_that_is_cut_is_an_error(session: Session, body: bytes) -> None:
    with sends(reply_head(200, CHUNKED), body, then=lambda peer: peer.half_close()) as server:
        with pytest.raises(ChunkedEncodingError):
            session.get(server.url)


def test_a_reset_in_the_body_is_an_error(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200) + b"abc")  # what a FIN would end well
        peer.wait_step()
        peer.reset()

    with ScriptedServer(script) as server, session.get(server.url, stream=True) as response:
        pieces = response.iter_content(3)
        assert next(pieces) == b"abc"
        server.step()
        with pytest.raises(ChunkedEncodingError) as caught:
            next(pieces)
        assert isinstance(caught.value.__cause__, ConnectionResetError)


@pytest.mark.parametrize("reader", READERS)
def test_tls_that_is_cut_is_no_end(session: Session, server_tls: ssl.SSLContext, ca_file: Path, reader: str) -> None:
    """An attacker can cut a connection, but cannot say TLS's own word for its end (RFC 8446, section 6.1)."""

    def then(peer: Peer) -> None:
        peer.half_close(close_notify=False)

    with sends(reply_head(200), b"abc", then=then, ssl_context=server_tls) as server:
        with session.get(server.url, stream=True, verify=ca_file) as response:
            with pytest.raises(ChunkedEncodingError) as caught:
                READERS[reader](response)
        assert isinstance(caught.value.__cause__, ssl.SSLError)
        with pytest.raises(ChunkedEncodingError):
            session.get(server.url, verify=ca_file)


@pytest.mark.parametrize("answer", [reply(200, b"abc"), reply_head(200, CHUNKED) + chunk(b"abc") + last_chunk()])
def test_tls_that_is_cut_behind_a_complete_response_is_an_end(
    session: Session, server_tls: ssl.SSLContext, ca_file: Path, answer: bytes
) -> None:
    def then(peer: Peer) -> None:
        peer.half_close(close_notify=False)

    with sends(answer, then=then, ssl_context=server_tls) as server:
        for _ in range(2):
            assert session.get(server.url, verify=ca_file).content == b"abc"


@pytest.mark.parametrize("answer", [b"", b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("how", ["half_close", "reset"])
def test_no_answer_is_an_error(session: Session, answer: bytes, how: str) -> None:
    with sends(answer, then=lambda peer: getattr(peer, how)()) as server:
        with pytest.raises(ConnectionError, match="without an answer"):
            session.get(server.url)
        assert server.connections == 1


# ----------------------------------------------------------------------------------- what is not HTTP


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"<html>hello</html>\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x16",  # a TLS alert
        reply_head(200, {"Content-Length": "-1"}),
        reply_head(200, {"Content-Length": "1x"}),
        reply_head(200, [("Content-Length", "3"), ("Content-Length", "4")]) + b"abcd",
        reply_head(200, {"X-Nul": "a\0b"}),
        reply_head(200, {"X-Bare": "a\rb"}),
        reply_head(200, {"Bad Name": "a"}),
        reply_head(200, CHUNKED) + b"xyz\r\n",
        reply_head(200, CHUNKED) + b"3\r\nabcdef",
        reply_head(200, CHUNKED) + b"-3\r\nabc\r\n",
        reply_head(200, {"Transfer-Encoding": "chunked, chunked"}),
    ],
)
def test_what_could_be_read_in_two_ways_is_an_error(session: Session, answer: bytes) -> None:
    with sends(answer, then=lambda peer: peer.wait_closed()) as server:
        with pytest.raises(ProtocolError):
            session.get(server.url)
        assert server.connections == 1


@pytest.mark.parametrize("kind", ["fields", "line", "informational"])
def test_a_head_without_end_is_an_error(session: Session, kind: Any) -> None:
    with endless_head(kind) as server:
        with pytest.raises(ProtocolError):
            session.get(server.url)


# ----------------------------------------------------------------------------------- what nobody asked for


def test_bytes_behind_the_response_end_the_connection(session: Session) -> None:
    with unasked_bytes() as server:
        for count in (1, 2):
            assert session.get(server.url).content == b"ok"
            server.wait_until_idle()
            assert server.connections == count


def test_bytes_on_an_idle_connection_end_it(session: Session) -> None:
    with unasked_bytes(stepped=True) as server:
        for count in (1, 2):
            assert session.get(server.url).content == b"ok"
            server.step()
            server.wait_until_idle()  # the client has seen them, and closed
            assert server.connections == count


def test_a_body_where_none_may_be_ends_the_connection(session: Session) -> None:
    with AppServer() as _, sends(reply_head(304) + b"body", then=lambda peer: peer.wait_closed()) as server:
        for _ in range(2):
            assert session.get(server.url).content == b""
        assert server.connections == 2

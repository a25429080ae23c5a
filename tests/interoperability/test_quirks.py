"""What single servers do differently, seen on the wire and by the client: the rows of docs/interoperability.md."""

from __future__ import annotations

import hashlib

import pytest

from syncflow import Session
from syncflow.testing import pattern, pattern_pieces, pattern_sha256

from .behaviour import BEHAVIOUR, CONTINUE, EARLY_CHUNKED, EARLY_SIZED, UNLESS_REFUSED
from .probing import after_refusal, ask, put_head
from .selection import EACH, on
from .servers import BIG, SERVERS, Running

EXPECT = "Expect: 100-continue"
SENDS_A_BODY_TO_HEAD = ("waitress", "cheroot")


@EACH
@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_after_an_early_413(server: Running, chunked: bool) -> None:
    column = EARLY_CHUNKED if chunked else EARLY_SIZED
    assert after_refusal(server.port, chunked=chunked) == BEHAVIOUR[server.name][column]


@EACH
def test_continue_comes_before_the_body(server: Running) -> None:
    assert ask(server.port, put_head("/upload", "Content-Length: 5", EXPECT)).startswith(b"HTTP/1.1 100 ")


@EACH
def test_continue_to_what_is_refused(server: Running) -> None:
    unless_refused = BEHAVIOUR[server.name][CONTINUE] == UNLESS_REFUSED
    answer = ask(server.port, put_head("/limited", f"Content-Length: {1 << 40}", EXPECT))
    assert answer.startswith(b"HTTP/1.1 413 " if unless_refused else b"HTTP/1.1 100 ")


# ------------------------------------------------------------------------------------- servers of files


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
@on("nginx", "Apache httpd", "lighttpd")
def test_webdav(session: Session, server: Running, chunked: bool) -> None:
    """Received by the server itself, and not by an application behind it."""
    assert server.files is not None
    path = server.files / f"{chunked}"
    data = pattern_pieces(BIG) if chunked else pattern(BIG)
    response = session.put(f"{server.url}/dav/{path.name}", data=data)
    assert response.status_code in (201, 204)
    assert response.request_complete
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pattern_sha256(BIG)


# ------------------------------------------------------------------------------------- Apache


@on("Apache httpd")
def test_apache_passes_an_early_answer_on_when_the_body_is_complete(session: Session, server: Running) -> None:
    """mod_proxy_http sends first and reads then: an upload that has no end gets no answer. Its own limit is not
    asked."""
    response = session.put(f"{server.url}/late", data=pattern_pieces(BIG))
    assert (response.status_code, response.headers["Server"]) == (413, "uvicorn")
    assert response.request_complete


@on("Apache httpd")
def test_apache_answers_500_where_the_application_refuses_to_continue(session: Session, server: Running) -> None:
    response = session.put(f"{server.url}/late", data=pattern(BIG), headers={"Expect": "100-continue"})
    assert response.status_code == 500
    assert not response.request_complete


# ------------------------------------------------------------------------------------- answers


@on(*SENDS_A_BODY_TO_HEAD)
def test_a_body_in_answer_to_head(session: Session, server: Running) -> None:
    """They send what the application gives. The client takes it for nothing, and the connection is not used again."""
    head = b"HEAD /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert ask(server.port, head, until=b"hello\n").endswith(b"\r\n\r\nhello\n")
    response = session.head(f"{server.url}/hello")
    assert (response.status_code, response.content) == (200, b"")


@on(*(name for name in SERVERS if name not in SENDS_A_BODY_TO_HEAD))
def test_no_body_in_answer_to_head(session: Session, server: Running) -> None:
    for _ in range(3):
        response = session.head(f"{server.url}/hello")
        assert (response.status_code, response.content) == (200, b"")
    assert session.stats().opened == 1


@on("hypercorn")
def test_hypercorn_gives_no_reason(session: Session, server: Running) -> None:
    """RFC 9112, section 4: the space stays, as it does here, and nothing follows it."""
    assert ask(server.port, b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200 \r\n")
    assert session.get(f"{server.url}/hello").reason == ""


@on("Apache httpd", "Node http")
def test_who_says_how_long_a_connection_is_kept(session: Session, server: Running) -> None:
    assert "timeout=5" in session.get(f"{server.url}/hello").headers["Keep-Alive"]


@on("HAProxy")
def test_haproxy_packs_also_what_gets_larger_by_it(session: Session, server: Running) -> None:
    response = session.get(f"{server.url}/hello")
    assert response.headers["Content-Encoding"] == "gzip"
    assert "Content-Length" not in response.headers
    assert response.content == b"hello\n"

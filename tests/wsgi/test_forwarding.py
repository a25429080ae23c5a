"""Which URL and which header fields go on to the upstream, and who is said to have asked."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncflow import InvalidURL, MissingSchema, Session, wsgi
from syncflow.testing import AppServer, Request, Response

from .calling import call, environ_of

NewSession = Callable[..., Session]


@pytest.fixture
def session(new_session: NewSession) -> Session:
    return new_session()


@pytest.fixture
def upstream() -> Iterator[AppServer]:
    with AppServer(lambda _: Response()) as server:
        yield server


def seen(session: Session, upstream: AppServer, url: str | None = None, **request: Any) -> Request:
    """What the upstream has got."""
    settings = request.pop("settings", None)
    answer = call(session, upstream.url if url is None else url, settings=settings, **request)
    assert answer.code == 200, answer
    return upstream.seen[-1]


# ---------------------------------------------------------------- the URL


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ({"RAW_URI": "/a%2Fb/c?x=%2F&y"}, "/a%2Fb/c?x=%2F&y"),
        ({"REQUEST_URI": "/a%2Fb"}, "/a%2Fb"),
        ({"RAW_URI": "http://elsewhere.example/p?q=1"}, "/p?q=1"),
        ({"RAW_URI": "http://elsewhere.example"}, "/"),
        ({"RAW_URI": "*", "PATH_INFO": "*"}, "/"),
        ({"RAW_URI": "http://elsewhere.example?q"}, "/?q"),
        ({"RAW_URI": "//evil.example/p"}, "//evil.example/p"),
        ({"RAW_URI": "/a/../../b"}, "/b"),
        ({"RAW_URI": "/a/%2e%2e/%2E./b"}, "/b"),
        ({"RAW_URI": "@evil.example/"}, "/@evil.example/"),
        ({"RAW_URI": ":80@evil.example/"}, "/:80@evil.example/"),
        ({"RAW_URI": ".evil.example/"}, "/.evil.example/"),
        ({"RAW_URI": "/p#f?q"}, "/p%23f?q"),
        ({"RAW_URI": "/\\evil.example/"}, "/%5Cevil.example/"),
        ({"RAW_URI": "/\xc3\xa4?\xc3\xb6"}, "/%C3%A4?%C3%B6"),
        ({"path": "/a b/\xc3\xa4%#?"}, "/a%20b/%C3%A4%25%23%3F"),
        ({"path": ""}, "/"),
        ({"path": "//evil.example/", "query": "a=b"}, "//evil.example/?a=b"),
        ({"path": "/c", "SCRIPT_NAME": "/mounted"}, "/mounted/c"),
        ({"path": "/c", "query": "\xc3\xa4#x"}, "/c?%C3%A4%23x"),
    ],
)
def test_a_bare_url_gets_the_path_and_query_of_the_client(
    session: Session, upstream: AppServer, asked: dict[str, Any], target: str
) -> None:
    request = seen(session, upstream, **asked)
    assert request.target == target
    assert request.headers["host"] == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize(
    ("url", "query", "target"),
    [
        ("/fixed", "", "/fixed"),
        ("/fixed", "a=%26&b#c", "/fixed?a=%26&b%23c"),
        ("/fixed?own=1", "a=b", "/fixed?own=1"),
        ("/", "a=b", "/?a=b"),
        ("?own", "a=b", "/?own"),
        ("/fixed", "\xc3\xa4", "/fixed?%C3%A4"),
    ],
)
def test_a_url_with_a_path_is_the_resource(
    session: Session, upstream: AppServer, url: str, query: str, target: str
) -> None:
    assert seen(session, upstream, upstream.url + url, path="/other", query=query).target == target


def test_a_base_url_of_the_session(new_session: NewSession, upstream: AppServer) -> None:
    with new_session(base_url=f"{upstream.url}/api/") as session:
        assert seen(session, upstream, "items", query="a=b").target == "/api/items?a=b"


def test_a_unix_socket(session: Session, tmp_path: Path) -> None:
    got: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            got.append(self.rfile.readline())
            while self.rfile.readline() != b"\r\n":
                pass
            self.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    path = tmp_path / "socket"
    with socketserver.UnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        quoted = str(path).replace("/", "%2F")
        answer = call(session, f"http+unix://{quoted}", RAW_URI="/a%2Fb")
        thread.join()
    assert answer.code == 204
    assert got == [b"GET /a%2Fb HTTP/1.1\r\n"]


@pytest.mark.parametrize("raw", ["http://[evil/", "/\x00", "/a\tb", "/a\r\nX: y"])
def test_a_target_that_cannot_be_read_is_refused(session: Session, upstream: AppServer, raw: str) -> None:
    assert call(session, upstream.url, RAW_URI=raw).code == 400
    assert upstream.connections == 0


@pytest.mark.parametrize(
    ("url", "error"), [("backend/path", MissingSchema), ("http://", InvalidURL), ("http://a b/", InvalidURL)]
)
def test_a_url_of_the_programs_that_is_wrong_is_no_fault_of_the_client(
    session: Session, url: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        call(session, url)


def test_another_host_can_be_told(session: Session, upstream: AppServer) -> None:
    assert seen(session, upstream, settings={"host": "front.example"}).headers["host"] == "front.example"


# ---------------------------------------------------------------- header fields


def test_fields_go_on(session: Session, upstream: AppServer) -> None:
    request = seen(
        session,
        upstream,
        method="POST",
        body=b"text",
        HTTP_X_SOMETHING="a, b",
        HTTP_COOKIE="a=b; c=d",
        HTTP_AUTHORIZATION="Basic xyz",
        HTTP_ACCEPT_ENCODING="gzip, br",
        HTTP_X_LATIN="caf\xe9",
        CONTENT_TYPE="text/plain; charset=utf-8",
    )
    assert request.headers["x-something"] == "a, b"
    assert request.headers["cookie"] == "a=b; c=d"
    assert request.headers["authorization"] == "Basic xyz"
    assert request.headers["accept-encoding"] == "gzip, br"
    assert request.headers["x-latin"] == "caf\xe9"
    assert request.headers["content-type"] == "text/plain; charset=utf-8"
    assert request.headers["content-length"] == "4"
    assert request.body == b"text"


def test_only_these_are_sent_where_the_client_has_sent_none(session: Session, upstream: AppServer) -> None:
    """Nothing of the session's: no User-Agent, no Accept."""
    names = [name.lower() for name, _ in seen(session, upstream).fields]
    expected = ["forwarded", "host", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]
    assert sorted(names) == expected


def test_fields_for_one_hop_do_not_go_on(session: Session, upstream: AppServer) -> None:
    request = seen(
        session,
        upstream,
        HTTP_CONNECTION="X-Hop , keep-alive,close",
        HTTP_X_HOP="1",
        HTTP_KEEP_ALIVE="5",
        HTTP_PROXY_AUTHORIZATION="Basic secret",
        HTTP_PROXY_CONNECTION="keep-alive",
        HTTP_TE="trailers",
        HTTP_TRAILER="X-Sum",
        HTTP_UPGRADE="websocket",
        HTTP_HTTP2_SETTINGS="AAA",
        HTTP_PROXY="http://evil.example",
        HTTP_EXPECT="100-continue",
        HTTP_X_STAYS="1",
    )
    names = {name.lower() for name, _ in request.fields}
    own = {"forwarded", "host", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}
    assert names == own | {"x-stays"}


def test_a_client_cannot_have_our_own_words_removed(session: Session, upstream: AppServer) -> None:
    request = seen(
        session, upstream, HTTP_CONNECTION="X-Forwarded-For, Forwarded, Via, X-Forwarded-Host", HTTP_X_FORWARDED_FOR="x"
    )
    assert request.headers["x-forwarded-for"] == "192.0.2.7"
    assert request.headers["forwarded"] == "for=192.0.2.7;host=front;proto=http"
    assert request.headers["via"] == "1.1 syncflow"
    assert request.headers["x-forwarded-host"] == "front"


def test_nor_what_frames_the_body(session: Session, upstream: AppServer) -> None:
    request = seen(
        session,
        upstream,
        method="POST",
        body=b"text",
        HTTP_CONNECTION="Content-Length, Host, Content-Type",
        CONTENT_TYPE="a/b",
    )
    assert request.body == b"text"
    assert request.headers["host"] == f"127.0.0.1:{upstream.port}"
    assert "content-type" not in request.headers


def test_who_has_asked(session: Session, upstream: AppServer) -> None:
    request = seen(
        session,
        upstream,
        HTTP_FORWARDED="for=198.51.100.1",
        HTTP_X_FORWARDED_FOR="198.51.100.1",
        HTTP_X_FORWARDED_HOST="evil.example",
        HTTP_X_FORWARDED_PROTO="gopher",
        HTTP_VIA="1.0 fred",
        HTTP_HOST="front:8080",
        REMOTE_ADDR="2001:db8::1",
        SERVER_PROTOCOL="HTTP/1.0",
        **{"wsgi.url_scheme": "https"},
    )
    assert request.headers["forwarded"] == ('for=198.51.100.1, for="[2001:db8::1]";host="front:8080";proto=https')
    assert request.headers["x-forwarded-for"] == "198.51.100.1, 2001:db8::1"
    assert request.headers["x-forwarded-host"] == "front:8080"
    assert request.headers["x-forwarded-proto"] == "https"
    assert request.headers["via"] == "1.0 fred, 1.0 syncflow"


@pytest.mark.parametrize("address", [None, ""])
def test_nobody_knows_who(session: Session, upstream: AppServer, address: str | None) -> None:
    """A Unix socket; and HTTP/1.0 without a Host, which cannot leave the client's own word standing."""
    request = seen(session, upstream, REMOTE_ADDR=address, HTTP_HOST=None, HTTP_X_FORWARDED_HOST="evil.example")
    assert request.headers["forwarded"] == "for=unknown;proto=http"
    assert request.headers["x-forwarded-for"] == "unknown"
    assert "x-forwarded-host" not in request.headers


def test_a_strange_host_stays_one_value(session: Session, upstream: AppServer) -> None:
    request = seen(session, upstream, HTTP_HOST='a";for=evil, for=b\\')
    assert request.headers["forwarded"] == 'for=192.0.2.7;host="a\\";for=evil, for=b\\\\";proto=http'


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b"])
def test_a_field_cannot_add_a_line(session: Session, upstream: AppServer, value: str) -> None:
    """wsgiref hands on a folded line as it came."""
    assert call(session, upstream.url, HTTP_X_ODD=value).code == 400
    assert upstream.connections == 0


def test_the_method_goes_on_as_it_is(session: Session, upstream: AppServer) -> None:
    """It is case-sensitive (RFC 9110, section 9.1): what guards the front must not be shown another one."""
    assert seen(session, upstream, method="Get").method == "Get"
    assert seen(session, upstream, method="PURGE").method == "PURGE"


@pytest.mark.parametrize("method", ["G ET", "", "GET\r\n", "\u017fET"])
def test_what_is_no_method_is_refused(session: Session, upstream: AppServer, method: str) -> None:
    assert call(session, upstream.url, method=method).code == 400
    assert upstream.connections == 0


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "trace"])
def test_what_is_for_this_server_does_not_go_on(session: Session, upstream: AppServer, method: str) -> None:
    assert call(session, upstream.url, method=method).code == 501
    assert upstream.connections == 0


def test_max_forwards(session: Session, upstream: AppServer) -> None:
    assert seen(session, upstream, method="OPTIONS", HTTP_MAX_FORWARDS="2").headers["max-forwards"] == "1"
    assert seen(session, upstream, method="GET", HTTP_MAX_FORWARDS="2").headers["max-forwards"] == "2"
    before = upstream.requests
    assert call(session, upstream.url, method="OPTIONS", HTTP_MAX_FORWARDS="0").code == 200
    assert upstream.requests == before
    # More digits than Python makes a number of.
    assert call(session, upstream.url, method="OPTIONS", HTTP_MAX_FORWARDS="9" * 5000).code in (200, 400)


# ---------------------------------------------------------------- the length of the body


@pytest.mark.parametrize("length", ["1_0", "+4", "-4", " 4x", "4, 4", "0x4", "٤", "4.0", "9" * 5000, "4\n5"])
def test_what_is_no_length_is_refused(session: Session, upstream: AppServer, length: str) -> None:
    """Two readers of "1_0" would see two bodies (CWE-444)."""
    assert call(session, upstream.url, method="POST", body=b"text" * 5, CONTENT_LENGTH=length).code == 400
    assert upstream.connections == 0


def test_no_body_and_an_empty_one(session: Session, upstream: AppServer) -> None:
    assert "content-length" not in seen(session, upstream, CONTENT_LENGTH="").headers
    assert seen(session, upstream, CONTENT_LENGTH="0").headers["content-length"] == "0"
    assert seen(session, upstream, method="POST").headers["content-length"] == "0"


def test_chunks_win_over_a_length(session: Session, upstream: AppServer) -> None:
    """RFC 9112, section 6.3: and only one of them goes on."""
    request = seen(
        session,
        upstream,
        method="POST",
        body=b"all of it",
        CONTENT_LENGTH="3",
        HTTP_TRANSFER_ENCODING="Chunked",
        **{"wsgi.input_terminated": True},
    )
    assert request.body == b"all of it"
    assert request.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in request.headers


def test_chunks_that_the_server_leaves_alone_are_refused(session: Session, upstream: AppServer) -> None:
    assert call(session, upstream.url, method="POST", HTTP_TRANSFER_ENCODING="chunked").code == 411
    assert upstream.connections == 0


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked, identity", "gzip", "xchunked", "identity"])
def test_a_coding_that_is_not_undone_is_refused(session: Session, upstream: AppServer, coding: str) -> None:
    """What is not known to be plain chunks would go on as another body than the client has sent."""
    answer = call(
        session,
        upstream.url,
        method="POST",
        body=b"text",
        HTTP_TRANSFER_ENCODING=coding,
        **{"wsgi.input_terminated": True},
    )
    assert answer.code == 501
    assert upstream.connections == 0


def test_a_body_that_is_read_as_it_is_announced(session: Session, upstream: AppServer) -> None:
    """What lies behind it is the next request."""
    assert seen(session, upstream, method="POST", body=b"textGET /next", CONTENT_LENGTH="4").body == b"text"


def test_the_environ_is_only_read(session: Session, upstream: AppServer) -> None:
    environ = environ_of(session, method="POST", body=b"text", HTTP_CONNECTION="close")
    before = dict(environ)
    for _ in wsgi.proxy(environ, lambda *_: None, upstream.url):
        pass
    assert environ == before

"""What could go wrong, by the rows of docs/security.md, which names each of these tests.

Against real servers. The hosts 127.0.0.1 and localhost are two hosts; two ports are two origins. That nothing was sent
is asked of the server: it has seen no connection, or no request.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import itertools
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from syncflow import (
    BodyLengthError,
    ChunkedEncodingError,
    ConnectionError,
    DecompressionError,
    EventTooLarge,
    InvalidHeader,
    InvalidSchema,
    InvalidURL,
    PreparedRequest,
    ProtocolError,
    Request,
    RequestException,
    Response,
    Session,
    SSLError,
)
from syncflow.auth import AuthBase, HTTPDigestAuth
from syncflow.responses import MOST_DRAINED
from syncflow.sse import Decoder, ServerSentEvent, encode
from syncflow.testing import AppServer, Peer, ScriptedServer, reply, reply_head, unasked_bytes
from syncflow.testing import Request as Asked
from syncflow.testing import Response as Answer

MIB = 1 << 20
BREAKING = ["\r", "\n", "\x00", "\r\nX-Evil: 1", "\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n"]
SECRETS = ("authorization", "cookie", "proxy-authorization")


@pytest.fixture
def server() -> Iterator[AppServer]:
    with AppServer() as server:
        yield server


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Session]:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))  # not the one of whoever runs this
    with Session(timeout=10) as session:
        yield session


def leads_to(*locations: str, status: int = 302, **options: Any) -> AppServer:
    """Sends its clients from /0 to the first of them, from /1 to the second …; anything else is answered."""

    def app(request: Asked) -> Answer:
        step = request.path.removeprefix("/")
        if step.isdigit() and int(step) < len(locations):
            return Answer(status, {"Location": locations[int(step)].encode().decode("latin-1")})
        return Answer()

    return AppServer(app, **options)


def by_name(server: AppServer | ScriptedServer) -> str:
    return server.url.replace("127.0.0.1", "localhost")


def secrets_of(request: Asked) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name in SECRETS}


# ------------------------------------------------------------------------------- what would add lines to a head


@pytest.mark.parametrize("evil", BREAKING)
@pytest.mark.parametrize("how", ["request", "upload"])
def test_a_method_cannot_add_a_line(server: AppServer, session: Session, evil: str, how: str) -> None:
    with pytest.raises(InvalidHeader, match="nothing was sent"):
        getattr(session, how)(f"GET{evil}", server.url)
    assert server.connections == 0


@pytest.mark.parametrize("method", ["po\u017ft", "opt\u0131ons", "\ufb01le"])
def test_a_method_does_not_become_another(server: AppServer, session: Session, method: str) -> None:
    """In upper case: POST, OPTIONS, FILE."""
    with pytest.raises(InvalidHeader, match="nothing was sent"):
        session.request(method, server.url)
    assert server.connections == 0


@pytest.mark.parametrize("evil", BREAKING)
@pytest.mark.parametrize("where", ["path", "query", "fragment", "user", "url of a prepared request", "base_url"])
def test_a_target_cannot_add_a_line(server: AppServer, session: Session, evil: str, where: str) -> None:
    prepared = session.prepare_request(Request("GET", server.url))
    with Session(timeout=10, base_url=server.url) as based:
        calls: dict[str, Callable[[], object]] = {
            "path": lambda: session.get(f"{server.url}/a{evil}b"),
            "query": lambda: session.get(f"{server.url}/?a{evil}b"),
            "fragment": lambda: session.get(f"{server.url}/#a{evil}b"),
            "user": lambda: session.get(server.url.replace("//", f"//a{evil}b@")),
            "url of a prepared request": lambda: session.send(prepared),
            "base_url": lambda: based.get(f"/a{evil}b"),
        }
        prepared.url = f"{server.url}/a{evil}b"
        with pytest.raises(InvalidURL):
            calls[where]()
    assert server.connections == 0


@pytest.mark.parametrize("evil", BREAKING)
@pytest.mark.parametrize("place", ["name", "value", "bytes", "session", "auth", "prepared"])
def test_a_header_cannot_add_a_line(server: AppServer, session: Session, evil: str, place: str) -> None:
    class Bearer(AuthBase):
        def __call__(self, r: PreparedRequest) -> PreparedRequest:
            r.headers["Authorization"] = f"Bearer a{evil}b"
            return r

    prepared = session.prepare_request(Request("GET", server.url))
    prepared.headers["X-Mine"] = f"a{evil}b"
    calls: dict[str, Callable[[], object]] = {
        "name": lambda: session.get(server.url, headers={f"X-Mine{evil}": "a"}),
        "value": lambda: session.get(server.url, headers={"X-Mine": f"a{evil}b"}),
        "bytes": lambda: session.get(server.url, headers={b"X-Mine": f"a{evil}b".encode()}),
        "session": lambda: (session.headers.update({"X-Mine": f"a{evil}"}), session.get(server.url)),
        "auth": lambda: session.get(server.url, auth=Bearer()),
        "prepared": lambda: session.send(prepared),
    }
    with pytest.raises(InvalidHeader, match="nothing was sent"):
        calls[place]()
    assert server.connections == 0


@pytest.mark.parametrize("evil", [*BREAKING, ";", "; Path=/"])
@pytest.mark.parametrize("place", ["name", "value"])
@pytest.mark.parametrize("whose", ["call", "session"])
def test_a_cookie_cannot_add_a_line(server: AppServer, session: Session, evil: str, place: str, whose: str) -> None:
    cookie = {f"a{evil}b": "c"} if place == "name" else {"a": f"b{evil}c"}
    with pytest.raises(InvalidHeader, match="nothing was sent"):
        if whose == "call":
            session.get(server.url, cookies=cookie)
        else:
            session.cookies.update(cookie)
            session.get(server.url)
    assert server.connections == 0


@pytest.mark.parametrize("place", ["field", "name", "filename"])
def test_a_multipart_name_cannot_add_a_parameter(server: AppServer, session: Session, place: str) -> None:
    """Written as browsers and `requests` write it; nothing of it stands in the body as it is."""
    named = 'a"; name="evil'
    data = {named: "x"} if place == "field" else {}
    name, filename = (named, "f") if place == "name" else ("n", named)
    session.post(server.url, data=data, files={name: (filename, b"x")})
    (asked,) = server.seen
    escaped = named.replace('"', "%22").encode()
    assert named.encode() not in asked.body
    assert b'"%b"' % escaped in asked.body


@pytest.mark.parametrize(
    ("evil", "place"),
    [
        *itertools.product(["\x00", "\r", "\n", "\r\nX-Evil: 1"], ["field", "name", "filename"]),
        *itertools.product(BREAKING, ["type", "header", "header's name"]),
    ],
)
def test_what_breaks_a_multipart_head_is_refused(server: AppServer, session: Session, evil: str, place: str) -> None:
    named = f"a{evil}b"
    given: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
        "field": ({named: "x"}, {"n": b"x"}),
        "name": ({}, {named: b"x"}),
        "filename": ({}, {"n": (named, b"x")}),
        "type": ({}, {"n": ("f", b"x", named)}),
        "header": ({}, {"n": ("f", b"x", None, {"X-Mine": named})}),
        "header's name": ({}, {"n": ("f", b"x", None, {named: "x"})}),
    }
    data, files = given[place]
    with pytest.raises(InvalidHeader, match="nothing was sent"):
        session.post(server.url, data=data, files=files)
    assert server.connections == 0


# ------------------------------------------------------------------------------- redirects and secrets

GIVEN: dict[str, Callable[[Session, str], Response]] = {
    "auth": lambda session, url: session.get(url, auth=("user", "word")),
    "userinfo": lambda session, url: session.get(url.replace("//", "//user:word@")),
    "header": lambda session, url: session.get(url, headers={"Authorization": "Bearer a", "Cookie": "a=b"}),
    "bytes": lambda session, url: session.get(url, headers={b"authorization": b"Bearer a", b"cookie": b"a=b"}),
    "cookies": lambda session, url: session.get(url, cookies={"a": "b"}),
    "prepared": lambda session, url: session.send(Request("GET", url, cookies={"a": "b"}, auth=("u", "w")).prepare()),
    "session's header": lambda session, url: (
        session.headers.update({"Authorization": "Bearer a", "Cookie": "a=b"}),
        session.get(url),
    )[1],
    "session's auth": lambda session, url: (setattr(session, "auth", ("user", "word")), session.get(url))[1],
    "session's cookies": lambda session, url: (session.cookies.update({"a": "b"}), session.get(url))[1],
    "by hand": lambda session, url: by_hand(session, session.get(url, auth=("u", "w"), cookies={"a": "b"}, **ALONE)),
}
ALONE: dict[str, Any] = {"allow_redirects": False}


def by_hand(session: Session, response: Response) -> Response:
    while response.next is not None:
        response = session.send(response.next, allow_redirects=False)
    return response


@pytest.mark.parametrize("how", GIVEN)
@pytest.mark.parametrize("to", ["port", "host"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_secrets_do_not_go_to_another_origin(session: Session, how: str, to: str, status: int) -> None:
    with leads_to("/1") as other:
        locations = [f"{other.url}/0", by_name(other) + "/0"]
        with leads_to(locations[to == "host"], status=status) as server:
            assert GIVEN[how](session, f"{server.url}/0").status_code == 200
            assert secrets_of(server.seen[0])
        # Neither at once, nor with the redirect that follows there.
        assert [request.path for request in other.seen] == ["/0", "/1"]
        assert [secrets_of(request) for request in other.seen] == [{}, {}]


@pytest.mark.parametrize("how", GIVEN)
def test_secrets_do_not_go_from_https_to_http(
    session: Session, server_tls: ssl.SSLContext, ca_file: Path, how: str
) -> None:
    session.verify = str(ca_file)
    with leads_to() as plain, leads_to(f"{plain.url}/", ssl_context=server_tls) as secure:
        assert GIVEN[how](session, f"{secure.url}/0").status_code == 200
        assert secrets_of(secure.seen[0])
        assert [secrets_of(request) for request in plain.seen] == [{}]


@pytest.mark.parametrize(
    ("old", "new", "stripped"),
    [
        ("http://a.example/", "http://a.example/x", False),
        ("http://a.example/", "http://a.example:80/", False),
        ("http://a.example/", "https://a.example/", False),  # to where they are safer, as `requests` has it
        ("http://a.example:80/", "https://a.example:443/", False),
        ("https://a.example/", "http://a.example/", True),
        ("http://a.example/", "https://a.example:8443/", True),
        ("http://a.example:8080/", "https://a.example/", True),
        ("https://a.example/", "https://a.example:444/", True),
        ("https://a.example/", "https://b.a.example/", True),
        ("https://b.a.example/", "https://a.example/", True),
        ("https://a.example/", "https://a.example./", True),
        ("https://a.example/", "https://A.EXAMPLE/", False),
        ("https://a.example/", "https://a.example@evil.example/", True),
        ("http+unix://%2Fa.sock/", "http+unix://%2Fb.sock/", True),
        ("http+unix://%2Fa.sock/", "http+unix://%2Fa.sock/x", False),
        ("http+unix://%2Fa.sock/", "http://localhost/", True),
    ],
)
def test_what_another_origin_is(session: Session, old: str, new: str, stripped: bool) -> None:
    assert session.should_strip_auth(old, new) is stripped


def test_what_was_for_one_server_is_there_again_when_a_redirect_leads_back(session: Session) -> None:
    """The program's cookies are; credentials that were taken out stay out, as in `requests`."""
    with leads_to() as home, leads_to(f"{home.url}/") as away:

        def leave(request: Asked) -> Answer:
            return Answer(302, {"Location": f"{away.url}/0"})

        home._app = lambda request: leave(request) if request.path == "/0" else Answer()
        session.get(f"{home.url}/0", auth=("user", "word"), cookies={"a": "b"})
        assert [secrets_of(request) for request in away.seen] == [{}]
        assert [request.headers.get("cookie") for request in home.seen] == ["a=b", "a=b"]
        assert [("authorization" in request.headers) for request in home.seen] == [True, False]


@pytest.mark.parametrize("how", ["auth", "header", "cookies", "session's cookies"])
def test_secrets_stay_on_the_same_origin(session: Session, how: str) -> None:
    with leads_to("/1", "2") as server:
        GIVEN[how](session, f"{server.url}/0")
        kept = [
            {k: v for k, v in secrets_of(request).items() if how != "header" or k != "cookie"}
            for request in server.seen
        ]
        assert kept == [kept[0]] * 3
        assert kept[0]


def test_the_host_header_of_one_server_does_not_fetch_its_cookies_for_another(session: Session) -> None:
    session.cookies.set("secret", "1", domain="bank.example")
    with leads_to() as other, leads_to("/1", f"{other.url}/") as server:
        session.get(f"{server.url}/0", headers={"Host": "bank.example"})
        assert [request.headers["host"] for request in server.seen] == ["bank.example"] * 2
        assert [request.headers.get("cookie") for request in server.seen] == ["secret=1"] * 2
        (asked,) = other.seen
        assert asked.headers["host"] == f"127.0.0.1:{other.port}"
        assert secrets_of(asked) == {}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_tunnel_is_not_redirected(session: Session, status: int) -> None:
    elsewhere = reply(status, headers={"Location": "http://other.test:22/"})
    with ScriptedServer(lambda peer: [peer.send(elsewhere) for _ in peer.requests()]) as proxy:
        proxies = {"http": proxy.url}
        response = session.request("CONNECT", "http://target.test:1", proxies=proxies)
        assert (response.status_code, response.history, response.next) == (status, [], None)
        assert session.get("http://target.test:1", proxies=proxies, allow_redirects=False).next


def test_the_challenge_of_another_origin_is_not_answered(session: Session) -> None:
    def asks(request: Asked) -> Answer:
        return Answer(401, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'})

    with AppServer(asks) as other, leads_to(f"{other.url}/") as server:
        response = session.get(f"{server.url}/0", auth=HTTPDigestAuth("user", "word"))
        assert response.status_code == 401
        assert [secrets_of(request) for request in other.seen] == [{}]


@pytest.mark.parametrize("whose", ["call", "session"])
def test_what_is_for_a_proxy_does_not_go_to_the_server(session: Session, whose: str) -> None:
    with leads_to() as other, leads_to("/1", f"{other.url}/") as server:
        headers = {"Proxy-Authorization": "Basic c2VjcmV0"}
        if whose == "session":
            session.headers.update(headers)
        given = headers if whose == "call" else None
        session.get(f"{server.url}/0", headers=given)
        following = session.get(f"{server.url}/0", headers=given, allow_redirects=False).next
        assert following is not None
        assert "Proxy-Authorization" not in following.headers
        assert [secrets_of(request) for request in [*server.seen, *other.seen]] == [{}] * 4


BODY_HEADERS = ("content-length", "content-type", "transfer-encoding", "content-encoding", "content-language", "expect")


@pytest.mark.parametrize("status", [301, 302, 303])
@pytest.mark.parametrize(
    "body",
    [
        lambda: {"data": b"secret"},
        lambda: {"data": {"pass": "secret"}},
        lambda: {"json": {"pass": "secret"}},
        lambda: {"files": {"f": b"secret"}},
        lambda: {"data": io.BytesIO(b"secret")},
        lambda: {"data": iter([b"secret"])},
    ],
    ids=["bytes", "form", "json", "files", "file", "generator"],
)
def test_a_body_does_not_follow_a_303(session: Session, status: int, body: Callable[[], dict[str, Any]]) -> None:
    with leads_to() as other, leads_to(f"{other.url}/", status=status) as server:
        headers = {"Content-Language": "en", "Content-Encoding": "identity"}
        session.post(f"{server.url}/0", headers=headers, **body())
        assert b"secret" in server.seen[0].body
        (asked,) = other.seen
        assert (asked.method, asked.body) == ("GET", b"")
        assert [name for name in BODY_HEADERS if name in asked.headers] == []


# ------------------------------------------------------------------------------- where a redirect may lead


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1/",
        "javascript:alert(1)",
        "data:text/plain,hello",
        "ws://127.0.0.1/",
        "mailto:a@b",
        "FILE:///etc/passwd",
    ],
)
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_to_another_scheme_is_refused(session: Session, location: str, status: int) -> None:
    with leads_to(location, status=status) as server:
        with pytest.raises(InvalidSchema, match="nothing was sent there") as caught:
            session.get(f"{server.url}/0")
        assert caught.value.response is not None
        assert caught.value.response.status_code == status
        alone = session.get(f"{server.url}/0", allow_redirects=False)
        assert (alone.is_redirect, alone.next) == (True, None)


def test_a_redirect_to_a_unix_socket_is_refused(session: Session, tmp_path: Path) -> None:
    """What listens there trusts whoever can connect: a container daemon, for one."""
    path = str(tmp_path / "daemon.sock")
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(path)
        daemon.listen()
        daemon.setblocking(False)
        for start in ("http+unix://", "HTTP+UNIX://"):
            with leads_to(f"{start}{quote(path, safe='')}/containers", status=307) as server:
                with pytest.raises(InvalidSchema, match="nothing was sent there"):
                    session.post(f"{server.url}/0", data=b"evil")
                assert session.get(f"{server.url}/0", allow_redirects=False).next is None
        with pytest.raises(BlockingIOError):
            daemon.accept()


def test_an_address_filter_is_asked_for_redirects_too() -> None:
    asked: list[str] = []

    def allows(address: str) -> bool:
        asked.append(address)
        return len(asked) == 1

    with AppServer() as inner, leads_to(f"{inner.url}/") as server, Session(address_filter=allows) as session:
        with pytest.raises(ConnectionError):
            session.get(f"{server.url}/0")
        assert asked == ["127.0.0.1", "127.0.0.1"]
        assert inner.connections == 0


CONFUSING = [
    "http://127.0.0.1:{port}\\@evil.example/",
    "http://evil.example\\@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\t.evil.example/",
    "http://127.0.0.1\t:{port}/",
    "http://127.0.0.1:{port} @evil.example/",
    "http://evil.example @127.0.0.1:{port}/",
    "http://127.0.0.1%2eevil.example:{port}/",
    "http://127.0.0.1%00.evil.example:{port}/",
    "http://127.0.0.1%2f@evil.example%00:{port}/",
    "http://127.0.0.1%40evil.example:{port}/",
    "http://[127.0.0.1]:{port}/",
    "http://evil[::1]:{port}/",
    "http://[::1]evil:{port}/",
    "http://127.0.0.1:{port}evil/",
    "http://127.0.0.1:+{port}/",
    "http://127.0.0.1:{port}<evil/",
    "http://127.0.0.1\u2100.evil.example:{port}/",
    "http://evil\uff0f127.0.0.1:{port}/",
    "http://evil\uff20127.0.0.1:{port}/",
    "http://*.example:{port}/",
    "http:///127.0.0.1:{port}/",
]


@pytest.mark.parametrize("url", [*CONFUSING, "http://127.0.0.1\n:{port}/", "http://127.0.0.1:{port}\r/"])
def test_a_url_with_two_hosts_is_refused(server: AppServer, session: Session, url: str) -> None:
    with pytest.raises(InvalidURL):
        session.get(url.format(port=server.port))
    assert server.connections == 0


@pytest.mark.parametrize("url", [*CONFUSING, "//127.0.0.1\t:{port}/", "/a\tb", "http://[::1", "//[::1"])
def test_a_redirect_to_two_hosts_is_refused(server: AppServer, session: Session, url: str) -> None:
    with leads_to(url.format(port=server.port)) as first:
        with pytest.raises(InvalidURL):
            session.get(f"{first.url}/0")
        assert session.get(f"{first.url}/0", allow_redirects=False).next is None
    assert server.connections == 0


@pytest.mark.parametrize("location", ["\\\\127.0.0.1:{port}/", "/\\127.0.0.1:{port}/", "/.//127.0.0.1:{port}/"])
def test_a_backslash_in_a_path_does_not_make_a_host(server: AppServer, session: Session, location: str) -> None:
    with leads_to(location.format(port=server.port)) as first:
        session.get(f"{first.url}/0")
        assert first.requests == 2
    assert server.connections == 0


@pytest.mark.parametrize("user", ["evil.example", "evil.example:80", "evil.example%2f", "a@evil.example", "evil%40b"])
def test_what_stands_before_the_at_sign_is_no_host(server: AppServer, session: Session, user: str) -> None:
    response = session.get(server.url.replace("//", f"//{user}@"))
    (asked,) = server.seen
    assert asked.headers["host"] == f"127.0.0.1:{server.port}"
    assert "@" not in response.url


def test_a_password_in_a_url_is_not_shown(session: Session) -> None:
    urls = ["http://me:hunter2@ho st/", "http://me:hunter2@127.0.0.1:0/", "nothing://me:hunter2@h/"]
    for url in urls:
        with pytest.raises(RequestException) as caught:
            session.get(url)
        assert "hunter2" not in str(caught.value)


# ------------------------------------------------------------------------------- trust


def test_a_connection_that_was_not_verified_is_not_used_by_who_verifies(
    session: Session, server_tls: ssl.SSLContext, ca_file: Path
) -> None:
    with AppServer(ssl_context=server_tls) as server:
        assert session.get(server.url, verify=False).status_code == 200
        with pytest.raises(SSLError):
            session.get(server.url)
        assert server.requests == 1
        assert session.get(server.url, verify=str(ca_file)).status_code == 200
        # Each goes on over its own.
        before = server.connections
        for verify in (False, str(ca_file)) * 2:
            session.get(server.url, verify=verify)
        assert server.connections == before
        with pytest.raises(SSLError):
            session.get(server.url)


@pytest.mark.parametrize("first", ["verify=False", "cert", "context", "fingerprint"])
def test_a_connection_is_used_again_by_its_equals_only(
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    server_tls_files: tuple[Path, Path],
    ca_file: Path,
    first: str,
) -> None:
    fingerprint = "ab" * 32
    with AppServer(ssl_context=server_tls) as server, Session(timeout=10) as session:
        options: dict[str, dict[str, Any]] = {
            "verify=False": {"verify": False},
            "cert": {"verify": str(ca_file), "cert": tuple(map(str, server_tls_files))},
            "context": {"verify": client_tls},
            "fingerprint": {"verify": str(ca_file)},
        }
        for _ in range(2):
            session.get(server.url, **options[first])
        assert server.connections == 1
        if first == "fingerprint":
            with Session(timeout=10, assert_fingerprint=fingerprint) as pinned, pytest.raises(SSLError):
                pinned.get(server.url, verify=str(ca_file))
        else:
            session.get(server.url, verify=str(ca_file))
        assert server.connections == 2


def test_the_environment_does_not_undo_what_the_program_verifies(
    session: Session, server_tls: ssl.SSLContext, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AppServer(ssl_context=server_tls) as server:
        for value in ("", "0", "false"):
            with pytest.raises((OSError, RequestException)):
                session.get(server.url, verify=value)
        monkeypatch.setenv("CURL_CA_BUNDLE", "")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "")
        with pytest.raises(SSLError):
            session.get(server.url)
        assert server.requests == 0


# ------------------------------------------------------------------------------- netrc


@pytest.mark.parametrize(
    "url",
    [
        "http://victim.example:@127.0.0.1:{port}/",
        "http://victim.example@127.0.0.1:{port}/",
        "http://victim.example:80@127.0.0.1:{port}/",
        "http://@127.0.0.1:{port}/@victim.example/",
        "http://127.0.0.1:{port}/http://victim.example/",
        "http://127.0.0.1:{port}?@victim.example/",
        "http://127.0.0.1:{port}#@victim.example/",
    ],
)
def test_the_passwords_of_netrc_go_to_their_host(server: AppServer, session: Session, tmp_path: Path, url: str) -> None:
    (tmp_path / "netrc").write_text("machine victim.example login me password hunter2\n")
    session.get(url.format(port=server.port))
    (asked,) = server.seen
    assert b"hunter2" not in base64.b64decode(asked.headers.get("authorization", "").removeprefix("Basic "))


def test_netrc_follows_a_redirect_to_its_host_but_not_out_of_https(
    session: Session, server_tls: ssl.SSLContext, ca_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine localhost login me password hunter2\n")
    with leads_to() as target:
        to = by_name(target) + "/"
        with leads_to(to) as plain, leads_to(to, ssl_context=server_tls) as secure:
            session.get(f"{plain.url}/0")
            session.get(f"{secure.url}/0", verify=str(ca_file))
            assert [secrets_of(request) for request in [*plain.seen, *secure.seen]] == [{}, {}]
        basic = "Basic " + base64.b64encode(b"me:hunter2").decode()
        assert [secrets_of(request) for request in target.seen] == [{"authorization": basic}, {}]


def test_netrc_does_not_take_the_place_of_what_the_program_gave(session: Session, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    with leads_to("/1") as server:
        session.get(f"{server.url}/0", auth=("user", "word"))
        basic = "Basic " + base64.b64encode(b"user:word").decode()
        assert [secrets_of(request) for request in server.seen] == [{"authorization": basic}] * 2
        # A scheme that answers when it is asked is not preceded by a password in the clear.
        session.get(f"{server.url}/0", auth=HTTPDigestAuth("user", "word"))
        assert [secrets_of(request) for request in server.seen[2:]] == [{}, {}]


# ------------------------------------------------------------------------------- what would fill the memory


def bomb(count: int = 64) -> bytes:
    """So many MiB of zeros."""
    encoder = zlib.compressobj(9, wbits=31)
    return b"".join(encoder.compress(bytes(MIB)) for _ in range(count)) + encoder.flush()


def peak_of(call: Callable[[], object]) -> int:
    """In bytes, what Python had allocated at most at once."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_many_codings_are_refused(session: Session, stream: bool) -> None:
    body, coding = b"x", "gzip" + ", gzip" * 5
    for _ in range(6):
        body = gzip.compress(body)
    with AppServer(lambda request: Answer(200, {"Content-Encoding": coding}, body)) as server:
        with pytest.raises(DecompressionError, match="at most 5"):
            session.get(server.url, stream=stream).content  # noqa: B018  # reading it is what fails


@pytest.mark.parametrize(("coding", "body"), [("gzip", bomb()), ("gzip, gzip", gzip.compress(bomb()))])
def test_a_bomb_is_read_in_bounded_memory(session: Session, coding: str, body: bytes) -> None:
    with AppServer(lambda request: Answer(200, {"Content-Encoding": coding}, body)) as server:

        def read() -> None:
            with session.get(server.url, stream=True) as response:
                assert sum(map(len, response.iter_content(65536))) == 64 * MIB

        assert peak_of(read) < 4 * MIB


def sends_a_bomb_with(status: int, **fields: str) -> AppServer:
    packed = bomb()

    def app(request: Asked) -> Answer:
        if request.path == "/0" and "authorization" not in request.headers:
            headers = {name.replace("_", "-"): value for name, value in fields.items()}
            return Answer(status, {"Content-Encoding": "gzip", **headers}, packed)
        return Answer(200, (), b"done")

    return AppServer(app)


def test_a_bomb_in_a_redirect_is_not_read(session: Session) -> None:
    with sends_a_bomb_with(302, Location="/1") as server:
        kept: list[Response] = []
        peak = peak_of(lambda: kept.append(session.get(f"{server.url}/0", stream=True)))
        assert peak < 4 * MIB + MOST_DRAINED
        assert kept[0].content == b"done"


def test_a_bomb_in_a_challenge_is_not_read(session: Session) -> None:
    challenge = 'Digest realm="r", nonce="n", qop="auth"'
    with sends_a_bomb_with(401, WWW_Authenticate=challenge) as server:
        kept: list[Response] = []
        auth = HTTPDigestAuth("user", "word")
        peak = peak_of(lambda: kept.append(session.get(f"{server.url}/0", stream=True, auth=auth)))
        assert peak < 4 * MIB + MOST_DRAINED
        assert kept[0].content == b"done"


def test_a_redirect_without_end_is_not_read(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(302, {"Location": "/1"}))
        while True:
            peer.send(bytes(65536))

    def done(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(200, b"done"))

    with ScriptedServer(script, done) as server:
        assert session.get(server.url, stream=True).content == b"done"


# ------------------------------------------------------------------------------- where one message ends


@pytest.mark.parametrize("stream", [False, True])
def test_tls_that_is_cut_is_reported(session: Session, server_tls: ssl.SSLContext, ca_file: Path, stream: bool) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200) + b"pay 10")
        peer.half_close(close_notify=False)

    with ScriptedServer(script, ssl_context=server_tls) as server:
        with pytest.raises(ChunkedEncodingError) as caught:
            session.get(server.url, stream=stream, verify=str(ca_file)).content  # noqa: B018  # reading is what fails
        assert isinstance(caught.value.__cause__, ssl.SSLError)


EVIL = reply(200, b"evil")


@pytest.mark.parametrize("extra", [EVIL, b"x", b"\r\n\r\n", EVIL * 3, b"HTTP/1.1 200 OK\r\n"])
def test_a_second_answer_is_not_that_of_the_next_request(session: Session, extra: bytes) -> None:
    with unasked_bytes(extra) as server:
        for count in (1, 2, 3):
            assert session.get(server.url).content == b"ok"
            assert server.connections == count


def test_a_switch_that_nobody_asked_for_keeps_no_connection(session: Session) -> None:
    """A program keeps its responses, and knows nothing of it."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(101, {"Upgrade": "evil", "Connection": "upgrade"}))
        peer.wait_closed()

    with ScriptedServer(script) as server:
        kept = [session.get(server.url) for _ in range(20)]
        assert [response.status_code for response in kept] == [101] * 20
        assert session.stats().open == 0
        with pytest.raises(ConnectionError, match="unasked"):
            kept[0].upgraded  # noqa: B018


@pytest.mark.parametrize("extra", [EVIL, b"x", reply(408), b"\r\n"])
def test_bytes_on_an_idle_connection_are_not_the_next_answer(session: Session, extra: bytes) -> None:
    with unasked_bytes(extra, stepped=True) as server:
        for count in (1, 2):
            assert session.get(server.url).content == b"ok"
            server.step()
            server.wait_until_idle()
            assert server.connections == count


@pytest.mark.parametrize(
    "fields",
    [
        [("Content-Length", "4"), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "chunked"), ("Content-Length", "4")],
    ],
)
def test_a_connection_with_both_lengths_is_not_used_again(session: Session, fields: list[tuple[str, str]]) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, fields) + b"2\r\nok\r\n0\r\n\r\n" + EVIL)
        peer.wait_closed()

    with ScriptedServer(script) as server:
        for count in (1, 2):
            assert session.get(server.url).content == b"ok"
            assert server.connections == count


@pytest.mark.parametrize(
    "head",
    [
        [("Content-Length", "2"), ("Content-Length", "3")],
        [("Content-Length", "2, 3")],
        [("Content-Length", "+2")],
        [("Content-Length", "0x2")],
        [("Content-Length ", "2")],
    ],
)
def test_an_answer_of_two_lengths_is_refused(session: Session, head: list[tuple[str, str]]) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, head) + b"ok" + EVIL)
        peer.wait_closed()

    with ScriptedServer(script) as server:
        for count in (1, 2):
            with pytest.raises(ProtocolError):
                session.get(server.url)
            assert server.connections == count


@pytest.mark.parametrize(
    "change",
    [
        lambda request: setattr(request, "body", b"abcGET /evil HTTP/1.1\r\nHost: a\r\n\r\n"),
        lambda request: setattr(request, "body", b"a"),
        lambda request: setattr(request, "body", None),
        lambda request: request.headers.update({"Content-Length": "0"}),
        lambda request: request.headers.update({"Content-Length": "1000"}),
    ],
    ids=["longer", "shorter", "gone", "length 0", "length 1000"],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_body_that_is_not_the_announced_one_is_not_sent(
    server: AppServer, session: Session, change: Callable[[PreparedRequest], object], method: str
) -> None:
    """The server would take what is too much for another request, and the next request for what is missing."""
    request = session.prepare_request(Request(method, server.url, data=b"abc"))
    change(request)
    with pytest.raises(BodyLengthError, match="nothing was sent"):
        session.send(request)
    assert server.connections == 0


@pytest.mark.parametrize(
    "make", [lambda body: body, io.BytesIO, lambda body: iter([body])], ids=["bytes", "file", "iter"]
)
def test_a_body_that_nothing_announces_is_no_request(
    server: AppServer, session: Session, make: Callable[[bytes], Any]
) -> None:
    body = b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"
    request = session.prepare_request(Request("POST", server.url, data=b"abc"))
    request.body = make(body)
    del request.headers["Content-Length"]
    with contextlib.suppress(BodyLengthError):
        session.send(request)
    assert [asked.body for asked in server.seen] in ([], [body])


def test_a_body_that_was_changed_and_announced_is_sent(server: AppServer, session: Session) -> None:
    request = session.prepare_request(Request("POST", server.url, data=b"abc"))
    for body in (b"longer than before", b"", "text"):
        request.body = body
        request.prepare_content_length(body)
        session.send(request)
    assert [asked.body for asked in server.seen] == [b"longer than before", b"", b"text"]
    assert server.connections == 1


# ------------------------------------------------------------------------------- cookies


@pytest.mark.parametrize(
    ("host", "domain", "elsewhere"),
    [
        ("127.0.0.1", "0.0.1", "1.0.0.1"),
        ("127.0.0.1", ".1", "1.0.0.1"),
        ("www.evil.example", "example", "bank.example"),
        ("www.evil.example", ".example", "bank.example"),
        ("evil.co.uk", "co.uk", "bank.co.uk"),
        ("evil.co.uk", "uk", "bank.co.uk"),
        ("evil.com", "com", "bank.com"),
        ("evil.com", "bank.com", "bank.com"),
        ("evilbank.com", "bank.com", "bank.com"),
        ("bank.com.evil.com", "bank.com", "bank.com"),
        ("evil.com", "www.evil.com", "www.evil.com"),
        ("evil.com", "", "www.evil.com"),
        ("evil.com", "evil.com.", "www.evil.com"),
        ("localhost", "local", "a.local"),
    ],
)
def test_a_cookie_is_not_for_strangers(host: str, domain: str, elsewhere: str) -> None:
    """No cookie for a suffix under which anybody may have a name, none for the network of an address."""

    def app(request: Asked) -> Answer:
        return Answer(200, {"Set-Cookie": f"evil=1; Domain={domain}" if domain else "evil=1"})

    with AppServer(app) as server:
        names = {f"{name}:{server.port}": "127.0.0.1" for name in (host, elsewhere)}
        with Session(timeout=10, resolve=names) as session:
            session.get(f"http://{host}:{server.port}/")
            session.get(f"http://{elsewhere}:{server.port}/")
        assert [request.headers["host"].partition(":")[0] for request in server.seen] == [host, elsewhere]
        assert [request.headers.get("cookie") for request in server.seen] == [None, None]


def test_a_cookie_is_for_its_domain() -> None:
    """The other side of the test above: these are sent."""

    def app(request: Asked) -> Answer:
        return Answer(200, {"Set-Cookie": "mine=1; Domain=example.com"})

    with AppServer(app) as server:
        hosts = ["www.example.com", "example.com", "other.example.com"]
        names = {f"{name}:{server.port}": "127.0.0.1" for name in hosts}
        with Session(timeout=10, resolve=names) as session:
            for host in hosts:
                session.get(f"http://{host}:{server.port}/")
        assert [request.headers.get("cookie") for request in server.seen] == [None, "mine=1", "mine=1"]


def test_a_secure_cookie_goes_over_https_only(session: Session, server_tls: ssl.SSLContext, ca_file: Path) -> None:
    def app(request: Asked) -> Answer:
        return Answer(200, [("Set-Cookie", "a=secure; Secure"), ("Set-Cookie", "__Host-b=1; Secure; Path=/")])

    def fixes(request: Asked) -> Answer:
        return Answer(200, [("Set-Cookie", "a=fixed"), ("Set-Cookie", "__Host-b=fixed"), ("Set-Cookie", "c=1; Secure")])

    with AppServer(app, ssl_context=server_tls) as secure, AppServer(fixes) as plain:
        session.verify = str(ca_file)
        for url in (secure.url, plain.url, plain.url, secure.url):
            session.get(url)
        assert [request.headers.get("cookie") for request in plain.seen] == [None, None]
        # Nor has http put anything in their place.
        assert secure.seen[1].headers["cookie"] == "a=secure; __Host-b=1"


# ---------------------------------------------------------------- events


def test_an_event_that_never_ends_is_refused(session: Session) -> None:
    """Of a server that sends one line for ever: it is given up once 10,000 bytes of it have come."""

    def endless() -> Iterator[bytes]:
        yield b"data: "
        while True:
            yield b"x" * 1000

    with AppServer(lambda request: Answer(200, {"Content-Type": "text/event-stream"}, endless())) as server:
        with session.get(server.url, stream=True) as response:
            with pytest.raises(EventTooLarge):
                list(response.iter_sse(max_event_size=10_000))
        server.wait_until_idle()


def test_text_does_not_become_an_event_of_its_own() -> None:
    evil = "harmless\n\nevent: admin\ndata: evil"
    assert Decoder().feed(encode(ServerSentEvent(data=evil))) == [ServerSentEvent(data=evil)]
    for event in (
        ServerSentEvent(event=evil),
        ServerSentEvent(id=evil),
        ServerSentEvent(data="harmless\r\rdata: evil"),
    ):
        with pytest.raises(ValueError, match="line|carriage return"):
            encode(event)


def test_an_id_does_not_become_a_header_of_its_own(session: Session) -> None:
    def app(request: Asked) -> Answer:
        events = b"retry: 1\nid: 1\rX-Evil: 1\ndata: a\n\nid: \x01\ndata: b\n\n"
        return Answer(200, {"Content-Type": "text/event-stream"}, events)

    with AppServer(app) as server, session.sse(server.url) as stream:
        assert [next(stream).id, next(stream).id] == ["1", "\x01"]
        with pytest.raises(InvalidHeader):
            next(stream)
        assert len(server.seen) == 1
    with pytest.raises(InvalidHeader):
        session.sse("http://127.0.0.1:1/", last_event_id="1\r\nX-Evil: 1")

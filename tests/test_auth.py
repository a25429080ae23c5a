"""Basic and Digest, against a server that does its own sums, the vectors of the RFCs, and `requests`.

A request and a response are made by hand here, with what an auth may use of them; what is sent goes through a session.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import itertools
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.cookiejar import Cookie, CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import parse_http_list, parse_keqv_list

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncflow import CaseInsensitiveDict, Session, UnrewindableBodyError
from syncflow import auth as auth_module
from syncflow.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth, HTTPProxyAuth, _basic_auth_str, _challenges
from syncflow.bodies import body_of
from syncflow.testing import AppServer, Request
from syncflow.testing import Response as Answer

NAME, PASSWORD = "Mufasa", "Circle of Life"

HASHES: dict[str, Callable[[bytes], Any]] = {
    "MD5": hashlib.md5,
    "SHA": hashlib.sha1,
    "SHA-256": hashlib.sha256,
    "SHA-512": hashlib.sha512,
    "SHA-512-256": functools.partial(hashlib.new, "sha512_256"),
}


class Prepared:
    """A request that is ready to be sent, as far as an auth knows one."""

    def __init__(self, method: str, url: str, body: Any = None) -> None:
        self.method = method
        self.url = url
        self.headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()
        self.body = body
        self.hooks: list[Callable[..., Any]] = []
        self._content = None if body is None else body_of(body)
        self._cookies = CookieJar()

    @property
    def path_url(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"

    def register_hook(self, event: str, hook: Callable[..., Any]) -> None:
        assert event == "response"
        self.hooks.append(hook)

    def copy(self) -> Prepared:
        other = copy.copy(self)
        other.headers = self.headers.copy()
        other.hooks = [*self.hooks]
        return other

    def prepare_cookies(self, jar: CookieJar) -> None:
        if "Cookie" not in self.headers:
            self.headers["Cookie"] = "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)

    def rewind_body(self) -> None:
        assert self._content is not None
        self._content.rewind()


class Received:
    """A response, as far as an auth knows one."""

    def __init__(self, status: int, headers: dict[str, str], request: Prepared, connection: Any) -> None:
        self.status_code = status
        self.headers = CaseInsensitiveDict(headers)
        self.body = b""
        self.drained = False
        self.request = request
        self.connection = connection
        self.history: list[Received] = []
        self.cookies = CookieJar()
        self.closed = False
        if name := self.headers.get("set-cookie", "").partition("=")[0]:
            value = self.headers["set-cookie"].partition("=")[2]
            host = urlsplit(request.url).hostname or ""
            whole: tuple[Any, ...] = (
                0,
                name,
                value,
                None,
                False,
                host,
                False,
                False,
                "/",
                False,
                False,
                None,
                True,
                None,
                None,
                {},
            )
            self.cookies.set_cookie(Cookie(*whole))

    @property
    def content(self) -> bytes:
        self.drain()
        return self.body

    def drain(self) -> None:
        self.drained = True

    def close(self) -> None:
        assert self.drained, "closed before it was read: the connection is lost"
        self.closed = True


class Wire:
    """Sends over a session, which knows nothing of auths."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def send(self, request: Prepared, **kwargs: Any) -> Received:
        response = self._session.request(
            request.method, request.url, headers=dict(request.headers), data=request.body, **kwargs
        )
        received = Received(response.status_code, dict(response.headers), request, self)
        received.body = response.content
        return received


class Script:
    """Answers with what it was given, and keeps what it was asked."""

    def __init__(self, *answers: tuple[int, dict[str, str]]) -> None:
        self._answers = iter(answers)
        self.sent: list[Prepared] = []
        self.given: list[dict[str, Any]] = []

    def send(self, request: Prepared, **kwargs: Any) -> Received:
        self.sent.append(request)
        self.given.append(kwargs)
        status, headers = next(self._answers)
        return Received(status, headers, request.copy(), self)


def perform(connection: Any, auth: Any, method: str, url: str, body: Any = None, **kwargs: Any) -> Received:
    """As a session does it: the auth, the sending, the hooks."""
    request = auth(Prepared(method, url, body))
    return dispatched(connection.send(request, **kwargs), **kwargs)


def dispatched(response: Received, **kwargs: Any) -> Received:
    for hook in response.request.hooks:
        response = hook(response, **kwargs)
    return response


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Session(timeout=10) as session:
        yield Wire(session)


class Guard:
    """A server's side of RFC 7616, with sums of its own. Each answer must be right and new to be let in."""

    def __init__(
        self,
        algorithm: str | None = "MD5",
        qop: str | None = "auth",
        realm: str = "the realm",
        name: str = NAME,
        password: str = PASSWORD,
        more: str = "",
    ) -> None:
        self._algorithm, self._qop, self._realm, self._more = algorithm, qop, realm, more
        self._name, self._password = name.encode(), password.encode()
        self._hash = HASHES[(algorithm or "MD5").removesuffix("-sess")]
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._nonces: set[str] = set()
        self.seen: list[tuple[str, str | None]] = []  # nonce and count of all that were let in
        self.refused: list[str] = []  # why
        self.info: dict[str, str] = {}

    def __call__(self, request: Request) -> Answer:
        field = request.headers.get("authorization", "")
        with self._lock:
            if not field:
                return self._challenge()
            assert field.startswith("Digest ")
            given = parse_keqv_list(parse_http_list(field.removeprefix("Digest ")))
            if given["nonce"] not in self._nonces:
                return self._challenge("stale=true", "stale")
            if fault := self._fault(given, request):
                return self._challenge(why=fault)
            self.seen.append((given["nonce"], given.get("nc")))
            return Answer(headers=self.info, body=request.body)

    def forget(self) -> None:
        """All nonces are too old now."""
        with self._lock:
            self._nonces.clear()

    def nonce(self, value: str) -> str:
        with self._lock:
            self._nonces.add(value)
        return value

    def _challenge(self, more: str = "", why: str = "") -> Answer:
        if why:
            self.refused.append(why)
        nonce = f"nonce {next(self._numbers)}"
        self._nonces.add(nonce)
        realm = self._realm.replace("\\", "\\\\").replace('"', '\\"')
        fields = [f'realm="{realm}"', f'nonce="{nonce}"', 'opaque="0=1"', self._more, more]
        fields += [f"algorithm={self._algorithm}"] if self._algorithm else []
        fields += [f'qop="{self._qop}"'] if self._qop else []
        return Answer(401, {"WWW-Authenticate": "Digest " + ", ".join(filter(None, fields))}, b"who are you?")

    def _fault(self, given: dict[str, str], request: Request) -> str:
        if given["uri"] != request.target or given.get("opaque") != "0=1" or given.get("algorithm") != self._algorithm:
            return f"not what was asked: {given}"
        if not self._is_user(given):
            return "no such user"
        nc, cnonce, qop = given.get("nc"), given.get("cnonce"), given.get("qop")
        if (qop is None) != (self._qop is None) or (qop and qop not in (self._qop or "")):
            return "not this qop"
        if qop and (given["nonce"], nc) in self.seen:
            return "seen before"
        secret = self._sum(self._name, self._realm.encode(), self._password)
        if (self._algorithm or "").endswith("-sess"):
            secret = self._sum(secret.encode(), given["nonce"].encode(), (cnonce or "").encode())
        what = [request.method.encode(), given["uri"].encode()]
        if qop == "auth-int":
            what.append(self._hash(request.body).hexdigest().encode())
        middle = [part.encode() for part in ([nc, cnonce, qop] if qop else []) if part]
        expected = self._sum(secret.encode(), given["nonce"].encode(), *middle, self._sum(*what).encode())
        return "" if given["response"] == expected else "wrong password"

    def _is_user(self, given: dict[str, str]) -> bool:
        if "userhash=true" in self._more:
            hashed = self._sum(self._name, self._realm.encode())
            return given.get("userhash") == "true" and given["username"] == hashed
        if "username*" in given:
            charset, _, name = given["username*"].partition("''")
            return charset == "UTF-8" and unquote_to_bytes(name) == self._name
        return given["username"].encode("latin-1") == self._name

    def _sum(self, *parts: bytes) -> str:
        return str(self._hash(b":".join(parts)).hexdigest())


# ---------------------------------------------------------------------------------------- Basic

PAIRS: list[tuple[str | bytes, str | bytes]] = [
    ("Aladdin", "open sesame"),
    ("", ""),
    ("a:b", "c"),
    ("Jäsøn", "£"),
    (b"Aladdin", b"open sesame"),
    (b"\xff\x00", "mixed"),
    ("user", b"\xe2\x82\xac"),
    ("long" * 40, "x" * 200),
]


@pytest.mark.parametrize(("name", "password"), PAIRS)
def test_basic_is_what_requests_sends(name: str | bytes, password: str | bytes) -> None:
    theirs = pytest.importorskip("requests.auth")
    expected = theirs._basic_auth_str(name, password)
    assert _basic_auth_str(name, password) == expected
    assert HTTPBasicAuth(name, password)(prepared()).headers == {"Authorization": expected}
    assert HTTPProxyAuth(name, password)(prepared()).headers == {"Proxy-Authorization": expected}


def prepared() -> Any:
    return Prepared("GET", "http://host.example/")


@pytest.mark.parametrize(
    ("name", "password", "expected"),
    [
        ("Ω", "ä", "Basic zqk6w6Q="),  # both in UTF-8, though the second one need not be
        ("ä", "Ω", "Basic w6Q6zqk="),
        (b"\xe4", "Ω", "Basic 5DrOqQ=="),  # bytes as they are
    ],
)
def test_what_latin_1_lacks_is_sent_in_utf_8(name: str | bytes, password: str, expected: str) -> None:
    """`requests` raises UnicodeEncodeError from the middle of a request."""
    theirs = pytest.importorskip("requests.auth")
    assert _basic_auth_str(name, password) == expected
    with pytest.raises(UnicodeEncodeError):
        theirs._basic_auth_str(name, password)


@pytest.mark.parametrize(("name", "password"), [(1, "x"), ("x", 1.5), (None, None)])
def test_what_is_no_text_is_converted_with_a_warning(name: Any, password: Any) -> None:
    theirs = pytest.importorskip("requests.auth")
    with pytest.warns(DeprecationWarning, match="convert the (int|float|NoneType) to str or bytes"):
        ours = _basic_auth_str(name, password)
    with pytest.warns(DeprecationWarning, match="Non-string"):
        assert ours == theirs._basic_auth_str(name, password)
    with pytest.warns(DeprecationWarning, match="Non-string") as warned:
        HTTPBasicAuth(name, password)(prepared())
    assert {warning.filename for warning in warned} == {__file__}


def test_the_base_is_to_be_overridden() -> None:
    with pytest.raises(NotImplementedError):
        AuthBase()(prepared())


def test_auths_are_equal_as_in_requests() -> None:
    theirs = pytest.importorskip("requests.auth")
    for module in (theirs, auth_module):
        basic, digest = module.HTTPBasicAuth("a", "b"), module.HTTPDigestAuth("a", "b")
        assert basic == module.HTTPBasicAuth("a", "b")
        assert basic == module.HTTPProxyAuth("a", "b")
        assert basic == digest
        assert digest == module.HTTPDigestAuth("a", "b")
        assert basic != module.HTTPBasicAuth("a", "c")
        assert digest != module.HTTPDigestAuth("c", "b")
        assert basic != ("a", "b")
        with pytest.raises(TypeError):
            hash(basic)


# ---------------------------------------------------------------------------------------- the vectors of the RFCs

RFC7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
DOE = (
    'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, '
    'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", '
    "charset=UTF-8{}"
)
RFC2617 = (
    'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
    'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
)
RFC2069 = (
    'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
    'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
)
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
DOE_CNONCE = "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v"
DOE_HASH = "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
# The RFC's own numbers are those of another algorithm; these are from its erratum 4897.
DOE_RESPONSE = "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"

VECTORS: dict[str, tuple[str, str, str, str, str, dict[str, str]]] = {
    "RFC 7616, 3.9.1, MD5": (
        *(NAME, PASSWORD, "/dir/index.html", RFC7616.format("MD5"), CNONCE),
        {"response": "8ca523f5e9506fed4657c9700eebdbec", "username": NAME, "algorithm": "MD5"},
    ),
    "RFC 7616, 3.9.1, SHA-256": (
        *(NAME, PASSWORD, "/dir/index.html", RFC7616.format("SHA-256"), CNONCE),
        {
            "response": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            "nc": "00000001",
            "qop": "auth",
        },
    ),
    "RFC 7616, 3.9.2, userhash": (
        *("Jäsøn Doe", "Secret, or not?", "/doe.json", DOE.format(", userhash=true"), DOE_CNONCE),
        {"response": DOE_RESPONSE, "username": DOE_HASH, "userhash": "true", "algorithm": "SHA-512-256"},
    ),
    "RFC 7616, 3.9.2, username*": (
        *("Jäsøn Doe", "Secret, or not?", "/doe.json", DOE.format(""), DOE_CNONCE),
        {"response": DOE_RESPONSE, "username*": "UTF-8''J%C3%A4s%C3%B8n%20Doe"},
    ),
    # Written with the accents apart, it is the same name (RFC 7616, section 4).
    "RFC 7616, 3.9.2, decomposed": (
        *("Ja\u0308søn Doe", "Secret, or not?", "/doe.json", DOE.format(", userhash=true"), DOE_CNONCE),
        {"response": DOE_RESPONSE, "username": DOE_HASH},
    ),
    "RFC 2617, 3.5": (
        *(NAME, "Circle Of Life", "/dir/index.html", RFC2617, "0a4f113b"),
        {"response": "6629fae49393a05397450978507c4ef1", "opaque": "5ccc069c403ebaf9f0171e9517f40e41"},
    ),
    # With its erratum 749, which gives the right sum.
    "RFC 2069, 2.4": (
        *(NAME, "CircleOfLife", "/dir/index.html", RFC2069, "not sent"),
        {"response": "1949323746fe6a43ef61f9606e7febea", "realm": "testrealm@host.com"},
    ),
}


def parameters(request: Prepared) -> dict[str, str]:
    return parse_keqv_list(parse_http_list(request.headers["Authorization"].removeprefix("Digest ")))


@pytest.mark.parametrize("vector", VECTORS)
def test_vectors(monkeypatch: pytest.MonkeyPatch, vector: str) -> None:
    name, password, path, challenge, cnonce, expected = VECTORS[vector]
    monkeypatch.setattr(auth_module, "_client_nonce", lambda: cnonce)
    script = Script((401, {"WWW-Authenticate": challenge}), (200, {}))
    perform(script, HTTPDigestAuth(name, password), "GET", f"http://www.example.org{path}")
    assert "Authorization" not in script.sent[0].headers
    given = parameters(script.sent[1])
    assert {key: given.get(key) for key in expected} == expected
    assert given["uri"] == path
    assert ("nc" in given, "cnonce" in given) == ("qop=" in challenge, "qop=" in challenge)


@pytest.mark.parametrize(
    ("algorithm", "qop"),
    [
        # But not MD5-sess without qop, where `requests` does not tell the nonce of its own that went into the sum.
        *itertools.product([None, "MD5", "SHA", "SHA-256", "SHA-512"], [None, "auth", "auth,auth-int"]),
        *itertools.product(["MD5-SESS"], ["auth", "auth,auth-int"]),
    ],
)
def test_the_sum_is_that_of_requests(monkeypatch: pytest.MonkeyPatch, algorithm: str | None, qop: str | None) -> None:
    theirs = pytest.importorskip("requests.auth").HTTPDigestAuth("Jäsøn", "pass:word")
    theirs.init_per_thread_state()
    challenge = {"realm": "a realm", "nonce": "a nonce", "opaque": "an opaque"}
    challenge |= {"algorithm": algorithm} if algorithm else {}
    challenge |= {"qop": qop} if qop else {}
    theirs._thread_local.chal = challenge
    url = "http://host.example/path?query=1"
    header = theirs.build_digest_header("POST", url).removeprefix("Digest ")
    expected = parse_keqv_list(parse_http_list(header))
    monkeypatch.setattr(auth_module, "_client_nonce", lambda: expected.get("cnonce", ""))
    field = "Digest " + ", ".join(f'{name}="{value}"' for name, value in challenge.items())
    script = Script((401, {"WWW-Authenticate": field}), (200, {}))
    perform(script, HTTPDigestAuth("Jäsøn", "pass:word"), "POST", url)
    given = parameters(script.sent[1])
    # `requests` sends the name in latin-1 and hashes it in UTF-8; here both are UTF-8, as in curl.
    assert given.pop("username").encode("latin-1").decode() == expected.pop("username")
    assert given == expected


# ---------------------------------------------------------------------------------------- against a server

ALGORITHMS = [None, "MD5", "MD5-sess", "SHA", "SHA-256", "SHA-256-sess", "SHA-512", "SHA-512-256", "SHA-512-256-sess"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("qop", [None, "auth", "auth-int", "auth-int, auth"])
def test_the_server_lets_us_in(wire: Wire, algorithm: str | None, qop: str | None) -> None:
    guard = Guard(algorithm, qop)
    auth = HTTPDigestAuth(NAME, PASSWORD)
    with AppServer(guard) as server:
        first = perform(wire, auth, "GET", f"{server.url}/a/b?c=d%20e&f")
        second = perform(wire, auth, "POST", f"{server.url}/other", b"content")
        third = perform(wire, auth, "PUT", server.url)
        # The same answer as text, for a request that nobody has prepared.
        header = auth.build_digest_header("GET", f"{server.url}/x?y")
        fourth = wire.send(with_header("GET", f"{server.url}/x?y", header))
        asked = server.requests
    assert [r.status_code for r in (first, second, third, fourth)] == [200] * 4, guard.refused
    assert second.content == b"content"
    assert asked == 5  # only the first one had to be asked
    counts = [f"{count:08x}" if qop else None for count in range(1, 5)]
    assert guard.seen == [("nonce 1", count) for count in counts]
    assert [r.status_code for r in first.history] == [401]
    assert first.history[0].closed
    assert second.history == []
    assert "Authorization" in first.request.headers


def with_header(method: str, url: str, authorization: str | None) -> Prepared:
    request = Prepared(method, url)
    if authorization is not None:
        request.headers["Authorization"] = authorization
    return request


@pytest.mark.parametrize("more", ["", "charset=UTF-8", "userhash=true", "charset=UTF-8, userhash=true"])
@pytest.mark.parametrize("name", [NAME, "Jäsøn Doe", 'a "quoted" \\name', "Ω"])
def test_names_and_realms_of_all_kinds(wire: Wire, name: str, more: str) -> None:
    guard = Guard("SHA-256", realm='the "best" \\realm', name=name, password="pä$$:wörd", more=more)
    with AppServer(guard) as server:
        assert perform(wire, HTTPDigestAuth(name, "pä$$:wörd"), "GET", server.url).status_code == 200, guard.refused
        as_bytes = HTTPDigestAuth(name.encode(), "pä$$:wörd".encode())
        assert perform(wire, as_bytes, "GET", server.url).status_code == 200, guard.refused


def test_quotes_and_backslashes_in_a_name() -> None:
    """`requests` sends a quote as it is, and the name ends there."""
    auth = HTTPDigestAuth('a "b" \\c', "secret")
    perform(Script((401, {"WWW-Authenticate": offer("MD5", "1")}), (200, {})), auth, "GET", "http://host.example/")
    header = auth.build_digest_header("GET", "http://host.example/")
    assert header is not None
    assert header.startswith('Digest username="a \\"b\\" \\\\c", realm=')


def test_a_realm_that_is_not_in_ascii() -> None:
    """A head is read in latin-1, whatever the server has written it in: its bytes are hashed and sent again."""
    script = Script((401, {"WWW-Authenticate": 'Digest realm="caf\xc3\xa9", nonce="1"'}), (200, {}))
    perform(script, HTTPDigestAuth("a", "b"), "GET", "http://host.example/")
    given = parameters(script.sent[1])
    secret = hashlib.md5("a:café:b".encode()).hexdigest()
    what = hashlib.md5(b"GET:/").hexdigest()
    assert given["realm"] == "caf\xc3\xa9"
    assert given["response"] == hashlib.md5(f"{secret}:1:{what}".encode()).hexdigest()


def test_a_wrong_password_is_tried_once(wire: Wire) -> None:
    guard = Guard(password="another")
    auth = HTTPDigestAuth(NAME, PASSWORD)
    with AppServer(guard) as server:
        for _ in range(2):
            response = perform(wire, auth, "GET", server.url)
            assert response.status_code == 401
            assert len(response.history) == 1
            assert response.content == b"who are you?"
        sent = ["authorization" in request.headers for request in server.seen]
    # What was refused is not sent unasked: `requests` would have failed to log in three times.
    assert sent == [False, True, False, True]
    assert guard.refused == ["wrong password"] * 2


def test_a_password_that_was_changed_is_tried_once_more_and_no_longer_unasked(wire: Wire) -> None:
    guard = Guard()
    auth = HTTPDigestAuth(NAME, PASSWORD)
    with AppServer(guard) as server:
        assert perform(wire, auth, "GET", server.url).status_code == 200
        guard._password = b"another"
        assert perform(wire, auth, "GET", server.url).status_code == 401
        assert perform(wire, auth, "GET", server.url).status_code == 401
        sent = ["authorization" in request.headers for request in server.seen]
    assert sent == [False, True, True, True, False, True]


def test_a_stale_nonce_is_no_failed_login(wire: Wire) -> None:
    guard = Guard()
    auth = HTTPDigestAuth(NAME, PASSWORD)
    with AppServer(guard) as server:
        assert perform(wire, auth, "GET", server.url).status_code == 200
        guard.forget()
        response = perform(wire, auth, "POST", server.url, b"content")
    assert (response.status_code, response.content) == (200, b"content")
    assert [r.status_code for r in response.history] == [401]
    assert guard.refused == ["stale"]
    assert guard.seen == [("nonce 1", "00000001"), ("nonce 2", "00000001")]


def test_a_nonce_that_is_stale_at_once_is_answered_again() -> None:
    """`requests` returns the second 401."""
    script = Script(
        (401, {"WWW-Authenticate": 'Digest realm="r", nonce="1", qop="auth"'}),
        (401, {"WWW-Authenticate": 'Digest realm="r", nonce="2", qop="auth", stale=TRUE'}),
        (200, {}),
    )
    response = perform(script, HTTPDigestAuth("a", "b"), "GET", "http://host.example/", timeout=3)
    assert response.status_code == 200
    assert [r.request.headers.get("Authorization", "")[:6] for r in response.history] == ["", "Digest"]
    assert [parameters(request)["nonce"] for request in script.sent[1:]] == ["1", "2"]
    assert script.given == [{"timeout": 3}] * 3
    assert response.request is script.sent[2]


def test_a_server_that_finds_everything_stale_is_given_up() -> None:
    stale = {"WWW-Authenticate": 'Digest realm="r", nonce="1", stale=true'}
    script = Script(*[(401, stale)] * 10)
    response = perform(script, HTTPDigestAuth("a", "b"), "GET", "http://host.example/")
    assert response.status_code == 401
    assert len(script.sent) == 1 + auth_module.MOST_ANSWERS


def test_the_next_nonce_is_used(wire: Wire) -> None:
    guard = Guard("SHA-256")
    auth = HTTPDigestAuth(NAME, PASSWORD)
    with AppServer(guard) as server:
        # What the server says of itself is not what it should be, and is no reason to fail.
        guard.info = {"Authentication-Info": f'rspauth="00", nextnonce="{guard.nonce("later")}", qop=auth, nc=00000001'}
        assert perform(wire, auth, "GET", server.url).status_code == 200
        guard.info = {"Authentication-Info": f'nextnonce="{guard.nonce("latest")}"'}
        assert perform(wire, auth, "GET", server.url).status_code == 200
        guard.info = {"Authentication-Info": "=, nonsense"}
        assert perform(wire, auth, "GET", server.url).status_code == 200
        assert perform(wire, auth, "GET", server.url).status_code == 200
    assert guard.refused == []
    assert guard.seen == [
        ("nonce 1", "00000001"),
        ("later", "00000001"),
        ("latest", "00000001"),
        ("latest", "00000002"),
    ]


def test_many_threads_share_one(wire: Wire) -> None:
    guard = Guard()
    auth = HTTPDigestAuth(NAME, PASSWORD)
    together = threading.Barrier(8)
    statuses: list[int] = []

    def ask(url: str, forgets: bool) -> None:
        together.wait()
        for number in range(20):
            # One only: a nonce that is too old three times running is given up.
            if number == 10 and forgets:
                guard.forget()
            statuses.append(perform(wire, auth, "GET", url).status_code)

    interval = sys.getswitchinterval()
    with AppServer(guard) as server:
        threads = [threading.Thread(target=ask, args=(server.url, n == 0)) for n in range(8)]
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
    # A count that two requests had would have been "seen before", which is a refused login.
    assert set(guard.refused) <= {"stale"}
    assert statuses == [200] * 160
    assert len(set(guard.seen)) == 160


def test_the_counts_of_old_nonces_are_forgotten() -> None:
    auth = HTTPDigestAuth("a", "b")
    for number in range(1000):
        field = {"WWW-Authenticate": f'Digest realm="r", nonce="{number}", qop=auth'}
        perform(Script((401, field), (200, {})), auth, "GET", f"http://host-{number}.example/")
    assert len(auth._counts) == auth_module.NONCES_KEPT


def test_the_count_of_a_nonce_in_use_is_kept() -> None:
    auth = HTTPDigestAuth("a", "b")
    challenges = [offer("MD5", nonce, ", qop=auth") for number in range(100) for nonce in ("always", str(number))]
    script = Script(*[answer for field in challenges for answer in [(401, {"WWW-Authenticate": field}), (200, {})]])
    for number in range(200):
        perform(script, auth, "GET", f"http://host-{number}.example/")
    counts = [parameters(request)["nc"] for request in script.sent[1::2]]
    assert counts[::2] == [f"{count:08x}" for count in range(1, 101)]
    assert counts[1::2] == ["00000001"] * 100


def test_no_count_is_given_twice() -> None:
    auth = HTTPDigestAuth("a", "b")
    together = threading.Barrier(4)
    counts: list[int] = []

    def take() -> None:
        together.wait()
        counts.extend([auth._next_count("1") for _ in range(5_000)])

    threads = [threading.Thread(target=take) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(counts) == list(range(1, 20_001))


# ---------------------------------------------------------------------------------------- bodies


class Reader:
    """The least that a file which can be rewound has."""

    def __init__(self, content: bytes) -> None:
        file = io.BytesIO(content)
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def rewindable(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "file"
    path.write_bytes(b"skipped" + b"content" * 30_000)
    file = path.open("rb")
    file.seek(7)
    memory = io.BytesIO(b"skippedcontent")
    memory.seek(7)
    return {
        "file": file,
        "memory": memory,
        "list": [b"con", "tent"],
        "bytes": b"content",
        "text": "contentö",
        "empty": b"",
        "reader": Reader(b"content"),
    }


@pytest.mark.parametrize("qop", ["auth", "auth-int"])
@pytest.mark.parametrize("kind", ["file", "memory", "list", "bytes", "text", "empty", "reader"])
def test_a_body_is_sent_again(wire: Wire, tmp_path: Path, kind: str, qop: str) -> None:
    guard = Guard("SHA-256", qop)
    auth = HTTPDigestAuth(NAME, PASSWORD)
    expected = {"file": b"content" * 30_000, "text": "contentö".encode(), "empty": b""}.get(kind, b"content")
    with AppServer(guard) as server:
        for _ in range(2):
            bodies = rewindable(tmp_path)
            response = perform(wire, auth, "POST", server.url, bodies[kind])
            bodies["file"].close()
            assert response.status_code == 200, guard.refused
            assert response.content == expected
        assert server.requests == 3


def test_a_generator_cannot_be_sent_again(wire: Wire) -> None:
    """`requests` sends an empty body in its place."""
    with AppServer(Guard()) as server:
        with pytest.raises(UnrewindableBodyError) as raised:
            perform(wire, HTTPDigestAuth(NAME, PASSWORD), "POST", server.url, (piece for piece in [b"content"]))
        where = urlsplit(server.url).netloc
        assert server.requests == 1
    assert str(raised.value).startswith(f"{where}: the body cannot be sent again: a generator runs only once: ")
    assert "make a request without a body first" in str(raised.value)
    assert raised.value.response is not None
    assert raised.value.response.status_code == 401


def test_a_generator_is_sent_where_the_challenge_is_known(wire: Wire) -> None:
    guard = Guard()
    auth = HTTPDigestAuth(NAME, PASSWORD)
    with AppServer(guard) as server:
        assert perform(wire, auth, "GET", server.url).status_code == 200
        response = perform(wire, auth, "POST", server.url, (piece for piece in [b"con", b"tent"]))
    assert (response.status_code, response.content) == (200, b"content")


def test_a_generator_cannot_be_hashed_before_it_is_sent(wire: Wire) -> None:
    auth = HTTPDigestAuth(NAME, PASSWORD)
    body = (piece for piece in [b"content"])
    with AppServer(Guard(qop="auth-int")) as server:
        assert perform(wire, auth, "GET", server.url).status_code == 200
        with pytest.raises(UnrewindableBodyError, match=r"a hash of the body .* nothing was sent$"):
            perform(wire, auth, "POST", server.url, body)
        assert server.requests == 2
    assert list(body) == [b"content"]  # and it is still whole


# ---------------------------------------------------------------------------------------- whose challenge it is


@pytest.mark.parametrize(
    "url",
    ["http://other.example/", "http://host.example:8080/", "https://host.example/", "http://host.example.evil.org/"],
)
def test_a_challenge_of_another_origin_is_not_answered(url: str) -> None:
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="1"'}
    script = Script((302, {"Location": url}), (401, challenge))
    first = perform(script, HTTPDigestAuth("a", "b"), "GET", "http://host.example/")
    redirected = first.request.copy()
    redirected.url = url
    assert dispatched(script.send(redirected)).status_code == 401
    assert len(script.sent) == 2


def test_another_origin_does_not_say_the_next_nonce() -> None:
    auth = HTTPDigestAuth("a", "b")
    script = Script(
        (401, {"WWW-Authenticate": offer("MD5", "1")}), (302, {}), (200, {"Authentication-Info": "nextnonce=2"})
    )
    redirected = perform(script, auth, "GET", "http://host.example/").request.copy()
    redirected.url = "http://other.example/"
    assert dispatched(script.send(redirected)).status_code == 200
    header = auth.build_digest_header("GET", "http://host.example/")
    assert header is not None
    assert 'nonce="1"' in header


@pytest.mark.parametrize(
    "field", ["=n, nextnonce=2", ",", "=", 'nextnonce="2\x01"', "nextnonce=2, a=\x1b", "nextnonce="]
)
def test_what_tells_no_next_nonce_that_can_be_sent_changes_nothing(field: str) -> None:
    auth = HTTPDigestAuth("a", "b")
    script = Script((401, {"WWW-Authenticate": offer("MD5", "1")}), (200, {"Authentication-Info": field}))
    assert perform(script, auth, "GET", "http://host.example/").status_code == 200
    header = auth.build_digest_header("GET", "http://host.example/")
    assert header is not None
    assert 'nonce="1"' in header


def test_a_redirect_on_the_same_origin_is_answered() -> None:
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="1"'}
    script = Script((302, {}), (401, challenge), (200, {}))
    first = perform(script, HTTPDigestAuth("a", "b"), "GET", "http://host.example/")
    redirected = first.request.copy()
    redirected.url = "http://host.example:80/new"
    assert dispatched(script.send(redirected)).status_code == 200
    assert parameters(script.sent[2])["uri"] == "/new"


def test_what_one_server_asked_is_not_told_to_another() -> None:
    """`requests` sends its answer to the last server's challenge to whoever comes next."""
    auth = HTTPDigestAuth("a", "b")
    script = Script((401, {"WWW-Authenticate": 'Digest realm="r", nonce="1"'}), (200, {}), (200, {}), (200, {}))
    perform(script, auth, "GET", "http://host.example/")
    perform(script, auth, "GET", "http://other.example/")
    perform(script, auth, "GET", "http://host.example/again")
    assert ["Authorization" in request.headers for request in script.sent] == [False, True, False, True]
    assert auth.build_digest_header("GET", "http://other.example/") is None
    assert HTTPDigestAuth("a", "b").build_digest_header("GET", "http://host.example/") is None


@pytest.mark.parametrize(
    ("domain", "covered", "not_covered"),
    [
        ("/private", ["/private", "/private/deep?x=1", "/privately"], ["/", "/public"]),
        ("/one /two", ["/private", "/public"], []),  # which does not even have what was asked for
        ("/one http://host.example/private/", ["/private/x", "/one"], ["/private", "/two"]),
        ("http://other.example/ /private/", ["/private/x"], ["/"]),
        ("http://other.example/", ["/", "/public"], []),
        ("http://host.example", ["/", "/public"], []),
        ("", ["/"], []),
        ("http://[ mailto:x", ["/", "/public"], []),
    ],
)
def test_the_space_of_an_answer(domain: str, covered: list[str], not_covered: list[str]) -> None:
    auth = HTTPDigestAuth("a", "b")
    script = Script((401, {"WWW-Authenticate": f'Digest realm="r", nonce="1", domain="{domain}"'}), (200, {}))
    perform(script, auth, "GET", "http://host.example/private/asked")
    for path in covered:
        assert auth.build_digest_header("GET", f"http://host.example{path}") is not None
    for path in not_covered:
        assert auth.build_digest_header("GET", f"http://host.example{path}") is None
    assert auth.build_digest_header("GET", "http://other.example/private/") is None


def test_cookies_of_the_challenge_go_with_the_answer() -> None:
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="1"', "Set-Cookie": "sid=1"}
    script = Script((401, challenge), (200, {}))
    perform(script, HTTPDigestAuth("a", "b"), "GET", "http://host.example/")
    assert "Cookie" not in script.sent[0].headers
    assert script.sent[1].headers["Cookie"] == "sid=1"


# ---------------------------------------------------------------------------------------- which challenge


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ('Digest realm="a", nonce="b"', [("digest", {"realm": "a", "nonce": "b"})]),
        ('DIGEST  REALM = "a" ,\tnonce\t=\tb', [("digest", {"realm": "a", "nonce": "b"})]),
        ('Basic realm="x", Digest realm="y"', [("basic", {"realm": "x"}), ("digest", {"realm": "y"})]),
        ("Negotiate, NTLM, Digest realm=a", [("negotiate", {}), ("ntlm", {}), ("digest", {"realm": "a"})]),
        ("Negotiate YWJj==, Digest realm=a", [("negotiate", {}), ("digest", {"realm": "a"})]),
        (
            ', , Digest realm="a, Basic realm=\\"b\\"",, nonce=c ,',
            [("digest", {"realm": 'a, Basic realm=\\"b\\"', "nonce": "c"})],
        ),
        (
            'Newauth realm="apps", type=1, title="Login", Basic realm=s',
            [("newauth", {"realm": "apps", "type": "1", "title": "Login"}), ("basic", {"realm": "s"})],
        ),
        ("Digest qop=auth,auth-int, nonce=YWI/+=", [("digest", {"qop": "auth", "nonce": "YWI/+="}), ("auth-int", {})]),
        ('Digest realm="a", realm="b"', [("digest", {"realm": "a"})]),
        ('Digest realm="", nonce=', [("digest", {"realm": "", "nonce": ""})]),
        ('Digest nonce="a", realm="unended', [("digest", {"nonce": "a"})]),
        ("Digest", [("digest", {})]),
        ("", []),
        ("=", []),
        ('"', []),
        ("realm=x", []),
    ],
)
def test_challenges_are_told_apart(field: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert _challenges(field) == expected


@given(st.text(st.sampled_from('Digest realm="x\\,=\t äé')))
def test_whatever_stands_there_can_be_read(field: str) -> None:
    for scheme, found in _challenges(field):
        assert scheme
        assert all(found)


LONG_FIELDS = {
    "schemes": "a " * 30_000,
    "one scheme": "a" * 60_000,
    "one value": "a=" * 30_000,
    "parameters": "a=b," * 15_000,
    "commas": "," * 60_000,
    "quotes": '"' * 60_000,
    "backslashes": 'a="' + "\\" * 60_000,
    "unended": 'a="' * 20_000,
    "spaces": "a" + " " * 60_000 + '"',
    "token68": "a b" + "=" * 60_000 + '"',
}


@pytest.mark.parametrize("field", LONG_FIELDS.values(), ids=LONG_FIELDS)
def test_a_long_field_takes_no_long_time(field: str) -> None:
    """In the square of its length, each would take minutes, and the test's own limit would end it."""
    for _ in range(5):
        _challenges(field)


def offer(algorithm: str | None, nonce: str, more: str = "") -> str:
    named = "" if algorithm is None else f", algorithm={algorithm}"
    return f'Digest realm="r", nonce="{nonce}"{named}{more}'


@pytest.mark.parametrize(
    ("offers", "expected"),
    [
        ([offer("MD5", "1"), offer("SHA-256", "2")], "2"),
        ([offer("SHA-256", "1"), offer("MD5", "2")], "1"),
        ([offer("SHA-256", "1"), offer("SHA-512-256", "2"), offer("MD5", "3")], "2"),
        ([offer("SHA-256", "1"), offer("sha-256-SESS", "2")], "1"),
        ([offer("SHA", "1"), offer(None, "2")], "1"),
        (['Basic realm="b"', "Negotiate", offer('"MD5"', "1")], "1"),
        ([offer("SHA3-512", "1"), offer("MD5", "2")], "2"),
        ([offer("SHA-256", "1", ', qop="auth-conf"'), offer("MD5", "2", ', qop=""')], "2"),
        (['Digest nonce="1"', 'Digest realm="r"', offer("MD5", "2")], "2"),
    ],
)
def test_the_strongest_that_we_know_is_answered(offers: list[str], expected: str) -> None:
    script = Script((401, {"WWW-Authenticate": ", ".join(offers)}), (200, {}))
    perform(script, HTTPDigestAuth("a", "b"), "GET", "http://host.example/")
    assert parameters(script.sent[1])["nonce"] == expected


@pytest.mark.parametrize(
    ("status", "field"),
    [
        (401, 'Basic realm="r"'),
        (401, None),
        (401, offer("SHA3-512", "1")),
        (401, offer("MD5", "1", ', qop="auth-conf"')),
        (401, 'Digest realm="r"'),
        (401, 'Digest realm="r", nonce=""'),
        (401, offer("MD5", "1\x01")),  # what cannot be sent back
        (401, offer("MD5", "1", ', opaque="\x7f"')),
        (200, offer("MD5", "1")),
        (403, offer("MD5", "1")),
        (302, offer("MD5", "1")),
    ],
)
def test_what_is_not_answered_is_returned(status: int, field: str | None) -> None:
    """`requests` answers every status from 400 to 499, and sends again what it has no answer to."""
    script = Script((status, {} if field is None else {"WWW-Authenticate": field}))
    response = perform(script, HTTPDigestAuth("a", "b"), "GET", "http://host.example/")
    assert (response.status_code, response.closed) == (status, False)


# ---------------------------------------------------------------------------------------- copies and children


def test_it_can_be_copied_and_pickled_with_what_it_knows() -> None:
    auth = HTTPDigestAuth("a", "b")
    perform(Script((401, {"WWW-Authenticate": offer("MD5", "1")}), (200, {})), auth, "GET", "http://host.example/")
    for other in (copy.copy(auth), copy.deepcopy(auth), pickle.loads(pickle.dumps(auth))):
        assert other == auth
        assert other.build_digest_header("GET", "http://host.example/") is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_is_not_held_up() -> None:
    """Forked while another thread holds the lock, which that thread will never release in the child."""
    code = (
        "import os, threading, warnings\n"
        "from syncflow import auth\n"
        "warnings.simplefilter('ignore')\n"
        "held, done = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with auth._lock:\n"
        "        held.set(); done.wait()\n"
        "threading.Thread(target=hold, daemon=True).start()\n"
        "held.wait()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(auth.HTTPDigestAuth('a', 'b')._next_count('1'))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "done.set()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.strip() == "1"

"""Logging in over a session: whose credentials are sent, and Digest against a server that does its own sums.

Challenges and answers by themselves: test_auth.py.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import parse_http_list, parse_keqv_list

import pytest

from syncflow import PreparedRequest, Request, Session, UnrewindableBodyError
from syncflow.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth
from syncflow.testing import AppServer, pattern
from syncflow.testing import Request as Asked
from syncflow.testing import Response as Answer

NAME, PASSWORD = "Mufasa", "Circle of Life"
HASHES: dict[str, Callable[[bytes], Any]] = {
    "MD5": hashlib.md5,
    "SHA-256": hashlib.sha256,
    "SHA-512-256": functools.partial(hashlib.new, "sha512_256"),
}


class Gate:
    """Lets in who proves to know the password (RFC 7616), with each nonce as often as `uses` says."""

    def __init__(self, algorithm: str = "SHA-256", qop: str = "auth", uses: int = 10**9) -> None:
        self._algorithm, self._qop, self._uses = algorithm, qop, uses
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._left: dict[str, int] = {}
        self._seen: set[tuple[str, str]] = set()
        self.refused = 0
        self.challenged = 0
        self.stale = 0

    def __call__(self, request: Asked) -> Answer:
        scheme, _, field = request.headers.get("authorization", "").partition(" ")
        with self._lock:
            if scheme != "Digest":
                self.challenged += 1
                return self._challenge()
            given = parse_keqv_list(parse_http_list(field))
            if self._left.get(given["nonce"], 0) < 1:
                self.stale += 1
                return self._challenge(", stale=true")
            if not self._is_right(given, request):
                self.refused += 1
                return self._challenge()
            self._left[given["nonce"]] -= 1
            return Answer(200, (), request.body)

    def _challenge(self, more: str = "") -> Answer:
        nonce = f"n{next(self._numbers)}"
        self._left[nonce] = self._uses
        field = f'Digest realm="lions", nonce="{nonce}", algorithm={self._algorithm}, qop="{self._qop}"{more}'
        return Answer(401, {"WWW-Authenticate": field}, b"who is there?")

    def _is_right(self, given: dict[str, str], request: Asked) -> bool:
        once = given["nonce"], given["nc"]
        if once in self._seen or given["uri"] != request.target or given["qop"] != self._qop:
            return False
        self._seen.add(once)

        def sum_of(*parts: str) -> str:
            return str(HASHES[self._algorithm](":".join(parts).encode()).hexdigest())

        what = [request.method, request.target]
        if self._qop == "auth-int":
            what.append(HASHES[self._algorithm](request.body).hexdigest())
        secret = sum_of(NAME, "lions", PASSWORD)
        expected = sum_of(secret, *once, given["cnonce"], given["qop"], sum_of(*what))
        return given["username"] == NAME and given["response"] == expected


@pytest.fixture
def netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(path))
    return path


@pytest.fixture
def session(netrc: Path) -> Iterator[Session]:
    with Session(timeout=10) as session:
        yield session


@pytest.fixture
def server() -> Iterator[AppServer]:
    with AppServer() as server:
        yield server


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


# ------------------------------------------------------------------------------- whose credentials


@pytest.mark.parametrize("kind", ["pair", "HTTPBasicAuth", "bytes"])
@pytest.mark.parametrize("whose", ["call", "session"])
def test_basic(server: AppServer, session: Session, kind: str, whose: str) -> None:
    given: dict[str, Any] = {
        "pair": ("user", "word"),
        "HTTPBasicAuth": HTTPBasicAuth("user", "word"),
        "bytes": (b"user", b"word"),
    }
    if whose == "session":
        session.auth = given[kind]
    for _ in range(2):
        session.get(server.url, auth=given[kind] if whose == "call" else None)
    assert [asked.headers["authorization"] for asked in server.seen] == [basic("user:word")] * 2
    assert server.connections == 1


# What is there, and what of it is sent, from the highest to the lowest.
LADDER = [
    (("call", "session", "url", "netrc"), "call:1"),
    (("call", "header", "netrc"), "call:1"),
    (("session", "url", "netrc"), "session:1"),
    (("session", "header"), "session:1"),
    (("url", "header", "netrc"), "header"),
    (("url", "session's header", "netrc"), "url:1"),
    (("url", "netrc"), "url:1"),
    (("header", "netrc"), "header"),
    (("session's header", "netrc"), "header"),
    (("netrc",), "netrc:1"),
    ((), None),
]


@pytest.mark.parametrize(("there", "sent"), LADDER)
@pytest.mark.parametrize("trusts", [True, False])
def test_which_credentials_are_sent(
    server: AppServer, session: Session, netrc: Path, there: tuple[str, ...], sent: str | None, trusts: bool
) -> None:
    session.trust_env = trusts
    if "netrc" in there:
        netrc.write_text("machine 127.0.0.1 login netrc password 1\n")
    if "session" in there:
        session.auth = ("session", "1")
    if "session's header" in there:
        session.headers["authorization"] = "header"
    url = server.url.replace("//", "//url:1@") if "url" in there else server.url
    headers = {"AUTHORIZATION": "header"} if "header" in there else None
    session.get(url, headers=headers, auth=("call", "1") if "call" in there else None)
    if not trusts and there == ("netrc",):
        sent = None
    expected = sent if sent in (None, "header") else basic(sent)
    assert server.seen[-1].headers.get("authorization") == expected


def test_netrc_is_for_the_hosts_that_it_names(server: AppServer, session: Session, netrc: Path) -> None:
    netrc.write_text("machine localhost login me password word\n")
    session.get(server.url)
    session.get(server.url.replace("127.0.0.1", "localhost"))
    session.get(server.url.replace("127.0.0.1", "LOCALHOST"))
    assert [asked.headers.get("authorization") for asked in server.seen] == [None, basic("me:word"), basic("me:word")]


def test_netrcs_default_is_for_all_others(server: AppServer, session: Session, netrc: Path) -> None:
    netrc.write_text("machine localhost login me password word\ndefault login any password body\n")
    session.get(server.url)
    session.get(server.url.replace("127.0.0.1", "localhost"))
    sent = [asked.headers.get("authorization") for asked in server.seen]
    assert sent == [basic("any:body"), basic("me:word")]


def test_an_auth_of_ones_own(server: AppServer, session: Session) -> None:
    class Token(AuthBase):
        def __call__(self, r: PreparedRequest) -> PreparedRequest:
            r.headers["X-Token"] = f"{r.method} {r.path_url}"
            return r

    session.post(f"{server.url}/a?b", auth=Token())
    session.get(server.url, auth=lambda request: request)
    assert [asked.headers.get("x-token") for asked in server.seen] == ["POST /a?b", None]


def test_the_credentials_of_an_upload(server: AppServer, session: Session, netrc: Path) -> None:
    netrc.write_text("machine 127.0.0.1 login netrc password 1\n")
    for auth in (None, ("call", "1")):
        with session.upload("PUT", server.url, auth=auth) as upload:
            upload.write(b"body")
    assert [asked.headers["authorization"] for asked in server.seen] == [basic("netrc:1"), basic("call:1")]


# ------------------------------------------------------------------------------- Digest


@pytest.mark.parametrize("algorithm", HASHES)
@pytest.mark.parametrize("qop", ["auth", "auth-int"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_digest(session: Session, algorithm: str, qop: str, method: str) -> None:
    gate = Gate(algorithm, qop)
    with AppServer(gate) as server:
        session.auth = HTTPDigestAuth(NAME, PASSWORD)
        body = b"body" if method == "POST" else None
        first = session.request(method, f"{server.url}/a?b=c", data=body)
        assert (first.status_code, first.content) == (200, body or b"")
        assert [(earlier.status_code, earlier.content) for earlier in first.history] == [(401, b"who is there?")]
        again = session.request(method, f"{server.url}/d", data=body)
        assert (again.status_code, again.history) == (200, [])
        assert (gate.challenged, gate.refused, server.requests, server.connections) == (1, 0, 3, 1)


@pytest.mark.parametrize("qop", ["auth", "auth-int"])
@pytest.mark.parametrize("kind", ["bytes", "file", "BytesIO", "iterable", "form", "files"])
def test_digest_and_a_body(session: Session, tmp_path: Path, qop: str, kind: str) -> None:
    class Pieces:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"body"] * 3)

    content = pattern(200_000)
    path = tmp_path / "file"
    path.write_bytes(b"skipped" + content)
    with path.open("rb") as file, AppServer(Gate(qop=qop)) as server:
        file.seek(7)
        given: dict[str, dict[str, Any]] = {
            "bytes": {"data": content},
            "file": {"data": file},
            "BytesIO": {"data": io.BytesIO(content)},
            "iterable": {"data": Pieces()},
            "form": {"data": {"a": "b c"}},
            "files": {"data": {"a": "b"}, "files": {"f": ("f", file)}},
        }
        response = session.put(server.url, auth=HTTPDigestAuth(NAME, PASSWORD), **given[kind])
        assert response.status_code == 200
        first, second = server.seen
        assert first.body == second.body == response.content
        if kind in ("bytes", "file", "BytesIO"):
            assert response.content == content
        assert server.connections == 1


def test_digest_and_a_generator(session: Session) -> None:
    auth = HTTPDigestAuth(NAME, PASSWORD)
    with AppServer(Gate()) as server:
        with pytest.raises(UnrewindableBodyError, match="make a request without a body first"):
            session.post(server.url, data=iter([b"once"]), auth=auth)
        session.get(server.url, auth=auth)
        assert session.post(server.url, data=iter([b"once"]), auth=auth).content == b"once"


def test_a_wrong_password_is_tried_once(session: Session) -> None:
    gate = Gate()
    with AppServer(gate) as server:
        response = session.get(server.url, auth=HTTPDigestAuth(NAME, "wrong"))
        assert (response.status_code, [earlier.status_code for earlier in response.history]) == (401, [401])
        assert (gate.refused, server.requests) == (1, 2)


def test_a_nonce_that_is_too_old_is_replaced(session: Session) -> None:
    gate = Gate(uses=2)
    with AppServer(gate) as server:
        session.auth = HTTPDigestAuth(NAME, PASSWORD)
        histories = [[earlier.status_code for earlier in session.get(server.url).history] for _ in range(6)]
        assert histories == [[401], [], [401], [], [401], []]
        assert (gate.challenged, gate.stale, gate.refused, server.connections) == (1, 2, 0, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_digest_over_a_redirect(session: Session, stream: bool) -> None:
    gate = Gate()

    def app(request: Asked) -> Answer:
        answer = gate(request)
        if answer.status == 200 and request.path == "/old":
            return Answer(302, {"Location": "/new"})
        return answer

    with AppServer(app) as server:
        with session.get(f"{server.url}/old", auth=HTTPDigestAuth(NAME, PASSWORD), stream=stream) as response:
            assert (response.status_code, response.url) == (200, f"{server.url}/new")
        assert server.connections == 1


def test_digest_and_a_cookie_that_comes_with_the_challenge(session: Session) -> None:
    gate = Gate()

    def app(request: Asked) -> Answer:
        answer = gate(request)
        return Answer(answer.status, {**dict(answer.headers), "Set-Cookie": f"step={answer.status}"}, answer.body)

    with AppServer(app) as server:
        session.get(server.url, auth=HTTPDigestAuth(NAME, PASSWORD))
        assert [asked.headers.get("cookie") for asked in server.seen] == [None, "step=401"]
        assert dict(session.cookies) == {"step": "200"}


@pytest.mark.parametrize("qop", ["auth", "auth-int"])
def test_many_threads_share_a_session_and_an_auth(session: Session, qop: str) -> None:
    gate = Gate(qop=qop, uses=7)
    session.auth = HTTPDigestAuth(NAME, PASSWORD)
    barrier = threading.Barrier(8)
    with AppServer(gate) as server, ThreadPoolExecutor(8) as threads:

        def work(number: int) -> list[int]:
            barrier.wait()
            bodies = [f"{number} {count}".encode() for count in range(12)]
            answers = [session.put(f"{server.url}/{number}", data=body) for body in bodies]
            assert [answer.content for answer in answers if answer.ok] == [
                body for body, answer in zip(bodies, answers, strict=True) if answer.ok
            ]
            return [answer.status_code for answer in answers]

        statuses = [status for answered in threads.map(work, range(8)) for status in answered]
        # With nonces that are good for 7 requests of 8 threads, some find all of three used up in turn; none is wrong.
        assert gate.refused == 0
        assert statuses.count(200) > len(statuses) // 2
        assert set(statuses) <= {200, 401}


def test_many_threads_with_a_nonce_that_lasts(session: Session) -> None:
    gate = Gate()
    session.auth = HTTPDigestAuth(NAME, PASSWORD)
    barrier = threading.Barrier(8)
    with AppServer(gate) as server, ThreadPoolExecutor(8) as threads:

        def work(number: int) -> set[int]:
            barrier.wait()
            return {session.get(f"{server.url}/{number}/{count}").status_code for count in range(20)}

        assert list(threads.map(work, range(8))) == [{200}] * 8
        assert (gate.refused, gate.stale) == (0, 0)
        assert gate.challenged <= 8  # only those who came before the first was let in


def test_a_prepared_request_is_authenticated_once(server: AppServer, session: Session) -> None:
    prepared = session.prepare_request(Request("GET", server.url, auth=("user", "word")))
    session.auth = ("other", "one")
    session.send(prepared)
    assert server.seen[-1].headers["authorization"] == basic("user:word")

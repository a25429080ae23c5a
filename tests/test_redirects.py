"""Redirects: what is sent next, to where, and what of the chain remains. What must not go along: test_security.py."""

from __future__ import annotations

import http.server
import io
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from syncflow import (
    ChunkedEncodingError,
    DecompressionError,
    InvalidURL,
    Response,
    Session,
    StreamConsumedError,
    Timeouts,
    TooManyRedirects,
    TotalTimeout,
    UnrewindableBodyError,
)
from syncflow.responses import MOST_DRAINED
from syncflow.testing import (
    AppServer,
    Peer,
    ScriptedServer,
    json_response,
    never_answers,
    pattern,
    reply,
    reply_head,
    trickle,
)
from syncflow.testing import Request as Asked
from syncflow.testing import Response as Answer

STATI = [301, 302, 303, 307, 308]
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]


def app(request: Asked) -> Answer:
    """/302/a/b leads to /a/b, whatever the method; /to?303=https://x/ to there; the rest tells what came."""
    status, _, rest = request.path[1:].partition("/")
    if status.isdigit():
        return Answer(
            int(status), {"Location": f"/{rest}", "Set-Cookie": f"seen{status}=1; Path=/"}, f"to {rest}".encode()
        )
    for status, (location,) in request.query.items() if request.path == "/to" and "q" not in request.query else ():
        return Answer(int(status), {"Location": location.encode().decode("latin-1")})
    return json_response({"method": request.method, "target": request.target, "body": request.body.decode("latin-1")})


@pytest.fixture
def server() -> Iterator[AppServer]:
    with AppServer(app) as server:
        yield server


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Session]:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with Session(timeout=10) as session:
        yield session


def to(server: AppServer, location: str, status: int = 302) -> str:
    return f"{server.url}/to?{status}={quote(location, safe='')}"


# ------------------------------------------------------------------------------- with which method, with what

# RFC 9110, sections 15.4.2 to 15.4.9, where it leaves a choice as browsers and `requests` have it. A 301 that is no
# answer to POST keeps its method and loses its body all the same, as in `requests`.
FOLLOWED_BY: dict[int, dict[str, tuple[str, bytes]]] = {
    301: {"POST": ("GET", b""), "PUT": ("PUT", b""), "DELETE": ("DELETE", b"")},
    302: {"POST": ("GET", b""), "PUT": ("GET", b""), "DELETE": ("GET", b"")},
    303: {"POST": ("GET", b""), "PUT": ("GET", b""), "DELETE": ("GET", b"")},
    307: {"POST": ("POST", b"body"), "PUT": ("PUT", b"body"), "DELETE": ("DELETE", b"body")},
    308: {"POST": ("POST", b"body"), "PUT": ("PUT", b"body"), "DELETE": ("DELETE", b"body")},
}


@pytest.mark.parametrize("status", STATI)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_asked_next(server: AppServer, session: Session, status: int, method: str) -> None:
    requests = pytest.importorskip("requests")
    data = b"body" if method in FOLLOWED_BY[status] else None
    session.request(method, f"{server.url}/{status}/end", data=data)
    first, second = server.seen
    assert (first.method, first.body) == (method, data or b"")
    assert (second.method, second.body) == FOLLOWED_BY[status].get(method, (method, b""))
    with requests.Session() as theirs:
        theirs.trust_env = False
        theirs.request(method, f"{server.url}/{status}/end", data=data)
    described = [
        (asked.method, asked.target, asked.body, asked.headers.get("content-length"), asked.headers.get("content-type"))
        for asked in server.seen
    ]
    assert described[:2] == described[2:]


@pytest.mark.parametrize("status", [300, 304, 305, 306, 399, 201])
def test_what_is_no_redirect(server: AppServer, session: Session, status: int) -> None:
    response = session.get(f"{server.url}/{status}/end")
    assert (response.status_code, response.is_redirect, response.history) == (status, False, [])


def test_a_session_follows_a_head_only_if_it_is_told_to(server: AppServer, session: Session) -> None:
    assert session.head(f"{server.url}/302/end").status_code == 302
    assert session.head(f"{server.url}/302/end", allow_redirects=True).status_code == 200


# ------------------------------------------------------------------------------- to where

LOCATIONS = [
    ("/x", "/x"),
    ("x", "/x"),
    ("./x", "/x"),
    ("../../x", "/x"),
    ("a/../x", "/x"),
    ("?q=1", "/to?q=1"),
    ("/x?q=%20", "/x?q=%20"),
    ("/a b", "/a%20b"),
    ("/a%20b", "/a%20b"),
    ("/\u00e9", "/%C3%A9"),
    ("/%c3%a9", "/%C3%A9"),
    ("/%41%7E", "/A~"),
    ("/100%", "/100%25"),
    ("{url}/x", "/x"),
    ("{URL}/x", "/x"),
    ("//127.0.0.1:{port}/x", "/x"),
    ("{url}", "/"),
    ("{url}?q", "/?q"),
    ("/x#part", "/x"),
]


@pytest.mark.parametrize(("location", "target"), LOCATIONS)
def test_where_a_location_leads(server: AppServer, session: Session, location: str, target: str) -> None:
    given = location.format(url=server.url, URL=server.url.replace("http", "HTTP"), port=server.port)
    response = session.get(to(server, given))
    assert server.seen[-1].target == target
    assert response.url.partition("#")[0] == server.url + target
    requests = pytest.importorskip("requests")
    with requests.Session() as theirs:
        theirs.trust_env = False
        theirs.get(to(server, given))
    # Of an escape in lower case, and a needless one, `requests` has its own opinion.
    assert server.seen[-1].target.lower() == server.seen[1].target.lower()


def test_a_location_in_latin_1_is_followed_with_a_replacement(session: Session) -> None:
    """Of which `requests` makes a UnicodeDecodeError."""

    def latin(request: Asked) -> Answer:
        return Answer(302, {"Location": "/\xe9"}) if request.path == "/" else Answer()

    with AppServer(latin) as server:
        session.get(server.url)
        assert server.seen[-1].target == "/%EF%BF%BD"


@pytest.mark.parametrize(
    ("first", "location", "url"),
    [
        ("#old", "/x", "/x#old"),
        ("#old", "/x#new", "/x#new"),
        ("", "/x#new", "/x#new"),
        ("", "/x", "/x"),
        ("#old", "/302/x", "/x#old"),
    ],
)
def test_a_fragment_is_kept_until_there_is_another(
    server: AppServer, session: Session, first: str, location: str, url: str
) -> None:
    """RFC 9110, section 10.2.2."""
    response = session.get(to(server, location) + first)
    assert response.url == server.url + url
    assert all("#" not in asked.target for asked in server.seen)


@pytest.mark.parametrize("fields", [{}, {"Location": ""}])
def test_nowhere_is_no_redirect(session: Session, fields: dict[str, str]) -> None:
    with AppServer(lambda request: Answer(302, fields, b"here")) as server:
        response = session.get(server.url)
        assert (response.status_code, response.content, response.history) == (302, b"here", [])
        assert session.get(server.url, allow_redirects=False).next is None


def test_a_location_that_is_no_url(server: AppServer, session: Session) -> None:
    for location in ("http://", "http://[::1", "http://host:port/", "https:x"):
        with pytest.raises(InvalidURL):
            session.get(to(server, location))
        alone = session.get(to(server, location), allow_redirects=False)
        assert (alone.is_redirect, alone.next) == (True, None)


class Daemon(http.server.BaseHTTPRequestHandler):
    """What listens on the Unix socket of the test below."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        location = {"/relative": "end", "/absolute": getattr(self.server, "url", "") + "/end"}.get(self.path)
        self.send_response(302 if location else 200)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Not to the terminal."""


@pytest.mark.parametrize("start", ["relative", "absolute"])
def test_a_redirect_on_a_unix_socket_stays_there(tmp_path: Path, start: str) -> None:
    path = str(tmp_path / "socket")
    url = f"http+unix://{quote(path, safe='')}"
    with socketserver.ThreadingUnixStreamServer(path, Daemon) as daemon:
        daemon.daemon_threads = True
        daemon.url = url  # type: ignore[attr-defined]  # for the handler above
        serving = threading.Thread(target=daemon.serve_forever, args=(0.01,))
        serving.start()
        try:
            with Session(timeout=10, base_url=url) as session:
                assert session.get(f"{url}/{start}").url == f"{url}/end"
                assert session.get(f"/{start}").url == f"{url}/end"
        finally:
            daemon.shutdown()
            serving.join()


# ------------------------------------------------------------------------------- the chain


def test_the_history_is_in_order_and_each_of_it_has_its_own(server: AppServer, session: Session) -> None:
    response = session.get(f"{server.url}/301/302/307/end")
    assert [earlier.status_code for earlier in response.history] == [301, 302, 307]
    assert [earlier.url.removeprefix(server.url) for earlier in response.history] == [
        "/301/302/307/end",
        "/302/307/end",
        "/307/end",
    ]
    assert [earlier.content for earlier in response.history] == [b"to 302/307/end", b"to 307/end", b"to end"]
    for at, earlier in enumerate(response.history):
        assert earlier.history == response.history[:at]
        assert earlier.request is not None
        assert earlier.request.url == earlier.url
        assert earlier.is_redirect
        assert earlier.is_permanent_redirect == (earlier.status_code == 301)
    assert response.url == f"{server.url}/end"


def test_next_leads_on_step_by_step(server: AppServer, session: Session) -> None:
    response = session.post(f"{server.url}/308/303/end", data=b"body", allow_redirects=False)
    assert (response.status_code, response.history, response.content) == (308, [], b"to 303/end")
    assert response.next is not None
    assert (response.next.method, response.next.url, response.next.body) == ("POST", f"{server.url}/303/end", b"body")
    response = session.send(response.next, allow_redirects=False)
    assert response.next is not None
    assert (response.next.method, response.next.url, response.next.body) == ("GET", f"{server.url}/end", None)
    response = session.send(response.next, allow_redirects=False)
    assert (response.status_code, response.next) == (200, None)
    assert server.requests == 3


@pytest.mark.parametrize("most", [0, 1, 3, 30])
def test_a_loop_is_given_up(session: Session, most: int) -> None:
    session.max_redirects = most
    with AppServer(lambda request: Answer(302, {"Location": "/"})) as server:
        with pytest.raises(TooManyRedirects, match=rf"more than {most} redirects.*max_redirects") as caught:
            session.get(server.url)
        assert server.requests == most + 1
        assert caught.value.response is not None
        assert len(caught.value.response.history) == most
        assert server.connections == 1


def test_as_many_as_are_allowed_are_followed(server: AppServer, session: Session) -> None:
    session.max_redirects = 3
    assert session.get(f"{server.url}/302/302/302/end").status_code == 200
    with pytest.raises(TooManyRedirects):
        session.get(f"{server.url}/302/302/302/302/end")


def test_cookies_that_are_set_on_the_way(server: AppServer, session: Session) -> None:
    response = session.get(f"{server.url}/301/302/end", cookies={"mine": "1"})
    assert [asked.headers["cookie"] for asked in server.seen] == [
        "mine=1",
        "mine=1; seen301=1",
        "mine=1; seen301=1; seen302=1",
    ]
    assert session.cookies.get_dict() == {"seen301": "1", "seen302": "1"}
    assert [dict(earlier.cookies) for earlier in response.history] == [{"seen301": "1"}, {"seen302": "1"}]
    assert dict(response.cookies) == {}


def test_a_cookie_that_ends_on_the_way_is_not_sent(session: Session) -> None:
    def logout(request: Asked) -> Answer:
        if request.path == "/logout":
            return Answer(302, {"Location": "/", "Set-Cookie": "a=; Max-Age=0"})
        return Answer(200, {"Set-Cookie": "a=1"} if request.path == "/login" else ())

    with AppServer(logout) as server:
        session.get(f"{server.url}/login")
        session.get(f"{server.url}/logout")
        assert [asked.headers.get("cookie") for asked in server.seen] == [None, "a=1", None]
        assert dict(session.cookies) == {}


def test_the_chain_uses_one_connection(server: AppServer, session: Session) -> None:
    for stream in (False, True):
        with session.get(f"{server.url}/301/302/303/307/308/end", stream=stream) as response:
            assert response.json()["target"] == "/end"
    assert (server.requests, server.connections) == (12, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_hooks_see_every_response(server: AppServer, session: Session, stream: bool) -> None:
    seen: list[tuple[int, str]] = []

    def hook(response: Response, **kwargs: Any) -> None:
        seen.append((response.status_code, response.url.removeprefix(server.url)))
        assert kwargs["stream"] is stream

    session.get(f"{server.url}/301/307/end", hooks={"response": hook}, stream=stream).close()
    assert seen == [(301, "/301/307/end"), (307, "/307/end"), (200, "/end")]


def test_a_hook_may_read_a_redirect_as_a_stream(server: AppServer, session: Session) -> None:
    read: list[bytes] = []

    def hook(response: Response, **kwargs: Any) -> None:
        if response.is_redirect:
            read.append(b"".join(response.iter_content(3)))

    response = session.get(f"{server.url}/301/307/end", hooks={"response": hook}, stream=True)
    assert response.json()["target"] == "/end"
    assert read == [b"to 307/end", b"to end"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stream_is_that_of_the_last_one(session: Session, stream: bool) -> None:
    with trickle(b"last") as last, AppServer(lambda request: Answer(302, {"Location": last.url}, b"first")) as server:
        last.step(4)
        with session.get(server.url, stream=stream) as response:
            assert b"".join(response.iter_content(1)) == b"last"
        assert [earlier.content for earlier in response.history] == [b"first"]


# ------------------------------------------------------------------------------- bodies of redirects

BROKEN = {
    "does not decode": (302, {"Location": "/end", "Content-Encoding": "gzip"}, b"no gzip at all"),
    "too many codings": (302, {"Location": "/end", "Content-Encoding": "gzip" + ", gzip" * 5}, b"x"),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("stream", [False, True])
def test_a_redirect_is_followed_whatever_its_body_is(session: Session, fault: str, stream: bool) -> None:
    with AppServer(lambda request: Answer(*BROKEN[fault]) if request.path == "/" else Answer()) as server:
        response = session.get(server.url, stream=stream)
        assert [earlier.status_code for earlier in [*response.history, response]] == [302, 200]
        with pytest.raises(DecompressionError):
            session.get(server.url, allow_redirects=False)


@pytest.mark.parametrize("stream", [False, True])
def test_a_redirect_is_followed_even_if_its_body_is_cut(session: Session, stream: bool) -> None:
    def cut(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(302, {"Location": "/end", "Content-Length": "10"}) + b"abc")

    def whole(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(200, b"end"))

    with ScriptedServer(cut, whole, cut) as server:
        assert session.get(server.url, stream=stream).content == b"end"
        with pytest.raises(ChunkedEncodingError):
            session.get(server.url, allow_redirects=False)


@pytest.mark.parametrize(("size", "connections"), [(MOST_DRAINED, 1), (4 * MOST_DRAINED, 2)])
def test_a_large_body_is_not_read_if_nobody_asked_for_it(session: Session, size: int, connections: int) -> None:
    def large(request: Asked) -> Answer:
        return Answer(302, {"Location": "/end"}, bytes(size)) if request.path == "/" else Answer(200, (), b"end")

    with AppServer(large) as server:
        response = session.get(server.url, stream=True)
        assert (response.content, server.connections) == (b"end", connections)
        if connections == 2:
            with pytest.raises(StreamConsumedError):
                response.history[0].content  # noqa: B018  # reading it is what fails
        else:
            assert response.history[0].content == bytes(size)
        # Without stream=True it was asked for.
        assert session.get(server.url).history[0].content == bytes(size)


# ------------------------------------------------------------------------------- the body, again

BODY = pattern(300_000)


class Pieces:
    """Can be gone through as often as one likes."""

    def __iter__(self) -> Iterator[bytes]:
        return (BODY[at : at + 70_000] for at in range(0, len(BODY), 70_000))


def a_file(tmp_path: Path) -> Any:
    path = tmp_path / "file"
    path.write_bytes(b"not this" + BODY)
    file = path.open("rb")
    file.seek(8)
    return file


BODIES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "bytes": lambda _: {"data": BODY},
    "file": lambda folder: {"data": a_file(folder)},
    "BytesIO": lambda _: {"data": io.BytesIO(BODY)},
    "iterable": lambda _: {"data": Pieces()},
    "form": lambda _: {"data": {"name": "value", "more": ["a", "b"]}},
    "json": lambda _: {"json": {"a": [1, 2]}},
    "text": lambda _: {"data": "h\u00e9"},
    "files": lambda folder: {"data": {"a": "b"}, "files": {"f": a_file(folder), "g": ("g", BODY)}},
    "path": lambda folder: {"files": {"f": Path(a_path(folder))}},
}


def a_path(folder: Path) -> str:
    (folder / "path").write_bytes(BODY)
    return str(folder / "path")


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("status", [307, 308])
def test_a_body_is_sent_again_whole(
    server: AppServer, session: Session, tmp_path: Path, kind: str, status: int
) -> None:
    given = BODIES[kind](tmp_path)
    try:
        response = session.post(f"{server.url}/{status}/{status}/end", **given)
    finally:
        for value in (given.get("data"), *(given.get("files") or {}).values()):
            if isinstance(value, io.IOBase):
                value.close()
    assert response.status_code == 200
    first, *others = server.seen
    assert len(first.body) >= min(len(BODY), 3)
    if kind in ("bytes", "file", "BytesIO", "iterable"):
        assert first.body == BODY
    for other in others:
        assert (other.method, other.body) == ("POST", first.body)
        described = ("content-type", "content-length", "transfer-encoding")
        assert [other.headers.get(name) for name in described] == [first.headers.get(name) for name in described]
    assert server.requests == 3


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("kind", ["generator", "reader", "part"])
def test_what_cannot_be_sent_again_is_an_error_that_says_so(
    server: AppServer, session: Session, status: int, kind: str
) -> None:
    class Reader:
        """A pipe, say."""

        def __init__(self) -> None:
            self._rest = io.BytesIO(b"once")

        def read(self, size: int = -1) -> bytes:
            return self._rest.read(size)

    once: dict[str, dict[str, Any]] = {
        "generator": {"data": (piece for piece in [b"on", b"ce"])},
        "reader": {"data": Reader()},
        "part": {"files": {"f": ("f", (piece for piece in [b"on", b"ce"]))}},
    }
    with pytest.raises(UnrewindableBodyError) as caught:
        session.post(f"{server.url}/{status}/end", **once[kind])
    said = str(caught.value)
    assert f"127.0.0.1:{server.port}" in said
    assert f"a {status} asks for the body to be sent again to {server.url}/end" in said
    assert "allow_redirects=False" in said
    assert caught.value.response is not None
    assert caught.value.response.status_code == status
    assert server.requests == 1


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_generator_that_need_not_be_sent_again(server: AppServer, session: Session, status: int) -> None:
    session.post(f"{server.url}/{status}/end", data=iter([b"once"]))
    assert [(asked.method, asked.body) for asked in server.seen] == [("POST", b"once"), ("GET", b"")]


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("kind", ["file", "iterable", "bytes"])
def test_a_redirect_in_the_middle_of_an_upload(
    server: AppServer, session: Session, tmp_path: Path, status: int, kind: str
) -> None:
    """The sending stops, and begins anew at the other server."""
    size = 64 << 20
    chunk = bytes(1 << 20)

    class Large:
        def __iter__(self) -> Iterator[bytes]:
            return (chunk for _ in range(size // len(chunk)))

    def busy(peer: Peer) -> None:
        peer.read_head()
        peer.read_exactly(100_000)
        peer.send(reply(status, b"", {"Location": f"{server.url}/end", "Connection": "close"}))
        peer.half_close()
        peer.wait_closed()

    path = tmp_path / "large"
    with path.open("w+b") as file:
        file.truncate(size)
        data = {"file": file, "iterable": Large(), "bytes": bytes(size)}[kind]
        server._app = lambda request: json_response(len(request.body))
        with ScriptedServer(busy) as first:
            response = session.put(first.url, data=data)
    assert response.json() == size
    assert [earlier.request_complete for earlier in [*response.history, response]] == [False, True]


# ------------------------------------------------------------------------------- in which time


def test_the_total_holds_for_the_whole_chain(session: Session) -> None:
    """Each answer is in time; all of them together are not."""
    session.max_redirects = 10**9
    with AppServer(lambda request: Answer(302, {"Location": "/"})) as server:
        with pytest.raises(TotalTimeout, match="Timeouts.total"):
            session.get(server.url, timeout=Timeouts(total=0.2))
        assert server.requests > 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_total_holds_for_the_last_one_too(session: Session, stream: bool) -> None:
    with never_answers() as silent, AppServer(lambda request: Answer(307, {"Location": silent.url})) as server:
        with pytest.raises(TotalTimeout):
            session.post(server.url, data=b"body", timeout=Timeouts(total=0.2), stream=stream)
        assert silent.connections == 1


def test_the_total_holds_for_the_body_of_a_redirect(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(302, {"Location": "/", "Content-Length": "100000"}))
        peer.send_slowly((b"x" for _ in range(100_000)), period=0.01)

    with ScriptedServer(script) as server, pytest.raises(TotalTimeout):
        session.get(server.url, timeout=Timeouts(total=0.2), stream=True)


def test_the_total_holds_for_the_body_behind_a_redirect(session: Session) -> None:
    with (
        trickle(bytes(1000), period=0.01) as slow,
        AppServer(lambda request: Answer(302, {"Location": slow.url})) as server,
    ):
        response = session.get(server.url, timeout=Timeouts(total=0.2), stream=True)
        with pytest.raises(TotalTimeout):
            response.content  # noqa: B018  # reading it is what fails


def test_the_total_holds_for_what_hooks_send(server: AppServer, session: Session) -> None:
    clocks: set[int] = set()
    with never_answers() as silent:

        def hook(response: Response, **kwargs: Any) -> None:
            clocks.add(id(kwargs["timeout"]))
            if response.status_code == 200:
                assert response.request is not None
                again = response.request.copy()
                again.prepare_url(silent.url, None)
                response.connection.send(again, **kwargs)

        with pytest.raises(TotalTimeout):
            session.get(f"{server.url}/302/302/end", hooks={"response": hook}, timeout=Timeouts(total=0.3))
    assert len(clocks) == 1  # one clock for all of them

"""One set of behaviours in three directions: `requests` alone, `requests` over this engine by `SyncflowAdapter`, and a
session of ours over the adapter of `requests`.
"""

from __future__ import annotations

import datetime
import gzip
import io
import pickle
import ssl
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import syncflow
from syncflow import PoolLimits, Timeouts
from syncflow.adapters import SyncflowAdapter
from syncflow.testing import (
    AppServer,
    ScriptedServer,
    early_response,
    echo,
    full_backlog,
    json_response,
    never_answers,
    pattern,
    refused_port,
    reply,
    reply_head,
    trickle,
    truncated,
)
from syncflow.testing import Request as Seen
from syncflow.testing import Response as Answer

requests = pytest.importorskip("requests")

LINES = "één\ntwo\r\nthree".encode()
BIG = pattern(300_000)


def app(request: Seen) -> Answer:
    """Answers by path."""
    name = request.path.strip("/")
    if name in ANSWERS:
        return ANSWERS[name]
    if name.isdigit():
        return Answer(int(name), {"Location": "/echo", "Set-Cookie": f"from={name}; Path=/"}, b"elsewhere")
    if name == "pieces":
        return Answer(200, {"Content-Type": "text/plain; charset=utf-8"}, iter([LINES[:4], LINES[4:9], LINES[9:]]))
    if name == "basic" and "authorization" not in request.headers:
        return Answer(401, {"WWW-Authenticate": 'Basic realm="r"'})
    if name == "digest" and "authorization" not in request.headers:
        return Answer(401, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}, b"who are you?")
    return echo(request)


ANSWERS = {
    "plain": Answer(200, {"Content-Type": "text/plain; charset=utf-8"}, LINES),
    "latin": Answer(200, {"Content-Type": "text/plain; charset=latin-1"}, "ä".encode("latin-1")),
    "gzip": Answer(
        200, {"Content-Encoding": "gzip", "Content-Type": "text/plain; charset=utf-8"}, gzip.compress(LINES)
    ),
    "deflate": Answer(200, {"Content-Encoding": "deflate"}, zlib.compress(LINES)),
    "broken": Answer(200, {"Content-Encoding": "gzip"}, b"this is no gzip at all"),
    "big": Answer(200, {"Content-Type": "application/octet-stream"}, BIG),
    "json": json_response({"a": [1, None, "ä"]}),
    "missing": Answer(404, {}, b"no such thing"),
    "nothing": Answer(204),
    "fields": Answer(200, [("X-A", "1"), ("x-a", "2"), ("Link", '<http://a/>; rel="next"')], b"x"),
    "cookies": Answer(200, [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", 'b="2 3"; Path=/; HttpOnly')], b"x"),
    "loop": Answer(302, {"Location": "/loop"}),
}


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with AppServer(app) as server:
        yield server


@pytest.fixture
def url(server: AppServer) -> str:
    return server.url


def alone() -> Any:
    return requests.Session()


def over_this_engine() -> Any:
    session = requests.Session()
    session.mount("http://", SyncflowAdapter())
    session.mount("https://", SyncflowAdapter())
    return session


def over_theirs() -> Any:
    session = syncflow.Session()
    session.mount("http://", requests.adapters.HTTPAdapter())
    session.mount("https://", requests.adapters.HTTPAdapter())
    return session


DIRECTIONS: dict[str, tuple[Callable[[], Any], Any]] = {
    "requests alone": (alone, requests),
    "requests over this engine": (over_this_engine, requests),
    "ours over the adapter of requests": (over_theirs, syncflow),
}


@pytest.fixture(params=DIRECTIONS)
def direction(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def library(direction: str) -> Any:
    """The package that the program imports: whose exceptions it catches."""
    return DIRECTIONS[direction][1]


@pytest.fixture
def session(direction: str) -> Iterator[Any]:
    with DIRECTIONS[direction][0]() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def moved() -> Iterator[Any]:
    """A session of `requests` over this engine."""
    with over_this_engine() as session:
        session.trust_env = False
        yield session


# ------------------------------------------------------------------------------------------------- what comes back


def test_an_answer(session: Any, library: Any, url: str) -> None:
    answer = session.get(f"{url}/plain?a=b")
    assert type(answer) is library.Response
    assert (answer.status_code, answer.reason, answer.url, answer.ok) == (200, "OK", f"{url}/plain?a=b", True)
    assert (answer.encoding, answer.text, answer.content) == ("utf-8", LINES.decode(), LINES)
    assert (answer.history, answer.is_redirect, answer.next) == ([], False, None)
    assert isinstance(answer.elapsed, datetime.timedelta)
    assert answer.elapsed > datetime.timedelta(0)
    assert type(answer.request) is library.PreparedRequest
    assert (answer.request.method, answer.request.path_url) == ("GET", "/plain?a=b")


def test_other_answers(session: Any, library: Any, url: str) -> None:
    missing = session.get(f"{url}/missing")
    assert (missing.status_code, bool(missing)) == (404, False)
    with pytest.raises(library.HTTPError, match="404 Client Error: Not Found for url"):
        missing.raise_for_status()
    assert session.get(f"{url}/nothing").content == b""
    assert session.head(f"{url}/plain").content == b""
    assert session.get(f"{url}/latin").text == "ä"
    assert session.get(f"{url}/json").json() == {"a": [1, None, "ä"]}
    assert session.get(f"{url}/big").content == BIG
    with pytest.raises(library.exceptions.JSONDecodeError):
        session.get(f"{url}/plain").json()


def test_fields(session: Any, url: str) -> None:
    answer = session.get(f"{url}/fields")
    assert answer.headers["x-A"] == "1, 2"
    assert sorted(answer.headers) == ["Content-Length", "Link", "X-A"]
    assert answer.links == {"next": {"url": "http://a/", "rel": "next"}}


def test_a_reason_in_another_language(session: Any) -> None:
    with ScriptedServer(lambda peer: [peer.read_request(), peer.send(reply(200, b"", reason="Müde"))]) as server:
        assert session.get(server.url).reason == "Müde"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["gzip", "deflate", "plain", "pieces"])
def test_codings_are_undone(session: Any, url: str, name: str, stream: bool) -> None:
    with session.get(f"{url}/{name}", stream=stream) as answer:
        assert answer.content == LINES
        assert answer.content == LINES


# --------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("name", ["plain", "gzip", "pieces"])
def test_a_stream(session: Any, url: str, name: str) -> None:
    def get() -> Any:
        return session.get(f"{url}/{name}", stream=True)

    with get() as answer:
        assert b"".join(answer.iter_content(4)) == LINES
    with get() as answer:
        assert list(answer.iter_lines(3)) != []
    with get() as answer:
        assert list(answer.iter_lines()) in (LINES.splitlines(), [*LINES.splitlines()[:2], b"", b"three"])
    with get() as answer:
        assert "".join(answer.iter_content(5, decode_unicode=True)) == LINES.decode() or name != "plain"
    with get() as answer:
        assert b"".join(answer.iter_content(None)) == LINES
    with get() as answer:
        assert b"".join(answer) == LINES
        with pytest.raises((TypeError, RuntimeError)):
            _ = answer.content


def test_pieces_are_no_larger_than_asked_for(session: Any, url: str) -> None:
    with session.get(f"{url}/big", stream=True) as answer:
        pieces = list(answer.iter_content(1000))
    assert max(map(len, pieces)) == 1000
    assert b"".join(pieces) == BIG


def test_pieces_come_as_they_arrive(session: Any) -> None:
    """The server sends the next one only when the last was read."""
    with trickle(b"abc") as server:
        server.step()
        with session.get(server.url, stream=True) as answer:
            pieces = answer.iter_content(1)
            seen = []
            for _ in range(3):
                seen.append(next(pieces))
                server.step()
            assert seen == [b"a", b"b", b"c"]


@pytest.mark.parametrize("name", ["plain", "gzip", "big"])
def test_raw_is_the_body_as_it_came(session: Any, url: str, name: str) -> None:
    body = ANSWERS[name].body
    with session.get(f"{url}/{name}", stream=True) as answer:
        assert answer.raw.read(10) == body[:10]  # type: ignore[index]  # these are bytes
        assert answer.raw.read() == body[10:]  # type: ignore[index]  # these are bytes
        assert answer.raw.read() == b""
    with session.get(f"{url}/{name}", stream=True) as answer:
        wrapped = io.BufferedReader(answer.raw) if not isinstance(answer.raw, io.BufferedIOBase) else answer.raw
        assert wrapped.readline() == io.BytesIO(body).readline()  # type: ignore[arg-type]  # these are bytes


@pytest.mark.parametrize("make", [alone, over_this_engine])
def test_raw_undoes_codings_where_it_is_told_to(make: Any, url: str) -> None:
    with make() as session:
        with session.get(f"{url}/gzip", stream=True) as answer:
            answer.raw.decode_content = True
            assert answer.raw.read() == LINES
        with session.get(f"{url}/gzip", stream=True) as answer:
            assert answer.raw.read(decode_content=True) == LINES
        with session.get(f"{url}/pieces", stream=True) as answer:
            assert answer.raw.read(7, decode_content=True) == LINES[:7]  # over the end of the first piece
            assert answer.raw.read(0, decode_content=True) == b""
            assert answer.raw.read(99, decode_content=True) == LINES[7:]
            assert answer.raw.read(1, decode_content=True) == b""
        with session.get(f"{url}/gzip", stream=True) as answer:
            assert b"".join(answer.raw.stream(4, decode_content=True)) == LINES
        with session.get(f"{url}/gzip", stream=True) as answer:
            assert b"".join(answer.raw.stream(4, decode_content=False)) == ANSWERS["gzip"].body
        assert session.get(f"{url}/plain").raw.status == 200


def test_a_stream_that_is_not_read_is_given_up(session: Any, server: AppServer) -> None:
    with session.get(f"{server.url}/big", stream=True) as answer:
        assert answer.raw.read(5) == BIG[:5]
    assert session.get(f"{server.url}/plain").content == LINES


def test_a_connection_is_used_again(session: Any) -> None:
    with AppServer(app) as server:
        for _ in range(3):
            session.get(f"{server.url}/gzip")
            with session.get(f"{server.url}/big", stream=True) as answer:
                assert len(b"".join(answer.iter_content(5000))) == len(BIG)
        assert server.connections == 1


# --------------------------------------------------------------------------------------------------------- uploads

UPLOADS: dict[str, tuple[Callable[[], dict[str, Any]], bytes]] = {
    "bytes": (lambda: {"data": b"\x00\xff"}, b"\x00\xff"),
    "text": (lambda: {"data": "ä"}, "ä".encode()),
    "form": (lambda: {"data": {"a": "b", "c": ["d", "e"]}}, b"a=b&c=d&c=e"),
    "json": (lambda: {"json": {"a": 1}}, b'{"a": 1}'),
    "file": (lambda: {"data": io.BytesIO(BIG)}, BIG),
    "file not at its start": (lambda: {"data": _at(io.BytesIO(BIG), 1000)}, BIG[1000:]),
    "empty file": (lambda: {"data": io.BytesIO()}, b""),
    "generator": (lambda: {"data": iter([b"a", b"bc", BIG])}, b"abc" + BIG),
    "empty generator": (lambda: {"data": iter(())}, b""),
    "nothing": (dict, b""),
}


def _at(file: io.BytesIO, position: int) -> io.BytesIO:
    file.seek(position)
    return file


@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload(session: Any, server: AppServer, name: str) -> None:
    given, body = UPLOADS[name]
    answer = session.post(f"{server.url}/echo", headers={"X-Upload": name}, **given())
    seen = server.seen[-1]
    assert (answer.status_code, seen.method, seen.body) == (200, "POST", body)
    assert ("content-length" in seen.headers) != ("transfer-encoding" in seen.headers)
    assert seen.headers["x-upload"] == name


def test_a_real_file(session: Any, server: AppServer, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BIG)
    with path.open("rb") as file:
        session.put(f"{server.url}/echo", data=file)
        assert server.seen[-1].body == BIG
        assert server.seen[-1].headers["content-length"] == str(len(BIG))
        file.seek(10)
        session.put(f"{server.url}/307", data=file)
        assert server.seen[-1].body == BIG[10:]


def test_a_form_with_files(session: Any, server: AppServer) -> None:
    session.post(f"{server.url}/echo", data={"a": "b"}, files={"f": ("n.txt", io.BytesIO(b"content"), "text/plain")})
    seen = server.seen[-1]
    assert b'name="f"; filename="n.txt"\r\nContent-Type: text/plain\r\n\r\ncontent\r\n' in seen.body
    assert seen.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert seen.headers["content-length"] == str(len(seen.body))


def test_an_upload_of_another_length(session: Any, url: str) -> None:
    """Bytes that are already there go by what they are; whatever the direction, the server sees no wrong length."""
    answer = session.post(f"{url}/echo", data=b"abc", headers={"Content-Length": "3"})
    assert answer.json()["length"] == 3


def test_what_is_sent_without_being_asked_for(session: Any, server: AppServer) -> None:
    session.headers.clear()
    session.get(f"{server.url}/echo", headers={"X-Bytes": b"b", "User-Agent": "mine"})
    names = {name.lower() for name, _ in server.seen[-1].fields} - {"accept-encoding"}
    assert names == {"host", "x-bytes", "user-agent"}
    assert server.seen[-1].headers["x-bytes"] == "b"


@pytest.mark.parametrize("body", ["bytes", "file", "generator"])
def test_an_early_answer_to_an_upload_is_returned(moved: Any, body: str) -> None:
    """Where `requests` alone may say "broken pipe"."""
    large = bytes(1 << 20)
    data = {"bytes": large, "file": io.BytesIO(large), "generator": (large[:65536] for _ in range(64))}[body]
    with early_response(413, body=b"too large", then="linger") as server:
        answer = moved.post(server.url, data=data, timeout=10)
        assert (answer.status_code, answer.content) == (413, b"too large")


# ---------------------------------------------------------------------------- redirects, cookies and authentication


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect(session: Any, server: AppServer, status: int) -> None:
    answer = session.post(f"{server.url}/{status}", data=b"body")
    kept = status in (307, 308)
    assert (answer.url, answer.status_code) == (f"{server.url}/echo", 200)
    assert [(step.status_code, step.content) for step in answer.history] == [(status, b"elsewhere")]
    assert (server.seen[-1].method, server.seen[-1].body) == (("POST", b"body") if kept else ("GET", b""))
    assert server.seen[-1].headers["cookie"] == f"from={status}"


def test_a_redirect_that_is_not_followed(session: Any, url: str) -> None:
    answer = session.get(f"{url}/302", allow_redirects=False)
    assert (answer.status_code, answer.is_redirect, answer.next.url) == (302, True, f"{url}/echo")
    assert session.send(answer.next).json()["path"] == "/echo"


def test_cookies(session: Any, server: AppServer) -> None:
    answer = session.get(f"{server.url}/cookies")
    assert answer.cookies.get_dict() == {"a": "1", "b": '"2 3"'} or answer.cookies["a"] == "1"
    assert [cookie.name for cookie in answer.cookies] == [cookie.name for cookie in session.cookies] == ["a", "b"]
    session.get(f"{server.url}/echo", cookies={"c": "4"})
    assert sorted(server.seen[-1].headers["cookie"].split("; ")) == ["a=1", 'b="2 3"', "c=4"]


@pytest.mark.parametrize("how", ["basic", "digest"])
def test_authentication(session: Any, library: Any, server: AppServer, how: str) -> None:
    kind = {"basic": library.auth.HTTPBasicAuth, "digest": library.auth.HTTPDigestAuth}[how]
    assert session.get(f"{server.url}/{how}").status_code == 401
    answer = session.put(f"{server.url}/{how}", data=io.BytesIO(b"body"), auth=kind("user", "pass"))
    assert answer.status_code == 200
    assert server.seen[-1].headers["authorization"].lower().startswith(how)
    assert server.seen[-1].body == b"body"
    assert [step.status_code for step in answer.history] == ([401] if how == "digest" else [])


def test_hooks(session: Any, url: str) -> None:
    called = []
    session.get(f"{url}/302", hooks={"response": lambda answer, **kwargs: called.append(answer.status_code)})
    assert called == [302, 200]


# ------------------------------------------------------------------------------------------------------ what fails


def test_a_refused_connection(session: Any, library: Any) -> None:
    with refused_port() as nobody, pytest.raises(library.ConnectionError) as caught:
        session.get(nobody.url)
    assert not isinstance(caught.value, library.Timeout)
    assert caught.value.request.url == f"{nobody.url}/"


def test_a_connection_that_takes_too_long(session: Any, library: Any) -> None:
    with full_backlog() as nobody, pytest.raises(library.exceptions.ConnectTimeout) as caught:
        session.get(nobody.url, timeout=(0.05, 5))
    assert isinstance(caught.value, library.Timeout)
    assert isinstance(caught.value, library.ConnectionError)


@pytest.mark.parametrize("timeout", [0.05, (5, 0.05)])
def test_an_answer_that_does_not_come(session: Any, library: Any, timeout: Any) -> None:
    with never_answers() as server, pytest.raises(library.exceptions.ReadTimeout) as caught:
        session.get(server.url, timeout=timeout)
    assert isinstance(caught.value, library.Timeout)
    assert caught.value.request.url == f"{server.url}/"


def test_an_answer_that_never_begins(session: Any, library: Any) -> None:
    with ScriptedServer(lambda peer: [peer.read_request(), peer.close()]) as server:
        with pytest.raises(library.ConnectionError):
            session.post(server.url, data=b"x")


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_body_that_ends_too_early(session: Any, library: Any, framing: Any, stream: bool) -> None:
    with truncated(framing=framing) as server, pytest.raises(library.exceptions.ChunkedEncodingError):
        with session.get(server.url, stream=stream) as answer:
            list(answer.iter_content(100))


@pytest.mark.parametrize("stream", [False, True])
def test_a_body_that_does_not_decode(session: Any, library: Any, url: str, stream: bool) -> None:
    with pytest.raises(library.exceptions.ContentDecodingError), session.get(f"{url}/broken", stream=stream) as answer:
        _ = answer.content


def test_bytes_that_are_no_http(session: Any, library: Any) -> None:
    with ScriptedServer(lambda peer: [peer.read_request(), peer.send(b"SSH-2.0-something\r\n\r\n")]) as server:
        with pytest.raises(library.ConnectionError):
            session.get(server.url)


def test_a_loop(session: Any, library: Any, url: str) -> None:
    session.max_redirects = 3
    with pytest.raises(library.TooManyRedirects) as caught:
        session.get(f"{url}/loop")
    assert caught.value.response.status_code == 302


@pytest.mark.parametrize(
    ("bad", "name"), [("nothing", "MissingSchema"), ("ftp://x/", "InvalidSchema"), ("http://", "InvalidURL")]
)
def test_a_bad_url(session: Any, library: Any, bad: str, name: str) -> None:
    with pytest.raises(getattr(library.exceptions, name)):
        session.get(bad)


def test_a_bad_header(session: Any, library: Any, url: str) -> None:
    with pytest.raises(library.exceptions.InvalidHeader):
        session.get(url, headers={"X-A": "a\r\nb"})


@pytest.mark.parametrize("stream", [False, True])
def test_a_body_that_stalls_is_a_read_timeout(moved: Any, stream: bool) -> None:
    """Where `requests` alone says ConnectionError, as if nothing could be had of the server."""

    def script(peer: Any) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "10"}) + b"begin")
        peer.wait_closed()

    with ScriptedServer(script) as server, pytest.raises(requests.exceptions.ReadTimeout):
        with moved.get(server.url, stream=stream, timeout=0.05) as answer:
            list(answer.iter_content(5))


def test_exceptions_that_requests_does_not_know_are_their_bases(moved: Any) -> None:
    moved.mount("http://", SyncflowAdapter(timeout=Timeouts(total=0.05)))
    with never_answers() as server:
        with pytest.raises(requests.exceptions.Timeout) as caught:
            moved.get(server.url)
        assert type(caught.value) is requests.exceptions.Timeout
        assert isinstance(caught.value.__cause__, syncflow.TotalTimeout)
        assert isinstance(caught.value.request, requests.PreparedRequest)


# ------------------------------------------------------------------------------------------------------------- TLS


def test_a_certificate_is_checked(
    session: Any, library: Any, server_tls: ssl.SSLContext, ca_file: Path, recwarn: pytest.WarningsRecorder
) -> None:
    with AppServer(app, ssl_context=server_tls) as server:
        with pytest.raises(library.exceptions.SSLError):
            session.get(f"{server.url}/plain")
        assert session.get(f"{server.url}/plain", verify=str(ca_file)).content == LINES
        session.verify = str(ca_file)
        assert session.get(f"{server.url}/gzip").content == LINES


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_certificate_is_not_checked_where_nobody_wants_it(session: Any, server_tls: ssl.SSLContext) -> None:
    with AppServer(app, ssl_context=server_tls) as server:
        assert session.get(f"{server.url}/plain", verify=False).content == LINES


def test_a_certificate_that_is_not_there(session: Any, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        session.get("https://127.0.0.1:1/", verify=str(tmp_path / "nowhere"))


# ------------------------------------------------------------------------------------------------------ the adapter


def test_a_session_goes_through_a_pickle(session: Any, url: str) -> None:
    session.headers["X-A"] = "b"
    session.get(f"{url}/cookies")
    with pickle.loads(pickle.dumps(session)) as other:
        answer = other.get(f"{url}/echo").json()
        assert (answer["headers"]["x-a"], answer["headers"]["cookie"].startswith("a=1")) == ("b", True)
    assert session.get(f"{url}/plain").content == LINES


def test_a_pickled_adapter_keeps_its_limits() -> None:
    adapter = SyncflowAdapter(timeout=Timeouts(connect=1), pool=PoolLimits(per_host=2))
    again = pickle.loads(pickle.dumps(adapter))
    assert again.timeout == Timeouts(connect=1)
    assert again._adapter.__getstate__()["limits"] == PoolLimits(per_host=2)
    adapter.close()
    again.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_goes_through_a_pickle(session: Any, url: str, stream: bool) -> None:
    with session.get(f"{url}/gzip", stream=stream) as answer:
        again = pickle.loads(pickle.dumps(answer))
    assert (again.content, again.status_code, again.headers["content-encoding"]) == (LINES, 200, "gzip")


def test_the_timeout_of_the_adapter_holds_where_there_is_none(moved: Any) -> None:
    moved.mount("http://", SyncflowAdapter(timeout=Timeouts(read=0.05)))
    with never_answers() as server:
        with pytest.raises(requests.exceptions.ReadTimeout):
            moved.get(server.url)
        with pytest.raises(requests.exceptions.ReadTimeout):
            moved.get(server.url, timeout=None)


def test_a_timeout_of_urllib3(moved: Any) -> None:
    urllib3 = pytest.importorskip("urllib3")
    with never_answers() as server, pytest.raises(requests.exceptions.ReadTimeout):
        moved.get(server.url, timeout=urllib3.Timeout(connect=5, read=0.05))


def test_a_dropped_stream_gives_its_connection_up(moved: Any) -> None:
    with AppServer(app) as server:
        with pytest.warns(ResourceWarning, match="dropped before its body was read"):
            assert moved.get(f"{server.url}/big", stream=True).status_code == 200
        server.wait_until_idle()
        assert moved.get(f"{server.url}/plain").content == LINES


def test_a_closed_session_says_so(moved: Any, url: str) -> None:
    moved.close()
    with pytest.raises(requests.exceptions.RequestException, match="closed"):
        moved.get(url)


def test_both_see_the_same_of_the_server(url: str) -> None:
    """Attribute by attribute: the same program before and after its one line."""
    found = []
    for make in (alone, over_this_engine):
        with make() as session:
            answers = [session.get(f"{url}/{name}") for name in [*ANSWERS, "302", "pieces"] if name not in FAILING]
            found.append([shown(answer) for answer in answers])
    assert found[0] == found[1]


FAILING = {"broken", "loop"}


def shown(answer: Any) -> dict[str, Any]:
    names = ["status_code", "reason", "url", "encoding", "content", "text", "ok", "links", "apparent_encoding"]
    pieces = {name: getattr(answer, name) for name in names}
    pieces["headers"] = sorted(answer.headers.items())
    pieces["cookies"] = sorted((c.name, c.value, c.domain, c.path) for c in answer.cookies)
    pieces["history"] = [(step.status_code, step.url) for step in answer.history]
    if answer.headers.get("Content-Type") == "application/json":
        pieces["json"] = answer.json()
    return pieces

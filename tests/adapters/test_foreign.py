"""Adapters that were written for `requests`, mounted on a session of ours.

What `requests_mock` answers is compared with what `requests` itself makes of it.
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import io
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import syncflow
from syncflow import Response, Session, Timeouts
from syncflow.adapters import BaseAdapter
from syncflow.testing import AppServer

requests = pytest.importorskip("requests")
requests_mock = pytest.importorskip("requests_mock")
urllib3 = pytest.importorskip("urllib3")

HOST = "http://host.example"
URL = f"{HOST}/path"


@pytest.fixture
def adapter() -> Any:
    return requests_mock.Adapter()


@pytest.fixture
def session(adapter: Any) -> Iterator[Session]:
    with Session() as session:
        session.mount(HOST, adapter)
        yield session


# --------------------------------------------------------------------------------------------- as requests does it


def cookies_of(jar: Any) -> list[tuple[str, str]]:
    return sorted((cookie.name, cookie.value) for cookie in jar)


def shown(answer: Any) -> dict[str, Any]:
    pieces = {
        name: getattr(answer, name)
        for name in ("status_code", "reason", "url", "encoding", "content", "text", "ok", "is_redirect", "links")
    }
    pieces["headers"] = sorted(answer.headers.items())
    pieces["cookies"] = cookies_of(answer.cookies)
    pieces["history"] = [(step.status_code, step.url, step.content) for step in answer.history]
    pieces["lines"] = list(answer.iter_lines())
    pieces["pieces"] = list(answer.iter_content(3))
    pieces["repr"] = repr(answer)
    with contextlib.suppress(ValueError):
        pieces["json"] = answer.json()
    return pieces


ANSWERS: dict[str, dict[str, Any]] = {
    "text": {"text": "täxt"},
    "text in a charset": {"text": "täxt", "headers": {"Content-Type": "text/plain; charset=latin-1"}},
    "json": {"json": {"a": [1, None, "ä"]}},
    "content": {"content": b"\x00\xff" * 100},
    "nothing": {},
    "status": {"status_code": 404, "text": "gone"},
    "reason": {"status_code": 500, "reason": "Tired"},
    "headers": {"headers": {"X-A": "b", "Link": '<http://a/>; rel="next"'}, "text": "x"},
    "file": {"body": lambda: io.BytesIO(b"of a file\nand more")},
    "cookies": {"cookies": {"a": "b", "c": "d"}, "text": "x"},
    "set-cookie": {"headers": {"Set-Cookie": "a=b; Path=/"}, "text": "x"},
    "gzip": {"content": gzip.compress(b"packed"), "headers": {"Content-Encoding": "gzip"}},
    "redirect": {"status_code": 302, "headers": {"Location": f"{HOST}/other"}},
    "relative redirect": {"status_code": 301, "headers": {"Location": "/other"}},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_what_requests_makes_of_it(name: str, stream: bool) -> None:
    answers = []
    for library in (requests, syncflow):
        adapter = requests_mock.Adapter()
        given = {key: value() if callable(value) else value for key, value in ANSWERS[name].items()}
        adapter.register_uri("GET", URL, **given)
        adapter.register_uri("GET", f"{HOST}/other", text="the other one")
        with library.Session() as session:
            session.mount(HOST, adapter)
            with session.get(URL, stream=stream, params={"q": "1"}) as answer:
                answers.append(shown(answer) | {"asked": [request.url for request in adapter.request_history]})
    assert answers[0] == answers[1]


# -------------------------------------------------------------------------------------------------- what comes back


def test_it_is_a_response_of_ours(session: Session, adapter: Any) -> None:
    adapter.register_uri("GET", URL, text="x")
    answer = session.get(URL)
    assert type(answer) is Response
    assert answer.request is not None
    assert type(answer.request) is syncflow.PreparedRequest
    assert answer.connection.adapter is adapter
    assert isinstance(answer.elapsed, datetime.timedelta)
    assert answer.elapsed > datetime.timedelta(0)
    assert pickle.loads(pickle.dumps(answer)).text == "x"
    with pytest.raises(syncflow.HTTPError):
        adapter.register_uri("GET", URL, status_code=503)
        session.get(URL).raise_for_status()


def test_a_stream_is_read_as_it_is_asked_for(session: Session, adapter: Any) -> None:
    body = io.BytesIO(bytes(1 << 20))
    adapter.register_uri("GET", URL, body=body)
    with session.get(URL, stream=True) as answer:
        pieces = answer.iter_content(1000)
        assert next(pieces) == bytes(1000)
        assert body.tell() < 1 << 18
        assert sum(map(len, pieces)) == (1 << 20) - 1000
    with pytest.raises(syncflow.StreamConsumedError):
        _ = answer.content


def test_raw_is_a_file_of_the_body_as_it_came(session: Session, adapter: Any) -> None:
    packed = gzip.compress(b"packed")
    adapter.register_uri("GET", URL, content=packed, headers={"Content-Encoding": "gzip"})
    with session.get(URL, stream=True) as answer:
        assert answer.raw.read(3) + answer.raw.read() == packed
    with session.get(URL, stream=True) as answer:
        assert answer.content == b"packed"


def test_codings_are_undone_once(session: Session, adapter: Any) -> None:
    """Also where the adapter's response would undo them by itself."""
    headers = {"Content-Encoding": "gzip"}
    raw = urllib3.HTTPResponse(io.BytesIO(gzip.compress(b"packed")), headers, 200, preload_content=False)
    assert raw.decode_content
    adapter.register_uri("GET", URL, raw=raw)
    assert session.get(URL).content == b"packed"


def test_what_was_not_read_is_closed(session: Session, adapter: Any) -> None:
    body = io.BytesIO(b"x" * 1000)
    adapter.register_uri("GET", URL, body=body)
    with session.get(URL, stream=True):
        assert not body.closed
    assert body.closed


def test_several_cookies_of_one_answer_stay_several(session: Session, adapter: Any) -> None:
    headers = urllib3.HTTPHeaderDict()
    headers.add("Set-Cookie", "a=1; Path=/; Expires=Fri, 01 Jan 2100 00:00:00 GMT")
    headers.add("Set-Cookie", "b=2; Path=/")
    raw = urllib3.HTTPResponse(io.BytesIO(b"body"), headers, 200, reason="OK", preload_content=False)
    adapter.register_uri("GET", URL, raw=raw)
    answer = session.get(URL)
    assert cookies_of(answer.cookies) == [("a", "1"), ("b", "2")]
    assert cookies_of(session.cookies) == [("a", "1"), ("b", "2")]


def test_a_cookie_of_an_answer_is_sent_with_the_next_request(session: Session, adapter: Any) -> None:
    adapter.register_uri("GET", f"{HOST}/login", headers={"Set-Cookie": "a=b; Path=/"})
    adapter.register_uri("GET", URL, text="x")
    session.get(f"{HOST}/login")
    session.get(URL)
    assert adapter.last_request.headers["Cookie"] == "a=b"


def test_redirects_are_followed_from_one_adapter_to_the_other(session: Session, adapter: Any) -> None:
    with AppServer() as server:
        adapter.register_uri("GET", URL, status_code=307, headers={"Location": f"{server.url}/there"})
        answer = session.get(URL, headers={"Authorization": "secret"})
        assert answer.json()["path"] == "/there"
        assert "authorization" not in answer.json()["headers"]
        assert [(step.status_code, step.url) for step in answer.history] == [(307, URL)]


@pytest.mark.parametrize("where", [URL, "mock://host/path"])
def test_digest_authentication_goes_on_through_the_adapter(session: Session, adapter: Any, where: str) -> None:
    challenge = {"status_code": 401, "headers": {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}}
    session.mount("mock://", adapter)
    adapter.register_uri("GET", where, [challenge, {"text": "welcome"}])
    answer = session.get(where, auth=syncflow.auth.HTTPDigestAuth("user", "pass"))
    assert type(answer) is Response
    assert (answer.text, [step.status_code for step in answer.history]) == ("welcome", [401])
    assert (adapter.last_request.timeout, adapter.call_count) == ((10.0, 60.0), 2)
    assert adapter.last_request.headers["Authorization"].startswith('Digest username="user"')


def test_hooks_see_the_response(session: Session, adapter: Any) -> None:
    seen = []
    adapter.register_uri("GET", URL, text="x")
    session.get(URL, hooks={"response": lambda response, **kwargs: seen.append(response)})
    assert [type(response) for response in seen] == [Response]


# ------------------------------------------------------------------------------------------------- what is handed on


def test_what_the_adapter_sees_of_a_request(session: Session, adapter: Any) -> None:
    adapter.register_uri("POST", URL, text="x")
    session.headers["X-Session"] = "1"
    session.post(URL, params={"a": "b"}, json={"c": "d"}, headers={"X-Call": "2"}, auth=("u", "p"), cookies={"e": "f"})
    seen = adapter.last_request
    assert (seen.method, seen.url, seen.path, seen.qs) == ("POST", f"{URL}?a=b", "/path", {"a": ["b"]})
    assert (seen.json(), seen.text, seen.body) == ({"c": "d"}, '{"c": "d"}', b'{"c": "d"}')
    names = ["X-Session", "x-call", "Authorization", "Cookie", "Content-Type", "Content-Length"]
    assert [seen.headers[name] for name in names] == ["1", "2", "Basic dTpw", "e=f", "application/json", "10"]
    assert (adapter.called, adapter.call_count) == (True, 1)


@pytest.mark.parametrize(
    ("given", "text"),
    [({"data": {"a": "ä"}}, "a=%C3%A4"), ({"data": "ä"}, "ä"), ({"data": b"x"}, "x"), ({"json": 0}, "0"), ({}, None)],
)
def test_a_body_can_be_matched(session: Session, adapter: Any, given: dict[str, Any], text: str | None) -> None:
    adapter.register_uri("POST", URL, text="matched", additional_matcher=lambda request: request.text == text)
    assert session.post(URL, **given).text == "matched"


def test_a_form_with_files_can_be_matched(session: Session, adapter: Any) -> None:
    """It streams, so it is read; a matcher that looks into `body` has a file there."""

    def matcher(request: Any) -> bool:
        body = request.body.read()
        assert len(body) == int(request.headers["Content-Length"])
        return b'filename="n.txt"' in body and b"\r\n\r\ncontent\r\n" in body

    adapter.register_uri("POST", URL, text="matched", additional_matcher=matcher)
    assert session.post(URL, data={"a": "b"}, files={"f": ("n.txt", io.BytesIO(b"content"))}).text == "matched"


def test_headers_and_the_query_can_be_matched(session: Session, adapter: Any) -> None:
    adapter.register_uri("GET", re.compile("example/p"), text="by expression")
    adapter.register_uri("GET", f"{URL}?a=1", text="by query", complete_qs=True)
    adapter.register_uri("GET", URL, text="by header", request_headers={"X-A": "b"})
    assert session.get(URL, headers={"x-a": "b"}).text == "by header"
    assert session.get(URL, params={"a": 1}).text == "by query"
    assert session.get(URL, params={"a": 1, "b": 2}).text == "by expression"


def test_callbacks_make_the_answer(session: Session, adapter: Any) -> None:
    def callback(request: Any, context: Any) -> dict[str, str]:
        context.status_code = 201
        context.headers["X-Made"] = "here"
        context.cookies.set("made", "there")
        return {"method": request.method}

    adapter.register_uri(requests_mock.ANY, URL, json=callback)
    answer = session.patch(URL)
    assert (answer.status_code, answer.json(), answer.headers["x-made"]) == (201, {"method": "PATCH"}, "here")
    assert answer.cookies["made"] == "there"


def test_a_list_of_answers_is_gone_through(session: Session, adapter: Any) -> None:
    adapter.register_uri("GET", URL, [{"text": "first"}, {"status_code": 500}, {"text": "last"}])
    assert [session.get(URL).text for _ in range(4)] == ["first", "", "last", "last"]


# -------------------------------------------------------------------------------------------------------- exceptions


@pytest.mark.parametrize("name", ["ConnectTimeout", "ConnectionError", "ReadTimeout", "SSLError", "TooManyRedirects"])
def test_an_exception_of_requests_is_ours(session: Session, adapter: Any, name: str) -> None:
    theirs = getattr(requests.exceptions, name)("what happened")
    adapter.register_uri("GET", URL, exc=theirs)
    with pytest.raises(getattr(syncflow.exceptions, name), match="what happened") as caught:
        session.get(URL)
    assert caught.value.__cause__ is theirs
    assert caught.value.request.url == URL


@pytest.mark.parametrize("kind", [syncflow.ConnectTimeout, KeyError, requests_mock.NoMockAddress])
def test_any_other_exception_goes_through(session: Session, adapter: Any, kind: Any) -> None:
    if kind is not requests_mock.NoMockAddress:
        adapter.register_uri("GET", URL, exc=kind("mine"))
    with pytest.raises(kind) as caught:
        session.get(URL)
    assert type(caught.value) is kind


class Breaks(io.BytesIO):
    """A body that cannot be read to its end."""

    def __init__(self, error: Exception) -> None:
        super().__init__(b"begin")
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        if not piece:
            raise self.error
        return piece


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (urllib3.exceptions.IncompleteRead(5, 5), syncflow.ChunkedEncodingError),
        (urllib3.exceptions.ProtocolError("cut"), syncflow.ChunkedEncodingError),
        (urllib3.exceptions.ReadTimeoutError(None, URL, "slow"), syncflow.ConnectionError),
        (OSError("cable"), syncflow.ChunkedEncodingError),  # to urllib3 that is a ProtocolError
    ],
)
def test_a_body_that_breaks_off(session: Session, adapter: Any, error: Exception, kind: Any) -> None:
    adapter.register_uri("GET", URL, body=lambda request, context: Breaks(error))
    breaks_off(session, kind)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError("cable"), syncflow.ConnectionError), (syncflow.ReadTimeout("slow"), syncflow.ReadTimeout)],
)
def test_a_mere_file_that_breaks_off(error: Exception, kind: Any) -> None:
    def make(request: Any) -> Any:
        answer = ours(requests, request)
        answer.raw = Breaks(error)
        return answer

    with Session() as session:
        session.mount(HOST, ByHand(make))
        breaks_off(session, kind)


def breaks_off(session: Session, kind: Any) -> None:
    with pytest.raises(kind):
        session.get(URL)
    with session.get(URL, stream=True) as answer:
        pieces = answer.iter_content(5)
        assert next(pieces) == b"begin"
        with pytest.raises(kind) as caught:
            next(pieces)
        assert type(caught.value) is kind


# --------------------------------------------------------------------------------------------------------- by hand


def ours(library: Any, request: Any) -> Any:
    answer = library.Response()
    answer.status_code, answer.reason, answer.url = 200, "Fine", request.url
    answer.headers = library.structures.CaseInsensitiveDict({"Content-Type": "text/plain; charset=utf-8"})
    answer.encoding = "utf-8"
    answer.raw = io.BytesIO("ä\nb".encode())
    return answer


class ByHand(BaseAdapter):
    """As people write them; remembers how it was called."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self.make = make
        self.calls: list[dict[str, Any]] = []
        self.closed = 0

    def send(
        self,
        request: Any,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Any:
        self.calls.append(
            {"stream": stream, "timeout": timeout, "verify": verify, "cert": cert, "proxies": dict(proxies)}
        )
        return self.make(request)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("library", [requests, syncflow])
@pytest.mark.parametrize("stream", [False, True])
def test_an_adapter_written_by_hand(library: Any, stream: bool) -> None:
    adapter = ByHand(lambda request: ours(library, request))
    with Session() as session:
        session.mount("hand://", adapter)
        with session.get("hand://host/x", stream=stream) as answer:
            assert type(answer) is Response
            assert (answer.status_code, answer.reason, answer.url) == (200, "Fine", "hand://host/x")
            assert (answer.text, list(answer.iter_lines())) == ("ä\nb", ["ä".encode(), b"b"])
            assert answer.elapsed > datetime.timedelta(0)
    assert adapter.closed == 1


def test_hooks_and_redirects_find_what_a_response_made_by_hand_does_not_say() -> None:
    """Who asked, and by what it is asked once more."""
    told = [
        (302, {"Location": "hand://host/there"}),
        (401, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}),
        (200, {}),
    ]

    def make(request: Any) -> Any:
        answer = ours(syncflow, request)
        answer.status_code, headers = told.pop(0)
        answer.headers.update(headers)
        return answer

    adapter = ByHand(make)
    with Session() as session:
        session.mount("hand://", adapter)
        answer = session.get("hand://host/x", auth=syncflow.auth.HTTPDigestAuth("user", "pass"))
    assert (answer.status_code, len(adapter.calls)) == (200, 3)
    assert answer.request is not None
    assert answer.request.headers["Authorization"].startswith("Digest ")
    assert [call["timeout"] for call in adapter.calls] == [(10.0, 60.0)] * 3


def test_a_request_that_was_changed_since_it_was_prepared() -> None:
    seen = []
    with Session() as session:
        session.mount("hand://", ByHand(lambda request: seen.append(dict(request.headers)) or ours(syncflow, request)))
        request = session.prepare_request(syncflow.Request("POST", "hand://host/", data=b"abc"))
        request.headers = {"X-A": "b"}  # type: ignore[assignment]  # as programs do it
        session.send(request)
    assert seen == [{"X-A": "b", "Content-Length": "3"}]


def test_a_mere_file_gives_the_body_itself() -> None:
    """As in `requests`: who hands over a file has undone the codings."""

    def make(request: Any) -> Any:
        answer = ours(requests, request)
        answer.headers["Content-Encoding"] = "gzip"
        return answer

    with Session() as session:
        session.mount("hand://", ByHand(make))
        assert session.get("hand://x").text == "ä\nb"


def test_an_answer_that_was_read_already() -> None:
    def make(request: Any) -> Any:
        answer = ours(requests, request)
        answer.history = [ours(requests, request)]
        assert answer.content == answer.history[0].content
        return answer

    with Session() as session:
        session.mount("hand://", ByHand(make))
        answer = session.get("hand://x")
        assert answer.text == "ä\nb"
        assert [(type(step), step.text) for step in answer.history] == [(Response, "ä\nb")]


def test_an_answer_without_a_body() -> None:
    def make(request: Any) -> Any:
        answer = ours(requests, request)
        answer.raw = None
        return answer

    with Session() as session:
        session.mount("hand://", ByHand(make))
        assert session.get("hand://x").content == b""


@pytest.mark.parametrize(
    ("given", "handed"),
    [
        ({"timeout": 5}, 5),
        ({"timeout": (3.05, 27)}, (3.05, 27)),
        ({"timeout": (None, 5)}, (None, 5)),
        ({"timeout": None}, None),
        ({"timeout": Timeouts(connect=1, read=2, write=3, total=4)}, (1, 2)),
        ({}, (10.0, 60.0)),
    ],
)
def test_timeouts_are_handed_on_as_requests_has_them(given: dict[str, Any], handed: Any) -> None:
    adapter = ByHand(lambda request: ours(syncflow, request))
    with Session() as session:
        session.mount("hand://", adapter)
        session.get("hand://host/", **given)
    assert adapter.calls[0]["timeout"] == handed
    assert type(adapter.calls[0]["timeout"]) is type(handed)


def test_the_other_settings_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    adapter = ByHand(lambda request: ours(syncflow, request))
    with Session() as session:
        session.trust_env = False
        session.mount("hand://", adapter)
        session.get("hand://host/")
        session.get(
            "hand://host/", stream=True, verify="/ca.pem", cert=("c", "k"), proxies={"hand": "http://p"}
        ).close()
    plain, full = adapter.calls
    assert plain == {"stream": False, "timeout": (10.0, 60.0), "verify": True, "cert": None, "proxies": {}}
    assert full == {
        "stream": True,
        "timeout": (10.0, 60.0),
        "verify": "/ca.pem",
        "cert": ("c", "k"),
        "proxies": {"hand": "http://p"},
    }


@pytest.mark.parametrize("value", ["a\r\nb", "a\x00", " a"])
def test_a_header_that_may_not_be_sent_does_not_reach_the_adapter(value: str) -> None:
    adapter = ByHand(lambda request: ours(syncflow, request))
    with Session() as session:
        session.mount("hand://", adapter)
        with pytest.raises(syncflow.InvalidHeader, match="nothing was sent"):
            session.get("hand://host/", headers={"X-A": value})
    assert adapter.calls == []


def test_a_subclass_of_ours_that_changes_send() -> None:
    """As programs write it, for a timeout of their own."""

    class WithHeader(syncflow.adapters.HTTPAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("timeout") is None:
                kwargs["timeout"] = 5
            request.headers["X-Adapter"] = "mine"
            return super().send(request, *args, **kwargs)

    with AppServer() as server, Session() as session:
        session.mount("http://", WithHeader())
        assert session.get(server.url).json()["headers"]["x-adapter"] == "mine"

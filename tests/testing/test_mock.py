"""SyncflowMock: which request gets what, what it keeps, and what is said of a request that nobody has foreseen."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator

import pytest

import syncflow
from syncflow import Retry, Session, Timeouts
from syncflow.testing import ANY, SyncflowMock, UnmatchedRequest

URL = "https://api.example/users/7"


@pytest.fixture
def mock() -> Iterator[SyncflowMock]:
    with SyncflowMock() as mock:
        yield mock


@pytest.fixture
def session(new_session: Callable[..., Session]) -> Session:
    return new_session()


def test_a_request_gets_what_is_registered(mock: SyncflowMock, session: Session) -> None:
    users = mock.get(URL, json={"name": "Ada"})
    response = session.get(URL, headers={"X-Own": "1"})
    assert (response.status_code, response.json(), response.url) == (200, {"name": "Ada"}, URL)
    assert response.headers["Content-Type"] == "application/json"
    assert response.peer == ("api.example", 443)
    (request,) = mock.request_history
    assert (request.method, request.url, request.path) == ("GET", URL, "/users/7")
    assert (request.headers["x-own"], request.headers["Host"]) == ("1", "api.example")
    assert mock.last_request is users.last_request is request
    assert (mock.called, mock.call_count, users.called, users.call_count) == (True, 1, True, 1)


def test_before_anything_came_nothing_was_called(mock: SyncflowMock) -> None:
    users = mock.get(URL)
    assert (users.called, users.call_count, users.last_request, users.request_history) == (False, 0, None, [])


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "head", "options"])
def test_each_method_is_its_own(mock: SyncflowMock, session: Session, method: str) -> None:
    getattr(mock, method)(URL, text=method)
    response = session.request(method, URL)
    assert (response.status_code, response.text) == (200, "" if method == "head" else method)
    with pytest.raises(UnmatchedRequest):
        session.request("TRACE", URL)


def test_any_method_and_any_url(mock: SyncflowMock, session: Session) -> None:
    mock.request(ANY, ANY, text="all")
    mock.request("purge", "http://cache.example/", text="purged")
    assert session.request("PURGE", "http://cache.example").text == "purged"
    assert session.delete("http://anywhere.example/at?all").text == "all"


@pytest.mark.parametrize(
    ("registered", "asked", "fits"),
    [
        ("http://a.example", "http://a.example/", True),
        ("http://A.example:80/", "http://a.example/", True),
        ("http://a.example/", "https://a.example/", False),
        ("http://a.example/", "http://b.example/", False),
        ("http://a.example/", "http://a.example:8080/", False),
        ("http://a.example/p", "http://a.example/p?q=1", True),
        ("http://a.example/p?q=1", "http://a.example/p?r=2&q=1", True),
        ("http://a.example/p?q=1", "http://a.example/p?q=2", False),
        ("http://a.example/p?q=1&q=1", "http://a.example/p?q=1", False),
        ("http://a.example/p?q=", "http://a.example/p?q", True),
        ("http://a.example/p", "http://a.example/P", False),
        ("http://a.example/p", "http://a.example/p/q", False),
        ("http://bücher.example/ü", "http://xn--bcher-kva.example/%C3%BC", True),
        ("http+unix://%2Frun%2Fx.sock/p", "http+unix://%2Frun%2Fx.sock/p", True),
        (re.compile(r"/users/\d+$"), "https://api.example/users/7", True),
        (re.compile(r"/users/\d+$"), "https://api.example/users/ada", False),
    ],
)
def test_which_urls_fit(mock: SyncflowMock, session: Session, registered, asked: str, fits: bool) -> None:
    mock.get(registered, text="yes")
    if fits:
        assert session.get(asked).text == "yes"
    else:
        with pytest.raises(UnmatchedRequest):
            session.get(asked)


def test_of_two_that_fit_the_later_one_answers(mock: SyncflowMock, session: Session) -> None:
    first = mock.get(URL, text="first")
    assert session.get(URL).text == "first"
    mock.get(URL, text="second")
    assert session.get(URL).text == "second"
    assert (first.call_count, mock.call_count) == (1, 2)


def test_a_matcher_has_the_last_word(mock: SyncflowMock, session: Session) -> None:
    mock.post(URL, text="other")
    mock.post(URL, text="Ada", additional_matcher=lambda request: request.json()["name"] == "Ada")
    assert session.post(URL, json={"name": "Ada"}).text == "Ada"
    assert session.post(URL, json={"name": "Bob"}).text == "other"


def test_answers_in_a_row(mock: SyncflowMock, session: Session) -> None:
    mock.get(URL, [{"status_code": 503}, {"exc": syncflow.ConnectTimeout}, {"json": [1]}])
    assert session.get(URL).status_code == 503
    with pytest.raises(syncflow.ConnectTimeout, match="as the mock was told"):
        session.get(URL)
    assert [session.get(URL).json() for _ in range(2)] == [[1], [1]]
    assert mock.call_count == 4


def test_a_function_answers_with_the_whole_body(mock: SyncflowMock, session: Session) -> None:
    def answer(request, context) -> str:
        context.status_code, context.reason = 201, "Made"
        context.headers["X-Length"] = str(len(request.body))
        return request.text.upper()

    mock.post(URL, text=answer)
    response = session.post(URL, data=iter([b"a", b"bc"]))
    assert (response.status_code, response.reason, response.text) == (201, "Made", "ABC")
    assert response.headers["X-Length"] == "3"


def test_a_function_may_raise_what_the_program_is_to_get(mock: SyncflowMock, session: Session) -> None:
    def answer(request, context) -> bytes:
        raise syncflow.ReadTimeout("too slow")

    mock.post(URL, content=answer)
    with pytest.raises(syncflow.ReadTimeout, match="too slow") as raised:
        session.post(URL, data=b"abc")
    assert raised.value.request.url == URL
    assert mock.last_request.body == b"abc"


@pytest.mark.parametrize("kind", [LookupError, ConnectionResetError])
def test_any_other_error_of_a_function_comes_out_of_the_block(session: Session, kind: type[Exception]) -> None:
    def answer(request, context) -> bytes:
        raise kind("a fault of the test")

    with pytest.raises(kind, match="a fault of the test"), SyncflowMock() as mock:
        mock.get(URL, [{}, {"content": answer}])
        session.get(URL)
        with pytest.raises(syncflow.ConnectionError, match="the function that was to answer has failed") as raised:
            session.get(URL)
        assert isinstance(raised.value.__cause__, kind)
        assert mock.call_count == 2


@pytest.mark.parametrize(
    ("name", "returned", "message"),
    [
        ("text", None, "text= returns a str, not None"),
        ("text", b"a", "text= returns a str, not b'a'"),
        ("content", None, "content= returns bytes, or many of them, not None"),
        ("content", "a", "content= returns bytes, or many of them, not 'a'"),
    ],
)
def test_a_function_that_returns_what_is_no_body(session: Session, name: str, returned: object, message: str) -> None:
    with pytest.raises(TypeError, match=message), SyncflowMock() as mock:
        mock.get(URL, [{name: lambda request, context: returned}])
        with pytest.raises(syncflow.ConnectionError, match="the function that was to answer has failed"):
            session.get(URL)


def test_an_answer_may_break_off(mock: SyncflowMock, session: Session) -> None:
    was_read = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"begun"
        was_read.wait(10)
        raise syncflow.ReadTimeout("no more")

    mock.get(URL, content=lambda request, context: pieces())
    with session.get(URL, stream=True) as response:
        coming = response.iter_content(None)
        assert next(coming) == b"begun"
        was_read.set()
        with pytest.raises(syncflow.ReadTimeout, match="no more"):
            next(coming)


def test_of_a_test_that_fails_its_own_error_is_raised(session: Session) -> None:
    def answer(request, context) -> bytes:
        raise LookupError("the cause")

    with pytest.raises(syncflow.ConnectionError) as raised, SyncflowMock() as mock:
        mock.get(URL, content=answer)
        session.get(URL)
    assert any("the cause" in note for note in raised.value.__notes__)


@pytest.mark.parametrize("exc", [ZeroDivisionError, ZeroDivisionError("x"), syncflow.SSLError("bad")])
def test_an_error_in_place_of_an_answer(mock: SyncflowMock, session: Session, exc) -> None:
    mock.put(URL, exc=exc)
    with pytest.raises(exc if isinstance(exc, type) else type(exc)) as raised:
        session.put(URL, data=b"abc")
    assert isinstance(exc, type) or raised.value is exc
    assert mock.last_request.body == b"abc"
    assert session.stats().opened == 0


@pytest.mark.parametrize(
    ("exc", "is_tried_again"),
    [
        (syncflow.ConnectTimeout, True),
        (syncflow.ConnectionError, True),
        (syncflow.ReadTimeout, False),
        (syncflow.ProtocolError, False),
    ],
)
def test_an_error_is_tried_again_if_a_real_one_would_be(
    mock: SyncflowMock, new_session: Callable[..., Session], exc, is_tried_again: bool
) -> None:
    session = new_session(retries=Retry(total=1, backoff_factor=0))
    mock.post(URL, [{"exc": exc}, {"text": "ok"}])
    if is_tried_again:
        assert session.post(URL).text == "ok"
    else:
        with pytest.raises(exc):
            session.post(URL)
    assert mock.call_count == 1 + is_tried_again


def test_what_nobody_has_foreseen_is_refused_and_says_what_was(mock: SyncflowMock, session: Session) -> None:
    with pytest.raises(UnmatchedRequest, match="register an answer first"):
        session.get(URL)
    mock.post(URL)
    mock.get(re.compile("^https://x"))
    with pytest.raises(syncflow.ConnectionError) as raised:
        session.get(URL)
    assert isinstance(raised.value, UnmatchedRequest)
    assert str(raised.value).startswith(f"GET {URL}: nothing is registered for it, and nothing was sent")
    assert str(raised.value).endswith(f"registered: POST {URL}, GET ^https://x")
    assert (raised.value.request.url, raised.value.phase) == (URL, "connect")
    assert not mock.called


def test_a_message_names_the_last_twenty(mock: SyncflowMock, session: Session) -> None:
    for number in range(25):
        mock.get(f"http://a.example/{number}")
    with pytest.raises(UnmatchedRequest) as raised:
        session.get(URL)
    assert "GET http://a.example/4," not in str(raised.value)
    assert "registered: GET http://a.example/5, GET http://a.example/6," in str(raised.value)
    assert str(raised.value).endswith("GET http://a.example/24 and 5 more")


def test_it_is_refused_at_once_whatever_the_policy(mock: SyncflowMock, new_session: Callable[..., Session]) -> None:
    session = new_session(retries=Retry(total=5, backoff_factor=60), timeout=Timeouts(total=30))
    with pytest.raises(UnmatchedRequest) as raised:
        session.get(URL)
    assert raised.value.earlier_tries == ()
    with pytest.raises(UnmatchedRequest):
        next(session.sse(URL))
    with pytest.raises(UnmatchedRequest):
        session.upload("PUT", URL)


@pytest.mark.parametrize(
    ("url", "answer", "message"),
    [
        ("/users", {}, "MissingSchema|scheme"),
        (7, {}, "a URL is a str"),
        (URL, {"json": 1, "content": b""}, "one body"),
        (URL, {"answers": [{"text": "a"}], "text": "b"}, "not both"),
        (
            URL,
            {"status": 404},
            "an answer has no status: it is made of content, early, exc, headers, json, reason, status_",
        ),
        (URL, {"answers": [{"body": b"", "status": 404}]}, "an answer has no body, status"),
        (URL, {"json": {1, 2}}, "not JSON serializable"),
    ],
)
def test_what_cannot_be_registered(mock: SyncflowMock, url, answer: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        mock.get(url, **answer)  # type: ignore[arg-type]

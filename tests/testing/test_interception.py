"""Whatever a program calls syncflow by, a SyncflowMock answers; nothing leaves the process, and at its end all is as it
was.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

import syncflow
from syncflow import CircuitBreaker, Retry, Session, streams, wsgi
from syncflow.adapters import HTTPAdapter
from syncflow.engine.dialer import Dial
from syncflow.testing import AppServer, RangeServer, Response, SyncflowMock, eventually, pattern

URL = "https://api.example/a"
EVENTS = {"Content-Type": "text/event-stream"}


@pytest.fixture
def mock() -> Iterator[SyncflowMock]:
    with SyncflowMock() as mock:
        yield mock


@pytest.fixture
def session(new_session: Callable[..., Session]) -> Session:
    return new_session()


def test_the_functions(mock: SyncflowMock) -> None:
    mock.get(URL, text="get")
    mock.post(URL, text="post")
    assert (syncflow.get(URL).text, syncflow.post(URL, data={"a": "b"}).text) == ("get", "post")
    assert mock.last_request.body == b"a=b"


def test_a_connection_is_kept_as_a_real_one_is(mock: SyncflowMock, session: Session) -> None:
    mock.get(URL, text="a")
    for _ in range(3):
        assert session.get(URL).text == "a"
    stats = session.stats()
    assert (stats.opened, stats.reused, stats.idle) == (1, 2, 1)
    mock.get(URL, text="last", headers={"Connection": "close"})
    assert session.get(URL).text == "last"
    assert session.stats().open == 0


def test_streamed(mock: SyncflowMock, session: Session, tmp_path: Path) -> None:
    body = pattern(1_000_000)
    mock.get(URL, content=body)
    with session.get(URL, stream=True) as response:
        assert b"".join(response.iter_content(4096)) == body
    assert session.get(URL, stream=True).save(tmp_path / "file") == len(body)
    assert (tmp_path / "file").read_bytes() == body
    mock.get(URL, content=[b"one\n", b"two\n"])
    assert list(session.get(URL, stream=True).iter_lines()) == [b"one", b"two"]
    session.get(URL, stream=True).close()


def test_an_endless_answer_pushes_back_and_is_called_off(mock: SyncflowMock, session: Session) -> None:
    ended = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield pattern(65536)
        finally:
            ended.set()

    mock.get(URL, content=lambda request, context: endless())
    with session.get(URL, stream=True) as response:
        assert next(response.iter_content(100)) == pattern(100)
        assert not ended.is_set()
    assert ended.wait(10)


def test_events_and_their_reconnections(mock: SyncflowMock, session: Session) -> None:
    mock.get(
        URL,
        [
            {"text": "retry: 1\nid: 1\ndata: a\n\n", "headers": EVENTS},
            {"exc": syncflow.ConnectionError},
            {"content": [b"data: b\n", b"\n"], "headers": EVENTS},
            {"status_code": 204},
        ],
    )
    with session.sse(URL) as stream:
        assert [event.data for event in stream] == ["a", "b"]
    assert [request.headers.get("Last-Event-ID") for request in mock.request_history] == [None, "1", "1", "1"]


def test_pushed_bodies(mock: SyncflowMock, session: Session) -> None:
    mock.put(URL, status_code=201)
    with session.upload("PUT", URL) as up:
        for at in range(0, 500_000, 5000):
            up.write(pattern(5000, at))
        up.finish(trailers={"X-Sum": "1"})
    assert up.response.status_code == 201
    assert mock.last_request.body == pattern(500_000)
    assert mock.last_request.trailers["x-sum"] == "1"


def test_who_asks_is_told_to_continue(mock: SyncflowMock, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncflow.uploads.CONTINUE_PATIENCE", 3600)
    mock.put(URL)
    with session.upload(
        "PUT", URL, content_length=3, headers={"Expect": "100-continue"}, timeout=syncflow.Timeouts(total=5)
    ) as up:
        up.write(b"abc")
    assert mock.last_request.body == b"abc"


def test_of_an_upload_that_breaks_off_there_is_what_came(mock: SyncflowMock, session: Session) -> None:
    mock.put(URL)
    up = session.upload("PUT", URL)
    up.write(b"a part")
    up.flush()
    up.abort()
    eventually(lambda: mock.last_request.body == b"a part")


def test_files(mock: SyncflowMock, session: Session, tmp_path: Path) -> None:
    mock.post(URL)
    (tmp_path / "file").write_bytes(pattern(300_000))
    with (tmp_path / "file").open("rb") as file:
        session.post(URL, data=file)
    assert mock.last_request.body == pattern(300_000)
    session.post(URL, files={"f": ("name.txt", b"content")})
    assert b'filename="name.txt"' in mock.last_request.body


def test_an_early_answer_stops_what_is_sent(mock: SyncflowMock, session: Session) -> None:
    mock.put(URL, status_code=413, text="too large", early=True)
    with session.upload("PUT", URL) as up:
        while True:  # until EarlyResponse, which ends the block
            up.write(pattern(10_000))
    assert (up.response.status_code, up.response.text, up.response.request_complete) == (413, "too large", False)
    response = session.put(URL, data=(pattern(10_000) for _ in range(100_000)))
    assert (response.status_code, response.request_complete) == (413, False)
    assert session.put(URL, data=b"small").status_code == 413


def test_redirects_cookies_hooks_and_bad_statuses(mock: SyncflowMock, session: Session) -> None:
    mock.get("http://old.example/", status_code=302, headers={"Location": URL, "Set-Cookie": "a=1; Domain=example"})
    mock.get(URL, status_code=404, json={"error": "gone"}, headers={"Set-Cookie": "b=2"})
    seen: list[int] = []
    response = session.get("http://old.example/", hooks={"response": lambda r, **kw: seen.append(r.status_code)})
    assert [answer.status_code for answer in response.history] == [302]
    assert seen == [302, 404]
    with pytest.raises(syncflow.HTTPError, match="404"):
        response.raise_for_status()
    session.get(URL)
    assert mock.last_request.headers["Cookie"] == "b=2"


def test_retries_and_circuits(mock: SyncflowMock, new_session: Callable[..., Session]) -> None:
    session = new_session(retries=Retry(total=2, backoff_factor=0))
    mock.get(URL, [{"status_code": 503}, {"exc": syncflow.ReadTimeout}, {"text": "ok"}])
    response = session.get(URL)
    assert response.text == "ok"
    assert [made.status for made in response.earlier_tries] == [503, None]
    guarded = new_session(breaker=CircuitBreaker(failures=1))
    mock.get(URL, status_code=500)
    guarded.get(URL)
    with pytest.raises(syncflow.CircuitOpen):
        guarded.get(URL)


def test_neither_proxies_nor_certificates_matter(
    mock: SyncflowMock, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.example")
    session.trust_env = True
    mock.get(URL, text="tls")
    mock.get("http://plain.example/p", text="plain")
    assert session.get(URL, verify="/no/such/file", cert="/nor/this").text == "tls"
    assert session.get("http://plain.example/p").text == "plain"
    assert mock.last_request.target == "/p"


def test_observers_see_what_they_always_see(mock: SyncflowMock, new_session: Callable[..., Session]) -> None:
    class Observer:
        def __getattr__(self, name: str) -> Callable[[object], None]:
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda record: seen.append(name)

    seen: list[str] = []
    mock.get(URL, text="a")
    new_session(events=Observer()).get(URL)
    assert seen == ["request_started", "connection_opened", "request_sent", "response_started", "response_ended"]


def test_threads_share_it(mock: SyncflowMock, session: Session) -> None:
    mock.post(URL, text=lambda request, context: request.text)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda i: session.post(URL, data=str(i)).text, range(200)))
    assert answers == [str(i) for i in range(200)]
    assert mock.call_count == 200
    assert sorted(int(request.body) for request in mock.request_history) == list(range(200))


def test_rows_are_taken_once_each_by_threads(mock: SyncflowMock, session: Session, frantic: None) -> None:
    class Number(Exception):
        """An answer that needs no connection: so its threads do little else than take it."""

    def ask(count: int) -> list[int]:
        numbers = []
        for _ in range(count):
            with pytest.raises(Number) as raised:
                session.get(URL)
            numbers.append(raised.value.args[0])
        return numbers

    mock.get(URL, [{"exc": Number(i)} for i in range(800)])
    with ThreadPoolExecutor(8) as threads:
        taken = [number for numbers in threads.map(ask, [100] * 8) for number in numbers]
    assert sorted(taken) == list(range(800))


def test_under_requests(mock: SyncflowMock) -> None:
    requests = pytest.importorskip("requests")
    mock.get(URL, [{"json": [1]}, {"exc": syncflow.ConnectTimeout}])
    with requests.Session() as theirs:
        theirs.mount("https://", syncflow.adapters.SyncflowAdapter())
        assert theirs.get(URL).json() == [1]
        with pytest.raises(requests.exceptions.ConnectTimeout):
            theirs.get(URL)
        with pytest.raises(requests.exceptions.ConnectionError, match="nothing is registered"):
            theirs.get(URL + "/other")


def test_in_a_server(mock: SyncflowMock, session: Session) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return wsgi.proxy(environ, start_response, "http://upstream.example")

    statuses: list[str] = []
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "PATH_INFO": "/p", "CONTENT_LENGTH": "3"}
    environ["wsgi.input"] = io.BytesIO(b"abc")
    setup_testing_defaults(environ)
    mock.post("http://upstream.example/p", status_code=201, text=lambda request, context: request.text.upper())
    body = wsgi.ClientMiddleware(application, session)(environ, lambda status, *rest: statuses.append(status))
    with contextlib.closing(body):  # type: ignore[type-var]
        assert (b"".join(body), statuses) == (b"ABC", ["201 Created"])
    assert "Via" in mock.last_request.headers


def test_a_raw_stream_is_not_made(mock: SyncflowMock) -> None:
    with AppServer() as server, pytest.raises(syncflow.ConnectionError, match="nothing connects while a SyncflowMock"):
        streams.connect(*server.address)
    assert server.connections == 0


def test_real_connections_are_not_mixed_with_mocked_ones(session: Session) -> None:
    with AppServer(lambda request: Response(body=b"real")) as server:
        assert session.get(server.url).text == "real"
        with SyncflowMock() as mock:
            mock.get(server.url, text="mocked")
            assert session.get(server.url).text == "mocked"
            assert session.stats().idle == 2
        assert session.stats().idle == 1
        assert session.get(server.url).text == "real"
        assert (server.connections, server.requests) == (1, 2)


def test_a_download_that_goes_on_goes_on_over_the_mock(session: Session, tmp_path: Path) -> None:
    body = pattern(50_000)
    with RangeServer(body, cuts=[30_000]) as server:
        response = session.get(server.url, stream=True)
        with SyncflowMock() as mock:
            mock.get(
                server.url,
                status_code=206,
                content=lambda request, context: body[int(request.headers["Range"][6:-1]) :],
                headers={"ETag": '"1"', "Content-Range": "bytes 30000-49999/50000"},
            )
            assert response.save(tmp_path / "file", resume=True) == 50_000
            assert mock.last_request.headers["Range"] == "bytes=30000-"
    assert (tmp_path / "file").read_bytes() == body
    assert len(server.seen) == 1


def test_at_its_end_all_is_as_it_was(session: Session) -> None:
    usual = (HTTPAdapter._exchange, HTTPAdapter.route, Dial.run)
    with SyncflowMock() as mock:
        mock.get(URL)
        session.get(URL)
        assert session.stats().open == 1
        assert all(method is not own for method, own in zip(usual, _current(), strict=True))
    assert session.stats().open == 0
    assert usual == _current()
    assert not [t for t in threading.enumerate() if t.name.startswith("MockServer") and t.is_alive()]


def _current() -> tuple[object, ...]:
    return HTTPAdapter._exchange, HTTPAdapter.route, Dial.run


def test_its_end_wakes_who_waits(session: Session) -> None:
    waits = threading.Event()
    ends = threading.Event()
    errors: list[Exception] = []

    def answer(request, context) -> bytes:
        waits.set()
        ends.wait(10)
        return b"too late"

    def ask() -> None:
        try:
            session.get(URL, timeout=None)
        except syncflow.ConnectionError as error:
            errors.append(error)
        ends.set()

    asking = threading.Thread(target=ask)
    with SyncflowMock() as mock:
        mock.get(URL, content=answer)
        asking.start()
        assert waits.wait(10)
    asking.join(10)
    (error,) = errors
    assert "the SyncflowMock that was to answer has ended" in str(error)


def test_a_route_of_it_leads_nowhere_afterwards(session: Session) -> None:
    """Whoever has one still, on another thread, must not come to a real server by it."""
    with AppServer() as server:
        with SyncflowMock() as mock:
            mock.get(server.url)
            session.get(server.url)
            request = session.prepare_request(syncflow.Request("GET", server.url))
            route = session.get_adapter(server.url).route(request, True, None, None)
        pool = session.get_adapter(server.url)._pool
        with pytest.raises(ValueError, match="not a SHA-256 fingerprint"):
            pool.connection(route.origin, syncflow.engine.deadline.Deadline(syncflow.Timeouts()))
        assert server.connections == 0


def test_there_is_one_at_a_time() -> None:
    with SyncflowMock() as mock:
        with pytest.raises(RuntimeError, match="another SyncflowMock"), SyncflowMock():
            pass
        mock.get(URL, text="still")
        assert syncflow.get(URL).text == "still"
    with SyncflowMock():
        pass

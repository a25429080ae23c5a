"""RecordingServer: what it keeps of each request, and that it answers as it was told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from syncflow import Session
from syncflow.testing import RecordingServer, pattern


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as server:
        yield server


def test_as_it_is_it_answers_200_and_keeps_all(server: RecordingServer, new_session: Callable[..., Session]) -> None:
    response = new_session().post(server.url + "/a/b?x=1&x=2&y=", json={"name": "Ada"}, headers={"X-Own": "1"})
    assert (response.status_code, response.content) == (200, b"")
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/a/b")
    assert request.query == {"x": ["1", "2"], "y": [""]}
    assert request.headers["X-Own"] == request.headers["x-own"] == request.headers.get("X-OWN") == "1"
    assert "CONTENT-TYPE" in request.headers
    assert "X-Other" not in request.headers
    assert request.headers.get("X-Other") is None
    assert request.json() == {"name": "Ada"}
    assert request.text == request.body.decode()


def test_what_is_streamed_is_kept_whole(server: RecordingServer, new_session: Callable[..., Session]) -> None:
    session = new_session()
    session.put(server.url, data=(pattern(1000, at) for at in range(0, 200_000, 1000)))
    with session.upload("POST", server.url) as up:
        up.write(b"one ")
        up.write(b"two")
        up.finish(trailers={"X-Checksum": "7"})
    put, post = server.requests
    assert put.body == pattern(200_000)
    assert put.headers["Transfer-Encoding"] == "chunked"
    assert (post.body, post.trailers["x-checksum"]) == (b"one two", "7")


def test_it_answers_as_it_is_told(server: RecordingServer, new_session: Callable[..., Session]) -> None:
    session = new_session()
    server.respond(status_code=201, json={"id": 7}, headers={"X-Own": "1"}, reason="Made")
    response = session.get(server.url)
    assert (response.status_code, response.reason, response.json()) == (201, "Made", {"id": 7})
    assert response.headers["X-Own"] == "1"
    assert response.headers["Content-Type"] == "application/json"
    server.respond("/busy", [{"status_code": 503}, {"text": "grüße"}])
    server.respond("/raw", content=[b"in ", b"", b"pieces"], headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    assert [session.get(server.url + "/busy?now=1").status_code for _ in range(3)] == [503, 200, 200]
    assert session.get(server.url + "/busy").text == "grüße"
    raw = session.get(server.url + "/raw")
    assert (raw.content, raw.headers["Transfer-Encoding"]) == (b"in pieces", "chunked")
    assert raw.cookies.get_dict() == {"a": "1", "b": "2"}
    assert session.get(server.url + "/other").status_code == 201


def test_a_function_may_answer(server: RecordingServer, new_session: Callable[..., Session]) -> None:
    def twice(request, context) -> dict[str, int]:
        context.status_code = 202
        context.headers["X-Path"] = request.path
        return {"twice": 2 * request.json()}

    server.respond(json=twice, headers={"x-path": "as registered"})
    response = new_session().post(server.url + "/p", json=21)
    assert (response.status_code, response.json(), response.headers["X-Path"]) == (202, {"twice": 42}, "/p")


def test_an_error_in_the_function_is_a_500_and_comes_out(new_session: Callable[..., Session]) -> None:
    def fails(request, context) -> str:
        raise LookupError(request.path)

    with pytest.raises(LookupError, match="/x"), RecordingServer() as server:
        server.respond(text=fails)
        assert new_session().get(server.url + "/x").status_code == 500


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {"json": 1, "text": "a"}, "one body"),
        ((), {"content": "text"}, "see text="),
        ((), {"text": b"bytes"}, "text= is a str"),
        ((None, [{"text": "a"}]), {"text": "b"}, "not both"),
        ((None, []), {}, "at least one"),
        ((None, {"text": "a"}), {}, "a list of dicts"),
        ((), {"body": b""}, "body"),
    ],
)
def test_what_is_no_answer_is_refused(server: RecordingServer, args, kwargs, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        server.respond(*args, **kwargs)


def test_a_test_can_wait_for_what_comes_of_another_thread(
    server: RecordingServer, new_session: Callable[..., Session]
) -> None:
    session = new_session()
    asking = threading.Thread(target=lambda: session.get(server.url + "/late"))
    asking.start()
    assert [request.path for request in server.wait_for_requests(1)] == ["/late"]
    asking.join(10)
    with pytest.raises(AssertionError, match="1 of 2 requests"):
        server.wait_for_requests(2, timeout=0.01)


@pytest.mark.parametrize("path", ["x", "/x?y=1", "http://127.0.0.1/x", ""])
def test_a_path_that_no_request_could_have(path: str) -> None:
    with pytest.raises(ValueError, match="begins with a slash and has no query"):
        RecordingServer().respond(path, json=1)

"""docs/servers.md: its code runs as it stands there, in the frameworks it names, and does what the page says."""

from __future__ import annotations

import io
import re
import signal
import sys
import types
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

import syncflow
from syncflow.testing import AppServer, Request, Response, json_response

DOCUMENT = (Path(__file__).parent.parent / "docs" / "servers.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)

EVENTS = b"retry: 1\n\nid: 1\ndata: one\n\nid: 2\nevent: draft\ndata: two\n\nid: 3\ndata: three\n\n"


def backend(request: Request) -> Response:
    path = request.path
    if path == "/prices":
        return json_response({"apple": 3})
    if path == "/events":
        if request.headers.get("last-event-id") == "3":
            return Response(204)
        return Response(200, {"Content-Type": "text/event-stream"}, EVENTS)
    if path == "/version":
        return Response(200, {"Content-Type": "text/plain", "X-Backend-Version": "7"}, b"seven")
    told = f"{request.method} {request.target} {len(request.body)} {request.headers.get('authorization')}"
    return Response(200, {"Content-Type": "application/octet-stream"}, told.encode())


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the page takes for granted, and what its first block has made; the session is closed."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    service = types.ModuleType("service")
    service.__file__ = __file__
    monkeypatch.setitem(sys.modules, "service", service)
    names = vars(service)
    with AppServer(backend) as server:
        names |= {"backend": server.url, "syncflow": syncflow}
        run(BLOCKS[0], names)
        with names["session"]:
            yield names


@pytest.fixture(scope="module")
def _settings() -> None:
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="django_urls",
        MIDDLEWARE=["django_urls.with_client"],
        SECRET_KEY="x",
        LOGGING_CONFIG=None,
    )


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "docs/servers.md", "exec"), names)


def block_with(text: str) -> str:
    (block,) = [block for block in BLOCKS if text in block]
    return block


def call(application: Any, path: str, method: str = "GET", body: bytes = b"", **environ: Any) -> tuple[int, Any, bytes]:
    """Status, header and body of what an application answers, as a server would ask it."""
    environ |= {"PATH_INFO": path, "REQUEST_METHOD": method, "wsgi.input": io.BytesIO(body)}
    environ |= {"CONTENT_LENGTH": str(len(body)), "REMOTE_ADDR": "10.0.0.9", "SERVER_PROTOCOL": "HTTP/1.1"}
    setup_testing_defaults(environ)
    answer: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        answer["status"], answer["headers"] = int(status[:3]), dict(headers)

    pieces = application(environ, start_response)
    try:
        content = b"".join(pieces)
        return answer["status"], answer["headers"], content
    finally:
        if hasattr(pieces, "close"):
            pieces.close()


def test_its_session_is_found(names: dict[str, Any]) -> None:
    status, headers, content = call(names["application"], "/")
    assert (status, headers["Content-Type"], content) == (200, "application/json", b'{"apple": 3}')


def test_flask(names: dict[str, Any]) -> None:
    run(block_with("from flask"), names)
    assert call(names["app"], "/prices")[2] == b'{"apple":3}\n'
    status, _, content = call(names["app"], "/files/a.bin", "PUT", b"x" * 100_000, QUERY_STRING="q=1")
    assert (status, content) == (200, b"PUT /files/a.bin?q=1 100000 None")


@pytest.mark.usefixtures("_settings")
def test_django(names: dict[str, Any]) -> None:
    from django.urls import path

    run(block_with("from django.http"), names)
    module = types.ModuleType("django_urls")
    module.with_client = names["with_client"]  # type: ignore[attr-defined]
    module.urlpatterns = [path("prices", names["prices"])]  # type: ignore[attr-defined]
    sys.modules["django_urls"] = module
    try:
        run(block_with("get_wsgi_application"), names)
        assert call(names["application"], "/prices")[::2] == (200, b'{"apple": 3}')
        assert call(names["application"], "/elsewhere")[0] == 404
        assert call(names["application"], "/files/a")[2] == b"GET /files/a 0 None"
    finally:
        del sys.modules["django_urls"]


def test_requests_are_passed_on(names: dict[str, Any]) -> None:
    run(block_with("/inbox"), names)
    application = names["wsgi"].ClientMiddleware(names["gateway"], names["session"])
    assert call(application, "/upload", "POST", b"body")[2] == b"POST /inbox 4 None"
    assert call(application, "/a b/%C3", QUERY_STRING="x=%2F")[2] == b"GET /a%20b/%25C3?x=%2F 0 None"


def test_hooks(names: dict[str, Any]) -> None:
    run(block_with("class Dressed"), names)
    application = names["wsgi"].ClientMiddleware(names["gateway"], names["session"])
    _, headers, content = call(application, "/version")
    assert content == b"-- from the gateway --\nseven"
    assert (headers["Cache-Control"], "X-Backend-Version" in headers, "Content-Length" in headers) == (
        "no-store",
        False,
        False,
    )
    assert call(application, "/other")[2].endswith(b"Bearer s3cret")


def test_events(names: dict[str, Any]) -> None:
    run(block_with("sse_proxy"), names)
    application = names["wsgi"].ClientMiddleware(names["feed"], names["session"])
    names["session"].timeout = syncflow.Timeouts(read=5)
    status, headers, content = call(application, "/")
    assert (status, headers["Content-Type"]) == (200, "text/event-stream")
    assert content.startswith(b":\n\nid: 1\ndata: ONE\n\nid: 3\ndata: THREE\n\n")


def test_one_feed_for_many(names: dict[str, Any]) -> None:
    run(block_with("hub.subscribe"), names)
    application = names["wsgi"].ClientMiddleware(names["fan"], names["session"])
    stream = names["session"].sse(f"{names['backend']}/events")
    with names["sse"].EventHub(stream) as hub:
        names["hub"] = hub
        _, headers, content = call(application, "/")
    assert headers["Content-Type"] == "text/event-stream"
    assert b"data: three" in content


def test_the_end(names: dict[str, Any]) -> None:
    run(block_with("post_worker_init"), names)
    before = signal.getsignal(signal.SIGTERM)
    try:
        names["post_worker_init"](None)
        assert signal.getsignal(signal.SIGTERM) is not before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_no_block_is_left_out() -> None:
    tested = (
        "from flask",
        "get_wsgi_application",
        "from django.http",
        "/inbox",
        "class Dressed",
        "sse_proxy",
        "post_worker",
        "hub.sub",
    )
    assert all(any(text in block for text in tested) for block in BLOCKS[1:])


def test_the_stati_it_names_are_those_that_are_given() -> None:
    from syncflow.wsgi import refusals

    named = {int(number) for number in re.findall(r"\b[45]\d\d\b", DOCUMENT.partition("the client gets")[2])}
    given = {status.value for _, status in refusals.STATI} | {HTTPStatus.BAD_GATEWAY, HTTPStatus.LENGTH_REQUIRED, 501}
    assert given <= named

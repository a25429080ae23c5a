"""docs/events.md: its code runs as it stands there, and the tests that its table names exist."""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import syncflow
from syncflow import sse
from syncflow.sse import ServerSentEvent, encode
from syncflow.testing import AppServer, Request, Response

TESTS = Path(__file__).parent.parent
DOCUMENT = (TESTS.parent / "docs" / "events.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
COUNT = 5


def chat(request: Request) -> Response:
    tokens = ['{"choices": [{"delta": {"content": "Hel"}}]}', '{"choices": [{"delta": {"content": "lo"}}]}', "[DONE]"]
    return Response(
        200, {"Content-Type": "text/event-stream"}, b"".join(encode(ServerSentEvent(data=t)) for t in tokens)
    )


def feed(request: Request) -> Response:
    """Five events, and then no more."""
    if "last-event-id" in request.headers:
        return Response(204)
    events = [ServerSentEvent(data=str(n), id=str(n), retry=1) for n in range(COUNT)]
    return Response(200, {"Content-Type": "text/event-stream"}, b"".join(map(encode, events)))


@pytest.fixture
def names(new_session: Callable[..., syncflow.Session]) -> Iterator[dict[str, Any]]:
    """What the page takes for granted."""
    got: list[Any] = []
    with AppServer(lambda request: chat(request) if request.path == "/chat" else feed(request)) as server:
        yield {
            "session": new_session(),
            "sse": sse,
            "chat_url": f"{server.url}/chat",
            "feed_url": f"{server.url}/feed",
            "feed": [ServerSentEvent(data=str(n)) for n in range(COUNT)],
            "store": got.append,
            "deliver": got.append,
            "send": got.append,
            "warn": got.append,
            "time_to_send": lambda: len(got) == 0,
            "last_event_id": None,
            "got": got,
        }


def block_with(text: str) -> str:
    (block,) = [block for block in BLOCKS if text in block]
    return block


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "docs/events.md", "exec"), names)


def test_tokens_are_printed_until_the_last_word(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run(block_with("iter_sse"), names)
    assert capsys.readouterr().out == "Hello"


def test_a_stream_goes_on_until_204(names: dict[str, Any]) -> None:
    run(block_with("event_timeout=30"), names)
    assert [event.data for event in names["got"]] == ["0", "1", "2", "3", "4"]


def test_a_buffer_sends_when_it_is_time(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run(block_with("buffer.flush()"), names)
    assert [event.data for event in names["got"]] == ["0"]
    assert "size=4, max_size=1000, enqueued=5, sent=1, dropped=0" in capsys.readouterr().out


def test_a_hub_delivers_and_tells_its_health(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The upstream may be read before the subscriber is there: then the hub has kept what came."""
    names["last_event_id"] = "none of these"
    block = block_with("EventHub").replace(
        "sse.EventHub(session.sse(feed_url)", "sse.EventHub(slowly(session, feed_url)"
    )
    assert "slowly" in block
    subscribed = threading.Event()

    def slowly(session: syncflow.Session, url: str) -> Iterator[ServerSentEvent]:
        assert subscribed.wait(10)
        yield from session.sse(url)

    class Hub(sse.EventHub):
        def subscribe(self, last_event_id: str | None = None) -> sse.EventSubscription:
            subscription = super().subscribe(last_event_id)
            subscribed.set()
            return subscription

    class Names:
        EventHub = Hub

    names |= {"slowly": slowly, "sse": Names}
    run(block, names)
    assert [event.data for event in names["got"]] == ["0", "1", "2", "3", "4"]
    assert "HubHealth(is_running=" in capsys.readouterr().out


def test_an_application_gives_bytes(names: dict[str, Any]) -> None:
    answers: list[Any] = []
    run(block_with("def application"), names)
    hub = sse.EventHub(iter(names["feed"]))
    names["hub"] = hub
    body = names["application"]({}, lambda status, headers: answers.append((status, dict(headers)["Content-Type"])))
    with hub:
        assert b"".join(body) == b":\n\n" + b"".join(map(encode, names["feed"]))
    assert answers == [("200 OK", "text/event-stream")]


def test_every_block_has_its_test() -> None:
    assert len(BLOCKS) == 5


def test_the_tests_that_it_names_exist() -> None:
    named = re.findall(r"\| `([\w/]+\.py)::(test_\w+)` \|$", DOCUMENT, re.MULTILINE)
    assert len(named) == len(re.findall(r"\.py::", DOCUMENT)) > 25
    for file, test in named:
        tree = ast.parse((TESTS / file).read_text("utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"

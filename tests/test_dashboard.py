"""examples/dashboard.html in a real browser: events arrive by its EventSource, and none is missing after a break.

Chromium is driven by the DevTools protocol (JSON over a WebSocket). What is waited for is a promise in the page, which
looks whenever the page changes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from syncflow.testing import FaultProxy, eventually

PATIENCE = 20.0

FLAGS = [
    "--headless=new",
    "--no-sandbox",  # which root cannot have
    "--no-proxy-server",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # in a container it is small
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-background-networking",
    "--remote-debugging-port=0",
]

PROMISE = """new Promise((resolve) => {
  const look = () => { if (%s) { observer.disconnect(); resolve(true); } };
  const observer = new MutationObserver(look);
  observer.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
  look();
})"""


class Page:
    """A tab of the browser, and what it has told so far."""

    def __init__(self, browser: ClientConnection) -> None:
        self._browser = browser
        self._calls = 0
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Network", "Runtime"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        deadline = time.monotonic() + PATIENCE
        while not self.told("Page.loadEventFired"):
            self._receive(deadline)

    def told(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]

    def streams(self) -> list[dict[str, str]]:
        """The header fields of each request of an EventSource, as sent."""
        sent = [request["headers"] for request in self.told("Network.requestWillBeSentExtraInfo")]
        return [headers for headers in sent if headers["Accept"] == "text/event-stream"]

    def evaluate(self, expression: str) -> Any:
        """Its value, or what the promise it is comes to."""
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_until(self, condition: str) -> None:
        self.evaluate(PROMISE % condition)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        self._browser.send(json.dumps({"id": self._calls, "method": method, "params": params, **self._session}))
        deadline = time.monotonic() + PATIENCE
        while (message := self._receive(deadline)).get("id") != self._calls:
            pass
        assert "error" not in message, (method, message)
        result: dict[str, Any] = message["result"]
        return result

    def _receive(self, deadline: float) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._browser.recv(timeout=max(0.0, deadline - time.monotonic())))
        if "method" in message:
            self.events.append(message)
        return message


@pytest.fixture
def page(chromium_required: None, tmp_path: Path) -> Iterator[Page]:
    profile, log = tmp_path / "profile", tmp_path / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            ["chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
            env=os.environ | {"HOME": str(tmp_path)},
            start_new_session=True,
        )
    try:
        with connect(_devtools(process, log), proxy=None, compression=None, max_size=None) as browser:
            yield Page(browser)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        eventually(lambda: not _processes_with(str(profile)), message="Chromium has left processes behind")


def _devtools(process: subprocess.Popen[bytes], log: Path) -> str:
    found: list[str] = []

    def listens() -> bool:
        found[:] = re.findall(r"^DevTools listening on (ws://\S+)\n", log.read_text(errors="replace"), re.MULTILINE)
        return bool(found) or process.poll() is not None

    eventually(listens, PATIENCE, message="Chromium does not listen")
    assert found, log.read_text(errors="replace")
    return found[0]


def _processes_with(argument: str) -> list[str]:
    """Those in whose command line it is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if argument.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


@pytest.fixture
def line(start_example: Callable[..., subprocess.Popen[str]]) -> Iterator[FaultProxy]:
    """To an `event_fanout.py` that serves. It ends by Ctrl-C, without a word, whoever is connected."""
    process = start_example("event_fanout.py", "--serve", "0")
    assert process.stdout is not None
    told = process.stdout.readline()
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ until Ctrl-C\n", told)
    assert found, (told, process.communicate(timeout=PATIENCE))
    with FaultProxy(("127.0.0.1", int(found[1]))) as line:
        yield line
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE) == ("", "")
        assert process.returncode == 0


def test_the_page_shows_the_feed_and_its_clients(page: Page, line: FaultProxy) -> None:
    page.open(line.url)
    # Itself, and the one that never takes anything, which is not healthy after a while.
    page.wait_until("count >= 20 && +$('healthy').textContent + +$('unhealthy').textContent === 2")
    assert page.evaluate("$('state').textContent") == "open"
    assert page.evaluate("[missed, opened, $('newest').rows.length]") == [0, 1, 9]
    assert len(page.streams()) == 1
    arrived = page.told("Network.eventSourceMessageReceived")
    assert len(arrived) >= 20
    assert {each["eventName"] for each in arrived} == {"quote"}
    assert not page.told("Runtime.exceptionThrown")


def test_after_a_break_the_page_has_missed_nothing(page: Page, line: FaultProxy) -> None:
    page.open(line.url)
    page.wait_until("count >= 5")
    page.evaluate("source.addEventListener('error', () => { window.brokeAt = lastId; }, {once: true})")
    line.cut()
    page.wait_until("opened === 2 && lastId >= brokeAt + 20")
    broke_at = page.evaluate("brokeAt")
    arrived = [int(each["eventId"]) for each in page.told("Network.eventSourceMessageReceived")]
    assert arrived == list(range(arrived[0], arrived[0] + len(arrived)))
    assert page.evaluate("missed") == 0
    once, again = page.streams()
    assert "Last-Event-ID" not in once
    assert again["Last-Event-ID"] == str(broke_at)

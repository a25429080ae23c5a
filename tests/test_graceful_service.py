"""examples/graceful_service.py as a process of its own: what SIGTERM finds under way is finished, or cut at the limit,
and the exit code says which."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

from syncflow import Session
from syncflow.testing import AppServer, Request, Response, eventually

from .concurrency import Call

PATIENCE = 20.0  # seconds; an interpreter on a busy machine takes its time

Start = Callable[..., "subprocess.Popen[str]"]


class Upstream:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self.answers = threading.Event()

    def __call__(self, request: Request) -> Response:
        self.arrived.release()
        self.answers.wait(PATIENCE)
        return Response(200, {}, b"answer to " + request.path.encode())

    def wait_arrived(self, count: int) -> None:
        for _ in range(count):
            assert self.arrived.acquire(timeout=PATIENCE)


@pytest.fixture
def upstream() -> Iterator[tuple[Upstream, AppServer]]:
    app = Upstream()
    with AppServer(app) as server:
        yield app, server
        app.answers.set()


@pytest.fixture
def client() -> Iterator[Session]:
    """Whose connections last no longer than a request: the service speaks HTTP/1.0."""
    with Session(timeout=PATIENCE) as session:
        session.trust_env = False
        yield session


def started(start_example: Start, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    process = start_example("graceful_service.py", *arguments)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    if not url:
        pytest.fail(process.communicate(timeout=PATIENCE)[1])
    return process, url


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output, errors


def refuses(url: str) -> bool:
    """Whether nobody listens there any more."""
    try:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), PATIENCE).close()
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize("signals", [1, 3], ids=["", "several times"])
def test_what_is_under_way_is_finished(
    start_example: Start, upstream: tuple[Upstream, AppServer], client: Session, signals: int
) -> None:
    app, server = upstream
    process, url = started(start_example, server.url)
    calls = [Call(client.get, f"{url}/{number}") for number in range(8)]
    app.wait_arrived(len(calls))
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
    eventually(lambda: refuses(url) or process.poll() is not None, PATIENCE)
    assert process.poll() is None, "it waits for those that it has"
    app.answers.set()
    assert [call.result().text for call in calls] == [f"answer to /{number}" for number in range(8)]
    assert ended(process) == (0, "all was finished\n", "")


def test_what_does_not_end_in_time_is_ended(
    start_example: Start, upstream: tuple[Upstream, AppServer], client: Session
) -> None:
    app, server = upstream
    process, url = started(start_example, server.url, "0.2")
    calls = [Call(client.get, f"{url}/{number}") for number in range(3)]
    app.wait_arrived(len(calls))
    process.send_signal(signal.SIGTERM)
    for call in calls:
        answer = call.result()
        assert answer.status_code == 503
        assert "SessionClosed" in answer.text
    assert ended(process) == (1, "something was not finished within 0.2 s\n", "")
    assert not app.answers.is_set(), "it has not waited for the upstream"


def test_when_there_is_nothing_to_do(start_example: Start, upstream: tuple[Upstream, AppServer]) -> None:
    _, server = upstream
    process, _ = started(start_example, server.url)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (0, "all was finished\n", "")

"""FlakyServer: how many requests fail, and how; after them all is well."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable

import pytest

from syncflow import Retry, Session
from syncflow.testing import FlakyServer


def test_as_it_is_two_requests_fail(new_session: Callable[..., Session]) -> None:
    session = new_session()
    with FlakyServer() as server:
        answers = [session.get(server.url) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [503, 503, 200, 200]
        assert answers[-1].text == "ok\n"
        assert server.requests == 4


@pytest.mark.parametrize("how", ["status", "close", "reset"])
def test_retries_come_through(new_session: Callable[..., Session], how: str) -> None:
    with FlakyServer(3) as server:
        server.how = how  # type: ignore[assignment]
        session = new_session(retries=Retry(total=3, backoff_factor=0))
        assert session.get(server.url).status_code == 200
        assert server.requests == 4


@pytest.mark.parametrize(
    ("how", "expected"), [("close", http.client.RemoteDisconnected), ("reset", ConnectionResetError)]
)
def test_a_connection_ends_without_an_answer(how: str, expected: type[Exception]) -> None:
    with FlakyServer(1) as server:
        server.how = how  # type: ignore[assignment]
        client = http.client.HTTPConnection(*server.address, timeout=10)
        client.request("GET", "/")
        with pytest.raises(expected) as raised:
            client.getresponse()
        assert type(raised.value) is expected
        client.close()


def test_a_way_to_fail_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="how= is one of status, close, reset, not 'Reset'"):
        FlakyServer(how="Reset")  # type: ignore[arg-type]
    server = FlakyServer(how="reset")
    with pytest.raises(ValueError, match="not 'timeout'"):
        server.how = "timeout"  # type: ignore[assignment]
    assert server.how == "reset"


def test_it_can_be_made_to_fail_again_with_another_status(new_session: Callable[..., Session]) -> None:
    session = new_session()
    with FlakyServer(0) as server:
        assert session.get(server.url).status_code == 200
        server.failures, server.status, server.body = 1, 429, b"new"
        assert session.get(server.url).status_code == 429
        assert session.get(server.url).content == b"new"


def test_failures_are_counted_over_all_connections(new_session: Callable[..., Session]) -> None:
    statuses: list[int] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait(10)
        statuses.append(session.get(server.url).status_code)

    session = new_session()
    with FlakyServer(5) as server:
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sorted(statuses) == [200] * 3 + [503] * 5


def test_tls(new_session: Callable[..., Session], server_tls) -> None:
    with FlakyServer(0, ssl_context=server_tls) as server:
        assert new_session().get(server.url).status_code == 200

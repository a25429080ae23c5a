"""SlowServer: right answers, late and bit by bit, and an end that waits for nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

import syncflow
from syncflow import Session
from syncflow.testing import SlowServer, eventually, pattern


def test_as_it_is_it_answers_late(new_session: Callable[..., Session]) -> None:
    with SlowServer() as server:
        begun = time.monotonic()
        response = new_session().get(server.url)
        assert time.monotonic() - begun >= server.delay
        assert (response.status_code, response.content) == (200, b"slow\n")
        assert server.requests == 1


def test_its_delay_is_felt_as_a_read_timeout(new_session: Callable[..., Session]) -> None:
    with SlowServer(delay=3600) as server:
        with pytest.raises(syncflow.ReadTimeout):
            new_session().get(server.url, timeout=0.05)


def test_its_bandwidth_is_the_body_s(new_session: Callable[..., Session]) -> None:
    with SlowServer(0.0) as server:
        server.bandwidth, server.body = 100_000, pattern(20_000)
        begun = time.monotonic()
        with new_session().get(server.url, stream=True) as response:
            assert response.headers["Content-Length"] == "20000"
            pieces = list(response.iter_content(None))
        assert b"".join(pieces) == pattern(20_000)
        # At 100,000 bytes a second the last piece leaves after 15,000 others.
        assert time.monotonic() - begun >= 0.15


@pytest.mark.parametrize(
    "changes",
    [
        {"delay": 3600},
        {"delay": float("inf")},
        {"delay": 0.0, "bandwidth": 1.0, "body": b"x" * 3600},
        {"delay": 0.0, "bandwidth": 0.0},  # for ever
    ],
)
def test_it_ends_at_once_whoever_waits(new_session: Callable[..., Session], changes: dict[str, float]) -> None:
    errors: list[Exception] = []

    def ask() -> None:
        try:
            session.get(server.url)
        except syncflow.RequestException as error:
            errors.append(error)

    session = new_session(timeout=None)
    with SlowServer() as server:
        for name, value in changes.items():
            setattr(server, name, value)
        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: server.requests == 1)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    asking.join(10)
    assert [type(error) for error in errors] in ([syncflow.ConnectionError], [syncflow.exceptions.ChunkedEncodingError])

"""Fixtures for pytest: servers that are slow, flaky or keep what they are sent, bad networks, and a mock.

Knows when each begins and ends. Knows nothing of what they do: that is imported when a test asks for it, so that a run
of pytest in which none does pays for `import syncflow` and for no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from syncflow.testing.fault_proxy import FaultProxy
    from syncflow.testing.flaky import FlakyServer
    from syncflow.testing.mock import SyncflowMock
    from syncflow.testing.recording import RecordingServer
    from syncflow.testing.server import Server
    from syncflow.testing.slow import SlowServer

    Target = Server | str | tuple[str, int]

__all__ = ["fault_proxy", "flaky_server", "recording_server", "slow_server", "syncflow_mock"]


@pytest.fixture
def slow_server() -> Iterator[SlowServer]:
    """A server at `.url` that answers slowly: after `.delay` seconds, with `.body` at `.bandwidth` bytes a second."""
    from syncflow.testing.slow import SlowServer

    with SlowServer() as server:
        yield server


@pytest.fixture
def flaky_server() -> Iterator[FlakyServer]:
    """A server at `.url` that fails the first `.failures` requests, 2 unless set, and counts all `.requests`; `.how` is
    "status" (503, or `.status`), "close" or "reset"."""
    from syncflow.testing.flaky import FlakyServer

    with FlakyServer() as server:
        yield server


@pytest.fixture
def recording_server() -> Iterator[RecordingServer]:
    """A server at `.url` that keeps all `.requests`, and answers 200 or what it was told by `.respond(…)`."""
    from syncflow.testing.recording import RecordingServer

    with RecordingServer() as server:
        yield server


@pytest.fixture
def fault_proxy() -> Iterator[Callable[..., FaultProxy]]:
    """Makes bad networks: `fault_proxy(target, up=…, down=…)` is a `FaultProxy` that runs, before a server of
    `syncflow.testing`, a URL, or a host and port. All end with the test."""
    from syncflow.testing.fault_proxy import FaultProxy

    with contextlib.ExitStack() as stack:

        def make(target: Target, **settings: Any) -> FaultProxy:
            return stack.enter_context(FaultProxy(_address_of(target), **settings))

        yield make


@pytest.fixture
def syncflow_mock() -> Iterator[SyncflowMock]:
    """Answers all requests of syncflow without a network, as told: `syncflow_mock.get(url, json=…)`."""
    from syncflow.testing.mock import SyncflowMock

    with SyncflowMock() as mock:
        yield mock


def _address_of(target: Target) -> tuple[str, int]:
    """Raises ValueError for a URL that names no host."""
    if isinstance(target, tuple):
        return target
    if not isinstance(target, str):
        return target.address
    from urllib.parse import urlsplit

    parts = urlsplit(target)
    if not parts.hostname:
        raise ValueError(f"{target!r} is no URL with a host: give one, a server, or (host, port)")
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)

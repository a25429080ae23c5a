"""What the tests of bad links share: sessions that push back early, and how many bytes a task has on the wire.

Knows sessions, tasks and the proxy between them. Knows nothing of faults.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from syncflow import Session, Timeouts, Watermarks
from syncflow.testing import FaultProxy

from .faults import Sizes
from .tasks import Place, Task

GENEROUS = Timeouts(connect=10, read=10, write=10, pool=10)
SMALL_MARKS = Watermarks(high=8192, low=2048, receive_high=8192, receive_low=2048)

# By the name of a task: they are the same each time.
_measured: dict[str, tuple[Sizes, Sizes]] = {}


@pytest.fixture
def session_here(new_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch) -> Callable[[Timeouts], Session]:
    """Makes sessions; once closed they hold nothing, which is seen to. They need not wait long for what never comes."""
    monkeypatch.setattr("syncflow.adapters.writing.CONTINUE_PATIENCE", 0.1)
    monkeypatch.setattr("syncflow.resuming.PAUSES", (0.0, 0.0))
    return lambda timeouts: new_session(timeout=timeouts, watermarks=SMALL_MARKS)


@pytest.fixture
def sizes(
    session_here: Callable[[Timeouts], Session], server_tls: ssl.SSLContext, tmp_path: Path
) -> Callable[[Task], tuple[Sizes, Sizes]]:
    """Of what a task sends up and of what comes down."""

    def count(task: Task, do: Callable[[Place], None]) -> tuple[int, int]:
        with task.server(server_tls) as server, FaultProxy(server.address) as proxy:
            session = session_here(GENEROUS)
            do(task.place(session, proxy, tmp_path))
            session.close()
            proxy.wait_until_idle()
            assert proxy.connections == 1, "the bytes are those of one connection"
            return proxy.bytes_up, proxy.bytes_down

    def measure(task: Task) -> tuple[Sizes, Sizes]:
        if task.name not in _measured:
            before = (0, 0) if task.before is None else count(task, task.before)
            total = count(task, task.do)
            _measured[task.name] = Sizes(before[0], total[0]), Sizes(before[1], total[1])
        return _measured[task.name]

    return measure

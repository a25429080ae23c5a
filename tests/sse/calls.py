"""What the tests of the buffers share: sends that stop in the middle, and calls that are blocked.

Knows a buffer's private parts as far as it has to, so that no test sleeps until something has probably happened.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from syncflow.sse.buffer import Entry, EventBuffer, Send
from syncflow.testing import eventually

from ..concurrency import PATIENCE, Call


class Sink:
    """A `send` that remembers; it can be made to fail, or to stop in the middle of an event."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.error: BaseException | None = None
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, event: Any) -> None:
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        self.received.append(event)

    def hold(self) -> None:
        self.begun.clear()
        self.go_on.clear()


def fill(buffer: EventBuffer, sink: Send, events: Iterable[Any]) -> None:
    for event in events:
        buffer.enqueue(event, sink)


def entries(events: Any, sink: Send) -> list[Entry]:
    return [(event, sink, 0.0) for event in events]


def figures(buffer: EventBuffer) -> tuple[int, int, int, int]:
    """Enqueued, sent, dropped, size."""
    metrics = buffer.metrics()
    assert metrics.enqueued == metrics.sent + metrics.dropped + metrics.size
    assert metrics.size == buffer.size
    assert metrics.dropped == buffer.dropped_count
    return metrics.enqueued, metrics.sent, metrics.dropped, metrics.size


def is_blocked(bell: Any) -> Callable[[], bool]:
    return lambda: bell.sleepers == 1


def sending(buffer: EventBuffer, sink: Sink, error: BaseException | None) -> Call[int]:
    """A flush in another thread that stands in the middle of its first event, and will fail with `error`."""
    sink.error = error
    sink.hold()
    call = Call(buffer.flush)
    assert sink.begun.wait(PATIENCE)
    return call


def finish(call: Call[int], sink: Sink, sent: int) -> None:
    """Let it go on: `sent` events leave, or none if it fails."""
    sink.go_on.set()
    if sink.error is None:
        assert call.result() == sent
    else:
        with pytest.raises(type(sink.error)):
            call.result()
        sink.error = None


def blocked_enqueue(buffer: EventBuffer, sink: Sink, event: Any, timeout: float | None = None) -> Call[bool]:
    call = Call(buffer.enqueue, event, sink, timeout=timeout)
    eventually(is_blocked(buffer._room))
    return call

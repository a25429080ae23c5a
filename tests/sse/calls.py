"""What the tests of the buffers share: calls on threads of their own, sends that stop in the middle, a forked child.

Knows a buffer's private parts as far as it has to, so that no test sleeps until something has probably happened.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import pytest

from syncflow.sse.buffer import Entry, EventBuffer, Send
from syncflow.testing import eventually

T = TypeVar("T")

# Only bounds a test that hangs.
PATIENCE = 10.0


class Call(Generic[T]):
    """A function on a thread of its own, and what came of it."""

    def __init__(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> None:
        self._function = lambda: function(*args, **kwargs)
        self._value: list[T] = []
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._value.append(self._function())
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the call is still blocked"
        if self._error is not None:
            raise self._error
        return self._value[0]


def at_once(*functions: Callable[[], T]) -> list[T]:
    """Run them all, each on its own thread, from the same moment; what they returned."""
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], T]) -> T:
        barrier.wait(PATIENCE)
        return function()

    calls = [Call(run, function) for function in functions]
    return [call.result() for call in calls]


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


def forked(function: Callable[[], Any]) -> Any:
    """What it returned, as JSON, in a child that ends at once afterwards."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads in any process that forks; that it works in ours is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            outcome = {"value": function()}
        except BaseException:
            outcome = {"error": traceback.format_exc()}
        try:
            os.write(writing, json.dumps(outcome).encode())
        finally:
            os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], 2 * PATIENCE)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    assert ready, "the child is blocked"
    outcome = json.loads(told)
    assert "error" not in outcome, outcome["error"]
    return outcome["value"]

"""What tests of threads and processes share: calls on threads of their own, from one moment, and in a forked child.

Knows nothing of syncflow. Every wait is bounded: a call that hangs fails its test.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Seconds. Generous: it only bounds a test that hangs.
PATIENCE = 10.0


class Call(Generic[T]):
    """A function on a thread of its own, and what came of it."""

    def __init__(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> None:
        self._function = lambda: function(*args, **kwargs)
        self._value: list[T] = []
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="call", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._value.append(self._function())
        except BaseException as error:
            self._error = error

    @property
    def ended(self) -> bool:
        return not self.thread.is_alive()

    def result(self) -> T:
        """What it returned; what it raised."""
        error = self.error()
        if error is not None:
            raise error
        return self._value[0]

    def error(self) -> BaseException | None:
        """What it raised, if it did."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the call is still blocked"
        return self._error


def at_once(*functions: Callable[[], T]) -> list[T]:
    """Run them all, each on its own thread, from the same moment; what they returned."""
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], T]) -> T:
        barrier.wait(PATIENCE)
        return function()

    calls = [Call(run, function) for function in functions]
    return [call.result() for call in calls]


def forked(function: Callable[[], Any]) -> Callable[[], Any]:
    """Run it in a child, which ends at once afterwards; call the result to wait for what it returned, as JSON."""
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

    def join() -> Any:
        ready, _, _ = select.select([reading], [], [], 2 * PATIENCE)
        if not ready:
            os.kill(pid, signal.SIGABRT)  # pytest has enabled faulthandler, which says where it is blocked
            select.select([reading], [], [], PATIENCE)
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        os.waitpid(pid, 0)
        assert ready, "the child is blocked"
        outcome = json.loads(told)
        assert "error" not in outcome, outcome["error"]
        return outcome["value"]

    return join

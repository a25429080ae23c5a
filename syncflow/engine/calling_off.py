"""How another thread ends a request, wherever it is just now: in the queue, being connected, under way.

Knows whom to tell. Knows nothing of what is told: what a request waits in can fail, and that is all.
"""

from __future__ import annotations

from collections.abc import Callable

from ..exceptions import RequestException

__all__ = ["Cancellation"]


class Cancellation:
    """Of one request, or of several that one thread makes one after the other.

    Without a lock: whoever comes second of `attend` and `cancel`, each of which writes before it reads, sees what the
    first has written. If both do, the same is called twice, which it must bear.
    """

    def __init__(self) -> None:
        # Written by any thread, once.
        self.error: RequestException | None = None
        # Written by the requesting thread.
        self._fail: Callable[[RequestException], None] | None = None

    def attend(self, fail: Callable[[RequestException], None]) -> None:
        """The requesting thread, before it waits in something: this ends the wait. Called at once if it is too late."""
        self._fail = fail
        if self.error is not None:
            fail(self.error)

    def cancel(self, error: RequestException) -> None:
        """Any thread, holding nothing. Whoever waits gets `error`, and whatever is begun afterwards."""
        if self.error is None:
            self.error = error
        fail = self._fail
        if fail is not None:
            fail(self.error)

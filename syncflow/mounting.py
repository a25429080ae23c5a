"""What a session sends through: the adapters mounted in it, what they are doing, and how they end.

Knows which adapter a URL goes to, and that those written for `requests` can do less than ours. Knows nothing of
requests.
"""

from __future__ import annotations

import os
import threading
import warnings
from typing import TYPE_CHECKING, Any

from .adapters import HTTPAdapter
from .exceptions import InvalidSchema
from .urls import masked

if TYPE_CHECKING:
    from .engine.stats import PoolStats

__all__ = ["SessionAdaptersMixin"]

# Of two threads that mount something, neither loses what the other has mounted. One for all sessions, as it is held for
# a moment only: so a session can be copied and pickled, and a forked child finds it free.
_mounting = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mounting._at_fork_reinit)  # type: ignore[attr-defined]  # as `threading` does it


class SessionAdaptersMixin:
    """What a `Session` sends through."""

    _adapter: HTTPAdapter
    # Replaced, never changed, so that it can be read by any thread.
    adapters: dict[str, Any]

    def mount(self, prefix: str, adapter: Any) -> None:
        """Send requests whose URL begins with `prefix` through `adapter`, one of ours or one written for `requests`."""
        with _mounting:
            adapters = {**self.adapters, prefix: adapter}
            self.adapters = dict(sorted(adapters.items(), key=lambda item: -len(item[0])))

    def get_adapter(self, url: str) -> Any:
        """The adapter whose prefix is the longest that `url` begins with.

        Raises:
            InvalidSchema: there is none.
        """
        lower = url.lower()
        for prefix, adapter in self.adapters.items():
            if lower.startswith(prefix.lower()):
                return adapter
        raise InvalidSchema(
            f"{masked(url)!r}: no adapter is mounted for such a URL, only for {', '.join(self.adapters)}; nothing was "
            "sent"
        )

    def _all_adapters(self) -> list[Any]:
        """Each once: its own, mounted or not, and those that the program has mounted."""
        return list({id(adapter): adapter for adapter in (self._adapter, *self.adapters.values())}.values())

    def stats(self) -> PoolStats:
        """Any thread, at any time, also after `close`. What the session's connections are doing and have done, by
        origin and overall: see `PoolStats`.

        Costs a request nothing. An `HTTPAdapter` that was mounted is counted, with all that other sessions send through
        it; an adapter that was written for `requests` is not, because its connections are its own.
        """
        from .engine.stats import combined  # late: few programs need it

        return combined(adapter.stats() for adapter in self._all_adapters() if isinstance(adapter, HTTPAdapter))

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Any thread. End everything at once: every call that waits in another thread, and every response that is
        being read, gets `SessionClosed`. A closed session takes no new requests."""
        for adapter in self._all_adapters():
            adapter.close()

    def __del__(self) -> None:
        adapter = getattr(self, "_adapter", None)
        if adapter is not None and adapter.retire_from_finalizer():
            warnings.warn(f"{self!r} was dropped with open connections; close it", ResourceWarning, 2, source=self)

    def retire(self) -> None:
        """Take no new requests; what is under way, as a response that is still being read, goes on to its end."""
        self._adapter.retire()

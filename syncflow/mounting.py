"""What a session sends through: the adapters mounted in it, what they are doing, and how they end.

Knows which adapter a URL goes to, and that those written for `requests` can do less than ours. Knows nothing of
requests.
"""

from __future__ import annotations

import os
import threading
import warnings
from time import monotonic
from typing import TYPE_CHECKING, Any

from .adapters import HTTPAdapter
from .calls import Calls
from .exceptions import InvalidSchema
from .urls import masked

if TYPE_CHECKING:
    from .engine.stats import PoolStats
    from .models import PreparedRequest

__all__ = ["SessionAdaptersMixin"]

# Of two threads that mount something, neither loses what the other has mounted. One for all sessions, as it is held for
# a moment only: so a session can be copied and pickled, and a forked child finds it free.
_mounting = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mounting._at_fork_reinit)  # type: ignore[attr-defined]  # as `threading` does it


class SessionAdaptersMixin:
    """What a `Session` sends through."""

    _adapter: HTTPAdapter
    _calls: Calls
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

    def _adapter_for(self, request: PreparedRequest) -> Any:
        """As `get_adapter`, whose error is that of the request."""
        try:
            return self.get_adapter(request.url or "")
        except InvalidSchema as error:
            error.request = request
            raise

    def _all_adapters(self) -> list[Any]:
        """Each once: its own, mounted or not, and those that the program has mounted."""
        return list({id(adapter): adapter for adapter in (self._adapter, *self.adapters.values())}.values())

    def _own_adapters(self) -> list[HTTPAdapter]:
        """Without those that were written for `requests`."""
        return [adapter for adapter in self._all_adapters() if isinstance(adapter, HTTPAdapter)]

    def stats(self) -> PoolStats:
        """Any thread, at any time, also after `close`. What the session's connections are doing and have done, by
        origin and overall: see `PoolStats`.

        Costs a request nothing. An `HTTPAdapter` that was mounted is counted, with all that other sessions send through
        it; an adapter that was written for `requests` is not, because its connections are its own.
        """
        from .engine.stats import combined  # late: few programs need it

        return combined(adapter.stats() for adapter in self._own_adapters())

    # ---------------------------------------------------------------- the end

    def end_streams(self) -> None:
        """Any thread, any number of times. End the streams of `sse` that connect again whenever they are cut off, and
        so would never end: each between two events, as at the end of a list. Those that are begun later end before they
        connect. Everything else goes on, and new requests are taken: for a server that has been asked to stop, and has
        requests of its own to finish. `drain` does this too."""
        self._calls.end_streams()

    def drain(self, timeout: float | None = None) -> bool:
        """Any thread, any number of times. Take no new requests, wait until those under way have ended, then close. A
        new request gets `SessionClosed`, before anything of it is sent.

        A request is under way from its call to the end of its answer, wherever it waits, and with all that it leads to:
        redirects, retries, rounds of authentication, a download's resuming, what its hooks or the generator of its body
        send through this session. An answer with `stream=True`, and that to an upload, ends when it is read to its end,
        closed or dropped; an upload when it is finished or aborted; a connection that was taken over when it is closed.

        A stream of `sse` that connects again whenever it is cut off would never end: it does so here, between two
        events, as at the end of a list. One that does not (`max_reconnects=0`, or a POST) is waited for like any
        answer.

        Of an adapter that was written for `requests` the calls are waited for, not answers that are read as streams.
        One that several sessions have mounted is drained, and closed, with the first of them.

        Args:
            timeout: seconds, after which `close` ends what is still under way; None for as long as it takes.

        Returns:
            Whether all of it has ended by itself; False if `close` has ended something.

        Raises:
            RuntimeError: this thread is in a request just now, by a hook, a generator or a signal's handler, and would
                wait for itself.
        """
        until = None if timeout is None else monotonic() + timeout
        self._calls.retire()
        if not self._wait_until_unused(until):
            self.close()
        else:
            # Not `close`, which would take a call that is just being refused for one that it ends.
            self._end(was_cut=False)
        return not self._calls.was_cut

    def _wait_until_unused(self, until: float | None) -> bool:
        if not self._calls.wait_until_none(until):
            return False
        # Not earlier: until now a call may have needed another connection.
        adapters = self._own_adapters()
        for adapter in adapters:
            adapter.retire()
        return all(adapter.wait_until_unused(until) for adapter in adapters)

    def close(self) -> None:
        """Any thread. End everything at once: every call that waits in another thread, and every response that is
        being read, gets `SessionClosed`. A closed session takes no new requests."""
        is_used = any(adapter.is_used for adapter in self._own_adapters())
        self._end(was_cut=is_used or bool(self._calls.under_way))

    def _end(self, *, was_cut: bool) -> None:
        self._calls.close(was_cut=was_cut)
        for adapter in self._all_adapters():
            adapter.close()

    def __del__(self) -> None:
        adapter = getattr(self, "_adapter", None)
        if adapter is not None and adapter.retire_from_finalizer():
            warnings.warn(f"{self!r} was dropped with open connections; close it", ResourceWarning, 2, source=self)

    def retire(self) -> None:
        """Take no new requests; what is under way, as a response that is still being read, goes on to its end."""
        self._adapter.retire()

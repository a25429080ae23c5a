"""One session for a whole server: where handlers find it, and how it ends with its process.

Knows environ, forks, signals and the end of the interpreter. Knows nothing of requests.
"""

from __future__ import annotations

import _thread
import concurrent.futures.thread  # noqa: F401  # before `_at_end` is registered: see there
import math
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any

from ..sessions import Session

__all__ = ["ClientMiddleware", "StartResponse", "WSGIApplication", "client"]

# PEP 3333; `wsgiref.types` says the same in more words.
StartResponse = Callable[..., Any]
WSGIApplication = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

KEY = "syncflow.client"

# Seconds for what is under way when the server stops: less than what the supervisors of servers allow, 30 in gunicorn
# and Kubernetes, 10 in Docker, 90 in systemd.
DRAIN_TIMEOUT = 8.0


def client(environ: Mapping[str, Any]) -> Session:
    """The session of the server that handles this request; any number of threads may use it, as they may any.

    Raises:
        RuntimeError: there is no `ClientMiddleware` around the application.
    """
    session: Session | None = environ.get(KEY)
    if session is None:
        raise RuntimeError(
            "no client in this environ: wrap the application in syncflow.wsgi.ClientMiddleware(app, session)"
        )
    return session


class ClientMiddleware:
    """A WSGI application around another one, whose handlers find `session` by `client(environ)`.

    The session may be made before the server forks: each process has connections and an engine of its own. When the
    process ends, in whatever way but by a kill, the session is drained: nothing new, what is under way is finished for
    `drain_timeout` seconds, then it is closed. A server that is asked to stop waits for its requests first; for streams
    without an end, see `drain_on`.

    Args:
        app: the application.
        session: what its handlers share. Whoever made it may use it elsewhere too, and may close it earlier.
        drain_timeout: seconds; None waits for as long as it takes.
    """

    def __init__(self, app: WSGIApplication, session: Session, *, drain_timeout: float | None = DRAIN_TIMEOUT) -> None:
        if not isinstance(session, Session):
            raise TypeError(f"ClientMiddleware takes an application and a Session, not {session!r}")
        if drain_timeout is not None and not 0 <= drain_timeout < math.inf:
            raise ValueError(f"drain_timeout is a number of seconds from 0, or None, not {drain_timeout!r}")
        self.app = app
        self.session = session
        self.drain_timeout = drain_timeout
        self._stops_at: float | None = None  # set once, by the first signal or the end
        _all.add(self)
        _see_to_the_end()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ[KEY] = self.session
        return self.app(environ, start_response)

    def drain(self) -> bool:
        """Any thread. As `Session.drain`, for `drain_timeout` seconds, counted from the signal or from the end of the
        main thread if one of them has come."""
        until = self._stops_at
        return self.session.drain(self.drain_timeout if until is None else max(0.0, until - time.monotonic()))

    def drain_on(self, *signals: int) -> None:
        """See to it that the server has nothing to wait for when one of `signals` comes, as SIGTERM: streams of events
        end at once, between two of them; what else is under way, and what handlers that are at work begin, has
        `drain_timeout` seconds; then the session is closed.

        In the main thread of each process that serves, after the server has set its own handlers, which are called as
        before: with gunicorn in `post_worker_init`, with a server that the program starts itself right before. Where
        there was no handler, the main thread gets SystemExit, which such a server takes for its end.

        Raises:
            ValueError: not in the main thread.
        """
        for signum in signals:
            signal.signal(signum, self._stopping_before(signal.getsignal(signum)))

    def _stopping_before(self, then: Any) -> Callable[[int, FrameType | None], None]:
        def handle(signum: int, frame: FrameType | None) -> None:
            # A handler runs in the middle of whatever the main thread does, so another one stops. Not by `threading`,
            # in which the main thread may be just now.
            _thread.start_new_thread(self._stop, ())
            if callable(then):
                then(signum, frame)
            elif then is signal.SIG_DFL:
                raise SystemExit(0)

        return handle

    def _stop(self) -> None:
        """A thread of its own, which dies with the process."""
        self._count()
        self.session.end_streams()
        if self.drain_timeout is not None:
            time.sleep(self.drain_timeout)
            self.session.close()

    def _count(self) -> None:
        """Any thread. The time begins that is left, unless it has begun."""
        if self.drain_timeout is not None and self._stops_at is None:
            self._stops_at = time.monotonic() + self.drain_timeout


# ------------------------------------------------------------------------------------------- the end of the process

_all: weakref.WeakSet[ClientMiddleware] = weakref.WeakSet()
_is_seen_to = False


def _see_to_the_end() -> None:
    """Have the sessions drained when the main thread has ended, while the threads of the server still run, which the
    interpreter waits for: behind them, as `atexit` comes, it would be too late for those that wait in a session.

    `concurrent.futures` uses the same, to wait for the threads of its pools. What is registered last comes first, so
    its module must have been imported before.
    """
    global _is_seen_to
    if not _is_seen_to:
        _is_seen_to = True
        threading._register_atexit(_at_end)  # type: ignore[attr-defined]  # nothing public comes at that moment


def _at_end() -> None:
    """The main thread, at its end. Python 3.12 starts no thread then: so one after the other, but their time runs for
    all of them from now on."""
    ending = list(_all)
    for each in ending:
        each._count()
    for each in ending:
        each.drain()

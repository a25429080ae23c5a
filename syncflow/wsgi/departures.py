"""Clients that leave while somebody works for them, noticed at once: by the kernel, for all of a process together.

Knows which socket a request came by, as far as its server tells, and whom to tell when the other side has ended the
connection. Never reads a byte of it, so what the client may have sent ahead is no business of this file.

The worker thread watches one descriptor for all of them: an epoll of its own, whose members the threads of the server
add and remove without a word to the worker. Where there is no epoll nobody is told, and a client that has left is
noticed with the next piece that it is to get.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from ..engine.worker import READ, Worker, shared_worker

__all__ = ["client_descriptor", "watched"]

logger = logging.getLogger("syncflow.wsgi")

# The other side has sent its last byte, whatever is still to be read. Once: who was told is not told again.
_GONE = getattr(select, "EPOLLRDHUP", 0) | getattr(select, "EPOLLONESHOT", 0)

# What stands between `wsgi.input` and the socket's own file, with cheroot: a limit of bytes, and one more.
_MOST_WRAPPERS = 3


def client_descriptor(environ: Mapping[str, Any]) -> int | None:
    """Of the socket by which the request came; None if the server does not tell, as waitress and uWSGI do not."""
    for name in ("gunicorn.socket", "werkzeug.socket"):
        if name in environ:
            return _socket_descriptor(environ[name])
    file = environ.get("wsgi.input")
    for _ in range(_MOST_WRAPPERS):
        descriptor = _socket_descriptor(file)
        if descriptor is not None:
            return descriptor
        file = getattr(file, "rfile", None)
    return None


def _socket_descriptor(thing: Any) -> int | None:
    try:
        descriptor = int(thing.fileno())
        return descriptor if stat.S_ISSOCK(os.fstat(descriptor).st_mode) else None
    except (AttributeError, OSError, ValueError):
        return None  # in memory, or a file on disk; or closed


class Departures:
    """All of a process. A `Client` of the worker; any thread adds and removes."""

    def __init__(self, worker: Worker) -> None:
        # Never changes.
        self._worker = worker
        self._epoll = select.epoll()
        # Taken with nothing else held. Guards `_told`, and holds the epoll and it together: a descriptor that was
        # removed may be another client's a moment later.
        self._lock = threading.Lock()
        self._told: dict[int, weakref.WeakMethod[Callable[[], object]]] = {}
        worker.adopt(self)
        worker.submit(self, lambda: worker.watch(self, READ))

    def add(self, descriptor: int, tell: weakref.WeakMethod[Callable[[], object]]) -> None:
        """Any thread. `tell` is called once, by a thread made for it, when that client has left; perhaps at once.
        Raises OSError if the system watches no more."""
        with self._lock:
            self._told[descriptor] = tell
            try:
                self._epoll.register(descriptor, _GONE)
            except FileExistsError:  # somebody watched it, and was dropped
                self._epoll.modify(descriptor, _GONE)
            except BaseException:
                del self._told[descriptor]
                raise

    def remove(self, descriptor: int, tell: weakref.WeakMethod[Callable[[], object]]) -> None:
        """Any thread, any number of times; first before the server has the socket back. Afterwards nobody is told; one
        who is being told may be just now. If the number is another one's by now, that one is still told."""
        with self._lock:
            if self._told.get(descriptor) is tell:
                del self._told[descriptor]
                with contextlib.suppress(OSError, ValueError):  # it was closed all the same; this is a forked child
                    self._epoll.unregister(descriptor)

    # ---------------------------------------------------------------- worker only

    def fileno(self) -> int:
        """See `Client`."""
        return self._epoll.fileno()

    def on_ready(self, events: int) -> None:
        """See `Client`. Some have left."""
        with self._lock:
            left = [self._told.pop(descriptor, None) for descriptor, _ in self._epoll.poll(0)]
        told = [tell for found in left if found is not None and (tell := found()) is not None]
        if told:  # not here: it ends requests, which is told to observers, and those are the program's
            threading.Thread(target=_tell_all, args=(told,), name="syncflow-departures", daemon=True).start()

    def on_failure(self, error: BaseException) -> None:
        """See `Client`. The next request begins anew; clients of this one are noticed when they are written to."""
        _forget(self)

    def on_fork(self) -> None:
        """See `Client`."""
        _forget(self)
        self._lock = threading.Lock()
        self._epoll.close()  # a copy: the parent's is not touched


def _tell_all(told: list[Callable[[], object]]) -> None:
    """A thread of its own. What goes wrong with one is no reason to leave the others alone."""
    for tell in told:
        try:
            tell()
        except Exception:
            logger.exception("a request whose client has left could not be ended")


# Guards `_departures`; taken with nothing else held.
_making = threading.Lock()
_departures: Departures | None = None


def _forget(departures: Departures) -> None:
    """Without a lock: in a forked child there is one thread, and for the worker the worst is one more of them."""
    global _departures
    if _departures is departures:
        _departures = None


def watched(environ: Mapping[str, Any], tell: Callable[[], object]) -> Callable[[], None]:
    """Any thread. Call `tell`, by a thread made for it, if the client of this request leaves. Returns what ends that,
    to be called before the server has its socket back; it may come while `tell` is being called.

    `tell` is a method, of an object that is not kept alive by this: a body that the server, or what stands between, has
    dropped without closing it, is to end by that.
    """
    global _departures
    descriptor = client_descriptor(environ) if hasattr(select, "epoll") else None
    if descriptor is None:
        return lambda: None
    told = weakref.WeakMethod(tell)
    try:
        with _making:
            if _departures is None:
                _departures = Departures(shared_worker())
            departures = _departures
        departures.add(descriptor, told)
    except OSError as error:  # no descriptors left; the request may need none
        logger.warning("a client that leaves will be noticed when it is written to: %s", error)
        return lambda: None
    return lambda: departures.remove(descriptor, told)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_making._at_fork_reinit)  # type: ignore[attr-defined]  # as `threading` does it

"""Names to addresses, on threads of its own: a stuck resolver costs its thread, not a caller's deadline.

Knows getaddrinfo, and that two who ask for the same name at the same moment share the question. Caches nothing: that
is the system's business. An address that is written in numbers is answered at once, without a thread.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

__all__ = ["Address", "Lookup", "lookup"]

# Family and what connect() takes.
Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


class Lookup:
    """One question under way, for all who ask it."""

    def __init__(self, host: str, port: int) -> None:
        # Never changes.
        self.host = host
        self.port = port
        # Guarded by _lock.
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        # Written once by the resolver's thread, before `done`.
        self.addresses: list[Address] = []
        self.error: Exception | None = None
        self.done = False

    def listen(self, listener: Callable[[], None]) -> None:
        """Any thread. Call `listener`, on the resolver's thread, when the answer is there; at once if it is."""
        with self._lock:
            if not self.done:
                self._listeners.append(listener)
                return
        listener()

    def ignore(self, listener: Callable[[], None]) -> None:
        """Any thread. The listener has given up; the question goes on for the others, or for nobody."""
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def _run(self) -> None:
        """The resolver's thread."""
        try:
            self.addresses = _ask(self.host, self.port)
        except Exception as error:  # delivered to all who ask
            self.error = error
        with _under_way_lock:
            _under_way.pop((self.host, self.port), None)
        with self._lock:
            self.done = True
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()


_under_way: dict[tuple[str, int], Lookup] = {}
_under_way_lock = threading.Lock()


def lookup(host: str, port: int) -> Lookup:
    """Any thread, never blocks. Ask for the addresses of `host`, or join those who are asking."""
    numeric = _numeric(host, port)
    if numeric is not None:
        answered = Lookup(host, port)
        answered.addresses = [numeric]
        answered.done = True
        return answered
    with _under_way_lock:
        current = _under_way.get((host, port))
        if current is None:
            current = Lookup(host, port)
            threading.Thread(target=current._run, name=f"syncflow-resolver {host}", daemon=True).start()
            _under_way[host, port] = current
        return current


def _numeric(host: str, port: int) -> Address | None:
    """The address, if `host` is one in the usual notation; zones and odd notations are the system's to understand."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return family, ((host, port) if family == socket.AF_INET else (host, port, 0, 0))
    return None


def _ask(host: str, port: int) -> list[Address]:
    found: list[Address] = []
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        entry = (family, address)
        if entry not in found:
            found.append(entry)  # type: ignore[arg-type]  # of AF_INET and AF_INET6 these are the shapes
    return found


def _after_fork_in_child() -> None:
    """The threads that were asking did not come along."""
    global _under_way_lock
    _under_way_lock = threading.Lock()
    _under_way.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

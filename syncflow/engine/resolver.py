"""Names to addresses, on threads of its own: a stuck resolver costs its thread, not a caller's deadline.

Knows getaddrinfo, or what the user has in its place, and that two who ask it for the same name at the same moment share
the question. Caches nothing: that is the system's business. An address that is written in numbers is answered at once,
without a thread.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Address", "Lookup", "Resolver", "lookup", "numeric_address"]

# Family and what connect() takes.
Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]

# Host and port to addresses, each as text or as `socket.getaddrinfo` writes it.
Resolver = Callable[[str, int], Iterable[str | tuple[Any, ...]]]


class Lookup:
    """One question under way, for all who ask it."""

    def __init__(self, host: str, port: int, resolver: Resolver | None = None) -> None:
        # Never changes.
        self.host = host
        self.port = port
        self.resolver = resolver
        # Guarded by _lock.
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        # Written once by the resolver's thread, before `done`.
        self.addresses: list[Address] = []
        self.error: BaseException | None = None
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
            self.addresses = _ask(self.host, self.port, self.resolver)
        except (
            BaseException
        ) as error:  # delivered to all who ask: the user's function may raise SystemExit, or anything
            self.error = error
        with _under_way_lock:
            _under_way.pop((self.host, self.port, id(self.resolver)), None)
        with self._lock:
            self.done = True
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()


# By host, port and the resolver's id, which its Lookup keeps alive: to hash a user's object is to run user code.
_under_way: dict[tuple[str, int, int], Lookup] = {}
_under_way_lock = threading.Lock()


def lookup(host: str, port: int, resolver: Resolver | None = None) -> Lookup:
    """Any thread, never blocks. Ask for the addresses of `host`, or join those who are asking.

    Args:
        host: a name or an address.
        port: goes into the answer.
        resolver: asked instead of the system, unless `host` is an address.
    """
    numeric = numeric_address(host, port)
    if numeric is not None:
        answered = Lookup(host, port)
        answered.addresses = [numeric]
        answered.done = True
        return answered
    if ":" in host:
        resolver = None  # no name, but a zone that does not exist: the system says so
    with _under_way_lock:
        current = _under_way.get((host, port, id(resolver)))
        if current is None:
            current = Lookup(host, port, resolver)
            threading.Thread(target=current._run, name=f"syncflow-resolver {host}", daemon=True).start()
            _under_way[host, port, id(resolver)] = current
        return current


def numeric_address(text: str, port: int) -> Address | None:
    """The address, if `text` is one in the usual notation, with or without a zone (RFC 4007, section 11), in its
    shortest form; odd notations are the system's to understand."""
    address, percent, zone = text.partition("%")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            shortest = socket.inet_ntop(family, socket.inet_pton(family, address))
        except (OSError, ValueError):
            continue
        if family == socket.AF_INET6:
            scope = _scope(zone) if percent else 0
            return None if scope is None else (family, (shortest, port, 0, scope))
        return None if percent else (family, (shortest, port))
    return None


def _scope(zone: str) -> int | None:
    """The number of an interface, given by number or name."""
    if zone.isascii() and zone.isdigit():
        return int(zone) if int(zone) < 1 << 32 else None
    try:
        return socket.if_nametoindex(zone)
    except (OSError, ValueError):
        return None


def _ask(host: str, port: int, resolver: Resolver | None) -> list[Address]:
    found: list[Address] = []
    answers: Iterable[str | tuple[Any, ...]]
    if resolver is None:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    else:
        answers = resolver(host, port)
    for answer in answers:
        entry = _read(answer, port)
        if entry not in found:
            found.append(entry)
    return found


def _read(answer: str | tuple[Any, ...], port: int) -> Address:
    """Of one of a resolver's answers, the address. An IPv6 address of getaddrinfo's has its zone beside it."""
    text: object = answer
    scope = 0
    if isinstance(answer, tuple):
        _, _, _, _, (text, port, *rest) = answer
        scope = rest[1] if len(rest) == 2 else 0
    address = numeric_address(text, port) if isinstance(text, str) else None
    if address is None:
        raise ValueError(f"the resolver has given {answer!r}, in which there is no address")
    family, where = address
    return (family, (where[0], port, 0, scope)) if scope else address


def _after_fork_in_child() -> None:
    """The threads that were asking did not come along."""
    global _under_way_lock
    _under_way_lock = threading.Lock()
    _under_way.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

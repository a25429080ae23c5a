"""System calls of syncflow's connections that fail, fall short, would block, take their time, or find the connection
reset: at the call that a test names.

Knows what the kernel and OpenSSL may answer to each call of a non-blocking client, and how one answer is put in the
place of another. Knows nothing of HTTP, nor of what syncflow makes of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import struct
import sys
import threading
import types
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

from syncflow.engine.attempt import Attempt

__all__ = ["CALLS", "Fault", "FaultInjector"]

# By their names in `FaultInjector.plan`.
CALLS = ("connect", "so_error", "send", "sendfile", "recv", "tls_handshake", "tls_read", "tls_write")

Kind = Literal["error", "short", "would_block", "delay", "reset"]

# What can be done to which calls. OpenSSL takes all of what it is given to write, or nothing.
APPLIES: dict[Kind, frozenset[str]] = {
    "error": frozenset(CALLS),
    "short": frozenset({"send", "sendfile", "recv", "tls_read"}),
    "would_block": frozenset(CALLS) - {"so_error"},
    "delay": frozenset(CALLS),
    "reset": frozenset(CALLS),
}

# For SO_LINGER: close() resets (socket(7)).
AT_ONCE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a call; made by one of the methods below.

    Attributes:
        kind: "error", "short", "would_block", "delay" or "reset".
    """

    kind: Kind
    _make: Callable[[], OSError] | None = None
    _until: threading.Event | None = None
    _seconds: float = 0.0

    @classmethod
    def error(cls, what: int | Callable[[], OSError]) -> Fault:
        """The call is not made and fails: with an `errno`, or with what `what()` makes. The connection goes on."""
        if isinstance(what, int):
            return cls("error", lambda: OSError(what, os.strerror(what)))
        return cls("error", what)

    @classmethod
    def short(cls) -> Fault:
        """One byte is taken or given, and not more."""
        return cls("short")

    @classmethod
    def would_block(cls) -> Fault:
        """The call is not made and says that it would block, though it would not; made again, it goes through. A
        `connect` is begun. What OpenSSL has already decrypted is not kept back, because no selector tells of it."""
        return cls("would_block")

    @classmethod
    def delay(cls, seconds: float, until: threading.Event | None = None) -> Fault:
        """The call is made so many seconds later, or when `until` is set, if that is sooner."""
        return cls("delay", _until=until, _seconds=seconds)

    @classmethod
    def reset(cls) -> Fault:
        """The connection is reset: the peer gets a RST, and this call and all that follow are answered by the kernel.
        (Only Linux resets a socket that stays open. Elsewhere the call fails, and the RST goes out when syncflow closes
        the socket, and so it is on a Unix socket, which knows none.)"""
        return cls("reset")

    @property
    def calls(self) -> frozenset[str]:
        """The calls that it can strike."""
        return APPLIES[self.kind]


class Plan:
    """One fault and the calls that it is to happen to; made by `FaultInjector.plan`.

    Attributes:
        struck: set when it has happened to a call, and before that call goes on.
    """

    def __init__(self, fault: Fault, calls: frozenset[str], at: int | None) -> None:
        self.struck = threading.Event()
        # Never changes.
        self.fault = fault
        self._calls = calls
        self._at = at
        # Guarded by the injector's lock.
        self._made = 0  # of its calls
        # Whose call would have blocked, and goes through the next time: (a socket's address, call).
        self._refused: set[tuple[int, str]] = set()

    def strikes(self, call: str, sock: socket.socket, *, can_block: bool) -> bool:
        """With the injector's lock held. Whether it happens to this call, which is counted."""
        if call not in self._calls:
            return False
        self._made += 1
        if self.fault.kind == "would_block" and not can_block:
            return False
        if self._at is not None:
            if self._made <= self._at or self.struck.is_set():
                return False
        elif self.fault.kind == "would_block":
            key = (id(sock), call)
            if key in self._refused:
                self._refused.discard(key)
                return False
            self._refused.add(key)
        self.struck.set()
        return True


class FaultInjector:
    """While its `with` block lasts, every connection that syncflow makes in this process can be disturbed as planned.

    The sockets of servers are not touched, nor those of other libraries, nor connections that were there before. What
    was made in the block is not disturbed after it. One injector at a time. Any thread may use its methods.

        with FaultInjector() as faults:
            plan = faults.plan("recv", fault=Fault.reset(), at=3)
            session.get(url)
        assert plan.struck.is_set()

    The calls: "connect" and "so_error" (its result, asked for by getsockopt), "send" (sendmsg too), "sendfile", "recv",
    and, of TLS, "tls_handshake", "tls_read" and "tls_write". (TLS inside TLS, and upgraded TLS connections, are
    disturbed in the calls below them.)
    """

    def __init__(self) -> None:
        # Never changes, once entered.
        self._sendfile = os.sendfile
        # Guards what follows. A leaf, held for moments: in the calls syncflow holds locks of its own.
        self._lock = threading.Lock()
        self._plans: list[Plan] = []
        self._calls: Counter[str] = Counter()
        self._classes: dict[type[socket.socket], type[socket.socket]] = {}
        self._sockets: weakref.WeakValueDictionary[int, socket.socket] = weakref.WeakValueDictionary()

    def plan(self, *calls: str, fault: Fault, at: int | None = 0) -> Plan:
        """From now on disturb these calls, on all connections of this block, in addition to what was planned before.

        Args:
            calls: by their names; which a fault can strike, `Fault.calls` says.
            fault: what happens to them.
            at: which of them, counted from 0 over all of `calls`, from this moment, on all connections together. If the
                fault cannot happen to that one, the first after it. None is every one; for a fault that would block,
                every other one of a connection.

        Raises:
            ValueError: no such call, or nothing that can happen to it.
        """
        if not calls or not fault.calls.issuperset(calls):
            raise ValueError(f"{fault.kind!r} can happen to {', '.join(sorted(fault.calls))}, not to {calls!r}")
        plan = Plan(fault, frozenset(calls), at)
        with self._lock:
            self._plans.append(plan)
        return plan

    def clear(self) -> None:
        """Forget the plans, and the calls that were counted."""
        with self._lock:
            self._plans.clear()
            self._calls.clear()

    @property
    def calls(self) -> Counter[str]:
        """How often each call was made since `clear`, by its name; disturbed ones included."""
        with self._lock:
            return self._calls.copy()

    @property
    def open_sockets(self) -> int:
        """How many of the sockets that were made in the block are open."""
        with self._lock:
            return sum(sock.fileno() == number for number, sock in self._sockets.items())

    def __enter__(self) -> Self:
        if not _is_used.acquire(blocking=False):
            raise RuntimeError("there is another FaultInjector in this process, and only one at a time")
        self._sendfile = os.sendfile
        os.sendfile = self._send_file
        Attempt.tamper = self._tamper
        return self

    def __exit__(self, *exc_info: object) -> None:
        Attempt.tamper = None
        os.sendfile = self._sendfile
        with self._lock:
            self._plans.clear()
        _is_used.release()

    # ---------------------------------------------------------------- in the calls

    def _tamper(self, sock: socket.socket) -> None:
        """The thread that connects. From now on this socket's calls go through here."""
        usual = type(sock)
        with self._lock:
            if usual not in self._classes:
                calls = _TLSCalls if issubclass(usual, ssl.SSLSocket) else _PlainCalls
                own = {"__slots__": (), "_faults": self}
                self._classes[usual] = types.new_class(
                    usual.__name__, (calls, usual), {}, lambda body: body.update(own)
                )
            sock.__class__ = self._classes[usual]
            self._sockets[sock.fileno()] = sock

    def _before(self, call: str, sock: socket.socket, blocks: type[OSError] | None = None) -> Kind | None:
        """Ahead of each call: wait, or raise, as planned; what is left to be done to it, "short" or "reset".

        Args:
            blocks: what it raises if it would block; None if it never does.
        """
        with self._lock:
            self._calls[call] += 1
            due = [plan.fault for plan in self._plans if plan.strikes(call, sock, can_block=blocks is not None)]
        left: Kind | None = None
        for fault in due:
            if fault.kind == "delay":
                (fault._until or threading.Event()).wait(fault._seconds)
            elif fault.kind == "error":
                assert fault._make is not None
                raise fault._make()
            elif fault.kind == "would_block":
                assert blocks is not None
                raise blocks(errno.EAGAIN, f"{call} would block")
            else:
                left = fault.kind
        return left

    def _disturb(self, call: str, sock: socket.socket, blocks: type[OSError] | None = None) -> bool:
        """As `_before`, with the reset done, which the call itself then meets; whether it is to be short."""
        left = self._before(call, sock, blocks)
        if left == "reset":
            _reset(sock)
        return left == "short"

    def _send_file(self, out_fd: int, in_fd: int, offset: int | None, count: int, *more: Any, **settings: Any) -> int:
        """In the place of os.sendfile, for the whole process: what is not syncflow's goes through."""
        with self._lock:
            sock = self._sockets.get(out_fd)
        if sock is not None and sock.fileno() == out_fd and self._disturb("sendfile", sock, BlockingIOError):
            count = 1
        return self._sendfile(out_fd, in_fd, offset, count, *more, **settings)


# Held by the injector whose block it is.
_is_used = threading.Lock()


# ---------------------------------------------------------------- sockets
#
# Each stands before a class of sockets, in one that is made for it and has no place for attributes of its own: so a
# socket that was made as usual can become one of these, whoever's subclass it is. (mypy cannot know what `super()` is.)


class _PlainCalls:
    """A socket without TLS, or below it."""

    __slots__ = ()
    _faults: FaultInjector

    def connect_ex(self: Any, address: Any) -> int:
        try:
            left = self._faults._before("connect", self, BlockingIOError)
        except BlockingIOError:
            code = super().connect_ex(address)  # type: ignore[misc]
            return code if code not in (0, errno.EISCONN, errno.EINPROGRESS) else errno.EINPROGRESS
        except OSError as error:
            return error.errno or errno.EIO
        code = super().connect_ex(address)  # type: ignore[misc]
        if left == "reset":
            try:
                _reset(self)
            except ConnectionResetError:
                return errno.ECONNRESET
            return self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
        return int(code)

    def getsockopt(self: Any, level: int, option: int, *size: int) -> Any:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR):
            try:
                self._faults._disturb("so_error", self)
            except OSError as error:
                return error.errno
        return super().getsockopt(level, option, *size)  # type: ignore[misc]

    def send(self: Any, data: Any, flags: int = 0) -> int:
        is_short = self._faults._disturb("send", self, BlockingIOError)
        return int(super().send(data[:1] if is_short else data, flags))  # type: ignore[misc]

    def sendmsg(self: Any, buffers: Any, *more: Any) -> int:
        if self._faults._disturb("send", self, BlockingIOError):
            first = next((buffer for buffer in buffers if len(buffer)), b"")
            return int(super().send(first[:1]))  # type: ignore[misc]
        return int(super().sendmsg(buffers, *more))  # type: ignore[misc]

    def recv(self: Any, size: int, flags: int = 0) -> bytes:
        is_short = self._faults._disturb("recv", self, BlockingIOError)
        return bytes(super().recv(min(1, size) if is_short else size, flags))  # type: ignore[misc]


class _TLSCalls:
    """An `SSLSocket`: what happens below it is between OpenSSL and the kernel."""

    __slots__ = ()
    _faults: FaultInjector

    def do_handshake(self: Any, block: bool = False) -> None:
        # To write: whatever OpenSSL is about to do, that moment comes by itself.
        self._faults._disturb("tls_handshake", self, ssl.SSLWantWriteError)
        super().do_handshake(block)  # type: ignore[misc]

    def read(self: Any, size: int = 1024, buffer: Any = None) -> Any:
        blocks = None if self.pending() else ssl.SSLWantReadError
        is_short = self._faults._disturb("tls_read", self, blocks)
        return super().read(min(1, size) if is_short else size, buffer)  # type: ignore[misc]

    def write(self: Any, data: Any) -> int:
        self._faults._disturb("tls_write", self, ssl.SSLWantWriteError)
        return int(super().write(data))  # type: ignore[misc]

    def send(self: Any, data: Any, flags: int = 0) -> int:
        return int(self.write(data))  # as SSLSocket's, which does not ask its own `write`


def _reset(sock: socket.socket) -> None:
    """End a TCP connection with a RST, on Linux with its socket still open. Raises ConnectionResetError where that
    cannot be done."""
    if sys.platform == "linux" and sock.family != socket.AF_UNIX:
        import ctypes  # late: nothing else here needs it

        # connect(2): an address of the family AF_UNSPEC dissolves the association.
        nowhere = struct.pack("=H14x", socket.AF_UNSPEC)
        if ctypes.CDLL(None).connect(sock.fileno(), nowhere, len(nowhere)) == 0:
            # As after a RST that came: behind the error there is an end. ENOTCONN: it says so, and does it.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            return
    with contextlib.suppress(OSError):  # not TCP
        socket.socket.setsockopt(sock, socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

"""From a name to a connected transport: resolve, race the addresses, set up TLS.

Knows RFC 8305's order and delays, socket options, and the phases of setting up. Knows nothing of pools or HTTP.

The caller's thread does the work step by step and waits in between; the worker only tells it when a socket is ready.
So a caller that gives up, or is told to, takes everything with it, and one deadline holds for all of it.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple

from ..exceptions import ConnectionError, ConnectTimeout, RequestException, SSLError
from ..settings import Watermarks
from .deadline import Deadline
from .locks import Condition, new_lock
from .resolver import Address, Lookup, lookup
from .timings import Setup
from .tls import TLSTransport, wrap
from .transport import Transport
from .worker import READ, WRITE, Worker, worker_failed

__all__ = ["Dial", "Origin", "interleave"]

# RFC 8305, section 8: "Connection Attempt Delay", recommended.
ATTEMPT_DELAY = 0.25

# Keep-alive probes: a peer that vanished is noticed after 60 + 5 * 10 s, not after the system's two hours.
PROBE_AFTER = 60
PROBE_INTERVAL = 10
PROBES = 5


class Origin(NamedTuple):
    """Whom a connection goes to, and all that makes it trustworthy: connections are shared only among equals."""

    scheme: str
    host: str
    port: int
    context: ssl.SSLContext | None = None

    @property
    def where(self) -> str:
        """ "host:port", for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Attempt:
    """One socket that is connecting or shaking hands: the worker's client until it becomes a transport or is closed."""

    def __init__(self, dial: Dial, sock: socket.socket, address: Address) -> None:
        # Never changes, but for `sock`, which becomes a TLS socket over the same descriptor.
        self.address = address
        self.sock = sock
        self._dial = dial
        self._fd = sock.fileno()
        # The dialing thread's.
        self._was_watched = False
        # Guarded by the dial's lock.
        self.ready = False
        self.failure: OSError | None = None  # the address's
        self.bug: BaseException | None = None  # the worker's
        self._handed_over = False

    def fileno(self) -> int:
        return self._fd

    def on_ready(self, events: int) -> None:
        """Worker only. Once for each `wait`."""
        self._dial.worker.watch(self, 0)
        with self._dial.lock:
            self.ready = True
            self._dial.cond.notify_all()

    def watch(self, events: int) -> None:
        """Caller, with the dial's lock held. `ready` will be set when the socket is."""
        self.ready = False
        self._was_watched = True
        worker = self._dial.worker
        worker.submit(self, lambda: worker.watch(self, events))

    def hand_over(self) -> None:
        """Caller. The socket goes to a transport, which the worker will watch instead."""
        with self._dial.lock:
            if self.bug is not None:
                raise worker_failed(self._dial.origin.where, self.bug)
            self._handed_over = True
        worker = self._dial.worker
        if self._was_watched:
            worker.submit(self, lambda: worker.dismiss(self))
        else:
            worker.disown(self)

    def close(self) -> None:
        """Any thread."""
        self._dial.worker.submit(self, self._close)

    def _close(self) -> None:
        """Worker only."""
        self._dial.worker.dismiss(self)
        self.sock.close()

    def on_failure(self, error: BaseException) -> None:
        with self._dial.lock:
            if self._handed_over:
                return
            self.bug = error
            self.ready = True
            self._dial.cond.notify_all()
        self.sock.close()

    def on_fork(self) -> None:
        """The thread that was dialing did not come along."""
        self.sock.close()


class Dial:
    """The setting up of one connection, by one caller.

    Waits are on `cond` and woken by: a socket that is ready or failed (`Attempt`), the resolver, `cancel`; they end by
    the next address's turn, `Timeouts.connect` or `Timeouts.total`.
    """

    def __init__(self, worker: Worker, origin: Origin, deadline: Deadline, watermarks: Watermarks) -> None:
        # Never changes.
        self.worker = worker
        self.origin = origin
        self._deadline = deadline
        self._watermarks = watermarks
        limit = deadline.timeouts.connect
        self._until = None if limit is None else deadline.clock() + limit
        # Guards what follows, and the state of every attempt; `cond` is the Condition on it.
        self.lock = new_lock()
        self.cond = Condition(self.lock)
        self._cancelled: RequestException | None = None

    def cancel(self, error: RequestException) -> None:
        """Any thread. End it now, with `error`."""
        with self.lock:
            self._cancelled = error
            self.cond.notify_all()

    def run(self) -> tuple[Transport, Setup]:
        """Caller. All of it.

        Raises:
            ConnectionError: the name has no address, or none of them took the connection.
            SSLError: the handshake failed, or the certificate is not trusted.
            ConnectTimeout, TotalTimeout: by the limits.
        """
        clock = self._deadline.clock
        begun = clock()
        addresses = interleave(self._resolve())
        resolved = clock()
        attempt = self._connect(addresses)
        connected = clock()
        try:
            transport = self._secure(attempt)
            attempt.hand_over()
        except BaseException as error:
            attempt.close()
            if isinstance(error, OSError) and not isinstance(error, RequestException):
                raise ConnectionError(
                    f"{self.origin.where}: the server ended the connection as soon as it was made: {error}",
                    phase="connect",
                ) from error
            raise
        secured = connected if self.origin.context is None else clock()
        return transport, Setup(resolved - begun, connected - resolved, secured - connected)

    def _wake(self) -> None:
        with self.lock:
            self.cond.notify_all()

    def _wait_until(self, arrived: Callable[[], bool], phase: str, moment: float | None = None) -> None:
        """With the lock held. Return when `arrived` or at `moment`; raise when called off or at a limit."""
        clock = self._deadline.clock
        while True:
            if self._cancelled is not None:
                raise self._cancelled
            if arrived() or (moment is not None and clock() >= moment):
                return
            until = self._until
            left = self._deadline.wait_time(until)
            if left == 0.0:
                raise self._timeout(phase)
            if moment is not None:
                left = max(0.0, moment - clock()) if left is None else min(left, max(0.0, moment - clock()))
            self.cond.wait(left)

    def _timeout(self, phase: str) -> RequestException:
        at = self._deadline.at
        if at is not None and self._deadline.clock() >= at:
            return self._deadline.exceeded(self.origin.where, phase)
        doing = {"dns": "resolving the name", "connect": "connecting", "tls": "the TLS handshake"}[phase]
        return ConnectTimeout(
            f"{self.origin.where}: {doing} was not done after {self._deadline.timeouts.connect:g} s "
            "(Timeouts.connect); nothing was sent, so trying again is safe",
            phase=phase,
        )

    # ---------------------------------------------------------------- the steps

    def _resolve(self) -> list[Address]:
        question: Lookup = lookup(self.origin.host, self.origin.port)
        if not question.done:
            question.listen(self._wake)
            try:
                with self.lock:
                    self._wait_until(lambda: question.done, "dns")
            finally:
                question.ignore(self._wake)
        if question.error is not None or not question.addresses:
            raise ConnectionError(
                f"{self.origin.where}: the name cannot be resolved: {question.error or 'no address'}; "
                "check its spelling and the system's resolver",
                phase="dns",
            ) from question.error
        return question.addresses

    def _connect(self, addresses: list[Address]) -> Attempt:
        """Race the addresses: each gets a head start over the next, a failure ends it at once (RFC 8305, 5)."""
        waiting = addresses[::-1]
        racing: list[Attempt] = []
        errors: list[OSError] = []
        next_start = self._deadline.clock()
        try:
            while waiting or racing:
                if waiting and (not racing or self._deadline.clock() >= next_start):
                    self._begin_attempt(waiting.pop(), racing, errors)
                    next_start = self._deadline.clock() + ATTEMPT_DELAY
                with self.lock:
                    if racing:
                        moment = next_start if waiting else None
                        self._wait_until(lambda: any(attempt.ready for attempt in racing), "connect", moment)
                    arrived = [attempt for attempt in racing if attempt.ready]
                for attempt in arrived:
                    racing.remove(attempt)
                    if self._has_connected(attempt, errors):
                        return attempt
                    next_start = self._deadline.clock()
        finally:
            for attempt in racing:
                attempt.close()
        raise self._no_connection(errors)

    def _begin_attempt(self, address: Address, racing: list[Attempt], errors: list[OSError]) -> None:
        family, where = address
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            errors.append(error)
            return
        _prepare(sock)
        attempt = Attempt(self, sock, address)
        self.worker.adopt(attempt)
        racing.append(attempt)
        code = sock.connect_ex(where)
        if code == errno.EINPROGRESS:
            # On loopback it is done by now, and the second call costs less than a wait. It tells a failure once.
            code = sock.connect_ex(where)
            code = 0 if code == errno.EISCONN else code
        with self.lock:
            if code in (errno.EINPROGRESS, errno.EALREADY):
                attempt.watch(WRITE)
            else:
                attempt.failure = OSError(code, os.strerror(code)) if code else None
                attempt.ready = True

    def _has_connected(self, attempt: Attempt, errors: list[OSError]) -> bool:
        if attempt.bug is not None:
            raise worker_failed(self.origin.where, attempt.bug)
        if attempt.failure is None:
            code = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return True
            attempt.failure = OSError(code, os.strerror(code))
        attempt.close()
        errors.append(OSError(attempt.failure.errno, f"{attempt.address[1][0]}: {attempt.failure.strerror}"))
        return False

    def _no_connection(self, errors: list[OSError]) -> ConnectionError:
        tried = "; ".join(str(error.strerror) for error in errors)
        failure = ConnectionError(
            f"{self.origin.where}: no connection ({tried}); is the server running, and is this its port?",
            phase="connect",
        )
        failure.__cause__ = errors[-1] if errors else None
        return failure

    def _secure(self, attempt: Attempt) -> Transport:
        context = self.origin.context
        # A server may have left already: asked here, because an SSLSocket that finds out is not closed (before 3.13).
        attempt.sock.getpeername()
        if context is None:
            return Transport(self.worker, attempt.sock, self.origin.where, self._watermarks)
        try:
            self.origin.host.encode("idna")  # here, because Python 3.11's wrap_socket loses the descriptor if it fails
            attempt.sock = sock = wrap(context, attempt.sock, self.origin.host, self.lock)
            self._shake_hands(attempt, sock)
        except (OSError, ValueError) as error:
            if isinstance(error, RequestException):
                raise
            raise SSLError(
                f"{self.origin.where}: the TLS handshake failed: {error}; "
                "verify= takes a file of certificate authorities to trust",
                phase="tls",
            ) from error
        return TLSTransport(self.worker, sock, self.origin.where, self._watermarks)

    def _shake_hands(self, attempt: Attempt, sock: ssl.SSLSocket) -> None:
        while True:
            with self.lock:
                try:
                    sock.do_handshake()
                    return
                except ssl.SSLWantReadError:
                    events = READ
                except ssl.SSLWantWriteError:
                    events = WRITE
                attempt.watch(events)
                self._wait_until(lambda: attempt.ready, "tls")
            if attempt.bug is not None:
                raise worker_failed(self.origin.where, attempt.bug)


def interleave(addresses: list[Address]) -> list[Address]:
    """The system's order, with the families taking turns (RFC 8305, section 4)."""
    if not addresses:
        return []
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    mixed: list[Address] = []
    while first or others:
        if first:
            mixed.append(first.pop(0))
        if others:
            mixed.append(others.pop(0))
    return mixed


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", PROBE_AFTER), ("TCP_KEEPINTVL", PROBE_INTERVAL), ("TCP_KEEPCNT", PROBES)):
        if hasattr(socket, option):  # each system has its own set
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

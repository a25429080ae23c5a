"""From addresses to one connected socket: the first that takes the connection.

Knows RFC 8305's order and delays, Unix sockets, and the options that every socket gets. Knows nothing of names, proxies
or TLS.
"""

from __future__ import annotations

import errno
import os
import socket
from functools import partial

from ..exceptions import ConnectionError, RequestException
from .attempt import Attempt
from .descriptors import shortage
from .network import Network
from .resolver import Address
from .setting_up import SettingUp
from .worker import WRITE

__all__ = ["Race", "connect_unix", "interleave", "none_allowed"]

# RFC 8305, section 8: "Connection Attempt Delay", recommended.
ATTEMPT_DELAY = 0.25

# Seconds between two looks at a Unix socket whose queue is full: connect(2) says EAGAIN, and nothing tells of room.
UNIX_DELAY = 0.01

# Keep-alive probes: a peer that vanished is noticed after 60 + 5 * 10 s, not after the system's two hours.
PROBE_AFTER = 60
PROBE_INTERVAL = 10
PROBES = 5


class Race:
    """Each address gets a head start over the next, a failure ends it at once (RFC 8305, section 5).

    Args:
        owner: who sets up, and waits.
        network: what the user says of addresses and sockets.
        addresses: at least one.
    """

    def __init__(self, owner: SettingUp, network: Network, addresses: list[Address]) -> None:
        self._owner = owner
        self._network = network
        self._waiting = interleave(addresses)[::-1]
        self._racing: list[Attempt] = []
        self._errors: list[OSError] = []
        self._refused: list[str] = []  # by the user's filter

    def run(self) -> Attempt:
        """Caller. The winner; the others are closed.

        Raises:
            ConnectionError: no address took the connection, or none was allowed.
        """
        clock = self._owner.clock
        next_start = clock()
        while self._waiting or self._racing:
            if self._waiting and (not self._racing or clock() >= next_start):
                if self._begin(self._waiting.pop()):
                    next_start = clock() + ATTEMPT_DELAY
                continue
            for attempt in self._arrived(next_start if self._waiting else None):
                self._racing.remove(attempt)
                if self._has_connected(attempt):
                    for loser in self._racing:
                        loser.close()
                    return attempt
                next_start = clock()
        raise self._no_connection()

    def _begin(self, address: Address) -> bool:
        """Whether it has been begun, or put off: not if the user or the system will not have it."""
        family, where = address
        if not self._network.allows(where[0]):
            self._refused.append(where[0])
            return False
        begin = partial(_new_attempt, self._owner, self._network, family, where[0])
        try:
            attempt = begin() if self._racing else self._owner.with_descriptor(begin, "connect")
        except RequestException:
            raise
        except OSError as error:
            if shortage(error) is not None:
                self._waiting.append(address)  # those that race may do without it, or leave it a descriptor
                return True
            self._errors.append(OSError(error.errno, f"{where[0]}: {error.strerror or error}"))
            return False
        self._racing.append(attempt)
        code = attempt.sock.connect_ex(where)
        if code == errno.EINPROGRESS:
            # On loopback it is done by now, and the second call costs less than a wait. It tells a failure once.
            code = attempt.sock.connect_ex(where)
            code = 0 if code == errno.EISCONN else code
        with self._owner.lock:
            if code in (errno.EINPROGRESS, errno.EALREADY):
                attempt.watch(WRITE)
            else:
                attempt.failure = OSError(code, os.strerror(code)) if code else None
                attempt.ready = True
        return True

    def _arrived(self, moment: float | None) -> list[Attempt]:
        """Those that have connected or failed; waits for one, or until the next address may begin."""
        racing = self._racing
        with self._owner.lock:
            self._owner.wait_until(lambda: any(attempt.ready for attempt in racing), "connect", moment)
            return [attempt for attempt in racing if attempt.ready]

    def _has_connected(self, attempt: Attempt) -> bool:
        attempt.check()
        if attempt.failure is None:
            code = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return True
            attempt.failure = OSError(code, os.strerror(code))
        attempt.close()
        self._errors.append(OSError(attempt.failure.errno, f"{attempt.name}: {attempt.failure.strerror}"))
        return False

    def _no_connection(self) -> ConnectionError:
        if not self._errors:
            return self._owner.failure(none_allowed(self._refused), "connect")
        tried = [str(error.strerror) for error in self._errors]
        tried += [f"{address}: not allowed by address_filter=" for address in self._refused]
        what = f"no connection ({'; '.join(tried)}); is the server running, and is this its port?"
        failure = self._owner.failure(what, "connect")
        failure.__cause__ = self._errors[-1]
        return failure


def none_allowed(addresses: list[str]) -> str:
    """What is wrong if the user's filter leaves nothing."""
    return f"address_filter= allows none of the addresses ({', '.join(addresses)}); nothing was sent"


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


def connect_unix(owner: SettingUp, network: Network, path: str) -> Attempt:
    """Caller. Connect to the Unix socket at `path`: there is one address, and nothing to race.

    Raises:
        ConnectionError: nobody listens there.
    """
    try:
        attempt = owner.with_descriptor(partial(_new_attempt, owner, network, socket.AF_UNIX, path), "connect")
        while code := attempt.sock.connect_ex(path):
            if code != errno.EAGAIN:
                raise OSError(code, os.strerror(code))
            with owner.lock:
                owner.wait_until(lambda: False, "connect", owner.clock() + UNIX_DELAY)
    except RequestException:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        what = f"no connection to the Unix socket {path!r} ({reason}); is the server running?"
        raise owner.failure(what, "connect") from error
    return attempt


def _new_attempt(owner: SettingUp, network: Network, family: socket.AddressFamily, name: str) -> Attempt:
    """Raises OSError: there is no such socket, or no worker to watch it."""
    sock = _new_socket(family, network)
    try:
        return Attempt(owner, sock, name)
    except BaseException:
        sock.close()
        raise


def _new_socket(family: socket.AddressFamily, network: Network) -> socket.socket:
    """Raises OSError, which says what it was about."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _set_options(sock, network)
        if network.source_address is not None and family != socket.AF_UNIX:
            _bind(sock, network.source_address)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_options(sock: socket.socket, network: Network) -> None:
    is_tcp = sock.family != socket.AF_UNIX
    if is_tcp:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", PROBE_AFTER), ("TCP_KEEPINTVL", PROBE_INTERVAL), ("TCP_KEEPCNT", PROBES)):
            if hasattr(socket, name):  # each system has its own set
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    for option in network.socket_options:
        if is_tcp or option[0] == socket.SOL_SOCKET:
            try:
                sock.setsockopt(*option)
            except OSError as error:
                raise OSError(error.errno, f"socket option {option}: {error.strerror}") from error


def _bind(sock: socket.socket, source: tuple[str, int]) -> None:
    try:
        sock.bind(source)
    except OSError as error:  # of the other family, or not an address of this machine
        raise OSError(error.errno, f"source_address={source}: {error.strerror}") from error

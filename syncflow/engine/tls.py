"""TLS on the client's side: contexts and a transport that encrypts.

Knows the `ssl` module and what OpenSSL asks of a non-blocking caller. Knows nothing of certificates' owners or HTTP.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401  # see below, at the fork
import functools
import os
import socket
import ssl
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING

import certifi

from ..settings import Watermarks
from .budget import Budget
from .locks import OwnedLock
from .sending import Piece
from .transport import Transport
from .worker import Worker

if TYPE_CHECKING:
    from .memory_tls import MemoryTLS

__all__ = ["TLSTransport", "client_context"]

Protocols = tuple[str, ...]

# What ALPN announces (RFC 7301) if nothing else is asked for.
HTTP_1_1: Protocols = ("http/1.1",)


# The most that one record holds, in bytes (RFC 8446, section 5.1).
RECORD = 16384

# Guards `_context`: two threads that ask for the same context must get the same object, because connections are shared
# only among those who do. (A cache alone lets both make one.)
_making = threading.Lock()


def client_context(
    verify: bool | str, cert: str | tuple[str, str] | None = None, protocols: Protocols = HTTP_1_1
) -> ssl.SSLContext:
    """Any thread. The context for `verify=` and `cert=`; the same object for the same values: loading the authorities
    takes 10 ms.

    TLS 1.2 or later (RFC 8996), certificate and hostname verified unless `verify` is False.

    Args:
        verify: True for certifi's authorities, a path to a file or folder of others, False for none at all.
        cert: the client's own certificate: a file that holds the key as well, or a pair of files.
        protocols: to announce by ALPN (RFC 7301); none for what is not HTTP.

    Raises:
        OSError: a file is missing, or is not what it should be.
    """
    with _making:
        return _context(verify, cert, protocols)


@functools.lru_cache(maxsize=32)
def _context(verify: bool | str, cert: str | tuple[str, str] | None, protocols: Protocols) -> ssl.SSLContext:
    """With `_making` held."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if cert is not None:
        _load_certificate(context, cert)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    path = certifi.where() if verify is True else verify
    if not os.path.exists(path):
        raise OSError(f"verify={path!r}: no such file or folder of certificate authorities")
    if os.path.isdir(path):
        context.load_verify_locations(capath=path)
    else:
        context.load_verify_locations(cafile=path)
    return context


def _load_certificate(context: ssl.SSLContext, cert: str | tuple[str, str]) -> None:
    certificate, key = (cert, None) if isinstance(cert, str) else cert
    for path in (certificate, key):
        if path is not None and not os.path.exists(path):
            raise OSError(f"cert={cert!r}: no such file: {path}")
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise OSError(f"cert={cert!r}: not a certificate with its key: {error}") from error


class TLSTransport(Transport):
    """A transport over an `SSLSocket`, or a `MemoryTLS`, whose handshake is done.

    OpenSSL's object may be used by one thread at a time, so both directions share one lock; neither holds it while
    it waits.
    """

    _sock: ssl.SSLSocket | MemoryTLS

    def __init__(
        self,
        worker: Worker,
        sock: ssl.SSLSocket | MemoryTLS,
        where: str,
        watermarks: Watermarks,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(worker, sock, where, watermarks, budget)
        # Guarded by the lock.
        self._met: OSError | None = None  # by a receive that had something to give
        self._has_parted = False  # OpenSSL's object may be gone
        guard(self.receiving)

    def _sending_lock(self) -> OwnedLock:
        return self.receiving

    def _send_some(self, pieces: list[memoryview]) -> int:
        """A write that would block is made again with the same bytes: they stay the first piece (SSL_write(3))."""
        try:
            return self._sock.write(pieces[0])
        except ssl.SSLWantWriteError:
            return 0

    def _send_now(self, pieces: list[Piece]) -> None:
        out = self.outgoing
        if out.budget is not None:
            out.borrow()  # ahead of the sending: a block that is refused must be kept, and be kept whole
        while pieces:
            block, payload = self._next_block(pieces)
            try:
                sent = self._send_some([block])
            except OSError as error:
                pieces.clear()
                self._sending_failed(error)
                return
            if not sent:
                # Here and now: a shorter one, after the lock was released, OpenSSL would not take for the same.
                out.append(block if type(block.obj) is bytes else memoryview(bytes(block)), payload)
                self._block()
                return
            self.payload_sent += payload
            self.bytes_sent += sent
            self.last_sent = monotonic()
        if out.budget is not None:
            out.settle()

    def _next_block(self, pieces: list[Piece]) -> Piece:
        """Cut or join the next bytes to one block that the buffer can hold whole, should it be refused.

        Joined, because each write is a record of its own: a chunk's two lines would cost two more.
        """
        most = self.outgoing.high
        view, payload = pieces[0]
        if len(view) >= most or len(pieces) == 1:
            if len(view) <= most:
                del pieces[0]
                return view, payload
            handed = min(payload, most)
            pieces[0] = (view[most:], payload - handed)
            return view[:most], handed
        parts: list[memoryview] = []
        size = body = 0
        while pieces and size < most:
            view, payload = pieces[0]
            part = view[: most - size]
            handed = min(payload, len(part))
            parts.append(part)
            size += len(part)
            body += handed
            if len(part) == len(view):
                del pieces[0]
            else:
                pieces[0] = (view[len(part) :], payload - handed)
        return memoryview(b"".join(parts)), body

    def receive(self, most: int) -> bytes | None:
        met, self._met = self._met, None
        if met is not None:
            raise met
        data = self._receive_record(most)
        if data is None:
            return None
        if len(data) == RECORD < most:  # there is mostly more behind a full one; a shorter one ends what was said
            data = self._receive_more(data, most)
        self.last_received = monotonic()
        self.bytes_received += len(data)
        return data

    def _receive_record(self, most: int) -> bytes | None:
        if self._has_parted:
            return b""
        try:
            # OpenSSL gives a record at a time; asking for more than one only makes Python allocate more.
            return self._sock.read(min(most, RECORD))
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLWantWriteError:
            self._block()  # one lock for both directions, and it is held
            return None
        except ssl.SSLZeroReturnError:
            return b""

    def _receive_more(self, first: bytes, most: int) -> bytes:
        """The records that are here already, as one piece: to take each through parser and buffers costs as much as to
        decrypt it."""
        pieces, size = [first], RECORD
        while size < most and len(pieces[-1]) == RECORD:
            try:
                piece = self._receive_record(most - size)
            except OSError as error:
                self._met = error  # the kernel tells of a reset once
                break
            if not piece:  # the end, which OpenSSL tells again
                break
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    @property
    def pending(self) -> bool:
        return self._met is not None or self._sock.pending() > 0

    @property
    def ends_each_way(self) -> bool:
        return not isinstance(self._sock, ssl.SSLSocket)

    def _say_end(self) -> bool:
        assert not isinstance(self._sock, ssl.SSLSocket)
        try:
            self._sock.shutdown_write()
        except ssl.SSLWantWriteError:
            return False
        return True

    def say_goodbye(self) -> None:
        with self.receiving:
            # Not in the middle of a record: what a write has left behind would have to go first.
            if isinstance(self._sock, ssl.SSLSocket) and not (self.closed or self._has_parted or self.outgoing.size):
                # It goes out ahead of any error: that the kernel is full, or that there is not the peer's own, or
                # something else in its place (see `memory_tls`).
                self._has_parted = True
                with contextlib.suppress(OSError):
                    self._sock.unwrap()

    def is_quiet(self) -> bool:
        """Session tickets (RFC 8446, section 4.6.1) may have arrived: only OpenSSL can tell them from an answer."""
        with self.receiving:
            if self.closed:
                return False
            try:
                return self.receive(1) is None
            except OSError:
                return False


def server_name(host: str) -> str:
    """What the certificate of `host` must bear: an address without its zone, which means something on this machine
    only (RFC 4007, section 6).

    Raises:
        UnicodeError: no certificate can. Found out here, because Python 3.11 loses the descriptor if its own
            `wrap_socket` finds it.
    """
    name = host.partition("%")[0]
    name.encode("idna")
    return name


def wrap(context: ssl.SSLContext, sock: socket.socket, hostname: str, lock: OwnedLock) -> ssl.SSLSocket:
    """A TLS socket over `sock` that has not shaken hands yet, which is to be done with `lock` held. The end of the
    stream without TLS's own word for it is an error, not an end: an attacker can cut a connection (RFC 8446,
    section 6.1)."""
    guard(lock)
    try:
        return context.wrap_socket(
            sock, server_hostname=hostname, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
    except OSError as error:  # it was reset a moment ago
        _close_unfinished(error)
        raise


def _close_unfinished(error: OSError) -> None:
    """Close the socket that `wrap_socket` was making when it failed: Python before 3.13 leaves it open, and its
    traceback alone knows it."""
    trace = error.__traceback__
    while trace is not None:
        made = trace.tb_frame.f_locals.get("self")
        if isinstance(made, ssl.SSLSocket):
            made.close()
        trace = trace.tb_next


# OpenSSL has locks of its own, some for the whole process. A child that is forked while another thread is inside has
# them held for ever: so a fork waits until none of ours is, which takes as long as one call of OpenSSL's. Nor may a
# thread be in the middle of an import, whose locks Python does not renew in a child either: `ssl` needs the codec
# imported above.

# Guards `_entrances`; taken after `_making`, before any of those, and those before any worker's.
_registering = threading.Lock()
# The locks that are held in every call: one for each connection, and one for each dial.
_entrances: weakref.WeakSet[OwnedLock] = weakref.WeakSet()
# Those that this fork has taken.
_held: list[OwnedLock] = []


def guard(lock: OwnedLock) -> None:
    """Any thread, holding neither `lock` nor another of its kind. From now on a fork takes it first."""
    with _registering:
        _entrances.add(lock)


def _before_fork() -> None:
    _making.acquire()
    _registering.acquire()
    for lock in _entrances:
        lock.acquire()
        _held.append(lock)


def _after_fork_in_parent() -> None:
    for lock in _held:
        lock.release()
    _end_fork()


def _after_fork_in_child() -> None:
    for lock in _held:
        lock._at_fork_reinit()  # not released: those of a connection are new already
    _end_fork()


def _end_fork() -> None:
    _held.clear()
    _registering.release()
    _making.release()


if hasattr(os, "register_at_fork"):
    # Handlers before a fork run last one first: these before the worker's, whose module is imported above.
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

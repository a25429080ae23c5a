"""TLS between two buffers in memory, with a connection of any kind below: what `ssl.SSLSocket` cannot do.

Knows what OpenSSL is to be given and what is to be taken from it, and how its stream is ended in one direction. Knows
nothing of HTTP, nor of whose certificates they are.

An `SSLSocket` cannot end only what it sends: OpenSSL's SSL_shutdown sends close_notify and then reads from the socket
for the peer's, and application data that it finds there instead is a fatal error. Here it finds what it is shown.
"""

from __future__ import annotations

import abc
import contextlib
import socket
import ssl
from collections import deque
from typing import Any

from .tls import RECORD

__all__ = ["MemoryTLS", "SocketTLS"]

# Bytes of ciphertext that are asked of a plain socket at once: a record and the most that TLS adds to it would cost two
# calls a record.
RECEIVE_SIZE = 4 * RECORD


class MemoryTLS(socket.socket, metaclass=abc.ABCMeta):
    """What a `TLSTransport` uses of an `SSLSocket`. A socket itself, because it is watched and shut down as one.

    One thread at a time, as with any object of OpenSSL's.

    Args:
        descriptor: of the connection; closed with this.
        inner: OpenSSL's object over these two:
        incoming: ciphertext that was received and not read by OpenSSL.
        outgoing: ciphertext that OpenSSL has written and that was not sent.
    """

    def __init__(self, descriptor: int, inner: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._inner = inner
        self._incoming = incoming
        self._outgoing = outgoing
        # The part of `outgoing` that was offered below. It must be offered again, the very same (SSL_write(3)).
        self._offered = memoryview(b"")
        # Bytes of the last `write` whose ciphertext is still on its way.
        self._written = 0
        # What had to be taken from OpenSSL before it could end its stream.
        self._decrypted: deque[bytes] = deque()
        self._end_said = False  # close_notify is in `outgoing`, or gone
        self._end_sent = False
        super().__init__(fileno=descriptor)
        self.setblocking(False)

    @abc.abstractmethod
    def _send_below(self, data: memoryview) -> int:
        """Bytes that were taken. Raises SSLWantWriteError."""

    @abc.abstractmethod
    def _receive_below(self) -> bytes:
        """Some ciphertext; b"" at the end. Raises SSLWantReadError."""

    def _pending_below(self) -> int:
        """Bytes that are in this process and not in `_incoming`."""
        return 0

    # ---------------------------------------------------------------- what a TLSTransport uses

    def do_handshake(self) -> None:
        """As `SSLSocket.do_handshake`: to be called again until it returns."""
        while True:
            try:
                self._inner.do_handshake()
            except ssl.SSLWantReadError:
                self._send()
                self._receive()
                continue
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._send()  # the alert that tells the peer why
                raise
            self._send()
            return

    def read(self, size: int) -> bytes:
        """As `SSLSocket.read`; b"" at the end, which only the peer itself can declare."""
        if self._decrypted:
            return self._take_decrypted(size)
        while True:
            try:
                return self._inner.read(size)
            except ssl.SSLWantReadError:
                if not self._is_sending:
                    self._send()  # what OpenSSL answers by itself, as to a renegotiation
                self._receive()

    def write(self, data: memoryview) -> int:
        """As `SSLSocket.write`: after SSLWantWriteError to be called again with the same bytes. Returns once all that
        they have become is with the kernel, because nobody would come back for a rest."""
        if not self._written:
            self._send()
            self._written = self._inner.write(data)
        self._send()
        written, self._written = self._written, 0
        return written

    def shutdown_write(self) -> None:
        """End what is sent, by close_notify (RFC 8446, section 6.1); `read` goes on. Not before every `write` is
        through. After SSLWantWriteError to be called again, until it returns."""
        if not self._end_said:
            self._send()
            self._say_end()
        self._send()
        self._end_sent = True

    def pending(self) -> int:
        """Bytes that are here already, in whatever shape: no selector tells of them. 0 once `read` wants to read."""
        decrypted = self._inner.pending() + sum(map(len, self._decrypted))
        return decrypted + self._incoming.pending + self._pending_below()

    # ---------------------------------------------------------------- steps

    @property
    def _is_sending(self) -> bool:
        """Somebody comes back for what is not sent yet; who reads must not be stopped by it."""
        return bool(self._written) or (self._end_said and not self._end_sent)

    def _say_end(self) -> None:
        """Have OpenSSL write close_notify, with nothing before its eyes that it would take for a fault of the peer."""
        while self._inner.pending():
            self._decrypted.append(self._inner.read(RECORD))
        ciphertext = self._incoming.read()
        try:
            # Not here, or not before the end of the connection: the peer's own word, which is not waited for.
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLEOFError):
                self._inner.unwrap()
        finally:
            if ciphertext:
                self._incoming.write(ciphertext)
        self._end_said = True

    def _take_decrypted(self, size: int) -> bytes:
        data = self._decrypted.popleft()
        if len(data) > size:
            self._decrypted.appendleft(data[size:])
        return data[:size]

    def _send(self) -> None:
        """Send all ciphertext that there is, in its order. Raises SSLWantWriteError: the rest keeps its place."""
        while self._offered or self._outgoing.pending:
            if not self._offered:
                self._offered = memoryview(self._outgoing.read())
            self._offered = self._offered[self._send_below(self._offered) :]

    def _receive(self) -> None:
        """Raises SSLWantReadError."""
        ciphertext = self._receive_below()
        if ciphertext:
            self._incoming.write(ciphertext)
        else:
            # What carries TLS says that this is all: here it is a cut, unless the peer has said so as well.
            self._incoming.write_eof()

    # ---------------------------------------------------------------- what was agreed upon

    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """Of the server."""
        return self._inner.getpeercert(binary_form)

    def selected_alpn_protocol(self) -> str | None:
        """With the server."""
        return self._inner.selected_alpn_protocol()

    def version(self) -> str | None:
        """Spoken with the server."""
        return self._inner.version()


class SocketTLS(MemoryTLS):
    """TLS over a plain socket whose two directions end each on its own.

    Args:
        sock: connected and non-blocking; its descriptor goes over to this.
        context: the client's.
        hostname: that the server's certificate must bear.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, hostname: str) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inner = context.wrap_bio(incoming, outgoing, server_hostname=hostname)
        super().__init__(sock.detach(), inner, incoming, outgoing)

    def _send_below(self, data: memoryview) -> int:
        try:
            return self.send(data)
        except BlockingIOError:
            raise ssl.SSLWantWriteError from None

    def _receive_below(self) -> bytes:
        try:
            return self.recv(RECEIVE_SIZE)
        except BlockingIOError:
            raise ssl.SSLWantReadError from None

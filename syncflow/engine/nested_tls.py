"""TLS inside TLS: to an origin, through a proxy that is itself spoken to over TLS.

Knows how two layers act as one non-blocking socket: what each may hold, and which of them waits for what. Knows nothing
of HTTP, nor of whose certificates they are.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from typing import Any

from .tls import RECORD

__all__ = ["NestedTLS"]


class NestedTLS(socket.socket):
    """What a `TLSTransport` uses of an `SSLSocket`, for a layer whose bytes go through `outer`, which has shaken hands.

    One thread at a time, as with any object of OpenSSL's. A socket itself, with a descriptor of its own for the same
    connection, because it is watched and shut down as one.

    Args:
        outer: TLS to the proxy, non-blocking; closed with this.
        context: for the origin.
        hostname: that the origin's certificate must bear.
        early: what the origin has sent already.
    """

    def __init__(self, outer: ssl.SSLSocket, context: ssl.SSLContext, hostname: str, early: bytes = b"") -> None:
        # Ciphertext of the inner layer: received and not read by OpenSSL, written by it and not sent.
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # The part of it that `outer` has been offered. It must be offered again, the very same (SSL_write(3)).
        self._offered = memoryview(b"")
        # Bytes of the last `write` whose ciphertext is still on its way.
        self._written = 0
        self._outer = outer
        self._inner = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        self._incoming.write(early)
        super().__init__(fileno=os.dup(outer.fileno()))
        self.setblocking(False)

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
                    self._send()  # the alert that tells the origin why
                raise
            self._send()
            return

    def read(self, size: int) -> bytes:
        """As `SSLSocket.read`; b"" at the end, which only the origin can declare."""
        while True:
            try:
                return self._inner.read(size)
            except ssl.SSLWantReadError:
                if not self._written:
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

    def pending(self) -> int:
        """Bytes that are here already, in whatever shape: no selector tells of them. 0 once `read` wants to read."""
        return self._inner.pending() + self._incoming.pending + self._outer.pending()

    def _send(self) -> None:
        """Send all ciphertext that there is, in its order. Raises SSLWantWriteError: the rest keeps its place."""
        while self._offered or self._outgoing.pending:
            if not self._offered:
                self._offered = memoryview(self._outgoing.read())
            self._offered = self._offered[self._outer.write(self._offered) :]

    def _receive(self) -> None:
        """One record of the outer layer. Raises SSLWantReadError."""
        ciphertext = self._outer.read(RECORD)
        if ciphertext:
            self._incoming.write(ciphertext)
        else:
            # The proxy says that this is all: to the inner layer it is a cut, unless the origin has said so as well.
            self._incoming.write_eof()

    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """Of the origin."""
        return self._inner.getpeercert(binary_form)

    def selected_alpn_protocol(self) -> str | None:
        """With the origin."""
        return self._inner.selected_alpn_protocol()

    def version(self) -> str | None:
        """Spoken with the origin."""
        return self._inner.version()

    def close(self) -> None:
        """Both descriptors, without a word."""
        super().close()
        self._outer.close()

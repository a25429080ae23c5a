"""TLS inside TLS: to an origin, through a proxy that is itself spoken to over TLS.

Knows how two layers act as one non-blocking socket: what each may hold, and which of them waits for what. Knows nothing
of HTTP, nor of whose certificates they are.
"""

from __future__ import annotations

import os
import ssl

from .memory_tls import MemoryTLS
from .tls import RECORD

__all__ = ["NestedTLS"]


class NestedTLS(MemoryTLS):
    """A layer whose bytes go through `outer`, which has shaken hands. It has a descriptor of its own for the same
    connection.

    Args:
        outer: TLS to the proxy, non-blocking; closed with this.
        context: for the origin.
        hostname: that the origin's certificate must bear.
        early: what the origin has sent already.
    """

    def __init__(self, outer: ssl.SSLSocket, context: ssl.SSLContext, hostname: str, early: bytes = b"") -> None:
        self._outer = outer
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inner = context.wrap_bio(incoming, outgoing, server_hostname=hostname)
        incoming.write(early)
        super().__init__(os.dup(outer.fileno()), inner, incoming, outgoing)

    def _send_below(self, data: memoryview) -> int:
        return self._outer.write(data)

    def _receive_below(self) -> bytes:
        """One record. A proxy's close_notify is not the origin's."""
        return self._outer.read(RECORD)

    def _pending_below(self) -> int:
        return self._outer.pending()

    def close(self) -> None:
        """Both descriptors, without a word."""
        super().close()
        self._outer.close()

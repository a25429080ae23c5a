"""What is said to a proxy and what it answers, on a connected socket, before anything else goes over it.

Knows sending and receiving in the caller's thread, step by step, and that nothing behind the answer may be lost: it is
the origin's, which may speak first. Knows nothing of what is said.
"""

from __future__ import annotations

import socket
import ssl
from functools import partial

from .attempt import Attempt
from .worker import READ, WRITE

__all__ = ["Conversation"]


class Conversation:
    """With a proxy, over a plain or a TLS socket.

    On a plain socket what is heard stays with the kernel until it is known to be the proxy's: so whoever uses the
    socket next, OpenSSL too, finds the rest where it looks for it. OpenSSL cannot be asked twice for the same bytes:
    what it has given waits here.
    """

    def __init__(self, attempt: Attempt) -> None:
        # The dialing thread's.
        self._attempt = attempt
        self._is_plain = not isinstance(attempt.sock, ssl.SSLSocket)
        self._held = b""

    def say(self, data: bytes) -> None:
        """Send all of it. Raises OSError."""
        view = memoryview(data)
        while view:
            view = view[self._attempt.perform(partial(self._attempt.sock.send, view), WRITE, "proxy") :]

    def hear(self, most: int) -> bytes:
        """The next bytes, at most `most`, which are still there afterwards; b"" at the end. Raises OSError."""
        receive = self._attempt.sock.recv
        if self._is_plain:
            return self._attempt.perform(partial(receive, most, socket.MSG_PEEK), READ, "proxy")
        if not self._held:
            self._held = self._attempt.perform(partial(receive, most), READ, "proxy")
        return self._held[:most]

    def take(self, count: int) -> None:
        """What was heard last, as much of it as `count` bytes, has been understood."""
        if self._is_plain:
            while count:
                count -= len(self._attempt.perform(partial(self._attempt.sock.recv, count), READ, "proxy"))
        else:
            self._held = self._held[count:]

    def hear_exactly(self, count: int) -> bytes:
        """The next `count` bytes, taken; fewer at the end. Raises OSError."""
        heard = b""
        while len(heard) < count and (part := self.hear(count - len(heard))):
            self.take(len(part))
            heard += part
        return heard

    @property
    def left(self) -> bytes:
        """What came behind the last that was taken, and is no longer in the socket."""
        return self._held

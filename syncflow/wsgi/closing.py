"""A body of a handler's own that ends when its client leaves, for handlers that wait for something to send.

Knows the body and its client. Knows nothing of what is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from .departures import watched

__all__ = ["ClosableBody", "Closing", "closing"]


class ClosableBody(Protocol):
    """What a WSGI handler returns, with a `close` that any thread may call while another iterates."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> object: ...


def closing(environ: Mapping[str, Any], body: ClosableBody) -> Closing:
    """`body` for the server to send, closed as soon as the client of this request has left, wherever it waits for its
    next piece; as `sse.relay` of a hub's subscription. Not for a generator, which nobody but its own thread can close.

    Where the server does not show its socket, or the system has no epoll, `body` is closed by the server, once it has
    found out: with one of the next pieces.
    """
    return Closing(environ, body)


class Closing(Iterator[bytes]):
    """See `closing`. One thread iterates; any may close."""

    def __init__(self, environ: Mapping[str, Any], body: ClosableBody) -> None:
        self._body = body
        self._pieces = iter(body)
        self._end = watched(environ, self._leave)

    def _leave(self) -> None:
        """A thread of its own. The client has left."""
        self._body.close()

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Any number of times. Servers call it (PEP 3333)."""
        self._end()
        self._body.close()

"""A server for crowds: any number of connections on one thread, each answered as often as it asks.

Knows heads without bodies, and one answer. Knows nothing of syncflow.
"""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType
from typing import Self

__all__ = ["CrowdServer"]

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
END_OF_HEAD = b"\r\n\r\n"


class CrowdServer:
    """Binds 127.0.0.1 on a free port. A connection costs it a few system calls, and no thread."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._waker, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)
        # Written by its thread only.
        self.accepted = 0
        self.open = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waker.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._listener, selectors.EVENT_READ)
        selector.register(self._woken, selectors.EVENT_READ)
        try:
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        return
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    else:
                        self._answer(selector, key)
        finally:
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]  # all are sockets
            selector.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            sock = self._listener.accept()[0]
        except OSError:  # it has left again
            return
        sock.setblocking(False)
        self.accepted += 1
        self.open += 1
        selector.register(sock, selectors.EVENT_READ, bytearray())

    def _answer(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        sock: socket.socket = key.fileobj  # type: ignore[assignment]  # we have registered it
        try:
            received = sock.recv(65536)
            key.data.extend(received)
            while END_OF_HEAD in key.data:
                del key.data[: key.data.index(END_OF_HEAD) + len(END_OF_HEAD)]
                sock.send(ANSWER)
        except OSError:
            received = b""
        if not received:
            selector.unregister(sock)
            sock.close()
            self.open -= 1

"""A client that sends as much as it can, on a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from .client import Client

PIECE = 65536


class Sending:
    """What has left."""

    def __init__(self, client: Client, data: bytes) -> None:
        self.count = 0
        self.failed = False
        self._before = -1
        self._still = 0
        self.thread = threading.Thread(target=self._run, args=(client, data), name="sending", daemon=True)
        self.thread.start()

    def _run(self, client: Client, data: bytes) -> None:
        view = memoryview(data)
        client.sock.settimeout(None)
        try:
            for at in range(0, len(view), PIECE):
                client.sock.sendall(view[at : at + PIECE])
                self.count += len(view[at : at + PIECE])
        except OSError:
            self.failed = True

    def stands_still(self) -> bool:
        """Asked often enough: whether nothing has left for a while."""
        self._still = self._still + 1 if self.count == self._before else 0
        self._before = self.count
        return self._still >= 8


@contextlib.contextmanager
def sending(client: Client, data: bytes) -> Iterator[Sending]:
    run = Sending(client, data)
    try:
        yield run
    finally:
        with contextlib.suppress(OSError):
            client.sock.shutdown(2)
        run.thread.join(10)
        assert not run.thread.is_alive()

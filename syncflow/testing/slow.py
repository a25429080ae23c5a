"""A server whose answers are right and take their time.

Knows a delay before the head and a rate for the body. Knows nothing of uploads that are taken slowly: see `Receiver`.
"""

from __future__ import annotations

import math
import ssl
import threading
from collections.abc import Iterator

from syncflow.testing.application import AppServer, Response
from syncflow.testing.server import Stopped
from syncflow.testing.wire import Request

# How many pieces of the body leave in a second.
PIECES = 20


class SlowServer(AppServer):
    """Answers every request with a 200 and `body`, slowly. Ends at once nevertheless, however long a delay is.

    Attributes:
        delay: seconds between the whole request and the head of its answer.
        bandwidth: bytes a second of the body; None is as fast as they are taken, 0 is a head and nothing behind it.
        body: of the answers.

    What is changed holds for requests that come afterwards.
    """

    def __init__(
        self,
        delay: float = 0.5,
        *,
        bandwidth: float | None = None,
        body: bytes = b"slow\n",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(self._answer_slowly, ssl_context=ssl_context)
        self.delay = delay
        self.bandwidth = bandwidth
        self.body = body

    def _answer_slowly(self, request: Request) -> Response:
        self._sleep(self.delay)
        body, bandwidth = self.body, self.bandwidth
        fields = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
        return Response(200, fields, body if bandwidth is None else self._pieces(body, bandwidth))

    def _pieces(self, body: bytes, bandwidth: float) -> Iterator[bytes]:
        """Each followed by the time that it takes."""
        if bandwidth == 0:
            self._sleep(math.inf)
        size = max(1, int(bandwidth / PIECES))
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            yield piece
            self._sleep(len(piece) / bandwidth)

    def _sleep(self, seconds: float) -> None:
        """Woken by the server's end. Raises Stopped."""
        if self.stopping.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise Stopped

"""A server that fails at first, and then works.

Knows three ways to fail. Knows nothing of the network's ways: see `FaultProxy`.
"""

from __future__ import annotations

import ssl
from typing import Literal, get_args

from syncflow.testing.application import AppServer, Response, send_response
from syncflow.testing.server import Connection
from syncflow.testing.wire import Request

Failing = Literal["status", "close", "reset"]


class FlakyServer(AppServer):
    """Fails the first requests, and answers all others with a 200 and `body`. `requests` counts both.

    Attributes:
        failures: how many requests fail in all. Made larger, it fails again.
        how: what a failure is: an answer with `status`; the whole request is read, and the connection closed or reset.
            Any other word is a ValueError.
        status: of an answer that is a failure.
        body: of those that are none.
    """

    def __init__(
        self,
        failures: int = 2,
        *,
        how: Failing = "status",
        status: int = 503,
        body: bytes = b"ok\n",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(self._answer_anyhow, ssl_context=ssl_context)
        self.failures = failures
        self.how = how
        self.status = status
        self.body = body
        # Guarded by `_changed`.
        self._failed = 0

    @property
    def how(self) -> Failing:
        return self._how

    @how.setter
    def how(self, how: Failing) -> None:
        if how not in get_args(Failing):
            raise ValueError(f"how= is one of {', '.join(get_args(Failing))}, not {how!r}")
        self._how: Failing = how

    def answer(self, connection: Connection, request: Request) -> None:
        if not self._is_to_fail():
            super().answer(connection, request)
        elif self.how == "close":
            connection.close()
        elif self.how == "reset":
            connection.reset()
        else:
            send_response(connection.sock.sendall, request, Response(self.status, (), b"not yet\n"))

    def _answer_anyhow(self, request: Request) -> Response:
        return Response(200, {"Content-Type": "text/plain"}, self.body)

    def _is_to_fail(self) -> bool:
        with self._changed:
            fails = self._failed < self.failures
            self._failed += fails
            return fails

"""A server that keeps what it is sent and answers as it is told, for the tests of programs that make requests.

Knows answers, for all paths or by path. Knows nothing of what the requests should have been: that is for the test to
look at.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from syncflow.testing.answers import Answer, AnswerFields, Row, row_of
from syncflow.testing.application import answer_by
from syncflow.testing.server import WAIT_TIMEOUT, Connection, Server
from syncflow.testing.wire import Reader, Request, read_request


class RecordingServer(Server):
    """Keeps every request and answers 200, with nothing in it, unless it is told otherwise by `respond`.

    A function that answers and raises makes a 500 of it, and the error comes out of the `with` block.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        super().__init__(ssl_context=ssl_context)
        # Guarded by `_changed`.
        self._requests: list[Request] = []
        self._answers: dict[str | None, Row[Answer]] = {None: Row([Answer()])}

    @property
    def requests(self) -> list[Request]:
        """All requests that have come, each with its whole body and trailers, in the order of their ends."""
        with self._changed:
            return list(self._requests)

    def wait_for_requests(self, count: int, timeout: float = WAIT_TIMEOUT) -> list[Request]:
        """Waits until so many have come, as of a program that makes them on another thread."""
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self._requests) >= count, timeout)
            assert enough, f"{len(self._requests)} of {count} requests came within {timeout:g} s"
            return list(self._requests)

    def respond(
        self,
        path: str | None = None,
        answers: Sequence[Mapping[str, Any]] | None = None,
        **answer: Unpack[AnswerFields],
    ) -> None:
        """Answer so from now on.

        Args:
            path: to requests for it, whatever their query. None is to all that have no answer by path.
            answers: in a row, each with the keywords of one; the last goes on.
            answer: `json`, `text` or `content`; `status_code`, `headers`, `reason`. See `Answer`.

        Raises:
            TypeError, ValueError: an answer, or a path, that is none.
        """
        if path is not None and (not path.startswith("/") or "?" in path):
            raise ValueError(f"a path begins with a slash and has no query, unlike {path!r}")
        row = row_of(Answer, answers, answer)
        with self._changed:
            self._answers[path] = row

    def serve(self, connection: Connection) -> None:
        reader = Reader(connection.sock.recv_into)
        while reader.more():
            request = read_request(reader, connection.sock.sendall)
            with self._changed:
                self._requests.append(request)
                self._changed.notify_all()
                row = self._answers.get(request.path) or self._answers[None]
                answer = row.take()
            answer_by(answer.response, connection, request)
            if not request.keeps_alive:
                return

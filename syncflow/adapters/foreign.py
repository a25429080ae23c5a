"""Responses of adapters that were written for `requests`, as responses of ours.

Knows what `requests.Response` and the file-like thing in its `raw` look like, and imports neither.
"""

from __future__ import annotations

from typing import Any

from ..engine.deadline import Deadline
from ..engine.timings import NO_TIMINGS
from ..exceptions import ConnectionError, RequestException
from ..models import PreparedRequest
from ..responses import Response
from ..sources import NO_SOURCE, Source

__all__ = ["adopt", "plain_timeout"]


class RawSource:
    """The body of a response whose `raw` is another library's."""

    peer = ("", 0)
    elapsed = 0.0
    timings = NO_TIMINGS
    request_complete = True
    trailers: list[tuple[str, str]] = []  # noqa: RUF012  # nobody changes it

    def __init__(self, raw: Any, where: str) -> None:
        self.where = where
        self.is_over = False
        self._raw = raw

    def read(self, most: int) -> bytes:
        """The next bytes as they came, codings and all."""
        try:
            piece = bytes(self._raw.read(most) or b"")
        except RequestException:
            raise
        except Exception as error:
            raise ConnectionError(f"{self.where}: its adapter could not read the body: {error!r}") from error
        self.is_over = not piece
        return piece

    def read_all(self) -> bytes:
        """All that is left."""
        pieces = []
        while piece := self.read(65536):
            pieces.append(piece)
        return b"".join(pieces)

    def fail(self, error: RequestException) -> None:
        """Give it up."""
        self.is_over = True
        close = getattr(self._raw, "close", None)
        if close is not None:
            close()

    def fail_from_finalizer(self) -> None:
        """It closes itself."""
        self.is_over = True

    def abandon(self, error: BaseException) -> None:
        """Give it up."""
        self.is_over = True


def adopt(answer: Any, request: PreparedRequest, adapter: Any) -> Response:
    """`answer`, which `adapter` gave for `request`, as a response of ours."""
    if isinstance(answer, Response):
        return answer
    raw = answer.raw
    where = request.known_target.authority if request.known_target is not None else str(request.url)
    source: Source = NO_SOURCE if raw is None else RawSource(raw, where)
    response = Response.received(
        request, source, answer.status_code, answer.reason, list(answer.headers.items()), adapter
    )
    response._streamed = False
    response.url = answer.url
    response.encoding = answer.encoding
    response.elapsed = answer.elapsed
    response.history = [adopt(earlier, request, adapter) for earlier in answer.history]
    for cookie in answer.cookies:
        response.cookies.set_cookie(cookie)
    if answer._content is not False:  # read already, and decoded
        response._content = answer._content or b""
    return response


def plain_timeout(deadline: Deadline) -> float | tuple[float | None, float | None] | None:
    """What `requests` understands of our limits: one number, or connect and read."""
    timeouts = deadline.timeouts
    return timeouts.connect if timeouts.connect == timeouts.read else (timeouts.connect, timeouts.read)

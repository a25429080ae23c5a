"""Adapters that were written for `requests`: called as they expect it, their responses and exceptions made ours.

Knows what `requests.Response` and the file-like thing in its `raw` look like, and imports neither.
"""

from __future__ import annotations

import datetime
import functools
import time
from typing import Any

from .. import exceptions
from ..engine.deadline import Deadline
from ..engine.timings import NO_TIMINGS
from ..exceptions import ChunkedEncodingError, ConnectionError, InvalidHeader, RequestException
from ..http1 import InvalidRequest, request_head
from ..models import PreparedRequest
from ..responses import Response
from ..sources import NO_SOURCE, Source
from ..urls import masked

__all__ = ["adopt", "plain_timeout", "send_through"]


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
        # What is sent in chunks may come bit by bit for hours: `read` of urllib3 waits until all is there that it was
        # asked for, and drops what had come if the rest does not.
        is_chunked = getattr(raw, "chunked", None) is True
        read = raw.read1 if is_chunked and hasattr(raw, "read1") else raw.read
        # What `requests` reads by `stream` is told not to undo codings; a mere file knows of none.
        self._read = functools.partial(read, decode_content=False) if hasattr(raw, "stream") else read

    def read(self, most: int) -> bytes:
        """The next bytes as they came, codings and all."""
        try:
            piece = bytes(self._read(most) or b"")
        except RequestException:
            raise
        except Exception as error:
            # urllib3's ProtocolError is a body that has ended too early, as in `requests`.
            cut_off = "ProtocolError" in (base.__name__ for base in type(error).__mro__)
            kind = ChunkedEncodingError if cut_off else ConnectionError
            raise kind(f"{self.where}: its adapter could not read the body: {error!r}", phase="body") from error
        self.is_over = not piece
        return piece

    max_body = None  # that is for the adapter to look to

    def read_all(self) -> bytes:
        """All that is left."""
        pieces = []
        while piece := self.read(65536):
            pieces.append(piece)
        return b"".join(pieces)

    def fail(self, error: RequestException) -> None:
        """Give it up; nothing happens if it was over."""
        if self.is_over:
            return
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


class Connection:
    """Where a response came from, for hooks that send by it once more: as its adapter, but what goes in and what comes
    out is translated."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter

    def send(self, request: PreparedRequest, **kwargs: Any) -> Response:
        """As the adapter's; see `send_through`."""
        return send_through(self.adapter, request, kwargs)

    def close(self) -> None:
        """The adapter's."""
        self.adapter.close()


def send_through(adapter: Any, request: PreparedRequest, kwargs: dict[str, Any]) -> Response:
    """Send `request` through `adapter`, with a deadline as the timeout that `requests` would give it.

    Raises:
        InvalidHeader: a field, or a method, that may not be sent.
        RequestException: one of ours for one that is `requests`' own. What else the adapter raises, as it is.
    """
    request.complete()
    host = [] if "Host" in request.headers else [("Host", "host")]
    try:
        request_head(request.method, "/", host + request.headers.pairs())
    except InvalidRequest as error:
        # Of `requests` they come looked at, so not every adapter does it.
        raise InvalidHeader(f"{_where(request)}: {error}; nothing was sent", request=request) from error
    timeout = kwargs.get("timeout")
    if isinstance(timeout, Deadline):
        kwargs = {**kwargs, "timeout": plain_timeout(timeout)}
    begun = time.perf_counter()
    try:
        answer = adapter.send(request, **kwargs)
    except Exception as error:
        kind = getattr(exceptions, type(error).__name__, None)
        # Not the subclasses: somebody has made those to be caught. Nor what tells where a text is no JSON.
        if type(error).__module__ != "requests.exceptions" or kind in (None, exceptions.JSONDecodeError):
            raise
        raise kind(*error.args, request=request) from error
    response = adopt(answer, request, adapter)
    response.elapsed = datetime.timedelta(seconds=time.perf_counter() - begun)
    if not kwargs.get("stream"):
        _ = response.content
    return response


def adopt(answer: Any, request: PreparedRequest, adapter: Any) -> Response:
    """`answer`, which `adapter` gave for `request`, as a response of ours."""
    if isinstance(answer, Response):
        answer.request = answer.request or request
        answer.connection = answer.connection or Connection(adapter)
        return answer
    raw = answer.raw
    source: Source = NO_SOURCE if raw is None else RawSource(raw, _where(request))
    response = Response.received(
        request, source, answer.status_code, answer.reason, _fields(answer), Connection(adapter)
    )
    response._streamed = False
    # As in `requests`: of a mere file, what it gives is the body.
    response._is_encoded = response._is_encoded and hasattr(raw, "stream")
    response.url = answer.url
    response.encoding = answer.encoding
    response.elapsed = answer.elapsed
    response.history = [adopt(earlier, request, adapter) for earlier in answer.history]
    for cookie in answer.cookies:
        response.cookies.set_cookie(cookie)
    if answer._content is not False:  # read already, and decoded
        response._content = answer._content or b""
    return response


def _where(request: PreparedRequest) -> str:
    target = request.known_target
    return masked(request.url) if target is None else target.authority


def _fields(answer: Any) -> list[tuple[str, str]]:
    """The header fields. Those of Set-Cookie one by one, if the adapter has kept them: joined, they cannot be told
    apart (RFC 9110, section 5.3)."""
    fields = list(answer.headers.items())
    each = getattr(getattr(answer.raw, "headers", None), "getlist", None)
    cookies = each("Set-Cookie") if each is not None and "set-cookie" in answer.headers else []
    if not cookies:
        return fields
    others = [pair for pair in fields if pair[0].lower() != "set-cookie"]
    return others + [("Set-Cookie", value) for value in cookies]


def plain_timeout(deadline: Deadline) -> float | tuple[float | None, float | None] | None:
    """What `requests` understands of our limits: one number, or connect and read."""
    timeouts = deadline.timeouts
    return timeouts.connect if timeouts.connect == timeouts.read else (timeouts.connect, timeouts.read)

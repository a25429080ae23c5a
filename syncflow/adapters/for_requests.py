"""This engine inside `requests`: an adapter for a `requests.Session`.

The one file that imports `requests`. Knows how to make its responses and its exceptions of ours.
"""

from __future__ import annotations

import datetime
import http.client
import io
from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import BaseAdapter
from requests.cookies import extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers

from .. import exceptions
from ..models import PreparedRequest
from ..responses import Response
from ..settings import PoolLimits, Timeouts, Watermarks
from .native import HTTPAdapter

__all__ = ["SyncflowAdapter"]


class SyncflowAdapter(BaseAdapter):
    """Mounted on a `requests.Session`, moves a program onto this engine without another change.

    >>> session = requests.Session()
    >>> session.mount("https://", SyncflowAdapter())

    Redirects, cookies, hooks and authentication stay with `requests`; connections, limits and uploads are ours. A body
    made by `files=` was read by `requests` before it comes here. Where `requests` is given no timeout, ours hold.

    Args:
        timeout: for requests that give none.
        pool: how many connections, and how long they are kept.
        watermarks: how much may wait in each connection's buffers, in bytes.
    """

    def __init__(
        self,
        *,
        timeout: Timeouts = Timeouts(),  # noqa: B008  # frozen
        pool: PoolLimits = PoolLimits(),  # noqa: B008  # frozen
        watermarks: Watermarks = Watermarks(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__()
        self.timeout = timeout
        self._adapter = HTTPAdapter(limits=pool, watermarks=watermarks)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """As `requests.adapters.HTTPAdapter.send`."""
        try:
            ours = _ours(request)
            answer = self._adapter.send(
                ours,
                stream=True,
                timeout=self.timeout if timeout is None else _timeouts(timeout),
                verify=verify,
                cert=cert,
                proxies=proxies,
            )
        except exceptions.RequestException as error:
            raise _theirs(error, request) from error
        response = _response(answer, request, self)
        if not stream:
            _ = response.content
        return response

    def close(self) -> None:
        """End everything at once."""
        self._adapter.close()

    def __getstate__(self) -> dict[str, Any]:
        """Without connections."""
        return {"timeout": self.timeout, "adapter": self._adapter.__getstate__()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.timeout = state["timeout"]
        self._adapter = HTTPAdapter(**state["adapter"])


def _timeouts(timeout: Any) -> Any:
    # urllib3's, which `requests` lets pass: two limits of ours.
    if hasattr(timeout, "connect_timeout"):
        return timeout.connect_timeout, timeout.read_timeout
    return tuple(timeout) if isinstance(timeout, list) else timeout


def _ours(request: requests.PreparedRequest) -> PreparedRequest:
    prepared = PreparedRequest()
    prepared.prepare_method(request.method)
    prepared.prepare_url(request.url, None)
    prepared.prepare_headers(request.headers)
    prepared.body = request.body
    if prepared.content is not None:
        prepared.prepare_content_length(prepared.body)
    return prepared


def _response(answer: Response, request: requests.PreparedRequest, adapter: SyncflowAdapter) -> requests.Response:
    response = requests.Response()
    response.status_code = answer.status_code
    response.reason = answer.reason
    response.headers = CaseInsensitiveDict(answer.headers)
    response.encoding = get_encoding_from_headers(response.headers)
    response.url = request.url or ""
    response.request = request
    response.elapsed = datetime.timedelta(seconds=answer.elapsed.total_seconds())
    response.raw = _Raw(answer, request)
    response.connection = adapter  # type: ignore[assignment]  # as `requests` does it
    extract_cookies_to_jar(response.cookies, request, response.raw)
    return response


class _Raw(io.RawIOBase):
    """What `requests` reads a body from: as urllib3's response, as far as it is used.

    Attributes:
        decode_content: whether `read` undoes the codings where it is not told.
    """

    def __init__(self, answer: Response, request: requests.PreparedRequest) -> None:
        self._answer = answer
        self._request = request
        # The body without its codings: what is still to come, begun when it is asked for, and what has come.
        self._pieces: Iterator[bytes] | None = None
        self._rest = b""
        self.status = answer.status_code
        self.reason = answer.reason
        self.headers = answer.headers
        self.version = 11
        self.decode_content = False
        # What `requests` takes cookies from.
        message = http.client.HTTPMessage()
        for name, value in answer._fields:
            message[name] = value
        self._original_response = type("Original", (), {"msg": message, "isclosed": lambda _: False})()

    def stream(self, amt: int | None = 65536, decode_content: bool | None = None) -> Iterator[bytes]:
        """The body in pieces of at most `amt` bytes; of what has come, where that is None."""
        decodes = self.decode_content if decode_content is None else decode_content
        while piece := self._next_piece(amt) if decodes else self.read(amt or 65536, decode_content=False):
            yield piece

    def read(self, amt: int | None = None, decode_content: bool | None = None, **kwargs: Any) -> bytes:
        """`amt` bytes, fewer only at the end, or all; as they came, or their codings undone."""
        if decode_content is None:
            decode_content = self.decode_content
        size = -1 if amt is None else amt
        if not decode_content:
            try:
                return bytes(self._answer.raw.read(size))
            except exceptions.RequestException as error:
                raise _theirs(error, self._request) from error
        pieces = []
        while size and (piece := self._next_piece(None if size < 0 else size)):
            pieces.append(piece)
            size -= len(piece) if size > 0 else 0
        return b"".join(pieces)

    def _next_piece(self, size: int | None) -> bytes:
        """At most `size` bytes of what has come and was not read, or of the next that comes; b"" at the end."""
        try:
            if self._pieces is None:
                self._pieces = self._answer.iter_content(None)
            piece = self._rest or next(self._pieces, b"")
        except exceptions.RequestException as error:
            raise _theirs(error, self._request) from error
        self._rest = b"" if size is None else piece[size:]
        return piece[:size]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def release_conn(self) -> None:
        """Its connection goes back by itself, at the end of the body."""

    def close(self) -> None:
        """Give the rest of the body up."""
        self._answer.close()
        super().close()

    def __del__(self) -> None:
        """The answer, which goes as well, gives its connection up by itself. To close it here, as files do, might wait
        for a lock that the interrupted thread has."""


def _theirs(error: exceptions.RequestException, request: requests.PreparedRequest) -> Exception:
    """The exception of `requests` that is nearest to ours: the same name, or that of its nearest base."""
    for kind in type(error).__mro__:
        known = getattr(requests.exceptions, kind.__name__, None)
        if known is not None and kind.__module__ == exceptions.__name__:
            theirs: Exception = (
                known(error.msg, error.doc, error.pos)
                if isinstance(error, exceptions.JSONDecodeError)
                else known(str(error), request=request)
            )
            return theirs
    return error

"""What persists across requests: headers, parameters, limits, and the connections behind them.

Knows how the session's values and a call's are merged into a prepared request. Knows nothing of how it is sent.
"""

from __future__ import annotations

import base64
import json as jsonlib
import os
import warnings
from collections.abc import Mapping
from typing import Any

from .adapters import HTTPAdapter
from .bodies import Body, body_of
from .engine.worker import Worker
from .exceptions import BodyLengthError, InvalidHeader, InvalidJSONError
from .models import PreparedRequest, Response
from .settings import PoolLimits, Timeouts, TimeoutTypes, Watermarks
from .structures import CaseInsensitiveDict
from .uploads import Upload
from .urls import ParamTypes, Target, add_params, encode_pairs, parse_url
from .version import __version__

__all__ = ["Session"]

# The session's own timeout is meant, because None means no limit.
_OWN: Any = object()

# A request of these without a body says nothing of a length (RFC 9110, section 8.6).
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT"})

HeaderTypes = Mapping[str, str | bytes | None] | None


class Session:
    """Requests that share headers, limits and connections. Any number of threads may use one session.

    Close it when it is no longer needed, or use it as a context manager.

    Args:
        timeout: the limits of requests that give none: a `Timeouts`; seconds for connect, read and write; a pair
            (connect, read); None for no limit at all.
        pool: how many connections, and how long they are kept.
        watermarks: how much may wait in each connection's buffers, in bytes.
        worker: the thread that watches the sockets; None is the one that all sessions of a process share.

    Attributes:
        headers: sent with every request, unless the call says otherwise; None in a call leaves one out.
        params: added to the query of every URL.
        verify: True checks TLS certificates against certifi's authorities, a path against those in a file or folder,
            False not at all.
        stream: whether responses are read only when they are asked for.
    """

    def __init__(
        self,
        *,
        timeout: TimeoutTypes = Timeouts(),  # noqa: B008  # frozen
        pool: PoolLimits = PoolLimits(),  # noqa: B008  # frozen
        watermarks: Watermarks = Watermarks(),  # noqa: B008  # frozen
        worker: Worker | None = None,
    ) -> None:
        self.timeout = Timeouts.of(timeout)
        self.headers: CaseInsensitiveDict[str] = default_headers()
        self.params: ParamTypes = {}
        self.verify: bool | str = True
        self.stream = False
        self._adapter = HTTPAdapter(pool, watermarks, worker)

    # ---------------------------------------------------------------- requests

    def request(
        self,
        method: str,
        url: str,
        params: ParamTypes = None,
        data: Any = None,
        headers: HeaderTypes = None,
        *,
        timeout: TimeoutTypes = _OWN,
        stream: bool | None = None,
        verify: bool | str | os.PathLike[str] | None = None,
        json: Any = None,
    ) -> Response:
        """Send a request and return the response, whatever its status.

        A final answer that comes before the body has left stops the sending and is returned like any other;
        `Response.request_complete` is False then.

        Args:
            method: GET, POST …
            url: http:// or https://.
            params: for the query: a mapping, pairs, or text that is encoded already.
            data: the body: bytes, str (sent as UTF-8), a file object from its current position, an iterable of bytes
                (sent in chunks), or a mapping or pairs (sent as a form).
            headers: over those of the session; a value of None leaves one out.
            timeout: as for `Session`.
            stream: True returns as soon as the head has arrived.
            verify: as for `Session.verify`.
            json: the body, as a value to be encoded.

        Raises:
            InvalidURL, MissingSchema, InvalidSchema, InvalidHeader, InvalidJSONError: before anything is sent.
            ConnectionError: no connection, or it was lost; its subclass SSLError: no trust.
            ConnectTimeout, ReadTimeout, WriteTimeout, PoolTimeout, TotalTimeout: see `Timeouts`.
            BodyLengthError: the body is not as long as announced.
            Whatever a file or an iterable given as `data` raises, as it is.
        """
        request = self._prepare(method, url, params, headers)
        _attach_body(request, data, json)
        return self._adapter.send(
            request,
            self.timeout if timeout is _OWN else Timeouts.of(timeout),
            stream=self.stream if stream is None else stream,
            verify=self._verify(verify),
        )

    def get(self, url: str, params: ParamTypes = None, **kwargs: Any) -> Response:
        """`request("GET", …)`."""
        return self.request("GET", url, params, **kwargs)

    def options(self, url: str, **kwargs: Any) -> Response:
        """`request("OPTIONS", …)`."""
        return self.request("OPTIONS", url, **kwargs)

    def head(self, url: str, **kwargs: Any) -> Response:
        """`request("HEAD", …)`."""
        return self.request("HEAD", url, **kwargs)

    def post(self, url: str, data: Any = None, json: Any = None, **kwargs: Any) -> Response:
        """`request("POST", …)`."""
        return self.request("POST", url, data=data, json=json, **kwargs)

    def put(self, url: str, data: Any = None, **kwargs: Any) -> Response:
        """`request("PUT", …)`."""
        return self.request("PUT", url, data=data, **kwargs)

    def patch(self, url: str, data: Any = None, **kwargs: Any) -> Response:
        """`request("PATCH", …)`."""
        return self.request("PATCH", url, data=data, **kwargs)

    def delete(self, url: str, **kwargs: Any) -> Response:
        """`request("DELETE", …)`."""
        return self.request("DELETE", url, **kwargs)

    def upload(
        self,
        method: str,
        url: str,
        *,
        params: ParamTypes = None,
        headers: HeaderTypes = None,
        content_length: int | None = None,
        timeout: TimeoutTypes = _OWN,
        verify: bool | str | os.PathLike[str] | None = None,
    ) -> Upload:
        """Begin a request whose body the program writes: connects and sends the head.

        Args:
            content_length: bytes that will be written; None sends the body in chunks.

        Returns:
            A writable binary file and context manager: see `Upload`.

        Raises:
            As `request`, but for what concerns the body and the answer.
        """
        request = self._prepare(method, url, params, headers)
        if content_length is None:
            request.headers["Transfer-Encoding"] = "chunked"
        else:
            request.headers["Content-Length"] = str(content_length)
        timeouts = self.timeout if timeout is _OWN else Timeouts.of(timeout)
        return Upload(self._adapter, request, timeouts, self._verify(verify))

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Any thread. End everything at once: every call that waits in another thread, and every response that is
        being read, gets `SessionClosed`. A closed session takes no new requests."""
        self._adapter.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        adapter = getattr(self, "_adapter", None)
        if adapter is not None and adapter.retire_from_finalizer():
            warnings.warn(f"{self!r} was dropped with open connections; close it", ResourceWarning, 2, source=self)

    def retire(self) -> None:
        """Take no new requests; what is under way, as a response that is still being read, goes on to its end."""
        self._adapter.retire()

    # ---------------------------------------------------------------- merging

    def _prepare(self, method: str, url: Any, params: ParamTypes, headers: HeaderTypes) -> PreparedRequest:
        """Everything but the body."""
        if not isinstance(url, str):
            url = url.decode() if isinstance(url, bytes) else str(url)
        params = _merge_params(self.params, params)
        if params:
            url = add_params(url, params)
        target = parse_url(url)
        merged = self.headers.copy()
        if target.userinfo is not None:
            merged["Authorization"] = _basic(target)
        if headers:
            _merge_headers(merged, headers, target.authority)
        return PreparedRequest(method.upper(), target, merged, None, None)

    def _verify(self, verify: bool | str | os.PathLike[str] | None) -> bool | str:
        chosen = self.verify if verify is None else verify
        return chosen if isinstance(chosen, bool | str) else os.fspath(chosen)


def default_headers() -> CaseInsensitiveDict[str]:
    """What a new session sends. No content coding is asked for: none is decoded yet."""
    return CaseInsensitiveDict(
        {
            "User-Agent": f"syncflow/{__version__}",
            "Accept-Encoding": "identity",
            "Accept": "*/*",
            "Connection": "keep-alive",
        }
    )


def _merge_params(kept: ParamTypes, given: ParamTypes) -> ParamTypes:
    """As `requests` does it: name by name if both are mappings, where None leaves a name out; else the call's win."""
    if not given or not kept:
        return given or kept
    if isinstance(kept, Mapping) and isinstance(given, Mapping):
        return {**kept, **given}
    return given


def _merge_headers(merged: CaseInsensitiveDict[str], headers: Mapping[Any, Any], where: str) -> None:
    for name, value in headers.items():
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        if not isinstance(name, str):
            raise InvalidHeader(f"{where}: header {name!r}: its name must be str or bytes; nothing was sent")
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, bytes):
            merged[name] = value.decode("latin-1")
        elif isinstance(value, str):
            merged[name] = value
        else:
            kind = type(value).__name__
            raise InvalidHeader(f"{where}: header {name}: its value must be str or bytes, not {kind}; nothing was sent")


def _basic(target: Target) -> str:
    """RFC 7617, for the userinfo of a URL."""
    username, password = target.userinfo or ("", "")
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _attach_body(request: PreparedRequest, data: Any, json: Any) -> None:
    """Put the body into the request, with the headers that describe and frame it (RFC 9112, section 6)."""
    headers = request.headers
    if data is None and json is None and not ("Content-Length" in headers or "Transfer-Encoding" in headers):
        if request.method not in _BODILESS:
            headers["Content-Length"] = "0"
        return
    if not data and data is not None and not isinstance(data, Mapping | str | bytes | list | tuple):
        pass  # a file or an iterable that happens to be empty is a body all the same
    elif not data:
        data = None
    content_type = None
    if data is None and json is not None:
        request.body = _json_bytes(request, json)
        content_type = "application/json"
    elif isinstance(data, Mapping) or _is_pairs(data):
        request.body = encode_pairs(data).encode()
        content_type = "application/x-www-form-urlencoded"
    else:
        request.body = data
    if request.body is None and not ("Content-Length" in headers or "Transfer-Encoding" in headers):
        if request.method not in _BODILESS:
            headers["Content-Length"] = "0"
        return
    # A body that is announced by a header must be sent, or the server waits for it: so it is there, and empty.
    request.content = body_of(b"" if request.body is None else request.body)
    if content_type is not None:
        headers.setdefault("Content-Type", content_type)
    _frame(request, request.content)


def _frame(request: PreparedRequest, content: Body) -> None:
    headers = request.headers
    if "Transfer-Encoding" in headers:
        return
    declared = headers.get("Content-Length")
    if declared is None:
        if content.length is None:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(content.length)
    elif not (declared.isascii() and declared.isdigit()):
        raise InvalidHeader(
            f"{request.target.authority}: Content-Length must be a decimal number; nothing was sent", request=request
        )
    elif content.length is not None and content.length != int(declared):
        raise BodyLengthError(
            f"{request.target.authority}: Content-Length says {int(declared)} bytes and the body has {content.length}; "
            "nothing was sent; leave that header out",
            request=request,
        )


def _is_pairs(data: Any) -> bool:
    return isinstance(data, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in data)


def _json_bytes(request: PreparedRequest, value: Any) -> bytes:
    try:
        return jsonlib.dumps(value, allow_nan=False).encode()
    except ValueError as error:
        where = request.target.authority
        raise InvalidJSONError(f"{where}: json=: {error}; nothing was sent", request=request) from error

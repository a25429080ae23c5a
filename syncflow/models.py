"""A request that is ready to be sent, and the response to one.

Knows what users read: headers, text, lines, JSON. Most of it is made when it is asked for. Knows nothing of
connections: a response reads from its exchange.
"""

from __future__ import annotations

import codecs
import datetime
import io
import json
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

from .bodies import Body
from .engine.exchange import Exchange
from .engine.timings import Timings
from .exceptions import Cancelled, HTTPError, JSONDecodeError, RequestException, StreamConsumedError
from .http1 import Head
from .structures import CaseInsensitiveDict
from .urls import Target

__all__ = ["PreparedRequest", "Response"]

ITER_CHUNK_SIZE = 512
READ_SIZE = 65536


class PreparedRequest:
    """What will be sent, in full.

    Attributes:
        method: in upper case.
        url: whole, normalized.
        headers: those that will be sent, but for Host where the URL gives it.
        body: what was given as the body, encoded if it was a form or JSON; None if there is none.
    """

    __slots__ = ("body", "content", "headers", "method", "target", "url")

    def __init__(
        self, method: str, target: Target, headers: CaseInsensitiveDict[str], body: Any, content: Body | None
    ) -> None:
        self.method = method
        self.url = target.url
        self.headers = headers
        self.body = body
        self.target = target
        self.content = content

    @property
    def path_url(self) -> str:
        """Path and query."""
        return self.target.path

    def __repr__(self) -> str:
        return f"<PreparedRequest [{self.method}]>"


class Response:
    """The answer to a request.

    A context manager: leaving it closes the response. One that is read to its end needs no closing. Its methods may
    be called from one thread at a time, except `close`, which any thread may call at any moment.

    Attributes:
        status_code: e.g. 200.
        reason: the server's words for it.
        url: of the request.
        request: the `PreparedRequest`.
        encoding: how `text` is decoded; from the charset of Content-Type, may be set.
    """

    def __init__(self, request: PreparedRequest, exchange: Exchange, head: Head, *, streamed: bool = True) -> None:
        self.request = request
        self.url = request.url
        self.status_code = head.status
        self.reason = head.reason
        self._fields = head.fields
        self._exchange = exchange
        self._headers: CaseInsensitiveDict[str] | None = None
        self._content: bytes | None = None
        self._consumed = False
        self._raw: io.BufferedReader | None = None
        # Whether the user has asked for a stream; only who did is told that it was dropped unread.
        self._streamed = streamed
        self._encoding: str | None = None

    # ---------------------------------------------------------------- the head

    @property
    def headers(self) -> CaseInsensitiveDict[str]:
        """The header fields; those that came more than once are joined with a comma (RFC 9110, section 5.3)."""
        if self._headers is None:
            headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()
            for name, value in self._fields:
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
            self._headers = headers
        return self._headers

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status_code < 400

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return f"<Response [{self.status_code}]>"

    def raise_for_status(self) -> None:
        """Raise HTTPError if the status is 400 or above."""
        if 400 <= self.status_code < 600:
            whose = "Client" if self.status_code < 500 else "Server"
            raise HTTPError(f"{self.status_code} {whose} Error: {self.reason} for url: {self.url}", response=self)

    # ---------------------------------------------------------------- how it went

    @property
    def elapsed(self) -> datetime.timedelta:
        """From when the request was begun on its connection to the arrival of the head."""
        return datetime.timedelta(seconds=self._exchange.elapsed)

    @property
    def timings(self) -> Timings:
        """Where the time went: pool, dns, connect, tls, sent, first_byte, total; in seconds."""
        return self._exchange.timings

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the server that answered."""
        return self._exchange.peer

    @property
    def request_complete(self) -> bool:
        """False if the server answered before the body of the request had left."""
        return self._exchange.request_complete

    @property
    def trailers(self) -> CaseInsensitiveDict[str]:
        """The trailer fields, once the body was read to its end."""
        return CaseInsensitiveDict(self._exchange.trailers)

    # ---------------------------------------------------------------- the body

    @property
    def content(self) -> bytes:
        """The whole body.

        Raises:
            StreamConsumedError: it was read as a stream before.
        """
        if self._content is None:
            self._begin_stream()
            self._content = self._read_all() if self._raw is None else self._raw.read()
        return self._content

    @property
    def encoding(self) -> str | None:
        """The charset that Content-Type names, or what was set; None if neither."""
        if self._encoding is None:
            self._encoding = _charset(self.headers.get("content-type", ""))
        return self._encoding

    @encoding.setter
    def encoding(self, value: str | None) -> None:
        self._encoding = value

    @property
    def text(self) -> str:
        """The body, decoded by `encoding`, else as UTF-8; what cannot be decoded is replaced."""
        return self.content.decode(_known_codec(self.encoding) or "utf-8", "replace")

    def json(self, **kwargs: Any) -> Any:
        """The body, read as JSON (RFC 8259); `kwargs` go to `json.loads`.

        Raises:
            JSONDecodeError: it is none.
        """
        try:
            return json.loads(self.content, **kwargs)
        except UnicodeDecodeError:
            document = self.text
        except json.JSONDecodeError as error:
            raise JSONDecodeError(error.msg, error.doc, error.pos, response=self) from error
        try:
            return json.loads(document, **kwargs)
        except json.JSONDecodeError as error:
            raise JSONDecodeError(error.msg, error.doc, error.pos, response=self) from error

    def iter_content(self, chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[Any]:
        """The body in pieces as they arrive, of at most `chunk_size` bytes; None leaves the size to what arrives.

        Raises:
            StreamConsumedError: it was read as a stream before.
            ChunkedEncodingError: the connection ended before the body did.
            ReadTimeout, TotalTimeout, Cancelled, SessionClosed
        """
        if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int)):
            raise TypeError(f"chunk_size is a number of bytes or None, not {chunk_size!r}")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
        if self._content is None:
            self._begin_stream()
        pieces = self._stream(chunk_size or READ_SIZE)
        return self._decode(pieces) if decode_unicode else pieces

    def _stream(self, size: int) -> Iterator[bytes]:
        if self._content is not None:
            for start in range(0, len(self._content), size):
                yield self._content[start : start + size]
            return
        while piece := self._raw.read1(size) if self._raw is not None else self._read(size):
            yield piece

    def _decode(self, pieces: Iterator[bytes]) -> Iterator[Any]:
        codec = _known_codec(self.encoding)
        if codec is None:
            yield from pieces
            return
        decoder = codecs.getincrementaldecoder(codec)("replace")
        for piece in pieces:
            if text := decoder.decode(piece):
                yield text
        if text := decoder.decode(b"", True):
            yield text

    def iter_lines(
        self, chunk_size: int = ITER_CHUNK_SIZE, decode_unicode: bool = False, delimiter: Any = None
    ) -> Iterator[Any]:
        """The body line by line, each without its end. A CR LF that two pieces divide is one end of a line."""
        rest: Any = None
        for piece in self.iter_content(chunk_size, decode_unicode):
            text = piece if rest is None else rest + piece
            rest = None
            if delimiter is not None:
                *lines, rest = text.split(delimiter)
            else:
                lines = text.splitlines(keepends=True)
                # A last line without an end, or with a CR that an LF may follow, is not complete.
                if not lines[-1].endswith("\n" if isinstance(text, str) else b"\n"):
                    rest = lines.pop()
                lines = [_without_end(line) for line in lines]
            yield from lines
        if rest:
            yield from [rest] if delimiter is not None else rest.splitlines()

    def __iter__(self) -> Iterator[bytes]:
        return self.iter_content(128)

    @property
    def raw(self) -> io.BufferedReader:
        """The body as a readable binary file: `read`, `readinto`, `read1`, `readline`.

        It can be read on its own when the response is gone; the other ways to read go on where it stands.
        """
        if self._raw is None:
            source = self._raw_source()
            self._raw = io.BufferedReader(source, READ_SIZE)
        return self._raw

    def _raw_source(self) -> io.RawIOBase:
        if self._content is not None:
            return io.BytesIO(self._content)  # type: ignore[return-value]  # has readinto, which is what is needed
        self._check_unread()
        return _RawBody(self._exchange, self)

    def _check_unread(self) -> None:
        if self._consumed:
            where = self._exchange.where
            raise StreamConsumedError(
                f"{where}: the body of this response was read as a stream before; keep what was read", response=self
            )

    def _begin_stream(self) -> None:
        self._check_unread()
        self._consumed = True

    def _read(self, size: int) -> bytes:
        """The next bytes, or b"" at the end."""
        try:
            return self._exchange.read(size)
        except BaseException as error:
            raise self._ended_by(error)  # noqa: B904  # the same error, with more in it

    def _read_all(self) -> bytes:
        try:
            return self._exchange.read_all()
        except BaseException as error:
            raise self._ended_by(error)  # noqa: B904  # the same error, with more in it

    def _ended_by(self, error: BaseException) -> BaseException:
        if isinstance(error, RequestException):
            error.response = error.response or self
        return _ended_by(error, self._exchange, self.request)

    def fetch(self) -> None:
        """Read the whole body now; what a request that does not stream does."""
        self._consumed = True
        self._content = self._read_all()

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Any thread. The connection is given up if the body was not read to its end; a reader that waits for it is
        woken with `Cancelled`."""
        if not self._exchange.is_over:
            self._exchange.fail(
                Cancelled(f"{self._exchange.where}: the response was closed before its body was read to the end")
            )

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        exchange = getattr(self, "_exchange", None)
        # With a file over the body, it is that one which must not be dropped: see _RawBody.
        if exchange is not None and not exchange.is_over and self._raw is None:
            exchange.fail_from_finalizer()
            if self._streamed:
                what = f"{self!r} was dropped before its body was read or closed"
                warnings.warn(what, ResourceWarning, 2, source=self)


class _RawBody(io.RawIOBase):
    """The body of a response, as the lower half of a buffered file. Holds the response weakly, which holds it: so that
    a response which is dropped goes at once, and the file can be read without it."""

    def __init__(self, exchange: Exchange, response: Response) -> None:
        self._exchange = exchange
        self._request = response.request
        self._response = weakref.ref(response)

    def close(self) -> None:
        """Give the connection up if the body was not read to its end."""
        # By the worker, because a file closes itself in its finalizer too.
        if not self.closed and not self._exchange.is_over:
            self._exchange.fail_from_finalizer()
        super().close()

    def _dealloc_warn(self, source: Any) -> None:
        """What `io.BufferedReader` calls when it closes itself in its finalizer, as with a `FileIO`."""
        if not self._exchange.is_over:
            where = self._exchange.where
            what = f"{where}: a body was dropped before it was read or closed"
            warnings.warn(what, ResourceWarning, 3, source=source)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._exchange.read(len(buffer))
        except BaseException as error:
            if isinstance(error, RequestException):
                error.response = error.response or self._response()
            raise _ended_by(error, self._exchange, self._request)  # noqa: B904  # the same error, with more in it
        buffer[: len(piece)] = piece
        return len(piece)


def _ended_by(error: BaseException, exchange: Exchange, request: PreparedRequest) -> BaseException:
    """Whatever goes wrong in a wait, or interrupts it, ends the exchange: where it stood is not known."""
    exchange.abandon(error)
    if isinstance(error, RequestException):
        error.request = error.request or request
    return error


def _without_end(line: Any) -> Any:
    """`splitlines` knows more ends of a line than CR and LF, so it is asked again."""
    return line.splitlines()[0]


def _charset(content_type: str) -> str | None:
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip("\"' \t") or None
    return None


def _known_codec(encoding: str | None) -> str | None:
    """`encoding`, if Python has it for text: a server may name any other, such as "hex" or "idna"."""
    if encoding is None:
        return None
    try:
        b" ".decode(encoding, "replace")
    except (LookupError, ValueError):
        return None
    return encoding

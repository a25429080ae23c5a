"""The response to a request, as users read it: its body as bytes, text, lines, JSON, a stream, a file.

Knows what a body is decoded from and to, and how it is read and given up. What the head says is `ResponseHead`'s. Knows
nothing of connections: a body is read from a `Source`, which is an exchange of the engine, another library's response,
or nothing at all.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .decoders import Decoder, decoder_of
from .exceptions import Cancelled, DecompressionError, JSONDecodeError, RequestException, StreamConsumedError
from .response_head import REDIRECT_STATI, ResponseHead
from .settings import MAX_EVENT_SIZE
from .sources import RawBody, Source, ended_by
from .text import decode, decode_pieces, guess_encoding, split_lines

if TYPE_CHECKING:
    from .downloads import Progress
    from .models import PreparedRequest
    from .sse.events import ServerSentEvent
    from .streams.duplex import Duplex

__all__ = ["REDIRECT_STATI", "Response"]

ITER_CHUNK_SIZE = 512
READ_SIZE = 65536

# Of a body that nobody asked for, as a redirect's, so much is read to save its connection: 1 MiB, decoded.
MOST_DRAINED = 1 << 20

# Most fields are passed over without lowering their name.
_NOTABLE_LENGTHS = frozenset({len("content-encoding"), len("set-cookie")})


class Response(ResponseHead):
    """The answer to a request.

    A context manager: leaving it closes the response. One that is read to its end needs no closing. Its methods may
    be called from one thread at a time, except `close`, which any thread may call at any moment.

    Attributes:
        status_code: e.g. 200.
        reason: the server's words for it.
        url: of the request that was answered: the last one, after redirects.
        request: the `PreparedRequest`.
        history: the responses that led here, the oldest first.
        earlier_tries: what came of the tries before this answer, if the request was sent again: see `Retry`, `Try`.
        encoding: how `text` is decoded; from the charset of Content-Type, may be set.
        connection: the adapter that sent the request.
    """

    # What a pickle keeps, by the names that `requests` has for it.
    __attrs__ = (
        "_content",
        "status_code",
        "url",
        "headers",
        "history",
        "encoding",
        "reason",
        "cookies",
        "elapsed",
        "request",
    )

    # Made when they are asked for, or set.
    _raw: Any = None
    # The body: read by now, or being read; undone of its codings.
    _consumed = False
    _decoder: Decoder | None = None
    # Whether the user has asked for a stream; only who did is told that it was dropped unread.
    _streamed = False
    # Set by `close`, and never undone.
    _closed = False
    # The adapter's, for a stream: what sends a request like this one's again, see `resuming.Resender`.
    _again: Any = None
    # What the connection has become.
    _upgraded: Duplex | None = None

    @classmethod
    def received(
        cls,
        request: PreparedRequest,
        source: Source,
        status: int,
        reason: str,
        fields: list[tuple[str, str]],
        connection: Any,
    ) -> Response:
        """The response that `source` is the body of, with the fields as they came."""
        response = cls.__new__(cls)
        response.request = request
        response.url = request.url
        response.status_code = status
        response.reason = reason
        response._fields = fields
        response._exchange = source
        response.connection = connection
        response._streamed = True
        # In one pass, and not through `headers`, which nobody may ask for.
        for name, _ in fields:
            if len(name) in _NOTABLE_LENGTHS:
                lower = name.lower()
                if lower == "content-encoding":
                    response._is_encoded = True
                elif lower == "set-cookie":
                    response._sets_cookies = True
        return response

    # ---------------------------------------------------------------- the body

    @property
    def content(self) -> bytes:
        """The whole body, its content codings undone.

        Raises:
            StreamConsumedError: it was read as a stream before.
            DecompressionError: it does not decode as its Content-Encoding says.
            BodyTooLarge: it is larger than `max_body` allows.
        """
        if self._content is None:
            self._begin_stream()
            self._content = self._read_all()
        return self._content

    @property
    def apparent_encoding(self) -> str:
        """What the content looks like: by its byte order mark, else UTF-8, else by `charset_normalizer` if that is
        installed."""
        return guess_encoding(self.content)

    @property
    def text(self) -> str:
        """The body, decoded by `encoding`, else by `apparent_encoding`; what cannot be decoded is replaced."""
        return decode(self.content or b"", self.encoding)

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
            BodyTooLarge: behind as much of it as `max_body` allows.
            DecompressionError, ReadTimeout, TotalTimeout, Cancelled, SessionClosed
        """
        if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int)):
            raise TypeError(f"chunk_size is a number of bytes or None, not {chunk_size!r}")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
        if self._content is None:
            self._begin_stream()
        pieces = self._stream(chunk_size or READ_SIZE)
        return decode_pieces(pieces, self.encoding) if decode_unicode else pieces

    def _stream(self, size: int) -> Iterator[bytes]:
        if self._content is not None:
            for start in range(0, len(self._content), size):
                yield self._content[start : start + size]
            return
        while piece := self._read(size):
            yield piece

    def iter_lines(
        self, chunk_size: int = ITER_CHUNK_SIZE, decode_unicode: bool = False, delimiter: Any = None
    ) -> Iterator[Any]:
        """The body line by line, each without its end. A CR LF that two pieces divide is one end of a line."""
        return split_lines(self.iter_content(chunk_size, decode_unicode), delimiter)

    def iter_sse(self, *, max_event_size: int = MAX_EVENT_SIZE) -> Iterator[ServerSentEvent]:
        """The body's Server-Sent Events, as they arrive (WHATWG HTML, section 9.2.6). For one that is to go on when its
        connection breaks: `Session.sse`. The session's `max_body` holds for all of the body, as a response is a
        response whatever comes in it; an endless one is `Session.sse`'s, for which it does not hold.

        Args:
            max_event_size: bytes that are held of one event.

        Raises:
            ContentTypeError: the response is something else, as a web page or JSON; its status is not looked at.
            EventTooLarge: an event is larger than `max_event_size`. The connection is closed.
            As `iter_content`.
        """
        from .sse.reader import read_events  # late: most programs need no events

        return read_events(self, max_event_size)

    def __iter__(self) -> Iterator[bytes]:
        return self.iter_content(128)

    def save(self, path_or_file: Any, *, on_progress: Progress | None = None, resume: bool = False) -> int:
        """Write the body, its content codings undone, to a file; whatever the status is.

        A path gets its file when the body is whole: until then it is written beside it, and on any error what was at
        the path stays. What is there and no regular file, as /dev/null, is written to directly.

        With `resume`, a GET with a strong validator (ETag, Last-Modified) whose transfer breaks is asked for the rest
        (Range and If-Range, RFC 9110, sections 14.2 and 13.1.5): at once, then after 0.5, 1, 2 and 4 s; five tries in a
        row without a new byte are the end, and so are `Timeouts.total` and `close`, though not while a connection is
        made. If the body has changed it begins anew, and `headers` are the new ones. When all fails, or the program is
        interrupted, what came of a body without coding stays beside the path as ".NAME.DIGITS.part", and the next
        `save` with `resume` to this path goes on there.

        Args:
            path_or_file: a path, or a binary file that is open for writing; it is written where it stands, not closed.
            on_progress: called with the bytes of the body that came so far, still encoded, and how many there will be,
                None if that is not known. On this thread; an exception in it ends all.
            resume: see above. Where it is not possible, the error has a note that says why.

        Returns:
            How many bytes of the body the file holds.

        Raises:
            StreamConsumedError: it was read as a stream before.
            IsADirectoryError, PermissionError, TypeError, ValueError: what it cannot be written to; nothing was read.
            OSError: the file's own errors. The connection is closed.
            ProtocolError: what came does not fit to what had come before.
            As `iter_content`: the transfer broke.
        """
        from .downloads import save  # late: most programs need no files

        return save(self, path_or_file, on_progress, resume)

    @property
    def raw(self) -> Any:
        """The body as a readable binary file, as it came, codings and all: `read`, `readinto`, `read1`, `readline`.

        It can be read on its own when the response is gone; the other ways to read go on where it stands.
        """
        if self._raw is None:
            source = self._raw_source()
            self._raw = io.BufferedReader(source, READ_SIZE)
        return self._raw

    @raw.setter
    def raw(self, value: Any) -> None:
        self._raw = value

    @property
    def upgraded(self) -> Duplex:
        """The connection as a stream of bytes, after 101 (Switching Protocols), or a 2xx answer to CONNECT, which makes
        it a tunnel (RFC 9110, sections 7.8 and 9.3.6). It begins with what came behind the head, goes on under the
        request's own `Timeouts`, counts in the pool until it is closed, and is the program's to close. Always the same
        object.

        Raises:
            ValueError: another answer came.
            ConnectionError, Cancelled, SessionClosed: the connection is gone.
        """
        if self._upgraded is None:
            from .streams.duplex import taken_over  # late: few programs need it

            return taken_over(self)
        return self._upgraded

    def _raw_source(self) -> io.RawIOBase:
        if self._content is not None:
            return io.BytesIO(self._content)  # type: ignore[return-value]  # has readinto, which is what is needed
        self._check_unread()
        return RawBody(self._exchange, self)

    def _check_unread(self) -> None:
        if self._consumed:
            where = self._exchange.where
            raise StreamConsumedError(
                f"{where}: the body of this response was read as a stream before; keep what was read", response=self
            )

    def _begin_stream(self) -> None:
        self._check_unread()
        self._consumed = True
        if self._is_encoded:
            coding = self.headers.get("content-encoding", "")
            try:
                exchange = self._exchange
                self._decoder = decoder_of(coding, self._read_encoded, exchange.where, exchange.max_body)
            except DecompressionError as error:
                raise self._ended_by(error)  # noqa: B904  # the same error, with more in it

    def _read(self, size: int) -> bytes:
        """The next bytes, or b"" at the end."""
        if self._decoder is None:
            return self._read_encoded(size)
        try:
            return self._decoder.read(size)
        except BaseException as error:
            raise self._ended_by(error)  # noqa: B904  # the same error, with more in it

    def _read_encoded(self, size: int) -> bytes:
        try:
            if self._raw is not None:
                return bytes(getattr(self._raw, "read1", self._raw.read)(size))
            return self._exchange.read(size)
        except BaseException as error:
            raise self._ended_by(error)  # noqa: B904  # the same error, with more in it

    def _read_all(self) -> bytes:
        if self._decoder is not None or self._raw is not None:
            return b"".join(self._stream(READ_SIZE))
        try:
            return self._exchange.read_all()
        except BaseException as error:
            raise self._ended_by(error)  # noqa: B904  # the same error, with more in it

    def _ended_by(self, error: BaseException) -> BaseException:
        if isinstance(error, RequestException):
            error.response = error.response or self
        return ended_by(error, self._exchange, self.request)

    def fetch(self) -> None:
        """Read the whole body now; what a request that does not stream does."""
        self._streamed = False
        if self._is_encoded:
            _ = self.content
            return
        self._consumed = True
        self._content = self._read_all()

    def drain(self) -> None:
        """Read a body that nobody asked for, so that its connection can be used again, and keep it. One that is large,
        or becomes large when it is decoded, is given up with its connection (CVE-2026-21441), and so is one that
        somebody has begun to read as a stream."""
        if self._content is not None:
            return
        if self._consumed:
            self.close()
            return
        self._begin_stream()
        pieces, size = [], 0
        while piece := self._read(READ_SIZE):
            size += len(piece)
            if size > MOST_DRAINED:
                self.close()
                return
            pieces.append(piece)
        self._content = b"".join(pieces)

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Any thread. The connection is given up if the body was not read to its end; a reader that waits for it is
        woken with `Cancelled`."""
        self._closed = True  # first: a download may be about to replace the exchange
        self._fail_closed()

    def _fail_closed(self) -> None:
        self._exchange.fail(
            Cancelled(f"{self._exchange.where}: the response was closed before its body was read to the end")
        )

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        # With a file over the body, it is that one which must not be dropped: see RawBody.
        if not self._exchange.is_over and self._raw is None:
            self._exchange.fail_from_finalizer()
            if self._streamed:
                what = f"{self!r} was dropped before its body was read or closed"
                warnings.warn(what, ResourceWarning, 2, source=self)

    # ---------------------------------------------------------------- pickling

    def __getstate__(self) -> dict[str, Any]:
        """With the whole body, which is read for it, and without the connection."""
        _ = self.content
        return {name: getattr(self, name) for name in self.__attrs__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._consumed = True

"""The body of a response over more than one transfer: when one breaks, the rest is asked for from where it stood.

Knows when that may be done (a strong validator, RFC 9110, sections 8.8 and 13.1.5), what the answer must say (14.4,
15.3.7) and how often it is tried. Knows nothing of files and codings: whoever reads is told by `StartedAnew` when the
body begins from zero. How a request is sent is the adapter's to know (`Resender`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from .engine.deadline import Deadline
from .engine.exchange import Exchange
from .engine.locks import Condition, new_lock
from .engine.timings import Timings
from .exceptions import (
    BodyTooLarge,
    Cancelled,
    ChunkedEncodingError,
    ConnectionError,
    ProtocolError,
    ReadTimeout,
    RequestException,
    SessionClosed,
)
from .structures import CaseInsensitiveDict

if TYPE_CHECKING:
    from .models import PreparedRequest
    from .responses import Response

__all__ = [
    "Resender",
    "ResumingSource",
    "StartedAnew",
    "is_broken_transfer",
    "length_of",
    "obstacle",
    "strong_validator",
]

# Seconds before each try, as long as none brings a new byte: the first at once, because most breaks are one
# connection's, and then in doubling steps, as urllib3's Retry. A server that restarts has 7.5 s for it.
PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0)

# Answers that say "not now" (RFC 9110, sections 15.6.3 to 15.6.5): as good as no connection.
NOT_NOW = frozenset({502, 503, 504})

UNNAMED = "it has no strong ETag, nor a Last-Modified that would do, so its parts might not fit together"

# RFC 9110, section 8.8.3, without the W/ of a weak one.
STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')
# RFC 9110, section 14.4: first and last byte, the length of the whole; and what comes with a 416.
CONTENT_RANGE = re.compile(r"bytes[ \t]+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.IGNORECASE | re.ASCII)
UNSATISFIED = re.compile(r"bytes[ \t]+\*/(\d{1,19})", re.IGNORECASE | re.ASCII)


class StartedAnew(Exception):
    """The server sends the body from its first byte, and it may be another one: what was read before is void.

    Attributes:
        fields: the header of that answer.
        broken: the error of the transfer before it.
    """

    def __init__(self, fields: list[tuple[str, str]], broken: RequestException) -> None:
        super().__init__("the body begins anew")
        self.fields = fields
        self.broken = broken


class Resender(Protocol):
    """What sends a request as the first one was sent: by the same adapter and route, until the same deadline."""

    @property
    def deadline(self) -> Deadline: ...
    @property
    def closed(self) -> bool: ...
    def send(self, request: PreparedRequest, begun: Callable[[Exchange], None]) -> Exchange: ...
    def attend(self, source: Any) -> None: ...
    def leave(self, source: Any) -> None: ...


def is_broken_transfer(error: BaseException) -> bool:
    """Whether it tells of a connection that failed, and not of a server or a user who wants no more."""
    return isinstance(error, ChunkedEncodingError | ConnectionError | ReadTimeout) and not isinstance(
        error, ProtocolError
    )


def strong_validator(headers: Mapping[str, str]) -> str | None:
    """What names exactly these bytes, for If-Range (RFC 9110, section 13.1.5): a strong ETag, or where there is no ETag
    at all a Last-Modified that is at least one second older than the answer (section 8.8.2.2). None if there is
    neither."""
    etag = headers.get("etag")
    if etag is not None:
        return etag if STRONG_ETAG.fullmatch(etag) else None
    modified, date = headers.get("last-modified"), headers.get("date")
    if modified is None or date is None:
        return None
    from email.utils import parsedate_to_datetime  # late: it takes 5 ms

    try:
        age = parsedate_to_datetime(date).timestamp() - parsedate_to_datetime(modified).timestamp()
    except (ValueError, OverflowError):
        return None
    return modified if age >= 1 else None


def length_of(headers: Mapping[str, str]) -> int | None:
    """What Content-Length says of a body; None if it says nothing (RFC 9112, section 6.3)."""
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and "transfer-encoding" not in headers else None


def obstacle(response: Response) -> str | None:
    """Why the body of `response` cannot be asked for again from the middle; None if it can."""
    request = response.request
    if response._again is None or request is None:
        return "it is no stream of one of syncflow's own adapters"
    if response._raw is not None:
        return "`raw` was used, and may have been read"
    if request.method != "GET" or response.status_code != 200:
        return f"it is the answer {response.status_code} to a {request.method}, and only a 200 to a GET can be"
    if "range" in request.headers:
        return "its request asks for a range already"
    if request.content is not None:
        return "its request has a body"
    if strong_validator(response.headers) is None:
        return UNNAMED
    return None


class ResumingSource:
    """The `Source` of a response that can be resumed: at any time the body of one exchange, and then of the next.

    One thread reads (`read`, `skip_to`, `abandon`); `fail` and `is_over` are any thread's.
    """

    def __init__(self, response: Response) -> None:
        assert response.request is not None
        # Never changes.
        self._request = response.request
        self._again: Resender = response._again
        self._first = response._exchange
        self.max_body = self._first.max_body
        # The reader's: the body as it is known, and how far it was read.
        self._total: int | None = None
        self._validator: str | None = None
        self._coding = ""
        self.position = 0
        self._end: int | None = None  # of what the current answer brings; None if that is all there is
        self._furthest = 0  # that it ever got
        self._fruitless = 0  # tries in a row that did not get further
        # Guards the exchange being replaced, which only the reader does, against `fail`: that one hits the exchange
        # which is current, or the next as soon as there is one. Held for no wait but a pause's, which releases it. The
        # locks of a connection come after it.
        self._lock = new_lock()
        self._called_off = Condition(self._lock)
        self._exchange: Any = self._first
        self._failure: RequestException | None = None
        self._is_read = False  # to the end
        self._describe(response.headers)

    def _describe(self, headers: Mapping[str, str]) -> None:
        """The head of a 200: the body is this one."""
        self._total = length_of(headers)
        self._validator = strong_validator(headers)
        self._coding = headers.get("content-encoding", "")

    # ---------------------------------------------------------------- reading: one thread

    def __enter__(self) -> ResumingSource:
        """All reading is done inside of this: the session knows then that something is under way, though its exchange
        may just have broken, and tells it when it is closed."""
        try:
            self._again.attend(self)
        except BaseException:  # an interrupt; whoever drains would wait for this for ever
            self._again.leave(self)
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._again.leave(self)

    @property
    def total(self) -> int | None:
        """Bytes of the whole body, encoded; None if that is not known yet."""
        return self._total

    @property
    def validator(self) -> str | None:
        """What names this body; None if it cannot be resumed any more."""
        return self._validator

    def read(self, most: int) -> bytes:
        """The next bytes, at least one and at most `most`; b"" at the end, whichever transfer brings them.

        Raises:
            StartedAnew: see there; the next read gives the first byte.
            ProtocolError: an answer does not fit to what was asked.
            BodyTooLarge: the whole is larger than `max_body`.
            As `Exchange.read`: the body could not be resumed; a note says why.
        """
        while not self._is_read:
            try:
                piece: bytes = self._exchange.read(most)
                self._check_range(len(piece))
            except RequestException as error:
                self._exchange.abandon(error)
                self._go_on(error)
                continue
            if piece:
                self.position += len(piece)
                return piece
            if self._end is None or self._end == self._total:
                self._is_read = True
            else:  # RFC 9110, section 15.3.7: a server may send less than it was asked for
                self._go_on(self._short(f"the server ended a part of the body at byte {self.position}"))
        return b""

    def read_all(self) -> bytes:
        """All that is left."""
        pieces: list[bytes] = []
        while True:
            try:
                while piece := self.read(65536):
                    pieces.append(piece)
                return b"".join(pieces)
            except StartedAnew:
                pieces.clear()

    def skip_to(self, position: int) -> None:
        """Before anything was read: an earlier transfer of the same body brought as much, so give this one up and ask
        for the rest. Raises what `read` raises."""
        self._exchange.fail(Cancelled(f"{self.where}: given up, because its first {position} bytes are here already"))
        self.position = self._furthest = position
        if position == self._total:
            self._is_read = True
        else:
            self._go_on(self._short(f"an earlier transfer of this body ended at byte {position}"))

    def _check_range(self, received: int) -> None:
        if self._end is None:
            return
        after = self.position + received
        if after > self._end or (not received and after < self._end):
            raise ProtocolError(
                f"{self.where}: the server sent {'more' if received else 'less'} than its Content-Range says, "
                f"which ends before byte {self._end}; save with resume=False",
                phase="body",
            )

    def _short(self, what: str) -> ChunkedEncodingError:
        return ChunkedEncodingError(f"{self.where}: {what}, and the rest could not be had", phase="body")

    # ---------------------------------------------------------------- going on: the reader

    def _go_on(self, broken: RequestException) -> None:
        """Have the current exchange be one that brings the rest; or raise, `broken` if it cannot be had."""
        broken.bytes_received = self.position
        if not is_broken_transfer(broken):
            raise broken
        if self._validator is None:
            self._raise(broken, UNNAMED)
        try:
            why = "the connection broke again each time"
            while True:
                if self.position > self._furthest:
                    self._furthest, self._fruitless = self.position, 0
                if self._fruitless == len(PAUSES):
                    self._raise(broken, f"given up after {len(PAUSES)} tries in a row that brought nothing: {why}")
                self._pause(PAUSES[self._fruitless])
                self._fruitless += 1
                try:
                    exchange = self._again.send(self._request_for_rest(), self._swap_in)
                except RequestException as error:
                    if not is_broken_transfer(error):
                        raise error from broken
                    why = str(error)
                    continue
                if exchange.head.status not in NOT_NOW:  # type: ignore[union-attr]  # it has answered
                    self._accept(exchange, broken)
                    return
                why = _answered(exchange)
                self._let_go(exchange)
        except RequestException as error:
            error.phase, error.bytes_received = error.phase or "body", self.position
            raise

    def _raise(self, broken: RequestException, why: str) -> None:
        broken.add_note(f"not resumed at byte {self.position}: {why}")
        raise broken

    def _request_for_rest(self) -> PreparedRequest:
        assert self._validator is not None
        request = self._request.copy()
        request.headers["Range"] = f"bytes={self.position}-"
        request.headers["If-Range"] = self._validator
        return request

    def _pause(self, seconds: float) -> None:
        """Woken by `fail`, which the closing of response or session calls; ends by the deadline of the request."""
        deadline = self._again.deadline
        until = deadline.clock() + seconds
        with self._lock:
            while self._failure is None and not self._again.closed:
                left = deadline.wait_time(until)
                if left == 0.0:
                    break
                self._called_off.wait(left)
            if self._failure is not None:
                raise self._failure
        if self._again.closed:
            raise SessionClosed(f"{self.where}: the session was closed during the request", phase="body")
        deadline.check(self.where, "body")

    def _swap_in(self, exchange: Exchange) -> None:
        """Before anything is sent on it. From now on `fail` ends this one."""
        with self._lock:
            failure = self._failure
            if failure is None:
                self._exchange = exchange
        if failure is not None:
            exchange.fail(failure)
            raise failure

    def _accept(self, exchange: Exchange, broken: RequestException) -> None:
        """Judge the answer."""
        assert exchange.head is not None
        status, fields = exchange.head.status, exchange.head.fields
        headers = CaseInsensitiveDict(fields)
        if status == 206:
            try:
                self._end = self._checked_end(headers)
            except (ProtocolError, BodyTooLarge) as error:
                self._let_go(exchange)
                raise error from broken
        elif status == 200:
            self._describe(headers)
            self.position, self._end = 0, None
            raise StartedAnew(fields, broken)
        else:
            self._let_go(exchange)
            if status != 416:
                self._raise(broken, _answered(exchange))
            value = headers.get("content-range", "")
            match = UNSATISFIED.fullmatch(value)
            if match is None or int(match[1]) != self.position:
                asked = f"asked for the body from byte {self.position} on, the server answered 416"
                raise self._misfit(f"{asked} with the Content-Range {value!r}") from broken
            # It was whole: only its end, as the last chunk, was missing.
            self._is_read, self._total = True, self.position

    def _checked_end(self, headers: Mapping[str, str]) -> int:
        """Behind the last byte that a 206 brings. Raises ProtocolError if it is not of the body that was begun,
        BodyTooLarge if that turns out to be too large."""
        value = headers.get("content-range", "")
        match = CONTENT_RANGE.fullmatch(value.strip())
        asked = f"asked for the body from byte {self.position} on, the server answered 206"
        if match is None:
            raise self._misfit(f"{asked} with the Content-Range {value!r}, which is not one range of bytes")
        first, last = int(match[1]), int(match[2])
        total = self._total if match[3] == "*" else int(match[3])
        if first != self.position or last < first or (total is not None and last >= total):
            raise self._misfit(f"{asked} with the Content-Range {value!r}")
        if total is None:
            raise self._misfit(f"{asked} and does not say how long the whole is")
        if self._total not in (None, total):
            raise self._misfit(f"{asked} with the Content-Range {value!r}, of a body that had {self._total} bytes")
        is_date = not str(self._validator).startswith('"')
        named = headers.get("last-modified" if is_date else "etag", self._validator)
        if named != self._validator:
            raise self._misfit(f"{asked} with a part of {named}, not of {self._validator}")
        if headers.get("content-encoding", self._coding) != self._coding:
            raise self._misfit(f"{asked} in another Content-Encoding than it had begun with")
        if self.max_body is not None and total > self.max_body:
            # Of each part its exchange makes sure; the length of the whole may not have been known until now.
            what = f"the response has {total} bytes, and max_body allows {self.max_body}; raise max_body"
            raise BodyTooLarge(f"{self.where}: {what}", phase="head", bytes_received=self.position)
        self._total = total
        return last + 1

    def _misfit(self, what: str) -> ProtocolError:
        advice = "the server's ranges cannot be relied on: save with resume=False"
        return ProtocolError(f"{self.where}: {what}; {advice}", phase="head", bytes_received=self.position)

    def _let_go(self, exchange: Exchange) -> None:
        """An answer that is of no use. What is short has mostly arrived, and its connection stays."""
        exchange.fail(Cancelled(f"{self.where}: given up, because it does not bring the rest of the body"))

    # ---------------------------------------------------------------- calling off

    def fail(self, error: RequestException) -> None:
        """Any thread. End it now, in a transfer or between two; nothing happens if it was over."""
        with self._lock:
            if self.is_over:
                return
            self._failure = error
            self._called_off.notify_all()
            exchange = self._exchange
        exchange.fail(error)

    def abandon(self, error: BaseException) -> None:
        """The reader, to whom `error` happened in a read or between two."""
        with self._lock:
            if self._failure is None and not self._is_read:
                self._failure = Cancelled(f"{self.where}: it had ended with {type(error).__name__}")
        self._exchange.abandon(error)

    def fail_from_finalizer(self) -> None:
        """Any thread, at any moment, holding anything. Nobody reads any more."""
        self._exchange.fail_from_finalizer()

    @property
    def is_over(self) -> bool:
        """Any thread, no lock. Whether it was read to its end, or called off."""
        return self._is_read or self._failure is not None

    # ---------------------------------------------------------------- what it was like

    @property
    def where(self) -> str:
        """ "host:port", for messages."""
        return str(self._exchange.where)

    @property
    def peer(self) -> Any:
        """Of the last exchange."""
        return self._exchange.peer

    @property
    def elapsed(self) -> float:
        """Of the first exchange, which brought the head of the response."""
        return self._first.elapsed

    @property
    def timings(self) -> Timings:
        """Those of the first exchange, and the end of the last."""
        return replace(self._first.timings, total=self._exchange.timings.total)

    @property
    def request_complete(self) -> bool:
        """Of the first exchange."""
        return self._first.request_complete

    @property
    def trailers(self) -> list[tuple[str, str]]:
        """Of the last exchange."""
        trailers: list[tuple[str, str]] = self._exchange.trailers
        return trailers


def _answered(exchange: Exchange) -> str:
    assert exchange.head is not None
    return f"the server answered {exchange.head.status} {exchange.head.reason}".rstrip()

"""`Response.save`: the body, decoded, into a file.

Knows the order of the steps, how far a download is, and what an error of each side means. Where the bytes are written
is `partials`' to know; how a broken transfer goes on, `resuming`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from .decoders import decoder_of
from .exceptions import BodyTooLarge, ProtocolError
from .partials import Sink, sink_for
from .resuming import ResumingSource, StartedAnew, is_broken_transfer, length_of, obstacle

if TYPE_CHECKING:
    from .models import PreparedRequest
    from .responses import Response

__all__ = ["Progress", "save"]

Progress = Callable[[int, int | None], object]

# Bytes asked for, and written, at a time: as many as an exchange gives at once. Over loopback into a file on tmpfs
# 64 KiB run at 800 to 1,000 MiB/s, these at 1,000 to 1,350, and 1 MiB is no faster.
PIECE = 262144


def save(response: Response, where: Any, on_progress: Progress | None, resume: bool) -> int:
    """See `Response.save`."""
    if on_progress is not None and not callable(on_progress):
        raise TypeError(f"on_progress is called with two numbers, {on_progress!r} cannot be")
    if response._content is None:
        response._check_unread()
    source, key, why_not = None, None, None
    if resume and response._content is None:
        why_not = obstacle(response)
        if why_not is None:
            source = ResumingSource(response)
            key = _key_of(response, source)
    # Only by what can be resumed: an error page must not cost what an earlier run has saved.
    sink = sink_for(where, key, remove_others=key is not None)
    if response._content is not None:
        return _write_content(response, sink, on_progress)
    with source or nullcontext():
        return Download(response, sink, on_progress, source, why_not).run()


def _write_content(response: Response, sink: Sink, on_progress: Progress | None) -> int:
    content = response._content or b""
    try:
        sink.open()
        sink.write(content)
        if on_progress is not None:
            length = _total_of(response, response.headers) if response._is_encoded else None
            done = len(content) if length is None else length
            on_progress(done, done)
        sink.complete()
    except BaseException:
        sink.fail(keep=False)
        raise
    return len(content)


class Download:
    """A body on its way into a file. One thread.

    Args:
        source: where a transfer that breaks is resumed; None if it is not to be, or cannot be.
        why_not: if it was to be.
    """

    def __init__(
        self,
        response: Response,
        sink: Sink,
        on_progress: Progress | None,
        source: ResumingSource | None,
        why_not: str | None,
    ) -> None:
        self._response = response
        self._sink = sink
        self._on_progress = on_progress
        self._source = source
        self._why_not = why_not
        self._read: Callable[[int], bytes] | None = None  # what gives the decoded bytes, once it is made
        self._written = 0  # of the body, as it is in the file
        self._received = 0  # of the body, as it came
        self._told: tuple[int, int | None] | None = None

    def run(self) -> int:
        """All of it; the number of bytes in the file."""
        try:
            self._sink.open()
        except BaseException:
            self._sink.fail(keep=True)
            raise  # the response can be saved elsewhere
        try:
            self._begin()
            while True:
                try:
                    self._pour()
                    break
                except StartedAnew as anew:
                    self._start_anew(anew)
            self._tell()
            self._sink.complete()
        except BaseException as error:
            # What was read of the body is lost, if it was the file that failed.
            self._response._exchange.abandon(error)
            # With a server whose ranges do not fit, or a body that is too large, the next run would come to the same
            # end.
            self._sink.fail(keep=not isinstance(error, ProtocolError | BodyTooLarge))
            raise
        return self._written

    def _begin(self) -> None:
        response, source = self._response, self._source
        response._consumed = True
        if source is None:
            return
        # `close` marks first and then looks for the exchange; here it is the other way round, so that one of the two
        # sees the other.
        response._exchange = source
        if response._closed:
            response._fail_closed()

    def _skip_what_is_held(self, held: int) -> None:
        """The file has what an earlier run of the program has saved of the same body."""
        source, ranges = self._source, self._response.headers.get("accept-ranges", "")
        assert source is not None
        if ranges.lower() == "none" or (source.total is not None and held > source.total):
            self._sink.start_anew(_key_of(self._response, source))
            return
        self._received = self._written = held
        self._stepped(lambda: source.skip_to(held))

    def _pour(self) -> None:
        if self._sink.held:
            self._skip_what_is_held(self._sink.held)
        while piece := self._stepped(self._next):
            self._sink.write(piece)
            self._written += len(piece)
            if self._on_progress is not None:
                self._tell()

    def _stepped(self, step: Callable[[], Any]) -> Any:
        """What `step` returns; its errors, which are the transfer's and not the file's, with all that is known."""
        try:
            return step()
        except StartedAnew:
            raise
        except BaseException as error:
            if self._why_not is not None and is_broken_transfer(error):
                error.add_note(f"not resumed at byte {self._received}: {self._why_not}")
            raise self._response._ended_by(error)  # noqa: B904  # the same error, with more in it

    def _next(self) -> bytes:
        if self._read is None:
            self._read = self._receive
            if self._response._is_encoded:
                coding = self._response.headers.get("content-encoding", "")
                exchange = self._response._exchange
                decoder = decoder_of(coding, self._receive, exchange.where, exchange.max_body)
                if decoder is not None:
                    self._read = decoder.read
        return self._read(PIECE)

    def _receive(self, most: int) -> bytes:
        piece = self._source.read(most) if self._source is not None else self._response._read_encoded(most)
        self._received += len(piece)
        return piece

    def _start_anew(self, anew: StartedAnew) -> None:
        """The body comes from its first byte, and with it another head: the response is that one from now on."""
        response, source = self._response, self._source
        assert source is not None
        response._fields, response._headers = anew.fields, None
        response._is_encoded = "content-encoding" in response.headers
        if not self._sink.start_anew(_key_of(response, source)):
            anew.broken.add_note("not resumed: the server sends the whole body again, and this file cannot go back")
            raise response._ended_by(anew.broken)
        self._read = None
        self._received = self._written = 0
        self._tell()

    def _tell(self) -> None:
        if self._on_progress is None:
            return
        total = self._source.total if self._source is not None else _total_of(self._response, self._response.headers)
        if self._told != (self._received, total):
            self._told = (self._received, total)
            self._on_progress(self._received, total)


def _total_of(response: Response, headers: Mapping[str, str]) -> int | None:
    """How long the body will be; the length that an answer to HEAD or a 304 names is another one's."""
    request: PreparedRequest | None = response.request
    is_other = response.status_code in (204, 304) or (request is not None and request.method == "HEAD")
    return None if is_other else length_of(headers)


def _key_of(response: Response, source: ResumingSource) -> str | None:
    """What names this body among all of this target: its URL, without user and password, and its validator. None if its
    parts cannot be told apart, or are of use only to the decoder that has read them."""
    if source.validator is None or response._is_encoded or response.request is None:
        return None
    target = response.request.target
    named = f"{target.scheme}://{target.authority}{target.path}\n{source.validator}"
    return hashlib.sha256(named.encode("utf-8", "surrogateescape")).hexdigest()[:16]

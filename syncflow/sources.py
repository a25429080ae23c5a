"""Where the body of a response comes from, and that source as a file.

Knows what a response asks of its source, and the source of one that has nothing. Knows nothing of codings or text.
"""

from __future__ import annotations

import io
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from .engine.timings import NO_TIMINGS, Timings
from .exceptions import EventTimeout, RequestException

if TYPE_CHECKING:
    from .models import PreparedRequest
    from .responses import Response

__all__ = ["NO_SOURCE", "RawBody", "Source", "ended_by"]


class Source(Protocol):
    """Where the body of a response comes from, with what is known of how it came. `Exchange` says what each means."""

    @property
    def where(self) -> str: ...
    @property
    def peer(self) -> Any: ...
    @property
    def elapsed(self) -> float: ...
    @property
    def timings(self) -> Timings: ...
    @property
    def is_over(self) -> bool: ...
    @property
    def max_body(self) -> int | None: ...
    @property
    def request_complete(self) -> bool: ...
    @property
    def trailers(self) -> list[tuple[str, str]]: ...
    def read(self, most: int) -> bytes: ...
    def read_all(self) -> bytes: ...
    def fail(self, error: RequestException) -> None: ...
    def fail_from_finalizer(self) -> None: ...
    def abandon(self, error: BaseException) -> None: ...


class NoSource:
    """Of a response that was made by hand, or came out of a pickle: there is nothing to read."""

    where = "a response without a connection"
    peer = ("", 0)
    elapsed = 0.0
    timings = NO_TIMINGS
    is_over = True
    max_body = None
    request_complete = True
    trailers: list[tuple[str, str]] = []  # noqa: RUF012  # nobody changes it

    def read(self, most: int) -> bytes:
        """The end."""
        return b""

    def read_all(self) -> bytes:
        """Nothing."""
        return b""

    def fail(self, error: RequestException) -> None:
        """Nothing is under way."""

    def fail_from_finalizer(self) -> None:
        """Nothing is under way."""

    def abandon(self, error: BaseException) -> None:
        """Nothing is under way."""


NO_SOURCE = NoSource()


class RawBody(io.RawIOBase):
    """The body of a response, as the lower half of a buffered file. Holds the response weakly, which holds it: so that
    a response which is dropped goes at once, and the file can be read without it."""

    def __init__(self, source: Source, response: Response) -> None:
        self._source = source
        self._request = response.request
        self._response = weakref.ref(response)

    def close(self) -> None:
        """Give the connection up if the body was not read to its end."""
        # By the worker, because a file closes itself in its finalizer too.
        if not self.closed and not self._source.is_over:
            self._source.fail_from_finalizer()
        super().close()

    def _dealloc_warn(self, source: Any) -> None:
        """What `io.BufferedReader` calls when it closes itself in its finalizer, as with a `FileIO`."""
        if not self._source.is_over:
            what = f"{self._source.where}: a body was dropped before it was read or closed"
            warnings.warn(what, ResourceWarning, 3, source=source)

    def readable(self) -> bool:
        if self.closed:
            raise ValueError("I/O operation on closed file.")  # as every file of Python's
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._source.read(len(buffer))
        except BaseException as error:
            if isinstance(error, RequestException):
                error.response = error.response or self._response()
            raise ended_by(error, self._source, self._request)  # noqa: B904  # the same error, with more in it
        buffer[: len(piece)] = piece
        return len(piece)


def ended_by(error: BaseException, source: Source, request: PreparedRequest | None) -> BaseException:
    """Whatever goes wrong in a wait, or interrupts it, ends the exchange: where it stood is not known. But for an
    EventTimeout: that the program wants to wait no longer, for now, says nothing of the exchange."""
    if not isinstance(error, EventTimeout):
        source.abandon(error)
    if isinstance(error, RequestException):
        error.request = error.request or request
    return error

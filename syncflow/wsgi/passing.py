"""An answer on its way to the client: its head as a hook may change it, its body as a server takes it.

Knows `start_response`, what servers do with pieces, and what is to be done when the last one has been sent. Knows
nothing of how the answer was had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any
from wsgiref.headers import Headers

from ..exceptions import RequestException
from ..responses import Response
from .forwarding import response_fields
from .middleware import StartResponse

__all__ = ["SEND_TRAILERS", "PassedBody", "ProxiedResponse", "Refusal", "pass_on"]

# The most that is passed on at once, in bytes.
PIECE = 65536

# How gunicorn takes trailers, for a client with HTTP/2. No other server does, and none for HTTP/1.1.
SEND_TRAILERS = "gunicorn.http2.send_trailers"


# RFC 9110, sections 15.3.5 and 15.4.5.
NO_CONTENT = 204
BODILESS = (NO_CONTENT, 304)


class ProxiedResponse:
    """A response on its way to the client; what a `Transform` may change.

    Attributes:
        status_code: a number.
        reason: the words beside it.
        headers: a `wsgiref.headers.Headers`: several fields may have one name. Without those that are for one
            connection only, Date and Server, which the server sets.
        response: the `Response` of the upstream, unread. Whoever reads it sets `body`.
    """

    def __init__(self, response: Response, body: Iterable[bytes]) -> None:
        self.status_code = response.status_code
        self.reason = response.reason
        self.headers = Headers(response_fields(response._fields))
        self.response = response
        self._body = body
        self._is_replaced = False

    @property
    def body(self) -> Iterable[bytes]:
        """The pieces that are passed on, codings and all. Setting it removes Content-Length, so that the server frames
        it anew; the iterable is closed at the end, if it can be. It is not iterated for HEAD, 204 and 304, which have
        no body."""
        return self._body

    @body.setter
    def body(self, body: Iterable[bytes]) -> None:
        self._body = body
        self._is_replaced = True
        del self.headers["Content-Length"]


def pass_on(
    environ: dict[str, Any],
    start_response: StartResponse,
    response: Response,
    end: Callable[[], None],
    changes: Callable[[ProxiedResponse], Any] | None,
    error_of: Callable[[RequestException], Exception],
    linger: Callable[[], None] | None = None,
) -> PassedBody:
    """Give the server the head, and return the body for it.

    Args:
        end: called once, when the body has ended in whatever way.
        changes: a hook.
        error_of: what is raised for an error of the upstream.
        linger: called when the server has sent all of it.
    """
    passed: ProxiedResponse | None = None
    try:
        passed = ProxiedResponse(response, _pieces(response, environ.get(SEND_TRAILERS)))
        if response._content is not None:  # it was read, and its codings undone
            passed.body = [response._content]
            del passed.headers["Content-Encoding"]
        if changes is not None:
            changes(passed)
        is_bodiless = environ["REQUEST_METHOD"] == "HEAD" or passed.status_code in BODILESS
        _see_to_the_length(passed, is_bodiless)
        write = start_response(_status_line(passed), passed.headers.items())
        if callable(write) and (is_bodiless or not response._exchange.is_over):
            # The head at once, unless the body is there too: cheroot and waitress wait for a piece that is not empty,
            # and wsgiref makes a length of 0 of an answer without a body of which nothing was written.
            write(b"")
        return PassedBody(response, passed.body, end, error_of, linger, is_bodiless=is_bodiless)
    except BaseException:
        end()
        try:
            if passed is not None and hasattr(passed.body, "close"):
                passed.body.close()
        finally:
            response.close()
        raise


def _see_to_the_length(passed: ProxiedResponse, is_bodiless: bool) -> None:
    """Where a hook has made a body of none, or none of a body: by a method or a status, which the other side knows
    nothing of. What the length then says would be taken from the next answer on the connection."""
    response = passed.response
    asked = response.request
    had_none = (asked is not None and asked.method == "HEAD") or response.status_code in BODILESS
    if passed.status_code == NO_CONTENT or (had_none and not is_bodiless and not passed._is_replaced):
        del passed.headers["Content-Length"]


def _pieces(response: Response, send_trailers: Callable[[list[tuple[str, str]]], Any] | None) -> Iterator[bytes]:
    while piece := response._read_encoded(PIECE):
        yield piece
    if send_trailers is not None and response._exchange.trailers:
        send_trailers(response._exchange.trailers)


def _status_line(passed: ProxiedResponse) -> str:
    """PEP 3333 wants words."""
    code, reason = passed.status_code, passed.reason
    if not reason:
        try:
            reason = HTTPStatus(code).phrase
        except ValueError:
            reason = "Unknown"
    return f"{code} {reason}"


class PassedBody(Iterator[bytes]):
    """The body of a response, for a server to send. One thread at a time iterates and closes."""

    def __init__(
        self,
        response: Response,
        body: Iterable[bytes],
        end: Callable[[], None],
        error_of: Callable[[RequestException], Exception],
        linger: Callable[[], None] | None = None,
        *,
        is_bodiless: bool = False,
    ) -> None:
        self._response = response
        self._body = body
        # Of two servers, one would send it all the same, and the client would take it for the next answer.
        self._pieces = iter(()) if is_bodiless else iter(body)
        self._end: Callable[[], None] | None = end
        self._error_of = error_of
        self._linger = linger
        self._is_whole = False
        # Servers send the head with the first piece, which may not come for long; and Flask calls no `write`.
        self._is_begun = response._exchange.is_over

    def __next__(self) -> bytes:
        if not self._is_begun:
            self._is_begun = True
            return b""
        try:
            return next(self._pieces)
        except RequestException as error:
            self._finish()
            raise self._error_of(error) from error
        except BaseException as error:
            self._is_whole = isinstance(error, StopIteration)
            self._finish()
            raise

    def _finish(self) -> None:
        """Any number of times. There is no more of it to be had; the upstream is ended if it is not at its end."""
        end, self._end = self._end, None
        if end is not None:
            end()
            try:
                if hasattr(self._body, "close"):
                    self._body.close()
            finally:
                self._response.close()

    def close(self) -> None:
        """Any number of times. The client has it all, or has left."""
        self._finish()
        linger, self._linger = self._linger, None
        if linger is not None and self._is_whole:
            linger()


class Refusal(Iterable[bytes]):
    """What is answered here, though the client may still be sending."""

    def __init__(self, pieces: Iterable[bytes], linger: Callable[[], None]) -> None:
        self._pieces = pieces
        self._linger: Callable[[], None] | None = linger

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def close(self) -> None:
        """Any number of times. The server has sent it."""
        linger, self._linger = self._linger, None
        if linger is not None:
            linger()

"""A reverse proxy as a WSGI handler: a request goes on as it comes, its answer comes back as it comes.

Knows the order of the steps, how the request is made, and who is to be told when one of the two sides leaves. What of a
message goes on is `forwarding`'s to know; how the answer is handed to the server, `passing`'s. Nothing is held whole:
the thread of the server reads a piece from one side and writes it to the other, so that each waits for the other. See
`docs/backpressure.md`.

One thread does all of it, the server's. Another, when the client leaves, only ends the request by its `Cancellation`,
which wakes the first wherever it waits for the upstream; where it waits for the client it is woken by the system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Protocol

from ..engine.calling_off import Cancellation
from ..engine.deadline import Deadline
from ..exceptions import Cancelled, InvalidURL, RequestException, RetryError
from ..models import PreparedRequest
from ..responses import Response
from ..sessions import Session
from ..settings import OWN_TIMEOUT, Timeouts, TimeoutTypes
from ..urls import absolute_url, parse_url
from .departures import watched
from .forwarding import request_fields, request_url
from .incoming import LengthRequired, RequestBody, UnknownCoding, drop_body, gone, incoming_body
from .middleware import StartResponse, client
from .passing import SEND_TRAILERS, ProxiedResponse, Refusal, pass_on
from .refusals import answer_error, refuse

__all__ = ["Refused", "Transform", "change", "proxied_request", "proxy"]

# They are between a client and this server: a tunnel, and a look at what the server has got (RFC 9110, section 9.3).
NOT_FORWARDED = frozenset({"CONNECT", "TRACE"})

# The fields that announce a body (RFC 9112, section 6).
FRAMING = ("Content-Length", "Transfer-Encoding")

# A Max-Forwards with as many is no count of hops.
MOST_DIGITS = 10


class RequestTransform(Protocol):
    """What may change a request that is passed on. Called by the thread that handles the request; what it raises goes
    to the server."""

    def request(self, request: PreparedRequest) -> None:
        """Before it is sent: `headers`, `url`, `method` may be changed, and `body` set. Its body as it comes can be
        iterated, once. There is no Host in `headers` but the one that is to be sent in place of the URL's."""


class ResponseTransform(Protocol):
    """What may change a response that is passed on. Called by the thread that handles the request; what it raises goes
    to the server."""

    def response(self, response: ProxiedResponse) -> None:
        """Before its head is passed on."""


# One of them, or an object that is both.
Transform = RequestTransform | ResponseTransform


class Refused(Exception):
    """The request cannot go on, and is answered here."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


def proxy(
    environ: dict[str, Any],
    start_response: StartResponse,
    url: str,
    *,
    host: str | None = None,
    timeout: TimeoutTypes = OWN_TIMEOUT,
    transform: Transform | None = None,
) -> Iterable[bytes]:
    """Pass the request on to `url`, and its answer back, by the session that `client(environ)` finds.

    The body of the request is read from `wsgi.input` as fast as the upstream takes it, and the answer from the upstream
    as fast as the client does. A redirect, an error, an answer that comes before the request is complete: each is
    passed on as it is; what the client then still sends is dropped, for a few seconds. Of the session hold its limits,
    retries (a body that was begun is not sent again), circuit breaker and proxies, `max_body` included; its headers,
    cookies, authentication and parameters are not added, no hook of it is called, and no cookie of the answer is kept.

    Header fields for one connection only are removed on both ways (RFC 9110, section 7.6.1), `Forwarded` (RFC 7239),
    `X-Forwarded-For`, `-Proto`, `-Host` and `Via` are set. Upgrades, as of WebSockets, are not possible in WSGI.

    Args:
        url: with a path, of the resource; the request's query is added where it has none. Without one, as in
            "http://backend:8080", the path and the query are the request's, as the client has sent them.
        host: the Host to be sent, as `environ["HTTP_HOST"]` for the client's; None is that of `url`.
        timeout: as for `Session`. `total` includes the time that the client takes to receive the answer.
        transform: an object with a method `request`, called with the `PreparedRequest` before it is sent; or
            `response`, called with a `ProxiedResponse` before it is passed on; or both.

    Returns:
        The body for the server to send; its `close()` ends the request. What the upstream does wrong from here on is
        raised by it, so that the server breaks the response off and the client knows that it is not whole.

    An upstream that does not answer is answered with 502; too late, with 504; a session that has no room, is closed, or
    has the upstream's circuit open, with 503; a request that cannot be passed on, with 400, 411 or 501. The error goes
    to the logger "syncflow.wsgi".

    Raises:
        RuntimeError: there is no `ClientMiddleware`.
        MissingSchema, InvalidURL, TypeError: of the arguments.
        ConnectionResetError: the client has left; its request was ended at once where the server shows its socket, as
            gunicorn, cheroot, werkzeug and wsgiref do, on Linux.
        What `wsgi.input` raises.
    """
    session = client(environ)
    changes_request, changes_response = _hooks(transform, "request", "response")
    try:
        request = proxied_request(environ, session, url, host)
    except Refused as refused:
        return Refusal(refuse(environ, start_response, refused.status), lambda: drop_body(environ))
    incoming: RequestBody | None = request.body
    change(request, changes_request)
    timeouts = session.timeout if timeout is OWN_TIMEOUT else Timeouts.of(timeout)
    passage = Passage(environ, timeouts, incoming)
    try:
        try:
            response = passage.send(session, request)
        except RequestException as error:
            passage.end()
            return Refusal(answer_error(environ, start_response, error), passage.linger)
        return pass_on(environ, start_response, response, passage.end, changes_response, passage.error, passage.linger)
    except BaseException:
        passage.end()
        raise


# -------------------------------------------------------------------------------------------------------- the request


def proxied_request(environ: dict[str, Any], session: Session, url: str, host: str | None) -> PreparedRequest:
    """The request as it goes on, with nothing of the session's.

    Raises:
        Refused: it cannot go on.
        MissingSchema, InvalidURL: `url` is wrong, whatever the client has sent.
    """
    if session.base_url is not None:
        url = absolute_url(session.base_url, url)
    parse_url(url)
    request = PreparedRequest()
    request._keeps_cookies = False
    request.method = environ["REQUEST_METHOD"]  # as it is: methods are case-sensitive (RFC 9110, section 9.1)
    if request.method.upper() in NOT_FORWARDED:
        raise Refused(HTTPStatus.NOT_IMPLEMENTED)
    try:
        request.prepare_url(request_url(environ, url), None)
        body = incoming_body(environ)
    except LengthRequired:
        raise Refused(HTTPStatus.LENGTH_REQUIRED) from None
    except UnknownCoding:
        raise Refused(HTTPStatus.NOT_IMPLEMENTED) from None
    except (InvalidURL, ValueError):
        raise Refused(HTTPStatus.BAD_REQUEST) from None
    request.headers = request_fields(environ)
    _count_down(request)
    if host is not None:
        request.headers["Host"] = host
    if SEND_TRAILERS in environ:
        request.headers["TE"] = "trailers"
        request.headers["Connection"] = "TE"
    if body is not None:
        request.body = body
        if body.length is None:
            request.headers["Transfer-Encoding"] = "chunked"
        else:
            request.headers["Content-Length"] = str(body.length)
    elif environ.get("CONTENT_LENGTH"):
        request.headers["Content-Length"] = "0"
    return request


def change(request: PreparedRequest, hook: Callable[[PreparedRequest], Any] | None) -> None:
    """Let a hook change it. A body that it has set is announced anew, unless the hook has done that too."""
    if hook is None:
        return
    framing = [request.headers.get(name) for name in FRAMING]
    body = request.body
    hook(request)
    if request.body is not body and [request.headers.get(name) for name in FRAMING] == framing:
        for name in FRAMING:
            request.headers.pop(name, None)
        request.prepare_content_length(request.body)


def _count_down(request: PreparedRequest) -> None:
    """RFC 9110, section 7.6.2. Raises Refused if this is the last hop, which answers itself."""
    left = request.headers.get("Max-Forwards", "")
    if request.method == "OPTIONS" and left.isdecimal() and len(left) < MOST_DIGITS:
        if int(left) == 0:
            raise Refused(HTTPStatus.OK)
        request.headers["Max-Forwards"] = str(int(left) - 1)


def _hooks(transform: Any, *names: str) -> list[Callable[[Any], Any] | None]:
    """Its methods of these names, None for each that it has not. Raises TypeError if it has none of them."""
    if transform is None:
        return [None for _ in names]
    found = [getattr(transform, name, None) for name in names]
    if not any(found):
        raise TypeError(f"transform= is an object with a method {' or '.join(names)}, not {transform!r}")
    return found


class PassageDeadline(Deadline):
    """Of a request that another thread may end."""

    __slots__ = ("cancellation",)

    def __init__(self, timeouts: Timeouts, cancellation: Cancellation) -> None:
        super().__init__(timeouts)
        self.cancellation: Cancellation | None = cancellation


class Passage:
    """One request that is passed on, as long as it may have to be ended. The thread that handles it, but for `_leave`.

    Args:
        timeouts: of the request.
        incoming: its body, as the client sends it.
    """

    def __init__(self, environ: dict[str, Any], timeouts: Timeouts, incoming: RequestBody | None) -> None:
        self._environ = environ
        self._incoming = incoming
        self._cancellation = Cancellation()
        self._deadline = PassageDeadline(timeouts, self._cancellation)
        self._has_left = False  # set by any thread, never back
        self.end = watched(environ, self._leave)

    def _leave(self) -> None:
        """A thread of its own. The client has left."""
        self._has_left = True
        self._cancellation.cancel(Cancelled("the client for whom it was done has left"))

    def send(self, session: Session, request: PreparedRequest) -> Response:
        """The response once its head is here. Raises RequestException; ConnectionResetError if it is the client."""
        settings = session.merge_environment_settings(request.url, None, True, None, None)
        try:
            return session.send(request, timeout=self._deadline, allow_redirects=False, **settings)
        except RetryError as error:
            if error.response is None:
                raise
            return error.response  # an answer like any other
        except RequestException as error:
            raise self.error(error) from error

    def error(self, error: RequestException) -> Exception:
        """What is to be raised for `error`."""
        return gone("before it had its answer") if self._has_left else error

    def linger(self) -> None:
        """The answer is complete: see to it that the client can read it, though it may still be sending. Also one that
        waited to be told to go on (RFC 9110, section 10.1.1): most servers tell it before anybody asks them."""
        if self._incoming is not None and not self._has_left:
            self._incoming.drop_rest()

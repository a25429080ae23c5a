"""A stream of Server-Sent Events passed on by a WSGI server, event by event.

Knows how such a stream is asked for and begun. When it connects again is `EventStream`'s to know, what becomes of each
event on its way `relay`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from ..exceptions import HTTPError, RequestException, RetryError
from ..models import PreparedRequest
from ..sessions import Session
from ..settings import MAX_EVENT_SIZE, OWN_TIMEOUT, Timeouts, TimeoutTypes
from ..sse import ServerSentEvent, relay
from ..sse.relaying import KEEP_ALIVE, Relay
from ..sse.relaying import Transform as FunctionOfEvents
from ..sse.stream import EventStream
from ..subscribing import SAFE, StreamRequest
from .departures import watched
from .incoming import RequestBody, drop_body, gone
from .middleware import StartResponse, client
from .passing import Refusal, pass_on
from .proxying import Refused, RequestTransform, change, proxied_request
from .refusals import answer_error, refuse

__all__ = ["EventTransform", "sse_proxy"]

# Of the client's, what does not fit: events are read and written anew, and there is no event that has not changed.
NOT_FORWARDED = ("Accept-Encoding", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "Range")

# For whoever stands between, as nginx: an event is not to wait for others.
HEAD = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]


class EventTransform(Protocol):
    """What may change the events that are passed on. Called by the thread that handles the request."""

    def event(self, event: ServerSentEvent) -> ServerSentEvent | Iterable[ServerSentEvent] | None:
        """What is passed on in its place: one, several or none."""


def sse_proxy(
    environ: dict[str, Any],
    start_response: StartResponse,
    url: str,
    *,
    host: str | None = None,
    timeout: TimeoutTypes = OWN_TIMEOUT,
    transform: FunctionOfEvents | EventTransform | RequestTransform | None = None,
    keep_alive: float | None = KEEP_ALIVE,
    max_event_size: int = MAX_EVENT_SIZE,
) -> Iterable[bytes]:
    """Pass the events of `url` on to the client, as they come, by the session that `client(environ)` finds.

    The request goes on as by `proxy`, from the client's Last-Event-ID. If the upstream then ends or breaks, it is asked
    again for what comes behind the last event, and the client does not notice; but not for a method that is not safe
    (RFC 9110, section 9.2.1), as POST. A client that takes nothing makes the upstream wait, and one that leaves ends
    it. A server that is asked to stop ends the stream between two events, if it says so: see `ClientMiddleware`.

    An upstream that does not begin with an event stream is passed on as it is, whether it says 204, for the client not
    to come again, or what is wrong; what is none though it says 200 is answered with 502, and errors as by `proxy`.

    Args:
        url, host, timeout: as for `proxy`; `Timeouts.read` is the longest silence before it is asked again.
        transform: a function of an event that returns what is passed on in its place: one, several or None; or an
            object with it as its method `event`, or with a method `request`, called with the `PreparedRequest`, or
            both.
        keep_alive: seconds of silence after which the client gets a comment; None for none. Where the server does not
            show its socket, the second of them finds out that the client has left.
        max_event_size: bytes that are held of one event.

    Raises:
        As `proxy`. The body raises what is wrong with the upstream and cannot be mended.
    """
    session = client(environ)
    changes_request, changes_event = _hooks(transform)
    try:
        request = proxied_request(environ, session, url, host)
    except Refused as refused:
        return Refusal(refuse(environ, start_response, refused.status), lambda: drop_body(environ))
    for name in NOT_FORWARDED:
        request.headers.pop(name, None)
    request.headers["Accept"] = "text/event-stream"
    request.headers["Cache-Control"] = "no-cache"
    last_event_id = request.headers.pop("Last-Event-ID", "")
    incoming: RequestBody | None = request.body
    change(request, changes_request)
    stream = EventStream(
        PassedStream(session, request),
        session.timeout if timeout is OWN_TIMEOUT else Timeouts.of(timeout),
        last_event_id=last_event_id.encode("latin-1").decode(errors="replace"),
        max_reconnects=None,
        event_timeout=None,
        max_event_size=max_event_size,
    )
    session._calls.follow(stream)
    body = EventBody(environ, stream, relay(stream, changes_event, keep_alive=keep_alive), incoming)
    try:
        return body.begun(environ, start_response)
    except BaseException:
        body.end()
        raise


def _hooks(transform: Any) -> tuple[Any, Any]:
    """What changes the request, and what an event."""
    request, event = getattr(transform, "request", None), getattr(transform, "event", None)
    if transform is None or request or event:
        return request, event
    if callable(transform):
        return None, transform
    raise TypeError(f"transform= is a function of an event, or an object with a method event or request: {transform!r}")


class PassedStream(StreamRequest):
    """The `Opener` of a stream for a client of the server: with nothing of the session's."""

    def __init__(self, session: Session, request: PreparedRequest) -> None:
        self._session = session
        self._settings = {"allow_redirects": False, "proxies": None, "verify": None, "cert": None}
        self.request = request
        self._adapter = session._adapter_for(request)
        self.is_safe = request.method in SAFE and request.content is None
        self._was_sent = False

    def _again(self) -> PreparedRequest:
        return self.request.copy()


class EventBody:
    """The body of the response, for a server to send. One thread iterates; any may close."""

    def __init__(
        self, environ: dict[str, Any], stream: EventStream, events: Relay, incoming: RequestBody | None
    ) -> None:
        self._stream = stream
        self._events = events
        self._incoming = incoming
        self._has_left = False  # set by any thread, never back
        self._end = watched(environ, self._leave)

    def _leave(self) -> None:
        """A thread of its own. The client has left."""
        self._has_left = True
        self._stream.close()

    def begun(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Connect, and give the server the head; what is returned is the body. Raises ConnectionResetError."""
        try:
            answer = self._stream.open()
        except (HTTPError, RetryError) as error:
            if error.response is None:
                return self._failed(environ, start_response, error)
            answer = error.response
        except RequestException as error:
            if self._has_left:
                raise self._error(error) from error
            return self._failed(environ, start_response, error)
        if answer.status_code != 200:
            return pass_on(environ, start_response, answer, self._end, None, self._error, self._linger)
        start_response("200 OK", list(HEAD))
        if environ["REQUEST_METHOD"] == "HEAD":  # of which the upstream would be asked for more, again and again
            self.end()
            return Refusal([], self._linger)
        return self

    def _error(self, error: RequestException) -> Exception:
        """What is to be raised for `error`."""
        return gone("before it had its answer") if self._has_left else error

    def _failed(
        self, environ: dict[str, Any], start_response: StartResponse, error: RequestException
    ) -> Iterable[bytes]:
        self.end()
        return Refusal(answer_error(environ, start_response, error), self._linger)

    def _linger(self) -> None:
        """The answer is complete: as of a `Passage`. Once: afterwards the socket is the server's."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None and not self._has_left:
            incoming.drop_rest()

    def __iter__(self) -> EventBody:
        return self

    def __next__(self) -> bytes:
        return next(self._events)

    def end(self) -> None:
        """Any thread, any number of times. The client has left, or the stream has ended."""
        self._end()
        self._events.close()

    def close(self) -> None:
        """Any thread, any number of times. As `end`; the server has sent it."""
        self.end()
        self._linger()

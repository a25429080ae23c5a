"""A session's call that follows a stream of events: `sse`.

Knows how its request is prepared, the first time and again. When it is sent again is `EventStream`'s to know.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from .adapters import HTTPAdapter
from .calls import Calls
from .engine.deadline import Deadline
from .exceptions import InvalidHeader, UnrewindableBodyError
from .merging import HeaderTypes
from .models import PreparedRequest, Request
from .responses import Response
from .routes import CertTypes, ProxyTypes, VerifyTypes
from .settings import MAX_EVENT_SIZE, OWN_TIMEOUT, Timeouts, TimeoutTypes
from .structures import CaseInsensitiveDict
from .urls import masked

if TYPE_CHECKING:
    from .engine.pause import Pause
    from .sse.stream import EventStream

__all__ = ["SessionEventsMixin"]

# RFC 9110, section 9.2.1.
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

# What describes a body, which is not made anew.
BODY_HEADERS = ("Content-Type", "Content-Length", "Transfer-Encoding")

# Half a surrogate pair cannot be encoded, and the others break a header (RFC 9110, section 5.5). A stream that is read
# may name such an id too: then its next request is refused.
UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


class SessionEventsMixin:
    """What a `Session` follows events with."""

    timeout: Timeouts
    _calls: Calls

    if TYPE_CHECKING:

        def prepare_request(self, request: Request) -> PreparedRequest: ...

        def _prepare_head(self, request: Request) -> PreparedRequest: ...

        def _prepare_rest(self, prepared: PreparedRequest, request: Request) -> PreparedRequest: ...

        def merge_environment_settings(
            self, url: Any, proxies: ProxyTypes, stream: bool | None, verify: VerifyTypes, cert: CertTypes
        ) -> dict[str, Any]: ...

        def send(self, request: PreparedRequest, **kwargs: Any) -> Response: ...

        def _adapter_for(self, request: PreparedRequest) -> Any: ...

    def sse(
        self,
        url: Any,
        *,
        method: str = "GET",
        last_event_id: str | None = None,
        max_reconnects: int | None = None,
        event_timeout: float | None = None,
        timeout: TimeoutTypes = OWN_TIMEOUT,
        max_event_size: int = MAX_EVENT_SIZE,
        allow_redirects: bool = True,
        proxies: ProxyTypes = None,
        verify: VerifyTypes = None,
        cert: CertTypes = None,
        headers: HeaderTypes = None,
        **request_args: Any,
    ) -> EventStream:
        """Follow the Server-Sent Events of a URL (WHATWG HTML, section 9.2), over as many connections as it takes.

        A connection that ends, breaks, or is silent for `Timeouts.read` is made again, after the time that the server
        asks for by `retry` (3 s if it does not), which doubles up to a minute while every try fails. Each request has
        the id of the last event in Last-Event-ID, so that a server which remembers goes on from there. An answer of 204
        is the end; any other than a 200 with an event stream, an error. The request is prepared anew each time, cookies
        and authentication included; its body is sent again.

        Args:
            last_event_id: to begin with.
            max_reconnects: how often in a row it connects again without an event in between; None is no limit, but
                for a `method` that is not safe (RFC 9110, section 9.2.1), as POST, which is sent again only if this
                says so, whatever goes wrong.
            event_timeout: seconds to wait for an event; comments, by which servers keep connections alive, do not
                count. None is no limit.
            timeout: as for `Session`. `Timeouts.total` is for the whole stream.
            max_event_size: bytes that are held of one event. The session's `max_body` does not hold for a stream, which
                has no end.
            request_args: `params data files json cookies auth hooks`, as for `request`.

        Returns:
            A context manager and iterator: see `EventStream`. It connects when it is iterated.

        Raises:
            InvalidURL, InvalidHeader and their like, before anything is sent: as `request`.
        """
        from .sse.stream import EventStream  # late: few programs need it

        most: object = max_reconnects
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 0):
            raise ValueError(f"max_reconnects is a number from 0 or None, not {most!r}")
        if event_timeout is not None and (isinstance(event_timeout, bool) or not 0 < event_timeout < math.inf):
            raise ValueError(f"event_timeout is a number of seconds over 0 or None, not {event_timeout!r}")
        if unknown := sorted(request_args.keys() - {"params", "data", "files", "json", "cookies", "auth", "hooks"}):
            raise TypeError(f"sse() has no argument {', '.join(unknown)}")
        fields: CaseInsensitiveDict[Any] = CaseInsensitiveDict(
            # What the Fetch standard makes of its cache mode "no-store", which the standard asks for.
            {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        )
        fields.update(headers or {})
        request = Request(method, url, fields, **request_args)
        settings = {"allow_redirects": allow_redirects, "proxies": proxies, "verify": verify, "cert": cert}
        opener = StreamRequest(self, request, settings)
        if last_event_id is not None:
            _check_id(last_event_id, opener)
        stream = EventStream(
            opener,
            self.timeout if timeout is OWN_TIMEOUT else Timeouts.of(timeout),
            last_event_id=last_event_id or "",
            max_reconnects=max_reconnects,
            event_timeout=event_timeout,
            max_event_size=max_event_size,
        )
        self._calls.follow(stream)
        return stream


class StreamRequest:
    """The `Opener` of one stream: its request, sent as often as need be. One thread, but for `is_closed`."""

    def __init__(self, session: SessionEventsMixin, request: Request, settings: dict[str, Any]) -> None:
        # Never changes.
        self._session = session
        self._request = request
        self._settings = settings
        self.request = session.prepare_request(request)
        self._adapter = session._adapter_for(self.request)
        self.is_safe = self.request.method in SAFE
        self._was_sent = False

    @property
    def where(self) -> str:
        """ "host:port", for messages."""
        target = self.request.known_target
        return masked(self.request.url) if target is None else target.authority

    @property
    def is_closed(self) -> bool:
        """Any thread. Whether the session was closed, as far as its adapter can tell."""
        return bool(getattr(self._adapter, "closed", False))

    def open(self, last_event_id: str, deadline: Deadline) -> Response:
        """See `Opener`. Raises what `Session.request` raises."""
        request = self._again() if self._was_sent else self.request.copy()
        self._was_sent = True
        request._is_endless = True
        # In UTF-8, and text of a header is Latin-1; without the white space around it, as the Fetch standard has it.
        if value := last_event_id.encode().decode("latin-1").strip(" \t"):
            request.headers["Last-Event-ID"] = value
        given = dict(self._settings)
        allow_redirects = given.pop("allow_redirects")
        settings = self._session.merge_environment_settings(request.url, stream=True, **given)
        return self._session.send(request, timeout=deadline, allow_redirects=allow_redirects, **settings)

    def _again(self) -> PreparedRequest:
        """As the first one, with cookies and authentication as they are now. Raises UnrewindableBodyError."""
        request = self._session._prepare_head(self._request)
        if self.request.content is not None:
            for name in BODY_HEADERS:
                if name in self.request.headers:
                    request.headers[name] = self.request.headers[name]
            request._body, request._content = self.request._body, self.request._content
            try:
                request.rewind_body()
            except UnrewindableBodyError as error:
                why = f"{self.where}: connecting again, {error}; give bytes or a file, or max_reconnects=0"
                raise UnrewindableBodyError(why, request=request) from error
        return self._session._prepare_rest(request, self._request)

    def attend(self, pause: Pause) -> None:
        """See `Opener`. An adapter that was written for `requests` cannot tell."""
        if isinstance(self._adapter, HTTPAdapter):
            self._adapter.paused.add(pause)

    def leave(self, pause: Pause) -> None:
        """See `Opener`."""
        if isinstance(self._adapter, HTTPAdapter):
            self._adapter.leave(pause)


def _check_id(last_event_id: object, opener: StreamRequest) -> None:
    """Raises TypeError, InvalidHeader."""
    if not isinstance(last_event_id, str):
        raise TypeError(f"last_event_id is a str or None, not {last_event_id!r}")
    if UNSENDABLE.search(last_event_id):
        raise InvalidHeader(
            f"{opener.where}: last_event_id has a character in it that no header may have; nothing was sent",
            request=opener.request,
        )

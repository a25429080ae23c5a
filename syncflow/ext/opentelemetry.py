"""Spans and metrics of requests for OpenTelemetry, and its `traceparent` in their headers: an observer for `events=`.

Knows the semantic conventions for HTTP clients, version 1.44.0 (stable; `http.client.active_requests`,
`http.client.open_connections` and the sizes of bodies are still in development there). Knows nothing of how spans are
exported: it needs the API of OpenTelemetry only, and without an SDK does next to nothing. Patches nothing.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, propagate, trace

    # Private names, but the only ones: `opentelemetry.instrumentation.utils` takes them from there as well.
    from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider
except ImportError as missing:
    raise ImportError(
        "syncflow.ext.opentelemetry needs the API of OpenTelemetry: pip install 'syncflow[opentelemetry]'"
    ) from missing

from ..redaction import redacted_url
from ..version import __version__

if TYPE_CHECKING:
    from ..models import PreparedRequest
    from ..sessions import Session
    from ..watching import (
        BackpressureEnded,
        ConnectionOpened,
        ConnectionReused,
        Record,
        RequestFailed,
        RequestStarted,
        ResponseEnded,
        ResponseStarted,
    )

__all__ = ["OpenTelemetry"]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

# Those of RFC 9110 and RFC 5789, and QUERY; others are "_OTHER", unless the environment names what is known.
KNOWN_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
KNOWN_METHODS_VARIABLE = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"

# What the conventions recommend, in seconds.
DURATION_BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
# From a small answer of JSON to a large file, in bytes: the SDK's own end at 10,000. The conventions name none.
SIZE_BOUNDARIES = (0, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 1 << 30)

Attributes = dict[str, str | int]


class OpenTelemetry:
    """`Session(events=OpenTelemetry())`; any number of sessions may have the same one. Any thread.

    Each try of a request has a span of its own, a child of what is current in the thread that makes the request. It
    ends with the body of the answer, or when the program lets that go; of an answer that is dropped unread it is
    exported later (see `syncflow.watching`), with the moment of the drop as its end. So that of a stream of events
    lasts as long as the stream. Answers from 400 on and exceptions set its status to ERROR; one that the program closes
    before its end does not.

    The propagator's headers (`traceparent`, `tracestate`, `baggage`) are set in each try, in place of what was there,
    be it of an earlier try or the program's own: the server's span is to be a child of this one. Where there is nothing
    to propagate, the program's own stay.

    User, password and the values of secret parameters are taken out of URLs and messages of exceptions; header fields
    are not recorded at all. Nothing is done where OpenTelemetry suppresses instrumentation, as in its exporters.

    Args:
        tracer_provider: None is the global one.
        meter_provider: likewise.
        propagator: likewise, asked for at each request.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagator: TextMapPropagator | None = None,
    ) -> None:
        # Never changes.
        self._tracer = trace.get_tracer("syncflow", __version__, tracer_provider, SCHEMA_URL)
        self._propagator = propagator
        named = os.environ.get(KNOWN_METHODS_VARIABLE)
        self._known_methods = KNOWN_METHODS if named is None else frozenset(map(str.strip, named.split(",")))
        meter = metrics.get_meter("syncflow", __version__, meter_provider, SCHEMA_URL)
        self._duration = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDARIES,
        )
        self._request_size = meter.create_histogram(
            "http.client.request.body.size",
            "By",
            "Size of HTTP client request bodies.",
            explicit_bucket_boundaries_advisory=SIZE_BOUNDARIES,
        )
        self._response_size = meter.create_histogram(
            "http.client.response.body.size",
            "By",
            "Size of HTTP client response bodies.",
            explicit_bucket_boundaries_advisory=SIZE_BOUNDARIES,
        )
        self._active = meter.create_up_down_counter(
            "http.client.active_requests", "{request}", "Number of active HTTP requests."
        )
        self._connections = Connections(meter)
        # Tries under way, by `Record.id`: put in when one begins, taken out when it ends; each step is one of a
        # dictionary's own, which are atomic.
        self._tries: dict[int, Try] = {}

    def observe_connections(self, session: Session) -> None:
        """Have `http.client.open_connections` tell of a session's connections, as long as there is that session. It is
        asked by whoever collects metrics, on its thread."""
        self._connections.add(session)

    # ---------------------------------------------------------------- what the session tells

    def request_started(self, record: RequestStarted) -> None:
        """The span begins, and goes into the headers."""
        if contexts.get_value(_SUPPRESS_INSTRUMENTATION_KEY) or contexts.get_value(_SUPPRESS_HTTP_INSTRUMENTATION_KEY):
            return
        request = record.request
        method = request.method if request.method in self._known_methods else "_OTHER"
        shared: Attributes = {"http.request.method": method, **_server(request)}
        own: Attributes = {"url.full": redacted_url(request.url)}
        if method == "_OTHER":
            own["http.request.method_original"] = request.method
        if record.resends:
            own["http.request.resend_count"] = record.resends
        begun = time.time_ns()
        name = "HTTP" if method == "_OTHER" else method
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes={**shared, **own}, start_time=begun)
        context = trace.set_span_in_context(span)
        self._tries[record.id] = Try(span, context, begun, shared)  # first, so that it ends whatever fails below
        self._active.add(1, shared, context)
        self._inject(request, context)

    def connection_opened(self, record: ConnectionOpened) -> None:
        """Says to whom."""
        self._connected(record, record.peer)

    def connection_reused(self, record: ConnectionReused) -> None:
        """Says to whom."""
        self._connected(record, record.peer)

    def response_started(self, record: ResponseStarted) -> None:
        """Says which status; one from 400 on is an error to a client."""
        this = self._tries.get(record.id)
        if this is not None:
            this.found["http.response.status_code"] = record.status
            if record.status >= 400:
                this.found["error.type"] = str(record.status)

    def backpressure_ended(self, record: BackpressureEnded) -> None:
        """Adds up: there may be thousands of these waits in one request."""
        this = self._tries.get(record.id)
        if this is not None:
            this.waited += record.waited

    def response_ended(self, record: ResponseEnded) -> None:
        """The span ends, and is counted."""
        this = self._tries.pop(record.id, None)
        if this is None:
            return
        if "error.type" in this.found:
            this.span.set_status(StatusCode.ERROR)  # without a description, which the status code is
        headers = record.request.headers
        attributes = self._end(this, record.elapsed)
        if "Content-Length" in headers or "Transfer-Encoding" in headers:
            self._request_size.record(record.bytes_sent, attributes, this.context)
        self._response_size.record(record.bytes_received, attributes, this.context)

    def request_failed(self, record: RequestFailed) -> None:
        """The span ends with an error, and is counted."""
        this = self._tries.pop(record.id, None)
        if this is None:
            return
        error = record.error
        this.found["error.type"] = _kind(error)
        if this.span.is_recording():
            at = this.ends_after(record.elapsed)
            this.span.record_exception(error, _without_secrets(error), at)
            this.span.set_status(StatusCode.ERROR, f"{_kind(error)}: {redacted_url(str(error))}")
        self._end(this, record.elapsed)

    # ---------------------------------------------------------------- steps

    def _inject(self, request: PreparedRequest, context: contexts.Context) -> None:
        fields: dict[str, str] = {}
        (self._propagator or propagate.get_global_textmap()).inject(fields, context)
        if "traceparent" in fields and "tracestate" not in fields:
            request.headers.pop("tracestate", None)  # it belonged to another parent
        request.headers.update(fields)

    def _connected(self, record: Record, peer: tuple[str, int]) -> None:
        this = self._tries.get(record.id)
        if this is None:
            return
        this.found["network.protocol.version"] = "1.1"
        if this.span.is_recording():
            address, port = peer
            this.span.set_attribute("network.peer.address", address)
            if port:  # a Unix socket has none
                this.span.set_attribute("network.peer.port", port)

    def _end(self, this: Try, elapsed: float) -> Attributes:
        """Once. The attributes of its metrics."""
        attributes = {**this.shared, **this.found}
        span = this.span
        if span.is_recording():
            span.set_attributes(this.found)
            if this.waited:
                span.set_attribute("syncflow.backpressure.waited", this.waited)
        span.end(this.ends_after(elapsed))
        self._active.add(-1, this.shared, this.context)
        self._duration.record(elapsed, attributes, this.context)
        return attributes


class Try:
    """One try that is under way. The requesting thread's, or whoever's that reads the answer; never two at once.

    Args:
        span: of it.
        context: with the span, for the examples of metrics.
        begun: nanoseconds since the epoch.
        shared: attributes that span and metrics have from the beginning.
    """

    __slots__ = ("begun", "context", "found", "shared", "span", "waited")

    def __init__(self, span: Span, context: contexts.Context, begun: int, shared: Attributes) -> None:
        self.span = span
        self.context = context
        self.begun = begun
        self.shared = shared
        self.found: Attributes = {}  # attributes that both have at the end
        self.waited = 0.0  # seconds, for a server that takes less than is written

    def ends_after(self, elapsed: float) -> int:
        """The moment so many seconds after it began; by the monotonic clock, and right also when it is told late."""
        return self.begun + int(elapsed * 1e9)


class Connections:
    """`http.client.open_connections`, over `Session.stats()` of any number of sessions.

    Args:
        meter: whose instrument it is.
    """

    def __init__(self, meter: metrics.Meter) -> None:
        self._adding = threading.Lock()  # held to replace `_sessions`; nothing else is locked with it held
        self._sessions: tuple[weakref.ref[Session], ...] = ()
        meter.create_observable_up_down_counter(
            "http.client.open_connections",
            [self._observe],
            "{connection}",
            "Number of outbound HTTP connections that are currently active or idle on the client.",
        )

    def add(self, session: Session) -> None:
        """Any thread."""
        with self._adding:
            known = [reference for reference in self._sessions if reference() not in (None, session)]
            self._sessions = (*known, weakref.ref(session))

    def _observe(self, options: CallbackOptions) -> Iterable[Observation]:
        """Whichever thread collects."""
        counts: Counter[tuple[str, str]] = Counter()
        for reference in self._sessions:
            session = reference()
            if session is not None:
                for name, origin in session.stats().by_origin.items():
                    counts[name, "active"] += origin.in_use
                    counts[name, "idle"] += origin.idle
        return [
            Observation(count, {"http.connection.state": state, **_server_of_origin(name)})
            for (name, state), count in counts.items()
        ]


def _server(request: PreparedRequest) -> Attributes:
    """Of the URL, not of the proxy that it may be reached by."""
    target = request.target
    if target.socket_path is not None:
        return {"server.address": target.socket_path}
    return {"server.address": target.host, "server.port": target.port}


def _server_of_origin(name: str) -> Attributes:
    """As `_server`, from the name that an origin has in `PoolStats`."""
    parts = urlsplit(name)
    if parts.scheme == "http+unix":
        return {"server.address": unquote(parts.netloc)}
    return {"server.address": parts.hostname or "", "server.port": parts.port or 0}


def _kind(error: BaseException) -> str:
    """As the SDK names exceptions."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _without_secrets(error: BaseException) -> Mapping[str, Any]:
    """What an exception is recorded with. Line by line: what follows a secret to the end of its line goes too."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return {
        "exception.message": redacted_url(str(error)),
        "exception.stacktrace": "\n".join(map(redacted_url, lines)),
    }

"""syncflow.ext.opentelemetry with OpenTelemetry's own SDK: spans by the conventions, the context that servers get."""

from __future__ import annotations

import gc
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import syncflow
from syncflow import Cancelled, ChunkedEncodingError, ConnectionError, ReadTimeout, Retry, Session, Timeouts
from syncflow.ext.opentelemetry import KNOWN_METHODS_VARIABLE, OpenTelemetry
from syncflow.testing import (
    AppServer,
    HTTPProxy,
    Peer,
    Receiver,
    Request,
    Response,
    ScriptedServer,
    closes_idle,
    eventually,
    never_answers,
    refused_port,
    reply_head,
    truncated,
)

from .telemetry import Telemetry, identity, parent_of, telemetry

NewSession = Callable[..., Session]
# Of which no trace may be anywhere.
SECRET = "hunter2"


@pytest.fixture
def told() -> Iterator[Telemetry]:
    with telemetry() as made:
        yield made


@pytest.fixture
def session(new_session: NewSession, told: Telemetry) -> Session:
    return new_session(events=told.observer)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


# -------------------------------------------------------------------------------------------- what a span says


def test_a_get(session: Session, told: Telemetry) -> None:
    with AppServer() as server:
        session.get(f"{server.url}/path?a=1")
    span = told.span
    assert (span.name, span.kind, span.status.status_code) == ("GET", SpanKind.CLIENT, StatusCode.UNSET)
    assert attributes(span) == {
        "http.request.method": "GET",
        "url.full": f"{server.url}/path?a=1",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
    }
    assert span.events == ()
    assert span.parent is None
    assert span.instrumentation_scope.name == "syncflow"
    assert span.instrumentation_scope.version == syncflow.__version__
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    assert 0 < seconds(span) < 30


def test_over_tls(session: Session, told: Telemetry, server_tls: ssl.SSLContext) -> None:
    with AppServer(ssl_context=server_tls) as server:
        session.get(f"https://localhost:{server.port}/")
    found = attributes(told.span)
    assert (found["server.address"], found["server.port"]) == ("localhost", server.port)
    assert found["url.full"] == f"https://localhost:{server.port}/"


def test_through_a_proxy_the_peer_is_the_proxy(session: Session, told: Telemetry) -> None:
    with AppServer() as server, HTTPProxy() as proxy:
        session.get(server.url, proxies={"http": proxy.url})
    found = attributes(told.span)
    assert (found["server.port"], found["network.peer.port"]) == (server.port, proxy.port)


def test_a_unix_socket_has_no_port(session: Session, told: Telemetry, tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    with pytest.raises(ConnectionError):
        session.get(f"http+unix://{quote(path, safe='')}/a")
    found = attributes(told.span)
    assert found["server.address"] == path
    assert "server.port" not in found


def test_bodies_by_every_way(session: Session, told: Telemetry) -> None:
    with Receiver() as server:
        session.post(server.url, data=b"x" * 100_000)
        session.put(server.url, data=iter([b"a", b"b"]))
        with session.upload("PATCH", server.url) as upload:
            upload.write(b"pushed")
        assert upload.response.content
    assert [span.name for span in told.spans] == ["POST", "PUT", "PATCH"]
    assert {span.attributes["http.response.status_code"] for span in told.spans if span.attributes} == {200}
    parents = [identity(span) for span in told.spans]
    assert len(set(parents)) == 3


def test_an_unknown_method_is_no_name(session: Session, told: Telemetry) -> None:
    with AppServer() as server:
        session.request("PURGE", server.url)
    assert told.span.name == "HTTP"
    found = attributes(told.span)
    assert (found["http.request.method"], found["http.request.method_original"]) == ("_OTHER", "PURGE")


def test_which_methods_are_known_can_be_said(new_session: NewSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KNOWN_METHODS_VARIABLE, "PURGE, GET")
    with telemetry() as told, AppServer() as server:
        session = new_session(events=told.observer)
        session.request("PURGE", server.url)
        session.put(server.url)
        assert [span.name for span in told.spans] == ["PURGE", "HTTP"]


@pytest.mark.parametrize("status", [404, 503])
def test_from_400_on_it_is_an_error(session: Session, told: Telemetry, status: int) -> None:
    with AppServer(lambda request: Response(status)) as server:
        session.get(server.url)
    span = told.span
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert attributes(span)["error.type"] == str(status)
    assert span.events == ()


def test_a_sampler_sees_what_it_decides_by(new_session: NewSession) -> None:
    seen: list[dict[str, Any]] = []

    class Looking(type(ALWAYS_ON)):  # type: ignore[misc]  # its class is the SDK's own
        def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
            seen.append(dict(kwargs.get("attributes") or args[4]))
            return super().should_sample(*args, **kwargs)

    with telemetry(Looking(ALWAYS_ON._decision)) as told, AppServer() as server:
        new_session(events=told.observer).get(server.url)
    assert set(seen[0]) == {"http.request.method", "server.address", "server.port", "url.full"}


# -------------------------------------------------------------------------------------------- what goes wrong


def error_of(span: ReadableSpan) -> tuple[str, dict[str, Any]]:
    assert span.status.status_code is StatusCode.ERROR
    (event,) = span.events
    assert event.name == "exception"
    recorded = dict(event.attributes or {})
    kind = attributes(span)["error.type"]
    assert recorded["exception.type"] == kind
    assert str(span.status.description).startswith(f"{kind}: ")
    return kind, recorded


def test_refused(session: Session, told: Telemetry) -> None:
    with refused_port() as refused, pytest.raises(ConnectionError):
        session.get(refused.url)
    kind, recorded = error_of(told.span)
    assert kind == "syncflow.exceptions.ConnectionError"
    assert f"127.0.0.1:{refused.port}" in recorded["exception.message"]
    assert "Traceback" in recorded["exception.stacktrace"]
    found = attributes(told.span)
    assert not found.keys() & {"http.response.status_code", "network.peer.address", "network.protocol.version"}


def test_too_slow(session: Session, told: Telemetry) -> None:
    with never_answers() as server, pytest.raises(ReadTimeout):
        session.get(server.url, timeout=Timeouts(read=0.05))
    kind, _ = error_of(told.span)
    assert kind == "syncflow.exceptions.ReadTimeout"
    assert attributes(told.span)["network.peer.port"] == server.port
    assert seconds(told.span) >= 0.05


def test_a_body_that_is_cut(session: Session, told: Telemetry) -> None:
    with truncated() as server, pytest.raises(ChunkedEncodingError):
        session.get(server.url)
    kind, _ = error_of(told.span)
    assert kind == "syncflow.exceptions.ChunkedEncodingError"
    assert attributes(told.span)["http.response.status_code"] == 200


def test_what_the_programs_own_body_raises(session: Session, told: Telemetry) -> None:
    def body() -> Iterator[bytes]:
        yield b"a"
        raise ValueError("mine")

    with Receiver() as server, pytest.raises(ValueError, match="mine"):
        session.put(server.url, data=body())
    assert error_of(told.span)[0] == "ValueError"


def test_called_off_by_another_thread(session: Session, told: Telemetry) -> None:
    with never_answers() as server:
        upload = session.upload("PUT", server.url)
        thread = threading.Thread(target=upload.abort)
        thread.start()
        thread.join(10)
        with pytest.raises(Cancelled):
            upload.finish()
    assert error_of(told.span)[0] == "syncflow.exceptions.Cancelled"


def test_the_end_of_the_session_ends_its_spans(session: Session, told: Telemetry) -> None:
    with Receiver() as server:
        response = session.get(f"{server.url}/bytes/5000000", stream=True)
        session.close()
        assert error_of(told.span)[0] == "syncflow.exceptions.SessionClosed"
        response.close()


# -------------------------------------------------------------------------------------------- when it ends


def test_a_stream_is_over_with_its_last_byte(session: Session, told: Telemetry) -> None:
    with Receiver() as server:
        response = session.get(f"{server.url}/bytes/5000000", stream=True)
        pieces = response.iter_content(100_000)
        next(pieces)
        assert told.spans == []
        assert told.active == 1
        for _ in pieces:
            pass
    assert told.span.status.status_code is StatusCode.UNSET


def test_a_stream_that_is_closed_early_is_no_error(session: Session, told: Telemetry) -> None:
    with Receiver() as server:
        session.get(f"{server.url}/bytes/5000000", stream=True).close()
    span = told.span
    assert (span.status.status_code, span.events) == (StatusCode.UNSET, ())
    assert "error.type" not in attributes(span)


def test_a_stream_that_is_dropped_has_ended_then(session: Session, new_session: NewSession, told: Telemetry) -> None:
    """It is exported with the next record, of whichever session, and has the moment of the drop for its end."""
    other = new_session(events=told.observer)
    with AppServer() as server:
        response = session.get(server.url, stream=True)
        eventually(lambda: session.stats().idle == 1)  # the worker has all of it, and holds the exchange no more
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del response
            gc.collect()
        assert told.spans == []
        assert told.active == 1
        with told.tracer.start_as_current_span("later") as later:
            other.get(f"{server.url}/next")
    dropped, following = told.spans
    assert dropped.end_time is not None
    assert dropped.end_time <= later.start_time <= following.start_time  # type: ignore[attr-defined]  # the SDK's
    assert attributes(dropped)["http.response.status_code"] == 200
    assert dropped.parent is None


def test_a_stream_of_events_is_one_span_for_each_connection(session: Session, told: Telemetry) -> None:
    def app(request: Request) -> Response:
        if request.headers.get("last-event-id") == "2":
            return Response(204)
        number = int(request.headers.get("last-event-id", "0")) + 1
        body = f"retry: 1\nid: {number}\ndata: x\n\n".encode()
        return Response(200, {"Content-Type": "text/event-stream"}, body)

    with AppServer(app) as server, session.sse(server.url) as events:
        assert [event.id for event in events] == ["1", "2"]
    assert [attributes(span)["http.response.status_code"] for span in told.spans] == [200, 200, 204]
    assert {span.status.status_code for span in told.spans} == {StatusCode.UNSET}
    assert [identity(span) for span in told.spans] == [parent_of(request)[:2] for request in server.seen]


def test_a_protocol_that_is_taken_over(session: Session, told: Telemetry) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply_head(101, {"Upgrade": "echo", "Connection": "Upgrade"}))
        peer.send(peer.read_exactly(4))

    with ScriptedServer(script) as server:
        response = session.get(server.url, headers={"Upgrade": "echo", "Connection": "Upgrade"}, stream=True)
        with response.upgraded as stream:
            assert attributes(told.span)["http.response.status_code"] == 101
            stream.write(b"ping")
            assert stream.read(4) == b"ping"


def test_waiting_for_a_slow_server_adds_up(session: Session, told: Telemetry) -> None:
    with Receiver(pause_after=1) as server:
        with session.upload("PUT", server.url) as upload:
            writing = threading.Thread(target=upload.write, args=(bytes(24 << 20),))
            writing.start()
            eventually(lambda: upload.buffered > 0)
            server.resume()
            writing.join(10)
        assert upload.response.content
    assert attributes(told.span)["syncflow.backpressure.waited"] > 0.0


# -------------------------------------------------------------------------------------------- sent again


def test_each_try_has_a_span(new_session: NewSession, told: Telemetry) -> None:
    answers = [Response(503), Response(503), Response(200)]
    retry = Retry(status=3, status_forcelist=[503], backoff_factor=0.0)
    session = new_session(events=told.observer, retries=retry)
    with AppServer(lambda request: answers.pop(0)) as server, told.tracer.start_as_current_span("call") as call:
        session.get(server.url)
    assert [attributes(span).get("http.request.resend_count") for span in told.spans] == [None, 1, 2]
    assert [span.status.status_code for span in told.spans] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert [span.parent for span in told.spans] == [call.get_span_context()] * len(told.spans)
    assert [identity(span) for span in told.spans] == [parent_of(request)[:2] for request in server.seen]


def test_a_connection_that_had_gone_stale(session: Session, told: Telemetry) -> None:
    with closes_idle() as server:
        session.get(server.url)
        eventually(lambda: server.open_connections == 0)
        session.get(server.url)
    first, *_, last = told.spans
    assert [span.status.status_code for span in (first, last)] == [StatusCode.UNSET] * 2
    for span in told.spans[1:-1]:  # only if the request was quicker than the end of the connection
        assert span.status.status_code is StatusCode.ERROR
    assert attributes(last).get("http.request.resend_count", 0) == len(told.spans) - 2


def test_each_redirect_has_a_span(session: Session, told: Telemetry) -> None:
    def app(request: Request) -> Response:
        return Response(302, {"Location": "/b"}) if request.path == "/a" else Response(200)

    with AppServer(app) as server, told.tracer.start_as_current_span("call") as call:
        session.get(f"{server.url}/a")
    first, second = told.spans
    assert attributes(first)["url.full"] == f"{server.url}/a"
    assert attributes(second)["url.full"] == f"{server.url}/b"
    assert [attributes(span).get("http.request.resend_count") for span in (first, second)] == [None, 1]
    assert [span.parent for span in told.spans] == [call.get_span_context()] * len(told.spans)
    assert [identity(span) for span in told.spans] == [parent_of(request)[:2] for request in server.seen]
    assert first.status.status_code is StatusCode.UNSET


# -------------------------------------------------------------------------------------------- parents and children


def test_many_threads_have_each_its_parent(session: Session, told: Telemetry) -> None:
    """And two sessions one observer."""
    with AppServer() as server, Session(events=told.observer, timeout=10) as other:
        starting = threading.Barrier(8, timeout=10)
        own: dict[str, int] = {}

        def work(number: int) -> None:
            starting.wait()
            for turn in range(10):
                name = f"{number}-{turn}"
                with told.tracer.start_as_current_span(name) as span:
                    own[name] = span.get_span_context().span_id
                    (session if turn % 2 else other).get(f"{server.url}/{name}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(own) == 80
        assert len(told.spans) == 80
        sent = {request.path[1:]: parent_of(request) for request in server.seen}
        for span in told.spans:
            name = str(attributes(span)["url.full"]).rpartition("/")[2]
            assert span.parent is not None
            assert span.parent.span_id == own[name]
            assert sent[name] == (*identity(span), 1)


def test_what_is_current_stays_current(session: Session, told: Telemetry) -> None:
    with AppServer() as server, told.tracer.start_as_current_span("call") as call:
        session.get(server.url)
        assert trace.get_current_span() is call


def test_what_is_not_sampled_is_propagated_so(new_session: NewSession) -> None:
    with telemetry(ParentBased(ALWAYS_OFF)) as told, AppServer() as server:
        new_session(events=told.observer).get(server.url)
        assert told.spans == []
        assert told.metric("http.client.request.duration")[0].count == 1
        trace_id, span_id, flags = parent_of(server.seen[0])
    assert trace_id
    assert span_id
    assert flags == 0


def test_the_programs_own_traceparent_gives_way(session: Session, told: Telemetry) -> None:
    mine = {"TraceParent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "mine=1"}
    with AppServer() as server:
        session.get(server.url, headers=mine)
    (seen,) = server.seen
    assert parent_of(seen)[:2] == identity(told.span)
    assert [name for name, _ in seen.fields if name.lower() == "traceparent"] == ["traceparent"]
    assert "tracestate" not in seen.headers, "it belonged to the other one"


def test_without_an_sdk_the_programs_own_stays(new_session: NewSession) -> None:
    mine = f"00-{'a' * 32}-{'b' * 16}-01"
    observer = OpenTelemetry(trace.NoOpTracerProvider())
    with AppServer() as server:
        new_session(events=observer).get(server.url, headers={"traceparent": mine})
    assert server.seen[0].headers["traceparent"] == mine
    assert observer._tries == {}


def test_a_prepared_request_that_is_sent_twice_has_two_parents(session: Session, told: Telemetry) -> None:
    with AppServer() as server:
        prepared = session.prepare_request(syncflow.Request("GET", server.url))
        session.send(prepared)
        session.send(prepared)
    assert [identity(span) for span in told.spans] == [parent_of(request)[:2] for request in server.seen]
    assert all("http.request.resend_count" not in attributes(span) for span in told.spans)


def test_what_the_global_propagator_says(session: Session) -> None:
    with AppServer() as server:
        token = context.attach(baggage.set_baggage("tenant", "blue"))
        try:
            session.get(server.url)
        finally:
            context.detach(token)
    assert server.seen[0].headers["baggage"] == "tenant=blue"


def test_what_another_propagator_says(new_session: NewSession) -> None:
    with telemetry(propagator=TraceContextTextMapPropagator()) as told, AppServer() as server:
        token = context.attach(baggage.set_baggage("tenant", "blue"))
        try:
            new_session(events=told.observer).get(server.url)
        finally:
            context.detach(token)
    assert "baggage" not in server.seen[0].headers
    assert "traceparent" in server.seen[0].headers


# -------------------------------------------------------------------------------------------- suppression


@pytest.mark.parametrize(
    "key", [_SUPPRESS_INSTRUMENTATION_KEY, _SUPPRESS_HTTP_INSTRUMENTATION_KEY], ids=["all", "http"]
)
def test_where_it_is_suppressed_nothing_is_done(session: Session, told: Telemetry, key: str) -> None:
    with AppServer() as server:
        token = context.attach(context.set_value(key, True))
        try:
            session.get(server.url)
        finally:
            context.detach(token)
        assert told.spans == []
        assert told.metric("http.client.request.duration") == []
        assert "traceparent" not in server.seen[0].headers
        session.get(server.url)
    assert len(told.spans) == 1


def test_an_exporter_that_sends_by_a_watched_session_ends(new_session: NewSession) -> None:
    class Sending(SpanExporter):
        """As an OTLP exporter: a request for each batch of spans."""

        def __init__(self, url: str) -> None:
            self.url = url
            self.session: Session | None = None

        def export(self, spans: Any) -> SpanExportResult:
            assert self.session is not None
            self.session.post(self.url, data=f"{len(spans)}".encode())
            return SpanExportResult.SUCCESS

    with AppServer() as server:
        exporter = Sending(server.url)
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=60_000))
        session = exporter.session = new_session(events=OpenTelemetry(provider))
        session.get(server.url)
        for _ in range(3):
            assert provider.force_flush(10_000)
        provider.shutdown()
        assert [request.method for request in server.seen] == ["GET", "POST"]
        assert server.seen[1].body == b"1"


# -------------------------------------------------------------------------------------------- secrets


def everything(told: Telemetry) -> str:
    """All that is exported, as text."""
    data = told.reader.get_metrics_data()
    return "\n".join([span.to_json() for span in told.spans] + ([] if data is None else [data.to_json()]))


def test_no_secret_gets_out(session: Session, told: Telemetry) -> None:
    def app(request: Request) -> Response:
        return Response(401, {"Set-Cookie": f"session={SECRET}", "WWW-Authenticate": f'Basic realm="{SECRET}"'})

    headers = {"Authorization": f"Bearer {SECRET}", "X-Api-Key": SECRET, "Proxy-Authorization": SECRET}
    with AppServer(app) as server:
        base = server.url.removeprefix("http://")
        session.get(f"{server.url}/?access_token={SECRET}&colour=blue", headers=headers, cookies={"c": SECRET})
        session.get(f"http://user:{SECRET}@{base}/")
    with refused_port() as refused, pytest.raises(ConnectionError):
        session.get(f"http://user:{SECRET}@127.0.0.1:{refused.port}/?token={SECRET}")
    first, second, third = told.spans
    assert attributes(first)["url.full"] == f"{server.url}/?access_token=***&colour=blue"
    assert SECRET not in everything(told)
    assert SECRET in str(server.seen[0].headers), "it was there to be found"
    assert (second.status.status_code, third.status.status_code) == (StatusCode.ERROR, StatusCode.ERROR)


def test_no_secret_gets_out_of_an_exception(session: Session, told: Telemetry) -> None:
    def body() -> Iterator[bytes]:
        yield b"a"
        try:
            raise OSError(f"see https://user:{SECRET}@elsewhere/")
        except OSError as error:
            raise ValueError(f"cannot get https://elsewhere/?token={SECRET}\nsecond line") from error

    with Receiver() as server, pytest.raises(ValueError, match="cannot get"):
        session.put(server.url, data=body())
    _, recorded = error_of(told.span)
    assert recorded["exception.stacktrace"].endswith("second line")
    assert SECRET not in everything(told)


# -------------------------------------------------------------------------------------------- nothing else


def test_what_goes_wrong_in_a_propagator_is_no_business_of_the_request(
    new_session: NewSession, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(TraceContextTextMapPropagator):
        def inject(self, *args: Any, **kwargs: Any) -> None:
            raise ValueError("broken")

    with telemetry(propagator=Broken()) as told, AppServer() as server:
        assert new_session(events=told.observer).get(server.url).status_code == 200
        assert attributes(told.span)["http.response.status_code"] == 200
    assert "request_started" in caplog.text


def test_without_the_package_it_says_which_extra() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None\nimport syncflow.ext.opentelemetry"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "ImportError: syncflow.ext.opentelemetry needs" in ended.stderr
    assert "pip install 'syncflow[opentelemetry]'" in ended.stderr


def test_the_api_alone_is_enough() -> None:
    """The extra asks for the API only: the SDK is the program's."""
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; sys.modules['opentelemetry.semconv'] = None\n"
        "import syncflow\n"
        "from syncflow.ext.opentelemetry import OpenTelemetry\n"
        "from syncflow.testing import AppServer\n"
        "observer = OpenTelemetry()\n"
        "with AppServer() as server, syncflow.Session(events=observer) as session:\n"
        "    observer.observe_connections(session)\n"
        "    print(session.get(server.url).status_code, 'traceparent' in server.seen[0].headers)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.stdout.strip(), ended.stderr) == ("200 False", "")

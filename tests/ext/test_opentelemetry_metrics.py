"""syncflow.ext.opentelemetry with OpenTelemetry's own SDK: metrics by the conventions."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from syncflow import ConnectionError, Session
from syncflow.ext.opentelemetry import OpenTelemetry
from syncflow.testing import AppServer, Receiver, Response, eventually, refused_port

from .telemetry import Telemetry, telemetry

NewSession = Callable[..., Session]

DURATION = "http.client.request.duration"
OPEN_CONNECTIONS = "http.client.open_connections"


def described(told: Telemetry) -> dict[str, tuple[str, str]]:
    """Kind and unit of all metrics."""
    data = told.reader.get_metrics_data()
    assert data is not None
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "syncflow"
    return {metric.name: (type(metric.data).__name__, metric.unit) for metric in scope.metrics}


def only(told: Telemetry, name: str) -> Any:
    (point,) = told.metric(name)
    return point


def connections(told: Telemetry) -> dict[tuple[str, Any], int]:
    return {
        (point.attributes["http.connection.state"], point.attributes["server.port"]): point.value
        for point in told.metric(OPEN_CONNECTIONS)
    }


def test_what_a_request_is_measured_by(new_session: NewSession) -> None:
    with telemetry() as told, AppServer(lambda request: Response(200, (), b"12345")) as server:
        session = new_session(events=told.observer)
        told.observer.observe_connections(session)
        session.post(server.url, data=b"123")
        assert described(told) == {
            DURATION: ("Histogram", "s"),
            "http.client.request.body.size": ("Histogram", "By"),
            "http.client.response.body.size": ("Histogram", "By"),
            "http.client.active_requests": ("Sum", "{request}"),
            OPEN_CONNECTIONS: ("Sum", "{connection}"),
        }
        duration = only(told, DURATION)
        assert dict(duration.attributes) == {
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "network.protocol.version": "1.1",
            "server.address": "127.0.0.1",
            "server.port": server.port,
        }
        assert duration.count == 1
        span = told.span
        assert duration.sum == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1e-6)  # type: ignore[operator]  # it has ended
        assert (only(told, "http.client.request.body.size").sum, only(told, "http.client.response.body.size").sum) == (
            3,
            5,
        )


def test_the_boundaries_are_those_that_the_conventions_recommend(new_session: NewSession) -> None:
    with telemetry() as told, AppServer() as server:
        new_session(events=told.observer).get(server.url)
        boundaries = only(told, DURATION).explicit_bounds
        assert tuple(boundaries) == (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
        assert max(only(told, "http.client.response.body.size").explicit_bounds) == 1 << 30


def test_a_request_without_a_body_has_no_size(new_session: NewSession) -> None:
    with telemetry() as told, AppServer() as server:
        session = new_session(events=told.observer)
        session.get(server.url)
        assert told.metric("http.client.request.body.size") == []
        session.post(server.url)
        assert only(told, "http.client.request.body.size").sum == 0


def test_errors_are_told_apart(new_session: NewSession) -> None:
    with telemetry() as told, AppServer(lambda request: Response(404)) as server, refused_port() as refused:
        session = new_session(events=told.observer)
        session.get(server.url)
        with pytest.raises(ConnectionError):
            session.get(refused.url)
        kinds = {
            (point.attributes.get("error.type"), point.attributes.get("http.response.status_code"), point.count)
            for point in told.metric(DURATION)
        }
        assert kinds == {("404", 404, 1), ("syncflow.exceptions.ConnectionError", None, 1)}
        assert len(told.metric("http.client.response.body.size")) == 1


def test_those_under_way_are_counted(new_session: NewSession) -> None:
    with telemetry() as told, Receiver() as server:
        session = new_session(events=told.observer)
        responses = [session.get(f"{server.url}/bytes/5000000", stream=True) for _ in range(3)]
        point = only(told, "http.client.active_requests")
        assert dict(point.attributes) == {
            "http.request.method": "GET",
            "server.address": "127.0.0.1",
            "server.port": server.port,
        }
        assert point.value == 3
        responses[0].close()
        assert told.active == 2
        session.close()
        assert told.active == 0
        for response in responses:
            response.close()


def test_connections_by_state(new_session: NewSession) -> None:
    with telemetry() as told, Receiver() as first, AppServer() as second:
        one, two = new_session(), new_session()
        for session in (one, one, two):
            told.observer.observe_connections(session)
        responses = [session.get(f"{first.url}/bytes/5000000", stream=True) for session in (one, one, two)]
        one.get(second.url)
        assert connections(told) == {
            ("active", first.port): 3,
            ("idle", first.port): 0,
            ("active", second.port): 0,
            ("idle", second.port): 1,
        }
        for response in responses:
            response.close()
        assert connections(told)["active", first.port] == 0


def test_a_session_that_is_gone_has_no_connections(new_session: NewSession) -> None:
    with telemetry() as told, AppServer() as server:
        session = Session(timeout=10, events=told.observer)
        told.observer.observe_connections(session)
        session.get(server.url)
        assert connections(told)["idle", server.port] == 1
        session.close()
        del session
        gc.collect()
        assert connections(told) == {}
        told.observer.observe_connections(new_session())
        assert len(told.observer._connections._sessions) == 1


def test_addresses_of_every_kind() -> None:
    from syncflow.ext.opentelemetry import _server_of_origin

    assert _server_of_origin("https://[::1]:8443") == {"server.address": "::1", "server.port": 8443}
    assert _server_of_origin("http://example.com:80") == {"server.address": "example.com", "server.port": 80}
    assert _server_of_origin("http+unix://%2Frun%2Fd.sock") == {"server.address": "/run/d.sock"}


def test_an_example_leads_to_its_span(new_session: NewSession) -> None:
    with telemetry() as told, AppServer() as server:
        new_session(events=told.observer).get(server.url)
        (example,) = only(told, DURATION).exemplars
        assert example.span_id == told.span.context.span_id  # type: ignore[union-attr]  # it has one


def test_nothing_is_kept_of_what_has_ended(new_session: NewSession) -> None:
    observer = OpenTelemetry()
    session = new_session(events=observer)
    with AppServer() as server:
        for _ in range(20):
            session.get(server.url)
        eventually(lambda: session.stats().idle == 1)
    assert observer._tries == {}

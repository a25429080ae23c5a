"""syncflow.ext.prometheus with prometheus_client: what is scraped, read back, beside `Session.stats()`."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse

from syncflow import CircuitBreaker, ConnectionError, PoolLimits, Session, Watermarks
from syncflow.ext.prometheus import SyncflowCollector
from syncflow.testing import AppServer, Receiver, Response, eventually, refused_port

from ..concurrency import Call

NewSession = Callable[..., Session]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

FAMILIES = {
    "syncflow_connections": "gauge",
    "syncflow_waiting_callers": "gauge",
    "syncflow_buffered_bytes": "gauge",
    "syncflow_connections_opened": "counter",
    "syncflow_connections_reused": "counter",
    "syncflow_connections_failed": "counter",
    "syncflow_sent_bytes": "counter",
    "syncflow_received_bytes": "counter",
    "syncflow_circuit_state": "gauge",
}


def scraped(collector: SyncflowCollector) -> Samples:
    """As Prometheus reads it, from both formats."""
    registry = CollectorRegistry()
    registry.register(collector)
    plain = samples(parse(generate_latest(registry).decode()))
    assert samples(parse_open_metrics(generate_open_metrics(registry).decode())) == plain
    return plain


def samples(families: Any) -> Samples:
    found: Samples = {}
    for family in families:
        assert family.documentation.endswith(".")
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, "a series is there once"
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_the_names_and_their_kinds(new_session: NewSession) -> None:
    registry = CollectorRegistry()
    registry.register(SyncflowCollector(new_session()))
    kinds = {family.name: family.type for family in parse_open_metrics(generate_open_metrics(registry).decode())}
    assert kinds == FAMILIES


def test_every_figure_is_that_of_the_session(new_session: NewSession) -> None:
    session = new_session()
    collector = SyncflowCollector(session)
    with Receiver() as server, refused_port() as refused:
        session.post(server.url, data=b"x" * 1000)
        session.post(server.url, data=b"x" * 1000)
        response = session.get(f"{server.url}/bytes/5000000", stream=True)
        with pytest.raises(ConnectionError):
            session.get(refused.url)
        eventually(lambda: session.stats().buffered_incoming == Watermarks().receive_high)  # no more is received
        found = scraped(collector)
        for origin, stats in session.stats().by_origin.items():
            labels = {"session": "default", "origin": origin}
            for state in ("idle", "in_use", "connecting"):
                assert value(found, "syncflow_connections", state=state, **labels) == getattr(stats, state)
            for direction, figure in (("outgoing", stats.buffered_outgoing), ("incoming", stats.buffered_incoming)):
                assert value(found, "syncflow_buffered_bytes", direction=direction, **labels) == figure
            assert value(found, "syncflow_waiting_callers", **labels) == 0
            assert value(found, "syncflow_connections_opened_total", **labels) == stats.opened
            assert value(found, "syncflow_connections_reused_total", **labels) == stats.reused
            assert value(found, "syncflow_connections_failed_total", **labels) == stats.failed
            assert value(found, "syncflow_sent_bytes_total", **labels) == stats.bytes_sent
            assert value(found, "syncflow_received_bytes_total", **labels) == stats.bytes_received
        labels = {"session": "default", "origin": server.url}
        assert value(found, "syncflow_connections", state="in_use", **labels) == 1
        assert value(found, "syncflow_connections_reused_total", **labels) == 2
        assert value(found, "syncflow_sent_bytes_total", **labels) > 2000
        assert value(found, "syncflow_connections_failed_total", session="default", origin=refused.url) == 1
        response.close()


def test_callers_that_wait(new_session: NewSession) -> None:
    session = new_session(pool=PoolLimits(per_host=1))
    with Receiver() as server:
        response = session.get(f"{server.url}/bytes/5000000", stream=True)
        waiting = Call(session.get, f"{server.url}/stats")
        eventually(lambda: session.stats().waiting == 1)
        found = scraped(SyncflowCollector(session))
        assert value(found, "syncflow_waiting_callers", session="default", origin=server.url) == 1
        response.close()
        waiting.result()


def test_the_state_of_a_circuit(new_session: NewSession) -> None:
    session = new_session(breaker=CircuitBreaker(failures=1, reset_after=600))
    collector = SyncflowCollector(session)
    answers = [Response(200), Response(500)]

    def states(origin: str) -> dict[str, float]:
        found = scraped(collector)
        return {
            state: value(found, "syncflow_circuit_state", session="default", origin=origin, state=state)
            for state in ("closed", "open", "half-open")
        }

    with AppServer(lambda request: answers.pop(0)) as server:
        session.get(server.url)
        assert states(server.url) == {"closed": 1, "open": 0, "half-open": 0}
        session.get(server.url)
        assert states(server.url) == {"closed": 0, "open": 1, "half-open": 0}


def test_several_sessions_by_their_names(new_session: NewSession) -> None:
    one, two = new_session(), new_session()
    with AppServer() as server:
        one.get(server.url)
        for _ in range(3):
            two.get(server.url)
        found = scraped(SyncflowCollector({"one": one, "two": two}))
    assert value(found, "syncflow_connections_reused_total", session="one", origin=server.url) == 0
    assert value(found, "syncflow_connections_reused_total", session="two", origin=server.url) == 2


def test_sums_have_no_label_of_an_origin(new_session: NewSession) -> None:
    session = new_session()
    with AppServer() as first, AppServer() as second:
        for url in (first.url, second.url, second.url):
            session.get(url)
        found = scraped(SyncflowCollector(session, by_origin=False))
    assert {labels for name, labels in found if name.endswith("_total")} == {(("session", "default"),)}
    assert value(found, "syncflow_connections_opened_total", session="default") == 2
    assert value(found, "syncflow_connections_reused_total", session="default") == 1
    assert not [name for name, _ in found if name == "syncflow_circuit_state"], "there is no circuit of all of them"


def test_sums_forget_nothing(new_session: NewSession) -> None:
    """More origins than are remembered one by one."""
    session = new_session()
    by_origin, sums = SyncflowCollector(session), SyncflowCollector(session, by_origin=False)
    with refused_port() as refused:
        for number in range(300):
            with pytest.raises(ConnectionError):
                session.get(f"http://127.0.{number // 100}.{number % 100 + 1}:{refused.port}")
    each = [count for (name, _), count in scraped(by_origin).items() if name == "syncflow_connections_failed_total"]
    assert len(each) < 300
    assert value(scraped(sums), "syncflow_connections_failed_total", session="default") == 300


def test_a_session_that_is_closed_or_dropped_disappears(new_session: NewSession) -> None:
    with AppServer() as server:
        closed, dropped, kept = new_session(), Session(timeout=10), new_session()
        collector = SyncflowCollector({"closed": closed, "dropped": dropped, "kept": kept})
        for session in (closed, dropped, kept):
            session.get(server.url, headers={"Connection": "close"})
        assert {dict(labels)["session"] for _, labels in scraped(collector)} == {"closed", "dropped", "kept"}
        closed.close()
        del dropped, session
        gc.collect()
        assert {dict(labels)["session"] for _, labels in scraped(collector)} == {"kept"}


def test_to_register_asks_no_session(new_session: NewSession, monkeypatch: pytest.MonkeyPatch) -> None:
    session = new_session()
    asked: list[bool] = []
    monkeypatch.setattr(session, "stats", lambda: asked.append(True))
    registry = CollectorRegistry()
    collector = SyncflowCollector(session)
    registry.register(collector)
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(SyncflowCollector(session))
    registry.unregister(collector)
    assert asked == []


def test_without_the_package_it_says_which_extra() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None\nimport syncflow.ext.prometheus"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "ImportError: syncflow.ext.prometheus needs" in ended.stderr
    assert "pip install 'syncflow[prometheus]'" in ended.stderr

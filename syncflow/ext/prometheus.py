"""The figures of sessions for Prometheus: a collector over `Session.stats()`.

Knows how each figure is called there. Counts nothing itself, and costs nothing until it is asked.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

try:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
except ImportError as missing:
    raise ImportError(
        "syncflow.ext.prometheus needs prometheus-client: pip install 'syncflow[prometheus]'"
    ) from missing

if TYPE_CHECKING:
    from ..engine.stats import Figures
    from ..sessions import Session

__all__ = ["SyncflowCollector"]

# As `OriginStats.circuit` has them.
CIRCUIT_STATES = ("closed", "open", "half-open")


class Gauge(NamedTuple):
    """What is true of this moment: a figure for each value of one more label, or a single one without."""

    name: str
    help: str
    label: str
    figures: dict[str, str]  # the label's value: the figure's name


class Counter(NamedTuple):
    """What is never less than before. Prometheus appends "_total"."""

    name: str
    help: str
    figure: str


GAUGES = (
    Gauge(
        "syncflow_connections",
        "Connections: idle, in use by a request, or being set up.",
        "state",
        {"idle": "idle", "in_use": "in_use", "connecting": "connecting"},
    ),
    Gauge("syncflow_waiting_callers", "Callers that wait for a connection.", "", {"": "waiting"}),
    Gauge(
        "syncflow_buffered_bytes",
        "Bytes that wait in the buffers of connections.",
        "direction",
        {"outgoing": "buffered_outgoing", "incoming": "buffered_incoming"},
    ),
)
COUNTERS = (
    Counter("syncflow_connections_opened", "Connections that were set up.", "opened"),
    Counter("syncflow_connections_reused", "Requests on a connection that had carried another one before.", "reused"),
    Counter("syncflow_connections_failed", "Connections that could not be set up.", "failed"),
    Counter("syncflow_sent_bytes", "Bytes sent: heads, framing and bodies, before encryption.", "bytes_sent"),
    Counter("syncflow_received_bytes", "Bytes received: heads, framing and bodies, decrypted.", "bytes_received"),
)
CIRCUIT = ("syncflow_circuit_state", "1 for the state that the circuit of the origin is in.")


class SyncflowCollector:
    """For `prometheus_client.REGISTRY.register(SyncflowCollector(session))`. It is asked on the thread of whoever
    scrapes, and does not hold a session: one that is closed or dropped has no more series.

    Each series has the labels `session` and `origin` ("https://host:443"), of which `PoolStats.by_origin` remembers
    some 256; one that was forgotten vanishes, and its counters begin with zero should it come again, which Prometheus
    takes for a restart. A program that talks to ever new origins, as a crawler or a sender of webhooks, makes as many
    series, which Prometheus keeps for long: for it there is `by_origin=False`, with sums that forget nothing.

    Args:
        sessions: one, which is called "default", or several by their names.
        by_origin: False has the sums of all origins, without the label `origin` and the state of circuits.
    """

    def __init__(self, sessions: Session | Mapping[str, Session], *, by_origin: bool = True) -> None:
        named = sessions if isinstance(sessions, Mapping) else {"default": sessions}
        # Never changes, but that what it holds may go.
        self._sessions = {name: weakref.ref(session) for name, session in named.items()}
        self._labels = ["session", "origin"] if by_origin else ["session"]

    def describe(self) -> list[Metric]:
        """What there may be, for the registry: without asking a session."""
        return self._families([])

    def collect(self) -> Iterator[Metric]:
        """Any thread. All figures; those of one session are of one moment."""
        yield from self._families(list(self._figures()))

    def _figures(self) -> Iterator[tuple[list[str], Figures]]:
        for name, reference in self._sessions.items():
            session = reference()
            if session is None or session._adapter.closed:
                continue
            stats = session.stats()
            if "origin" in self._labels:
                for origin, figures in stats.by_origin.items():
                    yield [name, origin], figures
            else:
                yield [name], stats

    def _families(self, all_figures: list[tuple[list[str], Figures]]) -> list[Metric]:
        families: list[Metric] = []
        for gauge in GAUGES:
            labels = [*self._labels, gauge.label] if gauge.label else self._labels
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=labels)
            for values, figures in all_figures:
                for value, figure in gauge.figures.items():
                    family.add_metric([*values, value] if gauge.label else values, getattr(figures, figure))
            families.append(family)
        for counter in COUNTERS:
            counted = CounterMetricFamily(counter.name, counter.help, labels=self._labels)
            for values, figures in all_figures:
                counted.add_metric(values, getattr(figures, counter.figure))
            families.append(counted)
        if "origin" in self._labels:
            families.append(self._circuits(all_figures))
        return families

    def _circuits(self, all_figures: list[tuple[list[str], Figures]]) -> Metric:
        family = GaugeMetricFamily(*CIRCUIT, labels=[*self._labels, "state"])
        for values, figures in all_figures:
            circuit = getattr(figures, "circuit", None)
            if circuit is not None:
                for state in CIRCUIT_STATES:
                    family.add_metric([*values, state], float(circuit == state))
        return family

"""OpenTelemetry's own SDK with an observer of ours: what was exported, and what a server has seen of it.

Knows the SDK. Knows nothing of the conventions, which are the tests' business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from syncflow.ext.opentelemetry import OpenTelemetry
from syncflow.testing import Request

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class Telemetry:
    """An observer, and what comes out behind it."""

    def __init__(self, sampler: Sampler | None = None, **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.traces = TracerProvider(sampler=sampler)
        self.traces.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.observer = OpenTelemetry(self.traces, self.meters, **settings)
        self.tracer = self.traces.get_tracer("the program")

    @property
    def spans(self) -> list[ReadableSpan]:
        """Ours, by their end."""
        return [span for span in self.exporter.get_finished_spans() if span.instrumentation_scope.name == "syncflow"]

    @property
    def span(self) -> ReadableSpan:
        """The only one."""
        (span,) = self.spans
        return span

    def metric(self, name: str) -> list[Any]:
        """Its data points; none if it was never recorded."""
        data = self.reader.get_metrics_data()
        if data is None:
            return []
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    @property
    def active(self) -> int:
        return sum(point.value for point in self.metric("http.client.active_requests"))

    def close(self) -> None:
        self.traces.shutdown()
        self.meters.shutdown()


@contextmanager
def telemetry(sampler: Sampler | None = None, **settings: Any) -> Iterator[Telemetry]:
    """One, of which nothing is under way at the end."""
    made = Telemetry(sampler, **settings)
    try:
        yield made
        assert made.observer._tries == {}
        assert made.active == 0
    finally:
        made.close()


def parent_of(request: Request) -> tuple[int, int, int]:
    """What a server makes of `traceparent`: trace, span, whether it is sampled."""
    match = TRACEPARENT.fullmatch(request.headers["traceparent"])
    assert match is not None, request.headers["traceparent"]
    # Only the first flag: a later one says of what kind the trace's number is.
    return int(match[1], 16), int(match[2], 16), int(match[3], 16) & 1


def identity(span: ReadableSpan) -> tuple[int, int]:
    """As `parent_of`."""
    assert span.context is not None
    return span.context.trace_id, span.context.span_id

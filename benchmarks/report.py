"""What is printed: where the numbers come from, an overview, and a table for each workload."""

from __future__ import annotations

import os
import platform
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .driver import Result
from .workloads import MIB, Kind, Scale

LIMIT = "socket"
OURS = "syncflow"
UNGATHERED = "http.client"
"""Sends each small piece by itself, and the limit does too."""
NOTHING = "-"


@dataclass(frozen=True)
class Heading:
    """Where and with what it ran. No host name: a report is meant to be shown."""

    date: str
    machine: str
    cpus: int
    load: float
    python: str
    openssl: str
    versions: dict[str, str]

    @classmethod
    def now(cls, versions: dict[str, str]) -> Heading:
        """Before the run: the load is to be that of others. `versions` are of what is measured, by its name."""
        return cls(
            date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            machine=f"{_processor()}, {platform.system()} {platform.release()} {platform.machine()}",
            cpus=os.cpu_count() or 0,
            load=os.getloadavg()[0],
            python=f"{platform.python_implementation()} {platform.python_version()}",
            openssl=ssl.OPENSSL_VERSION,
            versions=versions,
        )

    def markdown(self, title: str, facts: Iterable[str], missing: dict[str, str]) -> str:
        """`facts` are of the run, as what a sample is; `missing` says why something is left out."""
        lines = [
            f"# {title}, {self.date}",
            "",
            f"- machine: {self.machine}, {self.cpus} CPUs, load {self.load:.2f} when it began",
            f"- {self.python}, {self.openssl}",
            "- " + ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            *(f"- {fact}" for fact in facts),
            *(f"- left out: {name}: {reason}" for name, reason in missing.items()),
        ]
        return "\n".join(lines)


def _congestion_control() -> str:
    """Of the clients' uploads; it matters even here, see README.md."""
    try:
        return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text(encoding="ascii").strip()
    except OSError:
        return "?"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def markdown(heading: Heading, scale: Scale, results: Sequence[Result], missing: dict[str, str]) -> str:
    facts = [
        f"a sample: {scale.requests} GETs, {scale.fresh_requests} fresh ones, or {_volumes(scale)}",
        f"{scale.rounds} rounds, interleaved, over loopback, TCP {_congestion_control()}; medians",
    ]
    parts = [heading.markdown("Benchmarks", facts, missing), _overview(results, list(heading.versions))]
    parts.extend(_table(result) for result in results)
    return "\n\n".join(parts)


def _overview(results: Sequence[Result], clients: Sequence[str]) -> str:
    rows = [
        [f"{result.workload.name}, {result.workload.unit}", *(_cell(result, client) for client in clients)]
        for result in results
    ]
    return grid(["workload", *clients], rows)


def _cell(result: Result, client: str) -> str:
    if client in result.failures:
        return "failed"
    return number(result.median(client))


def _table(result: Result) -> str:
    workload = result.workload
    header = ["client", f"median {workload.unit}", "lowest", "highest"]
    header += [f"speed, {reference} = 1" for reference in _references(result)]
    if result.alone:
        header += ["download alone", "upload alone", "speed, the slower = 1"]
    if workload.kind.is_transfer:
        header.append("peak RSS growth, MiB")
    lines = [f"## {workload.name}: {workload.title}", "", grid(header, list(_rows(result)))]
    lines += [f"\n{client} failed: {reason}" for client, reason in result.failures.items()]
    return "\n".join(lines)


def _rows(result: Result) -> Iterator[list[str]]:
    """The fastest first."""
    workload = result.workload
    medians = {client: value for client in result.samples if (value := result.median(client)) is not None}
    for client in sorted(medians, key=medians.__getitem__, reverse=workload.kind.is_transfer):
        samples = result.samples[client]
        row = [client, number(medians[client]), number(min(samples)), number(max(samples))]
        bases = [medians[reference] for reference in _references(result)]
        row += [ratio(workload.speed(medians[client], base)) for base in bases]
        if result.alone:
            row += [number(median(part)) for part in result.alone[client].values()]
            row.append(ratio(result.of_slower_alone(client)))
        if workload.kind.is_transfer:
            peak = result.peak_growth_kib.get(client)
            row.append(NOTHING if peak is None else f"{peak / 1024:.1f}")
        yield row


def _references(result: Result) -> list[str]:
    """What the others are compared with, as far as it was measured."""
    names = [LIMIT, OURS]
    if result.workload.kind is Kind.PUSH_SMALL:
        names.append(UNGATHERED)
    return [client for client in names if client in result.samples]


def _volumes(scale: Scale) -> str:
    return f"{scale.volume // MIB} MiB ({scale.small_pieces_volume / MIB:g} MiB of 1 KiB pieces)"


def ratio(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also readable as it is: padded, numbers to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(row: Sequence[str]) -> str:
        first, *others = row
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        return f"| {' | '.join([first.ljust(widths[0]), *cells])} |"

    return "\n".join([line(header), line(rule), *map(line, rows)])


def as_json(heading: Heading, scale: Scale, results: Sequence[Result], missing: dict[str, str]) -> dict[str, Any]:
    """The same with every sample, for whoever compares two runs."""
    return {
        "date": heading.date,
        "machine": heading.machine,
        "cpus": heading.cpus,
        "load": heading.load,
        "python": heading.python,
        "openssl": heading.openssl,
        "versions": heading.versions,
        "scale": vars(scale),
        "left_out": missing,
        "workloads": [_result_as_json(result) for result in results],
    }


def _result_as_json(result: Result) -> dict[str, Any]:
    return {
        "name": result.workload.name,
        "title": result.workload.title,
        "unit": result.workload.unit,
        "clients": {client: _client_as_json(result, client) for client in result.samples},
        "failures": result.failures,
    }


def _client_as_json(result: Result, client: str) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "median": result.median(client),
        "samples": result.samples[client],
        "peak_growth_kib": result.peak_growth_kib.get(client),
    }
    if client in result.alone:
        fields["alone"] = {kind.value: samples for kind, samples in result.alone[client].items()}
        fields["of_slower_alone"] = result.of_slower_alone(client)
    return fields

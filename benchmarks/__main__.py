"""The command: `python -m benchmarks`, from a checkout. See README.md beside this file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .driver import known_clients, opened_bench
from .report import Heading, as_json, markdown
from .workloads import FULL, MIB, QUICK, WORKLOADS, Scale, Workload


def main(arguments: Sequence[str] | None = None) -> int:
    """1 when a client failed in a workload, else 0."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        clients = known_clients(options.clients)
    except ValueError as exc:
        parser.error(str(exc))
    workloads = _chosen(options.only, plain=not options.tls, tls=not options.plain)
    if not workloads:
        parser.error(f"no workload matches; there are {', '.join(workload.name for workload in WORKLOADS)}")
    scale = _scale(options)
    with_tls = any(workload.tls for workload in workloads)
    with opened_bench(clients, scale, with_tls, options.dir) as bench:
        missing = dict(bench.missing)
        if with_tls and not bench.has_tls:
            missing["TLS"] = "trustme, which makes the certificate, is not installed"
            workloads = [workload for workload in workloads if not workload.tls]
        for name, reason in missing.items():
            _tell(f"left out: {name}: {reason}")
        heading = Heading.now({worker.name: worker.version for worker in bench.workers})
        results = [bench.run(workload, _tell) for workload in workloads]
    print(markdown(heading, scale, results, missing))
    if options.json:
        text = json.dumps(as_json(heading, scale, results, missing), indent=2, ensure_ascii=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    return int(any(result.failures for result in results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="syncflow beside its peers")
    parser.add_argument("--quick", action="store_true", help="smaller samples, fewer rounds")
    parser.add_argument("--only", metavar="REGEX", help="workloads whose name it matches: get-1, put")
    parser.add_argument("--clients", metavar="A,B,C", help="these clients and no others")
    parser.add_argument("--rounds", type=int, metavar="N", help="samples for each client and workload")
    parser.add_argument("--size", type=int, metavar="MIB", help="of a transfer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--dir", metavar="DIR", help="make the file to upload there, not in the temp folder")
    security = parser.add_mutually_exclusive_group()
    security.add_argument("--tls", action="store_true", help="only over TLS")
    security.add_argument("--plain", action="store_true", help="only without TLS")
    return parser


def _chosen(pattern: str | None, plain: bool, tls: bool) -> list[Workload]:
    return [
        workload
        for workload in WORKLOADS
        if (tls if workload.tls else plain) and (pattern is None or re.search(pattern, workload.name))
    ]


def _scale(options: argparse.Namespace) -> Scale:
    scale = QUICK if options.quick else FULL
    if options.rounds:
        scale = dataclasses.replace(scale, rounds=options.rounds)
    if options.size:
        scale = dataclasses.replace(scale, volume=options.size * MIB)
    return scale


def _tell(line: str) -> None:
    """Progress, beside the report."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

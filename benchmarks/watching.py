"""What watching costs a small GET: nobody, the log, an observer, a breaker, OpenTelemetry.

    python -m benchmarks.watching
    python -m benchmarks.watching --tree PATH   # and as another checkout of syncflow does it, in the same rounds

Each round is as many GETs by each of them, one after the other, over a connection of its own; printed are the medians
of the rounds, and the ratio to nobody's in the same round. `--tree` is for who changes syncflow: a checkout from
before.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from .driver import opened_server

PLAIN = "nobody"


class Everything:
    """An observer with all methods, which does nothing."""

    def __getattr__(self, name: str) -> Callable[[Any], None]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda record: None


def settings(how: str) -> dict[str, Any]:
    """Of a session that is watched in that way."""
    import syncflow

    if how == "observer":
        return {"events": Everything()}
    if how == "breaker":
        return {"breaker": syncflow.CircuitBreaker()}
    if how == "retries":
        return {"retries": 3}
    if how == "opentelemetry":
        from opentelemetry.sdk.trace import TracerProvider

        from syncflow.ext.opentelemetry import OpenTelemetry

        return {"events": OpenTelemetry(tracer_provider=TracerProvider())}
    if how == "log":
        logger = logging.getLogger("syncflow")
        logger.addHandler(logging.NullHandler())
        logger.setLevel(logging.DEBUG)
    return {}


def serve_rounds(how: str, url: str, count: int, *tree: str) -> None:
    """The process of one of them: a line on stdin is a round, its seconds a GET are the answer."""
    sys.path[:0] = tree
    import syncflow

    with syncflow.Session(**settings(how)) as session:
        session.trust_env = False
        for _ in range(200):
            session.get(url)
        for _ in sys.stdin:
            began = time.perf_counter()
            for _ in range(count):
                session.get(url)
            print(json.dumps((time.perf_counter() - began) / count), flush=True)


def start(how: str, url: str, count: int, tree: str | None) -> subprocess.Popen[str]:
    """`how` in a process of its own, by the syncflow of `tree` if there is one."""
    command = [sys.executable, "-m", "benchmarks.watching", "--serve", how, url, str(count), *([tree] if tree else [])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str]) -> float:
    """One round."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(json.loads(process.stdout.readline()))


def run(names: list[str], rounds: int, count: int, tree: str | None) -> None:
    with TemporaryDirectory(prefix="benchmark-") as folder, opened_server(Path(folder), with_tls=False) as sites:
        url = sites[False].small
        processes = {name: start(name, url, count, None) for name in names}
        if tree is not None:
            processes["nobody, other tree"] = start(PLAIN, url, count, tree)
        samples: dict[str, list[float]] = {name: [] for name in processes}
        for _ in range(rounds):
            for name, process in processes.items():
                samples[name].append(ask(process))
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)
    print(f"a small GET, medians of {rounds} rounds of {count}:")
    for name, times in samples.items():
        ratio = median(a / b for a, b in zip(times, samples[PLAIN], strict=True))
        print(f"{name:20} {median(times) * 1e6:6.1f} us   {ratio:.3f} of nobody's   lowest {min(times) * 1e6:.1f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--count", type=int, default=1000, help="GETs in a round")
    parser.add_argument(
        "--only", default="nobody,retries,breaker,log,observer", help="comma-separated; also opentelemetry"
    )
    parser.add_argument("--tree", help="another checkout of syncflow")
    chosen = parser.parse_args()
    names = [PLAIN, *(name for name in chosen.only.split(",") if name != PLAIN)]
    run(names, chosen.rounds, chosen.count, chosen.tree)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve_rounds(sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
    else:
        main()

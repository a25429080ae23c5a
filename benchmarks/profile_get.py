"""Where the time of a small GET goes, layer by layer, for who works on syncflow.

First the loop runs as it is, for the true number; then under cProfile, which makes every call dearer, so that
code of many small functions looks worse than it is: read the shares and the calls, not the sums.

One side at a time: the thread that calls, or with `--side worker` the first one that the library starts. Only
up to Python 3.11: from 3.12 on cProfile sees every thread, and the sides come out mixed.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from .clients import CLIENTS, load
from .clients.protocol import WARM_UP_GETS, Client, repeat
from .driver import ROOT, opened_server
from .workloads import Site

Function = tuple[str, int, str]
ROWS = 30
_DESCRIPTION = "where the time of a small GET goes, layer by layer"


def main() -> None:
    options = _parser().parse_args()
    client = load(options.client)
    if sys.version_info >= (3, 12):
        print("On this Python cProfile mixes the threads: use 3.11 to see each side by itself.")
    with TemporaryDirectory(prefix="benchmark-") as folder, opened_server(Path(folder), options.tls) as sites:
        site = sites[options.tls]
        for name in dict.fromkeys((options.client, "socket")):
            with closing(load(name)(site, 1)) as opened:
                print(f"{name}: {opened.time_gets(options.requests) * 1e6:.1f} µs a request, not profiled")
        profile = cProfile.Profile()
        if options.side == "caller":
            _profile_caller(client, site, options.requests, profile)
        else:
            with _profiled_first_thread(profile):
                _run(client, site, options.requests)
    if profile.getstats():
        _print(pstats.Stats(profile), options.requests)
    else:
        print(f"\n{options.client} has started no thread")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_get", description=_DESCRIPTION)
    parser.add_argument("--client", default="syncflow", choices=sorted(CLIENTS.keys() - {"aiohttp", "curl"}))
    parser.add_argument("--side", default="caller", choices=["caller", "worker"])
    parser.add_argument("--requests", type=int, default=5000, metavar="N")
    parser.add_argument("--tls", action="store_true")
    return parser


def _profile_caller(client: type[Client], site: Site, requests: int, profile: cProfile.Profile) -> None:
    with closing(client(site, 1)) as opened, opened.lane() as get:
        repeat(get, WARM_UP_GETS)
        profile.runcall(repeat, get, requests)


def _run(client: type[Client], site: Site, requests: int) -> None:
    with closing(client(site, 1)) as opened, opened.lane() as get:
        repeat(get, requests)


@contextmanager
def _profiled_first_thread(profile: cProfile.Profile) -> Iterator[None]:
    """The thread that is started next runs under this profile, to its end or ours."""
    original = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        threading.Thread.run = original  # type: ignore[method-assign]
        profile.runcall(original, thread)

    threading.Thread.run = run  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        threading.Thread.run = original  # type: ignore[method-assign]


def _print(stats: pstats.Stats, requests: int) -> None:
    """Two tables: by layer, which is a file or a built-in, and by function."""
    layers: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    functions: dict[str, list[float]] = {}
    entries: dict[Function, tuple[int, int, float, float, object]] = stats.stats  # type: ignore[attr-defined]
    for function, (_, calls, own, _, _) in entries.items():
        layer = _layer(function)
        layers[layer][0] += own
        layers[layer][1] += calls
        functions[f"{layer}:{function[1]} {function[2]}" if function[1] else layer] = [own, calls]
    for title, table in (("layer", layers), ("function", functions)):
        print(f"\n{'µs each':>9} {'share':>6} {'calls each':>10}  {title}")
        total = sum(own for own, _ in table.values()) or 1.0
        for name, (own, each) in sorted(table.items(), key=lambda item: -item[1][0])[:ROWS]:
            print(f"{own / requests * 1e6:9.2f} {own / total:6.1%} {each / requests:10.2f}  {name}")


def _layer(function: Function) -> str:
    """The file as it is found in the checkout or in a library; the name of a built-in."""
    file, line, name = function
    if not line:
        return f"built-in {name.strip('<>').removeprefix('built-in method ')}"
    path = Path(file)
    for base in (ROOT, *map(Path, sys.path)):
        if path.is_relative_to(base) and base.parts:
            return str(path.relative_to(base))
    return path.name


if __name__ == "__main__":
    main()

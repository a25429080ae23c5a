"""Starts the server and a worker for each client, and has them take turns.

The clients are interleaved: every round visits all of them once, each round beginning with the next one, so
that whatever else the machine does falls on all alike.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from .clients import CLIENTS
from .workloads import MIB, WARM_UP_VOLUME, Kind, Order, Scale, Site, Workload

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120.0
"""Seconds for one sample. The slowest ever seen took four; a client that hangs must not hang the others."""

Progress = Callable[[str], None]
T = TypeVar("T")


class WorkerError(Exception):
    """This worker gave an error instead of a result, or nothing in time."""


@dataclass
class Result:
    """The samples of one workload by client, in its unit; why a client has none.

    `alone` has, by client, what each round gave for the parts of the workload by themselves: see `Worker.parts`.
    """

    workload: Workload
    samples: dict[str, list[float]] = field(default_factory=dict)
    alone: dict[str, dict[Kind, list[float]]] = field(default_factory=dict)
    peak_growth_kib: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, client: str) -> float | None:
        """None where the client cannot do this, or failed."""
        samples = self.samples.get(client)
        return median(samples) if samples else None

    def of_slower_alone(self, client: str) -> float | None:
        """The median over the rounds of how fast the whole was, where the slower part alone is 1."""
        parts = self.alone.get(client)
        if not parts:
            return None
        slower = map(min, zip(*parts.values(), strict=True))
        ratios: list[float] = [whole / part for whole, part in zip(self.samples[client], slower, strict=True)]
        return median(ratios)

    def fail(self, client: str, reason: str) -> None:
        """A client that fails once is out of this workload, with the samples it had."""
        self.failures[client] = reason
        self.samples.pop(client, None)
        self.alone.pop(client, None)


class Child:
    """A module of this package that runs as a process and speaks in lines of JSON."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=_environment(),
        )

    def read(self, patience: float = PATIENCE) -> dict[str, Any]:
        """Its next line. WorkerError when it ends instead, or says nothing in time."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(patience):
                raise WorkerError(f"no result within {patience:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError("its process has died")
        message: dict[str, Any] = json.loads(line)
        return message

    def write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode("utf-8") + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            raise WorkerError("its process has died") from exc

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


class Worker:
    """The process of one client. It is started again after a failure: what has hung or died stays behind."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._child = Child("worker", name)
        self._hello = self._child.read()
        self.missing: str | None = self._hello.get("missing")
        self.version: str = self._hello.get("version", "")

    def can(self, workload: Workload) -> bool:
        return workload.kind.value in self._hello["kinds"] and (self._hello["tls"] or not workload.tls)

    def parts(self, kind: Kind) -> tuple[Kind, ...]:
        """The work that this one is put together from, each of them a kind of its own. What pipes by pushing is
        compared with a push, what has its sink ask for the pieces with that."""
        if kind is not Kind.PIPE:
            return ()
        pushes = Kind.PUSH_PIECES.value in self._hello["kinds"]
        return (Kind.DOWNLOAD, Kind.PUSH_PIECES if pushes else Kind.PUT_PIECES)

    def sample(self, order: Order) -> dict[str, Any]:
        """One result. WorkerError if there is none."""
        try:
            self._child.write(order.to_json())
            reply = self._child.read()
        except WorkerError:
            self.end()
            self._child = Child("worker", self.name)
            self._child.read()
            raise
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def end(self) -> None:
        self._child.end()


class Bench:
    """The server, the files to upload, and the workers that have their library."""

    def __init__(self, sites: dict[bool, Site], workers: list[Worker], scale: Scale, folder: Path) -> None:
        self.workers = workers
        self.missing: dict[str, str] = {}
        self._sites = sites
        self._scale = scale
        self._folder = folder

    @property
    def has_tls(self) -> bool:
        return True in self._sites

    def run(self, workload: Workload, progress: Progress) -> Result:
        result = Result(workload)
        able = [worker for worker in self.workers if worker.can(workload)]
        for turn in range(self._scale.rounds):
            progress(f"{workload.name}: round {turn + 1} of {self._scale.rounds}")
            for worker in rotated(able, turn):
                if worker.name not in result.failures:
                    self._take_turn(worker, result)
        return result

    def _take_turn(self, worker: Worker, result: Result) -> None:
        """One sample, and directly before it one of each part, so that what disturbs one may well disturb all."""
        workload = result.workload
        orders = [self._order(kind, workload) for kind in (*worker.parts(workload.kind), workload.kind)]
        try:
            replies = [worker.sample(order) for order in orders]
        except WorkerError as exc:
            result.fail(worker.name, str(exc))
            return
        *parts, value = map(_value, orders, replies)
        for order, part in zip(orders, parts, strict=False):
            result.alone.setdefault(worker.name, {}).setdefault(order.kind, []).append(part)
        result.samples.setdefault(worker.name, []).append(value)
        if (peak := replies[-1]["peak_growth_kib"]) is not None:
            peaks = result.peak_growth_kib
            peaks[worker.name] = max(peaks.get(worker.name, 0), peak)

    def _order(self, kind: Kind, workload: Workload) -> Order:
        path = warm_up_path = ""
        count = self._scale.count(kind)
        if kind is Kind.PUT_FILE:
            path, warm_up_path = self._file(count), self._file(WARM_UP_VOLUME)
        return Order(kind, workload.threads, count, self._sites[workload.tls], path, warm_up_path)

    def _file(self, size: int) -> str:
        """A file of that size, on the disk and in the page cache. A sparse one might read too easily."""
        path = self._folder / f"{size}.bin"
        if not path.exists():
            block = os.urandom(MIB)
            with path.open("wb") as file:
                for _ in range(size // MIB):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())  # so that nothing is written back while the clock runs
        return str(path)


def _value(order: Order, reply: dict[str, Any]) -> float:
    """In the unit of the workload."""
    seconds: float = reply["seconds"]
    return order.count / MIB / seconds if order.kind.is_transfer else seconds * 1e6


def rotated(things: Sequence[T], turn: int) -> Iterator[T]:
    """All of them, each turn beginning one further."""
    for index in range(len(things)):
        yield things[(turn + index) % len(things)]


def installed(needs: dict[str, Sequence[str]]) -> tuple[dict[str, str], dict[str, str]]:
    """The versions of the distributions that those need who have all of theirs; and, by name, why the others are left
    out."""
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, distributions in needs.items():
        try:
            versions |= {each: metadata.version(each) for each in distributions}
        except metadata.PackageNotFoundError as exc:
            missing[name] = f"{exc.name} is not installed"
    return versions, missing


@contextmanager
def opened_bench(clients: Sequence[str], scale: Scale, with_tls: bool, folder: str | None) -> Iterator[Bench]:
    """Everything running, and all of it gone at the end."""
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(TemporaryDirectory(prefix="benchmark-", dir=folder)))
        sites = stack.enter_context(opened_server(temporary, with_tls))
        workers = []
        for name in clients:
            workers.append(Worker(name))
            stack.callback(workers[-1].end)
        bench = Bench(sites, [worker for worker in workers if worker.missing is None], scale, temporary)
        bench.missing = {worker.name: worker.missing for worker in workers if worker.missing is not None}
        yield bench


@contextmanager
def opened_server(folder: Path, with_tls: bool) -> Iterator[dict[bool, Site]]:
    """The sites of a server of its own, by whether they speak TLS; that one is missing without trustme."""
    certificate = ca = None
    if with_tls:
        certificate, ca = _make_certificate(folder)
    server = Child("server", *([certificate] if certificate else []))
    try:
        ports = server.read()
        yield {
            name == "tls": Site(HOST, small, bulk, ca if name == "tls" else None)
            for name, (small, bulk) in ports.items()
        }
    finally:
        server.end()


def _make_certificate(folder: Path) -> tuple[str | None, str | None]:
    """The paths of the server's key and chain, and of the CA to trust."""
    try:
        trustme = importlib.import_module("trustme")
    except ImportError:
        return None, None
    authority = trustme.CA()
    certificate, ca = str(folder / "server.pem"), str(folder / "ca.pem")
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(ca)
    return certificate, ca


def _environment() -> dict[str, str]:
    """Ours without what would send a client to a proxy or to other CAs."""
    strange = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
    return {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k not in strange}


def known_clients(names: str | None) -> list[str]:
    """The clients of a comma-separated list, all if there is none. ValueError for one that is unknown."""
    if names is None:
        return list(CLIENTS)
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in CLIENTS:
            raise ValueError(f"no client {name!r}; there are {', '.join(CLIENTS)}")
    return chosen

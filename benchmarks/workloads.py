"""What is measured: the table of workloads, how much of each makes a sample, and the order sent to a worker.

No client and no socket is imported here: the driver, the workers and the server all read this file.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass

MIB = 1 << 20
PIECE_SIZE = 64 * 1024
SMALL_PIECE_SIZE = 1024
PIPE_PIECE_SIZE = 256 * 1024
"""What syncflow's `pipe` moves at once; who is told a size is told this one."""

SMALL_BODY = b"Hello, world!"
"""What the server answers to a small GET, and what every client checks."""

SMALL_PATH = "/small"
ONCE_PATH = "/once"
"""Like SMALL_PATH, but the server says `Connection: close` and means it."""
UPLOAD_PATH = "/upload"
DOWNLOAD_PATH = "/download/"
"""Followed by the number of bytes wanted."""


class Kind(enum.Enum):
    """The kinds of work a client can be asked for."""

    GET = "get"
    FRESH = "get-fresh"
    PUT_FILE = "put-file"
    PUT_PIECES = "put-pieces"
    PUSH_PIECES = "push-pieces"
    PUSH_SMALL = "push-small"
    DOWNLOAD = "download"
    PIPE = "pipe"

    @property
    def is_transfer(self) -> bool:
        return self not in (Kind.GET, Kind.FRESH)


PUSHES = frozenset({Kind.PUSH_PIECES, Kind.PUSH_SMALL})
"""For clients that let the program send a body by calls, rather than ask it for the next piece."""


_TITLES = {
    Kind.FRESH: "small GET, a new connection each, 1 thread",
    Kind.PUT_FILE: "upload of a file, content-length",
    Kind.PUT_PIECES: "upload of 64 KiB pieces from a generator, chunked",
    Kind.PUSH_PIECES: "upload of 64 KiB pieces, a call each, chunked",
    Kind.PUSH_SMALL: "upload of 1 KiB pieces, a call each, chunked",
    Kind.DOWNLOAD: "download in 64 KiB pieces, content-length",
    Kind.PIPE: "download piped into an upload, chunked",
}


@dataclass(frozen=True)
class Workload:
    """One line of the table."""

    kind: Kind
    threads: int
    tls: bool

    @property
    def name(self) -> str:
        base = f"get-{self.threads}" if self.kind is Kind.GET else self.kind.value
        return f"{base}-tls" if self.tls else base

    @property
    def title(self) -> str:
        plural = "" if self.threads == 1 else "s sharing one session"
        title = _TITLES.get(self.kind, f"small GET, {self.threads} thread{plural}")
        return f"{title}, TLS" if self.tls else title

    @property
    def unit(self) -> str:
        return "MiB/s" if self.kind.is_transfer else "µs"

    def speed(self, result: float, reference: float) -> float:
        """How many times as fast `result` is as `reference`: above 1 is faster, whatever the unit."""
        return result / reference if self.kind.is_transfer else reference / result


_SHAPES = [
    (Kind.GET, 1),
    (Kind.GET, 8),
    (Kind.GET, 32),
    (Kind.FRESH, 1),
    (Kind.PUT_FILE, 1),
    (Kind.PUT_PIECES, 1),
    (Kind.PUSH_PIECES, 1),
    (Kind.PUSH_SMALL, 1),
    (Kind.DOWNLOAD, 1),
    (Kind.PIPE, 1),
]

WORKLOADS = [Workload(kind, threads, tls) for kind, threads in _SHAPES for tls in (False, True)]


@dataclass(frozen=True)
class Scale:
    """How much work makes one sample, and how many samples are taken."""

    requests: int
    fresh_requests: int
    volume: int
    rounds: int

    @property
    def small_pieces_volume(self) -> int:
        """Small pieces are slow: an eighth of them takes about as long as a transfer of large ones."""
        return self.volume // 8

    def count(self, kind: Kind) -> int:
        """Requests, or bytes where the work is a transfer."""
        if kind.is_transfer:
            return self.small_pieces_volume if kind is Kind.PUSH_SMALL else self.volume
        return self.requests if kind is Kind.GET else self.fresh_requests


FULL = Scale(requests=2000, fresh_requests=300, volume=1024 * MIB, rounds=5)
QUICK = Scale(requests=1000, fresh_requests=100, volume=128 * MIB, rounds=3)

WARM_UP_VOLUME = 16 * MIB
"""Moved over the connection before a transfer is timed: TCP windows open, buffers are allocated."""


@dataclass(frozen=True)
class Site:
    """Where the server listens: a port for small answers, a port for bodies. `ca` is None without TLS."""

    host: str
    small_port: int
    bulk_port: int
    ca: str | None

    @property
    def small(self) -> str:
        return self._url(self.small_port, SMALL_PATH)

    @property
    def once(self) -> str:
        return self._url(self.small_port, ONCE_PATH)

    @property
    def upload(self) -> str:
        return self._url(self.bulk_port, UPLOAD_PATH)

    def download(self, size: int) -> str:
        return self._url(self.bulk_port, f"{DOWNLOAD_PATH}{size}")

    def _url(self, port: int, path: str) -> str:
        return f"{'https' if self.ca else 'http'}://{self.host}:{port}{path}"


@dataclass(frozen=True)
class Order:
    """One sample for one worker. `path` and `warm_up_path` name the files that are uploaded."""

    kind: Kind
    threads: int
    count: int
    site: Site
    path: str
    warm_up_path: str

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "kind": self.kind.value})

    @classmethod
    def from_json(cls, line: str) -> Order:
        fields = json.loads(line)
        return cls(**{**fields, "kind": Kind(fields["kind"]), "site": Site(**fields["site"])})

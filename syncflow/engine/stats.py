"""What a session's connections are doing and have done, in figures: PoolStats.

Knows what each figure counts, whom to ask for it, and how several are added up. Counts nothing itself, and is imported
when somebody asks first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .accounts import Statement
    from .ledger import Standing

__all__ = ["Figures", "OriginStats", "PoolStats", "combined", "stats_of", "with_circuits"]


# From the best to the worst.
CIRCUIT_STATES = ("closed", "half-open", "open")


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted, for one origin as for all of them.

    Of this moment:

    Attributes:
        open: connections that are set up; `idle` and `in_use` together.
        idle: those that wait for a request.
        in_use: those that a request, an answer that is still being read, or a `Response.upgraded` has.
        connecting: connections that are being set up. They count under `PoolLimits`, and not as open.
        waiting: callers that wait for a connection.
        bytes_buffered: in the connections' buffers; `buffered_outgoing` and `buffered_incoming` together.
        buffered_outgoing: bytes that wait to be sent, framing included. It stays near `Watermarks.high` for each
            connection whose server takes less than the program writes.
        buffered_incoming: bytes that were received and not read yet, of answers that are not complete. The rest of a
            complete one belongs to its `Response`, and its connection is free.

    Since the session began (in a forked child: since the fork), and never less than before:

    Attributes:
        opened: connections that were set up.
        reused: requests that were begun on a connection which had carried another one before.
        failed: connections that could not be set up: DNS, connecting, a proxy, TLS, or a limit of time. One that the
            session's end called off is not counted.
        bytes_sent: what the system took of heads, framing and bodies, and of upgraded streams.
        bytes_received: what came from the system, likewise. Both are counted inside TLS, before it encrypts and after
            it decrypts, and without what setting up takes: handshakes, and what is said to a proxy for a tunnel.
    """

    open: int = 0
    idle: int = 0
    in_use: int = 0
    connecting: int = 0
    waiting: int = 0
    opened: int = 0
    reused: int = 0
    failed: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    bytes_buffered: int = 0
    buffered_outgoing: int = 0
    buffered_incoming: int = 0


@dataclass(frozen=True, slots=True)
class OriginStats(Figures):
    """The figures of one origin, whatever the proxies and TLS contexts by which it is reached: see `Figures`.

    Attributes:
        circuit: "closed"; "open": it failed too often and gets no requests now; "half-open": one request is trying
            whether it works again. Always "closed" without a `CircuitBreaker`. Of an origin that is reached by several
            adapters of a session, the worst.
    """

    circuit: str = "closed"


@dataclass(frozen=True, slots=True)
class PoolStats(Figures):
    """The figures of a whole session, see `Figures`, and those of each origin.

    The number of connections and of callers are those of one moment; each connection's bytes are asked for right after
    it, one connection after the other.

    Attributes:
        by_origin: by "scheme://host:port", the port always there, or "http+unix://" and the socket's path with "%2F"
            for each slash. When more than 256 origins have no connection, the longest unused one is forgotten, and
            begins with zeros should it come again; the figures of the whole keep what it had.
    """

    by_origin: Mapping[str, OriginStats] = field(default_factory=dict)


class Tally:
    """Figures that are being added up. One thread's."""

    def __init__(self) -> None:
        self.overall: Counter[str] = Counter()
        self._origins: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._circuits: dict[str, str] = {}

    def add(self, name: str, figures: Mapping[str, int]) -> None:
        """To those of one origin, and to the whole."""
        self.add_to_origin(name, figures)
        self.overall.update(figures)

    def add_to_origin(self, name: str, figures: Mapping[str, int]) -> None:
        """To those of one origin; the whole has them already."""
        self._origins[name].update(figures)

    def set_circuit(self, name: str, state: str) -> None:
        """The state of an origin's circuit, by one of several adapters."""
        known = self._circuits.get(name, "closed")
        self._circuits[name] = max(known, state, key=CIRCUIT_STATES.index)

    def result(self) -> PoolStats:
        """What came of it."""
        circuits = self._circuits
        by_origin = {
            name: OriginStats(**self._origins[name], circuit=circuits.get(name, "closed"))
            for name in sorted(self._origins.keys() | circuits.keys())
        }
        return PoolStats(**self.overall, by_origin=by_origin)


def stats_of(standing: Standing, statement: Statement) -> PoolStats:
    """Any thread, without a lock: it takes those of the connections, one after the other. What the ledger and the
    accounts said at one moment, with what the connections say now.

    A connection that is closed meanwhile keeps its figures, which are not in these sums: nothing is counted twice.
    """
    tally = Tally()
    for origin in standing.idle:
        tally.add(origin.name, {"open": 1, "idle": 1})
    for origin in standing.in_use:
        tally.add(origin.name, {"open": 1, "in_use": 1})
    for origin, count in standing.connecting:
        tally.add(origin.name, {"connecting": count})
    for origin in standing.waiting:
        tally.add(origin.name, {"waiting": 1})
    total, by_origin, connections = statement
    tally.overall.update(total.figures())
    for name, sums in by_origin.items():
        tally.add_to_origin(name, sums.figures())
    for connection, name in connections:
        usage = connection.usage()
        buffered = usage.buffered_outgoing + usage.buffered_incoming
        tally.add(name, {**usage._asdict(), "bytes_buffered": buffered})
    return tally.result()


def combined(parts: Iterable[PoolStats]) -> PoolStats:
    """The figures of several pools as those of one."""
    tally = Tally()
    for part in parts:
        for name, figures in part.by_origin.items():
            tally.add_to_origin(name, _by_name(figures))
            tally.set_circuit(name, figures.circuit)
        tally.overall.update(_by_name(part))
    return tally.result()


def with_circuits(stats: PoolStats, states: Mapping[str, str]) -> PoolStats:
    """With the states of those circuits that are not closed, by the names of origins."""
    if not states:
        return stats
    by_origin = {name: replace(origin, circuit=states.get(name, "closed")) for name, origin in stats.by_origin.items()}
    for name in states.keys() - by_origin.keys():
        by_origin[name] = OriginStats(circuit=states[name])
    return replace(stats, by_origin=dict(sorted(by_origin.items())))


def _by_name(figures: Figures) -> dict[str, int]:
    return {field.name: getattr(figures, field.name) for field in fields(Figures)}

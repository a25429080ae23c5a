"""Links that are slow, faults at interesting bytes, and what the documentation says comes of each.

Knows `docs/reliability.md` as a table. Knows nothing of how a task is done.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

from syncflow import (
    ChunkedEncodingError,
    ConnectionError,
    ConnectTimeout,
    ReadTimeout,
    RequestException,
    WriteTimeout,
)
from syncflow.testing import Link

from .tasks import Task

# Slow in each way, and in all combinations of them. A body of 40,000 bytes takes a tenth of a second at this bandwidth.
SLOW = {
    "latency": {"latency": 0.01},
    "bandwidth": {"bandwidth": 400_000.0},
    "loss": {"loss": 0.1, "stall": 0.01},
}
KINDS: dict[str, Link] = {}
for _chosen in product([False, True], repeat=len(SLOW)):
    _names = [name for name, is_chosen in zip(SLOW, _chosen, strict=True) if is_chosen]
    _settings: dict[str, Any] = {}
    for _name in _names:
        _settings |= SLOW[_name]
    KINDS["-".join(_names) or "quick"] = Link(**_settings)

# With this in the environment every fault comes on every kind of link; without it on one, chosen by what stands here.
ALL = os.environ.get("SYNCFLOW_LINKS") == "all"
SEED = 6

ENDINGS = ("cut", "reset")


class Sizes(NamedTuple):
    """Bytes on the wire, in one direction: before the task, and with it."""

    before: int
    total: int


@dataclass(frozen=True)
class Fault:
    """What happens to a connection, in which direction, and where in the bytes of the task."""

    what: str  # "cut", "reset" or "silent"
    direction: str  # "up" or "down"
    place: str

    def __str__(self) -> str:
        return f"{self.what}-{self.direction}-{self.place}"

    def links(self, kind: Link, task: Task, sizes: Sizes) -> dict[str, Any]:
        """As `FaultProxy` takes them."""
        link = replace(kind, **{f"{self.what}_after": self.position(task, sizes)})
        return {"up": kind, "down": kind, self.direction: link}

    def position(self, task: Task, sizes: Sizes) -> int:
        """In bytes from the beginning of the connection."""
        body = task.up_body if self.direction == "up" else task.down_body
        if self.place == "start":
            return sizes.before
        if self.place == "head":
            return sizes.before + 10
        if task.name == "early" and self.direction == "up":
            return 3000  # the client may stop anywhere
        if self.place == "seam":
            return sizes.total - body
        if self.place == "body":
            return sizes.total - body // 2
        return sizes.total - (before_the_end(task, self.direction) if self.place == "last" else 0)


def before_the_end(task: Task, direction: str) -> int:
    """Bytes by which the end is surely missed. TLS does not take the same number each time, nor do the chunks of an
    upload: what is written while the system takes nothing is gathered."""
    if task.tls:
        return 40
    return 200 if direction == "up" and task.up_body and not task.is_sized else 1


def places(task: Task, direction: str) -> Iterator[str]:
    """The interesting ones: before the first byte, in the head, between it and the body, in the body, before its last
    byte, and right after that."""
    if not (task.name == "reuse" and direction == "up"):  # that is the end of the request before it
        yield "start"
    yield "head"
    body = task.up_body if direction == "up" else task.down_body
    stops_anywhere = task.name == "early" and direction == "up"
    if body and task.is_sized and not stops_anywhere:
        yield "seam"
    if body:
        yield "body"
    if stops_anywhere:
        return
    yield "last"
    if before_the_end(task, direction) == 1:
        yield "end"


def faults(task: Task, *whats: str) -> Iterator[Fault]:
    for what, direction in product(whats, ("up", "down")):
        for place in places(task, direction):
            yield Fault(what, direction, place)


def kinds_for(task: Task, fault: Fault) -> list[str]:
    """On which kinds of link a fault is tried."""
    return list(KINDS) if ALL else [random.Random(f"{SEED} {task.name} {fault}").choice(list(KINDS))]


# ------------------------------------------------------------------------------------- what comes of it

Result = tuple[type[RequestException], ...]

# The right result.
RIGHT: Result = ()


@dataclass(frozen=True)
class Outcome:
    """What may come of a fault: one of these exceptions, in one of these phases; or, with none of them or `or_right`,
    the right result."""

    errors: Result = RIGHT
    phases: tuple[str, ...] = ()
    or_right: bool = False


NO_HARM = Outcome()
REFUSED = Outcome((ConnectionError,), ("connect",))
NO_ANSWER = Outcome((ConnectionError,), ("connect", "send", "head"))
CUT_SHORT = Outcome((ChunkedEncodingError,), ("body",))
NO_HANDSHAKE = Outcome((ConnectionError,), ("connect", "tls"))
SLOW_HANDSHAKE = Outcome((ConnectTimeout,), ("tls",))
NOT_TAKEN = Outcome((ReadTimeout, WriteTimeout), ("send", "head"))
SILENT_HEAD = Outcome((ReadTimeout,), ("head",))
SILENT_BODY = Outcome((ReadTimeout,), ("body",))


def expected(task: Task, fault: Fault) -> Outcome:
    """As `docs/reliability.md` has it."""
    special = SPECIAL.get(task.name)
    outcome = None if special is None else special(fault)
    if outcome is not None:
        return outcome
    if task.tls and fault.place in ("start", "head"):
        return SLOW_HANDSHAKE if fault.what == "silent" else NO_HANDSHAKE
    if fault.direction == "up":
        if fault.what == "silent":
            return NO_HARM if fault.place == "end" else NOT_TAKEN
        return NO_ANSWER
    if fault.place == "end":
        return NO_HARM
    # The only record of a short answer over TLS is not whole.
    is_early = fault.place in ("start", "head") or (task.tls and task.down_body < 1000)
    if fault.what == "silent":
        return SILENT_HEAD if is_early else SILENT_BODY
    return NO_ANSWER if is_early else CUT_SHORT


def _of_reuse(fault: Fault) -> Outcome | None:
    """A GET is sent again if its connection was lost before a byte of the answer came; and an idle one may be lost."""
    if fault.what != "silent" and (fault.direction == "up" or fault.place == "start"):
        return NO_HARM
    return None


def _of_early(fault: Fault) -> Outcome | None:
    """The answer may come before the upload gets to the fault; a link that takes no more of it does no harm then."""
    if fault.direction == "down" or fault.place != "body":
        return None
    return NO_HARM if fault.what == "silent" else replace(NO_ANSWER, or_right=True)


def _of_sse(fault: Fault) -> Outcome | None:
    """It connects again, as long as each connection brings an event."""
    return None if fault.place in ("start", "head") or (fault.direction == "up" and fault.place == "body") else NO_HARM


def _of_resume(fault: Fault) -> Outcome | None:
    """It asks for the rest, as long as each transfer brings some of it. Before the first head there is no response."""
    return NO_HARM if fault.direction == "down" and fault.place in ("body", "last") else None


SPECIAL = {"reuse": _of_reuse, "early": _of_early, "sse": _of_sse, "resume": _of_resume}

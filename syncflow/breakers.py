"""An origin that fails again and again is left alone for a while: `CircuitBreaker`, and the circuits of one adapter.

Knows what counts as a failure, how many open a circuit, and who may try whether it works again. Knows nothing of how
requests are sent: it is asked before each try, and told of what came of it.

After M. Nygard, "Release It!" (2nd edition, section 5.2): a circuit is closed, as long as requests get through; open
after so many failures in a row, when every request fails at once; half-open when some time has passed: one request, the
probe, tells which of the two it will be.
"""

from __future__ import annotations

import errno
import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .exceptions import (
    ChunkedEncodingError,
    CircuitOpen,
    ConnectionError,
    ContentDecodingError,
    RequestException,
    Timeout,
)

if TYPE_CHECKING:
    from .engine.deadline import Clock

__all__ = ["CircuitBreaker", "Circuits", "Outcome", "Permit", "is_failure"]

# What a try led to: the status of the answer, or an error.
Outcome = int | RequestException

# No file descriptor is left, in the process or in the system: that tells nothing of any server.
NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})

# Origins with failures that are remembered; of more the longest untroubled is forgotten, and begins anew.
CIRCUITS_KEPT = 1024


def is_failure(outcome: Outcome) -> bool:
    """Whether the server, or the way to it, is to blame: an answer of 500 or above, no connection, none in time, or one
    that was lost. Not what the program has ended or limited before anything was begun, nor that it has no file
    descriptor left."""
    if isinstance(outcome, int):
        return outcome >= 500
    if isinstance(outcome, CircuitOpen) or not tells_of_server(outcome):
        return False
    return isinstance(outcome, ConnectionError | Timeout | ChunkedEncodingError)


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """When requests to an origin are not sent, because it has failed too often; after the pattern of that name (Nygard,
    "Release It!").

    Args:
        failures: so many in a row open the circuit.
        reset_after: seconds after which one request may try again; if it fails, so many again. After as many seconds
            without an outcome the next one may try, too.
        is_failure: called with the status of each answer, or the error in its place; whether it counts as a failure. In
            the thread of the request, with no lock held. A response that is streamed has answered with its head.

    Raises:
        TypeError, ValueError: a value that makes no sense.
    """

    failures: int = 5
    reset_after: float = 30.0
    is_failure: Callable[[Outcome], bool] = is_failure

    def __post_init__(self) -> None:
        if isinstance(self.failures, bool) or not isinstance(self.failures, int):
            raise TypeError(f"CircuitBreaker.failures is a whole number, not {self.failures!r}")
        if self.failures < 1:
            raise ValueError(f"CircuitBreaker.failures must be at least 1, not {self.failures!r}")
        if isinstance(self.reset_after, bool) or not isinstance(self.reset_after, int | float):
            raise TypeError(f"CircuitBreaker.reset_after is a number of seconds, not {self.reset_after!r}")
        if not 0 < self.reset_after < math.inf:
            raise ValueError(f"CircuitBreaker.reset_after must be more than 0 seconds, not {self.reset_after!r}")
        if not callable(self.is_failure):
            raise TypeError(f"CircuitBreaker.is_failure is a function, not {self.is_failure!r}")


class Circuit:
    """Of one origin. Guarded by the lock of its `Circuits`."""

    __slots__ = ("_probe", "failures", "opened", "probed")

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.opened: float | None = None  # since when; None: it is closed
        self._probe: weakref.ref[Permit] | None = None
        self.probed = 0.0  # since when it tries

    @property
    def probe(self) -> Permit | None:
        """Who tries whether it works again. One that is dropped tries no more."""
        return None if self._probe is None else self._probe()

    @probe.setter
    def probe(self, permit: Permit | None) -> None:
        self._probe = None if permit is None else weakref.ref(permit)

    @property
    def state(self) -> str:
        """As `OriginStats.circuit` has it."""
        if self.opened is None:
            return "closed"
        return "open" if self.probe is None else "half-open"


class Permit:
    """Leave for one try, whose outcome is to be told once; what is told after that counts for nothing."""

    __slots__ = ("__weakref__", "_circuits", "_name", "_opened")

    def __init__(self, circuits: Circuits, name: str, opened: float | None) -> None:
        self._circuits: Circuits | None = circuits
        self._name = name
        self._opened = opened  # what the circuit was when it was given: of an earlier time it tells nothing now

    def outcome(self, outcome: Outcome) -> str | None:
        """Any thread, once. What the try led to. The new state of the circuit, if it has changed."""
        circuits, self._circuits = self._circuits, None
        if circuits is None:
            return None
        if isinstance(outcome, RequestException) and not tells_of_server(outcome):
            circuits.give_back(self, self._name)
            return None
        try:
            failed = circuits.breaker.is_failure(outcome)
        except BaseException:  # its traceback may be kept, and keeps this: as a probe it would be in the way for ever
            circuits.give_back(self, self._name)
            raise
        return circuits.tell(self, self._name, self._opened, failed=failed)

    def give_back(self) -> None:
        """Any thread. It was interrupted: nothing is known of the origin."""
        circuits, self._circuits = self._circuits, None
        if circuits is not None:
            circuits.give_back(self, self._name)


def tells_of_server(error: RequestException) -> bool:
    """Whether an error is about the origin at all: not if the program has ended the try, if it ended before anything
    was begun, or if the process had no file descriptor for it."""
    kinds = ConnectionError | Timeout | ChunkedEncodingError | ContentDecodingError
    is_ours = error.phase == "pool" or getattr(error.__cause__, "errno", None) in NO_DESCRIPTOR
    return isinstance(error, kinds) and not is_ours


class Circuits:
    """The circuits of one adapter, by the name of the origin ("https://host:443").

    Any thread. Its lock is a leaf, held for a few statements and never while code of the program runs.
    """

    def __init__(self, breaker: CircuitBreaker, clock: Clock) -> None:
        # Never changes.
        self.breaker = breaker
        self._clock = clock
        # Guards what follows.
        self._lock = threading.Lock()
        # Those with failures; the one that failed last comes last.
        self._troubled: OrderedDict[str, Circuit] = OrderedDict()
        _all.add(self)

    def enter(self, name: str, where: str) -> Permit:
        """Before each try.

        Raises:
            CircuitOpen: nothing may be sent to this origin now.
        """
        if name not in self._troubled:  # without the lock: who comes a moment too early is let through
            return Permit(self, name, None)
        with self._lock:
            circuit = self._troubled.get(name)
            permit = Permit(self, name, None if circuit is None else circuit.opened)
            if circuit is None or circuit.opened is None:
                return permit
            now = self._clock()
            left = circuit.opened + self.breaker.reset_after - now
            # One that takes as long as the circuit was open, as a large upload may, keeps others out no longer.
            if left <= 0.0 and (circuit.probe is None or now >= circuit.probed + self.breaker.reset_after):
                circuit.probe = permit
                circuit.probed = now
                return permit
            failures, is_tried = circuit.failures, circuit.probe is not None
        raise self._is_open(where, failures, max(0.0, left), is_tried=is_tried)

    def _is_open(self, where: str, failures: int, left: float, *, is_tried: bool) -> CircuitOpen:
        until = "one request is just trying if it works again" if is_tried else f"it is tried again in {left:.3g} s"
        last = "the last request to it has" if failures == 1 else f"the last {failures} requests to it have"
        error = CircuitOpen(
            f"{where}: {last} failed, so nothing was sent; {until}; answer without it until then, or see CircuitBreaker"
        )
        error.retry_after = left
        return error

    def tell(self, permit: Permit, name: str, opened: float | None, *, failed: bool) -> str | None:
        """See `Permit.outcome`."""
        if not failed and name not in self._troubled:
            return None  # most requests
        with self._lock:
            circuit = self._troubled.get(name) or Circuit()
            was_probe = circuit.probe is permit
            if circuit.opened != opened or (opened is not None and not was_probe):
                return None  # it was sent before the circuit opened, or closed: that is known by now
            before = circuit.state
            if failed:
                circuit.failures += 1
                circuit.probe = None
                if was_probe or circuit.failures >= self.breaker.failures:
                    circuit.opened = self._clock()
                self._troubled[name] = circuit
                self._troubled.move_to_end(name)
                if len(self._troubled) > CIRCUITS_KEPT:
                    self._troubled.popitem(last=False)
            else:
                self._troubled.pop(name, None)
            after = circuit.state if failed else "closed"
        return after if after != before else None

    def give_back(self, permit: Permit, name: str) -> None:
        """A try that told nothing: the next may be the probe."""
        with self._lock:
            circuit = self._troubled.get(name)
            if circuit is not None and circuit.probe is permit:
                circuit.probe = None

    def states(self) -> dict[str, str]:
        """Any thread. Of all origins whose circuit is not closed."""
        with self._lock:
            return {name: circuit.state for name, circuit in self._troubled.items() if circuit.opened is not None}

    def after_fork(self) -> None:
        """In a forked child: the threads that were trying did not come along."""
        self._lock = threading.Lock()
        for circuit in self._troubled.values():
            circuit.probe = None


_all: weakref.WeakSet[Circuits] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for circuits in list(_all):
        circuits.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

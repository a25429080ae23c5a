"""When a request that failed is sent again, how often, and after how long: `Retry`.

Knows which failures pass, which methods may be repeated, the growing delays and the server's own word for them
(Retry-After). Knows no socket, and waits for nothing: what it decides the adapter carries out.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .exceptions import (
    ChunkedEncodingError,
    CircuitOpen,
    ConnectionError,
    ProtocolError,
    ReadTimeout,
    RequestException,
    SSLError,
    WriteTimeout,
)

__all__ = ["IDEMPOTENT", "Retry", "Tries", "Try"]

# RFC 9110, section 9.2.2: sending these twice has the effect of sending them once.
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})

# Answers that say "not now": 429 (RFC 6585, section 4), 502 to 504 (RFC 9110, sections 15.6.3 to 15.6.5).
NOT_NOW = frozenset({429, 502, 503, 504})

# The phases in which nothing of the request has been sent.
SETTING_UP = frozenset({"dns", "connect", "proxy", "tls"})

# Behind so many doublings any delay is at its ceiling, and a float still holds it.
MOST_DOUBLINGS = 64


def _require_count(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a number of tries or None, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, not {value!r}")


def _require_number(name: str, value: object, most: float | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number, not {value!r}")
    if not value >= 0 or value == float("inf") or (most is not None and value > most):
        raise ValueError(f"{name} is a number from 0{'' if most is None else f' to {most:g}'}, not {value!r}")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a request is sent again; after urllib3's class of that name.

    A connection that could not be made is tried again whatever the method: nothing had been sent. What failed later,
    and answers of `status_forcelist`, only for `allowed_methods`, and only if the body can be sent again. The program's
    own limits (`PoolTimeout`, `TotalTimeout`), a certificate that is not trusted, and bytes that are no HTTP are not
    tried again. `Timeouts.total` spans all tries and the delays between them: a delay that would not fit is not begun,
    and the answer or the error is that of the last try.

    Args:
        total: how often it is sent again, for whatever reason; None is no limit of its own.
        connect: how often for connections that could not be made; None leaves it to `total`.
        read: how often for what failed after that: the connection was lost, nothing came in time, the answer was cut.
        status: how often for answers of `status_forcelist`.
        backoff_factor: seconds before the first time; doubled for each one after it.
        backoff_max: the longest delay, in seconds, the server's Retry-After included: an answer that asks for more is
            returned as it is.
        jitter: which share of a delay is random: 1 is "full jitter", any time up to the delay, so that clients which
            failed together do not come back together; 0 is none.
        status_forcelist: answers that are not returned but tried again; 429, 502, 503 and 504 if nothing else is said.
        allowed_methods: which may be sent twice: the idempotent ones (RFC 9110, section 9.2.2) if nothing else is said.
            None is any, also POST: then a request may be carried out twice.
        respect_retry_after_header: whether Retry-After (RFC 9110, section 10.2.3), seconds or a date, is the delay.
        raise_on_status: whether `RetryError` is raised when the tries are used up and the answer is still one of
            `status_forcelist`; it has the last `response`. If not, that is returned; and so is, in any case, an answer
            to what may not be sent again, or for which there is no time.

    Raises:
        TypeError, ValueError: a value that makes no sense.
    """

    total: int | None = 3
    connect: int | None = None
    read: int | None = None
    status: int | None = None
    backoff_factor: float = 0.5
    backoff_max: float = 120.0
    jitter: float = 1.0
    status_forcelist: Collection[int] = NOT_NOW
    allowed_methods: Collection[str] | None = IDEMPOTENT
    respect_retry_after_header: bool = True
    raise_on_status: bool = True

    def __post_init__(self) -> None:
        for name in ("total", "connect", "read", "status"):
            _require_count(f"Retry.{name}", getattr(self, name))
        for name, most in (("backoff_factor", None), ("backoff_max", None), ("jitter", 1.0)):
            _require_number(f"Retry.{name}", getattr(self, name), most)
        # Copies: what the program does to its own lists later must not be seen by another thread.
        statuses = frozenset(self.status_forcelist)
        if strange := sorted(repr(s) for s in statuses if isinstance(s, bool) or not isinstance(s, int)):
            raise TypeError(f"Retry.status_forcelist holds status codes, not {', '.join(strange)}")
        object.__setattr__(self, "status_forcelist", statuses)
        if isinstance(self.allowed_methods, str):
            raise TypeError(f"Retry.allowed_methods holds several methods: [{self.allowed_methods!r}]")
        if self.allowed_methods is not None:
            object.__setattr__(self, "allowed_methods", frozenset(method.upper() for method in self.allowed_methods))

    @classmethod
    def of(cls, value: Any) -> Retry | None:
        """Read what `retries=` takes: a Retry; a number for `total`; None, False or 0 for none. Of a `Retry` of
        urllib3, which `requests` takes, what it says of tries, delays, statuses and methods is taken over; of its
        delays the first is not left out, as urllib3 does."""
        if value is None or value is False or (value == 0 and type(value) is int):
            return None
        if isinstance(value, Retry):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return cls(total=value)
        if all(hasattr(value, name) for name in ("total", "status_forcelist", "allowed_methods", "backoff_factor")):
            return cls._of_urllib3(value)
        raise TypeError(f"retries= takes a syncflow.Retry, a number of tries or None, not {value!r}")

    @classmethod
    def _of_urllib3(cls, theirs: Any) -> Retry:
        counts = {name: getattr(theirs, name) for name in ("total", "connect", "read", "status")}
        return cls(
            **{name: None if count is None else int(count) for name, count in counts.items()},  # False is 0 there
            backoff_factor=theirs.backoff_factor,
            backoff_max=getattr(theirs, "backoff_max", 120.0),  # since its version 2
            jitter=0.0,
            status_forcelist=theirs.status_forcelist,
            allowed_methods=theirs.allowed_methods or None,
            respect_retry_after_header=theirs.respect_retry_after_header,
            raise_on_status=theirs.raise_on_status,
        )

    @classmethod
    def of_connections(cls, number: int) -> Retry | None:
        """What `max_retries` of an adapter is in `requests`: only for connections that could not be made, and at
        once."""
        return cls(total=number, read=0, status=0, backoff_factor=0.0, status_forcelist=()) if number else None

    def allows(self, method: str) -> bool:
        """Whether a request of that method may be sent twice."""
        return self.allowed_methods is None or method in self.allowed_methods

    def delay(self, number: int) -> float:
        """Seconds before it is sent again for the `number`-th time, from 1."""
        longest = min(self.backoff_max, self.backoff_factor * 2.0 ** min(number - 1, MOST_DOUBLINGS))
        return longest * (1.0 - self.jitter * random.random())


# Of a connection that had been idle, and was gone before a byte was answered, every request is sent again that may be.
LOST_CONNECTIONS_ONLY = Retry(total=0, status_forcelist=())


@dataclass(frozen=True, slots=True)
class Try:
    """One try of a request behind which there was another.

    Attributes:
        number: from 1.
        started: seconds since the call began, with the redirects that led here.
        elapsed: seconds that it took.
        delay: seconds waited afterwards.
        status: of the answer; None if there was none.
        error: what it failed with; None if the answer was the reason to try again.
    """

    number: int
    started: float
    elapsed: float
    delay: float
    status: int | None = None
    error: RequestException | None = None


class Tries:
    """The tries of one request: how many are left of each kind, and what came of those that were made.

    One thread. Each of the two questions is asked once for each try.
    """

    def __init__(self, policy: Retry | None, method: str, started: float, begun: float) -> None:
        self.policy = policy or LOST_CONNECTIONS_ONLY
        self.made: list[Try] = []
        self._method = method
        self._left: dict[str, int | None] = {
            name: getattr(self.policy, name) for name in ("total", "connect", "read", "status")
        }
        self._sent_again = 0
        self._started = started
        self._begun = begun

    def delay_after(self, error: RequestException) -> float | None:
        """Seconds until it may be sent again after `error`; None if it may not."""
        if not is_passing(error):
            return None
        kind = "connect" if error.phase in SETTING_UP else "read"
        if kind == "read" and not self.policy.allows(self._method):
            return None
        return self.policy.delay(self._sent_again) if self._use(kind) else None

    def delay_after_status(self, headers: Mapping[str, str]) -> float | None:
        """The same after an answer of `status_forcelist` with these headers. None if the server asks for more patience
        than there is, too."""
        if not self.policy.allows(self._method):
            return None
        asked = retry_after(headers) if self.policy.respect_retry_after_header else None
        if asked is not None and asked > self.policy.backoff_max:
            return None
        if not self._use("status"):
            return None
        return self.policy.delay(self._sent_again) if asked is None else asked

    @property
    def is_used_up(self) -> bool:
        """Whether it was sent again, and answers may not be the reason to send it once more."""
        return bool(self._sent_again) and 0 in (self._left["total"], self._left["status"])

    def record(self, now: float, delay: float, status: int | None, error: RequestException | None) -> Try:
        """There is another try, which begins after `delay`."""
        if error is not None:
            error = error.with_traceback(None)  # which would keep the frames alive, and the body in them
        begun, self._begun = self._begun, now + delay
        made = Try(len(self.made) + 1, begun - self._started, now - begun, delay, status, error)
        self.made.append(made)
        return made

    def _use(self, kind: str) -> bool:
        """Take one try of that kind, if there is one."""
        names = ("total", kind)
        if 0 in [self._left[name] for name in names]:
            return False
        for name in names:
            left = self._left[name]
            self._left[name] = None if left is None else left - 1
        self._sent_again += 1
        return True


def is_passing(error: RequestException) -> bool:
    """Whether it may be over the next time. Not: the program's own limits, what the program ended, a certificate, a
    server that speaks something else."""
    cause = error.__cause__
    if isinstance(error, CircuitOpen | ProtocolError) or isinstance(cause, ssl.SSLCertVerificationError):
        return False
    if isinstance(error, SSLError) and not isinstance(cause, OSError):
        return False  # the handshake was done: it is the fingerprint that is another one
    return isinstance(error, ConnectionError | ReadTimeout | WriteTimeout | ChunkedEncodingError)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait (RFC 9110, section 10.2.3): a number, or a date, counted from the answer's own
    Date, so that neither clock need be right. None if it asks for nothing that can be read."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value) < 10 else float("inf")
    if not value:
        return None
    moment = _timestamp(value)
    if moment is None:
        return None
    now = _timestamp(headers.get("date", ""))
    return max(0.0, moment - (time.time() if now is None else now))


def _timestamp(date: str) -> float | None:
    from email.utils import parsedate_to_datetime  # late: it takes 5 ms

    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None

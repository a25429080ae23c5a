"""Everything at once, at random: threads that open, cancel, time out, close and fork over one session.

What must come out: each call ends in the answer to its own question or in a documented exception, in its time; a
request that may not be sent twice comes once; and in the end nothing is open, waits, or is buffered.

Two settings of the environment, for long runs and to look into a failure: `SYNCFLOW_STRESS_SECONDS` (of each test here)
and `SYNCFLOW_STRESS_SEED`. The same seed makes the same calls; how they meet is up to the machine.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import syncflow
from syncflow import PoolLimits, Session, Timeouts, Watermarks
from syncflow.testing import eventually

from .concurrency import forked
from .engine.rig import pool_of
from .zoo import Zoo, body_of

NewSession = Callable[..., Session]

SECONDS = float(os.environ.get("SYNCFLOW_STRESS_SECONDS", "2.5"))
SEED = int(os.environ.get("SYNCFLOW_STRESS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)

THREADS = 8
# Seconds between two forks: each holds up all threads.
FORK_EVERY = 0.4
# Limits, in seconds. A call that has to succeed is given the first; what a call may take beyond its own limit is the
# second: generous, it only bounds what hangs.
ENOUGH = 20.0
SLACK = 10.0

LIMITS = PoolLimits(per_host=4, total=6, connecting=4, idle=0.05, max_age=0.3)
SMALL = Watermarks(high=8192, low=2048, receive_high=8192, receive_low=2048)

pytestmark = [
    pytest.mark.timeout(SECONDS + 120),
    # What is dropped without being closed says so.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


class Caller:
    """What one thread does: calls that must succeed, and calls that may fail in a documented way."""

    def __init__(self, number: int, session: Session, servers: list[Zoo], cancel: Callable[[Any], None]) -> None:
        self.random = random.Random(f"{SEED} {number}")
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []
        self.sent: list[tuple[Zoo, str, str]] = []  # server, method and token of what was answered
        self._number = number
        self._session = session
        self._servers = servers
        self._cancel = cancel
        self._token = self._method = ""
        self._server = servers[0]
        self._calls = 0
        self._sure = [self.gets, self.heads, self.posts, self.puts_pieces, self.pushes, self.reads_slowly, self.saves]
        self._sure += [self.follows_events, self.gets_the_last, self.closes_early]
        self._risky = [self.times_out, self.is_refused, self.is_cancelled, self.drops, self.uploads_in_vain]
        self._risky += [self.aborts_an_upload, self.cancels_events, self.has_no_patience, self.has_a_session_of_its_own]

    def run(self, until: float) -> None:
        """Each kind of call once, and then whatever comes."""
        first = self._sure + self._risky
        self.random.shuffle(first)
        while (first or time.monotonic() < until) and len(self.faults) < 3:
            self._do(first.pop() if first else self.random.choice(self._sure + self._risky))

    def _do(self, call: Callable[[], None]) -> None:
        self._calls += 1
        name = call.__name__
        begun = time.monotonic()
        try:
            call()
            outcome = "done"
        except syncflow.RequestException as error:
            outcome = type(error).__name__
            if call in self._sure:
                self.faults.append(f"{name}, call {self._calls}: {error!r}, cause {error.__cause__!r}")
        except BaseException as error:
            outcome = "broken"
            self.faults.append(f"{name}, call {self._calls}: {error!r}")
        took = time.monotonic() - begun
        if took > ENOUGH + SLACK:
            self.faults.append(f"{name}, call {self._calls}: it took {took:.1f} s")
        self.outcomes[f"{name}: {outcome}"] += 1

    def _asks(self, method: str, kind: str, size: int) -> dict[str, Any]:
        """What a request is made with; it has a token of its own."""
        self._server = self.random.choice(self._servers)
        self._method, self._token = method, f"{self._number}-{self._calls}"
        return {"url": f"{self._server.url}/{kind}/{size}", "headers": {"X-Token": self._token}}

    def _check(self, response: Any, body: bytes | None = None, status: int = 200) -> None:
        assert response.status_code == status
        assert response.headers["X-Token"] == self._token, "another's answer"
        if body is not None:
            assert response.content == body
        if status == 200:
            self.sent.append((self._server, self._method, self._token))

    def _size(self) -> int:
        return self.random.choice([0, 1, 100, 5000, 70_000, 300_000])

    # ---------------------------------------------------------------- what must succeed

    def gets(self) -> None:
        size = self._size()
        self._check(self._session.get(**self._asks("GET", "ok", size)), body_of(self._token, size))

    def gets_the_last(self) -> None:
        size = self._size()
        self._check(self._session.get(**self._asks("GET", "last", size)), body_of(self._token, size))

    def heads(self) -> None:
        self._check(self._session.head(**self._asks("HEAD", "ok", self._size())), b"")

    def posts(self) -> None:
        data = bytes(self._size())
        response = self._session.post(**self._asks("POST", "ok", 10), data=data)
        self._check(response, body_of(self._token, 10))
        assert response.headers["X-Length"] == str(len(data))

    def puts_pieces(self) -> None:
        pieces = [bytes(self.random.randrange(20_000)) for _ in range(self.random.randrange(10))]
        response = self._session.put(**self._asks("PUT", "ok", 10), data=iter(pieces))
        self._check(response, body_of(self._token, 10))
        assert response.headers["X-Length"] == str(sum(map(len, pieces)))

    def pushes(self) -> None:
        pieces = [bytes(self.random.randrange(1, 20_000)) for _ in range(self.random.randrange(10))]
        with self._session.upload("POST", **self._asks("POST", "ok", 10)) as upload:
            for piece in pieces:
                upload.write(piece)
        self._check(upload.response, body_of(self._token, 10))
        assert upload.response.headers["X-Length"] == str(sum(map(len, pieces)))

    def reads_slowly(self) -> None:
        size = self._size()
        with self._session.get(**self._asks("GET", "chunks", size), stream=True) as response:
            whole = b"".join(response.iter_content(self.random.choice([10_000, 1_000_000])))
            assert whole == body_of(self._token, size)
            self._check(response)

    def saves(self) -> None:
        size, file = self._size(), io.BytesIO()
        response = self._session.get(**self._asks("GET", "ok", size), stream=True)
        assert response.save(file) == size
        assert file.getvalue() == body_of(self._token, size)
        self._check(response)

    def follows_events(self) -> None:
        """Over several connections."""
        with self._session.sse(**self._asks("GET", "events", 3)) as events:
            for number, event in zip(range(7), events, strict=False):
                assert (event.data, event.id) == (self._token, str(number % 3))

    def closes_early(self) -> None:
        with self._session.get(**self._asks("GET", "chunks", 300_000), stream=True) as response:
            self._check(response)
            assert response.raw.read(10) == body_of(self._token, 10)

    # ---------------------------------------------------------------- what may fail

    def times_out(self) -> None:
        name = self.random.choice(["connect", "read", "write", "pool", "total"])
        timeout = Timeouts(**{name: self.random.choice([0.001, 0.01, 0.05])})
        if name in ("read", "total"):
            kind = self.random.choice(["never", "late"])
            with pytest.raises((syncflow.Timeout, AnswerCame)):
                self._check(self._session.get(**self._asks("GET", kind, 30), timeout=timeout))
                raise AnswerCame
        elif name == "write":
            self._session.post(**self._asks("POST", "deaf", 100), data=bytes(20_000_000), timeout=timeout)
        else:
            self._check(self._session.get(**self._asks("GET", "ok", 100), timeout=timeout))

    def is_refused(self) -> None:
        kind = self.random.choice(["closes", "resets", "half", "halfreset"])
        method = self.random.choice(["GET", "POST"])
        with pytest.raises((syncflow.ConnectionError, syncflow.ChunkedEncodingError)):
            self._session.request(method, **self._asks(method, kind, 1000))

    def is_cancelled(self) -> None:
        """Another thread closes what this one reads."""
        kind = self.random.choice(["chunks", "ok"])
        response = self._session.get(**self._asks("GET", kind, 300_000), stream=True)
        self._cancel(response.close)
        assert response.content == body_of(self._token, 300_000)

    def drops(self) -> None:
        """Neither read nor closed."""
        response = self._session.get(**self._asks("GET", "chunks", 70_000), stream=True)
        self._check(response)
        if self.random.random() < 0.5:
            response.raw.read(10)

    def uploads_in_vain(self) -> None:
        kind = self.random.choice(["early", "deaf"])
        response = self._session.post(**self._asks("POST", kind, 5), data=iter([bytes(100_000)] * 10))
        self._check(response, status=413)

    def aborts_an_upload(self) -> None:
        """This thread, another one, or nobody: then it is dropped."""
        upload = self._session.upload("POST", **self._asks("POST", "ok", 10))
        upload.write(bytes(self._size()))
        how = self.random.choice(["abort", "cancel", "drop", "fail"])
        if how == "abort":
            upload.abort()
        elif how == "cancel":
            self._cancel(upload.abort)
            upload.write(bytes(self._size()))
            self._check(upload.finish())
        elif how == "fail":
            with contextlib.suppress(ZeroDivisionError), upload:
                raise ZeroDivisionError

    def cancels_events(self) -> None:
        with self._session.sse(**self._asks("GET", "events", 10_000)) as events:
            self._cancel(events.close)
            for event in events:
                assert event.data == self._token

    def has_no_patience(self) -> None:
        """The total runs out wherever the request just is."""
        total = self.random.uniform(0.0005, 0.03)
        kind = self.random.choice(["ok", "chunks", "late"])
        begun = time.monotonic()
        try:
            response = self._session.get(
                **self._asks("GET", kind, 20_000 if kind != "late" else 10), timeout=Timeouts(total=total)
            )
            self._check(response)
        finally:
            assert time.monotonic() - begun < total + SLACK

    def has_a_session_of_its_own(self) -> None:
        """Which another thread closes, perhaps."""
        with Session(timeout=ENOUGH) as session:
            session.verify, session.trust_env = self._session.verify, False
            if self.random.random() < 0.5:
                self._cancel(session.close)
            for _ in range(3):
                self._check(session.get(**self._asks("GET", "ok", 5000)), body_of(self._token, 5000))


class AnswerCame(Exception):
    """Before the limit. That is no fault."""


@contextlib.contextmanager
def canceller() -> Iterator[Callable[[Any], None]]:
    """Calls what it is given, a little later, on a thread of its own."""
    calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
    chance, pause = random.Random(f"{SEED} canceller"), threading.Event()

    def run() -> None:
        while (call := calls.get()) is not None:
            pause.wait(chance.uniform(0, 0.003))
            call()

    thread = threading.Thread(target=run, name="canceller", daemon=True)
    thread.start()
    try:
        yield calls.put
    finally:
        calls.put(None)
        thread.join(ENOUGH)


def in_a_child(session: Session, server: Zoo) -> list[int]:
    """What a child does with the session that it has from its parent: a request, its end."""
    statuses = [session.get(f"{server.url}/ok/5000", headers={"X-Token": "child"}).status_code for _ in range(2)]
    session.close()
    return [*statuses, session.stats().open]


def check_over(session: Session, servers: list[Zoo], callers: list[Caller]) -> None:
    """Nothing is under way, and the servers have seen what the callers believe."""
    gc.collect()

    def is_quiet() -> bool:
        stats = session.stats()
        return not (stats.in_use or stats.connecting or stats.waiting or stats.bytes_buffered)

    eventually(is_quiet, message=f"{session.stats()}")
    session.close()
    eventually(lambda: session.stats().open == 0, message=f"{session.stats()}")
    pool = pool_of(session)
    ledger = pool._ledger
    kept = [ledger.connections, ledger._hosts, ledger._places, ledger._tickets, ledger._idle, ledger._unwatched]
    kept += [ledger._queue, pool._dials, pool._accounts._unsettled, session._adapter.paused]
    eventually(lambda: not any(kept), message=f"{kept}")
    assert (ledger.open, ledger.connecting) == (0, 0)
    for server in servers:
        server.wait_until_idle()
    came = {server: server.whole for server in servers}
    for caller in callers:
        assert all(came[server][method, token] for server, method, token in caller.sent), "answered, and never asked"
    twice = [key for whole in came.values() for key, count in whole.items() if key[0] == "POST" and count > 1]
    assert twice == [], "sent again, and may not have been"


def test_everything_at_once(new_session: NewSession, server_tls: Any, switching: None) -> None:
    with Zoo() as plain, Zoo(ssl_context=server_tls) as secure, canceller() as cancel:
        session = new_session(pool=LIMITS, watermarks=SMALL, timeout=ENOUGH)
        servers = [plain, secure]
        callers = [Caller(number, session, servers, cancel) for number in range(THREADS)]
        until = time.monotonic() + SECONDS
        threads = [threading.Thread(target=caller.run, args=(until,), daemon=True) for caller in callers]
        for thread in threads:
            thread.start()
        faults = []
        while time.monotonic() < until and any(thread.is_alive() for thread in threads):
            threads[0].join(FORK_EVERY)
            told = forked(lambda: in_a_child(session, plain))()
            if told != [200, 200, 0]:
                faults.append(f"in a child: {told}")
        for number, thread in enumerate(threads):
            thread.join(2 * (ENOUGH + SLACK))
            if thread.is_alive():
                faults.append(f"thread {number} hangs")
        faults += [f"thread {number}: {fault}" for number, caller in enumerate(callers) for fault in caller.faults]
        outcomes = sum((caller.outcomes for caller in callers), Counter())
        assert not faults, "\n".join([f"SYNCFLOW_STRESS_SEED={SEED}", *faults[:10], f"{sorted(outcomes.items())}"])
        try:
            check_over(session, servers, callers)
        except BaseException as error:
            error.add_note(f"SYNCFLOW_STRESS_SEED={SEED}")
            raise

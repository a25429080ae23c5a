"""Ten scenarios, and in each of them every system call going wrong in every way, one call after the other.

A walk takes one scenario, one fault and one call through every k, until the fault does not strike any more: the
scenario has run clean. After each step: the right result, or an exception as documented; nothing hangs, nothing is left
of it; and the same session goes on.
"""

from __future__ import annotations

import contextlib
import errno
import ssl
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from syncflow import RequestException, Session, Timeout, Timeouts, Watermarks
from syncflow.testing import AppServer, Fault, FaultInjector, HTTPProxy, Request, eventually, pattern
from syncflow.testing import Response as Answer
from syncflow.testing.application import echo
from syncflow.testing.faults import Plan

from .conftest import SessionMaker
from .rig import PATIENCE, pool_of, transports

pytestmark = pytest.mark.once

# More than any scenario makes of any call.
ENOUGH = 200

# With these faults no wait lasts: whoever runs into one of these has missed what it waited for.
LONG = Timeouts(connect=10, read=10, write=10, pool=10)

# Less than most of what is sent and received here.
SMALL = Watermarks(high=16_384, low=4096, receive_high=16_384, receive_low=4096)

PHASES = {"pool", "dns", "connect", "proxy", "tls", "send", "head", "body", "reconnect"}

FAULTS = {
    "reset": Fault.reset(),
    "ECONNRESET": Fault.error(errno.ECONNRESET),
    "EPIPE": Fault.error(errno.EPIPE),
    "ETIMEDOUT": Fault.error(errno.ETIMEDOUT),
    "ENOBUFS": Fault.error(errno.ENOBUFS),
    "short": Fault.short(),
    "would_block": Fault.would_block(),
    "delay": Fault.delay(0.02),
}

TLS_FAULTS = {
    "EOF": Fault.error(lambda: ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")),
    "bad record": Fault.error(lambda: ssl.SSLError(ssl.SSL_ERROR_SSL, "[SSL] decryption failed or bad record mac")),
}
TLS_CALLS = {"tls_handshake", "tls_read", "tls_write"}

# Of which nothing may be seen afterwards.
HARMLESS = {"short", "would_block", "delay"}

EVENTS = 5


@dataclass
class Place:
    """Where a scenario takes place.

    Attributes:
        session: one for the whole walk.
        url: of the server.
        proxy: its URL, where there is one.
        posts: requests that may not be sent twice, as many as the server got whole.
    """

    session: Session
    url: str
    proxy: str
    posts: Callable[[], int]


Scenario = Callable[[Place], None]
NewPlace = Callable[..., Place]


def answer(request: Request) -> Answer:
    room, _, rest = request.path[1:].partition("/")
    if room == "bytes":
        size = int(rest)
        return Answer(body=(pattern(size)[at : at + 20_000] for at in range(0, size, 20_000)))
    if room == "moved":
        return Answer(302, {"Location": "/bytes/500"}, b"elsewhere")
    if room == "events":
        last = int(request.headers.get("last-event-id") or 0)
        if last == EVENTS:
            return Answer(204)
        return Answer(200, {"Content-Type": "text/event-stream"}, events(last))
    return echo(request)


def events(last: int) -> Iterator[bytes]:
    yield b"retry: 1\n\n"
    for number in range(last + 1, EVENTS + 1):
        yield b"id: %d\ndata: event %d\n\n" % (number, number)


# ---------------------------------------------------------------------- the scenarios


def get(place: Place) -> None:
    assert place.session.get(place.url + "/bytes/500").content == pattern(500)


def reuse(place: Place) -> None:
    for _ in range(2):
        assert place.session.get(place.url + "/bytes/500").content == pattern(500)
    assert place.session.post(place.url + "/once", data=b"once").json()["body"] == "once"


def redirect(place: Place) -> None:
    response = place.session.get(place.url + "/moved")
    assert [past.status_code for past in response.history] == [302]
    assert response.content == pattern(500)


def file(place: Place) -> None:
    size = 65536 + 30_000  # what is more than 64 KiB goes through os.sendfile
    with tempfile.TemporaryFile() as source:
        source.write(pattern(size))
        source.seek(0)
        assert place.session.post(place.url + "/once", data=source).json()["length"] == size


def generator(place: Place) -> None:
    pieces = (pattern(20_000) for _ in range(3))
    assert place.session.post(place.url + "/once", data=pieces).json()["length"] == 60_000


def push(place: Place) -> None:
    with place.session.upload("POST", place.url + "/once") as upload:
        for _ in range(3):
            upload.write(pattern(20_000))
            upload.flush()
    assert upload.response.json()["length"] == 60_000


def download(place: Place, size: int = 150_000) -> None:
    with place.session.get(f"{place.url}/bytes/{size}", stream=True) as response:
        assert b"".join(response.iter_content(20_000)) == pattern(size)


def sse(place: Place) -> None:
    with place.session.sse(place.url + "/events") as stream:
        stream.reconnection_time = 0.001
        assert [event.data for event in stream] == [f"event {number + 1}" for number in range(EVENTS)]


def tls(place: Place) -> None:
    get(place)
    generator(place)
    download(place, 50_000)


def proxy(place: Place) -> None:
    """A tunnel, and TLS in it."""
    response = place.session.get(place.url + "/bytes/500", proxies={"https": place.proxy})
    assert response.content == pattern(500)


SCENARIOS: list[Scenario] = [
    get,
    reuse,
    redirect,
    file,
    generator,
    push,
    download,
    sse,
    tls,
    proxy,
]


@pytest.fixture
def new_place(new_session: SessionMaker, server_tls: ssl.SSLContext) -> Iterator[NewPlace]:
    """What a scenario needs, for as long as the test goes on."""
    with ExitStack() as stack:

        def make(scenario: Scenario, watermarks: Watermarks | None = None) -> Place:
            is_secure = scenario in (tls, proxy)
            session = new_session(timeout=LONG, watermarks=watermarks)
            session.trust_env = False
            posts: list[Request] = []

            def app(request: Request) -> Answer:
                if request.method == "POST":
                    posts.append(request)
                return answer(request)

            server = stack.enter_context(AppServer(app, ssl_context=server_tls if is_secure else None))
            way = stack.enter_context(HTTPProxy()).url if scenario is proxy else ""
            return Place(session, server.url, way, lambda: len(posts))

        yield make


# ---------------------------------------------------------------------- a step


class Walk:
    """One scenario with one fault, step after step."""

    def __init__(self, scenario: Scenario, place: Place, faults: FaultInjector, name: str, *, hesitant: bool) -> None:
        self.scenario = scenario
        self.place = place
        self.faults = faults
        self.name = name
        self.fault = FAULTS.get(name) or TLS_FAULTS[name]
        self.hesitant = hesitant
        self.plan: Plan | None = None
        self.outcomes: set[str] = set()
        self.threads = own_threads() | {"syncflow-worker"}

    def clean(self) -> Counter[str]:
        """How often it makes each call when nothing goes wrong."""
        self.disturb()
        self.scenario(self.place)
        calls = self.faults.calls
        self.look_after(calls)
        return calls

    def all_of(self, call: str) -> int:
        """Every k of one call; how many steps there were until it ran clean."""
        for k in range(ENOUGH):
            what = f"{self.name} at {call} number {k}"
            self.disturb(call, k)
            is_clean = self.step(what)
            self.look_after(what)
            if is_clean:
                return k
        raise AssertionError(f"{call}: the fault strikes again and again: the calls grow in number")

    def disturb(self, call: str = "", k: int = 0) -> None:
        """From now on, and until `look_after`."""
        self.faults.clear()
        self.plan = self.faults.plan(call, fault=self.fault, at=k) if call else None
        if self.hesitant:
            slow = Fault.would_block()
            self.faults.plan(*slow.calls, fault=slow, at=None)

    @property
    def has_struck(self) -> bool:
        return self.plan is not None and self.plan.struck.is_set()

    def step(self, what: str) -> bool:
        """Whether it has run clean."""
        posts = self.place.posts()
        try:
            self.scenario(self.place)
        except RequestException as error:
            check(error, what, may_fail=self.name not in HARMLESS and self.has_struck)
            self.outcomes.add("exception")
        else:
            self.outcomes.add("answer")
        assert self.place.posts() - posts <= 1, f"{what}: the server got it twice"
        return not self.has_struck

    def look_after(self, what: object) -> None:
        """Nothing is left of a step, and the session goes on; then without a connection."""
        self.faults.clear()
        pool = pool_of(self.place.session)
        eventually(self.is_still, PATIENCE, message=f"{what}: {self.place.session.stats()}, {self.faults.open_sockets}")
        for transport in transports(self.place.session):
            assert is_free(transport.receiving), what
            assert is_free(transport.sending), what
        assert is_free(pool._lock), what
        assert is_free(pool.worker._lock), what
        if self.scenario is proxy:
            proxy(self.place)
        else:
            get(self.place)
        pool.retire()
        pool._retired = False
        eventually(lambda: self.faults.open_sockets == 0, PATIENCE, message=f"{what}: {self.place.session.stats()}")
        assert own_threads() <= self.threads, what

    def is_still(self) -> bool:
        stats = self.place.session.stats()
        busy = stats.in_use, stats.connecting, stats.waiting, stats.bytes_buffered
        return not any(busy) and stats.open == stats.idle == self.faults.open_sockets


def check(error: RequestException, what: str, *, may_fail: bool) -> None:
    """Whether it says what it has to say."""
    with contextlib.suppress(AttributeError):
        error.add_note(what)
    if not may_fail or isinstance(error, Timeout):
        raise error
    assert "127.0.0.1:" in str(error), what
    assert error.phase in PHASES, f"{what}: {error!r} in phase {error.phase}"
    assert error.request is not None, f"{what}: {error!r}"


def is_free(lock: Any) -> bool:
    """Whether no thread holds it for long, nor this one at all."""
    if hasattr(lock, "_is_owned") and lock._is_owned():
        return False
    if not lock.acquire(timeout=PATIENCE):
        return False
    lock.release()
    return True


def own_threads() -> set[str]:
    """Without those of the servers."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith(("AppServer", "HTTPProxy"))}


# ---------------------------------------------------------------------- the walks


def walk(scenario: Scenario, place: Place, name: str, *, hesitant: bool = False) -> None:
    with FaultInjector() as faults:
        each = Walk(scenario, place, faults, name, hesitant=hesitant)
        calls = set(each.clean()) & (TLS_CALLS if name in TLS_FAULTS else each.fault.calls)
        steps = {call: each.all_of(call) for call in calls}
    assert all(steps.values()), f"some of these calls were not struck: {steps}"
    # A stream of events survives all of it.
    assert each.outcomes == ({"answer"} if name in HARMLESS or scenario is sse else {"answer", "exception"}), steps


every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)


@every_scenario
@pytest.mark.parametrize("name", FAULTS)
def test_every_call(scenario: Scenario, new_place: NewPlace, name: str) -> None:
    walk(scenario, new_place(scenario), name)


@pytest.mark.parametrize("scenario", [tls, proxy], ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("name", TLS_FAULTS)
def test_every_call_of_openssl(scenario: Scenario, new_place: NewPlace, name: str) -> None:
    walk(scenario, new_place(scenario), name)


@every_scenario
@pytest.mark.parametrize("name", ["reset", "ENOBUFS", "short"])
def test_every_call_of_those_that_wait(scenario: Scenario, new_place: NewPlace, name: str) -> None:
    """Every call would block at first, and the buffers hold little: what a caller would do on its own thread, the
    worker does, and meets the fault while callers wait for it."""
    walk(scenario, new_place(scenario, SMALL), name, hesitant=True)


@every_scenario
@pytest.mark.parametrize("name", ["reset", "EPIPE", "short"])
@pytest.mark.usefixtures("frantic")
def test_every_call_under_frantic_switching(scenario: Scenario, new_place: NewPlace, name: str) -> None:
    walk(scenario, new_place(scenario), name)

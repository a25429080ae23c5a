"""A name whose address changes: a session that lives for long follows it, and no old connection outlives its age.

Knows the pool's clock, so that an age can come without waiting for it. The two addresses are both of this machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from syncflow import PoolLimits, Session
from syncflow.engine import ledger, pool
from syncflow.testing import AppServer, Peer, Request, Response, ScriptedServer, eventually, reply, reply_head

from .concurrency import PATIENCE, Call

NewSession = Callable[..., Session]

# Seconds: of an age that is to come during the test, and of one that is not, unless the clock is moved.
SOON = 0.1
AGE = 3600.0


class Name:
    """A name's address; it is its session's `resolver`."""

    def __init__(self, address: str) -> None:
        self.addresses = [address]
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self.addresses


class Clock:
    """The pool's. Ahead of the true one by what the test says."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ledger, "monotonic", clock)
    monkeypatch.setattr(pool, "monotonic", clock)
    return clock


class Move(NamedTuple):
    """Of a service, from one address to another; the port stays."""

    old: AppServer
    new: AppServer
    name: Name

    @property
    def url(self) -> str:
        return f"http://service.test:{self.old.port}/"

    def happen(self) -> None:
        self.name.addresses = ["127.0.0.2"]


def big(request: Request) -> Response:
    return Response(body=b"x" * int(request.path.strip("/") or 0))


@pytest.fixture
def move() -> Iterator[Move]:
    with AppServer(big) as old, AppServer(big, bind_to=("127.0.0.2", old.port)) as new:
        yield Move(old, new, Name("127.0.0.1"))


def address(response: Any) -> str:
    assert response.ok
    return str(response.peer[0])


# -------------------------------------------------------------------------------------------- with an age


def test_it_follows_when_its_connection_is_old(new_session: NewSession, move: Move, clock: Clock) -> None:
    session = new_session(resolver=move.name, pool=PoolLimits(max_age=AGE, idle=10 * AGE))
    assert address(session.get(move.url)) == "127.0.0.1"
    move.happen()
    clock.ahead += AGE / 2
    assert address(session.get(move.url)) == "127.0.0.1", "used before its age"
    assert (move.old.connections, move.name.asked) == (1, 1)
    clock.ahead += AGE / 2
    assert address(session.get(move.url)) == "127.0.0.2"
    move.old.wait_until_idle()
    assert (move.old.connections, move.new.connections, move.name.asked) == (1, 1, 2)


def test_one_that_is_in_use_when_its_age_comes_ends_with_that(
    new_session: NewSession, move: Move, clock: Clock
) -> None:
    """It is never idle again, nobody asks for it: it ends at its return."""
    session = new_session(resolver=move.name, pool=PoolLimits(max_age=AGE, idle=10 * AGE))
    with session.get(f"{move.url}20000000", stream=True) as response:
        move.happen()
        clock.ahead += AGE
        assert len(response.content) == 20_000_000, "what is under way goes on"
        move.old.wait_until_idle()
    assert session.stats().open == 0
    assert address(session.get(move.url)) == "127.0.0.2"


def test_one_that_is_promised_when_its_age_comes_is_not_used(new_session: NewSession, move: Move, clock: Clock) -> None:
    """Who waits in the queue gets the place, not the connection."""
    session = new_session(resolver=move.name, pool=PoolLimits(per_host=1, max_age=AGE, idle=10 * AGE))
    with session.get(f"{move.url}20000000", stream=True) as response:
        waiting = Call(session.get, move.url)
        eventually(lambda: session.stats().waiting == 1)
        move.happen()
        clock.ahead += AGE
        assert len(response.content) == 20_000_000
    assert address(waiting.result()) == "127.0.0.2"
    move.old.wait_until_idle()


def test_constant_traffic_keeps_no_old_connection_alive(
    frantic: None, new_session: NewSession, move: Move, clock: Clock
) -> None:
    """Every request that is begun after the age has come goes to the new address, whatever the others are doing."""
    session = new_session(resolver=move.name, pool=PoolLimits(per_host=3, max_age=AGE, idle=10 * AGE))
    aged, enough = threading.Event(), threading.Event()
    rounds = [0] * 6

    def ask(number: int) -> None:
        while not enough.is_set():
            late = aged.is_set()
            where = address(session.get(move.url))
            assert where == "127.0.0.2" or not late, "an old connection was used"
            rounds[number] += 1

    callers = [Call(ask, number) for number in range(6)]
    try:
        eventually(lambda: all(count > 5 for count in rounds))
        move.happen()
        clock.ahead += AGE
        aged.set()
        reached = list(rounds)
        eventually(lambda: all(now > before + 5 for now, before in zip(rounds, reached, strict=True)))
    finally:
        enough.set()
    for caller in callers:
        caller.result()
    move.old.wait_until_idle()
    assert session.stats().open == move.new.open_connections <= 3


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_it_happens_in_time(new_session: NewSession, move: Move, busy: bool) -> None:
    """By the real clock: while nobody asks, and while somebody asks all the time."""
    session = new_session(resolver=move.name, pool=PoolLimits(max_age=SOON))
    assert address(session.get(move.url)) == "127.0.0.1"
    move.happen()
    if busy:
        eventually(lambda: address(session.get(move.url)) == "127.0.0.2")
    move.old.wait_until_idle()
    assert address(session.get(move.url)) == "127.0.0.2"


# -------------------------------------------------------------------------------------------- without one


def test_a_server_that_is_lost_is_looked_for_anew(new_session: NewSession, move: Move) -> None:
    session = new_session(resolver=move.name)
    assert address(session.get(move.url)) == "127.0.0.1"
    move.happen()
    assert address(session.get(move.url)) == "127.0.0.1", "there is no reason to leave it"
    move.old.stop()
    assert address(session.post(move.url, data=b"once")) == "127.0.0.2"
    assert move.name.asked == 2


def test_one_that_is_lost_under_a_request_is_looked_for_anew(new_session: NewSession) -> None:
    """The request is sent again, to where the server is now."""
    name = Name("127.0.0.1")

    def leaves(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(200, b"old"))
        peer.read_head()
        name.addresses = ["127.0.0.2"]
        peer.reset()

    with ScriptedServer(leaves) as old, AppServer(big, bind_to=("127.0.0.2", old.port)) as new:
        session = new_session(resolver=name)
        url = f"http://service.test:{old.port}/"
        assert session.get(url).content == b"old"
        assert address(session.get(url)) == "127.0.0.2"
        assert (old.connections, new.connections) == (1, 1)


def test_nothing_remembers_an_address(new_session: NewSession, move: Move) -> None:
    """Route and head of the request are known from before; where the server is, is asked for every connection."""
    session = new_session(resolver=move.name)
    for number in range(1, 9):
        move.name.addresses = [f"127.0.0.{1 + number % 2}"]
        assert address(session.get(move.url, headers={"Connection": "close"})) == move.name.addresses[0]
        assert move.name.asked == number


def test_a_stream_of_events_follows_too(new_session: NewSession) -> None:
    """Each reconnection asks anew."""
    name = Name("127.0.0.1")

    def sends(event: bytes) -> Callable[[Peer], None]:
        def script(peer: Peer) -> None:
            peer.read_request()
            peer.send(reply_head(200, {"Content-Type": "text/event-stream", "Connection": "close"}))
            peer.send(b"retry: 1\ndata: %b\n\n" % event)

        return script

    with ScriptedServer(sends(b"old")) as old, ScriptedServer(sends(b"new"), bind_to=("127.0.0.2", old.port)):
        session = new_session(resolver=name)
        with session.sse(f"http://service.test:{old.port}/") as events:
            seen = []
            for event in events:
                seen.append(event.data)
                name.addresses = ["127.0.0.2"]
                if event.data == "new":
                    break
    assert seen == ["old", "new"]


def test_the_age_of_a_connection_is_no_limit_of_a_request(new_session: NewSession, clock: Clock) -> None:
    """An answer that takes longer than that is read to its end."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "6"}) + b"abc")
        peer.wait_step()
        peer.send(b"def")
        peer.wait_closed(PATIENCE)

    with ScriptedServer(script) as server:
        session = new_session(pool=PoolLimits(max_age=AGE, idle=10 * AGE))
        with session.get(server.url, stream=True) as response:
            clock.ahead += 2 * AGE
            server.step()
            assert response.content == b"abcdef"
        server.wait_until_idle()

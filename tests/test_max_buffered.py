"""`max_buffered`: what waits in all buffers of a session together, with servers that take nothing and readers that read
nothing; that nobody is stopped by it; and that everything is given back."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import pickle
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncflow import PoolLimits, Response, Session
from syncflow.adapters import HTTPAdapter
from syncflow.engine.budget import FLOOR, Budget
from syncflow.engine.sending import FRAMING_SLACK
from syncflow.testing import Peer, ScriptedServer, eventually, pattern, reply, reply_head

from .concurrency import Call, forked

NewSession = Callable[..., Session]

MIB = 1 << 20
LEAST = 65536
# So that little waits in the kernel, and what does not fit there comes to us.
SMALL_BUFFERS = [(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096), (socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
MANY = PoolLimits(per_host=200, total=200)


def budget_of(session: Session) -> Budget:
    budget = session._adapter._pool.budget
    assert budget is not None
    return budget


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


class Gate:
    """A server that takes no body until the gate is open; the answer has the body's digest. What is downloaded it
    sends at once, as far as it is read."""

    def __init__(self, tls: ssl.SSLContext | None, size: int = 200_000) -> None:
        self.body = pattern(size)
        self.opened = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.server = ScriptedServer(self._serve, ssl_context=tls, receive_buffer=4096)

    def _serve(self, peer: Peer) -> None:
        while peer._reader.more():
            request = peer.read_request(body=False)
            if request.method == "GET":
                self.arrived.release()
                peer.send(reply(200, self.body))
                continue
            self.arrived.release()
            if request.target != "/at-once":
                peer.wait_for(self.opened)
            peer.send(reply(200, hashlib.sha256(peer.read_body(request)).hexdigest().encode()))

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.arrived.acquire(timeout=20)


@pytest.fixture
def new_gate() -> Iterator[Callable[..., Gate]]:
    with contextlib.ExitStack() as stack:

        def make(tls: ssl.SSLContext | None = None, **settings: Any) -> Gate:
            gate = Gate(tls, **settings)
            stack.enter_context(gate.server)
            stack.callback(gate.opened.set)
            return gate

        yield make


@pytest.fixture
def thrifty(new_session: NewSession) -> Iterator[NewSession]:
    """Makes sessions with a budget. When they are closed all of it is back."""
    made: list[Session] = []

    def make(max_buffered: int = LEAST, **settings: Any) -> Session:
        settings.setdefault("socket_options", SMALL_BUFFERS)
        session = new_session(max_buffered=max_buffered, pool=MANY, timeout=20, **settings)
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()
        eventually(lambda session=session: budget_of(session).standing() == (0, 0))  # type: ignore[misc]


class Watch:
    """A thread that looks all the time at how much is buffered."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._done = threading.Event()
        self.most = self.looks = self.most_granted = self.most_over = 0
        self._call = Call(self._look)

    def _look(self) -> None:
        budget = budget_of(self._session)
        while not self._done.is_set():
            self.most = max(self.most, self._session.stats().bytes_buffered)
            granted, holders = budget.standing()
            self.most_granted = max(self.most_granted, granted)
            self.most_over = max(self.most_over, granted - holders * FLOOR - budget.limit)
            self.looks += 1

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()
        self._call.result()


def upload(session: Session, gate: Gate, piece: int = 10_000, path: str = "/") -> bool:
    with session.upload("PUT", gate.server.url + path) as up:
        for start in range(0, len(gate.body), piece):
            up.write(gate.body[start : start + piece])
    return bool(up.response.text == hashlib.sha256(gate.body).hexdigest())


def download(session: Session, gate: Gate) -> bool:
    """By a reader that waits for the gate, too, with bytes before it and behind it."""
    response = session.get(gate.server.url, stream=True)
    read = response.raw.read(10)
    assert gate.opened.wait(20)
    while piece := response.raw.read1(1000):
        read += piece
    return bool(read == gate.body)


@pytest.mark.usefixtures("frantic")
@pytest.mark.parametrize(("count", "secure"), [(50, False), (10, True)])
def test_a_hundred_stuck_connections_stay_within_it(
    thrifty: NewSession, new_gate: Callable[..., Gate], server_tls: ssl.SSLContext, count: int, secure: bool
) -> None:
    session, gate = thrifty(4 * LEAST), new_gate(server_tls if secure else None, size=100_000)
    with Watch(session) as watch:
        # As large as they go at once, so that a refused one is worth keeping.
        calls = [Call(upload, session, gate, 60_000) for _ in range(count)]
        calls += [Call(download, session, gate) for _ in range(count)]
        gate.wait_for(2 * count)
        # The buffers have come to where nothing moves.
        eventually(lambda: watch.most > 2 * LEAST, timeout=15)
        gate.opened.set()
        assert all(call.result() for call in calls)
    assert watch.looks > 3
    assert watch.most_over <= 0
    assert watch.most <= 4 * LEAST + 2 * count * (FLOOR + FRAMING_SLACK)


def test_without_one_they_hold_more(new_session: NewSession, new_gate: Callable[..., Gate]) -> None:
    """What the tests here show is the budget's doing."""
    session, gate = new_session(pool=MANY, socket_options=SMALL_BUFFERS, timeout=20), new_gate()
    calls = [Call(upload, session, gate) for _ in range(5)]
    eventually(lambda: session.stats().buffered_outgoing > 4 * LEAST)
    gate.opened.set()
    assert all(call.result() for call in calls)


def test_when_others_have_used_it_up_requests_go_on(
    thrifty: NewSession, new_gate: Callable[..., Gate], tls: ssl.SSLContext | None
) -> None:
    session, gate = thrifty(), new_gate(tls)
    calls = [Call(upload, session, gate) for _ in range(20)]
    eventually(lambda: budget_of(session).standing()[0] > LEAST)
    assert upload(session, gate, path="/at-once")
    assert upload(session, gate, piece=100, path="/at-once")
    assert session.get(gate.server.url).content == gate.body
    with session.get(gate.server.url, stream=True) as response:
        assert b"".join(response.iter_content(100)) == gate.body
    gate.opened.set()
    assert all(call.result() for call in calls)


def test_a_reader_of_little_at_a_time_gets_all(thrifty: NewSession, new_gate: Callable[..., Gate]) -> None:
    """The worker stops reading at the share's watermark, and goes on, or the reader does, below it."""
    session, gate = thrifty(), new_gate()
    stuck = [session.get(gate.server.url, stream=True) for _ in range(20)]
    eventually(lambda: session.stats().buffered_incoming > LEAST)
    for response in stuck:
        assert b"".join(response.iter_content(1000)) == gate.body


@pytest.mark.usefixtures("switching")
def test_pieces_of_every_size_arrive(
    thrifty: NewSession, new_gate: Callable[..., Gate], tls: ssl.SSLContext | None
) -> None:
    session, gate = thrifty(), new_gate(tls)
    gate.opened.set()
    pieces = [1, 100, FLOOR - FRAMING_SLACK, FLOOR, FLOOR + 1, 20_000, LEAST, 150_000]
    calls = [Call(upload, session, gate, piece) for piece in pieces[1:]]
    assert all(call.result() for call in calls)


def test_try_write_takes_a_piece_whole_even_then(thrifty: NewSession, new_gate: Callable[..., Gate]) -> None:
    session, gate = thrifty(), new_gate()
    calls = [Call(upload, session, gate) for _ in range(20)]
    eventually(lambda: budget_of(session).standing()[0] > LEAST)
    with session.upload("PUT", f"{gate.server.url}/at-once") as up:
        for start in range(0, len(gate.body), 50_000):
            while not up.try_write(gate.body[start : start + 50_000]):
                assert up.wait_writable(10)
    assert up.response.text == hashlib.sha256(gate.body).hexdigest()
    gate.opened.set()
    assert all(call.result() for call in calls)


def test_what_is_gathered_is_within_the_floor(thrifty: NewSession, new_gate: Callable[..., Gate]) -> None:
    session, gate = thrifty(), new_gate()
    gate.opened.set()
    with session.upload("PUT", gate.server.url) as up:
        up.write(b"small")
        assert 0 < up._writer._room < FLOOR


# -------------------------------------------------------------------------------------------- what counts


def switching_protocols(peer: Peer) -> None:
    peer.read_head()
    peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: blind\r\n\r\n")
    with contextlib.suppress(AssertionError, OSError):
        peer.send(bytes(MIB))
    peer.stall()


def test_upgraded_connections_count(thrifty: NewSession) -> None:
    session = thrifty()
    with ScriptedServer(switching_protocols, receive_buffer=4096) as server, contextlib.ExitStack() as stack:
        for _ in range(20):
            headers = {"Connection": "upgrade", "Upgrade": "blind"}
            response = session.get(server.url, headers=headers, stream=True)
            stack.callback(response.upgraded.abort)
        eventually(lambda: budget_of(session).standing()[1] == 20)
        assert session.stats().buffered_incoming <= LEAST + 20 * FLOOR
        assert response.upgraded.read(1000) == bytes(1000)


def test_what_is_left_of_a_complete_answer_does_not_count(thrifty: NewSession) -> None:
    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(reply(200, bytes(5000)))

    session = thrifty()
    with ScriptedServer(script) as server:
        held = [session.get(server.url, stream=True) for _ in range(5)]
        eventually(lambda: session.stats().open > 0 == session.stats().in_use)
        assert budget_of(session).standing() == (0, 0)
        assert [len(response.content) for response in held] == [5000] * 5


Ending = Callable[[Session, Response, ScriptedServer], object]
ENDINGS: dict[str, Ending] = {
    "closed": lambda session, response, server: response.close(),
    "dropped": lambda session, response, server: None,
    "session closed": lambda session, response, server: session.close(),
    "cut": lambda session, response, server: server.release(),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_it_is_given_back_however_an_answer_ends(thrifty: NewSession, ending: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply_head(200, {"Content-Length": "1000000"}) + bytes(30_000))
        peer.stall()

    session = thrifty()
    with ScriptedServer(script) as server:
        response = session.get(server.url, stream=True)
        eventually(lambda: budget_of(session).standing() != (0, 0))
        ENDINGS[ending](session, response, server)
        if ending == "cut":
            with pytest.raises(OSError):
                _ = response.content
        del response
        eventually(lambda: budget_of(session).standing() == (0, 0))


def test_it_is_given_back_when_an_upload_is_aborted(thrifty: NewSession, new_gate: Callable[..., Gate]) -> None:
    session, gate = thrifty(), new_gate()
    up = session.upload("PUT", gate.server.url)
    while up.try_write(bytes(20_000)):
        pass
    assert budget_of(session).standing()[1] == 1
    up.abort()
    eventually(lambda: budget_of(session).standing() == (0, 0))


def test_a_forked_child_has_one_of_its_own(thrifty: NewSession, new_gate: Callable[..., Gate]) -> None:
    session, gate = thrifty(), new_gate()
    call = Call(upload, session, gate)
    response = session.get(gate.server.url, stream=True)
    eventually(lambda: budget_of(session).standing()[1] == 2)
    with budget_of(session)._lock:  # as another thread may, at that moment

        def child() -> Any:
            response.close()
            before = budget_of(session).standing()
            return [before, len(session.get(gate.server.url).content), budget_of(session).standing()]

        outcome = forked(child)
    assert outcome() == [[0, 0], len(gate.body), [0, 0]]
    gate.opened.set()
    assert call.result()
    assert response.content == gate.body


# -------------------------------------------------------------------------------------------- as a setting


@pytest.mark.parametrize("make", [Session, HTTPAdapter])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (LEAST - 1, ValueError), (-1, ValueError), (True, TypeError), (1e6, TypeError), ("1", TypeError)],
)
def test_what_it_may_be(make: Callable[..., Any], value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"max_buffered .* None"):
        make(max_buffered=value)


def test_copies_have_it_and_each_its_own() -> None:
    with Session(max_buffered=LEAST) as session, Session() as other:
        assert other._adapter._pool.budget is None
        for same in (copy.copy(session), pickle.loads(pickle.dumps(session))):
            with same:
                assert budget_of(same).limit == LEAST
                assert budget_of(same) is not budget_of(session)
        adapter = pickle.loads(pickle.dumps(session._adapter))
        assert adapter._pool.budget is not None
        assert adapter._pool.budget.limit == LEAST
        adapter.close()

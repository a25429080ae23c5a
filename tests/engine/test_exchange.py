"""One request and its answer: what is received ahead, what ends a wait, and steps that cross one another.

Where two threads meet, one of them is held between two lines until the other has come to where it hurts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from syncflow import ConnectionError, ReadTimeout, Session, Timeouts, Watermarks
from syncflow.engine.buffers import IncomingBuffer
from syncflow.engine.connection import Connection
from syncflow.engine.worker import Worker
from syncflow.testing import Peer, ScriptedServer, chunk, eventually, last_chunk, pattern, reply, reply_head

from ..concurrency import Call
from .conftest import SessionMaker, Wire
from .rig import PATIENCE, connection_of, counts, has_waiters, is_receiver_blocked, pool_of, run_on

pytestmark = pytest.mark.usefixtures("switching")

Hold = Callable[..., None]


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Let `before` run when `owner.name` is called for the first time, ahead of it."""

    def held(owner: object, name: str, before: Callable[[], object]) -> None:
        function = getattr(owner, name)
        first = [before]

        def slow(*args: Any, **kwargs: Any) -> Any:
            if first:
                first.pop()()
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, slow)

    return held


def only_connection(session: Session) -> Connection:
    (connection,) = pool_of(session)._ledger.connections
    return connection


def watched(session: Session, url: str) -> Connection:
    """An idle connection in the hands of the worker, as it is after 50 ms."""
    assert session.get(url).ok
    connection = only_connection(session)
    run_on(connection.transport.worker, connection.watch)
    eventually(lambda: connection.transport in connection.transport.worker._watched)
    return connection


# ---------------------------------------------------------------------- what is received ahead


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every size that an incoming buffer reaches."""
    seen: list[int] = []
    append = IncomingBuffer.append

    def recording(self: IncomingBuffer, piece: bytes) -> None:
        append(self, piece)
        seen.append(self.size)

    monkeypatch.setattr(IncomingBuffer, "append", recording)
    return seen


SMALL = Watermarks(receive_high=1000, receive_low=100)


@pytest.mark.parametrize("size", [1, 900, 990, 1000, 5000, 40_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("hands", ["own", "worker"])
def test_a_whole_answer_through_a_small_buffer(
    new_session: SessionMaker, wire: Wire, sizes: list[int], size: int, framing: str, hands: str
) -> None:
    """The answer comes in one piece, and one TLS record holds more than may be received at once."""
    body = pattern(size)
    session = new_session(watermarks=SMALL, timeout=Timeouts(read=PATIENCE))

    def script(peer: Peer) -> None:
        for request in peer.requests():
            if request.path == "/first":
                peer.send(reply(200))
            elif framing == "length":
                peer.send(reply(200, body))
            else:
                peer.send(reply_head(200, {"Transfer-Encoding": "chunked"}) + chunk(body) + last_chunk())

    with ScriptedServer(script, ssl_context=wire.server) as server:
        if hands == "worker":
            watched(session, server.url + "/first")
        assert session.get(server.url).content == body
        sizes.clear()  # who wants the whole asks for more than the watermark at once
        with session.get(server.url, stream=True) as response:
            assert b"".join(response.iter_content(100)) == body
        assert server.connections == 1
        assert max(sizes) <= 1000


def test_a_response_that_nobody_reads_stops_being_received(session: Session, wire: Wire, sizes: list[int]) -> None:
    total = 30_000_000
    sent = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": str(total)}))
        for _ in range(total // 1_000_000):
            peer.send(bytes(1_000_000))
        sent.set()
        peer.wait_closed()

    with ScriptedServer(script, ssl_context=wire.server) as server:
        response = session.get(server.url, stream=True)
        transport = connection_of(response).transport
        eventually(lambda: response._exchange.incoming.room <= 0)
        eventually(lambda: transport not in transport.worker._watched)
        assert not sent.is_set()
        received = response._exchange.bytes_received
        run_on(transport.worker, lambda: None)
        assert response._exchange.bytes_received == received == 65536
        assert max(sizes) == 65536
        # It goes on when it is read.
        assert sum(map(len, response.iter_content(10_000))) == total
        assert sent.is_set()
    assert max(sizes) <= 65536


def test_a_reader_of_little_pieces_is_kept_supplied(session: Session, wire: Wire) -> None:
    """Below the low watermark the worker fills the buffer again, while the reader computes."""
    with ScriptedServer(lambda peer: _answer(peer, pattern(300_000)), ssl_context=wire.server) as server:
        response = session.get(server.url, stream=True)
        exchange = response._exchange
        eventually(lambda: exchange.incoming.room <= 0)
        body = exchange.read(65536 - exchange.incoming.low)
        while len(body) < 65536 - exchange.incoming.low:
            body += exchange.read(1)
        if wire.server is None:
            # With TLS what is there may wait inside OpenSSL, for the reader to come and get it.
            eventually(lambda: exchange.incoming.size > exchange.incoming.low)
        assert body + response.content == pattern(300_000)


def _answer(peer: Peer, body: bytes) -> None:
    for _ in peer.requests():
        peer.send(reply(200, body))


# ---------------------------------------------------------------------- steps that cross


def test_a_caller_who_begins_to_wait_while_the_answer_is_acted_upon_is_woken(
    session: Session, wire: Wire, hold: Hold
) -> None:
    """The worker found the head before the caller wanted to know of it, and shows it afterwards."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.wait_step()
        peer.send(reply_head(200, {"Content-Length": "10"}))
        peer.stall()

    with ScriptedServer(script, ssl_context=wire.server) as server:
        upload = session.upload("PUT", server.url)
        transport = connection_of(upload).transport
        found = threading.Event()

        def before() -> None:
            found.set()
            eventually(lambda: has_waiters(transport.arrived))

        hold(transport, "stop_message", before)
        server.step()
        assert found.wait(PATIENCE)
        call = Call(upload._exchange.wait_answered, whole=False)
        assert call.result().status == 200
        upload.abort()


class Shop:
    """A server whose answers to GET come in two halves and to POST in one, each when it is told to."""

    def __init__(self) -> None:
        self.posted = threading.Event()
        self.may_end = threading.Event()
        self.may_answer = threading.Event()

    def __call__(self, peer: Peer) -> None:
        for request in peer.requests():
            if request.path == "/first":
                peer.send(reply(200))
            elif request.method == "POST":
                self.posted.set()
                peer.wait_for(self.may_answer)
                peer.send(reply(200, b"posted"))
            else:
                peer.send(reply_head(200, {"Content-Length": "2"}) + b"x")
                peer.wait_for(self.may_end)
                peer.send(b"y")


def test_closing_a_response_that_ends_meanwhile_harms_nobody_else(session: Session, wire: Wire, hold: Hold) -> None:
    """The worker takes the last byte while `close` is between its decision and the closing."""
    shop = Shop()
    with ScriptedServer(shop, ssl_context=wire.server) as server:
        response = session.get(server.url, stream=True)
        exchange, connection = response._exchange, connection_of(response)
        posts: list[Call[Any]] = []

        def before() -> None:
            shop.may_end.set()
            eventually(lambda: exchange.settled or connection.transport.closed)
            posts.append(Call(session.post, server.url, data=b"x"))
            assert shop.posted.wait(PATIENCE)

        hold(connection, "close", before)
        # Whoever has called it off gives it up, however late: it is for the worker not to give it back as well.
        Call(response.close).result()
        shop.may_answer.set()
        assert posts[0].result().content == b"posted"


def test_giving_up_on_an_answer_that_ends_meanwhile_harms_nobody_else(
    session: Session, wire: Wire, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has taken the last byte and not yet shown it, as the caller's time runs out."""
    shop = Shop()
    shop.may_end.set()
    with ScriptedServer(shop, ssl_context=wire.server) as server:
        connection = watched(session, server.url + "/first")
        giving_up = threading.Event()
        posts: list[Call[Any]] = []

        def post_first() -> None:
            giving_up.set()
            eventually(lambda: posts)
            assert shop.posted.wait(PATIENCE)

        calls: list[Call[Any]] = []
        hold(pool_of(session), "release", lambda: eventually(lambda: calls and (giving_up.is_set() or calls[0].ended)))
        hold(connection, "close", post_first)
        calls.append(Call(session.get, server.url, timeout=Timeouts(read=0.05)))
        eventually(lambda: giving_up.is_set() or calls[0].ended)
        eventually(lambda: counts(pool_of(session))[1] == 1)
        monkeypatch.undo()
        posts.append(Call(session.post, server.url, data=b"x"))
        assert shop.posted.wait(PATIENCE)
        assert isinstance(calls[0].error(), ReadTimeout)
        shop.may_answer.set()
        assert posts[0].result().content == b"posted"
        assert server.connections == 1


@pytest.mark.parametrize("wait", ["own socket", "worker"])
def test_whoever_waits_on_a_connection_that_is_closed_is_told(session: Session, wire: Wire, wait: str) -> None:
    """Nothing does so but by mistake; a mistake must not be a caller who waits for ever."""
    shop = Shop()
    with ScriptedServer(shop, ssl_context=wire.server) as server:
        if wait == "worker":
            watched(session, server.url + "/first")
        call = Call(session.post, server.url, data=b"x", timeout=None)
        assert shop.posted.wait(PATIENCE)
        connection = only_connection(session)
        eventually(lambda: is_receiver_blocked(connection.transport))
        connection.close()
        assert isinstance(call.error(), ConnectionError)
        assert counts(pool_of(session)) == (0, 0, 0, 0)


# ---------------------------------------------------------------------- bugs, at the worst moments


@pytest.mark.parametrize("where", ["release", "stop_message", "parser"])
def test_a_bug_on_the_worker_is_told_to_whoever_waits(
    session: Session, worker: Worker, wire: Wire, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    bug = ZeroDivisionError("a bug")
    fail = once(bug)
    shop = Shop()
    shop.may_answer.set()
    with ScriptedServer(shop, ssl_context=wire.server) as server:
        connection = watched(session, server.url + "/first")
        with monkeypatch.context() as patch:
            if where == "release":
                patch.setattr(pool_of(session), "release", fail)
            elif where == "stop_message":
                patch.setattr(connection.transport, "stop_message", fail)
            else:
                patch.setattr(connection, "_parser", Broken(fail))
            call = Call(session.post, server.url, data=b"x", timeout=None)
            error = call.error()
        assert isinstance(error, ConnectionError)
        assert "worker thread failed" in str(error)
        assert error.__cause__ is bug
        eventually(lambda: counts(pool_of(session)) == (0, 0, 0, 0))
        assert session.post(server.url, data=b"x").content == b"posted"
        server.wait_for_connections(2)


def once(error: BaseException) -> Callable[..., Any]:
    """Raises it the first time, and does nothing after that."""
    errors = [error]

    def fail(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop()

    return fail


class Broken:
    """A parser. One that takes a start, and nothing more."""

    started = False

    def __init__(self, fail: Callable[..., Any]) -> None:
        self.feed = self.end_of_input = fail

    def start(self, method: str) -> None:
        pass


@pytest.mark.parametrize("where", ["release", "stop_message"])
@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), KeyboardInterrupt()], ids=repr)
def test_what_strikes_a_caller_who_acts_upon_his_answer_leaks_nothing(
    session: Session, wire: Wire, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    shop = Shop()
    shop.may_answer.set()
    with ScriptedServer(shop, ssl_context=wire.server) as server:
        assert session.post(server.url, data=b"x").ok
        connection = only_connection(session)
        with monkeypatch.context() as patch:
            patch.setattr(pool_of(session) if where == "release" else connection.transport, where, once(error))
            with pytest.raises(type(error)):
                session.post(server.url, data=b"x")
        eventually(lambda: counts(pool_of(session)) == (0, 0, 0, 0))
        assert session.post(server.url, data=b"x").ok
        assert server.connections == 2


# ---------------------------------------------------------------------- timers


def test_the_read_timer_starts_when_the_worker_has_sent_the_rest(new_session: SessionMaker, wire: Wire) -> None:
    """Whoever waits for the answer does not see the last byte leave, and has to be told."""
    session = new_session(timeout=Timeouts(read=0.2, write=None))

    def script(peer: Peer) -> None:
        request = peer.read_request(body=False)
        peer.wait_step()
        peer.read_body(request)
        peer.stall()

    with ScriptedServer(script, ssl_context=wire.server, receive_buffer=4096) as server:
        upload = session.upload("PUT", server.url)
        while not upload.buffered:
            assert upload.try_write(bytes(10_000))
        call = Call(upload.finish)
        transport = connection_of(upload).transport
        eventually(lambda: has_waiters(transport.arrived))
        assert transport.outgoing.size
        server.step()
        assert isinstance(call.error(), ReadTimeout)


# ---------------------------------------------------------------------- connections that were gone


def _answers_once(peer: Peer) -> None:
    peer.read_request()
    peer.send(reply(200, b"first"))
    peer.read_request()


def _answers(peer: Peer) -> None:
    for request in peer.requests():
        peer.send(reply(200, request.body or b"again"))


class Rewindable:
    """An iterable that can be sent again."""

    def __iter__(self) -> Any:
        return iter([b"one", b"two"])


@pytest.mark.parametrize(
    ("method", "body", "answer"),
    [
        ("GET", lambda: None, b"again"),
        ("PUT", lambda: b"body", b"body"),
        ("PUT", Rewindable, b"onetwo"),
        ("DELETE", lambda: None, b"again"),
    ],
)
def test_a_reused_connection_that_was_gone_is_replaced(
    session: Session, wire: Wire, method: str, body: Callable[[], Any], answer: bytes
) -> None:
    with ScriptedServer(_answers_once, _answers, ssl_context=wire.server) as server:
        assert session.get(server.url).content == b"first"
        assert session.request(method, server.url, data=body()).content == answer
        assert server.connections == 2


@pytest.mark.parametrize(
    ("method", "body"),
    [("POST", lambda: b"body"), ("PATCH", lambda: b"body"), ("PUT", lambda: iter([b"one", b"two"]))],
)
def test_what_may_have_been_processed_is_not_sent_again(
    session: Session, wire: Wire, method: str, body: Callable[[], Any]
) -> None:
    with ScriptedServer(_answers_once, _answers, ssl_context=wire.server) as server:
        assert session.get(server.url).content == b"first"
        with pytest.raises(ConnectionError, match="may or may not have been processed"):
            session.request(method, server.url, data=body())
        assert server.connections == 1


def test_a_new_connection_that_ends_is_not_replaced(session: Session, wire: Wire) -> None:
    with ScriptedServer(lambda peer: peer.read_request(), ssl_context=wire.server) as server:
        with pytest.raises(ConnectionError, match="closed the connection without an answer"):
            session.get(server.url)
        assert server.connections == 1

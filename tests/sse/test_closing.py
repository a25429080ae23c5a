"""The end of a stream from outside: `close`, the closing of the session, Ctrl-C; wherever an iteration is just then."""

from __future__ import annotations

import random
import re
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from syncflow import PoolLimits, Session, SessionClosed, Timeouts
from syncflow.sse import EventStream
from syncflow.testing import Peer, Request, chunk, eventually, full_backlog, never_answers, reply_head

from .rig import (
    PATIENCE,
    Answer,
    Following,
    Source,
    begin,
    data_of,
    drops,
    follow,
    holds,
    no_more,
    numbered,
    says,
    silence,
    waits_in,
    whole,
)

SessionMaker = Callable[..., Session]

NO_LIMITS = Timeouts(connect=None, read=None, write=None, pool=None)


# ---------------------------------------------------------------------- the places
#
# Each gives a session with a place for one connection, a stream of it, and the function below which its iteration is
# going to wait.

Place = Callable[[SessionMaker, ExitStack, ssl.SSLContext], tuple[Session, EventStream, str]]


def one(new_session: SessionMaker, **settings: Any) -> Session:
    return new_session(pool=PoolLimits(per_host=1), timeout=NO_LIMITS, **settings)


def served(
    new_session: SessionMaker, stack: ExitStack, *answers: Answer, tls: ssl.SSLContext | None = None, **arguments: Any
) -> tuple[Session, EventStream]:
    session = one(new_session)
    server = stack.enter_context(Source(*answers, ssl_context=tls))
    return session, follow(session, server.url, **arguments)


def event(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    return *served(new_session, stack, holds(numbered(1) + "data: in pa")), "_read"


def event_tls(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    return *served(new_session, stack, holds(numbered(1) + "data: in pa"), tls=tls), "_read"


def head(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    return *served(new_session, stack, silence), "wait_answered"


def head_again(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    """Over a connection that was used before."""
    return *served(new_session, stack, whole(numbered(1)), silence), "wait_answered"


def sending(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    session = one(new_session)
    server = stack.enter_context(never_answers(reads=False, receive_buffer=4096))
    return session, session.sse(server.url, method="POST", data=bytes(8 << 20)), "send_request"


def connect(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    session = one(new_session)
    return session, session.sse(stack.enter_context(full_backlog()).url), "_connect"


def handshake(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    session = one(new_session)
    server = stack.enter_context(never_answers())
    return session, session.sse(f"https://127.0.0.1:{server.port}"), "_shake_hands"


def proxy(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    session = one(new_session)
    server = stack.enter_context(never_answers())
    return session, session.sse("https://host.invalid/", proxies={"all": server.url}), "_pass"


def names(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    answered = threading.Event()
    stack.callback(answered.set)

    def resolver(host: str, port: int) -> list[str]:
        answered.wait(PATIENCE)
        return ["127.0.0.1"]

    session = one(new_session, resolver=resolver)
    return session, session.sse("http://host.invalid/"), "_resolve"


def queue(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    session, stream = served(new_session, stack, holds())
    other = session.get(stream._opener.request.url, stream=True)
    stack.callback(other.close)
    return session, stream, "_take_or_wait"


def pause(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    return *served(new_session, stack, whole(numbered(1) + "retry: 86400000\n")), "_pause"


def pause_after_failure(
    new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext
) -> tuple[Session, EventStream, str]:
    return *served(new_session, stack, drops("retry: 86400000\n")), "_pause"


def redirect(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    """Whose body does not come: it is read, so that the connection can be used again."""
    return *served(new_session, stack, stalls(302, {"Location": "/there"})), "_read_to_end"


def redirected(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    return *served(new_session, stack, says(302, b"", {"Location": "/there"}), silence), "_follow"


def refusal(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    return *served(new_session, stack, stalls(503, {})), "_refusal"


def login(new_session: SessionMaker, stack: ExitStack, tls: ssl.SSLContext) -> tuple[Session, EventStream, str]:
    from syncflow.auth import HTTPDigestAuth

    asks = says(401, b"", {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'})
    return *served(new_session, stack, asks, silence, auth=HTTPDigestAuth("a", "b")), "handle_401"


def stalls(status: int, fields: dict[str, str]) -> Answer:
    def answer(peer: Peer, request: Request) -> None:
        peer.send(reply_head(status, {**fields, "Content-Length": "10"}) + b"x")
        peer.wait_closed()

    return answer


PLACES: list[Place] = [
    event,
    event_tls,
    head,
    head_again,
    sending,
    connect,
    handshake,
    proxy,
    names,
    queue,
    pause,
    pause_after_failure,
    redirect,
    redirected,
    refusal,
    login,
]

everywhere = pytest.mark.parametrize("place", PLACES, ids=[place.__name__ for place in PLACES])


@contextmanager
def waiting(
    place: Place, new_session: SessionMaker, tls: ssl.SSLContext
) -> Iterator[tuple[Session, EventStream, Following]]:
    """A stream whose iteration waits there."""
    with ExitStack() as stack:
        session, stream, function = place(new_session, stack, tls)
        following = Following(stream)
        stack.callback(stream.close)
        following.wait_in(function)
        yield session, stream, following


# ---------------------------------------------------------------------- close


@everywhere
def test_close_ends_an_iteration(place: Place, new_session: SessionMaker, server_tls: ssl.SSLContext) -> None:
    with waiting(place, new_session, server_tls) as (session, stream, following):
        stream.close()
        assert following.end() is None
        assert data_of(following.events) in ([], ["1"])
        assert list(stream) == []
        assert stream.batch() is None
        assert session.stats().waiting == 0
        if place is not queue:
            eventually(lambda: session.stats().in_use == session.stats().connecting == 0)
        with Source(whole(numbered(1)), no_more) as server:  # the session goes on
            assert data_of(follow(session, server.url)) == ["1"]


@everywhere
def test_closing_the_session_ends_an_iteration(
    place: Place, new_session: SessionMaker, server_tls: ssl.SSLContext
) -> None:
    with waiting(place, new_session, server_tls) as (session, stream, following):
        session.close()
        error = following.end()
        assert type(error) is SessionClosed, repr(error)
        assert error.request is not None
        host = stream._opener.where.partition(":")[0]
        assert re.match(rf"{re.escape(host)}:\d+: the session was closed during the request$", str(error))
        for _ in range(2):
            if place is sending:
                assert list(stream) == []  # a POST is sent once
                continue
            with pytest.raises(SessionClosed):
                next(stream)
        stream.close()
        assert list(stream) == []


@pytest.mark.parametrize("place", [event, queue, connect, pause])
def test_many_threads_close_it(place: Place, new_session: SessionMaker, server_tls: ssl.SSLContext) -> None:
    with waiting(place, new_session, server_tls) as (_, stream, following):
        together = threading.Barrier(8)

        def close() -> None:
            together.wait(PATIENCE)
            for _ in range(3):
                stream.close()

        threads = [threading.Thread(target=close) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert following.end() is None


def test_closed_before_it_began(new_session: SessionMaker) -> None:
    with Source(whole(numbered(1))) as server:
        stream = new_session().sse(server.url)
        for _ in range(2):
            stream.close()
            assert list(stream) == []
            assert stream.batch() is None
        assert (stream.response, stream.last_event_id) == (None, "")
        assert server.connections == 0


def test_after_close_nothing_is_handed_out(new_session: SessionMaker) -> None:
    """Not even what has come already."""
    with Source(holds(numbered(1, 2, 3))) as server:
        for ways in (list, EventStream.batch):
            stream = follow(new_session(), server.url)
            assert next(stream).data == "1"
            stream.close()
            assert not ways(stream)  # type: ignore[operator]
            assert stream.last_event_id == "1"
        seen = []
        with follow(new_session(), server.url) as stream:
            for event in stream:
                seen.append(event.data)
                stream.close()
        assert seen == ["1"]
        server.wait_until_idle()


def test_leaving_the_block_closes_it(new_session: SessionMaker) -> None:
    with Source(holds(numbered(1))) as server:
        with pytest.raises(ZeroDivisionError):
            with follow(new_session(), server.url) as stream:
                assert next(stream).data == "1"
                raise ZeroDivisionError
        assert list(stream) == []
        server.wait_until_idle()


def test_closing_one_leaves_another_alone(new_session: SessionMaker) -> None:
    session = new_session()
    with Source(*[holds(numbered(1))] * 2) as server:
        streams = [follow(session, server.url) for _ in range(2)]
        followings = [Following(stream) for stream in streams]
        for following in followings:
            following.wait_in("_read")
        streams[0].close()
        assert followings[0].end() is None
        followings[1].wait_in("_read")
        streams[1].close()
        assert followings[1].end() is None


def test_a_connection_of_an_earlier_event_is_nobodys_business(new_session: SessionMaker) -> None:
    """Its exchange is over, and the connection another request's, when the stream is closed in its pause."""
    session = new_session(pool=PoolLimits(per_host=1))

    def slow(peer: Peer, request: Request) -> None:
        begin(peer, "a")
        peer.wait_step()
        peer.send(chunk(b"b") + b"0\r\n\r\n")

    with Source(whole(numbered(1) + "retry: 86400000\n"), slow) as server:
        stream = session.sse(server.url)
        following = Following(stream)
        following.wait_in("_pause")
        with session.get(server.url, stream=True) as response:
            stream.close()
            assert following.end() is None
            server.step()
            assert response.content == b"ab"
        assert server.connections == 1


def test_closed_by_a_hook(new_session: SessionMaker) -> None:
    """On the iterating thread, once the head is there."""
    with Source(says(302, b"", {"Location": "/"}), holds(numbered(1))) as server:
        stream: EventStream
        stream = follow(new_session(), server.url, hooks={"response": lambda response, **kwargs: stream.close()})
        assert list(stream) == []
        server.wait_until_idle()


# ---------------------------------------------------------------------- interrupts


@contextmanager
def strikes(is_due: Callable[[], object]) -> Iterator[None]:
    """KeyboardInterrupt on this thread, once, as soon as it `is_due`; as Ctrl-C, but by a signal that pytest leaves
    alone."""

    def strike(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def watch() -> None:
        eventually(is_due)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, strike)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE)
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("place", ["_read", "wait_answered", "_pause"])
def test_an_interrupt_of_a_wait(new_session: SessionMaker, place: str) -> None:
    first: dict[str, Answer] = {
        "_read": holds(numbered(1) + "id: 2\ndata: in pa"),
        "wait_answered": silence,
        "_pause": whole(numbered(1) + "retry: 100\n"),
    }
    session = new_session(pool=PoolLimits(per_host=1))
    with Source(first[place], whole("id: 2\ndata: 2\n\n"), no_more) as server:
        stream = follow(session, server.url, event_timeout=PATIENCE)
        events: list[Any] = []
        early = place == "wait_answered"
        with pytest.raises(KeyboardInterrupt):
            # Once the program has the first event: one that is just being handed over would be lost with the interrupt.
            with strikes(lambda: (server.seen if early else events) and waits_in(threading.main_thread().ident, place)):
                while (batch := stream.batch()) is not None:
                    events += batch
        assert stream._waits_since is None
        events += stream
        assert data_of(events) == (["2"] if early else ["1", "2"])
        assert server.ids == [None, None if early else "1", "2"]


def test_an_interrupt_does_not_send_a_post_again(new_session: SessionMaker) -> None:
    with Source(holds(numbered(1))) as server:
        stream = follow(new_session(), server.url, method="POST")
        assert next(stream).data == "1"
        with pytest.raises(KeyboardInterrupt):
            with strikes(lambda: waits_in(threading.main_thread().ident, "_read")):
                next(stream)
        assert list(stream) == []
        assert len(server.seen) == 1


# ---------------------------------------------------------------------- races

ROUNDS = 150


def spin(seconds: float) -> None:
    """As little of a pause as that; a sleep would be of some length of its own."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@pytest.mark.parametrize("who", ["stream", "session"])
@pytest.mark.parametrize("ending", [holds, drops, whole], ids=["event", "loss", "end"])
def test_closing_at_any_moment(
    new_session: SessionMaker, frantic: None, ending: Callable[[str], Answer], who: str
) -> None:
    """While a connection is made, an event comes, a connection breaks or ends, the next one is made: the iteration ends
    in the one way that is right."""
    chance = random.Random(f"{who} {ending.__name__}")
    session = new_session(pool=PoolLimits(per_host=2))
    with Source(ending(numbered(1, 2))) as server:
        begun = time.perf_counter()
        for _ in range(5):
            with follow(session, server.url) as stream:
                next(stream)
        longest = 3 * (time.perf_counter() - begun) / 5 + 0.001
        for _ in range(ROUNDS if who == "stream" else ROUNDS // 3):
            if who == "session":
                session = Session(timeout=PATIENCE)
            stream = follow(session, server.url)
            together = threading.Barrier(2)

            def iterate(stream: EventStream = stream, together: threading.Barrier = together) -> Iterator[Any]:
                together.wait(PATIENCE)
                yield from stream

            following = Following(iterate())
            together.wait(PATIENCE)
            spin(chance.random() * longest)
            (stream if who == "stream" else session).close()
            error = following.end()
            assert error is None if who == "stream" else type(error) is SessionClosed, repr(error)
            got = data_of(following.events)
            assert got == (["1", "2"] * len(got))[: len(got)]
            stream.close()
        if who == "stream":
            eventually(lambda: session.stats().in_use == 0)
            assert session.stats().waiting == session.stats().connecting == 0


def test_closing_in_the_queue_while_a_place_becomes_free(new_session: SessionMaker, frantic: None) -> None:
    session = new_session(pool=PoolLimits(per_host=1))
    chance = random.Random(1)
    with Source(holds(numbered(1))) as server:
        for _ in range(ROUNDS // 2):
            first, second = (follow(session, server.url) for _ in range(2))
            next(first)
            following = Following(second)
            eventually(lambda: session.stats().waiting == 1)
            closing = threading.Thread(target=first.close)
            closing.start()
            spin(chance.random() * 0.0005)
            second.close()
            closing.join(PATIENCE)
            assert following.end() is None
        eventually(lambda: session.stats().in_use == 0)

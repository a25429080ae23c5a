"""`event_timeout`, the patience of `batch`, and `Timeouts` over a stream: which of them ends a wait, and what stays."""

from __future__ import annotations

import ssl
import threading
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from syncflow import EventTimeout, PoolLimits, ReadTimeout, Session, Timeouts, TotalTimeout
from syncflow.sse import EventStream
from syncflow.testing import Peer, Request, chunk, full_backlog, reply_head

from .rig import (
    EVENTS,
    Answer,
    Clock,
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
    whole,
    wrong,
)

SessionMaker = Callable[..., Session]

SOON = 0.05

# Longer than any test takes.
NEVER = 300.0


@pytest.fixture
def session(new_session: SessionMaker) -> Session:
    return new_session()


def chatters(peer: Peer, request: Request) -> None:
    """Comments for ever, and no event."""
    begin(peer, numbered(1))
    while not peer._server.stopping.wait(SOON / 10):
        peer.send(chunk(b": still here\n\n"))


def steps(*texts: str, encoded: bool = False) -> Answer:
    """A piece with each step of the test; with a content coding, if it is asked to."""

    def answer(peer: Peer, request: Request) -> None:
        fields = {"Content-Encoding": "gzip"} if encoded else {}
        peer.send(reply_head(200, {**EVENTS, **fields, "Transfer-Encoding": "chunked"}))
        coder = zlib.compressobj(wbits=31)
        for text in texts:
            peer.wait_step()
            data = text.encode()
            peer.send(chunk(coder.compress(data) + coder.flush(zlib.Z_SYNC_FLUSH) if encoded else data))
        peer.wait_closed()

    return answer


def is_late(clock: Clock) -> Answer:
    """A sign of life, NEVER seconds later by that clock, and no head."""

    def answer(peer: Peer, request: Request) -> None:
        clock.ahead += NEVER
        peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        peer.wait_closed()

    return answer


def limit(stream: EventStream, seconds: float | None) -> None:
    """As if it had been made with this `event_timeout`: not before, as connecting may take longer on a busy machine."""
    stream._event_timeout = seconds


def wait_for_the_pause(stream: EventStream) -> None:
    """Until it is between two connections."""
    while stream._due is None:
        assert stream.batch(SOON) == []


# ---------------------------------------------------------------------- event_timeout


def test_comments_are_no_events(session: Session) -> None:
    """Which would reset every timer of bytes."""
    with Source(chatters) as server:
        with follow(session, server.url) as stream:
            assert next(stream).data == "1"
            limit(stream, SOON)
            error = wrong(stream)
            assert type(error) is EventTimeout
            assert error.request is not None
            assert (error.phase, error.response) == ("body", stream.response)
            where = f"127.0.0.1:{server.port}"
            assert str(error) == (
                f"{where}: no event came for 0.05 s (event_timeout), in phase 'body'; iterate again to go on waiting"
            )
        assert len(server.seen) == 1


@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_the_connection_stays(session: Session, server_tls: ssl.SSLContext, secure: bool, encoded: bool) -> None:
    answer = steps("id: 1\ndata: a\n\nid: 2\ndata: ", "b\n", "\n", encoded=encoded)
    with Source(answer, ssl_context=server_tls if secure else None) as server:
        with follow(session, server.url) as stream:
            assert stream.batch(SOON) == []  # connected
            for data in ("a", "b"):
                limit(stream, SOON)
                for _ in range(2):
                    assert type(wrong(stream)) is EventTimeout
                limit(stream, None)
                server.step(1 if data == "a" else 2)
                assert next(stream).data == data
        assert len(server.seen) == 1


def test_it_counts_from_asking(session: Session) -> None:
    """What the program does between two events is its own time; and so is what it does after an error."""
    clock = Clock()
    with Source(steps(numbered(1), numbered(2)), drops()) as server:
        with follow(session, server.url, event_timeout=NEVER) as stream:
            stream._clock = clock
            server.step()
            assert next(stream).data == "1"
            clock.ahead += 2 * NEVER
            server.step()
            assert next(stream).data == "2"
    for failure in (says(500), drops()):
        with Source(failure, whole(numbered(3))) as server:
            stream = follow(session, server.url, event_timeout=NEVER, max_reconnects=0)
            stream._clock = clock
            assert not isinstance(wrong(stream), EventTimeout)
            clock.ahead += 2 * NEVER
            assert next(stream).data == "3"
            stream.close()


def test_it_spans_reconnections(session: Session) -> None:
    clock = Clock()

    def drops_late(peer: Peer, request: Request) -> None:
        clock.ahead += 100
        drops(": hello\n\n")(peer, request)

    with Source(drops_late) as server:
        with follow(session, server.url, event_timeout=NEVER) as stream:
            stream._clock = clock
            error = wrong(stream)
            assert type(error) is EventTimeout
            assert error.request is not None
            assert len(server.seen) == 3


def test_it_ends_a_pause(session: Session) -> None:
    with Source(whole("retry: 1000000\n"), no_more) as server:
        with session.sse(server.url) as stream:
            wait_for_the_pause(stream)
            limit(stream, SOON)
            for _ in range(2):
                error = wrong(stream)
                assert (type(error), error.phase) == (EventTimeout, "reconnect")
                assert error.request is not None
        assert len(server.seen) == 1


@pytest.mark.parametrize("phase", ["pool", "connect", "head"])
def test_it_ends_connecting(new_session: SessionMaker, phase: str) -> None:
    """Where there is no connection yet, there is none that stays."""
    session = new_session(pool=PoolLimits(per_host=1))
    clock = Clock()
    with full_backlog() as port, Source(holds() if phase == "pool" else is_late(clock), no_more) as server:
        other = session.get(server.url, stream=True) if phase == "pool" else None
        stream = follow(session, port.url if phase == "connect" else server.url)
        stream._clock = clock
        limit(stream, NEVER if phase == "head" else SOON)
        error = wrong(stream)
        assert (type(error), error.phase) == (EventTimeout, phase)
        assert error.request is not None
        assert str(error).endswith(f"in phase '{phase}'; the connection that was being made is given up")
        assert session.stats().connecting == session.stats().waiting == 0
        if other is not None:
            other.close()
        if phase != "connect":
            limit(stream, None)
            assert list(stream) == []  # iterating again asks again


def test_a_post_is_not_sent_twice_because_its_answer_is_late(session: Session) -> None:
    clock = Clock()
    with Source(is_late(clock)) as server:
        stream = follow(session, server.url, method="POST", json={}, event_timeout=NEVER)
        stream._clock = clock
        assert type(wrong(stream)) is EventTimeout
        assert list(stream) == []
        assert len(server.seen) == 1


def test_silence_is_noticed_behind_a_shorter_event_timeout(session: Session) -> None:
    clock = Clock()
    with Source(holds(numbered(1)), whole(numbered(2)), no_more) as server:
        stream = follow(session, server.url, timeout=Timeouts(read=NEVER))
        stream._clock = clock
        assert next(stream).data == "1"
        limit(stream, SOON)
        assert type(wrong(stream)) is EventTimeout
        assert len(server.seen) == 1
        clock.ahead += NEVER
        assert type(wrong(stream)) is EventTimeout
        limit(stream, None)
        assert data_of(stream) == ["2"]
        assert server.ids == [None, "1", "2"]


def test_silence_that_is_noticed_may_be_the_end(session: Session) -> None:
    clock = Clock()
    with Source(holds(numbered(1))) as server:
        stream = follow(session, server.url, timeout=Timeouts(read=NEVER), max_reconnects=0)
        stream._clock = clock
        assert next(stream).data == "1"
        limit(stream, SOON)
        clock.ahead += NEVER
        error = wrong(stream)
        assert (type(error), error.phase, error.response) == (ReadTimeout, "body", stream.response)
        assert error.request is not None
        assert str(error) == f"127.0.0.1:{server.port}: the server sent nothing for 300 s (Timeouts.read)"
        server.wait_until_idle()


# ---------------------------------------------------------------------- Timeouts.total


@pytest.mark.parametrize(
    "answer", [holds(), drops(": hello\n\n"), silence, chatters], ids=["body", "again", "head", "x"]
)
def test_the_total_is_of_the_whole_stream(session: Session, answer: Answer) -> None:
    with Source(answer) as server:
        stream = follow(session, server.url, timeout=Timeouts(total=2 * SOON))
        with pytest.raises(TotalTimeout) as caught:
            list(stream)
        assert caught.value.request is not None
        assert str(caught.value).startswith(f"127.0.0.1:{server.port}: ")
        for _ in range(2):  # it is over
            assert type(wrong(stream)) is TotalTimeout


def test_the_total_ends_a_pause(session: Session) -> None:
    clock = Clock()
    with Source(whole("retry: 1000000\n"), no_more) as server:
        stream = session.sse(server.url, timeout=Timeouts(total=NEVER))
        stream._clock = clock
        wait_for_the_pause(stream)
        clock.ahead += NEVER
        error = wrong(stream)
        assert (type(error), error.phase) == (TotalTimeout, "reconnect")
        assert error.request is not None


def test_the_total_goes_before_an_event_timeout_as_long(session: Session) -> None:
    with Source(holds()) as server:
        error = wrong(follow(session, server.url, timeout=Timeouts(total=SOON), event_timeout=NEVER))
        assert type(error) is TotalTimeout


# ---------------------------------------------------------------------- batch


def test_a_batch_is_all_that_has_come(session: Session) -> None:
    with Source(steps(numbered(1, 2) + "data: 3", "\n\n", ": x\n\n"), no_more) as server:
        with follow(session, server.url) as stream:
            assert stream.batch(SOON) == []  # connected
            server.step()
            batch = stream.batch()
            assert batch is not None
            assert data_of(batch) == ["1", "2"]
            assert stream.last_event_id == "2"
            server.step()
            assert data_of(stream.batch() or []) == ["3"]
            server.step()
            assert stream.batch() == []  # a sign of life
        assert stream.batch() is None
        assert stream.batch(SOON) is None


def test_a_batch_waits_for_so_long_and_the_connection_stays(session: Session) -> None:
    with Source(steps(numbered(1)), no_more) as server:
        with follow(session, server.url) as stream:
            assert stream.batch(SOON) == []  # connected
            for _ in range(3):
                assert stream.batch(SOON / 10) == []
            server.step()
            while not (batch := stream.batch(SOON)):
                assert batch is not None
            assert data_of(batch) == ["1"]
        assert len(server.seen) == 1


def test_patience_is_not_for_connecting(session: Session) -> None:
    """Or a slow server would never be connected to."""
    answered = threading.Event()

    def late(peer: Peer, request: Request) -> None:
        peer.wait_for(answered)
        whole(numbered(1))(peer, request)

    with Source(late, no_more) as server:
        stream = follow(session, server.url)
        waking = threading.Timer(2 * SOON, answered.set)
        waking.start()
        batches: list[Any] = []
        while (batch := stream.batch(SOON / 10)) is not None:
            batches += batch
        waking.join()
        assert data_of(batches) == ["1"]
        assert len(server.seen) == 2


def test_patience_is_for_the_pause(session: Session) -> None:
    with Source(whole("retry: 1000000\n"), no_more) as server:
        with session.sse(server.url) as stream:
            wait_for_the_pause(stream)
            for _ in range(3):
                assert stream.batch(SOON / 10) == []
        assert len(server.seen) == 1


def test_a_batch_has_an_event_timeout_too(session: Session) -> None:
    """Asking again and again, in between, is no event."""
    with Source(holds()) as server:
        with follow(session, server.url, event_timeout=2 * SOON) as stream:
            with pytest.raises(EventTimeout, match=r"no event came for 0\.1 s \(event_timeout\)"):
                while stream.batch(SOON / 10) == []:
                    pass


def test_both_run_out_at_the_same_moment(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was the patience that was waited for; the next wait is over at once, and says what it was."""
    clock = Clock()
    with Source(holds()) as server, follow(session, server.url, event_timeout=NEVER) as stream:
        stream._clock = clock
        assert stream.batch(SOON) == []  # connected

        def later() -> None:
            clock.ahead += NEVER

        monkeypatch.setattr(stream, "_notice_silence", later)
        assert stream.batch(SOON / 10) == []
        with pytest.raises(EventTimeout, match=r"\(event_timeout\)"):
            stream.batch(SOON / 10)


def test_silence_is_noticed_behind_patience(session: Session) -> None:
    clock = Clock()
    with Source(holds(), whole(numbered(1)), no_more) as server:
        stream = follow(session, server.url, timeout=Timeouts(read=NEVER))
        stream._clock = clock
        assert stream.batch(SOON) == []  # connected
        assert stream.batch(SOON / 10) == []
        assert len(server.seen) == 1
        clock.ahead += NEVER
        assert stream.batch(SOON / 10) == []
        assert data_of(stream) == ["1"]

"""What observers are told of tries: each ends once, whatever has become of it, and knows how many were before it."""

from __future__ import annotations

import contextlib
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncflow import ChunkedEncodingError, CircuitBreaker, Retry, Session
from syncflow.auth import HTTPDigestAuth
from syncflow.engine.connection import Connection
from syncflow.engine.exchange import Exchange
from syncflow.testing import (
    AppServer,
    Peer,
    Receiver,
    Request,
    Response,
    ScriptedServer,
    early_response,
    eventually,
    refused_port,
    reply_head,
    truncated,
)
from syncflow.watching import (
    EVENTS,
    CircuitChanged,
    RequestFailed,
    RequestStarted,
    ResponseEnded,
    ResponseStarted,
    Retrying,
    tell_late,
)

NewSession = Callable[..., Session]


class Recorder:
    """Keeps all records, and in which thread they came."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.threads: list[threading.Thread] = []
        for event in EVENTS:
            setattr(self, event, self._keep)

    def _keep(self, record: Any) -> None:
        self.records.append(record)
        self.threads.append(threading.current_thread())

    def of(self, *kinds: type) -> list[Any]:
        return [record for record in list(self.records) if isinstance(record, kinds)]

    @property
    def ends(self) -> list[Any]:
        return self.of(ResponseEnded, RequestFailed)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def collected(session: Session) -> Callable[[], bool]:
    """Drops what is dropped, and has it told."""

    def collect_and_tell() -> bool:
        gc.collect()
        session.close()
        return True

    return collect_and_tell


# -------------------------------------------------------------------------------------------- each try ends


def test_an_upload_that_nobody_finished_has_failed(new_session: NewSession, recorder: Recorder) -> None:
    session, other = new_session(events=recorder), new_session()
    with Receiver() as server:
        upload = session.upload("PUT", server.url)
        upload.write(b"half")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del upload
            gc.collect()
        eventually(lambda: collected(other)() and bool(recorder.ends))
    (started,), (ended,) = recorder.of(RequestStarted), recorder.ends
    assert isinstance(ended, RequestFailed)
    assert ended.id == started.id
    assert type(ended.error).__name__ == "Cancelled"
    assert ended.elapsed > 0.0


def test_what_is_dropped_when_its_session_is_closed_is_told_by_another(
    new_session: NewSession, recorder: Recorder
) -> None:
    """The answer is short: the worker has all of it, and the end of the session concerns it no more."""
    session, other = new_session(events=recorder), new_session()
    with AppServer() as server:
        response = session.get(server.url, stream=True)
        eventually(lambda: session.stats().idle == 1)
        session.close()
        assert recorder.ends == []
        del response
        eventually(lambda: collected(other)() and bool(recorder.ends))
    (ended,) = recorder.ends
    assert (ended.status, ended.is_complete) == (200, True)
    assert set(recorder.threads) == {threading.current_thread()}


def test_what_is_closed_unread_has_ended_then(new_session: NewSession, recorder: Recorder) -> None:
    """Also when the worker has all of it already: nothing is left to call off."""
    session = new_session(events=recorder)
    with AppServer() as server:
        response = session.get(server.url, stream=True)
        eventually(lambda: session.stats().idle == 1)
        assert recorder.ends == []
        response.close()
        (ended,) = recorder.ends
        assert (ended.status, ended.is_complete) == (200, True)
        response.close()
        del response
        session.get(server.url)
    assert len(recorder.ends) == 2


def test_what_is_tried_again_has_ended_before(new_session: NewSession, recorder: Recorder) -> None:
    answers = [Response(503), Response(200)]
    retry = Retry(status=1, status_forcelist=[503], backoff_factor=0.0)
    with AppServer(lambda request: answers.pop(0)) as server:
        new_session(events=recorder, retries=retry).get(server.url, stream=True).close()
    told = [(type(record), record.id) for record in recorder.of(ResponseEnded, Retrying, RequestStarted)]
    first, second = told[0][1], told[-1][1]
    assert told == [
        (RequestStarted, first),
        (ResponseEnded, first),
        (Retrying, first),
        (RequestStarted, second),
        (ResponseEnded, second),
    ]


def kinds(recorder: Recorder) -> list[type]:
    return [type(record) for record in recorder.of(ResponseStarted, ResponseEnded, RequestFailed)]


def test_a_head_is_told_of_also_if_its_body_is_cut(new_session: NewSession, recorder: Recorder) -> None:
    with truncated() as server, pytest.raises(ChunkedEncodingError):
        new_session(events=recorder).get(server.url)
    assert kinds(recorder) == [ResponseStarted, RequestFailed]
    assert recorder.of(ResponseStarted)[0].status == 200


def test_a_body_that_is_cut_is_a_failure_to_the_circuit(new_session: NewSession, recorder: Recorder) -> None:
    session = new_session(events=recorder, breaker=CircuitBreaker(failures=1))
    with truncated() as server, pytest.raises(ChunkedEncodingError):
        session.get(server.url)
    assert [record.state for record in recorder.of(CircuitChanged)] == ["open"]


def test_an_upload_that_is_aborted_with_an_answer_for_which_nobody_waited(
    new_session: NewSession, recorder: Recorder
) -> None:
    session = new_session(events=recorder)
    with early_response(413, after_bytes=1) as server:
        upload = session.upload("PUT", server.url)
        upload.write(b"xx")
        eventually(lambda: upload._exchange.is_over)
        upload.abort()
    assert kinds(recorder) == [ResponseStarted, ResponseEnded]
    assert [record.status for record in recorder.of(ResponseStarted, ResponseEnded)] == [413, 413]


def test_a_connection_that_is_gone_before_it_begins_ends_nothing(
    new_session: NewSession, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A race that the network cannot be asked for: the connection is closed between the pool and the request."""
    begin, refused = Connection.begin, []

    def refuse_once(self: Connection, exchange: Any) -> bool:
        if not refused:
            refused.append(self)
            return False
        return begin(self, exchange)

    monkeypatch.setattr(Connection, "begin", refuse_once)
    with AppServer() as server:
        new_session(events=recorder).get(server.url)
    assert len(refused) == 1
    (ended,) = recorder.ends
    assert (type(ended), ended.is_complete) == (ResponseEnded, True)


# -------------------------------------------------------------------------------------------- how many before


def resends(recorder: Recorder) -> list[tuple[int, int]]:
    return [(record.number, record.resends) for record in recorder.of(RequestStarted)]


def test_tries_and_redirects_are_counted_together(new_session: NewSession, recorder: Recorder) -> None:
    seen: list[str] = []

    def app(request: Request) -> Response:
        seen.append(request.path)
        if request.path == "/a":
            return Response(503) if len(seen) == 1 else Response(302, {"Location": "/b"})
        return Response(503) if seen.count("/b") == 1 else Response(200)

    retry = Retry(status=3, status_forcelist=[503], backoff_factor=0.0)
    with AppServer(app) as server:
        session = new_session(events=recorder, retries=retry)
        assert session.get(f"{server.url}/a").status_code == 200
        assert resends(recorder) == [(1, 0), (2, 1), (1, 2), (2, 3)]
        session.get(f"{server.url}/b")
    assert resends(recorder)[4:] == [(1, 0)], "another call"


def test_tries_that_get_no_connection_count(new_session: NewSession, recorder: Recorder) -> None:
    with refused_port() as refused, pytest.raises(OSError):
        new_session(events=recorder, retries=Retry(connect=2, backoff_factor=0.0)).get(refused.url)
    assert resends(recorder) == [(1, 0), (2, 1), (3, 2)]


def test_the_answer_to_a_challenge_is_a_resend(new_session: NewSession, recorder: Recorder) -> None:
    def app(request: Request) -> Response:
        if "authorization" in {name.lower() for name, _ in request.headers.items()}:
            return Response(200)
        return Response(401, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256'})

    with AppServer(app) as server:
        assert new_session(events=recorder).get(server.url, auth=HTTPDigestAuth("u", "p")).status_code == 200
    assert resends(recorder) == [(1, 0), (1, 1)]


class Forgetful:
    """Keeps nothing."""

    def response_ended(self, record: Any) -> None:
        pass


@pytest.mark.parametrize("watched", [{"breaker": CircuitBreaker()}, {"events": Forgetful()}], ids=["breaker", "events"])
def test_the_generator_of_a_body_is_not_freed_by_the_worker(
    new_session: NewSession, monkeypatch: pytest.MonkeyPatch, watched: dict[str, Any]
) -> None:
    """It runs code of the program when it is. The worker is made to hold the exchange for longer than the program."""
    freed_by: list[threading.Thread] = []
    is_free = threading.Event()
    fail_dropped = Exchange._fail_dropped

    def body() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            freed_by.append(threading.current_thread())

    def fail_late(self: Exchange) -> None:
        assert is_free.wait(10)
        fail_dropped(self)

    def early(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply_head(200, {"Content-Length": "100"}) + b"some")
        with contextlib.suppress(AssertionError):  # reset, because not all of the body was read
            peer.wait_closed()

    monkeypatch.setattr(Exchange, "_fail_dropped", fail_late)
    with ScriptedServer(early) as server:
        session = new_session(**watched)
        response = session.post(server.url, data=body(), stream=True)
        with pytest.warns(ResourceWarning, match="dropped before its body"):
            del response
        tell_late()
        is_free.set()
        eventually(lambda: freed_by)
        assert freed_by == [threading.current_thread()]

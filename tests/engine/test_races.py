"""Two things at the same moment, hundreds of times: whichever wins, the outcome is one of those that are documented,
and the session is as good as before."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from syncflow import Cancelled, EarlyResponse, RequestException, Session, SessionClosed
from syncflow.engine.outcome import Outcome
from syncflow.testing import AppServer, Peer, Request, Response, ScriptedServer, eventually, reply, reply_head

from ..concurrency import Call, at_once
from .conftest import SessionMaker, Wire
from .rig import connection_of, counts, pool_of

pytestmark = pytest.mark.long

THREADS = 32
REQUESTS = 10_000
ROUNDS = 200


def usable(session: Session, url: str) -> None:
    """Nothing is left of what happened before: no place taken, no answer of another's."""
    eventually(lambda: counts(pool_of(session))[0] == counts(pool_of(session))[1])
    assert session.get(url + "/usable").text == "/usable"


def paths(request: Request) -> Response:
    """An answer as long as its path says, made of that path."""
    times = int(request.path.rpartition("x")[2]) if "x" in request.path else 1
    return Response(200, [], request.path.encode() * times)


# ---------------------------------------------------------------------- many threads, one session


def shared_by_threads(session: Session, url: str, requests: int) -> None:
    """Each answer is checked by who asked."""
    numbers = itertools.count()

    def work() -> int:
        done = 0
        while (number := next(numbers)) < requests:
            _one_of_many(session, url, number)
            done += 1
        return done

    barrier = threading.Barrier(THREADS)

    def begin() -> int:
        barrier.wait(30)
        return work()

    calls = [Call(begin) for _ in range(THREADS)]
    for call in calls:
        call.thread.join(50)
    assert sum(call.result() for call in calls) == requests


def _one_of_many(session: Session, url: str, number: int) -> None:
    path = f"/{number}"
    if number % 4 == 0:
        assert session.get(url + path).text == path
    elif number % 4 == 1:
        assert session.post(url + path, data=b"abc").text == path
    elif number % 4 == 2:
        body = session.get(url + path + "x700", stream=True).iter_content(3000)
        assert b"".join(body) == f"{path}x700".encode() * 700
    else:
        assert session.put(url + path, data=iter([b"a" * 3000] * 3)).text == path


def test_32_threads_share_a_session_for_10_000_requests(session: Session) -> None:
    with AppServer(paths) as server:
        shared_by_threads(session, server.url, REQUESTS)
        assert server.requests == REQUESTS
        assert server.connections <= session_limit(session)


def test_and_with_frantic_switching(session: Session, wire: Wire, frantic: None) -> None:
    with AppServer(paths, ssl_context=wire.server) as server:
        shared_by_threads(session, server.url, REQUESTS // 8)
        assert server.connections <= session_limit(session)


def session_limit(session: Session) -> int:
    return pool_of(session).limits.per_host


# ---------------------------------------------------------------------- two at once


@pytest.fixture
def last_byte_on_demand(wire: Wire) -> Any:
    """Answers /usable at once; anything else but for its last byte, which comes with the next step."""

    def serve(peer: Peer) -> None:
        for request in peer.requests():
            if request.path == "/usable":
                peer.send(reply(200, b"/usable"))
            else:
                peer.send(reply_head(200, {"Content-Length": "4"}) + b"abc")
                peer.wait_step()
                peer.send(b"d")

    with ScriptedServer(serve, ssl_context=wire.server) as server:
        yield server
        server.release()


def _last_byte_came(connection: Any, response: Any) -> bool:
    with connection.transport.receiving:
        outcome = connection.receive(response._exchange, 100)
        came = bool(connection._parser.complete)
    if outcome & Outcome.TO_SETTLE:
        connection.settle(response._exchange, outcome)
    return came


def test_what_comes_between_the_closing_and_its_end_is_not_the_whole(
    session: Session, last_byte_on_demand: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = last_byte_on_demand
    response = session.get(server.url, stream=True)
    connection = connection_of(response)
    eventually(lambda: response._exchange.incoming.size == 3)
    monkeypatch.setattr(connection, "close", lambda: None)  # it has not come to that yet
    response.close()
    server.step()
    # The worker receives it, or this thread does.
    eventually(lambda: _last_byte_came(connection, response))
    monkeypatch.undo()
    with pytest.raises(Cancelled):
        _ = response.content
    connection.close()
    usable(session, server.url)


def test_closing_a_response_against_its_last_byte(session: Session, last_byte_on_demand: Any, frantic: None) -> None:
    server = last_byte_on_demand
    for _ in range(ROUNDS):
        response = session.get(server.url, stream=True)

        def read(response: Any = response) -> bytes:
            try:
                return bytes(response.content)
            except Cancelled:
                return b"cancelled"

        read_it, _, _ = at_once(read, response.close, server.step)
        assert read_it in (b"abcd", b"cancelled")
    usable(session, server.url)


def test_aborting_an_upload_against_its_end(session: Session, wire: Wire, frantic: None) -> None:
    with AppServer(lambda request: Response(200, [], b"/usable"), ssl_context=wire.server) as server:
        for _ in range(ROUNDS):
            upload = session.upload("PUT", server.url, content_length=3)
            upload.write(b"ab")

            def finish(upload: Any = upload) -> str:
                try:
                    upload.write(b"c")
                    return str(upload.finish().text)
                except Cancelled:
                    return "cancelled"

            outcome, _ = at_once(finish, upload.abort)
            assert outcome in ("/usable", "cancelled")
        usable(session, server.url)


def test_an_early_answer_against_the_last_byte(session: Session, wire: Wire, frantic: None) -> None:
    """The answer arrives in any case; the connection is used again only if all of the body had left."""

    def serve(peer: Peer) -> None:
        while True:
            request = peer.read_request(body=False)
            if request.path == "/usable":
                peer.send(reply(200, b"/usable"))
                continue
            peer.wait_step()
            peer.send(reply(413, b"/early"))
            with suppress(AssertionError):
                peer.read_body(request)
                continue
            return  # closed in the middle of the body, as it should be

    with ScriptedServer(serve, ssl_context=wire.server) as server:
        for _ in range(ROUNDS):
            upload = session.upload("PUT", server.url, content_length=8)

            def send(upload: Any = upload) -> Any:
                try:
                    upload.write(b"1234")
                    upload.write(b"5678")
                    return upload.finish()
                except EarlyResponse as early:
                    return early.response

            response, _ = at_once(send, server.step)
            assert (response.status_code, response.text) == (413, "/early")
            upload.close()
            if not response.request_complete:
                assert connection_of(response).transport.closed
        usable(session, server.url)
        server.release()


@pytest.mark.parametrize("after", [0, 20, 60])
def test_closing_the_session_against_everything(
    new_session: SessionMaker, wire: Wire, frantic: None, after: int
) -> None:
    """Whatever is under way either had its answer already, or ends with `SessionClosed`."""
    with AppServer(paths, ssl_context=wire.server) as server:
        for _ in range(10):
            session = new_session()
            outcomes = _busy_until_closed(session, server.url, after)
            assert set(outcomes) == {SessionClosed}


def _busy_until_closed(session: Session, url: str, after: int) -> list[type[BaseException]]:
    reached = threading.Semaphore(0)
    kinds: list[Callable[[int], None]] = [lambda number: _one_of_many(session, url, number) for _ in range(8)]

    def work(kind: Callable[[int], None]) -> type[BaseException]:
        for number in itertools.count():
            try:
                kind(number)
            except RequestException as error:
                return type(error)
            finally:
                reached.release()
        raise AssertionError

    calls = [Call(work, kind) for kind in kinds]
    for _ in range(after):
        assert reached.acquire(timeout=10)
    session.close()
    return [call.result() for call in calls]

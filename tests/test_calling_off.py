"""Response.close(), Upload.abort() and Session.close() from another thread wake whoever is blocked, wherever it is."""

from __future__ import annotations

import contextlib
import io
import queue
import random
import re
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncflow import Cancelled, EarlyResponse, PoolLimits, RequestException, Session, SessionClosed, Timeouts, Upload
from syncflow.testing import (
    AppServer,
    Peer,
    Receiver,
    ScriptedServer,
    eventually,
    full_backlog,
    never_answers,
    reply_head,
)

BIG = 32 << 20


@pytest.fixture
def session(ca_file: Path) -> Iterator[Session]:
    with Session(timeout=None, pool=PoolLimits(per_host=2)) as session:
        session.verify = str(ca_file)
        yield session


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "file"
    with path.open("wb") as file:
        file.truncate(BIG)
    return path


class Call:
    """A call in a thread of its own, and what came of it."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._result: object = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    @property
    def is_blocked(self) -> bool:
        """Whether it waits in syncflow: on a Condition, or in a system call."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        while frame is not None and frame.f_globals["__name__"] in ("threading", "selectors"):
            frame = frame.f_back
        waits = frame is not None and frame.f_globals["__name__"].startswith("syncflow.engine")
        return waits and "wait" in frame.f_code.co_name  # type: ignore[union-attr]

    def wait_blocked(self) -> None:
        """Until it is blocked, and has been for some looks."""
        for _ in range(5):
            eventually(lambda: self.is_blocked or not self._thread.is_alive())
        assert self._thread.is_alive(), f"it ended: {self._result!r} {self._error!r}"

    def error(self) -> BaseException:
        """What it raised, at once or soon."""
        self._thread.join(10)
        assert not self._thread.is_alive(), "it was not woken"
        assert self._error is not None, f"it returned {self._result!r}"
        return self._error

    def result(self) -> Any:
        self._thread.join(10)
        assert not self._thread.is_alive(), "it was not woken"
        if self._error is not None:
            raise self._error
        return self._result


def stalls_in_body(tls: ssl.SSLContext | None = None) -> ScriptedServer:
    def script(peer: Peer) -> None:
        for _ in peer.requests():  # none, if the client is called off before it has sent it
            peer.send(reply_head(200, {"Content-Length": "1000"}) + b"abc")
            peer.wait_closed()

    return ScriptedServer(script, ssl_context=tls)


def full(upload: Upload) -> Upload:
    while upload.try_write(bytes(10_000)):
        pass
    return upload


# ------------------------------------------------------------------------------------------- Response.close


READERS: dict[str, Callable[[Any], object]] = {
    "content": lambda response: response.content,
    "iter_content": lambda response: list(response.iter_content(7)),
    "iter_lines": lambda response: list(response.iter_lines()),
    "raw": lambda response: response.raw.read(),
    "readline": lambda response: response.raw.readline(),
    "readinto": lambda response: response.raw.readinto(bytearray(10)),
}


@pytest.mark.parametrize("reader", READERS)
def test_closing_a_response_wakes_its_reader(session: Session, tls: ssl.SSLContext | None, reader: str) -> None:
    with stalls_in_body(tls) as server:
        response = session.get(server.url, stream=True)
        call = Call(lambda: READERS[reader](response))
        call.wait_blocked()
        response.close()
        error = call.error()
        assert type(error) is Cancelled
        assert f"127.0.0.1:{server.port}: the response was closed before its body was read to the end" in str(error)
        assert error.request is response.request
        assert error.response is response
        assert (error.phase, error.bytes_received) == ("body", 3)
        server.wait_until_idle()  # the connection was closed, not kept
        with pytest.raises((Cancelled, TypeError)):  # or consumed
            _ = response.content


def test_closing_one_response_does_not_wake_another(session: Session) -> None:
    with stalls_in_body() as server:
        one, other = (session.get(server.url, stream=True) for _ in range(2))
        calls = [Call(lambda response=response: response.content) for response in (one, other)]  # type: ignore[misc]
        for call in calls:
            call.wait_blocked()
        one.close()
        assert type(calls[0].error()) is Cancelled
        assert calls[1].is_blocked
        other.close()
        assert type(calls[1].error()) is Cancelled


def test_a_caller_in_the_queue_gets_the_place(session: Session) -> None:
    with stalls_in_body() as server:
        responses = [session.get(server.url, stream=True) for _ in range(2)]
        call = Call(lambda: session.get(server.url, stream=True))
        call.wait_blocked()
        responses[0].close()
        third = call.result()
        assert third.status_code == 200
        third.close()
        responses[1].close()


# ------------------------------------------------------------------------------------------- Upload.abort


UPLOADS: dict[str, Callable[[Upload], object]] = {
    "write": lambda upload: upload.write(bytes(BIG)),
    "wait_writable": lambda upload: upload.wait_writable() and upload.write(b"x"),
    "flush": lambda upload: upload.flush(),
    "finish": lambda upload: upload.finish(),
    "close": lambda upload: upload.close(),
}


@pytest.mark.parametrize("waits", UPLOADS)
def test_aborting_an_upload_wakes_who_waits_in_it(session: Session, tls: ssl.SSLContext | None, waits: str) -> None:
    with never_answers(reads=False, receive_buffer=4096, ssl_context=tls) as server:
        upload = full(session.upload("PUT", server.url))
        call = Call(lambda: UPLOADS[waits](upload))
        call.wait_blocked()
        upload.abort()
        error = call.error()
        assert type(error) is Cancelled
        assert f"127.0.0.1:{server.port}: the upload was aborted" in str(error)
        assert error.request is upload.request
        assert error.bytes_sent > 0
        server.release()
        server.wait_until_idle()
        for way in (upload.write, upload.try_write):
            with pytest.raises((Cancelled, ValueError)):
                way(b"x")
        upload.abort()


def test_aborting_wakes_one_who_waits_for_the_answer(session: Session) -> None:
    with never_answers() as server:
        upload = session.upload("PUT", server.url)
        upload.write(b"x")
        call = Call(upload.finish)
        call.wait_blocked()
        upload.abort()
        assert type(call.error()) is Cancelled
        server.wait_until_idle()


def test_leaving_the_block_of_an_aborted_upload_does_not_look_like_success(session: Session) -> None:
    with never_answers() as server:
        with pytest.raises(Cancelled):
            with session.upload("PUT", server.url) as upload:
                upload.write(b"x")
                upload.abort()
        assert upload.closed
        with pytest.raises(ValueError, match="no response"):
            _ = upload.response


def test_flush_of_an_aborted_upload_does_not_look_like_success(session: Session) -> None:
    with never_answers() as server:
        upload = session.upload("PUT", server.url)
        upload.write(b"x")
        upload.abort()
        with pytest.raises(Cancelled):
            upload.flush()


def test_aborting_what_is_finished_changes_nothing(session: Session) -> None:
    with AppServer() as server:
        with session.upload("PUT", server.url) as upload:
            upload.write(b"abc")
        eventually(lambda: upload.response.timings.total is not None)
        upload.abort()
        assert upload.response.json()["body"] == "abc"
        assert session.get(server.url).ok
        assert server.connections == 1


# ------------------------------------------------------------------------------------------- Session.close


def waits_for_head(session: Session, url: str, path: Path) -> object:
    return session.get(url)


def waits_in_body(session: Session, url: str, path: Path) -> object:
    return session.get(url, stream=True).content


def waits_for_whole(session: Session, url: str, path: Path) -> object:
    return session.get(url)


def waits_to_send_bytes(session: Session, url: str, path: Path) -> object:
    return session.put(url, data=bytes(BIG))


def waits_to_send_pieces(session: Session, url: str, path: Path) -> object:
    return session.put(url, data=(bytes(1000) for _ in range(BIG)))


def waits_to_send_a_file(session: Session, url: str, path: Path) -> object:
    with path.open("rb") as file:
        return session.put(url, data=file)


def waits_to_write(session: Session, url: str, path: Path) -> object:
    with session.upload("PUT", url) as upload:
        return upload.write(bytes(BIG))


def waits_to_flush(session: Session, url: str, path: Path) -> object:
    with session.upload("PUT", url) as upload:
        return full(upload).flush()


def waits_for_100(session: Session, url: str, path: Path) -> object:
    return session.put(url, data=b"x", headers={"Expect": "100-continue"})


def deaf(tls: ssl.SSLContext | None) -> ScriptedServer:
    return never_answers(reads=False, receive_buffer=4096, ssl_context=tls)


def silent(tls: ssl.SSLContext | None) -> ScriptedServer:
    return never_answers(ssl_context=tls)


BLOCKED: list[tuple[Callable[[Session, str, Path], object], Callable[[ssl.SSLContext | None], ScriptedServer]]] = [
    (waits_for_head, silent),
    (waits_for_whole, stalls_in_body),
    (waits_in_body, stalls_in_body),
    (waits_to_send_bytes, deaf),
    (waits_to_send_pieces, deaf),
    (waits_to_send_a_file, deaf),
    (waits_to_write, deaf),
    (waits_to_flush, deaf),
    (waits_for_100, silent),
]


@pytest.mark.parametrize(("blocks", "server"), BLOCKED, ids=[blocks.__name__ for blocks, _ in BLOCKED])
def test_closing_the_session_wakes_everybody(
    session: Session,
    tls: ssl.SSLContext | None,
    big_file: Path,
    blocks: Callable[[Session, str, Path], object],
    server: Callable[[ssl.SSLContext | None], ScriptedServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("syncflow.adapters.writing.CONTINUE_PATIENCE", 300.0)
    with server(tls) as serving:
        calls = [Call(lambda: blocks(session, serving.url, big_file)) for _ in range(4)]
        for call in calls:
            call.wait_blocked()  # two of them in the queue for a connection
        session.close()
        for call in calls:
            error = call.error()
            assert type(error) is SessionClosed
            assert re.match(rf"127\.0\.0\.1:{serving.port}: the session (was|is) closed", str(error))
            assert error.request is not None
        serving.release()
        serving.wait_until_idle()
        with pytest.raises(SessionClosed):
            session.get(serving.url)
        with pytest.raises(SessionClosed):
            session.upload("PUT", serving.url)


def test_closing_the_session_wakes_who_connects(session: Session) -> None:
    with full_backlog() as port:
        calls = [Call(lambda: session.get(port.url)) for _ in range(4)]
        for call in calls:
            call.wait_blocked()
        session.close()
        for call in calls:
            assert type(call.error()) is SessionClosed


def test_closing_the_session_wakes_who_shakes_hands(session: Session) -> None:
    with never_answers() as server:
        call = Call(lambda: session.get(server.url.replace("http:", "https:")))
        call.wait_blocked()
        session.close()
        assert type(call.error()) is SessionClosed
        server.wait_until_idle()


def test_closing_the_session_wakes_who_resolves(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kw: asked.wait(10) and [])
    try:
        call = Call(lambda: session.get("http://nobody.invalid/"))
        call.wait_blocked()
        session.close()
        assert type(call.error()) is SessionClosed
    finally:
        asked.set()


def test_closing_one_session_leaves_another_alone(session: Session) -> None:
    with stalls_in_body() as server, Session(timeout=20) as other:
        response = other.get(server.url, stream=True)
        call = Call(lambda: session.get(server.url))
        call.wait_blocked()
        session.close()
        assert type(call.error()) is SessionClosed
        assert response.raw.read(3) == b"abc"
        response.close()


def test_a_body_that_is_being_made_is_stopped_at_its_next_piece(session: Session) -> None:
    """No lock is held while a generator runs: it may close the session itself."""

    def pieces() -> Iterator[bytes]:
        yield b"abc"
        session.close()
        yield b"def"
        raise AssertionError("it was asked for more")

    with never_answers() as server:
        with pytest.raises(SessionClosed):
            session.put(server.url, data=pieces())


def test_a_file_that_closes_the_session_while_it_is_read(session: Session) -> None:
    class Closing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            session.close()
            return super().read(size)

    with never_answers() as server:
        with pytest.raises(SessionClosed):
            session.put(server.url, data=Closing(bytes(1_000_000)))


def test_a_program_may_use_the_session_in_its_own_body(session: Session) -> None:
    with AppServer() as server:
        inner = (session.get(f"{server.url}/{n}").content for n in range(20))
        assert session.put(server.url, data=inner).json()["length"] > 0
        assert server.requests == 21


# ------------------------------------------------------------------------------------------- races


ROUNDS = 150


@pytest.mark.parametrize("what", ["response", "upload", "session"])
def test_a_call_and_its_calling_off_at_the_same_moment(tls: ssl.SSLContext | None, ca_file: Path, what: str) -> None:
    """Whatever comes first: the call ends, and with nothing else than its answer or the error that belongs to it."""
    chance = random.Random(what)

    def stream(session: Session, url: str, calling_off: Callable[[Callable[[], None]], None]) -> object:
        with session.get(f"{url}/bytes/300000", stream=True) as response:
            calling_off(response.close if what == "response" else session.close)
            return response.content

    def upload(session: Session, url: str, calling_off: Callable[[Callable[[], None]], None]) -> object:
        with session.upload("PUT", url) as up:
            calling_off(up.abort)
            for _ in range(5):
                up.write(bytes(50_000))
        return up.response.content

    def once(server: Receiver, session: Session, pause: int) -> RequestException | None:
        together = threading.Barrier(2)
        ways: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

        def call_off() -> None:
            way = ways.get(timeout=10)
            together.wait(10)
            for _ in range(pause):
                pass
            way()

        def calling_off(way: Callable[[], None]) -> None:
            ways.put(way)
            together.wait(10)

        other = Call(call_off)
        try:
            assert (upload if what == "upload" else stream)(session, server.url, calling_off)
        except (Cancelled, SessionClosed) as error:
            return error
        finally:
            other.result()
        return None

    with Receiver(ssl_context=tls, hash=False) as server, contextlib.ExitStack() as sessions:
        for number in range(ROUNDS):
            if number == 0 or what == "session":
                session = sessions.enter_context(Session(timeout=20))
                session.verify = str(ca_file)
            error = once(server, session, chance.randrange(2000))
            assert error is None or (type(error) is SessionClosed) == (what == "session")
        sessions.close()
        server.wait_until_idle()


def test_an_answer_and_an_abort_at_the_same_moment() -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.wait_step()
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with ScriptedServer(script) as server, Session(timeout=20) as session:
        for _ in range(ROUNDS):
            upload = session.upload("PUT", server.url)
            call = Call(lambda upload=upload: upload.write(bytes(BIG)))  # type: ignore[misc]
            server.step()
            upload.abort()
            error = call.error()
            assert isinstance(error, Cancelled | EarlyResponse), repr(error)
            upload.abort()


def test_timeouts_and_closings_leave_nothing(session: Session) -> None:
    """Every way to end a request early, mixed, on one session; and then it still works."""
    chance = random.Random(1)
    with AppServer() as server, stalls_in_body() as stalling, Session(timeout=20) as session:
        for _ in range(100):
            way = chance.randrange(4)
            if way == 0:
                session.get(stalling.url, stream=True).close()
            elif way == 1:
                with pytest.raises(RequestException):
                    session.get(stalling.url, timeout=Timeouts(total=0.005))
            elif way == 2:
                session.upload("PUT", server.url).abort()
            else:
                assert session.get(server.url).ok
        stalling.wait_until_idle()
        assert session.get(server.url).ok

"""`departures`: who has left is told once and nobody else is, whatever threads and descriptors do meanwhile."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncflow import Session, wsgi
from syncflow.engine.worker import shared_worker
from syncflow.sse import relay
from syncflow.testing import Peer, ScriptedServer, chunk, eventually, reply_head
from syncflow.wsgi import departures
from syncflow.wsgi.departures import client_descriptor, watched

from ..concurrency import PATIENCE, at_once, forked
from .calling import Started
from .calling import environ_of as environ_of_request


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, and what its server has of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield theirs, ours


def environ_of(sock: socket.socket) -> dict[str, Any]:
    return {"gunicorn.socket": sock}


def told_by(sock: socket.socket) -> tuple[threading.Event, Any]:
    told = threading.Event()
    return told, watched(environ_of(sock), told.set)


def watches() -> int:
    found = departures._departures
    return 0 if found is None else len(found._told)


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_who_has_left_is_told(pair: tuple[socket.socket, socket.socket], how: str) -> None:
    client, sock = pair
    client.send(b"what was sent before it left is still there")
    told, end = told_by(sock)
    if how == "close":
        client.close()
    else:
        client.shutdown(socket.SHUT_WR)
    assert told.wait(PATIENCE)
    assert sock.recv(4) == b"what"
    end()
    assert watches() == 0


def test_who_has_left_before_is_told_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    client, sock = pair
    client.close()
    told, end = told_by(sock)
    assert told.wait(PATIENCE)
    end()


def test_nobody_is_told_afterwards_nor_of_what_is_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    client, sock = pair
    told, end = told_by(sock)
    client.send(b"the next request")
    end()
    end()
    client.close()
    # One that comes behind has been told: so it was looked at.
    another, other = socket.socketpair()
    with another, other:
        another.close()
        later, end = told_by(other)
        assert later.wait(PATIENCE)
        end()
    assert not told.is_set()


def test_the_next_request_on_the_same_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    """Also when somebody has not ended the watch before it."""
    client, sock = pair
    first, _ = told_by(sock)
    second, end = told_by(sock)
    client.close()
    assert second.wait(PATIENCE)
    assert not first.is_set()
    end()


def test_an_end_that_comes_again_late(pair: tuple[socket.socket, socket.socket]) -> None:
    """As of a body that is closed once more, when its socket, or the number of it, is another request's."""
    client, sock = pair
    _, end_first = told_by(sock)
    end_first()
    second, end = told_by(sock)
    end_first()
    assert watches() == 1
    client.close()
    assert second.wait(PATIENCE)
    end()


class Holder:
    """What is to end with its client."""

    def __init__(self, told: threading.Event) -> None:
        self.told = told

    def leave(self) -> None:
        self.told.set()


def test_what_was_dropped_is_not_kept_for_its_client(pair: tuple[socket.socket, socket.socket]) -> None:
    client, sock = pair
    told = threading.Event()
    holder = Holder(told)
    known = weakref.ref(holder)
    end = watched(environ_of(sock), holder.leave)
    del holder
    gc.collect()
    assert known() is None
    client.close()
    eventually(lambda: watches() == 0)
    end()
    assert not told.is_set()


@pytest.mark.filterwarnings("ignore:.*dropped:ResourceWarning")
@pytest.mark.parametrize("kind", ["proxy", "sse", "closing"])
def test_a_body_that_nobody_closes(
    pair: tuple[socket.socket, socket.socket], new_session: Callable[..., Session], kind: str
) -> None:
    """What stands between it and the server has dropped it. Its client is still there; its place in the pool is not to
    be, for as long."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}))
        peer.send(chunk(b"data: 1\n\n"))
        peer.wait_closed()

    def begin(session: Session, url: str) -> None:
        """All that holds the body is gone with this frame."""
        environ = {**environ_of_request(session), **environ_of(pair[1])}
        if kind == "closing":
            body: Any = wsgi.closing(environ, relay(session.sse(url)))
        else:
            body = {"proxy": wsgi.proxy, "sse": wsgi.sse_proxy}[kind](environ, Started(), url)
        pieces = iter(body)
        while b"data" not in next(pieces):
            pass

    with ScriptedServer(script) as upstream, new_session() as session:
        begin(session, upstream.url)
        gc.collect()
        eventually(lambda: session.stats().in_use == 0)
        upstream.wait_until_idle()
    told_by(pair[1])[1]()  # what was left of the watch was nobody's
    assert watches() == 0


def test_an_error_of_one_does_not_keep_it_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Program:
        def fail(self) -> None:
            raise ValueError("of the program")

    program = Program()
    told = threading.Semaphore(0)
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(4)]
        for number, (ours, theirs) in enumerate(pairs):
            stack.enter_context(ours)
            stack.callback(watched(environ_of(ours), program.fail if number % 2 == 0 else told.release))
            stack.callback(theirs.close)
        assert departures._departures is not None
        with departures._departures._lock:  # so that they are found together
            for _, theirs in pairs:
                theirs.close()
        for _ in range(2):
            assert told.acquire(timeout=PATIENCE)
        eventually(lambda: len(caplog.records) == 2)
    assert {record.name for record in caplog.records} == {"syncflow.wsgi"}


def test_descriptors_that_are_used_again(frantic: None) -> None:
    """Each thread takes connections, of which half leave; numbers go from one to another all the time."""
    wrong: list[str] = []

    def serve(seed: int) -> None:
        for number in range(60):
            ours, theirs = socket.socketpair()
            told = threading.Event()
            end = watched(environ_of(ours), told.set)
            leaves = (number + seed) % 2 == 0
            if leaves:
                theirs.close()
                if not told.wait(PATIENCE):
                    wrong.append("one has left, and nobody was told")
            elif told.is_set():
                wrong.append("told of one that is there")
            end()
            if not leaves and told.is_set():
                wrong.append("told of one that is there")
            ours.close()
            theirs.close()

    at_once(*[lambda seed=seed: serve(seed) for seed in range(8)])  # type: ignore[misc]
    assert not wrong
    assert watches() == 0


def test_ending_while_it_is_told(frantic: None) -> None:
    """Whoever comes first: nothing is left, and the number can be used again."""
    for _ in range(200):
        ours, theirs = socket.socketpair()
        told = threading.Event()
        end = watched(environ_of(ours), told.set)
        at_once(theirs.close, end)
        ours.close()
    assert watches() == 0


def test_a_forked_child_has_its_own(pair: tuple[socket.socket, socket.socket]) -> None:
    client, sock = pair
    told, end = told_by(sock)

    def child() -> bool:
        end()  # of a request that the parent goes on with
        ours, theirs = socket.socketpair()
        with ours, theirs:
            mine, _ = told_by(ours)
            theirs.close()
            return mine.wait(PATIENCE)

    join = forked(child)
    assert join()
    assert not told.is_set()
    client.close()
    assert told.wait(PATIENCE)
    end()


def test_a_fork_while_others_come_and_go(frantic: None) -> None:
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            ours, theirs = socket.socketpair()
            with ours, theirs:
                told_by(ours)[1]()

    def child() -> bool:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            told, _ = told_by(ours)
            theirs.close()
            return told.wait(PATIENCE)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        joins = [forked(child) for _ in range(8)]
        assert [join() for join in joins] == [True] * 8
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_after_the_worker_has_failed_the_next_one_is_watched_anew(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, sock = pair
    told, end = told_by(sock)
    broken = departures._departures
    assert broken is not None
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise OSError("of the system")

    shared_worker().submit(broken, fail)
    assert failed.wait(PATIENCE)
    eventually(lambda: departures._departures is not broken)
    end()
    told, end = told_by(sock)
    client.close()
    assert told.wait(PATIENCE)
    end()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"wsgi.input": io.BytesIO()},
        {"wsgi.input": None},
        {"gunicorn.socket": None},
        {"gunicorn.socket": object(), "wsgi.input": io.BytesIO()},
    ],
    ids=["nothing", "in memory", "none", "no socket", "something else"],
)
def test_without_a_socket_nobody_is_watched(environ: dict[str, Any]) -> None:
    assert client_descriptor(environ) is None
    watched(environ, threading.Event().set)()
    assert watches() == 0


def test_a_file_or_a_pipe_is_no_client() -> None:
    with open(os.devnull, "rb") as file:
        assert client_descriptor({"wsgi.input": file}) is None
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        assert client_descriptor({"wsgi.input": pipe}) is None
    os.close(writing)


def test_a_socket_that_is_closed_is_no_client(pair: tuple[socket.socket, socket.socket]) -> None:
    _, sock = pair
    sock.close()
    assert client_descriptor(environ_of(sock)) is None


def test_what_cannot_be_watched_is_served_all_the_same(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(departures, "_departures", None)
    monkeypatch.setattr(departures, "Departures", fail)
    told_by(pair[1])[1]()
    [record] = caplog.records
    assert "Too many open files" in record.message


def test_what_the_system_does_not_watch_is_not_remembered(pair: tuple[socket.socket, socket.socket]) -> None:
    told_by(pair[1])[1]()
    found = departures._departures
    assert found is not None
    event = threading.Event()
    with open(os.devnull, "rb") as file, pytest.raises(PermissionError):
        found.add(file.fileno(), weakref.WeakMethod(event.set))
    assert watches() == 0

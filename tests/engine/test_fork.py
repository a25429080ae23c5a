"""fork() with a live session: both sides go on working, and neither touches the other's sockets."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncflow import ConnectionError, PoolLimits, Session
from syncflow.engine import worker as worker_module
from syncflow.engine.worker import Worker, shared_worker
from syncflow.testing import AppServer, Peer, ReceiverProcess, ScriptedServer, eventually, reply, reply_head

from ..concurrency import Call, forked
from .conftest import SessionMaker, Wire
from .rig import PATIENCE, Bystander, connection_of, counts, pool_of, run_on
from .test_exchange import only_connection

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")


class Visits:
    """Who used which connection: a server that answers with the connection's number, and remembers process ids."""

    def __init__(self) -> None:
        self.used: dict[int, set[str]] = {}

    def __call__(self, peer: Peer) -> None:
        for request in peer.requests():
            self.used.setdefault(peer.index, set()).add(request.headers["process"])
            if request.path == "/stream":
                peer.send(reply_head(200, {"Content-Length": "4"}) + b"ab")
                peer.wait_step()
                peer.send(b"cd")
            else:
                peer.send(reply(200, str(peer.index).encode()))

    def check(self) -> None:
        assert self.used
        assert all(len(processes) == 1 for processes in self.used.values()), self.used


def get(session: Session, url: str, **kwargs: Any) -> Any:
    return session.get(url, headers={"Process": str(os.getpid())}, **kwargs)


# ---------------------------------------------------------------------- both sides


def test_both_sides_go_on(session: Session, wire: Wire) -> None:
    """With an idle connection, one whose answer is half read, and the worker watching."""
    visits = Visits()
    with ScriptedServer(visits, ssl_context=wire.server) as server:
        stream = get(session, server.url + "/stream", stream=True)
        idle = get(session, server.url).text
        in_use = connection_of(stream)

        def child() -> Any:
            with pytest.raises(ConnectionError, match="belongs to the parent"):
                stream.content  # noqa: B018
            stream.close()
            return [get(session, server.url).text for _ in range(2)]

        join = forked(child)
        answers = join()
        assert len(set(answers)) == 1, "the child keeps a connection of its own"
        assert idle not in answers
        server.step()
        assert stream.content == b"abcd"
        assert get(session, server.url).text in (idle, str(0)), "the parent has its pool still"
        assert not in_use.transport.closed
        assert server.connections == 3
    visits.check()


def test_an_upload_goes_on_in_the_parent_only(session: Session, wire: Wire) -> None:
    with AppServer(ssl_context=wire.server) as server:
        upload = session.upload("PUT", server.url)
        upload.write(b"before")

        def child() -> Any:
            with pytest.raises(ConnectionError, match="belongs to the parent"):
                upload.write(b"x")
            return session.get(server.url).status_code

        assert forked(child)() == 200
        upload.write(b" and after")
        assert upload.finish().json()["body"] == "before and after"


def test_a_child_of_a_child(session: Session, wire: Wire) -> None:
    visits = Visits()
    with ScriptedServer(visits, ssl_context=wire.server) as server:
        get(session, server.url)

        def child() -> Any:
            mine = get(session, server.url).text

            def grandchild() -> Any:
                return get(session, server.url).text

            others = forked(grandchild)()
            return [mine, others, get(session, server.url).text]

        mine, others, again = forked(child)()
        assert mine == again != others
        assert get(session, server.url).text == "0"
    visits.check()


def test_a_closed_session_stays_closed(new_session: SessionMaker) -> None:
    session = new_session()
    session.close()
    assert forked(lambda: _error_of(lambda: session.get("http://127.0.0.1:1")))() == "SessionClosed"


def _error_of(function: Callable[[], Any]) -> str:
    try:
        function()
    except Exception as error:
        return type(error).__name__
    return "nothing"


def test_limits_begin_anew_in_the_child(new_session: SessionMaker, wire: Wire) -> None:
    """What the parent has in use does not count, and who waits in the parent does not wait in the child."""
    session = new_session(pool=PoolLimits(per_host=1))
    visits = Visits()
    with ScriptedServer(visits, ssl_context=wire.server) as server:
        stream = get(session, server.url + "/stream", stream=True)
        waiting = Call(get, session, server.url)
        eventually(lambda: counts(pool_of(session))[3] == 1)
        assert forked(lambda: [counts(pool_of(session)), get(session, server.url).status_code])() == [[0, 0, 0, 0], 200]
        server.step()
        assert stream.content == b"abcd"
        assert waiting.result().ok
    visits.check()


def test_what_is_idle_expires_in_the_child_too(new_session: SessionMaker) -> None:
    session = new_session(pool=PoolLimits(idle=0.1))
    with AppServer() as server:
        session.get(server.url)

        def child() -> Any:
            session.get(server.url)
            eventually(lambda: counts(pool_of(session)) == (0, 0, 0, 0))
            return True

        assert forked(child)()


# ---------------------------------------------------------------------- sockets


def test_the_child_has_none_of_the_parents_sockets(session: Session, wire: Wire) -> None:
    with AppServer(ssl_context=wire.server) as server:
        session.get(server.url)
        transport = only_connection(session).transport
        dialing = run_on(transport.worker, lambda: len(transport.worker._clients))
        assert dialing

        def child() -> Any:
            worker = transport.worker
            return [transport._sock.fileno(), worker._bell is None, worker._selector is None, len(worker._clients)]

        assert forked(child)() == [-1, True, True, 0]
        assert session.get(server.url).ok
        assert server.connections == 1


def test_what_the_parent_closes_is_closed_while_the_child_lives(session: Session, wire: Wire) -> None:
    """A copy in the child would keep it open, without anybody's knowing."""
    reading, writing = os.pipe()
    seen = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(200, b"ok"))
        peer.wait_closed()
        seen.set()

    try:
        with ScriptedServer(script, ssl_context=wire.server) as server:
            assert session.get(server.url).ok
            join = forked(lambda: os.read(reading, 1).decode())
            session.close()
            assert seen.wait(PATIENCE)
            os.write(writing, b"x")
            assert join() == "x"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_child_that_ends_like_any_program(tmp_path: Path) -> None:
    """Not by `os._exit`: with its finalizers, and with warnings being errors."""
    script = """
import os, sys, warnings
import syncflow
session = syncflow.Session()
stream = session.get(sys.argv[1] + "/stream", stream=True)
session.get(sys.argv[1])
warnings.simplefilter("ignore", DeprecationWarning)
pid = os.fork()
if pid == 0:
    assert session.get(sys.argv[1]).ok
    session.close()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
print("child has ended", flush=True)
assert stream.content == b"abcd"
assert session.get(sys.argv[1]).ok
session.close()
"""

    def serve(peer: Peer) -> None:
        for request in peer.requests():
            if request.path == "/stream":
                peer.send(reply_head(200, {"Content-Length": "4"}) + b"ab")
                peer.wait_step()
                peer.send(b"cd")
            else:
                peer.send(reply(200))

    with ScriptedServer(serve) as server:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", script, server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "child has ended\n"
            server.step()
            _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert server.connections == 3


# ---------------------------------------------------------------------- in flight


def test_forks_while_others_are_at_work(
    new_session: SessionMaker, wire: Wire, server_tls_files: tuple[Path, Path], frantic: None
) -> None:
    """Whatever the other threads hold at that moment, no lock stays held for ever on either side."""
    session = new_session()
    stop = threading.Event()

    def work(fresh: bool) -> int:
        """Half of them shake hands each time, which is when OpenSSL takes most of its locks."""
        count = 0
        while not stop.is_set():
            headers = {"Connection": "close"} if fresh else {}
            assert session.put(server.url, data=b"abc", headers=headers).json()["bytes"] == 3
            count += 1
        return count

    # In a process of its own: a server's threads in this one would be inside OpenSSL as well.
    with ReceiverProcess(tls=server_tls_files if wire.server else None) as server:
        calls = [Call(work, fresh) for fresh in (False, True, False, True)]
        for _ in range(15):
            eventually(lambda: counts(pool_of(session))[0])
            assert forked(lambda: session.put(server.url, data=b"abcd").json()["bytes"])() == 4
        stop.set()
        assert all(call.result() for call in calls)


def test_a_worker_that_is_made_during_a_fork_does_not_disturb_it() -> None:
    """The locks that are released afterwards are those that were taken before."""
    worker_module._before_fork()
    made = Call(Worker)
    worker_module._after_fork_in_parent()
    assert isinstance(made.result(), Worker)
    assert isinstance(Call(shared_worker).result(), Worker)
    assert forked(lambda: isinstance(shared_worker(), Worker))()


def test_the_workers_clients_are_told_in_the_child(worker: Worker) -> None:
    client = Bystander()
    worker.adopt(client)
    run_on(worker, lambda: None)

    def child() -> Any:
        return [client.forked, run_on(worker, lambda: "runs"), threading.active_count()]

    assert forked(child)() == [True, "runs", 2]
    assert not client.forked
    assert run_on(worker, lambda: "runs") == "runs"
    worker.disown(client)

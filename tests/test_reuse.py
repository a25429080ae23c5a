"""Connections that are used again, and what becomes of a request on one that was closed meanwhile."""

from __future__ import annotations

import io
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import syncflow
from syncflow import PoolLimits, Session, Timeouts
from syncflow.engine.connection import Connection
from syncflow.testing import AppServer, Peer, ScriptedServer, closes_idle, eventually, reply, reply_head


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=10) as session:
        yield session


# ------------------------------------------------------------------------------------------- reuse


@pytest.mark.parametrize("tls", [False, True])
def test_sequential_requests_use_one_connection(
    session: Session, server_tls: ssl.SSLContext, ca_file: Path, tls: bool
) -> None:
    session.verify = str(ca_file)
    with AppServer(ssl_context=server_tls if tls else None) as server:
        for number in range(20):
            assert session.get(server.url).ok
            assert session.post(server.url, data=b"x" * number * 1000).json()["length"] == number * 1000
            assert session.put(server.url, data=iter([b"a", b"", b"b"])).json()["body"] == "ab"
            with session.upload("PUT", server.url) as upload:
                upload.write(b"abc")
            assert upload.response.json()["body"] == "abc"
            assert session.head(server.url).content == b""
            with session.get(server.url, stream=True) as response:
                assert b"".join(response.iter_content(10)).startswith(b"{")
        assert server.connections == 1


def test_a_connection_is_free_as_soon_as_the_response_is_there(session: Session) -> None:
    """Not some time later: who makes one request after the other needs no second connection, a thousand times."""
    with AppServer() as server:
        for _ in range(1000):
            session.get(server.url)
        assert server.connections == 1


def test_one_that_dies_before_the_pool_knows_it_costs_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the worker dies in that moment: the pool is told of the end ahead of the beginning."""
    opened, died = Connection.open, []

    def open_and_die(connection: Connection) -> None:
        opened(connection)
        if not died:
            died.append(connection)
            connection.close()

    monkeypatch.setattr(Connection, "open", open_and_die)
    with AppServer() as server, Session(pool=PoolLimits(per_host=1), timeout=Timeouts(pool=5)) as session:
        assert session.get(server.url).ok
        assert session.stats().open == 1
    assert died


def test_each_origin_has_its_own(session: Session) -> None:
    with AppServer() as one, AppServer() as other:
        for _ in range(3):
            session.get(one.url)
            session.get(other.url)
            session.get(one.url.replace("127.0.0.1", "localhost"))
        assert (one.connections, other.connections) == (2, 1)


def test_parallel_requests_use_several(session: Session) -> None:
    together = threading.Barrier(4)

    def app(request: Any) -> Any:
        together.wait(10)
        return syncflow.testing.Response()

    with AppServer(app) as server, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: session.get(server.url), range(4)))
        assert server.connections == 4
        list(threads.map(lambda _: session.get(server.url), range(4)))
        assert server.connections == 4


def test_no_more_than_the_limit(session: Session) -> None:
    with AppServer() as server, Session(timeout=10, pool=PoolLimits(per_host=2)) as session:
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(lambda _: session.get(server.url).ok, range(200)))
        assert server.connections <= 2


def test_a_response_that_is_not_read_keeps_its_connection(session: Session) -> None:
    body = b"x" * 1_000_000
    with AppServer(lambda request: syncflow.testing.Response(body=body)) as server:
        with session.get(server.url, stream=True) as response:
            assert session.get(server.url).content == body
            assert server.connections == 2
            assert response.content == body
        session.get(server.url)
        assert server.connections == 2


def test_the_user_may_ask_for_the_end_of_the_connection(session: Session) -> None:
    """RFC 9112, section 9.6: who has sent "close" sends no other request, whatever the server answers."""

    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(reply(200, b"ok"))

    with ScriptedServer(script) as server:
        for count in (1, 2):
            session.get(server.url, headers={"Connection": "close"})
            server.wait_until_idle()
            assert server.connections == count


def test_idle_connections_are_not_kept_where_none_are_wanted() -> None:
    with AppServer() as server, Session(timeout=10, pool=PoolLimits(idle=0)) as session:
        for count in (1, 2):
            session.get(server.url)
            server.wait_until_idle()
            assert server.connections == count


def test_an_idle_connection_is_closed_in_time() -> None:
    with AppServer() as server, Session(timeout=10, pool=PoolLimits(idle=0.05)) as session:
        session.get(server.url)
        server.wait_until_idle()


def test_closing_the_session_closes_its_connections() -> None:
    with AppServer() as server:
        with Session() as session:
            session.get(server.url)
            assert server.open_connections == 1
        server.wait_until_idle()


# ------------------------------------------------------------------------------------------- stale ones


def test_a_connection_that_is_seen_to_be_closed_is_not_used(session: Session) -> None:
    with closes_idle() as server:
        for count in range(1, 11):
            assert session.post(server.url, data=b"once").content == b"ok"
            server.wait_until_idle()
            assert server.connections == count


class Stale(ScriptedServer):
    """Its connections answer one request; then they wait for the head of a second one, and are reset or closed without
    a word. So the client cannot have known. From `fresh` on they answer everything."""

    def __init__(
        self, how: str = "reset", *, fresh: int = 1, after: bytes = b"", ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self.bodies: list[bytes] = []
        self._how = how
        self._fresh = fresh
        self._after = after
        super().__init__(self._script, ssl_context=ssl_context)

    def _script(self, peer: Peer) -> None:
        if peer.index >= self._fresh:
            for request in peer.requests():
                self.bodies.append(request.body)
                peer.send(reply(200, b"fresh"))
            return
        peer.read_request()
        peer.send(reply(200, b"first"))
        peer.read_head()
        if self._after:
            peer.send(self._after)
        if self._how == "reset":
            peer.reset()
        else:
            peer.half_close()
            peer.wait_closed()


class Rewindable:
    """An iterable that makes a new iterator each time."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"bo", b"", b"dy"])


REPEATABLE: dict[str, tuple[str, Callable[[], Any], bytes]] = {
    "GET": ("GET", lambda: None, b""),
    "HEAD": ("HEAD", lambda: None, b""),
    "OPTIONS": ("OPTIONS", lambda: None, b""),
    "DELETE": ("DELETE", lambda: None, b""),
    "PUT of bytes": ("PUT", lambda: b"body", b"body"),
    "PUT of many bytes": ("PUT", lambda: b"body" * 25_000, b"body" * 25_000),
    "PUT of a file": ("PUT", lambda: behind(io.BytesIO(b"..body"), 2), b"body"),
    "PUT of an iterable": ("PUT", Rewindable, b"body"),
    "PUT of a list": ("PUT", lambda: [b"bo", b"dy"], b"body"),
    "PUT of a form": ("PUT", lambda: {"a": "b"}, b"a=b"),
    "DELETE with a body": ("DELETE", lambda: b"body", b"body"),
}


def behind(file: io.BytesIO, position: int) -> io.BytesIO:
    file.seek(position)
    return file


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("case", REPEATABLE)
def test_a_request_that_may_be_repeated_is_sent_again(session: Session, case: str, how: str) -> None:
    method, data, body = REPEATABLE[case]
    with Stale(how) as server:
        session.get(server.url)
        response = session.request(method, server.url, data=data())
        assert response.status_code == 200
        assert response.request_complete
        assert server.bodies == [body]
        assert server.connections == 2


def test_over_tls_too(session: Session, server_tls: ssl.SSLContext, ca_file: Path) -> None:
    with Stale(ssl_context=server_tls) as server:
        session.get(server.url, verify=ca_file)
        assert session.put(server.url, data=b"body", verify=ca_file).content == b"fresh"


def test_a_regular_file_is_sent_again_from_where_it_was(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"..." + b"body" * 50_000)
    with Stale() as server, path.open("rb") as file:
        session.get(server.url)
        file.seek(3)
        assert session.put(server.url, data=file).content == b"fresh"
        assert server.bodies == [b"body" * 50_000]


def test_as_often_as_there_are_stale_connections(session: Session) -> None:
    together = threading.Barrier(3)

    def script(peer: Peer) -> None:
        if peer.index < 3:
            peer.read_request()
            together.wait(10)
            peer.send(reply(200, b"first"))
            peer.read_head()
            peer.reset()
            return
        for _ in peer.requests():
            peer.send(reply(200, b"fresh"))

    with ScriptedServer(script) as server, ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: session.get(server.url), range(3)))
        assert session.get(server.url).content == b"fresh"
        assert server.connections == 4


class Unseekable(io.RawIOBase):
    """Can tell where it is, but cannot go there: as a counter around a pipe."""

    def __init__(self, body: bytes) -> None:
        self._body = io.BytesIO(body)

    def readinto(self, buffer: Any) -> int:
        return self._body.readinto(buffer)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._body.tell()


UNREPEATABLE: dict[str, tuple[str, Callable[[], Any]]] = {
    "POST": ("POST", lambda: b"body"),
    "POST without a body": ("POST", lambda: None),
    "PATCH": ("PATCH", lambda: b"body"),
    "an unknown method": ("PURGE", lambda: None),
    "PUT of a generator": ("PUT", lambda: (piece for piece in [b"body"])),
    "PUT of a file that cannot seek": ("PUT", lambda: Unseekable(b"body")),
}


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("case", UNREPEATABLE)
def test_a_request_that_may_have_been_processed_is_not(session: Session, case: str, how: str) -> None:
    method, data = UNREPEATABLE[case]
    with Stale(how) as server:
        session.get(server.url)
        with pytest.raises(syncflow.ConnectionError) as caught:
            session.request(method, server.url, data=data())
        error = caught.value
        assert not isinstance(error, syncflow.Timeout)
        assert f"127.0.0.1:{server.port}: the server closed a connection that had been idle" in str(error)
        assert "may or may not have been processed" in str(error)
        assert error.request is not None
        assert error.request.method == method
        assert (server.bodies, server.connections) == ([], 1)
        assert session.get(server.url).content == b"fresh"


def test_an_upload_is_not(session: Session) -> None:
    with Stale() as server:
        session.get(server.url)
        with pytest.raises(syncflow.ConnectionError, match="had been idle"):
            with session.upload("PUT", server.url) as upload:
                while True:
                    upload.write(b"x" * 1000)
        assert (server.bodies, server.connections) == ([], 1)


@pytest.mark.parametrize(
    "after", [b"H", b"HTTP/1.1 200 OK\r\n", reply_head(100), reply_head(200, {"Content-Length": "9"})]
)
def test_a_request_that_was_begun_to_be_answered_is_not(session: Session, after: bytes) -> None:
    with Stale(after=after, how="close") as server:
        session.get(server.url)
        with pytest.raises((syncflow.ConnectionError, syncflow.ChunkedEncodingError)):
            session.get(server.url)
        assert server.connections == 1


def test_a_new_connection_that_is_closed_is_an_error_and_no_reason_to_try_again(session: Session) -> None:
    with ScriptedServer(lambda peer: peer.read_request()) as server:
        with pytest.raises(syncflow.ConnectionError, match="without an answer"):
            session.get(server.url)
        assert server.connections == 1


def test_a_repeated_request_keeps_to_the_deadline_of_the_first(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        if peer.index:
            peer.stall()
        peer.send(reply(200))
        peer.read_head()
        peer.reset()

    with ScriptedServer(script) as server:
        session.get(server.url)
        with pytest.raises(syncflow.TotalTimeout):
            session.get(server.url, timeout=syncflow.Timeouts(total=0.2))
        assert server.connections == 2


def test_an_error_from_the_body_is_never_taken_for_a_lost_connection() -> None:
    """The body is made by another request, whose connection is stale; the outer one must not begin anew."""

    class Relay:
        def __init__(self, session: Session, url: str) -> None:
            self.session, self.url, self.times = session, url, 0

        def __iter__(self) -> Iterator[bytes]:
            self.times += 1
            yield b"a"
            yield self.session.post(self.url, data=b"x").content

    with Stale() as source, AppServer() as target, Session(timeout=10) as session:
        session.get(source.url)
        relay = Relay(session, source.url)
        with pytest.raises(syncflow.ConnectionError, match=f"127.0.0.1:{source.port}: .*idle"):
            session.put(target.url, data=relay)
        assert relay.times == 1
        eventually(lambda: target.open_connections == 0)
        assert target.requests == 0

"""Session.stats(): what is open, who waits, what has gone through, what is buffered. Every figure against what a server
has seen, or what the test has done. A fork, and the accounts alone, are tested in engine/test_accounts."""

from __future__ import annotations

import dataclasses
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from syncflow import (
    BodyLengthError,
    ChunkedEncodingError,
    ConnectionError,
    ConnectTimeout,
    PoolLimits,
    PoolStats,
    PoolTimeout,
    Session,
    SSLError,
    Timeouts,
    Watermarks,
)
from syncflow.adapters import BaseAdapter, HTTPAdapter
from syncflow.engine import accounts
from syncflow.testing import (
    AppServer,
    HTTPProxy,
    Peer,
    Receiver,
    ScriptedServer,
    eventually,
    full_backlog,
    never_answers,
    pattern,
    refused_port,
    reply,
    reply_head,
)

HIGH = Watermarks().high
# More than the kernel's buffers and ours take without a reader.
TOO_MUCH = bytes(24 << 20)
PATIENCE = 10.0

NewSession = Callable[..., Session]


@pytest.fixture
def session(new_session: NewSession) -> Session:
    return new_session()


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def now(stats: Any) -> tuple[int, ...]:
    """What is true of this moment, but for what is open and free."""
    return stats.open, stats.connecting, stats.waiting, stats.bytes_buffered


def connections(session: Session) -> tuple[int, int, int]:
    stats = session.stats()
    check(stats)
    return stats.open, stats.idle, stats.in_use


def made(session: Session) -> tuple[int, int, int]:
    stats = session.stats()
    check(stats)
    return stats.opened, stats.reused, stats.failed


def carried(session: Session) -> tuple[int, int]:
    stats = session.stats()
    check(stats)
    return stats.bytes_sent, stats.bytes_received


def check(stats: PoolStats, *, forgotten: bool = False) -> None:
    """What holds of any figures. Unless origins were `forgotten`, all of them are those of the origins together."""
    for figures in (stats, *stats.by_origin.values()):
        assert figures.open == figures.idle + figures.in_use
        assert figures.bytes_buffered == figures.buffered_outgoing + figures.buffered_incoming
        assert min(dataclasses.astuple(figures)[:13]) >= 0
    for field in dataclasses.fields(stats):
        if field.name != "by_origin":
            total = sum(getattr(figures, field.name) for figures in stats.by_origin.values())
            assert total <= getattr(stats, field.name) if forgotten else total == getattr(stats, field.name), field.name


class Counted:
    """A script that counts every byte that it reads and sends; the answer's size is the path's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.read = 0
        self.sent = 0

    def __call__(self, peer: Peer) -> None:
        while peer._reader.more():
            head = peer.read_head()
            self.count(len(head), 0)
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
            self.count(len(peer.read_exactly(length)), 0)
            if b"chunked" in head:
                self._read_chunks(peer)
            closes = b"/close" in head
            size = int(head.split(b" ", 2)[1].rpartition(b"/")[2] or b"0")
            answer = reply(200, bytes(size), {"Connection": "close"} if closes else {})
            self.count(0, len(answer))
            peer.send(answer)
            if closes:
                return

    def _read_chunks(self, peer: Peer) -> None:
        end = b""
        while end != b"0\r\n\r\n":
            end = (end + peer.read_exactly(1))[-5:]
            self.count(1, 0)

    def count(self, read: int, sent: int) -> None:
        with self._lock:
            self.read += read
            self.sent += sent

    @property
    def both(self) -> tuple[int, int]:
        with self._lock:
            return self.read, self.sent


# -------------------------------------------------------------------------------------------- what they are


def test_there_is_nothing_at_first(session: Session) -> None:
    assert session.stats() == PoolStats()
    assert session.stats().by_origin == {}
    with pytest.raises(dataclasses.FrozenInstanceError):
        session.stats().open = 1  # type: ignore[misc]


def test_they_are_plain_data(session: Session) -> None:
    with AppServer() as server:
        session.get(server.url)
        plain = dataclasses.asdict(session.stats())
    assert json.loads(json.dumps(plain)) == plain
    assert plain["by_origin"][server.url]["opened"] == plain["opened"] == 1


def test_nothing_is_imported_before_somebody_asks() -> None:
    code = (
        "import sys, syncflow; late = 'syncflow.engine.stats' not in sys.modules; "
        "print(late, syncflow.Session().stats() == syncflow.PoolStats())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.split() == ["True", "True"]


# -------------------------------------------------------------------------------------------- connections


def test_idle_and_in_use(session: Session, tls: ssl.SSLContext | None) -> None:
    with Receiver(ssl_context=tls) as server:
        first = session.get(server.url + "/bytes/5000000", stream=True)
        assert connections(session) == (1, 0, 1)
        second = session.get(server.url + "/bytes/5000000", stream=True)
        assert connections(session) == (2, 0, 2)
        assert len(first.content) == 5_000_000
        assert connections(session) == (2, 1, 1)
        second.close()  # half read: it is not used again
        assert connections(session) == (1, 1, 0)
        assert made(session) == (2, 0, 0)


def test_used_again(session: Session, tls: ssl.SSLContext | None) -> None:
    with AppServer(ssl_context=tls) as server:
        for number in range(5):
            session.get(server.url)
            assert made(session) == (1, number, 0)
            assert connections(session) == (1, 1, 0)
    eventually(lambda: connections(session) == (0, 0, 0))  # the server has ended it
    assert made(session) == (1, 4, 0), "what is gone was there all the same"


def test_whoever_waits_and_whoever_connects(new_session: NewSession, threads: ThreadPoolExecutor) -> None:
    session = new_session(pool=PoolLimits(per_host=1), timeout=Timeouts(pool=10))
    with Receiver() as server, full_backlog() as silent:
        response = session.get(server.url + "/bytes/5000000", stream=True)
        waiting = [threads.submit(session.get, server.url + "/stats") for _ in range(3)]
        connecting = threads.submit(session.get, silent.url, timeout=Timeouts(connect=0.3))
        eventually(lambda: session.stats().waiting == 3)
        eventually(lambda: session.stats().connecting == 1)
        stats = session.stats()
        check(stats)
        assert (stats.open, stats.in_use, stats.opened) == (1, 1, 1)
        mine, other = stats.by_origin[server.url], stats.by_origin[silent.url]
        assert (mine.waiting, mine.connecting, mine.open) == (3, 0, 1)
        assert (other.waiting, other.connecting, other.open) == (0, 1, 0)
        response.close()
        assert [call.result(PATIENCE).status_code for call in waiting] == [200] * 3
        with pytest.raises(ConnectTimeout):
            connecting.result(PATIENCE)
        stats = session.stats()
        assert (stats.waiting, stats.connecting, stats.failed) == (0, 0, 1)


def test_who_has_given_up_waits_no_more(new_session: NewSession) -> None:
    session = new_session(pool=PoolLimits(per_host=1), timeout=Timeouts(pool=0.02))
    with Receiver() as server:
        response = session.get(server.url + "/bytes/5000000", stream=True)
        with pytest.raises(PoolTimeout):
            session.get(server.url)
        assert session.stats().waiting == 0
        assert made(session) == (1, 0, 0), "a caller that got none has not failed to make one"
        response.close()


def test_what_cannot_be_set_up_has_failed(session: Session, server_tls: ssl.SSLContext) -> None:
    with refused_port() as refused:
        for count in (1, 2):
            with pytest.raises(ConnectionError):
                session.get(refused.url)
            assert made(session) == (0, 0, count)
    with AppServer(ssl_context=server_tls) as server:
        with pytest.raises(SSLError):
            session.get(server.url, verify=True)
        assert session.get(server.url).ok
    stats = session.stats()
    assert (stats.opened, stats.failed) == (1, 3)
    assert (stats.by_origin[refused.url].failed, stats.by_origin[server.url].failed) == (2, 1)


def test_every_try_counts(new_session: NewSession) -> None:
    session = new_session()
    session.mount("http://", HTTPAdapter(max_retries=2))
    with refused_port() as refused, pytest.raises(ConnectionError):
        session.get(refused.url)
    assert made(session) == (0, 0, 3)


def test_what_the_end_of_the_session_has_called_off_has_not_failed(
    session: Session, threads: ThreadPoolExecutor
) -> None:
    with full_backlog() as silent:
        call = threads.submit(session.get, silent.url)
        eventually(lambda: session.stats().connecting == 1)
        session.close()
        assert call.exception(PATIENCE) is not None
    assert made(session) == (0, 0, 0)
    assert session.stats().connecting == 0


# -------------------------------------------------------------------------------------------- bytes


def test_every_byte_counts(session: Session, tls: ssl.SSLContext | None, tmp_path: Path) -> None:
    """Heads, framing and bodies, by every way they are sent; to the byte, while it is open and after."""
    big = tmp_path / "big"
    big.write_bytes(pattern(3_000_000))
    counted = Counted()
    with ScriptedServer(counted, ssl_context=tls) as server:
        session.get(f"{server.url}/0")
        assert carried(session) == counted.both
        session.get(f"{server.url}/100000")
        session.post(f"{server.url}/17", data=b"small")
        session.post(f"{server.url}/18", data=bytes(1_000_000))
        with big.open("rb") as file:  # os.sendfile, where there is no TLS
            session.put(f"{server.url}/19", data=file)
        session.put(f"{server.url}/20", data=iter([b"a" * 1000, b"b", b"c" * 5000]))
        with session.upload("PUT", f"{server.url}/21") as upload:
            upload.write(b"d" * 10_000)
        assert upload.response.ok
        assert carried(session) == counted.both
        session.get(f"{server.url}/close/22")
        eventually(lambda: connections(session) == (0, 0, 0))
        session.get(f"{server.url}/23")
        assert carried(session) == counted.both
        assert counted.read > 4_000_000
        session.close()
        assert carried(session) == counted.both
    stats = session.stats()
    assert (stats.by_origin[server.url].bytes_sent, stats.by_origin[server.url].bytes_received) == counted.both


def test_an_upload_that_is_given_up_counts_as_far_as_it_came(session: Session) -> None:
    """All that the kernel took arrives; what was still in our buffer does not, and was not counted. (Not over TLS: the
    server has sent tickets that nobody reads, so the end is a reset, which destroys what is on its way.)"""
    read = threading.Event()

    def script(peer: Peer) -> None:
        counted.count(len(peer.read_head()), 0)
        peer.wait_for(read)
        counted.count(len(peer.read_until_close()), 0)

    counted = Counted()
    with ScriptedServer(script) as server:
        with pytest.raises(BodyLengthError), session.upload("PUT", server.url, content_length=200_000) as upload:
            upload.write(bytes(100_000))
        read.set()
        server.wait_until_idle()
    assert carried(session) == counted.both
    assert counted.read > 100_000


def test_what_a_tunnel_costs_is_not_counted(session: Session, server_tls: ssl.SSLContext) -> None:
    counted = Counted()
    with ScriptedServer(counted, ssl_context=server_tls) as server, HTTPProxy() as proxy:
        session.get(f"{server.url}/9", proxies={"https": proxy.url})
        assert carried(session) == counted.both
        assert list(session.stats().by_origin) == [server.url], "by the server's name, not by the way to it"


def test_half_an_answer_counts(session: Session, tls: ssl.SSLContext | None) -> None:
    def script(peer: Peer) -> None:
        counted.count(len(peer.read_head()), len(begun))
        peer.send(begun)

    counted, begun = Counted(), reply_head(200, {"Content-Length": "10"}) + b"x"
    with ScriptedServer(script, ssl_context=tls) as server:
        with pytest.raises(ChunkedEncodingError):
            session.get(server.url)
        assert connections(session) == (0, 0, 0)
        assert carried(session) == counted.both
        assert made(session) == (1, 0, 0), "a connection that is lost was one nevertheless"


# -------------------------------------------------------------------------------------------- buffers


def test_backpressure_is_seen(session: Session, threads: ThreadPoolExecutor, tls: ssl.SSLContext | None) -> None:
    """What waits to be sent rises to the high watermark while the server does not read, and stays there."""
    with Receiver(pause_after=1, ssl_context=tls) as receiver:
        with session.upload("PUT", receiver.url) as upload:
            writing = threads.submit(upload.write, TOO_MUCH)
            eventually(lambda: session.stats().buffered_outgoing == HIGH)
            for _ in range(3):
                stats = session.stats()
                check(stats)
                assert stats.by_origin[receiver.url].buffered_outgoing <= HIGH
                assert stats.in_use == 1
            assert not writing.done()
            receiver.resume()
            writing.result(PATIENCE)
        assert upload.response.json()["bytes"] == len(TOO_MUCH)
        assert session.stats().bytes_buffered == 0
        assert session.stats().bytes_sent > len(TOO_MUCH)


def test_what_was_given_up_is_not_buffered(session: Session) -> None:
    with never_answers(reads=False, receive_buffer=4096) as server:
        upload = session.upload("PUT", server.url)
        while upload.try_write(bytes(10_000)):
            pass
        # Framing is counted here, not there.
        assert HIGH // 2 < upload.buffered <= session.stats().buffered_outgoing
        upload.abort()
        assert session.stats().bytes_buffered == 0


def test_what_is_received_ahead_of_a_slow_reader(session: Session, tls: ssl.SSLContext | None) -> None:
    with Receiver(ssl_context=tls) as server:
        response = session.get(server.url + "/bytes/20000000", stream=True)
        high = Watermarks().receive_high
        eventually(lambda: session.stats().buffered_incoming == high)
        before = session.stats()
        check(before)
        assert before.bytes_received >= high
        assert len(response.content) == 20_000_000
        after = session.stats()
        assert (after.bytes_buffered, after.in_use, after.idle) == (0, 0, 1)
        assert after.bytes_received > 20_000_000


# -------------------------------------------------------------------------------------------- streams


def test_an_upgraded_connection_is_in_use(session: Session, tls: ssl.SSLContext | None) -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
    requests = []

    def script(peer: Peer) -> None:
        requests.append(peer.read_head())
        peer.send(switching + b"hello")
        peer.send(peer.read_exactly(100_000))
        peer.wait_closed()

    with ScriptedServer(script, ssl_context=tls) as server:
        response = session.get(server.url, headers={"Connection": "Upgrade", "Upgrade": "x"})
        assert connections(session) == (1, 0, 1)
        duplex = response.upgraded
        assert connections(session) == (1, 0, 1)
        eventually(lambda: session.stats().buffered_incoming == 5)
        duplex.write(bytes(100_000))
        left = 100_005
        while left:
            left -= len(duplex.read(left))
        assert carried(session) == (len(requests[0]) + 100_000, len(switching) + 100_005)
        duplex.close()
        assert connections(session) == (0, 0, 0)
        assert carried(session) == (len(requests[0]) + 100_000, len(switching) + 100_005)
        assert made(session) == (1, 0, 0)


# -------------------------------------------------------------------------------------------- the end


def test_close_ends_what_is_there_and_forgets_nothing(session: Session, threads: ThreadPoolExecutor) -> None:
    def script(peer: Peer) -> None:
        for request in peer.requests():
            if request.path == "/stalls":
                peer.stall()
            peer.send(reply(200, b"ok"))

    with ScriptedServer(script) as server:
        session.get(server.url)
        blocked = [threads.submit(session.get, server.url + "/stalls") for _ in range(3)]
        eventually(lambda: session.stats().in_use == 3)
        before = session.stats()
        session.close()
        assert all(call.exception(PATIENCE) is not None for call in blocked)
        after = session.stats()
        check(after)
        assert now(after) == (0, 0, 0, 0)
        assert (after.opened, after.reused, after.failed) == (before.opened, before.reused, before.failed) == (3, 1, 0)
        assert after.bytes_received == before.bytes_received > 0
        assert after.bytes_sent >= before.bytes_sent


# -------------------------------------------------------------------------------------------- origins


def test_many_origins_are_forgotten_and_their_sums_are_not(
    new_session: NewSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "ORIGINS_KEPT", 5)
    session = new_session(resolver=lambda host, port: ["127.0.0.1"], pool=PoolLimits(total=2))
    counted = Counted()
    with ScriptedServer(counted) as server:
        origins = [f"http://host{number}.test:{server.port}" for number in range(20)]
        for origin in origins:
            session.get(f"{origin}/10")
            session.get(f"{origin}/10")
            check(session.stats(), forgotten=True)
            # Two that are open, and one perhaps that the worker has yet to close.
            assert len(session.stats().by_origin) <= 5 + 3
        eventually(lambda: len(session.stats().by_origin) == 7)
        stats = session.stats()
        assert sorted(stats.by_origin) == sorted(origins[-7:]), "the longest unused are forgotten first"
        assert (stats.opened, stats.reused, stats.open) == (20, 20, 2)
        assert (stats.bytes_sent, stats.bytes_received) == counted.both
        session.get(f"{origins[0]}/10")
        returned = session.stats().by_origin[origins[0]]
        assert (returned.opened, returned.reused, returned.open) == (1, 0, 1)


def test_adapters_of_the_program(new_session: NewSession) -> None:
    """One of ours is counted once, however often it is mounted; another one's connections are its own."""

    class Foreign(BaseAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            raise ConnectionError("it has no network")

        def close(self) -> None:
            pass

    session = new_session()
    with AppServer() as server:
        session.get(server.url)
        mine = HTTPAdapter()
        session.mount("http://", mine)
        session.mount("http://127.0.0.1", mine)
        session.get(server.url)
        session.get(server.url)
        assert made(session) == (2, 1, 0)
        session.mount("http://foreign", Foreign())
        with pytest.raises(ConnectionError):
            session.get("http://foreign/")
        assert made(session) == (2, 1, 0)
        assert session.stats().by_origin[server.url].opened == 2


# -------------------------------------------------------------------------------------------- threads


def test_asked_while_others_work(frantic: None, new_session: NewSession, threads: ThreadPoolExecutor) -> None:
    """Connections come, are used again, waited for and closed, in every way: what is asked meanwhile is never
    inconsistent, and never goes back; in the end it is exact."""
    session = new_session(pool=PoolLimits(per_host=3), timeout=Timeouts(pool=30))
    counted = Counted()
    done = threading.Event()
    asked: list[PoolStats] = []
    rounds, workers = 15, 6

    def ask() -> None:
        last = PoolStats()
        while not done.is_set():
            stats = session.stats()
            check(stats)
            assert stats.open + stats.connecting <= 3
            assert stats.waiting <= workers
            assert stats.buffered_outgoing <= 3 * (HIGH + 64)
            for name in ("opened", "reused", "failed", "bytes_sent", "bytes_received"):
                assert getattr(stats, name) >= getattr(last, name), name
            assert stats.opened + stats.reused <= workers * rounds * 4
            last = stats
            asked.append(stats)

    def work(number: int) -> None:
        for _ in range(rounds):
            session.get(f"{server.url}/{number}")
            session.get(f"{server.url}/close/{number}")
            session.post(f"{server.url}/3", data=bytes(300_000))
            with session.get(f"{server.url}/4", stream=True) as response:
                assert response.content == bytes(4)

    with ScriptedServer(counted) as server:
        asking = [threads.submit(ask) for _ in range(2)]
        working = [threads.submit(work, number) for number in range(workers)]
        try:
            for call in working:
                call.result(60)
        finally:
            done.set()
        for call in asking:
            call.result(PATIENCE)
        stats = session.stats()
        check(stats)
        assert (stats.bytes_sent, stats.bytes_received) == counted.both
        assert stats.opened + stats.reused == workers * rounds * 4
        assert stats.opened == server.connections
    assert any(stats.waiting for stats in asked)
    assert len(asked) > 10


def test_what_was_called_off_never_goes_back(frantic: None, new_session: NewSession) -> None:
    """Uploads that another thread aborts, while they are being sent: the last bytes count as well."""
    with Receiver(hash=False) as receiver, ThreadPoolExecutor(2) as pool:
        session = new_session()
        before = 0
        for _ in range(20):
            upload = session.upload("PUT", receiver.url)
            writing = pool.submit(upload.write, TOO_MUCH)
            eventually(lambda upload=upload: upload.offset > 0)  # type: ignore[misc]
            aborting = pool.submit(upload.abort)
            while not writing.done():
                sent = session.stats().bytes_sent
                assert sent >= before
                before = sent
            aborting.result(PATIENCE)
            writing.exception(PATIENCE)
        receiver.wait_until_idle()
        assert session.stats().bytes_sent >= receiver.bytes_received > 0
        assert connections(session) == (0, 0, 0)

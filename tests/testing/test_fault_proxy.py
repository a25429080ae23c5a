"""The proxy that is a bad link: exact to the byte, patient, bounded, and the same again with the same seed."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncflow.testing import (
    AppServer,
    FaultProxy,
    Link,
    Peer,
    ScriptedServer,
    eventually,
    pattern,
    refused_port,
)
from syncflow.testing.link import FRAGMENT, UNDER_WAY, Broken, LinkDirection

from ..concurrency import Call

pytestmark = pytest.mark.once

PATIENCE = 10.0
BODY = pattern(50_000)

# Long enough to see that nothing comes; what comes all the same is seen as well when it comes later.
NOTHING = 0.05


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(proxy.address, PATIENCE)


def read_all(sock: socket.socket) -> bytes:
    """To the end, or the reset."""
    got = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            got += piece
    return bytes(got)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        piece = sock.recv(count - len(got))
        assert piece, f"it has ended after {len(got)} of {count} bytes"
        got += piece
    return bytes(got)


def says_nothing(sock: socket.socket) -> bool:
    sock.settimeout(NOTHING)
    try:
        return bool(sock.recv(1)) and False
    except TimeoutError:
        return True
    finally:
        sock.settimeout(PATIENCE)


class Sink(ScriptedServer):
    """Reads each connection to its end, then says `answer`; or says it first."""

    def __init__(self, answer: bytes = b"", *, first: bool = False, **settings: Any) -> None:
        super().__init__(self._serve_peer, **settings)
        self.got: list[bytes] = []
        self.resets = 0
        self._answer = answer
        self._says_first = first

    def _serve_peer(self, peer: Peer) -> None:
        sock = peer._connection.sock
        got = bytearray()
        was_reset = False
        try:
            if self._says_first:
                sock.sendall(self._answer)
        except ConnectionError:
            was_reset = True  # what came before the reset can still be read
        try:
            while piece := sock.recv(65536):
                got += piece
        except ConnectionError:
            was_reset = True
        self.resets += was_reset
        self.got.append(bytes(got))
        if not self._says_first:
            sock.sendall(self._answer)


# ------------------------------------------------------------------------------------- a perfect link


def test_bytes_and_a_half_close_are_carried() -> None:
    with Sink(BODY[::-1]) as server, FaultProxy(server.address) as proxy:
        with connect(proxy) as client:
            client.sendall(BODY)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == BODY[::-1]
        proxy.wait_until_idle()
        assert server.got == [BODY]
        assert (proxy.bytes_up, proxy.bytes_down) == (len(BODY), len(BODY))
        assert (proxy.connections, proxy.open_connections, proxy.struck) == (1, 0, 0)


def test_tls_passes_through(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    link = Link(latency=0.002, loss=0.2, stall=0.002)
    with AppServer(ssl_context=server_tls) as server, FaultProxy(server.address, up=link, down=link) as proxy:
        with client_tls.wrap_socket(connect(proxy), server_hostname="localhost") as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert read_all(client).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("by", ["client", "server"])
def test_a_reset_is_carried(by: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_exactly(1)
        peer.send(b"abc")
        peer.wait_step()
        peer.reset()

    with contextlib.ExitStack() as stack:
        server: Any = stack.enter_context(ScriptedServer(script) if by == "server" else Sink(b"abc", first=True))
        proxy = stack.enter_context(FaultProxy(server.address))
        client = stack.enter_context(connect(proxy))
        client.sendall(b"x")
        assert read_exactly(client, 3) == b"abc"
        if by == "server":
            server.step()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        else:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            server.wait_for_connections(1)
            server.wait_until_idle()
            assert server.resets == 1
        proxy.wait_until_idle()
        assert proxy.struck == 0, "it was no fault of the link"


def test_a_target_that_is_not_there_resets() -> None:
    with refused_port() as endpoint, FaultProxy(endpoint.address) as proxy, pytest.raises(ConnectionResetError):
        with connect(proxy) as client:
            client.recv(1)


# ------------------------------------------------------------------------------------- slow


def test_latency_does_not_slow_down_what_follows() -> None:
    with Sink() as server, FaultProxy(server.address, up=Link(latency=0.25), down=Link(latency=0.25)) as proxy:
        begun = time.monotonic()
        with connect(proxy) as client:
            for index in range(100):
                eventually(lambda index=index: proxy._lines[0].up._size >= index if proxy._lines else not index)  # type: ignore[misc]
                client.sendall(b"x")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""
        took = time.monotonic() - begun
        assert server.got == [b"x" * 100]
    assert took >= 0.5, "the end of one direction is under way as well, and then that of the other"
    assert took < 10, "one after the other they would take 25 s"


def time_of_body(link: Link) -> float:
    """Seconds until all of it has come down."""
    with Sink(BODY) as server, FaultProxy(server.address, down=link) as proxy, connect(proxy) as client:
        client.shutdown(socket.SHUT_WR)
        begun = time.monotonic()
        assert read_all(client) == BODY
        return time.monotonic() - begun


def test_bandwidth_is_limited() -> None:
    assert 0.18 <= time_of_body(Link(bandwidth=250_000)) < 10


def test_it_stalls() -> None:
    """For the half of `stall` on an average, some seventy times."""
    assert 0.15 <= time_of_body(Link(loss=1, stall=0.01)) < 10


def test_one_byte_a_time_is_not_too_little() -> None:
    with Sink(b"abc") as server, FaultProxy(server.address, down=Link(bandwidth=20)) as proxy:
        with connect(proxy) as client:
            client.shutdown(socket.SHUT_WR)
            assert [client.recv(9) for _ in range(4)] == [b"a", b"b", b"c", b""]


@pytest.mark.parametrize("link", [Link(latency=60), Link(bandwidth=1), Link(silent_after=0)])
def test_a_sender_is_pushed_back(link: Link) -> None:
    """What the link has taken is bounded, and so is what the system has taken for it."""
    with Sink() as server, FaultProxy(server.address, up=link, receive_buffer=4096) as proxy:
        with connect(proxy) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.sendall(bytes(8 << 20))
            line = proxy._lines[0]
            held = line.up._size
            assert held <= (UNDER_WAY if link.latency else link.bandwidth or 0), "what is silent takes nothing"
            assert (held == 0) == (link.silent_after == 0)


def test_a_receiver_that_does_not_read_pushes_back_through_it() -> None:
    reading = threading.Event()

    def script(peer: Peer) -> None:
        peer.wait_for(reading)
        assert peer.read_until_close() == BODY * 100

    with ScriptedServer(script, receive_buffer=4096) as server, FaultProxy(server.address) as proxy:
        with connect(proxy) as client:
            sending = Call(client.sendall, BODY * 100)
            eventually(lambda: proxy._lines and proxy._lines[0].up._size >= UNDER_WAY)
            assert proxy._lines[0].up._size == UNDER_WAY
            reading.set()
            sending.result()
            client.shutdown(socket.SHUT_WR)
            proxy.wait_until_idle()
        server.wait_until_idle()


# ------------------------------------------------------------------------------------- faults, to the byte

WHERE = [0, 1, 1000, len(BODY) - 1, len(BODY)]


@pytest.mark.parametrize("at", WHERE)
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("fault", ["cut", "reset"])
@pytest.mark.parametrize("slow", [{}, {"latency": 0.01}, {"loss": 0.3, "stall": 0.001}], ids=["", "latency", "loss"])
def test_it_ends_after_so_many_bytes(fault: str, direction: str, at: int, slow: dict[str, Any]) -> None:
    link: dict[str, Any] = {direction: Link(**{f"{fault}_after": at, **slow})}
    with Sink(BODY, first=True) as server, FaultProxy(server.address, **link) as proxy, socket.socket() as client:
        client.settimeout(PATIENCE)
        got = bytearray()
        was_reset = False
        try:
            client.connect(proxy.address)
            client.sendall(BODY)
        except ConnectionError:
            was_reset = True  # what came before the reset can still be read
        try:
            while piece := client.recv(65536):
                got += piece
        except OSError:
            was_reset = True
        assert was_reset == (fault == "reset")
        eventually(lambda: proxy.struck == 1)
        client.close()
        proxy.wait_until_idle()
        server.wait_for_connections(1 if at else 0)
        server.wait_until_idle()
        assert server.connections == (1 if at else 0)
        if at == 0:
            assert not got
            assert not server.got
        elif direction == "up":
            assert server.got == [BODY[:at]]
            assert BODY.startswith(got)
        else:
            assert got == BODY[:at]
            assert BODY.startswith(server.got[0])
        if at:
            assert server.resets == (fault == "reset")
        assert (proxy.bytes_up if direction == "up" else proxy.bytes_down) == at


def test_it_ends_in_the_very_step_that_passes_the_last_byte() -> None:
    """Before anything can pass in the other direction."""
    source, feeder = socket.socketpair()
    sink, taker = socket.socketpair()
    with source, feeder, sink, taker:
        source.setblocking(False)
        direction = LinkDirection(source, sink, Link(cut_after=3), random.Random(), lambda: None)
        feeder.sendall(b"abcd")
        with pytest.raises(Broken):
            direction.move()
        assert taker.recv(9) == b"abc"


def test_a_cut_is_a_clean_end_to_who_goes_on_sending() -> None:
    """Neither a reset nor a broken pipe, though nobody reads."""
    with Sink() as server, FaultProxy(server.address, up=Link(cut_after=1)) as proxy, connect(proxy) as client:
        client.sendall(BODY)
        assert client.recv(1) == b""
        server.wait_for_connections(1)
        server.wait_until_idle()
        assert server.got == [BODY[:1]]
        for _ in range(100):
            client.sendall(BODY)
        assert proxy.open_connections == 1


@pytest.mark.parametrize("at", WHERE)
def test_it_falls_silent_in_one_direction_until_it_heals(at: int) -> None:
    link = Link(silent_after=at)
    with Sink(BODY, first=True) as server, FaultProxy(server.address, down=link) as proxy, connect(proxy) as client:
        client.sendall(BODY)
        assert read_exactly(client, at) == BODY[:at]
        assert says_nothing(client)
        eventually(lambda: proxy.bytes_up == len(BODY), message="the other direction goes on")
        client.shutdown(socket.SHUT_WR)
        server.wait_until_idle()
        assert server.got == [BODY]
        assert says_nothing(client), "not even the end"
        assert (proxy.struck, proxy.open_connections) == (1, 1)
        proxy.heal()
        assert read_all(client) == BODY[at:]
        proxy.wait_until_idle()


def test_a_client_that_leaves_a_silent_link_is_not_noticed() -> None:
    with Sink() as server, FaultProxy(server.address, up=Link(silent_after=0)) as proxy:
        with connect(proxy) as client:
            client.sendall(b"abc")
            eventually(lambda: proxy.struck == 1)
        assert not server.got
        assert proxy.open_connections == 1
        proxy.heal()
        proxy.wait_until_idle()
        server.wait_until_idle()
        assert server.got == [b"abc"]


# ------------------------------------------------------------------------------------- chance


def fragments(seed: str, feed: Callable[[bytes], Iterator[bytes]], loss: float = 0.1) -> list[int]:
    """In which lengths a direction sends on what it is fed."""
    source, feeder = socket.socketpair()
    # A socket that keeps messages apart shows each call.
    sink, taker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with source, feeder, sink, taker:
        for sock in (source, sink, taker):
            sock.setblocking(False)
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        link = Link(loss=loss, stall=0.001)
        direction = LinkDirection(source, sink, link, random.Random(seed), lambda: None)
        taken: list[bytes] = []
        for piece in feed(BODY[:20_000]):
            feeder.sendall(piece)
            while direction.move() or direction._under_way:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        taken.append(taker.recv(65536))
        with contextlib.suppress(BlockingIOError):
            while True:
                taken.append(taker.recv(65536))
        assert b"".join(taken) == BODY[:20_000]
        return [len(each) for each in taken]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def test_the_same_seed_gives_the_same_fragments() -> None:
    once = fragments("1", whole)
    assert len(once) >= 14
    assert len(set(once)) > 10
    assert max(once) <= FRAGMENT
    assert fragments("1", whole) == once
    assert fragments("2", whole) != once


def test_where_it_stalls_does_not_depend_on_how_the_bytes_come() -> None:
    """A border of what came is one of what goes, too, but no other moves."""

    def positions(lengths: list[int]) -> set[int]:
        total, found = 0, set()
        for length in lengths:
            total += length
            found.add(total)
        return found

    def pieces(data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), 5000):
            yield data[at : at + 5000]

    whole_ones, in_pieces = positions(fragments("1", whole)), positions(fragments("1", pieces))
    assert whole_ones <= in_pieces
    assert in_pieces - whole_ones <= {5000, 10_000, 15_000}


def test_without_loss_it_is_not_fragmented() -> None:
    assert fragments("1", lambda data: iter([data[:9000], data[9000:]]), loss=0.0) == [9000, 11_000]


def test_each_connection_and_direction_has_chances_of_its_own() -> None:
    with FaultProxy(("127.0.0.1", 1), seed=7) as proxy, socket.socket() as sock:
        values = {proxy.direction(sock, sock, name)._chance.random() for name in ("0 up", "0 down", "1 up")}
    assert len(values) == 3


# ------------------------------------------------------------------------------------- which connections, and when


def test_one_link_after_the_other() -> None:
    links = [Link(cut_after=3), Link(), Link(cut_after=5)]
    with Sink(b"abcdefgh", first=True) as server, FaultProxy(server.address, down=links) as proxy:
        for expected in (3, 8, 5, 8):
            with connect(proxy) as client:
                assert len(read_exactly(client, expected)) == expected
                assert (client.recv(1) == b"") if expected < 8 else says_nothing(client)
        eventually(lambda: proxy.struck == 2)
        proxy.change(down=[Link(cut_after=1)])
        for expected in (1, 8):
            with connect(proxy) as client:
                assert read_exactly(client, expected)
                assert (client.recv(1) == b"") if expected < 8 else says_nothing(client)


def test_a_change_holds_for_open_connections() -> None:
    with Sink(b"abc", first=True) as server, FaultProxy(server.address) as proxy, connect(proxy) as client:
        assert read_exactly(client, 3) == b"abc"
        proxy.change(down=Link(cut_after=4))
        assert says_nothing(client)
        proxy.change(down=Link(cut_after=2))
        assert client.recv(1) == b""


def test_a_change_ends_waiting_by_the_old_link() -> None:
    slow = Link(bandwidth=0.01)
    with Sink(b"abc", first=True) as server, FaultProxy(server.address, down=slow) as proxy, connect(proxy) as client:
        assert read_exactly(client, 1) == b"a"
        proxy.heal()
        assert read_exactly(client, 2) == b"bc"


@pytest.mark.parametrize("heals", [False, True], ids=["", "healed"])
@pytest.mark.parametrize("how", ["cut", "reset"])
def test_all_that_are_open_end_at_once(how: str, heals: bool) -> None:
    """New ones are as the link has them, and healing takes nothing back."""
    with Sink(b"abc", first=True) as server, FaultProxy(server.address, up=Link(silent_after=0)) as proxy:
        with connect(proxy) as one, connect(proxy) as two:
            for client in (one, two):
                assert read_exactly(client, 3) == b"abc"
            getattr(proxy, how)()
            if heals:
                proxy.heal()
            for client in (one, two):
                with contextlib.nullcontext() if how == "cut" else pytest.raises(ConnectionResetError):
                    assert client.recv(1) == b""
            with connect(proxy) as new:
                assert read_exactly(new, 3) == b"abc"
                assert says_nothing(new)


def test_it_refuses_and_accepts_again() -> None:
    with Sink(b"abc", first=True) as server, FaultProxy(server.address) as proxy, connect(proxy) as old:
        address = proxy.address
        proxy.wait_for_connections(1)
        for _ in range(2):
            proxy.refuse()
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                connect(proxy)
            with AppServer() as other:
                assert other.address != address, "the port is kept"
            proxy.heal()
            proxy.heal()
            assert proxy.address == address
            with connect(proxy) as new:
                assert read_exactly(new, 3) == b"abc"
        assert read_exactly(old, 3) == b"abc", "and those that were open went on"
        proxy.refuse()


# ------------------------------------------------------------------------------------- its end


@pytest.mark.parametrize(
    "link",
    [Link(), Link(latency=60), Link(bandwidth=0.01), Link(loss=1, stall=60), Link(silent_after=1), Link(cut_after=1)],
    ids=["perfect", "latency", "bandwidth", "loss", "silent", "cut"],
)
def test_it_ends_whatever_it_waits_for(link: Link) -> None:
    """And leaves nothing behind, as with every test."""
    with Sink(BODY, first=True) as server, FaultProxy(server.address, up=link, down=link) as proxy:
        with connect(proxy) as client:
            client.sendall(BODY)
            proxy.wait_for_connections(1)
            eventually(lambda: proxy._lines)
            proxy.stop()
            read_all(client)
            assert proxy.open_connections == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency": -1},
        {"stall": -0.1},
        {"bandwidth": 0},
        {"loss": 1.1},
        {"cut_after": -1},
        {"cut_after": 1, "silent_after": 1},
    ],
)
def test_what_no_link_is_like(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Link(**wrong)

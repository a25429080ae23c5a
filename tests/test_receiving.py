"""A response that is not read stops being received: backpressure from the program to the server."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncflow import Response, Session, Watermarks
from syncflow.testing import AppServer, Peer, Receiver, ScriptedServer, eventually, pattern, pattern_pieces, reply_head

LONG = 64 << 20


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


def waiting(response: Response) -> int:
    """Bytes that were received and not read."""
    return response._exchange.incoming.size


class Counting(ScriptedServer):
    """Sends a long body and counts what the kernel has taken of it."""

    def __init__(self, tls: ssl.SSLContext | None, *, chunked: bool) -> None:
        self.sent = 0
        self._chunked = chunked
        super().__init__(self._script, ssl_context=tls, timeout=60)

    def _script(self, peer: Peer) -> None:
        peer.read_request()
        framing = {"Transfer-Encoding": "chunked"} if self._chunked else {"Content-Length": str(LONG)}
        peer.send(reply_head(200, framing))
        for piece in pattern_pieces(LONG):
            peer.send(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else bytes(piece))
            self.sent += len(piece)
        peer.send(b"0\r\n\r\n" if self._chunked else b"")


def looks(count: int = 30) -> Iterator[int]:
    """So many moments, in which the others have their turn."""
    for number in range(count):
        threading.Event().wait(0.001)
        yield number


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "marks", [Watermarks(), Watermarks(receive_high=10_000, receive_low=1000), Watermarks(receive_high=1 << 20)]
)
def test_what_is_not_read_is_not_received(
    tls: ssl.SSLContext | None, ca_file: Path, chunked: bool, marks: Watermarks
) -> None:
    with Counting(tls, chunked=chunked) as server, Session(timeout=20, watermarks=marks) as session:
        with session.get(server.url, stream=True, verify=ca_file) as response:
            eventually(lambda: waiting(response) >= marks.receive_high - 100)
            for taken in range(3):
                for _ in looks():
                    assert waiting(response) <= marks.receive_high
                assert server.sent < LONG
                assert response.raw.read(100_000) == pattern(100_000, taken * 100_000)
            assert len(response.raw.read()) == LONG - 300_000


def test_a_reader_who_comes_late_gets_all(tls: ssl.SSLContext | None, ca_file: Path) -> None:
    with Receiver(ssl_context=tls) as server, Session(timeout=20) as session:
        with session.get(f"{server.url}/bytes/3000000", stream=True, verify=ca_file) as response:
            eventually(lambda: waiting(response) >= 65_000)
            assert len(response.content) == 3_000_000


def test_what_is_small_is_received_though_nobody_asks(tls: ssl.SSLContext | None, ca_file: Path) -> None:
    """So that the connection is free for another request, and a response that is dropped costs none."""
    with AppServer(ssl_context=tls) as server, Session(timeout=20) as session:
        response = session.get(server.url, stream=True, verify=ca_file)
        eventually(lambda: response.timings.total is not None)
        assert session.get(server.url, verify=ca_file).ok
        assert server.connections == 1
        assert response.content.startswith(b"{")


def test_a_response_that_fills_the_buffer_holds_up_no_other(tls: ssl.SSLContext | None, ca_file: Path) -> None:
    """One worker watches all of them."""
    with Receiver(ssl_context=tls) as server, Session(timeout=20) as session:
        held = [session.get(f"{server.url}/bytes/{LONG}", stream=True, verify=ca_file) for _ in range(5)]
        for _ in range(20):
            assert len(session.get(f"{server.url}/bytes/200000", verify=ca_file).content) == 200_000
        for response in held:
            response.close()

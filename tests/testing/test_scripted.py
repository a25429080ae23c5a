"""ScriptedServer against a bare socket: each thing that a script can do, and each way in which it fails."""

from __future__ import annotations

import resource
import socket
import ssl
import threading

import pytest

from syncflow.testing import Peer, ScriptedServer, chunk, eventually, last_chunk, reply

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def connect(server: ScriptedServer) -> socket.socket:
    return socket.create_connection(server.address, timeout=10)


def ended(sock: socket.socket) -> bool:
    """Whether the other side has closed, one way or the other."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_each_connection_has_its_script_and_the_last_goes_on() -> None:
    scripts = [lambda peer, n=n: peer.send(b"%d" % n) for n in range(2)]
    with ScriptedServer(*scripts) as server:
        answers = []
        for _ in range(3):
            with connect(server) as sock:
                answers.append(sock.recv(10))
        assert answers == [b"0", b"1", b"1"]
        assert server.connections == 3


def test_without_repeat_one_connection_too_many_is_an_error() -> None:
    with (
        pytest.raises(AssertionError, match="connection 1 was not expected"),
        ScriptedServer(lambda peer: peer.send(b"x"), repeat=False) as server,
    ):
        with connect(server) as sock:
            assert sock.recv(10) == b"x"
        with connect(server) as sock:
            assert ended(sock)


def test_expect_takes_exactly_its_bytes() -> None:
    def script(peer: Peer) -> None:
        peer.expect(b"abc")
        peer.expect(b"def")
        peer.send(b"ok")

    with ScriptedServer(script) as server, connect(server) as sock:
        sock.sendall(b"ab")
        sock.sendall(b"cdef")
        assert sock.recv(10) == b"ok"


def test_expect_fails_at_the_first_difference_without_waiting_for_the_rest() -> None:
    with (
        pytest.raises(AssertionError, match="differs at byte 1: expected b'abcdef', got b'aX'"),
        ScriptedServer(lambda peer: peer.expect(b"abcdef")) as server,
        connect(server) as sock,
    ):
        sock.sendall(b"aX")
        assert ended(sock)


def test_a_wait_that_is_too_long_says_what_for_and_what_came() -> None:
    with (
        pytest.raises(AssertionError, match="no sign of b'abc' within 0.01 s; so far came 1 bytes: b'a'"),
        ScriptedServer(lambda peer: peer.expect(b"abc"), timeout=0.01) as server,
        connect(server) as sock,
    ):
        sock.sendall(b"a")
        assert ended(sock)


@pytest.mark.parametrize("wait", ["read_head", "read_request", "read_until_close"])
def test_every_read_is_bounded(wait: str) -> None:
    with (
        pytest.raises(AssertionError, match="within 0.01 s"),
        ScriptedServer(lambda peer: getattr(peer, wait)(), timeout=0.01) as server,
        connect(server) as sock,
    ):
        assert ended(sock)


def test_a_client_that_leaves_while_it_is_read_is_an_error() -> None:
    with (
        pytest.raises(AssertionError, match="waited for 10 bytes, but the peer has closed"),
        ScriptedServer(lambda peer: peer.read_exactly(10)) as server,
    ):
        with connect(server) as sock:
            sock.sendall(b"123")
        server.wait_for_connections(1)
        server.wait_until_idle()


def test_sending_to_a_client_that_does_not_read_is_bounded() -> None:
    with (
        pytest.raises(AssertionError, match="did not read 100000000 bytes in time"),
        ScriptedServer(lambda peer: peer.send(bytes(100_000_000)), timeout=0.01) as server,
        connect(server),
    ):
        server.wait_for_connections(1)
        server.wait_until_idle()


def test_a_client_that_leaves_while_it_is_sent_to_is_its_own_affair() -> None:
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.wait_for(gone)
        while True:
            peer.send(bytes(100_000))

    with ScriptedServer(script) as server:
        with connect(server):
            server.wait_for_connections(1)
        gone.set()
        server.wait_until_idle()


def test_requests_are_read_with_their_bodies() -> None:
    seen = []

    def script(peer: Peer) -> None:
        for request in peer.requests():
            seen.append((request.method, request.target, request.body, request.trailers))
            peer.send(reply(204))

    body = chunk(b"hello ") + chunk(b"world") + last_chunk({"X-Sum": "1"})
    with ScriptedServer(script) as server, connect(server) as sock:
        sock.sendall(HEAD)
        sock.sendall(b"PUT /length HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello")
        sock.sendall(b"PUT /chunks HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        sock.shutdown(socket.SHUT_WR)
        server.wait_for_connections(1)
        server.wait_until_idle()
    assert seen == [
        ("GET", "/", b"", {}),
        ("PUT", "/length", b"hello", {}),
        ("PUT", "/chunks", b"hello world", {"x-sum": "1"}),
    ]


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (b"GET /\r\n\r\n", "not a request line"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "not a header field"),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", "not a header field"),
        (b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "not one Content-Length"),
        (b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "beside"),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "Transfer-Encoding: gzip"),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n", "not a chunk size"),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", "is followed by b'bc'"),
    ],
)
def test_a_request_that_a_client_may_not_send_is_an_error(sent: bytes, complaint: str) -> None:
    with (
        pytest.raises(AssertionError, match=complaint),
        ScriptedServer(lambda peer: peer.read_request()) as server,
        connect(server) as sock,
    ):
        sock.sendall(sent)
        assert ended(sock)


def test_slow_pieces_come_one_a_step() -> None:
    with (
        ScriptedServer(lambda peer: peer.send_slowly([b"a", b"b", b"c"])) as server,
        connect(server) as sock,
    ):
        for wanted in (b"a", b"b", b"c"):
            server.step()
            assert sock.recv(10) == wanted
        assert sock.recv(10) == b""


def test_a_step_that_is_never_allowed_is_an_error() -> None:
    with (
        pytest.raises(AssertionError, match=r"did not call step\(\) within 0.01 s"),
        ScriptedServer(lambda peer: peer.wait_step(), timeout=0.01) as server,
        connect(server) as sock,
    ):
        assert ended(sock)


def test_an_event_that_is_never_set_is_an_error() -> None:
    with (
        pytest.raises(AssertionError, match="the event was not set within 0.05 s"),
        ScriptedServer(lambda peer: peer.wait_for(threading.Event()), timeout=0.05) as server,
        connect(server) as sock,
    ):
        assert ended(sock)


def test_half_close_ends_one_direction_only() -> None:
    def script(peer: Peer) -> None:
        peer.half_close()
        got.append(peer.read_until_close())

    got: list[bytes] = []
    with ScriptedServer(script) as server, connect(server) as sock:
        assert sock.recv(10) == b""
        sock.sendall(b"still here")
        sock.shutdown(socket.SHUT_WR)
        server.wait_until_idle()
    assert got == [b"still here"]


def test_reset_is_a_reset() -> None:
    # The reset may even overtake the end of connect().
    with pytest.raises(ConnectionResetError), ScriptedServer(Peer.reset) as server, connect(server) as sock:
        sock.recv(10)


def test_close_is_a_fin() -> None:
    def script(peer: Peer) -> None:
        assert not peer.closed
        peer.close()
        assert peer.closed

    with ScriptedServer(script) as server, connect(server) as sock:
        assert sock.recv(10) == b""


@pytest.mark.parametrize("way", ["fin", "reset"])
def test_wait_closed_tells_how_the_client_closed(way: str) -> None:
    seen = []
    with ScriptedServer(lambda peer: seen.append(peer.wait_closed())) as server:
        with connect(server) as sock:
            sock.sendall(b"dropped")
            server.wait_for_connections(1)
            if way == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        server.wait_until_idle()
    assert seen == [way]


def test_release_ends_a_stall() -> None:
    def script(peer: Peer) -> None:
        peer.stall()
        peer.send(b"at last")

    with ScriptedServer(script) as server, connect(server) as sock:
        server.wait_for_connections(1)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(10)
        sock.settimeout(10)
        server.release()
        assert sock.recv(10) == b"at last"


@pytest.mark.parametrize(
    "wait",
    [
        Peer.stall,
        Peer.wait_step,
        Peer.read_head,
        Peer.wait_closed,
        Peer.read_until_close,
        lambda peer: list(peer.requests()),
        lambda peer: peer.wait_for(threading.Event()),
        lambda peer: peer.pause(1000),
        lambda peer: peer.send(bytes(100_000_000)),
    ],
)
@pytest.mark.parametrize("tls", [False, True])
def test_the_end_of_the_server_ends_every_wait(wait, tls, server_tls, client_tls) -> None:
    started = threading.Event()

    def script(peer: Peer) -> None:
        started.set()
        wait(peer)

    with ScriptedServer(script, ssl_context=server_tls if tls else None) as server:
        sock = connect(server)
        if tls:
            sock = client_tls.wrap_socket(sock, server_hostname="localhost")
        assert started.wait(10)
    with sock:
        assert server.open_connections == 0
    server.stop()


def test_an_error_of_the_server_is_a_note_on_the_error_of_the_test() -> None:
    with (
        pytest.raises(ZeroDivisionError) as caught,
        ScriptedServer(lambda peer: peer.expect(b"x")) as server,
        connect(server) as sock,
    ):
        sock.sendall(b"y")
        assert ended(sock)
        raise ZeroDivisionError
    assert "expected b'x', got b'y'" in caught.value.__notes__[0]


def test_several_errors_come_out_as_the_first_with_notes() -> None:
    with (
        pytest.raises(AssertionError, match="connection 0") as caught,
        ScriptedServer(lambda peer: peer.expect(b"x")) as server,
    ):
        for _ in range(2):
            with connect(server) as sock:
                sock.sendall(b"y")
                assert ended(sock)
    assert "connection 1" in caught.value.__notes__[0]


def test_any_exception_of_a_script_comes_out() -> None:
    def script(peer: Peer) -> None:
        raise LookupError("a mistake in the test")

    with pytest.raises(LookupError), ScriptedServer(script) as server, connect(server) as sock:
        assert ended(sock)


def test_waiting_for_connections_is_bounded() -> None:
    with ScriptedServer(Peer.stall) as server, connect(server):
        server.wait_for_connections(1)
        with pytest.raises(AssertionError, match="1 of 2 connections came within 0.01 s"):
            server.wait_for_connections(2, timeout=0.01)
        with pytest.raises(AssertionError, match="1 connections are still served after 0.01 s"):
            server.wait_until_idle(timeout=0.01)


def test_a_stopped_server_refuses() -> None:
    with ScriptedServer(Peer.stall) as server:
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            connect(server)


def test_a_script_that_does_not_end_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncflow.testing.server.STOP_TIMEOUT", 0.05)
    let_go = threading.Event()
    with (
        pytest.raises(AssertionError, match=r"ScriptedServer-0 has not ended 0\.05 s after"),
        ScriptedServer(lambda peer: let_go.wait(10)) as server,
        connect(server),
    ):
        server.wait_for_connections(1)
    let_go.set()


def test_an_error_in_accepting_comes_out() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        pytest.raises(OSError, match="Too many open files"),
        ScriptedServer(Peer.stall) as server,
        socket.socket() as sock,
    ):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            sock.connect(server.address)
            eventually(lambda: server._errors)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_there_is_no_address_outside_the_block() -> None:
    with pytest.raises(RuntimeError, match="inside its with block"):
        _ = ScriptedServer(Peer.stall).url


def test_tls_with_and_without_the_closing_alert(server_tls, client_tls) -> None:
    def politely(peer: Peer) -> None:
        peer.expect(b"hello")
        peer.send(b"hello")
        peer.half_close()
        assert peer.wait_closed() == "fin"

    def abruptly(peer: Peer) -> None:
        peer.half_close(close_notify=False)
        peer.wait_closed()

    def by_returning(peer: Peer) -> None:
        peer.send(b"bye")

    with ScriptedServer(politely, abruptly, by_returning, ssl_context=server_tls) as server:
        assert server.url.startswith("https://127.0.0.1:")
        with client_tls.wrap_socket(connect(server), server_hostname="127.0.0.1") as sock:
            sock.sendall(b"hello")
            assert sock.recv(10) == b"hello"
            assert sock.recv(10) == b""
        with client_tls.wrap_socket(connect(server), server_hostname="127.0.0.1", suppress_ragged_eofs=False) as sock:
            with pytest.raises(ssl.SSLEOFError):
                sock.recv(10)
        with client_tls.wrap_socket(connect(server), server_hostname="127.0.0.1", suppress_ragged_eofs=False) as sock:
            assert sock.recv(10) == b"bye"
            assert sock.recv(10) == b""
        server.wait_until_idle()


def test_a_client_that_does_not_trust_the_certificate_is_its_own_affair(server_tls) -> None:
    with ScriptedServer(Peer.stall, ssl_context=server_tls) as server, connect(server) as sock:
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")
        server.wait_until_idle()


def test_eventually_waits_and_gives_up() -> None:
    answers = iter([False, False, True])
    eventually(lambda: next(answers))
    with pytest.raises(AssertionError, match="never so"):
        eventually(lambda: False, timeout=0.01, message="never so")

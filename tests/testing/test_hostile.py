"""The ready-made misbehaviours, seen from a bare socket: each must do what its name says."""

from __future__ import annotations

import socket

import pytest

from syncflow.testing import (
    Endpoint,
    ScriptedServer,
    closes_idle,
    continue_then,
    early_response,
    endless_head,
    full_backlog,
    never_answers,
    refused_port,
    trickle,
    truncated,
    unasked_bytes,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPLOAD = b"PUT / HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n"


def connect(server: ScriptedServer | Endpoint) -> socket.socket:
    return socket.create_connection(server.address, timeout=10)


def read_all(sock: socket.socket) -> bytes:
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    received = b""
    while mark not in received:
        data = sock.recv(1)
        assert data, f"ended after {received!r}"
        received += data
    return received


def test_a_refused_port_refuses() -> None:
    with refused_port() as endpoint:
        assert endpoint.url == f"http://127.0.0.1:{endpoint.port}"
        with pytest.raises(ConnectionRefusedError):
            connect(endpoint)


def test_a_full_backlog_hangs_every_connect() -> None:
    with full_backlog() as endpoint:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                socket.create_connection(endpoint.address, timeout=0.1)


def test_a_full_backlog_leaves_nothing_behind() -> None:
    with full_backlog() as endpoint:
        pass
    with pytest.raises(ConnectionRefusedError):
        connect(endpoint)


@pytest.mark.parametrize("then", ["close", "linger"])
def test_an_early_response_comes_while_the_body_is_sent(then) -> None:
    with early_response(413, then=then, after_bytes=10, body=b"no") as server, connect(server) as sock:
        sock.sendall(UPLOAD + bytes(10))
        assert read_until(sock, b"\r\n\r\nno").startswith(b"HTTP/1.1 413 ")
        assert sock.recv(1) == b""


def test_an_early_response_that_lingers_reads_on() -> None:
    with early_response(then="linger") as server, connect(server) as sock:
        sock.sendall(UPLOAD)
        assert b" 413 " in read_all(sock)
        for _ in range(200):
            sock.sendall(bytes(65536))


def test_an_early_response_that_resets() -> None:
    with early_response(then="reset") as server, connect(server) as sock:
        sock.sendall(UPLOAD)
        with pytest.raises(ConnectionResetError):
            read_all(sock)


def test_an_early_response_that_closes_on_unread_bytes_resets_too() -> None:
    with early_response(after_bytes=1) as server, connect(server) as sock:
        sock.sendall(UPLOAD + bytes(100_000))
        with pytest.raises(ConnectionResetError):
            read_all(sock)
            sock.sendall(b"one")
            sock.recv(1)


def test_an_early_response_that_stalls_neither_reads_nor_closes() -> None:
    with early_response(then="stall", receive_buffer=4096) as server, connect(server) as sock:
        sock.sendall(UPLOAD)
        read_until(sock, b"\r\n\r\n")
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.sendall(bytes(50_000_000))


def test_a_trickle_sends_byte_by_byte() -> None:
    with trickle(b"abc") as server, connect(server) as sock:
        for _ in range(2):
            sock.sendall(GET)
            read_until(sock, b"\r\n\r\n")
            for wanted in (b"a", b"b", b"c"):
                server.step()
                assert sock.recv(10) == wanted


def test_a_trickle_may_start_with_the_head_and_follow_a_clock() -> None:
    with trickle(b"abc", head_too=True, piece=7) as server, connect(server) as sock:
        sock.sendall(GET)
        server.step()
        assert sock.recv(100) == b"HTTP/1."
    with trickle(b"abc", period=0.001) as server, connect(server) as sock:
        sock.sendall(GET)
        read_until(sock, b"abc")


def test_an_idle_connection_is_closed() -> None:
    with closes_idle(b"hi") as server, connect(server) as sock:
        sock.sendall(GET)
        assert read_all(sock).endswith(b"\r\n\r\nhi")
        assert server.closed_idle.wait(10)


def test_an_idle_connection_is_closed_when_told_to() -> None:
    with closes_idle(stepped=True) as server, connect(server) as sock:
        sock.sendall(GET)
        read_until(sock, b"ok")
        assert not server.closed_idle.is_set()
        server.step()
        assert sock.recv(1) == b""
        assert server.closed_idle.wait(10)


@pytest.mark.parametrize(
    ("framing", "sent"),
    [
        ("length", b"Content-Length: 10\r\n\r\n1234567"),
        ("chunked", b"Transfer-Encoding: chunked\r\n\r\na\r\n1234567"),
    ],
)
def test_a_truncated_reply(framing, sent: bytes) -> None:
    with truncated(b"1234567890", missing=3, framing=framing) as server, connect(server) as sock:
        sock.sendall(GET)
        assert read_all(sock).endswith(sent)


def test_a_truncated_reply_may_end_with_a_reset() -> None:
    with truncated(reset=True) as server, connect(server) as sock:
        sock.sendall(GET)
        with pytest.raises(ConnectionResetError):
            read_all(sock)


@pytest.mark.parametrize("reads", [True, False])
def test_never_answering(reads: bool) -> None:
    with never_answers(reads=reads, receive_buffer=4096) as server, connect(server) as sock:
        sock.settimeout(10 if reads else 0.05)
        try:
            sock.sendall(UPLOAD + bytes(5_000_000))
        except TimeoutError:
            assert not reads
        else:
            assert reads
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)


@pytest.mark.parametrize(
    ("kind", "more"),
    [("fields", b"X-More: and more\r\n"), ("line", b"and more "), ("informational", b" 103 ")],
)
def test_an_endless_head(kind, more: bytes) -> None:
    with endless_head(kind) as server, connect(server) as sock:
        sock.sendall(GET)
        received = b""
        while len(received) < 200_000:
            received += sock.recv(65536)
        assert received.count(more) > 1000


def test_unasked_bytes_with_the_reply_or_later() -> None:
    with unasked_bytes(b"extra") as server, connect(server) as sock:
        sock.sendall(GET)
        assert read_until(sock, b"extra").endswith(b"\r\n\r\nokextra")
    with unasked_bytes(b"extra", stepped=True) as server, connect(server) as sock:
        sock.sendall(GET)
        read_until(sock, b"\r\n\r\nok")
        server.step()
        assert sock.recv(10) == b"extra"


def test_continue_and_refusals() -> None:
    asking = b"PUT / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    with continue_then(201) as server, connect(server) as sock:
        sock.sendall(asking)
        assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 201 ")
    with continue_then(417, informational=(), reads_body=False, stepped=True) as server:
        with connect(server) as sock:
            sock.sendall(asking)
            server.step()
            assert read_all(sock).startswith(b"HTTP/1.1 417 ")
    with (
        pytest.raises(AssertionError, match="no Expect: 100-continue"),
        continue_then() as server,
        connect(server) as sock,
    ):
        sock.sendall(GET)
        assert sock.recv(1) == b""


def test_a_hostile_server_over_tls(server_tls, client_tls) -> None:
    with truncated(b"abc", missing=1, ssl_context=server_tls) as server:
        with client_tls.wrap_socket(connect(server), server_hostname="localhost") as sock:
            sock.sendall(GET)
            assert read_all(sock).endswith(b"\r\n\r\nab")

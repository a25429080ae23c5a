"""AppServer against http.client: what it answers, what it counts, what it does with errors."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from syncflow.testing import AppServer, Request, Response, json_response


def ask(server: AppServer, method: str, target: str, **kw) -> tuple[http.client.HTTPResponse, bytes]:
    client = http.client.HTTPConnection(*server.address, timeout=10)
    try:
        client.request(method, target, **kw)
        response = client.getresponse()
        return response, response.read()
    finally:
        client.close()


def test_echo_tells_what_came() -> None:
    with AppServer() as server:
        _, body = ask(server, "POST", "/a/b?x=1&x=2&y=", body="grüße".encode(), headers={"X-Own": "1"})
    told = json.loads(body)
    assert told["method"] == "POST"
    assert told["path"] == "/a/b"
    assert told["query"] == {"x": ["1", "2"], "y": [""]}
    assert told["headers"]["x-own"] == "1"
    assert told["body"] == "grüße"
    assert told["length"] == 7


def test_a_connection_serves_many_requests_and_both_are_counted() -> None:
    with AppServer() as server:
        client = http.client.HTTPConnection(*server.address, timeout=10)
        for i in range(10):
            client.request("PUT", f"/{i}", body=iter([b"a", b"b"]), encode_chunked=True)
            assert json.loads(client.getresponse().read())["body"] == "ab"
        client.close()
        assert (server.connections, server.requests) == (1, 10)
        assert [request.path for request in server.seen] == [f"/{i}" for i in range(10)]


def test_connection_close_is_obeyed() -> None:
    with AppServer() as server, socket.create_connection(server.address, timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        with sock.makefile("rb") as file:
            assert file.read().startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_iterable_is_sent_in_chunks_and_closed() -> None:
    closed = threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            yield b"one "
            yield b""
            yield b"two"
        finally:
            closed.set()

    with AppServer(lambda request: Response(body=pieces())) as server:
        response, body = ask(server, "GET", "/")
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert body == b"one two"
    assert closed.is_set()


def test_an_iterable_with_a_length_is_sent_as_it_is() -> None:
    with AppServer(lambda request: Response(200, {"Content-Length": "4"}, [b"ab", b"cd"])) as server:
        response, body = ask(server, "GET", "/")
    assert "Transfer-Encoding" not in response.headers
    assert body == b"abcd"


@pytest.mark.parametrize("body", [b"abcd", [b"ab", b"cd"]])
def test_head_and_the_bodiless_statuses_end_with_the_head(body) -> None:
    def app(request: Request) -> Response:
        return Response(304 if request.path == "/304" else 200, (), body)

    with AppServer(app) as server:
        client = http.client.HTTPConnection(*server.address, timeout=10)
        for method, path in [("HEAD", "/"), ("GET", "/304"), ("HEAD", "/"), ("GET", "/304")]:
            client.request(method, path)
            assert client.getresponse().read() == b""
        client.close()
        assert server.connections == 1


def test_an_error_in_the_app_is_a_500_and_comes_out() -> None:
    def app(request: Request) -> Response:
        raise LookupError(request.path)

    with pytest.raises(LookupError, match="/x"), AppServer(app) as server:
        response, body = ask(server, "GET", "/x")
        assert (response.status, body) == (500, b"LookupError('/x')")


def test_a_malformed_request_comes_out() -> None:
    with (
        pytest.raises(AssertionError, match="not a request line"),
        AppServer() as server,
        socket.create_connection(server.address, timeout=10) as sock,
    ):
        sock.sendall(b"nonsense\r\n\r\n")
        assert sock.recv(10) == b""


def test_a_client_that_asks_is_told_to_continue() -> None:
    with AppServer() as server, socket.create_connection(server.address, timeout=10) as sock:
        sock.sendall(b"PUT / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hi")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_tls(server_tls, client_tls) -> None:
    with AppServer(lambda request: json_response([1]), ssl_context=server_tls) as server:
        client = http.client.HTTPSConnection("127.0.0.1", server.port, context=client_tls, timeout=10)
        client.request("GET", "/")
        assert client.getresponse().read() == b"[1]"
        client.close()


def test_ten_thousand_small_requests_take_seconds() -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with AppServer(lambda request: Response(body=b"ok")) as server:
        with socket.create_connection(server.address, timeout=30) as sock:
            for _ in range(100):
                sock.sendall(request * 100)
            with sock.makefile("rb") as file:
                for _ in range(10_000):
                    assert file.readline() == b"HTTP/1.1 200 OK\r\n"
                    while file.readline() != b"\r\n":
                        pass
                    assert file.read(2) == b"ok"
        assert server.requests == 10_000


def test_an_idle_connection_does_not_hold_up_the_end() -> None:
    with AppServer() as server:
        sock = socket.create_connection(server.address, timeout=10)
        server.wait_for_connections(1)
    with sock:
        assert sock.recv(1) == b""

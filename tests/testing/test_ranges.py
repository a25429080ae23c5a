"""RangeServer: what it sends for a range, where it cuts, and how; seen by a client that is not ours."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from syncflow.testing import RangeServer, reply

BODY = b"0123456789"


@contextmanager
def get(server: RangeServer, **headers: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with closing(connection):
        connection.request("GET", "/x", headers={name.replace("_", "-"): value for name, value in headers.items()})
        with connection.getresponse() as response:
            yield response


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("headers", "status", "body", "content_range"),
    [
        ({}, 200, BODY, None),
        ({"Range": "bytes=4-"}, 206, b"456789", "bytes 4-9/10"),
        ({"Range": "bytes=0-"}, 206, BODY, "bytes 0-9/10"),
        ({"Range": "bytes=4-", "If_Range": '"1"'}, 206, b"456789", "bytes 4-9/10"),
        ({"Range": "bytes=4-", "If_Range": '"2"'}, 200, BODY, None),
        ({"Range": "bytes=4-", "If_Range": "yesterday"}, 206, b"456789", "bytes 4-9/10"),
        ({"Range": "bytes=4-", "If_Range": "bytes"}, 200, BODY, None),
        ({"Range": "bytes=10-"}, 416, b"", "bytes */10"),
        ({"Range": "bytes=10-", "If_Range": '"2"'}, 200, BODY, None),
        ({"Range": "bytes=-4"}, 200, BODY, None),
    ],
)
def test_what_is_asked_for(
    chunked: bool, headers: dict[str, str], status: int, body: bytes, content_range: str | None
) -> None:
    with RangeServer(BODY, headers={"Last-Modified": "yesterday"}, chunked=chunked) as server:
        with get(server, **headers) as response:
            assert (response.status, response.read()) == (status, body)
            assert response.getheader("Content-Range") == content_range
            if status != 416:
                assert response.getheader("ETag") == '"1"'
                assert response.getheader("Accept-Ranges") == "bytes"
        assert [request.target for request in server.seen] == ["/x"]


@pytest.mark.parametrize("chunked", [False, True])
def test_cuts_are_for_one_transfer_each(chunked: bool) -> None:
    with RangeServer(BODY, [3, None, 0], chunked=chunked) as server:
        got = []
        for _ in range(4):
            with get(server) as response:
                try:
                    got.append(response.read())
                except http.client.IncompleteRead as error:
                    got.append(error.partial)
        assert got == [b"012", BODY, b"", BODY]
        server.cut(2)
        with get(server, Range="bytes=5-") as response, pytest.raises(http.client.IncompleteRead) as caught:
            response.read()
        assert caught.value.partial == b"56"


def test_only_the_end_of_a_chunked_body_is_missing() -> None:
    with RangeServer(BODY, [10], chunked=True) as server:
        with get(server) as response, pytest.raises(http.client.IncompleteRead):
            response.read()


def test_a_reset() -> None:
    with RangeServer(BODY, [3], how="reset") as server:
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)), get(server) as response:
            response.read()


def test_a_stall() -> None:
    with RangeServer(BODY, [3], how="stall") as server, socket.create_connection(server.address, timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        while not got.endswith(b"\r\n\r\n012"):
            got += sock.recv(1000)
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)


def test_an_answer_of_the_tests() -> None:
    def answer(request: Any) -> bytes | None:
        return reply(404, b"no") if "range" in request.headers else None

    with RangeServer(BODY, etag=None, answer=answer) as server:
        with get(server, Range="bytes=1-") as response:
            assert (response.status, response.read()) == (404, b"no")
        with get(server) as response:
            assert (response.read(), response.getheader("ETag")) == (BODY, None)

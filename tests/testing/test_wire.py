"""The reading and writing of the test servers, without a socket: requests cut at every byte."""

from __future__ import annotations

import pytest

from syncflow.testing import chunk, last_chunk, reply, reply_head
from syncflow.testing.wire import LONGEST_HEAD, Reader, read_request

REQUESTS = {
    b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n": b"",
    b"PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello": b"hello",
    b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunk(b"hel")
    + chunk(b"lo")
    + last_chunk({"X-Sum": "1"}): b"hello",
}


def reader_of(pieces: list[bytes], size: int = 65536) -> Reader:
    """A Reader that receives these pieces, one at a time, then the end."""
    left = list(pieces)

    def receive_into(view: memoryview) -> int:
        if not left:
            return 0
        piece = left.pop(0)
        if len(piece) > len(view):
            left.insert(0, piece[len(view) :])
            piece = piece[: len(view)]
        view[: len(piece)] = piece
        return len(piece)

    return Reader(receive_into, size)


@pytest.mark.parametrize("sent", list(REQUESTS))
def test_a_request_may_come_in_any_pieces(sent: bytes) -> None:
    cuts = [[sent[:at], sent[at:]] for at in range(1, len(sent))]
    for pieces in [[sent], *cuts, [sent[at : at + 1] for at in range(len(sent))]]:
        for size in (8, 65536):
            reader = reader_of(pieces, size)
            request = read_request(reader, lambda data: None)
            assert request.body == REQUESTS[sent]
            assert not reader.more()


def test_what_follows_a_request_is_kept() -> None:
    first, second, third = REQUESTS
    reader = reader_of([first + second + third])
    bodies = [read_request(reader, lambda data: None).body for _ in range(3)]
    assert bodies == list(REQUESTS.values())


def test_an_end_within_a_request_is_an_eof_error() -> None:
    for sent in REQUESTS:
        for at in range(len(sent)):
            with pytest.raises(EOFError):
                read_request(reader_of([sent[:at]]), lambda data: None)


def test_a_head_without_end_is_given_up() -> None:
    with pytest.raises(AssertionError, match="that begin b'aaaa"):
        reader_of([b"a" * (2 * LONGEST_HEAD)]).through(b"\r\n\r\n")


def test_the_request_knows_its_fields() -> None:
    sent = b"GET /p%20q?a=1&a=2 HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a:  2 \r\nConnection: Close\r\n\r\n"
    request = read_request(reader_of([sent]), lambda data: None)
    assert request.fields[2] == ("x-a", "2")
    assert request.headers["x-a"] == "1, 2"
    assert request.path == "/p%20q"
    assert request.query == {"a": ["1", "2"]}
    assert not request.keeps_alive


def test_replies() -> None:
    assert reply(200, b"hi") == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    assert reply(204) == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert reply(299, reason="Odd") == b"HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n"
    assert reply(200, b"x", [("content-length", "9")]) == b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"
    assert reply_head(599, {"A": "b"}) == b"HTTP/1.1 599 \r\nA: b\r\n\r\n"
    assert chunk(b"0123456789") == b"a\r\n0123456789\r\n"
    assert last_chunk() == b"0\r\n\r\n"

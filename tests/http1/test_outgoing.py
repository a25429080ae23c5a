"""Framings of request bodies: what they write, what they count, what they refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncflow.http1 import (
    BodyTooLong,
    BodyTooShort,
    ChunkedFraming,
    InvalidRequest,
    InvalidState,
    LengthFraming,
    NoBody,
)

from .replay import byte_by_byte, replay
from .strategies import BODIES, REPEATABLE, TOKENS, VALUES

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_length() -> None:
    framing = LengthFraming(10)
    assert (framing.length, framing.sent, framing.remaining) == (10, 0, 10)
    assert framing.frame(4) == (b"", b"")
    assert framing.frame(0) == (b"", b"")
    assert (framing.sent, framing.remaining) == (4, 6)
    assert framing.frame(6) == (b"", b"")
    assert framing.finish() == b""


def test_length_exceeded() -> None:
    framing = LengthFraming(10)
    framing.frame(8)
    with pytest.raises(BodyTooLong, match="11 bytes of body where 10 were announced") as caught:
        framing.frame(3)
    assert (caught.value.length, caught.value.offered) == (10, 11)
    assert framing.sent == 8
    framing.frame(2)
    assert framing.finish() == b""


def test_length_not_reached() -> None:
    framing = LengthFraming(10)
    framing.frame(8)
    with pytest.raises(BodyTooShort, match="8 bytes of body where 10 were announced") as caught:
        framing.finish()
    assert (caught.value.length, caught.value.sent) == (10, 8)


def test_length_zero() -> None:
    framing = LengthFraming(0)
    assert framing.frame(0) == (b"", b"")
    with pytest.raises(BodyTooLong):
        framing.frame(1)
    assert framing.finish() == b""


def test_chunked() -> None:
    framing = ChunkedFraming()
    assert framing.frame(5) == (b"5\r\n", b"\r\n")
    assert framing.frame(65536) == (b"10000\r\n", b"\r\n")
    assert framing.frame(0) == (b"", b"")
    assert (framing.sent, framing.length, framing.remaining) == (65541, None, None)
    assert not framing.finished
    assert framing.finish([("X-Sum", "abc"), ("X-Empty", "")]) == b"0\r\nX-Sum: abc\r\nX-Empty: \r\n\r\n"
    assert framing.finished


def test_chunked_after_its_end() -> None:
    framing = ChunkedFraming()
    assert framing.finish() == b"0\r\n\r\n"
    with pytest.raises(InvalidState):
        framing.frame(1)
    with pytest.raises(InvalidState):
        framing.finish()


@pytest.mark.parametrize(
    "name",
    [
        "Transfer-Encoding",
        "content-length",
        "HOST",
        "Authorization",
        "Cookie",
        "Set-Cookie",
        "Trailer",
        "TE",
        "Connection",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Cache-Control",
        "Expect",
        "If-Match",
    ],
)
def test_fields_that_are_no_trailers(name: str) -> None:
    framing = ChunkedFraming()
    with pytest.raises(InvalidRequest, match=f"{name} is not allowed in trailers"):
        framing.finish([("X", "1"), (name, "x")])
    assert framing.finish() == b"0\r\n\r\n"


@pytest.mark.parametrize(
    "trailer",
    [("A B", "x"), ("A", "x\r\nB: y"), ("A", "x\r\n\r\n"), ("", "x"), ("A", " x")],
)
def test_nothing_breaks_out_of_a_trailer(trailer: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        ChunkedFraming().finish([trailer])


def test_no_body() -> None:
    framing = NoBody()
    assert (framing.length, framing.sent, framing.remaining) == (0, 0, 0)
    assert framing.frame(0) == (b"", b"")
    with pytest.raises(BodyTooLong, match="1 bytes of body where none was announced"):
        framing.frame(1)
    assert framing.finish() == b""


@pytest.mark.parametrize("framing", [LengthFraming(0), NoBody()])
def test_trailers_need_chunks(framing: LengthFraming | NoBody) -> None:
    with pytest.raises(InvalidRequest, match="X-Sum cannot be a trailer"):
        framing.finish([("X-Sum", "abc")])
    assert framing.finish(iter(())) == b""


@pytest.mark.parametrize("framing", [LengthFraming(5), ChunkedFraming(), NoBody()])
def test_no_size_is_negative(framing: LengthFraming | ChunkedFraming | NoBody) -> None:
    with pytest.raises(ValueError, match="not negative"):
        framing.frame(-1)
    with pytest.raises(ValueError, match="not negative"):
        LengthFraming(-1)


@REPEATABLE
@given(st.lists(BODIES, max_size=6), st.lists(st.tuples(TOKENS.map("x-{}".format), VALUES), max_size=3))
def test_our_parser_reads_our_chunks(pieces: list[bytes], trailers: list[tuple[str, str]]) -> None:
    framing = ChunkedFraming()
    raw = HEAD
    for piece in pieces:
        before, after = framing.frame(len(piece))
        raw += before + piece + after
    raw += framing.finish(trailers)
    outcome = replay([raw])
    (message,) = outcome.messages
    assert (message.body, message.trailers, message.complete) == (b"".join(pieces), trailers, True)
    assert outcome.leftover == b""
    assert replay(byte_by_byte(raw)) == outcome

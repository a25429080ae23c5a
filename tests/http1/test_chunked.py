"""Chunked bodies: sizes, extensions, line ends, trailers, and that big chunks are passed on as they come."""

import pytest

from syncflow.http1 import END, MalformedMessage, ResponseParser, Trailers

from .replay import Outcome, byte_by_byte, replay

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _read(body: bytes) -> Outcome:
    outcome = replay([HEAD + body])
    assert replay([HEAD, body]) == outcome
    assert replay(byte_by_byte(HEAD + body)) == outcome
    return outcome


def _fault(body: bytes) -> str:
    assert _read(body).error is MalformedMessage
    parser = ResponseParser()
    parser.start("GET")
    with pytest.raises(MalformedMessage) as caught:
        parser.feed(HEAD + body)
    return str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        b"5",
        b"05",
        b"0000000000000005",
        b"5;a",
        b"5;a;b",
        b"5;a=b",
        b'5;a="b"',
        b'5;a="b;c\\"\\\\ \xe9"',
        b"5 ; a = b",
        b'5\t;\ta\t=\t"" ; b',
        b"5 ",
        b"5 \t ",
        b"5;a ",
    ],
)
def test_chunk_line(line: bytes) -> None:
    for body in (line + b"\r\nhello\r\n0\r\n\r\n", b"1\r\n.\r\n" + line + b"\r\nhello\r\n0\r\n\r\n"):
        outcome = _read(body + b"rest")
        assert outcome.messages[0].body.lstrip(b".") == b"hello"
        assert (outcome.messages[0].complete, outcome.keep_alive, outcome.leftover) == (True, True, b"rest")


@pytest.mark.parametrize("size", [b"a", b"A", b"0a", b"0A"])
def test_sizes_are_hexadecimal(size: bytes) -> None:
    assert _read(size + b"\r\n0123456789\r\n0\r\n\r\n").messages[0].body == b"0123456789"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"", "not a chunk size"),
        (b" 5", "not a chunk size"),
        (b"+5", "not a chunk size"),
        (b"-5", "not a chunk size"),
        (b";a", "not a chunk size"),
        (b"x", "not a chunk size"),
        (b"\xb2", "not a chunk size"),
        (b"0x5", "not a chunk extension"),
        (b"5_0", "not a chunk extension"),
        (b"5 5", "not a chunk extension"),
        (b"5 a", "not a chunk extension"),
        (b"5;", "not a chunk extension"),
        (b"5;;a", "not a chunk extension"),
        (b"5;a=", "not a chunk extension"),
        (b"5;a b", "not a chunk extension"),
        (b'5;a="b', "not a chunk extension"),
        (b'5;a="b"c', "not a chunk extension"),
        (b'5;a="b\\"', "not a chunk extension"),
        (b"5;a\0", "not a chunk extension"),
        (b"5;a\rb", "not a chunk extension"),
        (b"5\r", "not a chunk extension"),
    ],
)
def test_refused_chunk_line(line: bytes, fault: str) -> None:
    assert fault in _fault(line + b"\r\nhello\r\n0\r\n\r\n")
    assert fault in _fault(b"1\r\nx\r\n" + line + b"\r\nhello\r\n0\r\n\r\n")


def test_a_lone_lf_ends_no_chunk_line_and_no_data() -> None:
    assert "lone LF" in _fault(b"5\nhello\r\n0\r\n\r\n")
    assert "lone LF" in _fault(b"5;a\nhello\r\n0\r\n\r\n")
    assert "where CRLF belongs" in _fault(b"5\r\nhello\n0\r\n\r\n")


@pytest.mark.parametrize("after", [b"X", b"XY", b"\n", b"\rX", b"\r\r\n", b"0\r\n\r\n"])
def test_data_must_end_where_its_size_says(after: bytes) -> None:
    assert "where CRLF belongs" in _fault(b"5\r\nhello" + after)


def test_an_error_after_data_keeps_the_data() -> None:
    outcome = _read(b"5\r\nhello\r\nx")
    assert (outcome.messages[0].body, outcome.error) == (b"hello", MalformedMessage)


@pytest.mark.parametrize(
    ("section", "trailers"),
    [
        (b"\r\n", []),
        (b"\n", []),
        (b"A: b\r\n\r\n", [("A", "b")]),
        (b"A: b\nC:d\n\n", [("A", "b"), ("C", "d")]),
        (b"A: b\r\n c\r\nD:\r\n\r\n", [("A", "b c"), ("D", "")]),
    ],
)
def test_trailers(section: bytes, trailers: list[tuple[str, str]]) -> None:
    outcome = _read(b"2\r\nhi\r\n0\r\n" + section + b"rest")
    (message,) = outcome.messages
    assert (message.body, message.trailers, message.complete, outcome.leftover) == (
        b"hi",
        trailers,
        True,
        b"rest",
    )


def test_trailers_are_an_event_of_their_own_and_not_in_the_head() -> None:
    parser = ResponseParser()
    parser.start("GET")
    (head,) = parser.feed(HEAD)
    assert parser.feed(b"0\r\nContent-Length: 3\r\n\r\n") == [Trailers([("Content-Length", "3")]), END]
    assert head == replay([HEAD]).messages[0].head
    parser.start("GET")
    parser.feed(HEAD)
    assert parser.feed(b"0;last\r\n\r\n") == [END]


@pytest.mark.parametrize("line", [b"no colon", b"A : b", b" folded", b"A: b\0", b"A: b\rc", b": b"])
def test_refused_trailers(line: bytes) -> None:
    assert _read(b"0\r\n" + line + b"\r\n\r\n").error is MalformedMessage
    assert _read(b"2\r\nhi\r\n0;a\r\n" + line + b"\r\n\r\n").error is MalformedMessage


def test_one_slice_for_each_chunk_and_none_inside_a_big_one() -> None:
    parser = ResponseParser()
    parser.start("GET")
    parser.feed(HEAD + b"100000\r\n")
    piece = bytes(65536)
    for _ in range(16):
        (event,) = parser.feed(piece)
        assert event is piece
    assert parser.feed(b"\r\n3\r\nabc\r\n2\r\nde\r\n1\r\nf") == [b"abc", b"de", b"f"]
    assert parser.feed(b"\r\n0\r\n\r\n") == [END]

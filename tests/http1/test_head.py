"""Heads: what is read, what is repaired, what is refused, and that the plain and the careful way agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncflow.http1 import END, Head, MalformedMessage, ParserLimits, ResponseParser
from syncflow.http1.head import careful_head, plain_head

from .replay import byte_by_byte, replay
from .strategies import REPEATABLE, valid_responses

NGINX = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.25.3\r\nDate: Thu, 20 Nov 2025 18:43:00 GMT\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 13\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
    b'Connection: keep-alive\r\nETag: "65920080-d"\r\n\r\nHello, world!'
)


def _head(data: bytes) -> Head:
    """The head in `data`, which must be the same however it is cut."""
    outcome = replay([data])
    assert replay(byte_by_byte(data)) == outcome
    assert outcome.error is None
    return outcome.messages[0].head


def _fault(data: bytes) -> str:
    """Why `data` is refused, which must be the same however it is cut."""
    parser = ResponseParser()
    parser.start("GET")
    with pytest.raises(MalformedMessage) as whole:
        parser.feed(data)
    assert whole.value.events == []
    parser = ResponseParser()
    parser.start("GET")
    with pytest.raises(type(whole.value)):
        for piece in byte_by_byte(data):
            parser.feed(piece)
    return str(whole.value)


def test_a_usual_response() -> None:
    parser = ResponseParser()
    parser.start("GET")
    head, body, end = parser.feed(NGINX)
    assert isinstance(head, Head)
    assert head[:3] == (200, "OK", "1.1")
    assert head.fields[0] == ("Server", "nginx/1.25.3")
    assert head.fields[-1] == ("ETag", '"65920080-d"')
    assert len(head.fields) == 7
    assert (body, end) == (b"Hello, world!", END)
    assert parser.keep_alive


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"HTTP/1.1 200 OK", (200, "OK", "1.1")),
        (b"HTTP/1.0 200 OK", (200, "OK", "1.0")),
        (b"HTTP/1.9 200 OK", (200, "OK", "1.1")),
        (b"HTTP/1.1 200 ", (200, "", "1.1")),
        (b"HTTP/1.1 200", (200, "", "1.1")),
        (b"HTTP/1.1 404 Not  Found ", (404, "Not  Found ", "1.1")),
        (b"HTTP/1.1 200  ", (200, " ", "1.1")),
        (b"HTTP/1.1 999 Request denied", (999, "Request denied", "1.1")),
        (b"HTTP/1.1 500 Ori\xebntatie", (500, "Ori\xebntatie", "1.1")),
    ],
)
@pytest.mark.parametrize("eol", [b"\r\n", b"\n"])
def test_status_line(line: bytes, eol: bytes, expected: tuple[int, str, str]) -> None:
    assert _head(line + eol + b"A: b" + eol + eol) == Head(*expected, [("A", "b")])
    assert _head(line + eol + eol) == Head(*expected, [])


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/2.0 200 OK",
        b"HTTP/2 200 OK",
        b"HTTP/0.9 200 OK",
        b"HTTP/1 200 OK",
        b"HTTP/1.10 200 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1 \xb2\xb2\xb2 OK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1 200\tOK",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/1.1 200 O\rK",
        b"http/1.1 200 OK",
        b" HTTP/1.1 200 OK",
        b"ICY 200 OK",
        b"<!DOCTYPE html>",
    ],
)
def test_refused_status_line(line: bytes) -> None:
    assert "status line" in _fault(line + b"\r\n\r\n")
    assert "status line" in _fault(line + b"\r\nA: b\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH_9.6\r\n", b"220 mail ESMTP\r\n", b"\x15\x03\x01", b"HTTP/2"],
)
def test_another_protocol_is_refused_at_once(data: bytes) -> None:
    assert "not an HTTP/1 status line" in _fault(data)


def test_a_bad_status_line_is_refused_before_the_head_ends() -> None:
    assert "status line" in _fault(b"HTTP/1.1 2OO OK\r\n")
    assert "white space between the status line" in _fault(b"HTTP/1.1 200 OK\r\n Host: foo")
    assert "status line" in _fault(b"\rH")


@pytest.mark.parametrize("lines", [b"\r\n", b"\n", b"\r\n\r\n", b"\n\r\n\n"])
def test_empty_lines_before_the_status_line(lines: bytes) -> None:
    assert _head(lines + NGINX).status == 200


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"A: b", ("A", "b")),
        (b"A:b", ("A", "b")),
        (b"A:  \t b \t ", ("A", "b")),
        (b"A:", ("A", "")),
        (b"A: ", ("A", "")),
        (b"A: \t ", ("A", "")),
        (b"A: b: c", ("A", "b: c")),
        (b"A:: b", ("A", ": b")),
        (b"A: b  c", ("A", "b  c")),
        (b"aB-_.~!#$%&'*+^`|9: x", ("aB-_.~!#$%&'*+^`|9", "x")),
        (b"A: \xe9\xff\x85", ("A", "\xe9\xff\x85")),
        (b"A: \xa0b\xa0", ("A", "\xa0b\xa0")),
        (b"A: a\x0b\x1c\x7fb", ("A", "a\x0b\x1c\x7fb")),
    ],
)
@pytest.mark.parametrize("eol", [b"\r\n", b"\n"])
def test_field_line(line: bytes, eol: bytes, field: tuple[str, str]) -> None:
    data = eol.join([b"HTTP/1.1 200 OK", b"X: 1", line, b"Y: 2", b"", b""])
    assert _head(data).fields == [("X", "1"), field, ("Y", "2")]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"no colon", "without a colon"),
        (b"A : b", "white space between field name and colon"),
        (b"A\t: b", "white space between field name and colon"),
        (b": b", "not a field name"),
        (b"A B: c", "not a field name"),
        (b"A\0: c", "not a field name"),
        (b"\xe9: c", "not a field name"),
        (b'"A": c', "not a field name"),
        (b"A: b\rc", "bare CR or a NUL in the value of field 'A'"),
        (b"A: b\r", "bare CR or a NUL in the value of field 'A'"),
        (b"A: b\rB: c", "bare CR or a NUL in the value of field 'A'"),
        (b"A: \rb", "bare CR or a NUL in the value of field 'A'"),
        (b"A: b\0c", "bare CR or a NUL in the value of field 'A'"),
        (b"A: b\r\n c\0", "bare CR or a NUL in the value of field 'A'"),
        (b"A\r: b", "not a field name"),
        (b"\rA: b", "not a field name"),
        (b"\r", "without a colon"),
    ],
)
@pytest.mark.parametrize("eol", [b"\r\n", b"\n"])
def test_refused_field_line(line: bytes, eol: bytes, fault: str) -> None:
    if eol == b"\n" and line.endswith(b"\r"):
        return  # then it is a CRLF
    assert fault in _fault(eol.join([b"HTTP/1.1 200 OK", b"X: 1", line, b"Y: 2", b"", b""]))
    assert fault in _fault(eol.join([b"HTTP/1.1 200 OK", line, b"", b""]))


def test_an_error_does_not_show_a_value() -> None:
    assert "secret" not in _fault(b"HTTP/1.1 200 OK\r\nSet-Cookie: secret\0\r\n\r\n")


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (b"A: b\r\n c", "b c"),
        (b"A: b \t\r\n \t c \r\n\td", "b c d"),
        (b"A: b\n c", "b c"),
        (b"A:\r\n c", "c"),
        (b"A: b\r\n \r\n c", "b c"),
        (b"A: b\r\n ", "b"),
        (b"A: b\r\n c: d", "b c: d"),
    ],
)
def test_a_folded_line_becomes_a_space(lines: bytes, value: str) -> None:
    assert _head(b"HTTP/1.1 200 OK\r\nX: 1\r\n" + lines + b"\r\nY: 2\r\n\r\n").fields[1] == ("A", value)
    assert _head(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n").fields == [("A", value)]


def test_the_head_ends_at_the_first_empty_line_of_any_kind() -> None:
    outcome = replay([b"HTTP/1.1 200 OK\nA: b\n\nbody\r\n\r\n"])
    assert (outcome.messages[0].head.fields, outcome.messages[0].body) == ([("A", "b")], b"body\r\n\r\n")
    outcome = replay([b"HTTP/1.1 200 OK\r\nA: b\n\r\nC: d\r\n\r\n"])
    assert (outcome.messages[0].head.fields, outcome.messages[0].body) == ([("A", "b")], b"C: d\r\n\r\n")


def test_informational_responses_come_before_the_final_one() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 99\r\n\r\n"
    parser = ResponseParser()
    parser.start("GET")
    first, second, head, body, end = parser.feed(b"HTTP/1.1 100 Continue\r\n\r\n" + early + NGINX)
    assert isinstance(first, Head)
    assert isinstance(second, Head)
    assert isinstance(head, Head)
    assert (first.status, second.status, head.status, body, end) == (100, 103, 200, b"Hello, world!", END)
    parser.start("GET")
    for piece in byte_by_byte(early):
        events = parser.feed(piece)
    assert events == [second]
    assert not parser.complete


_ODD_LINES = [b"A: b", b"A : b", b" c", b"A:", b"A: \t", b"A: b ", b"A: b\r", b"\rA: b", b"A:b: c"]
_LINES = st.lists(
    st.binary(max_size=12)
    | st.sampled_from(_ODD_LINES)
    | st.tuples(st.sampled_from([b"A", b"b-C", b"", b"\xe9"]), st.binary(max_size=8)).map(b": ".join),
    max_size=4,
)


@REPEATABLE
@given(st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 404 ", b"HTTP/1.1 200"]), _LINES)
def test_the_plain_way_reads_what_the_careful_way_reads(status_line: bytes, lines: list[bytes]) -> None:
    block = b"\r\n".join([status_line, *lines, b"", b""])
    plain = plain_head(block, block.index(b"\r\n\r\n"), ParserLimits())
    if plain is not None:
        end = min(block.find(mark) + len(mark) for mark in (b"\n\n", b"\n\r\n") if mark in block)
        assert plain == careful_head(block[:end], ParserLimits())


@REPEATABLE
@given(valid_responses())
def test_the_plain_way_takes_what_a_careful_server_sends(response: object) -> None:
    raw: bytes = response.raw  # type: ignore[attr-defined]
    if b": \r\n" not in raw:
        assert plain_head(raw, raw.index(b"\r\n\r\n"), ParserLimits()) is not None

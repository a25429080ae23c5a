"""Where a response ends and whether its connection persists: RFC 9112 6.3 and 9.3, rule by rule."""

import pytest

from syncflow.http1 import END, ContentLengthTooLong, MalformedMessage, ResponseParser

from .replay import Outcome, byte_by_byte, replay

CHUNKED_HI = b"2\r\nhi\r\n0\r\n\r\n"


def _read(
    fields: str,
    body: bytes = b"",
    method: str = "GET",
    status: str = "200",
    version: str = "1.1",
) -> Outcome:
    """What comes of a response with these fields, however it is cut, and still open at its end."""
    lines = "".join(f"{line}\r\n" for line in fields.split("\n") if line)
    data = f"HTTP/{version} {status} X\r\n{lines}\r\n".encode("latin-1") + body
    outcome = replay([data], method)
    assert replay(byte_by_byte(data), method) == outcome
    return outcome


def _is_close_delimited(outcome: Outcome, body: bytes) -> bool:
    (message,) = outcome.messages
    return message.body == body and not message.complete and outcome.leftover == b"" and outcome.error is None


@pytest.mark.parametrize(
    "fields",
    ["", "Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: 5\nA: b"],
)
@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200"), ("HEAD", "404"), ("GET", "204"), ("GET", "304")],
)
def test_rule_1_no_body_whatever_the_fields_say(fields: str, method: str, status: str) -> None:
    outcome = _read(fields, b"hello", method, status)
    assert (outcome.messages[0].body, outcome.messages[0].complete, outcome.leftover) == (b"", True, b"hello")
    assert outcome.keep_alive
    assert not outcome.upgraded


def test_rule_1_methods_are_case_sensitive() -> None:
    assert _read("Content-Length: 5", b"hello", "head").messages[0].body == b"hello"


@pytest.mark.parametrize("fields", ["", "Content-Length: 5", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(
    ("method", "status"), [("CONNECT", "200"), ("CONNECT", "299"), ("GET", "101"), ("HEAD", "101")]
)
def test_rule_2_what_follows_is_not_http(fields: str, method: str, status: str) -> None:
    outcome = _read(fields, b"\r\n\0raw", method, status)
    assert (outcome.messages[0].body, outcome.messages[0].complete) == (b"", True)
    assert (outcome.leftover, outcome.upgraded, outcome.keep_alive) == (b"\r\n\0raw", True, False)


@pytest.mark.parametrize("status", ["300", "407"])
def test_rule_2_a_refused_connect_is_an_ordinary_response(status: str) -> None:
    outcome = _read("Content-Length: 2", b"no", "CONNECT", status)
    assert (outcome.messages[0].body, outcome.upgraded, outcome.keep_alive) == (b"no", False, True)


@pytest.mark.parametrize("length", ["2", "999", "1, 2", "x", ""])
def test_rule_3_transfer_encoding_wins_and_the_connection_ends(length: str) -> None:
    fields = [f"Content-Length: {length}", "Transfer-Encoding: chunked"]
    for outcome in (_read("\n".join(fields), CHUNKED_HI), _read("\n".join(reversed(fields)), CHUNKED_HI)):
        assert (outcome.messages[0].body, outcome.messages[0].complete) == (b"hi", True)
        assert not outcome.keep_alive


def test_rule_3_also_without_a_body() -> None:
    assert not _read("Transfer-Encoding: chunked\nContent-Length: 5", method="HEAD").keep_alive


@pytest.mark.parametrize(
    "fields",
    [
        "Transfer-Encoding: chunked",
        "transfer-encoding: CHUNKED",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip;q=1 ,\t chunked",
        "Transfer-Encoding: , chunked,",
    ],
)
def test_rule_4_chunked_is_last(fields: str) -> None:
    outcome = _read(fields, CHUNKED_HI + b"more")
    assert (outcome.messages[0].body, outcome.messages[0].complete) == (b"hi", True)
    assert (outcome.keep_alive, outcome.leftover) == (True, b"more")


@pytest.mark.parametrize(
    "fields",
    [
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunkedchunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: gzip\nContent-Length: 3",
    ],
)
def test_rule_4_chunked_is_not_last(fields: str) -> None:
    outcome = _read(fields, CHUNKED_HI)
    assert _is_close_delimited(outcome, CHUNKED_HI)
    assert not outcome.keep_alive


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ("Transfer-Encoding:", "not a list of transfer codings"),
        ("Transfer-Encoding: ,", "not a list of transfer codings"),
        ("Transfer-Encoding: gzip chunked", "not a list of transfer codings"),
        ("Transfer-Encoding: \x0bchunked", "not a list of transfer codings"),
        ('Transfer-Encoding: a;b="c, chunked', "not a list of transfer codings"),
        ("Transfer-Encoding: chunked\n  abc", "not a list of transfer codings"),
        ("Transfer-Encoding: chunked, chunked", "more than once"),
        ("Transfer-Encoding: chunked\nTransfer-Encoding: chunked", "more than once"),
        ("Transfer-Encoding: chunked;a=b", "chunked with a parameter"),
    ],
)
def test_rule_4_what_could_be_read_in_two_ways(fields: str, fault: str) -> None:
    parser = ResponseParser()
    parser.start("GET")
    lines = "".join(f"{line}\r\n" for line in fields.split("\n"))
    with pytest.raises(MalformedMessage, match=fault) as caught:
        parser.feed(f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode("latin-1"))
    assert caught.value.events == []


@pytest.mark.parametrize(
    "fields",
    [
        "Content-Length: 1, 2",
        "Content-Length: 1\nContent-Length: 2",
        "Content-Length: 1, 01",
        "Content-Length: 1,",
        "Content-Length: ,1",
        "Content-Length:",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: 1_0",
        "Content-Length: 0x1",
        "Content-Length: 1 1",
        "Content-Length: 1.0",
        "Content-Length: \xb2",
        "Content-Length: x",
    ],
)
def test_rule_5_invalid_length(fields: str) -> None:
    outcome = _read(fields, b"hello")
    assert outcome.error is MalformedMessage
    assert outcome.messages == []


def test_rule_5_a_length_beyond_all_reason() -> None:
    assert _read("Content-Length: " + "9" * 5000).error is ContentLengthTooLong


@pytest.mark.parametrize(
    "fields",
    [
        "Content-Length: 2",
        "content-length: 2",
        "Content-Length: 2, 2 ,2",
        "Content-Length: 2\nCONTENT-LENGTH: 2",
        "Content-Length: 0000000000002",
    ],
)
def test_rule_6_length(fields: str) -> None:
    outcome = _read(fields, b"hi there")
    assert (outcome.messages[0].body, outcome.messages[0].complete) == (b"hi", True)
    assert (outcome.keep_alive, outcome.leftover) == (True, b" there")


def test_rule_6_length_zero() -> None:
    outcome = _read("Content-Length: 0")
    assert (outcome.messages[0].body, outcome.messages[0].complete, outcome.keep_alive) == (b"", True, True)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("fields", ["", "Connection: keep-alive", "Connection: close", "Content-Lengthy: 2"])
def test_rule_8_until_the_connection_closes(fields: str, version: str) -> None:
    outcome = _read(fields, b"hi", version=version)
    assert _is_close_delimited(outcome, b"hi")
    assert not outcome.keep_alive


@pytest.mark.parametrize(
    ("version", "fields", "persists"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close", False),
        ("1.1", "Connection: Close", False),
        ("1.1", "connection: keep-alive", True),
        ("1.1", "Connection: keep-alive, close", False),
        ("1.1", "Connection: keep-alive\nConnection: close", False),
        ("1.1", "Connection: x ,\tCLOSE", False),
        ("1.1", "Connection: closed", True),
        ("1.1", "Connection: x-close, disclose", True),
        ("1.1", "Connection:", True),
        ("1.1", "Proxy-Connection: close", True),
        ("1.2", "", True),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive", True),
        ("1.0", "Connection: Keep-Alive", True),
        ("1.0", "Connection: x, keep-alive", True),
        ("1.0", "Connection: keep-alive, close", False),
        ("1.0", "Connection: close\nConnection: keep-alive", False),
        ("1.0", "Connection: keep-alives", False),
    ],
)
@pytest.mark.parametrize(("status", "length"), [("200", "Content-Length: 2"), ("204", "")])
def test_persistence(version: str, fields: str, persists: bool, status: str, length: str) -> None:
    outcome = _read(f"{fields}\n{length}", b"hi" if length else b"", version=version, status=status)
    assert outcome.messages[0].complete
    assert outcome.keep_alive is persists


@pytest.mark.parametrize("options", ["", "\nConnection: keep-alive"])
def test_chunked_from_http_1_0_is_read_and_the_connection_ends(options: str) -> None:
    outcome = _read("Transfer-Encoding: chunked" + options, CHUNKED_HI, version="1.0")
    assert (outcome.messages[0].body, outcome.messages[0].complete, outcome.keep_alive) == (
        b"hi",
        True,
        False,
    )


@pytest.mark.parametrize("head", [b"Content-Length: 131072\r\n\r\n", b"\r\n"])
def test_a_piece_that_is_all_body_is_passed_on_without_a_copy(head: bytes) -> None:
    parser = ResponseParser()
    parser.start("GET")
    parser.feed(b"HTTP/1.1 200 OK\r\n" + head)
    piece = bytes(65536)
    (event,) = parser.feed(piece)
    assert event is piece
    last, *end = parser.feed(piece)
    assert last is piece
    assert end == ([END] if parser.complete else [])

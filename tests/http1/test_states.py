"""Every call in every state: what it leads to, or that it is refused and changes nothing."""

import pytest

from syncflow.http1 import END, Head, IncompleteMessage, InvalidState, MalformedMessage, ResponseParser

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE_DELIMITED = b"HTTP/1.1 200 OK\r\n\r\n"


def _new() -> ResponseParser:
    return ResponseParser()


def _fed(*pieces: bytes, method: str = "GET") -> ResponseParser:
    parser = ResponseParser()
    parser.start(method)
    for piece in pieces:
        parser.feed(piece)
    return parser


def _closed() -> ResponseParser:
    parser = ResponseParser()
    parser.end_of_input()
    return parser


def _closed_after_body() -> ResponseParser:
    parser = _fed(CLOSE_DELIMITED)
    parser.end_of_input()
    return parser


def _failed() -> ResponseParser:
    parser = _fed()
    with pytest.raises(MalformedMessage):
        parser.feed(b"SSH-2.0-x\r\n")
    return parser


def _cut_off() -> ResponseParser:
    parser = _fed(LENGTH)
    with pytest.raises(IncompleteMessage):
        parser.end_of_input()
    return parser


STATES = {
    "new": (_new, "IDLE"),
    "after END": (lambda: _fed(LENGTH + b"hello"), "IDLE"),
    "after END with leftover": (lambda: _fed(LENGTH + b"hello more"), "IDLE"),
    "after 101": (lambda: _fed(b"HTTP/1.1 101 Switching Protocols\r\n\r\nraw"), "IDLE"),
    "started": (_fed, "HEAD"),
    "in the head": (lambda: _fed(b"HTTP/"), "HEAD"),
    "after a 1xx": (lambda: _fed(b"HTTP/1.1 100 Continue\r\n\r\n"), "HEAD"),
    "in a length body": (lambda: _fed(LENGTH, b"he"), "LENGTH"),
    "in a chunked body": (lambda: _fed(CHUNKED, b"5\r\nhe"), "CHUNKED"),
    "in trailers": (lambda: _fed(CHUNKED, b"0\r\nA: b\r\n"), "CHUNKED"),
    "in a close-delimited body": (lambda: _fed(CLOSE_DELIMITED, b"he"), "CLOSE_DELIMITED"),
    "closed": (_closed, "CLOSED"),
    "closed after a body": (_closed_after_body, "CLOSED"),
    "failed": (_failed, "FAILED"),
    "cut off": (_cut_off, "FAILED"),
}

CALLS = {
    "start": lambda parser: parser.start("GET"),
    "feed": lambda parser: parser.feed(b"X"),
    "end_of_input": lambda parser: parser.end_of_input(),
    "end_of_input unclean": lambda parser: parser.end_of_input(clean=False),
}

# The next state, or the error and the next state. b"X" is data in a body, no head, and unasked in IDLE.
TABLE: dict[tuple[str, str], str | tuple[type[Exception], str]] = {
    ("IDLE", "start"): "HEAD",
    ("IDLE", "feed"): "IDLE",
    ("IDLE", "end_of_input"): "CLOSED",
    ("IDLE", "end_of_input unclean"): "CLOSED",
    ("HEAD", "start"): (InvalidState, "HEAD"),
    ("HEAD", "feed"): (MalformedMessage, "FAILED"),
    ("HEAD", "end_of_input"): (IncompleteMessage, "FAILED"),
    ("HEAD", "end_of_input unclean"): (IncompleteMessage, "FAILED"),
    ("LENGTH", "start"): (InvalidState, "LENGTH"),
    ("LENGTH", "feed"): "LENGTH",
    ("LENGTH", "end_of_input"): (IncompleteMessage, "FAILED"),
    ("LENGTH", "end_of_input unclean"): (IncompleteMessage, "FAILED"),
    ("CHUNKED", "start"): (InvalidState, "CHUNKED"),
    ("CHUNKED", "feed"): "CHUNKED",
    ("CHUNKED", "end_of_input"): (IncompleteMessage, "FAILED"),
    ("CHUNKED", "end_of_input unclean"): (IncompleteMessage, "FAILED"),
    ("CLOSE_DELIMITED", "start"): (InvalidState, "CLOSE_DELIMITED"),
    ("CLOSE_DELIMITED", "feed"): "CLOSE_DELIMITED",
    ("CLOSE_DELIMITED", "end_of_input"): "CLOSED",
    ("CLOSE_DELIMITED", "end_of_input unclean"): (IncompleteMessage, "FAILED"),
    ("CLOSED", "start"): (InvalidState, "CLOSED"),
    ("CLOSED", "feed"): (InvalidState, "CLOSED"),
    ("CLOSED", "end_of_input"): "CLOSED",
    ("CLOSED", "end_of_input unclean"): "CLOSED",
    ("FAILED", "start"): (InvalidState, "FAILED"),
    ("FAILED", "feed"): (InvalidState, "FAILED"),
    ("FAILED", "end_of_input"): (InvalidState, "FAILED"),
    ("FAILED", "end_of_input unclean"): (InvalidState, "FAILED"),
}


def _snapshot(parser: ResponseParser) -> dict[str, object]:
    return {name: repr(getattr(parser, name)) for name in parser.__slots__}


def test_the_table_is_complete() -> None:
    states = {state for _, state in STATES.values()}
    assert set(TABLE) == {(state, call) for state in states for call in CALLS}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", STATES)
def test_walk(name: str, call: str) -> None:
    make, state = STATES[name]
    parser = make()
    assert parser._state.name == state
    expected = TABLE[state, call]
    if isinstance(expected, str):
        CALLS[call](parser)
        assert parser._state.name == expected
        return
    error, after = expected
    before = _snapshot(parser)
    with pytest.raises(error):
        CALLS[call](parser)
    assert parser._state.name == after
    if error is InvalidState:
        assert _snapshot(parser) == before


@pytest.mark.parametrize("name", STATES)
def test_empty_bytes_are_refused_everywhere(name: str) -> None:
    parser = STATES[name][0]()
    before = _snapshot(parser)
    with pytest.raises(ValueError, match="end_of_input"):
        parser.feed(b"")
    assert _snapshot(parser) == before


def test_attributes_through_two_messages() -> None:
    parser = ResponseParser()
    assert (parser.started, parser.complete, parser.keep_alive, parser.upgraded) == (False,) * 4
    parser.start("GET")
    assert not parser.started
    assert parser.feed(b"H") == []
    assert (parser.started, parser.complete) == (True, False)
    (head,) = parser.feed(LENGTH[1:])
    assert isinstance(head, Head)
    assert parser.body_remaining == 5
    assert parser.feed(b"hel") == [b"hel"]
    assert parser.body_remaining == 2
    assert parser.feed(b"lo!") == [b"lo", END]
    assert (parser.complete, parser.keep_alive, parser.leftover) == (True, True, b"!")
    assert parser.body_remaining == 0
    assert parser.feed(b"?") == []
    assert parser.leftover == b"!?"

    parser.start("HEAD")
    assert (parser.started, parser.complete, parser.keep_alive, parser.leftover) == (False, False, False, b"")
    assert parser.body_remaining is None
    assert parser.feed(LENGTH)[1:] == [END]
    assert parser.body_remaining is None


def test_bytes_that_nobody_asked_for_are_kept() -> None:
    parser = ResponseParser()
    assert parser.feed(b"HTTP/1.1 408 Request Timeout\r\n\r\n") == []
    assert parser.leftover == b"HTTP/1.1 408 Request Timeout\r\n\r\n"
    assert not parser.started
    parser.start("GET")
    assert parser.leftover == b""


@pytest.mark.parametrize(
    ("pieces", "received", "expected", "in_head"),
    [
        ([], 0, None, True),
        ([b"HTTP/1.1 200"], 12, None, True),
        ([LENGTH], 0, 5, False),
        ([LENGTH + b"h", b"el"], 3, 5, False),
        ([CHUNKED], 0, None, False),
        ([CHUNKED + b"5\r\nhel"], 3, None, False),
        ([CHUNKED + b"5\r\nhello\r\n0\r\nA: b"], 5, None, False),
    ],
)
def test_incomplete_says_how_far_it_came(
    pieces: list[bytes], received: int, expected: int | None, in_head: bool
) -> None:
    parser = _fed(*pieces)
    with pytest.raises(IncompleteMessage) as caught:
        parser.end_of_input()
    assert (caught.value.received, caught.value.expected, caught.value.in_head) == (
        received,
        expected,
        in_head,
    )


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([], "before the head of the response"),
        ([b"HTTP"], "after 4 bytes of the head"),
        ([LENGTH + b"he"], "after 2 of 5 bytes of the body"),
        ([CHUNKED + b"2\r\nhi"], "after 2 bytes of a chunked body, before its end"),
        ([CLOSE_DELIMITED + b"hi"], "after 2 bytes of a close-delimited body, before its end"),
    ],
)
def test_incomplete_says_so_in_words(pieces: list[bytes], words: str) -> None:
    parser = _fed(*pieces)
    with pytest.raises(IncompleteMessage, match=words):
        parser.end_of_input(clean=False)


def test_unclean_end_of_a_close_delimited_body() -> None:
    parser = _fed(CLOSE_DELIMITED + b"hel", b"lo")
    with pytest.raises(IncompleteMessage) as caught:
        parser.end_of_input(clean=False)
    assert (caught.value.received, caught.value.expected) == (5, None)
    assert not parser.complete


def test_clean_end_of_a_close_delimited_body() -> None:
    parser = _fed(CLOSE_DELIMITED + b"hello")
    assert parser.end_of_input() == [END]
    assert parser.complete
    assert not parser.keep_alive


def test_an_error_carries_the_events_before_it() -> None:
    parser = _fed()
    with pytest.raises(MalformedMessage) as caught:
        parser.feed(CHUNKED + b"5\r\nhelloX")
    head, body = caught.value.events
    assert isinstance(head, Head)
    assert body == b"hello"

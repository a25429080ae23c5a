"""Each limit: what is at it passes, one more is refused with its own error, and the error names the limit."""

from dataclasses import FrozenInstanceError, asdict, fields

import pytest

from syncflow.http1 import (
    END,
    ChunkExtensionTooLong,
    ChunkSizeTooLong,
    ContentLengthTooLong,
    HeadTooLarge,
    LimitExceeded,
    LineTooLong,
    MalformedMessage,
    ParserLimits,
    ResponseParser,
    TooManyEmptyLines,
    TooManyFields,
    TooManyInformational,
    TrailersTooLarge,
)

from .replay import byte_by_byte

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"


def _status_line(size: int) -> bytes:
    return b"HTTP/1.1 200 ".ljust(size, b"x") + b"\r\n"


def _head(size: int) -> bytes:
    rest = size - len(OK) - len(EMPTY)
    return OK + b"A: ".ljust(rest - 2, b"x") + b"\r\n" + EMPTY


# Limit, its error, a response at the limit and one over it.
CASES = {
    "status_line": (20, LineTooLong, _status_line(20) + EMPTY, _status_line(21) + EMPTY),
    "head": (64, HeadTooLarge, _head(64), _head(65)),
    "head, not plain": (64, HeadTooLarge, _head(65).replace(b"\r", b"", 1), _head(66).replace(b"\r", b"", 1)),
    "fields": (3, TooManyFields, OK + b"A: b\r\n" * 2 + EMPTY, OK + b"A: b\r\n" * 3 + EMPTY),
    "fields, folded": (
        2,
        TooManyFields,
        OK + b"A: b\r\n c\r\n" + EMPTY,
        OK + b"A: b\r\n c\r\n" * 2 + EMPTY,
    ),
    "fields, in trailers": (
        2,
        TooManyFields,
        CHUNKED + b"0\r\n" + b"A: b\r\n" * 2 + b"\r\n",
        CHUNKED + b"0\r\n" + b"A: b\r\n" * 3 + b"\r\n",
    ),
    "empty_lines": (2, TooManyEmptyLines, b"\r\n\n" + OK + EMPTY, b"\r\n\n\r\n" + OK + EMPTY),
    "informational": (2, TooManyInformational, CONTINUE * 2 + OK + EMPTY, CONTINUE * 3 + OK + EMPTY),
    "content_length_digits": (
        3,
        ContentLengthTooLong,
        OK + b"Content-Length: 000\r\n\r\n",
        OK + b"Content-Length: 0000\r\n\r\n",
    ),
    "chunk_size_digits": (
        2,
        ChunkSizeTooLong,
        CHUNKED + b"01\r\nx\r\n0\r\n\r\n",
        CHUNKED + b"001\r\nx\r\n0\r\n\r\n",
    ),
    "chunk_size_digits, later": (
        2,
        ChunkSizeTooLong,
        CHUNKED + b"1\r\nx\r\n01\r\nx\r\n0\r\n\r\n",
        CHUNKED + b"1\r\nx\r\n001\r\nx\r\n0\r\n\r\n",
    ),
    "chunk_extension": (4, ChunkExtensionTooLong, CHUNKED + b"0;abc\r\n\r\n", CHUNKED + b"0;abcd\r\n\r\n"),
    "trailers": (
        8,
        TrailersTooLarge,
        CHUNKED + b"0\r\nA: b\r\n\r\n",
        CHUNKED + b"0\r\nA: bc\r\n\r\n",
    ),
}


def _limits(name: str, value: int) -> ParserLimits:
    name = name.partition(",")[0]
    return ParserLimits(20, value) if name == "head" else ParserLimits(**{name: value})


def test_every_limit_has_a_case_and_an_error_of_its_own() -> None:
    assert {name.partition(",")[0] for name in CASES} == {field.name for field in fields(ParserLimits)}
    errors = {error for _, error, _, _ in CASES.values()}
    assert errors == set(LimitExceeded.__subclasses__())


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", CASES)
def test_at_the_limit(name: str, cut: bool) -> None:
    value, _, at, _ = CASES[name]
    parser = ResponseParser(_limits(name, value))
    parser.start("GET")
    for piece in byte_by_byte(at) if cut else [at]:
        parser.feed(piece)
    assert parser.complete


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", CASES)
def test_over_the_limit(name: str, cut: bool) -> None:
    value, error, _, over = CASES[name]
    parser = ResponseParser(_limits(name, value))
    parser.start("GET")
    with pytest.raises(error) as caught:
        for piece in byte_by_byte(over) if cut else [over]:
            parser.feed(piece)
    assert type(caught.value) is error
    assert caught.value.limit == value
    assert str(value) in str(caught.value)
    assert not parser.complete


@pytest.mark.parametrize(
    ("endless", "error"),
    [
        (b"\r\n" * 1024, TooManyEmptyLines),
        (b"HTTP/1.1 200 " + b"x" * 1024, LineTooLong),
        (OK + b"x" * 1024, HeadTooLarge),
        (OK + b"A: b\r\n" * 512, HeadTooLarge),
        (CONTINUE * 512, TooManyInformational),
        (CHUNKED + b"0" * 1024, ChunkSizeTooLong),
        (CHUNKED + b"1;" + b"x" * 1024, ChunkExtensionTooLong),
        (CHUNKED + b"0\r\n" + b"x" * 1024, TrailersTooLarge),
    ],
)
def test_what_never_ends_is_refused_before_its_end(endless: bytes, error: type[LimitExceeded]) -> None:
    parser = ResponseParser(ParserLimits(status_line=256, head=512, chunk_extension=256, trailers=256))
    parser.start("GET")
    with pytest.raises(error):
        for piece in byte_by_byte(endless):
            parser.feed(piece)


def test_a_longer_chunk_size_if_the_limit_is_raised() -> None:
    parser = ResponseParser(ParserLimits(chunk_size_digits=20))
    parser.start("GET")
    parser.feed(CHUNKED + b"1\r\nx\r\n" + b"1".zfill(20) + b"\r\nx\r\n0\r\n\r\n")
    assert parser.complete


def test_defaults() -> None:
    assert asdict(ParserLimits()) == {
        "status_line": 8192,
        "head": 262144,
        "fields": 256,
        "empty_lines": 4,
        "informational": 20,
        "content_length_digits": 19,
        "chunk_size_digits": 16,
        "chunk_extension": 4096,
        "trailers": 16384,
    }


@pytest.mark.parametrize(
    "filling",
    [
        b"A: " + b" " * 200_000 + b"b",
        b"A: b" + b" \t" * 100_000,
        b"A: b" + b"\r\n c" * 50_000,
        b"A: b" + b"\r" * 200_000,
        b"A" * 200_000 + b" : b",
        b"A:" * 100_000,
        b":" * 200_000,
    ],
    ids=["spaces before", "spaces after", "folded", "bare CRs", "long name", "many colons", "no name"],
)
def test_a_large_head_does_not_cost_the_square_of_its_size(filling: bytes) -> None:
    """Each would take hours, if it did."""
    head = OK + filling + b"\r\n\r\n"
    for pieces in ([head], byte_by_byte(head)):
        parser = ResponseParser()
        parser.start("GET")
        try:
            for piece in pieces:
                parser.feed(piece)
        except MalformedMessage:
            continue
        assert not parser.complete
        assert parser.end_of_input() == [END]


def test_limits_are_checked_and_frozen() -> None:
    for field in fields(ParserLimits):
        with pytest.raises(ValueError, match=field.name):
            ParserLimits(**{field.name: -1})
    with pytest.raises(ValueError, match="two line ends"):
        ParserLimits(status_line=97, head=100)
    limits = ParserLimits()
    with pytest.raises(FrozenInstanceError):
        limits.head = 1  # type: ignore[misc]

"""Charsets, byte order marks, guesses: what text a body is."""

from __future__ import annotations

import sys

import pytest

from syncflow.text import charset_of, decode, decode_pieces, guess_encoding, known_codec

SAMPLE = "Grüße, жизнь, 你好"


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("text/plain", None),
        ("text/plain; charset=utf-8", "utf-8"),
        ('text/plain; charset="ISO-8859-15"', "ISO-8859-15"),
        ("text/plain; CharSet='koi8-r'; format=flowed", "koi8-r"),
        ("text/plain; format=flowed ; charset = ascii ", "ascii"),
        ("text/plain; charset=", None),
        ("", None),
    ],
)
def test_the_charset_of_a_content_type(content_type: str, charset: str | None) -> None:
    assert charset_of(content_type) == charset


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_more_than_a_guess(codec: str) -> None:
    content = SAMPLE.encode(codec)
    assert guess_encoding(content) == codec
    assert decode(content, None) == SAMPLE


def test_what_the_header_says_comes_first() -> None:
    assert decode(SAMPLE.encode("utf-16-le"), "utf-16-le") == SAMPLE
    assert decode("é".encode(), "latin-1") == "Ã©"


def test_utf_8_where_it_fits() -> None:
    assert guess_encoding(SAMPLE.encode()) == "utf-8"
    assert guess_encoding(b"") == "utf-8"


def test_else_the_detector_is_asked() -> None:
    pytest.importorskip("charset_normalizer")
    text = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 20
    content = text.encode("cp1251")
    assert decode(content, None) == text


def test_else_what_does_not_fit_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "charset_normalizer", None)  # as if it were not installed
    assert decode(b"abc\xff", None) == "abc\ufffd"


@pytest.mark.parametrize(
    "name",
    [
        "hex",
        "idna",
        "no-such-thing",
        "zlib",
        "utf\0-8",
        "rot13",
        "undefined",
        "punycode",
        "Unicode_Escape",
        "raw_unicode_escape",
    ],
)
def test_what_is_no_charset_is_not_used_as_one(name: str) -> None:
    assert known_codec(name) is None
    assert decode(SAMPLE.encode(), name) == SAMPLE


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_characters_are_not_cut(size: int) -> None:
    content = SAMPLE.encode()
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    assert "".join(decode_pieces(pieces, "utf-8")) == SAMPLE
    assert list(decode_pieces(pieces, None)) == pieces, "bytes, as in `requests`, if nobody says what they are"


@pytest.mark.parametrize("codec", ["utf-16", "UTF16", "utf_32", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_in_pieces_the_byte_order_is_what_it_is_in_the_whole(codec: str, marked: bool, size: int) -> None:
    """Python's incremental decoders raise without a mark."""
    content = SAMPLE.encode(codec)
    if not marked:
        content = content.removeprefix("".encode(codec))
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    assert "".join(decode_pieces(pieces, codec)) == decode(content, codec) == SAMPLE


def test_what_is_shorter_than_a_mark_is_not_lost() -> None:
    assert "".join(decode_pieces([b"a", b"\0"], "utf-16")) == decode(b"a\0", "utf-16")
    assert "".join(decode_pieces([b"\xff"], "utf-16")) == "\ufffd"
    assert "".join(decode_pieces([], "utf-32")) == ""


def test_half_a_character_at_the_end_is_not_lost() -> None:
    assert "".join(decode_pieces(["ü".encode()[:1]], "utf-8")) == "\ufffd"

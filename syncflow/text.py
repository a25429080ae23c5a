"""From bytes to text: which charset, pieces decoded as they come, lines.

Knows Content-Type's charset, byte order marks, and how to guess. Knows nothing of responses.
"""

from __future__ import annotations

import codecs
import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["charset_of", "decode", "decode_pieces", "encoding_of", "guess_encoding", "known_codec", "split_lines"]

# The longer ones first: UTF-32's begins with UTF-16's.
_MARKS = [
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]

# Python's own ways of writing text, which are no charsets of any body: in pieces they cannot be read, and one of them
# runs what looks like an escape.
_NO_CHARSETS = frozenset(("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"))


def charset_of(content_type: str) -> str | None:
    """The charset that a Content-Type names (RFC 9110, section 8.3.2)."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip("\"' \t") or None
    return None


def encoding_of(content_type: str) -> str | None:
    """The charset that a Content-Type names, and UTF-8 for JSON that names none (RFC 8259, section 8.1). For text that
    names none, `requests` has ISO-8859-1, which is not the default of HTTP any more (RFC 7231, appendix B)."""
    return charset_of(content_type) or ("utf-8" if "application/json" in content_type else None)


def known_codec(encoding: str | None) -> str | None:
    """`encoding`, if Python has it for text: a server may name any other, such as "hex" or "idna"."""
    if encoding is None:
        return None
    try:
        b" ".decode(encoding, "replace")
    except (LookupError, ValueError):
        return None
    return None if codecs.lookup(encoding).name in _NO_CHARSETS else encoding


def guess_encoding(content: bytes) -> str:
    """By the byte order mark, else UTF-8 where it fits, else what `charset_normalizer` finds, if that is installed."""
    for mark, codec in _MARKS:
        if content.startswith(mark):
            return codec
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return _detect(content) or "utf-8"
    return "utf-8"


def _detect(content: bytes) -> str | None:
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return None
    best = from_bytes(content).best()
    return None if best is None else known_codec(best.encoding)


def decode(content: bytes, encoding: str | None) -> str:
    """`content` as text: by `encoding` if that is known, else by a guess; what cannot be decoded is replaced."""
    return content.decode(known_codec(encoding) or guess_encoding(content), "replace")


def decode_pieces(pieces: Iterable[bytes], encoding: str | None) -> Iterator[Any]:
    """Text as it comes, characters never cut; bytes as they are if the encoding is not known."""
    codec = known_codec(encoding)
    if codec is None:
        yield from pieces
        return
    codec, pieces = _ordered(codec, iter(pieces))
    decoder = codecs.getincrementaldecoder(codec)("replace")
    for piece in pieces:
        if text := decoder.decode(piece):
            yield text
    if text := decoder.decode(b"", True):
        yield text


def _ordered(codec: str, pieces: Iterator[bytes]) -> tuple[str, Iterable[bytes]]:
    """The codec with the byte order that `bytes.decode` takes where no mark tells it, which is this machine's: what
    decodes in pieces does not know of that."""
    name = codecs.lookup(codec).name
    if name not in ("utf-16", "utf-32"):
        return codec, pieces
    start = b""
    while len(start) < 4 and (piece := next(pieces, b"")):
        start += piece
    if not any(start.startswith(mark) for mark, marked in _MARKS if marked == name):
        codec = f"{name}-{sys.byteorder[0]}e"
    return codec, itertools.chain([start], pieces)


def split_lines(pieces: Iterable[Any], delimiter: Any = None) -> Iterator[Any]:
    """Lines, each without its end, of text or of bytes. A CR LF that two pieces divide is one end of a line."""
    rest: Any = None
    for piece in pieces:
        text = piece if rest is None else rest + piece
        rest = None
        if delimiter is not None:
            *lines, rest = text.split(delimiter)
        else:
            lines = text.splitlines(keepends=True)
            # A last line without an end, or with a CR that an LF may follow, is not complete.
            if not lines[-1].endswith("\n" if isinstance(text, str) else b"\n"):
                rest = lines.pop()
            lines = [_without_end(line) for line in lines]
        yield from lines
    if rest:
        yield from [rest] if delimiter is not None else rest.splitlines()


def _without_end(line: Any) -> Any:
    """`splitlines` knows more ends of a line than CR and LF, so it is asked again."""
    return line.splitlines()[0]

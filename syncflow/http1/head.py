"""Reads a complete head, or a complete trailer section, from bytes (RFC 9112 3 to 5).

Knows lines, names and values; no framing, no state. There are two ways through: the plain one is a `findall`
with one compiled pattern and accepts only what needs no repair, so it can be fast; whatever it does not take
goes the careful way, line by line, which repairs what RFC 9112 lets a client repair and says what is wrong
with the rest.
"""

import re

from .errors import HeadTooLarge, LineTooLong, MalformedMessage, TooManyFields
from .events import Head
from .grammar import OWS, TCHAR, is_token, shown
from .limits import ParserLimits

# RFC 9112 4: status-line = HTTP-version SP status-code SP [ reason-phrase ]. The second SP may be missing
# (llhttp and http.client agree). Codes under 100 mean nothing to anybody; 600 to 999 do occur.
_STATUS_LINE = r"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: (.*))?"

_match_status_line = re.compile(_STATUS_LINE).fullmatch
_match_plain_status_line = re.compile(rf"{_STATUS_LINE}\r$", re.MULTILINE).match

# A field line from the LF before it to its CR, without white space at the end of the value. The quantifiers
# before the value are possessive: a value of 256 KiB of spaces must not cost a quadratic time.
_find_plain_fields = re.compile(rf"\n([{TCHAR}]++):[ \t]*+(.*)(?<![ \t])\r$", re.MULTILINE).findall


def plain_head(data: bytes, end: int, limits: ParserLimits) -> Head | None:
    """The head in `data` whose last line ends with the CR at `end`; None if it needs the careful way.

    Every LF must begin a field that the pattern took, and every CR must be one that it took: then nothing was
    passed over, whatever the peer put between.
    """
    if end + 4 > limits.head:
        return None
    text = data[: end + 1].decode("latin-1")
    match = _match_plain_status_line(text)
    if match is None or match.end() - 1 > limits.status_line:
        return None
    fields: list[tuple[str, str]] = _find_plain_fields(text, match.end())
    count = len(fields)
    if text.count("\n") != count or text.count("\r") != count + 1 or "\0" in text or count > limits.fields:
        return None
    minor, status, reason = match.groups("")
    return Head(int(status), reason, "1.1" if minor != "0" else "1.0", fields)


def careful_head(block: bytes, limits: ParserLimits) -> Head:
    """The head in `block`, which begins with the status line and ends with the empty line."""
    status_line, *lines = _lines(block)
    status, reason, version = read_status_line(status_line, limits)
    if len(block) > limits.head:
        raise head_too_large(limits)
    return Head(status, reason, version, read_fields(lines, limits))


def check_beginning(held: bytearray, limits: ParserLimits) -> bool:
    """Refuse as soon as can be what will never be a head; True once the status line was seen and is valid.

    A peer of another protocol says its line and waits for ours: nobody would come to an end without this.
    What is checked depends on the first bytes only, not on how many there are, so that the error does not
    depend on it either.
    """
    if not b"HTTP/1.".startswith(held[:7]):
        raise MalformedMessage(f"not an HTTP/1 status line: {shown(held)}")
    eol = held.find(b"\n")
    if eol < 0:
        _check_line_length(len(held) - held.endswith(b"\r"), limits)
        return False
    read_status_line(held[:eol].removesuffix(b"\r").decode("latin-1"), limits)
    if held.startswith((b" ", b"\t"), eol + 1):
        # RFC 9112 2.2: reject it, or drop such lines; to drop them has let fields slip past a filter.
        raise MalformedMessage("white space between the status line and the first field")
    return len(held) > eol + 1


def read_status_line(line: str, limits: ParserLimits) -> tuple[int, str, str]:
    """Status, reason and version of a status line without its line end (RFC 9112 4)."""
    _check_line_length(len(line), limits)
    match = _match_status_line(line)
    if match is None or "\r" in line or "\0" in line:
        raise MalformedMessage(f"not an HTTP/1 status line: {shown(line)}")
    minor, status, reason = match.groups("")
    return int(status), reason, "1.1" if minor != "0" else "1.0"


def read_section(block: bytes, limits: ParserLimits) -> list[tuple[str, str]]:
    """The fields of a trailer section, which ends with an empty line (RFC 9112 7.1.2)."""
    return read_fields(_lines(block), limits)


def read_fields(lines: list[str], limits: ParserLimits) -> list[tuple[str, str]]:
    """Field lines, without their line ends, as names and values (RFC 9112 5)."""
    fields: list[tuple[str, str]] = []
    name, parts = "", list[str]()
    for line in lines:
        if line[0] in OWS:
            if not name:
                raise MalformedMessage("white space before the first field")
            # RFC 9112 5.2: a user agent replaces an obs-fold in a response by a space.
            parts.append(_clean_value(name, line))
            continue
        if name:
            fields.append((name, " ".join(filter(None, parts))))
        if len(fields) == limits.fields:
            raise TooManyFields(f"more than {limits.fields} field lines", limits.fields)
        name, value = _split_field(line)
        parts = [_clean_value(name, value)]
    if name:
        fields.append((name, " ".join(filter(None, parts))))
    return fields


def head_too_large(limits: ParserLimits) -> HeadTooLarge:
    """The error for a head that is over its limit, complete or not."""
    return HeadTooLarge(f"a head of more than {limits.head} bytes", limits.head)


def _lines(block: bytes) -> list[str]:
    """The lines before the empty line, each without its CRLF or lone LF (RFC 9112 2.2)."""
    lines = block.decode("latin-1").split("\n")[:-2]
    return [line.removesuffix("\r") for line in lines]


def _check_line_length(length: int, limits: ParserLimits) -> None:
    if length > limits.status_line:
        raise LineTooLong(f"a status line of more than {limits.status_line} bytes", limits.status_line)


def _split_field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise MalformedMessage(f"a field line without a colon: {shown(line)}")
    if not is_token(name):
        # RFC 9112 5.1: none is allowed there; differences in how it is handled have led to smuggling.
        space = bool(is_token(name.rstrip(OWS)))
        fault = "white space between field name and colon" if space else "not a field name"
        raise MalformedMessage(f"{fault}: {shown(name)}")
    return name, value


def _clean_value(name: str, value: str) -> str:
    """A value, or one line of a folded one, without the white space around it (RFC 9112 5)."""
    if "\r" in value or "\0" in value:
        # RFC 9110 5.5: reject, or replace by SP. Replaced, the two ends of a chain might still disagree.
        raise MalformedMessage(f"a bare CR or a NUL in the value of field {shown(name)}")
    return value.strip(OWS)

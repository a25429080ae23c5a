"""The rules for an event stream one by one, slow and plain, to compare the decoder with; and streams cut into pieces.

Knows the standards' texts: WHATWG HTML, sections 9.2.5 and 9.2.6, and the UTF-8 decoder of WHATWG Encoding, section
8.1.1. Takes a whole stream at once and has all of it decoded before it looks for a line. Knows nothing of how the
decoder under test works.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise
from typing import NamedTuple

from syncflow import EventTooLarge
from syncflow.sse import Decoder, ServerSentEvent

BOM = b"\xef\xbb\xbf"

# Of a stream that is no longer, every pair of cuts is tried.
SHORT = 40


class Outcome(NamedTuple):
    """What has come of a stream: its events as (event, data, id, retry), and what is left for the next connection."""

    events: list[tuple[str, str, str, int | None]]
    last_event_id: str = ""
    retry: int | None = None


def interpret(stream: bytes, last_event_id: str = "") -> Outcome:
    """Section 9.2.6, a paragraph at a time."""
    events: list[tuple[str, str, str, int | None]] = []
    data = event_type = ""
    id_buffer = last_event_id
    retry: int | None = None
    own_retry: int | None = None  # of the event; the standard has no such thing
    for line in whole_lines(decode_utf8(stream)):
        if line == "":
            last_event_id = id_buffer
            if data != "":
                assert data.endswith("\n")
                events.append((event_type or "message", data[:-1], last_event_id, own_retry))
            data = event_type = ""
            own_retry = None
            continue
        if line.startswith(":"):
            continue
        if ":" in line:
            colon = line.index(":")
            field, value = line[:colon], line[colon + 1 :].removeprefix(" ")
        else:
            field, value = line, ""
        if field == "event":
            event_type = value
        elif field == "data":
            data += value
            data += "\n"
        elif field == "id":
            if "\0" not in value:
                id_buffer = value
        elif field == "retry" and value and all(character in "0123456789" for character in value):
            retry = own_retry = int(value)
    return Outcome(events, last_event_id, retry)


def whole_lines(text: str) -> Iterator[str]:
    """Each that has its end: CR LF, LF or CR."""
    line = ""
    previous = ""
    for character in text:
        if character == "\n" and previous == "\r":
            pass  # the second half
        elif character in "\r\n":
            yield line
            line = ""
        else:
            line += character
        previous = character


def decode_utf8(stream: bytes) -> str:
    """Without the byte order mark in front; what is no UTF-8 is replaced, a U+FFFD for each step of the decoder that is
    an error."""
    waiting = list(stream.removeprefix(BOM))
    waiting.reverse()
    decoded: list[str] = []
    needed, code_point, lower, upper = 0, 0, 0x80, 0xBF
    while waiting:
        byte = waiting.pop()
        if needed == 0:
            if byte <= 0x7F:
                decoded.append(chr(byte))
            elif 0xC2 <= byte <= 0xDF:
                needed, code_point = 1, byte & 0x1F
            elif 0xE0 <= byte <= 0xEF:
                lower = 0xA0 if byte == 0xE0 else 0x80
                upper = 0x9F if byte == 0xED else 0xBF
                needed, code_point = 2, byte & 0xF
            elif 0xF0 <= byte <= 0xF4:
                lower = 0x90 if byte == 0xF0 else 0x80
                upper = 0x8F if byte == 0xF4 else 0xBF
                needed, code_point = 3, byte & 0x7
            else:
                decoded.append("\ufffd")
        elif lower <= byte <= upper:
            lower, upper = 0x80, 0xBF
            needed, code_point = needed - 1, (code_point << 6) | (byte & 0x3F)
            if needed == 0:
                decoded.append(chr(code_point))
        else:
            waiting.append(byte)
            needed, lower, upper = 0, 0x80, 0xBF
            decoded.append("\ufffd")
    if needed:
        decoded.append("\ufffd")
    return "".join(decoded)


# --------------------------------------------------------------------------------- the decoder under test, in pieces


def replay(pieces: Iterable[bytes], decoder: Decoder | None = None) -> Outcome:
    """What the decoder makes of a stream that comes in these pieces."""
    decoder = decoder or Decoder()
    events = [tuple(event) for piece in pieces for event in decoder.feed(piece)]
    return Outcome(events, decoder.last_event_id, decoder.retry)  # type: ignore[arg-type]  # of the length it has


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    """The stream in pieces, empty ones where a place comes twice."""
    edges = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


def splittings(stream: bytes) -> Iterator[list[bytes]]:
    """Whole; byte by byte, also with nothing in between; in two at every place; a short one in three at any two."""
    yield [stream]
    yield [stream[at : at + 1] for at in range(len(stream))]
    yield cut(stream, [*range(len(stream)), *range(len(stream))])
    for place in range(1, len(stream)):
        yield cut(stream, [place])
    if len(stream) <= SHORT:
        for places in combinations(range(1, len(stream)), 2):
            yield cut(stream, places)


# ---------------------------------------------------------------------------------- how much of an event is held

Seen = tuple[list[ServerSentEvent], bool]


def limited(pieces: Iterable[bytes], limit: int) -> Seen:
    """The events, and whether one was too large in the end; what comes after that is not fed."""
    decoder = Decoder(max_event_size=limit)
    events: list[ServerSentEvent] = []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        decoder.check()
    except EventTooLarge:
        return events, True
    return events, False


def allowed(stream: bytes, limit: int) -> Seen:
    """The same after the rule, line by line: of an event there are held the lines of data, type and ID, each with one
    end, and beside them the line that comes, whatever it is."""
    decoder = Decoder()
    decoder.feed(BOM)
    events: list[ServerSentEvent] = []
    held = 0
    *lines, unfinished = stream.removeprefix(BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    for line in lines:
        if held + len(line) > limit:
            return events, True
        events += decoder.feed(line + b"\n")
        if not line:
            held = 0
        elif line.split(b":")[0] in (b"data", b"event", b"id"):
            held += len(line) + 1
        if held > limit:
            return events, True
    return events, held + len(unfinished) > limit

"""Reads a chunked body (RFC 9112 7.1): sizes, data, the trailer section.

Knows where it stands in one body; a new decoder is made for the next. Knows nothing of heads and connections.
Lines of the chunked framing end in CRLF and nothing else: RFC 9112 2.2 lets a lone LF end the start line and
fields only, and differences in reading chunk lines have been used for smuggling (Go: CVE-2025-22871).
"""

import re
from enum import IntEnum

from .errors import ChunkExtensionTooLong, ChunkSizeTooLong, MalformedMessage, TrailersTooLarge
from .events import Event, Trailers
from .grammar import FIELD_VCHAR, TCHAR, find_empty_line, shown
from .head import read_section
from .limits import ParserLimits

# What nearly always stands between two chunks: the end of one, and a size without extensions.
_match_plain_size = re.compile(rb"\r\n([0-9A-Fa-f]{1,16})\r\n").match

_match_digits = re.compile(rb"[0-9A-Fa-f]*").match

# RFC 9112 7.1.1: chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ). White space
# before the CRLF is in no grammar, but servers that pad the size are about; h11, Go and curl read it too, and
# in one way only.
_QUOTED = rf'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t {FIELD_VCHAR}])*+"'
_BWS = r"[ \t]*+"
_EXTENSION = rf"{_BWS};{_BWS}[{TCHAR}]++(?:{_BWS}={_BWS}(?:[{TCHAR}]++|{_QUOTED}))?+"
_match_extensions = re.compile(rf"(?:{_EXTENSION})*+{_BWS}".encode("latin-1")).fullmatch


class _Part(IntEnum):
    SIZE = 0
    DATA = 1
    DATA_END = 2
    TRAILERS = 3


SIZE, DATA, DATA_END, TRAILERS = _Part


class ChunkedDecoder:
    """Bytes in by `feed()`, body pieces out, until it returns what follows the message."""

    __slots__ = ("_held", "_limits", "_part", "_remaining", "_section", "received")

    def __init__(self, limits: ParserLimits) -> None:
        self.received = 0  # bytes of body data so far
        self._limits = limits
        self._part = SIZE
        self._remaining = 0  # bytes left of the chunk, in DATA
        self._held = b""  # a chunk line, or a CRLF after data, that was cut
        self._section = bytearray()  # the trailer section so far, from the line end before it on

    def feed(self, data: bytes, events: list[Event]) -> bytes | None:
        """Append events; return what follows the end of the message, or None while that was not seen."""
        if self._held:
            data, self._held = self._held + data, b""
        pos, size = 0, len(data)
        while pos < size:
            if self._part is DATA:
                pos = self._read_data(data, pos, events)
            elif self._part is DATA_END:
                pos = self._read_data_end(data, pos)
            elif self._part is SIZE:
                pos = self._read_size(data, pos)
            else:
                return self._read_trailers(data[pos:], events)
        return None

    def _read_data(self, data: bytes, pos: int, events: list[Event]) -> int:
        end = pos + self._remaining
        piece = data[pos:end]  # the same object, not a copy, if that is all of it
        events.append(piece)
        self.received += len(piece)
        self._remaining -= len(piece)
        if self._remaining:
            return len(data)
        match = _match_plain_size(data, end)
        if match is None or len(match[1]) > self._limits.chunk_size_digits:
            self._part = DATA_END
            return end
        self._begin_chunk(int(match[1], 16))
        return match.end()

    def _read_data_end(self, data: bytes, pos: int) -> int:
        found = data[pos : pos + 2]
        if found == b"\r\n":
            self._part = SIZE
        elif found == b"\r":
            self._held = found
        else:
            raise MalformedMessage(f"{shown(found)} after the data of a chunk, where CRLF belongs")
        return pos + len(found)

    def _read_size(self, data: bytes, pos: int) -> int:
        """One chunk line. What is checked first is what is seen first, however the line was cut."""
        digits = _match_digits(data, pos)
        assert digits is not None  # the pattern matches the empty string
        digits_end = digits.end()
        count = digits_end - pos
        if not count:
            raise MalformedMessage(f"not a chunk size: {shown(data[pos : pos + 16])}")
        most = self._limits.chunk_size_digits
        if count > most:
            raise ChunkSizeTooLong(f"a chunk size of more than {most} digits", most)
        eol = data.find(b"\n", digits_end)
        rest = data[digits_end : eol if eol >= 0 else len(data)]
        extension = rest.removesuffix(b"\r")
        most = self._limits.chunk_extension
        if len(extension) > most:
            raise ChunkExtensionTooLong(f"chunk extensions of more than {most} bytes", most)
        if eol < 0:
            self._held = data[pos:]
            return len(data)
        if len(extension) == len(rest):
            raise MalformedMessage("a chunk line that ends in a lone LF")
        if extension and not _match_extensions(extension):
            raise MalformedMessage(f"not a chunk extension: {shown(extension)}")
        self._begin_chunk(int(data[pos:digits_end], 16))
        return eol + 1

    def _begin_chunk(self, size: int) -> None:
        self._remaining = size
        if size:
            self._part = DATA
        else:
            self._part = TRAILERS
            self._section += b"\r\n"

    def _read_trailers(self, data: bytes, events: list[Event]) -> bytes | None:
        section = self._section
        since = max(len(section) - 2, 0)
        section += data
        match = find_empty_line(section, since)
        end = len(section) if match is None else match.end()
        if end - 2 > self._limits.trailers:
            most = self._limits.trailers
            raise TrailersTooLarge(f"a trailer section of more than {most} bytes", most)
        if match is None:
            return None
        if match.start() > 1:
            events.append(Trailers(read_section(bytes(section[2:end]), self._limits)))
        return bytes(section[end:])

"""Targets of what bodies are made of: event streams, content codings, forms of many parts.

Knows the naive reader of event streams in `tests.sse.reference`, the libraries that decode a whole body at once, and
the standard library's reader of MIME. Does no I/O.
"""

from __future__ import annotations

import email
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import brotli
import zstandard

from syncflow.bodies import multipart_of
from syncflow.decoders import decoder_of
from syncflow.exceptions import DecompressionError, InvalidHeader
from syncflow.sse import Decoder, ServerSentEvent, encode
from syncflow.sse.events import MOST_DIGITS

from ..sse.reference import allowed, cut, interpret, limited, replay
from .layout import NEXT, SEPARATOR, divided, places, texts

# ----------------------------------------------------------------------------------------------------- events

_TOO_MANY_DIGITS = re.compile(rb"[0-9]{%d}" % (MOST_DIGITS + 1))


def events(data: bytes) -> None:
    """Any event stream: the events, the last ID and the time to wait that the standard says, however it is cut; and up
    to the first event that is too large, to the byte."""
    (most, *cuts), stream = divided(data, 5)
    if _TOO_MANY_DIGITS.search(stream):
        return  # the one thing in which the decoder departs from the standard
    ways = [stream], cut(stream, places(bytes(cuts))), [stream[at : at + 1] for at in range(len(stream))]
    before = "7" if most & 1 else ""
    expected = interpret(stream, before)
    for pieces in ways:
        assert replay(pieces, Decoder(last_event_id=before)) == expected, pieces
    limit = 3 + most
    expected_here = allowed(stream, limit)
    for pieces in ways:
        assert limited(pieces, limit) == expected_here, pieces


def event(data: bytes) -> None:
    """Any event: refused, or written so that the decoder and the standard's own words both make an equal one of it."""
    (options, *cuts), rest = divided(data, 5)
    kind, content, identity, retry = texts(rest, 4)
    wait = int.from_bytes(retry.encode("utf-8", "surrogateescape")[:4], "big") if options & 1 else None
    given = ServerSentEvent(kind if options & 2 else "message", content, identity, wait)
    try:
        written = encode(given)
    except ValueError:
        assert (
            set(kind + content + identity) & set("\r\n\0")
            or not kind
            or re.search("[\ud800-\udfff]", "".join(given[:3]))
        )
        return
    assert written.endswith(b"\n\n")
    assert written.count(b"\n\n") == 1
    assert interpret(written).events == [tuple(given)]
    assert replay(cut(written * 2, places(bytes(cuts)))).events == [tuple(given)] * 2


# ----------------------------------------------------------------------------------------------------- codings

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
CODINGS = (*ENCODERS, "gzip, deflate", "br, gzip", "zstd, gzip", "gzip, zstd, br")
# What one step may give: 32,000 bytes, which brotli rounds up, and a block of zstd.
STEPS = {"gzip": 32_000, "deflate": 32_000, "br": 65_536, "zstd": 131_072}
ENOUGH = 1 << 20
ENCODED = 0x80  # bit of the first number: what follows is to be encoded first


def coding(data: bytes) -> None:
    """Any bytes with any Content-Encoding: decoded in the same way however they are cut, in steps of a bounded size,
    to what the libraries make of them at once; or refused with the documented error and no other."""
    (options, flipped, *cuts), stream = divided(data, 7)
    named = CODINGS[options % len(CODINGS)]
    names = named.split(", ")
    content = stream
    if options & ENCODED:
        for name in names:
            stream = ENCODERS[name](stream)
        if flipped:
            place = flipped % len(stream)
            stream = stream[:place] + bytes([stream[place] ^ flipped]) + stream[place + 1 :]
    whole, is_whole = _decoded(named, [stream])
    for pieces in (cut(stream, places(bytes(cuts))), [stream[at : at + 1] for at in range(len(stream))]):
        decoded, is_good = _decoded(named, pieces)
        if is_good and is_whole:
            assert decoded == whole
        else:
            # Of what comes before the fault, more or less is decoded at once.
            assert is_good is is_whole or len(decoded) >= ENOUGH or len(whole) >= ENOUGH
            assert decoded.startswith(whole) or whole.startswith(decoded)
    if options & ENCODED and not flipped:
        assert is_whole
        assert whole == content
    if stream and len(names) == 1 and (theirs := _decoded_at_once(named, stream)) is not None:
        assert is_whole
        assert theirs == whole


def _decoded(named: str, pieces: list[bytes]) -> tuple[bytes, bool]:
    """What comes out until it ends, fails, or is enough; whether it did not fail."""
    left = (piece for piece in pieces if piece)
    made = decoder_of(named, lambda most: next(left, b""), "example.com:443")
    assert made is not None
    most = STEPS[named.split(", ", maxsplit=1)[0]]
    decoded = bytearray()
    try:
        while (piece := made.read(1 << 30)) and len(decoded) < ENOUGH:
            assert len(piece) <= most
            decoded += piece
    except DecompressionError as error:
        assert "example.com:443" in str(error)
        return bytes(decoded), False
    return bytes(decoded), True


def _decoded_at_once(name: str, stream: bytes) -> bytes | None:
    """As the library does it; None if that refuses it, or would make too much of it."""
    try:
        if name == "br":
            made = brotli.Decompressor()
            decoded = made.process(stream, output_buffer_limit=ENOUGH)
            return decoded if made.is_finished() and len(decoded) < ENOUGH else None
        if name == "zstd":
            frames = zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(stream, read_across_frames=True)
            decoded = frames.read(ENOUGH)
            return decoded if len(decoded) < ENOUGH and _is_zstd(stream) else None
        inflater = zlib.decompressobj(31 if name == "gzip" else 15)
        decoded = inflater.decompress(stream, ENOUGH)
        return decoded if inflater.eof and not inflater.unused_data else None
    except (brotli.error, zstandard.ZstdError, zlib.error):
        return None


def _is_zstd(stream: bytes) -> bool:
    """It takes half a frame for a whole one."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 23).decompressobj()
    decompressor.decompress(stream)
    return decompressor.eof and not decompressor.unused_data


# ----------------------------------------------------------------------------------------------------- forms

# What a name, and what another text of a part's head, must not have.
_BREAKS = re.compile("[\0\r\n\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DISPOSITION = re.compile(r'form-data; name="([^"\r\n]*)"(?:; filename="([^"\r\n]*)")?')


class Part(NamedTuple):
    """What a program wants to send."""

    name: str
    filename: str | None
    kind: str
    field: str
    value: str
    content: bytes

    @classmethod
    def read(cls, data: bytes) -> Part:
        name, filename, kind, field, value = texts(data, 5)
        content = SEPARATOR.join(data.split(SEPARATOR)[5:])
        return cls(name, filename[1:] if filename else None, kind, field, value, content)

    @property
    def given(self) -> tuple[str, tuple[str | None, bytes, str, dict[str, str]]]:
        return self.name, (self.filename, self.content, self.kind, {self.field: self.value} if self.field else {})

    @property
    def is_refused(self) -> bool:
        if _BREAKS.search(self.name + (self.filename or "")) or _CONTROLS.search(self.kind):
            return True
        return bool(self.field) and (
            not _TOKEN.fullmatch(self.field) or any(_CONTROLS.search(value) for _, value in self.fields)
        )

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Beside Content-Disposition; that, Content-Type and Content-Location are made of something else."""
        names_type = self.field.lower() == "content-type"
        kind = self.kind or (self.value if names_type else "")
        own = names_type or self.field.lower() in ("content-disposition", "content-location")
        fields = [("Content-Type", kind), (self.field, "" if own else self.value)]
        return [(name, value) for name, value in fields if name and value]


def form(data: bytes) -> None:
    """Any names, filenames, content types, headers and contents: refused for a reason, or a body of the announced
    length in which MIME's reader, and one who looks for the boundary and nothing else, find exactly these parts."""
    (size,), rest = divided(data, 1)
    parts = [Part.read(part) for part in rest.split(NEXT)]
    try:
        body = multipart_of(None, [part.given for part in parts])
    except InvalidHeader as error:
        assert str(error).endswith("; nothing was sent")
        assert any(part.is_refused for part in parts)
        return
    assert not any(part.is_refused for part in parts)
    whole = b"".join(body)
    assert len(whole) == body.length
    body.rewind()
    assert b"".join(iter(lambda: body.read(size + 1), b"")) == whole
    for part, (head, content) in zip(parts, _parts(whole, body.boundary.encode()), strict=True):
        (name, disposition), *fields = (line.split(": ", 1) for line in head.decode().split("\r\n"))
        assert name == "Content-Disposition"
        match = _DISPOSITION.fullmatch(disposition)
        assert match, disposition
        assert match.groups() == (_escaped(part.name), _escaped(part.filename))
        assert [tuple(field) for field in fields] == part.fields
        assert content == part.content
    _mime_reads_the_same(parts, whole, body.content_type)


def _parts(whole: bytes, boundary: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Head and content of each, by the boundary alone (RFC 2046, section 5.1.1)."""
    first, between, last = b"--%b\r\n" % boundary, b"\r\n--%b\r\n" % boundary, b"\r\n--%b--\r\n" % boundary
    assert whole.startswith(first)
    assert whole.endswith(last)
    for part in whole.removeprefix(first).removesuffix(last).split(between):
        assert boundary not in part
        head, _, content = part.partition(b"\r\n\r\n")
        yield head, content


def _escaped(name: str | None) -> str | None:
    return name and name.replace('"', "%22")


def _mime_reads_the_same(parts: list[Part], whole: bytes, content_type: str) -> None:
    message = email.message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + whole)
    assert not message.defects
    found = message.get_payload()
    assert isinstance(found, list)
    assert len(found) == len(parts)
    for part, theirs in zip(parts, found, strict=True):
        fields = [
            (name, value.encode("ascii", "surrogateescape").decode())
            for name, value in theirs.raw_items()
            if name != "Content-Disposition"
        ]
        assert fields == [(name, value.lstrip(" \t")) for name, value in part.fields]
        # Of these it takes the content apart in its turn, or decodes it.
        named = " ".join(name + value for name, value in part.fields).lower()
        if not re.search("multipart|message|transfer-encoding", named):
            assert theirs.get_payload(decode=True) == part.content

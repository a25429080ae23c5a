"""Content codings (RFC 9110, section 8.4) undone as a stream: gzip, deflate, br and zstd, also one inside another.

Knows how each coding begins and ends, and decodes it step by step: whatever the ratio, a coding holds about 64 KiB at
a time, zstd a few blocks of 128 KiB, beside the window that its format prescribes (32 KiB; br 16 MiB at most, zstd 8).
Knows nothing of messages and connections: the encoded bytes come from a function.
"""

from __future__ import annotations

import functools
import importlib
import zlib
from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any, Protocol

from .exceptions import BodyTooLarge, DecompressionError

__all__ = ["MOST_CODINGS", "Decoder", "accepted_codings", "decoder_of"]

# As urllib3 has it: each coding of a stack multiplies what one byte may become (CVE-2025-66418).
MOST_CODINGS = 5

# Encoded bytes asked for at a time. What zlib has not consumed of them is copied once for every step.
ENCODED = 16384
# Decoded bytes made in one step. Under 32 KiB less a header, the first block of the buffers that zlib and brotli fill;
# brotli asked for more than fits there makes a second one, of three times the size.
DECODED = 32000

# How zlib is told the format. The gzip one includes the check of CRC and length.
GZIP, ZLIB, RAW_DEFLATE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952, section 2.3.1

# A decoder of this coding need not support more, and an encoder may not use more (RFC 9659, section 3).
ZSTD_WINDOW_LOG = 23
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878, section 3.1.1
ZSTD_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"  # RFC 8878, section 3.1.2; the byte before it is 0x50 to 0x5F

ADVICE = "ask for it with 'Accept-Encoding: identity'"

Read = Callable[[int], bytes]


@functools.cache
def accepted_codings() -> str:
    """What can be decoded here, for Accept-Encoding (RFC 9110, section 12.5.3)."""
    return ", ".join(coding for coding in ("gzip", "deflate", "br", "zstd") if _codec_of(coding) is not None)


def decoder_of(content_encoding: str, read: Read, where: str, most: int | None = None) -> Decoder | None:
    """What undoes `content_encoding`, the value of that field, its lines joined with commas.

    None if there is nothing to decode, or if any coding is not known here: the body is then handed on as it came.

    Args:
        read: gives the next encoded bytes, at most as many as it is asked for, and b"" at the end. What it raises goes
            through as it is.
        where: "host:port", for messages.
        most: bytes that the body may have when all its codings are undone; None is no limit.

    Raises:
        DecompressionError: more than `MOST_CODINGS`.
    """
    # An element of a list may be empty (RFC 9110, section 5.6.1).
    named = [element.strip(" \t").lower() for element in content_encoding.split(",")]
    codings = [coding for coding in named if coding not in ("", "identity")]
    makers = [make for make in map(_codec_of, codings) if make is not None]
    if not makers or len(makers) < len(codings):
        return None
    if len(codings) > MOST_CODINGS:
        raise DecompressionError(
            f"{where}: the body was encoded {len(codings)} times, of which at most {MOST_CODINGS} are undone; {ADVICE}",
            phase="body",
        )
    source = _Source(read, where)
    # They are listed in the order in which they were applied (RFC 9110, section 8.4).
    read, decoder = source.read, None
    for coding, make in zip(reversed(codings), reversed(makers), strict=True):
        decoder = Decoder(coding, make(), read, source)
        read = decoder.read
    if decoder is not None:
        decoder.most = most
    return decoder


class Decoder:
    """A body with a content coding undone. It is read by one thread at a time."""

    def __init__(self, coding: str, codec: _Codec, read: Read, source: _Source) -> None:
        self._coding = coding
        self._codec = codec
        self._read_encoded = read
        self._source = source
        self._decoded = b""
        self._taken = 0  # how much of `_decoded`
        self._has_more = False  # the codec may have something to give before it gets more
        self._failure: DecompressionError | None = None
        # Bytes that may be given, and how many were.
        self.most: int | None = None
        self._given = 0

    def read(self, size: int) -> bytes:
        """The next decoded bytes, at least one and at most `size`, which is at least 1; b"" at the end only.

        Returns as soon as there is something. By the time it returns b"", the encoded bytes have been read to their
        end, with whatever follows the end of the coding, so that the connection can be used again.

        Raises:
            DecompressionError: the data is corrupt, or ended before the coding did; again if it is called again.
            BodyTooLarge: there is more than `most` allows, which has been given; likewise.
        """
        while not self._decoded:
            if self._failure is not None:
                raise self._failure
            encoded = b"" if self._has_more else self._read_encoded(ENCODED)
            if not (encoded or self._has_more):
                self._check_end()
                return b""
            self._decoded = self._decode(encoded)
            self._has_more = bool(self._decoded)
        return self._take(size)

    def _take(self, size: int) -> bytes:
        if self.most is not None:
            if self._given >= self.most:
                raise self._source.too_large(self._coding, self.most)
            size = min(size, self.most - self._given)
        piece = self._decoded[self._taken : self._taken + size]
        self._given += len(piece)
        self._taken += len(piece)
        if self._taken == len(self._decoded):
            self._decoded, self._taken = b"", 0
        return piece

    def _decode(self, encoded: bytes) -> bytes:
        try:
            return self._codec.decode(encoded)
        except self._codec.errors as error:
            # Kept: what a codec does after an error is anybody's guess, and the body must not seem to go on or end.
            self._failure = self._source.failure(
                f"the body does not decode as {self._coding}, which its Content-Encoding names: {error}; {ADVICE}"
            )
            raise self._failure from error

    def _check_end(self) -> None:
        # An answer to HEAD, a 204 and a 304 name a coding and have no body.
        if self._source.count and not self._codec.is_complete:
            raise self._source.failure(f"the body ended before its {self._coding} data did; ask again, or {ADVICE}")


class _Source:
    """Where the encoded bytes of a whole stack come from."""

    def __init__(self, read: Read, where: str) -> None:
        self._read = read
        self._where = where
        self.count = 0  # bytes read

    def read(self, size: int) -> bytes:
        piece = self._read(size)
        self.count += len(piece)
        return piece

    def failure(self, message: str) -> DecompressionError:
        return DecompressionError(f"{self._where}: {message}", phase="body", bytes_received=self.count)

    def too_large(self, coding: str, most: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"{self._where}: the response has more than the {most} bytes that max_body allows, once its {coding} is "
            f"undone: it is what its first {self.count} bytes come to, and the connection is closed; raise max_body, "
            "or read `raw`, which does not decode",
            phase="body",
            bytes_received=self.count,
        )


class _Codec(Protocol):
    """One coding, step by step."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What `decode` raises for data that is corrupt."""

    @property
    def is_complete(self) -> bool:
        """Whether the data may end here."""

    def decode(self, data: bytes) -> bytes:
        """Some of what `data` decodes to. To be called with b"" after any that gave something, as it may have more,
        in its own buffers too; b"" asks for more data."""


class _Gzip:
    """Members one behind another (RFC 1952, section 2.2). What follows the last one, zeros or anything else that does
    not begin like a member, is ignored, as gzip(1) and urllib3 do."""

    errors = (zlib.error,)

    def __init__(self) -> None:
        self._member = zlib.decompressobj(GZIP)
        self._rest = b""  # what follows a member; once it was told to be none, no more of it is kept

    @property
    def is_complete(self) -> bool:
        return self._member.eof

    def decode(self, data: bytes) -> bytes:
        while True:
            if self._member.eof:
                if not self._begins_member(data):
                    return b""
                data, self._rest = self._rest, b""
                self._member = zlib.decompressobj(GZIP)
            piece = _inflate(self._member, data)
            if self._member.eof:
                self._rest = self._member.unused_data
            # An empty member gives nothing, and there may be another behind it.
            if piece or not self._member.eof:
                return piece
            data = b""

    def _begins_member(self, data: bytes) -> bool:
        """Whether what follows a member is another one; False as well if it is too short to be told."""
        if len(self._rest) < len(GZIP_MAGIC):
            self._rest += data
        return self._rest.startswith(GZIP_MAGIC)


class _Deflate:
    """With zlib's wrapping (RFC 9110, section 8.4.1.2), or without, which some servers send. What follows is ignored,
    as urllib3 does."""

    errors = (zlib.error,)

    def __init__(self) -> None:
        self._head = b""
        self._stream: zlib._Decompress | None = None

    @property
    def is_complete(self) -> bool:
        return self._stream is not None and self._stream.eof

    def decode(self, data: bytes) -> bytes:
        if self._stream is None:
            self._head += data
            if len(self._head) < 2:
                return b""
            data, self._head = self._head, b""
            self._stream = zlib.decompressobj(ZLIB if _is_zlib_header(data) else RAW_DEFLATE)
        return b"" if self._stream.eof else _inflate(self._stream, data)


def _inflate(stream: zlib._Decompress, data: bytes) -> bytes:
    # There is no tail when there is data: that comes only after a step that had room left in its output.
    return stream.decompress(stream.unconsumed_tail or data, DECODED)


def _is_zlib_header(data: bytes) -> bool:
    """RFC 1950, section 2.2. As raw deflate (RFC 1951, section 3.2.4) it would begin with a stored block whose padding
    is not zero, which no encoder makes."""
    method, window_log = data[0] & 0x0F, (data[0] >> 4) + 8
    return method == 8 and window_log <= 15 and int.from_bytes(data[:2], "big") % 31 == 0


class _Brotli:
    """A single stream (RFC 7932); the decoder refuses whatever follows it."""

    def __init__(self, module: ModuleType) -> None:
        self.errors: tuple[type[Exception], ...] = (module.error,)
        self._stream: Any = module.Decompressor()

    @property
    def is_complete(self) -> bool:
        return bool(self._stream.is_finished())

    def decode(self, data: bytes) -> bytes:
        return bytes(self._stream.process(data, output_buffer_limit=DECODED))


class _Zstd:
    """Frames one behind another (RFC 8878, section 3.1)."""

    def __init__(self, new_frame: Callable[[], _Frame], error: type[Exception]) -> None:
        self.errors = (error, ValueError)
        self._new_frame = new_frame
        self._frame = new_frame()

    @property
    def is_complete(self) -> bool:
        return self._frame.eof

    def decode(self, data: bytes) -> bytes:
        while True:
            if self._frame.eof:
                data = self._frame.unused_data + data
                if not data:
                    return b""
                self._frame = self._new_frame()
            piece = self._frame.decompress(data, DECODED)
            # An empty or skippable frame gives nothing, and there may be another behind it.
            if piece or not self._frame.eof:
                return piece
            data = b""


class _Frame(Protocol):
    """One frame of zstd: what the standard library calls a ZstdDecompressor."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _ZstandardFrame:
    """The package `zstandard` in that form. Its decoder has no limit for what it gives at once, and its stream reader
    does not tell the end of a frame from the end of the data; so the decoder is fed block by block, as a block has
    128 KiB at most (RFC 8878, section 3.1.1.2.4)."""

    def __init__(self, decompressor: Any) -> None:
        self._stream: Any = decompressor.decompressobj(write_size=DECODED)
        self._data = memoryview(b"")  # not fed yet
        self._units = _units_of_frame()
        self._left = next(self._units)  # bytes to the end of the unit
        self._last = b""  # of what was fed

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Up to a block, whatever `max_length`."""
        if data:
            self._data = memoryview(data)
        piece = b""
        while self._data and not piece and not self.eof:
            part, self._data = self._data[: self._left], self._data[self._left :]
            self._last = (self._last + bytes(part[-5:]))[-5:]
            self._left -= len(part)
            if not self._left:
                self._left = self._units.send(self._last)
            piece = self._stream.decompress(part)
        return piece


def _units_of_frame() -> Generator[int, bytes, None]:
    """Divides a frame into units with at most one block each: gives the length of a unit, and is sent its last bytes,
    at most five, among which the header is that says what comes (RFC 8878, section 3.1.1)."""
    start = yield 5
    if start[1:4] == ZSTD_SKIPPABLE_MAGIC and start[0] >> 4 == 5:
        yield int.from_bytes((yield 3)[-4:], "little") or 1
    elif start[:4] != ZSTD_MAGIC:
        # A library may know the formats of before the RFC, whose blocks are not where this looks for them.
        raise ValueError("it is no frame of zstd")
    else:
        descriptor = start[4]
        window = 0 if descriptor & 0x20 else 1  # none in a single segment
        content_size = (1 - window, 2, 4, 8)[descriptor >> 6]
        dictionary_id = (0, 1, 2, 4)[descriptor & 3]
        header = (yield window + dictionary_id + content_size + 3)[-3:]
        while True:
            block = int.from_bytes(header, "little")
            content = 1 if (block >> 1) & 3 == 1 else block >> 3  # of a run there is one byte
            if block & 1:  # the last one
                break
            header = (yield content + 3)[-3:]
        yield content + (4 if descriptor & 4 else 0) or 1
    # The decoder has seen the end by now. If ever it has not, single bytes cannot make it give much.
    while True:
        yield 1


def _codec_of(coding: str) -> Callable[[], _Codec] | None:
    """What makes the codec for a coding, by its name in lower case; None if it is not known here."""
    if coding in ("gzip", "x-gzip"):  # the same (RFC 9110, section 8.4.1.3)
        return _Gzip
    if coding == "deflate":
        return _Deflate
    if coding == "br":
        return _brotli()
    return _zstd() if coding == "zstd" else None


@functools.cache
def _brotli() -> Callable[[], _Codec] | None:
    for name in ("brotli", "brotlicffi"):
        module = _module(name)
        # Version 1.2 of either has it, and the limit with it. Before that, one small piece may become gigabytes.
        if module is not None and hasattr(module.Decompressor, "can_accept_more_data"):
            return functools.partial(_Brotli, module)
    return None


@functools.cache
def _zstd() -> Callable[[], _Codec] | None:
    if (module := _module("compression.zstd")) is not None:  # Python 3.14
        options = {module.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        new_frame = functools.partial(module.ZstdDecompressor, options=options)
        return functools.partial(_Zstd, new_frame, module.ZstdError)
    if (module := _module("zstandard")) is not None:
        return functools.partial(_zstandard, module)
    return None


def _zstandard(module: ModuleType) -> _Zstd:
    # One for all frames of a body: it takes twenty times as long to make as a small frame to decode.
    decompressor = module.ZstdDecompressor(max_window_size=1 << ZSTD_WINDOW_LOG)
    return _Zstd(functools.partial(_ZstandardFrame, decompressor), module.ZstdError)


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None  # an extra that is not installed, or a Python without it

"""What can stand between the two ends of a pipe: gzip, gunzip, digest, throttle, count, lines; and what a program's own
transform has to be.

Knows bytes, and for `throttle` a clock. Knows nothing of where they come from or go to, which is `pipe`'s. The names
are in lower case, as those of `itertools`. A transform is used by one thread at a time, for one stream, or for several
that follow one another.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from ..exceptions import DecompressionError

if TYPE_CHECKING:
    import hashlib

__all__ = ["Transform", "count", "digest", "gunzip", "gzip", "lines", "throttle"]

GZIP = 16 + zlib.MAX_WBITS  # how zlib is told the format

# Decoded bytes that `gunzip` makes at a time, and encoded ones that it looks at: what zlib has not consumed of these is
# copied once for every piece, which for a chunk of 256 KiB of a bomb would be most of the work.
DECODED, ENCODED = 65536, 16384

# Seconds of a `throttle`'s rate that pass at once.
STEP = 0.1


class Transform(Protocol):
    """Bytes in, bytes out.

    A third method is optional: `pieces(data: bytes) -> Iterator[bytes]`. Where a transform has it, `pipe` calls it in
    place of `process`, and hands on each piece before it asks for the next. So one that makes much out of little is
    bounded, and one that takes its time does not take it all at once. `process` then gives the same pieces joined.
    """

    def process(self, data: bytes, /) -> bytes:
        """What comes of `data`, which is never empty; b"" if there is nothing yet."""

    def finish(self) -> bytes:
        """The stream has ended: what is left."""


class gzip:
    """Compresses (RFC 1952). The same bytes always become the same: there is no time in the head.

    Used for another stream after `finish`, it makes another member.

    Args:
        level: from 0 (none) or 1 (fast) to 9 (small).

    Raises:
        ValueError: another level.
    """

    def __init__(self, level: int = 6) -> None:
        if type(level) is not int or not 0 <= level <= 9:
            raise ValueError(f"level is a number from 0 (none) to 9 (small), not {level!r}")
        self._level = level
        self._member = self._begin()

    def process(self, data: bytes, /) -> bytes:
        """See `Transform`."""
        return self._member.compress(data)

    def finish(self) -> bytes:
        """The end of the member."""
        rest = self._member.flush()
        self._member = self._begin()
        return rest

    def _begin(self) -> zlib._Compress:
        return zlib.compressobj(self._level, zlib.DEFLATED, GZIP)


class gunzip:
    """Undoes gzip: members one behind another (RFC 1952, section 2.2), between and behind which may be zeros, as
    Python's own gzip has it. Gives 64 KiB at a time, whatever the ratio.

    Raises (from its methods):
        DecompressionError: what comes is not gzip, or corrupt; it ended too early, or before it began.
    """

    def __init__(self) -> None:
        self._member: zlib._Decompress | None = None
        self._is_first = True  # no member has ended yet
        self._taken = 0  # bytes, for messages

    def pieces(self, data: bytes, /) -> Iterator[bytes]:
        """What `data` decodes to, step by step."""
        view = memoryview(data)
        for start in range(0, len(view), ENCODED):
            part = view[start : start + ENCODED]
            self._taken += len(part)
            yield from self._decode(part)

    def process(self, data: bytes, /) -> bytes:
        """All of it at once: as much as a bomb makes."""
        return b"".join(self.pieces(data))

    def finish(self) -> bytes:
        """Nothing is left.

        Raises:
            DecompressionError: no member has begun, or the last one has not ended.
        """
        if self._member is not None or self._is_first:
            raise DecompressionError(
                f"gunzip: the data ended after {self._taken} bytes, before its gzip data did; the transfer was cut, or "
                "the file is not whole"
            )
        self._is_first, self._taken = True, 0
        return b""

    def _decode(self, part: bytes | memoryview) -> Iterator[bytes]:
        while part:
            if self._member is None:
                if not self._is_first:
                    part = bytes(part).lstrip(b"\0")
                    if not part:
                        return
                self._member = zlib.decompressobj(GZIP)
            member = self._member
            while True:
                piece = self._inflate(member, part)
                if piece:
                    yield piece
                part = member.unconsumed_tail
                # With room left in the output, and no input, it holds nothing back.
                if member.eof or not (part or len(piece) == DECODED):
                    break
            if member.eof:
                part = member.unused_data
                self._member, self._is_first = None, False

    def _inflate(self, member: zlib._Decompress, part: bytes | memoryview) -> bytes:
        try:
            return member.decompress(part, DECODED)
        except zlib.error as error:
            raise DecompressionError(
                f"gunzip: not gzip, or corrupt, within the first {self._taken} bytes: {error}; was it compressed, and "
                "was its content coding undone already?"
            ) from error


class digest:
    """Passes bytes through, and knows their checksum; that of all bytes, if it is used for several streams.

    Args:
        name: as for `hashlib.new`.

    Raises:
        ValueError: there is no such function, or one without a fixed length.

    Attributes:
        name: of the function, as hashlib calls it.
    """

    def __init__(self, name: str = "sha256") -> None:
        import hashlib  # late: it brings OpenSSL's library, 2 ms

        self._hash: hashlib._Hash = hashlib.new(name)
        if not self._hash.digest_size:
            raise ValueError(f"{name!r} makes digests of any length; take one whose length is fixed, as 'sha3_256'")
        self.name = self._hash.name

    def process(self, data: bytes, /) -> bytes:
        """See `Transform`."""
        self._hash.update(data)
        return data

    def finish(self) -> bytes:
        """Nothing."""
        return b""

    def digest(self) -> bytes:
        """Of the bytes so far."""
        return self._hash.digest()

    def hexdigest(self) -> str:
        """The same in hexadecimal."""
        return self._hash.hexdigest()


class throttle:
    """Passes bytes through at a limited rate: in pieces of a tenth of a second's bytes, at least one byte, each of
    which waits for its moment. What was not used while nobody wrote is lost, but for a tenth of a second, which makes
    up for a sleep that lasts too long.

    Args:
        bytes_per_second: more than 0.
        clock: seconds that never go back.
        sleep: waits for so many seconds.

    Raises:
        ValueError, TypeError: another rate.
    """

    def __init__(
        self,
        bytes_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if isinstance(bytes_per_second, bool) or not isinstance(bytes_per_second, int | float):
            raise TypeError(f"bytes_per_second is a number, not {bytes_per_second!r}")
        if not 0 < bytes_per_second < math.inf:
            raise ValueError(f"bytes_per_second is more than 0 and finite, not {bytes_per_second!r}")
        # Never changes.
        self._rate = bytes_per_second
        self._size = max(1, int(bytes_per_second * STEP))
        self._clock = clock
        self._sleep = sleep
        self._due = -math.inf  # the moment from which the next byte may pass

    def pieces(self, data: bytes, /) -> Iterator[bytes]:
        """`data`, piece by piece, each when it may pass."""
        for start in range(0, len(data), self._size):
            piece = data[start : start + self._size]
            self._wait(len(piece))
            yield piece

    def process(self, data: bytes, /) -> bytes:
        """All of it, when the last piece may pass."""
        return b"".join(self.pieces(data))

    def finish(self) -> bytes:
        """Nothing."""
        return b""

    def _wait(self, size: int) -> None:
        now = self._clock()
        if self._due > now:
            self._sleep(self._due - now)
            now = self._clock()
        self._due = max(self._due, now - STEP) + size / self._rate


class count:
    """Passes bytes through and counts them.

    Attributes:
        bytes: how many, so far.
    """

    def __init__(self) -> None:
        self.bytes = 0

    def process(self, data: bytes, /) -> bytes:
        """See `Transform`."""
        self.bytes += len(data)
        return data

    def finish(self) -> bytes:
        """Nothing."""
        return b""


class lines:
    r"""Hands on whole lines, one at a time, each with its end, LF or CR LF; the last one may have none.

    Args:
        each: called with a line; returns what is handed on in its place, or None to drop it.
        limit: the most bytes that a line may have, its end included.

    Raises:
        TypeError, ValueError: `each` cannot be called, a limit under 1. From the methods: `each` returned something
            else; a line is longer than `limit`.

    >>> shout = lines(lambda line: None if line.startswith(b"#") else line.upper())
    >>> shout.process(b"# a comment\nfirst\nsec"), shout.process(b"ond\nthi"), shout.finish()
    (b'FIRST\n', b'SECOND\n', b'THI')
    """

    def __init__(self, each: Callable[[bytes], bytes | None] | None = None, *, limit: int = 1 << 20) -> None:
        if each is not None and not callable(each):
            raise TypeError(f"each is called with a line, {each!r} cannot be")
        if type(limit) is not int or limit < 1:
            raise ValueError(f"limit is a number of bytes, at least 1, not {limit!r}")
        self._each = each
        self._limit = limit
        # A line that has no end yet, in pieces, and its size.
        self._begun: list[bytes] = []
        self._size = 0

    def pieces(self, data: bytes, /) -> Iterator[bytes]:
        """The lines that end in `data`."""
        start = 0
        while end := data.find(b"\n", start) + 1:
            self._add(data[start:end])
            start = end
            yield self._take()
        if start < len(data):
            self._add(data[start:])

    def process(self, data: bytes, /) -> bytes:
        """The same, joined."""
        return b"".join(self.pieces(data))

    def finish(self) -> bytes:
        """A last line without an end, if there is one."""
        return self._take() if self._begun else b""

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise ValueError(
                f"a line has more than {self._limit} bytes; allow more with lines(limit=), or is it no text?"
            )
        self._begun.append(part)

    def _take(self) -> bytes:
        line = self._begun[0] if len(self._begun) == 1 else b"".join(self._begun)
        self._begun, self._size = [], 0
        if self._each is None:
            return line
        made: Any = self._each(line)
        if made is None:
            return b""
        if not isinstance(made, bytes | bytearray | memoryview):
            raise TypeError(
                f"lines: {self._each!r} returned {type(made).__name__}; it returns bytes, or None to drop it"
            )
        return bytes(made)

"""The kinds of bodies and how each is sent: bytes at once, files by the kernel or in blocks, iterables piece by piece.

Knows lengths, positions and how to begin anew. Knows nothing of framing or sockets.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Protocol, cast

from ..exceptions import BodyLengthError, FileModeWarning, UnrewindableBodyError
from ..files import regular_file
from .writer import BodyWriter, Buffer

__all__ = ["Body", "BytesBody", "FileBody", "IterableBody", "body_of"]

# A block read from a file that the kernel cannot send by itself.
BLOCK = 65536


class Body(Protocol):
    """What a request carries. One that has `trailers` as well, pairs to be sent behind it, is asked for them in the
    end."""

    @property
    def length(self) -> int | None:
        """In bytes, from where it is now; None if that cannot be known."""

    @property
    def can_rewind(self) -> bool:
        """Whether `rewind` works."""

    def rewind(self) -> None:
        """Begin anew. Raises UnrewindableBodyError."""

    def send(self, writer: BodyWriter) -> bool:
        """The caller's thread, no lock held. Write it all; False if the peer has stopped the sending. What the file
        or the generator raises goes through as it is."""


class BytesBody:
    """Bytes that are there."""

    can_rewind = True

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.length = len(content)

    def rewind(self) -> None:
        pass

    def send(self, writer: BodyWriter) -> bool:
        return writer.write(self.content)


class FileBody:
    """A file object, from its current position."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._start = _position(file)
        # Asked now: what is announced before the body must hold when it is sent.
        self.length = _length(file, self._start)

    @property
    def can_rewind(self) -> bool:
        return self._start is not None

    def rewind(self) -> None:
        if self._start is None:
            raise UnrewindableBodyError(f"the body cannot be sent again: {self._file!r} has no position to return to")
        self._file.seek(self._start)

    def send(self, writer: BodyWriter) -> bool:
        left = self.length
        raw = regular_file(self._file)
        if raw is not None and left is not None and left > BLOCK:
            sent = self._send_by_kernel(writer, raw, left - BLOCK)
            if sent is not None:
                left -= sent
                if left > BLOCK:
                    return self._fell_short(writer, left)
        return self._send_blocks(writer, left)

    def _send_by_kernel(self, writer: BodyWriter, file: IO[bytes], count: int) -> int | None:
        """All but the last block: that one tells whether the file has grown."""
        start = file.tell()
        sent = writer.write_file(file.fileno(), start, count)
        if sent is not None:
            file.seek(start + sent)
        return sent

    def _fell_short(self, writer: BodyWriter, left: int) -> bool:
        """The kernel sent less than it was asked to: the peer stopped it, or the file has become shorter."""
        if self._read(1):
            return False
        raise self._too_short(writer, left)

    def _too_short(self, writer: BodyWriter, left: int) -> BodyLengthError:
        return BodyLengthError(
            f"{writer.where}: the file ended {left} bytes before the {self.length} that were announced; was it cut "
            "while it was sent?",
            phase="send",
        )

    def _send_blocks(self, writer: BodyWriter, left: int | None) -> bool:
        while True:
            # One byte more than announced, at the end, to see a file that has grown before its body is complete.
            block = self._read(BLOCK if left is None or left > BLOCK else left + 1)
            if not block:
                break
            if left is not None:
                if len(block) > left:
                    raise BodyLengthError(
                        f"{writer.where}: the file has more than the {self.length} bytes that were announced; did it "
                        "grow while it was sent? Give its bytes, or an iterable, to send what is there",
                        phase="send",
                    )
                left -= len(block)
            if not writer.write(block):
                return False
        if left:
            raise self._too_short(writer, left)
        return True

    def _read(self, size: int) -> bytes:
        block = self._file.read(size)
        if block is None:
            # Not the end: a raw file says so when it would have to wait, and a body must not end there.
            raise BlockingIOError(f"{self._file!r} does not block; a body is read from a file that does")
        return block.encode() if isinstance(block, str) else block


class IterableBody:
    """Pieces that come as they come; an empty one is skipped."""

    def __init__(self, pieces: Iterable[Buffer | str]) -> None:
        self._pieces = pieces
        self.length: int | None = None
        # An iterator is spent after one pass; a list, or an object that makes iterators, is not.
        self.can_rewind = not isinstance(pieces, Iterator)

    def rewind(self) -> None:
        if not self.can_rewind:
            raise UnrewindableBodyError("the body cannot be sent again: a generator runs only once")

    def send(self, writer: BodyWriter) -> bool:
        write: Callable[[Buffer], bool] = writer.write
        for piece in self._pieces:
            if not write(piece.encode() if isinstance(piece, str) else piece):
                return False
        return True


def body_of(data: Any) -> Body:
    """The body for what a program passed as `data=`, a form excepted."""
    if isinstance(data, str):
        return BytesBody(data.encode())
    if isinstance(data, bytes):
        return BytesBody(data)
    if isinstance(data, bytearray | memoryview):
        return BytesBody(bytes(data))
    if hasattr(data, "send") and hasattr(data, "length"):
        return cast(Body, data)  # it is one; a generator has a send() too, and no length
    if hasattr(data, "read"):
        return FileBody(data)
    if isinstance(data, Iterable):
        return IterableBody(data)
    raise TypeError(
        f"data= takes bytes, str, a file object, an iterable of bytes or a mapping, not {type(data).__name__}"
    )


def _position(file: Any) -> int | None:
    """Where it is, if it can be brought back there."""
    try:
        position = int(file.tell())
        file.seek(position)
    except (OSError, AttributeError):
        return None  # a pipe, a socket, an object with nothing but read()
    return position


def _length(file: Any, start: int | None) -> int | None:
    """Bytes from the current position to the end."""
    if isinstance(file, io.TextIOBase):
        warnings.warn(
            f"{file!r} was opened in text mode: its length in bytes is not known, so it is sent in chunks, as UTF-8; "
            "open it in binary mode",
            FileModeWarning,
            stacklevel=2,
        )
        return None
    if start is None:
        return None
    raw = regular_file(file)
    if raw is not None:
        size = os.fstat(raw.fileno()).st_size
        # The files of /proc say 0 and have something to read.
        return max(0, size - start) if size else None
    try:
        file.seek(0, io.SEEK_END)
        end = int(file.tell())  # what seek() returns is None with some
    except (OSError, ValueError):
        return None  # it seeks from the beginning only
    finally:
        file.seek(start)
    return max(0, end - start)

"""What can stand at either end of a pipe: how bytes are got out of it and into it, and how it is ended.

Knows files, responses (by their `iter_content`), iterables, bytes and functions, and refuses what is none of them.
Knows nothing of what happens between the two ends. Everything here is called by the one thread that runs the pipe.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from ..files import check_binary, regular_file, write_all

__all__ = ["CHUNK", "Buffer", "Origin", "Sink", "Source", "Target", "as_bytes", "origin_of", "target_of"]

# Bytes asked of a source at a time, and so what a pipe holds: as many as an exchange gives at once. Measured over
# loopback with the servers in processes of their own, two cores, medians in MiB/s: a download into an upload runs with
# 64 KiB at 580, with 128 KiB at 630, with these at 850, and with 512 KiB at 860; a file into an upload at 780, 980,
# 1,210 and 1,330.
CHUNK = 262144

Buffer = bytes | bytearray | memoryview


class Readable(Protocol):
    """A binary file to read from."""

    def read(self, size: int, /) -> Any: ...


class Streamed(Protocol):
    """A response, of this library or of another."""

    def iter_content(self, chunk_size: int, /) -> Iterator[Any]: ...


class Writable(Protocol):
    """A binary file to write to; an `Upload` is one."""

    def write(self, data: bytes, /) -> Any: ...


Source = Readable | Streamed | Iterable[Buffer] | Buffer
Sink = Writable | Callable[[bytes], object]

Closers = tuple[Callable[[], object], ...]


class Origin(Protocol):
    """A source, as a pipe uses it."""

    def total(self) -> int | None:
        """How many bytes will come, if that is known without reading them."""

    def chunks(self) -> Iterator[bytes]:
        """What comes, none of it empty. Nothing is read before it is asked for."""

    def closers(self) -> Closers:
        """What ends it when the pipe has failed."""


class Target(Protocol):
    """A sink, as a pipe uses it."""

    def write(self, data: bytes) -> None:
        """All of it."""

    def closers(self) -> Closers:
        """What ends it when the pipe has failed."""


def origin_of(source: Any) -> Origin:
    """Raises TypeError, io.UnsupportedOperation (a file that is not open for reading), ValueError (a closed one)."""
    if hasattr(source, "iter_content"):
        return _Response(source)
    if hasattr(source, "read"):
        check_binary(source, "reading", "pipe()")
        return _FileToRead(source)
    if isinstance(source, str):
        raise TypeError("pipe() moves bytes, and its source is a str: encode it, or open the file of that name")
    if _is_buffer(source):
        return _Bytes(source)
    if isinstance(source, Iterable):
        return _Pieces(source)
    raise TypeError(f"pipe() reads from a binary file, a response, bytes or an iterable of bytes, not {source!r}")


def target_of(sink: Any) -> Target:
    """Raises TypeError, io.UnsupportedOperation (a file that is not open for writing), ValueError (a closed one)."""
    if hasattr(sink, "write"):
        check_binary(sink, "writing", "pipe()")
        return _FileToWrite(sink)
    if callable(sink):
        return _Function(sink)
    raise TypeError(f"pipe() writes to a binary file, an upload or a function of bytes, not {sink!r}")


def as_bytes(piece: Any, whose: object) -> bytes:
    """A piece as `bytes`, which nobody changes later. Raises TypeError, naming whose it was."""
    if type(piece) is bytes:
        return piece
    try:
        return bytes(memoryview(piece))
    except TypeError:
        raise TypeError(f"a pipe moves bytes, and {whose!r} gave {type(piece).__name__}") from None


def _is_buffer(thing: Any) -> bool:
    try:
        memoryview(thing).release()
    except TypeError:
        return False
    return True


def _closers_of(*things: Any) -> Closers:
    return tuple(thing.close for thing in things if hasattr(thing, "close"))


# -------------------------------------------------------------------------------------------------------- sources


class _Response:
    """A response's body, its content codings undone."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def total(self) -> int | None:
        from ..resuming import length_of  # late: few ask

        headers = getattr(self._response, "headers", None) or {}
        return None if "content-encoding" in headers else length_of(headers)

    def chunks(self) -> Iterator[bytes]:
        for piece in self._response.iter_content(CHUNK):
            if chunk := as_bytes(piece, self._response):
                yield chunk

    def closers(self) -> Closers:
        return _closers_of(self._response)


class _FileToRead:
    """A file, from where it stands."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def total(self) -> int | None:
        if type(self._file) is io.BytesIO:
            return max(0, self._file.getbuffer().nbytes - self._file.tell())
        raw = regular_file(self._file)
        if raw is None:
            return None
        # The files of /proc say 0 and have something to read.
        size = os.fstat(raw.fileno()).st_size
        return max(0, size - raw.tell()) if size else None

    def chunks(self) -> Iterator[bytes]:
        while chunk := self._read():
            yield chunk

    def _read(self) -> bytes:
        piece = self._read_some()
        if piece is None:
            # Not the end: a raw file says so when it would have to wait, and a stream must not end there.
            raise BlockingIOError(errno.EAGAIN, f"{self._file!r} does not block; a pipe needs a file that does")
        return as_bytes(piece, self._file)

    def _read_some(self) -> Any:
        file = self._file
        if type(file) is not io.BufferedReader:  # a subclass, or a wrapper, may do something in its read()
            return file.read(CHUNK)
        # What has come by now. `read` would wait until all of a chunk has, which of a pipe, or of a server that sends a
        # line now and then, may be long.
        piece = file.read1(CHUNK)
        if not piece and not file.isatty():
            # Here b"" may mean that nothing has come yet, if the file does not block; of `read` it means the end. (A
            # terminal blocks, and asked twice would wait for a second Ctrl-D.)
            piece = file.read(1)
        return piece

    def closers(self) -> Closers:
        return _closers_of(self._file)


class _Bytes:
    """Bytes that are there."""

    def __init__(self, data: Buffer) -> None:
        view = memoryview(data)
        self._view = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())

    def total(self) -> int | None:
        return self._view.nbytes

    def chunks(self) -> Iterator[bytes]:
        for start in range(0, self._view.nbytes, CHUNK):
            yield bytes(self._view[start : start + CHUNK])

    def closers(self) -> Closers:
        return (self._view.release,)  # or a bytearray could not be resized as long as the error is kept


class _Pieces:
    """Whatever gives bytes piece by piece. They are handed on as they come, large ones too: their memory is the
    producer's, and what one piece is may matter to the sink."""

    def __init__(self, pieces: Iterable[Any]) -> None:
        self._pieces = pieces
        self._iterator: Iterator[Any] | None = None

    def total(self) -> int | None:
        return None

    def chunks(self) -> Iterator[bytes]:
        self._iterator = iter(self._pieces)
        for piece in self._iterator:
            if chunk := as_bytes(piece, self._pieces):
                yield chunk

    def closers(self) -> Closers:
        if self._iterator is self._pieces:
            return _closers_of(self._pieces)
        return _closers_of(self._iterator, self._pieces)


# ---------------------------------------------------------------------------------------------------------- sinks


class _FileToWrite:
    """A file, from where it stands."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        write_all(self._file, data, "pipe()")

    def closers(self) -> Closers:
        """An upload is aborted: to close one is to say that its body is whole."""
        if not hasattr(self._file, "abort"):
            return _closers_of(self._file)
        return () if self._is_answered() else (self._file.abort,)

    def _is_answered(self) -> bool:
        """Whether the server has answered early. There is nothing to abort then, and an answer to be read."""
        try:
            return getattr(self._file, "response", None) is not None
        except ValueError:
            return False


class _Function:
    """A function, called with the bytes."""

    def __init__(self, function: Callable[[bytes], object]) -> None:
        self._function = function

    def write(self, data: bytes) -> None:
        self._function(data)

    def closers(self) -> Closers:
        return ()

"""File objects of the program's: what is asked of one before it is used, all of a write, and what lies behind one.

Knows Python's files and what passes for one. Knows nothing of what they are used for: whoever asks says who it is, for
the errors.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import IO, Any, Literal, cast

__all__ = ["check_binary", "regular_file", "write_all"]

ABLE = {"reading": "readable", "writing": "writable"}


def check_binary(file: Any, purpose: Literal["reading", "writing"], who: str) -> None:
    """Refuse a file that is for text, or not open for this. An object that does not say is taken for what it should be.

    Raises:
        TypeError: it is one for text.
        ValueError, io.UnsupportedOperation: it is closed, or not open for `purpose`.
    """
    # Wrappers, as tempfile's, are no TextIOBase, and have the attribute.
    if isinstance(file, io.TextIOBase) or hasattr(file, "encoding"):
        raise TypeError(f"{who} takes bytes: open the file in binary mode, {file!r} is one for text")
    ask = getattr(file, ABLE[purpose], None)
    if ask is not None and not ask():
        raise io.UnsupportedOperation(f"{who} was given a file that is not open for {purpose}: {file!r}")


def write_all(file: Any, data: bytes, who: str) -> None:
    """All of `data`, in as many writes as it takes.

    Raises:
        BlockingIOError: a file that does not block takes nothing now.
        What the file raises.
    """
    left: bytes | memoryview = data  # not every file-like object takes a memoryview
    while left:
        taken = file.write(left)
        if taken is None and not isinstance(file, io.RawIOBase):
            return  # it does not count; of a raw file None means that it took nothing
        if not taken:
            raise BlockingIOError(errno.EAGAIN, f"{file!r} took nothing; {who} needs a file that blocks", 0)
        left = memoryview(left)[taken:]


def regular_file(file: Any) -> IO[bytes] | None:
    """The object whose descriptor holds the very bytes that `read()` gives: not a GzipFile, not a decrypting wrapper,
    which have a `fileno()` too; nor a subclass that counts what is read."""
    # A wrapper of tempfile's reads what it wraps; any other object with such an attribute may do something to it.
    inner = getattr(file, "file", file) if type(file).__module__ == "tempfile" else file
    raw = inner.raw if type(inner) in (io.BufferedReader, io.BufferedRandom) else inner
    if type(raw) is not io.FileIO:
        return None
    if type(inner) is io.BufferedRandom:
        inner.flush()
    if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        return None
    return cast(IO[bytes], inner)

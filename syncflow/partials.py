"""Where a download is written: a file beside its target that takes its place once it is whole, or a file that is there.

Knows names, permissions and locks of files, and what is kept of a download that failed. Knows nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import stat
from typing import Any

from .files import check_binary, write_all

__all__ = ["FileBeside", "GivenFile", "OpenedFile", "Sink", "checked_target", "sink_for"]

# Bytes that most file systems take for a name, less the dots, the digits and the ending that are put around it.
LONGEST_NAME = 255 - len("..0123456789abcdef.part")

# How often a partial file is looked for that another saver has just made its target, or removed.
CLAIMS = 3

DESCRIPTOR = re.compile(r"/dev/(std(in|out|err)|fd/\d+)|/proc/(self|thread-self|\d+)/fd/\d+")


class GivenFile:
    """A file object of the program's, written to from where it stands, and not closed.

    As of every sink: first `open`; whatever happens from there on, even in it, `complete` or `fail` comes last.

    Raises:
        TypeError: it is one for text.
        ValueError, io.UnsupportedOperation: it is closed, or not for writing.
    """

    held = 0  # bytes of the body that are in it from an earlier run

    def __init__(self, file: Any) -> None:
        check_binary(file, "writing", "save()")
        self._file = file
        self._start: int | None = None  # where it stood, if it can go back

    def open(self) -> None:
        """Raises what the file raises."""
        seekable = getattr(self._file, "seekable", None)
        if seekable is not None and seekable():
            self._start = self._file.tell()

    def write(self, data: bytes) -> None:
        """All of it. Raises what the file raises; BlockingIOError: a file that may not block takes nothing now."""
        write_all(self._file, data, "save()")

    def start_anew(self, key: str | None) -> bool:
        """Make it what it was at the beginning; False if that cannot be."""
        if self._start is None:
            return False
        try:
            self._file.seek(self._start)
            self._file.truncate()
        except (OSError, AttributeError):
            return False
        return True

    def complete(self) -> None:
        """The body is whole."""

    def fail(self, *, keep: bool) -> None:
        """It will never be. What is in the file stays there in any case."""


class OpenedFile(GivenFile):
    """What has a name and must not be replaced: /dev/null, a FIFO, /dev/stdout."""

    def __init__(self, name: str) -> None:
        # Never changes.
        self._name = name
        self._file: Any = None
        self._start = None

    def open(self) -> None:
        """Raises OSError."""
        self._file = open(self._name, "wb", buffering=0)  # noqa: SIM115  # closed by `complete` or `fail`
        super().open()

    def write(self, data: bytes) -> None:
        """All of it. Raises OSError, with its name."""
        try:
            super().write(data)
        except OSError as error:
            error.filename = error.filename or self._name
            raise

    def complete(self) -> None:
        """Close it."""
        self._file.close()

    def fail(self, *, keep: bool) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()


class FileBeside:
    """A file in the folder of its target, which takes the target's name when it is complete, and goes when it fails.

    With a key it is kept when it fails, if anything is in it, and found again by whoever has the same key. The one who
    writes holds it with flock(2): a second one, in this process or another, writes to a file of its own, and so does
    whoever finds what somebody else may have laid there (a link, another user's file).

    Args:
        target: see `checked_target`.
        name: of it, for errors.
        key: 16 hexadecimal digits that name what is to be in it; None to keep nothing.
        remove_others: whether partial files of the same target with other keys are to go.
    """

    _file: io.FileIO

    def __init__(self, target: str, name: str, key: str | None, *, remove_others: bool) -> None:
        # Never changes.
        self._target = target
        self._name = name
        self._stem = os.path.join(os.path.dirname(target), f".{_cut(os.path.basename(target))}.")
        self._remove_others = remove_others
        # The mode that open() would make or leave.
        self._mode: int | None = None
        # What it is at the moment; a file with a key may be there before, one without is made by `open`.
        self._key = key
        self._path = ""
        self._is_open = False  # and `_file` is there
        self.held = 0

    def open(self) -> None:
        """Find it or make it. Raises OSError, with the target's name."""
        with contextlib.suppress(FileNotFoundError):
            self._mode = stat.S_IMODE(os.stat(self._target).st_mode) & 0o777
        self._open(self._key)
        if self._remove_others:
            self._remove_those_with_other_keys()

    def _open(self, key: str | None) -> None:
        mode = 0o666 if self._mode is None else self._mode
        file = None
        if key is not None:
            self._key = key
            self._path = f"{self._stem}{key}.part"
            file = _claim(self._path, os.O_CREAT, mode)
        if file is None:
            self._path, self._key = f"{self._stem}{os.urandom(8).hex()}.tmp", None
            try:
                file = _open(self._path, os.O_CREAT | os.O_EXCL, mode)
            except OSError as error:
                error.filename = self._name
                raise
        self._file, self._is_open = file, True
        if self._mode is not None and stat.S_IMODE(os.fstat(file.fileno()).st_mode) != self._mode:
            os.fchmod(file.fileno(), self._mode)  # which the umask may have narrowed
        self.held = file.seek(0, os.SEEK_END)

    def write(self, data: bytes) -> None:
        """All of it. Raises OSError, with the target's name."""
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            error.filename = error.filename or self._name
            raise

    def start_anew(self, key: str | None) -> bool:
        """Empty, and for what `key` names."""
        if key != self._key:
            self._remove()
            self._open(key)
        self._file.seek(0)
        self._file.truncate()
        self.held = 0
        return True

    def _remove_those_with_other_keys(self) -> None:
        """Partial files of this target with other keys, where nobody writes to them."""
        folder, prefix = os.path.split(self._stem)
        partial = re.compile(re.escape(prefix) + r"[0-9a-f]{16}\.part")
        for name in os.listdir(folder or "."):
            path = os.path.join(folder, name)
            if partial.fullmatch(name) and path != self._path:
                file = _claim(path, 0, 0)
                if file is not None:
                    with file:
                        os.unlink(path)

    def complete(self) -> None:
        """Give it the target's name, still held: nobody may write to it any more."""
        descriptor = self._file.fileno()
        os.close(os.dup(descriptor))  # some file systems, as NFS, tell of a full disk only when a file is closed
        os.replace(self._path, self._target)
        self._is_open = False
        self._file.close()

    def fail(self, *, keep: bool) -> None:
        """Keep it, if it has a key and anything in it, or remove it. Raises nothing if it is gone already."""
        if not self._is_open:
            # `open` came to no end: it failed, or was interrupted. What has a key may be another's.
            if self._path and self._key is None:
                self._unlink()
        elif keep and self._key is not None and os.fstat(self._file.fileno()).st_size:
            self._is_open = False
            self._file.close()
        else:
            self._remove()

    def _remove(self) -> None:
        # Before it is closed, and with that let go: afterwards it may be another's.
        try:
            self._unlink()
        finally:
            self._is_open = False
            self._file.close()

    def _unlink(self) -> None:
        # It may have taken the target's place, or somebody has cleaned up.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


Sink = GivenFile | FileBeside


def checked_target(path: Any) -> tuple[str, str, bool]:
    """The file that `path` names, behind all links; the name as it was given; whether it may be replaced.

    Raises:
        IsADirectoryError: it is one.
        PermissionError: it is there, and not for writing.
    """
    name = os.fsdecode(path)
    if os.path.isdir(name) or name.endswith(os.sep):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    exists = os.path.exists(name)
    if exists and (not os.path.isfile(name) or DESCRIPTOR.fullmatch(os.path.abspath(name))):
        return name, name, False
    if exists and not os.access(name, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    return os.path.realpath(name), name, True


def sink_for(where: Any, key: str | None, *, remove_others: bool) -> Sink:
    """What to write to, not open yet.

    Args:
        where: a path or a binary file.
        key, remove_others: as of `FileBeside`.

    Raises:
        TypeError: it is neither.
        OSError: it is no file that can be written to.
    """
    if not isinstance(where, str | bytes | os.PathLike):
        if not callable(getattr(where, "write", None)):
            raise TypeError(f"save() takes a path or a binary file, not {where!r}")
        return GivenFile(where)
    target, name, replaceable = checked_target(where)
    return FileBeside(target, name, key, remove_others=remove_others) if replaceable else OpenedFile(name)


def _cut(name: str) -> str:
    while len(os.fsencode(name)) > LONGEST_NAME:
        name = name[:-1]
    return name


def _open(path: str, flags: int, mode: int) -> io.FileIO:
    return io.FileIO(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, mode), "r+")


def _claim(path: str, flags: int, mode: int) -> io.FileIO | None:
    """The partial file at `path`, held; None if it cannot be had, as where somebody else holds it."""
    for _ in range(CLAIMS):
        try:
            file = _open(path, flags, mode)
        except OSError:
            return None
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            there, here = os.stat(path, follow_symlinks=False), os.fstat(file.fileno())
        except FileNotFoundError:
            file.close()
            continue
        except OSError:  # another one holds it, or this file system has no locks
            file.close()
            return None
        if os.path.samestat(there, here) and _is_ours(here):
            return file
        file.close()
    return None


def _is_ours(status: os.stat_result) -> bool:
    """Whether nobody else can have laid it there, or sees what is written to it under another name."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1

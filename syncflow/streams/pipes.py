"""`pipe`: bytes from one end through transforms to another, one chunk at a time, so that both ends push back.

Knows the order of things, and that an error of any of them ends both ends and is raised once. What the ends are is
`ends`' to know. There is no thread, no lock and no queue: the sink takes a chunk on the caller's thread, and only then
is the source asked for the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .ends import Origin, Sink, Source, Target, as_bytes, origin_of, target_of
from .transforms import Transform

__all__ = ["pipe"]

Progress = Callable[[int, int | None], object]


def pipe(source: Source, *transforms: Transform, sink: Sink, on_progress: Progress | None = None) -> int:
    """Move all bytes of `source` through `transforms`, in this order, into `sink`.

    At the end nothing is closed and nothing finished: whoever has opened a thing ends it, so several pipes can go into
    one upload. On an error of any kind both ends are ended: a file, response or generator is closed, an upload aborted,
    unless the server has answered it early; a function is left alone, as `sink=file.write` for a file that is to stay
    open. The error is raised as it is; what goes wrong while something is being closed is added to it as a note. A file
    over an upload, as a `gzip.GzipFile`, is closed as a file: it belongs inside the upload's own block, which aborts.

    Args:
        source: a binary file, from where it stands; a response, whose body is decoded (its `raw` gives the bytes as
            they came); bytes; or an iterable of bytes, whose pieces are handed on as they are.
        transforms: see `Transform`.
        sink: a binary file or an `Upload`, or a function that is called with each piece. What has a `write` is a file.
        on_progress: called after each chunk with the bytes taken from the source so far, and how many there will be:
            the Content-Length of a body without content coding, what is left of a regular file, the length of bytes;
            else None.

    Returns:
        The number of bytes handed to the sink.

    Raises:
        TypeError: what is none of the above, or a file for text. Nothing was read, and nothing is closed; but pieces
            that are not bytes are noticed when they come.
        ValueError, io.UnsupportedOperation: a file that is closed, or not open for this; likewise.
        BlockingIOError: a file that does not block has nothing to give, or takes nothing.
        EarlyResponse: the server has answered the upload; the end of the upload's block swallows it.
        Whatever either end, a transform or `on_progress` raises.

    >>> received = bytearray()
    >>> pipe([b"some ", b"bytes"], sink=received.extend)
    10
    """
    origin, target = origin_of(source), target_of(sink)
    for transform in transforms:
        _refuse_other(transform)
    if on_progress is not None and not callable(on_progress):
        raise TypeError(f"on_progress is called with two numbers, {on_progress!r} cannot be")
    try:
        return _pump(origin, transforms, target, on_progress)
    except BaseException as error:
        try:
            _close(target.closers(), error)
        finally:
            _close(origin.closers(), error)
        raise


def _refuse_other(transform: Any) -> None:
    if isinstance(transform, type):
        raise TypeError(f"a transform is an object, and {transform.__name__} a class: call it")
    if not callable(getattr(transform, "process", None)) or not callable(getattr(transform, "finish", None)):
        raise TypeError(f"a transform has process(data) and finish(); {transform!r} has not (the sink goes as sink=)")


def _pump(origin: Origin, transforms: tuple[Transform, ...], target: Target, on_progress: Progress | None) -> int:
    mouth = _Mouth(target)
    stages: list[_Stage] = []
    push = mouth.push
    for transform in reversed(transforms):
        stages.insert(0, _Stage(transform, push))
        push = stages[0].push
    total = None if on_progress is None else origin.total()
    taken = 0
    for chunk in origin.chunks():
        push(chunk)
        taken += len(chunk)
        if on_progress is not None:
            on_progress(taken, total)
    for stage in stages:
        stage.finish()
    return mouth.count


class _Mouth:
    """Where a pipe gives its bytes to the sink, and counts them."""

    def __init__(self, target: Target) -> None:
        self._write = target.write
        self.count = 0

    def push(self, data: bytes) -> None:
        self._write(data)
        self.count += len(data)


class _Stage:
    """A transform, and what stands behind it. Nothing empty is handed on."""

    def __init__(self, transform: Transform, hand_on: Callable[[bytes], None]) -> None:
        self._transform = transform
        self._pieces: Any = getattr(transform, "pieces", None)
        self._hand_on = hand_on

    def push(self, data: bytes) -> None:
        if self._pieces is None:
            self._give(self._transform.process(data))
            return
        for piece in self._pieces(data):
            self._give(piece)

    def finish(self) -> None:
        self._give(self._transform.finish())

    def _give(self, piece: Any) -> None:
        if data := as_bytes(piece, self._transform):
            self._hand_on(data)


def _close(closers: tuple[Callable[[], object], ...], error: BaseException) -> None:
    """All of them. What they raise becomes a note, but for an interrupt, which has not been told to anybody yet."""
    for close in closers:
        try:
            close()
        except Exception as second:
            if second is not error:
                error.add_note(f"and then, while the pipe closed {_owner(close)}: {second!r}")


def _owner(method: Callable[[], object]) -> str:
    return repr(getattr(method, "__self__", method))

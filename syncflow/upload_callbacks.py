"""What an upload tells the program that drives it: that it is ready, drained, how far it is, that it has failed.

Knows which callbacks there are, what has been told already, and that none is called inside another one. Knows nothing
of how an upload is driven.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .uploads import Upload

__all__ = ["UploadCallbacks"]


class UploadCallbacks:
    """The callbacks of one upload, each called in the thread that drives it, which holds no lock.

    Args:
        on_ready: once, when the head has been sent.
        on_writable: by `Upload.run`, whenever there is room: True to go on, False when the body is complete.
        on_drain: when the buffer, having been full, has become low, and when the system has room again and nothing is
            buffered.
        on_error: once, with what ended the upload, before it is raised. A server that answers early is no error.
        on_progress: with the bytes of body that were handed to the system, and the Content-Length or None; whenever
            there are more of them.
    """

    def __init__(
        self,
        on_ready: Callable[[Upload], object] | None,
        on_writable: Callable[[Upload, int], bool] | None,
        on_drain: Callable[[Upload], object] | None,
        on_error: Callable[[BaseException], object] | None,
        on_progress: Callable[[int, int | None], object] | None,
    ) -> None:
        # Never changes.
        self._on_writable = on_writable
        self._on_ready = on_ready
        self._on_drain = on_drain
        self._on_error = on_error
        self._on_progress = on_progress
        # Guards what follows: what was told. Not held while a callback runs.
        self._lock = threading.Lock()
        self._is_telling = False
        self._is_ready_told = on_ready is None
        self._is_error_told = on_error is None
        self._drained: Callable[[], int] = int  # how often it was, until now
        self._drains_told = 0
        self._offset_told = 0

    def begin(self, drained: Callable[[], int]) -> None:
        """Once, before the upload begins: what its connection had counted before is another's."""
        self._drained = drained
        self._drains_told = drained()

    def tell(self, up: Upload) -> None:
        """The driving thread. Whatever is news; nothing while a callback runs, whose caller will look again."""
        while (news := self._next(up)) is not None:
            try:
                news()
            finally:
                self._is_telling = False

    @property
    def can_write(self) -> bool:
        """Whether there is an `on_writable`."""
        return self._on_writable is not None

    def write(self, up: Upload) -> bool:
        """The driving thread, having told all news. Have `on_writable` write; whether it wants to go on."""
        assert self._on_writable is not None
        with self._lock:
            is_first = not self._is_telling  # else another thread is at it
            self._is_telling = True
        try:
            return bool(self._on_writable(up, up.offset))
        finally:
            if is_first:
                self._is_telling = False

    def tell_error(self, error: BaseException) -> None:
        """The driving thread. The first failure only."""
        with self._lock:
            was_told, self._is_error_told = self._is_error_told, True
        if not was_told and self._on_error is not None:
            self._on_error(error)

    def _next(self, up: Upload) -> Callable[[], object] | None:
        with self._lock:
            if self._is_telling:
                return None
            news = self._news(up)
            self._is_telling = news is not None
            return news

    def _news(self, up: Upload) -> Callable[[], object] | None:
        """With the lock held, which makes it told."""
        if not self._is_ready_told:
            self._is_ready_told = True
            on_ready = self._on_ready
            return lambda: on_ready and on_ready(up)
        on_drain, on_progress, drained = self._on_drain, self._on_progress, self._drained()
        if on_drain is not None and drained != self._drains_told:
            self._drains_told = drained
            return lambda: on_drain(up)
        offset = up.offset
        if on_progress is not None and offset != self._offset_told:
            self._offset_told = offset
            return lambda: on_progress(offset, up.content_length)
        return None

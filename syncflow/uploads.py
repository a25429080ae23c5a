"""A body as a writable file: the program pushes, and is pushed back.

Knows what a program sees of such a body: blocking and non-blocking writes, by one thread or several, driven by calls or
by callbacks; the early answer, the end. Knows nothing of framing (bodies) or of how the request began (adapters).
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .adapters.writing import CONTINUE_PATIENCE, expects_continue, framing_of
from .bodies import BodyWriter
from .engine.deadline import Deadline
from .engine.turns import Turns
from .exceptions import Cancelled, EarlyResponse, RequestException, WriteTimeout
from .http1 import Head
from .models import PreparedRequest
from .responses import Response
from .routes import Route
from .upload_callbacks import UploadCallbacks

if TYPE_CHECKING:
    from .adapters import HTTPAdapter

__all__ = ["Upload"]

T = TypeVar("T")

Trailers = Mapping[str, str] | Iterable[tuple[str, str]] | None

# Seconds after which `on_writable` is asked again if it had nothing to write, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05


class Upload(io.RawIOBase):
    """A request whose body the program writes; made by `Session.upload`.

    A context manager: leaving the block ends the body and waits for the head of the answer; an exception in the block
    aborts the upload. If the server answers before the body is complete, the next `write` raises `EarlyResponse`;
    leaving the block swallows that one, and `response` has the answer.

    Any thread may write: what one call writes stays together. `abort` may be called by any thread at any moment; a
    blocked write then raises `Cancelled`. Whatever ends the upload is raised in every thread that goes on to use it.

    Attributes:
        request: the `PreparedRequest`.
        content_length: bytes that the body has to have; None if it is sent in chunks.
    """

    mode = "wb"

    def __init__(
        self,
        adapter: HTTPAdapter,
        request: PreparedRequest,
        deadline: Deadline,
        route: Route,
        answered: Callable[[Response], None],
        callbacks: UploadCallbacks | None = None,
    ) -> None:
        # Never changes.
        self.request = request
        self._adapter = adapter
        self._answered = answered  # called with the response, as soon as there is one
        self._callbacks = callbacks
        head, self._exchange = adapter.begin(request, deadline, route)
        framing = framing_of(request)
        self.content_length: int | None = framing.length
        self._writer = BodyWriter(self._exchange, framing)
        self._accept = self._writer.accept
        # Who writes, and later waits for the answer. Its lock guards what follows.
        exchange = self._exchange  # not `self`: what holds itself is not dropped at once
        self._turns = Turns(lambda: exchange.failure is not None)
        self._response: Response | None = None
        self._answered_early = False
        self._is_awaited = False  # a thread waits for the answer
        self._told: set[int] = set()  # the threads that know of a failure; each is told once
        # Written by whoever leaves the block, closes, or is refused.
        self._in_block = False
        self._is_closed = False
        self._refused = 0  # the size of the last piece for which `try_write` had no room; `wait_writable` waits for it
        if callbacks is not None:
            callbacks.begin(lambda: exchange.drained)
        self._guarded(lambda: self._begin(head.content, complete=framing.remaining == 0))

    def _begin(self, head: bytes, *, complete: bool) -> None:
        self._exchange.start(head, [], has_body=True, last=complete)
        if expects_continue(self.request):
            self._exchange.wait_for_continue(CONTINUE_PATIENCE)

    # ---------------------------------------------------------------- writing

    def write(self, data: Any) -> int:
        """Send or queue all of `data`; waits while the outgoing buffer is over its high watermark, until it is under
        the low one. Small pieces that follow one another closely go together, after two milliseconds at the latest.

        Returns:
            The number of bytes, always all of them.

        Raises:
            EarlyResponse: the server has answered; nothing more is sent.
            BodyLengthError: more than `content_length`.
            WriteTimeout, TotalTimeout: by the limits.
            Cancelled, SessionClosed: by another thread.
            ConnectionError: the connection was lost without an answer.
            ValueError: the body is finished.
            What ended the upload in another thread.
        """
        try:
            size = self._accept(data)
        except BaseException as error:  # the deadline, or an interrupt: whether the piece was taken is not known
            self._fail(error)
            raise
        if size < 0:
            self._drive(lambda: False, self._turns.take)  # raises what has stopped it
        elif not size:
            size = memoryview(data).nbytes
            self._drive(lambda: self._writer.write(data), self._turns.take)
        elif self._callbacks is not None:
            self._tell()
        return size

    def try_write(self, data: bytes | bytearray | memoryview) -> bool:
        """As `write`, but never waits: False, and nothing taken, while the buffer has no room for `data` or another
        thread writes; then `wait_writable` waits for that room.

        Raises:
            ValueError: more than the high watermark's bytes at once, which would never fit.
            As `write`.
        """
        size = self._guarded(lambda: self._accept(data))
        if size < 0:
            self._drive(lambda: False, self._turns.take)  # raises what has stopped it
        if size:
            self._refused = 0
            self._tell()
            return True
        size = memoryview(data).nbytes
        most = self._exchange.high_watermark
        if size > most:
            raise ValueError(
                f"try_write takes at most {most} bytes at once (Watermarks.high), not {size}; write() takes any number"
            )
        is_taken = False

        def step() -> bool:
            nonlocal is_taken
            is_taken = self._writer.takes(size)
            return self._writer.try_write(data) if is_taken else True

        self._drive(step, self._turns.try_take)
        self._refused = 0 if is_taken else size
        return is_taken

    def wait_writable(self, timeout: float | None = None) -> bool:
        """Wait until the buffer is under its low watermark and has room for what `try_write` refused last, or until
        there is a reason to stop waiting, which the next write raises; False when `timeout` seconds ran out first."""
        is_writable = self._guarded(lambda: self._writer.wait_writable(self._refused, timeout))
        self._tell()
        return is_writable

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was written is handed to the system.

        Raises:
            WriteTimeout: after `timeout` seconds, or by the limits. The upload can go on after the former.
            Cancelled, SessionClosed: by another thread.
        """
        if self._turns.is_over and not self._has_failed():
            return
        flushed = self._guarded(lambda: self._writer.flush(timeout))
        if self._has_failed():
            raise self._over()
        self._tell()
        if not flushed:
            raise WriteTimeout(
                f"{self._exchange.where}: {self.buffered} bytes were not handed to the system after {timeout:g} s; "
                "the upload can go on",
                request=self.request,
                phase="send",
                bytes_sent=self.offset,
            )

    def writable(self) -> bool:
        """True: this is a file to write to."""
        return True

    def tell(self) -> int:
        """Bytes of body written so far."""
        return self._writer.accepted

    @property
    def offset(self) -> int:
        """Bytes of body handed to the system so far."""
        return self._exchange.bytes_sent

    @property
    def buffered(self) -> int:
        """Bytes of body waiting to be sent."""
        return self._writer.buffered

    # ---------------------------------------------------------------- driven by callbacks

    def run(self) -> Response:
        """Drive the upload by its callbacks, in this thread, and return the response; also one that came early.

        `on_writable` is called whenever the buffer is under its low watermark. If it returns True and has written
        nothing, it is called again after a pause, which grows from 1 to 50 ms.

        Raises:
            TypeError: there is no `on_writable`.
            As `write` and `finish`; whatever a callback raises, which aborts the upload.
        """
        callbacks = self._callbacks
        if callbacks is None or not callbacks.can_write:
            raise TypeError("run() needs Session.upload(..., on_writable=...), which writes the body piece by piece")
        try:
            self._tell()
            pause = FIRST_PAUSE
            while self._has_room():
                written = self.tell()
                if not callbacks.write(self):
                    break
                if self.tell() != written:
                    pause = FIRST_PAUSE
                    continue
                self._guarded(partial(self._exchange.pause, pause))
                pause = min(2 * pause, LONGEST_PAUSE)
            return self.finish()
        except EarlyResponse as early:
            if early.response is None or early.response is not self._response:
                raise
            return early.response
        except BaseException as error:
            self._fail(error)
            raise

    def _has_room(self) -> bool:
        """Wait for room, and tell what happened meanwhile; False if the server has answered."""
        self._guarded(lambda: self._writer.wait_writable(0, None))
        self._tell()
        if not self._exchange.may_send and not self._turns.is_over:
            self._drive(lambda: False, self._turns.take)  # raises what has stopped it
        return not self._turns.is_over

    # ---------------------------------------------------------------- the end

    def finish(self, trailers: Trailers = None) -> Response:
        """End the body and wait for the head of the answer; the response again if that is done.

        Args:
            trailers: fields to send behind a chunked body (RFC 9110, section 6.5): a mapping or pairs. Announce their
                names in a Trailer header (section 6.6.2), or the server may drop them.

        Raises:
            InvalidHeader: a trailer that may not be sent, or any with a `content_length`; the upload is given up.
            BodyLengthError: less than `content_length` was written.
            As `write` and `Session.request`.
        """
        fields = list(trailers.items()) if isinstance(trailers, Mapping) else list(trailers or ())
        self._refuse_reentry()
        self._tell()
        is_first = False
        try:
            is_first = self._turns.take()
            if is_first:
                self._end_body(fields)
                self._await_response()
        except BaseException as error:
            if is_first or self._turns.is_mine:  # not the one who came second: the first goes on
                self._fail(error)
            raise
        self._wait_for_response()
        self._tell()
        return self.response

    def _end_body(self, trailers: list[tuple[str, str]]) -> None:
        """With the turn. Send the rest; whoever still wants to write is told that it is too late."""
        self._writer.finish(trailers)
        with self._turns.lock:
            self._is_awaited = True
        self._turns.end()
        if self._callbacks is not None:
            self._exchange.flush()
            self._tell()

    def _await_response(self) -> None:
        """The one thread that may: with the turn, or having ended the body."""
        response = self._received(self._exchange.wait_answered(whole=False))
        self._answered(response)
        with self._turns.lock:
            self._response = response
            self._is_awaited = False
            self._turns.changed.notify_all()

    def _received(self, head: Head) -> Response:
        response = Response.received(self.request, self._exchange, head.status, head.reason, head.fields, self._adapter)
        response._streamed = False
        return response

    def _tell_answer(self, failure: RequestException) -> None:
        """It came behind the head of an answer that nobody was given: as one that is too large."""
        if self._response is None and self._exchange.head is not None and failure.response is None:
            failure.response = self._received(self._exchange.head)

    def _wait_for_response(self) -> None:
        """Return once there is a response. A thread that came second waits for the first, which notifies it when it has
        the answer or has failed; that one's limits hold. In a forked child it does not exist, but the failure does."""
        with self._turns.lock:
            while self._is_awaited and not self._has_failed():
                self._turns.changed.wait()
        if self._response is None:
            raise self._over()

    def abort(self) -> None:
        """Any thread. Give the upload up; the connection is closed. A write that waits raises `Cancelled`."""
        self._exchange.fail(Cancelled(f"{self._exchange.where}: the upload was aborted", request=self.request))

    def close(self) -> None:
        """As `finish`, for what expects a file to be closed. Inside the upload's own block nothing more can be written
        afterwards, and the end of the block decides: so a file over this one, which closes it when an exception passes,
        does not make half a body look whole."""
        if self._in_block:
            self._is_closed = True
            self._guarded(self._writer.send_gathered)
            return
        try:
            if self._response is None and threading.get_ident() not in self._told:
                self.finish()
        finally:
            self._is_closed = True

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written. (In place of that of `io.IOBase`, whose `close` flushes first.)"""
        return self._is_closed

    @property
    def response(self) -> Response:
        """The answer, once the body is finished or the server has answered early.

        Raises:
            ValueError: there is none yet.
        """
        if self._response is None:
            raise ValueError("there is no response yet: leave the block or call finish() first")
        return self._response

    def __enter__(self) -> Upload:
        self._in_block = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:  # type: ignore[override]  # swallows one exception
        self._in_block = False
        if error is None:
            self.close()
            return False
        if self._response is None:
            self.abort()
        self._turns.end()
        self._is_closed = True
        return isinstance(error, EarlyResponse) and error.response is self._response

    def __del__(self) -> None:
        turns = getattr(self, "_turns", None)
        if turns is not None and not turns.is_over and not self._exchange.is_over:
            self._give_up("was dropped before it was finished or aborted", self)

    def _dealloc_warn(self, source: Any) -> None:
        """What a file over this one (`io.BufferedWriter`, `io.TextIOWrapper`) calls when it is dropped unclosed, before
        it writes its rest and closes this one. Inside the block that is well: the block decides. Without one nobody has
        ended the body, so it is not whole. (Behind the block it is not called: to Python's files, one that is over a
        closed one is closed as well, and what is left in it is lost.)"""
        if not self._turns.is_over and not self._in_block:
            self._give_up("was dropped, with the file over it, before it was finished or aborted", source)

    def _give_up(self, how: str, source: Any) -> None:
        self._exchange.fail_from_finalizer()
        self._turns.end()
        warnings.warn(f"{self!r} {how}", ResourceWarning, 3, source=source)

    # ---------------------------------------------------------------- shared steps

    def _drive(self, step: Callable[[], bool], take: Callable[[], bool]) -> None:
        """One step of sending in a turn that `take` gives. False from the step means that the peer has stopped the
        upload. If `take` has no turn to give, though there are some, nothing is done."""
        self._refuse_reentry()
        self._tell()
        try:
            if not take():
                if self._turns.is_over:
                    raise self._over()
                return
            if not self._is_closed and not step():
                self._await_response()
                self._answered_early = True
                self._turns.end()
                raise self._over()
            self._turns.give_back()
        except BaseException as error:
            if self._turns.is_mine:
                self._fail(error)
            raise
        if self._is_closed:
            raise ValueError("write to a closed upload")
        self._tell()

    def _refuse_reentry(self) -> None:
        if self._turns.is_mine or self._writer.is_interrupted:
            raise RuntimeError("a signal's handler must not write to the upload whose write it has interrupted")

    def _guarded(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """Whatever goes wrong in a step, or interrupts it, ends the upload: where it stood is not known. Others that
        wait for their turn, or for the answer, are woken, and find the reason."""
        self._exchange.abandon(error)
        with self._turns.lock:
            self._is_awaited = False
            self._told.add(threading.get_ident())
        self._turns.end()
        if isinstance(error, RequestException):
            error.request = error.request or self.request
            self._tell_answer(error)
        if self._callbacks is not None:
            self._callbacks.tell_error(error)

    def _has_failed(self) -> bool:
        """Whether there will be no answer; once there is one, a failure is that of its body."""
        return self._response is None and self._exchange.failure is not None

    def _tell(self) -> None:
        """The driving thread, without its turn. What a callback raises ends the upload."""
        callbacks = self._callbacks
        if callbacks is not None:
            self._guarded(lambda: callbacks.tell(self))

    def _over(self) -> Exception:
        """Why nothing more can be written. A failure is told once to every thread; it should have stopped then."""
        failure = self._exchange.failure
        if self._response is None and failure is not None:
            me = threading.get_ident()
            with self._turns.lock:
                is_told = me in self._told
                self._told.add(me)
            self._tell_answer(failure)
            if is_told:
                return ValueError(f"write to a finished upload; it has ended with {failure!r}")
            return _again(failure, self.request)
        if self._answered_early and not self._is_closed:
            status = self.response.status_code
            return EarlyResponse(
                f"{self._exchange.where}: the server answered {status} before the body was complete; nothing more is "
                "sent; see .response",
                request=self.request,
                response=self.response,
                phase="send",
                bytes_sent=self.offset,
            )
        return ValueError("write to a finished upload")


def _again(failure: RequestException, request: PreparedRequest) -> RequestException:
    """For another call or thread than the one that it struck: an exception says where it was raised."""
    error = type(failure)(
        *failure.args,
        request=request,
        response=failure.response,
        phase=failure.phase,
        bytes_sent=failure.bytes_sent,
        bytes_received=failure.bytes_received,
    )
    error.__cause__ = failure
    return error

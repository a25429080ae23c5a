"""A body as a writable file: the program pushes, and is pushed back.

Knows what a program sees of such a body: blocking and non-blocking writes, the early answer, the end. Knows nothing
of framing (bodies) or of how the request began (adapters).
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .adapters.native import CONTINUE_PATIENCE, expects_continue, framing_of
from .bodies import BodyWriter
from .engine.deadline import Deadline
from .exceptions import Cancelled, EarlyResponse, RequestException, WriteTimeout
from .models import PreparedRequest
from .responses import Response
from .routes import Route

if TYPE_CHECKING:
    from .adapters import HTTPAdapter

__all__ = ["Upload"]

T = TypeVar("T")


class Upload(io.RawIOBase):
    """A request whose body the program writes; made by `Session.upload`.

    A context manager: leaving the block ends the body and waits for the head of the answer; an exception in the block
    aborts the upload. If the server answers before the body is complete, the next `write` raises `EarlyResponse`;
    leaving the block swallows that one, and `response` has the answer.

    One thread writes at a time (others wait for it). `abort` may be called by any thread at any moment; a blocked
    write then raises `Cancelled`.
    """

    def __init__(
        self,
        adapter: HTTPAdapter,
        request: PreparedRequest,
        deadline: Deadline,
        route: Route,
        answered: Callable[[Response], None],
    ) -> None:
        # Never changes.
        self.request = request
        self._adapter = adapter
        self._answered = answered  # called with the response, as soon as there is one
        head = adapter.head(request, route)
        framing = framing_of(request)
        self._exchange = adapter.exchange(request, head, deadline, route)
        self._writer = BodyWriter(self._exchange, framing)
        # Guarded by _writing: one writer at a time. Held while it waits for the server, never needed to call it off.
        self._writing = threading.RLock()
        self._written = 0
        self._response: Response | None = None
        self._answered_early = False
        self._finished = False
        # The size of the last piece that was refused: room for it is what `wait_writable` waits for.
        self._refused = 0
        self._guarded(lambda: self._begin(head.content, complete=framing.remaining == 0))

    def _begin(self, head: bytes, *, complete: bool) -> None:
        self._exchange.start(head, [], has_body=True, last=complete)
        if expects_continue(self.request):
            self._exchange.wait_for_continue(CONTINUE_PATIENCE)

    # ---------------------------------------------------------------- writing

    def write(self, data: Any) -> int:
        """Send or queue all of `data`; waits while the outgoing buffer is over its high watermark, until it is under
        the low one.

        Returns:
            The number of bytes, always all of them.

        Raises:
            EarlyResponse: the server has answered; nothing more is sent.
            BodyLengthError: more than `content_length`.
            WriteTimeout, TotalTimeout: by the limits.
            Cancelled, SessionClosed: by another thread.
            ConnectionError: the connection was lost without an answer.
            ValueError: the body is finished.
        """
        size = memoryview(data).nbytes
        with self._writing:
            self._check_open()
            if not self._guarded(lambda: self._writer.write(data)):
                raise self._early_response()
            self._written += size
        return size

    def try_write(self, data: bytes | bytearray | memoryview) -> bool:
        """As `write`, but never waits: False, and nothing taken, while the buffer has no room for `data`; then
        `wait_writable` waits for that room.

        Raises:
            ValueError: more than the high watermark's bytes at once, which would never fit.
            As `write`.
        """
        size = memoryview(data).nbytes
        most = self._exchange.high_watermark
        if size > most:
            raise ValueError(
                f"try_write takes at most {most} bytes at once (Watermarks.high), not {size}; write() takes any number"
            )
        with self._writing:
            self._check_open()
            if not self._writer.takes(size):
                self._refused = size
                return False
            self._refused = 0
            if not self._guarded(lambda: self._writer.try_write(data)):
                raise self._early_response()
            self._written += size
            return True

    def wait_writable(self, timeout: float | None = None) -> bool:
        """Wait until the buffer is under its low watermark and has room for what `try_write` refused last, or until
        there is a reason to stop waiting, which the next write raises; False when `timeout` seconds ran out first."""
        return self._guarded(lambda: self._writer.wait_writable(self._refused, timeout))

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was written is handed to the system.

        Raises:
            WriteTimeout: after `timeout` seconds, or by the limits. The upload can go on after the former.
            Cancelled, SessionClosed: by another thread.
        """
        if self._finished:
            return
        flushed = self._guarded(lambda: self._exchange.flush(timeout))
        if self._exchange.failure is not None:
            self._await_response()  # raises it
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
        return self._written

    @property
    def offset(self) -> int:
        """Bytes of body handed to the system so far."""
        return self._exchange.bytes_sent

    @property
    def buffered(self) -> int:
        """Bytes of body waiting to be sent."""
        return self._exchange.bytes_buffered

    # ---------------------------------------------------------------- the end

    def finish(self, trailers: Iterable[tuple[str, str]] | None = None) -> Response:
        """End the body and wait for the head of the answer; the response again if that is done.

        Args:
            trailers: fields to send behind a chunked body (RFC 9110, section 6.5).

        Raises:
            BodyLengthError: less than `content_length` was written.
            As `write` and `Session.request`.
        """
        with self._writing:
            if not self._finished:
                self._guarded(lambda: self._writer.finish(trailers or ()))
                self._await_response()
            return self.response

    def abort(self) -> None:
        """Any thread. Give the upload up; the connection is closed. A write that waits raises `Cancelled`."""
        self._exchange.fail(Cancelled(f"{self._exchange.where}: the upload was aborted", request=self.request))

    def close(self) -> None:
        """As `finish`, for what expects a file to be closed."""
        try:
            if not self._finished:
                self.finish()
        finally:
            self._finished = True
            super().close()

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
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:  # type: ignore[override]  # swallows one exception
        if error is None:
            self.close()
            return False
        early = isinstance(error, EarlyResponse) and error.response is self._response
        if not early:
            self.abort()
        self._finished = True
        super().close()
        return early

    def __del__(self) -> None:
        exchange = getattr(self, "_exchange", None)
        if exchange is not None and not self._finished and not exchange.is_over:
            exchange.fail_from_finalizer()
            warnings.warn(f"{self!r} was dropped before it was finished or aborted", ResourceWarning, 2, source=self)

    # ---------------------------------------------------------------- shared steps

    def _check_open(self) -> None:
        if self._answered_early and not self.closed:
            raise self._early_response()
        if self._finished:
            raise ValueError("write to a finished upload")

    def _guarded(self, step: Callable[[], T]) -> T:
        """Whatever goes wrong in a step, or interrupts it, ends the upload: where it stood is not known."""
        try:
            return step()
        except BaseException as error:
            self._finished = True
            self._exchange.abandon(error)
            if isinstance(error, RequestException):
                error.request = error.request or self.request
            raise

    def _await_response(self) -> None:
        head = self._guarded(lambda: self._exchange.wait_answered(whole=False))
        response = Response.received(self.request, self._exchange, head.status, head.reason, head.fields, self._adapter)
        response._streamed = False
        self._response = response
        self._finished = True
        self._answered(response)

    def _early_response(self) -> EarlyResponse:
        if self._response is None:
            self._await_response()
            self._answered_early = True
        response = self.response
        return EarlyResponse(
            f"{self._exchange.where}: the server answered {response.status_code} before the body was complete; "
            "nothing more is sent; see .response",
            request=self.request,
            response=response,
            phase="send",
            bytes_sent=self.offset,
        )

"""The tries of one request: whether there is another, the wait before it, and what is told and kept of those before.

Knows what stands against sending a request again: its method, its body, its time, the policy. Knows nothing of how it
is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine.deadline import Deadline
from ..engine.outcome import StaleConnection
from ..engine.pause import Pause
from ..exceptions import RequestException, RetryError, SessionClosed
from ..logs import LOG_ONLY
from ..models import PreparedRequest
from ..responses import Response
from ..retries import IDEMPOTENT, SETTING_UP, Tries
from ..watching import Retrying, next_id

if TYPE_CHECKING:
    from .native import HTTPAdapter
    from .witness import TryWitness

__all__ = ["Trying"]


class Trying:
    """One request that has failed, or was answered with what it is not to be content with. The requesting thread's.

    Args:
        adapter: whose policy holds, who is told, and whose end ends the wait.
        request: what is to be sent again.
        deadline: of all tries.
        begun: the moment at which the first of them began: a redirect, or a login, may have come before it.
        origin: "scheme://host:port".
    """

    def __init__(
        self, adapter: HTTPAdapter, request: PreparedRequest, deadline: Deadline, begun: float, origin: str
    ) -> None:
        self._adapter = adapter
        self._origin = origin
        self._request = request
        self._deadline = deadline
        self._tries = Tries(adapter.retry, request.method, deadline.started, begun)

    @property
    def number(self) -> int:
        """Of the try that comes next, from 1."""
        return len(self._tries.made) + 1

    def after_error(self, error: RequestException, witness: TryWitness | None) -> bool:
        """Whether it is to be sent again, after `error`; then it was waited for. If not, `error` is the caller's to
        raise: a frame that it passes must not hold it, or both would stay until the next collection.

        Args:
            witness: of the try that has failed.

        Raises:
            TotalTimeout, SessionClosed, Cancelled: in the wait.
        """
        delay = self._delay_after(error)
        if delay is None:
            if self._tries.made:
                error.earlier_tries = tuple(self._tries.made)
                error.add_note(f"after {self._count()} in {self._deadline.clock() - self._deadline.started:.3g} s")
            return False
        self._begin_again(delay, witness, error=error)
        return True

    def _delay_after(self, error: RequestException) -> float | None:
        if error.request is not self._request:
            return None  # of another request, out of the body, which may be made of that one's answer
        content = self._request.content
        if isinstance(error, StaleConnection):
            if error.is_untouched:
                return 0.0
            if self._request.method in IDEMPOTENT and (content is None or content.can_rewind):
                return 0.0
        nothing_sent = error.phase in SETTING_UP
        if content is not None and not content.can_rewind and not nothing_sent:
            if self._adapter.retry is not None:
                error.add_note("not tried again: its body can be sent only once; give bytes or a file")
            return None
        delay = self._tries.delay_after(error)
        return delay if delay is None or self._has_time(delay) else None

    def after_answer(self, response: Response, witness: TryWitness | None) -> bool:
        """Whether it is to be sent again, because of the status of this answer; then it was waited for.

        Raises:
            RetryError: it was, as often as the policy allows.
            TotalTimeout, SessionClosed, Cancelled: in the wait.
        """
        content = self._request.content
        if content is not None and not content.can_rewind:
            return False
        is_used_up = self._tries.is_used_up  # before the last try is counted, for which there may be no time
        delay = self._tries.delay_after_status(response.headers)
        if delay is not None and self._has_time(delay):
            response.close()  # one that is complete is kept, and its connection
            self._begin_again(delay, witness, status=response.status_code)
            return True
        if is_used_up and self._tries.policy.raise_on_status:
            raise self._used_up(response)
        return False

    def _used_up(self, response: Response) -> RetryError:
        """Made here, because a frame that it passes must not hold it: so it goes, with the response and its connection,
        as soon as the program lets it go."""
        taken = self._deadline.clock() - self._deadline.started
        self.note(response)
        response._streamed = False  # nobody was given it, so nobody need be told if it is dropped unread
        error = RetryError(
            f"{self._where}: the server answered {response.status_code}, after {self._count()} in {taken:.3g} s; "
            "see .response and .earlier_tries, or raise the limits of Retry",
            request=self._request,
            response=response,
            phase="body",
        )
        error.earlier_tries = response.earlier_tries
        return error

    def note(self, response: Response) -> None:
        """The answer that all of it led to."""
        response.earlier_tries = tuple(self._tries.made)

    # ---------------------------------------------------------------- steps

    @property
    def _where(self) -> str:
        return self._request.target.authority

    def _count(self) -> str:
        number = len(self._tries.made)
        return f"{number} earlier {'try' if number == 1 else 'tries'}"

    def _has_time(self, delay: float) -> bool:
        at = self._deadline.at
        return at is None or self._deadline.clock() + delay < at

    def _begin_again(
        self,
        delay: float,
        witness: TryWitness | None,
        *,
        status: int | None = None,
        error: RequestException | None = None,
    ) -> None:
        request = self._request
        made = self._tries.record(self._deadline.clock(), delay, status, error)
        number = next_id() if witness is None else witness.id
        record = Retrying(number, request, self._origin, made.number, delay, status, error)
        (self._adapter.watch or LOG_ONLY).tell("retrying", record)
        try:
            self._wait(delay)
        except RequestException as ended:
            ended.request = request
            ended.earlier_tries = tuple(self._tries.made)
            raise
        if request.content is not None and request.content.can_rewind:
            request.content.rewind()

    def _wait(self, delay: float) -> None:
        """Woken by the closing of the session and by whoever calls the request off; ends by `Timeouts.total`."""
        adapter, deadline = self._adapter, self._deadline
        if delay <= 0.0:
            deadline.check(self._where, "retry")
            return
        pause = Pause(self._where, "retry")
        if deadline.cancellation is not None:
            deadline.cancellation.attend(pause.fail)
        try:
            adapter.paused.add(pause)
            pause.wait(deadline.clock() + delay, deadline, lambda: adapter.closed)
        finally:
            adapter.leave(pause)
        if adapter.closed:
            raise SessionClosed(f"{self._where}: the session was closed during the request", phase="retry")

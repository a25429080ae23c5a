"""A stream of events that outlives its connections (WHATWG HTML, section 9.2.3).

Knows when a connection counts as lost, how long to wait then, and what may not be tried again. How a request is sent is
its `Opener`'s to know; what the bytes mean, the decoder's.

Iterated by one thread at a time, which does all the work in its own waits. Each of them is ended by what comes, by a
limit, by `close`, and by the closing of the session, from any thread: in the pool, in the dialer and in the exchange
through the `Cancellation` of the stream's deadline, between two connections by `Pause`.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from ..engine.calling_off import Cancellation
from ..engine.deadline import Clock, Deadline
from ..engine.pause import Pause
from ..exceptions import (
    Cancelled,
    ChunkedEncodingError,
    ConnectionError,
    ContentTypeError,
    DecompressionError,
    EventTimeout,
    HTTPError,
    PoolTimeout,
    ProtocolError,
    ReadTimeout,
    RequestException,
    SessionClosed,
    SSLError,
    WriteTimeout,
)
from .decoder import Decoder
from .events import ServerSentEvent
from .reader import EVENT_STREAM, EventReader, media_type
from .waits import EventDeadline, delay_before

if TYPE_CHECKING:
    from ..models import PreparedRequest
    from ..responses import Response
    from ..settings import Timeouts

__all__ = ["EventStream", "Opener"]

logger = logging.getLogger("syncflow.sse")

# Seconds. The standard wants "a few"; Chromium has 3, and so have most servers in mind that name none.
RECONNECTION_TIME = 3.0

# Seconds, as what a server may ask for: an int of any size may come.
LONGEST_DELAY = 86400.0

LOST = (ConnectionError, ChunkedEncodingError, DecompressionError, ReadTimeout, WriteTimeout, PoolTimeout)

# In a TLS handshake: the server has left, which is no verdict.
CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


class Opener(Protocol):
    """What a stream asks for its connections."""

    @property
    def where(self) -> str:
        """ "host:port", for messages."""

    @property
    def request(self) -> PreparedRequest:
        """As it is first sent, for errors."""

    @property
    def is_safe(self) -> bool:
        """Whether the request may be sent again unasked (RFC 9110, section 9.2.1)."""

    @property
    def is_closed(self) -> bool:
        """Any thread. Whether the session was closed."""

    def open(self, last_event_id: str, deadline: Deadline) -> Response:
        """Send the request, and return what it leads to once the head is there."""

    def attend(self, pause: Pause) -> None:
        """It is to fail when the session is closed. It looks at `is_closed` afterwards, which is set before."""

    def leave(self, pause: Pause) -> None:
        """No longer."""


class EventStream:
    """The events of a URL, over as many connections as it takes: see `Session.sse`.

    A context manager and an iterator. It connects when it is first iterated. After an error, iterating again connects
    again, but for a request that may not be sent again; once it has ended, or was closed, there is nothing more. One
    thread at a time may iterate, any may `close`.

    Attributes:
        last_event_id: of the last event that was handed out; what the next connection is asked to go on from.
        response: the last `Response`; None before the first.
        reconnection_time: seconds to wait before connecting again, as the server has asked for by `retry`, else 3.
    """

    def __init__(
        self,
        opener: Opener,
        timeouts: Timeouts,
        *,
        last_event_id: str,
        max_reconnects: int | None,
        event_timeout: float | None,
        max_event_size: int,
        clock: Clock = time.monotonic,
    ) -> None:
        Decoder(max_event_size=max_event_size)  # raises what is wrong with it, before anything is sent
        self.last_event_id = last_event_id
        self.response: Response | None = None
        self.reconnection_time = RECONNECTION_TIME
        # Never changes.
        self._opener = opener
        self._timeouts = timeouts
        self._clock = clock
        self._ends_at = None if timeouts.total is None else clock() + timeouts.total
        self._event_timeout = event_timeout
        self._max_event_size = max_event_size
        self._most = 0 if max_reconnects is None and not opener.is_safe else max_reconnects
        self._is_sent_once = self._most == 0 and not opener.is_safe
        self._cancellation = Cancellation()
        # The iterating thread's.
        self._deadline = self._new_deadline()
        self._reader: EventReader | None = None
        self._ready: deque[ServerSentEvent] = deque()
        self._waits_since: float | None = None  # for an event
        self._is_impatient = False  # it waits until its reader's patience is over, which is before `event_timeout` is
        self._heard_at = 0.0  # anything of the server
        self._pieces = 0  # of bodies, that have come
        self._reconnects = 0  # in a row that brought no event
        self._failures = 0  # in a row
        self._due: float | None = None  # the moment to connect again
        self._has_ended = False
        # Set by any thread, never back.
        self._is_closed = False
        self._is_winding_up = False

    def open(self) -> Response:
        """Connect now, by a single try, unless it is connected: for who must know what the server answers before there
        is an event. Afterwards it is iterated as ever; an answer of 204 has ended it.

        Raises:
            SessionClosed: it was ended before, or its session wants no more streams.
            As iterating: what the try has failed with, whatever `max_reconnects` says. The body of an answer that is no
            event stream is still to be read, or closed.
        """
        if self._is_over:
            raise SessionClosed(f"{self._opener.where}: the event stream has ended; nothing was sent")
        if self._reader is None:
            self._waits_since = self._clock()
            try:
                self._connect(reads_refusal=False)
            except BaseException as error:
                self._raised(error)
                raise
        assert self.response is not None
        return self.response

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> ServerSentEvent:
        """The next event, each once and whole.

        Raises:
            EventTimeout: none came for `event_timeout` seconds. The connection stays; one that was being made does not.
            HTTPError, ContentTypeError: the server's answer is no event stream; see its `response`.
            RetryError: the same, of a session with `retries=`, once they are used up.
            TotalTimeout: of the whole stream.
            EventTooLarge, SSLError, ProtocolError, SessionClosed: in no case is it tried again by itself.
            ConnectionError, ChunkedEncodingError, DecompressionError, ReadTimeout, WriteTimeout, PoolTimeout: the
                stream was lost, and `max_reconnects` are used up.
        """
        if self._is_closed:
            raise StopIteration
        ready = self._ready
        while not ready:
            if not self._advance(None) and not ready:
                raise StopIteration
        event = ready.popleft()
        self.last_event_id = event.id
        return event

    def batch(self, patience: float | None = None) -> list[ServerSentEvent] | None:
        """All events that have come, as soon as there is something: an empty list if it was a sign of life only, as a
        comment, or nothing for `patience` seconds. None at the end. Raises as iterating does."""
        if self._is_closed:
            return None
        until = None if patience is None else self._clock() + patience
        pieces = self._pieces
        while not self._ready and self._pieces == pieces:
            if not self._advance(until):
                if self._ready:
                    break
                return None
            if until is not None and self._clock() >= until:
                break
        events = list(self._ready)
        self._ready.clear()
        if events:
            self.last_event_id = events[-1].id
        return events

    # ---------------------------------------------------------------- towards the next event

    def _advance(self, patient_until: float | None) -> bool:
        """One step: pause, connect, or read a piece. False at the end."""
        if self._is_over:
            return False
        if self._waits_since is None:
            self._waits_since = self._clock()
        try:
            self._try_step(patient_until)
        except BaseException as error:
            self._raised(error)
            raise
        if self._ready:
            self._waits_since = None
            self._reconnects = 0
        return not self._is_over

    def _try_step(self, patient_until: float | None) -> None:
        try:
            self._limit_wait(patient_until)
            self._step()
        except RequestException as error:
            self._deal_with(error)

    def _raised(self, error: BaseException) -> None:
        """The program gets `error`: if it iterates again, it begins to wait then."""
        self._waits_since = None
        if isinstance(error, RequestException):
            error.request = error.request or self._opener.request
        else:  # an interrupt; iterating again goes on from the last event
            self._give_up()
        if self._is_sent_once and self._reader is None:
            self._has_ended = True

    @property
    def _is_over(self) -> bool:
        return self._is_closed or self._is_winding_up or self._has_ended

    def _limit_wait(self, patient_until: float | None) -> None:
        """Patience is for what comes by itself: a connection that is being made is not given up for it."""
        assert self._waits_since is not None
        until = None if self._event_timeout is None else self._waits_since + self._event_timeout
        limit = f"{self._event_timeout:g} s (event_timeout)" if until is not None else ""
        self._is_impatient = (
            patient_until is not None and not self._is_connecting and (until is None or patient_until < until)
        )
        if self._is_impatient:
            until, limit = patient_until, "the patience of its reader"
        self._deadline.end_wait_at(until, limit)

    @property
    def _is_connecting(self) -> bool:
        return self._reader is None and self._due is None

    def _step(self) -> None:
        if self._reader is not None:
            self._read(self._reader)
        elif self._due is not None:
            self._pause(self._due)
            self._due = None
        else:
            self._connect()

    def _read(self, reader: EventReader) -> None:
        decoder = reader.decoder
        self.last_event_id = decoder.last_event_id  # also of an event without data, which was not handed out
        # An adapter that was written for `requests` waits as it likes, but between two waits the limits hold.
        self._deadline.check(self._opener.where, "body")
        events = reader.read()
        if decoder.retry is not None:
            self.reconnection_time = min(decoder.retry, LONGEST_DELAY * 1000) / 1000
            decoder.retry = None
        if events is None:
            self._lost(None)
        else:
            self._heard_at = self._clock()
            self._pieces += 1
            self._failures = 0
            self._ready.extend(events)

    def _connect(self, *, reads_refusal: bool = True) -> None:
        """Raises HTTPError or ContentTypeError for what is no event stream."""
        if self.response is not None:
            self.response.close()  # one that was refused, and not read, would keep its place in the pool
        self._deadline = deadline = self._new_deadline()
        self._limit_wait(None)
        self.response = response = self._opener.open(self.last_event_id, deadline)
        if self._is_closed or self._is_winding_up:  # perhaps before there was a response to close
            response.close()
            return
        if response.status_code == 204:
            response.close()
            self._has_ended = True
            return
        if response.status_code != 200 or media_type(response) != EVENT_STREAM:
            raise _refusal(response, reads=reads_refusal)
        decoder = Decoder(max_event_size=self._max_event_size, last_event_id=self.last_event_id)
        self._reader = EventReader(response, decoder)
        self._heard_at = self._clock()

    def _new_deadline(self) -> EventDeadline:
        return EventDeadline(self._timeouts, self._cancellation, self._ends_at, self._clock)

    # ---------------------------------------------------------------- when it breaks

    def _deal_with(self, error: RequestException) -> None:
        """Raise it, unless the stream goes on."""
        if self._is_closed or self._is_winding_up:
            self._give_up()
        elif isinstance(error, EventTimeout) and not self._is_connecting:
            self._notice_silence()
            if not self._is_impatient:
                raise error
        elif isinstance(error, LOST) and not _is_futile(error):
            self._lost(error)
        else:
            self._give_up()
            self._schedule(has_failed=True)
            raise error

    def _notice_silence(self) -> None:
        """Waits that are shorter than `Timeouts.read` must not hide that the server has been silent for longer."""
        read = self._timeouts.read
        if self._reader is not None and read is not None and self._clock() >= self._heard_at + read:
            what = f"{self._opener.where}: the server sent nothing for {read:g} s (Timeouts.read)"
            self._lost(ReadTimeout(what, response=self._reader.response, phase="body"))

    def _lost(self, error: RequestException | None) -> None:
        """The connection has ended, or none came about: see to the next one. Raises `error` if there is to be none."""
        self._give_up()
        delay = self._schedule(has_failed=error is not None)
        if self._most is not None and self._reconnects >= self._most:
            if error is not None:
                raise error
            self._has_ended = True
            return
        self._reconnects += 1
        how = "has ended" if error is None else f"was lost ({error})"
        level = logging.INFO if error is None else logging.WARNING
        logger.log(level, "%s: the event stream %s; connecting again in %.1f s", self._opener.where, how, delay)

    def _schedule(self, *, has_failed: bool) -> float:
        """Set the moment of the next connection; returns the seconds until then."""
        if not has_failed:
            self._failures = 0
        delay = delay_before(self._failures, self.reconnection_time)
        self._failures += has_failed
        self._due = self._clock() + delay
        return delay

    def _give_up(self) -> None:
        if self._reader is not None:
            self._reader.response.close()
            self._reader = None

    def _pause(self, until: float) -> None:
        """Woken by `close` and by the closing of the session; ends by the limits."""
        opener = self._opener
        pause = Pause(opener.where, "reconnect")
        self._cancellation.attend(pause.fail)
        try:
            opener.attend(pause)
            pause.wait(until, self._deadline, lambda: opener.is_closed)
        finally:
            opener.leave(pause)

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Any thread, any number of times. End the stream; an iteration that waits ends at once, as at the end of a
        list."""
        self._is_closed = True
        self._end("the event stream was closed")

    def wind_up(self) -> None:
        """Any thread. Its session drains: one that would connect again, and so never end, is to end now, between two
        events. Those that were decoded are still handed out; what is there of the next one is not waited for, because
        it comes again with the next connection, whosever that is, by the id of the last one. A stream that does not
        connect again ends by itself."""
        if self._most != 0:
            self._is_winding_up = True
            self._end("the event stream was ended: its session is draining")

    def _end(self, why: str) -> None:
        self._cancellation.cancel(Cancelled(f"{self._opener.where}: {why}"))
        if self.response is not None:
            self.response.close()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EventStream {self._opener.where}>"


def _is_futile(error: RequestException) -> bool:
    """Whether the next try would end as this one. A TLS handshake that was cut off says nothing of anybody's trust."""
    cause = error.__cause__
    if isinstance(error, SSLError):
        return not isinstance(cause, OSError) or (isinstance(cause, ssl.SSLError) and not isinstance(cause, CUT_OFF))
    return isinstance(error, ProtocolError)


def _refusal(response: Response, *, reads: bool) -> RequestException:
    """Why it is no event stream. Its body can be read, or was, if it `reads` the server's message."""
    where, status = response._exchange.where, response.status_code
    response._streamed = False  # nobody has asked for it, so nobody need be told if it is dropped unread
    if status != 200:
        if status >= 400 and reads:
            try:
                response.drain()  # the server's message; what is wrong with it is of no interest
            except (ChunkedEncodingError, ConnectionError, DecompressionError, ReadTimeout, EventTimeout):
                response.close()
        try:
            response.raise_for_status()
        except HTTPError as error:
            return error
        return HTTPError(
            f"{where}: the server answered {status} {response.reason}, and an event stream is a 200; see its response",
            response=response,
        )
    kind = media_type(response) or "of no Content-Type"
    return ContentTypeError(f"{where}: the answer is {kind}, not {EVENT_STREAM}; see its response", response=response)

"""Events on their way through a server: from an upstream into the body of a response.

Knows what becomes of an event, of a silence and of an error on the way, and that the upstream ends when the client
downstream has left. Knows nothing of the server, which asks for the next bytes once it has sent the last ones: so its
client pushes back on the upstream.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..exceptions import EventTooLarge
from ..settings import MAX_EVENT_SIZE
from . import upstream as upstreams
from .events import ServerSentEvent, encode
from .reader import check_media_type

if TYPE_CHECKING:
    from ..responses import Response

__all__ = ["Relay", "Transform", "relay"]

Transform = Callable[[ServerSentEvent], ServerSentEvent | Iterable[ServerSentEvent] | None]

# Seconds: "every 15 seconds or so" (WHATWG HTML, section 9.2.7).
KEEP_ALIVE = 15.0

# It says nothing, and shows whether the client is still there.
COMMENT = b":\n\n"

# Two ends of lines. Neither is to be cut, for CR LF is one.
_blank_line = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_are_comments = re.compile(rb"(?::[^\r\n]*(?>\r\n|\n|\r))+").fullmatch


def relay(
    events: Any,
    transform: Transform | None = None,
    *,
    on_error: Callable[[Exception], ServerSentEvent | None] | None = None,
    keep_alive: float | None = KEEP_ALIVE,
) -> Relay:
    """The bytes of an event stream, for a server to send as the body of a response of type text/event-stream.

    The body of a `Response` without a `transform` is passed on as it is, unparsed, but for an event that breaks off: of
    that the client gets nothing. Whatever else is given, its events are written anew.

    Args:
        events: a `Response`, an `EventStream`, an `EventSubscription`, or any iterable of `ServerSentEvent`. It is
            closed, if it can be, when the relay ends or is closed. What a subscription has lost is told in a comment.
        transform: called with each event; returns what is sent in its place: an event, several, or None.
        on_error: called with the upstream's error; returns a last event, or None to end the stream as if it had ended
            well. Without it the error is raised: a server then breaks the response off, so that its client knows.
        keep_alive: seconds of silence after which a comment is sent, which finds out whether the client has left (the
            first one that is sent to nobody seems to arrive, the second does not); None for none. It needs an
            `EventStream` or an `EventSubscription`, where a comment comes first of all as well, because servers send
            the head of a response with its first bytes. With a `Response` comments come when the upstream sends some.

    Raises:
        ContentTypeError: the `Response` is no event stream.
        What the upstream raises, when iterated; ValueError for an event that cannot be encoded.
    """
    return Relay(events, transform, on_error, keep_alive)


class Relay(Iterator[bytes]):
    """See `relay`. One thread at a time iterates; any may `close`, which ends an iteration that waits."""

    def __init__(
        self,
        upstream: Any,
        transform: Transform | None,
        on_error: Callable[[Exception], ServerSentEvent | None] | None,
        keep_alive: float | None,
    ) -> None:
        # Never changes.
        self._upstream = upstream
        self._transform = transform
        self._on_error = on_error
        self._keep_alive = keep_alive
        self._pieces = self._relayed(_source_of(upstream, transform, keep_alive))
        # The iterating thread's.
        self._last_event_id = ""
        self._lost = 0
        self._sent_at = time.monotonic()
        # Set by any thread, never back.
        self._is_closed = False

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except BaseException:
            self.close()
            raise

    def _relayed(self, source: Iterator[Any]) -> Iterator[bytes]:
        while True:
            try:
                batch = next(source, None)
            except Exception as error:
                if not self._is_closed:  # else it is what woke this thread
                    yield from self._last_words(error)
                return
            if batch is None or self._is_closed:
                return
            piece = batch if type(batch) is bytes else self._encoded(batch)
            if piece:
                yield piece
                self._sent_at = time.monotonic()

    def _last_words(self, error: Exception) -> Iterator[bytes]:
        if self._on_error is None:
            raise error
        self.close()  # ahead of the client, who may take its time
        last = self._on_error(error)
        if last is not None:
            yield encode(last)

    def _encoded(self, events: list[ServerSentEvent]) -> bytes:
        pieces: list[bytes] = []
        lost = getattr(self._upstream, "dropped", 0)
        if lost > self._lost:
            pieces.append(b": %d events were lost\n\n" % (lost - self._lost))
            self._lost = lost
        for event in events:
            for changed in self._transformed(event):
                if self._last_event_id and not changed.id:
                    pieces.append(b"id\n")  # else the client would keep the one before
                self._last_event_id = changed.id
                pieces.append(encode(changed))
        if not pieces and (not events or self._is_silent):
            return COMMENT
        return b"".join(pieces)

    @property
    def _is_silent(self) -> bool:
        """Whether nothing was sent for long, though events may have come: the transform has dropped them."""
        return self._keep_alive is not None and time.monotonic() >= self._sent_at + self._keep_alive

    def _transformed(self, event: ServerSentEvent) -> Iterable[ServerSentEvent]:
        if self._transform is None:
            return (event,)
        changed = self._transform(event)
        if changed is None:
            return ()
        return (changed,) if isinstance(changed, ServerSentEvent) else changed

    def close(self) -> None:
        """Any thread, any number of times. End the upstream at once; a generator that another thread is in, with its
        next event. Servers call it when their client has left (PEP 3333)."""
        self._is_closed = True
        upstreams.close(self._upstream)


def _source_of(upstream: Any, transform: Transform | None, keep_alive: float | None) -> Iterator[Any]:
    """Bytes, or lists of events; an empty one is a sign of life."""
    if transform is None and upstreams.is_response(upstream):
        check_media_type(upstream)
        return _whole_events(upstream)
    source = upstreams.batches_of(upstream, lambda: keep_alive)
    return itertools.chain([COMMENT], source) if upstreams.can_be_waited_for(upstream) else source


def _whole_events(response: Response) -> Iterator[bytes]:
    """The body, cut where events end, so that the client is never given the beginning of one whose end does not come.
    Comments are not kept waiting."""
    held = b""
    for piece in response.iter_content(None):
        searched = max(0, len(held) - 3)  # the longest blank line that is not whole
        held += piece
        end = 0
        for blank_line in _blank_line.finditer(held, searched):
            end = blank_line.end()
        if end or _are_comments(held):
            end = len(held) if _are_comments(held, end) else end
            yield held[:end]
            held = held[end:]
        elif len(held) > MAX_EVENT_SIZE:
            raise EventTooLarge(
                f"{response._exchange.where}: an event of the stream is larger than {MAX_EVENT_SIZE:,} bytes",
                response=response,
            )
    if held:
        yield held  # no event, but what the upstream has sent

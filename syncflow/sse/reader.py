"""The events of one response.

Knows what kind of response they are in, and how the errors of reading them name it. Knows nothing of what comes after
its end: that is `stream`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..exceptions import ContentTypeError, EventTooLarge
from .decoder import Decoder
from .events import ServerSentEvent

if TYPE_CHECKING:
    from ..responses import Response

__all__ = ["EVENT_STREAM", "EventReader", "check_media_type", "media_type", "read_events"]

EVENT_STREAM = "text/event-stream"

# Bytes that are asked for at once; it is what comes that counts.
PIECE = 65536

# What servers send event streams as that were not told to say so; the first one is none at all.
UNNAMED = frozenset({"", "text/plain", "application/octet-stream"})


class EventReader:
    """Reads the events of a response, piece by piece. One thread."""

    def __init__(self, response: Response, decoder: Decoder) -> None:
        self.response = response
        self.decoder = decoder
        # Not by `iter_content`: an exception ends a generator for good, and after an EventTimeout it goes on.
        self._content = response._content
        if self._content is None:
            response._begin_stream()

    def read(self) -> list[ServerSentEvent] | None:
        """What the next piece of the body completes, perhaps nothing; None at the end of the body. An event that has
        not ended then is none (WHATWG HTML, section 9.2.6).

        Raises:
            EventTooLarge: see `Decoder`; the connection is closed.
            As `Response.iter_content`.
        """
        try:
            self.decoder.check()
            piece = self._next_piece()
            return self.decoder.feed(piece) if piece else None
        except EventTooLarge as error:
            located = EventTooLarge(f"{self.response._exchange.where}: {error}", phase="body")
            raise self.response._ended_by(located) from None

    def _next_piece(self) -> bytes:
        if self._content is None:
            return self.response._read(PIECE)
        piece, self._content = self._content, b""
        return piece


def read_events(response: Response, max_event_size: int) -> Iterator[ServerSentEvent]:
    """See `Response.iter_sse`."""
    check_media_type(response)
    return _events(EventReader(response, Decoder(max_event_size=max_event_size)))


def _events(reader: EventReader) -> Iterator[ServerSentEvent]:
    while (events := reader.read()) is not None:
        yield from events


def check_media_type(response: Response) -> None:
    """Raise ContentTypeError for what is something else, as a web page: it would look like a stream without events."""
    kind = media_type(response)
    if kind != EVENT_STREAM and kind not in UNNAMED:
        raise ContentTypeError(
            f"{response._exchange.where}: the response is {kind}, with the status {response.status_code}, and no "
            f"{EVENT_STREAM}; see its text",
            response=response,
        )


def media_type(response: Response) -> str:
    """The Content-Type without its parameters (RFC 9110, section 8.3.1), in lower case."""
    value: str = response.headers.get("content-type", "")
    return value.partition(";")[0].strip().lower()

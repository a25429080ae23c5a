"""Runs a ResponseParser over bytes cut in any way, and says what came of it in a form that can be compared.

Knows only the public interface of the parser.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from syncflow.http1 import END, Event, Head, MalformedMessage, ParserLimits, ResponseParser, Trailers


@dataclass
class Message:
    """What was seen of one message, 1xx included."""

    head: Head
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False


@dataclass
class Outcome:
    """What was seen of all that was fed. `error` is a class, because its words may differ between cuts."""

    messages: list[Message] = field(default_factory=list)
    error: type[Exception] | None = None
    keep_alive: bool = False
    upgraded: bool = False
    leftover: bytes = b""

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Head):
                interim = event.status < 200 and event.status != 101
                self.messages.append(Message(event, complete=interim))
            elif isinstance(event, bytes):
                assert event, "an empty piece of body"
                self.messages[-1].body += event
            elif isinstance(event, Trailers):
                self.messages[-1].trailers += event.fields
            else:
                assert event is END
                self.messages[-1].complete = True


def replay(
    pieces: Iterable[bytes], method: str = "GET", limits: ParserLimits | None = None, closed: bool = False
) -> Outcome:
    """One message, from its start() to the end of the pieces, or of the input if it is `closed` then."""
    parser = ResponseParser(limits) if limits else ResponseParser()
    outcome = Outcome()
    parser.start(method)
    try:
        for piece in pieces:
            outcome.add(parser.feed(piece))
        if closed:
            outcome.add(parser.end_of_input())
    except MalformedMessage as error:
        outcome.add(error.events)
        outcome.error = type(error)
    except Exception as error:
        outcome.error = type(error)
    outcome.keep_alive = parser.keep_alive
    outcome.upgraded, outcome.leftover = parser.upgraded, parser.leftover
    return outcome


def replay_all(pieces: Iterable[bytes]) -> Outcome:
    """One message after the other to GET requests, as long as the connection may carry another."""
    parser = ResponseParser()
    outcome = Outcome()
    parser.start("GET")
    try:
        for piece in pieces:
            data = piece
            while data:
                if parser.complete:
                    if not parser.keep_alive:
                        outcome.leftover += data
                        break
                    parser.start("GET")
                outcome.add(parser.feed(data))
                data = parser.leftover
    except MalformedMessage as error:
        outcome.add(error.events)
        outcome.error = type(error)
    outcome.keep_alive, outcome.upgraded = parser.keep_alive, parser.upgraded
    return outcome


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` cut at these places, which are taken modulo its length."""
    at = sorted({place % len(data) for place in places} - {0}) if data else []
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True) if start < end]

"""The response parser: bytes in, events out (RFC 9112, client side).

The contract of its use: `start(method)` for each request; then after every `feed()` take the events, and
after END look at `keep_alive`, `upgraded` and `leftover`. Knows no socket, no thread and no clock; not
thread-safe by itself.

    IDLE            -- start --> HEAD
    HEAD            -- head  --> HEAD (1xx), LENGTH, CHUNKED, CLOSE_DELIMITED, or IDLE (no body: END)
    LENGTH          -- all   --> IDLE (END)
    CHUNKED         -- all   --> IDLE (END)
    CLOSE_DELIMITED -- end_of_input, clean --> CLOSED (END)
    IDLE            -- end_of_input --> CLOSED;  CLOSED -- end_of_input --> CLOSED
    a message's     -- end_of_input --> FAILED (IncompleteMessage)
    a message's     -- MalformedMessage --> FAILED

`start()` is legal in IDLE, `feed()` in IDLE and in a message, `end_of_input()` in all states but FAILED.
Everything else raises InvalidState and changes nothing.
"""

from collections.abc import Callable
from enum import IntEnum

from . import framing
from .chunked import ChunkedDecoder
from .errors import IncompleteMessage, InvalidState, MalformedMessage, TooManyEmptyLines, TooManyInformational
from .events import END, Event, Head
from .grammar import find_empty_line, match_empty_lines
from .head import careful_head, check_beginning, head_too_large, plain_head
from .limits import DEFAULT_LIMITS, ParserLimits


class State(IntEnum):
    """Where a ResponseParser stands. See the table at the top of this module."""

    IDLE = 0
    HEAD = 1
    LENGTH = 2
    CHUNKED = 3
    CLOSE_DELIMITED = 4
    CLOSED = 5
    FAILED = 6


# Read often: in CPython 3.11 to look up an enum's member costs five times what a global costs.
IDLE, HEAD, LENGTH, CHUNKED, CLOSE_DELIMITED, CLOSED, FAILED = State


class ResponseParser:
    """Reads the responses that come over one connection, one after the other.

    >>> parser = ResponseParser()
    >>> parser.start("GET")
    >>> head, body, end = parser.feed(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi")
    >>> head.status, body, end, parser.keep_alive
    (200, b'hi', END, True)
    """

    __slots__ = (
        "_beginning_seen",
        "_chunked",
        "_empty_lines",
        "_held",
        "_informational",
        "_limits",
        "_method",
        "_received",
        "_state",
        "body_remaining",
        "complete",
        "keep_alive",
        "leftover",
        "started",
        "upgraded",
    )

    def __init__(self, limits: ParserLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._held = bytearray()  # a head that was cut
        self._state = IDLE
        self._reset("")

        # Read only for everybody else; plain attributes, since a property would cost more than the look.
        self.keep_alive: bool
        self.upgraded: bool
        self.leftover: bytes
        self.complete: bool
        self.body_remaining: int | None
        self.started: bool

    def start(self, method: str) -> None:
        """Await the answer to `method`, on which its framing depends. What is in `leftover` is dropped."""
        if self._state is not IDLE:
            raise InvalidState(f"start() in state {self._state.name}")
        self._reset(method)
        self._state = HEAD

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes from the peer, return what they say.

        Nothing is read past END: what follows goes to `leftover`, as does what comes while no message is
        awaited. A 1xx gives its Head, and the final Head is awaited; a 101 is final. Raises MalformedMessage,
        whose `events` are those that came before the fault.
        """
        if not data:
            raise ValueError("feed() takes no empty bytes: end_of_input() tells that the peer closed")
        events: list[Event] = []
        try:
            _FEED[self._state](self, data, events)
        except MalformedMessage as error:
            self._state = FAILED
            error.events = events
            raise
        return events

    def end_of_input(self, clean: bool = True) -> list[Event]:
        """The peer sends no more; not `clean` if that was not said properly, as by TLS without close_notify.

        That ends a close-delimited body (RFC 9112 6.3 rule 8), if it is clean (9.8: after an incomplete close
        such a response is not complete). Any other message it leaves incomplete.
        """
        state = self._state
        if state is IDLE or state is CLOSED:
            self._state = CLOSED
            return []
        if state is FAILED:
            raise InvalidState("end_of_input() after the parser has failed")
        if state is CLOSE_DELIMITED and clean:
            self._state = CLOSED
            self.complete = True
            return [END]
        self._state = FAILED
        raise self._incomplete(state)

    def _reset(self, method: str) -> None:
        self._method = method
        self._chunked: ChunkedDecoder | None = None
        self._beginning_seen = False  # the status line in `_held` was checked
        self._empty_lines = 0
        self._informational = 0
        self._received = 0  # bytes of a body that is not chunked
        self.keep_alive = False
        self.upgraded = False
        self.leftover = b""
        self.complete = False
        self.body_remaining = None
        self.started = False

    # ----------------------------------------------------------------------------------------------- the head

    def _feed_head(self, data: bytes, events: list[Event]) -> None:
        self.started = True
        rest: bytes | None = data
        while rest and self._state is HEAD:
            rest = self._read_head(rest, events)

    def _read_head(self, data: bytes, events: list[Event]) -> bytes | None:
        """Read a head if it is all there. What follows a 1xx is returned, for another head is in it."""
        if not self._held:
            end = data.find(b"\r\n\r\n")
            if end >= 0:
                head = plain_head(data, end, self._limits)
                if head is not None:
                    return self._take_head(head, data[end + 4 :], events)
        return self._read_held_head(data, events)

    def _read_held_head(self, data: bytes, events: list[Event]) -> bytes | None:
        """The careful way: a head that came in pieces, or one that is not plain."""
        held = self._held
        since = max(len(held) - 2, 0)
        held += data
        if not self._beginning_seen:
            self._skip_empty_lines()
            if held == b"\r":
                return None
            self._beginning_seen = check_beginning(held, self._limits)
        match = find_empty_line(held, since)
        if match is None:
            if len(held) > self._limits.head:
                raise head_too_large(self._limits)
            return None
        end = match.end()
        block, rest = bytes(held[:end]), bytes(held[end:])
        self._held = bytearray()
        self._beginning_seen = False
        head = plain_head(block, end - 4, self._limits) if block.endswith(b"\r\n\r\n") else None
        return self._take_head(head or careful_head(block, self._limits), rest, events)

    def _skip_empty_lines(self) -> None:
        """Drop empty lines before the status line, as RFC 9112 2.2 has servers do before the request line."""
        held = self._held
        match = match_empty_lines(held)
        assert match is not None  # the pattern matches the empty string
        self._empty_lines += held.count(b"\n", 0, match.end())
        del held[: match.end()]
        if self._empty_lines > self._limits.empty_lines:
            most = self._limits.empty_lines
            raise TooManyEmptyLines(f"more than {most} empty lines before the status line", most)

    def _take_head(self, head: Head, rest: bytes, events: list[Event]) -> bytes | None:
        if head.status < 200 and head.status != 101:
            self._informational += 1
            if self._informational > self._limits.informational:
                most = self._limits.informational
                raise TooManyInformational(f"more than {most} informational (1xx) responses", most)
            events.append(head)
            return rest
        # RFC 9112 6.3 rule 5: a response of invalid framing is discarded, so this comes before its event.
        kind, length, self.keep_alive = framing.response_framing(head, self._method, self._limits)
        events.append(head)
        if kind is framing.LENGTH:
            self.body_remaining = length
            self._state = LENGTH
            if rest or not length:
                self._feed_length(rest, events)
        elif kind is framing.CHUNKED:
            self._chunked = ChunkedDecoder(self._limits)
            self._state = CHUNKED
            self._feed_chunked(rest, events)
        elif kind is framing.CLOSE_DELIMITED:
            self._state = CLOSE_DELIMITED
            if rest:
                self._feed_close_delimited(rest, events)
        else:
            self.upgraded = kind is framing.UPGRADE
            self._end(rest, events)
        return None

    # ----------------------------------------------------------------------------------------------- the body

    def _feed_length(self, data: bytes, events: list[Event]) -> None:
        remaining = self.body_remaining
        assert remaining is not None  # known in this state
        size = len(data)
        if size < remaining:
            self.body_remaining = remaining - size
            self._received += size
            events.append(data)
            return
        self.body_remaining = 0
        if remaining:
            events.append(data[:remaining])  # the same object if that is all of it
        self._end(data[remaining:], events)

    def _feed_chunked(self, data: bytes, events: list[Event]) -> None:
        decoder = self._chunked
        assert decoder is not None  # made with the head
        rest = decoder.feed(data, events)
        if rest is not None:
            self._end(rest, events)

    def _feed_close_delimited(self, data: bytes, events: list[Event]) -> None:
        self._received += len(data)
        events.append(data)

    def _end(self, rest: bytes, events: list[Event]) -> None:
        self._state = IDLE
        self.complete = True
        self.leftover = rest
        events.append(END)

    # --------------------------------------------------------------------------------------- out of a message

    def _feed_leftover(self, data: bytes, events: list[Event]) -> None:
        self.leftover += data

    def _feed_illegally(self, data: bytes, events: list[Event]) -> None:
        raise InvalidState(f"feed() in state {self._state.name}")

    def _incomplete(self, state: State) -> IncompleteMessage:
        if state is HEAD:
            size = len(self._held)
            seen = f"after {size} bytes of the head" if size else "before the head of the response"
            return IncompleteMessage(f"the peer closed {seen}", size, in_head=True)
        if state is LENGTH:
            assert self.body_remaining is not None  # known in this state
            expected = self._received + self.body_remaining
            seen = f"after {self._received} of {expected} bytes of the body"
            return IncompleteMessage(f"the peer closed {seen}", self._received, expected)
        received = self._received if self._chunked is None else self._chunked.received
        kind = "chunked" if state is CHUNKED else "close-delimited"
        seen = f"after {received} bytes of a {kind} body, before its end"
        return IncompleteMessage(f"the peer closed {seen}", received)


# What feed() does in each state, by its number.
_FEED: tuple[Callable[[ResponseParser, bytes, list[Event]], None], ...] = (
    ResponseParser._feed_leftover,
    ResponseParser._feed_head,
    ResponseParser._feed_length,
    ResponseParser._feed_chunked,
    ResponseParser._feed_close_delimited,
    ResponseParser._feed_illegally,
    ResponseParser._feed_illegally,
)

"""What can go wrong in HTTP/1, by whose fault it is: the caller's, the peer's, or the connection's.

Knows no socket and no request: whoever drives the parser adds host, phase and request when it passes an error
on. All of them can be pickled: what is more than the message has a default and lives in the instance's dict.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .events import Event


class HTTP1Error(Exception):
    """The root of all errors of this package."""


# ----------------------------------------------------------------------------------------------- the caller's


class InvalidState(HTTP1Error, RuntimeError):
    """A call that is not legal now, such as `start()` in the middle of a message. It has changed nothing."""


class InvalidRequest(HTTP1Error, ValueError):
    """What was to be sent is not valid HTTP. Names the field, never its value, which may be a secret."""


class BodyTooLong(HTTP1Error):
    """More body than the announced `length`; `offered` counts what was framed before and this piece."""

    def __init__(self, message: str, length: int = 0, offered: int = 0) -> None:
        super().__init__(message)
        self.length = length
        self.offered = offered


class BodyTooShort(HTTP1Error):
    """The body ended after `sent` bytes of the announced `length`."""

    def __init__(self, message: str, length: int = 0, sent: int = 0) -> None:
        super().__init__(message)
        self.length = length
        self.sent = sent


# ------------------------------------------------------------------------------------------------- the peer's


class MalformedMessage(HTTP1Error):
    """The peer sent what is not HTTP/1, or what could be read in two ways. The connection is done for.

    `events` are those of the same `feed()` that came before the fault, so that what a caller gets to see does
    not depend on how the network cut the bytes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.events: list[Event] = []


class LimitExceeded(MalformedMessage):
    """The peer sent more of something than `limit`, from ParserLimits, allows. Each limit has a subclass."""

    def __init__(self, message: str, limit: int = 0) -> None:
        super().__init__(message)
        self.limit = limit


class LineTooLong(LimitExceeded):
    """The status line is over `ParserLimits.status_line`."""


class HeadTooLarge(LimitExceeded):
    """The head is over `ParserLimits.head`."""


class TooManyFields(LimitExceeded):
    """The head or the trailer section has more field lines than `ParserLimits.fields`."""


class TooManyEmptyLines(LimitExceeded):
    """More empty lines came before the status line than `ParserLimits.empty_lines`."""


class TooManyInformational(LimitExceeded):
    """More 1xx responses came before the final one than `ParserLimits.informational`."""


class ContentLengthTooLong(LimitExceeded):
    """A Content-Length has more digits than `ParserLimits.content_length_digits`."""


class ChunkSizeTooLong(LimitExceeded):
    """A chunk size has more digits than `ParserLimits.chunk_size_digits`."""


class ChunkExtensionTooLong(LimitExceeded):
    """The extensions of one chunk are over `ParserLimits.chunk_extension`."""


class TrailersTooLarge(LimitExceeded):
    """The trailer section is over `ParserLimits.trailers`."""


# ------------------------------------------------------------------------------------------- the connection's


class IncompleteMessage(HTTP1Error):
    """The peer closed before the message was complete (RFC 9112 8).

    `received` counts the bytes of the body, or of the head if the head itself is cut (`in_head`); `expected`
    is the announced length of the body, None where nothing was announced.
    """

    def __init__(
        self,
        message: str,
        received: int = 0,
        expected: int | None = None,
        in_head: bool = False,
    ) -> None:
        super().__init__(message)
        self.received = received
        self.expected = expected
        self.in_head = in_head

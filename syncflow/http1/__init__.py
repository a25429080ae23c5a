"""HTTP/1.1 from the client's side, without I/O: a serializer and a parser, bytes in, events out.

Knows RFC 9110 and 9112. Imports no socket, ssl, threading, time or selectors, and nothing else of syncflow; a
test imports it with those blocked.
"""

from .errors import (
    BodyTooLong,
    BodyTooShort,
    ChunkExtensionTooLong,
    ChunkSizeTooLong,
    ContentLengthTooLong,
    HeadTooLarge,
    HTTP1Error,
    IncompleteMessage,
    InvalidRequest,
    InvalidState,
    LimitExceeded,
    LineTooLong,
    MalformedMessage,
    TooManyEmptyLines,
    TooManyFields,
    TooManyInformational,
    TrailersTooLarge,
)
from .events import END, End, Event, Head, Trailers
from .limits import ParserLimits
from .outgoing import BodyFraming, ChunkedFraming, LengthFraming, NoBody, may_be_trailer
from .parser import ResponseParser
from .serializer import request_head

__all__ = [
    "END",
    "BodyFraming",
    "BodyTooLong",
    "BodyTooShort",
    "ChunkExtensionTooLong",
    "ChunkSizeTooLong",
    "ChunkedFraming",
    "ContentLengthTooLong",
    "End",
    "Event",
    "HTTP1Error",
    "Head",
    "HeadTooLarge",
    "IncompleteMessage",
    "InvalidRequest",
    "InvalidState",
    "LengthFraming",
    "LimitExceeded",
    "LineTooLong",
    "MalformedMessage",
    "NoBody",
    "ParserLimits",
    "ResponseParser",
    "TooManyEmptyLines",
    "TooManyFields",
    "TooManyInformational",
    "Trailers",
    "TrailersTooLarge",
    "may_be_trailer",
    "request_head",
]

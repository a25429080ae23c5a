"""Where a response ends, and whether its connection may carry another (RFC 9112 6.3 and 9.3).

Knows the rules that decide this from a head and the method it answers. Reads no bytes and keeps no state.
"""

from enum import IntEnum

from .errors import ContentLengthTooLong, MalformedMessage
from .events import Head
from .grammar import OWS, is_token, shown
from .limits import ParserLimits


class BodyKind(IntEnum):
    """How the end of a body is told."""

    NONE = 0
    LENGTH = 1
    CHUNKED = 2
    CLOSE_DELIMITED = 3
    UPGRADE = 4  # no body, and no HTTP after the head


# Read often: in CPython 3.11 to look up an enum's member costs five times what a global costs.
NONE, LENGTH, CHUNKED, CLOSE_DELIMITED, UPGRADE = BodyKind

# The lengths of the three names that matter here: most fields are passed over without lowering their name.
_LENGTHS = frozenset(map(len, ("connection", "content-length", "transfer-encoding")))


def response_framing(head: Head, method: str, limits: ParserLimits) -> tuple[BodyKind, int, bool]:
    """Kind of body, its length if that is known (else 0), and whether the connection persists after it.

    The rules of RFC 9112 6.3 in their order; a repeated field counts as one list (RFC 9110 5.3).
    """
    connection = length = codings = None
    for name, value in head.fields:
        if len(name) in _LENGTHS:
            name = name.lower()
            if name == "content-length":
                length = value if length is None else f"{length},{value}"
            elif name == "connection":
                connection = value if connection is None else f"{connection},{value}"
            elif name == "transfer-encoding":
                codings = value if codings is None else f"{codings},{value}"

    status = head.status
    if status == 101 or (method == "CONNECT" and 200 <= status < 300):
        return UPGRADE, 0, False
    persists = _persists(head.version, connection)
    if codings is not None and (length is not None or head.version == "1.0"):
        # RFC 9112 6.1: beside Content-Length, or from HTTP/1.0, it is a fault: read it, then close.
        persists = False
    if method == "HEAD" or status == 204 or status == 304:
        return NONE, 0, persists
    if codings is not None:
        if _ends_chunked(codings):
            return CHUNKED, 0, persists
        return CLOSE_DELIMITED, 0, False
    if length is not None:
        return LENGTH, _content_length(length, limits), persists
    return CLOSE_DELIMITED, 0, False


def _persists(version: str, connection: str | None) -> bool:
    """RFC 9112 9.3: "close" wins; else HTTP/1.1 persists, and HTTP/1.0 does if it says "keep-alive"."""
    if connection is None:
        return version == "1.1"
    options = connection.lower()
    if "," in options:
        listed = [option.strip(OWS) for option in options.split(",")]
        options = "close" if "close" in listed else "keep-alive" if "keep-alive" in listed else ""
    if options == "close":
        return False
    return version == "1.1" or options == "keep-alive"


def _content_length(value: str, limits: ParserLimits) -> int:
    """RFC 9112 6.3 rule 5: a list of equal numbers stands for that number, all else is an error."""
    if "," in value:
        first, *others = [item.strip(OWS) for item in value.split(",")]
        if any(other != first for other in others):
            raise MalformedMessage(f"Content-Length values that differ: {shown(value)}")
        value = first
    if not (value.isascii() and value.isdigit()):
        raise MalformedMessage(f"not a Content-Length: {shown(value)}")
    most = limits.content_length_digits
    if len(value) > most:
        raise ContentLengthTooLong(f"a Content-Length of {len(value)} digits, over the limit of {most}", most)
    return int(value)


def _ends_chunked(value: str) -> bool:
    """RFC 9112 6.1 and 7: is "chunked" the last coding? What would leave that open is an error.

    A quoted parameter may hold a comma and so be read as one coding or two: it is refused, no coding has any.
    """
    codings = [item.strip(OWS).lower() for item in value.split(",")]
    codings = [coding for coding in codings if coding]
    names = [coding.partition(";")[0].rstrip(OWS) for coding in codings]
    if not codings or '"' in value or not all(map(is_token, names)):
        raise MalformedMessage(f"not a list of transfer codings: {shown(value)}")
    if names.count("chunked") > 1:
        raise MalformedMessage(f"chunked applied more than once: {shown(value)}")
    if "chunked" in names and "chunked" not in codings:
        raise MalformedMessage(f"chunked with a parameter: {shown(value)}")
    return names[-1] == "chunked"

"""Writes the head of a request (RFC 9112 3 and 5), and refuses whatever could be read as something else.

Knows the grammar of the request line and of fields, and the rules for Host and framing fields. Adds nothing
of its own and knows nothing of URLs, bodies and connections.
"""

import re
from collections.abc import Iterable

from .errors import InvalidRequest
from .grammar import FIELD_VCHAR, OWS, TCHAR, is_token, shown

# RFC 9112 3.2: no white space, no control, no non-ASCII; what else a target may look like is for who made it.
_is_request_line = re.compile(rf"[{TCHAR}]+ [!-~]+ HTTP/1\.1").fullmatch

# A value without white space around it; an obs-fold is not among what may be sent (RFC 9112 5.2).
_VALUE = rf"(?:[{FIELD_VCHAR}](?:[\t {FIELD_VCHAR}]*[{FIELD_VCHAR}])?)?"
_is_value = re.compile(_VALUE).fullmatch
_read_back = re.compile(rf"^([{TCHAR}]++): ({_VALUE})\r\n", re.MULTILINE).findall

_LENGTHS = frozenset(map(len, ("host", "content-length", "transfer-encoding")))


def request_head(method: str, target: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """The head of a request, from the request line to the empty line.

    Raises InvalidRequest, naming the field but not its value, if any part could break out of its place, if
    Host is not there exactly once (RFC 9112 3.2), or if the framing is not clear (RFC 9112 6).

    >>> request_head("GET", "/", [("Host", "example.org")])
    b'GET / HTTP/1.1\\r\\nHost: example.org\\r\\n\\r\\n'
    """
    line = method + " " + target + " HTTP/1.1"
    if not _is_request_line(line):
        raise _request_line_error(method, target)
    pairs = [(name, value) for name, value in fields]
    lines = field_lines(pairs)
    _check_framing(pairs)
    return f"{line}\r\n{lines}\r\n".encode("latin-1")


def field_lines(pairs: list[tuple[str, str]]) -> str:
    """Names and values as field lines, each with its CRLF.

    One pattern reads back what was written, and what it reads must be what was given: then every name is a
    token, every value is one, and nothing in them can have added a line.

    >>> field_lines([("A", "1"), ("B", "")])
    'A: 1\\r\\nB: \\r\\n'
    """
    try:
        # Not an f-string: that would take bytes and numbers by their repr, and an enum's str by its name.
        lines = "".join([name + ": " + value + "\r\n" for name, value in pairs])
    except TypeError as error:
        raise _field_error(pairs) from error
    if _read_back(lines) != pairs:
        raise _field_error(pairs)
    return lines


def _check_framing(pairs: list[tuple[str, str]]) -> None:
    hosts = 0
    length = codings = None
    for name, value in pairs:
        if len(name) in _LENGTHS:
            name = name.lower()
            if name == "host":
                hosts += 1
            elif name == "content-length":
                if length is not None or not (value.isascii() and value.isdigit()):
                    raise InvalidRequest("Content-Length must be one decimal number (RFC 9110 8.6)")
                length = value
            elif name == "transfer-encoding":
                codings = value if codings is None else f"{codings},{value}"
    if hosts != 1:
        raise InvalidRequest(f"Host must be given once, not {hosts} times (RFC 9112 3.2)")
    if codings is not None:
        if length is not None:
            raise InvalidRequest("Content-Length and Transfer-Encoding exclude one another (RFC 9112 6.2)")
        names = [coding.strip(OWS).lower() for coding in codings.split(",")]
        if names[-1] != "chunked" or names.count("chunked") > 1:
            raise InvalidRequest("Transfer-Encoding must end in chunked, applied once (RFC 9112 6.1)")


def _request_line_error(method: str, target: str) -> InvalidRequest:
    if not is_token(method):
        return InvalidRequest(f"the method is not a token (RFC 9110 9.1): {shown(method)}")
    fault = "is empty, or has white space, a control or a non-ASCII character in it"
    return InvalidRequest(f"the target {fault} (RFC 9112 3.2)")


def _field_error(pairs: Iterable[tuple[object, object]]) -> InvalidRequest:
    name, value = next((name, value) for name, value in pairs if not _is_field(name, value))
    if not isinstance(name, str) or not is_token(name):
        return InvalidRequest(f"not a field name (RFC 9110 5.1): {shown(str(name))}")
    if not isinstance(value, str):
        return InvalidRequest(f"the value of field {name} is of type {type(value).__name__}, not str")
    return InvalidRequest(f"the value of field {name} {_value_fault(value)} (RFC 9110 5.5)")


def _is_field(name: object, value: object) -> bool:
    if not isinstance(name, str) or not isinstance(value, str):
        return False
    return is_token(name) is not None and _is_value(value) is not None


def _value_fault(value: str) -> str:
    if value.strip(OWS) != value:
        return "has white space around it"
    if any(ord(character) > 255 for character in value):
        return "cannot be encoded in latin-1"
    return "has a CR, LF, NUL or another control character in it"

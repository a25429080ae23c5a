"""Hypothesis strategies for responses: valid ones, the same in other words, and ones that are broken.

Knows RFC 9112; knows nothing of the parser under test.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st

# The same examples in every run: a test of this suite that fails once fails always.
REPEATABLE = settings(derandomize=True, deadline=None, max_examples=200)

METHODS = st.sampled_from(["GET", "POST", "HEAD", "CONNECT"])
TOKENS = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=12)
VALUE_CHARACTERS = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")
VALUES = st.text(VALUE_CHARACTERS, max_size=24).map(lambda value: value.strip(" \t"))
FRAMING_NAMES = ("content-length", "transfer-encoding", "connection", "upgrade", "trailer", "te")
NAMES = TOKENS.filter(lambda name: name.lower() not in FRAMING_NAMES)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=5)
BODIES = st.binary(max_size=40)


@dataclass
class Response:
    """A valid response, and what a reader should find in it."""

    status: int
    reason: str
    version: str
    fields: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]] = field(default_factory=list)
    raw: bytes = b""


@st.composite
def valid_responses(draw: st.DrawFn, method: str = "GET") -> Response:
    """A response to `method` as a careful server would send it, its body framed in one of the three ways."""
    status = draw(st.sampled_from([200, 201, 204, 206, 301, 304, 404, 500]))
    version = draw(st.sampled_from(["1.1", "1.1", "1.0"]))
    response = Response(status, draw(st.sampled_from(["OK", "Not Found", ""])), version, draw(FIELDS), b"")
    for option in draw(st.lists(st.sampled_from(["close", "keep-alive", "x"]), max_size=2, unique=True)):
        response.fields.append(("Connection", option))
    without_body = method == "HEAD" or status in (204, 304)
    framings = {"1.0": ["length", "close"], "1.1": ["length", "chunked", "close"]}[version]
    framing = "close" if status == 204 else draw(st.sampled_from(framings))  # RFC 9112 6.1, RFC 9110 8.6
    content = b""
    if not without_body:
        response.body = draw(BODIES)
        content = response.body
    if framing == "length":
        response.fields.append(("Content-Length", str(len(response.body))))
    elif framing == "chunked":
        response.fields.append(("Transfer-Encoding", "chunked"))
        if not without_body:
            response.trailers = draw(st.lists(st.tuples(TOKENS.map("x-{}".format), VALUES), max_size=2))
            content = draw(chunked(response.body, response.trailers))
    status_line = f"HTTP/{version} {status} {response.reason}\r\n"
    head = status_line + "".join(f"{name}: {value}\r\n" for name, value in response.fields) + "\r\n"
    response.raw = head.encode("latin-1") + content
    return response


@st.composite
def chunked(draw: st.DrawFn, body: bytes, trailers: list[tuple[str, str]]) -> bytes:
    """`body` in chunks of any sizes, some with extensions."""
    out, rest = b"", body
    while rest:
        size = draw(st.integers(1, len(rest)))
        digits = draw(st.sampled_from(["{:x}", "{:X}", "{:04x}"])).format(size)
        extension = draw(st.sampled_from(["", "", ";a", ";a=b", ';a="b;c";d']))
        out += f"{digits}{extension}\r\n".encode() + rest[:size] + b"\r\n"
        rest = rest[size:]
    lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
    return out + f"0\r\n{lines}\r\n".encode("latin-1")


# What a mutation puts in: the bytes that mean something to a parser.
_TELLING = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b"\x00",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"0",
        b"F",
        b"\xff",
        b"\r\n folded",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"\r\n0\r\n\r\n",
        b"5\r\nhello\r\n",
    ]
)


@st.composite
def any_responses(draw: st.DrawFn) -> tuple[str, bytes]:
    """A method, and bytes that may answer it: valid, oddly written or broken, with or without more bytes."""
    method = draw(METHODS)
    raw = draw(valid_responses(method)).raw
    interim = [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"]
    raw = b"".join(draw(st.lists(st.sampled_from(interim), max_size=2))) + raw
    raw += draw(st.sampled_from([b"", b"", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n"]))
    if draw(st.booleans()):
        raw = raw.replace(b"\r\n", b"\n", draw(st.integers(0, 8)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(raw)))
        removed = draw(st.sampled_from([0, 0, 1, 2]))
        raw = raw[:place] + draw(st.one_of(_TELLING, st.just(b""))) + raw[place + removed :]
    return method, raw


CUTS = st.lists(st.integers(0, 400), max_size=8)

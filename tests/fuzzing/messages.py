"""Targets of HTTP/1: responses and chunked bodies as a server may send them, heads of requests as a program may want
them.

Knows the parser, the serializer, and h11 as the other reader of the same bytes. Does no I/O.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import h11

from syncflow import Request, RequestException
from syncflow.adapters.writing import serialize
from syncflow.engine.origin import Origin
from syncflow.http1 import (
    ChunkedFraming,
    Head,
    IncompleteMessage,
    InvalidRequest,
    LimitExceeded,
    MalformedMessage,
    ParserLimits,
    ResponseParser,
    request_head,
)
from syncflow.http1.head import careful_head, plain_head
from syncflow.http1.limits import DEFAULT_LIMITS
from syncflow.routes import Route

from ..http1.replay import Message, Outcome, byte_by_byte, cut, replay, replay_all
from .layout import SEPARATOR, divided, places, texts

METHODS = ("GET", "HEAD", "POST", "CONNECT")
CLOSED, SMALL = 4, 8  # bits of the first number, beside the method

SMALL_LIMITS = ParserLimits(
    status_line=24,
    head=100,
    fields=3,
    empty_lines=1,
    informational=1,
    content_length_digits=2,
    chunk_size_digits=2,
    chunk_extension=6,
    trailers=24,
)


# ----------------------------------------------------------------------------------------------------- responses


def response(data: bytes) -> None:
    """Any bytes in answer to a request: read in the same way however they are cut, with documented errors only, held
    within the limits, and meaning the same when they are written anew and when h11 reads them."""
    (options, *cuts), raw = divided(data, 5)
    method = METHODS[options & 3]
    closed = bool(options & CLOSED)
    limits = SMALL_LIMITS if options & SMALL else DEFAULT_LIMITS
    whole = replay([raw] if raw else [], method, limits, closed)
    assert replay(cut(raw, places(bytes(cuts))), method, limits, closed) == whole
    assert replay(byte_by_byte(raw), method, limits, closed) == whole
    assert replay_all([raw]) == replay_all(byte_by_byte(raw))
    if whole.error is not None:
        assert issubclass(whole.error, (MalformedMessage, IncompleteMessage)), whole.error
        assert closed or whole.error is not IncompleteMessage
    if limits is SMALL_LIMITS:
        _holds_no_more_than_allowed(raw, method, limits)
    _plain_is_careful(raw, limits)
    if whole.error is None and whole.messages and all(message.complete for message in whole.messages):
        _means_the_same_again(whole, method, closed)
    if limits is DEFAULT_LIMITS:
        _h11_reads_the_same(raw, method, whole, closed)


def _holds_no_more_than_allowed(raw: bytes, method: str, limits: ParserLimits) -> None:
    chunk_line = limits.chunk_size_digits + limits.chunk_extension + 1
    most = max(limits.head, chunk_line, limits.trailers + 2)
    parser = ResponseParser(limits)
    parser.start(method)
    for piece in byte_by_byte(raw):
        try:
            parser.feed(piece)
        except MalformedMessage:
            return
        assert _held(parser) <= most


def _held(parser: ResponseParser) -> int:
    """The bytes in its attributes, and in its chunked decoder's; without what came behind the message, which is the
    caller's."""
    owners = [owner for owner in (parser, parser._chunked) if owner is not None]
    values = [getattr(owner, name) for owner in owners for name in owner.__slots__ if name != "leftover"]
    return sum(len(value) for value in values if isinstance(value, bytes | bytearray))


def _plain_is_careful(raw: bytes, limits: ParserLimits) -> None:
    """What the quick way of reading a head takes, the careful way reads in the same way."""
    end = raw.find(b"\r\n\r\n")
    head = plain_head(raw, end, limits) if end >= 0 else None
    if head is not None:
        assert careful_head(raw[: end + 4], limits) == head


def _means_the_same_again(whole: Outcome, method: str, closed: bool) -> None:
    """Whatever was repaired in reading: written without a need for it, and read again, it is the same."""
    raw = b"".join(_written(message, method) for message in whole.messages)
    assert replay([raw], method, closed=closed) == replace(whole, leftover=b"")


def _written(message: Message, method: str) -> bytes:
    head = message.head
    lines = [f"HTTP/{head.version} {head.status} {head.reason}", *map(": ".join, head.fields)]
    raw = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")
    chunked = any(name.lower() == "transfer-encoding" and _ends_chunked(value) for name, value in head.fields)
    is_tunnel = method == "CONNECT" and 200 <= head.status < 300
    if not chunked or method == "HEAD" or is_tunnel or head.status < 200 or head.status in (204, 304):
        return raw + message.body
    chunk = b"%x\r\n%b\r\n" % (len(message.body), message.body) if message.body else b""
    return (
        raw + chunk + "".join(f"{line}\r\n" for line in ["0", *map(": ".join, message.trailers), ""]).encode("latin-1")
    )


def _ends_chunked(value: str) -> bool:
    return value.rpartition(",")[2].strip(" \t").lower() == "chunked"


# ----------------------------------------------------------------------------------------------------- h11

# h11 gives these back as it has understood them, not as they came.
_FRAMING = ("content-length", "transfer-encoding")


def _h11_reads_the_same(raw: bytes, method: str, whole: Outcome, closed: bool) -> None:
    """What both take, both read in the same way: where the body ends above all. And what needs no repair both take; of
    all else one may refuse what the other repairs, for RFC 9112 leaves much of that open."""
    if whole.upgraded:
        return
    try:
        theirs, rest = _read_by_h11(raw, method, closed)
    except h11.RemoteProtocolError:
        assert not _needs_no_repair(raw, method, whole.messages) or whole.error or _h11_is_stricter(whole), raw
        return
    if whole.error is not None:
        refused_rightly = issubclass(whole.error, LimitExceeded) or theirs is None
        assert refused_rightly or not _needs_no_repair(raw, method, [theirs]), raw
        return
    ours = whole.messages[-1] if whole.messages and whole.messages[-1].head.status >= 200 else None
    assert (theirs is None) is (ours is None)
    if ours is not None and theirs is not None:
        assert _comparable(theirs) == _comparable(ours)
        assert not ours.complete or rest == whole.leftover


def _needs_no_repair(raw: bytes, method: str, messages: list[Message]) -> bool:
    """Whether it is as a careful server would write it."""
    is_whole = bool(messages) and all(message.complete for message in messages)
    return is_whole and raw.startswith(b"".join(_written(message, method) for message in messages))


def _h11_is_stricter(whole: Outcome) -> bool:
    """It refuses all codings but chunked, and two of the control characters, which it takes for white space."""
    lines = [
        line
        for message in whole.messages
        for line in [("", message.head.reason), *message.head.fields, *message.trailers]
    ]
    codings = [value.lower() for name, value in lines if name.lower() == "transfer-encoding"]
    return codings not in ([], ["chunked"]) or any(re.search("[\v\f]", value) for _, value in lines)


def _read_by_h11(raw: bytes, method: str, closed: bool) -> tuple[Message | None, bytes]:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="example.org:80", headers=[("Host", "example.org:80")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    if closed:
        connection.receive_data(b"")
    message: Message | None = None
    while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        if isinstance(event, h11.Response):
            version = "1.0" if event.http_version == b"1.0" else "1.1"
            head = Head(event.status_code, event.reason.decode("latin-1"), version, _fields(event.headers))
            message = Message(head)
        elif isinstance(event, h11.Data):
            assert message is not None
            message.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert message is not None
            message.trailers, message.complete = _fields(event.headers), True
            break
    return message, connection.trailing_data[0]


def _fields(headers: Any) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.raw_items()]


def _comparable(message: Message) -> Any:
    """Without what h11 has its own ways with: how the lines of a folded value are joined."""
    fields = [
        (name, re.sub("[ \t]+", " ", value).strip(" "))
        for name, value in message.head.fields
        if name.lower() not in _FRAMING
    ]
    trailers = [(name, re.sub("[ \t]+", " ", value).strip(" ")) for name, value in message.trailers]
    head = message.head
    return head.status, head.reason, head.version, fields, message.body, trailers, message.complete


# ----------------------------------------------------------------------------------------------------- chunks

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)[\t ]*(?:;[^\r\n]*)?\r\n")
_TRAILERS = re.compile(rb"((?:[^\n]*[^\r\n][^\n]*\n)*)\r?\n")


def chunks(data: bytes) -> None:
    """A chunked body: what is taken as a whole one, a reader that knows where lines and chunks end and nothing else
    takes as well, and finds the same in it; and what `ChunkedFraming` writes is read as it was meant."""
    (options, *cuts), stream = divided(data, 5)
    limits = replace(SMALL_LIMITS, status_line=100, head=104) if options & SMALL else DEFAULT_LIMITS
    raw = CHUNKED_HEAD + stream
    outcome = replay([raw], limits=limits)
    (message,) = outcome.messages
    pieces = cut(stream, places(bytes(cuts)))
    assert replay([CHUNKED_HEAD, *pieces], limits=limits) == outcome
    assert replay(byte_by_byte(raw), limits=limits) == outcome
    assert outcome.error is None or issubclass(outcome.error, MalformedMessage), outcome.error
    if message.complete:
        body, trailers, rest = _chunks(stream)
        assert (message.body, outcome.leftover) == (body, rest)
        assert trailers or not message.trailers
    framing = ChunkedFraming()
    framed = [b"".join((before, piece, after)) for piece in pieces for before, after in [framing.frame(len(piece))]]
    written = b"".join(framed) + framing.finish()
    assert _chunks(written) == (stream, b"", b"")
    (message,) = replay(byte_by_byte(CHUNKED_HEAD + written)).messages
    assert (message.body, message.complete) == (stream, True)


def _chunks(stream: bytes) -> tuple[bytes, bytes, bytes]:
    """Body, trailer lines, and what follows. Raises AssertionError where it is not a whole body."""
    body, at = b"", 0
    while True:
        line = _CHUNK_LINE.match(stream, at)
        assert line, stream[at : at + 20]
        size, at = int(line[1], 16), line.end()
        if not size:
            break
        body += stream[at : at + size]
        assert stream[at + size : at + size + 2] == b"\r\n"
        at += size + 2
    section = _TRAILERS.match(stream, at)
    assert section, stream[at : at + 20]
    return body, section[1], stream[section.end() :]


# ----------------------------------------------------------------------------------------------------- requests


def request(data: bytes) -> None:
    """Any method, target and fields: refused, or written so that h11's server, and whoever looks for CRLF and nothing
    else, find exactly these and not a line more."""
    method, target, *rest = texts(data, 2 + data.count(SEPARATOR) // 2 * 2)
    fields = list(zip(rest[::2], rest[1::2], strict=True))
    try:
        head = request_head(method, target, fields)
    except InvalidRequest:
        return
    assert head.endswith(b"\r\n\r\n")
    request_line, *lines = head.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
    assert request_line.split(" ") == [method, target, "HTTP/1.1"]
    assert [tuple(line.split(": ", 1)) for line in lines] == fields
    assert not re.search("[\r\n\0]", "".join((request_line, *lines)))
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + 1)
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        assert _h11_knows_less(fields), head
        return
    assert isinstance(event, h11.Request)
    assert (event.method.decode(), event.target.decode()) == (method, target)
    # It makes one of two lengths that are equal, and writes "chunked" in lower case.
    assert [(name, value.lower()) for name, value in _fields(event.headers)] == [(n, v.lower()) for n, v in fields]


BYTES = 1  # bit of the first number: names and values are given as bytes


def prepared(data: bytes) -> None:
    """The same from where a program says it: any method, URL and headers, text or bytes, are refused with an error of
    `requests`' family, or written with nothing added but what the request itself has."""
    (options,), rest = divided(data, 1)
    method, url, *words = texts(rest, 2 + rest.count(SEPARATOR) // 2 * 2)
    headers: dict[Any, Any] = dict(zip(words[::2], words[1::2], strict=False))
    if options & BYTES:
        headers = {_bytes(name): _bytes(value) for name, value in headers.items()}
    try:
        ready = Request(method, url, headers=headers).prepare()
        ready.complete()
        written = serialize(ready, Route(Origin("http", "example.org", 80)))
    except RequestException:
        return
    assert ready.method.isascii()
    assert method.isascii()
    request_line, *lines = written.content.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
    authority = f"{_bracketed(ready.target.host)}:{ready.target.port}"
    asked = authority if ready.method == "CONNECT" else ready.target.path
    assert request_line == f"{method.upper()} {asked} HTTP/1.1"
    # What is for a proxy does not go to a server.
    expected = [pair for pair in ready.headers.pairs() if pair[0].lower() != "proxy-authorization"]
    if "Host" not in ready.headers:
        expected.insert(0, ("Host", authority if ready.method == "CONNECT" else ready.target.authority))
    assert [tuple(line.split(": ", 1)) for line in lines] == expected
    assert not re.search("[\r\n\0]", "".join((request_line, *lines)))
    given = {_text(name).lower() for name in headers} | {"content-length", "transfer-encoding", "authorization"}
    assert {name.lower() for name in ready.headers} <= given


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(given: str | bytes) -> str:
    return given if isinstance(given, str) else given.decode("latin-1")


def _bracketed(host: str) -> str:
    host = host.partition("%")[0]
    return f"[{host}]" if ":" in host else host


def _h11_knows_less(fields: list[tuple[str, str]]) -> bool:
    """What it refuses though RFC 9112 does not: codings before chunked, numbers that fill a hard disk."""
    known = {name.lower(): value.lower() for name, value in fields}
    return known.get("transfer-encoding", "chunked") != "chunked" or len(known.get("content-length", "")) > 20

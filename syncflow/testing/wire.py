"""HTTP/1.1 as the test servers need it: requests read off a blocking socket, plain answers written.

Knows the framing of requests (Content-Length, chunked, trailers). Knows nothing of threads, scripts or
sockets: it is given a function that receives. It is small on purpose and independent of ``syncflow.http1``: a
mistake in the code under test must not be shared by the server that tests it. What a client may not send is
an AssertionError here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, overload
from urllib.parse import parse_qs, urlsplit

Fields = Mapping[str, str] | Iterable[tuple[str, str]]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# Longer than any head a test has a reason to send; beyond it a missing end is the likelier explanation.
LONGEST_HEAD = 1 << 20
BODILESS = (204, 304)
HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,16}")
REASONS = {status.value: status.phrase for status in HTTPStatus}


class Headers(dict[str, str]):
    """Fields by name, repeated ones joined; the names are in lower case, and are looked up in any."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    @overload  # type: ignore[override]  # no default but a str
    def get(self, name: str, default: None = None, /) -> str | None: ...

    @overload
    def get(self, name: str, default: str, /) -> str: ...

    def get(self, name: str, default: str | None = None, /) -> str | None:
        return super().get(name.lower(), default)


@dataclass(slots=True)
class Request:
    """A request as the server saw it; `headers` and `trailers` by name, whatever its case, repeated fields joined."""

    method: str
    target: str
    version: str
    fields: list[tuple[str, str]]  # as sent: in order, repeated, with the names' case kept
    headers: Headers
    body: bytes = b""
    trailers: Headers = field(default_factory=Headers)

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def text(self) -> str:
        """The body as UTF-8, what is none replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body read as JSON. Raises ValueError."""
        return json.loads(self.body)

    @property
    def keeps_alive(self) -> bool:
        return self.version == "HTTP/1.1" and "close" not in self.headers.get("connection", "").lower()

    @property
    def expects_continue(self) -> bool:
        return self.headers.get("expect", "").lower() == "100-continue"


class Reader:
    """Bytes from `receive_into`, through one reused buffer.

    Every method that needs more than is there receives; the end of the stream is an EOFError. A memoryview
    that is handed out is good until the next call.
    """

    def __init__(self, receive_into: Callable[[memoryview], int], size: int = 65536) -> None:
        self._receive_into = receive_into
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0

    @property
    def available(self) -> int:
        """How many bytes are there without receiving."""
        return self._end - self._start

    @property
    def buffered(self) -> bytes:
        """A copy of them."""
        return bytes(self._view[self._start : self._end])

    def fetch(self) -> None:
        """Receives once, behind what is there."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._view):
            self._make_room()
        received = self._receive_into(self._view[self._end :])
        if not received:
            raise EOFError("the peer has closed the connection")
        self._end += received

    def more(self) -> bool:
        """Whether another byte comes; waits until it is there or the stream has ended."""
        try:
            if self._start == self._end:
                self.fetch()
        except EOFError:
            return False
        return True

    def some(self) -> memoryview:
        """At least one byte, at most what is there."""
        if self._start == self._end:
            self.fetch()
        return self._take(self._end - self._start)

    def pieces(self, length: int) -> Iterator[memoryview]:
        """The next `length` bytes, as they come."""
        while length:
            if self._start == self._end:
                self.fetch()
            piece = self._take(min(length, self._end - self._start))
            length -= len(piece)
            yield piece

    def exactly(self, length: int) -> bytes:
        return b"".join(map(bytes, self.pieces(length)))

    def through(self, mark: bytes) -> bytes:
        """What comes up to and including `mark`."""
        searched = 0
        while True:
            found = self._buffer.find(mark, self._start + max(0, searched - len(mark)), self._end)
            if found >= 0:
                return bytes(self._take(found - self._start + len(mark)))
            searched = self.available
            assert searched < LONGEST_HEAD, f"no {mark!r} in {searched} bytes that begin {self.buffered[:80]!r}"
            self.fetch()

    def line(self) -> bytes:
        return self.through(b"\r\n")[:-2]

    def chunks(self) -> Iterator[memoryview]:
        """The data of a chunked body, up to the last chunk; the trailer section is still to be read."""
        while size := self._chunk_size():
            yield from self.pieces(size)
            end = self.exactly(2)
            assert end == b"\r\n", f"a chunk of {size} bytes is followed by {end!r}"

    def _chunk_size(self) -> int:
        line = self.line()
        digits = line.partition(b";")[0]
        assert HEXADECIMAL.fullmatch(digits), f"not a chunk size: {line!r}"
        return int(digits, 16)

    def trailers(self) -> Headers:
        lines = []
        while line := self.line():
            lines.append(line.decode("latin-1"))
        return _joined(_parse_fields(lines))

    def _take(self, count: int) -> memoryview:
        start = self._start
        self._start += count
        return self._view[start : self._start]

    def _make_room(self) -> None:
        waiting = self.buffered
        if self._start == 0:
            self._buffer = bytearray(2 * len(self._buffer))
            self._view = memoryview(self._buffer)
        self._view[: len(waiting)] = waiting
        self._start, self._end = 0, len(waiting)


def parse_request(head: bytes) -> Request:
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    parts = lines[0].split(" ")
    assert len(parts) == 3, f"not a request line: {lines[0]!r}"
    fields = _parse_fields(lines[1:])
    return Request(parts[0], parts[1], parts[2], fields, _joined(fields))


def read_request(reader: Reader, send: Callable[[bytes], object]) -> Request:
    """A whole request; 100 Continue is sent to the client that asks for it."""
    request = parse_request(reader.through(b"\r\n\r\n"))
    if request.expects_continue:
        send(CONTINUE)
    request.body = b"".join(map(bytes, read_body(reader, request)))
    return request


def read_body(reader: Reader, request: Request) -> Iterator[memoryview]:
    """The pieces of the body as they come; the trailers are filled in at the end."""
    coding = request.headers.get("transfer-encoding")
    length = request.headers.get("content-length")
    if coding is None:
        assert length is None or length.isdecimal(), f"not one Content-Length: {length!r}"
        yield from reader.pieces(int(length or 0))
        return
    assert length is None, "Content-Length beside Transfer-Encoding (RFC 9112, 6.2)"
    assert coding.lower() == "chunked", f"Transfer-Encoding: {coding}"
    yield from reader.chunks()
    request.trailers.update(reader.trailers())


def reply(status: int = 200, body: bytes = b"", headers: Fields = (), *, reason: str | None = None) -> bytes:
    """A response, with Content-Length unless `headers` frame the body another way or the status has none."""
    fields = pairs(headers)
    if status not in BODILESS and not {"content-length", "transfer-encoding"} & {name.lower() for name, _ in fields}:
        fields.append(("Content-Length", str(len(body))))
    return reply_head(status, fields, reason=reason) + body


def reply_head(status: int = 200, headers: Fields = (), *, reason: str | None = None) -> bytes:
    """Status line, fields, blank line."""
    phrase = REASONS.get(status, "") if reason is None else reason
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in pairs(headers)), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Fields = ()) -> bytes:
    return "\r\n".join(["0", *(f"{name}: {value}" for name, value in pairs(trailers)), "", ""]).encode("latin-1")


def pairs(fields: Fields) -> list[tuple[str, str]]:
    return list(fields.items() if isinstance(fields, Mapping) else fields)


def _parse_fields(lines: Iterable[str]) -> list[tuple[str, str]]:
    fields = []
    for line in lines:
        name, colon, value = line.partition(":")
        well_formed = colon and name and not name.endswith((" ", "\t"))
        assert well_formed, f"not a header field: {line!r}"
        fields.append((name, value.strip(" \t")))
    return fields


def _joined(fields: Iterable[tuple[str, str]]) -> Headers:
    joined = Headers()
    for name, value in fields:
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined

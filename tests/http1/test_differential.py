"""Valid responses are read as http.client and h11 read them."""

import contextlib
import http.client
import io
from typing import Any

import h11
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from syncflow.http1 import ChunkedFraming, LengthFraming, NoBody, request_head

from .replay import Message, cut, replay
from .strategies import BODIES, CUTS, FIELDS, REPEATABLE, TOKENS, VALUES, Response, valid_responses

pytestmark = pytest.mark.once

TAILS = st.sampled_from([b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"\r\n"])


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[str, Response, bytes]:
    """A method, a valid response to it, and bytes after that which are none of its business."""
    method = draw(st.sampled_from(["GET", "POST", "HEAD"]))
    response = draw(valid_responses(method))
    return method, response, draw(TAILS)


@REPEATABLE
@given(exchanges(), CUTS)
def test_we_read_what_was_meant(exchange: tuple[str, Response, bytes], places: list[int]) -> None:
    method, response, tail = exchange
    outcome = replay(cut(response.raw + tail, places), method)
    (message,) = outcome.messages
    assert outcome.error is None
    assert message.head == (response.status, response.reason, response.version, response.fields)
    if not message.complete:
        assert message.body == response.body + tail
    else:
        assert (message.body, message.trailers) == (response.body, response.trailers)
        assert outcome.leftover == tail


def _is_close_delimited(message: Message) -> bool:
    names = {name.lower() for name, _ in message.head.fields}
    return not names & {"content-length", "transfer-encoding"} and message.head.status not in (204, 304)


class _File(io.BytesIO):
    """What HTTPResponse reads from, and closes at the end of the message: what is left then is remembered."""

    left: bytes | None = None

    def close(self) -> None:
        if self.left is None:
            self.left = self.read()
        super().close()


class _Socket:
    def __init__(self, file: _File) -> None:
        self.file = file

    def makefile(self, mode: str) -> Any:
        assert mode == "rb"
        return self.file


@REPEATABLE
@given(exchanges())
def test_http_client_reads_the_same(exchange: tuple[str, Response, bytes]) -> None:
    method, response, tail = exchange
    # It looks for chunks even in a 304, if that says that they would have been there.
    assume(not (response.status == 304 and ("Transfer-Encoding", "chunked") in response.fields))
    outcome = replay([response.raw + tail], method, closed=True)
    (message,) = outcome.messages
    file = _File(response.raw + tail)
    with contextlib.closing(http.client.HTTPResponse(_Socket(file), method=method)) as theirs:  # type: ignore[arg-type]
        theirs.begin()
        assert (theirs.status, theirs.reason) == (message.head.status, message.head.reason)
        assert theirs.version == {"1.0": 10, "1.1": 11}[message.head.version]
        assert theirs.read() == message.body
        # It looks at the first Connection field only.
        if sum(name == "Connection" for name, _ in message.head.fields) < 2:
            assert theirs.will_close is not outcome.keep_alive
    assert file.left == outcome.leftover


def _fields(headers: Any) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.raw_items()]


def _h11_client(method: str) -> h11.Connection:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "example.org")]))
    connection.send(h11.EndOfMessage())
    return connection


@REPEATABLE
@given(exchanges(), CUTS)
def test_h11_reads_the_same(exchange: tuple[str, Response, bytes], places: list[int]) -> None:
    method, response, tail = exchange
    raw = response.raw + tail
    outcome = replay(cut(raw, places), method, closed=True)
    (message,) = outcome.messages
    connection = _h11_client(method)
    connection.receive_data(raw)
    connection.receive_data(b"")
    head = connection.next_event()
    assert isinstance(head, h11.Response)
    assert (head.status_code, head.reason.decode("latin-1")) == (message.head.status, message.head.reason)
    assert head.http_version.decode() == message.head.version
    assert _fields(head.headers) == message.head.fields
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert body == message.body
    assert isinstance(event, h11.EndOfMessage)
    assert _fields(event.headers) == message.trailers
    assert connection.trailing_data[0] == outcome.leftover
    # h11 never keeps a connection to an HTTP/1.0 server, RFC 9112 9.3 does if both ask for it. A body that
    # was ended by the close shows in another way there.
    if message.head.version == "1.1" and not _is_close_delimited(message):
        assert (connection.their_state is h11.DONE) is outcome.keep_alive


REQUEST_FIELDS = FIELDS.map(
    lambda fields: [(name, value) for name, value in fields if name.lower() not in ("host", "expect")]
)


@REPEATABLE
@given(
    st.sampled_from(["POST", "PUT", "PATCH", "X-!#$"]),
    st.text("abc/?%&=~:@[]!$'()*+,;", min_size=1, max_size=20).map("/{}".format),
    REQUEST_FIELDS,
    st.lists(BODIES, max_size=4),
    st.booleans(),
    st.lists(st.tuples(TOKENS.map("x-{}".format), VALUES), max_size=2),
)
def test_h11_reads_our_requests(
    method: str,
    target: str,
    fields: list[tuple[str, str]],
    pieces: list[bytes],
    chunked: bool,
    trailers: list[tuple[str, str]],
) -> None:
    length = sum(map(len, pieces))
    framing = ChunkedFraming() if chunked else LengthFraming(length)
    announced = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(length))
    fields = [("Host", "example.org"), *fields, announced]
    raw = request_head(method, target, fields)
    for piece in pieces:
        before, after = framing.frame(len(piece))
        raw += before + piece + after
    raw += framing.finish(trailers if chunked else ())

    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method.decode(), request.target.decode()) == (method, target)
    assert _fields(request.headers) == fields
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert body == b"".join(pieces)
    assert isinstance(event, h11.EndOfMessage)
    assert _fields(event.headers) == (trailers if chunked else [])
    assert connection.trailing_data == (b"", False)


def test_h11_reads_a_request_without_a_body() -> None:
    framing = NoBody()
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(request_head("GET", "/", [("Host", "example.org")]) + framing.finish())
    assert isinstance(connection.next_event(), h11.Request)
    assert isinstance(connection.next_event(), h11.EndOfMessage)
    assert connection.their_state is h11.DONE


@pytest.mark.parametrize(("method", "status"), [("CONNECT", 200), ("GET", 101)])
def test_h11_switches_where_we_do(method: str, status: int) -> None:
    raw = f"HTTP/1.1 {status} X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw".encode()
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", "example.org"), ("Upgrade", "x"), ("Connection", "upgrade")]
    connection.send(h11.Request(method=method, target="example.org:443", headers=headers))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    connection.next_event()
    assert connection.next_event() is h11.PAUSED
    outcome = replay([raw], method)
    assert outcome.upgraded
    assert outcome.leftover == connection.trailing_data[0] == b"raw"

"""The body of a response: whole, as text, as JSON, in pieces, line by line, as a file; and who closes what."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncflow import HTTPError, JSONDecodeError, Response, Session, StreamConsumedError
from syncflow.testing import AppServer, Peer, Receiver, ScriptedServer, chunk, last_chunk, pattern, reply_head
from syncflow.testing import Response as Answer
from syncflow.text import decode_pieces

LONG = 1_000_003


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=10) as session:
        yield session


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def long(session: Session, receiver: Receiver) -> Iterator[Response]:
    """A response of LONG bytes that nobody has begun to read."""
    with session.get(f"{receiver.url}/bytes/{LONG}", stream=True) as response:
        yield response


def serve(body: bytes | Iterable[bytes], content_type: str = "text/plain") -> AppServer:
    return AppServer(lambda request: Answer(headers={"Content-Type": content_type}, body=body))


def in_steps(*pieces: bytes, content_type: str = "text/plain; charset=utf-8") -> ScriptedServer:
    """Sends a piece at each `server.step()`, so that each is received on its own."""

    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(reply_head(200, {"Content-Type": content_type, "Transfer-Encoding": "chunked"}))
            peer.send_slowly([*map(chunk, pieces), last_chunk()])

    return ScriptedServer(script)


def taken(server: ScriptedServer, pieces: Iterator[Any], count: int) -> list[Any]:
    """What comes when a piece is sent only after the one before was seen, `count` times, and then all the rest."""
    got = []
    for _ in range(count):
        server.step()
        got.append(next(pieces))
    server.step(10)
    return got + list(pieces)


# ---------------------------------------------------------------------------------------- content


@pytest.mark.parametrize("framing", ["", "?chunked=1"])
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, LONG])
@pytest.mark.parametrize("stream", [False, True])
def test_content(session: Session, receiver: Receiver, size: int, framing: str, stream: bool) -> None:
    response = session.get(f"{receiver.url}/bytes/{size}{framing}", stream=stream)
    assert response.content == pattern(size)
    assert response.content is response.content


def test_content_after_which_everything_else_still_works(session: Session) -> None:
    with serve(b'{"a":\r\n1}') as server:
        response = session.get(server.url)
    assert response.json() == {"a": 1}
    assert response.text == '{"a":\r\n1}'
    assert b"".join(response.iter_content(2)) == response.content
    assert b"".join(response.iter_content(2)) == response.content
    assert list(response.iter_lines()) == [b'{"a":', b"1}"]
    assert response.raw.read() == response.content
    assert b"".join(response) == response.content


# ---------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("size", [1000, 65_536, 100_000, 2_000_000])
def test_pieces_are_of_the_size_or_less(long: Response, size: int) -> None:
    pieces = list(long.iter_content(size))
    assert b"".join(pieces) == pattern(LONG)
    assert all(0 < len(piece) <= size for piece in pieces)
    assert len(pieces) >= LONG / size


def test_pieces_of_one_byte(session: Session) -> None:
    with serve(b"abcdef") as server:
        for call in (Response.iter_content, Response.__iter__):
            response = session.get(server.url, stream=True)
            assert b"".join(call(response)) == b"abcdef"
        assert list(session.get(server.url, stream=True).iter_content()) == [b"a", b"b", b"c", b"d", b"e", b"f"]
        assert list(session.get(server.url).iter_content(4)) == [b"abcd", b"ef"]


def test_pieces_as_they_arrive(session: Session) -> None:
    with in_steps(b"a", b"bc", b"def") as server, session.get(server.url, stream=True) as response:
        assert taken(server, response.iter_content(None), 3) == [b"a", b"bc", b"def"]


def test_a_piece_is_given_before_the_next_has_come(session: Session) -> None:
    with in_steps(b"abc", b"d") as server, session.get(server.url, stream=True) as response:
        assert taken(server, response.iter_content(2), 1) == [b"ab", b"c", b"d"]


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_is_positive(long: Response, size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        long.iter_content(size)


@pytest.mark.parametrize("size", ["1", 1.0, True])
def test_a_size_is_a_number(long: Response, size: Any) -> None:
    with pytest.raises(TypeError, match="chunk_size"):
        long.iter_content(size)


# ---------------------------------------------------------------------------------------- read once


WAYS: dict[str, Callable[[Response], object]] = {
    "content": lambda response: response.content,
    "text": lambda response: response.text,
    "json": lambda response: response.json(),
    "iter_content": lambda response: list(response.iter_content(100)),
    "iter_lines": lambda response: list(response.iter_lines(100)),
    "raw": lambda response: response.raw,
}


@pytest.mark.parametrize("second", WAYS)
@pytest.mark.parametrize("read", ["all", "some", "none"])
def test_a_stream_is_read_once(long: Response, second: str, read: str) -> None:
    pieces = long.iter_content(100_000)
    if read != "none":
        next(pieces)
    if read == "all":
        list(pieces)
    with pytest.raises(StreamConsumedError) as caught:
        WAYS[second](long)
    assert isinstance(caught.value, TypeError)
    assert caught.value.response is long
    if read != "all":
        assert b"".join(pieces).endswith(pattern(LONG)[-1000:])  # the one that reads it goes on


def test_what_was_begun_as_a_file_goes_on_in_any_other_way(session: Session, receiver: Receiver) -> None:
    url = f"{receiver.url}/bytes/{LONG}"
    with session.get(url, stream=True) as response:
        assert response.raw.read(10) + response.content == pattern(LONG)
    with session.get(url, stream=True) as response:
        assert response.raw.read(10) + b"".join(response.iter_content(100_000)) == pattern(LONG)
    with session.get(url, stream=True) as response:
        response.raw  # noqa: B018  # to have looked at it is not to have read it
        assert response.content == pattern(LONG)


# ---------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("content_type", "body", "encoding", "text"),
    [
        ("text/plain; charset=utf-8", "ä€".encode(), "utf-8", "ä€"),
        ('text/plain;Charset="ISO-8859-1"', "ä".encode("latin-1"), "ISO-8859-1", "ä"),
        ("text/plain; a=b; charset = cp1252 ; c=d", "€".encode("cp1252"), "cp1252", "€"),
        ("text/plain; charset='utf-16'", "ä".encode("utf-16"), "utf-16", "ä"),
        ("text/plain", "ä€".encode(), None, "ä€"),
        ("text/plain; charset=", "ä".encode(), None, "ä"),
        ("text/plain; charset", "ä".encode(), None, "ä"),
        ("text/plain; charset=utf-8", b"a\xffb", "utf-8", "a\ufffdb"),
        ("text/plain; charset=ascii", "ä".encode(), "ascii", "\ufffd\ufffd"),
        ("text/plain; charset=nonsense", "ä".encode(), "nonsense", "ä"),
        # Python has codecs that make bytes of bytes, or raise whatever they are told.
        ("text/plain; charset=hex", b"6162", "hex", "6162"),
        ("text/plain; charset=base64", b"YWI=", "base64", "YWI="),
        ("text/plain; charset=rot13", b"no", "rot13", "no"),
        ("text/plain; charset=zlib", b"x", "zlib", "x"),
        ("text/plain; charset=idna", b"xn--a", "idna", "xn--a"),
        ("text/plain; charset=undefined", b"x", "undefined", "x"),
        ("text/plain; charset=\xe4", b"x", "\xe4", "x"),
    ],
)
def test_text(session: Session, content_type: str, body: bytes, encoding: str | None, text: str) -> None:
    with serve(body, content_type) as server:
        response = session.get(server.url)
        assert response.encoding == encoding
        assert response.text == text
        with session.get(server.url, stream=True) as streamed:
            pieces: list[Any] = list(streamed.iter_content(1, decode_unicode=True))
        if isinstance(pieces[0], str):
            assert "".join(pieces) == text
        else:
            assert b"".join(pieces) == body


def test_the_encoding_may_be_set(session: Session) -> None:
    with serve("ä".encode("latin-1"), "text/plain; charset=utf-8") as server:
        response = session.get(server.url)
        assert response.text == "\ufffd"
        response.encoding = "latin-1"
        assert response.text == "ä"
        with session.get(server.url, stream=True) as streamed:
            streamed.encoding = "latin-1"
            assert list(streamed.iter_content(5, decode_unicode=True)) == ["ä"]


def test_a_character_that_two_pieces_divide(session: Session) -> None:
    halves = ["ä€\U0001f600".encode()[i : i + 1] for i in range(9)]
    with in_steps(*halves) as server, session.get(server.url, stream=True) as response:
        server.step(len(halves) + 1)
        assert list(response.iter_content(1, decode_unicode=True)) == ["ä", "€", "\U0001f600"]


def test_a_character_that_never_ends(session: Session) -> None:
    with serve("aä".encode()[:-1], "text/plain; charset=utf-8") as server:
        with session.get(server.url, stream=True) as response:
            assert list(response.iter_content(1, decode_unicode=True)) == ["a", "\ufffd"]


def test_pieces_stay_bytes_where_no_encoding_is_known(session: Session) -> None:
    with serve(b"abc") as server, session.get(server.url, stream=True) as response:
        assert list(response.iter_content(2, decode_unicode=True)) == [b"ab", b"c"]


# ---------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
@pytest.mark.parametrize("value", [{"ä": [1, 2.5, None, True]}, "€", 0, []])
def test_json(session: Session, encoding: str, value: Any) -> None:
    """RFC 8259, section 8.1, and what older ones have allowed."""
    with serve(json.dumps(value, ensure_ascii=False).encode(encoding), "application/json") as server:
        assert session.get(server.url).json() == value


def test_json_in_the_charset_that_the_server_says(session: Session) -> None:
    with serve('{"a": "ä"}'.encode("latin-1"), "application/json; charset=latin-1") as server:
        assert session.get(server.url).json() == {"a": "ä"}


def test_json_takes_what_json_loads_takes(session: Session) -> None:
    with serve(b'{"a": 1.10}') as server:
        assert session.get(server.url).json(parse_float=str) == {"a": "1.10"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Expecting value: line 1 column 1"),
        (b'{"a": 1', "Expecting ',' delimiter: line 1 column 8"),
        (b'{"a":\n nope}', "Expecting value: line 2 column 2"),
        (b'"\xff"x', "Extra data: line 1 column 4"),
        (b"<html>", "Expecting value"),
    ],
)
def test_what_is_no_json(session: Session, body: bytes, message: str) -> None:
    with serve(body) as server:
        response = session.get(server.url)
    with pytest.raises(JSONDecodeError, match=message) as caught:
        response.json()
    error = caught.value
    assert isinstance(error, json.JSONDecodeError)
    assert isinstance(error, ValueError)
    assert error.response is response
    assert error.request is response.request
    assert error.doc == response.text
    assert 0 <= error.pos <= len(error.doc)


# ---------------------------------------------------------------------------------------- lines

TEXTS = st.text(st.sampled_from("ab\r\n\x0b\x0c\x1c\x85\u2028ä"), max_size=12)


class Fed(Response):
    """Its pieces come as they were cut, whatever size is asked for."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def iter_content(self, chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[Any]:
        return decode_pieces(self._pieces, "utf-8") if decode_unicode else iter(self._pieces)


@given(TEXTS, st.lists(st.integers(0, 24), max_size=6))
def test_lines_are_those_of_the_whole_however_it_is_cut(text: str, cuts: list[int]) -> None:
    body = text.encode()
    bounds = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(bounds)]
    assert list(Fed(pieces).iter_lines()) == body.splitlines()
    assert list(Fed(pieces).iter_lines(decode_unicode=True)) == text.splitlines()


@given(TEXTS.filter(lambda text: not text.endswith("ab")), st.lists(st.integers(0, 24), max_size=6))
def test_lines_with_an_end_of_their_own(text: str, cuts: list[int]) -> None:
    body = text.encode()
    bounds = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(bounds)]
    assert list(Fed(pieces).iter_lines(delimiter=b"ab")) == (body.split(b"ab") if body else [])


@pytest.mark.parametrize("size", [1, 2, 3, 512])
def test_lines_over_the_wire(session: Session, size: int) -> None:
    body = b"one\r\ntwo\nthree\rfour\r\n\r\n\nfive"
    with serve(body) as server, session.get(server.url, stream=True) as response:
        assert list(response.iter_lines(size)) == body.splitlines()


def test_a_line_is_given_before_the_next_has_come(session: Session) -> None:
    with in_steps(b"one\r\n", b"two\nth", b"ree") as server, session.get(server.url, stream=True) as response:
        assert taken(server, response.iter_lines(), 2) == [b"one", b"two", b"three"]


def test_an_end_of_line_that_two_pieces_divide(session: Session) -> None:
    with in_steps(b"one\r", b"\ntwo\r", b"three") as server, session.get(server.url, stream=True) as response:
        server.step(4)
        assert list(response.iter_lines()) == [b"one", b"two", b"three"]


# ---------------------------------------------------------------------------------------- raw


def test_raw_is_a_file(long: Response) -> None:
    whole = pattern(LONG)
    raw = long.raw
    assert raw is long.raw
    assert (raw.readable(), raw.writable(), raw.seekable(), raw.closed) == (True, False, False, False)
    assert raw.read(3) == whole[:3]
    buffer = bytearray(70_000)
    assert raw.readinto(buffer) == 70_000
    assert buffer == whole[3:70_003]
    some = raw.read1(100_000)
    assert some
    assert some == whole[70_003:][: len(some)]
    line = raw.readline()
    at = 70_003 + len(some)
    assert line == whole[at : whole.index(b"\n", at) + 1]
    assert raw.read() == whole[at + len(line) :]
    assert (raw.read(), raw.read(1), raw.read1(1), raw.readline()) == (b"", b"", b"", b"")


def test_raw_gives_what_is_there(session: Session) -> None:
    with in_steps(b"abc", b"def\nghi") as server, session.get(server.url, stream=True) as response:
        server.step()
        assert response.raw.read1(100) == b"abc"
        server.step()
        assert response.raw.readline() == b"def\n"
        server.step()
        assert response.raw.read() == b"ghi"


def test_raw_can_be_copied(session: Session, receiver: Receiver) -> None:
    """The response is dropped while its file is read, as many a program does."""
    target = io.BytesIO()
    shutil.copyfileobj(session.get(f"{receiver.url}/bytes/{LONG}", stream=True).raw, target)
    assert target.getvalue() == pattern(LONG)


def test_raw_read_by_a_text_wrapper(session: Session) -> None:
    with serve("ä\r\nö".encode()) as server, session.get(server.url, stream=True) as response:
        assert io.TextIOWrapper(response.raw, "utf-8").read() == "ä\nö"


# ---------------------------------------------------------------------------------------- the end


def test_leaving_the_block_gives_up_what_was_not_read() -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "10"}) + b"abc")
        peer.wait_closed()

    with ScriptedServer(script) as server, Session(timeout=10) as session:
        with session.get(server.url, stream=True) as response:
            assert response.raw.read(3) == b"abc"
        server.wait_until_idle()


def test_a_response_that_was_read_needs_no_closing(session: Session, receiver: Receiver) -> None:
    before = receiver.connections
    for _ in range(3):
        response = session.get(f"{receiver.url}/bytes/{LONG}", stream=True)
        for _ in response.iter_content(100_000):
            pass
        response.close()
        response.close()
        assert response.headers["content-length"] == str(LONG)
    assert receiver.connections == before + 1


def test_what_has_arrived_can_be_read_after_the_end(session: Session) -> None:
    with serve(b"abc") as server:
        response = session.get(server.url)
        response.close()
    session.close()
    assert response.content == b"abc"


def test_closing_the_file_gives_the_connection_up() -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "10"}) + b"abc")
        peer.wait_closed()

    with ScriptedServer(script) as server, Session(timeout=10) as session:
        raw = session.get(server.url, stream=True).raw
        raw.close()
        server.wait_until_idle()
        with pytest.raises(ValueError, match="closed"):
            raw.read()


@pytest.mark.parametrize("what", ["response", "file"])
def test_what_is_dropped_unread_warns_and_frees_the_connection(what: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "10"}) + b"abc")
        peer.wait_closed()

    with ScriptedServer(script) as server, Session(timeout=10) as session:
        dropped: Any = session.get(server.url, stream=True)
        if what == "file":
            dropped = dropped.raw
        with pytest.warns(ResourceWarning, match="dropped before it"):
            del dropped
        server.wait_until_idle()


def test_trailers(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Transfer-Encoding": "chunked"}) + chunk(b"abc"))
        peer.wait_step()
        peer.send(last_chunk([("X-Sum", "6")]))

    with ScriptedServer(script) as server, session.get(server.url, stream=True) as response:
        assert response.trailers == {}
        server.step()
        assert response.content == b"abc"
        assert response.trailers == {"x-sum": "6"}


def test_a_body_of_a_request_that_is_a_response(session: Session, receiver: Receiver) -> None:
    """From one server to the other, without holding it all."""
    with session.get(f"{receiver.url}/bytes/{LONG}", stream=True) as source:
        copied = session.put(receiver.url, data=source.iter_content(65536)).json()
    assert copied["bytes"] == LONG
    with session.get(f"{receiver.url}/bytes/{LONG}", stream=True) as source:
        again = session.put(receiver.url, data=source.raw).json()
    assert again == copied


# ---------------------------------------------------------------------------------------- errors of the server


def test_the_server_s_message_is_a_note(session: Session) -> None:
    message = "\n".join(f"line {number}\x1b[31m" for number in range(9))
    with AppServer(
        lambda request: Answer(422, [("Content-Type", "text/plain; charset=utf-8")], message.encode())
    ) as server:
        with pytest.raises(HTTPError, match="422 Client Error") as caught:
            session.get(server.url).raise_for_status()
        assert caught.value.__notes__ == ["\n".join(f"line {number} [31m" for number in range(5))]
        with session.get(server.url, stream=True) as response, pytest.raises(HTTPError) as caught:
            response.raise_for_status()
        assert not hasattr(caught.value, "__notes__"), "an unread body is not read for it"
    with AppServer(lambda request: Answer(500, [("Content-Type", "image/png")], b"\x89PNG")) as server:
        with pytest.raises(HTTPError) as caught:
            session.get(server.url).raise_for_status()
        assert not hasattr(caught.value, "__notes__")

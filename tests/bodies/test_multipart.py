"""multipart/form-data: byte for byte what `requests` sends, what an independent parser reads, as long as announced."""

from __future__ import annotations

import array
import email
import email.policy
import io
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncflow import BodyLengthError, FileModeWarning, InvalidHeader, Session, UnrewindableBodyError
from syncflow.bodies import MultipartBody, body_of, multipart_of
from syncflow.testing import AppServer, Peer, Receiver, Request, ScriptedServer, pattern, reply

BLOCK = 65_536
BIG = 5_000_000


@pytest.fixture
def session(ca_file: Path) -> Iterator[Session]:
    with Session(timeout=10) as session:
        session.verify = str(ca_file)
        yield session


@pytest.fixture
def server() -> Iterator[AppServer]:
    with AppServer() as server:
        yield server


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(pattern(BIG))
    return path


def post(session: Session, url: str, body: MultipartBody) -> Any:
    return session.post(url, data=body, headers={"Content-Type": body.content_type})


def seen(session: Session, server: AppServer, body: MultipartBody) -> Request:
    """The request as the server saw it; its length was told, and holds; its connection is good for another."""
    assert post(session, server.url, body).request_complete
    request = server.seen[-1]
    if body.length is None:
        assert request.headers["transfer-encoding"] == "chunked"
        assert "content-length" not in request.headers
    else:
        assert request.headers["content-length"] == str(body.length) == str(len(request.body))
    assert session.get(server.url).ok
    assert server.connections == 1
    return request


def parsed(whole: bytes, content_type: str) -> list[tuple[Any, ...]]:
    """Name, filename, content type and content of each part, as the standard library reads them."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = email.message_from_bytes(head + whole, policy=email.policy.HTTP)
    assert not message.defects
    found = []
    for part in message.iter_parts():
        # The policy reads values as a mail's, which are no UTF-8: the line as it came, by the rules of MIME alone.
        raw = dict(part.raw_items())["Content-Disposition"].encode("ascii", "surrogateescape").decode()
        line = email.message_from_string(f"Content-Disposition: {raw}\r\n\r\n")
        name, filename = (line.get_param(key, header="content-disposition") for key in ("name", "filename"))
        found.append((name, filename, part["content-type"], part.get_payload(decode=True)))
    return found


def named(name: Any, content: Any = b"x") -> Any:
    file = io.BytesIO(content)
    file.name = name
    return file


# -------------------------------------------------------------------------------------------- as requests does it

PLAIN = {"a": b"x"}
SAME: dict[str, tuple[Any, Any]] = {
    "bytes": (None, PLAIN),
    "no bytes": (None, {"a": b""}),
    "text": (None, {"a": "täxt"}),
    "number": (None, {"a": 5, "b": True}),
    "bytearray": (None, {"a": bytearray(b"x")}),
    "memoryview": (None, {"a": memoryview(b"xyz")[1:]}),
    "array": (None, {"a": array.array("H", [0x6261])}),
    "big": (None, {"a": bytes(200_000), "b": b"x" * BLOCK, "c": b"x" * (BLOCK + 1)}),
    "line ends": (None, {"a": b"\r\n--\r\n\n\r"}),
    "left out": (None, {"a": None, "b": b"x", "c": ("n", None)}),
    "nothing left": (None, {"a": None}),
    "no pairs": (None, iter([])),
    "pairs": (None, [("a", b"1"), ("a", b"2"), ["b", b"3"]]),
    "iterator": (iter([("d", 1)]), iter([("a", b"x")])),
    "other mappings": (MappingProxyType({"d": 1}), MappingProxyType({"a": b"x"})),
    "views": ({"d": 1}.items(), {"a": b"x"}.items()),
    "two": (None, {"a": ("n.txt", b"x")}),
    "two in a list": (None, {"a": ["n.txt", b"x"]}),
    "three": (None, {"a": ("n.txt", "x", "text/plain")}),
    "no type": (None, {"a": ("n.txt", b"x", None), "b": ("n.txt", b"x", "")}),
    "four": (None, {"a": ("n", b"x", "a/b", {"X-A": "1", "X-B": "ä", "Expires": ""})}),
    "pairs of headers": (None, {"a": ("n", b"x", None, [("X-A", "1"), ("X-B", None)])}),
    "own headers": (
        None,
        {"a": ("n", b"x", "a/b", {"Content-Type": "c/d", "Content-Disposition": "x", "Content-Location": "y"})},
    ),
    "no headers": (None, {"a": ("n", b"x", "a/b", None)}),
    "no filename": (None, {"a": (None, "x")}),
    "empty filename": (None, {"a": ("", "x")}),
    "names": (None, {"ä\"\\;%0a='": ('f"\\%22/../日本', b"x")}),
    "names in bytes": ({"ä".encode(): 1}, {"ö".encode(): ("ü".encode(), b"x")}),
    "fields": ({"n": 1.5, "t": True, "s": "ä", "b": b"\xff", "none": None, "e": "", "o": Path("p")}, PLAIN),
    "lists of fields": ({"l": [1, None, b"x", "ä", [2]], "t": (1, 2), "e": [], "s": {7}, "d": {"k": 1}}, PLAIN),
    "pairs of fields": ([("a", 1), ("b", 2), ("a", 3)], PLAIN),
    "no fields": ([], PLAIN),
    "zero": (0, PLAIN),
}
FILES: dict[str, Callable[[], Any]] = {
    "file": lambda: {"a": io.BytesIO(b"abc")},
    "empty file": lambda: {"a": io.BytesIO()},
    "named": lambda: {"a": named("/x/y.txt"), "b": named("ä.txt"), "c": named("/x/ö".encode())},
    "not named": lambda: {
        "a": named("<stdin>"),
        "b": named("x>"),
        "f": named("<x"),
        "c": named(3),
        "d": named(""),
        "e": named("x/"),
    },
    "file with a name given": lambda: {"a": ("n", named("other"), "a/b")},
}


def as_requests_does(data: Any, files: Any, boundary: str) -> bytes:
    models = pytest.importorskip("requests.models")
    body, content_type = models.RequestEncodingMixin._encode_files(files, data)
    theirs: bytes = content_type.removeprefix("multipart/form-data; boundary=").encode()
    return bytes(body).replace(theirs, boundary.encode())


def twice(given: Any) -> tuple[Any, Any]:
    """An iterator for each of two that use it up."""
    if not isinstance(given, Iterator):
        return given, given
    pairs = list(given)
    return iter(pairs), iter(pairs)


@pytest.mark.parametrize("shape", SAME)
def test_what_is_sent_is_what_requests_sends(shape: str) -> None:
    (data, their_data), (files, their_files) = map(twice, SAME[shape])
    body = multipart_of(data, files)
    assert b"".join(body) == as_requests_does(their_data, their_files, body.boundary)


@pytest.mark.parametrize("shape", FILES)
def test_files_are_sent_as_requests_sends_them(shape: str) -> None:
    body = multipart_of({"d": 1}, FILES[shape]())
    assert b"".join(body) == as_requests_does({"d": 1}, FILES[shape](), body.boundary)


@pytest.mark.parametrize(
    ("data", "files"),
    [
        (None, {}), (None, None), ("text", PLAIN), (b"", PLAIN), ("", PLAIN), (5, PLAIN), (True, PLAIN),
        (["abc"], PLAIN), (None, "text"), (None, b"bytes"), (None, 5), (None, ["abc"]), (None, [("a", b"x", "n")]),
        (None, {"a": [b"x"]}), (None, {"a": ("n", b"", "t", {}, 1)}),
        (None, {"a": 1.5}), (None, {"a": object()}), (None, {"a": {"b": "c"}}), (None, {"\ud800": b""}),
        (None, {b"\xff": b""}), (None, {"a": ("\udcff", b"")}),
    ],
)  # fmt: skip
def test_both_refuse(data: Any, files: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        multipart_of(data, files)
    assert str(caught.value).endswith("; nothing was sent")
    with pytest.raises((ValueError, TypeError)):
        as_requests_does(data, files, "")


def shared_file() -> dict[str, Any]:
    file = io.BytesIO(b"abc")
    return {"a": file, "b": file}


ONE = 'Content-Disposition: form-data; name="a"; filename="n"\r\n'
DIFFERENT: dict[str, tuple[Any, Callable[[], Any], str]] = {
    # Names of header fields are the same in upper and lower case: requests sends two types here.
    "one content type": (
        None,
        lambda: {"a": ("n", b"", "a/b", {"content-type": "c/d"})},
        ONE + "Content-Type: a/b\r\n\r\n",
    ),
    # requests drops what the user asked for.
    "type by header": (
        None,
        lambda: {"a": ("n", b"", None, {"Content-Type": "c/d"})},
        ONE + "Content-Type: c/d\r\n\r\n",
    ),
    # requests sends it a second time, as the user wrote it: a server may go by either.
    "one disposition": (None, lambda: {"a": ("n", b"", None, {"content-disposition": "form-data"})}, ONE + "\r\n"),
    # requests sends one field a byte, "97" and "98".
    "bytearray as a field": ({"f": bytearray(b"ab")}, lambda: PLAIN, 'name="f"\r\n\r\nab\r\n'),
    # requests reads the file to its end for the first part, and sends the second one empty.
    "a file in two parts": (None, shared_file, 'name="b"; filename="b"\r\n\r\nabc\r\n'),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_where_it_differs_from_requests(case: str) -> None:
    data, files, expected = DIFFERENT[case]
    body = multipart_of(data, files())
    whole = b"".join(body)
    assert expected.encode() in whole
    assert whole != as_requests_does(data, files(), body.boundary)


def placed(where: str, bad: Any) -> tuple[Any, Any]:
    places: dict[str, tuple[Any, Any]] = {
        "name": (None, [(bad, b"")]),
        "filename": (None, {"a": (bad, b"")}),
        "field": ([(bad, 1)], PLAIN),
        "content type": (None, {"a": ("n", b"", bad)}),
        "header": (None, {"a": ("n", b"", None, {"X-A": bad})}),
        "header's name": (None, {"a": ("n", b"", None, [(bad, "1")])}),
    }
    return places[where]


@pytest.mark.parametrize("where", ["content type", "header", "header's name"])
@pytest.mark.parametrize("bad", ["\0", "a\0b", "a\r\nX: y", "a\n", "\ra", "a\x1b", "\ud800", 5, b"x"])
def test_what_would_add_a_header_to_a_part_is_refused(where: str, bad: Any) -> None:
    """requests sends most of it."""
    with pytest.raises(InvalidHeader, match="^part 'a'") as caught:
        multipart_of(*placed(where, bad))
    assert str(caught.value).endswith("; nothing was sent")


@pytest.mark.parametrize("where", ["name", "filename", "field"])
@pytest.mark.parametrize(
    ("bad", "error"),
    [(bad, InvalidHeader) for bad in ("\0", b"a\0b", "a\rb", "a\n", b"a\r\nb", "\udcff")] + [(5, TypeError)],
)
def test_names_that_cannot_be_written_are_refused(where: str, bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="; nothing was sent$"):
        multipart_of(*placed(where, bad))


# -------------------------------------------------------------------------------------------- as others read it

# A backslash is sent as browsers send it, and read by MIME's rules as one that quotes what follows.
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\\"))
TYPES = st.sampled_from([None, "text/plain", "image/png", "application/octet-stream"])
PARTS = st.tuples(NAMES, st.none() | NAMES, TYPES, st.binary() | st.sampled_from([bytes(BLOCK), bytes(BLOCK + 1)]))


def escaped(name: str | None) -> str | None:
    return name and name.replace('"', "%22")


@given(st.lists(PARTS, min_size=1), st.integers(1000, 2 * BLOCK))
def test_a_parser_finds_what_was_given(parts: list[tuple[str, str | None, str | None, bytes]], size: int) -> None:
    body = multipart_of(None, [(name, (filename, content, kind)) for name, filename, kind, content in parts])
    whole = b"".join(iter(lambda: body.read(size), b""))
    assert len(whole) == body.length
    expected = [(escaped(name), escaped(filename), kind, content) for name, filename, kind, content in parts]
    assert parsed(whole, body.content_type) == expected


def test_the_boundary_cannot_be_guessed() -> None:
    boundaries = {multipart_of(None, PLAIN).boundary for _ in range(100)}
    assert len(boundaries) == 100
    assert all(len(bytes.fromhex(boundary)) == 16 for boundary in boundaries)
    # Every bit is both: that one is not has a chance of 1 in 2**92.
    numbers = [int(boundary, 16) for boundary in boundaries]
    assert all(len({number >> bit & 1 for number in numbers}) == 2 for bit in range(128))


# -------------------------------------------------------------------------------------------- on its way


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 300_000])
@pytest.mark.parametrize("kind", ["bytes", "path", "file", "raw", "memory"])
def test_every_kind_with_its_length(session: Session, server: AppServer, tmp_path: Path, kind: str, size: int) -> None:
    path = tmp_path / "ä.bin"
    path.write_bytes(b"skipped" + pattern(size) if kind in ("file", "raw") else pattern(size))
    with path.open("rb", buffering=0 if kind == "raw" else -1) as file:
        kinds = {"bytes": pattern(size), "path": path, "file": file, "raw": file, "memory": io.BytesIO(pattern(size))}
        file.seek(7)  # where it is when the body is made; an empty file does not make the whole chunked
        body = multipart_of({"f": "v"}, {"a": kinds[kind], "b": ("n", b"x" * size)})
        file.seek(0)
        assert body.can_rewind
        request = seen(session, server, body)
    assert body.length is not None
    assert request.headers["content-type"] == body.content_type == f"multipart/form-data; boundary={body.boundary}"
    name = "a" if kind in ("bytes", "memory") else "ä.bin"
    expected = [("f", None, None, b"v"), ("a", name, None, pattern(size)), ("b", "n", None, b"x" * size)]
    assert parsed(request.body, body.content_type) == expected


def pipe_of(content: bytes) -> Any:
    out, into = os.pipe()
    with open(into, "wb") as file:
        file.write(content)
    return open(out, "rb")


UNKNOWN: dict[str, Callable[[], Any]] = {
    "generator": lambda: (piece for piece in ("ä", b"", bytearray(b"bc"), array.array("H", [0x6564]))),
    "list": lambda: ("a", ["ä", b"bc", memoryview(b"de")]),
    "pipe": lambda: pipe_of("äbcde".encode()),
    "text file": lambda: io.StringIO("äbcde"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
@pytest.mark.filterwarnings("ignore::syncflow.FileModeWarning")
def test_what_has_no_length_is_sent_in_chunks(session: Session, server: AppServer, kind: str) -> None:
    content = UNKNOWN[kind]()
    body = multipart_of(None, {"a": content, "b": b"x"})
    assert body.length is None
    request = seen(session, server, body)
    assert [part[3] for part in parsed(request.body, body.content_type)] == ["äbcde".encode(), b"x"]
    if kind == "pipe":
        content.close()


def test_a_file_in_text_mode_warns() -> None:
    with pytest.warns(FileModeWarning, match="open it in binary mode"):
        multipart_of(None, {"a": io.StringIO("x")})


@pytest.mark.parametrize("tls", [False, True])
def test_the_kernel_sends_regular_files(
    session: Session, server_tls: ssl.SSLContext, big: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    calls: list[int] = []
    real = os.sendfile

    def counted(*arguments: int) -> int:
        calls.append(real(*arguments))
        return calls[-1]

    monkeypatch.setattr(os, "sendfile", counted)
    with AppServer(ssl_context=server_tls if tls else None) as server, big.open("rb") as file:
        file.seek(1_000_000)
        body = multipart_of({"f": "v"}, {"a": big, "b": file})
        request = seen(session, server, body)
    assert [part[3] for part in parsed(request.body, body.content_type)][1:] == [pattern(BIG), pattern(BIG)[1_000_000:]]
    # All but the last block of each, which is read to see whether the file has grown.
    assert sum(calls) == (0 if tls else BIG + BIG - 1_000_000 - 2 * BLOCK)


class Collector:
    """In a writer's place: what would go to the system call by call."""

    where = "host:80"

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, piece: bytes) -> bool:
        self.pieces.append(piece)
        return True


def test_many_small_fields_are_one_piece() -> None:
    writer: Any = Collector()
    body = multipart_of({"f": range(1000)}, PLAIN)
    assert body.send(writer)
    assert [len(piece) for piece in writer.pieces] == [body.length]


def test_threads_may_share_one_of_paths_and_bytes(session: Session, server: AppServer, big: Path) -> None:
    body = multipart_of(None, {"a": big, "b": b"x"})
    threads = [threading.Thread(target=post, args=(session, server.url, body)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    expected = b"".join(body)
    assert [request.body == expected for request in server.seen] == [True] * 4


def test_an_early_answer_stops_it_and_closes_the_file(session: Session, big: Path) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply(413, b"", {"Connection": "close"}))
        peer.read_until_close()

    with ScriptedServer(script) as server:
        response = post(session, server.url, multipart_of(None, [("a", big)] * 20))
        assert (response.status_code, response.request_complete) == (413, False)


# -------------------------------------------------------------------------------------------- broken parts


@pytest.mark.parametrize("kind", ["path", "file"])
@pytest.mark.parametrize("to", [0, BIG - 1, BIG + 1])
def test_a_file_that_was_changed_before_its_turn(session: Session, big: Path, kind: str, to: int) -> None:
    with AppServer() as server, big.open("rb") as file:
        body = multipart_of(None, {"first": b"x", "a": ("given.bin", big if kind == "path" else file)})
        os.truncate(big, to)
        with pytest.raises(BodyLengthError) as caught:
            post(session, server.url, body)
        error = caught.value
        assert str(error).startswith(f"127.0.0.1:{server.port}: ")
        assert "part 'a', file 'given.bin'" in str(error)
        assert str(BIG) in str(error)
        assert (error.phase, error.request is not None) == ("send", True)
        with pytest.raises(BodyLengthError, match=f"part 'a', file 'given.bin': {BIG} bytes were announced"):
            b"".join(body)
        server.wait_until_idle()
        assert server.requests == 0


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("kind", ["path", "file"])
@pytest.mark.parametrize("to", [9_000_000, 11_999_999, 12_000_001])
def test_a_file_that_is_changed_while_it_is_sent(
    session: Session, server_tls: ssl.SSLContext, big: Path, kind: str, to: int, tls: bool
) -> None:
    os.truncate(big, 12_000_000)  # more than the kernel's buffers: the end is not read yet when the server pauses
    with Receiver(pause_after=1000, ssl_context=server_tls if tls else None) as receiver, big.open("rb") as file:

        def resize() -> None:
            receiver.paused.wait(10)
            os.truncate(big, to)
            receiver.resume()

        resizer = threading.Thread(target=resize)
        resizer.start()
        body = multipart_of(None, {"a": big if kind == "path" else file, "b": b"x"})
        with pytest.raises(BodyLengthError, match=f"127.0.0.1:{receiver.port}: the file .*part 'a', file 'big.bin'"):
            post(session, receiver.url, body)
        resizer.join(10)
        (receipt,) = receiver.wait_for_receipts(1)
        assert not receipt.complete
        assert body.length is not None
        assert receipt.bytes < body.length


@pytest.mark.parametrize("how", ["missing", "folder", "closed", "written", "gone"])
def test_a_file_that_cannot_be_read(session: Session, server: AppServer, tmp_path: Path, how: str) -> None:
    path = tmp_path / "file"
    if how == "folder":
        path.mkdir()
    elif how != "missing":
        path.write_bytes(b"x")
    content: Any = path
    if how in ("closed", "written"):
        content = path.open("rb" if how == "closed" else "wb")
    if how != "written":
        getattr(content, "close", bool)()
    expected = {"closed": ValueError, "written": io.UnsupportedOperation, "folder": IsADirectoryError}
    if how == "gone":
        body = multipart_of(None, {"a": path})
        path.unlink()
        with pytest.raises(FileNotFoundError, match="file"):
            post(session, server.url, body)
        server.wait_until_idle()
    else:
        with pytest.raises(expected.get(how, FileNotFoundError)):
            multipart_of(None, {"a": content})
    getattr(content, "close", bool)()
    assert server.requests == 0


class Broken(Exception):
    """What a part raises; syncflow does not know it."""


def breaking() -> Iterator[bytes]:
    yield pattern(100_000)
    raise Broken


def test_what_a_part_raises_reaches_the_caller_as_it_is(session: Session, server: AppServer) -> None:
    with pytest.raises(Broken) as caught:
        post(session, server.url, multipart_of(None, {"a": breaking(), "b": b"x"}))
    assert type(caught.value) is Broken
    server.wait_until_idle()
    assert server.requests == 0
    body = multipart_of(None, {"a": breaking()})
    with pytest.raises(Broken):
        body.read()
    # What was read before is lost: to go on would make half a body look whole.
    with pytest.raises(UnrewindableBodyError):
        body.read()


def test_a_length_error_of_another_request_is_not_claimed(session: Session, server: AppServer) -> None:
    """A part may be made of what another request brings."""

    def pieces() -> Iterator[bytes]:
        yield b"x"
        session.put(server.url, data=iter([b"abc"]), headers={"Content-Length": "5"})

    with pytest.raises(BodyLengthError) as caught:
        post(session, server.url, multipart_of(None, {"mine": pieces()}))
    assert "mine" not in str(caught.value)
    assert caught.value.request is not None
    assert caught.value.request.method == "PUT"


def test_a_pipe_that_would_have_to_wait_is_not_at_its_end() -> None:
    out, into = os.pipe()
    os.set_blocking(out, False)
    os.write(into, b"begun")
    with open(out, "rb", buffering=0) as file, open(into, "wb"):
        body = multipart_of(None, {"a": file})
        with pytest.raises(BlockingIOError):
            body.read()


# -------------------------------------------------------------------------------------------- again


def test_every_part_is_rewound(session: Session, server: AppServer, big: Path) -> None:
    memory = io.BytesIO(b"0123")
    memory.seek(2)
    with big.open("rb") as file:
        body = multipart_of({"f": 1}, {"a": big, "b": file, "c": memory, "d": b"x", "e": ("n", [b"y", b"z"])})
        first = seen(session, server, body).body
        body.rewind()
        assert seen(session, server, body).body == first
        assert seen(session, server, body).body == first  # nor does one who forgets it send something else
        assert body.read(100) == first[:100]
        body.rewind()
        assert body.read() == first
        assert (body.read(), body.read(1)) == (b"", b"")
    assert [part[3] for part in parsed(first, body.content_type)][3:] == [b"23", b"x", b"yz"]


@pytest.mark.parametrize("kind", ["generator", "pipe", "named pipe"])
def test_a_part_that_cannot_be_rewound_is_named(kind: str, tmp_path: Path) -> None:
    content: Any = pipe_of(b"abc") if kind == "pipe" else iter([b"abc"])
    if kind == "named pipe":
        content = tmp_path / "fifo"
        os.mkfifo(content)
        feeder = threading.Thread(target=content.write_bytes, args=(b"abc",))
        feeder.start()  # it waits for a reader; that the body only looked must not count as one
    body = multipart_of(None, {"a": b"x", "b": ("n", content)})
    assert (body.can_rewind, body.length) == (False, None)
    with pytest.raises(UnrewindableBodyError, match="cannot be sent again.*part 'b', file 'n'"):
        body.rewind()
    assert [part[3] for part in parsed(b"".join(body), body.content_type)] == [b"x", b"abc"]
    with pytest.raises(UnrewindableBodyError, match="part 'b', file 'n'"):
        b"".join(body)
    with pytest.raises(UnrewindableBodyError, match="part 'b', file 'n'"):
        body.send(Collector())  # type: ignore[arg-type]  # it is not even asked
    if kind == "named pipe":
        feeder.join(10)
    getattr(content, "close", bool)()


def test_an_empty_file_of_proc_and_one_that_grows_from_nothing(tmp_path: Path) -> None:
    """Both say that they have no bytes."""
    assert multipart_of(None, {"a": Path("/proc/self/status")}).length is None
    with open("/proc/self/status", "rb") as file:
        assert multipart_of(None, {"a": file}).length is None
        assert file.tell() == 0
    empty = tmp_path / "empty"
    empty.touch()
    with empty.open("rb") as file:
        body = multipart_of(None, {"a": file})
        empty.write_bytes(b"x")
        with pytest.raises(BodyLengthError):
            b"".join(body)
        with pytest.raises(BodyLengthError, match="part 'a', file 'empty'"):
            body.send(Collector())  # type: ignore[arg-type]  # it has all that is asked of it


def test_the_working_directory_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    body = multipart_of(None, {"a": Path("file")})
    monkeypatch.chdir("/")
    assert b"mine" in body.read()


# -------------------------------------------------------------------------------------------- other adapters


def test_it_reads_as_a_file_does(big: Path) -> None:
    body = multipart_of(None, {"a": big, "b": "ä" * 100_000, "c": ("n", [b"y" * 200_000])})
    blocks = list(body)
    assert max(map(len, blocks)) == BLOCK
    whole = b"".join(blocks)
    assert (body.read(0), body.tell()) == (b"", 0)
    assert [body.read(10), body.read(200_000), body.tell()] == [whole[:10], whole[10:200_010], 200_010]
    assert body.read(None) == whole[200_010:]
    assert (body.seek(0), body.read(3), body.tell()) == (0, whole[:3], 3)
    for elsewhere in [(1,), (0, io.SEEK_END), (0, io.SEEK_CUR)]:
        with pytest.raises(io.UnsupportedOperation):
            body.seek(*elsewhere)
    body.rewind()  # or the file would be open as long as the body is there


def test_a_body_passes_for_what_it_is() -> None:
    body = multipart_of(None, PLAIN)
    assert body_of(body) is body
    # As the content of a part as well (RFC 7578 lets that be, section 4.3 does without).
    outer = multipart_of(None, {"inner": ("n", body, body.content_type)})
    assert outer.length is not None
    assert len(outer.read()) == outer.length
    assert b"".join(body) in b"".join(outer)


@pytest.mark.parametrize("known", [True, False])
def test_the_adapter_of_requests_sends_it(server: AppServer, big: Path, known: bool) -> None:
    requests = pytest.importorskip("requests")
    files = {"a": big, "b": b"x" if known else (piece for piece in [b"y", b"z"])}
    body = multipart_of({"f": 1}, files)
    prepared = requests.Request("POST", server.url, headers={"Content-Type": body.content_type}).prepare()
    prepared.body = body
    del prepared.headers["Content-Length"]
    if body.length is not None:
        prepared.headers["Content-Length"] = str(body.length)
    adapter = requests.adapters.HTTPAdapter()
    assert adapter.send(prepared).status_code == 200
    adapter.close()
    sent = parsed(server.seen[-1].body, body.content_type)
    assert [part[3] for part in sent] == [b"1", pattern(BIG), b"x" if known else b"yz"]


def test_urllib3_that_sends_it_again_sends_all_of_it(big: Path) -> None:
    """It begins where `tell` said that the body was; without that it would go on in the middle."""
    urllib3 = pytest.importorskip("urllib3")
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        request = peer.read_request(body=False)
        if peer.index == 0:
            peer.read_exactly(100_000)
            peer.reset()
            return
        got.append(peer.read_body(request))
        peer.send(reply(200, b"", {"Connection": "close"}))

    body = multipart_of(None, {"a": big})
    with ScriptedServer(script) as server, urllib3.PoolManager(retries=1) as pool:
        answer = pool.request("PUT", server.url, body=body, headers={"Content-Length": str(body.length)})
        assert answer.status == 200
    assert got == [b"".join(body)]

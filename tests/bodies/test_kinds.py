"""Bodies as the server sees them: what is sent, how its length is told, and that the kernel sends regular files."""

from __future__ import annotations

import array
import gzip
import hashlib
import io
import mmap
import os
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from syncflow import FileModeWarning, Session, UnrewindableBodyError
from syncflow.bodies import BytesBody, FileBody, IterableBody, body_of
from syncflow.testing import AppServer, Receiver, Request, pattern, pattern_sha256

SIZES = [0, 1, 65_535, 65_536, 65_537, 131_072, 1_000_003]


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=10) as session:
        yield session


@pytest.fixture
def server() -> Iterator[AppServer]:
    with AppServer() as server:
        yield server


@pytest.fixture
def sendfile(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the kernel was asked to send of files, call by call."""
    calls: list[int] = []
    real = os.sendfile

    def counted(out: int, source: int, offset: int, count: int) -> int:
        sent = real(out, source, offset, count)
        calls.append(sent)
        return sent

    monkeypatch.setattr(os, "sendfile", counted)
    return calls


def sent(session: Session, server: AppServer, data: Any, **options: Any) -> Request:
    """A request with this body, as the server saw it; and the connection is good for another."""
    before = server.connections
    assert session.put(server.url, data=data, **options).request_complete
    request = server.seen[-1]
    assert session.get(server.url, **options).ok
    assert server.connections <= before + 1
    return request


def framing(request: Request) -> str:
    """How its length was told: a number, or "chunked"."""
    assert ("content-length" in request.headers) != ("transfer-encoding" in request.headers)
    return request.headers.get("content-length") or request.headers["transfer-encoding"]


def written(path: Path, size: int) -> Path:
    path.write_bytes(pattern(size))
    return path


# ------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda body: body.decode("latin-1")])
def test_bytes_of_all_kinds(session: Session, server: AppServer, kind: Any, size: int) -> None:
    body = pattern(size)
    request = sent(session, server, kind(body))
    expected = body.decode("latin-1").encode() if isinstance(kind(b""), str) else body
    assert request.body == expected
    assert framing(request) == str(len(expected))


# ------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("buffering", [0, -1])
def test_a_regular_file(session: Session, server: AppServer, tmp_path: Path, size: int, buffering: int) -> None:
    with written(tmp_path / "file", size).open("rb", buffering=buffering) as file:
        request = sent(session, server, file)
        assert not file.closed
        assert file.tell() == size
    assert request.body == pattern(size)
    # An empty regular file may be one of /proc's, whose size is not known.
    assert framing(request) == (str(size) if size else "chunked")


@pytest.mark.parametrize("position", [1, 65_536, 500_000, 999_999, 1_000_000])
@pytest.mark.parametrize("buffering", [0, -1])
def test_a_file_from_its_current_position(
    session: Session, server: AppServer, tmp_path: Path, position: int, buffering: int
) -> None:
    with written(tmp_path / "file", 1_000_000).open("rb", buffering=buffering) as file:
        file.seek(position)
        request = sent(session, server, file)
    assert request.body == pattern(1_000_000)[position:]
    assert framing(request) == str(1_000_000 - position)


def test_a_file_of_which_a_part_was_read(session: Session, server: AppServer, tmp_path: Path) -> None:
    """The descriptor stands further on than the file object, which has read ahead."""
    with written(tmp_path / "file", 1_000_000).open("rb") as file:
        assert file.read(3) == pattern(3)
        assert sent(session, server, file).body == pattern(1_000_000)[3:]


def test_a_position_behind_the_end(session: Session, server: AppServer, tmp_path: Path) -> None:
    with written(tmp_path / "file", 10).open("rb") as file:
        file.seek(20)
        request = sent(session, server, file)
    assert (request.body, framing(request)) == (b"", "0")


@pytest.mark.parametrize("opened", ["r+b", "w+b", "a+b"])
def test_a_file_that_is_being_written(session: Session, server: AppServer, tmp_path: Path, opened: str) -> None:
    """What waits in its buffer is part of it."""
    with written(tmp_path / "file", 0).open(opened) as file:
        file.write(pattern(200_000))
        file.seek(5)
        file.write(b"!")
        file.seek(0, io.SEEK_END if opened == "a+b" else io.SEEK_SET)
        file.seek(0)
        request = sent(session, server, file)
        expected = pattern(200_000)
        if opened == "a+b":
            expected += b"!"
        else:
            expected = expected[:5] + b"!" + expected[6:]
    assert request.body == expected
    assert framing(request) == str(len(expected))


@pytest.mark.parametrize("kind", [tempfile.TemporaryFile, tempfile.NamedTemporaryFile, tempfile.SpooledTemporaryFile])
def test_temporary_files(session: Session, server: AppServer, kind: Any) -> None:
    with kind() as file:
        file.write(pattern(300_000))
        file.seek(100)
        request = sent(session, server, file)
    assert request.body == pattern(300_000)[100:]
    assert framing(request) == "299900"


def test_a_file_in_memory(session: Session, server: AppServer) -> None:
    file = io.BytesIO(pattern(200_000))
    file.seek(7)
    request = sent(session, server, file)
    assert request.body == pattern(200_000)[7:]
    assert framing(request) == "199993"


def test_a_mapped_file(session: Session, server: AppServer, tmp_path: Path) -> None:
    with written(tmp_path / "file", 200_000).open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            request = sent(session, server, mapped)
    assert request.body == pattern(200_000)
    assert framing(request) == "200000"


def test_a_file_that_is_made_as_it_is_read(session: Session, server: AppServer) -> None:
    """Those of /proc have a size of 0 and something to read."""
    with open("/proc/self/status", "rb") as file:
        request = sent(session, server, file)
    assert request.body.startswith(b"Name:")
    assert framing(request) == "chunked"


def test_a_gzip_file_is_sent_as_what_it_holds(session: Session, server: AppServer, tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    with gzip.open(path, "wb") as file:
        file.write(bytes(300_000))
    with gzip.open(path, "rb") as file:
        assert sent(session, server, file).body == bytes(300_000)


def test_a_pipe(session: Session, server: AppServer) -> None:
    out, into = os.pipe()

    def write() -> None:
        with open(into, "wb") as file:
            file.write(pattern(300_000))

    writer = threading.Thread(target=write)
    writer.start()
    with open(out, "rb") as file:
        request = sent(session, server, file)
    writer.join(10)
    assert request.body == pattern(300_000)
    assert framing(request) == "chunked"


def test_a_pipe_of_which_the_user_knows_the_length(session: Session, server: AppServer) -> None:
    out, into = os.pipe()
    with open(into, "wb") as file:
        file.write(b"body")
    with open(out, "rb") as file:
        request = sent_with_length(session, server, file, 4)
    assert (request.body, framing(request)) == (b"body", "4")


def sent_with_length(session: Session, server: AppServer, data: Any, length: int) -> Request:
    session.put(server.url, data=data, headers={"Content-Length": str(length)})
    return server.seen[-1]


@pytest.mark.parametrize("opened", ["file", "memory"])
def test_a_text_file_warns_and_is_sent_as_utf8(
    session: Session, server: AppServer, tmp_path: Path, opened: str
) -> None:
    path = tmp_path / "file"
    path.write_text("äöü" * 50_000, "utf-16")
    file: IO[str] = path.open(encoding="utf-16") if opened == "file" else io.StringIO("äöü" * 50_000)
    with file, pytest.warns(FileModeWarning, match="open it in binary mode"):
        request = sent(session, server, file)
    assert request.body == ("äöü" * 50_000).encode()
    assert framing(request) == "chunked"


class Readable:
    """No more than `read`."""

    def __init__(self, body: bytes, piece: int = 1000) -> None:
        self._body = io.BytesIO(body)
        self._piece = piece

    def read(self, size: int = -1) -> bytes:
        return self._body.read(min(size, self._piece))


class Told(Readable):
    """It can tell and seek, but its seek says nothing; as old file objects do."""

    def tell(self) -> int:
        return self._body.tell()

    def seek(self, position: int, whence: int = 0) -> None:
        self._body.seek(position, whence)


class FromTheBeginning(Told):
    """It seeks, but not from the end."""

    def seek(self, position: int, whence: int = 0) -> None:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("seek from the end")
        self._body.seek(position, whence)


class Looked(Readable):
    """It knows where it is, and cannot go elsewhere."""

    def tell(self) -> int:
        return self._body.tell()


@pytest.mark.parametrize(
    ("kind", "told"), [(Readable, "chunked"), (Told, "10000"), (FromTheBeginning, "chunked"), (Looked, "chunked")]
)
def test_objects_that_are_read(session: Session, server: AppServer, kind: type[Readable], told: str) -> None:
    request = sent(session, server, kind(pattern(10_000)))
    assert request.body == pattern(10_000)
    assert framing(request) == told


def test_a_file_that_does_not_block_is_not_cut_where_it_would_have_to_wait(session: Session) -> None:
    out, into = os.pipe()
    os.set_blocking(out, False)
    os.write(into, b"begun")
    with AppServer() as server, open(out, "rb", buffering=0) as file:
        try:
            with pytest.raises(BlockingIOError):
                session.put(server.url, data=file)
        finally:
            os.close(into)
        server.wait_until_idle()
        assert server.requests == 0


# ------------------------------------------------------------------------- wrappers that change what they read


class Upper:
    """As what encrypts, or counts, while it reads: the attribute `file` is a common name for what is wrapped."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size).upper()

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, position: int, whence: int = 0) -> int:
        return self.file.seek(position, whence)

    def fileno(self) -> int:
        return self.file.fileno()


class UpperReader(io.BufferedReader):
    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size).upper()


class UpperIO(io.FileIO):
    def read(self, size: int | None = -1, /) -> bytes:
        return (super().read(size) or b"").upper()


@pytest.mark.parametrize(
    "kind", [lambda path: Upper(path.open("rb")), lambda path: UpperReader(io.FileIO(path)), UpperIO]
)
def test_a_file_that_changes_what_it_reads_is_read(
    session: Session, server: AppServer, tmp_path: Path, kind: Any
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"secret" * 50_000)
    file = kind(path)
    try:
        assert sent(session, server, file).body == b"SECRET" * 50_000
    finally:
        getattr(file, "file", file).close()


# ------------------------------------------------------------------------------------------- os.sendfile


@pytest.mark.parametrize("buffering", [0, -1])
def test_the_kernel_sends_a_regular_file(
    session: Session, server: AppServer, tmp_path: Path, sendfile: list[int], buffering: int
) -> None:
    with written(tmp_path / "file", 5_000_000).open("rb", buffering=buffering) as file:
        assert sent(session, server, file).body == pattern(5_000_000)
    # All but the last block, which is read to see whether the file has grown.
    assert sum(sendfile) == 5_000_000 - 65_536


def test_the_kernel_sends_a_temporary_file(session: Session, server: AppServer, sendfile: list[int]) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(pattern(1_000_000))
        file.seek(100_000)
        assert sent(session, server, file).body == pattern(1_000_000)[100_000:]
    assert sum(sendfile) == 900_000 - 65_536


def test_over_tls_it_is_read(
    session: Session, tmp_path: Path, sendfile: list[int], server_tls: ssl.SSLContext, ca_file: Path
) -> None:
    with AppServer(ssl_context=server_tls) as server, written(tmp_path / "file", 1_000_000).open("rb") as file:
        assert sent(session, server, file, verify=ca_file).body == pattern(1_000_000)
    assert sendfile == []


def test_in_chunks_it_is_read(session: Session, server: AppServer, tmp_path: Path, sendfile: list[int]) -> None:
    with written(tmp_path / "file", 1_000_000).open("rb") as file:
        session.put(server.url, data=file, headers={"Transfer-Encoding": "chunked"})
    assert server.seen[-1].body == pattern(1_000_000)
    assert sendfile == []


@pytest.mark.parametrize("code", ["EINVAL", "ENOSYS", "EOPNOTSUPP"])
def test_where_the_kernel_cannot_it_is_read(
    session: Session, server: AppServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    import errno

    def refuse(*arguments: int) -> int:
        raise OSError(getattr(errno, code), code)

    monkeypatch.setattr(os, "sendfile", refuse)
    with written(tmp_path / "file", 1_000_000).open("rb") as file:
        assert sent(session, server, file).body == pattern(1_000_000)


def test_a_slow_server_gets_all_of_a_file(session: Session, tmp_path: Path, sendfile: list[int]) -> None:
    """The kernel's buffer is full most of the time: sendfile is called again and again, and in parts."""
    size = 6_000_000
    with Receiver(pause_after=100_000) as receiver, written(tmp_path / "file", size).open("rb") as file:
        resumer = threading.Thread(target=lambda: (receiver.paused.wait(10), receiver.resume()))
        resumer.start()
        answer = session.put(receiver.url, data=file).json()
        resumer.join(10)
    assert answer["sha256"] == pattern_sha256(size)
    assert len(sendfile) > 2


# ------------------------------------------------------------------------------------------- iterables


@pytest.mark.parametrize("kind", [list, tuple, iter, lambda pieces: (piece for piece in pieces)])
@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([b""], b""),
        ([b"a", b"", b"", b"b", b""], b"ab"),
        ([b"abc", bytearray(b"def"), memoryview(b"ghi"), "jkl", "ä"], b"abcdefghijkl\xc3\xa4"),
        ([array.array("H", [1, 2]), memoryview(array.array("I", [3]))], b"\x01\0\x02\0\x03\0\0\0"),
        ([pattern(100_000), b"x", pattern(200_000)], pattern(100_000) + b"x" + pattern(200_000)),
    ],
)
def test_pieces(session: Session, server: AppServer, kind: Any, pieces: list[Any], body: bytes) -> None:
    request = sent(session, server, kind(pieces))
    assert request.body == body
    assert framing(request) == "chunked"


def test_no_pieces_at_all(session: Session, server: AppServer) -> None:
    """An empty list is no body, as in requests; an iterator that turns out to be empty is an empty one."""
    for nothing, told in (([], "0"), ((), "0"), (iter([]), "chunked"), ((piece for piece in []), "chunked")):
        request = sent(session, server, nothing)
        assert (request.body, framing(request)) == (b"", told)


def test_an_empty_piece_does_not_end_the_body(session: Session, server: AppServer) -> None:
    assert sent(session, server, iter([b"", b"a", b"", b"b"])).body == b"ab"


def test_pieces_of_which_the_user_knows_the_length(session: Session, server: AppServer) -> None:
    request = sent_with_length(session, server, iter([b"ab", b"", b"cd"]), 4)
    assert (request.body, framing(request)) == (b"abcd", "4")


@pytest.mark.parametrize("tls", [False, True])
def test_a_generator_may_use_its_buffer_again(
    session: Session, server_tls: ssl.SSLContext, ca_file: Path, tls: bool
) -> None:
    """What waits to be sent is a copy, or has left: the server is slower than the generator."""
    size, block = 4_000_000, 10_000
    buffer = bytearray(block)

    def pieces() -> Iterator[bytearray]:
        for start in range(0, size, block):
            buffer[:] = pattern(block, start)
            yield buffer

    with Receiver(pause_after=50_000, ssl_context=server_tls if tls else None) as receiver:
        resumer = threading.Thread(target=lambda: (receiver.paused.wait(10), receiver.resume()))
        resumer.start()
        answer = session.put(receiver.url, data=pieces(), verify=ca_file).json()
        resumer.join(10)
    assert answer == {"bytes": size, "sha256": pattern_sha256(size), "trailers": {}}


@pytest.mark.parametrize("size", [1, 7, 1000, 16_384, 65_535, 65_536, 65_537, 1_000_000])
@pytest.mark.parametrize("tls", [False, True])
def test_pieces_of_any_size(session: Session, server_tls: ssl.SSLContext, ca_file: Path, size: int, tls: bool) -> None:
    total = min(3_000_000, size * 300)
    body = pattern(total)
    pieces = (body[start : start + size] for start in range(0, total, size))
    with Receiver(ssl_context=server_tls if tls else None) as receiver:
        answer = session.put(receiver.url, data=pieces, verify=ca_file).json()
    assert (answer["bytes"], answer["sha256"]) == (total, hashlib.sha256(body).hexdigest())


def test_a_lazy_generator_is_asked_only_as_the_server_reads(session: Session) -> None:
    """It is the server who pulls: megabytes are not made in advance."""
    made = 0

    def pieces() -> Iterator[bytes]:
        nonlocal made
        for _ in range(0, 64 << 20, 65_536):
            made += 65_536
            yield bytes(65_536)

    with Receiver(pause_after=1, hash=False) as receiver:
        seen: list[int] = []

        def look() -> None:
            receiver.paused.wait(10)
            receiver.resume()
            seen.append(made)

        watcher = threading.Thread(target=look)
        watcher.start()
        assert session.put(receiver.url, data=pieces()).json()["bytes"] == 64 << 20
        watcher.join(10)
    assert seen[0] < 64 << 20
    assert made == 64 << 20


# ------------------------------------------------------------------------------------------- by themselves


def test_what_is_what() -> None:
    assert type(body_of(b"a")) is BytesBody
    assert type(body_of("ä")) is BytesBody
    assert type(body_of(io.BytesIO())) is FileBody
    assert type(body_of([b"a"])) is IterableBody
    assert body_of("ä").length == 2


@pytest.mark.parametrize("file", [io.BytesIO(b"abc"), Told(b"abc"), FromTheBeginning(b"abc")])
def test_what_can_be_rewound_goes_back_to_where_it_was(file: Any) -> None:
    file.seek(1)
    body = FileBody(file)
    assert body.can_rewind
    file.read(10)
    body.rewind()
    assert file.tell() == 1


@pytest.mark.parametrize("body", [IterableBody(iter([b"a"])), FileBody(Readable(b"a")), FileBody(Looked(b"a"))])  # type: ignore[arg-type]
def test_what_cannot_be_rewound_says_so(body: Any) -> None:
    assert not body.can_rewind
    with pytest.raises(UnrewindableBodyError, match="cannot be sent again"):
        body.rewind()

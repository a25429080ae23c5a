"""Response.save: what ends up in the file, and what is left when something fails. Broken transfers that go on are
tested in test_resuming."""

from __future__ import annotations

import errno
import gzip
import io
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import syncflow
from syncflow import (
    Cancelled,
    ChunkedEncodingError,
    DecompressionError,
    ReadTimeout,
    Response,
    Session,
    StreamConsumedError,
    Timeouts,
)
from syncflow.testing import (
    AppServer,
    Peer,
    RangeServer,
    ReceiverProcess,
    ScriptedServer,
    eventually,
    pattern,
    pattern_sha256,
    reply_head,
    truncated,
)
from syncflow.testing.application import Response as Answer

BODY = pattern(300_000)


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=10) as session:
        yield session


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with RangeServer(BODY) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "target"


def beside(target: Path) -> list[str]:
    """The other files in its folder."""
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def idle(session: Session) -> int:
    """Connections that are ready to be used again."""
    pool = session.get_adapter("http://").__dict__["_pool"]
    return sum(not connection.is_busy for connection in pool._ledger.connections)


def stalls(after: bytes = BODY[:1000]) -> ScriptedServer:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": str(len(BODY))}) + after)
        peer.wait_closed()

    return ScriptedServer(script)


# ------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_the_body_is_in_the_file(session: Session, target: Path, chunked: bool, stream: bool, resume: bool) -> None:
    with RangeServer(BODY, chunked=chunked) as server:
        response = session.get(server.url, stream=stream)
        assert response.save(target, resume=resume) == len(BODY)
        assert target.read_bytes() == BODY
        assert beside(target) == []
        assert len(server.seen) == idle(session) == 1


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_a_path_of_any_kind(session: Session, server: RangeServer, target: Path, kind: Any) -> None:
    assert session.get(server.url, stream=True).save(kind(target)) == len(BODY)
    assert target.read_bytes() == BODY


def test_a_path_is_relative_to_the_working_directory(
    session: Session, server: RangeServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(target.parent)
    session.get(server.url, stream=True).save("target", resume=True)
    assert target.read_bytes() == BODY
    assert beside(target) == []


@pytest.mark.parametrize("resume", [False, True])
def test_an_empty_body_makes_an_empty_file(session: Session, target: Path, resume: bool) -> None:
    told: list[Any] = []
    with RangeServer(b"") as server:
        response = session.get(server.url, stream=True)
        assert response.save(target, resume=resume, on_progress=lambda *now: told.append(now)) == 0
    assert target.read_bytes() == b""
    assert told == [(0, 0)]


@pytest.mark.parametrize("resume", [False, True])
def test_codings_are_undone(session: Session, target: Path, resume: bool) -> None:
    encoded = gzip.compress(BODY)
    told: list[tuple[int, int | None]] = []
    with RangeServer(encoded, headers={"Content-Encoding": "gzip"}) as server:
        response = session.get(server.url, stream=True)
        assert response.save(target, resume=resume, on_progress=lambda *now: told.append(now)) == len(BODY)
    assert target.read_bytes() == BODY
    assert told[-1] == (len(encoded), len(encoded))


def test_any_status_is_saved(session: Session, target: Path) -> None:
    with AppServer(lambda request: Answer(404, body=b"not here")) as server:
        assert session.get(server.url, stream=True).save(target) == 8


def test_what_was_read_already_is_saved_again_and_again(session: Session, server: RangeServer, target: Path) -> None:
    response = session.get(server.url)
    for _ in range(2):
        assert response.save(target) == len(BODY)
        assert target.read_bytes() == BODY
        target.unlink()
    assert response.content == BODY


def test_content_that_was_coded_tells_its_progress_by_its_length(session: Session, target: Path) -> None:
    encoded = gzip.compress(BODY)
    told: list[Any] = []
    with RangeServer(encoded, headers={"Content-Encoding": "gzip"}) as server:
        session.get(server.url).save(target, on_progress=lambda *now: told.append(now))
    assert told == [(len(encoded), len(encoded))]


@pytest.mark.parametrize("resume", [False, True])
def test_what_was_read_as_a_stream_is_gone(session: Session, server: RangeServer, target: Path, resume: bool) -> None:
    response = session.get(server.url, stream=True)
    response.save(target)
    with pytest.raises(StreamConsumedError):
        response.save(target, resume=resume)
    with pytest.raises(StreamConsumedError):
        _ = response.content
    assert target.read_bytes() == BODY


def test_it_goes_on_where_raw_stands(session: Session, server: RangeServer, target: Path) -> None:
    response = session.get(server.url, stream=True)
    assert response.raw.read(1000) == BODY[:1000]
    assert response.save(target) == len(BODY) - 1000
    assert target.read_bytes() == BODY[1000:]


def test_a_response_made_by_hand_is_saved(target: Path) -> None:
    response = Response()
    response._content = b"abc"
    assert response.save(target) == 3


def test_an_answer_to_head_is_empty(session: Session, target: Path) -> None:
    told: list[Any] = []
    with AppServer(lambda request: Answer(200, {}, b"abc")) as server:
        assert session.head(server.url, stream=True).save(target, on_progress=lambda *now: told.append(now)) == 0
    assert told == [(0, None)]


def test_a_large_body_needs_no_memory(session: Session) -> None:
    size = 64 << 20
    with ReceiverProcess() as server, session.get(f"{server.url}/bytes/{size}", stream=True) as response:
        sizes: list[int] = []
        file = Hashing(sizes)
        assert response.save(file) == size
        assert file.digest.hexdigest() == pattern_sha256(size)
        assert max(sizes) <= 262144


class Hashing:
    """The least that a file must be."""

    def __init__(self, sizes: list[int]) -> None:
        import hashlib

        self.digest = hashlib.sha256()
        self.sizes = sizes

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        self.sizes.append(len(data))


# ------------------------------------------------------------------------------------------- progress


@pytest.mark.parametrize("chunked", [False, True])
def test_progress_counts_up_to_the_total(session: Session, target: Path, chunked: bool) -> None:
    told: list[tuple[int, int | None]] = []
    with RangeServer(BODY, chunked=chunked) as server:
        session.get(server.url, stream=True).save(target, on_progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert {total for _, total in told} == {None if chunked else len(BODY)}
    assert told[-1][0] == len(BODY)


def test_progress_that_raises_ends_the_download(session: Session, target: Path) -> None:
    target.write_bytes(b"before")
    error = RuntimeError("mine")

    def on_progress(done: int, total: int | None) -> None:
        raise error

    with stalls() as server:
        with pytest.raises(RuntimeError) as caught:
            session.get(server.url, stream=True).save(target, on_progress=on_progress)
        assert caught.value is error
        assert (target.read_bytes(), beside(target)) == (b"before", [])
        server.wait_until_idle()


def test_progress_may_close_the_response(session: Session, target: Path) -> None:
    with stalls() as server, session.get(server.url, stream=True) as response:
        with pytest.raises(Cancelled) as caught:
            response.save(target, on_progress=lambda done, total: response.close())
    assert caught.value.response is response
    assert not target.exists()


def test_progress_must_be_callable(session: Session, server: RangeServer, target: Path) -> None:
    with session.get(server.url, stream=True) as response:
        with pytest.raises(TypeError, match="on_progress"):
            response.save(target, on_progress=5)  # type: ignore[arg-type]
        assert response.content == BODY


# ------------------------------------------------------------------------------------------- where it fails


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("before", [None, b"before"])
def test_a_short_body_leaves_what_was_there(session: Session, target: Path, framing: Any, before: bytes | None) -> None:
    if before is not None:
        target.write_bytes(before)
    with truncated(BODY, missing=1, framing=framing) as server:
        response = session.get(server.url, stream=True)
        with pytest.raises(ChunkedEncodingError) as caught:
            response.save(target)
    assert caught.value.response is response
    assert caught.value.request is response.request
    assert caught.value.bytes_received == len(BODY) - 1
    assert (target.read_bytes() if target.exists() else None) == before
    assert beside(target) == []


def test_a_body_that_does_not_decode(session: Session, target: Path) -> None:
    with RangeServer(b"nonsense" * 1000, headers={"Content-Encoding": "gzip"}) as server:
        response = session.get(server.url, stream=True)
        with pytest.raises(DecompressionError) as caught:
            response.save(target)
        assert caught.value.response is response
    assert not target.exists()
    assert beside(target) == []


def test_too_many_codings(session: Session, target: Path) -> None:
    with RangeServer(b"x" * 1000, headers={"Content-Encoding": ", ".join(["gzip"] * 9)}) as server:
        with pytest.raises(DecompressionError) as caught:
            session.get(server.url, stream=True).save(target)
    assert caught.value.response is not None
    assert beside(target) == []


def test_a_server_that_stalls(session: Session, target: Path) -> None:
    with stalls() as server:
        with pytest.raises(ReadTimeout):
            session.get(server.url, stream=True, timeout=Timeouts(read=0.05)).save(target)
        server.wait_until_idle()
    assert beside(target) == []


def test_closing_from_another_thread(session: Session, target: Path) -> None:
    arrived = threading.Event()
    with stalls() as server, session.get(server.url, stream=True) as response:

        def close() -> None:
            assert arrived.wait(10)
            response.close()

        closing = threading.Thread(target=close)
        closing.start()
        with pytest.raises(Cancelled):
            response.save(target, on_progress=lambda done, total: arrived.set())
        closing.join()
        server.wait_until_idle()
    assert not target.exists()
    assert beside(target) == []


def test_an_interrupt(session: Session, target: Path) -> None:
    def on_progress(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with stalls() as server:
        with pytest.raises(KeyboardInterrupt):
            session.get(server.url, stream=True).save(target, on_progress=on_progress)
        server.wait_until_idle()
    assert beside(target) == []


class Full(io.RawIOBase):
    """A disk with room for some bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(self.room, len(data))
        self.room -= taken
        return taken


@pytest.mark.parametrize("room", [0, 1, 1000])
@pytest.mark.parametrize("resume", [False, True])
def test_a_full_disk_is_told_as_it_is(session: Session, room: int, resume: bool) -> None:
    with stalls(BODY[:5000]) as server:
        response = session.get(server.url, stream=True)
        with pytest.raises(OSError) as caught:
            response.save(Full(room), resume=resume)
        assert type(caught.value) is OSError
        assert caught.value.errno == errno.ENOSPC
        server.wait_until_idle()  # the connection is closed
        response.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("resume", [False, True])
def test_a_device_that_is_full(session: Session, resume: bool) -> None:
    with stalls() as server:
        with pytest.raises(OSError) as caught:
            session.get(server.url, stream=True).save("/dev/full", resume=resume)
        assert caught.value.errno == errno.ENOSPC
        server.wait_until_idle()
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_file_that_cannot_be_written_names_the_target(
    session: Session, server: RangeServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("syncflow.partials.io.FileIO", Failing)
    with pytest.raises(OSError) as caught:
        session.get(server.url, stream=True).save(target)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(target))
    assert beside(target) == []


def test_a_target_that_cannot_be_replaced(session: Session, server: RangeServer, target: Path) -> None:
    """It has become a folder meanwhile."""
    with pytest.raises(IsADirectoryError):
        session.get(server.url, stream=True).save(
            target, on_progress=lambda done, total: target.mkdir(exist_ok=True) if done == total else None
        )
    assert beside(target) == []


# ------------------------------------------------------------------------------------------- paths


def test_permissions_are_those_of_open(session: Session, server: RangeServer, target: Path) -> None:
    before = os.umask(0o027)
    try:
        session.get(server.url, stream=True).save(target)
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o755])
def test_a_file_that_is_replaced_hands_on_its_permissions(
    session: Session, server: RangeServer, target: Path, mode: int
) -> None:
    target.write_bytes(b"before")
    target.chmod(mode)
    seen: set[int] = set()

    def on_progress(done: int, total: int | None) -> None:
        (part,) = beside(target)
        seen.add(stat.S_IMODE((target.parent / part).stat().st_mode))

    session.get(server.url, stream=True).save(target, on_progress=on_progress)
    assert target.read_bytes() == BODY
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert seen == {mode}


def test_what_comes_is_beside_the_target_and_hidden(session: Session, server: RangeServer, target: Path) -> None:
    names: set[str] = set()
    session.get(server.url, stream=True).save(target, on_progress=lambda *now: names.update(beside(target)))
    (name,) = names
    assert name.startswith(".target.")
    assert name.endswith(".tmp")


@pytest.mark.parametrize("exists", [False, True])
def test_a_link_stays_one(session: Session, server: RangeServer, target: Path, tmp_path: Path, exists: bool) -> None:
    if exists:
        target.write_bytes(b"before")
    link = tmp_path / "link"
    link.symlink_to(target)
    session.get(server.url, stream=True).save(link)
    assert link.is_symlink()
    assert target.read_bytes() == BODY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link"]


@pytest.mark.parametrize("resume", [False, True])
def test_devices_are_written_to(session: Session, server: RangeServer, resume: bool) -> None:
    assert session.get(server.url, stream=True).save("/dev/null", resume=resume) == len(BODY)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_fifo_is_written_to(session: Session, server: RangeServer, target: Path) -> None:
    os.mkfifo(target)
    read: list[bytes] = []
    reading = threading.Thread(target=lambda: read.append(target.read_bytes()))
    reading.start()
    session.get(server.url, stream=True).save(target)
    reading.join(10)
    assert read == [BODY]
    assert stat.S_ISFIFO(target.stat().st_mode)


def test_a_descriptor_is_written_to_though_it_is_a_file(session: Session, server: RangeServer, target: Path) -> None:
    """/dev/stdout where it was sent into a file: that one is somebody else's, and stays the same."""
    with target.open("wb") as file:
        session.get(server.url, stream=True).save(f"/dev/fd/{file.fileno()}")
        assert os.path.samestat(target.stat(), os.fstat(file.fileno()))
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_is_refused_before_anything_is_read(
    session: Session, server: RangeServer, tmp_path: Path, resume: bool
) -> None:
    with session.get(server.url, stream=True) as response:
        for path in (str(tmp_path), f"{tmp_path}/none/"):
            with pytest.raises(IsADirectoryError) as caught:
                response.save(path, resume=resume)
            assert caught.value.filename == path
        assert response.content == BODY


def test_a_folder_that_is_missing_is_told_by_the_name_that_was_given(
    session: Session, server: RangeServer, tmp_path: Path
) -> None:
    path = str(tmp_path / "none" / "target")
    with session.get(server.url, stream=True) as response:
        with pytest.raises(FileNotFoundError) as caught:
            response.save(path)
        assert caught.value.filename == path
        assert response.content == BODY


@pytest.mark.parametrize("call", ["open", "fstat", "fchmod"])
def test_an_interrupt_while_the_file_is_made_leaves_nothing(
    session: Session, server: RangeServer, target: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A signal that came during a system call strikes when the call has returned."""
    target.write_bytes(b"before")
    target.chmod(0o600 if call != "fchmod" else 0o666)  # which the umask narrows
    real = getattr(os, call)

    def interrupted(*args: Any) -> Any:
        made = real(*args)
        if call == "open":
            os.close(made)
        raise KeyboardInterrupt

    with session.get(server.url, stream=True) as response:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(os, call, interrupted)
            response.save(target)
        assert [(path, path.read_bytes()) for path in target.parent.iterdir()] == [(target, b"before")]
        assert response.content == BODY


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_stays(session: Session, server: RangeServer, target: Path) -> None:
    target.write_bytes(b"before")
    target.chmod(0o400)
    with session.get(server.url, stream=True) as response:
        with pytest.raises(PermissionError):
            response.save(target)
    assert target.read_bytes() == b"before"


def test_a_file_that_may_not_be_written_is_asked_for(
    session: Session, server: RangeServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, for a root that may."""
    target.write_bytes(b"before")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with session.get(server.url, stream=True) as response:
        with pytest.raises(PermissionError) as caught:
            response.save(target)
        assert caught.value.filename == str(target)
        assert response.content == BODY


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, " "])
def test_any_name_that_a_file_may_have(
    session: Session, server: RangeServer, tmp_path: Path, name: str, resume: bool
) -> None:
    session.get(server.url, stream=True).save(tmp_path / name, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == [name]


# ------------------------------------------------------------------------------------------- file objects


def test_a_file_is_written_where_it_stands_and_stays_open(session: Session, server: RangeServer, target: Path) -> None:
    with target.open("wb") as file:
        file.write(b"head")
        assert session.get(server.url, stream=True).save(file) == len(BODY)
        file.write(b"tail")
    assert target.read_bytes() == b"head" + BODY + b"tail"


def test_a_spooled_file(session: Session, server: RangeServer) -> None:
    with tempfile.SpooledTemporaryFile(max_size=1000) as file:
        session.get(server.url, stream=True).save(file)
        file.seek(0)
        assert file.read() == BODY


def test_an_upload_is_a_file(session: Session, server: RangeServer) -> None:
    with AppServer() as sink, session.upload("PUT", sink.url) as upload:
        session.get(server.url, stream=True).save(upload)
        upload.finish()
        assert sink.seen[0].body == BODY
        _ = upload.response.content


def test_an_error_of_an_upload_is_not_the_downloads(session: Session) -> None:
    with stalls() as server, AppServer() as sink:
        upload = session.upload("PUT", sink.url)
        upload.abort()
        response = session.get(server.url, stream=True)
        with pytest.raises(Cancelled) as caught:
            response.save(upload)
        assert caught.value.request is upload.request
        assert caught.value.response is None
        server.wait_until_idle()


class Short(io.RawIOBase):
    """Takes a few bytes at a time."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.taken += data[:7777]
        return min(7777, len(data))


def test_short_writes_are_gone_on_with(session: Session, server: RangeServer) -> None:
    file = Short()
    assert session.get(server.url, stream=True).save(file) == len(BODY)
    assert file.taken == BODY


@pytest.mark.parametrize("taken", [None, 0])
def test_a_file_that_takes_nothing(session: Session, server: RangeServer, taken: int | None) -> None:
    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int | None:
            return taken

    with pytest.raises(BlockingIOError):
        session.get(server.url, stream=True).save(Full())
    server.wait_until_idle()


def test_a_pipe_that_does_not_block(session: Session, server: RangeServer) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb"), open(writing, "wb", buffering=0) as file:
        with pytest.raises(BlockingIOError):
            session.get(server.url, stream=True).save(file)
    server.wait_until_idle()


@pytest.mark.parametrize("resume", [False, True])
def test_files_for_text_are_refused(session: Session, server: RangeServer, target: Path, resume: bool) -> None:
    with session.get(server.url, stream=True) as response:
        with target.open("w") as text, tempfile.NamedTemporaryFile("w") as wrapped, io.StringIO() as string:
            for file in (text, wrapped, string):
                with pytest.raises(TypeError, match="binary"):
                    response.save(file, resume=resume)
        assert response.content == BODY


@pytest.mark.parametrize("resume", [False, True])
def test_files_that_cannot_be_written_are_refused(
    session: Session, server: RangeServer, target: Path, resume: bool
) -> None:
    target.write_bytes(b"before")
    closed = io.BytesIO()
    closed.close()
    with session.get(server.url, stream=True) as response:
        with target.open("rb") as file, pytest.raises(io.UnsupportedOperation):
            response.save(file, resume=resume)
        with pytest.raises(ValueError, match="closed"):
            response.save(closed, resume=resume)
        for nothing in (None, 5, object()):
            with pytest.raises(TypeError, match="path or a binary file"):
                response.save(nothing, resume=resume)
        assert response.content == BODY


# ------------------------------------------------------------------------------------------- elsewhere


def test_a_response_of_another_adapter(target: Path) -> None:
    requests = pytest.importorskip("requests", reason="its adapter is what is mounted here")
    with RangeServer(BODY) as server, Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter())
        for resume in (False, True):
            assert session.get(server.url, stream=True).save(target, resume=resume) == len(BODY)
            assert target.read_bytes() == BODY
            assert beside(target) == []


def test_without_a_session(server: RangeServer, target: Path) -> None:
    assert syncflow.get(server.url, stream=True).save(target) == len(BODY)
    eventually(lambda: server.open_connections == 0)

"""What writes to a file writes to a server: Python's own writers, files over an upload, and what becomes of the body
when such a file is closed, dropped or left full."""

from __future__ import annotations

import bz2
import csv
import gc
import gzip
import io
import json
import logging
import lzma
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncflow import Session, Upload
from syncflow.testing import AppServer, Peer, ScriptedServer, pattern, reply_head

DATA = pattern(300_000)


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=10) as session:
        yield session


@pytest.fixture
def server() -> Iterator[AppServer]:
    with AppServer() as server:
        yield server


def _tar(up: Upload, mode: Any) -> None:
    with tarfile.open(fileobj=up, mode=mode) as archive:
        member = tarfile.TarInfo("data")
        member.size = len(DATA)
        archive.addfile(member, io.BytesIO(DATA))


def _untar(body: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        file = archive.extractfile("data")
        assert file is not None
        return file.read()


def _zip(up: Upload) -> None:
    with zipfile.ZipFile(up, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", DATA)


def _unzip(body: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        return archive.read("data")


def _through(opened: Any) -> None:
    with opened as file:
        for start in range(0, len(DATA), 1000):
            file.write(DATA[start : start + 1000])


# How it is written, and how it is read again.
WRITERS: dict[str, tuple[Callable[[Upload], object], Callable[[bytes], bytes]]] = {
    "shutil": (lambda up: shutil.copyfileobj(io.BytesIO(DATA), up), bytes),
    "tar": (lambda up: _tar(up, "w|"), _untar),
    "tar.gz": (lambda up: _tar(up, "w|gz"), _untar),
    "zip": (_zip, _unzip),
    "gzip": (lambda up: _through(gzip.GzipFile(fileobj=up)), gzip.decompress),
    "lzma": (lambda up: _through(lzma.LZMAFile(up, "w")), lzma.decompress),  # noqa: SIM115  # `_through` closes it
    "bz2": (lambda up: _through(bz2.BZ2File(up, "w")), bz2.decompress),
    "pickle": (lambda up: pickle.dump(DATA, up), pickle.loads),
    "buffered": (lambda up: _through(io.BufferedWriter(up)), bytes),
    "writelines": (lambda up: up.writelines(DATA[n : n + 100] for n in range(0, len(DATA), 100)), bytes),
}


# GzipFile takes its mode from the file, and says that this will change.
@pytest.mark.filterwarnings("ignore:GzipFile was opened for writing:FutureWarning")
@pytest.mark.parametrize("name", WRITERS)
def test_what_writes_to_a_file_writes_to_a_server(session: Session, server: AppServer, name: str) -> None:
    write, read = WRITERS[name]
    with session.upload("PUT", server.url) as up:
        write(up)
    assert up.response.ok
    assert read(server.seen[-1].body) == DATA


def test_text(session: Session, server: AppServer) -> None:
    with session.upload("PUT", server.url) as up, io.TextIOWrapper(up, encoding="utf-8", newline="") as text:
        csv.writer(text).writerows([["a", "ä"], [1, 2]])
        json.dump({"ö": 1}, text, ensure_ascii=False)
        handler = logging.StreamHandler(text)
        handler.emit(logging.makeLogRecord({"msg": "logged"}))
    assert server.seen[-1].body.decode() == 'a,ä\r\n1,2\r\n{"ö": 1}logged\n'


def test_a_log_arrives_line_by_line(session: Session, server: AppServer) -> None:
    """StreamHandler flushes behind each record."""
    with session.upload("PUT", server.url) as up:
        text = io.TextIOWrapper(up, encoding="utf-8")
        handler = logging.StreamHandler(text)
        for n in range(10):
            handler.emit(logging.makeLogRecord({"msg": f"record {n}"}))
            assert up.offset == up.tell() == len("record 0\n") * (n + 1)
        text.detach()
    assert up.response.ok


# -------------------------------------------------------------------------------------------- the end of a file over it


@pytest.mark.parametrize(
    "wrap", [io.BufferedWriter, io.TextIOWrapper, lambda up: io.TextIOWrapper(io.BufferedWriter(up))]
)
def test_an_exception_leaves_no_body_that_looks_whole(session: Session, server: AppServer, wrap: Any) -> None:
    """The file closes the upload as the exception passes, and knows nothing of it."""
    with pytest.raises(ZeroDivisionError):
        with session.upload("PUT", server.url) as up, wrap(up) as file:
            file.write("half" if isinstance(file, io.TextIOBase) else b"half")
            1 / 0  # noqa: B018
    server.wait_until_idle()
    assert server.requests == 0


def test_without_an_exception_it_is_whole(session: Session, server: AppServer) -> None:
    with session.upload("PUT", server.url) as up:
        with io.BufferedWriter(up) as file:
            file.write(b"all")
        assert up.closed
        with pytest.raises(ValueError, match="closed"):
            up.write(b"more")
        with pytest.raises(ValueError, match="no response yet"):
            _ = up.response
    assert up.response.ok
    assert server.seen[-1].body == b"all"


def test_one_that_is_dropped_in_the_block_has_written_its_rest(session: Session, server: AppServer) -> None:
    with session.upload("PUT", server.url) as up:
        json.dump(["all"], io.TextIOWrapper(up))
        gc.collect()
    assert server.seen[-1].body == b'["all"]'


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # 3.13 tells of the write that is refused
def test_one_that_is_dropped_without_a_block_aborts(session: Session, server: AppServer) -> None:
    file = io.TextIOWrapper(session.upload("PUT", server.url))
    file.write("half")
    with pytest.warns(ResourceWarning, match="dropped, with the file over it"):
        del file
    server.wait_until_idle()
    assert server.requests == 0


def test_closing_it_without_a_block_ends_the_body(session: Session, server: AppServer) -> None:
    up = session.upload("PUT", server.url)
    with io.BufferedWriter(up) as file:
        file.write(b"all")
    assert up.response.ok
    assert server.seen[-1].body == b"all"


def test_flush_and_close_behind_the_response_do_nothing(session: Session) -> None:
    """A file over it does both; that the body of the answer was given up is no failure of the upload."""

    def script(peer: Peer) -> None:
        assert peer.read_request().body == b"all"
        peer.send(reply_head(200, {"Content-Length": "1000"}) + b"abc")
        peer.wait_closed()

    with ScriptedServer(script) as server:
        with session.upload("PUT", server.url) as up:
            text = io.TextIOWrapper(up)
            text.write("all")
            text.flush()
            up.finish().close()
            up.flush()
            text.close()
        up.close()


def test_an_error_behind_the_response_leaves_it_readable(session: Session, server: AppServer) -> None:
    with pytest.raises(KeyError):
        with session.upload("PUT", server.url) as up:
            up.write(b"abc")
            up.finish()
            raise KeyError
    assert up.response.json()["body"] == "abc"


# -------------------------------------------------------------------------------------------- trailers


@pytest.mark.parametrize("trailers", [{"X-Sum": "6"}, [("X-Sum", "6")], iter([("X-Sum", "6")])])
def test_trailers(session: Session, server: AppServer, trailers: Any) -> None:
    with session.upload("PUT", server.url, headers={"Trailer": "X-Sum"}) as up:
        up.write(b"abc")
        up.finish(trailers=trailers)
    assert server.seen[-1].headers["trailer"] == "X-Sum"
    assert server.seen[-1].trailers == {"x-sum": "6"}


def test_a_body_of_known_length_has_none(session: Session, server: AppServer) -> None:
    from syncflow import InvalidHeader

    up = session.upload("PUT", server.url, content_length=3)
    up.write(b"abc")
    with pytest.raises(InvalidHeader, match="only chunked"):
        up.finish(trailers={"X-Sum": "6"})

"""Uploads and downloads that go well, and what they leave behind when they do not."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from syncflow.cli import main, transfer
from syncflow.testing import (
    AppServer,
    Receiver,
    Request,
    Response,
    early_response,
    pattern,
    pattern_sha256,
    truncated,
)

SIZE = 300_000


class Pipe(io.BytesIO):
    """Standard input that gives a few bytes at a time, as a pipe does."""

    def read1(self, size: int | None = -1) -> bytes:
        return super().read1(7)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(pattern(SIZE))
    return path


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if standard error were a terminal."""
    monkeypatch.setattr(transfer, "terminal", lambda stream: stream is sys.stderr)


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(content)))


def sent(server: AppServer) -> Request:
    assert len(server.seen) == 1
    return server.seen[0]


# ---------------------------------------------------------------- upload


def test_a_file_arrives(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Receiver() as server:
        assert main(["upload", str(file), f"{server.url}/x"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"bytes": SIZE, "sha256": pattern_sha256(SIZE), "trailers": {}}
    assert err == "200 OK\n"


def test_the_request_is_as_it_was_asked_for(file: Path) -> None:
    with AppServer(lambda request: Response(201)) as server:
        options = ["-H", "X-One: 1", "-H", "x-one:2", "-H", "User-Agent:", "-H", "Accept: text/plain"]
        assert main(["upload", str(file), f"{server.url}/a?b=c", "-X", "post", *options]) == 0
    request = sent(server)
    assert (request.method, request.path, request.query) == ("POST", "/a", {"b": ["c"]})
    headers = request.headers
    assert headers["content-length"] == str(SIZE)
    assert headers["x-one"] == "1, 2"
    assert headers["accept"] == "text/plain"
    assert "user-agent" not in headers
    assert request.body == pattern(SIZE)


@pytest.mark.parametrize("content", [b"", b"some bytes", pattern(100_000)])
def test_standard_input_is_sent_in_chunks(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, content)
    with AppServer(lambda request: Response()) as server:
        assert main(["upload", "-", server.url]) == 0
    assert sent(server).body == content
    assert sent(server).headers["transfer-encoding"] == "chunked"


@pytest.mark.usefixtures("watched")
def test_a_watched_file_arrives_with_its_length(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with AppServer(lambda request: Response()) as server:
        assert main(["upload", str(file), server.url]) == 0
    assert sent(server).body == pattern(SIZE)
    assert sent(server).headers["content-length"] == str(SIZE)
    shown, status = capsys.readouterr().err.splitlines()
    assert "293 KiB of 293 KiB 100 %" in shown
    assert status == "200 OK"


@pytest.mark.usefixtures("watched")
def test_watched_standard_input_arrives(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    feed(monkeypatch, b"some bytes")
    with AppServer(lambda request: Response()) as server:
        assert main(["upload", "-", server.url]) == 0
    assert sent(server).body == b"some bytes"
    assert "10 B " in capsys.readouterr().err


@pytest.mark.usefixtures("watched")
def test_a_watched_file_that_is_refused_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = tmp_path / "large.bin"
    with open(large, "wb") as file:
        file.truncate(256 << 20)
    with early_response(413, then="linger", body=b"less") as server:
        assert main(["upload", str(large), server.url]) == 1
    out, err = capsys.readouterr()
    assert out == "less"
    assert ": 413 " in err.splitlines()[-1]


def test_a_file_of_unknown_length_is_sent_in_chunks(tmp_path: Path) -> None:
    """A named pipe, as a shell's process substitution gives."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def write() -> None:
        fifo.write_bytes(pattern(SIZE))

    writer = threading.Thread(target=write)
    writer.start()
    with AppServer(lambda request: Response()) as server:
        assert main(["upload", str(fifo), server.url]) == 0
    writer.join(10)
    assert sent(server).body == pattern(SIZE)
    assert sent(server).headers["transfer-encoding"] == "chunked"


# ---------------------------------------------------------------- get


def test_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with Receiver() as server:
        for more in ([], ["-o", "-"]):
            assert main(["get", f"{server.url}/bytes/{SIZE}?chunked=1", *more]) == 0
            out, err = capfdbinary.readouterr()
            assert out == pattern(SIZE)
            assert err == b""


@pytest.mark.parametrize("query", ["", "?chunked=1"])
def test_to_a_file(query: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "target"
    with Receiver() as server:
        assert main(["get", f"{server.url}/bytes/{SIZE}{query}", "-o", str(target)]) == 0
    assert target.read_bytes() == pattern(SIZE)
    assert list(tmp_path.iterdir()) == [target]
    assert capsys.readouterr() == ("", "")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(("query", "shown"), [("", "293 KiB of 293 KiB 100 %"), ("?chunked=1", "293 KiB ")])
def test_a_watched_download(query: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "target"
    with Receiver() as server:
        assert main(["get", f"{server.url}/bytes/{SIZE}{query}", "-o", str(target)]) == 0
    assert target.read_bytes() == pattern(SIZE)
    assert shown in capsys.readouterr().err


def test_progress_stays_out_of_a_terminal_that_shows_the_download(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transfer, "terminal", lambda stream: True)
    with AppServer(lambda request: Response(body=b"hello")) as server:
        assert main(["get", server.url]) == 0
    assert capsys.readouterr() == ("hello", "")


def test_a_file_that_is_replaced_keeps_its_permissions_and_its_links(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    with Receiver() as server:
        assert main(["get", f"{server.url}/bytes/10", "-o", str(link)]) == 0
    assert link.is_symlink()
    assert target.read_bytes() == pattern(10)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_broken_download_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with truncated() as server:
        assert main(["get", server.url, "-o", str(target)]) == 5
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_device_is_written_to_and_not_replaced() -> None:
    with Receiver() as server:
        assert main(["get", f"{server.url}/bytes/10", "-o", os.devnull]) == 0
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_get_asks_for_the_bytes_as_they_are(capsys: pytest.CaptureFixture[Any]) -> None:
    with AppServer(lambda request: Response()) as server:
        assert main(["get", server.url]) == 0
        assert main(["get", server.url, "-H", "Accept-Encoding: gzip"]) == 0
    assert [request.headers["accept-encoding"] for request in server.seen] == ["identity", "gzip"]

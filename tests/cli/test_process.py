"""The command line as a shell runs it: pipes, signals, terminals, and what is imported."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from syncflow.testing import Peer, Receiver, ScriptedServer, pattern, pattern_sha256, reply_head

PATIENCE = 20.0
INTERRUPTED = b"syncflow: interrupted\n"

Start = Callable[..., "subprocess.Popen[bytes]"]
Shell = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that no kernel takes as a whole; it occupies no disk."""
    path = tmp_path / "large.bin"
    with open(path, "wb") as file:
        file.truncate(256 << 20)
    return path


@contextmanager
def pseudo_terminal() -> Iterator[tuple[int, int]]:
    """The end to read from, and the one to be somebody's standard error."""
    master, slave = os.openpty()
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


def shown(master: int, process: subprocess.Popen[bytes]) -> str:
    """What a process has written to its terminal, once it has ended; read on, or it would wait for room."""
    deadline = time.monotonic() + PATIENCE
    parts = []
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        while select.select([master], [], [], 0 if ended else 0.02)[0]:
            parts.append(os.read(master, 65536))
        if ended:
            return b"".join(parts).decode()
    raise AssertionError(f"the process did not end within {PATIENCE:g} s")


# ---------------------------------------------------------------- pipes


def test_a_pipe_through_both_commands(shell: Shell) -> None:
    with Receiver() as server:
        fetched = shell("get", f"{server.url}/bytes/300000")
        assert (fetched.returncode, fetched.stderr) == (0, b"")
        sent = shell("upload", "-", f"{server.url}/x", input=fetched.stdout)
    assert (sent.returncode, sent.stderr) == (0, b"200 OK\n")
    assert json.loads(sent.stdout)["sha256"] == pattern_sha256(300_000)


def test_standard_input_is_sent_as_it_comes(start: Start) -> None:
    with Receiver(pause_after=5) as server:
        process = start("upload", "-", server.url, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(b"first")
        process.stdin.flush()
        # It has come before the second was written.
        assert server.paused.wait(PATIENCE)
        server.resume()
        out, _ = process.communicate(b"second", timeout=PATIENCE)
    assert json.loads(out)["bytes"] == len("firstsecond")


def test_a_reader_that_has_seen_enough(start: Start) -> None:
    with Receiver() as server:
        process = start("get", f"{server.url}/bytes/{64 << 20}")
        assert process.stdout is not None
        assert process.stdout.read(1000) == pattern(1000)
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_reader_that_has_seen_enough_of_the_demo(start: Start) -> None:
    process = start("demo", "--size", "1G", "--slow", "64M")
    assert process.stdout is not None
    assert b"1 GiB" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_nobody_listens_to_an_error(start: Start) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = start("get", "nonsense", stderr=writer)
    finally:
        os.close(writer)
    assert process.wait(PATIENCE) == 2


# ---------------------------------------------------------------- Ctrl-C


def interrupt(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, INTERRUPTED)


def test_an_upload_is_interrupted(start: Start, large: Path) -> None:
    with Receiver(pause_after=100_000) as server:
        process = start("upload", str(large), server.url)
        assert server.paused.wait(PATIENCE)
        interrupt(process)
        server.resume()
        (receipt,) = server.wait_for_receipts(1)
    assert not receipt.complete


def test_an_upload_from_standard_input_is_interrupted(start: Start, large: Path) -> None:
    with Receiver(pause_after=100_000) as server, open(large, "rb") as file:
        process = start("upload", "-", server.url, stdin=file)
        assert server.paused.wait(PATIENCE)
        interrupt(process)
        server.resume()
        (receipt,) = server.wait_for_receipts(1)
    assert not receipt.complete


def test_an_upload_that_waits_for_its_input_is_interrupted(start: Start) -> None:
    with Receiver(pause_after=5) as server:
        process = start("upload", "-", server.url, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(b"first")
        process.stdin.flush()
        assert server.paused.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr is not None
        assert process.stderr.read() == INTERRUPTED
        server.resume()
        (receipt,) = server.wait_for_receipts(1)
    assert not receipt.complete


def test_an_interrupted_download_leaves_nothing(start: Start, tmp_path: Path) -> None:
    begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "1000"}) + b"x" * 500)
        begun.set()
        peer.wait_closed()

    with ScriptedServer(script) as server:
        process = start("get", server.url, "-o", str(tmp_path / "file"))
        assert begun.wait(PATIENCE)
        interrupt(process)
    assert list(tmp_path.iterdir()) == []


def test_the_demo_is_interrupted_with_its_receiver(start: Start) -> None:
    """As by a terminal, which sends the signal to the whole group: to the receiver, too, were it in it."""
    process = start("demo", "--size", "1G", "--slow", "32M", process_group=0)
    assert process.stdout is not None
    while b"buffered" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert process.stderr is not None
    assert process.stderr.read() == INTERRUPTED


# ---------------------------------------------------------------- terminals


def test_a_terminal_sees_an_upload(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(pattern(300_000))
    with Receiver() as server, pseudo_terminal() as (master, slave):
        process = start("upload", str(file), server.url, stderr=slave)
        seen = shown(master, process)
        assert process.returncode == 0
        assert [receipt.sha256 for receipt in server.receipts] == [pattern_sha256(300_000)]
    assert "293 KiB of 293 KiB 100 %" in seen
    assert seen.rstrip().endswith("200 OK")


def test_a_terminal_sees_a_download(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with Receiver() as server, pseudo_terminal() as (master, slave):
        process = start("get", f"{server.url}/bytes/300000", "-o", str(file), stderr=slave)
        assert "293 KiB of 293 KiB 100 %" in shown(master, process)
    assert process.returncode == 0
    assert file.read_bytes() == pattern(300_000)


def test_a_terminal_sees_the_demo(start: Start) -> None:
    with pseudo_terminal() as (master, slave):
        process = start("demo", "--size", "300k", "--slow", "1G", stdout=slave)
        seen = shown(master, process)
    assert process.returncode == 0
    assert "\x1b[" in seen
    assert "identical: yes" in seen


# ---------------------------------------------------------------- start-up


@pytest.mark.parametrize("arguments", [["--version"], ["get", "URL"]])
def test_what_is_not_needed_is_not_imported(arguments: list[str]) -> None:
    code = (
        "import sys; from syncflow.cli import main; status = main(sys.argv[1:]); "
        "print(status, *sorted({'rich', 'syncflow.testing', 'syncflow.cli.demo', 'hashlib'} & sys.modules.keys()))"
    )
    with Receiver() as server:
        full = [argument.replace("URL", f"{server.url}/bytes/0") for argument in arguments]
        done: Any = subprocess.run(
            [sys.executable, "-c", code, *full], stdout=subprocess.PIPE, timeout=PATIENCE, check=True
        )
    assert done.stdout.splitlines()[-1] == b"0"

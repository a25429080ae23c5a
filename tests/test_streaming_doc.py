"""docs/streaming.md: its code runs as it stands there, and the tests that its table names exist."""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import syncflow
from syncflow import streams
from syncflow.testing import Peer, Receiver, ScriptedServer, pattern, pattern_sha256

HERE = Path(__file__).parent
DOCUMENT = (HERE.parent / "docs" / "streaming.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
SIZE = 300_000


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the page takes for granted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.raw").write_bytes(pattern(10_000))
    (tmp_path / "dump.sql").write_bytes(b"SELECT 1;\n" * 10_000)

    def echo_when_ended(peer: Peer) -> None:
        peer.send(b"echo: " + peer.read_until_close())

    with Receiver() as receiver, ScriptedServer(echo_when_ended) as peer, syncflow.Session() as session:
        host, port = peer.address
        yield {
            "session": session,
            "url": receiver.url,
            "source_url": f"{receiver.url}/bytes/{SIZE}",
            "produce": lambda: iter([pattern(60_000)] * 5),
            "work_on_something_else": lambda: None,
            "source": io.BytesIO(pattern(SIZE)),
            "receiver": receiver,
            "host": host,
            "port": port,
            "csv": csv,
            "hashlib": hashlib,
            "io": io,
            "tarfile": tarfile,
            "streams": streams,
        }


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "docs/streaming.md", "exec"), names)


def block_with(text: str) -> str:
    (block,) = [block for block in BLOCKS if text in block]
    return block


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_its_code_runs(names: dict[str, Any], number: int) -> None:
    run(BLOCKS[number], names)


def test_what_writes_to_a_file_writes_to_a_server(names: dict[str, Any]) -> None:
    run(block_with("tarfile.open"), names)
    archive, table = names["receiver"].wait_for_receipts(2)
    assert (archive.complete, table.complete) == (True, True)
    assert table.bytes == len("name,size\r\na,1\r\n")


def test_a_checksum_goes_behind_the_body(names: dict[str, Any]) -> None:
    run(block_with("trailers="), names)
    (receipt,) = names["receiver"].wait_for_receipts(1)
    assert receipt.complete
    assert [value for name, value in receipt.trailers.items() if name.lower() == "x-checksum"] == [receipt.sha256]


def test_whoever_offers_or_is_driven_sends_all(names: dict[str, Any]) -> None:
    run(block_with("try_write"), names)
    run(block_with("up.run()"), names)
    offered, driven = names["receiver"].wait_for_receipts(2)
    assert (offered.complete, offered.bytes) == (True, 5 * 60_000)
    assert (driven.complete, driven.sha256) == (True, pattern_sha256(SIZE))


def test_pipes_move_what_they_are_said_to(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run(block_with("streams.digest"), names)
    assert names["receiver"].wait_for_receipts(1)[0].sha256 == pattern_sha256(SIZE)
    assert capsys.readouterr().out == pattern_sha256(SIZE) + "\n"
    assert Path("copy").read_bytes() == pattern(SIZE)


def test_a_stream_ends_each_way(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run(block_with("streams.connect"), names)
    assert capsys.readouterr().out == f"{b'echo: PING' + bytes([13, 10])!r}\n"


def test_the_tests_that_it_names_exist() -> None:
    named = re.findall(r"\| `([\w/]+\.py)::(test_\w+)` \|$", DOCUMENT, re.MULTILINE)
    assert len(named) == len(re.findall(r"\.py::", DOCUMENT)) > 20
    for file, test in named:
        tree = ast.parse((HERE / file).read_text("utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"


def test_its_pictures_are_there() -> None:
    for name in re.findall(r"\]\((images/[^)]+)\)", DOCUMENT):
        assert (HERE.parent / "docs" / name).is_file(), name

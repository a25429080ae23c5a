"""A gigabyte goes through a few megabytes: to a real nginx and to a receiver that hashes, plain and over TLS.

Each transfer runs in a process of its own (`client.py`), which tells by how much its resident memory grew; the bytes
are hashed where they arrive.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncflow.testing import Nginx, ReceiverProcess, pattern_sha256

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc"),
]

GIB = 1 << 30
WARM_UP = 20_000_000
MOST_GROWTH = 8 << 20
MOST_GROWTH_OF_A_CROWD = 5_000_000


@pytest.fixture(scope="module")
def gigabyte(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sparse file of one GiB in which every MiB differs from the others."""
    path = tmp_path_factory.mktemp("gigabyte") / "file"
    with path.open("wb") as file:
        file.truncate(GIB)
        for start in range(0, GIB, 1 << 20):
            file.seek(start + start // 1000)
            file.write(b"%d" % start)
        file.truncate(GIB)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def gigabyte_sha256(gigabyte: Path) -> str:
    return sha256(gigabyte)


@pytest.fixture(scope="module")
def pattern_of_a_gigabyte() -> str:
    return pattern_sha256(GIB)


@pytest.fixture(params=["plain", "tls"])
def tls_files(request: pytest.FixtureRequest, server_tls_files: tuple[Path, Path]) -> tuple[Path, Path] | None:
    return server_tls_files if request.param == "tls" else None


@pytest.fixture
def nginx(nginx_required: None, tls_files: tuple[Path, Path] | None) -> Iterator[Nginx]:
    with Nginx(tls=tls_files) as nginx:
        yield nginx


@pytest.fixture
def receiver(tls_files: tuple[Path, Path] | None) -> Iterator[ReceiverProcess]:
    with ReceiverProcess(tls=tls_files) as receiver:
        yield receiver


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(what: str, *, verify: Path, warm_up: dict[str, Any], **order: Any) -> tuple[int, Any]:
    """Runs the client; by how many bytes it grew, and what came of it."""
    order |= {"what": what, "verify": str(verify), "warm_up": {"what": what, **warm_up}}
    client = Path(__file__).with_name("client.py")
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(client), json.dumps(order, default=str)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    print(f"{what} {order['url']}: resident memory grew by {told['growth'] / 1024:.0f} KiB")
    return told["growth"], told["result"]


def test_what_is_held_in_memory_is_seen(ca_file: Path, tmp_path: Path) -> None:
    """The other tests would not mean much if it were not."""
    (tmp_path / "file").write_bytes(bytes(WARM_UP))
    (tmp_path / "empty").write_bytes(b"")
    with ReceiverProcess(hash=False) as receiver:
        growth, answer = run(
            "upload hoarded",
            verify=ca_file,
            url=receiver.url,
            path=tmp_path / "file",
            warm_up={"url": receiver.url, "path": tmp_path / "empty"},
        )
    assert answer["bytes"] == WARM_UP
    assert growth > WARM_UP - (1 << 20)


# --------------------------------------------------------------------------------------------- up


def test_a_file_to_nginx(nginx: Nginx, gigabyte: Path, gigabyte_sha256: str, ca_file: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(bytes(WARM_UP))
    growth, _ = run(
        "upload file",
        verify=ca_file,
        url=f"{nginx.url}/upload/file",
        path=gigabyte,
        warm_up={"url": f"{nginx.url}/upload/small", "path": small},
    )
    arrived = nginx.root / "upload/file"
    assert arrived.stat().st_size == GIB
    assert sha256(arrived) == gigabyte_sha256
    assert growth < MOST_GROWTH


@pytest.mark.parametrize("how", ["generator", "pushed"])
def test_pieces_to_nginx(nginx: Nginx, pattern_of_a_gigabyte: str, ca_file: Path, how: str) -> None:
    growth, _ = run(
        f"upload {how}",
        verify=ca_file,
        url=f"{nginx.url}/upload/file",
        size=GIB,
        warm_up={"url": f"{nginx.url}/upload/small", "size": WARM_UP},
    )
    arrived = nginx.root / "upload/file"
    assert arrived.stat().st_size == GIB
    assert sha256(arrived) == pattern_of_a_gigabyte
    assert growth < MOST_GROWTH


def test_a_file_to_a_receiver(
    receiver: ReceiverProcess, gigabyte: Path, gigabyte_sha256: str, ca_file: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.write_bytes(bytes(WARM_UP))
    growth, answer = run(
        "upload file",
        verify=ca_file,
        url=receiver.url,
        path=gigabyte,
        warm_up={"url": receiver.url, "path": small},
    )
    assert answer == {"bytes": GIB, "sha256": gigabyte_sha256, "trailers": {}}
    assert growth < MOST_GROWTH


@pytest.mark.parametrize("how", ["generator", "pushed"])
def test_pieces_to_a_receiver(receiver: ReceiverProcess, pattern_of_a_gigabyte: str, ca_file: Path, how: str) -> None:
    growth, answer = run(
        f"upload {how}",
        verify=ca_file,
        url=receiver.url,
        size=GIB,
        warm_up={"url": receiver.url, "size": WARM_UP},
    )
    assert answer == {"bytes": GIB, "sha256": pattern_of_a_gigabyte, "trailers": {}}
    assert growth < MOST_GROWTH


@pytest.mark.parametrize("how", ["offered", "driven", "piped"])
def test_the_other_ways_to_push(pattern_of_a_gigabyte: str, ca_file: Path, how: str) -> None:
    """What makes the pieces is hundreds of times faster than what receives and hashes them."""
    with ReceiverProcess() as receiver:
        growth, answer = run(
            f"upload {how}",
            verify=ca_file,
            url=receiver.url,
            size=GIB,
            warm_up={"url": receiver.url, "size": WARM_UP},
        )
    assert answer == {"bytes": GIB, "sha256": pattern_of_a_gigabyte, "trailers": {}}
    assert growth < MOST_GROWTH


def test_a_buffered_writer_on_top_holds_next_to_nothing(ca_file: Path) -> None:
    size = GIB // 8
    with ReceiverProcess(hash=False) as receiver:
        growth, answer = run(
            "upload buffered",
            verify=ca_file,
            url=receiver.url,
            size=size,
            warm_up={"url": receiver.url, "size": WARM_UP},
        )
    assert answer["bytes"] == size
    assert growth < 1 << 20


# --------------------------------------------------------------------------------------------- down


def test_a_download_to_disk(
    receiver: ReceiverProcess, pattern_of_a_gigabyte: str, ca_file: Path, tmp_path: Path
) -> None:
    growth, result = run(
        "download",
        verify=ca_file,
        url=f"{receiver.url}/bytes/{GIB}",
        path=tmp_path / "file",
        warm_up={"url": f"{receiver.url}/bytes/{WARM_UP}", "path": tmp_path / "small"},
    )
    assert result == {"bytes": GIB, "sha256": pattern_of_a_gigabyte}
    arrived = tmp_path / "file"
    assert arrived.stat().st_size == GIB
    arrived.unlink()
    assert growth < MOST_GROWTH


# --------------------------------------------------------------------------------------------- many at once


@pytest.mark.parametrize("pushed", [False, True])
def test_many_uploads_that_all_have_to_wait(ca_file: Path, pushed: bool) -> None:
    """50 MiB each to a server that reads 100 KiB a second: what waits, waits in the program that made it."""
    with ReceiverProcess(rate=102_400, hash=False) as receiver:
        growth, result = run(
            "crowd",
            verify=ca_file,
            url=receiver.url,
            count=20,
            size=50 << 20,
            pushed=pushed,
            warm_up={"what": "upload generator", "url": receiver.url, "size": 100_000},
        )
    assert result["waiting"] == 20
    assert max(result["pieces"]) * 65_536 < 50 << 20
    assert growth < MOST_GROWTH_OF_A_CROWD

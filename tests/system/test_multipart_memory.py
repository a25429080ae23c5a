"""Two gigabytes as a part of a form go through a few megabytes, and the length that was announced is exact.

The client runs in a process of its own (`client.py`), which tells by how much its resident memory grew, and so does the
server, which counts what arrives.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from syncflow.testing import ReceiverProcess

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc"),
]

SIZE = 2 << 30  # more than one os.sendfile call takes, and than 31 bits hold
WARM_UP = 20_000_000
MOST_GROWTH = 8 << 20


@pytest.mark.parametrize("tls", [False, True])
def test_two_gigabytes_as_a_part(server_tls_files: tuple[Path, Path], ca_file: Path, tmp_path: Path, tls: bool) -> None:
    sizes = {"warm_up": WARM_UP, "big": SIZE}
    for name, size in sizes.items():
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, size)
    client = Path(__file__).with_name("client.py")
    with ReceiverProcess(hash=False, tls=server_tls_files if tls else None) as receiver:
        what = {"what": "upload multipart", "url": receiver.url}
        order = {
            **what,
            "path": str(tmp_path / "big"),
            "verify": str(ca_file),
            "warm_up": {**what, "path": str(tmp_path / "warm_up")},
        }
        ended = subprocess.run(
            [sys.executable, "-W", "error", str(client), json.dumps(order)],
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    print(f"resident memory grew by {told['growth'] / 1024:.0f} KiB")
    assert told["result"]["answer"]["bytes"] == told["result"]["announced"]
    # The file, and the framing around it.
    assert SIZE < told["result"]["announced"] < SIZE + 1000
    assert told["growth"] < MOST_GROWTH

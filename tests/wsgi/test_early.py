"""An upstream that answers before the client has sent its body: does the client get to see that answer?"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from syncflow.testing import early_response

from .sending import sending
from .servers import Running

SIZE = 50 << 20


@pytest.mark.parametrize("expect", [False, True], ids=["", "expect"])
def test_curl_gets_it(
    server: Running, curl_required: None, tmp_path: Path, require: Callable[[str], None], expect: bool
) -> None:
    path = tmp_path / "body"
    with path.open("wb") as file:
        file.truncate(SIZE)
    with early_response(413, body=b"too large") as upstream:
        command = ["curl", "-sS", "-m", "20", "-T", str(path), "-H", f'X-Test: {{"url": "{upstream.url}"}}']
        command += ["-H", "Expect:" if not expect else "Expect: 100-continue", "-w", "%{http_code}", "-o", "-"]
        done = subprocess.run(  # noqa: PLW1510  # its code is in what it prints
            [*command, f"http://127.0.0.1:{server.address[1]}/"], capture_output=True, text=True, timeout=30
        )
    assert done.stdout == "too large413", done.stderr


def test_a_client_that_sends_first_and_reads_then_gets_it(server: Running) -> None:
    with early_response(413, body=b"too large") as upstream, server.connect() as client:
        client.ask({"url": upstream.url}, method="PUT", fields={"Content-Length": str(SIZE)})
        with sending(client, bytes(SIZE)) as sent:
            sent.thread.join(15)
            assert not sent.thread.is_alive()
            head, body = client.answer()
    assert (head.status, body) == (413, b"too large")

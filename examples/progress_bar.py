"""An upload with a bar that shows how far it is: of what the system has taken, not of what was read from the file."""

from __future__ import annotations

import shutil
import sys
import tempfile

import syncflow
from syncflow.testing import Receiver

SIZE = 4_000_000


def show(offset: int, total: int | None) -> None:
    assert total is not None  # it is what was given as content_length
    bar = "#" * (40 * offset // total)
    sys.stdout.write(f"\r[{bar:<40}] {100 * offset // total:3} %")
    sys.stdout.flush()


# A server that reads 8 MB a second, so that there is something to see.
with (
    Receiver(rate=8_000_000) as server,
    syncflow.Session() as session,
    tempfile.TemporaryFile() as file,
):
    file.write(bytes(SIZE))
    file.seek(0)
    with session.upload("PUT", server.url, content_length=SIZE, on_progress=show) as upload:
        shutil.copyfileobj(file, upload)
    print("\nthe server has", upload.response.json()["bytes"], "bytes")

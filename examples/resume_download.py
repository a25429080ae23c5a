"""A download whose connection breaks in the middle, and one that the program itself gives up: both go on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import syncflow
from syncflow.testing import RangeServer, pattern

BODY = pattern(5_000_000)


def give_up_late(done: int, total: int | None) -> None:
    if done > 4_000_000:
        raise KeyboardInterrupt


with (
    RangeServer(BODY, cuts=[2_000_000]) as server,
    syncflow.Session() as session,
    tempfile.TemporaryDirectory() as name,
):
    target = Path(name) / "archive.tar"
    try:
        session.get(server.url, stream=True).save(target, resume=True, on_progress=give_up_late)
    except KeyboardInterrupt:
        print("given up; there is", [f"{path.stat().st_size} bytes" for path in target.parent.iterdir()])

    # As the next run of the program would.
    size = session.get(server.url, stream=True).save(target, resume=True)
    print("saved:", size, "bytes, whole:", target.read_bytes() == BODY)
    for request in server.seen:
        print("asked for:", request.headers.get("range", "all"))

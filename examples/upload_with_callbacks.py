"""An upload driven by callbacks: the library says when there is room, the program fills it, and nothing piles up."""

from __future__ import annotations

from itertools import islice

import syncflow
from syncflow.testing import Receiver

COUNT, LINE = 150_000, b"reading %9d of a sensor, and what there is to say of it\n"
SIZE = COUNT * len(LINE % 0)
readings = (LINE % number for number in range(COUNT))
drained_at: list[int] = []


def write_some(upload: syncflow.Upload, offset: int) -> bool:
    """Called when the buffer is low, with the bytes that the system has taken. True to be called again."""
    piece = b"".join(islice(readings, 500))
    upload.write(piece)
    return bool(piece)


def show(offset: int, total: int | None) -> None:
    print(f"\rsent: {offset:>8} of {total} bytes", end="")


with Receiver(rate=20_000_000) as server, syncflow.Session() as session:
    with session.post_stream(
        server.url,
        content_length=SIZE,
        on_ready=lambda upload: print("ready: the head is sent"),
        on_writable=write_some,
        on_drain=lambda upload: drained_at.append(upload.offset),
        on_progress=show,
        on_error=lambda error: print("given up:", error),
    ) as upload:
        response = upload.run()
    print("\nthe buffer was full, and drained,", len(drained_at), "times")
    print("the server has", response.json()["bytes"], "bytes")

"""A program that moves much data and says how much memory it took: run by test_memory in a process of its own.

Reads what to do as JSON from its argument; writes as JSON by how many bytes its resident memory grew at most, and what
came of it. Linux only.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from syncflow import PoolLimits, RequestException, Session, Timeouts, Upload, streams
from syncflow.bodies import multipart_of
from syncflow.testing import pattern_pieces

LIMITS = Timeouts(connect=20, read=60, write=60, pool=20)


def status(field: str) -> int:
    """A size from /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(field)


class Peak:
    """The most by which resident memory grew in the block: the kernel's own mark, set back at the beginning."""

    growth = 0

    def __enter__(self) -> Peak:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        self._before = status("VmRSS")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.growth = status("VmHWM") - self._before


def pieces(size: int) -> Iterator[memoryview]:
    """The pattern, in pieces that are no divisors of anything."""
    for block in pattern_pieces(size):
        for start in range(0, len(block), 61_000):
            yield block[start : start + 61_000]


def upload_file(session: Session, order: dict[str, Any]) -> object:
    with open(order["path"], "rb") as file:
        return answer(session.put(order["url"], data=file))


def upload_hoarded(session: Session, order: dict[str, Any]) -> object:
    """As nobody should: all of it in memory. It is there to see that this is seen."""
    return answer(session.put(order["url"], data=Path(order["path"]).read_bytes()))


def upload_generator(session: Session, order: dict[str, Any]) -> object:
    return answer(session.put(order["url"], data=pieces(order["size"])))


def upload_pushed(session: Session, order: dict[str, Any]) -> object:
    with session.upload("PUT", order["url"]) as upload:
        for piece in pieces(order["size"]):
            upload.write(piece)
    return answer(upload.response)


def upload_offered(session: Session, order: dict[str, Any]) -> object:
    with session.upload("PUT", order["url"]) as upload:
        for piece in pieces(order["size"]):
            while not upload.try_write(piece):
                assert upload.wait_writable(30)
    return answer(upload.response)


def upload_driven(session: Session, order: dict[str, Any]) -> object:
    left = pieces(order["size"])

    def write(upload: Upload, offset: int) -> bool:
        piece = next(left, b"")
        upload.write(piece)
        return bool(piece)

    with session.upload("PUT", order["url"], on_writable=write) as upload:
        return answer(upload.run())


def upload_piped(session: Session, order: dict[str, Any]) -> object:
    with session.upload("PUT", order["url"]) as upload:
        streams.pipe(pieces(order["size"]), sink=upload)
    return answer(upload.response)


def upload_buffered(session: Session, order: dict[str, Any]) -> object:
    with session.upload("PUT", order["url"]) as upload, io.BufferedWriter(upload) as file:
        for piece in pieces(order["size"]):
            file.write(piece)
    return answer(upload.response)


def upload_multipart(session: Session, order: dict[str, Any]) -> object:
    body = multipart_of({"field": "value"}, {"file": Path(order["path"])})
    response = session.post(order["url"], data=body, headers={"Content-Type": body.content_type})
    return {"answer": answer(response), "announced": int(response.request.headers["Content-Length"])}


def answer(response: Any) -> object:
    assert response.ok, response.status_code
    assert response.request_complete
    return response.json() if response.content else None


def download(session: Session, order: dict[str, Any]) -> object:
    digest = hashlib.sha256()
    with session.get(order["url"], stream=True) as response, open(order["path"], "wb") as file:
        assert response.ok, response.status_code
        for piece in response.iter_content(65_536):
            file.write(piece)
            digest.update(piece)
    return {"bytes": int(response.headers["content-length"]), "sha256": digest.hexdigest()}


def crowd(session: Session, order: dict[str, Any]) -> object:
    """Uploads at the same time to a server that hardly reads; ends when all of them wait."""
    progress = [0] * order["count"]
    errors: list[BaseException] = []

    def body(number: int) -> Iterator[bytes]:
        for _ in range(order["size"] // 65_536):
            progress[number] += 1
            yield bytes(65_536)

    def push(number: int) -> None:
        with session.upload("PUT", order["url"]) as upload:
            for piece in body(number):
                upload.write(piece)

    def run(number: int) -> None:
        try:
            if order["pushed"]:
                push(number)
            else:
                session.put(order["url"], data=body(number))
        except RequestException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(order["count"])]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    quiet, seen = 0, list(progress)
    while quiet < 10 and time.monotonic() < deadline:
        threading.Event().wait(0.05)
        quiet = quiet + 1 if seen == progress and min(progress) else 0
        seen = list(progress)
    assert not errors, errors
    order["threads"] = threads
    return {"waiting": sum(thread.is_alive() for thread in threads), "pieces": progress}


ORDERS: dict[str, Callable[[Session, dict[str, Any]], object]] = {
    "upload file": upload_file,
    "upload hoarded": upload_hoarded,
    "upload generator": upload_generator,
    "upload pushed": upload_pushed,
    "upload offered": upload_offered,
    "upload driven": upload_driven,
    "upload piped": upload_piped,
    "upload buffered": upload_buffered,
    "upload multipart": upload_multipart,
    "download": download,
    "crowd": crowd,
}


def main() -> None:
    order = json.loads(sys.argv[1])
    with Session(timeout=LIMITS, pool=PoolLimits(per_host=order.get("count", 1) + 1)) as session:
        session.verify = order["verify"]
        ORDERS[order["warm_up"]["what"]](session, order["warm_up"])
        with Peak() as peak:
            result = ORDERS[order["what"]](session, order)
        session.close()
        for thread in order.pop("threads", ()):
            thread.join(20)
            assert not thread.is_alive()
    print(json.dumps({"growth": peak.growth, "result": result}))


if __name__ == "__main__":
    main()

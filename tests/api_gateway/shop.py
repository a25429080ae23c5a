"""Three services for the gateway that hold some of their answers back, until they are told; and its end in the middle
of that.

Knows what the gateway asks them, and what a client must see of an end by SIGTERM.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

from syncflow import PoolLimits, Session
from syncflow.testing import AppServer, Request, Response, eventually, json_response, pattern_pieces, pattern_sha256

from ..concurrency import Call
from .conftest import PATIENCE, Entered, Gateway

# A product whose reviews, and whose picture but for its first bytes, are held back. It is more than the buffers of two
# sockets take, and less than waitress buffers for a client.
SLOW = 15_000_000


class Shop:
    """Inside its block the services are there; of the products the picture has as many bytes as their number says.

    Args:
        silence: seconds between an event stream's comments.
    """

    def __init__(self, silence: float = PATIENCE) -> None:
        self.held_back = threading.Semaphore(0)  # one for each answer
        self.goes_on = threading.Event()
        self.sent = threading.Semaphore(0)  # one for each picture that was held back
        self.streams: set[int] = set()  # threads that are sending events
        self._silence = silence
        self._is_over = threading.Event()
        self.servers = {name: AppServer(getattr(self, name)) for name in ("catalogue", "stock", "reviews")}

    def __enter__(self) -> Shop:
        with contextlib.ExitStack() as stack:
            for server in self.servers.values():
                stack.enter_context(server)
            stack.callback(self._is_over.set)
            stack.callback(self.goes_on.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._stack.__exit__(*exc_info)

    @property
    def services(self) -> dict[str, Entered]:
        """For `start`."""
        return {name: Entered(server) for name, server in self.servers.items()}

    def catalogue(self, request: Request) -> Response:
        number = self._number(request)
        if request.method == "PUT":
            return json_response({"sha256": hashlib.sha256(request.body).hexdigest()})
        if request.path.endswith("/picture"):
            return Response(200, {"Content-Type": "image/x-pattern"}, self._picture(number))
        return json_response({"number": number})

    def stock(self, request: Request) -> Response:
        if request.path == "/events":
            first = int(request.headers.get("last-event-id", "0")) + 1
            return Response(200, {"Content-Type": "text/event-stream"}, self._changes(first))
        return json_response({"number": self._number(request)})

    def reviews(self, request: Request) -> Response:
        number = self._number(request)
        if number == SLOW:
            self._hold_back()
        return json_response({"number": number})

    def _number(self, request: Request) -> int:
        found = re.search(r"\d+", request.path)
        assert found, request.path
        return int(found[0])

    def _picture(self, number: int) -> Iterator[bytes]:
        for count, piece in enumerate(pattern_pieces(number)):
            if number == SLOW and count == 1:
                self._hold_back()
            yield bytes(piece)
        if number == SLOW:
            self.sent.release()

    def _changes(self, first: int) -> Iterator[bytes]:
        me = threading.get_ident()
        self.streams.add(me)
        try:
            for number in range(first, first + 3):
                yield b"id: %d\ndata: change %d\n\n" % (number, number)
            while not self._is_over.wait(self._silence):
                yield b":\n\n"
        finally:
            self.streams.discard(me)

    def _hold_back(self) -> None:
        self.held_back.release()
        self.goes_on.wait(PATIENCE)


def page_of(number: int) -> dict[str, Any]:
    """As the gateway makes it, if all is well."""
    return {"product": number, "missing": {}} | {name: {"number": number} for name in ("catalogue", "stock", "reviews")}


def stop_in_the_middle(gateway: Gateway, shop: Shop, *, streams: int, downloads: int) -> None:
    """SIGTERM while so many are under way, and a page: streams end, though the service is silent, the rest is whole,
    and then nothing is left. A server with one process is one that takes an answer ahead of its client."""
    processes = gateway.workers() | {gateway.process.pid}
    with Session(timeout=PATIENCE, pool=PoolLimits(per_host=64)) as client:
        client.trust_env = False
        answers = [client.get(f"{gateway.url}/stock/events", stream=True) for _ in range(streams)]
        events = [answer.iter_content(None) for answer in answers]
        for pieces in events:
            assert any(b"change 3\n\n" in so_far for so_far in itertools.accumulate(pieces))
        pictures = [client.get(f"{gateway.url}/products/{SLOW}/picture", stream=True) for _ in range(downloads)]
        page = Call(client.get, f"{gateway.url}/products/{SLOW}")
        for _ in [page, *pictures]:
            assert shop.held_back.acquire(timeout=PATIENCE)

        gateway.terminate()
        for pieces in events:
            assert b"".join(pieces).replace(b":\n\n", b"") == b""  # and no error: the last chunk has come
        assert not page.ended
        shop.goes_on.set()
        assert page.result().json() == page_of(SLOW)
        if len(processes) == 1:
            assert all(shop.sent.acquire(timeout=PATIENCE) for _ in pictures)
        for picture in pictures:  # one after the other: the server has nothing else to do any more
            assert hashlib.sha256(picture.content).hexdigest() == pattern_sha256(SLOW)
    assert gateway.process.wait(PATIENCE) == 0
    eventually(lambda: not any(map(is_there, processes)), message=f"of {processes} some are left")
    assert gateway.refuses()
    for sign in ("Traceback", "Error", "ERROR", "still running"):
        assert sign not in gateway.log


def is_there(pid: int) -> bool:
    """Whether it runs; whoever has ended may still be there, for its parent."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

"""The three services that the gateway is in front of, small enough to try it out: `python upstreams.py`.

Product 13 has reviews that come too late, and product 404 none at all. A picture may have 10 MB. The stock changes
every second.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Iterator

from syncflow.testing import AppServer, Request, Response, json_response, pattern_pieces

LARGEST_PICTURE = 10_000_000


def catalogue(request: Request) -> Response:
    number = number_in(request)
    if not request.path.endswith("/picture"):
        return json_response({"name": f"Product {number}", "price": number * 100 + 99})
    if request.method == "PUT":
        if len(request.body) > LARGEST_PICTURE:
            return json_response({"error": "too large"}, 413)
        return json_response({"bytes": len(request.body)}, 201)
    # Of any size, and by the million: a hundred times the product's number, in bytes.
    return Response(200, {"Content-Type": "image/x-pattern"}, map(bytes, pattern_pieces(number * 100)))


def stock(request: Request) -> Response:
    if request.path != "/events":
        return json_response({"left": number_in(request) % 7})
    first = int(request.headers.get("last-event-id") or 0) + 1
    return Response(200, {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}, changes(first))


def changes(first: int) -> Iterator[bytes]:
    for number in itertools.count(first):
        yield f'id: {number}\nevent: stock\ndata: {{"product": {number % 100}, "left": {number % 7}}}\n\n'.encode()
        time.sleep(1)


def reviews(request: Request) -> Response:
    number = number_in(request)
    if number == 13:
        time.sleep(5)
    if number == 404:
        return json_response({"error": "no reviews"}, 404)
    return json_response([{"stars": number % 6, "text": "As described."}])


def number_in(request: Request) -> int:
    found = re.search(r"\d+", request.path)
    return int(found[0]) if found else 0


if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        for port, service in ((9001, catalogue), (9002, stock), (9003, reviews)):
            server = stack.enter_context(AppServer(service, bind_to=("127.0.0.1", port)))
            print(f"{service.__name__}: {server.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()

"""The suite's application for ASGI servers: uvicorn, hypercorn. Its routes are described in `servers`.

Knows ASGI only. Runs in the server's process, on its event loop.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from syncflow.testing import pattern_pieces

TEXT = b"All work and no play makes a dull server.\n" * 20_000
LIMIT = 1 << 20
EVENTS = 3
PATIENCE = 20.0
PACKED = [(b"content-encoding", b"gzip"), (b"x-packed-by", b"application")]

# One permit for each event that may be sent, by stream.
released: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(0))

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return  # lifespan: a server that offers it goes on without
    path = scope["path"]
    stream = parse_qs(scope["query_string"].decode()).get("stream", [""])[0]
    if path == "/hello":
        await answer(send, b"hello\n")
    elif path.startswith("/bytes/"):
        await download(scope, send, int(path.removeprefix("/bytes/")))
    elif path == "/text":
        await text(scope, send)
    elif path == "/upload":
        await receipt(scope, receive, send, limit=None)
    elif path == "/limited":
        await receipt(scope, receive, send, limit=LIMIT)
    elif path == "/events":
        await events(send, stream)
    elif path == "/release":
        released[stream].release()
        await answer(send, b"")
    else:
        await answer(send, b"not here\n", 404)


async def answer(send: Send, body: bytes, status: int = 200, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def download(scope: Scope, send: Send, size: int) -> None:
    headers: Headers = [(b"content-type", b"application/octet-stream")]
    if scope["query_string"] != b"chunked":
        headers.append((b"content-length", b"%d" % size))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in pattern_pieces(size):
        await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def text(scope: Scope, send: Send) -> None:
    if b"gzip" not in dict(scope["headers"]).get(b"accept-encoding", b""):
        await answer(send, TEXT)
    else:
        await answer(send, gzip.compress(TEXT), 200, *PACKED)


async def receipt(scope: Scope, receive: Receive, send: Send, limit: int | None) -> None:
    headers = dict(scope["headers"])
    if limit is not None and int(headers.get(b"content-length", 0)) > limit:
        await answer(send, b"too large\n", 413)
        return
    digest, count, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        digest.update(message.get("body", b""))
        count += len(message.get("body", b""))
        more = message.get("more_body", False)
        if limit is not None and count > limit:
            await answer(send, b"too large\n", 413)
            return
    told = {
        "bytes": count,
        "sha256": digest.hexdigest(),
        # What the application is told of how it came, for those who run it: a proxy may have changed it.
        "content-length": headers.get(b"content-length", b"").decode() or None,
        "transfer-encoding": headers.get(b"transfer-encoding", b"").decode() or None,
    }
    await answer(send, json.dumps(told).encode())


async def events(send: Send, stream: str) -> None:
    """The first at once, each other one when it is released."""
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(EVENTS):
        if number:
            await asyncio.wait_for(released[stream].acquire(), PATIENCE)
        body = b"id: %d\ndata: event %d\n\n" % (number, number)
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})

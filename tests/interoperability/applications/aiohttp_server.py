"""aiohttp's server with the suite's application, on a listening socket that was inherited. Its routes are described in
`servers`.

Knows aiohttp.web only. Arguments: the socket's number; for TLS the files of certificate and key. The limit of a body
is aiohttp's own, `client_max_size`, which counts when a handler reads the whole body.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import socket
import ssl
import sys
from collections import defaultdict

from aiohttp import web

from syncflow.testing import pattern_pieces

TEXT = b"All work and no play makes a dull server.\n" * 20_000
LIMIT = 1 << 20
EVENTS = 3
PATIENCE = 20.0
PACKED = {"Content-Encoding": "gzip", "X-Packed-By": "application"}

released: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(0))


async def hello(request: web.Request) -> web.Response:
    return web.Response(body=b"hello\n", content_type="text/plain")


async def download(request: web.Request) -> web.StreamResponse:
    size = int(request.match_info["size"])
    response = web.StreamResponse()
    if request.query_string != "chunked":
        response.content_length = size
    await response.prepare(request)
    for piece in pattern_pieces(size):
        await response.write(bytes(piece))
    return response


async def text(request: web.Request) -> web.Response:
    if "gzip" not in request.headers.get("Accept-Encoding", ""):
        return web.Response(body=TEXT)
    return web.Response(body=gzip.compress(TEXT), headers=PACKED)


async def upload(request: web.Request) -> web.Response:
    digest, count = hashlib.sha256(), 0
    async for piece in request.content.iter_any():
        digest.update(piece)
        count += len(piece)
    told = {
        "bytes": count,
        "sha256": digest.hexdigest(),
        "content-length": request.headers.get("Content-Length"),
        "transfer-encoding": request.headers.get("Transfer-Encoding"),
    }
    return web.json_response(told)


async def limited(request: web.Request) -> web.Response:
    body = await request.read()  # raises HTTPRequestEntityTooLarge
    return web.json_response({"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()})


async def events(request: web.Request) -> web.StreamResponse:
    """The first at once, each other one when it is released."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for number in range(EVENTS):
        if number:
            await asyncio.wait_for(released[request.query["stream"]].acquire(), PATIENCE)
        await response.write(b"id: %d\ndata: event %d\n\n" % (number, number))
    return response


async def release(request: web.Request) -> web.Response:
    released[request.query["stream"]].release()
    return web.Response()


def main(number: str, *tls: str) -> None:
    application = web.Application(client_max_size=LIMIT)
    application.add_routes(
        [
            web.get("/hello", hello),
            web.get("/bytes/{size}", download),
            web.get("/text", text),
            web.put("/upload", upload),
            web.put("/limited", limited),
            web.get("/events", events),
            web.post("/release", release),
        ]
    )
    context = None
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)
    sock = socket.socket(fileno=int(number))
    web.run_app(application, sock=sock, ssl_context=context, print=None, shutdown_timeout=1.0)


if __name__ == "__main__":
    main(*sys.argv[1:])

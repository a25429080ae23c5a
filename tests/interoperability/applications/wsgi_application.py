"""The suite's application for WSGI servers: gunicorn, waitress, cheroot. Its routes are described in `servers`.

Knows WSGI only: of a body, that it ends where `wsgi.input` does or after CONTENT_LENGTH bytes. Runs in the server's
process; its requests run on several threads of it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

from syncflow.testing import pattern_pieces

TEXT = b"All work and no play makes a dull server.\n" * 20_000
LIMIT = 1 << 20
EVENTS = 3
PATIENCE = 20.0
PACKED = [("Content-Encoding", "gzip"), ("X-Packed-By", "application")]

# One permit for each event that may be sent, by stream.
released: defaultdict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(0))

Environ = dict[str, Any]


class TooLarge(Exception):
    """More than LIMIT."""


def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    stream = parse_qs(environ.get("QUERY_STRING", "")).get("stream", [""])[0]
    if path == "/hello":
        return answer(start_response, b"hello\n")
    if path.startswith("/bytes/"):
        return download(environ, start_response, int(path.removeprefix("/bytes/")))
    if path == "/text":
        return text(environ, start_response)
    if path == "/upload":
        return receipt(environ, start_response, limit=None)
    if path == "/limited":
        return receipt(environ, start_response, limit=LIMIT)
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")])
        return events(stream)
    if path == "/release":
        released[stream].release()
        return answer(start_response, b"")
    return answer(start_response, b"not here\n", "404 Not Found")


def answer(
    start_response: Callable[..., Any], body: bytes, status: str = "200 OK", *more: tuple[str, str]
) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *more])
    return [body]


def download(environ: Environ, start_response: Callable[..., Any], size: int) -> Iterable[bytes]:
    headers = [("Content-Type", "application/octet-stream")]
    if environ.get("QUERY_STRING") != "chunked":
        headers.append(("Content-Length", str(size)))
    start_response("200 OK", headers)
    return (bytes(piece) for piece in pattern_pieces(size))


def text(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    if "gzip" not in environ.get("HTTP_ACCEPT_ENCODING", ""):
        return answer(start_response, TEXT)
    return answer(start_response, gzip.compress(TEXT), "200 OK", *PACKED)


def receipt(environ: Environ, start_response: Callable[..., Any], limit: int | None) -> Iterable[bytes]:
    if limit is not None and int(environ.get("CONTENT_LENGTH") or 0) > limit:
        return answer(start_response, b"too large\n", "413 Content Too Large")
    digest, count = hashlib.sha256(), 0
    for piece in body(environ):
        digest.update(piece)
        count += len(piece)
        if limit is not None and count > limit:
            return answer(start_response, b"too large\n", "413 Content Too Large")
    told = {
        "bytes": count,
        "sha256": digest.hexdigest(),
        # What the application is told of how it came, for those who run it: servers may have changed it.
        "content-length": environ.get("CONTENT_LENGTH") or None,
        "transfer-encoding": environ.get("HTTP_TRANSFER_ENCODING"),
        "input_terminated": environ.get("wsgi.input_terminated"),
    }
    return answer(start_response, json.dumps(told).encode())


def body(environ: Environ) -> Iterator[bytes]:
    length = environ.get("CONTENT_LENGTH")
    left = int(length) if length else None
    if left is None and not environ.get("wsgi.input_terminated") and "HTTP_TRANSFER_ENCODING" not in environ:
        return
    while left is None or left > 0:
        piece = environ["wsgi.input"].read(65_536 if left is None else min(left, 65_536))
        if not piece:
            return
        if left is not None:
            left -= len(piece)
        yield piece


def events(stream: str) -> Iterator[bytes]:
    """The first at once, each other one when it is released."""
    for number in range(EVENTS):
        if number and not released[stream].acquire(timeout=PATIENCE):
            return
        yield b"id: %d\ndata: event %d\n\n" % (number, number)

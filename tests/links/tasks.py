"""What is done over bad links: each kind of request with the server that it wants, and what is right of its result.

Knows sessions and servers. Knows nothing of links, but for how many bytes each request and answer has on the wire, so
that a fault can be put at an interesting one.
"""

from __future__ import annotations

import gzip
import hashlib
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from syncflow import Session
from syncflow.testing import AppServer, FaultProxy, RangeServer, Request, Response, pattern, reply
from syncflow.testing.server import Connection, Server
from syncflow.testing.wire import Reader

# More than the watermarks of the sessions here, so that both sides push back, and little enough for a slow link.
BODY = pattern(40_000)
DIGEST = hashlib.sha256(BODY).hexdigest().encode()
SMALL = b"all is well. " * 8
GZIPPED = gzip.compress(BODY, mtime=0)
TOO_LARGE = b"too large. " * 40
EVENTS = [f"{number}: " + "something happened, " * 5 for number in range(1, 7)]
EVENT_STREAM = {"Content-Type": "text/event-stream"}


def answer(request: Request) -> Response:
    """Of an ordinary server, for most of the tasks."""
    if request.path == "/small":
        return Response(body=SMALL)
    if request.path == "/big":
        return Response(body=BODY)
    if request.path == "/chunked":
        return Response(body=(BODY[at : at + 3000] for at in range(0, len(BODY), 3000)))
    if request.path == "/gzip":
        return Response(headers={"Content-Encoding": "gzip"}, body=GZIPPED)
    if request.path == "/events":
        return events_after(int(request.headers.get("last-event-id", "0")))
    assert request.path == "/upload"
    return Response(body=hashlib.sha256(request.body).hexdigest().encode())


def events_after(number: int) -> Response:
    """The rest of them; if there is none, the stream is over."""
    if number == len(EVENTS):
        return Response(204)
    texts = [f"retry: 1\nid: {at + 1}\ndata: {EVENTS[at]}\n\n" for at in range(number, len(EVENTS))]
    return Response(headers=EVENT_STREAM, body=iter([text.encode() for text in texts]))


class Refusing(Server):
    """Answers 413 by the head alone, and lets the client see it: reads on until that one leaves, as nginx does."""

    def serve(self, connection: Connection) -> None:
        reader = Reader(connection.sock.recv_into)
        head = reader.through(b"\r\n\r\n")
        if head.startswith(b"GET"):
            connection.sock.sendall(reply(200, SMALL, {"Connection": "close"}))
            return
        connection.sock.sendall(reply(413, TOO_LARGE, {"Connection": "close"}))
        connection.half_close()
        while reader.more():
            reader.some()


class Place(NamedTuple):
    """Where a task is done: with this session, at this URL, and a folder for its files."""

    session: Session
    url: str
    folder: Path


@dataclass(frozen=True)
class Task:
    """One kind of request.

    Args:
        run: does it, and asserts the right result.
        up_body: bytes of the request's body, framing aside.
        down_body: bytes of the response's body, likewise, coding included.
        is_sized: whether the bytes on the wire are those of the head and the body, and no others.
        serve: starts the server.
        before: what is to have happened on the same connection.
        tls: whether it is spoken to over TLS.
    """

    name: str
    run: Callable[[Place], None]
    up_body: int = 0
    down_body: int = 0
    is_sized: bool = True
    serve: Callable[[ssl.SSLContext | None], Server] = lambda context: AppServer(answer, ssl_context=context)
    before: Callable[[Place], None] | None = None
    tls: bool = False

    def server(self, context: ssl.SSLContext) -> Server:
        return self.serve(context if self.tls else None)

    def place(self, session: Session, proxy: FaultProxy, folder: Path) -> Place:
        return Place(session, f"{'https' if self.tls else 'http'}://127.0.0.1:{proxy.port}", folder)

    def do(self, place: Place) -> None:
        """All of it."""
        if self.before is not None:
            self.before(place)
        self.run(place)


# ------------------------------------------------------------------------------------- what each does


def get(place: Place) -> None:
    response = place.session.get(f"{place.url}/small")
    assert (response.status_code, response.content) == (200, SMALL)


def content(place: Place) -> None:
    assert place.session.get(f"{place.url}/big").content == BODY


def stream(place: Place) -> None:
    with place.session.get(f"{place.url}/chunked", stream=True) as response:
        assert b"".join(response.iter_content(1000)) == BODY


def unzipped(place: Place) -> None:
    assert place.session.get(f"{place.url}/gzip").content == BODY


def put_file(place: Place) -> None:
    path = place.folder / "upload"
    path.write_bytes(BODY)
    with path.open("rb") as file:
        response = place.session.put(f"{place.url}/upload", data=file)
    assert (response.status_code, response.content) == (200, DIGEST)


def pieces() -> Iterator[bytes]:
    for at in range(0, len(BODY), 3000):
        yield BODY[at : at + 3000]


def put_generator(place: Place) -> None:
    response = place.session.put(f"{place.url}/upload", data=pieces())
    assert (response.status_code, response.content) == (200, DIGEST)


def push(place: Place) -> None:
    with place.session.upload("PUT", f"{place.url}/upload") as upload:
        for piece in pieces():
            upload.write(piece)
    assert (upload.response.status_code, upload.response.content) == (200, DIGEST)


def expect(place: Place) -> None:
    response = place.session.put(f"{place.url}/upload", data=BODY, headers={"Expect": "100-continue"})
    assert (response.status_code, response.content) == (200, DIGEST)


def early(place: Place) -> None:
    response = place.session.put(f"{place.url}/upload", data=(piece for _ in range(8) for piece in pieces()))
    assert (response.status_code, response.content) == (413, TOO_LARGE)


def events(place: Place) -> None:
    with place.session.sse(f"{place.url}/events", max_reconnects=2) as stream:
        stream.reconnection_time = 0.001  # until the server has said so
        assert [event.data for event in stream] == EVENTS


def save(place: Place) -> None:
    target = place.folder / "saved"
    with place.session.get(f"{place.url}/", stream=True) as response:
        assert response.save(target, resume=True) == len(BODY)
    assert target.read_bytes() == BODY
    target.unlink()


def ranges(context: ssl.SSLContext | None) -> Server:
    return RangeServer(BODY, ssl_context=context)


TASKS = [
    Task("get", get, down_body=len(SMALL)),
    Task("reuse", get, down_body=len(SMALL), before=get),
    Task("content", content, down_body=len(BODY)),
    Task("stream", stream, down_body=len(BODY), is_sized=False),
    Task("gzip", unzipped, down_body=len(GZIPPED)),
    Task("file", put_file, len(BODY), len(DIGEST)),
    Task("generator", put_generator, len(BODY), len(DIGEST), is_sized=False),
    Task("push", push, len(BODY), len(DIGEST), is_sized=False),
    Task("expect", expect, len(BODY), len(DIGEST)),
    Task("early", early, 8 * len(BODY), len(TOO_LARGE), serve=lambda context: Refusing(ssl_context=context)),
    Task("sse", events, down_body=len(EVENTS) * len(EVENTS[0]), is_sized=False),
    Task("resume", save, down_body=len(BODY), serve=ranges),
    Task("tls-get", content, down_body=len(BODY), is_sized=False, tls=True),
    Task("tls-put", put_file, len(BODY), len(DIGEST), is_sized=False, tls=True),
]
BY_NAME: dict[str, Any] = {task.name: task for task in TASKS}

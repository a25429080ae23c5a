"""Misbehaviour, ready-made: what goes wrong with real servers, one function for each.

Knows scripts that are worth a name. Each function gives a context manager: a `ScriptedServer` (whose `step()`
and `release()` set the pace) or, where there is nobody to serve, an `Endpoint`.
"""

from __future__ import annotations

import contextlib
import math
import selectors
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from syncflow.testing.scripted import Peer, ScriptedServer
from syncflow.testing.wire import CONTINUE, chunk, reply, reply_head

# A connect() over loopback succeeds within microseconds or, the queue being full, waits for a second SYN
# after a second.
FULL_AFTER = 0.1
LONGEST_QUEUE = 64


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address where nobody serves."""

    address: tuple[str, int]

    @property
    def port(self) -> int:
        return self.address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def refused_port() -> Iterator[Endpoint]:
    """A port that refuses connections, and that nobody else can be given meanwhile."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as bound:
        bound.bind(("127.0.0.1", 0))
        yield Endpoint(bound.getsockname())


@contextmanager
def full_backlog() -> Iterator[Endpoint]:
    """A listener with a full accept queue: the kernel drops the SYN, and connect() hangs."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(LONGEST_QUEUE):
            client = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            client.setblocking(False)
            client.connect_ex(address)
            if not _connects(client):
                break
        else:
            raise AssertionError(f"the accept queue took {LONGEST_QUEUE} connections and is not full")
        yield Endpoint(address)


def _connects(client: socket.socket) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_WRITE)
        return bool(selector.select(FULL_AFTER))


def early_response(
    status: int = 413,
    *,
    then: Literal["close", "reset", "linger", "stall"] = "close",
    after_bytes: int = 0,
    body: bytes = b"",
    ssl_context: ssl.SSLContext | None = None,
    receive_buffer: int | None = None,
) -> ScriptedServer:
    """Answers after `after_bytes` of the body as it comes over the wire (chunk heads count), without reading
    the rest.

    Then it closes (the kernel may make that a reset, as bytes are unread), resets, lingers as nginx does
    (FIN, and drops what still comes until the client closes) or stalls (neither reads nor closes).
    """

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.read_exactly(after_bytes)
        peer.send(reply(status, body, {"Connection": "close"}))
        if then == "reset":
            peer.reset()
        elif then == "linger":
            peer.half_close()
            peer.wait_closed()
        elif then == "stall":
            peer.stall()

    return ScriptedServer(script, ssl_context=ssl_context, receive_buffer=receive_buffer)


def trickle(
    body: bytes = b"trickle",
    *,
    period: float | None = None,
    piece: int = 1,
    head_too: bool = False,
    ssl_context: ssl.SSLContext | None = None,
) -> ScriptedServer:
    """Sends its reply `piece` bytes at a time: one for each `server.step()`, or every `period` seconds."""

    def script(peer: Peer) -> None:
        for _ in peer.requests():
            slow = body
            if head_too:
                slow = reply(200, body)
            else:
                peer.send(reply_head(200, {"Content-Length": str(len(body))}))
            peer.send_slowly((slow[at : at + piece] for at in range(0, len(slow), piece)), period=period)

    return ScriptedServer(script, ssl_context=ssl_context)


class IdleCloser(ScriptedServer):
    """See `closes_idle`; `closed_idle` is set whenever it has closed a connection."""

    def __init__(self, body: bytes, *, stepped: bool, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(self._answer_and_close, ssl_context=ssl_context)
        self.closed_idle = threading.Event()
        self._body = body
        self._stepped = stepped

    def _answer_and_close(self, peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(200, self._body))
        if self._stepped:
            peer.wait_step()
        peer.close()
        self.closed_idle.set()


def closes_idle(body: bytes = b"ok", *, stepped: bool = False, ssl_context: ssl.SSLContext | None = None) -> IdleCloser:
    """Answers as if to keep the connection, and closes it: at once, or `stepped` at `server.step()`."""
    return IdleCloser(body, stepped=stepped, ssl_context=ssl_context)


def truncated(
    body: bytes = b"x" * 1000,
    *,
    missing: int = 1,
    framing: Literal["length", "chunked"] = "length",
    reset: bool = False,
    ssl_context: ssl.SSLContext | None = None,
) -> ScriptedServer:
    """Sends a reply whose last `missing` bytes never come; chunked, the last chunk does not come either."""

    def script(peer: Peer) -> None:
        peer.read_request()
        part = body[: len(body) - missing]
        if framing == "length":
            peer.send(reply_head(200, {"Content-Length": str(len(body))}) + part)
        else:
            data = chunk(body)
            peer.send(reply_head(200, {"Transfer-Encoding": "chunked"}) + data[: len(data) - 2 - missing])
        if reset:
            peer.reset()

    return ScriptedServer(script, ssl_context=ssl_context)


def never_answers(
    *, reads: bool = True, ssl_context: ssl.SSLContext | None = None, receive_buffer: int | None = None
) -> ScriptedServer:
    """Accepts and says nothing; it reads the request and what follows, or with `reads=False` not a byte."""

    def script(peer: Peer) -> None:
        if reads:
            peer.wait_closed(math.inf)
        else:
            peer.stall()

    return ScriptedServer(script, ssl_context=ssl_context, receive_buffer=receive_buffer)


def endless_head(
    kind: Literal["fields", "line", "informational"] = "fields", *, ssl_context: ssl.SSLContext | None = None
) -> ScriptedServer:
    """Sends header fields, one field, or 1xx responses without end, until the client has had enough."""
    start, again = {
        "fields": (b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n"),
        "line": (b"HTTP/1.1 200 OK\r\nX-More: ", b"and more "),
        "informational": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"),
    }[kind]

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(start)
        while True:
            peer.send(again * 64)

    return ScriptedServer(script, ssl_context=ssl_context)


def unasked_bytes(
    extra: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    *,
    body: bytes = b"ok",
    stepped: bool = False,
    ssl_context: ssl.SSLContext | None = None,
) -> ScriptedServer:
    """Sends more than it was asked for: in one piece with the reply, or `stepped` at `server.step()`."""

    def script(peer: Peer) -> None:
        peer.read_request()
        if stepped:
            peer.send(reply(200, body))
            peer.wait_step()
            peer.send(extra)
        else:
            peer.send(reply(200, body) + extra)
        peer.wait_closed()

    return ScriptedServer(script, ssl_context=ssl_context)


def continue_then(
    status: int = 200,
    *,
    body: bytes = b"",
    informational: Iterable[bytes] = (CONTINUE,),
    reads_body: bool = True,
    stepped: bool = False,
    ssl_context: ssl.SSLContext | None = None,
) -> ScriptedServer:
    """Asserts `Expect: 100-continue`; sends `informational`, reads the body or does not, then sends the final
    response.

    `stepped` waits for `server.step()` before the first byte is sent. A final response without the 100 is
    `continue_then(417, informational=(), reads_body=False)`.
    """
    first = b"".join(informational)

    def script(peer: Peer) -> None:
        request = peer.read_request(body=False)
        assert request.expects_continue, f"no Expect: 100-continue in {request.fields}"
        if stepped:
            peer.wait_step()
        peer.send(first)
        if reads_body:
            peer.read_body(request)
        peer.send(reply(status, body, () if reads_body else {"Connection": "close"}))

    return ScriptedServer(script, ssl_context=ssl_context)

"""An ordinary HTTP/1.1 server for ordinary tests: `app(request) -> Response`, a thread for each connection.

Knows keep-alive, Content-Length and chunked replies, HEAD, 100 Continue. Knows no routes: an app looks at
`request.path`.
"""

from __future__ import annotations

import hashlib
import json
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from syncflow.testing.server import Connection, Server, Stopped
from syncflow.testing.wire import (
    Fields,
    Reader,
    Request,
    chunk,
    last_chunk,
    pairs,
    read_request,
    reply,
    reply_head,
)


@dataclass(slots=True)
class Response:
    """What an app answers.

    A `body` that is not bytes is sent piece by piece: chunked, unless there is a Content-Length in `headers`.
    """

    status: int = 200
    headers: Fields = ()
    body: bytes | Iterable[bytes] = b""
    reason: str | None = None  # None is the usual phrase


App = Callable[[Request], Response]


def json_response(value: object, status: int = 200, headers: Fields = ()) -> Response:
    return Response(status, [*pairs(headers), ("Content-Type", "application/json")], json.dumps(value).encode())


def echo(request: Request) -> Response:
    """Tells as JSON what came: method, path, query, headers, body (as text, with its length and sha256)."""
    return json_response(
        {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "headers": request.headers,
            "body": request.body.decode("utf-8", "replace"),
            "length": len(request.body),
            "sha256": hashlib.sha256(request.body).hexdigest(),
            "trailers": request.trailers,
        }
    )


class AppServer(Server):
    """Answers what `app` says. An error in the app is a 500, and comes out of the `with` block."""

    def __init__(
        self,
        app: App = echo,
        *,
        ssl_context: ssl.SSLContext | None = None,
        bind_to: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        super().__init__(ssl_context=ssl_context, bind_to=bind_to)
        self._app = app
        # Guarded by `_changed`.
        self._requests = 0
        self._seen: deque[Request] = deque(maxlen=1000)

    @property
    def requests(self) -> int:
        """How many requests have come, to their last byte."""
        with self._changed:
            return self._requests

    @property
    def seen(self) -> list[Request]:
        """The last thousand requests."""
        with self._changed:
            return list(self._seen)

    def serve(self, connection: Connection) -> None:
        sock = connection.sock
        reader = Reader(sock.recv_into)
        while reader.more():
            request = read_request(reader, sock.sendall)
            with self._changed:
                self._requests += 1
                self._seen.append(request)
            self.answer(connection, request)
            if connection.closed or not request.keeps_alive:
                return

    def answer(self, connection: Connection, request: Request) -> None:
        """Answers one request, or ends its connection."""
        answer_by(self._app, connection, request)


def answer_by(app: App, connection: Connection, request: Request) -> None:
    """Answer `request` as `app` says; an error in it is a 500, and is raised."""
    try:
        response = app(request)
    except Stopped:
        raise
    except Exception as error:
        connection.sock.sendall(reply(500, repr(error).encode(), {"Connection": "close"}))
        raise
    send_response(connection.sock.sendall, request, response)


def send_response(send: Callable[[bytes], object], request: Request, response: Response) -> None:
    """Answer `request`, and close the body if it can be closed."""
    # A reply to HEAD, and these two, end with the head, whatever it says of a length (RFC 9112, 6.3).
    bodiless = request.method == "HEAD" or response.status in (204, 304)
    body = response.body
    fields = pairs(response.headers)
    if not request.keeps_alive:
        fields.append(("Connection", "close"))  # RFC 9112, section 9.6
    if isinstance(body, bytes):
        sent = reply(response.status, body, fields, reason=response.reason)
        send(sent.removesuffix(body) if bodiless else sent)
        return
    try:
        if bodiless:
            send(reply_head(response.status, fields, reason=response.reason))
        else:
            _send_pieces(send, response, fields, body)
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


def _send_pieces(
    send: Callable[[bytes], object], response: Response, fields: list[tuple[str, str]], pieces: Iterable[bytes]
) -> None:
    framed = any(name.lower() == "content-length" for name, _ in fields)
    if not framed:
        fields.append(("Transfer-Encoding", "chunked"))
    send(reply_head(response.status, fields, reason=response.reason))
    for piece in pieces:
        if piece:
            send(piece if framed else chunk(piece))
    if not framed:
        send(last_chunk())

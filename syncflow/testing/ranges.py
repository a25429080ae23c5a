"""A server for downloads that break: one body with ETag and ranges, whose transfers are cut where the test says.

Knows the ranges of RFC 9110, section 14, as far as a download asks for them (`bytes=N-`), If-Range, and three ways to
cut. What a server may answer instead is for the test to say (`answer`).
"""

from __future__ import annotations

import re
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

from syncflow.testing.server import Connection, Server
from syncflow.testing.wire import Fields, Reader, Request, chunk, last_chunk, pairs, read_request, reply, reply_head

ASKED = re.compile(r"bytes=(\d+)-")


class RangeServer(Server):
    """Serves `body` at every path.

    A transfer is cut after so many bytes of what it was to bring as `cuts` says for it, the first number for the first
    one, None for one that is whole; so are all that follow. A chunked one that is cut behind its last byte lacks the
    last chunk. Everything but the keywords may be changed between two requests.

    Args:
        body: of the 200; a 206 has a part of it.
        cuts: bytes, a transfer each.
        etag: as in the header field, with its quotes; None for none.
        headers: more fields of the 200 and the 206.
        how: what a cut is: the connection ends, is reset, or nothing more comes.
        chunked: whether the length is not told.
        answer: given each request, what to send in place of all that; None from it is the usual.
    """

    def __init__(
        self,
        body: bytes,
        cuts: Iterable[int | None] = (),
        *,
        etag: str | None = '"1"',
        headers: Fields = (),
        how: Literal["close", "reset", "stall"] = "close",
        chunked: bool = False,
        answer: Callable[[Request], bytes | None] = lambda request: None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(ssl_context=ssl_context)
        self.body = body
        self.etag = etag
        self.headers = headers
        self._how = how
        self._chunked = chunked
        self._answer = answer
        # Guarded by `_changed`.
        self._cuts = deque(cuts)
        self._seen: list[Request] = []

    @property
    def seen(self) -> list[Request]:
        """All requests."""
        with self._changed:
            return list(self._seen)

    def cut(self, *cuts: int | None) -> None:
        """Cut transfers that are to come."""
        with self._changed:
            self._cuts.extend(cuts)

    def serve(self, connection: Connection) -> None:
        reader = Reader(connection.sock.recv_into)
        while reader.more():
            request = read_request(reader, connection.sock.sendall)
            with self._changed:
                self._seen.append(request)
                self._changed.notify_all()
            answer = self._answer(request)
            if answer is not None:
                connection.sock.sendall(answer)
            elif not self._send(connection, request):
                self._cut_off(connection, reader)
                return
            if not request.keeps_alive:
                return

    def _send(self, connection: Connection, request: Request) -> bool:
        """Whether it came to its end."""
        asked = ASKED.fullmatch(request.headers.get("range", ""))
        fields = [*pairs(self.headers), ("Accept-Ranges", "bytes")]
        if self.etag is not None:
            fields.append(("ETag", self.etag))
        status, start, size = 200, 0, len(self.body)
        # A weak tag never matches (RFC 9110, section 13.1.5); what is no tag is a date.
        is_same = request.headers.get("if-range") in {value for name, value in fields if name != "Accept-Ranges"}
        if asked is not None and (is_same or "if-range" not in request.headers):
            start = int(asked[1])
            if start >= size:
                connection.sock.sendall(reply(416, b"", {"Content-Range": f"bytes */{size}"}))
                return True
            status = 206
            fields.append(("Content-Range", f"bytes {start}-{size - 1}/{size}"))
        with self._changed:
            cut = self._cuts.popleft() if self._cuts else None
        part = self.body[start:] if cut is None else self.body[start : start + cut]
        framing = ("Transfer-Encoding", "chunked") if self._chunked else ("Content-Length", str(size - start))
        connection.sock.sendall(reply_head(status, [*fields, framing]))
        if self._chunked:
            connection.sock.sendall((chunk(part) if part else b"") + (last_chunk() if cut is None else b""))
        else:
            connection.sock.sendall(part)
        return cut is None

    def _cut_off(self, connection: Connection, reader: Reader) -> None:
        if self._how == "reset":
            connection.reset()
        elif self._how == "stall":
            while reader.more():
                reader.some()

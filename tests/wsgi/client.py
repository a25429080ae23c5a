"""A client that does what it is told on a plain socket: sends a bit, waits, reads a bit, leaves.

Knows how an answer is framed (RFC 9112), and says if it is not whole. Every wait is bounded.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
from dataclasses import dataclass, field
from typing import Any, Self

from syncflow.testing.wire import Reader

PATIENCE = 10.0


class NotWhole(AssertionError):
    """The answer has broken off."""


@dataclass
class Head:
    """Of an answer: `fields` as they came."""

    status: int
    reason: str
    fields: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None


class Client:
    """One connection."""

    def __init__(
        self, address: tuple[str, int], tls: ssl.SSLContext | None = None, *, receive_buffer: int | None = None
    ) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="127.0.0.1")
        self._reader = Reader(self.sock.recv_into)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(
        self,
        told: dict[str, Any] | None,
        *,
        method: str = "GET",
        target: str = "/",
        fields: dict[str, str] | None = None,
        body: bytes = b"",
        version: str = "1.1",
    ) -> None:
        """Send a request; a body is not announced by itself."""
        lines = [f"{method} {target} HTTP/{version}", "Host: front"]
        if told is not None:
            lines.append(f"X-Test: {json.dumps(told)}")
        lines += [f"{name}: {value}" for name, value in (fields or {}).items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def head(self, *, informational: bool = False) -> Head:
        """Of the next answer; without `informational` the next final one."""
        try:
            text = self._reader.through(b"\r\n\r\n").decode("latin-1")
        except (EOFError, ConnectionError, ssl.SSLError) as error:
            raise NotWhole(f"no head: {error!r}") from error
        first, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
        _, status, *reason = first.split(" ", 2)
        pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        head = Head(int(status), "".join(reason), pairs)
        if head.status < 200 and not informational:
            return self.head()
        return head

    def piece(self) -> bytes:
        """Some bytes of whatever comes; none at the end."""
        try:
            return bytes(self._reader.some())
        except (EOFError, ConnectionError, ssl.SSLError):
            return b""

    def chunk(self) -> bytes:
        """One chunk; none is the last."""
        try:
            size = int(self._reader.line(), 16)
            data = self._reader.exactly(size)
            assert self._reader.exactly(2) == b"\r\n"
        except (EOFError, ConnectionError, ssl.SSLError, ValueError) as error:
            raise NotWhole(f"in a chunk: {error!r}") from error
        return data

    def read(self, size: int) -> bytes:
        """So many bytes of an unframed or sized body."""
        return self._reader.exactly(size)

    def body(self, head: Head) -> bytes:
        """The rest of it. Raises NotWhole."""
        length = head.get("Content-Length")
        try:
            if "chunked" in (head.get("Transfer-Encoding") or ""):
                pieces = []
                while piece := self.chunk():
                    pieces.append(piece)
                return b"".join(pieces)
            if length is not None:
                return self._reader.exactly(int(length))
            pieces = []
            while piece := self.piece():
                pieces.append(piece)
            return b"".join(pieces)
        except (EOFError, ConnectionError, ssl.SSLError) as error:
            raise NotWhole(f"in the body: {error!r}") from error

    def answer(self) -> tuple[Head, bytes]:
        head = self.head()
        return head, self.body(head)

    def report(self) -> dict[str, Any]:
        """Of the process that this connection is with."""
        self.ask(None)
        _, body = self.answer()
        found: dict[str, Any] = json.loads(body)
        return found

    def leave(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

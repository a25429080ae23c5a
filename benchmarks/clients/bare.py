"""The limit: the same bytes over a bare socket (plain or TLS), with no client around it, and `os.sendfile`.

What is left of HTTP: finding the end of the head, and its content-length. One connection for each thread.
"""

from __future__ import annotations

import os
import platform
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

from ..workloads import MIB, ONCE_PATH, PIECE_SIZE, PIPE_PIECE_SIZE, SMALL_PATH, UPLOAD_PATH, Kind, Site
from .protocol import Client, Get

READ_SIZE = 256 * 1024
WORTH_GATHERING = 8192
"""Bytes of a piece from which three buffers in one system call are cheaper than a copy into one."""


class BareSocket(Client):
    """Blocking calls on a connected socket."""

    kinds = frozenset(Kind)

    def __init__(self, site: Site, threads: int) -> None:
        super().__init__(site, threads)
        self._context = ssl.create_default_context(cafile=site.ca) if site.ca else None
        self._kept: dict[str, socket.socket] = {}

    @staticmethod
    def version() -> str:
        return f"Python {platform.python_version()}"

    def close(self) -> None:
        for connection in self._kept.values():
            connection.close()

    @contextmanager
    def lane(self) -> Iterator[Get]:
        request = self._head("GET", SMALL_PATH)
        with closing(self._connect(self.site.small_port)) as connection:

            def get() -> bytes:
                connection.sendall(request)
                return _read_response(connection)

            yield get

    def get_fresh(self) -> bytes:
        with closing(self._connect(self.site.small_port)) as connection:
            connection.sendall(self._head("GET", ONCE_PATH, "Connection: close"))
            return _read_response(connection)

    def put_file(self, path: str) -> int:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            connection = self._bulk("PUT")
            connection.sendall(self._head("PUT", UPLOAD_PATH, f"Content-Length: {size}"))
            self._send_file(connection, file.fileno(), size)
        return int(_read_response(connection))

    def _send_file(self, connection: socket.socket, file: int, size: int) -> None:
        block = bytearray(READ_SIZE)
        view = memoryview(block)
        while read := os.readv(file, [block]):
            connection.sendall(view[:read])

    def put_pieces(self, body: Iterator[bytes]) -> int:
        connection = self._bulk("PUT")
        connection.sendall(self._head("PUT", UPLOAD_PATH, "Transfer-Encoding: chunked"))
        for piece in body:
            _send_chunk(connection, piece)
        return _end_chunks(connection)

    push = put_pieces

    def download(self, size: int) -> int:
        connection, rest = self._begin_download(size)
        received = len(rest)
        piece = bytearray(PIECE_SIZE)
        while received < size:
            count = connection.recv_into(piece)
            if not count:
                break
            received += count
        return received

    def pipe(self, size: int) -> int:
        source, rest = self._begin_download(size)
        sink = self._bulk("PUT")
        sink.sendall(self._head("PUT", UPLOAD_PATH, "Transfer-Encoding: chunked"))
        if rest:
            _send_chunk(sink, rest)
        received = len(rest)
        piece = memoryview(bytearray(PIPE_PIECE_SIZE))
        while received < size:
            count = _fill(source, piece[: size - received])
            if not count:
                break
            _send_chunk(sink, piece[:count])
            received += count
        return _end_chunks(sink)

    def _begin_download(self, size: int) -> tuple[socket.socket, bytes]:
        """The connection, and what came of the body with the head."""
        connection = self._bulk("GET")
        connection.sendall(self._head("GET", urlsplit(self.site.download(size)).path))
        _, rest = _read_head(connection)
        return connection, rest

    def _bulk(self, method: str) -> socket.socket:
        """The one connection for that method's bodies: a pipe has two at once."""
        if method not in self._kept:
            self._kept[method] = self._connect(self.site.bulk_port)
        return self._kept[method]

    def _connect(self, port: int) -> socket.socket:
        connection = socket.create_connection((self.site.host, port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is None:
            return connection
        return self._context.wrap_socket(connection, server_hostname=self.site.host)

    def _head(self, method: str, path: str, *fields: str) -> bytes:
        common = ("User-Agent: bare", "Accept: */*", "Accept-Encoding: gzip, deflate")
        lines = (f"{method} {path} HTTP/1.1", f"Host: {self.site.host}", *common, *fields, "", "")
        return "\r\n".join(lines).encode("ascii")


class BareSendfile(BareSocket):
    """The same, but the file never enters this process. There is no such thing over TLS."""

    kinds = frozenset({Kind.PUT_FILE})
    has_tls = False

    def _send_file(self, connection: socket.socket, file: int, size: int) -> None:
        offset = 0
        while offset < size:
            offset += os.sendfile(connection.fileno(), file, offset, min(size - offset, 256 * MIB))


def _send_chunk(connection: socket.socket, piece: bytes | memoryview) -> None:
    """Without a copy where the kernel gathers: a TLS object cannot, and a small piece is not worth it."""
    parts = (b"%x\r\n" % len(piece), piece, b"\r\n")
    if len(piece) < WORTH_GATHERING or isinstance(connection, ssl.SSLSocket):
        connection.sendall(b"".join(parts))
        return
    sent = connection.sendmsg(parts)
    if sent < sum(map(len, parts)):
        connection.sendall(b"".join(parts)[sent:])


def _fill(connection: socket.socket, piece: memoryview) -> int:
    """Reads what there is; over TLS, where that is one record, until the piece is full: a record by itself, framed as
    a chunk, would leave as two."""
    count = connection.recv_into(piece)
    if isinstance(connection, ssl.SSLSocket):
        while 0 < count < len(piece) and (more := connection.recv_into(piece[count:])):
            count += more
    return count


def _end_chunks(connection: socket.socket) -> int:
    """What the server has counted."""
    connection.sendall(b"0\r\n\r\n")
    return int(_read_response(connection))


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head, and what came with it of the body."""
    data = connection.recv(PIECE_SIZE)
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _receive(connection)
    return data[:end], data[end + 4 :]


def _read_response(connection: socket.socket) -> bytes:
    head, body = _read_head(connection)
    start = head.index(b"Content-Length: ") + 16
    length = int(head[start:].partition(b"\r\n")[0])
    while len(body) < length:
        body += _receive(connection)
    return body


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(PIECE_SIZE)
    if not data:
        raise ConnectionError("the server has ended the connection in the middle of an answer")
    return data

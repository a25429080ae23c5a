"""The server that all clients talk to: a process of its own, so that its GIL is not theirs.

Two kinds of port, each plain and TLS 1.3:

- *small*: one thread on epoll answers every request with a constant. A request is what ends in an empty line:
  no bodies, no pipelining.
- *bulk*: a blocking thread for each connection. An upload is read to its last byte into one reused buffer and
  only then answered, with the number of body bytes: a server that answers sooner makes a client that stops
  early look fast. A download is sent from one reused block.

`python -m benchmarks.server [CERTIFICATE]` prints its ports as one line of JSON and ends when its stdin does.
Linux only: epoll, and sendfile to a socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import ssl
import sys
import tempfile
import threading
from typing import NoReturn

from .workloads import DOWNLOAD_PATH, MIB, ONCE_PATH, SMALL_BODY

HOST = "127.0.0.1"
CRLF = b"\r\n"
HEAD_END = b"\r\n\r\n"

INTAKE_SIZE = 512 * 1024
"""Large enough for few system calls, small enough to stay in the processor's cache."""

WINDOW = 2 * MIB
WORTH_WAKING = 256 * 1024
"""How much may be on its way to a reader, and how much of a body wakes it, if that much is to come.

A reader that wakes for every packet falls asleep between them, and each waking costs the sender too. Medians
of 8 on a virtual machine, a plain reader and this one in turn, MiB/s: `os.sendfile` 2,400 and 8,300,
`sendall` 3,500 and 5,200, curl 4,000 and 3,600, pycurl 3,600 and 3,500: the limit moves, the clients hardly
do. Chunks are read plainly: with a mark for each of them all clients lost some 10 %.
"""

BLOCK_SIZE = MIB

_HEAD = (
    "HTTP/1.1 200 OK\r\n"
    "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    "Server: benchmark\r\n"
    "Content-Type: text/plain; charset=utf-8\r\n"
    "Cache-Control: max-age=60\r\n"
    "Vary: Accept-Encoding\r\n"
    "{extra}Content-Length: {length}\r\n"
    "\r\n"
)


def _head(length: int, extra: str = "") -> bytes:
    return _HEAD.format(length=length, extra=extra).encode("ascii")


KEPT_ANSWER = _head(len(SMALL_BODY)) + SMALL_BODY
LAST_ANSWER = _head(len(SMALL_BODY), "Connection: close\r\n") + SMALL_BODY
ONCE_START = b"GET %s " % ONCE_PATH.encode("ascii")


def listen() -> socket.socket:
    """Sends without pacing: BBR, the default of some systems, takes the loopback for slower than it is."""
    listener = socket.create_server((HOST, 0), backlog=256)
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    return listener


class SmallLoop:
    """Answers small GETs on any number of connections from one thread."""

    def __init__(self, listeners: list[tuple[socket.socket, ssl.SSLContext | None]]) -> None:
        self._epoll = select.epoll()
        self._listeners = {listener.fileno(): (listener, tls) for listener, tls in listeners}
        self._connections: dict[int, socket.socket] = {}
        self._partial: dict[int, bytes] = {}
        for fd, (listener, _) in self._listeners.items():
            listener.setblocking(False)
            self._epoll.register(fd, select.EPOLLIN)

    def run(self) -> NoReturn:
        connections, poll = self._connections, self._epoll.poll
        while True:
            for fd, _ in poll():
                connection = connections.get(fd)
                if connection is None:
                    self._accept(fd)
                else:
                    self._receive(fd, connection)

    def _accept(self, fd: int) -> None:
        listener, tls = self._listeners[fd]
        connection: socket.socket
        try:
            connection, _ = listener.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                # No handshake here: the first recv() makes it, as far as the peer has got, and never blocks.
                connection = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError:
            return
        self._connections[connection.fileno()] = connection
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _receive(self, fd: int, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        if not data:
            self._drop(fd)
            return
        if self._partial:
            data = self._partial.pop(fd, b"") + data
        if data.endswith(HEAD_END):
            self._answer(fd, connection, data)
        else:
            self._partial[fd] = data

    def _answer(self, fd: int, connection: socket.socket, request: bytes) -> None:
        """Some 200 bytes, one answer on its way at a time: the kernel always has room for it."""
        try:
            if request.startswith(ONCE_START):
                connection.send(LAST_ANSWER)
                self._end(connection)
            else:
                connection.send(KEPT_ANSWER)
        except OSError:
            self._drop(fd)

    def _end(self, connection: socket.socket) -> None:
        """Half-closes; dropped when the client's EOF comes, so that no reset eats the answer."""
        if isinstance(connection, ssl.SSLSocket):
            with contextlib.suppress(ssl.SSLError):  # says close_notify, then would wait for the peer's
                connection.unwrap()
        connection.shutdown(socket.SHUT_WR)

    def _drop(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self._connections.pop(fd).close()
        self._partial.pop(fd, None)


class Intake:
    """What a peer sends, in one buffer that is used again and again."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray(INTAKE_SIZE)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0

    def read_until(self, mark: bytes) -> bytes:
        """The bytes through `mark`. EOFError when the peer ends before it."""
        while (found := self._buffer.find(mark, self._start, self._end)) < 0:
            self._receive()
        begin, self._start = self._start, found + len(mark)
        return bytes(self._view[begin : self._start])

    def discard(self, count: int) -> None:
        """Reads `count` bytes and forgets them. Cheap: a buffer holds many chunks."""
        while count > 0:
            if self._start == self._end:
                self._receive()
            count -= self._take(count)

    def gather(self, count: int) -> None:
        """The same for a large count on a plain connection: sleeps until it is WORTH_WAKING, or the rest.

        It sleeps in poll() and nowhere else. A recv() that sleeps may have taken a part already; what is to
        come is then less than the mark that would wake it, and it sleeps for ever.
        """
        count -= self._take(count)
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        self._mark(WINDOW)  # Linux makes room for the mark, and keeps it when the mark goes down
        while count > 0:
            self._mark(min(count, WORTH_WAKING))
            poll.poll()
            with contextlib.suppress(BlockingIOError):
                received = self._connection.recv_into(self._view[:count], 0, socket.MSG_DONTWAIT)
                if not received:
                    raise EOFError
                count -= received
        self._mark(1)

    def _take(self, count: int) -> int:
        """How many of `count` bytes were in the buffer; they are no longer."""
        taken = min(count, self._end - self._start)
        self._start += taken
        return taken

    def _receive(self) -> None:
        kept = self._end - self._start
        self._view[:kept] = bytes(self._view[self._start : self._end])
        received = self._connection.recv_into(self._view[kept:])
        if not received:
            raise EOFError
        self._start, self._end = 0, kept + received

    def _mark(self, low_water: int) -> None:
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low_water)


def _discard_chunked(intake: Intake) -> int:
    """Reads a chunked body with its trailers; how many body bytes it had."""
    total = 0
    while size := int(intake.read_until(CRLF).partition(b";")[0], 16):
        intake.discard(size)
        if intake.read_until(CRLF) != CRLF:
            raise ValueError("a chunk longer than it says")
        total += size
    while intake.read_until(CRLF) != CRLF:
        pass
    return total


class BulkConnection:
    """One connection that carries large bodies, in a thread of its own."""

    def __init__(self, connection: socket.socket, block: int) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._intake = Intake(connection)
        self._block = block

    def run(self) -> None:
        """Until the client ends the connection."""
        with self._connection, contextlib.suppress(EOFError, OSError):
            while True:
                self._answer(self._intake.read_until(HEAD_END))

    def _answer(self, head: bytes) -> None:
        request_line, *lines = head.decode("latin-1").rstrip().split("\r\n")
        method, target, _ = request_line.split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if method == "GET":
            self._send_download(int(target.removeprefix(DOWNLOAD_PATH)))
        else:
            body = str(self._receive_upload(fields)).encode("ascii")
            self._connection.sendall(_head(len(body)) + body)

    def _receive_upload(self, fields: dict[str, str]) -> int:
        if fields.get("expect", "").lower() == "100-continue":
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fields.get("transfer-encoding", "").lower() == "chunked":
            return _discard_chunked(self._intake)
        length = int(fields.get("content-length", 0))
        if isinstance(self._connection, ssl.SSLSocket):
            self._intake.discard(length)  # it reads record by record, whatever the mark
        else:
            self._intake.gather(length)
        return length

    def _send_download(self, size: int) -> None:
        self._connection.sendall(_head(size))
        if isinstance(self._connection, ssl.SSLSocket):
            block = memoryview(os.pread(self._block, BLOCK_SIZE, 0))
            for start in range(0, size, BLOCK_SIZE):
                self._connection.sendall(block[: size - start])
            return
        while size > 0:
            size -= os.sendfile(self._connection.fileno(), self._block, 0, min(size, BLOCK_SIZE))


def _accept_bulk(listener: socket.socket, tls: ssl.SSLContext | None, block: int) -> NoReturn:
    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # a handshake that fails is the client's to report
            if tls is not None:
                connection = tls.wrap_socket(connection, server_side=True)
            BulkConnection(connection, block).run()

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def _tls_context(certificate: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate)
    return context


def main() -> None:
    contexts: dict[str, ssl.SSLContext | None] = {"plain": None}
    if sys.argv[1:]:
        contexts["tls"] = _tls_context(sys.argv[1])
    small = {name: listen() for name in contexts}
    bulk = {name: listen() for name in contexts}
    loop = SmallLoop([(small[name], tls) for name, tls in contexts.items()])
    with tempfile.TemporaryFile() as block:
        block.write(os.urandom(BLOCK_SIZE))
        block.flush()
        threading.Thread(target=loop.run, daemon=True).start()
        for name, tls in contexts.items():
            threading.Thread(target=_accept_bulk, args=(bulk[name], tls, block.fileno()), daemon=True).start()
        ports = {name: [small[name].getsockname()[1], bulk[name].getsockname()[1]] for name in contexts}
        print(json.dumps(ports), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()

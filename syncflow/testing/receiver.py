"""A server that counts what it is sent, as fast as the machine or as slowly as told.

Knows uploads (reads, counts, hashes, paces them) and how to send a pattern that can be verified. Knows no
apps. It can run in a process of its own, so that what is measured of a client does not include it: `python -m
syncflow.testing.receiver` (see `ReceiverProcess`).

    PUT or POST anything     {"bytes": n, "sha256": "...", "trailers": {...}}, after the last byte was read
    GET /bytes/N             the first N bytes of `pattern`; with ?chunked=1 chunked
    GET /stats               {"bytes": received so far, "connections": accepted, "open": connections}
"""

from __future__ import annotations

import argparse
import hashlib
import json
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from syncflow.testing.patterns import PERIOD, block, pattern_pieces
from syncflow.testing.server import WAIT_TIMEOUT, Connection, Server, Stopped
from syncflow.testing.wire import (
    CONTINUE,
    Reader,
    Request,
    last_chunk,
    parse_request,
    read_body,
    reply,
    reply_head,
)

# Measured over loopback, counting only: 2,900 MiB/s with 64 KiB, 3,300 with 256 KiB, 3,500 from 512 KiB on.
BUFFER_SIZE = 512 * 1024
# With a rate the kernel must not take megabytes on our behalf. Linux doubles it, for its book-keeping.
PACED_RECEIVE_BUFFER = 16 * 1024
# How many times a second a paced connection reads.
PACED_READS = 50


@dataclass(frozen=True, slots=True)
class Receipt:
    """What came of one upload; `sha256` is None without hash, `complete` False if the client left early."""

    bytes: int
    sha256: str | None
    trailers: dict[str, str]
    complete: bool


class Receiver(Server):
    """Receives uploads.

    `rate`: bytes a second that each connection reads at most, through a small receive buffer, so that the
    client feels it. `pause_after`: stops reading an upload after so many bytes of its body, until `resume()`.
    """

    def __init__(
        self,
        *,
        rate: float | None = None,
        pause_after: int | None = None,
        hash: bool = True,
        receive_buffer: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if receive_buffer is None and (rate is not None or pause_after is not None):
            receive_buffer = PACED_RECEIVE_BUFFER
        super().__init__(ssl_context=ssl_context, receive_buffer=receive_buffer)
        self.paused = threading.Event()  # an upload has come to `pause_after`
        self._rate = rate
        self._pause_after = pause_after
        self._hash = hash
        # Guarded by `_changed`.
        self._resumed = False
        self._received = 0
        self._receipts: list[Receipt] = []

    @property
    def bytes_received(self) -> int:
        """Body bytes read so far, over all uploads."""
        with self._changed:
            return self._received

    @property
    def receipts(self) -> list[Receipt]:
        with self._changed:
            return list(self._receipts)

    def wait_for_receipts(self, count: int, timeout: float = WAIT_TIMEOUT) -> list[Receipt]:
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self._receipts) >= count, timeout)
            assert enough, f"{len(self._receipts)} of {count} uploads ended within {timeout:g} s"
            return list(self._receipts)

    def resume(self) -> None:
        """Lets every upload go on that was paused, and those to come."""
        with self._changed:
            self._resumed = True
            self._changed.notify_all()

    def serve(self, connection: Connection) -> None:
        reader = self._reader(connection)
        while reader.more():
            request = parse_request(reader.through(b"\r\n\r\n"))
            if request.expects_continue:
                connection.sock.sendall(CONTINUE)
            if request.method in ("GET", "HEAD"):
                self._send(connection, request)
            else:
                self._receive(connection, reader, request)
            if not request.keeps_alive:
                return

    def _reader(self, connection: Connection) -> Reader:
        sock = connection.sock
        if self._rate is None:
            return Reader(sock.recv_into, BUFFER_SIZE)
        most = max(1, int(self._rate / PACED_READS))
        return Reader(lambda view: sock.recv_into(view[:most]), BUFFER_SIZE)

    def _receive(self, connection: Connection, reader: Reader, request: Request) -> None:
        digest = hashlib.sha256() if self._hash else None
        complete = False
        started, count = time.monotonic(), 0
        try:
            for piece in read_body(reader, request):
                count += len(piece)
                with self._changed:
                    self._received += len(piece)
                if digest is not None:
                    digest.update(piece)
                if self._pause_after is not None and count >= self._pause_after:
                    self._pause()
                if self._rate is not None and self.stopping.wait(
                    max(0.0, started + count / self._rate - time.monotonic())
                ):
                    raise Stopped
            complete = True
        finally:
            receipt = Receipt(count, digest.hexdigest() if digest else None, request.trailers, complete)
            with self._changed:
                self._receipts.append(receipt)
                self._changed.notify_all()
        answer = {"bytes": receipt.bytes, "sha256": receipt.sha256, "trailers": receipt.trailers}
        connection.sock.sendall(reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}))

    def _pause(self) -> None:
        with self._changed:
            if not self._resumed:
                self.paused.set()
                self._changed.wait_for(lambda: self._resumed or self.stopping.is_set())
        if self.stopping.is_set():
            raise Stopped

    def _send(self, connection: Connection, request: Request) -> None:
        room, _, rest = request.path.removeprefix("/").partition("/")
        if room == "bytes" and rest.isdecimal():
            self._send_pattern(connection, request, int(rest))
            return
        status, body = 404, b""
        if room == "stats":
            stats = {
                "bytes": self.bytes_received,
                "connections": self.connections,
                "open": self.open_connections,
            }
            status, body = 200, json.dumps(stats).encode()
        head = reply(status, body, {"Content-Type": "application/json"})
        connection.sock.sendall(head.removesuffix(body) if request.method == "HEAD" else head)

    def _send_pattern(self, connection: Connection, request: Request, length: int) -> None:
        send = connection.sock.sendall
        chunked = "chunked" in request.query
        send(reply_head(200, {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(length)}))
        if request.method == "HEAD":
            return
        if not chunked:
            for piece in pattern_pieces(length):
                send(piece)
            return
        # One whole block to a chunk, so that head and data are one piece made once.
        whole = b"%x\r\n%b\r\n" % (PERIOD, block())
        for _ in range(length // PERIOD):
            send(whole)
        if rest := length % PERIOD:
            send(b"%x\r\n%b\r\n" % (rest, block()[:rest]))
        send(last_chunk())


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until standard input ends; the first line of standard output is the URL."""
    parser = argparse.ArgumentParser(
        prog="python -m syncflow.testing.receiver", description="A server that counts what it is sent."
    )
    parser.add_argument("--rate", type=float, help="bytes a second that a connection reads")
    parser.add_argument("--no-hash", action="store_true", help="count only")
    parser.add_argument("--receive-buffer", type=int, help="SO_RCVBUF")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="files in PEM")
    chosen = parser.parse_args(arguments)
    context = None
    if chosen.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*chosen.tls)
    receiver = Receiver(
        rate=chosen.rate, hash=not chosen.no_hash, receive_buffer=chosen.receive_buffer, ssl_context=context
    )
    with receiver:
        print(receiver.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()

"""What a server does on the wire, seen by a bare socket: what a client makes of it must not blur it.

Knows as much HTTP as it needs to ask, and to see where an answer's head ends.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator

from .behaviour import CLOSES, CLOSES_UNSAID, LINGERS, READS_ON

PATIENCE = 30.0
PIECE = bytes(65_536)
# More than the kernel takes on both sides, so that it goes only if somebody reads.
ENOUGH = 48 << 20

GET_HELLO = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"


def ask(port: int, request: bytes, until: bytes = b"\r\n\r\n") -> bytes:
    """What comes in answer, up to and beyond `until`: as much as is there then."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        sock.sendall(request)
        return _read(sock, until)


def put_head(path: str, framing: str, *more: str) -> bytes:
    return "\r\n".join([f"PUT {path} HTTP/1.1", "Host: localhost", framing, *more, "", ""]).encode()


def after_refusal(port: int, *, chunked: bool) -> str:
    """Sends a body that is too large, whatever the server says meanwhile; tells what it did, in the words of
    `behaviour`."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {ENOUGH}"
        sock.sendall(put_head("/limited", framing))
        answer, all_sent = _push(sock, _body(chunked))
        assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]
        says_close = b"\r\nconnection: close\r\n" in answer.lower()
        if not all_sent:
            return CLOSES if says_close else CLOSES_UNSAID
        if says_close:
            return LINGERS
        sock.sendall(GET_HELLO)
        assert _read(sock, b"hello\n").startswith(b"HTTP/1.1 200 ")
        return READS_ON


def _body(chunked: bool) -> Iterator[bytes]:
    for _ in range(ENOUGH // len(PIECE)):
        yield b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE
    if chunked:
        yield b"0\r\n\r\n"


def _push(sock: socket.socket, pieces: Iterator[bytes]) -> tuple[bytes, bool]:
    """Sends and reads at the same time. The answer, and whether everything could be sent."""
    sock.setblocking(False)
    deadline = time.monotonic() + PATIENCE
    answer, rest, ended = b"", memoryview(b""), False
    while rest or (rest := memoryview(next(pieces, b""))):
        assert time.monotonic() < deadline, f"the server neither read nor closed within {PATIENCE:g} s"
        readable, writable, _ = select.select([] if ended else [sock], [sock], [], PATIENCE)
        try:
            if readable:
                received = sock.recv(65_536)
                ended = not received
                answer += received
            if writable:
                rest = rest[sock.send(rest) :]
        except BlockingIOError:
            pass
        except ConnectionError:
            return answer + _rest(sock), False
    sock.settimeout(PATIENCE)
    return answer if b"\r\n\r\n" in answer else answer + _read(sock, b"\r\n\r\n"), True


def _rest(sock: socket.socket) -> bytes:
    """What had come before the connection broke."""
    found = b""
    sock.settimeout(PATIENCE)
    with contextlib.suppress(ConnectionError):
        while received := sock.recv(65_536):
            found += received
    return found


def _read(sock: socket.socket, until: bytes) -> bytes:
    found = b""
    while until not in found:
        received = sock.recv(65_536)
        assert received, f"the server closed after {found[:200]!r}"
        found += received
    return found

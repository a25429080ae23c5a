"""System calls at their worst: one byte at a time, nothing at first, an error at each of them in turn.

The faults sit in the socket itself: a subclass, which the dialer's transport is given instead of the one it made.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from syncflow import RequestException, Response, Session, Timeout, Timeouts
from syncflow.engine import dialer
from syncflow.engine.tls import client_context
from syncflow.engine.transport import Transport
from syncflow.testing import AppServer, eventually, pattern
from syncflow.testing import Response as Answer
from syncflow.testing.application import Request, echo

from .conftest import SessionMaker, Wire
from .rig import counts, pool_of

pytestmark = pytest.mark.usefixtures("switching")

# More system calls than any of the requests here makes.
ENOUGH = 400


class Faults:
    """What is to go wrong with a connection's system calls, and how many there have been."""

    def __init__(self, *, one_byte: bool = False, hesitant: bool = False) -> None:
        self.one_byte = one_byte
        self.hesitant = hesitant
        self.fail_at = -1
        self.error: Callable[[], OSError] = ConnectionResetError
        self.calls = 0
        self.struck = False
        self._lock = threading.Lock()
        self._ready: set[str] = set()

    def before(self, call: str, would_block: type[OSError]) -> None:
        """Ahead of each system call that sends or receives."""
        with self._lock:
            self.calls += 1
            if self.calls - 1 == self.fail_at:
                self.struck = True
                raise self.error()
            if self.hesitant:
                if call not in self._ready:
                    self._ready.add(call)
                    raise would_block
                self._ready.discard(call)


class FaultySocket(socket.socket):
    """A plain socket."""

    faults: Faults

    def send(self, data: Any, flags: int = 0) -> int:
        self.faults.before("send", BlockingIOError)
        return super().send(data[:1] if self.faults.one_byte else data, flags)

    def sendmsg(self, buffers: Any, *args: Any) -> int:  # type: ignore[override]
        if not self.faults.one_byte:
            self.faults.before("send", BlockingIOError)
            return super().sendmsg(buffers, *args)
        return self.send(next(buffer for buffer in buffers if len(buffer)))

    def recv(self, size: int, flags: int = 0) -> bytes:
        if flags & socket.MSG_PEEK:
            return super().recv(size, flags)
        self.faults.before("recv", BlockingIOError)
        return super().recv(1 if self.faults.one_byte else size, flags)


class FaultyTLSSocket(ssl.SSLSocket):
    """A TLS socket. What OpenSSL holds decrypted is never kept back: no selector would tell of it."""

    faults: Faults

    def write(self, data: Any) -> int:
        self.faults.before("send", ssl.SSLWantWriteError)
        return super().write(data)

    def read(self, size: int = 1024, buffer: Any = None) -> Any:
        if not self.pending():
            self.faults.before("recv", ssl.SSLWantReadError)
        return super().read(1 if self.faults.one_byte else size, buffer)


Install = Callable[[Faults], Faults]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, ca_file: Path) -> Install:
    """From now on, connections have these faults."""
    sendfile = os.sendfile

    def now(faults: Faults) -> Faults:
        def plain(worker: Any, sock: socket.socket, *args: Any) -> Transport:
            faulty = FaultySocket(fileno=sock.detach())
            faulty.setblocking(False)
            faulty.faults = faults
            return Transport(worker, faulty, *args)

        def send_file(out: int, source: int, offset: int, count: int) -> int:
            faults.before("send", BlockingIOError)
            return sendfile(out, source, offset, 1 if faults.one_byte else count)

        monkeypatch.setattr(dialer, "Transport", plain)
        monkeypatch.setattr(os, "sendfile", send_file)
        monkeypatch.setattr(
            client_context(str(ca_file)), "sslsocket_class", type("Faulty", (FaultyTLSSocket,), {"faults": faults})
        )
        return faults

    return now


def answer(request: Request) -> Answer:
    """The body again, or as much as the path says, in chunks."""
    if request.path == "/echo":
        return echo(request)
    size = int(request.path[1:])
    return Answer(body=(pattern(size)[at : at + 700] for at in range(0, size, 700)))


# ---------------------------------------------------------------------- slow, but whole


@pytest.mark.parametrize(
    "faults", [{"one_byte": True}, {"hesitant": True}, {"one_byte": True, "hesitant": True}], ids=str
)
def test_whatever_the_kernel_takes_and_gives_at_once(
    session: Session, wire: Wire, install: Install, faults: dict[str, bool]
) -> None:
    install(Faults(**faults))
    body = pattern(3000)
    with AppServer(answer, ssl_context=wire.server) as server:
        assert session.get(server.url + "/2000").content == pattern(2000)
        told = session.post(server.url + "/echo", data=body).json()
        assert told["length"] == 3000
        told = session.put(server.url + "/echo", data=iter([body[:1000], b"", body[1000:]])).json()
        assert told["length"] == 3000
        with session.get(server.url + "/2000", stream=True) as response:
            assert b"".join(response.iter_content(77)) == pattern(2000)
        assert server.connections == 1


@pytest.mark.parametrize("faults", [{"one_byte": True}, {"hesitant": True}], ids=str)
def test_a_file_of_which_the_kernel_takes_little(
    session: Session, wire: Wire, install: Install, faults: dict[str, bool]
) -> None:
    install(Faults(**faults))
    # All but the last 64 KiB go through os.sendfile.
    size = 65536 + 500 if faults.get("one_byte") else 3_000_000
    with tempfile.TemporaryFile() as file, AppServer(ssl_context=wire.server) as server:
        file.write(pattern(size))
        file.seek(0)
        assert session.put(server.url, data=file).json()["length"] == size


# ---------------------------------------------------------------------- an error at each call


def _get(session: Session, url: str) -> Response:
    return session.get(url + "/3000")


def _stream(session: Session, url: str) -> Response:
    with session.get(url + "/3000", stream=True) as response:
        assert b"".join(response.iter_content(500)) == pattern(3000)
        return response


def _post(session: Session, url: str) -> Response:
    return session.post(url + "/echo", data=pattern(100_000))


def _pieces(session: Session, url: str) -> Response:
    return session.put(url + "/echo", data=[pattern(20_000)] * 5)


def _upload(session: Session, url: str) -> Response:
    with session.upload("PUT", url + "/echo") as upload:
        for _ in range(5):
            upload.write(pattern(20_000))
            upload.flush()
    response = upload.response
    response.content  # noqa: B018  # reads it
    return response


def _file(session: Session, url: str) -> Response:
    with _pattern_file() as file:
        return session.put(url + "/echo", data=file)


def _pattern_file() -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by the caller
    file.write(pattern(200_000))
    file.seek(0)
    return file


ERRORS: dict[str, Callable[[], OSError]] = {
    "reset": lambda: ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    "pipe": lambda: BrokenPipeError(errno.EPIPE, "Broken pipe"),
    "buffers": lambda: OSError(errno.ENOBUFS, "No buffer space available"),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("request_once", [_get, _stream, _post, _pieces, _upload, _file], ids=lambda f: f.__name__)
def test_an_error_at_each_call_ends_in_an_answer_or_an_exception(
    new_session: SessionMaker,
    wire: Wire,
    install: Install,
    request_once: Callable[[Session, str], Response],
    error: str,
) -> None:
    """The peer is well, so it answers nothing that it was not asked in full: nobody else would end the wait."""
    session = new_session(timeout=Timeouts(read=15, write=15))
    outcomes: set[str] = set()
    with AppServer(answer, ssl_context=wire.server) as server:
        for index in range(ENOUGH):
            faults = install(Faults())
            faults.error = ERRORS[error]
            faults.fail_at = index
            try:
                response = request_once(session, server.url)
            except RequestException as failure:
                assert not isinstance(failure, Timeout), f"call {index} was not noticed: {failure}"
                assert failure.request is not None
                assert str(failure).startswith("127.0.0.1:")
                outcomes.add("exception")
            else:
                assert response.status_code == 200
                outcomes.add("answer")
            eventually(lambda: counts(pool_of(session))[0] == counts(pool_of(session))[1])
            # Each round begins with a connection of its own.
            pool_of(session).retire()
            pool_of(session)._retired = False
            if not faults.struck:
                break
        else:
            raise AssertionError("the fault was always reached: the calls grow in number")
    assert outcomes == {"exception", "answer"}
    assert index >= 2

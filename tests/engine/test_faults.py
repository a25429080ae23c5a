"""System calls at their worst: one byte at a time, nothing at first, an error at each of them in turn.

The faults are `syncflow.testing.FaultInjector`'s, on connections of every kind of body that syncflow sends and reads.
(Each call of its own in each scenario: test_every_syscall.py.)
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable
from typing import IO

import pytest

from syncflow import RequestException, Response, Session, Timeout, Timeouts
from syncflow.testing import AppServer, Fault, FaultInjector, Receiver, eventually, pattern, pattern_sha256
from syncflow.testing import Response as Answer
from syncflow.testing.application import Request, echo
from syncflow.testing.faults import Plan

from .conftest import SessionMaker, Wire
from .rig import counts, pool_of

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("switching")]

# More system calls than any of the requests here makes.
ENOUGH = 400

# What moves bytes.
MOVING = ("send", "sendfile", "recv", "tls_read", "tls_write")

SLOW = {"one byte": [Fault.short()], "hesitant": [Fault.would_block()], "both": [Fault.short(), Fault.would_block()]}


def slow(faults: FaultInjector, how: str) -> list[Plan]:
    """From now on every call is as slow as that, if it can be."""
    return [faults.plan(*fault.calls, fault=fault, at=None) for fault in SLOW[how]]


def answer(request: Request) -> Answer:
    """The body again, or as much as the path says, in chunks."""
    if request.path == "/echo":
        return echo(request)
    size = int(request.path[1:])
    return Answer(body=(pattern(size)[at : at + 700] for at in range(0, size, 700)))


# ---------------------------------------------------------------------- slow, but whole


@pytest.mark.parametrize("how", SLOW)
def test_whatever_the_kernel_takes_and_gives_at_once(session: Session, wire: Wire, how: str) -> None:
    body = pattern(3000)
    with AppServer(answer, ssl_context=wire.server) as server, FaultInjector() as faults:
        plans = slow(faults, how)
        assert session.get(server.url + "/2000").content == pattern(2000)
        told = session.post(server.url + "/echo", data=body).json()
        assert told["length"] == 3000
        told = session.put(server.url + "/echo", data=iter([body[:1000], b"", body[1000:]])).json()
        assert told["length"] == 3000
        with session.get(server.url + "/2000", stream=True) as response:
            assert b"".join(response.iter_content(77)) == pattern(2000)
        assert server.connections == 1
        assert all(plan.struck.is_set() for plan in plans)


@pytest.mark.parametrize("how", ["one byte", "hesitant"])
def test_a_file_of_which_the_kernel_takes_little(session: Session, wire: Wire, how: str) -> None:
    # All but the last 64 KiB go through os.sendfile.
    size = 65536 + 500 if how == "one byte" else 3_000_000
    with (
        tempfile.TemporaryFile() as file,
        Receiver(ssl_context=wire.server) as server,
        FaultInjector() as faults,
    ):
        slow(faults, how)
        file.write(pattern(size))
        file.seek(0)
        told = session.put(server.url, data=file).json()
        assert (told["bytes"], told["sha256"]) == (size, pattern_sha256(size))
        assert wire.server or faults.calls["sendfile"]


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


ERRORS = {"reset": errno.ECONNRESET, "pipe": errno.EPIPE, "buffers": errno.ENOBUFS}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("request_once", [_get, _stream, _post, _pieces, _upload, _file], ids=lambda f: f.__name__)
def test_an_error_at_each_call_ends_in_an_answer_or_an_exception(
    new_session: SessionMaker, wire: Wire, request_once: Callable[[Session, str], Response], error: str
) -> None:
    """The peer is well, so it answers nothing that it was not asked in full: nobody else would end the wait."""
    session = new_session(timeout=Timeouts(read=15, write=15))
    outcomes: set[str] = set()
    with AppServer(answer, ssl_context=wire.server) as server, FaultInjector() as faults:
        for index in range(ENOUGH):
            faults.clear()
            plan = faults.plan(*MOVING, fault=Fault.error(ERRORS[error]), at=index)
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
            if not plan.struck.is_set():
                break
        else:
            raise AssertionError("the fault was always reached: the calls grow in number")
    assert outcomes == {"exception", "answer"}
    assert index >= 2

"""Peers that vanish without a word: the cable is pulled, or a router in between has forgotten the connection.

Knows two hosts of its own (namespaces), because on loopback nobody vanishes: the kernel ends what a process had open.
The probes that are set on each socket would come after a minute; these tests make them come after a second.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import syncflow
from syncflow import PoolLimits, Session, Timeouts
from syncflow.testing import Peer, ScriptedServer, eventually, reply, reply_head

from .concurrency import Call
from .engine.rig import connection_of, transports
from .namespaces import SECOND, SERVER, Cable, Refused, lay_cable

NewSession = Callable[..., Session]

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the socket options are Linux's"),
]

# What nobody would set: a probe after a second, and one is enough.
PROBES = [(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}", 0), 1) for name in ("IDLE", "INTVL", "CNT")]
# The user's own, in milliseconds: how long something may be under way without being acknowledged.
GIVES_UP = [(socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", 0), 300)]

# No limit of ours: what ends, ends because the kernel has noticed.
PATIENT = Timeouts(read=None, write=None)


@pytest.fixture
def cable(ip_required: None) -> Iterator[Cable]:
    if os.geteuid():
        pytest.skip("making network namespaces takes root")
    try:
        with lay_cable() as cable:
            yield cable
    except Refused as refused:
        pytest.skip(f"no network namespaces here: {refused}")


def answers(peer: Peer) -> None:
    for request in peer.requests():
        if request.path == "/half":
            peer.send(reply_head(200, {"Content-Length": "10"}) + b"half")
            peer.stall()
        peer.send(reply(200, b"ok"))


def never_reads(peer: Peer) -> None:
    peer.read_head()
    peer.stall()


class Host:
    """The server's: it serves at both addresses."""

    def __init__(self, cable: Cable, serve: Callable[[Peer], None] = answers) -> None:
        self.address = SERVER  # what the name stands for
        with cable.at_server():
            self._server = ScriptedServer(serve, bind_to=("0.0.0.0", 0)).__enter__()  # of its own host
        self.url = f"http://service.test:{self._server.port}/"

    def resolve(self, host: str, port: int) -> list[str]:
        return [self.address]

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.__exit__(None, None, None)


def is_timed_out(error: BaseException) -> bool:
    """The kernel has said so. (Where there is no carrier it says that there is no route.)"""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ETIMEDOUT, errno.EHOSTUNREACH)


# -------------------------------------------------------------------------------------------- nothing under way


def test_probes_are_set_on_each_socket(new_session: NewSession) -> None:
    with ScriptedServer(answers) as server:
        session = new_session()
        session.get(server.url)
        (transport,) = transports(session)

        def option(name: str) -> int:
            return transport._sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))

        assert transport._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert [option(name) for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")] == [60, 10, 5]
        # Not ours to set: Linux also gives up on a peer that acknowledges, and takes nothing for so long. That is
        # backpressure, and how long it may last is for `Timeouts.write` to say.
        assert option("TCP_USER_TIMEOUT") == 0


def test_probes_notice_that_nobody_is_there(cable: Cable, new_session: NewSession) -> None:
    """On a connection that is idle, and on one whose answer is awaited, without any limit."""
    with Host(cable) as host, cable.at_client():
        session = new_session(resolver=host.resolve, socket_options=PROBES, timeout=PATIENT)
        with session.get(f"{host.url}half", stream=True) as half:
            assert half.raw.read(4) == b"half"
            session.get(host.url)
            assert (session.stats().idle, session.stats().in_use) == (1, 1)
            cable.pull()
            reading = Call(half.raw.read, 1)
            error = reading.error()
            assert isinstance(error, syncflow.ChunkedEncodingError)
            assert is_timed_out(error)
        eventually(lambda: session.stats().open == 0, message="the idle one is kept")


# -------------------------------------------------------------------------------------------- something under way


def test_a_request_into_the_void_ends_by_its_own_limit(cable: Cable, new_session: NewSession) -> None:
    """There are no probes while something waits to be acknowledged. The connection is not used again, and the next
    one goes to where the server is now."""
    with Host(cable) as host, cable.at_client():
        session = new_session(resolver=host.resolve, timeout=Timeouts(read=0.2))
        assert session.get(host.url).peer[0] == SERVER
        cable.lose_first()
        host.address = SECOND
        with pytest.raises(syncflow.ReadTimeout):
            session.get(host.url)
        assert session.get(host.url).peer[0] == SECOND
        assert session.stats().open == 1


def test_where_the_kernel_gives_up_a_safe_request_is_sent_again(cable: Cable, new_session: NewSession) -> None:
    with Host(cable) as host, cable.at_client():
        session = new_session(resolver=host.resolve, socket_options=GIVES_UP, timeout=PATIENT)
        assert session.get(host.url).peer[0] == SERVER
        cable.lose_first()
        host.address = SECOND
        assert session.get(host.url).peer[0] == SECOND
        assert session.stats().open == 1


def test_where_the_kernel_gives_up_another_request_is_not(cable: Cable, new_session: NewSession) -> None:
    with Host(cable) as host, cable.at_client():
        session = new_session(resolver=host.resolve, socket_options=GIVES_UP, timeout=PATIENT)
        session.get(host.url)
        cable.lose_first()
        host.address = SECOND
        with pytest.raises(syncflow.ConnectionError, match="may or may not have been processed") as caught:
            session.post(host.url, data=b"once")
        assert not isinstance(caught.value, syncflow.Timeout)
        assert is_timed_out(caught.value)
        assert session.post(host.url, data=b"again").peer[0] == SECOND


@pytest.mark.parametrize("limit", ["ours", "the kernel's"])
def test_an_upload_into_the_void(cable: Cable, new_session: NewSession, limit: str, tmp_path: Path) -> None:
    options, timeout = ([], Timeouts(write=0.3)) if limit == "ours" else (GIVES_UP, PATIENT)
    with Host(cable, never_reads) as host, cable.at_client():
        session = new_session(
            resolver=host.resolve, socket_options=options, timeout=timeout, pool=PoolLimits(per_host=1)
        )
        with pytest.raises(syncflow.RequestException) as caught:
            with session.upload("PUT", host.url) as upload:
                upload.write(b"x" * 1000)
                eventually(lambda: connection_of(upload).transport.unacknowledged() == 0)
                cable.pull()
                while True:
                    upload.write(b"x" * 100_000)
        if limit == "ours":
            assert isinstance(caught.value, syncflow.WriteTimeout)
        else:
            assert isinstance(caught.value, syncflow.ConnectionError)
            assert is_timed_out(caught.value)
        eventually(lambda: session.stats().open == 0)

"""Two hosts in one process: network namespaces with a cable between them that can be pulled.

Knows `ip` (Debian's iproute2) and setns(2): a socket stays in the namespace in which it was made, whoever uses it.
Knows nothing of syncflow. Linux only; needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["CLIENT", "SECOND", "SERVER", "Cable", "Refused", "lay_cable"]

# From the addresses that RFC 5737 keeps for documentation; nobody else sees them.
CLIENT = "192.0.2.1"
SERVER = "192.0.2.2"
SECOND = "192.0.2.3"  # the server's, too

CLONE_NEWNET = 0x40000000  # <sched.h>

_numbers = itertools.count()


class Refused(Exception):
    """The system makes no namespaces for us."""


class Cable:
    """Between the client's namespace and the server's."""

    def __init__(self, client: str, server: str) -> None:
        self._client = client
        self._server = server

    def at_client(self) -> contextlib.AbstractContextManager[None]:
        """What this thread connects in the block, it connects from the client's host."""
        return _inside(self._client)

    def at_server(self) -> contextlib.AbstractContextManager[None]:
        """What this thread binds in the block belongs to the server's host."""
        return _inside(self._server)

    def pull(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        ip(f"-n {self._server} link set far down")

    def lose_first(self) -> None:
        """The server's host does not have the address `SERVER` any more. What is sent there is dropped without a word,
        as by a router that has forgotten a connection."""
        ip(f"-n {self._server} addr del {SERVER}/32 dev far")


@contextlib.contextmanager
def lay_cable() -> Iterator[Cable]:
    """Two hosts, one at `CLIENT`, one at `SERVER` and at `SECOND`.

    Raises:
        Refused: no namespace can be made here.
    """
    number = next(_numbers)
    client, server = (f"syncflow-{os.getpid()}-{number}-{end}" for end in ("client", "server"))
    with contextlib.ExitStack() as undo:
        try:
            for name in (client, server):
                ip(f"netns add {name}")
                undo.callback(ip, f"netns del {name}")
            _connect(client, server)
        except subprocess.CalledProcessError as error:
            raise Refused(f"`{' '.join(error.cmd)}` says: {error.stderr.strip()}") from error
        yield Cable(client, server)


def _connect(client: str, server: str) -> None:
    ip(f"-n {client} link add near address 02:00:00:00:00:01 type veth peer name far netns {server}")
    ip(f"-n {server} link set far address 02:00:00:00:00:02")
    ip(f"-n {client} addr add {CLIENT}/24 dev near")
    # The first can go without the second, which keeps the way back.
    ip(f"-n {server} addr add {SERVER}/32 dev far")
    ip(f"-n {server} addr add {SECOND}/24 dev far")
    ip(f"-n {client} link set near up")
    ip(f"-n {server} link set far up")
    for address in (SERVER, SECOND):
        # Known for good: who is not there any more would otherwise be missed when nobody answers for the address.
        ip(f"-n {client} neigh replace {address} lladdr 02:00:00:00:00:02 nud permanent dev near")
    ip(f"-n {server} neigh replace {CLIENT} lladdr 02:00:00:00:00:01 nud permanent dev far")


def ip(arguments: str) -> None:
    program = shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin") or "ip"
    subprocess.run([program, *arguments.split()], check=True, capture_output=True, text=True, timeout=10)


@contextlib.contextmanager
def _inside(name: str) -> Iterator[None]:
    """This thread alone, for the block."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(Path("/run/netns") / name, os.O_RDONLY)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(before)
    finally:
        os.close(before)


def _setns(namespace: int) -> None:
    """`os.setns`, which Python has from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

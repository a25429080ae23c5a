"""A server's program as a process of its own, from its start until it has ended.

Knows sockets, processes and how to see that a server answers. Knows no server.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# The slowest start that was seen took 19 s, on two cores that twelve others wanted too.
START_TIMEOUT = 45.0
STOP_TIMEOUT = 10.0
# A program that cannot be given a listening socket may lose its port to another process before it listens.
ATTEMPTS = 5

APPLICATIONS = Path(__file__).parent / "applications"


class DidNotStart(AssertionError):
    """With the program's log."""


@contextlib.contextmanager
def inheriting(command: Callable[[int], list[str]], log: Path, *, tls: bool) -> Iterator[int]:
    """Starts what `command` makes of the number of a listening socket, which the program takes over, so that nobody
    else can be given its port; yields the port, once the program answers there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(511)
        port: int = listener.getsockname()[1]
        process = _start(command(listener.fileno()), log, inherited=[listener.fileno()])
    try:
        _wait_until_it_answers(process, port, log, tls)
        yield port
    finally:
        _stop(process)


@contextlib.contextmanager
def on_a_free_port(command: Callable[[int], list[str]], log: Path, *, tls: bool) -> Iterator[int]:
    """Starts what `command` makes of a port number; yields the port, once the program answers there."""
    process, port = _start_on_a_free_port(command, log, tls)
    try:
        yield port
    finally:
        _stop(process)


def _start_on_a_free_port(
    command: Callable[[int], list[str]], log: Path, tls: bool
) -> tuple[subprocess.Popen[bytes], int]:
    for _ in range(ATTEMPTS):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        process = _start(command(port), log)
        try:
            _wait_until_it_answers(process, port, log, tls)
        except DidNotStart as error:
            last = error
            _stop(process)
        except BaseException:
            _stop(process)
            raise
        else:
            return process, port
    raise last


def _start(command: list[str], log: Path, inherited: list[int] | None = None) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(APPLICATIONS), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=inherited or [],
            env={**os.environ, "PYTHONPATH": path},
            process_group=0,  # a Ctrl-C is meant for us
        )


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path, tls: bool) -> None:
    """An inherited socket accepts from the start, so only an answer shows that the program is there."""
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if _status(port, tls) == 200:
                return
        except (OSError, http.client.HTTPException):
            pass  # refused, until it listens
        time.sleep(0.01)
    raise DidNotStart(f"{process.args!r} did not answer; its log:\n{log.read_text(errors='replace')}")


def _status(port: int, tls: bool) -> int:
    connection: http.client.HTTPConnection
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=START_TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)
    with contextlib.closing(connection):
        connection.request("GET", "/hello")
        with connection.getresponse() as response:
            return response.status


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def python(*arguments: str) -> list[str]:
    """A program of this interpreter."""
    return [sys.executable, *arguments]

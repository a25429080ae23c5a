"""A Receiver in a process of its own, so that neither its memory nor its share of the GIL counts as the
client's.

Knows how to start and end the process. What it serves is said in `receiver`.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from types import TracebackType
from typing import IO, Self
from urllib.parse import urlsplit

START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0


class ReceiverProcess:
    """`python -m syncflow.testing.receiver` for the time of a `with` block.

    `tls` names a certificate and a key in PEM.
    """

    def __init__(
        self,
        *,
        rate: float | None = None,
        hash: bool = True,
        receive_buffer: int | None = None,
        tls: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    ) -> None:
        self._command = [sys.executable, "-m", "syncflow.testing.receiver"]
        if rate is not None:
            self._command += ["--rate", str(rate)]
        if not hash:
            self._command += ["--no-hash"]
        if receive_buffer is not None:
            self._command += ["--receive-buffer", str(receive_buffer)]
        if tls is not None:
            self._command += ["--tls", *(os.fspath(path) for path in tls)]
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        if not self._url:
            raise RuntimeError("a ReceiverProcess has a URL inside its with block")
        return self._url

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("a ReceiverProcess has a pid inside its with block")
        return self._process.pid

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # a Ctrl-C is meant for us; its end comes with that of standard input
        )
        assert self._process.stdout is not None
        try:
            self._url = _first_line(self._process.stdout)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status = self._end()
        if error is None:
            assert status == 0, f"the receiver's process ended with status {status}; its standard error says why"

    def _end(self) -> int:
        process, self._process, self._url = self._process, None, ""
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            return process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the receiver's process did not end within {STOP_TIMEOUT:g} s") from None
        finally:
            process.stdout.close()


def _first_line(stdout: IO[bytes]) -> str:
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        assert selector.select(START_TIMEOUT), f"the receiver's process said nothing within {START_TIMEOUT:g} s"
    line = stdout.readline().decode().strip()
    assert line, "the receiver's process ended at once; its standard error says why"
    return line

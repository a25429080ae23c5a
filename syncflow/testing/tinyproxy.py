"""A real tinyproxy in a temporary directory, for the time of a `with` block.

Knows how to configure, start and end it. Needs `tinyproxy` on the PATH; says `NotInstalled` if it is not there.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from syncflow.testing.nginx import NotInstalled

START_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0
# It cannot be given a listening socket, so another process may take its port before it does.
ATTEMPTS = 5


class Tinyproxy:
    """An HTTP proxy on 127.0.0.1 that connects to every port; with `credentials` only for who knows them."""

    def __init__(self, *, credentials: tuple[str, str] | None = None) -> None:
        self._credentials = credentials
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def port(self) -> int:
        if not self._port:
            raise RuntimeError("a Tinyproxy has a port inside its with block")
        return self._port

    @property
    def log(self) -> str:
        """What it has to say of its connections, one by one."""
        return (self._prefix / "log").read_text()

    @property
    def _prefix(self) -> Path:
        if self._folder is None:
            raise RuntimeError("a Tinyproxy has a folder inside its with block")
        return Path(self._folder.name)

    def __enter__(self) -> Self:
        program = shutil.which("tinyproxy", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if program is None:
            raise NotInstalled("tinyproxy is not on the PATH")
        self._folder = tempfile.TemporaryDirectory(prefix="syncflow-tinyproxy-")
        try:
            for _ in range(ATTEMPTS):
                if self._start(program):
                    return self
            raise AssertionError(f"tinyproxy did not start; its log:\n{self.log}")
        except BaseException:
            self._stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, program: str) -> bool:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        (self._prefix / "log").write_text("")
        lines = [f"Port {self._port}", "Listen 127.0.0.1", f'LogFile "{self._prefix / "log"}"', "LogLevel Connect"]
        if self._credentials is not None:
            lines.append("BasicAuth {} {}".format(*self._credentials))
        configuration = self._prefix / "tinyproxy.conf"
        configuration.write_text("\n".join(lines) + "\n")
        self._process = subprocess.Popen(
            [program, "-d", "-c", str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self._listens()

    def _listens(self) -> bool:
        """Whether it is there; it is not if somebody else has its port."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=START_TIMEOUT).close()
            except ConnectionRefusedError:
                time.sleep(0.01)
            else:
                return True
        return False

    def _stop(self) -> None:
        process, self._process, self._port = self._process, None, 0
        folder, self._folder = self._folder, None
        try:
            if process is not None:
                process.kill()  # asked to end, it waits for the last of its connections
                process.wait(STOP_TIMEOUT)
        finally:
            if folder is not None:
                folder.cleanup()

"""A real nginx in a temporary directory, for the time of a `with` block.

Knows how to configure, start and end it. Needs `nginx` on the PATH; says `NotInstalled` if it is not there.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

START_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0

# PUT under /upload/ writes files; the static files are beside it.
UPLOADS = """
location /upload/ { dav_methods PUT DELETE; create_full_put_path on; }
"""

CONFIGURATION = """
daemon off;
worker_processes 1;
{user}
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    client_max_body_size 0;
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;
    server {{
        listen 127.0.0.1:{port}{ssl};
        server_name localhost;
        root files;
        {tls}
        {snippet}
    }}
}}
"""


class NotInstalled(RuntimeError):
    """There is no nginx on this machine."""


class Nginx:
    """Serves the files under `root`, and what `snippet` (the inside of a server block) says.

    `tls` names a certificate and a key in PEM.
    """

    def __init__(
        self,
        snippet: str = UPLOADS,
        *,
        tls: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    ) -> None:
        self._snippet = snippet
        self._tls = tls
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def port(self) -> int:
        if not self._port:
            raise RuntimeError("an Nginx has a port inside its with block")
        return self._port

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def prefix(self) -> Path:
        if self._folder is None:
            raise RuntimeError("an Nginx has a folder inside its with block")
        return Path(self._folder.name)

    @property
    def root(self) -> Path:
        """The folder of the files that are served; uploads come here too."""
        return self.prefix / "files"

    @property
    def error_log(self) -> str:
        log = self.prefix / "error.log"
        return log.read_text() if log.exists() else ""

    def __enter__(self) -> Self:
        program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if program is None:
            raise NotInstalled("nginx is not on the PATH")
        self._folder = tempfile.TemporaryDirectory(prefix="syncflow-nginx-")
        self.root.mkdir()
        (self.prefix / "temp").mkdir()
        try:
            self._start(program)
            self._wait_until_it_answers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, program: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(511)
            self._port = listener.getsockname()[1]
            self._configure()
            # nginx takes over listening sockets that the variable NGINX numbers (its way of upgrading
            # itself), so that there is no moment at which another process could be given the port.
            self._process = subprocess.Popen(
                [program, "-p", f"{self.prefix}/", "-c", "nginx.conf", "-e", "error.log"],
                env={**os.environ, "NGINX": f"{listener.fileno()};"},
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def _configure(self) -> None:
        tls = ""
        if self._tls is not None:
            certificate, key = (Path(path).resolve() for path in self._tls)
            tls = f'ssl_certificate "{certificate}"; ssl_certificate_key "{key}";'
        # Started by root, the worker would be nobody, who may not read our folder.
        user = f"user {_user()};" if os.geteuid() == 0 else ""
        configuration = CONFIGURATION.format(
            user=user, port=self._port, ssl=" ssl" if tls else "", tls=tls, snippet=self._snippet
        )
        (self.prefix / "nginx.conf").write_text(configuration)

    def _wait_until_it_answers(self) -> None:
        """The listening socket accepts from the start, so only an answer shows that nginx is there.

        It answers this with 400, also where it expects TLS, and does not log it.
        """
        try:
            with socket.create_connection(self.address, timeout=START_TIMEOUT) as probe:
                probe.sendall(b"PING\r\n\r\n")
                answered = probe.recv(1) != b""
        except OSError:  # refused or reset: it has ended; or timed out
            answered = False
        if not answered:
            raise AssertionError(f"nginx did not answer; its log:\n{self.error_log}")

    def _stop(self) -> None:
        process, self._process, self._port = self._process, None, 0
        folder, self._folder = self._folder, None
        try:
            if process is not None:
                process.terminate()
                process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            assert process is not None
            process.kill()
            process.wait()
            raise AssertionError(f"nginx did not end within {STOP_TIMEOUT:g} s") from None
        finally:
            if folder is not None:
                folder.cleanup()


def _user() -> str:
    return f"{pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name}"

"""examples/api_gateway as its README starts it, in front of services that a test makes up.

Knows how the two servers are started and told where to listen, and that nothing of them is left behind. Knows no route.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from syncflow import Session
from syncflow.testing import AppServer, echo, eventually

FOLDER = Path(__file__).parent.parent.parent / "examples" / "api_gateway"

# Seconds; four interpreters on a busy machine take their time.
PATIENCE = 30.0


class Gateway:
    """A server's process, and those that it has started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.url = ""
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def workers(self) -> set[int]:
        """The processes that it has forked."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return set(map(int, children.read_text().split()))

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def refuses(self) -> bool:
        """Whether nobody listens there any more."""
        try:
            socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), PATIENCE).close()
        except ConnectionError:
            return True
        return False

    def kill(self) -> None:
        """With all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


Start = Callable[..., Gateway]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start("gunicorn" or "waitress", options of gunicorn, catalogue=, stock=, reviews=, deadline=)`; each service is
    the block of a server, that has a URL."""
    with contextlib.ExitStack() as stack:

        def start(
            server: str, *options: str, deadline: float = PATIENCE, **services: AbstractContextManager[Any]
        ) -> Gateway:
            environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
            environment.pop("PYTHONSAFEPATH", None)  # their own folder is where they import from
            environment["PAGE_DEADLINE"] = str(deadline)
            for name in ("catalogue", "stock", "reviews"):
                service = stack.enter_context(services.get(name) or AppServer(echo))
                environment[f"{name.upper()}_URL"] = service.url
            log = tmp_path / "log"
            run = _gunicorn if server == "gunicorn" else _waitress
            return run(stack, options, environment, log)

        yield start


def _gunicorn(stack: contextlib.ExitStack, options: tuple[str, ...], environment: dict[str, str], log: Path) -> Gateway:
    """With a socket that listens already: whoever comes before it is there waits a little."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(511)
        command = ["-m", "gunicorn", "--no-control-socket", "--bind", f"fd://{listener.fileno()}", *options]
        gateway = _started(stack, command, environment, log, inherited=[listener.fileno()])
        gateway.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    return gateway


def _waitress(stack: contextlib.ExitStack, options: tuple[str, ...], environment: dict[str, str], log: Path) -> Gateway:
    gateway = _started(stack, ["-W", "error", "serve_waitress.py", "127.0.0.1:0", *options], environment, log)
    eventually(lambda: "\n" in gateway.log or gateway.process.poll() is not None, PATIENCE)
    said = re.match(r"http://127\.0\.0\.1:\d+", gateway.log)
    assert said, gateway.log
    gateway.url = said[0]
    return gateway


def _started(
    stack: contextlib.ExitStack,
    command: list[str],
    environment: dict[str, str],
    log: Path,
    inherited: list[int] | None = None,
) -> Gateway:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=inherited or [],
            env=environment,
            cwd=FOLDER,
            process_group=0,
        )
    gateway = Gateway(process, log)
    stack.callback(gateway.kill)
    return gateway


@pytest.fixture
def client() -> Iterator[Session]:
    with Session(timeout=PATIENCE) as session:
        session.trust_env = False
        yield session


class Entered(contextlib.nullcontext[Any]):
    """A service that a test has started itself."""

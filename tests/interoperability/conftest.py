"""The servers as fixtures: each is started when a test first asks for it, and ended with the run.

Knows what each needs. How it is started is said in `servers`, which tests run with it in `selection`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncflow import Session

from .servers import BACKEND, SERVERS, Running, Server, Setting

Start = Callable[..., Running]


@pytest.fixture(scope="session")
def running(require: Callable[[str], None], server_tls_files: tuple[Path, Path]) -> Iterator[Start]:
    """`running(name, tls=False)`: a server that answers."""
    started: dict[tuple[str, bool], Running] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str, *, tls: bool = False) -> Running:
            if (name, tls) not in started:
                server = SERVERS[name]
                if server.program is not None:
                    require(server.program)
                _require_modules(server)
                backend = start(BACKEND).port if server.backed else 0
                setting = Setting(server_tls_files if tls else None, backend)
                started[name, tls] = stack.enter_context(server.start(setting))
            return started[name, tls]

        yield start


def _require_modules(server: Server) -> None:
    """As `require`, for the modules of a program and the packages of Python."""
    missing = [path for path in server.modules if not Path(path).exists()]
    if server.package is not None and importlib.util.find_spec(server.package) is None:
        missing.append(server.package)
    if missing:
        if os.environ.get("SYNCFLOW_CI") == "1":
            pytest.fail(f"{', '.join(missing)}: not installed, and SYNCFLOW_CI asks for it")
        pytest.skip(f"{', '.join(missing)}: not installed")


@pytest.fixture
def server(request: pytest.FixtureRequest, running: Start) -> Running:
    """The one that the test was given by `selection`."""
    name, tls = request.param
    return running(name, tls=tls)


@pytest.fixture
def session(new_session: Callable[..., Session]) -> Session:
    return new_session()

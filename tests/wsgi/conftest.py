"""The servers of these tests, all of them started once, before any test of this folder."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import servers
from .servers import NAMES, Running


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """By their names. Together, because what a test starts by itself it has to end as well."""
    with contextlib.ExitStack() as stack:
        starts = [
            servers.gunicorn(tmp_path_factory.mktemp("gunicorn")),
            servers.cheroot(),
            servers.waitress(),
            servers.werkzeug(),
            servers.wsgiref_server(),
            servers.wsgiref_server(validated=True),
        ]
        yield {started.name: started for started in map(stack.enter_context, starts)}


@pytest.fixture(params=NAMES)
def server(request: pytest.FixtureRequest, running: dict[str, Running]) -> Running:
    """Each of them in turn, or those that a test names."""
    return running[request.param]


@pytest.fixture(scope="module")
def gunicorn_tls(
    client_tls: ssl.SSLContext, server_tls_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("gunicorn-tls")
    with servers.gunicorn(folder, tls=(client_tls, *server_tls_files), name="gunicorn over TLS") as started:
        yield started

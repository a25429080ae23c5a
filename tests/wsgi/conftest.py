"""The servers of these tests, started once for each file that asks for them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import servers
from .servers import Running

NAMES = ["gunicorn", "cheroot", "waitress", "werkzeug", "wsgiref", "wsgiref-validated"]


@pytest.fixture(scope="module", params=NAMES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Each of them in turn."""
    with _started(request.param, tmp_path_factory) as running:
        yield running


def _started(name: str, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    if name == "gunicorn":
        return servers.gunicorn(tmp_path_factory.mktemp("gunicorn"))
    if name.startswith("wsgiref"):
        return servers.wsgiref_server(validated="validated" in name)
    return getattr(servers, name)()


@pytest.fixture(scope="module")
def gunicorn_tls(
    client_tls: ssl.SSLContext, server_tls_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("gunicorn-tls")
    with servers.gunicorn(folder, tls=(client_tls, *server_tls_files), name="gunicorn over TLS") as running:
        yield running


@pytest.fixture(scope="module")
def cheroot() -> Iterator[Running]:
    with servers.cheroot() as running:
        yield running

"""TLS with every server that knows it. What it carries is tested beside the same without it."""

from __future__ import annotations

import pytest

from syncflow import ConnectTimeout, Session, SSLError

from .behaviour import NONE, TLS
from .selection import EACH_TLS, on, those
from .servers import Running


@EACH_TLS
def test_a_name_of_the_certificate(session: Session, server: Running) -> None:
    assert server.url.startswith("https:")
    assert session.get(f"https://localhost:{server.port}/hello").content == b"hello\n"


@EACH_TLS
def test_a_certificate_of_an_unknown_authority(session: Session, server: Running) -> None:
    with pytest.raises(SSLError):
        session.get(f"{server.url}/hello", verify=True)
    assert session.get(f"{server.url}/hello").content == b"hello\n"


@on(*those(TLS, NONE))
def test_no_tls(session: Session, server: Running) -> None:
    """A handshake is no request to it, and it waits for the rest of one."""
    with pytest.raises(ConnectTimeout):
        session.get(f"https://127.0.0.1:{server.port}/hello", timeout=(0.3, 10))

"""GET, keep-alive, big downloads and gzip, from every server."""

from __future__ import annotations

import hashlib

import pytest

from syncflow import Session
from syncflow.testing import pattern_sha256

from .behaviour import APPLICATIONS, BEHAVIOUR, GZIP, KEEP_ALIVE, UNLESS_CHUNKED
from .selection import EACH_AND_TLS
from .servers import BIG, TEXT, Running

pytestmark = EACH_AND_TLS


def test_get(session: Session, server: Running) -> None:
    response = session.get(f"{server.url}/hello")
    assert (response.status_code, response.content) == (200, b"hello\n")
    assert response.request_complete


def test_keep_alive(session: Session, server: Running) -> None:
    """Whatever was asked: an answer, one that says there is nothing, and a body in both directions."""
    for _ in range(2):
        assert session.get(f"{server.url}/hello").content == b"hello\n"
        assert session.get(f"{server.url}/none").status_code == 404
        assert session.put(f"{server.url}/upload", data=b"abc").json()["bytes"] == 3
        assert len(session.get(f"{server.url}/bytes/{BIG}").content) == BIG
    stats = session.stats()
    assert (stats.opened, stats.reused) == (1, 7)


def test_keep_alive_after_a_chunked_answer(session: Session, server: Running) -> None:
    """Servers of files know the length all the same, and the proxies' application does not."""
    for _ in range(2):
        assert len(session.get(f"{server.url}/bytes/{BIG}?chunked").content) == BIG
    closes = BEHAVIOUR[server.name][KEEP_ALIVE] == UNLESS_CHUNKED
    assert session.stats().opened == (2 if closes else 1)


@pytest.mark.parametrize("query", ["", "?chunked"])
def test_big_download(session: Session, server: Running, query: str) -> None:
    digest, count = hashlib.sha256(), 0
    with session.get(f"{server.url}/bytes/{BIG}{query}", stream=True) as response:
        assert response.status_code == 200
        for piece in response.iter_content(65_536):
            digest.update(piece)
            count += len(piece)
    assert (count, digest.hexdigest()) == (BIG, pattern_sha256(BIG))


def test_gzip(session: Session, server: Running) -> None:
    response = session.get(f"{server.url}/text")
    assert response.headers["Content-Encoding"] == "gzip"
    assert ("X-Packed-By" in response.headers) == (BEHAVIOUR[server.name][GZIP] == APPLICATIONS)
    assert response.content == TEXT
    plain = session.get(f"{server.url}/text", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.content == TEXT

"""Bodies with a content coding, as a response hands them out: decoded, in bounded memory, never short."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest

from syncflow import DecompressionError, Session
from syncflow.testing import AppServer, Request, Response

TEXT = json.dumps({"words": ["Grüße", "жизнь"] * 2000}, ensure_ascii=False).encode()
BOMB = 64 << 20


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def bomb() -> bytes:
    compressor = zlib.compressobj(wbits=31)
    zeros = bytes(1 << 20)
    return b"".join(compressor.compress(zeros) for _ in range(BOMB >> 20)) + compressor.flush()


BODIES = {
    "/gzip": ("gzip", gzip.compress(TEXT)),
    "/deflate": ("deflate", zlib.compress(TEXT)),
    "/raw-deflate": ("deflate", raw_deflate(TEXT)),
    "/stacked": ("deflate, gzip", gzip.compress(zlib.compress(TEXT))),
    "/members": ("gzip", gzip.compress(TEXT[:500]) + gzip.compress(TEXT[500:])),
    "/unknown": ("x-none", b"as it came"),
    "/truncated": ("gzip", gzip.compress(TEXT)[:-20]),
    "/corrupt": ("gzip", b"\x1f\x8b" + b"no gzip at all" * 9),
    "/six": (", ".join(["gzip"] * 6), b"x"),
    "/bomb": ("gzip", bomb()),
    "/empty": ("gzip", b""),
}


def answer(request: Request) -> Response:
    coding, body = BODIES[request.path]
    return Response(200, [("Content-Encoding", coding), ("Content-Type", "application/json")], body)


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with AppServer(answer) as server:
        yield server


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=20) as session:
        yield session


DECODED = ["/gzip", "/deflate", "/raw-deflate", "/stacked", "/members"]


@pytest.mark.parametrize("path", DECODED)
@pytest.mark.parametrize("stream", [False, True])
def test_it_is_undone(server: AppServer, session: Session, path: str, stream: bool) -> None:
    response = session.get(server.url + path, stream=stream)
    assert response.content == TEXT
    assert response.json() == json.loads(TEXT)
    assert response.headers["content-encoding"] == BODIES[path][0]


@pytest.mark.parametrize("path", DECODED)
@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_in_pieces(server: AppServer, session: Session, path: str, size: int) -> None:
    pieces = list(session.get(server.url + path, stream=True).iter_content(size))
    assert b"".join(pieces) == TEXT
    assert max(map(len, pieces)) <= size
    lines = session.get(server.url + path, stream=True).iter_lines(decode_unicode=True)
    assert "".join(line if isinstance(line, str) else line.decode() for line in lines) == TEXT.decode()


@pytest.mark.parametrize("path", DECODED)
def test_raw_is_what_came(server: AppServer, session: Session, path: str) -> None:
    with session.get(server.url + path, stream=True) as response:
        assert response.raw.read() == BODIES[path][1]


def test_what_is_not_known_is_handed_on(server: AppServer, session: Session) -> None:
    assert session.get(server.url + "/unknown").content == b"as it came"


@pytest.mark.parametrize("path", ["/truncated", "/corrupt", "/six"])
def test_it_is_never_short(server: AppServer, session: Session, path: str) -> None:
    with pytest.raises(DecompressionError) as caught:
        session.get(server.url + path)
    assert caught.value.response is not None
    assert caught.value.request is not None
    assert f"127.0.0.1:{server.port}" in str(caught.value)
    with session.get(server.url + path, stream=True) as response, pytest.raises(DecompressionError):
        list(response.iter_content(100))
    assert session.get(server.url + "/gzip").content == TEXT


def test_no_body_is_no_error(server: AppServer, session: Session) -> None:
    assert session.get(server.url + "/empty").content == b""
    assert session.head(server.url + "/gzip").content == b""


def test_the_connection_is_used_again(server: AppServer, session: Session) -> None:
    before = server.connections
    for path in DECODED:
        assert b"".join(session.get(server.url + path, stream=True).iter_content(700)) == TEXT
    assert server.connections == before + 1


def test_a_bomb_is_read_in_bounded_memory(server: AppServer, session: Session) -> None:
    """A thousand times larger than what came; one step gives no more than it was asked for."""
    with session.get(server.url + "/bomb", stream=True) as response:
        tracemalloc.start()
        try:
            total = 0
            for piece in response.iter_content(8192):
                assert len(piece) <= 8192
                total += len(piece)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert total == BOMB
    assert peak < 2 << 20

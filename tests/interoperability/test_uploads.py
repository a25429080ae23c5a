"""Big uploads, 100 (Continue) and early refusals, to every server. Who receives counts and hashes, and says so."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncflow import Response, Session
from syncflow.testing import pattern, pattern_pieces, pattern_sha256

from .behaviour import AS_IT_COMES, BEHAVIOUR, CHUNKED, CONTINUE, UNLESS_REFUSED
from .selection import EACH_AND_TLS
from .servers import BIG, Running

pytestmark = EACH_AND_TLS

# A server that has not answered by then never will.
FAR_TOO_MUCH = 512 << 20
EXPECT = {"Expect": "100-continue"}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body waits for 100 (Continue) longer than a test may take: without one, the test fails."""
    monkeypatch.setattr("syncflow.adapters.writing.CONTINUE_PATIENCE", 300.0)
    monkeypatch.setattr("syncflow.uploads.CONTINUE_PATIENCE", 300.0)


def endless() -> Iterator[bytes]:
    for _ in range(FAR_TOO_MUCH // 65_536):
        yield bytes(65_536)
    raise AssertionError(f"no answer to {FAR_TOO_MUCH} bytes")


def check(response: Response, size: int) -> dict[str, Any]:
    assert response.status_code == 200
    assert response.request_complete
    told: dict[str, Any] = response.json()
    assert (told["bytes"], told["sha256"]) == (size, pattern_sha256(size))
    return told


# ------------------------------------------------------------------------------------- big


def test_sized(session: Session, server: Running) -> None:
    told = check(session.put(f"{server.url}/upload", data=io.BytesIO(pattern(BIG))), BIG)
    assert told["content-length"] == str(BIG)
    assert told["transfer-encoding"] is None


def test_chunked(session: Session, server: Running) -> None:
    told = check(session.put(f"{server.url}/upload", data=pattern_pieces(BIG)), BIG)
    if BEHAVIOUR[server.name][CHUNKED] == AS_IT_COMES:
        assert (told["content-length"], told["transfer-encoding"]) == (None, "chunked")
    else:
        assert (told["content-length"], told["transfer-encoding"]) == (str(BIG), None)


def test_pushed(session: Session, server: Running) -> None:
    with session.upload("PUT", f"{server.url}/upload", content_length=BIG) as upload:
        for piece in pattern_pieces(BIG):
            upload.write(piece)
    check(upload.response, BIG)


# ------------------------------------------------------------------------------------- 100 (Continue)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_continue(session: Session, server: Running, chunked: bool) -> None:
    size = 100_000
    data = pattern_pieces(size) if chunked else pattern(size)
    check(session.put(f"{server.url}/upload", data=data, headers=EXPECT), size)


@pytest.mark.usefixtures("patient")
def test_a_refusal_in_place_of_continue(session: Session, server: Running) -> None:
    with session.upload("PUT", f"{server.url}/limited", headers=EXPECT, content_length=1 << 40) as upload:
        for piece in endless():
            upload.write(piece)
    assert upload.response.status_code == 413
    assert not upload.response.request_complete
    if BEHAVIOUR[server.name][CONTINUE] == UNLESS_REFUSED:
        assert upload.offset == 0
    assert session.get(f"{server.url}/hello").content == b"hello\n"


# ------------------------------------------------------------------------------------- an early 413


@pytest.mark.parametrize("length", [1 << 40, None], ids=["sized", "chunked"])
def test_early_413_to_a_pushed_upload(session: Session, server: Running, length: int | None) -> None:
    for _ in range(2):
        with session.upload("PUT", f"{server.url}/limited", content_length=length) as upload:
            for piece in endless():
                upload.write(piece)
        check_refusal(upload.response)
        assert session.get(f"{server.url}/hello").content == b"hello\n"


def test_early_413_to_a_generator(session: Session, server: Running) -> None:
    for _ in range(2):
        check_refusal(session.put(f"{server.url}/limited", data=endless()))
        assert session.get(f"{server.url}/hello").content == b"hello\n"


def test_early_413_to_a_file(session: Session, server: Running, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(FAR_TOO_MUCH)  # sparse
    for _ in range(2):
        with path.open("rb") as file:
            check_refusal(session.put(f"{server.url}/limited", data=file))
        assert session.get(f"{server.url}/hello").content == b"hello\n"


def check_refusal(response: Response) -> None:
    assert response.status_code == 413
    assert response.content
    assert not response.request_complete

"""What other people's libraries write to a file goes to a server, and what they read comes from one.

Optional, because they are large: `tox -e libraries` installs them; elsewhere each test says what it misses.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from syncflow import Session
from syncflow.testing import AppServer, Receiver, Request, Response

ROWS = 20_000


class Store:
    """A server that gives back what was put there."""

    def __init__(self) -> None:
        self.content = b""

    def __call__(self, request: Request) -> Response:
        if request.method == "PUT":
            self.content = request.body
        return Response(200, {"Content-Type": "application/octet-stream"}, self.content)


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=10) as session:
        yield session


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def url(store: Store) -> Iterator[str]:
    with AppServer(store) as server:
        yield server.url


def test_pandas(session: Session, url: str) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"number": range(ROWS), "name": ["Žďár"] * ROWS})
    with session.upload("PUT", url) as up:
        table.to_csv(up, index=False)
    assert up.response.status_code == 200
    assert pandas.read_csv(session.get(url, stream=True).raw).equals(table)
    parts = pandas.read_csv(session.get(url, stream=True).raw, chunksize=ROWS // 4)
    assert [len(part) for part in parts] == [ROWS // 4] * 4


def test_pandas_packs(session: Session, url: str) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"number": range(ROWS)})
    with session.upload("PUT", url) as up:
        table.to_csv(up, index=False, compression="gzip")
    assert pandas.read_csv(session.get(url, stream=True).raw, compression="gzip").equals(table)


def test_pandas_that_fails_leaves_no_whole_body(session: Session) -> None:
    pandas = pytest.importorskip("pandas")

    class Odd:
        def __str__(self) -> str:
            raise ArithmeticError

    table = pandas.DataFrame({"column": ["text"] * ROWS * 5 + [Odd()]})
    with Receiver() as receiver:
        with pytest.raises(ArithmeticError), session.upload("PUT", receiver.url) as up:
            table.to_csv(up, index=False, chunksize=1000)
        assert not receiver.wait_for_receipts(1)[0].complete


def test_pyarrow_parquet(session: Session, url: str, store: Store) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"number": list(range(ROWS))})
    with session.upload("PUT", url) as up:
        parquet.write_table(table, up)
    assert parquet.read_table(io.BytesIO(store.content)).equals(table)


def test_pyarrow_streams_both_ways(session: Session, url: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"number": list(range(ROWS))})
    with session.upload("PUT", url) as up, pyarrow.ipc.new_stream(up, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=1000):
            writer.write_batch(batch)
    with pyarrow.ipc.open_stream(session.get(url, stream=True).raw) as reader:
        assert reader.read_all().equals(table)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_pillow(session: Session, url: str, store: Store, kind: str) -> None:
    images = pytest.importorskip("PIL.Image")
    image = images.effect_noise((300, 200), 50).convert("RGB")
    with session.upload("PUT", url) as up:
        image.save(up, kind)
    with images.open(io.BytesIO(store.content)) as seen:
        assert (seen.format, seen.size) == (kind, (300, 200))

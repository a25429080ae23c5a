"""Response.raw is what `io` calls a buffered binary file: Python's own modules read from the network through it, and
what goes wrong on the way surfaces from each of them. The rest of `raw` is tested in test_responses."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import lzma
import pickle
import shutil
import ssl
import tarfile
import tempfile
import threading
import xml.etree.ElementTree
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncflow import Cancelled, ChunkedEncodingError, ReadTimeout, Response, Session, SessionClosed, Timeouts
from syncflow.testing import Peer, RangeServer, ScriptedServer, chunk, eventually, last_chunk, pattern, reply_head

BODY = pattern(200_000)
CHUNKED = {"Transfer-Encoding": "chunked"}


@pytest.fixture
def session(ca_file: Path) -> Iterator[Session]:
    with Session(timeout=10) as session:
        session.verify = str(ca_file)
        yield session


@pytest.fixture(params=["length", "chunked"])
def serve(request: pytest.FixtureRequest) -> Callable[..., RangeServer]:
    """A server of one body, in either framing."""
    chunked = request.param == "chunked"
    return lambda body, cuts=(), **options: RangeServer(body, cuts, chunked=chunked, **options)


def raw_of(session: Session, server: Any, **kwargs: Any) -> Any:
    return session.get(server.url, stream=True, **kwargs).raw


# ------------------------------------------------------------------------------------------- the protocol


def test_it_is_a_buffered_file(session: Session, serve: Any) -> None:
    with serve(BODY) as server, raw_of(session, server) as raw:
        assert isinstance(raw, io.BufferedIOBase)
        assert (raw.readable(), raw.writable(), raw.seekable(), raw.isatty(), raw.closed) == (
            True,
            False,
            False,
            False,
            False,
        )
        for refused in (raw.fileno, raw.tell, lambda: raw.seek(0), lambda: raw.write(b"x"), raw.truncate):
            with pytest.raises(io.UnsupportedOperation):
                refused()
        assert raw.read() == BODY


READS: dict[str, Callable[[Any], bytes]] = {
    "read": lambda raw: raw.read(),
    "read(None)": lambda raw: raw.read(None),
    "read(-1)": lambda raw: raw.read(-1),
    "read(n)": lambda raw: b"".join(iter(lambda: raw.read(777), b"")),
    "read(more)": lambda raw: raw.read(10 * len(BODY)),
    "read1": lambda raw: b"".join(iter(lambda: raw.read1(), b"")),
    "read1(n)": lambda raw: b"".join(iter(lambda: raw.read1(777), b"")),
    "readinto": lambda raw: filled(raw.readinto),
    "readinto1": lambda raw: filled(raw.readinto1),
    "readline": lambda raw: b"".join(iter(raw.readline, b"")),
    "readline(n)": lambda raw: b"".join(iter(lambda: raw.readline(5), b"")),
    "readlines": lambda raw: b"".join(raw.readlines()),
    "iteration": b"".join,
    "peek": lambda raw: peeked(raw),
}


def filled(into: Callable[[memoryview], int]) -> bytes:
    buffer, at = memoryview(bytearray(len(BODY) + 1)), 0
    while count := into(buffer[at:]):
        at += count
    return bytes(buffer[:at])


def peeked(raw: Any) -> bytes:
    pieces = []
    while ahead := raw.peek(1):
        assert raw.peek(1) == ahead
        pieces.append(raw.read(len(ahead)))
        assert pieces[-1] == ahead
    return b"".join(pieces)


@pytest.mark.parametrize("read", READS)
def test_every_way_to_read(session: Session, serve: Any, read: str) -> None:
    with serve(BODY) as server:
        for _ in range(2):
            raw = raw_of(session, server)
            assert READS[read](raw) == BODY
            assert [raw.read(), raw.read(1), raw.read1(), raw.readline(), raw.peek(), raw.readlines()] == [
                *[b""] * 5,
                [],
            ]
        assert server.connections == 1  # it was read to its end, and is not closed


def test_reads_can_be_mixed(session: Session, server_tls: ssl.SSLContext, serve: Any) -> None:
    with serve(BODY, ssl_context=server_tls) as server:
        raw, twin = raw_of(session, server), io.BufferedReader(io.BytesIO(BODY))  # type: ignore[arg-type]
        ways: list[Callable[[Any], bytes]] = [
            lambda file: file.read(3),
            lambda file: file.readline(),
            lambda file: file.peek()[:1],
            lambda file: file.read(70_000),
            lambda file: b"".join(itertools.islice(file, 3)),
            lambda file: b"".join(file.readlines(100)),
        ]
        for way in [*ways, *ways, lambda file: file.read()]:
            assert way(raw) == way(twin)


def test_read_waits_for_all_and_read1_for_some(session: Session) -> None:
    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(reply_head(200, CHUNKED))
            peer.send_slowly([chunk(b"abc"), chunk(b"de\nf"), last_chunk()])

    with ScriptedServer(script) as server:
        raw = raw_of(session, server)
        server.step()
        assert raw.peek(100) == b"abc"
        assert raw.read1(100) == b"abc"
        buffer = bytearray(100)
        server.step()
        assert raw.readinto1(buffer) == 4
        server.step()
        assert raw.read1(100) == b""
        raw = raw_of(session, server)
        server.step(3)
        assert raw.read(5) == b"abcde"
        assert raw.read(100) == b"\nf"


def test_closing_it_gives_the_connection_up(session: Session, serve: Any) -> None:
    with serve(BODY * 50) as server:
        with raw_of(session, server) as raw:
            raw.read(1)
        assert raw.closed
        for use in (raw.read, raw.peek, raw.readline, lambda: next(raw), raw.readable, raw.__enter__):
            with pytest.raises(ValueError, match="closed file"):
                use()
        raw.close()
        eventually(lambda: server.open_connections == 0)


def test_closing_it_at_its_end_keeps_the_connection(session: Session, serve: Any) -> None:
    with serve(BODY) as server:
        for _ in range(3):
            with raw_of(session, server) as raw:
                assert raw.read() == BODY
        assert server.connections == 1


def test_codings_are_left_in(session: Session, serve: Any) -> None:
    encoded = gzip.compress(BODY)
    with serve(encoded, headers={"Content-Encoding": "gzip"}) as server:
        assert raw_of(session, server).read() == encoded


@pytest.mark.parametrize("read", ["read", "read(n)", "iteration", "readinto"])
def test_trailers_are_there_when_it_was_read_to_its_end(session: Session, read: str) -> None:
    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(reply_head(200, CHUNKED) + chunk(BODY))
            peer.send_slowly([last_chunk([("X-Sum", "1"), ("x-sum", "2"), ("X-Other", "3")])])

    with ScriptedServer(script) as server:
        response = session.get(server.url, stream=True)
        assert response.raw.read(100) == BODY[:100]
        assert response.trailers == {}
        server.step()
        READS[read](response.raw)
        assert response.trailers["x-other"] == "3"
        assert "X-SUM" in response.trailers


def test_raw_of_one_that_was_read_is_a_file_too(session: Session, serve: Any) -> None:
    with serve(BODY) as server:
        raw = session.get(server.url).raw
        assert isinstance(raw, io.BufferedIOBase)
        assert raw.read(10) == BODY[:10]


def test_a_raw_that_was_set_is_saved() -> None:
    response, file = Response(), io.BytesIO()
    response.raw = io.BytesIO(BODY)
    assert response.save(file) == len(BODY)
    assert file.getvalue() == BODY


# ------------------------------------------------------------------------------------------- what reads it

FILES = {f"folder/file-{number}": pattern(10_000, number * 1000) for number in range(20)}
TABLE = [["name", "number"], ["ä", "1"], ['with "quotes"', "2"], ["with\nnewline", "3"]]
VALUE = {"a": [1, 2.5, None, "ä"], "b": {"c": list(range(10_000))}}


def tarred(mode: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tabled() -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(TABLE * 500)
    return buffer.getvalue().encode()


def untarred(raw: Any, mode: Any) -> dict[str, bytes]:
    with tarfile.open(fileobj=raw, mode=mode) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def unzipped(raw: Any) -> dict[str, bytes]:
    """The directory of a zip file stands at its end, so it has to be copied, to memory or a disk."""
    with tempfile.SpooledTemporaryFile(max_size=10_000) as spool:
        shutil.copyfileobj(raw, spool)
        with zipfile.ZipFile(spool) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def rows(raw: Any) -> list[list[str]]:
    with io.TextIOWrapper(raw, "utf-8", newline="") as text:
        return list(csv.reader(text))


def unpacked(raw: Any, opened: Callable[..., Any]) -> bytes:
    with opened(raw) as file:
        return bytes(file.read())


def copied(raw: Any) -> bytes:
    target = io.BytesIO()
    shutil.copyfileobj(raw, target, 777)
    return target.getvalue()


def copied_to_a_disk(raw: Any) -> bytes:
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(raw, file)
        file.seek(0)
        return file.read()


def elements(raw: Any) -> int:
    return len(xml.etree.ElementTree.parse(raw).getroot())


READERS: dict[str, tuple[bytes, Callable[[Any], object], object]] = {
    "tarfile r|": (tarred("w"), lambda raw: untarred(raw, "r|"), FILES),
    "tarfile r|gz": (tarred("w:gz"), lambda raw: untarred(raw, "r|gz"), FILES),
    "tarfile r|*": (tarred("w:xz"), lambda raw: untarred(raw, "r|*"), FILES),
    "zipfile over a copy": (zipped(), unzipped, FILES),
    "csv over text": (tabled(), rows, TABLE * 500),
    "json": (json.dumps(VALUE).encode(), json.load, VALUE),
    "gzip": (gzip.compress(BODY), lambda raw: unpacked(raw, gzip.open), BODY),
    "GzipFile": (gzip.compress(BODY), lambda raw: unpacked(raw, lambda raw: gzip.GzipFile(fileobj=raw)), BODY),
    "lzma": (lzma.compress(BODY), lambda raw: unpacked(raw, lzma.open), BODY),
    "pickle": (pickle.dumps(VALUE), pickle.load, VALUE),
    "pickle 0": (pickle.dumps(VALUE, 0), pickle.load, VALUE),
    "copyfileobj": (BODY, copied, BODY),
    "copyfileobj to a disk": (BODY, copied_to_a_disk, BODY),
    "ElementTree": (b"<a>" + b"<b>c</b>" * 9999 + b"</a>", elements, 9999),
}


@pytest.mark.parametrize("reader", READERS)
def test_pythons_own_modules_read_it(session: Session, serve: Any, reader: str) -> None:
    body, read, expected = READERS[reader]
    with serve(body) as server:
        assert read(raw_of(session, server)) == expected


def test_several_pickles_behind_one_another(session: Session, serve: Any) -> None:
    with serve(pickle.dumps(VALUE) + pickle.dumps(5)) as server:
        raw = raw_of(session, server)
        assert [pickle.load(raw), pickle.load(raw)] == [VALUE, 5]
        with pytest.raises(EOFError):
            pickle.load(raw)


# ------------------------------------------------------------------------------------------- errors in the middle


@pytest.mark.parametrize("reader", READERS)
def test_a_short_body_surfaces(session: Session, serve: Any, reader: str) -> None:
    """Never as an end that looks like one."""
    body, read, _ = READERS[reader]
    with serve(body, [len(body) // 2]) as server:
        response = session.get(server.url, stream=True)
        with pytest.raises(ChunkedEncodingError) as caught:
            read(response.raw)
        assert caught.value.response is response
        assert caught.value.request is response.request
        assert caught.value.bytes_received == len(body) // 2
        server.wait_until_idle()


@pytest.mark.parametrize("reader", READERS)
def test_a_read_timeout_surfaces(session: Session, serve: Any, reader: str) -> None:
    body, read, _ = READERS[reader]
    with serve(body, [len(body) // 2], how="stall") as server:
        response = session.get(server.url, stream=True, timeout=Timeouts(read=0.05))
        with pytest.raises(ReadTimeout) as caught:
            read(response.raw)
        assert caught.value.response is response
        assert caught.value.phase == "body"
        server.wait_until_idle()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("by", ["response", "session"])
def test_what_another_thread_ends_surfaces(session: Session, serve: Any, reader: str, by: str) -> None:
    body, read, _ = READERS[reader]
    with serve(body, [len(body) // 2], how="stall") as server:
        response = session.get(server.url, stream=True, timeout=None)
        raw = response.raw
        errors: list[BaseException] = []

        def run() -> None:
            try:
                read(raw)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        exchange = response._exchange
        eventually(lambda: exchange.bytes_received == len(body) // 2 and exchange.incoming.size == 0)
        (response if by == "response" else session).close()
        thread.join(10)
        assert [type(error) for error in errors] == [Cancelled if by == "response" else SessionClosed]
        server.wait_until_idle()


@pytest.mark.parametrize("read", READS)
def test_an_error_comes_again(session: Session, serve: Any, read: str) -> None:
    """It does not turn into an end."""
    with serve(BODY, [1000]) as server:
        raw = raw_of(session, server)
        for _ in range(3):
            with pytest.raises(ChunkedEncodingError):
                READS[read](raw)

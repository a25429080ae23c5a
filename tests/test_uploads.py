"""Upload: a body as a writable file. Blocking and non-blocking writes, the end, the length, and what Python's own
modules do with it. The early answer is tested in test_early_response, other threads in test_calling_off."""

from __future__ import annotations

import array
import contextlib
import csv
import gzip
import hashlib
import io
import json
import shutil
import ssl
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from syncflow import BodyLengthError, Session, Timeouts, Upload, Watermarks, WriteTimeout
from syncflow.http1 import InvalidRequest
from syncflow.testing import AppServer, Receiver, ScriptedServer, never_answers, pattern, pattern_sha256, reply

HIGH = Watermarks().high


@pytest.fixture
def session(ca_file: Path) -> Iterator[Session]:
    with Session(timeout=10) as session:
        session.verify = str(ca_file)
        yield session


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


def filled(upload: Upload) -> int:
    """Writes until a write would wait; how many bytes that were. The server does not read."""
    size = 10_000
    while upload.try_write(bytes(size)):
        pass
    return upload.tell()


# -------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("piece", [1, 1000, 65_536, 1_000_000, 5_000_000])
def test_what_is_written_arrives(session: Session, tls: ssl.SSLContext | None, piece: int, declared: bool) -> None:
    size = piece * max(1, min(500, 5_000_000 // piece))
    with Receiver(ssl_context=tls) as receiver:
        with session.upload("PUT", receiver.url, content_length=size if declared else None) as upload:
            for start in range(0, size, piece):
                assert upload.write(pattern(piece, start)) == piece
            assert upload.tell() == size
        assert upload.response.status_code == 200
        assert upload.response.json() == {"bytes": size, "sha256": pattern_sha256(size), "trailers": {}}
        assert upload.response.request_complete
        assert upload.offset == size
        assert upload.buffered == 0
        assert receiver.connections == 1


def test_the_head_says_how_the_body_is_framed(session: Session) -> None:
    with AppServer() as server:
        with session.upload("put", f"{server.url}/p?a=1", params={"b": 2}, headers={"X-Mine": "x"}) as upload:
            upload.write(b"abc")
        with upload.response:
            pass
        with session.upload("POST", server.url, content_length=3) as upload:
            upload.write(b"abc")
        chunked, declared = server.seen
    assert (chunked.method, chunked.target, chunked.headers["x-mine"]) == ("PUT", "/p?a=1&b=2", "x")
    assert chunked.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in chunked.headers
    assert declared.headers["content-length"] == "3"
    assert "transfer-encoding" not in declared.headers
    assert upload.request.method == "POST"
    assert upload.response.request is upload.request


def test_the_head_is_sent_at_once(session: Session) -> None:
    def script(peer: Any) -> None:
        request = peer.read_request(body=False)
        peer.wait_step()
        peer.read_body(request)
        peer.send(reply(200, request.body))

    with ScriptedServer(script) as server:
        with session.upload("PUT", server.url) as upload:
            server.step()  # the script is past the head before anything was written
            upload.write(b"abc")
        assert upload.response.content == b"abc"


@pytest.mark.parametrize(
    "data",
    [b"abcd", bytearray(b"abcd"), memoryview(b"xabcdx")[1:5], array.array("H", [0x6261, 0x6463]), memoryview(b"abcd")],
)
def test_anything_with_a_buffer_is_written(session: Session, data: Any) -> None:
    with AppServer() as server:
        with session.upload("PUT", server.url) as upload:
            assert upload.write(data) == 4
            assert upload.try_write(data)
            assert upload.tell() == 8
        assert server.seen[-1].body == b"abcdabcd"


@pytest.mark.parametrize("data", ["text", 5, None])
def test_anything_else_is_not(session: Session, data: Any) -> None:
    with AppServer() as server:
        with session.upload("PUT", server.url) as upload:
            with pytest.raises(TypeError):
                upload.write(data)
            upload.write(b"abc")
        assert server.seen[-1].body == b"abc"


def test_an_empty_write_ends_nothing(session: Session) -> None:
    with AppServer() as server:
        with session.upload("PUT", server.url) as upload:
            for data in (b"", b"abc", b"", bytearray(), b"def", b""):
                assert upload.write(data) == len(data)
                assert upload.try_write(b"")
        assert server.seen[-1].body == b"abcdef"


@pytest.mark.parametrize("declared", [None, 0])
def test_nothing_is_written(session: Session, declared: int | None) -> None:
    with AppServer() as server:
        for _ in range(3):
            with session.upload("PUT", server.url, content_length=declared) as upload:
                pass
            assert upload.response.json()["length"] == 0
        assert server.connections == 1


@pytest.mark.parametrize("way", ["write", "try_write"])
def test_the_caller_may_use_its_buffer_again(session: Session, tls: ssl.SSLContext | None, way: str) -> None:
    size, block = 4_000_000, 20_000
    buffer = bytearray(block)
    with Receiver(ssl_context=tls) as receiver:
        with session.upload("PUT", receiver.url) as upload:
            for start in range(0, size, block):
                buffer[:] = pattern(block, start)
                if way == "write":
                    upload.write(buffer)
                else:
                    while not upload.try_write(buffer):
                        assert upload.wait_writable(10)
        assert upload.response.json()["sha256"] == pattern_sha256(size)


# -------------------------------------------------------------------------------------------- watermarks


@pytest.mark.parametrize("size", [1, 1000, HIGH, HIGH + 1, 1_000_000])
def test_write_blocks_over_the_high_watermark_and_the_buffer_never_exceeds_it(
    session: Session, tls: ssl.SSLContext | None, size: int
) -> None:
    """However large one write is. The peer is asked from another thread, as often as that gets its turn."""
    total = max(size, 7_000_000 if size > 100 else 30_000)
    seen: set[int] = set()
    with Receiver(pause_after=1, hash=False, ssl_context=tls) as receiver, ThreadPoolExecutor(1) as thread:
        upload = session.upload("PUT", receiver.url)

        def write() -> None:
            with upload:
                for _ in range(0, total, size):
                    upload.write(bytes(size))

        writing = thread.submit(write)
        receiver.paused.wait(10)
        while not writing.done():
            seen.add(upload.buffered)
            receiver.resume()
        writing.result()
        assert upload.response.json()["bytes"] == (total + size - 1) // size * size
    assert max(seen) <= HIGH


@pytest.mark.parametrize("size", [1, 100, 1000, 10_000])
def test_write_returns_under_the_low_watermark(session: Session, size: int) -> None:
    """Who had to wait goes on when the buffer is low, not as soon as there is room for what it wrote."""
    with Receiver(pause_after=1, hash=False) as receiver:
        with session.upload("PUT", receiver.url) as upload:
            filled(upload)
            while upload.try_write(bytes(size)):
                pass
            more = size + 100  # than there can be room for
            receiver.resume()
            upload.write(bytes(more))
            assert upload.buffered <= Watermarks().low
        assert upload.response.json()["bytes"] == upload.tell()


def test_a_write_that_fits_does_not_wait(session: Session) -> None:
    """The server does not read at all: what waits, waits here."""
    with never_answers(reads=False, receive_buffer=4096) as server:
        upload = session.upload("PUT", server.url)
        while not upload.buffered:
            upload.write(bytes(5000))  # not so small that it would be gathered
        for _ in range((HIGH - upload.buffered) // 1010 - 1):
            upload.write(bytes(1000))
        assert HIGH - 3000 < upload.buffered <= HIGH
        assert upload.offset + upload.buffered == upload.tell()
        upload.abort()


def test_try_write_never_waits_and_takes_all_or_nothing(session: Session, tls: ssl.SSLContext | None) -> None:
    with never_answers(reads=False, receive_buffer=4096, ssl_context=tls) as server:
        upload = session.upload("PUT", server.url)
        written = filled(upload)
        assert upload.tell() == written == upload.offset + upload.buffered
        assert not upload.try_write(bytes(HIGH))
        assert not upload.try_write(bytes(10_000))
        assert upload.tell() == written
        assert upload.buffered <= HIGH
        assert upload.try_write(b"")
        upload.abort()


def test_try_write_takes_no_more_than_the_buffer_can_hold(session: Session) -> None:
    with AppServer() as server:
        with session.upload("PUT", server.url) as upload:
            assert upload.try_write(bytes(HIGH))
            with pytest.raises(ValueError, match=f"at most {HIGH} bytes at once"):
                upload.try_write(bytes(HIGH + 1))
            upload.write(bytes(HIGH + 1))
        assert upload.response.ok
        assert len(server.seen[-1].body) == 2 * HIGH + 1


@pytest.mark.parametrize("size", [1, 1000, HIGH // 2, HIGH])
def test_wait_writable_waits_until_what_was_refused_has_room(
    session: Session, tls: ssl.SSLContext | None, size: int
) -> None:
    with Receiver(pause_after=1, hash=False, ssl_context=tls) as receiver:
        with session.upload("PUT", receiver.url) as upload:
            filled(upload)
            while upload.try_write(bytes(size)):
                pass
            assert not upload.wait_writable(0.01)
            assert not upload.wait_writable(0)
            assert not upload.try_write(bytes(size))
            receiver.resume()
            assert upload.wait_writable(10)
            assert upload.try_write(bytes(size))
            for _ in range(20):
                if not upload.try_write(bytes(size)):
                    assert upload.wait_writable(10)
                    assert upload.try_write(bytes(size))
        assert upload.response.json()["bytes"] == upload.tell()


def test_a_write_behind_a_try_write_that_filled_the_buffer(session: Session, tls: ssl.SSLContext | None) -> None:
    """The framing of that one may stand a few bytes over the watermark: that is no room."""
    marks = Watermarks(high=1000, low=100)
    with never_answers(reads=False, receive_buffer=4096, ssl_context=tls) as server:
        with Session(timeout=Timeouts(connect=10, write=0.05), watermarks=marks) as session:
            for _ in range(10):
                upload = session.upload("PUT", server.url, verify=False)
                while upload.try_write(bytes(1000)):
                    pass
                with pytest.raises(WriteTimeout):
                    upload.write(bytes(100_000))
                assert upload.buffered <= 1000
        server.release()


def test_an_empty_buffer_is_writable(session: Session) -> None:
    with AppServer() as server, session.upload("PUT", server.url) as upload:
        assert upload.wait_writable()
        assert upload.wait_writable(0)


def test_watermarks_of_the_session(session: Session) -> None:
    marks = Watermarks(high=5000, low=1000)
    with never_answers(reads=False, receive_buffer=4096) as server, Session(watermarks=marks) as session:
        upload = session.upload("PUT", server.url)
        while upload.try_write(bytes(500)):
            assert upload.buffered <= 5000
        assert upload.buffered > 4000
        with pytest.raises(ValueError, match="at most 5000"):
            upload.try_write(bytes(5001))
        upload.abort()


# -------------------------------------------------------------------------------------------- flush


def test_flush_waits_until_all_is_handed_to_the_system(session: Session, tls: ssl.SSLContext | None) -> None:
    with Receiver(pause_after=1, hash=False, ssl_context=tls) as receiver:
        with session.upload("PUT", receiver.url) as upload:
            filled(upload)
            with pytest.raises(WriteTimeout, match=r"after 0\.05 s; the upload can go on") as caught:
                upload.flush(0.05)
            assert f"127.0.0.1:{receiver.port}: {upload.buffered} bytes" in str(caught.value)
            assert caught.value.bytes_sent == upload.offset
            assert caught.value.request is upload.request
            receiver.resume()
            upload.flush(10)
            assert (upload.buffered, upload.offset) == (0, upload.tell())
            upload.write(b"more")
            upload.flush()
        assert upload.response.json()["bytes"] == upload.tell()


def test_flush_of_nothing(session: Session) -> None:
    with AppServer() as server:
        with session.upload("PUT", server.url) as upload:
            upload.flush()
            upload.flush(0)
        upload.flush()
        assert server.requests == 1


def test_flush_ends_by_the_limits(session: Session) -> None:
    with never_answers(reads=False, receive_buffer=4096) as server:
        upload = session.upload("PUT", server.url, timeout=Timeouts(write=0.1))
        filled(upload)
        with pytest.raises(WriteTimeout, match=r"Timeouts\.write"):
            upload.flush()
        with pytest.raises(ValueError, match="finished"):
            upload.write(b"x")


# -------------------------------------------------------------------------------------------- the end


def test_finish_returns_the_response(session: Session) -> None:
    with AppServer() as server:
        upload = session.upload("PUT", server.url)
        upload.write(b"abc")
        response = upload.finish()
        assert response is upload.finish() is upload.response
        assert response.json()["body"] == "abc"
        upload.close()
        assert upload.closed
        assert server.requests == 1


@pytest.mark.parametrize("how", ["finish", "close", "with"])
@pytest.mark.parametrize("write", ["write", "try_write"])
def test_what_is_finished_takes_nothing_more(session: Session, how: str, write: str) -> None:
    """It must not be lost in silence, whether in the block or behind it."""
    with AppServer() as server:
        upload = session.upload("PUT", server.url)
        if how == "with":
            with upload:
                upload.write(b"abc")
        else:
            upload.write(b"abc")
            getattr(upload, how)()
        with pytest.raises(ValueError, match=r"finished|closed"):
            getattr(upload, write)(b"def")
        assert upload.response.json()["body"] == "abc"
        upload.close()


def test_a_write_behind_finish_in_the_block_is_an_error(session: Session) -> None:
    with AppServer() as server:
        with pytest.raises(ValueError, match="finished"):
            with session.upload("PUT", server.url) as upload:
                upload.write(b"abc")
                upload.finish().close()
                upload.write(b"def")


def test_trailers(session: Session) -> None:
    with AppServer() as server:
        upload = session.upload("PUT", server.url, headers={"Trailer": "X-Sum"})
        upload.write(b"abc")
        upload.finish([("X-Sum", "6"), ("X-Other", "7")]).close()
        assert server.seen[-1].trailers == {"x-sum": "6", "x-other": "7"}
        upload.close()


@pytest.mark.parametrize(
    "trailers", [[("Content-Length", "3")], [("X-Evil", "a\r\nb")], [("Bad Name", "x")], [("Transfer-Encoding", "x")]]
)
def test_trailers_that_may_not_be(session: Session, trailers: list[tuple[str, str]]) -> None:
    with AppServer() as server:
        upload = session.upload("PUT", server.url)
        upload.write(b"abc")
        with pytest.raises((InvalidRequest, ValueError)):
            upload.finish(trailers)
        server.wait_until_idle()
        assert server.requests == 0


def test_there_is_no_response_before_there_is_one(session: Session) -> None:
    with AppServer() as server, session.upload("PUT", server.url) as upload:
        with pytest.raises(ValueError, match="no response yet"):
            _ = upload.response


def test_an_exception_in_the_block_aborts(session: Session, tls: ssl.SSLContext | None) -> None:
    with AppServer(ssl_context=tls) as server:
        with pytest.raises(ZeroDivisionError):
            with session.upload("PUT", server.url) as upload:
                upload.write(b"abc")
                1 / 0  # noqa: B018
        assert upload.closed
        server.wait_until_idle()
        assert server.requests == 0
        assert session.get(server.url).ok


def test_what_is_dropped_unfinished_warns_and_aborts(session: Session) -> None:
    with AppServer() as server:
        upload = session.upload("PUT", server.url)
        upload.write(b"abc")
        with pytest.warns(ResourceWarning, match="dropped before it was finished"):
            del upload
        server.wait_until_idle()
        assert server.requests == 0


# -------------------------------------------------------------------------------------------- the length


@pytest.mark.parametrize("written", [0, 1, 9])
def test_too_little_was_written(session: Session, tls: ssl.SSLContext | None, written: int) -> None:
    with AppServer(ssl_context=tls) as server:
        with pytest.raises(BodyLengthError, match=f"127.0.0.1:{server.port}: {written} bytes .* 10 were") as caught:
            with session.upload("PUT", server.url, content_length=10) as upload:
                upload.write(bytes(written))
        assert caught.value.request is upload.request
        assert caught.value.bytes_sent == written
        server.wait_until_idle()
        assert server.requests == 0
        assert session.get(server.url).ok
        assert server.connections == 2


@pytest.mark.parametrize("way", ["write", "try_write"])
@pytest.mark.parametrize("pieces", [[bytes(11)], [bytes(10), b"x"], [bytes(5), bytes(6)]])
def test_too_much_was_written(session: Session, tls: ssl.SSLContext | None, pieces: list[bytes], way: str) -> None:
    got: list[bytes] = []

    def script(peer: Any) -> None:
        peer.read_head()
        with contextlib.suppress(AssertionError):  # the client has closed
            while True:
                got.append(peer.read_exactly(1))

    with ScriptedServer(script, ssl_context=tls) as server:
        upload = session.upload("PUT", server.url, content_length=10)
        with pytest.raises(BodyLengthError, match="11 bytes .* 10 were"):
            for piece in pieces:
                getattr(upload, way)(piece)
        with pytest.raises(ValueError, match="finished"):
            upload.write(b"x")
        server.wait_until_idle()
    # Not a byte of the piece that was too much.
    assert len(got) == sum(map(len, pieces[:-1]))


# -------------------------------------------------------------------------------------------- as a file


def test_it_is_a_writable_binary_file(session: Session) -> None:
    with AppServer() as server, session.upload("PUT", server.url) as upload:
        assert isinstance(upload, io.RawIOBase)
        assert (upload.writable(), upload.readable(), upload.seekable(), upload.closed) == (True, False, False, False)
        assert upload.tell() == 0
        upload.writelines([b"a", b"bc"])
        assert upload.tell() == 3
        with pytest.raises(io.UnsupportedOperation):
            upload.seek(0)


def body_of(session: Session, write: Any) -> bytes:
    with AppServer() as server:
        with session.upload("PUT", server.url) as upload:
            write(upload)
        assert upload.response.ok
        return server.seen[-1].body


def test_shutil_copyfileobj(session: Session) -> None:
    assert body_of(session, lambda up: shutil.copyfileobj(io.BytesIO(pattern(1_000_000)), up)) == pattern(1_000_000)


def test_gzip(session: Session) -> None:
    def write(upload: Upload) -> None:
        with gzip.GzipFile(fileobj=upload, mode="wb") as file:
            for start in range(0, 1_000_000, 1000):
                file.write(pattern(1000, start))

    assert gzip.decompress(body_of(session, write)) == pattern(1_000_000)


@pytest.mark.parametrize("mode", ["w|", "w|gz"])
def test_tarfile(session: Session, mode: Any) -> None:
    def write(upload: Upload) -> None:
        with tarfile.open(fileobj=upload, mode=mode) as archive:
            info = tarfile.TarInfo("name")
            info.size = 300_000
            archive.addfile(info, io.BytesIO(pattern(300_000)))

    with tarfile.open(fileobj=io.BytesIO(body_of(session, write))) as archive:
        file = archive.extractfile("name")
        assert file is not None
        assert file.read() == pattern(300_000)


def test_zipfile(session: Session) -> None:
    def write(upload: Upload) -> None:
        with zipfile.ZipFile(upload, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("one", pattern(300_000))
            with archive.open("two", "w") as member:
                member.write(b"two")

    with zipfile.ZipFile(io.BytesIO(body_of(session, write))) as archive:
        assert archive.testzip() is None
        assert archive.read("one") == pattern(300_000)
        assert archive.read("two") == b"two"


def test_text(session: Session) -> None:
    def write(upload: Upload) -> None:
        text = io.TextIOWrapper(upload, "utf-8", newline="", write_through=True)
        csv.writer(text).writerows([["a", "ä"], [1, 2]])
        json.dump({"ö": 1}, text, ensure_ascii=False)
        text.flush()
        text.detach()

    assert body_of(session, write).decode() == 'a,ä\r\n1,2\r\n{"ö": 1}'


def test_a_buffered_writer_ends_the_body_when_it_is_closed(session: Session) -> None:
    with AppServer() as server:
        upload = session.upload("PUT", server.url)
        with io.BufferedWriter(upload) as writer:
            for start in range(0, 100_000, 10):
                writer.write(pattern(10, start))
        assert upload.closed
        assert upload.response.ok
        assert server.seen[-1].body == pattern(100_000)


def test_several_threads_may_write_one_at_a_time(session: Session) -> None:
    with AppServer() as server, ThreadPoolExecutor(8) as threads:
        with session.upload("PUT", server.url) as upload:
            list(threads.map(lambda n: upload.write(b"%04d" % n * 1000), range(100)))
        assert upload.response.ok
        body = server.seen[-1].body
    pieces = [body[start : start + 4000] for start in range(0, len(body), 4000)]
    assert sorted(pieces) == [b"%04d" % n * 1000 for n in range(100)]


def test_many_uploads_at_once(session: Session, tls: ssl.SSLContext | None) -> None:
    def upload(number: int) -> bool:
        digest = hashlib.sha256()
        with session.upload("PUT", receiver.url) as upload:
            for start in range(50):
                piece = pattern(20_000 + number, start * 1000)
                digest.update(piece)
                upload.write(piece)
        return bool(upload.response.json()["sha256"] == digest.hexdigest())

    with Receiver(ssl_context=tls) as receiver, ThreadPoolExecutor(16) as threads:
        assert all(threads.map(upload, range(64)))
        assert receiver.connections <= 10

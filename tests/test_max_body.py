"""`max_body`: a response that is too large, in every framing and coding, by every way to read it."""

from __future__ import annotations

import contextlib
import copy
import gzip
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncflow import BodyTooLarge, EarlyResponse, Request, RequestException, Response, Session
from syncflow.adapters import HTTPAdapter
from syncflow.testing import Peer, ScriptedServer, chunk, eventually, pattern, reply, reply_head

NewSession = Callable[..., Session]

MOST = 100_000


@pytest.fixture
def session(new_session: NewSession) -> Session:
    return new_session(max_body=MOST)


def text(size: int) -> bytes:
    """Such that gzip makes little of it."""
    return (pattern(997) * (size // 997 + 1))[:size]


def sized(size: int) -> bytes:
    return reply(200, text(size))


def chunked(size: int) -> bytes:
    return reply_head(200, {"Transfer-Encoding": "chunked"}) + chunk(text(size)) + b"0\r\n\r\n"


def until_close(size: int) -> bytes:
    return reply_head(200, {"Connection": "close"}) + text(size)


def gzipped(size: int) -> bytes:
    return reply(200, gzip.compress(text(size)), {"Content-Encoding": "gzip"})


FRAMINGS = [sized, chunked, until_close, gzipped]
# Those that cannot say it beforehand.
UNTOLD = FRAMINGS[1:]


@contextlib.contextmanager
def answers(*answers: bytes) -> Iterator[ScriptedServer]:
    """The i-th request of a connection gets the i-th, and a client may leave before it has read all."""

    def script(peer: Peer) -> None:
        for answer, _ in zip(answers, peer.requests(), strict=False):
            with contextlib.suppress(OSError):
                peer.send(answer)
            if b"Connection: close" in answer:
                return

    with ScriptedServer(script) as server:
        yield server


def lines(response: Response) -> bytes:
    return b"".join(line for line in response.iter_lines())


def saved(response: Response, path: Path) -> bytes:
    response.save(path)
    return path.read_bytes()


Reading = Callable[[Response, Path], Any]
READINGS: dict[str, Reading] = {
    "content": lambda response, path: response.content,
    "text": lambda response, path: response.text,
    "json": lambda response, path: response.json(),
    "iter_content": lambda response, path: b"".join(response.iter_content(1000)),
    "iter_lines": lambda response, path: lines(response),
    "save": saved,
    "save, to be resumed": lambda response, path: response.save(path, resume=True),
}


def check(error: BodyTooLarge, server: ScriptedServer) -> None:
    assert f"127.0.0.1:{server.port}: the response has " in str(error)
    assert str(MOST) in str(error)
    assert "raise max_body" in str(error)
    assert isinstance(error.response, Response)
    assert error.response.status_code == 200
    assert error.request is not None


# -------------------------------------------------------------------------------------------- how it is read


@pytest.mark.parametrize("framing", FRAMINGS)
def test_it_is_not_read_whole(session: Session, framing: Callable[[int], bytes]) -> None:
    with answers(framing(3 * MOST)) as server:
        with pytest.raises(BodyTooLarge, match="max_body") as caught:
            session.get(server.url)
        check(caught.value, server)
        eventually(lambda: session.stats().open == 0)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_what_is_just_as_large_is_read(session: Session, framing: Callable[[int], bytes]) -> None:
    with answers(framing(MOST), framing(MOST), framing(MOST)) as server:
        assert session.get(server.url).content == text(MOST)
        with session.get(server.url, stream=True) as response:
            assert b"".join(response.iter_content(1000)) == text(MOST)


@pytest.mark.parametrize("framing", UNTOLD)
@pytest.mark.parametrize("reading", READINGS)
def test_however_it_is_read(session: Session, tmp_path: Path, framing: Callable[[int], bytes], reading: str) -> None:
    with answers(framing(MOST + 1)) as server:
        response = session.get(server.url, stream=True)
        with pytest.raises(BodyTooLarge) as caught:
            READINGS[reading](response, tmp_path / "body")
        check(caught.value, server)
        assert caught.value.response is response
        eventually(lambda: session.stats().open == 0)
    assert list(tmp_path.iterdir()) == []


def test_raw_counts_what_comes(session: Session) -> None:
    with answers(chunked(3 * MOST)) as server:
        response = session.get(server.url, stream=True)
        with pytest.raises(BodyTooLarge) as caught:
            response.raw.read()
        check(caught.value, server)


def test_raw_does_not_decode(session: Session) -> None:
    """Of what is small as it comes it gives all, whatever it becomes."""
    with answers(gzipped(3 * MOST)) as server:
        response = session.get(server.url, stream=True)
        assert gzip.decompress(response.raw.read()) == text(3 * MOST)


@pytest.mark.parametrize("framing", UNTOLD)
def test_a_reader_gets_what_is_allowed(session: Session, framing: Callable[[int], bytes]) -> None:
    with answers(framing(3 * MOST)) as server:
        read = b""
        with pytest.raises(BodyTooLarge):
            for piece in session.get(server.url, stream=True).iter_content(999):
                read += piece
        assert read == text(MOST)


def test_a_fault_behind_it_does_not_let_more_through(new_session: NewSession) -> None:
    """Both come in one piece."""
    session = new_session(max_body=100)

    def script(peer: Peer) -> None:
        peer.read_head()
        chunk = b"%x\r\n%b\r\n" % (300, text(300))
        peer.send(reply_head(200, {"Transfer-Encoding": "chunked"}) + chunk + b"no size\r\n")
        peer.wait_closed()

    with ScriptedServer(script) as server:
        read = b""
        with pytest.raises(BodyTooLarge):
            for piece in session.get(server.url, stream=True).iter_content(99):
                read += piece
        assert read == text(100)


def test_it_is_refused_before_a_byte_is_read(session: Session) -> None:
    """The server sends the head and waits: only who goes by the head can know."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply_head(200, {"Content-Length": str(MOST + 1)}))
        assert peer.wait_closed() in ("fin", "reset")

    for stream in (False, True):
        with ScriptedServer(script) as server:
            with pytest.raises(
                BodyTooLarge, match=rf"has {MOST + 1} bytes \(Content-Length\).*allows {MOST}"
            ) as caught:
                session.get(server.url, stream=stream)
            check(caught.value, server)
            assert caught.value.bytes_received == 0
            server.wait_until_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_what_comes_in_one_piece_with_its_head(new_session: NewSession, stream: bool) -> None:
    session = new_session(max_body=100)
    for framing in (sized, chunked, until_close):
        with answers(framing(101)) as server:
            read = b""
            with pytest.raises(BodyTooLarge) as caught:
                for piece in session.get(server.url, stream=stream).iter_content(30):
                    read += piece
            # Of one that did not say its length, a reader gets what is allowed.
            assert read == (text(100) if stream and framing is not sized else b"")
            if framing is sized:
                assert caught.value.response is not None
                with pytest.raises(BodyTooLarge):
                    caught.value.response._read(30)
            eventually(lambda: session.stats().open == 0)


def test_a_bomb_is_stopped(new_session: NewSession) -> None:
    """30 MiB from 30 KiB; what is held meanwhile is a part of that."""
    session = new_session(max_body=1 << 20)
    bomb = reply(200, gzip.compress(bytes(30 << 20)), {"Content-Encoding": "gzip"})
    with answers(bomb) as server:
        tracemalloc.start()
        try:
            with pytest.raises(BodyTooLarge, match=r"more than the 1048576 bytes.*once its gzip is undone"):
                session.get(server.url)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert most < 4 << 20


def test_of_several_codings_the_last_counts(session: Session) -> None:
    inner = gzip.compress(text(50), 0)
    twice = reply(200, gzip.compress(inner), {"Content-Encoding": "gzip, gzip"})
    bomb = reply(200, gzip.compress(gzip.compress(bytes(20 << 20))), {"Content-Encoding": "gzip, gzip"})
    with answers(twice, bomb) as server:
        assert session.get(server.url).content == text(50)
        with pytest.raises(BodyTooLarge):
            session.get(server.url)


def test_reading_on_raises_it_again(session: Session) -> None:
    for framing in UNTOLD:
        with answers(framing(3 * MOST)) as server:
            response = session.get(server.url, stream=True)
            with pytest.raises(BodyTooLarge):
                list(response.iter_content(1000))
            with pytest.raises(RequestException):
                response._read(1000)


# -------------------------------------------------------------------------------------------- what has no body


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_what_has_no_body_is_not_refused(session: Session, method: str, status: int) -> None:
    answer = reply_head(status, {"Content-Length": str(10 * MOST), "Content-Encoding": "gzip"})
    with answers(answer, answer, sized(5)) as server:
        response = session.request(method, server.url)
        assert response.content == b""
        assert session.request(method, server.url, stream=True).content == b""
        assert session.get(server.url).content == text(5)
        assert session.stats().opened == 1


def redirect(size: int, where: str, *, is_chunked: bool = False) -> bytes:
    fields = {"Location": where, "Set-Cookie": f"seen{where.strip('/')}=1"}
    if is_chunked:
        head = reply_head(302, {**fields, "Transfer-Encoding": "chunked"})
        return head + chunk(bytes(size)) + b"0\r\n\r\n"
    return reply(302, bytes(size), fields)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_of_redirects_only_the_head_matters(session: Session, stream: bool, is_chunked: bool) -> None:
    """Also of the second, which is sent by another way."""
    way = {
        "/": redirect(3 * MOST, "/2", is_chunked=is_chunked),
        "/2": redirect(3 * MOST, "/3", is_chunked=is_chunked),
        "/3": sized(7),
    }

    def script(peer: Peer) -> None:
        for request in peer.requests():
            with contextlib.suppress(OSError):
                peer.send(way[request.target])

    with ScriptedServer(script) as server:
        response = session.get(server.url, stream=stream)
        assert response.content == text(7)
        assert [earlier.status_code for earlier in response.history] == [302, 302]
        assert session.cookies.get_dict() == {"seen2": "1", "seen3": "1"}
        with pytest.raises(BodyTooLarge):
            session.get(server.url, allow_redirects=False).content  # noqa: B018  # it is read here at the latest


def test_where_a_redirect_leads_to_counts(session: Session) -> None:
    with answers(redirect(5, "/2"), sized(MOST + 1)) as server, pytest.raises(BodyTooLarge) as caught:
        session.get(server.url)
    assert caught.value.response is not None
    assert caught.value.response.url.endswith("/2")


# -------------------------------------------------------------------------------------------- uploads, events, resuming


def test_the_answer_to_an_upload(session: Session) -> None:
    with answers(sized(MOST + 1)) as server:
        with pytest.raises(BodyTooLarge) as caught, session.upload("PUT", server.url) as up:
            up.write(b"body")
        check(caught.value, server)
    with answers(sized(MOST)) as server:
        with session.upload("PUT", server.url) as up:
            up.write(b"body")
        assert up.response.content == text(MOST)


def test_an_answer_to_an_upload_that_says_nothing_of_its_size(session: Session) -> None:
    with answers(chunked(MOST + 1)) as server:
        with session.upload("PUT", server.url) as up:
            up.write(b"body")
        with pytest.raises(BodyTooLarge) as caught:
            _ = up.response.content
        check(caught.value, server)


def test_an_early_answer_to_an_upload(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(sized(MOST + 1))
        peer.stall()

    with ScriptedServer(script) as server:
        with pytest.raises(BodyTooLarge) as caught, session.upload("PUT", server.url) as up:
            with contextlib.suppress(EarlyResponse):
                while True:
                    up.write(bytes(MOST))
        assert caught.value.response is not None
        assert caught.value.response.status_code == 200


def events(count: int) -> bytes:
    return b"data: 12345678\n\n" * count


def test_a_stream_of_events_has_no_end(new_session: NewSession) -> None:
    session = new_session(max_body=1000)
    head = reply_head(200, {"Content-Type": "text/event-stream", "Connection": "close"})
    with answers(head + events(200)) as server:
        with session.sse(server.url, max_reconnects=0) as stream:
            assert [next(stream).data for _ in range(200)] == ["12345678"] * 200
        # A response that happens to have events in it is a response.
        with pytest.raises(BodyTooLarge):
            list(session.get(server.url, stream=True).iter_sse())


def test_a_resumed_download_counts_as_one(session: Session, tmp_path: Path) -> None:
    """The length of the whole is not known before the second part."""
    body = text(MOST + 1)
    tag = {"ETag": '"a"'}

    def first(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply_head(200, {**tag, "Transfer-Encoding": "chunked"}) + chunk(body[:60_000]))

    def second(peer: Peer) -> None:
        request = peer.read_request()
        assert dict(request.fields)["Range"] == "bytes=60000-"
        span = {"Content-Range": f"bytes 60000-{MOST}/{MOST + 1}"}
        peer.send(reply(206, body[60_000:], {**tag, **span}))

    with ScriptedServer(first, second) as server:
        response = session.get(server.url, stream=True)
        with pytest.raises(BodyTooLarge, match=rf"has {MOST + 1} bytes.*allows {MOST}"):
            response.save(tmp_path / "body", resume=True)
    assert list(tmp_path.iterdir()) == []


def test_the_worker_finds_it_too(new_session: NewSession) -> None:
    """What comes while nobody reads."""
    session = new_session(max_body=1000)

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply_head(200, {"Transfer-Encoding": "chunked"}) + chunk(bytes(900)))
        peer.wait_step()
        peer.send(chunk(bytes(101)))
        peer.stall()

    with ScriptedServer(script) as server:
        response = session.get(server.url, stream=True)
        server.step()
        eventually(lambda: session.stats().open == 0)
        assert next(response.iter_content(5000)) == bytes(900)
        with pytest.raises(BodyTooLarge):
            list(response._stream(5000))


# -------------------------------------------------------------------------------------------- as a setting


def test_there_is_none_at_first(new_session: NewSession) -> None:
    with answers(sized(3 * MOST)) as server:
        assert new_session().get(server.url).content == text(3 * MOST)


@pytest.mark.parametrize("make", [Session, HTTPAdapter])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (1.0, TypeError)])
def test_what_it_may_be(make: Callable[..., Any], value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"max_body .* None"):
        make(max_body=value)


def test_copies_have_it(session: Session) -> None:
    with answers(sized(MOST + 1)) as server:
        for same in (copy.copy(session), pickle.loads(pickle.dumps(session))):
            with same, pytest.raises(BodyTooLarge):
                same.get(server.url)
        adapter = HTTPAdapter(max_body=10)
        with Session() as other:
            other.trust_env = False
            other.mount("http://", pickle.loads(pickle.dumps(adapter)))
            with pytest.raises(BodyTooLarge):
                other.send(other.prepare_request(Request("GET", server.url)))
        adapter.close()


def test_the_error_survives_a_pickle(session: Session) -> None:
    with answers(sized(MOST + 1)) as server, pytest.raises(BodyTooLarge) as caught:
        session.get(server.url)
    caught.value.response = None
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

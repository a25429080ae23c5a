"""A final response before the body is complete stops the sending and is returned; 100 (Continue) and its refusal."""

from __future__ import annotations

import contextlib
import io
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncflow import ConnectionError, EarlyResponse, Session, uploads
from syncflow.adapters import writing
from syncflow.testing import (
    AppServer,
    Nginx,
    Peer,
    ScriptedServer,
    continue_then,
    early_response,
    eventually,
    pattern,
    reply,
    reply_head,
)

BIG = 32 << 20  # more than the kernel takes on both sides


@pytest.fixture
def session(ca_file: Path) -> Iterator[Session]:
    with Session(timeout=10) as session:
        session.verify = str(ca_file)
        yield session


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "file"
    with path.open("wb") as file:
        file.truncate(BIG)
    return path


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(65_536)


BODIES: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: bytes(BIG),
    "file": lambda path: path.open("rb"),
    "memory": lambda path: io.BytesIO(bytes(BIG)),
    "generator": lambda path: endless(),
}


# ------------------------------------------------------------------------------------- bodies that are pulled


@pytest.mark.parametrize("status", [200, 302, 401, 413, 503])
@pytest.mark.parametrize("body", BODIES)
def test_the_answer_is_the_response_of_the_call(
    session: Session, big_file: Path, status: int, body: str, tls: ssl.SSLContext | None
) -> None:
    text = b"enough " * 1000
    data = BODIES[body](big_file)
    try:
        with early_response(status, then="close", body=text, ssl_context=tls) as server:
            response = session.put(server.url, data=data)
            assert (response.status_code, response.content) == (status, text)
            assert not response.request_complete
            server.wait_until_idle()  # the connection was closed, not kept
            assert server.connections == 1
    finally:
        if isinstance(data, io.BufferedReader):
            data.close()


@pytest.mark.parametrize("then", ["close", "reset", "linger", "stall"])
@pytest.mark.parametrize("after", [0, 1, 100_000])
@pytest.mark.parametrize("body", ["bytes", "file", "generator"])
def test_also_when_the_server_ends_the_connection_right_after(
    session: Session, big_file: Path, then: Any, after: int, body: str, tls: ssl.SSLContext | None
) -> None:
    data = BODIES[body](big_file)
    try:
        with early_response(413, then=then, after_bytes=after, body=b"too large", ssl_context=tls) as server:
            for _ in range(3):
                if body == "file":
                    data.seek(0)
                response = session.put(server.url, data=data)
                assert (response.status_code, response.content) == (413, b"too large")
                # One who lingers may have read it all before we had seen the answer.
                assert not response.request_complete or then == "linger"
    finally:
        if body == "file":
            data.close()


def test_the_generator_is_asked_no_more(session: Session) -> None:
    asked = 0

    def pieces() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(65_536)

    with early_response(413, then="stall") as server:
        assert session.put(server.url, data=pieces()).status_code == 413
        before = asked
        assert before <= BIG / 65_536
        server.release()
    assert asked == before


def test_the_sending_stops_while_a_writer_waits_for_room(session: Session) -> None:
    """The server does not read: the answer is what wakes the writer."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.wait_step()
        peer.send(reply(503, b"later", {"Connection": "close"}))
        peer.stall()

    full = threading.Event()

    def pieces() -> Iterator[bytes]:
        for _ in range(BIG // 65_536):
            full.set()
            yield bytes(65_536)

    with ScriptedServer(script, receive_buffer=4096) as server:
        stepper = threading.Thread(target=lambda: (full.wait(10), server.step()))
        stepper.start()
        response = session.put(server.url, data=pieces())
        stepper.join(10)
        assert (response.status_code, response.content) == (503, b"later")
        server.release()


def test_a_long_answer_is_read_in_full(session: Session, tls: ssl.SSLContext | None) -> None:
    answer = pattern(3_000_000)

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply_head(413, {"Content-Length": str(len(answer)), "Connection": "close"}))
        peer.send(answer)
        peer.half_close()
        peer.wait_closed()

    with ScriptedServer(script, ssl_context=tls) as server:
        assert session.put(server.url, data=endless()).content == answer
        with session.request("PUT", server.url, data=endless(), stream=True) as response:
            assert b"".join(response.iter_content(65_536)) == answer


def test_an_answer_in_the_same_moment_as_the_end_of_the_body_is_not_early(session: Session) -> None:
    with AppServer() as server:
        for size in (0, 1, 16_384, 16_385, 65_536, 200_000):
            for data in (bytes(size), iter([bytes(size)]), io.BytesIO(bytes(size))):
                assert session.put(server.url, data=data).request_complete
        assert server.connections == 1


def test_the_answer_to_a_body_that_had_left_in_full_is_not_early(session: Session) -> None:
    """The server answers by the head alone. What it does with the body is its own affair: that has left."""

    def script(peer: Peer) -> None:
        while True:
            request = peer.read_request(body=False)
            peer.wait_step()
            peer.send(reply(200, b"ok"))
            peer.read_body(request)

    with ScriptedServer(script) as server:
        for _ in range(2):
            left = threading.Thread(target=server.step)
            left.start()
            response = session.put(server.url, data=b"x" * 1000)
            left.join(10)
            assert response.content == b"ok"
            assert response.request_complete
        assert server.connections == 1
        server.stop()


def test_the_response_tells_how_far_the_body_had_come(session: Session) -> None:
    with early_response(413, after_bytes=1, then="stall", receive_buffer=4096) as server:
        response = session.put(server.url, data=bytes(BIG))
        assert response.timings.sent is None
        assert response.timings.first_byte is not None
        server.release()


def test_informational_responses_do_not_stop_the_sending(session: Session, tls: ssl.SSLContext | None) -> None:
    def script(peer: Peer) -> None:
        request = peer.read_request(body=False)
        peer.send(reply_head(102) + reply_head(103, {"Link": "</a>"}) + reply_head(100))
        assert len(peer.read_body(request)) == 3_000_000
        peer.send(reply(201))

    with ScriptedServer(script, ssl_context=tls) as server:
        response = session.put(server.url, data=iter([bytes(1_000_000)] * 3))
        assert response.status_code == 201
        assert response.request_complete


# ------------------------------------------------------------------------------------- bodies that are pushed


@pytest.mark.parametrize("status", [200, 302, 401, 413, 503])
@pytest.mark.parametrize("then", ["close", "reset", "linger"])
def test_the_next_write_raises_it(session: Session, status: int, then: Any, tls: ssl.SSLContext | None) -> None:
    with early_response(status, then=then, body=b"enough", ssl_context=tls) as server:
        upload = session.upload("PUT", server.url)
        with pytest.raises(EarlyResponse, match=f"127.0.0.1:{server.port}: the server answered {status}") as caught:
            while True:
                upload.write(bytes(10_000))
        response = caught.value.response
        assert response is upload.response
        assert response is not None
        assert (response.status_code, response.content) == (status, b"enough")
        assert not response.request_complete
        assert caught.value.request is upload.request is response.request
        assert caught.value.phase == "send"
        upload.close()


def test_the_block_swallows_it(session: Session, tls: ssl.SSLContext | None) -> None:
    with early_response(413, body=b"too large", ssl_context=tls) as server:
        after = False
        with session.upload("PUT", server.url) as upload:
            while True:
                upload.write(bytes(10_000))
            after = True
        assert not after
        assert (upload.response.status_code, upload.response.content) == (413, b"too large")
        assert upload.closed


def test_the_block_does_not_swallow_that_of_another(session: Session) -> None:
    with early_response(413) as refusing, AppServer() as server:
        with pytest.raises(EarlyResponse) as caught:
            with session.upload("PUT", server.url):
                other = session.upload("PUT", refusing.url)
                while True:
                    other.write(bytes(10_000))
        assert caught.value.request is other.request
        other.close()
        server.wait_until_idle()
        assert server.requests == 0


@pytest.mark.parametrize("how", ["write", "try_write", "finish"])
def test_however_it_is_seen(session: Session, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply(413, b"too large", {"Connection": "close"}))
        peer.half_close()
        peer.wait_closed()

    with ScriptedServer(script) as server:
        upload = session.upload("PUT", server.url)
        # The head of the answer is here, whatever the caller does: the worker reads while nobody writes.
        eventually(lambda: upload._exchange.answered)
        if how == "finish":
            assert upload.finish().status_code == 413
        else:
            with pytest.raises(EarlyResponse):
                getattr(upload, how)(b"x")
            with pytest.raises(EarlyResponse):  # and so does every other one
                getattr(upload, how)(b"x")
        assert upload.wait_writable(10)
        assert not upload.response.request_complete
        assert upload.response.content == b"too large"
        upload.close()


def test_a_writer_that_waits_for_room_is_woken(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.wait_step()
        peer.send(reply(413, b"too large", {"Connection": "close"}))
        peer.stall()

    with ScriptedServer(script, receive_buffer=4096) as server:
        upload = session.upload("PUT", server.url)
        while upload.try_write(bytes(65_000)):
            pass  # from now on a write would wait
        stepper = threading.Thread(target=server.step)
        stepper.start()
        with pytest.raises(EarlyResponse):
            upload.write(bytes(BIG))
        stepper.join(10)
        assert upload.response.content == b"too large"
        upload.close()
        server.release()


def test_one_who_waits_to_be_writable_is_woken(session: Session) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.wait_step()
        peer.send(reply(413, b"", {"Connection": "close"}))
        peer.stall()

    with ScriptedServer(script, receive_buffer=4096) as server:
        upload = session.upload("PUT", server.url)
        while upload.try_write(bytes(65_000)):
            pass
        stepper = threading.Thread(target=server.step)
        stepper.start()
        assert upload.wait_writable(10)
        stepper.join(10)
        with pytest.raises(EarlyResponse):
            upload.try_write(b"x")
        assert upload.response.content == b""
        upload.close()
        server.release()


# ------------------------------------------------------------------------------------- 100 (Continue)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for one second any more, but until the test hangs."""
    monkeypatch.setattr(writing, "CONTINUE_PATIENCE", 300.0)
    monkeypatch.setattr(uploads, "CONTINUE_PATIENCE", 300.0)


EXPECT = {"Expect": "100-continue"}
HINTS = reply_head(103, {"Link": "</a>"})


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("informational", [[reply_head(100)], [HINTS, reply_head(100)], [reply_head(100), HINTS]])
@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
def test_the_body_waits_for_100(
    session: Session, informational: list[bytes], expect: str, tls: ssl.SSLContext | None
) -> None:
    order: list[str] = []

    def pieces() -> Iterator[bytes]:
        order.append("body")
        yield b"abc"

    with continue_then(201, informational=informational, stepped=True, ssl_context=tls) as server:

        def allow() -> None:
            server.wait_for_connections(1)
            order.append("allowed")
            server.step()

        allowing = threading.Thread(target=allow)
        allowing.start()
        response = session.put(server.url, data=pieces(), headers={"Expect": expect})
        allowing.join(10)
        assert response.status_code == 201
        assert response.request_complete
    assert order == ["allowed", "body"]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("data", [b"abc", b"x" * 100_000, io.BytesIO(b"abc"), [b"abc"], {"a": "b"}])
def test_whatever_the_body_is_its_head_goes_first(session: Session, data: Any) -> None:
    """A server that waits with its 100 gets the head, and only that."""

    def script(peer: Peer) -> None:
        request = peer.read_request(body=False)
        assert request.headers["expect"] == "100-continue"
        assert peer._reader.available == 0
        peer.send(reply_head(100))
        peer.read_body(request)
        peer.send(reply(200, str(len(request.body)).encode()))

    with ScriptedServer(script) as server:
        assert int(session.put(server.url, data=data, headers=EXPECT).text) > 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("status", [417, 401, 413, 302])
@pytest.mark.parametrize("body", ["bytes", "generator"])
def test_a_final_answer_instead_of_100(
    session: Session, big_file: Path, status: int, body: str, tls: ssl.SSLContext | None
) -> None:
    asked: list[int] = []
    got: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        asked.append(1)
        yield b"abc"

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply(status, b"no", {"Connection": "close"}))
        peer.half_close()
        with contextlib.suppress(AssertionError):  # the client has closed
            got.append(peer.read_exactly(1))

    with ScriptedServer(script, ssl_context=tls) as server:
        data = pieces() if body == "generator" else b"abc"
        response = session.put(server.url, data=data, headers=EXPECT)
        assert (response.status_code, response.content) == (status, b"no")
        assert not response.request_complete
        server.wait_until_idle()
    assert asked == []
    assert got == []


def test_after_one_second_the_body_is_sent_all_the_same(session: Session) -> None:
    """RFC 9110, section 10.1.1: there are servers that do not know of it."""

    def script(peer: Peer) -> None:
        request = peer.read_request()
        peer.send(reply(200, request.body))

    with ScriptedServer(script) as server:
        begun = time.monotonic()
        assert session.put(server.url, data=b"abc", headers=EXPECT).content == b"abc"
        assert time.monotonic() - begun >= 1.0


@pytest.mark.usefixtures("patient")
def test_an_upload_waits_for_100_before_it_can_be_written(session: Session) -> None:
    with continue_then(201) as server:
        with session.upload("PUT", server.url, headers=EXPECT) as upload:
            upload.write(b"abc")
        assert upload.response.status_code == 201


@pytest.mark.usefixtures("patient")
def test_an_upload_that_is_refused_instead(session: Session) -> None:
    with continue_then(417, informational=(), reads_body=False) as server:
        with session.upload("PUT", server.url, headers=EXPECT) as upload:
            upload.write(b"abc")
        assert upload.response.status_code == 417
        assert upload.offset == 0


@pytest.mark.usefixtures("patient")
def test_a_server_that_is_gone_instead(session: Session) -> None:
    with ScriptedServer(lambda peer: peer.read_head()) as server:
        with pytest.raises(ConnectionError):
            session.post(server.url, data=b"abc", headers=EXPECT)


def test_nobody_waits_without_a_body(session: Session) -> None:
    with AppServer() as server:
        assert session.get(server.url, headers=EXPECT).ok


def test_a_connection_is_used_again_after_a_continue(session: Session) -> None:
    with AppServer() as server:
        for _ in range(5):
            assert session.put(server.url, data=b"abc", headers=EXPECT).json()["body"] == "abc"
        assert server.connections == 1


# ------------------------------------------------------------------------------------- nginx

LIMITED = """
client_max_body_size 100k;
location / { dav_methods PUT; }
location /auth { auth_basic "x"; auth_basic_user_file none; }
location /moved { return 302; }
location /busy { return 503; }
"""


@pytest.fixture(scope="module", params=["plain", "tls"])
def nginx(request: pytest.FixtureRequest, nginx_required: None, server_tls_files: tuple[Path, Path]) -> Iterator[Nginx]:
    with Nginx(LIMITED, tls=server_tls_files if request.param == "tls" else None) as nginx:
        yield nginx


@pytest.mark.parametrize("body", BODIES)
def test_nginx_refuses_what_is_too_large(session: Session, nginx: Nginx, big_file: Path, body: str) -> None:
    """It answers 413 by the head, or by the first chunks, and resets the connection when it has lingered."""
    for _ in range(5):
        data = BODIES[body](big_file)
        try:
            response = session.put(f"{nginx.url}/file", data=data)
            assert response.status_code == 413
            assert b"413 Request Entity Too Large" in response.content
            # It lingers: what ends may have left in full before the answer was seen.
            assert body != "generator" or not response.request_complete
        finally:
            if isinstance(data, io.BufferedReader):
                data.close()


@pytest.mark.parametrize(("path", "status"), [("auth", 401), ("moved", 302), ("busy", 503)])
def test_nginx_answers_before_it_has_read_the_body(session: Session, nginx: Nginx, path: str, status: int) -> None:
    for _ in range(5):
        response = session.put(f"{nginx.url}/{path}", data=iter([bytes(50_000)]))
        assert response.status_code == status


def test_nginx_and_an_upload(session: Session, nginx: Nginx) -> None:
    for _ in range(5):
        with session.upload("PUT", f"{nginx.url}/file") as upload:
            while True:
                upload.write(bytes(10_000))
        assert upload.response.status_code == 413
        assert b"413 Request Entity Too Large" in upload.response.content


def test_nginx_takes_what_is_not_too_large(session: Session, nginx: Nginx) -> None:
    for number in range(5):
        response = session.put(f"{nginx.url}/file{number}", data=iter([pattern(50_000)]), headers=EXPECT)
        assert response.status_code == 201
        assert response.request_complete
        assert (nginx.root / f"file{number}").read_bytes() == pattern(50_000)
        (nginx.root / f"file{number}").unlink()

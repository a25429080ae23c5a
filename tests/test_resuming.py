"""Response.save(resume=True): transfers that break and go on, in one run of the program and over two."""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import io
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import syncflow
from syncflow import (
    Cancelled,
    ChunkedEncodingError,
    ConnectionError,
    DecompressionError,
    PreparedRequest,
    ProtocolError,
    ReadTimeout,
    RequestException,
    Response,
    Session,
    SessionClosed,
    Timeouts,
    TotalTimeout,
)
from syncflow.engine.deadline import Deadline
from syncflow.resuming import PAUSES, ResumingSource, length_of, strong_validator
from syncflow.structures import CaseInsensitiveDict
from syncflow.testing import (
    AppServer,
    FaultProxy,
    HTTPProxy,
    Link,
    Nginx,
    Peer,
    RangeServer,
    Request,
    ScriptedServer,
    eventually,
    pattern,
    refused_port,
    reply,
    reply_head,
)
from syncflow.testing import Response as AppResponse

SIZE = 300_000
BODY = pattern(SIZE)
OTHER = pattern(SIZE // 2, 77_777)
ETAG = '"1"'

DATE = "Tue, 15 Nov 1994 08:12:31 GMT"
SECOND_BEFORE = "Tue, 15 Nov 1994 08:12:30 GMT"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tries, none of which waits."""
    monkeypatch.setattr("syncflow.resuming.PAUSES", (0.0,) * len(PAUSES))


@pytest.fixture
def long_pauses(no_pauses: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests in which a pause is to be ended."""
    monkeypatch.setattr("syncflow.resuming.PAUSES", (60.0,))


@pytest.fixture
def session(ca_file: Path) -> Iterator[Session]:
    with Session(timeout=10) as session:
        session.verify = str(ca_file)
        yield session


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "target"


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def part_of(url: str, etag: str = ETAG, name: str = "target") -> str:
    digest = hashlib.sha256(f"{url}/\n{etag}".encode()).hexdigest()
    return f".{name}.{digest[:16]}.part"


def ranges(server: RangeServer) -> list[str | None]:
    return [request.headers.get("range") for request in server.seen]


def save(session: Session, server: Any, where: Any, **kwargs: Any) -> int:
    with session.get(server.url, stream=True) as response:
        return response.save(where, resume=True, **kwargs)


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


# ------------------------------------------------------------------------------------------- in one run


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 65_536, SIZE // 2, SIZE - 1])
def test_the_rest_is_asked_for(session: Session, target: Path, how: Any, chunked: bool, cut: int) -> None:
    told: list[tuple[int, int | None]] = []
    with RangeServer(BODY, [cut], how=how, chunked=chunked) as server:
        response = session.get(server.url, stream=True)
        assert response.save(target, resume=True, on_progress=lambda *now: told.append(now)) == SIZE
        assert target.read_bytes() == BODY
        assert beside(target) == []
        first, second = server.seen
        # A reset may destroy what had come before it.
        at = int(second.headers["range"].removeprefix("bytes=").removesuffix("-"))
        assert at == cut if how == "close" else at <= cut
        assert second.headers["if-range"] == ETAG
        assert "range" not in first.headers
        assert {**second.headers, "range": "", "if-range": ""} == {**first.headers, "range": "", "if-range": ""}
        assert response.status_code == 200
        assert response.timings.total is not None
        # The connection of the rest is used again.
        assert session.get(server.url).content == BODY
        assert server.connections == 2
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (SIZE, SIZE)


def test_a_chunked_body_of_which_only_the_end_is_missing(session: Session, target: Path) -> None:
    """RFC 9110, section 15.5.17: the server says of what length there is nothing more."""
    with RangeServer(BODY, [SIZE], chunked=True) as server:
        assert save(session, server, target) == SIZE
        assert ranges(server) == [None, f"bytes={SIZE}-"]
    assert target.read_bytes() == BODY


def test_a_transfer_that_stalls(session: Session, target: Path) -> None:
    with RangeServer(BODY, [1000], how="stall") as server:
        response = session.get(server.url, stream=True, timeout=Timeouts(read=0.1))
        assert response.save(target, resume=True) == SIZE
        assert ranges(server) == [None, "bytes=1000-"]
        response.close()
        eventually(lambda: server.open_connections == 1)
    assert target.read_bytes() == BODY


def test_many_breaks(session: Session, target: Path) -> None:
    with RangeServer(BODY, [10_000] * 29) as server:
        assert save(session, server, target) == SIZE
        assert ranges(server) == [None, *(f"bytes={at}-" for at in range(10_000, SIZE, 10_000))]
    assert target.read_bytes() == BODY


def test_tries_that_bring_nothing_are_bounded(session: Session, target: Path) -> None:
    """Those that bring something are not: they begin to count anew."""
    with RangeServer(BODY, [1000, *[0] * 4, 1000, *[0] * 5]) as server:
        with pytest.raises(ChunkedEncodingError) as caught:
            save(session, server, target)
        assert ranges(server) == [None, *["bytes=1000-"] * 5, *["bytes=2000-"] * 5]
    assert "given up after 5 tries in a row" in notes(caught.value)
    assert caught.value.bytes_received == 2000
    assert caught.value.response is not None
    assert caught.value.response.request is caught.value.request
    assert not target.exists()


def test_the_pauses_double(session: Session, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("syncflow.resuming.PAUSES", PAUSES)
    monkeypatch.setattr(ResumingSource, "_pause", lambda self, seconds: waited.append(seconds))
    with RangeServer(BODY, [0] * 9) as server, pytest.raises(ChunkedEncodingError):
        save(session, server, target)
    assert waited == [0, 0.5, 1, 2, 4]


def test_a_pause_is_waited_for(session: Session, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncflow.resuming.PAUSES", (0.2, 0.2))
    with RangeServer(BODY, [1000]) as server:
        response = session.get(server.url, stream=True)
        response.save(target, resume=True)
        assert response.timings.total is not None
        assert response.timings.total >= 0.2


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_is_not_ready_is_asked_again(session: Session, target: Path, status: int) -> None:
    left = 3

    def answer(request: Request) -> bytes | None:
        nonlocal left
        if "range" not in request.headers or not left:
            return None
        left -= 1
        return reply(status, b"later")

    with RangeServer(BODY, [1000], answer=answer) as server:
        assert save(session, server, target) == SIZE
        assert ranges(server) == [None, *["bytes=1000-"] * 4]
    assert target.read_bytes() == BODY


def test_a_server_that_is_never_ready(session: Session, target: Path) -> None:
    with RangeServer(
        BODY, [1000], answer=lambda request: reply(503, b"later") if "range" in request.headers else None
    ) as server:
        with pytest.raises(ChunkedEncodingError) as caught:
            save(session, server, target)
        assert len(server.seen) == 6
    assert "the server answered 503 Service Unavailable" in notes(caught.value)


def test_a_server_that_is_gone(session: Session, target: Path) -> None:
    with RangeServer(BODY, [1000], how="stall") as server:
        response = session.get(server.url, stream=True)
        with pytest.raises((ChunkedEncodingError, ConnectionError)) as caught:
            response.save(target, resume=True, on_progress=lambda done, total: server.stop())
    assert "given up after 5 tries" in notes(caught.value)
    assert "refused" in notes(caught.value)


def test_a_short_part_is_gone_on_from(session: Session, target: Path) -> None:
    """RFC 9110, section 15.3.7: a server may send less than it was asked for."""

    def answer(request: Request) -> bytes | None:
        if "range" not in request.headers:
            return None
        start = int(request.headers["range"][6:-1])
        end = min(start + 100_000, SIZE)
        return reply(206, BODY[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{SIZE}", "ETag": ETAG})

    with RangeServer(BODY, [1000], answer=answer) as server:
        assert save(session, server, target) == SIZE
        assert ranges(server) == [None, "bytes=1000-", "bytes=101000-", "bytes=201000-"]
        assert server.connections == 2
    assert target.read_bytes() == BODY


def test_over_tls(session: Session, server_tls: ssl.SSLContext, target: Path) -> None:
    with RangeServer(BODY, [1000, 100_000], ssl_context=server_tls) as server:
        assert save(session, server, target) == SIZE
    assert target.read_bytes() == BODY


def test_through_a_proxy(session: Session, target: Path) -> None:
    with HTTPProxy() as proxy, RangeServer(BODY, [1000]) as server:
        session.proxies = {"http": proxy.url}
        assert save(session, server, target) == SIZE
        assert ranges(server) == [None, "bytes=1000-"]
        assert proxy.targets == [server.address] * 2
    assert target.read_bytes() == BODY


def test_after_a_redirect_with_cookies_and_credentials(session: Session, target: Path) -> None:
    def answer(request: Request) -> bytes | None:
        if request.path == "/from":
            return reply(302, b"", {"Location": "/to", "Set-Cookie": "a=1"})
        return None

    with RangeServer(BODY, [1000], answer=answer) as server:
        with session.get(f"{server.url}/from", stream=True, auth=("user", "secret")) as response:
            response.save(target, resume=True)
        _, first, second = server.seen
    for request in (first, second):
        assert request.target == "/to"
        assert request.headers["cookie"] == "a=1"
        assert request.headers["authorization"].startswith("Basic ")
    assert target.read_bytes() == BODY


def test_without_a_session(target: Path) -> None:
    """Whose own session takes no new requests."""
    with RangeServer(BODY, [1000, 1000]) as server:
        assert syncflow.get(server.url, stream=True).save(target, resume=True) == SIZE
        eventually(lambda: server.open_connections == 0)
        assert ranges(server) == [None, "bytes=1000-", "bytes=2000-"]
    assert target.read_bytes() == BODY


def test_an_idle_connection_that_has_died_costs_no_try(
    session: Session, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncflow.resuming.PAUSES", (0.0,))
    monkeypatch.setattr("syncflow.engine.connection.Connection.is_reusable", lambda self: True)
    died = threading.Event()

    def idle(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(200, b""))
        peer.wait_for(died)

    def breaks(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "6", "ETag": ETAG}) + b"abc")

    def rest(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(206, b"def", {"Content-Range": "bytes 3-5/6"}))

    with ScriptedServer(breaks, idle, rest) as server:
        response = session.get(server.url, stream=True)
        session.get(server.url)
        died.set()
        eventually(lambda: server.open_connections == 0)
        file = io.BytesIO()
        assert response.save(file, resume=True) == 6
    assert file.getvalue() == b"abcdef"


# ------------------------------------------------------------------------------------------- codings


@pytest.mark.parametrize("cut", [0, 5, 20_000, -1])
def test_a_coded_body_goes_on_in_the_same_run(session: Session, target: Path, cut: int) -> None:
    encoded = gzip.compress(BODY)
    with RangeServer(encoded, [cut % len(encoded)], headers={"Content-Encoding": "gzip"}) as server:
        told: list[Any] = []
        assert save(session, server, target, on_progress=lambda *now: told.append(now)) == SIZE
        assert ranges(server) == [None, f"bytes={cut % len(encoded)}-"]
    assert target.read_bytes() == BODY
    assert told[-1] == (len(encoded), len(encoded))


def test_a_part_in_another_coding_is_refused(session: Session, target: Path) -> None:
    server = answering(206, BODY[1000:], {"Content-Range": f"bytes 1000-{SIZE - 1}/{SIZE}", "Content-Encoding": "gzip"})
    with server, pytest.raises(ProtocolError, match="another Content-Encoding"):
        save(session, server, target)


def test_a_coded_body_that_has_changed_is_decoded_anew(session: Session, target: Path) -> None:
    first, second = gzip.compress(BODY), gzip.compress(OTHER)

    def change(done: int, total: int | None) -> None:
        server.body, server.etag = second, '"2"'

    with RangeServer(first, [30_000], headers={"Content-Encoding": "gzip"}) as server:
        assert save(session, server, target, on_progress=change) == len(OTHER)
    assert target.read_bytes() == OTHER


def test_a_coded_body_is_not_kept(session: Session, target: Path) -> None:
    encoded = gzip.compress(BODY)
    with RangeServer(encoded, [60_000, *[0] * 9], headers={"Content-Encoding": "gzip"}) as server:
        with pytest.raises(ChunkedEncodingError):
            save(session, server, target)
    assert beside(target) == []


def test_corrupt_data_is_no_broken_transfer(session: Session, target: Path) -> None:
    with RangeServer(b"nonsense" * 100, headers={"Content-Encoding": "gzip"}) as server:
        with pytest.raises(DecompressionError):
            save(session, server, target)
        assert len(server.seen) == 1


# ------------------------------------------------------------------------------------------- another body


@pytest.mark.parametrize("etag", ['"2"', 'W/"2"', None])
def test_a_body_that_has_changed_begins_anew(session: Session, target: Path, etag: str | None) -> None:
    told: list[tuple[int, int | None]] = []

    def on_progress(done: int, total: int | None) -> None:
        told.append((done, total))
        server.body, server.etag = OTHER, etag

    with RangeServer(BODY, [200_000]) as server:
        response = session.get(server.url, stream=True)
        assert response.save(target, resume=True, on_progress=on_progress) == len(OTHER)
        assert ranges(server) == [None, "bytes=200000-"]
    assert target.read_bytes() == OTHER
    assert beside(target) == []
    anew = told.index((0, len(OTHER)))
    assert told[anew - 1] == (200_000, SIZE)
    assert told[-1] == (len(OTHER), len(OTHER))
    # The response is the new one.
    assert response.headers.get("etag") == etag
    assert response.headers["content-length"] == str(len(OTHER))


def test_a_changed_body_breaks_and_goes_on(session: Session, target: Path) -> None:
    def change(done: int, total: int | None) -> None:
        server.body, server.etag = OTHER, '"2"'

    with RangeServer(BODY, [1000, 2000]) as server:
        assert save(session, server, target, on_progress=change) == len(OTHER)
        assert [request.headers.get("if-range") for request in server.seen] == [None, '"1"', '"2"']
        assert ranges(server) == [None, "bytes=1000-", "bytes=2000-"]
    assert target.read_bytes() == OTHER


def test_a_changed_body_that_cannot_be_resumed(session: Session, target: Path) -> None:
    def change(done: int, total: int | None) -> None:
        server.body, server.etag = OTHER, 'W/"2"'

    with RangeServer(BODY, [1000, 2000]) as server, pytest.raises(ChunkedEncodingError) as caught:
        save(session, server, target, on_progress=change)
    assert "not resumed at byte 2000: it has no strong ETag" in notes(caught.value)
    assert beside(target) == []


def test_a_server_without_ranges_that_always_breaks(session: Session, target: Path) -> None:
    """It brings bytes each time, but never a new one."""
    seen: list[Request] = []

    def script(peer: Peer) -> None:
        seen.append(peer.read_request())
        peer.send(reply_head(200, {"Content-Length": str(SIZE), "ETag": ETAG}) + BODY[:1000])

    with ScriptedServer(script) as server, pytest.raises(ChunkedEncodingError) as caught:
        save(session, server, target)
    assert len(seen) == 6
    assert "given up after 5 tries" in notes(caught.value)


def test_a_file_object_begins_anew_where_it_stood(session: Session) -> None:
    def change(done: int, total: int | None) -> None:
        server.body, server.etag = OTHER, '"2"'

    file = io.BytesIO(b"head")
    file.seek(4)
    with RangeServer(BODY, [200_000]) as server:
        assert save(session, server, file, on_progress=change) == len(OTHER)
    assert file.getvalue() == b"head" + OTHER


def test_a_file_object_that_cannot_go_back(session: Session) -> None:
    class Pipe:
        taken = 0

        def write(self, data: bytes) -> int:
            self.taken += len(data)
            server.etag = '"2"'
            return len(data)

    pipe = Pipe()
    with RangeServer(BODY, [1000]) as server:
        with pytest.raises(ChunkedEncodingError) as caught:
            save(session, server, pipe)
        eventually(lambda: server.open_connections == 0)
    assert "this file cannot go back" in notes(caught.value)
    assert pipe.taken == 1000


# ------------------------------------------------------------------------------------------- answers that do not fit


def answering(status: int, body: bytes, headers: Any, cut: int = 1000) -> RangeServer:
    """Breaks the first transfer, and answers the second in this way."""
    return RangeServer(
        BODY, [cut], answer=lambda request: reply(status, body, headers) if "range" in request.headers else None
    )


REST = BODY[1000:]


@pytest.mark.parametrize(
    ("body", "headers", "says"),
    [
        (REST, {"Content-Range": f"bytes 999-{SIZE - 1}/{SIZE}"}, "bytes 999-"),
        (REST, {"Content-Range": f"bytes 1001-{SIZE - 1}/{SIZE}"}, "bytes 1001-"),
        (REST, {"Content-Range": f"bytes 1000-{SIZE - 1}/{SIZE + 1}"}, f"of a body that had {SIZE} bytes"),
        (REST, {"Content-Range": f"bytes 1000-{SIZE}/{SIZE}"}, f"bytes 1000-{SIZE}/"),
        (REST, {"Content-Range": f"bytes 1000-{SIZE}/*"}, f"bytes 1000-{SIZE}/"),
        (REST, {"Content-Range": f"bytes 1000-999/{SIZE}"}, "bytes 1000-999"),
        (REST, {"Content-Range": "bytes 1000-"}, "not one range of bytes"),
        (REST, {"Content-Range": f"lines 1000-{SIZE - 1}/{SIZE}"}, "not one range of bytes"),
        (REST, {}, "not one range of bytes"),
        (REST, {"Content-Type": "multipart/byteranges; boundary=x"}, "not one range of bytes"),
        (REST, {"Content-Range": f"bytes 1000-{SIZE - 1}/{SIZE}", "ETag": '"2"'}, 'a part of "2", not of "1"'),
        (REST[1:], {"Content-Range": f"bytes 1000-{SIZE - 1}/{SIZE}"}, "sent less than its Content-Range"),
        (REST + b"x", {"Content-Range": f"bytes 1000-{SIZE - 1}/{SIZE}"}, "sent more than its Content-Range"),
    ],
)
def test_a_part_that_does_not_fit_is_an_error(
    session: Session, target: Path, body: bytes, headers: dict[str, str], says: str
) -> None:
    target.write_bytes(b"before")
    with answering(206, body, headers) as server:
        response = session.get(server.url, stream=True)
        with pytest.raises(ProtocolError) as caught:
            response.save(target, resume=True)
        assert ranges(server) == [None, "bytes=1000-"]
    assert says in str(caught.value)
    assert f"127.0.0.1:{server.port}: " in str(caught.value)
    assert "resume=False" in str(caught.value)
    assert caught.value.response is response
    assert target.read_bytes() == b"before"


def test_a_length_that_is_known_to_nobody(session: Session, target: Path) -> None:
    def answer(request: Request) -> bytes | None:
        fields = {"Content-Range": f"bytes 1000-{SIZE - 1}/*"}
        return reply(206, REST, fields) if "range" in request.headers else None

    with RangeServer(BODY, [1000], chunked=True, answer=answer) as server:
        with pytest.raises(ProtocolError, match="does not say how long"):
            save(session, server, target)


def test_a_length_that_only_we_know(session: Session, target: Path) -> None:
    with answering(206, REST, {"Content-Range": f"Bytes 1000-{SIZE - 1}/*"}) as server:
        assert save(session, server, target) == SIZE
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (401, {"WWW-Authenticate": "Basic"}),
        (404, {}),
        (302, {"Location": "/"}),
        (204, {}),
        (500, {}),
    ],
)
def test_another_answer_ends_the_transfer_with_its_own_error(
    session: Session, target: Path, status: int, headers: dict[str, str]
) -> None:
    with answering(status, b"" if status == 204 else b"no", headers) as server:
        with pytest.raises(ChunkedEncodingError) as caught:
            save(session, server, target)
        assert ranges(server) == [None, "bytes=1000-"]
    assert f"not resumed at byte 1000: the server answered {status}" in notes(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("value", [None, f"bytes */{SIZE}", "bytes */999", "bytes 1000-1001/*"])
def test_nothing_from_there_on_is_no_answer(session: Session, target: Path, value: str | None) -> None:
    """The same body had more than that when it began; only `*/1000` would say that this is its end."""
    with answering(416, b"", {} if value is None else {"Content-Range": value}) as server:
        with pytest.raises(ProtocolError, match="from byte 1000 on, the server answered 416") as caught:
            save(session, server, target)
        assert ranges(server) == [None, "bytes=1000-"]
    assert isinstance(caught.value.__cause__, ChunkedEncodingError)
    assert beside(target) == []


# ------------------------------------------------------------------------------------------- what cannot be resumed


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "no strong ETag"),
        ({"ETag": 'W/"1"'}, "no strong ETag"),
        ({"ETag": "1"}, "no strong ETag"),
        ({"ETag": '"1", "2"'}, "no strong ETag"),
        ({"ETag": 'W/"1"', "Last-Modified": SECOND_BEFORE, "Date": DATE}, "no strong ETag"),
        ({"Last-Modified": SECOND_BEFORE}, "no strong ETag"),
        ({"Last-Modified": DATE, "Date": DATE}, "no strong ETag"),
        ({"Last-Modified": "yesterday", "Date": DATE}, "no strong ETag"),
    ],
)
def test_without_a_validator_it_is_not_resumed(
    session: Session, target: Path, fields: dict[str, str], says: str
) -> None:
    with RangeServer(BODY, [1000], etag=None, headers=fields) as server:
        with pytest.raises(ChunkedEncodingError) as caught:
            save(session, server, target)
        assert len(server.seen) == 1
    assert f"not resumed at byte 1000: it has {says}"[:-1] in notes(caught.value)
    assert beside(target) == []


def test_a_date_will_do_where_there_is_no_tag(session: Session, target: Path) -> None:
    with RangeServer(BODY, [1000], etag=None, headers={"Last-Modified": SECOND_BEFORE, "Date": DATE}) as server:
        assert save(session, server, target) == SIZE
        assert [request.headers.get("if-range") for request in server.seen] == [None, SECOND_BEFORE]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    ("method", "kwargs", "says"),
    [
        ("POST", {"data": b"x"}, "the answer 200 to a POST"),
        ("GET", {"data": b"x"}, "its request has a body"),
        ("GET", {"headers": {"Range": "bytes=0-"}}, "the answer 206 to a GET"),
    ],
)
def test_other_requests_are_not_resumed(
    session: Session, target: Path, method: str, kwargs: dict[str, Any], says: str
) -> None:
    with RangeServer(BODY, [1000]) as server:
        response = session.request(method, server.url, stream=True, **kwargs)
        with pytest.raises(ChunkedEncodingError) as caught:
            response.save(target, resume=True)
        assert len(server.seen) == 1
    assert says in notes(caught.value)


def test_a_range_that_the_server_ignores(session: Session, target: Path) -> None:
    with answering(200, BODY, {}) as server:
        server.cut(1000)
        response = session.get(server.url, stream=True)
        assert response.request is not None
        response.request.headers["range"] = "bytes=5-"
        with pytest.raises(ChunkedEncodingError) as caught:
            response.save(target, resume=True)
    assert "asks for a range already" in notes(caught.value)


def test_after_raw_was_used_it_is_not_resumed(session: Session, target: Path) -> None:
    with RangeServer(BODY, [1000]) as server:
        response = session.get(server.url, stream=True)
        response.raw.read(5)
        with pytest.raises(ChunkedEncodingError) as caught:
            response.save(target, resume=True)
        assert "`raw` was used" in notes(caught.value)


def test_a_response_of_another_adapter_is_not_resumed(target: Path) -> None:
    requests = pytest.importorskip("requests", reason="its adapter is what is mounted here")
    with RangeServer(BODY, [1000]) as server, Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter())
        with pytest.raises(ChunkedEncodingError) as caught:
            save(session, server, target)
        assert len(server.seen) == 1
    assert "no stream of one of syncflow's own adapters" in notes(caught.value)


def test_who_did_not_ask_gets_no_second_request(session: Session, target: Path) -> None:
    with RangeServer(BODY, [1000]) as server:
        with pytest.raises(ChunkedEncodingError) as caught:
            session.get(server.url, stream=True).save(target)
        assert len(server.seen) == 1
    assert notes(caught.value) == ""
    assert beside(target) == []


# ------------------------------------------------------------------------------------------- over two runs


def interrupted(server: RangeServer, target: Path, *, at: int = 100_000, error: Any = KeyboardInterrupt) -> None:
    """A run of the program that ends in the middle."""

    def on_progress(done: int, total: int | None) -> None:
        if done >= at:
            raise error

    server.cut(at)
    with Session(timeout=10) as session, pytest.raises(error):
        save(session, server, target, on_progress=on_progress)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, ValueError])
def test_the_next_run_goes_on_with_what_is_there(session: Session, target: Path, error: Any) -> None:
    with RangeServer(BODY) as server:
        interrupted(server, target, error=error)
        assert beside(target) == [part_of(server.url)]
        assert not target.exists()
        told: list[Any] = []
        assert save(session, server, target, on_progress=lambda *now: told.append(now)) == SIZE
        assert target.read_bytes() == BODY
        assert beside(target) == []
        assert ranges(server) == [None, None, "bytes=100000-"]
        assert server.seen[-1].headers["if-range"] == ETAG
        assert told[0][0] > 100_000
        assert told[-1] == (SIZE, SIZE)


def test_a_transfer_that_could_not_be_resumed_goes_on_in_the_next_run(session: Session, target: Path) -> None:
    with RangeServer(BODY, [1000, *[0] * 5]) as server:
        with pytest.raises(ChunkedEncodingError):
            save(session, server, target)
        assert (target.parent / part_of(server.url)).read_bytes() == BODY[:1000]
        assert save(session, server, target) == SIZE
    assert target.read_bytes() == BODY
    assert beside(target) == []


def test_chunked_over_two_runs(session: Session, target: Path) -> None:
    with RangeServer(BODY, chunked=True) as server:
        interrupted(server, target)
        assert save(session, server, target) == SIZE
        assert ranges(server) == [None, None, "bytes=100000-"]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("chunked", [False, True])
def test_what_is_complete_already(session: Session, target: Path, chunked: bool) -> None:
    """Only the last step was missing. Where the length is not told, the server has to say so."""
    with RangeServer(BODY, chunked=chunked) as server:
        (target.parent / part_of(server.url)).write_bytes(BODY)
        told: list[Any] = []
        assert save(session, server, target, on_progress=lambda *now: told.append(now)) == SIZE
        assert ranges(server) == ([None, f"bytes={SIZE}-"] if chunked else [None])
        assert told == [(SIZE, SIZE)]
    assert target.read_bytes() == BODY
    assert beside(target) == []


def test_what_is_longer_than_it_can_be_is_dropped(session: Session, target: Path) -> None:
    with RangeServer(BODY) as server:
        (target.parent / part_of(server.url)).write_bytes(BODY + b"x")
        assert save(session, server, target) == SIZE
        assert ranges(server) == [None]
    assert target.read_bytes() == BODY


def test_where_there_are_no_ranges_the_whole_is_taken(session: Session, target: Path) -> None:
    fields = {"Content-Length": str(SIZE), "ETag": ETAG, "Accept-Ranges": "none"}
    with ScriptedServer(lambda peer: (peer.read_request(), peer.send(reply(200, BODY, fields)))) as server:
        (target.parent / part_of(server.url)).write_bytes(b"something")
        assert save(session, server, target) == SIZE
        assert server.connections == 1
    assert target.read_bytes() == BODY


def test_where_ranges_are_ignored_it_begins_anew(session: Session, target: Path) -> None:
    told: list[Any] = []
    with answering(200, BODY, {"ETag": ETAG}) as server:
        (target.parent / part_of(server.url)).write_bytes(b"something")
        assert save(session, server, target, on_progress=lambda *now: told.append(now)) == SIZE
    assert target.read_bytes() == BODY
    assert told[0] == (0, SIZE)


def test_a_body_that_changes_between_the_two_requests(session: Session, target: Path) -> None:
    with RangeServer(BODY) as server:
        (target.parent / part_of(server.url)).write_bytes(BODY[:1000])
        response = session.get(server.url, stream=True)
        server.body, server.etag = OTHER, '"2"'
        server.cut(500, *[0] * 5)
        with pytest.raises(ChunkedEncodingError):
            response.save(target, resume=True)
        # What is kept is the new one's.
        assert beside(target) == [part_of(server.url, '"2"')]
        assert save(session, server, target) == len(OTHER)
    assert target.read_bytes() == OTHER
    assert beside(target) == []


def test_what_was_kept_of_another_body_is_removed(session: Session, target: Path) -> None:
    with RangeServer(BODY) as server:
        interrupted(server, target)
        server.body, server.etag = OTHER, '"2"'
        assert save(session, server, target) == len(OTHER)
        assert ranges(server) == [None, None]
    assert target.read_bytes() == OTHER
    assert beside(target) == []


def test_an_answer_that_cannot_be_resumed_removes_nothing(session: Session, target: Path) -> None:
    """As an error page, saved by a program that has not looked at the status."""
    with RangeServer(BODY) as server:
        interrupted(server, target)
        with AppServer(lambda request: AppResponse(503, [], b"not now")) as busy:
            assert save(session, busy, target) == len(b"not now")
        assert beside(target) == [part_of(server.url)]
        assert save(session, server, target) == SIZE
        assert ranges(server)[-1] == "bytes=100000-"


def test_only_what_is_this_targets_is_removed(session: Session, target: Path) -> None:
    others = [".other.0123456789abcdef.part", ".target.0123.part", ".target.0123456789abcdef.tmp", "target.part"]
    for name in [*others, ".target.0123456789abcdef.part"]:
        (target.parent / name).write_bytes(b"x")
    with RangeServer(BODY) as server:
        save(session, server, target)
    assert beside(target) == sorted(others)


def test_what_somebody_writes_to_is_not_removed(session: Session, target: Path) -> None:
    held = target.parent / ".target.0123456789abcdef.part"
    with held.open("wb") as file, RangeServer(BODY) as server:
        fcntl.flock(file, fcntl.LOCK_EX)
        save(session, server, target)
        assert beside(target) == [held.name]


def test_the_url_counts_without_its_password(session: Session, target: Path) -> None:
    with RangeServer(BODY) as server:
        interrupted(server, target)
        with session.get(server.url.replace("//", "//user:secret@"), stream=True) as response:
            response.save(target, resume=True)
        assert ranges(server) == [None, None, "bytes=100000-"]
        interrupted(server, target)
        with session.get(f"{server.url}/other", stream=True) as response:
            response.save(target, resume=True)
        assert ranges(server)[-1] is None


def test_an_error_in_the_second_run_keeps_what_is_there(session: Session, target: Path) -> None:
    with answering(404, b"", {}) as server:
        part = target.parent / part_of(server.url)
        part.write_bytes(BODY[:2000])
        with pytest.raises(ChunkedEncodingError, match="an earlier transfer of this body ended at byte 2000") as caught:
            save(session, server, target)
        assert "the server answered 404" in notes(caught.value)
        assert part.read_bytes() == BODY[:2000]


def test_ranges_that_are_wrong_are_not_tried_for_ever(session: Session, target: Path) -> None:
    """The next run does not stumble over the same answer."""
    with answering(206, REST, {"Content-Range": f"bytes 7-{SIZE - 1}/{SIZE}"}) as server:
        (target.parent / part_of(server.url)).write_bytes(BODY[:2000])
        with pytest.raises(ProtocolError):
            save(session, server, target)
        assert beside(target) == []
        server.cut(*[None] * 3)
        session.get(server.url)
        assert save(session, server, target) == SIZE


def test_nothing_is_kept_before_the_first_byte(session: Session, target: Path) -> None:
    with RangeServer(BODY, [0] * 6) as server, pytest.raises(ChunkedEncodingError):
        save(session, server, target)
    assert beside(target) == []


def test_a_link_in_the_place_of_what_was_kept_is_not_followed(session: Session, target: Path, tmp_path: Path) -> None:
    """In a folder that others may write to, who knows the URL can lay one there."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    with RangeServer(BODY) as server:
        part = target.parent / part_of(server.url)
        part.symlink_to(victim)
        assert save(session, server, target) == SIZE
        assert ranges(server) == [None]
        part.unlink(missing_ok=True)
        os.link(victim, part)
        assert save(session, server, target) == SIZE
        assert ranges(server) == [None, None]
    assert victim.read_bytes() == b"mine"
    assert target.read_bytes() == BODY


def test_another_users_file_is_not_gone_on_with(
    session: Session, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RangeServer(BODY) as server:
        (target.parent / part_of(server.url)).write_bytes(b"evil")
        monkeypatch.setattr("os.geteuid", lambda: 12345)
        assert save(session, server, target) == SIZE
        assert ranges(server) == [None]
    assert target.read_bytes() == BODY


def test_a_file_system_without_locks(session: Session, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with RangeServer(BODY, [1000]) as server:
        assert save(session, server, target) == SIZE
    assert target.read_bytes() == BODY


def test_two_at_once(session: Session, target: Path) -> None:
    """One holds the file that is kept, the other writes to its own; the last one's is the target."""
    barrier = threading.Barrier(2)

    def on_progress(done: int, total: int | None) -> None:
        if done == SIZE:
            barrier.wait(10)
            names.append(beside(target))

    names: list[list[str]] = []
    with RangeServer(BODY, [1000, 1000]) as server, ThreadPoolExecutor() as threads:
        futures = [threads.submit(save, session, server, target, on_progress=on_progress) for _ in range(2)]
        assert [future.result(20) for future in futures] == [SIZE, SIZE]
    assert sorted(name.rpartition(".")[2] for name in max(names, key=len)) == ["part", "tmp"]
    assert target.read_bytes() == BODY
    assert beside(target) == []


def test_many_at_once_with_failures(session: Session, target: Path) -> None:
    """Whatever happens to others: what takes the target's place is whole."""
    with RangeServer(BODY) as server, ThreadPoolExecutor(4) as threads:

        def run(number: int) -> None:
            def on_progress(done: int, total: int | None) -> None:
                if number % 3 and done > 1000 * number:
                    raise RuntimeError

            try:
                save(session, server, target, on_progress=on_progress)
            except RuntimeError:
                assert number % 3
            if target.exists():
                assert target.read_bytes() == BODY

        for future in [threads.submit(run, number) for number in range(40)]:
            future.result(30)
    assert all(re.fullmatch(r"\.target\.[0-9a-f]{16}\.part", name) for name in beside(target))
    with RangeServer(OTHER, etag='"9"') as server:
        save(session, server, target)
    assert beside(target) == []


# ------------------------------------------------------------------------------------------- calling off


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def is_waiting(source: Any) -> bool:
    return isinstance(source, ResumingSource) and bool(source._called_off._waiters)  # type: ignore[attr-defined]


@pytest.mark.parametrize("by", ["response", "session"])
def test_a_pause_ends_at_once(session: Session, target: Path, long_pauses: None, by: str) -> None:
    with RangeServer(BODY, [1000]) as server:
        response = session.get(server.url, stream=True, timeout=None)
        thread, errors = in_thread(lambda: response.save(target, resume=True))
        eventually(lambda: is_waiting(response._exchange))
        (response if by == "response" else session).close()
        thread.join(10)
        (error,) = errors
        assert type(error) is (Cancelled if by == "response" else SessionClosed)
        assert error.response is response
        assert error.request is response.request
        assert error.bytes_received == 1000
        assert len(server.seen) == 1
        assert session.get_adapter("http://").paused == set()
        response.close()
    assert beside(target) == [part_of(server.url)]


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("by", ["response", "session"])
def test_a_read_ends_at_once(session: Session, target: Path, resumed: bool, by: str) -> None:
    arrived = threading.Event()
    at = 2000 if resumed else 1000

    def on_progress(done: int, total: int | None) -> None:
        if done == at:
            arrived.set()

    with Cutting(BODY, first_cut=1000 if resumed else None, stall_at=1000) as server:
        response = session.get(server.url, stream=True, timeout=None)
        thread, errors = in_thread(lambda: response.save(target, resume=True, on_progress=on_progress))
        assert arrived.wait(10)
        (response if by == "response" else session).close()
        thread.join(10)
        (error,) = errors
        assert type(error) is (Cancelled if by == "response" else SessionClosed)
        server.wait_until_idle()
    assert not target.exists()


class Cutting(ScriptedServer):
    """Cuts the first transfer, if it is told where, and lets the next one stall after so many bytes."""

    def __init__(self, body: bytes, *, first_cut: int | None, stall_at: int | None) -> None:
        scripts: list[Callable[[Peer], object]] = []

        def cut(peer: Peer) -> None:
            peer.read_request()
            peer.send(reply_head(200, {"Content-Length": str(len(body)), "ETag": ETAG}) + body[:first_cut])

        def stall(peer: Peer) -> None:
            start = int(peer.read_request().headers.get("range", "bytes=0-")[6:-1])
            fields = {"Content-Length": str(len(body) - start), "ETag": ETAG}
            if start:
                fields["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            if stall_at is not None:
                peer.send(reply_head(206 if start else 200, fields) + body[start : start + stall_at])
            self.stalled.set()
            peer.wait_closed()

        self.stalled = threading.Event()
        if first_cut is not None:
            scripts.append(cut)
        super().__init__(*scripts, stall)


def test_waiting_for_the_second_head_ends_at_once(session: Session, target: Path) -> None:
    with Cutting(BODY, first_cut=1000, stall_at=None) as server:
        response = session.get(server.url, stream=True, timeout=None)
        thread, errors = in_thread(lambda: response.save(target, resume=True))
        assert server.stalled.wait(10)
        response.close()
        thread.join(10)
        assert [type(error) for error in errors] == [Cancelled]
        server.wait_until_idle()


def test_a_response_that_was_closed_is_not_resumed(session: Session, target: Path) -> None:
    """Though it was its connection that broke first, and `close` found nothing to end."""
    with RangeServer(BODY, [1000]) as server:
        response = session.get(server.url, stream=True)
        eventually(lambda: response._exchange.is_over)
        response.close()
        with pytest.raises((Cancelled, ChunkedEncodingError)):
            response.save(target, resume=True)
        assert len(server.seen) == 1


def test_closing_hits_whichever_exchange_is_current(session: Session) -> None:
    """A race, hundreds of times: nothing hangs, nothing is left, and who was called off knows it."""
    with RangeServer(BODY) as server:
        for number in range(200):
            server.cut(1000, 1000, 1000)
            response = session.get(server.url, stream=True)
            barrier = threading.Barrier(2)

            def run(response: Response = response, barrier: threading.Barrier = barrier) -> int:
                barrier.wait(10)
                return response.save(io.BytesIO(), resume=True)

            thread, errors = in_thread(run)
            barrier.wait(10)
            threading.Event().wait(number / 100_000)
            response.close()
            thread.join(10)
            assert not thread.is_alive()
            assert [type(error) for error in errors] in ([], [Cancelled])
            server._cuts.clear()
        eventually(lambda: server.open_connections <= 1)


@pytest.mark.parametrize("when", ["pause", "read", "head"])
def test_the_total_deadline_is_one_for_all_tries(
    session: Session, target: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if when == "pause":
        monkeypatch.setattr("syncflow.resuming.PAUSES", (60.0,))
    stall_at = None if when == "head" else 1000
    with Cutting(BODY, first_cut=1000, stall_at=stall_at) as server:
        response = session.get(server.url, stream=True, timeout=Timeouts(read=None, total=0.4))
        with pytest.raises(TotalTimeout) as caught:
            response.save(target, resume=True)
        assert caught.value.response is response
        assert "0.4 s" in str(caught.value)
        response.close()
        server.wait_until_idle()
    assert beside(target) == [part_of(server.url)]


def test_the_deadline_is_the_same_object(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines: set[Deadline] = set()
    adapter = session.get_adapter("http://")
    exchange = adapter._exchange

    def watched(request: PreparedRequest, head: Any, deadline: Deadline, route: Any, *more: Any, **named: Any) -> Any:
        deadlines.add(deadline)
        return exchange(request, head, deadline, route, *more, **named)

    monkeypatch.setattr(adapter, "_exchange", watched)
    with RangeServer(BODY, [1000, 1000]) as server:
        save(session, server, io.BytesIO())
        assert len(server.seen) == 3
    assert len(deadlines) == 1


def test_a_deadline_that_is_over_ends_a_body_that_comes(session: Session, target: Path) -> None:
    with RangeServer(BODY, [1000] * 200) as server:
        response = session.get(server.url, stream=True, timeout=Timeouts(total=0.2))
        gate = threading.Event()
        with pytest.raises(TotalTimeout):
            response.save(target, resume=True, on_progress=lambda done, total: gate.wait(0.01))


@pytest.mark.parametrize("resume", [False, True])
def test_a_response_that_is_dropped_leaves_nothing(session: Session, resume: bool) -> None:
    with RangeServer(BODY, [1000, 1000], how="stall") as server:
        response = session.get(server.url, stream=True, timeout=Timeouts(read=0.05))
        with pytest.raises(RuntimeError):
            response.save(Failing(2 if resume else 1), resume=resume)
        del response
        eventually(lambda: server.open_connections == 0)


class Failing:
    def __init__(self, count: int) -> None:
        self.left = count

    def write(self, data: bytes) -> int:
        self.left -= 1
        if not self.left:
            raise RuntimeError
        return len(data)


# ------------------------------------------------------------------------------------------- a real server


def breaking(nginx: Nginx, *cuts: int) -> FaultProxy:
    """Between session and server: the first connections end after so many bytes of what that one sends."""
    return FaultProxy(nginx.address, down=[Link(cut_after=cut) for cut in cuts])


def test_nginx(session: Session, target: Path, nginx_required: None) -> None:
    with Nginx() as nginx:
        (nginx.root / "file").write_bytes(BODY)
        with breaking(nginx, 1000, 100_000, 50_000) as server:
            with session.get(f"{server.url}/file", stream=True) as response:
                assert response.headers["etag"].startswith('"')
                assert response.save(target, resume=True) == SIZE
            assert server.connections == 4
            assert target.read_bytes() == BODY


def test_nginx_with_a_file_that_changes(session: Session, target: Path, nginx_required: None) -> None:
    with Nginx() as nginx:
        file = nginx.root / "file"
        file.write_bytes(BODY)

        def change(done: int, total: int | None) -> None:
            if total == SIZE:
                file.write_bytes(OTHER)

        with breaking(nginx, 100_000) as server:
            with session.get(f"{server.url}/file", stream=True) as response:
                assert response.save(target, resume=True, on_progress=change) == len(OTHER)
        assert target.read_bytes() == OTHER


def test_nginx_over_two_runs(session: Session, target: Path, nginx_required: None) -> None:
    with Nginx() as nginx:
        (nginx.root / "file").write_bytes(BODY)
        for _ in range(2):
            response = session.get(f"{nginx.url}/file", stream=True)
            with pytest.raises(KeyboardInterrupt):
                response.save(target, resume=True, on_progress=stop_soon(session))
        (part,) = beside(target)
        size = (target.parent / part).stat().st_size
        assert 0 < size < SIZE
        with session.get(f"{nginx.url}/file", stream=True) as response:
            assert response.save(target, resume=True) == SIZE
        assert target.read_bytes() == BODY


def stop_soon(session: Session) -> Callable[[int, int | None], None]:
    def on_progress(done: int, total: int | None) -> None:
        if done < SIZE:
            raise KeyboardInterrupt

    return on_progress


# ------------------------------------------------------------------------------------------- the rules alone


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ETag": '"a"'}, '"a"'),
        ({"ETag": '""'}, '""'),
        ({"ETag": '"a\xe4"'}, '"a\xe4"'),
        ({"ETag": '"a b"'}, None),
        ({"ETag": 'w/"a"'}, None),
        ({"ETag": '"a'}, None),
        ({"ETag": "a"}, None),
        ({"ETag": ""}, None),
        ({"Last-Modified": SECOND_BEFORE, "Date": DATE}, SECOND_BEFORE),
        ({"Last-Modified": DATE, "Date": DATE}, None),
        ({"Last-Modified": DATE, "Date": SECOND_BEFORE}, None),
        ({"Last-Modified": DATE}, None),
        ({"Last-Modified": "x", "Date": DATE}, None),
        ({"Last-Modified": SECOND_BEFORE, "Date": "x"}, None),
        ({"Last-Modified": SECOND_BEFORE, "Date": DATE, "ETag": 'W/"a"'}, None),
        ({}, None),
    ],
)
def test_strong_validators(fields: dict[str, str], expected: str | None) -> None:
    assert strong_validator(CaseInsensitiveDict(fields)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"Content-Length": "5"}, 5),
        ({"Content-Length": "5, 5"}, None),
        ({"Content-Length": "\u0665"}, None),
        ({"Content-Length": "5", "Transfer-Encoding": "chunked"}, None),
        ({}, None),
    ],
)
def test_lengths(fields: dict[str, str], expected: int | None) -> None:
    assert length_of(CaseInsensitiveDict(fields)) == expected


def test_all_of_it_at_once(session: Session) -> None:
    """`read_all`, which the protocol of a source asks for."""
    with RangeServer(BODY, [1000]) as server, session.get(server.url, stream=True) as response:
        source = ResumingSource(response)
        server.etag, server.body = '"2"', OTHER
        assert source.read_all() == OTHER
        assert source.is_over
        assert source.trailers == []
        assert source.request_complete
        assert source.peer == server.address
        assert source.elapsed > 0


def test_a_port_that_refuses_is_no_answer(session: Session, target: Path) -> None:
    """Everything that can be said of a server that never comes back is said."""
    with refused_port() as nobody, RangeServer(BODY, [1000]) as server:
        response = session.get(server.url, stream=True)
        again = response._again
        origin = again.route.origin._replace(port=nobody.port)
        response._again = again._replace(route=again.route._replace(origin=origin))
        with pytest.raises(RequestException) as caught:
            response.save(target, resume=True)
    assert isinstance(caught.value, ChunkedEncodingError | ReadTimeout)
    assert f"127.0.0.1:{nobody.port}" in notes(caught.value)


def test_an_interrupt_at_the_beginning_leaves_nothing_to_wait_for(session: Session, target: Path) -> None:
    """Ctrl-C comes when the session has just been told that something is under way."""

    class Striking(set[Any]):
        def add(self, item: Any) -> None:
            super().add(item)
            raise KeyboardInterrupt

    session._adapter.paused = Striking()
    with RangeServer(b"x" * 1000) as server:
        with session.get(server.url, stream=True) as response, pytest.raises(KeyboardInterrupt):
            response.save(target, resume=True)
        assert session.drain(5)

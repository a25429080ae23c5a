"""Receiver and ReceiverProcess against http.client: counts, digests, pace, the pattern."""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import threading
import urllib.request
from typing import Any

import pytest

from syncflow.testing import (
    Receipt,
    Receiver,
    ReceiverProcess,
    pattern,
    pattern_pieces,
    pattern_sha256,
)
from syncflow.testing.patterns import PERIOD
from syncflow.testing.receiver import BUFFER_SIZE


def put(server: Any, body: Any, *, context: ssl.SSLContext | None = None, **kw: Any) -> dict[str, Any]:
    if context is None:
        client = http.client.HTTPConnection(*server.address, timeout=20)
    else:
        client = http.client.HTTPSConnection(*server.address, timeout=20, context=context)
    try:
        client.request("PUT", "/", body=body, **kw)
        return dict(json.loads(client.getresponse().read()))
    finally:
        client.close()


def get(server: Any, path: str) -> bytes:
    with urllib.request.urlopen(server.url + path, timeout=20) as response:
        return bytes(response.read())


@pytest.mark.parametrize("size", [0, 1, 300_000, 5_000_000])
def test_an_upload_is_counted_and_hashed(size: int) -> None:
    with Receiver() as server:
        answer = put(server, pattern(size))
        assert answer == {"bytes": size, "sha256": pattern_sha256(size), "trailers": {}}
        assert server.bytes_received == size
        assert server.receipts == [Receipt(size, pattern_sha256(size), {}, complete=True)]


@pytest.mark.parametrize("piece", [1, 1000, 65_536, 262_144, 1_000_000])
def test_a_chunked_upload_of_any_chunk_size(piece: int) -> None:
    body = pattern(min(3_000_000, piece * 2000))
    pieces = (body[at : at + piece] for at in range(0, len(body), piece))
    with Receiver() as server:
        answer = put(server, pieces, headers={"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert answer["bytes"] == len(body)
    assert answer["sha256"] == hashlib.sha256(body).hexdigest()


def test_trailers_are_told() -> None:
    with Receiver() as server:
        client = http.client.HTTPConnection(*server.address, timeout=10)
        client.putrequest("POST", "/")
        client.putheader("Transfer-Encoding", "chunked")
        client.endheaders(b"3\r\nabc\r\n0\r\nX-Sum: 6\r\nX-Sum: 7\r\n\r\n")
        assert json.loads(client.getresponse().read())["trailers"] == {"x-sum": "6, 7"}
        client.close()


def test_without_hash_there_is_none() -> None:
    with Receiver(hash=False) as server:
        assert put(server, b"abc")["sha256"] is None


def test_a_connection_takes_many_uploads() -> None:
    with Receiver() as server:
        client = http.client.HTTPConnection(*server.address, timeout=10)
        for size in (1, 100_000, 0, 7):
            client.request("PUT", "/", body=bytes(size))
            assert json.loads(client.getresponse().read())["bytes"] == size
        client.close()
        assert server.connections == 1


def test_continue_is_said() -> None:
    with Receiver() as server:
        client = http.client.HTTPConnection(*server.address, timeout=10)
        client.putrequest("PUT", "/")
        client.putheader("Content-Length", "3")
        client.putheader("Expect", "100-continue")
        client.endheaders()
        client.sock.settimeout(10)
        assert client.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        assert json.loads(client.getresponse().read())["bytes"] == 3
        client.close()


def test_an_upload_that_breaks_off_is_told_as_incomplete() -> None:
    with Receiver() as server:
        client = http.client.HTTPConnection(*server.address, timeout=10)
        client.putrequest("PUT", "/")
        client.putheader("Content-Length", "10")
        client.endheaders(b"abc")
        client.close()
        (receipt,) = server.wait_for_receipts(1)
    assert (receipt.bytes, receipt.complete) == (3, False)


def start_upload(server: Receiver, length: int) -> http.client.HTTPConnection:
    client = http.client.HTTPConnection(*server.address, timeout=10)
    client.putrequest("PUT", "/")
    client.putheader("Content-Length", str(length))
    client.endheaders()
    return client


def send_until_blocked(client: http.client.HTTPConnection, piece: bytes) -> int:
    """How much can be sent before the client is held up, for a fifth of a second at least."""
    sent = 0
    client.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        while True:
            sent += client.sock.send(piece)
    client.sock.settimeout(10)
    return sent


def test_a_pause_is_felt_by_the_client_until_resume() -> None:
    size = 20_000_000
    with Receiver(pause_after=10_000) as server:
        client = start_upload(server, size)
        sent = send_until_blocked(client, bytes(10_000))
        assert server.paused.is_set()
        assert 10_000 <= server.bytes_received <= 10_000 + BUFFER_SIZE
        server.resume()
        client.send(bytes(size - sent))
        assert json.loads(client.getresponse().read())["bytes"] == size
        client.close()


def test_the_end_of_the_server_ends_a_pause() -> None:
    with Receiver(pause_after=0) as server:
        client = start_upload(server, 1000)
        client.send(b"x")
        assert server.paused.wait(10)
    client.close()
    assert [receipt.complete for receipt in server.receipts] == [False]


def test_a_rate_is_felt_early() -> None:
    with Receiver(rate=1000) as server:
        client = start_upload(server, 1_000_000_000)
        # What the client got rid of lies in its own send buffer and in the small one of the receiver.
        paced = send_until_blocked(client, bytes(10_000))
        assert server.bytes_received < 10_000
        client.close()
    with Receiver(pause_after=0, receive_buffer=4_000_000) as server:
        client = start_upload(server, 1_000_000_000)
        assert send_until_blocked(client, bytes(10_000)) > paced + 1_000_000
        client.close()


def test_a_rate_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    server = Receiver(rate=1_000_000, receive_buffer=1_000_000)
    monkeypatch.setattr(server.stopping, "wait", waits.append)
    with server:
        put(server, bytes(100_000))
    # Skipped waits take no time, so that the last one is for nearly the whole body: a tenth of a second.
    assert 0.05 < max(waits) <= 0.1
    assert len(waits) >= 5


def test_many_uploads_at_once() -> None:
    answers: list[int] = []
    with Receiver(rate=5_000_000) as server:
        threads = [
            threading.Thread(target=lambda: answers.append(put(server, bytes(200_000))["bytes"])) for _ in range(24)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert server.connections == 24
    assert answers == [200_000] * 24


def test_over_tls(server_tls, client_tls) -> None:
    with Receiver(ssl_context=server_tls) as server:
        answer = put(server, pattern(1_000_000), context=client_tls)
    assert answer["sha256"] == pattern_sha256(1_000_000)


@pytest.mark.parametrize("query", ["", "?chunked=1"])
@pytest.mark.parametrize("size", [0, 1, PERIOD, PERIOD + 1, 3_000_000])
def test_the_pattern_comes_as_promised(size: int, query: str) -> None:
    with Receiver() as server:
        assert get(server, f"/bytes/{size}{query}") == pattern(size)


def test_the_pattern_tells_its_place() -> None:
    whole = pattern(3 * PERIOD)
    for offset, length in [(0, 10), (PERIOD - 3, 10), (PERIOD, PERIOD), (5, 2 * PERIOD + 1), (7, 0)]:
        assert pattern(length, offset) == whole[offset : offset + length]
    assert pattern(100, 65_536) != pattern(100)
    assert b"".join(pattern_pieces(len(whole))) == whole
    assert pattern_sha256(len(whole)) == hashlib.sha256(whole).hexdigest()


def test_other_paths_are_not_found() -> None:
    with Receiver() as server:
        client = http.client.HTTPConnection(*server.address, timeout=10)
        for method, status in [("GET", 404), ("HEAD", 404), ("GET", 404)]:
            client.request(method, "/other")
            response = client.getresponse()
            response.read()
            assert response.status == status
        client.close()


def test_a_download_that_nobody_reads_does_not_hold_up_the_end() -> None:
    with Receiver() as server:
        client = http.client.HTTPConnection(*server.address, timeout=10)
        client.request("GET", "/bytes/1000000000")
        server.wait_for_connections(1)
    client.close()


def test_a_process_of_its_own(server_tls_files, client_tls) -> None:
    with ReceiverProcess(rate=100_000_000, receive_buffer=100_000) as server:
        answer = put(server, pattern(1_000_000))
        assert answer["sha256"] == pattern_sha256(1_000_000)
        assert json.loads(get(server, "/stats"))["bytes"] == 1_000_000
        assert server.pid > 0
    with ReceiverProcess(tls=server_tls_files, hash=False) as server:
        assert server.url.startswith("https://")
        assert put(server, b"abc", context=client_tls)["bytes"] == 3
    with pytest.raises(RuntimeError, match="inside its with block"):
        _ = server.url


def test_a_process_that_cannot_start_says_so(tmp_path) -> None:
    with (
        pytest.raises(AssertionError, match="ended at once"),
        ReceiverProcess(tls=(tmp_path / "none", tmp_path / "none")),
    ):
        pass

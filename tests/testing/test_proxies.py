"""The proxies for tests: they carry what they are given, both ways, and refuse what they are told to refuse."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import socket
import ssl
import threading
from typing import Any

import pytest

from syncflow.testing import (
    AppServer,
    HTTPProxy,
    NotInstalled,
    ScriptedServer,
    SocksRequest,
    SocksServer,
    Tinyproxy,
    pattern,
    refused_port,
)

TIMEOUT = 5
BASIC = "Basic " + base64.b64encode(b"user:secret").decode()


@pytest.fixture(params=["plain", "tls"])
def outside(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


def client_of(proxy: HTTPProxy, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if proxy.url.startswith("https"):
        return http.client.HTTPSConnection("127.0.0.1", proxy.port, timeout=TIMEOUT, context=context)
    return http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=TIMEOUT)


def test_a_request_is_forwarded(outside: ssl.SSLContext | None, client_tls: ssl.SSLContext) -> None:
    body = pattern(1_000_000)
    with HTTPProxy(hosts={"host.test": "127.0.0.1"}, ssl_context=outside) as proxy, AppServer() as server:
        with contextlib.closing(client_of(proxy, client_tls)) as client:
            client.request("PUT", f"http://host.test:{server.port}/path?query", body, {"Proxy-Authorization": "secret"})
            told = json.load(client.getresponse())
        assert (told["path"], told["length"]) == ("/path", len(body))
        assert told["sha256"] == hashlib.sha256(body).hexdigest()
        assert "proxy-authorization" not in told["headers"]
        assert proxy.targets == [("host.test", server.port)]


def test_a_tunnel_carries_both_ways(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    body = pattern(1_000_000)
    with HTTPProxy(credentials=("user", "secret")) as proxy, AppServer(ssl_context=server_tls) as server:
        client = http.client.HTTPSConnection("127.0.0.1", proxy.port, timeout=TIMEOUT, context=client_tls)
        client.set_tunnel("localhost", server.port, {"Proxy-Authorization": BASIC})
        with contextlib.closing(client):
            for _ in range(2):
                client.request("PUT", "/", body)
                assert json.load(client.getresponse())["length"] == len(body)
        assert [request.method for request in proxy.seen] == ["CONNECT"]


@pytest.mark.parametrize("authorization", [None, "Basic eDp5"])
def test_who_is_not_let_in(authorization: str | None) -> None:
    with HTTPProxy(credentials=("user", "secret")) as proxy, contextlib.closing(client_of(proxy, None)) as client:
        client.request(
            "GET", "http://host.test/", headers={"Proxy-Authorization": authorization} if authorization else {}
        )
        answer = client.getresponse()
        assert (answer.status, answer.headers["Proxy-Authenticate"]) == (407, 'Basic realm="proxy"')
        assert answer.read() == b"who are you?"
        assert proxy.targets == []


def test_a_target_that_is_not_there() -> None:
    with HTTPProxy() as proxy, refused_port() as endpoint, contextlib.closing(client_of(proxy, None)) as client:
        client.request("GET", endpoint.url)
        assert client.getresponse().status == 502


def test_a_half_close_is_carried() -> None:
    with SocksServer() as proxy, ScriptedServer(lambda peer: peer.send(peer.read_until_close()[::-1])) as server:
        with socket.create_connection(proxy.address, TIMEOUT) as client:
            address = socket.inet_aton("127.0.0.1")
            client.sendall(b"\x04\x01" + server.port.to_bytes(2, "big") + address + b"\0" + b"abc")
            client.shutdown(socket.SHUT_WR)
            assert client.makefile("rb").read() == b"\x00\x5a" + bytes(6) + b"cba"
        assert proxy.asked == [SocksRequest(4, "127.0.0.1", server.port, by_name=False)]


@pytest.mark.parametrize("kind", [HTTPProxy, SocksServer])
def test_it_ends_while_it_carries(kind: Any) -> None:
    """Whoever is silent on either side."""
    connected = threading.Event()

    def script(peer: Any) -> None:
        connected.set()
        peer.stall()

    with ScriptedServer(script) as server, kind() as proxy, socket.create_connection(proxy.address, TIMEOUT) as client:
        target = server.port.to_bytes(2, "big") + socket.inet_aton("127.0.0.1")
        if kind is HTTPProxy:
            authority = f"127.0.0.1:{server.port}"
            client.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        else:
            client.sendall(b"\x04\x01" + target + b"\0")
        assert connected.wait(TIMEOUT)
        assert client.recv(100), "it has granted"
        proxy.stop()
        assert client.recv(100) == b""


@pytest.mark.parametrize(
    "said", [b"\x06", b"\x05\x01\x00\x05\x02\x00\x01", b"\x05\x01\x00\x05\x01\x00\x09", b"\x04\x02" + bytes(7)]
)
def test_what_no_client_may_say(said: bytes) -> None:
    with pytest.raises(AssertionError), SocksServer() as proxy:
        with socket.create_connection(proxy.address, TIMEOUT) as client:
            client.sendall(said)
            while client.recv(100):
                pass


@pytest.mark.usefixtures("tinyproxy_required")
@pytest.mark.parametrize("credentials", [None, ("user", "secret")], ids=["open", "basic"])
def test_tinyproxy(credentials: tuple[str, str] | None) -> None:
    with Tinyproxy(credentials=credentials) as proxy, AppServer() as server:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=TIMEOUT)) as client:
            client.request("GET", f"{server.url}/path", headers={"Proxy-Authorization": BASIC} if credentials else {})
            assert json.load(client.getresponse())["path"] == "/path"
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=TIMEOUT)) as client:
            client.request("GET", f"{server.url}/path")
            assert client.getresponse().status == (407 if credentials else 200)
        assert "/path" in proxy.log


def test_tinyproxy_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr("shutil.which", lambda *args, **kwargs: None)
    with pytest.raises(NotInstalled, match="tinyproxy"), Tinyproxy():
        pass

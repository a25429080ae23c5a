"""Proxies, Unix sockets and resolving, as a session's user meets them: with real proxies and real servers."""

from __future__ import annotations

import hashlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import syncflow
from syncflow import ConnectionError, PoolLimits, ProxyError, Session, SSLError
from syncflow.exceptions import InvalidProxyURL
from syncflow.testing import (
    AppServer,
    HTTPProxy,
    Peer,
    Request,
    Response,
    ScriptedServer,
    SocksServer,
    Tinyproxy,
    reply,
)

BODY = bytes(range(256)) * 2000
LOGIN = ("user", "p@ss word")
USERINFO = "user:p%40ss%20word@"


def answer(request: Request) -> Response:
    if request.path == "/large":
        return Response(200, [], BODY)
    if request.path == "/away":
        return Response(302, [("Location", request.query["to"][0])], b"")
    return Response(200, [("X-Length", str(len(request.body)))], request.path.encode())


@pytest.fixture(params=["http", "https"])
def origin(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> Iterator[AppServer]:
    with AppServer(answer, ssl_context=server_tls if request.param == "https" else None) as server:
        yield server


@pytest.fixture
def session(ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Session() as session:
        session.verify = str(ca_file)
        yield session


def through(session: Session, proxy: str, server: AppServer) -> None:
    """A small answer, a large one and an upload; and the origin never hears of what is for the proxy."""
    session.proxies = {"all": proxy}
    assert session.get(server.url + "/a?b=c").text == "/a"
    assert session.get(server.url + "/large").content == BODY
    assert session.put(server.url + "/up", data=iter([BODY[:100_000]] * 3)).headers["x-length"] == "300000"
    for seen in server.seen:
        assert "proxy-authorization" not in seen.headers
        assert seen.target.startswith("/")


# ---------------------------------------------------------------------- kinds of proxies


@pytest.mark.parametrize("login", [None, LOGIN], ids=["open", "login"])
def test_an_http_proxy(session: Session, origin: AppServer, login: Any) -> None:
    with HTTPProxy(credentials=login) as proxy:
        through(session, f"http://{USERINFO if login else ''}127.0.0.1:{proxy.port}", origin)
        methods = {request.method for request in proxy.seen}
    assert methods == ({"CONNECT"} if origin.url.startswith("https") else {"GET", "PUT"})


@pytest.mark.parametrize("login", [None, LOGIN], ids=["open", "login"])
def test_a_proxy_over_tls(session: Session, origin: AppServer, server_tls: ssl.SSLContext, login: Any) -> None:
    """For an https origin, TLS in TLS."""
    with HTTPProxy(credentials=login, ssl_context=server_tls) as proxy:
        through(session, f"https://{USERINFO if login else ''}localhost:{proxy.port}", origin)


def test_a_proxy_over_tls_is_verified(session: Session, origin: AppServer, server_tls: ssl.SSLContext) -> None:
    session.verify = True
    session.trust_env = False
    with HTTPProxy(ssl_context=server_tls) as proxy, pytest.raises((SSLError, ProxyError), match="certificate"):
        session.get(origin.url, proxies={"all": f"https://localhost:{proxy.port}"})
    assert not origin.seen


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
def test_a_socks_proxy(session: Session, origin: AppServer, scheme: str) -> None:
    pytest.importorskip("socksio")
    with SocksServer() as proxy:
        through(session, f"{scheme}://127.0.0.1:{proxy.port}", origin)
        assert {asked.version for asked in proxy.asked} == {4 if "4" in scheme else 5}


def test_a_socks_proxy_with_a_login(session: Session, origin: AppServer) -> None:
    pytest.importorskip("socksio")
    with SocksServer(credentials=LOGIN) as proxy:
        through(session, f"socks5h://{USERINFO}127.0.0.1:{proxy.port}", origin)
        with pytest.raises(ProxyError):
            session.get(origin.url, proxies={"all": f"socks5h://user:wrong@127.0.0.1:{proxy.port}"})


@pytest.mark.usefixtures("tinyproxy_required")
@pytest.mark.parametrize("login", [None, ("user", "secret")], ids=["open", "login"])
def test_tinyproxy(session: Session, origin: AppServer, login: Any) -> None:
    """It ends every connection behind its answer and does not say so: one that is used again may be gone, and the body
    of the upload cannot be sent twice."""
    with Tinyproxy(credentials=login) as proxy, Session(pool=PoolLimits(idle=0)) as anew:
        anew.verify = session.verify
        through(anew, f"http://{'user:secret@' if login else ''}127.0.0.1:{proxy.port}", origin)


# ---------------------------------------------------------------------- what a proxy may know, and refuse


def test_a_proxy_that_wants_to_know_who_asks(session: Session, origin: AppServer) -> None:
    """An https origin cannot be reached; for http it is the proxy's answer that comes back."""
    with HTTPProxy(credentials=LOGIN) as proxy:
        session.proxies = {"all": f"http://127.0.0.1:{proxy.port}"}
        if origin.url.startswith("https"):
            with pytest.raises(ProxyError, match="407"):
                session.get(origin.url)
        else:
            assert session.get(origin.url).status_code == 407
        assert not origin.seen


def test_a_header_for_the_proxy_goes_to_the_proxy_only(session: Session, origin: AppServer) -> None:
    """CVE-2023-32681, also where the program writes it by hand."""
    with HTTPProxy(credentials=LOGIN) as proxy:
        session.proxies = {"all": f"http://127.0.0.1:{proxy.port}"}
        value = "Basic dXNlcjpwQHNzIHdvcmQ="
        assert session.get(origin.url, headers={"Proxy-Authorization": value}).ok
        assert proxy.seen[-1].headers["proxy-authorization"] == value
    session.proxies = {}
    assert session.get(origin.url, headers={"Proxy-Authorization": value}).ok, "there is no proxy to hear it"
    assert not any("proxy-authorization" in seen.headers for seen in origin.seen)


def test_a_redirect_away_from_the_proxy_takes_nothing_of_it_along(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AppServer(answer) as first, AppServer(answer) as second, HTTPProxy(credentials=LOGIN) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{USERINFO}127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", f"127.0.0.1:{second.port}")
        assert session.get(f"{first.url}/away?to={second.url}/there").text == "/there"
        assert [seen.method for seen in proxy.seen] == ["GET"], "the second host is exempt"
        assert "proxy-authorization" not in second.seen[0].headers


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_nobody_at_the_proxy_s_port(session: Session, origin: AppServer, scheme: str) -> None:
    if scheme == "socks5":
        pytest.importorskip("socksio")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ProxyError) as caught:
            session.get(origin.url, proxies={"all": f"{scheme}://127.0.0.1:{bound.getsockname()[1]}"})
    assert not origin.seen
    assert caught.value.request is not None


def test_a_proxy_that_cannot_be_understood(session: Session, origin: AppServer) -> None:
    with pytest.raises(InvalidProxyURL, match="nothing was sent"):
        session.get(origin.url, proxies={"all": "gopher://127.0.0.1:1"})
    assert not origin.seen


def test_connections_through_a_proxy_are_used_again(session: Session, server_tls: ssl.SSLContext) -> None:
    with AppServer(answer, ssl_context=server_tls) as server, HTTPProxy() as proxy:
        session.proxies = {"https": f"http://127.0.0.1:{proxy.port}"}
        for _ in range(3):
            assert session.get(server.url + "/x").text == "/x"
        assert [seen.method for seen in proxy.seen] == ["CONNECT"]
        session.proxies = {}
        session.get(server.url)
        assert server.connections == 2, "what goes straight does not use what goes through a proxy"


def test_an_upload_through_a_proxy(session: Session, origin: AppServer) -> None:
    with HTTPProxy(credentials=LOGIN) as proxy:
        session.proxies = {"all": f"http://{USERINFO}127.0.0.1:{proxy.port}"}
        with session.upload("PUT", origin.url + "/up") as up:
            for start in range(0, len(BODY), 10_000):
                up.write(BODY[start : start + 10_000])
        assert up.response.headers["x-length"] == str(len(BODY))


# ---------------------------------------------------------------------- other ways


def test_a_unix_socket(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    heads: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            for _ in range(2):
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += connection.recv(4096)
                heads.append(head)
                connection.sendall(reply(200, b"from the socket"))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        url = "http+unix://" + str(path).replace("/", "%2F")
        assert session.get(url + "/a?b=c").text == "from the socket"
        assert session.post(url, data=b"").text == "from the socket", "on the same connection"
        thread.join(10)
    assert heads[0].startswith(b"GET /a?b=c HTTP/1.1\r\nHost: localhost\r\n")


def test_resolve_connects_elsewhere_and_keeps_the_name(ca_file: Path, server_tls: ssl.SSLContext) -> None:
    with AppServer(answer, ssl_context=server_tls) as server:
        resolve = {f"localhost:{server.port}": "127.0.0.1", f"nowhere.example:{server.port}": "127.0.0.1"}
        with Session(resolve=resolve) as session:
            session.verify = str(ca_file)
            assert session.get(f"https://localhost:{server.port}/x").text == "/x"
            assert server.seen[-1].headers["host"] == f"localhost:{server.port}"
            with pytest.raises(SSLError, match=r"nowhere\.example"):
                session.get(f"https://nowhere.example:{server.port}/x")


def test_an_address_filter_sees_redirects_and_proxies() -> None:
    asked: list[str] = []

    def allow(address: str) -> bool:
        asked.append(address)
        return address != "127.0.0.2"

    with AppServer(answer) as server, HTTPProxy() as proxy, Session(address_filter=allow) as session:
        session.trust_env = False
        with pytest.raises(ConnectionError, match=r"127\.0\.0\.2|address_filter"):
            session.get(f"{server.url}/away?to=http://127.0.0.2:{server.port}/")
        assert asked == ["127.0.0.1", "127.0.0.2"]
        with pytest.raises(ConnectionError, match=r"127\.0\.0\.2|address_filter"):
            session.get(server.url, proxies={"http": f"http://127.0.0.2:{proxy.port}"})


def test_a_resolver_of_ones_own() -> None:
    asked: list[tuple[str, int]] = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    with AppServer(answer) as server, Session(resolver=resolver) as session:
        assert session.get(f"http://any.example:{server.port}/x").text == "/x"
        assert asked == [("any.example", server.port)]
        assert server.seen[-1].headers["host"] == f"any.example:{server.port}"


def test_source_address_and_socket_options() -> None:
    peers: list[Any] = []

    def serve(peer: Peer) -> None:
        peers.append(peer)
        for _ in peer.requests():
            peer.send(reply(200))

    options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 5000)]
    with (
        ScriptedServer(serve) as server,
        Session(source_address=("127.0.0.3", 0), socket_options=options) as session,
    ):
        response = session.get(server.url)
        connection: Any = response._exchange
        sock = connection._connection.transport._sock
        assert sock.getsockname()[0] == "127.0.0.3"
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 10_000, "Linux doubles it"


def test_the_fingerprint_of_a_certificate(
    ca_file: Path, server_tls: ssl.SSLContext, server_tls_files: tuple[Path, Path]
) -> None:
    pem = server_tls_files[0].read_text().partition("-----END CERTIFICATE-----")
    der = ssl.PEM_cert_to_DER_cert(pem[0] + pem[1])
    right = hashlib.sha256(der).hexdigest()
    with AppServer(answer, ssl_context=server_tls) as server:
        with Session(assert_fingerprint=right.upper()) as session:
            assert session.get(server.url, verify=str(ca_file)).ok
            assert session.get(server.url, verify=False).ok, "the fingerprint alone"
        with Session(assert_fingerprint="00" * 32) as session:
            for verify in (str(ca_file), False):
                with pytest.raises(SSLError, match=right[:16]):
                    session.get(server.url, verify=verify)
    with pytest.raises(ValueError, match="SHA-256"):
        syncflow.Session(assert_fingerprint="abc")


def test_a_context_of_ones_own_and_a_client_certificate(
    ca: Any, ca_file: Path, server_certificate: Any, server_tls_files: tuple[Path, Path], client_tls: ssl.SSLContext
) -> None:
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_certificate.configure_cert(strict)
    ca.configure_trust(strict)
    strict.verify_mode = ssl.CERT_REQUIRED
    with AppServer(answer, ssl_context=strict) as server, Session(ssl_context=client_tls) as session:
        session.trust_env = False
        with pytest.raises((SSLError, ConnectionError)):
            session.get(server.url)  # no certificate of ours
        assert session.get(server.url, verify=str(ca_file), cert=server_tls_files).ok
        session.verify, session.cert = str(ca_file), server_tls_files
        assert session.get(server.url).ok


def test_a_folder_of_authorities(ca_file: Path, server_tls: ssl.SSLContext, tmp_path: Path) -> None:
    """As OpenSSL wants it: each file named by the hash of its subject."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    command = [openssl, "x509", "-hash", "-noout", "-in", str(ca_file)]
    name = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    shutil.copy(ca_file, tmp_path / f"{name}.0")
    with AppServer(answer, ssl_context=server_tls) as server, Session() as session:
        session.trust_env = False
        assert session.get(server.url, verify=tmp_path).ok
        with pytest.raises(SSLError):
            session.get(server.url)
        with pytest.raises(OSError, match="no such file or folder"):
            session.get(server.url, verify=tmp_path / "nothing")


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_environment_s_authorities(
    monkeypatch: pytest.MonkeyPatch, ca_file: Path, server_tls: ssl.SSLContext, variable: str
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(ca_file))
    with AppServer(answer, ssl_context=server_tls) as server, Session() as session:
        assert session.get(server.url).ok
        session.trust_env = False
        with pytest.raises(SSLError):
            session.get(server.url)

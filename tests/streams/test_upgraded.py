"""Response.upgraded: the connection after 101 or CONNECT; the bytes behind the head, the pool's books, who ends it."""

from __future__ import annotations

import base64
import gc
import hashlib
import io
import operator
import ssl
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest

from syncflow import (
    Cancelled,
    ConnectionError,
    EarlyResponse,
    InvalidHeader,
    PoolLimits,
    PoolTimeout,
    ReadTimeout,
    Response,
    Session,
    SessionClosed,
    Timeouts,
    TotalTimeout,
)
from syncflow.auth import HTTPDigestAuth
from syncflow.engine.deadline import Deadline
from syncflow.engine.exchange import Exchange
from syncflow.streams.duplex import Duplex
from syncflow.testing import HTTPProxy, Peer, ScriptedServer, Tinyproxy, eventually, pattern, reply
from syncflow.testing.scripted import Script

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "echo"}
TOO_MUCH = bytes(24 << 20)
SOON = 0.05

NewSession = Callable[..., Session]


@pytest.fixture
def session(new_session: NewSession) -> Session:
    return new_session()


@pytest.fixture
def narrow(new_session: NewSession) -> Session:
    """One connection for each host."""
    return new_session(pool=PoolLimits(per_host=1), timeout=Timeouts(pool=SOON, read=10, write=10))


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


def opened(session: Session) -> int:
    """Connections that the pool counts."""
    count: int = session._adapter._pool._ledger.open
    return count


def upgrade(session: Session, server: ScriptedServer, **how: Any) -> Response:
    return session.get(server.url, headers=UPGRADE, **how)


def echoing(greeting: bytes = b"", *, later: bytes = b"") -> Script:
    """Switches protocols, sends `greeting` with the head and `later` behind it, and then what comes."""

    def script(peer: Peer) -> None:
        assert peer.read_request().headers["upgrade"] == "echo"
        peer.send(SWITCHING + greeting)
        if later:
            peer.send(later)
        while peer._reader.more():
            peer.send(bytes(peer._reader.some()))

    return script


def exactly(duplex: Duplex, count: int) -> bytes:
    """Not by a `BufferedReader`, which closes what it is given when it is dropped."""
    parts = []
    while count:
        parts.append(duplex.read(count))
        assert parts[-1], f"the end came {count} bytes too early"
        count -= len(parts[-1])
    return b"".join(parts)


def switches(peer: Peer) -> None:
    peer.read_request()
    peer.send(SWITCHING)
    peer.stall()


# ---------------------------------------------------------------------- 101


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("greeting", "later"), [(b"", b""), (b"hello", b""), (b"", b"hello"), (b"he", b"llo")])
def test_what_came_with_the_head_comes_first(
    session: Session, tls: ssl.SSLContext | None, stream: bool, greeting: bytes, later: bytes
) -> None:
    with ScriptedServer(echoing(greeting, later=later), ssl_context=tls) as server:
        response = upgrade(session, server, stream=stream)
        assert (response.status_code, response.headers["upgrade"]) == (101, "echo")
        assert response.content == b""
        with response.upgraded as duplex:
            assert isinstance(duplex, Duplex)
            assert response.upgraded is duplex
            if greeting or later:
                assert exactly(duplex, 5) == b"hello"
            else:
                duplex.write(pattern(100_000))
                assert exactly(duplex, 100_000) == pattern(100_000)


def test_more_than_the_buffer_holds_comes_with_the_head(session: Session, tls: ssl.SSLContext | None) -> None:
    greeting = pattern(300_000)
    with ScriptedServer(echoing(greeting), ssl_context=tls) as server:
        with upgrade(session, server, stream=True).upgraded as duplex:
            duplex.write(b"end")
            assert exactly(duplex, 300_003) == greeting + b"end"


def test_a_handshake_as_of_websocket(session: Session, tls: ssl.SSLContext | None) -> None:
    """RFC 6455, section 1.3; then a text message, masked, and its echo, and both closing frames."""
    key = base64.b64encode(bytes(range(16))).decode()
    accept = base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()

    def script(peer: Peer) -> None:
        asked = peer.read_request()
        assert asked.headers["sec-websocket-key"] == key
        peer.send(SWITCHING.replace(b"echo", b"websocket")[:-2] + f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        first, second = peer.read_exactly(2)
        assert (first, second) == (0x81, 0x85)
        mask, payload = peer.read_exactly(4), peer.read_exactly(5)
        peer.send(b"\x81\x05" + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)))
        peer.expect(b"\x88\x80\0\0\0\0")
        peer.send(b"\x88\x00")

    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Version": "13",
    }
    with ScriptedServer(script, ssl_context=tls) as server:
        with session.get(server.url, headers=headers, stream=True) as response:
            assert response.headers["sec-websocket-accept"] == accept
            with response.upgraded as duplex:
                duplex.write(b"\x81\x85\x01\x02\x03\x04" + bytes(map(operator.xor, b"Hello", b"\1\2\3\4\1")))
                reader = io.BufferedReader(duplex)
                assert reader.read(7) == b"\x81\x05Hello"
                duplex.write(b"\x88\x80\0\0\0\0")
                assert reader.read() == b"\x88\x00"


@pytest.mark.parametrize("status", [200, 204, 404, 426])
def test_another_answer_is_none(session: Session, status: int) -> None:
    with ScriptedServer(lambda peer: [peer.send(reply(status)) for _ in peer.requests()]) as server:
        for _ in range(2):
            response = upgrade(session, server)
            with pytest.raises(ValueError, match=f"127.0.0.1:{server.port}: .* did not switch protocols: {status}"):
                response.upgraded  # noqa: B018
        assert server.connections == 1


def test_a_response_without_a_connection() -> None:
    response = Response()
    response.status_code = 101
    with pytest.raises(ValueError, match="none of ours"):
        response.upgraded  # noqa: B018


def test_half_close(session: Session, tls: ssl.SSLContext | None) -> None:
    """OpenSSL's own socket, which a response's connection has, ends both directions or none."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(SWITCHING)
        if tls is None:
            peer.send(b"got " + peer.read_until_close())
        else:
            peer.send(b"got " + peer.read_exactly(3))

    with ScriptedServer(script, ssl_context=tls) as server, upgrade(session, server).upgraded as duplex:
        duplex.write(b"all")
        if tls is None:
            duplex.shutdown_write()
        else:
            with pytest.raises(io.UnsupportedOperation, match="cannot end one direction only"):
                duplex.shutdown_write()
        assert duplex.read() == b"got all"


def test_it_outlives_its_response(session: Session, tls: ssl.SSLContext | None) -> None:
    with ScriptedServer(echoing(), ssl_context=tls) as server:
        with upgrade(session, server, stream=True) as response:
            duplex = response.upgraded
        del response
        gc.collect()
        duplex.write(b"x")
        assert duplex.read(1) == b"x"
        session.retire()
        duplex.write(b"y")
        assert duplex.read(1) == b"y"
        duplex.close()


# ---------------------------------------------------------------------- the pool


def test_it_counts_until_it_is_closed(narrow: Session, tls: ssl.SSLContext | None) -> None:
    with ScriptedServer(echoing(), ssl_context=tls) as server:
        duplex = upgrade(narrow, server).upgraded
        with pytest.raises(PoolTimeout):
            upgrade(narrow, server)
        assert opened(narrow) == 1
        duplex.close()
        with upgrade(narrow, server).upgraded as another:
            another.write(b"x")
            assert another.read(1) == b"x"
        assert opened(narrow) == 0
        assert server.connections == 2


@pytest.mark.parametrize("how", ["abort", "timeout", "peer", "dropped"])
def test_its_place_comes_back_whatever_its_end(narrow: Session, tls: ssl.SSLContext | None, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(SWITCHING)
        if how == "peer":
            peer.read_exactly(1)
            peer.reset()
        else:
            peer.stall()

    with ScriptedServer(script, ssl_context=tls) as server:
        duplex = upgrade(narrow, server).upgraded
        if how == "abort":
            duplex.abort()
        elif how == "timeout":
            duplex._stream._deadline = Deadline(Timeouts(read=SOON))  # not before: the answer takes its time
            with pytest.raises(ReadTimeout):
                duplex.read(1)
        elif how == "peer":
            duplex.write(b"x")
            with pytest.raises(ConnectionError):
                duplex.read(1)
        else:
            with pytest.warns(ResourceWarning, match="was dropped before it was closed"):
                del duplex
        eventually(lambda: opened(narrow) == 0)


@pytest.mark.parametrize("how", ["close", "leave", "drop", "drop unstreamed"])
def test_one_that_nobody_takes(narrow: Session, tls: ssl.SSLContext | None, how: str) -> None:
    with ScriptedServer(switches, ssl_context=tls) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        response = upgrade(narrow, server, stream=how != "drop unstreamed")
        assert opened(narrow) == 1
        if how == "close":
            response.close()
        elif how == "leave":
            with response:
                pass
        elif how == "drop":
            with pytest.warns(ResourceWarning, match="was dropped"):
                del response
        else:
            del response
        eventually(lambda: opened(narrow) == 0)
        if how in ("close", "leave"):
            with pytest.raises(Cancelled):
                response.upgraded  # noqa: B018


def test_the_limits_go_on(session: Session, tls: ssl.SSLContext | None) -> None:
    """`total` is the request's and the stream's together: there is one deadline, and it passes."""
    with ScriptedServer(switches, ssl_context=tls) as server:
        response = upgrade(session, server, timeout=Timeouts(total=60))
        assert isinstance(response._exchange, Exchange)
        deadline = response._exchange._deadline
        with response.upgraded as duplex:
            assert duplex._stream._deadline is deadline
            deadline.at = deadline.clock() + SOON
            with pytest.raises(TotalTimeout):
                duplex.read(1)


@pytest.mark.parametrize("who", ["reader", "writer"])
def test_the_session_ends_it(session: Session, tls: ssl.SSLContext | None, who: str) -> None:
    with ScriptedServer(switches, ssl_context=tls, receive_buffer=4096) as server, ThreadPoolExecutor() as pool:
        duplex = upgrade(session, server).upgraded
        call = pool.submit(duplex.read, 1) if who == "reader" else pool.submit(duplex.write, TOO_MUCH)
        transport = duplex._stream.transport
        eventually(lambda: transport._in_wait if who == "reader" else transport._writers)
        session.close()
        assert isinstance(call.exception(10), SessionClosed)
        with pytest.raises(SessionClosed):
            duplex.read(1)
        duplex.close()


def test_the_session_ends_one_that_nobody_has_taken(session: Session, tls: ssl.SSLContext | None) -> None:
    with ScriptedServer(switches, ssl_context=tls) as server:
        response = upgrade(session, server)
        session.close()
        with pytest.raises(SessionClosed):
            response.upgraded  # noqa: B018


# ---------------------------------------------------------------------- uploads


def test_a_request_with_a_body(session: Session, tls: ssl.SSLContext | None) -> None:
    def script(peer: Peer) -> None:
        assert peer.read_request().body == b"the body"
        peer.send(SWITCHING + b"hello")
        peer.stall()

    with ScriptedServer(script, ssl_context=tls) as server:
        with session.post(server.url, data=b"the body", headers=UPGRADE).upgraded as duplex:
            assert duplex.read(5) == b"hello"
        with session.upload("PUT", server.url, headers=UPGRADE) as upload:
            upload.write(b"the body")
        with upload.response.upgraded as duplex:
            assert duplex.read(5) == b"hello"


def test_the_server_switches_before_the_body_has_left(session: Session, tls: ssl.SSLContext | None) -> None:
    """What is left of the body is no part of another protocol."""

    def script(peer: Peer) -> None:
        peer.read_request(body=False)
        peer.send(SWITCHING)
        peer.wait_closed()

    with ScriptedServer(script, ssl_context=tls) as server:
        with session.upload("PUT", server.url, headers=UPGRADE) as upload, pytest.raises(EarlyResponse):
            while True:
                upload.write(bytes(1000))
        response = upload.response
        assert response.status_code == 101
        with pytest.raises(ConnectionError, match="before the whole request had left"):
            response.upgraded  # noqa: B018
        eventually(lambda: opened(session) == 0)


# ---------------------------------------------------------------------- CONNECT


def echo(peer: Peer) -> None:
    while peer._reader.more():
        peer.send(bytes(peer._reader.some()))


def tunnel(session: Session, target: str, proxy: str, **how: Any) -> Response:
    return session.request("CONNECT", target, proxies={"http": proxy}, stream=True, **how)


@pytest.mark.parametrize("login", [None, ("user", "password")], ids=["open", "login"])
@pytest.mark.parametrize("secured", [False, True], ids=["http", "https"])
def test_a_tunnel(session: Session, server_tls: ssl.SSLContext, login: Any, secured: bool) -> None:
    context = server_tls if secured else None
    with ScriptedServer(echo) as target, HTTPProxy(credentials=login, ssl_context=context) as proxy:
        userinfo = "user:password@" if login else ""
        url = f"{'https' if secured else 'http'}://{userinfo}localhost:{proxy.port}"
        with tunnel(session, f"http://127.0.0.1:{target.port}/ignored?x", url) as response:
            assert response.ok
            with response.upgraded as duplex:
                duplex.write(pattern(300_000))
                assert exactly(duplex, 300_000) == pattern(300_000)
        (asked,) = proxy.seen
        assert (asked.method, asked.target) == ("CONNECT", f"127.0.0.1:{target.port}")
        assert asked.headers["host"] == asked.target
        assert "content-length" not in asked.headers


@pytest.mark.usefixtures("tinyproxy_required")
def test_a_tunnel_through_tinyproxy(session: Session) -> None:
    with ScriptedServer(echo) as target, Tinyproxy() as proxy:
        with tunnel(session, target.url, f"http://127.0.0.1:{proxy.port}").upgraded as duplex:
            duplex.write(pattern(300_000))
            duplex.flush()
            assert exactly(duplex, 300_000) == pattern(300_000)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://target.test/", b"target.test:80"),
        ("http://target.test:8080", b"target.test:8080"),
        ("http://[::1]", b"[::1]:80"),
        ("http://[fe80::1%25eth0]:81/", b"[fe80::1]:81"),
        ("http://b\u00fccher.test/", b"xn--bcher-kva.test:80"),
    ],
)
def test_the_port_is_always_named(session: Session, url: str, named: bytes) -> None:
    def script(peer: Peer) -> None:
        head = peer.read_head()
        assert head.startswith(b"CONNECT " + named + b" HTTP/1.1\r\nHost: " + named + b"\r\n"), head
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")

    with ScriptedServer(script) as proxy:
        with tunnel(session, url, proxy.url).upgraded as duplex:
            assert duplex.read() == b"hello"


def test_without_a_proxy_the_target_is_asked(session: Session, tls: ssl.SSLContext | None) -> None:
    def script(peer: Peer) -> None:
        assert peer.read_head().startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n".encode())
        # RFC 9110, section 9.3.6: a client ignores both.
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nhello")
        echo(peer)

    with ScriptedServer(script, ssl_context=tls) as server:
        with session.request("CONNECT", server.url).upgraded as duplex:
            duplex.write(b" and")
            assert exactly(duplex, 9) == b"hello and"


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_tunnel_that_is_refused(narrow: Session, status: int) -> None:
    with ScriptedServer(lambda peer: [peer.send(reply(status, b"no")) for _ in peer.requests()]) as proxy:
        for _ in range(2):
            with tunnel(narrow, "http://target.test:1", proxy.url) as response:
                assert (response.status_code, response.content) == (status, b"no")
                with pytest.raises(ValueError, match=f"did not switch protocols: {status}"):
                    response.upgraded  # noqa: B018
        assert proxy.connections == 1


@pytest.mark.parametrize("how", [{"data": b"x"}, {"data": iter([b"x"])}, {"headers": {"Transfer-Encoding": "chunked"}}])
def test_a_body_is_refused(session: Session, how: Any) -> None:
    with ScriptedServer() as proxy:
        with pytest.raises(InvalidHeader, match="CONNECT has no body; nothing was sent"):
            tunnel(session, "http://target.test:1", proxy.url, **how)
        assert proxy.connections == 0


def test_hooks_and_a_login_do_not_disturb_it(session: Session) -> None:
    seen: list[int] = []

    def hook(response: Response, **kwargs: Any) -> None:
        seen.append(response.status_code)

    with ScriptedServer(echo) as target, HTTPProxy() as proxy:
        response = tunnel(
            session,
            target.url,
            f"http://127.0.0.1:{proxy.port}",
            hooks={"response": hook},
            auth=HTTPDigestAuth("a", "b"),
        )
        with response.upgraded as duplex:
            duplex.write(b"x")
            assert duplex.read(1) == b"x"
    assert seen == [200]


@pytest.mark.parametrize(
    ("url", "named"), [("http://target.test", "target.test:80"), ("http://[::1]:81/x?y", "[::1]:81")]
)
def test_a_login_by_digest_is_for_what_was_asked(session: Session, url: str, named: str) -> None:
    """RFC 7616, section 3.4: `uri` is the request's target, and a server may refuse another."""
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply(401, headers=challenge))
        for _ in range(2):
            assert f'uri="{named}"' in peer.read_head().decode()
            peer.send(reply(403))

    with ScriptedServer(script) as proxy:
        auth = HTTPDigestAuth("a", "b")
        for _ in range(2):  # the second one knows the challenge
            assert tunnel(session, url, proxy.url, auth=auth).content == b""


def test_tls_within_the_tunnel(session: Session, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    """A program's own use of the stream: it may hand bytes to whatever speaks through them."""

    def script(peer: Peer) -> None:
        peer.send(b"secret " + peer.read_exactly(3))

    target: AbstractContextManager[ScriptedServer] = ScriptedServer(script, ssl_context=server_tls)
    with target as server, HTTPProxy() as proxy:
        target_url = f"http://localhost:{server.port}"
        with tunnel(session, target_url, f"http://127.0.0.1:{proxy.port}").upgraded as duplex:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            inner = client_tls.wrap_bio(incoming, outgoing, server_hostname="localhost")

            def through(step: Callable[[], Any]) -> Any:
                while True:
                    try:
                        result = step()
                    except ssl.SSLWantReadError:
                        duplex.write(outgoing.read())
                        incoming.write(duplex.read(65536))
                    else:
                        duplex.write(outgoing.read())
                        return result

            through(inner.do_handshake)
            through(lambda: inner.write(b"abc"))
            assert through(lambda: inner.read(100)) == b"secret abc"

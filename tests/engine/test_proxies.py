"""HTTP proxies: real ones, in the open and over TLS; and all that one can do instead of opening a tunnel."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from syncflow import ConnectTimeout, ProxyError, SSLError, Timeouts, TotalTimeout, Watermarks
from syncflow.engine.attempt import Attempt
from syncflow.engine.deadline import Deadline
from syncflow.engine.dialer import Dial, Network
from syncflow.engine.origin import Origin, Proxy
from syncflow.engine.timings import Setup
from syncflow.engine.tls import client_context
from syncflow.engine.worker import Worker
from syncflow.exceptions import InvalidHeader, InvalidSchema, RequestException
from syncflow.testing import (
    AppServer,
    HTTPProxy,
    Peer,
    ScriptedServer,
    Tinyproxy,
    eventually,
    full_backlog,
    never_answers,
    pattern,
    refused_port,
    reply,
)
from syncflow.testing.scripted import Script

from ..concurrency import Call
from .conftest import Wire
from .dialing import SOON, Client, dial, proxied, refuse, run, trust
from .rig import has_waiters

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("switching")]

GRANTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
SECRET = "Basic " + base64.b64encode(b"user:secret").decode()


@pytest.fixture(params=["http", "https"])
def outside(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    """How the proxy is spoken to: in the open, and over TLS."""
    return server_tls if request.param == "https" else None


def via(proxy: int, outside: ssl.SSLContext | None, ca_file: Path, **more: str) -> Proxy:
    if outside is None:
        return proxied("http", proxy, **more)
    return proxied("https", proxy, context=trust(ca_file), **more)


def origin_through(proxy: Proxy, ca_file: Path, port: int = 443, host: str = "localhost") -> Origin:
    return Origin("https", host, port, trust(ca_file), proxy)


# ---------------------------------------------------------------------- tinyproxy


@pytest.mark.usefixtures("tinyproxy_required")
def test_a_request_through_tinyproxy(worker: Worker) -> None:
    """The target is in absolute form: that is the adapter's to write."""
    with Tinyproxy() as proxy, AppServer() as server, Client(worker) as client:
        origin = Origin("http", "127.0.0.1", server.port, proxy=proxied("http", proxy.port))
        assert client.get(origin, f"http://127.0.0.1:{server.port}/path")[0] == 200
        (request,) = server.seen
        assert request.path == "/path"
        assert "tinyproxy" in request.headers["via"]


@pytest.mark.usefixtures("tinyproxy_required")
@pytest.mark.parametrize("credentials", [None, ("user", "secret")], ids=["open", "basic"])
def test_a_tunnel_through_tinyproxy(
    worker: Worker, ca_file: Path, server_tls: ssl.SSLContext, credentials: tuple[str, str] | None
) -> None:
    body = pattern(500_000)
    with Tinyproxy(credentials=credentials) as proxy, AppServer(ssl_context=server_tls) as server:
        way = proxied("http", proxy.port, authorization=SECRET if credentials else None)
        with Client(worker) as client:
            status, told = client.put(origin_through(way, ca_file, server.port), body)
            assert status == 200
            assert hashlib.sha256(body).hexdigest().encode() in told
            (connection,) = client.pool._ledger.connections
            assert connection.transport.peer == ("127.0.0.1", proxy.port)
        eventually(lambda: f"CONNECT localhost:{server.port} HTTP/1.1" in proxy.log)
        (request,) = server.seen
        assert "proxy-authorization" not in request.headers


@pytest.mark.usefixtures("tinyproxy_required")
@pytest.mark.parametrize(
    ("authorization", "advice"),
    [(None, "it wants credentials, as in http://user:password@"), ("Basic eDp5", "does not accept these credentials")],
    ids=["none", "wrong"],
)
def test_tinyproxy_asks_who_it_is(worker: Worker, ca_file: Path, authorization: str | None, advice: str) -> None:
    with Tinyproxy(credentials=("user", "secret")) as proxy:
        way = proxied("http", proxy.port, authorization=authorization)
        error = refuse(dial(worker, origin_through(way, ca_file)))
    status = 401 if authorization else 407
    assert isinstance(error, ProxyError)
    assert error.phase == "proxy"
    assert str(error).startswith(f"localhost:443: proxy 127.0.0.1:{way.port}: it refused the tunnel: {status} ")
    assert advice in str(error)


@pytest.mark.usefixtures("tinyproxy_required")
def test_tinyproxy_cannot_reach_the_target(worker: Worker, ca_file: Path) -> None:
    with Tinyproxy() as proxy, refused_port() as endpoint:
        way = origin_through(proxied("http", proxy.port), ca_file, endpoint.port, "127.0.0.1")
        error = refuse(dial(worker, way))
    assert isinstance(error, ProxyError)
    assert "it refused the tunnel: 50" in str(error)


# ---------------------------------------------------------------------- a proxy of our own


def test_exchanges_through_a_tunnel(
    worker: Worker, outside: ssl.SSLContext | None, ca_file: Path, server_tls: ssl.SSLContext
) -> None:
    """The name is the proxy's to resolve; credentials go to it and to nobody else."""
    body = pattern(200_000)
    with (
        HTTPProxy(credentials=("user", "secret"), ssl_context=outside) as proxy,
        AppServer(ssl_context=server_tls) as server,
        Client(worker) as client,
    ):
        way = via(proxy.port, outside, ca_file, authorization=SECRET)
        origin = origin_through(way, ca_file, server.port)
        for _ in range(2):
            assert hashlib.sha256(body).hexdigest().encode() in client.put(origin, body)[1]
        assert server.connections == proxy.connections == 1
        (connect,) = proxy.seen
        assert (connect.method, connect.target) == ("CONNECT", f"localhost:{server.port}")
        assert connect.fields == [("Host", connect.target), ("Proxy-Authorization", SECRET)]
        assert all("proxy-authorization" not in request.headers for request in server.seen)


def test_a_plain_request_needs_no_tunnel(worker: Worker, outside: ssl.SSLContext | None, ca_file: Path) -> None:
    with HTTPProxy(ssl_context=outside) as proxy, AppServer() as server, Client(worker) as client:
        origin = Origin("http", "127.0.0.1", server.port, proxy=via(proxy.port, outside, ca_file))
        assert client.get(origin, f"http://127.0.0.1:{server.port}/path?query")[0] == 200
        (request,) = server.seen
        assert request.target == "/path?query"
        assert [seen.method for seen in proxy.seen] == ["GET"]


def test_who_sees_which_name(worker: Worker, ca_file: Path, server_certificate: trustme.LeafCert) -> None:
    """SNI and check of the proxy's host outside, of the origin's inside."""
    seen: list[tuple[str, str | None]] = []

    def secure(who: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_certificate.configure_cert(context)
        context.sni_callback = lambda sock, name, context: seen.append((who, name))  # type: ignore[assignment]
        return context

    with HTTPProxy(ssl_context=secure("proxy")) as proxy, AppServer(ssl_context=secure("origin")) as server:
        network = Network(resolve={f"proxy.test:{proxy.port}": "127.0.0.1"})
        lax = client_context(False)
        way = Proxy("https", "proxy.test", proxy.port, lax)
        with run(dial(worker, origin_through(way, ca_file, server.port), network)):
            pass
        assert seen == [("proxy", "proxy.test"), ("origin", "localhost")]
        error = refuse(
            dial(worker, origin_through(way._replace(context=trust(ca_file)), ca_file, server.port), network)
        )
    assert isinstance(error, ProxyError)
    assert error.phase == "tls"
    assert str(error).startswith(f"localhost:{server.port}: proxy proxy.test:{way.port}: the TLS handshake failed: ")
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


def test_an_origin_that_is_another_behind_the_proxy(
    worker: Worker, outside: ssl.SSLContext | None, ca_file: Path, server_tls: ssl.SSLContext
) -> None:
    hosts = {"wrong.test": "127.0.0.1"}
    with HTTPProxy(hosts=hosts, ssl_context=outside) as proxy, AppServer(ssl_context=server_tls) as server:
        way = via(proxy.port, outside, ca_file)
        error = refuse(dial(worker, origin_through(way, ca_file, server.port, "wrong.test")))
        assert proxy.targets == [("wrong.test", server.port)]
    assert isinstance(error, SSLError)
    assert error.phase == "tls"
    assert "Hostname mismatch" in str(error)


def test_a_proxy_without_tls_is_not_believed_to_have_it(worker: Worker, ca_file: Path) -> None:
    with HTTPProxy() as proxy:
        call = Call(refuse, dial(worker, origin_through(via(proxy.port, ssl_any(), ca_file), ca_file)))
        proxy.wait_for_connections(1)
        proxy.stop()  # it would wait for the end of a head
        error = call.result()
    assert isinstance(error, ProxyError)
    assert error.phase == "tls"


def ssl_any() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def test_who_brings_no_context_is_verified(worker: Worker, ca_file: Path, server_tls: ssl.SSLContext) -> None:
    """Of the origin and of the proxy: what was to be secret is never sent in the open, or to anybody."""
    with AppServer(ssl_context=server_tls) as server, HTTPProxy(ssl_context=server_tls) as proxy:
        error = refuse(dial(worker, Origin("https", "localhost", server.port)))
        assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
        error = refuse(dial(worker, origin_through(proxied("https", proxy.port), ca_file, server.port)))
        assert isinstance(error, ProxyError)
        assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
        assert proxy.seen == []


# ---------------------------------------------------------------------- hostile ones


def answers(data: bytes) -> Script:
    """Sends this, and waits for the end."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(data)
        peer.wait_closed()

    return script


def closes(peer: Peer) -> None:
    peer.read_head()


def breaks_off(peer: Peer) -> None:
    peer.read_head()
    peer.send(b"HTTP/1.1 200")


def resets(peer: Peer) -> None:
    peer.read_head()
    peer.reset()


def closes_at_once(peer: Peer) -> None:
    peer.close()


def floods(start: bytes, again: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(start)
        while True:
            peer.send(again * 64)

    return script


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (answers(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "its answer to CONNECT is not HTTP ("),
        (answers(b"\x05\xff\r\n\r\n"), "is it an HTTP proxy?"),
        (answers(reply(407)), "it refused the tunnel: 407 Proxy Authentication Required; it wants credentials"),
        (answers(reply(403, b"no")), "403 Forbidden; it does not allow this target"),
        (answers(reply(502)), "502 Bad Gateway; it could not connect to the target"),
        (answers(reply(404)), "404 Not Found; its log may say why"),
        (answers(reply(302, b"", {"Location": "http://evil.test"})), "it refused the tunnel: 302 Found"),
        (answers(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), "tunnel: 101 "),
        (answers(b"HTTP/1.1 599 " + b"x" * 5000 + b"\r\n\r\n"), f"tunnel: 599 {'x' * 100}; "),
        (answers(b"HTTP/1.1 403\r\n\r\n"), "it refused the tunnel: 403; it does not allow"),
        (answers(b"HTTP/1.1 407 No\r\nTransfer-Encoding: chunked\r\n\r\nzzzz\r\n"), "it refused the tunnel: 407 No;"),
        (floods(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n"), "its answer to CONNECT is not HTTP ("),
        (floods(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), "its answer to CONNECT is not HTTP ("),
        (closes, "no answer to CONNECT: the peer closed before the head"),
        (breaks_off, "no answer to CONNECT: the peer closed after 12 bytes of the head"),
        (resets, "it ended the connection: "),
    ],
)
def test_what_a_proxy_may_say_instead(
    worker: Worker, outside: ssl.SSLContext | None, ca_file: Path, script: Script, expected: str
) -> None:
    with ScriptedServer(script, ssl_context=outside) as proxy:
        error = refuse(dial(worker, origin_through(via(proxy.port, outside, ca_file), ca_file)))
    assert type(error) is ProxyError
    assert str(error).startswith(f"localhost:443: proxy 127.0.0.1:{proxy.port}: ")
    assert expected in str(error)
    assert error.phase == "proxy"


def test_informational_answers_are_passed_over(worker: Worker, outside: ssl.SSLContext | None, ca_file: Path) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + reply(504))
        peer.wait_closed()

    with ScriptedServer(script, ssl_context=outside) as proxy:
        error = refuse(dial(worker, origin_through(via(proxy.port, outside, ca_file), ca_file)))
    assert "504 Gateway Timeout" in str(error)


def test_one_that_trickles(worker: Worker, outside: ssl.SSLContext | None, ca_file: Path) -> None:
    """A byte at a time, and the tunnel is there after the last."""
    answer = b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n"  # ignored: RFC 9110, 9.3.6

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send_slowly(answer[at : at + 1] for at in range(len(answer)))
        assert peer.read_exactly(1) == b"\x16", "a TLS handshake begins"

    with ScriptedServer(script, ssl_context=outside) as proxy:
        call = Call(refuse, dial(worker, origin_through(via(proxy.port, outside, ca_file), ca_file)))
        proxy.step(len(answer))
        error = call.result()
    assert isinstance(error, SSLError)


@pytest.mark.parametrize("early", [b"\x15\x03\x03\x00\x02\x02\x28", b"HTTP/1.1 400 what?\r\n\r\n" * 100])
@pytest.mark.parametrize("pieces", [1, 2])
def test_what_comes_behind_the_answer_is_the_origins(
    worker: Worker, outside: ssl.SSLContext | None, ca_file: Path, early: bytes, pieces: int
) -> None:
    """In the same piece or in the next: OpenSSL sees it, an alert or nonsense, and says so."""

    def script(peer: Peer) -> None:
        peer.read_head()
        if pieces == 1:
            peer.send(GRANTED + early)
        else:
            peer.send(GRANTED)
            peer.send(early)
        peer.wait_closed()

    with ScriptedServer(script, ssl_context=outside) as proxy:
        error = refuse(dial(worker, origin_through(via(proxy.port, outside, ca_file), ca_file)))
    assert isinstance(error, SSLError)
    cause = str(error.__cause__).lower()
    assert ("alert handshake failure" if early[0] == 0x15 else "wrong_version_number") in cause.replace("sslv3 ", "")


# ---------------------------------------------------------------------- what fails before


def test_a_proxy_that_refuses_connections(worker: Worker, ca_file: Path) -> None:
    with refused_port() as endpoint:
        error = refuse(dial(worker, origin_through(proxied("http", endpoint.port), ca_file)))
    assert type(error) is ProxyError
    assert error.phase == "connect"
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert str(error).startswith(
        f"localhost:443: proxy 127.0.0.1:{endpoint.port}: no connection (127.0.0.1: Connection "
    )


def test_a_proxy_whose_name_nobody_knows(worker: Worker, ca_file: Path) -> None:
    def resolve(host: str, port: int) -> list[str | tuple[object, ...]]:
        assert host == "proxy.test", "the target's name is the proxy's to resolve"
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    way = proxied("http", 3128)._replace(host="proxy.test")
    error = refuse(dial(worker, origin_through(way, ca_file), Network(resolver=resolve)))
    assert type(error) is ProxyError
    assert error.phase == "dns"
    assert str(error).startswith("localhost:443: proxy proxy.test:3128: the name cannot be resolved: ")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_one_that_has_left_already(worker: Worker, ca_file: Path, scheme: str) -> None:
    with ScriptedServer(closes_at_once) as proxy:
        way = via(proxy.port, None if scheme == "http" else ssl_any(), ca_file)
        error = refuse(dial(worker, origin_through(way, ca_file)))
    assert isinstance(error, ProxyError)
    assert error.phase in ("proxy", "tls", "connect")


def test_nonsense_is_refused_before_anything_is_sent(worker: Worker, ca_file: Path) -> None:
    with HTTPProxy() as proxy:
        way = proxied("http", proxy.port)
        wrong = origin_through(way._replace(authorization="Basic x\r\nEvil: 1"), ca_file)
        assert isinstance(refuse(dial(worker, wrong)), InvalidHeader)
        wrong = origin_through(way, ca_file, host="a b")
        assert isinstance(refuse(dial(worker, wrong)), InvalidHeader)
        error = refuse(dial(worker, origin_through(way._replace(scheme="ftp"), ca_file)))
        assert isinstance(error, InvalidSchema)
        assert "'ftp' is none of http, https, socks4, socks4a, socks5, socks5h; nothing was sent" in str(error)
        with pytest.raises(ValueError, match="fingerprint"):
            dial(worker, origin_through(way, ca_file)._replace(fingerprint="ab")).run()
        assert proxy.connections == 0


# ---------------------------------------------------------------------- limits and calling off

Stuck = Callable[[ExitStack, Path], Proxy]


def in_connect(stack: ExitStack, ca_file: Path) -> Proxy:
    return proxied("http", stack.enter_context(full_backlog()).port)


def in_tls(stack: ExitStack, ca_file: Path) -> Proxy:
    return proxied("https", stack.enter_context(never_answers()).port, context=trust(ca_file))


def in_proxy(stack: ExitStack, ca_file: Path) -> Proxy:
    return proxied("http", stack.enter_context(never_answers()).port)


STUCK = pytest.mark.parametrize("stuck", [in_connect, in_tls, in_proxy])


@STUCK
def test_each_phase_ends_in_time(worker: Worker, ca_file: Path, stuck: Stuck) -> None:
    with ExitStack() as stack:
        way = stuck(stack, ca_file)
        error = refuse(dial(worker, origin_through(way, ca_file), timeouts=Timeouts(connect=SOON)))
    assert isinstance(error, ConnectTimeout)
    assert error.phase == stuck.__name__.removeprefix("in_")
    assert str(error).startswith(f"localhost:443: proxy {way.where}: ")
    assert "was not done after 0.05 s (Timeouts.connect); nothing was sent" in str(error)


@STUCK
def test_the_total_ends_each_phase(worker: Worker, ca_file: Path, stuck: Stuck) -> None:
    with ExitStack() as stack:
        limits = Timeouts(connect=None, total=SOON)
        error = refuse(dial(worker, origin_through(stuck(stack, ca_file), ca_file), timeouts=limits))
    assert isinstance(error, TotalTimeout)
    assert error.phase == stuck.__name__.removeprefix("in_")


@STUCK
def test_each_phase_can_be_called_off(worker: Worker, ca_file: Path, stuck: Stuck) -> None:
    with ExitStack() as stack:
        made = dial(worker, origin_through(stuck(stack, ca_file), ca_file), timeouts=Timeouts(connect=None))
        call = Call(made.run)
        eventually(lambda: has_waiters(made.cond))
        error = RequestException("called off")
        made.cancel(error)
        assert call.error() is error


def test_the_trickle_ends_in_time(worker: Worker, ca_file: Path) -> None:
    """Each byte comes soon enough; all of them do not."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nX-More: ")
        peer.send_slowly((b"x" for _ in range(1000)), period=SOON / 5)

    with ScriptedServer(script) as proxy:
        way = proxied("http", proxy.port)
        error = refuse(dial(worker, origin_through(way, ca_file), timeouts=Timeouts(connect=SOON)))
    assert isinstance(error, ConnectTimeout)
    assert error.phase == "proxy"


def test_an_interrupt_at_each_step_leaves_nothing_behind(
    worker: Worker,
    outside: ssl.SSLContext | None,
    ca_file: Path,
    server_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`no_leaks` looks for the sockets."""
    perform = Attempt.perform
    left = [0]

    def interrupted(self: Attempt, *rest: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return perform(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Attempt, "perform", interrupted)
    with HTTPProxy(ssl_context=outside) as proxy, AppServer(ssl_context=server_tls) as server:
        for steps in range(100):
            left[0] = steps
            made = dial(worker, origin_through(via(proxy.port, outside, ca_file), ca_file, server.port))
            try:
                made.run()[0].close()
                break
            except KeyboardInterrupt:
                eventually(lambda made=made: all(a.sock.fileno() == -1 for a in made.attempts))  # type: ignore[misc]
        assert steps >= 3


# ---------------------------------------------------------------------- how long, and whose certificate


class Clock:
    """Moves only where the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_proxys_part_counts_as_connecting(
    worker: Worker, ca_file: Path, server_certificate: trustme.LeafCert
) -> None:
    clock = Clock()

    def slow(seconds: int) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_certificate.configure_cert(context)

        def advance(*rest: object) -> None:
            clock.now += seconds

        context.sni_callback = advance
        return context

    def resolve(host: str, port: int) -> list[str | tuple[object, ...]]:
        clock.now += 1
        return ["127.0.0.1"]

    with HTTPProxy(ssl_context=slow(10)) as proxy, AppServer(ssl_context=slow(100)) as server:
        way = Proxy("https", "localhost", proxy.port, trust(ca_file))
        deadline = Deadline(Timeouts(connect=None), clock)
        origin = origin_through(way, ca_file, server.port)
        with run(Dial(worker, origin, deadline, Watermarks(), Network(resolver=resolve))) as (_, setup):
            assert setup == Setup(dns=1.0, connect=10.0, tls=100.0)


def test_a_pinned_certificate(
    worker: Worker, wire: Wire, ca_file: Path, server_tls: ssl.SSLContext, server_certificate: trustme.LeafCert
) -> None:
    """Directly, and inside the TLS of a proxy; with and without a check of the authority."""
    pem = server_certificate.cert_chain_pems[0].bytes().decode()
    shown = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    other = hashlib.sha256(b"other").hexdigest()
    with AppServer(ssl_context=server_tls) as server, HTTPProxy(ssl_context=server_tls) as proxy:
        way = via(proxy.port, server_tls, ca_file) if wire.server else None
        for context in (trust(ca_file), client_context(False)):
            origin = Origin("https", "localhost", server.port, context, way, shown)
            with run(dial(worker, origin)), run(dial(worker, origin._replace(fingerprint=shown.upper()))):
                pass
            error = refuse(dial(worker, origin._replace(fingerprint=other)))
            assert isinstance(error, SSLError)
            assert error.phase == "tls"
            assert f"has the fingerprint {shown}, expected was {other}" in str(error)


# ---------------------------------------------------------------------- as requests says it


@pytest.mark.parametrize("status", [None, 403, 407, 502])
def test_the_error_is_the_one_of_requests(worker: Worker, ca_file: Path, status: int | None) -> None:
    """None is a port that refuses."""
    requests = pytest.importorskip("requests")
    with ExitStack() as stack:
        if status is None:
            port = stack.enter_context(refused_port()).port
        else:
            port = stack.enter_context(ScriptedServer(answers(reply(status)))).port
        error = refuse(dial(worker, origin_through(proxied("http", port), ca_file)))
        with pytest.raises(requests.exceptions.ConnectionError) as theirs:
            requests.get("https://localhost/", proxies={"https": f"http://127.0.0.1:{port}"}, timeout=5)
    assert type(error).__name__ == type(theirs.value).__name__ == "ProxyError"

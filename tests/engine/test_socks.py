"""SOCKS proxies: who resolves what, who is let in, and all that one can say that is not an answer."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncflow import ConnectionError as Failure
from syncflow import ConnectTimeout, ProxyError, SSLError, Timeouts
from syncflow.engine.dialer import Network
from syncflow.engine.origin import Origin
from syncflow.engine.worker import Worker
from syncflow.exceptions import InvalidProxyURL, InvalidSchema, RequestException
from syncflow.testing import (
    AppServer,
    Peer,
    ScriptedServer,
    SocksRequest,
    SocksServer,
    eventually,
    never_answers,
    pattern,
    refused_port,
)
from syncflow.testing.scripted import Script

from ..concurrency import Call
from .conftest import Wire
from .dialing import SOON, Client, dial, proxied, refuse, run, trust
from .rig import has_waiters

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("switching")]

SCHEMES = ["socks4", "socks4a", "socks5", "socks5h"]
ALL = pytest.mark.parametrize("scheme", SCHEMES)


def through(scheme: str, port: int, target: int = 80, host: str = "host.test", **more: Any) -> Origin:
    return Origin("http", host, target, proxy=proxied(scheme, port, **more))


def resolving(*addresses: str) -> Network:
    return Network(resolver=lambda host, port: addresses)


@ALL
def test_exchanges(worker: Worker, wire: Wire, ca_file: Path, scheme: str) -> None:
    body = pattern(300_000)
    hosts = {"localhost": "127.0.0.1"}
    with SocksServer(hosts=hosts) as proxy, AppServer(ssl_context=wire.server) as server, Client(worker) as client:
        origin = Origin("http", "localhost", server.port, proxy=proxied(scheme, proxy.port))
        if wire.server:
            origin = origin._replace(scheme="https", context=trust(ca_file))
        for _ in range(2):
            assert b'"length": 300000' in client.put(origin, body)[1]
        assert server.connections == proxy.connections == 1, "it is used again"
        assert all("proxy-authorization" not in request.headers for request in server.seen)


@ALL
def test_who_resolves_the_name(worker: Worker, scheme: str) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int) -> Iterator[str]:
        asked.append(host)
        yield "127.0.0.1"

    with SocksServer(hosts={"host.test": "127.0.0.1"}) as proxy, AppServer() as server:
        origin = through(scheme, proxy.port, server.port)
        with run(dial(worker, origin, Network(resolver=resolve))) as (transport, _):
            assert transport.where == f"host.test:{server.port}"
            assert transport.peer == proxy.address
        version = int(scheme[5])
        here = scheme in ("socks4", "socks5")
        host = "127.0.0.1" if here else "host.test"
        assert proxy.asked == [SocksRequest(version, host, server.port, by_name=not here)]
        assert asked == (["host.test"] if here else [])


@pytest.mark.parametrize(
    ("scheme", "host", "expected", "by_name"),
    [
        ("socks4", "127.0.0.1", "127.0.0.1", False),
        ("socks4a", "127.0.0.1", "127.0.0.1", False),
        ("socks4a", "::1", "::1", True),
        ("socks5", "::1%lo", "::1", False),
        ("socks5h", "::1%lo", "::1", False),
        ("socks5h", "127.0.0.1", "127.0.0.1", False),
    ],
)
def test_addresses_are_told_as_addresses(worker: Worker, scheme: str, host: str, expected: str, by_name: bool) -> None:
    if host.endswith("%lo") and socket.if_indextoname(1) != "lo":
        pytest.skip("the loopback interface has another name")
    with SocksServer(hosts={"::1": "127.0.0.1"}) as proxy, AppServer() as server:
        with run(dial(worker, through(scheme, proxy.port, server.port, host))):
            pass
        assert [(asked.host, asked.by_name) for asked in proxy.asked] == [(expected, by_name)]


def test_the_first_address_that_is_allowed(worker: Worker) -> None:
    """The filter is asked for the target's and for the proxy's; of the target's, one is enough."""
    judged: list[str] = []

    def judge(address: str) -> bool:
        judged.append(address)
        return address in ("127.0.0.1", "127.0.0.5")

    with SocksServer(hosts={"127.0.0.5": "127.0.0.1"}) as proxy, AppServer() as server:
        network = Network(resolver=lambda host, port: ["127.0.0.4", "127.0.0.5", "127.0.0.6"], address_filter=judge)
        with run(dial(worker, through("socks5", proxy.port, server.port), network)):
            pass
        assert proxy.targets == [("127.0.0.5", server.port)]
    assert judged == ["127.0.0.4", "127.0.0.5", "127.0.0.1"]


def test_no_address_is_allowed(worker: Worker) -> None:
    with SocksServer() as proxy:
        network = Network(resolver=lambda host, port: ["127.0.0.4"], address_filter=lambda address: False)
        error = refuse(dial(worker, through("socks5", proxy.port), network))
        assert proxy.connections == 0
    assert type(error) is Failure
    assert str(error) == "host.test:80: address_filter= allows none of the addresses (127.0.0.4); nothing was sent"


def test_a_target_that_is_redirected(worker: Worker) -> None:
    with SocksServer() as proxy, AppServer() as server:
        network = Network(resolve={"host.test:80": f"127.0.0.1:{server.port}"})
        with run(dial(worker, through("socks5", proxy.port), network)):
            pass
        assert proxy.targets == [("127.0.0.1", server.port)]


def test_version_4_passes_over_ipv6(worker: Worker) -> None:
    with SocksServer() as proxy, AppServer() as server:
        with run(dial(worker, through("socks4", proxy.port, server.port), resolving("::1", "127.0.0.1"))):
            pass
        assert proxy.targets == [("127.0.0.1", server.port)]
        error = refuse(dial(worker, through("socks4", proxy.port), resolving("::1")))
    assert type(error) is ProxyError
    assert error.phase == "dns"
    assert "SOCKS 4 knows no other; use socks5 or socks4a" in str(error)


def test_a_name_that_nobody_knows(worker: Worker) -> None:
    """It is not the proxy's fault."""
    with SocksServer() as proxy:
        error = refuse(dial(worker, through("socks5", proxy.port), resolving()))
        assert proxy.connections == 0
    assert type(error) is Failure
    assert str(error).startswith("host.test:80: the name cannot be resolved: no address")


# ---------------------------------------------------------------------- who is let in


@pytest.mark.parametrize("password", ["secret", "", "pä:ss" + "x" * 249], ids=["usual", "empty", "longest"])
def test_user_name_and_password(worker: Worker, password: str) -> None:
    with SocksServer(credentials=("user", password), hosts={"host.test": "127.0.0.1"}) as proxy, AppServer() as server:
        way = through("socks5h", proxy.port, server.port, username="user", password=password)
        with run(dial(worker, way)):
            pass
        assert len(proxy.asked) == 1


def test_a_user_name_of_version_4(worker: Worker) -> None:
    with SocksServer(credentials=("user", ""), hosts={"host.test": "127.0.0.1"}) as proxy, AppServer() as server:
        for scheme in ("socks4", "socks4a"):
            way = through(scheme, proxy.port, server.port, username="user", password="ignored")
            with run(dial(worker, way, resolving("127.0.0.1"))):
                pass
        assert {asked.username for asked in proxy.asked} == {"user"}
        error = refuse(dial(worker, through("socks4a", proxy.port, server.port, username="other")))
    assert "it refused the connection: request rejected or failed" in str(error)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "it wants credentials, as in socks5://user:password@host:port"),
        ({"username": "user", "password": "wrong"}, "it does not accept this user name with this password; check both"),
        ({"username": "other", "password": "secret"}, "it does not accept this user name with this password"),
    ],
    ids=["none", "password", "name"],
)
def test_who_is_not_let_in(worker: Worker, given: dict[str, str], expected: str) -> None:
    with SocksServer(credentials=("user", "secret")) as proxy:
        error = refuse(dial(worker, through("socks5h", proxy.port, **given)))
    assert type(error) is ProxyError
    assert error.phase == "proxy"
    assert str(error).startswith(f"host.test:80: proxy 127.0.0.1:{proxy.port}: ")
    assert expected in str(error)
    assert "secret" not in str(error)
    assert "wrong" not in str(error)


def test_one_that_wants_something_else(worker: Worker) -> None:
    with ScriptedServer(says(b"\x05\xff")) as proxy:
        error = refuse(dial(worker, through("socks5h", proxy.port, username="user")))
    assert "it accepts neither a user name and password nor a client without" in str(error)


# ---------------------------------------------------------------------- what it may say instead


@pytest.mark.parametrize(
    ("scheme", "code", "reason"),
    [
        ("socks5h", 1, "general server failure"),
        ("socks5h", 2, "connection not allowed by ruleset"),
        ("socks5h", 4, "host unreachable"),
        ("socks5h", 5, "connection refused"),
        ("socks5h", 8, "address type not supported"),
        ("socks5h", 77, "code 77"),
        ("socks4a", 91, "request rejected or failed"),
        ("socks4a", 92, "connection failed"),
    ],
)
def test_refusals(worker: Worker, scheme: str, code: int, reason: str) -> None:
    with SocksServer(refuse=code) as proxy:
        error = refuse(dial(worker, through(scheme, proxy.port)))
    assert type(error) is ProxyError
    assert error.phase == "proxy"
    where = f"host.test:80: proxy 127.0.0.1:{proxy.port}"
    assert str(error) == f"{where}: it refused the connection: {reason}; its log may say why"


@ALL
def test_a_target_that_refuses(worker: Worker, scheme: str) -> None:
    with SocksServer(hosts={"host.test": "127.0.0.1"}) as proxy, refused_port() as endpoint:
        error = refuse(dial(worker, through(scheme, proxy.port, endpoint.port), resolving("127.0.0.1")))
    assert type(error) is ProxyError
    assert "it refused the connection: " in str(error)


def says(*answers: bytes) -> Script:
    """One for each thing that is said to it, whatever that is; then it waits for the end."""

    def script(peer: Peer) -> None:
        for answer in answers:
            peer.read_exactly(3)
            peer.send(answer)
        peer.wait_closed()

    return script


def cut(*answers: bytes) -> Script:
    def script(peer: Peer) -> None:
        for answer in answers:
            peer.read_exactly(3)
            peer.send(answer)
        peer.half_close()
        peer.wait_closed()

    return script


NOT_SOCKS = "is it a SOCKS proxy, and of this version?"


@pytest.mark.parametrize(
    ("scheme", "script", "expected"),
    [
        (
            "socks5h",
            says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            f"its answer is not SOCKS (it begins with b'HT'); {NOT_SOCKS}",
        ),
        ("socks5h", says(b"\x04\x00"), NOT_SOCKS),
        ("socks5h", says(b"\x05\x07"), "its answer is not SOCKS (Malformed reply)"),
        ("socks5h", says(b"\x05\x02"), "it wants credentials"),  # though nobody offered that
        ("socks5h", says(b"\x05\x00", b"\x01\x00\x00\x01" + bytes(6)), NOT_SOCKS),
        ("socks5h", says(b"\x05\x00", b"\x05\x00\x00\x09" + bytes(6)), "there is no address of type 9"),
        ("socks5h", says(b"\x05\x00", b"\x05\x00\x00\x03\x02\xff\xff\x00\x00"), "its answer is not SOCKS"),
        ("socks5h", cut(), "it ended the connection 0 bytes into an answer of 2"),
        ("socks5h", cut(b"\x05"), "it ended the connection 1 bytes into an answer of 2"),
        ("socks5h", cut(b"\x05\x00", b"\x05\x00\x00\x01\x7f"), "it ended the connection 1 bytes into an answer of 6"),
        ("socks5h", cut(b"\x05\x00", b"\x05\x05\x00\x01"), "it refused the connection: connection refused"),
        ("socks4a", says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "its answer is not SOCKS (Malformed reply)"),
        ("socks4a", says(b"\x05\x00" + bytes(6)), NOT_SOCKS),
        ("socks4a", says(b"\x00\x00" + bytes(6)), NOT_SOCKS),
        ("socks4a", cut(b"\x00\x5a"), "it ended the connection 2 bytes into an answer of 8"),
    ],
)
def test_what_is_no_answer(worker: Worker, scheme: str, script: Script, expected: str) -> None:
    with ScriptedServer(script) as proxy:
        error = refuse(dial(worker, through(scheme, proxy.port)))
    assert type(error) is ProxyError
    assert error.phase == "proxy"
    assert expected in str(error)


def test_one_that_resets(worker: Worker) -> None:
    def script(peer: Peer) -> None:
        peer.read_exactly(3)
        peer.reset()

    with ScriptedServer(script) as proxy:
        error = refuse(dial(worker, through("socks5h", proxy.port)))
    assert type(error) is ProxyError
    assert "it ended the connection: " in str(error)
    assert isinstance(error.__cause__, ConnectionResetError)


@pytest.mark.parametrize("bound", ["0.0.0.0", "::1", "a-name.test", "x" * 255])
def test_whatever_address_it_names(worker: Worker, bound: str) -> None:
    with SocksServer(bound=bound, hosts={"host.test": "127.0.0.1"}) as proxy, AppServer() as server:
        with Client(worker) as client:
            assert client.get(through("socks5h", proxy.port, server.port))[0] == 200


@ALL
def test_what_comes_behind_the_answer_is_the_origins(worker: Worker, scheme: str) -> None:
    """In the same piece: an answer to a request that was not sent yet is not lost, nor is an alert of TLS."""
    greeting = b"220 welcome\r\n"
    with SocksServer(greeting=greeting, hosts={"host.test": "127.0.0.1"}) as proxy, AppServer() as server:
        with run(dial(worker, through(scheme, proxy.port, server.port), resolving("127.0.0.1"))) as (transport, _):
            with transport.receiving:
                assert transport.receive(100) == greeting
            assert not transport.closed


def test_nonsense_behind_the_answer_is_seen_by_tls(worker: Worker, ca_file: Path) -> None:
    with SocksServer(greeting=b"220 welcome\r\n", hosts={"host.test": "127.0.0.1"}) as proxy, AppServer() as server:
        origin = through("socks5h", proxy.port, server.port)._replace(scheme="https", context=trust(ca_file))
        error = refuse(dial(worker, origin))
    assert isinstance(error, SSLError)
    assert isinstance(error.__cause__, ssl.SSLError)


# ---------------------------------------------------------------------- before anything is sent


def test_the_package_is_missing(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    with SocksServer() as proxy:
        error = refuse(dial(worker, through("socks5h", proxy.port)))
        assert proxy.connections == 0
    assert isinstance(error, InvalidSchema)
    assert str(error) == (
        f"host.test:80: proxy 127.0.0.1:{proxy.port}: socks5h needs the package socksio: "
        "pip install syncflow[socks]; nothing was sent"
    )


@pytest.mark.parametrize(
    ("scheme", "more", "kind"),
    [
        ("socks5", {"username": "u" * 256}, InvalidProxyURL),
        ("socks5", {"username": "u", "password": "ä" * 128}, InvalidProxyURL),
        ("socks4a", {"username": "us\0er"}, InvalidProxyURL),
        ("socks5h", {"host": "h" * 256}, ProxyError),
        ("socks5h", {"host": "bücher.test"}, ProxyError),
        ("socks4a", {"host": "ho\0st"}, ProxyError),
    ],
)
def test_what_cannot_be_said_is_refused(
    worker: Worker, scheme: str, more: dict[str, str], kind: type[RequestException]
) -> None:
    with SocksServer() as proxy:
        error = refuse(dial(worker, through(scheme, proxy.port, **more)))
        assert proxy.connections == 0
    assert type(error) is kind
    assert "nothing was sent" in str(error)


# ---------------------------------------------------------------------- limits and calling off


def test_one_that_says_nothing(worker: Worker) -> None:
    with never_answers() as proxy:
        error = refuse(dial(worker, through("socks5h", proxy.port), timeouts=Timeouts(connect=SOON)))
        assert isinstance(error, ConnectTimeout)
        assert error.phase == "proxy"
        what = "being let through was not done after 0.05 s (Timeouts.connect)"
        assert str(error).startswith(f"host.test:80: proxy 127.0.0.1:{proxy.port}: {what}")
        made = dial(worker, through("socks4a", proxy.port), timeouts=Timeouts(connect=None))
        call = Call(made.run)
        eventually(lambda: has_waiters(made.cond))
        called_off = RequestException("called off")
        made.cancel(called_off)
        assert call.error() is called_off


def test_one_that_trickles(worker: Worker) -> None:
    """A byte at a time, each for itself."""
    answers = [b"\x05\x00", b"\x05\x00\x00\x01" + bytes(6)]

    def script(peer: Peer) -> None:
        for answer in answers:
            peer.read_exactly(3)
            peer.send_slowly(answer[at : at + 1] for at in range(len(answer)))
        peer.wait_closed()

    with ScriptedServer(script) as proxy:
        proxy.step(sum(map(len, answers)))
        with run(dial(worker, through("socks5h", proxy.port))) as (transport, _):
            assert transport.is_quiet(), "not a byte more was there"

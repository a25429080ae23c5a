"""What a user says of how connections are made: other addresses, a filter, a resolver, a source, options."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from syncflow import ConnectionError as Failure
from syncflow import ConnectTimeout, ProxyError, SSLError, Timeouts
from syncflow.engine import race
from syncflow.engine.dialer import Network
from syncflow.engine.origin import Origin
from syncflow.engine.worker import Worker
from syncflow.testing import AppServer, HTTPProxy, eventually, full_backlog, refused_port

from ..concurrency import Call
from .dialing import SOON, Client, dial, proxied, refuse, run, trust
from .rig import PATIENCE, has_waiters

pytestmark = pytest.mark.usefixtures("switching")


# ---------------------------------------------------------------------- what makes no sense


@pytest.mark.parametrize(
    "wrong",
    [
        {"resolve": {"host": "10.0.0.7"}},
        {"resolve": {"host:0": "10.0.0.7"}},
        {"resolve": {"host:65536": "10.0.0.7"}},
        {"resolve": {":443": "10.0.0.7"}},
        {"resolve": {"::1:443": "10.0.0.7"}},
        {"resolve": {"host:443": "other.test"}},
        {"resolve": {"host:443": "other.test:443"}},
        {"resolve": {"host:443": "10.0.0.7:"}},
        {"resolve": {"host:443": "10.0.0.7:99999"}},
        {"resolve": {"host:443": ""}},
        {"source_address": ("localhost", 0)},
        {"source_address": ("127.0.0.1", 70_000)},
        {"source_address": ("127.0.0.1",)},
        {"source_address": "127.0.0.1"},
        {"socket_options": [(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]},
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        Network(**wrong)


@pytest.mark.parametrize("name", ["address_filter", "resolver"])
def test_what_is_no_function(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}= is a function or None, not 'x'"):
        Network(**{name: "x"})  # type: ignore[arg-type]


# ---------------------------------------------------------------------- resolve


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("host:443", "10.0.0.7", ("10.0.0.7", 443)),
        ("Host:443", "10.0.0.7:8443", ("10.0.0.7", 8443)),
        ("host:443", "::1", ("::1", 443)),
        ("host:443", "[::1]:8443", ("::1", 8443)),
        ("host:443", "fe80::1%lo", ("fe80::1%lo", 443)),
    ],
)
def test_where_else_to_connect(key: str, value: str, expected: tuple[str, int]) -> None:
    network = Network(resolve={key: value})
    assert network.redirected("host", 443) == expected
    assert network.redirected("host", 444) == ("host", 444)
    assert network.redirected("other", 443) == ("other", 443)


def test_an_ipv6_key_stands_in_brackets() -> None:
    assert Network(resolve={"[::1]:443": "10.0.0.7"}).redirected("::1", 443) == ("10.0.0.7", 443)


def test_what_the_mapping_becomes_later_does_not_count() -> None:
    resolve = {"host:443": "10.0.0.7"}
    network = Network(resolve=resolve)
    resolve.clear()
    assert network.redirected("host", 443) == ("10.0.0.7", 443)


def test_another_address_and_the_same_name(worker: Worker, ca_file: Path, server_tls: ssl.SSLContext) -> None:
    """SNI, the certificate's name and the Host field are those of the URL."""
    with AppServer(ssl_context=server_tls) as server:
        network = Network(resolve={"localhost:443": f"127.0.0.1:{server.port}", "wrong.test:443": server.url[8:]})
        with Client(worker, network) as client:
            assert client.get(Origin("https", "localhost", 443, trust(ca_file)))[0] == 200
        (request,) = server.seen
        assert request.headers["host"] == "localhost:443"
        error = refuse(dial(worker, Origin("https", "wrong.test", 443, trust(ca_file)), network))
    assert isinstance(error, SSLError)
    assert "Hostname mismatch" in str(error)


def test_a_proxys_name_is_resolved_the_same_way(worker: Worker) -> None:
    with AppServer() as server:
        network = Network(resolve={"proxy.test:3128": f"127.0.0.1:{server.port}"})
        origin = Origin("http", "host.test", 80, proxy=proxied("http", 3128)._replace(host="proxy.test"))
        with run(dial(worker, origin, network)) as (transport, _):
            assert transport.peer == server.address


# ---------------------------------------------------------------------- address_filter


class Filter:
    """Remembers what it was asked, and where."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed
        self.asked: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.under_lock: list[bool] = []
        self.dial: Any = None

    def __call__(self, address: str) -> bool:
        self.asked.append(address)
        self.threads.add(threading.current_thread())
        if self.dial is not None:
            # Another thread can take it: nobody holds it.
            self.under_lock.append(Call(self.dial.lock.acquire, blocking=False).result() is False)
        return address in self.allowed


def test_only_what_is_allowed_is_tried(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "ATTEMPT_DELAY", 3600.0)
    with AppServer() as server:
        judge = Filter("127.0.0.1")
        network = Network(resolver=lambda host, port: ["127.0.0.2", "::1", "127.0.0.1"], address_filter=judge)
        with run(dial(worker, Origin("http", "host.test", server.port), network)) as (transport, _):
            assert transport.peer == server.address
    assert judge.asked == ["127.0.0.2", "::1", "127.0.0.1"]


def test_it_is_asked_in_the_callers_thread_without_a_lock(worker: Worker) -> None:
    judge = Filter()
    judge.dial = dial(worker, Origin("http", "127.0.0.1", 9), Network(address_filter=judge))
    refuse(judge.dial)
    assert judge.threads == {threading.current_thread()}
    assert judge.under_lock == [False]


def test_nothing_is_allowed(worker: Worker) -> None:
    with AppServer() as server:
        network = Network(resolver=lambda host, port: ["127.0.0.1", "127.0.0.2"], address_filter=Filter())
        error = refuse(dial(worker, Origin("http", "host.test", server.port), network))
        assert server.connections == 0
    assert type(error) is Failure
    assert error.phase == "connect"
    what = "address_filter= allows none of the addresses (127.0.0.1, 127.0.0.2); nothing was sent"
    assert str(error) == f"host.test:{server.port}: {what}"


def test_what_is_allowed_fails(worker: Worker) -> None:
    with refused_port() as endpoint:
        judge = Filter("127.0.0.1")
        network = Network(resolver=lambda host, port: ["127.0.0.1", "127.0.0.2"], address_filter=judge)
        error = refuse(dial(worker, Origin("http", "host.test", endpoint.port), network))
    assert "(127.0.0.1: Connection refused; 127.0.0.2: not allowed by address_filter=)" in str(error)
    assert isinstance(error.__cause__, ConnectionRefusedError)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::1%1", "::1"),
        ("::FFFF:127.0.0.1", "::ffff:127.0.0.1"),
    ],
)
def test_it_sees_an_address_in_its_shortest_form(worker: Worker, host: str, shown: str) -> None:
    """One that is written in another way must not slip through."""
    judge = Filter()
    refuse(dial(worker, Origin("http", host, 9), Network(address_filter=judge)))
    assert judge.asked == [shown]


def test_it_is_asked_for_proxies_and_redirections_too(worker: Worker) -> None:
    judge = Filter()
    network = Network(resolve={"host.test:80": "127.0.0.5"}, address_filter=judge)
    refuse(dial(worker, Origin("http", "host.test", 80), network))
    error = refuse(dial(worker, Origin("http", "host.test", 80, proxy=proxied("http", 9)), network))
    assert judge.asked == ["127.0.0.5", "127.0.0.1"]
    assert isinstance(error, ProxyError)
    assert str(error).startswith("host.test:80: proxy 127.0.0.1:9: address_filter= allows none")


def test_a_filter_that_raises(worker: Worker) -> None:
    """It is the caller's own error; the attempt before it is closed."""

    def judge(address: str) -> bool:
        if address == "127.0.0.2":
            raise LookupError(address)
        return True

    with full_backlog() as hangs:
        network = Network(resolver=lambda host, port: ["127.0.0.1", "127.0.0.2"], address_filter=judge)
        with pytest.raises(LookupError):
            dial(worker, Origin("http", "host.test", hangs.port), network).run()


# ---------------------------------------------------------------------- resolver


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ("127.0.0.1", "127.0.0.1"),
        [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))],
    ],
    ids=["text", "twice", "getaddrinfo"],
)
def test_a_resolver_of_the_users(worker: Worker, answer: Any) -> None:
    asked: list[tuple[str, int]] = []
    threads: list[str] = []
    with AppServer() as server:

        def resolve(host: str, port: int) -> Iterator[Any]:
            asked.append((host, port))
            threads.append(threading.current_thread().name)
            for found in answer:
                yield found if isinstance(found, str) else (*found[:4], ("127.0.0.1", server.port))

        with run(dial(worker, Origin("http", "host.test", server.port), Network(resolver=resolve))) as (transport, _):
            assert transport.peer == server.address
    assert asked == [("host.test", server.port)]
    assert threads == ["syncflow-resolver host.test"]


def test_it_is_not_asked_about_an_address(worker: Worker) -> None:
    def resolve(host: str, port: int) -> list[str | tuple[Any, ...]]:
        raise AssertionError("it was asked")

    with AppServer() as server, run(dial(worker, Origin("http", "127.0.0.1", server.port), Network(resolver=resolve))):
        pass


class Unwell(BaseException):
    """No Exception."""


@pytest.mark.parametrize("error", [LookupError("no such host"), SystemExit(3), Unwell("x")], ids=repr)
def test_what_it_raises_is_the_cause(worker: Worker, error: BaseException) -> None:
    def resolve(host: str, port: int) -> list[str | tuple[Any, ...]]:
        raise error

    for _ in range(2):  # the second is not stuck with the first one's question
        failure = refuse(dial(worker, Origin("http", "host.test", 80), Network(resolver=resolve)))
        assert type(failure) is Failure
        assert failure.phase == "dns"
        assert failure.__cause__ is error
        assert f"the name cannot be resolved: {error}" in str(failure)


@pytest.mark.parametrize("answer", [[], ["other.test"], ["127.0.0.1:80"], [("127.0.0.1", 80)], [7], 7, None], ids=repr)
def test_an_answer_in_which_there_is_no_address(worker: Worker, answer: Any) -> None:
    failure = refuse(dial(worker, Origin("http", "host.test", 80), Network(resolver=lambda host, port: answer)))
    assert type(failure) is Failure
    assert failure.phase == "dns"
    assert (failure.__cause__ is None) == (answer == [])


def test_one_that_is_stuck_costs_nobody_his_deadline(worker: Worker) -> None:
    gate = threading.Event()

    def resolve(host: str, port: int) -> list[str | tuple[Any, ...]]:
        assert gate.wait(PATIENCE)
        return []

    network = Network(resolver=resolve)
    error = refuse(dial(worker, Origin("http", "host.test", 80), network, timeouts=Timeouts(connect=SOON)))
    gate.set()
    assert isinstance(error, ConnectTimeout)
    assert error.phase == "dns"


def test_two_resolvers_do_not_answer_for_one_another(worker: Worker) -> None:
    """And one that cannot be hashed is no worse."""

    class Resolver:
        __hash__ = None  # type: ignore[assignment]

        def __init__(self, *found: str) -> None:
            self.found = found
            self.gate = threading.Event()

        def __call__(self, host: str, port: int) -> tuple[str, ...]:
            assert self.gate.wait(PATIENCE)
            return self.found

    with AppServer() as server:
        good, bad = Resolver("127.0.0.1"), Resolver()
        dials = [dial(worker, Origin("http", "host.test", server.port), Network(resolver=r)) for r in (good, bad)]
        calls = [Call(made.run) for made in dials]
        eventually(lambda: all(has_waiters(made.cond) for made in dials))
        good.gate.set()
        bad.gate.set()
        calls[0].result()[0].close()
        assert isinstance(calls[1].error(), Failure)


# ---------------------------------------------------------------------- source and options


def test_where_it_connects_from(worker: Worker) -> None:
    with AppServer() as server:
        network = Network(source_address=("127.0.0.3", 0))
        with run(dial(worker, Origin("http", "127.0.0.1", server.port), network)) as (transport, _):
            assert transport._sock.getsockname()[0] == "127.0.0.3"


def test_a_source_that_is_not_here(worker: Worker) -> None:
    with AppServer() as server:
        network = Network(source_address=("192.0.2.1", 0))
        error = refuse(dial(worker, Origin("http", "127.0.0.1", server.port), network))
        assert server.connections == 0
    assert type(error) is Failure
    assert "127.0.0.1: source_address=('192.0.2.1', 0): Cannot assign requested address" in str(error)


def test_addresses_of_the_other_family_than_the_sources_are_passed_over(worker: Worker) -> None:
    with AppServer() as server:
        network = Network(source_address=("127.0.0.1", 0), resolver=lambda host, port: ["::1", "127.0.0.1"])
        with run(dial(worker, Origin("http", "host.test", server.port), network)) as (transport, _):
            assert transport.peer == server.address


def test_the_users_options_come_after_ours(worker: Worker) -> None:
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0), (socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
    with AppServer() as server:
        origin = Origin("http", "127.0.0.1", server.port)
        with run(dial(worker, origin, Network(socket_options=options))) as (transport, _):
            assert not transport._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert transport._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * 4096  # socket(7)
            assert transport._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_an_option_that_the_system_does_not_know(worker: Worker) -> None:
    network = Network(socket_options=[(socket.SOL_SOCKET, 9999, 1)])
    error = refuse(dial(worker, Origin("http", "127.0.0.1", 9), network))
    assert "127.0.0.1: socket option (1, 9999, 1): Protocol not available" in str(error)


def test_an_option_that_is_none(worker: Worker) -> None:
    network = Network(socket_options=[(socket.SOL_SOCKET, "x", 1)])
    with pytest.raises(TypeError):
        dial(worker, Origin("http", "127.0.0.1", 9), network).run()


# ---------------------------------------------------------------------- zones


@contextmanager
def ipv6_listener() -> Iterator[socket.socket]:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6 here")
    with listener:
        listener.settimeout(PATIENCE)
        yield listener


@pytest.mark.parametrize("zone", ["lo", "1"])
def test_a_zone_becomes_a_scope(worker: Worker, ca_file: Path, server_tls: ssl.SSLContext, zone: str) -> None:
    """And is no part of the name that the certificate bears."""
    if zone not in (socket.if_indextoname(1), "1"):
        pytest.skip("the loopback interface has another name")
    with ipv6_listener() as listener:

        def serve() -> None:
            with server_tls.wrap_socket(listener.accept()[0], server_side=True) as sock:
                sock.recv(1)

        served = Call(serve)
        origin = Origin("https", f"::1%{zone}", listener.getsockname()[1], trust(ca_file))
        with run(dial(worker, origin)) as (transport, _):
            assert transport.where == f"[::1%{zone}]:{origin.port}"
            assert transport._sock.getpeername()[0] == "::1"
    assert served.error() is None or isinstance(served.error(), OSError)


def test_a_zone_that_does_not_exist(worker: Worker) -> None:
    def resolve(host: str, port: int) -> list[str | tuple[Any, ...]]:
        raise AssertionError("it is no name")

    error = refuse(dial(worker, Origin("http", "fe80::1%no-such-zone", 80), Network(resolver=resolve)))
    assert type(error) is Failure
    assert error.phase == "dns"
    assert str(error).startswith("[fe80::1%no-such-zone]:80: the name cannot be resolved")


def test_a_proxy_is_told_no_zone(worker: Worker, ca_file: Path) -> None:
    with HTTPProxy(credentials=("a", "b")) as proxy:
        refuse(dial(worker, Origin("https", "fe80::1%lo", 443, trust(ca_file), proxied("http", proxy.port))))
        assert [request.target for request in proxy.seen] == ["[fe80::1]:443"]

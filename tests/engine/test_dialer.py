"""Setting up: which addresses are tried and when, what can go wrong in each phase, who can call it off."""

from __future__ import annotations

import errno
import functools
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from syncflow import ConnectionError as Failure
from syncflow import ConnectTimeout, SSLError, Timeouts, TotalTimeout, Watermarks
from syncflow.engine import race, resolver
from syncflow.engine.attempt import Attempt
from syncflow.engine.deadline import Deadline
from syncflow.engine.dialer import Dial
from syncflow.engine.origin import Origin
from syncflow.engine.race import Race, interleave
from syncflow.engine.resolver import Address
from syncflow.engine.timings import Setup
from syncflow.engine.tls import client_context
from syncflow.engine.transport import Transport
from syncflow.engine.worker import WRITE, Worker
from syncflow.exceptions import RequestException
from syncflow.testing import AppServer, eventually, full_backlog, never_answers, refused_port

from ..concurrency import Call
from .rig import PATIENCE, has_waiters, run_on

Cancel = functools.partial(RequestException, "called off")

# Longer than any test waits: what depends on it would be seen to hang.
NEVER = 3600.0
SOON = 0.05
# What ends a test that would otherwise hang.
BOUNDED = Timeouts(connect=PATIENCE)


def dial_to(worker: Worker, port: int, timeouts: Timeouts = BOUNDED, **origin: Any) -> Dial:
    where = Origin(origin.pop("scheme", "http"), origin.pop("host", "127.0.0.1"), port, origin.pop("context", None))
    assert not origin
    return Dial(worker, where, Deadline(timeouts), Watermarks())


@contextmanager
def run(dial: Dial) -> Iterator[tuple[Transport, Setup]]:
    transport, setup = dial.run()
    try:
        yield transport, setup
    finally:
        transport.close()


def refuse(dial: Dial) -> RequestException:
    """The error in which it ends."""
    try:
        dial.run()[0].close()
    except RequestException as error:
        return error
    raise AssertionError("it has connected")


class Names:
    """Stands for the system's resolver."""

    def __init__(self) -> None:
        self.addresses: list[Address] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.before: Callable[[], None] = lambda: None
        self.threads: list[threading.Thread] = []

    def lead_to(self, *ports: int | tuple[str, int]) -> None:
        targets = [("127.0.0.1", target) if isinstance(target, int) else target for target in ports]
        self.addresses = [(socket.AF_INET, target) for target in targets]

    def getaddrinfo(self, host: str, port: int, **options: Any) -> list[Any]:
        self.threads.append(threading.current_thread())
        self.before()
        assert self.gate.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in self.addresses]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(resolver.socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.gate.set()
    for thread in names.threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ports that were tried, in their order."""
    ports: list[int] = []
    begin = Race._begin

    def spy(self: Race, address: Address) -> bool:
        ports.append(address[1][1])
        return begin(self, address)

    monkeypatch.setattr(Race, "_begin", spy)
    return ports


# ---------------------------------------------------------------------- the order of addresses


def v4(number: int) -> Address:
    return socket.AF_INET, (f"192.0.2.{number}", 80)


def v6(number: int) -> Address:
    return socket.AF_INET6, (f"2001:db8::{number}", 80, 0, 0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        ([v4(1)], [v4(1)]),
        ([v4(1), v4(2)], [v4(1), v4(2)]),
        ([v6(1), v6(2), v4(1), v4(2)], [v6(1), v4(1), v6(2), v4(2)]),
        ([v4(1), v6(1), v6(2), v6(3)], [v4(1), v6(1), v6(2), v6(3)]),
        ([v6(1), v6(2), v6(3), v4(1)], [v6(1), v4(1), v6(2), v6(3)]),
    ],
)
def test_the_families_take_turns(given: list[Address], expected: list[Address]) -> None:
    assert interleave(given) == expected


# ---------------------------------------------------------------------- the race


def test_the_next_address_begins_while_the_first_hangs(
    worker: Worker, names: Names, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "ATTEMPT_DELAY", SOON)
    with full_backlog() as hangs, AppServer() as server:
        names.lead_to(hangs.port, server.port)
        with run(dial_to(worker, 80, host="name.test")) as (transport, _):
            assert transport.peer == server.address
        assert tried == [hangs.port, server.port]


def test_the_first_has_a_head_start(
    worker: Worker, names: Names, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "ATTEMPT_DELAY", NEVER)
    with AppServer() as first, AppServer() as second:
        names.lead_to(first.port, second.port)
        with run(dial_to(worker, 80, host="name.test")) as (transport, _):
            assert transport.peer == first.address
        assert tried == [first.port]
        assert second.connections == 0


def test_a_refusal_makes_way_at_once(
    worker: Worker, names: Names, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "ATTEMPT_DELAY", NEVER)
    with refused_port() as refuses, AppServer() as server:
        names.lead_to(refuses.port, server.port)
        with run(dial_to(worker, 80, host="name.test")) as (transport, _):
            assert transport.peer == server.address
        assert tried == [refuses.port, server.port]


def test_a_refusal_while_another_hangs_makes_way_too(
    worker: Worker, names: Names, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third begins because the second failed, not because its time has come."""
    delays = iter([SOON])
    begin = Race._begin

    def later(self: Race, address: Address) -> bool:
        monkeypatch.setattr(race, "ATTEMPT_DELAY", next(delays, NEVER))
        return begin(self, address)

    monkeypatch.setattr(Race, "_begin", later)
    with full_backlog() as hangs, refused_port() as refuses, AppServer() as server:
        names.lead_to(hangs.port, refuses.port, server.port)
        with run(dial_to(worker, 80, host="name.test")) as (transport, _):
            assert transport.peer == server.address
        assert tried == [hangs.port, refuses.port, server.port]


def test_a_family_that_the_system_lacks_makes_way(
    worker: Worker, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "ATTEMPT_DELAY", NEVER)

    class NoIPv6(socket.socket):
        def __init__(self, family: int = -1, *rest: Any, **named: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "not here")
            super().__init__(family, *rest, **named)

    with AppServer() as server:
        names.addresses = [v6(1), (socket.AF_INET, server.address)]
        dial = dial_to(worker, 80, host="name.test")
        monkeypatch.setattr(race.socket, "socket", NoIPv6)
        with run(dial) as (transport, _):
            assert transport.peer == server.address


def test_all_refused(worker: Worker, names: Names) -> None:
    with refused_port() as first, refused_port() as second:
        names.lead_to(("127.0.0.1", first.port), ("127.0.0.2", second.port))
        error = refuse(dial_to(worker, 80, host="name.test"))
    assert isinstance(error, Failure)
    assert not isinstance(error, ConnectTimeout)
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert error.phase == "connect"
    message = str(error)
    assert message.startswith("name.test:80: no connection (127.0.0.1: Connection refused; 127.0.0.2: Connection")
    assert "is the server running" in message


class Slow(socket.socket):
    """Connects as over a network: it is not done by the second call."""

    _asked = False

    def connect_ex(self, address: Any) -> int:
        if self._asked:
            return errno.EALREADY
        self._asked = True
        return super().connect_ex(address)


def test_a_connection_that_takes_its_time(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over loopback connecting is done at once, and the worker is never asked. It is to tell what it saw once, and not
    to spin until the caller has come to it."""
    told: list[int] = []
    on_ready, has_connected = Attempt.on_ready, Race._has_connected

    def spy(self: Attempt, events: int) -> None:
        told.append(events)
        on_ready(self, events)

    def take_time(self: Race, *rest: Any) -> bool:
        for _ in range(3):
            run_on(worker, lambda: None)
        return has_connected(self, *rest)

    with AppServer() as server:
        dial = dial_to(worker, server.port)
        monkeypatch.setattr(Attempt, "on_ready", spy)
        monkeypatch.setattr(Race, "_has_connected", take_time)
        monkeypatch.setattr(race.socket, "socket", Slow)
        with run(dial) as (transport, _):
            assert transport.peer == server.address
    assert told == [WRITE]


def test_a_refusal_that_takes_its_time(worker: Worker) -> None:
    """The first SYN is dropped; the next, a second later, finds nobody."""
    with ExitStack() as stack:
        endpoint = stack.enter_context(full_backlog())
        dial = dial_to(worker, endpoint.port)
        call = Call(dial.run)
        eventually(lambda: has_waiters(dial.cond))
        stack.close()
        error = call.error()
    assert isinstance(error, Failure)
    assert isinstance(error.__cause__, ConnectionRefusedError)


# ---------------------------------------------------------------------- the limits


def test_connecting_ends_in_time(worker: Worker) -> None:
    with full_backlog() as endpoint:
        error = refuse(dial_to(worker, endpoint.port, Timeouts(connect=SOON)))
    assert isinstance(error, ConnectTimeout)
    assert error.phase == "connect"
    assert str(error).startswith(f"127.0.0.1:{endpoint.port}: connecting was not done after 0.05 s (Timeouts.connect)")


def test_all_addresses_share_the_limit(worker: Worker, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "ATTEMPT_DELAY", SOON / 5)
    with full_backlog() as first, full_backlog() as second:
        names.lead_to(first.port, second.port)
        assert isinstance(refuse(dial_to(worker, 80, Timeouts(connect=SOON), host="name.test")), ConnectTimeout)


def in_dns(stack: ExitStack, names: Names) -> dict[str, Any]:
    names.gate.clear()
    return {"port": 80, "host": "name.test"}


def in_connect(stack: ExitStack, names: Names) -> dict[str, Any]:
    return {"port": stack.enter_context(full_backlog()).port}


def in_tls(stack: ExitStack, names: Names) -> dict[str, Any]:
    server = stack.enter_context(never_answers())
    return {"port": server.port, "scheme": "https", "context": client_context(False)}


PHASES = pytest.mark.parametrize("stuck", [in_dns, in_connect, in_tls])
Stuck = Callable[[ExitStack, Names], dict[str, Any]]


@PHASES
def test_each_phase_ends_in_time(worker: Worker, names: Names, stuck: Stuck) -> None:
    doing = {"dns": "resolving the name", "connect": "connecting", "tls": "the TLS handshake"}
    with ExitStack() as stack:
        target = stuck(stack, names)
        error = refuse(dial_to(worker, timeouts=Timeouts(connect=SOON), **target))
    assert isinstance(error, ConnectTimeout)
    assert error.phase == stuck.__name__.removeprefix("in_")
    assert f": {doing[error.phase]} was not done after 0.05 s (Timeouts.connect)" in str(error)
    assert "nothing was sent" in str(error)


@PHASES
def test_the_total_ends_each_phase(worker: Worker, names: Names, stuck: Stuck) -> None:
    with ExitStack() as stack:
        target = stuck(stack, names)
        error = refuse(dial_to(worker, timeouts=Timeouts(connect=PATIENCE, total=SOON), **target))
    assert isinstance(error, TotalTimeout)
    assert error.phase == stuck.__name__.removeprefix("in_")


@PHASES
def test_each_phase_can_be_called_off(worker: Worker, names: Names, stuck: Stuck) -> None:
    with ExitStack() as stack:
        target = stuck(stack, names)
        dial = dial_to(worker, timeouts=Timeouts(connect=None), **target)
        call = Call(dial.run)
        eventually(lambda: has_waiters(dial.cond))
        assert not call.ended
        error = Cancel()
        dial.cancel(error)
        assert call.error() is error


def test_what_was_called_off_before_never_connects(worker: Worker) -> None:
    with AppServer() as server:
        dial = dial_to(worker, server.port)
        error = Cancel()
        dial.cancel(error)
        assert refuse(dial) is error


# ---------------------------------------------------------------------- names


def test_a_resolver_that_is_stuck_costs_nobody_his_deadline(worker: Worker, names: Names) -> None:
    names.gate.clear()
    error = refuse(dial_to(worker, 80, Timeouts(connect=SOON), host="name.test"))
    assert isinstance(error, ConnectTimeout)
    (thread,) = names.threads
    assert thread.is_alive(), "it is stuck for as long as it likes"
    assert resolver._under_way["name.test", 80, id(None)]._listeners == [], "nobody listens any more"
    with AppServer() as server:
        with run(dial_to(worker, server.port)) as (transport, _):
            assert transport.peer == server.address
        # The late answer is nobody's.
        names.lead_to(server.port)
        names.gate.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        with run(dial_to(worker, 80, host="name.test")) as (transport, _):
            assert transport.peer == server.address
        server.wait_for_connections(2)


def test_two_who_dial_the_same_name_ask_once(worker: Worker, names: Names) -> None:
    names.gate.clear()
    with AppServer() as server:
        names.lead_to(server.port)
        dials = [dial_to(worker, 80, host="name.test") for _ in range(2)]
        calls = [Call(dial.run) for dial in dials]
        eventually(lambda: all(has_waiters(dial.cond) for dial in dials))
        names.gate.set()
        for call in calls:
            call.result()[0].close()
    assert len(names.threads) == 1


@pytest.mark.parametrize(
    "error",
    [socket.gaierror(socket.EAI_NONAME, "Name or service not known"), UnicodeError("label too long")],
    ids=["unknown", "impossible"],
)
def test_a_name_that_nobody_knows(worker: Worker, names: Names, error: Exception) -> None:
    names.error = error
    failure = refuse(dial_to(worker, 80, host="name.test"))
    assert type(failure) is Failure
    assert failure.phase == "dns"
    assert failure.__cause__ is error
    assert str(failure).startswith(f"name.test:80: the name cannot be resolved: {error}; ")


def test_a_name_without_an_address(worker: Worker, names: Names) -> None:
    failure = refuse(dial_to(worker, 80, host="name.test"))
    assert type(failure) is Failure
    assert "the name cannot be resolved: no address" in str(failure)


# ---------------------------------------------------------------------- TLS


def secure(worker: Worker, server: AppServer, context: ssl.SSLContext, host: str = "localhost") -> Dial:
    return dial_to(worker, server.port, scheme="https", host=host, context=context)


def test_the_server_sees_the_name_and_the_protocol(
    worker: Worker, names: Names, ca_file: Path, server_certificate: trustme.LeafCert
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_certificate.configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    seen: list[str | None] = []

    def remember(sock: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        seen.append(name)

    context.sni_callback = remember
    with AppServer(ssl_context=context) as server:
        names.lead_to(server.port)
        with run(secure(worker, server, client_context(str(ca_file)))) as (transport, _):
            sock: Any = transport._sock
            assert sock.selected_alpn_protocol() == "http/1.1"
            assert sock.version() in ("TLSv1.2", "TLSv1.3")
    assert seen == ["localhost"]


def test_a_certificate_for_another_name(
    worker: Worker, names: Names, ca_file: Path, server_tls: ssl.SSLContext
) -> None:
    with AppServer(ssl_context=server_tls) as server:
        names.lead_to(server.port)
        error = refuse(secure(worker, server, client_context(str(ca_file)), host="wrong.test"))
    check_rejected(error, "wrong.test")
    assert "Hostname mismatch" in str(error)
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


def test_an_authority_that_nobody_trusts(worker: Worker, names: Names, server_tls: ssl.SSLContext) -> None:
    with AppServer(ssl_context=server_tls) as server:
        names.lead_to(server.port)
        error = refuse(secure(worker, server, client_context(True)))
        check_rejected(error, "localhost")
        assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
        with run(secure(worker, server, client_context(False))):
            pass  # whoever asks for no check gets none


def test_a_version_that_is_too_old(
    worker: Worker, names: Names, server_certificate: trustme.LeafCert, ca: trustme.CA
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_certificate.configure_cert(context)
    allow_tls_1_1(context)
    with AppServer(ssl_context=context) as server:
        names.lead_to(server.port)
        error = refuse(secure(worker, server, client_context(False)))
        check_rejected(error, "localhost")
        assert "version" in str(error).lower()
        # It is the version, and nothing else: who accepts that gets through.
        lax = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ca.configure_trust(lax)
        allow_tls_1_1(lax)
        with run(secure(worker, server, lax)) as (transport, _):
            assert transport._sock.version() == "TLSv1.1"  # type: ignore[attr-defined]


def allow_tls_1_1(context: ssl.SSLContext) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")


def check_rejected(error: RequestException, host: str) -> None:
    assert isinstance(error, SSLError)
    assert error.phase == "tls"
    assert str(error).startswith(f"{host}:")
    assert ": the TLS handshake failed: " in str(error)
    assert "verify= takes a file of certificate authorities to trust" in str(error)


def test_a_server_that_speaks_no_tls(worker: Worker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        call = Call(dial_to(worker, port, scheme="https", context=client_context(False)).run)
        listener.settimeout(PATIENCE)
        with listener.accept()[0] as far:
            far.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            error = call.error()
    assert isinstance(error, SSLError)


def test_a_server_that_leaves_in_the_handshake(worker: Worker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        call = Call(dial_to(worker, port, scheme="https", context=client_context(False)).run)
        listener.settimeout(PATIENCE)
        listener.accept()[0].close()
        error = call.error()
    assert isinstance(error, SSLError)


def test_a_name_that_tls_cannot_take(worker: Worker, names: Names, server_tls: ssl.SSLContext) -> None:
    with AppServer(ssl_context=server_tls) as server:
        names.lead_to(server.port)
        error = refuse(secure(worker, server, client_context(False), host=".leading.dot"))
    assert isinstance(error, SSLError)
    assert isinstance(error.__cause__, ValueError)


# ---------------------------------------------------------------------- what comes of it


def test_the_sockets_options(worker: Worker) -> None:
    with AppServer() as server, run(dial_to(worker, server.port)) as (transport, _):
        sock = transport._sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.gettimeout() == 0.0
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == race.PROBE_AFTER


class Clock:
    """Moves only where the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_how_long_each_step_took(
    worker: Worker,
    names: Names,
    ca_file: Path,
    server_certificate: trustme.LeafCert,
    monkeypatch: pytest.MonkeyPatch,
    secured: bool,
) -> None:
    clock = Clock()
    context = None
    if secured:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_certificate.configure_cert(context)
        # Called by the server's side in the middle of the handshake.
        context.sni_callback = lambda *_: clock.advance(4)  # type: ignore[assignment]
    names.before = lambda: clock.advance(1)
    begin = Race._begin

    def slowly(self: Race, address: Address) -> bool:
        clock.advance(2)
        return begin(self, address)

    monkeypatch.setattr(Race, "_begin", slowly)
    with AppServer(ssl_context=context) as server:
        names.lead_to(server.port)
        trust = client_context(str(ca_file)) if secured else None
        origin = Origin("https" if secured else "http", "localhost", server.port, trust)
        dial = Dial(worker, origin, Deadline(Timeouts(connect=None), clock), Watermarks())
        with run(dial) as (_, setup):
            assert setup == Setup(dns=1.0, connect=2.0, tls=4.0 if secured else 0.0)

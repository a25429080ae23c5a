"""TLS in TLS: a layer over a layer, as one non-blocking socket; every byte in its place, every end told."""

from __future__ import annotations

import hashlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trustme

from syncflow import Timeouts, Watermarks
from syncflow.engine.deadline import Deadline
from syncflow.engine.dialer import Dial
from syncflow.engine.nested_tls import NestedTLS
from syncflow.engine.origin import Origin
from syncflow.engine.tls import TLSTransport
from syncflow.engine.worker import Worker
from syncflow.exceptions import RequestException, SSLError
from syncflow.testing import (
    AppServer,
    FaultInjector,
    HTTPProxy,
    Peer,
    Receiver,
    ScriptedServer,
    eventually,
    pattern,
    pattern_sha256,
)
from syncflow.testing import Response as Answer
from syncflow.testing.application import Request
from syncflow.testing.scripted import Script

from ..concurrency import Call, forked
from .dialing import Client, dial, proxied, refuse, run, trust
from .rig import PATIENCE, is_receiver_blocked, is_sender_blocked, tcp_pair
from .test_faults import SLOW, slow

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("switching")]

NO_LIMIT = Deadline(Timeouts(read=None, write=None))
PIECE = 50_000


class Owner:
    """Of a transport that nobody reads for."""

    def on_readable(self) -> None:
        """The test reads for itself."""

    def on_lost(self, error: BaseException) -> None:
        raise AssertionError("the worker is well") from error

    def on_fork(self) -> None:
        """Nothing is left to do."""


@pytest.fixture
def proxy(server_tls: ssl.SSLContext) -> Iterator[HTTPProxy]:
    with HTTPProxy(ssl_context=server_tls) as proxy:
        yield proxy


def to(port: int, proxy: HTTPProxy, ca_file: Path) -> Origin:
    context = trust(ca_file)
    return Origin("https", "localhost", port, context, proxied("https", proxy.port, context=context))


@contextmanager
def transport_to(worker: Worker, origin: Origin) -> Iterator[TLSTransport]:
    with run(dial(worker, origin)) as (transport, _):
        assert isinstance(transport, TLSTransport)
        assert isinstance(transport._sock, NestedTLS)
        transport.attach(Owner())
        yield transport


def write(transport: TLSTransport, data: bytes, *, last: bool = False) -> bool:
    return transport.write([(memoryview(data), len(data))], NO_LIMIT, last=last)


def read(transport: TLSTransport, count: int) -> bytes:
    """On this thread, as an exchange does it."""
    parts = []
    while count:
        with transport.receiving:
            data = transport.receive(min(count, 1 << 16))
            if data is None and not transport.pending:
                transport.wait_here(PATIENCE)
        assert data != b"", f"the end came {count} bytes too early"
        if data:
            parts.append(data)
            count -= len(data)
    return b"".join(parts)


# ---------------------------------------------------------------------- whole exchanges


def test_a_large_upload_and_a_large_download(
    worker: Worker, proxy: HTTPProxy, ca_file: Path, server_tls: ssl.SSLContext
) -> None:
    size = 3_000_000

    def answer(request: Request) -> Answer:
        return Answer(body=hashlib.sha256(request.body).hexdigest().encode() if request.body else pattern(size))

    with AppServer(answer, ssl_context=server_tls) as server, Client(worker) as client:
        origin = to(server.port, proxy, ca_file)
        for _ in range(2):
            assert client.put(origin, pattern(size)) == (200, pattern_sha256(size).encode())
            assert client.get(origin) == (200, pattern(size))
        assert server.connections == 1
        assert [request.method for request in proxy.seen] == ["CONNECT"]


def test_a_slow_receiver(worker: Worker, proxy: HTTPProxy, ca_file: Path, server_tls: ssl.SSLContext) -> None:
    """The kernel is full most of the time: what was taken and not sent must be offered again, the very same."""
    size = 4_000_000
    with Receiver(ssl_context=server_tls, receive_buffer=4096) as server, Client(worker) as client:
        status, told = client.put(to(server.port, proxy, ca_file), pattern(size), piece=300_000)
        assert status == 200
        assert pattern_sha256(size).encode() in told


def test_both_directions_at_once(worker: Worker, proxy: HTTPProxy, ca_file: Path, server_tls: ssl.SSLContext) -> None:
    """A sender and a reader on one connection, each as fast as it can."""
    size = 60 * PIECE

    def script(peer: Peer) -> None:
        sent = pattern(size)
        digest = hashlib.sha256()
        for at in range(0, size, PIECE):
            peer.send(sent[at : at + PIECE])
            digest.update(peer.read_exactly(PIECE))
        peer.send(digest.hexdigest().encode())
        peer.wait_closed()

    with ScriptedServer(script, ssl_context=server_tls) as server:
        with transport_to(worker, to(server.port, proxy, ca_file)) as transport:
            with transport.sending:
                transport.may_send = True
            writer = Call(lambda: [write(transport, pattern(size)[at : at + 7001]) for at in range(0, size, 7001)])
            assert read(transport, size) == pattern(size)
            assert all(writer.result())
            assert read(transport, 64) == pattern_sha256(size).encode()
        server.wait_until_idle()


def test_what_is_asked_of_it(
    worker: Worker, proxy: HTTPProxy, ca_file: Path, server_certificate: trustme.LeafCert
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_certificate.configure_cert(context)
    context.set_alpn_protocols(["http/1.1"])
    with AppServer(ssl_context=context) as server:
        with transport_to(worker, to(server.port, proxy, ca_file)) as transport:
            sock = transport._sock
            assert sock.selected_alpn_protocol() == "http/1.1"
            assert sock.version() in ("TLSv1.2", "TLSv1.3")
            certificate = ssl.PEM_cert_to_DER_cert(server_certificate.cert_chain_pems[0].bytes().decode())
            assert sock.getpeercert(binary_form=True) == certificate
            assert transport.peer == proxy.address
            assert sock.gettimeout() == 0.0
            assert transport.is_quiet()
            assert not transport.pending


# ---------------------------------------------------------------------- the layers, one by one


def shake_hands(sock: NestedTLS | ssl.SSLSocket) -> None:
    while True:
        try:
            sock.do_handshake()
            return
        except ssl.SSLWantReadError:
            select.select([sock], [], [], PATIENCE)
        except ssl.SSLWantWriteError:
            select.select([], [sock], [], PATIENCE)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


Outer = Callable[..., tuple[ssl.SSLSocket, ssl.SSLSocket]]


@pytest.fixture
def outer(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, ca: trustme.CA, stack: ExitStack) -> Outer:
    """Makes the outer layer, both ends, with the faults that are asked for on the near one."""

    def make(how: str | None = None) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
        near, far = tcp_pair(small=True)
        served = Call(server_tls.wrap_socket, far, server_side=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ca.configure_trust(context)
        secured = context.wrap_socket(near, server_hostname="localhost", suppress_ragged_eofs=False)
        if how is not None:
            faults = stack.enter_context(FaultInjector())
            slow(faults, how)
            faults._tamper(secured)
        secured.setblocking(False)
        return stack.enter_context(secured), stack.enter_context(served.result())

    return make


class Inner:
    """The far end of the inner layer, over a blocking socket of the outer one."""

    def __init__(self, below: ssl.SSLSocket, context: ssl.SSLContext) -> None:
        self.below = below
        below.settimeout(PATIENCE)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def flush(self) -> None:
        if self.outgoing.pending:
            self.below.sendall(self.outgoing.read())

    def fetch(self) -> None:
        self.flush()
        data = self.below.recv(5000)  # never a whole record
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    def do_handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
                self.flush()
                return
            except ssl.SSLWantReadError:
                self.fetch()

    def read_exactly(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                part = self.tls.read(count)
                assert part
                parts.append(part)
                count -= len(part)
            except ssl.SSLWantReadError:
                self.fetch()
        return b"".join(parts)

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self.flush()


Nested = Callable[..., tuple[NestedTLS, Inner]]


@pytest.fixture
def nested(outer: Outer, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, stack: ExitStack) -> Nested:
    def make(how: str | None = None) -> tuple[NestedTLS, Inner]:
        below, far_below = outer(how)
        far = Inner(far_below, server_tls)
        served = Call(far.do_handshake)
        near = NestedTLS(below, client_tls, "localhost")
        stack.callback(near.close)
        shake_hands(near)
        served.result()
        with pytest.raises(ssl.SSLWantReadError):
            while True:
                near.read(1)  # session tickets, of both layers
        return near, far

    return make


def send(near: NestedTLS, data: bytes) -> None:
    """As the transport does: in blocks, each offered until it is taken."""
    for at in range(0, len(data), 65536):
        block = memoryview(data)[at : at + 65536]
        while True:
            try:
                assert near.write(block) == len(block), "a write that returns has taken all"
                break
            except ssl.SSLWantWriteError:
                select.select([], [near], [], PATIENCE)


def wait_read(near: NestedTLS, most: int = 16384) -> bytes:
    while True:
        try:
            return near.read(most)
        except ssl.SSLWantReadError:
            assert near.pending() == 0, "there was something to read"
            assert select.select([near], [], [], PATIENCE)[0]


def receive(near: NestedTLS, count: int) -> bytes:
    parts = []
    while count:
        part = wait_read(near, min(count, 16384))
        assert part
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


@pytest.mark.parametrize("how", [None, *SLOW])
def test_whatever_the_outer_layer_takes_and_gives_at_once(nested: Nested, how: str | None) -> None:
    size = 20_000 if how in ("one byte", "both") else 1_000_000
    near, far = nested(how)
    got = Call(far.read_exactly, size)
    send(near, pattern(size))
    assert got.result() == pattern(size)
    sent = Call(far.send, pattern(size))
    assert receive(near, size) == pattern(size)
    sent.result()


def test_a_write_that_would_block_says_so_until_all_is_gone(nested: Nested) -> None:
    """Nobody comes back for ciphertext that stays behind when there is nothing more to write."""
    near, far = nested()
    block = memoryview(pattern(65536))
    taken = 0
    with pytest.raises(ssl.SSLWantWriteError):
        while True:
            taken += near.write(block)
    with pytest.raises(ssl.SSLWantWriteError):
        near.write(block)
    got = Call(far.read_exactly, taken + 65536)
    while True:
        try:
            assert near.write(block) == 65536
            break
        except ssl.SSLWantWriteError:
            select.select([], [near], [], PATIENCE)
    assert got.result() == pattern(65536) * (taken // 65536 + 1)


def test_reading_goes_on_while_a_write_is_stuck(nested: Nested) -> None:
    near, far = nested()
    block = memoryview(bytes(65536))
    taken = 0
    with pytest.raises(ssl.SSLWantWriteError):
        while True:
            taken += near.write(block)
    sent = Call(far.send, pattern(100_000))
    assert receive(near, 100_000) == pattern(100_000)
    sent.result()
    got = Call(far.read_exactly, taken + 65536)
    send(near, bytes(65536))
    assert not any(got.result())


def test_what_waits_in_either_layer_is_pending(nested: Nested) -> None:
    near, far = nested()
    far.send(b"x" * 100)
    select.select([near], [], [], PATIENCE)
    assert near.read(10) == b"x" * 10
    assert near.pending() == 90, "decrypted twice"
    assert near.read(90) == b"x" * 90
    assert near.pending() == 0
    # Two records of the inner layer in one of the outer.
    far.tls.write(b"y" * 50)
    far.tls.write(b"z" * 50)
    far.flush()
    select.select([near], [], [], PATIENCE)
    assert near.read(100) == b"y" * 50
    assert near.pending() > 0, "received, and decrypted once"
    assert near.read(100) == b"z" * 50
    # An inner record that came in half: there is nothing to be had, and a loop would turn for ever.
    far.tls.write(b"w" * 1000)
    ciphertext = far.outgoing.read()
    far.below.sendall(ciphertext[:500])
    select.select([near], [], [], PATIENCE)
    with pytest.raises(ssl.SSLWantReadError):
        near.read(100)
    assert near.pending() == 0
    far.below.sendall(ciphertext[500:])
    assert receive(near, 1000) == b"w" * 1000


def test_the_origin_ends_properly(nested: Nested) -> None:
    near, far = nested()
    far.tls.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        far.tls.unwrap()
    far.flush()
    assert receive(near, 4) == b"last"
    assert wait_read(near) == b""


def test_the_proxy_ends_properly_and_the_origin_did_not(nested: Nested) -> None:
    """A proxy is not trusted with the origin's word."""
    near, far = nested()
    far.send(b"last")
    far.below.settimeout(0.0)
    with pytest.raises(ssl.SSLWantReadError):
        far.below.unwrap()
    assert receive(near, 4) == b"last"
    with pytest.raises(ssl.SSLEOFError):
        wait_read(near)


def test_the_connection_is_cut(nested: Nested) -> None:
    near, far = nested()
    far.send(b"last")
    socket.socket.shutdown(far.below, socket.SHUT_WR)
    assert receive(near, 4) == b"last"
    with pytest.raises(ssl.SSLEOFError):
        wait_read(near)


def test_nonsense_in_the_inner_layer(nested: Nested) -> None:
    near, far = nested()
    far.below.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError, match="(?i)wrong.version"):
        wait_read(near)


def test_an_untrusted_origin_is_told_why(outer: Outer, server_tls: ssl.SSLContext, stack: ExitStack) -> None:
    below, far_below = outer()
    far = Inner(far_below, server_tls)
    served = Call(far.do_handshake)
    near = NestedTLS(below, ssl.create_default_context(), "localhost")
    stack.callback(near.close)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(near)
    # It may have thought that all was well: in TLS 1.3 the server's part is over first.
    error = served.error()
    if error is None:
        with pytest.raises(ssl.SSLError, match="(?i)unknown.ca"):
            far.read_exactly(1)


def test_bytes_that_came_with_the_proxys_answer(
    outer: Outer, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, stack: ExitStack
) -> None:
    below, _ = outer()
    near = NestedTLS(below, client_tls, "localhost", b"\x15\x03\x03\x00\x02\x02\x28")
    stack.callback(near.close)
    with pytest.raises(ssl.SSLError, match="(?i)handshake.failure"):
        near.do_handshake()


def test_it_closes_both_descriptors(nested: Nested) -> None:
    near, far = nested()
    assert near.fileno() not in (-1, near._outer.fileno())
    near.close()
    assert near.fileno() == near._outer.fileno() == -1
    assert far.below.recv(100) == b"", "at once, without a word"


def test_a_context_that_cannot_be_used_costs_no_descriptor(outer: Outer, server_tls: ssl.SSLContext) -> None:
    below, _ = outer()
    with pytest.raises(ssl.SSLError):
        NestedTLS(below, server_tls, "localhost")
    assert below.fileno() != -1


# ---------------------------------------------------------------------- as a transport


def stalls(peer: Peer) -> None:
    peer.stall()


def breaks_off(peer: Peer) -> None:
    peer.read_exactly(1)
    peer.send(b"x")
    peer.reset()


@pytest.mark.parametrize("who", ["reader", "writer"])
def test_who_is_blocked_is_woken(
    worker: Worker, proxy: HTTPProxy, ca_file: Path, server_tls: ssl.SSLContext, who: str
) -> None:
    with ScriptedServer(stalls, ssl_context=server_tls, receive_buffer=4096) as server:
        with transport_to(worker, to(server.port, proxy, ca_file)) as transport:
            with transport.sending:
                transport.may_send = True
            call: Call[object]
            if who == "reader":
                call = Call(read, transport, 1)
                eventually(lambda: is_receiver_blocked(transport))
            else:
                call = Call(write, transport, bytes(40 << 20))
                eventually(lambda: is_sender_blocked(transport))
            transport.close()
            assert call.error() is not None if who == "reader" else call.result() is False
            eventually(lambda: transport._sock.fileno() == -1)


@pytest.mark.parametrize("who", ["origin", "proxy"])
def test_one_that_breaks_off(
    worker: Worker, proxy: HTTPProxy, ca_file: Path, server_tls: ssl.SSLContext, who: str
) -> None:
    """Never an end: always an error."""
    script: Script = breaks_off if who == "origin" else stalls
    with ScriptedServer(script, ssl_context=server_tls) as server, Client(worker) as client:
        exchange = client.begin(to(server.port, proxy, ca_file))
        assert exchange.start(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", [], has_body=False, last=True)
        call = Call(exchange.wait_answered, whole=True)
        if who == "proxy":
            (connection,) = client.pool._ledger.connections
            eventually(lambda: is_receiver_blocked(connection.transport))
            proxy.stop()
        assert isinstance(call.error(), RequestException)


def test_a_fork_leaves_it_to_the_parent(
    worker: Worker, proxy: HTTPProxy, ca_file: Path, server_tls: ssl.SSLContext
) -> None:
    with AppServer(ssl_context=server_tls) as server, Client(worker) as client:
        origin = to(server.port, proxy, ca_file)
        assert client.get(origin)[0] == 200
        (connection,) = client.pool._ledger.connections
        sock = connection.transport._sock
        assert isinstance(sock, NestedTLS)
        assert forked(lambda: [sock.fileno(), sock._outer.fileno()])() == [-1, -1]
        assert forked(lambda: client.get(origin)[0])() == 200
        assert client.get(origin)[0] == 200
        assert server.connections == 2


def test_a_fork_in_the_middle_of_dialing(
    worker: Worker, proxy: HTTPProxy, ca_file: Path, server_tls: ssl.SSLContext
) -> None:
    """Others shake hands in both layers meanwhile: what OpenSSL has locked is free in the child."""
    stop = threading.Event()

    def work() -> int:
        count = 0
        while not stop.is_set():
            with run(dial(worker, origin)):
                count += 1
        return count

    with AppServer(ssl_context=server_tls) as server:
        origin = to(server.port, proxy, ca_file)
        calls = [Call(work) for _ in range(2)]
        for _ in range(5):
            server.wait_for_connections(server.connections + 1)
            assert forked(lambda: trust(ca_file).cert_store_stats()["x509_ca"])() == 1
        stop.set()
        assert all(call.result() for call in calls)


def test_an_answer_of_the_proxy_that_takes_its_time(worker: Worker, ca_file: Path, server_tls: ssl.SSLContext) -> None:
    """The inner handshake is not begun before the tunnel is there."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.wait_step()
        assert not peer._reader.available
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        assert peer.read_exactly(2) == b"\x16\x03"

    with ScriptedServer(script, ssl_context=server_tls) as proxy:
        way = proxied("https", proxy.port, context=trust(ca_file))
        call = Call(
            refuse, Dial(worker, Origin("https", "localhost", 443, trust(ca_file), way), NO_LIMIT, Watermarks())
        )
        proxy.wait_for_connections(1)
        proxy.step()
        assert isinstance(call.result(), SSLError)

"""A socket between its two buffers: watermarks, who sends and who receives, every way in which it ends."""

from __future__ import annotations

import array
import os
import random
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import pytest

from syncflow import Timeouts, TotalTimeout, Watermarks, WriteTimeout
from syncflow.engine.buffers import OutgoingBuffer
from syncflow.engine.deadline import Deadline
from syncflow.engine.sending import FRAMING_SLACK, Piece
from syncflow.engine.tls import RECORD, TLSTransport
from syncflow.engine.transport import Transport
from syncflow.engine.worker import Worker
from syncflow.testing import eventually, pattern

from ..concurrency import Call, at_once
from .conftest import Wire
from .rig import PATIENCE, ended, has_waiters, is_sender_blocked, kill, read_exactly, run_on, tcp_pair

pytestmark = pytest.mark.usefixtures("switching")

HIGH, LOW = 20_000, 5_000
NO_LIMIT = Deadline(Timeouts(read=None, write=None))


class Owner:
    """Takes what comes, when the worker says so."""

    def __init__(self) -> None:
        self.transport: Transport
        self.received = b""
        self.lost: list[BaseException] = []

    def on_readable(self) -> None:
        with self.transport.receiving:
            try:
                data = self.transport.receive(1 << 16)
            except OSError:
                data = b""
            if data:
                self.received += data
            elif data == b"":
                self.transport.set_reading(False)

    def on_lost(self, error: BaseException) -> None:
        self.lost.append(error)

    def on_fork(self) -> None:
        raise AssertionError("nobody forks here")


@dataclass
class Link:
    """A transport and the other end of its socket."""

    transport: Transport
    far: socket.socket
    owner: Owner

    def start(self) -> None:
        """Begin a message with nothing in it."""
        transport = self.transport
        with transport.sending:
            transport.may_send = True
            transport._ended = False
            transport.payload_sent = 0

    def write(self, data: Any, deadline: Deadline = NO_LIMIT, *, last: bool = False) -> bool:
        view = memoryview(data).cast("B")
        return self.transport.write([(view, len(view))], deadline, last=last)

    def fill(self) -> int:
        """Write until the kernel is full and the buffer is full, without waiting; how many bytes that took."""
        transport = self.transport
        count = 0
        # The kernel may take a little more once its own buffer has been moved on: until it has not for a while.
        while transport.outgoing.size < HIGH or _moves(transport):
            with transport.sending:
                room = transport.outgoing.room if transport._blocked else HIGH
            if room and transport.takes(room):
                assert transport.try_write([(memoryview(bytes(room)), room)])
                count += room
        return count


def _moves(transport: Transport) -> bool:
    """Whether the worker gets rid of something within its next turns."""
    before = transport.outgoing.size
    for _ in range(3):
        run_on(transport.worker, lambda: None)
    return transport.outgoing.size != before


@pytest.fixture
def new_link(wire: Wire, worker: Worker) -> Iterator[Callable[..., Link]]:
    made: list[Link] = []

    def make(watermarks: Watermarks = Watermarks(high=HIGH, low=LOW)) -> Link:  # noqa: B008  # frozen
        near, far = tcp_pair(small=True)
        transport: Transport
        if wire.server is None or wire.client is None:
            near.setblocking(False)
            transport = Transport(worker, near, "here:1", watermarks)
        else:
            served = Call(wire.server.wrap_socket, far, server_side=True)
            secure = wire.client.wrap_socket(near, server_hostname="localhost", suppress_ragged_eofs=False)
            far = served.result()
            secure.setblocking(False)
            transport = TLSTransport(worker, secure, "here:1", watermarks)
        with transport.receiving:
            assert transport.receive(1) is None  # the session tickets, if it is TLS
        owner = Owner()
        owner.transport = transport
        transport.attach(owner)
        made.append(Link(transport, far, owner))
        return made[-1]

    yield make
    for link in made:
        link.transport.close()
        link.far.close()
        eventually(lambda link=link: link.transport._sock.fileno() == -1)


@pytest.fixture
def link(new_link: Callable[..., Link]) -> Link:
    link = new_link()
    link.start()
    return link


# ---------------------------------------------------------------------- the outgoing buffer


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every size that an outgoing buffer reaches."""
    seen: list[int] = []
    append = OutgoingBuffer.append

    def recording(self: OutgoingBuffer, piece: memoryview, payload: int) -> None:
        append(self, piece, payload)
        seen.append(self.size)

    monkeypatch.setattr(OutgoingBuffer, "append", recording)
    return seen


def test_one_write_of_any_size_stays_under_the_high_watermark(link: Link, sizes: list[int]) -> None:
    data = pattern(2_000_000)
    call = Call(link.write, data)
    assert read_exactly(link.far, len(data)) == data
    assert call.result()
    assert sizes, "the kernel took everything, so nothing was tested"
    assert max(sizes) == HIGH
    link.transport.flush(NO_LIMIT, None)  # the peer may have the last bytes before the worker has counted them
    assert link.transport.payload_sent == len(data)
    assert link.transport.outgoing.size == 0


def test_many_pieces_in_one_write(link: Link, sizes: list[int]) -> None:
    """As chunks come: framing, body, framing. More of them than go into one system call, and cut anywhere."""
    rng = random.Random(1)
    parts = [(rng.randbytes(rng.choice([1, 7, 500, 9000])), index % 3 == 1) for index in range(300)]
    whole = b"".join(data for data, _ in parts)
    pieces: list[Piece] = [(memoryview(data), len(data) if is_body else 0) for data, is_body in parts]
    call = Call(link.transport.write, pieces, NO_LIMIT, last=True)
    assert read_exactly(link.far, len(whole)) == whole
    assert call.result()
    assert max(sizes) <= HIGH
    eventually(lambda: link.transport.payload_sent == sum(len(data) for data, is_body in parts if is_body))
    assert link.transport.stop_message(), "all of it has left"


def test_a_writer_waits_while_it_is_full_and_goes_on_when_it_is_low(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = link.transport
    at_return: list[int] = []
    wait_while = transport._wait_while

    def recording(*args: Any) -> bool:
        outcome = wait_while(*args)
        at_return.append(transport.outgoing.size)
        return outcome

    monkeypatch.setattr(transport, "_wait_while", recording)
    total = link.fill()
    call = Call(link.write, bytes(3 * HIGH))
    eventually(lambda: is_sender_blocked(transport))
    assert transport.outgoing.size > LOW
    assert not call.ended
    read_exactly(link.far, total + 3 * HIGH)
    assert call.result()
    assert at_return
    assert all(size <= LOW for size in at_return), "woken above the low watermark"


def test_a_writer_is_not_woken_between_the_watermarks(link: Link) -> None:
    transport = link.transport
    total = link.fill()
    call = Call(link.write, b"x")
    eventually(lambda: is_sender_blocked(transport))
    read = 0
    while transport.outgoing.size > LOW:
        # In steps that are smaller than the distance between the two.
        with transport.sending:
            assert has_waiters(transport.left) or transport.outgoing.size <= LOW
        read += len(link.far.recv(2048))
        run_on(transport.worker, lambda: None)
    assert call.result()
    read_exactly(link.far, total + 1 - read)


def test_many_writers_lose_no_wake_up(link: Link) -> None:
    """One writes at a time by contract; whoever waits beside it, as in `flush`, is woken all the same."""
    transport = link.transport
    total = link.fill()
    calls = [Call(link.write, bytes(1000)) for _ in range(8)]
    calls += [Call(transport.flush, NO_LIMIT, None) for _ in range(4)]
    calls += [Call(transport.wait_writable, 100, NO_LIMIT, None) for _ in range(4)]
    read_exactly(link.far, total + 8000)
    assert all(call.result() for call in calls)


# ---------------------------------------------------------------------- what may be written


@pytest.mark.parametrize(
    "make",
    [
        bytearray,
        lambda data: memoryview(bytearray(data)),
        lambda data: memoryview(bytearray(data)).toreadonly(),
        lambda data: array.array("B", data),
    ],
    ids=["bytearray", "memoryview", "readonly", "array"],
)
def test_memory_that_changes_after_write_returned_arrives_unchanged(link: Link, make: Callable[[bytes], Any]) -> None:
    total = link.fill()
    read_exactly(link.far, total)
    link.transport.flush(NO_LIMIT, None)
    # First into the kernel, and from where that is full into the buffer.
    data = pattern(HIGH)
    written: list[Any] = []
    while link.transport.takes(len(data)) and len(written) < 50:
        buffer = make(data)
        assert link.write(buffer)
        written.append(buffer)
    assert link.transport.outgoing.size, "nothing had to wait, so nothing was tested"
    for buffer in written:
        _scribble(buffer)
    for _ in written:
        assert read_exactly(link.far, len(data)) == data


def _scribble(buffer: Any) -> None:
    if isinstance(buffer, memoryview):
        view, buffer = buffer, buffer.obj
        view.release()
    for index in range(len(buffer)):
        buffer[index] = 255
    # Also raises if somebody still holds the memory.
    buffer.extend(b"more")


def test_bytes_are_not_copied(link: Link) -> None:
    link.fill()
    data = bytes(range(200)) * 10
    with link.transport.sending:
        link.transport.outgoing.clear()
        link.transport._offer([(memoryview(data)[10:], len(data) - 10)])
        last = link.transport.outgoing.first(1000)[-1]
        assert last.obj is data


# ---------------------------------------------------------------------- without waiting


def test_try_write_takes_what_it_said_it_would_take(link: Link, sizes: list[int]) -> None:
    transport = link.transport
    rng = random.Random(2)
    sent = b""
    refused = 0
    received = b""
    while refused < 20:
        data = rng.randbytes(rng.choice([1, 100, HIGH // 3, HIGH]))
        if transport.takes(len(data) + FRAMING_SLACK):
            pieces = [(memoryview(b"<"), 0), (memoryview(data), len(data)), (memoryview(b">"), 0)]
            assert transport.try_write(pieces)
            sent += b"<" + data + b">"
        else:
            refused += 1
            while not transport.wait_writable(len(data) + FRAMING_SLACK, NO_LIMIT, 0.0):
                received += link.far.recv(1 << 12)
                run_on(transport.worker, lambda: None)
            assert transport.takes(len(data) + FRAMING_SLACK)
    received += read_exactly(link.far, len(sent) - len(received))
    assert received == sent
    assert max(sizes) <= HIGH + FRAMING_SLACK


def test_wait_writable_waits_for_room_for_that_much(link: Link) -> None:
    transport = link.transport
    total = link.fill()
    assert not transport.wait_writable(1, NO_LIMIT, 0.01)
    call = Call(transport.wait_writable, HIGH, NO_LIMIT, None)
    eventually(lambda: is_sender_blocked(transport))
    read_exactly(link.far, total)
    assert call.result()
    assert transport.takes(HIGH)


def test_flush_waits_until_the_kernel_has_all(link: Link) -> None:
    total = link.fill()
    assert not link.transport.flush(NO_LIMIT, 0.01)
    call = Call(link.transport.flush, NO_LIMIT, None)
    eventually(lambda: is_sender_blocked(link.transport))
    read_exactly(link.far, total)
    assert call.result()
    assert link.transport.outgoing.size == 0


# ---------------------------------------------------------------------- limits


@pytest.mark.parametrize("wait", ["write", "flush", "wait_writable"])
def test_a_peer_that_takes_nothing_is_a_write_timeout(link: Link, wait: str) -> None:
    link.fill()
    deadline = Deadline(Timeouts(write=0.05))
    with pytest.raises(WriteTimeout, match=r"^here:1: the server took nothing of the request for 0.05 s") as caught:
        _wait(link, wait, deadline)
    assert caught.value.phase == "send"


@pytest.mark.parametrize("wait", ["write", "flush", "wait_writable"])
def test_the_total_holds_for_a_write(link: Link, wait: str) -> None:
    link.fill()
    with pytest.raises(TotalTimeout):
        _wait(link, wait, Deadline(Timeouts(total=0.05)))


def _wait(link: Link, wait: str, deadline: Deadline) -> None:
    if wait == "write":
        link.write(bytes(HIGH), deadline)
    elif wait == "flush":
        link.transport.flush(deadline, None)
    else:
        link.transport.wait_writable(100, deadline, None)


# ---------------------------------------------------------------------- stopping


def test_stop_tells_whether_all_had_left(link: Link) -> None:
    transport = link.transport
    assert link.write(b"beginning")
    assert not transport.stop_message(), "its end was never written"
    link.start()
    assert link.write(b"all of it", last=True)
    assert transport.stop_message()
    link.start()
    link.fill()
    assert transport.try_write([], last=True)
    assert transport.outgoing.size
    assert not transport.stop_message(), "its end waits in the buffer"
    assert transport.outgoing.size == 0


@pytest.mark.parametrize("wait", ["write", "flush", "wait_writable"])
@pytest.mark.parametrize("stop", ["stop_message", "close"])
def test_stopping_wakes_whoever_waits(link: Link, wait: str, stop: str) -> None:
    link.fill()
    outcome = {
        "write": lambda: link.write(bytes(HIGH)),
        "flush": lambda: link.transport.flush(NO_LIMIT, None),
        "wait_writable": lambda: link.transport.wait_writable(100, NO_LIMIT, None),
    }[wait]
    call = Call(outcome)
    eventually(lambda: is_sender_blocked(link.transport))
    getattr(link.transport, stop)()
    # There is nothing left to wait for; only the writer has something to learn.
    assert call.result() is (wait != "write")
    assert not link.write(b"x"), "and nothing more is sent"


def test_a_stopped_message_does_not_stop_the_next(link: Link) -> None:
    link.write(b"one")
    link.transport.stop_message()
    assert not link.write(b"two")
    assert link.transport.start_message([(memoryview(b"three"), 0)], NO_LIMIT, last=True)
    assert read_exactly(link.far, 8) == b"onethree"


# ---------------------------------------------------------------------- files


@pytest.fixture
def file() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(pattern(300_000))
        file.flush()
        yield file


# The kernel sends files, and does not encrypt.
plain_only = pytest.mark.parametrize("wire", ["plain"], indirect=True)
tls_only = pytest.mark.parametrize("wire", ["tls"], indirect=True)


@plain_only
def test_a_file_goes_through_the_kernel(link: Link, file: IO[bytes]) -> None:
    call = Call(link.transport.write_file, file.fileno(), 1000, 250_000, NO_LIMIT)
    assert read_exactly(link.far, 250_000) == pattern(300_000)[1000:251_000]
    assert call.result() == 250_000
    assert link.transport.payload_sent == 250_000


@plain_only
def test_a_file_comes_after_what_was_written_before(link: Link, file: IO[bytes]) -> None:
    total = link.fill()
    call = Call(link.transport.write_file, file.fileno(), 0, 1000, NO_LIMIT)
    assert read_exactly(link.far, total + 1000)[total:] == pattern(1000)
    assert call.result() == 1000


@plain_only
def test_a_file_that_is_shorter_than_it_was(link: Link, file: IO[bytes]) -> None:
    assert link.transport.write_file(file.fileno(), 299_000, 50_000, NO_LIMIT) == 1000


@plain_only
def test_a_file_to_a_peer_that_takes_nothing(link: Link, file: IO[bytes]) -> None:
    with pytest.raises(WriteTimeout):
        link.transport.write_file(file.fileno(), 0, 300_000, Deadline(Timeouts(write=0.05)))


@plain_only
def test_stopping_wakes_who_sends_a_file(link: Link, file: IO[bytes]) -> None:
    call = Call(link.transport.write_file, file.fileno(), 0, 300_000, NO_LIMIT)
    eventually(lambda: is_sender_blocked(link.transport))
    link.transport.stop_message()
    assert 0 < call.result() < 300_000


@plain_only
def test_an_error_of_the_file_is_not_one_of_the_socket(link: Link) -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError):
            link.transport.write_file(writing, 0, 1000, NO_LIMIT)
    finally:
        os.close(reading)
        os.close(writing)
    assert link.write(b"x")
    assert read_exactly(link.far, 1) == b"x"


@plain_only
def test_a_socket_is_not_closed_under_a_caller_in_sendfile(
    link: Link, file: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number could be another socket's by then."""
    inside, go_on = threading.Event(), threading.Event()
    sendfile = os.sendfile

    def slow(out: int, source: int, offset: int, count: int) -> int:
        inside.set()
        assert go_on.wait(PATIENCE)
        return sendfile(out, source, offset, count)

    monkeypatch.setattr(os, "sendfile", slow)
    transport = link.transport
    call = Call(transport.write_file, file.fileno(), 0, 1000, NO_LIMIT)
    assert inside.wait(PATIENCE)
    transport.close()
    run_on(transport.worker, lambda: None)
    assert transport._sock.fileno() != -1
    go_on.set()
    call.result()
    eventually(lambda: transport._sock.fileno() == -1)
    assert ended(link.far)


@plain_only
def test_an_interrupt_on_the_way_into_sendfile_does_not_keep_the_socket_open(
    link: Link, file: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(link.transport, "write_file_once", interrupted)
    with pytest.raises(KeyboardInterrupt):
        link.transport.write_file(file.fileno(), 0, 1000, NO_LIMIT)
    link.transport.close()
    eventually(lambda: link.transport._sock.fileno() == -1)


# ---------------------------------------------------------------------- failing


def test_a_peer_that_resets_ends_the_sending_not_the_receiving(link: Link) -> None:
    """RFC 9112, section 9.5: what it had answered can still be read."""
    transport = link.transport
    link.far.sendall(b"too much")
    call = Call(link.write, bytes(1_000_000))
    eventually(lambda: is_sender_blocked(transport))
    _reset(link.far)
    assert call.result() is False
    assert isinstance(transport.send_error, OSError)
    assert not transport.stop_message()
    with transport.receiving:
        # A reset may destroy it, and did not here: the kernel had it already.
        assert transport.receive(100) in (b"too much", b"")


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(sock, ssl.SSLSocket):
        socket.socket.close(sock)
    else:
        sock.close()


def test_after_an_error_in_sending_the_receiver_does_not_wait_for_ever(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the error: nothing more is sent, so the peer may never answer."""

    def fail(pieces: list[memoryview]) -> int:
        raise OSError(105, "No buffer space available")

    transport = link.transport
    monkeypatch.setattr(transport, "_send_some", fail)

    def receive() -> bytes | None:
        with transport.receiving:
            transport.wait_here(None)
            return transport.receive(100)

    call = Call(receive)
    eventually(lambda: transport._in_wait)
    assert not link.write(b"x")
    assert transport.send_error is not None
    if isinstance(transport, TLSTransport):
        assert isinstance(call.error(), ssl.SSLError)
    else:
        assert call.result() == b""


def test_closing_twice_from_many_threads(link: Link) -> None:
    at_once(*[link.transport.close] * 8)
    assert ended(link.far)
    eventually(lambda: link.transport not in link.transport.worker._clients)


def test_closing_while_it_sends(link: Link) -> None:
    link.fill()
    at_once(link.transport.close, lambda: link.write(bytes(HIGH)), lambda: link.write(bytes(HIGH)))
    assert ended(link.far)


def test_a_bug_of_the_owner_fails_the_transport_only(
    new_link: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = new_link(), new_link()
    bug = ZeroDivisionError("a bug")

    def fail() -> None:
        raise bug

    monkeypatch.setattr(broken.owner, "on_readable", fail)
    for link in (broken, other):
        link.start()
        with link.transport.receiving:
            link.transport.set_reading(True)
        link.far.sendall(b"x")
    assert ended(broken.far)
    assert broken.owner.lost == [bug]
    assert not broken.write(b"x")
    eventually(lambda: other.owner.received == b"x")
    assert not other.owner.lost


def test_the_death_of_the_worker_wakes_a_writer(link: Link, worker: Worker) -> None:
    link.fill()
    call = Call(link.write, bytes(HIGH))
    eventually(lambda: is_sender_blocked(link.transport))
    error = RuntimeError("a bug")
    kill(worker, error)
    assert call.result() is False
    assert link.owner.lost == [error]
    assert ended(link.far)


# ---------------------------------------------------------------------- receiving


def test_quiet_is_one_to_whom_nothing_came(new_link: Callable[..., Link]) -> None:
    link = new_link()
    assert link.transport.is_quiet()
    link.far.sendall(b"x")
    eventually(lambda: not link.transport.is_quiet())
    closed = new_link()
    closed.far.close()
    eventually(lambda: not closed.transport.is_quiet())
    reset = new_link()
    _reset(reset.far)
    eventually(lambda: not reset.transport.is_quiet())
    ours = new_link()
    ours.transport.close()
    assert not ours.transport.is_quiet()


def test_the_end_is_not_nothing(link: Link) -> None:
    with link.transport.receiving:
        assert link.transport.receive(100) is None
    link.far.sendall(b"x")
    if isinstance(link.far, ssl.SSLSocket):
        link.far.settimeout(0)
        with pytest.raises(ssl.SSLWantReadError):
            link.far.unwrap()
    else:
        link.far.shutdown(socket.SHUT_WR)
    got: list[bytes] = []

    def receive() -> bool:
        with link.transport.receiving:
            data = link.transport.receive(100)
        if data is not None:
            got.append(data)
        return data == b""

    eventually(receive)
    assert got == [b"x", b""]


@tls_only
def test_tls_that_ends_without_its_own_word_for_it_is_an_error(link: Link) -> None:
    link.far.close()

    def fails() -> bool:
        with link.transport.receiving:
            try:
                return link.transport.receive(100) == b""
            except ssl.SSLError:
                return True

    eventually(fails)
    with link.transport.receiving, pytest.raises(OSError):
        link.transport.receive(100)


FULL = bytes(RECORD)
RESET = ConnectionResetError("here")


@tls_only
@pytest.mark.parametrize(
    ("records", "most", "pieces"),
    [
        ([b"short", FULL], 99_999, [b"short", FULL]),
        ([FULL, FULL, b"short"], 99_999, [FULL + FULL + b"short"]),
        ([FULL, None, FULL], 99_999, [FULL, FULL]),
        ([FULL, FULL, FULL], 2 * RECORD, [FULL + FULL, FULL]),
        ([FULL, b"rest of one"], RECORD, [FULL, b"rest of one"]),
        ([FULL, b""], 99_999, [FULL, b""]),
        ([FULL, RESET], 99_999, [FULL, RESET]),
        ([FULL, FULL, RESET], 99_999, [FULL + FULL, RESET]),
        ([FULL, b"short", RESET], 99_999, [FULL + b"short", RESET]),
    ],
)
def test_records_that_are_there_are_one_piece(
    link: Link, monkeypatch: pytest.MonkeyPatch, records: list[Any], most: int, pieces: list[Any]
) -> None:
    """And an error, which the system may tell only once, comes behind what came before it."""
    transport = link.transport
    left = list(records)

    def read(size: int) -> bytes:
        if not left:
            return b""  # OpenSSL tells of the end as often as it is asked
        record = left.pop(0)
        if record is None:
            raise ssl.SSLWantReadError
        if isinstance(record, OSError):
            raise record
        assert len(record) <= size
        return bytes(record)

    with transport.receiving:
        monkeypatch.setattr(transport._sock, "read", read)
        for piece in pieces:
            if isinstance(piece, OSError):
                assert transport.pending or piece in left, "no selector would tell of it"
                with pytest.raises(ConnectionResetError):
                    transport.receive(most)
            else:
                assert transport.receive(most) == piece
        assert not transport.pending


@pytest.mark.parametrize("how", ["bytes", "end", "close", "time"])
def test_what_ends_the_wait_for_the_own_socket(link: Link, how: str) -> None:
    transport = link.transport

    def wait() -> None:
        with transport.receiving:
            transport.wait_here(0.01 if how == "time" else None)

    call = Call(wait)
    if how != "time":
        eventually(lambda: transport._in_wait)
    if how == "bytes":
        link.far.sendall(b"x")
    elif how == "end":
        link.far.close()
    elif how == "close":
        transport.close()
    call.result()
    assert not transport._in_wait
    if how == "close":
        eventually(lambda: transport._sock.fileno() == -1)


def test_a_socket_is_not_closed_under_a_caller_that_waits_for_it(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = link.transport
    inside, go_on = threading.Event(), threading.Event()

    class SlowPoll:
        """Wakes late."""

        def poll(self, timeout: int | None) -> None:
            inside.set()
            assert go_on.wait(PATIENCE)

    monkeypatch.setattr(transport, "_poll", SlowPoll())

    def wait() -> None:
        with transport.receiving:
            transport.wait_here(None)

    call = Call(wait)
    assert inside.wait(PATIENCE)
    transport.close()
    run_on(transport.worker, lambda: None)
    assert transport._sock.fileno() != -1
    go_on.set()
    call.result()
    eventually(lambda: transport._sock.fileno() == -1)


def test_an_interrupt_as_soon_as_the_lock_is_free_leaves_it_held(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C that came while the lock was held strikes when the call that frees it returns."""
    transport = link.transport
    lock = transport.receiving

    class Interrupting:
        """As the lock, but for the interrupt."""

        _acquire_restore = lock._acquire_restore

        def release(self) -> None:
            lock.release()
            raise KeyboardInterrupt

    with lock:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(transport, "receiving", Interrupting())
            transport.wait_here(None)
        assert lock._is_owned()
        assert not transport._in_wait


def test_a_writer_is_woken_by_whoever_closes_the_socket_first(link: Link) -> None:
    """A reader that was woken by `close` has the worker do it before the thread in `close` has stopped the message."""
    transport = link.transport
    link.fill()
    call = Call(link.write, b"x" * HIGH)
    eventually(lambda: is_sender_blocked(transport))
    run_on(transport.worker, transport._close)
    assert call.result() is False
    transport.close()


@pytest.mark.parametrize("seconds", [1e7, 1e300])
def test_a_wait_may_be_longer_than_poll_can_count(link: Link, seconds: float) -> None:
    def wait() -> None:
        with link.transport.receiving:
            link.transport.wait_here(seconds)

    call = Call(wait)
    link.far.sendall(b"x")
    call.result()


def test_the_worker_watches_what_it_is_told_to(link: Link) -> None:
    link.far.sendall(b"one")
    run_on(link.transport.worker, lambda: None)
    assert link.owner.received == b""
    with link.transport.receiving:
        link.transport.set_reading(True)
    eventually(lambda: link.owner.received == b"one")
    with link.transport.receiving:
        link.transport.set_reading(False)
    run_on(link.transport.worker, lambda: None)
    link.far.sendall(b"two")
    run_on(link.transport.worker, lambda: None)
    run_on(link.transport.worker, lambda: None)
    assert link.owner.received == b"one"


def test_both_directions_at_once(link: Link) -> None:
    """TLS has one lock for both: neither may hold it while it waits for the other."""
    transport = link.transport
    data = pattern(1_000_000)
    with transport.receiving:
        transport.set_reading(True)
    sending = Call(link.write, data, last=True)
    answering = Call(link.far.sendall, data)
    eventually(lambda: len(link.owner.received) == len(data) or answering.ended)
    # The far end of a TLS socket may be used by one thread at a time, so it reads only now.
    answering.result()
    assert read_exactly(link.far, len(data)) == data
    assert sending.result()
    eventually(lambda: link.owner.received == data)

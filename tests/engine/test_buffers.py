"""The two buffers against a model that is nothing but bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncflow.engine.buffers import IncomingBuffer, OutgoingBuffer

# What is queued: bytes, and whether they are body.
PIECES = st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.booleans()), max_size=12)


@given(PIECES, st.lists(st.integers(min_value=1, max_value=30), max_size=40))
def test_outgoing_gives_every_byte_once_and_counts_the_body(
    pieces: list[tuple[bytes, bool]], counts: list[int]
) -> None:
    buffer = OutgoingBuffer(1000, 100)
    for data, is_body in pieces:
        buffer.append(memoryview(data), len(data) if is_body else 0)
    whole = b"".join(data for data, _ in pieces)
    marks = b"".join(bytes([is_body]) * len(data) for data, is_body in pieces)
    sent = 0
    for count in counts:
        assert buffer.size == len(whole) - sent
        assert buffer.payload == sum(marks[sent:])
        first = b"".join(buffer.first(100))
        assert first == whole[sent:]
        count = min(count, buffer.size)
        assert buffer.consume(count) == sum(marks[sent : sent + count])
        sent += count


@given(st.integers(min_value=1, max_value=20))
def test_first_gives_no_more_pieces_than_asked_for(most: int) -> None:
    buffer = OutgoingBuffer(1000, 100)
    for _ in range(10):
        buffer.append(memoryview(b"x"), 1)
    assert len(buffer.first(most)) == min(most, 10)


def test_a_partial_send_copies_nothing() -> None:
    data = bytes(1000)
    buffer = OutgoingBuffer(1000, 100)
    buffer.append(memoryview(data), 1000)
    buffer.consume(10)
    buffer.consume(10)
    (rest,) = buffer.first(1)
    assert rest.obj is data
    assert len(rest) == 980


@given(
    st.lists(st.binary(min_size=1, max_size=20), max_size=12), st.lists(st.integers(1, 30), max_size=60), st.booleans()
)
def test_incoming_gives_every_byte_once(pieces: list[bytes], counts: list[int], rest_at_once: bool) -> None:
    buffer = IncomingBuffer(1000, 100)
    for piece in pieces:
        buffer.append(piece)
    whole = b"".join(pieces)
    taken = b""
    for count in counts:
        assert buffer.size == len(whole) - len(taken)
        if not buffer.size:
            break
        part = buffer.take(count)
        assert 0 < len(part) <= count
        taken += part
    if rest_at_once:
        taken += b"".join(buffer.take_all())
        assert buffer.size == 0
        assert taken == whole
    assert whole.startswith(taken)


def test_incoming_hands_a_whole_piece_on_as_it_is() -> None:
    piece = bytes(100)
    buffer = IncomingBuffer(1000, 100)
    buffer.append(piece)
    assert buffer.take(100) is piece
    buffer.append(piece)
    assert buffer.take_all()[0] is piece


def test_watermarks() -> None:
    buffer = OutgoingBuffer(10, 4)
    assert buffer.is_low
    assert buffer.room == 10
    buffer.append(memoryview(b"12345"), 5)
    assert not buffer.is_low
    assert buffer.room == 5
    buffer.consume(1)
    assert buffer.is_low
    buffer.append(memoryview(b"123456"), 6)
    assert buffer.room == 0


def test_what_is_cleared_is_gone() -> None:
    outgoing = OutgoingBuffer(10, 4)
    outgoing.append(memoryview(b"12345"), 5)
    outgoing.clear()
    assert (outgoing.size, outgoing.payload, outgoing.first(1)) == (0, 0, [])
    incoming = IncomingBuffer(10, 4)
    incoming.append(b"12345")
    incoming.take(2)
    incoming.clear()
    incoming.append(b"67")
    assert incoming.take(10) == b"67"
    assert incoming.size == 0


# What happens to the incoming buffer, in any order: a piece comes, some bytes are taken, all of them are.
STEPS = st.lists(st.binary(min_size=1, max_size=20) | st.integers(min_value=1, max_value=30) | st.none(), max_size=60)


@given(STEPS)
def test_incoming_keeps_its_order_while_pieces_come_and_go(steps: list[bytes | int | None]) -> None:
    buffer = IncomingBuffer(1000, 100)
    model = b""
    for step in steps:
        if isinstance(step, bytes):
            buffer.append(step)
            model += step
        elif step is None:
            assert b"".join(buffer.take_all()) == model
            model = b""
        elif model:
            part = buffer.take(step)
            assert 0 < len(part) <= step
            assert model.startswith(part)
            model = model[len(part) :]
        assert buffer.size == len(model)
        assert buffer.room == 1000 - len(model)
        assert buffer.is_low == (len(model) <= 100)

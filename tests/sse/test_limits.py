"""How much of an event is held: to the byte, whatever the pieces; and that time and memory go with what comes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncflow import EventTooLarge
from syncflow.settings import MAX_EVENT_SIZE
from syncflow.sse import Decoder, ServerSentEvent

from .reference import BOM, allowed, cut, limited, splittings
from .strategies import CUTS, REPEATABLE, STREAMS

# ------------------------------------------------------------------------------------------------- to the byte

# Each with what is held of it at most, in bytes.
LARGEST = {
    "one line": (b"data: abcdefghi\n\n", 16),
    "one line, CR LF": (b"data: abcdefghi\r\n\r\n", 16),
    "many lines": (b"data: a\ndata:\ndata\ndata: bcd\n\n", 8 + 6 + 5 + 10),
    "a type and an ID": (b"event: ab\nid: cd\ndata\n\n", 10 + 7 + 5),
    "an unfinished line": (b"data: abcdefghi", 15),
    "an unfinished event": (b"data: a\ndata: b", 8 + 7),
    "a second event": (b"data: a\n\ndata: abc\n\n", 10),
    "a second event behind small ones": (b"data: a\n\n" * 9 + b"data: abc\n\n", 10),
    "bytes that are no UTF-8": (b"data: \xff\xff\xff\xff\n\n", 11),
    "characters of many bytes": ("data: €€€\n\n".encode(), 16),
    "a comment": (b": abcdefghijklmnop\n\n", 18),
    "a comment within an event": (b"data: a\n: abcdefghi\n\n", 8 + 11),
    "a field that is not known": (b"foo: abcdefghi\n\n", 14),
    "comments are not held together": (b"data: abcd\n" + b": ab\n" * 9 + b"\n", 11 + 4),
    "nor are other fields": (b"data: abcd\n" + b"foo\n" * 9 + b"\n", 11 + 3),
    "nor empty lines": (b"\n" * 50 + b"data\n\n", 5),
    "behind a byte order mark": (BOM + b"data: a\n\n", 8),
}


@pytest.mark.parametrize(("stream", "size"), LARGEST.values(), ids=LARGEST)
def test_it_is_reached_and_exceeded_whatever_the_pieces(stream: bytes, size: int) -> None:
    expected = allowed(stream, size)
    assert not expected[1]
    refused = allowed(stream, size - 1)
    assert refused[1]
    for pieces in splittings(stream):
        assert limited(pieces, size) == expected, pieces
        assert limited(pieces, size - 1) == refused, pieces


@REPEATABLE
@given(STREAMS, CUTS, st.integers(len(BOM), 60))
def test_any_stream_in_any_pieces(stream: bytes, places: list[int], limit: int) -> None:
    expected = allowed(stream, limit)
    assert limited(cut(stream, places), limit) == expected
    assert limited([stream], limit) == expected


def test_an_unfinished_line_byte_by_byte() -> None:
    decoder = Decoder(max_event_size=10)
    for byte in (b"d", b"a", b"t", b"a", b":", b" ", b"a", b"b", b"c", b"d"):
        assert decoder.feed(byte) == []
    with pytest.raises(EventTooLarge, match=r"larger than 10 bytes \(max_event_size\); allow more"):
        decoder.feed(b"e")


def test_a_piece_may_be_far_larger_if_its_events_are_not() -> None:
    stream = b"id: 1\ndata: ab\ndata: c\n\n: d\n\n" * 5000
    assert limited([stream], 30) == ([ServerSentEvent(data="ab\nc", id="1")] * 5000, False)


def test_what_came_before_is_returned_first() -> None:
    decoder = Decoder(max_event_size=20)
    stream = b"data: a\n\nretry: 5\nid: 1\ndata: b\n\ndata: 123456789012345\n\ndata: c\n\n"
    assert [event.data for event in decoder.feed(stream)] == ["a", "b"]
    assert (decoder.last_event_id, decoder.retry) == ("1", 5)
    for call in (decoder.check, lambda: decoder.feed(b""), lambda: decoder.feed(b"data: d\n\n"), decoder.check):
        with pytest.raises(EventTooLarge):
            call()


def test_where_nothing_came_before_it_is_raised_at_once() -> None:
    decoder = Decoder(max_event_size=10)
    with pytest.raises(EventTooLarge):
        decoder.feed(b"\n: a\n\nid: 1\n\ndata: 12345\n\ndata: a\n\n")
    with pytest.raises(EventTooLarge):
        decoder.check()


def test_nothing_is_kept_after_it() -> None:
    decoder = Decoder(max_event_size=1 << 20)
    pieces = [b"event: ", b"e" * 400_000, b"\ndata: ", b"d" * 400_000, b"\ndata: ", b"c" * 400_000]
    with traced() as held:
        with pytest.raises(EventTooLarge):
            for piece in pieces:
                decoder.feed(piece)
        assert held() < 100_000


def test_a_comment_that_never_ends_is_too_large() -> None:
    decoder = Decoder(max_event_size=1000)
    with pytest.raises(EventTooLarge):
        for _ in range(11):
            decoder.feed(b":" * 100)


def test_what_is_allowed_unless_something_else_is_said() -> None:
    decoder = Decoder()
    decoder.feed(b"data: " + b"a" * (MAX_EVENT_SIZE - 7))
    (event,) = decoder.feed(b"\n\n")
    assert len(event.data) == MAX_EVENT_SIZE - 7
    decoder.feed(b"data: " + b"a" * (MAX_EVENT_SIZE - 7))
    with pytest.raises(EventTooLarge):
        decoder.feed(b"a\n\n")


# -------------------------------------------------------------------------------------------- time and memory


class traced:
    """Gives a function that says how much has been allocated since, in bytes."""

    def __enter__(self) -> Callable[[], int]:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        return lambda: tracemalloc.get_traced_memory()[0] - before

    def __exit__(self, *exc_info: object) -> None:
        tracemalloc.stop()


def peaks(decoder: Decoder, pieces: Iterable[bytes]) -> Iterator[int]:
    """How much memory each `feed` takes at its height, beyond what was held before: it cannot copy more than that."""
    for piece in pieces:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        decoder.feed(piece)
        yield tracemalloc.get_traced_memory()[1] - before


@pytest.mark.parametrize("in_event", [b"", b"data: a\n", b"id: 1\n", b"event: a\n", b"retry: 1\n"])
def test_comments_never_add_up(in_event: bytes) -> None:
    """A million signs of life, and not one empty line: nothing is held of them, whatever the event they are in."""
    decoder = Decoder(max_event_size=10_000)
    decoder.feed(in_event)
    pings = b": ping\n" * 1250
    with traced() as held:
        for _ in range(4):
            assert decoder.feed(pings) == []
        assert held() < 10_000
    for _ in range(160):
        assert decoder.feed(pings) == []
    for at in range(0, len(pings), 100):
        assert decoder.feed(pings[at : at + 100]) == []
    (event,) = decoder.feed(b"data: b\n\n")
    assert event.data.endswith("b")


@pytest.mark.parametrize("size", [1, 3, 16])
def test_an_unfinished_line_takes_the_memory_of_its_bytes(size: int) -> None:
    """A server that sends by small pieces cannot make many of them."""
    decoder = Decoder()
    piece = b"abcdefghijklmnop"[:size]
    with traced() as held:
        for _ in range((1 << 16) // size):
            decoder.feed(bytes(bytearray(piece)))  # each of its own, as from a socket
        assert held() < 1.5 * (1 << 16)


@pytest.mark.parametrize("head", [b"data: ", b"data: a\n" * 1000 + b"data: "])
def test_a_piece_of_a_line_does_not_touch_what_is_held(head: bytes) -> None:
    """So that a large event in small pieces takes time that goes with its size, not with its square."""
    decoder = Decoder()
    decoder.feed(head + b"a" * (1 << 20))
    with traced():
        large = [peak for peak in peaks(decoder, [b"bc"] * 2000) if peak > 10_000]
    assert len(large) <= 2  # when the buffer grows
    (event,) = decoder.feed(b"\n\n")
    assert event.data.endswith("a" + "bc" * 2000)


def test_a_line_of_data_does_not_touch_what_is_held() -> None:
    decoder = Decoder()
    decoder.feed(b"data: a\n" * 100_000)
    with traced():
        large = [peak for peak in peaks(decoder, [b"data: b\n"] * 2000) if peak > 10_000]
    assert len(large) <= 2
    (event,) = decoder.feed(b"\n")
    assert event.data == "a\n" * 100_000 + "\n".join("b" * 2000)


def test_a_large_event_byte_by_byte() -> None:
    decoder = Decoder()
    decoder.feed(b"data: ")
    for byte in [b"a", b"b", b"c", b"d"] * (1 << 18):
        decoder.feed(byte)
    (event,) = decoder.feed(b"\n\n")
    assert event.data == "abcd" * (1 << 18)


def test_a_large_event_in_pieces_of_all_sizes() -> None:
    data = b"0123456789abcdefghijklmnopqrstuvwxyz\xe2\x82\xac\xff" * 30_000
    stream = b"data: " + data + b"\nid: 1\n\n"
    decoder = Decoder()
    events: list[ServerSentEvent] = []
    at = 0
    while at < len(stream):
        size = at % 16 + 1
        events += decoder.feed(stream[at : at + size])
        at += size
    assert events == [ServerSentEvent(data=data.decode("utf-8", "replace"), id="1")]

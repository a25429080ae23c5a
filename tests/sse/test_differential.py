"""Streams made at random, cut at random, are read as the rules of the standard say that `reference` has written out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncflow.sse import Decoder

from .reference import cut, interpret, replay
from .strategies import ANYTHING, CUTS, REPEATABLE, STREAMS

pytestmark = pytest.mark.once

RUN = b"data: a\n\ndata: b\n\n"
NAMED_RUN = b"id: 7\nevent: e\ndata: a\n\nevent: f\nid: 8\ndata: b\n\nid: 9\ndata: c\n\nevent: g\ndata: d\n\n"


@REPEATABLE
@given(STREAMS, CUTS, st.sampled_from(["", "0"]))
@example(RUN, [9], "")
@example(RUN + b"data: c", [], "0")
@example(b"id: 1\n" + RUN, [6], "0")
@example(b"retry: 1\n" + RUN, [9], "0")
@example(b"event: e\n" + RUN, [9], "0")
@example(b"data: z\n" + RUN, [8], "0")
@example(b"id: 1\n" + NAMED_RUN, [6], "0")
@example(b"retry: 1\n" + NAMED_RUN, [9], "0")
@example(b"event: e\n" + NAMED_RUN, [9], "0")
@example(b"data: z\n" + NAMED_RUN, [8], "0")
@example(NAMED_RUN + b"event: h\n\n" + NAMED_RUN, [], "")
@example(b"event: e\n\n" * 3, [], "0")
@example(b"id: 1\n\n" * 3, [], "0")
@example(b"data: data: \n\ndata: data: a\n\n", [], "")
@example(b"data: \n\n" * 2, [], "")
@example(b"data: a\n\n\n\ndata: b\n\n", [], "")
@example(b"data: a\n\ndata: b\ndata: c\n\n", [], "")
@example(b"data: a\n\ndata: b\n\nid: 1\n\ndata: c\n\n", [], "")
def test_any_stream_in_any_pieces(stream: bytes, places: list[int], last_event_id: str) -> None:
    expected = interpret(stream, last_event_id)
    assert replay(cut(stream, places), Decoder(last_event_id=last_event_id)) == expected


@REPEATABLE
@given(STREAMS)
def test_any_stream_cut_once_anywhere(stream: bytes) -> None:
    expected = interpret(stream)
    for place in range(min(len(stream), 200) + 1):
        assert replay([stream[:place], stream[place:]]) == expected, place


@REPEATABLE
@given(STREAMS)
def test_any_stream_byte_by_byte(stream: bytes) -> None:
    assert replay(stream[at : at + 1] for at in range(len(stream))) == interpret(stream)


@REPEATABLE
@given(st.one_of(ANYTHING, st.binary(max_size=40)), CUTS)
def test_anything_in_any_pieces(stream: bytes, places: list[int]) -> None:
    assert replay(cut(stream, places)) == interpret(stream)


def test_a_split_at_each_border_of_a_run() -> None:
    """Inside of what stands between two plain events, with everything that may be pending in front of them."""
    pending = ["", "id: 1\n", "retry: 1\n", "event: e\n", "data: z\n", ": c\n", "\n", "id: 1\n\n", "id: 1\n: c\n"]
    following = ["", "id: 2\n", "data: c\n\n", "data: c", "data\n\n", "\n", ": c\n\n", "data: c\ndata: d\n\n"]
    ways = itertools.product(pending, [RUN, NAMED_RUN], following)
    for stream in (before.encode() + run + behind.encode() for before, run, behind in ways):
        expected = interpret(stream)
        for first in range(len(stream) + 1):
            for second in (first, first + 1, first + 6, first + 13):
                pieces = cut(stream, [first, second])
                assert replay(pieces) == expected, pieces

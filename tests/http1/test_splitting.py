"""How the network cuts the bytes must make no difference to what is read, and to what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncflow.http1 import ParserLimits

from .replay import byte_by_byte, cut, replay
from .strategies import CUTS, REPEATABLE, any_responses

pytestmark = pytest.mark.once

SMALL_LIMITS = st.builds(
    ParserLimits,
    status_line=st.integers(12, 24),
    head=st.integers(28, 120),
    fields=st.integers(0, 4),
    empty_lines=st.integers(0, 2),
    informational=st.integers(0, 2),
    content_length_digits=st.integers(1, 3),
    chunk_size_digits=st.integers(1, 4),
    chunk_extension=st.integers(0, 8),
    trailers=st.integers(2, 30),
)


@REPEATABLE
@given(any_responses(), CUTS)
def test_any_cut_gives_the_same(response: tuple[str, bytes], places: list[int]) -> None:
    method, raw = response
    whole = replay([raw] if raw else [], method, closed=True)
    assert replay(cut(raw, places), method, closed=True) == whole
    assert replay(byte_by_byte(raw), method, closed=True) == whole


@REPEATABLE
@given(any_responses(), CUTS, SMALL_LIMITS)
def test_any_cut_meets_the_same_limit(
    response: tuple[str, bytes],
    places: list[int],
    limits: ParserLimits,
) -> None:
    method, raw = response
    whole = replay([raw] if raw else [], method, limits, closed=True)
    assert replay(cut(raw, places), method, limits, closed=True) == whole
    assert replay(byte_by_byte(raw), method, limits, closed=True) == whole


@REPEATABLE
@given(st.binary(max_size=60), CUTS)
def test_any_cut_of_any_bytes_gives_the_same(raw: bytes, places: list[int]) -> None:
    whole = replay([raw] if raw else [], closed=True)
    assert replay(cut(raw, places), closed=True) == whole
    assert replay(byte_by_byte(raw), closed=True) == whole

"""Hypothesis strategies for event streams, and for where they are cut.

Knows the format, and that a decoder may have quicker ways for many events as servers write them, with one line of data
each: streams go into them, out of them, and along their borders. Knows nothing else of the decoder under test.
"""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st

# The same examples in every run: a test of this suite that fails once fails always.
REPEATABLE = settings(derandomize=True, deadline=None, max_examples=400)

BOM = b"\xef\xbb\xbf"

# What means something, and what nearly does.
SCRAPS = st.sampled_from(
    [
        *[b"data", b"event", b"id", b"retry", b"Data", b"da", b"ta"],
        *[b":", b" ", b": ", b"data: ", b"data:", b"event: ", b"id: ", b"retry: "],
        *[b"\n", b"\n", b"\n\n", b"\r", b"\r", b"\r\n", b"\r\n\r\n", b"\n\ndata: "],
        *[b"\0", BOM, BOM[:2], BOM[2:], b"\xff", b"\xe2\x82", b"\xac", b"\xf0\x9f\x98", b"\xc0\x8a", b"\xed\xa0\x80"],
        *[b"0", b"7", b"12", b"+1", "\u0663".encode(), b"x", "\u20ac".encode(), "\u2028".encode()],
    ]
)
ANYTHING = st.lists(SCRAPS, max_size=30).map(b"".join)

# Values of one line.
VALUES = st.sampled_from(
    [b"", b"a", b" ", b"data: ", b"data: a", b":", b"id: 1", b"\0", b"7", b"1a", b"\xff", b"\xe2\x82"]
)
PLAIN = VALUES.map(b"data: %b\n\n".__mod__)
ID_LINES = st.one_of(st.just(b""), VALUES.map(b"id: %b\n".__mod__))
TYPE_LINES = st.one_of(st.just(b""), VALUES.map(b"event: %b\n".__mod__))
NAMED = st.tuples(ID_LINES, TYPE_LINES, ID_LINES, PLAIN).map(b"".join)


def alike(names: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Events with the same fields in the same order, and perhaps one line that does not fit in."""
    event = st.tuples(*[VALUES] * len(names)).map(
        lambda values: b"".join(b"%b: %b\n" % pair for pair in zip(names, values, strict=True)) + b"\n"
    )
    return st.lists(st.one_of(event, event, event, NEARLY), min_size=2, max_size=6).map(b"".join)


SHAPES = [names for size in (1, 2, 3) for names in itertools.permutations((b"event", b"id", b"data"), size)]
# Such as make the quicker way give up, in front of others that do not.
NEARLY = st.sampled_from(
    [
        *[b"event: e\ndata: a\nid: 1\n\n", b"id: 1\nid: 2\nid: 3\ndata: a\n\n", b"id: 1\ndata: a\ndata: b\n\n"],
        *[b"data: a\n: c\n", b"id: 1\ndata: a\nfoo\n", b"event: e\nid: 1\ndata: a\n:\n"],
        *[b"id: 1\n\n", b"event: e\n\n", b"event: e\nevent: f\ndata: a\n\n", b"id:1\ndata: a\n\n", b"id: 1\ndata\n\n"],
        *[b"id: 1\nretry: 5\ndata: a\n\n", b": c\nid: 1\ndata: a\n\n", b"xid: 1\ndata: a\n\n", b"id: 1\n data: a\n\n"],
    ]
)
RUNS = st.one_of(
    st.lists(PLAIN, min_size=2, max_size=6).map(b"".join),
    st.lists(NAMED, min_size=1, max_size=4).map(b"".join),
    st.lists(st.one_of(NAMED, NEARLY), min_size=2, max_size=4).map(b"".join),
    st.sampled_from(SHAPES).flatmap(alike),
)

# What puts a decoder between two runs into every state there is: something is pending, or a run begins anew.
NAMES = st.sampled_from([b"data", b"event", b"id", b"retry"])
COLONS = st.sampled_from([b":", b": ", b":  "])
LINES = st.one_of(
    st.sampled_from([b"\n", b"\n\n", b"data\n", b"event\n", b"id\n", b"retry\n", b": ping\n", b":\n\n", b"foo: 1\n"]),
    st.tuples(NAMES, COLONS, VALUES).map(b"%b%b%b\n".__mod__),
)
BORDERS = st.sampled_from([b"\n", b"\n\n", b"\ndata: ", b"\n\ndata: ", b"\n\n\ndata: ", b"\n\ndata:", b"\n\nid: 7"])
MIXED = st.lists(st.one_of(RUNS, LINES, BORDERS), max_size=8).map(b"".join)

# The same with another end of lines; what is CR and LF by itself stays mixed.
ENDS = st.sampled_from([b"\n", b"\n", b"\r", b"\r\n"])
EVENTFUL = st.builds(lambda stream, end: stream.replace(b"\n", end), MIXED, ENDS)

STREAMS = st.builds(
    lambda mark, parts: mark + b"".join(parts),
    st.sampled_from([b"", b"", b"", BOM, BOM + BOM, BOM[:2]]),
    st.lists(st.one_of(EVENTFUL, ANYTHING), min_size=1, max_size=3),
)
CUTS = st.lists(st.integers(0, 400), max_size=12)

"""Bytes that tell their place: what the Receiver sends, and what a test compares with.

Knows one repeated block. Its length is prime, so that nothing shifted, dropped or doubled by a round number
of bytes goes unnoticed, as it would with a period of 64 KiB.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator

PERIOD = 262_139


@functools.cache
def block() -> bytes:
    return hashlib.shake_256(b"syncflow").digest(PERIOD)


def pattern(length: int, offset: int = 0) -> bytes:
    """`length` bytes of the pattern from `offset` on."""
    start = offset % PERIOD
    repeated = block() * ((start + length) // PERIOD + 1)
    return repeated[start : start + length]


def pattern_pieces(length: int) -> Iterator[memoryview]:
    """The first `length` bytes, a block or less at a time, without copying."""
    view = memoryview(block())
    while length > 0:
        yield view[:length]
        length -= PERIOD


def pattern_sha256(length: int) -> str:
    """The digest of the first `length` bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for piece in pattern_pieces(length):
        digest.update(piece)
    return digest.hexdigest()

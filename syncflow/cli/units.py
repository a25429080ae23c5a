"""Sizes, rates and durations: as people write them, and as they read them.

Knows prefixes. Bare ones are powers of 1024, as for dd and truncate: 1M = 1MiB = 1,048,576 bytes, and 1MB = 1,000,000.
"""

from __future__ import annotations

import math
import re

__all__ = ["format_duration", "format_rate", "format_size", "parse_rate", "parse_size"]

_PREFIXES = "kmgt"
_NAMES = ("B", "KiB", "MiB", "GiB", "TiB")
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(?:([kmgt])(i?b)?|b)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes, at least one.

    >>> parse_size("256M"), parse_size("1.5 GiB"), parse_size("100kB"), parse_size("7")
    (268435456, 1610612736, 100000, 7)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write 256M, 1.5GiB or 100k")
    number, prefix, unit = match.groups()
    base = 1000 if (unit or "").lower() == "b" else 1024
    size = float(number) * base ** (_PREFIXES.index(prefix.lower()) + 1 if prefix else 0)
    if not 1 <= size < math.inf:
        raise ValueError(f"{text!r} is not a size: it must be at least one byte")
    return int(size)


def parse_rate(text: str) -> int:
    """Bytes a second; "/s" may be said or not.

    >>> parse_rate("32M"), parse_rate("100k/s")
    (33554432, 102400)
    """
    return parse_size(text.strip().removesuffix("/s"))


def format_size(count: float) -> str:
    """With one decimal, unless it is whole.

    >>> [format_size(n) for n in (812, 65536, 1500000, 2**30 - 1)]
    ['812 B', '64 KiB', '1.4 MiB', '1 GiB']
    """
    power = 0
    while power < len(_NAMES) - 1 and round(count, 1) >= 1024:
        count /= 1024
        power += 1
    digits = f"{count:.1f}" if power else f"{count:.0f}"
    return f"{digits.removesuffix('.0')} {_NAMES[power]}"


def format_rate(rate: float) -> str:
    """Bytes a second.

    >>> format_rate(33554432)
    '32 MiB/s'
    """
    return f"{format_size(rate)}/s"


def format_duration(seconds: float) -> str:
    """As short as it can be said.

    >>> [format_duration(s) for s in (0.25, 8.04, 75, 7260)]
    ['0.25 s', '8.0 s', '1 min 15 s', '2 h 1 min']
    """
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

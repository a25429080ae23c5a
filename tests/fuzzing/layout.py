"""How the bytes that a fuzzer thinks up are read as what a target needs: a few numbers in front, texts with a separator
in between.

Knows nothing of any target. What is written here can be read by a mutation as well as by a strategy: no lengths that
must agree, nothing that makes an input invalid.
"""

from __future__ import annotations

# No UTF-8 has it, and so no text of a seed or a strategy.
SEPARATOR = b"\xff\xff"
# Between two of what has several texts each.
NEXT = b"\xff\xfe\xff"


def divided(data: bytes, size: int) -> tuple[bytes, bytes]:
    """The numbers in front, `size` bytes whatever comes, and the rest."""
    return data[:size].ljust(size, b"\0"), data[size:]


def places(numbers: bytes) -> list[int]:
    """Where to cut: two bytes for each place."""
    return [int.from_bytes(numbers[at : at + 2], "big") for at in range(0, len(numbers), 2)]


def texts(data: bytes, count: int) -> list[str]:
    """The first `count` texts, empty where there are fewer. Any string can be had, half a surrogate pair included: that
    is what becomes of a byte that is no UTF-8."""
    parts = data.split(SEPARATOR)[:count]
    found = [part.decode("utf-8", "surrogateescape") for part in parts]
    return found + [""] * (count - len(found))


def joined(*parts: str | bytes) -> bytes:
    """What `texts` reads them from."""
    return SEPARATOR.join(part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass") for part in parts)

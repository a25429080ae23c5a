"""The transforms of a pipe, each for itself: what comes out, wherever the input is cut, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from syncflow import DecompressionError, RequestException, streams
from syncflow.streams import Transform
from syncflow.streams.transforms import DECODED


def run(transform: Transform, pieces: Iterable[bytes]) -> bytes:
    """What a transform makes of a stream, as `pipe` drives it."""
    out = bytearray()
    streams.pipe(pieces, transform, sink=out.extend)
    return bytes(out)


def processed(transform: Transform, pieces: Iterable[bytes]) -> bytes:
    """The same by the two methods that every transform has."""
    return b"".join([*map(transform.process, pieces), transform.finish()])


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """`data` whole, in every two parts, and byte by byte."""
    yield [data]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]
    yield [data[at : at + 1] for at in range(len(data))]


BOTH_WAYS = pytest.mark.parametrize("drive", [run, processed])

# What each is, for what holds for all of them.
ALL: dict[str, Callable[[], Transform]] = {
    "gzip": streams.gzip,
    "gunzip": streams.gunzip,
    "digest": streams.digest,
    "throttle": lambda: streams.throttle(1e9),
    "count": streams.count,
    "lines": streams.lines,
}


@pytest.mark.parametrize("name", ALL)
def test_process_is_the_pieces_joined(name: str) -> None:
    data = gzip.compress(b"some\nlines of\ntext" * 100_000)
    one, other = ALL[name](), ALL[name]()
    pieces = getattr(other, "pieces", None)
    expected = b"".join(pieces(data)) if pieces is not None else other.process(data)
    assert one.process(data) == expected
    assert one.finish() == other.finish()


@pytest.mark.parametrize("name", ["digest", "throttle", "count", "lines"])
@BOTH_WAYS
def test_what_only_looks_changes_nothing(name: str, drive: Any) -> None:
    data = random.Random(1).randbytes(100_000)
    assert drive(ALL[name](), [data[:7], data[7:60_000], data[60_000:]]) == data
    assert drive(ALL[name](), []) == b""


# ----------------------------------------------------------------------------------------------------------- gzip


@pytest.mark.parametrize("level", range(10))
def test_gzip_makes_what_gzip_reads(level: int) -> None:
    data = b"some text, again and again " * 20_000 + random.Random(1).randbytes(100_000)
    packed = run(streams.gzip(level), [data[:1], data[1:500_000], data[500_000:]])
    assert gzip.decompress(packed) == data


def test_gzip_packs_better_at_a_higher_level() -> None:
    data = b"".join(b"%d, " % number for number in range(50_000))
    sizes = [len(run(streams.gzip(level), [data])) for level in (0, 1, 9)]
    assert sizes[0] > len(data) > sizes[1] > sizes[2]


def test_gzip_of_nothing_is_an_empty_member() -> None:
    assert gzip.decompress(run(streams.gzip(), [])) == b""


def test_gzip_makes_the_same_of_the_same() -> None:
    """No time in the head (RFC 1952, section 2.3.1: MTIME)."""
    packed = run(streams.gzip(), [b"the same"])
    assert packed[4:8] == bytes(4)
    assert packed == run(streams.gzip(), [b"the ", b"same"])


def test_gzip_used_again_makes_another_member() -> None:
    transform = streams.gzip()
    packed = run(transform, [b"one, "]) + run(transform, [b"two"])
    assert gzip.decompress(packed) == b"one, two"
    assert run(streams.gunzip(), [packed]) == b"one, two"


@pytest.mark.parametrize("level", [-1, 10, True, 6.0, "6", None])
def test_gzip_refuses_other_levels(level: Any) -> None:
    with pytest.raises(ValueError, match="level is a number from 0"):
        streams.gzip(level)


# --------------------------------------------------------------------------------------------------------- gunzip


def member_with_everything() -> bytes:
    """A member whose head has every optional part (RFC 1952, section 2.3)."""
    head = b"\x1f\x8b\x08\x1e" + bytes(6) + b"\x04\x00ab\x00\x00" + b"name\x00" + b"comment\x00"
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(b"full") + packer.flush()
    return head + body + zlib.crc32(b"full").to_bytes(4, "little") + (4).to_bytes(4, "little")


WHOLE = {
    "one member": (gzip.compress(b"some text"), b"some text"),
    "an empty member": (gzip.compress(b""), b""),
    "two members": (gzip.compress(b"one, ") + gzip.compress(b"two"), b"one, two"),
    "an empty member between": (gzip.compress(b"a") + gzip.compress(b"") + gzip.compress(b"b"), b"ab"),
    "zeros behind": (gzip.compress(b"padded") + bytes(20), b"padded"),
    "zeros between": (gzip.compress(b"one, ") + bytes(5) + gzip.compress(b"two") + bytes(1), b"one, two"),
    "a head with everything": (member_with_everything(), b"full"),
    "stored": (gzip.compress(bytes(range(256)), 0), bytes(range(256))),
}


@pytest.mark.parametrize("name", WHOLE)
@BOTH_WAYS
def test_gunzip_wherever_the_input_is_cut(name: str, drive: Any) -> None:
    packed, plain = WHOLE[name]
    assert gzip.decompress(packed) == plain  # as Python has it
    for pieces in cuts(packed):
        assert drive(streams.gunzip(), pieces) == plain


@pytest.mark.parametrize("name", WHOLE)
def test_gunzip_notices_wherever_the_input_ends(name: str) -> None:
    """But behind a member, where nothing tells that another was to come."""
    packed, _ = WHOLE[name]
    complete = {len(packed)}
    for end in range(len(packed)):
        try:
            gzip.decompress(packed[:end])
        except (OSError, EOFError, zlib.error):
            continue
        if end:
            complete.add(end)
    for end in range(len(packed)):
        if end in complete:
            run(streams.gunzip(), [packed[:end]])
            continue
        with pytest.raises(DecompressionError, match=f"ended after {end} bytes"):
            run(streams.gunzip(), [packed[:end]] if end else [])


def broken(packed: bytes, at: int) -> bytes:
    changed = bytearray(packed)
    changed[at] ^= 0xFF
    return bytes(changed)


ONE = gzip.compress(b"some text that is long enough to be packed, packed, packed")
CORRUPT = {
    "no gzip": b"plain text, not packed",
    "zeros before": bytes(3) + ONE,
    "zlib": zlib.compress(b"text"),
    "wrong sum": broken(ONE, -8),
    "wrong length": broken(ONE, -1),
    "other method": broken(ONE, 2),
    "text behind": ONE + b"and more",
    "text behind zeros": ONE + bytes(9) + b"and more",
    "one letter behind": ONE + b"xx",
}


@pytest.mark.parametrize("name", CORRUPT)
def test_gunzip_refuses_what_is_not_gzip_wherever_it_is_cut(name: str) -> None:
    for pieces in cuts(CORRUPT[name]):
        with pytest.raises(DecompressionError, match="not gzip, or corrupt") as caught:
            run(streams.gunzip(), pieces)
        assert isinstance(caught.value, RequestException)
        assert isinstance(caught.value.__cause__, zlib.error)


def test_gunzip_does_not_seem_whole_after_an_error() -> None:
    transform = streams.gunzip()
    with pytest.raises(DecompressionError):
        transform.process(b"plain text")
    with pytest.raises(DecompressionError):
        transform.process(ONE)
    with pytest.raises(DecompressionError):
        transform.finish()


def test_gunzip_can_be_used_again() -> None:
    transform = streams.gunzip()
    for _ in range(3):
        assert run(transform, [ONE]) == gzip.decompress(ONE)
    with pytest.raises(DecompressionError, match="ended after 0 bytes"):
        run(transform, [])


def test_gunzip_holds_nothing_back() -> None:
    """Whatever can be decoded of what has come is handed on: also what zlib has left when a piece is full, and it has
    taken all of the input."""
    packed = gzip.compress(bytes(5 * DECODED))
    for end in range(len(packed)):
        expected = zlib.decompressobj(31).decompress(packed[:end])
        assert len(streams.gunzip().process(packed[:end])) == len(expected), end


def test_gunzip_of_a_bomb_goes_in_small_steps() -> None:
    packed = gzip.compress(bytes(64 << 20))
    assert len(packed) < 70_000
    sizes: list[int] = []
    assert streams.pipe(packed, streams.gunzip(), sink=lambda piece: sizes.append(len(piece))) == 64 << 20
    assert max(sizes) == DECODED
    assert sum(sizes) == 64 << 20


def test_gunzip_undoes_gzip() -> None:
    data = random.Random(3).randbytes(300_000) + bytes(2_000_000)
    out = bytearray()
    streams.pipe(io.BytesIO(data), streams.gzip(1), streams.gunzip(), sink=out.extend)
    assert out == data


# --------------------------------------------------------------------------------------------------------- digest


@pytest.mark.parametrize("name", ["sha256", "md5", "sha1", "sha512", "sha3_256", "blake2b"])
def test_digest_is_that_of_hashlib(name: str) -> None:
    transform = streams.digest(name)
    run(transform, [b"some ", b"bytes"])
    expected = hashlib.new(name, b"some bytes")
    assert (transform.name, transform.digest(), transform.hexdigest()) == (
        expected.name,
        expected.digest(),
        expected.hexdigest(),
    )


def test_digest_is_sha256_unless_told_and_goes_on_with_the_next_stream() -> None:
    transform = streams.digest()
    assert transform.name == "sha256"
    assert transform.hexdigest() == hashlib.sha256().hexdigest()
    run(transform, [b"some "])
    run(transform, [b"bytes"])
    assert transform.hexdigest() == hashlib.sha256(b"some bytes").hexdigest()


@pytest.mark.parametrize("name", ["sha257", "", "shake_128"])
def test_digest_refuses_other_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"unsupported|any length"):
        streams.digest(name)


# ---------------------------------------------------------------------------------------------------------- count


def test_count_counts_what_passes_it() -> None:
    before, after = streams.count(), streams.count()
    data = bytes(1_000_000)
    moved = streams.pipe(data, before, streams.gzip(), after, sink=lambda piece: None)
    assert before.bytes == len(data)
    assert after.bytes == moved < len(data)


# ------------------------------------------------------------------------------------------------------- throttle


class Clock:
    """Time that passes when somebody sleeps, and a little too much of it."""

    def __init__(self, late: float = 0.0) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._late = late

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds + self._late


@pytest.mark.parametrize("late", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("rate", [100, 1234.5, 1_000_000])
def test_throttle_keeps_to_its_rate(rate: float, late: float) -> None:
    """Also where a sleep lasts too long."""
    clock = Clock(late)
    size = int(rate * 20)
    started, passed = clock.now, 0
    for piece in streams.throttle(rate, clock=clock.time, sleep=clock.sleep).pieces(bytes(size)):
        passed += len(piece)
        # A tenth of a second's worth may pass at once, and as much again where a sleep was late.
        assert passed <= rate * (clock.now - started + 0.2) + 1
    assert passed == size
    assert 19.5 <= clock.now - started <= 20.5
    assert max(clock.slept) < 0.11


def test_throttle_sleeps_only_as_long_as_it_must() -> None:
    clock = Clock()
    transform = streams.throttle(1000, clock=clock.time, sleep=clock.sleep)
    for _ in range(20):
        transform.process(bytes(100))
        clock.now += 0.1  # whoever takes it is as slow as that
    assert clock.slept == []


def test_throttle_makes_up_for_no_long_silence() -> None:
    clock = Clock()
    transform = streams.throttle(1000, clock=clock.time, sleep=clock.sleep)
    transform.process(bytes(100))
    clock.now += 60
    started = clock.now
    transform.process(bytes(2000))
    assert clock.now - started == pytest.approx(1.8)


@pytest.mark.parametrize("rate", [0.5, 3, 10, 11])
def test_throttle_of_a_few_bytes_passes_them_one_by_one(rate: float) -> None:
    clock = Clock()
    transform = streams.throttle(rate, clock=clock.time, sleep=clock.sleep)
    assert list(transform.pieces(b"abcd")) == [b"a", b"b", b"c", b"d"]
    assert sum(clock.slept) == pytest.approx(4 / rate, abs=1 / rate + 0.11)


def test_throttle_uses_a_clock_of_its_own() -> None:
    received = bytearray()
    assert streams.pipe(bytes(100), streams.throttle(2000), sink=received.extend) == 100


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_throttle_refuses_other_rates(rate: float) -> None:
    with pytest.raises(ValueError, match="bytes_per_second is more than 0"):
        streams.throttle(rate)


@pytest.mark.parametrize("rate", ["100", None, True])
def test_throttle_refuses_what_is_no_number(rate: Any) -> None:
    with pytest.raises(TypeError, match="bytes_per_second is a number"):
        streams.throttle(rate)


# ---------------------------------------------------------------------------------------------------------- lines

TEXT = b"one\ntwo\r\n\nlone \r is none\r\n\r\r\nlast"
LINES = [b"one\n", b"two\r\n", b"\n", b"lone \r is none\r\n", b"\r\r\n", b"last"]


@pytest.mark.parametrize("ended", [False, True])
def test_lines_come_one_at_a_time_wherever_the_input_is_cut(ended: bool) -> None:
    text, expected = (TEXT + b"\n", [*LINES[:-1], b"last\n"]) if ended else (TEXT, LINES)
    for pieces in cuts(text):
        received: list[bytes] = []
        streams.pipe(pieces, streams.lines(), sink=received.append)
        assert received == expected
        assert processed(streams.lines(), pieces) == text


def test_lines_can_be_changed_and_dropped() -> None:
    asked: list[bytes] = []

    def each(line: bytes) -> bytes | None:
        asked.append(line)
        return None if line.strip() == b"" else line.upper() if line != b"two\r\n" else b""

    for pieces in cuts(TEXT):
        asked.clear()
        assert run(streams.lines(each), pieces) == b"ONE\nLONE \r IS NONE\r\nLAST"
        assert asked == LINES


@pytest.mark.parametrize("made", [bytearray(b"made"), memoryview(b"made")])
def test_each_may_return_anything_like_bytes(made: Any) -> None:
    assert run(streams.lines(lambda line: made), [b"a\nb"]) == b"mademade"


@pytest.mark.parametrize("made", ["text", 5, [b"a"]])
def test_each_may_return_nothing_else(made: Any) -> None:
    with pytest.raises(TypeError, match=f"returned {type(made).__name__}"):
        run(streams.lines(lambda line: made), [b"a\nb"])


def test_a_line_is_taken_before_the_next_is_made() -> None:
    """One at a time: the sink has one before `each` is asked for another."""
    happened: list[str] = []
    names = itertools.count(1)

    def each(line: bytes) -> bytes:
        happened.append(f"made {next(names)}")
        return line

    streams.pipe(b"a\nb\n", streams.lines(each), sink=lambda line: happened.append("taken"))
    assert happened == ["made 1", "taken", "made 2", "taken"]


@pytest.mark.parametrize("limit", [1, 5, 100])
def test_a_line_may_be_as_long_as_the_limit(limit: int) -> None:
    text = bytes(limit - 1) + b"\n" + bytes(limit)
    for pieces in cuts(text):
        assert run(streams.lines(limit=limit), pieces) == text


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_longer_one_is_refused_before_it_is_whole(end: bytes) -> None:
    for pieces in cuts(b"ok\n" + b"x" * 11 + end):
        received: list[bytes] = []
        with pytest.raises(ValueError, match=r"a line has more than 10 bytes; allow more with lines\(limit=\)"):
            streams.pipe(pieces, streams.lines(limit=10), sink=received.append)
        assert received == [b"ok\n"]


def test_an_endless_line_is_not_collected() -> None:
    asked = 0

    def endless() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(65_536)

    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        streams.pipe(endless(), streams.lines(), sink=lambda line: None)
    assert asked == 17


@pytest.mark.parametrize("limit", [0, -1, 1.5, None, True])
def test_lines_refuses_other_limits(limit: Any) -> None:
    with pytest.raises(ValueError, match="limit is a number of bytes"):
        streams.lines(limit=limit)


def test_lines_refuses_what_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="each is called with a line"):
        streams.lines(b"\n")  # type: ignore[arg-type]

"""Content codings undone: whole, in pieces, stacked, damaged, as bombs; side by side with what `requests` uses."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import io
import random
import subprocess
import sys
import tracemalloc
import types
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncflow import decoders
from syncflow.decoders import MOST_CODINGS, Decoder, accepted_codings, decoder_of
from syncflow.exceptions import ContentDecodingError, DecompressionError, ReadTimeout

WHERE = "example.com:443"
TEXT = b"".join(b"%d bottles of beer on the wall, " % count for count in range(99, 0, -1))
# Nothing in it repeats, so that half of what is encoded is half of what was.
NOISE = random.Random(8).randbytes(5000)


def encode_raw_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(data) + encoder.flush()


def encode_br(data: bytes) -> bytes:
    try:
        import brotli
    except ImportError:
        import brotlicffi as brotli
    encoded: bytes = brotli.compress(data)
    return encoded


def encode_zstd(data: bytes, **options: Any) -> bytes:
    encoded: bytes = zstandard().ZstdCompressor(write_checksum=True, **options).compress(data)
    return encoded


def zstandard() -> Any:
    return pytest.importorskip("zstandard", reason="its encoder makes what is decoded here")


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": functools.partial(gzip.compress, mtime=0),
    "deflate": zlib.compress,
    "raw deflate": encode_raw_deflate,
    "br": encode_br,
    "zstd": encode_zstd,
}
needs_br = pytest.mark.skipif("br" not in accepted_codings(), reason="no brotli of version 1.2 is installed")
needs_zstd = pytest.mark.skipif("zstd" not in accepted_codings(), reason="zstandard is not installed")
MARKS = {"br": [needs_br], "zstd": [needs_zstd]}
each_coding = pytest.mark.parametrize("coding", [pytest.param(name, marks=MARKS.get(name, [])) for name in ENCODERS])


def encode(codings: str, data: bytes) -> bytes:
    for coding in codings.split(", "):
        data = ENCODERS[coding](data)
    return data


def decoder(codings: str, read: Callable[[int], bytes]) -> Decoder:
    made = decoder_of(codings.replace("raw ", ""), read, WHERE)
    assert made is not None
    return made


def whole(codings: str, encoded: bytes, *, step: int = 1 << 20, size: int = 65536) -> bytes:
    """All of it, given in pieces of `step` bytes and read by `size`."""
    file = io.BytesIO(encoded)
    return b"".join(pieces(decoder(codings, lambda most: file.read(min(step, most))), size))


def pieces(made: Decoder, size: int) -> Iterator[bytes]:
    while piece := made.read(size):
        assert len(piece) <= size
        yield piece
    assert made.read(size) == b"", "the end is not the end"


def given_as(parts: Iterable[bytes]) -> Callable[[int], bytes]:
    """A `read` that gives each part at once, then fails: nobody should have asked."""
    left = iter(parts)

    def read(most: int) -> bytes:
        part = next(left, None)
        if part is None:
            raise ReadTimeout("nothing more has arrived")
        assert len(part) <= most
        return part

    return read


# ------------------------------------------------------------------ whole bodies


@each_coding
@pytest.mark.parametrize("size", [1, 65536])
@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("data", [b"", b"x", TEXT, NOISE, bytes(300_000)], ids=["empty", "x", "text", "noise", "zeros"])
def test_what_was_encoded_is_decoded(coding: str, data: bytes, size: int, step: int) -> None:
    if size == 1:
        data = data[:40_000]  # over one step of a decoder
    assert whole(coding, encode(coding, data), step=step, size=size) == data


@pytest.mark.parametrize(
    "codings",
    [
        "gzip",
        "deflate",
        "raw deflate",
        "gzip, deflate",
        pytest.param("br", marks=needs_br),
        pytest.param("zstd", marks=needs_zstd),
        pytest.param("zstd, gzip, br", marks=[needs_br, needs_zstd]),
    ],
)
@settings(max_examples=50)
@given(data=st.data())
def test_it_does_not_matter_how_it_comes(codings: str, data: st.DataObject) -> None:
    block = data.draw(st.binary(max_size=300))
    content = block * data.draw(st.sampled_from([1, 2, 500]))
    encoded = encode(codings, content)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=20)))
    parts = [encoded[start:end] for start, end in zip([0, *cuts], [*cuts, len(encoded)], strict=True) if end > start]
    # No part is longer than what is asked for at once.
    parts = [part[at : at + 4096] for part in parts for at in range(0, len(part), 4096)]
    sizes = data.draw(st.lists(st.integers(1, 70_000), min_size=1, max_size=5))
    made = decoder(codings, given_as([*parts, b"", b""]))
    decoded, count = b"", 0
    while piece := made.read(size := sizes[count % len(sizes)]):
        assert len(piece) <= size
        decoded, count = decoded + piece, count + 1
    assert decoded == content


@each_coding
def test_no_body_at_all_decodes_to_nothing(coding: str) -> None:
    assert whole(coding, b"") == b""
    assert whole(f"{coding}, gzip", b"") == b""


def flushed(coding: str, parts: list[bytes]) -> list[bytes]:
    """Encoded as a stream, each part so that it can be decoded without the next."""
    if coding == "br":
        encoder = pytest.importorskip("brotli").Compressor()
        return [encoder.process(part) + encoder.flush() for part in parts]
    if coding == "zstd":
        stream = zstandard().ZstdCompressor().compressobj()
        return [stream.compress(part) + stream.flush(zstandard().COMPRESSOBJ_FLUSH_BLOCK) for part in parts]
    deflater = zlib.compressobj(wbits={"gzip": 31, "deflate": 15, "raw deflate": -15}[coding])
    return [deflater.compress(part) + deflater.flush(zlib.Z_SYNC_FLUSH) for part in parts]


@each_coding
def test_what_has_come_is_given_before_more_is_waited_for(coding: str) -> None:
    """As events are streamed."""
    made = decoder(coding, given_as(flushed(coding, [b"first", b"second"])))
    assert made.read(100) == b"first"
    assert made.read(100) == b"second"
    with pytest.raises(ReadTimeout, match="nothing more has arrived"):
        made.read(100)


@each_coding
def test_the_last_bytes_are_given_before_the_end_is_waited_for(coding: str) -> None:
    made = decoder(coding, given_as([encode(coding, b"all there is")]))
    assert made.read(100) == b"all there is"
    with pytest.raises(ReadTimeout):
        made.read(100)


# ------------------------------------------------------------------ which coding


@pytest.mark.parametrize("field", ["", " ", ",", "identity", "Identity, ", "compress", "gzip, rot13", "rot13, gzip"])
def test_nothing_to_decode(field: str) -> None:
    assert decoder_of(field, given_as([]), WHERE) is None
    assert decoder_of(", ".join([field, *["rot13"] * 6]), given_as([]), WHERE) is None


@pytest.mark.parametrize(
    "field", ["gzip", "GZip", "x-gzip", "X-GZIP", " gzip\t", "gzip, identity", ",gzip,,", "identity,gzip"]
)
def test_names_as_they_may_be_written(field: str) -> None:
    assert whole(field, encode("gzip", TEXT)) == TEXT


@pytest.mark.parametrize(
    "codings",
    ["gzip, deflate", "deflate, gzip", pytest.param("gzip, br, zstd, deflate", marks=[needs_br, needs_zstd])],
)
def test_the_last_coding_is_undone_first(codings: str) -> None:
    assert whole(codings, encode(codings, TEXT), step=1) == TEXT
    backwards = ", ".join(reversed(codings.split(", ")))
    with pytest.raises(DecompressionError):
        whole(backwards, encode(codings, TEXT))


def test_five_codings_are_undone_and_six_refused() -> None:
    five = ", ".join(["gzip", "deflate", "gzip", "deflate", "gzip"])
    assert MOST_CODINGS == 5
    assert whole(five, encode(five, TEXT), size=1) == TEXT
    assert whole(f"identity, {five}", encode(five, TEXT)) == TEXT
    with pytest.raises(
        DecompressionError, match=r"^example\.com:443: the body was encoded 6 times, .* at most 5"
    ) as caught:
        decoder_of(f"{five}, gzip", given_as([]), WHERE)
    assert caught.value.phase == "body"


# ------------------------------------------------------------------ gzip and deflate


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("between", [b"", encode("gzip", b"") * 1000])
def test_members_one_behind_another(between: bytes, step: int) -> None:
    encoded = encode("gzip", TEXT) + between + encode("gzip", NOISE)
    assert whole("gzip", encoded, step=step) == TEXT + NOISE


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize(
    "rest", [bytes(1), bytes(100_000), b"\x1f", b"garbage", b"\x1f\x8c", bytes(5) + encode("gzip", b"never seen")]
)
def test_what_is_no_member_is_ignored_and_read_to_its_end(rest: bytes, step: int) -> None:
    file = io.BytesIO(encode("gzip", TEXT) + rest)
    made = decoder("gzip", lambda most: file.read(min(step, most)))
    assert b"".join(pieces(made, 65536)) == TEXT
    assert not file.read(1)


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("coding", ["deflate", "raw deflate"])
def test_what_follows_deflate_is_ignored_and_read_to_its_end(coding: str, step: int) -> None:
    file = io.BytesIO(encode("gzip", encode(coding, TEXT) + NOISE * 10) + NOISE)
    made = decoder(f"{coding}, gzip", lambda most: file.read(min(step, most)))
    assert b"".join(pieces(made, 65536)) == TEXT
    assert not file.read(1)


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("window", [9, 12, 15])
@pytest.mark.parametrize("sign", [1, -1], ids=["zlib", "raw"])
def test_deflate_of_every_kind(level: int, window: int, sign: int) -> None:
    encoder = zlib.compressobj(level, wbits=sign * window)
    assert whole("deflate", encoder.compress(TEXT) + encoder.flush(), step=1) == TEXT


# ------------------------------------------------------------------ zstd


@needs_zstd
@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_792, 200_000], ids=lambda size: f"{size} bytes")
@pytest.mark.parametrize("says_size", [True, False])
@pytest.mark.parametrize("has_checksum", [True, False])
def test_zstd_headers_of_every_length(size: int, says_size: bool, has_checksum: bool, step: int) -> None:
    for content in (bytes(size), (NOISE * 41)[:size]):
        encoder = zstandard().ZstdCompressor(write_checksum=has_checksum, write_content_size=says_size)
        assert whole("zstd", encoder.compress(content), step=step) == content
        stream = encoder.compressobj()
        assert whole("zstd", stream.compress(content) + stream.flush(), step=step) == content


@needs_zstd
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_zstd_frames_one_behind_another(step: int) -> None:
    skipped = [b"\x50\x2a\x4d\x18" + len(rest).to_bytes(4, "little") + rest for rest in (b"", b"x", NOISE)]
    first, empty, second = encode("zstd", TEXT), encode("zstd", b""), encode("zstd", NOISE)
    encoded = b"".join([*skipped, first, empty * 100, *skipped, second, *skipped])
    assert whole("zstd", encoded, step=step) == TEXT + NOISE
    assert whole("zstd", skipped[0], step=step) == b""


@needs_zstd
@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize(
    "rest", [b"\0", b"garbage", b"\x27\xb5\x2f\xfd\x00\x00\x00"], ids=["zero", "garbage", "version 0.7"]
)
def test_what_follows_zstd_is_another_frame(rest: bytes, step: int) -> None:
    for encoded in (rest, encode("zstd", TEXT) + rest):
        with pytest.raises(DecompressionError, match="zstd"):
            whole("zstd", encoded, step=step)


@needs_zstd
def test_zstd_with_a_window_that_is_too_large() -> None:
    def encoded(window_log: int) -> bytes:
        parameters = zstandard().ZstdCompressionParameters.from_level(3, window_log=window_log)
        stream = zstandard().ZstdCompressor(compression_params=parameters).compressobj()
        return bytes(stream.compress(NOISE) + stream.flush())

    assert whole("zstd", encoded(23)) == NOISE
    with pytest.raises(DecompressionError, match="memory|window|Window"):
        whole("zstd", encoded(24))


@needs_zstd
def test_zstd_is_divided_where_its_blocks_end() -> None:
    """What bounds the memory: the decoder itself would not mind."""
    for descriptor in (value for value in range(256) if not value & 8):  # that bit is reserved
        header = b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + bytes(13)
        size = zstandard().frame_header_size(header)
        units = decoders._units_of_frame()
        assert next(units) == 5
        assert units.send(header[:5]) == size + 3 - 5
        for kind, length in ((0, 1000), (1, 1), (2, 1000), (0, 0)):  # raw, a run, compressed, empty
            block = (1000 * bool(length) << 3 | kind << 1).to_bytes(3, "little")
            assert units.send(b"??" + block) == length + 3
        assert units.send(b"??" + (1000 << 3 | 1).to_bytes(3, "little")) == 1000 + (4 if descriptor & 4 else 0)
    units = decoders._units_of_frame()
    next(units)
    with pytest.raises(ValueError, match="no frame"):
        units.send(b"\x27\xb5\x2f\xfd\x00")  # version 0.7, which a decoder may know


# ------------------------------------------------------------------ damage


def damaged_in_the_middle(coding: str) -> bytes:
    encoded = encode(coding, TEXT)
    half = len(encoded) // 2
    return encoded[:half] + b"\xff" * 30 + encoded[half:]


@each_coding
def test_damage_in_the_middle(coding: str) -> None:
    name = coding.removeprefix("raw ")
    expected = rf"^example\.com:443: the body does not decode as {name}, .*: .*'Accept-Encoding: identity'$"
    with pytest.raises(DecompressionError, match=expected) as caught:
        whole(coding, damaged_in_the_middle(coding))
    assert isinstance(caught.value, ContentDecodingError)
    assert caught.value.phase == "body"
    assert caught.value.bytes_received == len(damaged_in_the_middle(coding))
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("coding", ["gzip", "deflate", pytest.param("zstd", marks=needs_zstd)])
def test_no_bit_can_change_unseen(coding: str) -> None:
    """Some bits of a header mean nothing to the content; any other is found by the sums."""
    encoded = encode(coding, TEXT[:200])
    found = 0
    for bit in range(8 * len(encoded)):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert whole(coding, bytes(damaged)) == TEXT[:200], bit
        except DecompressionError:
            found += 1
    assert found > 8 * (len(encoded) - 10)


@pytest.mark.parametrize(
    ("coding", "at"), [("gzip", -8), ("gzip", -1), ("deflate", -1), pytest.param("zstd", -1, marks=needs_zstd)]
)
def test_a_wrong_sum(coding: str, at: int) -> None:
    damaged = bytearray(encode(coding, TEXT))
    damaged[at] ^= 1
    with pytest.raises(DecompressionError, match="check|sum"):
        whole(coding, bytes(damaged))


@pytest.mark.parametrize(
    "codings",
    [*ENCODERS, "deflate, gzip", "gzip, deflate", "gzip twice"],
    ids=lambda codings: codings.replace(", ", "+"),
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_cut_anywhere(codings: str, step: int) -> None:
    if codings in ("br", "zstd") and codings not in accepted_codings():
        pytest.skip(f"{codings} cannot be decoded here")
    if codings == "gzip twice":
        codings, first = "gzip", encode("gzip", TEXT[:50])
    else:
        first = b""
    encoded = encode(codings, TEXT[:100])
    assert whole(codings, first + encoded, step=step).endswith(TEXT[:100])
    # A second member is told by two bytes; one alone is ignored.
    for length in range(2 if first else 1, len(encoded)):
        with pytest.raises(
            DecompressionError, match=r"^example\.com:443: the body ended before its \w+ data did; "
        ) as caught:
            whole(codings, first + encoded[:length], step=step)
        assert caught.value.bytes_received == len(first) + length


def test_nothing_in_something_is_cut_as_well() -> None:
    with pytest.raises(DecompressionError, match="ended before its deflate data did"):
        whole("deflate, gzip", encode("gzip", b""))


@each_coding
@pytest.mark.parametrize("cut", [True, False])
def test_what_failed_fails_again(coding: str, cut: bool) -> None:
    file = io.BytesIO(encode(coding, TEXT)[:-1] if cut else damaged_in_the_middle(coding) + encode(coding, TEXT))
    made = decoder(coding, lambda most: file.read(min(10, most)))
    with pytest.raises(DecompressionError) as first:
        list(pieces(made, 10_000))
    for _ in range(3):
        with pytest.raises(DecompressionError) as again:
            made.read(10_000)
        assert str(again.value) == str(first.value)


def test_an_error_of_the_source_goes_through_and_reading_may_go_on() -> None:
    encoded = encode("deflate, gzip", TEXT)
    error = ReadTimeout("for now")
    parts: list[bytes | ReadTimeout] = [encoded[:50], error, encoded[50:], b"", b""]

    def read(most: int) -> bytes:
        part = parts.pop(0)
        if isinstance(part, ReadTimeout):
            raise part
        return part

    made = decoder("deflate, gzip", read)
    before = b""
    with pytest.raises(ReadTimeout) as caught:
        while True:
            before += made.read(100)
    assert caught.value is error
    assert before + b"".join(pieces(made, 100)) == TEXT


# ------------------------------------------------------------------ bombs


MIB = 1 << 20


def bomb_of_deflate(wbits: int, count: int = 64) -> bytes:
    encoder = zlib.compressobj(9, wbits=wbits)
    return b"".join(encoder.compress(bytes(MIB)) for _ in range(count)) + encoder.flush()


def bomb_of_br() -> bytes:
    return encode_br(bytes(64 * MIB))


def bomb_of_zstd() -> bytes:
    """By hand: runs of 128 KiB in four bytes each, a ratio that no encoder makes."""
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(20 - 10) << 3])
    run = ((128 * 1024) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    return frame + run * (64 * 8) + (1).to_bytes(3, "little")


BOMBS = [
    pytest.param("gzip", lambda: bomb_of_deflate(31), id="gzip"),
    pytest.param("deflate", lambda: bomb_of_deflate(15), id="deflate"),
    pytest.param("br", bomb_of_br, marks=needs_br, id="br"),
    pytest.param("zstd", bomb_of_zstd, marks=needs_zstd, id="zstd"),
    pytest.param("gzip, gzip", lambda: gzip.compress(bomb_of_deflate(31)), id="gzip in gzip"),
    pytest.param("zstd, gzip, gzip", lambda: encode("gzip, gzip", bomb_of_zstd()), marks=needs_zstd, id="zstd in two"),
]


@pytest.mark.parametrize(("codings", "make"), BOMBS)
def test_a_bomb_is_read_in_bounded_memory(codings: str, make: Callable[[], bytes]) -> None:
    bomb = io.BytesIO(make())
    total, growth = read_measured(codings, bomb.read)
    assert total == 64 * MIB
    assert growth < (MIB // 2 if "zstd" in codings else MIB // 4)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate"])
def test_what_is_ignored_is_not_kept(coding: str) -> None:
    zeros = bytes(16384)
    encoded = encode(coding, TEXT)
    parts = [encoded, *[zeros] * 512, b"", b""]
    total, growth = read_measured(coding, given_as(parts))
    assert total == len(TEXT)
    assert growth < MIB // 4


def read_measured(codings: str, read: Callable[[int], bytes]) -> tuple[int, int]:
    """How many bytes it decodes to, read by 8 KiB, and by how many the memory of Python grew meanwhile."""
    accepted_codings()  # the modules are there
    made = decoder(codings, read)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        total = sum(map(len, pieces(made, 8192)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return total, peak - before


# ------------------------------------------------------------------ what is installed


@pytest.fixture
def fresh_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Any], None]]:
    """Replaces a module, None for one that is missing, and has it looked for anew."""

    def forget() -> None:
        for found in (decoders._brotli, decoders._zstd, accepted_codings):
            found.cache_clear()

    def replace(name: str, module: Any) -> None:
        monkeypatch.setitem(sys.modules, name, module)
        forget()

    yield replace
    monkeypatch.undo()
    forget()


def test_accepted_is_what_is_installed() -> None:
    found = {name for name in ("brotli", "brotlicffi", "zstandard") if importlib.util.find_spec(name)}
    has_br, has_zstd = bool(found - {"zstandard"}), "zstandard" in found or sys.version_info >= (3, 14)
    assert accepted_codings() == "gzip, deflate" + ", br" * has_br + ", zstd" * has_zstd
    for coding in accepted_codings().split(", "):
        assert decoder_of(coding, given_as([]), WHERE) is not None


def test_what_is_missing_is_neither_asked_for_nor_decoded(fresh_modules: Callable[[str, Any], None]) -> None:
    for name in ("brotli", "brotlicffi", "zstandard", "compression.zstd"):
        fresh_modules(name, None)
    assert accepted_codings() == "gzip, deflate"
    assert decoder_of("br", given_as([]), WHERE) is None
    assert decoder_of("gzip, zstd", given_as([]), WHERE) is None


def test_a_brotli_without_a_limit_is_not_used(fresh_modules: Callable[[str, Any], None]) -> None:
    old = types.ModuleType("brotli")
    old.__dict__["Decompressor"] = type("Decompressor", (), {"process": None, "is_finished": None})
    fresh_modules("brotli", old)
    fresh_modules("brotlicffi", None)
    assert "br" not in accepted_codings().split(", ")
    assert decoder_of("br", given_as([]), WHERE) is None


def test_optional_modules_are_not_imported_for_gzip() -> None:
    code = (
        "import sys; from syncflow.decoders import decoder_of; decoder_of('gzip', None, ''); "
        "assert not {'brotli', 'brotlicffi', 'zstandard', 'compression.zstd'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


# ------------------------------------------------------------------ side by side


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize(
    ("field", "encoded"),
    [
        ("gzip", encode("gzip", TEXT)),
        ("x-gzip", encode("gzip", TEXT)),
        ("GZIP", encode("gzip", TEXT)),
        ("gzip", encode("gzip", TEXT) * 3),
        ("gzip", encode("gzip", TEXT) + bytes(20)),
        ("gzip", encode("gzip", TEXT) + b"garbage"),
        ("gzip", encode("gzip", TEXT) + bytes(5) + encode("gzip", TEXT)),
        ("gzip", b""),
        ("gzip", encode("gzip", TEXT) + b"\x1f"),
        ("gzip", b"garbage"),
        ("gzip", encode("gzip", TEXT)[:-8] + bytes(8)),
        ("deflate", encode("deflate", TEXT)),
        ("deflate", encode("raw deflate", TEXT)),
        ("deflate", encode("deflate", TEXT) + b"garbage"),
        ("deflate", b"garbage"),
        ("gzip", encode("deflate", TEXT)),
        ("deflate", encode("gzip", TEXT)),
        # Stored blocks whose padding looks like the method of zlib, but for its sum, and for its window.
        ("deflate", b"\x78\x05\x00\xfa\xffhello\x01\x00\x00\xff\xff"),
        ("deflate", b"\x88\x1c\x00\xe3\xff" + TEXT[:28] + b"\x01\x00\x00\xff\xff"),
        ("gzip, deflate", encode("gzip, deflate", TEXT)),
        ("gzip,deflate,gzip,deflate,gzip,deflate", encode("gzip, deflate", TEXT)),
        ("rot13", encode("gzip", TEXT)),
        ("identity", TEXT),
    ],
)
def test_as_requests_has_it(field: str, encoded: bytes, step: int) -> None:
    pytest.importorskip("requests")
    import urllib3

    def theirs() -> bytes:
        response = urllib3.HTTPResponse(io.BytesIO(encoded), {"Content-Encoding": field}, preload_content=False)
        return b"".join(response.stream(step, decode_content=True))

    def ours() -> bytes:
        file = io.BytesIO(encoded)
        made = decoder_of(field, lambda most: file.read(min(step, most)), WHERE)
        return encoded if made is None else b"".join(pieces(made, 65536))

    try:
        expected = theirs()
    except urllib3.exceptions.DecodeError:
        with pytest.raises(DecompressionError):
            ours()
    else:
        assert ours() == expected

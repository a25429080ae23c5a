"""pipe: every kind of source and sink, one chunk in flight, and what is left of both ends after an error of either.
With responses and uploads over sockets: test_pipe_http."""

from __future__ import annotations

import array
import gzip
import io
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

import syncflow
from syncflow import Response, streams
from syncflow.streams.ends import CHUNK
from syncflow.testing import pattern

SIZE = 3 * CHUNK + 1234
DATA = pattern(SIZE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


def response_of(content: bytes, headers: dict[str, str] | None = None) -> Response:
    """A response as tests make them: its body is there."""
    response = Response()
    response._content = content
    response.headers.update(headers or {})
    return response


class Parts(io.RawIOBase):
    """A raw file, which may give or take less than it was asked to."""

    def __init__(self, data: bytes = b"", most: int = 1 << 30) -> None:
        self.left = data
        self.taken = bytearray()
        self.most = most

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self.most, len(self.left))
        buffer[:size], self.left = self.left[:size], self.left[size:]
        return size

    def write(self, data: Any) -> int:
        part = bytes(data)[: self.most]
        self.taken += part
        return len(part)


# --------------------------------------------------------------------------------------------------- what is there


def test_it_is_reached_by_its_package_which_is_imported_late() -> None:
    code = (
        "import sys, syncflow; before = [name for name in sys.modules if name.startswith('syncflow.streams')]; "
        "print(before, syncflow.streams.pipe.__name__); "
        "print({'syncflow.streams.duplex', 'hashlib'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.splitlines() == ["[] pipe", "set()"]


def test_other_names_are_none_of_theirs() -> None:
    for module in (syncflow, streams):
        with pytest.raises(AttributeError, match=r"has no attribute 'no_such_name'"):
            _ = module.no_such_name  # type: ignore[attr-defined]
    assert set(streams.__all__) <= set(dir(streams))


# --------------------------------------------------------------------------------------------------------- sources


def generated() -> Iterator[bytes]:
    for start in range(0, SIZE, 100_000):
        yield DATA[start : start + 100_000]
        yield b""


class Iterable:
    """An object that makes iterators, and is none."""

    def __iter__(self) -> Iterator[bytes]:
        return generated()


class OnlyRead:
    """The least that is a file."""

    def __init__(self) -> None:
        self._file = io.BytesIO(DATA)

    def read(self, size: int) -> bytes:
        return self._file.read(size)


def words() -> array.array[int]:
    assert SIZE % 2 == 0
    return array.array("H", DATA)


SOURCES: dict[str, Callable[[], Any]] = {
    "bytes": lambda: DATA,
    "bytearray": lambda: bytearray(DATA),
    "memoryview": lambda: memoryview(DATA),
    "memoryview of larger items": lambda: memoryview(words()),
    "memoryview with gaps": lambda: memoryview(bytes(b for byte in DATA for b in (byte, 0)))[::2],
    "array": words,
    "BytesIO": lambda: io.BytesIO(DATA),
    "buffered": lambda: io.BufferedReader(Parts(DATA, 1000)),
    "raw, short": lambda: Parts(DATA, 777),
    "only read": OnlyRead,
    "GzipFile": lambda: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(DATA, 1))),
    "generator": generated,
    "list": lambda: list(generated()),
    "iterable": Iterable,
    "pieces like bytes": lambda: [bytearray(DATA[:10]), memoryview(DATA)[10:1000], DATA[1000:]],
    "large pieces": lambda: iter([DATA]),
    "response": lambda: response_of(DATA),
    "response's raw": lambda: response_of(DATA).raw,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_everything_of_a_source_comes(kind: str) -> None:
    received = bytearray()
    assert streams.pipe(SOURCES[kind](), sink=received.extend) == SIZE
    assert received == DATA


@pytest.mark.parametrize("kind", SOURCES)
def test_pieces_are_bytes_and_never_empty(kind: str) -> None:
    received: list[bytes] = []
    streams.pipe(SOURCES[kind](), sink=received.append)
    assert {type(piece) for piece in received} == {bytes}
    assert all(received)
    if kind != "large pieces" and "pieces like" not in kind:
        assert max(map(len, received)) <= CHUNK


@pytest.mark.parametrize(
    "make",
    [bytes, bytearray, io.BytesIO, list, lambda: iter([]), lambda: [b"", b""], lambda: response_of(b""), Parts],
)
def test_an_empty_source_gives_nothing(make: Callable[[], Any]) -> None:
    calls: list[Any] = []
    assert streams.pipe(make(), sink=calls.append, on_progress=lambda *told: calls.append(told)) == 0
    assert calls == []


@pytest.mark.parametrize("buffering", [0, -1, 1000])
def test_a_file_is_read_from_where_it_stands(path: Path, buffering: int) -> None:
    received = bytearray()
    with path.open("rb", buffering) as file:
        file.read(1000)
        assert streams.pipe(file, sink=received.extend) == SIZE - 1000
        assert not file.closed
        assert file.tell() == SIZE
    assert received == DATA[1000:]


def test_the_pieces_of_an_iterable_are_handed_on_as_they_are() -> None:
    """A program's own units, as messages, are not cut, whatever their size."""
    pieces = [b"a", bytes(3 * CHUNK), b"b"]
    received: list[bytes] = []
    streams.pipe(pieces, sink=received.append)
    assert received == pieces


def test_what_has_come_through_a_pipe_is_not_kept_waiting_for_more() -> None:
    """As with the output of a process that says something now and then."""
    reading, writing = os.pipe()
    received: list[bytes] = []

    def take(piece: bytes) -> None:
        received.append(piece)
        if len(received) < 3:
            os.write(writing, b"more")
        elif len(received) == 3:
            os.close(writing)

    os.write(writing, b"some")
    with open(reading, "rb") as source:
        assert streams.pipe(source, sink=take) == 12
    assert received == [b"some", b"more", b"more"]


# ----------------------------------------------------------------------------------------------------------- sinks


class Uncounted:
    """A file-like object whose `write` returns nothing, as there are many."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def write(self, data: bytes) -> None:
        self.taken += data


@pytest.mark.parametrize("most", [1 << 30, 1000, 100_000])
def test_a_short_write_is_continued(most: int) -> None:
    sink = Parts(most=most)
    assert streams.pipe(DATA, sink=sink) == SIZE
    assert sink.taken == DATA
    assert not sink.closed


def test_a_file_is_written_from_where_it_stands_and_left_open(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb+") as sink:
        sink.write(b"before ")
        assert streams.pipe(DATA, sink=sink) == SIZE
        assert streams.pipe([b" and", b" behind"], sink=sink) == 11
        sink.seek(0)
        assert sink.read() == b"before " + DATA + b" and behind"


def test_a_write_that_does_not_count_takes_all() -> None:
    sink = Uncounted()
    assert streams.pipe(DATA, sink=sink) == SIZE
    assert sink.taken == DATA


def test_what_has_a_write_is_a_file_though_it_can_be_called() -> None:
    class Both(Uncounted):
        def __call__(self, data: bytes) -> None:
            raise AssertionError("called")

    sink = Both()
    assert streams.pipe(b"abc", sink=sink) == 3
    assert sink.taken == b"abc"


@pytest.mark.parametrize("returned", [None, 0, -1, "x"])
def test_what_a_function_returns_is_ignored(returned: Any) -> None:
    received: list[bytes] = []

    def take(data: bytes) -> Any:
        received.append(data)
        return returned

    assert streams.pipe([b"a", b"b"], sink=take) == 2
    assert received == [b"a", b"b"]


def test_the_count_is_of_what_the_sink_got() -> None:
    sink = io.BytesIO()
    assert streams.pipe(bytes(1_000_000), streams.gzip(), sink=sink) == len(sink.getvalue()) < 10_000
    assert streams.pipe(sink.getvalue(), streams.gunzip(), sink=io.BytesIO()) == 1_000_000


# ------------------------------------------------------------------------------------------- one chunk in flight


class Logged(io.RawIOBase):
    """Both ends of a pipe, which write down what happens."""

    def __init__(self, happened: list[str], chunks: int) -> None:
        self._happened = happened
        self._chunks = chunks

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self._happened.append("asked")
        self._chunks -= 1
        return b"chunk" if self._chunks >= 0 else b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._happened.append(f"taken {bytes(data).decode()}")
        return len(data)


class Doubler:
    """A transform that makes much of little: two pieces of each, and two at the end."""

    def __init__(self, happened: list[str]) -> None:
        self._happened = happened

    def pieces(self, data: bytes) -> Iterator[bytes]:
        for part in (b"1", b"2"):
            self._happened.append(f"makes {part.decode()}")
            yield data + part

    def process(self, data: bytes) -> bytes:
        raise AssertionError("pieces() goes before")

    def finish(self) -> bytes:
        return b"end"


def test_the_source_is_asked_for_the_next_chunk_when_the_sink_has_the_last() -> None:
    happened: list[str] = []
    source, sink = Logged(happened, 2), Logged(happened, 0)
    streams.pipe(source, sink=sink, on_progress=lambda done, total: happened.append(f"done {done}"))
    assert happened == ["asked", "taken chunk", "done 5", "asked", "taken chunk", "done 10", "asked"]


def test_a_piece_goes_all_the_way_before_the_next_is_made() -> None:
    happened: list[str] = []
    streams.pipe(Logged(happened, 1), Doubler(happened), Doubler(happened), sink=Logged(happened, 0))
    one, two = ["makes 1", "makes 1", "taken chunk11", "makes 2", "taken chunk12"], ["makes 2", "makes 1"]
    two += ["taken chunk21", "makes 2", "taken chunk22"]
    # The end of the first goes through the second.
    end = ["makes 1", "taken end1", "makes 2", "taken end2", "taken end"]
    assert happened == ["asked", *one, *two, "asked", *end]


def test_a_large_source_is_never_in_memory() -> None:
    largest = outstanding = 0

    def pieces() -> Iterator[bytes]:
        nonlocal largest, outstanding
        for _ in range(1000):
            outstanding += CHUNK
            largest = max(largest, outstanding)
            yield bytes(CHUNK)

    def take(data: bytes) -> None:
        nonlocal outstanding
        outstanding -= len(data)

    assert streams.pipe(pieces(), streams.count(), streams.digest(), sink=take) == 1000 * CHUNK
    assert (largest, outstanding) == (CHUNK, 0)


# ------------------------------------------------------------------------------------------------------ transforms


class Reverse:
    """A transform of a program's own: gives everything at the end."""

    def __init__(self) -> None:
        self._data = bytearray()

    def process(self, data: bytes) -> bytes:
        assert type(data) is bytes
        assert data, "never empty"
        self._data += data
        return b""

    def finish(self) -> bytes:
        return bytes(reversed(self._data))


def test_transforms_are_applied_in_order() -> None:
    received: list[bytes] = []
    shout = streams.lines(bytes.upper)
    streams.pipe([b"ab\nc", b"d\ne"], shout, Reverse(), sink=received.append)
    assert received == [b"E\nDC\nBA"]
    received.clear()
    streams.pipe([b"ab\nc", b"d\ne"], Reverse(), streams.lines(bytes.upper), sink=received.append)
    assert received == [b"E\n", b"DC\n", b"BA"]


class Pieces(Reverse):
    """One whose methods give what the test says."""

    def __init__(self, process: Any, finish: Any) -> None:
        self._made = process, finish

    def process(self, data: bytes) -> Any:
        return self._made[0]

    def finish(self) -> Any:
        return self._made[1]


def test_a_transform_may_give_anything_like_bytes() -> None:
    received: list[bytes] = []
    streams.pipe([b"a"], Pieces(bytearray(b"b"), memoryview(b"c")), sink=received.append)
    assert received == [b"b", b"c"]
    assert {type(piece) for piece in received} == {bytes}


@pytest.mark.parametrize("made", [None, "text", 5])
@pytest.mark.parametrize("where", ["process", "finish"])
def test_a_transform_may_give_nothing_else(made: Any, where: str) -> None:
    """Not even None: a forgotten return would lose bytes silently."""
    transform = Pieces(made, b"") if where == "process" else Pieces(b"", made)
    with pytest.raises(TypeError, match=f"Pieces object.* gave {type(made).__name__}"):
        streams.pipe([b"a"], transform, sink=lambda data: None)


# -------------------------------------------------------------------------------------------------------- progress


def progress(source: Any, *transforms: Any) -> list[tuple[int, int | None]]:
    told: list[tuple[int, int | None]] = []
    streams.pipe(source, *transforms, sink=lambda data: None, on_progress=lambda *what: told.append(what))
    return told


STEPS = [CHUNK, 2 * CHUNK, 3 * CHUNK, SIZE]


@pytest.mark.parametrize("kind", ["bytes", "array", "BytesIO", "memoryview with gaps"])
def test_progress_knows_the_length_of_what_is_there(kind: str) -> None:
    assert progress(SOURCES[kind]()) == [(done, SIZE) for done in STEPS]


@pytest.mark.parametrize("kind", ["only read", "generator", "GzipFile", "response", "buffered"])
def test_progress_does_not_guess(kind: str) -> None:
    told = progress(SOURCES[kind]())
    assert told[-1] == (SIZE, None)
    assert {total for _, total in told} == {None}
    assert [done for done, _ in told] == sorted({done for done, _ in told})


@pytest.mark.parametrize("buffering", [0, -1])
def test_progress_knows_what_is_left_of_a_file(path: Path, buffering: int) -> None:
    with path.open("rb", buffering) as file:
        file.seek(1000)
        assert progress(file)[-1] == (SIZE - 1000, SIZE - 1000)
    with tempfile.TemporaryFile() as temporary:
        temporary.write(DATA)
        temporary.seek(5)
        assert progress(temporary)[-1] == (SIZE - 5, SIZE - 5)


def test_progress_does_not_believe_what_the_kernel_says_of_its_own_files() -> None:
    path = Path("/proc/self/status")
    if not path.exists():
        pytest.skip("there is no /proc here")
    with path.open("rb") as file:
        told = progress(file)
    assert told[-1][0] > 0
    assert told[-1][1] is None


def test_progress_knows_the_content_length_of_a_body_without_coding() -> None:
    known = {"Content-Length": str(SIZE)}
    assert progress(response_of(DATA, known))[-1] == (SIZE, SIZE)
    assert progress(response_of(DATA, known | {"Content-Encoding": "gzip"}))[-1] == (SIZE, None)
    assert progress(response_of(DATA, known | {"Transfer-Encoding": "chunked"}))[-1] == (SIZE, None)
    assert progress(response_of(DATA, {"Content-Length": "many"}))[-1] == (SIZE, None)


def test_progress_is_of_the_source_whatever_the_sink_gets() -> None:
    assert progress(bytes(SIZE), streams.gzip(1)) == [(done, SIZE) for done in STEPS]


# ------------------------------------------------------------------------------- what is refused before it begins


class Untouched:
    """A file that must be neither read nor written nor closed."""

    def read(self, size: int) -> bytes:
        raise AssertionError("read")

    def write(self, data: bytes) -> int:
        raise AssertionError("written")

    def close(self) -> None:
        raise AssertionError("closed")


def closed() -> IO[bytes]:
    file = io.BytesIO(DATA)
    file.close()
    return file


def wrapped_text() -> Any:
    return tempfile.NamedTemporaryFile("w+")  # the test closes it


REFUSED_SOURCES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "str": (lambda: "text", TypeError, "its source is a str"),
    "text file": (lambda: io.StringIO("text"), TypeError, "open the file in binary mode"),
    "wrapped text file": (wrapped_text, TypeError, "open the file in binary mode"),
    "number": (lambda: 5, TypeError, "pipe.. reads from a binary file, a response, bytes or an iterable"),
    "None": (lambda: None, TypeError, "pipe.. reads from"),
    "write-only": (lambda: io.BufferedWriter(Parts()), io.UnsupportedOperation, "not open for reading"),
    "closed": (closed, ValueError, "closed file"),
}
REFUSED_SINKS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "bytearray": (bytearray, TypeError, "pipe.. writes to a binary file, an upload or a function"),
    "str": (lambda: "path", TypeError, "pipe.. writes to"),
    "None": (lambda: None, TypeError, "pipe.. writes to"),
    "text file": (io.StringIO, TypeError, "open the file in binary mode"),
    "read-only": (lambda: io.BufferedReader(Parts()), io.UnsupportedOperation, "not open for writing"),
    "closed": (closed, ValueError, "closed file"),
}
REFUSED_TRANSFORMS: dict[str, tuple[Any, str]] = {
    "class": (streams.gzip, "a transform is an object, and gzip a class: call it"),
    "module": (gzip, r"a transform has process\(data\) and finish\(\)"),
    "function": (bytes.upper, "a transform has process"),
    "sink": (io.BytesIO(), "the sink goes as sink="),
    "None": (None, "a transform has process"),
    "hash": (__import__("hashlib").sha256(), "a transform has process"),
}


@pytest.mark.parametrize("kind", REFUSED_SOURCES)
def test_a_source_that_is_none_is_refused(kind: str) -> None:
    make, error, match = REFUSED_SOURCES[kind]
    source = make()
    try:
        with pytest.raises(error, match=match):
            streams.pipe(source, sink=Untouched())
        assert kind == "closed" or not getattr(source, "closed", False)
    finally:
        if hasattr(source, "close"):
            source.close()


@pytest.mark.parametrize("kind", REFUSED_SINKS)
def test_a_sink_that_is_none_is_refused(kind: str) -> None:
    make, error, match = REFUSED_SINKS[kind]
    with pytest.raises(error, match=match):
        streams.pipe(Untouched(), sink=make())


@pytest.mark.parametrize("kind", REFUSED_TRANSFORMS)
def test_a_transform_that_is_none_is_refused(kind: str) -> None:
    transform, match = REFUSED_TRANSFORMS[kind]
    with pytest.raises(TypeError, match=match):
        streams.pipe(Untouched(), streams.count(), transform, sink=Untouched())


def test_other_arguments_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match="on_progress is called with two numbers"):
        streams.pipe(Untouched(), sink=Untouched(), on_progress=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sink"):
        streams.pipe(Untouched())  # type: ignore[call-arg]


# ----------------------------------------------------------------------------------------------------- the errors


class Interrupt(BaseException):
    """What is no Exception, as a KeyboardInterrupt."""


class End(io.RawIOBase):
    """A source or sink that fails where it is told to, and counts how often it is closed."""

    def __init__(self, *, fails: BaseException | None = None, fails_to_close: BaseException | None = None) -> None:
        self._fails = fails
        self._fails_to_close = fails_to_close
        self.closings = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._fails is not None:
            raise self._fails
        return b"data"

    def write(self, data: Any) -> int:
        if self._fails is not None:
            raise self._fails
        return len(data)

    def close(self) -> None:
        if not self.closed:  # io's own finalizer closes too
            self.closings += 1
            super().close()
            if self._fails_to_close is not None:
                raise self._fails_to_close


class Fails(Reverse):
    """A transform that fails, in `process` or in `finish`."""

    def __init__(self, error: BaseException, at_end: bool = False) -> None:
        self._error = error
        self._at_end = at_end

    def process(self, data: bytes) -> bytes:
        if not self._at_end:
            raise self._error
        return data

    def finish(self) -> bytes:
        raise self._error


ERRORS = [OSError("the disk is full"), Interrupt("now"), syncflow.EarlyResponse("of another")]


def fails_with(error: BaseException, source: Any, *transforms: Any, sink: Any, on_progress: Any = None) -> None:
    """Pipes, and asserts that exactly this error comes out, once and as it is."""
    notes = list(getattr(error, "__notes__", ()))
    with pytest.raises(type(error)) as caught:
        streams.pipe(source, *transforms, sink=sink, on_progress=on_progress)
    assert caught.value is error
    assert error.__cause__ is None
    assert list(getattr(error, "__notes__", ())) == notes


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("who", ["source", "sink", "transform", "callback", "end of a transform"])
def test_an_error_of_anybody_closes_both_ends_and_is_raised_once(who: str, error: BaseException) -> None:
    source = End(fails=error if who == "source" else None)
    sink = End(fails=error if who == "sink" else None)
    transforms: list[Any] = [streams.count()]
    on_progress = None
    if who == "transform":
        transforms.append(Fails(error))
    if who == "callback":

        def on_progress(done: int, total: int | None) -> None:
            raise error

    if who == "end of a transform":
        finite = response_of(b"data")
        fails_with(error, finite, Fails(error, at_end=True), sink=sink)
        assert sink.closings == 1
        return
    fails_with(error, source, *transforms, sink=sink, on_progress=on_progress)
    assert (source.closings, sink.closings) == (1, 1)


def test_a_generator_is_closed_where_it_stands() -> None:
    ended: list[str] = []

    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield b"piece"
        finally:
            ended.append("generator")

    error = OSError("the sink has gone")
    source = pieces()
    fails_with(error, source, sink=End(fails=error))
    assert ended == ["generator"]
    assert list(source) == []


def test_an_iterable_and_its_iterator_are_closed() -> None:
    ended: list[str] = []

    class Feed:
        def __iter__(self) -> Iterator[bytes]:
            try:
                yield b"piece"
                yield b"piece"
            finally:
                ended.append("iterator")

        def close(self) -> None:
            ended.append("feed")

    error = OSError("the sink has gone")
    fails_with(error, Feed(), sink=End(fails=error))
    assert ended == ["iterator", "feed"]


def test_a_generator_that_raises_closes_the_sink() -> None:
    error = OSError("the source has gone")

    def pieces() -> Iterator[bytes]:
        yield b"piece"
        raise error

    sink = End()
    fails_with(error, pieces(), sink=sink)
    assert sink.closings == 1


def test_an_iterable_that_cannot_be_begun_closes_the_sink() -> None:
    error = OSError("the feed has gone")

    class Feed:
        def __iter__(self) -> Iterator[bytes]:
            raise error

    sink = End()
    fails_with(error, Feed(), sink=sink)
    assert sink.closings == 1


@pytest.mark.parametrize("kind", ["list", "bytes", "only read", "iterable"])
def test_what_has_no_close_is_left_alone(kind: str) -> None:
    error = OSError("the sink has gone")

    def take(data: bytes) -> None:
        raise error

    fails_with(error, SOURCES[kind](), sink=take)


def test_the_files_of_a_program_are_closed(path: Path, tmp_path: Path) -> None:
    error = OSError("no")
    source, sink = path.open("rb"), (tmp_path / "copy").open("wb")
    fails_with(error, source, Fails(error), sink=sink)
    assert source.closed
    assert sink.closed


def test_bytes_are_not_held_by_the_error() -> None:
    data = bytearray(b"data")
    error = OSError("no")
    fails_with(error, data, Fails(error), sink=io.BytesIO())
    data += b"more"  # a BufferError, if a view of it were left


class Abortable(End):
    """A sink as an upload is one."""

    def __init__(self, response: Any, **how: Any) -> None:
        super().__init__(**how)
        self._response = response
        self.aborts = 0

    @property
    def response(self) -> Any:
        if self._response is None:
            raise ValueError("there is no response yet")
        return self._response

    def abort(self) -> None:
        self.aborts += 1


@pytest.mark.parametrize(("response", "aborts"), [(None, 1), ("an answer", 0)])
def test_what_can_be_aborted_is_not_closed(response: Any, aborts: int) -> None:
    error = OSError("no")
    sink = Abortable(response)
    fails_with(error, [b"a"], Fails(error), sink=sink)
    assert (sink.aborts, sink.closings) == (aborts, 0)


@pytest.mark.parametrize("piece", ["text", 5, None, [b"a"]])
@pytest.mark.parametrize("kind", ["list", "file", "response"])
def test_a_piece_that_is_not_bytes_is_an_error_when_it_comes(kind: str, piece: Any) -> None:
    class Odd:
        closings = 0
        _pieces = (b"a", piece)

        def close(self) -> None:
            self.closings += 1

    class OddFile(Odd):
        def read(self, size: int) -> Any:
            self._pieces, first = self._pieces[1:], self._pieces[0]
            return first

    class OddResponse(Odd):
        def iter_content(self, size: int) -> Any:
            return iter(self._pieces)

    class OddList(Odd):
        def __iter__(self) -> Any:
            return iter(self._pieces)

    source: Any = {"list": OddList, "file": OddFile, "response": OddResponse}[kind]()
    sink = End()
    expected = BlockingIOError if kind == "file" and piece is None else TypeError
    with pytest.raises(expected, match="does not block|a pipe moves bytes, and .* gave"):
        streams.pipe(source, sink=sink)
    assert (source.closings, sink.closings) == (1, 1)


# ------------------------------------------------------------------------------- errors while the ends are closed


def test_what_goes_wrong_while_closing_is_a_note() -> None:
    error = OSError("the disk is full")
    source = End(fails_to_close=ValueError("source"))
    sink = End(fails=error, fails_to_close=RuntimeError("sink"))
    with pytest.raises(OSError, match="the disk is full") as caught:
        streams.pipe(source, sink=sink)
    assert caught.value is error
    sink_note, source_note = error.__notes__
    assert "while the pipe closed" in sink_note
    assert "RuntimeError('sink')" in sink_note
    assert "ValueError('source')" in source_note
    assert (source.closings, sink.closings) == (1, 1)


def test_the_same_error_again_is_no_news() -> None:
    error = OSError("gone")
    fails_with(error, End(fails=error, fails_to_close=error), sink=End(fails_to_close=error))


def test_an_interrupt_while_closing_is_not_lost_and_the_other_end_is_closed() -> None:
    error, interrupt = OSError("gone"), Interrupt()
    source, sink = End(fails=error), End(fails_to_close=interrupt)
    with pytest.raises(Interrupt) as caught:
        streams.pipe(source, sink=sink)
    assert caught.value is interrupt
    assert interrupt.__context__ is error
    assert (source.closings, sink.closings) == (1, 1)


# ------------------------------------------------------------------------------------ files that do not block


def test_a_source_that_does_not_block_is_no_end() -> None:
    """Neither raw nor buffered, of which `read1` gives the same for nothing yet and for the end."""
    for buffering in (0, -1):
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        received: list[bytes] = []
        sink = End()
        try:
            os.write(writing, b"some")
            source = open(reading, "rb", buffering)  # noqa: SIM115  # the pipe closes it

            class Sink(End):
                def write(self, data: Any) -> int:
                    received.append(bytes(data))  # noqa: B023
                    return len(data)

            sink = Sink()
            with pytest.raises(BlockingIOError, match="does not block"):
                streams.pipe(source, sink=sink)
            assert received == [b"some"]
            assert source.closed
            assert sink.closings == 1
        finally:
            os.close(writing)


def test_a_sink_that_does_not_block_is_an_error_when_it_is_full() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        sink = open(writing, "wb", 0)  # noqa: SIM115  # the pipe closes it
        with pytest.raises(BlockingIOError, match="took nothing; pipe\\(\\) needs a file that blocks"):
            streams.pipe(iter(lambda: bytes(65_536), b""), sink=sink)
        assert sink.closed
    finally:
        os.close(reading)


def test_a_terminal_is_asked_for_its_end_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    class Terminal(Parts):
        def isatty(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            nonlocal asked
            asked += 1
            return super().readinto(buffer)

    received = bytearray()
    assert streams.pipe(io.BufferedReader(Terminal(b"typed")), sink=received.extend) == 5
    assert asked == 2  # the text, and Ctrl-D


# ----------------------------------------------------------------------------------------------- two blocking ends


def test_between_two_sockets_both_ends_push_back() -> None:
    """The producer cannot get ahead of the consumer by more than the kernel holds."""
    inlet, source = socket.socketpair()
    sink, outlet = socket.socketpair()
    with inlet, source, sink, outlet, source.makefile("rb") as reading, sink.makefile("wb", 0) as writing:
        moved: list[int] = []
        piping = threading.Thread(target=lambda: moved.append(streams.pipe(reading, streams.count(), sink=writing)))
        piping.start()
        inlet.settimeout(0.2)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:  # until neither the pipe nor the kernel takes more
                sent += inlet.send(pattern(10_000, sent))
        assert sent < 8 << 20
        received = bytearray()
        outlet.settimeout(10)
        while len(received) < sent:
            received += outlet.recv(65_536)
        inlet.shutdown(socket.SHUT_WR)
        piping.join(10)
        assert moved == [sent]
        assert received == pattern(sent)

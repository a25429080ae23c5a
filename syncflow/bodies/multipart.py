"""Files and fields as one body: multipart/form-data (RFC 7578), sent part by part.

Knows what `requests` accepts as `files=` and `data=`, how names are written (the HTML standard, "multipart/form-data
encoding algorithm"), and which length comes of it. Reads no file whole. Knows nothing of sockets, nor how a single
file is sent: each part is a body of its own.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from ..exceptions import BodyLengthError, InvalidHeader, UnrewindableBodyError
from ..http1.grammar import is_token
from .kinds import BLOCK, Body, BytesBody, FileBody, body_of
from .writer import BodyWriter

__all__ = ["MultipartBody", "multipart_of"]

# From fields and files to what was given for them; in a list a name may come more than once.
Pairs = Mapping[Any, Any] | Iterable[tuple[Any, Any]]

# What the HTML standard escapes in a name. Not "%" and not "\": browsers send those as they are, and so is it read. It
# escapes CR and LF too; in the names that a program gives they are an accident or an attack, and are refused.
_ESCAPES = {ord('"'): "%22"}
_BREAKS = re.compile(r"[\x00\r\n]")
# RFC 9110, section 5.5: no control may stand in a value, but for the tab.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# Made here from name, filename and content type, or of no meaning in a form (RFC 7578, section 4.8).
_OWN_FIELDS = frozenset({"content-disposition", "content-type", "content-location"})


class _Piece(Body, Protocol):
    """A stretch of the body: framing, or the content of a part."""

    def blocks(self) -> Iterator[bytes]:
        """The same bytes for one who asks for them, in blocks of any size. Raises as `send`."""


class MultipartBody:
    """A multipart/form-data body; `multipart_of` makes it.

    Each pass over it starts at the beginning. What was made of bytes, text and paths may be sent by any number of
    threads at the same time; with an open file or an iterable in it by one, for those have one position. `read`, `tell`
    and `seek` are for one thread, as those of a file.

    Attributes:
        boundary: what stands between the parts: 128 random bits, in hexadecimal.
        content_type: the request's Content-Type.
        length: in bytes; None if one of the parts has no known length.
    """

    def __init__(self, parts: Iterable[tuple[bytes, _Piece]], boundary: str) -> None:
        self.boundary = boundary
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._pieces = _assembled(parts, boundary.encode())
        known = [piece.length for piece in self._pieces if piece.length is not None]
        self.length = sum(known) if len(known) == len(self._pieces) else None
        self._begun = False
        # Of the thread that reads.
        self._blocks: Iterator[bytes] | None = None
        self._rest = memoryview(b"")
        self._position = 0

    @property
    def can_rewind(self) -> bool:
        """Whether every part can be sent again."""
        return all(piece.can_rewind for piece in self._pieces)

    def rewind(self) -> None:
        """Begin anew. Raises UnrewindableBodyError, which names the part that cannot be sent again."""
        for piece in self._pieces:
            piece.rewind()
        self._blocks, self._rest, self._position = None, memoryview(b""), 0

    def send(self, writer: BodyWriter) -> bool:
        """The caller's thread. Write all parts; False if the peer has stopped the sending.

        Raises:
            BodyLengthError: a file has become shorter or longer; says which part.
            Whatever a file or an iterable raises, as it is.
        """
        return all(piece.send(writer) for piece in self._each())

    def _each(self) -> Iterator[_Piece]:
        if self._begun:
            for piece in self._pieces:
                piece.rewind()  # raises where a generator is spent, which else would look like an empty part
        self._begun = True
        for piece in self._pieces:
            if piece.can_rewind:
                # To where its length was taken: it may have been read since, by another part of this body too.
                piece.rewind()
            yield piece

    # ---------------------------------------------------------------- for adapters that send it by themselves

    def __iter__(self) -> Iterator[bytes]:
        """The whole body, in blocks of at most 64 KiB. Raises as `send`; as `rewind` if it was sent or read before."""
        for piece in self._each():
            for block in piece.blocks():
                for start in range(0, len(block), BLOCK):
                    yield block[start : start + BLOCK]

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, less at the end only; all that is left if it is negative or None. Raises as `send`."""
        left = sys.maxsize if size is None or size < 0 else size
        taken: list[memoryview] = []
        while left > 0 and (rest := self._rest or memoryview(self._next_block())):
            taken.append(rest[:left])
            self._rest = rest[left:]
            left -= len(taken[-1])
        block = b"".join(taken)
        self._position += len(block)
        return block

    def tell(self) -> int:
        """Bytes read. urllib3 asks, and comes back there to send again; else it would send the rest as the whole."""
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """To the beginning. Raises io.UnsupportedOperation for any other place, and as `rewind`."""
        if position or whence:
            raise io.UnsupportedOperation("a multipart body is read from its beginning: seek(0)")
        self.rewind()
        return 0

    def _next_block(self) -> bytes:
        blocks, self._blocks = self._blocks or iter(self), None
        block = next(blocks, b"")
        self._blocks = blocks  # not if that has raised: next it would be at its end, and the body would look whole
        return block


class _Bytes(BytesBody):
    """Framing and what is small, or one part's bytes."""

    def blocks(self) -> Iterator[bytes]:
        yield self.content


class _Part:
    """The content of one part, a file or an iterable; `what` is its name in messages."""

    def __init__(self, what: str, content: Any) -> None:
        self._what = what
        self._content = content
        self._body = body_of(content)
        if isinstance(self._body, FileBody):
            _look_into(self._body, content, what)
        self.length = self._body.length
        self.can_rewind = self._body.can_rewind

    def rewind(self) -> None:
        try:
            self._body.rewind()
        except UnrewindableBodyError as error:
            raise UnrewindableBodyError(f"{error} ({self._what})") from error

    def send(self, writer: BodyWriter) -> bool:
        try:
            return self._body.send(writer)
        except BodyLengthError as error:
            if error.request is not None:
                raise  # it is about another request, of which the content is made
            raise BodyLengthError(f"{error} ({self._what})", phase=error.phase) from error

    def blocks(self) -> Iterator[bytes]:
        count = 0
        for block in _blocks_of(self._content):
            count += len(block)
            if self.length is not None and count > self.length:
                raise _changed("", self._what, self.length, "has more; did it grow while it was sent?")
            yield block
        if self.length is not None and count < self.length:
            raise _changed("", self._what, self.length, f"ended after {count}; was it cut while it was sent?")


def _blocks_of(content: Any) -> Iterator[bytes]:
    """What a file or an iterable holds, as FileBody and IterableBody would write it."""
    for piece in _read_through(content) if hasattr(content, "read") else content:
        block = piece.encode() if isinstance(piece, str) else piece
        yield block if isinstance(block, bytes) else memoryview(block).tobytes()


def _read_through(file: Any) -> Iterator[Any]:
    while block := file.read(BLOCK):
        yield block
    if block is None:
        # Not the end: a raw file says so when it would have to wait, and a body must not end there.
        raise BlockingIOError(f"{file!r} does not block; a body is read from a file that does")


def _changed(where: str, what: str, announced: int, how: str) -> BodyLengthError:
    return BodyLengthError(f"{where}{what}: {announced} bytes were announced, and the file {how}", phase="send")


class _PathPart:
    """A file that is opened when it is its turn. One that cannot be is told now, before anything is sent."""

    def __init__(self, what: str, path: str | bytes) -> None:
        self._what = what
        self._path = os.path.abspath(path)  # the same one, should the working directory change
        mode = os.stat(self._path).st_mode
        # To open a named pipe means to wait for whoever writes into it, and to take from it what comes.
        self.can_rewind = stat.S_ISREG(mode)
        self.length: int | None = None
        if self.can_rewind or stat.S_ISDIR(mode):
            with open(self._path, "rb") as file:
                self.length = _Part(what, file).length

    def rewind(self) -> None:
        if not self.can_rewind:
            raise UnrewindableBodyError(f"{self._path!r} cannot be sent again: it is no regular file ({self._what})")

    def send(self, writer: BodyWriter) -> bool:
        with open(self._path, "rb") as file:
            return self._opened(file, f"{writer.where}: ").send(writer)

    def blocks(self) -> Iterator[bytes]:
        with open(self._path, "rb") as file:
            yield from self._opened(file, "").blocks()

    def _opened(self, file: io.BufferedReader, where: str) -> _Part:
        part = _Part(self._what, file)
        if self.length is not None and part.length != self.length:
            raise _changed(where, self._what, self.length, f"now has {part.length}; was it written to meanwhile?")
        return part


def multipart_of(data: Pairs | None, files: Pairs) -> MultipartBody:
    """The body for `files=`, with `data=` as fields before them; accepts what `requests` does.

    Args:
        data: names and values; a value may be a list of values, None leaves one out.
        files: names and contents, or tuples (filename, content[, content type[, headers]]), where a filename of None
            makes a plain field. A content is bytes, text (sent as UTF-8), a file object from its current position,
            a path (opened when sent), or an iterable of bytes, which makes the length unknown; None leaves a part out.

    Raises:
        InvalidHeader: a name, a content type or a part's header may not be sent.
        ValueError: no files, or not in pairs; `data` is text.
        TypeError: a name or a content of another type.
        OSError: a path cannot be opened.
    """
    if not files:
        raise ValueError("files= is empty; nothing was sent")
    if isinstance(data, str | bytes):
        raise ValueError("data= is one text, which files= have no room for: give a mapping or pairs; nothing was sent")
    return MultipartBody([*_fields(data or {}), *_files(files)], os.urandom(16).hex())


# -------------------------------------------------------------------------------------------- what was given


def _fields(data: Pairs) -> Iterator[tuple[bytes, _Piece]]:
    for name, values in _pairs(data, "data"):
        if isinstance(values, str | bytes | bytearray | memoryview) or not isinstance(values, Iterable):
            values = [values]
        for value in values:
            if value is not None:
                content = bytes(value) if isinstance(value, bytes | bytearray | memoryview) else str(value).encode()
                yield _head(_text(name, "a field's name"), None, None, None), _Bytes(content)


def _files(files: Pairs) -> Iterator[tuple[bytes, _Piece]]:
    for name, given in _pairs(files, "files"):
        name = _text(name, "a part's name")
        if not isinstance(given, list | tuple):
            given = (_guessed_filename(given) or name, given)
        elif not 2 <= len(given) <= 4:
            form = "(filename, content[, content type[, headers]])"
            raise ValueError(f"part {name!r}: files= takes {form}, not {len(given)} values; nothing was sent")
        filename, content, content_type, headers = (*given, None, None)[:4]
        if content is None:
            continue
        if filename is not None:
            filename = _text(filename, f"the filename of part {name!r}")
        yield _head(name, filename, content_type, headers), _piece(_described(name, filename), content)


def _pairs(given: Any, argument: str) -> Iterator[tuple[Any, Any]]:
    must = f"{argument}= takes a mapping or pairs"
    if hasattr(given, "items"):
        given = given.items()
    elif isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ValueError(f"{must}, not {type(given).__name__}; nothing was sent")
    for pair in given:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"{must}, and this is no pair: {pair!r:.80}; nothing was sent")
        yield pair[0], pair[1]


def _guessed_filename(content: Any) -> str | bytes | None:
    """As `requests` guesses it: not the "<stdin>" of a file without a name."""
    name = os.fspath(content) if isinstance(content, os.PathLike) else getattr(content, "name", None)
    if not isinstance(name, str | bytes) or (isinstance(name, str) and (name[:1] == "<" or name[-1:] == ">")):
        return None
    return os.path.basename(name)


def _piece(what: str, content: Any) -> _Piece:
    if isinstance(content, os.PathLike):
        return _PathPart(what, os.fspath(content))
    if hasattr(content, "read"):
        return _Part(what, content)
    if isinstance(content, str | int):
        return _Bytes(str(content).encode())
    if isinstance(content, bytes):
        return _Bytes(content)
    with contextlib.suppress(TypeError):
        return _Bytes(memoryview(content).tobytes())  # a bytearray, an array: whatever has a buffer
    # The keys of a mapping are hardly what was to be sent.
    if isinstance(content, Iterable) and not isinstance(content, Mapping):
        return _Part(what, content)
    kind = type(content).__name__
    raise TypeError(f"{what}: takes bytes, text, a file, a path or an iterable of bytes, not {kind}; nothing was sent")


def _look_into(body: FileBody, file: Any, what: str) -> None:
    """See what would go wrong later, and whether a file that does not tell its length is just empty: a form with an
    empty file in it should not have to go in chunks."""
    if not getattr(file, "readable", lambda: True)():
        raise io.UnsupportedOperation(f"{what}: {file!r} was not opened for reading; nothing was sent")
    if body.length is None and body.can_rewind:
        block = file.read(1)
        body.rewind()
        if block is not None and not block:
            body.length = 0


# -------------------------------------------------------------------------------------------- what is written


def _assembled(parts: Iterable[tuple[bytes, _Piece]], boundary: bytes) -> list[_Piece]:
    """RFC 2046, section 5.1.1: the CRLF before a delimiter belongs to it. Small contents are joined with the framing
    around them, so that a form of many fields is sent in one piece."""
    pieces: list[_Piece] = []
    framing = bytearray()
    for head, content in parts:
        framing += b"--%b\r\n%b\r\n" % (boundary, head)
        if isinstance(content, _Bytes) and content.length <= BLOCK:
            framing += content.content
        else:
            pieces += [_Bytes(bytes(framing)), content]
            framing.clear()
        framing += b"\r\n"
    framing += b"--%b--\r\n" % boundary
    return [*pieces, _Bytes(bytes(framing))]


def _head(name: str, filename: str | None, content_type: Any, headers: Any) -> bytes:
    """The header fields of a part, in the order of `requests`, each with its CRLF."""
    what = _described(name, filename)
    disposition = f'form-data; name="{name.translate(_ESCAPES)}"'
    if filename is not None:
        disposition += f'; filename="{filename.translate(_ESCAPES)}"'
    lines = [f"Content-Disposition: {disposition}\r\n"]
    for field, value in dict(headers or {}).items():
        if not isinstance(field, str) or not is_token(field):
            raise InvalidHeader(f"{what}: not a header name (RFC 9110, section 5.1): {field!r:.80}; nothing was sent")
        # Names of header fields are the same in upper and lower case: there must not be two of these.
        if field.lower() == "content-type":
            content_type = content_type or value
        elif value is not None and value != "" and field.lower() not in _OWN_FIELDS:
            lines.append(_line(field, value, what))
    if content_type:
        lines.insert(1, _line("Content-Type", content_type, what))
    try:
        return "".join(lines).encode()
    except UnicodeEncodeError as error:
        raise InvalidHeader(f"{what}: its head cannot be written as UTF-8: {error}; nothing was sent") from error


def _line(field: str, value: Any, what: str) -> str:
    if not isinstance(value, str) or _CONTROL.search(value):
        must = "must be str, without CR, LF, NUL and other control characters"
        raise InvalidHeader(f"{what}: the value of header {field} {must}; nothing was sent")
    return f"{field}: {value}\r\n"


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str | bytes):
        raise TypeError(f"{what} must be str or bytes, not {type(value).__name__}; nothing was sent")
    # What is not UTF-8 is refused with the head that it would stand in, as what cannot be UTF-8 is.
    text = value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
    if _BREAKS.search(text):
        raise InvalidHeader(f"{what} has a CR, LF or NUL in it: {value!r:.80}; nothing was sent")
    return text


def _described(name: str, filename: str | None) -> str:
    return f"part {name!r:.80}" if filename is None else f"part {name!r:.80}, file {filename!r:.80}"

"""pycurl, the binding of libcurl: one handle for each thread, which keeps its connection."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import BytesIO

import pycurl  # type: ignore[import-untyped]

from ..workloads import PIECE_SIZE, PUSHES, Kind, Site
from .protocol import Client, Get


class PyCurl(Client):
    """With buffers for pieces of 64 KiB, in both directions.

    No pipe: libcurl calls for what it sends and calls with what it receives, and to join the two takes a thread or a
    loop of one's own.
    """

    kinds = frozenset(Kind) - PUSHES - {Kind.PIPE}

    def __init__(self, site: Site, threads: int) -> None:
        super().__init__(site, threads)
        self._bulk = self._handle()

    @staticmethod
    def version() -> str:
        return str(pycurl.version).partition(" ")[0].removeprefix("PycURL/") + f" (libcurl {_libcurl()})"

    def close(self) -> None:
        self._bulk.close()

    def _handle(self) -> pycurl.Curl:
        handle = pycurl.Curl()
        handle.setopt(pycurl.BUFFERSIZE, PIECE_SIZE)
        handle.setopt(pycurl.UPLOAD_BUFFERSIZE, PIECE_SIZE)
        handle.setopt(pycurl.NOSIGNAL, 1)
        if self.site.ca:
            handle.setopt(pycurl.CAINFO, self.site.ca)
        return handle

    @contextmanager
    def lane(self) -> Iterator[Get]:
        with closing(self._handle()) as handle:
            handle.setopt(pycurl.URL, self.site.small)
            yield lambda: _body_of(handle)

    def get_fresh(self) -> bytes:
        with closing(self._handle()) as handle:
            handle.setopt(pycurl.URL, self.site.once)
            handle.setopt(pycurl.HTTPHEADER, ["Connection: close"])
            return _body_of(handle)

    def put_file(self, path: str) -> int:
        with open(path, "rb") as file:
            self._bulk.setopt(pycurl.URL, self.site.upload)
            self._bulk.setopt(pycurl.UPLOAD, 1)
            self._bulk.setopt(pycurl.READDATA, file)
            self._bulk.setopt(pycurl.INFILESIZE_LARGE, os.fstat(file.fileno()).st_size)
            return int(_body_of(self._bulk))

    def put_pieces(self, body: Iterator[bytes]) -> int:
        self._bulk.setopt(pycurl.URL, self.site.upload)
        self._bulk.setopt(pycurl.UPLOAD, 1)
        self._bulk.setopt(pycurl.READFUNCTION, _reader_of(body))
        return int(_body_of(self._bulk))

    def download(self, size: int) -> int:
        received = 0

        def count(piece: bytes) -> None:
            nonlocal received
            received += len(piece)

        self._bulk.setopt(pycurl.URL, self.site.download(size))
        self._bulk.setopt(pycurl.WRITEFUNCTION, count)
        self._bulk.perform()
        return received


def _reader_of(body: Iterator[bytes]) -> Callable[[int], bytes]:
    """What passes the pieces on: libcurl, when it chunks, asks for a few bytes less than 64 KiB at once.

    What it does not take goes before the next piece, at the price of one copy.
    """
    kept = b""

    def read(size: int) -> bytes:
        nonlocal kept
        piece = memoryview(next(body, b""))
        room = size - len(kept)
        data = b"".join((kept[:size], piece[: max(room, 0)]))
        kept = kept[size:] + piece[max(room, 0) :]
        return data

    return read


def _body_of(handle: pycurl.Curl) -> bytes:
    body = BytesIO()
    handle.setopt(pycurl.WRITEDATA, body)
    handle.perform()
    return body.getvalue()


def _libcurl() -> str:
    return str(pycurl.version_info()[1])

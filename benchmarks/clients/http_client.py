"""`http.client` of the standard library. It has no pool: one connection for each thread."""

from __future__ import annotations

import os
import platform
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from ..workloads import ONCE_PATH, PIECE_SIZE, PIPE_PIECE_SIZE, SMALL_PATH, UPLOAD_PATH, Kind, Site
from .protocol import Client, Get


class HttpClient(Client):
    """As its documentation shows it; block sizes are left at their defaults."""

    kinds = frozenset(Kind)

    def __init__(self, site: Site, threads: int) -> None:
        super().__init__(site, threads)
        self._context = ssl.create_default_context(cafile=site.ca) if site.ca else None
        self._downloads = self._connection(site.bulk_port)
        self._uploads = self._connection(site.bulk_port)

    @staticmethod
    def version() -> str:
        return f"Python {platform.python_version()}"

    def close(self) -> None:
        self._downloads.close()
        self._uploads.close()

    def _connection(self, port: int) -> HTTPConnection:
        """Connects with its first request."""
        if self._context is None:
            return HTTPConnection(self.site.host, port)
        return HTTPSConnection(self.site.host, port, context=self._context)

    @contextmanager
    def lane(self) -> Iterator[Get]:
        with closing(self._connection(self.site.small_port)) as connection:

            def get() -> bytes:
                connection.request("GET", SMALL_PATH)
                return connection.getresponse().read()

            yield get

    def get_fresh(self) -> bytes:
        with closing(self._connection(self.site.small_port)) as connection:
            connection.request("GET", ONCE_PATH, headers={"Connection": "close"})
            return connection.getresponse().read()

    def put_file(self, path: str) -> int:
        with open(path, "rb") as file:
            length = str(os.fstat(file.fileno()).st_size)
            self._uploads.request("PUT", UPLOAD_PATH, body=file, headers={"Content-Length": length})
        return int(self._uploads.getresponse().read())

    def put_pieces(self, body: Iterator[bytes]) -> int:
        self._uploads.request("PUT", UPLOAD_PATH, body=body)  # no length: http.client chunks it
        return int(self._uploads.getresponse().read())

    def push(self, body: Iterator[bytes]) -> int:
        self._begin_push()
        for piece in body:
            self._push(piece)
        return self._end_push()

    def download(self, size: int) -> int:
        response = self._get(size)
        received = 0
        while piece := response.read(PIECE_SIZE):
            received += len(piece)
        return received

    def pipe(self, size: int) -> int:
        response = self._get(size)
        self._begin_push()
        while piece := response.read(PIPE_PIECE_SIZE):
            self._push(piece)
        return self._end_push()

    def _get(self, size: int) -> HTTPResponse:
        self._downloads.request("GET", urlsplit(self.site.download(size)).path)
        return self._downloads.getresponse()

    def _begin_push(self) -> None:
        self._uploads.putrequest("PUT", UPLOAD_PATH)
        self._uploads.putheader("Transfer-Encoding", "chunked")
        self._uploads.endheaders()

    def _push(self, piece: bytes) -> None:
        """The chunk is the caller's to frame. One `send` for it, as in http.client's own loop over an iterable."""
        self._uploads.send(b"%x\r\n" % len(piece) + piece + b"\r\n")

    def _end_push(self) -> int:
        self._uploads.send(b"0\r\n\r\n")
        return int(self._uploads.getresponse().read())

"""`http.client` of the standard library. It has no pool: one connection for each thread."""

from __future__ import annotations

import os
import platform
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import urlsplit

from ..workloads import ONCE_PATH, PIECE_SIZE, SMALL_PATH, UPLOAD_PATH, Site
from .protocol import Client, Get


class HttpClient(Client):
    """As its documentation shows it; block sizes are left at their defaults."""

    def __init__(self, site: Site, threads: int) -> None:
        super().__init__(site, threads)
        self._context = ssl.create_default_context(cafile=site.ca) if site.ca else None
        self._bulk = self._connection(site.bulk_port)

    @staticmethod
    def version() -> str:
        return f"Python {platform.python_version()}"

    def close(self) -> None:
        self._bulk.close()

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
            self._bulk.request("PUT", UPLOAD_PATH, body=file, headers={"Content-Length": length})
        return int(self._bulk.getresponse().read())

    def put_pieces(self, body: Iterator[bytes]) -> int:
        self._bulk.request("PUT", UPLOAD_PATH, body=body)  # no length: http.client chunks it
        return int(self._bulk.getresponse().read())

    def download(self, size: int) -> int:
        self._bulk.request("GET", urlsplit(self.site.download(size)).path)
        response = self._bulk.getresponse()
        received = 0
        while piece := response.read(PIECE_SIZE):
            received += len(piece)
        return received

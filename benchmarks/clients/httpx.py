"""httpx: one Client for all threads, HTTP/1.1."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from ..workloads import PIECE_SIZE, PIPE_PIECE_SIZE, Site
from .protocol import Client, Get

DEFAULT_KEPT = 20


class Httpx(Client):
    """With more threads than connections are kept by default, a larger pool."""

    def __init__(self, site: Site, threads: int) -> None:
        super().__init__(site, threads)
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=max(threads, DEFAULT_KEPT))
        verify = ssl.create_default_context(cafile=site.ca) if site.ca else True
        self._client = httpx.Client(limits=limits, verify=verify, timeout=60)

    @staticmethod
    def version() -> str:
        return httpx.__version__

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def lane(self) -> Iterator[Get]:
        client, url = self._client, self.site.small
        yield lambda: client.get(url).content

    def get_fresh(self) -> bytes:
        return self._client.get(self.site.once, headers={"Connection": "close"}).content

    def put_file(self, path: str) -> int:
        with open(path, "rb") as file:
            return int(self._client.put(self.site.upload, content=file).content)

    def put_pieces(self, body: Iterator[bytes]) -> int:
        return int(self._client.put(self.site.upload, content=body).content)

    def download(self, size: int) -> int:
        with self._client.stream("GET", self.site.download(size)) as response:
            return sum(len(piece) for piece in response.iter_bytes(PIECE_SIZE))

    def pipe(self, size: int) -> int:
        with self._client.stream("GET", self.site.download(size)) as response:
            return int(self._client.put(self.site.upload, content=response.iter_bytes(PIPE_PIECE_SIZE)).content)

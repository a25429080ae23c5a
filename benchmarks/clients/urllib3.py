"""urllib3: one PoolManager for all threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

import urllib3

from ..workloads import PIECE_SIZE, PIPE_PIECE_SIZE, Site
from .protocol import Client, Get

CONNECTIONS_OF_A_PIPE = 2


class Urllib3(Client):
    """The pool is as large as there are threads, and as a pipe needs, else connections would be thrown away."""

    def __init__(self, site: Site, threads: int) -> None:
        super().__init__(site, threads)
        self._pool = urllib3.PoolManager(maxsize=max(threads, CONNECTIONS_OF_A_PIPE), ca_certs=site.ca)

    @staticmethod
    def version() -> str:
        return metadata.version("urllib3")

    def close(self) -> None:
        self._pool.clear()

    @contextmanager
    def lane(self) -> Iterator[Get]:
        pool, url = self._pool, self.site.small
        yield lambda: pool.request("GET", url).data

    def get_fresh(self) -> bytes:
        return self._pool.request("GET", self.site.once, headers={"Connection": "close"}).data

    def put_file(self, path: str) -> int:
        with open(path, "rb") as file:
            headers = {"Content-Length": str(os.fstat(file.fileno()).st_size)}
            return int(self._pool.request("PUT", self.site.upload, body=file, headers=headers).data)

    def put_pieces(self, body: Iterator[bytes]) -> int:
        return int(self._pool.request("PUT", self.site.upload, body=body).data)

    def download(self, size: int) -> int:
        response = self._pool.request("GET", self.site.download(size), preload_content=False)
        received = sum(len(piece) for piece in response.stream(PIECE_SIZE))
        response.release_conn()
        return received

    def pipe(self, size: int) -> int:
        response = self._pool.request("GET", self.site.download(size), preload_content=False)
        counted = int(self._pool.request("PUT", self.site.upload, body=response.stream(PIPE_PIECE_SIZE)).data)
        response.release_conn()
        return counted

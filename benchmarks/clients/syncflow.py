"""syncflow: one Session for all threads. The code is that of requests, as it is meant to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import syncflow
from syncflow import PoolLimits, Session, streams

from ..workloads import PIECE_SIZE, Kind, Site
from .protocol import Client, Get

DEFAULT_PER_HOST = 10


class Syncflow(Client):
    """With more threads than the default allows connections to one host, a larger pool."""

    kinds = frozenset(Kind)

    def __init__(self, site: Site, threads: int) -> None:
        super().__init__(site, threads)
        self._session = Session(pool=PoolLimits(per_host=max(threads, DEFAULT_PER_HOST)))
        if site.ca:
            self._session.verify = site.ca

    @staticmethod
    def version() -> str:
        return str(getattr(syncflow, "__version__", "checkout"))

    def close(self) -> None:
        self._session.close()

    @contextmanager
    def lane(self) -> Iterator[Get]:
        session, url = self._session, self.site.small
        yield lambda: session.get(url).content

    def get_fresh(self) -> bytes:
        return self._session.get(self.site.once, headers={"Connection": "close"}).content

    def put_file(self, path: str) -> int:
        with open(path, "rb") as file:
            return int(self._session.put(self.site.upload, data=file).content)

    def put_pieces(self, body: Iterator[bytes]) -> int:
        return int(self._session.put(self.site.upload, data=body).content)

    def push(self, body: Iterator[bytes]) -> int:
        with self._session.upload("PUT", self.site.upload) as upload:
            for piece in body:
                upload.write(piece)
        return int(upload.response.content)

    def download(self, size: int) -> int:
        with self._session.get(self.site.download(size), stream=True) as response:
            return sum(len(piece) for piece in response.iter_content(PIECE_SIZE))

    def pipe(self, size: int) -> int:
        with self._session.get(self.site.download(size), stream=True) as response:
            with self._session.upload("PUT", self.site.upload) as upload:
                streams.pipe(response, sink=upload)
        return int(upload.response.content)

"""requests: one Session for all threads, as is widely done, though it does not promise that this is safe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

import requests
from requests.adapters import DEFAULT_POOLSIZE, HTTPAdapter

from ..workloads import PIECE_SIZE, PIPE_PIECE_SIZE, Site
from .protocol import Client, Get


class Requests(Client):
    """With more threads than the default pool has places, a larger pool."""

    def __init__(self, site: Site, threads: int) -> None:
        super().__init__(site, threads)
        self._session = requests.Session()
        if site.ca:
            self._session.verify = site.ca
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=max(threads, DEFAULT_POOLSIZE)))

    @staticmethod
    def version() -> str:
        return metadata.version("requests")

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

    def download(self, size: int) -> int:
        with self._session.get(self.site.download(size), stream=True) as response:
            return sum(len(piece) for piece in response.iter_content(PIECE_SIZE))

    def pipe(self, size: int) -> int:
        with self._session.get(self.site.download(size), stream=True) as response:
            return int(self._session.put(self.site.upload, data=response.iter_content(PIPE_PIECE_SIZE)).content)

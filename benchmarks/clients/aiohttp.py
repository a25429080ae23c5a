"""aiohttp: as many tasks as the others have threads, on one event loop and one session."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any, TypeVar

import aiohttp

from ..workloads import PIECE_SIZE, PIPE_PIECE_SIZE, SMALL_BODY, Site
from .protocol import WARM_UP_GETS, Client, Get

T = TypeVar("T")

UNLIMITED = aiohttp.ClientTimeout(total=None)
"""The default ends every request after five minutes, body included."""


class Aiohttp(Client):
    """The standard event loop of asyncio."""

    def __init__(self, site: Site, threads: int) -> None:
        super().__init__(site, threads)
        self._loop = asyncio.new_event_loop()
        self._session = self._run(self._open())

    @staticmethod
    def version() -> str:
        return aiohttp.__version__

    async def _open(self) -> aiohttp.ClientSession:
        tls = ssl.create_default_context(cafile=self.site.ca) if self.site.ca else True
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls), timeout=UNLIMITED)

    def close(self) -> None:
        self._run(self._session.close())
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def time_gets(self, share: int) -> float:
        return self._run(self._time_gets(share))

    async def _time_gets(self, share: int) -> float:
        await asyncio.gather(*(self._repeat(WARM_UP_GETS) for _ in range(self.threads)))
        start = perf_counter()
        await asyncio.gather(*(self._repeat(share) for _ in range(self.threads)))
        return (perf_counter() - start) / (share * self.threads)

    async def _repeat(self, count: int) -> None:
        for _ in range(count):
            async with self._session.get(self.site.small) as response:
                body = await response.read()
            if body != SMALL_BODY:
                raise AssertionError(f"a wrong body: {body[:100]!r}")

    def lane(self) -> AbstractContextManager[Get]:
        raise NotImplementedError("there are no threads here: see time_gets()")

    def get_fresh(self) -> bytes:
        return self._run(self._get_fresh())

    async def _get_fresh(self) -> bytes:
        async with self._session.get(self.site.once, headers={"Connection": "close"}) as response:
            return await response.read()

    def put_file(self, path: str) -> int:
        with open(path, "rb") as file:
            return self._run(self._put(file))

    def put_pieces(self, body: Iterator[bytes]) -> int:
        async def generate() -> AsyncIterator[bytes]:
            for piece in body:
                yield piece

        return self._run(self._put(generate()))

    async def _put(self, body: Any) -> int:
        async with self._session.put(self.site.upload, data=body) as response:
            return int(await response.read())

    def download(self, size: int) -> int:
        return self._run(self._download(size))

    async def _download(self, size: int) -> int:
        received = 0
        async with self._session.get(self.site.download(size)) as response:
            async for piece in response.content.iter_chunked(PIECE_SIZE):
                received += len(piece)
        return received

    def pipe(self, size: int) -> int:
        return self._run(self._pipe(size))

    async def _pipe(self, size: int) -> int:
        async with self._session.get(self.site.download(size)) as response:
            return await self._put(response.content.iter_chunked(PIPE_PIECE_SIZE))

"""What every client under test can be asked for, and how it is timed.

A client is opened for one sample and closed after it. What it does before the clock starts (opening sessions,
loading the CA, warming up) is not measured; what a program would do for every request is.
"""

from __future__ import annotations

import abc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from time import perf_counter
from typing import ClassVar

from ..workloads import PIECE_SIZE, PUSHES, SMALL_BODY, SMALL_PIECE_SIZE, WARM_UP_VOLUME, Kind, Order, Site

WARM_UP_GETS = 10
"""For each thread, before the clock starts; alone, a thread does five times as many."""

Get = Callable[[], bytes]


def pieces(size: int, piece_size: int = PIECE_SIZE) -> Iterator[bytes]:
    """A body made while it is sent. The same object each time: making it is not what is measured.

    Random, for `bytes(n)` may be memory that was never touched, which the kernel reads as one page of zeros.
    """
    piece = os.urandom(piece_size)
    for _ in range(size // piece_size):
        yield piece


def repeat(get: Get, count: int) -> None:
    """`count` times `get`, each answer checked."""
    for _ in range(count):
        body = get()
        if body != SMALL_BODY:
            raise AssertionError(f"a wrong body: {body[:100]!r}")


def check_count(counted: int, expected: int) -> None:
    """Every transfer ends here: what the other side, or the reader, has counted is what was meant."""
    if counted != expected:
        raise AssertionError(f"{counted} bytes arrived of {expected}")


class Client(abc.ABC):
    """One HTTP client, in its own process, with one session for all its threads where it has such a thing."""

    kinds: ClassVar[frozenset[Kind]] = frozenset(Kind) - PUSHES
    has_tls: ClassVar[bool] = True

    def __init__(self, site: Site, threads: int) -> None:
        self.site = site
        self.threads = threads

    @staticmethod
    @abc.abstractmethod
    def version() -> str:
        """Of the library, for the heading of the report."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends every connection."""

    @abc.abstractmethod
    def lane(self) -> AbstractContextManager[Get]:
        """A function that GETs `site.small` and returns the body, for one thread. Connections may be kept."""

    @abc.abstractmethod
    def get_fresh(self) -> bytes:
        """GETs `site.once` over a connection of its own."""

    @abc.abstractmethod
    def put_file(self, path: str) -> int:
        """PUTs the file with a content-length to `site.upload`; what the server has counted."""

    @abc.abstractmethod
    def put_pieces(self, body: Iterator[bytes]) -> int:
        """PUTs what the iterator yields, chunked, to `site.upload`; what the server has counted."""

    @abc.abstractmethod
    def download(self, size: int) -> int:
        """GETs `site.download(size)` in pieces of PIECE_SIZE, keeping none; how many bytes came."""

    def pipe(self, size: int) -> int:
        """GETs `site.download(size)` and meanwhile PUTs what comes, chunked, to `site.upload`, in pieces of
        PIPE_PIECE_SIZE where it can say so; what the server has counted. Not of who leaves PIPE out of its kinds."""
        raise NotImplementedError

    def push(self, body: Iterator[bytes]) -> int:
        """As `put_pieces`, but it is this loop that hands over each piece, by a call. Who has such a call overrides
        this and adds PUSHES to its kinds; it is not made up for a client that takes an iterator and no more."""
        raise NotImplementedError

    def measure(self, order: Order) -> float:
        """Seconds for one request, or for one transfer."""
        if order.kind is Kind.GET:
            return self.time_gets(order.count // self.threads)
        if order.kind is Kind.FRESH:
            return self.time_fresh(order.count)
        self.time_transfer(order.kind, WARM_UP_VOLUME, order.warm_up_path)
        return self.time_transfer(order.kind, order.count, order.path)

    def time_gets(self, share: int) -> float:
        """Seconds a request when every thread does `share` of them: from the first start to the last end."""
        if self.threads == 1:
            with self.lane() as get:
                repeat(get, 5 * WARM_UP_GETS)
                start = perf_counter()
                repeat(get, share)
                return (perf_counter() - start) / share
        spans = _Spans(self.threads)
        workers = [threading.Thread(target=spans.run, args=(self.lane, share)) for _ in range(self.threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return spans.wall() / (share * self.threads)

    def time_fresh(self, count: int) -> float:
        """Seconds a request."""
        repeat(self.get_fresh, WARM_UP_GETS)
        start = perf_counter()
        repeat(self.get_fresh, count)
        return (perf_counter() - start) / count

    def time_transfer(self, kind: Kind, size: int, path: str) -> float:
        """Seconds from the call to the checked count."""
        start = perf_counter()
        counted = self._transfer(kind, size, path)
        elapsed = perf_counter() - start
        check_count(counted, size)
        return elapsed

    def _transfer(self, kind: Kind, size: int, path: str) -> int:
        if kind is Kind.PUT_FILE:
            return self.put_file(path)
        if kind is Kind.PUT_PIECES:
            return self.put_pieces(pieces(size))
        if kind is Kind.PUSH_PIECES:
            return self.push(pieces(size))
        if kind is Kind.PUSH_SMALL:
            return self.push(pieces(size, SMALL_PIECE_SIZE))
        return self.pipe(size) if kind is Kind.PIPE else self.download(size)


class _Spans:
    """When each thread began and ended, by its own reading: the main thread might see the start late."""

    def __init__(self, threads: int) -> None:
        self._barrier = threading.Barrier(threads)
        self._spans: list[tuple[float, float]] = []
        self._errors: list[Exception] = []

    def run(self, lane: Callable[[], AbstractContextManager[Get]], share: int) -> None:
        try:
            with lane() as get:
                repeat(get, WARM_UP_GETS)
                self._barrier.wait()
                start = perf_counter()
                repeat(get, share)
                self._spans.append((start, perf_counter()))
        except threading.BrokenBarrierError:
            pass
        except Exception as exc:
            self._errors.append(exc)
            self._barrier.abort()

    def wall(self) -> float:
        if self._errors:
            raise self._errors[0]
        return max(end for _, end in self._spans) - min(start for start, _ in self._spans)

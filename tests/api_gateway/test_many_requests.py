"""The gateway as it is meant to run: four processes of 16 threads that gunicorn forks; 2,000 requests of every kind,
and SIGTERM in the middle of others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from syncflow import PoolLimits, Session
from syncflow.testing import eventually, pattern_pieces, pattern_sha256

from .conftest import PATIENCE, Start
from .shop import Shop, page_of, stop_in_the_middle

pytestmark = pytest.mark.once

REQUESTS = 2000
CLIENTS = 48


class Clients:
    """What they ask, each from a thread of its own, and what they see. Every function returns whether it was right."""

    def __init__(self, url: str, session: Session) -> None:
        self.processes: set[int] = set()  # that have answered
        self._url = url
        self._session = session
        self._kinds: list[Callable[[int], bool]] = [
            *[self._page] * 4,
            *[self._upload] * 2,
            *[self._download] * 2,
            self._events,
            self._health,
        ]

    def ask(self, number: int) -> str:
        """The name of what was wrong; empty if all was right."""
        kind = self._kinds[number % len(self._kinds)]
        return "" if kind(number) else f"{kind.__name__} {number}"

    def _page(self, number: int) -> bool:
        answer = self._session.get(f"{self._url}/products/{number}")
        return (answer.status_code, answer.json()) == (200, page_of(number))

    def _upload(self, number: int) -> bool:
        """In chunks, of which one is small."""
        size = 20_000 + number
        answer = self._session.put(f"{self._url}/products/{number}/picture", data=map(bytes, pattern_pieces(size)))
        return (answer.status_code, answer.json()) == (200, {"sha256": pattern_sha256(size)})

    def _download(self, number: int) -> bool:
        size = 20 * number
        answer = self._session.get(f"{self._url}/products/{size}/picture")
        digest = hashlib.sha256(answer.content).hexdigest()
        return (answer.status_code, digest) == (200, pattern_sha256(size))

    def _events(self, number: int) -> bool:
        """Three, and the client leaves."""
        with self._session.sse(f"{self._url}/stock/events", last_event_id=str(number)) as events:
            got = [next(events).data for _ in range(3)]
        return got == [f"change {number + each}" for each in (1, 2, 3)]

    def _health(self, number: int) -> bool:
        answer = self._session.get(f"{self._url}/health/clients")
        self.processes.add(answer.json()["process"])
        metrics = self._session.get(f"{self._url}/metrics")
        return (answer.status_code, metrics.status_code, answer.json()["healthy"]) == (200, 200, True)


@pytest.mark.timeout(150)  # half a minute on two cores that others want too
def test_two_thousand_requests_and_a_graceful_end(start: Start) -> None:
    with Shop(silence=0.1) as shop:
        gateway = start("gunicorn", **shop.services)
        with Session(timeout=PATIENCE, pool=PoolLimits(per_host=2 * CLIENTS)) as session:
            session.trust_env = False
            clients = Clients(gateway.url, session)
            with ThreadPoolExecutor(CLIENTS) as threads:
                wrong = list(filter(None, threads.map(clients.ask, range(1, REQUESTS + 1))))
        assert wrong == []
        assert clients.processes == gateway.workers()
        assert len(clients.processes) == 4
        eventually(lambda: not shop.streams, message="clients have left, and their streams go on")
        stop_in_the_middle(gateway, shop, streams=8, downloads=4)

"""The gateway's end by SIGTERM: streams of events end, what else is under way is finished, nothing is left behind."""

from __future__ import annotations

import signal

import pytest

from syncflow import Session
from syncflow.testing import eventually

from .conftest import PATIENCE, Start
from .shop import Shop, stop_in_the_middle


@pytest.mark.parametrize(
    ("server", "options"),
    [
        pytest.param("gunicorn", ("--workers", "2"), id="gunicorn"),
        pytest.param("gunicorn", ("--workers", "2", "--preload"), id="gunicorn, preloaded"),
        pytest.param("waitress", (), id="waitress"),
    ],
)
def test_in_the_middle(start: Start, client: Session, server: str, options: tuple[str, ...]) -> None:
    with Shop() as shop:
        gateway = start(server, *options, **shop.services)
        processes: set[int] = set()

        def all_have_answered() -> bool:
            answer = client.get(f"{gateway.url}/health/clients", headers={"Connection": "close"})
            processes.add(answer.json()["process"])
            return processes == gateway.workers() or server == "waitress"

        eventually(all_have_answered, PATIENCE)
        stop_in_the_middle(gateway, shop, streams=4, downloads=2)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_with_nothing_to_do(start: Start, client: Session, asked: signal.Signals) -> None:
    """The loop that is run for waitress sleeps, and is woken."""
    gateway = start("waitress")
    client.get(f"{gateway.url}/health/clients", headers={"Connection": "close"})
    gateway.process.send_signal(asked)
    assert gateway.process.wait(PATIENCE) == 0
    assert gateway.log == f"{gateway.url}\n"

"""How long a stream waits before it connects again: what the server asks for by `retry`, longer while tries fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from syncflow import Session
from syncflow.sse import stream as stream_module
from syncflow.sse.waits import delay_before
from syncflow.testing import Peer, Request

from .rig import Source, begin, data_of, drops, follow, no_more, says, whole

SessionMaker = Callable[..., Session]

# Failures and reconnection time.
Questions = list[tuple[int, float]]

DAY = 86400.0


@pytest.fixture
def session(new_session: SessionMaker) -> Session:
    return new_session()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Questions:
    """What `delay_before` was asked by streams; they do not wait."""
    questions: Questions = []

    def ask(failures: int, reconnection_time: float) -> float:
        questions.append((failures, reconnection_time))
        return 0.0

    monkeypatch.setattr(stream_module, "delay_before", ask)
    return questions


# ---------------------------------------------------------------------- the function


@pytest.mark.parametrize("reconnection_time", [0.0, 0.001, 0.5, 3.0, 59.0, 60.0, 75.0, DAY])
def test_a_delay_is_never_shorter_than_asked_nor_much_longer(reconnection_time: float) -> None:
    for failures in (0, 1, 2, 5, 16, 17, 1000, 10**9):
        for _ in range(20):
            delay = delay_before(failures, reconnection_time)
            assert delay >= reconnection_time
            assert delay <= 1.25 * max(60.0, reconnection_time)
            assert failures or delay <= 1.25 * reconnection_time


@pytest.mark.parametrize("reconnection_time", [0.0, 0.001, 0.5, 3.0])
def test_delays_double_up_to_a_minute(reconnection_time: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a server has asked for none at all: one that is down must not be tried without a pause."""
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    delays = [delay_before(failures, reconnection_time) for failures in range(20)]
    assert delays[0] == reconnection_time
    assert delays[-1] == 60.0
    for before, after in itertools.pairwise(delays[1:]):
        assert after == min(2 * before, 60.0)
    assert delays[1] == 2 * max(reconnection_time, 0.001)


def test_two_clients_do_not_come_back_together() -> None:
    assert len({delay_before(3, 1.0) for _ in range(10)}) > 5
    assert max(delay_before(0, 1.0) for _ in range(200)) > 1.1


# ---------------------------------------------------------------------- what a stream asks it


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("retry: 1500\n\n", 1.5),
        ("retry: 0\n\n", 0.0),
        ("retry: 7\nretry: 2\n", 0.002),  # no event need follow
        ("retry: 86400001\n\n", DAY),
        (f"retry: {'9' * 400}\n\n", DAY),
        (f"retry: {'9' * 5000}\n\n", 3.0),
        ("retry: -1\nretry: 1.5\nretry: x\nretry: \nretry: \u0661\nretry\n\n", 3.0),
        ("data: a\n\n", 3.0),
    ],
)
def test_what_the_server_asks_for(session: Session, asked: Questions, text: str, seconds: float) -> None:
    with Source(whole(text), whole("data: b\n\n"), no_more) as server:
        with session.sse(server.url) as stream:
            assert data_of(stream)[-1] == "b"
            assert stream.reconnection_time == seconds
    assert asked == [(0, seconds)] * 2  # it holds for all connections that follow


def test_it_is_taken_over_even_from_a_stream_that_breaks(session: Session, asked: Questions) -> None:
    with Source(drops("retry: 20\n"), no_more) as server:
        assert list(session.sse(server.url)) == []
    assert asked == [(0, 0.02)]


def test_failures_make_it_longer_until_something_comes(session: Session, asked: Questions) -> None:
    """A head alone is no success: who answers and then breaks, again and again, is in trouble too."""

    def refuses(peer: Peer, request: Request) -> None:
        peer.reset()

    answers = [
        refuses,
        drops(),
        refuses,
        drops(": alive\n\n"),
        drops("data: a\n\n"),
        refuses,
        whole(),
        drops(),
        no_more,
    ]
    with Source(*answers) as server:
        assert data_of(follow(session, server.url)) == ["a"]
    assert [failures for failures, _ in asked] == [0, 1, 2, 0, 0, 1, 0, 0]


def test_an_error_counts_if_the_program_goes_on(session: Session, asked: Questions) -> None:
    with Source(says(500), says(503), whole("data: a\n\n"), no_more) as server:
        stream = follow(session, server.url)
        events: list[Any] = []
        for _ in range(3):
            try:
                events += stream
            except stream_module.HTTPError as error:
                events.append(error.response.status_code if error.response is not None else None)
        assert events[:2] == [500, 503]
        assert data_of(events[2:]) == ["a"]
    assert [failures for failures, _ in asked] == [0, 1, 0]


def test_it_does_wait(session: Session) -> None:
    """With the real clock: the second request comes no earlier than asked."""
    moments: list[float] = []

    def answer(peer: Peer, request: Request) -> None:
        moments.append(stream_module.time.monotonic())
        begin(peer, "retry: 50\n")
        peer.close()

    with Source(answer, answer, no_more) as server:
        assert list(session.sse(server.url)) == []
    assert moments[1] - moments[0] >= 0.05

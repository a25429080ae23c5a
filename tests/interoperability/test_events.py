"""Server-Sent Events from every server: each must have arrived before the next one is released."""

from __future__ import annotations

import uuid

import pytest

from syncflow import ReadTimeout, Session

from .behaviour import IF_TOLD, SSE
from .selection import EACH_AND_TLS, on, those
from .servers import Running

EVENTS = ["event 0", "event 1", "event 2"]


def release(session: Session, server: Running, stream: str) -> None:
    assert session.post(f"{server.url}/release", params={"stream": stream}).status_code == 200


@EACH_AND_TLS
def test_iter_sse(session: Session, server: Running) -> None:
    stream, seen = uuid.uuid4().hex, []
    with session.get(f"{server.url}/events", params={"stream": stream}, stream=True) as response:
        for event in response.iter_sse():
            seen.append((event.id, event.data))
            release(session, server, stream)
    assert seen == [(str(number), data) for number, data in enumerate(EVENTS)]


@EACH_AND_TLS
def test_sse(session: Session, server: Running) -> None:
    stream, seen = uuid.uuid4().hex, []
    with session.sse(f"{server.url}/events", params={"stream": stream}, max_reconnects=0) as events:
        while len(seen) < len(EVENTS):
            seen.append(next(events).data)
            release(session, server, stream)
        assert events.last_event_id == "2"
    assert seen == EVENTS


@on(*those(SSE, IF_TOLD))
def test_events_held_back_by_default(session: Session, server: Running) -> None:
    """A proxy that is not told otherwise keeps them until there are many, or the last one has come."""
    stream = uuid.uuid4().hex
    with pytest.raises(ReadTimeout):
        session.get(f"{server.url}/held", params={"stream": stream}, timeout=(10, 0.5))
    stream = uuid.uuid4().hex
    for _ in EVENTS:
        release(session, server, stream)
    with session.get(f"{server.url}/held", params={"stream": stream}, stream=True) as response:
        assert [event.data for event in response.iter_sse()] == EVENTS

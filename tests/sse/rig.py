"""What the tests of event streams share: a server whose answers follow one another, and an iteration on a thread of its
own.

Knows in which function of syncflow a thread waits, so that no test has to sleep until something has probably happened.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from syncflow import RequestException, Session
from syncflow.sse import EventStream, ServerSentEvent
from syncflow.testing import Peer, Request, ScriptedServer, chunk, eventually, last_chunk, reply, reply_head

# What ends a test that would otherwise hang.
PATIENCE = 10.0

EVENTS = {"Content-Type": "text/event-stream"}

Answer = Callable[[Peer, Request], object]


class Source(ScriptedServer):
    """Each request gets the next answer, on whatever connection it comes; the last answer goes on."""

    def __init__(self, *answers: Answer, **settings: Any) -> None:
        super().__init__(self._serve_peer, **settings)
        self._answers = answers
        # Guarded by `_changed`.
        self._seen: list[Request] = []

    def _serve_peer(self, peer: Peer) -> None:
        for request in peer.requests():
            with self._changed:
                number = len(self._seen)
                self._seen.append(request)
            self._answers[min(number, len(self._answers) - 1)](peer, request)
            if peer.closed:
                return

    @property
    def seen(self) -> list[Request]:
        """The requests, in their order."""
        with self._changed:
            return list(self._seen)

    @property
    def ids(self) -> list[str | None]:
        """What each said in Last-Event-ID."""
        values = [request.headers.get("last-event-id") for request in self.seen]
        return [None if value is None else value.encode("latin-1").decode() for value in values]


# ---------------------------------------------------------------------- answers


def begin(peer: Peer, text: str = "") -> None:
    """The head of a stream without an end, and what it begins with."""
    peer.send(reply_head(200, {**EVENTS, "Transfer-Encoding": "chunked"}))
    if text:
        peer.send(chunk(text.encode()))


def whole(text: str = "") -> Answer:
    """Ends cleanly; the connection can be used again."""

    def answer(peer: Peer, request: Request) -> None:
        begin(peer, text)
        peer.send(last_chunk())

    return answer


def drops(text: str = "") -> Answer:
    """The end of the connection, and not of the body."""

    def answer(peer: Peer, request: Request) -> None:
        begin(peer, text)
        peer.close()

    return answer


def holds(text: str = "") -> Answer:
    """Nothing more comes."""

    def answer(peer: Peer, request: Request) -> None:
        begin(peer, text)
        peer.wait_closed(math.inf)

    return answer


def silence(peer: Peer, request: Request) -> None:
    """Not even a head."""
    peer.wait_closed(math.inf)


def says(status: int, body: bytes = b"", fields: dict[str, str] | None = None) -> Answer:
    """Any answer."""
    return lambda peer, request: peer.send(reply(status, body, fields or {}))


def moved(status: int, location: str) -> Answer:
    return says(status, b"elsewhere", {"Location": location})


no_more = says(204)


# ---------------------------------------------------------------------- streams


def wrong(stream: EventStream) -> RequestException:
    """The error in which the next event ends."""
    with pytest.raises(RequestException) as caught:
        next(stream)
    return caught.value


def follow(session: Session, url: str, **arguments: Any) -> EventStream:
    """A stream that connects again at once."""
    stream = session.sse(url, **arguments)
    stream.reconnection_time = 0.001
    return stream


class Clock:
    """The real one, and what a test adds to it: `stream._clock = clock`."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def data_of(events: Any) -> list[str]:
    return [event.data for event in events]


def numbered(*numbers: int) -> str:
    """Events with these as their id and as their data."""
    return "".join(f"id: {number}\ndata: {number}\n\n" for number in numbers)


class Following:
    """A stream iterated on a thread of its own."""

    def __init__(self, stream: Iterable[ServerSentEvent]) -> None:
        self.stream = stream
        self.events: list[ServerSentEvent] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="following", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for event in self.stream:
                self.events.append(event)
        except BaseException as error:
            self._error = error

    def wait_in(self, place: str) -> None:
        """Until it waits, somewhere below syncflow's function of that name."""
        for _ in range(3):
            eventually(lambda: waits_in(self._thread.ident, place) or not self._thread.is_alive())
        assert self._thread.is_alive(), f"it ended: {self._error!r}, after {self.events}"

    def end(self) -> BaseException | None:
        """What it raised, at once or soon; None if it ended like a list."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it was not woken"
        return self._error


def waits_in(thread: int | None, place: str) -> bool:
    """Whether that thread waits in syncflow, on a Condition or for a socket, below the function `place`."""
    frame = sys._current_frames().get(thread or 0)
    names = []
    while frame is not None:
        module = frame.f_globals["__name__"]
        if module.startswith("syncflow."):
            names.append(frame.f_code.co_name)
        elif not names and module not in ("threading", "selectors"):
            return False  # it does something
        frame = frame.f_back
    return bool(names) and names[0].startswith("wait") and place in names

"""The application that the servers of these tests run, in this process or in one of their own.

Knows that a test says in the header X-Test, as JSON, what is to be done with its request: `url` of the upstream, `kind`
("proxy", "sse", or "relay" for a body of the handler's own), `timeout`, `host`, `transform` (one of those below).
Without it: who the process is, and what its session does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from syncflow import Session, Timeouts, wsgi
from syncflow.sse import ServerSentEvent, relay
from syncflow.wsgi import departures


class Shout:
    """Changes what it can."""

    def event(self, event: ServerSentEvent) -> ServerSentEvent:
        return ServerSentEvent(event.event, event.data.upper(), event.id, event.retry)


class Preface:
    """Puts something before every body."""

    def response(self, response: wsgi.ProxiedResponse) -> None:
        response.body = self._with_more(response.body)

    def _with_more(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        yield b"preface "
        yield from pieces


TRANSFORMS: dict[str, Any] = {"shout": Shout(), "preface": Preface()}


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    said = environ.pop("HTTP_X_TEST", None)
    if said is None:
        return report(environ, start_response)
    told = json.loads(said)
    settings: dict[str, Any] = {"host": told.get("host"), "transform": TRANSFORMS.get(told.get("transform"))}
    if "timeout" in told:
        settings["timeout"] = Timeouts(**told["timeout"])
    if told.get("kind") == "sse":
        return wsgi.sse_proxy(environ, start_response, told["url"], keep_alive=told.get("keep_alive"), **settings)
    if told.get("kind") == "relay":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        stream = wsgi.client(environ).sse(told["url"], timeout=Timeouts(**told["timeout"]))
        return wsgi.closing(environ, relay(stream, keep_alive=None))
    return wsgi.proxy(environ, start_response, told["url"], **settings)


def report(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    session = wsgi.client(environ)
    stats = session.stats()
    watched = departures._departures
    answer = {
        "pid": os.getpid(),
        "session": id(session),
        "open": stats.open,
        "in_use": stats.in_use,
        "waiting": stats.waiting,
        "watched": 0 if watched is None else len(watched._told),
    }
    body = json.dumps(answer).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def new_session() -> Session:
    session = Session(timeout=20)
    session.trust_env = False
    return session

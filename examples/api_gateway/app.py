"""A gateway in front of three services: a page made of the answers of all three, uploads and downloads passed on, a
stream of events passed on, and what it says of its own clients. See README.md.

A Flask application for any WSGI server with threads. Its one session is made before the server forks, or after: each
process has connections of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import flask
from fan_out import FanOut
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from syncflow import CircuitBreaker, PoolLimits, Retry, Session, Timeouts, wsgi
from syncflow.ext.prometheus import SyncflowCollector

CATALOGUE = os.environ.get("CATALOGUE_URL", "http://127.0.0.1:9001")
STOCK = os.environ.get("STOCK_URL", "http://127.0.0.1:9002")
REVIEWS = os.environ.get("REVIEWS_URL", "http://127.0.0.1:9003")

# Threads of the server in each process: each may ask all three services at once, or pass one request on. The settings
# of both servers take it from here, or from the same variable.
THREADS = int(os.environ.get("GATEWAY_THREADS", "16"))

# Seconds for a page, whatever the services do.
PAGE_DEADLINE = float(os.environ.get("PAGE_DEADLINE", "2"))

# A stream of events may be silent for longer than an answer takes.
EVENTS_TIMEOUT = Timeouts(connect=1.0, read=60.0)

session = Session(
    timeout=Timeouts(connect=1.0, read=10.0, write=10.0, pool=1.0),
    pool=PoolLimits(per_host=2 * THREADS, total=4 * THREADS),
    retries=Retry(total=2, backoff_factor=0.05),
    breaker=CircuitBreaker(failures=5, reset_after=5.0),
)
session.trust_env = False  # no proxy, no password from the environment of the server
fan_out = FanOut(3 * THREADS)

app = flask.Flask(__name__)
app.wsgi_app = wsgi.ClientMiddleware(app.wsgi_app, session)  # type: ignore[method-assign]  # as Flask's documentation


class PassedOn(flask.Response):
    """What a WSGI handler answers, as it is. A view may return the handler itself, too; but then werkzeug makes a
    response of it, with a Content-Type where there was none, and Flask takes a client that has left for an error of the
    program. Here the handler is called behind both, and what it raises goes to the server."""

    def __init__(self, handler: Callable[..., Iterable[bytes]], url: str, **settings: Any) -> None:
        super().__init__()
        self._handler = handler
        self._url = url
        self._settings = settings

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        return self._handler(environ, start_response, self._url, **self._settings)


@app.get("/products/<int:number>")
def page(number: int) -> tuple[dict[str, Any], int]:
    """Of the three answers those that are there in time; 502 if there is none."""
    urls = {
        "catalogue": f"{CATALOGUE}/products/{number}",
        "stock": f"{STOCK}/stock/{number}",
        "reviews": f"{REVIEWS}/reviews/{number}",
    }
    answers, missing = fan_out.get(wsgi.client(flask.request.environ), urls, PAGE_DEADLINE)
    return {"product": number, **answers, "missing": missing}, 200 if answers else 502


@app.route("/products/<int:number>/picture", methods=["GET", "PUT"])
def picture(number: int) -> flask.Response:
    """Up and down, of any size: nothing of it is held here but a few pieces."""
    return PassedOn(wsgi.proxy, f"{CATALOGUE}/products/{number}/picture")


@app.get("/stock/events")
def stock_events() -> flask.Response:
    """From the client's Last-Event-ID on; if the service breaks off, it is asked again for what comes behind."""
    return PassedOn(wsgi.sse_proxy, f"{STOCK}/events", timeout=EVENTS_TIMEOUT)


@app.get("/health/clients")
def health() -> tuple[dict[str, Any], int]:
    """The connections of this process to the services; 503 while one of them is left alone, having failed too often."""
    pool = asdict(wsgi.client(flask.request.environ).stats())
    origins = pool.pop("by_origin")
    is_healthy = all(figures["circuit"] == "closed" for figures in origins.values())
    said = {"healthy": is_healthy, "process": os.getpid(), "pool": pool, "origins": origins}
    return said, 200 if is_healthy else 503


@app.get("/metrics")
def metrics() -> flask.Response:
    """For Prometheus; of this process, which the label `session` names: another one may answer next time."""
    registry = CollectorRegistry()
    registry.register(SyncflowCollector({f"gateway-{os.getpid()}": wsgi.client(flask.request.environ)}))
    return flask.Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

"""Requests in the log: an observer that writes what it is told to Python's `logging`.

Knows the three loggers, which level is whose, and that secrets are not written. Each log record has its figures as
attributes too (`http_id http_origin http_method http_url http_status http_elapsed` …), for formatters that write
structures.

- `syncflow`: requests and their ends (DEBUG), tries that are repeated and circuits that open (WARNING), faults of
  observers (ERROR);
- `syncflow.pool`: connections (DEBUG);
- `syncflow.wire`: heads as they are sent and received, without bodies (DEBUG).
"""

from __future__ import annotations

import logging
from typing import Any

from .redaction import redacted_fields, redacted_url
from .watching import (
    BackpressureEnded,
    CircuitChanged,
    ConnectionOpened,
    ConnectionReused,
    Record,
    RequestFailed,
    RequestSent,
    RequestStarted,
    ResponseEnded,
    ResponseStarted,
    Retrying,
    Watch,
)

__all__ = ["LOG", "LOG_ONLY", "is_logged"]

_log = logging.getLogger("syncflow")
_pool = logging.getLogger("syncflow.pool")
_wire = logging.getLogger("syncflow.wire")
_log.addHandler(logging.NullHandler())  # a library's own: nothing is written unless the program says where


def is_logged() -> bool:
    """Whether anything of an ordinary request would be written: asked before each, so it must be quick."""
    return _log.isEnabledFor(logging.DEBUG) or _pool.isEnabledFor(logging.DEBUG) or _wire.isEnabledFor(logging.DEBUG)


class Log:
    """The observer."""

    def request_started(self, record: RequestStarted) -> None:
        """DEBUG."""
        _write(_log, logging.DEBUG, record, "%(what)s: started, try %(number)d", number=record.number)

    def connection_opened(self, record: ConnectionOpened) -> None:
        """DEBUG, pool."""
        _write(
            _pool,
            logging.DEBUG,
            record,
            "%(origin)s: connected to %(peer)s (queue %(waited).4f s, DNS %(dns).4f s, connect %(connect).4f s, TLS "
            "%(tls).4f s)",
            peer=_address(record.peer),
            waited=record.waited,
            dns=record.dns,
            connect=record.connect,
            tls=record.tls,
        )

    def connection_reused(self, record: ConnectionReused) -> None:
        """DEBUG, pool."""
        peer = _address(record.peer)
        text = "%(origin)s: a connection to %(peer)s again, after %(uses)d requests (queue %(waited).4f s)"
        _write(_pool, logging.DEBUG, record, text, peer=peer, uses=record.uses, waited=record.waited)

    def request_sent(self, record: RequestSent) -> None:
        """DEBUG, wire."""
        if _wire.isEnabledFor(logging.DEBUG):
            headers = redacted_fields(record.request.headers.items())
            _write(_wire, logging.DEBUG, record, "%(what)s %(headers)s", headers=headers)

    def response_started(self, record: ResponseStarted) -> None:
        """DEBUG, wire."""
        if _wire.isEnabledFor(logging.DEBUG):
            headers = redacted_fields(record.headers)
            text = "%(what)s: %(status)d %(headers)s"
            _write(_wire, logging.DEBUG, record, text, status=record.status, headers=headers, elapsed=record.elapsed)

    def response_ended(self, record: ResponseEnded) -> None:
        """DEBUG."""
        _write(
            _log,
            logging.DEBUG,
            record,
            "%(what)s: %(status)d in %(elapsed).4f s, %(sent)d bytes up, %(received)d down"
            + ("" if record.is_complete else "; the program let it go before its end"),
            status=record.status,
            elapsed=record.elapsed,
            sent=record.bytes_sent,
            received=record.bytes_received,
        )

    def request_failed(self, record: RequestFailed) -> None:
        """DEBUG: the program gets the error."""
        text = "%(what)s: failed after %(elapsed).4f s: %(kind)s: %(error)s"
        error = record.error
        _write(
            _log, logging.DEBUG, record, text, elapsed=record.elapsed, kind=type(error).__name__, error=_message(error)
        )

    def retrying(self, record: Retrying) -> None:
        """WARNING."""
        why = f"{record.status}" if record.error is None else _message(record.error)
        text = "%(what)s: try %(number)d failed (%(why)s); again in %(delay).3g s"
        _write(_log, logging.WARNING, record, text, number=record.number, why=why, delay=record.delay)

    def backpressure_ended(self, record: BackpressureEnded) -> None:
        """DEBUG."""
        text = "%(what)s: waited %(waited).4f s for the server to take more"
        _write(_log, logging.DEBUG, record, text, waited=record.waited)

    def circuit_changed(self, record: CircuitChanged) -> None:
        """WARNING."""
        extra = {"http_origin": record.origin, "http_circuit": record.state}
        if record.state == "open":
            text = "%s: failed too often; nothing is sent to it for %g s"
            _log.warning(text, record.origin, record.reset_after, extra=extra)
        else:
            _log.warning("%s: works again", record.origin, extra=extra)


def _write(logger: logging.Logger, level: int, record: Record, text: str, **values: Any) -> None:
    if not logger.isEnabledFor(level):
        return
    request = record.request
    url = redacted_url(request.url or "")
    extra = {"http_id": record.id, "http_origin": record.origin, "http_method": request.method, "http_url": url}
    extra.update((f"http_{name}", value) for name, value in values.items())
    logger.log(level, text, {**values, "what": f"{request.method} {url}", "origin": record.origin}, extra=extra)


def _message(error: BaseException) -> str:
    return redacted_url(str(error))


def _address(peer: tuple[str, int]) -> str:
    host, port = peer
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


LOG = Log()
# For requests that nobody else watches.
LOG_ONLY = Watch([LOG])

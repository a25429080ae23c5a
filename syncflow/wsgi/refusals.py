"""What a client is answered when there is no answer to pass on.

Knows which status says what is wrong with the next hop (RFC 9110, section 15.6), and that a client is not told who that
is. Knows nothing of how a request is passed on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from ..exceptions import Cancelled, CircuitOpen, InvalidHeader, InvalidURL, PoolTimeout, SessionClosed, Timeout

__all__ = ["answer_error", "refuse"]

logger = logging.getLogger("syncflow.wsgi")

# The first that fits. What is none of these: the upstream has not answered, or not in HTTP.
STATI: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (InvalidURL, HTTPStatus.BAD_REQUEST),
    (InvalidHeader, HTTPStatus.BAD_REQUEST),
    (CircuitOpen, HTTPStatus.SERVICE_UNAVAILABLE),
    (PoolTimeout, HTTPStatus.SERVICE_UNAVAILABLE),
    (SessionClosed, HTTPStatus.SERVICE_UNAVAILABLE),
    (Cancelled, HTTPStatus.SERVICE_UNAVAILABLE),  # a stream that was ended while it connected: the server is to stop
    (Timeout, HTTPStatus.GATEWAY_TIMEOUT),
)


def answer_error(environ: Any, start_response: Any, error: Exception) -> Iterable[bytes]:
    """Answer for an upstream that has failed with `error`, which goes to the log."""
    status = next((status for kind, status in STATI if isinstance(error, kind)), HTTPStatus.BAD_GATEWAY)
    headers = []
    if isinstance(error, CircuitOpen):
        headers.append(("Retry-After", str(math.ceil(error.retry_after))))
    # Quoted, as the client has sent it: it could be a line of the log (CWE-117).
    path = quote(environ.get("PATH_INFO", ""), encoding="latin-1", errors="replace")
    logger.warning("%s %s: answered %d: %s", environ.get("REQUEST_METHOD"), path, status.value, error)
    return refuse(environ, start_response, status, headers)


def refuse(
    environ: Any, start_response: Any, status: HTTPStatus, headers: Iterable[tuple[str, str]] = ()
) -> Iterable[bytes]:
    """Answer with a status and its name."""
    body = f"{status.value} {status.phrase}\n".encode()
    length = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response(f"{status.value} {status.phrase}", [*length, *headers])
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]

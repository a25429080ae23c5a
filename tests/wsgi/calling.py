"""A handler called as a server would call it, without a server: for what is in the environ, and for what comes back.

Knows PEP 3333. Whatever it is given is what a server would have made of a request.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from syncflow import Session, wsgi


@dataclass
class Answer:
    """What a server would send."""

    status: str
    fields: list[tuple[str, str]]
    body: bytes

    @property
    def code(self) -> int:
        return int(self.status.split()[0])

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None


def environ_of(
    session: Session, *, method: str = "GET", path: str = "/", query: str = "", body: bytes = b"", **more: Any
) -> dict[str, Any]:
    """`more` has header fields by their CGI names, and what servers say besides; None leaves one out."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "front",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "HTTP_HOST": "front",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "syncflow.client": session,
    }
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    environ.update(more)
    return {key: value for key, value in environ.items() if value is not None}


class Started:
    """A `start_response`."""

    def __init__(self) -> None:
        self.status = ""
        self.fields: list[tuple[str, str]] = []
        self.written: list[bytes] = []

    def __call__(self, status: str, fields: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        assert not self.status, "called twice"
        self.status, self.fields = status, fields
        return self.written.append


def call(
    session: Session,
    url: str,
    *,
    handler: Callable[..., Iterable[bytes]] = wsgi.proxy,
    settings: dict[str, Any] | None = None,
    **request: Any,
) -> Answer:
    """One request, read to the end of its answer."""
    started = Started()
    pieces = handler(environ_of(session, **request), started, url, **(settings or {}))
    try:
        body = b"".join([*started.written, *pieces])
    finally:
        if hasattr(pieces, "close"):
            pieces.close()
    return Answer(started.status, started.fields, body)

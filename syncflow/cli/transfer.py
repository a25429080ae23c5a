"""`syncflow upload` and `syncflow get`: bytes between a URL and a file, a pipe or a terminal.

Knows where bytes come from and where they go, and which answers are no success. Knows nothing of how progress looks.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import IO

from ..engine.tls import client_context
from ..exceptions import RequestException
from ..models import Response
from ..resuming import length_of
from ..sessions import Session
from ..structures import CaseInsensitiveDict
from ..uploads import Upload
from .exits import LOST, OK, REFUSED, USAGE, Failure, one_line
from .progress import Meter, terminal, view_for

__all__ = ["get", "upload"]

PIECE = 65536
# How much of a server's words about a failure are told.
EXCERPT = 200


def upload(chosen: argparse.Namespace) -> int:
    """Send a file or standard input; the answer's body goes to standard output."""
    with _source(chosen.file) as source, _session(chosen) as session:
        with _send(session, chosen, source) as response:
            try:
                _pour(response, sys.stdout.buffer)
            except RequestException:
                # If it is no success, the status says more than a body that was cut.
                _require_success(chosen.method, response)
                raise
            _require_success(chosen.method, response)
            print(one_line(f"{response.status_code} {response.reason}"), file=sys.stderr)
    return OK


def get(chosen: argparse.Namespace) -> int:
    """Fetch a URL to standard output or into a file."""
    # The bytes as they are: a file that was compressed on the way would be longer than its Content-Length says.
    headers: CaseInsensitiveDict[str | None] = CaseInsensitiveDict({"Accept-Encoding": "identity"})
    headers.update(_headers(chosen))
    with _session(chosen) as session:
        with session.get(chosen.url, headers=headers, stream=True) as response:
            _require_success("GET", response)
            if chosen.output == "-":
                _pour(response, sys.stdout.buffer, shown=_watched() and not terminal(sys.stdout))
            else:
                _save(response, chosen.output)
    return OK


# ---------------------------------------------------------------- sending


def _send(session: Session, chosen: argparse.Namespace, source: IO[bytes]) -> Response:
    """The request with its body, up to the head of the answer.

    A file that nobody watches goes as `data=`, so that the kernel sends it. For progress it is pushed, because a body
    that is pulled does not tell how far it is; so is standard input, each piece as soon as it is there.
    """
    headers = _headers(chosen)
    from_stdin = source is sys.stdin.buffer
    watched = _watched() and not (from_stdin and terminal(sys.stdin))
    if not from_stdin and not watched:
        return session.request(chosen.method, chosen.url, data=source, headers=headers, stream=True)
    length = None if from_stdin else _length(source)
    with session.upload(chosen.method, chosen.url, headers=headers, content_length=length) as up:
        with _meter(up, length) if watched else nullcontext():
            while piece := source.read1(PIECE):  # type: ignore[attr-defined]  # IO[bytes] has it in both cases
                up.write(piece)
            up.finish()
    return up.response


def _meter(up: Upload, length: int | None) -> Meter:
    return Meter(view_for(sys.stderr, length), lambda: (up.offset, ""))


def _source(name: str) -> AbstractContextManager[IO[bytes]]:
    return nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb")


def _length(file: IO[bytes]) -> int | None:
    """None for what is not a regular file, and for those in /proc, which say 0 and have something to read."""
    status = os.fstat(file.fileno())
    return status.st_size or None if stat.S_ISREG(status.st_mode) else None


# ---------------------------------------------------------------- receiving


def _pour(response: Response, sink: IO[bytes], *, shown: bool = False) -> None:
    """The body into `sink`, each piece as soon as it is there."""
    done = 0
    with _received(response, lambda: done) if shown else nullcontext():
        for piece in response.iter_content(PIECE):
            sink.write(piece)
            sink.flush()
            done += len(piece)


def _save(response: Response, name: str) -> None:
    """The body into a file that gets its name when it is whole."""
    done = 0

    def note(received: int, total: int | None) -> None:
        nonlocal done
        done = received

    with _received(response, lambda: done) if _watched() else nullcontext():
        response.save(name, on_progress=note)


def _received(response: Response, look: Callable[[], int]) -> Meter:
    return Meter(view_for(sys.stderr, length_of(response.headers)), lambda: (look(), ""))


# ---------------------------------------------------------------- what both share


def _session(chosen: argparse.Namespace) -> Session:
    session = Session() if chosen.timeout is None else Session(timeout=chosen.timeout)
    session.verify = False if chosen.insecure else chosen.cacert or True
    if chosen.cacert is not None:
        try:
            client_context(chosen.cacert)  # which is kept, and used for the connection
        except OSError as error:
            raise Failure(USAGE, f"{chosen.cacert}: no certificate authorities to be read there") from error
    return session


def _headers(chosen: argparse.Namespace) -> CaseInsensitiveDict[str | None]:
    """Those of -H: an empty one leaves out what is sent by itself, the same one twice is a list (RFC 9110, 5.3)."""
    headers: CaseInsensitiveDict[str | None] = CaseInsensitiveDict()
    for name, value in chosen.header:
        before = headers.get(name)
        headers[name] = f"{before}, {value}" if before else value or None
    return headers


def _watched() -> bool:
    return terminal(sys.stderr)


def _require_success(method: str, response: Response) -> None:
    """Raise Failure unless the status is 2xx and the server has taken all that was sent to it."""
    status = f"{response.status_code} {response.reason}".strip()
    about = f"{method.upper()} {response.url}: {status}"
    if 300 <= response.status_code < 400 and "Location" in response.headers:
        raise Failure(REFUSED, f"{about}: not followed; it points to {response.headers['Location']}")
    if not 200 <= response.status_code < 300:
        raise Failure(REFUSED, about + _excerpt(response))
    if not response.request_complete:
        raise Failure(LOST, f"{about}, but the server answered before all of the body was sent")


def _excerpt(response: Response) -> str:
    """What the server says about it, if that is meant to be read as text."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "text/plain" and not kind.endswith("json"):
        return ""
    try:
        text = next(response.iter_content(EXCERPT), b"").decode("utf-8", "replace").strip()
    except RequestException:  # consumed, or cut: the status says enough
        return ""
    return f": {text}" if text else ""

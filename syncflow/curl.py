"""A request as a command line for curl, to be read, pasted and reported."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from .redaction import MASK, is_secret, redacted_url

if TYPE_CHECKING:
    from .models import PreparedRequest

__all__ = ["curl_command"]

# curl makes these from the body.
FRAMING = frozenset({"content-length", "transfer-encoding"})


def curl_command(request: PreparedRequest, *, secrets: bool) -> str:
    """The command; a body that is not text, or is not there yet, is to be given to curl's standard input."""
    words = ["curl"]
    body = request.body
    if request.method == "HEAD":
        words.append("--head")
    elif request.method != ("GET" if body is None else "POST"):
        words += ["-X", request.method or "GET"]
    for name, value in request.headers.items():
        lower = name.lower()
        if lower in FRAMING:
            continue
        if is_secret(name) and not secrets:
            value = MASK
        # An empty value is written with a semicolon, or curl takes the field out.
        words += ["-H", f"{name}: {value}" if value else f"{name};"]
    if body is not None:
        words += _body(body)
    words += ["--", _url(request, secrets)]
    return " ".join(shlex.quote(word) for word in words)


def _body(body: object) -> list[str]:
    if isinstance(body, str | bytes):
        try:
            text = body if isinstance(body, str) else body.decode()
        except UnicodeDecodeError:
            return ["--data-binary", "@-"]
        return ["--data-raw", text] if "\0" not in text else ["--data-binary", "@-"]
    name = getattr(body, "name", None)
    return ["--data-binary", f"@{name}" if isinstance(name, str) else "@-"]


def _url(request: PreparedRequest, secrets: bool) -> str:
    """Without the user's name and password, which are in Authorization, and the values of secret parameters."""
    url = request.url or ""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return url if secrets else redacted_url(f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}")

"""What of a message goes on to the next hop: its URL, its header fields, and what a proxy says of itself.

Knows RFC 9110, section 7.6 (what belongs to one connection), RFC 7239 (Forwarded), and what WSGI does to a header.
Moves no byte of a body.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from ..structures import CaseInsensitiveDict

__all__ = ["request_fields", "request_url", "response_fields", "without_hop_by_hop"]

# RFC 9110, section 7.6.1; RFC 9113, section 3.2.1, of the last one but one.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# Said anew for the next hop; and "Proxy", which many a CGI program behind would take for its own proxy (CVE-2016-5385).
# Expect is the server's business, which has answered it.
NOT_FORWARDED = HOP_BY_HOP | {"content-length", "expect", "host", "proxy"}

# Servers set them, some beside those of the application, and there may be one of each (RFC 9110, section 5.3).
OF_THE_SERVER = frozenset({"date", "server"})

# How this hop is called (RFC 9110, section 7.6.3).
PSEUDONYM = "syncflow"

# RFC 9110, section 5.6.2: what needs no quotes in a parameter.
_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch

# What may stand in a path beside letters and digits, quoted or not (RFC 3986, section 3.3).
_PATH_SAFE = "/!$&'()*+,;=:@~-._"

_ASCII = bytes(range(128))


# -------------------------------------------------------------------------------------------------------- the URL


def request_url(environ: Mapping[str, Any], url: str) -> str:
    """Where the request goes: `url`; the path of the request where that has none, and its query where that has none."""
    _, separator, rest = url.partition("://")
    if separator and not set(rest) & set("/?#"):
        return url + _asked_path(environ)
    query = _as_sent(environ.get("QUERY_STRING", ""))
    return f"{url}?{query}" if query and "?" not in url else url


def _asked_path(environ: Mapping[str, Any]) -> str:
    """Path and query, as the client has sent them if the server tells, with a "/" before them in any case: what came
    before it could name another host."""
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if raw == "*":  # the server as a whole, of which there is another now
        raw = "/"
    elif raw and not raw.startswith("/"):  # in absolute form
        parts = urlsplit(raw)
        raw = f"{parts.path}?{parts.query}" if parts.query else parts.path
    if not raw:
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        query = environ.get("QUERY_STRING", "")
        raw = quote(path.encode("latin-1"), safe=_PATH_SAFE) + (f"?{query}" if query else "")
    return "/" + _as_sent(raw).removeprefix("/")


def _as_sent(text: str) -> str:
    """WSGI shows bytes as Latin-1; in a URL they are to be quoted, as bytes. A fragment is for the client itself."""
    return quote(text.encode("latin-1"), safe=_ASCII).replace("#", "%23")


# -------------------------------------------------------------------------------------------------------- fields


def request_fields(environ: Mapping[str, Any]) -> CaseInsensitiveDict[str]:
    """The header of the request that goes on, without Host and what frames the body."""
    fields: CaseInsensitiveDict[str] = CaseInsensitiveDict()
    dropped = NOT_FORWARDED | connection_options(environ.get("HTTP_CONNECTION", ""))
    for key, value in environ.items():
        if key.startswith("HTTP_") and isinstance(value, str):
            name = key[5:].replace("_", "-").title()
            if name.lower() not in dropped:
                fields[name] = value
    content_type = environ.get("CONTENT_TYPE")
    if content_type and "content-type" not in dropped:
        fields["Content-Type"] = content_type
    _add_own_words(fields, environ)
    return fields


def _add_own_words(fields: CaseInsensitiveDict[str], environ: Mapping[str, Any]) -> None:
    """Who has asked, for what host, by which scheme, as this server sees it. Behind what earlier hops have said of the
    first, for that is a list; in place of it for the other two."""
    address, host = environ.get("REMOTE_ADDR") or "", environ.get("HTTP_HOST", "")
    scheme = environ["wsgi.url_scheme"]
    pairs = [("for", _node(address)), ("host", host), ("proto", scheme)]
    _append(fields, "Forwarded", ";".join(f"{name}={_quoted(value)}" for name, value in pairs if value))
    _append(fields, "X-Forwarded-For", address or "unknown")
    fields["X-Forwarded-Proto"] = scheme
    fields.pop("X-Forwarded-Host", None)
    if host:
        fields["X-Forwarded-Host"] = host
    version = environ.get("SERVER_PROTOCOL", "HTTP/1.1").removeprefix("HTTP/")
    _append(fields, "Via", f"{version} {PSEUDONYM}")


def _append(fields: CaseInsensitiveDict[str], name: str, value: str) -> None:
    before = fields.get(name)
    fields[name] = f"{before}, {value}" if before else value


def _node(address: str) -> str:
    """RFC 7239, section 6. A Unix socket has no address."""
    if not address:
        return "unknown"
    return f"[{address}]" if ":" in address else address


def _quoted(value: str) -> str:
    if _token(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def response_fields(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of a response that go on, as they came and in their order; Content-Length once, and if it counts."""
    fields = list(fields)
    length = _length_of(fields)
    dropped = OF_THE_SERVER | {"content-length"}
    kept = [pair for pair in without_hop_by_hop(fields) if pair[0].lower() not in dropped]
    return kept if length is None else [*kept, ("Content-Length", length)]


def _length_of(fields: list[tuple[str, str]]) -> str | None:
    """What Content-Length says, if it is one number and counts (RFC 9112, section 6.3)."""
    if any(name.lower() == "transfer-encoding" for name, _ in fields):
        return None
    said = ",".join(value for name, value in fields if name.lower() == "content-length")
    numbers = {number.strip() for number in said.split(",")}
    return numbers.pop() or None if len(numbers) == 1 else None


def without_hop_by_hop(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without those that are for one connection only, by their nature or by what Connection says."""
    fields = list(fields)
    dropped = set(HOP_BY_HOP)
    for name, value in fields:
        if name.lower() == "connection":
            dropped |= connection_options(value)
    return [pair for pair in fields if pair[0].lower() not in dropped]


def connection_options(value: str) -> frozenset[str]:
    """The names of fields, and other options, in a Connection header (RFC 9110, section 7.6.1)."""
    return frozenset(option.strip().lower() for option in value.split(","))

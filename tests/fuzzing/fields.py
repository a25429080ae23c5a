"""Targets of what header fields say: cookies, charsets and text, links, the challenges of Digest.

Knows the rules that a browser goes by, written out once more where they are short. Does no I/O.
"""

from __future__ import annotations

import re
from http.cookiejar import Cookie
from typing import Any

from syncflow import PreparedRequest, Request, Response
from syncflow.auth import HTTPDigestAuth
from syncflow.cookies import RequestsCookieJar, extract_cookies_to_jar, get_cookie_header
from syncflow.http1 import request_head
from syncflow.links import parse_header_links
from syncflow.retries import retry_after
from syncflow.sources import NO_SOURCE
from syncflow.structures import CaseInsensitiveDict
from syncflow.text import decode, decode_pieces, encoding_of, known_codec, split_lines

from ..http1.replay import cut
from .layout import SEPARATOR, divided, places

# ----------------------------------------------------------------------------------------------------- cookies

HOSTS = (
    "www.example.com", "example.com", "evil.example.com", "example.org", "com", "example.co.uk", "127.0.0.1",
    "10.0.0.1", "[::1]", "localhost", "example.com.local", "www.example.com.",
)  # fmt: skip


def cookies(data: bytes) -> None:
    """Any Set-Cookie fields from one host: taken or not, but no other host than it may name gets them, no request is
    broken by them, and what is marked Secure neither comes from http nor goes there."""
    (origin, asked, schemes), raw = divided(data, 3)
    sender = _request(f"http{'s' * (schemes & 1)}://{HOSTS[origin % len(HOSTS)]}/a/b")
    other = _request(f"http{'s' * (schemes >> 1 & 1)}://{HOSTS[asked % len(HOSTS)]}/a/c")
    fields = [("Set-Cookie", field.decode("latin-1")) for field in raw.split(SEPARATOR)]
    jar = RequestsCookieJar()
    extract_cookies_to_jar(jar, sender, fields)
    for cookie in jar:
        assert not cookie.secure or schemes & 1
        assert _may_set(sender.target.host, cookie), vars(cookie)
        name = cookie.name.lower()
        assert not name.startswith("__host-") or (cookie.secure and not cookie.domain_specified and cookie.path == "/")
        assert not name.startswith("__secure-") or cookie.secure
    header = get_cookie_header(jar, other)
    if header is None:
        return
    assert header
    assert request_head("GET", "/", [("Host", "h"), ("Cookie", header.strip(" \t"))])
    pairs = header.split("; ")
    going = [cookie for cookie in jar if _may_go(cookie, sender.target.host, other)]
    assert len(pairs) <= len(going), (header, going)
    assert set(pairs) <= {c.name if c.value is None else f"{c.name}={c.value}" for c in going}


def _request(url: str) -> PreparedRequest:
    return Request("GET", url).prepare()


def _may_set(host: str, cookie: Cookie) -> bool:
    """RFC 6265, sections 5.1.3 and 5.3: for itself, or for a domain above that is no registry's as far as we know."""
    domain = _domain(cookie)
    if not cookie.domain_specified:
        return domain in (host, f"{host}.local")
    return _is_under(host, domain) and "." in domain.strip(".") and domain != "co.uk"


def _domain(cookie: Cookie) -> str:
    """`http.cookiejar` puts ".local" behind a name without a dot."""
    return cookie.domain.removeprefix(".").replace("[", "").replace("]", "")


def _is_under(host: str, domain: str) -> bool:
    return host == domain or (host.endswith(f".{domain}") and not re.search(r"(^|\.)[0-9]+$|:", host))


def _may_go(cookie: Cookie, setter: str, request: PreparedRequest) -> bool:
    host = request.target.host
    if cookie.secure and request.target.scheme != "https":
        return False
    return _is_under(host, _domain(cookie)) if cookie.domain_specified else host == setter


# ----------------------------------------------------------------------------------------------------- text


def text(data: bytes) -> None:
    """Any Content-Type over any body: it is text, cut into pieces or not, and its lines are the same."""
    numbers, rest = divided(data, 4)
    named, _, content = rest.partition(SEPARATOR)
    encoding = encoding_of(named.decode("latin-1"))
    whole = decode(content, encoding)
    assert isinstance(whole, str)
    pieces = cut(content, places(numbers))
    assert all(pieces) or not content
    if known_codec(encoding) is not None:
        assert "".join(decode_pieces(pieces, encoding)) == "".join(decode_pieces([content], encoding)) == whole
    assert list(split_lines(pieces)) == content.splitlines()
    assert list(split_lines(decode_pieces(pieces, "utf-8"))) == content.decode("utf-8", "replace").splitlines()
    parts = content.split(b",")
    assert list(split_lines(pieces, b",")) == (parts if parts[-1] else parts[:-1])


# ----------------------------------------------------------------------------------------------------- links


def links(data: bytes) -> None:
    """Any Link field: links that have a URL, and none is made of nothing."""
    field = data.decode("latin-1")
    found = parse_header_links(field)
    assert all(isinstance(link["url"], str) for link in found)
    assert len(found) <= field.count("<") + 1
    answer = _answer(_request("http://example.com/"), 200, [("Link", field)])
    assert len(answer.links) <= len(found)


def _answer(request: PreparedRequest, status: int, fields: list[tuple[str, str]], connection: Any = None) -> Response:
    return Response.received(request, NO_SOURCE, status, "", fields, connection)


# ----------------------------------------------------------------------------------------------------- retries


def waits(data: bytes) -> None:
    """Any Retry-After and Date: a time to wait that is none of the past, or nothing."""
    asks, _, date = (part.decode("latin-1") for part in data.partition(SEPARATOR))
    found = retry_after(CaseInsensitiveDict({"Retry-After": asks, "Date": date}))
    assert found is None or found >= 0.0
    if re.fullmatch("[0-9]{1,9}", asks):
        assert found == int(asks)


# ----------------------------------------------------------------------------------------------------- challenges


SECRET = "hunter2"


class _Recording:
    """The adapter of a server that lets everybody in."""

    def __init__(self, tells: str) -> None:
        self.sent: list[PreparedRequest] = []
        self._fields = [("Authentication-Info", tells)]

    def send(self, request: PreparedRequest, **kwargs: Any) -> Response:
        self.sent.append(request)
        return _answer(request, 200, self._fields)


def challenge(data: bytes) -> None:
    """Any WWW-Authenticate in a 401, and any Authentication-Info behind it: answered or not; an answer can be sent, and
    holds no password, this time and the next."""
    asks, _, tells = (re.sub("[\r\n\0]", "", part.decode("latin-1")) for part in data.partition(SEPARATOR))
    server = _Recording(tells)
    auth = HTTPDigestAuth("me", SECRET)
    asked = Request("GET", "http://example.com/a?b", auth=auth).prepare()
    (hook,) = asked.hooks["response"]
    hook(_answer(asked, 401, [("WWW-Authenticate", asks)], server))
    values = [request.headers["Authorization"] for request in server.sent]
    values.append(auth.build_digest_header("GET", "http://example.com/a") or "Digest username")
    for value in values:
        assert re.match("Digest username", value)
        assert SECRET not in value or SECRET in asks + tells
        assert request_head("GET", "/", [("Host", "h"), ("Authorization", value)])

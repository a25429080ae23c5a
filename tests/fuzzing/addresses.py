"""Targets of whom a request goes to: URLs, references to them, parameters, redirects.

Knows `syncflow.urls`, and two other readers of the same text: Ada, which reads URLs as browsers and Node.js do (the
WHATWG URL standard), and urllib3, which does after RFC 3986. Where two readers see two hosts, one that checks an
address and one that connects to it can be fooled (CWE-436, CWE-918). Does no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import ada_url
import urllib3
from urllib3.exceptions import LocationParseError

from syncflow import InvalidSchema, InvalidURL, MissingSchema, Request, Response, Session
from syncflow.cookies import create_cookie
from syncflow.http1 import request_head
from syncflow.sources import NO_SOURCE
from syncflow.urls import DEFAULT_PORTS, Target, absolute_url, add_params, masked, parse_url, requote

from .layout import SEPARATOR, divided, texts

REFUSALS = (InvalidURL, InvalidSchema, MissingSchema)

# What no host, and nothing that is sent in its place, may have in it.
_NO_HOST = re.compile(r"[^!-~]|[/\\?#@<>\"`{}|^]")

SECRET = "hunter2"

Whom = tuple[str, str, int]  # scheme, host, port


def url(data: bytes) -> None:
    """Any text: refused, or a target that can be sent as it is, means the same when it is read again, and is the one
    that others see in it."""
    (text,) = texts(data, 1)
    try:
        target = parse_url(text)
    except REFUSALS:
        return
    assert requote(requote(text)) == requote(text)
    _is_fit_to_send(target)
    assert parse_url(target.url) == target._replace(userinfo=None)
    if target.socket_path is not None:
        return
    assert urlsplit(text.lstrip()).hostname is not None
    for reader in (_read_by_ada, _read_by_urllib3):
        seen = reader(text.lstrip())
        assert seen is None or seen == reader(target.url), (seen, target)
        # What is connected to, by itself.
        assert seen is None or seen == reader(f"{target.scheme}://{_bracketed(target.host)}:{target.port}/")


def _is_fit_to_send(target: Target) -> None:
    assert target.scheme in DEFAULT_PORTS
    assert target.host
    assert not _NO_HOST.search(target.host)
    assert not re.search(r"[^!-~]|[/\\?#@]", target.authority)
    assert 1 <= target.port <= 65535
    assert target.path.startswith("/")
    assert not re.search("[^!-~]|#", target.path)
    assert "/../" not in target.path.partition("?")[0] + "/"
    assert target.socket_path is None or (target.socket_path and "\0" not in target.socket_path)
    assert request_head("GET", target.path, [("Host", target.authority)])


def _bracketed(host: str) -> str:
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


def _read_by_ada(text: str, base: str | None = None) -> Whom | None:
    """As a browser; None if that refuses it, or has another use for it than HTTP."""
    try:
        seen = ada_url.URL(text, base)
    except (ValueError, UnicodeEncodeError):
        return None
    scheme = seen.protocol.removesuffix(":")
    if scheme not in ("http", "https"):
        return None
    return scheme, seen.hostname, int(seen.port or DEFAULT_PORTS[scheme])


def _read_by_urllib3(text: str) -> Whom | None:
    try:
        seen = urllib3.util.parse_url(text)
    except (LocationParseError, UnicodeEncodeError):
        return None
    if seen.scheme not in ("http", "https") or not seen.host:
        return None
    return seen.scheme, seen.host.lower(), seen.port or DEFAULT_PORTS[seen.scheme]


# ----------------------------------------------------------------------------------------------------- references

BASES = (
    "http://example.com",
    "https://www.example.com:8443/a/b;c/d?e=f#g",
    "http://[2001:db8::1]/x/",
    "http://127.0.0.1:8080/?q",
)


def reference(data: bytes) -> None:
    """Any reference from one of a few documents: refused, or a URL on the document's own host, or on the one where a
    browser would go. Never on a third one, and never on one that only this reader sees."""
    (which, _), rest = divided(data, 2)
    (text,) = texts(rest, 1)
    base = BASES[which % len(BASES)]
    try:
        target = parse_url(absolute_url(base, text))
    except REFUSALS:
        return
    home = _whom(parse_url(base))
    theirs = _read_by_ada(text, base)
    assert theirs is None or _whom(target) in (home, theirs), (target, theirs)
    if theirs is None and target.socket_path is None:
        # A browser would go nowhere: then the host must at least be named, and not be what a path has become.
        assert _whom(target) == home or re.match(r"[ \t\n\f\r\v]*([a-z]+:)?//[^/\\]", text, re.IGNORECASE), target


def _whom(target: Target) -> Whom:
    seen = _read_by_ada(f"{target.scheme}://{target.authority}/")
    return seen or (target.scheme, target.host, target.port)


# ----------------------------------------------------------------------------------------------------- parameters


def params(data: bytes) -> None:
    """Any parameters behind any URL: they are in its query as they were given, behind what was there, and change
    nothing else."""
    address, *rest = texts(data, 1 + data.count(SEPARATOR) // 2 * 2)
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    try:
        before = parse_url(address)
        after = parse_url(add_params(address, pairs))
    except REFUSALS:
        return
    path, _, query = before.path.partition("?")
    new_path, _, new_query = after.path.partition("?")
    assert after._replace(url="", path="") == before._replace(url="", path="")
    assert after.url.partition("#")[2] == before.url.partition("#")[2]
    assert new_path == path
    assert new_query.startswith(query)
    read = parse_qsl(new_query, keep_blank_values=True, max_num_fields=None)
    assert read == [*parse_qsl(query, keep_blank_values=True), *pairs]


def password(data: bytes) -> None:
    """A password in a URL is not in the message that refuses it, nor in what that was raised from, even if it was not
    quoted as it should have been."""
    scheme, user, around, behind = texts(data, 4)
    if SECRET in "".join((scheme, user, around, behind)).lower() or "//" in scheme:
        return
    before = f"{user}:{around}{SECRET}{around}@"
    for text in (f"{scheme}//{before}{behind}", f"http://{before}{behind}", f"{before}{behind}"):
        assert SECRET not in masked(text) or "/" in user + around, text
        try:
            parse_url(text)
        except REFUSALS as error:
            assert not any(SECRET in str(cause) for cause in _shown(error)), text


def _shown(error: BaseException | None) -> Iterator[BaseException]:
    """What a traceback shows of it: the error, and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


# ----------------------------------------------------------------------------------------------------- redirects

_SESSION = Session()
_SESSION.trust_env = False


def redirect(data: bytes) -> None:
    """Any Location in answer to a request with credentials: refused, or a request to a host that a browser would ask as
    well, or to the same one again; and no other origin gets the credentials."""
    (which, status), raw = divided(data, 2)
    location = re.sub("[\r\n\0]", "", raw.decode("latin-1")).strip(" \t")
    base = BASES[which % len(BASES)]
    asked = Request("GET", base, headers={"Authorization": SECRET, "Host": parse_url(base).authority}).prepare()
    asked._cookies.set_cookie(create_cookie("program", "1"))
    asked._cookies.set_cookie(create_cookie("host", "1", domain=parse_url(base).host))
    answer = Response.received(
        asked, NO_SOURCE, (301, 302, 303, 307, 308)[status % 5], "", [("Location", location)], None
    )
    try:
        following = next(_SESSION.resolve_redirects(answer, asked, yield_requests=True), None)
    except REFUSALS:
        return
    if following is None:
        assert not location
        return
    home, whom = _whom(asked.target), _whom(following.target)
    theirs = _read_by_ada(location.encode("latin-1").decode("utf-8", "replace"), base)
    assert following.target.socket_path is None
    assert theirs is None or whom in (home, theirs), (following.url, theirs)
    _is_fit_to_send(following.target)
    cookies = following.headers.get("Cookie", "")
    assert "host=" not in cookies or whom[1] == home[1] or whom[1].endswith(f".{home[1]}")  # whatever the port
    if whom == home or (home[0], home[2], *whom) == ("http", 80, "https", home[1], 443):
        assert following.headers["Authorization"] == SECRET
    else:
        assert "Authorization" not in following.headers
        assert "Host" not in following.headers
        assert "program=" not in cookies

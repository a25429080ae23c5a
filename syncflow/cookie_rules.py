"""The rules of cookies: how one is made, what a Set-Cookie field says, which hosts may set a cookie and get it back,
what may be sent (RFC 6265 and its draft successor, 6265bis).

Knows one cookie and one request at a time, and nothing of jars. Not the Public Suffix List either: see `RFC6265Policy`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from http.cookiejar import (  # type: ignore[attr-defined]  # the last four are in no stub, and in every Python
    Cookie,
    DefaultCookiePolicy,
    eff_request_host,
    escape_path,
    http2time,
    request_path,
)
from http.cookies import Morsel
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from .exceptions import InvalidHeader

__all__ = [
    "CONTROLS",
    "SECURE_SCHEMES",
    "UNSENDABLE",
    "CookieRequest",
    "CookieResponse",
    "RFC6265Policy",
    "RequestLike",
    "cookie_pair",
    "create_cookie",
    "hides",
    "morsel_to_cookie",
    "received_cookie",
]

SECURE_SCHEMES = ("https", "wss")

# Second-level names under which the registries of countries give out domains to anybody: co.uk, com.au, or.jp.
# `DefaultCookiePolicy(strict_domain=True)` lacks some of these, and has "jobs", "info", "travel" and the like, which
# are sites of their own as often: jobs.ch.
REGISTRIES = frozenset(
    ("ac", "co", "com", "edu", "go", "gob", "gouv", "gov", "gv", "ltd", "mil", "ne", "net", "or", "org", "plc", "sch")
)

# What ends in a number is an IPv4 address to a resolver, however it is written: 127.1, 0x7f.1.
_ADDRESS = re.compile(r"\[.*\]|(.*\.)?([0-9]+|0x[0-9a-f]*)\.?")
_HOST_FIELD = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\x00-\x20\x7f/?#@:\[\]\\]+)(:[0-9]*)?")
CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # 6265bis, section 5.6: all but the tab
UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")
UNSENDABLE_NAME = re.compile(UNSENDABLE.pattern + "|[;=]")
UNSENDABLE_VALUE = re.compile(UNSENDABLE.pattern + "|;")
_SECONDS = re.compile(r"-?[0-9]+")
_CENTURY = 100 * 366 * 86400
# One that is longer is left out (6265bis, section 5.6); a date of thousands of digits could not be read.
_LONGEST_ATTRIBUTE = 1024
_ATTRIBUTES = frozenset(("domain", "expires", "max-age", "path", "secure"))


class RequestLike(Protocol):
    """What cookies have to know of a request."""

    @property
    def url(self) -> str:
        """Absolute and normalized."""

    @property
    def headers(self) -> Mapping[str, str]:
        """By names without case. Host takes the place of the URL's host; Cookie that of the jar."""


class RFC6265Policy(DefaultCookiePolicy):
    """Which cookies are taken, and which are sent, much as browsers do it (RFC 6265, section 5).

    A host may set cookies for itself and for the domains above it. Not for a name without a dot and not for the usual
    registries of countries (`REGISTRIES`), where they would go to strangers; the Public Suffix List is not consulted,
    so github.io is a domain like any other. A cookie that names no domain goes back to the very host that set it. What
    is marked Secure, by its attribute or by the name (`__Secure-`, `__Host-`), is taken from https only.

    `RequestsCookieJar(policy=...)` takes another one: a subclass of this that asks a list of suffixes in `set_ok`, or
    `http.cookiejar.DefaultCookiePolicy()`, which is what `requests` uses.
    """

    def set_ok(self, cookie: Cookie, request: Any) -> bool:
        """Whether `cookie`, which came in answer to `request`, is taken."""
        if cookie.secure and request.type not in SECURE_SCHEMES:
            return False
        return _keeps_its_prefix(cookie) and super().set_ok(cookie, request)

    def set_ok_domain(self, cookie: Cookie, request: Any) -> bool:
        """Whether the host that `request` went to may set cookies for the domain (RFC 6265, section 5.3, step 6)."""
        if not super().set_ok_domain(cookie, request):
            return False
        hosts: tuple[str, str] = eff_request_host(request)
        host, effective = hosts
        if not cookie.domain_specified:
            return cookie.domain in ("", effective)
        domain = cookie.domain.removeprefix(".")
        if _ADDRESS.fullmatch(host):
            return domain == host
        # Asked once more: a host called example.com.local passes for example.com in the standard library.
        return not _is_registry(domain) and f".{host}".endswith(f".{domain}")

    def return_ok_domain(self, cookie: Cookie, request: Any) -> bool:
        """Whether the host that `request` goes to is the cookie's, or in its domain (RFC 6265, section 5.4)."""
        hosts = eff_request_host(request)
        domain = cookie.domain.removeprefix(".")
        # The program's cookies that have no domain at all go everywhere, as with requests.
        if not cookie.domain_specified or _ADDRESS.fullmatch(hosts[0]):
            return domain in ("", *hosts)
        return any(f".{host}".endswith(f".{domain}") for host in hosts)


def _is_registry(domain: str) -> bool:
    labels = domain.strip(".").split(".")
    return len(labels) == 1 or (len(labels) == 2 and len(labels[1]) == 2 and labels[0] in REGISTRIES)


def _keeps_its_prefix(cookie: Cookie) -> bool:
    """Whether it is what its name promises (6265bis, section 4.1.3)."""
    name = cookie.name.lower()
    if name.startswith("__host-"):
        return cookie.secure and not cookie.domain_specified and cookie.path_specified and cookie.path == "/"
    return cookie.secure or not name.startswith("__secure-")


def hides(cookie: Cookie, other: Cookie) -> bool:
    """Whether `cookie` is sent instead of `other` or beside it, by the same name (6265bis, section 5.7)."""
    if cookie.name != other.name:
        return False
    domains = f".{cookie.domain.removeprefix('.')}", f".{other.domain.removeprefix('.')}"
    above = other.path if other.path.endswith("/") else other.path + "/"
    return (domains[0].endswith(domains[1]) or domains[1].endswith(domains[0])) and (
        cookie.path == other.path or cookie.path.startswith(above)
    )


def received_cookie(field: str, request: Any) -> Cookie | None:
    """The cookie of one Set-Cookie field (RFC 6265, section 5.2), which no policy has seen; None if it has no name.
    What cannot be read is left out of it."""
    pair, *parts = field.split(";")
    name, equals, value = _split(pair)
    if not name:
        return None
    known: dict[str, str] = {}
    rest: dict[str, Any] = {}
    for key, equal, text in map(_split, parts):
        if key.lower() in _ATTRIBUTES and len(text) <= _LONGEST_ATTRIBUTE:
            known[key.lower()] = text
        elif key:
            rest[key] = text if equal else None
    host, effective = eff_request_host(request)
    domain = known.get("domain", "").lower()
    bare = domain.removeprefix(".")
    if bare in (host, host.strip("[]")) and (_is_registry(bare) or _ADDRESS.fullmatch(host)):
        bare = ""  # for this very host (6265bis, section 5.7)
    path = known.get("path", "")
    path = escape_path(path) if path.startswith("/") else ""
    expires = _expiry(known)
    return Cookie(
        version=0,
        name=name,
        value=value if equals else None,
        port=None,
        port_specified=False,
        domain=f".{bare}" if bare else effective,
        domain_specified=bool(bare),
        domain_initial_dot=domain.startswith("."),
        path=path or request_path(request).rpartition("/")[0] or "/",  # RFC 6265, section 5.1.4
        path_specified=bool(path),
        secure="secure" in known,
        expires=expires,
        discard=expires is None,
        comment=None,
        comment_url=None,
        rest=rest,
    )


def _split(text: str) -> tuple[str, str, str]:
    # Blanks only: str.strip() would take the second half of an "à" in UTF-8 for one as well.
    name, equals, value = text.partition("=")
    return name.strip(" \t"), equals, value.strip(" \t")


def _expiry(attributes: Mapping[str, str]) -> float | None:
    """In seconds since 1970; None if it ends with the session."""
    max_age = attributes.get("max-age", "")
    if _SECONDS.fullmatch(max_age):  # it goes before Expires (RFC 6265, section 5.3)
        return 0 if float(max_age) <= 0 else int(time.time()) + min(float(max_age), _CENTURY)
    expires: float | None = http2time(attributes.get("expires", "").strip('"'))
    return expires


def cookie_pair(cookie: Cookie, where: str) -> str:
    """As it is sent. A semicolon would make two cookies of one, and an equals sign in a name another name."""
    given: tuple[tuple[str, Any, re.Pattern[str]], ...] = (
        ("name", cookie.name, UNSENDABLE_NAME),
        ("value", cookie.value, UNSENDABLE_VALUE),
    )
    for what, text, unsendable in given:
        if not isinstance(text, str | int | float | None):
            kind = type(text).__name__
            raise InvalidHeader(
                f"{where}: cookie {cookie.name!r}: its {what} must be str, not {kind}; nothing was sent"
            )
        if fault := unsendable.search(str(text)):
            raise InvalidHeader(
                f"{where}: cookie {cookie.name!r}: its {what} has {fault[0]!r} in it, which no cookie may have: quote "
                "it, as urllib.parse.quote() does; nothing was sent"
            )
    return cookie.name if cookie.value is None else f"{cookie.name}={cookie.value}"


def create_cookie(name: str, value: str | None, **kwargs: Any) -> Cookie:
    """A cookie made by the program; it goes to every host unless `domain` is given.

    Args:
        kwargs: `domain` ("" for all), `path` ("/"), `secure` (False), `expires` (seconds since 1970, or None), `rest`
            (other attributes), `port`, `version`, `discard`, `comment`, `comment_url`, `rfc2109`.

    Raises:
        TypeError: for any other.
    """
    attributes: dict[str, Any] = {
        "version": 0,
        "port": None,
        "domain": "",
        "path": "/",
        "secure": False,
        "expires": None,
        "discard": True,
        "comment": None,
        "comment_url": None,
        "rest": {"HttpOnly": None},
        "rfc2109": False,
    }
    if unknown := kwargs.keys() - attributes.keys():
        raise TypeError(f"create_cookie() got unexpected keyword arguments: {sorted(unknown)}")
    attributes.update(kwargs)
    return Cookie(
        name=name,
        value=value,
        port_specified=bool(attributes["port"]),
        domain_specified=bool(attributes["domain"]),
        domain_initial_dot=attributes["domain"].startswith("."),
        path_specified=bool(attributes["path"]),
        **attributes,
    )


def morsel_to_cookie(morsel: Morsel[Any]) -> Cookie:
    """What `http.cookies` has read, as a cookie for a jar.

    Raises:
        TypeError: Max-Age is no whole number of seconds.
        ValueError: Expires is no date.
    """
    expires = None
    if morsel["max-age"]:
        try:
            expires = int(time.time() + int(morsel["max-age"]))
        except ValueError:
            raise TypeError(f"max-age: {morsel['max-age']} must be integer") from None
    elif morsel["expires"]:
        expires = http2time(morsel["expires"])
        if expires is None:
            raise ValueError(f"expires: {morsel['expires']} is no date")
    return create_cookie(
        morsel.key,
        morsel.value,
        version=morsel["version"] or 0,
        domain=morsel["domain"],
        path=morsel["path"],
        secure=bool(morsel["secure"]),
        expires=expires,
        discard=False,
        comment=morsel["comment"],
        comment_url=bool(morsel["comment"]),
        rest={"HttpOnly": morsel["httponly"]},
    )


class CookieRequest:
    """A request as `http.cookiejar` wants to see it."""

    # The program asked for it, so no policy has to wonder whether a third party did (RFC 2965, section 3.3.6).
    unverifiable = False

    def __init__(self, request: RequestLike) -> None:
        parts = urlsplit(request.url)
        self.type = parts.scheme
        self.host = self.origin_req_host = parts.netloc.rpartition("@")[2]
        self._headers = request.headers
        self.cookie: str | None = None
        # Of ours only: whether a redirect has led it to another origin.
        self.has_strayed: bool = getattr(request, "_has_strayed", False)
        named = request.headers.get("Host") or self.host
        if not _HOST_FIELD.fullmatch(named):
            named = self.host  # it names nobody: the connection goes to the URL's host
        self._url = urlunsplit((parts.scheme, named, parts.path, parts.query, ""))

    def get_full_url(self) -> str:
        return self._url

    def has_header(self, name: str) -> bool:
        return name in self._headers

    def get_header(self, name: str, default: str | None = None) -> str | None:
        return self._headers.get(name, default)

    def add_unredirected_header(self, name: str, value: str) -> None:
        if name == "Cookie":
            self.cookie = value


class CookieResponse:
    """A response as `http.cookiejar` wants to see it: Set-Cookie fields and nothing else."""

    def __init__(self, set_cookie: list[str]) -> None:
        self._set_cookie = set_cookie

    def info(self) -> CookieResponse:
        return self

    def get_all(self, name: str, default: list[str]) -> list[str]:
        return self._set_cookie if name == "Set-Cookie" else default

"""A URL taken apart into what a request needs: whom to connect to, what to ask for, what to call it.

Knows RFC 3986 as far as http and https go, IDNA 2008, IPv6 zones (RFC 6874), sockets of the file system
("http+unix://%2Frun%2Fx.sock/path"), and how `requests` repairs what people write. What could be understood in two
ways (a backslash or a control character in the host) is refused. Knows no socket.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlencode, urljoin, urlsplit, urlunsplit

import idna

from .exceptions import InvalidSchema, InvalidURL, MissingSchema

__all__ = [
    "ParamTypes",
    "Target",
    "absolute_url",
    "add_params",
    "encode_pairs",
    "has_other_scheme",
    "masked",
    "parse_url",
    "requote",
]

ParamTypes = Mapping[Any, Any] | Iterable[tuple[Any, Any]] | str | bytes | None

DEFAULT_PORTS = {"http": 80, "https": 443, "http+unix": 80}

# What a server behind a Unix socket is told as its name, as curl does.
UNIX_AUTHORITY = "localhost"

# What stands before a port is a host: "localhost:8000/" has no scheme, "mailto:a@b" has one that is of no use here.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?![0-9])")
_BAD_AUTHORITY = re.compile(r"[\x00-\x20\x7f\\<>\"^`{|}]")
# urlsplit before Python 3.13.2 drops what stands around the brackets: two readers would see two hosts.
_BRACKETED = re.compile(r"(?:[^\[\]@]*@)?\[[^\[\]]*:[^\[\]]*\](?::[0-9]*)?")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
# Half of a surrogate pair, as in the name of a file that is not UTF-8: no bytes can be sent for it.
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_ESCAPED_UNRESERVED = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SAFE_WITHOUT_PERCENT = "!$&'()*+,/:;=?@~"  # RFC 3986, section 3.3, with "/" and "?"
_SAFE = _SAFE_WITHOUT_PERCENT + "%"
_ZONE = re.compile(r"[A-Za-z0-9._~-]+")
_LABEL_BYTES = re.compile(r"[A-Za-z0-9_.-]+")


class Target(NamedTuple):
    """What a URL says."""

    url: str  # whole, normalized
    scheme: str
    host: str  # in lower case, IDNA-encoded, an IPv6 address without its brackets
    port: int
    authority: str  # for the Host field (RFC 9110, section 7.2)
    path: str  # path and query: the request target in origin form (RFC 9112, section 3.2.1)
    userinfo: tuple[str, str] | None
    socket_path: str | None = None  # of a Unix socket; host and port are only names then


@functools.lru_cache(maxsize=1024)
def parse_url(url: str) -> Target:
    """Take `url` apart.

    Raises:
        MissingSchema, InvalidSchema, InvalidURL: it cannot be requested; says why.
    """
    url = url.lstrip()
    scheme = _scheme(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _unreadable(url, error) from None
    # urlsplit drops tabs and newlines in silence; what was asked for must be what is sent.
    if _CONTROLS.search(url):
        raise InvalidURL(f"{_obscured(url)!r} has a control character in it")
    if _SURROGATES.search(url):
        raise InvalidURL(f"{_obscured(url)!r} has half a surrogate pair in it, which UTF-8 cannot write")
    if _BAD_AUTHORITY.search(parts.netloc):
        raise InvalidURL(f"{_obscured(url)!r}: the host has a character in it that no host may have")
    if ("[" in parts.netloc or "]" in parts.netloc) and not _BRACKETED.fullmatch(parts.netloc):
        raise InvalidURL(f"{_obscured(url)!r}: brackets may stand around an IPv6 address only")
    if scheme == "http+unix":
        return _unix_target(parts.netloc, parts.path, parts.query, url)
    host = _host(parts.hostname or "", url)
    if port == 0:
        raise InvalidURL(f"{_obscured(url)!r}: port 0 cannot be connected to")
    # A zone means something on this machine only: the server is not told (RFC 6874, section 4).
    told, _, _ = host.partition("%")
    shown_host = f"[{host.replace('%', '%25')}]" if ":" in host else host
    told_host = f"[{told}]" if ":" in told else told
    authority = told_host if port is None or port == DEFAULT_PORTS[scheme] else f"{told_host}:{port}"
    path = _without_dots(requote(parts.path)) or "/"
    query = requote(parts.query)
    netloc = shown_host if port is None else f"{shown_host}:{port}"
    return Target(
        url=urlunsplit((scheme, netloc, path, query, requote(parts.fragment))),
        scheme=scheme,
        host=host,
        port=port or DEFAULT_PORTS[scheme],
        authority=authority,
        path=f"{path}?{query}" if query else path,
        userinfo=_userinfo(parts.username, parts.password),
    )


def _unix_target(netloc: str, path: str, query: str, url: str) -> Target:
    socket_path = unquote(netloc)
    if not socket_path or "\0" in socket_path or "@" in netloc:
        raise InvalidURL(f"{_obscured(url)!r}: the host is to be the quoted path of a Unix socket, as %2Frun%2Fx.sock")
    path = _without_dots(requote(path)) or "/"
    query = requote(query)
    return Target(
        url=urlunsplit(("http+unix", netloc, path, query, "")),
        scheme="http+unix",
        host=UNIX_AUTHORITY,
        port=DEFAULT_PORTS["http+unix"],
        authority=UNIX_AUTHORITY,
        path=f"{path}?{query}" if query else path,
        userinfo=None,
        socket_path=socket_path,
    )


def has_other_scheme(url: str) -> bool:
    """Whether `url` has a scheme that only an adapter which somebody has mounted can understand."""
    if url.startswith(("http://", "https://")):
        return False
    match = _SCHEME.match(url.lstrip())
    return match is not None and match[1].lower() not in DEFAULT_PORTS


def absolute_url(base: str, reference: str) -> str:
    """What `reference` means in a document at `base` (RFC 3986, section 5).

    Raises:
        InvalidURL: it has a control character in it, or cannot be taken apart.
    """
    # Not what Unicode calls white space besides: to others "\u3000//host/" is a path, and names no host.
    reference = reference.lstrip(" \t\n\r\f\v")
    # Before `urljoin`, which drops tabs and newlines in silence as urlsplit does: see `parse_url`.
    if _CONTROLS.search(reference):
        raise InvalidURL(f"{_obscured(reference)!r} has a control character in it; nothing was sent there")
    scheme, _, rest = base.partition("://")
    # Not `urljoin` for what has a scheme: it knows nothing of Unix sockets.
    if reference.partition("://")[0].lower() in DEFAULT_PORTS:
        return reference
    try:
        if scheme.lower() == "http+unix":
            return scheme + urljoin(f"http://{rest}", reference).removeprefix("http")
        return urljoin(base, reference)
    except ValueError as error:
        raise _unreadable(reference, error) from None


def add_params(url: str, params: ParamTypes) -> str:
    """`url` with `params` behind its query.

    Raises:
        InvalidURL: they cannot be written in UTF-8.
    """
    before, hash_sign, fragment = url.partition("#")
    path, _, query = before.partition("?")
    try:
        encoded = encode_pairs(params)
        if not encoded:
            return url
        # Each by itself: a lone "%" in one would have every "%" of the other quoted as well.
        query, encoded = requote(query), requote(encoded)
    except UnicodeEncodeError as error:
        raise InvalidURL(f"{_obscured(url)!r} with its params cannot be written in UTF-8: {error}") from error
    separator = "&" if query and not query.endswith("&") else ""
    return f"{path}?{query}{separator}{encoded}{hash_sign}{fragment}"


def encode_pairs(data: ParamTypes) -> str:
    """Form encoding (the URL standard's application/x-www-form-urlencoded), as `requests` does it: a value may be a
    list of values, None leaves its name out, text and bytes are taken as they are."""
    if data is None:
        return ""
    if isinstance(data, bytes):
        return data.decode("latin-1")
    if isinstance(data, str):
        return data
    pairs: list[tuple[Any, Any]] = []
    for name, values in data.items() if isinstance(data, Mapping) else data:
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            values = [values]
        pairs += [(name, value) for value in values if value is not None]
    return urlencode(pairs)


def _scheme(url: str) -> str:
    match = _SCHEME.match(url)
    if match is None:
        raise MissingSchema(f"{_obscured(url)!r} has no scheme; perhaps you meant {_obscured('https://' + url)!r}?")
    scheme = match[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise InvalidSchema(f"{_obscured(url)!r}: only http and https can be requested, not {scheme!r}")
    return scheme


def _host(host: str, url: str) -> str:
    if not host:
        raise InvalidURL(f"{_obscured(url)!r} has no host")
    if ":" in host:
        address, percent, zone = host.partition("%")
        try:
            ipaddress.IPv6Address(address)
        except ValueError as error:
            raise InvalidURL(f"{_obscured(url)!r}: {error}") from error
        zone = zone.removeprefix("25")
        if percent and not _ZONE.fullmatch(zone):
            raise InvalidURL(f"{_obscured(url)!r}: {zone!r} is no zone of an address")
        return f"{address}%{zone}" if percent else address
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise InvalidURL(f"{_obscured(url)!r}: the host is no valid international name: {error}") from error
    if not _LABEL_BYTES.fullmatch(host) or host.startswith((".", "*")) or ".." in host:
        raise InvalidURL(f"{_obscured(url)!r}: {host!r} is no host name")
    return host


def _userinfo(username: str | None, password: str | None) -> tuple[str, str] | None:
    if username is None and password is None:
        return None
    return unquote(username or ""), unquote(password or "")


def requote(text: str) -> str:
    """Quote what may not stand in a URL, leave what is quoted, unquote what need not be."""
    if text.isascii() and _UNRESERVED.issuperset(text.replace("/", "")):
        return text
    valid = all(re.fullmatch("[0-9A-Fa-f]{2}", part[:2]) for part in text.split("%")[1:])
    if not valid:
        return quote(text, safe=_SAFE_WITHOUT_PERCENT)
    text = _ESCAPED_UNRESERVED.sub(lambda match: _unquoted(match[0], match[1]), text)
    return quote(text, safe=_SAFE)


def _unquoted(escaped: str, digits: str) -> str:
    character = chr(int(digits, 16))
    return character if character in _UNRESERVED else escaped.upper()


def _without_dots(path: str) -> str:
    """Follow "." and ".." (RFC 3986, section 5.2.4), here and not on some of the servers that the request may pass."""
    if "/." not in path:
        return path
    kept: list[str] = []
    *folders, name = path.split("/")[1:]
    for folder in folders:
        if folder == "..":
            del kept[-1:]
        elif folder != ".":
            kept.append(folder)
    if name == "..":
        del kept[-1:]
    return "/".join(["", *kept, "" if name in (".", "..") else name])


def masked(url: str) -> str:
    """For a message: a password is not to be seen, not in a URL without "//" either."""
    return re.sub(r"(^|//)[^/]*@", r"\1***@", url)


def _obscured(url: str) -> str:
    """The same for a URL that is refused: a password with a "/" in it, which should be quoted, looks like a path."""
    return re.sub(r"^([A-Za-z0-9+.-]*://)?.*@", r"\1***@", url, flags=re.DOTALL)


def _unreadable(url: str, error: ValueError) -> InvalidURL:
    """What `urllib.parse` says of it shows pieces of it: not where one may be of a password."""
    if "@" not in url:
        return InvalidURL(f"{url!r}: {error}")
    return InvalidURL(
        f"{_obscured(url)!r}: its host or port cannot be read; a user and a password are to be quoted, as "
        "urllib.parse.quote(..., safe='') does it"
    )

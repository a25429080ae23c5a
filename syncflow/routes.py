"""Which way a request goes: straight, through a proxy or a Unix socket; and what makes its connection trustworthy.

Knows `proxies=`, `verify=`, `cert=` and what the environment says of them; from these it makes the `Origin` by which
connections are shared, so that one which was trusted less is never used by who asked for more. Opens nothing.
"""

from __future__ import annotations

import base64
import functools
import os
import re
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from .engine.origin import Origin, Proxy
from .engine.tls import client_context
from .environ import bypasses_proxy, ca_bundle, environment_proxies, select_proxy
from .exceptions import InvalidProxyURL
from .urls import Target

__all__ = ["CertTypes", "MergedProxies", "Route", "Trust", "VerifyTypes", "merge_proxies", "merge_verify", "route_of"]

VerifyTypes = bool | str | os.PathLike[str] | ssl.SSLContext | None
CertTypes = str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]] | None
ProxyTypes = Mapping[str, str | None] | None

_PROXY_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Trust(NamedTuple):
    """What a whole session demands of servers."""

    context: ssl.SSLContext | None = None  # in place of the one made of `verify=True`
    fingerprint: str | None = None


class Route(NamedTuple):
    """How to reach a target."""

    origin: Origin
    # The proxy gets the request itself, with the whole URL (RFC 9112, section 3.2.2), and not a tunnel.
    is_forwarded: bool = False


class MergedProxies(dict[str, str | None]):
    """Proxies for one URL, the environment's among them; `given` are those that the program named, for the next."""

    given: ProxyTypes = None


def merge_proxies(target: Target | None, given: ProxyTypes, *, trust_env: bool) -> Mapping[str, str | None]:
    """Those that the program gave, and below them those of the environment, unless `no_proxy` exempts the host. A
    "no_proxy" among those given counts for them as well."""
    environment = environment_proxies() if trust_env else {}
    if not environment and not given:
        return {}
    merged = MergedProxies(given or {})
    merged.given = given
    exempt = merged.pop("no_proxy", None) or merged.pop("no", None)
    if target is not None and exempt and bypasses_proxy(target.host, target.port, exempt):
        merged.clear()
        return merged
    if target is None or not bypasses_proxy(target.host, target.port, exempt or environment.get("no")):
        for kind, url in environment.items():
            if kind != "no":
                merged.setdefault(kind, url)
    return merged


def merge_verify(asked: VerifyTypes, kept: VerifyTypes, *, trust_env: bool) -> VerifyTypes:
    """What a call asks for, else what the session has, else the environment's authorities, else certifi's."""
    verify = kept if asked is None else asked
    if verify is True or verify is None:
        return (ca_bundle() if trust_env else None) or True
    return verify


def route_of(target: Target, verify: VerifyTypes, cert: CertTypes, proxies: ProxyTypes, trust: Trust) -> Route:
    """The way to `target`.

    Raises:
        InvalidProxyURL: the proxy's URL cannot be understood.
        OSError: a file of `verify=` or `cert=` is missing or is not what it should be.
        ValueError: `cert=` together with a context that is the program's.
    """
    proxy_url = select_proxy(target.scheme, target.host, target.port, proxies) if proxies else None
    if target.scheme == "http+unix":
        return Route(Origin("http", target.host, target.port, path=target.socket_path))
    context = _context(verify, cert, trust) if target.scheme == "https" else None
    fingerprint = trust.fingerprint if context is not None else None
    if not proxy_url:
        return Route(Origin(target.scheme, target.host, target.port, context, fingerprint=fingerprint))
    proxy = parse_proxy(proxy_url)
    if proxy.scheme == "https":
        proxy = proxy._replace(context=_context(verify, None, Trust()))
    origin = Origin(target.scheme, target.host, target.port, context, proxy, fingerprint)
    return Route(origin, is_forwarded=target.scheme == "http" and proxy.scheme in ("http", "https"))


def _context(verify: VerifyTypes, cert: CertTypes, trust: Trust) -> ssl.SSLContext:
    context = verify if isinstance(verify, ssl.SSLContext) else trust.context if verify in (True, None) else None
    if context is not None:
        if cert is not None:
            raise ValueError("cert= has no effect on a context of your own: load_cert_chain() it there")
        return context
    return client_context(_plain(verify), _paths(cert))


def _plain(verify: Any) -> bool | str:
    return verify if isinstance(verify, bool | str) else True if verify is None else os.fspath(verify)


def _paths(cert: CertTypes) -> str | tuple[str, str] | None:
    if cert is None:
        return None
    if isinstance(cert, tuple | list):
        certificate, key = cert
        return os.fspath(certificate), os.fspath(key)
    return os.fspath(cert)


@functools.lru_cache(maxsize=64)
def parse_proxy(url: str) -> Proxy:
    """A proxy's URL taken apart; without a scheme it is an HTTP proxy.

    Raises:
        InvalidProxyURL: says why.
    """
    full = url if _HAS_SCHEME.match(url) else f"http://{url}"
    try:
        parts = urlsplit(full)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidProxyURL(f"the proxy's URL {_shown(url)!r}: {error}; nothing was sent") from error
    scheme = parts.scheme.lower()
    if scheme not in _PROXY_PORTS:
        known = ", ".join(_PROXY_PORTS)
        raise InvalidProxyURL(f"the proxy's URL {_shown(url)!r}: {scheme!r} is not one of {known}; nothing was sent")
    if not host or re.search(r"[\x00-\x20\x7f\\]", full):
        raise InvalidProxyURL(f"the proxy's URL {_shown(url)!r} has no host, or a character in it; nothing was sent")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    authorization = None
    if scheme in ("http", "https") and (username or password):
        authorization = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
    return Proxy(
        scheme,
        host,
        port or _PROXY_PORTS[scheme],
        authorization=authorization,
        username="" if authorization else username,
        password="" if authorization else password,
    )


def _shown(url: str) -> str:
    """For a message: a password is not to be seen."""
    return re.sub(r"(//|^)[^/]*@", r"\1***@", url)

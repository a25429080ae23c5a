"""What the environment says of proxies, certificate authorities and passwords: what `trust_env` of `requests` trusts.

Knows the variables and the user's `.netrc`. Knows no session and no network; nor the settings of an operating system
that are not in the environment. Asked with every request, so each answer is cheap where nothing is set.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from netrc import netrc

__all__ = ["bypasses_proxy", "ca_bundle", "environment_proxies", "netrc_auth", "select_proxy"]

logger = logging.getLogger("syncflow")

# Seconds for which what was last seen of `.netrc` is good: a `stat` costs more than all the rest of this file.
NETRC_TRUSTED = 1.0

# A variable as the system has it, or as text, or none.
Raw = str | bytes | None

_ENVIRON = os.environ
# `os.environ.get` encodes the name and decodes the value, 0.6 us a name, and nine names are asked for with every
# request. The dictionary behind it has both encoded: 0.05 us. What a program sets is in there as soon as it is set.
_ENCODED: Mapping[str | bytes, str | bytes] | None = getattr(_ENVIRON, "_data", None)


class _Variables:
    """Some variables of the environment, read together."""

    def __init__(self, *names: str) -> None:
        self._names = names
        # Windows keeps the names in upper case, as text.
        self._keys = tuple(os.fsencode(name) if os.supports_bytes_environ else name.upper() for name in names)

    def read(self) -> tuple[Raw, ...]:
        """Their values in order; `os.fsdecode` makes text of each."""
        if _ENCODED is not None and os.environ is _ENVIRON:
            return tuple(map(_ENCODED.get, self._keys))
        # A program has put another mapping in its place, or this is a Python that keeps it in another way.
        return tuple(map(os.environ.get, self._names))

    def named(self, values: Iterable[Raw]) -> dict[str, str]:
        """What `read` gave, as text by name, without what is not set."""
        return {name: os.fsdecode(value) for name, value in zip(self._names, values, strict=True) if value is not None}


# --------------------------------------------------------------------------------------------------------- proxies

_PROXY_NAMES = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"]
if os.name != "nt":  # there both are the same variable
    _PROXY_NAMES += ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]
_PROXY_VARIABLES = _Variables(*_PROXY_NAMES)
_CA_VARIABLES = _Variables("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def environment_proxies() -> Mapping[str, str]:
    """Proxy URLs by "http", "https" and "all", and the hosts that need none under "no"; what is not set is not there.

    From `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in lower or else in upper case. One that is set to
    nothing in lower case means no proxy, whatever the other says. Where `REQUEST_METHOD` is set, which is in a CGI
    program, `HTTP_PROXY` may come from a header of whoever asked, and is ignored (CVE-2016-1000110, "httpoxy").
    """
    return _proxies(_PROXY_VARIABLES.read())


@functools.lru_cache(maxsize=16)
def _proxies(raw: tuple[Raw, ...]) -> Mapping[str, str]:
    values = _PROXY_VARIABLES.named(raw)
    if "REQUEST_METHOD" in values:
        values.pop("HTTP_PROXY", None)
    found = {}
    for kind in ("http", "https", "all"):
        if proxy := values.get(f"{kind}_proxy", values.get(f"{kind.upper()}_PROXY")):
            found[kind] = proxy
    # For this one an empty value in lower case does not hide the other, as in `requests`.
    if exempt := values.get("no_proxy") or values.get("NO_PROXY"):
        found["no"] = exempt
    return MappingProxyType(found)  # whoever asks next gets the same object


def select_proxy(url_scheme: str, host: str, port: int, proxies: Mapping[str, str | None] | None) -> str | None:
    """The proxy for a URL: the value of the first of the keys "scheme://host", "scheme", "all://host" and "all" that is
    there, so that a value of None means none; None as well if there is no such key.

    Args:
        url_scheme: "http" or "https".
        host: in lower case, an IPv6 address without its brackets.
        port: not looked at, because a key of `requests` names a host and no port; here so that this is asked for the
            same three things as `bypasses_proxy`.
        proxies: by key, as `proxies=` of a session or a request.
    """
    if proxies:
        for key in (f"{url_scheme}://{host}", url_scheme, f"all://{host}", "all"):
            if key in proxies:
                return proxies[key]
    return None


# ------------------------------------------------------------------------------------------- hosts without a proxy


class _Exempt(NamedTuple):
    """One entry of `no_proxy`."""

    name: str  # in lower case, without the dots before it
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None  # if it is an address or a network
    port: int | None


@functools.lru_cache(maxsize=1024)
def bypasses_proxy(host: str, port: int, no_proxy: str | None) -> bool:
    """Whether `no_proxy` says that a host is to be reached without a proxy.

    Args:
        host: a name or an address; an IPv6 address with or without its brackets.
        port: the one that will be connected to, named in the URL or not.
        no_proxy: entries between commas, spaces ignored: "example.com" or ".example.com" for it and all its subdomains;
            addresses; networks ("10.0.0.0/8", "fd00::/8"); each with ":port" for that port alone; or only "*", for
            everything. None and an empty one exempt nothing, not even localhost.
    """
    if not no_proxy:
        return False
    no_proxy = no_proxy.replace(" ", "")
    if no_proxy == "*":
        return True
    host = host.lower().removeprefix("[").removesuffix("]")
    address = _address(host)
    for name, network, only_port in _exempt(no_proxy):
        if only_port is not None and only_port != port:
            continue
        if host == name:
            return True
        # What an address ends with means nothing.
        if address is None and host.endswith(f".{name}"):
            return True
        if address is not None and network is not None and address in network:
            return True
    return False


@functools.lru_cache(maxsize=16)
def _exempt(no_proxy: str) -> tuple[_Exempt, ...]:
    entries = []
    for entry in no_proxy.lower().split(","):
        name, port = _without_port(entry.lstrip("."))
        name = name.replace("[", "").replace("]", "")
        if name:
            entries.append(_Exempt(name, _network(name), port))
    return tuple(entries)


def _without_port(entry: str) -> tuple[str, int | None]:
    """An IPv6 address without brackets has colons of its own, and no port."""
    host, _, port = entry.rpartition(":")
    if port.isascii() and port.isdigit() and (host.endswith("]") or ":" not in host):
        return host, int(port)
    return entry, None


def _network(name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(name, strict=False)
    except ValueError:
        return None  # a name


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass  # a name, or one of the shapes below
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))  # "127.1": what would be connected to is 127.0.0.1
    except OSError:
        return None


# ------------------------------------------------------------------------------------------------- authorities


def ca_bundle() -> str | None:
    """The file or folder of certificate authorities that the user wants trusted: `REQUESTS_CA_BUNDLE`, else
    `CURL_CA_BUNDLE`, else `SSL_CERT_FILE`; None if none of them is set."""
    return _first(_CA_VARIABLES.read())


@functools.lru_cache(maxsize=16)
def _first(raw: tuple[Raw, ...]) -> str | None:
    return next((os.fsdecode(path) for path in raw if path), None)


# ---------------------------------------------------------------------------------------------------- passwords


class _Version(NamedTuple):
    """Of a file: what differs when it was changed."""

    path: str
    changed: int  # ns
    size: int


class _Look(NamedTuple):
    """What was seen at a certain moment."""

    variables: tuple[Raw, ...]
    until: float  # the moment up to which it is trusted
    version: _Version | None
    entries: netrc | None


class NetrcFile:
    """The user's file of passwords, read again when it has changed. Any thread.

    Args:
        clock: seconds.
    """

    _VARIABLES = _Variables("NETRC", "HOME", "USERPROFILE")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Replaced as a whole. No lock, which a fork could leave held: the worst of a race is a file that is read twice.
        self._last = _Look((), clock(), None, None)
        # Versions that could not be read; each is told of once.
        self._reported: dict[_Version, object] = {}

    def auth(self, host: str) -> tuple[str, str] | None:
        """See `netrc_auth`."""
        last = self._last
        variables = self._VARIABLES.read()
        if variables != last.variables or self._clock() >= last.until:
            last = self._last = self._look(variables, last)
        if last.entries is None:
            return None
        entry = last.entries.authenticators(host)
        if entry is None or not any(entry):
            return None
        login, account, password = entry
        return login or account or "", password or ""

    def _look(self, variables: tuple[Raw, ...], last: _Look) -> _Look:
        until = self._clock() + NETRC_TRUSTED
        version = _find_netrc(variables[0])
        if version is None:
            return _Look(variables, until, None, None)
        entries = last.entries if version == last.version else self._parse(version)
        return _Look(variables, until, version, entries)

    def _parse(self, version: _Version) -> netrc | None:
        from netrc import NetrcParseError, netrc

        try:
            return netrc(version.path)
        except NetrcParseError as error:
            fault = f"line {error.lineno} cannot be understood"  # its own words may show a piece of a password
        except UnicodeDecodeError:
            fault = "it is no text"
        except OSError as error:
            fault = error.strerror or type(error).__name__
        mark = object()
        if self._reported.setdefault(version, mark) is mark:
            logger.warning("%s: no password is taken from this file: %s", version.path, fault)
        return None


def _find_netrc(named: Raw) -> _Version | None:
    for path in ("~/.netrc", "~/_netrc") if named is None else (os.fsdecode(named),):
        path = os.path.expanduser(path)
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            continue  # there is none, or none that may be looked at
        return _Version(path, found.st_mtime_ns, found.st_size)
    return None


def netrc_auth(host: str) -> tuple[str, str] | None:
    """Any thread. User name and password for a host from the file that `NETRC` names, else `~/.netrc`, else `~/_netrc`;
    None where it has none. Its "default" entry is good for every host.

    The file is looked for at most once a second, and parsed when its path, time of change or size is another. One that
    cannot be read or understood counts as none, and is told of once in the log.

    Args:
        host: as it was parsed from the URL, in lower case and without port, never a piece cut out of a URL: two readers
            of a URL may see two hosts, and the password goes to one of them (CVE-2024-47081).
    """
    return _netrc_file.auth(host)


_netrc_file = NetrcFile()

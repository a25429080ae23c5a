"""Whom a connection goes to, by which way, and what makes it trustworthy.

Knows names, ports and what has to be equal for two requests to share a connection. Knows no socket and no step of
connecting.
"""

from __future__ import annotations

import re
import ssl
from typing import NamedTuple
from urllib.parse import quote

__all__ = ["Origin", "Proxy", "authority", "sha256_fingerprint"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Proxy(NamedTuple):
    """One hop on the way to an origin.

    Attributes:
        scheme: "http", "https", "socks4", "socks4a", "socks5" or "socks5h". The address of the target is found here by
            socks4 and socks5, and by the proxy with all others.
        host: name or address, an IPv6 address without its brackets.
        port: of the proxy.
        context: for TLS to the proxy itself, where the scheme is "https"; None is the usual one, which verifies.
        authorization: value of Proxy-Authorization (RFC 9110, section 11.7.2) for CONNECT; goes to nobody else.
        username: for SOCKS.
        password: for SOCKS 5.
    """

    scheme: str
    host: str
    port: int
    context: ssl.SSLContext | None = None
    authorization: str | None = None
    username: str = ""
    password: str = ""

    @property
    def where(self) -> str:
        """ "host:port", for messages."""
        return authority(self.host, self.port)

    def __repr__(self) -> str:
        """Without its secrets: tracebacks and logs show this."""
        return f"Proxy({self.scheme}://{self.where})"


class Origin(NamedTuple):
    """Whom a connection goes to, and all that makes it trustworthy: connections are shared only among equals.

    Attributes:
        scheme: "http" or "https".
        host: name or address, an IPv6 address without its brackets.
        port: of the server.
        context: for TLS, where the scheme is "https"; None is the usual one, which verifies.
        proxy: through which it is reached, if any.
        fingerprint: SHA-256 of the certificate that the server must show, as `sha256_fingerprint` writes it.
        path: of the Unix socket to connect to; host and port are only names then.
    """

    scheme: str
    host: str
    port: int
    context: ssl.SSLContext | None = None
    proxy: Proxy | None = None
    fingerprint: str | None = None
    path: str | None = None

    @property
    def where(self) -> str:
        """ "host:port", for messages."""
        return authority(self.host, self.port)

    @property
    def name(self) -> str:
        """ "scheme://host:port", or as the URLs of a Unix socket begin: what it is called where it is counted. Not all
        that distinguishes it, and no secret of its."""
        if self.path is not None:
            return f"http+unix://{quote(self.path, safe='')}"
        return f"{self.scheme}://{self.where}"


def authority(host: str, port: int) -> str:
    """ "host:port", an IPv6 address in brackets (RFC 3986, section 3.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def sha256_fingerprint(text: str) -> str:
    """Read a fingerprint as `openssl x509 -fingerprint -sha256` or a browser shows it; returns 64 hexadecimal digits
    in lower case.

    Raises:
        ValueError: it is not one of SHA-256. (A shorter one would be of a hash that can be forged.)

    >>> sha256_fingerprint("AB:" * 31 + "CD") == "ab" * 31 + "cd"
    True
    """
    digits = text.replace(":", "").lower()
    if not _SHA256.fullmatch(digits):
        raise ValueError(
            f"{text!r} is not a SHA-256 fingerprint of 64 hexadecimal digits, with or without colons; nothing was sent"
        )
    return digits

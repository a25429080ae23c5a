"""An HTTP proxy, spoken to in the open or over TLS: CONNECT, and requests in absolute form (RFC 9112, section 3.2).

Knows Basic credentials. Each connection carries one request or one tunnel.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from syncflow.testing.relay import ProxyServer, relay
from syncflow.testing.server import Connection
from syncflow.testing.wire import Reader, Request, parse_request, reply

HOP_BY_HOP = frozenset({"proxy-authorization", "proxy-connection", "connection", "keep-alive"})


class HTTPProxy(ProxyServer):
    """See `ProxyServer`.

    Args:
        credentials: user name and password, without which it answers 407.
    """

    def __init__(
        self,
        *,
        credentials: tuple[str, str] | None = None,
        hosts: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(hosts=hosts, ssl_context=ssl_context)
        self._wanted = None
        if credentials is not None:
            self._wanted = "Basic " + base64.b64encode(":".join(credentials).encode()).decode()
        # Guarded by `_changed`.
        self._seen: list[Request] = []

    @property
    def seen(self) -> list[Request]:
        """The requests that it was sent, without their bodies; CONNECT is one."""
        with self._changed:
            return list(self._seen)

    def serve(self, connection: Connection) -> None:
        reader = Reader(connection.sock.recv_into)
        request = parse_request(reader.through(b"\r\n\r\n"))
        with self._changed:
            self._seen.append(request)
        if self._wanted is not None and request.headers.get("proxy-authorization") != self._wanted:
            challenge = {"Proxy-Authenticate": 'Basic realm="proxy"', "Connection": "close"}
            connection.sock.sendall(reply(407, b"who are you?", challenge))
            return
        host, port = _target(request)
        self.note(host, port)
        try:
            upstream = self.connect(host, port)
        except OSError as error:
            connection.sock.sendall(reply(502, str(error).encode(), {"Connection": "close"}))
            return
        with upstream:
            if request.method == "CONNECT":
                connection.sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                upstream.sendall(_forwarded(request))
            upstream.sendall(reader.buffered)
            relay(connection.sock, upstream, self.stopping)


def _target(request: Request) -> tuple[str, int]:
    if request.method == "CONNECT":
        host, _, port = request.target.rpartition(":")
        assert port.isdecimal(), f"CONNECT wants host:port, not {request.target!r}"
        if request.version == "HTTP/1.1":
            assert request.headers["host"] == request.target
        return host.strip("[]"), int(port)
    parts = urlsplit(request.target)
    assert parts.scheme == "http", f"a proxy wants a whole URL, not {request.target!r}"
    assert parts.hostname is not None
    return parts.hostname, parts.port or 80


def _forwarded(request: Request) -> bytes:
    """The head as the origin gets it: in origin form, with nothing that was the proxy's; the last on its connection."""
    parts = urlsplit(request.target)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{request.method} {target} HTTP/1.1", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in request.fields if name.lower() not in HOP_BY_HOP]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")

"""A SOCKS proxy: versions 4, 4A and 5 (RFC 1928), with user name and password (RFC 1929).

Knows what it is asked, and can refuse with any code. What a client may not send is an AssertionError.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from syncflow.testing.relay import ProxyServer, relay
from syncflow.testing.server import Connection
from syncflow.testing.wire import Reader

CONNECT = 1
NO_AUTH, USERNAME_PASSWORD, NONE_OF_THESE = 0, 2, 0xFF
IPV4, DOMAIN_NAME, IPV6 = 1, 3, 4
GRANTED_4, REJECTED_4 = 90, 91
SUCCEEDED_5, REFUSED_5 = 0, 5


@dataclass(frozen=True, slots=True)
class SocksRequest:
    """What a client asked for; `by_name` if it left the resolving to the proxy."""

    version: int
    host: str
    port: int
    by_name: bool
    username: str = ""


class SocksServer(ProxyServer):
    """See `ProxyServer`.

    Args:
        credentials: user name and password that version 5 asks for; version 4 asks for the user name alone.
        refuse: code of its answer to every request; None tries to connect.
        bound: the address that it names in its answers of version 5: an address or a name.
        greeting: what it sends directly behind the answer that grants, in the same piece, before the target can.
    """

    def __init__(
        self,
        *,
        credentials: tuple[str, str] | None = None,
        refuse: int | None = None,
        bound: str = "0.0.0.0",
        greeting: bytes = b"",
        hosts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(hosts=hosts)
        self._credentials = credentials
        self._refuse = refuse
        self._bound = bound
        self._greeting = greeting
        # Guarded by `_changed`.
        self._asked: list[SocksRequest] = []

    @property
    def asked(self) -> list[SocksRequest]:
        """Every request for a connection."""
        with self._changed:
            return list(self._asked)

    def serve(self, connection: Connection) -> None:
        reader = Reader(connection.sock.recv_into)
        version = reader.exactly(1)[0]
        assert version in (4, 5), f"SOCKS has no version {version}"
        if version == 5 and not self._lets_in(reader, connection):
            return
        request = self._read_4(reader) if version == 4 else self._read_5(reader)
        with self._changed:
            self._asked.append(request)
        self.note(request.host, request.port)
        if self._refuse is not None or (version == 4 and not self._knows(request.username)):
            connection.sock.sendall(self._answer(version, REJECTED_4 if self._refuse is None else self._refuse))
            return
        try:
            upstream = self.connect(request.host, request.port)
        except OSError:
            connection.sock.sendall(self._answer(version, REJECTED_4 if version == 4 else REFUSED_5))
            return
        granted = self._answer(version, GRANTED_4 if version == 4 else SUCCEEDED_5)
        with upstream:
            connection.sock.sendall(granted + self._greeting)
            upstream.sendall(reader.buffered)
            relay(connection.sock, upstream, self.stopping)

    def _knows(self, username: str) -> bool:
        return self._credentials is None or self._credentials[0] == username

    def _lets_in(self, reader: Reader, connection: Connection) -> bool:
        """Version 5's negotiation of a method, and RFC 1929."""
        offered = reader.exactly(reader.exactly(1)[0])
        wanted = NO_AUTH if self._credentials is None else USERNAME_PASSWORD
        if wanted not in offered:
            connection.sock.sendall(bytes([5, NONE_OF_THESE]))
            return False
        connection.sock.sendall(bytes([5, wanted]))
        if self._credentials is None:
            return True
        assert reader.exactly(1) == b"\x01", "not the version of RFC 1929"
        given = tuple(reader.exactly(reader.exactly(1)[0]).decode() for _ in range(2))
        connection.sock.sendall(bytes([1, given != self._credentials]))
        return given == self._credentials

    def _read_4(self, reader: Reader) -> SocksRequest:
        assert reader.exactly(1)[0] == CONNECT
        port = int.from_bytes(reader.exactly(2), "big")
        address = reader.exactly(4)
        username = reader.through(b"\0")[:-1].decode()
        by_name = address[:3] == b"\0\0\0" and address[3] != 0
        host = reader.through(b"\0")[:-1].decode("ascii") if by_name else socket.inet_ntoa(address)
        return SocksRequest(4, host, port, by_name, username)

    def _read_5(self, reader: Reader) -> SocksRequest:
        assert reader.exactly(3) == bytes([5, CONNECT, 0])
        kind = reader.exactly(1)[0]
        if kind == DOMAIN_NAME:
            host = reader.exactly(reader.exactly(1)[0]).decode("ascii")
        elif kind == IPV4:
            host = socket.inet_ntoa(reader.exactly(4))
        else:
            assert kind == IPV6, f"there is no address of type {kind}"
            host = socket.inet_ntop(socket.AF_INET6, reader.exactly(16))
        port = int.from_bytes(reader.exactly(2), "big")
        username = "" if self._credentials is None else self._credentials[0]
        return SocksRequest(5, host, port, kind == DOMAIN_NAME, username)

    def _answer(self, version: int, code: int) -> bytes:
        if version == 4:
            return bytes([0, code]) + bytes(6)
        return bytes([5, code, 0]) + _address_5(self._bound) + bytes(2)


def _address_5(text: str) -> bytes:
    for kind, family in ((IPV4, socket.AF_INET), (IPV6, socket.AF_INET6)):
        try:
            return bytes([kind]) + socket.inet_pton(family, text)
        except OSError:
            continue
    return bytes([DOMAIN_NAME, len(text)]) + text.encode("ascii")

"""How a session's connections are made: which addresses, by whose word, from where, with which socket options.

Knows what a user may ask for, and refuses what makes no sense before anything is connected. Knows no socket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .resolver import Resolver, numeric_address

__all__ = ["DEFAULT_NETWORK", "Network"]


@dataclass(frozen=True)
class Network:
    """How a session's connections are made.

    Args:
        resolve: where to connect instead: "host:port" (IPv6 in brackets) to an address, "address:port" or
            "[IPv6]:port". Host field, SNI and the certificate's name stay. Holds for every name that is resolved here,
            a proxy's too.
        address_filter: asked for every address (in its shortest form, without zone) at the moment of connecting to it,
            in the caller's thread with no lock held; False skips that address. Also asked for the addresses of proxies,
            and for what is resolved here to be given to a SOCKS proxy; not for what a proxy resolves.
        resolver: replaces `socket.getaddrinfo`: (host, port) to addresses, as text or in its shape. Runs in a thread of
            its own, and is not asked about addresses.
        source_address: address ("" is any) and port (0 is any) to connect from.
        socket_options: (level, name, value) each, set before connecting and after those of syncflow; on a Unix socket
            only those of SOL_SOCKET.

    Raises:
        TypeError, ValueError: a value that makes no sense; says which.
    """

    resolve: Mapping[str, str] = field(default_factory=dict)
    address_filter: Callable[[str], bool] | None = None
    resolver: Resolver | None = None
    source_address: tuple[str, int] | None = None
    socket_options: Sequence[tuple[Any, ...]] = ()
    _redirections: dict[tuple[str, int], tuple[str, int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A copy: what the user does to the mapping later must not be seen half done by another thread.
        redirections = {_key(key): _value(key, value) for key, value in self.resolve.items()}
        object.__setattr__(self, "_redirections", redirections)
        for name in ("address_filter", "resolver"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name}= is a function or None, not {value!r}")
        if self.source_address is not None:
            _check_source(self.source_address)
        for option in self.socket_options:
            if len(option) != 3:
                raise ValueError(f"socket_options= holds tuples (level, name, value), not {option!r}")

    def redirected(self, host: str, port: int) -> tuple[str, int]:
        """What to resolve for `host` and `port`: the same, or what `resolve` has for them."""
        return self._redirections.get((host.lower(), port), (host, port))

    def allows(self, address: str) -> bool:
        """Caller, with no lock held. What the filter says of an address."""
        return self.address_filter is None or bool(self.address_filter(address))


def _key(text: str) -> tuple[str, int]:
    host, port = _split(text)
    if not host or port is None:
        raise ValueError(f'resolve={{{text!r}: ...}}: a key is "host:port", an IPv6 address in brackets')
    return host.lower(), port


def _value(key: str, text: str) -> tuple[str, int]:
    whole = numeric_address(text, 0)
    host, port = (text, None) if whole is not None else _split(text)
    if numeric_address(host, 0) is None:
        raise ValueError(
            f'resolve={{{key!r}: {text!r}}}: a value is an IP address, "address:port" or "[IPv6 address]:port"'
        )
    return host, _split(key)[1] or 0 if port is None else port


def _split(text: str) -> tuple[str, int | None]:
    """Host and port; None if there is no port that could be one."""
    host, _, digits = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    is_port = digits.isascii() and digits.isdigit() and 0 < int(digits) < 65536
    if not is_port or (":" in host and not bracketed):
        return text, None
    return (host[1:-1] if bracketed else host), int(digits)


def _check_source(source: object) -> None:
    match source:
        case (str(host), int(port)) if 0 <= port < 65536 and (not host or numeric_address(host, 0) is not None):
            return
    raise ValueError(f"source_address= is an IP address of this machine and a port (0 is any), not {source!r}")


DEFAULT_NETWORK = Network()

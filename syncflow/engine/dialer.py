"""From an origin to a connected transport: resolve, connect, pass the proxy, set up TLS.

Knows the order of these steps, what each is called in an error, and how long it took. How each is done stands in a file
of its own. Knows nothing of pools or HTTP.

The caller's thread does the work step by step and waits in between; the worker only tells it when a socket is ready.
So a caller that gives up, or is told to, takes everything with it, and one deadline holds for all of it.
"""

from __future__ import annotations

import socket
import ssl
from functools import partial

from ..exceptions import InvalidProxyURL, InvalidSchema, ProxyError, RequestException, SSLError
from ..settings import Watermarks
from .attempt import Attempt
from .budget import Budget
from .conversation import Conversation
from .deadline import Deadline
from .descriptors import Reserve, shortage
from .memory_tls import MemoryTLS, SocketTLS
from .nested_tls import NestedTLS
from .network import DEFAULT_NETWORK, Network
from .origin import Origin, Proxy, sha256_fingerprint
from .race import Race, connect_unix, none_allowed
from .resolver import Address, Lookup, lookup
from .setting_up import SettingUp
from .socks import Socks
from .timings import Setup
from .tls import TLSTransport, client_context, guard, server_name, wrap
from .transport import Transport
from .tunnel import Tunnel
from .worker import READ, Worker

__all__ = ["Dial", "Network"]

HTTP_PROXIES = frozenset({"http", "https"})
SOCKS_PROXIES = frozenset({"socks4", "socks4a", "socks5", "socks5h"})


class Dial(SettingUp):
    """The setting up of one connection, by one caller.

    Args:
        worker: tells when sockets are ready.
        origin: whom to connect to.
        deadline: of the request for which it is done.
        watermarks: of the transport.
        network: how to connect.
        budget: that the transport's outgoing buffer shares with others, if it does.
        ends_each_way: whether TLS is to be such that its two directions end each on its own (`SocketTLS`); a plain
            socket's do. It is asked of the last layer, and one inside another is so in any case.
        reserve: whose connections may give way when there is no file descriptor.
    """

    def __init__(
        self,
        worker: Worker,
        origin: Origin,
        deadline: Deadline,
        watermarks: Watermarks,
        network: Network = DEFAULT_NETWORK,
        budget: Budget | None = None,
        *,
        ends_each_way: bool = False,
        reserve: Reserve | None = None,
    ) -> None:
        super().__init__(worker, origin, deadline, reserve)
        # Never changes.
        self.network = network
        self._ends_each_way = ends_each_way
        self._watermarks = watermarks
        self._budget = budget

    def run(self) -> tuple[Transport, Setup]:
        """Caller. All of it.

        Raises:
            ConnectionError: the name has no address, or none of them took the connection.
            ProxyError: the proxy cannot be reached, or refused.
            SSLError: the handshake failed, or the certificate is not trusted.
            ConnectTimeout, TotalTimeout: by the limits.
            InvalidSchema, InvalidProxyURL, InvalidHeader, ValueError: no connection can be made to such an origin.
        """
        try:
            return self._run()
        except BaseException:
            for attempt in self.attempts:
                attempt.close()
            raise

    def _run(self) -> tuple[Transport, Setup]:
        origin = self.origin
        way = self._way()
        context = _context(origin.scheme, origin.context)
        begun = self.clock()
        addresses = self._resolve_all(way)
        resolved = self.clock()
        attempt = self._connect(addresses)
        early = b"" if origin.proxy is None else self._pass(origin.proxy, way, attempt)
        self.is_proxys_turn = False
        connected = self.clock()
        transport = self._transport(attempt, context, early)
        attempt.hand_over()
        secured = connected if context is None else self.clock()
        return transport, Setup(resolved - begun, connected - resolved, secured - connected)

    # ---------------------------------------------------------------- the steps

    def _way(self) -> Tunnel | Socks | None:
        """How to get through the proxy; None if there is none, or one that takes the requests themselves. Refuses what
        makes no sense, before anything is sent."""
        origin, proxy = self.origin, self.origin.proxy
        if origin.fingerprint is not None:
            sha256_fingerprint(origin.fingerprint)
        if proxy is None:
            return None
        where = f"{origin.where}: proxy {proxy.where}"
        if origin.path is not None:
            raise InvalidProxyURL(f"{where}: no proxy leads to the Unix socket {origin.path!r}; nothing was sent")
        if proxy.scheme in SOCKS_PROXIES:
            return Socks(self, proxy)
        if proxy.scheme not in HTTP_PROXIES:
            known = ", ".join(sorted(HTTP_PROXIES | SOCKS_PROXIES))
            raise InvalidSchema(f"{where}: its scheme {proxy.scheme!r} is none of {known}; nothing was sent")
        return Tunnel(self, proxy) if origin.scheme == "https" else None

    def _resolve_all(self, way: Tunnel | Socks | None) -> list[Address]:
        """The addresses to connect to. Who resolves for a SOCKS proxy tells it the address."""
        origin, proxy = self.origin, self.origin.proxy
        if origin.path is not None:
            return []
        if proxy is None:
            return self._resolve(origin.host, origin.port)
        if isinstance(way, Socks) and way.resolves_here:
            way.target = self._choose(self._resolve(origin.host, origin.port), only_ipv4=way.is_version_4)
        self.is_proxys_turn = True
        return self._resolve(proxy.host, proxy.port)

    def _resolve(self, host: str, port: int) -> list[Address]:
        question = self.with_descriptor(partial(self._answered, host, port), "dns")
        if question.error is not None or not question.addresses:
            raise self.failure(
                f"the name cannot be resolved: {question.error or 'no address'}; "
                "check its spelling and the system's resolver",
                "dns",
            ) from question.error
        return question.addresses

    def _answered(self, host: str, port: int) -> Lookup:
        """Raises OSError if it could not be answered for want of a file descriptor."""
        question = lookup(*self.network.redirected(host, port), self.network.resolver)
        if not question.done:
            question.listen(self.wake)
            try:
                with self.lock:
                    self.wait_until(lambda: question.done, "dns")
            finally:
                question.ignore(self.wake)
        lack = shortage(question.error)
        if lack is not None:
            raise lack
        return question

    def _choose(self, addresses: list[Address], *, only_ipv4: bool) -> tuple[str, int]:
        """The first address that is allowed: a proxy is asked for one, and there is no race between connections that
        somebody else makes."""
        possible = [where for family, where in addresses if family == socket.AF_INET or not only_ipv4]
        if not possible:
            raise ProxyError(
                f"{self.origin.where}: there is no IPv4 address, and SOCKS 4 knows no other; use socks5 or socks4a",
                phase="dns",
            )
        for where in possible:
            if self.network.allows(where[0]):
                return where[:2]
        raise self.failure(none_allowed([where[0] for where in possible]), "connect")

    def _connect(self, addresses: list[Address]) -> Attempt:
        if self.origin.path is not None:
            return connect_unix(self, self.network, self.origin.path)
        return Race(self, self.network, addresses).run()

    def _pass(self, proxy: Proxy, way: Tunnel | Socks | None, attempt: Attempt) -> bytes:
        """From a connection to the proxy to one that leads to the origin; returns what the origin has said already."""
        context = _context(proxy.scheme, proxy.context)
        try:
            if context is not None:
                self._secure_proxy(proxy, context, attempt)
            if way is None:
                return b""
            conversation = Conversation(attempt)
            way.open(conversation)
            return conversation.left
        except RequestException:
            raise
        except OSError as error:
            raise self.failure(f"it ended the connection: {error}; its log may say why", "proxy") from error

    def _secure_proxy(self, proxy: Proxy, context: ssl.SSLContext, attempt: Attempt) -> None:
        attempt.sock.getpeername()  # see `_transport`
        try:
            self._shake_hands(attempt, context, proxy.host)
        except RequestException:
            raise
        except (OSError, ValueError) as error:
            raise self.failure(
                f"the TLS handshake failed: {error}; does it speak TLS, and is its certificate's authority trusted?",
                "tls",
            ) from error

    def _transport(self, attempt: Attempt, context: ssl.SSLContext | None, early: bytes) -> Transport:
        try:
            # The server may have left already: asked here, because an SSLSocket that finds out is not closed (before
            # 3.13).
            attempt.sock.getpeername()
            if context is not None:
                self._secure(attempt, context, early)
            transport = self._wrapped(attempt.sock)
        except RequestException:
            raise
        except OSError as error:
            raise self.failure(f"the server ended the connection as soon as it was made: {error}", "connect") from error
        if self.origin.path is not None:
            transport.peer = (self.origin.path, 0)
        return transport

    def _wrapped(self, sock: socket.socket) -> Transport:
        if isinstance(sock, ssl.SSLSocket | MemoryTLS):
            return TLSTransport(self.worker, sock, self.origin.where, self._watermarks, self._budget)
        return Transport(self.worker, sock, self.origin.where, self._watermarks, self._budget)

    def _secure(self, attempt: Attempt, context: ssl.SSLContext, early: bytes) -> None:
        try:
            self._shake_hands(attempt, context, self.origin.host, early)
        except RequestException:
            raise
        except (OSError, ValueError) as error:
            raise SSLError(
                f"{self.origin.where}: the TLS handshake failed: {error}; "
                "verify= takes a file of certificate authorities to trust",
                phase="tls",
            ) from error
        if self.origin.fingerprint is not None:
            self._check_fingerprint(attempt.sock, sha256_fingerprint(self.origin.fingerprint))

    def _shake_hands(self, attempt: Attempt, context: ssl.SSLContext, host: str, early: bytes = b"") -> None:
        """TLS over what there is, which may be TLS. Raises OSError or ValueError."""
        name = server_name(host)
        secure: ssl.SSLSocket | MemoryTLS
        if isinstance(attempt.sock, ssl.SSLSocket):
            secure = NestedTLS(attempt.sock, context, name, early)
        elif self._ends_each_way and not self.is_proxys_turn:
            guard(self.lock)
            secure = SocketTLS(attempt.sock, context, name)
        else:
            secure = wrap(context, attempt.sock, name, self.lock)
        attempt.use(secure)
        attempt.perform(secure.do_handshake, READ, "tls")

    def _check_fingerprint(self, sock: socket.socket, expected: str) -> None:
        assert isinstance(sock, ssl.SSLSocket | MemoryTLS)
        certificate = sock.getpeercert(binary_form=True)
        assert isinstance(certificate, bytes)  # a client never shakes hands with a server that shows none
        import hashlib  # late: few programs need them
        import hmac

        shown = hashlib.sha256(certificate).hexdigest()
        if not hmac.compare_digest(shown, expected):
            raise SSLError(
                f"{self.origin.where}: the server's certificate has the fingerprint {shown}, expected was {expected}; "
                "has it been renewed, or is this another server?",
                phase="tls",
            )


def _context(scheme: str, context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """For TLS to who is reached by `scheme`; never none for "https": what was to be secret is not sent in the open."""
    if scheme != "https":
        return None
    return client_context(True) if context is None else context

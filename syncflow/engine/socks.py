"""A connection through a SOCKS proxy: versions 4, 4A and 5 (RFC 1928), with user name and password (RFC 1929).

Knows what is asked and answered, and that nothing behind an answer may be taken. The bytes themselves are written and
read by the package `socksio`, which is optional. Knows nothing of how they travel.
"""

from __future__ import annotations

import socket
import types
from typing import Any

from ..exceptions import ConnectionError, InvalidProxyURL, InvalidSchema, ProxyError
from .conversation import Conversation
from .origin import Origin, Proxy
from .setting_up import SettingUp

__all__ = ["Socks"]

# RFC 1928, section 5, and RFC 1929, section 2: a length is one byte.
LONGEST = 255

# RFC 1928, section 5: types of address, and the bytes of those whose length does not vary.
DOMAIN_NAME = 3
ADDRESS_LENGTHS = {1: 4, 4: 16}


class Socks:
    """What is said to the SOCKS proxy of an origin.

    Raises:
        InvalidSchema: the package that is needed is not there.
        InvalidProxyURL, ProxyError: credentials or target cannot be said in this version.
    """

    def __init__(self, owner: SettingUp, proxy: Proxy) -> None:
        # Never changes.
        self._owner = owner
        self._library: Any = _library(owner.origin, proxy)
        # What an environment variable held is said byte for byte, whatever its encoding.
        self._username = proxy.username.encode("utf-8", "surrogateescape")
        self._password = proxy.password.encode("utf-8", "surrogateescape")
        self.is_version_4 = proxy.scheme in ("socks4", "socks4a")
        # Who finds the address of the target: this side, or the proxy.
        self.resolves_here = proxy.scheme in ("socks4", "socks5")
        # The dialing thread's: what to ask for. Where this side is to find the address, it is set when it has.
        self.target = (owner.origin.host.partition("%")[0], owner.origin.port)
        self._check(f"{owner.origin.where}: proxy {proxy.where}")

    def _check(self, where: str) -> None:
        if self.is_version_4 and b"\0" in self._username:
            raise InvalidProxyURL(f"{where}: the user name has a NUL in it, which ends it in SOCKS 4; nothing was sent")
        if max(len(self._username), len(self._password)) > LONGEST:
            raise InvalidProxyURL(
                f"{where}: the user name or the password is longer than {LONGEST} bytes (RFC 1929); nothing was sent"
            )
        host = self.target[0]
        if not self.resolves_here and (len(host) > LONGEST or not host.isascii() or "\0" in host):
            raise ProxyError(f"{where}: SOCKS has no way to write the name {host!r}; nothing was sent", phase="proxy")

    def open(self, conversation: Conversation) -> None:
        """Caller. Ask for a connection to `target`, and wait for the answer.

        Raises:
            ProxyError: the proxy refused, or what it said is no answer.
            OSError: the connection to it failed.
        """
        try:
            if self.is_version_4:
                self._open_4(conversation)
            else:
                self._open_5(conversation)
        except self._library.SOCKSError as error:
            raise self._not_socks(str(error)) from error

    def _open_4(self, conversation: Conversation) -> None:
        socksio = self._library
        command = socksio.SOCKS4Command.CONNECT
        host, port = self.target
        if _is_ipv4(host):
            request = socksio.SOCKS4Request.from_address(command, (host, port), self._username)
        else:
            # Not `from_address`: that writes an IPv6 address in its binary form, where a name is expected.
            request = socksio.SOCKS4ARequest(command, port, host.encode("ascii"), self._username)
        connection = socksio.SOCKS4Connection(self._username)
        connection.send(request)
        conversation.say(connection.data_to_send())
        reply = connection.receive_data(self._hear(conversation, 8))
        if reply.reply_code is not socksio.SOCKS4ReplyCode.REQUEST_GRANTED:
            raise self._refused(reply.reply_code.name)

    def _open_5(self, conversation: Conversation) -> None:
        socksio = self._library
        connection = socksio.SOCKS5Connection()
        self._authenticate(conversation, connection)
        connection.send(socksio.SOCKS5CommandRequest.from_address(socksio.SOCKS5Command.CONNECT, self.target))
        conversation.say(connection.data_to_send())
        connection.receive_data(self._hear_reply_5(conversation))

    def _hear_reply_5(self, conversation: Conversation) -> bytes:
        """A reply that grants, as `socksio` reads it: it takes the length of a name for the name's first letter."""
        reply = self._hear(conversation, 4)
        version, code, _, kind = reply
        if version != 5:
            raise self._not_socks(f"it begins with {reply!r}")
        if code != 0:
            # Its address is not waited for: it says nothing, and some proxies close before they have sent it.
            raise self._refused(_name_of(self._library.SOCKS5ReplyCode, code))
        if kind == DOMAIN_NAME:
            length = self._hear(conversation, 1)[0]
        elif kind in ADDRESS_LENGTHS:
            length = ADDRESS_LENGTHS[kind]
        else:
            raise self._not_socks(f"there is no address of type {kind}")
        return reply + self._hear(conversation, length + 2)

    def _authenticate(self, conversation: Conversation, connection: Any) -> None:
        ways = self._library.SOCKS5AuthMethod
        offered = [ways.NO_AUTH_REQUIRED]
        if self._username or self._password:
            offered.append(ways.USERNAME_PASSWORD)
        connection.send(self._library.SOCKS5AuthMethodsRequest(offered))
        conversation.say(connection.data_to_send())
        answer = self._hear(conversation, 2)
        if answer[0] != 5:
            raise self._not_socks(f"it begins with {answer!r}")
        chosen = connection.receive_data(answer).method
        if chosen not in offered:
            advice = (
                "it accepts neither a user name and password nor a client without"
                if len(offered) > 1
                else "it wants credentials, as in socks5://user:password@host:port"
            )
            raise self._owner.failure(f"it does not let this client in: {advice}", "proxy")
        if chosen is ways.USERNAME_PASSWORD:
            connection.send(self._library.SOCKS5UsernamePasswordRequest(self._username, self._password))
            conversation.say(connection.data_to_send())
            if not connection.receive_data(self._hear(conversation, 2)).success:
                raise self._owner.failure("it does not accept this user name with this password; check both", "proxy")

    def _hear(self, conversation: Conversation, count: int) -> bytes:
        heard = conversation.hear_exactly(count)
        if len(heard) < count:
            raise self._owner.failure(
                f"it ended the connection {len(heard)} bytes into an answer of {count}; is it a SOCKS proxy, "
                "and of this version?",
                "proxy",
            )
        return heard

    def _refused(self, code: str) -> ConnectionError:
        reason = code.lower().replace("_", " ")
        return self._owner.failure(f"it refused the connection: {reason}; its log may say why", "proxy")

    def _not_socks(self, fault: str) -> ConnectionError:
        return self._owner.failure(
            f"its answer is not SOCKS ({fault}); is it a SOCKS proxy, and of this version?", "proxy"
        )


def _library(origin: Origin, proxy: Proxy) -> types.ModuleType:
    try:
        import socksio
    except ImportError as error:
        raise InvalidSchema(
            f"{origin.where}: proxy {proxy.where}: {proxy.scheme} needs the package socksio: "
            "pip install syncflow[socks]; nothing was sent"
        ) from error
    return socksio


def _is_ipv4(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return False
    return True


def _name_of(codes: Any, number: int) -> str:
    try:
        return str(codes(bytes([number])).name)
    except ValueError:
        return f"code {number}"

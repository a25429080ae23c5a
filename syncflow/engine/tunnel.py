"""A tunnel through an HTTP proxy: CONNECT and its answer (RFC 9110, section 9.3.6).

Knows the request, which answers open the tunnel, and what to do about the others. Knows no socket.
"""

from __future__ import annotations

from typing import TypeGuard

from ..exceptions import InvalidHeader
from ..http1 import Event, Head, IncompleteMessage, InvalidRequest, MalformedMessage, ResponseParser, request_head
from .conversation import Conversation
from .origin import Proxy, authority
from .setting_up import SettingUp

__all__ = ["Tunnel"]

# The longest answer that is asked of the socket at once: one with its fields is rarely longer.
ANSWER_SIZE = 8192

# Characters of the proxy's own words that a message shows.
REASON_SHOWN = 100

CREDENTIALS_MISSING = "it wants credentials, as in http://user:password@host:port"
CREDENTIALS_REFUSED = "it does not accept these credentials; check user name, password and the scheme it asks for"
ADVICE = {
    403: "it does not allow this target or this port",
    405: "it does not allow CONNECT; is it a proxy?",
    502: "it could not connect to the target",
    503: "it could not connect to the target, or is overloaded",
    504: "it could not connect to the target in time",
}


class Tunnel:
    """What is said to the HTTP proxy of an origin.

    Raises:
        InvalidHeader: what is to be said could be read in two ways.
    """

    def __init__(self, owner: SettingUp, proxy: Proxy) -> None:
        # Never changes.
        self._owner = owner
        self._has_credentials = proxy.authorization is not None
        origin = owner.origin
        # Without the zone of an address, which means something on this machine only (RFC 4007, section 6).
        target = authority(origin.host.partition("%")[0], origin.port)
        fields = [("Host", target)]
        if proxy.authorization is not None:
            fields.append(("Proxy-Authorization", proxy.authorization))
        try:
            self._request = request_head("CONNECT", target, fields)
        except InvalidRequest as error:
            raise InvalidHeader(f"{origin.where}: proxy {proxy.where}: CONNECT: {error}; nothing was sent") from error

    def open(self, conversation: Conversation) -> None:
        """Caller. Send CONNECT and wait for the answer; what comes behind it is the origin's.

        Raises:
            ProxyError: the proxy refused, or what it said is no answer.
            OSError: the connection to it failed.
        """
        conversation.say(self._request)
        try:
            head = _answer(conversation)
        except IncompleteMessage as error:
            raise self._owner.failure(f"no answer to CONNECT: {error}; its log may say why", "proxy") from error
        except MalformedMessage as error:
            what = f"its answer to CONNECT is not HTTP ({error}); is it an HTTP proxy?"
            raise self._owner.failure(what, "proxy") from error
        if not 200 <= head.status < 300:
            said = f"{head.status} {head.reason[:REASON_SHOWN]}".rstrip()
            raise self._owner.failure(f"it refused the tunnel: {said}; {self._advice(head.status)}", "proxy")

    def _advice(self, status: int) -> str:
        if status == 407 or (status == 401 and self._has_credentials):  # tinyproxy's answer to wrong ones
            return CREDENTIALS_REFUSED if self._has_credentials else CREDENTIALS_MISSING
        return ADVICE.get(status, "its log may say why")


def _answer(conversation: Conversation) -> Head:
    """The final answer's head. Not one byte more is taken: a 2xx has no body (RFC 9112, section 6.3, rule 2)."""
    parser = ResponseParser()
    parser.start("CONNECT")
    while True:
        heard = conversation.hear(ANSWER_SIZE)
        if not heard:
            parser.end_of_input()
        try:
            events = parser.feed(heard)
        except MalformedMessage as error:
            if not any(map(_is_final, error.events)):
                raise
            events = error.events  # a refusal, with whatever was wrong in its body
        conversation.take(len(heard) - len(parser.leftover))
        final = next(filter(_is_final, events), None)
        if final is not None:
            return final


def _is_final(event: Event) -> TypeGuard[Head]:
    return isinstance(event, Head) and (event.status == 101 or event.status >= 200)

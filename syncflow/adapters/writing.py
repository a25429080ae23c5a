"""A prepared request as it goes out: its head, what the head announces, and both head and body onto an exchange.

Knows what may be sent, and to whom of proxy and server. Knows nothing of connections, nor of when a request is sent
again.
"""

from __future__ import annotations

from typing import NamedTuple

from ..bodies import BodyWriter, BytesBody
from ..engine.exchange import Exchange
from ..engine.origin import authority
from ..engine.sending import Piece
from ..exceptions import BodyLengthError, InvalidHeader
from ..http1 import BodyFraming, ChunkedFraming, InvalidRequest, LengthFraming, NoBody, request_head
from ..models import PreparedRequest
from ..routes import Route

__all__ = [
    "CONTINUE_PATIENCE",
    "WrittenHead",
    "check_length",
    "expects_continue",
    "framing_of",
    "send_request",
    "serialize",
]

# How long a body waits for 100 (Continue): curl waits as long. RFC 9110, section 10.1.1, says not to wait for ever.
CONTINUE_PATIENCE = 1.0

# A body up to this size goes with the head, in one system call.
SMALL_BODY = 16384


def send_request(exchange: Exchange, request: PreparedRequest, head: bytes) -> bool:
    """Send head and body, or as much of them as the server lets pass before it answers. Whether the body was begun, so
    that what can be had only once is not all there any more."""
    content = request.content
    if content is None:
        exchange.start(head, [], has_body=False, last=True)
        return False
    waits = expects_continue(request)
    framing = framing_of(request)
    if (
        type(content) is BytesBody
        and content.length <= SMALL_BODY
        and type(framing) is not ChunkedFraming
        and not waits
    ):
        body: list[Piece] = [(memoryview(content.content), content.length)]
        exchange.start(head, body, has_body=True, last=True)
        return True
    if not exchange.start(head, [], has_body=True, last=framing.remaining == 0):
        return False
    if waits:
        exchange.wait_for_continue(CONTINUE_PATIENCE)
        if exchange.answered:
            return False
    writer = BodyWriter(exchange, framing)
    if content.send(writer):
        writer.finish(getattr(content, "trailers", ()))
    return True


class WrittenHead(NamedTuple):
    """A head as it goes out, and what it says."""

    content: bytes
    announces_body: bool
    asks_to_close: bool
    asks_to_switch: bool  # to another protocol: a server that does so unasked is at fault (RFC 9110, section 7.8)


def serialize(request: PreparedRequest, route: Route) -> WrittenHead:
    """Write the head. Raises InvalidHeader: nothing was sent.

    What is for the proxy goes to the proxy only (CVE-2023-32681): into a request that is forwarded by it; through a
    tunnel it is no business of the server's.
    """
    target = request.target
    fields = [pair for pair in request.headers.pairs() if pair[0].lower() != "proxy-authorization"]
    name, asked = target.authority, target.path
    if request.method == "CONNECT":
        # RFC 9112, section 3.2.3: the port is always there. Without the zone of an address, as in `Host`.
        name = asked = authority(target.host.partition("%")[0], target.port)
        _check_no_body(request)
    elif route.is_forwarded:
        asked = f"{target.scheme}://{target.authority}{target.path}"
    if "host" not in request.headers:
        fields.insert(0, ("Host", name))
    if route.is_forwarded and route.origin.proxy is not None and route.origin.proxy.authorization:
        fields.append(("Proxy-Authorization", route.origin.proxy.authorization))
    try:
        content = request_head(request.method, asked, fields)
        framed = "Content-Length" in request.headers or "Transfer-Encoding" in request.headers
        asks_to_switch = "Upgrade" in request.headers or request.method == "CONNECT"
        return WrittenHead(content, framed, asks_to_close(request), asks_to_switch)
    except InvalidRequest as error:
        raise InvalidHeader(f"{target.authority}: {error}; nothing was sent", request=request) from error


def _check_no_body(request: PreparedRequest) -> None:
    """What follows CONNECT's head is the tunnel's (RFC 9110, section 9.3.6). Raises InvalidHeader."""
    if "Transfer-Encoding" in request.headers or request.headers.get("Content-Length", "0") != "0":
        raise InvalidHeader(
            f"{request.target.authority}: CONNECT has no body; nothing was sent; write into response.upgraded",
            request=request,
        )


def check_length(request: PreparedRequest) -> None:
    """Raises BodyLengthError if the body, of which the length is known, is not what the head has announced: something
    has changed one of them since they were prepared. A server would take what is too much for another request, and what
    follows for what is missing (request smuggling, CWE-444)."""
    content, declared = request.content, request.headers.get("Content-Length")
    if content is None or declared is not None:
        length = 0 if content is None else content.length
        fits = length is None or length == int(declared or 0)
        fits = fits and (content is not None or "Transfer-Encoding" not in request.headers)
    else:
        fits = content.length == 0 or "Transfer-Encoding" in request.headers
    if not fits:
        raise BodyLengthError(
            f"{request.target.authority}: the headers announce another body than there is; nothing was sent; if the "
            "body was changed, call prepare_content_length() after it",
            request=request,
        )


def framing_of(request: PreparedRequest) -> BodyFraming:
    """What the head has announced."""
    length = request.headers.get("Content-Length")
    if length is not None:
        return LengthFraming(int(length))
    return ChunkedFraming() if "Transfer-Encoding" in request.headers else NoBody()


def expects_continue(request: PreparedRequest) -> bool:
    """Whether the user asked for the server's word before the body (RFC 9110, section 10.1.1)."""
    return request.headers.get("Expect", "").lower() == "100-continue"


def asks_to_close(request: PreparedRequest) -> bool:
    """Whether it is the last one on its connection, whatever the server says (RFC 9112, section 9.6)."""
    options = request.headers.get("Connection", "")
    return options != "keep-alive" and "close" in [option.strip().lower() for option in options.split(",")]

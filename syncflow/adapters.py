"""How a prepared request is sent: a connection, the head, the body, the answer; and when it may be sent again.

Knows the order of these steps and what an interruption of each means. Knows nothing of what persists across requests
(sessions) nor of how bytes travel (the engine).
"""

from __future__ import annotations

from .bodies import BodyWriter, BytesBody
from .engine.deadline import Deadline
from .engine.dialer import Origin
from .engine.exchange import Exchange, StaleConnection
from .engine.pool import Pool
from .engine.sending import Piece
from .engine.tls import client_context
from .engine.worker import Worker, shared_worker
from .exceptions import InvalidHeader, RequestException
from .http1 import BodyFraming, ChunkedFraming, InvalidRequest, LengthFraming, NoBody, request_head
from .models import PreparedRequest, Response
from .settings import PoolLimits, Timeouts, Watermarks
from .urls import Target

__all__ = ["HTTPAdapter"]

# RFC 9110, section 9.2.2: sending these twice has the effect of sending them once.
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})

# How long a body waits for 100 (Continue): curl waits as long. RFC 9110, section 10.1.1, says not to wait for ever.
CONTINUE_PATIENCE = 1.0

# Serialized heads that an adapter remembers.
HEADS_KEPT = 256

# A body up to this size goes with the head, in one system call.
SMALL_BODY = 16384


class HTTPAdapter:
    """Sends requests over a pool of connections. Any thread may use it.

    Args:
        limits: of the pool.
        watermarks: of each connection's buffers.
        worker: the thread that watches the sockets; None is the one that all sessions share.
    """

    def __init__(self, limits: PoolLimits, watermarks: Watermarks, worker: Worker | None = None) -> None:
        self._pool = Pool(worker or shared_worker(), limits, watermarks)
        # Heads that were written before, by all that is in them. Any thread; the worst of a race is a head too many.
        self._heads: dict[tuple[object, ...], bytes] = {}
        # Whether the user has said that the session is over; never becomes False again.
        self._retired = False

    def send(self, request: PreparedRequest, timeouts: Timeouts, *, stream: bool, verify: bool | str) -> Response:
        """Send the request with its body and wait for the answer; for all of it unless `stream`."""
        deadline = Deadline(timeouts)
        head = self.head(request)
        while True:
            try:
                return self._send_once(request, head, deadline, stream=stream, verify=verify)
            except StaleConnection as error:
                # One of another request may come out of the body, which may be made of that one's answer.
                if error.request is not request or not _may_repeat(request):
                    raise
                if request.content is not None:
                    request.content.rewind()

    def _send_once(
        self, request: PreparedRequest, head: bytes, deadline: Deadline, *, stream: bool, verify: bool | str
    ) -> Response:
        exchange = self.exchange(request, deadline, verify)
        try:
            send_request(exchange, request, head)
            response = Response(request, exchange, exchange.wait_answered(whole=not stream))
        except BaseException as error:
            exchange.abandon(error)
            if isinstance(error, RequestException):
                error.request = error.request or request
                if error.request is request and exchange.head is not None and error.response is None:
                    error.response = Response(request, exchange, exchange.head)
            raise
        if not stream:
            response.fetch()
        return response

    def exchange(self, request: PreparedRequest, deadline: Deadline, verify: bool | str) -> Exchange:
        """A connection for the request, on which nothing has been sent yet."""
        begun = deadline.clock()
        try:
            origin = origin_of(request.target, verify)
            while True:
                connection = self._pool.connection(origin, deadline)
                try:
                    pooled = deadline.clock() - begun
                    if connection.uses == 0:
                        setup = connection.setup
                        pooled = max(0.0, pooled - setup.dns - setup.connect - setup.tls)
                    exchange = Exchange(connection, request.method, deadline, pooled)
                    exchange.persists = not asks_to_close(request)
                    if connection.begin(exchange):
                        return exchange
                except BaseException:  # an interrupt: nobody would give it back
                    connection.close()
                    raise
        except RequestException as error:
            error.request = request
            raise

    def head(self, request: PreparedRequest) -> bytes:
        """The bytes of the request's head; what a session sends is mostly what it has sent before.

        Raises:
            InvalidHeader: it may not be sent.
        """
        key = (request.method, request.target, *request.headers.pairs())
        try:
            head = self._heads.get(key)
        except TypeError:  # something that cannot even be hashed stands where a str should
            return serialize(request)
        if head is None:
            head = serialize(request)
            if len(self._heads) >= HEADS_KEPT:
                self._heads.clear()
            self._heads[key] = head
        return head

    def close(self) -> None:
        """Any thread. End everything at once; whoever waits gets `SessionClosed`."""
        self._retired = True
        self._pool.close()

    def retire(self) -> None:
        """Any thread. Begin nothing new; what is under way goes on to its end."""
        self._retired = True
        self._pool.retire()

    def retire_from_finalizer(self) -> bool:
        """Any thread, at any moment. As `retire`; whether anything was open that should have been closed."""
        was_open = self._pool.has_connections and not self._retired
        self._pool.retire_from_finalizer()
        return was_open


def send_request(exchange: Exchange, request: PreparedRequest, head: bytes) -> None:
    """Send head and body, or as much of them as the server lets pass before it answers."""
    content = request.content
    if content is None:
        exchange.start(head, [], has_body=False, last=True)
        return
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
        return
    if not exchange.start(head, [], has_body=True, last=framing.remaining == 0):
        return
    if waits:
        exchange.wait_for_continue(CONTINUE_PATIENCE)
        if exchange.answered:
            return  # a generator is not even begun
    writer = BodyWriter(exchange, framing)
    if content.send(writer):
        writer.finish()


def serialize(request: PreparedRequest) -> bytes:
    """The head's bytes. Raises InvalidHeader: nothing was sent."""
    target = request.target
    fields = request.headers.pairs()
    if "host" not in request.headers:
        fields.insert(0, ("Host", target.authority))
    try:
        return request_head(request.method, target.path, fields)
    except InvalidRequest as error:
        raise InvalidHeader(f"{target.authority}: {error}; nothing was sent", request=request) from error


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


def origin_of(target: Target, verify: bool | str) -> Origin:
    """Whom to connect to, and what will make the connection trustworthy."""
    context = client_context(verify) if target.scheme == "https" else None
    return Origin(target.scheme, target.host, target.port, context)


def _may_repeat(request: PreparedRequest) -> bool:
    return request.method in IDEMPOTENT and (request.content is None or request.content.can_rewind)

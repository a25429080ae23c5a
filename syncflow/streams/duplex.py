"""Duplex: a connection without a protocol, as a file that is read and written.

Knows what a program sees of such a stream: blocking and non-blocking writes, reads, the end of each direction, and
where one comes from: `connect`, or a response that has switched protocols. How bytes travel is `ByteStream`'s business.
"""

from __future__ import annotations

import io
import ssl
import warnings
from typing import TYPE_CHECKING, Any

from ..engine.bytestream import ByteStream
from ..engine.deadline import Deadline
from ..engine.dialer import Dial
from ..engine.exchange import Exchange
from ..engine.origin import Origin, authority
from ..engine.tls import client_context
from ..engine.worker import Worker, shared_worker
from ..exceptions import Cancelled, WriteTimeout
from ..settings import Timeouts, TimeoutTypes, Watermarks
from ..urls import parse_url

if TYPE_CHECKING:
    from ..responses import Response

__all__ = ["Duplex", "connect", "taken_over"]

# What a name or an address has not: see `urls.parse_url`, which would take it for another part of a URL.
NOT_IN_HOSTS = frozenset("/?#@[]")


class Duplex(io.RawIOBase):
    """A stream of bytes in both directions; made by `connect`, or by `Response.upgraded`.

    Each direction has a bounded buffer and an end of its own. A reader and a writer, each in a thread of its own, never
    block one another; any thread may do either, one at a time: a second one waits for the first, and what one `write`
    was given stays together. It works below `io.BufferedReader`, `io.BufferedWriter` and `io.BufferedRWPair`.

    A context manager: leaving the block closes it, an exception in the block aborts it. What fails it, or interrupts
    one of its calls (a limit, the peer, another thread, Ctrl-C), ends it for good: every later call raises the same.
    """

    mode = "rb+"

    def __init__(self, stream: ByteStream) -> None:
        # Never changes.
        self._stream = stream
        # Written by whoever closes it, or is refused.
        self._is_closed = False
        self._wrapper_is_dropped = False
        self._refused = 0  # the size of the last piece for which `try_write` had no room; `wait_writable` waits for it

    def __repr__(self) -> str:
        state = "closed " if self.closed else ""
        return f"<{state}Duplex {self._stream.where}>"

    # ---------------------------------------------------------------- writing

    def write(self, data: Any) -> int:
        """Send or queue all of `data`; waits while the outgoing buffer is over its high watermark, until it is under
        the low one.

        Returns:
            The number of bytes, always all of them.

        Raises:
            WriteTimeout, TotalTimeout: by the limits.
            ConnectionError: the connection was lost.
            Cancelled, SessionClosed: by another thread.
            ValueError: it is closed, or `shutdown_write` was called.
            RuntimeError: by a signal's handler that has interrupted another write.
        """
        view = memoryview(data).cast("B")
        self._check_open()
        if len(view):
            self._stream.write(view)
        return len(view)

    def try_write(self, data: Any) -> bool:
        """As `write`, but never waits: False, and nothing taken, while the buffer has no room for `data` or another
        thread writes; then `wait_writable` waits for that room.

        Raises:
            ValueError: more than the high watermark's bytes at once, which would never fit.
            As `write`.
        """
        view = memoryview(data).cast("B")
        most = self._stream.high_watermark
        if len(view) > most:
            raise ValueError(
                f"try_write takes at most {most} bytes at once (Watermarks.high), not {len(view)}; write() takes any "
                "number"
            )
        self._check_open()
        is_taken = self._stream.try_write(view)
        self._refused = 0 if is_taken else len(view)
        return is_taken

    def wait_writable(self, timeout: float | None = None) -> bool:
        """Wait until the buffer is under its low watermark and has room for what `try_write` refused last, or until
        there is a reason to stop waiting, which the next write raises; False when `timeout` seconds ran out first."""
        self._check_open()
        return self._stream.wait_writable(self._refused, timeout)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was written is handed to the system.

        Raises:
            WriteTimeout: after `timeout` seconds, or by the limits. The stream can go on after the former.
            As `write`.
        """
        if self._is_closed or self._wrapper_is_dropped:
            return  # `io` flushes what it closes
        if not self._stream.flush(timeout):
            raise WriteTimeout(
                f"{self._stream.where}: {self.buffered} bytes were not handed to the system after {timeout:g} s; the "
                "stream can go on",
                phase="send",
                bytes_sent=self._stream.transport.payload_sent,
                bytes_received=self._stream.bytes_received,
            )

    def shutdown_write(self) -> None:
        """Flush, and then tell the peer that this was all; reading goes on. Nothing happens the second time.

        On a plain connection by FIN, over TLS by close_notify (RFC 8446, section 6.1), which not all peers take for an
        end that leaves their own direction open.

        Raises:
            io.UnsupportedOperation: `Response.upgraded` over https, where OpenSSL's own socket is in use, which ends
                both directions or none.
            As `write`.
        """
        self._check_open()
        if not self._stream.transport.ends_each_way:
            raise io.UnsupportedOperation(
                f"{self._stream.where}: a response's TLS connection cannot end one direction only; close() ends both, "
                "and streams.connect(tls=True) makes one that can"
            )
        self._stream.shut_down_writing()

    def writable(self) -> bool:
        """True: this is a file to write to."""
        return True

    @property
    def buffered(self) -> int:
        """Bytes that were written and wait to be sent."""
        return self._stream.buffered

    # ---------------------------------------------------------------- reading

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, at most `size` of them and at least one, as soon as there are any; b"" at the end. Without
        `size` all of them up to the end: what came before an error is lost then.

        Raises:
            ReadTimeout: the peer sent nothing for `Timeouts.read` seconds, while this call waited.
            TotalTimeout: `Timeouts.total` counts from `connect`, or from the beginning of the request.
            ConnectionError: the connection was lost; over TLS, also if it ended without close_notify. What was
                received before has been handed out.
            Cancelled, SessionClosed: by another thread.
            ValueError: it is closed.
            RuntimeError: by a signal's handler that has interrupted another read.
        """
        self._check_open()
        if size is None or size < 0:
            return self._stream.read_all()
        return self._stream.read(size) if size else b""

    def readall(self) -> bytes:
        """As `read` without a size."""
        return self.read()

    def readinto(self, buffer: Any) -> int:
        """As `read`, into a buffer; the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        piece = self.read(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def readable(self) -> bool:
        """True: this is a file to read from."""
        return True

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port that the connection goes to."""
        return self._stream.peer

    # ---------------------------------------------------------------- the end

    def close(self) -> None:
        """Any thread. Hand to the system what was written, then end both directions. A read that waits in another
        thread raises `Cancelled`, and so does a write, for which this does not wait.

        What the peer has sent and nobody has read makes the system end the connection by a reset, which may cost the
        peer what it has not read: where that matters, call `shutdown_write` and read to the end before.

        Raises:
            WriteTimeout, TotalTimeout, ConnectionError: something that was written could not be sent, and no other call
                has said so. It is closed all the same.
        """
        if self._is_closed:
            return
        try:
            if not self._wrapper_is_dropped:
                self._stream.close()
        except BaseException:  # an interrupt, before the stream knew: nobody comes back to it
            self.abort()
            raise
        finally:
            self._is_closed = True
            super().close()

    def abort(self) -> None:
        """Any thread. End both directions at once; what waits to be sent is dropped, and the peer sees a reset. Reads
        and writes that wait in other threads raise `Cancelled`."""
        self._stream.fail(Cancelled(f"{self._stream.where}: the stream was aborted"))

    def __enter__(self) -> Duplex:
        self._check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        if kind is not None:
            self.abort()
            self._is_closed = True
        self.close()
        super().close()

    def _check_open(self) -> None:
        if self._is_closed or self._wrapper_is_dropped:
            raise ValueError(f"{self._stream.where}: I/O operation on a closed stream")

    def _dealloc_warn(self, source: Any) -> None:
        """What `io.BufferedWriter` and its like call when they close themselves in their finalizer. What they hold is
        lost then: a finalizer must not wait for a peer."""
        self._wrapper_is_dropped = True
        self._warn(source)

    def __del__(self) -> None:
        if hasattr(self, "_stream") and not self._is_closed:
            self._warn(self)

    def _warn(self, source: Any) -> None:
        """In a finalizer."""
        if not self._stream.is_over:
            self._stream.fail_from_finalizer()
            warnings.warn(f"{self!r} was dropped before it was closed", ResourceWarning, 3, source=source)


def connect(
    host: str,
    port: int,
    *,
    tls: bool | ssl.SSLContext = False,
    timeout: TimeoutTypes = Timeouts(),  # noqa: B008  # frozen
    watermarks: Watermarks = Watermarks(),  # noqa: B008  # frozen
    worker: Worker | None = None,
) -> Duplex:
    """Connect to a server that speaks anything but HTTP.

    Args:
        host: name or address; of all its addresses the fastest is taken (RFC 8305).
        port: from 1 to 65535.
        tls: True encrypts, and verifies certificate and name by certifi's authorities; or a context, for others. The
            name is sent (SNI), and no protocol is announced (ALPN), except by a context that does.
        timeout: `Timeouts`, in seconds, or what else `Session.request` takes. `read` is the longest silence while a
            read waits, `total` counts from here to the end of the stream.
        watermarks: of the two buffers, in bytes.
        worker: the thread that watches the connection; None is the one that all sessions share.

    Raises:
        TypeError, ValueError: of an argument; nothing was sent.
        InvalidURL: `host` is no name and no address (a ValueError too).
        ConnectTimeout, TotalTimeout: by the limits.
        ConnectionError: the name has no address, or none takes the connection.
        SSLError: the handshake failed, or the certificate is not trusted.
    """
    timeouts = Timeouts.of(timeout)
    context = _context(tls)
    origin = Origin("http" if context is None else "https", _host(host, port), port, context)
    if not isinstance(watermarks, Watermarks):
        raise TypeError(f"watermarks= takes Watermarks, not {watermarks!r}")
    deadline = Deadline(timeouts)
    transport, _ = Dial(worker or shared_worker(), origin, deadline, watermarks, ends_each_way=True).run()
    try:
        stream = ByteStream(transport, watermarks, deadline)
        transport.attach(stream)
        stream.start()
        return Duplex(stream)
    except BaseException:  # an interrupt: nobody would close it
        transport.close()
        raise


def _host(host: str, port: int) -> str:
    """The name as it is resolved: in lower case, IDNA-encoded."""
    if not isinstance(host, str):
        raise TypeError(f"host is a name or an address, not {host!r}")
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port is a number, not {port!r}")
    if not 0 < port < 65536:
        raise ValueError(f"port is a number from 1 to 65535, not {port}")
    if not NOT_IN_HOSTS.isdisjoint(host):
        raise ValueError(f"{host!r} is no name and no address (of IPv6, one without brackets)")
    return parse_url(f"http://{authority(host, port)}/").host


def _context(tls: object) -> ssl.SSLContext | None:
    if tls is False:
        return None
    if tls is True:
        return client_context(True, None, ())
    if not isinstance(tls, ssl.SSLContext):
        raise TypeError(f"tls= is True, False or an ssl.SSLContext, not {tls!r}")
    if tls.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ValueError("tls= takes a client's context, not a server's; ssl.create_default_context() makes one")
    return tls


def taken_over(response: Response) -> Duplex:
    """The connection of a response that has switched protocols; once. See `Response.upgraded`."""
    status, request, exchange = response.status_code, response.request, response._exchange
    tunnels = request is not None and request.method == "CONNECT" and 200 <= status < 300
    if status != 101 and not tunnels:
        raise ValueError(f"{exchange.where}: the server did not switch protocols: {status} {response.reason}".rstrip())
    if not isinstance(exchange, Exchange):
        raise ValueError(f"{exchange.where}: its connection is none of ours, or is gone")
    stream = exchange.take_over()
    try:
        with stream.transport.receiving:  # two threads that ask at once get one Duplex: a second one, dropped, ends all
            if response._upgraded is None:
                response._upgraded = Duplex(stream)
            return response._upgraded
    except BaseException:  # an interrupt: nobody would close it
        stream.fail(Cancelled(f"{exchange.where}: interrupted while the connection was taken over"))
        raise

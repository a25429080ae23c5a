"""What every server of this package shares: a listener, a thread for each connection, and a complete end.

Knows accepting, TLS handshakes, stopping and what is done with errors in threads. Knows no HTTP. `stop()`
leaves no thread and no socket behind; leaving the `with` block also raises the first error that occurred in
one of the threads.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
import threading
import time
import traceback
from types import TracebackType
from typing import Self

HANDSHAKE_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0
WAIT_TIMEOUT = 10.0


class Stopped(Exception):
    """The server ends while one of its threads waits. Ends that thread, and is told to nobody."""


class Connection:
    """An accepted socket, and the several ways to end it.

    One thread uses it; `interrupt()` alone may come from another, and `_lock` keeps that from a descriptor
    which is closed, and perhaps used again, in between.
    """

    def __init__(self, sock: socket.socket, index: int) -> None:
        self.sock = sock
        self.index = index
        self.closed = False
        self._lock = threading.Lock()  # guards `sock` being replaced or closed, and `closed`

    def secure(self, context: ssl.SSLContext) -> None:
        with self._lock:
            try:
                self.sock = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
            except OSError as error:  # it was reset
                _close_unfinished(error)
                raise
        self.sock.settimeout(HANDSHAKE_TIMEOUT)
        assert isinstance(self.sock, ssl.SSLSocket)
        self.sock.do_handshake()
        self.sock.settimeout(None)

    def half_close(self, *, close_notify: bool = True) -> None:
        """Ends what this side sends; what the client sends can still be read.

        Without `close_notify` a TLS client sees a truncation.
        """
        if close_notify:
            self._notify_close()
        # The plain method: that of SSLSocket drops the TLS state, and reads would see ciphertext. ENOTCONN: the
        # client has gone already.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def close(self, *, close_notify: bool = True) -> None:
        """Closes: a FIN, or (the kernel's choice) a reset if the client sent something that was not read."""
        with self._lock:
            if not self.closed:
                self.closed = True
                if close_notify:
                    self._notify_close()
                self.sock.close()

    def reset(self) -> None:
        """Closes with a RST."""
        with self._lock:
            if not self.closed:
                self.closed = True
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.sock.close()

    def interrupt(self) -> None:
        """Any thread. Wakes whoever waits in this socket: reads see the end, writes a broken pipe."""
        with self._lock:
            if not self.closed:
                # ENOTCONN: the client has gone, and the waiter knows it already.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def _notify_close(self) -> None:
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.settimeout(0.0)
            # The alert is sent first; then unwrap() wants the client's alert, which is not waited for. A
            # client that has gone, or a handshake that never ended, makes it fail earlier, and then there is
            # nobody to notify.
            with contextlib.suppress(OSError, ValueError):
                self.sock.unwrap()


def _close_unfinished(error: OSError) -> None:
    """Close the socket that `wrap_socket` was making when it failed: Python before 3.13 leaves it open, and its
    traceback alone knows it."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        made = frame.f_locals.get("self")
        if isinstance(made, ssl.SSLSocket):
            made.close()


class Server:
    """Binds 127.0.0.1 on a free port, or `bind_to`; each accepted connection runs `serve()` in a thread of its own."""

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        backlog: int = 1024,
        receive_buffer: int | None = None,
        bind_to: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.stopping = threading.Event()
        self._ssl_context = ssl_context
        self._backlog = backlog
        self._receive_buffer = receive_buffer
        self._bind_to = bind_to
        self._address: tuple[str, int] | None = None
        self._listener: socket.socket | None = None
        self._waker: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        # Guards what stands below, and is notified when some of it changes.
        self._changed = threading.Condition()
        self._accepted = 0
        self._errors: list[Exception] = []
        self._serving: dict[threading.Thread, Connection] = {}
        self._served: list[threading.Thread] = []  # done with their connection, and to be joined

    def serve(self, connection: Connection) -> None:
        """Serves one connection, in its own thread; it is closed when this returns or raises."""
        raise TypeError(f"{type(self).__name__} does not say how to serve a connection")

    @property
    def address(self) -> tuple[str, int]:
        if self._address is None:
            raise RuntimeError(f"{type(self).__name__} has an address inside its with block")
        return self._address

    @property
    def port(self) -> int:
        return self.address[1]

    @property
    def url(self) -> str:
        """Without a slash at the end: `server.url + "/path"`."""
        return f"{'https' if self._ssl_context else 'http'}://{self.address[0]}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        with self._changed:
            return self._accepted

    @property
    def open_connections(self) -> int:
        with self._changed:
            return len(self._serving)

    def wait_for_connections(self, count: int, timeout: float = WAIT_TIMEOUT) -> None:
        with self._changed:
            enough = self._changed.wait_for(lambda: self._accepted >= count, timeout)
            assert enough, f"{self._accepted} of {count} connections came within {timeout:g} s"

    def wait_until_idle(self, timeout: float = WAIT_TIMEOUT) -> None:
        """Waits until every connection accepted so far has been served to its end."""
        with self._changed:
            idle = self._changed.wait_for(lambda: not self._serving, timeout)
            assert idle, f"{len(self._serving)} connections are still served after {timeout:g} s"

    def __enter__(self) -> Self:
        self._start_listening()
        return self

    def bind(self, listener: socket.socket) -> None:
        """Gives it its address, before it listens."""
        listener.bind(self._bind_to)

    def _start_listening(self) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if self._receive_buffer is not None:
            # On the listener: what is set after accept() comes too late for the window in the handshake.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            self.bind(listener)
        except OSError:
            listener.close()
            raise
        listener.listen(self._backlog)
        listener.setblocking(False)
        self._address = listener.getsockname()
        self._listener = listener
        self._waker, woken = socket.socketpair()
        selector = selectors.DefaultSelector()
        selector.register(listener, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        self._acceptor = threading.Thread(
            target=self._accept,
            args=(listener, woken, selector),
            name=f"{type(self).__name__}-accept",
            daemon=True,
        )
        self._acceptor.start()

    def _stop_listening(self, deadline: float) -> None:
        """Any thread, any number of times. Connections that are open go on."""
        with self._changed:
            waker, self._waker = self._waker, None
            self._changed.notify_all()
        if waker is not None:
            waker.close()
        self._join(self._acceptor, deadline)
        if self._listener is not None:
            self._listener.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except AssertionError as stuck:
            self._errors.append(stuck)
        if not self._errors:
            return
        if error is None:
            first, *others = self._errors
            for other in others:
                first.add_note(f"Another error in a thread of {type(self).__name__}: {other!r}")
            raise first
        for own in self._errors:
            error.add_note(f"An error in a thread of {type(self).__name__}: {own!r}")

    def stop(self) -> None:
        """Refuses new connections, ends the open ones at once, waits for every thread.

        Any thread, any number of times.
        """
        deadline = time.monotonic() + STOP_TIMEOUT
        self.stopping.set()
        self._stop_listening(deadline)
        with self._changed:
            serving = dict(self._serving)
            served = list(self._served)
        for connection in serving.values():
            connection.interrupt()
        for thread in [*served, *serving]:
            self._join(thread, deadline)

    def _join(self, thread: threading.Thread | None, deadline: float) -> None:
        if thread is None or thread is threading.current_thread():
            return
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), f"{thread.name} has not ended {STOP_TIMEOUT:g} s after it was asked to"

    def _accept(self, listener: socket.socket, woken: socket.socket, selector: selectors.BaseSelector) -> None:
        with woken, selector:
            is_over = False
            while not is_over:
                # The waker is closed when there is to be no more listening. Who has come before is served.
                is_over = any(key.fileobj is woken for key, _ in selector.select())
                try:
                    while True:
                        sock = listener.accept()[0]
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        self._start(sock)
                except (BlockingIOError, ConnectionError):
                    continue  # nobody is there, or the client has left again
                except OSError as error:  # out of descriptors: accepting again would fail again
                    self._record(error)
                    return

    def _start(self, sock: socket.socket) -> None:
        """One connection more."""
        sock.setblocking(True)
        with self._changed:
            connection = Connection(sock, self._accepted)
            name = f"{type(self).__name__}-{self._accepted}"
            thread = threading.Thread(target=self._run, args=(connection,), name=name, daemon=True)
            self._accepted += 1
            self._serving[thread] = connection
            served, self._served = self._served, []
            self._changed.notify_all()
        thread.start()
        for ended in served:
            ended.join()

    def _run(self, connection: Connection) -> None:
        try:
            if self._secured(connection):
                self.serve(connection)
        except (Stopped, EOFError, ConnectionError, ssl.SSLError):
            return  # The client has gone, or the server stops. What a client does, its own test judges.
        except Exception as error:
            self._record(error)
        finally:
            self._end(connection)

    def _secured(self, connection: Connection) -> bool:
        if self._ssl_context is not None:
            try:
                connection.secure(self._ssl_context)
            except OSError:
                return False  # A client that does not trust us, or has left: its own test says so.
        return True

    def _record(self, error: Exception) -> None:
        """Keeps an error for the end of the `with` block."""
        with self._changed:
            self._errors.append(error)
            self._changed.notify_all()

    def _end(self, connection: Connection) -> None:
        connection.close()
        thread = threading.current_thread()
        with self._changed:
            del self._serving[thread]
            self._served.append(thread)
            self._changed.notify_all()

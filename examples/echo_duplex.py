"""Speak with a server that is no HTTP server: a stream of bytes in each direction, and each has an end of its own."""

from __future__ import annotations

import socket
import threading

from syncflow.streams import connect


def echo(listener: socket.socket) -> None:
    """Send everything back; when the client has ended, say goodbye."""
    with listener.accept()[0] as client:
        while data := client.recv(65536):
            client.sendall(data)
        client.sendall(b"goodbye")


with socket.create_server(("127.0.0.1", 0)) as listener:
    serving = threading.Thread(target=echo, args=(listener,))
    serving.start()
    with connect(*listener.getsockname(), timeout=10) as stream:

        def write() -> None:
            for number in range(20_000):
                stream.write(b"line %d\n" % number)  # waits while the server, or our own reader, is slower
            stream.shutdown_write()

        writing = threading.Thread(target=write)
        writing.start()
        *lines, goodbye = stream.read().split(b"\n")
        writing.join()
    serving.join()

print(f"{len(lines)} lines came back, the last one {lines[-1].decode()!r}, and then {goodbye.decode()!r}")

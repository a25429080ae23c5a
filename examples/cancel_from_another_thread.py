"""A thread that waits for a server which never answers, and another that calls it back."""

from __future__ import annotations

import threading

import syncflow
from syncflow.testing import never_answers

with never_answers() as server:
    session = syncflow.Session(timeout=None)

    def wait() -> None:
        try:
            session.get(server.url)
        except syncflow.SessionClosed as closed:
            print("called back:", closed)

    waiting = threading.Thread(target=wait)
    waiting.start()
    server.wait_for_connections(1)
    session.close()
    waiting.join()

"""Ctrl-C at any moment: thousands of times between any two byte codes, in a process of its own.

Whatever it strikes, the call ends with it, and nothing is lost: the locks, the places in the pool, the sockets.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from syncflow.testing import AppServer, Request, Response

from .conftest import Wire
from .test_exit import BOUNDED, program

pytestmark = pytest.mark.long

ROUNDS = 120

PROGRAM = """
import _thread, random, time

sys.setswitchinterval(1e-5)
timeout = syncflow.Timeouts(connect=20, read=20, write=20, pool=20)

def new_session():
    session = syncflow.Session(timeout=timeout, pool=syncflow.PoolLimits(per_host=2))
    session.verify = ca or True
    return session

session = new_session()
stop = threading.Event()
struck = answered = 0

# A strike costs the connection, so every round begins with a new one; on a machine that is busy with something else
# that takes longer than usual, and some calls are to get through.
begun = time.monotonic()
for _ in range(10):
    {statement}
    session.close()
    session = new_session()
longest = max({pause}, 2 * (time.monotonic() - begun) / 10)

def interrupt():
    pause = threading.Event()
    while not stop.is_set():
        pause.wait(random.random() * longest)
        _thread.interrupt_main()

def strike(number, frame):
    # Once a round: what cleans up after the first Ctrl-C is not promised to survive a second.
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

armed = False
signal.signal(signal.SIGINT, strike)
thread = threading.Thread(target=interrupt)
thread.start()
for _ in range({rounds}):
    try:
        armed = True
        for _ in range(20):
            {statement}
            answered += 1
        armed = False
    except KeyboardInterrupt:
        struck += 1
armed = False
stop.set()
thread.join()
assert struck and answered, (struck, answered)
for _ in range(20):
    assert session.get(url).content == b"ok"
ledger = session._adapter._pool._ledger
until(lambda: ledger.open == len(ledger.connections) == len(ledger._idle))
session.close()
until(lambda: ledger.open == 0)
print("whole", flush=True)
"""

# The statement, and the longest pause between two signals, in seconds: about as long as one call takes.
STATEMENTS = {
    "get": ("assert session.get(url).content == b'ok'", 0.002),
    "stream": ("assert b''.join(session.get(url + '/large', stream=True).iter_content(5000)) == bytes(100_000)", 0.004),
    "events": ("assert len(list(session.sse(url + '/events', max_reconnects=0))) == 50", 0.004),
    "bytes": ("assert session.put(url, data=bytes(400_000)).content == b'ok'", 0.006),
    "generator": ("assert session.put(url, data=(bytes(9_000) for _ in range(40))).content == b'ok'", 0.006),
    "fresh": ("assert session.get(url, headers={'Connection': 'close'}).content == b'ok'", 0.004),
}


def answer(request: Request) -> Response:
    if request.path == "/events":
        return Response(200, {"Content-Type": "text/event-stream"}, b"data: x\n\n" * 50)
    return Response(200, [], bytes(100_000) if request.path == "/large" else b"ok")


@pytest.mark.parametrize("what", STATEMENTS)
def test_nothing_is_lost_whatever_it_strikes(what: str, wire: Wire, ca_file: Path) -> None:
    statement, pause = STATEMENTS[what]
    with AppServer(answer, ssl_context=wire.server) as server:
        command = program(PROGRAM.format(statement=statement, pause=pause, rounds=ROUNDS), server.url, str(ca_file))
        # A dropped response warns, which is not what is asked here.
        command[command.index("error")] = "ignore::ResourceWarning"
        ended = subprocess.run(command, capture_output=True, text=True, timeout=BOUNDED)  # noqa: PLW1510  # asserted below
    assert (ended.returncode, ended.stdout) == (0, "whole\n"), ended.stderr

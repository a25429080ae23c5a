"""The end of the program, and Ctrl-C: in processes of their own, with every warning an error."""

from __future__ import annotations

import re
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from syncflow.testing import Peer, ScriptedServer, full_backlog, reply, reply_head

from .conftest import Wire

# How long a process may take to end; an interpreter with -X dev on a busy machine takes a second to start.
BOUNDED = 60.0

# What each program begins with: a session, and a way to know that a thread is blocked without waiting for some time.
PRELUDE = """
import signal, sys, threading, time
import syncflow
url, ca = sys.argv[1], sys.argv[2]
session = syncflow.Session(pool=syncflow.PoolLimits(per_host=1), timeout=None)
session.verify = ca or True

def transports():
    return [c.transport for c in list(session._adapter._pool._ledger.connections)]

def reads():
    return any(t._in_wait or t.arrived._waiters for t in transports())

def writes():
    return any(t.left._waiters for t in transports())

def queues():
    return any(host.waiting for host in list(session._adapter._pool._ledger._hosts.values()))

def dials():
    return any(dial.cond._waiters for dial in list(session._adapter._pool._dials))

def until(blocked):
    pause = threading.Event()
    while not blocked():
        pause.wait(0.002)

def tell(blocked):
    # In a thread of its own: the main thread is about to be blocked.
    def watch():
        until(blocked)
        print("blocked", flush=True)
    threading.Thread(target=watch, daemon=True).start()
"""


def program(text: str, url: str, ca: str = "") -> list[str]:
    return [sys.executable, "-X", "dev", "-W", "error", "-c", PRELUDE + text, url, ca]


def serve(peer: Peer) -> None:
    """Streams begin and do not end, uploads are not read, the rest is answered."""
    while True:
        try:
            request = peer.read_request(body=False)
        except AssertionError:
            return  # the client has gone, as programs do that end
        if request.path == "/stream":
            peer.send(reply_head(200, {"Content-Length": "10"}) + b"x")
            peer.stall()
        elif request.method == "PUT" or request.path == "/silence":
            peer.stall()
        else:
            peer.send(reply(200, b"ok"))


# ---------------------------------------------------------------------- the end

PROGRAMS = {
    "nothing begun": "",
    "idle": "session.get(url)",
    "stream": "response = session.get(url + '/stream', stream=True)",
    "upload": "upload = session.upload('PUT', url); upload.write(b'x')",
    "reader": """
response = session.get(url + '/stream', stream=True)
threading.Thread(target=lambda: response.content, daemon=True).start()
until(reads)
""",
    "waiter": """
threading.Thread(target=lambda: session.get(url + '/silence'), daemon=True).start()
until(reads)
""",
    "writer": """
upload = session.upload('PUT', url)
threading.Thread(target=lambda: upload.write(bytes(24 << 20)), daemon=True).start()
until(writes)
""",
    "all of them": """
others = [syncflow.Session(timeout=None) for _ in range(2)]
for other in others:
    other.verify = session.verify
response = session.get(url + '/stream', stream=True)
upload = others[0].upload('PUT', url)
threading.Thread(target=lambda: response.content, daemon=True).start()
threading.Thread(target=lambda: upload.write(bytes(24 << 20)), daemon=True).start()
threading.Thread(target=lambda: session.get(url), daemon=True).start()
until(lambda: reads() and queues())
""",
    "closed": """
response = session.get(url + '/stream', stream=True)
response.close()
session.close()
""",
}

# What -W error makes of a warning in a finalizer: it cannot be raised, so it is shown.
SHOWN = re.compile(
    r"Exception ignored (in|while calling)[^\n]*\n(Traceback[^\n]*\n(  [^\n]*\n)*)?"
    r"ResourceWarning: [^\n]* was dropped [^\n]*\n"
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_interpreter_ends_at_once(name: str, wire: Wire, ca_file: Path) -> None:
    with ScriptedServer(serve, ssl_context=wire.server, receive_buffer=4096) as server:
        ended = subprocess.run(  # noqa: PLW1510  # the exit code is asserted below
            program(PROGRAMS[name], server.url, str(ca_file)), capture_output=True, text=True, timeout=BOUNDED
        )
        # Whatever was open, the kernel has closed.
        server.release()
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    rest = SHOWN.sub("", ended.stderr)
    assert rest == "", "something else than the warnings that something was left open"
    if name in ("nothing begun", "idle", "closed"):
        assert ended.stderr == ""


# How a program comes to its end with a session that has been used, and its exit code.
ENDS = {
    "by falling off": ("session.get(url)", 0),
    "by falling off, watched by the worker": (
        "session.get(url); until(lambda: all(t.is_watched for t in transports()))",
        0,
    ),
    "by sys.exit in its block": ("with session:\n    session.get(url)\n    sys.exit(3)", 3),
    "by an exception in its block": ("with session:\n    session.get(url)\n    raise ValueError('of the program')", 1),
    "after a drain": ("session.get(url); assert session.drain()", 0),
    "while a thread waits": (
        """
threading.Thread(target=lambda: session.get(url + '/silence'), daemon=True).start()
until(reads)
other = syncflow.Session()
other.verify = session.verify
other.get(url)
""",
        0,
    ),
}

TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(  [^\n]*\n)*ValueError: of the program\n")


@pytest.mark.parametrize("end", ENDS)
def test_what_is_idle_is_closed_properly(end: str, wire: Wire, ca_file: Path) -> None:
    """Over TLS with its own word for the end (RFC 9112, section 9.8), without which a server has to assume that it was
    cut. And there is nothing on stderr but what the program itself has to say."""
    text, code = ENDS[end]
    farewells: list[str] = []

    def script(peer: Peer) -> None:
        if isinstance(peer._connection.sock, ssl.SSLSocket):
            peer._connection.sock.suppress_ragged_eofs = False
        for request in peer.requests():
            if request.path == "/silence":
                peer.stall()
                return
            peer.send(reply(200, b"ok"))
        farewells.append("as it should")  # else `requests` has raised

    with ScriptedServer(script, ssl_context=wire.server) as server:
        ended = subprocess.run(  # noqa: PLW1510  # the exit code is asserted below
            program(text, server.url, str(ca_file)), capture_output=True, text=True, timeout=BOUNDED
        )
        server.release()
    assert farewells == ["as it should"]
    assert ended.returncode == code, ended.stderr
    rest = TRACEBACK.sub("", ended.stderr) if code == 1 else ended.stderr
    assert SHOWN.sub("", rest) == ""
    if end != "while a thread waits":
        assert rest == ""


# What a thread that is no daemon is doing when the main thread has come to its end.
GO_ON = {
    "get": "print(session.get(url + '/later').text)",
    "stream": "print(b''.join(session.get(url + '/later', stream=True).iter_content(1)).decode())",
    "upload": """
upload = session.upload('POST', url + '/later')
upload.write(b'x')
at_the_end.wait(10)
upload.write(bytes(8 << 20))
print(upload.finish().text)
""",
    "first of all": "at_the_end.wait(10); print(session.get(url + '/later').text)",
}

ANOTHER_THREAD = """
at_the_end = threading.Event()
def work():
    {work}
threading.Thread(target=work).start()
{until}
print("the main thread ends", flush=True)
at_the_end.set()
"""


# Python 3.12 starts no thread once the main thread has ended (python/cpython#104690), so the worker has to be there.
IS_312 = sys.version_info[:2] == (3, 12)


@pytest.mark.parametrize("work", [work for work in GO_ON if not (IS_312 and work == "first of all")])
def test_the_interpreter_waits_for_a_thread_that_is_no_daemon(work: str, wire: Wire, ca_file: Path) -> None:
    """And that one can do all it has to."""

    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(reply_head(200, {"Content-Length": "4"}) + b"wh")
            peer.wait_step()
            peer.send(b"ol")

    text = ANOTHER_THREAD.format(
        work=GO_ON[work].strip().replace("\n", "\n    "),
        until={
            "get": "until(lambda: any(t.bytes_received for t in transports()))",
            "stream": "until(lambda: any(t.bytes_received for t in transports()))",
            "upload": "until(lambda: any(t.bytes_sent for t in transports()))",
        }.get(work, ""),
    )
    with ScriptedServer(script, ssl_context=wire.server) as server:
        command = program(text, server.url, str(ca_file))
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "the main thread ends\n"
                server.step()
                output, errors = process.communicate(timeout=BOUNDED)
            finally:
                process.kill()
    assert output == "whol\n"
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("order", ["before", "after"])
def test_what_is_registered_with_atexit_may_still_send(order: str, wire: Wire, ca_file: Path) -> None:
    """Whether it runs before syncflow's own or after it."""
    text = "import atexit, sys\nif sys.argv[3] == 'before': atexit.register(lambda: last())\n" + PRELUDE
    text += "def last():\n    print(session.get(url).text)\n    session.close()\n"
    text += "if sys.argv[3] == 'after': atexit.register(last)\nsession.get(url)\n"
    with ScriptedServer(serve, ssl_context=wire.server) as server:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", text, server.url, str(ca_file), order]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=BOUNDED)  # noqa: PLW1510
        server.release()
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ok\n", "")


# ---------------------------------------------------------------------- Ctrl-C

WAITS = {
    "head": ("reads", "session.get(url + '/silence')"),
    "body": ("reads", "session.get(url + '/stream')"),
    "stream": ("reads", "session.get(url + '/stream', stream=True).content"),
    "write": ("writes", "session.upload('PUT', url).write(bytes(24 << 20))"),
    "generator": ("writes", "session.put(url, data=(bytes(1 << 20) for _ in range(24)))"),
    "bytes": ("writes", "session.put(url, data=bytes(24 << 20))"),
    "pool": ("queues", "held = session.get(url + '/stream', stream=True); session.get(url)"),
}

INTERRUPTED = """
signal.signal(signal.SIGINT, signal.default_int_handler)
tell({blocked})
try:
    {statement}
except KeyboardInterrupt:
    print("interrupted", flush=True)
pool = session._adapter._pool
if {blocked!r} == "queues":
    assert not queues()
    held.close()
until(lambda: pool._ledger.open == 0)
assert not pool._ledger.connecting
assert session.get(url).content == b"ok"
session.close()
"""


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_ends_a_wait_in_the_main_thread(wait: str, wire: Wire, ca_file: Path) -> None:
    """And the connection is not used again, and the session is as good as before."""
    blocked, statement = WAITS[wait]
    text = INTERRUPTED.format(blocked=blocked, statement=statement)
    with ScriptedServer(serve, ssl_context=wire.server, receive_buffer=4096) as server:
        _interrupt(program(text, server.url, str(ca_file)))
        assert server.connections == 2
        server.release()


DIALING = """
signal.signal(signal.SIGINT, signal.default_int_handler)
{prepare}
tell(dials)
try:
    session.get(url)
except KeyboardInterrupt:
    print("interrupted", flush=True)
pool = session._adapter._pool
until(lambda: pool._ledger.open == 0 and not pool._dials)
session.close()
{afterwards}
"""

STUCK = """
import socket
released = threading.Event()
socket.getaddrinfo = lambda *args, **kwargs: released.wait(60) and []
url = "http://name.example"
"""


@pytest.mark.parametrize("wait", ["connect", "handshake", "resolver"])
def test_ctrl_c_ends_the_setting_up(wait: str) -> None:
    if wait == "resolver":
        _interrupt(program(DIALING.format(prepare=STUCK, afterwards="released.set()"), "-"))
    elif wait == "handshake":
        with ScriptedServer(lambda peer: peer.stall()) as server:
            _interrupt(program(DIALING.format(prepare="", afterwards=""), f"https://127.0.0.1:{server.port}"))
            server.release()
    else:
        with full_backlog() as hanging:
            _interrupt(program(DIALING.format(prepare="", afterwards=""), hanging.url))


def _interrupt(command: list[str]) -> None:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            if told != "blocked\n":
                pytest.fail(f"{told!r}: {process.communicate(timeout=BOUNDED)[1]}")
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=BOUNDED)
        finally:
            process.kill()
    assert output == "interrupted\n"
    assert (process.returncode, errors) == (0, "")

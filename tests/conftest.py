"""What every test gets: a check that it leaves no thread and no descriptor behind; certificates, and sessions that
trust them.

Knows pytest, hypothesis and trustme, and how an example is started. Knows of syncflow how a session is made and closed,
and the names of its threads: a worker that serves the whole process outlives the test that started it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trustme

from syncflow import Session
from syncflow.testing import eventually

# Closing goes through the worker, so it may come after the call that asked for it.
LEAK_TIMEOUT = 2.0
# These belong to the process, not to the test in which they started.
LASTING_THREADS = ("syncflow-worker", "syncflow-resolver", "pytest_timeout")

# Seconds that the interpreter lets a thread run before another may: next to nothing, and not 5 ms, which puts a switch
# between any two lines.
FRANTIC = 1e-6

hypothesis.settings.register_profile("syncflow", deadline=None, print_blob=True)
hypothesis.settings.load_profile("syncflow")


def pytest_collection_finish() -> None:
    """What was imported and collected stays: `gc.collect`, of which a run makes thousands, need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fails a test that leaves threads, internet sockets or open files behind."""
    threads = set(threading.enumerate())
    descriptors = _descriptors()
    yield
    deadline = time.monotonic() + LEAK_TIMEOUT
    pause = threading.Event()
    pauses = 0
    while left := _left_behind(threads, descriptors):
        if pauses >= 5:  # before that it is mostly a server's thread, about to end
            gc.collect()
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(left), pytrace=False)
        pause.wait(0.002)
        pauses += 1


def _left_behind(threads: set[threading.Thread], descriptors: dict[str, str]) -> list[str]:
    started = [t.name for t in threading.enumerate() if t not in threads and t.is_alive()]
    left = [f"thread {name}" for name in started if not name.startswith(LASTING_THREADS)]
    return left + [what for key, what in _descriptors().items() if key not in descriptors]


def _descriptors() -> dict[str, str]:
    """Open internet sockets and files, by an identity that no reuse of a number can fake (Linux only).

    Pipes, selectors and socket pairs are left out: the worker has some to be woken by, and keeps them.
    """
    found: dict[str, str] = {}
    if not sys.platform.startswith("linux"):
        return found
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
            if target.startswith("socket:"):
                if (what := _internet_socket(int(number))) is not None:
                    found[target] = f"socket {number} {what}"
            elif target.startswith("/") and not target.startswith("/dev/"):
                found[f"{number} {target}"] = f"file {number} {target}"
        except OSError:
            continue  # closed since it was listed; the listing itself was one of them
    return found


def _internet_socket(number: int) -> str | None:
    with socket.socket(fileno=os.dup(number)) as sock:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        local = sock.getsockname()
        try:
            return f"{local} to {sock.getpeername()}"
        except OSError:
            return f"{local}"


@pytest.fixture(params=[None, pytest.param(FRANTIC, marks=pytest.mark.long)], ids=["usual", "frantic"])
def switching(request: pytest.FixtureRequest) -> Iterator[None]:
    """Asked for by tests that run a second time with frantic switching of threads."""
    with _switching(request.param or sys.getswitchinterval()):
        yield


@pytest.fixture
def frantic() -> Iterator[None]:
    """Asked for by races, which want nothing else."""
    with _switching(FRANTIC):
        yield


@contextlib.contextmanager
def _switching(interval: float) -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its certificate in PEM, for `verify=`."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="session")
def server_certificate(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("localhost", "127.0.0.1", "::1")


@pytest.fixture(scope="session")
def server_tls(server_certificate: trustme.LeafCert) -> ssl.SSLContext:
    """A server's context for localhost, 127.0.0.1 and ::1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_certificate.configure_cert(context)
    return context


@pytest.fixture(scope="session")
def server_tls_files(
    server_certificate: trustme.LeafCert, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The same as files in PEM: certificate chain and key."""
    folder = tmp_path_factory.mktemp("server")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in server_certificate.cert_chain_pems))
    server_certificate.private_key_pem.write_to_path(str(key))
    return certificate, key


@pytest.fixture(scope="session")
def client_tls(ca: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts `ca` and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    return context


@pytest.fixture
def new_session(ca_file: Path) -> Iterator[Callable[..., Session]]:
    """Makes sessions. Once they are closed nothing is open, waits, or is buffered, whatever the test has done."""
    made: list[Session] = []

    def make(**settings: Any) -> Session:
        settings.setdefault("timeout", 10)
        session = Session(**settings)
        session.verify = str(ca_file)
        session.trust_env = False
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()
        eventually(lambda session=session: _is_still(session), message=f"{session.stats()}")  # type: ignore[misc]


def _is_still(session: Session) -> bool:
    stats = session.stats()
    return not (stats.open or stats.connecting or stats.waiting or stats.bytes_buffered)


# As a terminal starts it: where the tests run in the background SIGINT may be ignored, and then in every child too.
RUN = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def start_example() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts an example as a process that Ctrl-C interrupts, with pipes for what it prints, line by line or less."""
    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: str) -> subprocess.Popen[str]:
            path = Path(__file__).parent.parent / "examples" / name
            process = subprocess.Popen(
                [sys.executable, "-u", "-W", "error", "-c", RUN, str(path), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1"},
                start_new_session=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture(scope="session")
def require() -> Callable[[str], None]:
    """`require(program)`, for those who know only as they run what they need."""
    return _require


@pytest.fixture(scope="session")
def nginx_required() -> None:
    _require("nginx")


@pytest.fixture(scope="session")
def tinyproxy_required() -> None:
    _require("tinyproxy")


@pytest.fixture(scope="session")
def curl_required() -> None:
    _require("curl")


@pytest.fixture(scope="session")
def chromium_required() -> None:
    _require("chromium")


@pytest.fixture(scope="session")
def ip_required() -> None:
    _require("ip")


def _require(program: str) -> None:
    """Skips where a program is missing, unless this is CI: there everything must have run."""
    if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin") is None:
        if os.environ.get("SYNCFLOW_CI") == "1":
            pytest.fail(f"{program} is not installed, and SYNCFLOW_CI asks for it")
        pytest.skip(f"{program} is not installed")

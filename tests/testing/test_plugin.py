"""The pytest plugin, as a user's run of pytest has it: each fixture, under xdist too, and after tests that fail."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]

EACH = """
import threading
import pytest
import syncflow
from syncflow.testing import Link

def test_slow(slow_server):
    slow_server.delay = 0.01
    assert syncflow.get(slow_server.url).content == slow_server.body

def test_flaky(flaky_server):
    assert [syncflow.get(flaky_server.url).status_code for _ in range(3)] == [503, 503, 200]
    assert flaky_server.requests == 3

def test_recording(recording_server):
    recording_server.respond(json={"id": 7})
    assert syncflow.post(recording_server.url + "/things", json=[1]).json() == {"id": 7}
    assert recording_server.requests[0].json() == [1]

@pytest.mark.parametrize("kind", ["server", "url", "address"])
def test_fault_proxy(fault_proxy, recording_server, kind):
    target = {"server": recording_server, "url": recording_server.url, "address": recording_server.address}[kind]
    healthy, cutting = fault_proxy(target), fault_proxy(target, down=Link(cut_after=0))
    assert syncflow.get(healthy.url).status_code == 200
    with pytest.raises(syncflow.ConnectionError):
        syncflow.get(cutting.url)

def test_fault_proxy_wants_a_host(fault_proxy):
    with pytest.raises(ValueError, match="no URL with a host"):
        fault_proxy("/path")

@pytest.mark.parametrize("number", range(4))
def test_mock(syncflow_mock, number):
    syncflow_mock.get("https://api.example/", json=number)
    assert syncflow.get("https://api.example/").json() == number
"""

FAILING = """
import socket
import threading
import pytest
import syncflow
from syncflow.adapters import HTTPAdapter

usual = HTTPAdapter.route
left = []

def ask(url):
    try:
        syncflow.get(url, timeout=None)
    except syncflow.RequestException:
        pass

def test_1_fails(slow_server, flaky_server, recording_server, fault_proxy, syncflow_mock, request):
    left.extend(server.address for server in (slow_server, flaky_server, recording_server))
    left.append(fault_proxy(slow_server).address)
    assert HTTPAdapter.route is not usual
    raise RuntimeError("as tests do")

def test_2_fails_while_it_is_answered(slow_server):
    slow_server.delay = 3600
    threading.Thread(target=ask, args=[slow_server.url], name="asking").start()
    slow_server.wait_for_connections(1)
    left.append(slow_server.address)
    raise RuntimeError("as tests do")

def test_3_finds_nothing_left_behind():
    assert len(left) == 5
    for address in left:
        with pytest.raises(ConnectionRefusedError), socket.create_connection(address):
            pass
    assert HTTPAdapter.route is usual
    for thread in threading.enumerate():
        if thread.name == "asking":
            thread.join(10)
    assert {thread.name for thread in threading.enumerate()} <= {"MainThread", "syncflow-worker"}
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs pytest in a process of its own on a file with this text, and returns how it ended.

    `plugin` is loaded, and of those that are installed none but pytest's own, because ours may be among them or not,
    by what the tests run on. None loads all that are installed.
    """

    def run(text: str, *arguments: str, plugin: str | None = "syncflow.testing.plugin") -> str:
        (tmp_path / "test_user.py").write_text(text)
        environment = os.environ | {"PYTHONUTF8": "1", "NO_COLOR": "1", "NO_PROXY": "127.0.0.1"}
        environment.pop("PYTEST_ADDOPTS", None)
        ours = ["-p", plugin] if plugin else []
        if plugin:
            environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *ours, *arguments]
        done = subprocess.run(
            [*command, "test_user.py"],
            cwd=tmp_path,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=55,
        )
        assert not done.stderr, done.stderr
        match = re.search(r"^(\d+ (?:passed|failed|error).*) in [\d.]+s", done.stdout, re.MULTILINE)
        assert match, done.stdout
        return match[1] if "error" not in match[1] and "failed" not in match[1] else f"{match[1]}\n{done.stdout}"

    return run


def test_each_fixture(run: Run) -> None:
    assert run(EACH) == "11 passed"


def test_under_xdist(run: Run) -> None:
    assert run(EACH, "-p", "xdist", "-n", "2") == "11 passed"


def test_nothing_is_left_of_a_test_that_fails(run: Run) -> None:
    outcome = run(FAILING)
    assert outcome.splitlines()[0] == "2 failed, 1 passed", outcome


def test_an_error_in_a_server_is_one_of_the_test(run: Run) -> None:
    outcome = run(
        "import syncflow\n"
        "def test_it(recording_server):\n"
        "    recording_server.respond(text=lambda request, context: 1 / 0)\n"
        "    assert syncflow.get(recording_server.url).status_code == 500\n"
    )
    assert outcome.splitlines()[0] == "1 passed, 1 error"
    assert "ZeroDivisionError" in outcome


def test_nothing_of_it_is_imported_before_a_test_asks() -> None:
    program = (
        "import sys, syncflow, pytest; known = set(sys.modules); import syncflow.testing.plugin; "
        "print(sorted(name for name in set(sys.modules) - known))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['syncflow.testing', 'syncflow.testing.plugin']"


@pytest.fixture
def entry_point() -> importlib.metadata.EntryPoint:
    """What is installed tells of it; a source tree that is merely on the path does not."""
    found = [point for point in importlib.metadata.entry_points(group="pytest11") if point.name == "syncflow"]
    if not found:
        if os.environ.get("SYNCFLOW_CI") == "1":
            pytest.fail("syncflow is installed without its pytest plugin, and SYNCFLOW_CI asks for it")
        pytest.skip("syncflow is not installed, or was before it had a plugin")
    (point, *_) = found
    return point


def test_what_is_installed_has_it(entry_point: importlib.metadata.EntryPoint) -> None:
    assert entry_point.value == "syncflow.testing.plugin"
    assert set(entry_point.load().__all__) == {
        *("fault_proxy", "flaky_server", "recording_server", "slow_server", "syncflow_mock")
    }


@pytest.mark.parametrize("plugin", [None, "syncflow"])
def test_pytest_finds_it(entry_point: importlib.metadata.EntryPoint, run: Run, plugin: str | None) -> None:
    assert run(EACH, plugin=plugin) == "11 passed"

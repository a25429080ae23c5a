"""The command line in a process of its own, as a shell runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

# Long before the limit of a test, and long after any of these should have ended.
PATIENCE = 20.0

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `python -m syncflow ...`; what still runs at the end of the test is killed."""
    with ExitStack() as processes:

        def start(*arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [sys.executable, "-m", "syncflow", *arguments],
                stdin=streams.get("stdin", subprocess.DEVNULL),
                stdout=streams.get("stdout", subprocess.PIPE),
                stderr=streams.get("stderr", subprocess.PIPE),
                process_group=streams.get("process_group"),
                env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
            )
            processes.enter_context(process)
            processes.callback(process.kill)
            return process

        yield start


@pytest.fixture
def shell(start: Start) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs it to its end, with `input` on its standard input."""

    def shell(*arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        process = start(*arguments, stdin=subprocess.PIPE)
        out, err = process.communicate(input, timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return shell

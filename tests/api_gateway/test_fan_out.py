"""The gateway's threads: those that a forked child must not believe to have, and a number that all parts agree on."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

from syncflow import Session
from syncflow.testing import AppServer, json_response

from ..concurrency import forked
from .conftest import FOLDER, PATIENCE


def test_a_child_has_threads_of_its_own() -> None:
    spec = importlib.util.spec_from_file_location("fan_out", FOLDER / "fan_out.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fan_out = module.FanOut(3)
    with AppServer(lambda request: json_response(request.path)) as server, Session() as session:
        session.trust_env = False

        def ask() -> Any:
            return fan_out.get(session, {name: f"{server.url}/{name}" for name in "abc"}, PATIENCE)

        want = [{"a": "/a", "b": "/b", "c": "/c"}, {}]
        try:
            assert list(ask()) == want
            join = forked(ask)
            assert list(ask()) == want
            assert join() == want
        finally:
            fan_out._executor.shutdown()


def test_one_number_of_threads() -> None:
    """A server with more threads than its session has connections for would answer 503 under load."""
    program = (
        "import app, json, runpy; settings = runpy.run_path('gunicorn.conf.py');"
        "print(json.dumps([app.THREADS, settings['threads'], app.fan_out._threads]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=FOLDER,
        env={**os.environ, "GATEWAY_THREADS": "64", "PYTHONSAFEPATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        timeout=PATIENCE,
        check=True,
    ).stdout
    assert json.loads(said) == [64, 64, 192]

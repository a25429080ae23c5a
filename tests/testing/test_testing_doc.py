"""docs/testing.md: its tests pass as they stand there, under pytest with the plugin; its other code runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from syncflow.testing import plugin

DOCUMENT = (Path(__file__).parents[2] / "docs" / "testing.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def test_its_tests_pass_and_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    program, *others = BLOCKS
    assert program.startswith("# weather.py\n")
    (tmp_path / "weather.py").write_text(program, "utf-8")
    tests = [block for block in others if re.search(r"^def test_", block, re.MULTILINE)]
    for number, block in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(block, "utf-8")
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUTF8": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"),
            *("-p", "syncflow.testing.plugin", "--import-mode=prepend", str(tmp_path)),
        ],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=55,
    )
    count = len(re.findall(r"^def test_", "".join(tests), re.MULTILINE))
    assert re.search(rf"^{count} passed in", done.stdout, re.MULTILINE), done.stdout + done.stderr
    (script,) = [block for block in others if block not in tests]
    exec(compile(script, "docs/testing.md", "exec"), {})


def test_every_fixture_has_its_row_and_its_test() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE)
    assert sorted(rows) == sorted(plugin.__all__)
    used = re.findall(r"^def test_\w+\((.*)\):$", "".join(BLOCKS), re.MULTILINE)
    assert {name for names in used for name in names.split(", ")} == set(plugin.__all__)

"""What runs in one environment of tox only is named there: nothing that is marked is left out."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_tox_names_every_file_that_is_marked() -> None:
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"^(pytestmark = |    )pytest\.mark\.once\b", path.read_text("utf-8"), re.MULTILINE)
    }
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    (command,) = [line for line in tox["testenv:py313"]["commands"].splitlines() if "-m once" in line]
    named = [word for word in command.split() if word.startswith("tests")]
    assert marked
    for path in marked:
        assert any(path == name or path.startswith(f"{name}/") for name in named), path
    assert '-m "not once"' in tox["testenv"]["commands"]

"""The public names of syncflow.testing: each is where the package says, and comes when it is asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import syncflow.testing


def test_every_name_is_there() -> None:
    assert sorted(syncflow.testing.__all__) == syncflow.testing.__all__
    assert set(syncflow.testing.__all__) == set(syncflow.testing._HOMES)
    for name, home in syncflow.testing._HOMES.items():
        module = importlib.import_module(f"syncflow.testing.{home}")
        assert getattr(syncflow.testing, name) is getattr(module, name)
    assert set(syncflow.testing.__all__) <= set(dir(syncflow.testing))


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = syncflow.testing.nothing


def test_the_package_alone_imports_none_of_its_servers() -> None:
    program = "import sys, syncflow.testing; print([m for m in sys.modules if 'syncflow.testing.' in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

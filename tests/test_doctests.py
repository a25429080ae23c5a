"""The examples in docstrings are run, wherever there are any: they drift otherwise."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import syncflow

# The command line has tests of its own, and needs packages that a library does without.
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(syncflow.__path__, "syncflow.")
    if not name.startswith("syncflow.cli") and not name.endswith("__main__")
]


@pytest.mark.parametrize("name", ["syncflow", *MODULES])
def test_the_examples_do_what_they_say(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_some() -> None:
    counts = {name: doctest.testmod(importlib.import_module(name)).attempted for name in MODULES}
    assert {name for name, count in counts.items() if count} >= {
        "syncflow.http1.outgoing",
        "syncflow.http1.parser",
        "syncflow.http1.serializer",
        "syncflow.sse.events",
        "syncflow.structures",
    }

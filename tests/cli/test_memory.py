"""Resident memory: with /proc and without."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest

from syncflow.cli import memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
def test_memory_that_is_touched_is_seen() -> None:
    size = 64 << 20
    before = memory.resident()
    block = bytearray(b"x") * size
    grown = memory.resident() - before
    del block
    # The kernel counts in batches, some pages a processor.
    assert size * 0.9 < grown < size * 1.5


def test_without_proc_it_is_the_highest_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "STATM", str(tmp_path / "missing"))
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    assert highest * unit <= memory.resident() <= highest * unit * 2


def test_macos_counts_in_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "STATM", str(tmp_path / "missing"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.resident() <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

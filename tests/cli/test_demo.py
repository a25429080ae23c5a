"""The demo: does it tell what it has measured?"""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from syncflow import Watermarks
from syncflow.cli import demo, main
from syncflow.cli.demo import Made, Outcome, Sample, summary
from syncflow.cli.units import format_duration, format_size, parse_size
from syncflow.testing import pattern, pattern_sha256

SIZE = 8 << 20
# More than the system's own buffers take, so that the client's has to be used.
LARGE = 48 << 20


def outcome(**changes: object) -> Outcome:
    """A run as it might have been."""
    usual = Outcome(
        size=256 << 20,
        received=256 << 20,
        digest="d",
        expected="d",
        elapsed=8.1,
        waited=7.6,
        most_buffered=65536,
        memory_before=21 << 20,
        most_memory=22 << 20,
        samples=[Sample(0.0, 0, 0, 21 << 20), Sample(8.0, 256 << 20, 65536, 22 << 20)],
    )
    return dataclasses.replace(usual, **changes)  # type: ignore[arg-type]


def test_what_is_sent_is_a_file_object() -> None:
    size = 600_000
    file = Made(size)
    sink = io.BytesIO()
    shutil.copyfileobj(file, sink, 1000)
    assert sink.getvalue() == pattern(size)
    assert Made(10).read() == pattern(10)
    assert file.read(1) == b""


def test_a_run_measures_what_it_tells() -> None:
    out = io.StringIO()
    seen = demo.run(LARGE, 256 << 20, out)
    assert seen.identical
    assert (seen.received, seen.digest) == (LARGE, pattern_sha256(LARGE))
    assert seen.elapsed > LARGE / (256 << 20) * 0.9
    assert 0 < seen.waited < seen.elapsed
    # What the design promises, and the largest that was seen of it.
    assert 0 < seen.most_buffered <= Watermarks().high
    assert seen.most_buffered >= max(sample.buffered for sample in seen.samples)
    assert seen.most_memory >= max(sample.memory for sample in seen.samples)
    assert 0 <= seen.growth < LARGE / 4
    times = [sample.at for sample in seen.samples]
    assert times == sorted(times)
    assert [sample.sent for sample in seen.samples] == sorted(sample.sent for sample in seen.samples)
    assert seen.samples[-1].sent == LARGE
    assert f"{format_size(LARGE)} of {format_size(LARGE)} 100 %" in out.getvalue().splitlines()[-1]


def test_the_command_and_its_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plot.svg"
    assert main(["demo", "--size", "8M", "--slow", "1G/s", "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert "8 MiB goes to a receiver that reads only 1 GiB/s" in out
    assert "8 MiB of 8 MiB 100 %" in out
    assert f"{SIZE:,} bytes; identical: yes." in out
    assert str(plot) in out
    grown, before, highest = re.search(r"Grew by (.+?) at the most, from (.+?) to (.+?)\.\n", out).groups()  # type: ignore[union-attr]
    # Each was rounded to a tenth of its unit.
    assert parse_size(highest) - parse_size(before) == pytest.approx(
        parse_size(grown) if grown != "0 B" else 0, abs=0.11 * (1 << 20)
    )
    root = ElementTree.fromstring(plot.read_text(encoding="utf-8"))
    told = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(text.startswith("8 MiB sent in ") for text in told)
    lines = list(root.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 2
    assert all(len(line.get("points", "").split()) >= 2 for line in lines)


def test_the_summary_in_plain_words() -> None:
    text = " ".join(summary(outcome()).split())
    assert "Sent 256 MiB in 8.1 s, at 31.6 MiB/s." in text
    assert "Received 268,435,456 bytes; identical: yes." in text
    assert "At most 64 KiB waited in it." in text
    assert f"{format_duration(7.6)} in all" in text
    assert "Grew by 1 MiB at the most, from 21 MiB to 22 MiB." in text
    assert "would have needed 256 MiB for it, so about 277 MiB instead of 22 MiB." in text
    assert max(map(len, summary(outcome()).splitlines())) < 80


def test_a_buffer_that_was_not_needed() -> None:
    assert "Nothing ever waited in it" in summary(outcome(most_buffered=0))


@pytest.mark.parametrize("changes", [{"received": 5}, {"digest": "e"}])
def test_what_arrived_otherwise_is_a_failure(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run", lambda size, rate, out: outcome(**changes))
    assert main(["demo"]) == 1
    assert "identical: NO." in capsys.readouterr().out

"""Draws what a proxy costs in memory, and how fast it is, with several watermarks: the picture of docs/backpressure.md.

    python -m pip install matplotlib cheroot
    python -m benchmarks.backpressure docs/images/backpressure.svg

What is drawn is measured by `examples/backpressure_test/check.py --all`, whose table is printed; it needs curl, and a
machine that does nothing else for two minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CHECK = Path(__file__).parent.parent / "examples" / "backpressure_test" / "check.py"
PATIENCE = 900.0
"""Seconds for all of it."""
DIRECTIONS = ("download", "upload")
BAR = 5.0
"""Megabytes, for the default watermarks."""

# For each pair of watermarks, the results of its checks as `check.py` writes them.
Compared = dict[str, list[dict[str, Any]]]


def measure() -> Compared:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "compared.json")
        subprocess.run([sys.executable, str(CHECK), "--all", "--json", str(file)], check=True, timeout=PATIENCE)
        compared: Compared = json.loads(file.read_text())
        return compared


def result(compared: Compared, marks: str, name: str) -> dict[str, Any]:
    return next(each for each in compared[marks] if each["name"] == name)


def draw(compared: Compared, target: str) -> None:
    """Memory above, with and without watermarks; the same without the one that has none, larger; speeds below."""
    import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]  # a tool for the docs

    plt.rcParams["svg.hashsalt"] = "syncflow"  # the same picture for the same numbers
    figure, rows = plt.subplots(3, 2, figsize=(8.6, 8.4), layout="constrained")
    marked = [marks for marks in compared if marks != "none"]
    for column, direction in enumerate(DIRECTIONS):
        whole, near, speeds = (row[column] for row in rows)
        for axes, shown in ((whole, [*marked, "none"]), (near, marked)):
            for marks in shown:
                name = f"{direction}: {'counter-check' if marks == 'none' else 'memory'}"
                samples = result(compared, marks, name)["samples"]
                style = "--" if marks == "none" else "-"
                axes.plot([at for at, _ in samples], [grown / 1e6 for _, grown in samples], style, label=marks)
            axes.set_xlabel("seconds")
            axes.grid(alpha=0.3)
        whole.set_title(f"20 slow {direction}s")
        near.axhline(BAR, color="grey", linestyle=":")
        whole.legend(title="watermarks, KiB")
        figures = [result(compared, marks, f"{direction}: fairness")["figures"] for marks in marked]
        for shift, which in ((-0.2, "alone"), (0.2, "beside")):
            label = "alone" if which == "alone" else "beside ten slow ones"
            speeds.bar([at + shift for at in range(len(marked))], [each[which] for each in figures], 0.4, label=label)
        speeds.set_xticks(range(len(marked)), marked)
        speeds.set_title(f"a fast {direction}")
        speeds.legend(loc="lower right")
    for row, label in zip(rows, ("MB above the beginning", "the same, larger", "MiB/s"), strict=True):
        row[0].set_ylabel(label)
    figure.savefig(target, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", help="the picture, as .svg or .png")
    draw(measure(), parser.parse_args().target)


if __name__ == "__main__":
    main()

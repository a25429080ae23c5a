"""The live line: a bar and numbers that change in place.

Knows `rich`, and is imported only where a terminal is there to show it.
"""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .progress import described

__all__ = ["LiveView"]


class LiveView:
    """One line that is drawn anew whenever something is shown."""

    def __init__(self, stream: TextIO, total: int | None) -> None:
        self._total = total
        self._progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.fields[line]}", markup=False),
            console=Console(file=stream),
            expand=True,
            speed_estimate_period=1.0,  # it keeps a record of each update for so long, by default half a minute
            auto_refresh=False,  # a Meter has the thread for that
            redirect_stdout=False,  # the downloaded bytes may go there
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=total, line="")
        self._progress.start()

    @staticmethod
    def suits(stream: TextIO) -> bool:
        """Whether the terminal can move its cursor."""
        console = Console(file=stream)
        return console.is_terminal and not console.is_dumb_terminal

    def show(self, done: int, rate: float, notes: str) -> None:
        line = described(done, self._total, rate, notes)
        self._progress.update(self._task, completed=done, line=line, refresh=True)

    def close(self) -> None:
        self._progress.stop()

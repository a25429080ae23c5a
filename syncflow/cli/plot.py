"""A line chart of bytes over time, as SVG written by hand.

Knows axes, ticks, a legend and where text goes. Knows nothing of what the lines mean.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .units import format_size, parse_size

__all__ = ["Line", "chart"]

WIDTH, HEIGHT = 860, 440
LEFT, RIGHT, TOP, BOTTOM = 92, 28, 104, 58
PLOT_WIDTH = WIDTH - LEFT - RIGHT
PLOT_HEIGHT = HEIGHT - TOP - BOTTOM
# Blue and orange: told apart with every kind of colour vision, and in grey by the one being darker.
COLOURS = ("#1d4ed8", "#ea8a12")
FONTS = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, DejaVu Sans, sans-serif"
INK, FAINT, GRID = "#1f2937", "#6b7280", "#e5e7eb"
DASHED = 'stroke-dasharray="6 5"'

# A reference up to so many times the highest value is drawn; a higher one would press everything else flat.
DRAWN_UP_TO = 4.0
# The height is never less than this share of the reference: magnified further, single pages would look like growth.
LEAST_SHARE = 1 / 256
# About as many grid lines as an eye likes.
TICKS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """`points` are (seconds, bytes), in order."""

    label: str
    points: Sequence[tuple[float, float]]


def chart(title: str, lines: Sequence[Line], reference: tuple[str, int]) -> str:
    """The picture: up to two lines, and a reference that is drawn dashed where the scale permits, else told."""
    name, amount = reference
    highest = max([value for line in lines for _, value in line.points], default=0.0)
    drawn = highest * DRAWN_UP_TO >= amount
    end = max([at for line in lines for at, _ in line.points], default=0.0) or 1.0
    height = max(highest * 1.04, amount * (1.04 if drawn else LEAST_SHARE), 1.0)
    step = _byte_step(height)
    top = step * math.ceil(height / step)
    frame = _Frame(end, top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="{FONTS}">',
        f"<title>{html.escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 36, title, colour=INK, style='style="font-size: 17px; font-weight: 600"'),
        *_legend(lines, name if drawn else None),
        *frame.grid(step),
    ]
    parts += [frame.path(line, colour) for line, colour in zip(lines, COLOURS, strict=False)]
    if drawn:
        y = frame.y(amount)
        parts.append(_rule(LEFT, y, LEFT + PLOT_WIDTH, y, INK, DASHED))
    else:
        times = f", {amount / top:,.0f} times the height of this chart"
        parts.append(_text(WIDTH - RIGHT, TOP - 14, f"↑ {name}: {format_size(amount)}{times}", anchor="end"))
    return "\n".join([*parts, "</svg>", ""])


class _Frame:
    """The plot's area: from 0 to `end` seconds and from 0 to `top` bytes."""

    def __init__(self, end: float, top: float) -> None:
        self._end = end
        self._top = top

    def x(self, at: float) -> float:
        """Where a moment is."""
        return LEFT + PLOT_WIDTH * at / self._end

    def y(self, value: float) -> float:
        """Where an amount is."""
        return TOP + PLOT_HEIGHT * (1 - value / self._top)

    def path(self, line: Line, colour: str) -> str:
        """The line."""
        points = " ".join(f"{self.x(at):.1f},{self.y(value):.1f}" for at, value in line.points)
        return (
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round">'
            f"<title>{html.escape(line.label)}</title></polyline>"
        )

    def grid(self, step: float) -> list[str]:
        """Ticks with their labels, and what both axes are."""
        parts = []
        # All in the unit of the highest one, so that they compare at a glance: 0.5, 0.75, 1 MiB.
        _, unit = format_size(self._top).split()
        size = parse_size(f"1{unit}")
        for index in range(round(self._top / step) + 1):
            y = self.y(index * step)
            parts.append(_rule(LEFT, y, LEFT + PLOT_WIDTH, y, GRID if index else FAINT))
            parts.append(_text(LEFT - 10, y + 4, f"{index * step / size:g} {unit}", anchor="end"))
        every = _round_step(self._end, (1, 2, 5, 10))
        for index in range(int(self._end / every + 1e-9) + 1):
            x = self.x(index * every)
            parts.append(_rule(x, TOP + PLOT_HEIGHT, x, TOP + PLOT_HEIGHT + 5, FAINT))
            parts.append(_text(x, TOP + PLOT_HEIGHT + 20, f"{index * every:g}", anchor="middle"))
        parts.append(_text(LEFT + PLOT_WIDTH / 2, HEIGHT - 14, "seconds since the start", anchor="middle"))
        return parts


def _byte_step(highest: float) -> float:
    """Between two grid lines: 1, 2, 4, 8 … of a unit, so that the labels are round."""
    return _round_step(highest, (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024), base=1024)


def _round_step(highest: float, factors: Sequence[int], base: int = 10) -> float:
    """The round number of which about `TICKS` reach `highest`."""
    wanted = highest / TICKS
    power = float(base) ** math.floor(math.log(wanted, base))
    return next((power * factor for factor in factors if power * factor >= wanted), power * factors[-1])


def _legend(lines: Sequence[Line], reference: str | None) -> list[str]:
    parts, x, y = [], float(LEFT), 62.0
    entries = [(line.label, colour, False) for line, colour in zip(lines, COLOURS, strict=False)]
    if reference is not None:
        entries.append((reference, INK, True))
    for label, colour, dashed in entries:
        parts.append(_rule(x, y - 4, x + 24, y - 4, colour, DASHED if dashed else 'stroke-width="2.5"'))
        parts.append(_text(x + 32, y, label, colour=INK))
        x += 32 + 7.2 * len(label) + 28
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = FAINT, style: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="13" text-anchor="{anchor}" fill="{colour}" {style}>'
        f"{html.escape(text)}</text>"
    )


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'

"""The chart, read back as XML: do the points stand where the axes say?"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from syncflow.cli.plot import LEFT, PLOT_HEIGHT, PLOT_WIDTH, TOP, Line, chart
from syncflow.cli.units import parse_size

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*lines: Line, reference: tuple[str, int] = ("everything", 1 << 28)) -> ElementTree.Element:
    return ElementTree.fromstring(chart("title <&>", lines, reference))


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def points(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in element.get("points", "").split())]
        for element in root.iter(f"{SVG}polyline")
    ]


def labels(root: ElementTree.Element) -> list[int]:
    """Of the vertical axis, from the bottom up, in bytes."""
    found = [e.text or "" for e in root.iter(f"{SVG}text") if float(e.get("x", 0)) == LEFT - 10]
    assert found[0].startswith("0 ")
    return [0, *map(parse_size, found[1:])]


def test_points_stand_where_the_axes_say() -> None:
    values = [(0.0, 0.0), (4.0, float(1 << 20)), (8.0, float(3 << 20))]
    root = drawn(Line("a", values), Line("b", [(0.0, 65536.0), (8.0, 65536.0)]))
    top = labels(root)[-1]
    assert top >= 3 << 20
    first, second = points(root)
    for (at, value), (x, y) in zip(values, first, strict=True):
        assert x == pytest.approx(LEFT + PLOT_WIDTH * at / 8, abs=0.1)
        assert y == pytest.approx(TOP + PLOT_HEIGHT * (1 - value / top), abs=0.1)
    assert second[0][1] == second[1][1] == pytest.approx(TOP + PLOT_HEIGHT * (1 - 65536 / top), abs=0.1)


def test_title_and_legend_are_there_and_escaped() -> None:
    root = drawn(Line("a < b", [(0.0, 1.0)]), Line("c", [(0.0, 2.0)]))
    assert {"title <&>", "a < b", "c", "seconds since the start"} <= set(texts(root))


def test_a_reference_within_the_scale_is_drawn_dashed() -> None:
    root = drawn(Line("a", [(0.0, 0.0), (1.0, 100_000.0)]), reference=("everything", 200_000))
    dashed = [e for e in root.iter(f"{SVG}line") if e.get("stroke-dasharray")]
    expected = TOP + PLOT_HEIGHT * (1 - 200_000 / labels(root)[-1])
    assert any(float(e.get("y1", 0)) == pytest.approx(expected, abs=0.1) for e in dashed)
    assert "everything" in texts(root)


def test_a_reference_far_above_is_told() -> None:
    root = drawn(Line("a", [(0.0, 0.0), (1.0, float(1 << 20))]))
    assert not [e for e in root.iter(f"{SVG}line") if e.get("stroke-dasharray")]
    height = labels(root)[-1]
    assert f"↑ everything: 256 MiB, {(1 << 28) / height:,.0f} times the height of this chart" in texts(root)


@pytest.mark.parametrize("highest", [0, 1, 1000, 65536, 176 << 10, 1 << 20, 3_000_000, 500 << 20, 7 << 30])
@pytest.mark.parametrize("end", [0.0, 0.003, 0.9, 8.0, 75.0, 4000.0])
def test_every_scale_has_a_handful_of_round_ticks(highest: int, end: float) -> None:
    root = drawn(Line("a", [(0.0, 0.0), (end, float(highest))]), reference=("everything", 1024))
    assert 3 <= len(labels(root)) <= 8
    assert labels(root)[-1] >= highest
    seconds = [e for e in root.iter(f"{SVG}text") if e.get("text-anchor") == "middle"][:-1]
    assert 2 <= len(seconds) <= 7

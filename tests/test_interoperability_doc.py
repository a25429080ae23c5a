"""docs/interoperability.md and the suite know the same servers and capabilities, and say the same of them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .interoperability.behaviour import BEHAVIOUR, CAPABILITIES
from .interoperability.servers import SERVERS

HERE = Path(__file__).parent
DOCUMENT = (HERE.parent / "docs" / "interoperability.md").read_text("utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the section's table: its head, then its rows."""
    _, _, section = DOCUMENT.partition(f"\n## {heading}\n")
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in rows if not set("".join(row)) <= set("-| ")]


def functions() -> set[str]:
    trees = [ast.parse(path.read_text("utf-8")) for path in (HERE / "interoperability").glob("test_*.py")]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_servers() -> None:
    head, *rows = table("Servers")
    assert head == ["server", "version", "how it is run"]
    assert [row[0] for row in rows] == list(SERVERS)
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) and how for _, version, how in rows)


def test_the_date_of_the_run() -> None:
    assert re.search(r"Run of \d{4}-\d\d-\d\d,", DOCUMENT)


def test_the_capabilities() -> None:
    head, *rows = table("What each does")
    assert head == ["server", *CAPABILITIES]
    assert {name: dict(zip(CAPABILITIES, cells, strict=True)) for name, *cells in rows} == BEHAVIOUR
    assert list(BEHAVIOUR) == list(SERVERS)


@pytest.mark.parametrize("row", table("Quirks")[1:], ids=lambda row: f"{row[0]}: {row[-1]}")
def test_every_quirk_has_its_test(row: list[str]) -> None:
    servers, does, seen, test = row
    assert set(servers.split(", ")) <= set(SERVERS)
    assert does
    assert seen
    assert test.strip("`") in functions()


def test_every_test_of_a_quirk_is_named() -> None:
    tree = ast.parse((HERE / "interoperability" / "test_quirks.py").read_text("utf-8"))
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    named = {row[-1].strip("`") for row in table("Quirks")[1:]}
    # What these say is a column of the table above, or what is usual.
    assert tests - named == {
        "test_continue_comes_before_the_body",
        "test_continue_to_what_is_refused",
        "test_no_body_in_answer_to_head",
    }

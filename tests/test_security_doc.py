"""What docs/security.md promises is tested: every test that its tables name exists, and every one there is named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "security.md"
HEADING = ["what could go wrong", "what syncflow does", "test"]
NAMED = re.compile(r"`(?:((?:\w+/)*test_\w+)::)?(test_\w+)`")
# Those that show the other side of a row: what is not refused.
BESIDE = {
    "test_what_was_for_one_server_is_there_again_when_a_redirect_leads_back",
    "test_secrets_stay_on_the_same_origin",
    "test_a_body_that_was_changed_and_announced_is_sent",
    "test_a_cookie_is_for_its_domain",
}


def rows() -> list[list[str]]:
    """The cells of all tables, without headings and rules."""
    lines = [line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row != HEADING and not set("".join(row)) <= set("- ")]


def functions(file: str = "test_security") -> set[str]:
    tree = ast.parse((HERE / f"{file}.py").read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def named(row: list[str]) -> list[tuple[str, str]]:
    """File and function of each test that a row names."""
    return [(file or "test_security", name) for file, name in NAMED.findall(row[-1])]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[-1].strip("`"))
def test_every_row_names_a_test_that_exists(row: list[str]) -> None:
    fault, answer, test = row
    assert fault
    assert answer
    assert NAMED.sub("", test).replace(",", "").strip() == ""
    assert named(row)
    for file, name in named(row):
        assert name in functions(file)


def test_every_test_has_its_row() -> None:
    tests = [name for row in rows() for file, name in named(row) if file == "test_security"]
    assert len(tests) == len(set(tests))
    assert functions() - set(tests) == BESIDE


@pytest.mark.parametrize(
    "number",
    [
        *("CVE-2018-18074", "CVE-2023-43804", "CVE-2024-37891", "CVE-2023-32681", "CVE-2023-45803", "CVE-2024-35195"),
        *("CVE-2024-47081", "CVE-2025-66418", "CVE-2025-66471", "CVE-2026-21441"),
    ],
)
def test_what_befell_others_has_its_row(number: str) -> None:
    assert [row for row in rows() if number in row[0]]

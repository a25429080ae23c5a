"""What docs/reliability.md promises is tested: every test that it names exists. Its code runs as it stands there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import syncflow
from syncflow.testing import AppServer, RangeServer, Response
from syncflow.testing.wire import Request

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "reliability.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`((?:\w+/)*test_\w+)::(test_\w+)`")


def rows() -> list[str]:
    """Of all tables that end with a column of tests, without headings and rules."""
    lines = [line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith("|")]
    return [line for line in lines if not set(line) <= set("|- ") and not line.endswith("| test |")]


@cache
def functions(file: str) -> set[str]:
    path = HERE / f"{file}.py"
    assert path.is_file(), f"there is no tests/{file}.py"
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.split("|")[1].strip()[:60])
def test_every_promise_names_a_test_that_exists(row: str) -> None:
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0]
    named = NAMED.findall(cells[-1])
    assert named
    assert NAMED.sub("", cells[-1]).replace(",", "").strip() == ""
    for file, name in named:
        assert name in functions(file)


@pytest.fixture
def names() -> Iterator[dict[str, Any]]:
    """What the page takes for granted: a server that is busy at first, and one that has a large file."""
    left = iter([503, 503])

    def app(request: Request) -> Response:
        return Response(next(left, 200), (), b"yes")

    with AppServer(app) as asked, RangeServer(bytes(100_000)) as server:
        session = syncflow.Session()
        names = {"syncflow": syncflow, "url": asked.url, "session": session, "server": server}
        yield names
        session.close()
        names["session"].close()


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_its_code_runs(names: dict[str, Any], number: int) -> None:
    exec(compile(BLOCKS[number], "docs/reliability.md", "exec"), names)


def test_there_is_code() -> None:
    assert len(BLOCKS) >= 6

"""The folders are the architecture: imports run one way only, and every file says what it knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import syncflow

ROOT = Path(syncflow.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]

# From the bottom up. Each may import what stands below it, and itself if it is a folder; what stands on the same line
# knows nothing of its neighbours.
LAYERS = [
    {"http1", "exceptions", "structures", "version"},
    {"files", "settings", "redaction", "retries", "breakers"},
    {"watching"},
    {"logs"},
    {"engine"},
    {"bodies", "urls", "environ", "text", "links", "curl", "hooks", "decoders", "cookie_rules"},
    {"cookies", "auth", "status_codes", "routes"},
    {"sources", "merging", "partials", "resuming"},
    {"response_head", "downloads", "streams", "sse"},
    {"responses"},
    {"models"},
    {"adapters"},
    {"redirects", "upload_callbacks", "calls"},
    {"uploads"},
    {"mounting", "pushing", "subscribing"},
    {"sessions"},
    {"api"},
    {"__init__"},
    {"cli", "ext", "wsgi"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# Servers know nothing of the client that they test; these are no servers.
CLIENT_IN_TESTING = {
    "faults.py": {"engine"},  # makes that one's system calls fail
    "interception.py": {"adapters", "engine", "exceptions", "routes"},  # stands between these and the network
    "mock.py": {"exceptions", "urls"},  # compares URLs as they are requested, and raises what programs catch
}

IO_MODULES = {
    "asyncio",
    "io",
    "os",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
}

LONGEST = 500


def unit_of(path: Path) -> str:
    """The folder at the top to which a file belongs, or its own name there."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, source: str | None = None) -> Iterator[str]:
    """The full names of all modules that a file imports when it runs, late imports included."""
    tree = ast.parse(path.read_text() if source is None else source)
    package = ["syncflow", *path.relative_to(ROOT).parts[:-1]]
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import x` and `from syncflow import x`: x may be a module.
            for alias in node.names:
                yield f"{whole}.{alias.name}" if _is_module(f"{whole}.{alias.name}") else whole


def _is_module(name: str) -> bool:
    first, *rest = name.split(".")
    path = ROOT.joinpath(*rest)
    return first == "syncflow" and (path.with_suffix(".py").is_file() or path.is_dir())


def units(path: Path, source: str | None = None) -> set[str]:
    """Of the package's own parts, which a file imports."""
    own = [name.split(".") for name in imports(path, source) if name.split(".")[0] == "syncflow"]
    return {parts[1] if len(parts) > 1 else "__init__" for parts in own}


def faults(path: Path, source: str | None = None) -> list[str]:
    """What a file imports and must not."""
    unit = unit_of(path)
    if unit == "testing":
        allowed = {"testing"} | CLIENT_IN_TESTING.get(path.name, set())
    else:
        allowed = {name for name, rank in RANK.items() if rank < RANK[unit]}
        if (ROOT / unit).is_dir():
            allowed.add(unit)
    if unit == "cli":
        allowed.add("testing")  # the demonstration brings a server of its own
    return sorted(units(path, source) - allowed)


def test_every_part_has_its_layer() -> None:
    assert {unit_of(path) for path in FILES} == {*RANK, "testing"}


@pytest.mark.parametrize("name", NAMES)
def test_imports_run_one_way(name: str) -> None:
    assert faults(ROOT / name) == []


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("engine/pool.py", "from ..models import Response", ["models"]),
        ("engine/pool.py", "def late():\n    from ..bodies.kinds import Body", ["bodies"]),
        ("engine/pool.py", "import syncflow.sessions", ["sessions"]),
        ("engine/pool.py", "from .. import api", ["api"]),
        ("engine/pool.py", "from syncflow import Session", ["__init__"]),
        ("engine/pool.py", "from ..testing import eventually", ["testing"]),
        (
            "engine/pool.py",
            "if TYPE_CHECKING:\n    from ..models import Response\nelse:\n    from ..api import x",
            ["api"],
        ),
        (
            "engine/pool.py",
            "from ..exceptions import X\nfrom .ledger import Ledger\nfrom ..http1 import END\nimport os",
            [],
        ),
        ("engine/pool.py", "import typing as t\nif t.TYPE_CHECKING:\n    from ..models import Response", []),
        ("http1/head.py", "from ..exceptions import X", ["exceptions"]),
        ("testing/server.py", "from ..exceptions import X", ["exceptions"]),
        ("testing/server.py", "from ..engine import X", ["engine"]),
        ("testing/faults.py", "from ..engine import X\nfrom ..exceptions import X", ["exceptions"]),
        ("testing/server.py", "from syncflow.testing.wire import X", []),
        ("testing/mock_server.py", "from ..exceptions import X", ["exceptions"]),
        ("testing/mock.py", "from ..exceptions import X\nfrom ..adapters import X", ["adapters"]),
        ("testing/interception.py", "from ..engine.dialer import X\nfrom ..sessions import X", ["sessions"]),
        ("sessions.py", "from .uploads import Upload", []),
        ("uploads.py", "from .sessions import Session", ["sessions"]),
        ("api.py", "from .cli.units import X", ["cli"]),
    ],
)
def test_what_is_not_allowed_is_found(name: str, source: str, expected: list[str]) -> None:
    assert faults(ROOT / name, source) == expected


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("http1")])
def test_the_protocol_does_no_io(name: str) -> None:
    assert {module.split(".")[0] for module in imports(ROOT / name)} & IO_MODULES == set()
    calls = [node.func for node in ast.walk(ast.parse((ROOT / name).read_text())) if isinstance(node, ast.Call)]
    named = {func.id for func in calls if isinstance(func, ast.Name)}
    assert named & {"open", "print", "input", "__import__"} == set()


def test_pytest_is_for_its_plugin_alone() -> None:
    assert [name for name in NAMES if "pytest" in imports(ROOT / name)] == ["testing/plugin.py"]


def test_the_plugin_imports_what_a_fixture_needs_when_it_is_asked_for() -> None:
    tree = ast.parse((ROOT / "testing" / "plugin.py").read_text())
    at_once = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    at_once += [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    assert set(at_once) == {"__future__", "collections.abc", "contextlib", "pytest", "typing"}


@pytest.mark.parametrize("name", NAMES)
def test_every_file_opens_with_what_it_is(name: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / name).read_text()))
    assert docstring, "no docstring"
    first = docstring.splitlines()[0]
    assert first.strip(), "it opens with an empty line"


@pytest.mark.parametrize("name", NAMES)
def test_no_file_is_too_long(name: str) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= LONGEST

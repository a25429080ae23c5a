"""docs/backpressure.md: its program proxies, and what it and the README of the example point to is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from syncflow.testing import AppServer, Request, Response

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "backpressure.md"
README = ROOT / "examples" / "backpressure_test" / "README.md"


def test_its_program_is_a_proxy() -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL)

    def upstream(request: Request) -> Response:
        return Response(200, {}, request.path.encode())

    with AppServer(upstream) as server:
        assert "http://127.0.0.1:5001" in program
        names: dict[str, Any] = {}
        exec(program.replace("http://127.0.0.1:5001", server.url), names)
        environ: dict[str, Any] = {"PATH_INFO": "/stream/50"}
        setup_testing_defaults(environ)
        started: list[Any] = []
        with names["session"] as session:
            session.trust_env = False
            body = names["application"](environ, lambda *args: started.append(args))
            assert b"".join(body) == b"/stream/50"
            body.close()
        assert started[0][0] == "200 OK"


@pytest.mark.parametrize("page", [DOCUMENT, README], ids=["document", "readme"])
def test_what_it_links_to_exists(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
    assert links
    for link in links:
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", [DOCUMENT, README], ids=["document", "readme"])
def test_the_options_that_it_names_exist(page: Path) -> None:
    sources = "".join((README.parent / name).read_text("utf-8") for name in ("app.py", "check.py"))
    named = re.findall(r"/(?:app|check)\.py (--[\w-]+)", page.read_text("utf-8"))
    named += re.findall(r"`(--write-[\w-]+)`", page.read_text("utf-8"))
    assert named
    for option in named:
        assert f'"{option}"' in sources, option

"""For gunicorn: what `gunicorn tests/wsgi` loads, before or after its fork.

Knows that it stands alone: gunicorn imports it by its name, from this folder.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from syncflow import wsgi

HERE = Path(__file__).parent


def _load(name: str) -> Any:
    """A neighbour, which is no package's here."""
    spec = importlib.util.spec_from_file_location(f"wsgi_tests_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_application = _load("application")
application = wsgi.ClientMiddleware(_application.application, _application.new_session(), drain_timeout=2)

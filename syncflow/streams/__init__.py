"""Streams that push back: bytes piped from one end to another, and a raw stream in both directions.

`pipe` and its transforms run on the caller's thread and know no socket. `Duplex` and `connect` are the engine's, and
are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .pipes import pipe
from .transforms import Transform, count, digest, gunzip, gzip, lines, throttle

if TYPE_CHECKING:
    from .duplex import Duplex, connect

__all__ = ["Duplex", "Transform", "connect", "count", "digest", "gunzip", "gzip", "lines", "pipe", "throttle"]


if not TYPE_CHECKING:  # or any name would pass for one of this module's

    def __getattr__(name: str) -> object:
        if name not in ("Duplex", "connect"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.duplex"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

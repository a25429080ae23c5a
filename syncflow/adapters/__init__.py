"""How a prepared request is sent: over this engine, by somebody else's adapter, or from inside `requests`.

`native` sends; `foreign` makes responses of ours out of those of adapters that were written for `requests`;
`for_requests` is an adapter for a `requests.Session`, and imports `requests` when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .native import BaseAdapter, HTTPAdapter

if TYPE_CHECKING:
    from .for_requests import SyncflowAdapter

__all__ = ["BaseAdapter", "HTTPAdapter", "SyncflowAdapter"]


def __getattr__(name: str) -> Any:
    if name == "SyncflowAdapter":
        from .for_requests import SyncflowAdapter

        return SyncflowAdapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

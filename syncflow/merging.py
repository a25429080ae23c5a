"""How a call's values are put over a session's: headers and parameters; and what a session has to begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .decoders import accepted_codings
from .exceptions import InvalidHeader
from .structures import CaseInsensitiveDict
from .urls import ParamTypes
from .version import __version__

__all__ = ["HeaderTypes", "default_headers", "merge_headers", "merge_params", "names_authorization"]

HeaderTypes = Mapping[Any, Any] | None


def default_headers() -> CaseInsensitiveDict[str]:
    """What a new session sends."""
    return CaseInsensitiveDict(
        {
            "User-Agent": f"syncflow/{__version__}",
            "Accept-Encoding": accepted_codings(),
            "Accept": "*/*",
            "Connection": "keep-alive",
        }
    )


def merge_headers(merged: CaseInsensitiveDict[str], headers: Mapping[Any, Any], where: str) -> None:
    """Put `headers` over those in `merged`; None leaves one out. Raises InvalidHeader."""
    for name, value in headers.items():
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        if not isinstance(name, str):
            raise InvalidHeader(f"{where}: header {name!r}: its name must be str or bytes; nothing was sent")
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, bytes):
            merged[name] = value.decode("latin-1")
        elif isinstance(value, str):
            merged[name] = value
        else:
            kind = type(value).__name__
            raise InvalidHeader(f"{where}: header {name}: its value must be str or bytes, not {kind}; nothing was sent")


def merge_params(kept: ParamTypes, given: ParamTypes) -> ParamTypes:
    """As `requests` does it: name by name if both are mappings, where None leaves a name out; else the call's win."""
    if not given or not kept:
        return given or kept
    if isinstance(kept, Mapping) and isinstance(given, Mapping):
        return {**kept, **given}
    return given


def names_authorization(headers: Mapping[Any, Any]) -> bool:
    """Whether a call's headers say something of Authorization."""
    return any(_lower(name) == "authorization" for name in headers)


def _lower(name: Any) -> str:
    return name.decode("latin-1").lower() if isinstance(name, bytes) else str(name).lower()

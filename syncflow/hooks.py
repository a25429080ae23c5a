"""The hooks of a request, as `requests` has them: functions that see a response before the caller does.

Knows how they are called. Knows nothing of when, nor of what they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["HOOKS", "HookType", "default_hooks", "dispatch_hook"]

HOOKS = ["response"]

HookType = Callable[..., Any]

# By event; a single one, or several.
HookTypes = Mapping[str, HookType | Iterable[HookType] | None]


def default_hooks() -> dict[str, list[HookType]]:
    """A list without hooks for each of `HOOKS`; a new one at every call."""
    return {"response": []}


def hooks_of(given: HookTypes) -> dict[str, list[HookType]]:
    """Those that are given, in lists of their own; an empty one for each of `HOOKS` without any."""
    lists = {event: [hooks] if callable(hooks) else list(hooks or ()) for event, hooks in given.items()}
    return {**default_hooks(), **lists}


def dispatch_hook(key: str, hooks: HookTypes | None, hook_data: Any, **kwargs: Any) -> Any:
    """Hand `hook_data` through the hooks for `key`, one after the other.

    Args:
        key: one of `HOOKS`.
        hooks: for each key a hook or several; none, if it is None or empty.
        hook_data: what the first one gets; what it returns goes to the next, unless that is None.
        kwargs: handed to each.

    Returns:
        What the last one left. Whatever a hook raises goes through as it is.
    """
    given = (hooks or {}).get(key) or ()
    # A copy: another thread may register one meanwhile, and a hook may take itself out.
    for hook in (given,) if callable(given) else tuple(given):
        result = hook(hook_data, **kwargs)
        if result is not None:
            hook_data = result
    return hook_data

"""What a hub and a relay are given: where their events come from.

Knows the kinds of upstreams, how events are had from each as they come, and how each is ended from another thread.
Knows nothing of what becomes of the events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import TYPE_CHECKING, Any, TypeGuard

from .decoder import Decoder
from .reader import EventReader, check_media_type

if TYPE_CHECKING:
    from ..responses import Response

__all__ = ["batches_of", "can_be_waited_for", "close", "is_response"]


def is_response(upstream: Any) -> TypeGuard[Response]:
    """Whether its events are still to be decoded."""
    return hasattr(upstream, "iter_sse")


def can_be_waited_for(upstream: Any) -> bool:
    """Whether it is one of ours, with a `batch` that waits for so long and no longer: `EventStream`,
    `EventSubscription`."""
    return hasattr(upstream, "batch")


def batches_of(upstream: Any, patience: Callable[[], float | None]) -> Iterator[list[Any]]:
    """Events together as they come; an empty list is a sign of life, or a silence.

    Args:
        patience: asked before each wait: seconds after which a silence is told; None for never. Only where it
            `can_be_waited_for`.

    Raises:
        ContentTypeError, StreamConsumedError: it is a `Response` without events, or one that was read.
        TypeError: it cannot be iterated.
    """
    if is_response(upstream):
        check_media_type(upstream)
        return iter(EventReader(upstream, Decoder()).read, None)
    if can_be_waited_for(upstream):
        return iter(lambda: upstream.batch(patience()), None)
    return ([event] for event in upstream)


def close(upstream: Any) -> bool:
    """Any thread. End it, so that whoever waits in it does not any more. False if that cannot be done from here: it has
    no `close`, or it is a generator that another thread is in."""
    end = getattr(upstream, "close", None)
    if end is None:
        return False
    try:
        end()
    except ValueError:
        if isinstance(upstream, GeneratorType):
            return False  # "generator already executing"
        raise
    return True

"""Every target by its name: a function that takes any bytes and raises AssertionError if a promise is broken.

No target does I/O. Hypothesis runs them in `test_fuzzing`, atheris in `run_atheris`.
"""

from __future__ import annotations

from collections.abc import Callable

from . import addresses, fields, messages, streams

__all__ = ["TARGETS"]

TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        messages.response,
        messages.chunks,
        messages.request,
        messages.prepared,
        streams.events,
        streams.event,
        streams.coding,
        streams.form,
        addresses.url,
        addresses.reference,
        addresses.params,
        addresses.password,
        addresses.redirect,
        fields.cookies,
        fields.text,
        fields.links,
        fields.waits,
        fields.challenge,
    )
}

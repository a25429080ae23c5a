"""One event, and its bytes.

Knows the fields of an event and how they are written (WHATWG HTML, section 9.2.5), and which events no stream can
carry. Knows nothing of streams.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..exceptions import JSONDecodeError

__all__ = ["MOST_DIGITS", "ServerSentEvent", "encode"]

# Of a reconnection time; one that has more is ignored, and not written. So many `int` converts in microseconds and
# wherever its own limit is set (sys.int_info.str_digits_check_threshold).
MOST_DIGITS = 640


class ServerSentEvent(NamedTuple):
    """An event as a stream dispatches it (WHATWG HTML, section 9.2.6). Never changes, so that threads may share it.

    A tuple, because a decoder makes them by the hundred thousand: a frozen dataclass takes four times as long to make.

    Args:
        event: its type.
        data: its lines are separated by a line feed.
        id: the last event ID when it came: its own, or an earlier event's.
        retry: the reconnection time in milliseconds, if it came along.
    """

    event: str = "message"
    data: str = ""
    id: str = ""
    retry: int | None = None

    def json(self, **kwargs: Any) -> Any:
        """`data`, read as JSON (RFC 8259); `kwargs` go to `json.loads`.

        Raises:
            JSONDecodeError: it is none.
        """
        try:
            return json.loads(self.data, **kwargs)
        except json.JSONDecodeError as error:
            raise JSONDecodeError(error.msg, error.doc, error.pos) from error


def encode(event: ServerSentEvent) -> bytes:
    """The event in UTF-8, with the empty line that dispatches it: from these bytes a decoder makes an equal event.

    >>> encode(ServerSentEvent(data="one\\ntwo", id="7"))
    b'id: 7\\ndata: one\\ndata: two\\n\\n'

    Raises:
        ValueError: no stream can carry it: a line break in `event` or `id`, an empty `event`, a carriage return in
            `data`, a NUL in `id`, a `retry` that is no whole number from 0 or very large, half a surrogate pair.
    """
    lines = []
    if event.event != "message":
        _refuse_line_breaks("event", event.event)
        if not event.event:
            raise ValueError("an event without a type is a 'message', not ''")
        lines.append(f"event: {event.event}\n")
    if event.id:
        _refuse_line_breaks("id", event.id)
        if "\0" in event.id:
            raise ValueError(f"the id of an event cannot have a NUL in it: {event.id!r}")
        lines.append(f"id: {event.id}\n")
    retry: object = event.retry
    if retry is not None:
        if isinstance(retry, bool) or not isinstance(retry, int) or retry < 0:
            raise ValueError(f"retry is a whole number of milliseconds from 0, not {retry!r}")
        if retry >= 10**MOST_DIGITS:
            raise ValueError(f"retry has more than {MOST_DIGITS} digits, so that nobody will read it")
        lines.append(f"retry: {retry}\n")
    if "\r" in event.data:
        raise ValueError(
            "the data of an event cannot have a carriage return in it, which is an end of a line: "
            "replace it, or send JSON"
        )
    lines += [f"data: {line}\n" for line in event.data.split("\n")]
    lines.append("\n")
    return "".join(lines).encode()


def _refuse_line_breaks(name: str, value: str) -> None:
    if "\n" in value or "\r" in value:
        raise ValueError(f"the {name} of an event is one line, not {value!r}")

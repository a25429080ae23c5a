"""From the bytes of an event stream to its events, after the rules of WHATWG HTML, sections 9.2.5 and 9.2.6.

A protocol without I/O: bytes in, events out. Whoever reads gives it the pieces as they come, cut anywhere. Knows lines,
fields and when an event is dispatched. Knows no connection and no clock; what `retry` and the last event ID are for, a
stream that reconnects knows.

It works on all whole lines that have come, at once: they are cut off as bytes and then decoded, which is the same as
the other way round, because the ends of lines are ASCII and end an incomplete sequence of UTF-8 in either order.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

from ..exceptions import EventTooLarge
from ..settings import MAX_EVENT_SIZE
from .events import MOST_DIGITS, ServerSentEvent

__all__ = ["Decoder"]

BOM = b"\xef\xbb\xbf"

# The fields of which something is held until the event is dispatched.
HELD = frozenset({b"data", b"event", b"id"})

# The fields of events that are read together: see `_read_alike`.
ALIKE = frozenset({"data", "event", "id"})

# Half as long as the class itself takes for it.
_new = tuple.__new__


class Decoder:
    """One stream, from its first byte. One thread.

    Args:
        max_event_size: bytes that are held of one event before it is dispatched: its lines of data, type and ID, each
            with one byte for its end, and the line that is coming, whatever it is.
        last_event_id: of the streams before this one, until an event of this one has its own.

    Attributes:
        last_event_id: of the last event that was dispatched, or would have been if it had had data.
        retry: the last reconnection time that came, in milliseconds.
    """

    def __init__(self, *, max_event_size: int = MAX_EVENT_SIZE, last_event_id: str = "") -> None:
        if isinstance(max_event_size, bool) or not isinstance(max_event_size, int):
            raise TypeError(f"max_event_size is a number of bytes, not {max_event_size!r}")
        if max_event_size < 1:
            raise ValueError(f"max_event_size must be at least 1, not {max_event_size}")
        self.last_event_id = last_event_id
        self.retry: int | None = None
        # Never changes.
        self._limit = max_event_size
        # The stream: its first bytes, while they may be a byte order mark; then an unfinished line.
        self._is_at_start = True
        self._rest = bytearray()
        self._is_after_cr = False  # an LF would belong to it
        # The event that is being put together, and the bytes of its lines.
        self._data: list[str] = []
        self._type = ""
        self._id = last_event_id
        self._event_retry: int | None = None
        self._size = 0
        self._has_failed = False

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that these bytes complete.

        Raises:
            EventTooLarge: one is larger than `max_event_size`. If others came before it in the same bytes, they are
                returned, and the next call raises: see `check`.
        """
        self.check()
        lines = self._whole_lines(data)
        if not lines:
            events = []
        elif self._size + len(lines) <= self._limit:
            events = self._read(lines)
        else:
            events = self._read_carefully(lines)
        if self._size + len(self._rest) > self._limit:
            self._fail()
        if not events:
            self.check()
        return events

    def check(self) -> None:
        """Raise the error that the last `feed` has left, because it had events to return first."""
        if self._has_failed:
            # Made anew each time: one that was kept would keep the frames that it went through, and their bytes.
            raise EventTooLarge(
                f"an event of the stream is larger than {self._limit:,} bytes (max_event_size); allow more if the "
                "server can be trusted"
            )

    # ---------------------------------------------------------------- lines

    def _whole_lines(self, data: bytes) -> bytes:
        """What has come up to the last end of a line, each of which is one LF now; what is behind it is kept."""
        data = self._continued(data)
        has_cr = b"\r" in data
        end = max(data.rfind(b"\n"), data.rfind(b"\r") if has_cr else -1) + 1
        if not end:
            self._rest += data
            return b""
        lines = data[:end]
        if self._rest:
            lines = b"".join((self._rest, lines))
            self._rest.clear()
        self._rest += data[end:]
        if has_cr:
            # An event is not kept waiting for the LF that may follow.
            self._is_after_cr = data.endswith(b"\r")
            lines = lines.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return lines

    def _continued(self, data: bytes) -> bytes:
        """Without the byte order mark in front of all, and without the second half of the last end of a line."""
        if self._is_at_start:
            data = b"".join((self._rest, data))
            self._rest.clear()
            self._is_at_start = len(data) < len(BOM) and BOM.startswith(data)
            return data if self._is_at_start else data.removeprefix(BOM)
        if self._is_after_cr and data:
            self._is_after_cr = False
            return data.removeprefix(b"\n")
        return data

    # ---------------------------------------------------------------- events

    def _read(self, lines: bytes) -> list[ServerSentEvent]:
        """Lines that are not too many, each with its LF."""
        text = lines.decode("utf-8", "replace")
        end = text.rfind("\n\n") + 2
        if end < 2:
            events = self._read_lines(text)
        else:
            # In the middle there are whole events; in front the rest of one, perhaps, and the beginning of one behind.
            is_between = not (self._data or self._type) and self._event_retry is None
            begin = 0 if is_between else text.index("\n\n") + 2
            events = self._read_lines(text[:begin]) if begin else []
            if whole := text[begin:end]:
                events += self._read_alike(whole) or self._read_lines(whole)
            if end < len(text):
                events += self._read_lines(text[end:])
        self._measure(lines)
        return events

    def _read_alike(self, text: str) -> list[ServerSentEvent] | None:
        """Whole events that all have the fields of the first, in its order, as most servers write them: two to five
        times as fast as `_read_lines`. None if they are not such.

        Each field makes a column of lines. Joined, and split again where a line with its name begins, it has lost the
        names; and it is as long as before only if each of its lines had that name.
        """
        fields = [line.partition(": ") for line in text.partition("\n\n")[0].split("\n")]
        names = [name for name, colon, _ in fields if colon and name in ALIKE]
        if len(names) != len(fields) or len(set(names)) != len(names) or "data" not in names or "\0" in text:
            return None
        lines = text.split("\n")[:-1]
        period = len(names) + 1
        count, rest = divmod(len(lines), period)
        if rest or any(lines[period - 1 :: period]):
            return None
        columns: dict[str, Iterable[str]] = {"event": repeat("message"), "id": repeat(self._id)}
        for place, name in enumerate(names):
            values = "\n".join(lines[place::period]).removeprefix(f"{name}: ").split(f"\n{name}: ")
            if len(values) != count or (name == "event" and "" in values):  # without a type it is a message
                return None
            columns[name] = values
        rows = zip(columns["event"], columns["data"], columns["id"], repeat(None))  # some are endless
        events = list(map(_new, repeat(ServerSentEvent), rows))
        self.last_event_id = self._id = events[-1].id
        return events

    def _read_lines(self, text: str) -> list[ServerSentEvent]:
        """Any lines. In local variables, which halves the time that it takes."""
        events: list[ServerSentEvent] = []
        data, type_, id_ = self._data, self._type, self._id
        for line in text.split("\n")[:-1]:
            if line.startswith("data: "):
                data.append(line[6:])
            elif not line:
                self.last_event_id = id_
                if data:
                    value = data[0] if len(data) == 1 else "\n".join(data)
                    events.append(_new(ServerSentEvent, (type_ or "message", value, id_, self._event_retry)))
                    data.clear()
                type_ = ""
                self._event_retry = None
            else:
                name, _, value = line.partition(":")  # of a comment the name is empty
                value = value.removeprefix(" ")
                if name == "event":
                    type_ = value
                elif name == "id":
                    id_ = id_ if "\0" in value else value
                elif name == "data":
                    data.append(value)
                elif name == "retry":
                    self._read_retry(value)
        self._type, self._id = type_, id_
        return events

    def _read_retry(self, value: str) -> None:
        if value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS:
            self.retry = self._event_retry = int(value)

    # ---------------------------------------------------------------- size

    def _measure(self, lines: bytes) -> None:
        """How much of these lines is held, of an event that they have left unfinished."""
        dispatched = lines.rfind(b"\n\n")
        if dispatched >= 0 or lines.startswith(b"\n"):
            self._size = 0
            lines = lines[max(dispatched + 2, 1) :]
        if lines:
            # As they came: what is no UTF-8 grows when it is decoded, a line that is unfinished has not been.
            self._size += sum(len(line) + 1 for line in lines.split(b"\n")[:-1] if line.partition(b":")[0] in HELD)

    def _read_carefully(self, lines: bytes) -> list[ServerSentEvent]:
        """Lines among which one event may be too large: up to that one."""
        events: list[ServerSentEvent] = []
        for line in lines.split(b"\n")[:-1]:
            if self._size + len(line) > self._limit:
                self._fail()
                break
            events += self._read(line + b"\n")
        return events

    def _fail(self) -> None:
        """Nothing more is read, nor kept."""
        self._has_failed = True
        self._data.clear()
        self._type = ""
        self._rest.clear()

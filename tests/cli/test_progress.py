"""What is shown while bytes flow, to a terminal and to a file."""

from __future__ import annotations

import io
import re
import sys
import threading

import pytest

from syncflow.cli.progress import Meter, PlainView, described, terminal, view_for

PATIENCE = 10.0


class Terminal(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A view that keeps what it was shown; `enough` is set after so many times."""

    def __init__(self, enough: int = 3) -> None:
        self.shown: list[tuple[int, float, str]] = []
        self.closed = 0
        self.enough = threading.Event()
        self._enough = enough

    def show(self, done: int, rate: float, notes: str) -> None:
        self.shown.append((done, rate, notes))
        if len(self.shown) >= self._enough:
            self.enough.set()

    def close(self) -> None:
        self.closed += 1


class Torn(Recorder):
    """A view into a pipe that nobody reads."""

    def show(self, done: int, rate: float, notes: str) -> None:
        super().show(done, rate, notes)
        raise BrokenPipeError


@pytest.fixture
def color_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


# ---------------------------------------------------------------- the words


def words(done: int, total: int | None, rate: float, notes: str = "") -> str:
    return " ".join(described(done, total, rate, notes).split())


def test_the_state_in_words() -> None:
    assert words(1 << 20, 4 << 20, 512 << 10) == "1 MiB of 4 MiB 25 % 512 KiB/s 6.0 s left"
    assert words(4 << 20, 4 << 20, 1024) == "4 MiB of 4 MiB 100 % 1 KiB/s"
    assert words(0, 10, 0) == "0 B of 10 B 0 % 0 B/s"
    assert words(5, None, 5, "buffered 1 B") == "5 B 5 B/s buffered 1 B"
    assert words(0, 0, 0) == "0 B of 0 B 100 % 0 B/s"


# ---------------------------------------------------------------- plain lines


def test_a_plain_line_a_second_and_the_last_state() -> None:
    out, clock = io.StringIO(), Clock()
    view = PlainView(out, 1000, clock)
    for tenth in range(35):
        clock.now = tenth / 10
        view.show(tenth, 1.0, "")
    view.close()
    view.close()
    assert re.findall(r"^ +([\d.]+) s +(\d+) B", out.getvalue(), re.MULTILINE) == [
        ("1.0", "10"),
        ("2.0", "20"),
        ("3.0", "30"),
        ("3.4", "34"),
    ]


def test_seconds_without_a_look_are_not_made_up_for() -> None:
    out, clock = io.StringIO(), Clock()
    view = PlainView(out, None, clock)
    for now in (5.0, 5.1, 5.9, 6.0):
        clock.now = now
        view.show(1, 1.0, "")
    view.close()
    assert [line.split()[0] for line in out.getvalue().splitlines()] == ["5.0", "6.0"]


# ---------------------------------------------------------------- which view


def test_a_file_gets_plain_lines() -> None:
    assert isinstance(view_for(io.StringIO(), 1), PlainView)


def test_a_terminal_gets_a_live_line(color_terminal: Terminal) -> None:
    view = view_for(color_terminal, 1000)
    assert not isinstance(view, PlainView)
    for done in (0, 500, 1000):
        view.show(done, 250.0, "buffered [64 KiB]")
    view.close()
    view.close()
    shown = color_terminal.getvalue()
    assert "\x1b[" in shown
    assert "500 B of 1000 B  50 %" in shown
    assert "1000 B of 1000 B 100 %" in shown
    assert "250 B/s  buffered [64 KiB]" in shown
    assert shown.endswith("\x1b[?25h")  # the cursor is back


def test_a_live_line_of_unknown_length(color_terminal: Terminal) -> None:
    view = view_for(color_terminal, None)
    view.show(500, 250.0, "")
    view.close()
    assert "500 B      250 B/s" in color_terminal.getvalue()


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    color_terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(view_for(color_terminal, 1), PlainView)


def test_without_rich_a_terminal_gets_plain_lines(color_terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"] + ["rich", "rich.console"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "syncflow.cli.live", raising=False)
    view = view_for(color_terminal, 1000)
    view.show(1000, 250.0, "")
    view.close()
    assert "1000 B of 1000 B 100 %" in color_terminal.getvalue()
    assert "\x1b" not in color_terminal.getvalue()


def test_a_closed_stream_is_no_terminal() -> None:
    stream = io.StringIO()
    stream.close()
    assert not terminal(stream)


# ---------------------------------------------------------------- the meter


def test_a_meter_looks_by_itself_and_once_more_at_the_end() -> None:
    done = 0
    view = Recorder()
    with Meter(view, lambda: (done, f"at {done}"), 0.001):
        assert view.enough.wait(PATIENCE)
        done = 700
    assert view.closed == 1
    last, average, notes = view.shown[-1]
    assert (last, notes) == (700, "at 700")
    assert average > 0
    assert not [thread for thread in threading.enumerate() if thread.name == "syncflow-meter"]


def test_a_stall_shows_in_the_rate() -> None:
    view = Recorder(enough=5)
    with Meter(view, lambda: (1000, ""), 0.001):
        assert view.enough.wait(PATIENCE)
    assert {rate for _, rate, _ in view.shown[:5]} == {0.0}


def test_what_showing_met_with_is_told_at_the_next_check_and_at_the_end() -> None:
    view = Torn(enough=1)
    with pytest.raises(BrokenPipeError):
        with Meter(view, lambda: (0, ""), 0.001) as meter:
            assert view.enough.wait(PATIENCE)
            meter._thread.join(PATIENCE)
            with pytest.raises(BrokenPipeError):
                meter.check()
    assert len(view.shown) == 1
    assert view.closed == 1


def test_the_error_of_the_block_comes_first() -> None:
    view = Torn(enough=1)
    with pytest.raises(KeyError):
        with Meter(view, lambda: (0, ""), 0.001):
            assert view.enough.wait(PATIENCE)
            raise KeyError

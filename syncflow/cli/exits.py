"""Exit codes, and the one line that goes with each.

Knows which code an error of the library leads to, and how to put any text on one line. Knows no command.
"""

from __future__ import annotations

from .. import exceptions as errors

__all__ = [
    "INTERRUPTED",
    "LOST",
    "MEANINGS",
    "OK",
    "READER_GONE",
    "REFUSED",
    "TIMED_OUT",
    "UNREACHABLE",
    "USAGE",
    "Failure",
    "explained",
    "one_line",
]

OK = 0
REFUSED = 1
USAGE = 2
UNREACHABLE = 3
TIMED_OUT = 4
LOST = 5
INTERRUPTED = 130  # 128 + SIGINT, as a shell has it
READER_GONE = 141  # 128 + SIGPIPE

# What --help says.
MEANINGS = {
    OK: "done",
    REFUSED: "the server's answer is no success: a status of 400 or above, or a redirect",
    USAGE: "wrong usage, or a local file that cannot be read or written",
    UNREACHABLE: "no connection: name, address, or TLS",
    TIMED_OUT: "a timeout",
    LOST: "the connection was lost, the answer is not HTTP, or something is incomplete",
    INTERRUPTED: "interrupted (Ctrl-C)",
    READER_GONE: "nobody reads standard output any more (as in `syncflow get URL | head`)",
}

# Longer messages are cut: a line, not a page.
LONGEST_LINE = 400

_UNREACHABLE_PHASES = frozenset({"pool", "dns", "connect", "tls"})


class Failure(Exception):
    """What a command says about its end when it is not a good one."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(one_line(message))
        self.code = code


def explained(error: OSError) -> tuple[int, str]:
    """Exit code and message for what the library, or a local file, has raised."""
    return _code(error), one_line(_words(error))


def _code(error: OSError) -> int:
    match error:
        case errors.Timeout():  # before ConnectionError: ConnectTimeout is both
            return TIMED_OUT
        case errors.SSLError() | errors.ProxyError():
            return UNREACHABLE
        case errors.ProtocolError():
            return LOST
        case errors.ConnectionError():
            return UNREACHABLE if error.phase in _UNREACHABLE_PHASES else LOST
        case errors.InvalidURL() | errors.InvalidSchema() | errors.MissingSchema() | errors.InvalidHeader():
            return USAGE
        case errors.RequestException():
            return LOST
    return USAGE


def _words(error: OSError) -> str:
    if isinstance(error, errors.RequestException) or not error.strerror:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def one_line(text: str) -> str:
    """`text` on one line and fit for a terminal, even where a server has chosen it."""
    text = " ".join(text.split())
    if len(text) > LONGEST_LINE:
        text = text[: LONGEST_LINE - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)

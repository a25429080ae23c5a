"""What can be said on the command line.

Knows commands, options, their defaults and their help. Runs nothing.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from ..settings import Timeouts
from ..version import __version__
from .exits import MEANINGS, USAGE, Failure
from .units import parse_rate, parse_size

__all__ = ["parser"]

# What the demo takes by default: eight seconds are long enough to watch and short enough to wait for.
DEMO_SIZE = "256M"
DEMO_RATE = "32M/s"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse would print the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise Failure(USAGE, f"{message}; see {self.prog} --help")


Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


def parser() -> argparse.ArgumentParser:
    """The parser of everything; `command` says which one was chosen."""
    top = _Parser(
        prog="syncflow",
        description="Uploads and downloads in a memory that stays small, whatever the size of what flows.",
        epilog=_exit_codes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"syncflow {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    _add_demo(commands)
    _add_upload(commands)
    _add_get(commands)
    return top


def _add_demo(commands: Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="watch a large upload to a slow receiver",
        description="Streams a large file object to a receiver on this machine that reads slowly, shows what happens "
        "meanwhile, and says at the end what it took. Exits with 0 if the receiver got every byte as it was.",
    )
    demo.add_argument(
        "--slow", metavar="RATE", type=_typed(parse_rate), default=DEMO_RATE,
        help="what the receiver reads a second, as 500k or 1GiB (default: %(default)s)",
    )  # fmt: skip
    demo.add_argument(
        "--size", type=_typed(parse_size), default=DEMO_SIZE,
        help="of the file object, as 100M or 2GiB (default: %(default)s)",
    )  # fmt: skip
    demo.add_argument("--plot", metavar="FILE.svg", help="draw memory and buffer over time into this file")


def _add_upload(commands: Commands) -> None:
    upload = _add_transfer(
        commands, "upload", "send a file",
        "Sends FILE to URL. The status goes to standard error, the body of the answer to standard output.",
    )  # fmt: skip
    upload.add_argument("file", metavar="FILE", help="what to send; - is standard input, sent as it comes")
    upload.add_argument("url", metavar="URL")
    upload.add_argument("-X", "--method", default="PUT", help="default: %(default)s")


def _add_get(commands: Commands) -> None:
    get = _add_transfer(
        commands, "get", "fetch a URL",
        "Fetches URL to standard output or into a file, which appears only once it is complete.",
    )  # fmt: skip
    get.add_argument("url", metavar="URL")
    get.add_argument(
        "-o", "--output", metavar="FILE", default="-",
        help="where to; - is standard output, which is the default",
    )  # fmt: skip


def _add_transfer(commands: Commands, name: str, summary: str, description: str) -> _Parser:
    """What upload and get have in common."""
    own = Timeouts()
    command = commands.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, 78),
        epilog=_exit_codes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", type=_typed(_header), action="append", default=[],
        help="send this field, too (again and again); 'NAME:' leaves out one that is sent by itself",
    )  # fmt: skip
    command.add_argument(
        "--timeout", metavar="SECONDS", type=_typed(_seconds),
        help="how long a connection may take to set up, and then stand still "
        f"(default: {own.connect:g} and {own.read:g})",
    )  # fmt: skip
    trust = command.add_mutually_exclusive_group()
    trust.add_argument("--cacert", metavar="FILE", help="trust the authorities in this file, and no others")
    trust.add_argument("-k", "--insecure", action="store_true", help="do not check the server's certificate")
    return command


def _typed(parse: Callable[[str], object]) -> Callable[[str], object]:
    """Let argparse show the words of a ValueError, which it otherwise replaces by its own."""

    def typed(text: str) -> object:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return typed


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"{text!r} is not a header field: write 'Name: value'")
    return name.strip(), value.strip()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
        Timeouts.of(seconds)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of seconds above 0") from None
    return seconds


def _exit_codes() -> str:
    lines = [
        textwrap.fill(meaning, 76, initial_indent=f"  {code:<5}", subsequent_indent=" " * 7)
        for code, meaning in MEANINGS.items()
    ]
    return "\n".join(["exit codes:", *lines])

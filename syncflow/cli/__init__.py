"""The command line: `syncflow demo`, `syncflow upload`, `syncflow get`.

Knows how a run ends: which command ran, and what its failure looks like to a shell. Knows neither options (arguments)
nor what a command does; those are imported once it is clear which one is wanted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .exits import INTERRUPTED, OK, READER_GONE, Failure, explained

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; `argv` is without the program's name, None takes it from the system.

    What fails is told in one line on standard error. A bug still shows its traceback.
    """
    try:
        code = _run(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted")
    except Failure as failure:
        return _fail(failure.code, str(failure))
    except BrokenPipeError:
        _silence(sys.stdout)
        return READER_GONE
    except OSError as error:  # every RequestException is one, too
        return _fail(*explained(error))
    return code


def _run(argv: Sequence[str] | None) -> int:
    from .arguments import parser

    try:
        chosen = parser().parse_args(argv)
    except SystemExit:  # --help and --version; what is wrong is a Failure
        return OK
    if chosen.command == "demo":
        from .demo import demo

        return demo(chosen)
    from .transfer import get, upload

    return upload(chosen) if chosen.command == "upload" else get(chosen)


def _fail(code: int, message: str) -> int:
    try:
        print(f"syncflow: {message}", file=sys.stderr)
    except BrokenPipeError:
        _silence(sys.stderr)
    return code


def _silence(stream: object) -> None:
    """Let the interpreter flush what is left into nothing at its end; else it would complain of the broken pipe."""
    try:
        descriptor = stream.fileno()  # type: ignore[attr-defined]  # or not: then there is nothing to be done
    except (AttributeError, OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)

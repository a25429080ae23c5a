"""One client in a process of its own: orders come on stdin, a line of JSON each, results go to stdout.

A process for each client keeps one client's memory, garbage collector and imports out of another's numbers.
It lives for the whole run, and works only while it has an order: one worker at a time has one.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from contextlib import closing
from typing import Any, TextIO

from .clients import load
from .clients.protocol import Client
from .workloads import Order

STATUS = "/proc/self/status"
CLEAR_REFS = "/proc/self/clear_refs"
RESET_PEAK = "5"
"""What makes the kernel forget the peak of the resident set: proc(5), since Linux 4.0."""


def main() -> None:
    replies = claim_stdout()
    try:
        client = load(sys.argv[1])
    except Exception as exc:  # a library that is there and broken must not stop the others either
        say(replies, missing=f"{type(exc).__name__}: {exc}")
        return
    say(replies, version=client.version(), kinds=[kind.value for kind in client.kinds], tls=client.has_tls)
    for line in sys.stdin:
        try:
            say(replies, **_carry_out(client, Order.from_json(line)))
        except Exception as exc:
            traceback.print_exc()
            say(replies, error=f"{type(exc).__name__}: {exc}"[:300])


def claim_stdout() -> TextIO:
    """Stdout for the replies alone; what a library prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def say(replies: TextIO, **message: Any) -> None:
    print(json.dumps(message), file=replies, flush=True)


def _carry_out(client: type[Client], order: Order) -> dict[str, Any]:
    before = _reset_peak()
    with closing(client(order.site, order.threads)) as opened:
        gc.collect()
        seconds = opened.measure(order)
    return {"seconds": seconds, "peak_growth_kib": _status("VmHWM") - before if before else None}


def _reset_peak() -> int:
    """Makes the peak of the resident set start anew; the resident set now, in KiB, or 0 if unknown."""
    try:
        with open(CLEAR_REFS, "w", encoding="ascii") as file:
            file.write(RESET_PEAK)
        return _status("VmRSS")
    except OSError:
        return 0


def _status(field: str) -> int:
    with open(STATUS, encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))


if __name__ == "__main__":
    main()

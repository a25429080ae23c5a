"""How much memory this process holds.

Knows where the system says so: resident memory, what is really there and not only promised.
"""

from __future__ import annotations

import os
import sys

__all__ = ["resident"]

STATM = "/proc/self/statm"


def resident() -> int:
    """Bytes of resident memory; where the system does not tell (no /proc), the most there ever were."""
    try:
        with open(STATM, "rb", buffering=0) as file:
            pages = int(file.read(100).split()[1])
    except FileNotFoundError:
        return _highest()
    return pages * os.sysconf("SC_PAGE_SIZE")


def _highest() -> int:
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in KiB everywhere else.
    return highest if sys.platform == "darwin" else highest * 1024

"""When the process has no file descriptor left: how that is told, and who can free one.

Knows which errors say so. Knows nothing of waiting, which is `SettingUp`'s, nor of connections, which are the pool's.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from .setting_up import SettingUp

__all__ = ["LOOK_AGAIN", "Reserve", "Superseded", "shortage"]

# EMFILE: the process has as many as it may (`ulimit -n`). ENFILE: the system has.
OUT: Final = frozenset({errno.EMFILE, errno.ENFILE})

# Seconds between two tries. When a connection of the same session is closed or given back, whoever waits is woken; but
# most descriptors of a process are somebody else's, and nobody tells when one of those is closed.
LOOK_AGAIN: Final = 0.05


class Superseded(Exception):
    """The setting up is not needed any more: a connection to the same origin has become free, and is the caller's."""

    def __init__(self, connection: Any) -> None:
        super().__init__("another connection has become free")
        self.connection = connection


class Reserve(Protocol):
    """Whose connections may give way: the pool."""

    def relieve(self, dial: SettingUp) -> Any:
        """The dialing thread, holding nothing. A connection that is of use to it; or None, and the longest idle one is
        being closed, if there is one. From now on `dial.look_again` is called when there may be a descriptor."""

    @property
    def held(self) -> int:
        """Any thread. How many connections it has."""


def shortage(error: BaseException | None) -> OSError | None:
    """The error that says that there was no descriptor, if `error` came of that."""
    if isinstance(error, socket.gaierror) or (isinstance(error, OSError) and error.errno == errno.EBUSY):
        # getaddrinfo(3) could not open a socket or a file, and says that it found no name, to try again, or EBUSY.
        try:
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
        except OSError as found:
            error = found
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno in OUT:
        return error
    return None

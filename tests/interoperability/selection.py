"""Which servers a test runs with.

Knows their names and what each can do. How they are started is the fixture's to know, in `conftest`.
"""

from __future__ import annotations

import pytest

from .behaviour import BEHAVIOUR, NONE, TLS
from .servers import SERVERS


def on(*names: str, plain: bool = True, tls: bool = False) -> pytest.MarkDecorator:
    """The test gets each of these servers as `server`."""
    chosen = [(name, False) for name in names if plain]
    chosen += [(name, True) for name in names if tls and BEHAVIOUR[name][TLS] != NONE]
    parameters = [pytest.param(pair, id=f"{pair[0]}{' with TLS' * pair[1]}") for pair in chosen]
    return pytest.mark.parametrize("server", parameters, indirect=True)


def those(capability: str, *words: str) -> list[str]:
    """The names of the servers of which the table says one of these."""
    return [name for name in SERVERS if BEHAVIOUR[name][capability] in words]


EACH = on(*SERVERS)
EACH_TLS = on(*SERVERS, plain=False, tls=True)
EACH_AND_TLS = on(*SERVERS, tls=True)

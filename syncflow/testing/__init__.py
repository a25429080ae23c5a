"""Servers that are slow, broken or hostile, on 127.0.0.1, for the tests of whoever speaks HTTP; and, for the tests of
whoever uses syncflow, answers without a network, and system calls of its own that fail. For pytest there is `plugin`.

Knows where each public name lives, and imports a module when one of its names is first used. Standard library only, but
for the last two, which are inside syncflow, and the plugin.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncflow.testing.application import AppServer, Response, echo, json_response
    from syncflow.testing.fault_proxy import FaultProxy
    from syncflow.testing.faults import Fault, FaultInjector
    from syncflow.testing.flaky import FlakyServer
    from syncflow.testing.hostile import (
        Endpoint,
        closes_idle,
        continue_then,
        early_response,
        endless_head,
        full_backlog,
        never_answers,
        refused_port,
        trickle,
        truncated,
        unasked_bytes,
    )
    from syncflow.testing.http_proxy import HTTPProxy
    from syncflow.testing.link import Link
    from syncflow.testing.mock import ANY, MockedRequest, SyncflowMock, UnmatchedRequest
    from syncflow.testing.nginx import Nginx, NotInstalled
    from syncflow.testing.patterns import pattern, pattern_pieces, pattern_sha256
    from syncflow.testing.ranges import RangeServer
    from syncflow.testing.receiver import Receipt, Receiver
    from syncflow.testing.receiver_process import ReceiverProcess
    from syncflow.testing.recording import RecordingServer
    from syncflow.testing.scripted import Peer, ScriptedServer
    from syncflow.testing.slow import SlowServer
    from syncflow.testing.socks_server import SocksRequest, SocksServer
    from syncflow.testing.tinyproxy import Tinyproxy
    from syncflow.testing.waiting import eventually
    from syncflow.testing.wire import Request, chunk, last_chunk, reply, reply_head

__all__ = [
    "ANY",
    "AppServer",
    "Endpoint",
    "Fault",
    "FaultInjector",
    "FaultProxy",
    "FlakyServer",
    "HTTPProxy",
    "Link",
    "MockedRequest",
    "Nginx",
    "NotInstalled",
    "Peer",
    "RangeServer",
    "Receipt",
    "Receiver",
    "ReceiverProcess",
    "RecordingServer",
    "Request",
    "Response",
    "ScriptedServer",
    "SlowServer",
    "SocksRequest",
    "SocksServer",
    "SyncflowMock",
    "Tinyproxy",
    "UnmatchedRequest",
    "chunk",
    "closes_idle",
    "continue_then",
    "early_response",
    "echo",
    "endless_head",
    "eventually",
    "full_backlog",
    "json_response",
    "last_chunk",
    "never_answers",
    "pattern",
    "pattern_pieces",
    "pattern_sha256",
    "refused_port",
    "reply",
    "reply_head",
    "trickle",
    "truncated",
    "unasked_bytes",
]

_HOMES = {
    "AppServer": "application",
    "Response": "application",
    "echo": "application",
    "json_response": "application",
    "FaultProxy": "fault_proxy",
    "Fault": "faults",
    "FaultInjector": "faults",
    "FlakyServer": "flaky",
    "Endpoint": "hostile",
    "closes_idle": "hostile",
    "continue_then": "hostile",
    "early_response": "hostile",
    "endless_head": "hostile",
    "full_backlog": "hostile",
    "never_answers": "hostile",
    "refused_port": "hostile",
    "trickle": "hostile",
    "truncated": "hostile",
    "unasked_bytes": "hostile",
    "HTTPProxy": "http_proxy",
    "Link": "link",
    "ANY": "mock",
    "MockedRequest": "mock",
    "SyncflowMock": "mock",
    "UnmatchedRequest": "mock",
    "Nginx": "nginx",
    "NotInstalled": "nginx",
    "pattern": "patterns",
    "pattern_pieces": "patterns",
    "pattern_sha256": "patterns",
    "RangeServer": "ranges",
    "Receipt": "receiver",
    "Receiver": "receiver",
    "ReceiverProcess": "receiver_process",
    "RecordingServer": "recording",
    "Peer": "scripted",
    "ScriptedServer": "scripted",
    "SlowServer": "slow",
    "SocksRequest": "socks_server",
    "SocksServer": "socks_server",
    "Tinyproxy": "tinyproxy",
    "eventually": "waiting",
    "Request": "wire",
    "chunk": "wire",
    "last_chunk": "wire",
    "reply": "wire",
    "reply_head": "wire",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

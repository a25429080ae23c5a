"""Server-Sent Events (WHATWG HTML, section 9.2): read, reconnect, buffer, fan out, relay.

Knows where each public name lives.
"""

from __future__ import annotations

from .buffer import BufferFull, BufferMetrics, EventBuffer
from .decoder import Decoder
from .events import ServerSentEvent, encode
from .hub import EventHub, HubHealth, SubscriberHealth, UpstreamError
from .relaying import Relay, relay
from .stream import EventStream
from .subscription import EventSubscription

__all__ = [
    "BufferFull",
    "BufferMetrics",
    "Decoder",
    "EventBuffer",
    "EventHub",
    "EventStream",
    "EventSubscription",
    "HubHealth",
    "Relay",
    "ServerSentEvent",
    "SubscriberHealth",
    "UpstreamError",
    "encode",
    "relay",
]

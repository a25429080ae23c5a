"""Server-Sent Events (WHATWG HTML, section 9.2): read, reconnect, buffer, fan out, relay.

Knows where each public name lives.
"""

from __future__ import annotations

from .decoder import Decoder
from .events import ServerSentEvent, encode
from .stream import EventStream

__all__ = ["Decoder", "EventStream", "ServerSentEvent", "encode"]

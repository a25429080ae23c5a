"""llhttp's own response tests, run against our parser; where we differ on purpose it is said, and checked.

The vectors (vectors/README.md) lost one CRLF wherever llhttp's test ends with an empty line: its log speaks
of a head or a message that was complete, and llhttp's own files have that CRLF. `_input_of` gives it back.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from syncflow.http1 import HTTP1Error, MalformedMessage

from .replay import Outcome, byte_by_byte, replay_all

CASES = json.loads((Path(__file__).parent / "vectors" / "llhttp-response.json").read_text())

# A message as it is compared: status, fields, trailers, body, whether its end was seen.
Seen = tuple[int, list[tuple[str, str]], list[tuple[str, str]], bytes, bool]

UPGRADE = "Pause on CONNECT/Upgrade"  # llhttp's way to say that what follows is not HTTP; we say `upgraded`


@dataclass(frozen=True)
class Difference:
    """What we do instead of what llhttp does, and the section of RFC 9112 that has us do it."""

    section: str
    because: str
    messages: list[Seen]
    error: type[HTTP1Error] | None = None
    leftover: bytes = b""


_AFTER_CLOSE = "bytes after the last response are not an error of that response: they are leftover"
_LONE_LF = "a lone LF may end a line of the head"
_VERSION = "this client speaks HTTP/1.x and nothing else"

DIFFERENCES = {
    "Connection header / HTTP/1.1 with keep-alive disabled and 204 status": Difference(
        "6.3", _AFTER_CLOSE, [(204, [("Connection", "close")], [], b"", True)], leftover=b"HTTP/1.1 200 OK"
    ),
    "Connection header / HTTP/1.1 with keep-alive disabled, content-length": Difference(
        "6.3",
        _AFTER_CLOSE,
        [(200, [("Content-Length", "5"), ("Connection", "close")], [], b"2ad73", True)],
        leftover=b"1e3-4dcd-4f70-b871-0ad284b29ffc",
    ),
    "Content-Length header / Tabs in `Content-Length` (surrounding)": Difference(
        "5.1",
        "white space after a value is no part of it",
        [(200, [("Content-Length", "42")], [], b"", False)],
    ),
    "Invalid responses / Invalid space after start line / Only LFs present and no body": Difference(
        "2.2", _LONE_LF, [(200, [("Content-Length", "0")], [], b"", True)]
    ),
    "Invalid responses / Invalid space after start line / Only LFs present": Difference(
        "2.2", _LONE_LF, [(200, [("Foo", "abc"), ("Bar", "def")], [], b"BODY\n\\", False)]
    ),
    "Sample responses / No carriage ret": Difference(
        "2.2",
        _LONE_LF,
        [
            (
                200,
                [("Content-Type", "text/html; charset=utf-8"), ("Connection", "close")],
                [],
                b"these headers are from http://news.ycombinator.com/",
                False,
            )
        ],
    ),
    "Sample responses / RTSP response": Difference("2.3", _VERSION, [], MalformedMessage),
    "Sample responses / ICE response": Difference("2.3", _VERSION, [], MalformedMessage),
    "Sample responses / HTTP version 0.9": Difference("2.3", _VERSION, [], MalformedMessage),
    "Transfer-Encoding header / Trailing space on chunked body": Difference(
        "7.1.1",
        "white space after a chunk size is bad, but means nothing else; servers that pad are in use",
        [
            (
                200,
                [("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked")],
                [],
                b"This is the data in the first chunk\r\nand this is the second one\r\n",
                True,
            )
        ],
    ),
}


def _input_of(case: dict[str, Any]) -> bytes:
    """The bytes of a case, with the CRLF that was lost if the input stops in a head or in chunked framing."""
    data = base64.b64decode(case["input"])
    body = base64.b64decode(case["messages"][-1]["body"])
    if data.endswith(b"\r\n") and not body.endswith(b"\r\n"):
        data += b"\r\n"
    return data


def _llhttp_saw(case: dict[str, Any]) -> list[Seen]:
    return [
        (
            message["status"],
            [(name, value) for name, value in message["headers"]],
            [(name, value) for name, value in message["trailers"]],
            base64.b64decode(message["body"]),
            message["complete"],
        )
        for message in case["messages"]
        if message["head_complete"]
    ]


def _we_saw(outcome: Outcome) -> list[Seen]:
    return [(m.head.status, m.head.fields, m.trailers, m.body, m.complete) for m in outcome.messages]


@pytest.mark.parametrize("pieces", ["whole", "byte by byte"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(case: dict[str, Any], pieces: str) -> None:
    data = _input_of(case)
    outcome = replay_all([data] if pieces == "whole" else byte_by_byte(data))
    difference = DIFFERENCES.get(case["name"])
    if difference is not None:
        assert _we_saw(outcome) == difference.messages
        assert outcome.error is difference.error
        assert outcome.leftover == difference.leftover
        alike = _we_saw(outcome) == _llhttp_saw(case) and (outcome.error is None) == (case["error"] is None)
        assert not alike, "no difference any more: take it from the list"
        return
    assert _we_saw(outcome) == _llhttp_saw(case)
    assert outcome.upgraded == (case["error"] == UPGRADE)
    failed = case["error"] is not None and case["error"] != UPGRADE
    assert outcome.error is (MalformedMessage if failed else None)


def test_every_difference_is_a_case() -> None:
    assert set(DIFFERENCES) <= {case["name"] for case in CASES}
    assert len({case["name"] for case in CASES}) == len(CASES)

"""The decoder after the standard (WHATWG HTML, sections 9.2.5 and 9.2.6), rule by rule, each stream cut in every way.

At random, and against the rules written out: test_differential. How large an event may be: test_limits.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from syncflow.sse import Decoder, ServerSentEvent

from .reference import Outcome, decode_utf8, interpret, replay, splittings

BOM = b"\xef\xbb\xbf"

Event = tuple[str, str, str, int | None]


def message(data: str, id: str = "", retry: int | None = None, event: str = "message") -> Event:
    return (event, data, id, retry)


@dataclass
class Case:
    """A stream, and what comes of it."""

    name: str
    stream: bytes
    events: list[Event] = field(default_factory=list)
    last_event_id: str = ""
    retry: int | None = None

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.events, self.last_event_id, self.retry)


BYTE_ORDER_MARK = [
    Case("one is stripped", BOM + b"data: a\n\n", [message("a")]),
    Case("a second one is part of a field's name", BOM + BOM + b"data: a\ndata: b\n\n", [message("b")]),
    Case("a second one makes a comment none", BOM + BOM + b": a\ndata: b\n\n", [message("b")]),
    Case("a second one makes a line of an empty one", b"data: a\n" + BOM + b"\ndata: b\n\n", [message("a\nb")]),
    Case("behind the first line it is none", b"\n" + BOM + b"data: a\n\ndata: b\n\n", [message("b")]),
    Case("in a value it stays", b"data: " + BOM + b"a\n\n", [message("\ufeffa")]),
    Case("a value is nothing else", b"data:" + BOM + b" a\n\n", [message("\ufeff a")]),
    Case("in front of an end of a line", BOM + b"\n\ndata: a\n\n", [message("a")]),
    Case("in front of a CR", BOM + b"\r\ndata: a\r\n\r\n", [message("a")]),
    Case("alone", BOM),
    Case("two thirds of one", BOM[:2] + b"data: a\n\ndata: b\n\n", [message("b")]),
    Case("one third of one", BOM[:1] + b"\ndata: b\n\n", [message("b")]),
    Case("another character that begins so", b"\xef\xbb\xbedata: a\ndata: b\n\n", [message("b")]),
    Case("of UTF-16 it is none", b"\xff\xfedata: a\ndata: b\n\n", [message("b")]),
]

ENDS_OF_LINES = [
    Case("LF", b"data: a\ndata: b\n\n", [message("a\nb")]),
    Case("CR", b"data: a\rdata: b\r\r", [message("a\nb")]),
    Case("CR LF", b"data: a\r\ndata: b\r\n\r\n", [message("a\nb")]),
    Case("LF, CR", b"data: a\n\r", [message("a")]),
    Case("CR, CR LF", b"data: a\r\r\n", [message("a")]),
    Case("CR LF, CR", b"data: a\r\n\r", [message("a")]),
    Case("CR LF, LF", b"data: a\r\n\n", [message("a")]),
    Case("LF, CR LF", b"data: a\n\r\n", [message("a")]),
    Case("CR LF is one, and no empty line", b"data: a\r\ndata: b\r\n"),
    Case("LF CR is two", b"data: a\n\rdata: b\n\r", [message("a"), message("b")]),
    Case("CR CR LF LF is three", b"data: a\r\r\n\ndata: b\r\r\n\n", [message("a"), message("b")]),
    Case("a CR, and then an event with LF", b"data: a\r\rdata: b\n\n", [message("a"), message("b")]),
    Case("a CR LF, and then an event with CR", b"data: a\r\n\r\ndata: b\r\r", [message("a"), message("b")]),
    Case("all of them in turn", b"data: 1\rdata: 2\ndata: 3\r\ndata: 4\n\n", [message("1\n2\n3\n4")]),
    Case("nothing else is one", "data: a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b\n\n".encode(), [
        message("a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b")
    ]),
    Case("another line in place of an empty one", b"data: a\n\ndata: b\n: c\ndata: d\n\ndata: e\n\n", [
        message("a"), message("b\nd"), message("e")
    ]),
    Case("only empty lines", b"\n\r\r\n\n\r\n"),
    Case("empty lines between events", b"\n\ndata: a\n\n\n\n\r\r\ndata: b\n\n\n", [message("a"), message("b")]),
    Case("nothing at all", b""),
]  # fmt: skip

UTF_8 = [
    Case("one to four bytes", "data: aß€😀\n\n".encode(), [message("aß€😀")]),
    Case("in a type and an ID", "event: ß\nid: €\ndata: 😀\n\n".encode(), [message("😀", "€", None, "ß")], "€"),
    Case("the first and the last of each length", "data: \x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff\n\n".encode(), [
        message("\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff")
    ]),
    Case("around the surrogates", "data: \ud7ff\ue000\n\n".encode(), [message("\ud7ff\ue000")]),
    Case("a byte that is never used", b"data: a\xffb\xfec\n\n", [message("a\ufffdb\ufffdc")]),
    Case("a byte that only goes on", b"data: a\x80\xbfb\n\n", [message("a\ufffd\ufffdb")]),
    Case("overlong, of two", b"data: \xc0\xaf\xc1\xbf\n\n", [message("\ufffd" * 4)]),
    Case("overlong, of three", b"data: \xe0\x80\xaf\n\n", [message("\ufffd" * 3)]),
    Case("overlong, of four", b"data: \xf0\x80\x80\xaf\n\n", [message("\ufffd" * 4)]),
    Case("overlong, and so no end of a line", b"data: a\xc0\x8a\xc0\x8a\n\n", [message("a" + "\ufffd" * 4)]),
    Case("a surrogate", b"data: \xed\xa0\x80\n\n", [message("\ufffd" * 3)]),
    Case("beyond the last one", b"data: \xf4\x90\x80\x80\xf5\n\n", [message("\ufffd" * 5)]),
    Case("cut short by another character", b"data: \xe2\x82a\xf0\x9f\x98b\n\n", [message("\ufffda\ufffdb")]),
    Case("cut short by another beginning", b"data: \xe2\x82\xe2\x82\xac\n\n", [message("\ufffd€")]),
    Case("cut short by a LF", b"data: \xe2\x82\n\n", [message("\ufffd")]),
    Case("cut short by a CR", b"data: \xf0\x9f\x98\r\r", [message("\ufffd")]),
    Case("cut short by a CR LF", b"data: \xc3\r\n\r\n", [message("\ufffd")]),
    Case("cut by an end of a line, it goes on on neither side", b"data: \xe2\x82\n\xac\n\n", [message("\ufffd")]),
    Case("what goes on in the next event", b"data: \xe2\x82\n\ndata: \xac\n\n", [message("\ufffd"), message("\ufffd")]),
    Case("in a field's name", b"da\xffta: a\ndata\xff: b\ndata: c\n\n", [message("c")]),
    Case("in place of an empty line", b"data: a\n\xff\ndata: b\n\n", [message("a\nb")]),
    Case("in an ID and a type", b"id: \xff\nevent: \xfe\ndata: a\n\n", [message("a", "�", None, "�")], "�"),
    Case("in a comment", b": \xff\xfe\ndata: a\n\n", [message("a")]),
    Case("the replacement itself", b"data: \xef\xbf\xbd\n\n", [message("\ufffd")]),
]  # fmt: skip

FIELDS = [
    Case("comments", b": a\n:b\n:\n::\ndata: x\n: c\ndata: y\n:data: z\n\n", [message("x\ny")]),
    Case("comments alone dispatch nothing", b": a\n\n:\n\n"),
    Case("one space is stripped", b"data: a\n\ndata:a\n\ndata:  a\n\ndata:   a \n\n", [
        message("a"), message("a"), message(" a"), message("  a ")
    ]),
    Case("a tab is not", b"data:\ta\ndata: \tb\n\n", [message("\ta\n\tb")]),
    Case("nor a no-break space", "data:\xa0a\n\n".encode(), [message("\xa0a")]),
    Case("a space alone", b"data: \n\ndata:  \n\n", [message(""), message(" ")]),
    Case("colons in a value", b"data: a:b: c\ndata::\ndata: :\n\n", [message("a:b: c\n:\n:")]),
    Case("a space in front of the name", b" data: a\n\ndata: b\n id: 1\n event: c\n retry: 5\n\n", [message("b")]),
    Case("a space behind the name", b"data : a\nid : 1\nevent : c\nretry : 5\ndata: b\n\n", [message("b")]),
    Case("names are case-sensitive", b"Data: a\nDATA: b\nID: 1\nEvent: c\nRETRY: 5\ndata: d\n\n", [message("d")]),
    Case("unknown names", b"foo: a\ndat: b\ndataa: c\nd: d\nx\ndata: e\n\n", [message("e")]),
    Case("unknown names alone dispatch nothing", b"foo: a\nbar\n\n"),
    Case("no name", b": data: a\ndata: b\n\n", [message("b")]),
    Case("without a colon", b"data\nevent\nid\nretry\n\n", [message("")]),
    Case("without a colon, in the middle", b"data: a\ndata\ndata: b\n\n", [message("a\n\nb")]),
    Case("NUL", b"data: a\0b\nevent: \0\n\n", [message("a\0b", event="\0")]),
    Case("NUL in a name", b"data\0: a\n\0data: b\ndata: c\n\n", [message("c")]),
]  # fmt: skip

DATA = [
    Case("empty", b"data:\n\n", [message("")]),
    Case("empty, without a colon", b"data\n\n", [message("")]),
    Case("two empty ones", b"data:\ndata\n\n", [message("\n")]),
    Case("three empty ones", b"data: \ndata:\ndata\n\n", [message("\n\n")]),
    Case("an empty one first", b"data\ndata: a\n\n", [message("\na")]),
    Case("an empty one last", b"data: a\ndata\n\n", [message("a\n")]),
    Case("several", b"data: a\ndata:b\ndata: c\n\n", [message("a\nb\nc")]),
    Case("it does not carry over", b"data: a\n\ndata: b\n\n", [message("a"), message("b")]),
    Case("what looks like a field", b"data: data: a\ndata: id: 1\n\n", [message("data: a\nid: 1")]),
    Case("none: nothing is dispatched", b"event: a\n\ndata: b\n\n", [message("b")]),
    Case("many plain events", b"data: a\n\n" * 5, [message("a")] * 5),
    Case("many plain ones with CR LF", b"data: a\r\n\r\n" * 5, [message("a")] * 5),
]

TYPES = [
    Case("it is set", b"event: a\ndata: b\n\n", [message("b", event="a")]),
    Case("behind the data", b"data: b\nevent: a\n\n", [message("b", event="a")]),
    Case("the last one counts", b"event: a\nevent: b\ndata: c\n\n", [message("c", event="b")]),
    Case("it is reset by a dispatch", b"event: a\ndata: b\n\ndata: c\n\n", [message("b", event="a"), message("c")]),
    Case("it is reset where nothing was dispatched", b"event: a\n\ndata: b\n\n", [message("b")]),
    Case("empty is message", b"event:\ndata: a\n\nevent: \ndata: b\n\nevent\ndata: c\n\n", [*map(message, "abc")]),
    Case("empty takes another back", b"event: a\nevent:\ndata: b\n\n", [message("b")]),
    Case("message is one like any other", b"event: message\ndata: a\n\n", [message("a")]),
    Case("spaces", b"event:  a \ndata: b\n\n", [message("b", event=" a ")]),
]

IDS = [
    Case("it is set", b"id: 1\ndata: a\n\n", [message("a", "1")], "1"),
    Case("behind the data", b"data: a\nid: 1\n\n", [message("a", "1")], "1"),
    Case("the last one counts", b"id: 1\ndata: a\nid: 2\n\n", [message("a", "2")], "2"),
    Case("it persists", b"id: 1\ndata: a\n\ndata: b\n\ndata: c\n\n", [message(d, "1") for d in "abc"], "1"),
    Case("empty resets it", b"id: 1\ndata: a\n\nid:\ndata: b\n\ndata: c\n\n", [
        message("a", "1"), message("b"), message("c")
    ]),
    Case("empty without a colon resets it", b"id: 1\ndata: a\n\nid\ndata: b\n\n", [message("a", "1"), message("b")]),
    Case("with NUL it is ignored", b"id: 1\nid: a\0b\ndata: a\n\n", [message("a", "1")], "1"),
    Case("NUL alone is ignored", b"id: 1\ndata: a\n\nid: \0\ndata: b\n\n", [message("a", "1"), message("b", "1")], "1"),
    Case("without data it counts", b"id: 1\n\n", [], "1"),
    Case("without data it counts for the next event", b"id: 1\n\ndata: a\n\n", [message("a", "1")], "1"),
    Case("without data it resets", b"id: 1\ndata: a\n\nid\n\n", [message("a", "1")], ""),
    Case("of an event that is not finished it does not count", b"id: 1\ndata: a\n\nid: 2\ndata: b\n", [
        message("a", "1")
    ], "1"),
    Case("of an event with nothing else that is not finished", b"id: 1\n"),
    Case("spaces", b"id:  1 \ndata: a\n\n", [message("a", " 1 ")], " 1 "),
    Case("one for many plain events", b"id: 1\ndata: a\n\n" + b"data: b\n\n" * 3, [
        message("a", "1"), *[message("b", "1")] * 3
    ], "1"),
]  # fmt: skip

RETRIES = [
    Case("digits", b"retry: 1500\ndata: a\n\n", [message("a", retry=1500)], retry=1500),
    Case("0", b"retry: 0\ndata: a\n\n", [message("a", retry=0)], retry=0),
    Case("zeros in front", b"retry:0012\ndata: a\n\n", [message("a", retry=12)], retry=12),
    Case("behind the data", b"data: a\nretry: 7\n\n", [message("a", retry=7)], retry=7),
    Case("the last one counts", b"retry: 7\nretry: 8\ndata: a\n\n", [message("a", retry=8)], retry=8),
    Case("without data it takes effect", b"retry: 7\n\n", [], retry=7),
    Case("at once", b"retry: 7\n", [], retry=7),
    Case("it is of one event", b"retry: 7\ndata: a\n\ndata: b\n\n", [message("a", retry=7), message("b")], retry=7),
    Case("without data it is of none", b"retry: 7\n\ndata: a\n\n", [message("a")], retry=7),
    *[
        Case(f"{value!r} is ignored", b"retry: 7\n\nretry:%b\ndata: a\n\n" % value, [message("a")], retry=7)
        for value in (
            b"", b" ", b" 1 ", b"1 ", b"  1", b"+1", b"-1", b"1.0", b"1e3", b"0x1", b"1_0", b"a", b"1a", b"1\0", b"\t1",
            "\u0661".encode(), "\uff11".encode(), "\xb2".encode(), b"1\xff", b"1,5", b":1",
        )
    ],
    Case("a name alone is ignored", b"retry\ndata: a\n\n", [message("a")]),
    Case("what is ignored leaves the one before", b"retry: 7\nretry: x\ndata: a\n\n", [message("a", retry=7)], retry=7),
    Case("an unfinished line says nothing yet", b"data: a\n\nretry: 7", [message("a")]),
]  # fmt: skip

ENDS_OF_STREAMS = [
    Case("an unfinished line", b"data: a\n\ndata: b", [message("a")]),
    Case("without the empty line", b"data: a\n\ndata: b\n", [message("a")]),
    Case("without the empty line, with CR LF", b"data: a\r\n\r\ndata: b\r\n", [message("a")]),
    Case("within a character", b"data: a\n\ndata: \xe2\x82", [message("a")]),
    Case("within a name", b"data: a\n\nda", [message("a")]),
]

# The same points in words of our own: each has the name of the test that makes it.
WEB_PLATFORM_TESTS = [
    Case("event-data", b"data:one\ndata: two\n\n:\n\nfalsefield:x\n\ndata\n\n\n\nData:none\n\ndata:three\n\n", [
        message("one\ntwo"), message(""), message("three")
    ]),
    Case("format-bom", BOM + b"data:a\n\n" + BOM + b"data:b\n\ndata:c\n\n", [message("a"), message("c")]),
    Case("format-bom-2", BOM * 2 + b"data:a\n\ndata:b\n\ndata:c\n\n", [message("b"), message("c")]),
    Case(
        "format-comments",
        b"data:a\r:\0\n:\r\ndata:b\n:" + b"y" * 99 + b"\rdata:c\n:data:none\r:" + b"z" * 99 + b"\ndata:d\n\n",
        [message("a\nb\nc\nd")],
    ),
    Case("format-data-before-final-empty-line", b"retry:5\ndata:a\n\nid:b\ndata:c", [message("a", retry=5)], retry=5),
    Case("format-field-data", b"data:\n\ndata\ndata\n\ndata:a\n\n", [message(""), message("\n"), message("a")]),
    Case("format-field-event", b"event:a\ndata:b\n\ndata:b\n\n", [message("b", event="a"), message("b")]),
    Case("format-field-event-empty", b"event: \ndata:a\n\n", [message("a")]),
    Case("format-field-id", "id:…\nretry:9\ndata:a\n\n".encode(), [message("a", "…", 9)], "…", 9),
    Case("format-field-id-2", "id: …\ndata:a\n\ndata:b\n\n".encode(), [message("a", "…"), message("b", "…")], "…"),
    Case("format-field-id-3, persists", b"id:1\ndata:a\n\ndata:b\n\nid:2\ndata:c\n\ndata:d\n\n", [
        message("a", "1"), message("b", "1"), message("c", "2"), message("d", "2")
    ], "2"),
    Case("format-field-id-3, resets", b"id:1\ndata:a\n\nid:\ndata:b\n\ndata:c\n\n", [
        message("a", "1"), message("b"), message("c")
    ]),
    Case("format-field-id-3, resets without colon", b"id:1\ndata:a\n\nid\ndata:b\n\ndata:c\n\n", [
        message("a", "1"), message("b"), message("c")
    ]),
    *[
        Case(f"format-field-id-null, {value!r}", b"id:%b\ndata:a\n\ndata:b\n\n" % value, [message("a"), message("b")])
        for value in (b"\0\0", b"a\0", b"\0a", b"a\0a", b" \0")
    ],
    Case(
        "format-field-parsing",
        b"data:\0\ndata:  b\rData:x\ndata\0:x\ndata:c\r\0data:x\nda-ta:x\rdata_x\ndata:d\rdata:\r\n data:x\ndata:e\n\n",
        [message("\0\n b\nc\nd\n\ne")],
    ),
    Case("format-field-retry", b"retry:0700\ndata:a\n\n", [message("a", retry=700)], retry=700),
    Case("format-field-retry-bogus", b"retry:70\nretry:10x\ndata:a\n\n", [message("a", retry=70)], retry=70),
    Case("format-field-retry-empty", b"retry\ndata:a\n\n", [message("a")]),
    Case("format-field-unknown", b"data:a\n data\ndata\nwhat:x\nwords\n:a comment\ndata:b\n\n", [message("a\n\nb")]),
    Case("format-leading-space", b"data:\ta\rdata: \ndata:b\n\n", [message("\ta\n\nb")]),
    Case("format-newlines", b"data:a\r\ndata\ndata:b\r\n\r", [message("a\n\nb")]),
    Case("format-null-character", b"data:\0\n\n", [message("\0")]),
    Case("format-utf-8", "data:yes…\n\n".encode(), [message("yes…")]),
]  # fmt: skip

# The streams that the standard shows in sections 9.2.1 and 9.2.6, in words of our own. It says what comes of each.
EXAMPLES = [
    Case("9.2.1: messages of one line and of two", b"data: One.\n\ndata: Two, it\ndata: goes on.\n\ndata: Three.\n\n", [
        message("One."), message("Two, it\ngoes on."), message("Three.")
    ]),
    Case("9.2.1: two types", b"event: in\ndata: 7\n\nevent: out\ndata: 2\n\nevent: in\ndata: 1\n\n", [
        message("7", event="in"), message("2", event="out"), message("1", event="in")
    ]),
    Case("9.2.6: three lines of data", b"data: AB\ndata: +1\ndata: 20\n\n", [message("AB\n+1\n20")]),
    Case("9.2.6: a comment, an ID, its reset, a space, and an end that comes too soon",
         b": a comment\n\ndata: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n", [
        message("first", "1"), message("second")
    ]),
    Case("9.2.6: empty, a line feed, and nothing", b"data\n\ndata\ndata\n\ndata:", [message(""), message("\n")]),
    Case("9.2.6: with the space and without", b"data:same\n\ndata: same\n\n", [message("same")] * 2),
]  # fmt: skip

CASES = {
    f"{group}: {case.name}": case
    for group, cases in {
        "bom": BYTE_ORDER_MARK,
        "line": ENDS_OF_LINES,
        "utf-8": UTF_8,
        "field": FIELDS,
        "data": DATA,
        "event": TYPES,
        "id": IDS,
        "retry": RETRIES,
        "end": ENDS_OF_STREAMS,
        "wpt": WEB_PLATFORM_TESTS,
        "standard": EXAMPLES,
    }.items()
    for case in cases
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_however_it_is_cut(case: Case) -> None:
    # So that it can be trusted where streams are made at random.
    assert interpret(case.stream) == case.outcome, "the reference"
    for pieces in splittings(case.stream):
        assert replay(pieces) == case.outcome, pieces


def test_the_reference_decodes_as_python_does() -> None:
    """Every sequence of bytes that may matter, which are the borders of the ranges in its decoder."""
    edges = [0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF4, 0xF5]
    for first in edges:
        for second in edges:
            for third in (0x41, 0x80, 0xBF, 0xC2, 0xE0):
                stream = bytes([first, second, third, 0x80, 0x41, first])
                assert decode_utf8(stream) == stream.decode("utf-8", "replace")


# ------------------------------------------------------------------------------------------ what the table cannot say


def test_an_event_is_dispatched_by_the_cr_of_its_empty_line() -> None:
    """Nobody waits for the LF that may follow, and if it comes, it is no further line."""
    decoder = Decoder()
    assert decoder.feed(b"data: a\r\n\r") == [ServerSentEvent(data="a")]
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\ndata: b\r\r") == [ServerSentEvent(data="b")]
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"data: c\r") == []
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"data: d\n") == []
    assert decoder.feed(b"\n") == [ServerSentEvent(data="c\nd")]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_is_dispatched_by_the_end_of_its_empty_line(end: bytes) -> None:
    """Of a CR LF by its first byte."""
    decoder = Decoder()
    for data in ("a", "b", "c"):
        assert decoder.feed(f"data: {data}".encode() + end) == []
        assert decoder.feed(end[:1]) == [ServerSentEvent(data=data)]
        assert decoder.feed(end[1:]) == []


def test_retry_and_the_id_are_known_when_they_count() -> None:
    """A time to wait at once, an ID with the empty line."""
    decoder = Decoder(last_event_id="0")
    decoder.feed(b"retry: 5\nid: 1\n")
    assert (decoder.retry, decoder.last_event_id) == (5, "0")
    decoder.feed(b"\n")
    assert (decoder.retry, decoder.last_event_id) == (5, "1")


def test_an_id_of_the_streams_before() -> None:
    stream = b"data: a\n\nid: 8\ndata: b\n\nid\ndata: c\n\n"
    expected = Outcome([message("a", "7"), message("b", "8"), message("c")])
    assert interpret(stream, "7") == expected
    for pieces in splittings(stream):
        assert replay(pieces, Decoder(last_event_id="7")) == expected


def test_a_retry_that_the_owner_takes_does_not_come_back() -> None:
    decoder = Decoder()
    decoder.feed(b"retry: 5\n")
    decoder.retry = None
    assert decoder.feed(b"data: a\n\n") == [ServerSentEvent(data="a", retry=5)]
    assert decoder.retry is None


@pytest.mark.parametrize("digits", [640, 641, 4000, 4001, 5000, 100_000])
def test_a_retry_of_very_many_digits_is_no_error(digits: int) -> None:
    """Whatever the program has set as the limit of `int`, which is at least 640."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        decoder = Decoder()
        (event,) = decoder.feed(b"retry: 7\n\nretry: %b\ndata: a\n\n" % (b"9" * digits))
    finally:
        sys.set_int_max_str_digits(limit)
    if digits > 640:
        assert (event.retry, decoder.retry) == (None, 7)
    else:
        assert event.retry == decoder.retry == 10**640 - 1


def test_events_are_of_their_class() -> None:
    """Also those that are made in the quick ways."""
    for stream in (b"data: a\n\n", b"event: b\ndata: a\n\n", b"data: a\ndata: b\n\n"):
        (event,) = Decoder().feed(stream)
        assert type(event) is ServerSentEvent


@pytest.mark.parametrize("size", [None, 1.5, "1", True])
def test_the_limit_is_a_number(size: Any) -> None:
    with pytest.raises(TypeError, match="max_event_size is a number of bytes"):
        Decoder(max_event_size=size)


@pytest.mark.parametrize("size", [0, -1])
def test_the_limit_is_positive(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Decoder(max_event_size=size)

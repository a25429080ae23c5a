"""One event: what it is like as a value, the bytes it is written as, and that a decoder makes an equal one of them."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import syncflow
from syncflow import JSONDecodeError
from syncflow.sse import Decoder, ServerSentEvent, encode

from .reference import cut, interpret, replay, splittings
from .strategies import REPEATABLE

MOST = 10**640 - 1

# ------------------------------------------------------------------------------------------------- as a value


def test_what_it_is_unless_something_else_is_said() -> None:
    assert ServerSentEvent() == ServerSentEvent("message", "", "", None)
    assert ServerSentEvent("a", "b", "c", 5) == ServerSentEvent(event="a", data="b", id="c", retry=5)


def test_it_never_changes() -> None:
    event = ServerSentEvent(data="a")
    for name in ("event", "data", "id", "retry", "other"):
        with pytest.raises(AttributeError):
            setattr(event, name, "b")
    assert event._replace(data="b") == ServerSentEvent(data="b")
    assert event == ServerSentEvent(data="a")


def test_it_can_be_compared_and_be_a_key() -> None:
    event = ServerSentEvent("a", "b", "c", 5)
    same = ServerSentEvent("a", "b", "c", 5)
    assert event == same
    assert hash(event) == hash(same)
    for other in (event._replace(event="x"), event._replace(data="x"), event._replace(id="x"), event._replace(retry=6)):
        assert event != other
        assert len({event, same, other}) == 2


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_can_be_pickled(protocol: int) -> None:
    event = ServerSentEvent("a", "b\nc", "€", 5)
    again = pickle.loads(pickle.dumps(event, protocol))
    assert again == event
    assert type(again) is ServerSentEvent


def test_it_can_be_copied_and_shown() -> None:
    (event,) = Decoder().feed(b"data: a\n\n")  # made in the quick way
    assert type(copy.copy(event)) is type(copy.deepcopy(event)) is ServerSentEvent
    assert copy.deepcopy(event) == event
    assert repr(event) == "ServerSentEvent(event='message', data='a', id='', retry=None)"


def test_it_can_be_matched() -> None:
    match ServerSentEvent("a", "b"):
        case ServerSentEvent(event="a", data=data):
            assert data == "b"
        case _:
            pytest.fail("no match")


# ------------------------------------------------------------------------------------------------- as JSON


def test_its_data_as_json() -> None:
    assert ServerSentEvent(data='{"a": [1, "€"]}').json() == {"a": [1, "€"]}
    assert ServerSentEvent(data='{"a":\n1}').json() == {"a": 1}
    assert ServerSentEvent(data="1.5").json(parse_float=str) == "1.5"


@pytest.mark.parametrize("data", ["", "[DONE]", '{"a": 1', "{'a': 1}"])
def test_data_that_is_no_json(data: str) -> None:
    with pytest.raises(JSONDecodeError) as caught:
        ServerSentEvent(data=data).json()
    error = caught.value
    assert isinstance(error, json.JSONDecodeError)
    assert isinstance(error, syncflow.RequestException)
    assert error.doc == data
    assert isinstance(error.__cause__, json.JSONDecodeError)
    assert (error.msg, error.pos) == (error.__cause__.msg, error.__cause__.pos)


# ------------------------------------------------------------------------------------------------- as bytes

WRITTEN = [
    (ServerSentEvent(), b"data: \n\n"),
    (ServerSentEvent(data="a"), b"data: a\n\n"),
    (ServerSentEvent(data="a\nb"), b"data: a\ndata: b\n\n"),
    (ServerSentEvent(data="\n"), b"data: \ndata: \n\n"),
    (ServerSentEvent(data="a\n"), b"data: a\ndata: \n\n"),
    (ServerSentEvent(data=" a"), b"data:  a\n\n"),
    (ServerSentEvent(data="data: a"), b"data: data: a\n\n"),
    (ServerSentEvent(data="€😀"), b"data: \xe2\x82\xac\xf0\x9f\x98\x80\n\n"),
    (ServerSentEvent(data="\0\ufeff\x0b\x0c\x85\u2028"), b"data: \0\xef\xbb\xbf\x0b\x0c\xc2\x85\xe2\x80\xa8\n\n"),
    (ServerSentEvent(event="a", data="b"), b"event: a\ndata: b\n\n"),
    (ServerSentEvent(event=" a: ", data="b"), b"event:  a: \ndata: b\n\n"),
    (ServerSentEvent(event="\0", data="b"), b"event: \0\ndata: b\n\n"),
    (ServerSentEvent(event="message", data="b"), b"data: b\n\n"),
    (ServerSentEvent(event="Message", data="b"), b"event: Message\ndata: b\n\n"),
    (ServerSentEvent(id="7", data="b"), b"id: 7\ndata: b\n\n"),
    (ServerSentEvent(id=" ", data="b"), b"id:  \ndata: b\n\n"),
    (ServerSentEvent(id="\ufeff", data="b"), b"id: \xef\xbb\xbf\ndata: b\n\n"),
    (ServerSentEvent(retry=0), b"retry: 0\ndata: \n\n"),
    (ServerSentEvent(retry=1500), b"retry: 1500\ndata: \n\n"),
    (ServerSentEvent("a", "b\nc", "7", 5), b"event: a\nid: 7\nretry: 5\ndata: b\ndata: c\n\n"),
]


@pytest.mark.parametrize(("event", "written"), WRITTEN)
def test_it_is_written_and_read(event: ServerSentEvent, written: bytes) -> None:
    assert encode(event) == written
    assert interpret(written).events == [event]
    for pieces in splittings(written):
        assert replay(pieces).events == [event]


def test_a_very_long_reconnection_time() -> None:
    event = ServerSentEvent(retry=MOST)
    assert encode(event) == b"retry: %b\ndata: \n\n" % (b"9" * 640)
    assert Decoder().feed(encode(event)) == [event]


REFUSED: list[tuple[dict[str, Any], str]] = [
    *[({"event": text}, "the event of an event is one line") for text in ("a\nb", "a\rb", "\n", "a\r\n")],
    ({"event": ""}, "an event without a type is a 'message', not ''"),
    *[({"id": text}, "the id of an event is one line") for text in ("a\nb", "a\rb", "\r", "1\n")],
    *[({"id": text}, "cannot have a NUL in it") for text in ("\0", "a\0b")],
    *[({"data": text}, "cannot have a carriage return in it") for text in ("\r", "a\r\nb", "a\r")],
    *[({"retry": value}, f"from 0, not {value!r}") for value in (-1, 1.0, 1.5, True, False, "5", b"5")],
    *[({"retry": value}, "more than 640 digits") for value in (MOST + 1, 10**5000)],
    *[({name: "a\ud800"}, "surrogates not allowed") for name in ("event", "data", "id")],
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_no_stream_can_carry_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(ServerSentEvent(**{"data": "a", **fields}))


# ------------------------------------------------------------------------------------------------- there and back

TEXTS = st.text(
    st.one_of(st.characters(), st.sampled_from("\n\n\r\0 :\ufeff\x85\u2028\ud800"), st.sampled_from("data: id")),
    max_size=20,
)
LINES = TEXTS.map(lambda text: text.replace("\n", "").replace("\r", ""))
EVENTS = st.builds(
    ServerSentEvent,
    event=st.one_of(st.just("message"), LINES, TEXTS),
    data=st.one_of(LINES, TEXTS),
    id=st.one_of(st.just(""), LINES, TEXTS),
    retry=st.one_of(st.none(), st.integers(-1, 10_000), st.integers(MOST - 1, MOST + 1), st.booleans()),
)
PLACES = st.lists(st.integers(0, 200), max_size=10)


def can_be_carried(event: ServerSentEvent) -> bool:
    """What the docstring of `encode` says."""
    if set(event.event + event.id) & set("\r\n") or "\r" in event.data or "\0" in event.id or not event.event:
        return False
    if any("\ud800" <= character <= "\udfff" for character in event.event + event.data + event.id):
        return False
    return event.retry is None or (type(event.retry) is int and 0 <= event.retry <= MOST)


def written(event: ServerSentEvent) -> bytes | None:
    """None if it is refused."""
    try:
        return encode(event)
    except ValueError:
        return None


@REPEATABLE
@given(EVENTS, PLACES)
def test_any_event_in_any_pieces(event: ServerSentEvent, places: list[int]) -> None:
    stream = written(event)
    assert (stream is not None) == can_be_carried(event)
    if stream is not None:
        decoder = Decoder()
        assert [again for piece in cut(stream, places) for again in decoder.feed(piece)] == [event]
        assert decoder.last_event_id == event.id


@REPEATABLE
@given(st.lists(EVENTS.filter(can_be_carried), max_size=6), PLACES)
def test_any_events_in_any_pieces(events: list[ServerSentEvent], places: list[int]) -> None:
    """But for an ID: an event without one has that of the event before it."""
    expected: list[ServerSentEvent] = []
    for event in events:
        expected.append(event._replace(id=event.id or (expected[-1].id if expected else "")))
    stream = b"".join(map(encode, events))
    decoder = Decoder()
    assert [again for piece in cut(stream, places) for again in decoder.feed(piece)] == expected
    # With the IDs that they were read with they can be written again, as who relays them does.
    decoder = Decoder()
    assert decoder.feed(b"".join(map(encode, expected))) == expected

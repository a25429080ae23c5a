"""Last-Event-ID: what it says, when it is sent; and that with it no event comes twice, in part, or not at all.

WHATWG HTML, sections 9.2.3 and 9.2.4. The cases "web-platform-tests" are retold from eventsource/format-field-id*.js.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from syncflow import InvalidHeader, Session
from syncflow.testing import Peer, Request, last_chunk

from .rig import Answer, Source, begin, data_of, drops, follow, holds, no_more, numbered, whole

SessionMaker = Callable[..., Session]


@pytest.fixture
def session(new_session: SessionMaker) -> Session:
    return new_session()


# ---------------------------------------------------------------------- what it says


def test_web_platform_tests_last_event_id(session: Session) -> None:
    """An ID in UTF-8 comes back; a connection whose events have none does not change it; an empty one resets it."""
    with Source(
        whole("id: …\ndata: hello\n\n"), whole("data: without\n\n"), whole("id\ndata: reset\n\n"), whole(), no_more
    ) as server:
        events = list(follow(session, server.url))
        assert data_of(events) == ["hello", "without", "reset"]
        assert [event.id for event in events] == ["…", "…", ""]
        assert server.ids == [None, "…", "…", None, None]


def test_web_platform_tests_an_id_with_a_nul_is_none(session: Session) -> None:
    with Source(whole("id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n"), no_more) as server:
        assert [event.id for event in follow(session, server.url)] == ["1", "1"]
        assert server.ids == [None, "1"]


def test_the_programs_own_to_begin_with(session: Session) -> None:
    with Source(drops(), whole("data: a\n\nid: 8\ndata: b\n\n"), no_more) as server:
        with follow(session, server.url, last_event_id="ü7") as stream:
            assert stream.last_event_id == "ü7"
            first, second = stream
        assert (first.id, second.id, stream.last_event_id) == ("ü7", "8", "8")
        assert server.ids == ["ü7", "ü7", "8"]
    with Source(no_more) as server:
        for nothing in ("", None, " "):
            assert list(follow(session, server.url, last_event_id=nothing)) == []
        assert server.ids == [None] * 3


@pytest.mark.parametrize("ending", [whole, drops])
def test_an_event_without_data_has_its_id(session: Session, ending: Callable[[str], Answer]) -> None:
    """It is not handed out, and the stream goes on behind it."""
    with Source(ending(numbered(1) + "id: 2\n\n"), no_more) as server:
        stream = follow(session, server.url)
        assert [event.id for event in stream] == ["1"]
        assert stream.last_event_id == "2"
        assert server.ids == [None, "2"]


def test_an_unfinished_event_has_none(session: Session) -> None:
    with Source(drops(numbered(1) + "id: 2\ndata: b\n"), no_more) as server:
        assert [event.id for event in follow(session, server.url)] == ["1"]
        assert server.ids == [None, "1"]


def test_it_is_the_one_of_the_last_event_that_was_handed_out(session: Session) -> None:
    with Source(holds(numbered(1, 2, 3))) as server:
        with follow(session, server.url) as stream:
            for number in (1, 2, 3):
                next(stream)
                assert stream.last_event_id == str(number)
        with follow(session, server.url) as stream:
            while not (events := stream.batch()):
                assert events is not None
            assert stream.last_event_id == events[-1].id


def test_white_space_around_it_stays_behind(session: Session) -> None:
    """No header has it (RFC 9110, section 5.5), and the Fetch standard takes it off."""
    with Source(whole("id:  7 \ndata: a\n\n"), no_more) as server:
        assert [event.id for event in follow(session, server.url)] == [" 7 "]
        assert server.ids == [None, "7"]


def test_it_goes_before_the_header_that_the_program_sets(session: Session) -> None:
    with Source(whole(numbered(1)), no_more) as server:
        assert data_of(follow(session, server.url, headers={"last-event-id": "mine"})) == ["1"]
        assert server.ids == ["mine", "1"]


@pytest.mark.parametrize("id_", ["a\x01b", "\x7f"])
def test_one_that_no_header_may_have_is_an_error(session: Session, id_: str) -> None:
    with Source(whole(f"id: {id_}\ndata: a\n\n")) as server:
        stream = follow(session, server.url)
        assert next(stream).id == id_
        for _ in range(2):
            with pytest.raises(InvalidHeader, match="the value of field Last-Event-ID has a CR, LF, NUL or another"):
                next(stream)
        assert len(server.seen) == 1


@pytest.mark.parametrize("id_", ["a\nX-Evil: b", "\r", "\0", "\x1b[m", "\ud800"])
def test_one_of_the_program_that_no_header_may_have_is_refused(session: Session, id_: str) -> None:
    with pytest.raises(InvalidHeader, match=r"^host\.invalid:81: last_event_id has a character in it") as caught:
        session.sse("http://host.invalid:81/", last_event_id=id_)
    assert caught.value.request is not None


# ---------------------------------------------------------------------- each event once and whole


def event(number: int) -> bytes:
    """With a line of data that is cut in many ways, and a comment now and then."""
    comment = b": keep-alive\n\n" if number % 5 == 0 else b""
    return b"%bid: %d\nevent: kind\ndata: \xc3\xbc %d\ndata\n\n" % (comment, number, number)


def replaying(count: int, cut: Callable[[int], int | None]) -> Answer:
    """Goes on behind Last-Event-ID, up to the byte at which `cut` cuts this connection off, None for the end; then it
    has no more. Every second one is reset, which may destroy what has not been read."""
    connections = 0

    def answer(peer: Peer, request: Request) -> None:
        nonlocal connections
        done = int(request.headers.get("last-event-id", "0"))
        if done == count:
            no_more(peer, request)
            return
        end = cut(connections)
        connections += 1
        begin(peer, "retry: 1\n")
        content = b"".join(event(number) for number in range(done + 1, count + 1))[:end]
        peer.send(b"%x\r\n%b\r\n" % (len(content), content) if content else b"")
        if end is None:
            peer.send(last_chunk())
        elif connections % 2:
            peer.close()
        else:
            peer.reset()

    return answer


def check_all(session: Session, answer: Answer, count: int) -> None:
    with Source(answer) as server:
        events = list(follow(session, server.url))
    assert [event.id for event in events] == [str(number) for number in range(1, count + 1)]
    assert all((event.event, event.data) == ("kind", f"ü {event.id}\n") for event in events)


def test_the_connection_cut_at_every_byte(session: Session) -> None:
    content = b"".join(map(event, range(1, 4)))
    for at in range(len(content) + 1):
        check_all(session, replaying(3, lambda number, at=at: at if number == 0 else None), 3)  # type: ignore[misc]


@pytest.mark.parametrize("seed", [1, 2])
def test_hundreds_of_connections_cut_anywhere(session: Session, seed: int) -> None:
    chance = random.Random(seed)
    check_all(session, replaying(150, lambda number: chance.randrange(20, 120)), 150)

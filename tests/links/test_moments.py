"""Bad links at moments that no list of places has: at every byte, while nothing is under way, while much is; and limits
of time on links that are only slow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from syncflow import (
    ChunkedEncodingError,
    ConnectionError,
    Retry,
    Session,
    Timeouts,
    TotalTimeout,
    WriteTimeout,
)
from syncflow.testing import AppServer, FaultProxy, Link, Request, Response, chunk, eventually, last_chunk, pattern

from ..concurrency import Call
from .conftest import GENEROUS
from .tasks import BODY, DIGEST, EVENTS, SMALL, Place, answer, get

pytestmark = pytest.mark.once

SessionHere = Callable[[Timeouts], Session]

FEW = [b"all ", b"is", b" well"]


def short(request: Request) -> Response:
    """An answer of each framing, of few bytes."""
    return Response(body=b"".join(FEW) if request.path == "/sized" else iter(FEW))


# ------------------------------------------------------------------------------------------- at every byte


@pytest.mark.parametrize("path", ["/sized", "/chunked"])
@pytest.mark.parametrize("what", ["cut", "reset"])
def test_a_break_at_every_byte_of_the_answer(session_here: SessionHere, what: str, path: str) -> None:
    session = session_here(GENEROUS)
    with AppServer(short) as server, FaultProxy(server.address) as proxy:
        url = proxy.url + path
        total = bytes_down_of(session_here(GENEROUS), url, proxy)
        framed = sum(map(len, FEW)) if path == "/sized" else sum(len(chunk(piece)) for piece in FEW) + len(last_chunk())
        for at in range(total):
            proxy.change(down=[Link(**{f"{what}_after": at})])
            with pytest.raises((ConnectionError, ChunkedEncodingError)) as caught:
                session.get(url)
            error = caught.value
            if at < total - framed:
                assert isinstance(error, ConnectionError), at
                assert error.phase in ("connect", "send", "head")
            else:
                assert isinstance(error, ChunkedEncodingError), at
                assert error.phase == "body"
                assert error.response is not None
        proxy.heal()
        assert session.get(url).content == b"".join(FEW)
        assert proxy.connections == total + 2


@pytest.mark.parametrize("what", ["cut", "reset"])
def test_a_break_at_every_byte_of_the_request(session_here: SessionHere, what: str) -> None:
    """Whoever has not all of it does not answer; whoever has, may have."""
    session = session_here(GENEROUS)
    with AppServer(short) as server, FaultProxy(server.address) as proxy:
        session.put(f"{proxy.url}/sized", data=SMALL)
        eventually(lambda: proxy.bytes_down)
        total = proxy.bytes_up
        proxy.cut()
        for at in range(total + 1):
            proxy.change(up=[Link(**{f"{what}_after": at})])
            with pytest.raises(ConnectionError) as caught:
                session.put(f"{proxy.url}/sized", data=SMALL)
            assert caught.value.phase in ("connect", "send", "head")
            assert caught.value.bytes_received == 0
        if what == "cut":  # a reset may destroy what has come before it
            eventually(lambda: server.requests == 2, message="the first, and the last of the others")
        assert server.requests <= 2


def bytes_down_of(session: Session, url: str, proxy: FaultProxy) -> int:
    """Of a GET. The proxy counts a little after it has passed on, so all is counted once the connection is over."""
    with session:
        session.get(url)
    proxy.wait_until_idle()
    return proxy.bytes_down


# ------------------------------------------------------------------------------------------- between two requests


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("what", ["cut", "reset"])
def test_a_connection_that_ends_while_it_is_idle_is_not_used(session_here: SessionHere, what: str, method: str) -> None:
    session = session_here(GENEROUS)
    with AppServer(short) as server, FaultProxy(server.address) as proxy:
        for count in range(1, 6):
            assert session.request(method, f"{proxy.url}/sized").status_code == 200
            assert proxy.connections == count
            getattr(proxy, what)()
            eventually(lambda count=count: proxy.struck == count)  # type: ignore[misc]
        assert server.requests == 5


@pytest.mark.parametrize("what", ["cut", "reset"])
def test_what_is_not_idempotent_is_not_sent_again(session_here: SessionHere, what: str) -> None:
    """Lost with its connection before a byte of the answer: a GET would be."""
    session = session_here(GENEROUS)
    with AppServer(short) as server, FaultProxy(server.address) as proxy:
        for method, connections in (("GET", 2), ("POST", 1)):
            session.get(f"{proxy.url}/sized")
            used, asked = proxy.connections, server.requests
            eventually(lambda asked=asked: server.requests == asked)  # type: ignore[misc]
            proxy.change(up=Link(**{f"{what}_after": proxy.bytes_up + 1}))
            with contextlib.nullcontext() if method == "GET" else pytest.raises(ConnectionError, match="idle"):
                session.request(method, f"{proxy.url}/sized")
            assert proxy.connections == used + connections - 1
            proxy.heal()


# ------------------------------------------------------------------------------------------- limits of time


def test_a_link_that_is_slow_is_not_silent(session_here: SessionHere) -> None:
    """The limits of silence are shorter than the transfers."""
    session = session_here(Timeouts(connect=10, read=0.8, write=0.8, pool=10))
    slow = Link(bandwidth=30_000)
    with AppServer(answer) as server, FaultProxy(server.address, up=slow, down=slow, receive_buffer=4096) as proxy:
        place = Place(session, proxy.url, Path())
        assert session.get(f"{proxy.url}/big").content == BODY
        get(place)
        assert session.put(f"{proxy.url}/upload", data=BODY).status_code == 200
        assert proxy.connections == 1


@pytest.mark.parametrize("task", ["content", "stream", "upload"])
def test_the_deadline_over_everything_holds_on_a_slow_link(session_here: SessionHere, task: str) -> None:
    session = session_here(Timeouts(connect=10, read=10, write=10, pool=10, total=0.3))
    slow = Link(bandwidth=10_000)
    with AppServer(answer) as server, FaultProxy(server.address, up=slow, down=slow, receive_buffer=4096) as proxy:
        with pytest.raises(TotalTimeout) as caught:
            if task == "content":
                session.get(f"{proxy.url}/big")
            elif task == "stream":
                with session.get(f"{proxy.url}/big", stream=True) as response:
                    for _ in response.iter_content(100):
                        pass
            else:
                session.put(f"{proxy.url}/upload", data=BODY)
        assert f"127.0.0.1:{proxy.port}" in str(caught.value)
        assert caught.value.phase == {"content": "body", "stream": "body", "upload": "head"}[task]
        assert caught.value.bytes_received < len(BODY)
        eventually(lambda: session.stats().open == 0)


@pytest.mark.parametrize("how", ["file", "generator", "push"])
def test_a_silent_link_that_takes_nothing_more_of_an_upload(
    session_here: SessionHere, how: str, tmp_path: Path
) -> None:
    """More than the systems on the way hold: it is the writing that waits, and its own limit that ends it."""
    big = pattern(16 << 20)
    session = session_here(Timeouts(connect=10, read=10, write=0.5, pool=10))
    with AppServer(answer) as server, contextlib.ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(server.address, up=Link(silent_after=100_000), receive_buffer=4096))
        with pytest.raises(WriteTimeout) as caught:
            if how == "push":
                with session.upload("PUT", f"{proxy.url}/upload") as upload:
                    upload.write(big)
            elif how == "file":
                (tmp_path / "big").write_bytes(big)
                session.put(f"{proxy.url}/upload", data=stack.enter_context((tmp_path / "big").open("rb")))
            else:
                session.put(f"{proxy.url}/upload", data=iter([big[:8_000_000], big[8_000_000:]]))
        assert f"127.0.0.1:{proxy.port}" in str(caught.value)
        assert caught.value.phase == "send"
        assert 90_000 < caught.value.bytes_sent < len(big)
        assert proxy.bytes_up == 100_000
        eventually(lambda: session.stats().open == 0)


# ------------------------------------------------------------------------------------------- one after the other


def test_a_stream_of_events_through_one_break_after_another(session_here: SessionHere) -> None:
    """Whatever breaks, each event comes once, in its order."""
    session = session_here(Timeouts(connect=10, read=0.5, write=10, pool=10))
    breaks = [
        Link(cut_after=0),
        Link(reset_after=20),
        Link(cut_after=250),
        Link(silent_after=10),
        Link(reset_after=400),
        Link(silent_after=450),
    ]
    with AppServer(answer) as server, FaultProxy(server.address, down=breaks) as proxy:
        with session.sse(f"{proxy.url}/events") as stream:
            stream.reconnection_time = 0.001
            assert [event.data for event in stream] == EVENTS
        eventually(lambda: proxy.struck == len(breaks))
        asked = [request.headers.get("last-event-id") for request in server.seen]
    assert asked[0] is None
    assert asked[-1] == str(len(EVENTS))
    numbers = [int(each or 0) for each in asked]
    assert numbers == sorted(numbers)


def test_many_threads_over_links_that_break(session_here: SessionHere) -> None:
    """Each request ends for itself: rightly, or with an error of its own link."""
    session = session_here(GENEROUS)
    bad: list[Link] = []
    for at in range(0, 1200, 100):
        bad += [Link(cut_after=at, loss=0.1, stall=0.002), Link(reset_after=at, latency=0.002), Link(bandwidth=1e6)]
    with AppServer(answer) as server, FaultProxy(server.address, down=bad) as proxy:

        def work() -> tuple[int, int]:
            right = wrong = 0
            for _ in range(12):
                try:
                    assert session.get(f"{proxy.url}/big").content == BODY
                    right += 1
                except (ConnectionError, ChunkedEncodingError) as error:
                    assert f"127.0.0.1:{proxy.port}" in str(error)
                    wrong += 1
            return right, wrong

        results = [call.result() for call in [Call(work) for _ in range(6)]]
        right, wrong = (sum(each) for each in zip(*results, strict=True))
        assert right + wrong == 72
        assert wrong >= 12
        eventually(lambda: wrong == proxy.struck, message="no error without a fault, and no fault that is not told")
        assert right > 0
        stats = session.stats()
        assert (stats.in_use, stats.connecting, stats.waiting) == (0, 0, 0)


def test_retries_get_through_links_that_break(new_session: Callable[..., Session]) -> None:
    """As far as the request may be sent again: a GET, a body that is rewound; not a generator, once it was begun."""
    breaks = [Link(reset_after=0), Link(cut_after=10), Link(reset_after=100)]
    session = new_session(timeout=GENEROUS, retries=Retry(total=3, backoff_factor=0.001))
    with AppServer(answer) as server, FaultProxy(server.address) as proxy:
        for method, path, data in (("GET", "/big", None), ("PUT", "/upload", BODY)):
            proxy.change(down=breaks)
            response = session.request(method, proxy.url + path, data=data)
            assert response.content == (BODY if data is None else DIGEST)
            assert [type(made.error) is None for made in response.earlier_tries] == [False] * 3
            proxy.reset()
            proxy.wait_until_idle()
        proxy.change(down=breaks[1:])
        with pytest.raises(ConnectionError):
            session.put(f"{proxy.url}/upload", data=iter([BODY]))
        assert proxy.connections == 4 + 4 + 1

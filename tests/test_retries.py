"""Requests that are sent again: which, how often, after how long, and what is known of it afterwards."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import itertools
import os
import ssl
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from syncflow import (
    ChunkedEncodingError,
    CircuitBreaker,
    CircuitOpen,
    ConnectionError,
    PoolLimits,
    PoolTimeout,
    ProtocolError,
    ReadTimeout,
    Retry,
    RetryError,
    Session,
    SessionClosed,
    SSLError,
    Timeouts,
    TotalTimeout,
)
from syncflow.adapters import HTTPAdapter
from syncflow.engine.connection import Connection
from syncflow.engine.pause import Pause
from syncflow.engine.transport import Transport
from syncflow.retries import IDEMPOTENT, Tries, retry_after
from syncflow.testing import (
    AppServer,
    Fault,
    FaultInjector,
    Peer,
    ScriptedServer,
    eventually,
    refused_port,
    reply,
    reply_head,
)
from syncflow.testing import Response as Answer
from syncflow.testing.wire import Request

from .concurrency import Call, forked

NewSession = Callable[..., Session]

AT_ONCE = Retry(total=5, backoff_factor=0)


def answers(*statuses: int, headers: Any = ()) -> Callable[[Request], Answer]:
    """An app that answers with these, one after the other, and then with 200."""
    left = iter(statuses)

    def app(request: Request) -> Answer:
        status = next(left, 200)
        return Answer(status, headers if status != 200 else (), request.body or b"yes")

    return app


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were to be waited; nobody waits them."""
    waited: list[float] = []

    def wait(self: Pause, until: float, deadline: Any, is_closed: Any) -> None:
        waited.append(until - deadline.clock())

    monkeypatch.setattr(Pause, "wait", wait)
    return waited


# ------------------------------------------------------------------------------------------- the policy


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"total": -1}, ValueError),
        ({"read": 1.5}, TypeError),
        ({"connect": True}, TypeError),
        ({"backoff_factor": -0.1}, ValueError),
        ({"backoff_max": float("inf")}, ValueError),
        ({"backoff_max": float("nan")}, ValueError),
        ({"jitter": 1.1}, ValueError),
        ({"jitter": "full"}, TypeError),
        ({"status_forcelist": ["503"]}, TypeError),
        ({"allowed_methods": "GET"}, TypeError),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"Retry.{next(iter(values))}"):
        Retry(**values)


@pytest.mark.parametrize("value", ["3", 2.0, True, object()])
def test_what_is_no_policy_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="retries="):
        Session(retries=value)
    with pytest.raises(TypeError, match="retries="):
        HTTPAdapter(max_retries=value)


def test_a_number_of_the_session_is_the_total_and_one_of_an_adapter_is_of_connections() -> None:
    assert Retry.of(4) == Retry(total=4)
    assert [Retry.of(value) for value in (None, 0, False)] == [None] * 3
    connections = HTTPAdapter(max_retries=4).retry
    assert connections is not None
    assert (connections.total, connections.read, connections.status) == (4, 0, 0)
    assert HTTPAdapter(max_retries=0).retry is None


def test_it_may_be_set_later_as_programs_for_requests_do(new_session: NewSession) -> None:
    session = new_session()
    session.get_adapter("http://").max_retries = AT_ONCE
    with AppServer(answers(503)) as server:
        assert session.get(server.url).ok
    with pytest.raises(TypeError, match="retries="):
        session.get_adapter("http://").max_retries = "3"


def test_one_of_urllib3_is_understood() -> None:
    theirs = urllib3.Retry(
        total=7, connect=2, read=False, backoff_factor=0.3, status_forcelist=[500], allowed_methods=["POST"]
    )
    ours = HTTPAdapter(max_retries=theirs).retry
    assert ours == Retry(
        total=7,
        connect=2,
        read=0,
        backoff_factor=0.3,
        backoff_max=theirs.backoff_max,
        jitter=0.0,
        status_forcelist={500},
        allowed_methods={"POST"},
    )
    any_method = Retry.of(urllib3.Retry(allowed_methods=None))
    assert any_method is not None
    assert any_method.allows("POST")


def test_it_is_a_value_that_its_maker_cannot_change() -> None:
    statuses, methods = [500], ["get"]
    retry = Retry(status_forcelist=statuses, allowed_methods=methods)
    statuses.append(200)
    methods.append("POST")
    assert retry.status_forcelist == {500}
    assert retry.allowed_methods == {"GET"}
    assert retry == Retry(status_forcelist={500}, allowed_methods={"GET"})


@given(st.integers(1, 10_000), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1))
def test_a_delay_doubles_up_to_its_ceiling(number: int, factor: float, longest: float, jitter: float) -> None:
    delay = Retry(backoff_factor=factor, backoff_max=longest, jitter=jitter).delay(number)
    full = min(longest, factor * 2.0 ** min(number - 1, 64))
    assert full * (1 - jitter) <= delay * (1 + 1e-9)
    assert delay <= full


def test_delays_without_jitter() -> None:
    retry = Retry(backoff_factor=0.5, backoff_max=5, jitter=0)
    assert [retry.delay(number) for number in range(1, 7)] == [0.5, 1, 2, 4, 5, 5]


def test_jitter_is_full_unless_asked_otherwise() -> None:
    delays = [Retry(backoff_factor=1).delay(1) for _ in range(500)]
    assert min(delays) < 0.1
    assert max(delays) > 0.9


DATE = "Sat, 28 Nov 2026 06:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("Sat, 28 Nov 2026 06:00:30 GMT", 30),
        ("Saturday, 28-Nov-26 06:00:30 GMT", 30),  # RFC 9110, section 5.6.7: obsolete, and to be understood
        ("Sat Nov 28 06:00:30 2026", 30),
        ("Sat, 28 Nov 2026 05:00:00 GMT", 0),
        ("9" * 40, float("inf")),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str, seconds: float | None) -> None:
    """A date counts from the server's own."""
    assert retry_after({"retry-after": value, "date": DATE}) == seconds


def test_a_date_without_a_date_beside_it_counts_from_our_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncflow.retries.time.time", lambda: 1795845600.0 - 10)  # DATE is 1795845600
    assert retry_after({"retry-after": DATE}) == 10


@given(st.text())
def test_any_retry_after_can_be_read_or_not(value: str) -> None:
    seconds = retry_after({"retry-after": value, "date": value})
    assert seconds is None or seconds >= 0


# ------------------------------------------------------------------------------------------- answers


def test_off_by_default(new_session: NewSession) -> None:
    with AppServer(answers(503)) as server:
        response = new_session().get(server.url)
        assert (response.status_code, response.earlier_tries) == (503, ())
        assert server.requests == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tls", [False, True])
def test_not_now_is_tried_again(new_session: NewSession, server_tls: ssl.SSLContext, stream: bool, tls: bool) -> None:
    with AppServer(answers(503, 429), ssl_context=server_tls if tls else None) as server:
        response = new_session(retries=AT_ONCE).get(server.url, stream=stream)
        assert response.content == b"yes"
        assert [(made.number, made.status, made.error, made.delay) for made in response.earlier_tries] == [
            (1, 503, None, 0.0),
            (2, 429, None, 0.0),
        ]
        first, second = response.earlier_tries
        assert second.started == pytest.approx(first.started + first.elapsed)
        assert server.requests == 3


def test_other_answers_are_not(new_session: NewSession) -> None:
    with AppServer(answers(500, 404)) as server:
        session = new_session(retries=AT_ONCE)
        assert [session.get(server.url).status_code for _ in range(2)] == [500, 404]
        assert server.requests == 2


@pytest.mark.parametrize("method", [*sorted(IDEMPOTENT - {"TRACE"}), "POST", "PATCH"])
def test_which_methods(new_session: NewSession, method: str) -> None:
    with AppServer(answers(503)) as server:
        response = new_session(retries=AT_ONCE).request(method, server.url)
        assert response.status_code == (200 if method in IDEMPOTENT else 503)


def test_any_method_if_the_program_says_so(new_session: NewSession) -> None:
    with AppServer(answers(503, 502)) as server:
        session = new_session(retries=Retry(allowed_methods=None, backoff_factor=0))
        assert session.post(server.url, data=b"once more").content == b"once more"


def test_when_the_tries_are_used_up(new_session: NewSession) -> None:
    with AppServer(answers(*[503] * 9)) as server:
        with pytest.raises(RetryError, match=r"answered 503, after 2 earlier tries") as caught:
            new_session(retries=Retry(total=9, status=2, backoff_factor=0)).get(server.url)
        error = caught.value
        assert error.response is not None
        assert (error.response.status_code, error.response.content) == (503, b"yes")
        assert [made.status for made in error.earlier_tries] == [503, 503]
        assert error.response.earlier_tries == error.earlier_tries
        assert error.request is error.response.request
        assert error.bytes_received == 3
        assert f"127.0.0.1:{server.port}" in str(error)
        assert server.requests == 3


def test_a_last_answer_that_nobody_was_given_need_not_be_closed(new_session: NewSession) -> None:
    def half(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(reply_head(503, {"Content-Length": "100"}) + b"half")

    with ScriptedServer(half) as server:
        session = new_session(retries=Retry(total=1, backoff_factor=0))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with contextlib.suppress(RetryError):
                session.get(server.url, stream=True)
            eventually(lambda: session.stats().in_use == 0)
        assert warned == []


def test_or_the_last_answer_is_returned(new_session: NewSession) -> None:
    with AppServer(answers(*[503] * 9)) as server:
        session = new_session(retries=Retry(total=1, backoff_factor=0, raise_on_status=False))
        response = session.get(server.url)
        assert (response.status_code, len(response.earlier_tries)) == (503, 1)


def test_no_tries_is_no_error(new_session: NewSession) -> None:
    with AppServer(answers(503)) as server:
        assert new_session(retries=Retry(total=0)).get(server.url).status_code == 503


def test_the_server_says_when(new_session: NewSession, waits: list[float]) -> None:
    with AppServer(answers(503, headers={"Retry-After": "7"})) as server:
        response = new_session(retries=3).get(server.url)
        assert response.earlier_tries[0].delay == 7
    assert waits == [pytest.approx(7, abs=0.5)]


def test_or_a_date(new_session: NewSession, waits: list[float]) -> None:
    headers = {"Retry-After": "Sat, 28 Nov 2026 06:00:09 GMT", "Date": DATE}
    with AppServer(answers(503, headers=headers)) as server:
        assert new_session(retries=3).get(server.url).earlier_tries[0].delay == 9


def test_or_is_not_asked(new_session: NewSession, waits: list[float]) -> None:
    with AppServer(answers(503, headers={"Retry-After": "7"})) as server:
        session = new_session(retries=Retry(respect_retry_after_header=False, backoff_factor=0))
        assert session.get(server.url).earlier_tries[0].delay == 0


def test_one_who_asks_for_too_much_is_not_tried_again(new_session: NewSession) -> None:
    with AppServer(answers(503, headers={"Retry-After": "121"})) as server:
        response = new_session(retries=3).get(server.url)
        assert (response.status_code, response.headers["retry-after"]) == (503, "121")
        assert server.requests == 1


def test_a_redirect_leads_to_tries_of_its_own(new_session: NewSession) -> None:
    left = itertools.count()

    def app(request: Request) -> Answer:
        if request.path == "/old":
            return Answer(302, {"Location": "/new"})
        return Answer(200 if next(left) == 2 else 503, (), b"new")

    with AppServer(app) as server:
        response = new_session(retries=AT_ONCE).get(server.url + "/old")
        assert (response.content, len(response.earlier_tries)) == (b"new", 2)
        assert response.history[0].earlier_tries == ()
        first = response.earlier_tries[0]  # which began when the redirect was there
        assert 0 < response.history[0].elapsed.total_seconds() <= first.started


# ------------------------------------------------------------------------------------------- errors


class Once:
    """A script for each connection: the last one for all that follow."""

    def __init__(self, *scripts: Callable[[Peer], object]) -> None:
        self.scripts = scripts

    def __call__(self, peer: Peer) -> None:
        self.scripts[min(peer.index, len(self.scripts) - 1)](peer)


def answering(peer: Peer) -> None:
    for request in peer.requests():
        peer.send(reply(200, request.body or b"yes"))


def hanging_up(peer: Peer) -> None:
    peer.read_request()
    peer.close()


def resetting(peer: Peer) -> None:
    peer.read_request()
    peer.reset()


def cutting(peer: Peer) -> None:
    peer.read_request()
    peer.send(reply_head(200, {"Content-Length": "100"}) + b"half")
    peer.close()


def silent(peer: Peer) -> None:
    peer.read_request()
    peer.wait_closed()


def rambling(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"220 smtp.example.org ESMTP\r\n")
    peer.wait_closed()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (hanging_up, ConnectionError),
        (resetting, ConnectionError),
        (cutting, ChunkedEncodingError),
        (silent, ReadTimeout),
    ],
)
def test_what_was_lost_is_tried_again(
    new_session: NewSession, fault: Callable[[Peer], object], kind: type[Exception]
) -> None:
    session = new_session(retries=AT_ONCE, timeout=Timeouts(read=0.3 if fault is silent else 10))
    with ScriptedServer(Once(fault, fault, answering)) as server:
        response = session.put(server.url, data=b"whole")
        assert response.content == b"whole"
        assert [type(made.error) for made in response.earlier_tries] == [kind, kind]
        assert all(made.error is not None and made.error.__traceback__ is None for made in response.earlier_tries)


@pytest.mark.parametrize("fault", [hanging_up, cutting])
def test_but_not_what_may_have_been_carried_out(new_session: NewSession, fault: Callable[[Peer], object]) -> None:
    with ScriptedServer(Once(fault, answering)) as server:
        with pytest.raises((ConnectionError, ChunkedEncodingError)) as caught:
            new_session(retries=AT_ONCE).post(server.url, data=b"pay")
        assert caught.value.earlier_tries == ()
        assert server.connections == 1


def test_the_last_error_is_raised_and_knows_those_before(new_session: NewSession) -> None:
    with ScriptedServer(Once(hanging_up, resetting, hanging_up)) as server:
        with pytest.raises(ConnectionError) as caught:
            new_session(retries=Retry(total=9, read=2, backoff_factor=0)).get(server.url)
        assert [made.number for made in caught.value.earlier_tries] == [1, 2]
        assert "after 2 earlier tries" in caught.value.__notes__[0]
        assert server.connections == 3


@pytest.mark.parametrize("where", [0, 3])
def test_a_file_begins_where_it_stood(new_session: NewSession, tmp_path: Path, where: int) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"abc" + bytes(200_000))
    with ScriptedServer(Once(hanging_up, answering)) as server, path.open("rb") as file:
        file.seek(where)
        assert new_session(retries=AT_ONCE).put(server.url, data=file).content == path.read_bytes()[where:]


def test_what_can_be_sent_only_once_is_not_sent_twice(new_session: NewSession) -> None:
    with ScriptedServer(Once(hanging_up, answering)) as server:
        with pytest.raises(ConnectionError) as caught:
            new_session(retries=AT_ONCE).put(server.url, data=iter([b"once"]))
        assert "only once" in caught.value.__notes__[0]
        assert server.connections == 1


def test_nor_after_an_answer(new_session: NewSession) -> None:
    with AppServer(answers(503)) as server:
        assert new_session(retries=AT_ONCE).put(server.url, data=iter([b"once"])).status_code == 503


class Wandering:
    """A resolver by which a server is not there at first: nobody listens at the other addresses."""

    def __init__(self, misses: int) -> None:
        self.left = misses
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        if self.asked <= self.left:
            return ["127.0.0.2"]
        return ["127.0.0.1"]


@pytest.mark.parametrize("body", [b"pay", iter([b"pa", b"y"])], ids=["bytes", "generator"])
def test_what_was_not_connected_is_tried_again_whatever_it_is(new_session: NewSession, body: Any) -> None:
    """Also a POST whose body can be sent only once: it was not begun."""
    resolver = Wandering(2)
    with AppServer(answers()) as server:
        url = f"http://there.test:{server.port}/"
        response = new_session(retries=AT_ONCE, resolver=resolver).post(url, data=body)
        assert (response.content, len(response.earlier_tries)) == (b"pay", 2)
        assert response.earlier_tries[0].error is not None
        assert response.earlier_tries[0].error.phase == "connect"
    assert resolver.asked == 3


def test_a_pushed_body_waits_for_its_connection(new_session: NewSession) -> None:
    with AppServer(answers()) as server:
        session = new_session(retries=AT_ONCE, resolver=Wandering(2))
        with session.upload("POST", f"http://there.test:{server.port}/") as up:
            up.write(b"pushed")
        assert up.response.content == b"pushed"


def test_each_kind_has_its_number(new_session: NewSession) -> None:
    with refused_port() as nobody:
        for retry, expected in [
            (Retry(total=2, backoff_factor=0), 2),
            (Retry(total=9, connect=1, backoff_factor=0), 1),
            (Retry(total=None, connect=3, backoff_factor=0), 3),
            (Retry(total=9, connect=0, backoff_factor=0), 0),
        ]:
            with pytest.raises(ConnectionError) as caught:
                new_session(retries=retry).get(nobody.url)
            assert len(caught.value.earlier_tries) == expected


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_that_took_nothing_costs_nothing(
    new_session: NewSession, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """It was reset while it was idle, and that came too late to be seen: the system takes nothing of the request."""

    def once(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(200, b"first"))
        if peer.index == 0:
            peer.wait_step()
            peer.reset()
        else:
            answering(peer)

    with ScriptedServer(once) as server:
        session = new_session()
        assert session.get(server.url).content == b"first"
        connection = next(iter(session._adapter._pool._ledger.connections))
        server.step()
        eventually(lambda: not connection.is_reusable())
        monkeypatch.setattr(Connection, "is_reusable", lambda self: True)
        response = session.request(method, server.url, data=b"pay" if method == "POST" else None)
        assert response.ok
        assert [made.delay for made in response.earlier_tries] == [0.0]


def test_what_leaves_after_the_end_was_seen_has_left(new_session: NewSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker, which watches the idle connection, sees the server's end just before the request is sent: that goes
    out all the same, and a server that has closed its own direction only may carry it out."""
    bodies: list[bytes] = []
    ready, lost, sent = threading.Event(), threading.Event(), threading.Event()
    settle, start = Connection.settle, Transport.start_message

    def half_closing(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(200, b"first"))
        assert ready.wait(5)
        peer.half_close()
        bodies.append(peer.read_request().body)
        peer.wait_closed()

    def again(peer: Peer) -> None:
        bodies.append(peer.read_request().body)
        peer.send(reply(200, b"again"))

    def settle_when_sent(self: Connection, exchange: Any, outcome: int) -> bool:
        if exchange is not None and exchange.failure is not None and not sent.is_set():
            lost.set()
            assert sent.wait(5)
        return settle(self, exchange, outcome)

    def start_when_lost(self: Transport, *args: Any, **kwargs: Any) -> bool:
        ready.set()
        assert lost.wait(5)
        try:
            return start(self, *args, **kwargs)
        finally:
            sent.set()

    with ScriptedServer(half_closing, again) as server:
        session = new_session()
        assert session.get(server.url).content == b"first"
        connection = next(iter(session._adapter._pool._ledger.connections))
        eventually(lambda: connection.transport.is_watched)
        monkeypatch.setattr(Connection, "settle", settle_when_sent)
        monkeypatch.setattr(Transport, "start_message", start_when_lost)
        with pytest.raises(ConnectionError, match="may or may not have been processed"):
            session.post(server.url, data=b"pay")
        server.wait_until_idle()
        assert bodies == [b"pay"]


def test_what_was_taken_of_a_generator_is_not_left_out_the_second_time(new_session: NewSession) -> None:
    """Nothing has left, as far as the system is asked; but the first piece was on its way, and is gone."""
    begun = threading.Event()

    def pieces() -> Iterator[bytes]:
        begun.set()
        yield b"first "
        yield b"second"

    def full_and_then_broken() -> OSError:
        if not begun.is_set():
            return BlockingIOError(errno.EAGAIN, "the kernel is full")
        faults.clear()
        return OSError(errno.ENOBUFS, "No buffer space available")

    with AppServer() as server, FaultInjector() as faults:
        session = new_session()
        session.get(server.url)
        faults.plan("send", fault=Fault.error(full_and_then_broken), at=None)
        with pytest.raises(ConnectionError, match="No buffer space"):
            session.post(server.url, data=pieces())
        assert server.requests == 1


# ------------------------------------------------------------------------------------------- what does not pass


def test_who_is_not_trusted_is_not_asked_again(new_session: NewSession, server_tls: ssl.SSLContext) -> None:
    session = new_session(retries=AT_ONCE)
    session.verify = True
    with AppServer(ssl_context=server_tls) as server:
        with pytest.raises(SSLError) as caught:
            session.get(server.url)
        assert caught.value.earlier_tries == ()


def test_nor_who_shows_another_certificate(new_session: NewSession, server_tls: ssl.SSLContext) -> None:
    with AppServer(ssl_context=server_tls) as server:
        with pytest.raises(SSLError, match="fingerprint") as caught:
            new_session(retries=AT_ONCE, assert_fingerprint="00" * 32).get(server.url)
        assert caught.value.earlier_tries == ()


def test_nor_who_speaks_something_else(new_session: NewSession) -> None:
    with ScriptedServer(rambling) as server:
        with pytest.raises(ProtocolError):
            new_session(retries=AT_ONCE).get(server.url)
        assert server.connections == 1


def test_nor_is_the_queue_of_the_pool_joined_again(new_session: NewSession) -> None:
    session = new_session(retries=AT_ONCE, pool=PoolLimits(per_host=1), timeout=Timeouts(pool=0.05))
    with AppServer() as server, session.upload("PUT", server.url, timeout=10) as holder:
        with pytest.raises(PoolTimeout) as caught:
            session.get(server.url)
        assert caught.value.earlier_tries == ()
        holder.write(b"goes on")


def test_nor_a_circuit_that_is_open(new_session: NewSession) -> None:
    with refused_port() as nobody:
        session = new_session(retries=AT_ONCE, breaker=CircuitBreaker(failures=2))
        with pytest.raises(CircuitOpen) as caught:
            session.get(nobody.url)
        assert len(caught.value.earlier_tries) == 2


# ------------------------------------------------------------------------------------------- time


def test_a_delay_for_which_there_is_no_time_is_not_begun(new_session: NewSession) -> None:
    retry = Retry(total=9, backoff_factor=60, jitter=0)
    with ScriptedServer(hanging_up) as server, pytest.raises(ConnectionError, match="without an answer"):
        new_session(retries=retry).get(server.url, timeout=Timeouts(total=5))
    with AppServer(answers(503)) as server:
        assert new_session(retries=retry).get(server.url, timeout=Timeouts(total=5)).status_code == 503


@pytest.mark.parametrize("total", [1, 2, 3])
def test_nor_is_it_a_try_that_is_used_up(new_session: NewSession, total: int) -> None:
    with AppServer(answers(503, 503, headers=[("Retry-After", "100")])) as server:
        session = new_session(retries=Retry(total=total), timeout=Timeouts(total=20))
        response = session.get(server.url)
        assert response.status_code == 503
        assert response.earlier_tries == ()


def test_the_deadline_is_over_all_tries(new_session: NewSession) -> None:
    """None of them would reach it."""
    session = new_session(retries=Retry(total=None, read=1000, backoff_factor=0))
    with ScriptedServer(silent) as server:
        with pytest.raises(TotalTimeout) as caught:
            session.get(server.url, timeout=Timeouts(read=0.1, total=0.35))
        assert 1 <= len(caught.value.earlier_tries) <= 3


@pytest.mark.parametrize("how", ["session", "adapter"])
def test_the_wait_ends_with_the_session(new_session: NewSession, how: str) -> None:
    answered = threading.Event()

    def app(request: Request) -> Answer:
        answered.set()
        return Answer(503, {"Retry-After": "60"})

    with AppServer(app) as server:
        session = new_session(retries=3)
        call = Call(session.get, server.url)
        assert answered.wait(10)
        eventually(lambda: session._adapter.paused)
        (session if how == "session" else session._adapter).close()
        error = call.error()
        assert isinstance(error, SessionClosed)
        assert error.phase == "retry"
        assert error.request is not None
        assert [made.status for made in error.earlier_tries] == [503]
        assert not session._adapter.paused


def test_a_stream_of_events_is_closed_in_the_wait(new_session: NewSession) -> None:
    with AppServer(answers(503, headers={"Retry-After": "60"})) as server:
        session = new_session(retries=3)
        stream = session.sse(server.url)
        call = Call(lambda: list(stream))
        eventually(lambda: session._adapter.paused)
        stream.close()
        assert call.result() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork()")
def test_a_child_does_not_end_the_waits_of_its_parent(new_session: NewSession) -> None:
    """Nor is it stopped by a lock that one of those had at the fork."""
    with AppServer(answers(503, headers={"Retry-After": "60"})) as server:
        session = new_session(retries=3)
        call = Call(session.get, server.url)
        eventually(lambda: session._adapter.paused)
        (pause,) = session._adapter.paused
        with pause._lock:  # type: ignore[attr-defined]
            child = forked(session.close)
        assert child() is None
        assert not call.ended
        session.close()
        assert isinstance(call.error(), SessionClosed)


# ------------------------------------------------------------------------------------------- the tries themselves


def test_a_try_is_counted_once_and_only_if_it_is_made() -> None:
    tries = Tries(Retry(total=2, read=1, jitter=0), "GET", 0.0, 0.0)
    lost = ConnectionError("lost", phase="head")
    assert tries.delay_after(lost) == 0.5
    assert tries.delay_after(lost) is None
    assert tries.delay_after(ConnectionError("refused", phase="connect")) == 1.0
    assert tries.delay_after(ConnectionError("refused", phase="connect")) is None


def test_the_body_of_a_try_is_not_kept_alive(new_session: NewSession) -> None:
    """A record keeps the error, and none of the frames that it came through."""
    with ScriptedServer(Once(hanging_up, answering)) as server:
        response = new_session(retries=AT_ONCE).put(server.url, data=io.BytesIO(b"x" * 100_000))
        made = response.earlier_tries[0]
        assert made.error is not None
        assert made.error.__traceback__ is None


@pytest.mark.parametrize("retries", [None, Retry(total=1, backoff_factor=0)], ids=["none", "one"])
def test_an_error_goes_with_its_frames_as_soon_as_it_is_let_go(new_session: NewSession, retries: Retry | None) -> None:
    def fails() -> weakref.ref[ConnectionError]:
        try:
            session.get(nobody.url)
        except ConnectionError as error:
            return weakref.ref(error)
        raise AssertionError("it did not fail")

    with refused_port() as nobody:
        session = new_session(retries=retries)
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            assert fails()() is None
        finally:
            if was_enabled:
                gc.enable()

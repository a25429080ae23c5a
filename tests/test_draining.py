"""Session.drain: what is under way ends in its own time, nothing new begins, and then everything is closed."""

from __future__ import annotations

import contextlib
import copy
import pickle
import signal
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from syncflow import HTTPError, PoolLimits, Response, Retry, Session, SessionClosed, Timeouts
from syncflow.adapters import BaseAdapter, HTTPAdapter
from syncflow.auth import HTTPDigestAuth
from syncflow.engine import locks
from syncflow.testing import (
    AppServer,
    Peer,
    RangeServer,
    Receiver,
    Request,
    ScriptedServer,
    eventually,
    pattern,
    reply,
    reply_head,
)
from syncflow.testing import Response as Answer

from .concurrency import PATIENCE, Call, forked
from .draining import draining, is_waiting

NewSession = Callable[..., Session]

NO_LIMITS = Timeouts(connect=None, read=None, write=None, pool=None)


@pytest.fixture(autouse=True)
def no_glances(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain that is not woken does not look by itself either."""
    monkeypatch.setattr(locks, "GLANCE", 1000.0)


@pytest.fixture
def session(new_session: NewSession) -> Session:
    return new_session(timeout=NO_LIMITS)


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, server_tls: ssl.SSLContext) -> ssl.SSLContext | None:
    return server_tls if request.param == "tls" else None


def check_closed(session: Session) -> None:
    """Nothing is open, and nothing begins any more."""
    eventually(lambda: not session.stats().open)
    with pytest.raises(SessionClosed, match=r"^127\.0\.0\.1:1: the session has been drained, and is closed; nothing"):
        session.get("http://127.0.0.1:1")


# ---------------------------------------------------------------------- what is under way
#
# Each begins something, which is under way when it returns. It gives the session, what ends it, and whether that went
# well.

Begun = tuple[Session, Callable[[], object], Callable[[], object]]
Begin = Callable[[NewSession, ExitStack, "ssl.SSLContext | None"], Begun]


def half_way(peer: Peer) -> None:
    """Sends half of each answer, and the rest after a step."""
    for _ in peer.requests():
        peer.send(reply_head(200, {"Content-Length": "4"}) + b"wh")
        peer.wait_step()
        peer.send(b"ol")


def serving(stack: ExitStack, script: Callable[[Peer], None], tls: ssl.SSLContext | None) -> ScriptedServer:
    return stack.enter_context(ScriptedServer(script, ssl_context=tls))


def head(new_session: NewSession, stack: ExitStack, tls: ssl.SSLContext | None) -> Begun:
    """A call that waits for the head."""
    session = new_session(timeout=NO_LIMITS)

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.wait_step()
        peer.send(reply(200, b"whole"))

    server = serving(stack, script, tls)
    call = Call(session.get, server.url)
    eventually(lambda: session.stats().in_use)
    return session, server.step, lambda: call.result().text == "whole"


def body(new_session: NewSession, stack: ExitStack, tls: ssl.SSLContext | None) -> Begun:
    """A call that waits for the rest of the body."""
    session = new_session(timeout=NO_LIMITS)
    server = serving(stack, half_way, tls)
    call = Call(session.get, server.url)
    eventually(lambda: session.stats().bytes_received)
    return session, server.step, lambda: call.result().text == "whol"


def queue(new_session: NewSession, stack: ExitStack, tls: ssl.SSLContext | None) -> Begun:
    """One that has a connection, and one that waits for its place."""
    session = new_session(timeout=NO_LIMITS, pool=PoolLimits(per_host=1))
    server = serving(stack, half_way, tls)
    calls = [Call(session.get, server.url) for _ in range(2)]
    eventually(lambda: session.stats().waiting)
    return session, lambda: server.step(2), lambda: [call.result().text for call in calls] == ["whol"] * 2


def resolving(new_session: NewSession, stack: ExitStack, tls: ssl.SSLContext | None) -> Begun:
    """A call without a connection yet."""
    server = stack.enter_context(AppServer(ssl_context=tls))
    found = threading.Event()
    stack.callback(found.set)

    def resolve(host: str, port: int) -> list[str]:
        found.wait(PATIENCE)
        return ["127.0.0.1"]

    session = new_session(timeout=NO_LIMITS, resolver=resolve)
    scheme = "https" if tls else "http"
    call = Call(session.get, f"{scheme}://localhost:{server.port}")
    eventually(lambda: session.stats().connecting)
    return session, found.set, lambda: call.result().ok


def shaking_hands(new_session: NewSession, stack: ExitStack, tls: ssl.SSLContext | None) -> Begun:
    """A call in the TLS handshake, or, without TLS, one that was connected."""
    session = new_session(timeout=NO_LIMITS)
    if tls is None:
        return head(new_session, stack, tls)

    def script(peer: Peer) -> None:
        peer.wait_step()
        peer._connection.secure(tls)
        peer.read_request()
        peer.send(reply(200, b"whole"))

    server = stack.enter_context(ScriptedServer(script))
    call = Call(session.get, f"https://127.0.0.1:{server.port}")
    eventually(lambda: session.stats().connecting)
    return session, server.step, lambda: call.result().text == "whole"


def streamed(new_session: NewSession, stack: ExitStack, tls: ssl.SSLContext | None) -> Begun:
    """An answer that nobody reads just now: the end is its reader's."""
    session = new_session(timeout=NO_LIMITS)
    server = serving(stack, half_way, tls)
    response = session.get(server.url, stream=True)
    pieces: list[bytes] = []

    def end() -> None:
        server.step()
        pieces.extend(response.iter_content(None))

    return session, end, lambda: b"".join(pieces) == b"whol"


def stream_closed(new_session: NewSession, stack: ExitStack, tls: ssl.SSLContext | None) -> Begun:
    session = new_session(timeout=NO_LIMITS)
    server = serving(stack, half_way, tls)
    return session, session.get(server.url, stream=True).close, lambda: True


def stream_dropped(new_session: NewSession, stack: ExitStack, tls: ssl.SSLContext | None) -> Begun:
    session = new_session(timeout=NO_LIMITS)
    server = serving(stack, half_way, tls)
    held = [session.get(server.url, stream=True)]

    def drop() -> None:
        with pytest.warns(ResourceWarning, match="dropped"):
            held.clear()

    return session, drop, lambda: True


def upload(new_session: NewSession, stack: ExitStack, tls: ssl.SSLContext | None) -> Begun:
    session = new_session(timeout=NO_LIMITS)
    receiver = stack.enter_context(Receiver(ssl_context=tls))
    sent = pattern(300_000)
    up = session.upload("PUT", receiver.url)
    up.write(sent[:1000])

    def end() -> None:
        up.write(sent[1000:])
        up.finish()

    return session, end, lambda: [receipt.bytes for receipt in receiver.receipts] == [len(sent)]


def upload_aborted(new_session: NewSession, stack: ExitStack, tls: ssl.SSLContext | None) -> Begun:
    session = new_session(timeout=NO_LIMITS)
    receiver = stack.enter_context(Receiver(ssl_context=tls))
    up = session.upload("PUT", receiver.url)
    up.write(b"x")
    return session, up.abort, lambda: True


def upgraded(new_session: NewSession, stack: ExitStack, tls: ssl.SSLContext | None) -> Begun:
    session = new_session(timeout=NO_LIMITS)

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
        with contextlib.suppress(AssertionError):  # it was reset, as is to be
            peer.send(peer.read_exactly(4))
            peer.read_until_close()

    server = serving(stack, script, tls)
    duplex = session.get(server.url, headers={"Connection": "Upgrade", "Upgrade": "echo"}).upgraded
    got: list[bytes] = []

    def end() -> None:
        duplex.write(b"ping")
        while sum(map(len, got)) < 4:
            got.append(duplex.read(4))
        duplex.close()

    return session, end, lambda: b"".join(got) == b"ping"


EVERYTHING: list[Begin] = [
    head,
    body,
    queue,
    resolving,
    shaking_hands,
    streamed,
    stream_closed,
    stream_dropped,
    upload,
    upload_aborted,
    upgraded,
]

each = pytest.mark.parametrize("begin", EVERYTHING, ids=lambda f: f.__name__)


@each
def test_it_waits_for_what_is_under_way(new_session: NewSession, tls: ssl.SSLContext | None, begin: Begin) -> None:
    with ExitStack() as stack:
        session, end, went_well = begin(new_session, stack, tls)
        drain = draining(session)
        with pytest.raises(SessionClosed, match=r"^127\.0\.0\.1:1: the session is draining.*nothing was sent"):
            session.get("http://127.0.0.1:1")
        end()
        assert drain.result()
        assert went_well()
        check_closed(session)


@each
def test_what_has_not_ended_in_time_is_ended(new_session: NewSession, tls: ssl.SSLContext | None, begin: Begin) -> None:
    with ExitStack() as stack:
        session, end, went_well = begin(new_session, stack, tls)
        assert not session.drain(0.01)
        eventually(lambda: not session.stats().open)
        if begin in (head, body, queue, resolving, shaking_hands):
            with pytest.raises(SessionClosed):
                went_well()
        elif begin in (streamed, upload, upgraded):
            with pytest.raises(SessionClosed):
                end()
        check_closed(session)
        assert not session.drain(), "nor has it the second time"


def test_a_drain_at_rest_is_over_at_once(session: Session) -> None:
    with AppServer() as server:
        session.get(server.url)
        assert session.stats().idle == 1
        assert session.drain(0)
        check_closed(session)
        server.wait_until_idle()
        assert session.drain()


def test_a_session_that_was_never_used(session: Session) -> None:
    assert session.drain()
    check_closed(session)


# ---------------------------------------------------------------------- what a call leads to


class Gate:
    """An app whose requests to `/held` wait until it opens, and which tells how many do."""

    def __init__(self, app: Callable[[Request], Answer]) -> None:
        self._app = app
        self.opened = threading.Event()
        self.held = threading.Semaphore(0)

    def __call__(self, request: Request) -> Answer:
        if request.path == "/held":
            self.held.release()
            assert self.opened.wait(PATIENCE)
        return self._app(request)

    def wait_held(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.held.acquire(timeout=PATIENCE)


@pytest.fixture
def elsewhere() -> Iterator[AppServer]:
    with AppServer(lambda request: Answer(200, {}, b"elsewhere")) as server:
        yield server


def finished_while_draining(session: Session, gate: Gate, call: Call[Any]) -> Any:
    """What the call gives, which went on only when the session was draining."""
    gate.wait_held()
    drain = draining(session)
    gate.opened.set()
    assert drain.result()
    check_closed(session)
    return call.result()


@pytest.mark.parametrize("stream", [False, True])
def test_redirects(session: Session, elsewhere: AppServer, stream: bool) -> None:
    """To another host, so to another connection."""
    gate = Gate(lambda request: Answer(302, {"Location": "/next" if request.path == "/held" else elsewhere.url}))
    with AppServer(gate) as server:
        call = Call(lambda: session.get(f"{server.url}/held", stream=stream).content)
        if stream:
            gate.wait_held()
            drain = draining(session)
            gate.opened.set()
            assert call.result() == b"elsewhere"
            assert drain.result()
        else:
            assert finished_while_draining(session, gate, call) == b"elsewhere"
        assert server.requests == 2


def test_rounds_of_authentication(session: Session) -> None:
    def answer(request: Request) -> Answer:
        if "authorization" in request.headers:
            return Answer(200, {}, b"welcome")
        return Answer(401, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256'})

    gate = Gate(answer)
    with AppServer(gate) as server:
        call = Call(session.get, f"{server.url}/held", auth=HTTPDigestAuth("user", "password"))
        assert finished_while_draining(session, gate, call).text == "welcome"


def test_what_a_hook_sends(session: Session, elsewhere: AppServer) -> None:
    """As one that fetches a new token: a request of its own, with limits of its own."""

    def hook(response: Response, **kwargs: Any) -> Response:
        response.headers["token"] = session.get(elsewhere.url).text
        return response

    gate = Gate(lambda request: Answer(200, {}, b"ok"))
    with AppServer(gate) as server:
        call = Call(session.get, f"{server.url}/held", hooks={"response": hook})
        assert finished_while_draining(session, gate, call).headers["token"] == "elsewhere"


def test_what_the_generator_of_a_body_sends(session: Session, elsewhere: AppServer) -> None:
    goes_on, begun = threading.Event(), threading.Event()

    def pages() -> Iterator[bytes]:
        yield b"first "
        begun.set()
        assert goes_on.wait(PATIENCE)
        yield session.get(elsewhere.url).content

    with AppServer() as server:
        call = Call(session.put, server.url, data=pages())
        assert begun.wait(PATIENCE)
        drain = draining(session)
        goes_on.set()
        assert call.result().json()["body"] == "first elsewhere"
        assert drain.result()


SOON_AGAIN = Retry(status_forcelist=[503], backoff_factor=0.001)


def test_tries_after_an_answer(new_session: NewSession) -> None:
    """Between two of them it has no connection, only a delay."""
    session = new_session(retries=SOON_AGAIN)
    gate = Gate(lambda request: Answer(200 if server.requests == 3 else 503, {}, b"ok"))
    with AppServer(gate) as server:
        call = Call(session.get, f"{server.url}/held")
        assert finished_while_draining(session, gate, call).text == "ok"


def test_a_delay_is_ended_in_time(new_session: NewSession) -> None:
    session = new_session(retries=Retry(status_forcelist=[503], backoff_factor=1000, jitter=0))
    with AppServer(lambda request: Answer(503)) as server:
        call = Call(session.get, server.url)
        eventually(lambda: session._adapter.paused)
        assert not session.drain(0.01)
        assert isinstance(call.error(), SessionClosed)


def test_tries_to_connect_again(new_session: NewSession) -> None:
    asked, goes_on = threading.Event(), threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        """First to where nobody listens."""
        if asked.is_set():
            return ["127.0.0.1"]
        asked.set()
        assert goes_on.wait(PATIENCE)
        return ["127.0.0.2"]

    session = new_session(resolver=resolve, retries=SOON_AGAIN)
    with AppServer() as server:
        call = Call(session.get, f"http://localhost:{server.port}")
        assert asked.wait(PATIENCE)
        drain = draining(session)
        goes_on.set()
        assert call.result().ok
        assert drain.result()


# More than is received ahead: its transfer breaks when somebody reads it, and not before.
LONG = pattern(2 << 20)


@pytest.mark.parametrize("cuts", [[1 << 20], [1 << 20, 1000]], ids=["once", "twice"])
def test_a_download_that_is_resumed(session: Session, tmp_path: Path, cuts: list[int | None]) -> None:
    """Between its transfers it has no connection, and its pool takes nothing new by then."""
    with RangeServer(LONG, cuts) as server:
        response = session.get(server.url, stream=True)
        drain = draining(session)
        assert response.save(tmp_path / "file", resume=True) == len(LONG)
        assert drain.result()
        assert (tmp_path / "file").read_bytes() == LONG
        assert len(server.seen) == len(cuts) + 1
    check_closed(session)


def test_a_download_that_waits_between_two_transfers_is_ended_in_time(session: Session, tmp_path: Path) -> None:
    with RangeServer(pattern(10_000), [1000] + [0] * 10) as server:
        response = session.get(server.url, stream=True)
        save = Call(response.save, tmp_path / "file", resume=True)
        eventually(lambda: len(server.seen) == 3)  # from now on it waits half a second and longer
        assert not session.drain(0.01)
        assert isinstance(save.error(), SessionClosed)
    response.close()


# ---------------------------------------------------------------------- the call itself


def test_several_drains_at_once(session: Session) -> None:
    gate = Gate(lambda request: Answer(200, {}, b"ok"))
    with AppServer(gate) as server:
        call = Call(session.get, f"{server.url}/held")
        gate.wait_held()
        drains = [Call(session.drain) for _ in range(4)]
        eventually(lambda: session._calls._changed.sleepers == 4)
        gate.opened.set()
        assert [drain.result() for drain in drains] == [True] * 4
        assert call.result().ok


def test_the_first_limit_ends_all_of_them(session: Session) -> None:
    gate = Gate(lambda request: Answer(200, {}, b"ok"))
    with AppServer(gate) as server:
        call = Call(session.get, f"{server.url}/held")
        gate.wait_held()
        drain = draining(session)
        assert not session.drain(0.01)
        assert not drain.result()
        assert isinstance(call.error(), SessionClosed)
        gate.opened.set()


@pytest.mark.parametrize("stream", [False, True])
def test_close_ends_a_drain(session: Session, stream: bool) -> None:
    with ScriptedServer(half_way) as server:
        held = session.get(server.url, stream=True) if stream else None
        call = None if stream else Call(session.get, server.url)
        eventually(lambda: session.stats().in_use)
        drain = draining(session)
        session.close()
        assert not drain.result()
        if call is not None:
            assert isinstance(call.error(), SessionClosed)
        if held is not None:
            with pytest.raises(SessionClosed):
                _ = held.content
        server.release()


def test_close_ends_a_drain_though_the_program_goes_on_inside_a_call(session: Session) -> None:
    """In the generator of a body, which nobody can interrupt."""
    begun, goes_on = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        begun.set()
        assert goes_on.wait(PATIENCE)
        yield b"x"

    with AppServer() as server:
        call = Call(session.put, server.url, data=body())
        assert begun.wait(PATIENCE)
        drain = draining(session)
        session.close()
        assert not drain.result()
        goes_on.set()
        assert isinstance(call.error(), SessionClosed)


def from_a_hook(session: Session, url: str) -> None:
    session.get(url, hooks={"response": lambda *_, **__: session.drain()})


def from_a_generator(session: Session, url: str) -> None:
    session.put(url, data=(b"x" for _ in range(1) if session.drain() or True))


@pytest.mark.parametrize("way", [from_a_hook, from_a_generator], ids=lambda f: f.__name__)
def test_a_call_does_not_wait_for_itself(session: Session, way: Callable[[Session, str], None]) -> None:
    with AppServer() as server:
        with pytest.raises(RuntimeError, match=r"would wait for the very call.*only set an Event"):
            way(session, server.url)
        assert session.get(server.url).ok, "it has not begun"
        assert session.drain()


def test_from_a_signals_handler_in_the_middle_of_a_call(session: Session) -> None:
    """What stands in `main thread` waits for the head."""

    def handler(number: int, frame: Any) -> None:
        session.drain()

    def script(peer: Peer) -> None:
        peer.read_request()
        signal.raise_signal(signal.SIGUSR1)  # in whichever thread: the handler runs in the main one
        peer.stall()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with ScriptedServer(script) as server:
            with pytest.raises(RuntimeError, match="only set an Event"):
                session.get(server.url)
            server.release()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert session.drain()


class Struck(BaseException):
    """As Ctrl-C: nothing catches it."""


def test_a_call_that_was_interrupted_is_not_waited_for(session: Session) -> None:
    def strike(*_: Any, **__: Any) -> None:
        raise Struck

    with AppServer() as server:
        for _ in range(2):
            with pytest.raises(Struck):
                session.get(server.url, hooks={"response": strike})
        with pytest.raises(ZeroDivisionError):
            session.put(server.url, data=(1 // zero for zero in (0,)))
        with pytest.raises(TypeError):
            session.upload("PUT", server.url, on_ready=strike, timeout="never")  # type: ignore[arg-type]
    assert not session._calls.under_way
    assert session.drain()


def test_a_word_that_was_never_said(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread may be interrupted between its last step and telling of it: the drain looks by itself."""
    monkeypatch.setattr(locks, "GLANCE", 0.01)
    monkeypatch.setattr(session._calls, "tell", lambda: None)
    gate = Gate(lambda request: Answer(200, {}, b"ok"))
    with AppServer(gate) as server:
        call = Call(session.get, f"{server.url}/held")
        gate.wait_held()
        drain = Call(session.drain)
        eventually(lambda: is_waiting(session))
        gate.opened.set()
        assert drain.result()
        assert call.result().ok


def test_new_requests_of_every_kind_are_refused(session: Session) -> None:
    gate = Gate(lambda request: Answer(200, {}, b"ok"))
    with AppServer(gate) as server, AppServer() as other:
        call = Call(session.get, f"{server.url}/held")
        gate.wait_held()
        drain = draining(session)
        for begin in (
            lambda: session.get(other.url),
            lambda: session.get(other.url, stream=True),
            lambda: session.post(other.url, data=b"x"),
            lambda: session.upload("PUT", other.url),
            lambda: next(session.sse(other.url)),
            lambda: session.send(session.prepare_request(call_of(other.url))),
        ):
            with pytest.raises(SessionClosed, match="the session is draining") as caught:
                begin()
            assert caught.value.request is not None
        assert other.connections == 0
        gate.opened.set()
        assert drain.result()
        assert call.result().ok


def call_of(url: str) -> Any:
    from syncflow import Request as Asked

    return Asked("GET", url)


def test_inside_its_block(new_session: NewSession) -> None:
    with AppServer() as server:
        with new_session() as session:
            session.get(server.url)
            assert session.drain()
        with pytest.raises(HTTPError), new_session() as session:
            session.get(server.url)
            raise HTTPError("passes through")
        server.wait_until_idle()


# ---------------------------------------------------------------------- adapters, copies, fork


class Foreign(BaseAdapter):
    """An adapter written for `requests`."""

    def __init__(self) -> None:
        self.entered, self.goes_on = threading.Event(), threading.Event()
        self.closed = 0

    def send(self, request: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        import requests

        self.entered.set()
        assert self.goes_on.wait(PATIENCE)
        answer = requests.Response()
        answer.status_code, answer.url, answer._content = 200, request.url, b"foreign"
        return answer

    def close(self) -> None:
        self.closed += 1


def test_calls_of_an_adapter_written_for_requests(session: Session) -> None:
    adapter = Foreign()
    session.mount("other:", adapter)
    call = Call(session.get, "other:thing")
    assert adapter.entered.wait(PATIENCE)
    drain = draining(session)
    assert not adapter.closed
    with pytest.raises(SessionClosed, match="draining"):
        session.get("other:thing")
    adapter.goes_on.set()
    assert drain.result()
    assert call.result().text == "foreign"
    assert adapter.closed == 1


def test_every_adapter_is_drained(session: Session) -> None:
    session.mount("http://127.0.0.1", HTTPAdapter())
    with ScriptedServer(half_way) as server:
        response = session.get(server.url, stream=True)
        drain = draining(session)
        server.step()
        assert response.content == b"whol"
        assert drain.result()


def test_one_that_two_sessions_have_mounted(new_session: NewSession) -> None:
    """It is closed with the first of them, but not before what the second sends through it has ended."""
    first, second, adapter = new_session(), new_session(), HTTPAdapter()
    for each_of_them in (first, second):
        each_of_them.mount("http://", adapter)
    with ScriptedServer(half_way) as server:
        call = Call(second.get, server.url)
        eventually(lambda: second.stats().bytes_received)
        drain = draining(first)
        server.step()
        assert call.result().text == "whol"
        assert drain.result()
        with pytest.raises(SessionClosed, match="the session is closed"):
            second.get(server.url)


@pytest.mark.parametrize(
    "made", [copy.copy, lambda session: pickle.loads(pickle.dumps(session))], ids=["copy", "pickle"]
)
def test_a_copy_has_calls_of_its_own(session: Session, made: Callable[[Session], Session]) -> None:
    gate = Gate(lambda request: Answer(200, {}, b"ok"))
    with AppServer(gate) as server:
        call = Call(session.get, f"{server.url}/held")
        gate.wait_held()
        with made(session) as other:
            assert other.drain(0)
        assert session.get(server.url).ok
        drain = draining(session)
        with made(session) as other:
            assert other.get(server.url).ok
        gate.opened.set()
        assert drain.result()
        assert call.result().ok


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="fork")
def test_a_child_has_nothing_under_way(session: Session) -> None:
    gate = Gate(lambda request: Answer(200, {}, b"ok"))
    with AppServer(gate) as server, ScriptedServer(half_way) as other:
        call = Call(session.get, f"{server.url}/held")
        stream = session.get(other.url, stream=True)
        gate.wait_held()
        assert forked(lambda: session.get(server.url).ok and session.drain(5))()
        drain = draining(session)
        assert forked(lambda: session.drain(5))(), "and it can be drained again"
        gate.opened.set()
        other.step()
        assert stream.content == b"whol"
        assert drain.result()
        assert call.result().ok


def test_an_interrupt_ahead_of_the_wait_for_the_next_try_leaves_nothing_to_wait_for(new_session: NewSession) -> None:
    """Ctrl-C comes when the session has just been told that something is under way."""

    class Striking(set[Any]):
        def add(self, item: Any) -> None:
            super().add(item)
            raise KeyboardInterrupt

    with AppServer(lambda request: Answer(503)) as server:
        session = new_session(retries=Retry(backoff_factor=60, jitter=0))
        session._adapter.paused = Striking()
        with pytest.raises(KeyboardInterrupt):
            session.get(server.url)
        assert session.drain(5)

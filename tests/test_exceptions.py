"""Exceptions: names and inheritance of `requests`, and what each tells: request, phase, bytes, host and port."""

from __future__ import annotations

import inspect
import json
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import pytest
import requests.exceptions

import syncflow
from syncflow import PoolLimits, PreparedRequest, Session, Timeouts, exceptions
from syncflow.testing import (
    Peer,
    ScriptedServer,
    chunk,
    early_response,
    endless_head,
    eventually,
    full_backlog,
    never_answers,
    refused_port,
    reply,
    reply_head,
    truncated,
)

from .concurrency import Call


def classes_of(module: Any) -> dict[str, type]:
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__
    }


THEIRS = classes_of(requests.exceptions)
OURS = classes_of(exceptions)


# -------------------------------------------------------------------------------- names and inheritance


def test_all_of_requests_is_here_by_the_same_name() -> None:
    assert set(THEIRS) <= set(OURS)
    assert set(THEIRS) <= set(exceptions.__all__)


def test_all_names_are_exported() -> None:
    assert set(exceptions.__all__) == set(OURS)


@pytest.mark.parametrize("name", THEIRS)
def test_whoever_catches_it_by_one_of_its_bases_does_so_here_too(name: str) -> None:
    bases = {other for other in THEIRS if issubclass(THEIRS[name], THEIRS[other])}
    assert bases == {other for other in THEIRS if issubclass(OURS[name], OURS[other])}
    builtin = [OSError, ValueError, TypeError, Warning, DeprecationWarning, json.JSONDecodeError]
    assert [base for base in builtin if issubclass(THEIRS[name], base)] == [
        base for base in builtin if issubclass(OURS[name], base)
    ]


OWN_BASES = {
    "BodyLengthError": ("RequestException", "ValueError"),
    "BodyTooLarge": ("RequestException", "ValueError"),
    "Cancelled": ("RequestException",),
    "CircuitOpen": ("ConnectionError",),
    "ContentTypeError": ("RequestException",),
    "DecompressionError": ("ContentDecodingError",),
    "EarlyResponse": ("RequestException",),
    "EventTimeout": ("Timeout",),
    "EventTooLarge": ("RequestException", "ValueError"),
    "PoolTimeout": ("Timeout",),
    "ProtocolError": ("ConnectionError",),
    "SessionClosed": ("RequestException",),
    "TotalTimeout": ("Timeout",),
    "WriteTimeout": ("Timeout",),
}


def test_what_is_only_here() -> None:
    own = {name: tuple(base.__name__ for base in OURS[name].__bases__) for name in set(OURS) - set(THEIRS)}
    assert own == OWN_BASES


def test_each_limit_has_its_own_exception() -> None:
    kinds = [exceptions.ConnectTimeout, exceptions.ReadTimeout, exceptions.WriteTimeout]
    kinds += [exceptions.PoolTimeout, exceptions.TotalTimeout]
    for kind in kinds:
        assert issubclass(kind, exceptions.Timeout)
        assert not any(issubclass(kind, other) for other in kinds if other is not kind)


# -------------------------------------------------------------------------------- what each carries


class Case(NamedTuple):
    server: Callable[[], AbstractContextManager[Any]]
    attempt: Callable[[Session, str], object]
    kind: type[exceptions.RequestException]
    phase: str
    says: str | None = None
    sent: int = 0
    received: int = 0
    timeouts: Timeouts = Timeouts(connect=10, read=10, write=10, pool=10)


def get(session: Session, url: str) -> object:
    return session.get(url)


def post(session: Session, url: str) -> object:
    return session.post(url, data=b"body!")


def answer(*pieces: bytes) -> Callable[[], ScriptedServer]:
    def script(peer: Peer) -> None:
        peer.read_request()
        for piece in pieces:
            peer.send(piece)

    return lambda: ScriptedServer(script)


def stalls_after(*pieces: bytes) -> Callable[[], ScriptedServer]:
    def script(peer: Peer) -> None:
        peer.read_request()
        for piece in pieces:
            peer.send(piece)
        peer.stall()

    return lambda: ScriptedServer(script)


def speaks_no_tls() -> ScriptedServer:
    return ScriptedServer(lambda peer: (peer.read_exactly(5), peer.send(reply(400))))


def pool_is_full(session: Session, url: str) -> object:
    with session.get(url, stream=True):
        return session.get(url)


def big_post(session: Session, url: str) -> object:
    return session.post(url, data=b"x" * (64 << 20))


def short_generator(session: Session, url: str) -> object:
    return session.post(url, data=iter([b"12345"]), headers={"Content-Length": "9"})


def long_generator(session: Session, url: str) -> object:
    return session.post(url, data=iter([b"12345", b"6789"]), headers={"Content-Length": "7"})


def write_after_the_answer(session: Session, url: str) -> object:
    upload = session.upload("PUT", url)
    upload.write(b"12345")
    upload.flush()
    with pytest.raises(exceptions.EarlyResponse) as caught:
        while True:
            upload.write(b"x" * 1024)
    error = caught.value
    assert error.response is upload.response
    upload.response.close()
    upload.close()
    assert error.bytes_sent >= 5
    error.bytes_sent = 5  # for the table: how many more it were is up to the kernel
    raise error


def abort(session: Session, url: str) -> object:
    upload = session.upload("PUT", url)
    upload.write(b"12345")
    upload.abort()
    return upload.finish()


def close_while_streaming(session: Session, url: str) -> object:
    response = session.get(url, stream=True)
    assert next(response.iter_content(3)) == b"abc"
    response.close()
    return response.raw if response.content else None


def close_session_while_streaming(session: Session, url: str) -> object:
    response = session.get(url, stream=True)
    pieces = response.iter_content(3)
    assert next(pieces) == b"abc"
    session.close()
    return next(pieces)


def read_twice(session: Session, url: str) -> object:
    response = session.get(url, stream=True)
    assert b"".join(response.iter_content(3)) == b"abc"
    return response.content


CASES = {
    "refused": Case(refused_port, get, exceptions.ConnectionError, "connect", "no connection"),
    "connect timeout": Case(
        full_backlog,
        get,
        exceptions.ConnectTimeout,
        "connect",
        r"after 0\.05 s \(Timeouts\.connect\)",
        timeouts=Timeouts(connect=0.05),
    ),
    "TLS that is none": Case(
        speaks_no_tls, lambda s, u: s.get(u.replace("http:", "https:")), exceptions.SSLError, "tls", "handshake failed"
    ),
    "pool timeout": Case(
        stalls_after(reply_head(200, {"Content-Length": "9"})),
        pool_is_full,
        exceptions.PoolTimeout,
        "pool",
        r"in 0\.05 s \(Timeouts\.pool\)",
        timeouts=Timeouts(pool=0.05),
    ),
    "read timeout in the head": Case(
        never_answers,
        post,
        exceptions.ReadTimeout,
        "head",
        r"for 0\.1 s \(Timeouts\.read\)",
        sent=5,
        timeouts=Timeouts(read=0.1),
    ),
    "read timeout in the body": Case(
        stalls_after(reply_head(200, {"Content-Length": "9"}), b"abc"),
        post,
        exceptions.ReadTimeout,
        "body",
        r"for 0\.1 s \(Timeouts\.read\)",
        sent=5,
        received=3,
        timeouts=Timeouts(read=0.1),
    ),
    "total timeout in the head": Case(
        never_answers, get, exceptions.TotalTimeout, "head", r"0\.1 s \(Timeouts\.total\)", timeouts=Timeouts(total=0.1)
    ),
    "total timeout in the body": Case(
        stalls_after(reply_head(200, {"Content-Length": "9"}), b"abc"),
        get,
        exceptions.TotalTimeout,
        "body",
        r"0\.1 s \(Timeouts\.total\)",
        received=3,
        timeouts=Timeouts(total=0.1),
    ),
    "total timeout in the pool": Case(
        stalls_after(reply_head(200, {"Content-Length": "9"})),
        pool_is_full,
        exceptions.TotalTimeout,
        "pool",
        r"0\.1 s \(Timeouts\.total\)",
        timeouts=Timeouts(total=0.1),
    ),
    "total timeout in connecting": Case(
        full_backlog,
        get,
        exceptions.TotalTimeout,
        "connect",
        r"0\.1 s \(Timeouts\.total\)",
        timeouts=Timeouts(total=0.1),
    ),
    "no answer": Case(answer(), post, exceptions.ConnectionError, "head", "without an answer", sent=5),
    "half a head": Case(answer(b"HTTP/1.1 200 OK\r\nA: b\r\n"), get, exceptions.ConnectionError, "head"),
    "not HTTP": Case(answer(b"SSH-2.0-OpenSSH\r\n\r\n"), post, exceptions.ProtocolError, "head", sent=5),
    "two lengths": Case(
        answer(reply_head(200, [("Content-Length", "1"), ("Content-Length", "2")])),
        get,
        exceptions.ProtocolError,
        "head",
        "differ",
    ),
    "an endless head": Case(endless_head, get, exceptions.ProtocolError, "head"),
    "not a chunk": Case(
        answer(reply_head(200, {"Transfer-Encoding": "chunked"}) + chunk(b"abc") + b"nonsense\r\n"),
        get,
        exceptions.ProtocolError,
        "body",
        received=3,
    ),
    "a body that is cut": Case(truncated, post, exceptions.ChunkedEncodingError, "body", sent=5, received=999),
    "a reset in the body": Case(
        lambda: truncated(b"abcdef", missing=6, reset=True), get, exceptions.ChunkedEncodingError, "body"
    ),
    "a body that is short": Case(
        never_answers, short_generator, exceptions.BodyLengthError, "send", "5 bytes .* 9 were announced", sent=5
    ),
    "a body that is long": Case(
        never_answers, long_generator, exceptions.BodyLengthError, "send", "9 bytes .* 7 were announced", sent=5
    ),
    "an early response": Case(
        lambda: early_response(after_bytes=len("5\r\n12345")),
        write_after_the_answer,
        exceptions.EarlyResponse,
        "send",
        "413",
        sent=5,
    ),
    "an abort": Case(never_answers, abort, exceptions.Cancelled, "head", "aborted", sent=5),
    "a response that is closed": Case(
        stalls_after(reply_head(200, {"Content-Length": "9"}), b"abc"),
        close_while_streaming,
        exceptions.StreamConsumedError,
        "",
        received=3,
    ),
    "a session that is closed": Case(
        stalls_after(reply_head(200, {"Content-Length": "9"}), b"abc"),
        close_session_while_streaming,
        exceptions.SessionClosed,
        "body",
        "session was closed",
        received=3,
    ),
    "a stream that was read": Case(
        answer(reply(200, b"abc")), read_twice, exceptions.StreamConsumedError, "", received=3
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_error_tells_where_and_how_far(name: str) -> None:
    case = CASES[name]
    with case.server() as server, Session(timeout=case.timeouts, pool=PoolLimits(per_host=1)) as session:
        with pytest.raises(case.kind, match=case.says) as caught:
            case.attempt(session, server.url)
        error = caught.value
        assert type(error) is case.kind
        assert (error.phase or "") == case.phase
        assert (error.bytes_sent, error.bytes_received) == (case.sent, case.received)
        assert isinstance(error.request, PreparedRequest)
        assert error.request.url.partition("://")[2] == f"127.0.0.1:{server.port}/"
        assert f"127.0.0.1:{server.port}: " in str(error)


def test_a_write_timeout_tells_what_was_sent() -> None:
    with never_answers(reads=False, receive_buffer=4096) as server, Session(timeout=Timeouts(write=0.1)) as session:
        with pytest.raises(syncflow.WriteTimeout, match=r"for 0\.1 s \(Timeouts\.write\)") as caught:
            big_post(session, server.url)
        error = caught.value
        assert error.phase == "send"
        assert 0 < error.bytes_sent < 64 << 20
        assert isinstance(error.request, PreparedRequest)
        assert f"127.0.0.1:{server.port}: " in str(error)


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, *args: Any, **kw: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("no_names")
def test_a_name_that_is_unknown() -> None:
    with Session() as session:
        with pytest.raises(
            syncflow.ConnectionError, match=r"nobody\.invalid:80: the name cannot be resolved"
        ) as caught:
            session.get("http://nobody.invalid/")
        assert caught.value.phase == "dns"
        assert isinstance(caught.value.__cause__, socket.gaierror)


def test_a_closed_session_names_whom_it_does_not_ask() -> None:
    session = Session()
    session.close()
    with pytest.raises(syncflow.SessionClosed) as caught:
        session.get("http://127.0.0.1:9/")
    assert "127.0.0.1:9" in str(caught.value)
    assert isinstance(caught.value.request, PreparedRequest)


def ended_in_the_queue(session: Session, server: ScriptedServer) -> BaseException:
    with session.get(server.url, stream=True):
        call = Call(session.get, server.url)
        eventually(lambda: session.stats().waiting == 1)
        session.close()
        return call.error()


def ended_in_connecting(session: Session, server: ScriptedServer) -> BaseException:
    with full_backlog() as busy:
        call = Call(session.get, busy.url)
        eventually(lambda: session.stats().connecting == 1)
        eventually(lambda: any(dial.attempts for dial in list(session._adapter._pool._dials)))
        session.close()
        return call.error()


def test_what_is_found_in_an_answer_tells_what_it_took() -> None:
    with answer(reply(404, b"abc"))() as server, Session() as session:
        response = session.post(server.url, data=b"body!")
        for find in (response.raise_for_status, response.json):
            with pytest.raises((exceptions.HTTPError, exceptions.JSONDecodeError)) as caught:
                find()
            assert (caught.value.bytes_sent, caught.value.bytes_received) == (5, 3)


@pytest.mark.parametrize(("end", "phase"), [(ended_in_the_queue, "pool"), (ended_in_connecting, "connect")])
def test_a_session_that_is_closed_tells_in_which_wait(end: Callable[..., BaseException], phase: str) -> None:
    with stalls_after(reply_head(200, {"Content-Length": "9"}))() as server:
        error = end(Session(pool=PoolLimits(per_host=1)), server)
    assert isinstance(error, syncflow.SessionClosed)
    assert error.phase == phase
    assert isinstance(error.request, PreparedRequest)


@pytest.mark.parametrize("method", ["get", "post_stream", "sse"])
def test_what_cannot_be_sent_has_its_request(method: str) -> None:
    with Session() as session:
        for url, proxies in (("ftp://host/", {}), ("http://host/", {"http": "nothing://proxy"})):
            with pytest.raises((exceptions.InvalidSchema, exceptions.InvalidProxyURL)) as caught:
                made = getattr(session, method)(url, proxies=proxies)
                list(made)  # a stream of events begins when it is iterated
            assert isinstance(caught.value.request, PreparedRequest)
            assert caught.value.request.url == url


# -------------------------------------------------------------------------------- causes, and foreign errors


def test_the_cause_is_kept() -> None:
    with refused_port() as port, Session() as session:
        with pytest.raises(syncflow.ConnectionError) as caught:
            session.get(port.url)
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)


@contextmanager
def reset_at_once() -> Iterator[ScriptedServer]:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.reset()

    with ScriptedServer(script) as server:
        yield server


def test_the_cause_of_a_lost_connection_is_kept() -> None:
    with reset_at_once() as server, Session() as session:
        with pytest.raises(syncflow.ConnectionError) as caught:
            session.get(server.url)
        assert isinstance(caught.value.__cause__, ConnectionResetError)


def test_an_error_of_another_request_passes_as_it_is() -> None:
    """As where a body is made of the answer to another request, and that one ends badly."""
    with truncated(b"abcdef") as source, never_answers() as target, Session(timeout=10) as session:
        with session.get(source.url, stream=True) as answer:
            with pytest.raises(syncflow.ChunkedEncodingError) as caught:
                session.put(target.url, data=answer.iter_content(3))
        error = caught.value
        assert error.request is answer.request
        assert error.response is answer
        assert (error.phase, error.bytes_sent, error.bytes_received) == ("body", 0, 5)
        assert f"127.0.0.1:{source.port}" in str(error)


# -------------------------------------------------------------------------------- by themselves


@pytest.mark.parametrize("name", [name for name in OURS if not issubclass(OURS[name], Warning)])
def test_an_exception_is_made_and_pickled(name: str) -> None:
    kind = OURS[name]
    arguments: tuple[Any, ...] = ("what", "doc", 1) if name == "JSONDecodeError" else ("what",)
    assert (plain := kind(*arguments)).request is None
    assert (plain.response, plain.phase, plain.bytes_sent, plain.bytes_received) == (None, None, 0, 0)
    error = kind(*arguments, phase="body", bytes_sent=3, bytes_received=4)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert copy.args == error.args
    assert str(copy) == str(error)
    assert (copy.phase, copy.bytes_sent, copy.bytes_received) == ("body", 3, 4)


def test_a_json_error_tells_where() -> None:
    error = exceptions.JSONDecodeError("what", "document", 3)
    assert (error.msg, error.doc, error.pos, error.lineno, error.colno) == ("what", "document", 3, 1, 4)
    assert str(error) == "what: line 1 column 4 (char 3)"


def test_the_request_is_that_of_the_response() -> None:
    with answer(reply(404))() as server, Session() as session:
        response = session.get(server.url)
    error = exceptions.HTTPError("no", response=response)
    assert error.request is response.request

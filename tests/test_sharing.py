"""One session, many threads; and copies of a session, in this process and in another."""

from __future__ import annotations

import copy
import multiprocessing
import operator
import pickle
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from syncflow import PoolLimits, Request, Response, Session, SessionClosed, Timeouts
from syncflow.adapters import HTTPAdapter
from syncflow.auth import HTTPDigestAuth
from syncflow.testing import AppServer, Peer, ScriptedServer, json_response, reply_head
from syncflow.testing import Request as Asked
from syncflow.testing import Response as Answer

THREADS = 16


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns after almost every step, so that what is half done is seen."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Session]:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with Session(timeout=20, pool=PoolLimits(per_host=THREADS)) as session:
        yield session


def tells(request: Asked) -> Answer:
    """What came, and two cookies; /hop leads to what stands behind it."""
    if request.path.startswith("/hop/"):
        return Answer(302, {"Location": request.target.removeprefix("/hop")}, b"hop")
    seen = {"method": request.method, "target": request.target, "body": request.body.decode(), **request.headers}
    return json_response(
        seen, headers=[("Set-Cookie", f"last={request.path}; Path=/"), ("Set-Cookie", "seen=1; Path=/")]
    )


@pytest.fixture
def server() -> Iterator[AppServer]:
    with AppServer(tells) as server:
        yield server


def at_once(*calls: Callable[[], object], rounds: int = 1) -> None:
    """All of them in a thread each, begun together. Raises what one of them raised."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        barrier.wait()
        for _ in range(rounds):
            call()

    with ThreadPoolExecutor(len(calls)) as threads:
        for done in [threads.submit(run, call) for call in calls]:
            done.result()


# ------------------------------------------------------------------------------- many threads


class Use:
    """What a program does with a session; each answer must be that to the question."""

    def __init__(self, session: Session, url: str, number: int) -> None:
        self._session, self._url, self._number = session, url, number
        self._count = 0

    def path(self) -> str:
        self._count += 1
        return f"/{self._number}/{self._count}"

    def check(self, answer: Response, method: str, target: str, body: str = "") -> None:
        assert answer.status_code == 200
        if method != "HEAD":
            told = answer.json()
            assert (told["method"], told["target"], told["body"]) == (method, target, body)
            assert told["x-session"] == "1"

    def simply(self, method: str) -> None:
        path = self.path()
        self.check(getattr(self._session, method)(self._url + path), method.upper(), path)

    def with_a_body(self, method: str) -> None:
        path = self.path()
        answer = getattr(self._session, method)(self._url + path, data=path * 50)
        self.check(answer, method.upper(), path, path * 50)

    def with_everything(self) -> None:
        path = self.path()
        answer = self._session.request(
            "POST",
            f"{self._url}/hop{path}",
            params={"q": path},
            data={"a": path},
            headers={"X-Call": path},
            cookies={"call": str(self._count)},
            auth=("user", path),
            timeout=Timeouts(total=20),
        )
        self.check(answer, "GET", f"{path}?q={quote(path, safe='')}")
        told = answer.json()
        assert told["x-call"] == path
        assert f"call={self._count}" in told["cookie"].split("; ")
        assert [earlier.status_code for earlier in answer.history] == [302]

    def in_steps(self) -> None:
        path = self.path()
        prepared = self._session.prepare_request(Request("PUT", self._url + path, data=path))
        settings = self._session.merge_environment_settings(prepared.url, {}, None, None, None)
        self.check(self._session.send(prepared, **settings), "PUT", path, path)

    def as_a_stream(self) -> None:
        path = self.path()
        with self._session.get(self._url + path, stream=True) as answer:
            assert path.encode() in b"".join(answer.iter_content(7))

    def by_hand_over_a_redirect(self) -> None:
        path = self.path()
        first = self._session.get(f"{self._url}/hop{path}", allow_redirects=False)
        (second,) = self._session.resolve_redirects(first, first.request)
        self.check(second, "GET", path)

    def as_an_upload(self) -> None:
        path = self.path()
        with self._session.upload("PUT", self._url + path) as upload:
            upload.write(path.encode())
        assert upload.response is not None
        self.check(upload.response, "PUT", path, path)

    def with_cookies(self) -> None:
        jar = self._session.cookies
        jar.set(f"own{self._number}", str(self._count), path="/nowhere")
        assert jar.get(f"own{self._number}") == str(self._count)
        assert jar.get("last", "/").startswith("/")
        assert dict(jar)[f"own{self._number}"] == str(self._count)
        assert jar.copy().get(f"own{self._number}") == str(self._count)

    def with_settings(self) -> None:
        name = f"X-{self._number}"
        self._session.headers[name] = "1"
        assert self._session.headers[name] == "1"
        del self._session.headers[name]
        prefix = f"mock://{self._number}/"
        adapter = self._session.get_adapter(self._url)
        self._session.mount(prefix, adapter)
        assert self._session.get_adapter(f"{prefix}x") is adapter

    def with_copies(self) -> None:
        path = self.path()
        with copy.copy(self._session) as other:
            self.check(other.get(self._url + path), "GET", path)
        pickle.dumps(self._session)

    def all(self) -> list[Callable[[], None]]:
        return [
            *[lambda method=method: self.simply(method) for method in ("get", "head", "options", "delete")],
            *[lambda method=method: self.with_a_body(method) for method in ("post", "put", "patch")],
            *[self.with_everything, self.in_steps, self.as_a_stream, self.by_hand_over_a_redirect, self.as_an_upload],
            *[self.with_cookies, self.with_settings, self.with_copies],
        ]


def test_every_method_at_once(often: None, server: AppServer, session: Session) -> None:
    session.headers["X-Session"] = "1"

    def work(number: int) -> None:
        calls = Use(session, server.url, number).all() * 3
        random.Random(number).shuffle(calls)
        for call in calls:
            call()

    at_once(*[lambda number=number: work(number) for number in range(THREADS)])
    assert {f"mock://{number}/" for number in range(THREADS)} < set(session.adapters)
    assert session.cookies.get("seen", domain="127.0.0.1") == "1"


def test_nothing_that_is_mounted_is_lost(often: None, session: Session) -> None:
    adapter = session.get_adapter("http://")
    for round_ in range(20):
        prefixes = [f"mock://{round_}/{number}/" for number in range(THREADS)]
        at_once(*[lambda prefix=prefix: session.mount(prefix, adapter) for prefix in prefixes])
        assert set(prefixes) < set(session.adapters)
    lengths = [len(prefix) for prefix in session.adapters]
    assert lengths == sorted(lengths, reverse=True)


def test_one_jar_for_all_who_ask_first(often: None) -> None:
    for _ in range(50):
        with Session() as session:
            jars: list[Any] = []
            at_once(*[lambda session=session, jars=jars: jars.append(session.cookies)] * 8)
            assert {id(jar) for jar in jars} == {id(session.cookies)}


def test_a_login_is_seen_whole_or_not_at_all(often: None, session: Session) -> None:
    """It sets two cookies, which belong together."""
    numbers = iter(range(10**9))
    lock = threading.Lock()
    odd: list[str] = []

    def app(request: Asked) -> Answer:
        given = dict(pair.split("=") for pair in request.headers.get("cookie", "").split("; ") if pair)
        if len(given) == 1 or given.get("user") != given.get("token"):
            odd.append(request.headers["cookie"])
        if request.path == "/logout":
            return Answer(
                200, [("Set-Cookie", "user=; Max-Age=0; Path=/"), ("Set-Cookie", "token=; Max-Age=0; Path=/")]
            )
        if request.path not in ("/login", "/hop"):
            return Answer()
        with lock:
            number = next(numbers)
        cookies = [("Set-Cookie", f"user={number}; Path=/"), ("Set-Cookie", f"token={number}; Path=/")]
        return Answer(302, [*cookies, ("Location", "/")]) if request.path == "/hop" else Answer(200, cookies)

    def look() -> None:
        pair = session.cookies.get_dict()
        if len(pair) == 1 or pair.get("user") != pair.get("token"):
            odd.append(str(pair))

    with AppServer(app) as server:
        changing = [lambda path=path: session.get(server.url + path) for path in ("/login", "/logout", "/hop")]
        reading: list[Callable[[], object]] = [lambda: session.get(server.url), look]
        at_once(*changing, *reading * 5, rounds=30)
    assert odd == []


def test_what_one_call_says_is_not_seen_by_another(often: None, server: AppServer, session: Session) -> None:
    session.headers["X-Session"] = "1"

    def work(number: int) -> None:
        mine = str(number)
        answer = session.get(server.url, headers={"X-Mine": mine}, cookies={"mine": mine}, auth=(mine, mine))
        told = answer.json()
        assert (told["x-mine"], told["x-session"]) == (mine, "1")
        assert [pair for pair in told["cookie"].split("; ") if pair.startswith("mine=")] == [f"mine={mine}"]
        assert answer.request is not None
        assert told["authorization"] == answer.request.headers["authorization"]

    at_once(*[lambda number=number: work(number) for number in range(THREADS)], rounds=10)


def test_hooks_of_a_session_are_called_once_for_each(often: None, server: AppServer, session: Session) -> None:
    lock = threading.Lock()
    seen: list[str] = []

    def hook(response: Response, **kwargs: Any) -> None:
        with lock:
            seen.append(response.url.removeprefix(server.url))

    session.hooks["response"].append(hook)
    paths = [f"/{number}" for number in range(THREADS)]
    at_once(*[lambda path=path: session.get(server.url + path) for path in paths], rounds=5)
    assert sorted(seen) == sorted(paths * 5)


def test_closing_at_any_moment(often: None, server: AppServer) -> None:
    """Whoever has not got an answer gets SessionClosed, and nothing else."""
    for _ in range(20):
        session = Session(timeout=20)

        def ask(session: Session = session) -> None:
            with pytest.raises(SessionClosed):
                while True:
                    assert session.get(server.url).status_code == 200

        at_once(*[ask] * 4, session.close)


# ------------------------------------------------------------------------------- copies

COPIES: dict[str, Callable[[Session], Session]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda session: pickle.loads(pickle.dumps(session)),
}


def furnished(url: str) -> Session:
    session = Session(timeout=7, pool=PoolLimits(per_host=3))
    session.headers["X-Session"] = "1"
    session.auth = ("user", "word")
    session.params = {"p": "1"}
    session.max_redirects = 5
    session.trust_env = False
    session.cookies.set("mine", "1")
    session.get(url)
    return session


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_as_the_first_one(server: AppServer, how: str) -> None:
    with furnished(server.url) as session, COPIES[how](session) as other:
        assert type(other) is Session
        for name in ("timeout", "auth", "params", "max_redirects", "trust_env", "headers", "verify", "base_url"):
            assert getattr(other, name) == getattr(session, name)
        assert other.cookies.get_dict() == session.cookies.get_dict()
        assert list(other.adapters) == list(session.adapters)
        before = len(server.seen)
        first, second = session.get(server.url), other.get(server.url)
        assert first.json() == second.json()
        assert len(server.seen) == before + 2
        assert server.connections == 2  # each has its own


@pytest.mark.parametrize("how", COPIES)
def test_what_is_changed_in_one_is_not_in_the_other(server: AppServer, how: str) -> None:
    with furnished(server.url) as session, COPIES[how](session) as other:
        for changed, unchanged, name in ((other, session, "a"), (session, other, "b")):
            changed.headers[f"X-{name}"] = "1"
            changed.cookies.set(name, "1")
            changed.proxies[name] = "x"
            changed.mount(f"{name}://", HTTPAdapter())
            changed.hooks["response"].append(print)
            assert f"X-{name}" not in unchanged.headers
            assert name not in unchanged.cookies
            assert name not in unchanged.proxies
            assert f"{name}://" not in unchanged.adapters
            assert len(unchanged.hooks["response"]) == (name == "b")


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("closed", ["first", "copy"])
def test_closing_one_leaves_the_other_alone(how: str, closed: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Length": "4"}) + b"ab")
        peer.wait_step()
        peer.send(b"cd")
        peer.wait_closed()

    with ScriptedServer(script) as server, Session(timeout=20) as session, COPIES[how](session) as other:
        gone, staying = (session, other) if closed == "first" else (other, session)
        with gone.get(server.url, stream=True) as cut, staying.get(server.url, stream=True) as whole:
            gone.close()
            server.step(2)
            assert whole.content == b"abcd"
            with pytest.raises(SessionClosed):
                cut.content  # noqa: B018  # reading it is what fails
        with pytest.raises(SessionClosed):
            gone.get(server.url)


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_closed_session_is_open(server: AppServer, how: str) -> None:
    session = furnished(server.url)
    session.close()
    with COPIES[how](session) as other:
        assert other.get(server.url).status_code == 200


class Own(Session):
    """As a program may derive one."""

    def __init__(self, token: str) -> None:
        super().__init__(timeout=20)
        self.token = token


@pytest.mark.parametrize("how", COPIES)
def test_a_class_of_ones_own(server: AppServer, how: str) -> None:
    with Own("a") as session, COPIES[how](session) as other:
        assert isinstance(other, Own)
        assert other.token == "a"
        assert other.get(server.url).status_code == 200


def test_a_digest_login_goes_along(server: AppServer, session: Session) -> None:
    session.auth = HTTPDigestAuth("user", "word")
    other = pickle.loads(pickle.dumps(session))
    assert other.auth == session.auth
    other.close()


# ------------------------------------------------------------------------------- another process


def test_a_session_travels_to_another_process(server: AppServer) -> None:
    """As the argument of a call there; its response comes back the same way."""
    with furnished(server.url) as session:
        before = server.connections
        # Nothing of this file is imported there: only what a program that is installed can import.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as workers:
            answer = workers.submit(operator.methodcaller("get", server.url), session).result(40)
        told = answer.json()
        assert (told["x-session"], told["target"]) == ("1", "/?p=1")
        assert {"mine=1", "seen=1"} <= set(told["cookie"].split("; "))
        assert server.connections == before + 1
        # The one that stayed has kept its own.
        assert session.get(server.url).status_code == 200
        assert server.connections == before + 1

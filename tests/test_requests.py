"""What a call makes of its arguments: the request that the server sees. The program is that of `requests`."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

import syncflow
from syncflow import PreparedRequest, Response, Session
from syncflow.decoders import accepted_codings
from syncflow.testing import AppServer, ScriptedServer, reply
from syncflow.testing import Response as Answer

METHODS = ["GET", "OPTIONS", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


@pytest.fixture
def server() -> Iterator[AppServer]:
    with AppServer() as server:
        yield server


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=10) as session:
        yield session


# -------------------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_a_function_and_a_method(server: AppServer, session: Session, method: str) -> None:
    for call in (getattr(syncflow, method.lower()), getattr(session, method.lower())):
        response = call(f"{server.url}/path", params={"a": "1"}, headers={"X-Mine": "x"}, timeout=10)
        assert response.status_code == 200
        seen = server.seen[-1]
        assert (seen.method, seen.target, seen.headers["x-mine"]) == (method, "/path?a=1", "x")


@pytest.mark.parametrize("caller", [syncflow, "session"])
@pytest.mark.parametrize("method", ["PROPFIND", "purge", "get"])
def test_any_other_method_goes_by_request(server: AppServer, session: Session, caller: Any, method: str) -> None:
    call = session.request if caller == "session" else caller.request
    response = call(method, server.url, timeout=10)
    assert response.request.method == server.seen[-1].method == method.upper()


@pytest.mark.parametrize("method", METHODS)
def test_a_length_of_zero_is_said_only_where_a_body_is_expected(
    server: AppServer, session: Session, method: str
) -> None:
    """RFC 9110, section 8.6."""
    session.request(method, server.url)
    expected = "0" if method in ("POST", "PUT", "PATCH") else None
    assert server.seen[-1].headers.get("content-length") == expected
    assert "transfer-encoding" not in server.seen[-1].headers


@pytest.mark.parametrize("method", METHODS)
def test_every_method_may_have_a_body(server: AppServer, session: Session, method: str) -> None:
    session.request(method, server.url, data=b"body")
    assert server.seen[-1].body == b"body"


def test_data_and_json_are_positional_where_requests_has_them(server: AppServer, session: Session) -> None:
    for caller in (session, syncflow):
        assert caller.post(server.url, b"d").json()["body"] == "d"
        assert caller.post(server.url, None, {"a": 1}).json()["body"] == '{"a": 1}'
        assert caller.put(server.url, b"d").json()["body"] == "d"
        assert caller.patch(server.url, b"d").json()["body"] == "d"
        assert caller.get(server.url, {"a": "b"}).json()["query"] == {"a": ["b"]}
    assert session.request("GET", server.url, {"a": "b"}, b"d", {"X": "y"}).json()["headers"]["x"] == "y"


# -------------------------------------------------------------------------------------------------- headers


def test_what_is_sent_without_being_asked_for(server: AppServer, session: Session) -> None:
    session.get(server.url)
    assert server.seen[-1].fields == [
        ("Host", f"127.0.0.1:{server.port}"),
        ("User-Agent", f"syncflow/{syncflow.__version__}"),
        ("Accept-Encoding", accepted_codings()),
        ("Accept", "*/*"),
        ("Connection", "keep-alive"),
    ]


def test_headers_of_the_call_go_over_those_of_the_session(server: AppServer, session: Session) -> None:
    session.headers["X-Both"] = "session"
    session.headers["X-Session"] = "session"
    session.get(server.url, headers={"x-both": "call", "X-Call": "call", "ACCEPT": None, "X-None": None})
    seen = server.seen[-1].headers
    assert (seen["x-both"], seen["x-session"], seen["x-call"]) == ("call", "session", "call")
    assert "accept" not in seen
    assert "x-none" not in seen
    session.get(server.url)
    assert server.seen[-1].headers["x-both"] == "session"
    assert server.seen[-1].headers["accept"] == "*/*"


def test_names_and_values_may_be_bytes(server: AppServer, session: Session) -> None:
    session.get(server.url, headers={b"X-Bytes": b"caf\xe9", "X-Text": "café"})
    assert server.seen[-1].headers["x-bytes"] == "café"
    assert server.seen[-1].headers["x-text"] == "café"


def test_the_host_may_be_another_one(server: AppServer, session: Session) -> None:
    session.get(server.url, headers={"host": "example.com"})
    assert [value for name, value in server.seen[-1].fields if name.lower() == "host"] == ["example.com"]


def test_the_userinfo_of_the_url_is_sent_as_basic_authentication(server: AppServer, session: Session) -> None:
    session.headers["Authorization"] = "session's"
    url = server.url.replace("//", "//us%20er:p%40ss:wörd@")
    response = session.get(url)
    # In latin-1 as far as that goes, as in `requests`.
    expected = base64.b64encode("us er:p@ss:wörd".encode("latin-1")).decode()
    assert server.seen[-1].headers["authorization"] == f"Basic {expected}"
    assert response.url == f"{server.url}/"
    session.get(url, headers={"Authorization": "mine"})
    assert server.seen[-1].headers["authorization"] == "mine"


def test_a_change_of_the_session_changes_no_request_that_was_made(server: AppServer, session: Session) -> None:
    response = session.get(server.url)
    session.headers["Accept"] = "text/html"
    assert response.request.headers["Accept"] == "*/*"


# --------------------------------------------------------------------------------------------------- params


@pytest.mark.parametrize(
    ("kept", "given", "query"),
    [
        ({"a": "1"}, None, {"a": ["1"]}),
        ({"a": "1"}, {"b": "2"}, {"a": ["1"], "b": ["2"]}),
        ({"a": "1", "b": "2"}, {"a": "3"}, {"a": ["3"], "b": ["2"]}),
        ({"a": "1", "b": "2"}, {"a": None}, {"b": ["2"]}),
        ({"a": "1"}, [("b", "2")], {"b": ["2"]}),
        ([("a", "1")], {"b": "2"}, {"b": ["2"]}),
        ({"a": ["1", "2"]}, {}, {"a": ["1", "2"]}),
    ],
)
def test_params_of_the_session_and_of_the_call_are_merged_as_in_requests(
    server: AppServer, session: Session, kept: Any, given: Any, query: Mapping[str, list[str]]
) -> None:
    session.params = kept
    session.get(server.url + "/?url=0", params=given)
    assert server.seen[-1].query == {"url": ["0"], **query}


def test_a_url_may_be_bytes_or_an_object_that_has_a_text(server: AppServer, session: Session) -> None:
    class URL:
        def __str__(self) -> str:
            return f"{server.url}/object"

    assert session.get(f"{server.url}/bytes".encode()).url == f"{server.url}/bytes"
    assert session.get(URL()).url == f"{server.url}/object"  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------- body


@pytest.mark.parametrize(
    ("arguments", "body", "content_type"),
    [
        ({"data": b"\x00bytes"}, b"\x00bytes", None),
        ({"data": bytearray(b"array")}, b"array", None),
        ({"data": memoryview(b"view")}, b"view", None),
        ({"data": "täxt"}, "täxt".encode(), None),
        ({"data": {"a": "1 2", "ä": ["x", "&"]}}, b"a=1+2&%C3%A4=x&%C3%A4=%26", "application/x-www-form-urlencoded"),
        ({"data": [("a", "1"), ("a", "2")]}, b"a=1&a=2", "application/x-www-form-urlencoded"),
        ({"data": (("a", "1"),)}, b"a=1", "application/x-www-form-urlencoded"),
        ({"json": {"ä": [1, None, True]}}, b'{"\\u00e4": [1, null, true]}', "application/json"),
        ({"json": []}, b"[]", "application/json"),
        ({"json": 0}, b"0", "application/json"),
        ({"json": ""}, b'""', "application/json"),
        ({"json": False}, b"false", "application/json"),
        ({"data": {}, "json": {"a": 1}}, b'{"a": 1}', "application/json"),
        ({"data": b"data", "json": {"a": 1}}, b"data", None),
        ({"data": {"a": "b"}, "headers": {"content-type": "mine"}}, b"a=b", "mine"),
        ({"json": 1, "headers": {"Content-Type": "application/vnd.api+json"}}, b"1", "application/vnd.api+json"),
    ],
)
def test_bodies_with_a_known_length(
    server: AppServer, session: Session, arguments: dict[str, Any], body: bytes, content_type: str | None
) -> None:
    response = session.post(server.url, **arguments)
    seen = server.seen[-1]
    assert seen.body == body
    assert seen.headers["content-length"] == str(len(body))
    assert seen.headers.get("content-type") == content_type
    assert response.request_complete


@pytest.mark.parametrize("data", [None, b"", "", {}, [], ()])
def test_nothing_is_no_body(server: AppServer, session: Session, data: Any) -> None:
    session.post(server.url, data=data)
    session.get(server.url, data=data)
    first, second = server.seen
    assert first.headers["content-length"] == "0"
    assert "content-length" not in second.headers
    assert "content-type" not in first.headers


@pytest.mark.parametrize("data", [b"body", b"", None])
def test_the_user_may_ask_for_chunks(server: AppServer, session: Session, data: bytes | None) -> None:
    """Whatever frames the body in the head frames it on the wire; the next request shows where it ended."""
    session.post(server.url, data=data, headers={"Transfer-Encoding": "chunked"})
    session.get(server.url)
    assert [request.body for request in server.seen] == [data or b"", b""]
    assert "content-length" not in server.seen[0].headers
    assert server.connections == 1


@pytest.mark.parametrize("data", [None, b"", b"body"])
def test_the_user_may_say_the_length(server: AppServer, session: Session, data: bytes | None) -> None:
    session.post(server.url, data=data, headers={"content-length": str(len(data or b""))})
    session.get(server.url)
    assert [request.body for request in server.seen] == [data or b"", b""]


def test_json_in_a_cycle_is_refused_as_python_does(session: Session) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(syncflow.InvalidJSONError, match="Circular"):
        session.post("http://127.0.0.1:1/", json=loop)
    with pytest.raises(TypeError, match="not JSON serializable"):
        session.post("http://127.0.0.1:1/", json=object())


# ----------------------------------------------------------------------------- the response and its request


def test_what_a_response_tells(server: AppServer, session: Session) -> None:
    response = session.get(f"{server.url}/a?b#c")
    assert (response.status_code, response.reason, response.ok, bool(response)) == (200, "OK", True, True)
    assert response.url == f"{server.url}/a?b#c"
    assert response.headers["content-type"] == response.headers["CONTENT-TYPE"] == "application/json"
    assert isinstance(response.elapsed, datetime.timedelta)
    assert response.elapsed > datetime.timedelta(0)
    assert response.peer == server.address
    assert response.request_complete
    assert repr(response) == "<Response [200]>"


def test_a_prepared_request_tells_what_was_sent(server: AppServer, session: Session) -> None:
    request = session.post(f"{server.url}/p?a", data=b"body").request
    assert isinstance(request, PreparedRequest)
    assert (request.method, request.url, request.path_url) == ("POST", f"{server.url}/p?a", "/p?a")
    assert request.body == b"body"
    assert request.headers["content-length"] == "4"
    assert repr(request) == "<PreparedRequest [POST]>"
    assert session.get(server.url).request.body is None
    assert session.post(server.url, data={"a": "b"}).request.body == "a=b"


@pytest.mark.parametrize(
    ("status", "reason", "ok"), [(200, "OK", True), (302, "Found", True), (404, "Not Found", False), (599, "", False)]
)
def test_statuses(session: Session, status: int, reason: str, ok: bool) -> None:
    with AppServer(lambda request: Answer(status)) as server:
        response = session.get(server.url)
    assert (response.status_code, response.reason, response.ok, bool(response)) == (status, reason, ok, ok)


@pytest.mark.parametrize(
    ("status", "words"),
    [(400, "400 Client Error: Bad Request"), (499, "499 Client"), (500, "500 Server"), (599, "599")],
)
def test_raise_for_status(session: Session, status: int, words: str) -> None:
    with AppServer(lambda request: Answer(status)) as server:
        response = session.get(server.url)
    with pytest.raises(syncflow.HTTPError) as caught:
        response.raise_for_status()
    assert str(caught.value).startswith(words)
    assert f"for url: {response.url}" in str(caught.value)
    assert caught.value.response is response
    assert caught.value.request is response.request


@pytest.mark.parametrize("status", [200, 204, 302, 304, 399, 600, 999])
def test_raise_for_status_lets_others_pass(session: Session, status: int) -> None:
    with ScriptedServer(lambda peer: (peer.read_request(), peer.send(reply(status)))) as server:
        session.get(server.url).raise_for_status()


def test_fields_that_come_twice_are_joined(session: Session) -> None:
    fields = [("X-One", "a"), ("x-one", "b"), ("Set-Cookie", "c=1"), ("Set-Cookie", "d=2"), ("X-Empty", "")]
    with AppServer(lambda request: Answer(headers=fields)) as server:
        headers = session.get(server.url).headers
    assert (headers["x-one"], headers["set-cookie"], headers["x-empty"]) == ("a, b", "c=1, d=2", "")


def test_timings(server: AppServer, session: Session) -> None:
    first = session.get(server.url).timings
    assert first.connect > 0.0
    assert first.tls == 0.0
    assert min(first.pool, first.dns) >= 0.0
    assert first.sent is not None
    assert first.first_byte is not None
    assert first.total is not None
    assert 0.0 < first.sent <= first.first_byte <= first.total
    again = session.get(server.url).timings
    assert (again.dns, again.connect, again.tls) == (0.0, 0.0, 0.0)


def test_timings_over_tls(session: Session, server_tls: Any, ca_file: Any) -> None:
    with AppServer(ssl_context=server_tls) as server:
        timings = session.get(server.url, verify=ca_file).timings
    assert timings.tls > 0.0
    assert timings.first_byte is not None
    assert timings.connect + timings.tls < timings.first_byte


def test_timings_of_what_is_not_over(session: Session) -> None:
    def script(peer: Any) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        peer.wait_step()
        peer.send(b"b")

    with ScriptedServer(script) as server, session.get(server.url, stream=True) as response:
        assert response.timings.total is None
        server.step()
        assert response.content == b"ab"
        total, first_byte = response.timings.total, response.timings.first_byte
        assert total is not None
        assert first_byte is not None
        assert total > first_byte


# --------------------------------------------------------------------------------------------------- verify


def test_verify(server_tls: Any, ca_file: Any, tmp_path: Any) -> None:
    with AppServer(ssl_context=server_tls) as server, Session(timeout=10) as session:
        with pytest.raises(syncflow.SSLError):
            session.get(server.url)
        assert session.get(server.url, verify=str(ca_file)).ok
        assert session.get(server.url, verify=ca_file).ok
        assert session.get(server.url, verify=False).ok
        session.verify = str(ca_file)
        assert session.get(server.url).ok
        with pytest.raises(syncflow.SSLError):
            session.get(server.url, verify=True)
        with pytest.raises(OSError, match="no such file"):
            session.get(server.url, verify=tmp_path / "nothing.pem")


def test_the_certificate_must_be_for_the_host(server_tls: Any, ca: Any, ca_file: Any) -> None:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("example.org").configure_cert(context)
    with AppServer(ssl_context=context) as server, Session(timeout=10) as session:
        with pytest.raises(syncflow.SSLError, match=f"127.0.0.1:{server.port}"):
            session.get(server.url, verify=ca_file)
        assert session.get(server.url, verify=False).ok


def test_a_connection_that_was_not_verified_is_not_reused_for_one_that_must_be(server_tls: Any, ca_file: Any) -> None:
    with AppServer(ssl_context=server_tls) as server, Session(timeout=10) as session:
        assert session.get(server.url, verify=False).ok
        with pytest.raises(syncflow.SSLError):
            session.get(server.url)
        assert session.get(server.url, verify=ca_file).ok
        assert server.requests == 2


# ------------------------------------------------------------------------------------------- one-shot calls


def test_a_one_shot_call_leaves_nothing_open(server: AppServer) -> None:
    assert syncflow.get(server.url).ok
    server.wait_until_idle()


def test_a_one_shot_call_may_stream() -> None:
    def script(peer: Any) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
        peer.wait_step()
        peer.send(b"def")
        assert peer.wait_closed() == "fin"

    with ScriptedServer(script) as server:
        response = syncflow.get(server.url, stream=True)
        server.step()
        assert response.content == b"abcdef"
        server.wait_until_idle()


def test_stream_of_the_session_is_what_a_call_does_without_its_own(server: AppServer, session: Session) -> None:
    session.stream = True
    with session.get(server.url) as response:
        assert json.loads(b"".join(response.iter_content(10)))["method"] == "GET"
    with session.get(server.url, stream=False) as response:
        assert b"".join(response.iter_content(10)) == response.content


def test_a_session_is_a_context_manager_and_closes_twice(server: AppServer) -> None:
    with Session() as session:
        assert session.get(server.url).ok
        session.close()
    with pytest.raises(syncflow.SessionClosed):
        session.get(server.url)


def test_a_session_that_is_dropped_open_warns(server: AppServer) -> None:
    session = Session()
    session.get(server.url)
    with pytest.warns(ResourceWarning, match="dropped with open connections"):
        del session
    server.wait_until_idle()


def test_a_closed_session_that_is_dropped_does_not(server: AppServer) -> None:
    """Warnings are errors here."""
    session: Session | None = Session()
    assert session is not None
    call: Callable[[str], Response] = session.get
    assert call(server.url).ok
    session.close()
    del call
    session = None

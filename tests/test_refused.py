"""What may not be sent is refused before anything is: the server sees no connection at all."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

import pytest

import syncflow
from syncflow import (
    BodyLengthError,
    InvalidHeader,
    InvalidJSONError,
    InvalidSchema,
    InvalidURL,
    MissingSchema,
    RequestException,
    Session,
)
from syncflow.testing import AppServer

BREAKING = [
    "a\rb",
    "a\nb",
    "a\r\nX-Evil: 1",
    "a\r\n\r\nGET / HTTP/1.1",
    "a\x00b",
    "\r",
    "\n",
    "\x00",
    "a\x7fb",
    "a\x0bb",
]


@pytest.fixture
def server() -> Iterator[AppServer]:
    with AppServer() as server:
        yield server


@pytest.fixture
def session(server: AppServer) -> Iterator[Session]:
    """Whatever the test does with it, no connection may come of it."""
    with Session(timeout=10) as session:
        yield session
    assert server.connections == 0


def assert_refused(caught: pytest.ExceptionInfo[RequestException], server: AppServer) -> None:
    error = caught.value
    assert isinstance(error, RequestException)
    assert isinstance(error, ValueError | InvalidJSONError)
    assert f"127.0.0.1:{server.port}" in str(error)
    assert "nothing was sent" in str(error)
    assert (error.phase, error.bytes_sent, error.bytes_received) == (None, 0, 0)


# -------------------------------------------------------------------------------------------- head


@pytest.mark.parametrize("value", [*BREAKING, b"a\r\nb", b"\x00", " padded", "padded ", "\ttab", "snow\u2603man"])
@pytest.mark.parametrize("how", ["call", "session", "upload"])
def test_a_value_that_breaks_out_of_its_line(server: AppServer, session: Session, value: Any, how: str) -> None:
    with pytest.raises(InvalidHeader) as caught:
        if how == "call":
            session.get(server.url, headers={"X-Mine": value})
        elif how == "upload":
            session.upload("PUT", server.url, headers={"X-Mine": value})
        else:
            session.headers["X-Mine"] = value.decode("latin-1") if isinstance(value, bytes) else value
            session.get(server.url)
    assert_refused(caught, server)
    assert "X-Mine" in str(caught.value)
    assert "Evil" not in str(caught.value)  # a value may be a secret


@pytest.mark.parametrize("name", [*BREAKING, "", "a b", "a:b", "a:", " a", "ä", "(a)", "a\t", b"a\r\nb", b"\xff"])
def test_a_name_that_is_none(server: AppServer, session: Session, name: Any) -> None:
    with pytest.raises(InvalidHeader) as caught:
        session.get(server.url, headers={name: "x"})
    assert_refused(caught, server)


@pytest.mark.parametrize("headers", [{"X-Number": 5}, {5: "x"}, {None: "x"}, {"X-List": ["a"]}, {"X-Object": object()}])
def test_names_and_values_are_text(server: AppServer, session: Session, headers: Any) -> None:
    with pytest.raises(InvalidHeader) as caught:
        session.get(server.url, headers=headers)
    assert_refused(caught, server)


@pytest.mark.parametrize("method", [*BREAKING, "", "GET /evil HTTP/1.1\r\nX: ", "A B", "GÄT", "GET:"])
@pytest.mark.parametrize("how", ["request", "upload"])
def test_a_method_that_is_none(server: AppServer, session: Session, method: str, how: str) -> None:
    with pytest.raises(InvalidHeader) as caught:
        getattr(session, how)(method, server.url)
    assert_refused(caught, server)


@pytest.mark.parametrize(
    "rest",
    [
        "\\@evil.example/",
        "\t/",
        "\n/",
        "/\r\nX-Evil: 1",
        "/\x00",
        "/?a=\nb",
        "/#\x1b",
        ":80/",
        "\\/",
        "<>/",
        ".\u2488/",
    ],
)
def test_a_url_that_could_be_read_in_two_ways(server: AppServer, session: Session, rest: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        session.get(server.url + rest)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("url", ["http://user@evil.example\\@127.0.0.1/", "http://127.0.0.1 @evil.example/"])
def test_userinfo_that_hides_the_host(session: Session, url: str) -> None:
    with pytest.raises(InvalidURL):
        session.get(url)


def test_schemes(session: Session) -> None:
    with pytest.raises(MissingSchema):
        session.get("127.0.0.1/")
    with pytest.raises(InvalidSchema):
        session.get("ftp://127.0.0.1/")
    with pytest.raises(MissingSchema):
        syncflow.get(None)  # type: ignore[arg-type]


def test_control_characters_in_params_are_quoted(server: AppServer) -> None:
    """Not refused: they cannot break out of the query."""
    with Session(timeout=10) as session:
        session.get(server.url, params={"a\r\n": "\x00"})
    assert server.seen[-1].target == "/?a%0D%0A=%00"


# -------------------------------------------------------------------------------------------- framing


@pytest.mark.parametrize(
    ("data", "declared"),
    [
        (b"body", "3"),
        (b"body", "5"),
        ("bödy", "4"),
        (b"", "1"),
        (None, "5"),
        ({"a": "b"}, "4"),
        (io.BytesIO(b"body"), "5"),
        (io.BytesIO(b"body"), "3"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_length_that_is_not_the_bodys(
    server: AppServer, session: Session, data: Any, declared: str, method: str
) -> None:
    with pytest.raises(BodyLengthError) as caught:
        session.request(method, server.url, data=data, headers={"Content-Length": declared})
    assert_refused(caught, server)
    assert caught.value.request is not None
    assert caught.value.request.method == method


@pytest.mark.parametrize("length", ["four", "-4", "+4", "4.0", "4 ", " 4", "", "4,4", "0x4", "\u0664", "1e1", "4\r\n"])
@pytest.mark.parametrize("data", [b"body", None, iter([b"body"])])
def test_a_length_that_is_no_number(server: AppServer, session: Session, length: str, data: Any) -> None:
    with pytest.raises(InvalidHeader) as caught:
        session.post(server.url, data=data, headers={"Content-Length": length})
    assert_refused(caught, server)


def test_a_length_and_chunks_exclude_one_another(server: AppServer, session: Session) -> None:
    with pytest.raises(InvalidHeader) as caught:
        session.post(server.url, data=b"body", headers={"Content-Length": "4", "Transfer-Encoding": "chunked"})
    assert_refused(caught, server)
    with pytest.raises(InvalidHeader) as caught:
        session.upload("PUT", server.url, content_length=4, headers={"Transfer-Encoding": "chunked"})
    assert_refused(caught, server)
    with pytest.raises(InvalidHeader) as caught:
        session.upload("PUT", server.url, headers={"Content-Length": "4"})
    assert_refused(caught, server)


@pytest.mark.parametrize("coding", ["gzip", "chunked, gzip", "chunked, chunked", "", "identity"])
def test_a_transfer_coding_that_does_not_end_the_body(server: AppServer, session: Session, coding: str) -> None:
    with pytest.raises(InvalidHeader) as caught:
        session.post(server.url, data=b"body", headers={"Transfer-Encoding": coding})
    assert_refused(caught, server)


def test_the_length_of_an_upload_is_not_negative(server: AppServer, session: Session) -> None:
    with pytest.raises(InvalidHeader) as caught:
        session.upload("PUT", server.url, content_length=-1)
    assert_refused(caught, server)


# -------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"a": [math.nan]}])
def test_json_that_is_none(server: AppServer, session: Session, value: Any) -> None:
    """RFC 8259, section 6: no NaN, no infinity."""
    with pytest.raises(InvalidJSONError) as caught:
        session.post(server.url, json=value)
    assert_refused(caught, server)
    assert caught.value.request is not None


@pytest.mark.parametrize("data", [5, 1.5, object(), True])
def test_what_cannot_be_a_body(server: AppServer, session: Session, data: Any) -> None:
    with pytest.raises(TypeError, match="bytes, str, a file object, an iterable"):
        session.post(server.url, data=data)


def test_a_closed_file(server: AppServer, session: Session, tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        pass
    with pytest.raises(ValueError, match="closed file"):
        session.post(server.url, data=file)


@pytest.mark.parametrize("timeout", [0, -1, "5", (1, 2, 3), math.nan])
def test_a_timeout_that_is_none(server: AppServer, session: Session, timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        session.get(server.url, timeout=timeout)
    with pytest.raises((TypeError, ValueError)):
        session.upload("PUT", server.url, timeout=timeout)

"""Every way to fail has its exit code, and one line on standard error."""

from __future__ import annotations

import inspect
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from syncflow import exceptions
from syncflow.cli import exits, main
from syncflow.cli.exits import LONGEST_LINE, explained, one_line
from syncflow.testing import (
    AppServer,
    Peer,
    Receiver,
    Response,
    ScriptedServer,
    early_response,
    endless_head,
    full_backlog,
    json_response,
    never_answers,
    refused_port,
    reply,
    truncated,
)

Server = Callable[[], AbstractContextManager[Any]]


def answers(status: int, body: bytes = b"", *headers: tuple[str, str]) -> Server:
    return lambda: AppServer(lambda request: Response(status, list(headers), body))


def speaks_otherwise() -> ScriptedServer:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"SSH-2.0-OpenSSH_9.6\r\n")
        peer.wait_closed()

    return ScriptedServer(script)


def hangs_up() -> ScriptedServer:
    return ScriptedServer(lambda peer: peer.read_head())


def answers_early() -> ScriptedServer:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply(200, b"", {"Connection": "close"}))
        peer.wait_closed()

    return ScriptedServer(script, receive_buffer=16384)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line."""
    err = capsys.readouterr().err
    assert re.fullmatch(r"syncflow: [^\n]+\n", err), err
    return err.removeprefix("syncflow: ").rstrip("\n")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that no kernel takes as a whole; it occupies no disk."""
    path = tmp_path / "large.bin"
    with open(path, "wb") as file:
        file.truncate(256 << 20)
    return path


# ---------------------------------------------------------------- against servers

TEXT = ("Content-Type", "text/plain; charset=utf-8")

GETS: dict[str, tuple[int, Server, list[str], str]] = {
    "not found": (1, answers(404), [], r"GET http://127.0.0.1:\d+/: 404 Not Found"),
    "a reason": (1, answers(403, b"no\nentry\x1b[31m", TEXT), [], r".*: 403 Forbidden: no entry\\x1b\[31m"),
    "a reason in JSON": (1, lambda: AppServer(lambda r: json_response({"e": 7}, 500)), [], r'.* 500 .*: {"e": 7}'),
    "a reason nobody wants": (1, answers(500, b"<html>", ("Content-Type", "text/html")), [], r".*: 500 [\w ]+"),
    "choices": (1, answers(300, b"", ("Location", "/x")), [], r".*: 300 .*: not followed; it points to /x"),
    "refused": (3, refused_port, [], r"127.0.0.1:\d+: .*refused.*"),
    "no connection in time": (4, full_backlog, ["--timeout", "0.15"], r".*0.15 s.*"),
    "no answer in time": (4, never_answers, ["--timeout", "0.15"], r".*0.15 s.*"),
    "hung up": (5, hangs_up, [], r".*closed.*"),
    "no HTTP": (5, speaks_otherwise, [], r"127.0.0.1:\d+: .*"),
    "an endless head": (5, endless_head, [], r"127.0.0.1:\d+: .*"),
    "cut": (5, truncated, [], r".* 999 of 1000 bytes.*"),
    "cut in chunks": (5, lambda: truncated(framing="chunked"), [], r".*"),
    "cut by a reset": (5, lambda: truncated(reset=True), [], r".*"),
}


@pytest.mark.parametrize("case", GETS)
def test_get(case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, server, options, message = GETS[case]
    with server() as running:
        assert main(["get", f"{running.url}/", "-o", str(tmp_path / "file"), *options]) == code
    assert re.fullmatch(message, told(capsys))
    assert list(tmp_path.iterdir()) == []


UPLOADS: dict[str, tuple[int, Server, list[str], str]] = {
    "too large": (1, lambda: early_response(413, then="linger"), [], r"PUT http://127.0.0.1:\d+/x: 413 .*"),
    "stuck": (4, lambda: never_answers(reads=False), ["--timeout", "0.3"], r".*0.3 s.*"),
    "refused": (3, refused_port, [], r".*refused.*"),
    "hung up": (5, hangs_up, [], r"127.0.0.1:\d+: .*"),
    "content with a part": (5, answers_early, [], r".*: 200 OK, but the server answered before all .* was sent"),
}


@pytest.mark.parametrize("case", UPLOADS)
def test_upload(case: str, capsys: pytest.CaptureFixture[str], large: Path) -> None:
    code, server, options, message = UPLOADS[case]
    with server() as running:
        assert main(["upload", str(large), f"{running.url}/x", *options]) == code
    assert re.fullmatch(message, told(capsys))


def test_the_body_of_a_refusal_goes_to_standard_output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"x")
    with answers(422, b"<b>no</b>")() as server:
        assert main(["upload", str(small), server.url]) == 1
    out, err = capsys.readouterr()
    assert out == "<b>no</b>"
    assert err.count("\n") == 1
    assert ": 422 " in err


# ---------------------------------------------------------------- names and trust


def test_a_name_that_nobody_has(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert main(["get", "http://nobody.invalid/"]) == 3
    assert "nobody.invalid" in told(capsys)


def test_trust(capsys: pytest.CaptureFixture[str], server_tls: ssl.SSLContext, ca_file: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with Receiver(ssl_context=server_tls) as server:
        url = f"https://localhost:{server.port}/bytes/5"
        assert main(["get", url, "-o", out]) == 3
        assert "certificate" in told(capsys)
        assert main(["get", url, "-o", out, "--cacert", str(ca_file)]) == 0
        assert main(["get", url, "-o", out, "-k"]) == 0
        assert main(["upload", out, url, "--cacert", str(ca_file)]) == 0
        assert server.receipts[0].bytes == 5


def test_plain_text_where_tls_was_expected(capsys: pytest.CaptureFixture[str]) -> None:
    def script(peer: Peer) -> None:
        peer.send(reply(400, b""))
        peer.wait_closed()

    with ScriptedServer(script) as server:
        assert main(["get", f"https://127.0.0.1:{server.port}/"]) == 3
    told(capsys)


# ---------------------------------------------------------------- usage and local files

USAGE = {
    "nothing": [],
    "no such command": ["fetch"],
    "no URL": ["get"],
    "no such option": ["get", "http://127.0.0.1/", "--nonsense"],
    "no scheme": ["get", "127.0.0.1/"],
    "another scheme": ["get", "ftp://127.0.0.1/"],
    "no host": ["get", "http:///"],
    "no header": ["get", "http://127.0.0.1:1/", "-H", "nonsense"],
    "no header name": ["get", "http://127.0.0.1:1/", "-H", ": x"],
    "two headers in one": ["get", "http://127.0.0.1:1/", "-H", "A: b\r\nC: d"],
    "no time": ["get", "http://127.0.0.1:1/", "--timeout", "0"],
    "no number": ["get", "http://127.0.0.1:1/", "--timeout", "nan"],
    "both kinds of trust": ["get", "https://127.0.0.1:1/", "-k", "--cacert", "x"],
    "no authorities": ["get", "https://127.0.0.1:1/", "--cacert", "/nonexistent"],
    "no file": ["upload", "/nonexistent", "http://127.0.0.1:1/"],
    "a folder": ["upload", "/", "http://127.0.0.1:1/"],
    "no size": ["demo", "--size", "much"],
    "no rate": ["demo", "--slow", "0"],
    "no folder for the plot": ["demo", "--plot", "/nonexistent/plot.svg"],
    "a folder as plot": ["demo", "--plot", "/"],
}


@pytest.mark.parametrize("case", USAGE)
def test_usage(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(USAGE[case]) == 2
    told(capsys)


def test_authorities_that_are_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "authorities.pem"
    path.write_text("not PEM")
    assert main(["get", "https://127.0.0.1:1/", "--cacert", str(path)]) == 2
    assert str(path) in told(capsys)


@pytest.mark.parametrize("name", ["/nonexistent/file", "/"])
def test_a_place_that_cannot_be_written(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Receiver() as server:
        assert main(["get", f"{server.url}/bytes/5", "-o", name]) == 2
    assert name in told(capsys)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_disk_that_is_full(capsys: pytest.CaptureFixture[str]) -> None:
    with Receiver() as server:
        assert main(["get", f"{server.url}/bytes/5", "-o", "/dev/full"]) == 2
    assert told(capsys) == "/dev/full: No space left on device"


def test_help_says_what_each_code_means(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["upload", "--help"], ["get", "-h"]):
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert re.findall(r"^  (\d+) ", out, re.MULTILINE) == [str(code) for code in exits.MEANINGS]
    assert main(["demo", "--help"]) == 0
    assert main(["--version"]) == 0
    assert re.search(r"^syncflow \d", capsys.readouterr().out, re.MULTILINE)


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*args: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("syncflow.cli.transfer.get", bug)
    with pytest.raises(ZeroDivisionError):
        main(["get", "http://127.0.0.1:1/"])


# ---------------------------------------------------------------- what leads to which

CODES = {
    exceptions.ConnectTimeout: 4,
    exceptions.ReadTimeout: 4,
    exceptions.WriteTimeout: 4,
    exceptions.PoolTimeout: 4,
    exceptions.TotalTimeout: 4,
    exceptions.SSLError: 3,
    exceptions.ProxyError: 3,
    exceptions.ProtocolError: 5,
    exceptions.ChunkedEncodingError: 5,
    exceptions.BodyLengthError: 5,
    exceptions.InvalidURL: 2,
    exceptions.InvalidSchema: 2,
    exceptions.MissingSchema: 2,
    exceptions.InvalidHeader: 2,
    FileNotFoundError: 2,
}


@pytest.mark.parametrize("kind", CODES)
def test_an_exception_leads_to_its_code(kind: type[OSError]) -> None:
    assert explained(kind("because")) == (CODES[kind], "because")


@pytest.mark.parametrize(("phase", "code"), [("dns", 3), ("connect", 3), ("send", 5), ("head", 5), ("body", 5)])
def test_a_lost_connection_is_not_one_that_never_was(phase: str, code: int) -> None:
    assert explained(exceptions.ConnectionError("because", phase=phase))[0] == code


def test_every_exception_of_the_library_has_a_code_and_a_line() -> None:
    kinds = [
        kind
        for kind in vars(exceptions).values()
        if inspect.isclass(kind) and issubclass(kind, exceptions.RequestException)
    ]
    assert len(kinds) > 20
    for kind in kinds:
        error = kind.__new__(kind)
        exceptions.RequestException.__init__(error, "two\nlines")
        code, message = explained(error)
        assert code in exits.MEANINGS
        assert message == "two lines"


def test_an_exception_without_words_is_told_by_its_name() -> None:
    assert explained(exceptions.ConnectionError())[1] == "ConnectionError"


def test_any_text_fits_on_one_line() -> None:
    assert one_line("a\r\n\tb\x1b[2J\x00\u202ec\u2028d") == "a b\\x1b[2J\\x00\\u202ec d"
    assert one_line("x" * 5000) == "x" * (LONGEST_LINE - 1) + "…"

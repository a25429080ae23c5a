"""`PreparedRequest.to_curl()`: read by the shell and by curl itself."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from syncflow import Request
from syncflow.testing import AppServer


def words(*args: Any, secrets: bool = False, **kwargs: Any) -> list[str]:
    return shlex.split(Request(*args, **kwargs).prepare().to_curl(secrets=secrets))


def test_a_get() -> None:
    command = words("GET", "http://h.example/a b", params={"q": "it's"}, headers={"Accept": "text/plain"})
    assert command == ["curl", "-H", "Accept: text/plain", "--", "http://h.example/a%20b?q=it%27s"]


def test_secrets_are_masked_unless_they_are_asked_for() -> None:
    headers = {"Cookie": "a=b", "Proxy-Authorization": "Basic cHJveHk="}
    shown = words("GET", "http://me:pass@h.example/", headers=headers)
    assert "Authorization: ***" in shown
    assert "Cookie: ***" in shown
    assert "Proxy-Authorization: ***" in shown
    assert not any("pass" in word for word in shown)
    assert words("GET", "http://me:pass@h.example/?token=t&a=b")[-1] == "http://h.example/?token=***&a=b"
    told = words("GET", "http://h.example/", auth=("me", "pass"), headers=headers, secrets=True)
    assert "Cookie: a=b" in told
    assert "Authorization: Basic bWU6cGFzcw==" in told


def test_methods() -> None:
    assert words("HEAD", "http://h.example/") == ["curl", "--head", "--", "http://h.example/"]
    assert words("DELETE", "http://h.example/")[:3] == ["curl", "-X", "DELETE"]
    assert "-X" not in words("POST", "http://h.example/", data=b"x")
    assert words("PUT", "http://h.example/", data=b"x")[:3] == ["curl", "-X", "PUT"]


def test_bodies(tmp_path: Path) -> None:
    assert words("POST", "http://h.example/", data="@not a file")[-4:-2] == ["--data-raw", "@not a file"]
    assert words("POST", "http://h.example/", data=b"\xff\0")[-4:-2] == ["--data-binary", "@-"]
    assert words("POST", "http://h.example/", data=iter([b"x"]))[-4:-2] == ["--data-binary", "@-"]
    file = tmp_path / "body"
    file.write_bytes(b"x")
    with file.open("rb") as body:
        assert words("POST", "http://h.example/", data=body)[-4:-2] == ["--data-binary", f"@{file}"]


@pytest.mark.usefixtures("curl_required")
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("GET", {}),
        ("POST", {"data": {"a": "1 & 2", "b": "$HOME `id` \"quoted\" 'too'"}}),
        ("PUT", {"json": {"name": "Zoë\nline"}}),
        ("DELETE", {"headers": {"X-Empty": "", "X-Odd": "; | > < * ?"}}),
    ],
)
def test_curl_sends_the_same(method: str, arguments: dict[str, Any]) -> None:
    with AppServer() as server:
        prepared = Request(method, server.url + "/path?q=%20x", **arguments).prepare()
        command = prepared.to_curl(secrets=True)
        done = subprocess.run(["sh", "-c", command.replace("curl", "curl -sS", 1)], capture_output=True, timeout=30)  # noqa: PLW1510  # below
        assert done.returncode == 0, done.stderr
        seen = server.seen[-1]
    assert (seen.method, seen.target) == (method, prepared.path_url)
    sent = prepared.body or b""
    assert seen.body == (sent.encode() if isinstance(sent, str) else sent)
    for name, value in prepared.headers.items():
        assert seen.headers[name.lower()] == value

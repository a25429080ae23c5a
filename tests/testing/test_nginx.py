"""Nginx: starts on a port of its own, takes uploads, serves files, tells of a wrong configuration."""

from __future__ import annotations

import http.client
import urllib.request

import pytest

from syncflow.testing import Nginx, NotInstalled, pattern

pytestmark = pytest.mark.usefixtures("nginx_required")


def test_files_are_served_and_uploads_are_written() -> None:
    body = pattern(3_000_000)
    with Nginx() as server:
        client = http.client.HTTPConnection(*server.address, timeout=10)
        client.request("PUT", "/upload/folder/file", body=body)
        response = client.getresponse()
        response.read()
        assert response.status == 201
        client.request("GET", "/upload/folder/file")
        assert client.getresponse().read() == body
        client.close()
        assert (server.root / "upload/folder/file").read_bytes() == body
        assert "error" not in server.error_log


def test_a_chunked_upload() -> None:
    with Nginx() as server:
        client = http.client.HTTPConnection(*server.address, timeout=10)
        client.request("PUT", "/upload/file", body=iter([b"abc", b"def"]), encode_chunked=True)
        assert client.getresponse().status == 201
        client.close()
        assert (server.root / "upload/file").read_bytes() == b"abcdef"


def test_the_configuration_is_the_tests() -> None:
    with Nginx("location / { return 418 short; } client_max_body_size 1k;") as server:
        client = http.client.HTTPConnection(*server.address, timeout=10)
        client.request("GET", "/")
        response = client.getresponse()
        assert (response.status, response.read()) == (418, b"short")
        client.close()


def test_tls(server_tls_files, client_tls) -> None:
    with Nginx(tls=server_tls_files) as server:
        (server.root / "file").write_bytes(b"abc")
        with urllib.request.urlopen(f"{server.url}/file", context=client_tls, timeout=10) as response:
            assert response.read() == b"abc"


def test_two_at_once_and_nothing_is_left() -> None:
    with Nginx() as one, Nginx() as other:
        assert one.port != other.port
        folder = one.prefix
    assert not folder.exists()
    with pytest.raises(RuntimeError, match="inside its with block"):
        _ = one.url


def test_a_wrong_configuration_is_told() -> None:
    with pytest.raises(AssertionError, match='unknown directive "nonsense"'), Nginx("nonsense on;"):
        pass


def test_no_nginx_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *args, **kw: None)
    with pytest.raises(NotInstalled), Nginx():
        pass

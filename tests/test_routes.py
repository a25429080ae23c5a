"""Which way a request goes, and what makes its connection trustworthy; nothing is opened here."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from syncflow.exceptions import InvalidProxyURL
from syncflow.routes import Trust, merge_proxies, merge_verify, parse_proxy, route_of
from syncflow.urls import parse_url

HTTP, HTTPS = parse_url("http://host.example/"), parse_url("https://host.example/")
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------------- proxies


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://p.example", ("http", "p.example", 80)),
        ("p.example:3128", ("http", "p.example", 3128)),
        ("https://p.example", ("https", "p.example", 443)),
        ("socks5h://[::1]:1081", ("socks5h", "::1", 1081)),
        ("socks5://p.example", ("socks5", "p.example", 1080)),
        ("SOCKS4A://p.example", ("socks4a", "p.example", 1080)),
    ],
)
def test_a_proxy_s_url(url: str, expected: tuple[str, str, int]) -> None:
    assert parse_proxy(url)[:3] == expected


def test_credentials_of_a_proxy() -> None:
    http = parse_proxy("http://us%20er:p%40ss@p.example")
    assert (http.authorization, http.username) == ("Basic dXMgZXI6cEBzcw==", "")
    socks = parse_proxy("socks5://us%20er:p%40ss@p.example")
    assert (socks.authorization, socks.username, socks.password) == (None, "us er", "p@ss")


@pytest.mark.parametrize(
    "url", ["ftp://p.example", "http://", "http://p\\q.example", "http://p.example:x", "socks://p"]
)
def test_what_is_no_proxy_is_refused_and_its_password_is_not_shown(url: str) -> None:
    with pytest.raises(InvalidProxyURL, match="nothing was sent") as caught:
        parse_proxy(url.replace("//", "//me:secret@"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ({}, {}, {}),
        ({"http": "a"}, {}, {"http": "a"}),
        ({}, {"http_proxy": "e"}, {"http": "e"}),
        ({"http": "a"}, {"http_proxy": "e", "https_proxy": "f"}, {"http": "a", "https": "f"}),
        ({"http": None}, {"http_proxy": "e"}, {"http": None}),
        ({}, {"http_proxy": "e", "no_proxy": "host.example"}, {}),
        ({"http": "a"}, {"http_proxy": "e", "no_proxy": "host.example"}, {"http": "a"}),
        ({"http": "a", "no_proxy": ".example"}, {"http_proxy": "e"}, {}),
        ({}, {"http_proxy": "e", "no_proxy": "other.example"}, {"http": "e"}),
    ],
)
def test_the_program_s_proxies_and_the_environment_s(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], environment: dict[str, str], expected: dict[str, Any]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert merge_proxies(HTTP, given, trust_env=True) == expected
    if "no_proxy" not in given:
        assert merge_proxies(HTTP, given, trust_env=False) == given


def test_what_a_proxy_means_for_the_connection() -> None:
    straight = route_of(HTTP, True, None, {}, Trust())
    assert (straight.origin.proxy, straight.is_forwarded) == (None, False)
    forwarded = route_of(HTTP, True, None, {"http": "http://p.example:8080"}, Trust())
    assert (forwarded.origin.proxy and forwarded.origin.proxy.where, forwarded.is_forwarded) == ("p.example:8080", True)
    tunnelled = route_of(HTTPS, True, None, {"https": "http://p.example:8080"}, Trust())
    assert not tunnelled.is_forwarded
    socks = route_of(HTTP, True, None, {"all": "socks5://p.example"}, Trust())
    assert not socks.is_forwarded
    assert len({straight.origin, forwarded.origin, tunnelled.origin, socks.origin}) == 4, "none shares a connection"


def test_a_unix_socket() -> None:
    origin = route_of(
        parse_url("http+unix://%2Frun%2Fx.sock/a"), True, None, {"all": "http://p.example"}, Trust()
    ).origin
    assert (origin.path, origin.proxy, origin.context) == ("/run/x.sock", None, None)


# ---------------------------------------------------------------------- trust


def test_connections_are_shared_only_among_those_who_trust_alike(ca_file: Path) -> None:
    """CVE-2024-35195: the key of a connection holds all that made it trustworthy."""
    context = ssl.create_default_context()
    ways: list[Any] = [True, False, str(ca_file), context]
    origins = [route_of(HTTPS, verify, None, {}, Trust()).origin for verify in ways]
    assert len(set(origins)) == len(ways)
    assert origins == [route_of(HTTPS, verify, None, {}, Trust()).origin for verify in ways], "equals share"
    assert route_of(HTTPS, ca_file, None, {}, Trust()).origin == origins[2], "a Path is that path"
    pinned = route_of(HTTPS, True, None, {}, Trust(fingerprint="ab" * 32)).origin
    assert pinned not in origins
    assert route_of(HTTP, False, None, {}, Trust()).origin == route_of(HTTP, True, None, {}, Trust()).origin


def test_a_client_certificate(server_tls_files: tuple[Path, Path], tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(path.read_bytes() for path in server_tls_files))
    with_pair = route_of(HTTPS, True, server_tls_files, {}, Trust()).origin
    assert with_pair != route_of(HTTPS, True, None, {}, Trust()).origin
    assert with_pair == route_of(HTTPS, True, tuple(map(str, server_tls_files)), {}, Trust()).origin  # type: ignore[arg-type]
    assert route_of(HTTPS, True, both, {}, Trust()).origin.context is not None
    with pytest.raises(OSError, match="no such file"):
        route_of(HTTPS, True, tmp_path / "none.pem", {}, Trust())
    with pytest.raises(OSError, match="not a certificate"):
        route_of(HTTPS, True, server_tls_files[0], {}, Trust())
    with pytest.raises(ValueError, match="load_cert_chain"):
        route_of(HTTPS, ssl.create_default_context(), both, {}, Trust())


def test_a_session_s_own_context_stands_for_verify_true_only() -> None:
    mine = Trust(context=ssl.create_default_context())
    assert route_of(HTTPS, True, None, {}, mine).origin.context is mine.context
    assert route_of(HTTPS, False, None, {}, mine).origin.context is not mine.context


@pytest.mark.parametrize(
    ("asked", "kept", "environment", "expected"),
    [
        (None, True, None, True),
        (None, True, "/bundle", "/bundle"),
        (True, False, "/bundle", "/bundle"),
        (None, False, "/bundle", False),
        (False, True, "/bundle", False),
        ("/mine", True, "/bundle", "/mine"),
    ],
)
def test_who_decides_what_is_verified(
    monkeypatch: pytest.MonkeyPatch, asked: Any, kept: Any, environment: str | None, expected: Any
) -> None:
    if environment is not None:
        monkeypatch.setenv("SSL_CERT_FILE", environment)
    assert merge_verify(asked, kept, trust_env=True) == expected
    assert merge_verify(asked, kept, trust_env=False) in (expected, True)

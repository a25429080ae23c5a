"""What the environment says, compared with what `requests` makes of the same variables, files and hosts."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncflow import environ
from syncflow.environ import NetrcFile, bypasses_proxy, ca_bundle, environment_proxies, netrc_auth, select_proxy

PROXY_NAMES = [
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"),
]
CA_NAMES = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of whoever runs the tests, and a home of our own."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in [*CA_NAMES, "REQUEST_METHOD", "NETRC"]:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


# ---------------------------------------------------------------------------------------- which proxies

ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"http_proxy": "http://lower:1"},
    {"HTTP_PROXY": "http://upper:1"},
    {"http_proxy": "http://lower:1", "HTTP_PROXY": "http://upper:1"},
    {"http_proxy": "", "HTTP_PROXY": "http://upper:1"},
    {"http_proxy": ""},
    {"https_proxy": "http://user:secret@lower:1", "ALL_PROXY": "socks5://all:2"},
    {"HTTPS_PROXY": "http://upper:1", "all_proxy": "http://all:2", "http_proxy": "http://one:3"},
    {"all_proxy": "", "ALL_PROXY": "http://all:2"},
    {"HTTP_PROXY": "http://evil:1", "REQUEST_METHOD": "GET"},
    {"HTTP_PROXY": "http://evil:1", "REQUEST_METHOD": ""},
    {"HTTP_PROXY": "http://evil:1", "http_proxy": "http://good:1", "REQUEST_METHOD": "GET"},
    {"HTTPS_PROXY": "http://upper:1", "ALL_PROXY": "http://all:1", "REQUEST_METHOD": "POST"},
    {"http_proxy": "http://\udcff:1"},  # what is no UTF-8
]


def set_all(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("variables", ENVIRONMENTS, ids=str)
def test_the_proxies_are_those_that_requests_sees(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    utils = pytest.importorskip("requests.utils")
    set_all(monkeypatch, variables)
    assert dict(environment_proxies()) == utils.get_environ_proxies("http://host.example/")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"no_proxy": "a,b"}, "a,b"),
        ({"NO_PROXY": "a"}, "a"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, "a"),
        ({"no_proxy": "", "NO_PROXY": "b"}, "b"),
        ({"no_proxy": ""}, None),
    ],
    ids=str,
)
def test_hosts_that_need_none(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None) -> None:
    utils = pytest.importorskip("requests.utils")
    set_all(monkeypatch, variables)
    assert environment_proxies().get("no") == expected
    for host in ("a", "b", "c"):
        assert bypasses_proxy(host, 80, expected) == utils.should_bypass_proxies(f"http://{host}/", None)


def test_other_spellings_and_schemes_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """`requests` has them: it reads every name that ends in _proxy, however it is written. Nothing here can be asked
    for by ftp, and curl, wget and Go know the two ways of writing only."""
    set_all(monkeypatch, {"Http_Proxy": "http://mixed:1", "ftp_proxy": "http://ftp:1"})
    assert environment_proxies() == {}


def test_what_changes_is_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_proxies() == {}
    monkeypatch.setenv("http_proxy", "http://one:1")
    assert environment_proxies() == {"http": "http://one:1"}
    monkeypatch.setenv("http_proxy", "http://two:2")
    assert environment_proxies() == {"http": "http://two:2"}
    monkeypatch.delenv("http_proxy")
    assert environment_proxies() == {}


def test_another_mapping_in_place_of_os_environ_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://one:1")
    monkeypatch.setattr(os, "environ", {"HTTPS_PROXY": "http://two:2", "SSL_CERT_FILE": "two.pem"})
    assert environment_proxies() == {"https": "http://two:2"}
    assert ca_bundle() == "two.pem"


def test_a_python_that_keeps_the_variables_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environ, "_ENCODED", None)
    set_all(monkeypatch, {"http_proxy": "http://one:1", "CURL_CA_BUNDLE": "one.pem"})
    assert environment_proxies() == {"http": "http://one:1"}
    assert ca_bundle() == "one.pem"


def test_this_python_has_what_makes_it_cheap() -> None:
    """Else every request would pay for what it reads by the public way, and nobody would notice."""
    assert isinstance(environ._ENCODED, dict)
    assert len(environ._ENCODED) == len(os.environ)


def test_what_many_share_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://one:1")
    with pytest.raises(TypeError):
        environment_proxies()["http"] = "http://two:2"  # type: ignore[index]  # that is the test


# ---------------------------------------------------------------------------------------- which of them

KEYS = ["https://host.example", "https", "all://host.example", "all", "http", "https://other.example", "http://::1"]


@given(
    keys=st.sets(st.sampled_from(KEYS)),
    url=st.sampled_from(
        [
            ("https", "host.example", 443),
            ("http", "host.example", 80),
            ("https", "x.host.example", 443),
            ("http", "::1", 8),
        ]
    ),
)
def test_the_proxy_is_the_one_that_requests_takes(keys: set[str], url: tuple[str, str, int]) -> None:
    utils = pytest.importorskip("requests.utils")
    proxies = {key: f"http://proxy-for/{key}" for key in keys}
    scheme, host, port = url
    shown = f"[{host}]" if ":" in host else host
    assert select_proxy(scheme, host, port, proxies) == utils.select_proxy(f"{scheme}://{shown}:{port}/", proxies)


@pytest.mark.parametrize("proxies", [None, {}])
def test_no_proxies(proxies: dict[str, str] | None) -> None:
    assert select_proxy("http", "host.example", 80, proxies) is None


def test_none_for_a_host_is_an_answer() -> None:
    """As in requests: the search ends there."""
    utils = pytest.importorskip("requests.utils")
    proxies = {"http://intern.example": None, "all": "http://proxy:1"}
    assert select_proxy("http", "intern.example", 80, proxies) is None
    assert utils.select_proxy("http://intern.example/", proxies) is None


# ---------------------------------------------------------------------------------------- hosts without a proxy

HOSTS = [
    *("localhost", "example.com", "www.example.com", "a.b.example.com", "example.com.evil.org", "notexample.com"),
    *("127.0.0.1", "127.0.0.2", "10.0.0.1", "10.1.2.3", "192.168.1.7", "192.168.2.7", "::1", "fd00::17", "fe80::1"),
]
LISTS = [
    *("", "*", "localhost", "example.com", ".example.com", "..example.com", "EXAMPLE.com", "www.example.com", "com"),
    *("example.com,localhost", " example.com , localhost ", "exam ple.com", ",,", ",example.com,", "*.example.com"),
    *(
        "*,localhost",
        "localhost,*",
        "127.0.0.1",
        "127.0.0.0/8",
        "127.0.0.1/32",
        "10.0.0.0/16",
        "10.0.0.1/8",
        "10.0.0.0/33",
    ),
    *(
        "192.168.1.0/24,10.1.0.0/16",
        "192.168.1.0/x",
        "192.168.1",
        "::1",
        "fd00::17",
        "example.com:80",
        "localhost:8080",
    ),
    *(".example.com:8080", "example.com:", "example.com:x", "example", ".", "example.com."),
]


@pytest.mark.parametrize("no_proxy", LISTS)
def test_hosts_are_exempt_as_in_requests(no_proxy: str) -> None:
    utils = pytest.importorskip("requests.utils")
    for host in HOSTS:
        for port in (8080, 8443):
            shown = f"[{host}]" if ":" in host else host
            theirs = utils.should_bypass_proxies(f"http://{shown}:{port}/", no_proxy)
            assert bypasses_proxy(host, port, no_proxy) == theirs, (host, port)


DIFFERENT = [
    # A URL without a port has one all the same: `requests` looks for it in the text of the URL.
    ("example.com", 80, "example.com:80", True),
    # An address may have a port as a name may.
    ("10.0.0.1", 8080, "10.0.0.1:8080", True),
    ("10.0.0.1", 8081, "10.0.0.1:8080", False),
    # IPv6: in brackets, with a port, and networks.
    ("::1", 80, "[::1]", True),
    ("[::1]", 80, "::1", True),
    ("::1", 8080, "[::1]:8080", True),
    ("::1", 8081, "[::1]:8080", False),
    ("0:0:0:0:0:0:0:1", 80, "::1", True),
    ("fd00::17", 80, "fd00::/8", True),
    ("fd00::17", 80, "[fd00::]/8", True),
    ("fe80::1%eth0", 80, "fe80::/10", True),
    ("fe80::1", 80, "fd00::/8", False),
    # One address, written in two ways.
    ("127.1", 80, "127.0.0.1", True),
    # All of them is a network too, and a mask may be written out.
    ("10.0.0.1", 80, "0.0.0.0/0", True),
    ("10.0.0.1", 80, "10.0.0.0/255.0.0.0", True),
]


@pytest.mark.parametrize(("host", "port", "no_proxy", "expected"), DIFFERENT)
def test_what_requests_does_not_see(host: str, port: int, no_proxy: str, expected: bool) -> None:
    utils = pytest.importorskip("requests.utils")
    assert bypasses_proxy(host, port, no_proxy) is expected
    shown = f"[{host}]" if host.count(":") > 1 and "[" not in host else host
    url = f"http://{shown}/" if port == 80 else f"http://{shown}:{port}/"
    if expected and host != "[::1]":  # that one is the same in a URL
        assert not utils.should_bypass_proxies(url, no_proxy)


def test_an_address_has_no_suffixes() -> None:
    """`requests` asks urllib, which takes "0.0.1" for the domain of 10.0.0.1."""
    utils = pytest.importorskip("requests.utils")
    assert not bypasses_proxy("10.0.0.1", 80, "0.0.1")
    assert utils.should_bypass_proxies("http://10.0.0.1/", "0.0.1")


def test_an_empty_entry_is_none() -> None:
    """`requests` takes a lone dot for the end of every name that is written with its last dot."""
    utils = pytest.importorskip("requests.utils")
    assert not bypasses_proxy("example.com.", 80, "other,,.")
    assert utils.should_bypass_proxies("http://example.com./", "other,,.")


def test_a_star_among_spaces_is_a_star() -> None:
    """As the manual of curl has it; `requests` drops spaces in every other list."""
    assert bypasses_proxy("example.com", 80, " * ")


@pytest.mark.parametrize("no_proxy", [None, "", " ", ","])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_nothing_is_exempt_by_itself(host: str, no_proxy: str | None) -> None:
    assert not bypasses_proxy(host, 80, no_proxy)


# ---------------------------------------------------------------------------------------- authorities


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"REQUESTS_CA_BUNDLE": "one", "CURL_CA_BUNDLE": "two"},
        {"CURL_CA_BUNDLE": "two"},
        {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": "two"},
    ],
    ids=str,
)
def test_the_authorities_are_those_that_requests_takes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    requests = pytest.importorskip("requests")
    set_all(monkeypatch, variables)
    with requests.Session() as session:
        theirs = session.merge_environment_settings("https://host.example/", {}, None, None, None)["verify"]
    assert (ca_bundle() or True) == theirs


def test_the_variable_of_openssl_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """`requests` does not know it: it is the one that everything else on a system reads."""
    monkeypatch.setenv("SSL_CERT_FILE", "three")
    assert ca_bundle() == "three"
    monkeypatch.setenv("CURL_CA_BUNDLE", "two")
    assert ca_bundle() == "two"
    monkeypatch.setenv("CURL_CA_BUNDLE", "")
    assert ca_bundle() == "three"


# ---------------------------------------------------------------------------------------- passwords

NETRCS = [
    "machine host.example login me password secret",
    "machine host.example\n\tlogin me\n\tpassword secret\n",
    "machine other.example login you password other\ndefault login anyone password weak",
    "machine other.example login you password other",
    "machine host.example account only password secret",
    "machine host.example login me account extra password secret",
    "machine host.example login me",
    "machine host.example password secret",
    "machine host.example",
    "machine HOST.example login me password secret",
    'machine host.example login me password "two words"',
    "# nothing but a comment",
    "",
    "machine host.example login me password secret nonsense here",  # broken from here on
    "nonsense",
    "macdef init\nno end",
]


@pytest.mark.parametrize("where", [".netrc", "_netrc", "NETRC"])
@pytest.mark.parametrize("text", NETRCS)
def test_the_password_is_the_one_that_requests_finds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, where: str
) -> None:
    utils = pytest.importorskip("requests.utils")
    (tmp_path / where).write_text(text)
    if where == "NETRC":
        monkeypatch.setenv("NETRC", "~/NETRC")
    assert netrc_auth("host.example") == utils.get_netrc_auth("http://host.example:8080/")


def test_without_a_file(tmp_path: Path) -> None:
    assert netrc_auth("host.example") is None
    assert list(tmp_path.iterdir()) == []


def test_the_file_that_is_named_is_the_only_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    utils = pytest.importorskip("requests.utils")
    (tmp_path / ".netrc").write_text("machine host.example login home password secret")
    for named in ("", str(tmp_path / "missing")):
        monkeypatch.setenv("NETRC", named)
        assert netrc_auth("host.example") is None
        assert utils.get_netrc_auth("http://host.example/") is None


def test_the_file_at_home_with_a_dot_comes_first(tmp_path: Path) -> None:
    (tmp_path / "_netrc").write_text("machine host.example login second password secret")
    (tmp_path / ".netrc").write_text("machine host.example login first password secret")
    assert netrc_auth("host.example") == ("first", "secret")


def test_another_file_is_seen_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert netrc_auth("host.example") is None
    (tmp_path / "mine").write_text("machine host.example login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "mine"))
    assert netrc_auth("host.example") == ("me", "secret")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_file_is_looked_for_once_a_second(tmp_path: Path) -> None:
    clock = Clock()
    file = NetrcFile(clock)
    path = tmp_path / ".netrc"
    assert file.auth("host.example") is None
    path.write_text("machine host.example login me password one")
    clock.now += 0.99
    assert file.auth("host.example") is None
    clock.now += 0.01
    assert file.auth("host.example") == ("me", "one")
    path.write_text("machine host.example login me password another")
    assert file.auth("host.example") == ("me", "one")
    clock.now += 1
    assert file.auth("host.example") == ("me", "another")
    path.unlink()
    clock.now += 1
    assert file.auth("host.example") is None


def test_a_file_that_has_not_changed_is_not_parsed_again(tmp_path: Path) -> None:
    clock = Clock()
    file = NetrcFile(clock)
    path = tmp_path / ".netrc"
    path.write_text("machine host.example login me password one")
    seen = path.stat()
    assert file.auth("host.example") == ("me", "one")
    path.write_text("machine host.example login me password two")
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    clock.now += 1
    assert file.auth("host.example") == ("me", "one")
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
    clock.now += 1
    assert file.auth("host.example") == ("me", "two")
    path.write_text("machine host.example login me password three")
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
    clock.now += 1
    assert file.auth("host.example") == ("me", "three")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"machine host.example login me password my secret", "line 1 cannot be understood"),
        (b"\n\nmachine host.example hunter2", "line 3 cannot be understood"),
    ],
)
def test_a_broken_file_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, fault: str
) -> None:
    """And no word of it is shown: any may be a piece of a password."""
    clock = Clock()
    file = NetrcFile(clock)
    path = tmp_path / ".netrc"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="syncflow"):
        for _ in range(3):
            assert file.auth("host.example") is None
            clock.now += 1
    assert [(record.name, record.levelname) for record in caplog.records] == [("syncflow", "WARNING")]
    assert caplog.messages == [f"{path}: no password is taken from this file: {fault}"]
    caplog.clear()
    path.write_bytes(content + b" more nonsense")
    assert file.auth("host.example") is None
    assert len(caplog.messages) == 1


def test_a_file_that_is_no_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`requests` lets the UnicodeDecodeError out, in the middle of a request."""
    if (
        sys.flags.utf8_mode == 0
        and "utf" not in (os.environ.get("LC_ALL") or os.environ.get("LANG") or "C.UTF-8").lower()
    ):
        pytest.skip("in this locale every byte is text")
    (tmp_path / ".netrc").write_bytes(b"machine host.example login me password \xff\xfe")
    assert NetrcFile().auth("host.example") is None
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["it is no text"]


def test_a_folder_in_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    utils = pytest.importorskip("requests.utils")
    (tmp_path / ".netrc").mkdir()
    assert NetrcFile().auth("host.example") is None
    assert utils.get_netrc_auth("http://host.example/") is None
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["Is a directory"]


def test_many_threads_tell_of_a_broken_file_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".netrc").write_text("nonsense")
    file = NetrcFile()
    together = threading.Barrier(8)

    def ask() -> None:
        together.wait()
        assert file.auth("host.example") is None

    threads = [threading.Thread(target=ask) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(caplog.messages) == 1

"""URLs: what a request makes of them, compared with `requests` where both take them, and what is refused."""

from __future__ import annotations

import traceback
from typing import Any
from urllib.parse import quote

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from syncflow import InvalidSchema, InvalidURL, MissingSchema
from syncflow.urls import Target, absolute_url, add_params, encode_pairs, parse_url

AS_REQUESTS = """
http://example.com
http://example.com/
HTTP://EXAMPLE.com/A
https://example.com:443/x
http://example.com:80/
http://example.com:8080
http://localhost:8000/x?y#z
http://127.0.0.1/
http://127.1/
http://example.com./
http://a_b.com/
http://[::1]/
http://[::1]:8080/x
http://[2001:DB8::1]/
http://bücher.de/
http://BÜCHER.de
http://xn--bcher-kva.de/
http://faß.de/
http://日本語.jp/
http://example.com?a=b
http://example.com#f
http://example.com/?
http://example.com/#
http://example.com/?#
http://example.com/a b
http://example.com/a%20b
http://example.com/a%2fb
http://example.com/a%7eb
http://example.com/%41%42
http://example.com/%e4%BD
http://example.com/%
http://example.com/%zz
http://example.com/100%/x y
http://example.com/ä
http://example.com/日本
http://example.com/?q=ä
http://example.com/?q=a b
http://example.com/?q=a+b
http://example.com/?q=%2B
http://example.com/?a[]=1&b={2}
http://example.com/?a=1&a=2&b=
http://example.com/?q=a?b/c
http://example.com/?q=50%
http://example.com/#ä b
http://example.com/#a#b
http://example.com//a
http://example.com/a;b=c?d=e;f
http://example.com/a=b&c
http://example.com/~user/*!$&'()+,:@
http://example.com/[x]"<>{}|^`\\
http://example.com/a/../b
http://example.com/a/./b/.
http://example.com/a/b/..
http://example.com/../../a
http://example.com/.hidden/..name
   http://example.com/
""".strip("\n").split("\n")


@pytest.mark.parametrize("url", [*AS_REQUESTS, "http://example.com/ ", "http://example.com/\u2028", "\nhttp://a.b/"])
def test_a_url_is_normalized_as_requests_does_it(url: str) -> None:
    assert parse_url(url).url == requests.Request("GET", url).prepare().url


@pytest.mark.parametrize("url", AS_REQUESTS)
def test_what_is_sent_is_what_requests_sends(url: str) -> None:
    prepared = requests.Request("GET", url).prepare()
    assert parse_url(url).path == prepared.path_url


@given(st.lists(st.sampled_from([*"aZ09-_~/?#&=[]ä日 +'\"<|^!@:;,(", "%41", "%2f", "%E4"]), max_size=8))
def test_any_path_query_and_fragment_is_quoted_as_requests_does_it(rest: list[str]) -> None:
    url = "http://example.com/" + "".join(rest)
    assert parse_url(url).url == requests.Request("GET", url).prepare().url


@given(st.text(max_size=20))
def test_any_text_is_taken_or_refused(rest: str) -> None:
    """Whatever is taken can be sent: printable ASCII without a blank, and the same when it is read again."""
    for url in ("http://" + rest, "http://example.com/" + rest, rest):
        try:
            target = parse_url(url)
        except (InvalidURL, InvalidSchema, MissingSchema):
            continue
        assert all("!" <= character <= "~" for character in target.url + target.path + target.authority)
        assert parse_url(target.url) == target._replace(userinfo=None)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        (
            "http://user:p%40ss@Example.com:8080/a?b=c#d",
            Target(
                url="http://example.com:8080/a?b=c#d",
                scheme="http",
                host="example.com",
                port=8080,
                authority="example.com:8080",
                path="/a?b=c",
                userinfo=("user", "p@ss"),
            ),
        ),
        (
            "https://[2001:DB8::1]",
            Target(
                url="https://[2001:db8::1]/",
                scheme="https",
                host="2001:db8::1",
                port=443,
                authority="[2001:db8::1]",
                path="/",
                userinfo=None,
            ),
        ),
        (
            "https://bücher.example:443?q",
            Target(
                url="https://xn--bcher-kva.example:443/?q",
                scheme="https",
                host="xn--bcher-kva.example",
                port=443,
                authority="xn--bcher-kva.example",  # the port of the scheme is not said (RFC 9110, 4.2.3)
                path="/?q",
                userinfo=None,
            ),
        ),
        (
            "http://localhost:443",
            Target(
                url="http://localhost:443/",
                scheme="http",
                host="localhost",
                port=443,
                authority="localhost:443",
                path="/",
                userinfo=None,
            ),
        ),
    ],
)
def test_what_a_url_says(url: str, target: Target) -> None:
    assert parse_url(url) == target


@pytest.mark.parametrize(
    ("url", "userinfo"),
    [
        ("http://user@h/", ("user", "")),
        ("http://user:@h/", ("user", "")),
        ("http://:word@h/", ("", "word")),
        ("http://us%20er:wo%3Ard@h/", ("us er", "wo:rd")),
        ("http://@h/", ("", "")),
        ("http://evil.example:80@h/", ("evil.example", "80")),
        ("http://a@b@h/", ("a@b", "")),
    ],
)
def test_the_host_is_what_stands_behind_the_last_at_sign(url: str, userinfo: tuple[str, str]) -> None:
    target = parse_url(url)
    assert (target.host, target.authority, target.url) == ("h", "h", "http://h/")
    assert target.userinfo == userinfo


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///path",
        "http://?q",
        "http://#f",
        "http://:80/",
        "http://user@/",
        "http:example.com",
        "http:/example.com",
        "http:\\\\example.com",
        "http://example.com\\@evil.example/",
        "http://evil.example\\.example.com/",
        "http://example.com\t/",
        "http://exa\tmple.com/",
        "http://example.com\n/",
        "http://example.com/\npath",
        "http://example.com/\rpath",
        "http://example.com/\x00",
        "http://example.com/?q=\x1f",
        "http://example.com/#\x7f",
        "ht\ntp://example.com/",
        "http://a b.com/",
        "http://<script>/",
        "http://a;b/",
        "http://a,b/",
        "http://*.example.com/",
        "http://.example.com/",
        "http://example..com/",
        "http://ex%61mple.com/",
        "http://example.com%2f.evil.example/",
        "http://user:p\\ss@example.com/",
        "http://user name@example.com/",
        "http://example.com:99999/",
        "http://example.com:port/",
        "http://example.com:-1/",
        "http://example.com:+80/",
        "http://example.com:8_0/",
        "http://example.com:8\uff10/",
        "http://example.com:0/",
        "http://example.com:80:90/",
        "http://[::1",
        "http://::1]/",
        "http://::1/",
        "http://[::1]evil.example/",
        "http://evil.example[::1]/",
        "http://[::1][::2]/",
        "http://[::1]:80x/",
        "http://[::1@evil.example]/",
        "http://us[er@[::1]/",
        "http://[evil.example]/",
        "http://[v1.x]/",
        "http://[::12345]/",
        "http://[]/",
        "http://ä" + "a" * 64 + ".com/",
        "http://xn--ä.com/",
        "http://evil.example\uff0f.example.com/",
        "http://\u200b.com/",
        "http://example.com/\udcff",
        "http://example.com/?q=\udcff",
        "http://example.com/#\ud800",
        "http://user\udcff@example.com/",
    ],
)
def test_a_url_that_cannot_be_understood_or_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises((InvalidURL, MissingSchema)) as caught:
        parse_url(url)
    assert caught.value.request is None
    assert caught.value.phase is None


@pytest.mark.parametrize("url", ["", "/path", "example.com", "//example.com/", "www.example.com/x", "localhost:8000/"])
def test_a_url_needs_a_scheme(url: str) -> None:
    with pytest.raises(MissingSchema) as caught:
        parse_url(url)
    assert f"perhaps you meant 'https://{url}'?" in str(caught.value)


def test_a_url_in_the_query_does_not_make_a_scheme_of_the_host() -> None:
    with pytest.raises(MissingSchema):
        parse_url("localhost:8000/?next=http://example.com/")


@pytest.mark.parametrize("url", ["ftp://example.com/", "file:///etc/passwd", "mailto:a@example.com", "ws://h/"])
def test_only_http_and_https_can_be_requested(url: str) -> None:
    with pytest.raises(InvalidSchema, match="only http and https"):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@ho st/",
        "http://me:hunter2@x:port/",
        "ftp://me:hunter2@h/",
        "//me:hunter2@h",
        "http://me:hun@hunter2@ho st/",
        # Without "//", and not quoted as it should be.
        "me:hunter2@example.com/",
        "http:\\\\me:hunter2@h/",
        "http://me:x/hunter2@h/",
        "http://me:hunter2/x@h/",
        "http://me:hunter2#@h/",
        "http://me:[hunter2]@h/",
        "http://me:hunter2]@[::1]/",
        "http://me:hunter2\uff0f@h/",
    ],
)
def test_a_message_does_not_show_the_password(url: str) -> None:
    with pytest.raises((InvalidURL, InvalidSchema, MissingSchema)) as caught:
        parse_url(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "***@" in str(caught.value)


PARAMS: list[Any] = [
    {},
    {"a": "1"},
    {"a": 1, "b": 2.5, "c": True},
    {"a": ["1", "2"], "b": ()},
    {"a": None, "b": "x"},
    {"a": [None, "x"]},
    [("a", "1"), ("a", "2"), ("b", None)],
    (("a", "1"),),
    {"ä ö": "ü&=?#/+"},
    {b"raw": b"\xff"},
    {"empty": ""},
    "a=1&b=2",
    "q=a b",
    b"q=x",
]


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize(
    "url", ["http://h/", "http://h/p?x=y", "http://h/?", "http://h/?x&", "http://h/p#f", "http://h"]
)
def test_params_are_added_as_requests_does_it(url: str, params: Any) -> None:
    ours = parse_url(add_params(url, params)).url
    theirs = requests.Request("GET", url, params=params).prepare().url
    assert theirs is not None
    # requests writes "?x&&a=1" where the query ends in "&": the same to every reader.
    assert ours == theirs.replace("&&", "&")


@pytest.mark.parametrize(
    ("url", "params", "expected"),
    [
        ("http://h/a&", {"b": 1}, "http://h/a&?b=1"),
        ("http://h/?a&", {"b": 1}, "http://h/?a&b=1"),
        ("http://h/??", {"b": 1}, "http://h/??&b=1"),
        ("http://h/p?#f?g&", {"b": 1}, "http://h/p?b=1#f?g&"),
        # A lone "%" is quoted, and with it is not every other.
        ("http://h/?a=100%", {"b": "ü"}, "http://h/?a=100%25&b=%C3%BC"),
        ("http://h/?a=%C3%BC", "b=100%", "http://h/?a=%C3%BC&b=100%25"),
    ],
)
def test_params_stand_behind_the_query_and_change_nothing_else(url: str, params: Any, expected: str) -> None:
    assert parse_url(add_params(url, params)).url == expected


@pytest.mark.parametrize("params", [{"a": "\udcff"}, {"\ud800": 1}, "a=\udcff"])
def test_params_that_cannot_be_written_are_refused(params: Any) -> None:
    with pytest.raises(InvalidURL, match=r"'http://\*\*\*@h/' with its params cannot be written in UTF-8"):
        add_params("http://me:word@h/", params)


@pytest.mark.parametrize("params", [params for params in PARAMS if params and not isinstance(params, str | bytes)])
def test_forms_are_encoded_as_requests_does_it(params: Any) -> None:
    assert encode_pairs(params) == (requests.Request("POST", "http://h/", data=params).prepare().body or "")


def test_no_params_change_nothing() -> None:
    for params in (None, {}, [], "", b""):
        assert add_params("http://h/?a#f", params) == "http://h/?a#f"


@pytest.mark.parametrize(
    ("url", "host", "authority"),
    [
        ("http://[fe80::1%25eth0]/", "fe80::1%eth0", "[fe80::1]"),
        ("http://[fe80::1%eth0]:8080/", "fe80::1%eth0", "[fe80::1]:8080"),
        ("https://[FE80::1%25en-1.2]/", "fe80::1%en-1.2", "[fe80::1]"),
    ],
)
def test_a_zone_is_for_this_machine_and_not_told_to_the_server(url: str, host: str, authority: str) -> None:
    target = parse_url(url)
    assert (target.host, target.authority) == (host, authority)
    assert parse_url(target.url) == target, "written as RFC 6874 has it"


@pytest.mark.parametrize("zone", ["", "a b", "a%2Fb", "a/b", "\u00e9"])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidURL):
        parse_url(f"http://[fe80::1%25{zone}]/")


def test_a_unix_socket_in_a_url() -> None:
    target = parse_url("http+unix://%2Frun%2Fa%20b.sock/v1/../v2?q=x y")
    assert target.socket_path == "/run/a b.sock"
    assert (target.path, target.authority) == ("/v2?q=x%20y", "localhost")
    assert parse_url(target.url) == target


@pytest.mark.parametrize("url", ["http+unix:///path", "http+unix://a%00b/", "http+unix://user@%2Frun%2Fx.sock/"])
def test_what_is_no_unix_socket_is_refused(url: str) -> None:
    with pytest.raises(InvalidURL):
        parse_url(url)


# RFC 3986, section 5.4, which has "http:g" for "http:g" where it leaves a choice that browsers do not take.
DOCUMENT = "http://a/b/c/d;p?q"
REFERENCES = {
    "g": "http://a/b/c/g", "./g": "http://a/b/c/g", "g/": "http://a/b/c/g/", "/g": "http://a/g", "//g": "http://g",
    "?y": "http://a/b/c/d;p?y", "g?y": "http://a/b/c/g?y", "#s": "http://a/b/c/d;p?q#s", "g#s": "http://a/b/c/g#s",
    "g?y#s": "http://a/b/c/g?y#s", ";x": "http://a/b/c/;x", "g;x": "http://a/b/c/g;x", "g;x?y#s": "http://a/b/c/g;x?y#s",
    "": "http://a/b/c/d;p?q", ".": "http://a/b/c/", "./": "http://a/b/c/", "..": "http://a/b/", "../": "http://a/b/",
    "../g": "http://a/b/g", "../..": "http://a/", "../../": "http://a/", "../../g": "http://a/g",
    "../../../g": "http://a/g", "../../../../g": "http://a/g", "/./g": "http://a/g", "/../g": "http://a/g",
    "g.": "http://a/b/c/g.", ".g": "http://a/b/c/.g", "g..": "http://a/b/c/g..", "..g": "http://a/b/c/..g",
    "./../g": "http://a/b/g", "./g/.": "http://a/b/c/g/", "g/./h": "http://a/b/c/g/h", "g/../h": "http://a/b/c/h",
    "g;x=1/./y": "http://a/b/c/g;x=1/y", "g;x=1/../y": "http://a/b/c/y", "g?y/./x": "http://a/b/c/g?y/./x",
    "g?y/../x": "http://a/b/c/g?y/../x", "g#s/./x": "http://a/b/c/g#s/./x", "g#s/../x": "http://a/b/c/g#s/../x",
    "http:g": "http://a/b/c/g", "http://g/h": "http://g/h", "https://g": "https://g",
}  # fmt: skip


@pytest.mark.parametrize("reference", REFERENCES)
def test_what_a_reference_means(reference: str) -> None:
    assert absolute_url(DOCUMENT, reference) == REFERENCES[reference]


@pytest.mark.parametrize("space", ["\x85", "\xa0", "\u2003", "\u2028", "\u3000"])
def test_what_is_white_space_to_unicode_only_is_a_path(space: str) -> None:
    """A browser goes on with the same host here: nobody is to be sent to another one that it does not see."""
    target = parse_url(absolute_url("http://a/b", f"{space}//evil.example/"))
    assert target.host == "a"
    assert target.path.startswith(f"/{quote(space)}/")
    assert absolute_url("http://a/b", " \t//g/") == "http://g/"

"""Cookies: the same Set-Cookie fields given to requests and to us, and what both send back; where they differ on
purpose, with the reason; and one jar in the hands of many threads."""

from __future__ import annotations

import copy
import itertools
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPMessage
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy, LWPCookieJar
from http.cookies import SimpleCookie
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import syncflow.cookies
from syncflow.cookies import (
    CookieConflictError,
    RequestsCookieJar,
    RFC6265Policy,
    cookiejar_from_dict,
    create_cookie,
    extract_cookies_to_jar,
    get_cookie_header,
    merge_cookies,
    morsel_to_cookie,
    remove_cookie_by_name,
)
from syncflow.exceptions import InvalidHeader
from syncflow.models import PreparedRequest

requests = pytest.importorskip("requests")

BOTH = pytest.mark.parametrize("cookies", [syncflow.cookies, requests.cookies], ids=["ours", "theirs"])

FUTURE = "Wed, 01 Jan 2098 00:00:00 GMT"
PAST = "Thu, 01 Jan 1970 00:00:01 GMT"

# A URL, the Set-Cookie fields that came from there, and, if it is not the URL's, a Host field of the request.
Answer = tuple[str, list[str]] | tuple[str, list[str], str]


def request_to(url: str, **headers: str) -> PreparedRequest:
    prepared = PreparedRequest()
    prepared.prepare("GET", url, headers=headers)
    return prepared


def ours_after(*answers: Answer, jar: CookieJar | None = None) -> CookieJar:
    jar = RequestsCookieJar() if jar is None else jar
    for url, fields, *host in answers:
        request = request_to(url, Host=host[0]) if host else request_to(url)
        extract_cookies_to_jar(jar, request, [("Set-Cookie", field) for field in fields])
    return jar


def sent(jar: CookieJar, url: str, **headers: str) -> str | None:
    return get_cookie_header(jar, request_to(url, **headers))


def theirs_after(*answers: Answer, jar: CookieJar | None = None) -> CookieJar:
    jar = requests.cookies.RequestsCookieJar() if jar is None else jar
    for url, fields, *host in answers:
        message = HTTPMessage()
        for field in fields:
            message.add_header("Set-Cookie", field)
        response = SimpleNamespace(_original_response=SimpleNamespace(msg=message))
        requests.cookies.extract_cookies_to_jar(jar, their_request(url, *host), response)
    return jar


def their_request(url: str, *host: str) -> Any:
    return requests.Request("GET", url, headers={"Host": host[0]} if host else {}).prepare()


def sent_by_theirs(jar: CookieJar, url: str, *host: str) -> str | None:
    return requests.cookies.get_cookie_header(jar, their_request(url, *host))


# ---------------------------------------------------------------------- as requests does it

ORIGIN = "http://www.example.com/one/two"
SAME = [
    ("a value", ORIGIN, ["a=1"], ORIGIN),
    ("several", ORIGIN, ["a=1", "b=2; Path=/", "a=3"], ORIGIN),
    ("an empty value", ORIGIN, ["a="], ORIGIN),
    ("no equals sign", ORIGIN, ["a"], ORIGIN),
    ("no name", ORIGIN, ["=1", "", ";", "; Path=/", "b=2"], ORIGIN),
    ("equals signs in the value", ORIGIN, ["a=b=c=="], ORIGIN),
    ("commas, blanks and quotes in it", ORIGIN, ['a=1, 2 "3"', 'b="x y"', 'c="x\\"y"'], ORIGIN),
    ("blanks around it", ORIGIN, ["  a \t =  1  ; Path = / "], ORIGIN),
    ("a tab in it", ORIGIN, ["a=1\t2"], ORIGIN),
    ("bytes beyond ASCII", ORIGIN, ["a=\xe9\xff"], ORIGIN),
    ("names differ by case", ORIGIN, ["a=1", "A=2"], ORIGIN),
    ("attributes that nobody knows", ORIGIN, ["a=1; SameSite=Lax; HttpOnly; Priority=High; x=y"], ORIGIN),
    ("attributes in other cases", ORIGIN, ["a=1; PATH=/; DOMAIN=Example.COM; max-AGE=100"], "http://example.com/"),
    ("a domain above", ORIGIN, ["a=1; Domain=example.com"], "http://other.example.com/one/two"),
    ("the same with a dot", ORIGIN, ["a=1; Domain=.example.com"], "http://example.com/one/two"),
    ("a domain of its own", ORIGIN, ["a=1; Domain=www.example.com"], "http://deep.www.example.com/one/two"),
    ("a domain not to another", ORIGIN, ["a=1; Domain=www.example.com"], "http://example.com/one/two"),
    ("no domain, not to others", ORIGIN, ["a=1"], "http://example.com/one/two"),
    ("a domain below", ORIGIN, ["a=1; Domain=deep.www.example.com"], "http://deep.www.example.com/one/two"),
    ("a domain beside", ORIGIN, ["a=1; Domain=other.example.com"], "http://other.example.com/one/two"),
    ("another one's domain", "http://evil.com/", ["a=1; Domain=example.com"], "http://example.com/"),
    ("a name that ends like it", "http://evil-example.com/", ["a=1; Domain=example.com"], "http://example.com/"),
    ("the same to itself", "http://evil-example.com/", ["a=1; Domain=example.com"], "http://evil-example.com/"),
    ("a top-level domain", ORIGIN, ["a=1; Domain=com", "b=1; Domain=.com"], "http://other.com/one/two"),
    ("the same to itself", ORIGIN, ["a=1; Domain=com", "b=1; Domain=.com"], ORIGIN),
    ("another port", "http://example.com:8080/", ["a=1"], "https://example.com/"),
    ("an address", "http://127.0.0.1:8080/", ["a=1"], "http://127.0.0.1/"),
    ("another address", "http://127.0.0.1/", ["a=1"], "http://127.0.0.2/"),
    ("another address as the domain", "http://127.0.0.1/", ["a=1; Domain=127.0.0.2"], "http://127.0.0.2/"),
    ("an IPv6 address", "http://[::1]:8080/", ["a=1"], "http://[::1]/"),
    ("another IPv6 address as the domain", "http://[::1]/", ["a=1; Domain=[::2]"], "http://[::2]/"),
    ("a host without a dot", "http://localhost/", ["a=1"], "http://localhost:81/"),
    ("a host without a dot, another", "http://intranet/", ["a=1"], "http://myintranet/"),
    ("an international name", "http://b\xfccher.example/", ["a=1"], "http://xn--bcher-kva.example/"),
    ("the folder", ORIGIN, ["a=1"], "http://www.example.com/one/three/four"),
    ("the folder itself", ORIGIN, ["a=1"], "http://www.example.com/one"),
    ("not the folder above", ORIGIN, ["a=1"], "http://www.example.com/"),
    ("not one that begins like it", ORIGIN, ["a=1"], "http://www.example.com/onetwo"),
    ("a path", ORIGIN, ["a=1; Path=/x"], "http://www.example.com/x/y"),
    ("a path itself", ORIGIN, ["a=1; Path=/x"], "http://www.example.com/x?y"),
    ("a path not as a prefix", ORIGIN, ["a=1; Path=/x"], "http://www.example.com/xy"),
    ("a path with a slash", ORIGIN, ["a=1; Path=/x/"], "http://www.example.com/x/y"),
    ("a path with a slash, not without it", ORIGIN, ["a=1; Path=/x/"], "http://www.example.com/x"),
    ("an empty path", ORIGIN, ["a=1; Path="], "http://www.example.com/one/"),
    ("a quoted path", ORIGIN, ["a=1; Path=/a%2fb"], "http://www.example.com/a%2Fb/c"),
    ("a path with a blank", ORIGIN, ["a=1; Path=/a b"], "http://www.example.com/a%20b"),
    ("no path in the URL", "http://example.com", ["a=1"], "http://example.com/x"),
    ("a lifetime", ORIGIN, ["a=1; Max-Age=1000"], ORIGIN),
    ("a lifetime that is over", ORIGIN, ["a=1; Max-Age=0", "b=1; Max-Age=-5"], ORIGIN),
    ("a date", ORIGIN, [f"a=1; Expires={FUTURE}"], ORIGIN),
    ("a date that is past", ORIGIN, [f"a=1; Expires={PAST}"], ORIGIN),
    ("a date in quotes", ORIGIN, [f'a=1; Expires="{PAST}"'], ORIGIN),
    ("an old date", ORIGIN, ["a=1; Expires=Wednesday, 01-Jan-80 00:00:00 GMT"], ORIGIN),
    ("a date of asctime", ORIGIN, ["a=1; Expires=Tue Jan  1 00:00:00 1980"], ORIGIN),
    ("what is no date", ORIGIN, ["a=1; Expires=tomorrow"], ORIGIN),
    ("Max-Age over a past date", ORIGIN, [f"a=1; Expires={PAST}; Max-Age=1000"], ORIGIN),
    ("Max-Age over a past date, first", ORIGIN, [f"a=1; Max-Age=1000; Expires={PAST}"], ORIGIN),
    ("Max-Age over a future date", ORIGIN, [f"a=1; Max-Age=0; Expires={FUTURE}"], ORIGIN),
    ("Secure over https", "https://example.com/", ["a=1; Secure"], "https://example.com/"),
    ("Secure not over http", "https://example.com/", ["a=1; Secure"], "http://example.com/"),
    ("Secure not to this machine", "https://localhost/", ["a=1; Secure"], "http://localhost/"),
    ("Secure not to this machine by address", "https://127.0.0.1/", ["a=1; Secure"], "http://127.0.0.1/"),
    ("not Secure over both", "https://example.com/", ["a=1"], "http://example.com/"),
    ("the longer path first", ORIGIN, ["a=1; Path=/", "b=2; Path=/one/two", "c=3; Path=/one"], ORIGIN),
    ("then the earlier one", ORIGIN, ["b=1; Path=/", "a=2; Path=/", "b=3; Path=/"], ORIGIN),
    ("a value for each path", ORIGIN, ["a=1; Path=/", "a=2; Path=/one"], ORIGIN),
    ("the prefixes kept", "https://e.com/", ["__Secure-a=1; Secure", "__Host-b=1; Secure; Path=/"], "https://e.com/"),
]


@pytest.mark.parametrize(("origin", "fields", "asked"), [case[1:] for case in SAME], ids=[case[0] for case in SAME])
def test_the_same_is_sent_as_by_requests(origin: str, fields: list[str], asked: str) -> None:
    assert sent(ours_after((origin, fields)), asked) == sent_by_theirs(theirs_after((origin, fields)), asked)


def test_some_of_these_send_something() -> None:
    """Or two that send nothing at all would pass."""
    headers = [sent(ours_after((origin, fields)), asked) for _, origin, fields, asked in SAME]
    assert sum(header is not None for header in headers) > 40
    assert sum(header is None for header in headers) > 15


@pytest.mark.parametrize(("origin", "fields"), [case[1:3] for case in SAME], ids=[case[0] for case in SAME])
def test_the_jar_holds_the_same_cookies(origin: str, fields: list[str]) -> None:
    ours, theirs = ours_after((origin, fields)), theirs_after((origin, fields))
    assert [described(cookie) for cookie in ours] == [described(cookie) for cookie in theirs]


def described(cookie: Cookie) -> dict[str, Any]:
    seen = {key: value for key, value in vars(cookie).items() if key not in ("created", "expires")}
    # The second may have changed between the two.
    return {**seen, "expires": cookie.expires is not None and round(cookie.expires / 100)}


NAMES = st.sampled_from(["a", "b"])
VALUES = st.text("xyz=' \"", max_size=3)
HOSTS = ["example.com", "www.example.com", "a.www.example.com", "example.org", "localhost", "127.0.0.1", "10.0.0.1"]
PATHS = ["/", "/one", "/one/", "/one/two", "/onetwo", "/one/two/three"]
URLS = st.builds("https://{}{}".format, st.sampled_from(HOSTS), st.sampled_from(PATHS))


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    url = draw(URLS)
    # One that has expired is tried on one's own host only: requests lets any host delete any cookie.
    life = draw(st.sampled_from([None, "Max-Age=100", "Max-Age=0", f"Expires={FUTURE}", f"Expires={PAST}"]))
    over = life is not None and (life.endswith("=0") or PAST in life)
    domains = [None] if over else [None, "example.com", ".example.com", "www.example.com", "com", "example.net"]
    domain = draw(st.sampled_from(domains))
    path = draw(st.sampled_from([None, *PATHS]))
    parts = [
        f"{draw(NAMES)}={draw(VALUES)}",
        domain and f"Domain={domain}",
        path and f"Path={path}",
        life,
        draw(st.sampled_from([None, "Secure", "HttpOnly", "SameSite=None"])),
    ]
    return url, [draw(st.sampled_from(["; ", ";", " ;  "])).join(part for part in parts if part)]


@given(st.lists(answers(), max_size=8), URLS, st.sampled_from(["https", "http"]))
def test_the_same_is_sent_after_any_answers(given: list[Answer], url: str, scheme: str) -> None:
    # Requests made to send what names no domain to its own host only, and compared without the order: see below.
    policy = DefaultCookiePolicy(strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain)
    theirs = theirs_after(*given, jar=requests.cookies.RequestsCookieJar(policy=policy))
    url = url.replace("https", scheme)
    expected = sent_by_theirs(theirs, url)
    assert sorted((sent(ours_after(*given), url) or "").split("; ")) == sorted((expected or "").split("; "))


@given(st.lists(st.text(st.characters(max_codepoint=0xFF), max_size=40), max_size=4))
def test_no_field_of_a_server_raises_or_warns(fields: list[str]) -> None:
    jar = ours_after((ORIGIN, fields), (ORIGIN, [f"a=1;{field}" for field in fields]))
    sent(jar, ORIGIN)


@given(st.lists(st.text("0123456789:-/ ,+GMTJanFebWed", max_size=30), max_size=3))
def test_no_date_or_number_raises_or_warns(texts: list[str]) -> None:
    fields = [f"a{number}=1; {key}={text}" for number, text in enumerate(texts) for key in ("Expires", "Max-Age")]
    ours_after((ORIGIN, fields))


def test_the_fields_are_found_by_their_name_in_any_case() -> None:
    fields = [("set-cookie", "a=1"), ("X-Set-Cookie", "b=2"), ("SET-COOKIE", "c=3"), ("Set-Cookie2", "d=4")]
    jar = RequestsCookieJar()
    extract_cookies_to_jar(jar, request_to(ORIGIN), fields)
    assert sent(jar, ORIGIN) == "a=1; c=3"


@pytest.mark.parametrize("host", ["example.org", "Example.ORG", "example.org:8080", "[::2]:80", "localhost"])
def test_a_host_field_takes_the_place_of_the_url(host: str) -> None:
    answer = ("http://127.0.0.1:8080/", ["a=1"], host)
    ours, theirs = ours_after(answer), theirs_after(answer)
    assert list(ours.list_domains()) == list(theirs.list_domains())
    for asked in ("http://127.0.0.1/", f"http://{host}/"):
        assert sent(ours, asked) == sent_by_theirs(theirs, asked)
    assert sent(ours, "http://10.0.0.1/", Host=host) == sent_by_theirs(theirs, "http://10.0.0.1/", host) == "a=1"


@pytest.mark.parametrize("host", ["", "[::1", "a b", "user@example.org", "example.org/x", "a:b:c", "evil.com\\@e.com"])
def test_a_host_field_that_names_nobody_leaves_that_of_the_url(host: str) -> None:
    """Where the request goes all the same; requests raises or takes it for a name."""
    jar = ours_after((ORIGIN, ["a=1"], host))
    assert jar.list_domains() == ["www.example.com"]
    assert sent(jar, ORIGIN, Host=host) == "a=1"


def test_userinfo_is_no_part_of_the_host() -> None:
    request: Any = SimpleNamespace(url="http://me:secret@example.com/", headers={})
    jar = RequestsCookieJar()
    extract_cookies_to_jar(jar, request, [("Set-Cookie", "a=1")])
    assert jar.list_domains() == ["example.com"]
    assert get_cookie_header(jar, request) == "a=1"


def test_nothing_is_asked_of_the_request_where_there_is_nothing_to_do() -> None:
    request: Any = object()
    extract_cookies_to_jar(RequestsCookieJar(), request, [("Content-Type", "text/plain"), ("Set-Cooking", "")])
    assert get_cookie_header(RequestsCookieJar(), request) is None


def test_a_cookie_field_of_the_program_is_left_alone() -> None:
    ours, theirs = ours_after((ORIGIN, ["a=1"])), theirs_after((ORIGIN, ["a=1"]))
    theirs_asked = requests.Request("GET", ORIGIN, headers={"Cookie": "b=2"}).prepare()
    assert sent(ours, ORIGIN, cookie="b=2") is None
    assert requests.cookies.get_cookie_header(theirs, theirs_asked) is None


# ---------------------------------------------------------------------- not as requests does it, and why

DIFFERENCES = [
    # name, the answers, the URL asked, what requests sends, what is sent here
    (
        "a cookie without a domain stays with its host (RFC 6265, 5.4; requests sends it to all hosts below)",
        [("http://example.com/", ["a=1"])],
        "http://www.example.com/",
        ("a=1", None),
    ),
    (
        "the registry of a country is a suffix like com: its cookies would go to strangers",
        [("http://one.co.uk/", ["a=1; Domain=co.uk", "b=1; Domain=.co.uk"])],
        "http://two.co.uk/",
        ("a=1; b=1", None),
    ),
    (
        "com with a dot behind it is com",
        [("http://one.com./", ["a=1; Domain=com."])],
        "http://two.com./",
        ("a=1", None),
    ),
    (
        "local is a suffix like com",
        [("http://one.local/", ["a=1; Domain=local"])],
        "http://two.local/",
        ("a=1", None),
    ),
    (
        "an address is no name: its last numbers are nobody's domain",
        [("http://10.0.0.1/", ["a=1; Domain=0.0.1"])],
        "http://127.0.0.1/",
        ("a=1", None),
    ),
    (
        "a name that goes on after it is another one",
        [("http://example.com.local/", ["a=1; Domain=example.com"])],
        "http://example.com/",
        ("a=1", None),
    ),
    (
        "its own name is a host's to give, though it has no dot (requests takes it and sends it to nobody)",
        [("http://localhost/", ["a=1; Domain=localhost"])],
        "http://localhost/",
        (None, "a=1"),
    ),
    (
        "the same for an IPv6 address",
        [("http://[::1]/", ["a=1; Domain=[::1]", "b=2; Domain=::1"])],
        "http://[::1]/",
        (None, "a=1; b=2"),
    ),
    (
        "a registry's own host keeps it for itself (6265bis, 5.7)",
        [("http://gov.uk/", ["a=1; Domain=gov.uk"])],
        "http://www.gov.uk/",
        ("a=1", None),
    ),
    (
        "Secure comes from https only (6265bis, 5.7)",
        [("http://example.com/", ["a=1; Secure"])],
        "https://example.com/",
        ("a=1", None),
    ),
    (
        "Secure is an attribute, whatever its value (RFC 6265, 5.2.5)",
        [("https://example.com/", ["a=1; Secure="])],
        "http://example.com/",
        ("a=1", None),
    ),
    (
        "what came over http replaces no Secure cookie (6265bis, 5.7)",
        [("https://example.com/", ["a=1; Secure"]), ("http://example.com/", ["a=2"])],
        "https://example.com/",
        ("a=2", "a=1"),
    ),
    (
        "nor does it delete one",
        [("https://example.com/", ["a=1; Secure"]), ("http://example.com/", ["a=; Max-Age=0"])],
        "https://example.com/",
        (None, "a=1"),
    ),
    (
        "nor does it go beside one, from a host below or a longer path",
        [
            ("https://www.example.com/x", ["a=1; Secure; Path=/"]),
            ("http://www.example.com/x", ["a=2; Path=/x", "a=3; Domain=example.com; Path=/"]),
        ],
        "https://www.example.com/x",
        ("a=2; a=1; a=3", "a=1"),
    ),
    (
        "the same from below the domain of one",
        [("https://www.example.com/", ["a=1; Secure; Domain=example.com"]), ("http://www.example.com/", ["a=2"])],
        "https://www.example.com/",
        ("a=1; a=2", "a=1"),
    ),
    (
        "__Secure- says that it is",
        [("https://example.com/", ["__Secure-a=1", "__secure-b=1"])],
        "https://example.com/",
        ("__Secure-a=1; __secure-b=1", None),
    ),
    (
        "__Host- says that it is Secure, of the host itself, and for all of it",
        [
            (
                "https://e.com/",
                [
                    "__Host-a=1; Path=/",
                    "__Host-b=1; Secure",
                    "__Host-c=1; Secure; Path=/; Domain=e.com",
                    "__HOST-d=1; Secure; Path=/x",
                ],
            )
        ],
        "https://e.com/x",
        ("__HOST-d=1; __Host-a=1; __Host-b=1; __Host-c=1", None),
    ),
    (
        "nobody deletes another one's cookie (the standard library asks no policy)",
        [
            ("http://example.com/", ["a=1; Domain=example.com"]),
            ("http://x.org/", ["a=; Domain=example.com; Max-Age=0"]),
        ],
        "http://example.com/",
        (None, "a=1"),
    ),
    (
        "one field after the other: what was set is deleted (the standard library deletes first)",
        [("http://example.com/", ["a=1", "a=2; Max-Age=0"])],
        "http://example.com/",
        ("a=1", None),
    ),
    (
        "an attribute that cannot be read is left out (RFC 6265, 5.2), and not the cookie",
        [(ORIGIN, ["a=1; Max-Age=x", "b=2; Domain", "c=3; Domain=", "d=4; Path", "e=5; Path=x", "f=6; Max-Age=1.5"])],
        ORIGIN,
        (None, "a=1; b=2; c=3; d=4; e=5; f=6"),
    ),
    (
        "the last of what is given twice counts (RFC 6265, 5.3)",
        [(ORIGIN, [f"a=1; Path=/; Path=/x; Expires={PAST}; Expires={FUTURE}"])],
        "http://www.example.com/x",
        (None, "a=1"),
    ),
    (
        "a non-breaking blank is half of a letter in UTF-8",
        [(ORIGIN, ["a=voil\xc3\xa0"])],
        ORIGIN,
        ("a=voil\xc3", "a=voil\xc3\xa0"),
    ),
    (
        "Port, Version and Discard are unknown since 2011 (RFC 6265, 5.2)",
        [("http://example.com:8080/", ["a=1; Port=81; Version=x; Discard"])],
        "http://example.com/",
        (None, "a=1"),
    ),
    (
        "the earlier one first, whatever its domain (RFC 6265, 5.4)",
        [(ORIGIN, ["a=1; Path=/", "b=2; Domain=example.com; Path=/", "c=3; Path=/"])],
        ORIGIN,
        ("a=1; c=3; b=2", "a=1; b=2; c=3"),
    ),
    (
        "a control character: the field is ignored (6265bis, 5.6)",
        [(ORIGIN, ["a=1\x01", "b\x7f=2", "c=3; Path=/\x00", "d=4; x=\x1f", "e=5"])],
        ORIGIN,
        ("a=1\x01; b\x7f=2; d=4; e=5", "e=5"),
    ),
]


@pytest.mark.parametrize(
    ("answers", "asked", "expected"), [case[1:] for case in DIFFERENCES], ids=[case[0] for case in DIFFERENCES]
)
def test_what_is_done_in_another_way_on_purpose(
    answers: list[Answer], asked: str, expected: tuple[str | None, str | None]
) -> None:
    assert (sent_by_theirs(theirs_after(*answers), asked), sent(ours_after(*answers), asked)) == expected


def test_a_lifetime_without_a_number_does_not_take_all_other_cookies_with_it() -> None:
    """The standard library drops all cookies of the response, and warns of a bug of its own."""
    fields = [
        "a=1; Max-Age",
        f"b=2; Max-Age={'9' * 5000}",
        f"B=2; Max-Age={'9' * 500}",
        f"c=3; Expires=01 Jan {'9' * 5000} 00:00:00 GMT",
        "d=4",
    ]
    assert sent(ours_after((ORIGIN, fields)), ORIGIN) == "a=1; b=2; B=2; c=3; d=4"
    with pytest.warns(UserWarning, match="http.cookiejar bug"):
        assert len(theirs_after((ORIGIN, fields))) == 0


@pytest.mark.parametrize("host", ["one.co.uk", "one.com.au", "one.or.jp", "one.gouv.fr", "one.gob.mx", "one.ac.nz"])
def test_no_host_sets_cookies_for_the_registry_above_it(host: str) -> None:
    registry = host.partition(".")[2]
    fields = [f"a=1; Domain={registry}", f"b=1; Domain=.{registry.upper()}", f"c=1; Domain={registry}."]
    assert list(ours_after((f"http://{host}/", fields))) == []


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("10.0.0.1", "0.0.1"),
        ("10.0.0.1", "0x1"),
        ("[fe80::1]", "[::1]"),
        ("evil-example.com", "example.com"),
        ("example.com.local", "example.com"),
        ("example.com", "www.example.com"),
        ("one.local", "local"),
        ("intranet", "net"),
        ("one.com.", "com."),
    ],
)
def test_what_is_not_for_a_host_to_set_is_not_even_kept(host: str, domain: str) -> None:
    assert list(ours_after((f"http://{host}/", [f"a=1; Domain={domain}", f"b=1; Domain=.{domain}"]))) == []


def test_a_cookie_of_another_host_is_not_set_by_an_answer_though_it_names_no_domain() -> None:
    jar = RequestsCookieJar()
    asked: Any = SimpleNamespace(get_full_url=lambda: "https://example.com/", type="https", unverifiable=False)
    for domain in ("example.org", "www.example.com", "com", "example.com"):
        cookie = create_cookie("a", "1", domain=domain)
        cookie.domain_specified = False
        jar.set_cookie_if_ok(cookie, asked)
    assert jar.list_domains() == ["example.com"]


def test_what_came_over_http_may_stand_where_it_hides_no_secure_cookie() -> None:
    jar = ours_after(("https://www.example.com/", ["a=1; Secure; Path=/x"]))
    fields = ["b=2; Path=/x", "a=3; Path=/y", "a=4; Path=/xy", "a=5; Path=/"]
    ours_after(("http://www.example.com/", fields), ("http://other.example.com/", ["a=6; Path=/x"]), jar=jar)
    assert sorted(jar.values()) == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("domain", ["jobs.ch", "example.uk", "co.example.com", "bbc.co.uk", "co.com", "uk.com"])
def test_what_is_no_registry_is_a_domain(domain: str) -> None:
    jar = ours_after((f"http://www.{domain}/", [f"a=1; Domain={domain}"]))
    assert sent(jar, f"http://other.{domain}/") == "a=1"


def test_a_host_keeps_what_names_no_domain_to_itself_though_a_program_may_not() -> None:
    jar = ours_after(("http://example.com/", ["a=1"]))
    assert (sent(jar, "http://example.com/"), sent(jar, "http://www.example.com/")) == ("a=1", None)
    jar = cookiejar_from_dict({"a": "1"})
    jar.set("b", "2", domain="example.com")
    jar.set("c", "3", domain="127.0.0.1")
    jar.set("c", "5", domain="0.0.1")
    jar.set("d", "4", domain="localhost")
    jar.set("e", "5", domain="localhost.local")
    assert sent(jar, "http://www.example.com/") == "a=1; b=2"
    assert sent(jar, "http://127.0.0.1/") == "a=1; c=3"
    assert sent(jar, "http://126.0.0.1/") == "a=1"
    assert sent(jar, "http://localhost/") == "a=1; d=4; e=5"  # requests sends e only: to it this is localhost's name


def test_what_expires_is_no_longer_sent_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    jar = RequestsCookieJar()
    extract_cookies_to_jar(jar, request_to(ORIGIN), [("Set-Cookie", "a=1; Max-Age=100; Path=/x/y")])
    extract_cookies_to_jar(jar, request_to(ORIGIN), [("Set-Cookie", "b=1; Max-Age=900")])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 99)
    assert sent(jar, "http://www.example.com/x/y") == "a=1"
    monkeypatch.setattr(time, "time", lambda: now + 101)
    assert sent(jar, ORIGIN) == "b=1"
    assert jar.keys() == ["b"]
    monkeypatch.setattr(time, "time", lambda: now + 1000)
    assert sent(jar, ORIGIN) is None
    assert jar._cookies == {}


def test_a_policy_of_ones_own_decides() -> None:
    answer = ("http://example.com/", ["a=1; Secure", "b=2"])
    assert (
        sent(ours_after(answer, jar=RequestsCookieJar(DefaultCookiePolicy())), "https://www.example.com/") == "a=1; b=2"
    )
    assert len(ours_after(answer, jar=RequestsCookieJar(policy=DefaultCookiePolicy(allowed_domains=[])))) == 0

    class Suffixes(RFC6265Policy):
        def set_ok(self, cookie: Cookie, request: Any) -> bool:
            return cookie.domain != ".github.io" and super().set_ok(cookie, request)

    fields = ["a=1; Domain=github.io", "b=2"]
    assert (
        sent(ours_after(("http://me.github.io/", fields), jar=RequestsCookieJar(Suffixes())), "http://me.github.io/")
        == "b=2"
    )
    assert sent(ours_after(("http://me.github.io/", fields)), "http://you.github.io/") == "a=1"  # no list is consulted


@pytest.mark.parametrize("kind", [RFC6265Policy, DefaultCookiePolicy])
def test_a_policy_does_not_grow_while_it_is_copied_with_its_jar(kind: type[DefaultCookiePolicy]) -> None:
    """The standard library gives it the time of each request, as an attribute that was not there before."""
    jar = RequestsCookieJar(kind())
    later = cookiejar_from_dict({})
    later.set_policy(kind())
    for subject in (jar, later):
        before = set(vars(subject.get_policy()))
        assert sent(ours_after((ORIGIN, ["a=1"]), jar=subject), ORIGIN) == "a=1"
        assert set(vars(subject.get_policy())) == before


def test_blocked_domains_are_those_of_the_standard_library() -> None:
    policy = RFC6265Policy(blocked_domains=["example.com", ".example.com"])
    jar = ours_after(("http://example.com/", ["a=1", "b=1; Domain=example.com"]), jar=RequestsCookieJar(policy))
    assert len(jar) == 0
    jar.set("a", "1", domain="example.com")
    assert sent(jar, "http://example.com/") is None


def test_another_kind_of_jar_keeps_its_own_ways() -> None:
    """One of the standard library, as a program may give it to a session."""
    jar = ours_after((ORIGIN, ["a=1; Max-Age=100", "b=2\x01", "c=3\r\nX: y"]), jar=LWPCookieJar())
    assert sent(jar, ORIGIN) == "a=1"
    merged = merge_cookies(RequestsCookieJar(), ours_after(("http://localhost/", ["a=1"]), jar=LWPCookieJar()))
    assert sent(merged, "http://localhost/") == "a=1"
    assert sent(LWPCookieJar(), ORIGIN) is None


# ---------------------------------------------------------------------- what may not be sent


@pytest.mark.parametrize("character", [*"\r\n\0\x01\x08\x0b\x1f\x7f;€\U0001f36a"])
@pytest.mark.parametrize("place", ["name", "value"])
def test_what_may_not_be_sent_is_refused(character: str, place: str) -> None:
    text = f"x{character}y"
    jar = cookiejar_from_dict({text: "secret"} if place == "name" else {"a": text})
    with pytest.raises(InvalidHeader) as raised:
        sent(jar, "http://example.com:8080/")
    message = str(raised.value)
    assert message.startswith("example.com:8080: cookie ")
    assert message.endswith("; nothing was sent")
    assert repr(character) in message
    assert place in message
    assert "secret" not in message


def test_a_semicolon_would_make_two_cookies() -> None:
    """requests sends both, whoever thought of the value: a name of a session, say, that a visitor has chosen."""
    value = "1; admin=yes"
    assert sent_by_theirs(requests.cookies.cookiejar_from_dict({"a": value}), ORIGIN) == "a=1; admin=yes"
    with pytest.raises(InvalidHeader, match="cookie 'a': its value has ';' in it"):
        sent(cookiejar_from_dict({"a": value}), ORIGIN)
    with pytest.raises(InvalidHeader, match="cookie 'a=b': its name has '=' in it"):
        sent(cookiejar_from_dict({"a=b": "c"}), ORIGIN)


def test_what_is_not_sent_there_may_be_anything() -> None:
    jar = cookiejar_from_dict({"a": "1"})
    jar.set("b", "\n", domain="example.org")
    assert sent(jar, "http://example.com/") == "a=1"
    with pytest.raises(InvalidHeader):
        sent(jar, "http://example.org/")
    jar.set("b", None, domain="example.org")
    assert sent(jar, "http://example.org/") == "a=1"


def test_what_may_be_sent_is_sent_as_it_is() -> None:
    values = {"a": 'b "c", d\\', "e": "\xe9\t=&", "f": None, "g": ""}
    jar, theirs = cookiejar_from_dict(values), requests.cookies.cookiejar_from_dict(values)
    assert sent(jar, ORIGIN) == sent_by_theirs(theirs, ORIGIN) == 'a=b "c", d\\; e=\xe9\t=&; f; g='


def test_numbers_are_sent_and_bytes_are_not() -> None:
    """requests 2.34 fails on both, with an error about something else; earlier ones sent numbers."""
    values: dict[str, Any] = {"a": 1, "b": 2.5}
    assert sent(cookiejar_from_dict(values), ORIGIN) == "a=1; b=2.5"
    with pytest.raises(InvalidHeader, match="cookie 'a': its value must be str, not bytes; nothing was sent"):
        sent(cookiejar_from_dict({"a": b"1"}), ORIGIN)


def test_a_jar_that_does_not_look_is_looked_at() -> None:
    jar = LWPCookieJar()
    jar.set_cookie(create_cookie("a", "1\r\nX: y"))  # type: ignore[arg-type]
    with pytest.raises(InvalidHeader, match=r"^www.example.com: a cookie has '\\r' in it.*; nothing was sent$"):
        sent(jar, ORIGIN)


# ---------------------------------------------------------------------- the dictionary


def filled(cookies: ModuleType) -> Any:
    jar = cookies.RequestsCookieJar()
    jar.set("a", "1")
    jar.set("b", "2", domain="example.com")
    jar.set("b", "3", domain="example.com", path="/x")
    jar.set("c", "4", domain="example.org", path="/x")
    jar.set("n", None)
    jar.set_cookie(cookies.create_cookie("flag", None, domain="example.org"))
    return jar


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "keys": lambda jar: jar.keys(),
    "values": lambda jar: jar.values(),
    "items": lambda jar: jar.items(),
    "iterkeys": lambda jar: list(jar.iterkeys()),
    "itervalues": lambda jar: list(jar.itervalues()),
    "iteritems": lambda jar: list(jar.iteritems()),
    "iter": lambda jar: [cookie.name for cookie in jar],
    "len": lambda jar: (len(jar), bool(jar)),
    "dict": lambda jar: dict(jar),
    "list_domains": lambda jar: jar.list_domains(),
    "list_paths": lambda jar: jar.list_paths(),
    "multiple_domains": lambda jar: jar.multiple_domains(),
    "get_dict": lambda jar: jar.get_dict(),
    "get_dict of a domain": lambda jar: jar.get_dict(domain="example.com"),
    "get_dict of a path": lambda jar: jar.get_dict(path="/x"),
    "get_dict of both": lambda jar: jar.get_dict("example.com", "/x"),
    "getitem": lambda jar: jar["a"],
    "getitem of many": lambda jar: jar["b"],
    "getitem of none": lambda jar: jar["z"],
    "getitem without a value": lambda jar: jar["flag"],
    "get": lambda jar: (jar.get("a"), jar.get("z"), jar.get("z", "5")),
    "get of many": lambda jar: jar.get("b"),
    "get of one of them": lambda jar: (jar.get("b", path="/x"), jar.get("c", None, "example.org", "/x")),
    "get of another domain": lambda jar: jar.get("b", "none", domain="example.org"),
    "in": lambda jar: ["a" in jar, "b" in jar, "z" in jar, "flag" in jar, 5 in jar],
    "cookie in": lambda jar: next(iter(jar)) in jar,
    "equal": lambda jar: (jar == dict(jar.items()), jar == jar.copy(), jar == {}, jar == 5),
    "set gives the cookie": lambda jar: vars(jar.set("d", "5")).keys() >= {"name", "value", "domain", "path"},
    "setitem": lambda jar: jar.__setitem__("a", "9"),
    "setitem of none": lambda jar: jar.__setitem__("b", None),
    "set none in a domain": lambda jar: jar.set("b", None, path="/x"),
    "set a morsel": lambda jar: jar.set("x", SimpleCookie("m=5; path=/p")["m"]).name,
    "set with a wrong keyword": lambda jar: jar.set("x", "1", colour="red"),
    "set a value in quotes": lambda jar: jar.set("x", '"a\\"b"').value,
    "delitem": lambda jar: jar.__delitem__("b"),
    "delitem of none": lambda jar: jar.__delitem__("z"),
    "pop": lambda jar: (jar.pop("a"), jar.pop("a", "gone")),
    "pop of many": lambda jar: jar.pop("b"),
    "pop of none": lambda jar: jar.pop("z"),
    "popitem": lambda jar: jar.popitem(),
    "setdefault": lambda jar: (jar.setdefault("a", "5"), jar.setdefault("z", "6")),
    "clear": lambda jar: jar.clear(),
    "clear a domain": lambda jar: jar.clear("example.com"),
    "clear a path": lambda jar: jar.clear("example.com", "/x"),
    "clear a name": lambda jar: jar.clear("example.com", "/x", "b"),
    "clear another name": lambda jar: jar.clear("example.com", "/x", "z"),
    "clear a path of no domain": lambda jar: jar.clear(None, "/x"),
    "clear session cookies": lambda jar: jar.clear_session_cookies(),
    "update with a dict": lambda jar: jar.update({"a": "7", "z": "8", "b": None}),
    "update with pairs": lambda jar: jar.update([("a", "7"), ("z", "8")]),
    "update with a jar": lambda jar: jar.update(filled(requests.cookies)),
    "policy": lambda jar: jar.get_policy() is jar._policy,
    "repr": lambda jar: repr(jar),
    "str": lambda jar: str(jar),
    "hash": lambda jar: hash(jar),
}


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_the_dictionary_answers_as_that_of_requests(ask: Callable[[Any], Any]) -> None:
    outcomes = []
    for cookies in (syncflow.cookies, requests.cookies):
        jar = filled(cookies)
        try:
            answer = ask(jar)
        except Exception as error:  # which one is what is compared
            answer = type(error).__name__
        outcomes.append((answer, sorted(map(repr, jar))))
    assert outcomes[0] == outcomes[1]


def test_the_conflict_is_named() -> None:
    with pytest.raises(CookieConflictError, match="2 cookies called 'b'") as raised:
        filled(syncflow.cookies)["b"]
    assert isinstance(raised.value, RuntimeError)


def test_an_update_that_fails_changes_nothing() -> None:
    jar = filled(syncflow.cookies)
    before = jar.items()
    bad = SimpleCookie("m=5")["m"]
    bad["max-age"] = "soon"
    with pytest.raises(TypeError, match="max-age: soon must be integer"):
        jar.update({"a": "changed", "m": bad})
    assert jar.items() == before


def test_a_jar_gives_copies_to_another() -> None:
    one, other = filled(syncflow.cookies), RequestsCookieJar()
    other.update(one)
    next(iter(one)).value = "changed"
    assert other["a"] == "1"


def copies(jar: RequestsCookieJar) -> Iterator[RequestsCookieJar]:
    yield jar.copy()
    yield copy.copy(jar)
    yield copy.deepcopy(jar)
    yield from (pickle.loads(pickle.dumps(jar, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1))


def test_copies_and_pickles_hold_the_same_and_stand_by_themselves() -> None:
    fields = ["a=1; Path=/", "b=2; Domain=example.com; Path=/; Secure", "c=3; Path=/; Max-Age=100; HttpOnly"]
    jar = RequestsCookieJar(RFC6265Policy(blocked_domains=["example.net"]))
    ours_after((ORIGIN.replace("http:", "https:"), fields), jar=jar)
    others = list(copies(jar))
    expected = [described(cookie) for cookie in jar]
    jar.clear()
    assert len(others) > 5
    for other in others:
        assert [described(cookie) for cookie in other] == expected
        assert type(other) is RequestsCookieJar
        policy = other.get_policy()
        assert isinstance(policy, RFC6265Policy)
        assert policy.blocked_domains() == ("example.net",)
        assert sent(other, ORIGIN.replace("http:", "https:")) == "a=1; b=2; c=3"  # the order of creation as well
        ours_after((ORIGIN, ["d=4; Domain=example.com; Path=/"]), jar=other)
        assert sent(other, ORIGIN) == "a=1; c=3; d=4"


def test_a_new_value_keeps_the_place_and_a_new_cookie_does_not() -> None:
    answers = [(ORIGIN, ["a=1; Path=/", "b=2; Domain=example.com; Path=/", "c=3; Path=/"])]
    jar = ours_after(*answers, (ORIGIN, ["a=4; Path=/"]))
    assert sent(jar, ORIGIN) == "a=4; b=2; c=3"
    ours_after((ORIGIN, ["a=; Path=/; Max-Age=0"]), (ORIGIN, ["a=5; Path=/"]), jar=jar)
    assert sent(jar, ORIGIN) == "b=2; c=3; a=5"


def test_the_order_does_not_need_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.chain([5, 5, 4], itertools.repeat(1))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    jar = RequestsCookieJar()
    for number, domain in enumerate(["example.com", "www.example.com", "example.com", "www.example.com"]):
        jar.set(f"a{number}", "", domain=domain)
    assert sent(jar, ORIGIN) == "a0=; a1=; a2=; a3="


# ---------------------------------------------------------------------- the functions


@BOTH
def test_a_jar_is_made_of_a_dictionary(cookies: ModuleType) -> None:
    made = cookies.cookiejar_from_dict({"a": "1", "b": "2"})
    assert isinstance(made, cookies.RequestsCookieJar)
    assert made.items() == [("a", "1"), ("b", "2")]
    assert len(cookies.cookiejar_from_dict(None)) == 0
    jar = LWPCookieJar()
    assert cookies.cookiejar_from_dict({"a": "1"}, jar) is jar
    cookies.cookiejar_from_dict({"a": "2", "b": "3"}, cookiejar=jar, overwrite=False)
    assert [(cookie.name, cookie.value) for cookie in jar] == [("a", "1"), ("b", "3")]
    cookies.cookiejar_from_dict({"a": "4"}, jar)
    assert [(cookie.name, cookie.value) for cookie in jar] == [("a", "4"), ("b", "3")]


@BOTH
def test_jars_and_dictionaries_are_merged(cookies: ModuleType) -> None:
    for jar in (cookies.cookiejar_from_dict({"a": "1"}), cookies.cookiejar_from_dict({"a": "1"}, LWPCookieJar())):
        assert cookies.merge_cookies(jar, {"a": "2", "b": "3"}) is jar
        assert {cookie.name: cookie.value for cookie in jar} == {"a": "1", "b": "3"}
        cookies.merge_cookies(jar, cookies.cookiejar_from_dict({"a": "4", "c": "5"}))
        assert {cookie.name: cookie.value for cookie in jar} == {"a": "4", "b": "3", "c": "5"}
        cookies.merge_cookies(jar, None)
        assert len(jar) == 3
    with pytest.raises(ValueError, match="You can only merge into CookieJar"):
        cookies.merge_cookies({}, {"a": "1"})


@BOTH
def test_cookies_are_removed_by_name(cookies: ModuleType) -> None:
    for where, left in [
        ((), ["a", "c", "flag"]),
        (("example.com",), ["a", "c", "flag"]),
        ((None, "/x"), ["a", "b", "c", "flag"]),
        (("example.org",), ["a", "b", "b", "c", "flag"]),
    ]:
        jar = filled(cookies)
        cookies.remove_cookie_by_name(jar, "b", *where)
        assert sorted(jar.keys()) == left
    plain = LWPCookieJar()
    plain.set_cookie(create_cookie("a", "1"))
    remove_cookie_by_name(plain, "a")
    assert len(plain) == 0


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"domain": "Example.com"},
        {"domain": ".example.com", "path": "/x", "secure": True, "expires": 5, "discard": False},
        {"path": "", "port": "80", "version": 1, "rest": {"SameSite": "Lax"}, "rfc2109": True},
        {"comment": "c", "comment_url": "u"},
    ],
    ids=str,
)
def test_a_cookie_is_made_as_by_requests(kwargs: dict[str, Any]) -> None:
    assert repr(create_cookie("a", "1", **kwargs)) == repr(requests.cookies.create_cookie("a", "1", **kwargs))


def test_a_cookie_is_made_of_known_attributes_only() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword arguments: \['colour', 'size'\]"):
        create_cookie("a", "1", size=1, colour="red", path="/")


@pytest.mark.parametrize(
    "text",
    [
        "a=1",
        'a="x y"; path=/x; domain=example.com; secure; httponly',
        "a=1; max-age=100; comment=c; version=1",
        "a=1; expires=Wed, 01-Jan-2098 00:00:00 GMT",
    ],
)
def test_a_morsel_becomes_the_same_cookie(text: str) -> None:
    morsel = SimpleCookie(text)["a"]
    assert described(morsel_to_cookie(morsel)) == described(requests.cookies.morsel_to_cookie(morsel))


def test_a_morsel_with_a_lifetime_that_cannot_be_read() -> None:
    morsel = SimpleCookie("a=1")["a"]
    morsel["expires"] = "soon"
    for module in (syncflow.cookies, requests.cookies):
        with pytest.raises(ValueError):
            module.morsel_to_cookie(morsel)
    morsel["max-age"] = "soon"
    for module in (syncflow.cookies, requests.cookies):
        with pytest.raises(TypeError, match="max-age: soon must be integer"):
            module.morsel_to_cookie(morsel)


def test_a_morsel_takes_a_date_in_the_form_that_servers_send() -> None:
    """requests reads the old form only, with dashes."""
    morsel = SimpleCookie("a=1")["a"]
    morsel["expires"] = FUTURE
    assert morsel_to_cookie(morsel).expires == 4039372800


# ---------------------------------------------------------------------- threads

ROUNDS = 300


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """What each gives, all begun at the same moment."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        barrier.wait(30)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(50) for future in [pool.submit(begin, work) for work in works]]


def while_written(write: Callable[[int], Any], *reads: Callable[[], Any]) -> None:
    """Run every one of `reads` for as long as another thread writes."""
    over = threading.Event()

    def writing() -> None:
        try:
            for number in range(ROUNDS):
                write(number)
        finally:
            over.set()

    def reading(read: Callable[[], Any]) -> None:
        while not over.is_set():
            read()

    at_once(writing, *[lambda read=read: reading(read) for read in reads])


MANY = [f"a{number}" for number in range(8)]
WRITES: dict[str, Callable[[RequestsCookieJar, int], Any]] = {
    "update with a dict": lambda jar, n: jar.update(dict.fromkeys(MANY, str(n))),
    "update with a jar": lambda jar, n: jar.update(cookiejar_from_dict(dict.fromkeys(MANY, str(n)))),
    "merge_cookies": lambda jar, n: merge_cookies(jar, cookiejar_from_dict(dict.fromkeys(MANY, str(n)))),
    "cookiejar_from_dict": lambda jar, n: cookiejar_from_dict(dict.fromkeys(MANY, str(n)), jar),
    "Set-Cookie": lambda jar, n: ours_after((ORIGIN, [f"{name}={n}; Path=/" for name in MANY]), jar=jar),
}
READS: dict[str, Callable[[RequestsCookieJar], list[Any]]] = {
    "values": lambda jar: jar.values(),
    "get_dict": lambda jar: list(jar.get_dict().values()),
    "iter": lambda jar: [cookie.value for cookie in jar],
    "copy": lambda jar: jar.copy().values(),
    "shallow copy": lambda jar: copy.copy(jar).values(),
    "pickle": lambda jar: pickle.loads(pickle.dumps(jar)).values(),
    "merge": lambda jar: merge_cookies(RequestsCookieJar(), jar).values(),
    "header": lambda jar: [pair.partition("=")[2] for pair in (sent(jar, ORIGIN) or "").split("; ") if pair],
}


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_no_thread_sees_half_of_an_update(write: Callable[[RequestsCookieJar, int], Any]) -> None:
    jar = RequestsCookieJar()
    seen: list[tuple[str, list[Any]]] = []

    def read(name: str) -> None:
        values = READS[name](jar)
        if values and (len(values) != len(MANY) or len(set(values)) != 1):
            seen.append((name, values))

    while_written(lambda n: write(jar, n), *[lambda name=name: read(name) for name in READS])
    assert seen == []
    assert set(jar.values()) == {str(ROUNDS - 1)}


@pytest.mark.usefixtures("hurried")
def test_cookies_come_and_go_while_others_read() -> None:
    """Domains and paths appear and vanish; a dictionary that changes while it is read raises."""
    jar = RequestsCookieJar()

    def write(number: int) -> None:
        where = f"https://h{number % 7}.example.com/p{number % 5}/x"
        ours_after((where, [f"a{number % 3}=1; Domain=example.com", "b=2", "c=3; Path=/; Max-Age=100"]), jar=jar)
        jar.set(f"d{number % 3}", str(number), domain=f"e{number % 4}.example.com")
        jar.pop("z", None)
        remove_cookie_by_name(jar, "b")
        del jar[f"d{(number + 1) % 3}"]
        for name in MANY:
            jar.set(name, "1", domain="example.net", path=f"/{name}")
        jar.clear("example.net", "/a0", "a0")
        jar.clear("example.net", "/a1")
        if number % 13 == 0:
            jar.clear()
        jar.clear_session_cookies()

    reads: list[Callable[[], Any]] = [
        lambda: (jar.keys(), jar.items(), len(jar), repr(jar), "b" in jar, jar == {}),
        lambda: (jar.list_domains(), jar.list_paths(), jar.multiple_domains(), jar.get_dict(path="/")),
        lambda: (jar.get("d1", domain="e1.example.com"), jar.setdefault("z", "1"), jar.update({"y": None})),
        lambda: (sent(jar, "https://h1.example.com/p1/x"), jar.clear_expired_cookies()),
        lambda: (jar.copy(), copy.deepcopy(jar), pickle.dumps(jar), list(jar)),
    ]
    while_written(write, *reads)
    jar.clear()
    assert (len(jar), sent(jar, ORIGIN)) == (0, None)


@pytest.mark.usefixtures("hurried")
def test_of_two_threads_one_gets_what_is_popped() -> None:
    jar = RequestsCookieJar()

    def take() -> list[str]:
        return [value for number in range(ROUNDS) if (value := jar.pop(f"a{number}", None)) is not None]

    jar.update({f"a{number}": str(number) for number in range(ROUNDS)})
    taken = list(itertools.chain(*at_once(take, take, take)))
    assert sorted(map(int, taken)) == list(range(ROUNDS))
    assert len(jar) == 0


@pytest.mark.usefixtures("hurried")
def test_of_two_threads_one_sets_the_default() -> None:
    jar = RequestsCookieJar()

    def claim(who: str) -> list[str]:
        return [jar.setdefault(f"a{number}", who) for number in range(ROUNDS)]

    first, second = at_once(lambda: claim("first"), lambda: claim("second"))
    assert first == second == jar.values()


@pytest.mark.usefixtures("hurried")
def test_two_jars_are_merged_into_each_other() -> None:
    one, other = cookiejar_from_dict({"a": "1", "b": "1"}), cookiejar_from_dict({"a": "2", "c": "2"})

    def merge(into: RequestsCookieJar, jar: RequestsCookieJar) -> None:
        for _ in range(ROUNDS):
            into.update(jar)

    at_once(lambda: merge(one, other), lambda: merge(other, one))
    assert sorted(one.keys()) == sorted(other.keys()) == ["a", "b", "c"]


@pytest.mark.usefixtures("hurried")
def test_a_cookie_that_another_thread_has_removed_is_no_error() -> None:
    jar = RequestsCookieJar()
    asked: Any = SimpleNamespace(get_full_url=lambda: ORIGIN, type="http", unverifiable=False)

    def expire() -> None:
        for _ in range(ROUNDS):
            jar.set_cookie(create_cookie("a", "1", domain=".example.com"))
            jar.set_cookie_if_ok(create_cookie("a", "", domain=".example.com", expires=1), asked)

    def remove() -> None:
        for _ in range(ROUNDS):
            jar.set_cookie(create_cookie("a", "1", domain=".example.com"))
            remove_cookie_by_name(jar, "a")

    at_once(expire, remove, expire, remove)
    assert len(jar) == 0


@pytest.mark.usefixtures("hurried")
def test_no_thread_sees_half_of_a_jar_of_the_standard_library() -> None:
    jar = LWPCookieJar()
    seen: list[list[Any]] = []

    def read() -> None:
        values = merge_cookies(RequestsCookieJar(), jar).values()
        if values and (len(values) != len(MANY) or len(set(values)) != 1):
            seen.append(values)

    def write(number: int) -> None:
        ours_after((ORIGIN, [f"{name}={number}; Path=/{name}" for name in MANY]), jar=jar)

    while_written(write, read, read)
    assert seen == []


@pytest.mark.usefixtures("hurried")
def test_domains_are_cleared_while_others_read() -> None:
    jar = RequestsCookieJar()
    for number in range(ROUNDS):
        jar.set("a", "1", domain=f"h{number}.example.com")
    while_written(lambda number: jar.clear(f"h{number}.example.com"), lambda: list(jar), lambda: len(jar))
    assert len(jar) == 0


def test_nothing_comes_between_the_policys_word_and_the_deed() -> None:
    class Asking(RFC6265Policy):
        def set_ok(self, cookie: Cookie, request: Any) -> bool:
            free.extend(at_once(is_free))
            return super().set_ok(cookie, request)

    def is_free() -> bool:
        taken: bool = jar._cookies_lock.acquire(blocking=False)
        if taken:
            jar._cookies_lock.release()
        return taken

    free: list[bool] = []
    jar: Any = RequestsCookieJar(Asking())
    asked: Any = SimpleNamespace(get_full_url=lambda: ORIGIN, type="http", unverifiable=False)
    jar.set_cookie_if_ok(create_cookie("a", "1", domain=".example.com"), asked)
    assert (free, jar.keys()) == ([False], ["a"])

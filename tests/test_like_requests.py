"""Small things that programs do with `requests`, done with both libraries against one server, and compared.

A call gets a library and the server's URL. What the server saw, what came back and what was raised are taken apart and
compared piece by piece. Where syncflow differs on purpose, DIFFERENCES says in which pieces, and why.
"""

from __future__ import annotations

import datetime
import functools
import gzip
import io
import pickle
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from http.cookiejar import CookieJar
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

import syncflow
from syncflow.testing import AppServer, json_response, refused_port
from syncflow.testing import Request as Seen
from syncflow.testing import Response as Answer

requests = pytest.importorskip("requests")

Call = Callable[[Any, str], Any]

# ------------------------------------------------------------------------------------------------------ the server

CODERS = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}
CHALLENGE = 'Digest realm="r", nonce="n0", qop="auth", opaque="o", algorithm={}'
CALLED: list[Seen] = []  # what came since it was last cleared; a call is over before the next begins


def app(request: Seen) -> Answer:
    """Echoes what it is sent; says what the query tells it to say on /say, and asks who it is on /digest."""
    CALLED.append(request)
    path = request.path.rpartition("/")[2]
    if path == "say":
        return _said(request)
    if path == "digest" and not request.headers.get("authorization", "").startswith("Digest "):
        algorithm = request.query.get("algorithm", ["MD5"])[0]
        return Answer(401, [("WWW-Authenticate", CHALLENGE.format(algorithm)), ("Set-Cookie", "asked=1")])
    if path == "loop":
        return Answer(302, [("Location", "loop"), ("Set-Cookie", "round=1")])
    return json_response({"method": request.method, "path": request.path})


def _said(request: Seen) -> Answer:
    status, coding, body, pieces, headers = 200, "identity", b"", 0, []
    for name, value in parse_qsl(urlsplit(request.target).query, keep_blank_values=True, encoding="latin-1"):
        if name == "status":
            status = int(value)
        elif name == "coding":
            coding = value
        elif name == "body":
            body = value.encode("latin-1")
        elif name == "pieces":
            pieces = int(value)
        else:
            headers.append((name, value))
    if coding != "identity":
        headers.append(("Content-Encoding", coding))
    body = CODERS[coding](body)
    if pieces:
        return Answer(status, headers, [body[start : start + pieces] for start in range(0, len(body), pieces)])
    return Answer(status, headers, body)


def say(url: str, body: bytes = b"", headers: Mapping[str, str] | list[tuple[str, str]] = (), **told: Any) -> str:  # type: ignore[assignment]  # an empty one of either
    """The URL at which the server answers so."""
    fields = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    asked = [*((name, str(value)) for name, value in told.items()), ("body", body.decode("latin-1")), *fields]
    return f"{url}/say?{urlencode(asked, encoding='latin-1')}"


def to(url: str, location: str, status: int = 302, **headers: str) -> str:
    return say(url, b"elsewhere", {"Location": location, **headers}, status=status)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with AppServer(app) as server:
        yield server.url


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    proxies, authorities = (
        "http_proxy https_proxy all_proxy no_proxy",
        "requests_ca_bundle curl_ca_bundle ssl_cert_file",
    )
    for name in (*proxies.split(), *authorities.split()):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login netrc password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))


# --------------------------------------------------------------------------------------------------- the comparison

NOTHING = "<nothing>"
KNOWN = {name for name, value in vars(requests.exceptions).items() if isinstance(value, type)}
KNOWN |= {"OSError", "ValueError", "TypeError", "RuntimeError", "LookupError", "KeyError", "AttributeError"}
# What is made anew each time, and the codings, which depend on what is installed.
CHANGING = [
    (re.compile(r'(cnonce|response)="[0-9a-f]+"'), r'\1="*"'),
    (re.compile(r"boundary=\w+"), "boundary=*"),
    (re.compile(r"^gzip, deflate(, br)?(, zstd)?$"), "gzip, deflate *"),
]


def observed(lib: ModuleType, call: Call, url: str) -> dict[str, Any]:
    """All that the call has led to, by the name of each piece."""
    CALLED.clear()
    found: dict[str, Any] = {}
    try:
        take_apart(call(lib, url), "", found)
    except Exception as error:
        take_apart(error, "raised", found)
    found["seen"] = len(CALLED)
    for index, request in enumerate(CALLED):
        take_apart_seen(request, f"seen[{index}]", found)
    return found


def take_apart_seen(seen: Seen, name: str, found: dict[str, Any]) -> None:
    boundary = re.match(rb"--([0-9a-f]{32})\r\n", seen.body)
    body = seen.body if boundary is None else seen.body.replace(boundary[1], b"*")
    fields = sorted((name, _settled(value)) for name, value in seen.fields if name.lower() != "user-agent")
    found.update({f"{name}.method": seen.method, f"{name}.target": seen.target, f"{name}.body": body})
    found[f"{name}.headers"] = fields


def take_apart(value: Any, name: str, found: dict[str, Any]) -> None:
    kind = type(value).__name__
    if isinstance(value, Exception):
        found[f"{name}"] = kind
        found[f"{name} as"] = sorted({base.__name__ for base in type(value).__mro__} & KNOWN - {kind})
    elif kind == "Response":
        take_apart_response(value, f"{name}.", found)
    elif kind == "PreparedRequest":
        take_apart_request(value, f"{name}.", found)
    elif isinstance(value, CookieJar):
        found[name] = sorted((c.name, c.value, c.domain, c.path, c.secure, c.expires) for c in value)
    elif kind == "CaseInsensitiveDict":
        found[name] = sorted((key, _settled(text)) for key, text in value.items() if key.lower() != "user-agent")
    elif is_plain(value):
        found[name] = value
    else:
        found[f"{name} length"] = len(value)
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            take_apart(item, f"{name}[{key!r}]", found)


def is_plain(value: Any) -> bool:
    """Whether it is the same when it is equal."""
    if isinstance(value, dict | list | tuple):
        return all(map(is_plain, [*value, *value.values()] if isinstance(value, dict) else value))
    return isinstance(value, str | bytes | int | float | bool | None)


ATTRIBUTES = [
    *("status_code", "reason", "headers", "url", "encoding", "content", "text", "cookies", "next", "links", "ok"),
    *("is_redirect", "is_permanent_redirect"),
]


def take_apart_response(response: Any, name: str, found: dict[str, Any]) -> None:
    for attribute in ATTRIBUTES:
        take_apart(getattr(response, attribute), f"{name}{attribute}", found)
    for what, ask in {
        "json()": response.json,
        "raise_for_status()": response.raise_for_status,
        "iter_content()": lambda: list(response.iter_content(7)),
        "iter_lines()": lambda: list(response.iter_lines()),
        "iter()": lambda: list(response),
    }.items():
        try:
            take_apart(ask(), f"{name}{what}", found)
        except Exception as error:
            take_apart(error, f"{name}{what}", found)
            found[f"{name}{what} says"] = str(error)
    found[f"{name}repr"], found[f"{name}bool"] = repr(response), bool(response)
    found[f"{name}elapsed"] = isinstance(response.elapsed, datetime.timedelta) and response.elapsed.total_seconds() > 0
    found[f"{name}history"] = [(step.status_code, step.url, len(step.history)) for step in response.history]
    take_apart(response.request, f"{name}request", found)


def take_apart_request(request: Any, name: str, found: dict[str, Any]) -> None:
    for attribute in ("method", "url", "headers", "path_url"):
        take_apart(getattr(request, attribute), f"{name}{attribute}", found)
    body = request.body
    found[f"{name}body"] = body if isinstance(body, str | bytes | None) else type(body).__name__
    found[f"{name}repr"] = repr(request)


def _settled(value: Any) -> Any:
    for pattern, replacement in CHANGING:
        value = pattern.sub(replacement, value) if isinstance(value, str) else value
    return value


def differing(call: Call, url: str) -> dict[str, tuple[Any, Any]]:
    """The pieces that are not the same, theirs and ours."""
    theirs, ours = observed(requests, call, url), observed(syncflow, call, url)
    names = [*theirs, *(name for name in ours if name not in theirs)]
    if ("raised" in theirs) != ("raised" in ours):
        names = ["raised"]  # and so nothing else can be the same
    elif theirs["seen"] != ours["seen"]:
        names = [name for name in names if not name.startswith("seen[")]
    pairs = {name: (theirs.get(name, NOTHING), ours.get(name, NOTHING)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] or type(pair[0]) is not type(pair[1])}


# ------------------------------------------------------------------------------------------------------- the calls

CALLS: dict[str, Call] = {}


def call(function: Call) -> Call:
    """Puts a function into the table, by its name."""
    name = function.__name__.replace("_", " ").strip()
    assert name not in CALLS
    CALLS[name] = function
    return function


def calls(kind: str, table: Mapping[str, Call]) -> None:
    for name, function in table.items():
        assert f"{kind}: {name}" not in CALLS
        CALLS[f"{kind}: {name}"] = function


def each(kind: str, given: Mapping[str, Any], function: Callable[[Any, str, Any], Any]) -> None:
    """A call for each value; one that is used up by a call is given as a function that makes it."""

    def with_value(value: Any, lib: Any, url: str) -> Any:
        return function(lib, url, value() if callable(value) else value)

    calls(kind, {name: functools.partial(with_value, value) for name, value in given.items()})


def with_session(function: Callable[[Any, Any, str], Any]) -> Call:
    """The same with a session that is closed at the end."""

    @functools.wraps(function)
    def closed(lib: Any, url: str) -> Any:
        with lib.Session() as session:
            return function(lib, session, url)

    return closed


def session_call(function: Callable[[Any, Any, str], Any]) -> Call:
    return call(with_session(function))


def prepared(lib: Any, method: str, url: Any, **kwargs: Any) -> Any:
    return lib.Request(method, url, **kwargs).prepare()


def raised(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What it returns or raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return error


# ---- methods and URLs

METHODS = ["get", "options", "head", "post", "put", "patch", "delete"]
each("method", dict(zip(METHODS, METHODS, strict=True)), lambda lib, url, name: getattr(lib, name)(f"{url}/echo"))
each(
    "request",
    {"lower case": "get", "purge": "PURGE", "bodiless delete": "delete"},
    lambda lib, url, name: lib.request(name, url),
)
each(
    "path",
    {
        "none": "",
        "query": "?a",
        "empty query": "/a?",
        "fragment": "/a#b",
        "space": "/a b?c d",
        "quoted": "/a%20b%2Fc?x=%41%zz",
        "unreserved": "/%7Euser%2Dx",
        "lower hex": "/%c3%a4",
        "not ascii": "/ä?ö=ü#€",
        "percent": "/100%",
        "reserved": "/!$&'()*+,;=:@[]?!$&'()*+,;=:@[]/?",
        "leading space": "/echo",
        "semicolon": "/a;b?c;d",
        "double slash": "//a//b",
        "pipe": "/a|b?c|d",
    },
    lambda lib, url, path: lib.get(f"{url}{path}"),
)
calls(
    "url",
    {
        "bytes": lambda lib, url: lib.get(f"{url}/ä".encode()),
        "object": lambda lib, url: lib.get(Shown(f"{url}/a")),
        "space before": lambda lib, url: lib.get(f"  {url}/a"),
        "upper case": lambda lib, url: lib.get(url.replace("http", "HTTP")),
        "userinfo": lambda lib, url: prepared(lib, "GET", url.replace("//", "//us%40er:p%3Aw@")),
        "host in upper case": lambda lib, url: prepared(lib, "GET", "http://EXAMPLE.org/A"),
        "idna": lambda lib, url: prepared(lib, "GET", "http://bücher.example/ä"),
        "ipv6": lambda lib, url: prepared(lib, "GET", "http://[::1]:8080/a"),
        "port of its own": lambda lib, url: prepared(lib, "GET", "http://example.org:80/"),
        "other scheme": lambda lib, url: prepared(lib, "GET", "mock://Host/a b?c#d", params={"e": "f"}),
        "other scheme and nothing": lambda lib, url: prepared(lib, "GET", "mock://host"),
        "no place": lambda lib, url: prepared(lib, "GET", "mailto:a@b"),
        "other scheme sent": lambda lib, url: lib.get("ftp://example.org/"),
    },
)
each(
    "bad url",
    {
        "none": "",
        "no scheme": "example.org",
        "slashes": "//example.org",
        "path": "/a",
        "no host": "http://",
        "no host but a path": "http:///a",
        "star": "http://*example.org",
        "dot": "http://.example.org",
        "label": "http://" + "ä" * 64 + ".org/",
        "port": "http://example.org:a/",
        "port too high": "http://example.org:70000/",
        "bracket": "http://[::1/",
        "host and port": "localhost:8000/a",
        "scheme alone": "http:",
        "is None": lambda: None,
    },
    lambda lib, url, bad: lib.get(bad),
)


class Shown:
    """Has a URL as its text."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __str__(self) -> str:
        return self._url


# ---- params

PARAMS = {
    "dict": {"a": "1", "b": "2"},
    "ints": {"a": 1, "b": 2.5, "c": True},
    "list of values": {"a": ["1", "2"], "b": ("3",), "c": []},
    "none": {"a": None, "b": "2"},
    "none in a list": {"a": ["1", None]},
    "pairs": [("a", "1"), ("a", "2")],
    "tuple of pairs": (("a", "1"), ("b", ["2", "3"])),
    "str": "a=1&b=ä c",
    "bytes": b"a=1&b=2",
    "empty": {},
    "empty str": "",
    "special": {"ä": "€", " ": "&=+%#?/"},
    "bytes in it": {b"a": b"\xff", "b": b"x y"},
    "pairs of one": [("a",)],
    "int": 1,
    "generator of values": lambda: {"a": (str(n) for n in range(3))},
    "zip": lambda: zip("ab", "12", strict=True),
}
each("params", PARAMS, lambda lib, url, params: lib.get(f"{url}/echo", params=params))
each(
    "params behind a query",
    {name: PARAMS[name] for name in ("dict", "empty", "str", "bytes")},
    lambda lib, url, params: [lib.get(f"{url}/{tail}", params=params) for tail in ("?q=1", "a#f", "b?q#f", "?")],
)

# ---- data and json

DATA = {
    "dict": {"a": "1", "b": ["2", "3"], "c": None, "ä": "€"},
    "empty dict": {},
    "pairs": [("a", "1"), ("a", "2")],
    "tuple of pairs": (("a", 1), ("b", 2)),
    "str": "a=ä",
    "empty str": "",
    "bytes": b"\x00\xff",
    "empty bytes": b"",
    "bytearray": lambda: bytearray(b"abc"),
    "empty list": [],
    "file": lambda: io.BytesIO(b"file"),
    "file not at its start": lambda: _at(io.BytesIO(b"0123456789"), 4),
    "file at its end": lambda: _at(io.BytesIO(b"0123"), 4),
    "empty file": io.BytesIO,
    "generator": lambda: (piece for piece in (b"a", b"", b"bc")),
    "empty generator": lambda: iter(()),
    "custom iterable": lambda: Pieces(),
    "custom iterable with a length": lambda: Sized(),
    "only read": lambda: Reader(),
    "int": 3,
    "zero": 0,
    "list of str": ["a", "b"],
}


class Pieces:
    def __iter__(self) -> Iterator[bytes]:
        return iter([b"one", b"two"])


class Sized(Pieces):
    def __len__(self) -> int:
        return 6


class Reader:
    """Has a read() and nothing else: no iterator, so `requests` does not take it for a stream."""

    def __init__(self) -> None:
        self._file = io.BytesIO(b"read only")

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def _at(file: io.BytesIO, position: int) -> io.BytesIO:
    file.seek(position)
    return file


each("data", DATA, lambda lib, url, data: lib.post(f"{url}/echo", data=data))
each(
    "data with a type",
    {name: DATA[name] for name in ("dict", "str", "file")},
    lambda lib, url, data: lib.put(f"{url}/echo", data=data, headers={"content-type": "a/b"}),
)
each(
    "data of get",
    {name: DATA[name] for name in ("dict", "bytes", "empty str")},
    lambda lib, url, data: lib.get(f"{url}/echo", data=data),
)
JSON: dict[str, Any] = {
    "dict": {"a": [1, 2.5, None, True, "ä€"]},
    "list": [1],
    "empty dict": {},
    "empty list": [],
    "zero": 0,
    "false": False,
    "empty str": "",
    "none": None,
    "nan": {"a": float("nan")},
    "set": lambda: {1},
    "bytes": b"x",
}
each("json", JSON, lambda lib, url, value: lib.post(f"{url}/echo", json=value))
each(
    "json beside",
    {"data": {"data": {"a": "1"}}, "empty data": {"data": ""}, "empty dict": {"data": {}}, "text": {"data": "x"}},
    lambda lib, url, beside: lib.post(f"{url}/echo", json={"j": 1}, **beside),
)
each(
    "json with",
    {"a type": {"Content-Type": "application/x+json"}, "a length": {"Content-Length": "8"}},
    lambda lib, url, headers: lib.post(f"{url}/echo", json={"a": 1}, headers=headers),
)

# ---- files

FILES = {
    "bytes": {"f": b"abc"},
    "text": {"f": "äbc"},
    "file": lambda: {"f": io.BytesIO(b"abc")},
    "name and file": lambda: {"f": ("n.txt", io.BytesIO(b"abc"))},
    "with a type": {"f": ("n.txt", b"abc", "text/plain")},
    "with headers": {"f": ("n.txt", b"abc", "text/plain", {"X-A": "b"})},
    "no name": {"f": (None, b"abc")},
    "pairs": [("f", ("a", b"1")), ("f", ("b", b"2"))],
    "none": {"f": (None, None), "g": b"x"},
    "not ascii": {"ü": ("ä.txt", b"x")},
    "quote": {'f"q': ('a"b.txt', b"x")},
    "empty": {},
    "one of the repository": lambda: {"f": Path(__file__).with_name("conftest.py").open("rb")},
}


def post_files(lib: Any, url: str, files: Any, **kwargs: Any) -> Any:
    try:
        return lib.post(f"{url}/echo", files=files, **kwargs)
    finally:
        for value in files.values() if isinstance(files, dict) else ():
            if hasattr(value, "close"):
                value.close()


each("files", FILES, post_files)
each(
    "files and data",
    {"dict": {"a": "1", "b": ["2", "3"], "c": None, "d": 4}, "pairs": [("a", b"\xff")], "text": "no"},
    lambda lib, url, data: post_files(lib, url, {"f": b"abc"}, data=data),
)
calls(
    "files and",
    {
        "json": lambda lib, url: post_files(lib, url, {"f": b"abc"}, json={"a": 1}),
        "stream": lambda lib, url: post_files(lib, url, {"f": b"abc"}, data=iter([b"x"])),
        "get": lambda lib, url: lib.get(f"{url}/echo", files={"f": b"abc"}),
        "a type": lambda lib, url: lib.post(f"{url}/echo", files={"f": b"abc"}, headers={"Content-Type": "a/b"}),
    },
)

# ---- headers and cookies

each(
    "headers",
    {
        "text": {"X-A": "b"},
        "bytes": {b"X-A": b"b"},
        "bytes value": {"X-A": b"caf\xe9"},
        "latin": {"X-A": "café"},
        "none": {"Accept": None, "X-A": None},
        "case": {"aCCept": "a/b", "ACCEPT-ENCODING": "identity"},
        "empty value": {"X-A": ""},
        "empty": {},
        "host": {"Host": "example.org"},
        "connection": {"Connection": "close"},
        "length of nothing": {"Content-Length": "0"},
        "user agent": {"User-Agent": "mine"},
        "tab": {"X-A": "a\tb"},
        "int": {"X-A": 1},
        "list": {"X-A": ["a"]},
        "int name": {1: "a"},
        "new line": {"X-A": "a\nb"},
        "new line and more": {"X-A": "a\r\nX-B: c"},
        "new line in a name": {"X\n-A": "a"},
        "colon in a name": {"X:A": "a"},
        "space before": {"X-A": " a"},
        "space behind": {"X-A": "a "},
        "empty name": {"": "a"},
        "new line in bytes": {b"X-A": b"a\nb"},
        "pairs": [("X-A", "b")],
        "not latin": {"X-A": "€"},
    },
    lambda lib, url, headers: lib.get(f"{url}/echo", headers=headers),
)
calls(
    "header",
    {
        "prepared int": lambda lib, url: prepared(lib, "GET", url, headers={"X-A": 1}),
        "prepared new line": lambda lib, url: prepared(lib, "GET", url, headers={"X-A": "a\nb"}),
        "prepared none": lambda lib, url: prepared(lib, "GET", url, headers={"X-A": "a", "x-a": "b"}),
        "given length": lambda lib, url: lib.post(url, data=b"abc", headers={"Content-Length": "3"}),
        "given coding": lambda lib, url: lib.post(url, data=iter([b"ab"]), headers={"Transfer-Encoding": "chunked"}),
        "length of a generator": lambda lib, url: prepared(
            lib, "POST", url, data=iter([b"ab"]), headers={"Content-Length": "2"}
        ),
    },
)
each(
    "cookies",
    {
        "dict": {"a": "1", "b": "two"},
        "quoted": {"a": 'x"y', "b": "c d"},
        "empty": {},
        "int": {"a": 1},
        "none": {"a": None, "b": "1"},
    },
    lambda lib, url, cookies: lib.get(f"{url}/echo", cookies=cookies),
)


@call
def cookies_of_a_jar(lib: Any, url: str) -> Any:
    jar = lib.cookies.RequestsCookieJar()
    jar.set("a", "1", path="/echo")
    jar.set("b", "2", path="/other")
    jar.set("c", "3", domain="example.org")
    jar.set("d", "4", domain="127.0.0.1", path="/")
    return lib.get(f"{url}/echo", cookies=jar)


@call
def cookies_beside_a_header(lib: Any, url: str) -> Any:
    return lib.get(url, cookies={"a": "1"}, headers={"Cookie": "b=2"})


@session_call
def cookies_of_a_session(lib: Any, session: Any, url: str) -> Any:
    session.cookies.set("mine", "0")
    first = session.get(say(url, headers=[("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Path=/b")]))
    again = session.get(f"{url}/b/c", cookies={"a": "for this one", "c": "3"})
    return [first, again, session.get(f"{url}/x"), session.cookies, session.cookies.get_dict()]


@session_call
def cookies_of_a_call_over_those_of_a_session(lib: Any, session: Any, url: str) -> Any:
    session.cookies.set("a", "0")
    jar = lib.cookies.cookiejar_from_dict({"a": "2"})
    return [session.get(url, cookies={"a": "1"}), session.get(url, cookies=jar), session.get(url), session.cookies]


@session_call
def cookies_that_end(lib: Any, session: Any, url: str) -> Any:
    session.get(say(url, headers={"Set-Cookie": "a=1; Path=/"}))
    session.get(say(url, headers={"Set-Cookie": "a=; Path=/; Max-Age=0"}))
    return [session.get(url), session.cookies]


@session_call
def cookies_replaced(lib: Any, session: Any, url: str) -> Any:
    session.cookies = lib.cookies.cookiejar_from_dict({"a": "1"})
    session.cookies.update({"b": "2"})
    return [session.get(url), "a" in session.cookies, session.cookies["b"], dict(session.cookies)]


@session_call
def cookies_of_a_redirect(lib: Any, session: Any, url: str) -> Any:
    location = say("", headers={"Set-Cookie": "second=2; Path=/"})
    return [session.get(to(url, location, **{"Set-Cookie": "first=1; Path=/"})), session.cookies]


@session_call
def cookies_of_a_call_on_a_redirect(lib: Any, session: Any, url: str) -> Any:
    return [session.get(to(url, "/echo"), cookies={"a": "1"}), session.cookies]


@call
def cookie_attributes(lib: Any, url: str) -> Any:
    wide = [("Set-Cookie", "a=1; HttpOnly; Path=/; Max-Age=100000"), ("Set-Cookie", 'b="quoted value"; Path=/')]
    return [c.name for c in lib.get(say(url, headers=wide)).cookies], lib.get(say(url, headers=wide)).cookies["b"]


# ---- authentication

each(
    "auth",
    {
        "pair": ("user", "pass"),
        "not ascii": ("jäsøn", "pä"),
        "bytes": (b"user", b"pa\xff"),
        "empty": ("", ""),
        "colon": ("us", "p:w"),
    },
    lambda lib, url, auth: lib.get(f"{url}/echo", auth=auth),
)
each("auth that is not", {"list": ["a", "b"], "text": "ab"}, lambda lib, url, auth: lib.get(url, auth=auth))


def _signed(request: Any) -> Any:
    request.headers["X-Signed"] = f"{request.method} {request.path_url} {request.body!r}"
    return request


def _with_body(request: Any) -> Any:
    request.body = b"a body of the authentication"
    return request


calls(
    "auth by",
    {
        "basic": lambda lib, url: lib.get(url, auth=lib.auth.HTTPBasicAuth("user", "pass")),
        "proxy": lambda lib, url: prepared(lib, "GET", url, auth=lib.auth.HTTPProxyAuth("user", "pass")),
        "a function": lambda lib, url: lib.post(f"{url}/p?q=1", data=b"body", auth=_signed),
        "a function that changes the body": lambda lib, url: lib.post(f"{url}/p", data=b"body", auth=_with_body),
        "digest": lambda lib, url: lib.get(f"{url}/digest?a=b", auth=lib.auth.HTTPDigestAuth("user", "pass")),
        "digest with a body": lambda lib, url: lib.post(
            f"{url}/digest", data={"a": "b"}, auth=lib.auth.HTTPDigestAuth("user", "pass")
        ),
        "digest with a file": lambda lib, url: lib.put(
            f"{url}/digest", data=io.BytesIO(b"file"), auth=lib.auth.HTTPDigestAuth("user", "pass")
        ),
        "digest sha-256": lambda lib, url: lib.get(
            f"{url}/digest?algorithm=SHA-256", auth=lib.auth.HTTPDigestAuth("user", "pass")
        ),
        "the url": lambda lib, url: lib.get(url.replace("//", "//us%40er:p%3Aw@")),
        "the url and a pair": lambda lib, url: lib.get(url.replace("//", "//a:b@"), auth=("user", "pass")),
        "the url and a header": lambda lib, url: lib.get(url.replace("//", "//a:b@"), headers={"Authorization": "x"}),
        "a pair and a header": lambda lib, url: lib.get(url, auth=("a", "b"), headers={"Authorization": "x"}),
        "netrc": lambda lib, url: lib.get(url.replace("127.0.0.1", "localhost")),
        "netrc and a header": lambda lib, url: lib.get(
            url.replace("127.0.0.1", "localhost"), headers={"Authorization": "x"}
        ),
    },
)


@session_call
def auth_digest_twice(lib: Any, session: Any, url: str) -> Any:
    session.auth = lib.auth.HTTPDigestAuth("user", "pass")
    return [session.get(f"{url}/digest"), session.get(f"{url}/digest"), session.cookies]


@session_call
def auth_that_is_not_trusted(lib: Any, session: Any, url: str) -> Any:
    session.trust_env = False
    return session.get(url.replace("127.0.0.1", "localhost"))


@call
def auth_is_equal(lib: Any, url: str) -> Any:
    basic, digest = lib.auth.HTTPBasicAuth, lib.auth.HTTPDigestAuth
    return [
        basic("a", "b") == basic("a", "b"),
        basic("a", "b") != basic("a", "c"),
        digest("a", "b") == digest("a", "b"),
    ]


# ---- sessions


@session_call
def session_headers(lib: Any, session: Any, url: str) -> Any:
    session.headers.update({"X-A": "session", "X-B": "session"})
    return [session.get(url, headers={"x-a": "call", "X-B": None}), session.get(url), session.headers]


@session_call
def session_headers_replaced(lib: Any, session: Any, url: str) -> Any:
    session.headers = {"X-A": "b"}
    return session.get(url).request


@session_call
def session_params(lib: Any, session: Any, url: str) -> Any:
    session.params = {"a": "1", "b": "2"}
    given: list[Any] = [{"b": None, "c": "3"}, {}, None, [("d", "4")], "e=5", b"f=6"]
    return [session.get(url, params=params).url for params in given]


@session_call
def session_auth(lib: Any, session: Any, url: str) -> Any:
    session.auth = ("session", "s")
    return [session.get(url), session.get(url, auth=("call", "c")), session.get(url, headers={"Authorization": "x"})]


@session_call
def session_hooks(lib: Any, session: Any, url: str) -> Any:
    called: list[str] = []
    session.hooks["response"].append(lambda r, **kwargs: called.append("session"))
    session.get(url)
    session.get(url, hooks={"response": lambda r, **kwargs: called.append("call")})
    session.get(url, hooks={"response": []})
    return called


@session_call
def session_verify_of_none(lib: Any, session: Any, url: str) -> Any:
    session.verify = False
    first = session.merge_environment_settings(url, {}, None, None, None)
    session.verify, session.cert, session.stream = "/ca.pem", ("c", "k"), True
    second = session.merge_environment_settings(url, {"http": "http://p"}, None, None, None)
    third = session.merge_environment_settings(url, {}, False, True, "mine")
    return [{**merged, "proxies": dict(merged["proxies"])} for merged in (first, second, third)]


@session_call
def session_proxies(lib: Any, session: Any, url: str) -> Any:
    session.proxies = {"http": url}
    elsewhere = "http://example.invalid/a?b"
    named = {"http://example.invalid": url, "http": "http://127.0.0.1:1"}
    return [session.get(elsewhere), session.get(elsewhere, proxies=named), session.get(url, proxies={"http": None})]


@call
def proxy_of_the_environment(lib: Any, url: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("http_proxy", url)
        patch.setenv("no_proxy", "127.0.0.1")
        return [lib.get("http://example.invalid/"), lib.get(url)]


@call
def proxy_with_a_password(lib: Any, url: str) -> Any:
    return lib.get("http://example.invalid/", proxies={"http": url.replace("//", "//user:pass@")}).status_code


@session_call
def session_defaults(lib: Any, session: Any, url: str) -> Any:
    names = ["auth", "proxies", "hooks", "params", "stream", "verify", "cert", "max_redirects", "trust_env", "cookies"]
    return {name: getattr(session, name) for name in names} | {"headers": session.headers}


@session_call
def session_after_close(lib: Any, session: Any, url: str) -> Any:
    session.close()
    return session.get(url).status_code


@call
def session_in_a_pickle(lib: Any, url: str) -> Any:
    with lib.Session() as session:
        session.headers["X-A"], session.params, session.auth = "b", {"c": "d"}, ("e", "f")
        session.cookies.set("g", "h")
        with pickle.loads(pickle.dumps(session)) as other:
            return [other.get(url), other.cookies, other.max_redirects]


@session_call
def session_adapters(lib: Any, session: Any, url: str) -> Any:
    first, second = lib.adapters.HTTPAdapter(), lib.adapters.HTTPAdapter(pool_maxsize=1)
    session.mount(f"{url}/long/er", first)
    session.mount(f"{url}/long", second)
    asked = [session.get_adapter(url=f"{url}{path}") for path in ("/long/er/x", "/LONG/x", "/x")]
    nothing = raised(lambda: session.get_adapter("ftp://x"))
    return [adapter is first or (adapter is second and 2) for adapter in asked], nothing, session.get(f"{url}/long/er")


@call
def adapter_written_by_hand(lib: Any, url: str) -> Any:
    class Fixed(lib.adapters.BaseAdapter):  # type: ignore[misc,name-defined]  # of either library
        def send(self, request: Any, **kwargs: Any) -> Any:
            answer = lib.Response()
            answer.status_code, answer.reason, answer.url, answer.request = 418, "Teapot", request.url, request
            answer.headers = lib.structures.CaseInsensitiveDict({"Content-Type": "text/plain; charset=utf-8"})
            answer.encoding, answer._content = "utf-8", "tee ä".encode()
            answer.raw = io.BytesIO()
            return answer

        def close(self) -> None:
            """Nothing is open."""

    with lib.Session() as session:
        session.mount("mock://", Fixed())
        answer = session.get("mock://x/y?z", params={"a": "b"})
        return [answer.status_code, answer.text, answer.url, answer.headers, answer.ok, answer.encoding]


# ---- prepared requests

PREPARED = {
    "get": {"method": "get", "params": {"a": "b"}, "headers": {"X": "y"}},
    "post": {"method": "POST", "data": {"a": "b"}, "cookies": {"c": "d"}, "auth": ("e", "f")},
    "json": {"method": "POST", "json": {"a": 1}},
    "delete": {"method": "DELETE"},
    "options": {"method": "OPTIONS"},
    "put": {"method": "PUT"},
    "no method": {"method": None},
    "file": {"method": "PUT", "data": io.BytesIO(b"abc")},
}
each("prepared", PREPARED, lambda lib, url, given: lib.Request(url=url, **given).prepare())


@call
def prepared_and_repr(lib: Any, url: str) -> Any:
    request = lib.Request("GET", url)
    names = ["method", "url", "headers", "files", "data", "params", "auth", "cookies", "json", "hooks"]
    return [repr(request), repr(lib.PreparedRequest()), *(getattr(request, name) for name in names)]


@call
def prepared_and_empty(lib: Any, url: str) -> Any:
    request = lib.PreparedRequest()
    return [request.method, request.url, request.headers, request.body, request.hooks]


@session_call
def prepared_and_sent(lib: Any, session: Any, url: str) -> Any:
    session.headers["X-Session"] = "1"
    session.cookies.set("a", "b")
    bare = lib.Request("POST", f"{url}/a", data="x").prepare()
    merged = session.prepare_request(lib.Request("POST", f"{url}/a", data="x", headers={"Y": "z"}))
    return [session.send(bare), session.send(merged, timeout=5, stream=False, verify=True, cert=None, proxies={})]


@session_call
def prepared_and_changed(lib: Any, session: Any, url: str) -> Any:
    request = session.prepare_request(lib.Request("POST", f"{url}/a", data="x"))
    request.method, request.url = "PUT", f"{url}/changed?x=y"
    request.headers["X-Late"] = "1"
    del request.headers["Accept"]
    request.body = b"another body"
    request.headers["Content-Length"] = str(len(request.body))
    return [session.send(request), request]


@session_call
def prepared_and_changed_by_its_methods(lib: Any, session: Any, url: str) -> Any:
    request = lib.Request("GET", url).prepare()
    request.prepare_method("post")
    request.prepare_url(f"{url}/b", {"c": "d"})
    request.prepare_headers({"X-A": "b"})
    request.prepare_body({"e": "f"}, None)
    request.prepare_cookies({"g": "h"})
    request.prepare_auth(("i", "j"))
    return session.send(request)


@session_call
def prepared_and_its_body_taken_out(lib: Any, session: Any, url: str) -> Any:
    request = session.prepare_request(lib.Request("POST", url, data=b"x"))
    request.body = None
    del request.headers["Content-Length"]
    return session.send(request).status_code


@session_call
def prepared_and_its_length_taken_out(lib: Any, session: Any, url: str) -> Any:
    request = session.prepare_request(lib.Request("POST", url, data=b"x"))
    del request.headers["Content-Length"]
    return session.send(request).status_code


@session_call
def prepared_and_its_headers_replaced(lib: Any, session: Any, url: str) -> Any:
    request = session.prepare_request(lib.Request("POST", url, data=b"x"))
    request.headers = {"X-A": "b", "Content-Length": "1", "Accept-Encoding": "identity"}
    return session.send(request).status_code


@session_call
def prepared_and_its_headers_in_bytes(lib: Any, session: Any, url: str) -> Any:
    request = session.prepare_request(lib.Request("GET", url))
    request.headers["X-A"] = b"b"
    return session.send(request).status_code


@session_call
def prepared_and_copied(lib: Any, session: Any, url: str) -> Any:
    request = session.prepare_request(lib.Request("POST", url, data=b"x", cookies={"a": "b"}))
    other = request.copy()
    other.headers["X-Other"] = "1"
    other.prepare_url(f"{url}/other", None)
    return [request, other, session.send(request), session.send(other)]


@session_call
def not_prepared(lib: Any, session: Any, url: str) -> Any:
    return session.send(lib.Request("GET", url))


@call
def prepare_everything_at_once(lib: Any, url: str) -> Any:
    request = lib.PreparedRequest()
    request.prepare("PUT", url, {"A": "b"}, None, "data", {"p": "q"}, ("u", "p"), {"c": "d"}, None, None)
    return request


# ---- hooks


@call
def hooks_see_the_response(lib: Any, url: str) -> Any:
    seen: list[Any] = []

    def hook(response: Any, **kwargs: Any) -> None:
        plain = {name: kwargs[name] for name in ("stream", "verify", "cert")}
        seen.append([response.status_code, response.url, sorted(kwargs), plain, dict(kwargs["proxies"])])

    lib.get(to(url, "/echo"), hooks={"response": [hook, hook]}, timeout=5)
    return seen


@call
def hooks_replace_the_response(lib: Any, url: str) -> Any:
    other = lib.get(f"{url}/other")
    return lib.get(url, hooks={"response": lambda response, **kwargs: other})


@call
def hooks_that_do_not_exist(lib: Any, url: str) -> Any:
    return lib.get(url, hooks={"nothing": print})


@call
def hooks_that_raise(lib: Any, url: str) -> Any:
    return lib.get(say(url, status=404), hooks={"response": lambda response, **kwargs: response.raise_for_status()})


@call
def hooks_registered(lib: Any, url: str) -> Any:
    request = lib.Request("GET", url)
    request.register_hook("response", [print, len])
    taken = [request.deregister_hook("response", hook) for hook in (print, print)]
    return [taken, len(request.hooks["response"]), raised(lambda: request.register_hook("x", print))]


@call
def hooks_dispatched(lib: Any, url: str) -> Any:
    double = {"response": lambda value, **kwargs: value * 2, "list": [lambda value: value + 1, lambda value: None]}
    dispatch = lib.hooks.dispatch_hook
    return [
        dispatch("response", double, 2),
        dispatch("list", double, 2),
        dispatch("x", double, 2),
        lib.hooks.default_hooks(),
    ]


# ---- what comes back

each(
    "status",
    {str(status): status for status in (200, 201, 204, 299, 304, 400, 404, 418, 500, 503, 599, 600)},
    lambda lib, url, status: lib.get(say(url, b"" if status in (204, 304) else b"body", status=status)),
)
TYPES = {
    "utf-8": ("text/plain; charset=utf-8", "ä€".encode()),
    "latin": ("text/html; charset=ISO-8859-1", "ä".encode("latin-1")),
    "quoted": ('text/plain; charset="utf-16"', "ä".encode("utf-16")),
    "unknown": ("text/plain; charset=nonsense", "ä".encode()),
    "json": ("application/json", '{"a": "ä"}'.encode()),
    "json of a vendor": ("application/x+json", '{"a": "ä"}'.encode()),
    "binary": ("application/octet-stream", "ä€ and more".encode()),
    "text without": ("text/plain", "ä".encode("latin-1")),
    "html without": ("text/html", "ä".encode()),
    "empty": ("text/plain; charset=utf-8", b""),
    "wrong bytes": ("text/plain; charset=utf-8", b"a\xffb"),
    "lines": ("text/plain; charset=utf-8", b"one\ntwo\r\nthree\rfour\n\nfive"),
    "other lines": ("text/plain; charset=utf-8", "a\x0bb\x0cc\u2028d\x85e\x1cf".encode()),
    "json list": ("application/json", b"[1, 2]"),
    "json false": ("application/json", b"false"),
    "no json": ("application/json", b"{nothing"),
    "json in utf-16": ("application/x", '{"a": 1}'.encode("utf-16")),
    "json with a mark": ("application/x", '{"a": 1}'.encode("utf-8-sig")),
}
each("type", TYPES, lambda lib, url, given: lib.get(say(url, given[1], {"Content-Type": given[0]})))
each(
    "coding",
    {name: (name, pieces) for name in ("gzip", "deflate") for pieces in (0, 3)}
    | {"gzip in pieces": ("gzip", 3), "deflate in pieces": ("deflate", 3), "plain in pieces": ("identity", 4)},
    lambda lib, url, given: lib.get(say(url, b"the body " * 9, coding=given[0], pieces=given[1])),
)
each(
    "fields",
    {
        "link": {"Link": '<http://a/?b=1>; rel="next"; title="x", </c>; rel=prev, <d>'},
        "empty link": {"Link": ""},
        "repeated": [("X-A", "1"), ("x-a", "2")],
        "latin": {"X-A": "ä"},
        "empty": {"X-A": ""},
    },
    lambda lib, url, headers: lib.get(say(url, b"x", headers)),
)


@call
def wrong_coding(lib: Any, url: str) -> Any:
    return lib.get(say(url, b"not gzip at all", {"Content-Encoding": "gzip"}))


@call
def unknown_coding(lib: Any, url: str) -> Any:
    return lib.get(say(url, b"as it is", {"Content-Encoding": "mine"}))


@call
def head_of_a_coded_body(lib: Any, url: str) -> Any:
    return lib.head(say(url, b"x", coding="gzip"))


STREAMED = {
    "iter_content": lambda r: b"".join(r.iter_content(5)),
    "iter_content of one": lambda r: list(r.iter_content()),
    "iter_content of pieces": lambda r: list(r.iter_content(5)),
    "iter_content of what comes": lambda r: b"".join(r.iter_content(None)),
    "iter_content as text": lambda r: list(r.iter_content(3, decode_unicode=True)),
    "iter_lines": lambda r: list(r.iter_lines()),
    "iter_lines of small pieces": lambda r: list(r.iter_lines(1)),
    "iter_lines as text": lambda r: list(r.iter_lines(decode_unicode=True)),
    "iter_lines by a mark": lambda r: list(r.iter_lines(delimiter=b"o")),
    "iter_lines by a mark as text": lambda r: list(r.iter_lines(decode_unicode=True, delimiter="o")),
    "content": lambda r: [r.content, r.content, list(r.iter_content(9))],
    "text": lambda r: r.text,
    "itself": lambda r: b"".join(r),
    "raw": lambda r: r.raw.read(),
    "raw a little": lambda r: [r.raw.read(3), r.raw.read(2), r.content],
    "raw by pieces": lambda r: b"".join(iter(functools.partial(r.raw.read, 4), b"")),
    "twice": lambda r: [b"".join(r.iter_content(4)), raised(lambda: list(r.iter_content(4)))],
    "content after": lambda r: [b"".join(r.iter_content(4)), raised(lambda: r.content)],
    "a wrong size": lambda r: raised(lambda: r.iter_content("4")),
    "a float": lambda r: raised(lambda: r.iter_content(4.0)),
    "partly": lambda r: next(r.iter_content(4)),
    "encoding none": lambda r: [setattr(r, "encoding", None), r.encoding, r.text],
    "encoding set": lambda r: [setattr(r, "encoding", "latin-1"), r.text][1],
    "json": lambda r: raised(r.json),
    "closed": lambda r: r.close(),
}


def streamed(lib: Any, url: str, use: Any, **told: Any) -> Any:
    where = say(url, "één\ntwo\r\nthree".encode(), {"Content-Type": "text/plain; charset=utf-8"}, **told)
    with lib.get(where, stream=True) as response:
        return use(response)


calls(
    "stream",
    {name: functools.partial(lambda use, lib, url: streamed(lib, url, use), use) for name, use in STREAMED.items()},
)
calls(
    "stream of gzip",
    {
        name: functools.partial(lambda use, lib, url: streamed(lib, url, use, coding="gzip"), STREAMED[name])
        for name in ("iter_content", "iter_lines", "content", "text", "raw")
    },
)


@call
def response_by_hand(lib: Any, url: str) -> Any:
    response = lib.Response()
    names = ["status_code", "reason", "url", "encoding", "headers", "history", "request", "elapsed", "next", "cookies"]
    before = {name: str(getattr(response, name)) for name in names}
    response.status_code, response.reason, response.url = 404, "Gone", "http://example.org/"
    response.headers["Content-Type"] = "text/plain"
    response.encoding = "utf-8"
    response._content = b'{"a": 1}'
    return [before, response.json(), response.text, response.ok, raised(response.raise_for_status), repr(response)]


@call
def response_by_hand_with_a_file(lib: Any, url: str) -> Any:
    response = lib.Response()
    response.status_code, response.raw = 200, io.BytesIO(b"one\ntwo")
    return [list(response.iter_lines()), response.ok, bool(response)]


@call
def response_by_hand_and_its_content(lib: Any, url: str) -> Any:
    response = lib.Response()
    response.raw = io.BytesIO(b"one\ntwo")
    response.status_code = 500
    return [response.content, response.text, response.ok, raised(response.json), raised(response.raise_for_status)]


@call
def response_with_nothing(lib: Any, url: str) -> Any:
    response = lib.Response()
    return [response.content, response.text, response.raw is None]


@call
def response_in_a_pickle(lib: Any, url: str) -> Any:
    response = lib.get(to(url, say("", b'{"a": 1}', {"Set-Cookie": "a=b", "Content-Type": "application/json"})))
    again = pickle.loads(pickle.dumps(response))
    names = ["status_code", "headers", "url", "encoding", "content", "reason", "cookies", "request", "text", "ok"]
    steps = [(step.status_code, step.url, step.content) for step in again.history]
    return [getattr(again, name) for name in names], steps, again.json(), again.elapsed == response.elapsed


@call
def response_in_a_pickle_while_streamed(lib: Any, url: str) -> Any:
    with lib.get(say(url, b"body"), stream=True) as response:
        return pickle.loads(pickle.dumps(response)).content


@call
def apparent_encoding(lib: Any, url: str) -> Any:
    return lib.get(say(url, b"abc")).apparent_encoding


# ---- redirects

FOLLOWED = [(status, method) for status in (301, 302, 303, 307, 308) for method in METHODS]
each(
    "redirect",
    {f"{status} {method}": (status, method) for status, method in FOLLOWED},
    lambda lib, url, given: lib.request(given[1], to(url, "/echo", given[0]), data=b"body"),
)
each(
    "redirect to",
    {
        "path": "/echo?a=b",
        "relative": "echo",
        "up": "../a/./echo",
        "query": "?body=there",
        "fragment": "/echo#new",
        "no fragment": "/echo",
        "not ascii": "/ä".encode().decode("latin-1"),
        "latin": "/\xe4",
        "space": "/a b",
        "quoted": "/a%20b",
        "empty": "",
        "other scheme": "ftp://example.org/",
        "mail": "mailto:a@example.org",
        "no host": "http://",
        "bad port": "http://example.org:x/",
        "upper case": "/ECHO",
    },
    lambda lib, url, location: lib.get(f"{to(url, location)}#old"),
)
SENT_ON: dict[str, Any] = {
    "dict": {"data": {"a": "b"}},
    "json": {"json": {"a": "b"}},
    "file": lambda: {"data": io.BytesIO(b"file")},
    "files": {"files": {"f": b"x"}},
    "generator": lambda: {"data": iter([b"a", b"b"])},
    "auth": {"auth": ("a", "b")},
    "headers": {"headers": {"X-A": "b", "Content-Type": "x/y", "Cookie": "a=b"}},
    "params": {"params": {"p": "q"}},
    "cookies": {"cookies": {"a": "b"}},
}
each("redirect 302 with", SENT_ON, lambda lib, url, given: lib.post(to(url, "/echo", 302), **given))
each("redirect 307 with", SENT_ON, lambda lib, url, given: lib.post(to(url, "/echo", 307), **given))


@call
def redirect_without_following(lib: Any, url: str) -> Any:
    return lib.get(to(url, "/echo"), allow_redirects=False)


@call
def redirect_of_a_post_without_following(lib: Any, url: str) -> Any:
    return [lib.post(to(url, "/echo", status), data=b"x", allow_redirects=False) for status in (302, 307)]


@session_call
def redirect_step_by_step(lib: Any, session: Any, url: str) -> Any:
    answers = [session.get(to(url, to("", "/echo", 301), 302), allow_redirects=False)]
    while answers[-1].next:
        answers.append(session.send(answers[-1].next, allow_redirects=False))
    return answers


@session_call
def redirect_resolved_by_the_program(lib: Any, session: Any, url: str) -> Any:
    answer = session.get(to(url, to("", "/echo", 301), 302), allow_redirects=False)
    return list(session.resolve_redirects(answer, answer.request))


@session_call
def redirect_resolved_to_requests(lib: Any, session: Any, url: str) -> Any:
    answer = session.get(to(url, "/echo"), allow_redirects=False)
    return next(session.resolve_redirects(answer, answer.request, yield_requests=True))


@session_call
def redirect_in_a_loop(lib: Any, session: Any, url: str) -> Any:
    session.max_redirects = 3
    error = raised(lambda: session.get(f"{url}/loop"))
    return [error, error.response, len(error.response.history), session.cookies]


@call
def redirect_in_a_loop_of_thirty(lib: Any, url: str) -> Any:
    return lib.get(f"{url}/loop")


@session_call
def redirect_not_allowed_at_all(lib: Any, session: Any, url: str) -> Any:
    session.max_redirects = 0
    return session.get(f"{url}/loop")


@call
def redirect_of_a_head_followed(lib: Any, url: str) -> Any:
    return lib.head(to(url, "/echo"), allow_redirects=True)


@call
def redirect_without_a_location(lib: Any, url: str) -> Any:
    return [lib.get(say(url, b"x", status=status)) for status in (301, 302, 303, 307, 308)]


@call
def redirect_statuses_that_are_not_followed(lib: Any, url: str) -> Any:
    return [lib.get(to(url, "/echo", status)) for status in (201, 300, 304, 305)]


@call
def redirect_to_another_host(lib: Any, url: str) -> Any:
    other = url.replace("127.0.0.1", "127.0.0.2")
    headers = {"Authorization": "mine", "Cookie": "a=b", "Proxy-Authorization": "p"}
    return lib.get(to(url, f"{other}/echo"), headers=headers, allow_redirects=False)


@call
def redirect_to_where_netrc_helps(lib: Any, url: str) -> Any:
    return lib.get(to(url, url.replace("127.0.0.1", "localhost") + "/echo"), auth=("a", "b"))


@call
def redirect_without_a_scheme(lib: Any, url: str) -> Any:
    return lib.get(to(url, url.removeprefix("http:") + "/echo"))


@call
def redirect_streamed(lib: Any, url: str) -> Any:
    with lib.get(to(url, "/echo"), stream=True) as response:
        return [response.status_code, len(response.history), response.history[0].content, response.content]


@call
def redirect_with_a_body_that_does_not_decode(lib: Any, url: str) -> Any:
    return lib.get(to(url, "/echo", **{"Content-Encoding": "gzip"})).status_code


@call
def redirect_methods_overridden(lib: Any, url: str) -> Any:
    called: list[Any] = []

    class Mine(lib.Session):  # type: ignore[misc,name-defined]  # of either library
        def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
            called.append(["auth", prepared_request.url, response.status_code])
            prepared_request.headers["X-Auth"] = "rebuilt"

        def rebuild_method(self, prepared_request: Any, response: Any) -> None:
            called.append(["method", prepared_request.method])
            prepared_request.method = "PUT"

        def rebuild_proxies(self, prepared_request: Any, proxies: Any) -> Any:
            called.append(["proxies", dict(proxies or {})])
            return super().rebuild_proxies(prepared_request, proxies)

        def get_redirect_target(self, resp: Any) -> str | None:
            target = super().get_redirect_target(resp)
            called.append(["target", target])
            return target and target.replace("echo", "elsewhere")

        def should_strip_auth(self, old_url: str, new_url: str) -> bool:
            called.append(["strip"])
            return True

    with Mine() as session:
        return [session.post(to(url, "/echo"), data=b"x"), sorted(called)]


AUTH_KEPT = [
    ("http://example.com", "http://example.com/a"),
    ("http://example.com", "http://other.com/"),
    ("http://example.com", "http://sub.example.com/"),
    ("http://example.com:1234/", "https://example.com:1234/"),
    ("http://example.com:1234/", "http://example.com:4321/"),
    ("http://example.com/", "https://example.com/"),
    ("https://example.com/", "http://example.com/"),
    ("http://example.com:80/", "https://example.com:443/"),
    ("http://example.com/", "https://example.com:444/"),
    ("http://example.com/", "http://example.com:80/"),
    ("https://example.com:443/", "https://example.com/"),
    ("http://EXAMPLE.com/", "http://example.COM/"),
    ("http://a:b@example.com/", "http://example.com/"),
]
calls(
    "auth kept",
    {
        f"{old} {new}": functools.partial(
            lambda old, new, lib, url: with_session(lambda _, session, __: session.should_strip_auth(old, new))(
                lib, url
            ),
            old,
            new,
        )
        for old, new in AUTH_KEPT
    },
)

# ---- what fails

each(
    "timeout",
    {
        "number": 5,
        "float": 5.5,
        "pair": (5, 5),
        "pair with none": (None, 5),
        "none": lambda: None,
        "three": (1, 2, 3),
        "one": (1,),
        "text": "5",
        "zero": 0,
        "negative": -1,
        "true": True,
        "list": [5, 5],
    },
    lambda lib, url, timeout: lib.get(url, timeout=timeout),
)


@call
def refused(lib: Any, url: str) -> Any:
    with refused_port() as nobody:
        return lib.get(f"http://127.0.0.1:{nobody.port}/")


@call
def refused_and_its_request(lib: Any, url: str) -> Any:
    with refused_port() as nobody:
        error = raised(lambda: lib.post(f"http://127.0.0.1:{nobody.port}/", data=b"x"))
        return [error.request.method, error.request.body, error.response]


@call
def bad_proxies(lib: Any, url: str) -> Any:
    given = ["http:///nobody", "nonsense://x:1", "http://x:port"]
    return [raised(lib.get, url, proxies={"http": proxy}) for proxy in given]


@call
def certificate_that_is_missing(lib: Any, url: str) -> Any:
    given = [{"verify": "/nowhere.pem"}, {"cert": "/nowhere.pem"}, {"cert": ("/a.pem", "/b.pem")}]
    return [raised(lib.get, "https://127.0.0.1:1/", **kwargs) for kwargs in given]


@call
def arguments_that_do_not_exist(lib: Any, url: str) -> Any:
    return lib.get(url, nonsense=True)


@call
def exceptions_by_hand(lib: Any, url: str) -> Any:
    response = lib.Response()
    response.request = lib.Request("GET", url).prepare()
    error = lib.HTTPError("text", response=response)
    other = lib.exceptions.RequestException(1, "text", request=response.request)
    return [
        error,
        error.request,
        error.args,
        str(error),
        error.response is response,
        other.args,
        other.errno,
        other.request,
    ]


@call
def exceptions_in_a_pickle(lib: Any, url: str) -> Any:
    error = raised(lib.get(say(url, b"no")).json)
    again = pickle.loads(pickle.dumps(error))
    return [again, again.msg, again.doc, again.pos, str(again)]


# ---- names and numbers


@call
def codes(lib: Any, url: str) -> Any:
    found = lib.codes
    return [
        found.ok,
        found["not_found"],
        found.teapot,
        found.TEMPORARY_REDIRECT,
        found.get("x"),
        raised(lambda: found.x),
    ]


@call
def case_insensitive_dict(lib: Any, url: str) -> Any:
    given = lib.structures.CaseInsensitiveDict({"Accept": "a"}, Other="b")
    given["ACCEPT"] = "c"
    other = given.copy()
    del other["other"]
    plain = [
        dict(given.items()),
        list(given.lower_items()),
        given == {"accept": "c", "OTHER": "b"},
        repr(given),
        len(given),
    ]
    return [
        *plain,
        given.get("aCCept"),
        given.get("none"),
        "other" in given,
        list(other),
        raised(lambda: other["other"]),
    ]


@call
def lookup_dict(lib: Any, url: str) -> Any:
    found = lib.structures.LookupDict(name="test")
    found.bad = 1
    return [found["bad"], found["nothing"], found.get("nothing", 2), repr(found)]


# ------------------------------------------------------------------------------------------------------- differences

# By the call: the pieces that are other ones, what is there instead (`...` for whatever it is), and why.
DIFFERENCES: dict[str, tuple[dict[str, Any], str]] = {}


def differs(names: str | list[str], pieces: dict[str, Any], reason: str) -> None:
    for name in [names] if isinstance(names, str) else names:
        assert name in CALLS
        assert name not in DIFFERENCES
        DIFFERENCES[name] = (pieces, reason)


def fails(kind: str, bases: str | None = None) -> dict[str, Any]:
    """Ours raises this, with these bases; theirs something else, or nothing where `bases` is None."""
    return {"raised": kind} if bases is None else {"raised": kind, "raised as": bases.split()}


SENT = {".request.headers": ..., "seen[0].headers": ...}
WITHOUT_A_FORM = ("files: empty", "files and data: text", "files and: stream")
REFUSED = "OSError RequestException ValueError"

differs(
    ["method: options", "method: delete", "request: bodiless delete"],
    SENT,
    "no length of 0 is said where nobody expects a body (RFC 9110, section 8.6)",
)
differs(
    ["prepared: options", "prepared: delete"],
    {".headers": []},
    "no length of 0 is said where nobody expects a body (RFC 9110, section 8.6)",
)
differs(
    ["redirect: 301 put", "redirect: 301 patch"],
    {".request.headers": ...},
    "the same is sent, and the request tells: theirs adds its Content-Length: 0 on the way",
)
differs("url: userinfo", {".url": ...}, "a password that was taken out of the URL is not shown in it")
differs(
    ["auth by: the url", "auth by: the url and a pair"],
    {".url": ..., ".request.url": ...},
    "a password that was taken out of the URL is not shown in it",
)
differs(
    "auth by: the url and a header",
    {".url": ..., ".request.url": ..., **SENT},
    "the header that a call names is nearer to it than its URL",
)
differs("auth by: netrc and a header", SENT, "the header that a call names is nearer to it than a file")
differs("bad url: bracket", fails("InvalidURL", REFUSED), "a bad URL is an InvalidURL")
differs("bad url: host and port", fails("MissingSchema"), "localhost:8000 is a host without a scheme, not a scheme")
differs(
    ["data: file at its end", "data: empty file"],
    {".request.headers": ..., "seen[0].headers": ...},
    "a length of 0 is known, and chunks are not needed",
)
differs("data: custom iterable with a length", SENT, "a number of pieces is no number of bytes")
differs(
    "data: only read", {".request.headers": ...}, "the same is sent, and the request tells: theirs adds it on the way"
)
differs("data: list of str", fails(NOTHING), "a list is an iterable of pieces like any other")
differs("files and: stream", fails("ValueError", ""), "a bad argument is a ValueError")
differs(["headers: bytes", "headers: bytes value"], {".request.headers": ...}, "headers are text, whatever they were")
differs("headers: int name", fails("InvalidHeader", REFUSED), "theirs fails inside")
differs("header: prepared new line", fails(NOTHING), "it is looked at when it is sent, whatever has changed since")
differs("headers: not latin", fails("InvalidHeader", REFUSED), "a bad header is an InvalidHeader")
differs("headers: space behind", fails("InvalidHeader"), "a server would see another value (RFC 9110, section 5.5)")
differs("header: length of a generator", {".headers": [("Content-Length", "2")]}, "never both (RFC 9112, section 6.2)")
differs("cookies: int", fails(NOTHING), "theirs fails inside")
differs(
    "cookies of a session",
    {f"{piece}.headers": ... for piece in ("[1].request", "seen[1]")},
    "the same cookies; of equal paths the older one first (RFC 6265, section 5.4)",
)
DIGEST = "algorithm and qop are not quoted (RFC 7616, section 3.4); elapsed is told of the second answer as well"
differs(
    [f"auth by: digest{how}" for how in ("", " with a body", " with a file", " sha-256")],
    {".elapsed": True, ".request.headers": ..., "seen[1].headers": ...},
    DIGEST,
)
differs(
    "auth digest twice",
    {
        "[0].elapsed": True,
        "[0].request.headers": ...,
        "[1].request.headers": ...,
        "seen[1].headers": ...,
        "seen[2].headers": ...,
    },
    DIGEST,
)
differs(
    ["session headers replaced", "prepared and sent", "prepared and changed by its methods"],
    {"seen[0].headers": ...},
    "Accept-Encoding: identity is not sent by itself: what is not in the headers is not sent",
)
differs("session after close", fails("SessionClosed"), "a closed session is closed")
differs("prepared and its length taken out", {"seen[0].headers": ...}, "the length of bytes is known")
differs("prepared and its headers in bytes", fails("InvalidHeader"), "headers of a prepared request are text")
ENCODING = "the web is UTF-8 and not ISO-8859-1 (RFC 7231, appendix B)"
differs(["type: text without", "type: html without"], {".encoding": None, ".text": ...}, ENCODING)
differs("stream: encoding none", {"": [None, None, "één\ntwo\r\nthree"]}, "what can be UTF-8 is not guessed at")
differs("apparent encoding", {"": "utf-8"}, "ASCII is UTF-8 as well")
differs(
    "wrong coding",
    fails("DecompressionError", "ContentDecodingError OSError RequestException"),
    "a subclass; and nothing of urllib3's",
)
differs(
    "stream: iter_lines of small pieces",
    {"": ["één".encode(), b"two", b"three"]},
    "a CR LF that two pieces divide is one end of a line",
)
differs(
    "stream: content after",
    {"[1]": "StreamConsumedError", "[1] as": ["OSError", "RequestException", "TypeError"]},
    "the same mistake, the same exception as of iter_content",
)
differs("response with nothing", {"": [b"", "", False]}, "content is bytes, raw is a file, always")
differs("redirect to: latin", fails(NOTHING), "theirs fails inside")
differs(
    "redirect to: no host",
    fails("InvalidURL", REFUSED) | {"seen": 1},
    "theirs asks the same URL again until it is tired",
)
differs(
    "redirect 307 with: generator",
    fails("UnrewindableBodyError"),
    "theirs sends a second request whose body is empty",
)
differs("redirect to another host", {"seen[0].headers": ...}, "what is said to a proxy is not for the server")
differs(["timeout: text", "timeout: true", "timeout: list"], fails("TypeError"), "of a wrong type, and so it is said")
differs(
    "bad proxies",
    {f"[{n}]{what}": value for n in (1, 2) for what, value in (("", "InvalidProxyURL"), (" as", ...))},
    "a subclass, which theirs has as well",
)
differs(
    [name for name in CALLS if name.startswith("files") and name not in WITHOUT_A_FORM],
    {".request.body": "MultipartBody"},
    "files are streamed and never read whole",
)
differs("redirect 307 with: files", {".request.body": "MultipartBody"}, "files are streamed and never read whole")


@pytest.mark.parametrize("name", [name for name in CALLS if name not in DIFFERENCES])
def test_it_is_as_in_requests(name: str, url: str) -> None:
    assert differing(CALLS[name], url) == {}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_it_differs_on_purpose(name: str, url: str) -> None:
    expected, reason = DIFFERENCES[name]
    found = differing(CALLS[name], url)
    assert set(found) == set(expected), reason
    for piece, value in expected.items():
        assert value is ... or found[piece][1] == value, f"{piece}: {reason}"

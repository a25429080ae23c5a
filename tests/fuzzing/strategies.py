"""Hypothesis strategies of what the targets take: grammar-shaped, with mistakes in it, and any bytes at all.

Knows the layout of each target's input. Knows nothing of what is checked.
"""

from __future__ import annotations

from hypothesis import strategies as st

from ..http1.strategies import TOKENS, VALUES, any_responses, chunked
from ..sse.strategies import STREAMS
from .layout import NEXT, SEPARATOR, joined
from .messages import CLOSED, METHODS, SMALL
from .run_atheris import CHARSETS, SEEDS

CUTS = st.binary(min_size=4, max_size=4)
NUMBERS = st.binary(min_size=1, max_size=1)
# Half a surrogate pair now and then.
TEXTS = st.text(max_size=12)


def of_scraps(*scraps: str, most: int = 12) -> st.SearchStrategy[str]:
    """What these make when they are put together."""
    return st.lists(st.sampled_from(scraps), max_size=most).map("".join)


# What means something in a URL to one reader at least; and characters that become such when they are normalized.
URL_SCRAPS = (
    *("http://", "https://", "HTTP:", "http+unix://", "//", "/", "\\", "@", ":", "?", "#", "[", "]", "&", "=", ";"),
    *("%", "%25", "%2f", "%00", "%41", "%zz", ".", "..", "/../", "example.com", "evil.example", "user", "word"),
    *("127.0.0.1", "0x7f", "017", "::1", "fe80::1", "1", "80", "65536", "0", "xn--bcher-kva", "xn--", "*", "_", "-"),
    *("\xe4", "\xdf", "\u65e5", "\u3002", "\uff0e", "\uff0f", "\uff20", "\uff1a", "\u2100", "\u200b", "\xad", "\u0130"),
    *("\u212a", "\uff11", "\u3000", "\xa0", "\x85", "\t", "\n", "\r", " ", "\0", "\x7f", "|", "<", "^", "+", ",", "~"),
)
URLS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["http://", "https://", "http://example.com", "http://u:p@[::1]:80", ""]),
    of_scraps(*URL_SCRAPS, most=6),
    st.sampled_from(["", "/", "/a/b?c=d#e", ":80/", "@example.org/", "?", "&"]),
)
LOCATIONS = st.one_of(URLS, of_scraps(*URL_SCRAPS, most=5), st.sampled_from(["//", "///", "/\\", "\\\\"]).flatmap(
    lambda slashes: of_scraps(*URL_SCRAPS, most=4).map(slashes.__add__)
))  # fmt: skip

COOKIES = of_scraps(
    *("a=1", "b", "=", ";", "; ", ",", '"', " ", "\t", "__Host-", "__Secure-x=1", "Secure", "HttpOnly", "Domain=", "."),
    *("example.com", "www.example.com", "com", "co.uk", "127.0.0.1", "0.0.1", "[::1]", "local", "Path=/", "/a", "\x01"),
    *("Max-Age=", "-1", "100", "1e9", "Expires=", "Wed, 09 Jun 2100 10:18:14 GMT", "0000", "\xe9", "SameSite=None"),
)
CHALLENGES = of_scraps(
    *("Digest ", "Basic ", 'realm="r"', 'nonce="n"', "nonce=", 'qop="auth"', "qop=auth-int", "auth,", "algorithm="),
    *("MD5", "SHA-256-sess", "userhash=true", "charset=UTF-8", "stale=true", 'domain="/a //["', ", ", ",", "=", '"'),
    *("\\", '\\"', "\x01", "\xe9", "hunter2", 'opaque="o"', "nextnonce=", " ", "\t"),
)
DATES = of_scraps(
    *(
        "Sun, ",
        "Sunday, ",
        "06",
        "6",
        " Nov ",
        "-",
        "94",
        "1994",
        "0000",
        "9999",
        " ",
        "08:49:37",
        ":",
        ".",
        "+",
        "GMT",
    ),
    *("-0000", "+9999", "EST", "120", "9" * 20, "\xb2", "(", ")", ",", "Dec", "May"),
)
TYPES = st.one_of(
    st.sampled_from(CHARSETS).map("text/plain; charset={}".format),
    of_scraps("text/plain", "application/json", ";", " ", "charset", "=", '"', "'", "utf-8", "utf-16", "hex", "\0"),
)
LINES = st.lists(
    st.sampled_from(
        [b"a", b"\r", b"\n", b"\r\n", b",", b"\xe2\x82\xac", b"\xe2", b"\x85", b"\xff\xfe", b"\0", b"\x1b$B"]
    ),
    max_size=20,
).map(b"".join)
PARTS = st.builds(
    joined,
    st.one_of(TEXTS, of_scraps("a", '"', "\\", "%22", "\xe9", "; filename=", "\r", "\n", "\0")),
    st.one_of(st.just(""), TEXTS.map("={}".format)),
    st.one_of(st.sampled_from(["", "text/plain", "multipart/mixed; boundary=x"]), TEXTS),
    st.one_of(st.sampled_from(["", "X-A", "content-type", "Content-Disposition"]), TOKENS, TEXTS),
    st.one_of(VALUES, TEXTS),
    st.one_of(st.binary(max_size=30), st.sampled_from([b"\r\n--", b"--\r\n", b"\r\n\r\n", b"\n"])),
)
FIELDS = st.one_of(
    st.tuples(TOKENS, VALUES),
    st.tuples(TEXTS, TEXTS),
    st.sampled_from([("Host", "h"), ("Content-Length", "3"), ("Transfer-Encoding", "chunked"), ("X", "a\r\nB: c")]),
)


DATA = of_scraps("a", "\n", " ", ":", "\r", "\0", "data: ")


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    method, raw = draw(any_responses())
    options = METHODS.index(method) | draw(st.sampled_from([0, CLOSED, SMALL, CLOSED | SMALL]))
    return bytes([options]) + draw(CUTS) + raw


@st.composite
def chunk_streams(draw: st.DrawFn) -> bytes:
    stream = draw(chunked(draw(st.binary(max_size=40)), draw(st.lists(st.tuples(TOKENS, VALUES), max_size=2))))
    return draw(st.sampled_from([b"\0", bytes([SMALL])])) + draw(CUTS) + stream + draw(st.binary(max_size=3))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    method = draw(st.one_of(st.sampled_from(["GET", "POST"]), TOKENS, TEXTS))
    target = draw(st.one_of(st.sampled_from(["/", "*", "/a?b"]), of_scraps(*URL_SCRAPS, most=4), TEXTS))
    fields = [("Host", "h"), *draw(st.lists(FIELDS, max_size=4))]
    return joined(method, target, *(text for field in draw(st.permutations(fields)) for text in field))


GRAMMARS: dict[str, st.SearchStrategy[bytes]] = {
    "response": responses(),
    "chunks": chunk_streams(),
    "request": requests(),
    "prepared": st.builds(
        lambda options, method, url, fields: options + joined(method, url, *(text for pair in fields for text in pair)),
        NUMBERS,
        st.one_of(st.sampled_from(["get", "POST", "CONNECT"]), TOKENS, TEXTS),
        st.one_of(st.just("https://[fe80::1%25a]:443/x"), URLS),
        st.lists(FIELDS, max_size=4),
    ),
    "events": st.tuples(NUMBERS, CUTS, STREAMS).map(b"".join),
    "event": st.tuples(NUMBERS, CUTS, st.builds(joined, TEXTS, DATA, TEXTS, TEXTS)).map(b"".join),
    "coding": st.tuples(
        st.integers(0x80, 0x9F).map(lambda number: bytes([number])),
        st.one_of(st.just(b"\0"), NUMBERS),
        CUTS,
        st.just(b"\0"),
        st.one_of(st.binary(max_size=60), st.binary(max_size=9).map(lambda block: block * 4000)),
    ).map(b"".join),
    "form": st.tuples(NUMBERS, st.lists(PARTS, min_size=1, max_size=3).map(NEXT.join)).map(b"".join),
    "url": URLS.map(joined),
    "reference": st.tuples(NUMBERS, NUMBERS, LOCATIONS.map(joined)).map(b"".join),
    "params": st.builds(joined, URLS, TEXTS, TEXTS, of_scraps("a", "&", "=", "%", "#", "?", "+", " "), TEXTS),
    "password": st.builds(joined, st.sampled_from(["", "http:", "ftp:", "a"]), *[of_scraps(*URL_SCRAPS, most=4)] * 3),
    "redirect": st.tuples(NUMBERS, NUMBERS, LOCATIONS.map(joined)).map(b"".join),
    "cookies": st.tuples(NUMBERS, NUMBERS, NUMBERS, st.lists(COOKIES, min_size=1, max_size=3).map(
        lambda fields: SEPARATOR.join(field.encode("latin-1") for field in fields)
    )).map(b"".join),
    "text": st.builds(lambda cuts, kind, lines: cuts + joined(kind, lines), CUTS, TYPES, LINES),
    "waits": st.builds(joined, DATES, DATES),
    "links": of_scraps("<", ">", "https://e/", ";", ",", ", <", "rel", "=", '"', "'", " ", "\xe9").map(
        lambda field: field.encode("latin-1")
    ),
    "challenge": st.builds(lambda *fields: SEPARATOR.join(f.encode("latin-1") for f in fields), CHALLENGES, CHALLENGES),
}  # fmt: skip

_TELLING = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b":",
        b";",
        b",",
        b"=",
        b'"',
        b"\\",
        b"/",
        b"//",
        b"@",
        b"%",
        b"0",
        b"\xff",
        b"\x85",
    ]
)


@st.composite
def mutated(draw: st.DrawFn, inputs: st.SearchStrategy[bytes]) -> bytes:
    """One of these with a few mistakes in it."""
    data = draw(inputs)
    for _ in range(draw(st.integers(1, 3))):
        place, taken = draw(st.integers(0, len(data))), draw(st.sampled_from([0, 0, 1, 4]))
        data = data[:place] + draw(st.one_of(_TELLING, st.binary(max_size=2))) + data[place + taken :]
    return data


def inputs_of(name: str) -> st.SearchStrategy[bytes]:
    """What to give to the target of this name."""
    grammar, seeds = GRAMMARS[name], st.sampled_from(SEEDS[name])
    return st.one_of(grammar, mutated(grammar), mutated(seeds), st.binary(max_size=80))

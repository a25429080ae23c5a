"""Fuzzes one target with atheris, which watches the branches that syncflow takes and looks for inputs that take others.

    pip install atheris
    python -m tests.fuzzing.run_atheris                                  # the names of the targets
    python -m tests.fuzzing.run_atheris response -max_total_time=60      # and any other option of libFuzzer

Run it from the repository, with the extra `test` installed. atheris has wheels for Linux on x86-64: 3.1 for Python 3.12
and 3.13, 3.0 for 3.11. It is in no extra: the tests do not need it. An input that breaks a promise is printed with its
traceback and kept in the directory for temporary files, as libFuzzer says; with that file's name behind the target's it
is run again.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from .layout import NEXT, joined

# A few inputs of each kind to begin with. Their layout is that of the target: numbers in front, texts behind.
NO_CUT, CUT = b"\0\0\0\0", b"\0\3\0\7"
RESPONSES = [
    b"\0" + CUT + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"\4" + CUT + b"HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nX: a\r\n b\r\n\r\nbody",
    b"\x0c" + CUT + b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    b"\0" + NO_CUT + b"\r\nHTTP/1.1 204\nSet-Cookie: a\n\nHTTP/1.1 304 X\r\nConnection: close\r\n\r\n",
    b"\3" + NO_CUT + b"HTTP/1.1 200 OK\r\nUpgrade: x\r\n\r\nraw",
]
CHUNKS = [
    b"\0" + CUT + b'3;a="b;c"; d\r\nabc\r\n0\r\nX: y\r\n\r\nHTTP/1.1',
    b"\x08" + CUT + b"0a \r\n0123456789\r\n00\r\n\r\n",
]
REQUESTS = [
    joined("GET", "/", "Host", "h"),
    joined("POST", "/x?y", "Host", "h", "Content-Length", "3", "X", "\xe9"),
    joined("PUT", "*", "Host", "h", "Transfer-Encoding", "gzip, chunked", "X", "a\r\nb"),
]
PREPARED = [
    b"\0" + joined("GET", "http://u:p@h/a?b#c", "X", "1", "Proxy-Authorization", "x"),
    b"\1" + joined("po\u017ft", "https://b\xfccher.example/", "X", "\xe9"),
    b"\1" + joined("POST", "https://h:1/", "X", "a\r\nb", "Content-Length", "0"),
    b"\0" + joined("CONNECT", "https://[::1]", "Host", "h", "X-A", ""),
]
STREAMS = [
    b"\xef\xbb\xbfdata: a\n\n",
    b"id: 1\nevent: e\ndata: a\ndata:b\nretry: 7\n\n: c\n\n",
    b"data: a\r\rdata: b\r\n\r\nid\n\nid: \0\n\n",
    b"data: \xff\xe2\x82\n\ndata: b\n\n",
    b"id: 1\ndata: a\n\nid: 2\ndata: b\n\nid: 3\ndata: c\n\n",
]
EVENTS = [joined("e", "a\nb", "7", "\0\0\1"), joined("", "a", "", ""), joined("x\ny", " data: \ufeff", "\xe9", "")]
PLAIN = b"hello hello hello, hello"
# By hand, as no encoder makes it: a run of 128 KiB in four bytes; a frame to be skipped.
ZSTD = [b"\x28\xb5\x2f\xfd\0\x58\2\0\x10\0\1\0\0", b"\x50\x2a\x4d\x18\2\0\0\0ab"]
CODED = [
    *[bytes([0x80 + number, 0]) + CUT + b"\0" + PLAIN for number in range(8)],
    *[bytes([0x80 + number, 20]) + CUT + b"\0" + PLAIN for number in range(4)],
    b"\0\0" + CUT + b"\0" + gzip.compress(PLAIN, mtime=0) * 2 + b"\0\0",
    b"\1\0" + CUT + b"\0" + zlib.compress(PLAIN)[2:-4],
    *[b"\3\0" + CUT + b"\0" + frame for frame in ZSTD],
]
FORMS = [
    b"\x10"
    + NEXT.join([joined("a", "=f.txt", "text/plain", "X-A", "1", b"con\r\n--tent"), joined("b", "", "", "", "", b"")]),
    b"\3" + joined('n"\xe9\\', '=%22"\u65e5\\', "", "Content-Type", "a/b", b"\0\1\r\n"),
    b"\0" + joined("a", "=", "text/plain; charset=x", "content-disposition", "x", b""),
    b"\0" + joined("a\r\nb", "=", "a\0", "X Y", "\r", b""),
]
URLS = [
    "http://user:p%40ss@Example.com:8080/a?b=c#d",
    "https://[2001:DB8::1]",
    "http://[fe80::1%25eth0]/",
    "https://b\xfccher.example:443?q",
    "http+unix://%2Frun%2Fa%20b.sock/v1/../v2?q=x y",
    "http://0x7f.1/a/%2e%2E/b",
    "HTTP://EXAMPLE.com./\xe4 b%",
    "http://\uff11\uff12\uff17.\uff10.0.1/",
    "http://example.com\\@evil.example/",
    "http:///evil",
]
REFERENCES = [
    "//evil.example/x",
    "///evil.example",
    "/\\evil.example",
    "http:\\\\evil.example",
    "../../x?q#f",
    "http:evil",
    "https://user:pw@example.com:8443/",
    "\u3000//evil.example/",
    " /a b",
    "?q",
    "http+unix://%2frun/x",
    "javascript:alert(1)",
    "HTTPS://WWW.example.com:8443/x",
]
PARAMS = [
    joined("http://h/p?x=y%#f", "a b", "\xfc&=?#/+", "c", ""),
    joined("http://h/?x&", "a", "1"),
    joined("http://h/p&", "a", "1"),
    joined("http://h??", "a", "1"),
]
PASSWORDS = [joined("", "me", "", "ho st/"), joined("ftp:", "me", "]", "h/"), joined("http:", "", "/", "x:port/@y")]
COOKIES = [
    b"a=1; Domain=example.com; Path=/; Secure; HttpOnly",
    b"__Host-a=1; Secure; Path=/",
    b"__Secure-b=; Domain=.example.com",
    b"a=1; Domain=com",
    b"c=d; Max-Age=100; Expires=Wed, 09 Jun 2100 10:18:14 GMT",
    b"a=1; Domain=127.0.0.1",
    b'a="b;c"; path=/a',
    b"=x; Domain=co.uk",
]
CHARSETS = (
    "utf-8",
    "utf-16",
    "utf-7",
    "punycode",
    "unicode_escape",
    "iso2022_jp",
    "gb18030",
    "hz",
    "cp1252",
    "utf_32_be",
)
LINKS = [b'<https://example.org/2>; rel="next", <x>; rel=a; title="b, <c>"', b"<>, <", b"a=b; c"]
DATE = "Sun, 06 Nov 2094 08:49:37 GMT"
CHALLENGES = [
    'Digest realm="r", nonce="n", qop="auth,auth-int", opaque="o", algorithm=MD5',
    'Basic realm="x", Digest realm="r\\"q", nonce="n", algorithm=SHA-256-sess, userhash=true, charset=UTF-8',
    'Digest realm="r", nonce="n", domain="/a http://x/ //[", stale=true',
    'Digest realm="r", nonce="n\x01"',
]
SEEDS: dict[str, list[bytes]] = {
    "response": RESPONSES,
    "chunks": CHUNKS,
    "request": REQUESTS,
    "prepared": PREPARED,
    "events": [b"\x28" + CUT + stream for stream in STREAMS],
    "event": [b"\3" + CUT + event for event in EVENTS],
    "coding": CODED,
    "form": FORMS,
    "url": [joined(url) for url in URLS],
    "reference": [bytes([number, 0]) + joined(text) for number, text in enumerate(REFERENCES)],
    "params": PARAMS,
    "password": PASSWORDS,
    "redirect": [bytes([number, number]) + joined(text) for number, text in enumerate(REFERENCES)],
    "cookies": [bytes([number, 0, 3]) + joined(field, COOKIES[0]) for number, field in enumerate(COOKIES)],
    "text": [CUT + joined(f"x; charset={name}", b"a\r\nb\rc\nd\\x41,\xe2\x82\xac\x1b$B~~{") for name in CHARSETS],
    "links": LINKS,
    "waits": [
        joined(asks, DATE) for asks in ("120", DATE, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994")
    ],
    "challenge": [joined(field, 'nextnonce="x", qop=auth') for field in CHALLENGES],
}

# Before the options that are given, which win. Longer inputs say nothing new, and take the square of the time.
OPTIONS = ("-max_len=512", "-timeout=30", "-print_final_stats=1", f"-artifact_prefix={tempfile.gettempdir()}/")


def fuzz(name: str) -> None:
    """In a process of its own, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["syncflow"], enable_loader_override=False):
        from .targets import TARGETS

    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in SEEDS:
        print(f"targets: {', '.join(SEEDS)}", file=sys.stderr)
        return 2
    name, *given = arguments
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS[name]):
            (Path(folder) / str(number)).write_bytes(seed)
        code = f"from {__package__}.run_atheris import fuzz; fuzz({name!r})"
        # A file to run again is given without a minus in front; else what is found goes where the seeds are.
        corpus = [] if any(not argument.startswith("-") for argument in given) else [folder]
        return subprocess.run([sys.executable, "-c", code, *OPTIONS, *given, *corpus], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

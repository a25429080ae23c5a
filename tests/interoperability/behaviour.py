"""What each server does, capability by capability: the words of the table in docs/interoperability.md, which
tests/test_interoperability_doc.py compares with this one. Every word is what a test here asserts of that server.

Knows no test and no program. Change a word only with what a server was seen to do.
"""

from __future__ import annotations

YES = "yes"

# Keep-alive.
UNLESS_CHUNKED = "yes, but not after a chunked answer"

# A chunked upload.
AS_IT_COMES = "passed on as it comes"
COLLECTED = "collected first, and given a length"

# 100 (Continue).
ALWAYS = "always, also to what is then refused"
UNLESS_REFUSED = "unless it is refused"

# After an early 413: whether the answer says `Connection: close`, and what becomes of the rest of the body.
LINGERS = "says close, reads on for a while"
CLOSES = "says close, closes at once"
CLOSES_UNSAID = "says nothing, closes at once"
READS_ON = "reads on, keeps the connection"

# gzip.
OWN = "its own"
APPLICATIONS = "the application's"

# Events.
AT_ONCE = "at once"
IF_TOLD = "at once, if told so"

NONE = "none"

GET = "GET"
KEEP_ALIVE = "keep-alive"
DOWNLOAD = "big download"
SIZED = "big upload, sized"
CHUNKED = "big upload, chunked"
CONTINUE = "100-continue"
EARLY_SIZED = "early 413, sized"
EARLY_CHUNKED = "early 413, chunked"
GZIP = "gzip"
SSE = "SSE"
TLS = "TLS"

CAPABILITIES = [
    *(GET, KEEP_ALIVE, DOWNLOAD, SIZED, CHUNKED, CONTINUE, EARLY_SIZED, EARLY_CHUNKED, GZIP, SSE, TLS),
]


def row(
    *,
    chunked: str,
    expect: str,
    early_sized: str,
    early_chunked: str,
    gzip: str = APPLICATIONS,
    sse: str = AT_ONCE,
    tls: str = YES,
    keep_alive: str = YES,
) -> dict[str, str]:
    values = [YES, keep_alive, YES, YES, chunked, expect, early_sized, early_chunked, gzip, sse, tls]
    return dict(zip(CAPABILITIES, values, strict=True))


BEHAVIOUR = {
    "nginx": row(
        chunked=COLLECTED, expect=UNLESS_REFUSED, early_sized=LINGERS, early_chunked=LINGERS, gzip=OWN, sse=IF_TOLD
    ),
    "Apache httpd": row(
        chunked=AS_IT_COMES, expect=UNLESS_REFUSED, early_sized=LINGERS, early_chunked=LINGERS, gzip=OWN
    ),
    "lighttpd": row(
        chunked=COLLECTED, expect=UNLESS_REFUSED, early_sized=LINGERS, early_chunked=LINGERS, gzip=OWN, sse=IF_TOLD
    ),
    # Its limit is a rule about Content-Length, so that a chunked body is refused by the application behind it.
    "HAProxy": row(chunked=AS_IT_COMES, expect=UNLESS_REFUSED, early_sized=CLOSES, early_chunked=READS_ON, gzip=OWN),
    "Node http": row(chunked=AS_IT_COMES, expect=ALWAYS, early_sized=READS_ON, early_chunked=READS_ON),
    "gunicorn": row(chunked=AS_IT_COMES, expect=ALWAYS, early_sized=CLOSES_UNSAID, early_chunked=CLOSES_UNSAID),
    "waitress": row(
        keep_alive=UNLESS_CHUNKED,
        chunked=COLLECTED,
        expect=ALWAYS,
        early_sized=CLOSES,
        early_chunked=CLOSES,
        tls=NONE,
    ),
    "cheroot": row(chunked=AS_IT_COMES, expect=UNLESS_REFUSED, early_sized=CLOSES, early_chunked=CLOSES),
    "uvicorn": row(chunked=AS_IT_COMES, expect=UNLESS_REFUSED, early_sized=READS_ON, early_chunked=READS_ON),
    "hypercorn": row(chunked=AS_IT_COMES, expect=ALWAYS, early_sized=CLOSES_UNSAID, early_chunked=CLOSES_UNSAID),
    "aiohttp": row(chunked=AS_IT_COMES, expect=ALWAYS, early_sized=READS_ON, early_chunked=READS_ON),
}

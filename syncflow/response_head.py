"""What the head of a response says, and how the exchange went: headers, cookies, links, redirects, times.

Most of it is made when it is asked for. Knows nothing of the body but that what was read of it may be a server's
message.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, cast

from .engine.timings import Timings
from .exceptions import HTTPError
from .links import parse_header_links
from .sources import NO_SOURCE, Source
from .structures import CaseInsensitiveDict
from .text import decode, encoding_of
from .urls import masked

if TYPE_CHECKING:
    from .cookies import RequestsCookieJar
    from .models import PreparedRequest
    from .responses import Response
    from .retries import Try

__all__ = ["REDIRECT_STATI", "ResponseHead"]

# RFC 9110, section 15.4: those that say where to ask instead.
REDIRECT_STATI = (301, 302, 303, 307, 308)

# Not None: who sets that wants the encoding to be guessed.
UNSET: Any = object()

# As much of a server's message as an exception shows.
NOTE_LINES = 5
NOTE_CHARACTERS = 500


class ResponseHead:
    """The half of a `Response` that is there once its head has come. There is none without the other half."""

    # What a response that is made by hand begins with.
    request: PreparedRequest | None = None
    connection: Any = None
    url: str = None  # type: ignore[assignment]  # until it is set, as in `requests`
    status_code: int = None  # type: ignore[assignment]
    reason: str = None  # type: ignore[assignment]
    _fields: list[tuple[str, str]] = []  # noqa: RUF012  # replaced, never changed
    _exchange: Source = NO_SOURCE
    # Those before the one that led to this answer.
    earlier_tries: tuple[Try, ...] = ()
    # Made when they are asked for, or set.
    _headers: CaseInsensitiveDict[str] | None = None
    _history: list[Response] | None = None
    _cookies: RequestsCookieJar | None = None
    _elapsed: datetime.timedelta | None = None
    _encoding: Any = UNSET
    _next: PreparedRequest | None = None
    # What its fields tell, noted as they came.
    _is_encoded = False
    _sets_cookies = False
    # The body, once it is whole and decoded.
    _content: bytes | None = None

    # ---------------------------------------------------------------- the head

    @property
    def headers(self) -> CaseInsensitiveDict[str]:
        """The header fields; those that came more than once are joined with a comma (RFC 9110, section 5.3)."""
        if self._headers is None:
            joined: dict[str, tuple[str, str]] = {}
            for name, value in self._fields:
                first, before = joined.get(name.lower(), (name, None))
                joined[name.lower()] = (first, value if before is None else f"{before}, {value}")
            self._headers = CaseInsensitiveDict(joined.values())
        return self._headers

    @headers.setter
    def headers(self, value: CaseInsensitiveDict[str]) -> None:
        self._headers = value

    @property
    def ok(self) -> bool:
        """Whether `raise_for_status` has nothing to raise."""
        return not 400 <= (self.status_code or 0) < 600

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return f"<Response [{self.status_code}]>"

    @property
    def cookies(self) -> RequestsCookieJar:
        """The cookies that this response has set, as far as its server may set them."""
        if self._cookies is None:
            from .cookies import RequestsCookieJar, extract_cookies_to_jar  # late: the standard library's takes 15 ms

            self._cookies = RequestsCookieJar()
            if self.request is not None:
                extract_cookies_to_jar(self._cookies, self.request, self._fields)
        return self._cookies

    @cookies.setter
    def cookies(self, value: RequestsCookieJar) -> None:
        self._cookies = value

    @property
    def encoding(self) -> str | None:
        """What was set, else the charset that Content-Type names, else UTF-8 if that is JSON; None if nothing says."""
        if self._encoding is UNSET:
            self._encoding = encoding_of(self.headers.get("content-type", ""))
        encoding: str | None = self._encoding
        return encoding

    @encoding.setter
    def encoding(self, value: str | None) -> None:
        self._encoding = value

    @property
    def links(self) -> dict[str, dict[str, str]]:
        """The Link header (RFC 8288), by relation or URL."""
        return {link.get("rel") or link["url"]: link for link in parse_header_links(self.headers.get("link", ""))}

    @property
    def history(self) -> list[Response]:
        """The responses that led here, the oldest first; made when it is asked for."""
        if self._history is None:
            self._history = []
        return self._history

    @history.setter
    def history(self, value: list[Response]) -> None:
        self._history = value

    @property
    def is_redirect(self) -> bool:
        """Whether this sends its reader to another URL."""
        return self.status_code in REDIRECT_STATI and "location" in self.headers

    @property
    def is_permanent_redirect(self) -> bool:
        """Whether it does so for good."""
        return self.status_code in (301, 308) and "location" in self.headers

    @property
    def next(self) -> PreparedRequest | None:
        """The request that would follow this redirect, where redirects are not followed."""
        return self._next

    def raise_for_status(self) -> None:
        """Raise HTTPError if the status is 400 or above; its note shows how the server's message begins, if it is text
        and was read already."""
        if self.ok:
            return
        whose = "Client" if self.status_code < 500 else "Server"
        message = f"{self.status_code} {whose} Error: {self.reason} for url: {masked(str(self.url))}"
        error = HTTPError(message, response=cast("Response", self))
        if note := self._message():
            error.add_note(note)
        raise error

    def _message(self) -> str:
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not self._content or not (kind.startswith("text/") or kind.endswith(("json", "xml"))):
            return ""
        lines = decode(self._content[: 4 * NOTE_CHARACTERS], self.encoding).strip().splitlines()
        shown = "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines[:NOTE_LINES])
        return shown[:NOTE_CHARACTERS]

    # ---------------------------------------------------------------- how it went

    @property
    def elapsed(self) -> datetime.timedelta:
        """From when the request was begun on its connection to the arrival of the head."""
        if self._elapsed is None:
            self._elapsed = datetime.timedelta(seconds=self._exchange.elapsed)
        return self._elapsed

    @elapsed.setter
    def elapsed(self, value: datetime.timedelta) -> None:
        self._elapsed = value

    @property
    def timings(self) -> Timings:
        """Where the time went: pool, dns, connect, tls, sent, first_byte, total; in seconds."""
        return self._exchange.timings

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the server, or of the proxy, that the connection goes to."""
        peer: tuple[str, int] = self._exchange.peer
        return peer

    @property
    def request_complete(self) -> bool:
        """False if the server answered before the body of the request had left."""
        return self._exchange.request_complete

    @property
    def trailers(self) -> CaseInsensitiveDict[str]:
        """The trailer fields, once the body was read to its end."""
        return CaseInsensitiveDict(self._exchange.trailers)

"""Answers without a network, for programs that use syncflow: which request gets which, and what was asked.

Knows URLs, methods, what was registered and what has come. Knows nothing of how requests are caught (`interception`)
nor of how an answer is sent (`mock_server`).
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack
from urllib.parse import parse_qsl

from syncflow.exceptions import ProtocolError
from syncflow.testing.answers import Answer, AnswerFields, Row, row_of
from syncflow.testing.interception import Interception
from syncflow.testing.wire import Request, parse_request
from syncflow.urls import Target, parse_url

if TYPE_CHECKING:
    from syncflow.models import PreparedRequest

__all__ = ["ANY", "MockedRequest", "Registration", "SyncflowMock", "UnmatchedRequest"]

# How many registrations a message names.
NAMED = 20


class Anything:
    """The type of `ANY`."""

    def __repr__(self) -> str:
        return "ANY"


# In the place of a method, or of a URL: every one.
ANY = Anything()


class UnmatchedRequest(ProtocolError):
    """A request for which nothing is registered; nothing was sent, and the message names what is.

    A `ConnectionError`; and of these a `ProtocolError`, because no policy of retries, and no event stream that connects
    again, tries that another time.
    """


@dataclass(slots=True)
class MockedRequest(Request):
    """A request as it would have gone out. Its body and trailers are whole when the program has its answer.

    Attributes:
        url: the whole of it, with scheme and query.
    """

    url: str = ""


class MockFields(AnswerFields, total=False):
    """See `MockAnswer`."""

    exc: BaseException | type[BaseException] | None
    early: bool


@dataclass(frozen=True)
class MockAnswer(Answer):
    """An `Answer`, or an error in its place. A function that answers may raise a RequestException, too: the program
    gets it, as if it had happened once the body had left.

    Attributes:
        exc: raised in place of sending anything: an exception, or the class of one.
        early: whether the answer comes before the request's body, and in place of it, as of servers that refuse a body
            by its head. It stops an upload.
    """

    exc: BaseException | type[BaseException] | None = None
    early: bool = False


class History:
    """Requests that came, in the order in which they began."""

    def __init__(self) -> None:
        self._history: list[MockedRequest] = []  # appended to, and copied whole: no lock is needed

    @property
    def request_history(self) -> list[MockedRequest]:
        return list(self._history)

    @property
    def last_request(self) -> MockedRequest | None:
        """The one that began last; None if there was none."""
        history = self.request_history
        return history[-1] if history else None

    @property
    def called(self) -> bool:
        return bool(self._history)

    @property
    def call_count(self) -> int:
        return len(self._history)

    def record(self, request: MockedRequest) -> None:
        """One more."""
        self._history.append(request)


URL = str | re.Pattern[str] | Anything


class Registration(History):
    """A method and a URL with their answers; its history is of the requests that it fits. Made by `SyncflowMock`."""

    def __init__(
        self,
        method: str | Anything,
        url: URL,
        row: Row[MockAnswer],
        additional_matcher: Callable[[MockedRequest], bool] | None,
    ) -> None:
        super().__init__()
        # Never changes.
        self._method = method.upper() if isinstance(method, str) else method
        self._url = url
        self._target = parse_url(url) if isinstance(url, str) else None
        self._matcher = additional_matcher
        # Guarded by the mock's lock.
        self._row = row

    def fits(self, request: MockedRequest, target: Target) -> bool:
        """Holding nothing: it may run code of the test."""
        if isinstance(self._method, str) and self._method != request.method.upper():
            return False
        return self._fits_url(request.url, target) and (self._matcher is None or bool(self._matcher(request)))

    def _fits_url(self, url: str, target: Target) -> bool:
        if self._target is None:
            return not isinstance(self._url, re.Pattern) or self._url.search(url) is not None
        expected, wanted = _split(self._target)
        shown, given = _split(target)
        return expected == shown and wanted <= given

    def take(self) -> MockAnswer:
        """With the mock's lock held. What it answers next."""
        return self._row.take()

    def __repr__(self) -> str:
        url = self._url.pattern if isinstance(self._url, re.Pattern) else self._url
        return f"{self._method} {url}"


def _split(target: Target) -> tuple[tuple[object, ...], Counter[tuple[str, str]]]:
    """Where it is, and what is asked of it: in any order, each as often as it is there."""
    path, _, query = target.path.partition("?")
    place = (target.scheme, target.host, target.port, target.socket_path, path)
    return place, Counter(parse_qsl(query, keep_blank_values=True))


class SyncflowMock(History):
    """While its `with` block lasts, no request of syncflow leaves this process: each gets what is registered for it.

    Whatever the program makes them with: any session, made before or in the block, on any thread; `syncflow.get` and
    its kin; uploads, event streams, adapters. All of syncflow runs as ever, but for resolving, connecting, proxies and
    TLS. Of two registrations that fit the later one answers. One mock at a time; any thread may use its methods.

        with SyncflowMock() as mock:
            mock.get("https://api.example/users/7", json={"name": "Ada"})
            assert syncflow.get("https://api.example/users/7").json() == {"name": "Ada"}
        assert mock.last_request.headers["Accept"] == "*/*"
    """

    def __init__(self) -> None:
        super().__init__()
        self._interception = Interception(self._book)
        # Guards the list, and what each answers next. Nothing is called while it is held.
        self._lock = threading.Lock()
        self._registrations: list[Registration] = []

    def request(
        self,
        method: str | Anything,
        url: URL,
        answers: Sequence[Mapping[str, Any]] | None = None,
        *,
        additional_matcher: Callable[[MockedRequest], bool] | None = None,
        **answer: Unpack[MockFields],
    ) -> Registration:
        """From now on answer requests of this method for this URL.

        Args:
            method: its name, or `ANY`.
            url: whole, with its scheme; requests may have a longer query, in any order. Or a compiled pattern that is
                found in their URLs, or `ANY`.
            answers: in a row, each with the keywords of one; the last goes on.
            additional_matcher: given a request that fits so far; whether it does. Bodies are there only if they are
                bytes or text.
            answer: `json`, `text` or `content`; `status_code`, `headers`, `reason`; `exc`; `early`. See `MockAnswer`.

        Raises:
            TypeError, ValueError: an answer, or a URL, that is none (`MissingSchema`, `InvalidURL` are ValueErrors).
        """
        if not isinstance(url, str | re.Pattern | Anything):
            raise TypeError(f"a URL is a str, a compiled pattern or ANY, not {url!r}")
        made = Registration(method, url, row_of(MockAnswer, answers, answer), additional_matcher)
        with self._lock:
            self._registrations.append(made)
        return made

    def get(
        self, url: URL, answers: Sequence[Mapping[str, Any]] | None = None, **answer: Unpack[RequestFields]
    ) -> Registration:
        """See `request`."""
        return self.request("GET", url, answers, **answer)

    def post(
        self, url: URL, answers: Sequence[Mapping[str, Any]] | None = None, **answer: Unpack[RequestFields]
    ) -> Registration:
        """See `request`."""
        return self.request("POST", url, answers, **answer)

    def put(
        self, url: URL, answers: Sequence[Mapping[str, Any]] | None = None, **answer: Unpack[RequestFields]
    ) -> Registration:
        """See `request`."""
        return self.request("PUT", url, answers, **answer)

    def patch(
        self, url: URL, answers: Sequence[Mapping[str, Any]] | None = None, **answer: Unpack[RequestFields]
    ) -> Registration:
        """See `request`."""
        return self.request("PATCH", url, answers, **answer)

    def delete(
        self, url: URL, answers: Sequence[Mapping[str, Any]] | None = None, **answer: Unpack[RequestFields]
    ) -> Registration:
        """See `request`."""
        return self.request("DELETE", url, answers, **answer)

    def head(
        self, url: URL, answers: Sequence[Mapping[str, Any]] | None = None, **answer: Unpack[RequestFields]
    ) -> Registration:
        """See `request`."""
        return self.request("HEAD", url, answers, **answer)

    def options(
        self, url: URL, answers: Sequence[Mapping[str, Any]] | None = None, **answer: Unpack[RequestFields]
    ) -> Registration:
        """See `request`."""
        return self.request("OPTIONS", url, answers, **answer)

    def _book(self, request: PreparedRequest, head: bytes) -> tuple[MockedRequest, MockAnswer]:
        """The requesting thread, ahead of each try: what it is to get. Raises UnmatchedRequest, or what was asked for
        by `exc`."""
        seen = parse_request(head)
        body = request.body
        known = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else b""
        asked = MockedRequest(
            seen.method, seen.target, seen.version, seen.fields, seen.headers, known, url=request.url or ""
        )
        with self._lock:
            registrations = self._registrations[::-1]
        for registration in registrations:
            if registration.fits(asked, request.target):
                break
        else:
            raise UnmatchedRequest(_unmatched(asked, registrations), request=request, phase="connect")
        with self._lock:
            registration.record(asked)
            self.record(asked)
            answer = registration.take()
        if answer.exc is not None:
            raise _made(answer.exc, asked)
        return asked, answer

    def __enter__(self) -> Self:
        self._interception.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._interception.stop(error)


class RequestFields(MockFields, total=False):
    """What `SyncflowMock.request` takes by keyword."""

    additional_matcher: Callable[[MockedRequest], bool] | None


def _unmatched(asked: MockedRequest, registrations: list[Registration]) -> str:
    """The message. The latest registration comes first in the list, and last in what is said."""
    what = f"{asked.method} {asked.url}: nothing is registered for it, and nothing was sent"
    if not registrations:
        return f"{what}; register an answer first: see SyncflowMock.request"
    named = [str(registration) for registration in registrations[NAMED - 1 :: -1]]
    more = len(registrations) - len(named)
    return f"{what}; registered: {', '.join(named)}{f' and {more} more' if more else ''}"


def _made(exc: BaseException | type[BaseException], asked: MockedRequest) -> BaseException:
    """The error to raise, which says where it is if nobody else has."""
    if not isinstance(exc, type):
        return exc
    return exc(f"{asked.method} {asked.url}: {exc.__name__}, as the mock was told; nothing was sent")

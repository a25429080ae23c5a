"""Following redirects (RFC 9110, section 15.4): where to, with which method, and what must not go along.

Knows what changes from one request of a chain to the next. Knows nothing of how each is sent: that is the session's
`send`. The methods have the names and meanings of `requests`, where programs override them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .environ import netrc_auth
from .exceptions import (
    BodyTooLarge,
    ChunkedEncodingError,
    ContentDecodingError,
    InvalidSchema,
    TooManyRedirects,
    UnrewindableBodyError,
)
from .models import PreparedRequest
from .responses import Response
from .routes import merge_proxies
from .urls import absolute_url, has_other_scheme, masked, parse_url

if TYPE_CHECKING:
    from .cookies import RequestsCookieJar

__all__ = ["HEAD_SUFFICES", "SessionRedirectMixin"]

# What may be wrong with the body of a redirect that is followed: only its head matters.
HEAD_SUFFICES = (ChunkedEncodingError, ContentDecodingError, BodyTooLarge)

# What describes a body that does not go along (CVE-2023-45803; the Fetch standard's "request-body-header names").
BODY_HEADERS = (
    "Content-Length",
    "Content-Type",
    "Transfer-Encoding",
    "Content-Encoding",
    "Content-Language",
    "Content-Location",
    "Expect",
    "Trailer",
)


class SessionRedirectMixin:
    """The half of a session that follows redirects."""

    max_redirects: int
    trust_env: bool

    @property
    def cookies(self) -> RequestsCookieJar:
        """The session's."""
        raise NotImplementedError

    def send(self, request: PreparedRequest, **kwargs: Any) -> Response:
        """The session's."""
        raise NotImplementedError

    def _remember(self, response: Response) -> None:
        """The session's."""
        raise NotImplementedError

    def get_redirect_target(self, resp: Response) -> str | None:
        """Where a response sends its reader; None if nowhere. Whoever asked for a tunnel to one target (CONNECT) is not
        to get one to another, which the proxy has chosen."""
        if not resp.is_redirect or (resp.request is not None and resp.request.method == "CONNECT"):
            return None
        # A head is read as latin-1, and servers that write more than ASCII here mean UTF-8.
        return resp.headers["location"].encode("latin-1").decode("utf-8", "replace")

    def should_strip_auth(self, old_url: str, new_url: str) -> bool:
        """Whether credentials for one URL must not be sent to the other: they are another origin's.

        From http to https on the same host, with the usual ports, they go along, as in `requests`.
        """
        old_host, *old = _origin(old_url)
        new_host, *new = _origin(new_url)
        if old_host != new_host:
            return True
        return old != new and (old, new) != (["http", 80], ["https", 443])

    def resolve_redirects(
        self,
        resp: Response,
        req: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str | None] | None = None,
        yield_requests: bool = False,
        **adapter_kwargs: Any,
    ) -> Iterator[Any]:
        """The responses to which `resp` leads, one after the other; or, with `yield_requests`, the requests.

        Raises:
            TooManyRedirects: more than `max_redirects`.
            InvalidSchema, InvalidURL: a redirect to where no HTTP is spoken.
            UnrewindableBodyError: the body was to be sent again, but cannot be read again.
        """
        history: list[Response] = []
        url = self.get_redirect_target(resp)
        fragment = (req.url or "").partition("#")[2]
        while url:
            resp.history = history[:]
            history.append(resp)
            self._read_to_end(resp)
            if len(resp.history) >= self.max_redirects:
                raise TooManyRedirects(
                    f"{_where(resp)}: more than {self.max_redirects} redirects, the last one to "
                    f"{masked(url)}; is it a loop? Session.max_redirects allows more",
                    response=resp,
                )
            url = _with_fragment(absolute_url(resp.url or "", url), fragment)
            fragment = url.partition("#")[2]
            req = self._next_request(req, resp, url)
            proxies = self.rebuild_proxies(req, proxies)
            self.rebuild_auth(req, resp)
            if yield_requests:
                yield req
                return
            try:
                resp = self.send(
                    req,
                    stream=stream,
                    timeout=timeout,
                    verify=verify,
                    cert=cert,
                    proxies=proxies,
                    allow_redirects=False,
                    **adapter_kwargs,
                )
            except HEAD_SUFFICES as error:
                if error.request is not req or error.response is None or not error.response.is_redirect:
                    raise
                resp = error.response
                self._remember(resp)
            url = self.get_redirect_target(resp)
            yield resp

    def _read_to_end(self, resp: Response) -> None:
        """So that its connection can carry the next request. What is wrong with this body is of no interest."""
        try:
            resp.drain()
        except HEAD_SUFFICES:
            resp.close()

    def _next_request(self, req: PreparedRequest, resp: Response, url: str) -> PreparedRequest:
        before, following = req.url or "", req.copy()
        if not _may_lead(before, url):
            raise InvalidSchema(
                f"{_where(resp)}: redirected to {masked(url)!r}, which is neither http nor https; nothing was sent "
                "there",
                response=resp,
            )
        following.prepare_url(url, None)
        if self.should_strip_auth(before, following.url):
            following.headers.pop("Host", None)  # it named the server before, and whose cookies are sent
        following._home = req._home or before
        following._has_strayed = self.should_strip_auth(following._home, following.url)
        self.rebuild_method(following, resp)
        if resp.status_code not in (307, 308):
            for name in BODY_HEADERS:
                following.headers.pop(name, None)
            following.body = None
        from .cookies import extract_cookies_to_jar, merge_cookies  # late: the standard library's takes 15 ms

        # Made anew, for the new URL, from the cookies that are for it.
        following.headers.pop("Cookie", None)
        jar = following._cookies
        extract_cookies_to_jar(jar, req, resp._fields)
        merge_cookies(jar, self.cookies)
        following.prepare_cookies(jar)
        if following.body is not None:
            self._rewind(following, resp)
        return following

    def _rewind(self, request: PreparedRequest, resp: Response) -> None:
        try:
            request.rewind_body()
        except UnrewindableBodyError as error:
            raise UnrewindableBodyError(
                f"{_where(resp)}: a {resp.status_code} asks for the body to be sent again to {request.url}: {error}; "
                "give bytes or a file that can be rewound, or allow_redirects=False",
                response=resp,
            ) from error

    def rebuild_auth(self, prepared_request: PreparedRequest, response: Response) -> None:
        """If the redirect leads to another origin, take the credentials out (CVE-2018-18074), and put in those that
        the user's netrc file has for it; not where it leads from https to http."""
        assert response.request is not None
        before = response.request.url or ""
        if not self.should_strip_auth(before, prepared_request.url or ""):
            return
        prepared_request.headers.pop("Authorization", None)
        target = prepared_request.known_target
        if target is None or not self.trust_env or (before.startswith("https:") and target.scheme == "http"):
            return
        new = netrc_auth(target.host)
        if new is not None:
            prepared_request.prepare_auth(new)

    def rebuild_proxies(
        self, prepared_request: PreparedRequest, proxies: Mapping[str, str | None] | None
    ) -> Mapping[str, str | None]:
        """The proxies for the new URL. What the program said to a proxy in a header was for the one before."""
        prepared_request.headers.pop("Proxy-Authorization", None)
        given = getattr(proxies, "given", proxies)
        return merge_proxies(prepared_request.known_target, given, trust_env=self.trust_env)

    def rebuild_method(self, prepared_request: PreparedRequest, response: Response) -> None:
        """GET after a 303, and after a 301 or 302 as browsers do it (RFC 9110, sections 15.4.2 to 15.4.4)."""
        status, method = response.status_code, prepared_request.method
        if (status in (302, 303) and method != "HEAD") or (status == 301 and method == "POST"):
            prepared_request.method = "GET"


def _origin(url: str) -> tuple[Any, ...]:
    """Whose a URL is: what stands for the host first, then scheme and port."""
    if has_other_scheme(url):
        parts = urlsplit(url)
        return parts.netloc.rpartition("@")[2], parts.scheme, None
    target = parse_url(url)
    return target.socket_path or target.host, target.scheme, target.port


def _where(resp: Response) -> str:
    return urlsplit(resp.url or "").netloc.rpartition("@")[2]


def _may_lead(old: str, new: str) -> bool:
    """Whether a redirect is followed from one URL to the other. What listens on a Unix socket, as a container daemon,
    trusts whoever can connect to it, and a mounted adapter may read files: no server elsewhere sends its clients there.
    """
    if has_other_scheme(new):
        return has_other_scheme(old)
    path = parse_url(new).socket_path
    return path is None or (not has_other_scheme(old) and parse_url(old).socket_path == path)


def _with_fragment(url: str, fragment: str) -> str:
    """A fragment that the new URL does not have is taken from the old one (RFC 9110, section 10.2.2)."""
    return f"{url}#{fragment}" if fragment and "#" not in url else url

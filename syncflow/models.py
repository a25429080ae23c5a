"""What is sent: a `Request` as the program says it, a `PreparedRequest` as it will go out.

Knows how URL, headers, cookies, authentication and body become a request. Knows nothing of how it is sent, nor of what
comes back; `Response`, which `requests` has here, lives in `responses`.
"""

from __future__ import annotations

import copy
import json as jsonlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from .auth import HTTPBasicAuth
from .bodies import Body, body_of, multipart_of
from .curl import curl_command
from .exceptions import BodyLengthError, InvalidHeader, InvalidJSONError, MissingSchema
from .hooks import default_hooks
from .merging import HeaderTypes, merge_headers
from .responses import REDIRECT_STATI, Response
from .structures import CaseInsensitiveDict
from .urls import ParamTypes, Target, add_params, encode_pairs, has_other_scheme, parse_url

if TYPE_CHECKING:
    from http.cookiejar import CookieJar

__all__ = ["REDIRECT_STATI", "PreparedRequest", "Request", "Response"]

# A request of these without a body says nothing of a length (RFC 9110, section 8.6).
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class _Hooked:
    """What can have hooks."""

    hooks: dict[str, list[Callable[..., Any]]]

    def register_hook(self, event: str, hook: Callable[..., Any] | Iterable[Callable[..., Any]]) -> None:
        """Add a hook, or several. Raises ValueError for an event that does not exist."""
        if event not in self.hooks:
            raise ValueError(f"there is no hook {event!r}, only {', '.join(map(repr, self.hooks))}")
        if callable(hook):
            self.hooks[event].append(hook)
        else:
            self.hooks[event].extend(hook)

    def deregister_hook(self, event: str, hook: Callable[..., Any]) -> bool:
        """Take a hook out; whether it was there."""
        try:
            self.hooks[event].remove(hook)
        except ValueError:
            return False
        return True


class Request(_Hooked):
    """A request as a program says it; `prepare()`, or `Session.prepare_request`, makes one that can be sent.

    Args: as those of `Session.request`.
    """

    def __init__(
        self,
        method: str | None = None,
        url: Any = None,
        headers: HeaderTypes = None,
        files: Any = None,
        data: Any = None,
        params: ParamTypes = None,
        auth: Any = None,
        cookies: Any = None,
        hooks: Any = None,
        json: Any = None,
    ) -> None:
        self.method = method
        self.url = url
        self.headers: Mapping[Any, Any] = headers or {}
        self.files = [] if files is None else files
        self.data = [] if data is None else data
        self.params = {} if params is None else params
        self.auth = auth
        self.cookies = cookies
        self.json = json
        self.hooks = default_hooks()
        for event, given in (hooks or {}).items():
            self.register_hook(event, given)

    def __repr__(self) -> str:
        return f"<Request [{self.method}]>"

    def prepare(self) -> PreparedRequest:
        """The request, ready to be sent, with nothing of a session's."""
        prepared = PreparedRequest()
        prepared.prepare(
            method=self.method,
            url=self.url,
            headers=self.headers,
            files=self.files,
            data=self.data,
            json=self.json,
            params=self.params,
            auth=self.auth,
            cookies=self.cookies,
            hooks=self.hooks,
        )
        return prepared


class PreparedRequest(_Hooked):
    """What will be sent, in full. It may be changed until it is sent: headers, URL, body.

    Attributes:
        method: in upper case.
        headers: those that will be sent, but for Host where the URL gives it.
        hooks: called with the response.
    """

    method: str = None  # type: ignore[assignment]  # until it is prepared, as in `requests`
    headers: CaseInsensitiveDict[str] = None  # type: ignore[assignment]  # until it is prepared, as in `requests`
    _url: str | None = None
    _target: Target | None = None
    _body: Any = None
    _content: Body | None = None
    _jar: CookieJar | None = None
    # Where a redirect has led here: the URL that the program had named, and whether this is another origin than that.
    # The program's cookies that are for no domain in particular do not go there.
    _home: str | None = None
    _has_strayed = False
    # Whether its answer is endless by its nature, so that `max_body` is not for it.
    _is_endless = False
    # Whether the session keeps the cookies of its answer: not those that are for somebody behind the program.
    _keeps_cookies = True

    def __init__(self) -> None:
        self.hooks = default_hooks()

    def prepare(
        self,
        method: str | None = None,
        url: Any = None,
        headers: HeaderTypes = None,
        files: Any = None,
        data: Any = None,
        params: ParamTypes = None,
        auth: Any = None,
        cookies: Any = None,
        hooks: Any = None,
        json: Any = None,
    ) -> None:
        """All steps, in their order: the authentication may need to know everything else."""
        self.prepare_method(method)
        self.prepare_url(url, params)
        self.prepare_headers(headers)
        self.prepare_cookies(cookies)
        self.prepare_body(data, files, json)
        self.prepare_auth(auth, url)
        self.prepare_hooks(hooks)

    def __repr__(self) -> str:
        return f"<PreparedRequest [{self.method}]>"

    def copy(self) -> PreparedRequest:
        """Another one that can be changed on its own; the body is the same object."""
        other = PreparedRequest.__new__(type(self))
        other.__dict__.update(self.__dict__)
        if self.headers:
            other.headers = self.headers.copy()
        other.hooks = {event: list(hooks) for event, hooks in self.hooks.items()}
        if self._jar is not None:
            other._jar = copy.copy(self._jar)
        return other

    # ---------------------------------------------------------------- where to

    @property
    def url(self) -> str:
        """Whole, normalized; None until it is prepared, as in `requests`."""
        return self._url  # type: ignore[return-value]  # see above

    @url.setter
    def url(self, value: str | None) -> None:
        self._url, self._target = value, None

    @property
    def target(self) -> Target:
        """The URL, taken apart. Raises what `parse_url` raises."""
        if self._target is None:
            if self._url is None:
                raise MissingSchema("the request has no URL; nothing was sent")
            self._target = parse_url(self._url)
        return self._target

    @property
    def known_target(self) -> Target | None:
        """The URL taken apart; None if its scheme is one that only a mounted adapter understands."""
        return None if self._target is None and has_other_scheme(self._url or "") else self.target

    @property
    def path_url(self) -> str:
        """Path and query: the request target in origin form (RFC 9112, section 3.2.1)."""
        if (target := self.known_target) is not None:
            return target.path
        parts = urlsplit(self.url)
        return f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"

    def prepare_method(self, method: str | None) -> None:
        """In upper case. What is not ASCII stays, and is refused when it is sent: of some letters the upper case is."""
        is_plain = method is not None and method.isascii()
        self.method = method.upper() if is_plain else method  # type: ignore[union-attr, assignment]  # see above

    def prepare_url(self, url: Any, params: ParamTypes) -> None:
        """The URL with `params` behind its query.

        Raises:
            MissingSchema, InvalidURL: it cannot be requested; says why.
        """
        if not isinstance(url, str):
            url = url.decode() if isinstance(url, bytes) else str(url)
        if has_other_scheme(url):  # for an adapter that somebody has mounted: only that one can tell what it means
            self.url = url
            return
        if params:
            url = add_params(url, params)
        self._target = parse_url(url)
        self._url = self._target.url

    # ---------------------------------------------------------------- headers

    def prepare_headers(self, headers: HeaderTypes) -> None:
        """Those given, except where the value is None.

        Raises:
            InvalidHeader: a name or a value that is neither str nor bytes.
        """
        self.headers = CaseInsensitiveDict()
        merge_headers(self.headers, headers or {}, self._where())

    def prepare_cookies(self, cookies: Any) -> None:
        """Set the Cookie header from a mapping or a jar, as far as its cookies are for this URL; one that is set
        already stays."""
        if cookies is None or (isinstance(cookies, dict) and not cookies):
            return
        from http.cookiejar import CookieJar  # late: it takes 15 ms

        from .cookies import cookiejar_from_dict, get_cookie_header

        # Not asked whether it is a mapping: a RequestsCookieJar is one too, and knows for whom each cookie is.
        self._jar = cookies if isinstance(cookies, CookieJar) else cookiejar_from_dict(cookies)
        header = get_cookie_header(self._jar, cast(Any, self))
        if header is not None:
            self.headers["Cookie"] = header

    @property
    def _cookies(self) -> CookieJar:
        """The cookies that the request was prepared with; a redirect adds to them."""
        if self._jar is None:
            from .cookies import RequestsCookieJar  # late, as above

            self._jar = RequestsCookieJar()
        return self._jar

    def prepare_auth(self, auth: Any, url: Any = "") -> None:
        """Let `auth` change the request: a pair (user, password), or something that is called with it; None takes the
        user and password out of the URL, if they are there."""
        if auth is None:
            if self._target is None or self._target.userinfo is None:
                return
            auth = self._target.userinfo
        if isinstance(auth, tuple) and len(auth) == 2:
            auth = HTTPBasicAuth(*auth)
        changed = auth(self)
        if changed is not self:
            self.__dict__.update(changed.__dict__)
        if self._content is not None or self._body is not None:
            self.prepare_content_length(self._body)

    def prepare_hooks(self, hooks: Any) -> None:
        """Add hooks, by their event."""
        for event, given in (hooks or {}).items():
            self.register_hook(event, given)

    # ---------------------------------------------------------------- the body

    @property
    def body(self) -> Any:
        """What was given as the body, encoded if it was a form or JSON; None if there is none."""
        return self._body

    @body.setter
    def body(self, value: Any) -> None:
        self._body, self._content = value, None

    @property
    def content(self) -> Body | None:
        """The body as it is sent."""
        if self._content is None and self._body is not None:
            self._content = body_of(self._body)
        return self._content

    def prepare_body(self, data: Any, files: Any, json: Any = None) -> None:
        """Put the body into the request, with the headers that describe and frame it (RFC 9112, section 6).

        Raises:
            InvalidJSONError, InvalidHeader, BodyLengthError, ValueError, OSError: it cannot be sent as it is.
        """
        headers = self.headers
        announced = "Content-Length" in headers or "Transfer-Encoding" in headers
        if (data is None or data == []) and json is None and not (files or announced):
            self._body = self._content = None
            if self.method not in _BODILESS:
                headers["Content-Length"] = "0"
            return
        content_type = None
        is_stream = hasattr(data, "__iter__") and not isinstance(data, str | bytes | bytearray | list | tuple | Mapping)
        if not data and not is_stream:
            data = None
        if files:
            self._body = multipart_of(data, files)
            content_type = self._body.content_type
        elif data is None and json is not None:
            self._body = self._json_bytes(json)
            content_type = "application/json"
        elif isinstance(data, Mapping) or _is_pairs(data):
            self._body = encode_pairs(data)
            content_type = "application/x-www-form-urlencoded"
        else:
            self._body = data
        if self._body is None and not announced:
            if self.method not in _BODILESS:
                headers["Content-Length"] = "0"
            return
        # A body that is announced by a header must be sent, or the server waits for it: so it is there, and empty.
        self._content = body_of(b"" if self._body is None else self._body)
        if content_type is not None:
            headers.setdefault("Content-Type", content_type)
        self._frame(self._content)

    def prepare_content_length(self, body: Any) -> None:
        """Announce the length of `body`, which something has changed, if it can be known."""
        content = self.content if body is self._body else (None if body is None else body_of(body))
        if content is None:
            if self.method not in _BODILESS:
                self.headers.setdefault("Content-Length", "0")
        elif "Transfer-Encoding" not in self.headers:
            if content.length is None:
                self.headers.pop("Content-Length", None)
                self.headers["Transfer-Encoding"] = "chunked"
            elif not isinstance(body, str | bytes) and "Content-Length" in self.headers:
                self._frame(content)
            else:
                self.headers["Content-Length"] = str(content.length)

    def complete(self) -> None:
        """Put right what a program may have changed since the request was prepared: headers in a plain dictionary, a
        body that nothing announces any more and that the server would not see (RFC 9112, section 6.3)."""
        if type(self.headers) is not CaseInsensitiveDict:
            self.headers = CaseInsensitiveDict(self.headers)
        if self._body is None and self._content is None and self.method in _BODILESS:
            return
        if "Content-Length" not in self.headers and "Transfer-Encoding" not in self.headers:
            self.prepare_content_length(self._body)

    def rewind_body(self) -> None:
        """Begin the body anew, because it is to be sent, or read, once more.

        Raises:
            UnrewindableBodyError: it cannot be had twice.
        """
        if self.content is not None:
            self.content.rewind()

    def _json_bytes(self, value: Any) -> bytes:
        try:
            return jsonlib.dumps(value, allow_nan=False).encode()
        except ValueError as error:
            raise InvalidJSONError(f"{self._where()}: json=: {error}; nothing was sent", request=self) from error

    def _frame(self, content: Body) -> None:
        headers = self.headers
        if "Transfer-Encoding" in headers:
            return
        declared = headers.get("Content-Length")
        if declared is None:
            if content.length is None:
                headers["Transfer-Encoding"] = "chunked"
            else:
                headers["Content-Length"] = str(content.length)
        elif not (declared.isascii() and declared.isdigit()):
            raise InvalidHeader(
                f"{self._where()}: Content-Length must be a decimal number; nothing was sent", request=self
            )
        elif content.length is not None and content.length != int(declared):
            raise BodyLengthError(
                f"{self._where()}: Content-Length says {int(declared)} bytes and the body has {content.length}; "
                "nothing was sent; leave that header out",
                request=self,
            )

    def _where(self) -> str:
        return self._target.authority if self._target is not None else str(self._url)

    # ---------------------------------------------------------------- showing it

    def to_curl(self, *, secrets: bool = False) -> str:
        """The same request as a command for a shell.

        Args:
            secrets: True shows credentials, cookies, API keys and tokens, those in the URL too, which are masked
                otherwise.
        """
        return curl_command(self, secrets=secrets)


def _is_pairs(data: Any) -> bool:
    return isinstance(data, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in data)

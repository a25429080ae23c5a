"""What persists across requests: headers, cookies, parameters, limits, and the adapters that send.

Knows how the session's values and a call's are merged, and in which order cookies, hooks and redirects see a response.
Knows nothing of how a request is sent, nor of the rules of redirects.
"""

from __future__ import annotations

import copy
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any

from .adapters import HTTPAdapter
from .adapters.foreign import send_through
from .breakers import CircuitBreaker
from .calls import Calls
from .engine.deadline import Deadline
from .engine.dialer import Network
from .engine.origin import sha256_fingerprint
from .engine.worker import Worker
from .environ import netrc_auth
from .exceptions import RequestException
from .hooks import HOOKS, HookTypes, dispatch_hook, hooks_of
from .merging import HeaderTypes, default_headers, merge_headers, merge_params, names_authorization
from .models import PreparedRequest, Request
from .mounting import SessionAdaptersMixin
from .pushing import SessionUploadMixin
from .redirects import HEAD_SUFFICES, SessionRedirectMixin
from .responses import REDIRECT_STATI, Response
from .retries import Retry
from .routes import CertTypes, ProxyTypes, Trust, VerifyTypes, merge_proxies, merge_verify
from .settings import OWN_TIMEOUT, PoolLimits, Timeouts, TimeoutTypes, Watermarks
from .sources import NO_SOURCE
from .structures import CaseInsensitiveDict
from .subscribing import SessionEventsMixin
from .urls import ParamTypes, absolute_url, has_other_scheme, parse_url

if TYPE_CHECKING:
    from .cookies import RequestsCookieJar

__all__ = ["Session", "session"]

DEFAULT_REDIRECT_LIMIT = 30


class Session(SessionAdaptersMixin, SessionRedirectMixin, SessionUploadMixin, SessionEventsMixin):
    """Requests that share headers, cookies, limits and connections. Any number of threads may use one session.

    Close it when it is no longer needed, or use it as a context manager.

    Args:
        timeout: the limits of requests that give none: a `Timeouts`; seconds for connect, read and write; a pair
            (connect, read); None for no limit at all.
        pool: how many connections, and how long they are kept.
        watermarks: how much may wait in each connection's buffers, in bytes.
        retries: how often and when a request is sent again: a `Retry`, or a number for `Retry.total`. None: only what
            was lost, before a byte was answered, with a connection that had been idle, if its method may be repeated
            (RFC 9110, section 9.2.2) and its body rewound.
        breaker: when requests to an origin that has failed too often are not sent; None is never.
        hooks: {"response": function or functions}, called with each response: see the attribute.
        events: an object, or a list of them, with any of the methods in `syncflow.watching.EVENTS`, which are told what
            happens to requests.
        max_buffered: bytes that may wait in the buffers of all connections together, at least 64 KiB; None is no limit
            but the watermarks of each. As it is used up, connections get lower watermarks; none is stopped. Whatever is
            left, a connection may hold 4 KiB in each direction, 4 KiB that wait for company (see `upload`), and a piece
            that `try_write` takes whole. Counts what `stats()` calls buffered: upgraded connections too, but not what
            is left of a complete answer, nor what the kernel holds; and not `streams.connect`, nor adapters that are
            mounted, which have their own.
        max_body: bytes that the body of a response may have, as it comes and decoded; None is no limit. What is larger
            raises `BodyTooLarge`: at once if its Content-Length says so, else behind as many bytes, however small it
            was compressed. It is not for `sse`, nor for adapters that are mounted, which have their own.
        base_url: what relative URLs are resolved against (RFC 3986, section 5).
        ssl_context: for TLS, in place of the one that `verify=True` makes.
        assert_fingerprint: SHA-256 that the server's certificate must have, in hexadecimal digits with or without
            colons; asked beside what `verify` asks.
        resolve: {"host:443": "10.0.0.7"} connects there; SNI, certificate check and Host stay with the name.
        address_filter: called with every address at the moment of connecting, a proxy's and a redirect's included; one
            for which it returns False is not connected to. On the calling thread. What a proxy connects to, only the
            proxy knows.
        resolver: called with host and port in place of the system's resolver; returns addresses. On another thread.
        source_address: (address, port) to connect from; port 0 is any.
        socket_options: (level, name, value), set on each socket before it connects.
        worker: the thread that watches the sockets; None is the one that all sessions of a process share.

    Raises:
        TypeError, ValueError: a value that makes no sense.

    Attributes:
        headers: sent with every request, unless the call says otherwise; None in a call leaves one out.
        params: added to the query of every URL.
        auth: (user, password), or an `AuthBase`, for requests that have none of their own.
        proxies: URLs of proxies by "http", "https", "all", or "scheme://host".
        hooks: called with each response.
        verify: True checks TLS certificates against the authorities that the environment names (REQUESTS_CA_BUNDLE,
            CURL_CA_BUNDLE, SSL_CERT_FILE) or certifi's, a path against those in a file or folder, False not at all; an
            `ssl.SSLContext` is used as it is.
        cert: the client's own certificate: a file that holds the key as well, or a pair of files.
        stream: whether responses are read only when they are asked for.
        max_redirects: after which a chain of redirects is given up.
        trust_env: whether proxies, authorities and netrc are taken from the environment.
        adapters: what requests are sent through, by the beginning of their URL; the longest one that fits is taken.
    """

    def __init__(
        self,
        *,
        timeout: TimeoutTypes = Timeouts(),  # noqa: B008  # frozen
        pool: PoolLimits = PoolLimits(),  # noqa: B008  # frozen
        watermarks: Watermarks = Watermarks(),  # noqa: B008  # frozen
        retries: Retry | int | None = None,
        breaker: CircuitBreaker | None = None,
        hooks: HookTypes | None = None,
        events: Any = None,
        max_buffered: int | None = None,
        max_body: int | None = None,
        base_url: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        assert_fingerprint: str | None = None,
        resolve: Mapping[str, str] | None = None,
        address_filter: Callable[[str], bool] | None = None,
        resolver: Callable[[str, int], Iterable[Any]] | None = None,
        source_address: tuple[str, int] | None = None,
        socket_options: Sequence[tuple[Any, ...]] = (),
        worker: Worker | None = None,
    ) -> None:
        self.timeout = Timeouts.of(timeout)
        self.base_url = base_url
        self.headers: CaseInsensitiveDict[str] = default_headers()
        self.params: ParamTypes = {}
        self.auth: Any = None
        self.proxies: dict[str, str | None] = {}
        if unknown := (hooks or {}).keys() - set(HOOKS):
            raise ValueError(f"there is no hook {', '.join(map(repr, sorted(unknown)))}, only {', '.join(HOOKS)}")
        self.hooks = hooks_of(hooks or {})
        self.verify: VerifyTypes = True
        self.cert: CertTypes = None
        self.stream = False
        self.max_redirects = DEFAULT_REDIRECT_LIMIT
        self.trust_env = True
        fingerprint = None if assert_fingerprint is None else sha256_fingerprint(assert_fingerprint)
        self._adapter = HTTPAdapter(
            max_retries=Retry.of(retries),
            limits=pool,
            watermarks=watermarks,
            max_buffered=max_buffered,
            max_body=max_body,
            network=Network(
                resolve=dict(resolve or {}),
                address_filter=address_filter,
                resolver=resolver,
                source_address=source_address,
                socket_options=tuple(socket_options),
            ),
            trust=Trust(ssl_context, fingerprint),
            breaker=breaker,
            events=events,
            worker=worker,
        )
        self._calls = Calls()
        self.adapters = {}
        for prefix in ("https://", "http://", "http+unix://"):
            self.mount(prefix, self._adapter)

    @property
    def cookies(self) -> RequestsCookieJar:
        """Sent to where they are for, and taken from responses."""
        jar: RequestsCookieJar | None = self.__dict__.get("_jar")
        if jar is None:
            from .cookies import RequestsCookieJar  # late: the standard library's takes 15 ms to import

            jar = self.__dict__.setdefault("_jar", RequestsCookieJar())  # of two threads the first one's
        return jar

    @cookies.setter
    def cookies(self, value: RequestsCookieJar) -> None:
        self._jar = value

    # ---------------------------------------------------------------- requests

    def request(
        self,
        method: str,
        url: Any,
        params: ParamTypes = None,
        data: Any = None,
        headers: HeaderTypes = None,
        cookies: Any = None,
        files: Any = None,
        auth: Any = None,
        timeout: TimeoutTypes = OWN_TIMEOUT,
        allow_redirects: bool = True,
        proxies: ProxyTypes = None,
        hooks: Any = None,
        stream: bool | None = None,
        verify: VerifyTypes = None,
        cert: CertTypes = None,
        json: Any = None,
    ) -> Response:
        """Send a request and return the response, whatever its status.

        A final answer that comes before the body has left stops the sending and is returned like any other;
        `Response.request_complete` is False then.

        Args:
            method: GET, POST …
            url: http://, https:// or http+unix://.
            params: for the query: a mapping, pairs, or text that is encoded already.
            data: the body: bytes, str (sent as UTF-8), a file object from its current position, an iterable of bytes
                (sent in chunks), or a mapping or pairs (sent as a form).
            headers: over those of the session; a value of None leaves one out.
            cookies: a mapping or a jar, for this request only.
            files: names and files of a multipart form, streamed, never read whole: see `syncflow.bodies.multipart_of`.
            auth: (user, password), or an `AuthBase`.
            timeout: as for `Session`.
            allow_redirects: whether redirects are followed.
            proxies: as for `Session.proxies`.
            hooks: {"response": function or functions}.
            stream: True returns as soon as the head has arrived.
            verify: as for `Session.verify`.
            cert: as for `Session.cert`.
            json: the body, as a value to be encoded.

        Raises:
            InvalidURL, MissingSchema, InvalidSchema, InvalidHeader, InvalidJSONError: before anything is sent.
            ConnectionError: no connection, or it was lost; its subclasses SSLError: no trust, ProxyError: the proxy.
            ProtocolError, ChunkedEncodingError: the answer is not HTTP (RFC 9112), or was cut off in its body.
            ConnectTimeout, ReadTimeout, WriteTimeout, PoolTimeout, TotalTimeout: see `Timeouts`.
            CircuitOpen: nothing was sent, because the origin has failed too often: see `CircuitBreaker`.
            RetryError: the answer is still one not to be content with: see `Retry`.
            SessionClosed: by `close` or `drain`, before the call or during it.
            TooManyRedirects, UnrewindableBodyError: a redirect that cannot be followed.
            BodyLengthError: the body is not as long as announced.
            DecompressionError: the answer does not decode as it says.
            BodyTooLarge: the answer is larger than `max_body`.
            Whatever a file or an iterable given as `data` raises, as it is.
        """
        request = Request(method, url, headers, files, data, params, auth, cookies, hooks, json)
        prepared = self.prepare_request(request)
        settings = self.merge_environment_settings(prepared.url, proxies, stream, verify, cert)
        return self.send(prepared, timeout=timeout, allow_redirects=allow_redirects, **settings)

    def get(self, url: Any, params: ParamTypes = None, **kwargs: Any) -> Response:
        """`request("GET", …)`."""
        return self.request("GET", url, params, **kwargs)

    def options(self, url: Any, **kwargs: Any) -> Response:
        """`request("OPTIONS", …)`."""
        return self.request("OPTIONS", url, **kwargs)

    def head(self, url: Any, **kwargs: Any) -> Response:
        """`request("HEAD", …)`; redirects are not followed unless `allow_redirects` says so."""
        kwargs.setdefault("allow_redirects", False)
        return self.request("HEAD", url, **kwargs)

    def post(self, url: Any, data: Any = None, json: Any = None, **kwargs: Any) -> Response:
        """`request("POST", …)`."""
        return self.request("POST", url, data=data, json=json, **kwargs)

    def put(self, url: Any, data: Any = None, **kwargs: Any) -> Response:
        """`request("PUT", …)`."""
        return self.request("PUT", url, data=data, **kwargs)

    def patch(self, url: Any, data: Any = None, **kwargs: Any) -> Response:
        """`request("PATCH", …)`."""
        return self.request("PATCH", url, data=data, **kwargs)

    def delete(self, url: Any, **kwargs: Any) -> Response:
        """`request("DELETE", …)`."""
        return self.request("DELETE", url, **kwargs)

    # ---------------------------------------------------------------- the steps of a request

    def prepare_request(self, request: Request) -> PreparedRequest:
        """`request`, ready to be sent, with the session's headers, cookies, parameters and authentication."""
        prepared = self._prepare_head(request)
        prepared.prepare_body(request.data, request.files, request.json)
        return self._prepare_rest(prepared, request)

    def _prepare_rest(self, prepared: PreparedRequest, request: Request) -> PreparedRequest:
        """What comes after the body: the authentication may need to know it."""
        self._authenticate(prepared, request)
        hooks = request.hooks if request.hooks.get("response") else self.hooks
        if hooks.get("response"):
            prepared.prepare_hooks(hooks)
        return prepared

    def _prepare_head(self, request: Request) -> PreparedRequest:
        """Method, URL, headers and cookies."""
        prepared = PreparedRequest()
        prepared.prepare_method(request.method)
        url = request.url
        if self.base_url is not None:
            url = absolute_url(self.base_url, url.decode() if isinstance(url, bytes) else str(url))
        prepared.prepare_url(url, merge_params(self.params, request.params))
        headers = self.headers
        # A program may have put a plain dictionary in its place.
        merged = headers.copy() if type(headers) is CaseInsensitiveDict else CaseInsensitiveDict(headers)
        if request.headers:
            merge_headers(merged, request.headers, prepared._where())
        prepared.headers = merged
        if request.cookies or self.__dict__.get("_jar"):
            from http.cookiejar import CookieJar

            from .cookies import RequestsCookieJar, cookiejar_from_dict, merge_cookies

            jar = merge_cookies(RequestsCookieJar(), self.cookies)
            given = request.cookies or {}
            # As a jar: names of a dictionary would give way to those of the session.
            merge_cookies(jar, given if isinstance(given, CookieJar) else cookiejar_from_dict(given))
            prepared.prepare_cookies(jar)
        return prepared

    def _authenticate(self, prepared: PreparedRequest, request: Request) -> None:
        """With the call's credentials, the session's, the URL's, or those of the user's netrc file. The last two give
        way to an Authorization header that the call names, the last one to the session's as well."""
        auth = request.auth or self.auth
        target = prepared.known_target
        if not auth and target is not None:
            is_named = "Authorization" in prepared.headers
            if target.userinfo is not None and not (is_named and names_authorization(request.headers)):
                auth = target.userinfo
            elif self.trust_env and not is_named:
                auth = netrc_auth(target.host)
        if auth:
            prepared.prepare_auth(auth)

    def merge_environment_settings(
        self, url: Any, proxies: ProxyTypes, stream: bool | None, verify: VerifyTypes, cert: CertTypes
    ) -> dict[str, Any]:
        """What `send` is to be called with: a call's settings over the session's, over the environment's."""
        given = {**self.proxies, **(proxies or {})} if self.proxies else proxies
        target = None if has_other_scheme(url) else parse_url(url)
        return {
            "proxies": merge_proxies(target, given, trust_env=self.trust_env),
            "stream": self.stream if stream is None else stream,
            "verify": merge_verify(verify, self.verify, trust_env=self.trust_env),
            "cert": self.cert if cert is None else cert,
        }

    def send(self, request: PreparedRequest, **kwargs: Any) -> Response:
        """Send a prepared request and return the response.

        Args:
            kwargs: `stream`, `timeout`, `verify`, `cert`, `proxies`, `allow_redirects` as for `request`; the session's
                where there are none. What else there is goes to the adapter.

        Raises:
            As `request`; ValueError: it is not a `PreparedRequest`.
        """
        if not isinstance(request, PreparedRequest):
            raise ValueError(f"send() takes a PreparedRequest, not {type(request).__name__}; see prepare_request()")
        allow_redirects = kwargs.pop("allow_redirects", True)
        timeout = kwargs.pop("timeout", OWN_TIMEOUT)
        kwargs.setdefault("stream", self.stream)
        kwargs.setdefault("verify", self.verify)
        kwargs.setdefault("cert", self.cert)
        if "proxies" not in kwargs:
            kwargs["proxies"] = merge_proxies(request.known_target, self.proxies, trust_env=self.trust_env)
        # One for all that the request leads to: redirects, and what hooks send.
        if not isinstance(timeout, Deadline):
            timeout = Deadline(self.timeout if timeout is OWN_TIMEOUT else Timeouts.of(timeout))
        kwargs["timeout"] = timeout
        calls = self._calls
        under_way = calls.under_way
        if timeout in under_way:  # it is part of a call
            return self._send_and_follow(request, kwargs, allow_redirects)
        try:
            under_way[timeout] = get_ident()
            if calls.is_draining:
                calls.check(timeout, request)
            return self._send_and_follow(request, kwargs, allow_redirects)
        finally:
            under_way.pop(timeout, None)
            if calls.is_draining:
                calls.tell()

    def _send_and_follow(self, request: PreparedRequest, kwargs: dict[str, Any], allow_redirects: bool) -> Response:
        try:
            response = self._send_to_adapter(request, kwargs)
        except HEAD_SUFFICES as error:
            # Of a redirect that is followed only the head matters.
            if not (allow_redirects and error.request is request and error.response and error.response.is_redirect):
                raise
            response = error.response
        if request.hooks.get("response"):
            response = dispatch_hook("response", request.hooks, response, **kwargs)
            for earlier in response.history:
                self._remember(earlier)
        self._remember(response)
        if response.status_code in REDIRECT_STATI and "location" in response.headers:
            if allow_redirects:
                return self._follow(response, request, kwargs)
            response._next = self._next_of(response, request, kwargs)
        return response

    def _send_to_adapter(self, request: PreparedRequest, kwargs: dict[str, Any]) -> Response:
        adapter = self._adapter_for(request)
        # The type first: asked of an abstract base class, isinstance() takes its time.
        if type(adapter) is HTTPAdapter or isinstance(adapter, HTTPAdapter):
            return adapter.send(request, **kwargs)
        return send_through(adapter, request, kwargs)

    def _remember(self, response: Response) -> None:
        """Keep the cookies that a response has set."""
        if response._sets_cookies and response.request is not None and response.request._keeps_cookies:
            from .cookies import extract_cookies_to_jar

            extract_cookies_to_jar(self.cookies, response.request, response._fields)

    def _follow(self, response: Response, request: PreparedRequest, kwargs: dict[str, Any]) -> Response:
        history = [response, *self.resolve_redirects(response, request, **kwargs)]
        last: Response = history.pop()
        last.history = history
        return last

    def _next_of(self, response: Response, request: PreparedRequest, kwargs: dict[str, Any]) -> PreparedRequest | None:
        """What would follow a redirect; None if that cannot be followed."""
        # Its body is the caller's to read: what its head says is enough here.
        head_only = Response.received(
            request, NO_SOURCE, response.status_code, response.reason, response._fields, response.connection
        )
        with suppress(StopIteration, RequestException):
            following: PreparedRequest = next(self.resolve_redirects(head_only, request, yield_requests=True, **kwargs))
            return following
        return None

    # ---------------------------------------------------------------- the end, copies

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Without connections, which stay here: for another process, or for a copy. What may change is copied."""
        state = self.__dict__.copy()
        state["headers"] = state["headers"].copy()
        if "_jar" in state:
            state["_jar"] = copy.copy(state["_jar"])
        for name in ("proxies", "adapters"):
            state[name] = dict(state[name])
        state["hooks"] = hooks_of(self.hooks)
        return state

    def __copy__(self) -> Session:
        other = self.__class__.__new__(self.__class__)
        other.__dict__.update(self.__getstate__())
        other._calls = Calls()
        # Connections are not shared: either session may be closed.
        fresh = {id(old): old for old in (self._adapter, *self.adapters.values()) if isinstance(old, HTTPAdapter)}
        made = {key: _renewed(old) for key, old in fresh.items()}
        other._adapter = made[id(self._adapter)]
        other.adapters = {prefix: made.get(id(old), old) for prefix, old in self.adapters.items()}
        return other


def _renewed(adapter: HTTPAdapter) -> HTTPAdapter:
    other = adapter.__class__.__new__(adapter.__class__)
    other.__setstate__(adapter.__getstate__())
    return other


def session() -> Session:
    """A new `Session`."""
    return Session()

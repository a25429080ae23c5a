"""Cookies: where they are kept, what is taken from a response and what a request sends.

Stands on `http.cookiejar`, whose `Cookie` and storage it uses, and has the interface of `requests.cookies`. Any number
of threads may use one jar. Which cookies are good, `cookie_rules` knows.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from http.cookiejar import Cookie, CookieJar, CookiePolicy
from http.cookies import Morsel
from threading import RLock
from typing import Any, TypeVar, overload

from .cookie_rules import (
    CONTROLS,
    SECURE_SCHEMES,
    UNSENDABLE,
    CookieRequest,
    CookieResponse,
    RequestLike,
    RFC6265Policy,
    cookie_pair,
    create_cookie,
    hides,
    morsel_to_cookie,
    received_cookie,
)
from .exceptions import InvalidHeader

__all__ = [
    "CookieConflictError",
    "RFC6265Policy",
    "RequestsCookieJar",
    "cookiejar_from_dict",
    "create_cookie",
    "extract_cookies_to_jar",
    "get_cookie_header",
    "merge_cookies",
    "morsel_to_cookie",
    "remove_cookie_by_name",
]

Jar = TypeVar("Jar", bound=CookieJar)


class CookieConflictError(RuntimeError):
    """More than one cookie has this name: give `get` a domain or a path as well."""


class RequestsCookieJar(CookieJar, MutableMapping[str, str | None]):
    """A jar that is a dictionary of names and values as well. Any thread may call any of its methods: each sees the
    jar as it was at one moment, and each change is seen whole or not at all.

    Whatever the policy, what came over http neither replaces nor hides a Secure cookie (6265bis, section 5.7).

    >>> jar = RequestsCookieJar()
    >>> jar["language"] = "en"
    >>> _ = jar.set("session", "31d4d96e", domain="example.org", path="/account")
    >>> jar.get("session", domain="example.org"), jar.get_dict(path="/")
    ('31d4d96e', {'language': 'en'})
    """

    # The superclass', which its stubs do not name; the last two are guarded by the lock.
    _cookies_lock: AbstractContextManager[Any]
    _policy: CookiePolicy
    _cookies: dict[str, dict[str, dict[str, Cookie]]]
    _latest: int

    def __init__(self, policy: CookiePolicy | None = None) -> None:
        policy = RFC6265Policy() if policy is None else policy
        super().__init__(policy)
        self.set_policy(policy)
        self._latest = 0

    # ---------------------------------------------------------------- a dictionary

    def get(  # type: ignore[override]  # more may be asked for
        self, name: str, default: str | None = None, domain: str | None = None, path: str | None = None
    ) -> str | None:
        """The value of the cookie called `name`, of this domain and path if they are given; `default` if there is none.

        Raises:
            CookieConflictError: there are several.
        """
        try:
            return self._only(name, domain, path)
        except KeyError:
            return default

    def set(self, name: str, value: str | Morsel[Any] | None, **kwargs: Any) -> Cookie | None:
        """Set a cookie; `kwargs` as for `create_cookie`. None as the value removes those of the name, and of the domain
        and path if they are given."""
        if value is None:
            remove_cookie_by_name(self, name, kwargs.get("domain"), kwargs.get("path"))
            return None
        cookie = _made(name, value, **kwargs)
        self.set_cookie(cookie)
        return cookie

    def __getitem__(self, name: str) -> str:
        return self._only(name)

    def __setitem__(self, name: str, value: str | Morsel[Any] | None) -> None:
        self.set(name, value)

    def __delitem__(self, name: str) -> None:
        remove_cookie_by_name(self, name)

    def __contains__(self, name: object) -> bool:
        return any(cookie.name == name and cookie.value is not None for cookie in self)

    def __iter__(self) -> Iterator[Cookie]:  # type: ignore[override]  # as in requests
        """The cookies; others may change the jar meanwhile."""
        with self._cookies_lock:
            return iter([c for paths in self._cookies.values() for names in paths.values() for c in names.values()])

    def keys(self) -> list[str]:  # type: ignore[override]  # a list, as in requests
        return [cookie.name for cookie in self]

    def values(self) -> list[str | None]:  # type: ignore[override]  # a list, as in requests
        return [cookie.value for cookie in self]

    def items(self) -> list[tuple[str, str | None]]:  # type: ignore[override]  # a list, as in requests
        return [(cookie.name, cookie.value) for cookie in self]

    def iterkeys(self) -> Iterator[str]:
        return iter(self.keys())

    def itervalues(self) -> Iterator[str | None]:
        return iter(self.values())

    def iteritems(self) -> Iterator[tuple[str, str | None]]:
        return iter(self.items())

    def pop(self, *args: Any, **kwargs: Any) -> Any:
        with self._cookies_lock:  # of two threads only one gets it
            return super().pop(*args, **kwargs)

    def setdefault(self, name: str, default: Any = None) -> Any:
        with self._cookies_lock:
            return super().setdefault(name, default)

    def update(  # type: ignore[override]  # a jar as well, and no keywords, as in requests
        self, other: CookieJar | Mapping[str, Any] | Iterable[tuple[str, Any]] = ()
    ) -> None:
        """Set all cookies of another jar, which are copied, or those of a dictionary."""
        if isinstance(other, CookieJar):
            merge_cookies(self, other)
            return
        made = [(name, None if value is None else _made(name, value)) for name, value in dict(other).items()]
        with self._cookies_lock:
            for name, cookie in made:
                if cookie is None:
                    del self[name]
                else:
                    self.set_cookie(cookie)

    def list_domains(self) -> list[str]:
        """All domains, each once."""
        return list(dict.fromkeys(cookie.domain for cookie in self))

    def list_paths(self) -> list[str]:
        """All paths, each once."""
        return list(dict.fromkeys(cookie.path for cookie in self))

    def multiple_domains(self) -> bool:
        """Whether two cookies have the same domain: the name says otherwise, and `requests` does this."""
        domains = [cookie.domain for cookie in self]
        return len(set(domains)) < len(domains)

    def get_dict(self, domain: str | None = None, path: str | None = None) -> dict[str, str | None]:
        """Names and values, of this domain and path if they are given."""
        return {cookie.name: cookie.value for cookie in _chosen(self, domain, path)}

    def _only(self, name: str, domain: str | None = None, path: str | None = None) -> str:
        values = [c.value for c in _chosen(self, domain, path) if c.name == name and c.value is not None]
        if not values:
            raise KeyError(f"name={name!r}, domain={domain!r}, path={path!r}")
        if len(values) > 1:
            raise CookieConflictError(f"there are {len(values)} cookies called {name!r}; give get() a domain= or path=")
        return values[0]

    # ---------------------------------------------------------------- a jar

    def set_cookie(self, cookie: Cookie) -> None:
        """Set it, whatever the policy says."""
        if isinstance(cookie.value, str) and cookie.value.startswith('"') and cookie.value.endswith('"'):
            cookie.value = cookie.value.replace('\\"', "")  # as requests does
        with self._cookies_lock:
            replaced = self._cookies.get(cookie.domain, {}).get(cookie.path, {}).get(cookie.name, cookie)
            # When it was created, for the order of sending: a new value keeps the old one's place (RFC 6265, section
            # 5.3, step 11). The clock may stand still or be set back.
            created = vars(replaced).get("created") or max(time.time_ns(), self._latest + 1)
            self._latest = max(self._latest, created)
            vars(cookie)["created"] = created
            super().set_cookie(cookie)

    def set_cookie_if_ok(self, cookie: Cookie, request: Any) -> None:
        """Set a cookie that came in answer to `request`, if the policy lets it. One that has expired takes away the one
        it would have replaced (RFC 6265, section 5.3)."""
        # From a connection that anybody can write to: it must not pass for one that came from no such connection.
        doubtful = not cookie.secure and request.type not in SECURE_SCHEMES
        with self._cookies_lock:
            if not self._policy.set_ok(cookie, request):
                return
            if doubtful and any(other.secure and hides(cookie, other) for other in self):
                return
            if not cookie.is_expired():
                self.set_cookie(cookie)
            elif cookie.name in self._cookies.get(cookie.domain, {}).get(cookie.path, {}):
                self.clear(cookie.domain, cookie.path, cookie.name)

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Take the cookies of a response's Set-Cookie fields; all of them at once, as other threads see it."""
        made = self.make_cookies(response, request)
        with self._cookies_lock:
            for cookie in made:
                self.set_cookie_if_ok(cookie, request)

    def make_cookies(self, response: Any, request: Any) -> list[Cookie]:
        """The cookies that a response's Set-Cookie fields set, those that have expired included."""
        cookies = (received_cookie(field, request) for field in response.info().get_all("Set-Cookie", []))
        return [cookie for cookie in cookies if cookie is not None]

    def add_cookie_header(self, request: Any) -> None:
        """Add a Cookie field to `request`, unless it has one; see `get_cookie_header`."""
        with self._cookies_lock:
            self.clear_expired_cookies()
            cookies = [] if request.has_header("Cookie") else self._for(request)
        # Longer paths first, then what was there earlier (RFC 6265, section 5.4).
        cookies.sort(key=lambda cookie: (-len(cookie.path), vars(cookie).get("created", 0)))
        if cookies:
            request.add_unredirected_header(
                "Cookie", "; ".join(cookie_pair(cookie, request.host) for cookie in cookies)
            )

    def clear(self, domain: str | None = None, path: str | None = None, name: str | None = None) -> None:
        """Remove all cookies; or those of a domain, of a path in it, of a name in that. Raises KeyError if there is no
        such domain, path or name."""
        with self._cookies_lock:
            super().clear(domain, path, name)
            # What is empty goes as well: a server may think of new paths for ever.
            if domain is not None and path is not None:
                if name is not None and not self._cookies[domain][path]:
                    del self._cookies[domain][path]
                if not self._cookies[domain]:
                    del self._cookies[domain]

    def copy(self) -> RequestsCookieJar:
        """Another jar with copies of the cookies, and the same policy."""
        other = RequestsCookieJar(self._policy)
        other.update(self)
        return other

    def set_policy(self, policy: CookiePolicy) -> None:
        """Let `policy` decide from now on; what is in the jar stays there."""
        # There from the start, as nothing may be added to what another thread may be copying: see `_for`.
        timed: Any = policy
        timed._now = int(time.time())
        super().set_policy(policy)

    def get_policy(self) -> CookiePolicy:
        """What decides which cookies are taken and sent."""
        return self._policy

    def __getstate__(self) -> dict[str, Any]:
        with self._cookies_lock:
            state = vars(self).copy()
            state["_cookies"] = {
                domain: {path: names.copy() for path, names in paths.items()} for domain, paths in self._cookies.items()
            }
        del state["_cookies_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._cookies_lock = RLock()

    def _for(self, request: Any) -> list[Cookie]:
        """What the policy lets `request` send. Under the lock. Where a redirect has led it to another origin, not those
        without a domain, which the program has set and which would go anywhere."""
        policy: Any = self._policy
        policy._now = int(time.time())  # which DefaultCookiePolicy reads to see what has expired
        return [
            cookie
            for domain, paths in self._cookies.items()
            if (domain or not request.has_strayed) and policy.domain_return_ok(domain, request)
            for path, names in paths.items()
            if policy.path_return_ok(path, request)
            for cookie in names.values()
            if policy.return_ok(cookie, request)
        ]


def extract_cookies_to_jar(jar: CookieJar, request: RequestLike, fields: Iterable[tuple[str, str]]) -> None:
    """Put the cookies of a response to `request` into `jar`, as far as its policy lets them in.

    Args:
        fields: names and values of the response's header fields, as they came. A Set-Cookie field with a control
            character in it is ignored (6265bis, section 5.6).
    """
    received = [value for name, value in fields if len(name) == 10 and name.lower() == "set-cookie"]
    if received:
        received = [value for value in received if not CONTROLS.search(value)]
        response: Any = CookieResponse(received)
        asked: Any = CookieRequest(request)
        jar.extract_cookies(response, asked)


def get_cookie_header(jar: CookieJar, request: RequestLike) -> str | None:
    """The value of the Cookie field for `request`; None if there is nothing to send, or the request has one.

    Raises:
        InvalidHeader: a cookie that the program has set may not be sent.
    """
    if isinstance(jar, RequestsCookieJar) and not jar._cookies:
        return None
    asked: Any = CookieRequest(request)
    jar.add_cookie_header(asked)
    header: str | None = asked.cookie
    # A jar of another kind does not look.
    if header is not None and (fault := UNSENDABLE.search(header)):
        raise InvalidHeader(f"{asked.host}: a cookie has {fault[0]!r} in it, which may not be sent; nothing was sent")
    return header


@overload
def cookiejar_from_dict(
    cookie_dict: Mapping[str, Any] | None, cookiejar: None = None, overwrite: bool = True
) -> RequestsCookieJar: ...


@overload
def cookiejar_from_dict(cookie_dict: Mapping[str, Any] | None, cookiejar: Jar, overwrite: bool = True) -> Jar: ...


def cookiejar_from_dict(
    cookie_dict: Mapping[str, Any] | None, cookiejar: CookieJar | None = None, overwrite: bool = True
) -> CookieJar:
    """`cookiejar`, or a new RequestsCookieJar, with a cookie for each name; False as `overwrite` leaves those names out
    that it has."""
    jar = RequestsCookieJar() if cookiejar is None else cookiejar
    made = [create_cookie(name, value) for name, value in (cookie_dict or {}).items()]
    with _lock_of(jar):
        kept = set() if overwrite else {cookie.name for cookie in jar}
        for cookie in made:
            if cookie.name not in kept:
                jar.set_cookie(cookie)
    return jar


def merge_cookies(cookiejar: Jar, cookies: Mapping[str, Any] | CookieJar | None) -> Jar:
    """`cookiejar`, with all cookies of another jar, which are copied, or those of a dictionary that it does not have.

    Raises:
        ValueError: `cookiejar` is none.
    """
    if not isinstance(cookiejar, CookieJar):
        raise ValueError(f"You can only merge into CookieJar, not {type(cookiejar).__name__}")
    if isinstance(cookies, CookieJar):
        # One lock after the other: two jars may be merged into each other at the same moment.
        with _lock_of(cookies):
            copies = [copy.copy(cookie) for cookie in cookies]
        with _lock_of(cookiejar):
            for cookie in copies:
                cookiejar.set_cookie(cookie)
    elif cookies:
        cookiejar_from_dict(cookies, cookiejar, overwrite=False)
    return cookiejar


def remove_cookie_by_name(cookiejar: CookieJar, name: str, domain: str | None = None, path: str | None = None) -> None:
    """Remove the cookies of that name, and of this domain and path if they are given."""
    with _lock_of(cookiejar):
        for cookie in _chosen(cookiejar, domain, path):
            if cookie.name == name:
                cookiejar.clear(cookie.domain, cookie.path, cookie.name)


def _lock_of(jar: CookieJar) -> AbstractContextManager[Any]:
    lock: AbstractContextManager[Any] = vars(jar)["_cookies_lock"]
    return lock


def _chosen(jar: CookieJar, domain: str | None, path: str | None) -> list[Cookie]:
    return [
        cookie
        for cookie in jar
        if (domain is None or cookie.domain == domain) and (path is None or cookie.path == path)
    ]


def _made(name: str, value: str | Morsel[Any], **kwargs: Any) -> Cookie:
    return morsel_to_cookie(value) if isinstance(value, Morsel) else create_cookie(name, value, **kwargs)

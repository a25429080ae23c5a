"""The user's name and password, as a server wants to be told of them: Basic (RFC 7617) and Digest (RFC 7616).

Knows challenges and the answers to them. Knows no session and no connection: an auth changes a request that is ready to
be sent, and sees the response through a hook of the request.
"""

from __future__ import annotations

import base64
import functools
import os
import re
import threading
import unicodedata
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from .exceptions import UnrewindableBodyError
from .urls import DEFAULT_PORTS

if TYPE_CHECKING:
    from .models import PreparedRequest

__all__ = ["AuthBase", "HTTPBasicAuth", "HTTPDigestAuth", "HTTPProxyAuth"]

# Scheme, host and port: to whom the credentials may go.
Origin = tuple[str, str | None, int | None]

# The first answer is a login. One more follows each time that only the nonce was too old; a server whose nonces never
# live as long as a round trip will not let anybody in.
MOST_ANSWERS = 3
# A server has a few nonces at a time. Of one that is forgotten, the count begins anew, and the server calls it stale.
NONCES_KEPT = 64
# A block of a body that is hashed.
BLOCK = 65536


class AuthBase:
    """Whoever changes a request so that the server knows who the user is. To write another, override `__call__`."""

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Change the request, which is ready to be sent, and return it."""
        raise NotImplementedError("Auth hooks must be callable.")


class _Credentials(AuthBase):
    """A name and a password, equal to whatever has the same ones, as in `requests`."""

    def __init__(self, username: str | bytes, password: str | bytes) -> None:
        self.username = username
        self.password = password

    def __eq__(self, other: object) -> bool:
        theirs = getattr(other, "username", None), getattr(other, "password", None)
        return (self.username, self.password) == theirs

    __hash__ = None  # type: ignore[assignment]  # they may be changed


class HTTPBasicAuth(_Credentials):
    """User name and password in every request, readable to whoever sees it (RFC 7617): use it over https.

    Both are sent in latin-1, or both in UTF-8 if one of them has a character that latin-1 lacks; bytes as they are.
    """

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        r.headers["Authorization"] = _basic_auth_str(self.username, self.password)
        return r


class HTTPProxyAuth(HTTPBasicAuth):
    """The same for a proxy that a plain http request goes through."""

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        r.headers["Proxy-Authorization"] = _basic_auth_str(self.username, self.password)
        return r


def _basic_auth_str(username: object, password: object) -> str:
    """The value of Authorization. What is neither str nor bytes is converted, with a DeprecationWarning."""
    pair = [_str_or_bytes("usernames", username), _str_or_bytes("passwords", password)]
    try:
        encoded = [part if isinstance(part, bytes) else part.encode("latin-1") for part in pair]
    except UnicodeEncodeError:
        # RFC 7617, section 2.1, knows UTF-8 only as what a server asks for; but there is no other that has them all.
        encoded = [part if isinstance(part, bytes) else part.encode() for part in pair]
    return "Basic " + base64.b64encode(b":".join(encoded)).decode()


def _str_or_bytes(what: str, value: object) -> str | bytes:
    if isinstance(value, str | bytes):
        return value
    # Only its type is shown: a number may be somebody's password.
    fault = f"Non-string {what} are deprecated; convert the {type(value).__name__} to str or bytes"
    warnings.warn(fault, DeprecationWarning, stacklevel=4)
    return str(value)


# ------------------------------------------------------------------------------------------------- challenges

# RFC 9110, section 11.6.1, and what servers send in spite of it, such as values that should be quoted and are not: a
# parameter; or a scheme, alone, with a word of its own (token68), or with spaces before its first parameter.
_PART = re.compile(
    r"""[ \t,]*+
    (?: (?P<name>[^\s,="]++) [ \t]*+ = [ \t]*+ (?: "(?P<quoted>(?:[^"\\]|\\.)*+)" | (?P<plain>[^\s,"\\]*+) ) (?=[\s,]|$)
      | (?P<scheme>[^\s,="]++) (?=[\s,]|$)
        (?: [ \t]++ [\w.~+/-]++ =*+ (?=[ \t]*+(?:,|$)) | (?P<opens>[ \t]++) (?=[^\s,="]++[ \t]*+=) )? )""",
    re.VERBOSE,
)
# Read in a challenge (RFC 9110, section 5.5, leaves that open), but not to be sent back in an answer.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_unescaped = functools.partial(re.compile(r'\\(["\\])').sub, r"\1")

# What OpenSSL calls the algorithms, if it has them, from the weakest up. SHA and SHA-512 are those of `requests`.
_NAMES = {"MD5": "md5", "SHA": "sha1", "SHA-256": "sha256", "SHA-512-256": "sha512_256", "SHA-512": "sha512"}


@functools.cache
def _hashes() -> dict[str, str]:
    """Those that this Python has. Imported late, because few programs need any."""
    import hashlib

    return {algorithm: name for algorithm, name in _NAMES.items() if name in hashlib.algorithms_available}


def _client_nonce() -> str:
    return os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class _Challenge:
    """What a server wants to see answered (RFC 7616, section 3.3). Texts from it stand here as they came, with their
    backslashes: so they are sent back, and a server that compares them finds what it had sent."""

    origin: Origin
    space: tuple[str, ...]  # how a path begins for which the same answer is good
    realm: str
    nonce: str
    opaque: str | None
    algorithm: str | None  # as the server wrote it
    hash_name: str
    qop: str | None  # "auth", "auth-int", or None as before RFC 2617
    stale: bool
    utf8: bool
    hashes_username: bool
    session: tuple[str, str] | None  # for "-sess": the nonces of server and client with which it began

    def digest(self, *parts: str | bytes) -> str:
        """H of the parts, with colons between them."""
        joined = b":".join(part if isinstance(part, bytes) else part.encode("latin-1") for part in parts)
        import hashlib

        return hashlib.new(self.hash_name, joined, usedforsecurity=False).hexdigest()

    def covers(self, url: str, path: str) -> bool:
        """Whether a request may carry an answer without being asked again."""
        return _origin(url) == self.origin and path.startswith(self.space)


def _challenges(field: str) -> list[tuple[str, dict[str, str]]]:
    """The schemes in WWW-Authenticate, in lower case, and the parameters of each; up to what cannot be understood."""
    found: list[tuple[str, dict[str, str]]] = []
    parameters: dict[str, str] = {}
    at = 0
    while match := _PART.match(field, at):
        at = match.end()
        if match["scheme"] is None:
            parameters.setdefault(match["name"].lower(), match["plain"] if match["quoted"] is None else match["quoted"])
            continue
        found.append((match["scheme"].lower(), {}))
        # A word alone takes nothing: it may be the rest of an unquoted `qop=auth,auth-int`.
        if match["opens"] or len(found) == 1:
            parameters = found[-1][1]
    return found


def _strongest(r: Any, origin: Origin | None) -> _Challenge | None:
    """The challenge to answer, if it may be: of two that are as strong the server's first (RFC 7616, section 3.7)."""
    field = r.headers.get("www-authenticate") if r.status_code == 401 else None
    url = r.request.url
    if not field or _CONTROL.search(field) or (origin is not None and _origin(url) != origin):
        return None
    offered = [parameters for scheme, parameters in _challenges(field) if scheme == "digest"]
    known = filter(None, (_challenge(parameters, url, r.request.path_url) for parameters in offered))
    return max(known, key=lambda challenge: [*_hashes().values()].index(challenge.hash_name), default=None)


def _challenge(parameters: dict[str, str], url: str, path: str) -> _Challenge | None:
    """None if there is no answer to it."""
    algorithm = parameters.get("algorithm")
    upper = (algorithm or "MD5").upper()
    hash_name = _hashes().get(upper.removesuffix("-SESS"))
    nonce = parameters.get("nonce")
    qops = [qop.strip(" \t").lower() for qop in parameters.get("qop", "").split(",")]
    # A hash of the body costs a whole reading of it, so only where nothing else will do.
    qop = next((known for known in ("auth", "auth-int") if known in qops), None)
    if "realm" not in parameters or not nonce or hash_name is None or (qop is None and any(qops)):
        return None
    return _Challenge(
        origin=_origin(url),
        space=_space(parameters.get("domain", ""), url, path),
        realm=parameters["realm"],
        nonce=nonce,
        opaque=parameters.get("opaque"),
        algorithm=algorithm,
        hash_name=hash_name,
        qop=qop,
        stale=parameters.get("stale", "").lower() == "true",
        utf8=parameters.get("charset", "").upper() == "UTF-8",
        hashes_username=parameters.get("userhash", "").lower() == "true",
        session=(nonce, _client_nonce()) if upper.endswith("-SESS") else None,
    )


def _origin(url: str) -> Origin:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)


def _space(domain: str, url: str, path: str) -> tuple[str, ...]:
    """The beginnings of paths that `domain` names on this server; all paths, if not the one that was asked for."""
    found = []
    for entry in domain.split():
        try:
            absolute = urljoin(url, entry)
            if _origin(absolute) == _origin(url):
                found.append(urlsplit(absolute).path)
        except ValueError:
            continue  # no URL
    return tuple(found) if path.startswith(tuple(found)) else ("",)


# ----------------------------------------------------------------------------------------------------- answers

# Guards the challenge and the counts of every HTTPDigestAuth. One for all of them, because it is held for a moment
# only: so an auth can be copied and pickled, and a forked child finds it free.
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]  # as `threading` does it


class HTTPDigestAuth(_Credentials):
    """User name and password are proved and not shown (RFC 7616; RFC 2069 for a server that offers no `qop`).

    The first request is sent without, and again when the server has asked; the next ones to that server carry the
    answer at once. A body is sent again as well, so it must be one that can be rewound. Any number of threads may use
    one such object. Credentials are hashed, and a user name outside ASCII is sent, in UTF-8; bytes as they are.
    """

    def __init__(self, username: str | bytes, password: str | bytes) -> None:
        super().__init__(username, password)
        # Guarded by `_lock`, but read without: the challenge that was last answered to the server's content.
        self._challenge: _Challenge | None = None
        # Guarded by `_lock`: how many requests have been made with a nonce; the one used last is the last.
        self._counts: dict[str, int] = {}

    def __call__(self, r: Any) -> Any:
        """Answer at once if the server's challenge is known, and see to the response.

        Raises:
            UnrewindableBodyError: the server wants a hash of the body first, and it can be read only once.
        """
        challenge = self._challenge
        if challenge is not None and challenge.covers(r.url, r.path_url):
            r.headers["Authorization"] = self._answer(challenge, r.method, _asked(r), _body_hash(r, challenge))
        # The origin belongs to this request, as everything does that is known of it: copies of it, which follow
        # redirects, have this hook too, and other threads have other requests.
        r.register_hook("response", functools.partial(self.handle_401, origin=_origin(r.url)))
        return r

    def build_digest_header(self, method: str, url: str) -> str | None:
        """The value of Authorization for a request without a body; None if no challenge is known for that URL."""
        challenge = self._challenge
        parts = urlsplit(url)
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        if challenge is None or not challenge.covers(url, path):
            return None
        return self._answer(challenge, method, path, challenge.digest(b""))

    def handle_401(self, r: Any, *, origin: Origin | None = None, **kwargs: Any) -> Any:
        """The response hook: answer a challenge by sending the request again, and return what comes of it.

        Args:
            r: the response.
            origin: for whom the credentials are. Another's, to which a redirect has led, gets none (CVE-2018-18074).
            kwargs: what the request was sent with.

        Raises:
            UnrewindableBodyError: the body cannot be sent again; its `response` is this one. And what sending raises.
        """
        answered = None
        for _ in range(MOST_ANSWERS):
            challenge = _strongest(r, origin)
            # An answer that was refused is wrong, unless only its nonce was old (RFC 7616, section 3.3).
            if challenge is None or (answered is not None and not challenge.stale):
                break
            r, answered = self._send_again(r, challenge, kwargs), challenge
        if answered is not None:
            # What was refused is not tried again unasked: servers count failed logins.
            with _lock:
                self._challenge = None if r.status_code == 401 else answered
        self._follow(r)
        return r

    def _send_again(self, r: Any, challenge: _Challenge, kwargs: dict[str, Any]) -> Any:
        r.drain()  # read to its end, its connection can carry the next one
        r.close()
        prep = r.request.copy()
        if r.cookies:  # those that came with the challenge; a Cookie field that is there stays, as in `requests`
            for cookie in r.cookies:
                prep._cookies.set_cookie(cookie)
            prep.prepare_cookies(prep._cookies)
        if prep.body is not None:
            why = "the body has to be sent again, with an answer to the server's Digest challenge"
            _rewind(prep, f"{why}; give bytes or a file, or make a request without a body first", response=r)
        prep.headers["Authorization"] = self._answer(challenge, prep.method, _asked(prep), _body_hash(prep, challenge))
        again = r.connection.send(prep, **kwargs)
        again.history.extend([*r.history, r])
        again.request = prep
        return again

    def _follow(self, r: Any) -> None:
        """The next request is to use another nonce if the server says so (RFC 7616, section 3.5)."""
        field = r.headers.get("authentication-info")
        if not field or _CONTROL.search(field):
            return
        infos = _challenges(f"Info {field}")  # a list of parameters, as behind a scheme, if it is one
        nonce = infos[0][1].get("nextnonce") if infos else None
        with _lock:
            if nonce and self._challenge is not None and self._challenge.origin == _origin(r.request.url):
                self._challenge = replace(self._challenge, nonce=nonce)

    def _answer(self, challenge: _Challenge, method: str, uri: str, body: str) -> str:
        """RFC 7616, section 3.4. Takes the next count of the nonce; `body` is the hash of it, for "auth-int"."""
        username, password = (_credential(part, challenge.utf8) for part in (self.username, self.password))
        realm, nonce = _unescaped(challenge.realm), _unescaped(challenge.nonce)
        client_nonce = _client_nonce()
        secret = challenge.digest(username, realm, password)
        if challenge.session is not None:
            first_nonce, client_nonce = challenge.session
            secret = challenge.digest(secret, _unescaped(first_nonce), client_nonce)
        what = challenge.digest(method, uri, body) if challenge.qop == "auth-int" else challenge.digest(method, uri)
        count = f"{self._next_count(challenge.nonce):08x}"
        if challenge.qop is None:
            response = challenge.digest(secret, nonce, what)
        else:
            response = challenge.digest(secret, nonce, count, client_nonce, challenge.qop, what)
        fields = [
            _username_field(challenge, username, realm),
            f'realm="{challenge.realm}", nonce="{challenge.nonce}", uri="{uri}", response="{response}"',
            "" if challenge.opaque is None else f'opaque="{challenge.opaque}"',
            "" if challenge.algorithm is None else f"algorithm={challenge.algorithm}",
            "" if challenge.qop is None else f"qop={challenge.qop}, nc={count}",
            "" if challenge.qop is None and challenge.session is None else f'cnonce="{client_nonce}"',
            "userhash=true" if challenge.hashes_username else "",
        ]
        return "Digest " + ", ".join(filter(None, fields))

    def _next_count(self, nonce: str) -> int:
        with _lock:
            count = self._counts.pop(nonce, 0) + 1
            self._counts[nonce] = count
            if len(self._counts) > NONCES_KEPT:
                del self._counts[next(iter(self._counts))]
        return count


def _credential(value: str | bytes, utf8: bool) -> bytes:
    if isinstance(value, bytes):
        return value
    # RFC 7616, section 4: in Normalization Form C, where the server says that it goes by that RFC.
    return (unicodedata.normalize("NFC", str(value)) if utf8 else str(value)).encode()


def _username_field(challenge: _Challenge, username: bytes, realm: str) -> str:
    """RFC 7616, section 3.4.4, and section 3.4 for a name that is not in ASCII."""
    if challenge.hashes_username:
        return f'username="{challenge.digest(username, realm)}"'
    if challenge.utf8 and not username.isascii():
        return f"username*=UTF-8''{quote(username, safe='!#$&+^`|')}"
    escaped = username.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    # Heads are written in latin-1, which gives these bytes again.
    return f'username="{escaped.decode("latin-1")}"'


def _asked(request: Any) -> str:
    """What stands in the request line (RFC 7616, section 3.4): to CONNECT it is a name and a port, no path."""
    if request.method != "CONNECT":
        return str(request.path_url)
    _, host, port = _origin(request.url)
    name = (host or "").partition("%")[0]
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _body_hash(request: Any, challenge: _Challenge) -> str:
    """RFC 7616, section 3.4.3: of the body without its transfer coding; "" where it is not asked for."""
    if challenge.qop != "auth-int":
        return ""
    body = b"" if request.body is None else request.body
    import hashlib

    digest = hashlib.new(challenge.hash_name, usedforsecurity=False)
    if isinstance(body, str | bytes | bytearray | memoryview):
        digest.update(body.encode() if isinstance(body, str) else body)
        return digest.hexdigest()
    why = "the server wants a hash of the body before the body (Digest, qop=auth-int); give bytes or a file"
    _rewind(request, f"{why}; nothing was sent")  # before it is read: one that cannot be rewound stays whole
    for block in iter(lambda: body.read(BLOCK) or None, None) if hasattr(body, "read") else body:
        digest.update(block.encode() if isinstance(block, str) else block)
    request.rewind_body()
    return digest.hexdigest()


def _rewind(request: Any, why: str, response: Any = None) -> None:
    try:
        request.rewind_body()
    except UnrewindableBodyError as error:
        where = urlsplit(request.url).netloc.rpartition("@")[2]
        raise UnrewindableBodyError(f"{where}: {error}: {why}", request=request, response=response) from error

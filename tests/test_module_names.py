"""The names, bases and parameters of `requests`, module by module; and its quickstart with another import line."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import syncflow
from syncflow.testing import AppServer, json_response
from syncflow.testing import Request as Seen
from syncflow.testing import Response as Answer

requests = pytest.importorskip("requests")

MODULES = [
    *("adapters", "api", "auth", "cookies", "exceptions", "hooks", "models", "sessions", "status_codes", "structures")
]

INSIDE = "of its inside: not documented"
URLLIB3 = "speaks of urllib3, which is not here"
DEFAULTS = "a default: read the signature, or `Session.max_redirects`"
# By "module.name"; top-level names by name alone.
MISSING = {
    "packages": "what `requests` had vendored once",
    "utils": "undocumented, but for what is a method here",
    "adapters.DEFAULT_CA_BUNDLE_PATH": INSIDE,
    "adapters.DEFAULT_POOLBLOCK": DEFAULTS,
    "adapters.DEFAULT_POOLSIZE": DEFAULTS,
    "adapters.DEFAULT_POOL_TIMEOUT": DEFAULTS,
    "adapters.DEFAULT_RETRIES": DEFAULTS,
    "auth.CONTENT_TYPE_FORM_URLENCODED": INSIDE,
    "auth.CONTENT_TYPE_MULTI_PART": INSIDE,
    "cookies.MockRequest": INSIDE,
    "cookies.MockResponse": INSIDE,
    "models.CONTENT_CHUNK_SIZE": INSIDE,
    "models.DEFAULT_REDIRECT_LIMIT": DEFAULTS,
    "models.ITER_CHUNK_SIZE": INSIDE,
    "models.RequestEncodingMixin": INSIDE,
    "models.RequestHooksMixin": INSIDE,
    "sessions.DEFAULT_PORTS": INSIDE,
    "sessions.merge_hooks": INSIDE,
    "sessions.merge_setting": INSIDE,
    "adapters.HTTPAdapter.add_headers": URLLIB3,
    "adapters.HTTPAdapter.build_connection_pool_key_attributes": URLLIB3,
    "adapters.HTTPAdapter.build_response": URLLIB3,
    "adapters.HTTPAdapter.cert_verify": URLLIB3,
    "adapters.HTTPAdapter.config": INSIDE,
    "adapters.HTTPAdapter.get_connection": URLLIB3,
    "adapters.HTTPAdapter.get_connection_with_tls_context": URLLIB3,
    "adapters.HTTPAdapter.init_poolmanager": URLLIB3,
    "adapters.HTTPAdapter.poolmanager": URLLIB3,
    "adapters.HTTPAdapter.proxy_headers": URLLIB3,
    "adapters.HTTPAdapter.proxy_manager": URLLIB3,
    "adapters.HTTPAdapter.proxy_manager_for": URLLIB3,
    "adapters.HTTPAdapter.request_url": URLLIB3,
    "auth.HTTPDigestAuth.handle_redirect": "one that follows redirects answers by itself: there is nothing to undo",
    "auth.HTTPDigestAuth.init_per_thread_state": "its state is shared by threads",
}
# Imported there for themselves, in place of what is not installed, or aliases of Python 2.
NOT_THEIRS = {"TYPE_CHECKING", "SOCKSProxyManager", "basestring"}

# Whose parameters are others, or have other names.
OTHER_PARAMETERS = {
    "cookies.extract_cookies_to_jar": "takes the header fields, where theirs takes urllib3's response",
    "cookies.RequestsCookieJar.setdefault": "the name that the others of its methods have for it",
}


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def names_of(module: str) -> list[str]:
    theirs = importlib.import_module(f"requests.{module}")
    return [
        name
        for name, value in vars(theirs).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", theirs.__name__) == theirs.__name__
        and name not in NOT_THEIRS
    ]


INSTANCES: dict[str, Callable[[Any], Any]] = {
    "adapters.BaseAdapter": lambda module: module.BaseAdapter,
    "adapters.HTTPAdapter": lambda module: module.HTTPAdapter(),
    "auth.AuthBase": lambda module: module.AuthBase(),
    "auth.HTTPBasicAuth": lambda module: module.HTTPBasicAuth("a", "b"),
    "auth.HTTPDigestAuth": lambda module: module.HTTPDigestAuth("a", "b"),
    "auth.HTTPProxyAuth": lambda module: module.HTTPProxyAuth("a", "b"),
    "cookies.RequestsCookieJar": lambda module: module.RequestsCookieJar(),
    "exceptions.JSONDecodeError": lambda module: module.JSONDecodeError("msg", "doc", 0),
    "exceptions.RequestException": lambda module: module.RequestException("text"),
    "models.PreparedRequest": lambda module: module.PreparedRequest(),
    "models.Request": lambda module: module.Request("GET", "http://example.org/"),
    "models.Response": lambda module: module.Response(),
    "sessions.Session": lambda module: module.Session(),
    "structures.CaseInsensitiveDict": lambda module: module.CaseInsensitiveDict(),
    "structures.LookupDict": lambda module: module.LookupDict(name="x"),
}


def both(path: str) -> tuple[Any, Any]:
    """The module of "module.class", theirs and ours."""
    module = path.partition(".")[0]
    return importlib.import_module(f"requests.{module}"), importlib.import_module(f"syncflow.{module}")


# ----------------------------------------------------------------------------------------------------------- names


def test_the_names_at_the_top_are_here() -> None:
    missing = {name for name in requests.__all__ if not hasattr(syncflow, name)}
    assert missing == {name for name in MISSING if "." not in name}
    assert set(requests.__all__) - missing <= set(syncflow.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_the_names_of_a_module_are_here(module: str) -> None:
    _, ours = both(module)
    missing = {f"{module}.{name}" for name in names_of(module) if not hasattr(ours, name)}
    assert missing == {name for name in MISSING if name.count(".") == 1 and name.startswith(f"{module}.")}


@pytest.mark.parametrize("path", INSTANCES)
def test_the_attributes_of_an_instance_are_here(path: str) -> None:
    theirs, ours = (INSTANCES[path](module) for module in both(path))
    missing = {f"{path}.{name}" for name in public(theirs) - public(ours)}
    assert missing == {name for name in MISSING if name.startswith(f"{path}.")}


def test_every_class_of_theirs_was_looked_at() -> None:
    """So that a class which comes with a new version is not forgotten."""
    found = set()
    for module in MODULES:
        for name in names_of(module):
            if isinstance(getattr(both(module)[0], name), type) and f"{module}.{name}" not in MISSING:
                found.add(f"{module}.{name}")
    exceptions = {name for name in found if name.startswith("exceptions.")}
    assert found - exceptions - set(INSTANCES) == {"sessions.SessionRedirectMixin", "cookies.CookieConflictError"}


def test_the_codes_are_the_same() -> None:
    theirs = vars(requests.codes)
    assert len(theirs) > 200
    assert {name: getattr(syncflow.codes, name) for name in theirs if name != "name"} == {
        name: status for name, status in theirs.items() if name != "name"
    }


# ----------------------------------------------------------------------------------------------------------- bases

# Where a base is not by the same name.
OTHER_BASES = {"ContentDecodingError": {"HTTPError"}}  # theirs is urllib3's, too


@pytest.mark.parametrize("name", names_of("exceptions"))
def test_exceptions_have_the_bases_of_theirs(name: str) -> None:
    """By name, all the way up; ours may have more."""
    theirs, ours = getattr(requests.exceptions, name), getattr(syncflow.exceptions, name)
    missing = {base.__name__ for base in theirs.__mro__} - {base.__name__ for base in ours.__mro__}
    assert missing == OTHER_BASES.get(name, set())


def test_exceptions_are_caught_by_what_theirs_are_caught_by() -> None:
    """For each pair of them: one is a subclass of the other here if it is one there."""
    names = names_of("exceptions")
    for module in (requests.exceptions, syncflow.exceptions):
        assert issubclass(module.ConnectTimeout, module.ConnectionError)
    for kind in names:
        for base in names:
            theirs = issubclass(getattr(requests.exceptions, kind), getattr(requests.exceptions, base))
            ours = issubclass(getattr(syncflow.exceptions, kind), getattr(syncflow.exceptions, base))
            assert theirs == ours, f"{kind}, {base}"


@pytest.mark.parametrize("path", ["cookies.CookieConflictError", "cookies.RequestsCookieJar", "auth.HTTPProxyAuth"])
def test_other_classes_have_the_bases_of_theirs(path: str) -> None:
    name = path.partition(".")[2]
    theirs, ours = (getattr(module, name) for module in both(path))
    assert {base.__name__ for base in theirs.__mro__} <= {base.__name__ for base in ours.__mro__}


# ------------------------------------------------------------------------------------------------------ parameters


def functions() -> Iterator[str]:
    """What can be called, by "module.name" and "module.class.name"."""
    for module in MODULES:
        theirs, ours = both(module)
        for name in names_of(module):
            if inspect.isfunction(getattr(theirs, name)) and hasattr(ours, name):
                yield f"{module}.{name}"
    for path in INSTANCES:
        module, name = path.split(".")
        kind = getattr(both(path)[0], name)
        for method in [*public(kind), "__init__"]:
            if inspect.isfunction(getattr(kind, method)) and f"{path}.{method}" not in MISSING:
                yield f"{path}.{method}"


def parameters(module: Any, path: str) -> list[tuple[str, Any]]:
    found = module
    for name in path.split(".")[1:]:
        found = getattr(found, name)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [(name, p.kind) for name, p in inspect.signature(found).parameters.items() if p.kind not in variadic]


def takes_anything(module: Any, path: str) -> bool:
    found = module
    for name in path.split(".")[1:]:
        found = getattr(found, name)
    kinds = {p.kind for p in inspect.signature(found).parameters.values()}
    return {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds


@pytest.mark.parametrize("path", sorted(functions()))
def test_functions_have_the_parameters_of_theirs(path: str) -> None:
    """In the same order and by the same names; ours may have more behind them."""
    theirs, ours = both(path)
    expected, found = parameters(theirs, path), parameters(ours, path)
    same = found[: len(expected)] == expected or takes_anything(ours, path)
    assert same == (path not in OTHER_PARAMETERS), f"{expected} {found}"


def test_a_request_takes_the_arguments_of_theirs() -> None:
    """Those of `requests.request` are behind **kwargs: they are those of the session's method."""
    theirs, ours = (inspect.signature(module.Session.request).parameters for module in (requests, syncflow))
    assert list(theirs) == list(ours)


# ------------------------------------------------------------------------------------------------------ quickstart


def app(request: Seen) -> Answer:
    """As much of a well-known echo service as the quickstart asks for."""
    path = request.path.strip("/")
    if path.startswith("status/"):
        return Answer(int(path.removeprefix("status/")))
    if path == "redirect":
        return Answer(302, [("Location", "/get")])
    if path == "cookies/set":
        return Answer(302, [("Set-Cookie", f"{name}={v[0]}; Path=/") for name, v in request.query.items()] + TO_COOKIES)
    if path == "links":
        return Answer(200, {"Link": '<http://example.org/?page=2>; rel="next", <http://example.org/?page=9>; rel=last'})
    if path == "lines":
        return Answer(200, {"Content-Type": "text/plain"}, iter([b'{"id": 0}\n{"id"', b': 1}\n{"id": 2}\n']))
    if path == "basic" and "authorization" not in request.headers:
        return Answer(401, {"WWW-Authenticate": 'Basic realm="r"'}, b"who are you?")
    return json_response(
        {
            "method": request.method,
            "args": request.query,
            "headers": request.headers,
            "data": request.body.decode(),
        }
    )


TO_COOKIES = [("Location", "/cookies")]

QUICKSTART = """
>>> import syncflow as requests

Make a request

>>> r = requests.get(f'{url}/get')
>>> r.status_code, r.url == f'{url}/get'
(200, True)
>>> [requests.post(f'{url}/post', data={'key': 'value'}).json()['data']]
['key=value']
>>> requests.put(f'{url}/put', data={'key': 'value'})
<Response [200]>
>>> requests.delete(f'{url}/delete').json()['method'], requests.options(f'{url}/get').ok
('DELETE', True)
>>> requests.head(f'{url}/get').text
''

Parameters in URLs

>>> r = requests.get(f'{url}/get', params={'key1': 'value1', 'key2': ['value2', 'value3'], 'none': None})
>>> r.url.removeprefix(url)
'/get?key1=value1&key2=value2&key2=value3'

Content of the response

>>> r.encoding
'utf-8'
>>> r.encoding = 'ISO-8859-1'
>>> r.text[:10], r.content[:10]
('{"method":', b'{"method":')
>>> r.json()['args']
{'key1': ['value1'], 'key2': ['value2', 'value3']}
>>> try:
...     requests.get(f'{url}/status/204').json()
... except requests.exceptions.JSONDecodeError as error:
...     isinstance(error, requests.exceptions.RequestException), isinstance(error, ValueError)
(True, True)
>>> with requests.get(f'{url}/get', stream=True) as r:
...     r.raw.read(10)
b'{"method":'
>>> with requests.get(f'{url}/get', stream=True) as r:
...     b''.join(r.iter_content(chunk_size=128))[:10]
b'{"method":'

Headers

>>> r = requests.get(f'{url}/get', headers={'user-agent': 'my-app/0.0.1'})
>>> r.json()['headers']['user-agent']
'my-app/0.0.1'
>>> r.headers['Content-Type'], r.headers.get('content-type'), r.headers.get('nothing')
('application/json', 'application/json', None)

More complicated POST requests

>>> requests.post(f'{url}/post', data=[('key1', 'value1'), ('key1', 'value2')]).json()['data']
'key1=value1&key1=value2'
>>> r = requests.post(f'{url}/post', json={'some': 'data'})
>>> r.json()['data'], r.json()['headers']['content-type']
('{"some": "data"}', 'application/json')
>>> files = {'file': ('report.csv', 'some,data,to,send\\nanother,row,to,send\\n', 'text/csv', {'Expires': '0'})}
>>> requests.post(f'{url}/post', files=files).json()['data'].splitlines()[1:7]  # doctest: +NORMALIZE_WHITESPACE
['Content-Disposition: form-data; name="file"; filename="report.csv"', 'Content-Type: text/csv', 'Expires: 0',
 '', 'some,data,to,send', 'another,row,to,send']

Status codes

>>> r = requests.get(f'{url}/status/404')
>>> r.status_code == requests.codes.not_found, bool(r)
(True, False)
>>> r.raise_for_status()
Traceback (most recent call last):
    ...
syncflow.exceptions.HTTPError: 404 Client Error: Not Found for url: ...
>>> requests.get(f'{url}/get').raise_for_status()

Cookies

>>> requests.get(f'{url}/cookies', cookies={'cookies_are': 'working'}).json()['headers']['cookie']
'cookies_are=working'
>>> jar = requests.cookies.RequestsCookieJar()
>>> _ = jar.set('tasty_cookie', 'yum', path='/cookies')
>>> _ = jar.set('gross_cookie', 'blech', path='/elsewhere')
>>> requests.get(f'{url}/cookies', cookies=jar).json()['headers']['cookie']
'tasty_cookie=yum'

Redirection and history

>>> r = requests.get(f'{url}/redirect')
>>> r.status_code, r.history
(200, [<Response [302]>])
>>> r = requests.get(f'{url}/redirect', allow_redirects=False)
>>> r.status_code, r.history, r.is_redirect, r.next
(302, [], True, <PreparedRequest [GET]>)
>>> requests.head(f'{url}/redirect', allow_redirects=True).history
[<Response [302]>]

Timeouts and errors

>>> requests.get(f'{url}/get', timeout=5), requests.get(f'{url}/get', timeout=(3.05, 27))
(<Response [200]>, <Response [200]>)
>>> requests.get('not a url')
Traceback (most recent call last):
    ...
syncflow.exceptions.MissingSchema: ...
>>> issubclass(requests.exceptions.ReadTimeout, requests.exceptions.Timeout)
True

Sessions

>>> with requests.Session() as s:
...     s.auth = ('user', 'pass')
...     s.headers.update({'x-test': 'true'})
...     r = s.get(f'{url}/get', headers={'x-test2': 'true'})
...     [r.json()['headers'].get(name) for name in ('x-test', 'x-test2', 'authorization')]
['true', 'true', 'Basic dXNlcjpwYXNz']
>>> with requests.Session() as s:
...     r = s.get(f'{url}/cookies/set', params={'sessioncookie': '123456789'})
...     r.json()['headers']['cookie'], s.cookies.get_dict()
('sessioncookie=123456789', {'sessioncookie': '123456789'})

Prepared requests

>>> with requests.Session() as s:
...     req = requests.Request('POST', f'{url}/post', data='first', headers={'X-A': 'b'})
...     prepped = s.prepare_request(req)
...     prepped.body = 'No, I want exactly this as the body.'
...     prepped.headers['Content-Length'] = str(len(prepped.body))
...     del prepped.headers['Accept']
...     r = s.send(prepped, stream=False, verify=True, proxies={}, cert=None, timeout=5)
...     r.json()['data'], 'accept' in r.json()['headers'], r.request is prepped
('No, I want exactly this as the body.', False, True)

Streams, lines and links

>>> import json
>>> with requests.get(f'{url}/lines', stream=True) as r:
...     [json.loads(line)['id'] for line in r.iter_lines() if line]
[0, 1, 2]
>>> r = requests.get(f'{url}/links')
>>> r.links['next'], r.links['last']['url']
({'url': 'http://example.org/?page=2', 'rel': 'next'}, 'http://example.org/?page=9')

Hooks and authentication

>>> def print_status(r, *args, **kwargs):
...     print(r.status_code)
>>> r = requests.get(f'{url}/get', hooks={'response': [print_status, print_status]})
200
200
>>> requests.get(f'{url}/basic').status_code, requests.get(f'{url}/basic', auth=('user', 'pass')).status_code
(401, 200)
>>> from syncflow.auth import AuthBase
>>> class PizzaAuth(AuthBase):
...     def __call__(self, r):
...         r.headers['X-Pizza'] = 'ham'
...         return r
>>> requests.get(f'{url}/get', auth=PizzaAuth()).json()['headers']['x-pizza']
'ham'

Adapters

>>> with requests.Session() as s:
...     s.mount(f'{url}/', requests.adapters.HTTPAdapter(max_retries=3))
...     s.get(f'{url}/get').ok
True
"""


def test_the_quickstart_works_with_another_import() -> None:
    with AppServer(app) as server:
        test = doctest.DocTestParser().get_doctest(QUICKSTART, {"url": server.url}, "quickstart", __file__, 0)
        said: list[str] = []
        results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert results.attempted > 50
    assert results.failed == 0, "".join(said)

"""The package as a whole: what it exports, what it must not import, that its examples are true."""

import doctest
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import syncflow.http1
from syncflow.http1 import (
    END,
    BodyTooLong,
    BodyTooShort,
    End,
    Head,
    HTTP1Error,
    IncompleteMessage,
    InvalidRequest,
    InvalidState,
    LimitExceeded,
    MalformedMessage,
    Trailers,
)

MODULES = ["syncflow.http1"] + [
    f"syncflow.http1.{module.name}" for module in pkgutil.iter_modules(syncflow.http1.__path__)
]

# The parent package is a stub: its own imports are not what is tested here.
IMPORT_ALONE = """
import sys, types
for name in ("socket", "ssl", "threading", "time", "selectors"):
    sys.modules[name] = None
parent = types.ModuleType("syncflow")
parent.__path__ = [sys.argv[1]]
sys.modules["syncflow"] = parent
import syncflow.http1
parser = syncflow.http1.ResponseParser()
parser.start("GET")
parser.feed(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n")
assert parser.complete
syncflow.http1.request_head("GET", "/", [("Host", "example.org")])
others = {name for name in sys.modules if name.startswith("syncflow.")}
others = {name for name in others if not name.startswith("syncflow.http1")}
assert not others, others
"""


def test_it_imports_nothing_that_does_io() -> None:
    folder = Path(syncflow.http1.__path__[0]).parent
    command = [sys.executable, "-I", "-c", IMPORT_ALONE, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_each_file_says_what_it_knows(name: str) -> None:
    assert "know" in (importlib.import_module(name).__doc__ or "").lower()


PUBLIC = {
    *("Head", "Trailers", "End", "END", "Event", "ResponseParser", "ParserLimits", "request_head", "may_be_trailer"),
    *("BodyFraming", "LengthFraming", "ChunkedFraming", "NoBody"),
    *("HTTP1Error", "InvalidState", "InvalidRequest", "BodyTooLong", "BodyTooShort"),
    *("MalformedMessage", "IncompleteMessage", "LimitExceeded"),
    *("LineTooLong", "HeadTooLarge", "TooManyFields", "TooManyEmptyLines", "TooManyInformational"),
    *("ContentLengthTooLong", "ChunkSizeTooLong", "ChunkExtensionTooLong", "TrailersTooLarge"),
}


def test_public_names() -> None:
    assert set(syncflow.http1.__all__) == PUBLIC
    assert len(syncflow.http1.__all__) == len(PUBLIC)
    assert all(hasattr(syncflow.http1, name) for name in PUBLIC)


def test_every_error_is_exported() -> None:
    errors = importlib.import_module("syncflow.http1.errors")
    classes = [value for value in vars(errors).values() if inspect.isclass(value)]
    assert {cls.__name__ for cls in classes if issubclass(cls, HTTP1Error)} <= PUBLIC


def test_the_family_of_errors() -> None:
    assert issubclass(InvalidRequest, HTTP1Error)
    assert issubclass(InvalidRequest, ValueError)
    assert issubclass(InvalidState, RuntimeError)
    assert issubclass(LimitExceeded, MalformedMessage)
    assert not issubclass(IncompleteMessage, MalformedMessage)
    for error in (InvalidState, MalformedMessage, IncompleteMessage, BodyTooLong, BodyTooShort):
        assert issubclass(error, HTTP1Error)


@pytest.mark.parametrize(
    "error",
    [
        BodyTooLong("long", 5, 6),
        BodyTooShort("short", 5, 4),
        IncompleteMessage("cut", 3, 5),
        IncompleteMessage("cut", 3, in_head=True),
        *(kind("over", 7) for kind in LimitExceeded.__subclasses__()),
        InvalidRequest("field"),
        MalformedMessage("bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: HTTP1Error) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_events() -> None:
    assert isinstance(END, End)
    assert repr(END) == "END"
    assert pickle.loads(pickle.dumps(END)) is END
    assert Head(200, "OK", "1.1", []) == (200, "OK", "1.1", [])
    assert Trailers([("A", "b")]).fields == [("A", "b")]

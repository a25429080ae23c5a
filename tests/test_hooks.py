"""The hooks, called as requests calls them: every test runs with both."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import pytest

import syncflow.hooks
from syncflow.testing import AppServer

requests = pytest.importorskip("requests")

BOTH = pytest.mark.parametrize("hooks", [syncflow.hooks, requests.hooks], ids=["ours", "theirs"])


def double(data: list[int], **kwargs: Any) -> list[int]:
    return data * 2


def see(data: list[int], **kwargs: Any) -> None:
    data.append(9)


def test_the_events_are_those_of_requests() -> None:
    assert syncflow.hooks.HOOKS == requests.hooks.HOOKS == ["response"]
    assert syncflow.hooks.default_hooks() == requests.hooks.default_hooks() == {"response": []}


@BOTH
def test_the_default_is_a_new_one_every_time(hooks: ModuleType) -> None:
    hooks.default_hooks()["response"].append(see)
    assert hooks.default_hooks() == {"response": []}


@BOTH
@pytest.mark.parametrize(
    ("registered", "expected"),
    [
        (None, [1]),
        ({}, [1]),
        ({"response": []}, [1]),
        ({"response": None}, [1]),
        ({"other": double}, [1]),
        ({"response": double}, [1, 1]),
        ({"response": [double]}, [1, 1]),
        ({"response": (double, double)}, [1, 1, 1, 1]),
        ({"response": see}, [1, 9]),
        ({"response": [see, double]}, [1, 9, 1, 9]),
        ({"response": [double, see]}, [1, 1, 9]),
    ],
)
def test_each_hook_gets_what_the_one_before_it_left(hooks: ModuleType, registered: Any, expected: list[int]) -> None:
    assert hooks.dispatch_hook("response", registered, [1]) == expected


@BOTH
def test_what_is_false_replaces_the_data_and_none_does_not(hooks: ModuleType) -> None:
    assert hooks.dispatch_hook("response", {"response": lambda data: 0}, [1]) == 0
    assert hooks.dispatch_hook("response", {"response": lambda data: None}, [1]) == [1]


@BOTH
def test_keywords_are_handed_to_each(hooks: ModuleType) -> None:
    seen: list[dict[str, Any]] = []

    def keep(data: list[int], **kwargs: Any) -> None:
        seen.append(kwargs)

    hooks.dispatch_hook("response", {"response": [keep, keep]}, [1], timeout=3, verify=False)
    assert seen == [{"timeout": 3, "verify": False}] * 2


@BOTH
def test_what_a_hook_raises_goes_through_and_ends_it(hooks: ModuleType) -> None:
    called: list[int] = []

    def fail(data: list[int]) -> None:
        raise LookupError("no")

    with pytest.raises(LookupError, match="^no$"):
        hooks.dispatch_hook("response", {"response": [fail, called.append]}, [1])
    assert called == []


def test_a_hook_that_takes_itself_out_hides_none_of_the_others() -> None:
    """requests reads the list that the hook changes, and leaves the next one out."""
    called: list[str] = []
    registered: dict[str, list[Any]] = {"response": []}

    def once(data: object) -> None:
        called.append("once")
        registered["response"].remove(once)

    registered["response"] += [once, lambda data: called.append("always")]
    for _ in range(2):
        syncflow.hooks.dispatch_hook("response", registered, object())
    assert called == ["once", "always", "always"]


def test_a_session_is_given_them_or_sets_them() -> None:
    def mark(response: Any, **kwargs: Any) -> None:
        response.marked = getattr(response, "marked", 0) + 1

    with AppServer() as server, syncflow.Session(hooks={"response": mark}) as session:
        assert session.get(server.url).marked == 1  # type: ignore[attr-defined]
        session.hooks["response"].append(mark)
        assert session.get(server.url).marked == 2  # type: ignore[attr-defined]
        session.hooks = {"response": mark}  # type: ignore[dict-item]  # as `requests` allows
        with copy.copy(session) as other:
            assert other.hooks == {"response": [mark]}
            assert other.get(server.url).marked == 1  # type: ignore[attr-defined]
    assert syncflow.Session(hooks={"response": [mark, mark]}).hooks == {"response": [mark, mark]}


def test_there_are_no_others() -> None:
    with pytest.raises(ValueError, match="no hook 'request', only response"):
        syncflow.Session(hooks={"request": see})

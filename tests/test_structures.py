"""CaseInsensitiveDict: as the one of requests, whose instances it is compared with."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import requests.structures
from hypothesis import given
from hypothesis import strategies as st

from syncflow import CaseInsensitiveDict

KEYS = st.sampled_from(["A", "a", "Accept", "ACCEPT", "accept", "X-One", "x-one", ""])


@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "delete", "get", "pop", "setdefault"]), KEYS, st.integers(0, 9)), max_size=30
    )
)
def test_it_does_what_that_of_requests_does(steps: list[tuple[str, str, int]]) -> None:
    ours: CaseInsensitiveDict[int] = CaseInsensitiveDict()
    theirs = requests.structures.CaseInsensitiveDict()

    def step(subject, what: str, key: str, value: int):
        try:
            if what == "set":
                subject[key] = value
            elif what == "delete":
                del subject[key]
            elif what == "get":
                return subject[key]
            elif what == "pop":
                return subject.pop(key)
            else:
                return subject.setdefault(key, value)
        except KeyError:
            return KeyError
        return None

    for what, key, value in steps:
        assert step(ours, what, key, value) == step(theirs, what, key, value)
        assert list(ours.items()) == list(theirs.items())
        assert list(ours.lower_items()) == list(theirs.lower_items())
        assert len(ours) == len(theirs)
        assert (key in ours) == (key in theirs)
        assert repr(ours) == repr(theirs)


def test_it_keeps_the_case_that_was_set_last() -> None:
    headers = CaseInsensitiveDict({"Content-Type": "a"})
    headers["CONTENT-TYPE"] = "b"
    assert list(headers) == ["CONTENT-TYPE"]
    assert headers["content-type"] == "b"


def test_it_is_made_of_a_mapping_of_pairs_and_of_keywords() -> None:
    assert CaseInsensitiveDict([("A", 1), ("a", 2)], b=3) == {"a": 2, "B": 3}
    assert CaseInsensitiveDict(OrderedDict(A=1)) == CaseInsensitiveDict(a=1)
    assert CaseInsensitiveDict() == {}


def test_a_copy_is_another_one() -> None:
    one = CaseInsensitiveDict(A="1")
    other = one.copy()
    other["a"] = "2"
    assert (one["A"], other["A"]) == ("1", "2")
    assert type(other) is CaseInsensitiveDict


def test_pairs_are_a_copy_that_may_be_changed_while_they_are_read() -> None:
    headers = CaseInsensitiveDict(A="1", B="2")
    for key, _ in headers.pairs():
        del headers[key]
    assert not headers
    for key in (mixed := CaseInsensitiveDict(A="1", B="2")):
        del mixed[key]
    assert not mixed


def test_what_it_is_not_equal_to() -> None:
    assert CaseInsensitiveDict(A="1") != {"A": "2"}
    assert CaseInsensitiveDict(A="1") != [("A", "1")]
    assert 5 not in CaseInsensitiveDict(A="1")


def test_it_cannot_be_hashed() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(CaseInsensitiveDict())

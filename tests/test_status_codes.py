"""The names of the statuses, compared with those of requests; and the dictionary that holds them."""

from __future__ import annotations

import copy
import pickle

import pytest

from syncflow.status_codes import codes
from syncflow.structures import LookupDict

requests = pytest.importorskip("requests")


def test_every_name_means_what_it_means_in_requests() -> None:
    assert len(vars(codes)) > 200
    assert vars(codes) == vars(requests.codes)
    assert repr(codes) == repr(requests.codes)


def test_a_status_is_an_attribute_and_an_item() -> None:
    assert (codes.ok, codes.OK, codes["teapot"], codes["\\o/"], codes.get("NOT_FOUND")) == (200, 200, 418, 200, 404)


@pytest.mark.parametrize("subject", [codes, requests.codes], ids=["ours", "theirs"])
def test_a_name_that_is_not_there(subject: LookupDict[int]) -> None:
    assert subject["no_such_name"] is None
    assert subject.get("no_such_name") is None
    assert subject.get("no_such_name", 5) == 5
    assert not hasattr(subject, "no_such_name")


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(AttributeError, match="'LookupDict' object has no attribute 'no_such_name'"):
        _ = codes.no_such_name


@pytest.mark.parametrize("kind", [LookupDict, requests.structures.LookupDict], ids=["ours", "theirs"])
def test_what_is_set_is_an_attribute_and_what_is_put_in_is_not_seen(kind: type[LookupDict[int]]) -> None:
    lookup = kind("names")
    lookup.one = 1
    lookup["two"] = 2
    assert (lookup["one"], lookup["two"], lookup.get("two"), lookup.name) == (1, None, None, "names")


def test_copies_have_the_same_names() -> None:
    for other in (copy.copy(codes), copy.deepcopy(codes), pickle.loads(pickle.dumps(codes))):
        assert vars(other) == vars(codes)

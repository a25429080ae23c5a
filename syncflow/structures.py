"""Two kinds of dictionaries: one whose keys are compared without their case, as header names are (RFC 9110, section
5.1), and one whose values are attributes as well. Knows nothing of what is kept in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

__all__ = ["CaseInsensitiveDict", "LookupDict"]

V = TypeVar("V")


class CaseInsensitiveDict(MutableMapping[str, V]):
    """Keeps the case of the key that was set last, and the order of the first.

    >>> headers = CaseInsensitiveDict({"Content-Type": "text/plain", "Accept": "*/*"})
    >>> headers["CONTENT-TYPE"] = "text/html"
    >>> headers["content-type"], list(headers)
    ('text/html', ['CONTENT-TYPE', 'Accept'])
    """

    __slots__ = ("_store",)

    def __init__(self, data: Mapping[str, V] | Iterable[tuple[str, V]] | None = None, **kwargs: V) -> None:
        self._store: dict[str, tuple[str, V]] = {}
        self.update({} if data is None else data, **kwargs)

    def __setitem__(self, key: str, value: V) -> None:
        self._store[key.lower()] = (key, value)

    def __getitem__(self, key: str) -> V:
        return self._store[key.lower()][1]

    def __delitem__(self, key: str) -> None:
        del self._store[key.lower()]

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in list(self._store.values()))

    def __len__(self) -> int:
        return len(self._store)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() in self._store

    def pairs(self) -> list[tuple[str, V]]:
        """Keys and values as they were set; a copy, so another thread may go on setting."""
        return list(self._store.values())

    def lower_items(self) -> Iterator[tuple[str, V]]:
        """Like `items`, with the keys in lower case."""
        return ((lower, value) for lower, (_, value) in list(self._store.items()))

    def copy(self) -> CaseInsensitiveDict[V]:
        """Another one with the same items."""
        other: CaseInsensitiveDict[V] = CaseInsensitiveDict.__new__(CaseInsensitiveDict)
        other._store = self._store.copy()
        return other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self.lower_items()) == dict(CaseInsensitiveDict(other).lower_items())

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return str(dict(self.items()))


class LookupDict(dict[str, V]):
    """Values by name, as attributes and as items, as `requests` has it: what is set is an attribute, and an item that
    is not there is None.

    >>> codes = LookupDict("status_codes")
    >>> codes.ok = 200
    >>> codes["ok"], codes["missing"], codes.get("missing", 0)
    (200, None, 0)

    Attributes:
        name: what it says it is.
    """

    def __init__(self, name: Any = None) -> None:
        self.name = name
        super().__init__()

    def __getattr__(self, key: str) -> V:
        """Only asked for what is not there; says to type checkers what the attributes are."""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {key!r}")

    def __getitem__(self, key: str) -> V | None:  # type: ignore[override]  # None for what is not there
        return vars(self).get(key)

    def get(self, key: str, default: Any = None) -> Any:
        """`default` for what is not there."""
        return vars(self).get(key, default)

    def __repr__(self) -> str:
        return f"<lookup '{self.name}'>"

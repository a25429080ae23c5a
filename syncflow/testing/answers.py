"""What is answered, by the names of `requests-mock`: `status_code headers reason`, and one of `json text content`.

Knows how these become a `Response`, and several in a row one after the other. Knows nothing of who asks, nor of how an
answer gets there.
"""

from __future__ import annotations

import json as jsonlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict, TypeVar

from syncflow.testing.application import Response
from syncflow.testing.wire import Fields, Request, pairs

NOTHING: Any = object()


@dataclass(slots=True)
class Context:
    """What a function that answers may change: it was called with the request and this.

    Attributes:
        status_code: of the answer, as registered.
        headers: fields to send beside those that were registered, and in place of them where the names are the same.
        reason: the phrase behind the status; None is the usual one.
    """

    status_code: int
    reason: str | None
    headers: dict[str, str] = field(default_factory=dict)


# Given the request and the context; returns what would have stood in its place.
Answering = Callable[[Any, Context], Any]


class AnswerFields(TypedDict, total=False):
    """See `Answer`."""

    json: Any
    text: str | Answering
    content: bytes | Iterable[bytes] | Answering
    status_code: int
    headers: Fields
    reason: str | None


@dataclass(frozen=True)
class Answer:
    """One answer, which may be given any number of times.

    `json`, `text` and `content` may be functions; they are called with the `Request`, once its body is there, and a
    `Context`, on the server's thread.

    Attributes:
        json: what is sent as JSON.
        text: what is sent in UTF-8.
        content: bytes; or an iterable of them, which are sent piece by piece (once, if it is an iterator).
        status_code: 200 unless given.
        headers: a mapping, or pairs. Content-Type and the length are added where they are missing.
        reason: the phrase behind the status.

    Raises:
        TypeError: more than one body, or one that is none, or that JSON cannot say.
    """

    json: Any = NOTHING
    text: str | Answering | None = None
    content: bytes | Iterable[bytes] | Answering | None = None
    status_code: int = 200
    headers: Fields = ()
    reason: str | None = None

    def __post_init__(self) -> None:
        if len([body for body in (self.text, self.content) if body is not None]) + (self.json is not NOTHING) > 1:
            raise TypeError("an answer has one body: give one of json=, text= and content=")
        if not (self.text is None or isinstance(self.text, str) or callable(self.text)):
            raise TypeError(f"text= is a str or a function, not {self.text!r}")
        if isinstance(self.content, str):
            raise TypeError(f"content= is bytes, an iterable of bytes or a function, not {self.content!r}; see text=")
        if self.json is not NOTHING and not callable(self.json):
            jsonlib.dumps(self.json)  # an error is the test's, and is raised where it is made

    def response(self, request: Request) -> Response:
        """For this request. Raises what the function raises that answers."""
        context = Context(self.status_code, self.reason)
        body, content_type = self._body(request, context)
        changed = {name.lower() for name in context.headers}
        sent = [(name, value) for name, value in pairs(self.headers) if name.lower() not in changed]
        sent += context.headers.items()
        if content_type and not any(name.lower() == "content-type" for name, _ in sent):
            sent.append(("Content-Type", content_type))
        return Response(context.status_code, sent, body, context.reason)

    def _body(self, request: Request, context: Context) -> tuple[bytes | Iterable[bytes], str]:
        """And the type of its content, if that is known."""
        if self.json is not NOTHING:
            value = self.json(request, context) if callable(self.json) else self.json
            return jsonlib.dumps(value).encode(), "application/json"
        if self.text is not None:
            text = self.text(request, context) if callable(self.text) else self.text
            if not isinstance(text, str):
                raise TypeError(f"the function that was given as text= returns a str, not {text!r}")
            return text.encode(), "text/plain; charset=utf-8"
        if callable(self.content):
            content = self.content(request, context)
            if isinstance(content, str) or not isinstance(content, Iterable):
                raise TypeError(
                    f"the function that was given as content= returns bytes, or many of them, not {content!r}"
                )
            return content, ""
        return self.content or b"", ""


A = TypeVar("A", bound=Answer)


class Row(deque[A]):
    """Answers one after the other; the last one goes on for ever. One thread at a time."""

    def take(self) -> A:
        """The next."""
        return self.popleft() if len(self) > 1 else self[0]


def row_of(kind: type[A], answers: Sequence[Mapping[str, Any]] | None, given: Mapping[str, Any]) -> Row[A]:
    """Either `answers`, each with the fields of one, or the one that `given` is of.

    Raises:
        TypeError, ValueError: both, or none, or what is no answer.
    """
    if answers is None:
        return Row([_made(kind, given)])
    if given:
        raise TypeError(f"either answers in a row or one by keywords, not both: {', '.join(given)}")
    if isinstance(answers, str | bytes | Mapping) or not all(isinstance(answer, Mapping) for answer in answers):
        raise TypeError(f"answers in a row are a list of dicts, as [{{'status_code': 503}}, {{}}], not {answers!r}")
    if not answers:
        raise ValueError("answers in a row are at least one")
    return Row(_made(kind, answer) for answer in answers)


def _made(kind: type[A], given: Mapping[str, Any]) -> A:
    """Raises TypeError for a name that an answer does not have, as those of other mocks."""
    names = sorted(each.name for each in fields(kind))
    if unknown := sorted(set(given) - set(names)):
        raise TypeError(f"an answer has no {', '.join(unknown)}: it is made of {', '.join(names)}")
    return kind(**given)

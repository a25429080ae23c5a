"""Names to addresses: who shares a question, who needs no thread, who is told what."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from syncflow.engine import resolver
from syncflow.engine.resolver import lookup

from .rig import PATIENCE

V4 = (socket.AF_INET, ("192.0.2.1", 80))
V6 = (socket.AF_INET6, ("2001:db8::1", 80, 0, 0))


class System:
    """Stands for getaddrinfo: answers when `gate` is set, and remembers what it was asked."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked: list[tuple[str, int]] = []
        self.threads: list[threading.Thread] = []
        self.answer: list[Any] = [V4]
        self.error: Exception | None = None

    def getaddrinfo(self, host: str, port: int, *, type: int) -> list[Any]:
        assert type == socket.SOCK_STREAM
        self.asked.append((host, port))
        self.threads.append(threading.current_thread())
        assert self.gate.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in self.answer]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    system = System()
    monkeypatch.setattr(resolver.socket, "getaddrinfo", system.getaddrinfo)
    yield system
    system.gate.set()
    for thread in system.threads:
        thread.join(PATIENCE)
    assert resolver._under_way == {}


class Listener:
    """Counts how often it was called, and says on which thread."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.threads: list[threading.Thread] = []

    def __call__(self) -> None:
        self.threads.append(threading.current_thread())
        self.called.set()


def test_two_who_ask_at_once_share_a_question(system: System) -> None:
    first, second = lookup("name.test", 80), lookup("name.test", 80)
    assert first is second
    listeners = [Listener(), Listener()]
    for listener in listeners:
        first.listen(listener)
    assert not first.done
    system.gate.set()
    for listener in listeners:
        assert listener.called.wait(PATIENCE)
        assert listener.threads == system.threads, "once, and on the resolver's thread"
    assert first.done
    assert first.addresses == [V4]
    assert system.asked == [("name.test", 80)]


@pytest.mark.parametrize("other", [("other.test", 80), ("name.test", 81)])
def test_another_question_is_asked_by_itself(system: System, other: tuple[str, int]) -> None:
    assert lookup("name.test", 80) is not lookup(*other)
    system.gate.set()


def test_nothing_is_remembered(system: System) -> None:
    system.gate.set()
    answers = []
    for _ in range(2):
        question = lookup("name.test", 80)
        listener = Listener()
        question.listen(listener)
        assert listener.called.wait(PATIENCE)
        answers.append(question)
    assert answers[0] is not answers[1]
    assert len(system.asked) == 2


def test_one_that_is_stuck_holds_up_nobody_else(system: System) -> None:
    stuck = lookup("stuck.test", 80)
    assert lookup("192.0.2.7", 80).done
    assert not stuck.done


def test_who_listens_late_is_called_at_once(system: System) -> None:
    question = lookup("name.test", 80)
    listener, late = Listener(), Listener()
    question.listen(listener)
    system.gate.set()
    assert listener.called.wait(PATIENCE)
    question.listen(late)
    assert late.threads == [threading.current_thread()]


def test_an_error_is_for_all_who_ask(system: System) -> None:
    system.error = socket.gaierror(socket.EAI_NONAME, "unknown")
    questions = [lookup("name.test", 80), lookup("name.test", 80)]
    listeners = [Listener(), Listener()]
    for question, listener in zip(questions, listeners, strict=True):
        question.listen(listener)
    system.gate.set()
    for question, listener in zip(questions, listeners, strict=True):
        assert listener.called.wait(PATIENCE)
        assert question.error is system.error
        assert question.addresses == []


def test_an_error_that_is_no_oserror_is_delivered_too(system: System) -> None:
    """`getaddrinfo` raises UnicodeError for names that IDNA cannot encode."""
    system.error = UnicodeError("label too long")
    question = lookup("name.test", 80)
    listener = Listener()
    question.listen(listener)
    system.gate.set()
    assert listener.called.wait(PATIENCE)
    assert question.error is system.error


def test_who_ignores_the_answer_is_not_called(system: System) -> None:
    question = lookup("name.test", 80)
    gone, there = Listener(), Listener()
    question.listen(gone)
    question.listen(there)
    question.ignore(gone)
    system.gate.set()
    assert there.called.wait(PATIENCE)
    system.threads[0].join(PATIENCE)
    assert gone.threads == []


def test_it_does_no_harm_to_ignore_what_was_answered(system: System) -> None:
    question = lookup("name.test", 80)
    listener = Listener()
    question.listen(listener)
    system.gate.set()
    assert listener.called.wait(PATIENCE)
    question.ignore(listener)
    question.ignore(listener)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", (socket.AF_INET, ("127.0.0.1", 80))),
        ("::1", (socket.AF_INET6, ("::1", 80, 0, 0))),
        ("2001:db8::2", (socket.AF_INET6, ("2001:db8::2", 80, 0, 0))),
    ],
)
def test_numbers_need_no_thread(system: System, host: str, expected: Any) -> None:
    question = lookup(host, 80)
    assert question.done
    assert question.addresses == [expected]
    listener = Listener()
    question.listen(listener)
    assert listener.threads == [threading.current_thread()]
    assert (system.asked, system.threads) == ([], [])


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "fe80::1%no-such-zone", "127.0.0.1%lo", "1.2.3.4.5"])
def test_odd_notations_are_for_the_system(system: System, host: str) -> None:
    assert not lookup(host, 80).done
    system.gate.set()


def test_the_order_is_the_systems_and_nothing_comes_twice(system: System) -> None:
    system.answer = [V6, V4, V6, V4]
    system.gate.set()
    question = lookup("name.test", 80)
    listener = Listener()
    question.listen(listener)
    assert listener.called.wait(PATIENCE)
    assert question.addresses == [V6, V4]
    assert system.threads[0].daemon, "a stuck one must not keep the process from ending"

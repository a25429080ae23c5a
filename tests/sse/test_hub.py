"""EventHub: who gets which event, what a slow subscriber costs whom, and how everything ends."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import queue
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import syncflow
from syncflow.sse import (
    BufferMetrics,
    EventBuffer,
    EventHub,
    EventSubscription,
    ServerSentEvent,
    SubscriberHealth,
    UpstreamError,
    encode,
)
from syncflow.testing import AppServer, Peer, Response, ScriptedServer, eventually, reply_head

from ..concurrency import forked

BOUND = 10.0


def numbered(count: int, start: int = 0) -> list[ServerSentEvent]:
    return [ServerSentEvent(data=str(n), id=str(n)) for n in range(start, start + count)]


def numbers(events: Any) -> list[int]:
    return [int(event.data) for event in events]


class Tap:
    """An upstream that the test opens: an iterator of what was put in, which ends with None and raises exceptions."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.was_closed = False

    def put(self, *events: Any) -> None:
        for event in events:
            self._queue.put(event)

    def __iter__(self) -> Iterator[ServerSentEvent]:
        while (event := self._queue.get(timeout=BOUND)) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event

    def close(self) -> None:
        self.was_closed = True
        self._queue.put(None)


@pytest.fixture
def tap() -> Tap:
    return Tap()


def settled(hub: EventHub, count: int) -> None:
    """Wait until so many events have come, and have been given to everybody."""
    eventually(lambda: hub.health().events >= count, BOUND)
    eventually(lambda: all(s.metrics.enqueued or s.metrics.dropped or not count for s in hub.health().subscribers))


class Consumer:
    """A thread that iterates to the end."""

    def __init__(self, subscription: EventSubscription) -> None:
        self.subscription = subscription
        self.got: list[ServerSentEvent] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for event in self.subscription:
                self.got.append(event)
        except UpstreamError as error:
            self.error = error

    def join(self) -> list[ServerSentEvent]:
        self._thread.join(BOUND)
        assert not self._thread.is_alive(), "it still waits"
        return self.got


# ---------------------------------------------------------------- who gets what


def test_everybody_gets_everything_in_order() -> None:
    events = numbered(1000)
    hub = EventHub(iter(events), functools.partial(EventBuffer, 1000))
    consumers = [Consumer(hub.subscribe()) for _ in range(5)]
    with hub:
        for consumer in consumers:
            assert consumer.join() == events
            assert consumer.subscription.dropped == 0
            assert consumer.subscription.ended_because == "the upstream has ended"


def test_a_subscriber_gets_what_comes_after_it(tap: Tap) -> None:
    with EventHub(tap) as hub:
        tap.put(*numbered(3))
        settled(hub, 3)
        subscription = hub.subscribe()
        tap.put(*numbered(2, 3), None)
        assert numbers(subscription) == [3, 4]
        assert subscription.resumed is None


def test_next_and_for_can_be_mixed(tap: Tap) -> None:
    with EventHub(tap) as hub, hub.subscribe() as subscription:
        tap.put(*numbered(5), None)
        assert int(next(subscription).data) == 0
        for event in subscription:
            assert int(event.data) == 1
            break
        assert numbers(subscription) == [2, 3, 4]
        with pytest.raises(StopIteration):
            next(subscription)


def test_a_batch_is_what_has_come_or_nothing_after_its_patience(tap: Tap) -> None:
    with EventHub(tap) as hub, hub.subscribe() as subscription:
        assert subscription.batch(0.01) == []
        tap.put(*numbered(5))
        got: list[Any] = []
        while len(got) < 5:
            batch = subscription.batch(BOUND)
            assert batch
            got += batch
        assert numbers(got) == [0, 1, 2, 3, 4]
        tap.put(None)
        assert subscription.batch(BOUND) in (None, [])
        assert subscription.batch() is None


def test_events_may_be_anything() -> None:
    hub = EventHub(iter([{"price": 1}, None, "text"]))
    subscription = hub.subscribe()
    with hub:
        assert list(subscription) == [{"price": 1}, None, "text"]


# ---------------------------------------------------------------- slow ones


def test_a_slow_one_loses_its_own_oldest_and_nobody_elses(tap: Tap) -> None:
    with EventHub(tap, functools.partial(EventBuffer, 10)) as hub:
        slow = hub.subscribe()
        fast = hub.subscribe()
        for event in numbered(100):  # the fast one keeps pace: it has each before the next one comes
            tap.put(event)
            assert next(fast) == event
        tap.put(None)
        eventually(lambda: slow.ended_because is not None, BOUND)
        assert (fast.dropped, slow.dropped) == (0, 0)  # of the slow one, nothing was taken yet
        assert numbers(slow) == list(range(90, 100))
        assert slow.dropped == 90


def test_losses_are_told_with_the_event_that_they_precede(tap: Tap) -> None:
    """Two events are taken at once; those that are lost meanwhile are missing behind the second."""
    with EventHub(tap, functools.partial(EventBuffer, 20)) as hub, hub.subscribe() as subscription:
        tap.put(*numbered(2))
        eventually(lambda: subscription.buffer.size == 2, BOUND)
        assert (int(next(subscription).data), subscription.dropped) == (0, 0)
        tap.put(*numbered(26, 2))
        eventually(lambda: subscription.buffer.dropped_count == 6, BOUND)
        assert (int(next(subscription).data), subscription.dropped) == (1, 0)
        assert (int(next(subscription).data), subscription.dropped) == (8, 6)


def test_stalled_ones_do_not_hold_up_the_others_and_memory_is_bounded() -> None:
    """Events of 10 KiB, 100 MiB in all: a stalled subscriber holds ten of them."""
    total, most_ahead = 10_000, 50
    got = threading.Semaphore(most_ahead)  # the upstream is no faster than the healthy one

    def events() -> Iterator[ServerSentEvent]:
        for n in range(total):
            assert got.acquire(timeout=BOUND)
            yield ServerSentEvent(data=f"{n:010240d}", id=str(n))

    hub = EventHub(events(), functools.partial(EventBuffer, 100), replay=10)
    healthy = hub.subscribe()
    stalled = [hub.subscribe() for _ in range(20)]
    tracemalloc.start()
    try:
        hub.start()
        for n, event in enumerate(healthy):
            assert int(event.id) == n
            got.release()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        hub.close()
    assert healthy.dropped == 0
    assert {subscription.buffer.size for subscription in stalled} == {100}
    assert {subscription.buffer.dropped_count for subscription in stalled} == {total - 100}
    assert peak < 4 << 20


def test_who_takes_a_few_of_many_does_not_look_healthy(tap: Tap) -> None:
    with EventHub(tap, functools.partial(EventBuffer, 100)) as hub, hub.subscribe() as slow:
        tap.put(*numbered(100))
        eventually(lambda: slow.buffer.size == 100, BOUND)
        next(slow)
        assert not slow.buffer.is_healthy()


def test_one_that_would_rather_be_given_up_than_lose_anything(tap: Tap) -> None:
    with EventHub(tap, functools.partial(EventBuffer, 3, overflow="raise")) as hub:
        full, other = hub.subscribe(), hub.subscribe()
        for event in numbered(4):
            tap.put(event)
            assert next(other) == event
        eventually(lambda: full.ended_because is not None, BOUND)
        assert full.ended_because == "its buffer was full (3 events)"
        assert numbers(full) == [0, 1, 2]
        assert hub.health().disconnected == 1
        assert len(hub.health().subscribers) == 1


def test_a_rule_gives_up_who_stays_behind(tap: Tap) -> None:
    asked: list[SubscriberHealth] = []

    def rule(health: SubscriberHealth) -> bool:
        asked.append(health)
        return health.number == 1 and len(asked) > 3

    with EventHub(tap, functools.partial(EventBuffer, 10), disconnect_when=rule) as hub:
        stalled, healthy = hub.subscribe(), hub.subscribe()
        for event in numbered(20):
            tap.put(event)
            assert next(healthy) == event
        eventually(lambda: stalled.ended_because is not None, BOUND)
        assert str(stalled.ended_because).startswith("it was behind for 0.")
        assert healthy.ended_because is None
        assert {health.number for health in asked} == {1}  # nobody asks about a healthy one
        assert not any(health.is_healthy for health in asked)
        assert [health.unhealthy_for for health in asked] == sorted(health.unhealthy_for for health in asked)
        assert (hub.health().disconnected, hub.health().healthy, hub.health().unhealthy) == (1, 1, 0)


def test_who_has_caught_up_is_behind_anew(tap: Tap) -> None:
    asked: list[float] = []

    def rule(health: SubscriberHealth) -> bool:
        asked.append(health.unhealthy_for)
        return False

    with EventHub(tap, functools.partial(EventBuffer, 10), disconnect_when=rule) as hub, hub.subscribe() as consumer:
        for so_often in (2, 4):  # once with eight events, once with nine
            tap.put(*numbered(9))
            eventually(lambda so_often=so_often: len(asked) == so_often, BOUND)  # type: ignore[misc]
            assert len([next(consumer) for _ in range(9)]) == 9
            tap.put(*numbered(1))
            next(consumer)
    assert [behind > 0.0 for behind in asked] == [False, True, False, True]


def test_the_rule_is_asked_while_no_event_comes(
    new_session: Callable[..., syncflow.Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncflow.sse.hub.GLANCE", 0.01)
    over = threading.Event()

    def app(request: Any) -> Response:
        def body() -> Iterator[bytes]:
            yield b"".join(map(encode, numbered(10)))
            over.wait(BOUND)

        return Response(200, {"Content-Type": "text/event-stream"}, body())

    with AppServer(app) as server:
        stream = new_session().sse(server.url)
        ten = functools.partial(EventBuffer, 10)
        hub = EventHub(stream, ten, disconnect_when=lambda health: health.unhealthy_for > 0.05)
        stalled = hub.subscribe()
        with hub:
            eventually(lambda: stalled.ended_because is not None, BOUND)
            over.set()


def test_whoever_is_closed_while_events_are_given_out_is_no_failure(tap: Tap, caplog: pytest.LogCaptureFixture) -> None:
    made = iter([None, lambda metrics: other.close(), None])  # the first one is made to be looked at
    with EventHub(tap, lambda: EventBuffer(2, on_backpressure=next(made))) as hub:
        closing, other = hub.subscribe(), hub.subscribe()
        tap.put(*numbered(3), None)
        eventually(lambda: closing.ended_because is not None, BOUND)
        assert other.ended_because == "it was closed"
        assert hub.health().disconnected == 0
    assert caplog.records == []


def test_a_rule_that_fails_costs_its_own_subscriber_only(tap: Tap, caplog: pytest.LogCaptureFixture) -> None:
    def fail(health: SubscriberHealth) -> bool:
        raise RuntimeError("a bug of the program")

    with EventHub(tap, functools.partial(EventBuffer, 2), disconnect_when=fail) as hub:
        behind, other = hub.subscribe(), hub.subscribe()
        with caplog.at_level(logging.WARNING, "syncflow.sse"):
            for event in numbered(3):
                tap.put(event)
                assert next(other) == event
        assert behind.ended_because == "disconnect_when has raised RuntimeError('a bug of the program')"
        assert [record.exc_info is not None for record in caplog.records] == [True]


def test_a_callback_that_fails_costs_its_own_subscriber_only(tap: Tap, caplog: pytest.LogCaptureFixture) -> None:
    def fail(metrics: BufferMetrics) -> None:
        raise RuntimeError("a bug of the program")

    made = iter([None, fail, None])  # the first one is made to be looked at
    with EventHub(tap, lambda: EventBuffer(2, on_backpressure=next(made))) as hub:
        failing, other = hub.subscribe(), hub.subscribe()
        with caplog.at_level(logging.WARNING, "syncflow.sse"):
            for event in numbered(3):
                tap.put(event)
                assert next(other) == event
        assert str(failing.ended_because) == "its on_backpressure has raised RuntimeError('a bug of the program')"
        assert [record.exc_info is not None for record in caplog.records] == [True]


# ---------------------------------------------------------------- coming back


@pytest.mark.parametrize(
    ("asked", "expected", "resumed"),
    [("7", [8, 9], True), ("9", [], True), ("5", [6, 7, 8, 9], True), ("4", [5, 6, 7, 8, 9], False), ("", [], None)],
)
def test_who_comes_back_gets_what_came_since(tap: Tap, asked: str, expected: list[int], resumed: bool | None) -> None:
    with EventHub(tap, replay=5) as hub:
        tap.put(*numbered(10))
        settled(hub, 10)
        subscription = hub.subscribe(asked)
        tap.put(*numbered(1, 10), None)
        assert numbers(subscription) == [*expected, 10]
        assert subscription.resumed is resumed


def test_of_several_events_with_one_id_the_last_one_counts(tap: Tap) -> None:
    with EventHub(tap) as hub:
        tap.put(*[ServerSentEvent(data=str(n), id="same") for n in range(3)], *numbered(1, 3))
        settled(hub, 4)
        assert int(next(hub.subscribe("same")).data) == 3


def test_without_replay_nothing_is_kept(tap: Tap) -> None:
    with EventHub(tap, replay=0) as hub:
        tap.put(*numbered(3))
        settled(hub, 3)
        subscription = hub.subscribe("2")
        tap.put(None)
        assert list(subscription) == []
        assert subscription.resumed is False


def test_who_comes_while_events_come_misses_none_and_gets_none_twice(frantic: None) -> None:
    for _ in range(20):
        all_are_there = threading.Event()

        def events(all_are_there: threading.Event = all_are_there) -> Iterator[ServerSentEvent]:
            yield from numbered(300)
            assert all_are_there.wait(BOUND)

        with EventHub(events(), functools.partial(EventBuffer, 1000), replay=1000) as hub:
            eventually(lambda hub=hub: hub.health().events, BOUND)  # type: ignore[misc]
            late = [hub.subscribe("0") for _ in range(5)]
            all_are_there.set()
            for subscription in late:
                assert numbers(subscription) == list(range(1, 300))
                assert subscription.resumed is True


def test_who_comes_back_after_the_end_gets_the_rest(tap: Tap) -> None:
    with EventHub(tap) as hub:
        tap.put(*numbered(3), None)
        eventually(lambda: not hub.health().is_running, BOUND)
        late = hub.subscribe("0")
        assert late.ended_because == "the upstream has ended"
        assert numbers(late) == [1, 2]
        with pytest.raises(ValueError, match="the hub has ended: the upstream has ended"):
            hub.subscribe("2")
        with pytest.raises(ValueError, match="the hub has ended"):
            hub.subscribe()
        assert hub.health().subscribers == ()


# ---------------------------------------------------------------- the end


def test_an_error_reaches_everybody_behind_the_last_event(tap: Tap) -> None:
    error = OSError("the feed is gone")
    with EventHub(tap) as hub:
        consumers = [Consumer(hub.subscribe()) for _ in range(3)]
        tap.put(*numbered(2), error)
        for consumer in consumers:
            assert numbers(consumer.join()) == [0, 1]
            assert isinstance(consumer.error, UpstreamError)
            assert consumer.error.__cause__ is error
            assert "the feed is gone" in str(consumer.error)
        assert len({id(consumer.error) for consumer in consumers}) == 3  # one for each thread
        with pytest.raises(UpstreamError):
            hub.subscribe()
        health = hub.health()
        assert (health.is_running, health.error) == (False, "OSError: the feed is gone")


def test_an_error_reaches_who_waits(tap: Tap) -> None:
    with EventHub(tap) as hub:
        consumers = [Consumer(hub.subscribe()) for _ in range(3)]
        for consumer in consumers:
            eventually(lambda consumer=consumer: consumer.subscription.buffer._filled.sleepers, BOUND)  # type: ignore[misc]
        tap.put(OSError("the feed is gone"))
        for consumer in consumers:
            assert consumer.join() == []
            assert isinstance(consumer.error, UpstreamError)


def test_a_batch_misses_nothing_that_came_before_the_end() -> None:
    """However the end and a patience that is over meet."""
    for _ in range(200):
        hub = EventHub(iter(numbered(1)))
        subscription = hub.subscribe()
        got: list[Any] = []
        with hub:
            while (batch := subscription.batch(1e-5)) is not None:
                got += batch
        assert numbers(got) == [0]


def test_closing_a_subscription_ends_its_iteration_and_nobody_elses(tap: Tap) -> None:
    with EventHub(tap) as hub:
        closed, other = Consumer(hub.subscribe()), Consumer(hub.subscribe())
        tap.put(*numbered(1))
        eventually(lambda: len(closed.got) == len(other.got) == 1, BOUND)
        closed.subscription.close()
        assert numbers(closed.join()) == [0]
        assert closed.subscription.ended_because == "it was closed"
        closed.subscription.close()
        tap.put(*numbered(1, 1), None)
        assert numbers(other.join()) == [0, 1]


def test_what_was_lost_is_known_after_closing(tap: Tap) -> None:
    with EventHub(tap, functools.partial(EventBuffer, 2)) as hub:
        subscription = hub.subscribe()
        tap.put(*numbered(5))
        eventually(lambda: subscription.buffer.dropped_count == 3, BOUND)
        assert int(next(subscription).data) == 3
        waiting = Consumer(subscription)
        eventually(lambda: waiting.got and subscription.buffer._filled.sleepers, BOUND)
        subscription.close()
        assert numbers(waiting.join()) == [4]
        assert (subscription.dropped, hub.health().dropped) == (3, 3)


def test_closing_gives_nothing_more_and_keeps_nothing(tap: Tap) -> None:
    with EventHub(tap, functools.partial(EventBuffer, 100)) as hub:
        subscription = hub.subscribe()
        tap.put(*numbered(20))
        eventually(lambda: subscription.buffer.size == 20, BOUND)
        got = []
        for event in subscription:
            got.append(event)
            subscription.close()
        assert numbers(got) == [0]
        assert subscription.buffer.size == 0


def test_the_first_reason_counts(tap: Tap) -> None:
    hub = EventHub(tap)
    subscription = hub.subscribe()
    tap.put(None)
    with hub:
        assert list(subscription) == []
    subscription.close()
    assert subscription.ended_because == "the upstream has ended"


def test_what_comes_between_a_silence_and_the_end_is_not_lost(tap: Tap) -> None:
    class Unlucky(EventBuffer):
        is_first = True

        def take_with_drops(self, most: int, timeout: float | None = None) -> tuple[list[Any], int]:
            """The first time it finds nothing; and then all happens before the consumer goes on."""
            taken = super().take_with_drops(most, timeout)
            if self.is_first:
                self.is_first = False
                tap.put(*numbered(1), None)
                eventually(lambda: subscription.ended_because is not None, BOUND)
            return taken

    with EventHub(tap, Unlucky) as hub:
        subscription = hub.subscribe()
        assert numbers(subscription.batch(0.01)) == [0]
        assert subscription.batch(0.01) is None


def test_closing_the_hub_ends_everything(tap: Tap) -> None:
    hub = EventHub(tap)
    consumers = [Consumer(hub.subscribe()) for _ in range(3)]
    hub.start()
    tap.put(*numbered(1))
    for consumer in consumers:
        eventually(lambda consumer=consumer: consumer.got, BOUND)  # type: ignore[misc]
    hub.close()
    assert hub._thread is not None
    assert not hub._thread.is_alive()
    for consumer in consumers:
        consumer.join()
        assert consumer.subscription.ended_because == "the hub was closed"
    assert tap.was_closed
    hub.close()
    with pytest.raises(ValueError, match="the hub has ended: the hub was closed"):
        hub.subscribe()
    with pytest.raises(RuntimeError):
        hub.start()


def test_what_is_in_a_buffer_when_the_hub_closes_can_be_taken(tap: Tap) -> None:
    with EventHub(tap) as hub:
        subscription = hub.subscribe()
        tap.put(*numbered(3))
        eventually(lambda: subscription.buffer.size == 3, BOUND)
    assert numbers(subscription) == [0, 1, 2]


def test_closing_from_within_the_upstream_does_not_wait_for_itself() -> None:
    hub: EventHub
    is_back = threading.Event()

    class Events:
        def __iter__(self) -> Iterator[ServerSentEvent]:
            yield numbered(1)[0]
            hub.close()
            is_back.set()
            yield numbered(1, 1)[0]

        def close(self) -> None:
            """It can be."""

    hub = EventHub(Events())
    subscription = hub.subscribe()
    hub.start()
    assert numbers(subscription) == [0]
    assert is_back.wait(BOUND)
    assert hub.health().error is None


def test_a_subscriber_that_closes_while_events_come(tap: Tap) -> None:
    """Hundreds of rounds: whoever comes first, both end."""
    with EventHub(tap, replay=0) as hub:
        for n in range(300):
            subscription = hub.subscribe()
            barrier = threading.Barrier(2)

            def close(subscription: EventSubscription = subscription, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(BOUND)
                subscription.close()

            closer = threading.Thread(target=close)
            closer.start()
            barrier.wait(BOUND)
            tap.put(*numbered(1, n))
            got = numbers(subscription)  # the hub may be some rounds behind
            assert got == list(range(n - len(got) + 1, n + 1)) or max(got) < n
            assert got == sorted(set(got))
            closer.join(BOUND)
        assert hub.health().subscribers == ()


def test_a_hub_of_a_parent_has_ended_in_its_child(tap: Tap) -> None:
    with EventHub(tap) as hub:
        subscription = hub.subscribe()
        tap.put(*numbered(1))
        settled(hub, 1)
        got, why = forked(lambda: (numbers(subscription), subscription.ended_because))()
        assert got == [0]
        assert why.startswith("it belongs to the parent process")
        tap.put(*numbered(1, 1), None)
        assert numbers(subscription) == [0, 1]


# ---------------------------------------------------------------- health, arguments, a real upstream


def test_a_thread_that_cannot_start_is_told_and_nothing_runs(tap: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    hub = EventHub(tap)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"):
            hub.start()
    assert not hub.health().is_running
    subscription = hub.subscribe()
    tap.put(*numbered(1), None)
    hub.start()
    assert numbers(subscription) == [0]
    hub.close()


def test_health_is_ready_for_json(tap: Tap) -> None:
    hub = EventHub(tap, functools.partial(EventBuffer, 10))
    assert not hub.health().is_running
    assert hub.health().last_event_age is None
    with hub:
        stalled, left = hub.subscribe(), hub.subscribe()
        tap.put(*numbered(12))
        eventually(lambda: left.buffer.dropped_count == stalled.buffer.dropped_count == 2, BOUND)
        left.close()
        health = json.loads(json.dumps(dataclasses.asdict(hub.health())))
        assert health["is_running"] is True
        assert (health["healthy"], health["unhealthy"], health["dropped"], health["disconnected"]) == (0, 1, 4, 0)
        assert health["events"] == 12
        assert health["last_event_age"] >= 0
        (one,) = health["subscribers"]
        assert (one["number"], one["is_healthy"], one["metrics"]["size"]) == (1, False, 10)
        assert one["unhealthy_for"] >= 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"buffer": functools.partial(EventBuffer, overflow="block")}, ValueError, "waits for no subscriber"),
        ({"buffer": functools.partial(EventBuffer, flush_interval=1)}, ValueError, "flush_interval="),
        ({"buffer": EventBuffer()}, TypeError, "is called for a new EventBuffer"),
        ({"buffer": list}, TypeError, "makes none"),
        ({"replay": -1}, ValueError, "replay must be at least 0"),
        ({"replay": "many"}, TypeError, "replay is a number"),
        ({"replay": True}, TypeError, "replay is a number"),
    ],
)
def test_what_will_not_do_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EventHub(iter(()), **arguments)


@pytest.mark.parametrize("kind", ["stream", "response"])
def test_an_upstream_of_ours_is_closed_with_the_hub(
    new_session: Callable[..., syncflow.Session], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Though its thread waits for the next event; and that is no failure."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply_head(200, {"Content-Type": "text/event-stream"}))
        peer.wait_step()
        peer.send(b"".join(map(encode, numbered(500))))
        peer.wait_closed()

    with ScriptedServer(script) as server:
        session = new_session()
        upstream: Any = session.sse(server.url) if kind == "stream" else session.get(server.url, stream=True)
        with EventHub(upstream) as hub:
            consumers = [Consumer(hub.subscribe()) for _ in range(4)]
            server.step()
            for consumer in consumers:
                eventually(lambda consumer=consumer: len(consumer.got) == 500, BOUND)  # type: ignore[misc]
        for consumer in consumers:
            assert numbers(consumer.join()) == list(range(500))
            assert consumer.error is None
        server.wait_until_idle()
    assert caplog.records == []


def test_a_response_without_events_is_refused(new_session: Callable[..., syncflow.Session]) -> None:
    with AppServer() as server, new_session().get(server.url, stream=True) as response:
        with pytest.raises(syncflow.ContentTypeError):
            EventHub(response)


def test_a_generator_is_closed_by_the_thread_that_is_in_it() -> None:
    """`close` does not wait for that: its next event may come tomorrow."""
    tomorrow, ended = threading.Event(), threading.Event()

    def events() -> Iterator[ServerSentEvent]:
        try:
            yield numbered(1)[0]
            assert tomorrow.wait(BOUND)
            yield numbered(1, 1)[0]
        finally:
            ended.set()

    hub = EventHub(events())
    subscription = hub.subscribe()
    with hub:
        assert next(subscription) == numbered(1)[0]
    assert not ended.is_set()
    assert list(subscription) == []
    tomorrow.set()
    assert ended.wait(BOUND)
    assert hub.health().events == 1


def test_what_the_closing_of_an_upstream_raises_comes_out() -> None:
    class Stubborn(list[ServerSentEvent]):
        def close(self) -> None:
            raise ValueError("not now")

    hub = EventHub(Stubborn())
    with pytest.raises(ValueError, match="not now"):
        hub.close()


def test_an_upstream_that_fails_is_in_the_log(tap: Tap, caplog: pytest.LogCaptureFixture) -> None:
    """Also if nobody has subscribed."""
    with caplog.at_level(logging.WARNING, "syncflow.sse"), EventHub(tap) as hub:
        tap.put(OSError("the feed is gone"))
        eventually(lambda: caplog.records, BOUND)
        assert hub.health().error == "OSError: the feed is gone"
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [OSError]


def test_no_lock_is_held_while_an_event_is_asked_for_its_id(tap: Tap) -> None:
    """Events may be the program's own, and ask the hub."""
    hub: EventHub

    class Own:
        @property
        def id(self) -> str:
            return str(len(hub.health().subscribers))

    with EventHub(tap) as hub:
        tap.put(Own(), Own())
        settled(hub, 2)
        with pytest.raises(StopIteration):
            subscription = hub.subscribe("1")
            assert subscription.resumed is True
            tap.put(None)
            next(subscription)

"""Each route of the gateway, under gunicorn and under waitress."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from syncflow import Session
from syncflow.testing import (
    AppServer,
    Peer,
    Receiver,
    Request,
    Response,
    ScriptedServer,
    eventually,
    json_response,
    pattern_pieces,
    pattern_sha256,
    reply,
    reply_head,
)

from .conftest import PATIENCE, Entered, Start

ONE = ("--workers", "1")

both = pytest.mark.parametrize("server", ["gunicorn", "waitress"])


def answering(value: Any, status: int = 200) -> AppServer:
    return AppServer(lambda request: json_response(value, status))


@both
def test_a_page_asks_all_three_at_the_same_time(start: Start, client: Session, server: str) -> None:
    all_are_asked = threading.Barrier(3)

    def service(request: Request) -> Response:
        if request.path.endswith("/404"):
            return json_response("no", 404)
        all_are_asked.wait(PATIENCE)
        return json_response({"of": request.path})

    gateway = start(server, *ONE, catalogue=AppServer(service), stock=AppServer(service), reviews=AppServer(service))
    answer = client.get(f"{gateway.url}/products/7")
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "product": 7,
            "catalogue": {"of": "/products/7"},
            "stock": {"of": "/stock/7"},
            "reviews": {"of": "/reviews/7"},
            "missing": {},
        },
    )
    answer = client.get(f"{gateway.url}/products/404")
    assert (answer.status_code, answer.json()) == (
        502,
        {"product": 404, "missing": dict.fromkeys(("catalogue", "stock", "reviews"), "answered 404")},
    )
    assert client.get(f"{gateway.url}/products/none").status_code == 404


@both
def test_a_page_without_a_part_and_what_is_said_of_it(start: Start, client: Session, server: str) -> None:
    """The deadline, a circuit that opens, health and metrics."""
    is_slow = threading.Event()

    def reviews(request: Request) -> Response:
        if not is_slow.is_set():
            is_slow.set()
            left.wait(PATIENCE)
        return json_response("here")

    left = threading.Event()
    with answering("no", 500) as stock:
        gateway = start(
            server, *ONE, deadline=3, catalogue=answering("here"), stock=Entered(stock), reviews=AppServer(reviews)
        )
        answer = client.get(f"{gateway.url}/health/clients")
        said = answer.json()
        assert (answer.status_code, said["healthy"], said["origins"]) == (200, True, {})
        assert said["process"] in (gateway.workers() or {gateway.process.pid})

        answer = client.get(f"{gateway.url}/products/7")
        left.set()
        assert (answer.status_code, answer.json()) == (
            200,
            {"product": 7, "catalogue": "here", "missing": {"stock": "answered 500", "reviews": "no answer in time"}},
        )
        for _ in range(4):  # so many more open the circuit
            assert client.get(f"{gateway.url}/products/7").json()["missing"] == {"stock": "answered 500"}
        missing = client.get(f"{gateway.url}/products/7").json()["missing"]
        assert missing == {"stock": "has failed too often, and is left alone for a while"}

        answer = client.get(f"{gateway.url}/health/clients")
        assert (answer.status_code, answer.json()["healthy"]) == (503, False)
        assert answer.json()["origins"][stock.url]["circuit"] == "open"
        answer = client.get(f"{gateway.url}/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        samples = [sample for family in parse(answer.text) for sample in family.samples]
        assert {sample.labels["session"] for sample in samples} == {f"gateway-{said['process']}"}
        circuits = {
            sample.labels["state"]: sample.value
            for sample in samples
            if sample.name == "syncflow_circuit_state" and sample.labels["origin"] == stock.url
        }
        assert circuits == {"open": 1, "closed": 0, "half-open": 0}


@both
def test_an_upload(start: Start, client: Session, server: str) -> None:
    """gunicorn hands it out as it comes, a kilobyte or what is there; waitress once it has all, so it never hands out
    one that breaks off."""
    with Receiver() as catalogue:
        gateway = start(server, *ONE, catalogue=Entered(catalogue))
        with client.upload("PUT", f"{gateway.url}/products/7/picture") as upload:
            pieces = map(bytes, pattern_pieces(3_000_000))
            upload.write(next(pieces))
            upload.flush()
            if server == "gunicorn":
                eventually(lambda: catalogue.bytes_received, PATIENCE)
            for piece in pieces:
                upload.write(piece)
            answer = upload.finish()
        assert (answer.status_code, answer.json()["sha256"]) == (200, pattern_sha256(3_000_000))
        if server == "gunicorn":
            upload = client.upload("PUT", f"{gateway.url}/products/7/picture")
            upload.write(bytes(100_000))
            eventually(lambda: catalogue.bytes_received > 3_000_000, PATIENCE)
            upload.abort()
            assert [receipt.complete for receipt in catalogue.wait_for_receipts(2)] == [True, False]
    assert "Traceback" not in gateway.log


@both
def test_an_answer_is_passed_on_as_it_is(start: Start, client: Session, server: str) -> None:
    """Before the request is complete; and with nothing added: Flask would say of what type it is, and werkzeug change
    where it points to."""

    def refuses(peer: Peer) -> None:
        peer.read_head()
        peer.read_exactly(1000)
        peer.send(reply(413, b"too large", {"Connection": "close"}))
        peer.half_close()
        peer.wait_closed()

    def redirects(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(302, b"there", {"Location": "/a|b", "Connection": "close"}))

    gateway = start(server, *ONE, catalogue=ScriptedServer(refuses, redirects, repeat=False))
    was_sent = threading.Event()

    def pieces() -> Iterator[bytes]:
        for piece in pattern_pieces(1_000_000 if server == "waitress" else 10_000_000_000):
            yield bytes(piece)
        was_sent.set()

    answer = client.put(f"{gateway.url}/products/7/picture", data=pieces())
    assert (answer.status_code, answer.content) == (413, b"too large")
    assert was_sent.is_set() == (server == "waitress")

    answer = client.get(f"{gateway.url}/products/7/picture", allow_redirects=False)
    assert (answer.status_code, answer.content) == (302, b"there")
    assert {name.lower() for name in answer.headers} - {"connection", "date", "server"} == {
        "content-length",
        "location",
    }
    assert answer.headers["Location"] == "/a|b"
    assert "Traceback" not in gateway.log


@both
def test_events(start: Start, client: Session, server: str) -> None:
    """From where the client stands, one by one. The service breaks off, and is asked for what comes behind. A client
    that leaves ends it: at once under gunicorn, though nothing happens; with the next event under waitress."""
    asked: list[str] = []

    def stock(peer: Peer) -> None:
        number = int(peer.read_request().headers["last-event-id"]) + 1
        asked.append(str(number))
        peer.send(reply_head(200, {"Content-Type": "text/event-stream", "Connection": "close"}))
        peer.send(b"retry: 1\nid: %d\ndata: %d\n\n" % (number, number))
        if number == 42:
            peer.wait_step()
            return
        while server == "waitress":  # until nobody is there
            peer.pause(0.02)
            peer.send(b"data: 0\n\n")
        peer.wait_closed()

    with ScriptedServer(stock, timeout=PATIENCE) as service:
        gateway = start(server, *ONE, stock=Entered(service))
        with client.sse(f"{gateway.url}/stock/events", last_event_id="41") as events:
            assert (next(events).data, events.last_event_id) == ("42", "42")
            service.step()
            assert (next(events).data, events.last_event_id) == ("43", "43")
            assert service.open_connections == 1
        service.wait_until_idle()
    assert asked == ["42", "43"]
    assert "Traceback" not in gateway.log

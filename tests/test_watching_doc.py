"""docs/watching.md: its code runs as it stands there, and its tables say what there is."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

import syncflow
from syncflow.ext.prometheus import SyncflowCollector
from syncflow.logs import LOG
from syncflow.testing import AppServer, refused_port
from syncflow.watching import EVENTS, Record

DOCUMENT = (Path(__file__).parent.parent / "docs" / "watching.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
LOGGERS = ("", "syncflow", "syncflow.pool", "syncflow.wire")


@pytest.fixture
def names(new_session: Callable[..., syncflow.Session], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the page takes for granted; and the log as it was before."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with AppServer() as server:
        yield {
            "Histogram": Histogram,
            "json": json,
            "log_file": io.StringIO(),
            "logging": logging,
            "registry": CollectorRegistry(),
            "session": new_session(),
            "syncflow": syncflow,
            "url": server.url,
        }
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "docs/watching.md", "exec"), names)


def block_with(text: str) -> str:
    (block,) = [block for block in BLOCKS if text in block]
    return block


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose heading begins so."""
    _, _, rest = DOCUMENT.partition(f"\n| {heading} |")
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_its_code_runs(names: dict[str, Any], number: int) -> None:
    run(BLOCKS[number], names)


def test_its_observer_says_what_failed(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with refused_port() as refused, pytest.raises(syncflow.ConnectionError):
        run(block_with("class Slow"), {**names, "url": refused.url})
    assert capsys.readouterr().out.startswith(refused.url)


def test_its_events_are_all_there_are() -> None:
    common = {field.name for field in fields(Record)}
    for cells, (event, kind) in zip(sorted(rows("event")), sorted(EVENTS.items()), strict=True):
        assert cells[0] == f"`{event}`"
        named = re.findall(r"`(\w+)`", cells[2])
        own = [field.name for field in fields(kind) if field.name not in common]
        assert named == own, event


def test_its_loggers_are_all_there_are(names: dict[str, Any]) -> None:
    assert {cells[0].strip("`") for cells in rows("logger")} == set(LOGGERS[1:])


def test_its_attributes_are_all_there_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "syncflow")
    values: dict[str, Any] = {"request": syncflow.Request("GET", "http://host/").prepare(), "origin": "http://host:80"}
    values |= {"peer": ("10.0.0.1", 80), "headers": [], "error": syncflow.ConnectionError("lost"), "state": "open"}
    for event, kind in EVENTS.items():
        if hasattr(LOG, event):
            getattr(LOG, event)(kind(**{field.name: values.get(field.name, 1) for field in fields(kind)}))
    written = {name for record in caplog.records for name in vars(record) if name.startswith("http_")}
    assert {name for cells in rows("attribute") for name in re.findall(r"`(http_\w+)`", cells[0])} == written


def test_its_formatter_writes_structures(names: dict[str, Any]) -> None:
    run(block_with("class JSONFormatter"), names)
    lines = [json.loads(line) for line in names["log_file"].getvalue().splitlines()]
    ended = [line for line in lines if "http_status" in line and line["logger"] == "syncflow"]
    assert [(line["http_method"], line["http_status"], line["level"]) for line in ended] == [("GET", 200, "DEBUG")]
    assert {line["logger"] for line in lines} == set(LOGGERS[1:])
    for line in lines:
        assert line.keys() >= {"http_id", "http_origin", "http_method", "http_url"}


def test_its_metrics_are_all_there_are(names: dict[str, Any]) -> None:
    named = {
        cells[0].strip("`"): (cells[1].split(",")[0], re.findall(r"`([\w-]+)`", cells[2])) for cells in rows("metric")
    }
    names["session"].get(names["url"])
    found: dict[str, tuple[str, list[str]]] = {}
    for family in SyncflowCollector(names["session"]).collect():
        for sample in family.samples:
            _, labels = found.setdefault(sample.name, (family.type, []))
            for label in sample.labels.keys() - {"session", "origin"}:
                labels += [label] if label not in labels else []
                labels.append(sample.labels[label])
    assert named == found


def test_its_collector_and_its_histogram_are_scraped(names: dict[str, Any]) -> None:
    run(block_with("SyncflowCollector({"), names)
    run(block_with("class Durations"), names)
    text = generate_latest(names["registry"]).decode()
    assert 'http_client_request_duration_seconds_count{status="200"} 1.0' in text
    assert "# TYPE syncflow_connections gauge" in text

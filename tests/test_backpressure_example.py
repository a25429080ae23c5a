"""examples/backpressure_test: the application serves what its README says and ends cleanly, and the checks made from it
notice what curl, hey and wrk complain of. What it is there to measure takes a quiet machine: see `.ci/run`."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from syncflow import Session
from syncflow.testing import AppServer, Request, Response, eventually

FOLDER = Path(__file__).parent.parent / "examples" / "backpressure_test"
PATIENCE = 20.0  # seconds; an interpreter on a busy machine takes its time
MIB = 1 << 20
ENABLE = "SYNCFLOW_BACKPRESSURE_TEST"

Start = Callable[..., "tuple[subprocess.Popen[str], str]"]


def start_app(*arguments: str, stdin: int = subprocess.DEVNULL, **environment: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SYNCFLOW_")}
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(FOLDER / "app.py"), "--port", "0", "--threads", "8", *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=inherited | {"PYTHONSAFEPATH": "1", "NO_PROXY": "127.0.0.1"} | environment,
    )


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url), url
    return url


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the application with few threads; the process and its URL."""
    processes = []

    def started(*arguments: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
        process = start_app(*arguments, **environment)
        processes.append(process)
        return process, url_of(process)

    yield started
    for process in processes:
        with process:
            process.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of one for all tests that only ask it."""
    with start_app(SYNCFLOW_CHUNK_SIZE="1000", SYNCFLOW_STREAM_MB="2") as process:
        yield url_of(process)
        process.kill()


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(timeout=PATIENCE) as session:
        session.trust_env = False
        yield session


@pytest.mark.parametrize("prefix", ["", "/proxy"])
class TestServes:
    @pytest.mark.parametrize(("path", "size"), [("/stream", 2 * MIB), ("/stream/1", MIB), ("/stream/0", 0)])
    def test_a_stream(self, url: str, session: Session, prefix: str, path: str, size: int) -> None:
        response = session.get(url + prefix + path)
        assert (response.status_code, len(response.content)) == (200, size)
        assert response.headers["Content-Length"] == str(size)
        assert response.content[:256] == bytes(range(256))[: min(size, 256)]

    @pytest.mark.parametrize("chunked", [False, True])
    def test_an_upload(self, url: str, session: Session, prefix: str, chunked: bool) -> None:
        data = iter([bytes(60_000), bytes(40_000)]) if chunked else bytes(100_000)
        response = session.post(f"{url}{prefix}/upload?rate=0", data=data)
        assert (response.status_code, response.json()["bytes"]) == (200, 100_000)

    def test_an_upload_no_faster_than_its_rate(self, url: str, session: Session, prefix: str) -> None:
        report = session.post(f"{url}{prefix}/upload?rate=200000", data=bytes(100_000)).json()
        assert report["bytes"] == 100_000
        assert report["seconds"] >= 0.495

    def test_an_upload_is_read_at_a_mib_a_second_by_itself(self, url: str, session: Session, prefix: str) -> None:
        report = session.post(f"{url}{prefix}/upload", data=bytes(MIB // 4)).json()
        assert report["seconds"] >= 0.245

    def test_a_head(self, url: str, session: Session, prefix: str) -> None:
        for _ in range(2):  # the connection is as it should be
            assert session.head(url + prefix + "/stream").headers["Content-Length"] == str(2 * MIB)

    @pytest.mark.parametrize("rate", ["fast", "-1", "inf", "nan"])
    def test_a_rate_that_makes_no_sense(self, url: str, session: Session, prefix: str, rate: str) -> None:
        response = session.post(f"{url}{prefix}/upload?rate={rate}", data=b"x")
        assert response.status_code == 400
        assert "rate" in response.text

    @pytest.mark.parametrize("path", ["/", "/stream/", "/stream/x", "/stream/-1", "/streams", "/upload/1"])
    def test_nothing_else(self, url: str, session: Session, prefix: str, path: str) -> None:
        assert session.get(url + prefix + path).status_code == 404


def test_another_upstream(start: Start, session: Session) -> None:
    def upstream(request: Request) -> Response:
        return Response(200, {"X-Path": request.path}, b"mine")

    with AppServer(upstream) as server:
        _, url = start("--upstream", server.url + "/")
        response = session.get(url + "/proxy/stream/7")
        assert (response.text, response.headers["X-Path"]) == ("mine", "/stream/7")
        assert len(session.get(url + "/stream/1").content) == MIB


def test_it_is_not_left_open(start: Start, session: Session) -> None:
    """For who starts it by something else than a hand."""
    process, url = start(**{ENABLE: "0"})
    for path in ("/stream", "/proxy/stream", "/upload", "/proxy/upload"):
        response = session.get(url + path)
        assert response.status_code == 404
        assert f"{ENABLE}=1" in response.text
    assert process.stdout is not None
    assert ENABLE in process.stdout.readline()


@pytest.mark.parametrize("arguments", [("--write-low-watermark", "65536"), ("--write-high-watermark", "0")])
def test_watermarks_that_make_no_sense(arguments: tuple[str, str]) -> None:
    process = start_app(*arguments)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "watermark" in errors.splitlines()[-1]


@pytest.mark.parametrize("value", ["x", "0", "-1", "1.5"])
@pytest.mark.parametrize("name", ["SYNCFLOW_CHUNK_SIZE", "SYNCFLOW_STREAM_MB"])
def test_an_environment_that_makes_no_sense(name: str, value: str) -> None:
    process = start_app(**{name: value})
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert errors.splitlines()[-1] == f"app.py: error: {name} is a whole number from 1, not {value!r}"


@pytest.mark.parametrize("upstream", [(), ("--upstream", "none", "--until-stdin-ends")])
def test_a_port_that_is_taken(upstream: tuple[str, ...]) -> None:
    """It says so at last, also while a thread waits for the end of stdin."""
    with AppServer() as taken:
        process = start_app("--port", str(taken.port), *upstream, stdin=subprocess.PIPE)
        assert process.stderr is not None
        errors = process.stderr.read()
        with process:
            assert process.wait(PATIENCE) == 1
    said = errors.splitlines()[-1]  # cheroot leaves a socket open, of which Python complains with -W error
    assert said.startswith(f"127.0.0.1:{taken.port}: cannot listen there, take another --port: ")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_with_streams_under_way(start: Start, session: Session, how: signal.Signals) -> None:
    """Of clients that take nothing, and uploads that are hardly read."""
    process, url = start()
    upstream = children(process)
    responses = [session.get(url + path, stream=True) for path in ("/stream/99", "/proxy/stream/99")]
    uploads = [session.upload("POST", f"{url}{path}?rate=1") for path in ("/upload", "/proxy/upload")]
    for upload in uploads:
        upload.write(bytes(10_000))
        upload.flush(PATIENCE)
    process.send_signal(how)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    for upload in uploads:
        upload.abort()
    for response in responses:
        response.close()
    eventually(lambda: not any(map(is_alive, upstream)))


def test_its_upstream_ends_with_it(start: Start) -> None:
    """However it ends."""
    process, _ = start()
    (upstream,) = children(process)
    assert is_alive(upstream)
    process.kill()
    eventually(lambda: not is_alive(upstream), PATIENCE)


def children(process: subprocess.Popen[str]) -> list[int]:
    if not sys.platform.startswith("linux"):
        pytest.skip("nothing tells whose children there are")
    threads = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(child) for path in threads for child in path.read_text().split()]


def is_alive(pid: int) -> bool:
    """A zombie, which nobody in a container may fetch, is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ------------------------------------------------------------------------------------------------------------ check.py


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("backpressure_check", FOLDER / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


HEY = "Latency distribution:\n  10% in 0.1 secs\n\nStatus code distribution:\n  [200]\t329 responses\n"
WRK = "  388 requests in 2.10s, 388.53MB read\nRequests/sec:    184.76\n"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (HEY, "329 answers of 1 MiB, no error"),
        (WRK, "388 answers of 1 MiB, no error"),
        (HEY + "  [502]\t2 responses\n", "[502]\t2 responses"),
        (HEY + "\nError distribution:\n  [50]\tGet refused\n", "[50]\tGet refused"),
        (WRK + "  Socket errors: connect 0, read 3, write 0, timeout 0\n", "Socket errors: connect 0, read 3, "),
        (WRK + "  Non-2xx or 3xx responses: 4\n", "Non-2xx or 3xx responses: 4"),
        ("", "0 answers of 1 MiB, no error"),
    ],
)
def test_what_hey_and_wrk_complain_of_is_noticed(check: ModuleType, said: str, text: str) -> None:
    result = check.errors_in(said, "hey")
    assert result.text.startswith(text)
    assert result.is_green is (said in (HEY, WRK))


def test_the_table_says_what_was_measured(check: ModuleType) -> None:
    def results(name: str, **figures: float) -> list[object]:
        return [check.Result(f"{way}: {name}", "", True, figures) for way in ("download", "upload")]

    measured = results("memory", memory=3.45) + results("throughput", rate=1.01)
    measured += results("fairness", alone=200.0, beside=190.0)
    table = check.table({"64/16": measured, "none": results("counter-check", memory=412.0)})
    assert "| 64/16 | upload | +3.5 MB | 1.01 MiB/s | 200 MiB/s | 95% |" in table
    assert "| none | download | over 412 MB |" in table
    assert json.dumps(measured[0].__dict__)

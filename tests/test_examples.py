"""The examples: each runs as its README says, warns of nothing, and prints what it is there to show."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = sorted(path.name for path in EXAMPLES.glob("*.py"))

# For every file, what has to be in its output, in this order; regular expressions. One without an entry fails.
EXPECTED: dict[str, list[str]] = {
    "cancel_from_another_thread.py": [r"called back: 127\.0\.0\.1:\d+: .*closed"],
    "database_dump_upload.py": [r"sent: \d{6} bytes\n", r"50000 rows, the last is \['49999', 'Žďár, .*', '50999'\]"],
    "early_answer.py": [r"413 .* - was the whole body sent\? False", r"413 - after \d+ bytes"],
    "echo_duplex.py": [r"20000 lines came back, the last one 'line 19999', and then 'goodbye'"],
    "event_fanout.py": [
        r"while the slow ones were still slow: True\n",
        r"the health of one: .*'dropped': [1-9]",
        # Six are asleep; whether one of the six that are only slow is behind at this moment is a matter of chance.
        r'of all: {"is_running": true, .*"healthy": 5[0-6], "unhealthy": (1[0-2]|[6-9]), "dropped": [1-9]',
        r"fast: 50 of 50 got all (\d+) events, in order\n",
        r"slow: 12 of 12 have lost some, and were told how many",
        r"no thread is left",
    ],
    "graceful_service.py": [
        r"SIGTERM while 10 requests were under way: /0 /1 /2 /3 /4 /5 /6 /7 /8 /9\n",
        r"all was finished\n",
        r"exit code 0\n",
    ],
    "llm_tokens.py": [r"callers block.* costs nothing\. \ndone\n", r"the server has stopped: True"],
    "progress_bar.py": [r"\r\[#* +\] +\d+ %", r"\r\[#{40}\] 100 %\n", r"the server has 4000000 bytes"],
    "resume_download.py": [r"given up; there is \['\d+ bytes'\]", r"saved: 5000000 bytes, whole: True", r"bytes=\d+-"],
    "server_to_server.py": [
        r"moved: 50000000 bytes\n.*here: +([0-9a-f]{64})\n.*says: +\1\n",
        r"not moved: gunzip: not gzip",
        r"was the second upload whole\? False",
    ],
    "tar_directory_to_server.py": [r"sent: \d{4} bytes", r"backup/notes.txt 15\n", r"backup/pictures/2.raw 1000000\n"],
    "upload_with_callbacks.py": [
        r"ready: .*\n",
        r"(\d+) of \1 bytes\n",
        r"drained, \d+ times",
        r"has 9300000 bytes",
    ],
}

# Lines, for those that have more to show than the others.
LONGER = {"event_fanout.py": 240, "graceful_service.py": 75}


@pytest.mark.parametrize("name", FILES)
def test_it_does_what_it_says(name: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-W", "error", str(EXAMPLES / name)]
    ended = subprocess.run(command, check=False, capture_output=True, timeout=50, cwd=tmp_path, env=environment)
    output, errors = ended.stdout.decode(), ended.stderr.decode()
    assert (ended.returncode, errors) == (0, "")
    at = 0
    for pattern in EXPECTED[name]:
        found = re.compile(pattern).search(output, at)
        assert found, f"no {pattern!r} in {output[at:]!r}"
        at = found.end()
    assert list(tmp_path.iterdir()) == [], "it leaves files behind"


def test_every_example_is_expected_to_print_something() -> None:
    assert set(EXPECTED) == set(FILES)
    assert all(EXPECTED.values())


def test_the_readme_names_every_example() -> None:
    named = re.findall(r"^- `([\w./]+)`: ", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    folders = [f"{path.parent.name}/" for path in EXAMPLES.glob("*/README.md")]
    assert sorted(named) == sorted([*FILES, *folders, "dashboard.html"])


@pytest.mark.parametrize("name", FILES)
def test_it_can_be_read_in_a_minute(name: str) -> None:
    source = (EXAMPLES / name).read_text()
    assert source.startswith('"""')
    assert len(source.splitlines()) <= LONGER.get(name, 40)


def test_ctrl_c_stops_the_model(start_example: Callable[..., subprocess.Popen[str]]) -> None:
    """In the middle of an answer that would take minutes."""
    process = start_example("llm_tokens.py", "word " * 20_000)
    assert process.stdout is not None
    assert process.stdout.read(10) == "word word "
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert re.fullmatch(r"(word )*\ncancelled\nthe server has stopped: True\n", output)
    assert (process.returncode, errors) == (0, "")

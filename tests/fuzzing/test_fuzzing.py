"""The targets of fuzzing, each with a bounded number of inputs, other ones in every run; and that each can fail.

`run_atheris` gives them more, for as long as one likes.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncflow import urls
from syncflow.http1 import framing

from .run_atheris import SEEDS, main
from .strategies import GRAMMARS, inputs_of
from .targets import TARGETS

pytestmark = pytest.mark.once

EXAMPLES = 100

_NEVER = re.compile("(?!)")


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_comes(name: str, data: st.DataObject) -> None:
    TARGETS[name](data.draw(inputs_of(name)))


def test_every_target_has_seeds_and_a_grammar() -> None:
    assert TARGETS.keys() == SEEDS.keys() == GRAMMARS.keys()
    assert all(SEEDS.values())


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_break_nothing(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


def _one_byte_less(*given: Any) -> Any:
    kind, length, persists = _FRAMING(*given)
    return kind, max(length - 1, 0), persists


_FRAMING = framing.response_framing

# Something in syncflow for each target, and what makes it wrong.
BREAKAGES: dict[str, tuple[str, Any]] = {
    "response": ("syncflow.http1.framing.response_framing", _one_byte_less),
    "chunks": ("syncflow.http1.ChunkedFraming.finish", lambda self: b"0\r\n"),
    "request": ("syncflow.http1.serializer._read_back", lambda lines: ANY),
    "prepared": ("syncflow.http1.serializer._read_back", lambda lines: ANY),
    "events": ("syncflow.sse.decoder.BOM", b"\xff"),
    "event": ("syncflow.sse.events._refuse_line_breaks", lambda *given: None),
    "coding": ("syncflow.decoders._is_zlib_header", lambda data: False),
    "form": ("syncflow.bodies.multipart._ESCAPES", {}),
    "url": ("syncflow.urls._BAD_AUTHORITY", _NEVER),
    "reference": ("syncflow.urls.urljoin", lambda base, text: urllib.parse.urljoin(base, text.strip())),
    "params": ("syncflow.urls.encode_pairs", lambda pairs: urllib.parse.urlencode(pairs).replace("+", "%2B")),
    "password": ("syncflow.urls._obscured", urls.masked),
    "redirect": ("syncflow.redirects.SessionRedirectMixin.should_strip_auth", lambda *given: False),
    "cookies": ("syncflow.cookies.RFC6265Policy.set_ok_domain", lambda *given: True),
    "text": ("syncflow.text._ordered", lambda codec, pieces: (codec, pieces)),
    "waits": ("syncflow.retries._timestamp", lambda date: float(date)),
    "links": ("syncflow.response_head.parse_header_links", lambda field: [{}]),
    "challenge": ("syncflow.auth._CONTROL", _NEVER),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_broken_promise_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the seeds alone."""
    urls.parse_url.cache_clear()
    monkeypatch.setattr(*BREAKAGES[name])
    with pytest.raises(Exception) as caught:
        for seed in SEEDS[name]:
            TARGETS[name](seed)
    urls.parse_url.cache_clear()
    assert not isinstance(caught.value, NameError | ImportError | AttributeError)


def test_the_script_names_its_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no such target"]) == main([]) == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in TARGETS)

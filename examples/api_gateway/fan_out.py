"""One question to several services at the same time, by one session, with one deadline for all of them.

Knows threads and what an error means to who has asked. Knows no service, and no Flask.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import syncflow

logger = logging.getLogger("gateway")


class FanOut:
    """Threads that ask, of each process its own: a child that is forked begins with none, whatever the parent did.

    Args:
        threads: calls under way at once, of all requests together.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        # It starts a thread when there is something to do for it, and not before.
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="fan-out")

    def get(
        self, session: syncflow.Session, urls: Mapping[str, str], seconds: float
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Any thread. What those have answered, from JSON, that have done so in `seconds`; and of the others why not,
        in words for a client, which is not told where they are. The whole error goes to the log."""
        until = time.monotonic() + seconds
        calls = {name: self._executor.submit(_get, session, url, until) for name, url in urls.items()}
        answers: dict[str, Any] = {}
        missing: dict[str, str] = {}
        for name, call in calls.items():
            try:
                # Each ends when its time is up, wherever it waits; so do those before it, if no thread is free.
                answers[name] = call.result()
            except syncflow.RequestException as error:
                logger.warning("%s: %s", name, error)
                missing[name] = _in_words(error)
        return answers, missing


def _get(session: syncflow.Session, url: str, until: float) -> Any:
    left = until - time.monotonic()
    if left <= 0:
        raise syncflow.TotalTimeout(f"{url}: there was no thread for it in time")
    # Tries, the delays between them, the body: all of it in what is left.
    answer = session.get(url, timeout=replace(session.timeout, total=left))
    answer.raise_for_status()
    return answer.json()


def _in_words(error: syncflow.RequestException) -> str:
    if isinstance(error, syncflow.CircuitOpen):
        return "has failed too often, and is left alone for a while"
    if isinstance(error, syncflow.Timeout):
        return "no answer in time"
    if error.response is not None:
        return f"answered {error.response.status_code}"
    return "no answer"

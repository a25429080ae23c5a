"""The curl command, for the upload of a file. Its own `time_total` counts, not the start of the process."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager

from ..workloads import Kind, Site
from .protocol import Client, Get, check_count

_found = shutil.which("curl")
if _found is None:
    raise ImportError("no curl command on the PATH")
COMMAND: str = _found


class Curl(Client):
    """A process for each upload, so its connection is never warm; at these sizes it does not show."""

    kinds = frozenset({Kind.PUT_FILE})

    def __init__(self, site: Site, threads: int) -> None:
        super().__init__(site, threads)
        self._trust = ["--cacert", site.ca] if site.ca else []

    @staticmethod
    def version() -> str:
        return subprocess.check_output([COMMAND, "--version"], text=True).split()[1]

    def close(self) -> None:
        pass

    def time_transfer(self, kind: Kind, size: int, path: str) -> float:
        counted, seconds = self._put(path)
        check_count(counted, size)
        return seconds

    def put_file(self, path: str) -> int:
        return self._put(path)[0]

    def _put(self, path: str) -> tuple[int, float]:
        options = ["--silent", "--show-error", "--fail", "--write-out", " %{time_total}", *self._trust]
        command = [COMMAND, "--disable", *options, "--upload-file", path, self.site.upload]
        counted, seconds = subprocess.check_output(command, text=True).split()
        return int(counted), float(seconds)

    def lane(self) -> AbstractContextManager[Get]:
        raise NotImplementedError

    def get_fresh(self) -> bytes:
        raise NotImplementedError

    def put_pieces(self, body: Iterator[bytes]) -> int:
        raise NotImplementedError

    def download(self, size: int) -> int:
        raise NotImplementedError

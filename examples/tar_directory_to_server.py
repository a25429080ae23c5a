"""A directory goes to a server as a packed archive, which is never whole anywhere: nothing is written to a disk."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

import syncflow
from syncflow.testing import AppServer, Request, Response


def unpack(request: Request) -> Response:
    with tarfile.open(fileobj=io.BytesIO(request.body), mode="r:gz") as archive:
        listed = [f"{member.name} {member.size}\n" for member in archive if member.isfile()]
    return Response(200, {"Content-Type": "text/plain"}, "".join(sorted(listed)).encode())


with AppServer(unpack) as server, syncflow.Session() as session, tempfile.TemporaryDirectory() as name:
    directory = Path(name)
    (directory / "pictures").mkdir()
    for number in range(3):
        (directory / "pictures" / f"{number}.raw").write_bytes(bytes(1_000_000))
    (directory / "notes.txt").write_text("three pictures\n")

    with (
        session.upload("PUT", server.url, headers={"Content-Type": "application/gzip"}) as upload,
        tarfile.open(fileobj=upload, mode="w|gz") as archive,
    ):
        archive.add(directory, arcname="backup")
    print(f"sent: {upload.tell()} bytes; what the server found in them:")
    print(upload.response.text, end="")

"""An archive that is never whole anywhere: tarfile writes, syncflow sends, the server's pace is everybody's."""

from __future__ import annotations

import io
import tarfile

import syncflow
from syncflow.testing import Receiver

with Receiver() as server, syncflow.Session() as session:
    with (
        session.upload("PUT", server.url, headers={"Content-Type": "application/x-tar"}) as upload,
        tarfile.open(fileobj=upload, mode="w|") as archive,
    ):
        for number in range(100):
            member = tarfile.TarInfo(f"file-{number}")
            member.size = 100_000
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    print(upload.response.json(), "- written:", upload.tell())

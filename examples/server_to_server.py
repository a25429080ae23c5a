"""A download goes straight into an upload, hashed on its way: no disk, one chunk in memory, the slower one's pace."""

from __future__ import annotations

import syncflow
from syncflow import streams
from syncflow.testing import Receiver

SIZE = 50_000_000

with Receiver() as here, Receiver() as there, syncflow.Session() as session:
    checksum = streams.digest("sha256")
    with session.get(f"{here.url}/bytes/{SIZE}", stream=True) as response:
        response.raise_for_status()
        with session.upload("PUT", there.url, content_length=SIZE) as upload:
            moved = streams.pipe(response, checksum, sink=upload)
    print("moved:", moved, "bytes")
    print("their checksum here:        ", checksum.hexdigest())
    print("what the other server says: ", upload.response.json()["sha256"])

    # An error of either end ends both: the second server does not take a part for the whole.
    try:
        with session.upload("PUT", there.url) as upload:
            streams.pipe(session.get(f"{here.url}/bytes/{SIZE}", stream=True), streams.gunzip(), sink=upload)
    except syncflow.DecompressionError as error:
        print("not moved:", error)
    print("was the second upload whole?", there.wait_for_receipts(2)[1].complete)

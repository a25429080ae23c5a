"""An upload that the server refuses before it has read it: the program gets the 413, not a broken pipe."""

from __future__ import annotations

import syncflow
from syncflow.testing import early_response


def pieces() -> object:
    for _ in range(1024):
        yield b"x" * 65536


with early_response(413, then="reset", after_bytes=100_000) as server, syncflow.Session() as session:
    answer = session.post(server.url, data=pieces())
    print(answer.status_code, answer.reason, "- was the whole body sent?", answer.request_complete)

    with session.upload("POST", server.url) as upload:
        while True:
            upload.write(b"x" * 65536)  # raises EarlyResponse once the server has answered; the block swallows it
    print(upload.response.status_code, "- after", upload.offset, "bytes")

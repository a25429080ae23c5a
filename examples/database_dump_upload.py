"""Rows of a database become lines of CSV, are packed and sent while the query runs; no file, no list of all rows."""

from __future__ import annotations

import csv
import gzip
import io
import sqlite3

import syncflow
from syncflow.testing import AppServer, Request, Response


def count_rows(request: Request) -> Response:
    rows = list(csv.reader(io.StringIO(gzip.decompress(request.body).decode(), newline="")))
    return Response(200, {"Content-Type": "text/plain"}, f"{len(rows) - 1} rows, the last is {rows[-1]}".encode())


database = sqlite3.connect(":memory:")
database.execute("CREATE TABLE cities (id INTEGER, name TEXT, inhabitants INTEGER)")
cities = ((number, f"Žďár, district {number}", 1000 + number) for number in range(50_000))
database.executemany("INSERT INTO cities VALUES (?, ?, ?)", cities)

with AppServer(count_rows) as server, syncflow.Session() as session:
    # Each file writes to the one before it. They close from the last to the first; the end of the first, the upload's
    # own block, ends the body: or gives it up, if anything went wrong in between.
    with (
        session.upload("PUT", server.url, headers={"Content-Type": "text/csv", "Content-Encoding": "gzip"}) as upload,
        gzip.GzipFile(fileobj=upload, mode="wb") as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        rows = database.execute("SELECT * FROM cities ORDER BY id")
        writer = csv.writer(text)
        writer.writerow(column[0] for column in rows.description)
        writer.writerows(rows)
    print("sent:", upload.tell(), "bytes")
    print("the server has read", upload.response.text)
database.close()

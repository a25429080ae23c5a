"""Everything that lives on the worker thread, and the doors through which callers reach it.

Knows sockets, threads, time and HTTP/1.1. Knows nothing of sessions, URLs, cookies or response objects: what is
above hands it an origin, the bytes of a head and a body, and gets an `Exchange`.
"""

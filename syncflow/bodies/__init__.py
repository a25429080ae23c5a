"""What can be the body of a request: bytes, a file, an iterable, a form.

Each kind is a `Body`: it knows its length if that can be known, whether it can be sent again, and how to send itself
through a `BodyWriter`. None knows a socket or a session.
"""

from __future__ import annotations

from .kinds import Body, BytesBody, FileBody, IterableBody, body_of
from .multipart import MultipartBody, multipart_of
from .writer import BodyWriter

__all__ = ["Body", "BodyWriter", "BytesBody", "FileBody", "IterableBody", "MultipartBody", "body_of", "multipart_of"]

"""How much a peer may send before it is taken for broken or hostile.

Knows the numbers and where they come from. A value at the limit is accepted, one more is not.
"""

from dataclasses import dataclass, fields

# Limits that may be zero, and the trailer section, whose empty line is always there.
_LEAST = {"fields": 0, "empty_lines": 0, "informational": 0, "chunk_extension": 0, "trailers": 2}


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """The limits of a ResponseParser. Each has an error of its own, a subclass of LimitExceeded.

    >>> ParserLimits(head=64 * 1024).head
    65536
    """

    # Bytes of the status line without its line end. Apache takes 8,190, http.client 64 KiB for any line.
    status_line: int = 8 * 1024

    # Bytes from the status line to the empty line. Chromium takes 256 KiB, curl 300 KiB, Node.js 16 KiB.
    head: int = 256 * 1024

    # Field lines in a head, and in a trailer section. http.client stops at 100, which its users do meet.
    fields: int = 256

    # Empty lines before the status line: left by servers that end a body, or a 1xx, with a CRLF too many.
    empty_lines: int = 4

    # 1xx responses before the final one. Go stopped at 5, then counted bytes instead: 102 and 103 may repeat.
    informational: int = 20

    # Decimal digits of Content-Length: 19 hold every length below 2**63 (RFC 9110 8.6: beware of overflow).
    content_length_digits: int = 19

    # Hexadecimal digits of a chunk size: 16 hold 64 bits, as in Go and curl. Leading zeros count.
    chunk_size_digits: int = 16

    # Bytes between a chunk size and its line end. Go allows 4 KiB for the whole line.
    chunk_extension: int = 4 * 1024

    # Bytes of the trailer section, its empty line included. hyper takes 16 KiB too.
    trailers: int = 16 * 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            least = _LEAST.get(field.name, 1)
            if getattr(self, field.name) < least:
                raise ValueError(f"ParserLimits.{field.name} must be at least {least}")
        if self.status_line + 4 > self.head:
            raise ValueError("ParserLimits.head must hold ParserLimits.status_line and two line ends")


DEFAULT_LIMITS = ParserLimits()

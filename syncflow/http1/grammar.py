"""What RFC 9110 and 9112 allow in a name, a value and a line, said once for both directions.

Knows character sets and how to show a few bytes in an error. Knows no message, no state and no limit.
"""

import re

# RFC 9110 5.6.2: the characters of a token (method, field name, coding), as the inside of a character class.
TCHAR = r"!#$%&'*+\-.^_`|~0-9A-Za-z"

# RFC 9110 5.5: a field value as a sender may write it: visible ASCII, SP, HTAB and obs-text, nothing else.
FIELD_VCHAR = r"!-~\x80-\xff"

is_token = re.compile(rf"[{TCHAR}]+").fullmatch

# RFC 9110 5.6.3: OWS. str.strip() without it would also take what latin-1 calls white, such as \x85 and \xa0.
OWS = " \t"

# RFC 9112 2.2: an empty line ends the head and the trailer section; a lone LF may end a line.
find_empty_line = re.compile(rb"\n\r?\n").search
match_empty_lines = re.compile(rb"(?:\r?\n)*+").match


def shown(text: str | bytes | bytearray, most: int = 48) -> str:
    """The beginning of what was seen, fit for an error message.

    >>> shown(b"SSH-2.0-OpenSSH", most=7)
    "'SSH-2.0'..."
    """
    seen = text[:most] if isinstance(text, str) else text[:most].decode("latin-1")
    return f"{seen!r}..." if len(text) > most else repr(seen)

"""What is not to be seen by whoever reads a log, a trace or a bug report.

Knows the names of what gives access. Knows nothing of where it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["MASK", "is_secret", "redacted_fields", "redacted_url"]

MASK = "***"

# Header fields: those of RFC 9110 and RFC 6265, and what APIs have in their place, under many names.
_SECRET_FIELD = re.compile(r"auth|cookie|credential|csrf|key|passw|secret|session|signature|token", re.IGNORECASE)

# Parameters of a query: those that OpenTelemetry's conventions for `url.full` name, and OAuth's (RFC 6749, RFC 6750).
_SECRET_PARAMETER = re.compile(
    r"([?&](?:access_token|api_?key|awsaccesskeyid|client_secret|code|id_token|key|pass(?:word|wd)?|refresh_token|"
    r"secret|sig|signature|token|x-amz-credential|x-amz-security-token|x-amz-signature|x-goog-signature)=)[^&#]*",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"//[^/?#]*@")


def redacted_url(url: str) -> str:
    """Without user and password, and without the values of parameters that are known to be secret."""
    return _SECRET_PARAMETER.sub(rf"\1{MASK}", _USERINFO.sub(f"//{MASK}@", url))


def is_secret(name: str) -> bool:
    """Whether the value of a header field of that name gives access to something, or may do so."""
    return _SECRET_FIELD.search(name) is not None


def redacted_fields(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Header fields, the secret ones without their values, and URLs, as in Location and Referer, as `redacted_url`."""
    return [(name, MASK if is_secret(name) else redacted_url(value)) for name, value in fields]

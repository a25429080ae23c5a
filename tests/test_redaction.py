"""What gives access is not shown, in the log or as a command; what tells what happened is."""

from __future__ import annotations

import pytest

from syncflow.redaction import MASK, is_secret, redacted_fields, redacted_url

SECRET = ["Authorization", "Proxy-Authorization", "Authentication-Info", "Proxy-Authentication-Info", "Cookie"]
SECRET += ["Set-Cookie", "Api-Key", "ApiKey", "X-Api-Key", "X-Key", "Ocp-Apim-Subscription-Key", "X-Goog-Api-Key"]
SECRET += ["Private-Token", "X-Auth-Token", "X-Amz-Security-Token", "X-CSRF-Token", "X-CSRFToken", "x_vault_token"]
SECRET += ["X-Client-Secret", "X-Hub-Signature-256", "X-Password", "X-Auth"]
HARMLESS = ["Accept", "Content-Type", "Keep-Alive", "X-Request-Id", "ETag", "Last-Event-ID", "traceparent", "Date"]


@pytest.mark.parametrize("name", SECRET)
def test_fields_that_give_access(name: str) -> None:
    assert is_secret(name)
    assert is_secret(name.upper())
    assert redacted_fields([(name, "x"), ("Accept", "y")]) == [(name, MASK), ("Accept", "y")]


@pytest.mark.parametrize("name", HARMLESS)
def test_fields_that_do_not(name: str) -> None:
    assert redacted_fields([(name, "x")]) == [(name, "x")]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:pass@host/a?b=c", "http://***@host/a?b=c"),
        ("http://host/a?token=x&b=c#d", "http://host/a?token=***&b=c#d"),
        ("http://host/a?b=c&X-Amz-Signature=x", "http://host/a?b=c&X-Amz-Signature=***"),
        ("http://host/a?tokens=x", "http://host/a?tokens=x"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    assert redacted_url(url) == shown

"""Whom a connection goes to: what is shown, what is shared, what a fingerprint may look like."""

from __future__ import annotations

import hashlib
import ssl

import pytest

from syncflow.engine.origin import Origin, Proxy, sha256_fingerprint

DIGITS = hashlib.sha256(b"certificate").hexdigest()


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert Origin("http", "::1", 8080).where == "[::1]:8080"
    assert Origin("http", "localhost", 8080).where == "localhost:8080"
    assert Proxy("http", "fe80::1%eth0", 3128).where == "[fe80::1%eth0]:3128"


def test_a_proxy_does_not_show_its_secrets() -> None:
    proxy = Proxy("socks5", "proxy.test", 1080, None, "Basic c2VjcmV0", "user", "secret")
    assert repr(proxy) == str(proxy) == "Proxy(socks5://proxy.test:1080)"
    assert "secret" not in repr(Origin("http", "h", 80, proxy=proxy))


def test_what_differs_in_anything_shares_no_connection() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    proxy = Proxy("http", "proxy.test", 3128)
    ways = {
        Origin("https", "host", 443),
        Origin("https", "host", 443, context),
        Origin("https", "host", 443, context, proxy),
        Origin("https", "host", 443, context, proxy._replace(authorization="Basic eA==")),
        Origin("https", "host", 443, context, proxy._replace(context=context)),
        Origin("https", "host", 443, context, proxy._replace(scheme="socks5", username="one")),
        Origin("https", "host", 443, context, proxy._replace(scheme="socks5", username="two")),
        Origin("https", "host", 443, context, None, DIGITS),
        Origin("https", "host", 443, context, None, None, "/run/server"),
    }
    assert len(ways) == 9
    assert Origin("https", "host", 443, context, Proxy("http", "proxy.test", 3128)) in ways


@pytest.mark.parametrize(
    "text",
    [DIGITS, DIGITS.upper(), ":".join(DIGITS[at : at + 2] for at in range(0, 64, 2)).upper()],
    ids=["lower", "upper", "colons"],
)
def test_a_fingerprint_is_read_as_it_is_shown(text: str) -> None:
    assert sha256_fingerprint(text) == DIGITS


@pytest.mark.parametrize(
    "text", ["", DIGITS[:40], DIGITS[:-1], DIGITS + "0", DIGITS[:-1] + "g", " " + DIGITS, "٣" * 64]
)
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="SHA-256 fingerprint"):
        sha256_fingerprint(text)

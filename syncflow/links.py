"""The Link header (RFC 8288), read as `requests` reads it: leniently."""

from __future__ import annotations

import re

__all__ = ["parse_header_links"]

_TRIMMED = " '\""


def parse_header_links(value: str) -> list[dict[str, str]]:
    """Each link with its "url" and its parameters.

    >>> parse_header_links('<https://example.org/2>; rel="next"')
    [{'url': 'https://example.org/2', 'rel': 'next'}]
    """
    links = []
    value = value.strip(_TRIMMED)
    if not value:
        return []
    for entry in re.split(", *<", value):
        url, _, parameters = entry.partition(";")
        link = {"url": url.strip("<> '\"")}
        for parameter in parameters.split(";"):
            key, equals, given = parameter.partition("=")
            if not equals:
                break
            link[key.strip(_TRIMMED)] = given.strip(_TRIMMED)
        links.append(link)
    return links

"""One request without a session: `syncflow.get(url)`.

Each call makes a session of its own and gives it up; a program that makes several requests does better with one.
"""

from __future__ import annotations

from typing import Any

from .models import Response
from .sessions import Session
from .urls import ParamTypes

__all__ = ["delete", "get", "head", "options", "patch", "post", "put", "request"]


def request(method: str, url: str, **kwargs: Any) -> Response:
    """Send one request: the arguments are those of `Session.request`."""
    session = Session()
    try:
        return session.request(method, url, **kwargs)
    finally:
        # Not closed: with stream=True the response is still to be read; its connection goes when it was.
        session.retire()


def get(url: str, params: ParamTypes = None, **kwargs: Any) -> Response:
    """`request("GET", …)`."""
    return request("GET", url, params=params, **kwargs)


def options(url: str, **kwargs: Any) -> Response:
    """`request("OPTIONS", …)`."""
    return request("OPTIONS", url, **kwargs)


def head(url: str, **kwargs: Any) -> Response:
    """`request("HEAD", …)`."""
    return request("HEAD", url, **kwargs)


def post(url: str, data: Any = None, json: Any = None, **kwargs: Any) -> Response:
    """`request("POST", …)`."""
    return request("POST", url, data=data, json=json, **kwargs)


def put(url: str, data: Any = None, **kwargs: Any) -> Response:
    """`request("PUT", …)`."""
    return request("PUT", url, data=data, **kwargs)


def patch(url: str, data: Any = None, **kwargs: Any) -> Response:
    """`request("PATCH", …)`."""
    return request("PATCH", url, data=data, **kwargs)


def delete(url: str, **kwargs: Any) -> Response:
    """`request("DELETE", …)`."""
    return request("DELETE", url, **kwargs)

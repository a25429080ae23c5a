"""What `syncflow` exports, pinned: a name that comes or goes is a decision, not an accident."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import syncflow

EXCEPTIONS = {
    "BodyLengthError",
    "BodyTooLarge",
    "Cancelled",
    "ChunkedEncodingError",
    "CircuitOpen",
    "ConnectTimeout",
    "ConnectionError",
    "ContentDecodingError",
    "ContentTypeError",
    "DecompressionError",
    "EarlyResponse",
    "EventTimeout",
    "EventTooLarge",
    "FileModeWarning",
    "HTTPError",
    "InvalidHeader",
    "InvalidJSONError",
    "InvalidSchema",
    "InvalidURL",
    "JSONDecodeError",
    "MissingSchema",
    "PoolTimeout",
    "ProtocolError",
    "ProxyError",
    "ReadTimeout",
    "RequestException",
    "RetryError",
    "SSLError",
    "SessionClosed",
    "StreamConsumedError",
    "Timeout",
    "TooManyRedirects",
    "TotalTimeout",
    "URLRequired",
    "UnrewindableBodyError",
    "WriteTimeout",
}
FUNCTIONS = {"delete", "get", "head", "options", "patch", "post", "put", "request", "session"}
CLASSES = {
    "CaseInsensitiveDict",
    "CircuitBreaker",
    "PoolLimits",
    "PoolStats",
    "PreparedRequest",
    "Request",
    "Response",
    "Retry",
    "Session",
    "Timeouts",
    "Timings",
    "Try",
    "Upload",
    "Watermarks",
}
MODULES = {
    "syncflow.adapters": {"BaseAdapter", "HTTPAdapter", "SyncflowAdapter"},
    "syncflow.api": FUNCTIONS - {"session"},
    "syncflow.bodies": {
        "Body",
        "BodyWriter",
        "BytesBody",
        "FileBody",
        "IterableBody",
        "MultipartBody",
        "body_of",
        "multipart_of",
    },
    "syncflow.downloads": {"Progress", "save"},
    "syncflow.ext.opentelemetry": {"OpenTelemetry"},
    "syncflow.ext.prometheus": {"SyncflowCollector"},
    "syncflow.files": {"check_binary", "regular_file", "write_all"},
    "syncflow.models": {"REDIRECT_STATI", "PreparedRequest", "Request", "Response"},
    "syncflow.partials": {"FileBeside", "GivenFile", "OpenedFile", "Sink", "checked_target", "sink_for"},
    "syncflow.resuming": {
        "Resender",
        "ResumingSource",
        "StartedAnew",
        "is_broken_transfer",
        "length_of",
        "obstacle",
        "strong_validator",
    },
    "syncflow.sessions": {"Session", "session"},
    "syncflow.settings": {"MAX_EVENT_SIZE", "PoolLimits", "TimeoutTypes", "Timeouts", "Watermarks"},
    "syncflow.sse": {
        "BufferFull",
        "BufferMetrics",
        "Decoder",
        "EventBuffer",
        "EventHub",
        "EventStream",
        "EventSubscription",
        "HubHealth",
        "Relay",
        "ServerSentEvent",
        "SubscriberHealth",
        "UpstreamError",
        "encode",
        "relay",
    },
    "syncflow.streams": {
        "Duplex",
        "Transform",
        "connect",
        "count",
        "digest",
        "gunzip",
        "gzip",
        "lines",
        "pipe",
        "throttle",
    },
    "syncflow.structures": {"CaseInsensitiveDict", "LookupDict"},
    "syncflow.uploads": {"Upload"},
    "syncflow.urls": {
        "ParamTypes",
        "Target",
        "absolute_url",
        "add_params",
        "encode_pairs",
        "has_other_scheme",
        "masked",
        "parse_url",
        "requote",
    },
    "syncflow.wsgi": {"ClientMiddleware", "ProxiedResponse", "Transform", "client", "closing", "proxy", "sse_proxy"},
}


def test_the_package_exports_these_names() -> None:
    assert sorted(syncflow.__all__) == sorted({*EXCEPTIONS, *FUNCTIONS, *CLASSES, "__version__", "codes"})


def test_every_exported_name_is_there() -> None:
    for name in syncflow.__all__:
        assert getattr(syncflow, name) is not None


@pytest.mark.parametrize("module", MODULES)
def test_the_modules_export_these_names(module: str) -> None:
    exported = importlib.import_module(module).__all__
    assert sorted(exported) == sorted(MODULES[module])


@pytest.mark.parametrize("name", ["sse", "streams", "wsgi"])
def test_modules_that_few_need_come_by_their_name(name: str) -> None:
    code = f"import sys, syncflow; print('syncflow.{name}' in sys.modules, syncflow.{name}.__name__)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.strip() == f"False syncflow.{name}"


def test_the_exceptions_at_the_top_are_those_of_the_module() -> None:
    for name in EXCEPTIONS:
        assert getattr(syncflow, name) is getattr(syncflow.exceptions, name)


def test_connection_error_and_timeout_hide_no_builtin_in_a_star_import() -> None:
    """As in requests: `ConnectionError` is ours wherever it is imported from."""
    assert not issubclass(syncflow.ConnectionError, ConnectionError)
    assert issubclass(syncflow.ConnectionError, OSError)


def test_the_version_is_a_version() -> None:
    assert [part.isdecimal() for part in syncflow.__version__.split(".")[:2]] == [True, True]


def test_the_import_brings_in_no_package_that_is_optional() -> None:
    """`requests` is needed by its adapter only, `rich` by the command line, the last two by `syncflow.ext`."""
    optional = {"requests", "urllib3", "rich", "brotli", "zstandard", "h11", "opentelemetry", "prometheus_client"}
    code = f"import sys, syncflow; print(sorted({optional} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.strip() == "[]"

"""A session's calls that begin a request whose body the program writes: `upload`, and its shorthands by method.

Knows how such a request is prepared and what it must be sent through. What is written is `Upload`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from .adapters import HTTPAdapter
from .calls import Calls
from .engine.deadline import Deadline
from .exceptions import InvalidSchema
from .merging import HeaderTypes
from .models import PreparedRequest, Request
from .responses import Response
from .routes import CertTypes, ProxyTypes, VerifyTypes
from .settings import OWN_TIMEOUT, Timeouts, TimeoutTypes
from .upload_callbacks import UploadCallbacks
from .uploads import Upload
from .urls import ParamTypes, masked

__all__ = ["SessionUploadMixin"]


class SessionUploadMixin:
    """What a `Session` pushes with."""

    timeout: Timeouts
    _calls: Calls

    if TYPE_CHECKING:

        def _prepare_head(self, request: Request) -> PreparedRequest: ...

        def _authenticate(self, prepared: PreparedRequest, request: Request) -> None: ...

        def _remember(self, response: Response) -> None: ...

        def merge_environment_settings(
            self, url: Any, proxies: ProxyTypes, stream: bool | None, verify: VerifyTypes, cert: CertTypes
        ) -> dict[str, Any]: ...

        def _adapter_for(self, request: PreparedRequest) -> Any: ...

    def upload(
        self,
        method: str,
        url: Any,
        *,
        params: ParamTypes = None,
        headers: HeaderTypes = None,
        cookies: Any = None,
        auth: Any = None,
        content_length: int | None = None,
        timeout: TimeoutTypes = OWN_TIMEOUT,
        proxies: ProxyTypes = None,
        verify: VerifyTypes = None,
        cert: CertTypes = None,
        on_ready: Callable[[Upload], object] | None = None,
        on_writable: Callable[[Upload, int], bool] | None = None,
        on_drain: Callable[[Upload], object] | None = None,
        on_error: Callable[[BaseException], object] | None = None,
        on_progress: Callable[[int, int | None], object] | None = None,
    ) -> Upload:
        """Begin a request whose body the program writes: connects and sends the head. Redirects are not followed.

        The callbacks are called in the thread that drives the upload, by its own calls or by `Upload.run`, with no lock
        held and never one inside another.

        Args:
            content_length: bytes that will be written; None sends the body in chunks.
            on_ready: called with the upload, once, when the head has been sent.
            on_writable: called by `Upload.run` with the upload and its `offset`, whenever there is room. It writes, and
                returns True to go on or False when the body is complete.
            on_drain: called with the upload when its buffer, having been full, has become low, and when the system has
                room again and nothing is buffered.
            on_error: called with what ended the upload, before it is raised.
            on_progress: called with the bytes of body that were handed to the system, and `content_length`, whenever
                there are more of them.

        Returns:
            A writable binary file and context manager: see `Upload`.

        Raises:
            As `request`, but for what concerns the body and the answer.
        """
        called = (on_ready, on_writable, on_drain, on_error, on_progress)
        callbacks = UploadCallbacks(*called) if any(called) else None
        request = self._prepare_pushed(
            Request(method, url, headers, params=params, auth=auth, cookies=cookies), content_length
        )
        settings = self.merge_environment_settings(request.url, proxies, True, verify, cert)
        adapter = self._adapter_for(request)
        if not isinstance(adapter, HTTPAdapter):
            raise InvalidSchema(
                f"{masked(request.url)!r}: an upload needs one of syncflow's own adapters, not {adapter!r}; nothing "
                "was sent",
                request=request,
            )
        route = adapter.route(request, settings["verify"], settings["cert"], settings["proxies"])
        deadline = Deadline(self.timeout if timeout is OWN_TIMEOUT else Timeouts.of(timeout))
        calls = self._calls
        try:
            calls.under_way[deadline] = get_ident()
            if calls.is_draining:
                calls.check(deadline, request)
            return Upload(adapter, request, deadline, route, self._remember, callbacks)
        except BaseException as error:
            if callbacks is not None:
                callbacks.tell_error(error)
            raise
        finally:
            calls.under_way.pop(deadline, None)
            if calls.is_draining:
                calls.tell()

    def _prepare_pushed(self, asked: Request, content_length: int | None) -> PreparedRequest:
        """With the framing of a body that is still to be written."""
        request = self._prepare_head(asked)
        if content_length is None:
            request.headers["Transfer-Encoding"] = "chunked"
        else:
            request.headers["Content-Length"] = str(content_length)
        self._authenticate(request, asked)
        return request

    def post_stream(self, url: Any, **kwargs: Any) -> Upload:
        """`upload("POST", …)`."""
        return self.upload("POST", url, **kwargs)

    def put_stream(self, url: Any, **kwargs: Any) -> Upload:
        """`upload("PUT", …)`."""
        return self.upload("PUT", url, **kwargs)

    def patch_stream(self, url: Any, **kwargs: Any) -> Upload:
        """`upload("PATCH", …)`."""
        return self.upload("PATCH", url, **kwargs)

"""Middleware of all requests: size limits, API keys, request ids."""

from __future__ import annotations

import contextlib
import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamaherd.server.access.api_keys import ApiKey, KeyRing
from llamaherd.server.access.browser_origins import BrowserOrigins
from llamaherd.server.access.running_counts import RunningCounts
from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.settings import ServerSettings
from llamaherd.server.observability.metrics import ServerMetrics
from llamaherd.server.observability.spans import Spans

_logger = logging.getLogger("llamaherd.server")
# Health endpoints, and pages that prompt for the key themselves.
_OPEN = ("/health", "/ready", "/favicon.ico", "/pages/", "/dashboard")
# Needs a key, but does not count as a running request and is served while draining.
_STATE = "/pages/state"
# Not counted either: a key with max_running=1 must be able to cancel its running batch.
_UNCOUNTED = (_STATE, "/v1/batches")
_BATCH_FILES = "/v1/files"
_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_FORM_BYTES = 1 << 17  # form data other than the file
_SMALL_BYTES = 1 << 16  # bodies up to this size do not count for max_bodies_mib


class RequestGate:
    """ASGI middleware: limits of headers and body, API keys, request ids, access log."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServerSettings,
        keys: KeyRing,
        metrics: ServerMetrics,
        running: RunningCounts,
        spans: Spans,
        draining: Callable[[], bool],
    ) -> None:
        self._app = app
        self._limits = settings.limits
        self._keys = keys
        self._origins = BrowserOrigins(settings, has_keys=bool(keys))
        self._metrics = metrics
        self._running = running
        self._spans = spans
        self._draining = draining
        self._n_held = 0  # bytes of bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        request_id = _request_id(headers.get(b"x-request-id", b""))
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _ResponseRecorder(send, request_id, is_upload=scope["path"] == _BATCH_FILES)
        span = self._spans.begin(scope["method"], scope["path"], headers)
        scope["state"]["span"] = span
        begin = time.monotonic()
        try:
            key = self._admit(scope, headers)
            scope["state"]["key"] = key
            with self._counted(scope, key):
                await self._app(scope, self._bounded(scope, receive, answer), answer.send)
        except ApiError as error:
            if answer.status:
                raise
            await error.response()(scope, receive, answer.send)
        finally:
            self._n_held -= answer.n_held
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self._metrics.answered(path, answer.status)
            span.end(answer.status)
            _logger.info(
                "request",
                extra={
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": answer.status,
                    "seconds": round(time.monotonic() - begin, 6),
                },
            )

    def _admit(self, scope: Scope, headers: dict[bytes, bytes]) -> ApiKey:
        """Raises ApiError if the request is rejected."""
        self._origins.require_own(scope)
        n_bytes = len(scope["raw_path"]) + len(scope["query_string"])
        n_bytes += sum(len(name) + len(value) for name, value in scope["headers"])
        self._limits.require("max_header_kib", n_bytes, what="headers must hold")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise ApiError(400, "content-length must be a whole number")
        self._require_small(scope, int(length))
        path: str = scope["path"]
        if path == "/" or (path.startswith(_OPEN) and path != _STATE):
            return ApiKey(tenant="")
        key = self._keys.find(headers.get(b"authorization", b"").decode("latin-1"))
        if key is None:
            raise ApiError(
                401,
                "a valid API key is required: send the header Authorization: Bearer KEY",
                code="invalid_api_key",
            )
        if path == _STATE:
            return key
        if self._draining():
            raise ApiError(503, "the server is stopping", code="stopping", retry_after_s=10)
        return key

    def _counted(self, scope: Scope, key: ApiKey) -> AbstractContextManager[None]:
        if scope["path"].startswith(_UNCOUNTED):
            return contextlib.nullcontext()
        return self._running.request(key)

    def _require_small(self, scope: Scope, n_bytes: int) -> None:
        if scope["path"] == _BATCH_FILES:
            what = f"a form must hold {_FORM_BYTES} bytes and a file of"
            self._limits.require("max_file_mib", n_bytes - _FORM_BYTES, what=what)
        else:
            self._limits.require("max_body_mib", n_bytes, what="a body must hold")

    def _bounded(self, scope: Scope, receive: Receive, answer: _ResponseRecorder) -> Receive:
        n_bytes = 0

        async def bounded() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            self._require_small(scope, n_bytes)
            self._hold(scope, n_bytes, answer)
            answer.is_body_read = not message.get("more_body", False)
            return message

        return bounded

    def _hold(self, scope: Scope, n_bytes: int, answer: _ResponseRecorder) -> None:
        """Count bytes of a body that stays in memory until its request ends."""
        if n_bytes <= _SMALL_BYTES or scope["path"] == _BATCH_FILES:
            return
        n_held = self._n_held - answer.n_held + n_bytes
        self._limits.require("max_bodies_mib", n_held, what="bodies of running requests must hold")
        self._n_held, answer.n_held = n_held, n_bytes


class _ResponseRecorder:
    """Records a response's status and adds the request id."""

    def __init__(self, send: Send, request_id: str, *, is_upload: bool) -> None:
        self._send = send
        self._id = request_id.encode("latin-1")
        self._is_upload = is_upload
        self.is_body_read = False
        self.n_held = 0  # counted bytes of the body
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers: list[Any] = [*message.get("headers", ()), (b"x-request-id", self._id)]
            is_cut = self._is_upload and self.status >= 400 and not self.is_body_read
            if self.status == 413 or is_cut:
                headers.append((b"connection", b"close"))  # the rest of the body is not read
            message = {**message, "headers": headers}
        await self._send(message)


def _request_id(given: bytes) -> str:
    """The client's id if it is safe in logs and headers; otherwise a new one."""
    if _ID.fullmatch(given):
        return given.decode("ascii")
    return f"req-{uuid.uuid4().hex}"

"""Calls routes of the server in process."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from dataclasses import dataclass

from starlette.types import ASGIApp, Message

from llamaherd.server.access.api_keys import ApiKey
from llamaherd.server.common.errors import ApiError, cancelled
from llamaherd.server.observability.spans import Spans

_logger = logging.getLogger("llamaherd.server")


@dataclass(frozen=True)
class InternalResponse:
    """Response of a route."""

    request_id: str
    status: int
    body: bytes
    retry_after_s: float

    @property
    def error_code(self) -> str | None:
        """`error.code` of an error response."""
        body = json.loads(self.body)
        error = body.get("error") if isinstance(body, dict) else None
        return error.get("code") if isinstance(error, dict) else None


class InternalHttpClient:
    """Calls an ASGI application without a connection."""

    def __init__(self, app: ASGIApp, spans: Spans) -> None:
        self._app = app
        self._spans = spans

    async def post(
        self, path: str, body: bytes, key: ApiKey, gone: asyncio.Event
    ) -> InternalResponse:
        """Send a request.

        Args:
          path: Path of the route.
          body: JSON.
          key: API key of the tenant.
          gone: Set to signal a client disconnect.

        Returns:
          The response; if the route raises without one, 500, or 503 if `gone` is set.
        """
        request_id = f"req-{uuid.uuid4().hex}"
        span = self._spans.begin("POST", path, {})
        exchange = _Exchange(body, gone)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": None,
            "server": None,
            "state": {"request_id": request_id, "key": key, "span": span},
        }
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            if (
                not exchange.is_whole
            ):  # otherwise the exception was raised for the server's log only
                _logger.exception("a request of a batch failed")
        finally:
            span.end(exchange.status)
        if exchange.is_whole:
            return exchange.answer(request_id)
        error = cancelled() if gone.is_set() else ApiError(500, "internal server error")
        return InternalResponse(request_id, error.status, json.dumps(error.body).encode(), 1)


class _Exchange:
    """ASGI messages of one request."""

    def __init__(self, body: bytes, gone: asyncio.Event) -> None:
        self._body: bytes | None = body
        self._gone = gone
        self._pieces: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self.status = 0
        self.is_whole = False

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._headers = dict(message.get("headers", ()))
        else:
            self._pieces.append(message.get("body", b""))
            self.is_whole = not message.get("more_body", False)

    def answer(self, request_id: str) -> InternalResponse:
        after_s = float(self._headers.get(b"retry-after", b"1"))
        return InternalResponse(request_id, self.status, b"".join(self._pieces), after_s)

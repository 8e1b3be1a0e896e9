"""Requests that come from the server itself."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass

from starlette.types import ASGIApp, Message

from llamaherd.server.keys import ApiKey
from llamaherd.server.spans import Spans


@dataclass(frozen=True)
class Answer:
    """What a route has answered."""

    request_id: str
    status: int
    body: bytes
    retry_after_s: float

    @property
    def error_code(self) -> str | None:
        """Of an answer that is an error."""
        body = json.loads(self.body)
        error = body.get("error") if isinstance(body, dict) else None
        return error.get("code") if isinstance(error, dict) else None


class InProcess:
    """Calls an application's routes without a connection."""

    def __init__(self, app: ASGIApp, spans: Spans) -> None:
        self._app = app
        self._spans = spans

    async def post(self, path: str, body: bytes, key: ApiKey, gone: asyncio.Event) -> Answer:
        """The answer to a request.

        Args:
          path: Its route.
          body: JSON.
          key: On whose account.
          gone: When it is set the client counts as gone away.
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
            if not exchange.status:
                raise  # else it was answered, and is raised for the server's log
        finally:
            span.end(exchange.status)
        return exchange.answer(request_id)


class _Exchange:
    """One request's messages."""

    def __init__(self, body: bytes, gone: asyncio.Event) -> None:
        self._body: bytes | None = body
        self._gone = gone
        self._pieces: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self.status = 0

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

    def answer(self, request_id: str) -> Answer:
        after_s = float(self._headers.get(b"retry-after", b"1"))
        return Answer(request_id, self.status, b"".join(self._pieces), after_s)

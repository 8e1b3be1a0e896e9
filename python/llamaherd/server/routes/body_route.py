"""Routes that read bodies with limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from llamaherd.server.api.body_schema import strict_fields
from llamaherd.server.api.json_bounds import require_bounded
from llamaherd.server.common.errors import ApiError
from llamaherd.server.jobs.context import Context

# Location of messages: schema of a path's body, and its field.
_MESSAGES = {
    "/v1/chat/completions": ("ChatRequest", "messages"),
    "/v1/responses": ("ResponsesRequest", "input"),
    "/tokenize": ("TokenizeRequest", "messages"),
}


class BodyRoute(APIRoute):
    """A route whose body is read by BodyReader and checked against Limits."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            context: Context = request.app.state.context
            strict_fields.set(context.settings.strict_fields)
            if self.body_field is not None:
                _declare_json(request)
            response: Response = await handle(_Request(request.scope, request.receive))
            return response

        return handler


def _declare_json(request: Request) -> None:
    """Treat any body as JSON, except that of a browser: forms of other sites are sent by browsers,
    and cannot declare JSON."""
    headers = request.headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if re.fullmatch(r"application/(.+\+)?json", kind):
        return
    if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
        raise ApiError(400, "a browser must send content-type: application/json")
    others = [pair for pair in request.scope["headers"] if pair[0].lower() != b"content-type"]
    request.scope["headers"] = [*others, (b"content-type", b"application/json")]


class _Request(Request):
    async def json(self) -> Any:
        context: Context = self.app.state.context
        path = self.scope["path"]
        _, field = _MESSAGES.get(path, ("", None))
        limits = context.settings.limits
        return await context.reader.read(
            await self.body(),
            lambda value: require_bounded(value, path, field, limits),
            lambda n: limits.require("max_json_values", n, what="a body must hold"),
        )


def describe_bounds(app: FastAPI, max_messages: int) -> None:
    """Add the limit of messages to an application's OpenAPI schema."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        schema = describe()
        for name, field in _MESSAGES.values():
            found = schema["components"]["schemas"][name]["properties"][field]
            for kind in found.get("anyOf", [found]):
                if kind.get("type") == "array":
                    kind["maxItems"] = max_messages
        return schema

    app.openapi = openapi  # type: ignore[method-assign]

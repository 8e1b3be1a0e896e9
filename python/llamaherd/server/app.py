"""Builds the server application."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from llamaherd._core import __version__
from llamaherd.server.access.api_keys import KeyRing
from llamaherd.server.access.request_gate import RequestGate
from llamaherd.server.access.running_counts import RunningCounts
from llamaherd.server.batch_api import batch_routes, file_routes
from llamaherd.server.batch_api.batch_service import BatchService, lines_at_once, open_batches
from llamaherd.server.batch_api.internal_client import InternalHttpClient
from llamaherd.server.common.errors import install_handlers
from llamaherd.server.common.settings import ServerSettings
from llamaherd.server.jobs.context import Context
from llamaherd.server.jobs.model_pool import ModelPool
from llamaherd.server.observability.metrics import ServerMetrics
from llamaherd.server.observability.spans import Spans
from llamaherd.server.routes import (
    chat_routes,
    completion_routes,
    embedding_routes,
    health_routes,
    infill_routes,
    page_routes,
    responses_routes,
    token_routes,
)
from llamaherd.server.routes.body_route import describe_bounds

_OF_BATCHES = (
    chat_routes.router,
    completion_routes.router,
    responses_routes.router,
    embedding_routes.router,
)
_ROUTERS = (
    *_OF_BATCHES,
    batch_routes.router,
    file_routes.router,
    infill_routes.router,
    token_routes.router,
    health_routes.router,
    page_routes.router,
)


# Response headers that pages of other origins may read; a proxy may add the rate limits.
_EXPOSED_HEADERS = (
    "x-request-id",
    "retry-after",
    "x-llamaherd-unenforced",
    *(
        f"x-ratelimit-{value}-{unit}"
        for value in ("limit", "remaining", "reset")
        for unit in ("requests", "tokens")
    ),
)


def create_app(
    pool: ModelPool,
    settings: ServerSettings | None = None,
    keys: KeyRing | None = None,
    *,
    spans: Spans | None = None,
    preload: bool = True,
) -> FastAPI:
    """The server as an ASGI application.

    Args:
      pool: Models to serve; closed with the application.
      settings: Configuration; None: the defaults.
      keys: API keys; None: no authentication.
      spans: Tracer of requests; None: no tracing.
      preload: Load the first model before accepting requests.
    """
    settings = settings or ServerSettings()
    keys = keys or KeyRing()
    spans = spans or Spans()
    metrics = ServerMetrics(lambda: pool.loaded)
    running = RunningCounts()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if preload:
            await pool.preload(pool.names[0])
        tending = asyncio.gather(pool.unload_idle(), pool.restart_dead())
        try:
            async with _batches(app, keys, running, spans) as app.state.batches:
                yield
        finally:
            tending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await tending
            await pool.close()
            await asyncio.to_thread(spans.close)

    app = FastAPI(
        title="llamaherd",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.context = Context(settings, pool, metrics)
    install_handlers(app)
    for router in _ROUTERS:
        app.include_router(router)
    describe_bounds(app, settings.limits.max_messages)
    _serve_schema(app)
    app.state.draining = False
    app.state.batches = None
    app.add_middleware(
        RequestGate,
        settings=settings,
        keys=keys,
        metrics=metrics,
        running=running,
        spans=spans,
        draining=lambda: app.state.draining,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # SDKs add their own, such as x-stainless-os
            expose_headers=_EXPOSED_HEADERS,
        )
    return app


def _serve_schema(app: FastAPI) -> None:
    """Serve the schema at /openapi.json; it is generated once, as that is slow."""
    lock = asyncio.Lock()
    written: list[bytes] = []

    @app.get("/openapi.json", include_in_schema=False)
    async def schema(request: Request) -> Response:
        context: Context = request.app.state.context
        async with lock:
            if not written:
                made = await context.pools.texts.run(lambda: json.dumps(app.openapi()).encode())
                written.append(made)
        return Response(written[0], media_type="application/json")


@contextlib.asynccontextmanager
async def _batches(
    app: FastAPI, keys: KeyRing, running: RunningCounts, spans: Spans
) -> AsyncIterator[BatchService | None]:
    """The batch jobs of settings.data_dir; None if it is not set."""
    context: Context = app.state.context
    settings = context.settings
    if settings.data_dir is None:
        yield None
        return
    async with open_batches(
        settings.data_dir,
        InternalHttpClient(_line_app(context), spans),
        keys,
        running,
        n_lines=lines_at_once([spec.config for spec in context.pool.specs]),
        limits=settings.limits,
        draining=lambda: app.state.draining,
    ) as batches:
        yield batches


def _line_app(context: Context) -> FastAPI:
    """The routes for lines of batches. request_timeout_s does not apply: lines have the lowest
    priority."""
    app = FastAPI(openapi_url=None)
    settings = dataclasses.replace(context.settings, request_timeout_s=None)
    app.state.context = dataclasses.replace(context, settings=settings)
    install_handlers(app)
    for router in _OF_BATCHES:
        app.include_router(router)
    return app

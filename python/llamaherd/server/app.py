"""The server's parts put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from llamaherd._core import __version__
from llamaherd.server import (
    chat_routes,
    completion_routes,
    responses_routes,
    state_routes,
    token_routes,
    vector_routes,
)
from llamaherd.server.errors import install_handlers
from llamaherd.server.generation import Context
from llamaherd.server.guard import Guard
from llamaherd.server.keys import KeyRing
from llamaherd.server.metrics import ServerMetrics
from llamaherd.server.pool import ModelPool
from llamaherd.server.settings import ServerSettings

_ROUTERS = (
    chat_routes.router,
    completion_routes.router,
    responses_routes.router,
    vector_routes.router,
    token_routes.router,
    state_routes.router,
)


def create_app(
    pool: ModelPool,
    settings: ServerSettings | None = None,
    keys: KeyRing | None = None,
    *,
    preload: bool = True,
) -> FastAPI:
    """The server as an ASGI application.

    Args:
      pool: Its models; closed with the application.
      settings: Set-up; None: the defaults.
      keys: Who may use it; None: everyone.
      preload: Load the first model before requests are let in.
    """
    settings = settings or ServerSettings()
    metrics = ServerMetrics(lambda: pool.loaded)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if preload:
            async with pool.use(pool.names[0]):
                pass
        unloading = asyncio.ensure_future(pool.unload_idle())
        try:
            yield
        finally:
            unloading.cancel()
            await pool.close()

    app = FastAPI(
        title="llamaherd",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = Context(settings, pool, metrics)
    install_handlers(app)
    for router in _ROUTERS:
        app.include_router(router)
    app.state.draining = False
    app.add_middleware(
        Guard,
        settings=settings,
        keys=keys or KeyRing(),
        metrics=metrics,
        draining=lambda: app.state.draining,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type"],
        )
    return app

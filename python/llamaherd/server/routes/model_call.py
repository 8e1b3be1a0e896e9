"""Blocking calls of a model on a thread."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import TypeVar

from starlette.requests import Request

from llamaherd.offline.llm import LLM
from llamaherd.server.common.disconnect import watching
from llamaherd.server.jobs.context import Context

T = TypeVar("T")


async def call_model(
    request: Request, given: str | None, work: Callable[[LLM, Event], T]
) -> tuple[str, T]:
    """Run `work` with a model; returns the model's name and the result.

    Args:
      given: Model of the body; None: the server's first.
      work: Called on a thread with the model, which stays loaded, and an event that is set when the
        client disconnects.

    Raises:
      ApiError: The model does not exist, or cannot be loaded.
      PoolFullError: Too many calls are queued for a thread.
    """
    context: Context = request.app.state.context
    name = context.model_name(given)
    request.state.span.model(name)
    async with context.pool.use(name) as llm:
        gone = Event()
        async with watching(request.receive, gone.set):
            return name, await context.pools.compute.run(lambda: work(llm, gone))

"""Calls of a model that take a thread for their whole time."""

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
    """The name of the model that a request asks for, and what `work` returns.

    Args:
      given: The model of the body; None: the server's first.
      work: Called on a thread with the model, which stays in memory meanwhile, and an event that is
        set when the client leaves.

    Raises:
      ApiError: There is no such model, or no room for it.
      PoolFullError: Too many calls wait for a thread.
    """
    context: Context = request.app.state.context
    name = context.model_name(given)
    request.state.span.model(name)
    async with context.pool.use(name) as llm:
        gone = Event()
        async with watching(request.receive, gone.set):
            return name, await context.pools.compute.run(lambda: work(llm, gone))

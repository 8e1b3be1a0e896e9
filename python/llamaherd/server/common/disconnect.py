"""Clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from starlette.types import Receive


@contextlib.asynccontextmanager
async def watching(receive: Receive, then: Callable[[], None]) -> AsyncIterator[None]:
    """Meanwhile a client that goes away has a consequence."""
    leaving = asyncio.ensure_future(_until_gone(receive, then))
    try:
        yield
    finally:
        leaving.cancel()


async def _until_gone(receive: Receive, then: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    then()

"""Detection of client disconnects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from starlette.types import Receive


@contextlib.asynccontextmanager
async def watching(receive: Receive, then: Callable[[], None]) -> AsyncIterator[None]:
    """Call `then` if the client disconnects within the `with`."""
    disconnected = asyncio.ensure_future(_on_disconnect(receive, then))
    try:
        yield
    finally:
        disconnected.cancel()


async def _on_disconnect(receive: Receive, then: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    then()

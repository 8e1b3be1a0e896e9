"""Merges several streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from llamaherd._core import Delta
from llamaherd.engine.stream import Stream


async def merged(streams: Sequence[Stream]) -> AsyncIterator[tuple[int, Delta]]:
    """Deltas of all streams in order of arrival, each with the index of its stream."""
    if len(streams) == 1:
        async for delta in streams[0]:
            yield 0, delta
        return
    queue: asyncio.Queue[tuple[int, Delta] | None] = asyncio.Queue()

    async def forward(i: int, stream: Stream) -> None:
        async for delta in stream:
            queue.put_nowait((i, delta))
        queue.put_nowait(None)

    tasks = [asyncio.ensure_future(forward(i, stream)) for i, stream in enumerate(streams)]
    try:
        n_open = len(tasks)
        while n_open > 0:
            item = await queue.get()
            if item is None:
                n_open -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()

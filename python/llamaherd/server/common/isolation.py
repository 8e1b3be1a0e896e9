"""A readers-writer lock for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

_POLL_S = 0.02  # poll interval


class Isolation:
    """A readers-writer lock: work that was running when the process crashed runs exclusively.

    Writers have priority. Not thread-safe: for one event loop.
    """

    def __init__(self) -> None:
        self._n_shared = 0
        self._n_waiting = 0  # for exclusive access
        self._is_alone = False

    @contextlib.asynccontextmanager
    async def shared(self, halt: asyncio.Event) -> AsyncIterator[bool]:
        """Acquire shared access; False: `halt` was set first."""
        while self._is_alone or self._n_waiting:
            if halt.is_set():
                yield False
                return
            await wait(halt, _POLL_S)
        self._n_shared += 1
        try:
            yield True
        finally:
            self._n_shared -= 1

    @contextlib.asynccontextmanager
    async def alone(self, halt: asyncio.Event) -> AsyncIterator[bool]:
        """Acquire exclusive access; False: `halt` was set first."""
        self._n_waiting += 1
        try:
            while (self._is_alone or self._n_shared) and not halt.is_set():
                await wait(halt, _POLL_S)
        finally:
            self._n_waiting -= 1
        if self._is_alone or self._n_shared:
            yield False
            return
        self._is_alone = True
        try:
            yield True
        finally:
            self._is_alone = False


async def wait(event: asyncio.Event, most_s: float) -> None:
    """Wait until an event is set, at most `most_s` seconds."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), most_s)

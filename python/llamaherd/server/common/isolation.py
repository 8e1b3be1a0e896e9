"""Work that runs beside other work, or alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

_LOOK_S = 0.02  # how often for the end of other work


class Isolation:
    """A lock for readers and writers: work that ran when the process crashed is the writer.

    Writers go first. Of one event loop, not thread-safe.
    """

    def __init__(self) -> None:
        self._n_shared = 0
        self._n_waiting = 0  # to run alone
        self._is_alone = False

    @contextlib.asynccontextmanager
    async def shared(self, halt: asyncio.Event) -> AsyncIterator[bool]:
        """Run beside other work; False: `halt` was set before it might."""
        while self._is_alone or self._n_waiting:
            if halt.is_set():
                yield False
                return
            await wait(halt, _LOOK_S)
        self._n_shared += 1
        try:
            yield True
        finally:
            self._n_shared -= 1

    @contextlib.asynccontextmanager
    async def alone(self, halt: asyncio.Event) -> AsyncIterator[bool]:
        """Run when no other work does; False: `halt` was set before it might."""
        self._n_waiting += 1
        try:
            while (self._is_alone or self._n_shared) and not halt.is_set():
                await wait(halt, _LOOK_S)
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
    """Until an event is set, or some seconds have passed."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), most_s)

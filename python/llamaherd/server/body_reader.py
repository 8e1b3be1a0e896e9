"""JSON of any size without a long hold-up of what else the process does."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

_BIG = 1 << 18  # bytes
_REST = 4  # times what a big body took


class BodyReader:
    """Big bodies are parsed one at a time, beside the event loop, and with a rest after each, so
    that all of them together take a fifth of the interpreter's time at most."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._rests_until = 0.0

    async def read(self, body: bytes) -> Any:
        """What a body holds.

        Raises:
          JSONDecodeError: It is no JSON.
        """
        if len(body) <= _BIG:
            return json.loads(body)
        async with self._turn:
            await asyncio.sleep(self._rests_until - time.monotonic())
            return await asyncio.to_thread(self._parse, body)

    def _parse(self, body: bytes) -> Any:
        begin = time.thread_time()
        try:
            return json.loads(body)
        finally:
            took = time.thread_time() - begin
            self._rests_until = time.monotonic() + _REST * took

"""Parses JSON bodies without blocking the event loop for long."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from llamaherd.server.common.errors import ApiError

_BIG = 1 << 16  # bytes
_PAUSE_FACTOR = 4  # pause after a big body, as a multiple of its parse time
# The queue orders bodies by arrival plus a penalty by size: small ones overtake big ones.
_BYTES_PER_S = 100_000
# A string, or a character that adds one value to the count.
_VALUE = re.compile(rb'"[^"]*"?|[,\[{]')
_COUNTED = 1024


class BodyReader:
    """Parses request bodies. Big ones are parsed and checked one at a time on a thread, with a
    pause
    after each, so that together they use at most a fifth of the interpreter's time."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []  # a heap
        self._n_asked = 0
        self._rest_s = 0.0

    async def read(
        self,
        body: bytes,
        check: Callable[[Any], None] = lambda _: None,
        require_few: Callable[[int], None] = lambda _: None,
    ) -> Any:
        """Parse and check a body.

        Args:
          body: JSON.
          check: Called with the parsed body, in any thread; its exceptions are raised.
          require_few: Called before parsing with the number of values, or with a smaller number for
            which
            it raises.

        Raises:
          JSONDecodeError: The body is not valid JSON.
          ApiError: The body holds NaN, a duplicate key, an integer of thousands of digits, or
            thousands
            of levels.
        """
        if len(body) <= _BIG:
            return _parse(body, check)
        async with self._turn(len(body)):
            return await asyncio.to_thread(self._parse_big, body, check, require_few)

    @contextlib.asynccontextmanager
    async def _turn(self, n_bytes: int) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        if self._is_taken:
            self._n_asked += 1
            turn = loop.create_future()
            due_s = time.monotonic() + n_bytes / _BYTES_PER_S
            heapq.heappush(self._waiting, (due_s, self._n_asked, turn))
            try:
                await turn
            except BaseException:
                if not turn.cancelled():
                    self._end_turn()
                raise
        self._is_taken = True
        self._rest_s = 0.0
        try:
            yield
        finally:
            loop.call_later(self._rest_s, self._end_turn)

    def _end_turn(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False

    def _parse_big(
        self, body: bytes, check: Callable[[Any], None], require_few: Callable[[int], None]
    ) -> Any:
        begin = time.thread_time()
        collects = gc.isenabled()
        try:
            _count_values(body, require_few)
            # Garbage collection after every few hundred new arrays would block all threads.
            gc.disable()
            return _parse(body, check)
        finally:
            if collects:
                gc.enable()
            self._rest_s = _PAUSE_FACTOR * (time.thread_time() - begin)


def _count_values(body: bytes, require_few: Callable[[int], None]) -> None:
    """Rejects bodies with too many values before parsing: the parser holds the GIL."""
    n_most = sum(body.count(mark) for mark in (b",", b"[", b"{"))
    try:
        require_few(n_most)  # upper bound: strings not yet excluded
    except ApiError:
        n = 0
        plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
        for found in _VALUE.finditer(plain):
            n += found[0][:1] != b'"'
            if n % _COUNTED == 0:
                require_few(n)


def _parse(body: bytes, check: Callable[[Any], None]) -> Any:
    try:
        value = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_object)
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not valid UTF-8: {error.reason}") from None
    except RecursionError:
        raise ApiError(
            400,
            "the body nests arrays and objects too deeply (thousands of levels)",
            code="json_too_deep",
        ) from None
    except ValueError:  # Python limits the digits of an integer
        raise ApiError(400, "the body holds an integer of too many digits (thousands)") from None
    check(value)
    return value


def _no_constant(name: str) -> Any:
    raise ApiError(400, f"the body is not valid JSON: {name} is not a JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise ApiError(400, f"the body holds an object with duplicate key {name[:64]!a}")
        seen.add(name)
    raise AssertionError

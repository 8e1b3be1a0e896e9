"""JSON of any size without a long hold-up of what else the process does."""

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
_REST = 4  # times what a big body took
# A body's turn comes as if it had come later by its size: few wait for one that is far bigger.
_BYTES_PER_S = 100_000
# A string, or what one value more than before is counted by.
_VALUE = re.compile(rb'"[^"]*"?|[,\[{]')
_COUNTED = 1024


class BodyReader:
    """Big bodies are parsed and checked one at a time, beside the event loop, and with a rest after
    each, so that all of them together take a fifth of the interpreter's time at most."""

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
        """What a body holds.

        Args:
          body: JSON.
          check: Called with it, in any thread; what it raises is raised.
          require_few: Called before with the number of its values, or some smaller one that it
            raises of.

        Raises:
          JSONDecodeError: It is no JSON.
          ApiError: It is JSON that no request may hold: NaN, a name twice in an object, a number
            of thousands of digits, thousands of levels.
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
            # A collection for each few hundred new arrays would hold up everybody.
            gc.disable()
            return _parse(body, check)
        finally:
            if collects:
                gc.enable()
            self._rest_s = _REST * (time.thread_time() - begin)


def _count_values(body: bytes, require_few: Callable[[int], None]) -> None:
    """The parser keeps the interpreter's lock while it runs: what is too much it must not see."""
    n_most = sum(body.count(mark) for mark in (b",", b"[", b"{"))
    try:
        require_few(n_most)  # as if no string held one of them
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
            400, "the body holds thousands of levels of arrays and objects", code="json_too_deep"
        ) from None
    except ValueError:  # of an integer: Python bounds its digits
        raise ApiError(400, "the body holds an integer of thousands of digits") from None
    check(value)
    return value


def _no_constant(name: str) -> Any:
    raise ApiError(400, f"the body is not valid JSON: {name} is not a number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise ApiError(400, f"the body holds an object with {name[:64]!a} twice")
        seen.add(name)
    raise AssertionError

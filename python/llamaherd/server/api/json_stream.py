"""Large JSON responses, encoded in pieces outside the event loop."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from threading import Event
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llamaherd.bounded_pool import BoundedPool
from llamaherd.server.common.disconnect import watching

_PIECE_BYTES = 1 << 16
_FEW_VALUES = 1 << 12  # about a millisecond
_SLICE = 4096  # scalars encoded at once


@dataclass(frozen=True)
class Items:
    """A JSON array whose items are created when they are encoded, each within a few milliseconds.
    Items may contain `Items`."""

    items: Iterable[Any]


class JsonStream(Response):
    """A response whose JSON is encoded by a pool's threads, one piece at a time as it is sent.

    The GIL is held no longer than for one item of `Items`. One piece is in memory at a time. A slow
    client occupies no thread; encoding stops when the client disconnects.

    Args:
      value: JSON values, with `Items` allowed for arrays.
      pool: Thread pool for the encoding.
    """

    media_type = "application/json"

    def __init__(self, value: Any, pool: BoundedPool) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._pieces = _joined(encoded(value))
        self._pool = pool
        self._stack = AsyncExitStack()

    def when_done(self, stack: AsyncExitStack) -> None:
        """Close `stack` when the response has ended."""
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = Event()
        async with self._stack, watching(receive, gone.set):
            await self._send(send, gone)

    async def _send(self, send: Send, gone: Event) -> None:
        piece = await self._next()  # an exception here still sets the status
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        while piece and not gone.is_set():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            piece = await self._next()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self) -> bytes:
        return await self._pool.run(lambda: next(self._pieces, b""))


def json_answer(value: Any, n_values: int, pool: BoundedPool) -> JsonStream | Response:
    """A JSON response; encoded on the event loop only if it is small.

    Args:
      value: JSON values, with `Items` allowed for arrays.
      n_values: Approximate count of numbers and short texts.
      pool: Thread pool for encoding a large response.
    """
    if n_values > _FEW_VALUES:
        return JsonStream(value, pool)
    return Response("".join(encoded(value)), media_type="application/json")


def encoded(value: Any) -> Iterator[str]:
    """JSON of a value, in pieces; equal to json.dumps() with lists for `Items`, except blanks."""
    if isinstance(value, Items):
        yield from _between("[]", (encoded(item) for item in value.items))
    elif isinstance(value, list) and len(value) > _SLICE:
        slices = (value[i : i + _SLICE] for i in range(0, len(value), _SLICE))
        yield from _between("[]", (iter((_dumps(some)[1:-1],)) for some in slices))
    elif isinstance(value, dict) and any(map(_is_long, value.values())):
        yield from _fields(value)
    else:
        try:
            text = _dumps(value)
        except _HoldsItemsError:
            pass
        else:
            yield text
            return
        if isinstance(value, dict):
            yield from _fields(value)
        else:
            yield from _between("[]", (encoded(item) for item in value))


class _HoldsItemsError(Exception):
    pass


def _refuse(_: Any) -> Any:
    raise _HoldsItemsError


def _dumps(value: Any) -> str:
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_refuse
    )


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > _SLICE


def _fields(value: dict[str, Any]) -> Iterator[str]:
    return _between("{}", (_field(name, item) for name, item in value.items()))


def _field(name: str, value: Any) -> Iterator[str]:
    yield json.dumps(name, ensure_ascii=False) + ":"
    yield from encoded(value)


def _between(ends: str, parts: Iterable[Iterator[str]]) -> Iterator[str]:
    yield ends[0]
    for i, part in enumerate(parts):
        if i:
            yield ","
        yield from part
    yield ends[1]


def _joined(texts: Iterator[str]) -> Iterator[bytes]:
    """The text re-split into pieces of about equal size."""
    held: list[str] = []
    n_held = 0
    for text in texts:
        held.append(text)
        n_held += len(text)
        if n_held >= _PIECE_BYTES:
            yield "".join(held).encode()
            held, n_held = [], 0
    if held:
        yield "".join(held).encode()

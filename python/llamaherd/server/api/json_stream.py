"""Large answers of JSON, made piece by piece beside the event loop."""

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
_SLICE = 4096  # scalars that are written at once


@dataclass(frozen=True)
class Items:
    """An array whose items are made when they are written, each in a few milliseconds; objects of
    which may hold such arrays in turn."""

    items: Iterable[Any]


class JsonStream(Response):
    """An answer whose JSON is made by a pool's threads, one piece after another as it is sent.

    No piece takes an interpreter's lock for longer than one item of `Items` does. It holds one
    piece in memory; a client that reads slowly keeps no thread, and for one that is gone no more
    is made.

    Args:
      value: JSON values, in which `Items` may stand for arrays.
      pool: Whose threads make it.
    """

    media_type = "application/json"

    def __init__(self, value: Any, pool: BoundedPool) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._pieces = _joined(encoded(value))
        self._pool = pool
        self._stack = AsyncExitStack()

    def when_done(self, stack: AsyncExitStack) -> None:
        """What the answer needs until its end."""
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = Event()
        async with self._stack, watching(receive, gone.set):
            await self._send(send, gone)

    async def _send(self, send: Send, gone: Event) -> None:
        piece = await self._next()  # what raises has a status of its own
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
    """An answer of JSON; it is made on the event loop only if it is small.

    Args:
      value: JSON values, in which `Items` may stand for arrays.
      n_values: Of numbers and short texts that it holds, about.
      pool: Whose threads make it if it is large.
    """
    if n_values > _FEW_VALUES:
        return JsonStream(value, pool)
    return Response("".join(encoded(value)), media_type="application/json")


def encoded(value: Any) -> Iterator[str]:
    """JSON of a value, in pieces; as json.dumps() of it with lists for `Items`, but for blanks."""
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
    """The same text in pieces of about equal size."""
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

"""Whose turn it is among big bodies."""

from __future__ import annotations

import asyncio
import json
from threading import Event
from typing import Any

from llamaherd.server.api.body_reader import BodyReader


def body(name: str, n_bytes: int) -> bytes:
    return json.dumps({"name": name, "x": "x" * n_bytes}).encode()


async def test_smaller_bodies_wait_for_few_bigger_ones() -> None:
    reader, go = BodyReader(), Event()
    order: list[str] = []

    def check(value: Any) -> None:
        if value["name"] == "first":
            go.wait()
        order.append(value["name"])

    bodies = [("first", 200_000), ("big", 4_000_000), ("gone", 80_000), ("small", 100_000)]
    reading = {}
    for name, n_bytes in bodies:
        reading[name] = asyncio.ensure_future(reader.read(body(name, n_bytes), check))
        await asyncio.sleep(0)
    reading["gone"].cancel()
    go.set()
    await asyncio.gather(*reading.values(), return_exceptions=True)
    assert order == ["first", "small", "big"]
    await asyncio.wait_for(reader.read(body("last", 100_000), check), 60)


async def test_a_turn_that_nobody_takes_goes_on() -> None:
    reader = BodyReader()
    for _ in range(3):
        held = [asyncio.ensure_future(reader.read(body("a", 100_000))) for _ in range(20)]
        await asyncio.sleep(0.002)
        for one in held[::2]:
            one.cancel()
        ended = await asyncio.gather(*held, return_exceptions=True)
        assert not any(isinstance(one, BaseException) for one in ended[1::2])
    last = await asyncio.wait_for(reader.read(body("last", 100_000)), 60)
    assert last["name"] == "last"

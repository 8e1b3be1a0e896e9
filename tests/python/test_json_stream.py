"""Large answers, piece by piece."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamaherd.bounded_pool import BoundedPool
from llamaherd.server.api.json_stream import Items, JsonStream, encoded, json_answer
from starlette.responses import Response

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def lazy(value: Any, every: int) -> Any:
    """The same value with Items for some of its arrays."""
    if isinstance(value, dict):
        return {name: lazy(item, every) for name, item in value.items()}
    if isinstance(value, list):
        items = [lazy(item, every) for item in value]
        return Items(iter(items)) if len(items) % 3 < every else items
    return value


@given(value=values, every=st.integers(0, 3))
def test_pieces_are_the_json_of_the_value(value: Any, every: int) -> None:
    compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert "".join(encoded(lazy(value, every))) == compact


def test_long_arrays_are_written_in_slices() -> None:
    value = {"a": list(range(10_000)), "b": {"c": [[1] * 5000]}}
    pieces = list(encoded(value))
    assert json.loads("".join(pieces)) == value
    assert max(map(len, pieces)) < 30_000


async def sent(response: Response) -> tuple[int, list[bytes]]:
    bodies: list[bytes] = []
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        else:
            bodies.append(message["body"])

    async def receive() -> Any:
        await asyncio.Event().wait()

    await response({"type": "http"}, receive, send)
    assert len(statuses) == 1
    return statuses[0], bodies


async def test_a_large_answer_is_made_while_it_is_sent_and_small_ones_at_once() -> None:
    pool = BoundedPool("answers", 1, 10)
    vector = [0.5] * 1000
    value = {"data": Items({"index": i, "v": vector} for i in range(100)), "n": 100}
    answer = json_answer(value, 100_000, pool)
    assert isinstance(answer, JsonStream)
    assert "content-length" not in answer.headers
    status, bodies = await sent(answer)
    assert status == 200
    assert len(bodies) > 3
    assert json.loads(b"".join(bodies)) == {
        "data": [{"index": i, "v": vector} for i in range(100)],
        "n": 100,
    }
    small = json_answer({"data": Items([1, 2])}, 2, pool)
    assert (await sent(small))[1] == [b'{"data":[1,2]}']


async def test_what_goes_wrong_before_the_first_piece_is_raised() -> None:
    def items() -> Iterator[int]:
        raise ValueError("no items")
        yield 1

    answer = json_answer({"data": Items(items())}, 1 << 20, BoundedPool("answers", 1, 10))
    with pytest.raises(ValueError, match="no items"):
        await sent(answer)


async def test_for_a_client_that_is_gone_no_more_is_made() -> None:
    made = 0

    def items() -> Iterator[str]:
        nonlocal made
        for made in range(1000):  # noqa: B007
            yield "x" * 50_000

    gone = asyncio.Event()

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        gone.set()
        await asyncio.sleep(0.01)

    answer = json_answer(Items(items()), 1 << 20, BoundedPool("answers", 1, 10))
    await asyncio.wait_for(answer({"type": "http"}, receive, send), 60)
    assert made < 100

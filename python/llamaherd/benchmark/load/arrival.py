"""Closed-loop and open-loop arrival of requests."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from llamaherd.benchmark.load.measurements import RequestMeasurement

_Request = TypeVar("_Request")


async def closed_loop(
    ask: Callable[[_Request], Awaitable[RequestMeasurement]],
    chains: Iterable[Sequence[_Request]],
    n_clients: int,
) -> list[RequestMeasurement]:
    """Run chains with a number of clients; each client takes the next chain and sends its requests
    one after another."""
    waiting = iter(chains)

    async def client() -> list[RequestMeasurement]:
        return [await ask(request) for chain in waiting for request in chain]

    answers = await asyncio.gather(*[client() for _ in range(n_clients)])
    return [answer for some in answers for answer in some]


async def open_loop(
    ask: Callable[[_Request], Awaitable[RequestMeasurement]],
    requests: Sequence[_Request],
    arrivals_s: Sequence[float],
) -> list[RequestMeasurement]:
    """Send each request at its time, in seconds from now, independent of earlier ones."""
    begin_s = time.perf_counter()
    tasks = []
    for request, arrival_s in zip(requests, arrivals_s, strict=True):
        await asyncio.sleep(begin_s + arrival_s - time.perf_counter())
        tasks.append(asyncio.ensure_future(ask(request)))
    return list(await asyncio.gather(*tasks))


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Arrival times in seconds at an average of `rate` per second, the first at 0; infinite."""
    rng = random.Random(seed)
    moment = 0.0
    while True:
        yield moment
        moment += rng.expovariate(rate)

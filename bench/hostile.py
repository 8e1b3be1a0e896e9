"""What clients that misbehave do to those who do not.

    python bench/hostile.py [--model MODEL] [--threads N] [--runs 5]

Four clients stream answers of 200 tokens, by themselves and beside one that sends, without a pause:
broken JSON, a body of 10 MB, 10,000 messages, headers of 1 MB, unknown fields, 600,000 broken
items. It is a process of its own and of the lowest priority: on another machine it would take none
of the server's cores. In turns; medians of the time between tokens. Then the server's processor
time for each of these requests alone. Informational: nothing else may run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import aiohttp
from llamaherd.answered import Answered, summary
from llamaherd.load import LoadSpec, run_load, synthetic_bodies
from loads import add_options
from served import Server

N_CLIENTS, N_NEW = 4, 200
SPAWN = multiprocessing.get_context("spawn")

HEADERS = {"content-type": "application/json"}
MESSAGE = {"role": "user", "content": "x"}


def request_of(data: bytes | dict[str, Any], headers: dict[str, str] = HEADERS) -> dict[str, Any]:
    """As a session's post takes it; made into bytes once."""
    content = data if isinstance(data, bytes) else json.dumps(data).encode()
    return {"data": content, "headers": headers}


CHAT = "/chat/completions"
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "broken JSON": (CHAT, request_of(b'{"messages": [')),
    "10 MB": (CHAT, request_of(b" " * 10_000_000)),
    "10,000 messages": (CHAT, request_of({"messages": [MESSAGE] * 10_000})),
    "headers of 1 MB": (CHAT, request_of(b"{}", {"x-long": "x" * (1 << 20)})),
    "an unknown field": (CHAT, request_of({"messages": [MESSAGE], "unknown": 1})),
    "600,000 broken items": ("/completions", request_of({"prompt": [None] * 600_000})),
}


async def status_of(session: aiohttp.ClientSession, url: str, kind: str) -> int:
    """Of the answer; 0: there was none."""
    path, request = REQUESTS[kind]
    with suppress(aiohttp.ClientError, ConnectionError):
        async with session.post(url + path, **request) as answer:
            return answer.status
    return 0


async def misbehave(url: str, counts: Any) -> None:
    """Until its process is ended. Counts answers by status."""
    async with aiohttp.ClientSession() as session:
        while True:
            for kind in REQUESTS:
                counts[await status_of(session, url, kind)] += 1


def _misbehave(url: str, counts: Any) -> None:
    os.nice(19)
    asyncio.run(misbehave(url, counts))


@contextlib.contextmanager
def misbehaving(url: str, counts: Any) -> Iterator[None]:
    """Beside somebody who does."""
    n_before = sum(counts)
    process = SPAWN.Process(target=_misbehave, args=(url, counts), daemon=True)
    process.start()
    try:
        while sum(counts) == n_before:
            time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.join()


async def run(url: str, seed: int) -> list[Answered]:
    bodies = synthetic_bodies(
        N_CLIENTS,
        shared_words=0,
        words=16,
        max_tokens=N_NEW,
        path="chat/completions",
        seed=seed,
    )
    return await run_load(LoadSpec(url=url, bodies=bodies, concurrency=N_CLIENTS))


async def cost_ms(server: Server, kind: str) -> tuple[float, int]:
    """Processor time of one request, and the status of its answer."""
    n, end = 0, time.monotonic() + 2
    begin_s = server.cpu_s()
    async with aiohttp.ClientSession() as session:
        while n < 3 or time.monotonic() < end:
            status = await status_of(session, server.url + "/v1", kind)
            n += 1
    return 1e3 * (server.cpu_s() - begin_s) / n, status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    args = parser.parse_args()
    server = Server(args.model, ["--max-seqs", "8", "--n-ctx", "8192"], args.threads)
    counts = SPAWN.Array("i", 600, lock=False)  # by status
    figures: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    try:
        for turn in range(args.runs + 1):
            for hostile in (False, True):
                url = server.url + "/v1"
                with misbehaving(url, counts) if hostile else contextlib.nullcontext():
                    done = summary(asyncio.run(run(url, turn)))
                assert done["n_errors"] == 0, done["errors"]
                figures[hostile].append(done)
        costs = {kind: asyncio.run(cost_ms(server, kind)) for kind in REQUESTS}
    finally:
        server.close()
    print("| | ms between tokens, p50 | p99 | tokens/s |")
    print("| --- | --- | --- | --- |")
    for hostile, name in ((False, "by themselves"), (True, "beside one that misbehaves")):
        some = figures[hostile][1:]  # the first turn warms up
        p50, p99 = (statistics.median(f["itl_ms"][p] for f in some) for p in ("p50", "p99"))
        rate = statistics.median(f["tokens_per_s"] for f in some)
        print(f"| {name} | {p50:.1f} | {p99:.1f} | {rate:.0f} |")
    print("its answers by status:", {status: n for status, n in enumerate(counts) if n})
    print("\n| request | answer | ms of processor time |\n| --- | --- | --- |")
    for kind, (cost, status) in costs.items():
        print(f"| {kind} | {status} | {cost:.1f} |")


if __name__ == "__main__":
    main()

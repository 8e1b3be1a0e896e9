"""What clients that misbehave do to those who do not.

    python bench/hostile.py [--model MODEL] [--threads N] [--runs 5]

Four clients stream answers of 200 tokens, by themselves and beside one that sends, without a pause:
broken JSON, a body of 10 MB, 10,000 messages, headers of 1 MB, unknown fields. In turns; medians of
the time between tokens. Informational: nothing else may run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from contextlib import suppress
from typing import Any

import aiohttp
from llamaherd.load import Answered, LoadSpec, run_load, summary, synthetic_bodies
from loads import add_options
from served import Server

N_CLIENTS, N_NEW = 4, 200
MANY = [{"role": "user", "content": "x"}] * 10_000


async def misbehave(url: str, counts: dict[int, int]) -> None:
    """Until it is cancelled."""
    chat = url + "/chat/completions"
    headers = {"content-type": "application/json"}
    requests: list[dict[str, Any]] = [
        {"data": b'{"messages": [', "headers": headers},
        {"data": b" " * 10_000_000, "headers": headers},
        {"data": json.dumps({"messages": MANY}).encode(), "headers": headers},
        {"data": b"{}", "headers": {"x-long": "x" * (1 << 20)}},
        {"json": {"messages": MANY[:1], "unknown": 1}},
    ]
    async with aiohttp.ClientSession() as session:
        while True:
            for request in requests:
                with suppress(aiohttp.ClientError, ConnectionError):
                    async with session.post(chat, **request) as answer:
                        counts[answer.status] = counts.get(answer.status, 0) + 1
                await asyncio.sleep(0)


async def run(url: str, seed: int, hostile: bool, counts: dict[int, int]) -> list[Answered]:
    bodies = synthetic_bodies(
        N_CLIENTS,
        shared_words=0,
        words=16,
        max_tokens=N_NEW,
        path="chat/completions",
        seed=seed,
    )
    tasks = [asyncio.ensure_future(misbehave(url, counts))] if hostile else []
    try:
        spec = LoadSpec(url=url, bodies=bodies, concurrency=N_CLIENTS)
        return await run_load(spec)
    finally:
        for task in tasks:
            task.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    args = parser.parse_args()
    server = Server(args.model, ["--max-seqs", "8", "--n-ctx", "8192"], args.threads)
    counts: dict[int, int] = {}
    figures: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    try:
        for turn in range(args.runs + 1):
            for hostile in (False, True):
                answers = asyncio.run(run(server.url + "/v1", turn, hostile, counts))
                done = summary(answers)
                assert done["n_errors"] == 0, done["errors"]
                figures[hostile].append(done)
    finally:
        server.close()
    print("| | ms between tokens, p50 | p99 | tokens/s |")
    print("| --- | --- | --- | --- |")
    for hostile, name in ((False, "by themselves"), (True, "beside one that misbehaves")):
        some = figures[hostile][1:]  # the first turn warms up
        p50, p99 = (statistics.median(f["itl_ms"][p] for f in some) for p in ("p50", "p99"))
        rate = statistics.median(f["tokens_per_s"] for f in some)
        print(f"| {name} | {p50:.1f} | {p99:.1f} | {rate:.0f} |")
    print("its answers by status:", dict(sorted(counts.items())))


if __name__ == "__main__":
    main()

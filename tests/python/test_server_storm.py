"""Five hundred clients at once, half of whom leave at any time: nothing of theirs stays behind, and
what the others read is what they read alone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny_models
from llamaherd import EngineConfig
from serving import Served, figure, serve, wait_until

pytestmark = pytest.mark.slow

N_CLIENTS = 500
_KINDS = ["plain", "hybrid"]


@pytest.fixture(params=_KINDS)
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    model = tiny_models.write(request.param, tmp_path / "tiny.gguf")
    config = tmp_path / "engine.toml"
    EngineConfig(deterministic=True, n_ctx=2048, max_seqs=8).to_file(config)
    with serve(f"tiny={model}", options=("--config", str(config))) as served:
        yield served


def bodies_of(rng: random.Random) -> list[dict[str, Any]]:
    """Requests of which many begin alike; of some nothing is remembered."""
    beginnings = [[rng.randrange(3, 100) for _ in range(40)] for _ in range(4)]
    return [
        {
            "prompt": rng.choice(beginnings) + [rng.randrange(3, 100) for _ in range(i % 7 + 1)],
            "max_tokens": rng.randrange(4, 60),
            "temperature": rng.choice([0, 1]),
            "seed": i,
            "ignore_eos": True,
            "cache": i % 4 != 0,
        }
        for i in range(40)
    ]


async def answer_of(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    text = last = ""
    async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            last = line or last
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["text"]
    assert last == "data: [DONE]"
    return text


async def storm(url: str, bodies: list[dict[str, Any]], rng: random.Random) -> list[str | None]:
    """What each client has read; None: it has left."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:

        async def one(i: int, patience_s: float | None) -> str | None:
            with contextlib.suppress(asyncio.TimeoutError):
                asked = answer_of(client, bodies[i % len(bodies)])
                return await asyncio.wait_for(asked, patience_s)
            return None

        patiences = [rng.uniform(0, 8) if i % 2 else None for i in range(N_CLIENTS)]
        return await asyncio.gather(*[one(i, patience) for i, patience in enumerate(patiences)])


# httpx leaves the socket of a request that is cancelled while it connects to the collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_storm_of_clients_leaves_nothing_behind(served: Served) -> None:
    rng = random.Random(3)
    bodies = bodies_of(rng)
    with httpx.Client(base_url=served.url, timeout=60) as http:
        alone = [http.post("/v1/completions", json=body).json() for body in bodies]
        texts = [answer["choices"][0]["text"] for answer in alone]
        answers = asyncio.run(storm(served.url, bodies, rng))
        gc.collect()  # here, or another test is blamed for the sockets
        wrong = [
            i
            for i, answer in enumerate(answers)
            if answer is not None and answer != texts[i % len(bodies)]
        ]
        assert not wrong
        n_left = answers.count(None)
        assert n_left > N_CLIENTS // 10, "hardly anybody has left: the storm is none"
        assert n_left <= N_CLIENTS // 2
        names = ("running", "waiting")
        wait_until(
            lambda: all(figure(http, f"num_requests_{name}") == 0 for name in names),
            "requests still run",
        )
        assert figure(http, "requests_without_token") == 0
        assert figure(http, "kv_cells_reserved") == 0
        # What is remembered of prompts lies in cells that nobody uses.
        assert figure(http, "kv_cells_used") == figure(http, "kv_cells_reclaimable")

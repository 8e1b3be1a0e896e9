"""Each kind of model memory: what is cached changes no logit, under eviction, tiers and faults."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from recorded import RecordedEngine, assert_rows_are_those_of
from tiny_models import N_VOCAB, write

KINDS = ["plain", "sliding_window", "recurrent", "hybrid"]
N_OUTPUT = 8


def conversations() -> list[list[int]]:
    """Prompts with common beginnings: system prompts, conversations below each, turns of each."""
    rng = random.Random(5)

    def tokens(n: int) -> list[int]:
        return [rng.randrange(1, N_VOCAB) for _ in range(n)]

    prompts = []
    for _ in range(3):
        system = tokens(70)
        for _ in range(4):
            prompt = system + tokens(9)
            for _ in range(3):
                prompts.append(prompt)
                prompt = prompt + tokens(14)
    return prompts


class Run(RecordedEngine):
    """All prompts through one engine, in a fixed random order, each twice."""

    def __init__(self, path: Path, **options: Any) -> None:
        # Without a warm-up the costs are the defaults, by which restoring always pays.
        usual = {"max_len": 200, "n_threads": 1, "token_budget": 64, "warmup": False}
        super().__init__(path, **usual, **options)
        prompts = conversations()
        order = [*range(len(prompts)), *range(len(prompts))]
        random.Random(9).shuffle(order)
        prompt_of: dict[int, int] = {}
        for i, prompt in enumerate(order):
            prompt_of[self.submit(prompts[prompt], N_OUTPUT)] = prompt
            while i % 3 == 2 and i % 5 and self.step():
                pass
        self.finish()
        self.by_prompt = {(prompt_of[r], tuple(tokens)) for r, tokens in self.outputs.items()}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(kind, tmp_path_factory.mktemp(kind) / f"{kind}.gguf")


@pytest.fixture(scope="module")
def alone(path: Path) -> Run:
    return Run(path, n_ctx=200, max_seqs=1, prefix_cache=False)


@pytest.mark.parametrize("n_ctx", [4096, 900, 420])
def test_cached_logits_are_those_computed_whole(
    kind: str, path: Path, alone: Run, n_ctx: int
) -> None:
    run = Run(path, n_ctx=n_ctx, max_seqs=4, cache_ram_mib=1)
    assert run.info["memory_kind"] == kind
    shares_any = kind in {"plain", "sliding_window"}
    assert run.info["prefix_sharing"] == ("any_prefix" if shares_any else "snapshots")
    assert run.by_prompt == alone.by_prompt
    assert len(run.by_prompt) == len(conversations())
    assert_rows_are_those_of(run, alone)
    cache = run.metrics.cache
    share = 0.5 if shares_any else 0.75
    assert run.metrics.n_prefill_rows < share * alone.metrics.n_prefill_rows
    assert cache.hit_rate > 1 - share
    assert run.metrics.n_cells_reserved == run.metrics.n_no_room == run.metrics.n_failed == 0
    if n_ctx == 420:
        assert cache.n_evicted_for_cells > 0
        assert shares_any == (cache.n_from_ram > 0)


def test_a_call_of_several_ubatches_computes_the_same(path: Path, alone: Run) -> None:
    run = Run(path, n_ctx=420, max_seqs=4, cache_ram_mib=1, n_ubatch=16)
    assert run.by_prompt == alone.by_prompt
    assert_rows_are_those_of(run, alone)
    assert run.metrics.n_no_room == run.metrics.n_failed == run.metrics.n_invalid_batch == 0


def test_without_the_cache_nothing_is_shared(alone: Run) -> None:
    assert alone.info["prefix_sharing"] == "none"
    assert alone.metrics.cache.n_looked_up == alone.metrics.cache.n_holders == 0
    assert alone.metrics.n_prefill_rows == 2 * sum(map(len, conversations()))


@pytest.mark.parametrize("kind", ["plain", "sliding_window"], indirect=True)
def test_files_of_one_engine_serve_the_next(path: Path, alone: Run, tmp_path: Path) -> None:
    config = {"n_ctx": 420, "max_seqs": 4, "cache_ram_mib": 0, "cache_dir": str(tmp_path)}
    first = Run(path, **config)
    files = list(tmp_path.glob("*.llkv"))
    assert files
    second = Run(path, **config)
    for run in (first, second):
        assert run.by_prompt == alone.by_prompt
        assert_rows_are_those_of(run, alone)
    assert second.metrics.cache.n_from_disk > first.metrics.cache.n_from_disk > 0
    assert second.metrics.n_prefill_rows < first.metrics.n_prefill_rows / 2

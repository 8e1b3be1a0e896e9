"""llamaherd in process: batched, or one request at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from importlib.metadata import version

from llamaherd import BatchEngine, EngineConfig, LlamaHerdError, SamplingParams, Stream
from llamaherd.benchmark.contestants.contestant import ContestantConfig
from llamaherd.benchmark.load.measurements import RequestMeasurement
from llamaherd.benchmark.load.scenario import BenchmarkRequest


class LlamaherdContestant:
    """An engine with default options that runs all concurrent requests in one batch.

    Args:
      preset: Use max_seqs and all other options of this preset.
      one_at_a_time: Run requests one after another, without prefix cache.
    """

    def __init__(
        self, setup: ContestantConfig, *, preset: str | None = None, one_at_a_time: bool = False
    ) -> None:
        self.version = f"llamaherd {version('llamaherd')}"
        config = EngineConfig(n_threads=setup.n_threads, n_ctx=setup.n_ctx)
        if preset is not None:
            config = replace(config, preset=preset)
        else:
            config = replace(config, max_seqs=1 if one_at_a_time else setup.n_seqs)
        self._engine = BatchEngine(setup.model, config, progress=False)
        self._turn: contextlib.AbstractAsyncContextManager[None] = (
            asyncio.Lock() if one_at_a_time else contextlib.nullcontext()
        )
        self._cache = not one_at_a_time
        self._running: set[Stream] = set()

    async def ask(self, ask: BenchmarkRequest) -> RequestMeasurement:
        answered = RequestMeasurement(time.perf_counter())
        try:
            async with self._turn:
                await self._answer(ask, answered)
        except LlamaHerdError as error:
            answered.error = str(error)
        answered.ended_s = time.perf_counter()
        return answered

    async def _answer(self, ask: BenchmarkRequest, answered: RequestMeasurement) -> None:
        params = SamplingParams(temperature=0, max_tokens=ask.max_tokens, ignore_eos=True)
        tokens = self._engine.tokenize(ask.prompt)
        stream = self._engine.submit(tokens, params, cache=self._cache)
        answered.n_prompt = len(tokens)
        self._running.add(stream)
        answered.error = (await stream.aresult()).error
        self._running.remove(stream)
        # Token times of the engine; its clock is that of perf_counter().
        for delta in stream:
            answered.token_s += [1e-9 * delta.timing.last_ns] * len(delta.token_ids)
        answered.n_completion = len(answered.token_s)

    def sample(self) -> dict[str, float]:
        """KV cells in use now, and the cells these sequences would need without sharing. Since the
        engine was created: decode rows, their maximum, prompt tokens found in the cache and looked
        up."""
        metrics = self._engine.metrics().as_dict()
        cache = metrics["cache"]
        return {
            "n_cells": metrics["n_cells_used"] - cache["n_cells_reclaimable"],
            "n_cells_alone": sum(
                stream.usage.prompt_tokens + stream.usage.completion_tokens
                for stream in self._running
            ),
            "n_rows": metrics["n_decode_rows"],
            "n_rows_possible": metrics["n_decode_steps"] * metrics["n_seqs"],
            "n_found": cache["hit_rate"] * cache["n_looked_up"],
            "n_looked_up": cache["n_looked_up"],
        }

    def close(self) -> None:
        self._engine.close()

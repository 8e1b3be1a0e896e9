"""Replay of a workload on an engine, and its measurement."""

from __future__ import annotations

import itertools
import math
import os
import time
from dataclasses import dataclass, replace

from llamaherd._core import Delta, FinishReason, InvalidRequestError, LlamaHerdError
from llamaherd.config.params import EngineConfig, SamplingParams
from llamaherd.engine.batch_engine import BatchEngine
from llamaherd.engine.stream import Stream
from llamaherd.percentiles import percentile
from llamaherd.tuning.workload import Workload

_N_WARM_UP = 2  # requests


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Measurement of one run of a workload.

    Latencies count the most urgent priority class only.

    Attributes:
      n_requests: Finished requests.
      n_tokens: Their output tokens.
      n_cached: Their cached tokens.
      seconds: From the first submit to the last token.
      tokens_per_s: Output tokens per second.
      ttft_p50_ms, ttft_p99_ms: Time to first token.
      itl_p50_ms, itl_p99_ms: Inter-token latency; 0 if no request has two tokens.
    """

    n_requests: int
    n_tokens: int
    n_cached: int
    seconds: float
    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float


def replay(
    engine: BatchEngine, workload: Workload, *, limit_s: float = math.inf, seed: int = 0
) -> Measurement:
    """Submit each request at its arrival time, and wait for all.

    Args:
      engine: An idle engine. Its prefix cache is cleared first.
      workload: Each request generates exactly its number of output tokens.
      limit_s: Maximum seconds.
      seed: Seed of the prompts.

    Raises:
      TimeoutError: The limit was exceeded; all requests have been cancelled.
      LlamaHerdError: A request failed.
    """
    prompts = workload.prompts(engine.model_info()["n_vocab"], seed)
    engine.cache.clear()
    begin_s = time.monotonic()
    streams: list[Stream] = []
    try:
        for request, prompt in zip(workload.requests, prompts, strict=True):
            _wait_until(begin_s + min(request.arrival_s, limit_s))
            _require_time(begin_s, limit_s)
            params = SamplingParams(max_tokens=request.n_output, ignore_eos=True, temperature=0)
            tenant = "" if request.tenant is None else str(request.tenant)
            streams.append(engine.submit(prompt, params, priority=request.priority, tenant=tenant))
        for stream in streams:
            stream.result(_time_left(begin_s, limit_s))
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    return _measure(workload, [list(stream) for stream in streams])


class Replayer:
    """A new engine for one workload, warmed up with its first requests.

    Args:
      model: As for BatchEngine.
      config: Engine options; cache_dir is ignored.

    Raises:
      LlamaHerdError: The engine cannot be created, or the workload exceeds its limits.
    """

    def __init__(
        self, model: str | os.PathLike[str], config: EngineConfig, workload: Workload
    ) -> None:
        self._workload = workload
        self._engine = BatchEngine(model, replace(config, cache_dir=""), progress=False)
        try:
            self._warm_up()
        except BaseException:
            self.close()
            raise

    def run(self, limit_s: float = math.inf) -> Measurement:
        """Run the workload; see `replay()`."""
        return replay(self._engine, self._workload, limit_s=limit_s)

    def close(self) -> None:
        """Close the engine. Idempotent."""
        self._engine.close()

    def _warm_up(self) -> None:
        max_len = self._engine.model_info()["max_len"]
        if self._workload.max_len > max_len:
            raise InvalidRequestError(
                f"max_len must be >= the tokens of the longest request of the workload "
                f"({self._workload.max_len}); got {max_len}"
            )
        few = self._workload.first(_N_WARM_UP)
        at_once = tuple(replace(request, arrival_s=0.0) for request in few.requests)
        replay(self._engine, replace(few, requests=at_once))


def _wait_until(moment_s: float) -> None:
    while (left_s := moment_s - time.monotonic()) > 0:
        time.sleep(left_s)


def _time_left(begin_s: float, limit_s: float) -> float | None:
    return None if limit_s == math.inf else max(0.0, begin_s + limit_s - time.monotonic())


def _require_time(begin_s: float, limit_s: float) -> None:
    if time.monotonic() - begin_s > limit_s:
        raise TimeoutError(f"the workload took longer than {limit_s:.1f} s")


def _measure(workload: Workload, outputs: list[list[Delta]]) -> Measurement:
    last = [deltas[-1] for deltas in outputs]
    for delta in last:
        if delta.finish_reason is not FinishReason.LENGTH:
            raise LlamaHerdError(f"a request ended with {delta.finish_reason}: {delta.error}")
    n_tokens = sum(delta.n_completion for delta in last)
    begin_ns = min(delta.timing.submit_ns for delta in last)
    seconds = (max(delta.timing.last_ns for delta in last) - begin_ns) * 1e-9
    most_urgent = min(request.priority for request in workload.requests)
    ttfts: list[float] = []
    itls: list[float] = []
    for request, deltas in zip(workload.requests, outputs, strict=True):
        if request.priority == most_urgent:
            timing = deltas[-1].timing
            ttfts.append((timing.first_token_ns - timing.submit_ns) * 1e-6)
            itls += _gaps_ms(deltas)
    itls = itls or [0.0]
    return Measurement(
        n_requests=len(last),
        n_tokens=n_tokens,
        n_cached=sum(delta.n_cached for delta in last),
        seconds=seconds,
        tokens_per_s=n_tokens / seconds,
        ttft_p50_ms=percentile(ttfts, 50),
        ttft_p99_ms=percentile(ttfts, 99),
        itl_p50_ms=percentile(itls, 50),
        itl_p99_ms=percentile(itls, 99),
    )


def _gaps_ms(deltas: list[Delta]) -> list[float]:
    """Inter-token latencies of a request; tokens of one delta share the time since the last."""
    gaps: list[float] = []
    with_tokens = [delta for delta in deltas if delta.token_ids]
    for before, delta in itertools.pairwise(with_tokens):
        n = len(delta.token_ids)
        gaps += [(delta.timing.last_ns - before.timing.last_ns) * 1e-6 / n] * n
    return gaps

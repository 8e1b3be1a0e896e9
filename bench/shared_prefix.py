"""Gain of the prefix cache on the default model: 64 customers with one system prompt, and the first
request after a restart. README.md describes the measurements."""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from llamaherd import LLM, EngineConfig, SamplingParams
from llamaherd.models import DEFAULT_MODEL

N_PREFIX, N_QUESTION, N_OUTPUT, N_REQUESTS, N_AT_ONCE = 640, 24, 64, 64, 8


def some_tokens(n: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(1000, 40000) for _ in range(n)]


def make_llm(model: str, threads: int | None, **options: Any) -> LLM:
    config = EngineConfig(n_ctx=8192, max_seqs=N_AT_ONCE, n_threads=threads, **options)
    return LLM(model, config, progress=False)


def serve_customers(model: str, threads: int | None, *, cache: bool) -> tuple[float, int]:
    """Seconds for all requests, and computed rows."""
    prefix = some_tokens(N_PREFIX, seed=0)
    prompts = [prefix + some_tokens(N_QUESTION, seed=1 + i) for i in range(N_REQUESTS)]
    params = SamplingParams(temperature=0, max_tokens=N_OUTPUT, ignore_eos=True)
    with make_llm(model, threads, prefix_cache=cache) as llm:
        begin = time.perf_counter()
        llm.generate(prompts, params)
        seconds = time.perf_counter() - begin
        metrics = llm.engine.metrics()
    return seconds, metrics.n_prefill_rows + metrics.n_decode_rows


def first_token_s(model: str, threads: int | None, folder: Path | None) -> float:
    """TTFT in seconds of one request with the cached prefix on a new engine."""
    prompt = some_tokens(N_PREFIX, seed=0) + some_tokens(N_QUESTION, seed=99)
    options = {"cache_dir": str(folder)} if folder else {}
    with make_llm(model, threads, **options) as llm:
        stream = llm.engine.submit(prompt, SamplingParams(temperature=0, max_tokens=1))
        timing = stream.result().timing
    assert timing is not None
    return (timing.first_token_ns - timing.submit_ns) * 1e-9


def summary(values: list[float]) -> str:
    return f"median {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def compare_customers(model: str, threads: int | None, n_runs: int) -> None:
    off, on = [], []
    for _ in range(n_runs):
        seconds_off, rows_off = serve_customers(model, threads, cache=False)
        seconds_on, rows_on = serve_customers(model, threads, cache=True)
        off.append(seconds_off)
        on.append(seconds_on)
        print(
            f"customers: off {seconds_off:.1f} s, {rows_off} rows; on {seconds_on:.1f} s, "
            f"{rows_on} rows; {seconds_off / seconds_on:.2f} times",
            flush=True,
        )
    ratios = [a / b for a, b in zip(off, on, strict=True)]
    print(f"customers: off {summary(off)} s, on {summary(on)} s, ratio {summary(ratios)}")


def compare_restarts(model: str, threads: int | None, n_runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with make_llm(model, threads, cache_dir=str(folder)) as llm:
            llm.generate([some_tokens(N_PREFIX, seed=0)], SamplingParams(max_tokens=1))
        cold, warm = [], []
        for _ in range(n_runs):
            cold.append(1e3 * first_token_s(model, threads, None))
            warm.append(1e3 * first_token_s(model, threads, folder))
    ratios = [a / b for a, b in zip(cold, warm, strict=True)]
    print(
        f"restart: cold {summary(cold)} ms, from disk {summary(warm)} ms, ratio {summary(ratios)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--only", choices=["customers", "restart"])
    args = parser.parse_args()
    model, threads = args.model, args.threads

    if args.only != "restart":
        compare_customers(model, threads, args.runs)
    if args.only != "customers":
        compare_restarts(model, threads, args.runs)


if __name__ == "__main__":
    main()

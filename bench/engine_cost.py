"""Overhead of the engine: `LLM.generate` against the bare C++ loop, interleaved.

    python bench/engine_cost.py [--model NAME] [--runs 5] [--bare-loop BINARY]

Both decode the same rows in the same shapes on the same llama.cpp: 8 sequences of 128 prompt tokens
and 64 output tokens, greedy. Loading and one warm-up run of each are excluded. Also prints the time
per step outside llama.cpp and sampling, from the engine's counters. Run on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import time
from pathlib import Path

from llamaherd import LLM, EngineConfig, SamplingParams
from llamaherd.models import DEFAULT_MODEL, resolve

ROOT = Path(__file__).resolve().parents[1]


class BareLoop:
    """The C++ loop, loaded once; each `run` is one measurement."""

    def __init__(self, binary: Path, model: Path, args: argparse.Namespace) -> None:
        sizes = map(str, (args.seqs, args.prompt, args.new))
        self._process = subprocess.Popen(
            [str(binary), str(model), *sizes],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline())["tokens_per_s"])

    def close(self) -> None:
        self._process.communicate()


def engine(llm: LLM, prompts: list[list[int]], n_new: int) -> float:
    params = SamplingParams(temperature=0, max_tokens=n_new, ignore_eos=True)
    begin = time.perf_counter()
    results = llm.generate(prompts, params, progress=False, cache=False)
    seconds = time.perf_counter() - begin
    assert all(result.usage.completion_tokens == n_new for result in results)
    return len(prompts) * n_new / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seqs", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument(
        "--bare-loop", type=Path, default=ROOT / "build" / "bench" / "bench" / "cpp" / "bare_loop"
    )
    args = parser.parse_args()
    model = resolve(args.model)
    rng = random.Random(0)
    config = EngineConfig(
        max_seqs=args.seqs,
        token_budget=args.seqs * args.prompt,
        n_ctx=args.seqs * (args.prompt + args.new),
    )
    with LLM(model, config) as llm:
        prompts = [
            [rng.randrange(1000, 11000) for _ in range(args.prompt)] for _ in range(args.seqs)
        ]
        engine(llm, prompts, args.new)
        bare = BareLoop(args.bare_loop, model, args)
        bare.run()
        before = llm.engine.metrics().as_dict()
        ratios, engine_speeds, bare_speeds = [], [], []
        for run in range(args.runs):
            bare_speeds.append(bare.run())
            engine_speeds.append(engine(llm, prompts, args.new))
            ratios.append(engine_speeds[-1] / bare_speeds[-1])
            print(
                f"run {run + 1}: bare {bare_speeds[-1]:.1f}, engine {engine_speeds[-1]:.1f} "
                f"tokens/s, ratio {ratios[-1]:.3f}"
            )
        bare.close()
        after = llm.engine.metrics().as_dict()
    n_steps = after["n_steps"] - before["n_steps"]
    print(
        f"median: bare {statistics.median(bare_speeds):.1f}, engine "
        f"{statistics.median(engine_speeds):.1f} tokens/s, ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )
    for name in ("host", "sample", "decode"):
        spent_us = 1e-3 * (after[f"{name}_ns"] - before[f"{name}_ns"]) / n_steps
        print(f"{name} {spent_us:.1f} us per step, over {n_steps} steps")


if __name__ == "__main__":
    main()

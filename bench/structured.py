"""Cost of structured outputs: tokens per second of 8 sequences, unconstrained and constrained.

    python bench/structured.py [--model MODEL] [--threads N] [--runs 5] [--tokens 200]

Eight concurrent requests, private prompts of 64 tokens, temperature 1, --tokens output tokens;
measured from the time when all have their first token to the end of the first. Unconstrained ones
ignore end of text; the schemas cannot end sooner. Interleaved runs; medians, and medians of the
ratios per round. Run on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from engine_load import Prompts, add_options, collect
from llamaherd import BatchEngine, EngineConfig, SamplingParams

N_SEQS = 8
N_PROMPT = 64
WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india"]
RULES: dict[str, dict[str, Any]] = {
    "free": {"ignore_eos": True},
    "strings": {
        "json_schema": {
            "type": "object",
            "properties": {f"text{i}": {"type": "string", "minLength": 400} for i in range(20)},
            "required": [f"text{i}" for i in range(20)],
            "additionalProperties": False,
        }
    },
    "enums": {
        "json_schema": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"word": {"enum": WORDS}, "flag": {"type": "boolean"}},
                "required": ["word", "flag"],
                "additionalProperties": False,
            },
            "minItems": 200,
        }
    },
    "gbnf": {"grammar": 'root ::= ("[" [a-z]+ ", " [0-9]+ "]" "\\n"){200}'},
}


def speed(engine: BatchEngine, prompts: Prompts, rule: dict[str, Any], n_new: int) -> float:
    params = [SamplingParams(max_tokens=n_new, seed=i, **rule) for i in range(N_SEQS)]
    streams = [engine.submit(prompts.make(N_PROMPT), p, cache=False) for p in params]
    outputs = [collect(stream) for stream in streams]
    begin = max(output.token_ns[0] for output in outputs)
    end = min(output.token_ns[-1] for output in outputs)
    n = sum(begin < ns <= end for output in outputs for ns in output.token_ns)
    return n / (end - begin) * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--tokens", type=int, default=200)
    args = parser.parse_args()
    config = EngineConfig(n_threads=args.threads)
    speeds: dict[str, list[float]] = {name: [] for name in RULES}
    with BatchEngine(args.model, config, progress=False) as engine:
        prompts = Prompts(engine)
        for rule in RULES.values():
            speed(engine, prompts, rule, 20)
        for _ in range(args.runs):
            for name, rule in RULES.items():
                speeds[name].append(speed(engine, prompts, rule, args.tokens))
        metrics = engine.metrics()
    print("| output | tokens/s | ratio |\n| --- | --- | --- |")
    for name, some in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(some, speeds["free"], strict=True))
        print(f"| {name} | {statistics.median(some):.0f} | {ratio:.3f} |")
    print(f"\nwaits for masks: {metrics.n_mask_waits}, {metrics.mask_wait_ns / 1e6:.1f} ms")


if __name__ == "__main__":
    main()

"""Tokens per second with and without prompt lookup.

    python bench/lookup.py [--model MODEL] [--threads N] [--runs 5] [--text FILE]

One and eight concurrent sequences, greedy, 300 tokens each, with prompts to repeat a text word by
word, and to write new text. Measured from the time when all have their first token to the end of
the last. With and without in interleaved runs; medians, and medians of the ratios per round.
Outputs
are compared. Run on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from engine_load import add_options
from llamaherd import BatchEngine, EngineConfig, SamplingParams

ROOT = Path(__file__).resolve().parents[1]
N_NEW = 300
TOPICS = ["rivers", "bread", "winter", "trains", "bees", "maps", "clocks", "whales"]


def prompts_of(task: str, text: str) -> list[str]:
    if task == "repeat":
        return [f"Repeat the following text word by word:\n\n{text[7 * i :]}" for i in range(8)]
    return [f"Write a story about {topic}." for topic in TOPICS]


def run(engine: BatchEngine, prompts: list[str], lookup: bool) -> tuple[float, list[list[int]]]:
    """Tokens per second, and the outputs."""
    params = SamplingParams(temperature=0, max_tokens=N_NEW, ignore_eos=True, prompt_lookup=lookup)
    streams = [engine.submit([{"role": "user", "content": p}], params) for p in prompts]
    results = [stream.result() for stream in streams]
    timings = [result.timing for result in results if result.timing]
    begin = max(timing.first_token_ns for timing in timings)
    end = max(timing.last_ns for timing in timings)
    rate = len(prompts) * (N_NEW - 1) / (end - begin) * 1e9
    return rate, [result.token_ids for result in results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--text", type=Path, default=ROOT / "README.md")
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")[600:2200]
    print("| task | sequences | without, tokens/s | with | ratio | drafts accepted | outputs |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    config = EngineConfig(n_threads=args.threads, n_ctx=16384)
    with BatchEngine(args.model, config, progress=False) as engine:
        for task in ("repeat", "new"):
            for n in (1, 8):
                prompts = prompts_of(task, text)[:n]
                run(engine, prompts, False)
                before = engine.metrics()
                plain, drafting, same = [], [], True
                for _ in range(args.runs):
                    rate, expected = run(engine, prompts, False)
                    plain.append(rate)
                    rate, got = run(engine, prompts, True)
                    drafting.append(rate)
                    same &= got == expected
                after = engine.metrics()
                n_right = after.n_draft_accepted - before.n_draft_accepted
                ratio = statistics.median(b / a for a, b in zip(plain, drafting, strict=True))
                print(
                    f"| {task} | {n} | {statistics.median(plain):.0f}"
                    f" | {statistics.median(drafting):.0f} | {ratio:.3f}"
                    f" | {n_right} of {after.n_drafted - before.n_drafted}"
                    f" | {'equal' if same else 'differ'} |"
                )


if __name__ == "__main__":
    main()

"""Scoring continuations of a shared context, against recomputing the context for each.

    python bench/scoring.py GSM8K.jsonl [--questions 100] [--shots 5] [--model MODEL] [--threads N]

Each context is worked examples and a question, with four final answers: the right one and three
others. `score` takes all four together; `recomputed` submits each continuation as a private prompt,
up to max_seqs at a time. Prints seconds of one run each, rows computed, and the largest difference
of a continuation's log-probability. Run on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from pathlib import Path

from llamaherd import LLM, EngineConfig, SamplingParams
from llamaherd.models import DEFAULT_MODEL


def answer_of(item: dict[str, str]) -> str:
    return item["answer"].rpartition("####")[2].strip()


def context_of(shots: list[dict[str, str]], question: str) -> str:
    worked = "".join(
        f"Question: {s['question']}\nAnswer: {re.sub('<<.*?>>', '', s['answer'])}\n\n"
        for s in shots
    )
    return f"{worked}Question: {question}\nAnswer: ####"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    items = [json.loads(line) for line in args.data.read_text(encoding="utf-8").splitlines()]
    shots, asked = items[: args.shots], items[args.shots : args.shots + args.questions]
    rng = random.Random(1)
    contexts = [context_of(shots, item["question"]) for item in asked]
    answers = [
        [f" {answer_of(item)}", *(f" {rng.randint(1, 500)}" for _ in range(3))] for item in asked
    ]
    with LLM(args.model, EngineConfig(n_threads=args.threads), progress=False) as llm:
        engine = llm.engine
        rows = engine.metrics().n_prefill_rows
        begin = time.perf_counter()
        scores = llm.score(contexts, answers)
        shared_s = time.perf_counter() - begin
        shared_rows = engine.metrics().n_prefill_rows - rows

        prompts, params = [], []
        for context, some in zip(contexts, answers, strict=True):
            head = engine.tokenize(context)
            for answer in some:
                prompts.append(head + engine.tokenize(answer, add_special=False))
                params.append(
                    SamplingParams(max_tokens=0, prompt_logprobs=0, prompt_logprobs_from=len(head))
                )
        rows = engine.metrics().n_prefill_rows
        begin = time.perf_counter()
        anew = llm.generate(prompts, params, cache=False)
        anew_s = time.perf_counter() - begin
        anew_rows = engine.metrics().n_prefill_rows - rows
    flat = [score.logprob for some in scores for score in some]
    sums = [sum(token.logprob for token in result.prompt_logprobs) for result in anew]
    n_tokens = len(prompts[0])
    print(
        f"{len(asked)} questions of 4 answers, {args.shots} shots, {n_tokens} tokens in the first"
    )
    print("| | seconds | rows |\n| --- | --- | --- |")
    print(f"| score | {shared_s:.2f} | {shared_rows} |")
    print(f"| recomputed | {anew_s:.2f} | {anew_rows} |")
    print(f"\nratio {anew_s / shared_s:.1f}")
    worst = max(abs(a - b) for a, b in zip(flat, sums, strict=True))
    print(f"largest difference of a continuation's log-probability: {worst:.3f}")


if __name__ == "__main__":
    main()

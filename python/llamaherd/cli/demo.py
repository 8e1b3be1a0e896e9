"""``llamaherd demo``: the same questions one at a time and batched."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from llamaherd import LLM, FinishReason, RequestOutput, SamplingParams
from llamaherd.cli import options

QUESTIONS = [
    "What is the capital of Australia, and why is it not Sydney?",
    "Explain in two sentences why the sky is blue.",
    "Write a haiku about a herd of llamas.",
    "What is the difference between a list and a tuple in Python?",
    "How do I keep houseplants alive while I travel for two weeks?",
    "Name three uses of vinegar in the kitchen.",
    "What causes the seasons on Earth?",
    "Give me a short recipe for pancakes.",
    "Why do cats purr?",
    "Summarise the plot of Romeo and Juliet in three sentences.",
    "What should I check before buying a used bicycle?",
    "How does a vaccine protect the body?",
    "Translate 'good morning, how are you?' into Spanish.",
    "What is compound interest? Give a small example.",
    "Suggest three names for a coffee shop near a library.",
    "What does a CPU cache do?",
]


@dataclass(frozen=True)
class Pass:
    """One run over all questions."""

    results: list[RequestOutput]
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return sum(result.usage.completion_tokens for result in self.results) / self.seconds


@options.with_engine_options
def demo(
    model: options.Model = options.default_model,
    max_tokens: Annotated[int, typer.Option(help="Output tokens per question.")] = 64,
    rounds: Annotated[
        int, typer.Option(help="Rounds of both modes; results are medians.", min=1)
    ] = 1,
    *,
    engine: options.EngineOptions,
) -> None:
    """Run 16 questions one at a time, then batched; print outputs and throughput.

    The preset is high_throughput unless --preset or --config is given.
    """
    console = Console(highlight=False)
    config = engine.to_config(preset="high_throughput")
    params = SamplingParams(max_tokens=max_tokens, temperature=0)
    alone: list[Pass] = []
    batched: list[Pass] = []
    with LLM(model, config) as llm:
        prompts = [_prompt(llm, question) for question in QUESTIONS]
        for _ in range(rounds):
            alone.append(_one_at_a_time(llm, prompts, params, console))
            before = llm.engine.metrics().as_dict()
            batched.append(_batched(llm, prompts, params, console))
            after = llm.engine.metrics().as_dict()
    _print_answers(console, batched[-1])
    error = next((r.error for p in (*alone, *batched) for r in p.results if r.error), None)
    if error:
        print(f"llamaherd: no results because a request failed: {error}", file=sys.stderr)
        raise typer.Exit(1)
    _print_figures(console, _median(alone), _median(batched), _difference(before, after))


def _prompt(llm: LLM, question: str) -> str:
    """The question as a chat message if the model has a chat template, otherwise as plain text."""
    if not llm.engine.model_info()["has_chat_template"]:
        return question
    return llm.engine.apply_chat_template([{"role": "user", "content": question}]).text


# Both passes use cache=False: the second would hit the first one's prompts in the prefix cache.
def _one_at_a_time(llm: LLM, prompts: list[str], params: SamplingParams, console: Console) -> Pass:
    with console.status("one at a time ..."):
        begin = time.perf_counter()
        results = [
            llm.generate([prompt], params, progress=False, cache=False)[0] for prompt in prompts
        ]
        return Pass(results, time.perf_counter() - begin)


def _batched(llm: LLM, prompts: list[str], params: SamplingParams, console: Console) -> Pass:
    with console.status("batched ..."):
        begin = time.perf_counter()
        results = llm.generate(prompts, params, progress=False, cache=False)
        return Pass(results, time.perf_counter() - begin)


def _median(passes: list[Pass]) -> Pass:
    return sorted(passes, key=lambda p: p.tokens_per_s)[len(passes) // 2]


def _difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Increase of each counter during the last batched pass; gauges after it."""
    gauges = {"n_seqs", "n_cells", "n_cells_used_max"}
    return {
        key: value if key in gauges else value - before[key]
        for key, value in after.items()
        if key != "cache"
    }


def _print_answers(console: Console, batched: Pass) -> None:
    for question, result in zip(QUESTIONS, batched.results, strict=True):
        console.print(f"[bold]{question}[/bold]")
        text = result.text.strip() or f"({result.finish_reason.name}: {result.error})"
        console.print(
            text + ("" if result.finish_reason is FinishReason.STOP else " ..."), markup=False
        )
        console.print()


def _print_figures(
    console: Console, alone: Pass, batched: Pass, batched_metrics: dict[str, float]
) -> None:
    m = batched_metrics
    table = Table("", "one at a time", "batched")

    def row(name: str, value: str, batched_value: str) -> None:
        table.add_row(name, value, batched_value)

    row("seconds", f"{alone.seconds:.2f}", f"{batched.seconds:.2f}")
    row("tokens/s", f"{alone.tokens_per_s:.1f}", f"{batched.tokens_per_s:.1f}")
    console.print(table)
    console.print(f"ratio              {batched.tokens_per_s / alone.tokens_per_s:.2f}")
    per_token_ms = 1e-6 * m["decode_ns"] / max(1, m["n_decode_rows"])
    console.print(f"time per token     {per_token_ms:.2f} ms (decode time / tokens, batched)")
    utilisation = m["n_decode_rows"] / max(1, m["n_decode_calls"] * m["n_seqs"])
    console.print(f"batch utilisation  {100 * utilisation:.0f} % of {m['n_seqs']:.0f} sequences")
    console.print(
        f"KV cells           peak {m['n_cells_used_max']:.0f} of {m['n_cells']:.0f}; "
        f"{m['n_prefill_rows']:.0f} prompt tokens computed"
    )

"""Tokens per second by number of concurrent sequences; throughput must not fall with their number.

    python bench/widths.py FILE.gguf ... [--threads N] [--runs 5] [--most 32] [--out FOLDER]

For each number from 1 to 32: that many requests of 32 prompt tokens and 48 output tokens without
common prefix, on one engine with max_seqs=32. Only decoding is measured, from the time when all
have their first token to the end of the first, by the engine's timestamps. Each pass measures the
numbers in a new order, with reference runs of 8 sequences in between: a result is the median over
the passes of its ratio to the adjacent reference runs, times the median of the references, to
cancel drift of the machine's speed. Limit: 0.95 of the best smaller number.

Writes a table and a plot. Run on an idle machine.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from engine_load import Prompts, collect, greedy, verdict
from llamaherd import BatchEngine, EngineConfig
from llamaherd.models import DEFAULT_MODEL, resolve

ROOT = Path(__file__).resolve().parents[1]
N_PROMPT = 32
N_REFERENCE = 8
N_BETWEEN = 3
BAR = 0.95


@dataclass(frozen=True)
class Curve:
    """Results of one file; index 0 is one sequence."""

    name: str
    tokens_per_s: list[float]

    def to_best_smaller(self) -> list[float]:
        """Ratio to the best smaller number, from two sequences on."""
        ratios, best = [], self.tokens_per_s[0]
        for speed in self.tokens_per_s[1:]:
            ratios.append(speed / best)
            best = max(best, speed)
        return ratios

    def worst(self) -> tuple[int, float]:
        """Number of sequences with the lowest ratio, and the ratio."""
        ratios = self.to_best_smaller()
        return ratios.index(min(ratios)) + 2, min(ratios)


def decode_speed(engine: BatchEngine, prompts: Prompts, n_seqs: int, n_new: int) -> float:
    inputs = [prompts.make(N_PROMPT) for _ in range(n_seqs)]
    streams = [engine.submit(tokens, greedy(n_new), cache=False) for tokens in inputs]
    outputs = [collect(stream) for stream in streams]
    begin = max(output.timing.first_token_ns for output in outputs)
    end = min(output.timing.last_ns for output in outputs)
    if begin >= end:
        raise RuntimeError(f"{n_new} new tokens are too few for {n_seqs} sequences to run together")
    n_tokens = sum(begin < moment <= end for output in outputs for moment in output.token_ns)
    return n_tokens / (1e-9 * (end - begin))


def measure(path: Path, args: argparse.Namespace) -> Curve:
    config = EngineConfig(
        max_seqs=args.most, n_ctx=args.most * (N_PROMPT + args.new), n_threads=args.threads
    )
    numbers = list(range(1, args.most + 1))
    relative: dict[int, list[float]] = {n: [] for n in numbers}
    references: list[float] = []
    with BatchEngine(path, config) as engine:
        prompts = Prompts(engine)

        def refer() -> float:
            references.append(decode_speed(engine, prompts, N_REFERENCE, args.new))
            return references[-1]

        decode_speed(engine, prompts, args.most, args.new)
        for i in range(args.runs):
            random.Random(i).shuffle(numbers)
            before = refer()
            for first in range(0, len(numbers), N_BETWEEN):
                group = numbers[first : first + N_BETWEEN]
                speeds = [decode_speed(engine, prompts, n, args.new) for n in group]
                after = refer()
                for n, speed in zip(group, speeds, strict=True):
                    relative[n].append(2 * speed / (before + after))
                before = after
            print(f"{path.stem}: pass {i + 1} of {args.runs}", file=sys.stderr)
    usual = statistics.median(references)
    return Curve(path.stem, [usual * statistics.median(relative[n]) for n in sorted(relative)])


def table(curves: list[Curve]) -> str:
    titles = [text for c in curves for text in (f"{c.name}, tokens/s", "ratio to best smaller")]
    rows = [["sequences", *titles], ["---"] * (len(titles) + 1)]
    for i in range(len(curves[0].tokens_per_s)):
        row = [str(i + 1)]
        for curve in curves:
            ratio = f"{curve.to_best_smaller()[i - 1]:.3f}" if i > 0 else ""
            row += [f"{curve.tokens_per_s[i]:.1f}", ratio]
        rows.append(row)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def plot(curves: list[Curve], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "llamaherd", "font.size": 9}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.6, 3.6), layout="constrained")
    for curve in curves:
        numbers = range(1, len(curve.tokens_per_s) + 1)
        axes.plot(numbers, curve.tokens_per_s, "o-", ms=3, lw=1.2, label=curve.name)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="concurrent sequences", ylabel="output tokens/s, decoding")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[DEFAULT_MODEL], help="GGUF files")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--runs", type=int, default=5, help="passes over all numbers")
    parser.add_argument("--most", type=int, default=32, help="sequences, >= 2")
    parser.add_argument("--new", type=int, default=48, help="tokens each request generates")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    args = parser.parse_args()
    if args.most < 2:
        parser.error(f"--most must be >= 2; got {args.most}")
    curves = [measure(resolve(model), args) for model in args.models]
    args.out.mkdir(parents=True, exist_ok=True)
    text = (
        "# Tokens per second by number of concurrent sequences\n\nGenerated by `bench/widths.py`:"
        f" {N_PROMPT} prompt tokens, {args.new} new ones, medians of {args.runs} passes.\n\n"
        f"{table(curves)}"
    )
    (args.out / "widths.md").write_text(text)
    plot(curves, args.out / "widths.svg")
    print(text)
    for curve in curves:
        n, ratio = curve.worst()
        verdict(f"{curve.name}, worst at {n} sequences", ratio, least=BAR)


if __name__ == "__main__":
    main()

"""Texts per second of an embedding model: many texts per call against one.

    python bench/embeddings.py MODEL.gguf [--texts 1000] [--tokens 16] [--threads N] [--runs 5]

The same texts in packed calls and one per call, with ggml's kernels and with llamaherd's,
interleaved; medians. Loading is excluded. Run on an idle machine.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from llamaherd import Embedder, EngineConfig

WORDS = ["time", "person", "year", "way", "day", "thing", "man", "world", "life", "hand"]


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    rng = random.Random(1)
    # The model adds two tokens.
    texts = [" ".join(rng.choices(WORDS, k=args.tokens - 2)) for _ in range(args.texts)]
    embedders = {
        kernels: Embedder(
            args.model, EngineConfig(cpu_kernels=kernels, n_threads=args.threads), progress=False
        )
        for kernels in ("stock", "auto")
    }
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(args.runs):
        for kernels, embedder in embedders.items():

            def one_by_one(embedder: Embedder = embedder) -> None:
                for text in texts:
                    embedder.embed(text)

            for how, work in (
                ("one per call", one_by_one),
                ("packed", lambda embedder=embedder: embedder.embed(texts)),
            ):
                times.setdefault((kernels, how), []).append(seconds(work))
    print("| kernels | one per call, texts/s | packed, texts/s | ratio |")
    print("| --- | --- | --- | --- |")
    for kernels in embedders:
        single, packed = (
            statistics.median(times[kernels, how]) for how in ("one per call", "packed")
        )
        ratio = statistics.median(
            a / b
            for a, b in zip(times[kernels, "one per call"], times[kernels, "packed"], strict=True)
        )
        n = len(texts)
        print(f"| {kernels} | {n / single:.0f} | {n / packed:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

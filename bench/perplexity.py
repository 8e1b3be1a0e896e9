"""Perplexity of a text with ggml's CPU kernels and with llamaherd's.

    python bench/perplexity.py FILE.gguf ... [--tokens 20000]

The text is Python's built-in help. Independent windows of 512 tokens, of which the second halves
are
scored, computed 32 rows at a time. The result depends on model file and number of tokens, little on
the machine.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from llamaherd import EngineConfig, _core
from llamaherd.models import DEFAULT_MODEL, resolve

WINDOW = 512
N_ROWS = 32


def perplexity(path: Path, kernels: str, n_tokens: int) -> float:
    config = EngineConfig(max_seqs=N_ROWS, n_ctx=WINDOW, cpu_kernels=kernels)
    model = _core.BareModel(str(path), config._to_core())
    text = "\n".join(topics[name] for name in sorted(topics))
    tokens = model.tokenize(text[: 12 * n_tokens])[:n_tokens]
    losses: list[float] = []
    for begin in range(0, len(tokens) - WINDOW + 1, WINDOW):
        window = tokens[begin : begin + WINDOW]
        logits = model.logits(window, N_ROWS)[WINDOW // 2 : -1].astype(np.float64)
        most = logits.max(axis=1)
        log_sums = np.log(np.exp(logits - most[:, None]).sum(axis=1)) + most
        losses += list(log_sums - logits[range(len(logits)), window[WINDOW // 2 + 1 :]])
    return math.exp(float(np.mean(losses)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[DEFAULT_MODEL], help="GGUF files")
    parser.add_argument("--tokens", type=int, default=20000, help="tokens of text, >= 512")
    args = parser.parse_args()
    print("| model | ggml | llamaherd | change |\n| --- | --- | --- | --- |")
    for model in args.models:
        path = resolve(model)
        stock, ours = (perplexity(path, kernels, args.tokens) for kernels in ("stock", "auto"))
        change = 100 * (ours / stock - 1)
        print(f"| {path.stem} | {stock:.4f} | {ours:.4f} | {change:+.3f} % |", flush=True)


if __name__ == "__main__":
    main()

"""Made-up text, of words that are one token each behind a space in SmolLM2's vocabulary and in most
others of its size."""

from __future__ import annotations

import random

_TEXT = (
    "the old river runs past a small town where people sell bread and books every morning before"
    " rain comes over green hills and children walk home with wet shoes while their teacher reads"
    " letters from far away friends who promised to visit when summer days are long again"
)
WORDS = _TEXT.split()


def synthetic_text(rng: random.Random, n: int) -> str:
    """`n` words, drawn one by one."""
    return " ".join(rng.choice(WORDS) for _ in range(n))

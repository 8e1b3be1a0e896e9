"""Synthetic text. Each word, after a space, is one token of SmolLM2's vocabulary and of most others
of its size."""

from __future__ import annotations

import random

_TEXT = (
    "the old river runs past a small town where people sell bread and books every morning before"
    " rain comes over green hills and children walk home with wet shoes while their teacher reads"
    " letters from far away friends who promised to visit when summer days are long again"
)
WORDS = _TEXT.split()


def synthetic_text(rng: random.Random, n: int) -> str:
    """`n` random words."""
    return " ".join(rng.choice(WORDS) for _ in range(n))

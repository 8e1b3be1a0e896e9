"""Measurements of requests and their summary."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamaherd.percentiles import percentile

PERCENTILES = (50, 90, 99)


@dataclass
class RequestMeasurement:
    """Measurement of one request; times of time.perf_counter()."""

    asked_s: float
    token_s: list[float] = field(default_factory=list)  # arrival times of text
    ended_s: float = 0
    n_prompt: int = 0
    n_completion: int = 0
    error: str = ""


def summary(answers: Sequence[RequestMeasurement]) -> dict[str, Any]:
    """Summary of a load: seconds, tokens per second, and percentiles in milliseconds of time to
    first token (ttft), inter-token latency (itl), end-to-end latency (e2e), and time per output
    token after the first (tpot)."""
    good = [answer for answer in answers if not answer.error]
    figures: dict[str, Any] = {
        "n_requests": len(answers),
        "n_errors": len(answers) - len(good),
        "errors": sorted({answer.error for answer in answers if answer.error})[:5],
    }
    if not good:
        return figures
    seconds = max(a.ended_s for a in good) - min(a.asked_s for a in good)
    n_completion = sum(answer.n_completion for answer in good)
    figures |= {
        "seconds": seconds,
        "n_prompt_tokens": sum(answer.n_prompt for answer in good),
        "n_completion_tokens": n_completion,
        "tokens_per_s": n_completion / seconds,
        "requests_per_s": len(good) / seconds,
    }
    spoken = [answer for answer in good if answer.token_s]
    gaps = [
        b - a for answer in spoken for a, b in zip(answer.token_s, answer.token_s[1:], strict=False)
    ]
    per_token = [
        (a.token_s[-1] - a.token_s[0]) / (a.n_completion - 1) for a in spoken if a.n_completion > 1
    ]
    for name, values in (
        ("ttft_ms", [a.token_s[0] - a.asked_s for a in spoken]),
        ("itl_ms", gaps),
        ("tpot_ms", per_token),
        ("e2e_ms", [a.ended_s - a.asked_s for a in good]),
    ):
        figures[name] = percentiles(values)
    return figures


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Mean, percentiles and maximum in milliseconds of values in seconds; empty without values."""
    ms = [1e3 * value for value in values]
    if not ms:
        return {}
    ranks = {f"p{percent}": percentile(ms, percent) for percent in PERCENTILES}
    return {"mean": statistics.fmean(ms), **ranks, "max": max(ms)}

"""Statistics over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llamaherd.benchmark.contestants.servers import SERVERS

OWN = "llamaherd"
OWN_SERVER = "llamaherd-server"
PRESETS = ("low-latency", "balanced", "high-throughput")


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int) -> str:
        low, high = f"{self.least:,.{digits}f}", f"{self.most:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({low} to {high})"


def over_http(contestant: str) -> bool:
    return contestant in SERVERS


def own_of(contestant: str) -> str:
    """The llamaherd contestant to compare with: in-process engines with llamaherd, servers with
    llamaherd-server."""
    return OWN_SERVER if over_http(contestant) else OWN


def throughput(rounds: Sequence[dict[str, Any]]) -> Spread:
    """Output tokens per second."""
    return Spread.of([round_.get("tokens_per_s", 0.0) for round_ in rounds])


def latency(rounds: Sequence[dict[str, Any]], name: str, rank: str) -> float | None:
    """Median over the rounds, in ms, of a value of `measurements.summary()`; None: not measured."""
    values = [round_[name][rank] for round_ in rounds if round_.get(name)]
    return statistics.median(values) if values else None


def gain(run: dict[str, Any], contestant: str) -> Spread | None:
    """llamaherd's tokens per second divided by this contestant's, per round; None if either is
    missing."""
    ours = run["contestants"].get(own_of(contestant))
    theirs = run["contestants"].get(contestant)
    if ours is None or theirs is None:
        return None
    ratios = [
        a["tokens_per_s"] / b["tokens_per_s"]
        for a, b in zip(ours["rounds"], theirs["rounds"], strict=True)
        if a.get("tokens_per_s") and b.get("tokens_per_s")
    ]
    return Spread.of(ratios) if ratios else None


def n_errors(rounds: Sequence[dict[str, Any]]) -> int:
    return sum(round_["n_errors"] for round_ in rounds)
